// @ts-check
/** The row above the gallery: which view, which order, how many, jump to one. */

import { h, put } from "../dom.js";
import { button, giveKeysBack, newName } from "./dom.js";
import { shownUnit } from "./facts.js";
import { OPINIONS, SORTS } from "./sorts.js";

/** @typedef {import("./review.js").Desk} Desk */
/** @typedef {import("./review.js").Mode} Mode */

export class Toolbar {
  /** @param {Desk} desk */
  constructor(desk) {
    this.desk = desk;
    this.signature = "";
    /** @type {{row: HTMLElement, feature: string}[]} of the menu of columns */
    this.featureRows = [];
    this.modes = /** @type {[Mode, string, string][]} */ ([
      ["gallery", "Gallery", "Small pictures of all candidates"],
      ["table", "Table", "A row for each candidate, with any features as columns"],
      ["duplicates", "Duplicates", "Candidates that overlap and fire together, side by side"],
    ]).map(([mode, title, help]) => ({
      mode,
      button: button(title, () => desk.setMode(mode), { class: "rv-segment", title: help, "aria-pressed": "false", id: `review-${mode}` }),
    }));
    this.sort = h("select", { id: "review-sort", class: "rv-select", onchange: () => desk.sortBy(this.sort.value) });
    this.direction = button("↓", () => desk.sortBy(desk.model.sort), { class: "rv-icon", title: "The other way round", "aria-label": "Reverse the order" });
    this.only = h("input", {
      type: "checkbox",
      id: "review-only",
      onchange: () => {
        desk.model.onlyAbout = this.only.checked;
        desk.refresh(true);
      },
    });
    this.onlyText = h("span");
    this.onlyLabel = h("label", { class: "rv-check", for: "review-only" }, this.only, this.onlyText);
    this.count = h("p", { class: "rv-matching", role: "status", id: "review-count" });
    this.order = h("div", { class: "rv-order" }, h("label", { for: "review-sort", class: "rv-muted" }, "Order"), this.sort, this.direction, this.onlyLabel);
    this.all = button("Select all", () => desk.selectMatching(), { class: "rv-button rv-small", id: "review-select-all", title: "Select all that match (ctrl+A)" });
    this.update = button("Update the list", () => this.renew(), { class: "rv-button rv-small rv-renew", id: "review-update", title: "Labels or the model changed since: filter and sort anew" });
    this.sizes = h(
      "select",
      { id: "review-size", class: "rv-select", "aria-label": "Size of the pictures", title: "Size of the pictures", onchange: () => desk.setSize(/** @type {any} */ (this.sizes.value)) },
      h("option", { value: "small" }, "Small"),
      h("option", { value: "medium" }, "Medium"),
      h("option", { value: "large" }, "Large"),
    );
    this.splitter = button("Side by side", () => desk.setSplit(!desk.split), { class: "rv-button rv-small", id: "review-split", title: "One column for each recording", "aria-pressed": "false" });
    this.columns = this.makeColumns();
    this.detail = button("Details", () => desk.setDetailed(!desk.detailed), { class: "rv-button rv-small", id: "review-details", title: "Show or hide what is known of the candidate in focus", "aria-pressed": "false" });
    this.element = h(
      "div",
      { class: "rv-toolbar", role: "group", "aria-label": "View and order" },
      h("div", { class: "rv-segments", role: "group", "aria-label": "View" }, ...this.modes.map((one) => one.button)),
      this.order,
      h("div", { class: "rv-found" }, this.count, this.all, this.update),
      h("div", { class: "rv-tools" }, this.sizes, this.splitter, this.columns, this.detail),
    );
    giveKeysBack(this.element);
  }

  async renew() {
    await this.desk.fetchFor(this.desk.model.sort);
    this.desk.refresh();
  }

