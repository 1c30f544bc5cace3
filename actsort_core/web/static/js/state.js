// @ts-check
/** What is decided of every candidate: from the pack of `api/state`. */

/** @typedef {import("./types.js").State} State */

/** @param {number} n @returns {State} nothing known yet */
export function freshState(n) {
  return {
    rev: -1,
    labels: 0,
    fitted_on: 0,
    share: null,
    thresholds: [],
    rule: "",
    annotators: [],
    probability: new Float32Array(n).fill(NaN),
    accepted: new Uint8Array(n),
    origin: new Uint8Array(n),
    label: new Uint8Array(n),
    who: new Uint8Array(n),
    prior: new Int8Array(n),
    priorProbability: new Float32Array(n).fill(NaN),
    flagged: new Uint8Array(n),
  };
}

/** @param {import("./types.js").Pack} pack @returns {State} */
export function readState({ header, arrays }) {
  return {
    rev: header.rev,
    labels: header.labels,
    fitted_on: header.fitted_on,
    share: header.share ?? null,
    thresholds: header.thresholds ?? [],
    rule: header.rule ?? "",
    annotators: [...(header.annotators ?? [])],
    probability: arrays.probability,
    accepted: arrays.accepted,
    origin: arrays.origin,
    label: arrays.label,
    who: arrays.who,
    prior: arrays.prior,
    priorProbability: arrays.prior_probability,
    flagged: arrays.flagged,
  };
}
