"""Sessions: asking, labelling, learning and deciding, on the toy formats."""

from __future__ import annotations

import json
import os
import shutil
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_format
from conftest import make_plugins, simulated
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actsort_core import features as feature_module
from actsort_core.errors import (
    CandidateError,
    ChangedError,
    FormatError,
    JournalError,
    LockedError,
    MissingFileError,
    PluginError,
    PluginWarning,
    UnknownFormatError,
    UnknownNameError,
    UsageError,
)
from actsort_core.features import Feature, FeatureGroup
from actsort_core.hookspecs import hookimpl
from actsort_core.journal import FILE
from actsort_core.learn import ClassifierSpec
from actsort_core.model import CandidateId
from actsort_core.store import DOCUMENT, what_differs


def answer_with(session: Any, truth: np.ndarray):
    where = {candidate: i for i, candidate in enumerate(session.candidates)}
    return lambda candidate: bool(truth[where[candidate]])


def run(session: Any, truth: np.ndarray, labels: int | str) -> list[CandidateId]:
    """Sort with the truth; returns what was asked."""
    asked = []
    for candidate in session.questions(labels):
        asked.append(candidate)
        session.label(candidate, answer_with(session, truth)(candidate))
    return asked


def values(session: Any) -> dict[int, str]:
    return {label.candidate.index: label.value for label in session.labels()}


def verdicts(session: Any) -> list[tuple[bool, str]]:
    return [(d.accepted, d.origin) for d in session.decisions()]


def events(session: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (session.folder / FILE).read_text().splitlines()]


# Asking and labelling


def test_the_same_candidate_is_asked_until_it_is_labelled(opened, result):
    session = opened(result)
    first = session.ask()
    assert isinstance(first, CandidateId)
    assert session.ask() == first
    other = next(c for c in session.candidates if c != first)
    session.label(other, "cell")
    assert session.ask() == first
    session.label(first, "cell")
    second = session.ask()
    assert second not in (first, other)
    assert session.ask() == second


def test_a_label_is_on_disk_when_label_returns(opened, result):
    session = opened(result, refit_wait=0)
    candidate = session.ask()
    label = session.label(candidate, "cell", seconds=2.5)
    (event,) = events(session)
    assert (event["recording"], event["index"], event["class"], event["annotator"]) == ("a", candidate.index, "cell", "ann")
    assert (event["reason"], event["strategy"], event["seconds"], event["p"]) == ("start", "random", 2.5, None)
    assert event["fingerprint"] == session.recordings["a"].candidate_fingerprints[candidate.index]
    assert event["time"]
    assert (label.candidate, label.value, label.annotator, label.seconds) == (candidate, "cell", "ann", 2.5)
    session.label(candidate.index, "not_cell")  # not asked: somebody went back to it
    assert (events(session)[1]["reason"], events(session)[1]["seconds"]) == ("review", None)
    session.undo()
    session.undo()
    session.label(session.ask(), "cell", seconds=float("nan"))
    assert (events(session)[-1]["reason"], events(session)[-1]["seconds"]) == ("start", None)


def test_undo_asks_the_candidate_again_and_redo_gives_the_label_back(opened, result):
    session = opened(result)
    first = session.ask()
    session.label(first, "cell")
    second = session.ask()
    session.label(second, "not_cell")
    assert session.undo() == second
    assert session.ask() == second
    assert values(session) == {first.index: "cell"}
    assert session.undo() == first
    assert session.ask() == first
    assert session.undo() is None
    assert session.redo() == first
    assert session.redo() == second
    assert session.redo() is None
    assert values(session) == {first.index: "cell", second.index: "not_cell"}
    assert session.ask() not in (first, second)
    assert [e["kind"] for e in events(session)] == ["label", "label", "undo", "undo", "redo", "redo"]


def test_undo_of_a_second_opinion_brings_the_first_back(opened, result):
    session = opened(result)
    session.label(5, "cell")
    session.label(5, "not_cell")
    assert session.undo() == CandidateId("a", 5)
    assert values(session) == {5: "cell"}


def test_a_new_label_ends_what_could_be_redone(opened, result):
    session = opened(result)
    session.label(1, "cell")
    session.undo()
    session.label(2, "cell")
    assert session.redo() is None
    assert values(session) == {2: "cell"}


def test_resume_finds_labels_undo_history_and_options(opened, result):
    session = opened(result, seed=7, strategy="cal", threshold=0.4)
    session.label(1, "cell")
    session.label(2, None)
    session.undo()
    session.close()
    again = opened(result, classifier=None)
    assert values(again) == {1: "cell"}
    assert (again.options.seed, again.options.strategy, again.options.threshold, again.options.classifier) == (7, "cal", 0.4, "centroid")
    assert again.redo() == CandidateId("a", 2)
    assert values(again) == {1: "cell", 2: "unsure"}
    again.close()
    assert values(opened(again.folder)) == {1: "cell", 2: "unsure"}  # by the session's folder
    assert json.loads((again.folder / DOCUMENT).read_text())["format_version"] == 1


@pytest.mark.parametrize("reload", [False, True])
def test_random_label_undo_redo_skip_survive_reopening(opened, toy, reload):
    rng = np.random.default_rng(3)
    session = opened(toy(a=6), refit_wait=0)
    for _ in range(60):
        step = rng.choice(["label", "label", "undo", "redo", "skip", "ask"])
        if step == "label":
            session.label(int(rng.integers(6)), ["cell", "not_cell", "unsure"][rng.integers(3)])
        else:
            getattr(session, step)()
        if reload and rng.random() < 0.3:
            before, question = values(session), session.undo()
            redone = session.redo()
            assert question == redone
            session.close()
            session = opened(session.folder, refit_wait=0)
            assert values(session) == before


