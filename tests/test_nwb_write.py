"""NWB: decisions written in place, new files, and what pynwb says to both."""

from __future__ import annotations

import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from nwb_files import build

from actsort_adapters import _nwb_create
from actsort_adapters.caiman import CaimanFormat
from actsort_adapters.nwb import NwbFormat
from actsort_core.errors import ActsortError, ChangedError, UsageError, WriteError
from actsort_core.formats import CreatingFormat
from actsort_core.model import CandidateId, Curation, Label
from actsort_core.testing import check_format, make_recording

TESTS = Path(__file__).parent
DATA = TESTS / "data" / "nwb"
TWO_PLANES = TESTS / "data" / "suite2p" / "s2p_110" / "twoplane" / "suite2p" / "ophys.nwb"
NWB = NwbFormat()
OWN = {"curation_label", "curation_prob"}


def read(path):
    (recording,) = NWB.read(Path(path))
    return recording


def curate(recording, seed=0):
    """Decisions of a model with a threshold of 0.3; some labels, two of them against the model, and two undecided candidates."""
    n = recording.n_cells
    p = np.random.default_rng(seed).uniform(0.01, 0.99, n)
    accepted, origin = p > 0.3, np.full(n, "model", "<U5")
    labels = {}
    for i, value in ((0, "cell"), (1, "not_cell"), (2, "unsure")):
        if i < n:
            labels[i] = Label(CandidateId(recording.name, i), value, "ann")
            if value != "unsure":
                accepted[i], origin[i] = value == "cell", "label"
    accepted[3:5], origin[3:5] = False, "none"
    return Curation(recording.name, recording.fingerprint, recording.candidate_fingerprints, accepted, origin, p, 0.3, labels, 2)


def write(path, tmp, seed=0):
    """Stage `path` into `tmp` with decisions made up; returns them by recording name."""
    recordings = NWB.read(path)
    curations = [curate(recording, seed + i) for i, recording in enumerate(recordings)]
    plan = NWB.plan(recordings, curations)
    (edit,) = plan.edits
    assert edit.path == path
    edit.stage(tmp)
    return dict(zip([r.name for r in recordings], curations, strict=True)), plan


def contents(path):
    """Everything in a file: raw values, types and attributes by name."""
    found = {}

    def plain(value, file):
        if isinstance(value, h5py.Reference):
            return file[value].name
        return value.tolist() if isinstance(value, np.ndarray) else value.item() if isinstance(value, np.generic) else value

    with h5py.File(path) as file:

        def visit(name, obj):
            attributes = {key: repr(plain(value, file)) for key, value in obj.attrs.items()}
            colnames = attributes.pop("colnames", None)
            if name.startswith("specifications"):
                return
            value = obj[()] if isinstance(obj, h5py.Dataset) else None
            raw = value.tobytes() if isinstance(value, np.ndarray) and not value.dtype.hasobject else repr(plain(value, file))
            found[name] = (attributes, (str(obj.dtype), obj.shape, raw) if isinstance(obj, h5py.Dataset) else None)
            if colnames is not None:
                found[f"{name}@colnames"] = colnames

        file.visititems(visit)
    return found


def changed(before, after):
    a, b = contents(before), contents(after)
    return {name for name in a.keys() | b.keys() if a.get(name) != b.get(name)}


