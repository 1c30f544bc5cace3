"""The float32 passes over all candidates, against literal float64 versions."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from actsort_core import scoring


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
