"""The best events of each candidate and the frames around them: what the movie features and the clips look at.

A candidate's **events** are the five highest local maxima of its running median over three frames, at least eleven frames apart; an event
is the eleven frames around its maximum. Its **window** is the box around its footprint and seven pixels more on each side, widened over
its neighbours (`windows`). The frames of all candidates are cut out in one pass over the movie (`EventFrames`, an accumulator of `blocks`)
and then handed, some candidates at a time, to whoever wants to see them: `EventReader`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from actsort_core.blocks import Arrays, Parts, Tell, Workers
from actsort_core.features._shared import normalised, row_blocks
from actsort_core.model import Movie, Recording, TraceArray
from actsort_core.windows import find_windows

N_EVENTS = 5
HALF = 5  # frames before and after a maximum
LENGTH = 2 * HALF + 1  # frames of an event, and the least distance of two maxima: no frame belongs to two
CHUNK_BYTES = 24 << 20  # of frames handed to a reader at once


@dataclass(frozen=True, eq=False)
class Events:
    """The best events of all candidates.

    Attributes
    ----------
    frames
        ``(n_cells, 5)`` int64: frame of each maximum, the highest first; -1 where a candidate has fewer.
    values
        ``(n_cells, 5, 11)`` float32: the trace in the frames of each event; NaN where there is none.
    baseline
        ``(n_cells,)`` float32: median of the running median over all frames; NaN without a finite value.
    """

    frames: NDArray[np.int64]
    values: NDArray[np.float32]
    baseline: NDArray[np.float32]


def find_events(traces: TraceArray) -> Events:
    """The five highest local maxima of each running median, at least eleven frames apart.

    The highest is taken first, then the highest of those at least eleven frames from it, and so on; of equal ones the earlier. A maximum
    is higher than what is on either side of it; a flat one lies at its middle (rounded down), as in `scipy.signal.find_peaks`. Its eleven
    frames must lie in the movie: the first and the last five frames hold none. A frame whose running median is not finite holds none.

    Parameters
    ----------
    traces : (n_cells, n_frames) array
        Any unit. Read in blocks of rows: a memory map will do.
    """
    n_cells, n_frames = traces.shape
    frames = np.full((n_cells, N_EVENTS), -1, np.int64)
    values = np.full((n_cells, N_EVENTS, LENGTH), np.nan, np.float32)
    baseline = np.full(n_cells, np.nan, np.float32)
    for rows in row_blocks(n_cells, n_frames):
        block = np.asarray(traces[rows], np.float32)
        if not block.size:
            continue
        median = running_median(block)
        baseline[rows] = _medians(median)
        if n_frames >= LENGTH:
            frames[rows] = found = _best(median)
            row, slot = np.nonzero(found >= 0)
            at = found[row, slot, None] + np.arange(-HALF, HALF + 1)
            values[row + rows.start, slot] = block[row[:, None], at]
    values[~np.isfinite(values)] = np.nan
    return Events(frames, values, baseline)


def running_median(block: NDArray[np.float32]) -> NDArray[np.float32]:
    """Running median over three frames, ``(n, n_frames)``; the first and last frame stay as they are."""
    out = block.copy()
    if block.shape[1] >= 3:
        a, b, c = block[:, :-2], block[:, 1:-1], block[:, 2:]
        out[:, 1:-1] = np.maximum(np.minimum(a, b), np.minimum(np.maximum(a, b), c))
    return out


def _medians(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    finite = np.isfinite(rows)
    if finite.all():
        return np.asarray(np.median(rows, axis=1))
    return np.array([np.median(row[good]) if good.any() else np.nan for row, good in zip(rows, finite, strict=True)], np.float32)


def _best(median: NDArray[np.float32]) -> NDArray[np.int64]:
    """``(n, 5)`` frames of the best maxima, -1 where there are fewer."""
    n, n_frames = median.shape
    flat = np.nan_to_num(median, nan=-np.inf, posinf=-np.inf).ravel()
    new = np.empty((n, n_frames), bool)  # where a run of equal values begins
    new[:, 0] = True
    np.not_equal(flat.reshape(n, n_frames)[:, 1:], flat.reshape(n, n_frames)[:, :-1], out=new[:, 1:])
    begin = np.flatnonzero(new)
    height = flat[begin]
    top = np.zeros(begin.size, bool)
    top[1:-1] = (height[1:-1] > height[:-2]) & (height[1:-1] > height[2:])
    end = np.append(begin[1:], flat.size)
    at = ((begin + end - 1) // 2)[top]
    frame = at % n_frames
    # A run at the edge of a row is compared with the row beside it, but it is out of bounds anyway, unless it is a long one.
    inside = (frame >= HALF) & (frame < n_frames - HALF) & (begin[top] % n_frames != 0) & (end[top] % n_frames != 0)
    score = np.full(n * n_frames, -np.inf, np.float32)
    score[at[inside]] = flat[at[inside]]
    score = score.reshape(n, n_frames)
    out = np.full((n, N_EVENTS), -1, np.int64)
    every = np.arange(n)
    near = np.arange(1 - LENGTH, LENGTH)
    for slot in range(N_EVENTS):
        best = score.argmax(axis=1)
        found = score[every, best] > -np.inf
        out[found, slot] = best[found]
        score[every[:, None], np.clip(best[:, None] + near, 0, n_frames - 1)] = -np.inf
    return out


@dataclass(frozen=True, eq=False)
class EventChunk:
    """Some candidates and the frames of their events. Pickles.

    Attributes
    ----------
    who
        ``(k,)`` int64: which candidates of the recording.
    fov
        Field of view of the recording [pixels].
    low, size
        ``(k, ndim)`` int64: first pixel and size of each window.
    near_low, near_size
        ``(k, ndim)`` int64: the same of the box around its footprint and seven pixels more, which lies in the window (`windows`).
    events
        ``(k, 5)`` int64: as `Events.frames`, the highest first; -1 where there are fewer.
    values
        ``(k, 5, 11)`` float32: as `Events.values`.
    baseline
        ``(k,)`` float32: as `Events.baseline`.
    """

    who: NDArray[np.int64]
    fov: tuple[int, ...]
    low: NDArray[np.int64]
    size: NDArray[np.int64]
    near_low: NDArray[np.int64]
    near_size: NDArray[np.int64]
    events: NDArray[np.int64]
    values: NDArray[np.float32]
    baseline: NDArray[np.float32]
    _pixels: NDArray[Any]  # frames of all, one after the other
    _pixel_start: NDArray[np.int64]
    _weights: NDArray[np.float32]
    _weight_start: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.who)

    def n_events(self, i: int) -> int:
        """How many events the `i`-th candidate of the chunk has."""
        return int((self.events[i] >= 0).sum())

    def near(self, i: int) -> tuple[slice, ...]:
        """Where in its window the near window is."""
        start = self.near_low[i] - self.low[i]
        return tuple(slice(a, a + n) for a, n in zip(start.tolist(), self.near_size[i].tolist(), strict=True))

    def frames(self, i: int) -> NDArray[Any]:
        """Its events, ``(n_events, 11, *size)`` in the movie's own dtype, the highest event first. A view: do not change it."""
        return self._pixels[self._pixel_start[i] : self._pixel_start[i + 1]].reshape(-1, LENGTH, *self.size[i])

    def footprint(self, i: int) -> NDArray[np.float32]:
        """Its footprint in the window, maximum 1 (unless that lies outside), ``(*size,)``. A view."""
        return self._weights[self._weight_start[i] : self._weight_start[i + 1]].reshape(self.size[i])


