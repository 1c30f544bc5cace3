"""A lab's own classes: declared, predicted, written."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from actsort_core import classes, exporters, terminal
from actsort_core.errors import UsageError
from actsort_core.store import Options

OWN = {"dendrite": "not_cell", "motion": "not_cell", "bright": "cell", "odd": "unsure"}


def blobs(n: int = 60, seed: int = 0) -> tuple[np.ndarray, list[str]]:
    """Four clusters in six features: cell, bright, dendrite, motion."""
    rng = np.random.default_rng(seed)
    names = ["cell", "bright", "dendrite", "motion"]
    which = np.arange(n) % 4
    x = rng.normal(0, 0.4, (n, 6)) + 2 * np.eye(6)[which]
    return x.astype(np.float32), [names[i] for i in which]


def test_classes_as_typed():
    assert classes.parse(["dendrite=not_cell", " soma = cell "]) == {"dendrite": "not_cell", "soma": "cell"}
    assert classes.parse(["a=cell", "a=cell"]) == {"a": "cell"}
    for wrong in (["dendrite"], ["=cell"], ["a=maybe"], ["cell=not_cell"], ["a=cell", "a=not_cell"], ["a="]):
        with pytest.raises(UsageError):
            classes.parse(wrong)


def test_shares_of_classes_add_up_to_the_model_and_find_the_right_one():
    x, names = blobs()
    p = np.linspace(0.02, 0.98, len(x))
    found = classes.predict(x, p, range(32), names[:32], OWN)
    assert found.names == ("cell", "bright", "dendrite", "motion")  # nobody said plain not_cell, and none was odd
    assert found.kinds == ("cell", "cell", "not_cell", "not_cell")
    assert found.probability.dtype == np.float32
    assert found.probability[:, :2].sum(axis=1) == pytest.approx(p, abs=1e-6)
    assert found.probability.sum(axis=1) == pytest.approx(1, abs=1e-6)
    cell = np.isin(names, ["cell", "bright"])
    assert (found.best(cell)[32:] == np.array(names)[32:]).mean() > 0.95


def test_a_class_never_contradicts_the_decision_wherever_the_line_is_drawn():
    x, names = blobs()
    found = classes.predict(x, np.full(len(x), 0.9), range(32), names[:32], OWN)
    for cut in (0.0, 0.5, 0.95):
        accepted = np.full(len(x), 0.9) > cut
        assert {OWN.get(name, name) for name in found.best(accepted)} == {"cell" if accepted[0] else "not_cell"}


def test_a_class_with_fewer_than_three_labels_is_not_predicted():
    x, names = blobs()
    few = [i for i in range(40) if names[i] != "motion"] + [3, 7]
    found = classes.predict(x, np.full(len(x), 0.3), few, [names[i] for i in few], OWN)
    assert found.names == ("cell", "bright", "dendrite")
    assert found.probability[:, 2] == pytest.approx(0.7, abs=1e-6)
    plain = classes.predict(x, np.full(len(x), 0.3), [], [], {})
    assert plain.names == ("cell", "not_cell")
    assert np.isnan(classes.predict(x, np.full(len(x), np.nan), few, [names[i] for i in few], OWN).probability).all()


def test_labels_in_another_order_give_the_same_predictions():
    x, names = blobs()
    p = np.full(len(x), 0.5)
    a = classes.predict(x, p, range(40), names[:40], OWN)
    b = classes.predict(x, p, list(range(40))[::-1], names[:40][::-1], OWN)
    assert (a.probability == b.probability).all()


def test_a_session_predicts_and_exports_classes(opened, result, truth, tmp_path):
    session = opened(result, classes={"dendrite": "not_cell", "bright": "cell"})
    assert session.class_predictions().names == ("cell", "not_cell")
    assert np.isnan(session.class_predictions().probability).all()
    for i in range(20):
        session.label(i, ("bright" if i % 2 else "cell") if truth[i] else ("dendrite" if i % 2 else "not_cell"))
    session.label(20, "unsure")
    found = session.class_predictions()
    assert set(found.names) == {"cell", "bright", "not_cell", "dendrite"}
    assert found.probability.shape == (40, 4)
    cell = [kind == "cell" for kind in found.kinds]
    assert found.probability[:, cell].sum(axis=1) == pytest.approx(session.predictions().probability, abs=1e-6)
    (curation,) = session.curations().values()
    kinds = [session.options.kind(name) for name in curation.classes]
    assert kinds == ["cell" if accepted else "not_cell" for accepted in curation.accepted]
    assert curation.classes[1] == session.labels()[1].value
    assert curation.classes[20] in found.names  # unsure: the model's class
    exporters.export_json([curation], tmp_path / "a.json")
    rows = json.loads((tmp_path / "a.json").read_text())["recordings"][0]["candidates"]
    assert [row["class"] for row in rows] == curation.classes.tolist()
    exporters.export_csv([curation], tmp_path / "a.csv")
    with (tmp_path / "a.csv").open() as file:
        assert [row["class"] for row in csv.DictReader(file)] == curation.classes.tolist()
    session.write()
    written = json.loads((session.folder / "curation.json").read_text())["recordings"][0]["candidates"]
    assert [row["class"] for row in written] == curation.classes.tolist()
    verdicts = json.loads((result / "a.verdict.json").read_text())
    assert verdicts == [int(kind == "cell") for kind in kinds]  # mapped through what a class counts as


def test_without_own_classes_nothing_is_said_of_classes(opened, result, truth, tmp_path):
    session = opened(result)
    for i in range(12):
        session.label(i, bool(truth[i]))
    (curation,) = session.curations().values()
    assert curation.classes is None
    exporters.export_csv([curation], tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text().splitlines()[0] == ",".join(exporters.COLUMNS)


def test_before_there_is_a_model_undecided_candidates_have_no_class(opened, toy):
    session = opened(toy("blank", verdicts=False, a=6), classes={"bright": "cell"})
    session.label(0, "bright")
    (curation,) = session.curations().values()
    assert curation.classes.tolist() == ["bright", "", "", "", "", ""]


def test_classes_can_be_added_to_a_running_session(opened, result):
    session = opened(result, classes={"dendrite": "not_cell"})
    session.label(0, "dendrite")
    session.add_classes({"soma": "cell"})
    session.label(1, "soma")
    with pytest.raises(UsageError):
        session.add_classes({"unsure": "cell"})
    session.close()
    again = opened(result)
    assert again.options.classes == {"dendrite": "not_cell", "soma": "cell"}
    again.close()
    more = opened(result, classes=classes.parse(["glia=not_cell"]))  # as the command line does
    assert list(more.options.classes) == ["dendrite", "soma", "glia"]


def test_digits_answer_own_classes():
    own = terminal.own_keys({"dendrite": "not_cell", "skip": "unsure"} | {f"c{i}": "cell" for i in range(9)})
    assert terminal.action_of("1", own) == "class:dendrite"
    assert terminal.action_of("2", own) == "class:skip"
    assert terminal.action_of("s", own) == "skip"
    assert terminal.action_of("9", own) == "class:c6"
    assert terminal.action_of("0", own) is None
    assert terminal.action_of("1") is None
    assert "dendrite (counts as not_cell)" in terminal.keys_help(own)


def test_a_person_presses_a_digit(opened, result, monkeypatch, capsys):
    session = opened(result, classes={"dendrite": "not_cell", "quit": "unsure"})
    keys = iter("12yq")
    monkeypatch.setattr(terminal, "_read_key", lambda: next(keys))
    terminal.sort_by_hand(session, None)
    assert sorted(label.value for label in session.labels()) == ["cell", "dendrite", "quit"]
    out = capsys.readouterr().out
    assert "1 dendrite" in out
    assert "-> dendrite" in out


def test_options_know_the_kinds():
    options = Options(classes=OWN)
    assert [options.kind(name) for name in ("cell", "dendrite", "odd")] == ["cell", "not_cell", "unsure"]
