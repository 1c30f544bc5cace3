"""Merging copies of a session: no event is lost, the order does not matter, twice is once."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import toy_format
from conftest import simulated
from hypothesis import example, given, settings
from hypothesis import strategies as st

from actsort_core import atomic
from actsort_core.cli import main
from actsort_core.errors import ChangedError, JournalError, LockedError, MissingFileError, UsageError, WriteError
from actsort_core.journal import FILE, Journal, encode, fold, parse
from actsort_core.merge import identify, merge, merge_events
from actsort_core.store import DOCUMENT

# The union of journals


def build(steps: list[tuple[str, str, int, int]], prefix: list[dict[str, Any]] | None = None, machine: str = "") -> list[dict[str, Any]]:
    """A journal as a machine writes it: undo and redo name their target; clocks run, stand still, or are set back."""
    events = [dict(event) for event in prefix or []]
    labels, clock = fold(events), 100
    for kind, who, index, tick in steps:
        clock += tick
        event: dict[str, Any] = {"seq": len(events) + 1, "kind": kind, "time": f"t{clock:04d}", "annotator": who}
        if kind == "label":
            event |= {"recording": "a", "index": index, "class": ("cell", "not_cell")[index % 2], "from": machine}
        elif kind in ("undo", "redo"):
            meant = labels.meant(event)
            if meant is None:
                continue  # a session writes none
            event |= {"target": meant["seq"], "from": machine}  # nobody is at two machines in the same millisecond
        events.append(event)
        labels.apply(event)
    return events


KIND = st.sampled_from(["label", "label", "label", "undo", "undo", "redo", "weather", "written"])
STEPS = st.lists(st.tuples(KIND, st.sampled_from("xxy"), st.integers(0, 3), st.integers(-2, 5)), max_size=14)


def contents(chain: list[dict[str, Any]]) -> Counter[Any]:
    return Counter(identity for identity, _ in identify(chain))


def in_force(chain: list[dict[str, Any]]) -> Any:
    labels = fold(chain)
    return {who: {c.index: la.value for c, la in own.items()} for who, own in labels.by_annotator().items()}, labels.current()


def without_place(chain: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Events with write-backs of either machine told in the same way."""
    return [{**{k: v for k, v in e.items() if k != "was"}, "kind": e.get("was", e["kind"])} for e in chain]


@given(STEPS, STEPS, STEPS)
@example([("label", "x", 0, 1)], [("undo", "x", 0, 1), ("redo", "x", 0, 2)], [("label", "x", 1, 2)])
@example([("label", "x", 0, 0), ("undo", "x", 0, 0), ("redo", "x", 0, 0), ("undo", "x", 0, 0)], [("redo", "x", 0, 0)], [])
@settings(max_examples=400, deadline=None)
def test_merging_is_a_union(common, first, second):
    prefix = build(common)
    a, b = build(first, prefix, "A"), build(second, prefix, "B")
    ab, ba = merge_events([a, b]), merge_events([b, a])
    assert without_place(ab) == without_place(ba)  # commutative, down to the numbers
    assert in_force(ab) == in_force(ba)
    assert contents(ab) == contents(a) | contents(b)  # nothing lost, nothing invented
    assert merge_events([ab, b]) == merge_events([ab, a]) == merge_events([ab, ab]) == ab  # idempotent
    assert merge_events([a, a]) == merge_events([a]) == a
    assert [event["seq"] for event in ab] == list(range(1, len(ab) + 1))
    assert parse(b"".join(map(encode, ab)))[0] == ab
    assert ab[: len(prefix)] == prefix
    place = {identity: i for i, (identity, _) in enumerate(identify(ab))}
    for chain in (a, b):  # each journal keeps its order
        order = [place[identity] for identity, _ in identify(chain)]
        assert order == sorted(order)


@given(STEPS, STEPS, STEPS, STEPS)
@settings(max_examples=200, deadline=None)
def test_three_machines_in_any_order(common, first, second, third):
    prefix = build(common)
    chains = [build(steps, prefix, name) for name, steps in zip("ABC", (first, second, third), strict=True)]
    a, b, c = chains
    ways = [merge_events(chains), merge_events([merge_events([a, b]), c]), merge_events([a, merge_events([c, b])])]
    assert all(contents(way) == contents(a) | contents(b) | contents(c) for way in ways)
    # Joined again, whatever came together first gives the same.
    again = [merge_events([ways[i], ways[j]]) for i, j in ((0, 1), (1, 0), (2, 1))]
    assert in_force(again[0]) == in_force(again[1])
    assert contents(again[2]) == contents(ways[0])


