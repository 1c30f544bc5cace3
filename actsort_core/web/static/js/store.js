// @ts-check
/** The one object all modules share: what the server said, what is shown, and everything a key can do. */

import { ApiError } from "./api.js";
import { css, painter } from "./colours.js";
import { rangeOf } from "./decode.js";
import { newId } from "./outbox.js";
import { keepSettings } from "./settings.js";
import { readState } from "./state.js";
import { Walk } from "./walk.js";

/** @typedef {import("./types.js").Question} Question */
/** @typedef {import("./types.js").Entry} Entry */
/** @typedef {import("./types.js").Past} Past */
/** @typedef {import("./types.js").Colouring} Colouring */
/** @typedef {{id: string, pos: number, before: number, value: string, question: Question | null}} Deed */

const STATE_EVERY = 1000; // ms between two requests for the whole state
const STATE_WHILE_BUSY = 4000; // while keys decide one after the other: reading and repainting it would hold up one key in six
const BUSY = 700; // ms after a label that another one may follow at once
const PERSON = 3; // origin of a decision: a person

/** @type {Colouring[]} */
export const COLOURINGS = [{ kind: "decision" }, { kind: "confidence" }, { kind: "origin" }, { kind: "label" }, { kind: "prior" }];

export class App extends Walk {
  /**
   * @param {import("./api.js").Api} api
   * @param {import("./types.js").SessionInfo} info
   * @param {{annotator: string, client: string, watch: boolean}} who
   */
  constructor(api, info, who) {
    super(api, info, who);
    /** @type {import("./types.js").Pulse | null} */
    this.pulse = null;
    /** @type {Set<number>} */
    this.selection = new Set();
    /** @type {Colouring} */
    this.colouring = { kind: "decision" };
    /** @type {{name: string, values: Float32Array, low: number, high: number} | null} */
    this.featureNow = null;
    /** Labels so far, own ones at once. */
    this.labels = 0;
    /** The last labels of this annotator, latest first. @type {Past[]} */
    this.history = [];
    this.historyTurn = 0; // grows with every change made here: an answer from before it is old
    /** @type {Deed[][]} */
    this.done = [];
    /** @type {Deed[][]} */
    this.undone = [];
    /** When the key went down that is being done now; 0: nobody pressed one. */
    this.keyTime = 0;
    this.decidedAt = -Infinity;
    /** What keys and buttons do, by action; a view may have its own. @type {Map<string, () => void>} */
    this.actions = new Map();
    /** @type {{sort: Map<string, () => void>, review: Map<string, () => void>}} */
    this.viewActions = { sort: new Map(), review: new Map() };
    /** @type {number[] | undefined} */
    this.waitingChanges = undefined;
    this.allChanged = false;
    this.stateAt = 0;
    this.stateTook = 0; // ms that the last one took
    this.stateComing = false;
    /** What the server took while a state was on its way: that state may be from before. @type {Entry[]} */
    this.heardMeanwhile = [];
    /** @type {ReturnType<typeof painter> | null} */
    this.paintOne = null;
    this.wire();
  }

  wire() {
    const { outbox } = this;
    outbox.addEventListener("answer", (event) => this.heard(/** @type {CustomEvent} */ (event).detail));
    outbox.addEventListener("adopted", (event) => this.adopted(/** @type {CustomEvent<Entry[]>} */ (event).detail));
    outbox.addEventListener("changed", () => this.emit("pending"));
    outbox.addEventListener("online", () => this.emit("online"));
    outbox.addEventListener("refused", (event) => {
      // It never counted: taking back must not take back another one.
      const { id } = /** @type {CustomEvent} */ (event).detail.entry;
      this.done = this.done.map((deeds) => deeds.filter((d) => d.id !== id)).filter((deeds) => deeds.length);
      this.undone = this.undone.filter((deeds) => deeds.every((d) => d.id !== id) || deeds.length > 1).map((deeds) => deeds.filter((d) => d.id !== id));
      this.refresh(true);
      this.emit("refused");
    });
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
    this.decidedAt = performance.now();
    const seconds = Math.round(performance.now() - this.shownAt) / 1000;
    const deed = { id: newId(), pos, before: this.state.label[pos], value, question };
    this.done.push([deed]);
    this.undone = [];
    this.put(pos, this.classIndex(value));
    this.remember(pos, value, seconds, question);
    this.skipped.delete(pos);
    this.queue.drop([pos]);
    this.outbox.put({ kind: "label", id: deed.id, annotator: this.annotator, pos, value, seconds, question });
    this.next(true);
  }