PLACE = "processing/ophys/ImageSegmentation/PlaneSegmentation"


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("suite2p_like", {"iscell"}),
        ("caiman_like", {"accepted", "rejected"}),
        ("cnmf_2p_4gui", {"accepted", "rejected"}),
        ("neuroconv_old_like", {"Accepted", "Rejected"}),
        ("neuroconv_new_like", {"is_accepted"}),
        ("neuroconv_061_caiman_1p", {"Accepted", "Rejected"}),
    ],
)
def test_the_writers_own_columns_and_ours_and_nothing_else(tmp_path, name, columns):
    path = Path(shutil.copyfile(DATA / f"{name}.nwb", tmp_path / "a.nwb"))
    original = path.read_bytes()
    curation = write(path, tmp_path / "b.nwb")[0]["a"]
    assert path.read_bytes() == original
    assert changed(path, tmp_path / "b.nwb") == {f"{PLACE}/{c}" for c in columns | OWN} | {f"{PLACE}@colnames"}
    with h5py.File(path) as before, h5py.File(tmp_path / "b.nwb") as after:
        old, new = before[PLACE], after[PLACE]
        assert list(new.attrs["colnames"]) == [*old.attrs["colnames"], "curation_label", "curation_prob"]
        for column in columns:
            assert (old[column].dtype, old[column].shape) == (new[column].dtype, new[column].shape)
        label, prob = new["curation_label"][()], new["curation_prob"][()]
        assert label.dtype == np.int8
        n = curation.n_cells
        assert label[:4].tolist() == [1, -1, 0, 0]
        assert not label[4:].any()
        assert prob[:2].tolist() == [1, 0]
        assert np.isnan(prob[3:5]).all()
        np.testing.assert_array_equal(np.nan_to_num(prob[:n]) > 0.5, curation.accepted)
        if len(prob) > n:  # CaImAn's background components
            assert np.isnan(prob[n:]).all()
            assert not new["accepted"][n:].any()
            assert not new["rejected"][n:].any()
    back = NWB.read(tmp_path / "b.nwb")[0]
    np.testing.assert_array_equal(back.prior.verdict > 0, curation.accepted)
    if "rejected" in {c.lower() for c in columns}:
        assert back.prior.verdict[3:5].tolist() == [0, 0]  # undecided stay undecided
    assert back.candidate_fingerprints == curation.candidate_fingerprints


def test_writing_again_changes_values_only(tmp_path):
    path = Path(shutil.copyfile(DATA / "caiman_like.nwb", tmp_path / "a.nwb"))
    write(path, tmp_path / "b.nwb")
    write(tmp_path / "b.nwb", tmp_path / "c.nwb", seed=7)
    write(tmp_path / "c.nwb", tmp_path / "d.nwb", seed=7)
    assert (tmp_path / "c.nwb").stat().st_size == (tmp_path / "b.nwb").stat().st_size
    assert (tmp_path / "d.nwb").read_bytes() == (tmp_path / "c.nwb").read_bytes()
    write(path, tmp_path / "e.nwb")
    assert not changed(tmp_path / "b.nwb", tmp_path / "e.nwb")  # the same input, the same file


def test_several_planes_in_one_table(tmp_path):
    path = Path(shutil.copyfile(TWO_PLANES, tmp_path / "ophys.nwb"))
    curations, _ = write(path, tmp_path / "b.nwb")
    both = np.concatenate([curations["plane0"].accepted, curations["plane1"].accepted])
    with h5py.File(tmp_path / "b.nwb") as file:
        iscell = file[PLACE]["iscell"][()]
        np.testing.assert_array_equal(iscell[:, 0], both)
        np.testing.assert_array_equal(iscell[:, 1] > 0.5, both)  # what Suite2p would decide from the probabilities
        assert file[PLACE]["curation_label"][()][[0, 1, 41, 42]].tolist() == [1, -1, 1, -1]
    assert changed(path, tmp_path / "b.nwb") == {f"{PLACE}/{c}" for c in {"iscell"} | OWN} | {f"{PLACE}@colnames"}


def test_several_tables(tmp_path):
    made = build(tmp_path / "a.nwb", n_cells=6, table="A")
    build(made.path, n_cells=7, table="B", append=True, flags={"is_accepted": np.ones(7, bool)})
    curations, _ = write(made.path, tmp_path / "b.nwb")
    for recording in NWB.read(tmp_path / "b.nwb"):
        np.testing.assert_array_equal(recording.prior.verdict > 0, curations[recording.name].accepted)
    with h5py.File(tmp_path / "b.nwb") as file:
        names = {t: set(file[f"processing/ophys/ImageSegmentation/{t}"].attrs["colnames"]) for t in "AB"}
    assert names == {"A": {"image_mask", "accepted", "rejected"} | OWN, "B": {"image_mask", "is_accepted"} | OWN}


