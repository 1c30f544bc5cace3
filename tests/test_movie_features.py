"""The movie's features in tables and sessions: what they tell of known truth, and what happens with and without a movie.

Their values are compared with slow versions in test_movie_oracle.py.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from click.testing import CliRunner

import actsort_core as ac
from actsort_adapters.plain import PlainFormat
from actsort_core import plugins
from actsort_core.blocks import Execution, run
from actsort_core.cli import main
from actsort_core.errors import ActsortError, PluginError
from actsort_core.events import EventFrames, find_events
from actsort_core.features import Feature, FeatureGroup
from actsort_core.features._movie_robust import contamination
from actsort_core.features.movie import GROUPS, MOVIE76, MovieReader
from actsort_core.features.published_footprints import ACTSORT46
from actsort_core.features.table import WITHOUT_MOVIE, FeatureTable, cached_table, compute_table, select
from actsort_core.model import Prior, Recording
from actsort_core.simulate import SimulatedMovie, simulate_movie

REGISTERED = plugins.load([], discover=False).features


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("movies")


@pytest.fixture(scope="module")
def made(folder: Path) -> SimulatedMovie:
    return simulate_movie(40, fov=(60, 80), n_frames=400, seed=1, path=folder / "movie.npy")


def column(table: FeatureTable, name: str) -> np.ndarray:
    return table.values[:, table.names.index(name)]


def equal(a: FeatureTable, b: FeatureTable) -> bool:
    return a.names == b.names and np.array_equal(a.values, b.values, equal_nan=True)


# ---- the published 76


def test_the_76_are_complete_and_each_has_its_number() -> None:
    chosen = select(REGISTERED, ["actsort76"])
    numbers = {f.published: f.name for group in chosen for f in group.features}
    assert sorted(numbers) == list(range(1, 77))
    assert tuple(numbers[k] for k in range(1, 77)) == (*ACTSORT46, *MOVIE76)
    assert [len(group.features) for group in GROUPS] == [4, 16, 10, 5]


def test_by_default_eight_of_them_and_motion_are_used() -> None:
    usual = {f.name for g in select(REGISTERED, None) for f in g.features if f.name.startswith(("movie.", "motion."))}
    assert len(usual) == 13
    assert {"movie.contamination_p20", "movie.frame_match_50", "motion.jitter"} <= usual
    more = {f.name for g in select(REGISTERED, ["+movie.frame_match_10"]) for f in g.features}
    assert more >= usual | {"movie.frame_match_10"}
    assert "movie.frame_match_20" not in more
    assert set(MOVIE76) <= {f.name for g in select(REGISTERED, ["+actsort76"]) for f in g.features}
    assert {f.name for g in select(REGISTERED, ["movie_match"]) for f in g.features} == set(MOVIE76[20:])


def test_a_single_feature_can_be_chosen(made: SimulatedMovie) -> None:
    everything = compute_table(made.recording, select(REGISTERED, ["actsort76", "motion"]))
    names = ["movie.frame_match_50", "motion.jitter", "movie.image_correlation"]
    few = compute_table(made.recording, select(REGISTERED, names))
    assert sorted(few.names) == sorted(names)
    for name in names:
        np.testing.assert_array_equal(column(few, name), column(everything, name))
    assert {"movie.frame_match_50", "movie.frame_match_40"}.isdisjoint(
        compute_table(made.recording, select(REGISTERED, ["movie_match", "-movie.frame_match_50", "-movie.frame_match_40"])).names
    )


# ---- known truth


@pytest.fixture(scope="module")
def known() -> list[tuple[SimulatedMovie, dict[str, np.ndarray]]]:
    out = []
    for seed in (11, 12):
        s = simulate_movie(120, n_frames=700, seed=seed)
        found = run(s.recording, s.movie, [EventFrames((MovieReader(),))], Execution("threads"))["events"]["movie_features"]
        out.append((s, found))
    return out


def chance(known: Any, name: str, kind: str) -> float:
    """That a candidate of this kind has a higher value than a cell."""
    out = []
    for s, found in known:
        other, cells = found[name][s.kinds == kind], found[name][s.kinds == "cell"]
        out.append(np.mean((other[:, None] > cells) + (other[:, None] == cells) / 2))
    return float(np.mean(out))


@pytest.mark.parametrize(
    ("name", "kind", "low", "high"),
    [
        ("movie.contamination_mean", "contaminated", 0.8, 1),
        ("movie.image_correlation", "contaminated", 0, 0.1),
        ("movie.image_correlation", "motion", 0, 0.1),
        ("movie.marginal_trace_p50", "contaminated", 0, 0.1),
        ("movie.marginal_fluorescence_p50", "fragment", 0, 0.1),
        ("movie.marginal_fluorescence_p50", "patch", 0, 0.3),
        ("movie.frame_match_50", "contaminated", 0, 0.1),
        ("movie.frame_match_50", "speckle", 0, 0.2),
        ("movie.roi_excess_p50", "motion", 0.7, 1),
        ("motion.event_shift", "motion", 0.7, 1),
        ("motion.trace_correlation", "motion", 0.9, 1),
        ("motion.explained", "motion", 0.9, 1),
        ("motion.negative", "motion", 0.8, 1),
    ],
)
def test_features_tell_known_kinds_from_cells(known: Any, name: str, kind: str, low: float, high: float) -> None:
    assert low <= chance(known, name, kind) <= high


def test_movements_are_measured_in_pixels() -> None:
    """A still scene that is displaced by a known amount whenever the trace rises."""
    from scipy import ndimage

    rng = np.random.default_rng(0)
    scene = 100 + 40 * ndimage.gaussian_filter(rng.normal(0, 8, (50, 60)), 3)
    trace = np.full(300, 0.0)
    for at in (40, 90, 140, 190, 240):
        trace[at - 2 : at + 3] = [0.5, 1, 1, 1, 0.5]
    frames = np.stack([ndimage.shift(scene, (0.6 * t, -0.8 * t), order=3, mode="nearest") for t in trace])
    frames += rng.normal(0, 0.2, frames.shape)
    footprint = np.zeros((50, 60), np.float32)
    footprint[20:30, 25:35] = np.hanning(12)[1:-1, None] * np.hanning(12)[1:-1]
    recording = one(footprint, trace + rng.normal(0, 0.01, 300))
    found = run(recording, InMemory(frames), [EventFrames((MovieReader(),))], Execution("serial"))["events"]["movie_features"]
    assert found["motion.event_shift"][0] == pytest.approx(0.875, abs=0.05), "one pixel, half of it on the way up and down"
    assert found["motion.trace_correlation"][0] > 0.99
    assert found["motion.explained"][0] > 0.95
    still = run(recording, InMemory(np.tile(scene, (300, 1, 1)) + rng.normal(0, 1, frames.shape)), [EventFrames((MovieReader(),))])
    assert still["events"]["movie_features"]["motion.event_shift"][0] < 0.1


class InMemory:
    path = Path("held")

    def __init__(self, frames: np.ndarray) -> None:
        self.frames, self.shape = frames, frames.shape

    def read(self, start: int, stop: int) -> np.ndarray:
        return self.frames[start:stop]


def one(footprint: np.ndarray, trace: np.ndarray) -> Recording:
    columns = sp.csc_matrix(footprint.reshape(-1, 1).astype(np.float32))
    return Recording("one", Path("one"), "x", footprint.shape, columns, trace[None].astype(np.float32), "F", 10.0, Prior.undecided(1))


def test_contamination_follows_the_share_of_pixels_pushed_up() -> None:
    """EXTRACT's estimate: nothing for a clean frame, more with every pixel; it is careful and stays below the true share."""
    rng = np.random.default_rng(3)
    weights = rng.uniform(0.3, 1, 400).astype(np.float32)
    clean = 20 * weights + rng.normal(0, 1, (200, 400)).astype(np.float32)
    pushed = rng.permutation(400)
    found = []
    for share in (0.0, 0.1, 0.2, 0.3, 0.5, 0.7):
        frames = clean.copy()
        frames[:, pushed[: int(400 * share)]] += 15
        each = contamination(frames[None].astype(np.float32), weights[None], np.ones((1, 400), bool), np.ones(1))
        assert each.shape == (1, 200)
        found.append(each.mean())
    assert found[0] < 0.08
    assert (np.diff(found) > 0).all()
    assert 0.3 < found[4] < 0.55


