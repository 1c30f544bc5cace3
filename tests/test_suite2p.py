"""The Suite2p adapter, on results of the real pipelines (tests/data/suite2p, from 0.14.6 and 1.1.0) and on broken ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actsort_adapters.suite2p import Suite2pFormat, actsort_register_formats
from actsort_core.errors import ActsortError, FormatError, MissingFileError
from actsort_core.formats import CreatingFormat, Format, find_format, read_with
from actsort_core.model import Recording

DATA = Path(__file__).parent / "data" / "suite2p"
FORMAT = Suite2pFormat()
RESULTS = ["s2p_0146/single", "s2p_0146/twoplane", "s2p_110/mini", "s2p_110/twoplane"]


def read_one(path: Path) -> Recording:
    (recording,) = read_with(FORMAT, path)
    return recording


@pytest.fixture
def mini(tmp_path: Path) -> Path:
    """A writable copy of a 1.1.0 plane of 64 x 80 pixels, 30 ROIs and 220 frames; has ops.npy and the files of 1.x."""
    return Path(shutil.copytree(DATA / "s2p_110/mini", tmp_path / "mini")) / "suite2p" / "plane0"


def write_plane(folder: Path, n: int = 3, fov: tuple[int, int] = (9, 14), frames: int = 20, **stat_changes: Any) -> Path:
    """A small plane as 0.x writes it; `stat_changes` replace fields of ROI 1."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(n)
    stat = np.empty(n, dtype=object)
    for i in range(n):
        y, x = np.divmod(np.arange(5) * 3 + i, fov[1])
        stat[i] = {"ypix": y, "xpix": x, "lam": rng.random(5, dtype=np.float32) + 0.1, "med": [0, i], "npix": 5, "skew": np.float32(i)}
    if n > 1:
        stat[1] = {key: value for key, value in {**stat[1], **stat_changes}.items() if value is not None}
    np.save(folder / "stat.npy", stat)
    for name in ("F.npy", "Fneu.npy"):
        np.save(folder / name, rng.random((n, frames), dtype=np.float32))
    np.save(folder / "iscell.npy", np.asfortranarray(rng.random((n, 2)).round()))  # the pipeline writes Fortran order
    np.save(folder / "ops.npy", {"Ly": fov[0], "Lx": fov[1], "fs": 7.5, "neucoeff": 0.6, "suite2p_version": "0.14.6"})
    return folder


# What real results hold


def test_register():
    (fmt,) = actsort_register_formats()
    assert fmt.name == "suite2p"
    assert isinstance(fmt, Format)
    assert isinstance(fmt, CreatingFormat)


@pytest.mark.parametrize(
    ("result", "plane", "shape", "fps", "accepted", "trace_sum", "skew", "fingerprint", "version"),
    [
        ("s2p_0146/single", 0, (100, 128, 64, 1000), 10.0, 34, 6885854.36, [2.63871217, 2.08826733], "3043f3b17697e6d3", "0.14.6"),
        ("s2p_0146/twoplane", 1, (72, 96, 43, 400), 10.0, 17, 1924316.72, [2.46972013, 0.11521895], "9e760bcbb9fb0b1b", "0.14.6"),
        ("s2p_110/mini", 0, (64, 80, 30, 220), 5.0, 15, 681404.72, [2.73017812, 1.79826260], "2bfb907431ef8c40", "1.1.0"),
        ("s2p_110/twoplane", 0, (72, 96, 41, 400), 10.0, 20, 1745112.15, [1.95493722, 2.05580783], "3dc3d6de59c0a370", "1.1.0"),
    ],
)
def test_golden(result, plane, shape, fps, accepted, trace_sum, skew, fingerprint, version):
    recording = read_with(FORMAT, DATA / result)[plane]
    assert (*recording.fov, recording.n_cells, recording.n_frames) == shape
    assert (recording.fps, recording.trace_kind, recording.notes) == (fps, "F - 0.7*Fneu", ())
    assert recording.prior.counts() == {"accepted": accepted, "rejected": shape[2] - accepted, "undecided": 0}
    assert recording.traces[:].sum(dtype=float) == pytest.approx(trace_sum, rel=1e-6)
    assert recording.metrics["skew"][:2] == pytest.approx(skew)
    assert recording.fingerprint == fingerprint
    assert recording.info == {"version": version, "generation": version[0] + ".x", "neucoeff": 0.7, "plane": f"plane{plane}"}
    assert recording.path == DATA / result / "suite2p" / f"plane{plane}"
    json.dumps(dict(recording.info))