  /**
   * Several at once, taken back at once.
   * @param {Iterable<number>} positions
   * @param {string | ((pos: number) => string)} what a class, or the class of each
   */
  decideMany(positions, what) {
    if (!this.mayLabel()) return;
    /** @type {Deed[]} */
    const deeds = [];
    /** @type {Entry[]} */
    const entries = [];
    for (const pos of positions) {
      const id = newId();
      const value = typeof what === "string" ? what : what(pos);
      deeds.push({ id, pos, before: this.state.label[pos], value, question: null });
      entries.push({ kind: "label", id, annotator: this.annotator, pos, value, seconds: null, question: null });
      this.put(pos, this.classIndex(value));
      this.skipped.delete(pos);
    }
    if (!deeds.length) return;
    this.done.push(deeds);
    this.undone = [];
    for (const { pos, value } of deeds.slice(-10)) this.remember(pos, value, null, null);
    this.outbox.put(...entries);
    this.queue.drop(deeds.map((d) => d.pos));
    const one = deeds.length === 1;
    const now = typeof what === "string" ? `now “${this.className(what)}”` : "labelled";
    this.say(`${deeds.length} ${one ? "candidate is" : "candidates are"} ${now}.`, { kind: "info", hint: one ? "Undo takes it back." : "Undo takes them all back." });
    if (this.question && this.current && this.state.label[this.current.pos]) this.next(true);
  }

  undo() {
    if (!this.mayLabel()) return;
    const deeds = this.done.pop();
    if (!deeds) return this.outbox.put({ kind: "undo", id: newId(), annotator: this.annotator }); // of an earlier visit: the server knows
    this.undone.push(deeds);
    this.historyTurn += 1;
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
    this.emit("unsay"); // "undo takes them all back" is not true any more
    if (deeds.length === 1) this.revisit(deeds[0]);
    if (deeds.length > 1 || this.view === "review") this.say(deeds.length === 1 ? "One label is taken back." : `${deeds.length} labels are taken back.`, { kind: "info", hint: "" });
    this.emit("history");
  }

  redo() {
    if (!this.mayLabel()) return;
    const deeds = this.undone.pop();
    if (!deeds?.length) return this.outbox.put({ kind: "redo", id: newId(), annotator: this.annotator });
    this.done.push(deeds);
    /** @type {Entry[]} */
    const entries = [];
    for (const deed of deeds) {
      this.put(deed.pos, this.classIndex(deed.value));
      this.remember(deed.pos, deed.value, null, deed.question);
      entries.push({ kind: "redo", id: newId(), annotator: this.annotator, pos: deed.pos, value: deed.value });
    }
    this.queue.drop(deeds.map((deed) => deed.pos));
    this.outbox.put(...entries);
    if (this.current?.pos === deeds[deeds.length - 1].pos) this.next(true);
  }

  /** Shows the candidate whose label was taken back, with the question it had. @param {Deed} deed */
  revisit(deed) {
    if (this.view !== "sort") return this.emit("state", { changed: [deed.pos] });
    const at = this.trail.findLastIndex((s) => s.pos === deed.pos);
    const inList = this.list?.positions.indexOf(deed.pos) ?? -1;
    if (this.list && inList >= 0) {
      this.list.at = inList;
      this.emit("list");
    }
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
    this.historyTurn += 1;
    this.history = this.history.filter((h) => h.pos !== pos);
    this.history.unshift({ pos, value, seconds, time: new Date().toISOString(), reason: question?.reason ?? "review", p: question?.p ?? null });
    this.history.length = Math.min(this.history.length, 40);
    this.emit("history");
  }

