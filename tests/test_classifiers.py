"""L1 logistic regression: a scikit-learn estimator, and the solution of the problem it states."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_val_score
from sklearn.utils.estimator_checks import parametrize_with_checks

from actsort_core.classifiers import L1AdaptiveClassifier, L1LogisticClassifier


@pytest.mark.filterwarnings("ignore:Can't check dok sparse matrix")
@parametrize_with_checks([L1LogisticClassifier(), L1AdaptiveClassifier()])
def test_it_is_a_scikit_learn_estimator(estimator: Any, check: Callable[[Any], None]) -> None:
    check(estimator)


def exact(x: np.ndarray, y: np.ndarray, C: float, intercept: bool = True) -> tuple[np.ndarray, float]:
    """Minimum of mean(log loss) + |w|_1 / (C n) by L-BFGS-B on w = u - v, u >= 0, v >= 0, intercept free (or 0)."""
    n, p = x.shape
    sign = np.where(y == 1, 1.0, -1.0)

    def objective(t: np.ndarray) -> tuple[float, np.ndarray]:
        margin = sign * (x @ (t[:p] - t[p : 2 * p]) + t[-1])
        slope = -sign / (1 + np.exp(np.clip(margin, -700, 700))) / n
        gradient = x.T @ slope
        penalty = np.full(p, 1 / (C * n))
        value = np.logaddexp(0, -margin).mean() + t[:-1].sum() / (C * n)
        return value, np.concatenate([gradient + penalty, penalty - gradient, [slope.sum()]])

    bounds = [(0, None)] * (2 * p) + [(None, None) if intercept else (0, 0)]
    options = {"maxiter": 50_000, "maxfun": 500_000, "ftol": 1e-15, "gtol": 1e-10}
    found = minimize(objective, np.zeros(2 * p + 1), jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    return found.x[:p] - found.x[p : 2 * p], float(found.x[-1])


def data(n: int, p: int, share: float, offset: float = 0.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.zeros(n, np.int8)
    y[: max(3, round(share * n))] = 1
    x = rng.normal(0, 1, (n, p))
    x[:, : max(1, p // 4)] += np.where(y == 1, 0.8, -0.3)[:, None]
    return np.clip(x, -5, 5) + offset, y


def logistic(z: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-z)))


@pytest.mark.parametrize("C", [0.3, 1.0])
@pytest.mark.parametrize(
    ("n", "p", "share", "offset"),
    [
        (6, 17, 0.5, 0),
        (12, 40, 0.4, 0),
        (40, 17, 0.5, 0),
        (40, 76, 0.1, 0),
        (200, 17, 0.9, 0),
        (200, 76, 0.05, 0),
        (60, 5, 0.3, 4),
        (60, 5, 0.1, -4),
    ],
)
def test_probabilities_are_those_of_the_exact_solution(n: int, p: int, share: float, offset: float, C: float) -> None:
    x, y = data(n, p, share, offset)
    new = data(300, p, 0.5, offset, seed=1)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it converges
        fitted = L1LogisticClassifier(C=C).fit(x, y)
    w, b = exact(x, y, C)
    np.testing.assert_allclose(fitted.predict_proba(new)[:, 1], logistic(new @ w + b), atol=1e-5)
    np.testing.assert_allclose(fitted.coef_[0], w, atol=1e-4)


def test_the_oracle_would_notice_a_penalised_intercept() -> None:
    x, y = data(200, 17, 0.05)
    padded = np.column_stack([x, np.ones(len(x))])
    penalised, _ = exact(padded, y, 1.0, intercept=False)
    w, b = exact(x, y, 1.0)
    assert np.abs(logistic(padded @ penalised) - logistic(x @ w + b)).max() > 5e-3


@pytest.mark.parametrize("shift", [-3.0, 2.0, 5.0])
def test_shifting_a_feature_shifts_the_intercept_and_nothing_else(shift: float) -> None:
    x, y = data(80, 6, 0.2)
    here, there = L1LogisticClassifier().fit(x, y), L1LogisticClassifier().fit(x + shift, y)
    np.testing.assert_allclose(there.coef_, here.coef_, atol=1e-3)
    np.testing.assert_allclose(there.intercept_, here.intercept_ - shift * here.coef_.sum(), atol=5e-3)
    np.testing.assert_allclose(there.predict_proba(x + shift), here.predict_proba(x), atol=5e-4)


@pytest.mark.parametrize(("cells", "others"), [(3, 3), (1, 29), (50, 5)])
def test_without_evidence_the_probability_is_the_share_of_cells(cells: int, others: int) -> None:
    y = np.array([1] * cells + [0] * others)
    p = L1LogisticClassifier().fit(np.zeros((len(y), 3)), y).predict_proba(np.zeros((2, 3)))
    np.testing.assert_allclose(p[:, 1], cells / (cells + others), atol=1e-3)


def test_the_penalty_leaves_out_what_does_not_help() -> None:
    x, y = data(60, 40, 0.5)
    kept = [int((np.abs(L1LogisticClassifier(C=C).fit(x, y).coef_) > 1e-6).sum()) for C in (0.03, 0.1, 1.0)]
    assert 0 <= kept[0] < kept[1] < kept[2] < 40


def test_mirrored_labels_mirror_the_probabilities() -> None:
    x, y = data(70, 8, 0.3)
    p, q = L1LogisticClassifier().fit(x, y).predict_proba(x), L1LogisticClassifier().fit(x, 1 - y).predict_proba(x)
    np.testing.assert_allclose(p, q[:, ::-1], atol=1e-3)


def test_probabilities_do_not_overflow() -> None:
    x, y = data(40, 3, 0.5)
    with np.errstate(all="raise"):
        p = L1LogisticClassifier().fit(x, y).predict_proba(np.array([[1e6] * 3, [-1e6] * 3]))
    assert np.isfinite(p).all()
    np.testing.assert_allclose(p.sum(axis=1), 1)


def test_it_is_deterministic_and_leaves_global_random_state_alone() -> None:
    x, y = data(50, 10, 0.4)
    np.random.seed(0)  # noqa: NPY002 - whether the global generator is touched is the question
    before = np.random.get_state()[1].copy()  # type: ignore[index,union-attr] # noqa: NPY002
    a, b = L1LogisticClassifier().fit(x, y), L1LogisticClassifier().fit(x, y)
    np.testing.assert_array_equal(a.coef_, b.coef_)
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # type: ignore[index] # noqa: NPY002


def test_predict_is_the_most_probable_class_of_any_kind() -> None:
    x, y = data(50, 4, 0.5)
    fitted = L1LogisticClassifier().fit(x, np.where(y == 1, "cell", "artefact"))
    assert fitted.classes_.tolist() == ["artefact", "cell"]
    np.testing.assert_array_equal(fitted.predict(x), fitted.classes_[fitted.predict_proba(x).argmax(axis=1)])
    np.testing.assert_array_equal(fitted.decision_function(x) > 0, fitted.predict(x) == "cell")


def test_it_works_with_scikit_learns_tools() -> None:
    x, y = data(80, 4, 0.5)
    assert clone(L1LogisticClassifier(C=0.2)).get_params() == {"C": 0.2, "tol": 1e-9, "max_iter": 200}
    assert cross_val_score(L1LogisticClassifier(), x, y, cv=4).mean() > 0.5


def test_it_says_what_is_wrong() -> None:
    x, y = data(20, 3, 0.5)
    with pytest.raises(NotFittedError):
        L1LogisticClassifier().predict(x)
    with pytest.raises(ValueError, match="one class"):
        L1LogisticClassifier().fit(x, np.ones(20))
    with pytest.raises(ValueError, match="Only binary classification"):
        L1LogisticClassifier().fit(x, np.arange(20) % 3)
    with pytest.raises(ValueError, match="NaN"):
        L1LogisticClassifier().fit(np.where(x > 1, np.nan, x), y)
    with pytest.raises(ValueError, match="features"):
        L1LogisticClassifier().fit(x, y).predict(x[:, :2])