@pytest.mark.parametrize("result", RESULTS)
def test_footprints_reproduce_f(result):
    """Suite2p's F is the lam-weighted mean over the pixels that no other ROI shares, so its mean over time is that of meanImg."""
    for recording in read_with(FORMAT, DATA / result):
        stat = np.load(recording.path / "stat.npy", allow_pickle=True)
        mean_f, offsets = np.load(recording.path / "F.npy").mean(axis=1), []
        for i, roi in enumerate(stat):
            weights = recording.footprints[:, [i]].toarray().reshape(recording.fov)
            assert np.count_nonzero(weights) == np.count_nonzero(roi["lam"])
            offsets.append(np.median(np.nonzero(weights), axis=1) - roi["med"])
            own = np.zeros(recording.fov, bool)
            own[roi["ypix"][~roi["overlap"]], roi["xpix"][~roi["overlap"]]] = True
            weights = weights * own
            assert (weights * recording.images["meanImg"]).sum() / weights.sum() == pytest.approx(mean_f[i], rel=1e-5)
        assert np.abs(offsets).mean() < 1  # med is (y, x), the pixel of the ROI nearest to the median of both


@pytest.mark.parametrize(("result", "expected"), [("s2p_0146/single", (40, 0.825, 0.958)), ("s2p_110/mini", (14, 0.929, 0.875))])
def test_prior_against_ground_truth(result, expected):
    """The rows of the verdicts are the rows of the candidates: the numbers are those of docs/formats/suite2p.md, section 1."""
    recording = read_one(DATA / result)
    labels = json.loads((recording.path / "labels.json").read_text())["rois"]
    truth = np.array([roi["label"] for roi in labels]) == 1
    cell = recording.prior.verdict > 0
    assert (truth.sum(), cell[truth].mean(), (~cell[~truth]).mean()) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("result", RESULTS)
def test_traces_metrics_images(result):
    for recording in read_with(FORMAT, DATA / result):
        f, fneu = (np.load(recording.path / name) for name in ("F.npy", "Fneu.npy"))
        block = recording.traces[3:9]
        assert (block.dtype, block.flags.writeable) == (np.float32, True)
        np.testing.assert_allclose(block, (f - 0.7 * fneu)[3:9], rtol=1e-6, atol=1e-4)
        stat = np.load(recording.path / "stat.npy", allow_pickle=True)
        scalar = {key for key, value in stat[0].items() if np.ndim(value) == 0}
        assert set(recording.metrics) == scalar
        for key, values in recording.metrics.items():
            np.testing.assert_array_equal(values, [roi[key] for roi in stat])
        assert list(recording.images) == ["meanImg", "meanImgE", "max_proj", "Vcorr"]
        assert recording.movie_path is None


@pytest.mark.parametrize(("result", "source"), [("s2p_0146/twoplane", "ops"), ("s2p_110/twoplane", "detect_outputs")])
def test_cut_images_are_placed(result, source):
    recording = read_with(FORMAT, DATA / result)[0]
    meta = np.load(recording.path / f"{source}.npy", allow_pickle=True).item()
    ranges = meta if source == "ops" else np.load(recording.path / "reg_outputs.npy", allow_pickle=True).item()
    (y0, y1), (x0, x1) = ranges["yrange"], ranges["xrange"]
    assert y0 != x0  # else transposing would go unseen
    np.testing.assert_array_equal(recording.images["Vcorr"][y0:y1, x0:x1], meta["Vcorr"].astype(np.float32))
    outside = np.ones(recording.fov, bool)
    outside[y0:y1, x0:x1] = False
    assert np.unique(recording.images["max_proj"][outside]) == meta["max_proj"].min()


# Finding


@pytest.mark.parametrize("result", ["s2p_0146/twoplane", "s2p_110/twoplane"])
def test_planes(result):
    for path in (DATA / result, DATA / result / "suite2p"):
        assert [r.name for r in read_with(FORMAT, path)] == ["plane0", "plane1"]
    assert read_one(DATA / result / "suite2p" / "plane1").name == "plane1"
    combined = DATA / result / "suite2p" / "combined"
    with pytest.raises(FormatError, match=r"Open .*suite2p instead: the planes are the truth"):
        read_with(FORMAT, combined / "iscell.npy")


