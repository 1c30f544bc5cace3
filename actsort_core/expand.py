"""Non-linear terms for recordings with few features: a line cannot say "neither too small nor too large", a sum of hinges can.

Measured on 14,058 ROIs with three features (benchmarks/few_features.py): one of them speaks for a cell in its middle range only, and
a linear model of all labels stays four points below. With many features such shapes are covered by others, and more columns only
make the first labels say less: nothing is added there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

LIMIT = 12  # features that vary; with 12 of the 76 published ones the terms cost as much as they bring, with 20 they only cost
_KNOTS = np.linspace(0.01, 0.99, 7)  # quantiles; beyond the outer ones a term is flat, so that no outlier pulls it along
_MARK = "~"


def expand(names: Sequence[str], values: NDArray[np.float32], limit: int = LIMIT) -> tuple[tuple[str, ...], NDArray[np.float32]]:
    """Add piecewise linear terms behind the columns of a table with few features.

    A feature gets its values cut off at the outer quantiles of this recording, and for each of five quantiles between them what it
    exceeds, or stays below, that quantile. The raw columns stay: standardise afterwards, which gives every term the same scale,
    and the penalty picks the few that are needed.

    Parameters
    ----------
    names
        Of the features.
    values
        ``(n, len(names))`` float32, raw; NaN and infinities are missing, in the terms too.
    limit
        With more features that vary, or terms in the table already, nothing is added.

    Returns
    -------
    names, ``(n, k)`` float32
        The given ones, then the terms: ``radius~1``, ``radius~2``... The same number is the same term in every recording, at
        that recording's quantiles. Terms that are constant there, or repeat another, are left out.
    """
    names, values = tuple(names), np.asarray(values, np.float32)
    expanded = any(stem in names and number.isdigit() for stem, mark, number in (name.rpartition(_MARK) for name in names) if mark)
    columns = [np.where(np.isfinite(column), column, np.float32(np.nan)) for column in values.T]
    varying = [i for i, column in enumerate(columns) if _spread(column) > 0]
    if expanded or not 0 < len(varying) <= limit:
        return names, values
    terms = [(f"{names[i]}{_MARK}{number}", term) for i in varying for number, term in _terms(columns[i])]
    return (*names, *(name for name, _ in terms)), np.column_stack([values, *(term for _, term in terms)])


def _spread(column: NDArray[np.float32]) -> float:
    present = column[~np.isnan(column)]
    return float(present.max()) - float(present.min()) if len(present) else 0.0


def _terms(column: NDArray[np.float32]) -> list[tuple[int, NDArray[np.float32]]]:
    """Numbered terms of one feature with missing values as NaN."""
    present = column[~np.isnan(column)]
    if ((present == present.min()) | (present == present.max())).all():
        return []  # two values: any function of them is a line
    knots = np.quantile(present.astype(np.float64), _KNOTS)
    cut = np.clip(column.astype(np.float64), knots[0], knots[-1])
    above = [np.maximum(cut - knot, 0) for knot in knots[1:-1]]
    below = [np.maximum(knot - cut, 0) for knot in knots[1:-1]]
    terms: list[tuple[int, NDArray[np.float32]]] = []
    for number, term in enumerate([cut, *above, *below], 1):
        short = term.astype(np.float32)
        if _spread(short) > 0 and not any(np.array_equal(short, other, equal_nan=True) for _, other in terms):
            terms.append((number, short))
    return terms


def feature_of(name: str) -> str:
    """The feature that a term was made from; a name that is no term is its own."""
    stem, mark, number = name.rpartition(_MARK)
    return stem if mark and number.isdigit() else name
