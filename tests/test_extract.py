"""EXTRACT: dense, ndSparse, older layouts and odd ones read; labels written where its own cell_check keeps them.

tests/data/extract: 45 components that the real EXTRACT 1.3.0 found under Octave in a simulated movie of 60 x 72 pixels; the same in
both files, spatial_weights as an ndSparse object in one, with labels as cell_check saves them in the other.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp
from click.testing import CliRunner
from matfiles import mixed, objects, save, write

import actsort_core
from actsort_adapters import _mat
from actsort_adapters._extract_read import METRICS
from actsort_adapters.actsort_matlab import ActsortMatlabFormat
from actsort_adapters.cnmfe import CnmfeFormat
from actsort_adapters.extract import ExtractFormat
from actsort_core.cli import main
from actsort_core.errors import ActsortError, ChangedError, FormatError, UsageError
from actsort_core.formats import read_with
from actsort_core.model import Prior
from actsort_core.testing import check_format, make_recording

DATA = Path(__file__).parent / "data" / "extract"
CELLCHECK, NDSPARSE = DATA / "extract_output_cellcheck_v73.mat", DATA / "extract_output_ndsparse_v73.mat"
EXTRACT = ExtractFormat()
OCTAVE = shutil.which("octave-cli")
TRUTH = json.loads((DATA / "truth.json").read_text())


def read(path):
    (recording,) = EXTRACT.read(Path(path))
    return recording


def small(n_cells=3, fov=(4, 5), n_frames=6, **fields):
    """What a small output holds; `fields` replace or (None) remove."""
    rng = np.random.default_rng(0)
    weights = (rng.random((*fov, n_cells)) * (rng.random((*fov, n_cells)) > 0.5)).astype(np.float32)
    output = {
        "spatial_weights": weights,
        "temporal_weights": rng.random((n_frames, n_cells)).astype(np.float32),
        "info": {"version": "1.3.0", "summary_image": rng.random(fov)},
        "config": {"avg_cell_radius": np.full((1, 1), 5.0)},
    } | fields
    return {key: value for key, value in output.items() if value is not None}


@pytest.fixture
def copy(tmp_path):
    return lambda path: Path(shutil.copyfile(path, tmp_path / path.name))


# Reading


@pytest.mark.parametrize("path", [CELLCHECK, NDSPARSE], ids=["dense", "ndSparse"])
def test_the_real_files(path):
    assert EXTRACT.sniff(path).yes
    recording = read(path)
    with h5py.File(CELLCHECK) as file:
        weights, traces = file["output/spatial_weights"][()], file["output/temporal_weights"][()]  # N, W, H and N, T
        metrics = file["output/info/cellcheck/metrics"][()].T
        image = file["output/info/max_image"][()].T
    assert (recording.fov, recording.n_cells, recording.trace_kind) == ((60, 72), 45, "temporal_weights")
    np.testing.assert_array_equal(recording.footprints.toarray().reshape(60, 72, 45), weights.transpose(2, 1, 0))
    np.testing.assert_array_equal(recording.traces[0:45], traces)
    np.testing.assert_array_equal(recording.traces[7:30:5], traces[7:30:5])
    np.testing.assert_array_equal(recording.images["max_image"], image.astype(np.float32))
    assert list(recording.metrics) == list(METRICS)
    np.testing.assert_array_equal(recording.metrics["S_eccent"], metrics[METRICS.index("S_eccent")])
    assert recording.info["version"] == "1.3.0"
    assert recording.info["sparse"] == (path == NDSPARSE)


def test_cell_checks_labels_are_the_hosts_verdict_and_a_persons_labels():
    recording = read(CELLCHECK)
    with h5py.File(CELLCHECK) as file:
        np.testing.assert_array_equal(recording.prior.verdict, file["output/labels"][()].ravel())
    user = TRUTH["cellcheck_user_labels"]
    np.testing.assert_array_equal(recording.prior.person, user)
    assert EXTRACT.labels(CELLCHECK) == ({i: "cell" if said > 0 else "not_cell" for i, said in enumerate(user) if said},)
    assert any("12 labels of a person" in note for note in recording.notes)
    assert EXTRACT.labels(NDSPARSE) == ({},)


@pytest.mark.parametrize("version", ["v6", "v7", "v7.3"])
@pytest.mark.parametrize("n_cells", [0, 1, 2, 4])
def test_every_version_and_count(tmp_path, version, n_cells):
    output = small(n_cells)
    recording = read(save(tmp_path / "a.mat", {"output": output}, version))
    assert (recording.fov, recording.n_cells) == ((4, 5), n_cells)
    np.testing.assert_array_equal(recording.footprints.toarray().reshape(4, 5, n_cells), output["spatial_weights"])
    np.testing.assert_array_equal(recording.traces[0:n_cells], output["temporal_weights"].T)


@pytest.mark.parametrize("version", ["v7", "v7.3"])
def test_layouts_of_others(tmp_path, version):
    new = small()
    old = {"filters": new["spatial_weights"], "traces": np.ascontiguousarray(new["temporal_weights"].T)}
    paths = {
        "ciatah": {"extractAnalysisOutput": {**old, "info": new["info"]}},
        "any name": {"mine": new},
        "variables": new,
        "flat sparse": {
            "output": {**new, "spatial_weights": sp.csc_matrix(new["spatial_weights"].reshape(20, 3, order="F").astype(float))}
        },
        "turned": {"output": {**new, "temporal_weights": old["traces"]}},
        "double": {"output": {**new, "spatial_weights": new["spatial_weights"].astype(float)}},
    }
    want = read(save(tmp_path / "a.mat", {"output": new}, version))
    for name, values in paths.items():
        path = save(tmp_path / f"{name}.mat", values, version)
        assert EXTRACT.sniff(path).yes, name
        found = read(path)
        assert found.candidate_fingerprints == want.candidate_fingerprints, name
        np.testing.assert_array_equal(found.traces[0:3], want.traces[0:3], name)


@pytest.mark.parametrize("version", ["v7", "v7.3"])
def test_matlab_drops_the_last_dimension_of_one_image(tmp_path, version):
    image = np.random.default_rng(0).random((7, 5)).astype(np.float32)
    for info in ({"summary_image": np.ones((7, 5))}, {"version": "1.3.0"}):
        output = {"spatial_weights": image, "temporal_weights": np.ones((9, 1)), "info": info}
        recording = read(save(tmp_path / "a.mat", {"output": output}, version))
        assert (recording.fov, recording.n_cells, recording.n_frames) == ((7, 5), 1, 9)
        np.testing.assert_array_equal(recording.footprints.toarray().reshape(7, 5), image)
    nothing = {"spatial_weights": np.zeros((0, 0)), "temporal_weights": np.zeros((0, 0)), "info": {"summary_image": np.ones((7, 5))}}
    recording = read(save(tmp_path / "a.mat", {"output": nothing}, version))
    assert (recording.fov, recording.n_cells) == ((7, 5), 0)


def test_as_many_frames_as_candidates(tmp_path):
    """Which axis is which is then told by the layout."""
    new = small(4, n_frames=4)
    recording = read(save(tmp_path / "a.mat", {"output": new}))
    np.testing.assert_array_equal(recording.traces[0:4], new["temporal_weights"].T)
    old = {"filters": new["spatial_weights"], "traces": new["temporal_weights"]}
    np.testing.assert_array_equal(read(save(tmp_path / "b.mat", {"o": old})).traces[0:4], new["temporal_weights"])


@pytest.mark.parametrize(
    ("fields", "verdict"),
    [
        ({}, [0, 0, 0]),
        ({"info": {"cellcheck": {"is_bad": np.array([[0.0, 1, 0]])}}}, [0, -1, 0]),
        ({"extract_labels": np.array([[1.0, 0, -1]])}, [1, 0, -1]),
        ({"extract_labels": np.ones((1, 3)), "user_labels": np.array([[0.0, -1, 0]])}, [0, -1, 0]),
        ({"user_labels": np.ones((1, 3)), "labels": np.array([[2.0, -2, -1]])}, [0, 0, -1]),  # a dendrite, one set back
        ({"labels": np.array([[1.0], [-1], [np.nan]])}, [1, -1, 0]),
        ({"labels": np.array([[1.0, -1, 1, 1]])}, [0, 0, 0]),  # of another number of candidates
        ({"labels": np.array([[1, -1, 0]], np.int8)}, [1, -1, 0]),
    ],
)
def test_verdicts(tmp_path, fields, verdict):
    recording = read(save(tmp_path / "a.mat", {"output": small(**fields)}))
    assert recording.prior.verdict.tolist() == verdict


def test_ciatahs_decisions(tmp_path):
    old = {"filters": small()["spatial_weights"], "traces": np.ones((3, 6))}
    path = save(tmp_path / "m1_extractAnalysis.mat", {"extractAnalysisOutput": old})
    beside = save(tmp_path / "m1_extractAnalysisSorted_ab.mat", {"validEXTRACT": np.array([[1.0, 0, 1]])})
    recording = read(path)
    assert recording.prior.verdict.tolist() == [1, -1, 1]
    assert EXTRACT.plan([recording], [mixed(recording)]).stale[0][0] == beside


def test_odd_parts_are_left_out_and_said(tmp_path):
    weights = small()["spatial_weights"].copy()
    weights[0, 0, 0], weights[:, :, 2] = np.nan, 0
    info = {"summary_image": np.ones((5, 4)), "cellcheck": {"metrics": np.ones((29, 3))}}
    recording = read(save(tmp_path / "a.mat", {"output": small(spatial_weights=weights, info=info)}))
    assert recording.images == {}
    assert recording.metrics == {}
    told = " ".join(recording.notes)
    assert "1 weights" in told
    assert "empty footprint" in told
    assert "(29, 3)" in told


@pytest.mark.parametrize(
    "fields",
    [
        {"temporal_weights": np.ones((6, 4))},
        {"temporal_weights": np.ones((7, 2, 3))},
        {"spatial_weights": "none"},
        {"spatial_weights": np.ones((4, 5, 2, 3))},
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, fields):
    path = save(tmp_path / "a.mat", {"output": small(**fields)})
    with pytest.raises(FormatError, match="output"):
        read_with(EXTRACT, path)


@pytest.mark.parametrize(
    "values",
    [
        {"precomputedOutput": {"spatial_weights": np.ones((4, 5, 2)), "traces": np.ones((6, 2)), "snapshots": np.ones((2, 2))}},
        {"results": {"A": np.ones((20, 2)), "C_raw": np.ones((2, 6))}},
        {"traces": np.ones((6, 2)), "filters": "no"},
        {"x": np.ones((2, 2))},
    ],
)
def test_others_are_not_claimed(tmp_path, values):
    answer = EXTRACT.sniff(save(tmp_path / "a.mat", values))
    assert not answer.yes
    assert answer.why


# ndSparse


def _meta():
    with h5py.File(NDSPARSE) as file:
        return file[file["#subsystem#/MCOS"][0, 0]].name


@pytest.mark.parametrize("position", range(0, 208, 4))
def test_damaged_objects_are_refused(copy, position):
    """Any number of the table that says where the object's properties are."""
    path = copy(NDSPARSE)
    with h5py.File(path, "r+") as file:
        table = file[_meta()]
        content = bytearray(table[()].tobytes())
        for value in (0xFFFFFFFF, 7):
            content[position : position + 4] = struct.pack("<I", value)
            table[...] = np.frombuffer(bytes(content), np.uint8).reshape(table.shape)
            file.flush()
            with contextlib.suppress(FormatError):  # or it is a number that does not matter
                assert EXTRACT.read(path)[0].n_cells == 45


