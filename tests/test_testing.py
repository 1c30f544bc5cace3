"""The checks that are shipped for plug-in authors: the built-ins pass, and for every promise a plug-in that breaks it fails."""

from __future__ import annotations

import itertools
import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from actsort_adapters import actsort_matlab, caiman, cnmfe, extract, minian, nwb, plain, suite2p
from actsort_core import learn, plugins, strategies
from actsort_core.errors import FormatError
from actsort_core.features import Feature, FeatureGroup
from actsort_core.formats import CreatingFormat, FileEdit, Sniff, WritePlan
from actsort_core.learn import ClassifierSpec
from actsort_core.model import Curation, Prior, Recording
from actsort_core.strategies import QueryState, Strategy
from actsort_core.testing import check_classifier, check_feature, check_format, check_strategy, make_recording

EXAMPLE = Path(__file__).parents[1] / "examples" / "own_format"
DATA = Path(__file__).parent / "data"
NATIVE = [
    *("suite2p/s2p_110/mini/suite2p", "suite2p/s2p_110/twoplane/suite2p", "suite2p/s2p_0146/single/suite2p/plane0"),
    *("suite2p/s2p_0146/twoplane/suite2p", "caiman/cnmf_2p_3selected.hdf5", "caiman/cnmf_3d_evaluated.hdf5"),
    *("caiman/cnmfe_1p_evaluated.hdf5", "caiman/oldformat_v1.9.8_2p.hdf5", "caiman/onacid_2p.hdf5"),
]
ADAPTERS = [suite2p, caiman, cnmfe, extract, actsort_matlab, nwb, minian, plain]
INSTALLED = plugins.load(ADAPTERS)  # in an environment where the project is not installed, too


# ---- recordings


@pytest.mark.parametrize("fov", [(24, 35), (7, 9), (6, 11, 4)])
@pytest.mark.parametrize("n_cells", [0, 1, 2, 13])
def test_recordings_have_the_size_asked_for(n_cells: int, fov: tuple[int, ...]) -> None:
    recording = make_recording(n_cells, fov, n_frames=33)
    assert (recording.n_cells, recording.n_frames, recording.fov) == (n_cells, 33, fov)
    assert (np.diff(recording.footprints.indptr) > 0).all()
    assert set(recording.prior.verdict) <= {-1, 0, 1}
    assert {"SNR_comp", "r_values", "lab_score"} == set(recording.metrics)


def test_the_same_seed_makes_the_same_recording() -> None:
    a, b, c = make_recording(seed=4), make_recording(seed=4), make_recording(seed=5)
    assert a.fingerprint == b.fingerprint != c.fingerprint
    np.testing.assert_array_equal(a.traces[:], b.traces[:])


def test_nonfinite_values_are_where_they_are_announced() -> None:
    recording = make_recording(nonfinite=True, n_frames=50)
    bad = ~np.isfinite(recording.traces[:])
    assert bad[:, 25].all()
    assert np.isnan(recording.traces[0:1][0, 0])
    assert np.isposinf(recording.traces[1:2][0, -1])
    assert bad.sum() == 12 + 2
    assert np.isnan(recording.metrics["SNR_comp"][0])
    assert np.isposinf(recording.metrics["SNR_comp"][1])


def test_fields_can_be_replaced() -> None:
    recording = make_recording(3, fps=None, prior=Prior.undecided(3))
    assert recording.fps is None
    assert recording.prior.counts()["undecided"] == 3


# ---- formats


