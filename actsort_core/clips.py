"""Clips: what a person wants to see of each candidate in the movie, small enough to take along.

For every candidate the frames of its best events (`events`) in the near window around it (`windows`), their mean weighted by the trace, and
the highest value of each pixel in them: 8 bits a pixel with the scale beside them, in ``clips.h5`` in the session's folder. Sorting
then needs no movie. The clips of a recording are found by its fingerprint, those of a candidate by the candidate's.
docs/features.md describes the file.
"""

from __future__ import annotations

import bisect
import contextlib
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actsort_core.atomic import clear_leftovers, commit, staged
from actsort_core.errors import FormatError, MissingFileError, WriteError
from actsort_core.events import LENGTH, N_EVENTS, EventChunk
from actsort_core.model import Recording

VERSION = 1
BYTES = 28_000  # of a candidate's frames and images, at most: with what else is kept under 30 MB for 1,000 candidates
MOST_PIXELS = 1_600  # of a frame: larger windows are averaged over squares of pixels, so that each keeps some two bits
ZERO = 128  # level of no difference to the mean image; level 0 is "no value"
STEPS = tuple(2 ** (k / 4) for k in range(29))  # how much coarser the levels may become


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


@dataclass(frozen=True)
class ClipReader:
    """Makes the clips of a recording in the pass over its movie (an `events.EventReader`); its result is the path.

    Attributes
    ----------
    path
        ``clips.h5``. Clips of other recordings in it stay.
    limit
        Bytes of a candidate's frames and images at most; what would take more is kept with fewer levels.
    """

    path: Path
    limit: int = BYTES
    name: str = "clips"

    def read(self, chunk: EventChunk) -> list[_Made]:
        """The clips of these candidates."""
        return [_make(chunk, i, self.limit) for i in range(len(chunk))]

    def sink(self, recording: Recording) -> _File:
        """The file they are written to."""
        return _File(self.path, recording)


@dataclass(frozen=True, eq=False)
class _Made:
    """A candidate's clip as it is written, padded to `MOST_PIXELS`; `frames` and `images` are deflated."""

    frames: bytes
    images: bytes
    shape: tuple[int, int]
    bin: int
    low: NDArray[np.int64]
    scale: NDArray[np.float32]
    events: NDArray[np.int64]
    trace: NDArray[np.float32]


def _make(chunk: EventChunk, i: int, limit: int) -> _Made:
    low, near = chunk.near_low[i].copy(), chunk.near(i)
    frames = chunk.frames(i)[(slice(None), slice(None), *near)]
    if frames.ndim == 5:  # the plane in which the footprint weighs most
        plane = int(chunk.footprint(i)[near].sum(axis=(0, 1)).argmax())
        frames = frames[..., plane]
        low[2] += plane
    side = _bin(frames.shape[2], frames.shape[3])
    pixels = _binned(frames, side)
    n, shape = len(pixels), (pixels.shape[2], pixels.shape[3])
    flat = pixels.reshape(n * LENGTH, -1)
    good = np.isfinite(flat)
    weight = _weights(chunk.values[i, :n], float(chunk.baseline[i]))
    if good.all():
        mean, high = weight @ flat, flat.max(axis=0)
    else:
        seen = weight @ good
        mean = (weight @ np.where(good, flat, 0)) / np.where(seen > 0, seen, 1)
        high = np.where(good, flat, -np.inf).max(axis=0)
        high = np.where(np.isfinite(high), high, mean)
    mean_levels, mean_scale = _eight_bits(mean)
    high_levels, high_scale = _eight_bits(high)
    images = np.zeros((2, MOST_PIXELS), np.uint8)
    images[0, : mean.size], images[1, : mean.size] = mean_levels, high_levels
    kept = _deflated(images)
    difference = flat - (mean_scale[0] + mean_scale[1] * mean_levels.astype(np.float32))
    difference[~good] = 0
    deflated, step = _coded(difference, good, limit - len(kept))
    return _Made(
        deflated,
        kept,
        shape,
        side,
        low,
        np.array([*mean_scale, *high_scale, step], np.float32),
        chunk.events[i],
        chunk.values[i],
    )