def test_an_object_of_another_class_is_refused(copy):
    path = copy(NDSPARSE)
    with h5py.File(path, "r+") as file:
        file["output/spatial_weights"].attrs["MATLAB_class"] = np.bytes_("tall")
    with pytest.raises(FormatError, match="tall"):
        read(path)


def test_links_out_of_the_file_are_refused(copy, tmp_path):
    path = copy(CELLCHECK)
    with h5py.File(path, "r+") as file:
        del file["output/temporal_weights"]
        file["output/temporal_weights"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "x")
    with pytest.raises(FormatError):
        read_with(EXTRACT, path)


def test_truncated_files(tmp_path):
    content = NDSPARSE.read_bytes()
    for size in (0, 100, 511, 600, 5000, len(content) // 2, len(content) - 1):
        path = tmp_path / "a.mat"
        path.write_bytes(content[:size])
        EXTRACT.sniff(path)
        with pytest.raises(ActsortError):
            read_with(EXTRACT, path)


def test_objects_in_v7_files_too(tmp_path):
    reason = "mat-io, which writes such a file for this test, needs numpy 2"
    matio = pytest.importorskip("matio", reason=reason)
    path = tmp_path / "a.mat"
    matio.save_to_mat(str(path), {"output": matio.load_from_mat(str(NDSPARSE))["output"]}, version="v7")
    recording = read(path)
    assert recording.info["matlab"] == "v5"
    assert recording.candidate_fingerprints == read(NDSPARSE).candidate_fingerprints
    write(EXTRACT, recording, mixed(recording))
    assert read(path).prior.counts() == {"accepted": 15, "rejected": 15, "undecided": 15}
    kept = matio.load_from_mat(str(path))["output"][0, 0]["spatial_weights"]
    assert kept.classname == "ndSparse"
    assert kept.properties["data"].shape == (4320, 45)


# Writing


@pytest.mark.parametrize("path", [CELLCHECK, NDSPARSE], ids=["cellcheck", "ndSparse"])
def test_labels_are_written_in_place_and_nothing_else(copy, path):
    path = copy(path)
    before = objects(path)
    recording = read(path)
    given = EXTRACT.labels(path)[0]
    curation = mixed(recording)
    plan = write(EXTRACT, recording, curation)
    assert [edit.path for edit in plan.edits] == [path]
    after = objects(path)
    ours = {name for name in after if name in ("output/labels", "output/user_labels") or name.startswith("curation/")}
    assert {k: v for k, v in after.items() if k not in ours} == {k: v for k, v in before.items() if k not in ours}
    again = read(path)
    want = np.where(curation.undecided, 0, np.where(curation.accepted, 1, -1))
    np.testing.assert_array_equal(again.prior.verdict, want)
    np.testing.assert_array_equal(again.prior.probability, curation.probability)
    said = {i: curation.labels[i].value for i in np.flatnonzero(curation.origin == "label")}
    assert EXTRACT.labels(path)[0] == {**given, **said}  # labels of cell_check that we do not have stay
    with h5py.File(path) as file:
        fields = [field.tobytes().decode() for field in file["output"].attrs["MATLAB_fields"]]
        assert sorted(fields) == sorted(file["output"])
        assert file["output/labels"].attrs["MATLAB_class"] == b"double"
        assert file["output/labels"].shape == (45, 1)


@pytest.mark.parametrize("version", ["v6", "v7", "v7.3"])
@pytest.mark.parametrize("place", ["struct", "with labels", "variables"])
def test_every_version_is_written(tmp_path, version, place):
    fields = {"labels": np.zeros((1, 3)), "extract_labels": np.ones((1, 3))} if place == "with labels" else {}
    output = small(**fields)
    path = save(tmp_path / "a.mat", output if place == "variables" else {"x": np.eye(2), "output": output, "y": "text"}, version)
    recording = read(path)
    write(EXTRACT, recording, mixed(recording))
    first = path.read_bytes()
    again = read(path)
    assert again.prior.verdict.tolist() == [1, -1, 0]
    assert again.prior.person.tolist() == [1, 0, 0]
    assert not again.notes  # these labels are ours
    assert again.candidate_fingerprints == recording.candidate_fingerprints
    assert EXTRACT.labels(path) == ({0: "cell"},)
    write(EXTRACT, again, mixed(again))
    assert path.read_bytes() == first  # the same decisions, the same bytes
    with _mat.opened(path) as file:
        if place != "variables":
            assert file.variable("y").text() == "text"
            assert set(file.variable("output").fields()) == {*output, "labels", "user_labels"}
        if place == "with labels":
            np.testing.assert_array_equal(file.variable("output").field("extract_labels").array(), np.ones((1, 3)))


def test_what_we_said_we_may_take_back(tmp_path):
    path = save(tmp_path / "a.mat", {"output": small(user_labels=np.array([[0.0, 2, -1]]))})
    recording = read(path)
    write(EXTRACT, recording, mixed(recording))
    assert EXTRACT.labels(path) == ({0: "cell", 1: "dendrite", 2: "not_cell"},)
    curation = mixed(recording)
    undone = replace(curation, labels={}, origin=np.array(["model", "model", "none"]))
    plan = write(EXTRACT, read(path), undone)
    assert EXTRACT.labels(path) == ({1: "dendrite", 2: "not_cell"},)
    assert any("2 labels given in EXTRACT's cell_check stay" in note for note in plan.notes)


def test_candidates_deleted_after_the_write_are_recognised(tmp_path):
    path = save(tmp_path / "a.mat", {"output": small(6)})
    recording = read(path)
    curation = mixed(recording)
    write(EXTRACT, recording, curation)
    content = scipy.io.loadmat(path)
    output = content["output"]
    keep = [4, 2, 0]
    new = {name: output[name][0, 0] for name in output.dtype.names}
    new |= {"spatial_weights": new["spatial_weights"][:, :, keep], "temporal_weights": new["temporal_weights"][:, keep]}
    mat = {"output": new, "curation": {name: content["curation"][name][0, 0] for name in content["curation"].dtype.names}}
    again = read(save(path, mat))
    want = np.where(curation.undecided, 0, np.where(curation.accepted, 1, -1))
    assert again.prior.verdict.tolist() == want[keep].tolist()
    assert any("recognised" in note for note in again.notes)


def test_a_file_changed_in_between_is_refused(tmp_path):
    path = save(tmp_path / "a.mat", {"output": small()})
    recording = read(path)
    (edit,) = EXTRACT.plan([recording], [mixed(recording)]).edits
    save(path, {"output": small(4)})
    with pytest.raises(ChangedError):
        edit.stage(tmp_path / "t")
    with pytest.raises(ChangedError):
        EXTRACT.plan([recording], [mixed(recording)])


def test_big_endian_files_get_a_file_beside(tmp_path):
    path = tmp_path / "a.mat"
    path.write_bytes(_big_endian(small()))
    recording = read(path)
    assert recording.n_cells == 3
    before = path.read_bytes()
    plan = write(EXTRACT, recording, mixed(recording))
    assert plan.edits[0].path == tmp_path / "a_actsort.mat"
    assert path.read_bytes() == before
    assert read(path).prior.verdict.tolist() == [1, -1, 0]


def _big_endian(output):
    def element(code, content):
        return struct.pack(">II", code, len(content)) + content + bytes(-len(content) % 8)

    def array(name, value):
        kind = {"f4": 7, "f8": 6}[value.dtype.str[1:]]
        body = (
            element(6, struct.pack(">II", kind, 0)) + element(5, struct.pack(f">{value.ndim}i", *value.shape)) + element(1, name.encode())
        )
        return element(14, body + element(7 if kind == 7 else 9, value.astype(value.dtype.newbyteorder(">")).tobytes(order="F")))

    head = b"MATLAB 5.0 MAT-file, big".ljust(124) + b"\x01\x00MI"
    return head + b"".join(array(name, output[name]) for name in ("spatial_weights", "temporal_weights"))


@pytest.mark.skipif(OCTAVE is None, reason="GNU Octave is not there")
@pytest.mark.parametrize("version", ["-v6", "-v7"])
def test_octave_reads_what_was_written(tmp_path, version):
    """As cell_check does it: output.user_labels by number, get_cellcheck_features."""
    make = (
        "output.spatial_weights = single(reshape(1:60, 4, 5, 3)); output.temporal_weights = single(ones(6, 3));"
        f"output.info.cellcheck.is_bad = zeros(1, 3); output.config.fine = {{1, 'a'}}; output.fun = 1; save {version} a.mat output;"
    )
    subprocess.run([OCTAVE, "--no-gui", "--norc", "--eval", make], cwd=tmp_path, check=True, timeout=60)
    recording = read(tmp_path / "a.mat")
    write(EXTRACT, recording, mixed(recording))
    look = (
        "load a.mat; for i = 1:3, printf('%d %d;', output.user_labels(i), output.labels(i)); end;"
        "printf('%s|%s|%d|%s', curation.labeller, output.config.fine{2}, output.spatial_weights(4, 5, 3), strjoin(fieldnames(output)'));"
    )
    done = subprocess.run([OCTAVE, "--no-gui", "--norc", "--eval", look], cwd=tmp_path, capture_output=True, timeout=60, check=False)
    names = "spatial_weights temporal_weights info config fun user_labels labels"
    assert done.stdout.decode() == f"1 1;0 -1;0 0;Bo, Änne|a|60|{names}", done.stderr


# Creating


def test_conformance():
    check_format(EXTRACT, CELLCHECK, damaged=4)
    check_format(EXTRACT, damaged=2)


def test_a_created_file_is_what_cell_check_needs(tmp_path):
    recording = make_recording(5, prior=Prior(np.array([1, -1, 0, 1, -1], np.int8), np.array([0.9, 0.1, np.nan, 0.6, 0.4])))
    (path,) = EXTRACT.create([recording], [None], tmp_path / "made")
    assert path == tmp_path / "made"
    with h5py.File(path) as file:
        output = file["output"]
        assert output["spatial_weights"].shape == (5, *recording.fov[::-1])
        assert output["temporal_weights"].shape == (5, recording.n_frames)
        assert output["info/summary_image"].shape == recording.fov[::-1]
        assert output["info/cellcheck/metrics"].shape == (5, 30)
        assert output["config/avg_cell_radius"][0, 0] > 1
        assert output["labels"][()].ravel().tolist() == [1, -1, 0, 1, -1]
        assert not output["user_labels"][()].any()  # nobody said anything
    again = read(path)
    np.testing.assert_array_equal(again.prior.probability, recording.prior.probability)
    assert again.fps == recording.fps


def test_extract_to_cnmfe_and_back(tmp_path):
    recording = read(NDSPARSE)
    curation = mixed(recording)
    (there,) = CnmfeFormat().create([recording], [curation], tmp_path / "b")
    (middle,) = CnmfeFormat().read(there)
    (back,) = EXTRACT.create([middle], [None], tmp_path / "c")
    again = read(back)
    assert again.candidate_fingerprints == recording.candidate_fingerprints
    np.testing.assert_array_equal(again.traces[0:45], recording.traces[0:45])
    want = np.where(curation.undecided, 0, np.where(curation.accepted, 1, -1))
    np.testing.assert_array_equal(again.prior.verdict, want)
    known = ~curation.undecided
    np.testing.assert_allclose(again.prior.probability[known], curation.host_probability()[known])
    assert np.isnan(again.prior.probability[~known]).all()


def test_labels_of_persons_go_from_tool_to_tool(tmp_path):
    """cell_check -> ActSort's app -> EXTRACT, without a session."""
    (app,) = ActsortMatlabFormat().create([read(CELLCHECK)], [None], tmp_path / "app.mat")
    assert ActsortMatlabFormat().labels(app) == EXTRACT.labels(CELLCHECK)
    (back,) = EXTRACT.create(list(ActsortMatlabFormat().read(app)), [None], tmp_path / "back.mat")
    assert EXTRACT.labels(back) == EXTRACT.labels(CELLCHECK)


def test_cell_checks_labels_come_into_a_session(copy):
    path = copy(CELLCHECK)
    result = CliRunner().invoke(main, ["import-labels", str(path), str(path), "--annotator", "me"])
    assert result.exit_code == 0, result.output
    with actsort_core.open(path, annotator="me") as session:
        assert {label.candidate.index: label.value for label in session.labels()} == EXTRACT.labels(CELLCHECK)[0]


def test_losses_say_what_is_left_behind(tmp_path):
    full = make_recording(4)
    full = replace(full, denoised=full.traces, spikes=full.traces)
    told = " ".join(EXTRACT.losses([replace(full, denoised=np.asarray(full.traces[0:4]) * 2)], [None]))
    for word in ("denoised", "spikes", "SNR_comp"):
        assert word in told
    assert EXTRACT.losses([read(CELLCHECK)], [None]) == ()
    with pytest.raises(FormatError, match="depth"):
        EXTRACT.losses([make_recording(3, fov=(5, 6, 7))], [None])
    with pytest.raises(FormatError, match="one recording"):
        EXTRACT.losses([full, full], [None, None])
    with pytest.raises(UsageError, match="exists"):
        EXTRACT.create([full], [None], tmp_path)
