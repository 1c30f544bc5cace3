"""CaImAn HDF5: read, plan, stage, and what happens with broken files (creating is in test_caiman_create.py).

tests/data/caiman: written by the real CaImAn 1.12.1 from simulated movies (60 x 70 pixels; 24 x 28 x 10; `patches` 48 x 75; `init_only`
20 x 26 x 8), `oldformat` by the save functions of its tag v1.9.8. The golden counts are those CaImAn itself printed.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actsort_adapters import _hdf5
from actsort_adapters.caiman import CaimanFormat, read_dff
from actsort_core.errors import ActsortError, ChangedError, FormatError, MissingFileError, WriteError
from actsort_core.formats import find_format, read_with
from actsort_core.model import Curation

DATA = Path(__file__).parent / "data" / "caiman"
CAIMAN = CaimanFormat()
FOUR = ("idx_components", "idx_components_bad", "accepted_list", "rejected_list")
RESULTS = sorted(path.name for path in DATA.glob("*.hdf5"))


def read(path):
    (recording,) = CAIMAN.read(Path(path))
    return recording


def curate(recording, accepted, origin=None):
    n = recording.n_cells
    origin = np.full(n, "model") if origin is None else np.asarray(origin)
    prints = recording.candidate_fingerprints
    return Curation("r", recording.fingerprint, prints, np.asarray(accepted, bool), origin, np.full(n, np.nan), 0.5, {})


def write(path, n_cells=3, fov=(4, 5), n_frames=6, **fields):
    """A small CaImAn-like file; `fields` replace or (None) remove entries of /estimates; ``"NoneType"`` is CaImAn's None."""
    rng = np.random.default_rng(0)
    footprints = rng.random((int(np.prod(fov)), n_cells)) * (rng.random((int(np.prod(fov)), n_cells)) > 0.5)
    rows = [np.flatnonzero(column) for column in footprints.T]
    entries = {
        "A/data": np.concatenate([[], *(c[r] for c, r in zip(footprints.T, rows, strict=True))]),
        "A/indices": np.concatenate([np.empty(0, np.int32), *rows]).astype(np.int32),
        "A/indptr": np.cumsum([0, *map(len, rows)]).astype(np.int32),
        "A/shape": np.array(footprints.shape),
        "C": rng.random((n_cells, n_frames)),
        "YrA": rng.random((n_cells, n_frames)),
        "dims": np.array(fov),
    } | fields
    with h5py.File(path, "w") as file:
        file["dims"] = np.array(fov)
        for key, value in entries.items():
            if value is not None:
                file[f"estimates/{key}"] = value
    return path, footprints


def stage(recording, curation, tmp):
    plan = CAIMAN.plan([recording], [curation])
    (edit,) = plan.edits
    assert edit.path == recording.path
    edit.stage(tmp)
    return plan


def contents(path):
    """Everything in a file except the four fields: raw values, types and attributes by name."""
    found = {}

    def visit(name, obj):
        attributes = {key: np.asarray(value).tolist() for key, value in obj.attrs.items()}
        if isinstance(obj, h5py.Dataset):
            value = obj[()]
            found[name] = (str(obj.dtype), obj.shape, value if isinstance(value, bytes) else value.tobytes(), attributes)
        else:
            found[name] = attributes

    with h5py.File(path) as file:
        found["/"] = dict(file.attrs)
        file.visititems(visit)
    return {name: value for name, value in found.items() if name not in {f"estimates/{field}" for field in FOUR}}


# Real files


