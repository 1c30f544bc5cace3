// @ts-check
/** The one object all modules share: what the server said, what is shown, and everything a key can do. */

import { ApiError } from "./api.js";
import { css, painter } from "./colours.js";
import { rangeOf } from "./decode.js";
import { newId, Outbox } from "./outbox.js";
import { Queue } from "./queue.js";
import { keepSettings, readSettings } from "./settings.js";
import { freshState, readState } from "./state.js";

/** @typedef {import("./types.js").Candidate} Candidate */
/** @typedef {import("./types.js").Question} Question */
/** @typedef {import("./types.js").Entry} Entry */
/** @typedef {import("./types.js").Past} Past */
/** @typedef {import("./types.js").Colouring} Colouring */
/** @typedef {{pos: number, question: Question | null}} Step */
/** @typedef {{pos: number, before: number, value: string, question: Question | null}} Deed */

const LONG = 600; // steps of the trail that are kept
const STATE_EVERY = 1000; // ms between two requests for the whole state
const PERSON = 3; // origin of a decision: a person

/** @type {Colouring[]} */
export const COLOURINGS = [{ kind: "decision" }, { kind: "confidence" }, { kind: "origin" }, { kind: "label" }, { kind: "prior" }];

export class App extends EventTarget {
  /**
   * @param {import("./api.js").Api} api
   * @param {import("./types.js").SessionInfo} info
   * @param {{annotator: string, client: string, watch: boolean}} who
   */
  constructor(api, info, who) {
    super();
    this.api = api;
    this.info = info;
    this.client = who.client;
    this.annotator = who.annotator;
    this.watch = info.watch || who.watch;
    this.settings = readSettings();
    this.blind = info.blind || this.settings.blind;
    this.state = freshState(info.n_cells);
    /** @type {import("./types.js").Pulse | null} */
    this.pulse = null;
    /** @type {Candidate | null} */
    this.current = null;
    /** @type {Question | null} */
    this.question = null;
    /** The next candidate is not here yet: keys that decide wait for it. */
    this.waiting = false;
    /** @type {"sort" | "review"} */
    this.view = "sort";
    /** @type {Set<number>} */
    this.selection = new Set();
    /** @type {import("./types.js").List | null} */
    this.list = null;
    /** @type {Colouring} */
    this.colouring = { kind: "decision" };
    /** @type {{name: string, values: Float32Array, low: number, high: number} | null} */
    this.featureNow = null;
    /** Labels so far, own ones at once. */
    this.labels = 0;
    /** The last labels of this annotator, latest first. @type {Past[]} */
    this.history = [];
    /** @type {Step[]} */
    this.trail = [];
    this.at = -1;
    /** @type {Set<number>} */
    this.skipped = new Set();
    /** @type {Deed[][]} */
    this.done = [];
    /** @type {Deed[][]} */
    this.undone = [];
    this.shownAt = performance.now();
    /** When the key went down that is being done now; 0: nobody pressed one. */
    this.keyTime = 0;
    /** A candidate that is being fetched because it was asked for. @type {number | null} */
    this.reaching = null;
    /** What keys and buttons do, by action; a view may have its own. @type {Map<string, () => void>} */
    this.actions = new Map();
    /** @type {{sort: Map<string, () => void>, review: Map<string, () => void>}} */
    this.viewActions = { sort: new Map(), review: new Map() };
    /** @type {number[] | undefined} */
    this.waitingChanges = undefined;
    this.allChanged = false;
    this.stateAt = 0;
    this.stateComing = false;
    /** @type {Map<string, Promise<any>>} */
    this.cache = new Map();
    /** @type {Map<number, import("./types.js").Footprints>} */
    this.footprintsHere = new Map();
    /** @type {ReturnType<typeof painter> | null} */
    this.paintOne = null;
    this.outbox = new Outbox(api, info.session, this.client);
    this.outbox.skip = () => this.notAsked();
    this.queue = new Queue(api, {
      columns: (recording) => info.recordings[recording].fov[1],
      start: (recording) => info.recordings[recording].start,
      footprints: (recording) => this.footprintsHere.get(recording) ?? null,
      annotator: () => this.annotator,
      blocked: (pos) => this.isBlocked(pos),
      skip: () => this.notAsked(),
    });
    this.wire();
  }

