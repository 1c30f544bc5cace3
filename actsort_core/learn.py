"""From labels and a feature table to a probability for every candidate. Light to import: scikit-learn enters only with a fit."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from actsort_core import expand, scoring
from actsort_core.errors import PluginError

if TYPE_CHECKING:
    from actsort_core.transfer import Warm

CLIP = 5.0  # z-scores beyond five deviations are outliers of the measurement, not more of the same evidence (LEARNING.md)
_BLOCK = 1 << 22  # values scaled at a time


class Classifier(Protocol):
    """What is asked of a classifier: scikit-learn's binary contract."""

    def fit(self, X: NDArray[np.float32], y: NDArray[np.int8]) -> Any:
        """Learn from ``(n, n_features)`` scaled features and labels, 1 cell, 0 not a cell."""

    def predict_proba(self, X: NDArray[np.float32]) -> NDArray[np.float64]:
        """``(n, 2)`` probabilities in the order of ``classes_``."""


@dataclass(frozen=True)
class ClassifierSpec:
    """A classifier by name (register it with ``actsort_register_classifiers``).

    Attributes
    ----------
    name, description
        As shown by ``actsort plugins``.
    make
        Makes an unfitted classifier; heavy imports belong inside it.
    engine
        True for one with the interface of `classifiers.L1AdaptiveClassifier`: it takes the recording of each row, examples from
        elsewhere and a start, and gives log odds in float32.
    """

    name: str
    description: str
    make: Callable[[], Classifier]
    engine: bool = False


@dataclass(frozen=True, eq=False)
class Fit:
    """A fitted model's view of all candidates.

    Attributes
    ----------
    score
        ``(n,)`` log odds of being a cell, as the model says (not calibrated).
    probability
        ``(n,)`` the same as probabilities in [0, 1].
    shares
        ``(n_recordings,)`` float64: mean probability over each recording, the estimated share of cells, pi.
    bounds
        ``(n_recordings + 1,)`` where each recording begins and the last ends.
    n_labels
        Own labels used.
    seq
        Number of the last journal event it knew.
    model
        The fitted classifier.
    warm
        Whether examples from elsewhere were learned from.
    """

    score: NDArray[np.floating]
    probability: NDArray[np.floating]
    shares: NDArray[np.float64]
    bounds: NDArray[np.int64]
    n_labels: int
    seq: int
    model: Any = field(default=None, repr=False)
    warm: bool = False

    @property
    def share(self) -> float:
        """Mean probability over all candidates."""
        sizes = np.diff(self.bounds)
        return float(self.shares @ sizes / max(1, sizes.sum()))

    @property
    def line(self) -> NDArray[np.float64] | float:
        """Pi as a probability: one number, or ``(n,)`` where there are several recordings."""
        return float(self.shares[0]) if len(self.shares) == 1 else np.repeat(self.shares, np.diff(self.bounds))

    def distance(self) -> NDArray[np.floating]:
        """``(n,)``: log odds minus those of pi of the candidate's recording; positive is predicted cell by default."""
        cut = log_odds_of(self.shares)
        out = self.score - self.score.dtype.type(cut[0]) if len(cut) == 1 else self.score - np.repeat(cut, np.diff(self.bounds))
        return np.asarray(out)


def log_odds_of(p: NDArray[np.floating] | float) -> NDArray[np.float64]:
    """``log(p / (1 - p))``, finite also where p is 0 or 1."""
    clipped = np.clip(np.asarray(p, np.float64), 1e-12, 1 - 1e-12)
    return np.asarray(np.log(clipped) - np.log1p(-clipped))