@pytest.mark.parametrize(
    ("name", "fov", "shape", "counts", "mode"),
    [
        ("cnmf_2p_2evaluated", (60, 70), (38, 700), (28, 10, 0), "CNMF"),
        ("cnmf_2p_3selected", (60, 70), (28, 700), (0, 0, 28), "CNMF"),
        ("cnmf_2p_4gui", (60, 70), (38, 700), (28, 10, 0), "CNMF"),
        ("oldformat_v1.9.8_2p", (60, 70), (38, 700), (28, 10, 0), "CNMF"),
        ("cnmfe_1p_evaluated", (60, 70), (50, 700), (28, 22, 0), "CNMF-E"),
        ("cnmf_3d_evaluated", (24, 28, 10), (16, 300), (11, 5, 0), "CNMF 3-D"),
        ("onacid_2p", (38, 46), (17, 450), (15, 2, 0), "OnACID"),
    ],
)
def test_golden(name, fov, shape, counts, mode):
    path = DATA / f"{name}.hdf5"
    assert CAIMAN.sniff(path).yes
    assert find_format(path, {"caiman": CAIMAN}) is CAIMAN
    recording = read(path)
    assert (recording.name, recording.format, recording.path) == (name, "caiman", path)
    assert recording.fov == fov
    assert (recording.n_cells, recording.n_frames) == shape
    assert tuple(recording.prior.counts().values()) == counts
    assert np.isnan(recording.prior.probability).all()
    assert recording.info["mode"] == mode
    assert recording.info["caiman_version"] == "1.12.1"
    assert recording.fps == 10.0
    assert recording.trace_kind == "C+YrA"
    assert recording.movie_path is None  # the file names a movie of another machine
    with h5py.File(path) as file:
        estimates = file["estimates"]
        np.testing.assert_array_equal(recording.traces[:], (estimates["C"][:].astype(float) + estimates["YrA"][:]).astype("f4"))
        np.testing.assert_array_equal(recording.denoised[:], estimates["C"][:].astype("f4"))
        np.testing.assert_array_equal(recording.spikes[:], estimates["S"][:].astype("f4"))
        assert list(recording.metrics) == ["SNR_comp", "r_values"]
        for key, values in recording.metrics.items():
            np.testing.assert_array_equal(values, estimates[key][:])
        if "Cn" in estimates:
            np.testing.assert_array_equal(recording.images["Cn"], estimates["Cn"][:].astype("f4"))
        dff = read_dff(path)
        assert recording.info["has_dff"] == (dff is not None) == (estimates["F_dff"].shape == shape)
    assert recording.images["background"].shape == fov


@pytest.mark.parametrize(
    ("name", "fov", "shape", "counts", "metrics", "discarded", "fails"),
    [
        ("cnmf_3d_init_only", (20, 26, 8), (9, 260), (8, 1, 0), ["SNR_comp", "r_values"], 0, "set cnm.estimates.g = None"),
        ("cnmf_patches_one", (48, 75), (1, 500), (0, 0, 1), ["SNR_comp", "r_values"], 1, ""),
        ("cnmf_patches_none", (48, 75), (0, 500), (0, 0, 0), ["SNR_comp", "r_values", "cnn_preds"], 14, "save_discarded_components=False"),
        ("cnmf_patches_thresholded", (48, 75), (13, 500), (13, 0, 0), ["SNR_comp", "r_values", "ecc"], 1, "set cnm.estimates.A_thr = None"),
        ("onacid_2p", (38, 46), (17, 450), (15, 2, 0), ["SNR_comp", "r_values"], 0, "save_discarded_components=False"),
        ("cnmf_2p_3selected", (60, 70), (28, 700), (0, 0, 28), ["SNR_comp", "r_values"], 10, ""),
        ("cnmfe_1p_evaluated", (60, 70), (50, 700), (28, 22, 0), ["SNR_comp", "r_values"], 0, ""),
    ],
)
def test_other_stages_and_where_caiman_itself_cannot_select(name, fov, shape, counts, metrics, discarded, fails):
    """`fails`: what makes select_components of the real CaImAn 1.12.1 work on the file again (run on each of them)."""
    recording = read(DATA / f"{name}.hdf5")
    assert (recording.fov, (recording.n_cells, recording.n_frames)) == (fov, shape)
    assert tuple(recording.prior.counts().values()) == counts
    assert list(recording.metrics) == metrics
    assert recording.info["n_discarded"] == discarded
    said = [note for note in recording.notes if "select_components fails" in note]
    assert len(said) == bool(fails)
    assert fails in "".join(said)


def test_discarded_components_are_told():
    recording = read(DATA / "cnmf_2p_3selected.hdf5")
    assert recording.info["n_discarded"] == 10
    assert any("10 candidates were set aside" in note for note in recording.notes)


@pytest.mark.parametrize(
    ("result", "truth", "at_least"),
    [("cnmf_2p_2evaluated", "sim_2p_truth", 24), ("cnmfe_1p_evaluated", "sim_1p_truth", 25), ("cnmf_3d_evaluated", "sim_3d_truth", 10)],
)
def test_footprints_lie_where_the_simulated_neurons_are(result, truth, at_least):
    recording = read(DATA / f"{result}.hdf5")
    with h5py.File(DATA / f"{truth}.h5") as file:
        true = file["A"][:].reshape(file["A"].shape[0], -1)  # C order of (d1, d2[, d3])
    found = recording.footprints.toarray().T
    cosine = (true / np.linalg.norm(true, axis=1)[:, None]) @ (found / np.linalg.norm(found, axis=1)[:, None]).T
    assert (cosine.max(axis=1) > 0.5).sum() >= at_least
    with h5py.File(DATA / f"{result}.hdf5") as file:  # the order CaImAn stores does not fit: the test can fail
        stored = np.zeros_like(found)
        bounds, rows, data = (file[f"estimates/A/{key}"][:] for key in ("indptr", "indices", "data"))
        for k in range(len(stored)):
            stored[k, rows[bounds[k] : bounds[k + 1]]] = data[bounds[k] : bounds[k + 1]]
    wrong = (true / np.linalg.norm(true, axis=1)[:, None]) @ (stored / np.linalg.norm(stored, axis=1)[:, None]).T
    assert (wrong.max(axis=1) > 0.5).sum() == 0


