// @ts-check
/** The field of view with all footprints: colours, zoom, choosing. */

import { outlineOf } from "./decode.js";
import { h, lineWidth, Stage, variable } from "./dom.js";
import { css, SAID, STYLE } from "./colours.js";
import { imageCanvas, preferred } from "./image.js";
import { idle, Layer } from "./layer.js";
import { mapTools } from "./maptools.js";

/** @typedef {import("./store.js").App} App */

const LINES = 2.5; // device pixels per pixel from which on outlines are drawn as lines
const MOST_LINES = 1200; // candidates in sight up to which they are
const MOST_SOME = 1500; // changed candidates up to which they are painted one by one
const FAR = 40; // times the whole view: the closest zoom
const DASHES = { [STYLE.filled]: [], [STYLE.dashed]: [4, 3], [STYLE.dotted]: [1.5, 2.5], [STYLE.plain]: [] };

/** @param {HTMLElement} panel @param {App} app */
export function mountMap(panel, app) {
  const place = h("div", { class: "stage", id: "map-stage" });
  const map = new MapView(place, app);
  const tools = mapTools(app, map);
  panel.append(tools.head, place, tools.foot);
  place.append(tools.selected);
  return map;
}

export class MapView {
  /** @param {HTMLElement} place @param {App} app */
  constructor(place, app) {
    this.app = app;
    this.place = place;
    this.stage = new Stage(place, "Map of the field of view with the footprints of all candidates", () => this.resized());
    this.marks = new Stage(place, "The candidate that is shown, and those that are selected", () => this.mark(), "marks");
    this.recording = -1;
    /** @type {Layer | null} */
    this.layer = null;
    /** @type {import("./types.js").FovImage | null} */
    this.image = null;
    /** @type {HTMLCanvasElement | null} */
    this.base = null;
    this.scale = 0; // CSS pixels per pixel of the field of view
    this.x = 0; // of the field of view at the left border
    this.y = 0;
    /** @type {Map<number, Path2D>} */
    this.paths = new Map();
    /** @type {{x0: number, y0: number, x1: number, y1: number} | null} */
    this.box = null;
    this.lastHit = { x: -99, y: -99, turn: 0 };
    this.due = 0;
    this.listen();
  }

  listen() {
    const { app } = this;
    app.addEventListener("state", (event) => this.changed(/** @type {CustomEvent} */ (event).detail.changed));
    app.addEventListener("colouring", () => this.all());
    app.addEventListener("selection", () => this.mark());
    app.addEventListener("settings", (event) => {
      const some = /** @type {CustomEvent} */ (event).detail ?? {};
      if ("image" in some) this.load(this.recording);
      else if ("dark" in some || "bright" in some) this.contrast();
      if ("blind" in some || "outlines" in some || "hideCells" in some || "hideNots" in some) this.all();
      if ("opacity" in some) this.later();
    });
    app.actions.set("zoom_in", () => this.zoom(1.5));
    app.actions.set("zoom_out", () => this.zoom(1 / 1.5));
    app.actions.set("hide_outlines", () => app.set({ outlines: !app.settings.outlines }));
    this.pointer();
  }

  show() {
    const { current } = this.app;
    if (!current) return;
    if (current.recording !== this.recording) this.load(current.recording);
    this.mark();
    if (this.app.settings.follow) requestAnimationFrame(() => this.follow());
  }

  /** @param {number} recording */
  async load(recording) {
    if (recording < 0) return;
    const { app } = this;
    const info = app.info.recordings[recording];
    const changed = recording !== this.recording;
    this.recording = recording;
    if (changed) {
      this.layer = null;
      this.image = null;
      this.scale = 0;
      this.paths.clear();
    }
    const name = preferred(info.images, app.settings.image);
    try {
      const [image, all] = await Promise.all([app.image(recording, name), app.footprints(recording)]);
      if (recording !== this.recording) return;
      this.image = image;
      this.layer ??= new Layer(app, all, info.start, image.rows, image.columns);
      if (!this.scale) this.whole();
      this.contrast();
      if (changed) this.all();
      app.emit("map");
    } catch (error) {
      app.complain(error);
    }
  }

  contrast() {
    if (!this.image) return;
    const { dark, bright } = this.app.settings;
    this.base = imageCanvas(this.image, dark, bright, null, this.base ?? undefined);
    this.later();
  }

