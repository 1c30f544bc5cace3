"""What there is to see of a recording: footprints seen from above, images, who overlaps whom. Worked out once, then looked up."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.spatial import KDTree

from actsort_core.errors import FormatError
from actsort_core.features.table import FeatureTable
from actsort_core.model import Recording
from actsort_core.web import pack

SUPPORT = 0.2  # weight (maximum = 1) from which on a pixel is drawn on the map
NEIGHBOURS = 8
NEAR = 4  # of them, at most, that only lie close
KEPT_VALUES = 16_000_000  # values of traces kept in memory: 64 MB
FOOTPRINTS = "footprints"  # name of the image that is made where a result brings none


class Scene:
    """One recording as it is shown.

    Parameters
    ----------
    recording
        What was read.
    start
        Place of its first candidate in the session.

    Attributes
    ----------
    shape
        ``(rows, columns)`` of what is shown: three dimensions are projected along the third.
    """

    def __init__(self, recording: Recording, start: int) -> None:
        self.recording, self.start = recording, start
        self.shape = (int(recording.fov[0]), int(recording.fov[1]))
        self._rows: OrderedDict[int, NDArray[np.float32]] = OrderedDict()
        self._lock = threading.Lock()

    @cached_property
    def weights(self) -> sp.csc_matrix:
        """``(rows * columns, n_cells)`` footprints from above, maximum 1, nothing negative; sorted."""
        footprints = self.recording.footprints
        cell = np.repeat(np.arange(self.recording.n_cells), np.diff(footprints.indptr))
        depth = self.recording.fov[2] if len(self.recording.fov) == 3 else 1
        pixel, weight = footprints.indices // depth, np.maximum(footprints.data, 0)
        peak = np.zeros(self.recording.n_cells, np.float32)
        np.maximum.at(peak, cell, weight)
        weight = weight / np.where(peak > 0, peak, 1)[cell]
        if depth > 1 and len(pixel):  # the highest of each column of voxels
            key = cell * np.int64(self.shape[0] * self.shape[1]) + pixel
            order = np.argsort(key, kind="stable")
            first = np.flatnonzero(np.diff(key[order], prepend=-1))
            weight, cell, pixel = np.maximum.reduceat(weight[order], first), cell[order][first], pixel[order][first]
        kept = weight > 0
        bounds = np.concatenate([[0], np.cumsum(np.bincount(cell[kept], minlength=self.recording.n_cells))])
        shape = (self.shape[0] * self.shape[1], self.recording.n_cells)
        return sp.csc_matrix((weight[kept].astype(np.float32), pixel[kept], bounds), shape=shape)

    def footprint(self, index: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Pixels (C order of `shape`) and weights (maximum 1) of one candidate."""
        a, b = self.weights.indptr[index : index + 2]
        return self.weights.indices[a:b].astype(np.int64), self.weights.data[a:b]

    @cached_property
    def centres(self) -> NDArray[np.float32]:
        """``(n_cells, 2)`` row and column of each footprint's centre of mass; the middle of the field of view for an empty one."""
        mass = np.asarray(self.weights.sum(axis=0)).ravel()
        at = np.stack(np.divmod(self.weights.indices, self.shape[1]), axis=1) * self.weights.data[:, None]
        cell = np.repeat(np.arange(self.recording.n_cells), np.diff(self.weights.indptr))
        sums = np.stack([np.bincount(cell, at[:, axis], minlength=self.recording.n_cells) for axis in (0, 1)], axis=1)
        middle = np.array(self.shape) / 2
        return np.where(mass[:, None] > 0, sums / np.maximum(mass, 1e-30)[:, None], middle).astype(np.float32)

    @cached_property
    def _by_pixel(self) -> sp.csr_matrix:
        return self.weights.tocsr()

    @cached_property
    def _places(self) -> KDTree:
        return KDTree(self.centres)

    @cached_property
    def _norms(self) -> NDArray[np.float64]:
        return np.sqrt(np.asarray(self.weights.multiply(self.weights).sum(axis=0), np.float64)).ravel()

    def neighbours(self, index: int) -> list[tuple[int, float]]:
        """Candidates whose footprints overlap this one, with the cosine of the two, highest first; then a few that lie close."""
        pixels, weights = self.footprint(index)
        if not len(pixels):
            return []
        rows = self._by_pixel
        begin, end = rows.indptr[pixels], rows.indptr[pixels + 1]
        count = end - begin
        flat = np.repeat(begin - np.concatenate([[0], np.cumsum(count)[:-1]]), count) + np.arange(count.sum())
        who, shared = rows.indices[flat], rows.data[flat] * np.repeat(weights, count)
        kinds, place = np.unique(who, return_inverse=True)
        cosine = np.bincount(place, shared) / (self._norms[kinds] * self._norms[index])
        found = sorted(((int(k), float(min(c, 1))) for k, c in zip(kinds, cosine, strict=True) if k != index), key=lambda f: -f[1])
        found = found[:NEIGHBOURS]
        if len(found) < NEAR:
            reach = 2 * np.sqrt(len(pixels)) + 6
            known = {index, *(k for k, _ in found)}
            n = min(NEAR + len(known), self.recording.n_cells)
            distances, nearest = self._places.query(self.centres[index], k=np.arange(1, n + 1))
            close = [int(k) for k, far in zip(nearest, distances, strict=True) if far <= reach and int(k) not in known]
            found += [(k, 0.0) for k in close if self._norms[k] > 0][: NEAR - len(found)]
        return found

    def window(self, index: int, margin: int = 12, least: int = 40, most: int = 160) -> tuple[tuple[int, int], tuple[int, int]]:
        """First pixel and size of the square around a footprint that is shown, inside the field of view where that is large enough."""
        pixels, _ = self.footprint(index)
        at = np.stack(np.divmod(pixels, self.shape[1]), axis=1) if len(pixels) else self.centres[[index]].astype(np.int64)
        side = int(np.clip(np.ptp(at, axis=0).max() + 1 + 2 * margin, least, most))
        middle = (at.min(axis=0) + at.max(axis=0)) / 2 if np.ptp(at, axis=0).max() < most else self.centres[index]
        size = [min(side, n) for n in self.shape]
        low = [int(np.clip(round(float(m) - s / 2), 0, n - s)) for m, s, n in zip(middle, size, self.shape, strict=True)]
        return (low[0], low[1]), (size[0], size[1])

    def trace(self, index: int) -> NDArray[np.float32]:
        """One trace, ``(n_frames,)``; the latest ones stay in memory.

        Raises
        ------
        FormatError
            The file it is in cannot be read (any more).
        """
        with self._lock:
            if index in self._rows:
                self._rows.move_to_end(index)
                return self._rows[index]
        try:
            row: NDArray[np.float32] = np.asarray(self.recording.traces[slice(index, index + 1)], np.float32)[0]
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise FormatError(
                f"The trace of candidate {index} of {self.recording.name} cannot be read from {self.recording.path} ({error}).",
                "Is the disk it is on still there?",
            ) from error
        with self._lock:
            self._rows[index] = row
            while len(self._rows) > 1 and len(self._rows) * row.size > KEPT_VALUES:
                self._rows.popitem(last=False)
        return row

    @property
    def image_names(self) -> tuple[str, ...]:
        """Images of the field of view; at least one."""
        return tuple(self.recording.images) or (FOOTPRINTS,)

    def image(self, name: str) -> NDArray[np.float32]:
        """An image from above, ``(rows, columns)``; NaN where it has no value."""
        if name not in self.recording.images:
            highest = np.zeros(self.shape[0] * self.shape[1], np.float32)
            np.maximum.at(highest, self.weights.indices, self.weights.data)
            return np.reshape(highest, self.shape)
        image = np.array(self.recording.images[name], np.float32)
        image[~np.isfinite(image)] = np.nan
        seen: NDArray[np.float32] = np.fmax.reduce(image, axis=2) if image.ndim == 3 else image
        return seen

    def metrics(self, index: int) -> list[tuple[str, float, float]]:
        """The toolkit's own statistics of a candidate: name, value, percentile among the recording's candidates."""
        out = []
        for name, ordered in self._ordered.items():
            value = float(self.recording.metrics[name][index])
            if np.isfinite(value):
                share = 100 * float(np.searchsorted(ordered, value, "right")) / len(ordered)
                out.append((name, value, round(share, 1)))
        return out

    @cached_property
    def _ordered(self) -> dict[str, NDArray[np.float64]]:
        metrics = self.recording.metrics.items()
        return {name: np.sort(values[np.isfinite(values)]) for name, values in metrics if np.isfinite(values).any()}

    @cached_property
    def outlines(self) -> bytes:
        """The pack of ``api/footprints``."""
        weights, (rows, columns) = self.weights, self.shape
        n, n_pixels = weights.shape[1], rows * columns
        cell = np.repeat(np.arange(n, dtype=np.int64), np.diff(weights.indptr))
        kept = weights.data >= SUPPORT
        cell, pixel = cell[kept], weights.indices[kept].astype(np.int64)
        key = cell * n_pixels + pixel  # ascending: columns are in order and sorted
        column = pixel % columns
        inside = [
            _has(key, key - 1) & (column > 0),
            _has(key, key + 1) & (column < columns - 1),
            _has(key, key - columns) & (pixel >= columns),
            _has(key, key + columns) & (pixel < n_pixels - columns),
        ]
        bounds = np.concatenate([[0], np.cumsum(np.bincount(cell, minlength=n))]).astype(np.uint32)
        edge = (~np.logical_and.reduce(inside)).astype(np.uint8)
        return pack.encode({}, {"bounds": bounds, "pixels": pixel.astype(np.uint32), "edge": edge, "centres": self.centres})

    def warm_up(self) -> None:
        """Work out what the first candidates need, before somebody waits for it."""
        _ = (self._norms, self._by_pixel, self._places, self.outlines)

    def thumbs(self, indices: Sequence[int], size: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
        """Small pictures: footprints and images ``(k, size, size)``, traces ``(k, 96)``, all 0 to 255."""
        footprints, images = np.zeros((2, len(indices), size, size), np.uint8)
        traces = np.zeros((len(indices), SPARK), np.uint8)
        levels = self._levels
        for k, index in enumerate(indices):
            (r, c), (h, w) = self.window(index, 6, 28, 96)
            rows, columns = r + (np.arange(size) * h) // size, c + (np.arange(size) * w) // size
            images[k] = levels[np.ix_(rows, columns)]
            dense = np.zeros((h, w), np.float32)
            pixels, weights = self.footprint(index)
            y, x = np.divmod(pixels, self.shape[1])
            here = (y >= r) & (y < r + h) & (x >= c) & (x < c + w)
            dense[y[here] - r, x[here] - c] = weights[here]
            footprints[k] = (255 * dense[np.ix_(rows - r, columns - c)]).astype(np.uint8)
            traces[k] = spark(self.trace(index))
        return footprints, images, traces

    @cached_property
    def _levels(self) -> NDArray[np.uint8]:
        """The first image at 8 bits, from its 1 % to its 99.8 % quantile."""
        image = self.image(self.image_names[0])
        good = image[np.isfinite(image)]
        low, high = np.quantile(good, [0.01, 0.998]) if good.size else (0.0, 1.0)
        return np.asarray(255 * np.clip((np.nan_to_num(image, nan=low) - low) / max(high - low, 1e-12), 0, 1), np.uint8)


SPARK = 96  # points of a small trace


def spark(trace: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A trace as ``(96,)`` levels: the highest value of each stretch, from its 2 % quantile (0) to its maximum (255)."""
    out = np.zeros(SPARK, np.uint8)
    good = np.isfinite(trace)
    if good.any():
        low, high = float(np.quantile(trace[good][:: max(1, trace.size // 4000)], 0.02)), float(trace[good].max())
        edges = np.linspace(0, trace.size, min(SPARK, trace.size) + 1).astype(int)
        peaks = np.maximum.reduceat(np.where(good, trace, low), edges[:-1])
        out[: len(peaks)] = 255 * np.clip((peaks - low) / max(high - low, 1e-30), 0, 1)
    return out


def _has(ordered: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.bool_]:
    if not ordered.size:
        return np.zeros(0, bool)
    return np.asarray(ordered[np.minimum(np.searchsorted(ordered, wanted), ordered.size - 1)] == wanted)


def column(tables: Sequence[FeatureTable], name: str) -> NDArray[np.float32] | None:
    """A feature of all candidates, NaN where it is missing; None where no recording has it."""
    if not any(name in table.names for table in tables):
        return None
    parts: list[Any] = [
        table.values[:, table.names.index(name)] if name in table.names else np.full(len(table.values), np.nan) for table in tables
    ]
    return np.concatenate(parts).astype(np.float32)
