"""One pass over a movie: who runs it, how much memory it takes, and what a kill leaves behind."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actsort_core import blocks
from actsort_core.blocks import Execution, Parts, run
from actsort_core.clips import ClipReader, Clips
from actsort_core.errors import FormatError, MissingDependencyError, UsageError, WriteError
from actsort_core.events import EventFrames
from actsort_core.executors import open_workers
from actsort_core.features import Feature, FeatureGroup
from actsort_core.features.movie import MovieReader
from actsort_core.features.table import compute_table
from actsort_core.model import Recording
from actsort_core.simulate import SimulatedMovie, simulate_movie

N_FRAMES = 400


@dataclass
class Counting:
    """A movie in memory that counts how often each frame is read; it holds a lock, so it does not pickle."""

    frames: np.ndarray
    path: Path = Path("counting")
    seen: np.ndarray = field(init=False)
    largest: int = 0

    def __post_init__(self) -> None:
        import threading

        self.seen = np.zeros(len(self.frames), int)
        self.lock = threading.Lock()

    @property
    def shape(self) -> tuple[int, ...]:
        return self.frames.shape

    def read(self, start: int, stop: int) -> np.ndarray:
        with self.lock:
            self.seen[start:stop] += 1
            self.largest = max(self.largest, stop - start)
        return self.frames[start:stop].copy()


@dataclass(frozen=True)
class MeanImage:
    """An accumulator as a plug-in would write one: needs all frames."""

    name: str = "mean_image"
    version: int = 1

    def begin(self, recording: Recording, movie: Any) -> int:
        return int(movie.shape[0])

    def load(self, state: int, n_frames: int) -> None:
        return None

    def wanted(self, state: int, start: int, stop: int) -> bool:
        return True

    def block(self, state: int, start: int, frames: np.ndarray) -> Mapping[str, np.ndarray]:
        return {"sum": frames.sum(axis=0, dtype=np.float64)}

    def finish(self, recording: Recording, state: int, parts: Parts, workers: Any, tell: Any) -> dict[str, np.ndarray]:
        mean = sum(parts.rows(k, "sum") for k in range(len(parts))) / state
        weights = recording.footprints
        return {"lab.brightness": np.asarray(weights.T @ mean.ravel()) / np.asarray(weights.sum(axis=0)).ravel()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimulatedMovie:
    return simulate_movie(24, fov=(50, 70), n_frames=N_FRAMES, seed=2, path=tmp_path_factory.mktemp("movie") / "movie.npy")


@pytest.fixture(scope="module")
def movie(made: SimulatedMovie) -> Any:
    from actsort_core.movies import movie_of

    return movie_of(made.recording)


@pytest.fixture(scope="module")
def wanted(made: SimulatedMovie, movie: Any) -> dict[str, np.ndarray]:
    return columns(made.recording, movie, Execution("serial"))


def columns(recording: Recording, movie: Any, execution: Execution, **more: Any) -> dict[str, np.ndarray]:
    found = run(recording, movie, [MeanImage(), EventFrames((MovieReader(),))], execution, **more)
    return {**found["mean_image"], **found["events"]["movie_features"]}


def same(found: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> None:
    """Bit for bit."""
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        np.testing.assert_array_equal(found[name], values, name)
        assert np.isfinite(values).any(), name


# ---- who runs it


@pytest.mark.parametrize("execution", [Execution("threads", 3), Execution("threads", 1), Execution("processes", 2)], ids=str)
def test_executors_give_the_same(execution: Execution, made: SimulatedMovie, movie: Any, wanted: dict[str, np.ndarray]) -> None:
    same(columns(made.recording, movie, execution), wanted)


def test_processes_work_with_a_movie_that_cannot_be_sent(made: SimulatedMovie, wanted: dict[str, np.ndarray]) -> None:
    held = Counting(made.movie.read(0, N_FRAMES))
    same(columns(made.recording, held, Execution("processes", 2, 4 << 20)), wanted)
    assert (held.seen == 1).all()


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as started:
        yield started.scheduler_address


@pytest.mark.slow
def test_a_dask_cluster_gives_the_same(
    cluster: str, made: SimulatedMovie, movie: Any, wanted: dict[str, np.ndarray], tmp_path: Path
) -> None:
    import dask

    execution = Execution("dask", memory=8 << 20, address=cluster)
    with dask.config.set({"distributed.admin.large-graph-warning-threshold": "100kB"}), warnings.catch_warnings():
        warnings.simplefilter("error")  # of frames in the description of the tasks
        found = columns(made.recording, movie, execution, folder=tmp_path / "pass")
    same(found, wanted)
    held = Counting(made.movie.read(0, N_FRAMES))  # sent block by block
    same(columns(made.recording, held, execution), wanted)
    assert (held.seen == 1).all()


@pytest.mark.slow
def test_dask_starts_a_cluster_of_its_own(made: SimulatedMovie, movie: Any, wanted: dict[str, np.ndarray]) -> None:
    pytest.importorskip("distributed")
    same(columns(made.recording, movie, Execution("dask", 2)), wanted)


def test_no_dask_and_no_scheduler_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "distributed", None)
        with pytest.raises(MissingDependencyError, match=r"actsort\[dask\]"), open_workers(Execution("dask")):
            pass
    for wrong in ({"executor": "threds"}, {"workers": 0}, {"memory": 10}):
        with pytest.raises(UsageError):
            Execution(**wrong)


# ---- every frame once, memory


def test_every_frame_is_read_once_for_all_groups(made: SimulatedMovie) -> None:
    from actsort_core import plugins
    from actsort_core.features.table import select

    held = Counting(made.movie.read(0, N_FRAMES))
    groups = [*select(plugins.load([], discover=False).features, ["actsort76", "+motion"]), LAB]
    table = compute_table(made.recording, groups, movie=held)
    assert {"movie.contamination_mean", "motion.jitter", "lab.brightness", "published.snr"} <= set(table.names)
    assert (held.seen == 1).all()


LAB = FeatureGroup(
    "lab",
    (Feature("lab.brightness", "counts", 1, None, "mean of the movie under the footprint"),),
    frozenset({"footprints", "movie"}),
    lambda recording: {},
    accumulate=MeanImage(),
)


def test_frames_without_events_are_not_read_where_nobody_wants_them(made: SimulatedMovie) -> None:
    held = Counting(made.movie.read(0, N_FRAMES))
    one = MovieReader(("match",))
    few = made.recording
    few = type(few)(**{**few.__dict__, "footprints": few.footprints[:, :1], "traces": few.traces[:1], "prior": few.prior.undecided(1)})
    run(few, held, [EventFrames((one,))], Execution("serial", memory=1 << 20))
    assert 50 <= held.seen.sum() < N_FRAMES
    assert held.seen.max() == 1


@pytest.mark.parametrize("mebibytes", [1, 3, 20, 500])
def test_neither_memory_nor_blocks_change_the_result(
    mebibytes: int, made: SimulatedMovie, wanted: dict[str, np.ndarray], tmp_path: Path
) -> None:
    held = Counting(made.movie.read(0, N_FRAMES))
    execution = Execution("threads", 2, mebibytes << 20)
    same(columns(made.recording, held, execution, folder=tmp_path / "pass" if mebibytes == 3 else None), wanted)
    assert (held.seen == 1).all()
    assert held.largest * held.frames[0].size * 4 * 4 <= (mebibytes << 20)


def test_a_frame_in_which_all_are_active_counts_for_memory() -> None:
    rng = np.random.default_rng(0)
    recording = simulate_movie(30, fov=(40, 40), n_frames=100, seed=1).recording
    traces = rng.normal(0, 0.1, (30, 100)).astype(np.float32)
    traces[:, 48:53] += [1, 2, 3, 2, 1]
    recording = type(recording)(**{**recording.__dict__, "traces": traces})
    cut = EventFrames((MovieReader(),))
    held = Counting(np.zeros((100, 40, 40), np.int16))
    plan = cut.begin(recording, held)
    load = cut.load(plan, 100)
    assert load[50] == 4 * plan.size.prod(axis=1).sum() > 1.3 * np.median(load)
    bounds = blocks._bounds(held, [load], 4 * int(load[50]))
    around = [k for k in range(len(bounds) - 1) if bounds[k] <= 50 < bounds[k + 1]]
    assert bounds[around[0] + 1] - bounds[around[0]] < max(np.diff(bounds))
    total = np.concatenate([[0], np.cumsum(load + 4 * 1600)])
    assert all(total[b] - total[a] <= 4 * load[50] for a, b in itertools.pairwise(bounds))
    assert bounds[0] == 0
    assert bounds[-1] == 100


def test_blocks_begin_where_chunks_do() -> None:
    held = Counting(np.zeros((100, 10, 10), np.int16))
    held.chunk_frames = 8  # type: ignore[attr-defined]
    bounds = blocks._bounds(held, [None], 21 * 400)
    assert bounds == [0, 16, 32, 48, 64, 80, 100]
    assert blocks._bounds(held, [None], 5 * 400)[:3] == [0, 5, 8]


# ---- faults


def test_a_movie_shorter_than_it_says(made: SimulatedMovie) -> None:
    @dataclass
    class Short(Counting):
        def read(self, start: int, stop: int) -> np.ndarray:
            return super().read(start, stop)[: max(0, 300 - start)]

    with pytest.raises(FormatError, match="truncated"):
        columns(made.recording, Short(made.movie.read(0, N_FRAMES)), Execution("threads", 2))


@dataclass
class Failing(Counting):
    after: int = 10**9
    error: type[Exception] = ZeroDivisionError

    def read(self, start: int, stop: int) -> np.ndarray:
        if stop > self.after:
            raise self.error("on purpose")
        return super().read(start, stop)


def test_what_was_done_before_a_failure_is_not_done_again(made: SimulatedMovie, wanted: dict[str, np.ndarray], tmp_path: Path) -> None:
    frames, folder, execution = made.movie.read(0, N_FRAMES), tmp_path / "pass", Execution("serial", memory=2 << 20)
    first = Failing(frames, after=250)
    with pytest.raises(ZeroDivisionError):
        columns(made.recording, first, execution, folder=folder, key="a")
    done = int(first.seen.sum())
    assert 100 < done < 250
    second = Counting(frames)
    told: list[tuple[str, int, int]] = []
    other = Execution("threads", 2, 900 << 20)  # another memory setting does not spoil what is there
    same(columns(made.recording, second, other, folder=folder, key="a", progress=lambda *at: told.append(at)), wanted)
    assert (first.seen + second.seen == 1).all()
    assert told[0] == ("movie frames", done, N_FRAMES)
    assert ("movie frames", N_FRAMES, N_FRAMES) in told
    assert told[-1] == ("movie events", 24, 24)
    assert not folder.exists()


def test_half_a_pass_over_something_else_is_not_gone_on_with(made: SimulatedMovie, wanted: dict[str, np.ndarray], tmp_path: Path) -> None:
    frames, folder, execution = made.movie.read(0, N_FRAMES), tmp_path / "pass", Execution("serial", memory=2 << 20)
    with pytest.raises(ZeroDivisionError):
        columns(made.recording, Failing(frames // 2, after=250), execution, folder=folder, key="a")
    second = Counting(frames)
    same(columns(made.recording, second, execution, folder=folder, key="b"), wanted)
    assert (second.seen == 1).all()


@pytest.mark.parametrize("damage", ["cut", "empty", "noise", "plan"])
def test_damaged_parts_are_made_again(damage: str, made: SimulatedMovie, wanted: dict[str, np.ndarray], tmp_path: Path) -> None:
    frames, folder, execution = made.movie.read(0, N_FRAMES), tmp_path / "pass", Execution("serial", memory=2 << 20)
    with pytest.raises(ZeroDivisionError):
        columns(made.recording, Failing(frames, after=250), execution, folder=folder)
    parts = sorted(folder.glob("*.part"))
    if damage == "plan":
        (folder / "plan.json").write_text('{"key": 1}')
    else:
        content = parts[1].read_bytes()
        parts[1].write_bytes({"cut": content[:-100], "empty": b"", "noise": os.urandom(len(content))}[damage])
    second = Counting(frames)
    same(columns(made.recording, second, execution, folder=folder), wanted)
    assert second.seen.sum() > 150


def test_a_full_disk_is_said(made: SimulatedMovie, movie: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, arrays: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(blocks._OnDisk, "write", staticmethod(full))
    with pytest.raises(WriteError, match="disk full"):
        columns(made.recording, movie, Execution("threads"), folder=tmp_path / "pass")


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from actsort_core.clips import ClipReader
    from actsort_core.executors import Execution
    from actsort_core.features.table import cached_table, select
    from actsort_core import movies, plugins
    from actsort_core._movie_axes import ArrayMovie
    from actsort_core.simulate import simulate_movie

    folder, last, executor = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    made = simulate_movie(24, fov=(50, 70), n_frames=400, seed=2, path=folder / "movie.npy")
    read = ArrayMovie.read

    def watched(self, start, stop):
        if stop - start > 1:
            if stop > last:
                os.kill(os.getpid(), signal.SIGKILL)
            with open(folder / "read.txt", "a") as log:
                log.write(f"{start} {stop}\\n")
        return read(self, start, stop)

    ArrayMovie.read = watched
    groups = select(plugins.load([], discover=False).features, ["actsort76", "motion"])
    execution = Execution(executor, 2, 3 << 20)
    table = cached_table(made.recording, groups, folder / "features" / "a", None, execution, [ClipReader(folder / "clips.h5")])
    table.values.tofile(folder / "values")
"""


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["serial", "threads"])
def test_kill_9_in_the_middle_of_a_movie(executor: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(KILLED))

    def go(folder: str, last: int) -> int:
        (tmp_path / folder).mkdir(exist_ok=True)
        return subprocess.run([sys.executable, script, tmp_path / folder, str(last), executor], check=False, timeout=300).returncode

    assert go("whole", N_FRAMES) == 0
    for last in (150, 290):
        assert go("killed", last) == -signal.SIGKILL
        assert not (tmp_path / "killed" / "values").exists()
    assert go("killed", N_FRAMES) == 0
    assert (tmp_path / "killed" / "values").read_bytes() == (tmp_path / "whole" / "values").read_bytes()
    frames = np.zeros(N_FRAMES, int)
    for line in (tmp_path / "killed" / "read.txt").read_text().splitlines():
        frames[slice(*map(int, line.split()))] += 1
    assert frames.min() == 1
    assert (frames > 1).sum() <= 2 * 3 * 40  # only blocks that were under way
    assert not list((tmp_path / "killed" / "features").glob("*.pass"))
    made = simulate_movie(24, fov=(50, 70), n_frames=N_FRAMES, seed=2)
    with Clips(tmp_path / "killed" / "clips.h5") as one, Clips(tmp_path / "whole" / "clips.h5") as other:
        for i in range(24):
            a, b = one.read(made.recording, i), other.read(made.recording, i)
            assert (a is None) == (b is None)
            if a is not None and b is not None:
                np.testing.assert_array_equal(a.levels, b.levels)