  /** @param {number[] | null} positions */
  changed(positions) {
    const { layer, app } = this;
    if (!layer) return;
    const { hideCells, hideNots } = app.settings;
    if (hideCells || hideNots) return this.all();
    if (!positions) return idle(() => this.compare());
    if (positions.length > MOST_SOME) return this.all();
    const rect = layer.some(positions);
    if (rect && app.view === "sort") this.draw(rect);
  }

  /** After a fit: only those that look different are painted. */
  compare() {
    const positions = this.layer?.different() ?? [];
    if (positions.length > MOST_SOME) return this.all();
    if (!positions.length || !this.layer) return;
    this.layer.some(positions);
    if (this.app.view === "sort") this.later();
  }

  all() {
    this.layer?.everything(() => this.later());
  }

  /** Draws with the next frame, once. */
  later() {
    if (this.due) return;
    this.due = requestAnimationFrame(() => {
      this.due = 0;
      this.draw();
      this.mark();
    });
  }

  resized() {
    if (!this.image) return;
    if (!this.scale || this.fits) this.whole();
    this.later();
  }

  get least() {
    if (!this.image) return 1;
    return Math.min(this.stage.width / this.image.columns, this.stage.height / this.image.rows) || 1;
  }

  whole() {
    if (!this.image || !this.stage.width) return;
    this.fits = true;
    this.scale = this.least;
    this.x = (this.image.columns - this.stage.width / this.scale) / 2;
    this.y = (this.image.rows - this.stage.height / this.scale) / 2;
    this.later();
  }

  /** @param {number} by @param {number} [cx] CSS pixels @param {number} [cy] */
  zoom(by, cx, cy) {
    if (!this.image) return;
    const scale = Math.max(this.least, Math.min(this.least * FAR, this.scale * by));
    if (scale <= this.least * 1.001) return this.whole();
    const { current } = this.app;
    // A key zooms on the candidate, the wheel where the pointer is.
    if (cx === undefined || cy === undefined) {
      if (current && current.recording === this.recording) {
        this.x = current.centre[1] + 0.5 - this.stage.width / scale / 2;
        this.y = current.centre[0] + 0.5 - this.stage.height / scale / 2;
      }
    } else {
      this.x += cx / this.scale - cx / scale;
      this.y += cy / this.scale - cy / scale;
    }
    this.fits = false;
    this.scale = scale;
    this.inside();
    this.later();
  }

  /** Nothing beside the field of view where there is enough of it. */
  inside() {
    if (!this.image) return;
    const [w, t] = [this.stage.width / this.scale, this.stage.height / this.scale];
    const { columns, rows } = this.image;
    this.x = w >= columns ? (columns - w) / 2 : Math.max(0, Math.min(columns - w, this.x));
    this.y = t >= rows ? (rows - t) / 2 : Math.max(0, Math.min(rows - t, this.y));
  }

  follow() {
    const { current } = this.app;
    if (!current || this.fits || !this.image || current.recording !== this.recording) return;
    const [w, t] = [this.stage.width / this.scale, this.stage.height / this.scale];
    const [r, c] = current.centre;
    if (Math.abs(c - this.x - w / 2) < 0.3 * w && Math.abs(r - this.y - t / 2) < 0.3 * t) return;
    this.x = c + 0.5 - w / 2;
    this.y = r + 0.5 - t / 2;
    this.inside();
    this.later();
  }

