// @ts-check
/** What is known of the candidate in focus: a larger picture, its trace, what was decided, its features. */

import { h, put } from "../dom.js";
import { button } from "./dom.js";
import { className, DECISIONS, number, ORIGINS, shownUnit } from "./facts.js";
import { fitCanvas, onTheme, palette } from "./palette.js";
import { drawSpark, thumbsOf } from "./thumbs.js";

/** @typedef {import("./review.js").Desk} Desk */

const LARGE = 128;
const AT_ONCE = 6;

export class Details {
  /** @param {Desk} desk */
  constructor(desk) {
    this.desk = desk;
    this.thumbs = thumbsOf(desk.app, LARGE);
    this.thumbs.watch("details", () => this.paint());
    this.title = h("h2", { class: "rv-h" });
    this.picture = h("canvas", { class: "rv-picture", role: "img", "aria-label": "Footprint over the mean image" });
    this.trace = h("canvas", { class: "rv-trace", role: "img", "aria-label": "Whole trace" });
    this.facts = h("dl", { class: "rv-facts" });
    this.table = h("table", { class: "rv-features" }, h("caption", { class: "rv-unseen" }, "Features of the candidate in focus"));
    this.progress = h("p", { class: "rv-muted" });
    this.more = h("details", { class: "rv-more" }, h("summary", {}, "Features"), this.progress, this.table);
    this.more.addEventListener("toggle", () => this.fillFeatures());
    this.open = button("Open", () => desk.focus >= 0 && desk.open(desk.focus, desk.model.order), { class: "rv-button rv-small", id: "review-open-focus", title: "Look at it closely; page up and down walk through this list (enter)" });
    this.element = h(
      "aside",
      { class: "rv-details", "aria-label": "Details", tabindex: 0 },
      h("div", { class: "rv-row" }, this.title, this.open),
      this.picture,
      this.trace,
      this.facts,
      this.more,
    );
    this.pos = -1;
    this.shown = "";
    /** The trace: values, or pairs of lowest and highest. @type {{values: Float32Array, pairs: boolean} | null} */
    this.whole = null;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.timer = undefined;
    onTheme(() => this.paint());
  }

  /** The candidate in focus may be another. */
  show() {
    const { desk } = this;
    const { focus, app, facts } = desk;
    if (!desk.detailed) return;
    this.open.disabled = focus < 0;
    if (focus < 0) return put(this.title, "Nothing in focus");
    if (focus !== this.pos) {
      this.pos = focus;
      put(this.title, `Candidate ${facts.name(focus)}`);
      this.thumbs.want("details", [focus]);
      clearTimeout(this.timer);
      // While the arrow keys are held down nothing is fetched for what is passed.
      this.timer = setTimeout(() => {
        this.fillFeatures();
        this.fetchTrace();
      }, 150);
      this.whole = null;
    }
    this.refresh();
    this.paint();
    void app;
  }