@pytest.mark.parametrize("name", ["", "stat.npy", "iscell.npy", "F.npy", "ops.npy"])
def test_a_file_stands_for_its_plane(name):
    path = DATA / "s2p_110/mini/suite2p/plane0" / name
    assert FORMAT.sniff(path).yes
    assert read_one(path).path == DATA / "s2p_110/mini/suite2p/plane0"


def test_natural_order_and_unfinished_planes(tmp_path):
    for number in (10, 2, 0):
        write_plane(tmp_path / f"plane{number}")
    write_plane(tmp_path / "plane1").joinpath("stat.npy").unlink()
    (tmp_path / "plane3").mkdir()
    write_plane(tmp_path / "plane4").joinpath("F.npy").unlink()  # 1.x saves stat.npy first: killed in between
    recordings = read_with(FORMAT, tmp_path)
    assert [r.name for r in recordings] == ["plane0", "plane2", "plane10"]
    assert recordings[0].notes == (
        "plane1 has no stat.npy and was skipped.",
        "plane3 has no stat.npy and no F.npy and was skipped.",
        "plane4 has no F.npy and was skipped.",
    )
    assert recordings[1].notes == ()
    for number in (0, 2, 10):
        (tmp_path / f"plane{number}" / "stat.npy").unlink()
    with pytest.raises(MissingFileError, match=r"has a stat\.npy and an F\.npy"):
        read_with(FORMAT, tmp_path)


def test_foreign_paths_are_refused(tmp_path):
    np.save(tmp_path / "positions.npy", np.zeros(3))
    (tmp_path / "planets").mkdir()
    (tmp_path / "planes").mkdir()
    (tmp_path / "suite2p").mkdir()
    for path in (tmp_path, tmp_path / "positions.npy", tmp_path / "planes", tmp_path / "nothing"):
        assert not FORMAT.sniff(path).yes
        with pytest.raises(FormatError, match="not a Suite2p result"):
            read_with(FORMAT, path)


def test_find_format_takes_a_moved_folder(mini, tmp_path):
    """Stored paths are absolute; nothing may depend on them, and the folder's name is free."""
    moved = mini.rename(tmp_path / "mouse 7, März")
    assert find_format(moved, {"suite2p": FORMAT}).name == "suite2p"
    recording = read_one(moved)
    assert (recording.name, recording.fingerprint) == ("mouse 7, März", "2bfb907431ef8c40")


def test_generations_agree(mini):
    """The GUI of 1.x reads ops.npy where it is, else the four others: both must give the same recording."""
    with_ops = read_one(mini)
    (mini / "ops.npy").unlink()
    without = read_one(mini)
    assert without.info == with_ops.info
    assert without.fps == with_ops.fps
    for key, image in with_ops.images.items():
        np.testing.assert_array_equal(image, without.images[key])
    (mini / "db.npy").unlink()
    with pytest.raises(MissingFileError, match=r"no ops\.npy, nor db\.npy"):
        read_with(FORMAT, mini)


def test_settings_polluted_by_a_merge(mini):
    """After a merge in the GUI of 1.1.0, settings.npy holds everything: what db.npy says counts."""
    (mini / "ops.npy").unlink()
    polluted = np.load(mini / "settings.npy", allow_pickle=True).item() | {"Ly": 1, "Lx": 2, "meanImg": np.zeros((1, 2))}
    np.save(mini / "settings.npy", polluted)
    assert read_one(mini).fov == (64, 80)


# Odd and missing parts


@pytest.mark.parametrize("n", [0, 1, 2])
def test_few_rois(tmp_path, n):
    recording = read_one(write_plane(tmp_path / "plane0", n=n))
    assert (recording.n_cells, recording.traces[:].shape, recording.fps) == (n, (n, 20), 7.5)
    assert len(recording.candidate_fingerprints) == n
    assert recording.trace_kind == "F - 0.6*Fneu"


def test_empty_stat_without_pickle(tmp_path):
    np.save(write_plane(tmp_path / "plane0", n=0) / "stat.npy", [])  # np.save of an empty list: a plain float array
    assert read_one(tmp_path / "plane0").n_cells == 0


@pytest.mark.parametrize("name", ["stat.npy", "F.npy"])
def test_missing_needed_file(mini, name):
    (mini / name).unlink()
    with pytest.raises(MissingFileError, match=f"has no {name}"):
        read_with(FORMAT, mini)


