// @ts-check
/** What the panels of the sort view share of what is looked at: the event, the frame that is played, letters and colours of neighbours. */

import { lineWidth } from "./dom.js";

/** @typedef {import("./types.js").Candidate} Candidate */

export const LETTERS = "ABCDEFGH";
/** On pictures, which are dark in both themes. */
export const ON_DARK = ["#cc79a7", "#2fc79a", "#7ec8f5", "#ff8a3d", "#c9b8ff", "#f4cfae", "#ff9da7", "#b8c4ce"];
const ON_LIGHT = ["#a0467d", "#00795a", "#0072b2", "#b34e00", "#6a4fc0", "#857a00", "#b8404d", "#56636f"];
export const OWN = "#ffe45c";

export class Look extends EventTarget {
  constructor() {
    super();
    this.event = 0;
    this.frame = 0; // of the snippet, from 0
  }

  reset() {
    this.event = 0;
    this.frame = 0;
  }

  /** @param {Candidate | null} candidate @param {number} by */
  step(candidate, by) {
    const n = candidate?.events.length ?? 0;
    if (n) this.choose((this.event + by + n) % n);
  }

  /** @param {number} event */
  choose(event) {
    this.event = event;
    this.dispatchEvent(new CustomEvent("event"));
  }

  /** @param {number} frame */
  play(frame) {
    this.frame = frame;
    this.dispatchEvent(new CustomEvent("frame"));
  }
}

/** @param {number} i @param {boolean} onPicture */
export function neighbourColour(i, onPicture) {
  const some = onPicture || document.documentElement.dataset.theme !== "light" ? ON_DARK : ON_LIGHT;
  return some[i % some.length];
}

/**
 * Outlines over a picture. The context's unit is a pixel of the field of view.
 * @param {CanvasRenderingContext2D} context
 * @param {Candidate} candidate
 * @param {number} unit CSS pixels of one pixel
 * @param {{neighbours: boolean, own?: boolean}} what
 */
export function drawOutlines(context, candidate, unit, what) {
  context.lineJoin = "round";
  if (what.neighbours) {
    context.lineWidth = lineWidth(1.4) / unit;
    candidate.neighbours.forEach(({ pos }, i) => {
      const path = candidate.around.get(pos);
      if (!path) return;
      context.strokeStyle = neighbourColour(i, true);
      context.stroke(path);
    });
  }
  if (candidate.outline && what.own !== false) {
    context.strokeStyle = "rgba(0,0,0,0.7)";
    context.lineWidth = lineWidth(3.4) / unit;
    context.stroke(candidate.outline);
    context.strokeStyle = OWN;
    context.lineWidth = lineWidth(1.8) / unit;
    context.stroke(candidate.outline);
  }
}

/** The frames of a candidate's snippets as one canvas: events downwards, frames to the right. */
export class Frames {
  constructor() {
    this.canvas = document.createElement("canvas");
    this.context = /** @type {CanvasRenderingContext2D} */ (this.canvas.getContext("2d"));
    this.rows = 0;
    this.columns = 0;
    this.events = 0;
    this.length = 0;
  }

  /** @param {Candidate} candidate @param {number} dark @param {number} bright */
  fill(candidate, dark, bright) {
    const { frames, clip, clipMean, framesShape, clipRange } = candidate;
    if (!frames || !clip || !clipMean) {
      this.events = 0;
      return;
    }
    const [events, length, rows, columns] = framesShape;
    Object.assign(this, { events, length, rows, columns });
    if (this.canvas.width !== columns * length || this.canvas.height !== rows * events) {
      this.canvas.width = columns * length;
      this.canvas.height = rows * events;
    }
    const span = clipRange[1] - clipRange[0] || 1;
    const low = clipRange[0] + dark * span;
    const gain = 255 / (Math.max(dark + 0.02, bright) * span - dark * span);
    const data = new ImageData(columns * length, rows * events);
    const out = new Uint32Array(data.data.buffer);
    const size = rows * columns;
    const step = clip.step * gain;
    const base = new Float32Array(size);
    for (let i = 0; i < size; i += 1) base[i] = (clipMean[i] - low) * gain - 128 * step;
    let from = 0;
    for (let e = 0; e < events; e += 1) {
      for (let f = 0; f < length; f += 1) {
        for (let r = 0; r < rows; r += 1) {
          let to = (e * rows + r) * columns * length + f * columns;
          for (let i = r * columns; i < (r + 1) * columns; i += 1, from += 1, to += 1) {
            const level = frames[from];
            if (level === 0) continue; // no value there
            const v = base[i] + step * level;
            const g = v > 255 ? 255 : v > 0 ? v | 0 : 0;
            out[to] = (255 << 24) | (g << 16) | (g << 8) | g;
          }
        }
      }
    }
    this.context.putImageData(data, 0, 0);
  }

  /**
   * One frame, at its place in the field of view.
   * @param {CanvasRenderingContext2D} context whose unit is a pixel of the field of view
   * @param {Candidate} candidate
   * @param {number} event
   * @param {number} frame
   */
  draw(context, candidate, event, frame) {
    const { clip } = candidate;
    if (!clip || event >= this.events) return;
    const { rows, columns } = this;
    context.drawImage(this.canvas, frame * columns, event * rows, columns, rows, clip.low[1], clip.low[0], columns * clip.bin, rows * clip.bin);
  }
}

/**
 * Where a window of the field of view lies in a box so that all of it is seen.
 * @param {number[]} low
 * @param {number[]} size
 * @param {{x: number, y: number, w: number, h: number}} box
 */
export function fit(low, size, box) {
  const unit = Math.min(box.w / size[1], box.h / size[0]);
  const x = box.x + (box.w - unit * size[1]) / 2;
  const y = box.y + (box.h - unit * size[0]) / 2;
  return { unit, x, y, dx: x - low[1] * unit, dy: y - low[0] * unit, w: unit * size[1], h: unit * size[0] };
}

/**
 * Paints inside a window that `fit` has placed: the context's unit is a pixel of the field of view meanwhile, and nothing leaves the window.
 * @param {CanvasRenderingContext2D} context
 * @param {ReturnType<typeof fit>} at
 * @param {() => void} paint
 */
export function inWindow(context, at, paint) {
  context.save();
  context.beginPath();
  context.rect(at.x, at.y, at.w, at.h);
  context.clip();
  context.translate(at.dx, at.dy);
  context.scale(at.unit, at.unit);
  context.imageSmoothingEnabled = false;
  paint();
  context.restore();
}

/**
 * Text that is read on any picture.
 * @param {CanvasRenderingContext2D} context with font and alignment set
 * @param {string} text
 * @param {number} x
 * @param {number} y
 * @param {string} colour
 * @param {number} [width] the most it may take
 */
export function haloText(context, text, x, y, colour, width) {
  context.lineWidth = 3;
  context.strokeStyle = "rgba(0,0,0,0.85)";
  context.strokeText(text, x, y, width);
  context.fillStyle = colour;
  context.fillText(text, x, y, width);
}