def test_lost_frames_and_unknown_borders_do_not_count(made: SimulatedMovie) -> None:
    """What registration leaves: a border of NaN, a frame that is gone."""
    frames = made.movie.read(0, 400).astype(np.float32)
    plain = run(made.recording, InMemory(frames), [EventFrames((MovieReader(),))], Execution("serial"))["events"]["movie_features"]
    broken = frames.copy()
    broken[:, :3], broken[:, :, -2:] = np.nan, np.nan
    peaks = find_events(made.recording.traces).frames
    broken[peaks[5, 0]] = np.inf
    found = run(made.recording, InMemory(broken), [EventFrames((MovieReader(),))], Execution("serial"))["events"]["movie_features"]
    for name, values in plain.items():
        assert np.isfinite(found[name]).sum() >= np.isfinite(values).sum() - 1, name  # but for one that lies in the border
    rows, columns = (np.asarray(a) for a in np.unravel_index(made.recording.footprints.indices, made.recording.fov))
    cell = np.repeat(np.arange(40), np.diff(made.recording.footprints.indptr))
    clear = np.array([rows[cell == i].min() >= 3 + 12 and columns[cell == i].max() < 78 - 12 for i in range(40)])
    assert clear.sum() > 10
    touched = ((np.abs(peaks - peaks[5, 0]) <= 5) & (peaks >= 0)).any(axis=1)
    for name, values in plain.items():
        np.testing.assert_array_equal(found[name][clear & ~touched], values[clear & ~touched], name)
        np.testing.assert_allclose(found[name][clear & touched], values[clear & touched], atol=0.5, err_msg=name)


