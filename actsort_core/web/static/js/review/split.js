// @ts-check
/** The gallery, one column for each recording. */

import { h, put } from "../dom.js";
import { Gallery } from "./gallery.js";

/** @typedef {import("./review.js").Desk} Desk */

export class Split {
  /**
   * @param {HTMLElement} host
   * @param {Desk} desk
   */
  constructor(host, desk) {
    this.desk = desk;
    this.element = h("div", { class: "rv-split", role: "group", "aria-label": "Recordings side by side" });
    host.append(this.element);
    this.columns = desk.facts.recordings.map((recording) => {
      const count = h("span", { class: "rv-muted" });
      const body = h("div", { class: "rv-column-body" });
      const column = h("section", { class: "rv-column", "aria-label": recording.key }, h("h3", { class: "rv-h" }, recording.key, " ", count), body);
      this.element.append(column);
      return { count, gallery: new Gallery(body, desk, `Candidates of ${recording.key}`), total: recording.n_cells, column };
    });
  }

  close() {
    for (const { gallery } of this.columns) gallery.close();
    this.element.remove();
  }

  show() {
    const { facts, model } = this.desk;
    model.byRecording().forEach((part, i) => {
      const { count, gallery, total, column } = this.columns[i];
      let cells = 0;
      for (const pos of part) if (facts.decision(pos) === 1) cells += 1;
      const kinds = this.desk.app.blind ? "" : `, ${cells.toLocaleString("en")} cells`;
      put(count, `${part.length.toLocaleString("en")} of ${total.toLocaleString("en")}${kinds}`);
      // A recording that a filter leaves out takes no room.
      column.hidden = model.chosen.recording.size > 0 && !model.chosen.recording.has(i);
      gallery.show(part);
    });
  }

  /** @param {number} pos */
  at(pos) {
    return this.columns[this.desk.facts.recording[pos]]?.gallery;
  }

  /** @param {number} pos */
  reveal(pos) {
    this.at(pos)?.reveal(pos);
  }

  redraw() {
    for (const { gallery } of this.columns) gallery.ask();
  }

  /** @param {KeyboardEvent} event */
  keyed(event) {
    (this.at(Math.max(0, this.desk.focus)) ?? this.columns[0].gallery).key(event);
  }

  takeFocus() {
    (this.at(Math.max(0, this.desk.focus)) ?? this.columns[0].gallery).takeFocus();
  }
}
