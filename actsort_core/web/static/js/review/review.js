// @ts-check
/** The review view: all candidates as a gallery, a table or in groups of duplicates, filtered, sorted, selected and decided. */

import { h } from "../dom.js";
import { ask, counted, later } from "./dom.js";
import { Details } from "./details.js";
import { Duplicates } from "./duplicates.js";
import { Facts } from "./facts.js";
import { Filters } from "./filters.js";
import { Gallery } from "./gallery.js";
import { keepKept, readKept } from "./kept.js";
import { ReviewModel } from "./model.js";
import { SelectionBar } from "./selectionbar.js";
import { SORTS } from "./sorts.js";
import { Split } from "./split.js";
import { Table } from "./table.js";
import { thumbsOf } from "./thumbs.js";
import { Toolbar } from "./toolbar.js";

/** @typedef {import("../store.js").App} App */
/** @typedef {"gallery" | "table" | "duplicates"} Mode */
/** @typedef {{show: (order: Uint32Array) => void, reveal: (pos: number) => void, takeFocus: () => void, close: () => void, redraw: () => void, keyed?: (event: KeyboardEvent) => void}} Shower */

const MANY_CHANGED = 20; // people's labels that may be changed without asking
const MANY = 200; // labels given at once without asking
const MOST = 5000; // labels given at once: as many as the browser surely keeps until the server has them
const LISTED = 5000; // candidates of a list that is walked through: it is kept for a reload, too

/** What the parts of the view share: what is shown, what is in focus, what is selected. */
export class Desk {
  /**
   * @param {HTMLElement} section
   * @param {App} app
   */
  constructor(section, app) {
    this.app = app;
    this.facts = new Facts(app);
    this.model = new ReviewModel(this.facts);
    this.thumbs = thumbsOf(app);
    this.focus = -1;
    this.anchor = -1;
    /** @type {Mode} */
    this.mode = "gallery";
    /** @type {"small" | "medium" | "large"} */
    this.size = "medium";
    this.split = false;
    this.detailed = innerWidth >= 1200;
    /** Features shown as columns. @type {string[]} */
    this.features = [];
    this.stale = false;
    this.blind = app.blind;
    readKept(this);
    this.model.hideOpinions(app);
    section.classList.add("rv");
    this.filters = new Filters(this);
    this.toolbar = new Toolbar(this);
    this.stage = h("div", { class: "rv-stage" });
    this.details = new Details(this);
    this.bar = new SelectionBar(this);
    section.append(
      this.toolbar.element,
      h("div", { class: "rv-body" }, this.filters.element, h("div", { class: "rv-main" }, this.stage, this.bar.element), this.details.element),
    );
    /** @type {Shower | null} */
    this.shower = null;
    this.refreshSoon = later(() => this.refresh(), 120);
    this.section = section;
    this.build();
    this.listen();
  }

  /** Keys and events of the page. */
  listen() {
    const { app, section } = this;
    for (const { action } of app.info.keys) {
      if (/^(cell|not_cell|unsure|class\d|flag|select_toggle|next_list|previous_list|skip|back|escape)$/.test(action)) {
        app.viewActions.review.set(action, () => this.action(action) || action !== "escape" || app.actions.get("escape")?.());
      }
    }
    const moves = /^(Arrow|Page|Home|End)/;
    section.addEventListener("keydown", (event) => {
      // Arrows belong to what has the keyboard here; as keys that decide they would label by surprise.
      if (moves.test(event.key) && !event.ctrlKey) event.stopPropagation();
    });
    document.addEventListener(
      "keydown",
      (event) => {
        const nowhere = event.target === document.body || event.target === section;
        if (!this.visible || !nowhere || document.querySelector("dialog[open]")) return;
        if (moves.test(event.key) || event.key === " " || event.key === "Enter") {
          this.shower?.takeFocus();
          this.shower?.keyed?.(event);
        }
      },
      { capture: true },
    );
    app.addEventListener("state", (event) => this.stateChanged(/** @type {CustomEvent} */ (event).detail?.changed ?? null));
    app.addEventListener("selection", () => this.redraw());
    app.addEventListener("settings", () => this.settings());
    app.addEventListener("view", () => this.entered());
  }

  get visible() {
    return this.app.view === "review";
  }

  keep() {
    keepKept(this);
  }

