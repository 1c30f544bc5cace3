"""CAL, DAL and DCAL, question by question, against slow literal versions of the published definitions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from actsort_core import learn, strategies
from actsort_core.benchmark import replay
from actsort_core.errors import UnknownNameError, UsageError
from actsort_core.learn import ClassifierSpec
from actsort_core.plugins import load
from actsort_core.store import parse_threshold
from actsort_core.strategies import BUILTIN, QueryState

BY_NAME = {strategy.name: strategy for strategy in BUILTIN}


def literal_l1(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Weights and intercept that minimise mean(log loss) + |w| / n, found by a general optimiser; the intercept is free."""
    n, p = x.shape
    sign = 2.0 * y - 1

    def loss(v):
        w, b = v[:p] - v[p : 2 * p], v[-1]
        margin = sign * (x @ w + b)
        pull = -sign / (1 + np.exp(np.clip(margin, -500, 500))) / n
        slope = x.T @ pull
        value = np.mean(np.logaddexp(0, -margin)) + v[: 2 * p].sum() / n
        return value, np.concatenate([slope + 1 / n, -slope + 1 / n, [pull.sum()]])

    bounds = [(0, None)] * (2 * p) + [(None, None)]
    v = minimize(
        loss, np.zeros(2 * p + 1), jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 20000, "ftol": 1e-15, "gtol": 1e-9}
    ).x
    return np.append(v[:p] - v[p : 2 * p], v[-1])


class LiteralClassifier:
    def fit(self, x, y):
        self.v = literal_l1(np.asarray(x, float), y)
        return self

    def predict_proba(self, x):
        p = 1 / (1 + np.exp(-(np.asarray(x, float) @ self.v[:-1] + self.v[-1])))
        return np.column_stack([1 - p, p])


def literal_scores(name: str, state: QueryState, weight: float) -> list[float]:
    """The published utilities, one candidate at a time."""
    confidence = [1 - 2 * abs(p - 0.5) for p in state.probability]
    if name == "cal":
        return confidence
    labelled = [i for i in range(len(state.labelled)) if state.labelled[i]]
    unlabelled = [i for i in range(len(state.labelled)) if not state.labelled[i]]
    n_each = min(len(labelled), len(unlabelled))
    # Which candidates are drawn is up to the seed; that as many of each kind are drawn is the definition.
    draw = np.random.default_rng(len(labelled)).permutation(len(state.labelled))[state.rank]
    drawn = [*sorted(labelled, key=draw.__getitem__)[:n_each], *sorted(unlabelled, key=draw.__getitem__)[:n_each]]
    x = np.asarray(state.features, float)
    v = literal_l1(x[drawn], np.array([float(state.labelled[i]) for i in drawn]))
    surely_unlabelled = [1 - 1 / (1 + np.exp(-(row @ v[:-1] + v[-1]))) for row in x]
    if name == "dal":
        return surely_unlabelled
    right = sum((u <= 0.5) == bool(k) for u, k in zip(surely_unlabelled, state.labelled, strict=True))
    w = weight * 2 * (right / len(x) - 0.5)
    return [w * d + (1 - w) * c for d, c in zip(surely_unlabelled, confidence, strict=True)]