@pytest.mark.parametrize("dtype", ["?", "i1", "u1", "i8", "f4", "f8"])
@pytest.mark.parametrize("names", [("accepted", "rejected"), ("ACCEPTED",), ("keep",), ("is_accepted",), ("valid",)])
def test_flags_of_any_type_and_case(tmp_path, dtype, names):
    made = build(tmp_path / "a.nwb", n_cells=6, flags={name: np.zeros(6, dtype) for name in names})
    curation = write(made.path, tmp_path / "b.nwb")[0]["a"]
    with h5py.File(tmp_path / "b.nwb") as file:
        assert file[PLACE][names[0]].dtype == np.dtype(dtype)
        assert {"accepted", "rejected"} <= {c.lower() for c in file[PLACE].attrs["colnames"]} or "ccepted" not in names[0].lower()[:8]
    np.testing.assert_array_equal(read(tmp_path / "b.nwb").prior.verdict > 0, curation.accepted)


def test_somebody_elses_columns_of_our_names(tmp_path):
    flags = {"curation_label": [b"a"] * 6, "curation_prob": np.arange(6)}
    made = build(tmp_path / "a.nwb", n_cells=6, flags=flags)
    curation = write(made.path, tmp_path / "b.nwb")[0]["a"]
    with h5py.File(tmp_path / "b.nwb") as file:
        assert file[PLACE]["curation_label"].dtype == np.int8
        assert list(file[PLACE].attrs["colnames"]).count("curation_label") == 1
    np.testing.assert_array_equal(read(tmp_path / "b.nwb").prior.verdict > 0, curation.accepted)


def test_columns_that_lead_out_of_the_file_are_refused(tmp_path):
    made = build(tmp_path / "a.nwb", n_cells=6)
    with h5py.File(made.path, "r+") as file:
        file[PLACE]["curation_label"] = h5py.ExternalLink("other.nwb", "/x")
    with pytest.raises(ActsortError):
        write(made.path, tmp_path / "b.nwb")


def test_what_the_person_is_told(tmp_path):
    path = Path(shutil.copyfile(DATA / "cnmf_2p_4gui.nwb", tmp_path / "a.nwb"))
    (tmp_path / "a.hdf5").touch()
    plan = write(path, tmp_path / "b.nwb")[1]
    assert "accepted, rejected, curation_label and curation_prob" in plan.edits[0].what
    assert any("keep" in note and "accepted_list" in note for note in plan.notes)
    assert any("2 undecided" in note for note in plan.notes)
    assert plan.stale[0][0] == tmp_path / "a.hdf5"
    folder = Path(shutil.copytree(TWO_PLANES.parent, tmp_path / "suite2p"))
    plan = write(folder / "ophys.nwb", tmp_path / "c.nwb")[1]
    assert [p.parent.name for p, _ in plan.stale] == ["plane0", "plane1"]


def test_a_file_that_changed(tmp_path):
    path = Path(shutil.copyfile(DATA / "suite2p_like.nwb", tmp_path / "a.nwb"))
    recording = read(path)
    plan = NWB.plan([recording], [curate(recording)])
    build(path, n_cells=3)
    with pytest.raises(ChangedError):
        plan.edits[0].stage(tmp_path / "b.nwb")
    with pytest.raises(ChangedError):
        NWB.plan([recording], [curate(read(path))])
    with pytest.raises(UsageError):
        NWB.plan([recording], [])


def test_an_edit_that_touches_anything_else_is_refused(tmp_path, monkeypatch):
    path = Path(shutil.copyfile(DATA / "suite2p_like.nwb", tmp_path / "a.nwb"))
    recording = read(path)
    plan = NWB.plan([recording], [curate(recording)])

    def clumsy(source, destination):
        Path(destination).write_bytes(Path(source).read_bytes())
        with h5py.File(destination, "r+") as file:
            file["processing/ophys/Fluorescence/plane0/data"][0, 0] += 1

    monkeypatch.setattr("actsort_adapters._hdf5_host.shutil.copyfile", clumsy)
    with pytest.raises(WriteError, match="Fluorescence/plane0/data"):
        plan.edits[0].stage(tmp_path / "b.nwb")


