"""Audits: who may be drawn, how probably, and that the stated probability is the true one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from actsort_core import audits
from actsort_core.errors import UsageError


def literal(d: np.ndarray, free: np.ndarray) -> np.ndarray:
    """LEARNING.md, step 1, one candidate at a time."""
    mass = np.zeros(len(d))
    for i, value in enumerate(d):
        if free[i]:
            error = max(0.01, 1 / (1 + np.exp(1.5 * abs(float(value)))))
            mass[i] = np.sqrt(error * (1 - error))
    for side in (d > 0, ~(d > 0)):
        if mass[side].sum() > 0:
            mass[side] /= 2 * mass[side].sum()
    return mass / mass.sum()


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_inclusion_is_the_recipe(kind: type) -> None:
    rng = np.random.default_rng(0)
    d, free = (4 * rng.normal(size=400)).astype(kind), rng.random(400) < 0.7
    np.testing.assert_allclose(audits.inclusion(d, free), literal(d, free), rtol=1e-5)


@settings(max_examples=200, deadline=None)
@given(arrays(np.float32, 12, elements=st.floats(-1e4, 1e4, width=32)), arrays(bool, 12))
def test_whoever_is_free_may_be_drawn_and_nobody_else(d: np.ndarray, free: np.ndarray) -> None:
    probability = audits.inclusion(d, free)
    assert ((probability > 0) == free).all()
    if free.any():
        assert probability.sum() == pytest.approx(1)
    if (free & (d > 0)).any() and (free & ~(d > 0)).any():
        assert probability[d > 0].sum() == pytest.approx(0.5)


def test_infinite_and_missing_scores_are_drawn_too() -> None:
    probability = audits.inclusion(np.array([np.inf, -np.inf, np.nan, 0.1, -0.1]), np.ones(5, bool))
    assert np.isfinite(probability).all()
    assert (probability > 0).all()


def test_one_side_alone_gets_all() -> None:
    d = np.array([1.0, 2.0, -1.0])
    assert audits.inclusion(d, np.array([True, True, False])).sum() == pytest.approx(1)
    assert audits.inclusion(d, np.array([False, False, True])).tolist() == [0, 0, 1]


def test_nobody_is_left() -> None:
    nobody = np.zeros(3, bool)
    assert audits.inclusion(np.zeros(3), nobody).tolist() == [0, 0, 0]
    with pytest.raises(UsageError, match="nobody left"):
        audits.draw(np.zeros(3), nobody, np.random.default_rng(0))
    with pytest.raises(UsageError, match="nobody left"):
        audits.draw(np.zeros(0), np.zeros(0, bool), np.random.default_rng(0))


def test_draws_fall_as_often_as_stated() -> None:
    rng = np.random.default_rng(1)
    d, free = 3 * rng.normal(size=8), np.arange(8) != 3
    expected = audits.inclusion(d, free)
    drawn = [audits.draw(d, free, rng) for _ in range(20_000)]
    counts = np.bincount([i for i, _ in drawn], minlength=8)
    assert counts[3] == 0
    assert ((counts[free] - 20_000 * expected[free]) ** 2 / (20_000 * expected[free])).sum() < 25  # chi-square, 6 degrees
    assert all(p == expected[i] for i, p in drawn[:100])


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_draws_among_many_fall_as_often_as_stated(kind: type) -> None:
    """Few are free, here and there in a long table, on sides of different size."""
    rng = np.random.default_rng(2)
    d, free = (rng.normal(1, 2, 60_000)).astype(kind), np.zeros(60_000, bool)
    d[::7001] = np.nan
    free[::4001] = free[::7001] = True
    expected = audits.inclusion(d, free)
    drawn = [audits.draw(d, free, rng) for _ in range(4000)]
    counts = np.bincount([i for i, _ in drawn], minlength=len(d))
    assert counts[~free].sum() == 0
    kinds = int(free.sum())
    assert ((counts[free] - 4000 * expected[free]) ** 2 / (4000 * expected[free])).sum() < kinds + 4 * np.sqrt(2 * kinds)
    assert all(p == expected[i] for i, p in drawn)


def test_same_generator_same_draw() -> None:
    d, free = np.linspace(-3, 3, 50), np.ones(50, bool)
    assert audits.draw(d, free, np.random.default_rng(5)) == audits.draw(d, free, np.random.default_rng(5))


class _Top(np.random.Generator):
    def __init__(self) -> None:
        super().__init__(np.random.PCG64(0))

    def random(self) -> float:  # type: ignore[override]
        return np.nextafter(1, 0)


def test_the_highest_chance_still_falls_on_somebody_free() -> None:
    free = np.ones(1000, bool)
    free[-3:] = False
    index, probability = audits.draw(np.linspace(-1, 1, 1000), free, _Top())
    assert free[index]
    assert probability > 0


def test_one_question_in_ten_at_first_and_one_in_two_later() -> None:
    new = [n for n in range(1, 80) if audits.due(n) > audits.due(n - 1)]
    assert new == [10, 20, 30, 40, 50, 60, 62, 64, 66, 68, 70, 72, 74, 76, 78]
    assert audits.due(0) == 0
