"""The 46 published features that need no movie: against the published code's numbers, and against literal versions.

`data/published/oracle.npz` holds what the public MATLAB code returned under GNU Octave 7.3 for the recordings below: one row per
candidate, columns 1 to 46. Octave has no `MinPeakProminence`, `normalize`, `imbinarize` or `bwboundaries(..., 'noholes')` that fits:
columns 3, 5 to 11 and 38 rest on stand-ins written from MATLAB's documentation. Columns 12 to 29 are those of the traces divided by their
maxima; the widths 8 to 11 are also stored at half prominence (docs/features.md).
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import scipy.sparse as sp
from scipy import ndimage

from actsort_core.features import _published_similar as similar
from actsort_core.features import published_traces
from actsort_core.features._published_peaks import find_peaks
from actsort_core.features.published_footprints import ACTSORT46, GROUPS, PUBLISHED_FOOTPRINT_FEATURES, published_footprint_features
from actsort_core.features.published_traces import LEVELS, PUBLISHED_TRACE_FEATURES, published_trace_features
from actsort_core.simulate import simulate

ORACLE = np.load(Path(__file__).parent / "data" / "published" / "oracle.npz")
RECORDINGS = {  # candidates, field of view, frames, seed, frames averaged
    "noisy": (24, (40, 50), 400, 46, 1),
    "clean": (16, (37, 44), 412, 7, 12),
}


def recording(which):
    n_cells, fov, n_frames, seed, window = RECORDINGS[which]
    made, _ = simulate(n_cells=n_cells, fov=fov, n_frames=n_frames, seed=seed)
    kernel = np.ones(window) / window
    traces = np.stack([np.convolve(t.astype(float), kernel, "valid") for t in made.traces]).astype(np.float32)
    return traces, sp.csc_array(made.footprints), fov


def both(traces, footprints, fov):
    found = {**published_trace_features(traces), **published_footprint_features(footprints, fov)}
    return np.stack(list(found.values()), axis=1)


# --- the published code -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", RECORDINGS)
@pytest.mark.parametrize("column", [n for n in range(1, 47) if n not in (8, 9, 10, 11, 38)])
def test_published_code(which, column):
    found = both(*recording(which))[:, column - 1]
    np.testing.assert_allclose(found, ORACLE[which][:, column - 1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("which", RECORDINGS)
def test_published_code_widths_at_half_prominence(which):
    np.testing.assert_allclose(both(*recording(which))[:, 7:11], ORACLE[f"{which}_half_prominence_widths"], rtol=1e-5)


@pytest.mark.parametrize("which", RECORDINGS)
def test_published_code_keeps_only_whether_there_is_more_than_one_body(which):
    np.testing.assert_array_equal(both(*recording(which))[:, 37] > 0, ORACLE[which][:, 37] > 0)


# --- literal versions ---------------------------------------------------------------------------------------------------------


def hazen(x, q):
    return np.quantile(x, q, method="hazen")


def literal_events(trace, level):
    x = np.where(trace < level, 0, trace)
    padded = np.concatenate(([0], x, [0]))
    x = np.array([np.median(padded[t : t + 3]) for t in range(len(trace))])
    smooth = np.convolve(x, [0.05, 0.2, 0.5, 0.2, 0.05])[2:-3]
    at = [
        t
        for t in range(1, len(smooth) - 1)
        if smooth[t] >= smooth[t - 1] and smooth[t] >= smooth[t + 1] and smooth[t] > level * max(smooth) and smooth[t] > 0
    ]
    while any(b - a < 3 for a, b in itertools.pairwise(at)):
        gone = {a if smooth[a] <= smooth[b] else b for a, b in itertools.pairwise(at) if b - a < 3}
        at = [t for t in at if t not in gone]
    return len(at)


def literal_trace(trace):
    """Features 1 to 36 but 35 of one finite trace, from the definitions."""
    T = trace.astype(float)
    n, top = len(T), T.max()
    padded = np.concatenate(([0], T, [0]))
    med3 = np.array([np.median(padded[t : t + 3]) for t in range(n)])
    half = -(-n // 2)
    power = np.abs(np.fft.fft(T)[:half]) ** 2
    above = power[int(half / 2 + 0.5) - 1 :]
    noise = np.sqrt(above.mean() / (2 * half))
    active = med3 > 0.3 * med3.max()
    z = (T - T.mean()) / T.std(ddof=1)
    peaks, _ = scipy.signal.find_peaks(T)
    prominence = scipy.signal.peak_prominences(T, peaks)[0]
    width = scipy.signal.peak_widths(T, peaks, 0.5)[0]
    shifted = T - min(0, T.min())
    strong = prominence >= hazen(shifted, 0.9) / 2
    wide = prominence >= hazen(T - T.min(), 0.9) / 2

    def interval(at):
        return sum(b - a for a, b in itertools.pairwise(at)) / len(at) if len(at) else 0

    def std(w):
        return np.nan if not len(w) else 0 if len(w) == 1 else np.std(w, ddof=1)

    out = [
        med3.max() / (np.sqrt(2) * noise),
        np.mean(np.abs(T - med3)[active] / np.maximum(T, med3)[active]) if med3.max() > 0 else np.nan,
        len(peaks) - np.sum(prominence >= max(0.1 * top, hazen(T, 0.9) / 2)) if top > 0 else np.nan,
        np.std(z[z >= hazen(z, 0.9)], ddof=1),
        interval(peaks[strong]),
        interval(peaks[~strong]),
        interval(peaks),
        width.sum(),
        width[wide].sum(),
        std(width),
        std(width[wide]),
    ]
    for k in LEVELS:
        if top <= 0:
            out += [np.nan] * 3
            continue
        over = (k * noise <= T) & (T > 0)
        out += [np.sum(T[over] ** 2) / np.sum(T**2), over.mean(), literal_events(T / top, k * noise / top)]
    for low, high in ((0, 0.05), (0.05, 0.95), (0.5, 1), (0, 0.5), (0.95, 1)):
        first = max(int(np.floor(low * half + 0.5)), 1)
        out.append(power[first - 1 : int(np.floor(high * half + 0.5))].sum() / power.sum())
    y = (med3 - med3.mean()) / med3.std() / np.sqrt(n)
    return np.array([*out, np.nan, y[y >= hazen(y, 0.99)].sum() if med3.std() > 0 else np.nan])


def literal_similar(traces):
    med3 = np.stack([np.median(np.stack([np.r_[0, t[:-1]], t, np.r_[t[1:], 0]]), axis=0) for t in traces.astype(float)])
    out = np.full(len(traces), np.nan)
    usable = med3.std(axis=1) > 0
    r = np.corrcoef(med3[usable])
    np.fill_diagonal(r, 0)
    out[usable] = (r > 0.7).sum(axis=1) / (len(r) - 1)
    return out


def literal_outline(mask):
    """Boundary pixels of one body without holes, clockwise, the first again at the end (Moore's neighbour tracing)."""
    ring = [(0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1)]
    start = tuple(int(x) for x in np.argwhere(mask)[0])
    path, came = [start], 4  # the first pixel in C order was entered from its left
    if mask.sum() == 1:
        return path
    while True:
        for turn in range(1, 9):
            k = (came + turn) % 8
            following = (path[-1][0] + ring[k][0], path[-1][1] + ring[k][1])
            if mask[following]:
                break
        if len(path) > 1 and path[-1] == start and following == path[1]:
            return path
        path.append(following)
        came = (k + 4) % 8


def literal_lengths(mask):
    path = np.array(literal_outline(ndimage.binary_fill_holes(np.pad(mask, 1))))
    steps = np.diff(path, axis=0)
    diagonal = np.abs(steps).sum(axis=1) == 2
    turned = np.roll(steps, 1, axis=0)
    right_angle = ~diagonal & ~np.roll(diagonal, 1) & ((steps * turned).sum(axis=1) == 0)
    corners = np.sum((diagonal != np.roll(diagonal, 1)) | right_angle) if len(steps) else 0
    n_diagonal, n_straight = diagonal.sum(), (~diagonal).sum()
    return n_straight + np.sqrt(2) * n_diagonal, 0.980 * n_straight + 1.406 * n_diagonal - 0.091 * corners


def literal_surface(mask):
    filled = np.pad(ndimage.binary_fill_holes(np.pad(mask, 1)), 1)
    return 2 / 3 * sum(np.abs(np.diff(filled.astype(int), axis=axis)).sum() for axis in range(3))


def literal_footprint(image):
    """Features 37 to 45 of one footprint, from the definitions."""
    if not (image > 0).any():
        return np.full(9, np.nan)
    w, size, ndim = image.astype(float) / image.max(), image.shape, image.ndim
    full = np.ones((3,) * ndim)
    bright = np.zeros(size, bool)
    for at in np.argwhere(w > 0):
        box = tuple(slice(max(x - s // 16, 0), x + s // 16 + 1) for x, s in zip(at, size, strict=True))
        bright[tuple(at)] = w[tuple(at)] > 1.1 * w[box].mean()
    n_bodies = ndimage.label(bright, full)[1]
    labels, n = ndimage.label(w > 0.3, full)
    parts = [labels == k for k in range(1, n + 1)]
    body = min(parts, key=lambda part: (-part.sum(), np.flatnonzero(part.ravel(order="F"))[0]))
    at = np.argwhere(body)
    axes = np.sqrt(np.linalg.eigvalsh(np.cov(at.T, ddof=0) + np.eye(ndim) / 12)) if len(at) > 1 else np.ones(ndim)
    support = ndimage.binary_fill_holes(np.pad(w > 0, 1))
    if ndim == 2:
        labels, n = ndimage.label(support, full)
        perimeter = sum(literal_lengths(labels == k)[0] for k in range(1, n + 1))
        around = literal_lengths(body)[1]
        circularity = 4 * np.pi * len(at) / around**2 if around else np.nan
    else:
        perimeter = literal_surface(w > 0)
        circularity = np.cbrt(36 * np.pi * len(at) ** 2) / literal_surface(body)
    tops = sorted(tuple(reversed(p)) for p in np.argwhere(w == 1).tolist())
    brightest = np.array(tops[-(-len(tops) // 2) - 1][::-1]) + 1
    padded = np.pad(w, 2, mode="edge")
    texture = np.argwhere(w > 1e-3)
    local = np.array([padded[tuple(slice(x + 1, x + 5) for x in p)].mean() for p in texture])
    inside = w[w > 1e-3]
    coarse = np.mean((inside - inside.mean()) ** 2 / max(inside.mean(), 0.01))
    return np.array(
        [
            (w > 0.1).sum(),
            n_bodies - 1 if n_bodies else np.nan,
            w.sum(),
            perimeter,
            min(min(x, s - x) for x, s in zip(brightest, size, strict=True)),
            circularity,
            axes[-1] / np.prod(axes[:-1]) ** (1 / (ndim - 1)),
            w.mean(),
            np.mean((inside - local) ** 2 / np.maximum(local, 0.01)) / coarse if coarse > 1e-12 else np.nan,
        ]
    )


def literal_overlap(dense):
    out = np.full(dense.shape[1], np.nan)
    for i, a in enumerate(dense.T):
        if a.any() and a.std() > 1e-6:
            others = [b for j, b in enumerate(dense.T) if j != i and (a * b).any()]
            out[i] = max((np.corrcoef(a, b)[0, 1] for b in others), default=0)
    return out


def odd_traces(n_frames, seed=0):
    """Traces with ties, steps, offsets, plateaus and few peaks."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(14, n_frames))
    t = np.arange(n_frames)
    rows = [
        noise[0],
        noise[1] + 50,
        noise[2] - 50,
        np.round(noise[3] * 2),
        np.cumsum(np.round(noise[4])),
        np.maximum(noise[5], 0),
        (noise[6] > 1.5) * 3.0,
        np.sin(t / 7),
        t + 0.3 * noise[7],
        np.exp(-t / 20),
        np.where(t == 5, 3.0, 0) + np.where(t > n_frames // 2, 1.0, 0) + 0.01 * noise[8],
        noise[9] * t,
        1e-9 * (noise[10] + 8 * (np.abs(t - 20) < 3)),
        np.convolve(rng.random(n_frames) < 0.05, np.exp(-np.arange(30) / 6))[:n_frames] * 1e6 + noise[11],
    ]
    return np.stack(rows).astype(np.float32)


def odd_footprints(fov, seed=0):
    """Rings, ties, single pixels, binary masks, borders, holes, scattered pixels, nothing."""
    rng = np.random.default_rng(seed)
    grid = np.indices(fov)
    images = []
    for _ in range(12):
        centre = [rng.uniform(0, s) for s in fov]
        r = np.sqrt(sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)))
        images.append(np.exp(-((r / rng.uniform(1, 4)) ** 2)) * rng.lognormal(0, 0.2, fov))
        images[-1][images[-1] < rng.choice([1e-4, 0.05, 0.3]) * images[-1].max()] = 0
    r = np.sqrt(sum((g - s / 2) ** 2 for g, s in zip(grid, fov, strict=True)))
    images += [np.abs(r - 5) < 1, (r < 1) | (np.abs(r - 5) < 1), r < 3, rng.random(fov) < 0.05, (rng.random(fov) < 0.4) * rng.random(fov)]
    images += [np.zeros(fov), (r == r.min()) * 2.0, grid[0] == 0, (grid[0] == grid[1]) * 0.5]
    images += [rng.random(fov) * (np.abs(grid[1] - 2) < 2)]
    return sp.csc_array(np.stack([image.astype(np.float32).ravel() for image in images], axis=1))


@pytest.mark.parametrize("n_frames", [16, 17, 45, 100, 333])
@np.errstate(all="ignore")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_literal_traces(n_frames):
    traces = odd_traces(n_frames)
    found = np.stack(list(published_trace_features(traces).values()), axis=1)
    expected = np.array([literal_trace(trace) for trace in traces])
    expected[:, 34] = literal_similar(traces)
    for column, name in enumerate(PUBLISHED_TRACE_FEATURES):
        np.testing.assert_allclose(found[:, column], expected[:, column], rtol=2e-4, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("fov", [(20, 33), (48, 40), (12, 14, 9)])
def test_literal_footprints(fov):
    footprints = odd_footprints(fov)
    found = np.stack(list(published_footprint_features(footprints, fov).values()), axis=1)
    dense = footprints.toarray()
    expected = np.array([literal_footprint(column.reshape(fov)) for column in dense.T])
    expected = np.column_stack([expected, literal_overlap(dense / np.maximum(dense.max(axis=0), 1e-9))])
    for column, name in enumerate(PUBLISHED_FOOTPRINT_FEATURES):
        np.testing.assert_allclose(found[:, column], expected[:, column], rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("seed", range(40))
def test_peaks_are_those_of_scipy(seed):
    rng = np.random.default_rng(seed)
    traces = rng.normal(size=(rng.integers(1, 6), rng.integers(3, 300)))
    traces = [traces, np.round(traces * rng.integers(1, 5)), np.cumsum(np.round(traces), axis=1), np.cumsum(traces, axis=1)][seed % 4]
    traces = traces.astype(np.float32)
    peaks = find_peaks(traces)
    widths = peaks.widths()
    for trace, start, count in zip(traces.astype(float), peaks.start, peaks.count, strict=True):
        mine = slice(start + 1, start + 1 + count)
        at, _ = scipy.signal.find_peaks(trace)
        np.testing.assert_array_equal(peaks.frame[mine], at)
        np.testing.assert_allclose(peaks.prominence[mine], scipy.signal.peak_prominences(trace, at)[0], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(widths[mine], scipy.signal.peak_widths(trace, at)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("common", [0.0, 1.0, 1.5])
def test_sketches_count_the_same_pairs(common, monkeypatch):
    rng = np.random.default_rng(1)
    n_frames, n_cells = 2500, 90
    families = np.repeat(rng.normal(size=(30, n_frames)), 3, axis=0)
    traces = np.repeat(rng.normal(size=n_frames // 5), 5) * common + families * 2.5 + rng.normal(size=(n_cells, n_frames))
    traces = np.apply_along_axis(np.convolve, 1, traces, np.ones(5), "same").astype(np.float32)
    monkeypatch.setattr(similar, "ROWS", 32)
    expected = literal_similar(traces)
    assert 0 < expected.mean() < 1
    for values in (8_000_000, 20_000):
        monkeypatch.setattr(similar, "FULL_VALUES", values)
        np.testing.assert_allclose(published_trace_features(traces)["n_similar_traces"], expected, rtol=1e-6)


# --- promises -----------------------------------------------------------------------------------------------------------------


def test_names_and_numbers():
    features = [feature for group in GROUPS for feature in group.features]
    assert [feature.published for feature in features] == list(range(1, 47))
    assert tuple(feature.name for feature in features) == ACTSORT46
    assert len(set(ACTSORT46)) == 46
    assert all(name.startswith("published.") for name in ACTSORT46)
    assert not any(group.default for group in GROUPS)


@pytest.mark.parametrize("n_cells", [0, 1, 2])
def test_few_candidates(n_cells):
    made, _ = simulate(n_cells=max(n_cells, 1), fov=(20, 30), n_frames=60, seed=3)
    found = published_trace_features(made.traces[:n_cells]), published_footprint_features(made.footprints[:, :n_cells], made.fov)
    for name, values in {**found[0], **found[1]}.items():
        assert values.shape == (n_cells,)
        assert values.dtype == np.float32
        assert np.isnan(values).all() == (n_cells == 0 or (n_cells == 1 and name == "n_similar_traces")), name


@pytest.mark.parametrize("fov", [(30, 24), (14, 16, 6)])
def test_groups_compute_what_they_announce(fov):
    made, _ = simulate(n_cells=9, fov=fov, n_frames=80, seed=2)
    for group in GROUPS:
        assert list(group.compute(made)) == [feature.name for feature in group.features]


def test_order_of_candidates(monkeypatch):
    monkeypatch.setattr(published_traces, "WORK_VALUES", 1500)
    traces, footprints, fov = recording("noisy")
    order = np.random.default_rng(0).permutation(len(traces))
    np.testing.assert_allclose(both(traces[order], footprints[:, order], fov), both(traces, footprints, fov)[order], rtol=1e-6)


def test_unit_changes_nothing():
    traces, footprints, fov = recording("noisy")
    np.testing.assert_allclose(both(traces * 3e4, footprints * 7e-3, fov), both(traces, footprints, fov), rtol=1e-4, atol=1e-6)
    for scale in (2.0**-100, 2.0**100):
        np.testing.assert_array_equal(both(traces * np.float32(scale), footprints, fov), both(traces, footprints, fov))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_frames_that_are_no_numbers(bad):
    traces, footprints, fov = recording("noisy")
    lost = np.insert(traces, 17, np.nan, axis=1)
    np.testing.assert_array_equal(both(lost, footprints, fov), both(traces, footprints, fov))
    spoiled = traces.copy()
    spoiled[3, 10] = bad
    found, others = both(spoiled, footprints, fov), np.delete(np.arange(len(traces)), 3)
    assert np.isnan(found[3, :36]).all()
    expected = np.stack(list(published_trace_features(traces[others]).values()), axis=1)
    np.testing.assert_allclose(found[others, :36], expected, rtol=1e-5, atol=1e-6)


def test_weights_that_are_no_weights():
    _, footprints, fov = recording("noisy")
    dense = footprints.toarray()
    dense[5, 0], dense[6, 1], dense[7, 2] = np.nan, -1, np.inf
    clean = np.where(np.isfinite(dense) & (dense > 0), dense, 0)
    for name, values in published_footprint_features(sp.csc_array(dense), fov).items():
        np.testing.assert_array_equal(values, published_footprint_features(sp.csc_array(clean), fov)[name], err_msg=name)


def test_flat_and_short_traces():
    flat = published_trace_features(np.stack([np.zeros(50), np.full(50, 7.0), np.full(50, -7.0)]).astype(np.float32))
    assert np.isnan(flat["n_similar_traces"]).all()
    assert np.isnan(flat["snr"]).all()
    assert (flat["peak_interval"] == 0).all()
    short = published_trace_features(np.ones((4, 15), np.float32))
    assert all(np.isnan(values).all() and values.shape == (4,) for values in short.values())


def test_footprints_must_fit():
    with pytest.raises(ValueError, match="does not fit"):
        published_footprint_features(sp.csc_array((12, 2), dtype=np.float32), (3, 5))
