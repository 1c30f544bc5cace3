"""ActSort for MATLAB: its precomputed files read, its labels read and written, new precomputed files made.

tests/data/actsort_matlab: the 45 components of tests/data/extract in the 14 fields of PrecomputeCellCheck.m (spatial_weights and
snapshot_filters are ndSparse objects), and labels as the app saves them.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
from click.testing import CliRunner
from matfiles import mixed, save, write

import actsort_core
from actsort_adapters import _actsort_read, _mat
from actsort_adapters._actsort_read import FAST, NAMES
from actsort_adapters.actsort_matlab import ActsortMatlabFormat
from actsort_adapters.extract import ExtractFormat
from actsort_core import warm_matlab
from actsort_core.annotated import published_names
from actsort_core.cli import main
from actsort_core.errors import ChangedError, FormatError, UsageError
from actsort_core.formats import read_with
from actsort_core.testing import check_format, make_recording

DATA = Path(__file__).parent / "data" / "actsort_matlab"
NAME = "precomputed_extract_output"
APP = ActsortMatlabFormat()
OCTAVE = shutil.which("octave-cli")
TRUTH = json.loads((DATA / "truth.json").read_text())
EXPERT = {i: "cell" if said > 0 else "not_cell" for i, said in enumerate(TRUTH["labels_ex"]) if said}


def read(path):
    (recording,) = APP.read(Path(path))
    return recording


@pytest.fixture
def pair(tmp_path):
    for name in (f"{NAME}.mat", f"{NAME}_LABELS.mat"):
        shutil.copyfile(DATA / name, tmp_path / name)
    return tmp_path / f"{NAME}.mat"


def small(n_cells=3, fov=(4, 5), n_frames=6, **fields):
    rng = np.random.default_rng(1)
    output = {
        "spatial_weights": rng.random((*fov, n_cells)).astype(np.float32),
        "traces": rng.random((n_frames, n_cells)).astype(np.float32),
        "spikeIdxs": np.ones((5, n_cells)),
        "max_im": rng.random(fov),
        "features": rng.random((n_cells, 76)),
        "INFO": {"fast_features": np.zeros((1, 1), bool), "h5_file_name": "movie.h5"},
    } | fields
    return {key: value for key, value in output.items() if value is not None}


def labels(**columns):
    return {"labels": {name: np.array(values, float).reshape(-1, 1) for name, values in columns.items()}}


# Reading


def test_names_and_fast_columns_are_those_of_the_core():
    assert published_names(76) == NAMES
    assert FAST == warm_matlab._FAST
    assert (_actsort_read.OUTPUT, _actsort_read.LABELS, _actsort_read.SUFFIX) == (
        warm_matlab.OUTPUT,
        warm_matlab.LABELS,
        warm_matlab.SUFFIX,
    )


def test_the_fixture():
    recording = read(DATA / f"{NAME}.mat")
    other = ExtractFormat().read(DATA.parent / "extract" / "extract_output_ndsparse_v73.mat")[0]
    assert recording.fingerprint == other.fingerprint  # the same candidates, in two files of two tools
    np.testing.assert_array_equal(recording.traces[0:45], other.traces[0:45])
    with h5py.File(DATA / f"{NAME}.mat") as file:
        features = file["precomputedOutput/features"][()]
        image = file["precomputedOutput/max_im"][()].T
    np.testing.assert_array_equal(recording.images["max_im"], image)
    np.testing.assert_array_equal(recording.metrics["published.snr"], features[0])
    assert set(recording.metrics) == {NAMES[i] for i in range(76) if features[i].any()}
    np.testing.assert_array_equal(recording.prior.verdict, TRUTH["labels_overall"])
    np.testing.assert_array_equal(recording.prior.person, TRUTH["labels_ex"])
    assert APP.labels(DATA / f"{NAME}.mat") == APP.labels(DATA / f"{NAME}_LABELS.mat") == (EXPERT,)
    assert any(f"{len(EXPERT)} labels of a person" in note and "import-labels" in note for note in recording.notes)


def test_only_precomputed_files_are_claimed(pair):
    assert APP.sniff(pair).yes
    answer = APP.sniff(pair.with_name(f"{NAME}_LABELS.mat"))
    assert not answer.yes
    assert f"{NAME}.mat" in answer.why
    assert not ExtractFormat().sniff(pair).yes
    assert not APP.sniff(DATA.parent / "extract" / "extract_output_cellcheck_v73.mat").yes


@pytest.mark.parametrize("version", ["v6", "v7", "v7.3"])
@pytest.mark.parametrize("n_cells", [0, 1, 3])
def test_every_version_and_count(tmp_path, version, n_cells):
    output = small(n_cells)
    recording = read(save(tmp_path / "a.mat", {"precomputedOutput": output}, version))
    np.testing.assert_array_equal(recording.footprints.toarray().reshape(4, 5, n_cells), output["spatial_weights"])
    np.testing.assert_array_equal(recording.traces[0:n_cells], output["traces"].T)
    assert len(recording.metrics) == (76 if n_cells else 0)
    assert recording.movie_path is None
    (tmp_path / "movie.h5").touch()
    assert read(tmp_path / "a.mat").movie_path == tmp_path / "movie.h5"


def test_fast_features_move_forward(tmp_path):
    features = np.zeros((3, 76))
    features[:, : len(FAST)] = np.arange(1, len(FAST) + 1) + np.arange(3)[:, None] / 10
    output = small(features=features, INFO={"fast_features": np.ones((1, 1), bool)})
    metrics = read(save(tmp_path / "a.mat", {"precomputedOutput": output})).metrics
    assert set(metrics) == {NAMES[which - 1] for which in FAST if which}
    np.testing.assert_array_equal(metrics["published.power_00_05"], features[:, 4])
    np.testing.assert_array_equal(metrics["movie.frame_match_90"], features[:, len(FAST) - 1])


@pytest.mark.parametrize(
    ("saved", "verdict"),
    [
        (labels(labels_ex=[1, 0, -1], labels_ml=[1, 1, 1], labels_overall=[1, 1, -1]), [1, 1, -1]),
        (labels(labels_ex=[1, 0, -1]), [1, 0, -1]),
        (labels(labels_ex=[1, 0, -1], labels_ml=[-1, -1, 1]), [1, -1, -1]),
        (labels(labels_ex=[1, 0, -1, 1]), [0, 0, 0]),  # of another file
        (labels(other=[1, 0, -1]), [0, 0, 0]),
        ({"labels": np.ones((3, 1))}, [0, 0, 0]),
    ],
)
@pytest.mark.parametrize("version", ["v7", "v7.3"])
def test_labels_files(tmp_path, saved, verdict, version):
    path = save(tmp_path / "a.mat", {"precomputedOutput": small()}, version)
    save(tmp_path / "a_LABELS.mat", saved, version)
    assert read(path).prior.verdict.tolist() == verdict


def test_labels_of_another_number_are_no_labels(tmp_path):
    path = save(tmp_path / "a.mat", {"precomputedOutput": small()})
    assert APP.labels(path) == ({},)
    save(tmp_path / "a_LABELS.mat", labels(labels_ex=[1, 1]))
    with pytest.raises(FormatError, match="2 candidates"):
        APP.labels(path)


def test_a_damaged_labels_file_does_not_shut_the_result(pair):
    pair.with_name(f"{NAME}_LABELS.mat").write_bytes(b"nothing")
    recording = read(pair)
    assert not recording.prior.verdict.any()
    assert any(f"{NAME}_LABELS.mat" in note for note in recording.notes)


@pytest.mark.parametrize("fields", [{"traces": np.ones((6, 4))}, {"spatial_weights": "x"}])
def test_what_does_not_fit_is_refused(tmp_path, fields):
    with pytest.raises(FormatError, match="precomputedOutput"):
        read_with(APP, save(tmp_path / "a.mat", {"precomputedOutput": small(**fields)}))


# Labels, both ways


def test_labels_go_back_to_the_app(pair):
    before = pair.read_bytes()
    recording = read(pair)
    curation = mixed(recording)
    plan = write(APP, recording, curation)
    target = pair.with_name(f"{NAME}_LABELS.mat")
    assert [edit.path for edit in plan.edits] == [target]
    assert pair.read_bytes() == before
    saved = scipy.io.loadmat(target)["labels"][0, 0]
    assert saved.dtype.names == ("labels_ex", "labels_ml", "labels_overall")
    said = {i: curation.labels[int(i)].value for i in np.flatnonzero(curation.origin == "label")}
    code = {"cell": 1, "not_cell": -1}
    expert = np.array([code.get({**EXPERT, **said}.get(i, ""), 0) for i in range(45)], float)
    overall = np.where(curation.undecided, 0, np.where(curation.accepted, 1, -1))
    np.testing.assert_array_equal(saved["labels_ex"], expert.reshape(-1, 1))
    np.testing.assert_array_equal(saved["labels_overall"].ravel(), overall)
    model = curation.origin == "model"
    np.testing.assert_array_equal(saved["labels_ml"].ravel()[model], overall[model])
    again = read(pair)
    np.testing.assert_array_equal(again.prior.verdict, overall)
    np.testing.assert_array_equal(again.prior.probability, curation.probability)
    write(APP, again, curation)
    first = target.read_bytes()
    write(APP, again, curation)
    assert target.read_bytes() == first


@pytest.mark.parametrize("version", ["v6", "v7", "v7.3", None])
def test_what_else_is_in_the_labels_file_stays(tmp_path, version):
    path = save(tmp_path / "a.mat", {"precomputedOutput": small()})
    target = tmp_path / "a_LABELS.mat"
    if version:
        extra = labels(labels_ex=[0, 1, 0], mine=[7, 8, 9])
        save(target, {**extra, "note": "of the lab"}, version)
    recording = read(path)
    write(APP, recording, mixed(recording))
    assert APP.labels(path) == ({0: "cell", 1: "cell"} if version else {0: "cell"},)
    with _mat.opened(target) as file:
        if version:
            assert file.variable("note").text() == "of the lab"
            np.testing.assert_array_equal(file.variable("labels").field("mine").array(), [[7], [8], [9]])
        assert file.variable("labels").field("labels_overall").array().ravel().tolist() == [1, -1, 0]


def test_another_extraction_of_as_many_candidates_is_told_apart(tmp_path):
    """The app goes by position alone; what we wrote says by which footprints."""
    path = save(tmp_path / "a.mat", {"precomputedOutput": small()})
    recording = read(path)
    write(APP, recording, mixed(recording))
    other = small()
    other["spatial_weights"] = other["spatial_weights"][:, :, [2, 0, 1]]
    save(path, {"precomputedOutput": other})
    again = read(path)
    assert again.prior.verdict.tolist() == [0, 1, -1]
    assert any("recognised" in note for note in again.notes)
    save(tmp_path / "a_LABELS.mat", labels(labels_ex=[1, 1, -1], labels_overall=[1, 1, -1]))  # the app saved anew: trusted
    assert read(path).prior.verdict.tolist() == [1, 1, -1]


def test_labels_saved_in_between_are_not_lost(pair, tmp_path):
    recording = read(pair)
    (edit,) = APP.plan([recording], [mixed(recording)]).edits
    save(edit.path, labels(labels_ex=np.ones(45)))
    with pytest.raises(ChangedError):
        edit.stage(tmp_path / "t")


@pytest.mark.skipif(OCTAVE is None, reason="GNU Octave is not there")
def test_octave_loads_and_appends_like_the_app(pair):
    """LoadlabelsMenuSelected, then SaveMenuSelected with -append, in CellSorter.mlapp."""
    recording = read(pair)
    curation = mixed(recording)
    write(APP, recording, curation)
    script = (
        f"s = load('{NAME}_LABELS.mat'); e = s.labels.labels_ex(:); printf('%s %d %d;', class(e), numel(e), sum(e));"
        f"labels = s.labels; labels.labels_ex(2) = 1; labels.labels_overall(2) = 1; save('-append', '-v7', '{NAME}_LABELS.mat', 'labels');"
    )
    done = subprocess.run([OCTAVE, "--no-gui", "--norc", "--eval", script], cwd=pair.parent, capture_output=True, timeout=60, check=False)
    expert = sum(1 if said == "cell" else -1 for said in APP.labels(DATA / f"{NAME}.mat")[0].values())
    assert done.stdout.decode().startswith("double 45 "), done.stderr
    assert expert == sum(TRUTH["labels_ex"])
    assert APP.labels(pair)[0][1] == "cell"
    assert read(pair).prior.verdict[1] == 1


def test_from_the_app_and_back_on_the_command_line(pair):
    """A half-sorted session: its labels become labels here, and ours go back."""
    runner = CliRunner()
    result = runner.invoke(main, ["import-labels", str(pair), str(pair.with_name(f"{NAME}_LABELS.mat")), "--annotator", "app"])
    assert result.exit_code == 0, result.output
    with actsort_core.open(pair, annotator="us") as session:
        assert {label.candidate.index: label.value for label in session.labels()} == EXPERT
        free = next(c for c in session.candidates if c.index not in EXPERT)
        session.label(free, "cell")
        session.write()
    assert APP.labels(pair)[0] == {**EXPERT, free.index: "cell"}


# Creating


def test_conformance():
    check_format(APP, DATA / f"{NAME}.mat", damaged=4)
    check_format(APP, damaged=2)


def test_a_created_file_has_what_the_app_opens(tmp_path):
    recording = make_recording(6, fov=(20, 31))
    curation = mixed(recording)
    (path,) = APP.create([recording], [curation], tmp_path / "made.mat")
    n, (height, width) = 6, recording.fov
    with h5py.File(path) as file:
        output = file["precomputedOutput"]
        shapes = {name: item.shape[::-1] for name, item in output.items() if isinstance(item, h5py.Dataset)}
        assert shapes == {
            **{"spatial_weights": (height, width, n), "traces": (recording.n_frames, n), "cellCenters": (2, n), "spikeIdxs": (5, n)},
            **{"cellBoundaries": (2, n), "snapshotCLims": (4, n), "max_im": (height, width), "features": (n, 76)},
            **dict.fromkeys(("snapshots", "snapshot_filters", "snapshot_traces", "snapshotCellBoundaries", "neighborBoundaries"), (1, n)),
        }
        for i in range(n):
            weights = output["spatial_weights"][i].T
            x, y = output["cellBoundaries"][i]
            outline = np.array([file[x][()].ravel(), file[y][()].ravel()])
            assert np.isnan(outline[:, -1]).all()
            columns, rows = outline[:, :-1].astype(int) - 1
            assert (weights[rows, columns] >= 0.05 * weights.max()).all()
            crop, picture = file[output["snapshot_filters"][i, 0]][()].T, file[output["snapshots"][i, 0]][()].T
            assert picture.shape == (*crop.shape, 11, 5)
            own = file[output["snapshotCellBoundaries"][i, 0]][()].T[:, :-1].astype(int) - 1
            np.testing.assert_array_equal(crop[own[1], own[0]], weights[rows, columns])
            peaks = output["spikeIdxs"][i]
            trace = output["traces"][i]
            assert trace[int(peaks[0]) - 1] == max(trace[peaks[np.isfinite(peaks)].astype(int) - 1])
        assert list(file["labels"]) == ["labels_ex", "labels_ml", "labels_overall"]
        assert file["labels/labels_ex"][()].ravel().tolist() == [1, 0, 0, -1, 0, 0]
    assert APP.labels(path) == ({0: "cell", 3: "not_cell"},)


def test_features_and_labels_survive_a_copy(tmp_path, pair):
    recording = read(pair)
    (path,) = APP.create([recording], [None], tmp_path / "copy.mat")
    again = read(path)
    assert {k: v.tolist() for k, v in again.metrics.items()} == {k: v.tolist() for k, v in recording.metrics.items()}
    np.testing.assert_array_equal(again.prior.verdict, recording.prior.verdict)
    assert APP.labels(path) == (EXPERT,)
    assert not any(
        "features" in sentence for sentence in APP.losses([replace(recording, metrics=dict.fromkeys(NAMES, np.ones(45)))], [None])
    )
    assert any("Pictures of the movie" in sentence for sentence in APP.losses([recording], [None]))


def test_labels_of_another_file_of_that_name_are_not_adopted(tmp_path):
    save(tmp_path / "a_LABELS.mat", labels(labels_ex=[1, 1]))
    with pytest.raises(UsageError, match="a_LABELS"):
        APP.create([make_recording(2)], [None], tmp_path / "a.mat")