class Toy:
    """One or several recordings in a JSON file: what a format must do, in as few lines as possible."""

    name, description = "toy", "a JSON file, for tests"

    def sniff(self, path: Path) -> Sniff:
        try:
            if path.is_file() and isinstance(self.load(path).get("toy"), list):
                return Sniff(True, "it is a toy file")
        except (OSError, ValueError, AttributeError):
            pass
        return Sniff(False, "it is no JSON file with the key toy")

    def load(self, path: Path) -> dict[str, Any]:
        return dict(json.loads(path.read_text()))

    def read(self, path: Path) -> tuple[Recording, ...]:
        try:
            rows = self.load(path)["toy"]
            if not rows or any(set(row["verdict"]) - {-1, 0, 1} or not 0 <= row["seed"] < 1 << 32 for row in rows):
                raise ValueError("no verdicts, or other numbers")
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise FormatError(f"{path} is damaged ({error}).", "Restore it.") from error
        return tuple(self.one(path, i, row) for i, row in enumerate(rows))

    def one(self, path: Path, index: int, row: Mapping[str, Any]) -> Recording:
        made = make_recording(len(row["verdict"]), seed=row["seed"])
        prior = Prior(np.array(row["verdict"], np.int8), np.full(made.n_cells, np.nan))
        return replace(made, name=f"plane{index}", path=path, format=self.name, prior=prior)

    def plan(self, recordings: Sequence[Recording], curations: Sequence[Curation]) -> WritePlan:
        path = recordings[0].path
        return WritePlan((FileEdit(path, "the verdicts", lambda tmp: self.stage(path, tmp, curations)),))

    def stage(self, path: Path, tmp: Path, curations: Sequence[Curation]) -> None:
        document = self.load(path)
        for row, curation in zip(document["toy"], curations, strict=True):
            row["verdict"] = self.verdicts(curation)
        tmp.write_text(json.dumps(document))

    def verdicts(self, curation: Curation) -> list[int]:
        return [int(v) for v in np.where(curation.accepted, 1, np.where(curation.undecided, 0, -1))]


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    rows = [{"seed": 1, "verdict": [1, -1, 0, 1, -1, 0, 1]}, {"seed": 2, "verdict": [1, -1, 1]}]
    path = tmp_path / "result.toy"
    path.write_text(json.dumps({"toy": rows, "kept": "as it is"}))
    return path


def test_a_sound_format_passes_and_the_result_itself_is_left_alone(toy: Path) -> None:
    before = toy.read_bytes()
    check_format(Toy(), toy)
    assert toy.read_bytes() == before
    assert list(toy.parent.iterdir()) == [toy]


@pytest.mark.parametrize("name", [name for name, fmt in INSTALLED.formats.items() if isinstance(fmt, CreatingFormat)])
def test_installed_formats_pass_on_what_they_create(name: str) -> None:
    check_format(INSTALLED.formats[name], damaged=4)


@pytest.mark.parametrize("path", NATIVE)
def test_the_oldest_formats_pass_on_files_of_the_real_tools(path: str) -> None:
    check_format(INSTALLED.formats[path.split("/")[0]], DATA / path, damaged=10)


def test_installed_formats_refuse_the_toy_file(toy: Path) -> None:
    for fmt in INSTALLED.formats.values():
        assert not fmt.sniff(toy).yes


def edited(**changes: Any) -> Callable[[Toy, Path, int, Mapping[str, Any]], Recording]:
    return lambda self, path, index, row: replace(Toy.one(self, path, index, row), **changes)


class Counter:
    count = 0

    @classmethod
    def next(cls) -> int:
        cls.count += 1
        return cls.count


def with_weights(recording: Recording, factor: float) -> Recording:
    return replace(recording, footprints=(recording.footprints * np.float32(factor)).tocsc())


def no_stage(self: Toy, recordings: Sequence[Recording], curations: Sequence[Curation]) -> WritePlan:
    return WritePlan(())


def in_place(self: Toy, recordings: Sequence[Recording], curations: Sequence[Curation]) -> WritePlan:
    self.stage(recordings[0].path, recordings[0].path, curations)
    return Toy.plan(self, recordings, curations)


def stage_in_place(self: Toy, path: Path, tmp: Path, curations: Sequence[Curation]) -> None:
    Toy.stage(self, path, tmp, curations)
    shutil.copyfile(tmp, path)


def stage_leaves_a_log(self: Toy, path: Path, tmp: Path, curations: Sequence[Curation]) -> None:
    Toy.stage(self, path, tmp, curations)
    (path.parent / "log.txt").write_text("staged")


def log_only_for_whole_writes(self: Toy, path: Path, tmp: Path, curations: Sequence[Curation]) -> None:
    Toy.stage(self, path, tmp, curations)
    if "check.tmp" not in tmp.name:
        (path.parent / "log.txt").write_text("staged")


def elsewhere(self: Toy, recordings: Sequence[Recording], curations: Sequence[Curation]) -> WritePlan:
    path = recordings[0].path.with_name("other.json")
    return WritePlan((FileEdit(path, "a file beside it", lambda tmp: tmp.write_text("{}") and None),))


def twice(self: Toy, recordings: Sequence[Recording], curations: Sequence[Curation]) -> WritePlan:
    return WritePlan(Toy.plan(self, recordings, curations).edits * 2)


def stage_changes_seed(self: Toy, path: Path, tmp: Path, curations: Sequence[Curation]) -> None:
    document = self.load(path)
    for row, curation in zip(document["toy"], curations, strict=True):
        row |= {"verdict": self.verdicts(curation), "seed": row["seed"] + 1}
    tmp.write_text(json.dumps(document))


