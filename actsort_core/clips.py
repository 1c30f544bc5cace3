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
import threading
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actsort_core._clip_rows import MOST_PIXELS, ZERO, Clip, Kept
from actsort_core.atomic import clear_leftovers, commit, staged
from actsort_core.errors import FormatError, MissingFileError, WriteError
from actsort_core.events import LENGTH, N_EVENTS, EventChunk
from actsort_core.model import Recording

__all__ = ["BYTES", "MOST_PIXELS", "VERSION", "ZERO", "Clip", "ClipReader", "Clips", "has_clips"]
VERSION = 1
BYTES = 28_000  # of a candidate's frames and images, at most: with what else is kept under 30 MB for 1,000 candidates
STEPS = tuple(2 ** (k / 4) for k in range(29))  # how much coarser the levels may become


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
        # From the first frame on: what does not change comes out exactly, whatever the order of the sum.
        mean, high = flat[0] + weight @ (flat - flat[0]), flat.max(axis=0)
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
    """The clips in a file; use it with ``with``. Several threads may read from one at the same time.

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
        self._lock = threading.RLock()  # around the file; unpacking goes on beside it
        self._kept: dict[str, Kept | None] = {}

    def __enter__(self) -> Clips:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; reading from it is an error from then on."""
        with self._lock:
            self._handle.close()

    def recordings(self) -> tuple[str, ...]:
        """Fingerprints of the recordings it has clips of."""
        with self._readable(), self._lock:
            return tuple(self._handle)

    def copy(self, recording: str, target: Any) -> None:
        """Copy the clips of a recording (by its fingerprint) into another HDF5 file that is open for writing."""
        with self._readable(), self._lock:
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
            The file is damaged, or was closed.
        """
        name, candidate = recording.fingerprint, recording.candidate_fingerprints[index]
        with self._readable():
            with self._lock:
                if name not in self._kept:
                    group = self._group(name)
                    self._kept[name] = None if group is None else Kept(group)
                kept = self._kept[name]
                packed = None if kept is None else kept.packed(candidate, index)
            return None if packed is None else packed.clip()

    @contextlib.contextmanager
    def _readable(self) -> Iterator[None]:
        if not self._handle:
            raise FormatError(f"{self._path} was closed.", "Open it again.")
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


def has_clips(path: Path, recording: Recording) -> bool:
    """Whether a file holds clips of this recording, and can be read."""
    try:
        with Clips(path) as clips:
            return recording.fingerprint in clips.recordings()
    except (MissingFileError, FormatError):
        return False