def test_missing_optional_files(mini):
    for name in ("Fneu.npy", "spks.npy", "iscell.npy", "ops.npy", "reg_outputs.npy", "detect_outputs.npy"):
        (mini / name).unlink()
    recording = read_one(mini)
    np.testing.assert_array_equal(recording.traces[:], np.load(mini / "F.npy"))
    assert (recording.trace_kind, recording.spikes, list(recording.images)) == ("F", None, ["meanImg"])  # db.npy has one too
    assert recording.prior.counts()["undecided"] == 30
    assert [note.split()[0] for note in recording.notes] == ["Fneu.npy", "iscell.npy"]


def test_defaults_are_said(tmp_path):
    plane = write_plane(tmp_path / "plane0")
    np.save(plane / "ops.npy", {"Ly": 9, "Lx": np.int64(14), "fs": -1.0, "meanImg": "gone", "Vcorr": np.zeros((3, 3)), "yrange": None})
    recording = read_one(plane)
    assert (recording.fps, recording.trace_kind, dict(recording.images)) == (None, "F - 0.7*Fneu", {})
    said = " ".join(recording.notes)
    assert all(word in said for word in ("default of 0.7", "(fs)", "meanImg", "Vcorr"))


def test_spikes(mini):
    np.testing.assert_array_equal(read_one(mini).spikes[2:4], np.load(mini / "spks.npy")[2:4])
    np.save(mini / "spks.npy", np.zeros((30, 7)))
    recording = read_one(mini)
    assert recording.spikes is None
    assert "spks.npy has shape (30, 7)" in recording.notes[0]


def test_movie(mini):
    movie = np.zeros((220, 64, 80), "<i2")
    movie.tofile(mini / "data.bin")
    assert read_one(mini).movie_path == mini / "data.bin"
    movie[:-1].tofile(mini / "data.bin")
    recording = read_one(mini)
    assert recording.movie_path is None
    assert "220 frames of 64 x 80" in recording.notes[0]


def test_rows_that_differ_in_their_keys(tmp_path):
    """As after merging and drawing ROIs in the GUI."""
    extra = {"imerge": [0, 2], "inmerge": -1, "manual": 1, "chan2_prob": 0.3, "snr": np.float64(2.5), "skew": None, "npix": np.int64(6)}
    recording = read_one(write_plane(tmp_path / "plane0", **extra))
    assert set(recording.metrics) == {"npix", "skew", "snr"}
    np.testing.assert_array_equal(recording.metrics["snr"], [np.nan, 2.5, np.nan])
    np.testing.assert_array_equal(recording.metrics["skew"], [0, np.nan, 2])
    np.testing.assert_array_equal(recording.metrics["npix"], [5, 6, 5])


def test_duplicate_pixels_and_broken_weights(tmp_path):
    roi = {"ypix": np.array([1, 1, 2, 1]), "xpix": np.array([3, 3, 4, 3]), "lam": np.array([1, 2, np.inf, np.nan]), "std": np.inf}
    recording = read_one(write_plane(tmp_path / "plane0", **roi))
    column = recording.footprints[:, [1]].toarray().reshape(9, 14)
    assert column[1, 3] == 3
    assert np.count_nonzero(column) == 1
    assert "1 ROIs have weights" in recording.notes[0]
    assert recording.metrics["std"][1] == np.inf


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ypix": None}, "ROI 1 has no ypix"),
        ({"lam": None}, "ROI 1 has no lam"),
        ({"xpix": np.arange(4)}, "5 ypix, 4 xpix and 5 lam"),
        ({"ypix": np.full(5, 9)}, "ypix of ROI 1 leaves the field of view of 9 x 14"),
        ({"xpix": np.full(5, -1)}, "xpix of ROI 1 leaves"),
        ({"xpix": np.full(5, 2**64 - 1, np.uint64)}, "xpix of ROI 1 leaves"),
        ({"xpix": np.full(5, np.nan)}, "xpix of ROI 1 leaves"),
        ({"xpix": np.full(5, 0.5)}, "xpix of ROI 1 leaves"),
        ({"xpix": "12345"}, "xpix of ROI 1 is not a list of numbers"),
        ({"lam": np.ones((5, 1))}, "lam of ROI 1 is not a list of numbers"),
        ({"lam": [1, 2, [3], 4, 5]}, "lam of ROI 1 is not a list of numbers"),
    ],
)
def test_bad_roi(tmp_path, change, message):
    with pytest.raises(FormatError, match=message):
        read_with(FORMAT, write_plane(tmp_path / "plane0", **change))