def rate_from_verdicts(self: Toy, path: Path, index: int, row: Mapping[str, Any]) -> Recording:
    return replace(Toy.one(self, path, index, row), fps=1.0 + sum(v > 0 for v in row["verdict"]))


def weights_from_verdicts(self: Toy, path: Path, index: int, row: Mapping[str, Any]) -> Recording:
    return with_weights(Toy.one(self, path, index, row), 1.0 + sum(v > 0 for v in row["verdict"]))


def weights_from_path(self: Toy, path: Path, index: int, row: Mapping[str, Any]) -> Recording:
    return with_weights(Toy.one(self, path, index, row), 1.0 + (path.parent.name == "there"))


def notes_a_visit(self: Toy, path: Path) -> tuple[Recording, ...]:
    (path.parent / "visited").touch()
    return Toy.read(self, path)


class Slices:
    """Traces that depend on how they are read."""

    shape = (7, 200)

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(7)
        return np.full((stop - start, 200), stop - start, np.float32)


def bad_traces(self: Toy, path: Path, index: int, row: Mapping[str, Any]) -> Recording:
    made = Toy.one(self, path, index, row)
    return replace(made, traces=Slices()) if made.n_cells == 7 else made


def double_traces(self: Toy, path: Path, index: int, row: Mapping[str, Any]) -> Recording:
    made = Toy.one(self, path, index, row)
    return replace(made, traces=np.asarray(made.traces[:], np.float64))


def stored_zeros(self: Toy, path: Path, index: int, row: Mapping[str, Any]) -> Recording:
    made = Toy.one(self, path, index, row)
    matrix = made.footprints.copy()
    matrix.data[0] = 0
    return replace(made, footprints=matrix)


def double_footprints(self: Toy, path: Path, index: int, row: Mapping[str, Any]) -> Recording:
    made = Toy.one(self, path, index, row)
    return replace(made, footprints=made.footprints.astype(np.float64))


def unsorted_footprints(self: Toy, path: Path, index: int, row: Mapping[str, Any]) -> Recording:
    made = Toy.one(self, path, index, row)
    a = made.footprints
    order = np.concatenate([np.arange(start, stop)[::-1] for start, stop in itertools.pairwise(a.indptr)])
    return replace(made, footprints=sp.csc_matrix((a.data[order], a.indices[order], a.indptr), shape=a.shape))


def coo(self: Toy, path: Path, index: int, row: Mapping[str, Any]) -> Recording:
    made = Toy.one(self, path, index, row)
    return replace(made, footprints=sp.coo_matrix(made.footprints))


def verdicts_of_two(self: Toy, path: Path, index: int, row: Mapping[str, Any]) -> Recording:
    made = Toy.one(self, path, index, row)
    return replace(made, prior=Prior(made.prior.verdict * np.int8(2), made.prior.probability))


def sure_of_two(self: Toy, path: Path, index: int, row: Mapping[str, Any]) -> Recording:
    made = Toy.one(self, path, index, row)
    return replace(made, prior=Prior(made.prior.verdict, np.full(made.n_cells, 2.0)))


def integer_metrics(self: Toy, path: Path, index: int, row: Mapping[str, Any]) -> Recording:
    made = Toy.one(self, path, index, row)
    return replace(made, metrics={"npix": np.ones(made.n_cells, np.int64)})


def raises(*_: Any) -> Any:
    raise KeyError("no such field")


def sniff_touches(self: Toy, path: Path) -> Sniff:
    if path.is_dir():
        (path / "seen").touch()
    return Toy.sniff(self, path)


