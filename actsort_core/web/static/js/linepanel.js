// @ts-check
/** The panel of quality: counts, what more labels would bring, and the slider that moves the line on trial. */

import { at, drawCurve, interval, percent, SERIES } from "./chart.js";
import { h, put } from "./dom.js";
import { button } from "./review/dom.js";
import { onTheme } from "./review/palette.js";

/** @typedef {import("./store.js").App} App */
/** @typedef {import("./chart.js").Curve} Curve */
/** @typedef {import("./quality.js").Answer} Answer */

/** @type {[string, string, string][]} */
const RULES = [
  ["pi", "Balanced", "Where the score equals the estimated share of cells: the best balance of both kinds of error"],
  ["favour-precision", "Favour precision", "Higher: half as many others among what is kept, at most 5 %; some cells are lost"],
  ["favour-recall", "Favour recall", "Lower: half as many cells are lost, at most 5 %; more others are kept"],
  ["match-labels", "Match my labels", "Where decisions agree best with your own labels"],
  ["app", "0.50, as the app", "A probability of one half, as in the ActSort app"],
  ["paper", "0.65, as the paper", "A probability of .65, as in the paper about ActSort"],
];

export class LinePanel {
  /**
   * @param {App} app
   * @param {import("./preview.js").Preview} preview
   * @param {{close: () => void, fetch: () => Promise<void>}} deeds
   */
  constructor(app, preview, deeds) {
    this.app = app;
    this.preview = preview;
    this.deeds = deeds;
    /** @type {Answer | null} */
    this.answer = null;
    /** @type {Curve | null} */
    this.curve = null;
    this.t = 0.5;
    this.touched = false;
    this.moving = false;
    this.busy = false;
    this.canvas = h("canvas", { class: "q-chart", role: "img", "aria-label": "Balanced accuracy, precision and recall by the place of the line" });
    this.slider = h("input", { type: "range", id: "threshold-slider", "aria-label": "Place of the line", "aria-describedby": "threshold-now" });
    Object.assign(this.slider, { min: "0", max: "1", step: "0.005" });
    this.slider.addEventListener("input", () => this.slide(Number(this.slider.value)));
    this.rows = SERIES.map(({ title }, i) => {
      const value = h("td", { class: "q-number" });
      const band = h("td", { class: "q-band" });
      const now = h("td", { class: "q-band" });
      const row = h("tr", {}, h("th", { scope: "row" }, h("span", { class: `q-key q-key${i}` }), title), value, band, now);
      return { value, band, now, row };
    });
    this.readout = h("p", { id: "threshold-now", role: "status" });
    this.keepButton = button("Keep this line", () => this.post(this.t), { class: "main", id: "threshold-keep" });
    this.letGo = button("As it was", () => this.release(), { id: "threshold-release" });
    this.rules = RULES.map(([value, title, help]) => ({ value, button: button(title, () => this.post(value), { class: "rv-small", title: help, "data-rule": value, "aria-pressed": "false" }) }));
    this.counts = h("table", { class: "q-counts" }, h("caption", { class: "rv-unseen" }, "Candidates by decision and by who decided"));
    this.gain = h("p", {});
    this.why = h("p", { class: "q-why" });
    this.notes = h("ul", { class: "q-notes" });
    this.stopText = h("p", { class: "q-enough", role: "status", hidden: true });
    this.chartPart = h(
      "div",
      { class: "q-line" },
      this.canvas,
      h("div", { class: "q-slide" }, this.slider),
      this.readout,
      h("table", { class: "q-read" }, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Estimated"), h("th", { scope: "col" }, "at the slider"), h("th", { scope: "col" }, "90 % interval"), h("th", { scope: "col" }, "as it is"))), h("tbody", {}, ...this.rows.map((one) => one.row))),
      h("div", { class: "rv-row q-rules", role: "group", "aria-label": "Rules for the line" }, ...this.rules.map((one) => one.button)),
      h("div", { class: "rv-row rv-end" }, this.letGo, this.keepButton),
    );
    this.element = h(
      "div",
      { class: "q-panel", id: "quality-panel", role: "dialog", "aria-label": "Quality and line", hidden: true, tabindex: -1 },
      h("div", { class: "rv-row q-title" }, h("h2", { class: "rv-h" }, "How good is the sorting now?"), button("×", () => deeds.close(), { class: "bare", "aria-label": "Close", title: "Close (esc)" })),
      this.stopText,
      this.why,
      this.gain,
      this.counts,
      this.chartPart,
      this.notes,
    );
    // Before the page's own keys: what is open is closed first, wherever the keyboard is.
    document.addEventListener(
      "keydown",
      (event) => {
        if (event.key !== "Escape" || !this.open || document.querySelector("dialog[open]")) return;
        deeds.close();
        event.stopPropagation();
      },
      { capture: true },
    );
    document.body.append(this.element);
    new ResizeObserver(() => this.draw()).observe(this.canvas);
    this.keepButton.disabled = app.watch;
    for (const one of this.rules) one.button.disabled = app.watch;
    onTheme(() => this.draw());
  }

  get open() {
    return !this.element.hidden;
  }

  /**
   * @param {Answer | null} answer
   * @param {Curve | null} curve null: as it was
   * @param {string} whyNot
   */
  show(answer, curve, whyNot) {
    this.answer = answer;
    if (curve) {
      this.curve = curve;
      if (!this.touched) this.place(curve.threshold ?? 0.5);
    }
    this.showPanel(whyNot);
  }

  /** @param {string | null} why it may be time to stop */
  showStop(why) {
    put(this.stopText, why ? `You may stop: ${why}` : "");
    this.stopText.hidden = !why;
  }

  showCounts() {
    const { undecided, cell, not } = this.preview.table();
    const sum = (/** @type {Uint32Array} */ of) => of.reduce((a, b) => a + b, 0);
    const number = (/** @type {number} */ value) => h("td", {}, value.toLocaleString("en"));
    const row = (/** @type {string} */ title, /** @type {string} */ name, /** @type {Uint32Array} */ of) => h("tr", {}, h("th", { scope: "row", class: name }, title), number(sum(of)), number(of[3]), number(of[2]), number(of[1]));
    const head = h("tr", {}, ...["Decision", "all", "by a person", "by the model", "by the toolkit"].map((text) => h("th", { scope: "col" }, text)));
    this.counts.replaceChildren(
      /** @type {Node} */ (this.counts.caption),
      h("thead", {}, head),
      h("tbody", {}, row("Cells", "cell", cell), row("Not cells", "not_cell", not), h("tr", {}, h("th", { scope: "row" }, "Undecided"), number(undecided), h("td"), h("td"), h("td"))),
    );
    this.counts.hidden = this.app.blind;
  }

  /** @param {string} whyNot */
  showPanel(whyNot) {
    if (!this.open) return;
    const { answer, curve } = this;
    this.showCounts();
    const quality = answer?.quality ?? null;
    put(this.why, quality ? "" : whyNot);
    this.why.hidden = Boolean(quality);
    const seconds = answer?.seconds_per_label ?? null;
    const pace = seconds === null ? "" : ` A label takes you ${seconds.toFixed(1)} s (median of the last 20)`;
    if (quality) {
      const { gain, more } = quality;
      const takes = seconds === null ? "" : `; ${more} take about ${duration(seconds * more)}.`;
      put(this.gain, `${more} more labels would bring about ${(100 * gain.value).toFixed(1)} points of balanced accuracy (${(100 * gain.low).toFixed(1)} to ${(100 * gain.high).toFixed(1)}).${pace}${takes}`);
    } else put(this.gain, pace ? `${pace.trim()}.` : "");
    this.notes.replaceChildren(...(quality?.notes ?? []).map((note) => h("li", {}, note)));
    this.notes.hidden = !quality?.notes.length;
    this.chartPart.hidden = !curve?.known;
    const rule = this.app.state.rule;
    for (const { value, button: one } of this.rules) {
      const number = value === "app" ? 0.5 : value === "paper" ? 0.65 : null;
      one.setAttribute("aria-pressed", String(rule === value || (value === "pi" && (rule === null || rule === "")) || (number !== null && Number(rule) === number && rule !== null && String(rule) !== "")));
    }
    this.draw();
  }

  /** @param {number} t */
  place(t) {
    this.t = t;
    this.slider.value = String(t);
  }

  /** @param {number} t */
  slide(t) {
    this.t = t;
    this.touched = true;
    this.draw();
    // One repainting of everything for each frame is enough.
    if (this.moving) return;
    this.moving = true;
    requestAnimationFrame(() => {
      this.moving = false;
      this.preview.set(this.t);
      this.draw();
    });
  }

  draw() {
    const { curve, t } = this;
    if (!this.open || !curve?.known) return;
    drawCurve(this.canvas, curve, t, curve.threshold);
    SERIES.forEach(({ name }, i) => {
      const [value, low, high] = at(curve[name], curve.probability, t);
      put(this.rows[i].value, percent(value));
      put(this.rows[i].band, interval({ low, high }));
      const now = this.answer?.quality?.[name];
      put(this.rows[i].now, now ? percent(now.value) : "");
    });
    if (this.busy) return;
    const cells = this.preview.cells(this.touched ? t : null);
    const was = this.touched && curve.threshold !== null ? ` (the line is at ${curve.threshold.toFixed(3)} now)` : "";
    put(this.readout, `Line at ${t.toFixed(3)}: ${cells.toLocaleString("en")} cells of ${this.app.info.n_cells.toLocaleString("en")}${was}.`);
    this.slider.setAttribute("aria-valuetext", `${t.toFixed(3)}: ${cells} cells`);
    this.keepButton.disabled = !this.touched || this.app.watch;
    this.letGo.disabled = !this.touched;
  }

  /** As it was before the slider was moved. */
  release() {
    if (this.preview.at !== null) this.preview.set(null);
    this.touched = false;
    if (this.curve) this.place(this.curve.threshold ?? 0.5);
    this.draw();
  }

  /** @param {number | string} value */
  async post(value) {
    const { app } = this;
    if (this.busy) return;
    this.setBusy(true);
    put(this.readout, "Moving the line…");
    try {
      const { thresholds } = await app.api.post("api/threshold", { annotator: app.annotator, value });
      this.preview.set(null);
      this.touched = false;
      const lines = thresholds.filter((/** @type {number | null} */ line) => line !== null).map((/** @type {number} */ line) => line.toFixed(3));
      app.say(`The line is at ${[...new Set(lines)].join(", ") || "the place you chose"} now.`, { kind: "info", hint: "" });
      await app.refresh(true);
      this.setBusy(false);
      this.showPanel("");
      await this.deeds.fetch();
    } catch (error) {
      app.complain(error);
    }
    this.setBusy(false);
    this.showPanel("");
  }

  /** @param {boolean} busy */
  setBusy(busy) {
    this.busy = busy;
    this.element.setAttribute("aria-busy", String(busy));
    for (const { button: one } of this.rules) one.setAttribute("aria-disabled", String(busy || this.app.watch));
    this.keepButton.disabled = busy || !this.touched || this.app.watch;
  }
}

/** @param {number} seconds */
function duration(seconds) {
  if (seconds < 90) return `${Math.round(seconds / 5) * 5} seconds`;
  return `${Math.round(seconds / 60)} minutes`;
}
