"""How well several people agree, and what they say together.

Pairwise agreement and kappa (Cohen, 1960), kappa for any number of people (Fleiss, 1971), consensus by majority and by the
model of Dawid and Skene (1979), and which candidates they should settle. ``unsure`` is not a vote.

References
----------
Cohen J. A coefficient of agreement for nominal scales. Educ. Psychol. Meas. 20, 37-46 (1960).
Fleiss J. L. Measuring nominal scale agreement among many raters. Psychol. Bull. 76, 378-382 (1971).
Dawid A. P., Skene A. M. Maximum likelihood estimation of observer error-rates using the EM algorithm. J. R. Stat. Soc. C 28,
20-28 (1979).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# What Dawid and Skene's model believes of a person before it has seen any labels: so many right and so many wrong answers per class.
RIGHT, WRONG = 1.0, 0.25
_IDENTIFIABLE = 3  # people who judged what others judged, before their errors can be told apart


@dataclass(frozen=True, eq=False)
class Ratings:
    """Who said what.

    Attributes
    ----------
    items
        What was judged: candidates, or anything else that can be told apart.
    annotators
        By name, sorted.
    classes
        What could be said.
    values
        ``(n_items, n_annotators)`` int: position in `classes`; -1 where somebody did not vote.
    """

    items: tuple[Hashable, ...]
    annotators: tuple[str, ...]
    classes: tuple[str, ...]
    values: NDArray[np.int64]

    def counts(self) -> NDArray[np.int64]:
        """``(n_items, n_classes)``: how many voted for each class."""
        return np.asarray((self.values[:, :, None] == np.arange(len(self.classes))).sum(axis=1))

    def of(self, item: int) -> dict[str, str]:
        """The votes on the item at a position, by annotator."""
        row = zip(self.annotators, self.values[item], strict=True)
        return {who: self.classes[value] for who, value in row if value >= 0}


@dataclass(frozen=True)
class Pair:
    """How two people agree on what both judged.

    Attributes
    ----------
    annotators
        The two.
    n
        How many items both judged.
    agreement
        Share of them on which they said the same; NaN where there is none.
    kappa
        Cohen's kappa; NaN where it is not defined (nothing in common, or both said one and the same class all the time).
    """

    annotators: tuple[str, str]
    n: int
    agreement: float
    kappa: float


@dataclass(frozen=True)
class Fleiss:
    """Kappa for any number of people.

    Attributes
    ----------
    n
        Items with two votes or more; others say nothing about agreement and are left out.
    agreement
        Mean over these items of the share of agreeing pairs of votes; NaN where there is none.
    kappa
        NaN where it is not defined.
    """

    n: int
    agreement: float
    kappa: float


@dataclass(frozen=True, eq=False)
class Consensus:
    """What people say together about every item.

    Attributes
    ----------
    classes
        What could be said.
    value
        ``(n_items,)`` int: position in `classes`, -1 where they are tied or nobody voted.
    probability
        ``(n_items, n_classes)``: share of the votes, or the model's posterior probability; NaN where nobody voted.
    confusion
        By annotator ``(n_classes, n_classes)``: how often they say the column where the row is true. Empty for a majority.
    """

    classes: tuple[str, ...]
    value: NDArray[np.int64]
    probability: NDArray[np.float64]
    confusion: Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Disagreement:
    """An item people should settle.

    Attributes
    ----------
    item
        Which one.
    votes
        Class by annotator.
    openness
        From 0 (one side is all but certain) to 1 (nothing speaks for either): one minus the lead of the likeliest class over
        the second by Dawid and Skene.
    """

    item: Any
    votes: Mapping[str, str]
    openness: float


def ratings(votes: Mapping[Any, Mapping[str, str]], classes: Sequence[str]) -> Ratings:
    """Bring votes into a table.

    Parameters
    ----------
    votes
        Item -> annotator -> class. Classes other than `classes` (``unsure``) are no votes.
    classes
        What counts as a vote.
    """
    place = {name: i for i, name in enumerate(classes)}
    people = tuple(sorted({who for by in votes.values() for who in by}))
    column = {who: j for j, who in enumerate(people)}
    values = np.full((len(votes), len(people)), -1, np.int64)
    for i, by in enumerate(votes.values()):
        for who, value in by.items():
            values[i, column[who]] = place.get(value, -1)
    return Ratings(tuple(votes), people, tuple(classes), values)


def cohen(a: NDArray[np.int64], b: NDArray[np.int64], n_classes: int) -> tuple[int, float, float]:
    """Agreement of two people on what both judged (Cohen, 1960).

    ``kappa = (p_o - p_e) / (1 - p_e)``, with p_o the share of items on which they agree and p_e the agreement expected from how
    often each says what.

    Parameters
    ----------
    a, b
        ``(n_items,)`` class positions, -1 for no vote.
    n_classes
        Number of classes.

    Returns
    -------
    Number of common items, raw agreement, kappa.
    """
    both = (a >= 0) & (b >= 0)
    n = int(both.sum())
    if not n:
        return 0, math.nan, math.nan
    observed = float((a[both] == b[both]).mean())
    expected = float(np.bincount(a[both], minlength=n_classes) @ np.bincount(b[both], minlength=n_classes)) / n**2
    return n, observed, (observed - expected) / (1 - expected) if expected < 1 else math.nan


def pairs(table: Ratings) -> tuple[Pair, ...]:
    """Raw agreement and Cohen's kappa of every two people."""
    out = []
    for i, j in itertools.combinations(range(len(table.annotators)), 2):
        n, agreement, kappa = cohen(table.values[:, i], table.values[:, j], len(table.classes))
        out.append(Pair((table.annotators[i], table.annotators[j]), n, agreement, kappa))
    return tuple(out)


