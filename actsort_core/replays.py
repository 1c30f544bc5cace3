"""One replay of a recorded annotator: who learns and asks (`Engine`), what happens (`steps`), how well it was decided (`scores`)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from actsort_core import engine, learn, strategies, transfer
from actsort_core.errors import UsageError

START = 3  # of each class


@dataclass(frozen=True, eq=False)
class Engine:
    """Who learns and who asks in a run: what a session would have (`engine.Setup`).

    Attributes
    ----------
    strategy, spec, by_name
        How to ask, how to learn, and all strategies there are.
    warm
        Examples from elsewhere; None: from scratch.
    audits
        Whether some questions are drawn at random with a known probability.
    seed
        Of whatever is drawn.
    """

    strategy: strategies.Strategy
    spec: learn.ClassifierSpec
    by_name: Mapping[str, strategies.Strategy]
    warm: transfer.Warm | None = None
    audits: bool = False
    seed: int = 0

    def setup(self, x: NDArray[np.float32], rank: NDArray[np.int64]) -> engine.Setup:
        """What the engine needs to know of a recording."""
        bounds = np.array([0, len(x)], np.int64)
        return engine.Setup(x, bounds, rank, self.spec, self.strategy, self.by_name, self.audits, self.seed, self.warm)


@dataclass(frozen=True, eq=False)
class Step:
    """What is known after so many labels.

    Attributes
    ----------
    n
        Labels given.
    probability, share
        ``(n_cells,)`` of being a cell, and pi.
    labelled
        ``(n_cells,)`` bool.
    asked
        ``(n,)`` candidates in the order they were asked; the first six are the starters.
    inclusion
        ``(n,)`` probability with which an audit was drawn; NaN for other questions.
    fit
        The model.
    """

    n: int
    probability: NDArray[np.floating]
    share: float
    labelled: NDArray[np.bool_]
    asked: NDArray[np.int64]
    inclusion: NDArray[np.float64]
    fit: learn.Fit


def steps(x: NDArray[np.float32], choices: NDArray[np.int8], by: Engine, seed: int, counts: Sequence[int]) -> Iterator[Step]:
    """One run: six starters, then one question at a time; a `Step` whenever the model was fitted.

    Parameters
    ----------
    x
        ``(n, n_features)`` scaled features.
    choices
        ``(n,)`` what the annotator says; candidates they said nothing about (0) are not asked.
    by
        Who learns and asks.
    seed
        Of the starters and the random order.
    counts
        Numbers of labels after which to fit, ascending: ``range(6, goal + 1)`` is the protocol. Between two of them the best
        candidates by the last fit are asked all at once. The run ends after the last, or when everything is labelled.

    Raises
    ------
    UsageError
        The annotator has less than three of a class.
    """
    rng = np.random.default_rng(seed)
    rank = np.argsort(rng.permutation(len(x)))
    labelled = choices == 0
    asked: list[int] = []
    for kind in (1, -1):
        of_kind = np.flatnonzero(choices == kind)
        if len(of_kind) < START:
            raise UsageError(f"An annotator has only {len(of_kind)} of a class; a run starts from {START} of each.")
        asked += rng.choice(of_kind, START, replace=False).tolist()
    labelled[asked] = True
    inclusion = [math.nan] * len(asked)
    setup, turn = by.setup(x, rank), None
    for count in counts:
        while len(asked) < count and not labelled.all():
            assert turn is not None, "the first fit is after the starters"
            if turn.audit is not None and not labelled[turn.audit[0]]:
                found, drawn = np.array([turn.audit[0]]), turn.audit[1]
            else:
                found, drawn = turn.best(count - len(asked), labelled), math.nan
            asked += found.tolist()
            inclusion += [drawn] * len(found)
            labelled[found] = True
        rows = np.sort(np.array(asked))
        audited = int(np.isfinite(inclusion).sum())
        known = engine.Known(rows, (choices[rows] > 0).astype(np.int8), labelled.copy(), len(asked) - 2 * START, audited)
        turn = engine.turn(setup, known, None if turn is None else turn.fit)
        assert turn.fit is not None, "six labels, three of each class, are enough"
        yield Step(
            len(asked), turn.fit.probability, turn.fit.share, labelled & (choices != 0), np.array(asked), np.array(inclusion), turn.fit
        )
        if labelled.all():
            return


def replay(
    x: NDArray[np.float32],
    choices: NDArray[np.int8],
    strategy: strategies.Strategy,
    spec: learn.ClassifierSpec,
    by_name: Mapping[str, strategies.Strategy],
    seed: int,
    goal: int,
) -> Iterator[tuple[int, NDArray[np.floating], NDArray[np.bool_]]]:
    """`steps` of a bare strategy and classifier by the protocol: labels given, probabilities of all candidates, who is labelled.

    Parameters
    ----------
    x, choices, seed
        As for `steps`.
    strategy, spec, by_name
        How to ask, how to learn, and all strategies there are.
    goal
        How many labels to give.
    """
    for step in steps(x, choices, Engine(strategy, spec, by_name), seed, range(2 * START, goal + 1)):
        yield step.n, step.probability, step.labelled


def scores(accepted: NDArray[np.bool_], truth: NDArray[np.int8]) -> dict[str, float]:
    """Balanced accuracy, precision, recall and F1 of decisions against a truth (0 there: left out)."""
    cell, other = truth > 0, truth < 0
    tp, fp = int((accepted & cell).sum()), int((accepted & other).sum())
    recall = tp / max(1, int(cell.sum()))
    specificity = 1 - fp / max(1, int(other.sum()))
    precision = tp / max(1, tp + fp)
    f1 = 2 * precision * recall / max(precision + recall, 1e-12)
    return {"balanced_accuracy": (recall + specificity) / 2, "precision": precision, "recall": recall, "f1": f1}


def auc(p: NDArray[np.floating], truth: NDArray[np.int8]) -> float:
    """Area under the ROC curve: how often a cell gets a higher probability than a not-cell (ties count half)."""
    known = truth != 0
    cell = truth[known] > 0
    return transfer.auc(p[known], cell.astype(np.int8)) if cell.any() and not cell.all() else math.nan


def calibration_error(p: NDArray[np.floating], said: NDArray[np.int8], bins: int = 10) -> float:
    """Expected calibration error: how far the mean probability is from the share of cells, in bins of equal width, by their size.

    Parameters
    ----------
    p
        ``(n,)`` probabilities of being a cell.
    said
        ``(n,)`` labels, 1, -1; 0 is left out.
    """
    known = said != 0
    if not known.any():
        return math.nan
    p, cell = p[known], said[known] > 0
    place = np.minimum((p * bins).astype(np.int64), bins - 1)
    gap = np.bincount(place, p, bins) - np.bincount(place, cell, bins)
    return float(np.abs(gap).sum() / len(p))