# ---- tables


@pytest.fixture
def cache(tmp_path: Path, made: SimulatedMovie) -> Callable[..., FeatureTable]:
    groups = select(REGISTERED, ["trace", "movie_match", "motion"])
    return lambda recording=made.recording, **more: cached_table(recording, groups, tmp_path / "features" / "a", **more)


def test_what_was_computed_from_a_movie_outlives_it(cache: Any, made: SimulatedMovie, tmp_path: Path, monkeypatch: Any) -> None:
    there = shutil.copy(made.recording.movie_path, tmp_path / "m.npy")
    recording = replace(made.recording, movie_path=Path(there))
    first = cache(recording)
    assert "motion.jitter" in first.names

    def never(*args: Any, **more: Any) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr("actsort_core.features.table.compute_table", never)
    moved = replace(recording, movie_path=Path(shutil.move(there, tmp_path / "n.npy")))
    assert equal(cache(moved), first), "the same movie elsewhere"
    assert equal(cache(recording), first), "the movie is not where it was"
    assert equal(cache(replace(recording, movie_path=None)), first), "another machine"


def test_another_movie_is_looked_at_anew(cache: Any, made: SimulatedMovie, tmp_path: Path) -> None:
    first = cache()
    np.save(tmp_path / "other.npy", made.movie.read(0, 400)[:, ::-1])
    second = cache(replace(made.recording, movie_path=tmp_path / "other.npy"))
    assert not np.allclose(column(first, "movie.frame_match_00"), column(second, "movie.frame_match_00"), equal_nan=True)
    np.testing.assert_array_equal(column(first, "trace.log_snr"), column(second, "trace.log_snr"))


def test_a_movie_that_comes_later_is_used(cache: Any, made: SimulatedMovie) -> None:
    assert all(name.startswith("trace.") for name in cache(replace(made.recording, movie_path=None)).names)
    assert "movie.frame_match_00" in cache().names


def test_a_movie_that_does_not_fit_is_an_error(cache: Any, made: SimulatedMovie, tmp_path: Path) -> None:
    np.save(tmp_path / "short.npy", made.movie.read(0, 300))
    with pytest.raises(ActsortError, match="300"):
        cache(replace(made.recording, movie_path=tmp_path / "short.npy"))
    with pytest.raises(ActsortError, match="--movie"):
        cache(replace(made.recording, movie_path=tmp_path / "gone.npy"))


