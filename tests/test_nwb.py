"""NWB: every writer's layout read, odd and broken files, several planes.

tests/data/nwb: simulated recordings. ``*_like.nwb``: the 40 components of tests/data/cnmfe (60 x 72 pixels) written with pynwb 4.2 in
the layout of each tool's code; ``cnmf_2p_4gui.nwb``: written by CaImAn 1.12.1 from the file of that name in tests/data/caiman;
``neuroconv_0102_suite2p.nwb`` and ``neuroconv_061_caiman_1p.nwb``: written by neuroconv 0.10.2 and 0.6.1 from plane0 of
tests/data/suite2p/s2p_0146/twoplane and tests/data/caiman/cnmfe_1p_evaluated.hdf5.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from nwb_files import build

from actsort_adapters.caiman import CaimanFormat
from actsort_adapters.cnmfe import CnmfeFormat
from actsort_adapters.nwb import NwbFormat
from actsort_adapters.suite2p import Suite2pFormat
from actsort_core.errors import ActsortError, FormatError, MissingFileError
from actsort_core.formats import find_format, read_with
from actsort_core.testing import check_format

TESTS = Path(__file__).parent
DATA = TESTS / "data" / "nwb"
TWO_PLANES = TESTS / "data" / "suite2p" / "s2p_110" / "twoplane" / "suite2p"
NWB = NwbFormat()
REAL = sorted(path.name for path in DATA.glob("*.nwb"))


def read(path):
    (recording,) = NWB.read(Path(path))
    return recording


def same(a, b, traces=1e-6):
    """Whether two recordings hold the same candidates and traces."""
    assert a.fov == b.fov
    assert a.candidate_fingerprints == b.candidate_fingerprints
    n = a.n_cells
    for name in ("traces", "denoised", "spikes"):
        x, y = getattr(a, name), getattr(b, name)
        if x is not None and y is not None:
            np.testing.assert_allclose(x[0:n], y[0:n][:, : a.n_frames], rtol=traces, atol=traces * 100)


# Files of the tools


@pytest.mark.parametrize(
    ("name", "fov", "shape", "counts", "kind", "writer", "images", "metrics"),
    [
        ("suite2p_like", (60, 72), (40, 450), (21, 19, 0), "F - 0.7*Fneu", "suite2p", {"max_proj", "meanImg"}, set()),
        ("caiman_like", (60, 72), (40, 450), (21, 19, 0), "C+YrA", "caiman", set(), {"r_values", "SNR_comp", "cnn_preds"}),
        ("neuroconv_old_like", (60, 72), (40, 450), (21, 19, 0), "F", "neuroconv", {"correlation"}, set()),
        ("neuroconv_new_like", (60, 72), (40, 450), (21, 19, 0), "F", "neuroconv", {"correlation"}, {"SNR_comp"}),
        ("cnmf_2p_4gui", (60, 70), (38, 700), (28, 10, 0), "C+YrA", "caiman", set(), {"r_values", "SNR_comp"}),
        (
            *("neuroconv_0102_suite2p", (72, 96), (41, 400), (13, 28, 0), "F - 0.7*Fneu", "neuroconv"),
            *({"CorrelationImageChan1Plane0", "MeanImageChan1Plane0"}, set()),
        ),
        ("neuroconv_061_caiman_1p", (60, 70), (50, 700), (28, 22, 0), "F", "neuroconv", {"correlation", "mean"}, set()),
    ],
)
def test_golden(name, fov, shape, counts, kind, writer, images, metrics):
    path = DATA / f"{name}.nwb"
    assert NWB.sniff(path).yes
    others = {"nwb": NWB, "caiman": CaimanFormat(), "suite2p": Suite2pFormat(), "cnmfe": CnmfeFormat()}
    assert find_format(path, others) is NWB
    recording = read(path)
    assert (recording.name, recording.format, recording.path, recording.fov) == (name, "nwb", path, fov)
    assert (recording.n_cells, recording.n_frames) == shape
    assert tuple(recording.prior.counts().values()) == counts
    assert recording.trace_kind == kind
    assert recording.fps == 10.0
    assert recording.info["writer"] == writer
    assert set(recording.images) == images
    assert set(recording.metrics) == metrics
    assert recording.traces[3:5].dtype == np.float32


@pytest.mark.parametrize("name", ["suite2p_like", "caiman_like", "neuroconv_old_like", "neuroconv_new_like"])
def test_masks_of_every_writer_are_the_same_candidates(name):
    """Rows in the field named x, scrambled, (width, height): all come out as what CNMF-E found, pixel by pixel."""
    same(read(DATA / f"{name}.nwb"), CnmfeFormat().read(TESTS / "data" / "cnmfe" / "cnmfe_results_struct_v7.mat")[0])


def test_images_are_turned_like_the_masks():
    old, suite2p = read(DATA / "neuroconv_old_like.nwb"), read(DATA / "suite2p_like.nwb")
    np.testing.assert_array_equal(old.images["correlation"], suite2p.images["max_proj"])


def test_caiman_export_equals_caiman_file():
    nwb, own = read(DATA / "cnmf_2p_4gui.nwb"), CaimanFormat().read(TESTS / "data" / "caiman" / "cnmf_2p_4gui.hdf5")[0]
    same(nwb, own)
    np.testing.assert_array_equal(nwb.prior.verdict, own.prior.verdict)
    for key, values in nwb.metrics.items():
        np.testing.assert_array_equal(values, own.metrics[key])
    assert any("2 of the 40 rows" in note for note in nwb.notes)  # the background components


def test_suite2p_export_of_two_planes():
    for nwb, own in zip(NWB.read(TWO_PLANES / "ophys.nwb"), Suite2pFormat().read(TWO_PLANES), strict=True):
        assert nwb.name == own.name
        same(nwb, own)
        np.testing.assert_array_equal(nwb.prior.verdict, own.prior.verdict)
        np.testing.assert_array_equal(nwb.prior.probability, own.prior.probability)
        np.testing.assert_array_equal(nwb.images["meanImg"], own.images["meanImg"])


def test_neuroconv_files_equal_their_sources():
    same(read(DATA / "neuroconv_0102_suite2p.nwb"), Suite2pFormat().read(TESTS / "data/suite2p/s2p_0146/twoplane/suite2p")[0])
    same(read(DATA / "neuroconv_061_caiman_1p.nwb"), CaimanFormat().read(TESTS / "data/caiman/cnmfe_1p_evaluated.hdf5")[0])


@pytest.mark.slow
@pytest.mark.parametrize("path", [*(DATA / name for name in REAL), TWO_PLANES / "ophys.nwb"], ids=lambda p: p.stem)
def test_conformance(path):
    check_format(NWB, path, damaged=8)


# Masks


def test_schema_order_where_the_writer_is_unknown(tmp_path):
    made = build(tmp_path / "a.nwb", masks="image_mask")
    recording = read(made.path)
    assert recording.fov == (7, 9)
    np.testing.assert_array_equal(recording.footprints.toarray().T.reshape(-1, 7, 9), made.footprints)
    assert any("writer is not known" in note or "not known who" in note for note in recording.notes)


@pytest.mark.parametrize("dtype", ["f4", "f8", "u1", "i8", "?"])
def test_image_masks_of_any_type(tmp_path, dtype):
    made = build(tmp_path / "a.nwb", masks="image_mask", dtype=dtype)
    np.testing.assert_array_equal(read(made.path).footprints.toarray().T.reshape(-1, 7, 9), made.footprints.astype(dtype).astype("f4"))


def test_packed_image_masks(tmp_path):
    """Pictures of zeros pack 1:1000, and are read all the same."""
    made = build(tmp_path / "a.nwb", masks="image_mask", fov=(700, 900), n_cells=9, dtype="f8", compression="gzip")
    recording = read(made.path)
    assert recording.fov == (700, 900)
    np.testing.assert_array_equal(recording.footprints.toarray().T.reshape(made.footprints.shape), made.footprints)


@pytest.mark.parametrize("masks", ["image_mask", "voxel_mask"])
def test_volumes(tmp_path, masks):
    made = build(tmp_path / "a.nwb", masks=masks, fov=(7, 9, 4))
    recording = read(made.path)
    got = recording.footprints.toarray().T.reshape(-1, *recording.fov)
    assert recording.fov == (7, 9, 4)
    np.testing.assert_array_equal(got, made.footprints)


def test_volume_of_caiman(tmp_path):
    made = build(tmp_path / "a.nwb", masks="image_mask", fov=(7, 9, 4), writer="caiman")
    recording = read(made.path)
    assert recording.fov == (7, 9, 4)
    np.testing.assert_array_equal(recording.footprints.toarray().T.reshape(-1, 7, 9, 4), made.footprints)


def test_caiman_masks_that_are_not_scrambled(tmp_path):
    made = build(tmp_path / "a.nwb", masks="image_mask", fov=(40, 50), blobs=True, writer="caiman", scramble=False)
    recording = read(made.path)
    np.testing.assert_array_equal(recording.footprints.toarray().T.reshape(-1, 40, 50), made.footprints)
    assert any("look whole" in note for note in recording.notes)


@pytest.mark.parametrize(("images", "fov"), [(True, (7, 9)), (False, (6, 8))])
def test_pixel_masks_and_the_size_of_the_field_of_view(tmp_path, images, fov):
    made = build(tmp_path / "a.nwb", masks="pixel_mask", images=images, inner=True)
    recording = read(made.path)
    assert recording.fov == fov
    np.testing.assert_array_equal(recording.footprints.toarray().T.reshape(-1, *fov), made.footprints[:, : fov[0], : fov[1]])
    assert any("size of the field of view" in note for note in recording.notes) is not images


def test_pixel_masks_against_the_schema(tmp_path):
    """Rows in x, columns in y, by an unknown writer: the images tell."""
    made = build(tmp_path / "a.nwb", masks="pixel_mask", images=True, fov=(5, 30), rows_in_x=True)
    recording = read(made.path)
    np.testing.assert_array_equal(recording.footprints.toarray().T.reshape(-1, 5, 30), made.footprints)
    assert any("exchanged" in note for note in recording.notes)


# Traces, rows, planes


@pytest.mark.parametrize("n_cells", [0, 1, 2])
@pytest.mark.parametrize("masks", ["image_mask", "pixel_mask"])
def test_few_candidates(tmp_path, n_cells, masks):
    made = build(tmp_path / "a.nwb", masks=masks, n_cells=n_cells, images=True)
    recording = read(made.path)
    assert (recording.n_cells, recording.n_frames, recording.fov) == (n_cells, 20, (7, 9))
    np.testing.assert_array_equal(recording.traces[0:n_cells], made.traces)


def test_one_candidate_with_a_flat_trace(tmp_path):
    made = build(tmp_path / "a.nwb", n_cells=1)
    with h5py.File(made.path, "r+") as file:
        data = file["processing/ophys/Fluorescence/RoiResponseSeries/data"][:, 0]
        del file["processing/ophys/Fluorescence/RoiResponseSeries/data"]
        file["processing/ophys/Fluorescence/RoiResponseSeries/data"] = data
    np.testing.assert_array_equal(read(made.path).traces[0:1], made.traces)


def test_rows_in_another_order_and_rows_that_are_none(tmp_path):
    made = build(tmp_path / "a.nwb", n_cells=5, region=[3, 0, 4])
    recording = read(made.path)
    np.testing.assert_array_equal(recording.footprints.toarray().T.reshape(-1, 7, 9), made.footprints[[0, 3, 4]])
    np.testing.assert_array_equal(recording.traces[0:3], made.traces[[1, 0, 2]])  # trace i is that of row region[i]
    np.testing.assert_array_equal(recording.traces[0:3][::-1], recording.traces[::-1])


def test_frames_in_columns(tmp_path):
    made = build(tmp_path / "a.nwb", n_cells=3)
    with h5py.File(made.path, "r+") as file:
        del file["processing/ophys/Fluorescence/RoiResponseSeries/data"]
        file["processing/ophys/Fluorescence/RoiResponseSeries/data"] = made.traces
    recording = read(made.path)
    np.testing.assert_array_equal(recording.traces[1:3], made.traces[1:3])
    assert any("against NWB's schema" in note for note in recording.notes)


def test_declared_units_are_applied(tmp_path):
    made = build(tmp_path / "a.nwb", n_cells=3)
    with h5py.File(made.path, "r+") as file:
        data = file["processing/ophys/Fluorescence/RoiResponseSeries/data"]
        data.attrs["conversion"], data.attrs["offset"] = 2.0, 1.0
    np.testing.assert_allclose(read(made.path).traces[0:3], 2 * made.traces + 1, rtol=1e-6)


@pytest.mark.parametrize(
    ("extra", "kind"),
    [
        ({"Neuropil/RoiResponseSeries": 0.5}, "F - 0.7*Fneu"),
        ({"Fluorescence/Neuropil": 0.5}, "F - 0.7*Fneu"),
        ({"Fluorescence/corrected": 0.5, "Neuropil/RoiResponseSeries": 0.2}, "F, corrected"),
        ({"DfOverF/RoiResponseSeries": 0.5, "Fluorescence_chan2/plane0": 3.0}, "F"),
    ],
)
def test_which_traces(tmp_path, extra, kind):
    made = build(tmp_path / "a.nwb", n_cells=3, extra=extra)
    recording = read(made.path)
    assert recording.trace_kind == kind
    factor = {"F - 0.7*Fneu": 1 - 0.7 * 0.5, "F, corrected": 0.5, "F": 1.0}[kind]
    np.testing.assert_allclose(recording.traces[0:3], factor * made.traces, rtol=1e-5, atol=1e-6)


def test_only_dff_and_only_denoised(tmp_path):
    made = build(tmp_path / "a.nwb", n_cells=3, main="DfOverF/RoiResponseSeries")
    assert read(made.path).trace_kind == "dF/F"
    made = build(tmp_path / "b.nwb", n_cells=3, main="Fluorescence/Denoised")
    recording = read(made.path)
    assert recording.trace_kind == "denoised"
    assert any("no noise" in note for note in recording.notes)


@pytest.mark.parametrize(
    ("stamps", "fps"), [(np.arange(20) / 7.5 + 3, 7.5), (np.arange(20) ** 1.1, None), (np.full(20, np.nan), None), (np.zeros(20), None)]
)
def test_frame_rate_from_time_stamps(tmp_path, stamps, fps):
    made = build(tmp_path / "a.nwb", n_cells=2, timestamps=stamps)
    recording = read(made.path)
    if fps is not None:
        assert recording.fps == pytest.approx(fps, rel=1e-6)
    elif np.ptp(stamps) > 0:
        assert any("not evenly spaced" in note for note in recording.notes)
    else:
        assert recording.fps is None


def test_several_tables_are_several_recordings(tmp_path):
    made = build(tmp_path / "a.nwb", n_cells=3, table="PlaneSegmentationPlane10")
    build(made.path, n_cells=4, fov=(5, 6), table="PlaneSegmentationPlane2", seed=1, append=True)
    build(made.path, n_cells=2, table="BackgroundPlaneSegmentation", seed=2, append=True)  # neuroconv's
    first, second = NWB.read(made.path)
    assert [(r.name, r.n_cells, r.fov) for r in (first, second)] == [
        ("PlaneSegmentationPlane2", 4, (5, 6)),
        ("PlaneSegmentationPlane10", 3, (7, 9)),
    ]


def test_saved_twice_into_one_file(tmp_path):
    """CaImAn's second save_NWB makes a second module, ophys1, with a table of the same name."""
    made = build(tmp_path / "a.nwb", n_cells=3, writer="caiman", flags={"accepted": [1, 0, 0], "rejected": [0, 1, 0]})
    with h5py.File(made.path, "r+") as file:
        file.copy("processing/ophys", "processing/ophys1")
        series, table = (file[f"processing/ophys1/{p}"] for p in ("Fluorescence/RoiResponseSeries", "ImageSegmentation/PlaneSegmentation"))
        series["rois"].attrs["table"] = table.ref
        table["accepted"][...] = [False, True, True]
        table["rejected"][...] = False
    first, second = NWB.read(made.path)
    assert (first.name, second.name) == ("ophys-PlaneSegmentation", "ophys1-PlaneSegmentation")
    assert first.prior.verdict.tolist() == [1, -1, 0]
    assert second.prior.verdict.tolist() == [0, 1, 1]