def test_skip_puts_a_candidate_off_until_the_others_are_labelled(opened, toy):
    session = opened(toy(a=4))
    first = session.ask()
    second = session.skip()
    third = session.skip()
    assert len({first, second, third}) == 3
    assert session.ask() == third
    fourth = session.skip()
    assert {first, second, third, fourth} == set(session.candidates)
    session.label(third, "cell")
    session.label(fourth, "cell")
    one = session.ask()
    two = session.skip()
    assert {one, two} == {first, second}
    assert session.skip() == one  # round and round, never stuck
    assert session.skip() == two
    session.label(two, "cell")
    assert session.ask() == one
    assert session.skip() == one  # nothing else is left
    session.label(one, "cell")
    assert session.ask() is None
    assert session.skip() is None


def test_all_labelled_asks_nothing(opened, toy):
    session = opened(toy(a=3))
    for _ in range(3):
        session.label(session.ask(), "cell")
    assert session.ask() is None
    assert session.queue(5) == ()
    assert list(session.questions(3)) == []
    session.undo()
    assert session.ask() is not None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, "cell"), (False, "not_cell"), (None, "unsure"), (1, "cell"), (0, "not_cell"), (1.0, "cell"),
        (np.True_, "cell"), (np.bool_(False), "not_cell"), (np.int64(1), "cell"), (np.float32(0), "not_cell"),
        ("cell", "cell"), (np.str_("not_cell"), "not_cell"), ("unsure", "unsure"),
    ],
)  # fmt: skip
def test_values_a_callback_may_return(opened, result, value, expected):
    session = opened(result, refit_wait=0, prepare=False)
    assert session.label(0, value).value == expected
    assert events(session)[0]["class"] == expected


@pytest.mark.parametrize("value", ["Cell", "1", "", 2, -1, float("nan"), [], [1], {}, np.array([1, 0]), object()])
def test_values_that_mean_nothing_are_refused_and_not_written(opened, result, value):
    session = opened(result, prepare=False)
    with pytest.raises(UsageError, match="is no class"):
        session.label(0, value)
    assert events(session) == []


def test_own_classes_count_as_what_they_were_declared(opened, result, truth):
    session = opened(result, classes={"dendrite": "not_cell", "odd": "unsure", "bright": "cell"})
    for i in range(12):
        session.label(i, ("bright" if i % 2 else "cell") if truth[i] else ("dendrite" if i % 2 else "not_cell"))
    session.label(20, "odd")
    session.wait()
    assert session.predictions().n_labels == 12
    decisions = session.decisions()
    assert [d.accepted for d in decisions[:12]] == truth[:12].astype(bool).tolist()
    assert decisions[20].origin == "model"
    assert decisions[20].label.value == "odd"
    session.close()
    again = opened(result)
    assert again.options.classes == {"dendrite": "not_cell", "odd": "unsure", "bright": "cell"}
    assert values(again)[20] == "odd"
    with pytest.raises(UsageError):
        again.label(0, "glia")


def test_classes_that_are_in_use_cannot_be_taken_away(opened, result):
    session = opened(result, classes={"dendrite": "not_cell"})
    session.label(0, "dendrite")
    session.close()
    before = (session.folder / DOCUMENT).read_bytes()
    with pytest.raises(UsageError, match="dendrite"):
        opened(result, classes={"glia": "not_cell"})
    assert (session.folder / DOCUMENT).read_bytes() == before
    again = opened(result, classes={"glia": "not_cell", "dendrite": "not_cell"})
    assert values(again) == {0: "dendrite"}


@pytest.mark.parametrize("classes", [{"cell": "not_cell"}, {"x": "maybe"}, {"": "cell"}])
def test_own_classes_are_checked(opened, result, classes):
    with pytest.raises(UsageError):
        opened(result, classes=classes)


@pytest.mark.parametrize("candidate", [-1, 40, 10**12, "a", None, 1.5, ("b", 0), ("a", 40), ("a", "x"), ("a",), ("a", 1, 2), [0], "0"])
def test_candidates_that_do_not_exist(opened, result, candidate):
    session = opened(result, prepare=False)
    with pytest.raises(CandidateError, match="0 to 39"):
        session.label(candidate, "cell")
    assert events(session) == []


def test_an_index_will_do_for_one_recording_and_a_pair_for_several(opened, toy, result):
    session = opened(result, prepare=False, session=result.parent / "s1")
    assert session.label(3, True).candidate == CandidateId("a", 3)
    assert session.label(np.int64(4), True).candidate == CandidateId("a", 4)
    assert session.label(("a", 5), True).candidate == CandidateId("a", 5)
    session = opened(toy("two", a=5, b=6), prepare=False)
    assert session.label(("b", 3), True).candidate == CandidateId("b", 3)
    assert session.label(CandidateId("a", 1), True).candidate == CandidateId("a", 1)
    with pytest.raises(CandidateError, match="a: 0 to 4, b: 0 to 5"):
        session.label(3, True)
    key, index = session.ask()
    assert session.label((key, index), False).value == "not_cell"


def test_several_annotators_each_undo_their_own_and_the_latest_label_counts(opened, result):
    session = opened(result, annotator="ada")
    session.label(1, "cell")
    session.label(2, "cell")
    session.close()
    session = opened(result, annotator="bob")
    assert session.undo() is None  # what ada said is not bob's to undo
    session.label(2, "not_cell")
    session.label(3, "cell", annotator="cy")
    assert {la.candidate.index: la.annotator for la in session.labels()} == {1: "ada", 2: "bob", 3: "cy"}
    assert values(session)[2] == "not_cell"
    assert session.undo() == CandidateId("a", 2)
    assert values(session)[2] == "cell"
    assert session.ask() != CandidateId("a", 2)  # ada's label is in force again: nothing to ask
    session.annotator = "cy"
    assert session.undo() == CandidateId("a", 3)
    assert session.ask() == CandidateId("a", 3)
    session.annotator = "ada"
    assert session.undo() == CandidateId("a", 2)
    assert values(session) == {1: "cell"}


