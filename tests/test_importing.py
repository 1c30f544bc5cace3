"""Decisions made elsewhere become labels: matched by content, people's told from the toolkit's, nothing overwritten."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp
import toy_format
from conftest import make_plugins, simulated

from actsort_core import clicks, store
from actsort_core.errors import ChangedError, FormatError, MissingFileError, UsageError, WriteError
from actsort_core.importing import import_labels
from actsort_core.journal import FILE, parse
from actsort_core.model import Prior, Recording, as_footprints

SUITE2P = Path(__file__).parent / "data/suite2p/s2p_110/mini/suite2p"
TWO = Path(__file__).parent / "data/suite2p/s2p_110/twoplane/suite2p"


@pytest.fixture
def take(toy_plugins: Any) -> Callable[..., Any]:
    def run(target: Any, *sources: Any, **options: Any) -> Any:
        return import_labels(target, *sources, **{"plugins": toy_plugins, "annotator": "ann", **options})

    return run


def picked(recording: Recording, order: Any) -> Recording:
    order = np.asarray(order)
    prior = Prior(recording.prior.verdict[order], recording.prior.probability[order])
    return replace(recording, footprints=recording.footprints[:, order], traces=recording.traces[order], prior=prior)


def values(session: Any) -> dict[int, str]:
    return {label.candidate.index: label.value for label in session.labels()}


def events(folder: Path) -> list[dict[str, Any]]:
    return parse((folder / FILE).read_bytes())[0]


# Another session


def test_labels_of_another_session_come_in_the_names_of_their_authors(opened, toy, take, tmp_path):
    result, theirs = toy("mine", a=40), tmp_path / "theirs"
    order = np.random.default_rng(1).permutation(40)[:30]
    toy_format.save_folder(theirs, picked(simulated()[0], order), "b")  # other order, other name, fewer
    with opened(theirs, annotator="ana") as session:
        for i in range(6):
            session.label(i, ("cell", "not_cell", "unsure")[i % 3])
        session.undo()
        session.label(0, "not_cell", annotator="ben")
        session.label(1, "not_cell", annotator="ben")
    with opened(result):
        pass
    before = (theirs / "actsort" / FILE).read_bytes()
    dry = take(result, theirs / "actsort", dry_run=True)
    assert events(result / "actsort") == []
    report = take(result, theirs / "actsort")
    assert [(t.candidate, t.value, t.annotator) for t in dry.taken] == [(t.candidate, t.value, t.annotator) for t in report.taken]
    assert (theirs / "actsort" / FILE).read_bytes() == before
    with opened(result, consensus="majority") as session:
        assert {c.index: {who: la.value for who, la in by.items()} for c, by in session.votes().items()} == {
            order[0]: {"ana": "cell", "ben": "not_cell"},
            order[1]: {"ana": "not_cell", "ben": "not_cell"},
            order[2]: {"ana": "unsure"},
            order[3]: {"ana": "cell"},
            order[4]: {"ana": "not_cell"},
        }
        assert {label.reason for label in session.labels()} <= {"import", "review"}
    first = events(result / "actsort")[0]
    assert first["source"]["path"] == str(theirs / "actsort")
    assert first["source"] | {"time": ""} == {
        "path": str(theirs / "actsort"), "kind": "session", "index": 0, "matched": "fingerprint", "time": "", "automatic": False,
    }  # fmt: skip
    again = take(result, theirs / "actsort")
    assert (len(again.taken), again.known) == (0, 7), "twice is once"
    shutil.rmtree(theirs / "actsort/features", ignore_errors=True)
    for path in theirs.glob("*.npz"):
        path.unlink()  # the other result need not be there
    assert take(result, theirs / "actsort", dry_run=True).known == 7


def test_candidates_that_are_not_here_are_listed(opened, toy, take, tmp_path):
    mine, theirs = tmp_path / "mine", toy("theirs", a=40)
    toy_format.save_folder(mine, picked(simulated()[0], range(10, 40)), "a")
    with opened(theirs) as session:
        session.label(3, "cell")
        session.label(20, "cell")
    report = take(mine, theirs / "actsort")
    assert [(s.index, s.value) for s in report.unmatched[theirs / "actsort"]] == [(3, "cell")]
    assert "candidates that the session does not hold: 3" in str(report)
    with opened(mine) as session:
        assert values(session) == {10: "cell"}


def test_own_classes_come_along_or_are_refused(opened, toy, take):
    mine, theirs = toy("mine", a=40), toy("theirs", a=40)
    with opened(theirs, classes={"dendrite": "not_cell"}) as session:
        session.label(0, "dendrite")
    with opened(mine):
        pass
    assert take(mine, theirs / "actsort").classes == {"dendrite": "not_cell"}
    with opened(mine) as session:
        assert values(session) == {0: "dendrite"}
    other = toy("other", a=40)
    with opened(other, classes={"dendrite": "cell"}):
        pass
    with pytest.raises(UsageError, match="dendrite"):
        take(other, theirs / "actsort")
    assert events(other / "actsort") == []


def test_conflicts_are_listed_and_never_taken_silently(opened, toy, take, cli):
    mine, theirs = toy("mine", a=40), toy("theirs", a=40)
    with opened(mine, annotator="ann") as session:
        session.label(0, "cell")
        session.label(1, "cell")
    with opened(theirs, annotator="ben") as session:
        session.label(0, "not_cell")
        session.label(1, "cell")
        session.label(2, "cell")
    done = cli("import-labels", mine, theirs / "actsort", "--json", "--dry-run")
    assert done.code == 0, done.err
    assert done.json()["conflicts"][0]["existing"] == {"value": "cell", "annotator": "ann"}
    report = take(mine, theirs / "actsort")
    assert [(c.candidate.index, c.value) for c in report.conflicts] == [(0, "not_cell")]
    assert "candidate 0: not_cell by ben, there: cell by ann" in str(report)
    with opened(mine) as session:
        assert values(session) == {0: "cell", 1: "cell", 2: "cell"}
    done = cli("import-labels", mine, theirs / "actsort", "--replace")
    assert "1 replace what is there" in done.out
    with opened(mine) as session:
        assert values(session) == {0: "not_cell", 1: "cell", 2: "cell"}
        assert {who: la.value for who, la in session.votes()[session.id(0)].items()} == {"ann": "cell", "ben": "not_cell"}


def test_two_sources_that_contradict_each_other_are_a_conflict(toy, take, tmp_path, opened):
    mine = toy("mine", a=40)
    for name, value in (("one", 1), ("two", 0)):
        (tmp_path / f"{name}.csv").write_text("index,label\n" + "".join(f"{i},{value if i == 7 else ''}\n" for i in range(40)))
    report = take(mine, tmp_path / "one.csv", tmp_path / "two.csv")
    assert [(c.candidate.index, c.value) for c in report.conflicts] == [(7, "not_cell")]
    assert "there: cell by another source" in str(report)
    with opened(mine) as session:
        assert values(session) == {7: "cell"}


# Tables and lists


def test_tables_and_lists(toy, take, tmp_path, opened):
    mine, n = toy("mine", a=40), 40
    truth = [[1, 0, None][i % 3] for i in range(n)]
    expected = {i: {1: "cell", 0: "not_cell"}[t] for i, t in enumerate(truth) if t is not None}
    prints = simulated()[0].candidate_fingerprints
    (tmp_path / "list.json").write_text(json.dumps(truth))
    np.save(tmp_path / "list.npy", np.array([np.nan if t is None else t for t in truth]))
    rows = [(i, prints[i], "" if t is None else t) for i, t in enumerate(truth)]
    with (tmp_path / "full.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows([("Index", "Label"), *((i, label) for i, _, label in rows)])
    with (tmp_path / "prints.csv").open("w", newline="") as handle:
        csv.writer(handle, delimiter=";").writerows([("fingerprint", "label"), *((name, label) for _, name, label in rows[::-1])])
    with (tmp_path / "people.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows([("index", "fingerprint", "label:Ann"), *rows])
    for name, matched, who in (
        ("list.json", "position", "ann"),
        ("list.npy", "position", "ann"),
        ("full.csv", "position", "ann"),
        ("prints.csv", "fingerprint", "ann"),
        ("people.csv", "fingerprint", "Ann"),
    ):
        report = take(mine, tmp_path / name, dry_run=True)
        assert {t.candidate.index: t.value for t in report.taken} == expected, name
        assert {(t.matched, t.annotator) for t in report.taken} == {(matched, who)}
        assert ("by position, the count agrees" in str(report)) == (matched == "position")
        assert not (mine / "actsort").exists(), "a dry run starts no session"


def test_what_actsort_export_saved_can_be_taken_back(opened, toy, take, cli, tmp_path):
    mine, theirs = toy("mine", a=40), toy("theirs", a=40)
    with opened(theirs, annotator="ben") as session:
        for i in range(6):
            session.label(i, ("cell", "not_cell", "unsure")[i % 3])
        session.write()
    for name in ("out.csv", "out.json"):
        assert cli("export", theirs, tmp_path / name).code == 0
    expected = {i: ("cell", "not_cell", "unsure")[i % 3] for i in range(6)}
    for path in (tmp_path / "out.csv", tmp_path / "out.json", theirs / "actsort/curation.json"):
        report = take(mine, path, dry_run=True)
        assert {t.candidate.index: t.value for t in report.taken} == expected
        assert {t.annotator for t in report.taken} == {"ben"}
        every = take(mine, path, dry_run=True, everything=True)
        assert len(every.taken) == 40
        assert {t.annotator for t in every.taken if t.automatic} == {"table"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("index,label\n3,1\n5,0\n", "about 2 candidates; the session has 40: positions prove nothing"),
        ("index,label\n3,1\n3,0\n", "there twice, and differently"),
        ("index,label\n-1,1\n", "line 2: '-1' is no candidate"),
        ("index,label\n1.5,1\n", "line 2: '1.5' is no candidate"),
        ("index,label\n3,dragon\n", "line 2: 'dragon' is no label"),
        ("index,label\n3\n", "line 2 has 1 columns"),
        ("index,label\n,1\n", "does not say which candidate"),
        ("fingerprint,label\n0000,1\n", "no candidate in common"),
        ("x,y\n1,2\n", r"no decisions that could be read: .* several columns"),
    ],
)
def test_tables_that_cannot_be_meant_are_refused_and_leave_nothing(toy, take, tmp_path, text, says):
    mine = toy("mine", a=40)
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises((FormatError, UsageError, ChangedError), match=says):
        take(mine, tmp_path / "t.csv")
    assert not (mine / "actsort").exists()


def npy_that_declares(shape: str) -> bytes:
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\0" * 64


def pickled() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], object), allow_pickle=True)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("cut.npy", b"\x93NUMPY\x01\x00v\x00{'descr'"),
        ("huge.npy", npy_that_declares("(1000000000000,)")),
        ("huge2.npy", npy_that_declares("(4000000000, 2)")),
        ("pickled.npy", pickled()),
        ("zip.npy", b"PK\x03\x04rubbish"),
        ("deep.json", b"[" * 100_000),
        ("cut.json", b'{"recordings": [{"recording": "a", "cand'),
        ("odd.json", b'{"recordings": [{"recording": "a", "candidates": [7]}]}'),
        ("none.json", b"null"),
        ("binary.csv", bytes(range(256)) * 4),
        ("quote.csv", b'index,label\n"1,1\n'),
        ("cut_LABELS.mat", b"MATLAB 5.0 MAT-file" + b" " * 200),
        ("hdf_LABELS.mat", b"\x89HDF\r\n\x1a\n" + b"\0" * 100),
        ("empty.csv", b""),
        ("something.xyz", b"?"),
    ],
)
def test_broken_and_hostile_sources_are_refused_and_leave_nothing(toy, take, tmp_path, name, content):
    mine = toy("mine", a=40)
    (tmp_path / name).write_bytes(content)
    with pytest.raises((FormatError, UsageError), match=name):
        take(mine, tmp_path / name)
    assert not (mine / "actsort").exists()


def test_a_partial_table_can_be_believed_on_demand(toy, take, tmp_path, opened):
    mine = toy("mine", a=40)
    (tmp_path / "t.csv").write_text("index,label\n3,1\n5,0\n")
    assert "as you asked" in str(take(mine, tmp_path / "t.csv", by_position=True))
    with opened(mine) as session:
        assert values(session) == {3: "cell", 5: "not_cell"}
    (tmp_path / "t.csv").write_text("index,label\n40,1\n")
    with pytest.raises(UsageError, match="about 1 candidates"):
        take(mine, tmp_path / "t.csv", by_position=True)
    (tmp_path / "l.json").write_text("[1, 0]")
    with pytest.raises(UsageError, match="about 2 candidates"):
        take(mine, tmp_path / "l.json", by_position=True)


def test_several_recordings_by_position(toy, take, tmp_path):
    mine = toy("mine", a=5, b=7)
    (tmp_path / "all.json").write_text(json.dumps([1] * 5 + [0] * 7))
    assert {(*t.candidate, t.value) for t in take(mine, tmp_path / "all.json", dry_run=True).taken} == {
        *(("a", i, "cell") for i in range(5)),
        *(("b", i, "not_cell") for i in range(7)),
    }
    (tmp_path / "b.csv").write_text("recording,index,label\n" + "".join(f"b,{i},{i % 2}\n" for i in range(7)))
    assert {t.candidate.recording for t in take(mine, tmp_path / "b.csv", dry_run=True).taken} == {"b"}
    (tmp_path / "five.json").write_text("[1, 1, 1, 1, 1]")
    with pytest.raises(UsageError, match="which recording"):
        take(mine, tmp_path / "five.json", dry_run=True)


def test_labels_of_actsort_for_matlab(toy, take, tmp_path):
    mine = toy("mine", a=40)
    said = np.array([[1, -1, 0, 0][i % 4] for i in range(40)], float).reshape(-1, 1)
    scipy.io.savemat(tmp_path / "precomputed_x_LABELS.mat", {"labels": {"labels_ex": said, "labels_ml": said, "labels_overall": said}})
    report = take(mine, tmp_path / "precomputed_x_LABELS.mat", dry_run=True)
    assert {t.candidate.index: t.value for t in report.taken} == {i: ("cell", "not_cell")[i % 4] for i in range(40) if i % 4 < 2}
    scipy.io.savemat(tmp_path / "y_LABELS.mat", {"labels": {"labels_ex": said[:39]}})
    with pytest.raises(UsageError, match="39 candidates"):
        take(mine, tmp_path / "y_LABELS.mat", dry_run=True)
    scipy.io.savemat(tmp_path / "z_LABELS.mat", {"labels": {"other": said}})
    with pytest.raises(FormatError, match="labels_ex"):
        take(mine, tmp_path / "z_LABELS.mat", dry_run=True)


# Footprints in another scale, and merely alike


def rescaled(recording: Recording, noise: float = 0.0) -> Recording:
    footprints = recording.footprints.copy()
    sizes = np.diff(footprints.indptr)
    footprints.data *= np.repeat(np.linspace(0.5, 3, recording.n_cells), sizes).astype(np.float32)
    if noise:
        rng = np.random.default_rng(0)
        footprints.data *= (1 + rng.normal(0, noise, footprints.nnz)).clip(0.1).astype(np.float32)
    return replace(recording, footprints=as_footprints(footprints, footprints.shape[0]))


def test_the_same_footprints_in_another_scale(toy, take, tmp_path, opened):
    mine, theirs = toy("mine", a=40), tmp_path / "theirs"
    toy_format.save_folder(theirs, rescaled(picked(simulated()[0], range(39, -1, -1))), "a")
    with opened(theirs) as session:
        session.label(0, "cell")
    report = take(mine, theirs / "actsort", dry_run=True)
    assert [(t.candidate.index, t.matched) for t in report.taken] == [(39, "footprint")]
    assert "in another scale" in str(report)


def test_another_run_is_matched_only_where_it_is_asked_for(toy, take, tmp_path, opened):
    mine, theirs = toy("mine", a=40), tmp_path / "theirs"
    order = np.random.default_rng(2).permutation(40)
    toy_format.save_folder(theirs, rescaled(picked(simulated()[0], order), 0.2), "a")
    with opened(theirs) as session:
        for i in range(10):
            session.label(i, "cell")
    with pytest.raises(ChangedError, match="--similar") as caught:
        take(mine, theirs / "actsort")
    assert "no candidate in common" in caught.value.what
    report = take(mine, theirs / "actsort", similar=0.8)
    assert {t.index: t.candidate.index for t in report.taken} == {i: order[i] for i in range(10)}
    assert {t.matched for t in report.taken} == {"overlap"}
    with pytest.raises(UsageError, match="cosine"):
        take(mine, theirs / "actsort", similar=8)


def test_two_candidates_that_are_as_alike_are_nobody(toy, take, tmp_path, opened):
    recording = simulated(12, 3)[0]
    double = sp.hstack([recording.footprints, recording.footprints[:, [4]]])
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    toy_format.save_folder(mine, replace(picked(recording, [*range(12), 4]), footprints=as_footprints(double, double.shape[0])), "a")
    toy_format.save_folder(theirs, rescaled(recording), "a")
    with opened(theirs) as session:
        session.label(4, "cell")
        session.label(5, "cell")
    report = take(mine, theirs / "actsort", dry_run=True)
    assert [t.candidate.index for t in report.taken] == [5]
    assert [s.index for s in report.unmatched[theirs / "actsort"]] == [4]


# Clicks


def prior_of(verdict: list[int], p: list[float] | None = None, person: list[int] | None = None) -> Prior:
    probability = np.full(len(verdict), np.nan) if p is None else np.array(p)
    return Prior(np.array(verdict, np.int8), probability, None if person is None else np.array(person, np.int8))


P = [0.9, 0.8, 0.7, 0.3, 0.2, 0.1]
V = [1, 1, 1, -1, -1, -1]
FIRST = clicks.Baseline(np.array(V, np.int8), np.array(P))


@pytest.mark.parametrize(
    ("now", "before", "expected"),
    [
        (prior_of(V, P), FIRST, [0] * 6),
        (prior_of([1, -1, 1, -1, 1, -1], P), FIRST, [0, -1, 0, 0, 1, 0]),
        (prior_of([1, -1, 1, -1, 1, -1], P), None, [0, -1, 0, 0, 1, 0]),  # without a baseline: against their own probability
        (prior_of([1, 1, -1, -1, -1, -1], [0.99, 0.9, 0.45, 0.2, 0.1, 0.05]), FIRST, [0] * 6),  # another classifier was loaded
        (prior_of([1, 1, -1, -1, 1, -1], [0.99, 0.9, 0.45, 0.2, 0.1, 0.05]), FIRST, [0, 0, 0, 0, 1, 0]),  # and one flipped after that
        (prior_of([1, -1, -1, -1, -1, -1], [0.9, 0.81, 0.71, 0.31, 0.21, 0.11]), FIRST, [0] * 6),  # Enter at .85, other probabilities
        (prior_of([1, 1, -1, -1, -1, -1], [1.0, 0.81, 0.31, 0.21, 0.0, 0.11]), FIRST, [1, 0, 0, 0, -1, 0]),  # drawn, or labelled with us
        (prior_of([1, 1, 1, 1, 1, -1], [1.0, 0.8, 0.7, 0.3, 0.2, 0.0]), replace(FIRST, ours=True), [0] * 6),  # Enter at .1 after a write
        (prior_of(V, [1.0, 1, 1, 0, 0, 0]), None, [0] * 6),  # somebody's script
        (prior_of([1, -1, 0, -1, 1, -1]), clicks.Baseline(np.array(V, np.int8), np.full(6, np.nan)), [0, -1, 0, 0, 1, 0]),
        (prior_of(V), None, [0] * 6),
        (prior_of(V, person=[0, 1, 0, -1, 0, 0]), FIRST, [0, 1, 0, -1, 0, 0]),
        (prior_of([1, -1, 1, -1, -1, -1], person=[1, -1, 1, -1, -1, -1]), replace(FIRST, ours=True), [0, -1, 0, 0, 0, 0]),
        (prior_of([1, -1, 1, 1, -1, -1], [1.0, 1, 0.7, 0.3, 0.2, 0]), replace(FIRST, ours=True), [0, -1, 0, 1, 0, 0]),
    ],
)
def test_a_persons_verdicts_are_told_from_the_toolkits(now, before, expected):
    assert clicks.find(now, before).value.tolist() == expected


def click(result: Path, *which: int) -> None:
    path = result / "a.verdict.json"
    verdicts = json.loads(path.read_text())
    for i in which:
        verdicts[i] = 1 - int(verdicts[i] or 0)
    path.write_text(json.dumps(verdicts))


def test_what_was_clicked_in_the_toolkit_since(opened, toy, take, cli):
    mine = toy("mine", a=40)
    with opened(mine) as session:
        for i in range(8):
            session.label(i, i < 4)
        first = session.priors["a"].verdict
    assert len(take(mine, mine, dry_run=True).taken) == 0
    click(mine, 20, 21)
    report = take(mine, mine, dry_run=True)
    assert {t.candidate.index: t.value for t in report.taken} == {i: ("cell", "not_cell")[int(first[i] > 0)] for i in (20, 21)}
    assert "38 verdicts of the toolkit itself were left out" in str(report)
    json_path = mine / "a.verdict.json"
    json_path.write_text(json.dumps([int(v > 0) for v in first]))
    with opened(mine) as session:
        session.write()
        decided = {d.candidate.index: d.accepted for d in session.decisions()}
    assert not take(mine, mine, dry_run=True).taken, "what we wrote is nobody's click"
    click(mine, 2, 30)
    report = take(mine, mine)
    assert [c.candidate.index for c in report.conflicts] == [2], "labelled otherwise before"
    assert {t.candidate.index: t.value for t in report.taken} == {30: "not_cell" if decided[30] else "cell"}
    assert not take(mine, mine).taken
    copy = Path(shutil.copytree(mine, mine.parent / "copy"))
    click(copy, 31)
    done = cli("import-labels", mine, copy, "--annotator", "ben", "--dry-run", "--json")
    assert {(t["index"], t["annotator"]) for t in done.json()["taken"]} == {(31, "ben"), (30, "ben")}
    everything = take(mine, copy, everything=True, dry_run=True)
    assert len(everything.taken) + everything.known + len(everything.conflicts) == 40
    assert {t.annotator for t in everything.taken if t.automatic} == {"toy"}


def test_a_result_about_something_else_is_refused(toy, take, opened):
    mine, other = toy("mine", a=40), toy("other", seed=9, a=40)
    with pytest.raises(ChangedError, match="no candidate in common"):
        take(mine, other)
    with pytest.raises(MissingFileError):
        take(mine, other / "nowhere")
    with pytest.raises(UsageError, match="nothing to import"):
        take(mine)
    assert not (mine / "actsort").exists()
    with opened(mine):
        pass
    with pytest.raises(UsageError, match="the session itself"):
        take(mine, mine / "actsort")


# Suite2p, for real


@pytest.fixture
def planes(tmp_path: Path) -> tuple[Path, Any]:
    suite2p = pytest.importorskip("actsort_adapters.suite2p")
    shutil.copytree(SUITE2P, tmp_path / "suite2p")
    return tmp_path / "suite2p", make_plugins(suite2p)


def test_clicks_in_suite2p(planes, opened, tmp_path):
    folder, plugins = planes
    plane = folder / "plane0"
    with opened(plane, plugins=plugins) as session:
        session.label(0, "cell")
        n = len(session.candidates)
        first = session.priors["plane0"].verdict.copy()
    table = np.load(plane / "iscell.npy")
    table[[3, 7], 0] = 1 - table[[3, 7], 0]
    np.save(plane / "iscell.npy", np.ascontiguousarray(table))
    expected = {i: ("cell", "not_cell")[int(first[i] > 0)] for i in (3, 7)}
    ask = {"plugins": plugins, "dry_run": True, "annotator": "ann"}
    assert {t.candidate.index: t.value for t in import_labels(plane, plane, **ask).taken} == expected
    loose = tmp_path / "ben.npy"
    shutil.copy(plane / "iscell.npy", loose)
    report = import_labels(plane, loose, **ask)
    assert {t.candidate.index: t.value for t in report.taken} == expected
    assert {t.matched for t in report.taken} == {"position"}
    assert "by position, the count agrees" in str(report)
    assert {t.candidate.index for t in import_labels(plane, loose, **ask, everything=True).taken} >= set(range(1, n))
    np.save(loose, table[1:])
    with pytest.raises(UsageError, match="has no footprints to go by"):
        import_labels(plane, loose, **ask)
    # Enter in the box at .01: every verdict follows from that, so nothing there is a click
    applied = table.copy()
    applied[:, 0] = applied[:, 1] > 0.01
    assert (applied[:, 0] != (applied[:, 1] > 0.5)).sum() > 1
    fresh = Path(shutil.copytree(SUITE2P, tmp_path / "fresh")) / "plane0"
    np.save(fresh / "iscell.npy", applied)
    other = Path(shutil.copytree(TWO / "plane0", tmp_path / "else"))
    report = import_labels(fresh, fresh, **ask)
    assert not report.taken
    with pytest.raises(ChangedError):
        import_labels(fresh, other, **ask)


def test_clicks_in_the_combined_view_of_suite2p_reach_the_planes(opened, tmp_path):
    """They are lost for the planes otherwise (Suite2p issue 1051): the next "load folder" erases them."""
    plugins = make_plugins(pytest.importorskip("actsort_adapters.suite2p"))
    folder = Path(shutil.copytree(TWO, tmp_path / "suite2p"))
    with opened(folder, plugins=plugins) as session:
        first = [int(v) for key in session.recordings for v in session.priors[key].verdict]
        n = session.recordings["plane0"].n_cells
    (folder / "combined").mkdir(exist_ok=True)
    table = np.concatenate([np.load(folder / f"plane{i}/iscell.npy") for i in (0, 1)])
    table[[2, n + 3], 0] = 1 - table[[2, n + 3], 0]
    np.save(folder / "combined/iscell.npy", table)
    report = import_labels(folder, folder / "combined/iscell.npy", plugins=plugins, annotator="ann")
    said = {1: "not_cell", -1: "cell"}
    assert {(*t.candidate, t.value) for t in report.taken} == {("plane0", 2, said[first[2]]), ("plane1", 3, said[first[n + 3]])}
    assert "the count agrees" in str(report)


def test_labels_written_into_a_plane_survive_being_taken_from_a_copy(planes, opened, tmp_path):
    folder, plugins = planes
    with opened(folder / "plane0", plugins=plugins) as session:
        said = {i: ("cell", "not_cell")[i % 2] for i in range(12)}
        for i, value in said.items():
            session.label(i, value)
        session.write()
    bare = tmp_path / "bare"
    shutil.copytree(folder / "plane0", bare / "plane0", ignore=shutil.ignore_patterns("actsort"))
    fresh = Path(shutil.copytree(SUITE2P, tmp_path / "fresh")) / "plane0"
    report = import_labels(fresh, bare / "plane0", plugins=plugins, annotator="ben")
    assert {t.candidate.index: t.value for t in report.taken} == said, "ActSort writes labels as 1 and 0, which no classifier does"


# Durability


def test_a_full_disk_takes_nothing(toy, take, tmp_path, opened, monkeypatch):
    import os

    mine = toy("mine", a=40)
    (tmp_path / "t.json").write_text(json.dumps([1, 0] * 20))
    with opened(mine) as session:
        session.label(0, "cell")
        before = (session.folder / FILE).read_bytes()
        real, count = os.write, iter(range(100))

        def full(handle: int, data: bytes) -> int:
            if next(count) == 0:
                return real(handle, data[:700])
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            with pytest.raises(WriteError, match="No space left"):
                take(session, tmp_path / "t.json")
        assert (session.folder / FILE).read_bytes() == before
        assert values(session) == {0: "cell"}
        assert len(take(session, tmp_path / "t.json").taken) == 39
        assert len(session.labels()) == 40


def test_a_process_killed_half_way_goes_on_where_it_was(toy, take, tmp_path, opened):
    mine = toy("mine", a=40)
    (tmp_path / "t.json").write_text(json.dumps([1, 0] * 20))
    take(mine, tmp_path / "t.json")
    whole = (mine / "actsort" / FILE).read_bytes()
    for cut in (len(whole) // 3, len(whole) - 1, whole.index(b"\n") + 1):
        (mine / "actsort" / FILE).write_bytes(whole[:cut])
        report = take(mine, tmp_path / "t.json")
        assert len(report.taken) + report.known == 40
        with opened(mine) as session:
            assert values(session) == {i: ("cell", "not_cell")[i % 2] for i in range(40)}


def test_an_open_session_takes_labels_and_learns_from_them(toy, take, tmp_path, opened, hooks):
    mine = toy("mine", a=40)
    (tmp_path / "t.json").write_text(json.dumps([1, 0] * 10 + [None] * 20))
    with opened(mine, plugins=make_plugins(hooks.plugin)) as session:
        question = session.ask()
        report = take(session, tmp_path / "t.json")
        assert len(report.taken) == 20
        session.wait()
        assert session.predictions().n_labels == 20
        assert len(hooks.of("labels")[-1]) == 20
        assert session.ask().index >= 20 or question.index >= 20
        assert session.undo() is not None
        assert len(session.labels()) == 19


def test_a_session_elsewhere_is_found_or_started(toy, tmp_path, cli):
    mine = toy("mine", a=40)
    (tmp_path / "t.json").write_text(json.dumps([1, 0] * 20))
    done = cli("import-labels", mine, tmp_path / "t.json", "--session", tmp_path / "s")
    assert done.code == 0, done.err
    assert "40 labels taken" in done.out
    assert store.is_session(tmp_path / "s")
    done = cli("import-labels", mine, tmp_path / "t.json", "--session", tmp_path / "s", "--dry-run")
    assert "40 were there already" in done.out
    assert cli("import-labels", tmp_path / "s", tmp_path / "gone.csv").code == 1
    assert cli("import-labels", mine).code == 2
    assert "Positions count only" in cli("import-labels", "--help").out


# What people decided, in files of the real tools


@pytest.mark.parametrize(
    ("adapter", "file", "cells", "others"),
    [
        ("caiman", "caiman/cnmf_2p_4gui.hdf5", 28, 2),  # accepted_list, rejected_list; not idx_components
        ("caiman", "caiman/cnmf_2p_2evaluated.hdf5", 0, 0),
        ("nwb", "nwb/cnmf_2p_4gui.nwb", 28, 2),
        ("cnmfe", "cnmfe/wild_cnmfe_reviewer_flat_v5.mat", 21, 19),  # keep
        ("extract", "extract/extract_output_cellcheck_v73.mat", 6, 6),  # user_labels
        ("actsort_matlab", "actsort_matlab/precomputed_extract_output_LABELS.mat", 8, 6),  # labels_ex
    ],
)
def test_decisions_in_files_of_the_real_tools(tmp_path, adapter, file, cells, others):
    module = pytest.importorskip(f"actsort_adapters.{adapter}")
    source = Path(__file__).parent / "data" / file
    result = tmp_path / source.name.replace("_LABELS", "")
    shutil.copy(source.with_name(result.name), result)
    plugins = make_plugins(module)
    report = import_labels(result, source, plugins=plugins, annotator="ben", dry_run=True)
    assert [t.value for t in report.taken].count("cell") == cells
    assert [t.value for t in report.taken].count("not_cell") == others
    assert {t.matched for t in report.taken} <= {"fingerprint"}
    every = import_labels(result, source, plugins=plugins, annotator="ben", dry_run=True, everything=True)
    assert len(every.taken) > 13
    assert {t.annotator for t in every.taken if t.automatic} <= {adapter, "ActSort labels"}


def test_what_a_conversion_wrote_is_nobodys_click(toy, take, tmp_path):
    mine = toy("mine", a=40)
    other = Path(shutil.copytree(mine, tmp_path / "converted"))
    verdicts = [i % 2 for i in range(40)]
    (other / "a.verdict.json").write_text(json.dumps(verdicts))
    prior = {"verdict": [0] * 40, "probability": [None] * 40}
    row = {
        "fingerprint": simulated()[0].fingerprint,
        "candidates": [{"fingerprint": name} for name in simulated()[0].candidate_fingerprints],
        "prior": prior,
        "written": {**prior, "verdict": [2 * v - 1 for v in verdicts]},
    }
    (other / "actsort").mkdir()
    (other / "actsort/conversion.json").write_text(json.dumps({"format_version": 1, "recordings": [row]}))
    assert not take(mine, other, dry_run=True).taken
    click(other, 4)
    assert [(t.candidate.index, t.value) for t in take(mine, other, dry_run=True).taken] == [(4, "cell")]
