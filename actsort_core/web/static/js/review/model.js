// @ts-check
/** Which candidates the review view shows, and in which order: state and filters in, positions and counts out. No DOM. */

import { keysOf, OPINIONS, sortBy } from "./sorts.js";

/** @typedef {import("./facts.js").Facts} Facts */
/** @typedef {import("./sorts.js").Extra} Extra */
/** @typedef {{low: number, high: number}} Range */
/** @typedef {"decision" | "origin" | "label" | "prior" | "flagged" | "recording"} FacetName */
/** @typedef {Record<FacetName, Uint32Array>} Counts how many would match with this choice alone changed */

/** @type {FacetName[]} */
export const FACETS = ["decision", "origin", "label", "prior", "flagged", "recording"];

export class ReviewModel {
  /** @param {Facts} facts */
  constructor(facts) {
    this.facts = facts;
    /** @type {Record<FacetName, Set<number>>} empty: everything */
    this.chosen = { decision: new Set(), origin: new Set(), label: new Set(), prior: new Set(), flagged: new Set(), recording: new Set() };
    /** @type {Map<string, Range>} by feature; "" is the probability */
    this.ranges = new Map();
    this.sort = "mistakes";
    this.openSort = ""; // the order before blind mode, which is brought back after it
    this.reversed = false;
    this.onlyAbout = false;
    /** @type {Extra} */
    this.extra = { openness: new Map(), votes: new Map(), recent: new Map(), features: new Map() };
    /** @type {Uint32Array} */
    this.order = new Uint32Array(0);
    /** Place of each candidate in the order, -1 where it is not shown. */
    this.place = new Int32Array(facts.n).fill(-1);
    this.counts = this.noCounts();
    this.nAbout = 0;
    this.rev = -1;
  }

  /** @returns {Counts} */
  noCounts() {
    const sizes = { decision: 3, origin: 4, label: this.facts.kinds.length, prior: 3, flagged: 2, recording: this.facts.recordings.length };
    return /** @type {Counts} */ (Object.fromEntries(FACETS.map((name) => [name, new Uint32Array(sizes[name])])));
  }

  get filtered() {
    return this.ranges.size > 0 || this.onlyAbout || FACETS.some((name) => this.chosen[name].size > 0);
  }

  clear() {
    for (const name of FACETS) this.chosen[name].clear();
    this.ranges.clear();
    this.onlyAbout = false;
  }

  /** In blind mode no order tells what the model or the toolkit think. @param {import("../store.js").App} app */
  hideOpinions(app) {
    if (app.blind && (OPINIONS.has(this.sort) || app.conceals(this.sort))) {
      this.openSort = this.sort;
      this.sort = "recording";
    } else if (!app.blind && this.openSort) {
      this.sort = this.openSort;
      this.openSort = "";
    }
  }

  /** Filters and sorts anew. */
  update() {
    const { facts, chosen } = this;
    const state = facts.state;
    const n = facts.n;
    const out = new Uint32Array(n);
    let found = 0;
    const { key, about } = keysOf(this.sort, facts, this.extra);
    const counts = this.noCounts();
    const tables = FACETS.map((name) => counts[name]);
    const allowed = FACETS.map((name) => {
      const table = new Uint8Array(Math.max(1, counts[name].length));
      if (chosen[name].size) for (const code of chosen[name]) table[code] = 1;
      else table.fill(1);
      return table;
    });
    const ranges = [...this.ranges]
      .map(([name, range]) => ({ ...range, values: name === "" ? state?.probability : this.extra.features.get(name) }))
      .filter((range) => range.values !== undefined);
    const codes = new Uint16Array(FACETS.length);
    this.nAbout = 0;
    if (about) for (let i = 0; i < n; i++) this.nAbout += about[i];
    for (let i = 0; i < n; i++) {
      if (state) {
        codes[0] = state.origin[i] === 0 ? 2 : state.accepted[i];
        codes[1] = state.origin[i];
        codes[2] = state.label[i];
        codes[3] = state.prior[i] > 0 ? 0 : state.prior[i] < 0 ? 1 : 2;
        codes[4] = state.flagged[i];
      }
      codes[5] = facts.recording[i];
      if (this.onlyAbout && about && !about[i]) continue;
      let inside = true;
      for (const { low, high, values } of ranges) {
        const value = /** @type {Float32Array} */ (values)[i];
        // What is missing is in no range.
        if (!(value >= low && value <= high)) {
          inside = false;
          break;
        }
      }
      if (!inside) continue;
      let failed = -1;
      let failures = 0;
      for (let f = 0; f < 6; f++) {
        if (!allowed[f][codes[f]]) {
          failures += 1;
          failed = f;
        }
      }
      if (failures === 0) {
        out[found++] = i;
        for (let f = 0; f < 6; f++) tables[f][codes[f]] += 1;
      } else if (failures === 1) tables[failed][codes[failed]] += 1;
    }
    this.order = sortBy(out.slice(0, found), key, this.reversed);
    this.place.fill(-1);
    for (let i = 0; i < found; i++) this.place[this.order[i]] = i;
    this.counts = counts;
    this.rev = state?.rev ?? -1;
  }

  /**
   * The order, recording by recording.
   * @returns {Uint32Array[]}
   */
  byRecording() {
    const { recording, recordings } = this.facts;
    const sizes = new Uint32Array(recordings.length);
    for (const pos of this.order) sizes[recording[pos]] += 1;
    const parts = recordings.map((_, i) => new Uint32Array(sizes[i]));
    sizes.fill(0);
    for (const pos of this.order) parts[recording[pos]][sizes[recording[pos]]++] = pos;
    return parts;
  }
}