@pytest.mark.parametrize(
    ("labels", "expected"),
    [(0, 0), (7, 7), ("7", 7), (1000, 40), ("10%", 4), (" 10 % ", 4), ("1%", 1), ("0%", 0), ("2.6%", 2), ("100%", 40), ("250%", 40)],
)
def test_how_many_labels(opened, result, labels, expected):
    assert opened(result, prepare=False).count(labels) == expected


@pytest.mark.parametrize("labels", [-1, "-1", "", "%", "x%", "ten", "nan%", "inf%", "-inf%", "-5%", "1e400%", "4.5", None, [1]])
def test_numbers_of_labels_that_mean_nothing(opened, result, labels):
    with pytest.raises(UsageError, match="no number of labels"):
        opened(result, prepare=False).count(labels)


# Learning and deciding


def test_cold_start_is_random_until_three_of_each_then_the_strategy_asks(opened, result):
    session = opened(result, seed=5)
    cells = iter([True, True, False, True, False, True, False, True])
    asked = []
    for reply in cells:
        session.wait()
        asked.append(session.ask())
        session.label(asked[-1], reply)
    session.wait()
    asked.append(session.ask())
    session.label(asked[-1], True)
    rows = events(session)
    assert [(e["reason"], e["strategy"]) for e in rows] == [("start", "random")] * 7 + [("active", "balanced_pi")] * 2
    assert [e["p"] is None for e in rows] == [True] * 7 + [False] * 2
    order = [session.candidates[i] for i in np.random.default_rng(5).permutation(40)]
    assert asked[:7] == order[:7]  # every candidate equally likely, fixed by the seed


def test_where_one_class_is_rare_a_model_decides_but_questions_stay_random_until_three_of_each(opened, result):
    session = opened(result)
    for i in range(30):
        session.label(i, i > 1)  # two of one class: a model after thirty labels, but too few to trust its questions
    session.wait()
    assert session.predictions().n_labels == 30
    session.label(session.ask(), "cell")
    assert (events(session)[-1]["reason"], events(session)[-1]["strategy"]) == ("start", "random")
    session.label(session.ask(), "not_cell")
    session.wait()
    session.label(session.ask(), "cell")
    assert events(session)[-1]["reason"] == "active"


def test_the_strategy_asks_nearest_to_pi(opened, result, truth):
    session = opened(result)
    run(session, truth, 10)
    session.wait()
    predictions = session.predictions()
    assert predictions.share == pytest.approx(predictions.probability.mean())
    assert predictions.threshold == predictions.share
    labelled = {la.candidate for la in session.labels()}
    left = [c for c in session.candidates if c not in labelled]
    distance = dict(zip(session.candidates, np.abs(predictions.probability - predictions.share), strict=True))
    assert distance[session.ask()] == min(distance[c] for c in left)
    assert list(session.queue(4)) == sorted(left, key=distance.__getitem__)[:4]


def test_first_to_last_needs_no_model(opened, result):
    session = opened(result, strategy="first_to_last")
    assert [c.index for c in session.queue(4)] == [0, 1, 2, 3]


def test_unsure_is_decided_by_the_model_and_the_label_is_kept(opened, result, truth):
    session = opened(result)
    run(session, truth, 12)
    unsure = session.ask()
    session.label(unsure, "unsure")
    session.wait()
    assert session.predictions().n_labels == 12
    decision = session.decisions()[unsure.index]
    predictions = session.predictions()
    assert decision.origin == "model"
    assert decision.accepted == (predictions.probability[unsure.index] > predictions.threshold)
    assert decision.label.value == "unsure"
    assert session.ask() != unsure


@pytest.mark.parametrize("threshold", [0.0, 1.0, None])
def test_labels_always_win(opened, result, truth, threshold):
    session = opened(result, threshold=threshold)
    run(session, truth, 14)
    wrong = {}
    for candidate in list(session.candidates)[:6]:  # against the model, whatever it says
        accepted = session.decisions()[candidate.index].accepted
        session.label(candidate, not accepted)
        wrong[candidate.index] = not accepted
    decisions = session.decisions()
    for index, accepted in wrong.items():
        assert (decisions[index].accepted, decisions[index].origin) == (accepted, "label")
    p = session.predictions()
    cut = p.share if threshold is None else threshold
    assert p.threshold == cut
    for d in decisions:
        if d.origin == "model":
            assert d.accepted == (d.probability > cut)
    assert sum(d.origin == "label" for d in decisions) == len(session.labels())


def test_before_there_is_a_model_the_host_decides(opened, toy):
    session = opened(toy(a=12))
    verdict = session.priors["a"].verdict
    assert verdicts(session) == [(v > 0, "prior") for v in verdict.tolist()]
    session.label(0, not verdict[0] > 0)
    assert verdicts(session)[0] == (not verdict[0] > 0, "label")
    session.label(1, "unsure")
    assert verdicts(session)[1] == (bool(verdict[1] > 0), "prior")
    undecided = opened(toy("none", verdicts=False, a=3))
    assert verdicts(undecided) == [(False, "none")] * 3
    assert np.isnan(undecided.predictions().probability).all()


def test_threshold_moves_the_line_and_is_kept(opened, result, truth):
    session = opened(result)
    run(session, truth, 12)
    session.wait()
    fitted = session.predictions()
    session.threshold = 0.9
    high = sum(a for a, _ in verdicts(session))
    session.threshold = 0.1
    low = sum(a for a, _ in verdicts(session))
    assert high < low
    session.close()
    assert opened(result).threshold == 0.1
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(UsageError):
            session.threshold = wrong
    session.close()
    again = opened(session.folder.parent, session=session.folder.parent / "other", threshold=0.25)
    assert again.threshold == 0.25
    again.close()
    assert opened(again.folder, threshold="pi").threshold is None
    assert fitted.threshold == fitted.share


