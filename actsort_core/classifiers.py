"""The classifiers, and the one place that knows scikit-learn's versions."""

from __future__ import annotations

from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np
import sklearn
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from actsort_core import scoring, solver

_VERSION = tuple(int(part) for part in sklearn.__version__.split(".")[:2])


def _validate(estimator: Any, x: Any, **arguments: Any) -> Any:
    """Check input and record ``n_features_in_``: a function since scikit-learn 1.6, a method before."""
    if _VERSION >= (1, 6):
        from sklearn.utils.validation import validate_data

        return validate_data(estimator, x, dtype=np.float64, **arguments)
    return estimator._validate_data(x, dtype=np.float64, **arguments)


class _L1Linear(ClassifierMixin, BaseEstimator):  # type: ignore[misc] # scikit-learn has no types
    """What the linear classifiers share once they are fitted."""

    def _check_targets(self, y: Any) -> None:
        check_classification_targets(y)
        self.classes_ = np.unique(y)
        if len(self.classes_) > 2:
            raise ValueError(f"Only binary classification is supported. The type of the target is multiclass: {self.classes_}.")
        if len(self.classes_) < 2:
            raise ValueError(f"Classifier can't train when only one class is present: {self.classes_}.")

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


class L1LogisticClassifier(_L1Linear):
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

    def __init__(self, C: float = 1.0, tol: float = 1e-9, max_iter: int = 200) -> None:
        self.C = C
        self.tol = tol
        self.max_iter = max_iter

    def fit(self, X: Any, y: Any) -> L1LogisticClassifier:
        """Fit to ``(n, n_features)`` data and two classes."""
        X, y = _validate(self, X, y=y)
        self._check_targets(y)
        # Not scikit-learn's liblinear: it penalises the intercept, and what it finds is off by enough to ask other questions.
        positive = (y == self.classes_[1]).astype(np.float64)
        w, b = solver.solve(X, positive, np.ones(len(y)), 1 / self.C, None, self.tol, self.max_iter)
        self.coef_, self.intercept_, self.n_iter_ = w[None, :], np.array([b]), 1
        return self


FEW, MANY = 30, 76  # features
C_FIRST, C_LAST = (1.0, 0.5), (0.5, 0.3)  # with few and with many features
EARLY, ENOUGH = 30, 70  # own labels: up to the first as at the start, from the second on one model with C = least
MEMBERS = 5  # models that are averaged at the start
SPREAD = 0.6  # deviation of the logarithm of their penalties
SOURCE_OFFSET = 0.05  # penalty of the offset of examples from elsewhere: next to free, but bounded while all own labels are of one class
SHARED_OFFSET = 0.1  # penalty of an own recording's offset from the common intercept: shares of cells may differ a lot


def progress(n_labels: float) -> float:
    """How far the way from the first labels (0) to many (1) has been gone: linear in the logarithm of their number."""
    return float(np.clip((np.log(max(n_labels, 1.0)) - np.log(EARLY)) / (np.log(ENOUGH) - np.log(EARLY)), 0, 1))


def strength(n_labels: float, n_features: int) -> float:
    """C of the default engine after so many labels on so many features.

    LEARNING.md: with 76 features C = .3 beats 1 from about .5 % of the labels on, and loses below; of a mean of several models .5 is
    best there. With 20 to 30 of them twice as much does as well, and on the toolkits' own simulated results, whose truth knows no doubt,
    better. `benchmarks/engine.py` prints the comparison.
    """
    first = _between(C_FIRST, n_features)
    return first + (least(n_features) - first) * progress(n_labels)


def least(n_features: int) -> float:
    """C with many labels."""
    return _between(C_LAST, n_features)


def _between(ends: tuple[float, float], n_features: int) -> float:
    """The first up to `FEW` features, the second from `MANY` on, in between linear in the logarithm of their number."""
    way = (np.log(max(n_features, 1)) - np.log(FEW)) / (np.log(MANY) - np.log(FEW))
    return float(ends[0] + (ends[1] - ends[0]) * np.clip(way, 0, 1))


@lru_cache(maxsize=8)
def _levels(n_features: int) -> NDArray[np.float64]:
    """Logarithms of the members' penalties in deviations, ``(MEMBERS, n_features)``: to every feature each level once, dealt at random."""
    rng = np.random.default_rng(0)
    levels = [NormalDist().inv_cdf((i + 0.5) / MEMBERS) for i in range(MEMBERS)]
    dealt = np.tile(levels, (n_features, 1))
    return np.asarray(rng.permuted(dealt, axis=1).T)