def test_background_has_the_orientation_of_the_movie():
    recording = read(DATA / "cnmf_2p_2evaluated.hdf5")
    background, correlations = recording.images["background"], recording.images["Cn"]
    right = np.corrcoef(background.ravel(), correlations.ravel())[0, 1]
    wrong = np.corrcoef(background.ravel(order="F").reshape(60, 70).ravel(), correlations.ravel())[0, 1]
    assert right > 0.3 > wrong


def test_gui_labels_overlay_the_thresholds():
    verdict = read(DATA / "cnmf_2p_4gui.hdf5").prior.verdict
    accepted = [*range(26), 29, 32]  # 26 passed the thresholds, a person rejected it
    np.testing.assert_array_equal(np.flatnonzero(verdict == 1), accepted)
    np.testing.assert_array_equal(np.flatnonzero(verdict == -1), np.setdiff1d(np.arange(38), accepted))


# Semantics of the prior


@pytest.mark.parametrize(
    ("fields", "verdict", "said"),
    [
        ({}, [0, 0, 0, 0, 0], "not evaluated"),
        ({"idx_components": "NoneType", "idx_components_bad": b"NoneType"}, [0, 0, 0, 0, 0], "not evaluated"),
        ({"idx_components": np.array([4, 0]), "idx_components_bad": np.array([1])}, [1, -1, 0, 0, 1], ""),
        ({"idx_components": np.array([0, 1]), "idx_components_bad": np.array([1, 2])}, [1, 0, -1, 0, 0], "in both"),
        ({"idx_components": np.array([0, 1]), "rejected_list": np.array([1])}, [1, -1, 0, 0, 0], ""),
        ({"idx_components": np.array([0]), "accepted_list": np.array([1]), "rejected_list": np.array([0])}, [-1, 1, 0, 0, 0], ""),
        ({"idx_components": np.array([0]), "accepted_list": np.empty(0), "rejected_list": np.empty(0)}, [1, 0, 0, 0, 0], ""),
        ({"accepted_list": np.array([0, 2]), "rejected_list": np.array([2, 3])}, [1, 0, 0, -1, 0], "in both"),
        ({"idx_components": np.array([True, False, False, False, True])}, [1, 0, 0, 0, 1], "mask"),
        ({"idx_components": np.array([1, 0, 0, 0, 1], np.uint8)}, [1, 0, 0, 0, 1], "mask"),
        ({"idx_components": np.array([0.0, 3.0])}, [1, 0, 0, 1, 0], "float64"),
        ({"idx_components": np.array([[0], [3]])}, [1, 0, 0, 1, 0], "flat list"),
        ({"idx_components": np.int64(3)}, [0, 0, 0, 1, 0], "flat list"),
        ({"idx_components": np.array([3, 3, 0], np.uint16)}, [1, 0, 0, 1, 0], "more than once"),
        ({"idx_components": np.array([1, 5]), "idx_components_bad": np.array([2, 3, 4])}, [0] * 5, "outside 0 to 4"),
        ({"idx_components": np.array([-1, 2])}, [0] * 5, "outside 0 to 4"),
        ({"idx_components": np.array([1]), "accepted_list": np.array([7])}, [0, 1, 0, 0, 0], "outside 0 to 4"),
    ],
)
def test_prior(tmp_path, fields, verdict, said):
    recording = read(write(tmp_path / "a.hdf5", n_cells=5, **fields)[0])
    np.testing.assert_array_equal(recording.prior.verdict, verdict)
    assert said in " ".join(recording.notes)
    if not said:
        assert not recording.notes


def test_what_a_person_said_is_kept_apart(tmp_path):
    fields = {"idx_components": np.array([0, 1]), "idx_components_bad": np.array([2]), "rejected_list": np.array([1])}
    recording = read(write(tmp_path / "a.hdf5", **fields)[0])
    np.testing.assert_array_equal(recording.prior.verdict, [1, -1, -1])
    np.testing.assert_array_equal(recording.prior.person, [0, -1, 0])
    np.testing.assert_array_equal(read(DATA / "cnmf_2p_2evaluated.hdf5").prior.person, np.zeros(38))
    said = read(DATA / "cnmf_2p_4gui.hdf5").prior.person
    assert ((said == 1).sum(), np.flatnonzero(said == -1).tolist()) == (28, [26, 30])


