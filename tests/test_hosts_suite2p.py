"""Suite2p's own classifier taught by sessions, and the classification step of its pipeline: without Suite2p, as far as that goes.

tests_hosts/ has the same with the real ones. Here its modules are stand-ins with the calls of 0.14.6 and 1.1.0.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import types
import warnings
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import actsort_core as actsort
from actsort_adapters.hosts import _suite2p_classifier, _suite2p_step
from actsort_adapters.hosts._suite2p_classifier import KEYS, Suite2pClassifier, export_classifier
from actsort_adapters.hosts.suite2p import classify_with
from actsort_core import batch, models, plugins
from actsort_core.cli import main
from actsort_core.errors import ActsortError, MissingDependencyError, MissingFileError, PluginError, UsageError

DATA = Path(__file__).parent / "data" / "suite2p"


@pytest.fixture(scope="module")
def registered() -> plugins.Plugins:
    return plugins.load()


def truth_of(folder: Path) -> np.ndarray:
    """What each ROI is (`labels.json`), or, where nobody knows, what Suite2p's classifier said."""
    planes = sorted(folder.glob("plane*"))
    files = [plane / "labels.json" for plane in planes]
    if all(file.exists() for file in files):
        return np.array([roi["label"] for file in files for roi in json.loads(file.read_text())["rois"]])
    return np.concatenate([np.load(plane / "iscell.npy")[:, 0].astype(int) for plane in planes])


def tree(folder: Path, without: str = "actsort") -> dict[str, str]:
    files = (p for p in folder.rglob("*") if p.is_file() and without not in p.parts)
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture
def copied(tmp_path):
    def copy(name: str, into: str = "") -> Path:
        target = tmp_path / (into or name.replace("/", "_"))
        return Path(shutil.copytree(DATA / name, target)) / "suite2p"

    return copy


@pytest.fixture
def sorted_(copied, registered):
    """A copy of a result with a session of some labels; the folder of the result."""

    def make(name: str, labels: int = 16, into: str = "", **options: Any) -> Path:
        folder = copied(name, into)
        truth = truth_of(folder)
        with actsort.open(folder, plugins=registered, refit_wait=None, annotator="ann", **options) as session:
            for candidate in session.questions(labels):
                session.label(candidate, int(truth[session.candidates.index(candidate)]))
        return folder

    return make


def load(path: Path) -> dict[str, Any]:
    return np.load(path, allow_pickle=True).item()


# The classifier file


@pytest.mark.parametrize("name", ["s2p_110/mini", "s2p_0146/mini", "s2p_110/twoplane"])
def test_the_whole_pool_teaches(sorted_, registered, tmp_path, name):
    folder, out = sorted_(name), tmp_path / "c.npy"
    before = tree(folder, "nothing")
    done = export_classifier(folder, out=out, plugins=registered)
    assert tree(folder, "nothing") == before  # not even the session
    found = load(out)
    assert found["keys"] == list(KEYS)
    n_cells = len(truth_of(folder))
    assert done.rows == n_cells
    assert done.labelled == 16
    assert len(found["stats"]) == n_cells * done.copies >= 100 > n_cells * (done.copies - 1)
    assert 0 < found["iscell"].sum() < len(found["iscell"])
    with actsort.open(folder, plugins=registered, read_only=True, refit_wait=None) as session:
        decided = np.concatenate([c.accepted for c in session.curations().values()])
        stats = np.concatenate([np.column_stack([r.metrics[k] for k in KEYS]) for r in session.recordings.values()])
        labels = {session.candidates.index(label.candidate): label.value == "cell" for label in session.labels()}
    assert np.array_equal(found["iscell"][:: done.copies], decided)
    assert all(found["iscell"][i * done.copies] == value for i, value in labels.items())  # people win
    assert np.allclose(found["stats"][:: done.copies], stats, rtol=1e-12)
    # what is printed is what the file does
    says = Suite2pClassifier(found["stats"], found["iscell"]).probability(stats) > 0.5
    assert done.share == pytest.approx((says == decided).mean())
    assert sum(one.cells for one in done.agreement) == says.sum()
    assert done.share > 0.9
    assert f"on {int((says == decided).sum())} of these {n_cells}" in str(done)


