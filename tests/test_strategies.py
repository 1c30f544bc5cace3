"""Strategies: what they say, literally; and which candidate is asked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actsort_core.errors import PluginError
from actsort_core.strategies import BUILTIN, QueryState, Strategy, balanced_pi, best, cal, first_to_last, nearest_pi, random

BY_NAME = {strategy.name: strategy for strategy in BUILTIN}
SIMPLE = tuple(BY_NAME[name] for name in ("balanced_pi", "nearest_pi", "cal", "random", "first_to_last"))  # one line each


def state(p: Any, labelled: Any = None, rank: Any = None, share: float | None = None) -> QueryState:
    p = np.asarray(p, np.float64)
    n = len(p)
    share = (float(p.mean()) if n else np.nan) if share is None else share
    known = np.zeros(n, bool) if labelled is None else np.asarray(labelled, bool)
    order = np.arange(n) if rank is None else np.asarray(rank)
    return QueryState(p, share, share, known, order, np.zeros((n, 0), np.float32))


@st.composite
def states(draw: st.DrawFn) -> QueryState:
    p = draw(st.lists(st.floats(0, 1), min_size=1, max_size=15))
    labelled = draw(st.lists(st.booleans(), min_size=len(p), max_size=len(p)))
    return state(p, labelled, draw(st.permutations(range(len(p)))))


def test_the_built_in_ones() -> None:
    assert next(iter(BY_NAME)) == "balanced_pi"
    assert len(BY_NAME) == len(BUILTIN)
    assert [strategy.name for strategy in SIMPLE if strategy.needs_model] == ["balanced_pi", "nearest_pi", "cal"]


@pytest.mark.parametrize(("cells", "others", "place"), [(10, 10, 0.8), (30, 10, 0.579), (10, 30, 0.921), (400, 0, 0.174), (0, 400, 0.987)])
def test_the_default_asks_on_the_side_of_the_kind_with_fewer_labels(cells: int, others: int, place: float) -> None:
    """Log odds of pi minus those of the labels' share of cells, which counts as .05 to .95."""
    p = np.linspace(0.0005, 0.9995, 1000)
    s = replace(state(p, share=0.8), cells=cells, others=others)
    assert p[np.argmax(balanced_pi(s))] == pytest.approx(place, abs=0.002)


def test_every_recording_has_its_own_line() -> None:
    p = np.array([0.2, 0.5, 0.8, 0.2, 0.5, 0.8])
    s = replace(state(p), line=np.repeat([0.8, 0.2], 3))
    for strategy in (nearest_pi, balanced_pi):
        assert set(np.argsort(-strategy(s))[:2]) == {2, 3}


@given(states())
def test_utilities_are_what_their_definitions_say(s: QueryState) -> None:
    n = len(s.probability)
    pi = sum(s.probability) / n
    np.testing.assert_allclose(cal(s), [1 - 2 * abs(p - 0.5) for p in s.probability])
    np.testing.assert_allclose(nearest_pi(s), [-abs(p - pi) for p in s.probability], atol=1e-12)
    np.testing.assert_allclose(balanced_pi(s), nearest_pi(s), atol=1e-6)  # no label yet: no kind has fewer
    assert list(np.argsort(-random(s))) == [list(s.rank).index(k) for k in range(n)]
    assert list(np.argsort(-first_to_last(s))) == list(range(n))


@given(states(), st.integers(0, 20))
def test_the_best_are_unlabelled_in_order_of_utility_and_as_many_as_asked(s: QueryState, n: int) -> None:
    for strategy in SIMPLE:
        chosen = best(strategy, s, n)
        free = np.flatnonzero(~s.labelled)
        assert len(chosen) == min(n, len(free))
        assert set(chosen) <= set(free)
        assert len(set(chosen)) == len(chosen)
        utility = strategy.utility(s)
        assert (np.diff(utility[chosen]) <= 0).all()
        rest = np.setdiff1d(free, chosen)
        if len(chosen) and len(rest):
            assert utility[rest].max() <= utility[chosen].min()