# Verdicts


@pytest.mark.parametrize(
    ("flags", "verdict"),
    [
        ({}, [0, 0, 0, 0]),
        ({"is_accepted": np.array([1, 0, 1, 1], bool)}, [1, -1, 1, 1]),
        ({"Accepted": [1, 0, 0, 1], "Rejected": [0, 1, 0, 1]}, [1, -1, 0, 0]),
        ({"accepted": np.zeros(4, bool), "rejected": np.zeros(4, bool)}, [0, 0, 0, 0]),
        ({"accepted": np.zeros(4, bool), "rejected": np.zeros(4, bool), "keep": np.array([1, 1, 0, 0], bool)}, [1, 1, -1, -1]),
        ({"accepted": [0, 0, 1, 0], "rejected": [1, 0, 0, 0], "keep": [1, 1, 0, 0]}, [-1, 1, 1, -1]),
        ({"accepted": [0, 0, 1, 0]}, [-1, -1, 1, -1]),
        ({"accepted": [0, 0, 0, 0]}, [0, 0, 0, 0]),
        ({"keep": [1.0, 0.0, np.nan, 1.0]}, [1, -1, 0, 1]),
        ({"iscell": np.array([[1, 0.9], [0, 0.2], [1, np.nan], [0, 7]])}, [1, -1, 1, -1]),
        ({"ISCELL": [1, 0, 1, 0]}, [1, -1, 1, -1]),
        ({"valid": [1, 0, 1, 0], "iscell": [0, 1, 0, 1]}, [-1, 1, -1, 1]),
        ({"is_accepted": [b"yes", b"no", b"", b""]}, [0, 0, 0, 0]),
    ],
)
def test_verdicts(tmp_path, flags, verdict):
    made = build(tmp_path / "a.nwb", n_cells=4, flags=flags)
    recording = read(made.path)
    assert recording.prior.verdict.tolist() == verdict
    assert not recording.metrics  # a verdict is never evidence
    if "iscell" in flags and np.ndim(flags["iscell"]) == 2:
        np.testing.assert_array_equal(recording.prior.probability, [0.9, 0.2, np.nan, np.nan])


