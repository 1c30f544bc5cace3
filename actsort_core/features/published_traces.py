"""Published ActSort features 1 to 36: what a trace alone says.

Definitions follow appendix B.1 of the ActSort paper (NeurIPS 2024) and its public code; where they depart from it,
docs/features.md says why. Traces keep their zero, as published: unlike `actsort_core.features.traces`, most of these change
with an offset. None changes with the unit.
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from actsort_core.features import Feature, FeatureGroup
from actsort_core.features._published_events import count_events
from actsort_core.features._published_peaks import find_peaks
from actsort_core.features._published_similar import Sketcher, share_alike
from actsort_core.features._shared import MIN_FRAMES, Features, Flags, Floats, Positions, _lost_frames, finite_or_nan, missing, row_blocks
from actsort_core.model import Recording, TraceArray

Float32s = NDArray[np.float32]

LEVELS = (1, 3, 10, 30, 100, 300)  # of the noise
BANDS = ((0.0, 0.05), (0.05, 0.95), (0.5, 1.0), (0.0, 0.5), (0.95, 1.0))  # of the Nyquist frequency
NOISE_BAND = (0.5, 1.0)
WORK_VALUES = 400_000  # values of a block of traces: few enough for the cache, and for calls to cost little beside the work
ARENA = 31 << 20  # bytes, see `_keep_memory`
TINY = np.finfo(np.float32).tiny
THREADS = 2  # at most: the many short steps keep the interpreter busy, more threads would only wait for it

PUBLISHED_TRACE_FEATURES = (
    "snr",
    "median_residual",
    "n_weak_peaks",
    "top_decile_std",
    "strong_peak_interval",
    "weak_peak_interval",
    "peak_interval",
    "total_width",
    "strong_total_width",
    "width_std",
    "strong_width_std",
    *(f"{kind}_above_{k}_noise" for k in LEVELS for kind in ("power", "frames", "events")),
    *(f"power_{low:.2f}_{high:.2f}".replace("0.", "").replace("1.00", "100") for low, high in BANDS),
    "n_similar_traces",
    "peak_mass",
)


def published_trace_features(traces: TraceArray) -> Features:
    """Compute the published features 1 to 36.

    Frames that are finite in no candidate are left out. A candidate with any other frame that is not finite, or with fewer
    than `MIN_FRAMES` frames, gets NaN, as does whatever is undefined. Below, T is a trace, med3 its running median over three
    frames (zero before the first and after the last), z a z-score, q90 a 90 % quantile (Hazen's, as MATLAB's), and noise
    the square root of the mean periodogram power above half the Nyquist frequency. Peaks, their prominences and their widths
    at half prominence are those of `scipy.signal`.

    Parameters
    ----------
    traces : (n_cells, n_frames) array
        Fluorescence, any unit, zero at the baseline. Read in blocks of rows.

    Returns
    -------
    dict of (n_cells,) float32 arrays, in order of `PUBLISHED_TRACE_FEATURES`
        snr : (1) max med3 / (sqrt 2 noise).
        median_residual : (2) mean of abs(T - med3) / max(T, med3) over frames with med3 > 0.3 max med3.
        n_weak_peaks : (3) peaks with prominence below max(0.1 max T, q90 / 2).
        top_decile_std : (4) standard deviation (n - 1) of the values of z at or above its q90.
        strong_peak_interval, weak_peak_interval, peak_interval : (5, 6, 7) frames from first to last / number of peaks; 0 without
            any. Strong: prominence at least half the q90 of T - min(0, min T); weak: the others.
        total_width, strong_total_width : (8, 9) sum of the widths [frames]. Strong: prominence at least (q90 - min T) / 2.
        width_std, strong_width_std : (10, 11) their standard deviation (n - 1); 0 for one peak, NaN without any.
        power_above_K_noise, frames_above_K_noise, events_above_K_noise : (12 to 29; K = 1, 3, 10, 30, 100, 300) share of sum T^2 in frames
            with T at least K noise; their share of the frames; events above K noise (`count_events`). NaN unless max T > 0.
        power_00_05, power_05_95, power_50_100, power_00_50, power_95_100 : (30 to 34) share of the periodogram, zero frequency
            included, in a band given in % of the Nyquist frequency. Bands share their border frequencies.
        n_similar_traces : (35) share of the other candidates whose med3 correlates above 0.7, among those whose med3 is not flat.
            Pairs are compared by random sketches first (`_published_similar`): one in 10^9 may be judged wrongly.
        peak_mass : (36) sum of the values of z / sqrt(n_frames) of med3 at or above their 99 % quantile.
    """
    n_cells = traces.shape[0]
    out = np.full((n_cells, len(PUBLISHED_TRACE_FEATURES)), np.nan)
    kept = ~_lost_frames(traces)
    n_frames = int(kept.sum())
    if n_frames < MIN_FRAMES or not n_cells:
        return missing(PUBLISHED_TRACE_FEATURES, n_cells)
    sketcher = Sketcher(n_frames)
    sketches = np.zeros((n_cells, sketcher.size), np.float32)
    _keep_memory()

    def work(rows: Positions, block: Float32s) -> None:
        with np.errstate(all="ignore"):
            values, z = _describe(block)
            out[rows] = values
            comparable = np.isfinite(z).all(axis=1)
            sketches[rows[comparable]] = sketcher(z if comparable.all() else z[comparable])

    def read(rows: Positions) -> Float32s:
        z = np.empty((rows.size, n_frames), np.float32)
        for k, row in enumerate(rows):
            block = np.asarray(traces[slice(row, row + 1)], np.float32)
            z[k] = _standardised(_median3(_in_range(block if kept.all() else np.compress(kept, block, axis=1))))[0]
        return z

    with ThreadPoolExecutor(n_threads()) as pool:
        under_way: deque[Future[None]] = deque()
        for rows, block in _blocks(traces, kept):  # reading stays in this thread: not every source can be read from several
            under_way.append(pool.submit(work, rows, block))
            if len(under_way) > 2 * THREADS:
                under_way.popleft().result()
        for future in under_way:
            future.result()
    out[:, PUBLISHED_TRACE_FEATURES.index("n_similar_traces")] = share_alike(sketches, sketcher.exact, read)
    return finite_or_nan(dict(zip(PUBLISHED_TRACE_FEATURES, out.T, strict=True)))


def _keep_memory() -> None:
    """Have glibc keep what is freed from now on instead of returning it, up to 62 MB: fetching it again costs a third of the time.

    Freeing a block raises both thresholds that rule this to its size and twice its size. Elsewhere this does nothing.
    """
    np.empty(ARENA, np.uint8)


def n_threads() -> int:
    """How many threads to share the work between."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(THREADS, available)


