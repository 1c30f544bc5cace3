"""One turn of the loop, without files: labels in; a model, and what to ask next, out. Sessions and the benchmark turn the same one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from actsort_core import audits, learn, strategies
from actsort_core.transfer import Warm, contradicted


@dataclass(frozen=True, eq=False)
class Setup:
    """What does not change from turn to turn.

    Attributes
    ----------
    x
        ``(n, n_features)`` float32 scaled features of all candidates.
    bounds
        ``(n_recordings + 1,)`` where each recording begins and the last ends.
    rank
        ``(n,)`` int: a random permutation fixed by the seed.
    classifier, strategy, registered
        Who learns, who asks, and all strategies there are (for cold starts).
    audits
        Whether some questions (`audits.due`) are drawn at random with a known probability.
    seed
        Of these draws.
    warm
        Examples from elsewhere.
    """

    x: NDArray[np.float32]
    bounds: NDArray[np.int64]
    rank: NDArray[np.int64]
    classifier: learn.ClassifierSpec
    strategy: strategies.Strategy
    registered: Mapping[str, strategies.Strategy]
    audits: bool = False
    seed: int = 0
    warm: Warm | None = None


@dataclass(frozen=True, eq=False)
class Known:
    """The labels that a turn shall know.

    Attributes
    ----------
    rows, y
        ``(n_labels,)`` positions, ascending, and classes (1 cell, 0 not a cell).
    labelled
        ``(n,)`` bool: already answered, ``unsure`` included.
    answered, audited
        How many questions of the model were answered, and how many of these were audits.
    threshold
        Where decisions are cut at present; None for pi.
    seq
        Number of the last journal event.
    """

    rows: NDArray[np.int64]
    y: NDArray[np.int8]
    labelled: NDArray[np.bool_]
    answered: int = 0
    audited: int = 0
    threshold: float | None = None
    seq: int = 0


@dataclass(frozen=True, eq=False)
class Turn:
    """What one turn found.

    Attributes
    ----------
    fit
        The model; None while there are too few labels.
    strategy, reason
        Which strategy asks now, and what the journal gives as reason for its questions.
    audit
        The candidate to ask first, drawn at random, and the probability it was drawn with; None where the strategy's turn is.
    note
        What the person should know, or "".
    known
        The labels it knew.
    """

    fit: learn.Fit | None
    strategy: str
    reason: str
    audit: tuple[int, float] | None
    note: str
    known: Known = field(repr=False)
    _strategy: strategies.Strategy = field(repr=False)
    _state: strategies.QueryState = field(repr=False)

    @cached_property
    def _utility(self) -> NDArray[np.floating]:
        return strategies.utility(self._strategy, self._state)

    def best(self, n: int, labelled: NDArray[np.bool_]) -> NDArray[np.int64]:
        """The `n` candidates to ask next by the strategy, best first, without those `labelled` by now."""
        return strategies.top(self._utility, self._state.rank, ~labelled, n)


def turn(setup: Setup, known: Known, previous: learn.Fit | None = None) -> Turn:
    """Fit on the labels and find out what to ask.

    Parameters
    ----------
    setup, known
        The session, and its labels.
    previous
        An earlier fit, to start from.

    Raises
    ------
    PluginError
        Classifier or strategy failed.
    """
    warm, note = setup.warm, ""
    if warm is not None and contradicted(warm, setup.x, known.rows, known.y):
        note = f"The labels contradict the warm start {warm.source}: it is left out."
        warm = None
    fit = None
    if warm is not None or learn.enough(known.y):
        fit = learn.fit(setup.classifier, setup.x, known.rows, known.y, known.seq, bounds=setup.bounds, warm=warm, previous=previous)
    n, cells, others = len(setup.x), int((known.y == 1).sum()), int((known.y == 0).sum())
    if fit is None:
        state = strategies.QueryState(np.full(n, np.nan), np.nan, np.nan, known.labelled, setup.rank, setup.x)
    else:
        cut = fit.share if known.threshold is None else known.threshold
        state = strategies.QueryState(fit.probability, fit.share, cut, known.labelled, setup.rank, setup.x, fit.line, cells, others)
    strategy, reason = strategies.in_force(
        setup.strategy, setup.registered, state, fit is not None and (min(cells, others) >= 3 or warm is not None)
    )
    audit = None
    if setup.audits and fit is not None and reason == "active" and known.audited < audits.due(known.answered + 1):
        free = ~known.labelled
        if free.any():
            rng = np.random.default_rng([setup.seed, known.answered])
            audit = audits.draw(fit.distance(), free, rng)
    return Turn(fit, strategy.name, reason, audit, note, known, strategy, state)
