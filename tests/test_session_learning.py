"""What a session learns and says of itself: audits, calibrated probabilities, where the line is, how good it is, warm starts."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from conftest import make_plugins, simulated

from actsort_core import oracle
from actsort_core.errors import UsageError
from actsort_core.stopping import AutoStop
from actsort_core.store import read_document

DEFAULT = {"classifier": "l1_adaptive"}


def sorted_session(session, truth, labels=40):
    session.sort(oracle.answerer(session, np.asarray(truth).astype(np.int8)), labels)
    return session


@pytest.fixture
def session(opened, result, truth):
    return sorted_session(opened(result, audits=True, **DEFAULT), truth, 24)


# ---- audits


def test_every_tenth_question_is_an_audit_at_first_with_its_probability_on_disk(session):
    events = [json.loads(line) for line in session.journal.path.read_text().splitlines()]
    asked = [e for e in events if e["reason"] in ("active", "audit")]
    reasons = [e["reason"] for e in asked]
    assert len(reasons) >= 9
    assert reasons == ((["active"] * 9 + ["audit"]) * len(reasons))[: len(reasons)]
    for event in asked:
        assert (event["inclusion"] is not None) == (event["reason"] == "audit")
        assert event["inclusion"] is None or 0 < event["inclusion"] <= 1
    given = {label.candidate.index: label.inclusion for label in session.labels() if label.reason == "audit"}
    assert given == {e["index"]: e["inclusion"] for e in asked if e["reason"] == "audit"}


def test_small_sessions_have_audits_only_where_asked_for_and_it_is_remembered(opened, result, truth):
    session = sorted_session(opened(result, **DEFAULT), truth, 20)
    assert not [label for label in session.labels() if label.reason == "audit"]
    session.close()
    again = opened(result, audits=True)
    assert read_document(again.folder)["options"]["audits"] is True
    sorted_session(again, truth, 24)
    assert [label for label in again.labels() if label.reason == "audit"]


def test_the_same_questions_whether_resumed_or_not(opened, toy, truth):
    whole = sorted_session(opened(toy("one"), audits=True, **DEFAULT), truth, 22)
    parts = toy("two")
    for labels in (9, 10, 15, 22):
        session = sorted_session(opened(parts, audits=True, **DEFAULT), truth, labels)
        session.close()
    assert [e["index"] for e in whole.journal.events] == [e["index"] for e in session.journal.events]
    assert [e["reason"] for e in whole.journal.events] == [e["reason"] for e in session.journal.events]


def test_an_audit_put_off_or_answered_otherwise_is_not_asked_again_at_once(opened, result, truth):
    session = opened(result, audits=True, **DEFAULT)
    answer = oracle.answerer(session, truth.astype(np.int8))
    for _ in range(40):
        session.wait()
        candidate = session.ask()
        if session._question.reason == "audit":
            break
        session.label(candidate, answer(candidate))
    assert session._question.reason == "audit"
    assert session.skip() != candidate
    assert session._question.reason == "active"


# ---- probabilities and the line


def test_probabilities_are_calibrated_in_the_order_of_the_model_and_agree_with_the_decisions(session):
    p = session.predictions()
    raw = session.fit.probability
    assert not np.allclose(p.probability, raw, atol=1e-3)
    order = np.argsort(raw, kind="stable")
    assert (np.diff(p.probability[order]) >= -1e-6).all()
    assert ((p.probability > 0) & (p.probability < 1)).all()
    np.testing.assert_array_equal(p.accepted, raw > session.fit.shares[0])
    np.testing.assert_array_equal(p.accepted, p.probability > p.threshold)
    (curation,) = session.curations().values()
    host = curation.host_probability()
    np.testing.assert_array_equal(host > 0.5, curation.accepted)


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.9])
def test_a_number_is_a_calibrated_probability(session, threshold):
    before = session.predictions().probability
    session.threshold = threshold
    p = session.predictions()
    np.testing.assert_allclose(p.probability, before, atol=1e-6)
    assert p.threshold == pytest.approx(threshold, abs=1e-6)
    clear = np.abs(before - threshold) > 1e-4
    np.testing.assert_array_equal(p.accepted[clear], (before > threshold)[clear])


def test_favouring_moves_the_line_the_right_way_and_both_read_outs_follow(session):
    kept, stated = {}, {}
    for rule in ("favour-precision", "pi", "favour-recall", "match-labels"):
        session.threshold = rule
        kept[rule] = int(session.predictions().accepted.sum())
        stated[rule] = session.quality()
    assert kept["favour-precision"] <= kept["pi"] <= kept["favour-recall"]
    assert kept["favour-precision"] < kept["favour-recall"]
    assert stated["favour-precision"].precision.value >= stated["pi"].precision.value >= stated["favour-recall"].precision.value
    assert stated["favour-precision"].recall.value <= stated["pi"].recall.value <= stated["favour-recall"].recall.value
    assert read_document(session.folder)["options"]["threshold"] == "match-labels"


def test_a_rule_is_kept_over_a_resume(opened, result, session):
    session.threshold = "favour precision"
    accepted = session.predictions().accepted
    session.close()
    again = opened(result, **DEFAULT)
    again.wait()
    assert again.threshold == "favour-precision"
    np.testing.assert_array_equal(again.predictions().accepted, accepted)
    again.close()
    other = opened(result, classifier="centroid")
    other.wait()
    assert other.predictions().threshold == pytest.approx(other.fit.shares[0])
    assert any("needs the classifier l1_adaptive" in note for note in other.notes)


def test_quality_can_be_asked_for_another_line_without_moving_it(session):
    before = session.predictions().accepted
    high, low = session.quality(0.9), session.quality(0.1)
    assert high.recall.value < low.recall.value
    np.testing.assert_array_equal(session.predictions().accepted, before)
    assert session.threshold is None


@pytest.mark.parametrize("wrong", ["favour-nothing", "1.5", -0.1, "", "nan"])
def test_other_thresholds_are_refused(session, wrong):
    with pytest.raises(UsageError, match="no threshold"):
        session.threshold = wrong
    assert session.threshold is None


def test_several_recordings_have_a_line_each(opened, toy):
    session = opened(toy(a=40, b=30), **DEFAULT)
    truth = np.concatenate([simulated(40, 0, "a")[1], simulated(30, 1, "b")[1]])
    sorted_session(session, truth, 30)
    p = session.predictions()
    assert set(p.thresholds) == {"a", "b"}
    assert len(set(p.thresholds.values())) == 2
    assert math.isnan(p.threshold)
    for key, curation in session.curations().items():
        assert curation.threshold == p.thresholds[key]
        model = curation.origin == "model"
        np.testing.assert_array_equal(curation.accepted[model], (curation.probability > curation.threshold)[model])
        np.testing.assert_array_equal(curation.host_probability() > 0.5, curation.accepted)


def test_other_classifiers_speak_for_themselves(opened, result, truth):
    session = sorted_session(opened(result), truth, 20)
    np.testing.assert_array_equal(session.predictions().probability, session.fit.probability)
    with pytest.raises(UsageError, match="'centroid' cannot be estimated"):
        session.quality()


# ---- quality


def test_quality_says_what_it_rests_on(session, opened, toy):
    found = session.quality()
    for stated in (found.balanced_accuracy, found.precision, found.recall, found.share):
        assert 0 <= stated.low <= stated.value <= stated.high <= 1
    assert found.n_labels == 24
    assert found.n_audits == sum(label.reason == "audit" for label in session.labels())
    assert any("features are others" in note for note in found.notes)
    curve = session.read_outs()
    assert (np.diff(curve.recall[:, 0]) <= 1e-9).all()
    with pytest.raises(UsageError, match="no model yet"):
        opened(toy("untouched"), **DEFAULT).quality()


def test_when_everything_is_labelled_nothing_is_uncertain(opened, result, truth):
    session = sorted_session(opened(result, **DEFAULT), truth, 40)
    found = session.quality()
    assert found.balanced_accuracy.value == pytest.approx(1)
    assert found.balanced_accuracy.low > 0.98
    assert found.gain.value == pytest.approx(0, abs=1e-6)


def test_auto_stop_ends_the_loop_and_says_why(opened, toy):
    """Two hundred candidates, clearly told apart: after a hundred labels nothing changes any more."""
    stop = AutoStop()
    session = opened(toy(a=200), plugins=make_plugins(stop), **DEFAULT)
    sorted_session(session, simulated(200, 0, "a")[1], 200)
    assert 100 <= len(session.labels()) < 200
    assert any("Stopped asking" in note and "changed" in note for note in session.notes)


# ---- warm starts


def test_a_warm_start_decides_before_the_first_label_and_is_kept(opened, toy):
    earlier = sorted_session(opened(toy("earlier", a=150), **DEFAULT), simulated(150, 0, "a")[1], 60)
    earlier.close()
    truth = simulated(60, 7, "b")[1]
    path = toy("later", b=60, seed=7)
    session = opened(path, warm_start=[earlier.folder], **DEFAULT)
    session.wait()
    assert session.fit.warm
    p = session.predictions()
    assert p.n_labels == 0
    assert p.known
    warm = oracle.balanced_accuracy(p.accepted, truth.astype(np.int8))
    assert warm > 0.8
    assert (session.curations()["b"].origin == "model").all()
    sorted_session(session, truth, 6)
    assert [label.reason for label in session.labels()].count("start") == 0, "the model asks from the first question on"
    session.close()
    (earlier.folder / "labels.jsonl").unlink()
    again = opened(path, **DEFAULT)
    again.wait()
    assert again.fit.warm, "what was learned elsewhere is kept with the session"


def test_a_warm_start_that_is_noise_is_left_out_and_said(opened, toy):
    path = toy("noise", a=200)
    session = opened(path, **DEFAULT)
    rng = np.random.default_rng(0)
    for i in rng.permutation(200)[:120].tolist():
        session.label(i, bool(rng.random() < 0.5))
    session.close()
    later = opened(toy("later", b=60, seed=7), warm_start=[session.folder], **DEFAULT)
    later.wait()
    assert later.fit is None
    assert any("left out" in note for note in later.notes)