  /** What may change while it stays in focus. */
  refresh() {
    const { desk, pos } = this;
    const { facts, app } = desk;
    const state = facts.state;
    if (!desk.detailed || pos < 0 || !state) return;
    /** @type {[string, string][]} */
    const rows = [];
    if (!app.blind || state.label[pos]) rows.push(["Decision", DECISIONS[facts.decision(pos)]]);
    if (!app.blind) {
      rows.push(["Decided by", ORIGINS[state.origin[pos]]]);
      const p = state.probability[pos];
      const line = facts.line(pos);
      rows.push(["Probability", Number.isFinite(p) ? `${p.toFixed(3)}${Number.isFinite(line) ? ` (line at ${line.toFixed(3)})` : ""}` : "no model yet"]);
    }
    const label = state.label[pos];
    rows.push(["Label", label ? `${className(app.info.classes[label - 1].name)}, by ${facts.whoName(pos)}` : "none"]);
    const votes = desk.model.extra.votes.get(pos);
    if (votes) rows.push(["People", Object.entries(votes).map(([who, value]) => `${who}: ${className(value).toLowerCase()}`).join(", ")]);
    if (!app.blind) {
      const prior = facts.priorName(pos) || "none";
      const p = state.priorProbability[pos];
      rows.push(["Toolkit", Number.isFinite(p) ? `${prior} (${p.toFixed(2)})` : prior]);
    }
    if (state.flagged[pos]) rows.push(["Flag", "flagged"]);
    const text = JSON.stringify(rows);
    if (text === this.shown) return;
    this.shown = text;
    this.facts.replaceChildren(...rows.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
  }

  paint() {
    const { pos, picture, trace } = this;
    if (pos < 0 || !picture.clientWidth) return;
    const colours = palette();
    const size = picture.clientWidth;
    const context = fitCanvas(picture, size, size);
    context.fillStyle = colours.line;
    context.fillRect(0, 0, size, size);
    const thumb = this.thumbs.get(pos) ?? this.desk.thumbs.get(pos);
    const below = fitCanvas(trace, trace.clientWidth, trace.clientHeight);
    below.clearRect(0, 0, trace.clientWidth, trace.clientHeight);
    if (!thumb) return;
    context.imageSmoothingEnabled = true;
    context.drawImage(thumb.atlas, thumb.x, thumb.y, thumb.size, thumb.size, 0, 0, size, size);
    if (this.whole) drawWhole(below, this.whole, trace.clientWidth, trace.clientHeight, colours.text);
    else drawSpark(below, thumb.trace, 1, 2, trace.clientWidth - 2, trace.clientHeight - 4, colours.text);
    picture.setAttribute("aria-label", `Footprint of ${this.desk.facts.sentence(pos)}`);
  }

  async fetchTrace() {
    const { pos } = this;
    try {
      const { header, arrays } = await this.desk.app.api.pack(`api/trace/${pos}`, { bins: 300 });
      if (pos !== this.pos) return;
      this.whole = { values: arrays.trace, pairs: header.arrays.trace.shape.length === 2 };
      this.paint();
    } catch {
      // the small one stays
    }
  }

  /** Features, with where each value lies among all candidates; fetched when they are looked at. */
  async fillFeatures() {
    if (!this.more.open || this.pos < 0 || !this.desk.detailed) return;
    const { app } = this.desk;
    const features = app.info.features.filter(({ name }) => !app.conceals(name));
    const missing = features.filter(({ name }) => !this.desk.model.extra.features.has(name));
    for (let i = 0; i < missing.length; i += AT_ONCE) {
      put(this.progress, `Reading ${i} of ${missing.length} features...`);
      const found = await Promise.all(missing.slice(i, i + AT_ONCE).map(({ name }) => this.desk.feature(name)));
      if (found.includes(null)) break;
    }
    put(this.progress, "");
    const pos = this.pos;
    let group = "";
    const rows = features.flatMap(({ name, unit, description }) => {
      const [first, ...rest] = name.split(".");
      const heading = rest.length && first !== group ? [h("tr", {}, h("th", { colspan: 3, scope: "rowgroup", class: "rv-feature-group" }, first))] : [];
      group = first;
      const values = this.desk.model.extra.features.get(name);
      const value = values ? values[pos] : NaN;
      let below = 0;
      let known = 0;
      if (values) {
        for (let i = 0; i < values.length; i++) {
          if (values[i] === values[i]) known += 1;
          if (values[i] < value) below += 1;
        }
      }
      const share = known ? Math.round((100 * below) / known) : 0;
      const meter = Number.isFinite(value)
        ? h("meter", { min: 0, max: 100, value: share, title: `higher than ${share} % of all candidates`, "aria-label": `${name}: higher than ${share} % of all candidates` })
        : null;
      const row = h(
        "tr",
        { title: description },
        h("th", { scope: "row" }, (rest.join(".") || first).replaceAll("_", " ")),
        h("td", { class: "rv-right" }, Number.isFinite(value) ? number(value) : "–", shownUnit(unit) ? h("span", { class: "rv-unit" }, ` ${unit}`) : null),
        h("td", {}, meter),
      );
      return [...heading, row];
    });
    this.table.replaceChildren(/** @type {Node} */ (this.table.caption), h("tbody", {}, ...rows));
  }
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {{values: Float32Array, pairs: boolean}} trace
 * @param {number} width
 * @param {number} height
 * @param {string} colour
 */
function drawWhole(context, { values, pairs }, width, height, colour) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  const y = (/** @type {number} */ value) => 2 + (height - 4) * (1 - (value - low) / (high - low || 1));
  const n = pairs ? values.length / 2 : values.length;
  const x = (/** @type {number} */ i) => (i * width) / Math.max(1, n - 1);
  context.strokeStyle = context.fillStyle = colour;
  context.lineWidth = 1;
  context.beginPath();
  if (pairs) {
    for (let i = 0; i < n; i++) context.lineTo(x(i), y(values[2 * i + 1]));
    for (let i = n - 1; i >= 0; i--) context.lineTo(x(i), y(values[2 * i]));
    context.closePath();
    context.fill();
  } else for (let i = 0; i < n; i++) context.lineTo(x(i), y(values[i]));
  context.stroke();
}
