"""Minian: folders of zarr stores and netCDF files read, written, created, and what happens with broken ones.

tests/data/minian/results.zip: what real xarray and zarr wrote (README.md there). Everything else is made here by hand, with zlib, so
that it needs no numcodecs.
"""

from __future__ import annotations

import bz2
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tracemalloc
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import actsort_core as actsort
from actsort_adapters import _zarr2, caiman, minian, suite2p
from actsort_adapters.minian import MinianFormat
from actsort_core import store, writeback
from actsort_core.errors import ActsortError, ChangedError, FormatError, MissingDependencyError, UsageError
from actsort_core.formats import CreatingFormat, ExportingFormat, find_format, read_with
from actsort_core.journal import Journal
from actsort_core.store import keyed
from actsort_core.testing import check_format, make_curation, make_recording

ARCHIVE = Path(__file__).parent / "data" / "minian" / "results.zip"
MINIAN = MinianFormat()
with_numcodecs = pytest.mark.skipif(importlib.util.find_spec("numcodecs") is None, reason="Blosc needs numcodecs (the extra minian)")
with_xarray = pytest.mark.skipif(
    importlib.util.find_spec("xarray") is None or importlib.util.find_spec("zarr") is None, reason="needs xarray and zarr"
)


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("minian")
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture
def real(unpacked, tmp_path):
    shutil.copytree(unpacked, tmp_path / "day1")
    return tmp_path / "day1"


TRUTH = json.loads(zipfile.ZipFile(ARCHIVE).read("truth.json"))


def read(path):
    (recording,) = MINIAN.read(Path(path))
    return recording


# Stores by hand


