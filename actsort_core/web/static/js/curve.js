// @ts-check
/** Drawing of traces: what lies in a stretch of time, lowest and highest value for each column of pixels; axes with round numbers. */

/** @typedef {import("./types.js").TypedArray} TypedArray */

/**
 * A trace as it came: all frames from `start` to `stop`, or the lowest and highest value in equal bins.
 * @typedef {{values: Float32Array, start: number, stop: number, full: boolean}} Source
 */

/**
 * Draws `source` in a box, frames `from` to `to` along its width.
 * @param {CanvasRenderingContext2D} context
 * @param {Source} source
 * @param {{x: number, y: number, w: number, h: number}} box
 * @param {{from: number, to: number, low: number, high: number}} range
 * @param {boolean} [small] a row a few pixels high: its highest values alone, every other pixel. Strokes are what takes longest of a new candidate.
 */
export function drawTrace(context, source, box, range, small = false) {
  const { from, to, low, high } = range;
  const perPixel = (to - from) / box.w;
  const yOf = (/** @type {number} */ v) => box.y + box.h - ((v - low) / (high - low || 1)) * box.h;
  context.beginPath();
  const bins = source.full ? source.values.length : source.values.length / 2;
  const wide = (source.stop - source.start) / bins; // frames of one value
  if (small && 2 * perPixel > wide) drawTops(context, source, box, range, yOf);
  else if (devicePixelRatio === 1 && perPixel > 0.8 * wide) return drawColumns(context, source, box, range, yOf);
  else if (perPixel < 1.5 * wide) {
    // Values lie farther apart than pixels: a line from one to the next.
    const first = Math.max(0, Math.floor((from - source.start) / wide));
    const end = Math.min(bins, Math.ceil((to - source.start) / wide) + 1);
    let pen = false;
    for (let i = first; i < end; i += 1) {
      const v = source.full ? source.values[i] : (source.values[2 * i] + source.values[2 * i + 1]) / 2;
      if (v !== v) {
        pen = false;
        continue;
      }
      const x = box.x + ((source.start + (i + 0.5) * wide - from) / (to - from)) * box.w;
      if (pen) context.lineTo(x, yOf(v));
      else context.moveTo(x, yOf(v));
      pen = true;
    }
  } else {
    const n = bins;
    const perFrame = 1 / wide;
    let lastLow = NaN;
    let lastHigh = NaN;
    let open = false;
    for (let x = 0; x < box.w; x += 1) {
      const a = Math.max(0, Math.floor((from + x * perPixel - source.start) * perFrame));
      const b = Math.min(n, Math.max(a + 1, Math.ceil((from + (x + 1) * perPixel - source.start) * perFrame)));
      let lo = Infinity;
      let hi = -Infinity;
      if (source.full) {
        for (let i = a; i < b; i += 1) {
          const v = source.values[i];
          if (v < lo) lo = v;
          if (v > hi) hi = v;
        }
      } else {
        for (let i = a; i < b; i += 1) {
          if (source.values[2 * i] < lo) lo = source.values[2 * i];
          if (source.values[2 * i + 1] > hi) hi = source.values[2 * i + 1];
        }
      }
      if (lo > hi) {
        open = false;
        continue;
      }
      const px = box.x + x + 0.5;
      // One line through all columns: it goes to the nearer end first, so that it never crosses back.
      if (!open) context.moveTo(px, yOf(lo));
      else if (Math.abs(lastHigh - hi) < Math.abs(lastLow - lo)) context.lineTo(px, yOf(hi));
      else context.lineTo(px, yOf(lo));
      context.lineTo(px, yOf(lo));
      context.lineTo(px, yOf(hi));
      lastLow = lo;
      lastHigh = hi;
      open = true;
    }
  }
  context.stroke();
}

/**
 * A bar for each column of pixels, from its lowest to its highest value and on to the column before it: the picture of a line without the
 * cost of smoothing one, which where pixels are large and there is no graphics card is most of what a new candidate costs.
 * @param {CanvasRenderingContext2D} context
 * @param {Source} source
 * @param {{x: number, y: number, w: number, h: number}} box
 * @param {{from: number, to: number}} range
 * @param {(value: number) => number} yOf
 */
