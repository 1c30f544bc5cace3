// @ts-check
/** Groups of candidates that overlap and fire together with the best of them: their pictures side by side, their traces one over the other. */

import { ApiError } from "../api.js";
import { h, put } from "../dom.js";
import { button, counted, newName, unit } from "./dom.js";
import { chance } from "./facts.js";
import { drawMark } from "./gallery.js";
import { fitCanvas, onTheme, palette } from "./palette.js";
import { drawSpark } from "./thumbs.js";

/** @typedef {import("./review.js").Desk} Desk */

const ROW = 204; // CSS pixels in a small window
const AHEAD = 1;

export class Duplicates {
  /**
   * @param {HTMLElement} host
   * @param {Desk} desk
   */
  constructor(host, desk) {
    this.desk = desk;
    this.voice = newName("duplicates");
    /** @type {number[][]} */
    this.groups = [];
    /** @type {number[][]} those that match the filters */
    this.shown = [];
    this.asked = 0;
    this.rowHeight = ROW;
    this.loaded = false;
    this.summary = h("p", { class: "rv-dup-summary", role: "status" }, "Looking for duplicates...");
    this.open = h("input", { type: "checkbox", id: "review-dup-open", onchange: () => this.filter() });
    this.body = h("div", { class: "rv-dup-body" });
    this.scroller = h("div", { class: "rv-scroller rv-dups", tabindex: 0, role: "region", "aria-label": "Groups of duplicates" }, this.body);
    this.host = h(
      "div",
      { class: "rv-gallery rv-dup-host" },
      h("div", { class: "rv-dup-head" }, this.summary, h("label", { class: "rv-check", for: "review-dup-open" }, this.open, "only groups where more than one is a cell")),
      this.scroller,
    );
    host.append(this.host);
    /** @type {Map<number, {card: HTMLElement, draw: () => void}>} by place */
    this.cards = new Map();
    this.scroller.addEventListener("scroll", () => this.ask(), { passive: true });
    this.sizes = new ResizeObserver(() => this.measure());
    this.sizes.observe(this.scroller);
    onTheme(() => this.redraw());
    desk.thumbs.watch(this.voice, () => this.redraw());
    this.fetch();
  }

  close() {
    this.sizes.disconnect();
    this.desk.thumbs.watch(this.voice, null);
    cancelAnimationFrame(this.asked);
    this.host.remove();
  }

  measure() {
    const height = Math.round(ROW * unit());
    if (height !== this.rowHeight) {
      this.rowHeight = height;
      this.filter();
    }
    this.redraw();
  }

  /** @param {number} [tries] */
  async fetch(tries = 8) {
    try {
      const { groups } = await this.desk.app.api.json("api/duplicates");
      this.groups = groups;
      this.loaded = true;
      this.filter();
    } catch (error) {
      // Among 50,000 candidates the first look takes longer than a request may; the server goes on meanwhile, and remembers.
      if (tries && error instanceof ApiError && error.status === 0 && this.host.isConnected) {
        put(this.summary, "Looking for duplicates; with so many candidates that takes a while...");
        setTimeout(() => this.host.isConnected && this.fetch(tries - 1), 1500);
        return;
      }
      put(this.summary, "The duplicates could not be found now.");
      this.desk.app.complain(error);
    }
  }

  /** Groups of which at least one member matches the filters. */
  filter() {
    if (!this.loaded) return;
    const { model, facts } = this.desk;
    const filtered = model.filtered;
    this.shown = this.groups.filter((group) => {
      if (filtered && !group.some((pos) => model.place[pos] >= 0)) return false;
      return !this.open.checked || group.filter((pos) => facts.decision(pos) === 1).length > 1;
    });
    const members = this.shown.reduce((sum, group) => sum + group.length, 0);
    const none = this.groups.length ? "No group matches." : "No duplicates were found: no two candidates overlap and fire together.";
    put(this.summary, this.shown.length ? `${counted(this.shown.length, "group")} with ${counted(members, "candidate")} that overlap and fire together` : none);
    this.body.style.height = `${this.shown.length * this.rowHeight}px`;
    for (const { card } of this.cards.values()) card.remove();
    this.cards.clear();
    this.ask();
  }

  show() {
    this.filter();
  }

  redraw() {
    for (const { draw } of this.cards.values()) draw();
    this.ask();
  }

  ask() {
    cancelAnimationFrame(this.asked);
    this.asked = requestAnimationFrame(() => this.paint());
  }

  paint() {
    const height = this.scroller.clientHeight;
    if (!height) return;
    const first = Math.max(0, Math.floor(this.scroller.scrollTop / this.rowHeight) - AHEAD);
    const last = Math.min(this.shown.length - 1, Math.floor((this.scroller.scrollTop + height) / this.rowHeight) + AHEAD);
    for (const [place, { card }] of this.cards) {
      if (place < first || place > last) {
        card.remove();
        this.cards.delete(place);
      }
    }
    const wanted = [];
    for (let place = first; place <= last; place++) {
      wanted.push(...this.shown[place]);
      if (!this.cards.has(place)) {
        const one = this.makeCard(this.shown[place], place);
        this.cards.set(place, one);
        this.body.append(one.card);
        one.draw();
      }
    }
    this.desk.thumbs.want(this.voice, wanted);
  }

  /**
   * The one to keep: most surely a cell; without a model the one with the clearest trace, which is the first.
   * @param {number[]} group
   */
  best(group) {
    const p = this.desk.facts.state?.probability;
    if (!p || !Number.isFinite(p[group[0]]) || this.desk.app.blind) return group[0];
    return group.reduce((best, pos) => (p[pos] > p[best] + 1e-6 ? pos : best), group[0]);
  }