def _bin(rows: int, columns: int) -> int:
    """Over how many pixels a side to average, so that a frame has at most `MOST_PIXELS`."""
    side = 1
    while max(1, rows // side) * max(1, columns // side) > MOST_PIXELS:
        side += 1
    return side


def _binned(frames: NDArray[Any], side: int) -> NDArray[np.float32]:
    """Frames ``(..., rows, columns)`` averaged over squares; what is left over at the far edges is cut off."""
    frames = frames.astype(np.float32)
    if side == 1:
        return frames
    rows, columns = frames.shape[-2] // side, frames.shape[-1] // side
    cut = frames[..., : rows * side, : columns * side]
    return np.asarray(cut.reshape(*frames.shape[:-2], rows, side, columns, side).mean(axis=(-3, -1)))


def _weights(values: NDArray[np.float32], baseline: float) -> NDArray[np.float32]:
    """How much each frame counts, sum 1: the trace above its baseline; all the same where there is nothing above it."""
    above = np.nan_to_num(np.maximum(values.ravel() - np.float32(baseline), 0), nan=0, posinf=0)
    total = float(above.sum())
    return (above / total if total > 0 and math.isfinite(total) else np.full(above.size, 1 / above.size)).astype(np.float32)


def _eight_bits(image: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """An image as levels 0 to 255, and what level 0 and one level stand for."""
    low, high = float(image.min()), float(image.max())
    step = np.float32((high - low) / 255) or np.float32(1)
    levels = np.rint((image - np.float32(low)) / step)
    return np.clip(levels, 0, 255).astype(np.uint8), np.array([low, step], np.float32)


def _coded(difference: NDArray[np.float32], good: NDArray[np.bool_], limit: int) -> tuple[bytes, float]:
    """Differences to the mean image as levels, deflated, with the finest step that fits; and that step."""
    typical = float(np.abs(difference).mean())
    # A hot pixel must not cost the others their levels: beyond 64 times the mean difference all is one.
    reach = min(max(float(difference.max()), -float(difference.min())), 64 * typical) or 1.0
    finest = reach / (ZERO - 1)
    levels = np.clip(np.rint(difference * np.float32(1 / finest)), 1 - ZERO, ZERO - 1)
    counts = np.bincount((levels + ZERO).astype(np.intp).ravel(), minlength=256)
    best = b""
    first = bisect.bisect_left(STEPS[:-1], -float(limit), key=lambda factor: -_estimate(counts, factor))
    for factor in STEPS[first:]:
        coarse = np.clip(np.rint(difference * np.float32(1 / (finest * factor))), 1 - ZERO, ZERO - 1) if factor > 1 else levels
        padded = np.zeros((N_EVENTS * LENGTH, MOST_PIXELS), np.uint8)
        part = padded[: len(coarse), : coarse.shape[1]]
        part[...] = coarse + ZERO
        part[~good] = 0
        best = _deflated(padded)
        if len(best) <= limit:
            break
    return best, finest * factor


def _estimate(counts: NDArray[np.intp], factor: float) -> float:
    """About how many bytes the levels take when they are so much coarser: their entropy, which Huffman's code nearly reaches."""
    where = np.rint((np.arange(counts.size) - ZERO) / factor).astype(np.intp)
    found = np.bincount(where - where.min(), counts)
    share = found[found > 0] / found.sum()
    return 1.02 * float(-(share * np.log2(share)).sum() * found.sum() / 8) + 400  # tables, and the padding


def _deflated(levels: NDArray[np.uint8]) -> bytes:
    """As HDF5's own deflate filter reads it. Only runs and Huffman's code: matches found in noise make it longer."""
    packer = zlib.compressobj(1, zlib.DEFLATED, 15, 9, zlib.Z_RLE)
    return packer.compress(levels.data) + packer.flush()


class _File:
    """Writes the clips of one recording beside those of the others; the file is replaced when all are there.

    Raises
    ------
    WriteError
        The folder cannot be written to, or the disk is full; what was there is still there.
    """

    def __init__(self, path: Path, recording: Recording) -> None:
        self._path, self._closing = path, contextlib.ExitStack()
        with self._trying(), contextlib.ExitStack() as stack:
            import h5py

            path.parent.mkdir(parents=True, exist_ok=True)
            clear_leftovers(path)
            self._tmp = stack.enter_context(staged(path))
            self._handle = stack.enter_context(h5py.File(self._tmp, "w"))
            self._handle.attrs["actsort_clips"] = VERSION
            self._keep_others(recording.fingerprint)
            self._create(recording)
            self._closing = stack.pop_all()

    @contextlib.contextmanager
    def _trying(self) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError) as error:  # h5py raises the latter where it cannot close a file
            self.cancel()
            if isinstance(error, WriteError):
                raise
            raise WriteError(f"Writing {self._path} failed ({error}).", "Nothing was changed. Is the disk full?") from error

    def _keep_others(self, mine: str) -> None:
        with contextlib.suppress(FileNotFoundError, MissingFileError, FormatError), Clips(self._path) as old:
            for name in old.recordings():
                if name != mine:
                    with contextlib.suppress(KeyError, FormatError):
                        old.copy(name, self._handle)

    def _create(self, recording: Recording) -> None:
        n, ndim = recording.n_cells, len(recording.fov)
        group = self._group = self._handle.create_group(recording.fingerprint)
        group.attrs["name"], group.attrs["fov"], group.attrs["n_frames"] = recording.name, recording.fov, recording.n_frames
        if recording.fps is not None:
            group.attrs["fps"] = recording.fps
        group["candidates"] = np.array(recording.candidate_fingerprints, "S16")
        self._columns: dict[str, NDArray[Any]] = {
            "shape": np.zeros((n, 2), np.int32),
            "bin": np.zeros(n, np.int32),
            "low": np.zeros((n, ndim), np.int32),
            "scale": np.full((n, 5), np.nan, np.float32),
            "events": np.full((n, N_EVENTS), -1, np.int32),
            "trace": np.full((n, N_EVENTS, LENGTH), np.nan, np.float32),
        }
        if n:  # a chunk for each candidate, deflated by the workers
            for name, shape in (("frames", (N_EVENTS, LENGTH, MOST_PIXELS)), ("images", (2, MOST_PIXELS))):
                group.create_dataset(name, (n, *shape), np.uint8, chunks=(1, *shape), compression="gzip", compression_opts=1)

    def add(self, who: NDArray[np.int64], found: Sequence[_Made]) -> None:
        """Write the clips of these candidates."""
        with self._trying():
            frames, images = self._group["frames"].id, self._group["images"].id
            for i, made in zip(who.tolist(), found, strict=True):
                frames.write_direct_chunk((i, 0, 0, 0), made.frames)
                images.write_direct_chunk((i, 0, 0), made.images)
                for name, column in self._columns.items():
                    column[i] = getattr(made, name)

    def done(self) -> Path:
        """All are there: put the file in its place."""
        with self._trying(), self._closing:
            for name, column in self._columns.items():
                self._group[name] = column
            self._handle.close()
            commit(self._tmp, self._path)
        return self._path

    def cancel(self) -> None:
        """Leave what was there."""
        with contextlib.suppress(OSError, RuntimeError):
            self._closing.close()


class Clips:
    """The clips in a file; use it with ``with``.

    Parameters
    ----------
    path
        ``clips.h5``.

    Raises
    ------
    MissingFileError
        There is no such file.
    FormatError
        It is no file of clips, or of a newer version.
    """

    def __init__(self, path: Path) -> None:
        import h5py

        if not path.is_file():
            raise MissingFileError(f"There is no file {path}.", "Clips are made when a result is opened with its movie.")
        self._path = path
        try:
            self._handle = h5py.File(path, "r")
            version = int(self._handle.attrs.get("actsort_clips", 0))
        except (OSError, RuntimeError, TypeError, ValueError) as error:
            raise FormatError(f"{path} cannot be read ({error}).", "Delete it; clips are made anew where the movie is.") from error
        if version != VERSION:
            self._handle.close()
            raise FormatError(
                f"{path} holds no clips that this version of ActSort can read.", "Delete it; clips are made anew where the movie is."
            )
        self._rows: dict[str, dict[str, int]] = {}

    def __enter__(self) -> Clips:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._handle.close()

    def recordings(self) -> tuple[str, ...]:
        """Fingerprints of the recordings it has clips of."""
        with self._readable():
            return tuple(self._handle)

    def copy(self, recording: str, target: Any) -> None:
        """Copy the clips of a recording (by its fingerprint) into another HDF5 file that is open for writing."""
        with self._readable():
            if self._group(recording) is not None:
                self._handle.copy(recording, target)

    def read(self, recording: Recording, index: int) -> Clip | None:
        """The clip of a candidate.

        Parameters
        ----------
        recording
            As it is now: the order of the candidates may be another than when the clips were made.
        index
            0-based.

        Returns
        -------
        None where there is none: no clips of this recording, no footprint, no event.

        Raises
        ------
        FormatError
            The file is damaged.
        """
        with self._readable():
            group = self._group(recording.fingerprint)
            row = None if group is None else self._row(recording.fingerprint, group, recording.candidate_fingerprints[index], index)
            return None if group is None or row is None else _read(group, row)

    @contextlib.contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except FormatError:
            raise
        except (OSError, RuntimeError, KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
            raise FormatError(f"{self._path} is damaged ({error}).", "Delete it; clips are made anew where the movie is.") from error

    def _group(self, fingerprint: str) -> Any:
        import h5py

        if fingerprint not in self._handle:
            return None
        if not isinstance(self._handle.get(fingerprint, getlink=True), h5py.HardLink):
            raise FormatError(f"{self._path} refers to another file.", "Delete it; clips are made anew where the movie is.")
        return self._handle[fingerprint]

    def _row(self, recording: str, group: Any, candidate: str, index: int) -> int | None:
        names = _dataset(group, "candidates", 1)
        if index < len(names) and names[index] == candidate.encode():  # they are hardly ever in another order
            return index
        if recording not in self._rows:
            self._rows[recording] = {name.decode("ascii"): row for row, name in enumerate(names[:])}
        return self._rows[recording].get(candidate)


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


def _read(group: Any, row: int) -> Clip | None:
    events = _dataset(group, "events", 2)[row].astype(np.int64)
    n = int((events >= 0).sum())
    rows, columns = (int(v) for v in _dataset(group, "shape", 2)[row])
    if not n or rows < 1 or columns < 1:
        return None
    scale = _dataset(group, "scale", 2)[row]
    images = _dataset(group, "images", 3)[row][:, : rows * columns].reshape(2, rows, columns).astype(np.float32)
    return Clip(
        _dataset(group, "frames", 4)[row][:n, :, : rows * columns].reshape(n, LENGTH, rows, columns),
        float(scale[4]),
        scale[0] + scale[1] * images[0],
        scale[2] + scale[3] * images[1],
        events[:n],
        _dataset(group, "trace", 3)[row][:n],
        tuple(int(v) for v in _dataset(group, "low", 2)[row]),
        int(_dataset(group, "bin", 1)[row]),
    )


def has_clips(path: Path, recording: Recording) -> bool:
    """Whether a file holds clips of this recording, and can be read."""
    try:
        with Clips(path) as clips:
            return recording.fingerprint in clips.recordings()
    except (MissingFileError, FormatError):
        return False