def test_stale_gui_lists_after_select_components_are_ignored(tmp_path):
    path = shutil.copy(DATA / "cnmf_2p_3selected.hdf5", tmp_path)
    with h5py.File(path, "r+") as file:
        file["estimates/accepted_list"] = np.arange(5)
    recording = read(path)
    assert not recording.prior.verdict.any()
    assert any("older than select_components" in note for note in recording.notes)


def test_a_list_kept_as_attribute_counts_unless_a_dataset_has_its_name(tmp_path):
    path, _ = write(tmp_path / "a.hdf5", rejected_list=np.array([1]))
    with h5py.File(path, "r+") as file:
        file["estimates"].attrs["accepted_list"] = [0]
        file["estimates"].attrs["rejected_list"] = [2]
    np.testing.assert_array_equal(read(path).prior.verdict, [1, -1, 0])


@pytest.mark.parametrize("bad", [np.array([0.5, 1]), np.array([np.nan]), np.array([np.inf]), np.array([b"1"]), np.array([True, False])])
def test_lists_without_clear_meaning_are_refused(tmp_path, bad):
    path, _ = write(tmp_path / "a.hdf5", idx_components=bad)
    with pytest.raises(FormatError, match="idx_components"):
        read(path)


# Contents


@pytest.mark.parametrize("n_cells", [0, 1, 2, 3])
@pytest.mark.parametrize("fov", [(4, 5), (3, 4, 2)])
def test_few_candidates_and_pixel_order(tmp_path, n_cells, fov):
    path, stored = write(tmp_path / "a.hdf5", n_cells=n_cells, fov=fov)
    recording = read(path)
    assert (recording.n_cells, recording.fov) == (n_cells, fov)
    assert recording.traces[:].shape == (n_cells, 6)
    for k in range(n_cells):
        image = recording.footprints[:, k].toarray().reshape(fov)
        np.testing.assert_array_equal(image, stored[:, k].reshape(fov, order="F").astype("f4"))
    stage(recording, curate(recording, np.ones(n_cells)), tmp_path / "b.hdf5")
    assert read(tmp_path / "b.hdf5").prior.counts()["accepted"] == n_cells


@pytest.mark.parametrize("residual", ["NoneType", None, np.zeros((2, 6)), np.array([b"x"] * 3)])
def test_without_residuals_the_traces_are_the_denoised_ones(tmp_path, residual):
    recording = read(write(tmp_path / "a.hdf5", YrA=residual)[0])
    assert recording.trace_kind == "C"
    np.testing.assert_array_equal(recording.traces[:], recording.denoised[:])
    assert any("without their noise" in note for note in recording.notes)


def test_missing_optional_parts(tmp_path):
    path, _ = write(tmp_path / "a.hdf5", dims="NoneType", S="NoneType", cnn_preds=np.empty(0), ecc=np.ones(2), Cn=np.ones((5, 4)))
    recording = read(path)
    assert recording.fov == (4, 5)  # from /dims
    with h5py.File(path, "r+") as file:
        file["params/data/dims"] = file["dims"][()]
        del file["dims"]
    assert read(path).fov == (4, 5)
    assert recording.spikes is None
    assert recording.fps is None
    assert not recording.metrics
    assert not recording.images  # a transposed image is not shown
    assert any("ecc" in note for note in recording.notes)
    assert read_dff(path) is None


def test_values_that_are_not_finite(tmp_path):
    traces = np.ones((3, 6))
    traces[1, 2], traces[2, 0] = np.nan, np.inf
    path, _ = write(tmp_path / "a.hdf5", C=traces, SNR_comp=np.array([np.inf, np.nan, 1.0]))
    with h5py.File(path, "r+") as file:
        file["estimates/A/data"][0] = np.nan
        n_weights = len(file["estimates/A/data"])
    recording = read(path)
    np.testing.assert_array_equal(recording.metrics["SNR_comp"], [np.inf, np.nan, 1])
    assert np.isnan(recording.traces[1:2][0, 2])
    assert recording.footprints.nnz == n_weights - 1
    assert any("traces of 2 candidates" in note for note in recording.notes)
    assert any("1 weights of the footprints" in note for note in recording.notes)


def test_all_metrics_and_rate(tmp_path):
    names = ("SNR_comp", "r_values", "cnn_preds", "ecc")
    path, _ = write(tmp_path / "a.hdf5", **{key: np.arange(3, dtype="f4") + i for i, key in enumerate(names)})
    with h5py.File(path, "r+") as file:
        file["params/data/fr"] = 30
    recording = read(path)
    assert tuple(recording.metrics) == names
    assert recording.metrics["ecc"].dtype == np.float64
    assert recording.metrics["ecc"].tolist() == [3, 4, 5]
    assert recording.fps == 30.0


