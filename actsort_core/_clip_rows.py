"""A candidate's clip as it lies in ``clips.h5``, and as it is handed out (see `clips`)."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actsort_core.events import LENGTH, N_EVENTS

MOST_PIXELS = 1_600  # of a frame: larger windows are averaged over squares of pixels, so that each keeps some two bits
ZERO = 128  # level of no difference to the mean image; level 0 is "no value"


@dataclass(frozen=True, eq=False)
class Clip:
    """What was kept of one candidate.

    Attributes
    ----------
    levels
        ``(n_events, 11, rows, columns)`` uint8: the frames of its events, the highest event first. A pixel's value is that of `mean` plus
        `step` times (level - 128); level 0: no value.
    step
        Movie units of one level.
    mean
        ``(rows, columns)`` float32, movie units: mean of the frames, weighted by the trace above its baseline.
    max
        ``(rows, columns)`` float32, movie units: highest value in those frames.
    events
        ``(n_events,)`` int64: frame of each event's maximum, the highest first.
    trace
        ``(n_events, 11)`` float32: the trace in these frames; NaN where it is not a number.
    low
        First pixel of the window in the field of view; in three dimensions the third is the plane that is shown.
    bin
        Pixels of the movie along each side of one of these.
    """

    levels: NDArray[np.uint8]
    step: float
    mean: NDArray[np.float32]
    max: NDArray[np.float32]
    events: NDArray[np.int64]
    trace: NDArray[np.float32]
    low: tuple[int, ...]
    bin: int

    @property
    def frames(self) -> NDArray[np.float32]:
        """``(n_events, 11, rows, columns)`` float32, movie units; NaN where there is no value."""
        difference = self.levels.astype(np.float32) - ZERO
        return np.where(self.levels > 0, self.mean + np.float32(self.step) * difference, np.float32(np.nan))


def _dataset(group: Any, name: str, ndim: int) -> Any:
    """A dataset of this file that has so many dimensions and no other pixels than ours."""
    import h5py

    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"{name} is elsewhere")
    found = group[name]
    if not isinstance(found, h5py.Dataset) or found.ndim != ndim or found.external or found.is_virtual:
        raise ValueError(f"{name} is not as it should be")
    if math.prod(found.shape[1:]) > N_EVENTS * LENGTH * MOST_PIXELS or math.prod(found.chunks or (1,)) > 1 << 22:
        raise ValueError(f"{name} is too large")
    return found


class Kept:
    """The clips of one recording: what is small in memory, and where the pixels are."""

    def __init__(self, group: Any) -> None:
        names = _dataset(group, "candidates", 1)[:]
        self._names: list[bytes] = names.tolist()
        self._rows: dict[bytes, int] = {}
        ndims = {"events": 2, "shape": 2, "scale": 2, "trace": 3, "low": 2, "bin": 1}
        self._columns = {name: _dataset(group, name, ndim)[:] for name, ndim in ndims.items()}
        if any(len(column) != len(names) for column in self._columns.values()):
            raise ValueError("its parts are not of one length")
        self._pixels = {name: _dataset(group, name, ndim) for name, ndim in (("images", 3), ("frames", 4)) if len(names)}

    def packed(self, candidate: str, index: int) -> Packed | None:
        """What the file holds of a candidate; `index` is where it most likely is."""
        name = candidate.encode()
        row: int | None = index
        if index >= len(self._names) or self._names[index] != name:  # they are hardly ever in another order
            self._rows = self._rows or {name: row for row, name in enumerate(self._names)}
            row = self._rows.get(name)
        if row is None:
            return None
        columns = {name: column[row] for name, column in self._columns.items()}
        if not (columns["events"] >= 0).any() or columns["shape"].min() < 1:
            return None
        return Packed(columns, *(_chunk(self._pixels[name], row) for name in ("images", "frames")))


@dataclass(frozen=True, eq=False)
class Packed:
    """What the file holds of one candidate, not unpacked yet."""

    columns: dict[str, NDArray[Any]]
    images: tuple[bytes, tuple[int, ...]]
    frames: tuple[bytes, tuple[int, ...]]

    def clip(self) -> Clip:
        """Unpacked."""
        at = self.columns
        events = at["events"].astype(np.int64)
        n = int((events >= 0).sum())
        rows, columns = (int(v) for v in at["shape"])
        scale, used = at["scale"], rows * columns
        images = _inflated(*self.images)[:, :used].reshape(2, rows, columns).astype(np.float32)
        return Clip(
            _inflated(*self.frames)[:n, :, :used].reshape(n, LENGTH, rows, columns),
            float(scale[4]),
            scale[0] + scale[1] * images[0],
            scale[2] + scale[3] * images[1],
            events[:n],
            at["trace"][:n],
            tuple(int(v) for v in at["low"]),
            int(at["bin"]),
        )


def _chunk(dataset: Any, row: int) -> tuple[bytes, tuple[int, ...]]:
    """A row as it lies in the file, deflated, and its shape."""
    shape = tuple(dataset.shape[1:])
    if dataset.chunks != (1, *shape) or dataset.dtype != np.uint8 or dataset.compression != "gzip" or dataset.shuffle:
        raise ValueError(f"{dataset.name} is not as it was written")
    at = (row, *(0 for _ in shape))
    try:  # asking for the size first would take longer the later the row: HDF5 goes through all chunks for it
        skipped, packed = dataset.id.read_direct_chunk(at)
    except MemoryError:
        raise ValueError(f"{dataset.name} is too large") from None
    if len(packed) > 2 * math.prod(shape):
        raise ValueError(f"{dataset.name} is too large")
    if skipped:
        raise ValueError(f"{dataset.name} is not deflated")
    return packed, shape


def _inflated(packed: bytes, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    size = math.prod(shape)
    try:
        values = zlib.decompressobj().decompress(packed, size + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if len(values) != size:
        raise ValueError("a clip is not as long as it should be")
    return np.frombuffer(values, np.uint8).reshape(shape)