  wire() {
    const { outbox, queue } = this;
    outbox.addEventListener("answer", (event) => this.heard(/** @type {CustomEvent} */ (event).detail));
    outbox.addEventListener("changed", () => this.emit("pending"));
    outbox.addEventListener("online", () => this.emit("online"));
    outbox.addEventListener("refused", () => {
      this.refresh(true);
      this.emit("refused");
    });
    queue.addEventListener("ready", () => this.waiting && this.reaching === null && this.next());
    queue.addEventListener("filled", () => this.waiting && this.reaching === null && this.next());
  }

  /** @param {string} name @param {any} [detail] */
  emit(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }

  get online() {
    return this.outbox.online;
  }

  get pending() {
    return this.outbox.labels;
  }

  // What is asked ------------------------------------------------------------------------------------------------------------

  /** Positions not to be asked now: put off, under the eyes, or behind us in the trail and still to be answered. */
  notAsked() {
    const out = new Set(this.skipped);
    for (const step of this.trail.slice(this.at)) if (step.question) out.add(step.pos);
    return [...out];
  }

  /** @param {number} pos */
  isBlocked(pos) {
    if (this.skipped.has(pos) || (this.current?.pos === pos && !this.waiting)) return true;
    for (let i = Math.max(0, this.at + 1); i < this.trail.length; i += 1) if (this.trail[i].pos === pos) return true;
    return this.outbox.entries.some((entry) => entry.kind === "label" && entry.pos === pos);
  }

  /** The next of the trail, the list, or the questions; painted at once where it is here. */
  next() {
    if (this.list) return this.step(1);
    if (this.at < this.trail.length - 1) return this.walk(1);
    const taken = this.queue.take();
    if (taken) {
      this.queue.refill().catch(() => undefined);
      return this.show(taken.candidate, taken.question);
    }
    this.waiting = true;
    this.emit("waiting");
    if (this.queue.finished && !this.queue.questions.length && this.skipped.size && !this.outbox.entries.length) {
      this.say("Only candidates that you put off are left: here they are again.", { kind: "info" });
      this.skipped.clear();
    }
    const wanted = this.queue.questions.map((q) => q.pos);
    if (wanted.length) this.queue.prefetch(wanted);
    this.queue.refill(!wanted.length).catch(() => undefined);
  }

  /**
   * @param {Candidate} candidate
   * @param {Question | null} question
   * @param {boolean} [walked] along the trail, which then stays as it is
   */
  show(candidate, question, walked = false) {
    this.waiting = false;
    this.reaching = null;
    this.current = candidate;
    this.question = question;
    this.shownAt = performance.now();
    if (!walked) {
      this.trail.length = this.at + 1;
      this.trail.push({ pos: candidate.pos, question });
      if (this.trail.length > LONG) this.trail.splice(0, this.trail.length - LONG);
      this.at = this.trail.length - 1;
    }
    document.body.dataset.pos = String(candidate.pos);
    this.emit("current");
  }

  /** @param {number} by */
  walk(by) {
    const to = this.at + by;
    if (to < 0) return this.say("This is the first candidate you looked at.", { kind: "info" });
    if (to >= this.trail.length) return;
    const step = this.trail[to];
    this.reach(step.pos, (candidate) => {
      this.at = to;
      this.show(candidate, step.question, true);
    });
  }

  /** @param {number} by */
  step(by) {
    const list = this.list;
    if (!list) return this.say("There is no list now. Choose candidates in the review view first.", { kind: "info" });
    const at = list.at + by;
    if (at < 0 || at >= list.positions.length) {
      return this.say(by > 0 ? `That was the last of “${list.name}”.` : `This is the first of “${list.name}”.`, { kind: "info", hint: "Esc goes back to the questions." });
    }
    list.at = at;
    this.queue.prefetch(list.positions.slice(at, at + 12));
    this.reach(list.positions[at], (candidate) => {
      this.show(candidate, null);
      this.emit("list");
    });
  }

