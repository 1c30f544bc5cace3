"""Simulated movies: what is said of them is true of them, and the movie features see it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from actsort_core.errors import UsageError
from actsort_core.features import movie as movie_features
from actsort_core.features.table import compute_table
from actsort_core.simulate import MOVIE_KINDS, SimulatedMovie, simulate_movie


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimulatedMovie:
    return simulate_movie(160, fov=(120, 150), n_frames=900, seed=1, path=tmp_path_factory.mktemp("movie") / "movie.npy")


@pytest.mark.parametrize("fov", [(40, 57), (57, 40), (20, 26, 5)], ids=str)
def test_any_stretch_can_be_read_and_the_file_holds_the_same(fov: tuple[int, ...], tmp_path: Path) -> None:
    made = simulate_movie(12, fov=fov, n_frames=60, seed=2, path=tmp_path / "movie.npy")
    whole = made.movie.read(0, 60)
    assert whole.shape == (60, *fov)
    np.testing.assert_array_equal(made.movie.read(17, 31), whole[17:31])
    np.testing.assert_array_equal(np.load(tmp_path / "movie.npy"), whole)
    plain = simulate_movie(12, fov=fov, n_frames=60, seed=2, path=tmp_path / "data.bin")
    np.testing.assert_array_equal(np.fromfile(tmp_path / "data.bin", "<i2").reshape(whole.shape), whole)
    assert plain.recording.fingerprint == made.recording.fingerprint
    np.testing.assert_array_equal(simulate_movie(12, fov=fov, n_frames=60, seed=2).recording.traces, made.recording.traces)


def test_traces_are_those_of_the_movie(made: SimulatedMovie) -> None:
    frames = made.movie.read(0, 900).reshape(900, -1)
    weights = made.recording.footprints.toarray()
    traces = (frames @ weights / weights.sum(axis=0)).T
    np.testing.assert_allclose(made.recording.traces, traces - np.median(traces, axis=1, keepdims=True), atol=0.01)
    np.testing.assert_allclose(made.recording.images["mean"].ravel(), frames.mean(axis=0), atol=0.01)


def test_every_kind_is_there_and_parents_are_cells(made: SimulatedMovie) -> None:
    assert set(made.kinds) == set(MOVIE_KINDS)
    np.testing.assert_array_equal(made.truth, made.kinds == "cell")
    child = np.isin(made.kinds, ("contaminated", "duplicate", "fragment"))
    assert (made.kinds[made.parent[child]] == "cell").all()
    assert (made.parent[~child] == -1).all()
    dense = made.recording.footprints.toarray()
    unit = dense / np.linalg.norm(dense, axis=0)
    twins = np.flatnonzero(made.kinds == "duplicate")
    assert ((unit[:, twins] * unit[:, made.parent[twins]]).sum(axis=0) > 0.85).all()


def test_contamination_is_as_said(made: SimulatedMovie) -> None:
    contaminated = made.contamination[made.kinds == "contaminated"]
    assert np.nanmin(contaminated) == 1, "none of its light is its own"
    assert np.nanmedian(made.contamination[made.truth == 1]) < 0.2
    finite = made.contamination[np.isfinite(made.contamination)]
    assert finite.min() >= -1e-5
    assert finite.max() <= 1 + 1e-5


def test_motion_is_as_said(made: SimulatedMovie) -> None:
    """A frame with shift, moved back, is the still image again; the flank of a spot lights up or darkens with it."""
    assert 0 < (made.movie.shift != 0).any(axis=1).mean() < 0.3
    assert np.abs(made.movie.shift).max() <= 3
    moved = np.abs(made.movie.shift).sum(axis=1) > 1.5
    z = np.abs(made.recording.traces) / np.median(np.abs(made.recording.traces), axis=1, keepdims=True)
    ratio = z[:, moved].mean(axis=1) / z[:, ~moved].mean(axis=1)
    assert np.median(ratio[made.kinds == "motion"]) > 2 * np.median(ratio[made.kinds != "motion"])


@pytest.mark.parametrize(("n_cells", "share"), [(0, 0.5), (1, 1.0), (1, 0.0), (20, 0.0), (20, 1.0)])
def test_few_or_one_sided(n_cells: int, share: float) -> None:
    made = simulate_movie(n_cells, share, fov=(30, 41), n_frames=50, seed=3)
    assert made.recording.n_cells == n_cells
    assert made.truth.sum() == round(share * n_cells)


def test_nothing_to_simulate_is_refused() -> None:
    with pytest.raises(UsageError, match="0 frames"):
        simulate_movie(n_frames=0)


# ---- and the features see it


@pytest.fixture(scope="module")
def found(made: SimulatedMovie) -> dict[str, np.ndarray]:
    groups = (
        movie_features.CONTAMINATION_GROUP,
        movie_features.NEIGHBOURS_GROUP,
        movie_features.MATCH_GROUP,
        movie_features.MOTION_GROUP,
    )
    table = compute_table(made.recording, groups)
    return {name: table.values[:, i].astype(float) for i, name in enumerate(table.names)}


def auc(high: np.ndarray, low: np.ndarray) -> float:
    return float(np.mean((high[:, None] > low) + 0.5 * (high[:, None] == low)))


@pytest.mark.parametrize(
    ("kind", "feature", "sign", "least"),
    [
        ("contaminated", "movie.contamination_mean", 1, 0.7),
        ("contaminated", "movie.frame_match_50", -1, 0.85),
        ("contaminated", "movie.image_correlation", -1, 0.85),
        ("contaminated", "movie.marginal_trace_p50", -1, 0.85),
        ("fragment", "movie.marginal_fluorescence_p50", -1, 0.85),
        ("motion", "motion.explained", 1, 0.85),
        ("motion", "movie.image_correlation", -1, 0.85),
        ("speckle", "movie.frame_match_00", -1, 0.85),
        ("patch", "movie.marginal_trace_p50", -1, 0.85),
    ],
)
def test_what_is_no_cell_shows_in_the_movie(kind: str, feature: str, sign: int, least: float, made: SimulatedMovie, found: dict) -> None:
    values = sign * np.where(np.isfinite(found[feature]), found[feature], np.nanmedian(found[feature]))
    assert auc(values[made.kinds == kind], values[made.truth == 1]) > least


def test_more_contamination_shows_as_more(made: SimulatedMovie, found: dict) -> None:
    known = np.isfinite(made.contamination) & np.isfinite(found["movie.contamination_mean"])
    ranks = [np.argsort(np.argsort(v[known])) for v in (made.contamination, found["movie.contamination_mean"])]
    assert np.corrcoef(ranks)[0, 1] > 0.4