# New files


@pytest.mark.slow
def test_conformance():
    check_format(NWB, damaged=4)


def test_created_from_caiman(tmp_path):
    (old,) = CaimanFormat().read(TESTS / "data" / "caiman" / "cnmf_2p_4gui.hdf5")
    assert isinstance(NWB, CreatingFormat)
    assert NWB.losses([old], [None]) == ()
    assert NWB.create([old], [curate(old)], tmp_path / "no suffix") == (tmp_path / "no suffix",)
    new = read(tmp_path / "no suffix")
    assert (new.fov, new.fps, new.trace_kind) == (old.fov, old.fps, "C+YrA")
    assert new.candidate_fingerprints == old.candidate_fingerprints
    for field in ("traces", "denoised", "spikes"):
        np.testing.assert_array_equal(getattr(new, field)[0:38], getattr(old, field)[0:38])
    for field in ("metrics", "images"):
        assert getattr(new, field).keys() == getattr(old, field).keys()
        for key, values in getattr(old, field).items():
            np.testing.assert_array_equal(getattr(new, field)[key], values)
    np.testing.assert_array_equal(new.prior.verdict > 0, curate(old).accepted)
    assert new.prior.verdict[3:5].tolist() == [0, 0]
    with pytest.raises(UsageError):
        NWB.create([old], [None], tmp_path / "no suffix")


def test_created_without_a_curation_the_host_stands(tmp_path):
    (old,) = NWB.read(DATA / "suite2p_like.nwb")
    NWB.create([old], [None], tmp_path / "a")
    new = read(tmp_path / "a")
    np.testing.assert_array_equal(new.prior.verdict, old.prior.verdict)
    np.testing.assert_array_equal(new.prior.probability, old.prior.probability)


def test_several_recordings_keep_their_order_and_names(tmp_path):
    names = ["zebra", "a b/c", "a_b_c", "background", "plane10", "neuropil", "../x"]
    recordings = [replace(make_recording(3, seed=i), name=name) for i, name in enumerate(names)]
    NWB.create(recordings, [None] * len(names), tmp_path / "a.nwb")
    back = NWB.read(tmp_path / "a.nwb")
    assert [r.candidate_fingerprints for r in back] == [r.candidate_fingerprints for r in recordings]
    assert [back[i].name for i in (0, 1, 4)] == ["zebra", "a_b_c", "plane10"]
    assert all(r.trace_kind == old.trace_kind for r, old in zip(back, recordings, strict=True))
    for r, old in zip(back, recordings, strict=True):
        np.testing.assert_array_equal(r.traces[0:3], old.traces[0:3])
        assert r.images.keys() == old.images.keys()


def test_metrics_with_names_that_are_taken(tmp_path):
    recording = make_recording(3)
    metrics = {name: np.arange(3) + i for i, name in enumerate(["id", "accepted", "pixel_mask", "a/b", "x", "x_index", "Id"])}
    metrics = {key: values.astype(float) for key, values in metrics.items()}
    NWB.create([replace(recording, metrics=metrics)], [None], tmp_path / "a.nwb")
    back = read(tmp_path / "a.nwb")
    assert sorted(values[0] for values in back.metrics.values()) == list(range(7))
    assert back.candidate_fingerprints == recording.candidate_fingerprints


def test_volumes_lose_their_images(tmp_path):
    recording = make_recording(4, fov=(9, 14, 5))
    (sentence,) = NWB.losses([recording], [None])
    assert "images" in sentence
    NWB.create([recording], [None], tmp_path / "a.nwb")
    back = read(tmp_path / "a.nwb")
    assert (back.fov, back.candidate_fingerprints) == (recording.fov, recording.candidate_fingerprints)


def test_wide_traces_are_copied_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(_nwb_create, "_BLOCK", 1000)
    recording = make_recording(75, n_frames=30)
    NWB.create([recording], [None], tmp_path / "a.nwb")
    back = read(tmp_path / "a.nwb")
    np.testing.assert_array_equal(back.traces[0:75], recording.traces[0:75])
    monkeypatch.setattr("actsort_adapters._nwb_traces._KEEP", 0)
    monkeypatch.setattr("actsort_adapters._nwb_traces._BLOCK", 5000)
    back = read(tmp_path / "a.nwb")
    np.testing.assert_array_equal(back.traces[10:70:7], np.asarray(recording.traces[0:75])[10:70:7])