class Sink(Protocol):
    """Takes what a reader found, in this process, some candidates at a time."""

    def add(self, who: NDArray[np.int64], found: Any) -> None:
        """What `EventReader.read` returned for these candidates. Called once for every candidate, in no particular order."""

    def done(self) -> Any:
        """All were added: the result."""

    def cancel(self) -> None:
        """Something failed: leave nothing half-done."""


class EventReader(Protocol):
    """Something that is computed from the frames of the events. Must pickle."""

    @property
    def name(self) -> str:
        """Unique among the readers of a pass."""

    def read(self, chunk: EventChunk) -> Any:
        """What is to be known of these candidates. Runs in workers, maybe in other processes: no side effects."""

    def sink(self, recording: Recording) -> Sink:
        """Where to put it."""


class Columns:
    """The sink of readers that return features: arrays ``(k,)`` by name, put together to ``(n_cells,)``, NaN for who is left out."""

    def __init__(self, n_cells: int, names: Sequence[str]) -> None:
        self._columns = {name: np.full(n_cells, np.nan, np.float32) for name in names}

    def add(self, who: NDArray[np.int64], found: Mapping[str, NDArray[Any]]) -> None:
        """Put them where they belong."""
        for name, values in found.items():
            self._columns[name][who] = values

    def done(self) -> dict[str, NDArray[np.float32]]:
        """All columns."""
        return self._columns

    def cancel(self) -> None:
        """Nothing to undo."""