BROKEN_FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "no name": ("no usable name", {"name": ""}),
    "no description": ("no description", {"description": " "}),
    "no plan": ("lacks a method", {"plan": None}),
    "refuses its own": ("refuses result.toy", {"sniff": lambda self, path: Sniff(False, "it never does")}),
    "sniff says nothing": ("instead of a Sniff", {"sniff": lambda self, path: True}),
    "sniff gives no reason": ("does not say why", {"sniff": lambda self, path: Sniff(True, "")}),
    "claims everything": ("claims the foreign", {"sniff": lambda self, path: Sniff(True, "it always does")}),
    "claims by suffix": (
        "claims the foreign file foreign.toy",
        {"sniff": lambda self, path: Sniff(path.is_file() and path.suffix == ".toy", "its suffix")},
    ),
    "sniff raises": ("Sniffing result.toy raised KeyError", {"sniff": raises}),
    "sniff raises for foreign files": (
        "raised",
        {"sniff": lambda self, path: Sniff(isinstance(self.load(path)["toy"], list), "it is a toy file")},
    ),
    "sniff touches": ("changed a foreign file", {"sniff": sniff_touches}),
    "read raises": ("Reading result.toy raised KeyError", {"read": raises}),
    "a list": ("instead of a tuple", {"read": lambda self, path: list(Toy.read(self, path))}),
    "nothing": ("instead of a tuple", {"read": lambda self, path: ()}),
    "one name": ("same name", {"one": edited(name="plane")}),
    "another format": ("of format 'made'", {"one": edited(format="made")}),
    "a path that is gone": ("does not exist", {"one": edited(path=Path("/nowhere/at/all"))}),
    "no rate": ("nan frames per second", {"one": edited(fps=float("nan"))}),
    "float fov": ("not of integers", {"one": edited(fov=(24.0, 35.0))}),
    "coo": ("not a sparse CSC matrix", {"one": coo}),
    "double footprints": ("not canonical CSC float32", {"one": double_footprints}),
    "pixels out of order": ("not canonical CSC float32", {"one": unsorted_footprints}),
    "stored zeros": ("stores zeros", {"one": stored_zeros}),
    "traces by the slice": ("when read in parts", {"one": bad_traces}),
    "double traces": ("float64, not float32", {"one": double_traces}),
    "verdicts of two": ("verdicts other than", {"one": verdicts_of_two}),
    "probability of two": ("outside 0..1", {"one": sure_of_two}),
    "integer metrics": ("metric 'npix' of int64", {"one": integer_metrics}),
    "info is no JSON": ("as JSON raised", {"one": edited(info={"when": {1, 2}})}),
    "empty note": ("not sentences", {"one": edited(notes=("",))}),
    "unstable": ("Reading the same path twice gives another fov, fps", {"one": lambda *a: replace(Toy.one(*a), fps=float(Counter.next()))}),
    "unstable order": (
        "another order",
        {"read": lambda self, path: tuple(Toy.read(self, path)[:: 1 if Counter.next() % 2 else -1])},
    ),
    "fingerprint from path": ("Reading a copy in another folder gives other fingerprints", {"one": weights_from_path}),
    "reading leaves a file": ("Sniffing or reading changed files", {"read": notes_a_visit}),
    "plan writes": ("plan changed files", {"plan": in_place}),
    "plan returns edits": ("instead of a WritePlan", {"plan": lambda *a: Toy.plan(*a).edits}),
    "edit without words": (
        "does not say what changes",
        {"plan": lambda *a: WritePlan(tuple(replace(e, what="") for e in Toy.plan(*a).edits))},
    ),
    "plan raises": ("plan raised KeyError", {"plan": raises}),
    "edits elsewhere": ("not part of", {"plan": elsewhere}),
    "edits twice": ("one file twice", {"plan": twice}),
    "stages in place": ("changed another file than its temporary one", {"stage": stage_in_place}),
    "stage leaves a log": ("changed another file than its temporary one", {"stage": stage_leaves_a_log}),
    "stages nothing": ("left no content", {"stage": lambda *a: None}),
    "stage raises": ("Staging result.toy raised KeyError", {"stage": raises}),
    "writes a log": ("that the plan does not name: log.txt", {"stage": log_only_for_whole_writes}),
    "plans nothing": ("did not read back as written", {"plan": no_stage}),
    "writes nonsense": ("did not read back as written", {"verdicts": lambda self, c: [-int(v) for v in Toy.verdicts(self, c)]}),
    "can only reject": ("did not read back as written", {"verdicts": lambda self, c: [-1] * c.n_cells}),
    "rejected is undecided": ("comes back as undecided", {"verdicts": lambda self, c: [int(a) for a in c.accepted]}),
    "changes footprints": ("Write-back (every other one accepted) failed", {"stage": stage_changes_seed}),
    "fingerprint from verdicts": ("Write-back (every other one accepted) failed", {"one": weights_from_verdicts}),
    "changes the rate": ("reading gives another fov, fps or trace_kind", {"one": rate_from_verdicts}),
}


@pytest.mark.parametrize("name", BROKEN_FORMATS)
def test_a_format_that_breaks_a_promise_fails(name: str, toy: Path) -> None:
    sentence, changes = BROKEN_FORMATS[name]
    broken = type("Broken", (Toy,), changes)()
    with pytest.raises(AssertionError) as caught:
        check_format(broken, toy)
    assert sentence in str(caught.value)