  /** @param {import("./layer.js").Rect} [rect] only this part of the field of view */
  draw(rect) {
    const { stage, image, base, layer, scale } = this;
    if (!image || !base || !layer || !stage.width) return;
    const { context, ratio } = stage;
    const inSight = (layer.n * Math.min(1, (stage.width / scale / image.columns) * Math.min(1, stage.height / scale / image.rows)));
    const lines = this.app.settings.outlines && scale * ratio >= LINES && inSight <= MOST_LINES;
    if (lines !== layer.lines) {
      layer.lines = lines;
      this.all();
    }
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.save();
    let around = null;
    if (rect) {
      around = { x: rect.x - 2, y: rect.y - 2, w: rect.w + 4, h: rect.h + 4 };
      context.beginPath();
      context.rect((around.x - this.x) * scale * ratio, (around.y - this.y) * scale * ratio, around.w * scale * ratio, around.h * scale * ratio);
      context.clip();
    }
    context.fillStyle = variable("--canvas");
    context.fillRect(0, 0, stage.canvas.width, stage.canvas.height);
    context.setTransform(scale * ratio, 0, 0, scale * ratio, -this.x * scale * ratio, -this.y * scale * ratio);
    context.imageSmoothingEnabled = scale * ratio < 1;
    // Only what is in sight: scaling the rest would be for nothing.
    const x0 = Math.max(0, Math.floor(around?.x ?? this.x));
    const y0 = Math.max(0, Math.floor(around?.y ?? this.y));
    const x1 = Math.min(image.columns, Math.ceil(around ? around.x + around.w : this.x + stage.width / scale));
    const y1 = Math.min(image.rows, Math.ceil(around ? around.y + around.h : this.y + stage.height / scale));
    if (x1 > x0 && y1 > y0) {
      context.drawImage(base, x0, y0, x1 - x0, y1 - y0, x0, y0, x1 - x0, y1 - y0);
      context.globalAlpha = this.app.settings.opacity;
      context.drawImage(layer.canvas, x0, y0, x1 - x0, y1 - y0, x0, y0, x1 - x0, y1 - y0);
      if (lines) this.lines(context, x0, y0, x1, y1);
    }
    context.restore();
  }

  /** @param {CanvasRenderingContext2D} context @param {number} x0 @param {number} y0 @param {number} x1 @param {number} y1 */
  lines(context, x0, y0, x1, y1) {
    const { layer, scale } = this;
    if (!layer) return;
    const { all } = layer;
    context.globalAlpha = Math.min(1, this.app.settings.opacity + 0.2);
    for (let i = 0; i < layer.n; i += 1) {
      const reach = Math.sqrt(layer.size(i)) * 2 + 4;
      const [r, c] = [all.centres[2 * i], all.centres[2 * i + 1]];
      if (c < x0 - reach || c > x1 + reach || r < y0 - reach || r > y1 + reach || layer.hidden(i)) continue;
      context.lineWidth = lineWidth(layer.styles[i] >= SAID ? 2 : 1.2) / scale;
      context.strokeStyle = css(layer.colours[i]);
      context.setLineDash(/** @type {Record<number, number[]>} */ (DASHES)[layer.styles[i] & 3].map((d) => lineWidth(d) / scale));
      context.stroke(this.path(i));
    }
    context.setLineDash([]);
  }

  /** @param {number} i */
  path(i) {
    let path = this.paths.get(i);
    if (!path && this.layer) {
      const { all, columns } = this.layer;
      path = outlineOf(all.pixels.subarray(all.bounds[i], all.bounds[i + 1]), columns);
      if (this.paths.size > 4000) this.paths.clear();
      this.paths.set(i, path);
    }
    return path ?? new Path2D();
  }