@given(STEPS, STEPS, STEPS)
@settings(max_examples=200, deadline=None)
def test_what_different_people_did_on_different_machines_stays_as_each_meant_it(common, first, second):
    """Each on a machine of their own: everybody's own labels, undone and redone, come out as if the other had not been there."""
    prefix = build([(kind, "pq"[who == "y"], index, tick) for kind, who, index, tick in common])
    a = build([(kind, "p", index, tick) for kind, _, index, tick in first], prefix)
    b = build([(kind, "q", index, tick) for kind, _, index, tick in second], prefix)
    merged = in_force(merge_events([a, b]))[0]
    assert merged.get("p", {}) == in_force(a)[0].get("p", {})
    assert merged.get("q", {}) == in_force(b)[0].get("q", {})


def test_undo_takes_back_the_label_it_was_meant_for():
    """The same person on two machines: between a label and its undo on one lies a label on the other."""
    a = build([("label", "x", 0, 1), ("undo", "x", 0, 5)])
    b = build([("label", "x", 1, 3)], machine="B")
    merged = merge_events([a, b])
    assert [(e["kind"], e.get("index"), e.get("target")) for e in merged] == [("label", 0, None), ("label", 1, None), ("undo", None, 1)]
    assert in_force(merged)[0] == {"x": {1: "not_cell"}}
    c = build([("label", "x", 0, 1), ("undo", "x", 0, 1), ("redo", "x", 0, 9)])
    merged = merge_events([c, b])
    assert in_force(merged)[0] == {"x": {0: "cell", 1: "not_cell"}}


def test_an_undo_without_a_target_means_what_it_meant_where_it_was_given():
    a = [{k: v for k, v in e.items() if k != "target"} for e in build([("label", "x", 0, 1), ("undo", "x", 0, 5)])]
    a.append({"seq": 3, "kind": "undo", "time": "t0107", "annotator": "x"})  # had nothing to take back
    b = build([("label", "x", 1, 3)])
    merged = merge_events([a, b])
    assert in_force(merged)[0] == {"x": {1: "not_cell"}}
    assert merge_events([merged, a]) == merged


def test_journals_that_contradict_each_other_lose_nothing_either():
    a = build([("label", "x", i, 1) for i in range(4)])
    b = [{**event, "seq": seq} for seq, event in enumerate(reversed(a), 1)]
    merged = merge_events([a, b])
    assert contents(merged) == contents(a)
    assert without_place(merge_events([b, a])) == without_place(merged)


# Sessions on disk


def copy_of(folder: Path, to: Path) -> Path:
    """The session's folder and its result, as they are copied to another machine."""
    shutil.copytree(folder.parent, to)
    return to / folder.name


@pytest.fixture
def two(opened, result, tmp_path):
    """One session, copied, and labelled on by one person each."""
    session = opened(result, annotator="ann")
    for i in range(4):
        session.label(i, bool(i % 2))
    session.close()
    other = copy_of(session.folder, tmp_path / "elsewhere")
    session = opened(session.folder, annotator="ann")
    session.label(10, True)
    session.label(11, True)
    session.undo()
    session.close()
    away = opened(other, annotator="bob")
    away.label(10, False)
    away.label(20, True)
    away.close()
    return session.folder, other


def current(folder: Path) -> dict[str, dict[int, str]]:
    with Journal(folder, read_only=True) as journal:
        return in_force(journal.events)[0]


EXPECTED = {
    "ann": {0: "not_cell", 1: "cell", 2: "not_cell", 3: "cell", 10: "cell"},
    "bob": {10: "not_cell", 20: "cell"},
}


def test_the_first_takes_up_the_second_and_is_a_normal_session(two, opened, snapshot):
    a, b = two
    before = snapshot(b.parent)
    report = merge([a, b])
    assert (report.folder, report.shared, report.total, report.labels, report.changed) == (a, 4, 9, 6, True)
    assert report.annotators == {"ann": 5, "bob": 2}
    assert current(a) == EXPECTED
    assert snapshot(b.parent) == before
    assert [len(parse(p.read_bytes())[0]) for p in (a / "backups").iterdir()] == [7]
    session = opened(a, annotator="bob")
    assert session.undo().index == 20
    assert session.redo().index == 20
    assert session.label(30, True)
    session.annotator = "ann"
    assert session.undo().index == 10
    session.write()
    session.close()
    assert current(a)["bob"] == EXPECTED["bob"] | {30: "cell"}


def test_merging_again_changes_nothing(two, snapshot):
    a, b = two
    merge([a, b])
    before = snapshot(a)
    report = merge([a, b])
    assert not report.changed
    assert report.total == 9
    assert snapshot(a) == before