@pytest.mark.parametrize(("name", "counts"), [("F.npy", "30 ROIs but F.npy has shape \\(29"), ("Fneu.npy", "\\(30 ROIs\\) but Fneu.npy")])
def test_other_number_of_rows(mini, name, counts):
    np.save(mini / name, np.load(mini / name)[:-1])
    with pytest.raises(FormatError, match=counts):
        read_with(FORMAT, mini)


def test_stat_that_is_no_list_of_dictionaries(tmp_path):
    plane = write_plane(tmp_path / "plane0")
    for value, message in (([1, 2, 3], "ROI 0 is a int"), ({"a": 1}, r"shape \(\), not a list of ROIs")):
        np.save(plane / "stat.npy", np.array(value, dtype=object))
        with pytest.raises(FormatError, match=message):
            read_with(FORMAT, plane)


def test_field_of_view_that_fits_in_no_memory(tmp_path):
    plane = write_plane(tmp_path / "plane0")
    for size in (2**30, 10**400, np.inf, 3.5, "9", None):
        np.save(plane / "ops.npy", {"Ly": size, "Lx": 14})
        with pytest.raises(FormatError, match="field of view"):
            read_with(FORMAT, plane)


# iscell.npy, as the GUI reads it (docs/formats/suite2p.md, section 2.7)

TABLE = np.array([[1, 0.9], [0, 0.2], [1, 0.4]])


@pytest.mark.parametrize(
    "table",
    [TABLE, np.asfortranarray(TABLE), TABLE.astype(">f8"), TABLE.astype("f4"), np.column_stack([TABLE, [7, 8, 9]])],
    ids=["C", "Fortran", "big-endian", "float32", "three columns"],
)
def test_iscell_layouts(tmp_path, table):
    np.save(write_plane(tmp_path / "plane0") / "iscell.npy", table)
    prior = read_one(tmp_path / "plane0").prior
    assert list(prior.verdict) == [1, -1, 1]
    np.testing.assert_allclose(prior.probability, TABLE[:, 1], rtol=1e-6)


@pytest.mark.parametrize("dtype", [int, bool])
def test_iscell_integers(tmp_path, dtype):
    np.save(write_plane(tmp_path / "plane0") / "iscell.npy", np.array([[1, 1], [0, 0], [1, 0]], dtype))
    prior = read_one(tmp_path / "plane0").prior
    assert list(prior.verdict) == [1, -1, 1]
    assert list(prior.probability) == [1, 0, 0]


def test_iscell_odd_values(tmp_path):
    np.save(write_plane(tmp_path / "plane0", n=5) / "iscell.npy", [[-1, 0.1], [2, 0.2], [np.nan, 0.3], [0, np.nan], [0, 1.5]])
    recording = read_one(tmp_path / "plane0")
    assert list(recording.prior.verdict) == [1, 1, 1, -1, -1]
    np.testing.assert_array_equal(recording.prior.probability, [0.1, 0.2, 0.3, np.nan, np.nan])
    assert [note[:8] for note in recording.notes] == ["3 labels", "2 probab"]


@pytest.mark.parametrize(
    ("table", "holds"),
    [
        (TABLE.astype(object), r"array of object with shape \(3, 2\)"),
        (TABLE[:, 0], r"float64 with shape \(3,\)"),
        (TABLE[:, :1], r"shape \(3, 1\)"),
        (TABLE[:2], r"shape \(2, 2\)"),
        (np.vstack([TABLE, TABLE]), r"shape \(6, 2\)"),
        (TABLE.T, r"shape \(2, 3\)"),
        (TABLE.astype(complex), "complex128"),
        (TABLE.astype(str), "array of <U32"),
    ],
)
def test_iscell_refused(tmp_path, table, holds):
    np.save(write_plane(tmp_path / "plane0") / "iscell.npy", table, allow_pickle=True)
    with pytest.raises(FormatError, match=rf"iscell\.npy holds.*{holds}.*Restore"):
        read_with(FORMAT, tmp_path / "plane0")


# Broken files