  /** Labels of a tab that was closed before they were sent: they are not asked again. @param {Entry[]} entries */
  adopted(entries) {
    const positions = [];
    for (const { kind, pos, value } of entries) {
      if (kind !== "label" || pos === undefined || value === undefined) continue;
      this.put(pos, this.classIndex(value));
      positions.push(pos);
    }
    this.queue.drop(positions);
    if (this.question && this.current && positions.includes(this.current.pos)) this.next(true);
    if (positions.length) this.say(`${positions.length} ${positions.length === 1 ? "label" : "labels"} of a tab that was closed ${positions.length === 1 ? "is" : "are"} sent now.`);
  }

  /** @param {{answer: any, batch: Entry[]}} heard */
  heard({ answer, batch }) {
    const first = batch[0];
    const refused = new Set((answer.refused ?? []).map((/** @type {{id: string}} */ one) => one.id));
    if (this.stateComing) this.heardMeanwhile.push(...batch.filter((entry) => !refused.has(entry.id)));
    if (first.kind === "undo" || first.kind === "redo") batch.forEach((entry, i) => this.settleUndo(entry, answer.steps[i]));
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
      this.readHistory();
      return;
    }
    if (entry.pos === answer.pos) {
      // Which label shows again, and when it was given, the server knows.
      if (!this.outbox.entries.length) this.readHistory();
      return;
    }
    this.put(answer.pos, answer.value ? this.classIndex(answer.value) : 0);
    this.readHistory();
    if (entry.pos === undefined) this.revisit({ id: "", pos: answer.pos, before: 0, value: "", question: answer.question ?? null });
    else this.refresh(true);
  }

  /** @param {number} labels */
  count(labels) {
    this.labels = labels;
    document.body.dataset.labels = String(labels);
    this.emit("count");
  }

  /** Labels follow each other quickly. */
  get busy() {
    return performance.now() - this.decidedAt < BUSY;
  }

  /** The whole state, at most once a second. @param {boolean} [force] */
  async refresh(force = false) {
    if (this.stateComing || (!force && performance.now() - this.stateAt < Math.max(this.busy ? STATE_WHILE_BUSY : STATE_EVERY, 8 * this.stateTook))) return;
    this.stateComing = true;
    this.heardMeanwhile = [];
    this.stateAt = performance.now();
    try {
      const begin = performance.now();
      const pack = await this.api.packOrNothing("api/state", force ? {} : { since: this.state.rev });
      if (pack) {
        this.stateTook = performance.now() - begin; // the larger the session, the more seldom
        this.state = readState(pack);
        // What the server has not heard yet, or heard meanwhile, stays as it was said here.
        for (const entry of [...this.heardMeanwhile, ...this.outbox.entries]) {
          if (entry.kind === "flag" && entry.pos !== undefined) this.state.flagged[entry.pos] = entry.on ? 1 : 0;
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
    const turn = this.historyTurn;
    const answer = await this.api.json("api/history", { annotator: this.annotator, n: 10 }).catch(() => null);
    if (answer && turn === this.historyTurn && !this.outbox.entries.length) {
      this.history = answer.labels;
      this.emit("history");
    }
  }

  async heartbeat() {
    try {
      this.pulse = await this.api.json("api/pulse", { annotator: this.annotator, client: this.client });
      this.outbox.setOnline(true);
      if (this.outbox.trouble && !this.outbox.entries.length) this.outbox.trouble = null;
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

  // What is seen -------------------------------------------------------------------------------------------------------------

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

  /** In blind mode the toolkit's own statistics are hidden as its verdict is: they are what it judges by. @param {string} name of a feature, or of an order or colouring by it */
  conceals(name) {
    return this.blind && /^(feature:)?host\./.test(name);
  }

  /** @param {HTMLSelectElement} select of features */
  concealOptions(select) {
    for (const option of select.options) option.hidden = this.conceals(option.value);
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
}
