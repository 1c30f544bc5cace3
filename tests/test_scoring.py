"""The float32 passes over all candidates, against literal float64 versions."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from actsort_core import scoring


def literal_nearest(p: np.ndarray, line: float, free: np.ndarray, rank: np.ndarray) -> int | None:
    found = sorted((abs(float(p[i]) - line), int(rank[i]), i) for i in range(len(p)) if free[i])
    return found[0][2] if found else None


@pytest.mark.parametrize("n", [0, 1, 500])
def test_score_is_the_product_with_the_table(n: int) -> None:
    rng = np.random.default_rng(0)
    x, w = np.clip(rng.normal(size=(n, 76)), -5, 5).astype(np.float32), rng.normal(size=76)
    before = x.copy()
    out = scoring.score(x, w, 0.7)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, x.astype(float) @ w + 0.7, atol=2e-5)
    np.testing.assert_array_equal(x, before)


def test_score_without_features_is_the_intercept() -> None:
    np.testing.assert_array_equal(scoring.score(np.zeros((3, 0), np.float32), np.zeros(0), -1.5), np.full(3, -1.5, np.float32))


@given(hnp.arrays(np.float32, st.integers(0, 50), elements=st.floats(-(2.0**99), 2.0**99, width=32)))
def test_probability_is_the_logistic_function(score: np.ndarray) -> None:
    before = score.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        p = scoring.probability(score)
    assert p.dtype == np.float32
    assert ((p >= 0) & (p <= 1)).all()
    expected = [1 / (1 + math.exp(-float(s))) if s > -700 else 0.0 for s in score]
    np.testing.assert_allclose(p, expected, atol=1.5e-7)
    np.testing.assert_array_equal(score, before)


def test_probability_never_falls_as_the_score_rises() -> None:
    score = np.linspace(-30, 30, 100_001).astype(np.float32)
    p = scoring.probability(score).astype(float)
    assert (np.diff(p) >= -1.2e-7).all()  # one unit in the last place of 1
    assert scoring.probability(np.zeros(1, np.float32))[0] == 0.5


@settings(max_examples=300)
@given(st.data())
def test_nearest_is_the_first_by_distance_then_rank(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 40))
    eighths = st.integers(0, 64).map(lambda i: i / 64)  # exact in float32, and often equal
    p = np.array(data.draw(st.lists(eighths, min_size=n, max_size=n)), np.float32)
    line = data.draw(eighths)
    free = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    rank = np.array(data.draw(st.permutations(range(n))))
    assert scoring.nearest(p, line, free, rank) == literal_nearest(p, line, free, rank)
    assert scoring.nearest(p.astype(np.float64), line, free, rank) == literal_nearest(p, line, free, rank)
    assert scoring.nearest(p, np.full(n, line), free, rank) == literal_nearest(p, line, free, rank)


@given(st.integers(0, 10_000), st.floats(0, 1))
def test_nearest_of_any_probabilities_is_nearest_up_to_rounding(seed: int, line: float) -> None:
    rng = np.random.default_rng(seed)
    p, free, rank = rng.random(60, np.float32), rng.random(60) < 0.7, rng.permutation(60)
    found = scoring.nearest(p, line, free, rank)
    if not free.any():
        assert found is None
        return
    assert found is not None
    assert free[found]
    distance = np.abs(p.astype(float) - line)
    assert distance[found] <= distance[free].min() + 1e-7


def test_each_recording_has_its_line() -> None:
    p = np.array([0.1, 0.4, 0.5, 0.9], np.float32)
    line = np.array([0.2, 0.2, 0.85, 0.85])
    assert scoring.nearest(p, line, np.ones(4, bool), np.arange(4)) == 3


def test_nobody_is_free() -> None:
    assert scoring.nearest(np.full(3, 0.5, np.float32), 0.5, np.zeros(3, bool), np.arange(3)) is None
    assert scoring.nearest(np.zeros(0, np.float32), 0.5, np.zeros(0, bool), np.arange(0)) is None


def test_equal_candidates_are_asked_by_rank_not_in_file_order() -> None:
    p, rank = np.full(5, 0.3, np.float32), np.array([3, 4, 0, 2, 1])
    free = np.ones(5, bool)
    order = []
    while (found := scoring.nearest(p, 0.31, free, rank)) is not None:
        order.append(found)
        free[found] = False
    assert order == [2, 4, 3, 0, 1]


def test_nothing_given_is_changed() -> None:
    p, free, rank = np.array([0.2, 0.6], np.float32), np.array([True, False]), np.array([1, 0])
    before = p.copy(), free.copy(), rank.copy()
    scoring.nearest(p, 0.5, free, rank)
    for now, then in zip((p, free, rank), before, strict=True):
        np.testing.assert_array_equal(now, then)
