"""Notes and flags: kept in the journal, found again, carried into what is exported."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import toy_format
from conftest import simulated

from actsort_core.errors import CandidateError, UsageError
from actsort_core.exporters import export_csv
from actsort_core.model import CELL
from actsort_core.remarks import LONGEST


def test_a_note_is_on_disk_and_found_when_resumed(opened, result):
    session = opened(result)
    session.note(3, "  a dendrite?  ", annotator="ana")
    session.flag(5)
    session.close()
    lines = [json.loads(line) for line in (session.folder / "labels.jsonl").read_text().splitlines()]
    assert [(e["kind"], e["index"]) for e in lines] == [("note", 3), ("flag", 5)]
    again = opened(result)
    assert [(n.annotator, n.text) for n in again.notes_on(3)] == [("ana", "a dendrite?")]
    assert [c.index for c in again.flagged()] == [5]


def test_each_person_has_one_note_and_an_empty_one_takes_it_back(opened, result):
    session = opened(result)
    session.note(1, "first", annotator="ana")
    session.note(1, "mine", annotator="bob")
    assert [n.text for n in session.note(1, "second", annotator="ana")] == ["mine", "second"]
    assert [n.text for n in session.note(1, "", annotator="bob")] == ["second"]
    session.flag(1)
    session.flag(1, on=False)
    assert session.flagged() == ()


def test_remarks_are_no_labels(opened, result):
    session = opened(result)
    session.note(1, "looks odd")
    session.flag(1)
    assert session.labels() == ()
    assert session.undo() is None


def test_they_are_in_curation_json_and_in_exports(opened, result, tmp_path):
    session = opened(result)
    session.label(2, CELL)
    session.note(2, "bright", annotator="ana")
    session.note(2, "moves", annotator="bob")
    session.flag(4)
    session.write()
    rows = json.loads((session.folder / "curation.json").read_text())["recordings"][0]["candidates"]
    assert rows[2]["notes"] == {"ana": "bright", "bob": "moves"}
    assert rows[4]["flagged"] is True
    assert "notes" not in rows[3]
    export_csv(list(session.curations().values()), tmp_path / "out.csv")
    head, *lines = (tmp_path / "out.csv").read_text().splitlines()
    assert head.endswith(",flagged,notes")
    assert lines[2].endswith(",ana: bright; bob: moves")
    assert lines[4].endswith(",True,")


def test_they_follow_their_candidate_when_the_result_is_reordered(opened, toy):
    folder = toy("moved", a=10)
    session = opened(folder)
    session.note(0, "the first")
    session.flag(9)
    session.label(0, CELL)
    session.close()
    recording = simulated(10, 0, "a")[0]
    backwards = replace(recording, footprints=recording.footprints[:, ::-1], traces=np.asarray(recording.traces)[::-1], metrics={})
    toy_format.save_folder(folder, backwards, "a", False)
    again = opened(folder)
    assert [n.text for n in again.notes_on(9)] == ["the first"]
    assert [c.index for c in again.flagged()] == [0]


def test_what_cannot_be_kept_is_refused(opened, result):
    session = opened(result)
    with pytest.raises(CandidateError):
        session.note(40, "nobody")
    with pytest.raises(UsageError, match="characters"):
        session.note(0, "x" * (LONGEST + 1))
    assert session.journal.events == []
    session.close()
    with pytest.raises(UsageError, match="closed"):
        session.flag(0)
