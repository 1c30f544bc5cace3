// @ts-check
/** A table of candidates: as many rows as fit in the window are elements, and are filled anew while scrolling. */

import { h, put } from "../dom.js";
import { button, newName, unit } from "./dom.js";
import { chance, DECISIONS, number, ORIGINS, shownUnit } from "./facts.js";
import { fitCanvas, onTheme } from "./palette.js";

/** @typedef {import("./review.js").Desk} Desk */
/**
 * @typedef {object} Column
 * @property {string} name
 * @property {string} title
 * @property {string} help
 * @property {string | null} sort
 * @property {boolean} [falling] its sort gives the highest first
 * @property {number} width
 * @property {boolean} [right]
 * @property {(pos: number) => string} [text]
 */

const ROW = 30; // CSS pixels in a small window
const MORE = 6; // rows outside the window

export class Table {
  /**
   * @param {HTMLElement} host
   * @param {Desk} desk
   */
  constructor(host, desk) {
    this.desk = desk;
    this.voice = newName("table");
    /** @type {Uint32Array} */
    this.order = new Uint32Array(0);
    /** @type {Column[]} */
    this.columns = [];
    /** @type {{row: HTMLElement, cells: HTMLElement[], canvas: HTMLCanvasElement, place: number, drawn: number}[]} */
    this.pool = [];
    this.head = h("div", { class: "rv-thead", role: "row", "aria-rowindex": 1 });
    this.body = h("div", { class: "rv-tbody", role: "rowgroup" });
    this.grid = h(
      "div",
      { class: "rv-grid", role: "grid", tabindex: 0, "aria-label": "Table of candidates", "aria-multiselectable": "true" },
      h("div", { role: "rowgroup", class: "rv-thead-group" }, this.head),
      this.body,
    );
    this.scroller = h("div", { class: "rv-scroller rv-table" }, this.grid);
    this.empty = h("p", { class: "rv-empty", hidden: true }, "");
    this.host = h("div", { class: "rv-gallery" }, this.scroller, this.empty);
    host.append(this.host);
    this.asked = 0;
    this.rowHeight = ROW;
    this.scroller.addEventListener("scroll", () => this.ask(), { passive: true });
    this.sizes = new ResizeObserver(() => this.measure());
    this.sizes.observe(this.scroller);
    onTheme(() => this.redraw());
    desk.thumbs.watch(this.voice, () => this.ask());
    this.grid.addEventListener("keydown", (event) => {
      if (event.target !== this.grid) return;
      this.keyed(event);
    });
    this.body.addEventListener("click", (event) => {
      const place = this.hit(event);
      if (place >= 0) this.desk.click(place, this.order, event);
      this.takeFocus();
    });
    this.body.addEventListener("dblclick", (event) => {
      const place = this.hit(event);
      if (place >= 0) this.desk.open(this.order[place], this.order);
    });
    this.measure();
    this.rebuild();
  }

  close() {
    this.sizes.disconnect();
    this.desk.thumbs.watch(this.voice, null);
    cancelAnimationFrame(this.asked);
    this.host.remove();
  }