  /**
   * @param {number} pos
   * @param {(candidate: Candidate) => void} then
   */
  reach(pos, then) {
    const here = this.queue.ready.get(pos);
    if (here) return then(here);
    this.waiting = true;
    this.reaching = pos;
    this.emit("waiting");
    this.queue.load(pos).then(
      (candidate) => {
        if (this.reaching === pos) then(candidate);
      },
      (error) => {
        this.waiting = false;
        this.reaching = null;
        this.emit("waiting");
        this.complain(error);
      },
    );
  }

  /**
   * @param {number} pos
   * @param {{name: string, positions: number[], at?: number}} [list]
   */
  goto(pos, list) {
    if (list) this.list = { name: list.name, positions: list.positions, at: Math.max(0, list.positions.indexOf(pos)) };
    else if (this.list) {
      const at = this.list.positions.indexOf(pos);
      if (at >= 0) this.list.at = at;
    }
    // A question that is under the eyes is asked again afterwards, not lost.
    if (this.question && this.current && !this.state.label[this.current.pos]) this.queue.untake(this.question);
    const question = this.trail[this.at]?.pos === pos ? this.question : null;
    this.reach(pos, (candidate) => {
      this.show(candidate, question);
      if (this.view !== "sort") this.setView("sort");
      if (list) this.queue.prefetch(list.positions.slice(this.list?.at ?? 0, (this.list?.at ?? 0) + 12));
      this.emit("list");
    });
  }

  backToQuestions() {
    this.list = null;
    this.trail.length = this.at + 1;
    this.emit("list");
    this.next();
  }

  back() {
    if (this.list && this.list.at > 0) this.step(-1);
    else this.walk(-1);
  }

  skip() {
    if (this.waiting) return this.wait();
    if (!this.list && this.question && this.current && !this.state.label[this.current.pos] && !this.watch) this.skipped.add(this.current.pos);
    this.next();
  }

  wait() {
    window.__actsort.refused += 1;
    this.say(this.online ? "The next candidate is on its way: that key was not used." : "Nothing more is loaded, and the server does not answer: that key was not used.", { kind: "info" });
  }

  // What is said -------------------------------------------------------------------------------------------------------------

  /** @returns {boolean} */
  mayLabel() {
    if (!this.watch) return true;
    this.say("You are watching: labels are given by others.", { kind: "info", hint: "Open the address that may label, or choose another name." });
    return false;
  }

  /** @param {string} value a class */
  decide(value) {
    if (!this.mayLabel()) return;
    const { current, question } = this;
    if (!current || this.waiting) return this.wait();
    const { pos } = current;
    const seconds = Math.round(performance.now() - this.shownAt) / 1000;
    const deed = { pos, before: this.state.label[pos], value, question };
    this.done.push([deed]);
    this.undone = [];
    this.put(pos, this.classIndex(value));
    this.remember(pos, value, seconds, question);
    this.skipped.delete(pos);
    this.outbox.put({ kind: "label", id: newId(), annotator: this.annotator, pos, value, seconds, question });
    this.next();
  }

  /**
   * @param {Iterable<number>} positions
   * @param {string} value
   */
  decideMany(positions, value) {
    if (!this.mayLabel()) return;
    /** @type {Deed[]} */
    const deeds = [];
    /** @type {Entry[]} */
    const entries = [];
    for (const pos of positions) {
      deeds.push({ pos, before: this.state.label[pos], value, question: null });
      entries.push({ kind: "label", id: newId(), annotator: this.annotator, pos, value, seconds: null, question: null });
      this.put(pos, this.classIndex(value));
      this.skipped.delete(pos);
    }
    if (!deeds.length) return;
    this.done.push(deeds);
    this.undone = [];
    for (const { pos } of deeds.slice(-10)) this.remember(pos, value, null, null);
    this.outbox.put(...entries);
    this.queue.drop(deeds.map((d) => d.pos));
    this.say(`${deeds.length} ${deeds.length === 1 ? "candidate is" : "candidates are"} now “${this.className(value)}”.`, { kind: "info", hint: "Undo takes them all back." });
    if (this.question && this.current && this.state.label[this.current.pos]) this.next();
  }

