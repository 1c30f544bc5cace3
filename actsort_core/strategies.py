"""Which candidate to ask about next. A strategy is a pure function: state in, utility ``(n,)`` out, highest asked first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class QueryState:
    """What a strategy may look at. All arrays run over the candidates of all recordings of the session.

    Attributes
    ----------
    probability
        ``(n,)`` float64: the model's probability of ``cell``; NaN before the first fit.
    share
        Mean of `probability` (pi), the estimated share of cells.
    threshold
        Where decisions are cut at present.
    labelled
        ``(n,)`` bool: already answered, ``unsure`` included.
    rank
        ``(n,)`` int: a random permutation fixed by the session's seed.
    features
        ``(n, n_features)`` float32, scaled per recording.
    """

    probability: NDArray[np.float64]
    share: float
    threshold: float
    labelled: NDArray[np.bool_]
    rank: NDArray[np.int64]
    features: NDArray[np.float32]


@dataclass(frozen=True)
class Strategy:
    """A query strategy (register it with ``actsort_register_strategies``).

    Attributes
    ----------
    name, description
        As shown by ``actsort plugins``.
    utility
        State in, ``(n,)`` float out. Labelled candidates are left out afterwards; NaN counts as the lowest.
    needs_model
        True: until three of each class are labelled, candidates are asked at random instead (cold start).
    """

    name: str
    description: str
    utility: Callable[[QueryState], NDArray[np.float64]]
    needs_model: bool = True


def random(state: QueryState) -> NDArray[np.float64]:
    """In a random order fixed by the seed."""
    return -state.rank.astype(np.float64)


def first_to_last(state: QueryState) -> NDArray[np.float64]:
    """In file order, as a person would go through them."""
    return -np.arange(len(state.labelled), dtype=np.float64)


def cal(state: QueryState) -> NDArray[np.float64]:
    """Confidence-based active learning: ``1 - 2 |p - 0.5|`` (NeurIPS 2024 paper, section on query algorithms)."""
    return 1 - 2 * np.abs(state.probability - 0.5)


def nearest_pi(state: QueryState) -> NDArray[np.float64]:
    """The candidate nearest to pi, the mean predicted probability: where the decisions are cut by default."""
    return -np.abs(state.probability - state.share)


BUILTIN = (
    Strategy("nearest_pi", "closest to the estimated share of cells, where decisions are cut (default)", nearest_pi),
    Strategy("cal", "least confident, closest to 0.5 (published as CAL)", cal),
    Strategy("random", "in a random order", random, needs_model=False),
    Strategy("first_to_last", "in file order", first_to_last, needs_model=False),
)


def best(strategy: Strategy, state: QueryState, n: int) -> NDArray[np.int64]:
    """Positions of the `n` unlabelled candidates with the highest utility, best first; ties by the seed's random rank.

    Ties matter: candidates with equal features must not be asked in file order, or the sample would be biased.
    """
    utility = np.asarray(strategy.utility(state), np.float64)
    if utility.shape != state.labelled.shape:
        raise ValueError(f"strategy {strategy.name!r} returned shape {utility.shape} for {state.labelled.shape} candidates")
    utility = np.where(np.isnan(utility), -np.inf, utility)
    order = np.lexsort((state.rank, -utility))
    return order[~state.labelled[order]][:n]
