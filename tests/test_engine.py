"""One turn of the loop: what is fitted, who asks, when a question is an audit; several recordings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from actsort_core import audits, classifiers, engine, learn, plugins
from actsort_core.classifiers import L1AdaptiveClassifier, least, strength

LOADED = plugins.load()


def made(n: int, share: float = 0.5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < share).astype(np.int8)
    x = rng.normal(0, 1, (n, 14)).astype(np.float32)
    x[:, :3] += np.where(y == 1, 0.9, -0.9)[:, None]
    return learn.standardise(x), y


def prepared(x: np.ndarray, bounds: Any = None, **more: Any) -> engine.Setup:
    rank = np.argsort(np.random.default_rng(3).permutation(len(x)))
    given = {"classifier": LOADED.classifiers["l1_adaptive"], "strategy": LOADED.strategies["balanced_pi"], **more}
    return engine.Setup(x, np.array([0, len(x)] if bounds is None else bounds), rank, registered=LOADED.strategies, **given)


def known(y: np.ndarray, rows: Any, **more: Any) -> engine.Known:
    rows = np.sort(np.asarray(rows, np.int64))
    return engine.Known(rows, y[rows], np.isin(np.arange(len(y)), rows), **more)


def starters(y: np.ndarray, each: int = 3) -> np.ndarray:
    return np.concatenate([np.flatnonzero(y == kind)[:each] for kind in (0, 1)])


def test_a_turn_is_the_same_from_any_start() -> None:
    x, y = made(500)
    here = prepared(x)
    first = engine.turn(here, known(y, starters(y)))
    again = engine.turn(here, known(y, starters(y, 10)), engine.turn(here, known(y, starters(y, 9))).fit)
    cold = engine.turn(here, known(y, starters(y, 10)))
    assert first.fit is not None
    assert again.fit is not None
    assert cold.fit is not None
    np.testing.assert_allclose(again.fit.probability, cold.fit.probability, atol=1e-6)
    np.testing.assert_array_equal(again.best(20, known(y, starters(y, 10)).labelled), cold.best(20, known(y, starters(y, 10)).labelled))


def test_every_tenth_answer_is_at_first_an_audit_drawn_with_the_probability_it_says() -> None:
    x, y = made(1200)
    here = prepared(x, audits=True, seed=5)
    asked, audited, reasons = list(starters(y)), 0, []
    turn = None
    for _ in range(30):
        state = known(y, asked, answered=len(asked) - 6, audited=audited)
        turn = engine.turn(here, state, turn.fit if turn else None)
        assert turn.fit is not None
        reasons.append("audit" if turn.audit else "active")
        if turn.audit:
            index, probability = turn.audit
            assert probability == pytest.approx(audits.inclusion(turn.fit.distance(), ~state.labelled)[index])
            same = engine.turn(here, state)
            assert same.audit is not None
            assert same.audit[0] == index, "the same question for the same labels and seed"
            audited += 1
            asked.append(index)
        else:
            asked.append(int(turn.best(1, state.labelled)[0]))
    assert reasons == (["active"] * 9 + ["audit"]) * 3
    assert engine.turn(replace(here, audits=False), known(y, asked, answered=19, audited=1)).audit is None


def test_an_audit_that_was_missed_is_made_up_for() -> None:
    x, y = made(1200)
    here = prepared(x, audits=True)
    assert engine.turn(here, known(y, starters(y), answered=21, audited=1)).audit is not None
    assert engine.turn(here, known(y, starters(y), answered=21, audited=2)).audit is None


def test_every_recording_has_a_line_of_its_own() -> None:
    (a, truth_a), (b, truth_b) = made(1500, 0.85, 1), made(1500, 0.25, 2)
    x, y, bounds = np.concatenate([a, b]), np.concatenate([truth_a, truth_b]), [0, 1500, 3000]
    rows = np.concatenate([starters(truth_a, 8), 1500 + starters(truth_b, 8)])
    fit = engine.turn(prepared(x, bounds), known(y, rows)).fit
    assert fit is not None
    assert fit.shares[0] == pytest.approx(fit.probability[:1500].mean(), abs=1e-6)
    assert fit.shares[1] == pytest.approx(fit.probability[1500:].mean(), abs=1e-6)
    assert fit.shares[0] > fit.shares[1] + 0.2
    odds = fit.shares / (1 - fit.shares)
    np.testing.assert_allclose(fit.distance(), fit.score - np.repeat(np.log(odds), 1500), atol=1e-4)
    assert fit.share == pytest.approx(fit.shares.mean())


def test_pooled_recordings_are_sorted_at_least_as_well_as_one_by_one() -> None:
    parts = [made(1500, share, seed) for share, seed in ((0.8, 1), (0.3, 2))]
    x, y = np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])
    single, pooled = [], []
    for each in (3, 6):
        rows = np.concatenate([start + starters(t, each) for start, (_, t) in zip((0, 1500), parts, strict=True)])
        fit = engine.turn(prepared(x, [0, 1500, 3000]), known(y, rows)).fit
        assert fit is not None
        for i, (features, truth) in enumerate(parts):
            alone = engine.turn(prepared(features), known(truth, starters(truth, each))).fit
            assert alone is not None
            single.append(balanced(alone.distance() > 0, truth))
            pooled.append(balanced(fit.distance()[1500 * i : 1500 * (i + 1)] > 0, truth))
    assert np.mean(pooled) >= np.mean(single)


def balanced(accepted: np.ndarray, truth: np.ndarray) -> float:
    return float((accepted[truth == 1].mean() + (~accepted[truth == 0]).mean()) / 2)


def test_other_classifiers_serve_the_same_turns() -> None:
    x, y = made(400)
    turn = engine.turn(prepared(x, classifier=LOADED.classifiers["l1_logistic"]), known(y, starters(y, 6)))
    assert turn.fit is not None
    p = turn.fit.probability
    np.testing.assert_allclose(turn.fit.score, np.log(p / (1 - p)), atol=1e-9)


@pytest.mark.parametrize(
    ("labels", "features", "c"), [(6, 76, 0.5), (30, 76, 0.5), (70, 76, 0.3), (5000, 200, 0.3), (70, 30, 0.5), (6, 3, 1), (30, 30, 1)]
)
def test_the_strength_follows_the_labels(labels: int, features: int, c: float) -> None:
    assert strength(labels, features) == pytest.approx(c)
    x, y = made(400)
    assert L1AdaptiveClassifier().fit(x, y).C_ == pytest.approx(strength(400, 14)) == least(14)


def test_the_strength_never_grows() -> None:
    table = np.array([[strength(n, k) for n in range(1, 200)] for k in (1, 30, 40, 60, 76, 500)])
    assert (np.diff(table, axis=1) <= 0).all()
    assert (np.diff(table, axis=0) <= 1e-12).all()


def test_at_the_start_the_model_is_the_mean_of_several_and_later_a_single_one() -> None:
    x, y = made(400)
    rows = starters(y, 12)

    def weights(n_rows: np.ndarray, **arguments: float) -> np.ndarray:
        return np.asarray(L1AdaptiveClassifier(**arguments).fit(x[n_rows], y[n_rows]).coef_[0])

    assert (weights(rows) != 0).sum() > (weights(rows, spread=0) != 0).sum(), "more features share the evidence"
    np.testing.assert_array_equal(weights(rows, spread=0), weights(rows, C=strength(len(rows), x.shape[1])))
    many = np.arange(100)
    np.testing.assert_array_equal(weights(many), weights(many, spread=0))


def test_the_mean_of_several_does_not_depend_on_where_the_fits_start() -> None:
    x, y = made(400)
    rows, fewer = starters(y, 14), starters(y, 8)
    before = L1AdaptiveClassifier().fit(x[fewer], y[fewer])
    cold, warm = L1AdaptiveClassifier().fit(x[rows], y[rows]), L1AdaptiveClassifier().fit(x[rows], y[rows], start=before)
    np.testing.assert_allclose(warm.coef_, cold.coef_, atol=1e-6)


def test_every_feature_gets_every_strength_once() -> None:
    for k in (1, 3, 76):
        levels = classifiers._levels(k)
        assert levels.shape == (classifiers.MEMBERS, k)
        np.testing.assert_allclose(np.sort(levels, axis=0), np.sort(levels[:, :1], axis=0).repeat(k, axis=1))
        np.testing.assert_allclose(levels.sum(axis=0), 0, atol=1e-12)
