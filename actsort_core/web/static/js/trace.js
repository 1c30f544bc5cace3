// @ts-check
/** The trace: all of it with its events, the chosen event from near, and the traces of those that overlap. */

import { drawTrace, extent, number, ticks, two } from "./curve.js";
import { font, h, lineWidth, put, rootSize, Stage, toggle, variable } from "./dom.js";
import { actionButton } from "./keys.js";
import { LETTERS, neighbourColour } from "./look.js";

/** @typedef {import("./store.js").App} App */
/** @typedef {import("./types.js").Candidate} Candidate */
/** @typedef {import("./curve.js").Source} Source */

const NEAR = 60; // frames before and after the event that are shown from near
const ZOOM = 150; // and where the whole panel zooms on it
const LEAST = 20; // frames, the closest zoom
const HALF = 5; // frames of a snippet before its event
const WAIT = 350; // ms that a stretch is looked at before more of it is fetched: who sorts fast does not need it
const KEEP = 60; // stretches kept

/** @param {HTMLElement} panel @param {App} app @param {import("./look.js").Look} look */
export function mountTrace(panel, app, look) {
  return new TraceView(panel, app, look);
}

class TraceView {
  /** @param {HTMLElement} panel @param {App} app @param {import("./look.js").Look} look */
  constructor(panel, app, look) {
    this.app = app;
    this.look = look;
    this.from = 0;
    this.to = 1;
    /** Zoomed on the event, candidate after candidate. */
    this.near = false;
    /** @type {{x0: number, x1: number} | null} */
    this.box = null;
    /** @type {Map<string, Source & {pos: number}>} */
    this.details = new Map();
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.timer = undefined;
    /** @type {Map<string, {pos: number, start: number, stop: number}> | undefined} */
    this.wanted = undefined;
    this.left = h("div", { class: "stage paper", id: "trace-stage" });
    this.right = h("div", { class: "stage paper near-stage", id: "event-stage" });
    this.whole = new Stage(this.left, "Trace over time, with its events and the traces of its neighbours", () => this.draw());
    this.marks = new Stage(this.left, "Frame of the snippet that is playing", () => this.mark(), "marks");
    this.event = new Stage(this.right, "The chosen event from near", () => this.draw());
    this.eventMarks = new Stage(this.right, "Frame of the snippet that is playing, from near", () => this.mark());
    this.unit = h("span", { class: "quiet ellipsis", id: "trace-unit" });
    this.neighbours = toggle("Neighbours", "Traces of the candidates that overlap it, below", app.settings.neighbours, (on) => app.set({ neighbours: on }), { id: "trace-neighbours" });
    this.neighbours.addEventListener("click", (event) => event.detail > 0 && this.neighbours.blur());
    const button = (/** @type {string} */ text, /** @type {string} */ title, /** @type {() => void} */ deed) =>
      h("button", { type: "button", title, "aria-label": title, onclick: (/** @type {MouseEvent} */ event) => {
        deed();
        if (event.detail > 0) /** @type {HTMLElement} */ (event.currentTarget).blur();
      } }, text);
    this.zoomed = actionButton(app, "zoom_trace", { text: "Event" });
    panel.append(
      h("div", { class: "tools" }, h("h2", {}, "Trace"), this.unit, h("span", { class: "grow" }), this.neighbours, button("−", "Zoom out of the trace", () => this.zoom(2)), button("+", "Zoom in on the trace", () => this.zoom(0.5)), button("Whole", "The whole trace", () => this.all()), this.zoomed),
      h("div", { class: "two" }, this.left, this.right),
    );
    app.actions.set("zoom_trace", () => {
      this.near = !this.near;
      this.reset();
      this.draw();
    });
    look.addEventListener("frame", () => this.mark());
    look.addEventListener("event", () => {
      if (this.near) this.reset();
      this.draw();
    });
    app.addEventListener("settings", () => {
      this.neighbours.setAttribute("aria-pressed", String(app.settings.neighbours));
      this.draw();
    });
    this.pointer();
  }

