"""Asking ahead: what a page is told to show next, before the answers before it have arrived."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import make_plugins

from actsort_core.model import CELL, NOT_CELL, UNSURE


def learned(opened, result, truth, n=12, **options):
    session = opened(result, strategy="balanced_pi", **options)
    for candidate in session.queue(n):
        session.label(candidate, bool(truth[candidate.index]))
    session.wait()
    return session


def answer(session, question, truth):
    """As the page does it: with what the question was."""
    more = {"inclusion": question.inclusion, "strategy": question.strategy, "p": question.probability}
    value = CELL if truth[question.candidate.index] else NOT_CELL
    session.record([(question.candidate, value, "ann", question.reason, more)])
    session.wait()


def test_the_first_is_what_ask_would_ask_and_the_rest_is_the_queue(opened, result, truth):
    session = learned(opened, result, truth)
    questions = session.upcoming(8)
    assert questions[0].candidate == session.ask()
    assert tuple(q.candidate for q in questions) == session.queue(8)
    assert {q.reason for q in questions} == {"active"}
    assert all(q.probability == session.fit.probability[q.candidate.index] for q in questions)


def test_nothing_labelled_is_asked_and_asking_keeps_nothing(opened, result, truth):
    session = learned(opened, result, truth)
    labelled = {label.candidate for label in session.labels()}
    first = [q.candidate for q in session.upcoming(40)]
    assert not labelled & set(first)
    assert len(first) == 40 - len(labelled) == len(set(first))
    assert [q.candidate for q in session.upcoming(40)] == first


def test_what_was_put_off_comes_last_and_still_comes(opened, result, truth):
    session = learned(opened, result, truth)
    order = [q.candidate for q in session.upcoming(40)]
    put_off = order[:2]
    again = [q.candidate for q in session.upcoming(40, skip=put_off)]
    assert again == [*order[2:], *put_off]
    assert [q.candidate for q in session.upcoming(3, skip=put_off)] == order[2:5]


def test_an_audit_stays_first_until_it_is_answered_and_none_is_drawn_for_answers_on_their_way(opened, result, truth):
    session = opened(result, classifier="l1_adaptive", audits=True)
    audits = []
    for _ in range(30):
        session.wait()
        question = session.upcoming(24)[0]
        if question.reason == "audit":
            audits.append(question)
            for other in session.upcoming(4)[1:3]:  # the page had these on the screen before the audit came
                answer(session, other, truth)
                assert session.upcoming(24)[0] == question
        answer(session, question, truth)
        if len(session.labels()) > 35:
            break
    assert audits
    assert all(0 < question.inclusion <= 1 for question in audits)
    assert len({question.candidate for question in audits}) == len(audits)
    order = [question.reason for question in session.upcoming(24)]
    assert order.count("audit") <= 1


def test_an_audit_that_was_put_off_is_not_asked_again_at_once(opened, result, truth):
    session = opened(result, classifier="l1_adaptive", audits=True)
    while (question := session.upcoming(1)[0]).reason != "audit":
        answer(session, question, truth)
    after = session.upcoming(40, skip=[question.candidate])
    assert after[0].candidate != question.candidate
    assert after[-1].candidate == question.candidate


def test_two_people_are_asked_and_each_undoes_their_own(opened, result):
    session = opened(result)
    a, b = (q.candidate for q in session.upcoming(2, "ana"))
    session.label(a, CELL, annotator="ana")
    session.label(b, NOT_CELL, annotator="bob")
    assert session.undo("ana") == a
    assert [label.candidate for label in session.labels()] == [b]
    assert session.undo("ana") is None
    assert session.redo("ana") == a
    assert session.undo("bob") == b


def test_what_others_labelled_is_shared_with_whom_it_is_due(opened, result):
    session = opened(result, overlap=1.0)
    for candidate in session.queue(5):
        session.label(candidate, CELL, annotator="ana")
    question = session.upcoming(3, "bob")[0]
    assert question.reason == "overlap"
    assert question.candidate in {label.candidate for label in session.labels()}
    assert session.upcoming(1, "ana")[0].reason != "overlap"


def test_when_all_are_labelled_each_person_is_asked_once_more_about_what_is_unsure(opened, toy):
    session = opened(toy("few", a=6))
    for i in range(6):
        session.label(i, UNSURE if i in (2, 4) else CELL, annotator="ana")
    assert [q.candidate.index for q in session.upcoming(9, "ana")] == [2, 4]
    assert {q.reason for q in session.upcoming(9, "ana")} == {"again"}
    session.label(2, UNSURE, annotator="ana")
    assert [q.candidate.index for q in session.upcoming(9, "ana")] == [4]
    assert [q.candidate.index for q in session.upcoming(9, "bob")] == [4, 2]


def test_a_mark_is_kept_with_what_was_said(opened, result):
    session = opened(result)
    session.label(0, CELL)
    session.undo(mark="m1")
    session.redo(mark="m2")
    assert [event.get("mark") for event in session.journal.events] == [None, "m1", "m2"]


def test_the_revision_grows_with_labels_fits_and_thresholds(opened, result, truth):
    session = opened(result)
    seen = [session.revision]
    for candidate in session.queue(10):
        session.label(candidate, bool(truth[candidate.index]))
        seen.append(session.revision)
    session.threshold = 0.7
    seen.append(session.revision)
    assert seen == sorted(set(seen))
    assert not session.fitting


def test_decisions_to_show_are_those_of_the_latest_fit(opened, result, truth):
    session = learned(opened, result, truth)
    shown, final = session.decided()["a"], session.curations()["a"]
    np.testing.assert_array_equal(shown.accepted, final.accepted)
    np.testing.assert_array_equal(shown.origin, final.origin)


@pytest.mark.parametrize("n", [0, 1, 24])
def test_as_many_as_are_wanted(opened, result, n):
    session = opened(result, plugins=make_plugins())
    assert len(session.upcoming(n)) == n
