"""One pass over a movie in blocks of frames: each frame is read once, whatever is computed from it.

What computes something is an `Accumulator`. For each of them the pass calls ``begin`` once, ``block`` for every block of frames (in
any order, in threads, processes or on a dask cluster) and ``finish`` once, with what all blocks returned, in order of the frames. So the
result does not depend on who ran the blocks. What blocks return is kept on disk as soon as it is there: a pass that was killed goes on
with the blocks that are missing.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from actsort_core.errors import FormatError, WriteError
from actsort_core.executors import Execution, Workers, open_workers
from actsort_core.model import Movie, Recording

Tell = Callable[[int, int], None]
Arrays = Mapping[str, NDArray[Any]]

MOST_FRAMES = 1_000  # in a block, so that a kill loses little and progress is seen
_PLAN = "plan.json"


class Accumulator(Protocol):
    """Something that is computed from a movie as its frames pass. Must pickle, as must its state.

    Attributes
    ----------
    name
        Unique among the accumulators of a pass.
    version
        Raised whenever what `block` returns changes, so that no older half-done pass is gone on with.
    """

    @property
    def name(self) -> str:
        """See above."""

    @property
    def version(self) -> int:
        """See above."""

    def begin(self, recording: Recording, movie: Movie) -> Any:
        """What every block needs to know: the state, which is not changed afterwards. Keep it small: it is sent to the workers."""

    def load(self, state: Any, n_frames: int) -> NDArray[np.int64] | None:
        """Bytes that `block` returns for each frame, ``(n_frames,)``; None for little. Keeps the memory of a block bounded."""

    def wanted(self, state: Any, start: int, stop: int) -> bool:
        """Whether frames `start` to `stop` are needed at all: blocks that nobody wants are not read."""

    def block(self, state: Any, start: int, frames: NDArray[Any]) -> Arrays:
        """From the frames from number `start` on, ``(n, *fov)`` in the movie's own dtype, to arrays by name. No side effects."""

    def finish(self, recording: Recording, state: Any, parts: Parts, workers: Workers, tell: Tell) -> Any:
        """The result, from what all blocks returned; `tell` is called with how many candidates are done and of how many."""


