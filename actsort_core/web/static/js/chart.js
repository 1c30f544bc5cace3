// @ts-check
/** The three curves over the place of the line, each with its 90 % band. */

import { font, rootSize } from "./dom.js";
import { fitCanvas, palette } from "./review/palette.js";

/** @typedef {[number, number, number]} Stated value, low, high */
/**
 * @typedef {object} Curve
 * @property {boolean} known
 * @property {string | null} why
 * @property {number[]} probability
 * @property {Stated[]} balanced_accuracy
 * @property {Stated[]} precision
 * @property {Stated[]} recall
 * @property {number | null} threshold
 * @property {number | string | null} rule
 */

/** Told apart by colour, lightness and dashes. */
export const SERIES = /** @type {const} */ ([
  { name: "balanced_accuracy", title: "Balanced accuracy", dash: [], width: 2.5 },
  { name: "precision", title: "Precision", dash: [7, 3], width: 2 },
  { name: "recall", title: "Recall", dash: [2, 3], width: 2 },
]);

/**
 * @param {Stated[]} values
 * @param {number[]} probability ascending
 * @param {number} t
 * @returns {Stated}
 */
export function at(values, probability, t) {
  let k = 0;
  while (k < probability.length - 2 && probability[k + 1] < t) k += 1;
  const share = Math.max(0, Math.min(1, (t - probability[k]) / Math.max(1e-9, probability[k + 1] - probability[k])));
  const [a, b] = [values[k], values[Math.min(k + 1, values.length - 1)]];
  return /** @type {Stated} */ ([0, 1, 2].map((i) => a[i] + share * (b[i] - a[i])));
}

/** @param {number} value */
export function percent(value) {
  const points = 100 * value;
  return `${points >= 99.95 ? "100" : points.toFixed(1)} %`;
}

/** @param {{low: number, high: number}} stated */
export function interval({ low, high }) {
  return `${percent(low).replace(" %", "")} – ${percent(high)}`;
}

/**
 * @param {HTMLCanvasElement} canvas
 * @param {Curve | null} curve
 * @param {number} t where the slider is
 * @param {number | null} kept where the line is now
 */
export function drawCurve(canvas, curve, t, kept) {
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  if (!width || !height) return;
  const colours = palette();
  const lines = [colours.text, colours.cell, colours.notCell];
  const context = fitCanvas(canvas, width, height);
  context.clearRect(0, 0, width, height);
  const em = rootSize() * 0.85;
  const [left, right, top, bottom] = [3.6 * em, width - 0.8 * em, 0.7 * em, height - 3 * em];
  const x = (/** @type {number} */ p) => left + p * (right - left);
  const y = (/** @type {number} */ value) => bottom - value * (bottom - top);
  context.font = font(0.8);
  context.fillStyle = colours.muted;
  context.strokeStyle = colours.line;
  context.lineWidth = 1;
  context.textBaseline = "middle";
  for (let value = 0; value <= 1.001; value += 0.2) {
    context.textAlign = "right";
    context.fillText(`${Math.round(100 * value)} %`, left - 0.5 * em, y(value));
    line(context, left, y(value), right, y(value));
    context.textAlign = "center";
    context.fillText(value.toFixed(1), x(value), bottom + 0.9 * em);
  }
  context.fillText("probability from which on a candidate counts as a cell", (left + right) / 2, bottom + 2.3 * em);
  if (!curve?.known) return;
  const { probability } = curve;
  SERIES.forEach(({ name }, s) => {
    context.fillStyle = lines[s];
    context.globalAlpha = 0.16;
    context.beginPath();
    curve[name].forEach((row, i) => context.lineTo(x(probability[i]), y(row[2])));
    for (let i = probability.length - 1; i >= 0; i--) context.lineTo(x(probability[i]), y(curve[name][i][1]));
    context.fill();
  });
  context.globalAlpha = 1;
  SERIES.forEach(({ name, dash, width: thickness }, s) => {
    context.strokeStyle = lines[s];
    context.lineWidth = thickness;
    context.setLineDash([...dash]);
    context.beginPath();
    curve[name].forEach((row, i) => context.lineTo(x(probability[i]), y(row[0])));
    context.stroke();
  });
  context.setLineDash([]);
  if (kept !== null) {
    context.strokeStyle = colours.muted;
    context.lineWidth = 1;
    context.setLineDash([3, 3]);
    line(context, x(kept), top, x(kept), bottom);
    context.setLineDash([]);
  }
  context.strokeStyle = colours.accent;
  context.lineWidth = 2;
  line(context, x(t), top, x(t), bottom);
  SERIES.forEach(({ name }, s) => {
    context.fillStyle = lines[s];
    context.strokeStyle = colours.surface;
    context.lineWidth = 1.5;
    context.beginPath();
    context.arc(x(t), y(at(curve[name], probability, t)[0]), 0.4 * em, 0, 7);
    context.fill();
    context.stroke();
  });
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {number} x0
 * @param {number} y0
 * @param {number} x1
 * @param {number} y1
 */
function line(context, x0, y0, x1, y1) {
  context.beginPath();
  context.moveTo(x0, y0);
  context.lineTo(x1, y1);
  context.stroke();
}
