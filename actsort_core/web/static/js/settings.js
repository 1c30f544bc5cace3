// @ts-check
/** What a person chose about the page, kept in this browser; one object for all sessions. */

const KEY = "actsort:settings";

/**
 * @typedef {object} Values
 * @property {"system" | "dark" | "light"} theme
 * @property {"both" | "left" | "right"} layout which hand's keys
 * @property {Record<string, string[]>} keys own keys by action, instead of the table's
 * @property {string} image of the field of view
 * @property {string} crop background of the zoomed footprint
 * @property {number} dark
 * @property {number} bright
 * @property {number} opacity
 * @property {boolean} outlines
 * @property {boolean} hideCells
 * @property {boolean} hideNots
 * @property {boolean} follow
 * @property {number} fps of the snippets
 * @property {boolean} playing
 * @property {boolean} large one event instead of all side by side
 * @property {boolean} neighbours
 * @property {boolean} blind
 */

/** @type {Values} */
export const DEFAULTS = {
  theme: "system",
  layout: "both",
  keys: {},
  image: "mean",
  crop: "mean",
  dark: 0,
  bright: 1,
  opacity: 0.75,
  outlines: true,
  hideCells: false,
  hideNots: false,
  follow: true,
  fps: 10,
  playing: true,
  large: false,
  neighbours: true,
  blind: false,
};

/** @returns {Values} */
export function readSettings() {
  try {
    return { ...DEFAULTS, ...JSON.parse(localStorage.getItem(KEY) ?? "{}") };
  } catch {
    return { ...DEFAULTS };
  }
}

/** @param {Values} values */
export function keepSettings(values) {
  try {
    /** @type {Record<string, unknown>} */
    const changed = {};
    for (const [name, value] of Object.entries(values)) {
      if (value !== /** @type {any} */ (DEFAULTS)[name]) changed[name] = value;
    }
    localStorage.setItem(KEY, JSON.stringify(changed));
  } catch {
    // private windows may refuse: the settings then last as long as the page
  }
}

/** @param {Values["theme"]} theme */
export function showTheme(theme) {
  const dark = theme === "dark" || (theme === "system" && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.dataset.theme = dark ? "dark" : "light";
}
