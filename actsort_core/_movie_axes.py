"""Movies as stored arrays: which axis is time, which are rows, columns and depth, and how a block of frames is read from them.

Stored arrays differ by writer. Python writes ``(T, rows, columns)``. MATLAB counts the first index fastest, so its ``rows x columns x T``
is ``(T, columns, rows)`` to HDF5 and Python. CaImAn's memory maps keep a pixel's whole time course together, ``(columns, rows, T)``. The
shape of the result says which it is; a square field of view leaves it open, and then the content decides (`movies.agreement`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from actsort_core.errors import FormatError, UsageError

_MAX_AXES = 6  # OME's TCZYX and one more
_MAX_FRAME = 1 << 31  # bytes of one frame: beyond any camera, and what one read must be able to hold
_KINDS = "iufb"


class Stored(Protocol):
    """An array on disk. Frozen and small: it goes to other processes, and each read opens the file anew."""

    @property
    def path(self) -> Path:
        """The file or folder it is in."""

    @property
    def shape(self) -> tuple[int, ...]:
        """As stored, first axis slowest."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the stored values."""

    def chunk(self, axis: int) -> int:
        """Along `axis`, how many entries lie together: reading multiples of it costs least."""

    def load(self, axis: int, start: int, stop: int) -> NDArray[Any]:
        """Entries `start` to `stop` along `axis`, all of the other axes, as stored."""


Axes = tuple[int, ...]  # of the stored array: that of time, rows, columns and, in volumes, depth; axes of length 1 may be left out