def recording(seed: int, n: int = 120, p: int = 5):
    rng = np.random.default_rng(seed)
    x = learn.standardise(rng.normal(size=(n, p)).astype(np.float32), clip=False)
    truth = np.where(x @ np.array([1.5, -1, 0.5, 0, 0]) + 0.3 * rng.logistic(size=n) > -0.3, 1, -1).astype(np.int8)
    return x, truth


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("name", "weight"), [("cal", 0), ("dal", 0), ("dcal", 0.5), ("dcal-0.3", 0.3), ("dcal-1", 1.0)])
def test_each_question_is_the_one_the_published_definition_asks(name, weight, seed):
    x, choices = recording(seed)
    strategy = strategies.find(BY_NAME, name)
    literal = ClassifierSpec("literal", "", LiteralClassifier)
    rank = np.argsort(np.random.default_rng(seed).permutation(len(x)))
    runs = replay(x, choices, strategy, literal, BY_NAME, seed, 30)
    asked: list[int] = []
    wrong = 0
    state = None
    for count, p, labelled in runs:
        new = np.setdiff1d(np.flatnonzero(labelled), asked)
        if state is not None:
            scores = np.array(literal_scores(strategy.name.split("-")[0], state, weight))
            scores[state.labelled] = -np.inf
            best = scores.max()
            wrong += scores[new[0]] < best - 2e-3  # two solvers, so nearly equal utilities may change places
        asked = [*asked, *new]
        assert len(asked) == count
        state = QueryState(p, p.mean(), 0.5, labelled.copy(), rank, x)
    assert len(asked) == 30
    assert wrong == 0


def test_dal_prefers_what_is_unlike_the_labelled():
    x = np.concatenate([np.full((20, 1), -1.0), np.full((20, 1), 1.0)]).astype(np.float32)
    labelled = np.zeros(40, bool)
    labelled[:10] = True
    utility = strategies.dal(QueryState(np.full(40, 0.5), 0.5, 0.5, labelled, np.arange(40), x))
    assert utility[20:].min() > utility[:20].max()


def test_dcal_with_weight_zero_is_cal_and_grows_towards_dal():
    x, _ = recording(3)
    rng = np.random.default_rng(0)
    labelled = rng.random(len(x)) < 0.2
    state = QueryState(rng.random(len(x)), 0.5, 0.5, labelled, rng.permutation(len(x)), x)
    np.testing.assert_allclose(strategies.dcal(0)(state), strategies.cal(state))
    towards = [np.corrcoef(strategies.dcal(w)(state), strategies.dal(state))[0, 1] for w in (0, 0.5, 1)]
    assert towards == sorted(towards)


@pytest.mark.parametrize("name", ["cal", "dal", "dcal"])
def test_published_cold_start_is_one_question_at_random_then_dal(name):
    strategy = BY_NAME[name]
    state = QueryState(np.full(4, np.nan), np.nan, 0.5, np.zeros(4, bool), np.arange(4), np.zeros((4, 1), np.float32))
    assert strategies.in_force(strategy, BY_NAME, state, warm=False)[0].name == "random"
    state.labelled[1] = True
    assert strategies.in_force(strategy, BY_NAME, state, warm=False)[0].name == "dal"
    assert strategies.in_force(strategy, BY_NAME, state, warm=True) == (strategy, "active")


def test_our_default_starts_at_random_until_there_is_a_model():
    state = QueryState(np.full(2, np.nan), np.nan, 0.5, np.array([True, False]), np.arange(2), np.zeros((2, 1), np.float32))
    assert strategies.in_force(BY_NAME["nearest_pi"], BY_NAME, state, warm=False)[0].name == "random"


@pytest.mark.parametrize("name", ["dcal-", "dcal-x", "dcal-2", "dcal--1", "dcal-nan"])
def test_a_weight_that_is_none_is_refused(name):
    with pytest.raises(UsageError, match=r"weight from 0 to 1"):
        strategies.find(BY_NAME, name)


@pytest.mark.parametrize(("name", "value"), [("pi", None), ("app", 0.5), ("Paper", 0.65), ("0.3", 0.3)])
def test_published_thresholds_have_names(name, value):
    assert parse_threshold(name) == value


@pytest.mark.parametrize("name", ["", "papers", "-0.1", "nan", "1.1"])
def test_other_thresholds_are_refused_with_what_there_is(name):
    with pytest.raises(UsageError, match=r"app \(\.5\), paper \(\.65\)"):
        parse_threshold(name)


def test_an_unknown_strategy_is_named_with_the_nearest():
    with pytest.raises(UnknownNameError, match=r"Did you mean 'nearest_pi'"):
        strategies.find(load(discover=False).strategies, "nearestpi")
