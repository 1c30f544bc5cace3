"""What is shown, against slow versions of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
from conftest import simulated

from actsort_core.clips import Clip
from actsort_core.errors import FormatError
from actsort_core.features.duplicates import duplicate_groups
from actsort_core.model import Prior
from actsort_core.simulate import simulate
from actsort_core.web import pack, payload
from actsort_core.web.scene import FOOTPRINTS, SUPPORT, Scene, spark


@pytest.fixture
def scene():
    return Scene(simulated()[0], 100)


@pytest.fixture
def volume():
    """A recording of 12 x 10 x 4 voxels with random footprints."""
    rng = np.random.default_rng(0)
    flat = simulate(n_cells=6, fov=(12, 10), n_frames=60, seed=0)[0]
    dense = rng.random((12 * 10 * 4, 6)) * (rng.random((12 * 10 * 4, 6)) < 0.03)
    stack = {"mean": rng.random((12, 10, 4)).astype(np.float32)}
    return replace(flat, fov=(12, 10, 4), footprints=sp.csc_matrix(dense.astype(np.float32)), images=stack, metrics={})


def dense(recording, index):
    return np.asarray(recording.footprints[:, [index]].todense(), np.float64).reshape(recording.fov)


@pytest.mark.parametrize("kind", ["plane", "volume"])
def test_footprints_from_above_have_maximum_one(kind, scene, volume):
    scene = scene if kind == "plane" else Scene(volume, 0)
    for i in range(scene.recording.n_cells):
        wanted = np.maximum(dense(scene.recording, i), 0)
        wanted = wanted.max(axis=2) if wanted.ndim == 3 else wanted
        found = np.zeros(scene.shape)
        pixels, weights = scene.footprint(i)
        found.ravel()[pixels] = weights
        np.testing.assert_allclose(found, wanted / max(wanted.max(), 1e-30), atol=1e-6)
        assert (np.diff(pixels) > 0).all()
        middle = np.array([(axis * found).sum() / found.sum() for axis in np.indices(scene.shape)])
        np.testing.assert_allclose(scene.centres[i], middle, atol=1e-3)


def test_outlines_are_the_pixels_of_the_support_that_touch_what_is_outside(scene):
    _, found = pack.decode(scene.outlines)
    for i in range(scene.recording.n_cells):
        a, b = found["bounds"][i : i + 2]
        full = dense(scene.recording, i)
        support = np.pad(full / full.max() >= SUPPORT, 1)
        inner = support[1:-1, 1:-1] & support[:-2, 1:-1] & support[2:, 1:-1] & support[1:-1, :-2] & support[1:-1, 2:]
        np.testing.assert_array_equal(found["pixels"][a:b], np.flatnonzero(support[1:-1, 1:-1]))
        np.testing.assert_array_equal(found["edge"][a:b], ~inner.ravel()[found["pixels"][a:b]])


def test_neighbours_are_ordered_by_the_cosine_of_their_footprints(scene):
    matrix = np.stack([dense(scene.recording, i).ravel() for i in range(scene.recording.n_cells)])
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    cosine = matrix @ matrix.T
    np.fill_diagonal(cosine, 0)
    for i in range(len(matrix)):
        found = scene.neighbours(i)
        assert i not in [k for k, _ in found]
        assert len(found) <= 8
        overlapping = [k for k, c in found if c > 0]
        np.testing.assert_allclose([c for _, c in found if c > 0], sorted(cosine[i][cosine[i] > 0], reverse=True)[:8], atol=1e-5)
        assert {*overlapping} <= {*np.flatnonzero(cosine[i] > 0)}


def test_the_window_holds_the_footprint_and_lies_in_the_field_of_view(scene):
    for i in range(scene.recording.n_cells):
        low, size = scene.window(i)
        pixels, _ = scene.footprint(i)
        rows, columns = np.divmod(pixels, scene.shape[1])
        assert low[0] <= rows.min()
        assert rows.max() < low[0] + size[0]
        assert low[1] <= columns.min()
        assert columns.max() < low[1] + size[1]
        assert 0 <= low[0] <= scene.shape[0] - size[0]
        assert 0 <= low[1] <= scene.shape[1] - size[1]


def test_a_candidate_without_pixels_and_one_that_fills_the_field_of_view_can_be_shown():
    recording = simulated()[0]
    footprints = recording.footprints.tolil()
    footprints[:, 0] = 0
    footprints[:, 1] = 1
    recording = replace(recording, footprints=sp.csc_matrix(footprints, dtype=np.float32))
    scene = Scene(recording, 0)
    for i in (0, 1):
        header, arrays = pack.decode(payload.candidate(scene, i, Prior.undecided(40), lambda: None, (), 0))
        assert header["size"][0] <= 30
        assert header["size"][1] <= 41
        assert len(arrays["pixels"]) == (0, 30 * 41)[i]
    assert scene.neighbours(0) == []
    assert len(scene.neighbours(1)) == 8
    scene.thumbs([0, 1], 40)


def test_a_candidate_s_pack_holds_what_is_drawn(scene):
    recording = scene.recording
    header, arrays = pack.decode(payload.candidate(scene, 7, recording.prior, lambda: None, (), 2))
    assert (header["pos"], header["recording"], header["index"], header["clip"]) == (107, 2, 7, None)
    np.testing.assert_array_equal(arrays["trace"], recording.traces[7:8][0])
    assert header["trace"] == "full"
    assert all(5 <= frame < recording.n_frames - 5 for frame in header["events"])
    assert [n["pos"] - 100 for n in header["neighbours"]] == [k for k, _ in scene.neighbours(7)]
    for neighbour in header["neighbours"]:
        wanted = np.corrcoef(recording.traces[7:8][0], recording.traces[neighbour["pos"] - 100 :][:1][0])[0, 1]
        assert neighbour["correlation"] == pytest.approx(wanted, abs=1e-3)
    assert arrays["neighbour_traces"].shape == (len(header["neighbours"]), recording.n_frames, 2)
    shown = np.zeros(30 * 41)
    shown[arrays["pixels"]] = arrays["weights"] / 255
    np.testing.assert_allclose(shown.reshape(30, 41), dense(recording, 7) / dense(recording, 7).max(), atol=1 / 255)


def test_a_clip_travels_and_a_damaged_one_is_left_out(scene):
    rng = np.random.default_rng(0)
    levels = rng.integers(0, 255, (2, 11, 5, 6)).astype(np.uint8)
    images = rng.random((2, 5, 6)).astype(np.float32)
    clip = Clip(levels, 0.5, images[0], images[1], np.array([40, 20]), rng.random((2, 11)).astype(np.float32), (3, 4), 2)
    header, arrays = pack.decode(payload.candidate(scene, 0, scene.recording.prior, lambda: clip, (), 0))
    assert header["clip"] == {"step": 0.5, "low": [3, 4], "bin": 2}
    assert header["events"] == [40, 20]
    np.testing.assert_array_equal(arrays["clip"], levels)

    def damaged():
        raise FormatError("clips.h5 is damaged.")

    assert pack.decode(payload.candidate(scene, 0, scene.recording.prior, damaged, (), 0))[0]["clip"] is None


@pytest.mark.parametrize("n", [1, 7, 1000, 12_001])
def test_an_envelope_misses_no_peak(n):
    trace = np.random.default_rng(n).standard_normal(n).astype(np.float32)
    found = payload.envelope(trace, 100)
    assert len(found) == min(n, 100)
    assert found[:, 1].max() == trace.max()
    assert found[:, 0].min() == trace.min()
    assert (found[:, 0] <= found[:, 1]).all()


def test_gaps_in_a_trace_are_passed_over():
    trace = np.array([1, np.nan, 3, np.nan, np.nan, 2], np.float32)
    np.testing.assert_array_equal(payload.envelope(trace, 3), [[1, 1], [3, 3], [2, 2]])
    assert spark(np.full(10, np.nan, np.float32)).max() == 0
    assert payload.correlation(trace, trace) == 1
    assert payload.correlation(np.ones(9, np.float32), trace[:6].repeat(2)[:9]) is None


def test_an_image_comes_back_within_a_level_of_itself(scene, volume):
    name = scene.image_names[0]
    header, arrays = pack.decode(payload.image(scene, name))
    image = scene.image(name)
    back = header["min"] + (header["max"] - header["min"]) * arrays["image"] / 65_535
    np.testing.assert_allclose(back, image, atol=(header["max"] - header["min"]) / 65_535)
    assert header["dark"] < header["bright"]
    np.testing.assert_array_equal(Scene(volume, 0).image("mean"), volume.images["mean"].max(axis=2))


def test_where_there_is_no_image_the_footprints_are_shown():
    scene = Scene(replace(simulated()[0], images={}), 0)
    assert scene.image_names == (FOOTPRINTS,)
    assert scene.image(FOOTPRINTS).max() == 1
    broken = Scene(replace(simulated()[0], images={"mean": np.full((30, 41), np.nan, np.float32)}), 0)
    assert pack.decode(payload.image(broken, "mean"))[0]["min"] == 0


def test_metrics_come_with_their_percentile(scene):
    values = np.arange(40, dtype=float)
    values[3] = np.nan
    found = Scene(replace(scene.recording, metrics={"snr": values}), 0)
    assert found.metrics(39) == [("snr", 39.0, 100.0)]
    assert found.metrics(0) == [("snr", 0.0, pytest.approx(100 / 39, abs=0.1))]
    assert found.metrics(3) == []


def test_traces_that_cannot_be_read_any_more_are_told(scene):
    class Gone:
        shape = scene.recording.traces.shape

        def __getitem__(self, rows):
            raise OSError("no such device")

    with pytest.raises(FormatError, match="candidate 4 of a cannot be read"):
        Scene(replace(scene.recording, traces=Gone()), 0).trace(4)


def test_duplicates_are_found_together_the_best_trace_first():
    recording = simulate(n_cells=12, fov=(40, 50), n_frames=300, seed=3)[0]
    copies = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 4, 4]
    traces = np.asarray(recording.traces)[copies].copy()
    noise = np.random.default_rng(0).standard_normal((2, traces.shape[1])) * traces[4].std()
    traces[12] += 0.2 * noise[0]
    traces[13] += 0.5 * noise[1]
    doubled = replace(
        recording,
        footprints=sp.csc_matrix(recording.footprints[:, copies]),
        traces=traces,
        prior=Prior.undecided(14),
        metrics={},
    )
    found = [group for group in duplicate_groups(doubled) if 12 in group]
    assert found
    assert found[0][:1] == [4]
    assert {4, 12, 13} <= set(found[0])
    assert not any(4 in group for group in duplicate_groups(recording))


def test_a_chain_of_neighbours_is_not_one_group():
    """Five discs in a row that blink together, each over half of the next: the first and the last share nothing."""
    rows, columns = np.mgrid[0:20, 0:60]
    discs = np.stack([((rows - 10) ** 2 + (columns - 10 - 5 * k) ** 2 < 49).ravel() for k in range(5)], axis=1)
    rng = np.random.default_rng(0)
    shared = np.maximum(rng.standard_normal(900), 1.5)
    traces = (shared + 0.01 * np.arange(1, 6)[:, None] * rng.standard_normal((5, 900))).astype(np.float32)
    recording = replace(
        simulate(n_cells=5, fov=(20, 60), n_frames=900)[0], footprints=sp.csc_matrix(discs.astype(np.float32)), traces=traces
    )
    groups = duplicate_groups(recording)
    assert groups
    assert all(len(group) <= 3 for group in groups)
    for group in groups:
        for other in group[1:]:
            assert (discs[:, group[0]] & discs[:, other]).any()
    assert len({pos for group in groups for pos in group}) == sum(map(len, groups))
