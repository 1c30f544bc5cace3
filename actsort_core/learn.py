"""From labels and a feature table to a probability for every candidate. Light to import: scikit-learn enters only with a fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from actsort_core.errors import PluginError

CLIP = 5.0  # z-scores beyond five deviations are outliers of the measurement, not more of the same evidence (LEARNING.md)


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
    """

    name: str
    description: str
    make: Callable[[], Classifier]


@dataclass(frozen=True, eq=False)
class Fit:
    """A fitted model's view of all candidates.

    Attributes
    ----------
    probability
        ``(n,)`` float64.
    share
        Mean probability over all candidates: the estimated share of cells, pi.
    n_labels
        Labels used.
    seq
        Number of the last journal event it knew.
    model
        The fitted classifier, None before there is one.
    """

    probability: NDArray[np.float64]
    share: float
    n_labels: int
    seq: int
    model: Any = field(default=None, repr=False)


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
    out = np.array(table, np.float64)
    out[~np.isfinite(out)] = np.nan
    present = ~np.isnan(out)
    some = present.any(axis=0)
    median = np.zeros(out.shape[1])
    if some.any():
        median[some] = np.nanmedian(out[:, some], axis=0)
    out = np.where(present, out, median)
    # Scaling by the largest magnitude first keeps squares of float32-sized values from overflowing.
    out /= np.maximum(np.abs(out).max(axis=0, initial=0), 1e-300)
    out -= out.mean(axis=0) if len(out) else 0
    std = out.std(axis=0, ddof=1) if len(out) > 1 else np.zeros(out.shape[1])
    constant = std < 1e-12  # rounding noise of a constant column is not evidence
    z = np.where(constant, 0, out / np.where(constant, 1, std))
    return (np.clip(z, -CLIP, CLIP) if clip else z).astype(np.float32)


def enough(y: NDArray[np.int8]) -> bool:
    """Whether a model may speak: three of each class, or, where one class is rare, one of each among thirty."""
    positive = int((y == 1).sum())
    rare = min(positive, len(y) - positive)
    return rare >= 3 or (rare >= 1 and len(y) >= 30)


def fit(spec: ClassifierSpec, x: NDArray[np.float32], rows: NDArray[np.int64], y: NDArray[np.int8], seq: int = 0) -> Fit:
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

    Raises
    ------
    PluginError
        The classifier did not return one probability per candidate.
    """
    model = spec.make()
    model.fit(x[rows], y)
    proba = np.asarray(model.predict_proba(x), np.float64)
    if proba.shape != (len(x), 2) or not np.isfinite(proba).all():
        raise PluginError(
            f"Classifier {spec.name!r} returned probabilities of shape {proba.shape} (or not finite) for {len(x)} candidates.",
            "Choose another with --classifier.",
        )
    probability = np.clip(proba[:, 1], 0, 1)
    return Fit(probability, float(probability.mean()), len(rows), seq, model)


def stack(tables: Sequence[tuple[Sequence[str], NDArray[np.float32]]]) -> tuple[tuple[str, ...], NDArray[np.float32]]:
    """Scale the tables of several recordings each by itself and put them below each other.

    Parameters
    ----------
    tables
        ``(names, (n_cells, n_features) values)`` per recording. A feature that a recording lacks is 0 there (its average).

    Returns
    -------
    names, ``(n, n_features)`` float32
        The union of the names in order of appearance.
    """
    names = tuple(dict.fromkeys(name for columns, _ in tables for name in columns))
    place = {name: i for i, name in enumerate(names)}
    blocks = []
    for columns, values in tables:
        block = np.zeros((len(values), len(names)), np.float32)
        block[:, [place[name] for name in columns]] = standardise(values)
        blocks.append(block)
    return names, np.concatenate(blocks) if blocks else np.zeros((0, 0), np.float32)