  undo() {
    if (!this.mayLabel()) return;
    const deeds = this.done.pop();
    if (!deeds) return this.outbox.put({ kind: "undo", id: newId(), annotator: this.annotator }); // of an earlier visit: the server knows
    this.undone.push(deeds);
    /** @type {Entry[]} */
    const entries = [];
    for (const deed of [...deeds].reverse()) {
      this.put(deed.pos, deed.before);
      const value = deed.before ? this.info.classes[deed.before - 1].name : "";
      entries.push({ kind: "undo", id: newId(), annotator: this.annotator, pos: deed.pos, value });
    }
    const gone = new Set(deeds.map((d) => d.pos));
    let left = deeds.length;
    this.history = this.history.filter((h) => !(left > 0 && gone.has(h.pos) && (left -= 1) >= 0));
    this.outbox.put(...entries);
    this.revisit(deeds[deeds.length - 1]);
    this.emit("history");
  }

  redo() {
    if (!this.mayLabel()) return;
    const deeds = this.undone.pop();
    if (!deeds) return this.outbox.put({ kind: "redo", id: newId(), annotator: this.annotator });
    this.done.push(deeds);
    /** @type {Entry[]} */
    const entries = [];
    for (const deed of deeds) {
      this.put(deed.pos, this.classIndex(deed.value));
      this.remember(deed.pos, deed.value, null, deed.question);
      entries.push({ kind: "redo", id: newId(), annotator: this.annotator, pos: deed.pos, value: deed.value });
    }
    this.outbox.put(...entries);
    if (this.current?.pos === deeds[deeds.length - 1].pos) this.next();
  }

  /** Shows the candidate whose label was taken back, with the question it had. @param {Deed} deed */
  revisit(deed) {
    if (this.view !== "sort") return this.emit("state", { changed: [deed.pos] });
    const at = this.trail.findLastIndex((s) => s.pos === deed.pos);
    this.reach(deed.pos, (candidate) => {
      if (at >= 0) this.at = at;
      this.show(candidate, deed.question, at >= 0);
    });
  }

  /** @param {number} pos @param {string} text */
  note(pos, text) {
    if (!this.mayLabel()) return;
    const candidate = this.queue.ready.get(pos);
    if (candidate) {
      candidate.notes = candidate.notes.filter((n) => n.annotator !== this.annotator);
      if (text.trim()) candidate.notes.push({ annotator: this.annotator, time: new Date().toISOString(), text: text.trim() });
    }
    this.outbox.put({ kind: "note", id: newId(), annotator: this.annotator, pos, text: text.trim() });
    this.emit("facts");
  }

  /** @param {number} pos @param {boolean} on */
  flag(pos, on) {
    if (!this.mayLabel()) return;
    this.state.flagged[pos] = on ? 1 : 0;
    this.outbox.put({ kind: "flag", id: newId(), annotator: this.annotator, pos, on });
    this.emit("facts");
    this.changed([pos]);
  }

  // State --------------------------------------------------------------------------------------------------------------------

  /** @param {string} value @returns {number} 0: none */
  classIndex(value) {
    return 1 + this.info.classes.findIndex((c) => c.name === value);
  }

  /** @param {string} value a class, as people read it */
  className(value) {
    return value === "not_cell" ? "not a cell" : value === "" ? "no label" : value;
  }

  /** Own label, shown before the server has it. @param {number} pos @param {number} label */
  put(pos, label) {
    const { state } = this;
    if (!state.label[pos] !== !label) this.labels += label ? 1 : -1;
    this.overlay(pos, label);
    document.body.dataset.labels = String(this.labels);
    this.changed([pos]);
  }