def _blocks(traces: TraceArray, kept: Flags) -> Iterator[tuple[Positions, Float32s]]:
    """Rows without a frame that is not finite, scaled, a few at a time."""
    step = max(1, WORK_VALUES // int(kept.sum()))
    whole = bool(kept.all())
    for read in row_blocks(*traces.shape):
        several = np.asarray(traces[read], np.float32)
        if not whole:
            several = np.compress(kept, several, axis=1)
        for start in range(0, len(several), step):
            block = several[start : start + step]
            rows = np.arange(len(block)) + read.start + start
            good = np.isfinite(block.sum(axis=1))
            if not good.all():  # the sum of finite values may overflow: look again
                good = np.isfinite(block).all(axis=1)
                rows, block = rows[good], block[good]
            if rows.size:
                yield rows, _in_range(block)


def _in_range(block: Float32s) -> Float32s:
    """Rows scaled by powers of two, which costs no precision, so that no square overflows."""
    largest = np.maximum(block.max(axis=1), -block.min(axis=1))
    exponent = np.frexp(np.where(largest > 0, largest, 1))[1]
    if np.abs(exponent).max(initial=0) > 120:  # the factor itself might overflow
        return np.asarray(np.ldexp(block, -exponent[:, None]))
    return np.asarray(block * np.ldexp(np.float32(1), -exponent)[:, None])


def _describe(y: Float32s) -> tuple[Floats, Float32s]:
    """Features 1 to 36 (35 missing) of finite rows, (n_rows, 36), and the standardised med3 of each."""
    columns: list[Floats] = []
    mean = y.mean(axis=1)
    centred = y - mean[:, None]
    noise, bands = _spectrum(centred, mean)
    median = _median3(y)
    top, median_top = y.max(axis=1), median.max(axis=1)
    columns += [median_top / (np.sqrt(2) * noise), _residual(y, median, median_top)]

    decile = _Upper(y, 0.9)
    peaks = _peak_features(y, top, decile.quantile)
    std = np.sqrt(np.einsum("ij,ij->i", centred, centred) / (y.shape[1] - 1))
    columns += [peaks[0], decile.reduce(_std) / std, *peaks[1:]]
    columns += _level_features(y, median, top, noise, decile)
    columns += bands

    z = _standardised(median)
    columns += [np.full(len(y), np.nan), _Upper(z, 0.99).reduce(lambda values: values.sum(axis=1))]
    return np.stack([np.asarray(c, np.float64) for c in columns], axis=1), z


def _median3(y: Float32s) -> Float32s:
    """Running median over three frames; zero stands before the first frame and after the last."""
    out = np.empty_like(y)
    inner = out[:, 1:-1]
    left, middle, right = y[:, :-2], y[:, 1:-1], y[:, 2:]
    low, high = np.minimum(left, middle), np.maximum(left, middle)
    np.minimum(high, right, out=high)
    np.maximum(low, high, out=inner)
    for end, next_to in ((0, 1), (-1, -2)):
        pair = y[:, end], y[:, next_to]
        out[:, end] = np.maximum(np.minimum(*pair), np.minimum(np.maximum(*pair), 0))
    return out


def _standardised(y: Float32s) -> Float32s:
    """Mean 0 and norm 1; NaN for a flat trace."""
    z = y - y.mean(axis=1, keepdims=True)
    norm = np.sqrt(np.einsum("ij,ij->i", z, z))
    norm[norm <= 1e-6 * np.sqrt(y.shape[1]) * np.maximum(y.max(axis=1), -y.min(axis=1))] = np.nan
    z /= norm[:, None]
    return np.asarray(z)


class _Upper:
    """A quantile of each row, and its values at or above it.

    Attributes
    ----------
    quantile
        With linear interpolation between (i - 0.5) / n.
    values
        ``(n_rows, n)``: the highest values of each row, in any order.
    whole
        Whether those are the values at or above the quantile; else equal ones were left out.
    """

    def __init__(self, y: Float32s, q: float) -> None:
        n = y.shape[1]
        place = min(max(q * n - 0.5, 0.0), n - 1.0)
        below = int(place)
        part = np.partition(y, below, axis=1)
        low = part[:, below]
        self.values = part[:, below + 1 :] if below + 1 < n else part[:, below:]
        self.least = self.values.min(axis=1)
        self.quantile: Float32s = np.asarray(low + np.float32(place - below) * (self.least - low))
        self.whole = (low < self.quantile) & (self.quantile <= self.least)
        self._y = y

    def reduce(self, what: Callable[[Float32s], Floats]) -> Floats:
        """``(n_rows,)``: a function of ``(n, m)`` values along the second axis, of the values at or above the quantile."""
        out = np.array(what(self.values), np.float64)
        for row in np.flatnonzero(~self.whole):
            y = self._y[row : row + 1]
            out[row] = what(y[y >= self.quantile[row]][None])[0] if np.isfinite(self.quantile[row]) else np.nan
        return out


def _spectrum(centred: Float32s, mean: Floats) -> tuple[Floats, list[Floats]]:
    """Noise, and the share of power in each of `BANDS`. Frequencies are those below Nyquist, zero among them."""
    n_frames = centred.shape[1]
    n = (n_frames + 1) // 2
    parts = np.ascontiguousarray(fft.rfft(centred, axis=1)).view(np.float32)
    parts[:, 0], parts[:, 1] = mean * np.float32(n_frames), 0
    ranges = [(max(_rounded(low * n), 1), _rounded(high * n)) for low, high in ((0, 1), *BANDS)]  # counted from one, both included
    edges = sorted({*(first - 1 for first, _ in ranges), *(last for _, last in ranges)})
    pieces = [parts[:, 2 * first : 2 * last] for first, last in itertools.pairwise(edges)]
    powers = [np.einsum("ij,ij->i", piece, piece) for piece in pieces]

    def power(first: int, last: int) -> Floats:
        return np.asarray(np.sum([np.zeros(len(parts)), *powers[edges.index(first - 1) : edges.index(last)]], axis=0))

    total, *bands = (power(*each) for each in ranges)
    first, last = ranges[1 + BANDS.index(NOISE_BAND)]
    noise = np.sqrt(power(first, last) / (n - first + 1) / (2 * n))
    return noise, [band / total for band in bands]


def _rounded(x: float) -> int:
    return int(np.floor(x + 0.5))


def _residual(y: Float32s, median: Float32s, top: Floats) -> Floats:
    at = np.flatnonzero(median > np.float32(0.3) * top[:, None])
    begin = np.searchsorted(at, np.arange(len(y)) * y.shape[1])
    values, smooth = y.ravel()[at], median.ravel()[at]
    residual = np.abs(values - smooth) / np.maximum(values, smooth)
    count = np.diff(begin, append=at.size)  # not zero where top > 0
    return np.where(top > 0, np.add.reduceat(np.append(residual, np.float32(0)), begin) / count, np.nan)


def _count(flags: Flags) -> NDArray[np.int64]:
    """How many are set in each row (row by row NumPy counts several times faster than along an axis)."""
    return np.array([np.count_nonzero(row) for row in flags], np.int64)


def _peak_features(y: Float32s, top: Floats, q90: Floats) -> list[Floats]:
    """Features 3 and 5 to 11."""
    peaks = find_peaks(y)
    bottom = y.min(axis=1)
    width = peaks.widths()

    def interval(at: Positions) -> Floats:
        """Sum of the differences between peaks / their number."""
        first, count = peaks.divide(at)
        out = np.zeros(len(y))
        some = count > 0
        first, count = first[some], count[some]
        out[some] = (peaks.frame[at[first + count - 1]] - peaks.frame[at[first]]) / count
        return out

    def std(total: Floats, square: Floats, n: Positions) -> Floats:
        variance = np.maximum(square - total**2 / np.maximum(n, 1), 0) / np.maximum(n - 1, 1)
        return np.where(n > 1, np.sqrt(variance), np.where(n == 1, 0.0, np.nan))

    n_strong = peaks.divide(peaks.stronger(np.maximum(np.float32(0.1) * np.maximum(top, 0), q90 / 2)))[1]
    strong = peaks.stronger((q90 - np.minimum(bottom, 0)) / 2)
    weak = np.ones(width.size, bool)
    weak[strong] = weak[peaks.start] = False
    last = peaks.frame[peaks.start + peaks.count] - peaks.frame[peaks.start + np.minimum(peaks.count, 1)]
    intervals = [interval(strong), interval(np.flatnonzero(weak)), last / np.maximum(peaks.count, 1)]
    wide = peaks.stronger((q90 - bottom) / 2) if (bottom > 0).any() else strong
    totals = [np.add.reduceat(values, peaks.start) for values in (width, width * width)]
    first, count = peaks.divide(wide)
    running = [np.append(0, np.cumsum(values)) for values in (width[wide], width[wide] ** 2)]
    strong_totals = [values[first + count] - values[first] for values in running]
    weak_count = np.where(top > 0, peaks.count - n_strong, np.nan)
    spreads = [std(totals[0], totals[1], peaks.count), std(strong_totals[0], strong_totals[1], count)]
    return [weak_count, *intervals, totals[0], strong_totals[0], *spreads]


def _std(values: Float32s) -> Floats:
    return np.asarray(values.std(axis=1, ddof=min(1, values.shape[1] - 1)))


def _level_features(y: Float32s, median: Float32s, top: Floats, noise: Floats, decile: _Upper) -> list[Floats]:
    """Features 12 to 29."""
    n_rows, n_frames = y.shape
    positive = np.flatnonzero(top > 0)
    share = np.array(LEVELS)[:, None] * noise[positive] / top[positive]
    scaled: Float32s = np.asarray(median[positive] / top[positive, None], np.float32)
    out = np.full((len(LEVELS), 3, n_rows), np.nan)
    out[:, 2, positive] = count_events(scaled, share)
    energy = np.einsum("ij,ij->i", y, y)
    out[:, :2, positive] = 0
    for k, level in enumerate(LEVELS):
        lowest = np.maximum((level * noise).astype(np.float32), TINY)
        some = (top > 0) & (top >= lowest)
        high = lowest >= decile.least  # what is above such a level is in the highest tenth
        for rows, source in ((some & high, decile.values), (some & ~high, y)):
            if rows.any():
                values = source if rows.all() else source[rows]
                above = values >= lowest[rows, None]
                values = values * above
                out[k, 0, rows] = np.einsum("ij,ij->i", values, values) / energy[rows]
                out[k, 1, rows] = _count(above) / n_frames
    return [column for level in out for column in level]


def _compute(recording: Recording) -> Features:
    found = published_trace_features(recording.traces)
    return {f"published.{name}": values for name, values in found.items()}


def _described() -> Iterator[tuple[str, str]]:
    """Unit and description of each feature, in order."""
    yield "1", "peak of the running median over noise"
    yield "share", "what the running median leaves of a trace where it is active"
    yield "peaks", "peaks that are not prominent"
    yield "1", "spread of the highest tenth of the z-scored trace"
    yield from (("frames", f"mean interval between {which} peaks") for which in ("prominent", "weak", "all"))
    yield from (
        ("frames", f"{what} of {which} peaks") for what in ("summed width", "spread of the width") for which in ("all", "prominent")
    )
    for k in LEVELS:
        yield "share", f"squared signal in frames above {k} x noise"
        yield "share", f"frames above {k} x noise"
        yield "events", f"events above {k} x noise"
    yield from (("share", f"spectral power from {low:g} to {high:g} of Nyquist") for low, high in BANDS)
    yield "share", "other candidates whose trace correlates above .7"
    yield "1", "what the highest hundredth of the z-scored running median sums to"


GROUP = FeatureGroup(
    "published_trace",
    tuple(
        Feature(f"published.{name}", unit, 1, number, text)
        for number, (name, (unit, text)) in enumerate(zip(PUBLISHED_TRACE_FEATURES, _described(), strict=True), start=1)
    ),
    frozenset({"traces"}),
    _compute,
    default=False,
)
