"""Evidence from the other candidates: duplicates and fragments of one of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from actsort_core.features import Feature, FeatureGroup
from actsort_core.features._shared import Features, Floats, column_blocks, finite_or_nan, normalised, usable_blocks
from actsort_core.model import Recording, TraceArray

GEMM_ROWS = 1_024  # candidates per side of a block of correlations: 4 MB
BIN_FRAMES = 3  # frames averaged before traces are compared: shared noise does not make two candidates the same


def neighbour_features(traces: TraceArray, footprints: sparse.csc_array, fov: tuple[int, ...]) -> Features:
    """Compare each candidate with all others.

    Parameters
    ----------
    traces : (n_cells, n_frames) array
        As in `trace_features`.
    footprints : (n_pixels, n_cells) sparse array, CSC
    fov : tuple of two or three int
        As in `footprint_features`.

    Returns
    -------
    dict of (n_cells,) float32 arrays, in order of `NEIGHBOUR_FEATURES`
        max_trace_correlation : highest Pearson correlation with the trace of another candidate, both averaged over bins of
            three frames (one, below 300 frames) (FEATURES 35, without its threshold). NaN without a usable trace, or
            without another one.
        max_overlap : highest cosine between the footprint and another, 0 if it touches none (FEATURES 46).
            NaN for an empty footprint.
    """
    return finite_or_nan(
        {
            "max_trace_correlation": _max_correlation(_binned_scores(traces)),
            "max_overlap": _max_cosine(normalised(footprints, fov)),
        }
    )


def _binned_scores(traces: TraceArray) -> NDArray[np.float32]:
    """Traces averaged over bins of frames, mean 0 and norm 1, (n_cells, n_bins); zeros where they are not usable."""
    scores: NDArray[np.float32] | None = None
    for rows, block in usable_blocks(traces):
        n_frames = block.shape[1]
        width = BIN_FRAMES if n_frames >= 100 * BIN_FRAMES else 1
        n_bins = n_frames // width
        binned = block[:, : n_bins * width].reshape(-1, n_bins, width).mean(axis=2)
        binned -= binned.mean(axis=1, keepdims=True)
        norm = np.sqrt(np.einsum("it,it->i", binned, binned))
        norm[norm <= 1e-6 * np.abs(block).max(axis=1)] = np.inf
        if scores is None:
            scores = np.zeros((traces.shape[0], n_bins), np.float32)
        scores[rows] = binned / norm[:, None]
    return np.zeros((traces.shape[0], 1), np.float32) if scores is None else scores


def _max_correlation(scores: NDArray[np.float32]) -> Floats:
    """Highest product of each row with another row that is not zero, in blocks: never an N x N array."""
    n = scores.shape[0]
    out = np.full(n, np.nan, np.float32)
    usable = np.flatnonzero(scores.any(axis=1))
    if usable.size < 2:
        return out
    scores = scores if usable.size == n else scores[usable]
    best = np.full(usable.size, -np.inf, np.float32)
    for a in range(0, usable.size, GEMM_ROWS):
        for b in range(a, usable.size, GEMM_ROWS):
            block = scores[a : a + GEMM_ROWS] @ scores[b : b + GEMM_ROWS].T
            if a == b:
                np.fill_diagonal(block, -np.inf)
            for start, axis in ((a, 1), (b, 0)):
                part = best[start : start + GEMM_ROWS]
                np.maximum(part, block.max(axis=axis), out=part)
    out[usable] = np.clip(best, -1, 1)
    return out


def _max_cosine(weights: sparse.csc_array) -> Floats:
    """Highest cosine of each footprint with another, from the sparse A^T A, a block of its columns at a time."""
    norm = np.sqrt(np.asarray(weights.multiply(weights).sum(axis=0), dtype=np.float32))
    unit = weights.copy()
    unit.data /= np.repeat(norm, np.diff(weights.indptr))
    transposed = unit.T.tocsr()
    out = np.zeros(weights.shape[1], np.float32)
    for columns in column_blocks(weights):
        cosine = (transposed @ unit[:, columns]).tocoo()
        column = cosine.col + columns.start
        other = cosine.row != column
        np.maximum.at(out, column[other], cosine.data[other])
    return np.where(norm > 0, np.minimum(out, 1), np.nan)


def _compute(recording: Recording) -> Features:
    found = neighbour_features(recording.traces, recording.footprints, recording.fov)
    return {f"neighbour.{name}": values for name, values in found.items()}


GROUP = FeatureGroup(
    "neighbour",
    (
        Feature(
            "neighbour.max_trace_correlation", "1", 1, None, "highest correlation with another trace (published 35 counts those above .7)"
        ),
        Feature("neighbour.max_overlap", "1", 1, None, "highest cosine with another footprint (published 46 is a correlation)"),
    ),
    frozenset({"traces", "footprints"}),
    _compute,
)