class L1AdaptiveClassifier(_L1Linear):
    """L1 logistic regression whose strength follows the number of labels: the classifier of the default engine.

    It minimises ``sum_i weight_i * log loss_i + |w|_1 / C`` with a free intercept, and, where rows come from several recordings, an
    offset for each: recordings differ in their share of cells more than in what a cell looks like.

    An L1 penalty picks one of several features that say the same, and with a dozen labels chance decides which. Therefore the model
    is at first the mean of several, each of which has other penalties (as in stability selection: Meinshausen & Buehlmann 2010, "the
    randomised lasso"); they become alike as labels come in, and from `ENOUGH` on there is one. A mean of linear models is a linear model.

    Parameters
    ----------
    C
        Inverse strength of the penalty of a single model; None: `strength` of the numbers of labels and features and the mean of
        `MEMBERS` models, or `least` and a single one where there are examples from elsewhere.
    spread
        Deviation of the logarithm of the members' penalties at the start; 0: always a single model.
    tol, max_iter
        Of the solver (`solver.solve`).

    Attributes
    ----------
    coef_ : ndarray of shape (1, n_features)
    intercept_ : ndarray of shape (1,)
    offsets_ : ndarray of shape (n_groups,)
        Added to the intercept in each own recording.
    C_ : float
        As used.
    classes_ : ndarray of shape (2,)
    """

    def __init__(self, C: float | None = None, spread: float = SPREAD, tol: float = 1e-9, max_iter: int = 200) -> None:
        self.C = C
        self.spread = spread
        self.tol = tol
        self.max_iter = max_iter

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        groups: NDArray[np.int64] | None = None,
        n_groups: int = 1,
        start: L1AdaptiveClassifier | None = None,
    ) -> L1AdaptiveClassifier:
        """Fit to ``(n, n_features)`` data and two classes.

        Parameters
        ----------
        X, y
            Features and classes.
        sample_weight
            ``(n,)``, default 1; rows of weight 0 are left out.
        groups
            ``(n,)`` int: 0 to `n_groups` - 1 for the own recordings, -1, -2... for examples from elsewhere, each with an intercept of
            their own. Default: all are of one recording.
        n_groups
            How many own recordings there are.
        start
            The same classifier fitted before, to start from.
        """
        X, y = _validate(self, X, y=y)
        self._check_targets(y)
        weight = np.ones(len(y)) if sample_weight is None else np.broadcast_to(np.asarray(sample_weight, np.float64), (len(y),))
        if weight.min() < 0 or not np.isfinite(weight).all():
            raise ValueError("sample_weight must be finite and not negative.")
        kept = weight > 0
        positive = y == self.classes_[1]
        if len(np.unique(positive[kept])) < 2:
            raise ValueError("Classifier can't train when one class has a sample_weight of zero everywhere.")
        group = None if groups is None else np.asarray(groups, np.int64)[kept]
        return self._learn(X[kept], positive[kept], weight[kept], group, n_groups, start)

    def learn(
        self,
        X: NDArray[np.float32],
        y: NDArray[np.int8],
        weight: NDArray[np.float64] | None = None,
        groups: NDArray[np.int64] | None = None,
        n_groups: int = 1,
        start: L1AdaptiveClassifier | None = None,
    ) -> L1AdaptiveClassifier:
        """`fit` after every label: classes 1 and 0, weights positive, and nothing checked, which would take longer than the fit."""
        self.classes_ = np.array([0, 1])
        self.n_features_in_ = X.shape[1]
        return self._learn(X.astype(np.float64), y == 1, np.ones(len(y)) if weight is None else weight, groups, n_groups, start)

    def _learn(
        self,
        X: NDArray[np.float64],
        positive: NDArray[np.bool_],
        weight: NDArray[np.float64],
        groups: NDArray[np.int64] | None,
        n_groups: int,
        start: L1AdaptiveClassifier | None,
    ) -> L1AdaptiveClassifier:
        if groups is None and n_groups > 1:
            groups = np.zeros(len(X), np.int64)
        n_sources = 0 if groups is None else max(0, -int(groups.min()))
        own = float((weight if groups is None else weight[groups >= 0]).sum())
        alone = self.C is not None or n_sources > 0
        self.C_ = self.C if self.C is not None else (least(X.shape[1]) if n_sources else strength(own, X.shape[1]))
        spread = 0.0 if alone else self.spread * (1 - progress(own))
        n_offsets = n_groups if n_groups > 1 else 0
        columns = [groups == i for i in (*range(n_offsets), *range(-1, -1 - n_sources, -1))] if groups is not None else []
        design = np.column_stack([X, *columns]) if columns else X
        penalty = np.concatenate([np.full(X.shape[1], 1 / self.C_), np.full(n_offsets, SHARED_OFFSET), np.full(n_sources, SOURCE_OFFSET)])
        factors = np.exp(spread * _levels(X.shape[1])) if spread > 0 else np.ones((1, X.shape[1]))
        before: list[tuple[NDArray[np.float64], float]] = getattr(start, "_solutions", [])
        if before and len(before[0][0]) != len(penalty):
            before = []
        self._solutions: list[tuple[NDArray[np.float64], float]] = []
        for i, factor in enumerate(factors):
            first = before[min(i, len(before) - 1)] if before else (self._solutions[-1] if self._solutions else None)
            own_penalty = np.concatenate([penalty[: X.shape[1]] * factor, penalty[X.shape[1] :]])
            self._solutions.append(solver.solve(design, positive.astype(np.float64), weight, own_penalty, first, self.tol, self.max_iter))
        w = np.mean([w for w, _ in self._solutions], axis=0)
        b = float(np.mean([b for _, b in self._solutions]))
        self.n_iter_ = 1
        self.coef_, self.intercept_ = w[None, : X.shape[1]].copy(), np.array([b])
        self.offsets_ = w[X.shape[1] : X.shape[1] + n_offsets].copy() if n_offsets else np.zeros(n_groups)
        return self

    def log_odds(self, X: NDArray[np.float32]) -> NDArray[np.float32]:
        """Log odds of the second class in float32, ``(n,)``, offsets left out: one pass over the table, nothing checked."""
        return scoring.score(X, self.coef_[0], float(self.intercept_[0]))