def test_as_the_real_classifier():
    """``classifier_says.npz``: what ``suite2p.classification.Classifier`` of 1.1.0 and of 0.14.6 said, alike to 1e-15."""
    golden = np.load(DATA / "classifier_says.npz")
    says = Suite2pClassifier(golden["stats"], golden["iscell"]).probability(golden["new"])
    assert np.abs(says - golden["probability"]).max() < 1e-6


def test_no_ties_are_left():
    stats = np.round(np.random.default_rng(0).gamma(2, 1, (300, 3)), 1)
    stats[:, 1] = 2
    out = _suite2p_classifier._without_ties(stats)
    assert (np.diff(np.sort(out, axis=0), axis=0) > 0).all()
    assert np.allclose(out, stats, rtol=1e-12)
    assert np.array_equal(out.max(axis=0), stats.max(axis=0))
    for column, old in zip(out.T, stats.T, strict=True):
        assert all(column[old == value].max() == value for value in np.unique(old))  # a bin includes its upper end
    assert np.array_equal(_suite2p_classifier._without_ties(out), out)


def test_any_numpy_can_load_it():
    content = _suite2p_classifier.encode({"stats": np.eye(3), "iscell": np.array([True, False, True]), "keys": list(KEYS)})
    assert b"_core" not in content
    assert b"numpy.core" not in content
    import io

    found = np.load(io.BytesIO(content), allow_pickle=True).item()
    found["stats"][0, 0] = 5  # Suite2p changes it in place
    assert found["stats"].dtype == np.float64
    assert found["iscell"].tolist() == [True, False, True]


def test_several_sessions_and_one_twice(sorted_, registered, tmp_path):
    a, b = sorted_("s2p_110/mini"), sorted_("s2p_110/twoplane")
    done = export_classifier(a, b, a / "plane0", out=tmp_path / "c.npy", plugins=registered)
    assert done.rows == 30 + 84
    assert done.copies == 1
    assert done.labelled == 32
    assert any("counts once" in note for note in done.notes)
    names = [one.recording for one in done.agreement]
    assert len(set(names)) == 3
    assert "plane1" in names  # the only one of its name


def test_generations_are_not_mixed_in_silence(sorted_, registered, tmp_path):
    done = export_classifier(
        sorted_("s2p_110/mini", into="a"), sorted_("s2p_0146/mini", into="b"), out=tmp_path / "c.npy", plugins=registered
    )
    assert any("npix_norm" in note for note in done.notes)


def test_an_older_file_is_kept(sorted_, registered, tmp_path):
    folder, out = sorted_("s2p_110/mini"), tmp_path / "classifier_user.npy"
    out.write_bytes(b"theirs")
    done = export_classifier(folder, out=out, plugins=registered)
    assert done.backup is not None
    assert done.backup.read_bytes() == b"theirs"
    assert done.backup.parent == tmp_path
    assert str(done.backup) in str(done)


@pytest.mark.parametrize("name", ["s2p_110/edited", "s2p_0146/edited"])
def test_rois_without_the_statistics_are_left_out(sorted_, registered, tmp_path, name):
    """Drawn and merged ROIs."""
    folder = sorted_(name, labels=0)
    stat_file = folder / "plane0" / "stat.npy"
    stat = np.load(stat_file, allow_pickle=True)
    del stat[2]["skew"]
    shutil.rmtree(folder / "plane0" / "actsort")
    np.save(stat_file, stat)
    with actsort.open(folder, plugins=registered, refit_wait=None) as session:
        for i in range(16):
            session.label(i, int(i % 2))
    done = export_classifier(folder, out=tmp_path / "c.npy", plugins=registered)
    assert done.rows == len(stat) - 1
    assert any("1 ROIs lack" in note for note in done.notes)