@pytest.mark.parametrize("as_dataset", [False, True])
def test_movie_beside_a_moved_result_is_found(tmp_path, as_dataset):
    path, _ = write(tmp_path / "a.hdf5")
    with h5py.File(path, "r+") as file:
        if as_dataset:
            file["mmap_file"] = "C:\\data\\m_d1_4_d2_5.mmap"
        else:
            file.attrs["mmap_file"] = "/nowhere/m_d1_4_d2_5.mmap"
    assert read(path).movie_path is None
    (tmp_path / "m_d1_4_d2_5.mmap").touch()
    assert read(path).movie_path == tmp_path / "m_d1_4_d2_5.mmap"


@pytest.mark.parametrize("rows", [slice(None), slice(2, 5), slice(None, None, -2), slice(5, 2), slice(-3, None), slice(0, 99, 4)])
def test_rows_are_sliced_like_an_array(monkeypatch, rows):
    recording = read(DATA / "onacid_2p.hdf5")
    expected = recording.traces[:][rows]
    monkeypatch.setattr(_hdf5, "_BLOCK", 8 * 450 * 2)  # two rows at a time
    np.testing.assert_array_equal(recording.traces[rows], expected)


def test_traces_of_a_moved_or_changed_file(tmp_path):
    path, _ = write(tmp_path / "a.hdf5")
    recording = read(path)
    write(path, n_cells=2)
    with pytest.raises(ChangedError, match="no longer of shape"):
        recording.traces[:]
    path.unlink()
    with pytest.raises(MissingFileError, match="does not exist"):
        recording.traces[:]


# Writing


@pytest.mark.parametrize("name", RESULTS)
def test_stage_sets_four_fields_and_nothing_else(tmp_path, name):
    path = Path(shutil.copy(DATA / name, tmp_path))
    before, original = contents(path), path.read_bytes()
    recording = read(path)
    n = recording.n_cells
    accepted = np.arange(n) % 3 == 0
    origin = np.where(np.arange(n) % 5 == 1, "none", "label")
    accepted &= origin != "none"
    plan = stage(recording, curate(recording, accepted, origin), tmp_path / "new.hdf5")
    assert path.read_bytes() == original
    assert contents(tmp_path / "new.hdf5") == before
    with h5py.File(tmp_path / "new.hdf5") as file:
        fields = {key: file[f"estimates/{key}"][()] for key in FOUR}
    assert {found.dtype for found in fields.values()} == {np.dtype(np.int64)}
    assert fields["idx_components"].tolist() == np.flatnonzero(accepted).tolist() == fields["accepted_list"].tolist()
    assert fields["idx_components_bad"].tolist() == np.flatnonzero(~accepted).tolist()
    assert fields["rejected_list"].tolist() == np.flatnonzero(~accepted & (origin != "none")).tolist()
    undecided = int((origin == "none").sum())
    assert any(f"{undecided} undecided" in note for note in plan.notes) == bool(undecided)
    again = read(tmp_path / "new.hdf5")
    assert again.fingerprint == recording.fingerprint
    np.testing.assert_array_equal(again.prior.verdict == 1, accepted)


def test_repeated_edits_do_not_grow_the_file(tmp_path):
    path = Path(shutil.copy(DATA / "cnmf_3d_evaluated.hdf5", tmp_path))
    size, before = path.stat().st_size, contents(path)
    for turn in range(6):
        recording = read(path)
        stage(recording, curate(recording, np.arange(16) < turn), tmp_path / "tmp")
        shutil.copyfile(tmp_path / "tmp", path)
    assert read(path).prior.counts()["accepted"] == 5
    assert contents(path) == before
    assert path.stat().st_size < size + 8192


def test_all_rejected_and_the_notes(tmp_path):
    path = Path(shutil.copy(DATA / "cnmf_3d_evaluated.hdf5", tmp_path))
    (tmp_path / "cnmf_3d_evaluated.nwb").touch()
    recording = read(path)
    plan = stage(recording, curate(recording, np.zeros(16)), tmp_path / "new.hdf5")
    assert any("No candidate is accepted" in note for note in plan.notes)
    assert any("filter_components" in note for note in plan.notes)
    assert [stale for stale, _ in plan.stale] == [tmp_path / "cnmf_3d_evaluated.nwb"]
    assert "idx_components_bad" in plan.edits[0].what
    assert read(tmp_path / "new.hdf5").prior.counts() == {"accepted": 0, "rejected": 16, "undecided": 0}


