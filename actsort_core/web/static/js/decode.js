// @ts-check
/** From a pack to what is painted: everything that takes time is done when a candidate is fetched, not when it is shown. */

/** @typedef {import("./types.js").Candidate} Candidate */

const LEVEL = 51; // a fifth of the footprint's maximum, of 255: what counts as part of it

/**
 * @param {import("./types.js").Pack} pack
 * @param {number} columns of the field of view
 * @returns {Candidate}
 */
export function decode({ header, arrays }, columns) {
  const shape = header.arrays.neighbour_traces?.shape ?? [0, 0, 2];
  const frames = arrays.clip ?? null;
  /** @type {Candidate} */
  const candidate = {
    pos: header.pos,
    recording: header.recording,
    index: header.index,
    fingerprint: header.fingerprint,
    low: header.low,
    size: header.size,
    centre: header.centre,
    columns,
    prior: header.prior ?? { verdict: null, probability: null },
    metrics: header.metrics ?? [],
    neighbours: header.neighbours ?? [],
    events: header.events ?? [],
    traceKind: header.trace,
    notes: header.notes ?? [],
    clip: header.clip ?? null,
    pixels: arrays.pixels,
    weights: arrays.weights,
    trace: arrays.trace,
    neighbourTraces: arrays.neighbour_traces ?? new Float32Array(0),
    neighbourBins: shape[1],
    frames,
    framesShape: frames ? header.arrays.clip.shape : [0, 0, 0, 0],
    clipMean: arrays.clip_mean ?? null,
    clipMax: arrays.clip_max ?? null,
    clipTrace: arrays.clip_trace ?? null,
    clipRange: [0, 1],
    traceRange: [0, 1],
    area: 0,
    outline: null,
    around: new Map(),
  };
  candidate.traceRange = rangeOf(candidate.trace, 0, 1);
  if (candidate.clipMean && candidate.clipMax) {
    candidate.clipRange = [rangeOf(candidate.clipMean, 0.02, 1)[0], rangeOf(candidate.clipMax, 0, 0.995)[1]];
  }
  const own = [];
  for (let i = 0; i < candidate.pixels.length; i += 1) {
    if (candidate.weights[i] >= LEVEL) own.push(candidate.pixels[i]);
  }
  candidate.area = own.length;
  candidate.outline = outlineOf(own, columns);
  return candidate;
}

/**
 * Lowest and highest finite value between two quantiles.
 * @param {Float32Array} values
 * @param {number} from
 * @param {number} to
 * @returns {[number, number]}
 */
export function rangeOf(values, from, to) {
  if (from <= 0 && to >= 1) {
    let low = Infinity;
    let high = -Infinity;
    for (let i = 0; i < values.length; i += 1) {
      const v = values[i];
      if (v < low) low = v;
      if (v > high) high = v;
    }
    return low <= high ? [low, high] : [0, 1];
  }
  const sorted = values.filter((v) => Number.isFinite(v)).sort();
  if (!sorted.length) return [0, 1];
  const at = (/** @type {number} */ q) => sorted[Math.min(sorted.length - 1, Math.max(0, Math.round(q * (sorted.length - 1))))];
  return [at(from), at(to)];
}

/**
 * The line round some pixels, along their borders, in pixels of the field of view (x = column, y = row): closed loops with as few corners as
 * there are, so that dashes run on from pixel to pixel.
 * @param {ArrayLike<number>} pixels
 * @param {number} columns
 * @returns {Path2D}
 */
export function outlineOf(pixels, columns) {
  const inside = new Set();
  for (let i = 0; i < pixels.length; i += 1) inside.add(pixels[i]);
  const wide = columns + 1; // corners in a row
  /** Sides with the inside at the right hand: where each begins, where it may end. @type {Map<number, number[]>} */
  const sides = new Map();
  const add = (/** @type {number} */ from, /** @type {number} */ to) => {
    const here = sides.get(from);
    if (here) here.push(to);
    else sides.set(from, [to]);
  };
  for (const p of inside) {
    const x = p % columns;
    const corner = ((p - x) / columns) * wide + x;
    if (!inside.has(p - columns)) add(corner, corner + 1);
    if (x === columns - 1 || !inside.has(p + 1)) add(corner + 1, corner + 1 + wide);
    if (!inside.has(p + columns)) add(corner + 1 + wide, corner + wide);
    if (x === 0 || !inside.has(p - 1)) add(corner + wide, corner);
  }
  const path = new Path2D();
  for (const [start, ends] of sides) {
    while (ends.length) {
      let at = start;
      let way = 0;
      path.moveTo(at % wide, Math.floor(at / wide));
      do {
        const next = /** @type {number[]} */ (sides.get(at)).pop();
        if (next === undefined) break;
        if (next - at !== way && at !== start) path.lineTo(at % wide, Math.floor(at / wide));
        way = next - at;
        at = next;
      } while (at !== start);
      path.closePath();
    }
  }
  return path;
}

/**
 * @param {Candidate} candidate
 * @param {import("./types.js").Footprints} all of its recording
 * @param {number} start the recording's first position
 * @param {number} columns
 */
export function outlineNeighbours(candidate, all, start, columns) {
  for (const { pos } of candidate.neighbours) {
    if (candidate.around.has(pos)) continue;
    const local = pos - start;
    candidate.around.set(pos, outlineOf(all.pixels.subarray(all.bounds[local], all.bounds[local + 1]), columns));
  }
}