def test_refused(sorted_, copied, registered, tmp_path, toy, opened):
    out = tmp_path / "c.npy"
    with pytest.raises(MissingFileError, match="no session"):
        export_classifier(copied("s2p_110/mini", "none"), out=out, plugins=registered)
    with pytest.raises(UsageError, match="no model yet"):
        export_classifier(sorted_("s2p_110/mini", labels=2), out=out, plugins=registered)
    taught, one_kind = sorted_("s2p_110/mini", into="taught"), copied("s2p_110/twoplane", "one")
    actsort.open(one_kind, plugins=registered, warm_start=taught, threshold=0.9999999).close()
    with pytest.raises(UsageError, match="84 ROIs that are all not cells"):
        export_classifier(one_kind, out=out, plugins=registered)
    folder = sorted_("s2p_110/twoplane")
    with pytest.raises(UsageError, match=r"ends in \.npy"):
        export_classifier(folder, out=tmp_path / "c", plugins=registered)
    with pytest.raises(UsageError, match="no folder"):
        export_classifier(folder, out=tmp_path / "absent" / "c.npy", plugins=registered)
    with pytest.raises(UsageError, match="no session to make"):
        export_classifier(out=out)
    with opened(toy()) as session, pytest.raises(UsageError, match="result of toy"):
        export_classifier(session, out=out, plugins=registered)
    assert not out.exists()


def test_people_who_labelled_everything(copied, registered, tmp_path):
    """What is wrong with one kind is that it is one, not that there is no model."""
    said = {"one": [True, *[False] * 29], "one kind": [True] * 30}
    for name, values in said.items():
        with actsort.open(copied("s2p_110/mini", name), plugins=registered, annotator="ann") as session:
            for index, value in enumerate(values):
                session.label(index, value)
    done = export_classifier(tmp_path / "one" / "suite2p", out=tmp_path / "c.npy", plugins=registered)
    assert (done.rows, done.cells, done.labelled) == (30, 1, 30)
    with pytest.raises(UsageError, match="30 ROIs that are all cells"):
        export_classifier(tmp_path / "one kind" / "suite2p", out=tmp_path / "other.npy", plugins=registered)
    assert not (tmp_path / "other.npy").exists()


def test_the_command(sorted_, tmp_path):
    folder, out = sorted_("s2p_110/mini"), tmp_path / "c.npy"
    run = CliRunner().invoke(main, ["suite2p-classifier", str(folder), "--out", str(out)])
    assert run.exit_code == 0, run.output
    assert "With it Suite2p decides as ActSort on" in run.output
    assert 'settings["classification"]["classifier_path"]' in run.output
    run = CliRunner().invoke(main, ["suite2p-classifier", str(folder), "--out", str(out), "--json"])
    document = json.loads(run.stdout)
    assert document["rows"] == 30
    assert document["copies"] == 4
    assert 0.5 < document["agreement_unseen"] <= 1
    assert document["backup"]
    run = CliRunner().invoke(main, ["suite2p-classifier", str(tmp_path / "nothing"), "--out", str(out)])
    assert run.exit_code == 1
    assert "does not exist" in run.output


def test_the_command_is_in_the_help_and_help_is_light():
    code = "import sys; sys.argv = ['actsort', '--help']\nfrom actsort_core.cli import main\ntry: main()\nexcept SystemExit: pass\n"
    code += "print('HEAVY', sorted({'numpy', 'scipy', 'sklearn', 'h5py'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "suite2p-classifier" in run.stdout
    assert "HEAVY []" in run.stdout


# The classification step


