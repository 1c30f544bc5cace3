// @ts-check
/** Which candidate is shown: the next question, the next of a list, or one that was looked at before. */

import { Outbox } from "./outbox.js";
import { Queue } from "./queue.js";
import { Reader } from "./reader.js";
import { freshState } from "./state.js";

/** @typedef {import("./types.js").Candidate} Candidate */
/** @typedef {import("./types.js").Question} Question */
/** @typedef {{pos: number, question: Question | null}} Step */

const LONG = 600; // steps of the trail that are kept

export class Walk extends Reader {
  /**
   * @param {import("./api.js").Api} api
   * @param {import("./types.js").SessionInfo} info
   * @param {{annotator: string, client: string, watch: boolean}} who
   */
  constructor(api, info, who) {
    super(api, info, who);
    this.state = freshState(info.n_cells);
    /** @type {Candidate | null} */
    this.current = null;
    /** @type {Question | null} */
    this.question = null;
    /** The next candidate is not here yet: keys that decide wait for it. */
    this.waiting = false;
    /** A candidate that is being fetched because it was asked for. @type {number | null} */
    this.reaching = null;
    /** @type {"sort" | "review"} */
    this.view = "sort";
    /** @type {import("./types.js").List | null} */
    this.list = null;
    /** @type {Step[]} */
    this.trail = [];
    this.at = -1;
    /** @type {Set<number>} */
    this.skipped = new Set();
    this.shownAt = performance.now();
    this.outbox = new Outbox(api, info, this.client);
    this.outbox.skip = () => this.notAsked();
    this.queue = new Queue(api, {
      columns: (recording) => info.recordings[recording].fov[1],
      start: (recording) => info.recordings[recording].start,
      footprints: (recording) => this.footprintsHere.get(recording) ?? null,
      annotator: () => this.annotator,
      blocked: (pos) => this.isBlocked(pos),
      labelled: (pos) => this.state.label[pos] > 0,
      skip: () => this.notAsked(),
    });
    // Time away from the candidate is not time spent on it: the page is hidden, or another view or a dialog lies over it.
    let since = 0;
    const look = () => {
      const away = document.hidden || this.view !== "sort" || Boolean(document.querySelector("dialog[open]"));
      if (away && !since) since = performance.now();
      if (away || !since) return;
      this.shownAt += performance.now() - Math.max(since, this.shownAt);
      since = 0;
    };
    for (const name of ["visibilitychange", "dialog"]) document.addEventListener(name, look);
    this.addEventListener("view", look);
    const goOn = () => this.waiting && this.reaching === null && this.next();
    this.queue.addEventListener("ready", goOn);
    this.queue.addEventListener("filled", goOn);
    this.addEventListener("footprints", (event) => {
      const recording = /** @type {CustomEvent} */ (event).detail;
      for (const candidate of this.queue.ready.values()) if (candidate.recording === recording) this.queue.outline(candidate);
    });
  }

  get online() {
    return this.outbox.online;
  }

  get pending() {
    return this.outbox.labels;
  }

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
    return this.outbox.entries.some((entry) => (entry.kind === "label" || entry.kind === "redo") && entry.pos === pos);
  }

  /**
   * The next of the trail, the list, or the questions; painted at once where it is here.
   * @param {boolean} [decided] after a label that was given again: back to where one was, over those that have theirs
   */
  next(decided = false) {
    if (this.list) {
      if (!decided || this.list.at < this.list.positions.length - 1) return this.step(1);
      // Staying would let the next key decide the last one again.
      this.say(`That was the last of “${this.list.name}”: here are the questions again.`, { kind: "info" });
      return this.backToQuestions();
    }
    let by = 1;
    while (decided && this.at + by < this.trail.length && this.state.label[this.trail[this.at + by].pos]) by += 1;
    if (this.at + by < this.trail.length) return this.walk(by);
    this.at = Math.max(this.at, this.trail.length - 1);
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
    this.queue.prefetch(list.positions.slice(at, at + 12));
    this.reach(list.positions[at], (candidate) => {
      list.at = at;
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
    if (this.waiting && this.reaching === null && this.at >= 0) return this.walk(0);
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
    this.say(`${this.whyWaiting()} That key was not used.`, { kind: "info" });
  }

  whyWaiting() {
    if (this.queue.finished && !this.queue.questions.length && !this.outbox.entries.length) {
      return "Nothing is left to ask: every candidate is labelled. Look over them in the review view, or write the decisions back.";
    }
    if (this.online) return "The next candidate is on its way.";
    return "The server does not answer, and all that was loaded is labelled. It goes on by itself when the server is back.";
  }

  /** @param {"sort" | "review"} view */
  setView(view) {
    if (this.view === view) return;
    this.view = view;
    document.body.dataset.view = view;
    this.emit("view");
  }
}