@dataclass(frozen=True, eq=False)
class _Plan:
    """What is cut out where. Candidates by rank: in order of the size of their windows."""

    order: NDArray[np.int64]  # candidate of each rank
    low: NDArray[np.int32]  # by rank
    size: NDArray[np.int32]
    near_low: NDArray[np.int32]
    near_size: NDArray[np.int32]
    rank: NDArray[np.int32]  # by piece, ascending; a piece is an event
    first: NDArray[np.int64]  # frame
    by_time: NDArray[np.int64]  # pieces in order of time
    times: NDArray[np.int64]  # first frame of each of these
    slot: NDArray[np.int8]
    events: Events | None  # not sent to the workers

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "events": None}

    def within(self, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Pieces that touch the frames `start` to `stop`, ascending; the frames of each that do: first, and last + 1."""
        a, b = np.searchsorted(self.times, [start - LENGTH + 1, stop])
        pieces = np.sort(self.by_time[a:b])
        first = self.first[pieces]
        return pieces, np.maximum(first, start), np.minimum(first + LENGTH, stop)

    def pixels(self, pieces: NDArray[np.int64]) -> NDArray[np.int64]:
        """Pixels of a frame of each piece."""
        return np.asarray(self.size.prod(axis=1, dtype=np.int64)[self.rank[pieces]])


@dataclass(frozen=True)
class EventFrames:
    """The accumulator that cuts out the frames of all events, and hands them to `readers` when the movie has passed.

    Its result is what the readers' sinks say at the end, by name of the reader. Candidates without an event, or without a footprint, are
    never handed out.
    """

    readers: tuple[EventReader, ...]
    name: str = "events"
    version: int = 2

    def begin(self, recording: Recording, movie: Movie) -> _Plan:
        """Find events and windows."""
        events = find_events(recording.traces)
        windows = find_windows(normalised(recording.footprints, recording.fov), recording.fov)
        seen = np.flatnonzero((events.frames[:, 0] >= 0) & (windows.size.min(axis=1) > 0))
        order = seen[np.argsort(windows.size[seen].prod(axis=1), kind="stable")]
        at = np.where(events.frames[order] >= 0, events.frames[order] - HALF, -1)
        rank, slot = np.nonzero(at >= 0)
        first = at[rank, slot]
        by_time = np.argsort(first, kind="stable")
        return _Plan(
            order,
            windows.low[order].astype(np.int32),
            windows.size[order].astype(np.int32),
            windows.near_low[order].astype(np.int32),
            windows.near_size[order].astype(np.int32),
            rank.astype(np.int32),
            first,
            by_time,
            first[by_time],
            slot.astype(np.int8),
            events,
        )

    def load(self, state: _Plan, n_frames: int) -> NDArray[np.int64]:
        """Bytes cut out of each frame, if each pixel takes four."""
        change = np.zeros(n_frames + 1, np.int64)
        pixels = 4 * state.pixels(np.arange(len(state.rank)))
        np.add.at(change, state.first, pixels)
        np.add.at(change, state.first + LENGTH, -pixels)
        return np.cumsum(change[:-1])

    def wanted(self, state: _Plan, start: int, stop: int) -> bool:
        """Whether an event touches these frames."""
        a, b = np.searchsorted(state.times, [start - LENGTH + 1, stop])
        return bool(a < b)

    def block(self, state: _Plan, start: int, frames: NDArray[Any]) -> Arrays:
        """Cut out the windows: pixels one after the other, by rank, then event."""
        pieces, first, last = state.within(start, start + len(frames))
        length = (last - first) * state.pixels(pieces)
        end = np.cumsum(length)
        out = np.empty(int(length.sum()), _kept_as(frames.dtype))
        low, high = state.low[state.rank[pieces]], (state.low + state.size)[state.rank[pieces]]
        boxes = zip(
            (first - start).tolist(),
            (last - start).tolist(),
            low.tolist(),
            high.tolist(),
            (end - length).tolist(),
            end.tolist(),
            strict=True,
        )
        for a, b, corner, far, begin, stop in boxes:
            part = frames[(slice(a, b), *map(slice, corner, far))]
            out[begin:stop].reshape(part.shape)[...] = part
        return {"pixels": out}

    def finish(self, recording: Recording, state: _Plan, parts: Parts, workers: Workers, tell: Tell) -> dict[str, Any]:
        """Hand the frames to the readers."""
        sinks = {reader.name: reader.sink(recording) for reader in self.readers}
        n = len(state.order)
        try:
            tell(0, n)
            done = 0
            for who, found in workers.map(_Read(self.readers), _chunks(recording, state, parts)):
                for name, values in found.items():
                    sinks[name].add(who, values)
                done += len(who)
                tell(done, n)
            return {name: sink.done() for name, sink in sinks.items()}
        except BaseException:
            for sink in sinks.values():
                sink.cancel()
            raise


@dataclass(frozen=True)
class _Read:
    readers: tuple[EventReader, ...]

    def __call__(self, chunk: EventChunk) -> tuple[NDArray[np.int64], dict[str, Any]]:
        with np.errstate(all="ignore"):
            return chunk.who, {reader.name: reader.read(chunk) for reader in self.readers}


def _kept_as(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Small integers stay as they are, everything else becomes float32."""
    small = dtype.kind in "iu" and dtype.itemsize <= 2
    return dtype.newbyteorder("=") if small else np.dtype(np.float32)


def _chunks(recording: Recording, plan: _Plan, parts: Parts) -> Iterator[EventChunk]:
    """The candidates by rank, as many at a time as `CHUNK_BYTES` hold."""
    weights = normalised(recording.footprints, recording.fov)[:, plan.order]
    assert plan.events is not None
    found, order = plan.events, plan.order
    area = plan.size.prod(axis=1, dtype=np.int64)
    n_events = np.bincount(plan.rank, minlength=len(plan.order))
    pixel_start = np.concatenate([[0], np.cumsum(area * n_events * LENGTH)])
    weight_start = np.concatenate([[0], np.cumsum(area)])
    held = [(k, *plan.within(parts.bounds[k], parts.bounds[k + 1])) for k in range(len(parts)) if parts.has(k, "pixels")]
    # Of each block: its pieces, their frames in it, and where each begins and ends in what was kept.
    blocks = []
    for k, pieces, first, last in held:
        length = (last - first) * plan.pixels(pieces)
        blocks.append((k, pieces, plan.rank[pieces], first, np.concatenate([[0], np.cumsum(length)])))
    start = 0
    while start < len(plan.order):
        stop = int(np.searchsorted(pixel_start, pixel_start[start] + CHUNK_BYTES // 4, side="right")) - 1
        stop = min(max(stop, start + 1), len(plan.order))
        pixels: NDArray[Any] | None = None
        for k, pieces, rank, first, ends in blocks:
            a, b = np.searchsorted(rank, [start, stop])
            if a == b:
                continue
            kept = parts.rows(k, "pixels", int(ends[a]), int(ends[b]))
            if pixels is None:
                pixels = np.empty(int(pixel_start[stop] - pixel_start[start]), kept.dtype)
            piece, r = pieces[a:b], rank[a:b]
            skipped = plan.slot[piece] * np.int64(LENGTH) + first[a:b] - plan.first[piece]
            into = pixel_start[r] - pixel_start[start] + skipped * area[r]
            spans = zip(into.tolist(), (ends[a:b] - ends[a]).tolist(), (ends[a + 1 : b + 1] - ends[a]).tolist(), strict=True)
            for target, begin, end in spans:
                pixels[target : target + end - begin] = kept[begin:end]
        assert pixels is not None  # everybody here has an event
        some = slice(start, stop)
        yield EventChunk(
            order[some],
            recording.fov,
            plan.low[some].astype(np.int64),
            plan.size[some].astype(np.int64),
            plan.near_low[some].astype(np.int64),
            plan.near_size[some].astype(np.int64),
            found.frames[order[some]],
            found.values[order[some]],
            found.baseline[order[some]],
            pixels,
            pixel_start[start : stop + 1] - pixel_start[start],
            _dense(weights[:, some], recording.fov, plan.low[some], plan.size[some]),
            weight_start[start : stop + 1] - weight_start[start],
        )
        start = stop


def _dense(weights: sparse.csc_array, fov: tuple[int, ...], low: NDArray[np.int32], size: NDArray[np.int32]) -> NDArray[np.float32]:
    """Footprints in their windows, one after the other."""
    area = size.prod(axis=1, dtype=np.int64)
    cell = np.repeat(np.arange(len(area)), np.diff(weights.indptr))
    where = (np.cumsum(area) - area)[cell]
    inside = np.ones(len(cell), bool)
    stride = np.ones(len(cell), np.int64)
    for axis in reversed(range(len(fov))):
        at = np.unravel_index(weights.indices, fov)[axis] - low[cell, axis]
        inside &= (at >= 0) & (at < size[cell, axis])
        where += at * stride
        stride *= size[cell, axis]
    out = np.zeros(int(area.sum()), np.float32)
    out[where[inside]] = weights.data[inside]
    return out
