// @ts-check
/** A gallery of candidates on one canvas: only what is visible is painted, whatever the number. */

import { font, h, put } from "../dom.js";
import { newName, unit } from "./dom.js";
import { chance } from "./facts.js";
import { fitCanvas, onTheme, palette } from "./palette.js";
import { drawSpark } from "./thumbs.js";

/** @typedef {import("./review.js").Desk} Desk */
/** @typedef {import("./palette.js").Palette} Palette */

/** Width of a tile by name, in CSS pixels of a small window. */
const SIZES = /** @type {const} */ ({ small: 84, medium: 116, large: 164 });
const PAD = 4;
const OVERSCAN = 2; // rows whose thumbs are fetched ahead

export class Gallery {
  /**
   * @param {HTMLElement} host
   * @param {Desk} desk
   * @param {string} label
   */
  constructor(host, desk, label) {
    this.desk = desk;
    this.voice = newName("gallery");
    /** @type {Uint32Array} */
    this.order = new Uint32Array(0);
    /** Place in this gallery of each candidate; filled when asked. @type {Map<number, number> | null} */
    this.places = null;
    this.canvas = h("canvas", { class: "rv-canvas", "aria-hidden": "true" });
    this.option = h("div", { role: "option", id: newName("option"), class: "rv-unseen", "aria-selected": "false" });
    this.list = h(
      "div",
      {
        class: "rv-list",
        role: "listbox",
        tabindex: 0,
        "aria-multiselectable": "true",
        "aria-label": label,
        "aria-activedescendant": this.option.id,
      },
      this.option,
    );
    this.window = h("div", { class: "rv-window" }, this.canvas, this.list);
    this.spacer = h("div", { class: "rv-spacer" });
    this.scroller = h("div", { class: "rv-scroller" }, this.window, this.spacer);
    this.empty = h("p", { class: "rv-empty", hidden: true }, "");
    this.host = h("div", { class: "rv-gallery" }, this.scroller, this.empty);
    host.append(this.host);
    this.asked = 0;
    this.columns = 0;
    this.tile = 0;
    this.spark = 0;
    this.rowHeight = 1;
    this.rows = 0;
    this.gap = 9;
    this.unit = 1;
    /** @type {{x: number, y: number} | null} */
    this.mouse = null;
    /** @type {{x: number, y: number, at: number} | null} where a drag began, in the scrolled page */
    this.band = null;
    this.dragged = false;
    this.scroller.addEventListener("scroll", () => this.ask(), { passive: true });
    this.sizes = new ResizeObserver(() => this.measure());
    this.sizes.observe(this.scroller);
    onTheme(() => this.ask());
    desk.thumbs.watch(this.voice, () => this.ask());
    this.list.addEventListener("keydown", (event) => this.key(event));
    this.list.addEventListener("focus", () => this.ask());
    this.list.addEventListener("blur", () => this.ask());
    this.list.addEventListener("pointerdown", (event) => this.press(event));
    this.list.addEventListener("pointermove", (event) => this.move(event));
    this.list.addEventListener("pointerup", (event) => this.release(event));
    this.list.addEventListener("pointercancel", () => (this.band = null));
    this.list.addEventListener("dblclick", (event) => {
      const place = this.hit(event.offsetX, event.offsetY);
      if (place >= 0) this.desk.open(this.order[place], this.order);
    });
  }

  close() {
    this.sizes.disconnect();
    this.desk.thumbs.watch(this.voice, null);
    cancelAnimationFrame(this.asked);
    this.host.remove();
  }

  /** @param {Uint32Array} order */
  show(order) {
    this.order = order;
    this.places = null;
    this.measure();
  }

  /** @param {number} pos */
  placeOf(pos) {
    if (!this.places) {
      this.places = new Map();
      for (let i = 0; i < this.order.length; i++) this.places.set(this.order[i], i);
    }
    return this.places.get(pos) ?? -1;
  }

  measure() {
    const width = this.scroller.clientWidth;
    this.unit = unit();
    const GAP = Math.round(9 * this.unit);
    this.gap = GAP;
    const tile = SIZES[this.desk.size] * this.unit;
    this.columns = Math.max(1, Math.floor((width - GAP) / (tile + GAP)));
    // What is left over is given to the tiles, so that both edges are straight.
    this.tile = Math.floor((width - GAP) / this.columns) - GAP;
    this.tile = Math.min(this.tile, tile * 1.5);
    this.spark = Math.round(this.tile * 0.24);
    this.rowHeight = Math.round(this.tile + this.spark + 20 * this.unit + GAP);
    this.rows = Math.ceil(this.order.length / this.columns);
    this.spacer.style.height = `${Math.max(0, this.rows * this.rowHeight + GAP - this.scroller.clientHeight)}px`;
    this.empty.hidden = this.order.length > 0;
    put(this.empty, this.desk.whyEmpty());
    this.ask();
  }