def test_a_restore_that_fails_is_named(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from actsort_core import writeback

    monkeypatch.setattr(writeback, "restore", lambda *_: ())
    with pytest.raises(AssertionError, match="original bytes"):
        check_format(Toy(), toy)


def test_decisions_are_compared_whatever_write_back_does(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from actsort_core import writeback

    monkeypatch.setattr(writeback, "_verify", lambda *_: None)
    with pytest.raises(AssertionError, match="do not come back as written"):
        check_format(type("Broken", (Toy,), {"plan": no_stage})(), toy)


def test_the_authors_own_foreign_files_are_tried(toy: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text('{"toy": []}')
    with pytest.raises(AssertionError, match=r"claims the foreign file other\.json"):
        check_format(Toy(), toy, foreign=[other])


# ---- formats that create, and damaged files: what breaks the promises of examples/own_format


sys.path.insert(0, str(EXAMPLE))
try:
    from own_format.rois import RoisFormat
finally:
    sys.path.remove(str(EXAMPLE))


class Rois(RoisFormat):
    """The format of the example, in pieces that can be broken."""

    def create(self, recordings: Sequence[Recording], curations: Sequence[Curation | None], dst: Path) -> tuple[Path, ...]:
        return super().create([self.changed(r) for r in recordings], curations, dst)

    def changed(self, recording: Recording) -> Recording:
        return recording


def scaled(recording: Recording, factor: float) -> Recording:
    return replace(recording, traces=np.asarray(recording.traces[0 : recording.n_cells]) * np.float32(factor))


def reversed_order(recording: Recording) -> Recording:
    order = np.arange(recording.n_cells)[::-1]
    prior = Prior(recording.prior.verdict[order], recording.prior.probability[order])
    traces = np.asarray(recording.traces[0 : recording.n_cells])[order]
    return replace(recording, footprints=recording.footprints[:, order], traces=traces, prior=prior, metrics={})


def all_accepted(recording: Recording) -> Recording:
    return replace(recording, prior=Prior(np.ones(recording.n_cells, np.int8), recording.prior.probability))


def create_elsewhere(self: Rois, recordings: Sequence[Recording], curations: Sequence[Curation | None], dst: Path) -> Any:
    return RoisFormat.create(self, recordings, curations, dst.with_suffix(".rois"))


def create_with_a_log(self: Rois, recordings: Sequence[Recording], curations: Sequence[Curation | None], dst: Path) -> Any:
    (dst.parent / "log.txt").touch()
    return RoisFormat.create(self, recordings, curations, dst)


def create_over(self: Rois, recordings: Sequence[Recording], curations: Sequence[Curation | None], dst: Path) -> Any:
    if dst.exists():
        shutil.rmtree(dst)
    return RoisFormat.create(self, recordings, curations, dst)


def create_in_place(self: Rois, recordings: Sequence[Recording], curations: Sequence[Curation | None], dst: Path) -> Any:
    self.losses(recordings, curations)
    if dst.exists():
        return RoisFormat.create(self, recordings, curations, dst)
    dst.mkdir()
    files = RoisFormat.create(self, recordings, curations, dst / "new")
    for file in files:
        shutil.move(file, dst)
    (dst / "new").rmdir()
    return tuple(dst / file.name for file in files)


def create_anything(self: Rois, recordings: Sequence[Recording], curations: Sequence[Curation | None], dst: Path) -> Any:
    try:
        return RoisFormat.create(self, recordings, curations, dst)
    except FormatError:
        dst.mkdir()


def half_of_it(recording: Recording) -> Recording:
    try:
        recording.traces[0:1]
    except OSError:
        return replace(recording, traces=np.zeros(recording.traces.shape, np.float32))
    return recording


def sniff_by_name(self: Rois, path: Path) -> Sniff:
    return RoisFormat.sniff(self, path) if path.suffix == ".rois" else Sniff(False, "its name")


def read_carelessly(self: Rois, path: Path) -> tuple[Recording, ...]:
    json.loads((path / "rois.json").read_bytes())
    return RoisFormat.read(self, path)


def read_and_mend(self: Rois, path: Path) -> tuple[Recording, ...]:
    try:
        return RoisFormat.read(self, path)
    except FormatError:
        (path / "broken.txt").touch()
        raise


BROKEN_CREATING: dict[str, tuple[str, dict[str, Any]]] = {
    "another name": ("the destination is used as given", {"create": create_elsewhere}),
    "a file beside it": ("left something beside", {"create": create_with_a_log}),
    "nothing returned": ("not the files it wrote", {"create": lambda *a: RoisFormat.create(*a) and None}),
    "recognised by name": ("sniff refuses a new result", {"sniff": sniff_by_name}),
    "over a result": ("writes over a result", {"create": create_over}),
    "half of a result": ("half-way, and left something", {"create": create_in_place}),
    "traces made up": ("goes on without traces", {"changed": lambda self, r: half_of_it(r)}),
    "other traces": ("Traces do not read back", {"changed": lambda self, r: scaled(r, 1.001)}),
    "other weights": ("Footprints do not read back", {"changed": lambda self, r: with_weights(r, 1.0001)}),
    "another order": ("Footprints do not read back", {"changed": lambda self, r: reversed_order(r)}),
    "other verdicts": ("verdicts do not read back", {"changed": lambda self, r: all_accepted(r)}),
    "no decisions": (
        "Decisions do not read back",
        {"create": lambda self, rs, _, dst: RoisFormat.create(self, rs, [None] * len(rs), dst)},
    ),
    "no rate, unsaid": ("frames per second are not carried over", {"changed": lambda self, r: replace(r, fps=None)}),
    "losses unsaid": ("not carried over, and losses does not say so", {"losses": lambda self, *a: RoisFormat.losses(self, *a) and ()}),
    "always the same losses": (
        "not carried over",
        {"losses": lambda self, *a: RoisFormat.losses(self, *a) and ("The rest.",)},
    ),
    "losses in a list": ("not a tuple of sentences", {"losses": lambda self, *a: list(RoisFormat.losses(self, *a))}),
    "losses raises": ("losses raised KeyError", {"losses": raises}),
    "cannot, and does": ("cannot hold this, and create writes it", {"create": create_anything}),
    "careless": ("was raised, not an ActsortError|raised JSONDecodeError", {"read": read_carelessly}),
    "mends": ("changed files", {"read": read_and_mend}),
}


@pytest.mark.parametrize("name", BROKEN_CREATING)
def test_a_format_that_creates_badly_fails(name: str) -> None:
    sentence, changes = BROKEN_CREATING[name]
    with pytest.raises(AssertionError) as caught:
        check_format(type("Broken", (Rois,), changes))
    assert any(part in str(caught.value) for part in sentence.split("|"))


def test_a_class_will_do_and_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    check_format(Rois)
    assert list(tmp_path.iterdir()) == []


def test_a_format_that_cannot_create_needs_a_result() -> None:
    with pytest.raises(AssertionError, match="pass the path of one"):
        check_format(Toy)


def test_decisions_for_a_result_that_was_replaced_must_be_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from actsort_core import writeback
    from actsort_core.testing import _create

    monkeypatch.setattr(writeback, "write_back", lambda *_: None)
    with pytest.raises(AssertionError, match="replaced by another"):
        _create._check_changed(Rois(), tmp_path / "changed")


# ---- features


@pytest.mark.parametrize("fields", [{}, {"n_cells": 0}, {"n_cells": 1}, {"n_cells": 2}, {"nonfinite": True}, {"fov": (9, 14, 5)}], ids=str)
@pytest.mark.parametrize("name", list(INSTALLED.features))
def test_installed_features_pass(name: str, fields: dict[str, Any], tmp_path: Path) -> None:
    recording = make_recording(**fields)
    if "movie" in INSTALLED.features[name].needs:
        rng = np.random.default_rng(0)
        light = (recording.footprints @ np.nan_to_num(recording.traces, posinf=0)).T + 50
        np.save(tmp_path / "movie.npy", rng.poisson(light.clip(1)).astype(np.int16).reshape(-1, *recording.fov))
        recording = replace(recording, movie_path=tmp_path / "movie.npy")
    check_feature(INSTALLED.features[name], recording)


def group(compute: Callable[[Recording], Mapping[str, Any]], names: Sequence[str] = ("lab.x",), **fields: Any) -> FeatureGroup:
    features = tuple(Feature(name, "1", 1, None, "for tests") for name in names)
    return replace(FeatureGroup("lab", features, frozenset({"traces"}), compute), **fields)


def mean(recording: Recording) -> dict[str, Any]:
    with np.errstate(all="ignore"):
        return {"lab.x": np.asarray(recording.traces[0 : recording.n_cells]).mean(axis=1)}


def over_all(recording: Recording) -> dict[str, Any]:
    """One bad candidate spoils every other."""
    values = mean(recording)["lab.x"]
    return {"lab.x": values - values.sum() / max(1, len(values))}


def scaled_in_place(recording: Recording) -> dict[str, Any]:
    recording.footprints.data[:] = 1
    return mean(recording)


def nan_is_an_error(recording: Recording) -> dict[str, Any]:
    values = mean(recording)["lab.x"]
    if not np.isfinite(values).all():
        raise ValueError("NaN")
    return {"lab.x": values}


BROKEN_GROUPS: dict[str, tuple[str, FeatureGroup]] = {
    "upper case": ("not short and lower-case", group(mean, name="Lab")),
    "needs sound": ("needs ['sound']", group(mean, needs=frozenset({"sound"}))),
    "needs a movie": ("has one", group(mean, needs=frozenset({"movie"}))),
    "announces nothing": ("announces no features", group(lambda r: {}, [])),
    "announces twice": ("a name twice", group(mean, ["lab.x", "lab.x"])),
    "name without group": ("does not start with 'lab.'", group(lambda r: {"x": mean(r)["lab.x"]}, ["x"])),
    "version 0": ("has version 0", group(mean, features=(Feature("lab.x", "1", 0, None, "x"),))),
    "no unit": ("lacks its unit", group(mean, features=(Feature("lab.x", "", 1, None, "x"),))),
    "not announced": ("does not announce", group(lambda r: {"lab.y": mean(r)["lab.x"]})),
    "not computed": ("announces what it does not compute: lab.y", group(mean, ["lab.x", "lab.y"])),
    "shape": ("has shape", group(lambda r: {"lab.x": np.zeros((r.n_cells, 2))})),
    "length": ("has shape", group(lambda r: {"lab.x": np.zeros(12)})),
    "random": ("computed twice", group(lambda r: {"lab.x": np.random.default_rng().random(r.n_cells)})),
    "index": ("depends on the order", group(lambda r: {"lab.x": np.arange(r.n_cells)})),
    "raises on NaN": ("failed on", group(nan_is_an_error)),
    "spoils others": ("of healthy candidates is lost", group(over_all)),
    "empty": ("failed on", group(lambda r: {"lab.x": np.full(r.n_cells, np.asarray(r.traces[0 : r.n_cells]).max())})),
    "rows by number": ("failed on", group(lambda r: {"lab.x": np.array([r.traces[i].mean() for i in range(r.n_cells)])})),
    "changes the input": ("changes the recording", group(scaled_in_place)),
    "verdicts of others": ("depends on the verdicts on others", group(lambda r: {"lab.x": r.prior.verdict - np.sum(r.prior.verdict)})),
    "columns by verdict": (
        "columns there are depends on the verdicts",
        group(lambda r: mean(r) if r.prior.verdict.sum() > 0 else {}, [], open_ended=True),
    ),
}


def test_a_sound_group_passes() -> None:
    check_feature(group(mean), make_recording())


@pytest.mark.parametrize("name", BROKEN_GROUPS)
def test_a_group_that_breaks_a_promise_fails(name: str) -> None:
    sentence, broken = BROKEN_GROUPS[name]
    verdict = np.array([1] * 9 + [-1] * 3, np.int8)
    with pytest.raises(AssertionError) as caught:
        check_feature(broken, make_recording(prior=Prior(verdict, np.full(12, np.nan))))
    assert sentence in str(caught.value)


# ---- strategies


@pytest.mark.parametrize("name", list(INSTALLED.strategies))
def test_installed_strategies_pass(name: str) -> None:
    check_strategy(INSTALLED.strategies[name], file_order=name == "first_to_last")


def writes(state: QueryState) -> np.ndarray:
    state.probability[:] = 0
    return state.probability


_calls = itertools.count()
BROKEN_STRATEGIES: dict[str, tuple[str, Any]] = {
    "no strategy": ("is not a Strategy", strategies.cal),
    "no name": ("no usable name", Strategy("", "x", strategies.cal)),
    "scalar": ("returned shape ()", Strategy("x", "x", lambda s: np.float64(1))),
    "matrix": ("returned shape (0, 4)", Strategy("x", "x", lambda s: s.features)),
    "raises": ("raised IndexError", Strategy("x", "x", lambda s: s.probability[[0] * len(s.labelled)] + s.features[3, 0])),
    "all NaN": ("NaN for every candidate with a model", Strategy("x", "x", lambda s: s.probability * np.nan)),
    "needs a model after all": ("should say needs_model=True", Strategy("x", "x", strategies.cal, needs_model=False)),
    "impure": ("says otherwise", Strategy("x", "x", lambda s: s.probability + next(_calls))),
    "writes": ("changes the probability of its state", Strategy("x", "x", writes)),
    "file order": ("depends on the order", INSTALLED.strategies["first_to_last"]),
    "fixed seed": ("depends on the order", Strategy("x", "x", lambda s: np.random.default_rng(0).random(len(s.labelled)))),
}


@pytest.mark.parametrize("name", BROKEN_STRATEGIES)
def test_a_strategy_that_breaks_a_promise_fails(name: str) -> None:
    sentence, broken = BROKEN_STRATEGIES[name]
    with pytest.raises(AssertionError) as caught:
        check_strategy(broken)
    assert sentence in str(caught.value)


# ---- classifiers


@pytest.mark.parametrize("name", list(INSTALLED.classifiers))
def test_installed_classifiers_pass(name: str) -> None:
    check_classifier(INSTALLED.classifiers[name])


class Centroid:
    """Nearest class mean, as a probability."""

    def fit(self, X: np.ndarray, y: np.ndarray) -> Centroid:
        self.w = X[y == 1].mean(axis=0) - X[y == 0].mean(axis=0)
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        p = 1 / (1 + np.exp(-np.clip(X @ self.w, -30, 30)))
        return np.column_stack([1 - p, p])


def spec(**methods: Any) -> ClassifierSpec:
    return ClassifierSpec("centroid", "nearest class mean", type("Changed", (Centroid,), methods))


def in_place_fit(self: Centroid, X: np.ndarray, y: np.ndarray) -> Centroid:
    Centroid.fit(self, X, y)
    y[:] = 0
    return self


def strict_fit(self: Centroid, X: np.ndarray, y: np.ndarray) -> Centroid:
    if (X.std(axis=0) == 0).any():
        raise ValueError("a constant column")
    return Centroid.fit(self, X, y)


def needs_many(self: Centroid, X: np.ndarray, y: np.ndarray) -> Centroid:
    if min((y == 1).sum(), (y == 0).sum()) < 2:
        raise ValueError("too few labels")
    return Centroid.fit(self, X, y)


_one = Centroid()
BROKEN_CLASSIFIERS: dict[str, tuple[str, Any]] = {
    "no spec": ("is not a ClassifierSpec", Centroid()),
    "no description": ("no description", ClassifierSpec("x", "", Centroid)),
    "cannot be made": ("Making classifier 'x' raised KeyError", ClassifierSpec("x", "x", raises)),
    "one object": ("same object twice", ClassifierSpec("x", "x", lambda: _one)),
    "decision values": ("of shape", spec(predict_proba=lambda self, X: X @ self.w)),
    "not probabilities": ("outside 0..1", spec(predict_proba=lambda self, X: np.column_stack([-(X @ self.w), 1 + X @ self.w]))),
    "NaN": ("outside 0..1", spec(predict_proba=lambda self, X: np.full((len(X), 2), np.nan))),
    "sum": ("do not sum to one", spec(predict_proba=lambda self, X: np.full((len(X), 2), 0.4))),
    "wrong class": ("of the wrong class", spec(predict_proba=lambda self, X: Centroid.predict_proba(self, X)[:, ::-1])),
    "other classes": ("instead of [0, 1]", spec(classes_=np.array([1, 0]))),
    "random": (
        "not deterministic",
        spec(predict_proba=lambda self, X: Centroid.predict_proba(self, X + np.random.default_rng().normal(0, 0.01, X.shape))),
    ),
    "changes labels": ("changes its inputs", spec(fit=in_place_fit)),
    "constant columns": ("constant columns) raised ValueError", spec(fit=strict_fit)),
    "rare class": ("1 + 29 labels) raised ValueError", spec(fit=needs_many)),
}


def test_a_sound_classifier_passes() -> None:
    check_classifier(spec())
    assert learn.fit(spec(), np.eye(4, dtype=np.float32), np.arange(4), np.array([0, 1, 0, 1], np.int8)).n_labels == 4


@pytest.mark.parametrize("name", BROKEN_CLASSIFIERS)
def test_a_classifier_that_breaks_a_promise_fails(name: str) -> None:
    sentence, broken = BROKEN_CLASSIFIERS[name]
    with pytest.raises(AssertionError) as caught:
        check_classifier(broken)
    assert sentence in str(caught.value)