def test_either_way_round_into_a_new_folder(two, tmp_path, opened, snapshot):
    a, b = two
    before = snapshot(a.parent), snapshot(b.parent)
    one, two_ = merge([a, b], tmp_path / "ab").folder, merge([b, a], tmp_path / "ba").folder
    assert not (one / "warm.npz").exists()
    assert (one / FILE).read_bytes() == (two_ / FILE).read_bytes()
    assert current(one) == EXPECTED
    assert (snapshot(a.parent), snapshot(b.parent)) == before
    with opened(one) as session:
        assert len(session.labels()) == 6
        assert session.sources[0].path.resolve() == a.parent.resolve()
    assert not merge([a, b], tmp_path / "ab").changed  # an existing one is taken along
    merge([b], a)
    assert current(a) == EXPECTED


def test_results_may_be_named_instead_of_sessions_and_need_not_be_there(two):
    a, b = two
    assert merge([a.parent, b.parent]).folder == a
    for data in b.parent.glob("*.data.npz"):
        data.unlink()
    assert not merge([a, b]).changed


def test_sessions_started_apart_on_the_same_candidates(opened, tmp_path):
    folders = []
    for machine, name in (("one", "a"), ("two", "renamed")):
        path = toy_format.save_folder(tmp_path / machine, simulated()[0], name)
        with opened(path, annotator=machine) as session:
            session.label(len(folders), True)
            folders.append(session.folder)
    report = merge(folders)
    assert report.shared == 0
    assert current(folders[0]) == {"one": {0: "cell"}, "two": {1: "cell"}}
    with opened(folders[0]) as session:
        assert {la.candidate.recording for la in session.labels()} == {"a"}


def test_what_was_written_elsewhere_is_history_and_not_ours_to_restore(two, opened):
    a, b = two
    with opened(b, annotator="bob") as session:
        session.write()
    merge([a, b])
    with opened(a) as session:
        kinds = Counter(event["kind"] for event in session.journal.events)
        assert kinds["elsewhere"] == 2
        assert kinds["written"] == 0
        with pytest.raises(MissingFileError, match="written nothing"):
            session.restore()
        session.write()
    merge([b, a])
    with opened(b) as session:
        assert Counter(e["kind"] for e in session.journal.events)["written"] == 1  # its own
        assert session.restore()
    events = [len(merge(order).events) for order in ([a, b], [b, a])]
    assert events == [2, 2]
    assert contents_of(a) == contents_of(b)


def contents_of(folder: Path) -> Counter[Any]:
    with Journal(folder, read_only=True) as journal:
        return contents(list(journal.events))


def test_classes_of_both_and_options_of_the_first(two, opened):
    a, b = two
    with opened(a, classes={"glia": "not_cell"}, threshold=0.4) as session:
        session.label(5, "glia")
    with opened(b, classes={"soma": "cell"}, seed=7) as session:
        session.label(6, "soma")
    report = merge([a, b])
    assert any("seed 7" in note for note in report.notes)
    with opened(a) as session:
        assert session.options.classes == {"glia": "not_cell", "soma": "cell"}
        assert (session.options.threshold, session.options.seed) == (0.4, 0)
        assert {la.value for la in session.labels()} >= {"glia", "soma"}


def test_a_class_that_means_different_things_is_refused(two, opened, snapshot):
    a, b = two
    opened(a, classes={"odd": "not_cell"}).close()
    opened(b, classes={"odd": "unsure"}).close()
    before = snapshot(a.parent)
    with pytest.raises(UsageError, match="odd"):
        merge([a, b])
    assert snapshot(a.parent) == before


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda folder: toy_format.save_folder(folder, simulated(41)[0]), "41 candidates instead of 40"),
        (lambda folder: toy_format.save_folder(folder, simulated(40, 5)[0]), "40 of 40 footprints changed"),
        (lambda folder: [toy_format.save_folder(folder, simulated(12, i, n)[0], n) for i, n in enumerate("ab")].pop(), "2"),
    ],
)
def test_other_candidates_are_refused_saying_what_differs(two, opened, tmp_path, snapshot, make, says):
    a, _ = two
    with opened(make(tmp_path / "stranger")) as session:
        other = session.folder
    before = snapshot(tmp_path)
    for arguments in (([a, other],), ([other, a],), ([a, other], tmp_path / "new")):
        with pytest.raises(ChangedError, match=says.replace("41 candidates instead of 40", "4[01] candidates instead of 4[01]")):
            merge(*arguments)
    assert snapshot(tmp_path) == before


def test_things_that_cannot_be_merged(two, opened, tmp_path):
    a, b = two
    with pytest.raises(UsageError, match="two sessions"):
        merge([a, a])
    with pytest.raises(MissingFileError):
        merge([a, tmp_path / "nowhere"])
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.tex").write_text("x")
    with pytest.raises(UsageError, match=r"thesis\.tex"):
        merge([a, b], tmp_path / "full")
    with opened(a), pytest.raises(LockedError):
        merge([a, b])
    with opened(b):  # the one that is only read may be open
        assert merge([a, b]).changed
    line = parse((b / FILE).read_bytes())[0][-1]
    (b / FILE).write_bytes((b / FILE).read_bytes() + encode({**line, "seq": 99, "class": "dragon"}))
    with pytest.raises(JournalError, match="dragon"):
        merge([a, b])
    (b / FILE).write_bytes(encode({**line, "fingerprint": "0" * 16}))
    with pytest.raises(ChangedError, match="not the candidate"):
        merge([a, b])


