"""Scaling, stacking, fitting: from labels and a table to probabilities."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from actsort_core import expand, learn
from actsort_core.errors import PluginError
from actsort_core.learn import ClassifierSpec, enough, fit, stack, standardise
from actsort_core.plugins import load

SPEC = load(discover=False).classifiers["l1_logistic"]


def table(*columns: Any) -> np.ndarray:
    return np.array(columns, np.float32).T


def slow(column: Any) -> np.ndarray:
    """Median for what is missing, z-score with N - 1, clipped."""
    x = np.asarray(column, float)
    x = np.where(np.isfinite(x), x, np.median(x[np.isfinite(x)]))
    return np.clip((x - x.mean()) / x.std(ddof=1), -5, 5)


def test_z_scores_divide_by_n_minus_one() -> None:
    x = np.random.default_rng(0).normal(7, 3, (40, 5)).astype(np.float32)
    out = standardise(x)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, np.column_stack([slow(c) for c in x.T]), atol=1e-5)
    np.testing.assert_allclose(out.std(axis=0, ddof=1), 1, atol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_missing_values_become_the_median(bad: float) -> None:
    out = standardise(table([1, 2, bad, 10, 4]))
    np.testing.assert_allclose(out[:, 0], slow([1, 2, np.nan, 10, 4]), atol=1e-6)
    np.testing.assert_allclose(out[2], standardise(table([1, 2, 3, 10, 4]))[2], atol=1e-6)


@pytest.mark.parametrize("value", [0, 1, -3.3, 1e-30, 3e38, np.nan, np.inf])
def test_constant_and_missing_columns_become_zero(value: float) -> None:
    out = standardise(table([value] * 7, range(7)))
    np.testing.assert_array_equal(out[:, 0], 0)
    np.testing.assert_allclose(out[:, 1], slow(range(7)), atol=1e-6)


def test_one_value_and_the_rest_missing_is_constant() -> None:
    np.testing.assert_array_equal(standardise(table([np.nan, 3, np.nan])), 0)


@pytest.mark.parametrize("column", [[1, 0, -1], [5, 0, -5], [1, 1, -1, -1, 0], [-1, 1, 0, np.nan, 1, -1, 0]])
def test_a_column_whose_deviation_happens_to_be_one_is_kept(column: list[float]) -> None:
    np.testing.assert_allclose(standardise(table(column))[:, 0], slow(column), atol=1e-6)


def test_outliers_are_clipped() -> None:
    x = np.zeros(200, np.float32)
    x[:3] = [1e6, -1, 1]
    out = standardise(table(x))
    assert out.max() == 5
    assert np.abs(out).max() <= learn.CLIP == 5


@pytest.mark.parametrize("scale", [1e-38, 1e-20, 1, 1e20, 3e38])
def test_huge_and_tiny_values_scale_like_others(scale: float) -> None:
    base = np.array([0.1, -0.5, 1, 0.7, -1], float)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = standardise((base * scale).astype(np.float32)[:, None])
    np.testing.assert_allclose(out[:, 0], slow(base), atol=1e-4)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_few_candidates(n: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = standardise(np.arange(3 * n, dtype=np.float32).reshape(n, 3))
    assert out.shape == (n, 3)
    expected = np.array([[], [0.0], [-np.sqrt(0.5), np.sqrt(0.5)]][n], dtype=float)
    np.testing.assert_allclose(out, np.tile(expected.reshape(n, 1), 3), atol=1e-6)


def test_without_features_there_is_nothing_to_scale() -> None:
    assert standardise(np.zeros((4, 0), np.float32)).shape == (4, 0)


@given(hnp.arrays(np.float32, st.tuples(st.integers(0, 12), st.integers(0, 4)), elements=st.floats(width=32)), st.randoms())
def test_scaling_is_always_finite_bounded_and_follows_the_order(x: np.ndarray, random: Any) -> None:
    before = x.copy()
    out = standardise(x)
    assert out.shape == x.shape
    assert np.isfinite(out).all()
    assert (np.abs(out) <= 5).all()
    np.testing.assert_array_equal(x, before)
    order = list(range(len(x)))
    random.shuffle(order)
    np.testing.assert_allclose(standardise(x[order]), out[order], atol=1e-4)


@given(hnp.arrays(np.float32, 9, elements=st.floats(-100, 100, width=32), unique=True), st.floats(0.01, 100), st.floats(-100, 100))
def test_unit_and_offset_do_not_matter(x: np.ndarray, unit: float, offset: float) -> None:
    if np.ptp(x) < 1e-2:
        return
    np.testing.assert_allclose(standardise((x.astype(float) * unit + offset)[:, None]), standardise(x[:, None]), atol=1e-3)  # type: ignore[arg-type]


# ---- several recordings


NAMES = tuple(f"f{i}" for i in range(expand.LIMIT + 1))  # with fewer, non-linear terms are added


def test_recordings_are_scaled_each_by_itself() -> None:
    a, b = np.random.default_rng(0).normal(0, 1, (2, 6, len(NAMES))).astype(np.float32)
    names, x = stack([(NAMES, a), (NAMES, 100 * b + 7)])
    assert names == NAMES
    np.testing.assert_allclose(x, np.concatenate([standardise(a), standardise(b)]), atol=1e-4)


def test_recordings_may_have_different_features() -> None:
    a, b = np.random.default_rng(0).normal(5, 2, (2, 6, len(NAMES))).astype(np.float32)
    other = ("new", *NAMES[1:][::-1])
    names, x = stack([(NAMES, a), (other, b)])
    assert names == (*NAMES, "new")
    assert x.dtype == np.float32
    np.testing.assert_allclose(x[:6, :-1], standardise(a))
    np.testing.assert_allclose(x[6:, [names.index(name) for name in other]], standardise(b))
    np.testing.assert_array_equal(x[:6, -1], 0)
    np.testing.assert_array_equal(x[6:, 0], 0)


def test_few_features_get_terms_in_every_recording_or_in_none() -> None:
    rng = np.random.default_rng(0)
    few = (NAMES[:2], rng.normal(0, 1, (50, 2)).astype(np.float32))
    many = (NAMES, rng.normal(0, 1, (50, len(NAMES))).astype(np.float32))
    names, x = stack([few, few])
    assert names[:2] == NAMES[:2]
    assert all(expand.feature_of(name) in NAMES[:2] for name in names)
    assert len(names) > 10
    np.testing.assert_array_equal(x[:50], x[50:])
    assert stack([few, many])[0] == NAMES


def test_empty_stacks() -> None:
    assert stack([])[1].shape == (0, 0)
    names, x = stack([(("p",), np.zeros((0, 1), np.float32)), (("q",), np.ones((3, 1), np.float32))])
    assert (names, x.shape) == (("p", "q"), (3, 2))
    assert stack([((), np.zeros((4, 0), np.float32))])[1].shape == (4, 0)


# ---- when a model may speak


@pytest.mark.parametrize(
    ("cells", "others", "yes"),
    [
        (0, 0, False),
        (3, 3, True),
        (2, 3, False),
        (3, 2, False),
        (2, 27, False),
        (2, 28, True),
        (29, 1, True),
        (28, 1, False),
        (0, 99, False),
        (99, 0, False),
    ],
)
def test_three_of_each_or_one_of_a_rare_class_are_enough(cells: int, others: int, yes: bool) -> None:
    assert enough(np.array([1] * cells + [0] * others, np.int8)) is yes


# ---- fits


def separable(n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = (np.arange(n) % 3 > 0).astype(np.int8)
    x = rng.normal(0, 1, (n, 5)).astype(np.float32)
    x[:, 2] += 3 * y
    return standardise(x), y


def test_a_fit_scores_every_row() -> None:
    x, y = separable()
    rows = np.arange(0, 60, 4)
    found = fit(SPEC, x, rows, y[rows], seq=17)
    assert found.probability.shape == (60,)
    assert found.probability.dtype == np.float64
    assert ((found.probability > 0.5) == (y == 1)).mean() > 0.9
    assert (found.n_labels, found.seq) == (15, 17)
    assert found.share == pytest.approx(found.probability.mean())
    np.testing.assert_array_equal(found.model.predict_proba(x)[:, 1], found.probability)


class Stub:
    def __init__(self, proba: Any) -> None:
        self.proba = proba

    def fit(self, X: np.ndarray, y: np.ndarray) -> Any:
        return self

    def predict_proba(self, X: np.ndarray) -> Any:
        return self.proba


@pytest.mark.parametrize(
    "proba", [np.zeros(60), np.zeros((60, 1)), np.zeros((60, 3)), np.zeros((59, 2)), np.full((60, 2), np.nan), [[0.5, np.inf]] * 60]
)
def test_a_classifier_that_returns_nonsense_is_named(proba: Any) -> None:
    x, y = separable()
    with pytest.raises(PluginError, match="Classifier 'stub' returned probabilities of shape"):
        fit(ClassifierSpec("stub", "x", lambda: Stub(proba)), x, np.arange(60), y)


def test_probabilities_are_kept_within_0_and_1() -> None:
    x, y = separable()
    found = fit(ClassifierSpec("stub", "x", lambda: Stub([[1 + 1e-9, -1e-9]] * 60)), x, np.arange(60), y)
    np.testing.assert_array_equal(found.probability, 0)


def test_importing_learn_does_not_load_scikit_learn() -> None:
    code = "import sys, actsort_core.learn; sys.exit('sklearn' in sys.modules)"
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    assert subprocess.run([sys.executable, "-c", code], check=False, env=env).returncode == 0
