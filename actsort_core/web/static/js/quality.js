// @ts-check
/** How good the sorting is and what to do next: read-outs in the header, which open the panel. */

import { percent } from "./chart.js";
import { h, put } from "./dom.js";
import { LinePanel } from "./linepanel.js";
import { Preview } from "./preview.js";
import { later } from "./review/dom.js";

/** @typedef {import("./store.js").App} App */
/** @typedef {import("./chart.js").Curve} Curve */
/** @typedef {{value: number, low: number, high: number}} Estimate */
/**
 * @typedef {object} Quality
 * @property {Estimate} balanced_accuracy
 * @property {Estimate} precision
 * @property {Estimate} recall
 * @property {Estimate} share
 * @property {Estimate} gain
 * @property {number} more
 * @property {string[]} notes
 */
/** @typedef {{known: boolean, why: string | null, quality: Quality | null, seconds_per_label: number | null, counts: Record<string, number>}} Answer */

const EVERY = 2500; // ms between two requests
const WHILE_BUSY = 6000; // and while labels follow each other quickly
const PATIENCE = 12000; // ms without an answer while it is learning
const ENOUGH = 3; // labels of a kind before there is a model

/**
 * Whole points where they tell enough.
 * @param {Estimate} stated
 */
function brief({ low, high }) {
  const digits = high - low < 0.05 ? 1 : 0;
  return `${(100 * low).toFixed(digits)}–${(100 * high).toFixed(digits)} %`;
}

export class QualityView {
  /**
   * @param {HTMLElement} slot
   * @param {App} app
   */
  constructor(slot, app) {
    this.app = app;
    this.preview = new Preview(app);
    this.panel = new LinePanel(app, this.preview, { close: () => this.toggle(false), fetch: () => this.fetch() });
    /** @type {Answer | null} */
    this.answer = null;
    this.asking = false;
    this.again = false;
    this.askedFor = "";
    this.askedAt = 0;
    const part = (/** @type {string} */ name, /** @type {string} */ title) => {
      const value = h("strong", {}, "–");
      const small = h("small", {}, title);
      return { value, small, element: h("span", { class: `q-part q-${name}` }, value, small) };
    };
    this.bar = h("span", { class: "q-fill" });
    this.parts = {
      progress: part("progress", "of all"),
      accuracy: part("accuracy", "balanced accuracy"),
      precision: part("precision", "precision"),
      recall: part("recall", "recall"),
      gain: part("gain", "by 50 labels"),
      cells: part("cells", "cells"),
      time: part("time", "a label"),
    };
    const { progress, ...rest } = this.parts;
    progress.element.append(h("span", { class: "q-bar" }, this.bar));
    this.missing = h("span", { class: "q-missing" }, "");
    this.stop = h("span", { class: "q-stop", hidden: true }, "You may stop");
    this.opener = h(
      "button",
      { type: "button", class: "q-open", id: "quality-open", "aria-expanded": "false", "aria-controls": "quality-panel", title: "How good the sorting is now, and where the line is", onclick: () => this.toggle() },
      progress.element,
      this.missing,
      ...Object.values(rest).map((one) => one.element),
      this.stop,
    );
    slot.append(h("div", { class: "q-slot" }, this.opener));
    this.fetchSoon = later(() => this.fetch(), EVERY);
    this.countSoon = later(() => this.count(), 400);
    const changed = () => {
      this.countSoon();
      if (this.worthAsking()) this.fetchSoon();
      this.showStop();
    };
    for (const name of ["state", "pulse", "count"]) app.addEventListener(name, changed);
    app.addEventListener("settings", () => this.show());
    setTimeout(() => this.fetch(), 600); // the first candidate comes first
    this.show();
    this.count();
  }

  /** Something changed, and the server is not busy learning; if it always is, now and then all the same. */
  worthAsking() {
    if (this.signature() === this.askedFor) return false;
    if (this.app.busy && performance.now() - this.askedAt < WHILE_BUSY) return false;
    return !this.app.pulse?.fitting || performance.now() - this.askedAt > PATIENCE;
  }

  /** What the estimate rests on. */
  signature() {
    const { state, pulse } = this.app;
    return `${pulse?.labels ?? state.labels} ${pulse?.fitted_on ?? state.fitted_on} ${state.rule} ${state.thresholds.join(" ")}`;
  }