@pytest.mark.parametrize("wrong", ["high", "1.5", -0.2, float("nan"), "", "nan"])
def test_thresholds_that_mean_nothing(opened, result, wrong):
    with pytest.raises(UsageError):
        opened(result, threshold=wrong)
    assert not (result / "actsort").exists()


def test_decisions_are_much_better_than_the_host(opened, toy):
    path = toy(a=200)
    truth = simulated(200)[1]
    session = opened(path, classifier=None)
    run(session, truth, 30)
    right = np.array([d.accepted for d in session.decisions()]) == truth
    host = (session.priors["a"].verdict > 0) == truth
    assert right.mean() > 0.9 > host.mean()


# Determinism


def questions_and_decisions(opened, path: Path, folder: Path, truth: np.ndarray, seed: int, stops: tuple[int, ...], **options: Any):
    asked: list[CandidateId] = []
    for stop in stops:
        session = opened(path, session=folder, seed=seed, **options)
        asked += run(session, truth, stop)
        decisions = [(d.accepted, d.origin, d.probability) for d in session.decisions()]
        session.close()
    return asked, decisions


@pytest.mark.parametrize("classifier", ["centroid", "l1_logistic"])
def test_same_seed_same_questions_and_decisions_also_when_resumed(opened, result, truth, tmp_path, classifier):
    def go(name: str, seed: int, *stops: int):
        return questions_and_decisions(opened, result, tmp_path / name, truth, seed, stops, classifier=classifier)

    asked, decisions = go("one", 1, 20)
    assert len(set(asked)) == 20
    assert go("two", 1, 20) == (asked, decisions)
    assert go("resumed", 1, 2, 9, 10, 20) == (asked, decisions)
    other, _ = go("seed2", 2, 20)
    assert other[:5] != asked[:5]


def test_undo_in_between_changes_nothing_afterwards(opened, result, truth, tmp_path):
    plain = opened(result, session=tmp_path / "plain")
    asked = run(plain, truth, 16)
    session = opened(result, session=tmp_path / "undone")
    run(session, truth, 12)
    for _ in range(4):
        session.undo()
    for _ in range(4):
        session.redo()
    session.wait()
    assert run(session, truth, 16) == asked[12:]
    np.testing.assert_array_equal(session.predictions().probability, plain.predictions().probability)


@pytest.mark.parametrize("classifier", ["centroid", "l1_logistic"])
def test_the_same_labels_give_the_same_model_in_whatever_order_they_came(opened, result, truth, tmp_path, classifier):
    found = []
    for name, order in (("up", range(20)), ("down", range(19, -1, -1)), ("mixed", np.random.default_rng(0).permutation(20))):
        session = opened(result, session=tmp_path / name, classifier=classifier, refit_wait=0)
        for i in order:
            session.label(int(i), bool(truth[i]))
        session.wait()
        found.append(session.predictions().probability)
    np.testing.assert_array_equal(found[1], found[0])
    np.testing.assert_array_equal(found[2], found[0])


def test_questions_end_when_the_answer_is_withheld(opened, result):
    session = opened(result)
    assert len(list(session.questions(5))) == 1


def test_sort_with_a_callback(opened, result, truth):
    session = opened(result)
    assert session.sort(answer_with(session, truth), "25%") is session
    assert len(session.labels()) == 10
    session.sort(lambda c: pytest.fail("asked again"), 10)


# Fits in the background


class Gate:
    """A classifier plug-in that fits when it is let."""

    def __init__(self) -> None:
        self.open, self.started, self.fits = threading.Event(), threading.Event(), 0

    @hookimpl
    def actsort_register_classifiers(self):
        gate = self

        class Slow(toy_format.Centroid):
            def fit(self, X, y):
                gate.started.set()
                assert gate.open.wait(10)
                gate.fits += 1
                return super().fit(X, y)

        return [ClassifierSpec("slow", "waits for a test", Slow)]


def label_three_of_each(session: Any, truth: np.ndarray, n: int = 3) -> int:
    chosen = [int(i) for kind in (0, 1) for i in np.flatnonzero(truth == kind)[:n]]
    for i in chosen:
        session.label(i, bool(truth[i]))
    return len(chosen)


@pytest.mark.parametrize("refit_wait", [0, 0.001])
def test_neither_label_nor_ask_waits_for_a_fit(opened, result, truth, refit_wait):
    gate = Gate()
    session = opened(result, plugins=make_plugins(gate), classifier="slow", refit_wait=refit_wait)
    try:
        assert label_three_of_each(session, truth) == 6
        assert gate.started.wait(60)  # a fit is running, and blocked
        for _ in range(5):
            session.label(session.ask(), "cell")
        assert session.undo() is not None
        assert len(session.labels()) == 10
        assert session.predictions().n_labels == 0
        assert session.wait(0.01) is False
        assert gate.fits == 0
    finally:
        gate.open.set()
    assert session.wait(60)
    assert session.predictions().n_labels == 10
    assert gate.fits <= 3  # what piled up meanwhile is fitted once, not label by label


def test_predictions_say_how_many_labels_they_knew(opened, result, truth):
    gate = Gate()
    gate.open.set()
    session = opened(result, plugins=make_plugins(gate), classifier="slow")
    label_three_of_each(session, truth, 5)
    assert session.predictions().n_labels == 10
    gate.open.clear()
    gate.started.clear()
    session.refit_wait = 0
    old = session.predictions()
    session.label(20, bool(truth[20]))
    assert gate.started.wait(60)
    assert session.predictions().n_labels == 10
    np.testing.assert_array_equal(session.predictions().probability, old.probability)
    gate.open.set()
    session.wait()
    assert session.predictions().n_labels == 11


def broken_classifier(wrong: Any):
    class Plugin:
        @hookimpl
        def actsort_register_classifiers(self):
            class Broken(toy_format.Centroid):
                def predict_proba(self, X):
                    if isinstance(wrong, Exception):
                        raise wrong
                    return wrong(super().predict_proba(X))

            return [ClassifierSpec("broken", "fails", Broken)]

    return Plugin()