@dataclass(frozen=True, eq=False)
class ArrayMovie:
    """A movie in one stored array (a `Movie`).

    Attributes
    ----------
    array
        Where the values are.
    axes
        Which of its axes are time, rows, columns (and depth).
    others
        Further readings of the axes that fit the result as well.
    notes
        What was odd, as sentences for the user.
    """

    array: Stored
    axes: Axes
    others: tuple[Axes, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """The file or folder the frames are in."""
        return self.array.path

    @property
    def shape(self) -> tuple[int, ...]:
        """``(n_frames, *fov)``."""
        return tuple(self.array.shape[axis] for axis in self.axes)

    @property
    def dtype(self) -> np.dtype[Any]:
        """What `read` gives: the stored type in this machine's byte order."""
        return self.array.dtype.newbyteorder("=")

    @property
    def chunk_frames(self) -> int:
        """How many frames lie together on disk: reading multiples of it, from a multiple of it, costs least."""
        return max(1, min(self.shape[0], self.array.chunk(self.axes[0])))

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Frames `start` to `stop` as ``(stop - start, *fov)``, C-contiguous, in `dtype`.

        Raises
        ------
        UsageError
            There are no such frames.
        FormatError
            The file is damaged, or was cut since it was opened.
        """
        check_range(self, start, stop)
        if start == stop:
            return np.empty((0, *self.shape[1:]), self.dtype)
        block = self.array.load(self.axes[0], start, stop)
        left = [axis for axis in range(block.ndim) if axis not in self.axes]  # all of length 1
        frames = block.transpose([*self.axes, *left]).reshape(stop - start, *self.shape[1:])
        return np.ascontiguousarray(frames, self.dtype)


@dataclass(frozen=True, eq=False)
class JoinedMovie:
    """Several movies one after another (a `Movie`): a folder of TIFF files.

    Attributes
    ----------
    path
        The folder.
    parts
        The movies, all of one field of view.
    """

    path: Path
    parts: tuple[ArrayMovie, ...]
    others: tuple[Axes, ...] = ()
    notes: tuple[str, ...] = ()
    _ends: tuple[int, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_ends", tuple(itertools.accumulate(part.shape[0] for part in self.parts)))

    @property
    def shape(self) -> tuple[int, ...]:
        """``(n_frames, *fov)``."""
        return (self._ends[-1], *self.parts[0].shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        """What `read` gives."""
        return np.result_type(*(part.dtype for part in self.parts))

    @property
    def chunk_frames(self) -> int:
        """See `ArrayMovie.chunk_frames`."""
        return self.parts[0].chunk_frames

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """See `ArrayMovie.read`."""
        check_range(self, start, stop)
        out = np.empty((stop - start, *self.shape[1:]), self.dtype)
        for end, part in zip(self._ends, self.parts, strict=True):
            first = end - part.shape[0]
            a, b = max(start, first), min(stop, end)
            if a < b:
                out[a - start : b - start] = part.read(a - first, b - first)
        return out


FileMovie = ArrayMovie | JoinedMovie


def check_range(movie: FileMovie, start: int, stop: int) -> None:
    """Refuse frames that are not there: a slice would silently give fewer."""
    if not 0 <= start <= stop <= movie.shape[0]:
        raise UsageError(f"{movie.path} has frames 0 to {movie.shape[0]}, not {start} to {stop}.")


def check_array(array: Stored, name: str) -> None:
    """Refuse what is no movie: other values than numbers, too few or too many axes, impossible sizes."""
    if array.dtype.kind not in _KINDS or not array.dtype.itemsize:
        raise FormatError(f"{name} holds {array.dtype} values, not numbers.", "Give the movie as integers or floating-point numbers.")
    if not 3 <= len(array.shape) <= _MAX_AXES:
        raise FormatError(f"{name} is of shape {array.shape}: no movie.", "A movie has frames, rows and columns (and depth).")


def arrangements(
    shape: Sequence[int], fov: Sequence[int] | None, n_frames: int | None, natural: Sequence[Axes] = (), time: int | None = None
) -> list[Axes]:
    """All ways to read a stored array as frames of a field of view, the likeliest first.

    Parameters
    ----------
    shape
        Of the stored array.
    fov, n_frames
        What is looked for; None where anything goes (then only the usual order is considered).
    natural
        The orders the kind of file is known for, which come first.
    time
        The axis of time, where the file says it.
    """
    if not 3 <= len(shape) <= _MAX_AXES:
        return []
    if fov is None:
        wide = [axis for axis, length in enumerate(shape) if length > 1] if len(shape) > 4 else list(range(len(shape)))
        usual = natural[0] if natural else tuple(wide if len(wide) in (3, 4) else range(min(4, len(shape))))
        if len(usual) == 4 and not natural:
            usual = (usual[0], usual[2], usual[3], usual[1])  # TZYX: depth is our last axis
        return [usual] if n_frames is None or shape[usual[0]] == n_frames else []
    found: dict[tuple[tuple[int, ...], ...], Axes] = {}
    for axes in [*natural, *sorted(_orders(len(shape), len(fov) + 1), key=_oddness)]:
        if len(axes) != len(fov) + 1 or (time is not None and axes[0] != time):
            continue
        lengths = [shape[axis] for axis in axes]
        left = math.prod(length for axis, length in enumerate(shape) if axis not in axes)
        if lengths[1:] == list(fov) and n_frames in (None, lengths[0]) and left == 1:
            # Exchanging axes of length 1 changes nothing: what counts is where the others go.
            effect = tuple((axis, place) for place, axis in enumerate(axes) if shape[axis] > 1)
            found.setdefault(effect, axes)
    return list(found.values())


def _orders(n_axes: int, wanted: int) -> Iterator[Axes]:
    return itertools.permutations(range(n_axes), wanted) if wanted <= n_axes else iter(())


def _oddness(axes: Axes) -> tuple[bool, bool, bool, Axes]:
    """Sorts orders of axes: time first, as Python writes it; MATLAB's, all reversed; then time last; then what nobody writes."""
    space, time = list(axes[1:]), axes[0]
    last = time != min(axes)
    return last, last and time != max(axes), space not in (sorted(space), sorted(space)[::-1]), axes


def check_frame(movie: FileMovie) -> None:
    """Refuse frames that no memory should be asked for."""
    size = math.prod(movie.shape[1:]) * movie.dtype.itemsize
    if size > _MAX_FRAME:
        raise FormatError(f"{movie.path} claims frames of {size:,} bytes.", "The file is damaged, or no movie.")


def size_text(fov: Sequence[int]) -> str:
    """``"100 x 128"``."""
    return " x ".join(map(str, fov))
