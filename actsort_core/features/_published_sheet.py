"""Footprints cut out and laid below each other on one sheet, so that image operations run once for many of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse

from actsort_core.features._shared import Flags, Floats, Positions

MARGIN = 2  # empty pixels around each footprint
SHEET_PIXELS = 1_000_000


class Sheet:
    """Some footprints on one sheet, and their pixels as flat arrays in order of candidate and pixel.

    Attributes
    ----------
    cell
        ``(n,)`` candidate of each pixel, counted within the sheet.
    at
        ``(ndim, n)`` its coordinates in the field of view.
    weight
        ``(n,)`` its weight, float64.
    """

    def __init__(self, weights: sparse.csc_array, fov: tuple[int, ...]) -> None:
        self.fov, self.n_cells = fov, weights.shape[1]
        self.cell = np.repeat(np.arange(self.n_cells), np.diff(weights.indptr))
        self.at = np.stack(np.unravel_index(weights.indices, fov))
        self.weight = weights.data.astype(np.float64)
        begins = weights.indptr[:-1]  # no footprint on a sheet is empty
        self.low = np.stack([np.minimum.reduceat(x, begins) for x in self.at])
        self.high = np.stack([np.maximum.reduceat(x, begins) for x in self.at])
        size = self.high - self.low + 1 + 2 * MARGIN
        self._top = np.cumsum(size[0]) - size[0]
        self.shape = (int(size[0].sum()), *size[1:].max(axis=1).tolist())
        self.where = self.place(self.at)

    def place(self, at: Positions, cell: Positions | None = None) -> Positions:
        """Flat position on the sheet of pixels at coordinates ``(ndim, n)``, which may lie in the margin."""
        cell = self.cell if cell is None else cell
        out = (at[0] + (self._top + MARGIN - self.low[0])[cell]) * int(np.prod(self.shape[1:]))
        for axis in range(1, len(self.fov)):
            out += (at[axis] + (MARGIN - self.low[axis])[cell]) * int(np.prod(self.shape[axis + 1 :]))
        return np.asarray(out)

    def sum(self, values: Floats | Flags) -> Floats:
        """Sum over the pixels of each candidate."""
        return np.bincount(self.cell, values, self.n_cells).astype(float)

    def image(self, values: Floats | Flags) -> NDArray[Any]:
        """A sheet with these values at the pixels, 0 elsewhere."""
        out = np.zeros(self.shape, values.dtype)
        out.ravel()[self.where] = values
        return out

    def extended(self) -> Floats:
        """The weights, those at the border of the field of view repeated beyond it, as far as the margin."""
        cell, at, weight = self.cell, self.at, self.weight
        for axis, size in enumerate(self.fov):
            more = [(at[axis] == edge, step) for edge, sign in ((0, -1), (size - 1, 1)) for step in range(sign, (MARGIN + 1) * sign, sign)]
            copies = []
            for used, step in more:
                moved = at[:, used].copy()
                moved[axis] += step
                copies.append((cell[used], moved, weight[used]))
            cell = np.concatenate([cell, *(c for c, _, _ in copies)])
            at = np.concatenate([at, *(a for _, a, _ in copies)], axis=1)
            weight = np.concatenate([weight, *(w for _, _, w in copies)])
        out = np.zeros(self.shape)
        out.ravel()[self.place(at, cell)] = weight
        return out

    def box_mean(self, half: tuple[int, ...]) -> Floats:
        """Mean weight over a box of 2 half + 1 pixels around each pixel, without what lies outside the field of view."""
        total = np.pad(self.image(self.weight), [(1, 0)] * len(self.fov))
        for axis in range(len(self.fov)):
            np.cumsum(total, axis=axis, out=total)
        strides = np.array(total.strides) // total.itemsize
        origin = np.stack([self._top, *np.zeros_like(self.low[1:])]) + MARGIN - self.low
        pixels, corners = np.ones(self.cell.size), [(1.0, np.zeros(self.cell.size, np.intp))]
        for axis, (x, h, size) in enumerate(zip(self.at, half, self.fov, strict=True)):
            low, high, shift = self.low[axis], self.high[axis], origin[axis]
            pixels *= np.minimum(x + h, size - 1) - np.maximum(x - h, 0) + 1
            first = (np.maximum(x - h, low[self.cell]) + shift[self.cell]) * strides[axis]
            last = (np.minimum(x + h, high[self.cell]) + shift[self.cell] + 1) * strides[axis]
            corners = [(sign * s, at + edge) for sign, at in corners for s, edge in ((-1.0, first), (1.0, last))]
        flat = total.ravel()
        out = np.zeros(self.cell.size)
        for sign, at in corners:
            out += sign * flat[at]
        return np.asarray(out / pixels)

    def bodies(self, used: Flags) -> tuple[Positions, Positions]:
        """Body (from 1; 0 for none) of each pixel, where pixels touching by a corner are one body; the candidate of each body."""
        full = np.ones((3,) * len(self.fov), bool)
        labels, n = ndimage.label(self.image(used), full)
        body = np.asarray(labels).ravel()[self.where]
        cell = np.zeros(n + 1, np.intp)
        cell[body] = self.cell
        return body, cell[1:]

    def filled(self, used: Flags) -> NDArray[np.bool_]:
        """A sheet of the flagged pixels with their holes filled."""
        image = self.image(used)
        labels, _ = ndimage.label(~image)
        return np.asarray(labels != labels.flat[0])

    def per_cell(self, values: NDArray[Any]) -> Floats:
        """Sum of a sheet over the rows of each candidate."""
        rows = values.reshape(self.shape[0], -1).sum(axis=1, dtype=np.float64)
        return np.asarray(np.add.reduceat(rows, self._top))


def sheets(weights: sparse.csc_array, fov: tuple[int, ...]) -> Iterator[tuple[Positions, Sheet]]:
    """Candidates that have a footprint, and sheets of them; those of about the same width together."""
    who = np.flatnonzero(np.diff(weights.indptr))
    if not who.size:
        return
    at = np.unravel_index(weights.indices, fov)
    begins = weights.indptr[:-1][who]
    size = [np.maximum.reduceat(x, begins) - np.minimum.reduceat(x, begins) + 1 + 2 * MARGIN for x in at]
    order = np.lexsort((who, *size))
    start = 0
    while start < who.size:
        across = np.prod([np.maximum.accumulate(s[order[start:]]) for s in size[1:]], axis=0)
        area = np.cumsum(size[0][order[start:]]) * across
        stop = start + max(1, int(np.searchsorted(area, SHEET_PIXELS, side="right")))
        chosen = np.sort(who[order[start:stop]])
        yield chosen, Sheet(weights[:, chosen], fov)
        start = stop