@pytest.mark.parametrize("wrong", [RuntimeError("out of luck"), lambda p: p[:-1], lambda p: p * np.nan, lambda p: p[:, 0]])
def test_a_failing_classifier_loses_no_label_and_says_so(opened, result, truth, wrong):
    session = opened(result, plugins=make_plugins(broken_classifier(wrong)), classifier="broken", refit_wait=0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        n = label_three_of_each(session, truth)
        with pytest.raises(PluginError, match="labels are safe"):
            session.wait()
    assert any(w.category is PluginWarning and "Fitting failed" in str(w.message) for w in caught)
    with pytest.raises(PluginError, match="broken"):
        session.decisions()
    with pytest.raises(PluginError):
        session.write()
    assert session.ask() is not None
    assert len(events(session)) == n
    session.close()
    again = opened(result, classifier="centroid")  # as the message says
    assert len(again.labels()) == n
    assert len(again.decisions()) == 40


def test_a_failing_classifier_never_hangs_even_where_warnings_are_errors(opened, result, truth):
    session = opened(result, plugins=make_plugins(broken_classifier(RuntimeError("no"))), classifier="broken", refit_wait=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        label_three_of_each(session, truth)
        with pytest.raises(PluginError, match="labels are safe"):
            session.wait(60)
        session.label(30, "cell")
        with pytest.raises(PluginError, match="labels are safe"):
            session.wait(60)


def test_a_fit_that_failed_once_recovers_with_the_next_label(opened, result, truth):
    class Moody:
        fail = True

        @hookimpl
        def actsort_register_classifiers(self):
            plugin = self

            class Classifier(toy_format.Centroid):
                def fit(self, X, y):
                    if plugin.fail:
                        raise RuntimeError("not today")
                    return super().fit(X, y)

            return [ClassifierSpec("moody", "fails at first", Classifier)]

    plugin = Moody()
    session = opened(result, plugins=make_plugins(plugin), classifier="moody")
    with pytest.warns(PluginWarning, match="not today"):
        label_three_of_each(session, truth)
    plugin.fail = False
    session.label(30, bool(truth[30]))
    assert session.wait()
    assert len(session.decisions()) == 40


# Hooks


def test_hooks_are_told_in_order(opened, result, truth, hooks):
    session = opened(result, plugins=make_plugins(hooks.plugin))
    assert hooks.of("opened") == [session]
    session.label(0, "cell")
    session.undo()
    session.redo()
    assert hooks.of("labels") == [[(0, "cell")], [], [(0, "cell")]]
    assert hooks.of("fitted") == []
    run(session, truth, 12)
    session.wait()
    assert hooks.of("fitted")[-1] == 12
    report = session.write()
    ((curations, paths),) = hooks.of("written")
    assert [c.recording for c in curations] == ["a"]
    assert tuple(paths) == report.written == (result / "a.verdict.json",)
    session.write(dry_run=True)
    assert len(hooks.of("written")) == 1
    assert next(name for name, _ in hooks.calls) == "opened"


def test_a_hook_that_fails_loses_nothing(opened, result, hooks):
    class Bad:
        @hookimpl
        def actsort_labels_changed(self, session):
            raise RuntimeError("bad plug-in")

        @hookimpl
        def actsort_session_opened(self, session):
            raise RuntimeError("bad plug-in")

    with pytest.warns(PluginWarning, match="actsort_session_opened"):
        session = opened(result, plugins=make_plugins(Bad(), hooks.plugin))
    with pytest.warns(PluginWarning, match="actsort_labels_changed"):
        session.label(0, "cell")
    assert values(session) == {0: "cell"}
    assert hooks.of("labels") == [[(0, "cell")]]


def test_a_plug_in_may_stop_the_questions(opened, result, truth):
    class Stop:
        @hookimpl
        def actsort_should_stop(self, session):
            return "five are enough" if len(session.labels()) >= 5 else None

    session = opened(result, plugins=make_plugins(Stop()))
    assert len(run(session, truth, 20)) == 5
    assert any("five are enough" in note for note in session.notes)


# Features


class Counter:
    """A feature group that counts how often it is computed."""

    def __init__(self, version: int = 1) -> None:
        self.computed: list[str] = []
        self.version = version

    @hookimpl
    def actsort_register_features(self):
        feature = Feature("count.mean", "1", self.version, None, "mean of the trace")
        return [FeatureGroup("count", (feature,), frozenset({"traces"}), self.compute)]

    def compute(self, recording):
        self.computed.append(recording.name)
        return {"count.mean": np.asarray(recording.traces[slice(None)]).mean(axis=1)}


def test_features_are_computed_once_and_then_taken_from_the_cache(opened, result):
    counter = Counter()
    plugins = make_plugins(counter)
    table = opened(result, plugins=plugins).features()
    assert counter.computed == ["a"]
    session = opened(result, plugins=plugins, session=result.parent / "elsewhere")
    assert counter.computed == ["a", "a"]
    session.close()
    again = opened(session.folder, plugins=plugins).features()
    assert counter.computed == ["a", "a"]
    assert again.names == table.names
    np.testing.assert_array_equal(again.values, table.values)
    assert "count.mean" in table.names


def change_trace(path: Path) -> None:
    data = dict(np.load(path / "a.data.npz"))
    data["traces"][7, 3] += 100
    np.savez(path / "a.data.npz", **data)


@pytest.mark.parametrize(
    "change",
    [
        *("version", "trace", "groups", "no index", "no array", "empty array", "cut array", "shape", "text", "index", "nothing"),
        pytest.param("zip"),
    ],
)
def test_a_cache_that_does_not_fit_is_computed_anew(opened, result, change):
    counter = Counter()
    session = opened(result, plugins=make_plugins(counter))
    before = session.features().values
    session.close()
    index, array = session.folder / "features/a.json", session.folder / "features/a.npy"
    options: dict[str, Any] = {}
    if change == "version":
        counter.version = 2
    elif change == "trace":
        change_trace(result)
    elif change == "groups":
        options["features"] = ["count"]
    elif change == "no index":
        index.unlink()
    elif change == "no array":
        array.unlink()
    elif change == "empty array":
        array.write_bytes(b"")
    elif change == "cut array":
        array.write_bytes(array.read_bytes()[:-100])
    elif change == "shape":
        np.save(array, np.zeros((3, 3), np.float32))
    elif change == "text":
        array.write_text("no array")
    elif change == "index":
        index.write_text("[]")
    elif change == "zip":
        with array.open("wb") as handle:
            np.savez(handle, a=1)
    session = opened(result, plugins=make_plugins(counter), **options)
    assert counter.computed == ["a"] * (1 if change == "nothing" else 2)
    after = session.features()
    if change == "groups":
        assert after.names == ("count.mean",)
    elif change == "trace":
        assert (after.values != before).any()
    else:
        np.testing.assert_array_equal(after.values, before)


def test_a_cache_that_cannot_be_written_is_no_error(opened, result):
    counter = Counter()
    (result / "actsort").mkdir()
    (result / "actsort/features").write_text("in the way")
    assert opened(result, plugins=make_plugins(counter)).features().values.shape[0] == 40
    assert counter.computed == ["a"]


def test_a_failing_feature_group_is_an_error_that_names_it_and_frees_the_session(opened, result):
    class Bad(Counter):
        def compute(self, recording):
            raise RuntimeError("no such luck")

    with pytest.raises(PluginError, match=r"'count'.*no such luck"):
        opened(result, plugins=make_plugins(Bad()))
    session = opened(result, plugins=make_plugins(Bad()), features=["-count"])
    assert "count.mean" not in session.features().names


def test_features_can_be_chosen_by_name(opened, result):
    assert feature_module.FeatureGroup is FeatureGroup
    names = opened(result, plugins=make_plugins(Counter()), features=["count"]).features().names
    assert names == ("count.mean",)
    with pytest.raises(UnknownNameError, match="cuont"):
        opened(result, session=result.parent / "other", features=["cuont"])


# The prior


def reject_all(session: Any) -> None:
    """Write decisions that cannot be mistaken for the host's: everything rejected."""
    for candidate in session.candidates:
        session.label(candidate, "not_cell")
    session.write()


def test_the_prior_is_what_it_was_at_the_first_opening(opened, result):
    first = opened(result)
    before = first.priors["a"].verdict.copy()
    assert (before > 0).any()
    reject_all(first)
    first.close()
    assert (opened(result).priors["a"].verdict == before).all()


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_second_session_does_not_take_our_decisions_for_the_hosts(opened, tmp_path, result, kind):
    if kind == "file":
        result = toy_format.save_file(tmp_path / "r.toy.json", simulated()[0])
    first = opened(result)
    key = next(iter(first.recordings))
    before = first.priors[key].verdict.copy()
    reject_all(first)
    first.close()
    second = opened(result, session=tmp_path / "second")
    assert (second.recordings[key].prior.verdict < 0).all()  # what the file says now is ours
    assert (second.priors[key].verdict == before).all()
    first = opened(result)
    first.restore()
    first.close()
    if kind == "folder":  # the host decides anew: that is its verdict again
        (result / "a.verdict.json").write_text(json.dumps([1] * 40))
        third = opened(result, session=tmp_path / "third")
        assert (third.priors[key].verdict > 0).all()


def test_decisions_whose_receipt_was_lost_are_not_taken_for_the_hosts_either(opened, tmp_path, result):
    """Killed between replacing the file and writing the receipt: the intent is in the journal."""
    first = opened(result)
    before = first.priors["a"].verdict.copy()
    reject_all(first)
    first.close()
    journal = first.folder / FILE
    lines = journal.read_bytes().splitlines(keepends=True)
    assert b'"kind":"written"' in lines[-1]
    journal.write_bytes(b"".join(lines[:-1]))
    assert (opened(result, session=tmp_path / "second").priors["a"].verdict == before).all()


# Results that changed


def resave(path: Path, recording: Any, name: str = "a") -> None:
    toy_format.save_folder(path, recording, name)


def reordered(recording: Any, order: Any) -> Any:
    from dataclasses import replace

    order = np.asarray(order)
    prior = type(recording.prior)(recording.prior.verdict[order], recording.prior.probability[order])
    return replace(recording, footprints=recording.footprints[:, order], traces=recording.traces[order], prior=prior)


def scaled(recording: Any, index: int) -> Any:
    from dataclasses import replace

    footprints = recording.footprints.copy()
    footprints.data[footprints.indptr[index] : footprints.indptr[index + 1]] *= 2
    return replace(recording, footprints=footprints)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda r: reordered(r, range(39)), r"39 candidates instead of 40 \(1 are gone, 0 are new\)"),
        (lambda r: reordered(r, [1, 0, *range(2, 40)]), r"another order \(2 of 40 moved\)"),
        (lambda r: scaled(r, 7), r"1 of 40 footprints changed \(candidates 7\)"),
        (lambda r: simulated(40, 9)[0], r"40 of 40 footprints changed"),
    ],
)
@pytest.mark.parametrize("labelled", [True, False])
def test_a_changed_recording_is_refused_at_open_and_at_write_saying_what_differs(opened, result, snapshot, change, says, labelled):
    session = opened(result)
    if labelled:
        session.label(3, "cell")
    resave(result, change(simulated()[0]))
    before = {k: v for k, v in snapshot(result).items() if not k.startswith("actsort/")}
    with pytest.raises(ChangedError, match=says) as caught:
        session.write()
    assert "Nothing was written" in caught.value.hint
    with pytest.raises(ChangedError, match=says):
        session.write(dry_run=True)
    assert {k: v for k, v in snapshot(result).items() if not k.startswith("actsort/")} == before
    session.close()
    journal = (session.folder / FILE).read_bytes()
    with pytest.raises(ChangedError, match=says) as caught:
        opened(result, reattach=False)
    assert str(result) in caught.value.what
    assert caught.value.hint
    assert (session.folder / FILE).read_bytes() == journal
    resave(result, simulated()[0])  # as the hint says
    assert len(opened(result).labels()) == labelled


