"""Where decisions are cut, by rule."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from actsort_core import calibration, operating, quality
from actsort_core.calibration import Evidence, read_prior
from actsort_core.errors import UsageError
from actsort_core.stopping import AutoStop, reason


def made(seed: int = 0, n: int = 5000, shift: float = 0.0) -> tuple[Evidence, np.ndarray]:
    """An annotator who says cell with the log odds 0.8 + 1.5 (d - shift)."""
    rng = np.random.default_rng(seed)
    d = rng.normal(0.8, 2.5, n)
    truth = rng.random(n) < 1 / (1 + np.exp(-(0.8 + 1.5 * (d - shift))))
    rows = np.sort(rng.choice(n, 240, replace=False))
    audits = rows[::3]
    y = truth.astype(np.int8)
    return Evidence(d, np.array([0.69]), np.array([0, n]), rows, y[rows], audits, y[audits], d[audits], 240.0, 1.0), truth


def precision_and_recall(evidence: Evidence, truth: np.ndarray, line: float) -> tuple[float, float]:
    kept = evidence.d > line
    kept[evidence.rows] = evidence.y == 1
    return (kept & truth).sum() / kept.sum(), (kept & truth).sum() / truth.sum()


def test_rules_are_told_from_numbers() -> None:
    assert operating.parse_rule(" Favour precision ") == operating.PRECISION
    assert operating.parse_rule("match_labels") == operating.MATCH
    assert operating.parse_rule("0.65") == 0.65
    assert operating.parse_rule(0) == 0
    assert set(map(operating.parse_rule, operating.RULES)) == set(operating.RULES)
    for nonsense in ("precision!", 1.5, "-0.1", "nan", None):
        with pytest.raises(UsageError, match="no place for the line"):
            operating.parse_rule(nonsense)  # type: ignore[arg-type]


def test_pi_is_nothing_moved() -> None:
    evidence, _ = made()
    found = operating.line_for("pi", evidence)
    assert found.d.tolist() == [0]
    assert found.quality == quality.estimate(evidence)
    assert found.note == ""


def test_a_number_is_a_calibrated_probability() -> None:
    evidence, truth = made()
    found = operating.line_for(0.8, evidence)
    assert found.probability == pytest.approx(0.8, abs=0.01)
    near = np.abs(evidence.d - found.d[0]) < 0.15
    assert truth[near].mean() == pytest.approx(0.8, abs=0.12)


@pytest.mark.parametrize("seed", range(4))
def test_favouring_halves_the_errors_of_one_kind(seed: int) -> None:
    evidence, truth = made(seed)
    at_pi, precise, complete = (operating.line_for(rule, evidence) for rule in ("pi", "favour-precision", "favour-recall"))
    assert complete.d[0] < at_pi.d[0] < precise.d[0]
    for rule, kept in ((precise, 0), (complete, 1)):
        before, after = precision_and_recall(evidence, truth, 0.0), precision_and_recall(evidence, truth, float(rule.d[0]))
        assert 1 - after[kept] < 0.75 * (1 - before[kept])
        assert after[kept] > 0.92
        stated = (rule.quality.precision, rule.quality.recall)
        for one, true in zip(stated, after, strict=True):
            assert one.low - 0.01 <= true <= one.high + 0.01


def test_what_is_out_of_reach_is_said() -> None:
    """Nobody can be precise about coin flips."""
    rng = np.random.default_rng(0)
    evidence, _ = made()
    y = (rng.random(240) < 0.5).astype(np.int8)
    flat = replace(evidence, y=y, audit_y=y[::3], shares=np.array([0.5]))
    found = operating.line_for("favour-precision", flat)
    assert found.note
    assert np.isfinite(found.d).all()


def test_matching_finds_the_line_of_a_person_who_draws_it_elsewhere() -> None:
    for shift in (-1.0, 1.0):
        evidence, truth = made(3, shift=shift)

        def balanced(line: float, evidence: Evidence = evidence, truth: np.ndarray = truth) -> float:
            kept = evidence.d > line
            return (kept[truth].mean() + (~kept[~truth]).mean()) / 2

        found = operating.line_for("match-labels", evidence)
        best = max(balanced(float(line)) for line in np.linspace(-4, 4, 81))
        assert balanced(float(found.d[0])) > best - 0.02
        assert balanced(float(found.d[0])) >= balanced(0.0) - 0.005
        weighed = operating.line_for("match-labels", evidence, inclusion=np.full(80, 1 / 5000))
        assert balanced(float(weighed.d[0])) > best - 0.03


def test_matching_is_not_fooled_by_labels_that_were_chosen_for_being_hard() -> None:
    evidence, truth = made(5)
    hard = np.argsort(np.abs(evidence.d - 1.5))[:400]  # a strategy that asks far from the line
    rows = np.sort(np.unique(np.concatenate([evidence.audits, hard])))
    skewed = replace(evidence, rows=rows, y=truth[rows].astype(np.int8))
    assert operating.line_for("match-labels", skewed).d[0] == pytest.approx(operating.line_for("match-labels", evidence).d[0], abs=0.4)


def test_one_line_for_each_recording() -> None:
    evidence, _ = made()
    n = len(evidence.d)
    both = replace(
        evidence, d=np.concatenate([evidence.d, evidence.d]), shares=np.array([0.69, 0.3]), bounds=np.array([0, n, 2 * n], np.int64)
    )
    found = operating.line_for(0.5, both)
    assert found.d[0] < found.d[1]
    assert found.probability == pytest.approx(0.5, abs=0.01)
    assert np.isnan(operating.line_for("pi", both).probability)


def test_one_kind_only() -> None:
    evidence, _ = made()
    for kind, d in ((1, 6.0), (0, -6.0)):
        same = replace(
            evidence,
            d=np.full(5000, d),
            y=np.full(240, kind, np.int8),
            audit_y=np.full(80, kind, np.int8),
            left_out=np.full(80, d),
        )
        for rule in (*operating.RULES, 0.5):
            assert np.isfinite(operating.line_for(rule, same, calibration.calibrate(same, read_prior())).d).all()


# ---- when to stop


def test_stops_when_the_decisions_stand_still() -> None:
    rng, stop = np.random.default_rng(0), AutoStop()
    accepted = rng.random(2000) < 0.5
    answers = {}
    for n in range(6, 400):
        if n % 10 == 0 and n < 200:  # 5 % of the decisions change every ten labels, up to two hundred
            accepted = accepted ^ (rng.random(2000) < 0.05)
        answers[n] = stop.look(n, accepted.copy())
    first = min(n for n, answer in answers.items() if answer)
    assert 225 <= first <= 280
    assert "changed" in str(answers[first])


def test_never_stops_on_one_look_or_in_the_beginning() -> None:
    assert reason(90, (0.0, 0.0)) is None
    assert reason(150, (0.0,)) is None
    assert reason(150, (0.2, 0.0)) is None
    assert "fifty more would bring about 0.3 points" in str(reason(150, (0.01, 0.01), 0.003))


def test_resumed_sessions_look_back_on_what_they_saw_themselves() -> None:
    stop = AutoStop()
    accepted = np.zeros(100, bool)
    assert [stop.look(n, accepted) is not None for n in range(500, 580, 10)] == [False] * 6 + [True] * 2