class Parts:
    """What the blocks returned to one accumulator.

    Attributes
    ----------
    bounds
        ``(n_blocks + 1,)``: block k holds the frames ``bounds[k]`` to ``bounds[k + 1]``.
    """

    def __init__(self, bounds: Sequence[int], name: str, kept: Sequence[_Part | None]) -> None:
        self.bounds, self._name, self._kept = tuple(bounds), name, kept

    def __len__(self) -> int:
        return len(self._kept)

    def has(self, k: int, array: str) -> bool:
        """Whether block `k` returned this array (a block that nobody wanted returned none)."""
        part = self._kept[k]
        return part is not None and part.find(f"{self._name}/{array}") is not None

    def rows(self, k: int, array: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Rows `start` to `stop` (all) of an array that block `k` returned; only these are read from disk."""
        part = self._kept[k]
        if part is None:
            raise KeyError(array)
        return part.rows(f"{self._name}/{array}", start, stop)


class _Part(Protocol):
    """What one block returned, to all accumulators."""

    def find(self, array: str) -> Any:
        """The array's entry, None where it is not there."""

    def rows(self, array: str, start: int, stop: int | None) -> NDArray[Any]:
        """Some rows of it."""


@dataclass(frozen=True, eq=False)
class _InMemory:
    arrays: Arrays

    def find(self, array: str) -> NDArray[Any] | None:
        return self.arrays.get(array)

    def rows(self, array: str, start: int, stop: int | None) -> NDArray[Any]:
        return self.arrays[array][start:stop]


class _OnDisk:
    """One file: 8 bytes with the length of a JSON header, the header, the arrays one after the other.

    Read with plain reads, not mapped: mapped pages would count as memory of the process.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("rb") as handle:
            length = int.from_bytes(handle.read(8), "little")
            if not 0 < length <= 1 << 20:
                raise ValueError(f"{path} is damaged")
            self._header: dict[str, tuple[str, list[int], int]] = json.loads(handle.read(length))
            self._base = 8 + length
            ends = [self._base, *(self._base + offset + _n_bytes(dtype, shape) for dtype, shape, offset in self._header.values())]
            if os.fstat(handle.fileno()).st_size != max(ends):
                raise ValueError(f"{path} is damaged")

    @staticmethod
    def write(path: Path, arrays: Arrays) -> None:
        """Write it under another name first: what bears the name is whole."""
        header, offset = {}, 0
        plain = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        for name, array in plain.items():
            header[name] = (array.dtype.str, list(array.shape), offset)
            offset += array.nbytes
        text = json.dumps(header).encode()
        tmp = path.with_suffix(f".{os.getpid()}.tmp")  # another process may be at the same
        with tmp.open("wb") as handle:
            handle.write(len(text).to_bytes(8, "little") + text)
            for array in plain.values():
                handle.write(array.reshape(-1).view(np.uint8).data)
        os.replace(tmp, path)

    def find(self, array: str) -> tuple[str, list[int], int] | None:
        return self._header.get(array)

    def rows(self, array: str, start: int, stop: int | None) -> NDArray[Any]:
        dtype, shape, offset = self._header[array]
        start, stop, _ = slice(start, stop).indices(shape[0])
        row = _n_bytes(dtype, shape[1:])
        with self._path.open("rb", buffering=0) as handle:
            handle.seek(self._base + offset + start * row)
            out = np.empty((max(stop - start, 0), *shape[1:]), dtype)
            view = out.reshape(-1).view(np.uint8).data
            while len(view):
                got = handle.readinto(view)
                if not got:
                    raise OSError(f"{self._path} is shorter than it was.")
                view = view[got:]
        return out


def _n_bytes(dtype: str, shape: Sequence[int]) -> int:
    return int(np.dtype(dtype).itemsize * np.prod(shape, dtype=np.int64))


class _Kept:
    """What blocks returned: in a folder that survives the process, or in memory up to a limit and then in a folder that does not."""

    def __init__(self, folder: Path | None, key: str, bounds: list[int], limit: int) -> None:
        self.bounds, self._left = bounds, limit
        self._persistent = folder is not None
        self._folder, self._temporary = folder, None if folder is not None else contextlib.ExitStack()
        self.parts: list[_Part | None] = [None] * (len(bounds) - 1)
        if folder is None:
            return
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            stored = json.loads((folder / _PLAN).read_bytes())
            if stored["key"] == key and stored["bounds"][-1] == bounds[-1]:
                self.bounds = [int(b) for b in stored["bounds"]]  # whatever the memory setting is now: what is done stays done
                self.parts = [self._found(k) for k in range(len(self.bounds) - 1)]
                return
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        tmp = folder / f"{_PLAN}.tmp"
        tmp.write_text(json.dumps({"key": key, "bounds": bounds}))
        os.replace(tmp, folder / _PLAN)

    def _found(self, k: int) -> _Part | None:
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
            return _OnDisk(self._path(k))
        return None

    def _path(self, k: int) -> Path:
        assert self._folder is not None
        return self._folder / f"{k:06d}.part"

    def add(self, k: int, arrays: Arrays) -> None:
        size = sum(array.nbytes for array in arrays.values())
        if not self._persistent:
            if size <= self._left:
                self._left -= size
                self.parts[k] = _InMemory(arrays)
                return
            if self._folder is None:
                assert self._temporary is not None
                self._folder = Path(self._temporary.enter_context(tempfile.TemporaryDirectory(prefix="actsort-")))
        try:
            _OnDisk.write(self._path(k), arrays)
        except OSError as error:
            raise WriteError(
                f"What was computed from the movie cannot be kept in {self._folder} ({error.strerror or error}).",
                "Is the disk full? Started again, it goes on from here.",
            ) from error
        self.parts[k] = _OnDisk(self._path(k))

    def drop(self) -> None:
        """Remove it: the result is known, or the folder does not outlive the pass anyway."""
        if self._temporary is not None:
            self._temporary.close()
        elif self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def run(
    recording: Recording,
    movie: Movie,
    accumulators: Sequence[Accumulator],
    execution: Execution | None = None,
    folder: Path | None = None,
    key: str = "",
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Run all accumulators over a movie that is read once.

    Parameters
    ----------
    recording
        Whose movie it is.
    movie
        ``(n_frames, *fov)``; `movies.check_movie` has compared it with the recording.
    accumulators
        What to compute.
    execution
        Who runs the blocks, and how much memory they may take.
    folder
        Where to keep what is done, so that an interrupted pass can be gone on with; None to keep nothing. Removed when all is done.
    key
        What the results depend on (contents of recording and movie): a pass with another key is not gone on with.
    progress
        Called with a name, how much is done (frames, then candidates) and of how much.

    Returns
    -------
    dict
        What each accumulator's `finish` returned, by its name. The same, bit for bit, with every executor.

    Raises
    ------
    FormatError
        The movie returned frames of another shape than it announces.
    """
    execution = execution or Execution()
    tell = progress or (lambda name, done, total: None)
    n_frames = int(movie.shape[0])
    states = {a.name: a.begin(recording, movie) for a in accumulators}
    with open_workers(execution) as workers:
        budget = execution.memory // (2 * (workers.n + 2))  # blocks under way, each with what is made of it
        bounds = _bounds(movie, [a.load(states[a.name], n_frames) for a in accumulators], budget)
        full_key = repr((key, tuple(movie.shape), sorted((a.name, a.version) for a in accumulators)))
        kept = _Kept(folder, full_key, bounds, execution.memory // 2)
        try:
            _pass(movie, accumulators, states, kept, workers, partial(tell, "movie frames"))
            out = {}
            for a in accumulators:
                parts = Parts(kept.bounds, a.name, kept.parts)
                out[a.name] = a.finish(recording, states[a.name], parts, workers, partial(tell, f"movie {a.name}"))
        except BaseException:
            if folder is None:
                kept.drop()
            raise
        kept.drop()
    return out


def _bounds(movie: Movie, loads: Sequence[NDArray[np.int64] | None], budget: int) -> list[int]:
    """Where blocks begin and end so that frames and what is made of them fit the budget; one frame at least."""
    n_frames, fov = int(movie.shape[0]), movie.shape[1:]
    together = int(getattr(movie, "chunk_frames", 1))  # frames that lie together on disk: whole chunks are read only once
    size = max(4, np.dtype(getattr(movie, "dtype", np.float32)).itemsize)
    cost = np.full(n_frames, size * int(np.prod(fov, dtype=np.int64)), np.int64)
    for load in loads:
        if load is not None:
            cost += load
    total = np.concatenate([[0], np.cumsum(cost)])
    bounds = [0]
    while bounds[-1] < n_frames:
        start = bounds[-1]
        stop = int(np.searchsorted(total, total[start] + budget, side="right")) - 1
        stop = min(max(stop, start + 1), start + MOST_FRAMES, n_frames)
        whole = stop - stop % together
        bounds.append(whole if start < whole and stop < n_frames else stop)
    return bounds


def _pass(movie: Movie, accumulators: Sequence[Accumulator], states: Mapping[str, Any], kept: _Kept, workers: Workers, tell: Tell) -> None:
    bounds = kept.bounds
    missing = []
    for k, part in enumerate(kept.parts):
        start, stop = bounds[k], bounds[k + 1]
        if part is None and any(a.wanted(states[a.name], start, stop) for a in accumulators):
            missing.append(k)
    done = bounds[-1] - sum(bounds[k + 1] - bounds[k] for k in missing)
    tell(done, bounds[-1])
    task: Callable[[Any], dict[str, NDArray[Any]]]
    items: Iterator[Any]
    if not workers.elsewhere or _pickles(movie):
        task = partial(_read_and_compute, movie, tuple(accumulators), states)
        items = iter([(bounds[k], bounds[k + 1]) for k in missing])
    else:  # a reader that cannot be sent to other processes reads here
        task = partial(_compute, tuple(accumulators), states)
        items = ((bounds[k], _read(movie, bounds[k], bounds[k + 1])) for k in missing)
    for k, arrays in zip(missing, workers.map(task, items), strict=True):
        kept.add(k, arrays)
        done += bounds[k + 1] - bounds[k]
        tell(done, bounds[-1])


def _pickles(movie: Movie) -> bool:
    try:
        return len(pickle.dumps(movie)) < 1 << 20  # not one that holds its frames
    except Exception:  # whatever an open file raises
        return False


def _read(movie: Movie, start: int, stop: int) -> NDArray[Any]:
    frames = np.asarray(movie.read(start, stop))
    if frames.shape != (stop - start, *movie.shape[1:]):
        raise FormatError(
            f"{movie.path}: frames {start} to {stop} have shape {frames.shape}, not {(stop - start, *movie.shape[1:])}.",
            "Is the movie truncated?",
        )
    return frames


def _read_and_compute(
    movie: Movie, accumulators: Sequence[Accumulator], states: Mapping[str, Any], where: tuple[int, int]
) -> dict[str, NDArray[Any]]:
    return _compute(accumulators, states, (where[0], _read(movie, *where)))


def _compute(accumulators: Sequence[Accumulator], states: Mapping[str, Any], block: tuple[int, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    start, frames = block
    out = {}
    with np.errstate(all="ignore"):
        for a in accumulators:
            if a.wanted(states[a.name], start, start + len(frames)):
                out.update({f"{a.name}/{name}": np.asarray(array) for name, array in a.block(states[a.name], start, frames).items()})
    return out


__all__ = ["Accumulator", "Execution", "Parts", "Workers", "run"]
