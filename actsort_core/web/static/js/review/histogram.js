// @ts-check
/** A range of a number: a small histogram, two sliders upon it and two boxes for exact values. */

import { h } from "../dom.js";
import { newName } from "./dom.js";
import { number } from "./facts.js";
import { fitCanvas, onTheme, palette } from "./palette.js";

const BINS = 48;
const STEPS = 200;

/**
 * Bounds that a few extreme values do not stretch: the sliders' ends still mean "no bound".
 * @param {Float32Array} values
 * @returns {[number, number]}
 */
export function bounds(values) {
  const finite = values.filter((value) => Number.isFinite(value)).sort();
  if (!finite.length) return [0, 1];
  const at = (/** @type {number} */ q) => finite[Math.min(finite.length - 1, Math.max(0, Math.round(q * (finite.length - 1))))];
  const [low, high] = [at(0.005), at(0.995)];
  return low < high ? [low, high] : [finite[0], finite[finite.length - 1] > finite[0] ? finite[finite.length - 1] : finite[0] + 1];
}

export class RangeFilter {
  /**
   * @param {{title: string, unit: string, help: string, limits: [number, number], values: () => Float32Array | null, remove: (() => void) | null, change: (range: {low: number, high: number} | null) => void}} options
   */
  constructor(options) {
    this.options = options;
    this.least = options.limits[0];
    this.most = options.limits[1];
    this.low = -Infinity;
    this.high = Infinity;
    this.canvas = h("canvas", { class: "rv-histogram", "aria-hidden": "true" });
    const slider = (/** @type {string} */ which, /** @type {number} */ value) =>
      h("input", { type: "range", min: 0, max: STEPS, step: 1, value, "aria-label": `${options.title}: ${which}`, class: `rv-slider rv-${which}`, oninput: () => this.slid() });
    this.from = slider("lowest", 0);
    this.to = slider("highest", STEPS);
    const box = (/** @type {string} */ which) =>
      h("input", { type: "number", step: "any", class: "rv-number", placeholder: which, "aria-label": `${options.title}: ${which} value`, onchange: () => this.typed() });
    this.lowBox = box("lowest");
    this.highBox = box("highest");
    const name = newName("range");
    this.element = h(
      "div",
      { class: "rv-range", role: "group", "aria-labelledby": name },
      h(
        "div",
        { class: "rv-row" },
        h("span", { id: name, class: "rv-range-title", title: options.help }, options.title, options.unit ? h("span", { class: "rv-unit" }, ` ${options.unit}`) : null),
        options.remove
          ? h("button", { type: "button", class: "rv-icon", "aria-label": `Take ${options.title} out of the filters`, title: "Take it out", onclick: options.remove }, "×")
          : null,
      ),
      h("div", { class: "rv-plot" }, this.canvas, this.from, this.to),
      h("div", { class: "rv-row" }, this.lowBox, h("span", { class: "rv-muted" }, "to"), this.highBox),
    );
    this.sizes = new ResizeObserver(() => this.paint());
    this.sizes.observe(this.canvas);
    onTheme(() => this.paint());
    this.measure();
  }

  /** Counts the values anew. */
  measure() {
    this.bins = new Uint32Array(BINS);
    const values = this.options.values();
    if (!values) return this.paint();
    const scale = BINS / (this.most - this.least);
    for (let i = 0; i < values.length; i++) {
      const value = values[i];
      if (value >= this.least && value <= this.most) this.bins[Math.min(BINS - 1, Math.floor((value - this.least) * scale))] += 1;
    }
    this.paint();
  }

  /** @param {number} step */
  valueAt(step) {
    return this.least + ((this.most - this.least) * step) / STEPS;
  }

  slid() {
    const [a, b] = [Number(this.from.value), Number(this.to.value)];
    if (a > b) {
      // The slider that moves pushes the other before it.
      if (document.activeElement === this.from) this.to.value = this.from.value;
      else this.from.value = this.to.value;
    }
    const [low, high] = [Number(this.from.value), Number(this.to.value)];
    this.low = low === 0 ? -Infinity : this.valueAt(low);
    this.high = high === STEPS ? Infinity : this.valueAt(high);
    this.lowBox.value = low === 0 ? "" : number(this.low);
    this.highBox.value = high === STEPS ? "" : number(this.high);
    this.tell();
  }

  typed() {
    this.low = this.lowBox.value === "" ? -Infinity : Number(this.lowBox.value);
    this.high = this.highBox.value === "" ? Infinity : Number(this.highBox.value);
    const step = (/** @type {number} */ value) => String(Math.round(((value - this.least) / (this.most - this.least)) * STEPS));
    this.from.value = this.low === -Infinity ? "0" : step(this.low);
    this.to.value = this.high === Infinity ? String(STEPS) : step(this.high);
    this.tell();
  }

  reset() {
    this.low = -Infinity;
    this.high = Infinity;
    this.from.value = "0";
    this.to.value = String(STEPS);
    this.lowBox.value = this.highBox.value = "";
    this.paint();
  }

  tell() {
    this.paint();
    this.options.change(this.low === -Infinity && this.high === Infinity ? null : { low: this.low, high: this.high });
  }

  paint() {
    const [width, height] = [this.canvas.clientWidth, this.canvas.clientHeight];
    if (!width || !this.bins) return;
    const colours = palette();
    const context = fitCanvas(this.canvas, width, height);
    context.clearRect(0, 0, width, height);
    const peak = Math.sqrt(Math.max(1, ...this.bins));
    for (let i = 0; i < BINS; i++) {
      const middle = this.least + ((i + 0.5) * (this.most - this.least)) / BINS;
      const bar = (Math.sqrt(this.bins[i]) / peak) * (height - 2);
      context.fillStyle = middle >= this.low && middle <= this.high ? colours.accent : colours.line;
      context.fillRect((i * width) / BINS, height - bar, Math.max(1, width / BINS - 1), bar);
    }
  }
}
