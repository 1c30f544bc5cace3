// @ts-check
/** The line moved on trial: the decisions of the model follow it everywhere on the page, until it is kept or let go. */

const MODEL = 2; // origin of a decision
const PERSON = 3;

/** @typedef {import("./store.js").App} App */

export class Preview {
  /** @param {App} app */
  constructor(app) {
    this.app = app;
    /** @type {number | null} */
    this.at = null;
    /** @type {import("./types.js").State | null} */
    this.base = null;
    /** Decisions as the server gave them. @type {Uint8Array | null} */
    this.before = null;
    app.addEventListener("state", () => {
      // A new state came in between: it is looked at from the same line.
      if (this.at !== null && app.state !== this.base) this.set(this.at);
    });
  }

  /** @param {number | null} t a probability; null: as it was */
  set(t) {
    const { state } = this.app;
    if (this.base !== state) {
      this.base = state;
      this.before = state.accepted.slice();
    }
    const before = /** @type {Uint8Array} */ (this.before);
    const { accepted, origin, probability } = state;
    for (let i = 0; i < accepted.length; i++) {
      if (origin[i] === MODEL) accepted[i] = t === null ? before[i] : Number(probability[i] > t);
    }
    if (t === null) this.base = this.before = null;
    this.at = t;
    this.app.changed(null);
  }

  /**
   * How many are cells with the line there; labels always win.
   * @param {number | null} t null: as it is
   */
  cells(t) {
    const { accepted, origin, probability } = this.app.state;
    let count = 0;
    for (let i = 0; i < accepted.length; i++) count += t !== null && origin[i] === MODEL ? Number(probability[i] > t) : origin[i] ? accepted[i] : 0;
    return count;
  }

  /** By who decided: toolkit, model, person; each cells and not cells. */
  table() {
    const { accepted, origin } = this.app.state;
    const out = { undecided: 0, cell: new Uint32Array(PERSON + 1), not: new Uint32Array(PERSON + 1) };
    for (let i = 0; i < accepted.length; i++) {
      if (origin[i] === 0) out.undecided += 1;
      else if (accepted[i]) out.cell[origin[i]] += 1;
      else out.not[origin[i]] += 1;
    }
    return out;
  }
}
