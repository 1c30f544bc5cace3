"""The solver of the default engine: the minimum it promises, from any start, for any weights and penalties."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from actsort_core.classifiers import L1LogisticClassifier
from actsort_core.solver import sigmoid, solve


def data(n: int, k: int, seed: int = 0, noise: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Correlated features, a sparse truth, both classes."""
    rng = np.random.default_rng(seed)
    x = np.clip(rng.normal(size=(n, k)) + rng.normal(size=(n, 1)), -5, 5)
    w = np.where(np.arange(k) < 4, rng.normal(0, 2, k), 0)
    y = (x @ w + rng.logistic(0, noise, n) > 0).astype(float)
    y[:2] = 0, 1
    return x, y


def objective(x: np.ndarray, y: np.ndarray, weight: np.ndarray, penalty: np.ndarray, w: np.ndarray, b: float) -> float:
    return float(weight @ np.logaddexp(0, -(2 * y - 1) * (x @ w + b)) + penalty @ np.abs(w))


def oracle(x: np.ndarray, y: np.ndarray, weight: np.ndarray, penalty: np.ndarray) -> float:
    """The smallest value there is, by L-BFGS-B on w = u - v, u >= 0, v >= 0."""
    k = x.shape[1]
    sign = 2 * y - 1

    def value(t: np.ndarray) -> tuple[float, np.ndarray]:
        margin = sign * (x @ (t[:k] - t[k : 2 * k]) + t[-1])
        slope = -sign * weight / (1 + np.exp(np.clip(margin, -700, 700)))
        gradient = x.T @ slope
        total = weight @ np.logaddexp(0, -margin) + penalty @ (t[:k] + t[k : 2 * k])
        return total, np.concatenate([gradient + penalty, penalty - gradient, [slope.sum()]])

    bounds = [(0, None)] * (2 * k) + [(None, None)]
    options = {"maxiter": 20_000, "maxfun": 200_000, "ftol": 1e-16, "gtol": 1e-10}
    return float(minimize(value, np.zeros(2 * k + 1), jac=True, method="L-BFGS-B", bounds=bounds, options=options).fun)


def gap(x: np.ndarray, y: np.ndarray, weight: np.ndarray, penalty: np.ndarray, w: np.ndarray, b: float) -> float:
    """How far the conditions of a minimum are violated, as a share of the total weight. The problem is convex: they are sufficient."""
    residual = weight * (1 / (1 + np.exp(-(x @ w + b))) - y)
    slope = x.T @ residual
    at_zero = np.maximum(np.abs(slope) - penalty, 0)
    elsewhere = np.abs(slope + penalty * np.sign(w))
    return float(max(abs(residual.sum()), np.where(w == 0, at_zero, elsewhere).max(initial=0)) / weight.sum())


@pytest.mark.parametrize(("n", "k"), [(6, 76), (10, 3), (40, 76), (200, 76), (200, 300), (2000, 76)])
@pytest.mark.parametrize("C", [0.3, 1.0])
def test_it_ends_at_the_minimum(n: int, k: int, C: float) -> None:
    x, y = data(n, k)
    w, b = solve(x, y, np.ones(n), 1 / C)
    assert gap(x, y, np.ones(n), np.full(k, 1 / C), w, b) < 1e-8
    if k < n < 1000:
        best = oracle(x, y, np.ones(n), np.full(k, 1 / C))
        assert objective(x, y, np.ones(n), np.full(k, 1 / C), w, b) <= best + 1e-9 * best


@pytest.mark.parametrize("n", [12, 60, 400])
def test_it_agrees_with_liblinear(n: int) -> None:
    x, y = data(n, 20)
    w, b = solve(x, y, np.ones(n), 1.0)
    reference = L1LogisticClassifier(C=1.0, tol=1e-10, max_iter=100_000).fit(x, y.astype(int))
    np.testing.assert_allclose(w, reference.coef_[0], atol=2e-3)
    assert b == pytest.approx(reference.intercept_[0], abs=2e-3)
    ours = objective(x, y, np.ones(n), np.ones(20), w, b)
    assert ours <= objective(x, y, np.ones(n), np.ones(20), reference.coef_[0], float(reference.intercept_[0])) + 1e-9


def test_a_strong_penalty_leaves_only_the_intercept() -> None:
    x, y = data(50, 10)
    w, b = solve(x, y, np.ones(50), 1e4)
    np.testing.assert_array_equal(w, 0)
    assert sigmoid(np.array([b]))[0] == pytest.approx(y.mean(), abs=1e-8)


def test_zeros_are_exact() -> None:
    x, y = data(200, 76)
    w, _ = solve(x, y, np.ones(200), 1 / 0.3)
    assert 1 <= np.count_nonzero(w) < 40
    assert np.abs(w[w != 0]).min() > 1e-8


def test_a_weight_of_two_is_a_row_given_twice() -> None:
    x, y = data(60, 8)
    weight = np.where(np.arange(60) % 3 == 0, 2.0, 1.0)
    twice = np.repeat(np.arange(60), weight.astype(int))
    w, b = solve(x, y, weight, 1.0)
    w_twice, b_twice = solve(x[twice], y[twice], np.ones(len(twice)), 1.0)
    np.testing.assert_allclose(w, w_twice, atol=1e-6)
    assert b == pytest.approx(b_twice, abs=1e-6)


