// @ts-check
/** Colours of the stylesheet for what is drawn on canvas; read once for each theme. */

/**
 * @typedef {object} Palette
 * @property {string} cell
 * @property {string} notCell
 * @property {string} undecided
 * @property {string} unsure
 * @property {string} surface
 * @property {string} raised
 * @property {string} line
 * @property {string} text
 * @property {string} muted
 * @property {string} accent
 * @property {string} onAccent
 * @property {string} flag
 * @property {string} focus
 * @property {string[]} series distinct for all kinds of colour vision, for traces side by side
 */

/** @type {Palette | null} */
let known = null;
/** @type {Set<() => void>} */
const watchers = new Set();

const NAMES = /** @type {const} */ ([
  ["cell", "--rv-cell"],
  ["notCell", "--rv-not-cell"],
  ["undecided", "--rv-undecided"],
  ["unsure", "--rv-unsure"],
  ["surface", "--rv-surface"],
  ["raised", "--rv-raised"],
  ["line", "--rv-line"],
  ["text", "--rv-text"],
  ["muted", "--rv-muted"],
  ["accent", "--rv-accent"],
  ["onAccent", "--rv-on-accent"],
  ["flag", "--rv-flag"],
  ["focus", "--focus"],
]);

/** @returns {Palette} */
export function palette() {
  if (known) return known;
  const style = getComputedStyle(document.documentElement);
  /** @type {Record<string, any>} */
  const out = {};
  for (const [name, variable] of NAMES) out[name] = style.getPropertyValue(variable).trim() || "#888";
  out.series = [0, 1, 2, 3, 4, 5].map((k) => style.getPropertyValue(`--s${k}`).trim());
  known = /** @type {Palette} */ (out);
  return known;
}

/**
 * @param {() => void} then called after the theme changed
 */
export function onTheme(then) {
  watchers.add(then);
}

new MutationObserver(() => {
  known = null;
  for (const then of watchers) then();
}).observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });

/**
 * A canvas as large as its element, in device pixels, its context scaled to CSS pixels.
 * @param {HTMLCanvasElement} canvas
 * @param {number} width CSS pixels
 * @param {number} height
 * @returns {CanvasRenderingContext2D}
 */
export function fitCanvas(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  const [w, h] = [Math.max(1, Math.round(width * ratio)), Math.max(1, Math.round(height * ratio))];
  if (canvas.width !== w || canvas.height !== h) {
    canvas.width = w;
    canvas.height = h;
  }
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  return context;
}