def test_lists_that_never_end(tmp_path):
    """A list of 10**13 numbers takes 200 bytes of pickle: whoever prints it or makes an array of it needs that much memory."""
    bomb: list[Any] = [0] * 10
    for _ in range(12):
        bomb = [bomb] * 10
    plane = write_plane(tmp_path / "plane0")
    ops = {"Ly": 9, "Lx": 14, "fs": bomb, "yrange": bomb, "Vcorr": np.zeros((3, 14)), "meanImg": bomb, "neucoeff": bomb}
    ops["actsort"] = {"made": bomb, "images": bomb, "stack": np.zeros((10, 9, 14), np.float32)}
    np.save(tmp_path / "db.npy", {"ignore_flyback": bomb})
    (tmp_path / "combined").mkdir()
    np.save(tmp_path / "combined/iscell.npy", np.zeros((3, 2)))
    np.save(plane / "ops.npy", ops)
    assert len(read_one(plane).notes) == 5  # the four of the plane, and that combined differs
    assert read_one(write_plane(plane, imerge=bomb, manual=bomb)).info["merged"] == [[1, []]]
    write_plane(plane, ypix=bomb)
    with pytest.raises(FormatError, match="ypix of ROI 1 is not a list of numbers"):
        read_with(FORMAT, plane)


@pytest.mark.parametrize("name", ["F.npy", "Fneu.npy", "iscell.npy"])
def test_truncated_by_a_known_amount(mini, name):
    content = (mini / name).read_bytes()
    (mini / name).write_bytes(content[:-37])
    with pytest.raises(FormatError, match=rf"{name} is truncated: 37 of {len(content)} bytes are missing"):
        read_with(FORMAT, mini)
    (mini / name).write_bytes(content + b"x" * 5)
    with pytest.raises(FormatError, match=rf"{name} holds 5 bytes more"):
        read_with(FORMAT, mini)


def test_changed_after_opening(mini):
    """The host may rewrite F.npy while a session is open: an error, not a killed process."""
    recording = read_one(mini)
    (mini / "F.npy").write_bytes((mini / "F.npy").read_bytes()[:5000])
    with pytest.raises(FormatError, match=r"F\.npy is truncated"):
        recording.traces[:]
    (mini / "F.npy").unlink()
    with pytest.raises(MissingFileError, match=r"F\.npy is gone"):
        recording.traces[:]


def test_header_larger_than_the_disk(mini):
    with (mini / "F.npy").open("wb") as handle:
        np.lib.format.write_array_header_1_0(handle, {"descr": "<f4", "fortran_order": False, "shape": (30, 10**12)})
    with pytest.raises(FormatError, match=r"F\.npy is truncated"):
        read_with(FORMAT, mini)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory) -> tuple[Path, dict[str, bytes]]:
    plane = write_plane(tmp_path_factory.mktemp("fuzz") / "plane0")
    return plane, {name: (plane / name).read_bytes() for name in ("stat.npy", "ops.npy", "iscell.npy", "F.npy")}


@given(data=st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_any_damage_is_an_actsort_error_or_a_valid_read(fuzzed, data):
    plane, contents = fuzzed
    name = data.draw(st.sampled_from(sorted(contents)))
    damaged = bytearray(contents[name])
    for position in data.draw(st.lists(st.integers(0, len(damaged) - 1), max_size=3)):
        damaged[position] = data.draw(st.integers(0, 255))
    damaged = damaged[: data.draw(st.one_of(st.none(), st.integers(0, len(damaged))))]
    (plane / name).write_bytes(damaged)
    problem = ""
    try:
        recording = read_with(FORMAT, plane)
        assert recording[0].traces[:].shape == (3, 20)
        assert recording[0].fingerprint
    except ActsortError as error:
        problem = str(error)
    finally:
        (plane / name).write_bytes(contents[name])
    if problem:
        assert "plane0" in problem
        assert "could not be read as suite2p" not in problem  # the adapter itself must know what is wrong


@pytest.mark.parametrize("name", ["stat.npy", "ops.npy", "settings.npy", "iscell.npy", "F.npy"])
def test_truncations_of_a_real_result(mini, name):
    content = (mini / name).read_bytes()
    if name == "settings.npy":
        (mini / "ops.npy").unlink()
    for end in [*range(0, 140, 17), *np.linspace(140, len(content) - 1, 12).astype(int)]:
        (mini / name).write_bytes(content[:end])
        with pytest.raises(FormatError, match=name):
            read_with(FORMAT, mini)
