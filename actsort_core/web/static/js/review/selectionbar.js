// @ts-check
/** What can be done with the selection: one row under the gallery, always in its place, so that nothing jumps. */

import { noteDialog } from "../dialogs.js";
import { h, put } from "../dom.js";
import { button, counted } from "./dom.js";
import { className } from "./facts.js";

/** @typedef {import("./review.js").Desk} Desk */

export class SelectionBar {
  /** @param {Desk} desk */
  constructor(desk) {
    this.desk = desk;
    const { app } = desk;
    this.text = h("p", { class: "rv-selected", role: "status", id: "review-selected" });
    const own = app.info.classes.filter((known) => known.own);
    this.buttons = app.info.classes.map(({ name, kind }) => {
      const place = own.findIndex((known) => known.name === name);
      const action = place >= 0 ? `class${place + 1}` : name;
      const key = app.info.keys.find((row) => row.action === action);
      const keys = key?.keys.length ? ` (${key.keys[0]})` : "";
      return button(className(name), () => desk.decide(name), { class: "rv-button rv-decide", "data-kind": kind, "data-action": action, "data-value": name, title: `Label the selection “${app.className(name)}”${keys}` });
    });
    this.flag = button("Flag", () => desk.action("flag"), { class: "rv-button", "data-action": "flag", title: "Flag the selection, or take the flags back (f)" });
    this.open = button("Open as a list", () => this.openList(), { class: "rv-button", id: "review-open", title: "Look at them one by one (enter)" });
    this.clear = button("Clear", () => desk.select([], "set"), { class: "rv-button", id: "review-clear", title: "Select nothing (esc)" });
    this.toggle = button("Select", () => desk.action("select_toggle"), { class: "rv-button", "data-action": "select_toggle", title: "Select the candidate in focus, or take it out of the selection (space)" });
    this.undo = button("Undo", () => app.undo(), { class: "rv-button", "data-action": "undo", title: "Take the last labels back (z)" });
    this.element = h("div", { class: "rv-bar", role: "region", "aria-label": "Selection" }, this.text, h("div", { class: "rv-row" }, ...this.buttons), h("div", { class: "rv-row rv-end" }, this.flag, this.toggle, this.open, this.clear, this.undo));
    this.show();
    // The note belongs to the candidate in focus, not to the one that the sort view has.
    app.viewActions.review.set("note", () => {
      if (desk.focus < 0) return;
      app.queue.load(desk.focus).then(
        (candidate) => noteDialog(app, candidate),
        (error) => app.complain(error),
      );
    });
  }

  openList() {
    const { desk } = this;
    const place = desk.model.place;
    // In the order of the gallery; what the filters leave out comes last.
    const rank = (/** @type {number} */ pos) => (place[pos] < 0 ? desk.facts.n + pos : place[pos]);
    const chosen = desk.chosen().sort((a, b) => rank(a) - rank(b));
    if (chosen.length) desk.open(chosen[0], chosen, `Selection of ${chosen.length.toLocaleString("en")}`);
  }

  show() {
    const { app, focus, facts, model } = this.desk;
    const n = app.selection.size;
    let hidden = 0;
    if (n && model.order.length < facts.n) for (const pos of app.selection) if (model.place[pos] < 0) hidden += 1;
    const text = n
      ? `${counted(n, "candidate")} selected${hidden ? `, ${hidden.toLocaleString("en")} not shown now` : ""}`
      : focus >= 0
        ? `${facts.recordings.length > 1 ? "" : "Candidate "}${facts.name(focus)} in focus`
        : "Nothing selected";
    put(this.text, text);
    const none = !n && focus < 0;
    for (const one of [...this.buttons, this.flag]) one.disabled = none || app.watch;
    this.undo.disabled = app.watch;
    this.open.disabled = none;
    this.toggle.disabled = focus < 0;
    this.clear.disabled = n === 0;
    this.element.classList.toggle("rv-active", n > 0);
  }
}
