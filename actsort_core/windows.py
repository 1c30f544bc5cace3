"""Where to look in the movie for each candidate: two boxes of pixels around its footprint.

The **near window** is the box around the footprint and seven pixels more on each side: what a clip shows, and where motion is measured. The
**window** is the near window, widened over the boxes of the neighbours (candidates whose centre of mass lies in it), so that the
surround of a footprint holds whole neighbours; but no further than twelve pixels from the box of the footprint, beyond which no feature
looks. A near window wider than `MAX_SIDE` is cut there, around the centre of mass, and is the window as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from scipy import sparse, spatial

MARGIN = 7  # pixels around the footprint
REACH = 12  # pixels around the footprint at which the surround ends
MAX_SIDE = {2: 95, 3: 41}  # of a near window, by dimensions; a footprint that is wider is seen around its centre
PAIRS_AT_ONCE = 2_000  # candidates whose neighbours are looked up at once


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows of candidates; size 0 for an empty footprint.

    Attributes
    ----------
    low, size
        ``(n_cells, ndim)`` int64: first pixel and size of each window.
    near_low, near_size
        The same of the near windows.
    """

    low: NDArray[np.int64]
    size: NDArray[np.int64]
    near_low: NDArray[np.int64]
    near_size: NDArray[np.int64]


def find_windows(weights: sparse.csc_array, fov: tuple[int, ...]) -> Windows:
    """The windows of all candidates.

    Parameters
    ----------
    weights : (n_pixels, n_cells) sparse array, CSC
        As `features._shared.normalised` returns them: nothing stored is dust.
    fov : tuple of two or three int
        Field of view [pixels].
    """
    ndim, n = len(fov), weights.shape[1]
    empty = np.zeros((n, ndim), np.int64)
    some = np.flatnonzero(np.diff(weights.indptr))
    if not some.size:
        return Windows(empty, empty, empty, empty)
    begin = weights.indptr[:-1][some]
    values = weights.data.astype(np.float64)
    mass = np.add.reduceat(values, begin)
    at = [axis.astype(np.int64) for axis in np.unravel_index(weights.indices, fov)]
    first = np.stack([np.minimum.reduceat(axis, begin) for axis in at], axis=1)
    last = np.stack([np.maximum.reduceat(axis, begin) for axis in at], axis=1)
    centre = np.stack([np.add.reduceat(axis * values, begin) / mass for axis in at], axis=1)
    near_first, near_last = first - MARGIN, last + MARGIN
    wide = near_last - near_first + 1 > MAX_SIDE[ndim]
    middle = np.rint(centre).astype(np.int64)
    near_first = np.where(wide, middle - MAX_SIDE[ndim] // 2, near_first)
    near_last = np.where(wide, near_first + MAX_SIDE[ndim] - 1, near_last)
    over_first, over_last = _over_neighbours(first, last, centre, near_first, near_last)
    cut = wide.any(axis=1, keepdims=True)
    far_first = np.where(cut, near_first, np.maximum(over_first, first - REACH))
    far_last = np.where(cut, near_last, np.minimum(over_last, last + REACH))

    def within(a: NDArray[np.int64], b: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        low, size = empty.copy(), empty.copy()
        low[some] = np.maximum(a, 0)
        size[some] = np.minimum(b, np.array(fov) - 1) - low[some] + 1
        return low, size

    return Windows(*within(far_first, far_last), *within(near_first, near_last))


def _over_neighbours(
    first: NDArray[np.int64],
    last: NDArray[np.int64],
    centre: NDArray[np.float64],
    near_first: NDArray[np.int64],
    near_last: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and last pixels of the near windows widened over the boxes of all whose centre lies in them."""
    tree = spatial.cKDTree(centre)
    low, high = near_first.copy(), near_last.copy()
    middle, reach = (near_first + near_last) / 2, (near_last - near_first).max(axis=1) / 2
    for start in range(0, len(first), PAIRS_AT_ONCE):
        rows = slice(start, start + PAIRS_AT_ONCE)
        found = tree.query_ball_point(middle[rows], reach[rows], p=np.inf)
        count = np.array([len(one) for one in found])
        mine = start + np.repeat(np.arange(len(count)), count)
        other = np.fromiter(chain.from_iterable(found), np.int64, int(count.sum()))
        inside = ((centre[other] >= near_first[mine]) & (centre[other] <= near_last[mine])).all(axis=1)
        mine, other = mine[inside], other[inside]
        np.minimum.at(low, mine, first[other])
        np.maximum.at(high, mine, last[other])
    return low, high