  /** @param {number} pos @param {number} label */
  overlay(pos, label) {
    const { state } = this;
    state.label[pos] = label;
    const kind = label ? this.info.classes[label - 1].kind : "";
    if (kind === "cell" || kind === "not_cell") {
      state.accepted[pos] = kind === "cell" ? 1 : 0;
      state.origin[pos] = PERSON;
    } else if (!label && state.origin[pos] === PERSON) {
      state.origin[pos] = 0; // until the server says who decides it now
    }
    if (label) {
      let who = state.annotators.indexOf(this.annotator);
      if (who < 0) who = state.annotators.push(this.annotator) - 1;
      state.who[pos] = who + 1;
    } else state.who[pos] = 0;
  }

  /** Tells of changed candidates after the frame, all together. @param {number[] | null} positions null: all */
  changed(positions) {
    if (!this.waitingChanges) {
      this.waitingChanges = [];
      setTimeout(() => {
        const changed = this.allChanged ? null : this.waitingChanges;
        this.waitingChanges = undefined;
        this.allChanged = false;
        this.paintOne = null;
        this.emit("state", { changed });
      }, 30);
    }
    if (positions) this.waitingChanges?.push(...positions);
    else this.allChanged = true;
  }

  /** @param {number} pos @param {string} value @param {number | null} seconds @param {Question | null} question */
  remember(pos, value, seconds, question) {
    this.history.unshift({ pos, value, seconds, time: new Date().toISOString(), reason: question?.reason ?? "review", p: question?.p ?? null });
    this.history.length = Math.min(this.history.length, 40);
    this.emit("history");
  }

  /** @param {{answer: any, batch: Entry[]}} heard */
  heard({ answer, batch }) {
    const first = batch[0];
    if (first.kind === "undo" || first.kind === "redo") this.settleUndo(first, answer);
    if (answer.questions) {
      this.queue.merge(answer);
      if (!this.outbox.entries.length && Number.isFinite(answer.labels)) this.count(answer.labels);
    }
    if (this.waiting && this.reaching === null) this.next();
  }

  /** @param {Entry} entry @param {any} answer */
  settleUndo(entry, answer) {
    if (answer.pos === null || answer.pos === undefined) {
      this.say(entry.kind === "undo" ? "There is nothing to take back." : "There is nothing to give again.", { kind: "info" });
      return;
    }
    if (entry.pos === answer.pos) return;
    this.put(answer.pos, answer.value ? this.classIndex(answer.value) : 0);
    this.readHistory();
    if (entry.pos === undefined) this.revisit({ pos: answer.pos, before: 0, value: "", question: null });
    else this.refresh(true);
  }

  /** @param {number} labels */
  count(labels) {
    this.labels = labels;
    document.body.dataset.labels = String(labels);
    this.emit("count");
  }

  /** The whole state, at most once a second. @param {boolean} [force] */
  async refresh(force = false) {
    if (this.stateComing || (!force && performance.now() - this.stateAt < STATE_EVERY)) return;
    this.stateComing = true;
    this.stateAt = performance.now();
    try {
      const pack = await this.api.packOrNothing("api/state", force ? {} : { since: this.state.rev });
      if (pack) {
        this.state = readState(pack);
        // What the server has not heard yet stays as it was said here.
        for (const entry of this.outbox.entries) {
          if (entry.pos === undefined || entry.value === undefined) continue;
          this.overlay(entry.pos, entry.value ? this.classIndex(entry.value) : 0);
        }
        if (!this.outbox.entries.length) this.count(this.state.labels);
        this.changed(null);
      }
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
    } finally {
      this.stateComing = false;
    }
  }

  async readHistory() {
    const answer = await this.api.json("api/history", { annotator: this.annotator, n: 10 }).catch(() => null);
    if (answer && !this.outbox.entries.length) {
      this.history = answer.labels;
      this.emit("history");
    }
  }

  async heartbeat() {
    try {
      this.pulse = await this.api.json("api/pulse", { annotator: this.annotator, client: this.client });
      this.outbox.setOnline(true);
      if (this.outbox.trouble?.status === 403) this.outbox.trouble = null;
      this.emit("pulse");
      if (this.outbox.failures) this.outbox.hurry();
      if (this.pulse && this.pulse.rev !== this.state.rev) await this.refresh();
      if (this.queue.questions.length < 8) await this.queue.refill();
      if (this.waiting && !this.outbox.entries.length && this.queue.questions.length) this.queue.prefetch(this.queue.questions.map((q) => q.pos));
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      this.outbox.trouble = error;
      this.outbox.setOnline(![0, 502, 503, 504].includes(error.status));
      this.emit("pending");
    }
  }

