// @ts-check
/** What to ask next, and the candidates themselves, fetched and decoded before they are needed. */

import { decode, outlineNeighbours } from "./decode.js";

/** @typedef {import("./types.js").Candidate} Candidate */
/** @typedef {import("./types.js").Question} Question */
/** @typedef {import("./types.js").Footprints} Footprints */

const SOON = 6; // of the order after the latest fit, fetched at once: each label brings a new order, so that later ones would be fetched in vain
const AHEAD = 24; // questions that come with each answer
const RESERVE = 112; // candidates kept ready in all, of this order or an earlier one, fetched one by one: a burst of a hundred keys finds its candidates
const REFILL = 80; // fewer questions than so many: ask for more
const FEW = 8; // where the server has no more than these, its answers to labels bring them
const KEEP = 280; // decoded candidates kept in memory
const AT_ONCE = 3; // requests for candidates at the same time; the browser has six for everything
const SETTLED = 2; // the next questions that a new order does not push aside: they may be under the person's eyes in a moment

export class Queue extends EventTarget {
  /**
   * @param {import("./api.js").Api} api
   * @param {{columns: (recording: number) => number, start: (recording: number) => number, footprints: (recording: number) => Footprints | null, annotator: () => string, blocked: (pos: number) => boolean, labelled: (pos: number) => boolean, skip: () => number[]}} host
   */
  constructor(api, host) {
    super();
    this.api = api;
    this.host = host;
    /** @type {Question[]} */
    this.questions = [];
    /** What was asked of candidates that were not decided since, by an order now or earlier. @type {Map<number, Question>} */
    this.known = new Map();
    /** @type {Map<number, Candidate>} */
    this.ready = new Map();
    /** @type {Map<number, Promise<Candidate>>} */
    this.coming = new Map();
    /** @type {number[]} */
    this.wanted = [];
    this.running = 0;
    this.asking = false;
    /** Of the wanted ones, so many are wanted soon. */
    this.urgent = 0;
    /** The server gave all it had. */
    this.short = false;
    /** The server had nothing more to ask. */
    this.finished = false;
    this.rev = -1;
  }

  /** The first question whose candidate can be painted at once, taken off the queue. @returns {{question: Question, candidate: Candidate} | null} */
  take() {
    const at = this.questions.findIndex((q) => this.ready.has(q.pos) && !this.host.blocked(q.pos));
    if (at < 0) return null;
    const [question] = this.questions.splice(at, 1);
    this.known.delete(question.pos);
    const candidate = this.ready.get(question.pos);
    return candidate ? { question, candidate } : null;
  }

  /** @param {Question} question gives a question back, to be asked next */
  untake(question) {
    this.known.set(question.pos, question);
    this.questions = [question, ...this.questions.filter((q) => q.pos !== question.pos)];
  }

  /**
   * A new order from the server: the next few stay, the rest follows the new order.
   * @param {import("./types.js").QueueAnswer} answer
   */
  merge(answer) {
    if (!Array.isArray(answer?.questions) || answer.rev < this.rev) return;
    this.rev = answer.rev;
    const free = (/** @type {Question} */ q) => !this.host.blocked(q.pos);
    // An audit is one only as long as the server says so; what somebody else labelled meanwhile is not asked.
    const newer = new Map(answer.questions.map((q) => [q.pos, q]));
    const due = (/** @type {Question} */ q) => newer.has(q.pos) || (q.reason !== "audit" && !this.host.labelled(q.pos));
    const kept = this.questions
      .filter((q) => free(q) && this.ready.has(q.pos) && due(q))
      .slice(0, SETTLED)
      .map((q) => newer.get(q.pos) ?? q);
    const fresh = answer.questions.filter((q) => free(q) && !kept.some((k) => k.pos === q.pos));
    // What was fetched before and is no longer among the best stays behind, so that a burst of keys never meets an empty queue.
    const best = new Set([...kept, ...fresh].map((q) => q.pos));
    const rest = [...this.known.values()].filter((q) => this.ready.has(q.pos) && !best.has(q.pos) && free(q) && due(q));
    this.questions = [...kept, ...fresh, ...rest.reverse()].slice(0, RESERVE + AHEAD); // the latest first
    for (const q of fresh) {
      this.known.delete(q.pos);
      this.known.set(q.pos, q);
    }
    // Where only candidates that were put off are left, the server gives these.
    this.finished = !answer.questions.some(free);
    const lacking = Math.max(0, RESERVE - this.questions.filter((q) => this.ready.has(q.pos)).length);
    this.prefetch(this.questions.map((q) => q.pos), lacking);
    this.dispatchEvent(new CustomEvent("filled"));
  }

  /** Asks for more where there are few, and nothing else will bring them. */
  async refill(force = false) {
    if (this.asking || (!force && this.questions.length >= (this.short ? FEW : REFILL))) return;
    this.asking = true;
    try {
      const params = { n: RESERVE, annotator: this.host.annotator(), skip: this.host.skip().join(",") };
      const answer = await this.api.json("api/queue", params);
      this.short = answer.questions.length < RESERVE;
      this.merge(answer);
    } finally {
      this.asking = false;
    }
  }

  /** What was decided by other ways is not asked. @param {Iterable<number>} positions */
  drop(positions) {
    const gone = new Set(positions);
    this.questions = this.questions.filter((q) => !gone.has(q.pos));
    for (const pos of gone) this.known.delete(pos);
  }

  /** @param {number[]} positions most wanted first @param {number} [reserve] how many to fetch besides the first few */
  prefetch(positions, reserve = RESERVE) {
    const missing = (/** @type {number} */ pos) => !this.ready.has(pos) && !this.coming.has(pos);
    const soon = positions.slice(0, SOON).filter(missing);
    this.urgent = soon.length;
    this.wanted = [...soon, ...positions.slice(SOON).filter(missing).slice(0, reserve)];
    this.pump();
  }

  pump() {
    while (this.running < (this.urgent > 0 ? AT_ONCE : 1) && this.wanted.length) {
      const pos = /** @type {number} */ (this.wanted.shift());
      this.urgent -= 1;
      if (this.ready.has(pos) || this.coming.has(pos)) continue;
      this.running += 1;
      this.load(pos)
        .catch(() => undefined) // asked again when it is needed
        .finally(() => {
          this.running -= 1;
          this.pump();
        });
    }
  }

  /**
   * @param {number} pos
   * @returns {Promise<Candidate>}
   */
  load(pos) {
    const here = this.ready.get(pos);
    if (here) return Promise.resolve(here);
    const coming = this.coming.get(pos);
    if (coming) return coming;
    const promise = this.api
      .pack(`api/candidate/${pos}`)
      .then((pack) => {
        const candidate = decode(pack, this.host.columns(pack.header.recording));
        this.outline(candidate);
        this.ready.set(pos, candidate);
        this.trim();
        this.dispatchEvent(new CustomEvent("ready", { detail: pos }));
        return candidate;
      })
      .finally(() => this.coming.delete(pos));
    this.coming.set(pos, promise);
    return promise;
  }

  /** @param {Candidate} candidate */
  outline(candidate) {
    const all = this.host.footprints(candidate.recording);
    if (all) outlineNeighbours(candidate, all, this.host.start(candidate.recording), this.host.columns(candidate.recording));
  }

  trim() {
    if (this.ready.size <= KEEP) return;
    const next = new Set(this.questions.map((q) => q.pos));
    for (const pos of this.ready.keys()) {
      if (this.ready.size <= KEEP) return;
      if (next.has(pos)) continue;
      this.ready.delete(pos);
      this.known.delete(pos);
    }
  }
}