  makeColumns() {
    const { desk } = this;
    const name = newName("columns");
    const search = h("input", {
      type: "search",
      class: "rv-text",
      placeholder: "Find a feature",
      "aria-label": "Find a feature",
      oninput: () => {
        const words = search.value.toLowerCase();
        for (const { row, feature } of this.featureRows) row.hidden = desk.app.conceals(feature) || !row.textContent?.toLowerCase().includes(words);
      },
    });
    const rows = desk.app.info.features.map(({ name: feature, unit, description }) => {
      const box = h("input", {
        type: "checkbox",
        onchange: () => desk.setFeatures(box.checked ? [...desk.features, feature] : desk.features.filter((other) => other !== feature)),
      });
      box.checked = desk.features.includes(feature);
      return h("label", { class: "rv-check rv-feature", title: description }, box, h("span", {}, feature.replaceAll("_", " "), shownUnit(unit) ? h("span", { class: "rv-unit" }, ` ${unit}`) : null));
    });
    const menu = h("div", { class: "rv-menu", popover: "auto", id: name }, search, h("div", { class: "rv-menu-rows", role: "group", "aria-label": "Features as columns", tabindex: 0 }, ...rows));
    const opener = button("Columns", () => undefined, { class: "rv-button rv-small", popovertarget: name, title: "Features as columns of the table", id: "review-columns" });
    this.featureRows = rows.map((row, i) => ({ row, feature: desk.app.info.features[i].name }));
    const place = () => {
      const { bottom, left } = opener.getBoundingClientRect();
      menu.style.top = `${bottom + 4}px`;
      menu.style.left = `${Math.max(8, Math.min(left, innerWidth - menu.offsetWidth - 8))}px`;
    };
    menu.addEventListener("toggle", place);
    addEventListener("resize", place);
    menu.addEventListener("keydown", (event) => event.stopPropagation());
    return h("div", { class: "rv-columns" }, opener, menu);
  }

  show() {
    const { desk } = this;
    const { model, facts, app } = desk;
    for (const one of this.modes) one.button.setAttribute("aria-pressed", String(one.mode === desk.mode));
    const options = SORTS.filter((sort) => !(app.blind && OPINIONS.has(sort.name)));
    const known = options.some((sort) => sort.name === model.sort);
    const names = options.map((sort) => [sort.name, sort.title, sort.help]);
    if (!known) names.push([model.sort, model.sort.replace("feature:", "").replaceAll("_", " "), "A column of the table"]);
    for (const { row, feature } of this.featureRows) row.hidden = app.conceals(feature);
    const signature = names.map(([name]) => name).join(" ");
    if (this.signature !== signature) {
      this.signature = signature;
      const groups = [h("optgroup", { label: "Order" }, ...names.map(([name, title, help]) => h("option", { value: name, title: help }, title)))];
      const more = app.info.features.filter(({ name }) => `feature:${name}` !== model.sort && !app.conceals(name));
      if (more.length) groups.push(h("optgroup", { label: "By a feature" }, ...more.map(({ name }) => h("option", { value: `feature:${name}` }, name.replaceAll("_", " ")))));
      this.sort.replaceChildren(...groups);
    }
    this.sort.value = model.sort;
    this.sort.title = options.find((sort) => sort.name === model.sort)?.help ?? "";
    put(this.direction, model.reversed ? "↑" : "↓");
    this.direction.setAttribute("aria-pressed", String(model.reversed));
    const about = SORTS.find((sort) => sort.name === model.sort)?.about;
    this.onlyLabel.hidden = !about;
    this.only.checked = model.onlyAbout;
    put(this.onlyText, about ? `only these ${model.nAbout.toLocaleString("en")}` : "");
    this.onlyLabel.title = about ? `Only ${about}` : "";
    const shown = model.order.length;
    put(this.count, shown === facts.n ? `${facts.n.toLocaleString("en")} candidates` : `${shown.toLocaleString("en")} of ${facts.n.toLocaleString("en")} match`);
    this.all.disabled = shown === 0;
    this.update.classList.toggle("rv-quiet", !desk.stale);
    this.update.disabled = !desk.stale;
    this.sizes.hidden = desk.mode !== "gallery";
    this.sizes.value = desk.size;
    this.splitter.hidden = desk.mode !== "gallery" || facts.recordings.length < 2;
    this.splitter.setAttribute("aria-pressed", String(desk.split && desk.mode === "gallery"));
    this.columns.hidden = desk.mode !== "table";
    this.detail.setAttribute("aria-pressed", String(desk.detailed));
    this.order.hidden = this.all.hidden = desk.mode === "duplicates";
  }
}