  /** @returns {Column[]} */
  makeColumns() {
    const { facts, app, features } = this.desk;
    const state = () => facts.state;
    const several = facts.recordings.length > 1;
    /** @type {Column[]} */
    const columns = [{ name: "thumb", title: "", help: "Footprint", sort: null, width: 40 }];
    if (several) {
      columns.push(
        { name: "pos", title: "Place", help: "Place among all candidates of the session", sort: "recording", width: 72, right: true, text: (pos) => String(pos) },
        { name: "recording", title: "Recording", help: "Recording", sort: "recording", width: 104, text: (pos) => facts.recordings[facts.recording[pos]].key },
      );
    }
    columns.push({
      name: "index",
      title: "Candidate",
      help: "Number in its recording, from 0",
      sort: several ? "index" : "recording",
      width: 82,
      right: true,
      text: (pos) => String(facts.index(pos)),
    });
    const opinion = [
      { name: "decision", title: "Decision", help: "Cell or not, as it would be written now", sort: "decision", width: 92, text: (/** @type {number} */ pos) => DECISIONS[facts.decision(pos)] },
      { name: "origin", title: "Decided by", help: "A person, the model, or the toolkit", sort: "origin", width: 88, text: (/** @type {number} */ pos) => ORIGINS[state()?.origin[pos] ?? 0] },
      { name: "probability", title: "Probability", help: "Of being a cell, by the model", sort: "probability", falling: true, width: 104, right: true, text: (/** @type {number} */ pos) => chance(state()?.probability[pos] ?? NaN) },
    ];
    if (!app.blind) columns.push(...opinion);
    columns.push(
      { name: "label", title: "Label", help: "What a person said", sort: "label", width: 96, text: (pos) => facts.labelName(pos) },
      { name: "who", title: "By", help: "Whose label it is", sort: "who", width: 84, text: (pos) => facts.whoName(pos) },
    );
    if (!app.blind) {
      columns.push(
        { name: "prior", title: "Toolkit", help: "The toolkit's own verdict", sort: "prior", width: 84, text: (pos) => facts.priorName(pos) },
        { name: "prior_probability", title: "Toolkit p", help: "The toolkit's own probability", sort: "prior_probability", falling: true, width: 82, right: true, text: (pos) => chance(state()?.priorProbability[pos] ?? NaN) },
      );
    }
    columns.push({ name: "flagged", title: "Flag", help: "Flagged by a person", sort: "flagged", width: 66, text: (pos) => (state()?.flagged[pos] ? "⚑ flag" : "") });
    for (const name of features.filter((one) => !app.conceals(one))) {
      const info = app.info.features.find((feature) => feature.name === name);
      const values = () => this.desk.model.extra.features.get(name);
      columns.push({
        name: `feature:${name}`,
        title: name.replaceAll("_", " ") + (info && shownUnit(info.unit) ? ` (${info.unit})` : ""),
        help: info?.description || name,
        sort: `feature:${name}`,
        width: Math.min(220, Math.max(100, 36 + 7 * (name.length + (info?.unit.length ?? 0)))),
        right: true,
        text: (pos) => number(values()?.[pos] ?? NaN),
      });
    }
    return columns;
  }

  /** The window may be another. */
  measure() {
    const height = Math.round(ROW * unit());
    if (height === this.rowHeight) return this.ask();
    this.rowHeight = height;
    this.rebuild();
    this.show(this.order);
  }

  /** After columns changed. */
  rebuild() {
    this.columns = this.makeColumns();
    this.grid.style.setProperty("--rv-row", `${this.rowHeight}px`);
    const template = this.columns.map((column) => `${column.width / 13}rem`).join(" ");
    const total = this.columns.reduce((sum, column) => sum + column.width, 0);
    this.grid.style.minWidth = `${total / 13 + 1}rem`;
    this.grid.style.setProperty("--rv-columns", template);
    this.grid.setAttribute("aria-colcount", String(this.columns.length));
    this.head.replaceChildren(
      ...this.columns.map((column, i) =>
        h(
          "div",
          { role: "columnheader", class: column.right ? "rv-right" : "", "aria-colindex": i + 1, "data-column": column.name },
          column.sort
            ? button(column.title, () => this.desk.sortBy(/** @type {string} */ (column.sort)), { class: "rv-head", title: column.help })
            : h("span", { class: "rv-unseen" }, column.help),
        ),
      ),
    );
    for (const { row } of this.pool) row.remove();
    this.pool = [];
    this.headings();
    this.ask();
  }

  headings() {
    const { sort, reversed } = this.desk.model;
    for (const [i, column] of this.columns.entries()) {
      const cell = this.head.children[i];
      const first = this.columns.findIndex((other) => other.sort === column.sort) === i;
      if (column.sort === sort && first) cell.setAttribute("aria-sort", Boolean(column.falling) === reversed ? "ascending" : "descending");
      else cell.removeAttribute("aria-sort");
    }
  }

  /** @param {Uint32Array} order */
  show(order) {
    this.order = order;
    this.body.style.height = `${order.length * this.rowHeight}px`;
    this.grid.setAttribute("aria-rowcount", String(order.length + 1));
    this.empty.hidden = order.length > 0;
    put(this.empty, this.desk.whyEmpty());
    this.headings();
    this.redraw();
  }

  redraw() {
    for (const entry of this.pool) entry.drawn = -1;
    this.ask();
  }

  ask() {
    cancelAnimationFrame(this.asked);
    this.asked = requestAnimationFrame(() => this.paint());
  }