def test_stage_refuses_a_file_with_another_number_of_components(tmp_path):
    path, _ = write(tmp_path / "a.hdf5")
    recording = read(path)
    plan = CAIMAN.plan([recording], [curate(recording, [1, 0, 1])])
    write(path, n_cells=2)
    with pytest.raises(ChangedError):
        plan.edits[0].stage(tmp_path / "tmp")
    with pytest.raises(ChangedError):
        CAIMAN.plan([read(path)], [curate(recording, [1, 0, 1])])


@pytest.mark.parametrize(
    ("kind", "broken"),
    [
        ("value", "/estimates/C"),
        ("chunk", "/estimates/Z"),
        ("text", "/estimates/W"),
        ("attribute", "/params/data"),
        ("extra", "/estimates"),
        ("link", "/soft"),
    ],
)
def test_stage_notices_any_other_change(tmp_path, monkeypatch, kind, broken):
    path, _ = write(tmp_path / "a.hdf5", W="NoneType")
    with h5py.File(path, "r+") as file:
        file.create_dataset("estimates/Z", data=np.zeros(1000), compression="gzip")
        file.create_group("params/data").attrs["caiman_version"] = "1.12.1"
        file["soft"] = h5py.SoftLink("/estimates")
    recording = read(path)
    copyfile = shutil.copyfile

    def careless(source, target):
        copyfile(source, target)
        with h5py.File(target, "r+") as file:
            if kind == "value":
                file["estimates/C"][2, 5] += 1
            elif kind == "chunk":
                file["estimates/Z"][7] = 1
            elif kind == "text":
                file["estimates/W"][()] = "something"
            elif kind == "attribute":
                file["params/data"].attrs["caiman_version"] = "1.12.2"
            elif kind == "extra":
                file["estimates/new"] = 1
            else:
                del file["soft"]
                file["soft"] = h5py.SoftLink("/params")

    plan = CAIMAN.plan([recording], [curate(recording, [1, 0, 0])])
    plan.edits[0].stage(tmp_path / "fine")  # without the change
    monkeypatch.setattr("actsort_adapters._hdf5_host.shutil.copyfile", careless)
    with pytest.raises(WriteError, match=rf"in {broken}\."):
        plan.edits[0].stage(tmp_path / "tmp")


def test_a_full_disk_is_a_write_error(tmp_path, monkeypatch):
    recording = read(write(tmp_path / "a.hdf5")[0])

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("actsort_adapters._hdf5_host.shutil.copyfile", full)
    with pytest.raises(WriteError, match="No space left"):
        stage(recording, curate(recording, [1, 0, 0]), tmp_path / "tmp")


def test_a_write_through_an_external_link_does_not_happen(tmp_path):
    path, _ = write(tmp_path / "a.hdf5")
    recording = read(path)
    shutil.copyfile(path, tmp_path / "victim.hdf5")
    victim = (tmp_path / "victim.hdf5").read_bytes()
    with h5py.File(path, "r+") as file:
        del file["estimates"]
        file["estimates"] = h5py.ExternalLink(str(tmp_path / "victim.hdf5"), "/estimates")
    with pytest.raises(ActsortError):
        stage(recording, curate(recording, [1, 0, 0]), tmp_path / "tmp")
    assert (tmp_path / "victim.hdf5").read_bytes() == victim


# Broken, foreign and hostile files


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"A/data": None}, "lacks one of"),
        ({"A/shape": np.array([21, 3])}, "20 pixels"),
        ({"A/shape": np.array([20, 4])}, "4 columns"),
        ({"A/shape": np.array([20, -1])}, "columns"),
        ({"A/indptr": np.array([0, 9, 3, 30])}, "does not rise"),
        ({"A/indptr": np.array([0, 1, 2, 2**40])}, "does not rise"),
        ({"A/indptr": np.array([0.0, 1, 2, 3])}, "not numbers|indptr"),
        ({"A/indices": np.array([99]), "A/data": np.ones(1), "A/indptr": np.array([0, 0, 0, 1])}, "outside"),
        ({"A/indices": np.array([-1]), "A/data": np.ones(1), "A/indptr": np.array([0, 0, 0, 1])}, "outside"),
        ({"A/data": np.ones(2)}, "indices but 2 values"),
        ({"A/data": np.array([b"x"])}, "A/data"),
        ({"C": "NoneType"}, "no traces"),
        ({"C": None}, "no traces"),
        ({"C": np.ones((2, 6))}, "for 3 footprints"),
        ({"C": np.ones((3, 0))}, "for 3 footprints"),
        ({"C": np.ones(3)}, "for 3 footprints"),
        ({"dims": np.array([4, 0])}, "not a field of view"),
        ({"dims": np.array([2**40, 2**40])}, "not a field of view"),
        ({"dims": np.array([4, np.nan])}, "not a field of view"),
        ({"dims": np.array([20])}, "not a field of view"),
    ],
)
def test_inconsistent_files_say_what_is_wrong(tmp_path, fields, match):
    with pytest.raises(FormatError, match=match):
        read(write(tmp_path / "a.hdf5", **fields)[0])