  // Cached answers -----------------------------------------------------------------------------------------------------------

  /**
   * @template T
   * @param {string} key
   * @param {() => Promise<T>} make
   * @returns {Promise<T>}
   */
  cached(key, make) {
    let promise = this.cache.get(key);
    if (!promise) {
      promise = make();
      promise.catch(() => this.cache.delete(key));
      this.cache.set(key, promise);
    }
    return promise;
  }

  /** @param {number} recording @returns {Promise<import("./types.js").Footprints>} */
  footprints(recording) {
    return this.cached(`footprints/${recording}`, async () => {
      const { arrays } = await this.api.pack(`api/footprints/${recording}`);
      const all = /** @type {import("./types.js").Footprints} */ (/** @type {unknown} */ (arrays));
      this.footprintsHere.set(recording, all);
      for (const candidate of this.queue.ready.values()) if (candidate.recording === recording) this.queue.outline(candidate);
      return all;
    });
  }

  /** @param {number} recording @param {string} name @returns {Promise<import("./types.js").FovImage>} */
  image(recording, name) {
    return this.cached(`image/${recording}/${name}`, async () => {
      const { header, arrays } = await this.api.pack(`api/image/${recording}/${encodeURIComponent(name)}`);
      const [rows, columns] = header.arrays.image.shape;
      return { header, image: arrays.image, rows, columns };
    });
  }

  /** @param {string} name @returns {Promise<Float32Array>} */
  feature(name) {
    return this.cached(`feature/${name}`, async () => (await this.api.pack(`api/feature/${encodeURIComponent(name)}`)).arrays.values);
  }

  // What is seen -------------------------------------------------------------------------------------------------------------

  /** @param {"sort" | "review"} view */
  setView(view) {
    if (this.view === view) return;
    this.view = view;
    document.body.dataset.view = view;
    this.emit("view");
  }

  /**
   * @param {Iterable<number>} positions
   * @param {"set" | "add" | "toggle" | "remove"} how
   */
  select(positions, how) {
    if (how === "set") this.selection = new Set(positions);
    else {
      for (const pos of positions) {
        if (how === "remove" || (how === "toggle" && this.selection.has(pos))) this.selection.delete(pos);
        else this.selection.add(pos);
      }
    }
    this.emit("selection");
  }

  /** @param {Colouring} colouring */
  async setColouring(colouring) {
    if (colouring.kind === "feature" && colouring.feature) {
      try {
        const values = await this.feature(colouring.feature);
        const [low, high] = rangeOf(values, 0.01, 0.99);
        this.featureNow = { name: colouring.feature, values, low, high };
      } catch (error) {
        return this.complain(error);
      }
    }
    this.colouring = colouring;
    this.paintOne = null;
    this.emit("colouring");
  }

  /** @param {number} pos @returns {string} css */
  decisionColour(pos) {
    this.paintOne ??= painter(this);
    return css(this.paintOne(pos));
  }

  /** @param {Partial<import("./settings.js").Values>} some */
  set(some) {
    Object.assign(this.settings, some);
    keepSettings(this.settings);
    this.paintOne = null;
    this.emit("settings", some);
  }

  /** @param {boolean} on */
  setBlind(on) {
    this.blind = on;
    this.set({ blind: on });
    this.changed(null);
    this.emit("facts");
  }

  /** @param {string} text @param {{kind?: "info" | "error", hint?: string}} [more] */
  say(text, more = {}) {
    this.emit("say", { text, kind: more.kind ?? "info", hint: more.hint ?? "" });
  }

  /** @param {unknown} error */
  complain(error) {
    if (error instanceof ApiError) this.say(error.what, { kind: "error", hint: error.hint });
    else throw error;
  }
}