def test_columns_that_are_evidence(tmp_path):
    snr, npix = np.array([1.5, np.nan, 3]), np.array([10, 20, 30])
    flags = {"snr": snr, "npix": npix, "my_own_label": [1, 0, 1], "name": [b"a", b"b", b"c"], "pair": np.zeros((3, 2))}
    recording = read(build(tmp_path / "a.nwb", n_cells=3, flags=flags).path)
    assert set(recording.metrics) == {"snr", "npix"}  # my_own_label looks like a verdict
    np.testing.assert_array_equal(recording.metrics["snr"], snr)


# Broken and hostile files


def test_what_it_does_not_claim(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    assert "not NWB" in NWB.sniff(tmp_path / "other.h5").why
    with h5py.File(tmp_path / "old.nwb", "w") as file:
        file["nwb_version"] = "NWB-1.0.6"
    assert "NWB 1" in NWB.sniff(tmp_path / "old.nwb").why
    with h5py.File(tmp_path / "raw.nwb", "w") as file:
        file.attrs["nwb_version"] = "2.6.0"
    assert "without ROIs" in NWB.sniff(tmp_path / "raw.nwb").why
    for path in (tmp_path, TESTS / "data" / "caiman" / "cnmf_2p_4gui.hdf5", TESTS / "data" / "cnmfe" / "cnmfe_neuron_struct_v73.mat"):
        assert not NWB.sniff(path).yes
    with pytest.raises(MissingFileError):
        NWB.read(tmp_path / "nothing.nwb")


def table_of(file):
    return file["processing/ophys/ImageSegmentation/PlaneSegmentation"]


def broken(change):
    """A test case: what to do to the table of a file with pixel masks."""
    return pytest.param(change, id=change.__name__)


def index_falls(table):
    table["pixel_mask_index"][...] = table["pixel_mask_index"][()][::-1]


def index_too_far(table):
    table["pixel_mask_index"][-1] = 2**15


def pixels_far_away(table):
    masks = table["pixel_mask"][()]
    masks["x"][0], masks["y"][0] = 2**32 - 2, 2**32 - 2
    table["pixel_mask"][...] = masks


def masks_outside(table):
    del table["pixel_mask"]
    table["pixel_mask"] = h5py.ExternalLink("elsewhere.nwb", "/secret")


def no_masks_but_a_group(table):
    del table["pixel_mask"]
    table.create_group("pixel_mask")


def masks_without_weights(table):
    del table["pixel_mask"]
    table["pixel_mask"] = np.zeros((4, 3))


def huge_image_masks(table):
    table.create_dataset("image_mask", (4, 60_000, 60_000), "f8", chunks=(1, 1000, 1000))


def endless_table(table):
    del table["id"]
    table.create_dataset("id", (2**40,), "i8", chunks=(1024,))


@pytest.mark.parametrize(
    "change",
    [
        broken(change)
        for change in (
            *(index_falls, index_too_far, pixels_far_away, masks_outside, no_masks_but_a_group, masks_without_weights),
            *(huge_image_masks, endless_table),
        )
    ],
)
def test_broken_masks(tmp_path, change):
    made = build(tmp_path / "a.nwb", masks="pixel_mask", n_cells=4, images=True)
    with h5py.File(made.path, "r+") as file:
        change(table_of(file))
    with pytest.raises(FormatError) as caught:
        NWB.read(made.path)
    assert "a.nwb" in str(caught.value)


def test_links_out_of_the_file_elsewhere_do_no_harm(tmp_path):
    made = build(tmp_path / "a.nwb", n_cells=3)
    with h5py.File(made.path, "r+") as file:
        file["acquisition/raw"] = h5py.ExternalLink("raw.nwb", "/acquisition/raw")
        file["processing/other"] = h5py.ExternalLink("other.nwb", "/processing")
        file["processing/ophys/loop"] = file["processing"]
        table_of(file)["curation_label"] = h5py.ExternalLink("other.nwb", "/x")
    assert read(made.path).n_cells == 3


def test_traces_that_do_not_fit(tmp_path):
    made = build(tmp_path / "a.nwb", n_cells=3, extra={"Neuropil/RoiResponseSeries": 1.0})
    with h5py.File(made.path, "r+") as file:
        file["processing/ophys/Neuropil/RoiResponseSeries/rois"][...] = [0, 1, 99]
    recording = read(made.path)
    assert recording.trace_kind == "F"
    assert any("not rows of" in note for note in recording.notes)
    with h5py.File(made.path, "r+") as file:
        del file["processing/ophys/Fluorescence"]
    with pytest.raises(FormatError, match="no traces"):
        NWB.read(made.path)


def test_truncated(tmp_path):
    content = (DATA / "suite2p_like.nwb").read_bytes()
    for size in (0, 7, 100, 5000, len(content) // 2, len(content) - 1):
        path = tmp_path / f"{size}.nwb"
        path.write_bytes(content[:size])
        with pytest.raises(ActsortError):
            read_with(NWB, path)
        assert not NWB.sniff(path).yes


def test_a_file_that_changes_while_it_is_open(tmp_path):
    path = Path(shutil.copyfile(DATA / "suite2p_like.nwb", tmp_path / "a.nwb"))
    recording = read(path)
    build(path, n_cells=3)
    with pytest.raises(ActsortError):
        recording.traces[0:2]
