"""Learning from examples of other recordings: how much they count, and when they are not to be believed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

if TYPE_CHECKING:
    from actsort_core.classifiers import L1AdaptiveClassifier
    from actsort_core.warm import Examples

LIMIT = 1000  # more examples bring nothing but time (benchmarks/engine.py)
TOTAL = 60.0  # the weight of all examples together, in own labels: what 60 labels outweigh
PREDICTABLE = 0.65  # AUC: labels that their own features cannot tell apart better than this are noise (less is asked of few labels)
FOLDS = 5
SAMPLED = 1000  # candidates that tell where the examples' model draws its line
SURE = 3.0  # log odds: no label is believed to be more certain than that
AGAINST, AGAINST_EACH, FEW = -2.0, 0.03, 20  # log likelihood ratio that drops the examples, lower for each label beyond the first twenty
ALIKE = 10  # own labels of one class that may speak against the examples: good ones find the other kind within nine questions


@dataclass(frozen=True, eq=False)
class Warm:
    """Examples from elsewhere in the columns of a session's table, ready to be fitted beside its labels.

    Attributes
    ----------
    source
        Where they come from, for messages.
    x
        ``(m, n_features)`` float32, scaled by their own recording.
    y
        ``(m,)`` int8: 1 cell, 0 not a cell.
    weight
        ``(m,)`` float64: cells and not-cells weigh the same together, all of them `TOTAL` at most, and no more than own labels would.
    model
        Fitted on them alone.
    """

    source: str
    x: NDArray[np.float32]
    y: NDArray[np.int8]
    weight: NDArray[np.float64]
    model: L1AdaptiveClassifier


def prepare(examples: Examples, names: Sequence[str], versions: Mapping[str, int | None]) -> tuple[Warm | None, str]:
    """Make examples ready for a table, unless their labels are noise.

    Parameters
    ----------
    examples
        Of one or several recordings.
    names, versions
        Of the table's features.

    Returns
    -------
    The warm start, or None; and what the person should know, or "".

    Raises
    ------
    UsageError
        They have no feature in common with the table.
    """
    notes = list(examples.check_match(names, versions))
    x, _ = examples.matched(names, versions)
    y = examples.y
    kinds = [np.flatnonzero(y == kind) for kind in (1, 0)]
    few = min(map(len, kinds))
    if few < FOLDS:
        said = (
            f"The warm start {examples.source} was left out: it has {len(kinds[0])} cells and {len(kinds[1])} not-cells, too few of a kind."
        )
        return None, " ".join([*notes, said])
    rng = np.random.default_rng(0)
    if len(y) > LIMIT:  # as many of each kind as there are, at most half
        small = min(few, LIMIT // 2)
        sizes = [min(len(rows), LIMIT - small) for rows in kinds]
        kinds = [rng.permutation(rows)[:size] for rows, size in zip(kinds, sizes, strict=True)]
    rows = np.sort(np.concatenate(kinds))
    x, y = x[rows], y[rows]
    cells, others = int((y == 1).sum()), int((y == 0).sum())
    weight = np.where(y == 1, 0.5 / cells, 0.5 / others) * min(TOTAL, len(y))
    score = _held_out(x, y, weight, rng.permutation(len(y)) % FOLDS)
    found = auc(score, y)
    # Labels of an earlier session were chosen for being hard, and few of them say little: a standard error is granted.
    if found < max(0.5, PREDICTABLE - float(np.sqrt((len(y) + 1) / (12 * cells * others)))):
        said = (
            f"The warm start {examples.source} was left out: its own features do not tell its labels apart (AUC {found:.2f}). "
            "Are the labels in the order of the candidates?"
        )
        return None, " ".join([*notes, said])
    return Warm(examples.source, x, y, weight, _model(x, y, weight)), " ".join(notes)


def _model(x: NDArray[np.float32], y: NDArray[np.int8], weight: NDArray[np.float64]) -> L1AdaptiveClassifier:
    from actsort_core.classifiers import L1AdaptiveClassifier, least

    return L1AdaptiveClassifier(C=least(x.shape[1])).fit(x, y, sample_weight=weight)


def _held_out(x: NDArray[np.float32], y: NDArray[np.int8], weight: NDArray[np.float64], fold: NDArray[np.int64]) -> NDArray[np.float64]:
    """Log odds of each row by a model that did not see its fold; 0 where the others are of one class only."""
    out = np.zeros(len(y))
    for i in range(FOLDS):
        rest = fold != i
        if len(np.unique(y[rest])) == 2:
            out[~rest] = _model(x[rest], y[rest], weight[rest]).decision_function(x[~rest])
    return out


def auc(score: NDArray[np.floating], y: NDArray[np.int8]) -> float:
    """Area under the ROC curve; .5 where there is one class only."""
    cells, others = int((y == 1).sum()), int((y == 0).sum())
    if not cells or not others:
        return 0.5
    return float((rankdata(score)[y == 1].sum() - cells * (cells + 1) / 2) / (cells * others))


def contradicted(warm: Warm, x: NDArray[np.float32], rows: NDArray[np.int64], y: NDArray[np.int8]) -> bool:
    """Whether the own labels speak against the examples.

    They do where labels are clearly less probable given the scores of a model of the examples than given nothing but their own share of
    cells; wherever that model's line is (recordings differ in it). Labels next to the line, which are what a model asks for, say
    little either way, so that they do not drop good examples. On the annotated recordings the log likelihood ratio of good examples stays
    above -1 up to 20 labels and nearly always above the limit later; inverted labels fall below it within 6 to 40, mixed-up features
    within 20 to 40 (benchmarks/engine.py shows what comes of it).

    Parameters
    ----------
    warm
        The examples.
    x
        ``(n, n_features)`` scaled features of all candidates.
    rows, y
        ``(n_labels,)`` the own labels. With one class only they speak against the examples where there are `ALIKE` of them, and the
        examples' model would have said the opposite of most: its questions move towards the other kind with every answer, and find none.
    """
    few = min(int((y == 1).sum()), int((y == 0).sum()))
    if few == 0 and len(y) < ALIKE:
        return False
    score = warm.model.log_odds(x[:: max(1, len(x) // SAMPLED)]).astype(np.float64)
    d = np.clip(warm.model.log_odds(x[rows]).astype(np.float64) - np.median(score), -SURE, SURE)
    sign = np.where(y == 1, 1.0, -1.0)
    if few == 0:
        return float(np.median(sign * d)) < 0
    ratio = _likelihood(d, sign) - _likelihood(np.zeros(len(y)), sign)
    return ratio < AGAINST - AGAINST_EACH * max(0, len(y) - FEW)


def _likelihood(d: NDArray[np.float64], sign: NDArray[np.float64]) -> float:
    """Of the labels given log odds `d`, with the shift that suits them best."""
    shifts = np.linspace(-5, 5, 101)
    return float(-np.logaddexp(0, -sign * (d + shifts[:, None])).sum(axis=1).min())


def fit_with(
    warm: Warm,
    x: NDArray[np.float32],
    y: NDArray[np.int8],
    groups: NDArray[np.int64] | None = None,
    n_groups: int = 1,
    start: L1AdaptiveClassifier | None = None,
    model: L1AdaptiveClassifier | None = None,
) -> L1AdaptiveClassifier:
    """Fit `model` (default: the engine's own) on own labels (there may be none) and the examples, which have an intercept of their own."""
    from actsort_core.classifiers import L1AdaptiveClassifier

    own = np.zeros(len(y), np.int64) if groups is None else groups
    return (L1AdaptiveClassifier() if model is None else model).learn(
        np.concatenate([x, warm.x]),
        np.concatenate([y, warm.y]),
        np.concatenate([np.ones(len(y)), warm.weight]),
        np.concatenate([own, np.full(len(warm.y), -1)]),
        n_groups,
        start,
    )