def test_missing_groups(tmp_path):
    path, _ = write(tmp_path / "a.hdf5")
    with h5py.File(path, "r+") as file:
        del file["estimates/A"]
        file["estimates/A"] = "NoneType"
    assert "before the fit" in CAIMAN.sniff(path).why
    with pytest.raises(FormatError, match=r"cnm\.fit"):
        read(path)
    with h5py.File(path, "w") as file:
        file["mov"] = 1
    assert not CAIMAN.sniff(path).yes
    assert "mov" in CAIMAN.sniff(path).why
    with pytest.raises(FormatError, match="no group /estimates"):
        read(path)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "empty"),
        (b"plain text, not HDF5", "not an HDF5"),
        (b"MATLAB 7.3 MAT-file".ljust(512) + _hdf5.SIGNATURE + bytes(100), "MATLAB v7.3"),
        (b"MATLAB 5.0 MAT-file", "MATLAB v5"),
        (b"PK\x03\x04xx", "zip"),
        (_hdf5.SIGNATURE + bytes(50), "cannot be opened"),
    ],
)
def test_foreign_files(tmp_path, content, why):
    path = tmp_path / "a.hdf5"
    path.write_bytes(content)
    sniff = CAIMAN.sniff(path)
    assert not sniff.yes
    assert why in sniff.why
    with pytest.raises(FormatError, match=r"a\.hdf5"):
        read(path)


def test_nwb_folder_and_missing(tmp_path):
    with h5py.File(tmp_path / "a.nwb", "w") as file:
        file.attrs["nwb_version"] = "2.7.0"
        file["estimates/A/data"] = 1
    assert CAIMAN.sniff(tmp_path / "a.nwb") == type(CAIMAN.sniff(tmp_path))(False, "an NWB file")
    assert "folder" in CAIMAN.sniff(tmp_path).why
    assert not CAIMAN.sniff(tmp_path / "nothing").yes
    with pytest.raises(MissingFileError):
        read(tmp_path / "nothing")


