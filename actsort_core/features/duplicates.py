"""Evidence of duplicates and fragments: a better candidate that is the same cell.

A toolkit that finds a cell twice, or a piece of it beside the whole, gives candidates that look like cells by themselves; what
gives them away is another candidate, with a better trace, on the same pixels and active at the same time.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from actsort_core.features import Feature, FeatureGroup
from actsort_core.features._shared import Features, Floats, Positions, column_blocks, finite_or_nan, normalised
from actsort_core.features.neighbours import _binned_scores
from actsort_core.features.traces import trace_features
from actsort_core.model import Recording, TraceArray

PAIR_VALUES = 2_000_000  # values of two sets of traces compared at once: 16 MB
RIM = 0.1  # weight (footprint maximum = 1) above which a pixel belongs to the footprint

DUPLICATE_FEATURES = ("overlap", "containment", "correlation", "sameness", "log_size_ratio")


def duplicate_features(traces: TraceArray, footprints: sparse.csc_array, fov: tuple[int, ...]) -> Features:
    """Compare each candidate with its better neighbours.

    Below, w is a footprint divided by its maximum. Neighbours are candidates whose footprints share a pixel, or do so when each is
    widened by one pixel along every axis: two halves of a cell need not overlap. The better of two is the one whose trace has the
    higher signal to noise (``trace.log_snr``), a usable trace being better than none; of equal ones each is better than the
    other. What has no better neighbour gets 0, for the size ratio too.

    Parameters
    ----------
    traces : (n_cells, n_frames) array
        As in `trace_features`.
    footprints : (n_pixels, n_cells) sparse array, CSC
    fov : tuple of two or three int
        As in `footprint_features`.

    Returns
    -------
    dict of (n_cells,) float32 arrays, in order of `DUPLICATE_FEATURES`; NaN for an empty footprint
        overlap : highest cosine between the footprint and that of a better neighbour.
        containment : highest share of the sum of w on pixels where a better neighbour has w > 0.1; 1 for a fragment of it.
        correlation : highest Pearson correlation with the trace of a better neighbour, both averaged over bins of three
            frames (one, below 300 frames); at least 0. NaN without a usable trace.
        sameness : highest product of that share and that correlation with one and the same better neighbour. NaN without a usable
            trace.
        log_size_ratio : ln of pixels with w > 0.1 / those of the better neighbour with which sameness is highest (of several, the
            largest); below 0 for a fragment, 0 where sameness is 0 or missing.
    """
    weights = normalised(footprints, fov)
    n = weights.shape[1]
    snr = trace_features(traces)["log_snr"]
    scores = _binned_scores(traces)
    area = np.bincount(np.repeat(np.arange(n), np.diff(weights.indptr))[weights.data > RIM], minlength=n)
    empty, mute = np.diff(weights.indptr) == 0, ~np.isfinite(snr)
    best = {name: np.where(empty, np.nan, 0.0) for name in DUPLICATE_FEATURES}
    best["correlation"][mute] = best["sameness"][mute] = np.nan
    for worse, better, cosine, inside in _pairs(weights, fov, np.where(mute, -np.inf, snr)):
        together = _correlations(scores, worse, better)
        same = inside * together
        for name, values in (("overlap", cosine), ("containment", inside), ("correlation", together), ("sameness", same)):
            np.maximum.at(best[name], worse, values)  # a NaN stays
        chosen = (same > 0) & (same == best["sameness"][worse])  # all better neighbours of a candidate are in one block
        largest = np.zeros(n)
        np.maximum.at(largest, worse[chosen], area[better[chosen]])
        found = np.flatnonzero(largest)
        best["log_size_ratio"][found] = np.log(area[found] / largest[found])
    return finite_or_nan(dict(best))


def _pairs(weights: sparse.csc_array, fov: tuple[int, ...], rank: Floats) -> Iterator[tuple[Positions, Positions, Floats, Floats]]:
    """Each candidate with its better neighbours, their cosine, and the share of it inside them; a block of candidates at a time."""
    n = weights.shape[1]
    mass, norm = weights.sum(axis=0), np.sqrt(weights.multiply(weights).sum(axis=0))
    wide, rim = _widened(weights, fov), weights.copy()
    rim.data = (rim.data > RIM).astype(np.float32)
    wide_rows, weight_rows, rim_rows = wide.T.tocsr(), weights.T.tocsr(), rim.T.tocsr()
    for columns in column_blocks(weights):
        touching = (wide_rows @ wide[:, columns]).tocoo()
        better, worse = touching.row.astype(np.intp), touching.col.astype(np.intp)
        kept = (better != worse + columns.start) & (rank[better] >= rank[worse + columns.start])
        key = better[kept] * n + worse[kept]
        key.sort()
        better, worse = key // n, key % n + columns.start
        cosine = _looked_up(weight_rows @ weights[:, columns], key, n) / np.maximum(norm[better] * norm[worse], 1e-30)
        inside = _looked_up(rim_rows @ weights[:, columns], key, n) / np.maximum(mass[worse], 1e-30)
        yield worse, better, np.minimum(cosine, 1), np.minimum(inside, 1)


def _looked_up(product: sparse.csr_array, key: Positions, n: int) -> Floats:
    """Entries of a sparse matrix at ``row * n + column = key`` (ascending), 0 where it has none."""
    coo = product.tocoo()
    have = coo.row.astype(np.intp) * n + coo.col
    order = np.argsort(have)
    have, data = have[order], coo.data[order].astype(np.float64)
    if not have.size:
        return np.zeros(key.size)
    place = np.minimum(np.searchsorted(have, key), have.size - 1)
    return np.where(have[place] == key, data[place], 0.0)


def _widened(weights: sparse.csc_array, fov: tuple[int, ...]) -> sparse.csc_array:
    """Ones on the pixels of each footprint and on those next to them along an axis."""
    cell = np.repeat(np.arange(weights.shape[1]), np.diff(weights.indptr))
    at = np.stack(np.unravel_index(weights.indices, fov), axis=1)
    pixels, cells = [weights.indices.astype(np.intp)], [cell]
    for axis, stride in enumerate(np.cumprod((1, *fov[:0:-1]))[::-1]):
        for step in (-1, 1):
            inside = (at[:, axis] + step >= 0) & (at[:, axis] + step < fov[axis])
            pixels.append(pixels[0][inside] + step * stride)
            cells.append(cell[inside])
    where = (np.concatenate(pixels), np.concatenate(cells))
    out = sparse.csc_array((np.ones(where[0].size, np.float32), where), shape=weights.shape)
    out.sum_duplicates()
    return out


def _correlations(scores: NDArray[np.float32], a: Positions, b: Positions) -> Floats:
    """Correlation of rows `a` with rows `b` of traces with mean 0 and norm 1, at least 0; a bounded number at a time."""
    out = np.zeros(a.size)
    step = max(1, PAIR_VALUES // max(scores.shape[1], 1))
    for k in range(0, a.size, step):
        out[k : k + step] = np.einsum("it,it->i", scores[a[k : k + step]], scores[b[k : k + step]])
    return np.clip(out, 0, 1)


def _compute(recording: Recording) -> Features:
    found = duplicate_features(recording.traces, recording.footprints, recording.fov)
    return {f"duplicates.{name}": values for name, values in found.items()}


GROUP = FeatureGroup(
    "duplicates",
    (
        Feature("duplicates.overlap", "1", 1, None, "highest cosine with the footprint of a better neighbour"),
        Feature("duplicates.containment", "share", 1, None, "how much of the footprint lies inside a better neighbour"),
        Feature("duplicates.correlation", "1", 1, None, "highest correlation with the trace of a better neighbour"),
        Feature("duplicates.sameness", "1", 1, None, "both with one neighbour: containment x correlation"),
        Feature("duplicates.log_size_ratio", "log ratio", 1, None, "pixels of the footprint over those of that neighbour"),
    ),
    frozenset({"traces", "footprints"}),
    _compute,
    default=False,
)


def duplicate_groups(recording: Recording, least: float = 0.4) -> list[list[int]]:
    """Candidates that are likely one cell: the best of them, and those that are the same as that one.

    The candidate with the clearest trace takes whatever is the same as itself by containment x correlation of at least `least`; then the
    clearest of those that are left, and so on. Nothing is linked through a third one: a chain of neighbours that overlap two by two holds
    several cells.

    Parameters
    ----------
    recording
        Footprints and traces in any unit.
    least
        See ``sameness`` in `duplicate_features`.

    Returns
    -------
    Groups of two or more, the largest first, each in order of the signal to noise of their traces, the best first.
    """
    weights, n = normalised(recording.footprints, recording.fov), recording.n_cells
    scores = _binned_scores(recording.traces)
    linked_a, linked_b = [], []
    for a, b, _, inside in _pairs(weights, recording.fov, np.zeros(n)):  # of equal rank each is compared with each
        same = inside * _correlations(scores, a, b) >= least
        linked_a.append(a[same])
        linked_b.append(b[same])
    a, b = (np.concatenate([np.zeros(0, np.intp), *linked]) for linked in (linked_a, linked_b))
    links = sparse.coo_array((np.ones(2 * a.size, np.int8), (np.concatenate([a, b]), np.concatenate([b, a]))), shape=(n, n)).tocsr()
    snr = np.nan_to_num(trace_features(recording.traces)["log_snr"], nan=-np.inf)
    free = np.ones(n, bool)
    groups: list[list[int]] = []
    for best in np.argsort(-snr, kind="stable"):
        others = links.indices[links.indptr[best] : links.indptr[best + 1]]
        others = others[free[others] & (others != best)]
        if free[best] and others.size:
            free[best] = free[others] = False
            groups.append([int(best), *others[np.lexsort((others, -snr[others]))].tolist()])
    return sorted(groups, key=lambda group: (-len(group), min(group)))
