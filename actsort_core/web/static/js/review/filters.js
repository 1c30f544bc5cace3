// @ts-check
/** The column of filters: one choice of chips for each property, ranges of numbers, and what is left. */

import { h, put } from "../dom.js";
import { button, giveKeysBack } from "./dom.js";
import { className, DECISIONS, ORIGINS, shownUnit } from "./facts.js";
import { bounds, RangeFilter } from "./histogram.js";

/** @typedef {import("./review.js").Desk} Desk */
/** @typedef {import("./model.js").FacetName} FacetName */

export class Filters {
  /** @param {Desk} desk */
  constructor(desk) {
    this.desk = desk;
    const { facts, app } = desk;
    /** @type {{facet: FacetName, code: number, chip: HTMLButtonElement, count: HTMLElement}[]} */
    this.chips = [];
    /** @type {Map<string, RangeFilter>} */
    this.ranges = new Map();
    /** @type {HTMLElement[]} groups that tell what model and toolkit think */
    this.opinions = [];
    const classes = app.info.classes.map(({ name }, i) => /** @type {[number, string]} */ ([i + 1, className(name)]));
    this.reset = button("Clear all filters", () => this.clear(), { class: "rv-button rv-small", id: "review-clear-filters" });
    const jump = h("input", { type: "text", id: "review-jump", class: "rv-text", placeholder: facts.recordings.length > 1 ? `${facts.recordings[0].key}:37` : "37", autocomplete: "off", size: 9 });
    const form = h(
      "form",
      {
        class: "rv-jump",
        onsubmit: (/** @type {Event} */ event) => {
          event.preventDefault();
          jump.select(); // takes the keyboard, which the jump then gives to the gallery
          desk.jump(jump.value);
        },
      },
      h("label", { for: "review-jump" }, "Jump to"),
      jump,
      h("button", { type: "submit", class: "rv-button rv-small" }, "Go"),
    );
    this.rangesHost = h("div", { class: "rv-ranges" });
    this.list = h("select", { id: "review-add-range", class: "rv-select" });
    this.picker = this.makePicker();
    this.element = h(
      "aside",
      { class: "rv-filters", "aria-label": "Filters" },
      form,
      h("div", { class: "rv-row" }, h("h2", { class: "rv-h" }, "Filters"), this.reset),
      facts.recordings.length > 1 ? this.group("Recording", "recording", facts.recordings.map((r, i) => [i, r.key])) : null,
      this.opinion(this.group("Decision", "decision", [[1, DECISIONS[1]], [0, DECISIONS[0]], [2, DECISIONS[2]]])),
      this.opinion(this.group("Decided by", "origin", [[3, ORIGINS[3]], [2, ORIGINS[2]], [1, ORIGINS[1]], [0, ORIGINS[0]]])),
      this.group("Label", "label", [...classes, [0, "No label"]]),
      this.opinion(this.group("Toolkit's verdict", "prior", [[0, "Accepted"], [1, "Rejected"], [2, "None"]])),
      this.group("Flag", "flagged", [[1, "Flagged"], [0, "Not flagged"]]),
      this.rangesHost,
      this.picker,
    );
    giveKeysBack(this.element);
    this.addRange("", "Probability", "", "Of being a cell, by the model", [0, 1], () => facts.state?.probability ?? null, false);
    this.show();
  }

  /** @param {HTMLElement} element */
  opinion(element) {
    this.opinions.push(element);
    return element;
  }

  /**
   * @param {string} title
   * @param {FacetName} facet
   * @param {[number, string][]} codes
   */
  group(title, facet, codes) {
    const chips = codes.map(([code, text]) => {
      const count = h("span", { class: "rv-count" });
      const chip = h(
        "button",
        { type: "button", class: "rv-chip", "aria-pressed": "false", "data-filter": `${facet}:${code}`, onclick: () => this.toggle(facet, code) },
        h("span", {}, text),
        count,
      );
      this.chips.push({ facet, code, chip, count });
      return chip;
    });
    return h("fieldset", { class: "rv-group" }, h("legend", {}, title), h("div", { class: "rv-chips" }, ...chips));
  }

  /**
   * @param {FacetName} facet
   * @param {number} code
   */
  toggle(facet, code) {
    const chosen = this.desk.model.chosen[facet];
    if (!chosen.delete(code)) chosen.add(code);
    this.desk.refresh();
  }

  makePicker() {
    const { features } = this.desk.app.info;
    const { list } = this;
    list.addEventListener("change", () => {
      const name = list.value;
      list.value = "";
      if (name) this.addFeature(name);
    });
    list.append(
      h("option", { value: "" }, "Add a feature..."),
      ...[...features].sort((a, b) => a.name.localeCompare(b.name)).map(({ name, unit }) => h("option", { value: name }, name.replaceAll("_", " ") + (shownUnit(unit) ? ` (${unit})` : ""))),
    );
    return h("div", { class: "rv-picker" }, h("label", { for: "review-add-range" }, "Range of a feature"), list);
  }

  /** @param {string} name */
  async addFeature(name) {
    if (this.ranges.has(name)) return;
    const info = this.desk.app.info.features.find((feature) => feature.name === name);
    const values = await this.desk.feature(name);
    if (!values || this.ranges.has(name)) return;
    this.addRange(name, name.replaceAll("_", " "), shownUnit(info?.unit ?? ""), info?.description ?? "", bounds(values), () => values, true);
  }

  /**
   * @param {string} name
   * @param {string} title
   * @param {string} unit
   * @param {string} help
   * @param {[number, number]} limits
   * @param {() => Float32Array | null} values
   * @param {boolean} removable
   */
  addRange(name, title, unit, help, limits, values, removable) {
    const range = new RangeFilter({
      title,
      unit,
      help,
      limits,
      values,
      remove: removable
        ? () => {
            this.ranges.get(name)?.element.remove();
            this.ranges.delete(name);
            this.desk.model.ranges.delete(name);
            this.desk.refresh();
          }
        : null,
      change: (chosen) => {
        if (chosen) this.desk.model.ranges.set(name, chosen);
        else this.desk.model.ranges.delete(name);
        this.desk.refreshSoon();
      },
    });
    this.ranges.set(name, range);
    this.rangesHost.append(range.element);
    if (name === "") this.opinion(range.element);
  }

  clear() {
    this.desk.model.clear();
    for (const range of this.ranges.values()) range.reset();
    this.desk.refresh();
  }

  /** Counts and choices, after the model was updated. */
  show() {
    const { model, app } = this.desk;
    for (const { facet, code, chip, count } of this.chips) {
      const n = model.counts[facet][code];
      put(count, n.toLocaleString("en"));
      const pressed = model.chosen[facet].has(code);
      chip.setAttribute("aria-pressed", String(pressed));
      chip.classList.toggle("rv-none", n === 0 && !pressed);
    }
    for (const element of this.opinions) element.hidden = app.blind;
    for (const [name, { element }] of this.ranges) if (name) element.hidden = app.conceals(name);
    app.concealOptions(this.list);
    const probability = this.ranges.get("")?.element;
    if (probability) probability.hidden = app.blind || !app.state.fitted_on;
    this.reset.disabled = !model.filtered;
  }

  /** After a fit: the probability is spread anew. */
  measure() {
    this.ranges.get("")?.measure();
  }
}
