"""Checks of strategies and classifiers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actsort_core import learn
from actsort_core.learn import ClassifierSpec
from actsort_core.strategies import QueryState, Strategy
from actsort_core.testing._common import check_name, doing, require


def check_strategy(strategy: Strategy, file_order: bool = False) -> None:
    """Check that a strategy is a pure function of its state.

    Parameters
    ----------
    strategy
        The strategy.
    file_order
        True for one that follows the order of the file on purpose: then equivariance is not asked of it.

    Raises
    ------
    AssertionError
        Names what broke: another shape, nothing but NaN, a second call that differs, a changed state, utilities that depend
        on the candidates' order, or a strategy that needs a model without saying so.
    """
    require(isinstance(strategy, Strategy), f"{type(strategy).__name__} is not a Strategy.")
    check_name("strategy", strategy)
    name = strategy.name
    for n, modelled in ((0, True), (1, True), (2, True), (60, True), (60, False)):
        if not modelled and strategy.needs_model:
            continue
        state = _state(n, modelled)
        utility = _utility(strategy, state)
        kept = _state(n, modelled)
        for key, value in _arrays(kept).items():
            same = np.array_equal(value, getattr(state, key), equal_nan=value.dtype.kind == "f")
            require(same, f"Strategy {name!r} changes the {key} of its state.")
        require(np.array_equal(utility, _utility(strategy, state), equal_nan=True), f"Strategy {name!r} says otherwise when asked again.")
        if n > 2:
            said = "with a model" if modelled else "before the first fit; it should say needs_model=True"
            require(not np.isnan(utility[~state.labelled]).all(), f"Strategy {name!r} says NaN for every candidate {said}.")
        if not file_order:
            order = np.random.default_rng(1).permutation(n)
            shuffled = _utility(strategy, replace(kept, **{key: value[order] for key, value in _arrays(kept).items()}))
            same = np.allclose(utility[order], shuffled, rtol=1e-6, atol=1e-9, equal_nan=True)
            require(same, f"Strategy {name!r} depends on the order of the candidates.")


def _state(n: int, modelled: bool) -> QueryState:
    rng = np.random.default_rng(n)
    probability = rng.random(n) if modelled else np.full(n, np.nan)
    share = float(probability.mean()) if n and modelled else np.nan
    labelled = rng.random(n) < 0.3
    labelled[:2] = [False, True][:n]
    return QueryState(probability, share, share, labelled, rng.permutation(n), rng.normal(0, 1, (n, 4)).astype(np.float32))


def _arrays(state: QueryState) -> dict[str, Any]:
    return {key: value for key, value in vars(state).items() if isinstance(value, np.ndarray)}


def _utility(strategy: Strategy, state: QueryState) -> NDArray[np.float64]:
    n = len(state.labelled)
    with doing(f"Strategy {strategy.name!r} with {n} candidates"):
        utility = np.array(strategy.utility(state), np.float64)
    require(utility.shape == (n,), f"Strategy {strategy.name!r} returned shape {utility.shape} for {n} candidates.")
    return utility


def check_classifier(spec: ClassifierSpec) -> None:
    """Check that a classifier can be fitted as sessions fit it.

    Parameters
    ----------
    spec
        The classifier.

    Raises
    ------
    AssertionError
        Names what broke: a `make` that hands out one object twice, a failure on few, unbalanced or many labels or on constant
        columns, probabilities outside 0..1, of the wrong class or not summing to one, randomness, or changed inputs.
    """
    require(isinstance(spec, ClassifierSpec), f"{type(spec).__name__} is not a ClassifierSpec.")
    check_name("classifier", spec)
    with doing(f"Making classifier {spec.name!r}"):
        first, second = spec.make(), spec.make()
    require(first is not second, f"Classifier {spec.name!r}: make hands out the same object twice.")
    for title, cells, others in (("3 + 3 labels", 3, 3), ("1 + 29 labels", 1, 29), ("100 + 60 labels", 100, 60)):
        x, truth = _separable(400, 8)
        y = np.concatenate([np.ones(cells, np.int8), np.zeros(others, np.int8)])
        rows = np.concatenate([np.flatnonzero(truth == 1)[:cells], np.flatnonzero(truth == 0)[:others]])
        p = _probability(spec, x, rows, y, title)
        right = p[truth == 1].mean() > p[truth == 0].mean()
        require(right, f"Classifier {spec.name!r} gives the probability of the wrong class ({title}).")
        again = _probability(spec, x, rows, y, title)
        require(np.allclose(p, again, rtol=0, atol=1e-9), f"Classifier {spec.name!r} is not deterministic ({title}).")
        _probability(spec, np.where(np.arange(8) < 4, x, 0).astype(np.float32), rows, y, f"{title}, constant columns")
        _probability(spec, np.zeros_like(x), rows, y, f"{title}, all columns constant")


def _separable(n: int, n_features: int) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    rng = np.random.default_rng(0)
    truth = (np.arange(n) % 2).astype(np.int8)
    x = rng.normal(0, 1, (n, n_features))
    x[:, 0] += np.where(truth == 1, 3, -3)
    return learn.standardise(x.astype(np.float32)), truth


def _probability(
    spec: ClassifierSpec, x: NDArray[np.float32], rows: NDArray[np.int64], y: NDArray[np.int8], title: str
) -> NDArray[np.float64]:
    shown, answers = x.copy(), y.copy()
    with doing(f"Classifier {spec.name!r} ({title})"):
        model = spec.make()
        model.fit(shown[rows], answers)
        p = np.asarray(model.predict_proba(shown), np.float64)
        classes = np.asarray(getattr(model, "classes_", [0, 1]))
    who = f"Classifier {spec.name!r} ({title})"
    require(np.array_equal(shown, x) and np.array_equal(answers, y), f"{who} changes its inputs.")
    require(p.shape == (len(x), 2), f"{who} returned probabilities of shape {p.shape} instead of {(len(x), 2)}.")
    require(np.isfinite(p).all() and (p >= 0).all() and (p <= 1).all(), f"{who} returned probabilities outside 0..1.")
    require(np.allclose(p.sum(axis=1), 1, atol=1e-6), f"{who} returned probabilities that do not sum to one.")
    require(np.array_equal(classes, [0, 1]), f"{who} has classes_ {classes.tolist()} instead of [0, 1].")
    return p[:, 1]