  /** Makes the part that shows the candidates. */
  build() {
    this.shower?.close();
    this.stage.replaceChildren();
    if (this.mode === "duplicates") this.shower = new Duplicates(this.stage, this);
    else if (this.mode === "table") this.shower = new Table(this.stage, this);
    else if (this.split) this.shower = new Split(this.stage, this);
    else this.shower = gallery(this.stage, this);
    this.section.dataset.mode = this.mode;
    this.section.classList.toggle("rv-detailed", this.detailed);
    this.shower.show(this.model.order);
    if (this.focus >= 0) this.shower.reveal(this.focus);
    this.features.forEach((name) => this.feature(name).then(() => this.mode === "table" && this.redraw()));
    this.toolbar.show();
  }

  /** @param {Mode} mode */
  setMode(mode) {
    if (this.mode === mode) return;
    this.mode = mode;
    this.keep();
    this.build();
  }

  /** @param {boolean} on */
  setSplit(on) {
    this.split = on;
    this.mode = on ? "gallery" : this.mode;
    this.build();
  }

  /** @param {boolean} on */
  setDetailed(on) {
    this.detailed = on;
    this.section.classList.toggle("rv-detailed", on);
    this.keep();
    this.details.show();
    this.toolbar.show();
  }

  /** @param {"small" | "medium" | "large"} size */
  setSize(size) {
    this.size = size;
    this.keep();
    this.build();
  }

  /** @param {string[]} names */
  setFeatures(names) {
    this.features = names;
    this.keep();
    if (this.mode === "table") this.build();
  }

  /**
   * @param {string} name
   * @returns {Promise<Float32Array | null>}
   */
  async feature(name) {
    try {
      const values = await this.app.feature(name);
      this.model.extra.features.set(name, values);
      return values;
    } catch (error) {
      this.app.complain(error);
      return null;
    }
  }

  /** @param {string} name the same again: the other way round */
  async sortBy(name) {
    const { model } = this;
    if (model.sort === name) model.reversed = !model.reversed;
    else {
      model.reversed = false;
      model.onlyAbout = false;
    }
    model.sort = name;
    model.openSort = "";
    this.keep();
    if (!(await this.fetchFor(name))) return;
    this.refresh(true);
  }

  /**
   * What an order needs besides the state.
   * @param {string} name
   */
  async fetchFor(name) {
    const { app, model } = this;
    try {
      if (name.startsWith("feature:")) return (await this.feature(name.slice(8))) !== null;
      if (name === "people") {
        const { disagreements } = await app.api.json("api/votes");
        model.extra.openness = new Map(disagreements.map((/** @type {any} */ d) => [d.pos, d.openness]));
        model.extra.votes = new Map(disagreements.map((/** @type {any} */ d) => [d.pos, d.votes]));
      }
      if (name === "people") this.details.refresh();
      if (name === "recent") {
        const { labels } = await app.api.json("api/history", { annotator: app.annotator, n: 10000 });
        model.extra.recent = new Map(labels.map((/** @type {any} */ label, /** @type {number} */ place) => [label.pos, place]));
      }
      return true;
    } catch (error) {
      app.complain(error);
      return false;
    }
  }

  /**
   * Filters and sorts anew, and shows it.
   * @param {boolean} [top] scroll to the beginning
   */
  refresh(top = false) {
    this.model.update();
    this.stale = false;
    this.filters.show();
    this.toolbar.show();
    this.shower?.show(this.model.order);
    const first = this.model.order[0];
    if (this.focus < 0 && first !== undefined) this.setFocus(first, false);
    else if (top && first !== undefined && !this.app.selection.size) this.setFocus(first);
    else if (top && first !== undefined) this.shower?.reveal(first);
    this.bar.show();
  }

  /** Colours only: nothing moves. */
  redraw() {
    if (!this.visible) return;
    this.shower?.redraw();
    this.bar.show();
    this.details.refresh();
  }

  /** @param {number[] | null} changed null: perhaps all */
  stateChanged(changed) {
    if (!this.visible) {
      this.stale = true;
      return;
    }
    if (this.model.rev < 0) return this.refresh();
    // Nothing may jump under the pointer: the order stays until it is asked for.
    this.stale = true;
    if (!changed) this.filters.measure();
    this.toolbar.show();
    this.redraw();
  }

  settings() {
    if (this.blind === this.app.blind) return;
    this.blind = this.app.blind;
    this.model.hideOpinions(this.app);
    this.model.update();
    this.filters.show();
    this.build();
    this.details.show();
  }