  show() {
    const { current } = this.app;
    if (!current) return;
    this.reset();
    const info = this.app.info.recordings[current.recording];
    put(this.unit, `${info.trace_kind}${info.fps ? `, ${info.fps} frames/s` : ", frame rate unknown"}`, info.trace_kind);
    this.draw();
  }

  get frames() {
    const { current } = this.app;
    return current ? this.app.info.recordings[current.recording].n_frames : 1;
  }

  reset() {
    const { current } = this.app;
    const frames = this.frames;
    const event = current?.events[this.look.event];
    this.zoomed.setAttribute("aria-pressed", String(this.near));
    if (this.near && event !== undefined) this.range(event - ZOOM, event + ZOOM);
    else [this.from, this.to] = [0, frames];
  }

  all() {
    this.near = false;
    this.reset();
    this.draw();
  }

  /** @param {number} from @param {number} to */
  range(from, to) {
    const frames = this.frames;
    const span = Math.min(frames, Math.max(LEAST, to - from));
    this.from = Math.max(0, Math.min(frames - span, from));
    this.to = this.from + span;
  }

  /** @param {number} by @param {number} [at] frame that stays where it is */
  zoom(by, at = (this.from + this.to) / 2) {
    this.range(at - (at - this.from) * by, at + (this.to - at) * by);
    this.draw();
  }

  /** The best that is known of a stretch; more is fetched where pixels would be wider than values. @param {number} pos @param {Source} whole @param {number} from @param {number} to @param {number} width */
  source(pos, whole, from, to, width) {
    if (whole.full) return whole;
    const perFrame = whole.values.length / 2 / (whole.stop - whole.start);
    if ((to - from) * perFrame >= width * 0.6) return whole; // each value is a lowest and a highest: hardly coarser than the pixels
    for (const detail of this.details.values()) {
      if (detail.pos === pos && detail.start <= from && detail.stop >= to && (detail.full || (detail.values.length / 2 / (detail.stop - detail.start)) * (to - from) >= width * 0.7)) return detail;
    }
    this.want(pos, from, to);
    return whole;
  }