def test_a_free_coefficient_is_not_shrunk() -> None:
    x, y = data(300, 3, noise=2.0)
    w, b = solve(x, y, np.ones(300), np.zeros(3))
    residual = sigmoid(x @ w + b) - y
    np.testing.assert_allclose(x.T @ residual, 0, atol=1e-5)
    w_penalised, _ = solve(x, y, np.ones(300), np.array([0, 20.0, 20.0]))
    assert np.abs(w_penalised[1:]).sum() < np.abs(w[1:]).sum()


def test_columns_given_twice_share_their_weight_and_change_no_score() -> None:
    x, y = data(100, 6)
    w, b = solve(x, y, np.ones(100), 1.0)
    w_two, b_two = solve(np.hstack([x, x]), y, np.ones(100), 1.0)
    np.testing.assert_allclose(w_two[:6] + w_two[6:], w, atol=1e-5)
    assert b_two == pytest.approx(b, abs=1e-5)


def test_opposite_and_summed_columns() -> None:
    x, y = data(100, 5)
    wide = np.hstack([x, -x, x[:, :1] + x[:, 1:2]])
    w, b = solve(wide, y, np.ones(100), 1.0)
    assert gap(wide, y, np.ones(100), np.ones(11), w, b) < 1e-8


def test_a_constant_column_is_left_to_the_intercept() -> None:
    x, y = data(100, 5)
    wide = np.hstack([x, np.full((100, 1), 3.0), np.zeros((100, 1))])
    w, _ = solve(wide, y, np.ones(100), 1.0)
    np.testing.assert_array_equal(w[5:], 0)
    np.testing.assert_allclose(w[:5], solve(x, y, np.ones(100), 1.0)[0], atol=1e-6)


def test_separable_data_have_a_finite_answer() -> None:
    x = np.array([[-2.0], [-1.0], [1.0], [2.0]])
    y = np.array([0.0, 0, 1, 1])
    w, b = solve(x, y, np.ones(4), 0.01)
    assert gap(x, y, np.ones(4), np.array([0.01]), w, b) < 1e-8
    assert 1 < w[0] < 100


def test_no_columns_no_penalty_to_pay() -> None:
    w, b = solve(np.zeros((4, 0)), np.array([0.0, 1, 1, 1]), np.ones(4), 1.0)
    assert w.shape == (0,)
    assert b == pytest.approx(np.log(3), abs=1e-7)


def test_a_start_far_away_ends_at_the_same_point() -> None:
    x, y = data(120, 30)
    w, b = solve(x, y, np.ones(120), 1.0, tol=1e-10)
    rng = np.random.default_rng(1)
    for scale in (0.0, 1.0, 30.0):
        far = solve(x, y, np.ones(120), 1.0, (rng.normal(0, 1, 30) * scale, 50 * scale), tol=1e-10)
        np.testing.assert_allclose(far[0], w, atol=1e-6)
        assert far[1] == pytest.approx(b, abs=1e-6)


def test_label_after_label_from_the_last_solution_is_the_same_as_from_nothing() -> None:
    x, y = data(120, 76, noise=2.0)
    last = None
    for n in range(6, 121):
        penalty = 1 / (1.0 if n < 20 else 0.3)
        last = solve(x[:n], y[:n], np.ones(n), penalty, last, tol=1e-9)
        if n % 10 == 0:
            anew = solve(x[:n], y[:n], np.ones(n), penalty, tol=1e-9)
            np.testing.assert_allclose(x @ last[0] + last[1], x @ anew[0] + anew[1], atol=1e-4)
            assert set(np.flatnonzero(last[0])) == set(np.flatnonzero(anew[0]))


def test_the_start_is_not_written_to() -> None:
    x, y = data(50, 5)
    start = np.ones(5)
    solve(x, y, np.ones(50), 1.0, (start, 0.0))
    np.testing.assert_array_equal(start, 1)


@settings(max_examples=300, deadline=None)
@example(n=2, k=1, seed=0, spread=0.0, free=0, ties=False, warm=False)
@given(
    n=st.integers(2, 40),
    k=st.integers(0, 25),
    seed=st.integers(0, 2**31),
    spread=st.sampled_from([0.0, 1.0, 3.0]),
    free=st.integers(0, 2),
    ties=st.booleans(),
    warm=st.booleans(),
)
def test_any_problem_ends_at_its_minimum(n: int, k: int, seed: int, spread: float, free: int, ties: bool, warm: bool) -> None:
    rng = np.random.default_rng(seed)
    x = np.clip(rng.normal(size=(n, k)), -5, 5)
    if ties:
        x = np.round(x)  # equal rows, collinear and constant columns
    y = (rng.random(n) < 0.4).astype(float)
    y[:2] = 0, 1
    weight = np.exp(spread * rng.normal(size=n))
    penalty = np.exp(spread * rng.normal(size=k)) * rng.choice([0.3, 1, 5])
    free = min(free, k)
    assume(n >= 4 * free)
    penalty[:free] = 0
    for j in range(free):  # both classes on both sides of each free column alone, or its coefficient grows without end
        rows = slice(4 * j, 4 * j + 4)
        x[rows, :free] = 0
        x[rows, j] = 1, 1, -1, -1
        y[rows] = 0, 1, 0, 1
    start = (rng.normal(size=k), float(rng.normal())) if warm else None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        w, b = solve(x, y, weight, penalty, start)
    assert np.isfinite(w).all()
    assert np.isfinite(b)
    assert gap(x, y, weight, penalty, w, b) < 2e-8
