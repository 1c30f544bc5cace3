"""Which candidate to ask about next. A strategy is a pure function: state in, utility ``(n,)`` out, highest asked first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from actsort_core.errors import PluginError, UsageError


@dataclass(frozen=True, eq=False)
class QueryState:
    """What a strategy may look at. All arrays run over the candidates of all recordings of the session.

    Attributes
    ----------
    probability
        ``(n,)`` the model's probability of ``cell``, before calibration; NaN before the first fit.
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
    line
        Pi of the candidate's own recording: one number, or ``(n,)`` where there are several recordings; None: `share`.
    cells, others
        How many labels say cell, and how many not.
    """

    probability: NDArray[np.floating]
    share: float
    threshold: float
    labelled: NDArray[np.bool_]
    rank: NDArray[np.int64]
    features: NDArray[np.float32]
    line: NDArray[np.float64] | float | None = None
    cells: int = 0
    others: int = 0


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
        True: until three of each class are labelled, candidates are asked in another way (cold start).
    cold_start
        Which: ``"random"``, or ``"dal"`` as published (a first question at random, then DAL).
    audits
        Whether some questions are audits (`audits.due`) in sessions of a thousand candidates or more.
    """

    name: str
    description: str
    utility: Callable[[QueryState], NDArray[np.floating]]
    needs_model: bool = True
    cold_start: str = "random"
    audits: bool = False


def random(state: QueryState) -> NDArray[np.float64]:
    """In a random order fixed by the seed."""
    return -state.rank.astype(np.float64)


def first_to_last(state: QueryState) -> NDArray[np.float64]:
    """In file order, as a person would go through them."""
    return -np.arange(len(state.labelled), dtype=np.float64)


def cal(state: QueryState) -> NDArray[np.floating]:
    """Confidence-based active learning: ``1 - 2 |p - 0.5|`` (NeurIPS 2024 paper, section on query algorithms)."""
    return np.asarray(1 - 2 * np.abs(state.probability - 0.5))


def dal(state: QueryState) -> NDArray[np.float64]:
    """Discriminative active learning: how surely a second model takes a candidate for an unlabelled one.

    An L1 logistic regression learns to tell labelled from unlabelled candidates, on as many of one kind as of the other (the
    larger kind is subsampled, as in the public MATLAB code, ``strategy_dal``; the paper oversamples the smaller). Needs at
    least one labelled candidate.
    """
    return _unlabelled(state)[0]


def dcal(weight: float = 0.5) -> Callable[[QueryState], NDArray[np.floating]]:
    """Discriminative-confidence active learning: ``w d + (1 - w) c``, with c of `cal` and d of `dal`.

    Parameters
    ----------
    weight
        w0 in [0, 1]. ``w = w0 * 2 (a - 0.5)``, where a is the share of all candidates that DAL's model puts rightly among the
        labelled or the unlabelled (NeurIPS 2024 paper; ``strategy_dcal`` in the public MATLAB code, whose app has w0 = 0.5).
    """

    def utility(state: QueryState) -> NDArray[np.floating]:
        d, accuracy = _unlabelled(state)
        w = weight * 2 * (accuracy - 0.5)
        return w * d + (1 - w) * cal(state)

    return utility


def _unlabelled(state: QueryState) -> tuple[NDArray[np.float64], float]:
    """DAL's probability of being unlabelled, ``(n,)``, and the accuracy of its model over all candidates."""
    from actsort_core.classifiers import L1LogisticClassifier  # loads scikit-learn

    labelled = state.labelled
    n_each = min(int(labelled.sum()), int((~labelled).sum()))
    if n_each == 0:
        return np.full(len(labelled), np.nan), 0.5
    # A subsample that is drawn anew after each label, fixed by the seed, and the same for whatever order the candidates have.
    draw = np.random.default_rng(int(labelled.sum())).permutation(len(labelled))[state.rank]
    by_draw = np.argsort(draw)
    rows = np.concatenate([by_draw[labelled[by_draw]][:n_each], by_draw[~labelled[by_draw]][:n_each]])
    model = L1LogisticClassifier().fit(state.features[rows], labelled[rows])
    known = model.predict_proba(state.features)[:, 1]
    return 1 - known, float(np.mean((known > 0.5) == labelled))


def nearest_pi(state: QueryState) -> NDArray[np.floating]:
    """The candidate nearest to pi, the mean predicted probability of its recording: where the decisions are cut by default."""
    return _nearest(state, state.share if state.line is None else state.line)