class FakeSuite2p:
    """Modules with the names, signatures and order of calls of 0.14.6 or 1.1.0 around one plane that is on disk already."""

    def __init__(self, old: bool, plane: Path) -> None:
        self.old, self.plane = old, plane
        self.stat = np.load(plane / "stat.npy", allow_pickle=True)
        self.traces = np.load(plane / "F.npy"), np.load(plane / "Fneu.npy")
        self.own = np.load(plane / "iscell.npy")
        self.broken: set[str] = set()
        self.saved: np.ndarray | None = None
        self.movie: Path | None = None
        self.fs: Any = 5.0
        package, classification, extraction, run = (
            types.ModuleType(f"suite2p{name}") for name in ("", ".classification", ".extraction", ".run_s2p")
        )
        self.modules = {module.__name__: module for module in (package, classification, extraction, run)}
        fake = self

        def classify(stat, classfile, keys=("skew",)):
            if classfile in fake.broken:
                raise AttributeError("'Classifier' object has no attribute 'keys'")
            return fake.own.copy()

        def extract_old(stat, f_reg, f_reg_chan2=None, cell_masks=None, neuropil_masks=None, ops=None):
            return stat, *fake.traces, [], []

        def extract_new(stat, f_reg, f_reg_chan2=None, cell_masks=None, neuropil_masks=None, settings=None, device=None):
            return *fake.traces, None, None

        def pipeline_old(f_reg, run_registration=True, ops=None, stat=None):
            stat, _, _, _, _ = extraction.extraction_wrapper(fake.stat, f_reg, f_reg_chan2=None, ops=ops)
            fake.saved = classification.classify(stat=stat, classfile="file")
            return ops

        def pipeline_new(save_path, f_reg, run_registration=True, settings=None, stat=None):
            extraction.extraction_wrapper(fake.stat, f_reg, f_reg_chan2=None, settings=settings["extraction"], device=None)
            fake.saved = classification.classify(stat=fake.stat, classfile="file")
            return fake.saved

        classification.classify, classification.builtin_classfile = classify, "builtin"
        extraction.extraction_wrapper = extract_old if old else extract_new
        run.pipeline = package.pipeline = pipeline_old if old else pipeline_new
        package.classification, package.extraction = classification, extraction

    def run_s2p(self) -> np.ndarray:
        run = self.modules["suite2p.run_s2p"]
        f_reg: Any = np.zeros((2, *self.fov()), np.int16)
        if self.movie is not None:
            f_reg = types.SimpleNamespace(shape=(2, *self.fov()), filename=str(self.movie))  # suite2p.io.BinaryFile
        if self.old:
            run.pipeline(f_reg, True, ops={"fs": self.fs, "neucoeff": 0.7, "save_path": str(self.plane)})
        else:
            run.pipeline(str(self.plane), f_reg, True, {"fs": self.fs, "extraction": {"neuropil_coefficient": 0.7}})
        assert self.saved is not None
        return self.saved

    def fov(self) -> tuple[int, int]:
        return 64, 80

    def functions(self) -> list[Any]:
        names = {
            "suite2p": "pipeline",
            "suite2p.classification": "classify",
            "suite2p.extraction": "extraction_wrapper",
            "suite2p.run_s2p": "pipeline",
        }
        return [getattr(self.modules[module], name) for module, name in names.items()]


@pytest.fixture(params=["0.14", "1.1"])
def suite2p(request, copied, monkeypatch):
    old = request.param == "0.14"
    fake = FakeSuite2p(old, copied("s2p_0146/mini" if old else "s2p_110/mini", "run") / "plane0")
    for name, module in fake.modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return fake


@pytest.fixture
def model(sorted_, registered, tmp_path, suite2p):
    folder = sorted_("s2p_0146/single" if suite2p.old else "s2p_110/twoplane", labels=30)
    with actsort.open(folder, plugins=registered, read_only=True, refit_wait=None) as session:
        return models.save_model(tmp_path / "model", models.from_session(session))


def test_decides_as_apply_does(suite2p, model, registered):
    before = suite2p.functions()
    with classify_with(model, plugins=registered) as steps:
        assert str(steps) == "ActSort was not asked yet."
        table = suite2p.run_s2p()
    assert suite2p.functions() == before
    (applied,) = batch.apply(model, suite2p.plane, plugins=registered)
    assert not applied.error
    assert np.allclose(table, np.load(suite2p.plane / "iscell.npy"), atol=1e-6)
    assert np.array_equal(table[:, 0] > 0, table[:, 1] > 0.5)  # Enter in Suite2p's box changes nothing
    assert (table.dtype, table.shape, table.flags.c_contiguous) == (np.float64, (30, 2), True)
    (step,) = steps.planes
    assert (step.folder, step.n_cells, step.accepted, step.error) == (suite2p.plane, 30, table[:, 0].sum(), "")
    assert (table[:, 0] != suite2p.own[:, 0]).any()
    assert f"{int(table[:, 0].sum())} of 30 ROIs" in str(steps)