  /** @param {number} count */
  grow(count) {
    while (this.pool.length < count) {
      const canvas = h("canvas", { class: "rv-mini", "aria-hidden": "true" });
      const cells = this.columns.map((column, i) => h("div", { role: "gridcell", class: column.right ? "rv-right" : "", "aria-colindex": i + 1, "data-column": column.name }));
      cells[0].append(canvas);
      const row = h("div", { role: "row", class: "rv-trow", id: newName(this.voice) }, ...cells);
      this.body.append(row);
      this.pool.push({ row, cells, canvas, place: -1, drawn: -1 });
    }
  }

  paint() {
    const height = this.scroller.clientHeight;
    if (!height) return;
    const top = this.scroller.scrollTop;
    const first = Math.max(0, Math.floor(top / this.rowHeight) - MORE);
    const count = Math.min(this.order.length - first, Math.ceil(height / this.rowHeight) + 2 * MORE);
    this.grow(count);
    let active = "";
    for (let i = 0; i < this.pool.length; i++) {
      // A row of the pool keeps its place while it is visible: only what comes in is filled.
      const entry = this.pool[i];
      const n = this.pool.length;
      const place = first + ((((i - first) % n) + n) % n);
      const shown = place < first + count;
      if (entry.row.hidden === shown) entry.row.hidden = !shown;
      if (!shown) continue;
      const pos = this.order[place];
      if (entry.place !== place) {
        entry.place = place;
        entry.row.style.transform = `translateY(${place * this.rowHeight}px)`;
        entry.row.setAttribute("aria-rowindex", String(place + 2));
        entry.drawn = -1;
      }
      this.fill(entry, pos);
      if (pos === this.desk.focus) active = entry.row.id;
    }
    if (active) this.grid.setAttribute("aria-activedescendant", active);
    else this.grid.removeAttribute("aria-activedescendant");
    this.desk.thumbs.want(this.voice, this.order.subarray(first, first + count));
  }

  /**
   * @param {{row: HTMLElement, cells: HTMLElement[], canvas: HTMLCanvasElement, place: number, drawn: number}} entry
   * @param {number} pos
   */
  fill(entry, pos) {
    const { facts, app, thumbs } = this.desk;
    const chosen = String(app.selection.has(pos));
    if (entry.row.getAttribute("aria-selected") !== chosen) entry.row.setAttribute("aria-selected", chosen);
    entry.row.classList.toggle("rv-focused", pos === this.desk.focus);
    const thumb = thumbs.get(pos);
    const drawn = thumb ? pos : -2 - pos;
    if (entry.drawn === drawn) return;
    const onlyThumb = thumb && entry.drawn === -2 - pos;
    entry.drawn = drawn;
    const side = this.rowHeight - 4;
    const context = fitCanvas(entry.canvas, side, side);
    context.clearRect(0, 0, side, side);
    if (thumb) context.drawImage(thumb.atlas, thumb.x, thumb.y, thumb.size, thumb.size, 0, 0, side, side);
    if (onlyThumb) return;
    entry.row.dataset.pos = String(pos);
    entry.row.dataset.decision = String(facts.decision(pos));
    entry.row.dataset.kind = String(facts.kinds[facts.state?.label[pos] ?? 0]);
    for (let i = 1; i < this.columns.length; i++) put(entry.cells[i], this.columns[i].text?.(pos) ?? "");
  }

  /** @param {MouseEvent} event */
  hit(event) {
    const row = /** @type {HTMLElement} */ (event.target).closest(".rv-trow");
    return this.pool.find((entry) => entry.row === row)?.place ?? -1;
  }

  /** @param {number} pos */
  reveal(pos) {
    const place = this.order.indexOf(pos);
    if (place < 0) return;
    const top = this.scroller.scrollTop;
    const height = this.scroller.clientHeight - this.rowHeight;
    if (place * this.rowHeight < top) this.scroller.scrollTop = place * this.rowHeight;
    else if ((place + 1) * this.rowHeight > top + height) this.scroller.scrollTop = (place + 1) * this.rowHeight - height;
    this.ask();
  }

  /** @param {KeyboardEvent} event */
  keyed(event) {
    const page = Math.max(1, Math.floor(this.scroller.clientHeight / this.rowHeight) - 2);
    this.desk.key(event, this.order, 1, page);
  }

  takeFocus() {
    this.grid.focus({ preventScroll: true });
  }
}