def balanced_pi(state: QueryState) -> NDArray[np.floating]:
    """The candidate nearest to pi, moved towards the kind there are fewer labels of.

    Where nine candidates in ten are cells, the candidates next to pi are nearly all cells, too, and teach little about the others. The
    log odds of the place to ask at are those of pi minus those of the share of cells among the labels so far: as soon as that is a
    half, it is pi itself. Measured against `nearest_pi`: benchmarks/engine.py.
    """
    said = (state.cells + 0.5) / (state.cells + state.others + 1)
    said = min(max(said, 0.05), 0.95)
    odds = np.clip(np.asarray(state.share if state.line is None else state.line, np.float64), 1e-9, 1 - 1e-9)
    odds = odds / (1 - odds) * (1 - said) / said
    target = odds / (1 + odds)
    return _nearest(state, float(target) if target.ndim == 0 else target)


def _nearest(state: QueryState, line: NDArray[np.float64] | float) -> NDArray[np.floating]:
    """Minus the distance to a line; in the precision of the probabilities."""
    out = state.probability - np.asarray(line, state.probability.dtype)
    np.abs(out, out=out)
    return np.asarray(np.negative(out, out=out))


BUILTIN = (
    Strategy("balanced_pi", "nearest to the line, towards the kind with fewer labels; some at random (default)", balanced_pi, audits=True),
    Strategy("nearest_pi", "closest to the estimated share of cells, where decisions are cut", nearest_pi),
    Strategy("cal", "least confident, closest to 0.5 (published as CAL)", cal, cold_start="dal"),
    Strategy("dal", "least like what is labelled already (published as DAL)", dal, cold_start="dal"),
    Strategy("dcal", "both, weighted (published as DCAL, weight 0.5; dcal-0.3 for another)", dcal(), cold_start="dal"),
    Strategy("random", "in a random order", random, needs_model=False),
    Strategy("first_to_last", "in file order", first_to_last, needs_model=False),
)


def find(registered: Mapping[str, Strategy], name: str) -> Strategy:
    """A strategy by its name; ``dcal-W`` is DCAL with the weight W.

    Raises
    ------
    UnknownNameError
        There is none of that name.
    UsageError
        The weight is no number from 0 to 1.
    """
    if name.startswith("dcal-") and name not in registered:
        try:
            weight = float(name[5:])
        except ValueError:
            weight = -1.0
        if not 0 <= weight <= 1:
            raise UsageError(f"{name!r} has no weight from 0 to 1.", "Write for example dcal-0.5.")
        return replace(registered["dcal"], name=name, utility=dcal(weight))
    return registered[name]


def in_force(strategy: Strategy, registered: Mapping[str, Strategy], state: QueryState, warm: bool) -> tuple[Strategy, str]:
    """Which strategy asks now, and the reason the journal gives for its questions: its cold start, or the strategy itself.

    Parameters
    ----------
    strategy, registered
        What was chosen, and all there are.
    state
        Of the session; a cold start by DAL needs something labelled.
    warm
        Whether there is a model and three labels of each class.
    """
    if strategy.needs_model and not warm:
        return registered[strategy.cold_start if state.labelled.any() else "random"], "start"
    return strategy, "active" if strategy.needs_model else "start"


def utility(strategy: Strategy, state: QueryState) -> NDArray[np.floating]:
    """What the strategy thinks of each candidate, ``(n,)``, checked.

    Raises
    ------
    PluginError
        The strategy failed, or did not return one utility per candidate.
    """
    advice = "Choose another with --strategy."
    try:
        found = np.asarray(strategy.utility(state))
        if found.dtype != np.float32:
            found = found.astype(np.float64)
    except Exception as error:
        raise PluginError(f"Strategy {strategy.name!r} failed ({type(error).__name__}: {error}).", advice) from error
    if found.shape != state.labelled.shape:
        raise PluginError(f"Strategy {strategy.name!r} returned shape {found.shape} for {len(state.labelled)} candidates.", advice)
    return found


def top(values: NDArray[np.floating], rank: NDArray[np.int64], free: NDArray[np.bool_], n: int) -> NDArray[np.int64]:
    """Positions of the `n` free candidates with the highest values, best first; NaN counts as the lowest, ties by `rank`.

    Ties matter: candidates with equal features must not be asked in file order, or the sample would be biased.
    """
    masked = np.where(free, values, -np.inf)
    np.copyto(masked, -np.inf, where=np.isnan(masked))
    n = min(n, int(np.count_nonzero(free)))
    if n <= 0:
        return np.zeros(0, np.int64)
    # One candidate is what is asked for after every label: no sorting.
    least = masked.max() if n == 1 else np.partition(masked, len(masked) - n)[len(masked) - n]
    near = np.flatnonzero(masked >= least)
    near = near[free[near]]
    return near[np.lexsort((rank[near], -masked[near]))][:n]


def best(strategy: Strategy, state: QueryState, n: int) -> NDArray[np.int64]:
    """Positions of the `n` unlabelled candidates with the highest utility, best first; ties by the seed's random rank.

    Raises
    ------
    PluginError
        See `utility`.
    """
    return top(utility(strategy, state), state.rank, ~state.labelled, n)