def add_movie(plane: Path) -> None:
    """A ``data.bin`` made of the footprints and traces of a plane."""
    (recording,) = actsort.read(plane)
    frames = (recording.footprints @ np.asarray(recording.traces[:], np.float32)).T
    (np.clip(frames / np.abs(frames).max() * 8000, -8000, 8000) + 500).astype("<i2").tofile(plane / "data.bin")


@pytest.mark.parametrize(
    ("fs", "fps"), [(np.float32(5), 5), (np.int64(5), 5), (np.array(5.0), 5), (5, 5), (0, None), (np.nan, None), ("5", None), (None, None)]
)
def test_the_frame_rate_is_what_will_be_read_from_the_files(suite2p, model, registered, monkeypatch, fs, fps):
    suite2p.fs, seen, judge = fs, [], _suite2p_step._judge
    monkeypatch.setattr(_suite2p_step, "_judge", lambda recording, *args: (seen.append(recording.fps), judge(recording, *args))[1])
    with classify_with(model, plugins=registered) as steps:
        suite2p.run_s2p()
    assert [step.error for step in steps.planes] == [""]
    assert seen == [fps]


def test_the_movie_is_used_where_the_model_goes_by_it(suite2p, sorted_, registered, tmp_path, copied):
    name = "s2p_0146/mini" if suite2p.old else "s2p_110/mini"
    folder = copied(name, "taught")
    add_movie(folder / "plane0")
    truth = truth_of(folder)
    with actsort.open(folder, plugins=registered, refit_wait=None, features=["host", "movie_contamination", "movie_match"]) as session:
        for candidate in session.questions(20):
            session.label(candidate, int(truth[candidate.index]))
        model = models.from_session(session)
    movie = [feature.startswith("movie.") for feature in model.used()]
    assert 0 < sum(movie) < len(movie)
    add_movie(suite2p.plane)
    with classify_with(model, plugins=registered) as steps:
        without = suite2p.run_s2p()
        suite2p.movie = suite2p.plane / "data.bin"
        table = suite2p.run_s2p()
        suite2p.movie.write_bytes(b"")
        shorter = suite2p.run_s2p()
    lacking = ["movie." in " ".join(step.warnings) for step in steps.planes]
    assert lacking == [True, False, True]
    assert np.array_equal(without, shorter)
    assert not np.allclose(without[:, 1], table[:, 1])
    add_movie(suite2p.plane)
    (applied,) = batch.apply(model, suite2p.plane, plugins=registered)
    assert not applied.error
    assert np.allclose(table, np.load(suite2p.plane / "iscell.npy"), atol=1e-5)


def test_labels_stand(suite2p, model, registered):
    """The folder was labelled in an earlier session; Suite2p runs again and finds the same ROIs."""
    with actsort.open(suite2p.plane, plugins=registered, classes={"soma": "cell"}) as session:
        session.label(0, "not_cell")
        session.label(1, "cell")
        session.label(2, "soma")
        session.label(3, "unsure")
        session.label(1, "not_cell")
    before = tree(suite2p.plane, "nothing")
    with classify_with(model, plugins=registered) as steps:
        table = suite2p.run_s2p()
    assert table[:3].tolist() == [[0, 0], [0, 0], [1, 1]]
    assert 0 < table[3, 1] < 1
    assert steps.planes[0].labelled == 3
    assert tree(suite2p.plane, "nothing") == before  # Suite2p saves, not we


def test_a_session_as_the_model(suite2p, sorted_, registered):
    """Its own labels stand as well, also where its result is elsewhere."""
    folder = sorted_("s2p_0146/mini" if suite2p.old else "s2p_110/mini", labels=14, into="taught")
    with classify_with(folder, plugins=registered) as steps:
        suite2p.run_s2p()
    assert steps.planes[0].labelled == 14
    with (
        actsort.open(folder, plugins=registered, read_only=True, refit_wait=None) as session,
        classify_with(session, threshold=0.5) as steps,
    ):
        table = suite2p.run_s2p()
    assert steps.planes[0].labelled == 14
    assert steps.planes[0].threshold == 0.5
    assert ((table[:, 1] == 0) | (table[:, 1] == 1)).sum() == 14


