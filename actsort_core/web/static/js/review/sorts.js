// @ts-check
/** Orders of the review view: each gives a key for every candidate, lowest first, and which candidates it is about. */

/** @typedef {import("./facts.js").Facts} Facts */
/**
 * @typedef {object} Keys
 * @property {Float64Array} key NaN: last, in either direction
 * @property {Uint8Array | null} about which candidates the order is about: those that disagree, say
 *
 * @typedef {object} Extra what is fetched for some orders
 * @property {Map<number, number>} openness of disagreements between people
 * @property {Map<number, Record<string, string>>} votes where people gave different labels: who gave which
 * @property {Map<number, number>} recent place among the latest labels, 0 the latest
 * @property {Map<string, Float32Array>} features
 *
 * @typedef {{name: string, title: string, help: string, about?: string}} Sort
 */

/** @type {Sort[]} */
export const SORTS = [
  { name: "mistakes", title: "Likely mistakes first", help: "Labels that the model contradicts, most surely first; then the decisions the model is least sure of", about: "labels the model contradicts" },
  { name: "confidence", title: "Least sure first", help: "The nearer the probability is to the line, the earlier" },
  { name: "probability", title: "Probability", help: "Of being a cell, by the model; the highest first" },
  { name: "person_model", title: "Person against model", help: "Labels against which the model would decide", about: "where a person and the model disagree" },
  { name: "model_toolkit", title: "Model against toolkit", help: "Where the model decides other than the toolkit did", about: "where model and toolkit disagree" },
  { name: "people", title: "Person against person", help: "Where people gave different labels; the most open first", about: "where people disagree" },
  { name: "recent", title: "Most recently labelled", help: "Your latest labels first", about: "labelled by you" },
  { name: "recording", title: "Recording order", help: "As the toolkit counts them" },
];

/**
 * @param {string} name of a sort, a column, or `feature:NAME`
 * @param {Facts} facts
 * @param {Extra} extra
 * @returns {Keys}
 */
export function keysOf(name, facts, extra) {
  const n = facts.n;
  const key = new Float64Array(n);
  const state = facts.state;
  if (!state || name === "recording") {
    for (let i = 0; i < n; i++) key[i] = i;
    return { key, about: null };
  }
  if (name.startsWith("feature:")) {
    const values = extra.features.get(name.slice(8));
    if (values) key.set(values);
    else key.fill(NaN);
    return { key, about: null };
  }
  const { probability: p, label, prior } = state;
  const about = new Uint8Array(n);
  switch (name) {
    case "mistakes":
      for (let i = 0; i < n; i++) {
        const kind = facts.kinds[label[i]];
        if (kind < 2) {
          const against = kind === 1 ? 1 - p[i] : p[i];
          // Contradicted labels first (below 0), decisions of the model next (0 to 1), labels that agree last.
          key[i] = against > 0.5 ? -against : 2 - against;
          about[i] = against > 0.5 ? 1 : 0;
        } else key[i] = Math.abs(p[i] - facts.line(i));
      }
      return { key, about };
    case "confidence":
      for (let i = 0; i < n; i++) key[i] = Math.abs(p[i] - facts.line(i));
      return { key, about: null };
    case "probability":
      for (let i = 0; i < n; i++) key[i] = -p[i];
      return { key, about: null };
    case "person_model":
      for (let i = 0; i < n; i++) {
        const kind = facts.kinds[label[i]];
        const differ = kind < 2 && Number.isFinite(p[i]) && (p[i] > facts.line(i)) !== (kind === 1);
        about[i] = differ ? 1 : 0;
        key[i] = kind > 1 ? NaN : -(kind === 1 ? 1 - p[i] : p[i]) - (differ ? 1 : 0);
      }
      return { key, about };
    case "model_toolkit":
      for (let i = 0; i < n; i++) {
        const differ = prior[i] !== 0 && Number.isFinite(p[i]) && (p[i] > facts.line(i)) !== prior[i] > 0;
        about[i] = differ ? 1 : 0;
        key[i] = prior[i] === 0 ? NaN : -(prior[i] > 0 ? 1 - p[i] : p[i]) - (differ ? 1 : 0);
      }
      return { key, about };
    case "people":
      key.fill(NaN);
      for (const [pos, openness] of extra.openness) {
        key[pos] = -openness;
        about[pos] = 1;
      }
      return { key, about };
    case "recent":
      key.fill(NaN);
      for (const [pos, place] of extra.recent) {
        key[pos] = place;
        about[pos] = 1;
      }
      return { key, about };
    case "decision":
      for (let i = 0; i < n; i++) key[i] = [1, 0, 2][facts.decision(i)];
      return { key, about: null };
    case "label":
      for (let i = 0; i < n; i++) key[i] = label[i] || NaN;
      return { key, about: null };
    case "who":
      for (let i = 0; i < n; i++) key[i] = state.who[i] || NaN;
      return { key, about: null };
    case "origin":
      for (let i = 0; i < n; i++) key[i] = -state.origin[i];
      return { key, about: null };
    case "prior":
      for (let i = 0; i < n; i++) key[i] = prior[i] === 0 ? NaN : -prior[i];
      return { key, about: null };
    case "prior_probability":
      for (let i = 0; i < n; i++) key[i] = -state.priorProbability[i];
      return { key, about: null };
    case "flagged":
      for (let i = 0; i < n; i++) key[i] = state.flagged[i] ? 0 : 1;
      return { key, about: null };
    case "index":
      for (let i = 0; i < n; i++) key[i] = facts.index(i);
      return { key, about: null };
    default:
      for (let i = 0; i < n; i++) key[i] = i;
      return { key, about: null };
  }
}

/**
 * @param {Uint32Array} positions sorted in place; equal keys stay in recording order
 * @param {Float64Array} key
 * @param {boolean} reversed
 */
export function sortBy(positions, key, reversed) {
  const k = new Float64Array(key.length);
  for (let i = 0; i < key.length; i++) k[i] = Number.isNaN(key[i]) ? Infinity : reversed ? -key[i] : key[i];
  // Infinity minus itself is NaN, which is no order either: then the position decides.
  positions.sort((a, b) => k[a] - k[b] || a - b);
  return positions;
}

/** Orders that tell what the model or the toolkit think. */
export const OPINIONS = new Set(["mistakes", "confidence", "probability", "person_model", "model_toolkit"]);
