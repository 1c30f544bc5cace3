"""Duplicates and fragments: against a slow version of the definition, against simulated ones, and the promises of all features."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp

from actsort_core.features import _shared, duplicates, table
from actsort_core.features.duplicates import DUPLICATE_FEATURES
from actsort_core.features.traces import trace_features
from actsort_core.model import Recording, as_footprints
from actsort_core.simulate import simulate_movie
from actsort_core.testing import make_recording

FOVS = [(24, 35), (35, 24), (8, 13, 5)]


def columns(recording: Recording) -> dict[str, np.ndarray]:
    found = table.compute_table(recording, (duplicates.GROUP,))
    return {name.removeprefix("duplicates."): found.values[:, i].astype(float) for i, name in enumerate(found.names)}


def slow(recording: Recording) -> dict[str, np.ndarray]:
    """Pair by pair, pixel by pixel."""
    n = recording.n_cells
    snr = trace_features(recording.traces)["log_snr"].astype(float)
    dense = np.where(recording.footprints.toarray() > 0, recording.footprints.toarray(), 0).astype(float)
    images = [(c / c.max() if c.max() > 0 else c).reshape(recording.fov) for c in dense.T]
    images = [np.where(w > 1e-3, w, 0) for w in images]
    values = np.asarray(recording.traces[:], float)
    values = values[:, np.isfinite(values).any(axis=0)]
    width = 3 if values.shape[1] >= 300 else 1
    binned = [[row[t : t + width].mean() for t in range(0, values.shape[1] - width + 1, width)] for row in values]
    out = {name: np.full(n, math.nan) for name in DUPLICATE_FEATURES}
    for i in range(n):
        if not images[i].any():
            continue
        heard = math.isfinite(snr[i])
        row = {"overlap": 0.0, "containment": 0.0, "correlation": 0.0, "sameness": 0.0}
        size = 0.0
        for j in range(n):
            better = (snr[j] if math.isfinite(snr[j]) else -math.inf) >= (snr[i] if heard else -math.inf)
            if i == j or not better or not (wide(images[i]) & wide(images[j])).any():
                continue
            cosine = (images[i] * images[j]).sum() / math.sqrt((images[i] ** 2).sum() * (images[j] ** 2).sum())
            inside = images[i][images[j] > 0.1].sum() / images[i].sum()
            row["overlap"], row["containment"] = max(row["overlap"], cosine), max(row["containment"], inside)
            if heard:
                together = max(np.corrcoef(binned[i], binned[j])[0, 1], 0)
                row["correlation"] = max(row["correlation"], together)
                if inside * together > row["sameness"]:
                    row["sameness"] = inside * together
                    size = math.log((images[i] > 0.1).sum() / (images[j] > 0.1).sum())
        for name, value in row.items():
            out[name][i] = value if heard or name in ("overlap", "containment") else math.nan
        out["log_size_ratio"][i] = size
    return out


def wide(image: np.ndarray) -> np.ndarray:
    """The support and the pixels next to it along an axis."""
    padded = np.pad(image > 0, 1)
    out = padded.copy()
    for axis in range(image.ndim):
        out |= np.roll(padded, 1, axis) | np.roll(padded, -1, axis)
    return out[(slice(1, -1),) * image.ndim]


def assert_same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert set(found) == set(wanted) == set(DUPLICATE_FEATURES)
    for name in found:
        np.testing.assert_allclose(found[name], wanted[name], 2e-4, 2e-5, err_msg=name)


@pytest.mark.parametrize("n_frames", [120, 333])
@pytest.mark.parametrize("fov", FOVS, ids=str)
def test_what_the_definitions_say(fov: tuple[int, ...], n_frames: int) -> None:
    recording = make_recording(14, fov, n_frames, seed=n_frames)
    found = columns(recording)
    assert_same(found, slow(recording))
    assert (found["sameness"] > 0).any()
    assert not found["log_size_ratio"][found["sameness"] == 0].any()


def test_bad_traces_and_empty_footprints() -> None:
    recording = make_recording(12, (24, 35), 150, seed=5)
    traces = recording.traces[:].copy()
    traces[2, 7], traces[3], traces[:, 90] = np.nan, 4.0, np.nan
    matrix = recording.footprints.tolil()
    matrix[:, 5] = 0
    matrix[9, 6] = -3
    recording = replace(recording, traces=traces, footprints=as_footprints(matrix, 24 * 35))
    found = columns(recording)
    assert_same(found, slow(recording))
    assert all(np.isnan(values[5]) for values in found.values())
    assert np.isnan([found["correlation"][2], found["sameness"][3]]).all()
    assert np.isfinite([found["overlap"][2], found["containment"][3]]).all()


def test_blocks_and_order_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    recording = make_recording(17, n_frames=310, nonfinite=True)
    whole = columns(recording)
    order = np.random.default_rng(1).permutation(17)
    moved = replace(
        recording, footprints=recording.footprints[:, order], traces=recording.traces[:][order], prior=recording.prior, metrics={}
    )
    for name, values in columns(moved).items():
        np.testing.assert_allclose(values, whole[name][order], 1e-6, 1e-7, err_msg=name)
    monkeypatch.setattr(_shared, "BLOCK_PIXELS", 90)
    monkeypatch.setattr(duplicates, "PAIR_VALUES", 700)
    for name, values in columns(recording).items():
        np.testing.assert_allclose(values, whole[name], 1e-6, 1e-7, err_msg=name)


@pytest.mark.parametrize("n_cells", [0, 1, 2])
def test_few_candidates(n_cells: int) -> None:
    found = columns(make_recording(n_cells))
    assert all(values.shape == (n_cells,) for values in found.values())
    if n_cells == 1:
        assert all(values[0] == 0 for values in found.values())


def test_an_exact_copy_is_the_same_and_halves_that_only_touch_are_neighbours() -> None:
    time = np.arange(200)
    trace = np.exp(-(time % 50) / 8.0) + 0.05 * np.random.default_rng(0).normal(size=200)
    image = np.zeros((20, 30))
    image[5:11, 5:11] = 1
    left, right = image.copy(), image.copy()
    left[:, 8:], right[:, :8] = 0, 0
    footprints = as_footprints(sp.csc_matrix(np.stack([image.ravel(), image.ravel()], axis=1)), 600)
    recording = make_recording(2, (20, 30), 200, traces=np.stack([trace, trace]).astype(np.float32))
    found = columns(replace(recording, footprints=footprints))
    for name in ("overlap", "containment", "correlation", "sameness"):
        np.testing.assert_allclose(found[name], 1, atol=1e-5)  # of two equal ones each is as good as the other
    halves = as_footprints(sp.csc_matrix(np.stack([left.ravel(), right.ravel()], axis=1)), 600)
    worse = (trace + 0.2 * np.random.default_rng(1).normal(size=200)).astype(np.float32)
    found = columns(replace(recording, footprints=halves, traces=np.stack([trace.astype(np.float32), worse])))
    assert found["overlap"].tolist() == [0, 0]
    assert found["correlation"][0] == 0, "the better one has no better neighbour"
    assert found["correlation"][1] > 0.5


@pytest.mark.parametrize("seed", range(3))
def test_simulated_fragments_and_duplicates_are_told_from_cells(seed: int) -> None:
    made = simulate_movie(200, fov=(150, 180), n_frames=600, seed=seed)
    found = columns(made.recording)
    twins = np.flatnonzero(made.kinds == "duplicate")
    cells = found["sameness"][np.setdiff1d(np.flatnonzero(made.truth), made.parent[twins])]
    fragments = found["sameness"][made.kinds == "fragment"]
    assert auc(fragments, cells) > 0.95
    flagged = np.maximum(found["sameness"][twins], found["sameness"][made.parent[twins]])  # which of the two is better is a toss
    assert auc(flagged, cells) > 0.95
    assert np.median(found["log_size_ratio"][made.kinds == "fragment"]) < -0.3


def auc(high: np.ndarray, low: np.ndarray) -> float:
    return float(np.mean((high[:, None] > low) + 0.5 * (high[:, None] == low)))


def test_they_are_off_by_default_and_need_no_movie() -> None:
    assert not duplicates.GROUP.default
    assert "movie" not in duplicates.GROUP.needs
