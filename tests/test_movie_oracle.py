"""The movie features against slow versions of their definitions (`movie_oracle`), candidate by candidate."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import movie_oracle as oracle
import numpy as np
import pytest
import scipy.sparse as sp

from actsort_core.blocks import Execution, run
from actsort_core.events import EventFrames, find_events
from actsort_core.features.movie import MovieReader
from actsort_core.model import Prior, Recording
from actsort_core.simulate import simulate_movie


@dataclass(frozen=True, eq=False)
class Held:
    """A movie in memory."""

    path: Path
    frames: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.frames.shape

    def read(self, start: int, stop: int) -> np.ndarray:
        return self.frames[start:stop]


def computed(recording: Recording, frames: np.ndarray, **execution: Any) -> dict[str, np.ndarray]:
    found = run(recording, Held(Path("held"), frames), [EventFrames((MovieReader(),))], Execution("serial", **execution))
    return {name.split(".")[1]: values for name, values in found["events"]["movie_features"].items()}


def compare(recording: Recording, frames: np.ndarray, who: Any = None, tolerance: float = 2e-3) -> None:
    fast = computed(recording, frames)
    wrong = []
    footprints = [recording.footprints[:, [i]].toarray().reshape(recording.fov) for i in range(recording.n_cells)]
    for i in range(recording.n_cells) if who is None else who:
        others = footprints[:i] + footprints[i + 1 :]
        slow = oracle.features(frames, footprints[i], np.asarray(recording.traces[i], np.float64), others)
        assert set(slow) == set(fast)
        for name, value in slow.items():
            if not np.isclose(fast[name][i], value, rtol=tolerance, atol=tolerance, equal_nan=True):
                wrong.append((i, name, float(fast[name][i]), value))
    assert not wrong, wrong[:20]


@pytest.mark.parametrize("seed", [0, 1])
def test_simulated_candidates(seed: int) -> None:
    made = simulate_movie(16, fov=(60, 80), n_frames=400, seed=seed)
    compare(made.recording, made.movie.read(0, 400))


def test_three_dimensions() -> None:
    made = simulate_movie(6, fov=(40, 30, 5), n_frames=200, seed=3)
    compare(made.recording, made.movie.read(0, 200))


@pytest.mark.parametrize("dtype", ["<u1", ">u2", "<f4", "<f8", "<i4"])
def test_other_kinds_of_numbers(dtype: str) -> None:
    made = simulate_movie(8, fov=(40, 50), n_frames=200, seed=4)
    frames = made.movie.read(0, 200)
    frames = (frames / 8).clip(0, 255) if dtype == "<u1" else frames
    compare(made.recording, frames.astype(dtype))


def test_neither_unit_nor_offset_matter() -> None:
    made = simulate_movie(10, fov=(50, 60), n_frames=300, seed=5)
    frames = made.movie.read(0, 300).astype(np.float32)
    recording = made.recording
    plain = computed(recording, frames)
    other = replace(
        recording, traces=recording.traces * np.float32(7.5) + np.float32(40), footprints=recording.footprints * np.float32(0.125)
    )
    changed = computed(other, frames * np.float32(0.01) + np.float32(10))
    for name, values in plain.items():
        if name.startswith("contamination"):  # a share of a few pixels: one pixel on the edge shows
            assert np.nanmedian(np.abs(values - changed[name])) < 1e-3, name
        else:
            np.testing.assert_allclose(changed[name], values, rtol=0.02, atol=5e-3, equal_nan=True, err_msg=name)


def odd_recording(fov: tuple[int, ...], n_frames: int, columns: list[np.ndarray], traces: np.ndarray) -> Recording:
    footprints = sp.csc_matrix(np.stack([c.ravel() for c in columns], axis=1).astype(np.float32))
    return Recording("odd", Path("odd"), "odd", fov, footprints, traces.astype(np.float32), "F", 10.0, Prior.undecided(len(columns)))


def test_footprints_at_the_border_and_of_one_pixel() -> None:
    rng = np.random.default_rng(6)
    fov = (20, 33)
    columns = []
    for corner in ((0, 0), (19, 32), (0, 32), (10, 0)):
        image = np.zeros(fov)
        image[max(0, corner[0] - 3) : corner[0] + 4, max(0, corner[1] - 3) : corner[1] + 4] = 1
        columns.append(image * rng.uniform(0.2, 1, fov))
    one = np.zeros(fov)
    one[8, 9] = 2.0
    whole = rng.uniform(0.5, 1, fov)
    columns += [whole]
    frames = rng.normal(100, 5, (120, *fov)).astype(np.float32)
    traces = rng.normal(0, 1, (len(columns), 120))
    for column, trace in zip(columns, traces, strict=True):
        frames += 3 * trace[:, None, None] * column
    compare(odd_recording(fov, 120, columns, traces), frames)
    found = computed(odd_recording(fov, 120, [one, np.zeros(fov)], traces[:2]), frames)
    assert np.isnan([values[1] for values in found.values()]).all()
    assert np.isfinite(found["image_correlation"][0])
    assert np.isnan(found["frame_match_00"][0])  # one pixel has no pattern


def test_events_are_those_of_the_definition() -> None:
    rng = np.random.default_rng(7)
    traces = np.concatenate(
        [rng.normal(size=(20, 90)), np.round(rng.normal(size=(20, 90))), np.repeat(np.round(2 * rng.normal(size=(20, 18))), 5, axis=1)]
    ).astype(np.float32)
    found = find_events(traces)
    for trace, frames in zip(traces, found.frames, strict=True):
        assert [f for f in frames.tolist() if f >= 0] == oracle.events(trace)


def test_the_estimate_has_settled_where_the_published_iteration_ends() -> None:
    """Fewer steps than in the public code give the same share."""
    rng = np.random.default_rng(8)
    at = np.arange(-7, 8)
    w = np.exp(-(at[:, None] ** 2 + at**2) / 18)
    w[w < 0.1] = 0
    beside = np.exp(-(at[:, None] ** 2 + (at - 4) ** 2) / 18)
    ours, theirs = [], []
    for k in range(40):
        frame = rng.uniform(0, 10) * w + (k % 4) * 3 * beside + rng.normal(size=w.shape)
        ours.append(oracle.epsilon(frame, w, 1.0))
        theirs.append(oracle.published_epsilon(frame, w, 1.0))
    assert np.median(np.abs(np.subtract(ours, theirs))) < 1e-9
    assert np.corrcoef(ours, theirs)[0, 1] > 0.995
    assert np.mean(ours[3::4]) > np.mean(ours[::4]) + 0.1