def test_new_traces_or_verdicts_are_no_change(opened, result):
    session = opened(result)
    session.label(3, "cell")
    session.close()
    change_trace(result)
    (result / "a.verdict.json").unlink()
    assert values(opened(result)) == {3: "cell"}


def test_a_recording_more_or_less_is_refused(opened, toy):
    path = toy(a=5, b=6)
    session = opened(path)
    toy_format.save_folder(path, simulated(7, 5, "c")[0], "c")
    with pytest.raises(ChangedError, match="3 recordings instead of 2"):
        session.write()
    session.close()
    with pytest.raises(ChangedError, match=r"2 recording.*3 were found"):
        opened(path)


@given(old=st.lists(st.sampled_from("abcd"), max_size=6), new=st.lists(st.sampled_from("abcd"), max_size=6))
def test_what_differs_is_silent_exactly_when_nothing_does(old, new):
    assert (what_differs(old, new) == "") == (old == new)


def test_labels_of_another_result_are_refused(opened, toy):
    one, two = toy("one", a=10), toy("two", seed=5, a=10)
    first, second = opened(one), opened(two)
    first.label(2, "cell")
    first.close()
    second.close()
    shutil.copy(first.folder / FILE, second.folder / FILE)
    with pytest.raises(ChangedError, match=r"event 1 labels candidate 2 of 'a'"):
        opened(two)