# ---- what readers are given


def test_readers_see_the_frames_of_the_events(made: SimulatedMovie) -> None:
    frames = made.movie.read(0, N_FRAMES)
    shown: dict[int, Any] = {}

    class Looking:
        name = "looking"

        def read(self, chunk: Any) -> dict[int, Any]:
            for i, who in enumerate(chunk.who.tolist()):
                assert chunk.n_events(i) == (chunk.events[i] >= 0).sum() > 0
                for slot, at in enumerate(chunk.events[i][: chunk.n_events(i)].tolist()):
                    box = tuple(slice(a, a + n) for a, n in zip(chunk.low[i], chunk.size[i], strict=True))
                    np.testing.assert_array_equal(chunk.frames(i)[slot], frames[at - 5 : at + 6][(slice(None), *box)])
                    np.testing.assert_array_equal(chunk.values[i, slot], made.recording.traces[who][at - 5 : at + 6])
                column = made.recording.footprints[:, [who]].toarray().reshape(made.recording.fov)[box]
                np.testing.assert_allclose(chunk.footprint(i), np.where(column > 1e-3 * column.max(), column / column.max(), 0), rtol=1e-6)
                assert chunk.frames(i).dtype == np.int16
                shown[who] = chunk.n_events(i)
            return {}

        def sink(self, recording: Recording) -> Any:
            return Sink()

    class Sink:
        cancelled = False

        def add(self, who: Any, found: Any) -> None:
            pass

        def done(self) -> int:
            return len(shown)

        def cancel(self) -> None:
            Sink.cancelled = True

    found = run(made.recording, Counting(frames), [EventFrames((Looking(),))], Execution("threads", 2, 2 << 20))
    assert found["events"] == {"looking": 24}
    assert sorted(shown) == list(range(24))

    class Broken(Looking):
        def read(self, chunk: Any) -> dict[int, Any]:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(made.recording, Counting(frames), [EventFrames((Broken(),))], Execution("serial"))
    assert Sink.cancelled
    assert ClipReader(Path("x")).name != MovieReader().name
