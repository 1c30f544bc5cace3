"""The classifiers, and the one place that knows scikit-learn's versions."""

from __future__ import annotations

from typing import Any

import numpy as np
import sklearn
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

_VERSION = tuple(int(part) for part in sklearn.__version__.split(".")[:2])


def _validate(estimator: Any, x: Any, **arguments: Any) -> Any:
    """Check input and record ``n_features_in_``: a function since scikit-learn 1.6, a method before."""
    if _VERSION >= (1, 6):
        from sklearn.utils.validation import validate_data

        return validate_data(estimator, x, dtype=np.float64, **arguments)
    return estimator._validate_data(x, dtype=np.float64, **arguments)


def _free_intercept(scores: NDArray[np.float64], positive: NDArray[np.bool_], start: float) -> float:
    """The intercept that fits best beside given weights: with it, probabilities sum to the number of positive labels.

    Parameters
    ----------
    scores
        ``(n_labels,)`` log odds without the intercept.
    positive
        ``(n_labels,)`` bool; both kinds occur.
    start
        First guess.
    """
    low, high = -float(scores.max()) - 40, -float(scores.min()) + 40  # there the probabilities sum to about 0 and about n
    intercept = min(max(start, low), high)
    for _ in range(100):
        p = 0.5 * (1 + np.tanh(0.5 * (scores + intercept)))
        excess, slope = float(p.sum() - positive.sum()), float((p * (1 - p)).sum())
        low, high = (low, intercept) if excess > 0 else (intercept, high)
        step = intercept - excess / max(slope, 1e-300)
        following = step if low < step < high else (low + high) / 2  # Newton's step, kept between the bounds by bisection
        if abs(following - intercept) < 1e-10:
            break
        intercept = following
    return intercept


class L1LogisticClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc] # scikit-learn has no types
    """Logistic regression with an L1 penalty and a free intercept, as published for ActSort.

    It minimises ``mean(log loss) + |w|_1 / (C n)``: the published penalty, lambda = 1 / n on the mean loss, is ``C = 1`` for
    every number of labels n. `predict` is scikit-learn's (most probable class); deciding at a threshold happens elsewhere.

    Parameters
    ----------
    C
        Inverse strength of the penalty.
    tol, max_iter
        Of the solver.

    Attributes
    ----------
    coef_ : ndarray of shape (1, n_features)
    intercept_ : ndarray of shape (1,)
    classes_ : ndarray of shape (2,)
    """

    # liblinear penalises the intercept as one more weight; on a column of this height its penalty is divided by the height. The
    # default of 1 biases the probabilities; far higher columns upset its stopping rule, which is relative to the steepest one.
    # tests/test_classifiers.py compares this height and tolerance with an exact solution.
    _INTERCEPT_SCALING = 1e3

    def __init__(self, C: float = 1.0, tol: float = 1e-6, max_iter: int = 1000) -> None:
        self.C = C
        self.tol = tol
        self.max_iter = max_iter

    def fit(self, X: Any, y: Any) -> L1LogisticClassifier:
        """Fit to ``(n, n_features)`` data and two classes."""
        X, y = _validate(self, X, y=y)
        check_classification_targets(y)
        self.classes_ = np.unique(y)
        if len(self.classes_) > 2:
            raise ValueError(f"Only binary classification is supported. The type of the target is multiclass: {self.classes_}.")
        if len(self.classes_) < 2:
            raise ValueError(f"Classifier can't train when only one class is present: {self.classes_}.")
        # `penalty` is on its way out (1.8 deprecates, 1.10 removes it); l1_ratio=1 means the same since 1.8.
        penalty: dict[str, Any] = {"l1_ratio": 1.0} if _VERSION >= (1, 8) else {"penalty": "l1"}
        centre = X.mean(axis=0)  # a free intercept makes up for any shift; a small one is found faster and penalised less
        solver = LogisticRegression(
            C=self.C,
            solver="liblinear",
            intercept_scaling=self._INTERCEPT_SCALING,
            tol=self.tol,
            max_iter=self.max_iter,
            random_state=0,
            **penalty,
        ).fit(X - centre, y)
        self.coef_, self.n_iter_ = solver.coef_, solver.n_iter_
        start = float(solver.intercept_[0] - centre @ solver.coef_[0])
        self.intercept_ = np.array([_free_intercept(X @ self.coef_[0], y == self.classes_[1], start)])
        return self

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """Log odds of the second class, ``(n,)``."""
        check_is_fitted(self)
        X = _validate(self, X, reset=False)
        return np.asarray(X @ self.coef_[0] + self.intercept_[0])

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """``(n, 2)`` probabilities in the order of ``classes_``."""
        p = 0.5 * (1 + np.tanh(0.5 * self.decision_function(X)))  # the logistic function without overflow
        return np.column_stack([1 - p, p])

    def predict(self, X: Any) -> NDArray[Any]:
        """The most probable class of each row, ``(n,)``."""
        positive = self.decision_function(X) > 0
        return np.asarray(self.classes_[positive.astype(int)])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags

    def _more_tags(self) -> dict[str, bool]:  # scikit-learn before 1.6
        return {"binary_only": True}