def put(store_, name, values, dims, chunks=None, attrs=None, compressor=None, fill=None, separator=".", order="C", meta=None):
    """One array of zarr format 2, chunk by chunk, with nothing of the code under test."""
    values = np.asarray(values)
    chunks = chunks or tuple(max(1, n) for n in values.shape)
    place = store_ / name
    place.mkdir(parents=True)
    (store_ / ".zgroup").write_text('{"zarr_format": 2}')
    document = {"zarr_format": 2, "shape": list(values.shape), "chunks": list(chunks), "dtype": values.dtype.str, "compressor": compressor}
    document |= {"fill_value": fill, "filters": None, "order": order} | ({"dimension_separator": separator} if separator != "." else {})
    (place / ".zarray").write_text(json.dumps(document | (meta or {})))
    (place / ".zattrs").write_text(json.dumps({"_ARRAY_DIMENSIONS": list(dims), **(attrs or {})}))
    for index in np.ndindex(*(-(-n // c) for n, c in zip(values.shape, chunks, strict=True))):
        chunk = np.zeros(chunks, values.dtype)
        part = values[tuple(slice(i * c, (i + 1) * c) for i, c in zip(index, chunks, strict=True))]
        chunk[tuple(slice(0, n) for n in part.shape)] = part
        raw = chunk.tobytes(order=order)
        pack = {None: bytes, "zlib": zlib.compress, "bz2": bz2.compress}[compressor and compressor["id"]]
        path = place / (separator.join(map(str, index)) or "0")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pack(raw))


def consolidate(store_):
    metadata = {p.relative_to(store_).as_posix(): json.loads(p.read_text()) for p in sorted(store_.rglob(".z*")) if p.name != ".zmetadata"}
    (store_ / ".zmetadata").write_text(json.dumps({"zarr_consolidated_format": 1, "metadata": metadata}))


def values(n=5, fov=(6, 7), n_frames=11, seed=0):
    rng = np.random.default_rng(seed)
    return rng.random((n, *fov)) * (rng.random((n, *fov)) > 0.6), rng.normal(size=(n, n_frames))


def make(folder, units=(3, 4, 6, 7, 20), labels=None, consolidated=True, names=("A", "C", "S", "c0", "b0"), seed=0, **options):
    """A Minian folder; `labels` by unit."""
    units = np.array(units, np.int64)
    a, c = values(len(units), seed=seed)
    for name in names:
        store_ = folder / f"{name}.zarr"
        attrs = {"coordinates": "animal" + (" unit_labels" if labels is not None else "")}
        if name == "A":
            put(store_, "A", a, ("unit_id", "height", "width"), (1, 6, 7), attrs, **options)
            put(store_, "height", np.arange(6), ("height",))
            put(store_, "width", np.arange(7), ("width",))
        else:
            put(store_, name, c + (name == "YrA"), ("unit_id", "frame"), (1, 11), attrs, **options)
            put(store_, "frame", np.arange(11), ("frame",))
        put(store_, "unit_id", units, ("unit_id",))
        put(store_, "animal", np.array("Ratte", "<U5"), ())
        if labels is not None:
            put(store_, "unit_labels", np.array([labels.get(int(u), int(u)) for u in units]), ("unit_id",), (2,))
        if consolidated:
            consolidate(store_)
    return folder


def labels_in(store_):
    """unit_labels by unit, read with nothing of the code under test."""

    def whole(name):
        meta = json.loads((store_ / name / ".zarray").read_text())
        assert meta["compressor"] is None
        n, step = meta["shape"][0], meta["chunks"][0]
        parts = [np.frombuffer((store_ / name / str(i)).read_bytes(), meta["dtype"]) for i in range(-(-n // step))]
        return np.concatenate(parts)[:n]

    return dict(zip(whole("unit_id").tolist(), whole("unit_labels").tolist(), strict=True))


def write(path, accepted, session, update_exports=False):
    """The real write-back."""
    (source,) = keyed([(path, "minian", MINIAN.read(path))])
    ((key, recording),) = source.recordings.items()
    session.mkdir(exist_ok=True)
    with Journal(session) as journal:
        curation = make_curation(recording, key, np.asarray(accepted, bool))
        return writeback.write_back([source], {"minian": MINIAN}, {key: curation}, session, journal, update_exports=update_exports)


def tree(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# Reading


@with_numcodecs
def test_real_folder(real):
    recording = read(real / "minian")
    expected = np.where(np.array(TRUTH["unit_labels"]) < 0, -1, 1)
    assert (recording.fov, recording.n_cells, recording.n_frames) == ((60, 72), 40, 900)
    assert recording.info["unit_id"] == TRUTH["unit_id"]
    np.testing.assert_array_equal(recording.prior.verdict, expected)
    assert np.isnan(recording.prior.probability).all()
    assert set(recording.images) == {"max_proj", "background"}
    assert recording.info["merged"] == [[36, 37]]
    assert (recording.info["animal"], recording.info["session"]) == ("mouse12", "session1")
    assert recording.fps is None
    assert recording.trace_kind == "YrA"  # in the intermediate folder beside it
    assert any("intermediate" in note for note in recording.notes)


@with_numcodecs
def test_the_netcdf_file_holds_the_same(real):
    folder, file = read(real / "minian"), read(real / "minian_dataset.nc")
    assert folder.candidate_fingerprints == file.candidate_fingerprints
    np.testing.assert_array_equal(folder.prior.verdict, file.prior.verdict)
    for name in ("traces", "denoised", "spikes"):
        np.testing.assert_array_equal(getattr(folder, name)[0:40], getattr(file, name)[0:40])
    np.testing.assert_array_equal(folder.images["max_proj"], file.images["max_proj"])
    assert file.info["animal"] == "mouse12"


@with_numcodecs
def test_orientation_and_scale_by_the_known_truth(real):
    from scipy.io import loadmat

    out = loadmat(Path(__file__).parent / "data" / "cnmfe" / "cnmfe_out_flat_v6.mat")
    a = out["A"].toarray() if hasattr(out["A"], "toarray") else out["A"]
    masks = a.reshape(60, 72, -1, order="F").transpose(2, 0, 1)
    scale = masks.max(axis=(1, 2))  # each footprint has a maximum of 1 here, and the traces what is left
    recording = read(real / "minian")
    found = recording.footprints.T.toarray().reshape(-1, 60, 72)
    np.testing.assert_allclose(found, masks / scale[:, None, None], rtol=1e-5, atol=1e-7)
    # YrA is Minian's raw trace: C and what C leaves, not what C leaves alone (compute_trace in minian/cnmf.py)
    for values_, name in ((recording.traces, "C_raw"), (recording.denoised, "C")):
        np.testing.assert_allclose(values_[0:40], out[name] * scale[:, None], rtol=1e-4, atol=1e-3)


@with_numcodecs
def test_the_folder_above_and_nothing_else(real):
    assert read(real).path == real / "minian"
    formats = {f.name: f for f in (MINIAN, suite2p.Suite2pFormat(), caiman.CaimanFormat())}
    for path in (real, real / "minian", real / "minian_dataset.nc"):
        assert find_format(path, formats).name == "minian"
    for path, word in ((real / "minian" / "A.zarr", "above"), (real / "intermediate", "A and C"), (real / "truth.json", "HDF5")):
        answer = MINIAN.sniff(path)
        assert not answer.yes
        assert word in answer.why
        with pytest.raises(FormatError):
            MINIAN.read(path)


def test_yra_elsewhere_only_if_it_is_about_the_same_units(tmp_path):
    folder = make(tmp_path / "rec" / "minian")
    make(tmp_path / "rec" / "minian_intermediate", names=("YrA",))
    assert read(folder).trace_kind == "YrA"
    shutil.rmtree(tmp_path / "rec" / "minian_intermediate")
    make(tmp_path / "minian_intermediate", names=("YrA",), seed=1)  # the notebook's folder, with the next recording's YrA in it
    recording = read(folder)
    assert recording.trace_kind == "C"
    assert "another run" in recording.notes[0]


def test_yra_in_the_folder_is_the_trace(tmp_path):
    recording = read(make(tmp_path / "m", names=("A", "C", "S", "YrA")))
    _, c = values(5)
    np.testing.assert_array_equal(recording.traces[0:5], (c + 1).astype(np.float32))
    np.testing.assert_array_equal(recording.denoised[0:5], c.astype(np.float32))


def test_units_are_aligned_by_their_number(tmp_path):
    folder = make(tmp_path / "m", names=("A",))
    _, c = values(7)
    order = [20, 99, 3, 7, 6, 98, 4]
    put(folder / "C.zarr", "C", c, ("unit_id", "frame"), (2, 4))
    put(folder / "C.zarr", "unit_id", np.array(order), ("unit_id",))
    put(folder / "C.zarr", "unit_labels", np.array([20, -1, -1, 7, 6, 98, 4]), ("unit_id",))
    recording = read(folder)
    for i, unit in enumerate((3, 4, 6, 7, 20)):
        np.testing.assert_array_equal(recording.traces[i : i + 1][0], c[order.index(unit)].astype(np.float32))
    np.testing.assert_array_equal(recording.prior.verdict, [-1, 1, 1, 1, 1])
    write(folder, [True, False, True, True, False], tmp_path / "s")
    assert labels_in(folder / "C.zarr") == {20: -1, 99: -1, 3: 3, 7: 7, 6: 6, 98: 98, 4: -1}
    assert labels_in(folder / "A.zarr") == {3: 3, 4: -1, 6: 6, 7: 7, 20: -1}


def test_units_without_a_trace_are_left_out_and_said_so(tmp_path):
    folder = make(tmp_path / "m", names=("A",))
    _, c = values(3)
    put(folder / "C.zarr", "C", c, ("unit_id", "frame"))
    put(folder / "C.zarr", "unit_id", np.array([7, 20, 4]), ("unit_id",))
    recording = read(folder)
    assert recording.info["unit_id"] == [4, 7, 20]
    assert "2 units of A" in recording.notes[0]
    np.testing.assert_array_equal(recording.traces[0:3], c[[2, 0, 1]].astype(np.float32))


@pytest.mark.parametrize("n", [0, 1, 2])
def test_any_number_of_units(tmp_path, n):
    folder = make(tmp_path / "m", units=range(5, 5 + n))
    assert read(folder).n_cells == n
    write(folder, np.ones(n), tmp_path / "s")
    assert (read(folder).prior.verdict == 1).all()


@pytest.mark.parametrize(
    "options",
    [
        {"compressor": {"id": "zlib", "level": 1}},
        {"compressor": {"id": "bz2", "level": 9}},
        {"separator": "/"},
        {"order": "F"},
        {"consolidated": False},
    ],
)
def test_storage_makes_no_difference(tmp_path, options):
    expected = read(make(tmp_path / "plain"))
    found = read(make(tmp_path / "other", **options))
    assert found.candidate_fingerprints == expected.candidate_fingerprints
    np.testing.assert_array_equal(found.traces[1:4], expected.traces[1:4])


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<i2", "|u1"])
def test_types_and_transposed_axes(tmp_path, dtype):
    folder = tmp_path / "m"
    a, c = (np.round(100 * np.abs(x)).astype(dtype) for x in values(4))
    put(folder / "A.zarr", "A", a.transpose(1, 2, 0), ("height", "width", "unit_id"), (6, 7, 1))
    put(folder / "A.zarr", "unit_id", np.array([1.0, 2, 3, 9]), ("unit_id",))
    put(folder / "C.zarr", "C", c.T[None], ("session", "frame", "unit_id"), (1, 4, 3))
    put(folder / "C.zarr", "unit_id", np.array([1, 2, 3, 9], ">i4"), ("unit_id",))
    recording = read(folder)
    np.testing.assert_array_equal(recording.footprints.T.toarray().reshape(4, 6, 7), a.astype(np.float32))
    np.testing.assert_array_equal(recording.traces[0:4], c.astype(np.float32))


def test_scaled_values_missing_chunks_and_nan(tmp_path):
    folder = make(tmp_path / "m", names=("A",), fill="NaN")
    (folder / "A.zarr" / "A" / "1.0.0").unlink()
    _, c = values(5)
    put(folder / "C.zarr", "C", (c * 100).astype("<i2"), ("unit_id", "frame"), attrs={"scale_factor": 0.01, "add_offset": 3})
    put(folder / "C.zarr", "unit_id", np.array([3, 4, 6, 7, 20]), ("unit_id",))
    recording = read(folder)
    assert recording.footprints[:, 1].nnz == 0
    assert "1 units have an empty footprint." in recording.notes
    np.testing.assert_allclose(recording.traces[0:5], c + 3, atol=0.011)


def test_one_store_with_everything(tmp_path):
    a, c = values(3)
    path = tmp_path / "all.zarr"
    put(path, "A", a, ("unit_id", "height", "width"))
    put(path, "C", c, ("unit_id", "frame"))
    put(path, "unit_id", np.array([1, 5, 9]), ("unit_id",))
    consolidate(path)
    assert read(path).n_cells == 3
    report = write(path, [True, False, True], tmp_path / "s")
    assert labels_in(path) == {1: 1, 5: -1, 9: 9}
    metadata = json.loads((path / ".zmetadata").read_text())["metadata"]
    assert metadata["A/.zattrs"]["coordinates"] == metadata["C/.zattrs"]["coordinates"] == "unit_labels"
    assert len(report.written) == 6


def test_labels_that_are_missing_or_differ(tmp_path):
    folder = make(tmp_path / "m", labels={})
    place = folder / "A.zarr" / "unit_labels"
    shutil.rmtree(place)
    put(folder / "A.zarr", "unit_labels", np.array([3, np.nan, -1, 7, 20]), ("unit_id",))  # saved as null
    recording = read(folder)
    np.testing.assert_array_equal(recording.prior.verdict, [1, 0, -1, 1, 1])
    assert any("missing for 1" in note for note in recording.notes)
    assert any("differ in C, S, c0, b0" in note for note in recording.notes)
    write(folder, [True, True, False, False, True], tmp_path / "s")
    for name in ("A", "C", "S", "c0", "b0"):
        assert labels_in(folder / f"{name}.zarr") == {3: 3, 4: 4, 6: -1, 7: -1, 20: 20}
    assert not [note for note in read(folder).notes if "unit_labels" in note]


# Writing


def test_merges_are_kept(tmp_path):
    folder = make(tmp_path / "m", labels={3: 4, 7: 6, 20: -1})
    assert read(folder).info["merged"] == [[3, 4], [6, 7]]
    write(folder, [True, True, False, True, True], tmp_path / "s")
    assert labels_in(folder / "A.zarr") == {3: 4, 4: 4, 6: -1, 7: 6, 20: 20}  # 7 keeps its name; 20 gets its own number again
    report = write(folder, [True, True, True, True, True], tmp_path / "s")
    assert labels_in(folder / "S.zarr") == {3: 4, 4: 4, 6: 6, 7: 6, 20: 20}
    assert any("Unit 6 is accepted again and joins 7" in note for note in report.notes)


def test_only_what_must_change_changes(tmp_path):
    folder = make(tmp_path / "m", labels={})
    before = tree(folder)
    report = write(folder, [True, True, True, True, False], tmp_path / "s")
    changed = {path for path, content in tree(folder).items() if before.get(path) != content}
    assert changed == {f"{name}.zarr/unit_labels/2" for name in ("A", "C", "S", "c0", "b0")}  # unit 20 is alone in its chunk
    assert len(report.written) == 5
    assert not write(folder, [True, True, True, True, False], tmp_path / "s").written  # nothing left to do
    with Journal(tmp_path / "s") as journal:
        writeback.restore(tmp_path / "s", journal)
    assert tree(folder) == before


@pytest.mark.parametrize("consolidated", [True, False])
def test_labels_are_added_where_there_are_none(tmp_path, consolidated):
    folder = make(tmp_path / "m", names=("A", "C", "S", "c0", "b0", "YrA"), consolidated=consolidated)
    put(folder / "max_proj.zarr", "max_proj", np.ones((6, 7)), ("height", "width"))
    before, folders = tree(folder), sorted(p for p in folder.rglob("*") if p.is_dir())
    write(folder, [True, False, True, True, False], tmp_path / "s")
    after = tree(folder)
    for name in ("A", "C", "S", "c0", "b0", "YrA"):
        assert labels_in(folder / f"{name}.zarr") == {3: 3, 4: -1, 6: 6, 7: 7, 20: -1}
        attrs = json.loads(after[f"{name}.zarr/{name}/.zattrs"])
        assert attrs.pop("coordinates") == "animal unit_labels"
        assert attrs == {k: v for k, v in json.loads(before[f"{name}.zarr/{name}/.zattrs"]).items() if k != "coordinates"}
        assert (f"{name}.zarr/.zmetadata" in after) == consolidated
        if consolidated:
            metadata = json.loads(after[f"{name}.zarr/.zmetadata"])["metadata"]
            assert metadata["unit_labels/.zarray"] == json.loads(after[f"{name}.zarr/unit_labels/.zarray"])
            assert metadata["unit_labels/.zarray"]["fill_value"] is None  # 0 would make xarray take unit 0 for missing
            assert metadata[f"{name}/.zattrs"]["coordinates"] == "animal unit_labels"
    untouched = {p for p in before if not p.endswith((".zattrs", ".zmetadata"))} | {"max_proj.zarr/max_proj/.zattrs"}
    assert all(before[p] == after[p] for p in untouched)
    with Journal(tmp_path / "s") as journal:
        writeback.restore(tmp_path / "s", journal)
    assert tree(folder) == before
    assert sorted(p for p in folder.rglob("*") if p.is_dir()) == folders


def test_a_kill_after_any_file_leaves_stores_that_can_be_read(tmp_path):
    accepted = [True, False, True, True, False]
    for labels in (None, {4: 4, 6: -1}):
        source = make(tmp_path / f"m{labels is None}", labels=labels, names=("A", "C"))
        before = read(source)
        plan = MINIAN.plan([before], [make_curation(before, "r", np.array(accepted))])
        for stop in range(len(plan.edits) + 1):
            folder = tmp_path / f"k{labels is None}{stop}"
            shutil.copytree(source, folder)
            for edit in plan.edits[:stop]:
                path = folder / edit.path.relative_to(source)
                path.parent.mkdir(exist_ok=True)
                edit.stage(path)
            found = read(folder)
            assert found.candidate_fingerprints == before.candidate_fingerprints
            for store_ in sorted(folder.glob("*.zarr")):  # consolidated readers never see what is not there
                for name, described in json.loads((store_ / ".zmetadata").read_text())["metadata"].items():
                    assert (store_ / name).is_file()
                    if name.endswith(".zattrs") and "unit_labels" in described.get("coordinates", ""):
                        assert (store_ / "unit_labels" / ".zarray").is_file()
            write(folder, accepted, tmp_path / f"s{folder.name}")
            assert (read(folder).prior.verdict > 0).tolist() == accepted


def test_a_failed_write_leaves_nothing_behind(tmp_path, monkeypatch):
    folder = make(tmp_path / "m")
    before, folders = tree(folder), sorted(p for p in folder.rglob("*") if p.is_dir())
    commits = []

    def failing(tmp, path):
        commits.append(path)
        if len(commits) == 8:
            raise OSError(28, "No space left on device")
        os.replace(tmp, path)

    monkeypatch.setattr(writeback, "commit", failing)
    with pytest.raises(ActsortError):
        write(folder, [True, False, True, True, False], tmp_path / "s")
    assert len(commits) == 8
    assert tree(folder) == before
    assert sorted(p for p in folder.rglob("*") if p.is_dir()) == folders


def test_labels_of_a_type_that_cannot_hold_them(tmp_path):
    folder = make(tmp_path / "m")
    put(folder / "C.zarr", "unit_labels", np.array([3, 4, 6, 7, 20], "u1"), ("unit_id",))
    before = tree(folder)
    with pytest.raises(FormatError, match="uint8"):
        write(folder, [True, False, True, True, True], tmp_path / "s")
    assert tree(folder) == before


def test_another_result_in_its_place_is_refused(tmp_path):
    folder = make(tmp_path / "m")
    recording = read(folder)
    curation = make_curation(recording, "r", np.ones(5, bool))
    shutil.rmtree(folder)
    make(folder, units=(1, 2, 3, 4, 5))
    with pytest.raises(ChangedError):
        MINIAN.plan([recording], [curation])
    with pytest.raises(UsageError):
        MINIAN.plan([recording, recording], [curation, curation])


@with_numcodecs
def test_real_folder_written_and_the_export_reported_stale(real, tmp_path):
    before = tree(real)
    accepted = np.array(TRUTH["truth"], bool)
    report = write(real / "minian", accepted, tmp_path / "s")
    assert [path.name for path, _ in report.stale] == ["minian_dataset.nc"]
    changed = {p for p, content in tree(real).items() if before.get(p) != content}
    assert all("/unit_labels/" in p and not p.endswith(("y", "s")) for p in changed)
    assert {p.split("/")[1] for p in changed} == {"A.zarr", "C.zarr", "S.zarr", "b0.zarr", "c0.zarr"}
    assert str(report).count("unit_labels, the first of them") == 5  # not a line for each of the chunks
    recording = read(real / "minian")
    np.testing.assert_array_equal(recording.prior.verdict > 0, accepted)
    report = write(real / "minian", accepted, tmp_path / "s", update_exports=True)
    assert [path.name for path in report.written] == ["minian_dataset.nc"]
    assert not report.stale
    np.testing.assert_array_equal(read(real / "minian_dataset.nc").prior.verdict > 0, accepted)
    with Journal(tmp_path / "s") as journal:
        writeback.restore(tmp_path / "s", journal)
    assert tree(real) == before


def test_an_export_of_other_footprints_is_not_written_to(tmp_path):
    folder = make(tmp_path / "day" / "minian")
    netcdf(tmp_path / "day" / "minian.nc", seed=1)
    before = (tmp_path / "day" / "minian.nc").read_bytes()
    report = write(folder, [True, False, True, True, True], tmp_path / "s", update_exports=True)
    assert [path.name for path, _ in report.stale] == ["minian.nc"]
    assert (tmp_path / "day" / "minian.nc").read_bytes() == before


# netCDF


def netcdf(path, units=(3, 4, 6, 7, 20), labels=None, seed=0, fixed=True, **options):
    a, c = values(len(units), seed=seed)
    text = np.bytes_ if fixed else str
    with h5py.File(path, "w") as file:
        for name, coordinate in (
            ("unit_id", np.array(units, np.int64)),
            ("frame", np.arange(11)),
            ("height", np.arange(6)),
            ("width", np.arange(7)),
        ):
            file[name] = coordinate
            file[name].make_scale(name)
        for name, data, dims in (("A", a, ("unit_id", "height", "width")), ("C", c, ("unit_id", "frame")), ("S", c, ("unit_id", "frame"))):
            file.create_dataset(name, data=data, **options)
            for axis, dim in enumerate(dims):
                file[name].dims[axis].attach_scale(file[dim])
            file[name].attrs["coordinates"] = text("animal" + (" unit_labels" if labels is not None else ""))
        file["animal"] = "Ratte"
        if labels is not None:
            file["unit_labels"] = np.array([labels.get(u, u) for u in units])
            file["unit_labels"].dims[0].attach_scale(file["unit_id"])
    return path


@pytest.mark.parametrize("labels", [None, {4: -1, 7: 6}])
@pytest.mark.parametrize("options", [{}, {"chunks": True, "compression": "gzip"}, {"fixed": False}])
def test_netcdf(tmp_path, labels, options):
    path = netcdf(tmp_path / "minian.nc", labels=labels, **options)
    recording = read(path)
    assert recording.candidate_fingerprints == read(make(tmp_path / "m", labels=labels)).candidate_fingerprints
    assert recording.prior.counts()["undecided"] == (5 if labels is None else 0)
    before = path.read_bytes()
    write(path, [True, True, False, True, False], tmp_path / "s")
    with h5py.File(path) as file:
        assert file["unit_labels"][()].tolist() == [3, 4, -1, 6 if labels else 7, -1]
        assert file["unit_labels"].dims[0][0].name == "/unit_id"
        for name in ("A", "C", "S"):
            assert file[name].attrs["coordinates"] in (b"animal unit_labels", "animal unit_labels")
    with Journal(tmp_path / "s") as journal:
        writeback.restore(tmp_path / "s", journal)
    assert path.read_bytes() == before


def test_compressed_zeros_are_no_attack(tmp_path):
    path = netcdf(tmp_path / "big.nc")
    with h5py.File(path, "r+") as file:
        del file["A"]
        data = np.zeros((5, 6, 7))
        data[:, 2, 3] = 1
        big = np.zeros((5, 1500, 1500))  # 90 MB of nearly nothing: below 1:900 as deflate packs it
        big[:, :6, :7] = data
        del file["height"], file["width"]
        for name in ("height", "width"):
            file[name] = np.arange(1500)
            file[name].make_scale(name)
        file.create_dataset("A", data=big, chunks=(1, 1500, 1500), compression="gzip")
        for axis, dim in enumerate(("unit_id", "height", "width")):
            file["A"].dims[axis].attach_scale(file[dim])
    assert path.stat().st_size < 300_000
    assert read(path).footprints.nnz == 5


# Creating


def test_created_results_read_back(tmp_path):
    assert isinstance(MINIAN, CreatingFormat)
    assert isinstance(MINIAN, ExportingFormat)
    check_format(MinianFormat)


def test_created_result_holds_what_minian_expects(tmp_path):
    recording = make_recording(6)
    traces = np.asarray(recording.traces[0:6])
    recording = replace(
        recording, denoised=traces * np.float32(0.5), images={**recording.images, "A": next(iter(recording.images.values()))}
    )
    accepted = np.arange(6) != 2
    files = MINIAN.create([recording], [make_curation(recording, "r", accepted)], tmp_path / "out")
    assert set(files) == {p for p in (tmp_path / "out").rglob("*") if p.is_file()}
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert {"A.zarr", "C.zarr", "YrA.zarr", "image_A.zarr"} <= names
    for p in (tmp_path / "out").iterdir():  # open_minian takes the first variable of every folder
        metadata = json.loads((p / ".zmetadata").read_text())["metadata"]
        assert metadata[f"{p.name.removesuffix('.zarr')}/.zarray"]["zarr_format"] == 2
    back = read(tmp_path / "out")
    np.testing.assert_array_equal(back.traces[0:6], traces)
    np.testing.assert_array_equal(back.denoised[0:6], traces * np.float32(0.5))
    assert back.trace_kind == "YrA"
    assert back.fps == recording.fps


def test_what_minian_cannot_hold(tmp_path):
    recording = make_recording(4)
    said = " ".join(MINIAN.losses([recording], [None]))
    assert "statistics" in said
    for recordings in ([recording, make_recording(3)], [make_recording(4, fov=(5, 6, 7))]):
        for call in (MINIAN.losses, lambda r, c: MINIAN.create(r, c, tmp_path / "out")):
            with pytest.raises(FormatError):
                call(recordings, [None] * len(recordings))
    with pytest.raises(UsageError):
        MINIAN.create([recording], [None], tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_conformance_kit(tmp_path):
    check_format(MINIAN, make(tmp_path / "m", names=("A", "C")), damaged=8)
    check_format(MINIAN, make(tmp_path / "n", names=("A", "S", "C"), labels={4: 3, 7: -1}), damaged=8)
    check_format(MINIAN, netcdf(tmp_path / "m.nc"), damaged=8)
    check_format(MINIAN, netcdf(tmp_path / "n.nc", labels={4: 3, 7: -1}), damaged=8)


# Sessions


def test_the_session_is_beside_the_folder(tmp_path):
    """open_minian takes every folder in a result for a store: ours must not be one of them."""
    folder = make(tmp_path / "minian", labels={20: -1})
    with actsort.open(folder, plugins=[minian], refit_wait=0, prepare=False) as session:
        assert session.folder == tmp_path / "minian.actsort"
        session.label(session.candidates[0], "not_cell")
        session.write()
    assert sorted(p.name for p in folder.iterdir()) == ["A.zarr", "C.zarr", "S.zarr", "b0.zarr", "c0.zarr"]
    assert labels_in(folder / "A.zarr")[3] == -1
    assert store.find_folder(folder) == tmp_path / "minian.actsort"
    with actsort.open(folder, plugins=[minian], session=tmp_path / "other", refit_wait=0, prepare=False) as session:
        (prior,) = session.priors.values()
        assert prior.verdict.tolist() == [1, 1, 1, 1, -1]  # what the host said, not what we wrote


# Broken and hostile


def survives(path):
    """Read, or refused with a sentence."""
    MINIAN.sniff(path)
    try:
        recording = read_with(MINIAN, path)[0]
        np.asarray(recording.traces[0 : recording.n_cells])
        MINIAN.plan([recording], [make_curation(recording, "r", np.ones(recording.n_cells, bool))])
    except ActsortError as error:
        return str(error) or "nothing was said"
    return ""


def edited(path, **fields):
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | fields))


@pytest.mark.parametrize(
    ("name", "fields", "word"),
    [
        ("A", {"shape": [5, 60_000, 70_000]}, "claims"),
        ("A", {"shape": [10**40, 6, 7]}, "size"),
        ("A", {"shape": [5, -6, 7]}, "size"),
        ("A", {"chunks": [0, 6, 7]}, "format 2"),
        ("A", {"chunks": [5, 40_000, 40_000]}, "chunks of"),
        ("A", {"dtype": "|O"}, "numbers"),
        ("A", {"dtype": [["a", "<f8"]]}, "numbers"),
        ("A", {"dtype": "<q99"}, "cannot be read"),
        ("A", {"zarr_format": 3}, "format 2"),
        ("A", {"compressor": {"id": "pickle"}}, "pickle"),
        ("A", {"filters": [{"id": "pickle"}]}, "pickle"),
        ("A", {"compressor": {"id": "zlib"}}, "cannot be read"),
        ("A", {"dtype": "<f4"}, "bytes instead of"),
        ("A", {"dimension_separator": "/../../"}, "separates"),
        ("unit_id", {"shape": [6]}, "for 5 units"),
        ("unit_id", {"dtype": "<f8"}, "whole numbers"),
    ],
)
def test_lies_about_an_array(tmp_path, name, fields, word):
    folder = make(tmp_path / "m")
    edited(folder / "A.zarr" / name / ".zarray", **fields)
    tracemalloc.start()
    try:
        assert word in survives(folder)
        assert tracemalloc.get_traced_memory()[1] < 50 << 20
    finally:
        tracemalloc.stop()


def test_zlib_bombs_links_and_devices(tmp_path):
    folder = make(tmp_path / "m", compressor={"id": "zlib", "level": 1})
    chunk = folder / "A.zarr" / "A" / "0.0.0"
    good = chunk.read_bytes()
    chunk.write_bytes(zlib.compress(bytes(100 << 20)))
    tracemalloc.start()
    assert "0.0.0" in survives(folder)
    assert tracemalloc.get_traced_memory()[1] < 50 << 20
    tracemalloc.stop()
    chunk.unlink()
    chunk.symlink_to("/dev/zero")
    assert "no file of a zarr store" in survives(folder)
    chunk.unlink()
    if hasattr(os, "mkfifo"):
        os.mkfifo(chunk)
        assert "no file of a zarr store" in survives(folder)
        chunk.unlink()
    chunk.write_bytes(good)
    assert not survives(folder)


@pytest.mark.parametrize("content", ["", "[", "[]", "null", "[" * 100_000, '{"a": ' * 5000, "\x00", '{"shape": null}'])
def test_descriptions_that_are_none(tmp_path, content):
    for number, name in enumerate(("A/.zarray", "A/.zattrs", "unit_id/.zarray")):
        folder = make(tmp_path / f"m{number}")
        (folder / "A.zarr" / name).write_text(content)
        assert survives(folder)


def test_units_named_twice_or_not_at_all(tmp_path):
    folder = make(tmp_path / "a", units=(3, 3, 4, 5, 6))
    assert "different whole numbers" in survives(folder)
    folder = make(tmp_path / "b")
    shutil.rmtree(folder / "C.zarr" / "unit_id")
    assert "no coordinate unit_id" in survives(folder)
    folder = make(tmp_path / "c", names=("A",))
    make(folder, units=(90, 91), names=("C",))
    assert "no unit of A" in survives(folder)


def test_format_3_and_netcdf_3_are_named(tmp_path):
    for name in ("A", "C"):
        (tmp_path / "m" / f"{name}.zarr").mkdir(parents=True)
        (tmp_path / "m" / f"{name}.zarr" / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group"}')
    assert "format 3" in MINIAN.sniff(tmp_path / "m").why
    (tmp_path / "old.nc").write_bytes(b"CDF\x01" + bytes(100))
    assert "netCDF-3" in MINIAN.sniff(tmp_path / "old.nc").why


def test_netcdf_with_data_elsewhere(tmp_path):
    path = netcdf(tmp_path / "m.nc")
    (tmp_path / "secret").write_bytes(bytes(10_000))
    with h5py.File(path, "r+") as file:
        del file["C"]
        file.create_dataset("C", (5, 11), "<f8", external=[(str(tmp_path / "secret"), 0, 440)])
    assert "other files" in survives(path)
    with h5py.File(path, "r+") as file:
        del file["C"]
        file["C"] = h5py.ExternalLink("other.h5", "/C")
    assert "link out of the file" in survives(path)
    with h5py.File(path, "r+") as file:
        del file["C"]
        file.create_dataset("C", (5, 10**12), "<f8", chunks=(1, 1000))
    assert "claims" in survives(path)


def test_the_message_where_numcodecs_is_missing(tmp_path, monkeypatch):
    folder = make(tmp_path / "m")
    edited(folder / "A.zarr" / "A" / ".zarray", compressor={"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1, "blocksize": 0})
    monkeypatch.setitem(sys.modules, "numcodecs", None)
    with pytest.raises(MissingDependencyError, match=r"actsort\[minian\]"):
        MINIAN.read(folder)


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_damaged_bytes(tmp_path_factory, data):
    folder = make(tmp_path_factory.mktemp("h") / "m", labels={4: -1}, names=("A", "C"), compressor={"id": "zlib", "level": 1})
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    file = data.draw(st.sampled_from(files))
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(0, len(content) - 1)))
        content[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    file.write_bytes(bytes(content))
    survives(folder)
    shutil.rmtree(folder)


@with_numcodecs
def test_codecs_of_numcodecs(tmp_path):
    import numcodecs

    raw = np.arange(1000.0)
    for codec in (numcodecs.Blosc("zstd", 3, 2), numcodecs.Blosc("lz4", 5, 1), numcodecs.Zstd(3), numcodecs.LZ4()):
        place = tmp_path / "x"
        put(tmp_path, "x", raw, ("a",), (1000,))
        edited(place / ".zarray", compressor=codec.get_config())
        (place / "0").write_bytes(codec.encode(raw))
        found = _zarr2.array(place)
        np.testing.assert_array_equal(found.read(), raw)
        assert found.encode(raw) == bytes(codec.encode(raw))
        content = bytearray((place / "0").read_bytes())
        content[4:8] = (2**31 - 1).to_bytes(4, "little")  # how many bytes Blosc is to allocate
        (place / "0").write_bytes(bytes(content))
        if codec.codec_id == "blosc":
            with pytest.raises(FormatError, match="claims"):
                found.read()
        shutil.rmtree(place)


# The real libraries, where they are installed


@with_xarray
def test_xarray_sees_the_labels(tmp_path):
    import xarray as xr

    folder = make(tmp_path / "m")
    write(folder, [True, False, True, True, False], tmp_path / "s")
    for name in ("A", "C", "S", "c0", "b0"):
        for consolidated in (True, False):
            data = next(iter(xr.open_zarr(folder / f"{name}.zarr", consolidated=consolidated).values()))
            assert data.name == name
            assert dict(zip(data.unit_id.values.tolist(), data.unit_labels.values.tolist(), strict=True)) == {
                3: 3,
                4: -1,
                6: 6,
                7: 7,
                20: -1,
            }


def test_importing_it_is_light():
    code = "import sys, actsort_adapters.minian; print([m for m in ('h5py', 'numcodecs', 'zarr', 'xarray', 'sklearn') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
