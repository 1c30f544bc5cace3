// @ts-check
/**
 * All footprints of a recording as one image over the field of view: each pixel belongs to one candidate, whose colour is looked up. What changes is
 * painted alone; everything is painted anew in idle time, strip by strip, so that no key has to wait for it.
 */

import { paint, SAID, STYLE } from "./colours.js";

/** @typedef {import("./store.js").App} App */
/** @typedef {import("./types.js").Footprints} Footprints */
/** @typedef {{x: number, y: number, w: number, h: number}} Rect in pixels of the field of view */

const STRIP = 400000; // pixels painted at a time
const INSIDE = [95, 16, 50, 34]; // opacity inside, by style
const EDGE = [225, 150, 200, 190]; // and of the outline; where a person said so it is full
const EVEN = 165; // for colours that are a scale

export class Layer {
  /**
   * @param {App} app
   * @param {Footprints} all
   * @param {number} start position of the recording's first candidate
   * @param {number} rows
   * @param {number} columns
   */
  constructor(app, all, start, rows, columns) {
    this.app = app;
    this.all = all;
    this.start = start;
    this.rows = rows;
    this.columns = columns;
    this.n = all.bounds.length - 1;
    this.colours = new Uint32Array(this.n);
    this.styles = new Uint8Array(this.n);
    this.owner = new Int32Array(rows * columns);
    this.edge = new Uint8Array(rows * columns);
    this.canvas = document.createElement("canvas");
    this.canvas.width = columns;
    this.canvas.height = rows;
    this.context = /** @type {CanvasRenderingContext2D} */ (this.canvas.getContext("2d"));
    this.data = new ImageData(columns, rows);
    this.pixels = new Uint32Array(this.data.data.buffer);
    // Small ones above large ones: each can be seen and clicked.
    this.order = Uint32Array.from({ length: this.n }, (_, i) => i).sort((a, b) => this.size(b) - this.size(a));
    /** Outlines are drawn as lines by the map, so none here. */
    this.lines = false;
    this.job = 0;
    this.hiding = "";
    this.own();
  }

  /** @param {number} i */
  size(i) {
    return this.all.bounds[i + 1] - this.all.bounds[i];
  }

  /** @param {number} i */
  hidden(i) {
    const { hideCells, hideNots } = this.app.settings;
    return (hideCells && (this.styles[i] & 3) === STYLE.filled) || (hideNots && (this.styles[i] & 3) === STYLE.dashed);
  }

  /** Whose each pixel is. */
  own() {
    const { all, owner, edge } = this;
    owner.fill(-1);
    for (const i of this.order) {
      if (this.hidden(i)) continue;
      for (let k = all.bounds[i]; k < all.bounds[i + 1]; k += 1) {
        owner[all.pixels[k]] = i;
        edge[all.pixels[k]] = all.edge[k];
      }
    }
  }

  get scaled() {
    const { kind } = this.app.colouring;
    return kind === "confidence" || kind === "feature";
  }

  /** @param {number} p @param {number} i its owner @param {boolean} scaled @param {boolean} outlined */
  colour(p, i, scaled, outlined) {
    const colour = this.colours[i] & 0xffffff;
    const style = this.styles[i] & 3;
    const said = this.styles[i] >= SAID;
    let alpha = scaled ? EVEN : INSIDE[style] * (said ? 1.35 : 1);
    if (outlined && this.edge[p]) {
      alpha = said ? 255 : EDGE[style];
      const x = p % this.columns;
      const y = (p - x) / this.columns;
      if (style === STYLE.dashed && (x + y) % 4 === 0) alpha *= 0.35;
      else if (style === STYLE.dotted && (x + y) % 2) alpha *= 0.3;
    }
    return ((alpha << 24) | colour) >>> 0;
  }

