"""What several feature modules share: traces in usable blocks, footprints in one scale."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from actsort_core.model import TraceArray

Floats = NDArray[np.floating]
Flags = NDArray[np.bool_]
Positions = NDArray[np.intp]
Features = dict[str, NDArray[np.float32]]

BLOCK_VALUES = 2_000_000  # values of a block of traces read at once: 8 MB; a compressed file is slow when read by the row
WORK_VALUES = 200_000  # of those worked on at once: their temporaries stay in the processor's cache
BLOCK_PIXELS = 200_000  # footprint pixels held at once: about 30 MB
MIN_FRAMES = 16  # fewer frames say nothing about a trace
FLOOR = 1e-3  # weight (footprint maximum = 1) at or below which a pixel is rounding dust


def usable_blocks(traces: TraceArray) -> Iterator[tuple[Positions, NDArray[np.float32]]]:
    """Rows of candidates with a usable trace and those traces without lost frames, a bounded number at a time.

    Each row is scaled to 0..1 (in float64) before float32 arithmetic, so neither a large offset nor a tiny unit costs
    precision.
    """
    n_cells, n_frames = traces.shape
    kept = ~_lost_frames(traces)
    if kept.sum() < MIN_FRAMES:
        return
    for rows in row_blocks(n_cells, n_frames):
        block = np.asarray(traces[rows])
        if not kept.all():
            block = block[:, kept]
        step = max(1, WORK_VALUES // block.shape[1])
        for start in range(0, len(block), step):
            where, usable = _usable(block[start : start + step])
            if where.size:
                yield where + rows.start + start, usable


def _usable(block: NDArray[np.floating]) -> tuple[Positions, NDArray[np.float32]]:
    """Which rows are finite and not flat, and those, scaled."""
    good = np.flatnonzero(np.isfinite(block).all(axis=1))
    block = block[good].astype(np.float64)
    low, high = block.min(axis=1, initial=np.inf), block.max(axis=1, initial=-np.inf)
    flat = ~(high - low > 1e-6 * np.maximum(np.abs(low), np.abs(high)))
    span = (high - low)[~flat, None]
    return good[~flat], ((block[~flat] - low[~flat, None]) / span).astype(np.float32)


def _lost_frames(traces: TraceArray) -> Flags:
    """Frames that are finite in no candidate."""
    lost = np.ones(traces.shape[1], bool)
    for rows in row_blocks(*traces.shape):
        lost &= ~np.isfinite(traces[rows]).any(axis=0)
        if not lost.any():
            break
    return lost


def row_blocks(n_rows: int, n_columns: int) -> Iterator[slice]:
    step = max(1, BLOCK_VALUES // max(n_columns, 1))
    return (slice(a, min(a + step, n_rows)) for a in range(0, n_rows, step))


def row_quantile(rows: NDArray[np.float32], q: float) -> NDArray[np.float32]:
    """`numpy.quantile` along the second axis, several times as fast: NumPy sorts by every quantile at once, which it does slowly."""
    place = q * (rows.shape[1] - 1)
    below = int(place)
    part = np.partition(rows, below, axis=1)
    low = part[:, below]
    above = part[:, below + 1 :].min(axis=1) if below + 1 < rows.shape[1] else low
    return np.asarray(low + np.float32(place - below) * (above - low))


def missing(names: tuple[str, ...], n: int) -> Features:
    return {name: np.full(n, np.nan, np.float32) for name in names}


def finite_or_nan(values: dict[str, Floats]) -> Features:
    return {name: np.where(np.isfinite(v), v, np.nan).astype(np.float32) for name, v in values.items()}


def normalised(footprints: sparse.csc_array, fov: tuple[int, ...]) -> sparse.csc_array:
    """A copy with maximum 1 per footprint, float32, pixels sorted, without what is not positive, finite and above `FLOOR`."""
    if int(np.prod(fov)) != footprints.shape[0] or len(fov) not in (2, 3):
        raise ValueError(f"footprints have {footprints.shape[0]} pixels, which does not fit a field of view of {fov}")
    a = sparse.csc_array(footprints, copy=True)
    a.sum_duplicates()  # sorts, too
    a.data = np.where(np.isfinite(a.data) & (a.data > 0), a.data, 0)
    cell = np.repeat(np.arange(a.shape[1]), np.diff(a.indptr))
    peak = np.zeros(a.shape[1], a.dtype)
    np.maximum.at(peak, cell, a.data)
    a.data = (a.data / np.where(peak > 0, peak, 1)[cell]).astype(np.float32)
    a.data[a.data <= FLOOR] = 0
    a.eliminate_zeros()
    return a


def column_blocks(weights: sparse.csc_array) -> Iterator[slice]:
    """Slices of columns with at most `BLOCK_PIXELS` pixels (or one column)."""
    start = 0
    while start < weights.shape[1]:
        end = int(np.searchsorted(weights.indptr, weights.indptr[start] + BLOCK_PIXELS, side="right")) - 1
        end = min(max(end, start + 1), weights.shape[1])
        yield slice(start, end)
        start = end