@pytest.mark.parametrize("error", [MemoryError("full"), ValueError("x"), UsageError("The recording is odd.")])
def test_a_failure_does_not_cost_the_run(suite2p, model, registered, monkeypatch, error):
    def fail(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(_suite2p_step, "_judge", fail)
    before = suite2p.functions()
    with pytest.warns(UserWarning, match="The run goes on"), classify_with(model, plugins=registered) as steps:
        table = suite2p.run_s2p()
    assert np.array_equal(table, suite2p.own)
    assert "ActSort could not decide" in steps.planes[0].error
    assert "Suite2p's own classifier decided" in str(steps)
    assert suite2p.functions() == before
    # 0.14 with a classifier_path that is not there: its own classifier fails, too, before anything is saved
    for broken, expected in (({"file"}, suite2p.own), ({"file", "builtin"}, np.ones((30, 2)))):
        suite2p.broken = broken
        with pytest.warns(UserWarning, match="The run goes on"), classify_with(model, plugins=registered) as steps:
            assert np.array_equal(suite2p.run_s2p(), expected)
        assert "could not, either" in steps.planes[0].error


def test_traces_of_other_rois_are_not_taken(suite2p, model, registered):
    """`classify` called on its own, or on ROIs that were not those extracted last."""
    with warnings.catch_warnings(), classify_with(model, plugins=registered) as steps:
        warnings.simplefilter("ignore")
        classify = suite2p.modules["suite2p.classification"].classify
        assert np.array_equal(classify(suite2p.stat, "file"), suite2p.own)
        suite2p.traces = tuple(part[:-1] for part in suite2p.traces)
        assert np.array_equal(suite2p.run_s2p(), suite2p.own)
    assert all("traces" in step.error for step in steps.planes)
    assert len(steps.planes) == 2


def test_a_run_that_fails_leaves_suite2p_as_it_was(suite2p, model, registered):
    before = suite2p.functions()
    with pytest.raises(KeyboardInterrupt), classify_with(model, plugins=registered):
        raise KeyboardInterrupt
    assert suite2p.functions() == before

    def theirs(stat: Any, classfile: Any) -> None:
        """Somebody replaced it meanwhile."""

    with classify_with(model, plugins=registered):
        suite2p.modules["suite2p.classification"].classify = theirs
    assert suite2p.modules["suite2p.classification"].classify is theirs


def test_what_cannot_work_is_said_before_the_run(suite2p, model, registered, monkeypatch, tmp_path, sorted_):
    for bad in ({"favour": "speed"}, {"favour": "recall", "threshold": 0.5}, {"threshold": "match-labels"}):
        with pytest.raises(UsageError), classify_with(model, plugins=registered, **bad):
            pass
    with pytest.raises(ActsortError), classify_with(tmp_path / "nothing", plugins=registered):
        pass
    with pytest.raises(UsageError, match="no model yet"), classify_with(sorted_("s2p_110/chan2", labels=1), plugins=registered):
        pass
    del suite2p.modules["suite2p.classification"].classify
    with pytest.raises(PluginError, match=r"suite2p\.classification\.classify"), classify_with(model, plugins=registered):
        pass
    monkeypatch.setitem(sys.modules, "suite2p", None)
    for name in ("classification", "extraction", "run_s2p"):
        monkeypatch.setitem(sys.modules, f"suite2p.{name}", None)
    with pytest.raises(MissingDependencyError, match="Suite2p cannot be imported"), classify_with(model, plugins=registered):
        pass


# The entries in Suite2p's menu


def test_the_menu_entries_import_nothing():
    """Suite2p loads them when its window opens, and catches nothing."""
    found = {entry.name: entry for entry in entry_points(group="suite2p.plugin")}
    assert {"actsort", "actsort_ask"} <= set(found)
    code = "import sys\nfrom actsort_adapters.hosts.suite2p_plugin import ActSort, ActSortAsk\n"
    code += "print([cls(None).name for cls in (ActSort, ActSortAsk)])\n"
    code += "print('HEAVY', sorted({'numpy', 'sklearn', 'actsort_core.session', 'qtpy', 'PyQt6', 'suite2p'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "HEAVY []" in run.stdout
    assert run.stdout.startswith("['ActSort: sort again with my clicks', 'ActSort: ask me about ROIs']")