  async entered() {
    if (!this.visible) return;
    this.filters.measure();
    if (this.stale || this.model.rev < 0) {
      await this.fetchFor(this.model.sort);
      this.refresh();
    } else this.redraw();
    if (this.app.state.annotators.length > 1 && this.model.sort !== "people") this.fetchFor("people");
    const pos = this.app.list && this.app.current ? this.app.current.pos : this.focus;
    if (pos >= 0) this.setFocus(pos);
    this.shower?.takeFocus();
  }

  // Focus and selection ------------------------------------------------------------------------------------------------------

  /**
   * @param {number} pos
   * @param {boolean} [reveal]
   */
  setFocus(pos, reveal = true) {
    this.focus = pos;
    if (reveal) this.shower?.reveal(pos);
    this.shower?.redraw();
    this.details.show();
    this.bar.show();
  }

  /**
   * @param {ArrayLike<number>} positions
   * @param {"set" | "add" | "toggle" | "remove"} how
   */
  select(positions, how) {
    this.app.select(Array.from(positions), how);
  }

  /**
   * @param {number} place
   * @param {Uint32Array} order
   * @param {MouseEvent} event
   */
  click(place, order, event) {
    const pos = order[place];
    const from = this.anchor >= 0 ? order.indexOf(this.anchor) : -1;
    if (event.shiftKey && from >= 0) {
      const range = order.subarray(Math.min(from, place), Math.max(from, place) + 1);
      this.select(range, event.ctrlKey || event.metaKey ? "add" : "set");
    } else {
      this.select([pos], event.ctrlKey || event.metaKey ? "toggle" : "set");
      this.anchor = pos;
    }
    this.setFocus(pos, false);
  }

