// @ts-check
/** The colours of decisions: told apart by hue, lightness and, on the map, by the line round a footprint. */

/** @typedef {[number, number, number]} Rgb */
/** @typedef {import("./store.js").App} App */

/** Okabe and Ito's palette, the darker ones on white. @type {Record<"dark" | "light", Record<string, Rgb>>} */
export const PALETTE = {
  dark: {
    cell: [86, 180, 233],
    not_cell: [230, 159, 0],
    unsure: [204, 121, 167],
    none: [150, 158, 168],
    own: [240, 228, 66],
    missing: [90, 96, 104],
  },
  light: {
    cell: [0, 114, 178],
    not_cell: [213, 94, 0],
    unsure: [160, 70, 125],
    none: [110, 118, 128],
    own: [0, 130, 100],
    missing: [170, 176, 184],
  },
};

/** Dark blue over grey to yellow (after cividis): light means much, also for the colour-blind. @type {Rgb[]} */
const SCALE = [
  [0, 34, 78],
  [33, 62, 110],
  [76, 85, 108],
  [108, 110, 114],
  [142, 136, 119],
  [181, 165, 109],
  [222, 196, 84],
  [254, 232, 56],
];

/** @type {Uint32Array | null} */
let ramp = null;

/** 256 colours of the scale, packed. */
export function scale() {
  if (ramp) return ramp;
  ramp = new Uint32Array(256);
  for (let i = 0; i < 256; i += 1) {
    const at = (i / 255) * (SCALE.length - 1);
    const k = Math.min(SCALE.length - 2, Math.floor(at));
    const f = at - k;
    const [r, g, b] = [0, 1, 2].map((c) => Math.round(SCALE[k][c] * (1 - f) + SCALE[k + 1][c] * f));
    ramp[i] = packed([r, g, b]);
  }
  return ramp;
}

/** As in the memory of an image: red first. @param {Rgb} rgb */
export function packed([r, g, b]) {
  return ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
}

/** @param {number} colour packed */
export function css(colour) {
  return `rgb(${colour & 255} ${(colour >>> 8) & 255} ${(colour >>> 16) & 255})`;
}

/** @returns {"dark" | "light"} */
export function theme() {
  return document.documentElement.dataset.theme === "light" ? "light" : "dark";
}

/** How a footprint is drawn besides its colour. */
export const STYLE = { filled: 0, dashed: 1, dotted: 2, plain: 3 };
/** Added to a style where a person said so. */
export const SAID = 4;

/**
 * What is known of one candidate: cell, not_cell, unsure, or nothing yet; in blind mode only what a person said.
 * @param {App} app
 * @param {number} pos
 * @returns {"cell" | "not_cell" | "unsure" | "none"}
 */
export function decisionOf(app, pos) {
  const { state, info } = app;
  const label = state.label[pos];
  if (label) {
    const kind = info.classes[label - 1]?.kind;
    return kind === "cell" || kind === "not_cell" ? kind : "unsure";
  }
  if (app.blind || state.origin[pos] === 0) return "none";
  return state.accepted[pos] ? "cell" : "not_cell";
}

/**
 * Fills `colours` and `styles` for the candidates from `start` on: one pass, no strings, for the map's full repaint.
 * @param {App} app
 * @param {number} start
 * @param {Uint32Array} colours
 * @param {Uint8Array} styles
 * @param {number} [only] one candidate (counted from `start`) instead of all
 */
export function paint(app, start, colours, styles, only) {
  const from = only ?? 0;
  const to = only === undefined ? colours.length : only + 1;
  const one = painter(app, "dark"); // pictures are dark in both themes
  for (let i = from; i < to; i += 1) {
    colours[i] = one(start + i);
    const decision = decisionOf(app, start + i);
    const style = decision === "cell" ? STYLE.filled : decision === "not_cell" ? STYLE.dashed : decision === "unsure" ? STYLE.dotted : STYLE.plain;
    styles[i] = app.state.label[start + i] ? style + SAID : style;
  }
}

/**
 * The colour of a candidate (packed) under the chosen colouring.
 * @param {App} app
 * @param {"dark" | "light"} [on] which palette
 * @returns {(pos: number) => number}
 */
export function painter(app, on = theme()) {
  const { state, info } = app;
  const colours = Object.fromEntries(Object.entries(PALETTE[on]).map(([name, rgb]) => [name, packed(rgb)]));
  const steps = scale();
  const kind = app.colouring.kind;
  if (kind === "decision") return (pos) => colours[decisionOf(app, pos)];
  if (kind === "confidence") {
    return (pos) => {
      const p = state.probability[pos];
      if (app.blind && !state.label[pos]) return colours.missing;
      return Number.isNaN(p) ? colours.missing : steps[Math.round(255 * Math.abs(2 * p - 1))];
    };
  }
  if (kind === "origin") {
    const origins = [colours.none, colours.unsure, colours.cell, colours.not_cell];
    return (pos) => (app.blind && state.origin[pos] !== 3 ? colours.none : origins[state.origin[pos]]);
  }
  if (kind === "label") {
    return (pos) => {
      const label = state.label[pos];
      if (!label) return colours.missing;
      const one = info.classes[label - 1];
      return one?.own ? colours.own : colours[one?.name] ?? colours.unsure;
    };
  }
  if (kind === "prior") {
    return (pos) => (app.blind ? colours.missing : [colours.not_cell, colours.missing, colours.cell][state.prior[pos] + 1]);
  }
  const feature = app.featureNow;
  if (!feature || app.conceals(feature.name)) return () => colours.missing;
  const { values, low, high } = feature;
  return (pos) => {
    const v = values[pos];
    return Number.isNaN(v) ? colours.missing : steps[Math.max(0, Math.min(255, Math.round((255 * (v - low)) / (high - low || 1))))];
  };
}