  /** @param {number} pos @param {number} from @param {number} to */
  want(pos, from, to) {
    // Somewhat more than is seen, so that moving on does not wait each time.
    const margin = (to - from) / 2;
    const start = Math.max(0, Math.floor(from - margin));
    const stop = Math.min(this.frames, Math.ceil(to + margin));
    this.wanted ??= new Map();
    this.wanted.set(`${pos}/${start}/${stop}`, { pos, start, stop });
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.fetch(), WAIT);
  }

  async fetch() {
    const wanted = this.wanted;
    this.wanted = undefined;
    const { current } = this.app;
    if (!wanted || !current) return;
    const near = new Set([current.pos, ...current.neighbours.map((n) => n.pos)]);
    for (const [key, { pos, start, stop }] of wanted) {
      if (this.details.has(key) || !near.has(pos)) continue;
      try {
        const { header, arrays } = await this.app.api.pack(`api/trace/${pos}`, { start, stop, bins: 2000 });
        const full = header.arrays.trace.shape.length === 1;
        this.details.set(key, { pos, values: arrays.trace, start, stop, full });
        if (this.details.size > KEEP) this.details.delete(/** @type {string} */ (this.details.keys().next().value));
      } catch {
        return; // the envelope stays: it is right, only coarse
      }
    }
    if (this.app.current === current) this.draw();
  }

  /** @param {Candidate} candidate @returns {Source} */
  own(candidate) {
    return { values: candidate.trace, start: 0, stop: this.frames, full: candidate.traceKind === "full" };
  }

  /** @param {Candidate} candidate @param {number} i @returns {Source} */
  other(candidate, i) {
    const size = candidate.neighbourBins * 2;
    return { values: candidate.neighbourTraces.subarray(i * size, (i + 1) * size), start: 0, stop: this.frames, full: false };
  }

  layout() {
    const rem = rootSize();
    const { width, height } = this.whole;
    const n = this.app.settings.neighbours ? Math.min(this.app.current?.neighbours.length ?? 0, LETTERS.length) : 0;
    const axis = 1.25 * rem;
    const left = 3.4 * rem;
    const room = height - axis - 1.1 * rem;
    const shown = Math.min(n, Math.max(0, Math.floor((room * 0.5) / (0.95 * rem)))); // lower ones could not be read
    const each = shown ? Math.min(2.2 * rem, (room * 0.5) / shown) : 0;
    const below = shown * each;
    return { rem, axis, left, shown, each, main: { x: left, y: 1.1 * rem, w: Math.max(10, width - left - 0.6 * rem), h: Math.max(10, room - below - (shown ? 0.25 * rem : 0)) }, bottom: height - axis };
  }

  draw() {
    const candidate = this.app.current;
    if (!candidate || !this.whole.width || this.app.view !== "sort") return;
    const at = this.layout();
    this.drawWhole(candidate, at);
    this.drawEvent(candidate, at);
    this.mark();
  }

  /** @param {Candidate} candidate @param {ReturnType<TraceView["layout"]>} at */
  drawWhole(candidate, at) {
    const context = this.whole.clear();
    const { from, to } = this;
    const source = this.source(candidate.pos, this.own(candidate), from, to, at.main.w);
    const [low, high] = from === 0 && to === this.frames ? candidate.traceRange : extent(source, from, to);
    const pad = (high - low) * 0.04;
    const range = { from, to, low: low - pad, high: high + pad };
    this.axes(context, at.main, range, at.bottom, true);
    this.events(context, candidate, at.main, range);
    context.strokeStyle = variable("--trace");
    context.lineWidth = lineWidth(1);
    drawTrace(context, source, at.main, range);
    for (let i = 0; i < at.shown; i += 1) {
      const box = { x: at.main.x, y: at.bottom - (at.shown - i) * at.each, w: at.main.w, h: at.each - 2 };
      const { pos, correlation } = candidate.neighbours[i];
      const its = this.source(pos, this.other(candidate, i), from, to, box.w);
      const [lo, hi] = extent(its, from, to);
      context.strokeStyle = neighbourColour(i, false);
      drawTrace(context, its, box, { from, to, low: lo, high: hi }, true);
      context.font = font(0.78, "600");
      context.textAlign = "left";
      context.textBaseline = "middle";
      context.fillStyle = neighbourColour(i, false);
      context.fillText(LETTERS[i], 0.35 * at.rem, box.y + box.h / 2);
      context.font = font(0.74);
      context.fillText(correlation === null ? "r –" : `r ${two(correlation)}`, 1.15 * at.rem, box.y + box.h / 2);
    }
    if (this.box) {
      context.fillStyle = "rgba(128,170,255,0.22)";
      context.fillRect(Math.min(this.box.x0, this.box.x1), at.main.y, Math.abs(this.box.x1 - this.box.x0), at.bottom - at.main.y);
    }
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {{x: number, y: number, w: number, h: number}} box
   * @param {{from: number, to: number, low: number, high: number}} range
   * @param {number} bottom
   * @param {boolean} values with numbers at the left
   */
  axes(context, box, range, bottom, values) {
    const { fps } = this.app.info.recordings[this.app.current?.recording ?? 0];
    const per = fps || 1;
    const rem = rootSize();
    context.font = font(0.74);
    context.lineWidth = 1;
    context.fillStyle = variable("--text-2");
    context.strokeStyle = variable("--line");
    context.beginPath();
    context.textAlign = "center";
    context.textBaseline = "top";
    const [t0, t1] = [range.from / per, range.to / per];
    for (const t of ticks(t0, t1, box.w / (7 * rem))) {
      const x = Math.round(box.x + ((t - t0) / (t1 - t0)) * box.w) + 0.5;
      context.moveTo(x, box.y);
      context.lineTo(x, bottom);
      if (x < box.x + box.w - (fps ? 2.4 : 4.4) * rem) context.fillText(number(t), x, bottom + 0.15 * rem);
    }
    context.textAlign = "right";
    context.fillText(fps ? "s" : "frame", box.x + box.w, bottom + 0.15 * rem);
    if (values) {
      context.textBaseline = "middle";
      for (const v of ticks(range.low, range.high, Math.max(3, box.h / (2.2 * rem)))) {
        const y = Math.round(box.y + box.h - ((v - range.low) / (range.high - range.low)) * box.h) + 0.5;
        context.moveTo(box.x, y);
        context.lineTo(box.x + box.w, y);
        context.fillText(number(v), box.x - 0.3 * rem, y, box.x - 0.4 * rem);
      }
    }
    context.stroke();
  }

  /**
   * A triangle and a number over each event.
   * @param {CanvasRenderingContext2D} context
   * @param {Candidate} candidate
   * @param {{x: number, y: number, w: number, h: number}} box
   * @param {{from: number, to: number}} range
   */
  events(context, candidate, box, range) {
    const rem = rootSize();
    context.font = font(0.72, "600");
    context.textAlign = "left";
    context.textBaseline = "bottom";
    // The chosen one last: it lies above the others.
    const order = candidate.events.map((_, i) => i).sort((a, b) => Number(a === this.look.event) - Number(b === this.look.event));
    const places = candidate.events.map((event) => box.x + ((event + 0.5 - range.from) / (range.to - range.from)) * box.w);
    for (const i of order) {
      const x = places[i];
      if (x < box.x - 1 || x > box.x + box.w + 1) continue;
      const chosen = i === this.look.event;
      context.fillStyle = chosen ? variable("--mark") : variable("--text-2");
      context.beginPath();
      context.moveTo(x - 0.28 * rem, box.y - 0.5 * rem);
      context.lineTo(x + 0.28 * rem, box.y - 0.5 * rem);
      context.lineTo(x, box.y - 0.05 * rem);
      context.fill();
      // Where the next one stands in the way only the chosen one has its number.
      if (chosen || !places.some((other) => other > x && other < x + 1.1 * rem)) context.fillText(String(i + 1), x + 0.32 * rem, box.y - 0.02 * rem);
      if (chosen) {
        context.globalAlpha = 0.35;
        context.fillRect(x - 0.5, box.y, 1, box.h);
        context.globalAlpha = 1;
      }
    }
  }

  /** @returns {{from: number, to: number} | null} */
  eventRange() {
    const event = this.app.current?.events[this.look.event];
    if (event === undefined) return null;
    const span = Math.min(this.frames, 2 * NEAR);
    const from = Math.max(0, Math.min(this.frames - span, event - span / 2));
    return { from, to: from + span };
  }

  /** @param {{width: number, height: number}} stage @param {number} rem */
  eventBox(stage, rem) {
    return { x: 0.5 * rem, y: 1.1 * rem, w: Math.max(10, stage.width - rem), h: Math.max(10, stage.height - 2.5 * rem) };
  }

  /** @param {Candidate} candidate @param {{rem: number, axis: number}} at */
  drawEvent(candidate, at) {
    const context = this.event.clear();
    const near = this.eventRange();
    if (!near || !this.event.width) {
      context.font = font(0.82);
      context.fillStyle = variable("--text-2");
      context.fillText("No event stands out.", at.rem, 2 * at.rem);
      return;
    }
    const box = this.eventBox(this.event, at.rem);
    const source = this.source(candidate.pos, this.own(candidate), near.from, near.to, Math.min(box.w, near.to - near.from));
    const [low, high] = extent(source, near.from, near.to);
    const pad = (high - low) * 0.05;
    const range = { ...near, low: low - pad, high: high + pad };
    const event = candidate.events[this.look.event];
    const xOf = (/** @type {number} */ f) => box.x + ((f - near.from) / (near.to - near.from)) * box.w;
    context.fillStyle = variable("--panel-2"); // the frames of the snippet
    context.fillRect(xOf(event - HALF), box.y, xOf(event + HALF + 1) - xOf(event - HALF), box.h);
    this.axes(context, box, range, this.event.height - at.axis, false);
    this.events(context, candidate, box, range);
    if (this.app.settings.neighbours) {
      context.globalAlpha = 0.75;
      candidate.neighbours.slice(0, 3).forEach((one, i) => {
        const its = this.source(one.pos, this.other(candidate, i), near.from, near.to, Math.min(box.w, near.to - near.from));
        // Under the range of its whole trace: what is noise there must not look like an event here.
        const [lo, hi] = extent(this.other(candidate, i), 0, this.frames);
        context.strokeStyle = neighbourColour(i, false);
        context.lineWidth = lineWidth(1);
        drawTrace(context, its, box, { ...near, low: lo, high: hi + (hi - lo) * 0.3 });
      });
      context.globalAlpha = 1;
    }
    context.strokeStyle = variable("--trace");
    context.lineWidth = lineWidth(1.5);
    drawTrace(context, source, box, range);
  }

  /** The frame that the snippets show now. */
  mark() {
    const candidate = this.app.current;
    const whole = this.marks.clear();
    const near = this.eventMarks.clear();
    if (!candidate?.frames || this.app.view !== "sort") return;
    const frame = candidate.events[this.look.event] - HALF + this.look.frame + 0.5;
    const at = this.layout();
    const line = (/** @type {CanvasRenderingContext2D} */ context, /** @type {number} */ x, /** @type {{x: number, y: number, w: number, h: number}} */ box) => {
      if (x < box.x || x > box.x + box.w) return;
      context.fillStyle = variable("--mark");
      context.fillRect(x - lineWidth(0.75), box.y, lineWidth(1.5), box.h);
    };
    line(whole, at.main.x + ((frame - this.from) / (this.to - this.from)) * at.main.w, at.main);
    const range = this.eventRange();
    if (range) {
      const box = this.eventBox(this.event, at.rem);
      line(near, box.x + ((frame - range.from) / (range.to - range.from)) * box.w, box);
    }
  }

  pointer() {
    const canvas = this.marks.canvas;
    const frameAt = (/** @type {number} */ x) => {
      const { main } = this.layout();
      return this.from + ((x - main.x) / main.w) * (this.to - this.from);
    };
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      const unit = event.deltaMode ? 30 : 1;
      if (Math.abs(event.deltaX) > Math.abs(event.deltaY) || event.shiftKey) {
        const by = (((event.deltaX || event.deltaY) * unit) / canvas.clientWidth) * (this.to - this.from);
        this.range(this.from + by, this.to + by);
        this.draw();
      } else this.zoom(2 ** (event.deltaY * unit * 0.003), frameAt(event.offsetX));
    }, { passive: false });
    /** @type {{x: number, pan: boolean, from: number, to: number} | null} */
    let down = null;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button > 1) return;
      down = { x: event.offsetX, pan: event.shiftKey || event.button === 1, from: this.from, to: this.to };
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!down) return;
      if (down.pan) {
        const by = ((down.x - event.offsetX) / this.layout().main.w) * (down.to - down.from);
        this.range(down.from + by, down.to + by);
      } else if (Math.abs(event.offsetX - down.x) > 4) this.box = { x0: down.x, x1: event.offsetX };
      this.draw();
    });
    const up = (/** @type {PointerEvent} */ event) => {
      const { box } = this;
      this.box = null;
      if (box && event.type === "pointerup") this.range(frameAt(Math.min(box.x0, box.x1)), frameAt(Math.max(box.x0, box.x1)));
      else if (down && !down.pan) this.choose(frameAt(event.offsetX));
      down = null;
      this.draw();
    };
    canvas.addEventListener("pointerup", up);
    canvas.addEventListener("pointercancel", up);
    canvas.addEventListener("dblclick", () => this.all());
  }

  /** A click near an event chooses it. @param {number} frame */
  choose(frame) {
    const events = this.app.current?.events ?? [];
    const reach = (this.to - this.from) * 0.015;
    let best = -1;
    events.forEach((one, i) => {
      if (Math.abs(one - frame) <= reach && (best < 0 || Math.abs(one - frame) < Math.abs(events[best] - frame))) best = i;
    });
    if (best >= 0) this.look.choose(best);
  }
}