def test_a_failing_movie_group_is_named(made: SimulatedMovie) -> None:
    class Broken(MovieReader):
        def read(self, chunk: Any) -> Any:
            raise ZeroDivisionError("oh")

    group = FeatureGroup(
        "lab", (Feature("lab.x", "1", 1, None, ""),), frozenset({"movie"}), lambda r: {}, accumulate=EventFrames((Broken((), "lab"),))
    )
    with pytest.raises(PluginError, match="ZeroDivisionError: oh"):
        compute_table(made.recording, [replace(group, accumulate=EventFrames((_Reads(),)))])


class _Reads:
    name = "lab"

    def read(self, chunk: Any) -> Any:
        raise ZeroDivisionError("oh")

    def sink(self, recording: Recording) -> Any:
        from actsort_core.events import Columns

        return Columns(recording.n_cells, ["lab.x"])


@pytest.mark.parametrize("n_cells", [0, 1])
def test_few_candidates(n_cells: int, made: SimulatedMovie) -> None:
    which = np.arange(n_cells)
    few = replace(
        made.recording, footprints=made.recording.footprints[:, which], traces=made.recording.traces[which], prior=Prior.undecided(n_cells)
    )
    table = compute_table(few, select(REGISTERED, ["actsort76", "motion"]))
    assert table.values.shape == (n_cells, 81)


# ---- sessions


@pytest.fixture
def result(tmp_path: Path, made: SimulatedMovie) -> Path:
    home = tmp_path / "lab"
    home.mkdir()
    shutil.copy(made.recording.movie_path, home / "movie.npy")
    recording = replace(made.recording, movie_path=home / "movie.npy")
    PlainFormat().create([recording], [None], home / "tuesday.npz")
    return home / "tuesday.npz"


def sorted_by_oracle(session: Any, made: SimulatedMovie, labels: int = 12) -> np.ndarray:
    session.sort(lambda candidate: bool(made.truth[candidate.index]), labels)
    session.wait()
    return np.asarray(session.predictions().probability)


def test_a_session_learns_from_the_movie_and_then_needs_it_no_more(result: Path, made: SimulatedMovie, tmp_path: Path) -> None:
    with ac.open(result) as session:
        assert {"movie.image_correlation", "motion.jitter"} <= set(session.features().names)
        assert not any(WITHOUT_MOVIE in note for note in session.notes)
        assert (session.folder / "clips.h5").is_file()
        p = sorted_by_oracle(session, made)
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(result.parent, elsewhere)
    shutil.rmtree(result.parent)
    (elsewhere / "movie.npy").unlink()
    with ac.open(elsewhere / result.name) as session:
        assert {"movie.image_correlation", "motion.jitter"} <= set(session.features().names)
        session.wait()
        np.testing.assert_allclose(session.predictions().probability, p, atol=1e-6)
        assert not any(WITHOUT_MOVIE in note for note in session.notes)


def test_without_a_movie_it_says_what_is_missing(result: Path, made: SimulatedMovie) -> None:
    with ac.open(result, movie="none") as session:
        assert not [name for name in session.features().names if name.startswith(("movie.", "motion."))]
        (note,) = [note for note in session.notes if WITHOUT_MOVIE in note]
        assert "13 features" in note
        assert "--movie" in note
        assert not (session.folder / "clips.h5").exists()
        without = session.features()
        p = sorted_by_oracle(session, made)
    shutil.rmtree(session.folder)
    groups = ["trace", "footprint", "neighbour", "host"]
    with ac.open(result, movie="none", features=groups) as session:  # as it was before there were movie features
        assert equal(session.features(), without)
        assert not any(WITHOUT_MOVIE in note for note in session.notes), "none was asked for"
        np.testing.assert_array_equal(sorted_by_oracle(session, made), p)


def test_the_command_covers_the_movie(result: Path) -> None:
    runner = CliRunner()
    ran = runner.invoke(main, ["features", str(result), "--features", "actsort76", "--executor", "serial", "--memory", "0.01"])
    assert ran.exit_code == 0, ran.output
    assert all(name in ran.output for name in MOVIE76)
    assert (result.with_name(result.name + ".actsort") / "clips.h5").is_file()
    ran = runner.invoke(main, ["features", str(result), "--movie", "none", "--json"])
    assert ran.exit_code == 0
    words = [sys.executable, "-m", "actsort_core", "features", str(result), "--movie", "none"]
    done = subprocess.run(words, capture_output=True, encoding="utf-8", check=True)
    assert WITHOUT_MOVIE in done.stderr