def test_h5py_is_not_loaded_for_files_that_are_not_hdf5(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    code = (
        "import sys; from pathlib import Path; from actsort_adapters.caiman import CaimanFormat, actsort_register_formats as r;"
        f"assert not CaimanFormat().sniff(Path({str(tmp_path / 'a.txt')!r})).yes; assert r()[0].name == 'caiman';"
        "assert 'h5py' not in sys.modules and 'caiman' not in sys.modules"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_a_locked_file_says_so(tmp_path):
    path, _ = write(tmp_path / "a.hdf5")
    code = f"import h5py, sys; f = h5py.File({str(path)!r}, 'r+'); print(flush=True); sys.stdin.read()"
    environment = {key: value for key, value in os.environ.items() if key != "HDF5_USE_FILE_LOCKING"}
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, env=environment) as writer:
        writer.stdout.readline()
        try:
            assert "open for writing" in CAIMAN.sniff(path).why
            with pytest.raises(FormatError, match="open for writing in another program"):
                read(path)
        finally:
            writer.stdin.close()
    assert CAIMAN.sniff(path).yes


def test_links_are_followed_inside_the_file_only(tmp_path):
    path, _ = write(tmp_path / "a.hdf5", C=None)
    write(tmp_path / "b.hdf5")
    with h5py.File(path, "r+") as file:
        file["estimates/C"] = h5py.SoftLink("YrA")
    np.testing.assert_array_equal(read(path).denoised[:] * 2, read(path).traces[:])
    for link, match in (
        (h5py.ExternalLink("b.hdf5", "/estimates/C"), "out of the file"),
        (h5py.SoftLink("C"), "does not end"),
        (h5py.SoftLink("/away/C"), "out of the file"),
        (h5py.SoftLink("/loop/loop/estimates/YrA"), ""),
    ):
        with h5py.File(path, "r+") as file:
            for name in ("estimates/C", "away", "loop"):
                if file.get(name, getlink=True):
                    del file[name]
            file["estimates/C"] = link
            file["away"] = h5py.ExternalLink("b.hdf5", "/estimates")
            file["loop"] = file["/"]  # a hard link that makes a cycle
        if match:
            with pytest.raises(FormatError, match=match):
                read(path)
        else:
            recording = read(path)
            stage(recording, curate(recording, [1, 0, 0]), tmp_path / "new.hdf5")


def test_sizes_the_file_cannot_hold_are_refused_at_once(tmp_path):
    path, _ = write(tmp_path / "a.hdf5", C=None)
    for options in ({}, {"chunks": (1, 1 << 20), "compression": "gzip"}, {"chunks": (1, (1 << 29) - 1), "compression": "gzip"}):
        with h5py.File(path, "r+") as file:
            file.pop("estimates/C", None)
            file.create_dataset("estimates/C", (3, 1 << 40), np.float32, **options)
        start = time.perf_counter()
        with pytest.raises(FormatError, match="claims"):
            read(path)
        assert time.perf_counter() - start < 1


def test_data_kept_in_other_files_are_refused(tmp_path):
    path, _ = write(tmp_path / "a.hdf5", C=None, YrA=None)
    (tmp_path / "raw").write_bytes(bytes(3 * 6 * 8))
    layout = h5py.VirtualLayout((3, 6), "f8")
    layout[:] = h5py.VirtualSource(str(write(tmp_path / "b.hdf5")[0]), "estimates/C", (3, 6))
    with h5py.File(path, "r+") as file:
        file.create_dataset("estimates/C", (3, 6), "f8", external=str(tmp_path / "raw"))
        file.create_virtual_dataset("estimates/YrA", layout)
    with pytest.raises(FormatError, match="other files"):
        read(path)
    with h5py.File(path, "r+") as file:
        file["estimates/C2"] = np.ones((3, 6))
        file.move("estimates/C", "estimates/old")
        file.move("estimates/C2", "estimates/C")
    assert any("other files" in note for note in read(path).notes)  # YrA is optional


def test_strings_that_hang_libhdf5_are_noticed(tmp_path):
    content = bytearray((DATA / "cnmf_3d_evaluated.hdf5").read_bytes())
    heap = content.find(b"GCOL")
    content[heap + 24 : heap + 32] = b"\xf0" + b"\xff" * 7  # the first entry's size, so that the next one is where it is
    path = tmp_path / "a.hdf5"
    path.write_bytes(content)
    with pytest.raises(FormatError, match="strings"):
        read(path)
    assert CAIMAN.sniff(path).why


def test_attributes_that_claim_gigabytes_are_noticed(tmp_path):
    content = bytearray((DATA / "cnmf_3d_evaluated.hdf5").read_bytes())
    start = content.find(b"caiman_version\x00\x00\x19\x01")
    content[start + 16 + 24 + 8 : start + 16 + 24 + 12] = b"\xff\xff\xff\xff"
    path = tmp_path / "a.hdf5"
    path.write_bytes(content)
    with pytest.raises(FormatError, match="strings"):
        read(path)


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    return tmp_path_factory.mktemp("broken") / "a.hdf5"


def check_broken(path, content):
    path.write_bytes(content)
    start = time.perf_counter()
    CAIMAN.sniff(path)
    try:
        (recording,) = read_with(CAIMAN, path)
        rows = recording.traces[0:2]
        assert rows.shape == (min(2, recording.n_cells), recording.n_frames)
        assert recording.footprints.shape[0] == np.prod(recording.fov)
    except ActsortError as error:
        message = str(error)
    else:
        message = "a.hdf5"
    assert "a.hdf5" in message
    assert time.perf_counter() - start < 5


def test_truncations(broken):
    content = (DATA / "cnmf_3d_evaluated.hdf5").read_bytes()
    for size in (*range(0, 4096, 97), *np.linspace(4096, len(content) - 1, 40).astype(int)):
        broken.write_bytes(content[:size])
        assert not CAIMAN.sniff(broken).yes
        with pytest.raises(FormatError, match=r"a\.hdf5"):
            read(broken)


# libhdf5 2.0 can hang or crash on broken files (the guards in _hdf5.py answer the cases met so far): fixed examples, so that
# a case not met yet cannot stop an unrelated run.
@settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(["cnmf_3d_evaluated.hdf5", "oldformat_v1.9.8_2p.hdf5"]),
    st.integers(0, 2**32),
    st.lists(st.integers(0, 255), min_size=1, max_size=6),
)
def test_flipped_bytes_give_a_recording_or_a_clear_error(broken, name, seed, values):
    content = bytearray((DATA / name).read_bytes())
    where = random.Random(seed)
    for value in values:
        # mostly the structure, most of which is at the start
        content[where.randrange(40_000 if where.random() < 0.7 else len(content))] = value
    check_broken(broken, bytes(content))
