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

    # liblinear penalises the intercept as one more weight; on a column of this height its penalty is divided by the height.
    # At 1e4 with a tight tolerance probabilities are within 1e-4 of an exact solution (tests/test_classifiers.py); at the
    # default of 1 they are up to .1 off.
    _INTERCEPT_SCALING = 1e4

    def __init__(self, C: float = 1.0, tol: float = 1e-7, max_iter: int = 10_000) -> None:
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
        solver = LogisticRegression(
            C=self.C,
            solver="liblinear",
            intercept_scaling=self._INTERCEPT_SCALING,
            tol=self.tol,
            max_iter=self.max_iter,
            random_state=0,
            **penalty,
        ).fit(X, y)
        self.coef_, self.intercept_, self.n_iter_ = solver.coef_, solver.intercept_, solver.n_iter_
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