  /** The candidate that is shown, the selected ones, the rectangle that is drawn. */
  mark() {
    const { marks, layer, scale, app } = this;
    const context = marks.clear();
    if (!layer || !scale) return;
    const { current } = app;
    context.save();
    context.translate(-this.x * scale, -this.y * scale);
    context.scale(scale, scale);
    if (app.selection.size) {
      context.strokeStyle = "#ffffff";
      context.lineWidth = lineWidth(1.6) / scale;
      context.beginPath();
      const { centres } = layer.all;
      for (const pos of app.selection) {
        const i = pos - layer.start;
        if (i < 0 || i >= layer.n) continue;
        const [r, c] = [centres[2 * i] + 0.5, centres[2 * i + 1] + 0.5];
        const size = Math.max(3 / scale, Math.sqrt(layer.size(i) / Math.PI) + 1.5);
        context.moveTo(c + size, r);
        context.arc(c, r, size, 0, 7);
      }
      context.stroke();
    }
    if (current && current.recording === this.recording && current.outline) {
      context.lineJoin = "round";
      context.strokeStyle = "rgba(0,0,0,0.85)";
      context.lineWidth = lineWidth(4.5) / scale;
      context.stroke(current.outline);
      context.strokeStyle = "#ffe45c";
      context.lineWidth = lineWidth(2) / scale;
      context.stroke(current.outline);
      // Four ticks round it: found at a glance even where it is three pixels wide.
      const [r, c] = [current.centre[0] + 0.5, current.centre[1] + 0.5];
      const near = Math.max(lineWidth(10) / scale, Math.sqrt(current.area) * 0.75 + lineWidth(4) / scale);
      const far = near + lineWidth(13) / scale;
      for (const [style, width] of /** @type {[string, number][]} */ ([["rgba(0,0,0,0.85)", 4.5], ["#ffe45c", 2]])) {
        context.strokeStyle = style;
        context.lineWidth = lineWidth(width) / scale;
        context.beginPath();
        for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
          context.moveTo(c + dx * near, r + dy * near);
          context.lineTo(c + dx * far, r + dy * far);
        }
        context.stroke();
      }
    }
    context.restore();
    if (this.box) {
      const { x0, y0, x1, y1 } = this.box;
      context.fillStyle = "rgba(255,255,255,0.12)";
      context.strokeStyle = "#ffffff";
      context.lineWidth = 1;
      context.fillRect(x0, y0, x1 - x0, y1 - y0);
      context.strokeRect(x0 + 0.5, y0 + 0.5, x1 - x0, y1 - y0);
    }
  }

  pointer() {
    const canvas = this.marks.canvas;
    /** @type {{x: number, y: number, shift: boolean, moved: boolean, x0: number, y0: number} | null} */
    let down = null;
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom(2 ** (-event.deltaY * (event.deltaMode ? 0.08 : 0.0025)), event.offsetX, event.offsetY);
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      down = { x: event.offsetX, y: event.offsetY, shift: event.shiftKey, moved: false, x0: this.x, y0: this.y };
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!down) return;
      const [dx, dy] = [event.offsetX - down.x, event.offsetY - down.y];
      if (!down.moved && Math.hypot(dx, dy) < 4) return;
      down.moved = true;
      if (down.shift) {
        this.box = { x0: down.x, y0: down.y, x1: event.offsetX, y1: event.offsetY };
        this.mark();
      } else if (!this.fits) {
        this.x = down.x0 - dx / this.scale;
        this.y = down.y0 - dy / this.scale;
        this.inside();
        this.later();
      }
    });
    const up = (/** @type {PointerEvent} */ event) => {
      if (!down) return;
      const { moved, shift } = down;
      down = null;
      if (this.box) this.choose(this.box);
      else if (!moved && event.type === "pointerup") this.hit(event.offsetX, event.offsetY, shift);
      this.box = null;
      this.mark();
    };
    canvas.addEventListener("pointerup", up);
    canvas.addEventListener("pointercancel", up);
  }

  /** @param {number} x @param {number} y @param {boolean} shift */
  hit(x, y, shift) {
    const { layer, app } = this;
    if (!layer) return;
    const found = layer.at(x / this.scale + this.x, y / this.scale + this.y, 8 / this.scale);
    if (!found.length) return;
    if (shift) return app.select([layer.start + found[0]], "toggle");
    const same = Math.hypot(x - this.lastHit.x, y - this.lastHit.y) < 4;
    // Clicked again at the same place: the next one of those that overlap there.
    const turn = same ? (this.lastHit.turn + 1) % found.length : 0;
    this.lastHit = { x, y, turn };
    app.goto(layer.start + found[turn]);
  }

  /** @param {{x0: number, y0: number, x1: number, y1: number}} box */
  choose(box) {
    const { layer, app } = this;
    if (!layer) return;
    const [left, right] = [Math.min(box.x0, box.x1), Math.max(box.x0, box.x1)].map((v) => v / this.scale + this.x);
    const [top, bottom] = [Math.min(box.y0, box.y1), Math.max(box.y0, box.y1)].map((v) => v / this.scale + this.y);
    const { centres } = layer.all;
    const found = [];
    for (let i = 0; i < layer.n; i += 1) {
      const [r, c] = [centres[2 * i] + 0.5, centres[2 * i + 1] + 0.5];
      if (c >= left && c <= right && r >= top && r <= bottom && !layer.hidden(i)) found.push(layer.start + i);
    }
    app.select(found, "add");
    if (!found.length) app.say("No candidate has its centre in there.", { kind: "info" });
  }
}