  ask() {
    cancelAnimationFrame(this.asked);
    this.asked = requestAnimationFrame(() => this.paint());
  }

  paint() {
    const [width, height] = [this.scroller.clientWidth, this.scroller.clientHeight];
    if (!width || !height || !this.columns) return;
    const colours = palette();
    const context = fitCanvas(this.canvas, width, height);
    context.clearRect(0, 0, width, height);
    const top = this.scroller.scrollTop;
    const first = Math.max(0, Math.floor((top - this.gap) / this.rowHeight));
    const last = Math.min(this.rows - 1, Math.floor((top + height) / this.rowHeight));
    const from = first * this.columns;
    const to = Math.min(this.order.length, (last + 1) * this.columns);
    for (let place = from; place < to; place++) {
      const x = this.gap + (place % this.columns) * (this.tile + this.gap);
      const y = this.gap + Math.floor(place / this.columns) * this.rowHeight - top;
      this.drawTile(context, this.order[place], x, y, colours);
    }
    if (this.band && this.dragged && this.mouse) this.drawBand(context, colours);
    const ahead = Math.min(this.order.length, to + OVERSCAN * this.columns);
    const behind = Math.max(0, from - OVERSCAN * this.columns);
    // Subarrays only: nothing is copied while scrolling. Visible ones come first.
    this.desk.thumbs.want(this.voice, this.order.subarray(from, ahead));
    this.desk.thumbs.want(`${this.voice}-behind`, this.order.subarray(behind, from));
    this.announce();
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {number} pos
   * @param {number} x
   * @param {number} y
   * @param {Palette} colours
   */
  drawTile(context, pos, x, y, colours) {
    const { desk, tile } = this;
    const { facts, app } = desk;
    const state = facts.state;
    const height = this.rowHeight - this.gap;
    const chosen = app.selection.has(pos);
    context.fillStyle = chosen ? colours.raised : colours.surface;
    context.fillRect(x, y, tile, height);
    const inner = tile - 2 * PAD;
    const thumb = desk.thumbs.get(pos);
    if (thumb) {
      context.imageSmoothingEnabled = true;
      context.drawImage(thumb.atlas, thumb.x, thumb.y, thumb.size, thumb.size, x + PAD, y + PAD, inner, inner);
      drawSpark(context, thumb.trace, x + PAD + 1, y + PAD + inner + 4, inner - 2, this.spark - 6, colours.text);
    } else {
      context.fillStyle = colours.line;
      context.fillRect(x + PAD, y + PAD, inner, inner);
    }
    const base = y + height - 7 * this.unit;
    context.font = font(0.85);
    context.textBaseline = "alphabetic";
    context.textAlign = "left";
    context.fillStyle = colours.muted;
    const shown = facts.recordings.length > 1 && tile < 100 ? String(facts.index(pos)) : facts.name(pos);
    const right = app.blind || !state ? "" : chance(state.probability[pos]);
    context.save();
    context.beginPath();
    context.rect(x + PAD, base - 12 * this.unit, inner - (right ? 27 * this.unit : 0), 16 * this.unit);
    context.clip();
    context.fillText(shown, x + PAD, base);
    context.restore();
    context.textAlign = "right";
    context.fillStyle = colours.text;
    context.fillText(right, x + tile - PAD, base);
    this.drawFrame(context, pos, x, y, height, colours);
    if (!state) return;
    if (state.label[pos]) drawMark(context, x + PAD + 2, y + PAD + 2, facts.kinds[state.label[pos]], state.label[pos], colours, this.unit);
    if (state.flagged[pos]) drawFlag(context, x + tile - PAD - 14 * this.unit, y + PAD + 3, colours, this.unit);
    if (chosen) {
      context.strokeStyle = colours.accent;
      context.lineWidth = 3 * this.unit;
      const far = 1 + 1.5 * this.unit;
      context.strokeRect(x - far, y - far, tile + 2 * far, height + 2 * far);
      drawTick(context, x + tile - PAD - 16 * this.unit, y + PAD + inner - 16 * this.unit, colours, this.unit);
    }
    if (pos === desk.focus) {
      const here = document.activeElement === this.list;
      context.strokeStyle = here ? colours.focus : colours.muted;
      context.lineWidth = (here ? 2 : 1.5) * this.unit;
      const far = this.gap / 2;
      context.strokeRect(x - far, y - far, tile + 2 * far, height + 2 * far);
    }
  }

  /**
   * Decision in colour and in style: a cell has a solid frame, not a cell a dashed one.
   * @param {CanvasRenderingContext2D} context
   * @param {number} pos
   * @param {number} x
   * @param {number} y
   * @param {number} height
   * @param {Palette} colours
   */
  drawFrame(context, pos, x, y, height, colours) {
    const { facts, app } = this.desk;
    const labelled = (facts.state?.label[pos] ?? 0) > 0;
    const decision = app.blind && !labelled ? 2 : facts.decision(pos);
    context.strokeStyle = decision === 1 ? colours.cell : decision === 0 ? colours.notCell : colours.line;
    context.lineWidth = (decision === 2 ? 1 : 2) * this.unit;
    context.setLineDash(decision === 0 ? [5 * this.unit, 3 * this.unit] : []);
    context.strokeRect(x + this.unit, y + this.unit, this.tile - 2 * this.unit, height - 2 * this.unit);
    context.setLineDash([]);
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {Palette} colours
   */
  drawBand(context, colours) {
    if (!this.band || !this.mouse) return;
    const top = this.band.y - this.scroller.scrollTop;
    context.strokeStyle = colours.accent;
    context.lineWidth = 1;
    context.setLineDash([3, 2]);
    context.strokeRect(this.band.x, top, this.mouse.x - this.band.x, this.mouse.y - this.scroller.scrollTop - top);
    context.setLineDash([]);
  }

  announce() {
    const { focus, facts, app } = this.desk;
    const place = focus >= 0 ? this.placeOf(focus) : -1;
    put(this.option, place >= 0 ? facts.sentence(focus) : "No candidate is in focus");
    this.option.setAttribute("aria-selected", String(place >= 0 && app.selection.has(focus)));
    this.option.setAttribute("aria-setsize", String(Math.max(1, this.order.length)));
    this.option.setAttribute("aria-posinset", String(Math.max(1, place + 1)));
  }

  /**
   * @param {number} x CSS pixels of the window
   * @param {number} y
   */
  hit(x, y) {
    const column = Math.floor((x - this.gap / 2) / (this.tile + this.gap));
    const row = Math.floor((y + this.scroller.scrollTop - this.gap / 2) / this.rowHeight);
    const place = row * this.columns + column;
    return column < 0 || column >= this.columns || place < 0 || place >= this.order.length ? -1 : place;
  }

  /** @param {PointerEvent} event */
  press(event) {
    if (event.button !== 0) return;
    this.band = { x: event.offsetX, y: event.offsetY + this.scroller.scrollTop, at: performance.now() };
    this.dragged = false;
    this.list.setPointerCapture(event.pointerId);
  }

  /** @param {PointerEvent} event */
  move(event) {
    if (!this.band) {
      const place = this.hit(event.offsetX, event.offsetY);
      const title = place >= 0 ? this.desk.facts.sentence(this.order[place]) : "";
      if (this.list.title !== title) this.list.title = title;
      return;
    }
    this.mouse = { x: event.offsetX, y: event.offsetY + this.scroller.scrollTop };
    if (!this.dragged && Math.hypot(this.mouse.x - this.band.x, this.mouse.y - this.band.y) < 8) return;
    this.dragged = true;
    this.ask();
  }

  /** @param {PointerEvent} event */
  release(event) {
    const band = this.band;
    this.band = null;
    if (!band) return;
    if (this.dragged && this.mouse) {
      this.desk.select(this.inside(band, this.mouse), event.ctrlKey || event.metaKey || event.shiftKey ? "add" : "set");
      this.dragged = false;
      this.ask();
      return;
    }
    const place = this.hit(event.offsetX, event.offsetY);
    if (place >= 0) this.desk.click(place, this.order, event);
    else this.desk.select([], "set");
  }

  /**
   * @param {{x: number, y: number}} a corner in the scrolled page
   * @param {{x: number, y: number}} b
   */
  inside(a, b) {
    const pitch = this.tile + this.gap;
    const [left, right] = [Math.min(a.x, b.x), Math.max(a.x, b.x)];
    const [up, down] = [Math.min(a.y, b.y), Math.max(a.y, b.y)];
    const positions = [];
    for (let row = Math.max(0, Math.floor((up - this.gap) / this.rowHeight)); row <= (down - this.gap) / this.rowHeight; row++) {
      for (let column = Math.max(0, Math.floor((left - this.gap) / pitch)); column < this.columns && column <= (right - this.gap) / pitch; column++) {
        const place = row * this.columns + column;
        if (place < this.order.length) positions.push(this.order[place]);
      }
    }
    return positions;
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    const page = Math.max(1, Math.floor(this.scroller.clientHeight / this.rowHeight)) * this.columns;
    this.desk.key(event, this.order, this.columns, page);
  }

  /** @param {number} pos scrolled to, if it is here */
  reveal(pos) {
    const place = this.placeOf(pos);
    if (place < 0 || !this.columns) return;
    const y = Math.floor(place / this.columns) * this.rowHeight;
    const top = this.scroller.scrollTop;
    const height = this.scroller.clientHeight;
    if (y < top) this.scroller.scrollTop = y;
    else if (y + this.rowHeight + this.gap > top + height) this.scroller.scrollTop = y + this.rowHeight + this.gap - height;
    this.ask();
  }

  takeFocus() {
    this.list.focus({ preventScroll: true });
  }
}

/**
 * Draws something of 16 x 16 at a place, as large as the page's letters.
 * @param {CanvasRenderingContext2D} context
 * @param {number} x
 * @param {number} y
 * @param {number} scale
 * @param {() => void} draw
 */
function placed(context, x, y, scale, draw) {
  context.save();
  context.translate(x, y);
  context.scale(scale, scale);
  draw();
  context.restore();
}

/**
 * What a person said: a filled badge, its sign different for each kind.
 * @param {CanvasRenderingContext2D} context
 * @param {number} x
 * @param {number} y
 * @param {number} kind
 * @param {number} label
 * @param {Palette} colours
 * @param {number} scale
 */
export function drawMark(context, x, y, kind, label, colours, scale) {
  placed(context, x, y, scale, () => {
    context.fillStyle = kind === 1 ? colours.cell : kind === 0 ? colours.notCell : colours.unsure;
    context.beginPath();
    if (kind === 1) context.arc(8, 8, 8, 0, 7);
    else context.rect(0, 0, 16, 16);
    context.fill();
    context.strokeStyle = context.fillStyle = colours.onAccent;
    context.lineWidth = 2;
    context.textAlign = "center";
    context.font = "bold 12px system-ui, sans-serif";
    context.beginPath();
    if (label > 3) context.fillText(String(label - 3), 8, 12.5);
    else if (kind === 1) path(context, [4, 8.5, 7, 11.5, 12, 5]);
    else if (kind === 0) path(context, [4.5, 4.5, 11.5, 11.5], [11.5, 4.5, 4.5, 11.5]);
    else context.fillText("?", 8, 12.5);
    context.stroke();
  });
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {...number[]} lines x, y, x, y...
 */
function path(context, ...lines) {
  for (const line of lines) {
    context.moveTo(line[0], line[1]);
    for (let i = 2; i < line.length; i += 2) context.lineTo(line[i], line[i + 1]);
  }
}

/**
 * It is selected.
 * @param {CanvasRenderingContext2D} context
 * @param {number} x
 * @param {number} y
 * @param {Palette} colours
 * @param {number} scale
 */
function drawTick(context, x, y, colours, scale) {
  placed(context, x, y, scale, () => {
    context.fillStyle = colours.accent;
    context.fillRect(0, 0, 16, 16);
    context.strokeStyle = colours.onAccent;
    context.lineWidth = 2;
    context.beginPath();
    path(context, [3.5, 8, 7, 11.5, 12.5, 4]);
    context.stroke();
  });
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {number} x
 * @param {number} y
 * @param {Palette} colours
 * @param {number} scale
 */
function drawFlag(context, x, y, colours, scale) {
  placed(context, x, y, scale, () => {
    context.fillStyle = colours.flag;
    context.strokeStyle = "#000";
    context.lineWidth = 0.75;
    context.beginPath();
    path(context, [1, 0, 12, 4, 3, 8, 3, 14, 1, 14, 1, 0]);
    context.fill();
    context.stroke();
  });
}