@given(states(), st.data())
def test_the_same_candidates_are_asked_in_whatever_order_they_come(s: QueryState, data: st.DataObject) -> None:
    order = np.array(data.draw(st.permutations(range(len(s.rank)))))
    shuffled = replace(s, probability=s.probability[order], labelled=s.labelled[order], rank=s.rank[order])
    for name in ("nearest_pi", "cal", "random"):
        # The mean of shuffled numbers may differ in its last digit, so pi is kept.
        assert list(order[best(BY_NAME[name], shuffled, 5)]) == list(best(BY_NAME[name], s, 5))


def test_cal_asks_the_least_confident() -> None:
    assert best(BY_NAME["cal"], state([0.1, 0.45, 0.9, 0.52]), 2).tolist() == [3, 1]


def test_nearest_pi_asks_where_decisions_are_cut() -> None:
    s = state([0.9, 0.8, 0.45, 0.95, 0.9])
    assert s.share == pytest.approx(0.8)
    assert best(BY_NAME["nearest_pi"], s, 1).tolist() == [1]
    assert best(BY_NAME["cal"], s, 1).tolist() == [2]


def test_nearest_pi_follows_the_share_and_not_the_threshold() -> None:
    s = replace(state([0.9, 0.8, 0.45, 0.95, 0.9]), threshold=0.45)
    assert best(BY_NAME["nearest_pi"], s, 1).tolist() == [1]


def test_random_is_the_seeds_order_and_first_to_last_the_files() -> None:
    s = state([np.nan] * 5, labelled=[0, 1, 0, 0, 0], rank=[3, 0, 4, 1, 2])
    assert best(BY_NAME["random"], s, 9).tolist() == [3, 4, 0, 2]
    assert best(BY_NAME["first_to_last"], s, 9).tolist() == [0, 2, 3, 4]


@given(st.permutations(range(8)))
def test_ties_are_broken_by_rank(rank: list[int]) -> None:
    tied = best(BY_NAME["cal"], state([0.5] * 8, rank=rank), 8)
    assert [rank[i] for i in tied] == list(range(8))


def test_ties_below_the_best_are_broken_by_rank_too() -> None:
    s = state([0.5, 0.3, 0.3, 0.3], rank=[3, 2, 0, 1])
    assert best(BY_NAME["cal"], s, 4).tolist() == [0, 2, 3, 1]


def test_nan_counts_as_the_lowest() -> None:
    odd = Strategy("odd", "x", lambda s: np.array([np.nan, -np.inf, 1.0, np.inf]))
    assert best(odd, state([0.5] * 4, rank=[1, 0, 2, 3]), 4).tolist() == [3, 2, 1, 0]


def test_before_the_first_fit_a_models_strategy_falls_back_on_rank() -> None:
    assert best(BY_NAME["nearest_pi"], state([np.nan] * 4, rank=[2, 0, 3, 1]), 4).tolist() == [1, 3, 0, 2]


def test_nobody_left_to_ask() -> None:
    for strategy in SIMPLE:
        assert best(strategy, state([0.1, 0.2], labelled=[1, 1]), 3).size == 0
        assert best(strategy, state([]), 3).size == 0


@pytest.mark.parametrize("returned", [1.0, [1.0, 2.0], [[1.0], [2.0], [3.0]], []])
def test_a_strategy_of_the_wrong_shape_is_named(returned: Any) -> None:
    with pytest.raises(PluginError, match=r"Strategy 'odd' returned shape .* for 3 candidates"):
        best(Strategy("odd", "x", lambda s: np.array(returned)), state([0.1, 0.2, 0.3]), 1)


def test_a_strategy_that_raises_is_named() -> None:
    with pytest.raises(PluginError, match=r"Strategy 'odd' failed \(ZeroDivisionError") as caught:
        best(Strategy("odd", "x", lambda s: 1 / 0), state([0.1]), 1)  # type: ignore[arg-type,return-value]
    assert caught.value.hint


def test_strategies_leave_the_state_alone() -> None:
    s = state(np.linspace(0, 1, 9), labelled=np.arange(9) % 4 == 0)
    copies = [s.probability.copy(), s.labelled.copy(), s.rank.copy()]
    for strategy in SIMPLE:
        best(strategy, s, 4)
    for kept, now in zip(copies, (s.probability, s.labelled, s.rank), strict=True):
        np.testing.assert_array_equal(kept, now)
