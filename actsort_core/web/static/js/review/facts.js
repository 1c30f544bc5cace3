// @ts-check
/** What the state says of single candidates, in words; and where a candidate is. */

/** @typedef {import("../store.js").App} App */
/** @typedef {import("../types.js").State} State */

export const DECISIONS = /** @type {const} */ (["Not a cell", "Cell", "Undecided"]);
export const ORIGINS = /** @type {const} */ (["Nobody", "Toolkit", "Model", "Person"]);

export class Facts {
  /** @param {App} app */
  constructor(app) {
    this.app = app;
    const { recordings, n_cells: n, classes } = app.info;
    this.n = n;
    this.recordings = recordings;
    /** Number of the recording of each candidate. */
    this.recording = new Uint16Array(n);
    recordings.forEach((recording, i) => this.recording.fill(i, recording.start, recording.start + recording.n_cells));
    /** What each class counts as: 1 cell, 0 not a cell, 2 unsure; place 0: no label. */
    this.kinds = Uint8Array.from([3, ...classes.map(({ kind }) => (kind === "cell" ? 1 : kind === "not_cell" ? 0 : 2))]);
  }

  /** @returns {State | null} */
  get state() {
    return this.app.state ?? null;
  }

  /** @param {number} pos */
  index(pos) {
    return pos - this.recordings[this.recording[pos]].start;
  }

  /** @param {number} pos */
  name(pos) {
    return this.recordings.length > 1 ? `${this.recordings[this.recording[pos]].key}:${this.index(pos)}` : String(this.index(pos));
  }

  /**
   * 0 not a cell, 1 cell, 2 undecided.
   * @param {number} pos
   */
  decision(pos) {
    const state = this.state;
    return !state || state.origin[pos] === 0 ? 2 : state.accepted[pos];
  }

  /**
   * Where decisions of the model are cut for this candidate; NaN without a model.
   * @param {number} pos
   */
  line(pos) {
    const found = this.state?.thresholds?.[this.recording[pos]];
    return found === undefined || found === null ? NaN : found;
  }

  /** @param {number} pos */
  labelName(pos) {
    const label = this.state?.label[pos] ?? 0;
    return label ? className(this.app.info.classes[label - 1].name) : "";
  }

  /** @param {number} pos */
  whoName(pos) {
    const state = this.state;
    return state && state.who[pos] ? state.annotators[state.who[pos] - 1] : "";
  }

  /**
   * @param {number} pos
   * @returns {string} "accepted", "rejected" or ""
   */
  priorName(pos) {
    const prior = this.state?.prior[pos] ?? 0;
    return prior > 0 ? "accepted" : prior < 0 ? "rejected" : "";
  }

  /**
   * One sentence, for the tooltip and for who listens.
   * @param {number} pos
   */
  sentence(pos) {
    const state = this.state;
    if (!state) return this.name(pos);
    const parts = [`Candidate ${this.name(pos)}`];
    const blind = this.app.blind;
    const label = this.labelName(pos);
    if (label) parts.push(`labelled ${label.toLowerCase()} by ${this.whoName(pos)}`);
    if (!blind) {
      if (!label || this.kinds[state.label[pos]] === 2) {
        const by = state.origin[pos] === 1 ? " by the toolkit" : state.origin[pos] === 2 ? " by the model" : "";
        parts.push(DECISIONS[this.decision(pos)].toLowerCase() + by);
      }
      if (Number.isFinite(state.probability[pos])) parts.push(`probability ${state.probability[pos].toFixed(2)}`);
      if (this.priorName(pos)) parts.push(`${this.priorName(pos)} by the toolkit`);
    }
    if (state.flagged[pos]) parts.push("flagged");
    return parts.join(", ");
  }

  /**
   * @param {string} text `plane1:37`, or `37` in the recording at hand
   * @param {number} near a position of the recording at hand
   * @returns {{pos: number} | {error: string}}
   */
  find(text, near) {
    const words = text.trim().match(/^(?:(.*\S)\s*:\s*)?#?(\d+)$/);
    if (!words) return { error: "Type a candidate's number, like 37, or with its recording, like plane1:37." };
    const index = Number(words[2]);
    const wanted = words[1];
    const place = wanted === undefined ? this.recording[near] ?? 0 : this.recordings.findIndex((r) => r.key.toLowerCase() === wanted.toLowerCase());
    const recording = this.recordings[place];
    if (!recording) return { error: `There is no recording ${wanted}. There are: ${this.recordings.map((r) => r.key).join(", ")}.` };
    if (index >= recording.n_cells) {
      const which = this.recordings.length > 1 ? `${recording.key} has` : "There are";
      return { error: `${which} ${recording.n_cells.toLocaleString("en")} candidates, counted from 0.` };
    }
    return { pos: recording.start + index };
  }
}

/** @param {string} name of a class, as the server spells it */
export function className(name) {
  return name === "cell" ? "Cell" : name === "not_cell" ? "Not a cell" : name === "unsure" ? "Unsure" : name;
}

/**
 * Units of pure numbers say nothing.
 * @param {string} unit
 */
export function shownUnit(unit) {
  return unit === "1" ? "" : unit;
}

/**
 * Short enough for a column, exact enough to compare.
 * @param {number} value
 */
export function number(value) {
  if (!Number.isFinite(value)) return "";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e5 || size < 1e-3) return value.toExponential(1);
  return value.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 3);
}

/**
 * A probability that is never shown as a certainty.
 * @param {number} p
 */
export function chance(p) {
  if (!Number.isFinite(p)) return "";
  if (p > 0.995) return ">.99";
  if (p < 0.005) return "<.01";
  return p.toFixed(2).slice(p < 1 ? 1 : 0);
}