  /**
   * @param {number[]} group
   * @param {number} keep
   */
  async keep(group, keep) {
    const { desk } = this;
    // A lab that has a class of its own for duplicates means these.
    const own = desk.app.info.classes.find((known) => known.own && known.kind === "not_cell" && /dup|double|twin/i.test(known.name));
    await desk.decideThese(group, own?.name ?? "not_cell", keep);
    this.redraw();
  }

  /**
   * @param {number[]} group
   * @param {number} place
   */
  makeCard(group, place) {
    const { desk } = this;
    const { facts, app } = desk;
    const best = this.best(group);
    const traces = h("canvas", { class: "rv-dup-traces", role: "img", "aria-label": `Traces of ${group.map((pos) => facts.name(pos)).join(", ")}, one over the other` });
    const members = group.map((pos, k) => {
      const canvas = h("canvas", { class: "rv-dup-thumb", role: "img", "aria-label": facts.sentence(pos) });
      const p = h("span", { class: "rv-muted" });
      const name = facts.name(pos);
      const decide = (/** @type {string} */ value, /** @type {string} */ text) =>
        button(text, () => desk.decideThese([pos], value).then(() => this.redraw()), { class: "rv-button rv-tiny rv-decide", "data-kind": value, "aria-label": `${name}: ${text}`, disabled: app.watch });
      const element = h(
        "div",
        { class: "rv-dup-member" },
        h("button", { type: "button", class: "rv-dup-open", title: `Open ${name}`, "aria-label": `Open ${name}`, onclick: () => desk.open(pos, group, `Duplicates of ${name}`) }, canvas),
        h("div", { class: "rv-dup-name" }, h("span", { class: "rv-key", "data-series": k % 6 }), h("span", {}, name), p),
        h("div", { class: "rv-row" }, decide("cell", "Cell"), decide("not_cell", "Not")),
        button(pos === best ? "Keep this (best)" : "Keep this", () => this.keep(group, pos), { class: `rv-button rv-tiny${pos === best ? " rv-primary" : ""}`, title: "A cell; the others of the group are not", "aria-label": `Keep ${name}, label the others not a cell`, disabled: app.watch }),
      );
      return { pos, k, canvas, p, element };
    });
    const sure = app.blind ? "by the clearest trace" : "most surely a cell";
    const card = h(
      "section",
      { class: "rv-dup-card", "aria-label": `Group ${place + 1}: ${group.map((pos) => facts.name(pos)).join(", ")}` },
      h(
        "div",
        { class: "rv-dup-side" },
        h("div", { class: "rv-row" }, h("strong", {}, counted(group.length, "candidate")), button("Keep best", () => this.keep(group, this.best(group)), { class: "rv-button rv-small rv-primary", "data-keep-best": place, title: `Keeps ${facts.name(best)}, ${sure}; the others become “not a cell”`, disabled: app.watch })),
        traces,
      ),
      h("div", { class: "rv-dup-members", role: "group", "aria-label": "Members", tabindex: group.length > 4 ? 0 : null }, ...members.map((one) => one.element)),
    );
    card.style.transform = `translateY(${place * this.rowHeight}px)`;
    const draw = () => {
      this.drawTraces(traces, group);
      for (const one of members) {
        this.drawMember(one.canvas, one.pos);
        one.canvas.setAttribute("aria-label", facts.sentence(one.pos));
        put(one.p, app.blind ? "" : chance(facts.state?.probability[one.pos] ?? NaN));
      }
    };
    return { card, draw };
  }

  /**
   * @param {HTMLCanvasElement} canvas
   * @param {number[]} group
   */
  drawTraces(canvas, group) {
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (!width) return;
    const context = fitCanvas(canvas, width, height);
    context.clearRect(0, 0, width, height);
    const { series } = palette();
    group.forEach((pos, k) => {
      const thumb = this.desk.thumbs.get(pos);
      if (!thumb) return;
      context.setLineDash(k >= series.length ? [3, 2] : []);
      drawSpark(context, thumb.trace, 2, 4, width - 4, height - 8, series[k % series.length]);
    });
    context.setLineDash([]);
  }

  /**
   * @param {HTMLCanvasElement} canvas
   * @param {number} pos
   */
  drawMember(canvas, pos) {
    const size = canvas.clientWidth;
    if (!size) return;
    const { facts, app } = this.desk;
    const colours = palette();
    const context = fitCanvas(canvas, size, size);
    context.fillStyle = colours.line;
    context.fillRect(0, 0, size, size);
    const thumb = this.desk.thumbs.get(pos);
    if (thumb) context.drawImage(thumb.atlas, thumb.x, thumb.y, thumb.size, thumb.size, 3, 3, size - 6, size - 6);
    const label = facts.state?.label[pos] ?? 0;
    const decision = app.blind && !label ? 2 : facts.decision(pos);
    context.strokeStyle = decision === 1 ? colours.cell : decision === 0 ? colours.notCell : colours.line;
    context.lineWidth = 3;
    context.setLineDash(decision === 0 ? [6, 4] : []);
    context.strokeRect(1.5, 1.5, size - 3, size - 3);
    context.setLineDash([]);
    if (label) drawMark(context, 6, 6, facts.kinds[label], label, colours, unit());
  }

  /** @param {number} pos */
  reveal(pos) {
    const place = this.shown.findIndex((group) => group.includes(pos));
    if (place < 0) return;
    const top = place * this.rowHeight;
    if (top < this.scroller.scrollTop || top + this.rowHeight > this.scroller.scrollTop + this.scroller.clientHeight) this.scroller.scrollTop = top;
    this.ask();
  }

  takeFocus() {
    this.scroller.focus({ preventScroll: true });
  }
}
