"""Several people in one session: whose label counts, who is asked what again, and the command that compares them."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actsort_core import people
from actsort_core.errors import FormatError, UsageError
from actsort_core.journal import fold
from actsort_core.model import CandidateId, Label
from actsort_core.store import DOCUMENT, Options


def say(session: Any, who: str, **by_index: str) -> None:
    for index, value in by_index.items():
        session.label(int(index[1:]), value, annotator=who)


def values(session: Any) -> dict[int, str]:
    return {label.candidate.index: label.value for label in session.labels()}


# Whose label counts


def test_everybodys_own_labels(opened, result):
    session = opened(result)
    say(session, "ann", c1="cell", c2="cell")
    say(session, "bob", c2="not_cell", c3="unsure")
    say(session, "ann", c1="not_cell")
    assert session.annotators() == ("ann", "bob")
    assert [(la.candidate.index, la.value) for la in session.labels_by("ann")] == [(1, "not_cell"), (2, "cell")]
    assert [(la.candidate.index, la.value) for la in session.labels_by("bob")] == [(2, "not_cell"), (3, "unsure")]
    assert session.labels_by("cy") == ()
    assert {c.index: {who: la.value for who, la in by.items()} for c, by in session.votes().items()} == {
        1: {"ann": "not_cell"},
        2: {"ann": "cell", "bob": "not_cell"},
        3: {"bob": "unsure"},
    }
    session.annotator = "bob"
    session.undo()
    session.undo()
    assert session.labels_by("bob") == ()
    assert values(session) == {1: "not_cell", 2: "cell"}


def test_by_default_the_latest_label_counts(opened, result):
    session = opened(result)
    say(session, "ann", c1="cell")
    say(session, "bob", c1="cell")
    say(session, "cy", c1="not_cell")
    assert session.options.consensus == "latest"
    assert values(session) == {1: "not_cell"}


def test_a_majority_counts_and_a_tie_is_unsure(opened, result, truth):
    session = opened(result, consensus="majority")
    for i in range(12):
        session.label(i, bool(truth[i]))
    n = session.predictions().n_labels
    kinds = {True: "cell", False: "not_cell"}
    say(session, "bob", c0=kinds[not truth[0]], c1="unsure", c2=kinds[bool(truth[2])])
    assert values(session)[0] == "unsure"  # one against one
    assert values(session)[1] == kinds[bool(truth[1])]  # unsure is no vote
    assert session.predictions().n_labels == n - 1  # a tie trains nothing
    decision = session.decisions()[0]
    assert decision.origin == "model"
    assert decision.label.annotator == "ann, bob"
    say(session, "cy", c0=kinds[not truth[0]])
    assert values(session)[0] == kinds[not truth[0]]
    assert session.decisions()[0].accepted == (not truth[0])
    assert session.predictions().n_labels == n
    session.annotator = "cy"
    session.undo()
    assert values(session)[0] == "unsure"
    session.close()
    assert opened(result).options.consensus == "majority"
    assert values(opened(result, read_only=True)) == values(session)


def test_dawid_skene_believes_who_errs_less(opened, result, truth):
    session = opened(result, consensus="dawid-skene")
    assert session.options.consensus == "dawid_skene"
    rng = np.random.default_rng(1)
    wrong = {"ann": 0.0, "bob": 0.0, "cy": 0.45}
    for who, share in wrong.items():
        for i in range(30):
            session.label(i, bool(truth[i]) ^ bool(rng.random() < share), annotator=who)
    say(session, "ann", c30="cell")
    say(session, "cy", c30="not_cell", c31="cell")
    found = values(session)
    assert all(found[i] == ("cell" if truth[i] else "not_cell") for i in range(30))
    assert found[30] == "cell"
    assert found[31] == "cell"  # nobody disagrees: a label stands
    session.close()
    assert values(opened(result)) == found


def test_an_unknown_consensus_is_refused(opened, result, tmp_path):
    with pytest.raises(UsageError, match="latest, majority, dawid_skene"):
        opened(result, consensus="loudest")
    session = opened(result, consensus="majority")
    session.close()
    document = session.folder / DOCUMENT
    document.write_text(document.read_text().replace('"majority"', '"loudest"'))
    with pytest.raises(FormatError, match="loudest"):
        opened(result)


OPTIONS = Options(classes={"bright": "cell", "dendrite": "not_cell", "odd": "unsure"})


def votes(*said: str) -> dict[str, Label]:
    return {f"p{i}": Label(CandidateId("a", 0), value, f"p{i}", f"t{i}") for i, value in enumerate(said)}


@pytest.mark.parametrize(
    ("said", "value", "who"),
    [
        (["cell"], "cell", "p0"),
        (["unsure", "odd"], "odd", "p1"),
        (["cell", "not_cell"], "unsure", "p0, p1"),
        (["cell", "not_cell", "odd"], "unsure", "p0, p1"),
        (["bright", "not_cell", "cell"], "cell", "p2"),  # two against one; which of the two classes is open
        (["bright", "not_cell", "bright", "cell"], "bright", "p2"),
        (["dendrite", "dendrite", "not_cell", "cell"], "dendrite", "p1"),
        (["bright", "bright", "dendrite", "not_cell", "not_cell"], "not_cell", "p4"),
    ],
)
def test_settling_by_majority(said, value, who):
    label = people.settle(votes(*said), OPTIONS)
    assert (label.value, label.annotator) == (value, who)


SAID = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.sampled_from(["cell", "not_cell", "unsure", "undo"])), max_size=25)


@given(SAID, st.sampled_from(["latest", "majority", "dawid_skene"]))
@settings(max_examples=150, deadline=None)
def test_label_by_label_is_the_same_as_from_the_whole_journal(steps, how):
    options = Options(consensus=how)
    events: list[dict[str, Any]] = []
    labels, current = fold([]), {}
    for seq, (who, index, what) in enumerate(steps, 1):
        event: dict[str, Any] = {"seq": seq, "kind": "undo" if what == "undo" else "label", "annotator": who}
        if what != "undo":
            event |= {"recording": "r", "index": index, "class": what}
        events.append(event)
        candidate = labels.apply(event)
        if candidate is not None:
            current = people.refresh(current, labels, candidate, options)
        assert current == people.in_force(fold(events), options)


# Asked again


def test_unsure_trains_nothing_and_is_asked_again_last_and_once(opened, toy):
    session = opened(toy(a=6), strategy="random")
    asked = []
    while (candidate := session.ask()) is not None:
        asked.append(candidate)
        session.label(candidate, "unsure" if len(asked) in (1, 3) or len(asked) > 6 else "cell")
        assert len(asked) < 20
    assert len(set(asked[:6])) == 6
    assert asked[6:] == [asked[0], asked[2]]  # longest ago first, and not a third time
    reasons = [event["reason"] for event in session.journal.events]
    assert reasons[-2:] == ["again", "again"]
    assert session.queue(5) == ()
    session.close()
    assert opened(session.folder).ask() is None  # nor when resumed


def test_unsure_that_becomes_a_label_when_asked_again(opened, toy):
    session = opened(toy(a=3))
    for _ in range(3):
        session.label(session.ask(), "unsure")
    first = session.ask()
    assert session.ask() == first  # the same until it is answered
    session.label(first, "cell")
    second = session.ask()
    assert second != first
    third = session.skip()
    assert {first, second, third} == set(session.candidates)
    assert session.skip() == second  # round and round
    session.label(second, "not_cell")
    session.label(session.ask(), "unsure")
    assert session.ask() is None
    session.undo()
    assert session.ask() == third
    session.undo()
    assert session.ask() == second
    assert sorted(values(session).values()) == ["cell", "unsure", "unsure"]


def test_an_undone_label_is_asked_before_unsure_ones(opened, toy):
    session = opened(toy(a=3))
    for _ in range(3):
        session.label(session.ask(), "unsure")
    again = session.ask()
    taken_back = session.undo()
    assert session.ask() == taken_back != again
    session.label(taken_back, "cell")
    assert session.ask() == again


def test_a_tie_is_put_to_each_once_more(opened, toy):
    session = opened(toy(a=2), consensus="majority", annotator="ann")
    say(session, "ann", c0="cell", c1="cell")
    say(session, "bob", c0="not_cell")
    assert session.ask() == CandidateId("a", 0)
    session.label(0, "cell")
    assert session.ask() is None  # ann insists
    session.annotator = "bob"
    assert session.ask() == CandidateId("a", 0)
    session.label(0, "cell")
    assert session.ask() is None
    assert values(session) == {0: "cell", 1: "cell"}


def test_questions_end_when_an_unsure_one_is_not_answered_again(opened, toy):
    session = opened(toy(a=3), overlap=1.0)
    say(session, "bob", c0="cell", c1="cell")
    assert len(list(itertools.islice(session.questions(3), 10))) == 1


def test_in_the_terminal_unsure_ones_come_again(cli, toy):
    path = toy(a=3)
    done = cli("sort", path, "--classifier", "centroid", "--annotator", "ann", stdin="uyyn")
    assert done.code == 0, done.err
    assert "still open" in done.out
    assert "Every candidate is labelled." in done.out
    assert cli("status", path, "--json").json()["by_class"] == {"cell": 2, "not_cell": 1}


# Overlap


def test_by_default_the_second_person_is_asked_what_nobody_labelled(opened, result, truth):
    session = opened(result, annotator="ann")
    session.sort(lambda c: bool(truth[c.index]), 20)
    session.close()
    session = opened(result, annotator="bob")
    session.sort(lambda c: bool(truth[c.index]), 30)
    assert not {la.candidate for la in session.labels_by("ann")} & {la.candidate for la in session.labels_by("bob")}


def test_a_share_of_the_questions_is_about_what_others_labelled(opened, result, truth):
    session = opened(result, annotator="ann")
    session.sort(lambda c: bool(truth[c.index]), 20)
    session.close()

    def second() -> tuple[list[CandidateId], Any]:
        again = opened(result, annotator="bob", overlap="25%")
        asked = []
        for _ in range(12):
            again.wait()
            asked.append(again.ask())
            assert again.ask() == asked[-1]
            again.label(asked[-1], bool(truth[asked[-1].index]))
        return asked, again

    asked, again = second()
    others = {la.candidate for la in again.labels_by("ann")}
    assert [c in others for c in asked] == [False, False, False, True] * 3
    assert len(set(asked)) == 12
    assert again.agreement().fleiss.n == 3
    reasons = [event["reason"] for event in again.journal.events if event["annotator"] == "bob"]
    assert [reason == "overlap" for reason in reasons] == [c in others for c in asked]
    for _ in range(12):
        again.undo()
    again.close()
    assert second()[0] == asked  # fixed by the seed


def test_full_overlap_asks_everything_again_and_then_goes_on(opened, toy, truth):
    session = opened(toy(a=8), annotator="ann")
    session.sort(lambda c: True, 4)
    session.annotator, session.overlap = "bob", 1.0
    asked = []
    while (candidate := session.ask()) is not None:
        asked.append(candidate)
        session.label(candidate, False)
    assert len(asked) == len(set(asked)) == 8
    assert set(asked[:4]) == {la.candidate for la in session.labels_by("ann")}


@pytest.mark.parametrize(("text", "share"), [("20%", 0.2), ("0.2", 0.2), (1, 1.0), ("0", 0.0)])
def test_overlap_as_typed(text, share):
    assert people.parse_overlap(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["-1", "101%", "x", "nan", "2"])
def test_overlap_that_means_nothing(opened, result, text):
    with pytest.raises(UsageError, match="no share"):
        opened(result, overlap=text)


# What is written


def test_curation_tells_everybodys_vote(opened, result, tmp_path):
    session = opened(result, consensus="majority")
    say(session, "ann", c0="cell", c1="cell")
    session.write()
    rows = json.loads((session.folder / "curation.json").read_text())["recordings"][0]["candidates"]
    assert not any("votes" in row for row in rows)  # one person: nothing to tell
    say(session, "bob", c0="not_cell")
    session.write()
    rows = json.loads((session.folder / "curation.json").read_text())["recordings"][0]["candidates"]
    assert rows[0]["label"] == "unsure"
    assert rows[0]["votes"] == {"ann": "cell", "bob": "not_cell"}
    assert rows[1]["votes"] == {"ann": "cell"}
    assert "votes" not in rows[2]


# actsort agreement


def test_agreement_as_json_and_as_a_table(cli, opened, result):
    session = opened(result, classes={"dendrite": "not_cell"})
    say(session, "ann", c0="cell", c1="cell", c2="dendrite", c3="not_cell", c4="unsure", c5="cell")
    say(session, "bob", c0="cell", c1="not_cell", c2="not_cell", c3="not_cell", c4="cell")
    say(session, "cy", c1="cell")
    done = cli("agreement", result, "--json")  # while it is open elsewhere
    assert done.code == 0, done.err
    found = done.json()
    assert found["annotators"]["ann"]["labels"] == 6
    assert found["annotators"]["ann"]["by_class"] == {"cell": 3, "dendrite": 1, "not_cell": 1, "unsure": 1}
    assert found["candidates"] == {"labelled": 6, "by_two_or_more": 4}
    pair = found["pairs"][0]
    assert (pair["annotators"], pair["n"], pair["agreement"]) == (["ann", "bob"], 4, 0.75)
    assert pair["cohen_kappa"] == pytest.approx((0.75 - 0.5) / 0.5)
    assert found["pairs"][2]["cohen_kappa"] == pytest.approx(0)  # bob and cy: one candidate, and they differ
    assert found["fleiss"]["n"] == 4
    assert found["majority"] == {"cell": 4, "not_cell": 2, "tied": 0, "no_vote": 0}
    (row,) = found["disagreements"]
    assert (row["recording"], row["index"], row["majority"]) == ("a", 1, "cell")
    assert row["votes"] == {"ann": "cell", "bob": "not_cell", "cy": "cell"}
    assert found["consensus"] == "latest"
    text = cli("agreement", result).out
    assert "ann + bob" in text
    assert "a, candidate 1" in text
    assert "1 to settle" in text
    python = session.agreement()
    assert python.fleiss.kappa == pytest.approx(found["fleiss"]["kappa"], abs=1e-6)


def test_agreement_where_there_is_none(cli, opened, result):
    session = opened(result)
    session.close()
    assert cli("agreement", result, "--json").json()["pairs"] == []
    session = opened(result)
    say(session, "ann", c0="cell")
    session.close()
    assert "One person" in cli("agreement", result).out
    session = opened(result)
    say(session, "bob", c1="cell")
    session.close()
    found = cli("agreement", result, "--json").json()
    assert found["pairs"] == [{"annotators": ["ann", "bob"], "n": 0, "agreement": None, "cohen_kappa": None}]
    assert found["fleiss"]["kappa"] is None
    assert "--overlap" in cli("agreement", result).out
    assert cli("agreement", result / "nowhere").code == 1


def test_options_on_the_command_line(cli, result, tmp_path, truth):
    oracle = tmp_path / "truth.json"
    oracle.write_text(json.dumps(truth.tolist()))
    common = ("--classifier", "centroid", "--json")
    done = cli("sort", result, "--oracle", oracle, "--labels", 8, "--annotator", "ann", "--class", "dendrite=not_cell", *common)
    assert done.code == 0, done.err
    more = ("--annotator", "bob", "--overlap", "50%", "--consensus", "majority", "--class", "soma=cell")
    done = cli("sort", result, "--oracle", oracle, "--labels", 12, *more, *common)
    assert done.code == 0, done.err
    options = json.loads((result / "actsort" / DOCUMENT).read_text())["options"]
    assert options["classes"] == {"dendrite": "not_cell", "soma": "cell"}
    assert options["consensus"] == "majority"
    found = cli("agreement", result, "--json").json()
    assert found["pairs"][0]["n"] == 3  # four new ones, and every other question about ann's
    assert found["pairs"][0]["agreement"] == 1
    assert cli("sort", result, "--class", "dendrite").code == 2
    assert cli("sort", result, "--consensus", "loudest").code == 2
    assert cli("sort", result, "--overlap", "x").code == 2


def test_the_docs_name_every_key(cli, opened, result):
    text = (Path(__file__).parents[1] / "docs" / "people.md").read_text(encoding="utf-8")
    session = opened(result)
    say(session, "ann", c0="cell", c1="cell")
    say(session, "bob", c0="not_cell", c1="cell")
    found = cli("agreement", result, "--json").json()
    nested = (
        found["pairs"][0],
        found["fleiss"],
        found["disagreements"][0],
        found["majority"],
        found["annotators"]["ann"],
        found["candidates"],
    )
    for key in {*found, *(key for inner in nested for key in inner)}:
        assert f"`{key}`" in text, key
