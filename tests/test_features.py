"""Features against slow versions written from their definitions, and their promises: order, units, missing values."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from actsort_core.errors import PluginError, UnknownNameError
from actsort_core.features import Feature, FeatureGroup, _shared, footprints, host, neighbours, table, traces
from actsort_core.model import Prior, Recording, as_footprints
from actsort_core.testing import make_recording

OURS = (traces.GROUP, footprints.GROUP, neighbours.GROUP)
ALL = (*OURS, host.GROUP, host.VERDICT)
FOVS = [(24, 35), (35, 24), (8, 13, 5)]
Columns = dict[str, np.ndarray]


def columns(recording: Recording, groups: tuple[FeatureGroup, ...] = OURS) -> Columns:
    found = table.compute_table(recording, groups)
    return {name: found.values[:, i].astype(float) for i, name in enumerate(found.names)}


def subset(recording: Recording, which: Any) -> Recording:
    which = np.asarray(which, int)
    return replace(
        recording,
        footprints=recording.footprints[:, which],
        traces=recording.traces[:][which],
        prior=Prior(recording.prior.verdict[which], recording.prior.probability[which]),
        metrics={name: values[which] for name, values in recording.metrics.items()},
    )


def assert_same(found: Columns, wanted: Columns, rtol: float = 2e-4, atol: float = 2e-5) -> None:
    assert found.keys() == wanted.keys()
    for name in found:
        np.testing.assert_allclose(found[name], wanted[name], rtol, atol, err_msg=name)


# ---- slow versions


def slow_traces(recording: Recording) -> Columns:
    values = np.asarray(recording.traces[:], float)
    kept = [t for t in range(values.shape[1]) if any(math.isfinite(v) for v in values[:, t])]
    rows = [slow_trace(list(row[kept]), recording.fps or 1.0) for row in values]
    return {f"trace.{name}": np.array([row[name] for row in rows]) for name in traces.TRACE_FEATURES}


def slow_trace(x: list[float], fps: float) -> dict[str, float]:
    n = len(x)
    if n < 16 or not all(map(math.isfinite, x)) or max(x) - min(x) <= 1e-6 * max(abs(max(x)), abs(min(x))):
        return dict.fromkeys(traces.TRACE_FEATURES, math.nan)
    median, mean = float(np.median(x)), sum(x) / n
    sd = math.sqrt(sum((v - mean) ** 2 for v in x) / n)
    peak = float(np.quantile(x, 0.995)) - median
    noise = 1.4826 * float(np.median([abs(b - a) for a, b in itertools.pairwise(x)])) / math.sqrt(2)
    noise = max(noise, peak / 1000, sd / 1000)
    smooth = [(x[t] + x[t + 1] + x[t + 2]) / 3 for t in range(n - 2)]
    change = [smooth[t + 3] - smooth[t] for t in range(len(smooth) - 3)]
    second, third = (sum(c**k for c in change) / len(change) for k in (2, 3))
    events = frames = 0
    inside = False
    for value in smooth:
        above = value > median + 3 * noise / math.sqrt(3)
        events += above and not inside
        frames += above
        inside = above
    power = {}
    for k in range(1, n // 2 + 1):  # a Fourier transform, written out
        angle = 2 * math.pi * k * np.arange(n) / n
        power[2 * k / n] = (np.array(x) @ np.cos(angle)) ** 2 + (np.array(x) @ np.sin(angle)) ** 2
    total = sum(power.values())
    return {
        "log_snr": math.log(max(peak / noise, 1e-3)),
        "trace_skewness": sum((v - mean) ** 3 for v in x) / n / sd**3,
        "rise_asymmetry": third / second**1.5,
        "slow_power": sum(p for share, p in power.items() if share <= 0.05) / total,
        "fast_power": sum(p for share, p in power.items() if share > 0.5) / total,
        "log_event_rate": math.log((events + 1) / n * fps),
        "log_event_width": math.log((frames + 1) / (events + 1) / fps),
    }


def scaled(recording: Recording) -> list[np.ndarray]:
    """Each footprint as an image with maximum 1, without dust."""
    dense = np.where(recording.footprints.toarray() > 0, recording.footprints.toarray(), 0).astype(float)
    images = [(column / column.max() if column.max() > 0 else column).reshape(recording.fov) for column in dense.T]
    return [np.where(image > 1e-3, image, 0) for image in images]


def slow_footprints(recording: Recording) -> Columns:
    rows = [slow_footprint(image) for image in scaled(recording)]
    return {f"footprint.{name}": np.array([row[name] for row in rows]) for name in footprints.FOOTPRINT_FEATURES}


def slow_footprint(image: np.ndarray) -> dict[str, float]:
    if not image.any():
        return dict.fromkeys(footprints.FOOTPRINT_FEATURES, math.nan)
    where = [tuple(map(int, at)) for at in np.argwhere(image > 0)]
    w = np.array([image[at] for at in where])
    parts, n_parts = ndimage.label(image > 0.3)
    heaviest = max(range(1, n_parts + 1), key=lambda part: image[parts == part].sum())
    body = parts == heaviest
    ndim = image.ndim
    axes = np.sqrt(np.linalg.eigvalsh(slow_moments([tuple(a) for a in np.argwhere(body)], np.ones(body.sum()))[1]))
    centre, spread = slow_moments(where, w)
    distance = np.array([math.dist(at, centre) for at in where])
    effective = w.sum() ** 2 / (w**2).sum()
    ellipse = 4 * math.pi * math.sqrt(np.linalg.det(spread)) if ndim == 2 else 4 / 3 * math.pi * math.sqrt(5**3 * np.linalg.det(spread))
    return {
        "log_area": math.log((image > 0.1).sum()),
        "weight_spread": w.std() / w.mean(),
        "core_share": (image > 0.5).sum() / (image > 0.1).sum(),
        "body_share": image[body].sum() / w.sum(),
        "log_elongation": math.log(axes[-1] / (axes[0] if ndim == 2 else math.sqrt(axes[0] * axes[1]))),
        "circularity": slow_circularity(body),
        "log_sprawl": math.log(ellipse / effective),
        "radial_slope": np.corrcoef(w, distance)[0, 1] if w.std() > 1e-4 else math.nan,
    }


def slow_moments(where: list[tuple[int, ...]], w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    centre = sum(v * np.array(at) for v, at in zip(w, where, strict=True)) / w.sum()
    spread = sum(v * np.outer(np.array(at) - centre, np.array(at) - centre) for v, at in zip(w, where, strict=True)) / w.sum()
    return centre, spread + np.eye(len(centre)) / 12


def slow_circularity(body: np.ndarray) -> float:
    """Perimeter or surface from how often lines along each direction leave the body (Cauchy-Crofton)."""
    padded = np.pad(body, 1)

    def exits(*direction: int) -> int:
        return sum(not padded[tuple(np.add(at, direction))] for at in np.argwhere(padded))

    if body.ndim == 2:
        perimeter = math.pi / 4 * (exits(0, 1) + exits(1, 0) + (exits(1, 1) + exits(1, -1)) / math.sqrt(2))
        return float(4 * math.pi * body.sum() / perimeter**2)
    surface = 4 / 3 * (exits(0, 0, 1) + exits(0, 1, 0) + exits(1, 0, 0))
    return float((36 * math.pi * body.sum() ** 2) ** (1 / 3) / surface)


def slow_neighbours(recording: Recording) -> Columns:
    n = recording.n_cells
    values = np.asarray(recording.traces[:], float)
    values = values[:, np.isfinite(values).any(axis=0)] if n else values
    width = 3 if values.shape[1] >= 300 else 1
    usable = [i for i in range(n) if not math.isnan(slow_trace(list(values[i]), 1)["log_snr"])]
    binned = {i: [values[i, t : t + width].mean() for t in range(0, values.shape[1] - width + 1, width)] for i in usable}
    images = [image.ravel() for image in scaled(recording)]
    correlation, overlap = np.full(n, math.nan), np.full(n, math.nan)
    for i in range(n):
        if i in usable and len(usable) > 1:
            correlation[i] = max(np.corrcoef(binned[i], binned[j])[0, 1] for j in usable if j != i)
        if images[i].any():
            others = [images[j] for j in range(n) if j != i and images[j].any()]
            overlap[i] = max((images[i] @ o / np.linalg.norm(images[i]) / np.linalg.norm(o) for o in others), default=0)
    return {"neighbour.max_trace_correlation": correlation, "neighbour.max_overlap": overlap}


def slow(recording: Recording) -> Columns:
    return {**slow_traces(recording), **slow_footprints(recording), **slow_neighbours(recording)}


def ragged(fov: tuple[int, ...], n_cells: int, seed: int) -> sp.csc_matrix:
    """Footprints nobody would simulate: scattered, touching the edges, negative here and there, in any scale."""
    rng = np.random.default_rng(seed)
    dense = ndimage.gaussian_filter(rng.normal(0, 1, (n_cells, *fov)), [0, *[0.8] * len(fov)])
    dense[np.abs(dense) < np.quantile(np.abs(dense), 0.7)] = 0
    return as_footprints((dense * rng.lognormal(0, 3, (n_cells, *[1] * len(fov)))).reshape(n_cells, -1).T, math.prod(fov))


def test_there_are_seventeen() -> None:
    assert sum(len(group.features) for group in OURS) == 17


@pytest.mark.parametrize("n_frames", [120, 151, 333])
@pytest.mark.parametrize("fov", FOVS, ids=str)
def test_features_are_what_their_definitions_say(fov: tuple[int, ...], n_frames: int) -> None:
    recording = make_recording(14, fov, n_frames, seed=n_frames)
    assert_same(columns(recording), slow(recording))


@pytest.mark.parametrize("fov", [(5, 9), (9, 5), (4, 7, 3)], ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_footprint_features_of_ragged_footprints(fov: tuple[int, ...], seed: int) -> None:
    recording = make_recording(9, fov, 20)
    recording = replace(recording, footprints=ragged(fov, 9, seed))
    assert_same(columns(recording, (footprints.GROUP,)), slow_footprints(recording))
    assert_same(columns(recording), slow(recording))


@pytest.mark.parametrize("fps", [None, 1.0, 30.0])
def test_rates_and_widths_follow_the_frame_rate(fps: float | None) -> None:
    recording = make_recording(fps=fps)
    assert_same(columns(recording), slow(recording))


def test_blocks_give_the_same_as_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    recording = make_recording(17, n_frames=310, nonfinite=True)
    whole = columns(recording)
    monkeypatch.setattr(_shared, "BLOCK_VALUES", 700)
    monkeypatch.setattr(_shared, "BLOCK_PIXELS", 90)
    monkeypatch.setattr(neighbours, "GEMM_ROWS", 4)
    assert_same(columns(recording), whole, 1e-6, 1e-6)
    assert_same(whole, slow(recording))


@pytest.mark.parametrize("fov", [(24, 35), (8, 13, 5)], ids=str)
def test_these_tests_would_notice_a_transposed_field_of_view(fov: tuple[int, ...]) -> None:
    recording = make_recording(14, fov)
    transposed = replace(recording, fov=fov[::-1], images={})
    for name in ("log_elongation", "circularity", "log_sprawl", "radial_slope", "body_share"):
        wrong = columns(transposed, (footprints.GROUP,))[f"footprint.{name}"]
        right = slow_footprints(recording)[f"footprint.{name}"]
        assert not np.allclose(wrong, right, rtol=2e-4, atol=2e-5), name


# ---- promises

BASE = {fov: make_recording(12, fov, 200, seed=5) for fov in FOVS}


@given(st.sampled_from(FOVS), st.permutations(range(12)))
@settings(max_examples=25, deadline=None)
def test_reordering_candidates_reorders_values(fov: tuple[int, ...], order: list[int]) -> None:
    found = columns(subset(BASE[fov], order), ALL)
    assert_same(found, {name: values[order] for name, values in columns(BASE[fov], ALL).items()}, 1e-5, 1e-6)


@given(st.sampled_from(FOVS), st.lists(st.floats(1e-6, 1e6), min_size=12, max_size=12))
@settings(max_examples=25, deadline=None)
def test_the_scale_of_a_footprint_does_not_matter(fov: tuple[int, ...], factors: list[float]) -> None:
    base = BASE[fov]
    matrix = as_footprints(base.footprints.astype(float) @ sp.diags(factors), math.prod(fov))
    assert_same(columns(replace(base, footprints=matrix), OURS[1:]), columns(base, OURS[1:]), 1e-4, 1e-5)


@given(st.lists(st.floats(1e-4, 1e4), min_size=12, max_size=12), st.lists(st.floats(-20, 20), min_size=12, max_size=12))
@settings(max_examples=25, deadline=None)
def test_unit_and_offset_of_a_trace_do_not_matter(units: list[float], offsets: list[float]) -> None:
    base = BASE[24, 35]
    moved = ((base.traces[:].astype(float) + np.array(offsets)[:, None]) * np.array(units)[:, None]).astype(np.float32)
    groups = (traces.GROUP, neighbours.GROUP)
    assert_same(columns(replace(base, traces=moved), groups), columns(base, groups), 1e-3, 1e-3)


def test_a_large_offset_costs_little() -> None:
    base = BASE[24, 35]
    moved = base.traces[:] + np.float32(10_000)  # a camera's counts; float32 steps of .001
    assert_same(columns(replace(base, traces=moved), (traces.GROUP,)), columns(base, (traces.GROUP,)), 0.02, 0.02)


def test_lost_frames_are_left_out() -> None:
    base = make_recording(12, n_frames=200)
    frames = np.asarray(base.traces[:])
    lost = np.insert(frames, [0, 50, 50, 120, 200], np.nan, axis=1)
    lost[3, 0], lost[4, 0] = np.inf, -np.inf
    assert_same(columns(replace(base, traces=lost)), columns(base), 1e-6, 1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("frame", [0, 77, -1])
def test_a_trace_with_another_bad_frame_is_missing_and_spoils_no_other(bad: float, frame: int) -> None:
    base = make_recording(8)
    spoilt = base.traces[:].copy()
    spoilt[3, frame] = bad
    found, healthy = columns(replace(base, traces=spoilt)), columns(base)
    others = np.arange(8) != 3
    for name in found:
        if name.startswith("trace."):
            assert np.isnan(found[name][3])
            np.testing.assert_allclose(found[name][others], healthy[name][others], 1e-6)
    assert np.isnan(found["neighbour.max_trace_correlation"][3])
    assert np.isfinite(found["neighbour.max_trace_correlation"][others]).all()
    assert_same(found, slow(replace(base, traces=spoilt)))


@pytest.mark.parametrize("value", [0.0, 7.25, -1e9, 1e30])
def test_a_flat_trace_is_missing(value: float) -> None:
    base = make_recording(5)
    flat = base.traces[:].copy()
    flat[2] = value
    found = columns(replace(base, traces=flat))
    trace = [name for name in found if name.startswith("trace.") or name == "neighbour.max_trace_correlation"]
    assert all(np.isnan(found[name][2]) and np.isfinite(np.delete(found[name], 2)).all() for name in trace)
    assert_same(found, slow(replace(base, traces=flat)))


def test_all_traces_zero() -> None:
    recording = make_recording(4, traces=np.zeros((4, 100), np.float32))
    found = columns(recording)
    assert all(np.isnan(values).all() for name, values in found.items() if name.startswith("trace."))
    assert np.isnan(found["neighbour.max_trace_correlation"]).all()
    assert np.isfinite(found["footprint.log_area"]).all()


@pytest.mark.parametrize("fov", FOVS, ids=str)
def test_an_empty_footprint_is_missing_and_spoils_no_other(fov: tuple[int, ...]) -> None:
    base = BASE[fov]
    matrix = base.footprints.tolil()
    matrix[:, 4] = 0
    matrix[7, 6] = -5  # a negative weight counts as nothing
    recording = replace(base, footprints=as_footprints(matrix, math.prod(fov)))
    found = columns(recording)
    for name in (*(f"footprint.{n}" for n in footprints.FOOTPRINT_FEATURES), "neighbour.max_overlap"):
        assert np.isnan(found[name][4])
        assert np.isfinite(np.delete(found[name], 4)).all()
    assert_same(found, slow(recording))


@pytest.mark.parametrize(("weight", "counts"), [(0.0009, False), (0.0011, True)])
def test_dust_of_a_thousandth_of_the_maximum_is_left_out(weight: float, counts: bool) -> None:
    dense = np.zeros((2, 9, 11), np.float32)
    dense[:, 3:6, 4:8] = [[[50.0]], [[0.02]]]
    dense[:, 0, 10] = np.array([50, 0.02]) * weight
    clean = np.where(dense > 0.01 * dense.max(axis=(1, 2), keepdims=True), dense, 0)
    dusty, plain = (make_recording(2, (9, 11), footprints=as_footprints(d.reshape(2, -1).T, 99)) for d in (dense, clean))
    assert_same(columns(dusty), slow(dusty))
    found, wanted = columns(dusty, (footprints.GROUP,)), columns(plain, (footprints.GROUP,))
    assert np.allclose(found["footprint.weight_spread"], wanted["footprint.weight_spread"], rtol=1e-6) is not counts


def test_footprints_of_one_pixel_and_binary_masks() -> None:
    dense = np.zeros((3, 9, 11), np.float32)
    dense[0, 4, 4] = 1
    dense[1, 2:5, 3:9] = 0.2
    dense[2, 0, 0] = dense[2, 8, 10] = 3  # two bodies of equal weight, in opposite corners
    recording = make_recording(3, (9, 11), footprints=as_footprints(dense.reshape(3, -1).T, 99))
    found = columns(recording, (footprints.GROUP,))
    assert_same(found, slow_footprints(recording))
    assert np.isnan(found["footprint.radial_slope"]).all()
    assert found["footprint.log_elongation"][0] == 0
    np.testing.assert_allclose(found["footprint.body_share"], [1, 1, 0.5])


@pytest.mark.parametrize("fov", FOVS, ids=str)
@pytest.mark.parametrize("n_cells", [0, 1, 2])
def test_few_candidates(n_cells: int, fov: tuple[int, ...]) -> None:
    recording = make_recording(n_cells, fov, 60)
    found = table.compute_table(recording, ALL)
    assert found.values.shape == (n_cells, 17 + 3 + 2)
    assert found.values.dtype == np.float32
    if n_cells:
        assert_same(columns(recording), slow(recording))
    alone = columns(recording)["neighbour.max_trace_correlation"]
    assert np.isnan(alone).all() if n_cells < 2 else np.isfinite(alone).all()


@pytest.mark.parametrize("n_frames", [1, 2, 5, 15, 16, 17])
def test_few_frames(n_frames: int) -> None:
    recording = make_recording(6, n_frames=n_frames)
    found = columns(recording)
    assert np.isnan(found["trace.log_snr"]).all() == (n_frames < 16)
    assert np.isfinite(found["footprint.circularity"]).all()
    assert_same(found, slow(recording))


def shape(kind: str) -> np.ndarray:
    y, x = np.mgrid[:41, :60]
    disc = (y - 20) ** 2 + (x - 25) ** 2
    return {
        "disc": disc <= 100,
        "ellipse": (y - 20) ** 2 / 49 + (x - 25) ** 2 / 196 <= 1,
        "line": (y == 20) & (x > 8),
        "ring": (disc <= 225) & (disc >= 144),
    }[kind].astype(np.float32)


def test_shapes_come_in_the_order_one_expects() -> None:
    kinds = ["disc", "ellipse", "line", "ring"]
    matrix = as_footprints(np.stack([shape(kind).ravel() for kind in kinds], axis=1), 41 * 60)
    found = columns(make_recording(4, (41, 60), footprints=matrix), (footprints.GROUP,))
    circularity = dict(zip(kinds, found["footprint.circularity"], strict=True))
    elongation = dict(zip(kinds, np.exp(found["footprint.log_elongation"]), strict=True))
    assert 0.9 < circularity["disc"] < 1.05
    assert circularity["disc"] > circularity["ellipse"] > circularity["ring"] > circularity["line"]
    assert elongation["disc"] == pytest.approx(1, abs=0.01)
    assert elongation["ellipse"] == pytest.approx(2, abs=0.1)
    assert elongation["line"] == pytest.approx(51, rel=0.01)  # 51 pixels by one
    np.testing.assert_allclose(found["footprint.log_sprawl"][:2], 0, atol=0.02)  # filled ellipses of any elongation
    assert found["footprint.log_sprawl"][3] > 0.5


def test_a_ball_is_rounder_than_a_rod() -> None:
    z, y, x = np.mgrid[:15, :17, :19]
    ball = ((z - 7) ** 2 + (y - 8) ** 2 + (x - 9) ** 2 <= 36).ravel()
    rod = ((z == 7) & (y == 8)).ravel()
    recording = make_recording(
        2, (15, 17, 19), n_frames=20, footprints=as_footprints(np.stack([ball, rod], 1).astype(np.float32), 15 * 17 * 19)
    )
    found = columns(recording, (footprints.GROUP,))
    assert found["footprint.circularity"][0] == pytest.approx(1, abs=0.1)
    assert found["footprint.circularity"][1] < 0.7
    assert found["footprint.log_elongation"][0] == pytest.approx(0, abs=1e-4)
    np.testing.assert_allclose(math.exp(found["footprint.log_elongation"][1]), 19, rtol=0.01)


def test_transients_are_told_from_noise() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1, (3, 2000))
    kernel = np.exp(-np.arange(60) / 15)
    noise[0] += np.convolve(rng.random(2000) < 0.01, kernel)[:2000] * 12
    noise[1] += np.convolve(rng.random(2000) < 0.01, kernel)[:2000][::-1] * 12  # slow rise, fast fall
    found = columns(make_recording(3, traces=noise.astype(np.float32), fps=None), (traces.GROUP,))
    for name in ("log_snr", "trace_skewness", "slow_power", "log_event_width"):
        assert found[f"trace.{name}"][0] > found[f"trace.{name}"][2], name
    assert found["trace.fast_power"][0] < found["trace.fast_power"][2]
    assert found["trace.rise_asymmetry"][0] > 0.5 > -0.5 > found["trace.rise_asymmetry"][1]


def test_copies_are_found_out() -> None:
    base = make_recording(6, n_frames=400)
    double = subset(base, [0, 1, 2, 3, 4, 5, 2])
    found = columns(double, (neighbours.GROUP,))
    np.testing.assert_allclose(found["neighbour.max_overlap"][[2, 6]], 1, atol=1e-5)
    np.testing.assert_allclose(found["neighbour.max_trace_correlation"][[2, 6]], 1, atol=1e-5)


def test_footprints_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="does not fit a field of view"):
        footprints.footprint_features(sp.csc_array((12, 1)), (3, 5))


# ---- the host's own statistics


def metrics(**values: Any) -> Columns:
    n = len(next(iter(values.values())))
    arrays = {name: np.array(v, np.float64) for name, v in values.items()}
    return columns(make_recording(n, metrics=arrays), (host.GROUP,))


def test_heavy_tailed_statistics_become_logarithms_and_the_rest_stays() -> None:
    found = metrics(SNR_comp=[1, 10, 0.5], r_values=[-0.2, 0.9, 0], npix=[1, 100, 7])
    np.testing.assert_allclose(found["host.SNR_comp"], np.log([1, 10, 0.5]), rtol=1e-6)
    np.testing.assert_allclose(found["host.npix"], np.log([1, 100, 7]), rtol=1e-6)
    np.testing.assert_allclose(found["host.r_values"], [-0.2, 0.9, 0], rtol=1e-6)


def test_infinite_means_more_than_all_others() -> None:
    found = metrics(SNR_comp=[2, np.inf, 8, -np.inf], cnn_preds=[np.inf, 0.5, 0.25, 0])
    np.testing.assert_allclose(found["host.SNR_comp"], [np.log(2), np.log(8), np.log(8), np.nan], rtol=1e-6)
    np.testing.assert_allclose(found["host.cnn_preds"], [0.5, 0.5, 0.25, 0], rtol=1e-6)


def test_what_is_missing_stays_missing() -> None:
    found = metrics(SNR_comp=[np.nan, 0, -3, 4], r_values=[np.nan, 1, np.nan, 0], empty=[np.nan] * 4, endless=[np.inf] * 4)
    np.testing.assert_allclose(found["host.SNR_comp"], [np.nan, np.nan, np.nan, np.log(4)], rtol=1e-6)
    np.testing.assert_allclose(found["host.r_values"], [np.nan, 1, np.nan, 0])
    assert np.isnan(found["host.empty"]).all()
    assert np.isnan(found["host.endless"]).all()


def test_statistics_nobody_knows_enter_as_they_are() -> None:
    found = metrics(lab_score=[-4.5, 0, 1e6])
    np.testing.assert_allclose(found["host.lab_score"], [-4.5, 0, 1e6])


def test_without_statistics_there_are_no_columns() -> None:
    assert columns(make_recording(metrics={}), (host.GROUP,)) == {}


def test_the_verdict_is_a_group_of_its_own_and_off_by_default() -> None:
    recording = make_recording(3, prior=Prior(np.array([1, -1, 0], np.int8), np.array([0.9, 0.2, np.nan])))
    found = columns(recording, (host.VERDICT,))
    np.testing.assert_allclose(found["host_verdict.verdict"], [1, -1, np.nan])
    np.testing.assert_allclose(found["host_verdict.probability"], [0.9, 0.2, np.nan], rtol=1e-6)
    assert host.VERDICT not in table.select(GROUPS, None)


def test_no_default_feature_depends_on_the_verdict() -> None:
    a = make_recording()
    b = replace(a, prior=Prior(-a.prior.verdict, 1 - a.prior.probability))
    assert_same(columns(a, (*OURS, host.GROUP)), columns(b, (*OURS, host.GROUP)), 0, 0)


# ---- the table

GROUPS = {group.name: group for group in ALL}


@pytest.mark.parametrize(
    ("asked", "chosen"),
    [
        (None, "trace footprint neighbour host"),
        ([], "trace footprint neighbour host"),
        (["host", "trace"], "host trace"),
        (["trace", "trace"], "trace"),
        (["+host_verdict"], "trace footprint neighbour host host_verdict"),
        (["+trace"], "trace footprint neighbour host"),
        (["-host", "-trace"], "footprint neighbour"),
        (["-host", "+host_verdict"], "trace footprint neighbour host_verdict"),
        (["trace", "+host_verdict", "-trace"], "host_verdict"),
    ],
)
def test_groups_are_chosen_by_name(asked: list[str] | None, chosen: str) -> None:
    assert [group.name for group in table.select(GROUPS, asked)] == chosen.split()


def test_choosing_what_is_not_there_is_an_error() -> None:
    from actsort_core.plugins import load

    registry = load(discover=False).features
    for name in ("trac", "+trac", "-trac"):
        with pytest.raises(UnknownNameError, match=r"There is no feature group 'trac'\. Did you mean 'trace'"):
            table.select(registry, [name])
    with pytest.raises(UnknownNameError, match="No feature is left"):
        table.select(registry, ["trace", "-trace"])


def group(compute: Callable[[Recording], Any], name: str = "lab", **fields: Any) -> FeatureGroup:
    return FeatureGroup(name, (Feature("lab.x", "1", 3, None, "for tests"),), frozenset(), compute, **fields)


def good(recording: Recording) -> Mapping[str, Any]:
    return {"lab.x": np.arange(recording.n_cells)}


def test_the_table_has_names_versions_and_missing_values() -> None:
    found = table.compute_table(make_recording(3), [group(lambda r: {"lab.x": [1, np.inf, 1e300]}), footprints.GROUP])
    at = found.names.index("lab.x")
    assert list(found.names) == sorted(found.names)
    assert found.versions[at] == 3
    assert set(np.delete(found.versions, at)) == {1}
    np.testing.assert_array_equal(found.values[:, at], [1, np.nan, np.nan])
    assert found.missing() == {"lab.x": 2}


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        (lambda r: {"lab.x": np.zeros(r.n_cells + 1)}, r"'lab\.x' of group 'lab' has shape \(5,\) for 4 candidates"),
        (lambda r: {"lab.x": np.zeros((r.n_cells, 1))}, r"has shape \(4, 1\)"),
        (lambda r: {"lab.x": 1.0}, r"has shape \(\)"),
        (lambda r: {"lab.y": np.zeros(r.n_cells)}, r"computed 'lab\.y', which it does not announce"),
        (lambda r: 1 / 0, r"'lab' failed on made \(ZeroDivisionError"),
        (lambda r: None, r"'lab' failed on made \(AttributeError"),
        (lambda r: {"lab.x": ["a", "b", "c", "d"]}, r"'lab' failed on made \(ValueError"),
    ],
)
def test_a_group_that_breaks_its_contract_is_named(broken: Callable[[Recording], Any], problem: str) -> None:
    with pytest.raises(PluginError, match=problem) as caught:
        table.compute_table(make_recording(4), [traces.GROUP, group(broken)])
    assert caught.value.hint


def test_two_groups_with_one_feature_are_an_error() -> None:
    with pytest.raises(PluginError, match=r"'other' computes 'lab\.x', as another group does"):
        table.compute_table(make_recording(4), [group(good), group(good, "other")])


def test_an_open_ended_group_may_compute_more_than_it_announces() -> None:
    found = table.compute_table(make_recording(4), [group(lambda r: {"lab.y": np.zeros(4)}, open_ended=True)])
    assert (found.names, found.versions) == (("lab.y",), (1,))


def test_groups_that_need_a_movie_are_left_out_without_one() -> None:
    movie = replace(group(good), needs=frozenset({"movie"}))
    assert table.compute_table(make_recording(4), [movie]).names == ()
    assert table.compute_table(make_recording(4, movie_path=Path("movie.tif")), [movie]).names == ("lab.x",)


def test_progress_is_told_by_group_and_never_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_shared, "BLOCK_VALUES", 800)
    told: list[tuple[str, int, int]] = []
    table.compute_table(make_recording(12), [footprints.GROUP, traces.GROUP], lambda *given: told.append(given))
    assert list(dict.fromkeys(name for name, _, _ in told)) == ["footprint features", "trace features"]
    for name in ("footprint", "trace"):
        done = [n for group_, n, total in told if group_ == f"{name} features" and total == 12]
        assert (done[0], done[-1]) == (0, 12)
    assert len([n for name, n, _ in told if name == "trace features"]) > 4


def test_the_cache_is_used_and_never_for_anything_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = make_recording(6)
    stem = tmp_path / "features" / "made"
    first = table.cached_table(base, OURS, stem)

    def must_not(*_: Any) -> Any:
        raise AssertionError("computed again")

    with monkeypatch.context() as patch:
        patch.setattr(table, "compute_table", must_not)
        again = table.cached_table(replace(base, name="other", path=Path("/elsewhere")), OURS, stem)
        assert (again.names, again.versions) == (first.names, first.versions)
        np.testing.assert_array_equal(again.values, first.values)
        changed = base.traces[:].copy()
        changed[0, 0] += 1
        newer = replace(traces.GROUP, features=(*traces.GROUP.features[1:], replace(traces.GROUP.features[0], version=2)))
        for recording, groups in (
            (replace(base, traces=changed), OURS),
            (replace(base, fps=None), OURS),
            (replace(base, metrics={}), OURS),
            (replace(base, prior=Prior.undecided(6)), OURS),
            (subset(base, [1, 0, 2, 3, 4, 5]), OURS),
            (replace(base, footprints=base.footprints[:, [1, 0, 2, 3, 4, 5]]), OURS),
            (base, OURS[:2]),
            (base, (newer, *OURS[1:])),
        ):
            with pytest.raises(AssertionError, match="computed again"):
                table.cached_table(recording, groups, stem)


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"key": 1}'])
def test_a_damaged_cache_is_computed_anew(damage: bytes, tmp_path: Path) -> None:
    base, stem = make_recording(6), tmp_path / "made"
    first = table.cached_table(base, OURS, stem)
    for path in (stem.with_name("made.json"), stem.with_name("made.npy")):
        path.write_bytes(damage)
        np.testing.assert_array_equal(table.cached_table(base, OURS, stem).values, first.values)
    assert table.cached_table(base, OURS, None).names == first.names