# Where a session lives


def test_the_session_lives_in_a_result_folder_or_beside_a_result_file(opened, result, tmp_path):
    assert opened(result).folder == result / "actsort"
    file = toy_format.save_file(tmp_path / "r.toy.json", simulated(8)[0])
    assert opened(file).folder == tmp_path / "r.toy.json.actsort"


def test_a_result_that_moved_as_a_whole_still_opens(opened, result, tmp_path, monkeypatch):
    session = opened(result)
    session.label(3, "cell")
    session.write()
    session.close()
    moved = result.rename(tmp_path / "moved")
    again = opened(moved / "actsort")
    assert values(again) == {3: "cell"}
    assert again.sources[0].path.resolve() == moved
    again.write()
    again.restore()
    again.close()
    assert not result.exists()
    monkeypatch.chdir(moved)
    assert values(opened(Path("actsort"))) == {3: "cell"}


def test_a_session_elsewhere_finds_its_result_and_follows_it_when_told(opened, result, tmp_path):
    session = opened(result, session=tmp_path / "sessions/one")
    session.label(3, "cell")
    session.close()
    assert values(opened(tmp_path / "sessions/one")) == {3: "cell"}


def test_a_result_that_was_moved_away_from_its_session(opened, result, tmp_path):
    session = opened(result, session=tmp_path / "one")
    session.label(3, "cell")
    session.close()
    moved = result.rename(tmp_path / "renamed")
    with pytest.raises(MissingFileError, match="results does not exist"):
        opened(tmp_path / "one")
    again = opened(moved, session=tmp_path / "one")
    assert values(again) == {3: "cell"}
    again.close()
    assert values(opened(tmp_path / "one")) == {3: "cell"}  # the new place is remembered