  /**
   * Paints some candidates.
   * @param {number[]} positions
   * @returns {Rect | null} what changed
   */
  some(positions) {
    const { all, owner, pixels, columns } = this;
    const { scaled } = this;
    const outlined = this.app.settings.outlines && !this.lines;
    let all0 = null;
    for (const pos of positions) {
      const i = pos - this.start;
      if (i < 0 || i >= this.n || !this.size(i)) continue;
      paint(this.app, this.start, this.colours, this.styles, i);
      let [x0, y0, x1, y1] = [Infinity, Infinity, -1, -1];
      for (let k = all.bounds[i]; k < all.bounds[i + 1]; k += 1) {
        const p = all.pixels[k];
        if (owner[p] === i) pixels[p] = this.colour(p, i, scaled, outlined);
        const x = p % columns;
        const y = (p - x) / columns;
        if (x < x0) x0 = x;
        if (x > x1) x1 = x;
        if (y < y0) y0 = y;
        if (y > y1) y1 = y;
      }
      this.context.putImageData(this.data, 0, 0, x0, y0, x1 - x0 + 1, y1 - y0 + 1);
      all0 = all0 ? [Math.min(all0[0], x0), Math.min(all0[1], y0), Math.max(all0[2], x1), Math.max(all0[3], y1)] : [x0, y0, x1, y1];
    }
    return all0 && { x: all0[0], y: all0[1], w: all0[2] - all0[0] + 1, h: all0[3] - all0[1] + 1 };
  }

  /** Which candidates look different since they were painted. @returns {number[]} positions */
  different() {
    const colours = new Uint32Array(this.n);
    const styles = new Uint8Array(this.n);
    paint(this.app, this.start, colours, styles);
    const out = [];
    for (let i = 0; i < this.n; i += 1) if (colours[i] !== this.colours[i] || styles[i] !== this.styles[i]) out.push(this.start + i);
    return out;
  }

  /** Paints everything when there is time. @param {() => void} done */
  everything(done) {
    this.job += 1;
    const job = this.job;
    const step = Math.max(1, Math.floor(STRIP / this.columns));
    let row = -1;
    const work = (/** @type {{timeRemaining: () => number, didTimeout: boolean}} */ deadline) => {
      if (job !== this.job) return; // a newer one has begun
      do {
        if (row < 0) {
          paint(this.app, this.start, this.colours, this.styles);
          const { hideCells, hideNots } = this.app.settings;
          const hiding = `${hideCells} ${hideNots}`;
          if (hideCells || hideNots || hiding !== this.hiding) this.own();
          this.hiding = hiding;
          row = 0;
        } else {
          this.strip(row, Math.min(this.rows, row + step));
          row += step;
        }
        if (row >= this.rows) return done();
      } while (deadline.timeRemaining() > 6);
      idle(work);
    };
    idle(work);
  }

  /** @param {number} from @param {number} to rows */
  strip(from, to) {
    const { owner, pixels, columns, scaled } = this;
    const outlined = this.app.settings.outlines && !this.lines;
    for (let p = from * columns; p < to * columns; p += 1) {
      const i = owner[p];
      pixels[p] = i < 0 ? 0 : this.colour(p, i, scaled, outlined);
    }
    this.context.putImageData(this.data, 0, 0, 0, from, columns, to - from);
  }

  /**
   * Candidates at a pixel, nearest centre first; else the nearest within `reach` pixels.
   * @param {number} x
   * @param {number} y
   * @param {number} reach
   */
  at(x, y, reach) {
    const { all } = this;
    const p = Math.floor(y) * this.columns + Math.floor(x);
    const distance = (/** @type {number} */ i) => Math.hypot(all.centres[2 * i] + 0.5 - y, all.centres[2 * i + 1] + 0.5 - x);
    const found = [];
    let nearest = -1;
    let least = reach;
    for (let i = 0; i < this.n; i += 1) {
      const far = distance(i);
      if (far > 2 + this.size(i) || this.hidden(i)) continue; // no footprint reaches farther than it has pixels
      if (far < least) [nearest, least] = [i, far];
      const end = all.bounds[i + 1];
      for (let k = all.bounds[i]; k < end; k += 1) {
        if (all.pixels[k] === p) {
          found.push(i);
          break;
        }
      }
    }
    found.sort((a, b) => distance(a) - distance(b));
    if (!found.length && nearest >= 0) found.push(nearest);
    return found;
  }
}

/** @param {(deadline: {timeRemaining: () => number, didTimeout: boolean}) => void} work */
export function idle(work) {
  if (window.requestIdleCallback) window.requestIdleCallback(work, { timeout: 400 });
  else setTimeout(() => work({ timeRemaining: () => 0, didTimeout: true }), 30); // Safari
}