  /** Why there is no estimate yet, in as few words as fit. */
  whyNot() {
    const { state, info } = this.app;
    const n = [0, 0];
    for (const label of state.label) {
      const kind = label ? info.classes[label - 1].kind : "";
      if (kind === "cell") n[0] += 1;
      if (kind === "not_cell") n[1] += 1;
    }
    if (state.fitted_on || (n[0] >= ENOUGH && n[1] >= ENOUGH)) return this.answer && !this.answer.known ? (this.answer.why ?? "") : "The model is learning…";
    return `${ENOUGH} cells and ${ENOUGH} others are needed for a model: ${n[0]} and ${n[1]} so far`;
  }

  count() {
    const { app, parts } = this;
    const n = app.info.n_cells;
    put(parts.progress.value, `${app.labels.toLocaleString("en")} / ${n.toLocaleString("en")}`);
    put(parts.progress.small, n ? `${((100 * app.labels) / n).toFixed(app.labels / n < 0.1 ? 1 : 0)} % labelled` : "");
    this.bar.style.width = `${Math.min(100, (100 * app.labels) / Math.max(1, n))}%`;
    put(parts.cells.value, app.blind ? "–" : this.preview.cells(null).toLocaleString("en"));
    if (!this.answer?.known) put(this.missing, this.whyNot());
    if (this.panel.open) this.panel.showPanel(this.answer?.known ? "" : this.whyNot());
  }

  show() {
    const { answer, parts, app } = this;
    const known = Boolean(answer?.known && answer.quality);
    this.missing.hidden = known;
    if (!known) put(this.missing, this.whyNot());
    for (const name of /** @type {const} */ (["accuracy", "precision", "recall", "gain", "cells"])) parts[name].element.hidden = !known;
    const seconds = answer?.seconds_per_label ?? null;
    parts.time.element.hidden = seconds === null;
    if (seconds !== null) put(parts.time.value, `${seconds.toFixed(1)} s`);
    if (known && answer?.quality) {
      const { balanced_accuracy: accuracy, precision, recall, gain, more } = answer.quality;
      for (const [part, stated, title] of /** @type {const} */ ([[parts.accuracy, accuracy, "accuracy"], [parts.precision, precision, "precision"], [parts.recall, recall, "recall"]])) {
        put(part.value, percent(stated.value));
        put(part.small, `${title} ${brief(stated)}`);
      }
      put(parts.gain.value, `+${(100 * gain.value).toFixed(1)} points`);
      put(parts.gain.small, `by ${more} labels`);
    }
    put(parts.cells.value, app.blind ? "–" : this.preview.cells(null).toLocaleString("en"));
    this.opener.setAttribute("aria-label", `Quality and line. ${[...this.opener.querySelectorAll(".q-part, .q-missing, .q-stop")].filter((e) => !(/** @type {HTMLElement} */ (e).hidden)).map((e) => e.textContent?.replace(/(\d|%)([a-z])/g, "$1 $2")).join("; ")}`);
    this.panel.show(answer, null, known ? "" : this.whyNot());
  }

  showStop() {
    const why = this.app.pulse?.stop ?? null;
    if (this.stop.hidden !== !why) this.stop.hidden = !why;
    if (why) this.stop.title = why;
    this.panel.showStop(why);
  }

  async fetch() {
    if (this.asking) {
      this.again = true;
      return;
    }
    this.asking = true;
    this.again = false;
    this.askedAt = performance.now();
    const signature = this.signature();
    try {
      const wanted = this.panel.open;
      const [answer, curve] = await Promise.all([this.app.api.json("api/quality"), wanted ? this.app.api.json("api/curve") : null]);
      this.answer = answer;
      this.askedFor = signature;
      if (curve) this.panel.show(answer, curve, "");
      this.show();
    } catch {
      // said elsewhere when the server is gone; asked again with the next change
    } finally {
      this.asking = false;
    }
    if (this.again) await this.fetch();
    else if (this.worthAsking()) this.fetchSoon();
  }

  /** @param {boolean} [on] */
  toggle(on = !this.panel.open) {
    const { element } = this.panel;
    element.hidden = !on;
    this.opener.setAttribute("aria-expanded", String(on));
    if (on) {
      this.show();
      element.focus({ preventScroll: true });
      this.fetch();
    } else {
      this.panel.release();
      this.opener.focus({ preventScroll: true });
    }
  }
}

/**
 * @param {HTMLElement} slot
 * @param {App} app
 * @returns {QualityView}
 */
export function mountQuality(slot, app) {
  const view = new QualityView(slot, app);
  // For what else wants to show a line on trial.
  Object.assign(app, { previewThreshold: (/** @type {number | null} */ t) => view.preview.set(t) });
  return view;
}