def read_only_below(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """As if `folder` were read-only: tests may run as root, for whom nothing is."""
    access = os.access

    def denied(path: Any, mode: int, **options: Any) -> bool:
        below = Path(path).resolve().is_relative_to(folder)
        return not (mode & os.W_OK and below) and access(path, mode, **options)

    monkeypatch.setattr(os, "access", denied)


def test_beside_a_read_only_result_the_session_is_kept_in_the_working_folder(opened, result, tmp_path, monkeypatch, snapshot):
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    read_only_below(monkeypatch, result)
    before = snapshot(result)
    session = opened(result)
    assert session.folder.parent == work
    assert session.folder.match("results-*.actsort"), "told apart from other read-only results of that name"
    assert any("read-only" in note and str(session.folder) in note for note in session.notes)
    session.label(3, "cell")
    session.close()
    assert values(opened(result)) == {3: "cell"}
    assert snapshot(result) == before


def test_a_read_only_session_takes_no_lock_and_changes_nothing(opened, result, truth, snapshot):
    session = opened(result)
    run(session, truth, 12)
    session.write()
    decided = verdicts(session)
    before = snapshot(result)
    reader = opened(result, read_only=True)
    assert verdicts(reader) == decided
    assert reader.ask() is not None
    for change in (
        lambda: reader.label(reader.ask(), "cell"),
        reader.undo,
        reader.write,
        reader.restore,
        lambda: setattr(reader, "threshold", 0.123),
    ):
        with pytest.raises(UsageError, match="read-only"):
            change()
    assert reader.write(dry_run=True).written == ()
    reader.close()
    assert snapshot(result) == before
    session.label(session.ask(), "cell")


def test_a_closed_session_changes_nothing(opened, result, truth, snapshot):
    session = opened(result)
    run(session, truth, 12)
    session.write()
    session.close()
    before = snapshot(result)
    for change in (lambda: session.label(0, "cell"), session.undo, session.write, session.restore):
        with pytest.raises(UsageError, match="closed"):
            change()
    assert snapshot(result) == before


def test_a_session_is_locked_while_it_is_open(opened, result):
    session = opened(result)
    with pytest.raises(LockedError, match="open in this program already"):
        opened(result)
    session.close()
    session.close()
    with opened(result) as again:
        assert again.ask()
    opened(result).close()


# What is opened


@pytest.mark.parametrize("n_cells", [0, 1, 2])
@pytest.mark.parametrize("kind", ["folder", "file"])
@pytest.mark.parametrize("classifier", ["centroid", "l1_logistic"])
def test_hardly_any_candidates(opened, tmp_path, n_cells, kind, classifier):
    recording = simulated(n_cells)[0]
    path = tmp_path / "r"
    path = toy_format.save_folder(path, recording) if kind == "folder" else toy_format.save_file(tmp_path / "r.toy.json", recording)
    session = opened(path, classifier=classifier)
    assert session.features().values.shape[0] == n_cells
    asked = run(session, np.ones(n_cells), "100%")
    assert len(set(asked)) == n_cells
    assert session.ask() is None
    assert [d.accepted for d in session.decisions()] == [True] * n_cells
    assert len(session.write().written) == 1
    session.close()
    again = opened(path)
    assert len(again.labels()) == n_cells
    assert (next(iter(again.recordings.values())).prior.verdict > 0).all()


def test_several_results_with_the_same_names_get_keys_of_their_own(opened, toy):
    paths = [toy("mouse1/day1", a=8), toy("mouse1/day2", a=9, seed=4), toy("mouse2/day1", a=10, b=3, seed=6)]
    session = opened(*paths, session=paths[0].parent.parent / "joint")
    assert len(session.recordings) == 4
    assert [r.n_cells for r in session.recordings.values()] == [8, 9, 10, 3]
    assert len(set(session.recordings)) == 4
    assert all("day" in key for key in session.recordings)
    assert len(session.candidates) == 30
    for key in session.recordings:
        session.label((key, 0), "cell")
    truth = np.concatenate([simulated(n, s, k)[1] for n, s, k in ((8, 0, "a"), (9, 4, "a"), (10, 6, "a"), (3, 7, "b"))])
    run(session, truth, 24)
    keys = list(session.recordings)
    report = session.write()
    assert len(report.written) == 4
    session.close()
    again = opened(session.folder)
    assert list(again.recordings) == keys
    assert len(again.labels()) == 24
    again.close()
    by_hand = opened(*paths, session=session.folder)
    assert list(by_hand.recordings) == keys


def test_one_result_twice_is_refused(opened, result):
    with pytest.raises(UsageError, match="twice"):
        opened(result, result)
    with pytest.raises(UsageError, match="twice"):
        opened(result, result.parent / "." / "results")


def test_both_formats_in_one_session(opened, result, tmp_path):
    file = toy_format.save_file(tmp_path / "r.toy.json", simulated(9, 3)[0])
    session = opened(result, file, session=tmp_path / "both")
    assert list(session.recordings) == ["a", "r"]
    session.label(("r", 8), "cell")
    assert {path.name for path in session.write().written} == {"a.verdict.json", "r.toy.json"}


def test_errors_of_opening_name_the_path_and_leave_nothing(opened, tmp_path, result):
    foreign = tmp_path / "notes.txt"
    foreign.write_text("hello")
    with pytest.raises(MissingFileError, match=r"nowhere.* does not exist"):
        opened(tmp_path / "nowhere")
    with pytest.raises(UnknownFormatError, match=r"notes\.txt[\s\S]*toy: no, no folder[\s\S]*toyfile: no"):
        opened(foreign)
    with pytest.raises(UsageError, match="Nothing to open"):
        opened()
    with pytest.raises(MissingFileError, match="no session"):
        opened(session=tmp_path / "nothing")
    with pytest.raises(MissingFileError, match="no session"):
        opened(result, read_only=True)
    with pytest.raises(UnknownNameError, match="Did you mean 'cal'"):
        opened(result, strategy="call")
    with pytest.raises(UsageError, match="seed"):
        opened(result, seed=-1)
    (result / "a.verdict.json").write_text("[1, 0]")
    with pytest.raises(FormatError, match=r"a\.verdict\.json is damaged \(2 verdicts for 40 candidates\)"):
        opened(result)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["notes.txt", "results"]
    assert sorted(p.name for p in result.iterdir()) == ["a.data.npz", "a.verdict.json"]


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", "null", '{"format_version":1}', '{"format_version":1,"options":{},"sources":[{}]}', "\0"]
)
def test_a_damaged_session_document_says_that_the_labels_are_safe(opened, result, content):
    session = opened(result)
    session.label(3, "cell")
    session.close()
    (session.folder / DOCUMENT).write_text(content)
    with pytest.raises(FormatError, match=r"session\.json is damaged") as caught:
        opened(result)
    assert "safe" in caught.value.hint
    (session.folder / DOCUMENT).unlink()
    assert values(opened(result)) == {3: "cell"}  # as the hint says


def test_a_session_of_a_newer_version_is_refused(opened, result):
    session = opened(result)
    session.close()
    document = json.loads((session.folder / DOCUMENT).read_text())
    (session.folder / DOCUMENT).write_text(json.dumps(document | {"format_version": 2}))
    with pytest.raises(FormatError, match="version 2"):
        opened(result)


def test_a_damaged_journal_frees_the_lock(opened, result):
    session = opened(result)
    session.label(3, "cell")
    session.label(4, "cell")
    session.close()
    content = (session.folder / FILE).read_bytes()
    (session.folder / FILE).write_bytes(b"x" + content)
    with pytest.raises(JournalError, match="line 1"):
        opened(result)
    (session.folder / FILE).write_bytes(content)
    assert len(opened(result).labels()) == 2


@given(seed=st.integers(0, 2**32), n=st.integers(1, 40))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_seed_asks_every_candidate_once(toy_plugins, tmp_path_factory, seed, n):
    from actsort_core.opening import open as open_session

    path = toy_format.save_folder(tmp_path_factory.mktemp("r"), simulated(n)[0])
    with open_session(path, seed=seed, plugins=toy_plugins, classifier="centroid", strategy="random", refit_wait=0) as session:
        asked = run(session, np.arange(n) % 2, n)
    assert sorted(c.index for c in asked) == list(range(n))
