// @ts-check
/**
 * Small pictures of candidates: fetched in batches for what is visible, kept for a while.
 *
 * What is wanted is said anew at every painting; what was scrolled past before its turn came is never asked for.
 */

/** @typedef {import("../store.js").App} App */
/**
 * @typedef {object} Thumb
 * @property {HTMLCanvasElement} atlas
 * @property {number} x
 * @property {number} y
 * @property {number} size
 * @property {Uint8Array} trace 96 levels, 255 its maximum
 */

const BATCH = 48;
const FLIGHTS = 2;
const KEPT = 6000;
const ACROSS = 8;
const EDGE = 51; // a fifth of the maximum, as outlines are drawn elsewhere

export class Thumbs {
  /**
   * @param {App} app
   * @param {number} [size]
   */
  constructor(app, size = 48) {
    this.app = app;
    this.size = size;
    /** @type {Map<number, Thumb>} */
    this.known = new Map();
    /** @type {Map<string, ArrayLike<number>>} */
    this.wants = new Map();
    /** @type {Set<number>} */
    this.asked = new Set();
    /** @type {Map<string, () => void>} */
    this.watchers = new Map();
    this.flights = 0;
    this.failedAt = -Infinity;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.timer = undefined;
  }

  /**
   * @param {string} who one voice for each place that shows thumbs
   * @param {ArrayLike<number>} positions visible first
   */
  want(who, positions) {
    this.wants.set(who, positions);
    // A moment's pause, so that a flick of the wheel does not ask for all it passes.
    if (this.timer === undefined) {
      this.timer = setTimeout(() => {
        this.timer = undefined;
        this.pump();
      }, 25);
    }
  }

  /**
   * @param {string} who
   * @param {(() => void) | null} then called when new ones are there
   */
  watch(who, then) {
    if (then) this.watchers.set(who, then);
    else {
      this.watchers.delete(who);
      this.wants.delete(who);
    }
  }

  /** @param {number} pos */
  get(pos) {
    return this.known.get(pos) ?? null;
  }

  pump() {
    if (performance.now() - this.failedAt < 2000) return;
    while (this.flights < FLIGHTS) {
      /** @type {number[]} */
      const batch = [];
      for (const positions of this.wants.values()) {
        for (let i = 0; i < positions.length && batch.length < BATCH; i++) {
          if (!this.known.has(positions[i]) && !this.asked.has(positions[i])) {
            batch.push(positions[i]);
            this.asked.add(positions[i]);
          }
        }
      }
      if (!batch.length) return;
      this.flights += 1;
      this.fetch(batch);
    }
  }

  /** @param {number[]} batch */
  async fetch(batch) {
    try {
      const { arrays } = await this.app.api.pack("api/thumbs", { pos: batch.join(","), size: this.size });
      this.keep(batch, arrays.footprints, arrays.images, arrays.traces);
    } catch {
      // The page says elsewhere that the server is gone; a new try comes with the next painting after a pause.
      this.failedAt = performance.now();
      setTimeout(() => this.pump(), 2100);
    }
    for (const pos of batch) this.asked.delete(pos);
    this.flights -= 1;
    for (const then of this.watchers.values()) then();
    this.pump();
  }

  /**
   * @param {number[]} batch
   * @param {Uint8Array} footprints
   * @param {Uint8Array} images
   * @param {Uint8Array} traces
   */
  keep(batch, footprints, images, traces) {
    const size = Math.round(Math.sqrt(footprints.length / batch.length));
    const length = traces.length / batch.length;
    const atlas = document.createElement("canvas");
    atlas.width = Math.min(batch.length, ACROSS) * size;
    atlas.height = Math.ceil(batch.length / ACROSS) * size;
    const context = /** @type {CanvasRenderingContext2D} */ (atlas.getContext("2d", { willReadFrequently: false }));
    const picture = context.createImageData(size, size);
    batch.forEach((pos, k) => {
      compose(picture.data, footprints, images, k * size * size, size);
      const [x, y] = [(k % ACROSS) * size, Math.floor(k / ACROSS) * size];
      context.putImageData(picture, x, y);
      this.known.set(pos, { atlas, x, y, size, trace: traces.slice(k * length, (k + 1) * length) });
    });
    for (const pos of this.known.keys()) {
      if (this.known.size <= KEPT) break;
      this.known.delete(pos);
    }
  }
}

/**
 * The image in grey, the footprint as a light veil with a bright outline: readable whatever colour the frame around it has.
 * @param {Uint8ClampedArray} out RGBA
 * @param {Uint8Array} footprints
 * @param {Uint8Array} images
 * @param {number} start
 * @param {number} size
 */
function compose(out, footprints, images, start, size) {
  for (let row = 0, i = start, o = 0; row < size; row++) {
    for (let column = 0; column < size; column++, i++, o += 4) {
      const weight = footprints[i];
      let grey = images[i];
      if (weight >= EDGE) {
        const inside =
          (column === 0 || footprints[i - 1] >= EDGE) &&
          (column === size - 1 || footprints[i + 1] >= EDGE) &&
          (row === 0 || footprints[i - size] >= EDGE) &&
          (row === size - 1 || footprints[i + size] >= EDGE);
        grey = inside ? grey + ((255 - grey) * weight) / 1400 : 250;
        out[o] = grey;
        out[o + 1] = inside ? grey : 238;
        out[o + 2] = inside ? grey * 0.92 : 150;
      } else {
        out[o] = out[o + 1] = out[o + 2] = grey;
      }
      out[o + 3] = 255;
    }
  }
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {Uint8Array} trace
 * @param {number} x
 * @param {number} y
 * @param {number} width
 * @param {number} height
 * @param {string} colour
 */
export function drawSpark(context, trace, x, y, width, height, colour) {
  context.strokeStyle = colour;
  context.lineWidth = 1;
  context.lineJoin = "round";
  context.beginPath();
  const step = width / Math.max(1, trace.length - 1);
  for (let i = 0; i < trace.length; i++) {
    const py = y + height - (trace[i] / 255) * height;
    if (i) context.lineTo(x + i * step, py);
    else context.moveTo(x, py);
  }
  context.stroke();
}

/** @type {WeakMap<App, Map<number, Thumbs>>} */
const shared = new WeakMap();

/**
 * One store for all places that show thumbs of a size.
 * @param {App} app
 * @param {number} [size]
 */
export function thumbsOf(app, size = 48) {
  const sizes = shared.get(app) ?? new Map();
  shared.set(app, sizes);
  const found = sizes.get(size) ?? new Thumbs(app, size);
  sizes.set(size, found);
  return /** @type {Thumbs} */ (found);
}