  /**
   * Keys of a gallery or table that has the keyboard; the others go on to the page's own.
   * @param {KeyboardEvent} event
   * @param {Uint32Array} order
   * @param {number} columns
   * @param {number} page
   */
  key(event, order, columns, page) {
    const steps = /** @type {Record<string, number>} */ ({ ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, PageUp: -page, PageDown: page, Home: -order.length, End: order.length });
    const control = event.ctrlKey || event.metaKey;
    if (event.altKey) return;
    if (event.key in steps && order.length) {
      const at = order.indexOf(this.focus);
      const to = at < 0 ? 0 : Math.max(0, Math.min(order.length - 1, at + steps[event.key]));
      if (event.shiftKey) {
        if (order.indexOf(this.anchor) < 0) this.anchor = at < 0 ? order[to] : order[at];
        const from = order.indexOf(this.anchor);
        this.select(order.subarray(Math.min(from, to), Math.max(from, to) + 1), "set");
      }
      this.setFocus(order[to]);
    } else if (event.key === " ") {
      if (this.focus >= 0) this.select([this.focus], "toggle");
      this.anchor = this.focus;
    } else if (event.key === "Enter" && this.focus >= 0) this.open(this.focus, order);
    else if (control && event.key.toLowerCase() === "a") this.selectMatching();
    else if (event.key === "Escape" && this.app.selection.size) this.select([], "set");
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  selectMatching() {
    this.select(this.model.order, "set");
  }

  /** Those that an action is about: the selection, else the candidate in focus. */
  chosen() {
    return this.app.selection.size ? [...this.app.selection] : this.focus >= 0 ? [this.focus] : [];
  }

  /**
   * @param {number} pos
   * @param {ArrayLike<number>} order
   * @param {string} [name]
   */
  open(pos, order, name) {
    this.focus = pos;
    let positions = Array.from(order);
    if (positions.length > LISTED) {
      const from = Math.max(0, Math.min(positions.indexOf(pos) - LISTED / 5, positions.length - LISTED));
      positions = positions.slice(from, from + LISTED);
    }
    this.app.goto(pos, { name: name ?? this.listName(), positions });
  }

  listName() {
    const { model } = this;
    const title = SORTS.find((sort) => sort.name === model.sort)?.title ?? model.sort.replace("feature:", "").replaceAll("_", " ");
    return model.filtered ? `${title}, filtered` : title;
  }

  /** @param {string} text */
  jump(text) {
    const found = this.facts.find(text, Math.max(0, this.focus));
    if ("error" in found) return this.app.say(found.error, { kind: "error", hint: "" });
    this.anchor = found.pos;
    this.select([found.pos], "set");
    this.setFocus(found.pos);
    if (this.mode !== "duplicates" && this.model.place[found.pos] < 0) {
      this.app.say(`Candidate ${this.facts.name(found.pos)} is not among those shown: the filters leave it out.`, { kind: "info", hint: "It is in the details; clear the filters to see it among the others." });
      if (!this.detailed) this.setDetailed(true);
    } else this.shower?.takeFocus();
  }

  /**
   * Labels the selection, or the candidate in focus.
   * @param {string} value
   */
  async decide(value) {
    await this.decideThese(this.chosen(), value);
  }

  /**
   * @param {number[]} positions
   * @param {string} value
   * @param {number | null} [keep] one of them that is a cell
   */
  async decideThese(positions, value, keep = null) {
    const { app, facts } = this;
    if (!positions.length) return app.say("Select candidates first.", { kind: "info", hint: "Click one, or several with shift or ctrl." });
    if (positions.length > MOST) {
      const hint = "Filter first; or move the line, which decides for the model without speaking for you.";
      return app.say(`${positions.length.toLocaleString("en")} are too many to label at once: at most ${MOST.toLocaleString("en")}.`, { kind: "error", hint });
    }
    const state = facts.state;
    const label = 1 + app.info.classes.findIndex((known) => known.name === value);
    const changed = state ? positions.filter((pos) => state.label[pos] && state.label[pos] !== label).length : 0;
    const word = app.className(value);
    if (changed > MANY_CHANGED || positions.length > MANY) {
      const text =
        changed > 0
          ? `${counted(changed, "of them has", "of them have")} another label from a person, which this changes. Undo takes it back.`
          : "Each counts as your own label, and the model learns from all of them. Undo takes them back.";
      if (!(await ask({ title: `Label ${counted(positions.length, "candidate")} “${word}”?`, text, yes: `Label ${positions.length.toLocaleString("en")}` }))) return;
    }
    app.decideMany(positions, keep === null ? value : (pos) => (pos === keep ? "cell" : value));
    this.redraw();
    // A single one: on to the next, as when sorting.
    if (positions.length === 1 && positions[0] === this.focus && this.mode !== "duplicates") {
      const next = this.model.order[this.model.place[this.focus] + 1];
      if (next !== undefined) {
        this.setFocus(next);
        if (app.selection.size) this.select([next], "set");
        this.anchor = next;
      }
    }
  }

  /**
   * What a key of the page does here.
   * @param {string} action
   * @returns {boolean} whether it did something
   */
  action(action) {
    const { app } = this;
    if (action === "cell" || action === "not_cell" || action === "unsure") this.decide(action);
    else if (/^class\d$/.test(action)) {
      const own = app.info.classes.filter((known) => known.own)[Number(action.slice(5)) - 1];
      if (!own) return false;
      this.decide(own.name);
    } else if (action === "flag") {
      const chosen = this.chosen();
      const on = chosen.some((pos) => !this.facts.state?.flagged[pos]);
      for (const pos of chosen.slice(0, MANY)) app.flag(pos, on);
      if (chosen.length > MANY) app.say(`Only the first ${MANY} were flagged.`, { kind: "info", hint: "A label or a filter serves better for so many." });
    } else if (action === "select_toggle" && this.focus >= 0) this.select([this.focus], "toggle");
    else if (action === "next_list" || action === "skip") this.stepFocus(1);
    else if (action === "previous_list" || action === "back") this.stepFocus(-1);
    else if (action === "escape" && app.selection.size) this.select([], "set");
    else return false;
    return true;
  }

  /** @param {number} by */
  stepFocus(by) {
    const { order, place } = this.model;
    const at = this.focus >= 0 ? place[this.focus] : -1;
    const to = order[Math.max(0, Math.min(order.length - 1, at + by))];
    if (to !== undefined) this.setFocus(to);
  }

  whyEmpty() {
    if (this.model.rev < 0) return "The candidates are being read...";
    return this.model.filtered ? "No candidate matches these filters." : "There are no candidates.";
  }
}

/**
 * @param {HTMLElement} host
 * @param {Desk} desk
 * @returns {Shower}
 */
function gallery(host, desk) {
  const one = new Gallery(host, desk, "Gallery of candidates");
  return Object.assign(one, { redraw: () => one.ask(), keyed: (/** @type {KeyboardEvent} */ event) => one.key(event) });
}

/**
 * @param {HTMLElement} section
 * @param {App} app
 * @returns {Desk}
 */
export function mountReview(section, app) {
  const desk = new Desk(section, app);
  Object.assign(window.__actsort, { review: desk }); // for measurements, as the app itself
  return desk;
}