function drawColumns(context, source, box, { from, to }, yOf) {
  const { values, full } = source;
  const bins = full ? values.length : values.length / 2;
  const per = (((to - from) / box.w) * bins) / (source.stop - source.start); // values of one pixel
  const first = ((from - source.start) * bins) / (source.stop - source.start);
  const left = Math.round(box.x);
  context.fillStyle = context.strokeStyle;
  let before = NaN;
  for (let x = 0; x < box.w; x += 1) {
    const a = Math.max(0, Math.floor(first + x * per));
    const b = Math.min(bins, Math.max(a + 1, Math.ceil(first + (x + 1) * per)));
    let low = Infinity;
    let high = -Infinity;
    for (let i = a; i < b; i += 1) {
      const below = values[full ? i : 2 * i];
      const above = values[full ? i : 2 * i + 1];
      if (below < low) low = below;
      if (above > high) high = above;
    }
    if (low > high) {
      before = NaN;
      continue;
    }
    const last = b > a ? values[full ? b - 1 : 2 * b - 2] : low;
    if (before < low) low = before;
    if (before > high) high = before;
    const top = Math.round(yOf(high));
    context.fillRect(left + x, top, 1, Math.max(1, Math.round(yOf(low)) - top));
    before = last;
  }
}

/**
 * The highest value of every two pixels, in one line.
 * @param {CanvasRenderingContext2D} context
 * @param {Source} source
 * @param {{x: number, y: number, w: number, h: number}} box
 * @param {{from: number, to: number}} range
 * @param {(value: number) => number} yOf
 */
function drawTops(context, source, box, { from, to }, yOf) {
  const { values, full } = source;
  const bins = full ? values.length : values.length / 2;
  const per = (((to - from) / box.w) * bins) / (source.stop - source.start); // values of one pixel
  const first = ((from - source.start) * bins) / (source.stop - source.start);
  let open = false;
  for (let x = 0; x < box.w; x += 2) {
    const a = Math.max(0, Math.floor(first + x * per));
    const b = Math.min(bins, Math.max(a + 1, Math.ceil(first + (x + 2) * per)));
    let high = -Infinity;
    for (let i = a; i < b; i += 1) {
      const v = values[full ? i : 2 * i + 1];
      if (v > high) high = v;
    }
    if (high === -Infinity) open = false;
    else if (open) context.lineTo(box.x + x + 1, yOf(high));
    else {
      context.moveTo(box.x + x + 1, yOf(high));
      open = true;
    }
  }
}

/** Round numbers between two values, about `n` of them. @param {number} low @param {number} high @param {number} n */
export function ticks(low, high, n) {
  const span = high - low;
  if (!(span > 0)) return [low];
  const rough = span / Math.max(1, n);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5, 10].find((m) => m * power >= rough) ?? 10);
  const out = [];
  for (let v = Math.ceil(low / step) * step; v <= high + step * 1e-6; v += step) out.push(Math.abs(v) < step / 1e6 ? 0 : v);
  return out;
}

/** As short as it can be said. @param {number} v */
export function number(v) {
  if (v === 0) return "0";
  const size = Math.abs(v);
  if (size >= 1e6 || size < 1e-3) return v.toExponential(1);
  return Number(v.toPrecision(4)).toLocaleString("en", { maximumFractionDigits: 3 });
}

/**
 * Lowest and highest value of a stretch.
 * @param {Source} source
 * @param {number} from
 * @param {number} to
 * @returns {[number, number]}
 */
export function extent(source, from, to) {
  const n = source.full ? source.values.length : source.values.length / 2;
  const perFrame = n / (source.stop - source.start);
  const a = Math.max(0, Math.floor((from - source.start) * perFrame));
  const b = Math.min(n, Math.ceil((to - source.start) * perFrame));
  let low = Infinity;
  let high = -Infinity;
  for (let i = a; i < b; i += 1) {
    const lo = source.full ? source.values[i] : source.values[2 * i];
    const hi = source.full ? lo : source.values[2 * i + 1];
    if (lo < low) low = lo;
    if (hi > high) high = hi;
  }
  return low < high ? [low, high] : low === high ? [low - 1, high + 1] : [0, 1];
}

/** Two decimals, without "-0.00". @param {number} v */
export function two(v) {
  const text = v.toFixed(2);
  return text === "-0.00" ? "0.00" : text;
}