def standardise(table: NDArray[np.float32], clip: bool = True) -> NDArray[np.float32]:
    """Scale the features of one recording: median for missing values, z-score (N - 1), clipped at +-5.

    Parameters
    ----------
    table
        ``(n_cells, n_features)`` float32; NaN and infinities are missing values.
    clip
        False: plain z-scores, as published.

    Returns
    -------
    ``(n_cells, n_features)`` float32. A constant column, or one that is missing altogether, becomes zero: the public MATLAB
    code divides constant columns by one (LEARNING.md, "The published method, exactly").
    """
    table = np.asarray(table)
    n, k = table.shape
    out = np.empty((n, k), np.float32)
    # A few columns at a time, or the copies in float64 would take several times the memory of the table. Never a single one of
    # several: NumPy adds up the rows of a lone column in another order, and the last digits would depend on the blocks.
    width = max(2, _BLOCK // max(1, n))
    for first, end in itertools.pairwise([*range(0, max(k - 1, 1), width), k]):
        out[:, first:end] = _standardised(np.array(table[:, first:end], np.float64), clip)
    return out


def _standardised(out: NDArray[np.float64], clip: bool) -> NDArray[np.float64]:
    """`standardise` some columns in place."""
    missing = ~np.isfinite(out)
    out[missing] = np.nan
    some = ~missing.all(axis=0)
    median = np.zeros(out.shape[1])
    if some.any():
        median[some] = np.nanmedian(out if some.all() else out[:, some], axis=0)
    np.copyto(out, median, where=missing)
    # Scaling by the largest magnitude first keeps squares of float32-sized values from overflowing.
    out /= np.maximum(np.abs(out).max(axis=0, initial=0), 1e-300)
    out -= out.mean(axis=0) if len(out) else 0
    std = out.std(axis=0, ddof=1) if len(out) > 1 else np.zeros(out.shape[1])
    constant = std < 1e-12  # rounding noise of a constant column is not evidence
    out /= np.where(constant, 1, std)
    out[:, constant] = 0
    return np.clip(out, -CLIP, CLIP, out=out) if clip else out


def enough(y: NDArray[np.int8]) -> bool:
    """Whether a model may speak: three of each class, or, where one class is rare, one of each among thirty."""
    positive = int((y == 1).sum())
    rare = min(positive, len(y) - positive)
    return rare >= 3 or (rare >= 1 and len(y) >= 30)


def fit(
    spec: ClassifierSpec,
    x: NDArray[np.float32],
    rows: NDArray[np.int64],
    y: NDArray[np.int8],
    seq: int = 0,
    *,
    bounds: NDArray[np.int64] | None = None,
    warm: Warm | None = None,
    previous: Fit | None = None,
) -> Fit:
    """Fit on the labelled `rows` of `x` and score every row.

    Parameters
    ----------
    spec
        Which classifier.
    x
        ``(n, n_features)`` scaled features of all candidates of the session.
    rows, y
        ``(n_labels,)`` positions and classes (1 cell, 0 not a cell).
    seq
        Kept in the result: which journal event this fit knows.
    bounds
        ``(n_recordings + 1,)`` where each recording begins and the last ends; default: all rows are one recording.
    warm
        Examples from elsewhere, for classifiers of the engine's kind.
    previous
        An earlier fit to start from; the result does not depend on it.

    Raises
    ------
    PluginError
        The classifier did not return one probability per candidate.
    """
    edges = np.array([0, len(x)], np.int64) if bounds is None else bounds
    if spec.engine:
        return _fit_engine(spec, x, rows, y, seq, edges, warm, previous)
    model = spec.make()
    model.fit(x[rows], y)
    proba = np.asarray(model.predict_proba(x), np.float64)
    if proba.shape != (len(x), 2) or not np.isfinite(proba).all():
        raise PluginError(
            f"Classifier {spec.name!r} returned probabilities of shape {proba.shape} (or not finite) for {len(x)} candidates.",
            "Choose another with --classifier.",
        )
    probability = np.clip(proba[:, 1], 0, 1)
    return Fit(log_odds_of(probability), probability, _shares(probability, edges), edges, len(rows), seq, model)


def _fit_engine(
    spec: ClassifierSpec,
    x: NDArray[np.float32],
    rows: NDArray[np.int64],
    y: NDArray[np.int8],
    seq: int,
    bounds: NDArray[np.int64],
    warm: Warm | None,
    previous: Fit | None,
) -> Fit:
    """`fit` by the engine: what it costs beyond one pass over the table is a matter of milliseconds."""
    from actsort_core import transfer

    start: Any = None if previous is None else previous.model
    n_groups = len(bounds) - 1
    groups = np.searchsorted(bounds, rows, side="right") - 1
    model: Any = spec.make()
    if warm is None:
        model.learn(x[rows], y, None, groups if n_groups > 1 else None, n_groups, start)
    else:
        model = transfer.fit_with(warm, x[rows], y, groups, n_groups, start, model)
    score = model.log_odds(x)
    for i in range(n_groups if n_groups > 1 else 0):
        score[bounds[i] : bounds[i + 1]] += np.float32(model.offsets_[i])
    probability = scoring.probability(score)
    return Fit(score, probability, _shares(probability, bounds), bounds, len(rows), seq, model, warm is not None)


def _shares(probability: NDArray[np.floating], bounds: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean probability of each recording; .5 for one without candidates."""
    return np.array([probability[a:b].mean(dtype=np.float64) if b > a else 0.5 for a, b in itertools.pairwise(bounds)])


def stack(tables: Sequence[tuple[Sequence[str], NDArray[np.float32]]]) -> tuple[tuple[str, ...], NDArray[np.float32]]:
    """Scale the tables of several recordings each by itself and put them below each other.

    Parameters
    ----------
    tables
        ``(names, (n_cells, n_features) values)`` per recording. A feature that a recording lacks is 0 there (its average); tables
        with few features get non-linear terms (`expand.expand`).

    Returns
    -------
    names, ``(n, n_features)`` float32
        The union of the names in order of appearance.
    """
    grown = [expand.expand(names, values) for names, values in tables]
    if any(len(more) == len(names) for (more, _), (names, _) in zip(grown, tables, strict=True)):
        grown = [(tuple(names), values) for names, values in tables]  # all or none: a term that only one recording has says nothing
    names = tuple(dict.fromkeys(name for columns, _ in grown for name in columns))
    if len(grown) == 1:
        return names, standardise(grown[0][1])
    place = {name: i for i, name in enumerate(names)}
    out = np.zeros((sum(len(values) for _, values in grown), len(names)), np.float32)
    start = 0
    for columns, values in grown:
        out[start : start + len(values), [place[name] for name in columns]] = standardise(values)
        start += len(values)
    return names, out