def test_a_torn_line_is_passed_over_and_said(two):
    a, b = two
    content = (b / FILE).read_bytes()
    (b / FILE).write_bytes(content[:-9])
    report = merge([a, b])
    assert any("cut off" in note for note in report.notes)
    assert current(a)["bob"] == {10: "not_cell"}
    (b / FILE).write_bytes(content)  # whole on the other machine: the next merge brings it
    merge([a, b])
    assert current(a) == EXPECTED


@pytest.mark.parametrize("into", [False, True])
@pytest.mark.parametrize("step", range(1, 5))
def test_a_merge_that_fails_at_any_file_is_done_again(two, opened, tmp_path, monkeypatch, into, step):
    a, b = two
    with opened(b, classes={"soma": "cell"}) as session:
        session.label(6, "soma")
    before = current(a)
    calls = []
    real = atomic.commit

    def failing(tmp, path):
        calls.append(path)
        if len(calls) == step:
            raise WriteError("disk full")
        real(tmp, path)

    monkeypatch.setattr(atomic, "commit", failing)
    target = tmp_path / "new" if into else None
    if step <= (2 if into else 3):
        with pytest.raises(WriteError):
            merge([a, b], target)
        assert current(a) == before
        opened(a).close()  # still a session
    monkeypatch.setattr(atomic, "commit", real)
    report = merge([a, b], target)
    assert current(report.folder) == {**EXPECTED, "ann": {**EXPECTED["ann"], 6: "soma"}}
    opened(report.folder).close()


KILLED = """
import os, signal, sys
from pathlib import Path
from actsort_core import atomic, merge
step, a, b = int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
real, calls = atomic.commit, []
def commit(tmp, path):
    calls.append(path)
    if len(calls) == step:
        os.kill(os.getpid(), signal.SIGKILL)
    real(tmp, path)
atomic.commit = commit
merge.merge([a, b], Path(sys.argv[4]) if len(sys.argv) > 4 else None)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
@pytest.mark.parametrize("into", [False, True])
@pytest.mark.parametrize("step", [1, 2, 3])
def test_kill_9_in_the_middle_of_a_merge(two, opened, tmp_path, step, into):
    a, b = two
    with opened(b, classes={"soma": "cell"}) as session:
        session.label(6, "soma")
    before = current(a)
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(step), str(a), str(b), *([str(tmp_path / "new")] if into else [])]
    code = subprocess.run(command, check=False, env=dict(os.environ)).returncode
    assert code in (-signal.SIGKILL, 0)
    if code:
        assert current(a) == before
    report = merge([a, b], tmp_path / "new" if into else None)
    assert current(report.folder) == {**EXPECTED, "ann": {**EXPECTED["ann"], 6: "soma"}}
    with opened(report.folder) as session:
        assert session.options.classes == {"soma": "cell"}


def test_the_command(two, capsys, monkeypatch, tmp_path, toy_plugins):
    a, b = two

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(""))
        capsys.readouterr()
        try:
            main.main([str(x) for x in arguments], prog_name="actsort", obj=toy_plugins)
            code = 0
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    code, out, _ = run("merge", a, b, "--into", tmp_path / "both", "--json")
    assert code == 0
    document = json.loads(out)
    assert document["session"] == str(tmp_path / "both")
    assert (document["total"], document["shared"], document["labels"], document["changed"]) == (9, 4, 6, True)
    assert document["annotators"] == {"ann": 5, "bob": 2}
    code, out, _ = run("merge", a, b)
    assert code == 0
    assert "merged: 9 events (4 in all of them), 6 candidates labelled (ann 5, bob 2)" in out
    assert "nothing was new" in run("merge", a, b)[1]
    assert run("merge", a)[0] == 2
    (tmp_path / "both" / DOCUMENT).unlink()
    assert run("merge", a, tmp_path / "both")[0] == 1


def test_a_session_whose_document_is_lost_keeps_its_events(two, tmp_path):
    a, b = two
    target = merge([a, b], tmp_path / "new").folder
    (target / DOCUMENT).unlink()
    merge([b, a], target)
    assert current(target) == EXPECTED
    (target / DOCUMENT).unlink()
    (target / FILE).write_bytes(encode({**parse((a / FILE).read_bytes())[0][0], "fingerprint": "00"}))
    before = (target / FILE).read_bytes()
    with pytest.raises(ChangedError):
        merge([a, b], target)
    assert (target / FILE).read_bytes() == before