def fleiss(counts: NDArray[np.int64]) -> Fleiss:
    """Kappa of any number of people (Fleiss, 1971), who need not all have judged everything.

    Fleiss has the same number of votes on each item. Where it differs, an item's agreement is still the share of agreeing pairs among
    its own n_i votes, ``P_i = sum_j n_ij (n_ij - 1) / (n_i (n_i - 1))``; its mean runs over items, each with the same weight, and the
    share of each class over all votes on these items. With equal numbers this is the published formula.

    Parameters
    ----------
    counts
        ``(n_items, n_classes)``: how many voted for each class. Items with fewer than two votes are left out.
    """
    used = counts[counts.sum(axis=1) >= 2].astype(np.float64)
    if not len(used):
        return Fleiss(0, math.nan, math.nan)
    n = used.sum(axis=1)
    observed = float(((used * (used - 1)).sum(axis=1) / (n * (n - 1))).mean())
    share = used.sum(axis=0) / used.sum()
    expected = float(share @ share)
    # A single class used by all: chance alone explains everything, and kappa is 0 / 0 (up to rounding).
    alone = int((used.sum(axis=0) > 0).sum()) == 1
    return Fleiss(len(used), observed, math.nan if alone else (observed - expected) / (1 - expected))


def majority(table: Ratings) -> Consensus:
    """What most say about each item; nothing where two classes have the most votes."""
    counts = table.counts().astype(np.float64)
    total = counts.sum(axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        probability = np.where(total > 0, counts / np.where(total > 0, total, 1), np.nan)
    return Consensus(table.classes, _clear_winner(counts), probability, {})


def _clear_winner(score: NDArray[np.float64], margin: float = 1e-9) -> NDArray[np.int64]:
    """Position of the highest score in each row; -1 where the second is as high, or all are 0."""
    if score.shape[1] == 0:
        return np.full(len(score), -1, np.int64)
    best = score.argmax(axis=1)
    ordered = np.sort(score, axis=1)
    second = ordered[:, -2] if score.shape[1] > 1 else np.zeros(len(score))
    return np.where((ordered[:, -1] > second + margin) & (ordered[:, -1] > 0), best, -1)


@dataclass(frozen=True, eq=False)
class DawidSkene:
    """Dawid and Skene's model, fitted.

    Attributes
    ----------
    posterior
        ``(n_items, n_classes)``: probability that each class is the true one; the prior where nobody voted.
    prior
        ``(n_classes,)``: how common each class is.
    confusion
        ``(n_annotators, n_classes, n_classes)``: probability that a person says the last index where the middle one is true.
    iterations
        Of the EM algorithm.
    """

    posterior: NDArray[np.float64]
    prior: NDArray[np.float64]
    confusion: NDArray[np.float64]
    iterations: int


def fit_dawid_skene(
    counts: NDArray[np.int64], right: float = RIGHT, wrong: float = WRONG, tolerance: float = 1e-8, max_iterations: int = 500
) -> DawidSkene:
    """Estimate true classes and each person's errors together by expectation maximisation (Dawid & Skene, 1979).

    It starts from the shares of the votes, so that it is deterministic. A person of whom little was heard is taken to be right
    more often than wrong (`right`, `wrong`): without that, as published (both 0), a handful of labels can turn a person into an oracle
    or into somebody who always says the opposite.

    Parameters
    ----------
    counts
        ``(n_items, n_annotators, n_classes)``: how often a person gave a class to an item (mostly 0 or 1).
    right, wrong
        Answers of each kind, per class, that a person is credited with beforehand.
    tolerance, max_iterations
        Stop when no posterior moves by more than this, or after so many rounds.
    """
    heard = counts.astype(np.float64)
    n_annotators, n_classes = heard.shape[1:]
    votes = heard.sum(axis=1)
    total = votes.sum(axis=1, keepdims=True)
    voted = total[:, 0] > 0
    posterior = np.where(total > 0, votes / np.where(total > 0, total, 1), 1 / max(1, n_classes))
    credit = np.full((n_classes, n_classes), wrong) + (right - wrong) * np.eye(n_classes)
    prior = np.full(n_classes, 1 / max(1, n_classes))
    confusion = np.zeros((n_annotators, n_classes, n_classes))
    iterations = 0
    while iterations < max_iterations and voted.any():
        iterations += 1
        prior = posterior[voted].mean(axis=0)
        confusion = np.einsum("it,ial->atl", posterior[voted], heard[voted]) + credit
        rows = confusion.sum(axis=2, keepdims=True)
        confusion = np.where(rows > 0, confusion / np.where(rows > 0, rows, 1), 1 / n_classes)
        # Sums of logarithms: products of many votes underflow. What never happened stays at (all but) never.
        logs = np.einsum("ial,atl->it", heard, np.log(np.maximum(confusion, 1e-300))) + np.log(np.maximum(prior, 1e-300))
        logs -= logs.max(axis=1, keepdims=True)
        new = np.exp(logs)
        new /= new.sum(axis=1, keepdims=True)
        moved = float(np.abs(new - posterior)[voted].max())
        posterior = new
        if moved < tolerance:
            break
    return DawidSkene(posterior, prior, confusion, iterations)


def dawid_skene(table: Ratings) -> Consensus:
    """Consensus by Dawid and Skene's model: the votes of people who err less count more.

    Where all who voted say the same that stands, whatever the model makes of these people: it settles disagreements, it does not
    overrule labels. With two people a disagreement is a tie: who of them is right cannot be known from their votes, and what the
    model makes of it is worse than leaving it open (docs/people.md, measured by benchmarks/people.py).
    """
    heard = (table.values[:, :, None] == np.arange(len(table.classes))).astype(np.int64)
    model = fit_dawid_skene(heard)
    counts = table.counts()
    voted = counts.sum(axis=1) > 0
    unanimous = (counts > 0).sum(axis=1) == 1
    value = _clear_winner(model.posterior, 1e-6)
    value[unanimous] = counts[unanimous].argmax(axis=1)
    value[~voted] = -1
    several = counts.sum(axis=1) >= 2
    if ((table.values[several] >= 0).any(axis=0)).sum() < _IDENTIFIABLE:
        value[several & ~unanimous] = -1
    probability = np.where(voted[:, None], model.posterior, np.nan)
    return Consensus(table.classes, value, probability, dict(zip(table.annotators, model.confusion, strict=True)))


def disagreements(table: Ratings, consensus: Consensus | None = None) -> tuple[Disagreement, ...]:
    """Items on which people voted differently, the most open ones first.

    Parameters
    ----------
    table
        All votes.
    consensus
        By `dawid_skene`, if it was computed already.
    """
    posterior = (consensus or dawid_skene(table)).probability
    split = np.flatnonzero((table.counts() > 0).sum(axis=1) >= 2).tolist()
    ordered = np.sort(posterior[split], axis=1)
    openness = 1 - (ordered[:, -1] - ordered[:, -2]) if len(split) else np.zeros(0)
    found = [Disagreement(table.items[i], table.of(i), float(o)) for i, o in zip(split, openness, strict=True)]
    return tuple(sorted(found, key=lambda d: -round(d.openness, 9)))  # sorting is stable: equally open ones stay in order