def test_a_failure_leaves_nothing(tmp_path):
    class Broken:
        shape = (3, 5)

        def __getitem__(self, rows):
            raise OSError("the disk is gone")

    with pytest.raises(WriteError):
        NWB.create([replace(make_recording(3, n_frames=5), traces=Broken())], [None], tmp_path / "a.nwb")
    assert not list(tmp_path.iterdir())


# What pynwb says


@pytest.fixture
def pynwb():
    return pytest.importorskip("pynwb", reason="pynwb is not installed: pip install 'actsort[nwb]'")


def check_with(pynwb, path):
    """Validate and read a file; returns its tables and series."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            errors = pynwb.validate(path=str(path))
        except TypeError:  # pynwb before 3
            errors = pynwb.validate(paths=[str(path)])[0]
        errors = errors[0] if isinstance(errors, tuple) else errors
        assert not errors
        with pynwb.NWBHDF5IO(str(path), "r", load_namespaces=True) as io:
            ophys = io.read().processing["ophys"]
            tables = {name: table.to_dataframe() for name, table in ophys["ImageSegmentation"].plane_segmentations.items()}
            series = {s.name: (s.data[()], s.rate, s.rois.table.name) for s in ophys["Fluorescence"].roi_response_series.values()}
    return tables, series


@pytest.mark.parametrize("n_cells", [0, 1, 5])
@pytest.mark.parametrize("fov", [(9, 14), (9, 14, 5)])
def test_pynwb_reads_new_files(pynwb, tmp_path, n_cells, fov):
    recording = make_recording(n_cells, fov=fov)
    recording = replace(recording, spikes=recording.traces)
    curation = curate(recording)
    NWB.create([recording], [curation], tmp_path / "a.nwb")
    tables, series = check_with(pynwb, tmp_path / "a.nwb")
    table = tables["PlaneSegmentation"]
    assert len(table) == n_cells
    np.testing.assert_array_equal(series["PlaneSegmentation"][0].T, recording.traces[0:n_cells])
    assert series["PlaneSegmentation"][1:] == (recording.fps, "PlaneSegmentation")
    if n_cells:
        assert table["accepted"].tolist() == curation.accepted.tolist()
        mask = table["voxel_mask" if len(fov) == 3 else "pixel_mask"].iloc[0]
        picture = np.zeros(fov, np.float32)
        for x, y, *rest in mask:
            picture[(y, x, *rest[:-1])] = rest[-1]
        np.testing.assert_array_equal(picture, recording.footprints[:, 0].toarray().reshape(fov))


def test_pynwb_reads_several_recordings(pynwb, tmp_path):
    recordings = [replace(make_recording(3, seed=i), name=name) for i, name in enumerate(["a b", "plane1"])]
    NWB.create(recordings, [None, None], tmp_path / "a.nwb")
    tables, series = check_with(pynwb, tmp_path / "a.nwb")
    assert set(tables) == set(series) == {"a_b", "plane1"}


@pytest.mark.parametrize("path", [*sorted(DATA.glob("*.nwb")), TWO_PLANES], ids=lambda p: p.stem)
def test_pynwb_reads_written_files(pynwb, tmp_path, path):
    with h5py.File(path) as file:
        schema = tuple(int(part) for part in str(file.attrs["nwb_version"]).split(".")[:2])
    if schema > (2, 8) and int(pynwb.__version__.split(".")[0]) < 4:
        pytest.skip(f"pynwb {pynwb.__version__} cannot read files of schema {schema}")
    path = Path(shutil.copyfile(path, tmp_path / "a.nwb"))
    write(path, tmp_path / "b.nwb")
    tables, _ = check_with(pynwb, tmp_path / "b.nwb")
    for table in tables.values():
        assert set(table.columns) >= OWN
