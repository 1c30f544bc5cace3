"""From the model's score to an honest probability of being a cell: a prior learned from annotators, updated by audits.

How often people say "cell" follows the model's distance d from the line in much the same way from person to person and recording
to recording:

    P(cell | d) = e + (1 - 2 e) sigmoid(b + o + exp(s-) min(d, 0) + exp(s+) max(d, 0))

where b is the log odds of pi, and e the rate of mistaken answers. A prior for (o, s-, s+), learned by replaying annotators (`actsort
quality-prior`), is updated by the audits: questions drawn at random, each scored by a model that did not see its answer. Pure
functions; NumPy alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actsort_core.errors import FormatError
from actsort_core.solver import sigmoid

Floats = NDArray[np.float64]
PRIOR = Path(__file__).parent / "data" / "quality_prior.json"
PRIOR_VARIABLE = "ACTSORT_QUALITY_PRIOR"  # environment variable: another prior to use
FORMAT_VERSION = 1
FAR = 12.0  # log odds beyond which nothing changes
STEP = 0.05  # of the histogram of d
_BINS = round(FAR / STEP)
FLOOR = 0.0005  # nobody is always right
DRAWS, KEPT = 250, 1000  # of the posterior: per rate of mistakes, and resampled
_DEGREES = 6  # of the t distribution draws come from


def logit(p: NDArray[np.floating] | float) -> Floats:
    """Its inverse."""
    p = np.asarray(p, np.float64)
    return np.asarray(np.log(p) - np.log1p(-p))


@dataclass(frozen=True, eq=False)
class Prior:
    """What is known of annotators before the first label; learned by `quality_prior.learn_prior`.

    Attributes
    ----------
    mean
        ``(3, 5)``: offset, log slope below and above the line, each linear in `design`.
    spread, early
        ``(3, 3)`` covariances: of any number of labels, and what is added to it, times 20 / labels.
    between, warm
        ``(3,)`` variances added because recordings differ more than the few it was learned on show; and with a warm start, times
        its share of the weight.
    rates, weights
        ``(m,)`` rates of mistaken answers that are reckoned with, and how probable each is.
    audit
        ``(3,)`` shift and factors of the slopes for an audit's distance, which comes from a model that did not see it.
    stretch, discrepancy
        Factor of the intervals on the logit scale, and a deviation added to them: what the formula itself gets wrong.
    unfamiliar
        Factor of the covariance with other features than it was learned on.
    decay
        ``(3,)`` 5, 50 and 95 % quantiles of the power of the weight by which the share of errors falls.
    features
        Names of the features it was learned on.
    provenance
        Which engine, recordings and command.
    """

    mean: Floats
    spread: Floats
    early: Floats
    between: Floats
    warm: Floats
    rates: Floats
    weights: Floats
    audit: Floats
    stretch: float
    discrepancy: float
    unfamiliar: float
    decay: Floats
    features: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def familiar(self, names: tuple[str, ...]) -> bool:
        """Whether a table with these features is like the ones it was learned on: nine in ten in common, both ways."""
        common = len(set(names) & set(self.features))
        return common >= 0.9 * max(len(set(names)), len(set(self.features)), 1)

    def document(self) -> dict[str, Any]:
        """As kept in a JSON file."""
        arrays = ("mean", "spread", "early", "between", "warm", "rates", "weights", "audit", "decay")
        out: dict[str, Any] = {"format_version": FORMAT_VERSION, "provenance": dict(self.provenance), "features": list(self.features)}
        out |= {name: np.round(getattr(self, name), 4).tolist() for name in arrays}
        return out | {"stretch": self.stretch, "discrepancy": self.discrepancy, "unfamiliar": self.unfamiliar}


def read_prior(path: Path | str | None = None) -> Prior:
    """The prior that is shipped, or one that was relearned (``actsort quality-prior``): `path`, or what ``ACTSORT_QUALITY_PRIOR`` names.

    Raises
    ------
    FormatError
        It is none.
    """
    return _read(str(path or os.environ.get(PRIOR_VARIABLE) or PRIOR))


@lru_cache(maxsize=4)
def _read(path: str) -> Prior:
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        if found["format_version"] != FORMAT_VERSION:
            raise ValueError(f"format version {found['format_version']}")
        shapes: dict[str, tuple[int, ...]] = {"mean": (3, 5), "spread": (3, 3), "early": (3, 3)}
        shapes |= {"between": (3,), "warm": (3,), "audit": (3,), "decay": (3,)}
        shapes |= {"rates": (len(found["rates"]),), "weights": (len(found["rates"]),)}
        arrays = {name: np.array(found[name], np.float64) for name in shapes}
        for name, shape in shapes.items():
            if arrays[name].shape != shape or not np.isfinite(arrays[name]).all():
                raise ValueError(f"{name} is not {shape} finite numbers")
        kept: dict[str, Any] = {**arrays, **{name: float(found[name]) for name in ("stretch", "discrepancy", "unfamiliar")}}
        return Prior(**kept, features=tuple(found["features"]), provenance=found["provenance"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{path} is no prior of the quality estimate ({error}).", "Make one with actsort quality-prior.") from error


def design(weight: float, c: float, rate: float) -> Floats:
    """What the prior's mean depends on: total weight of the labels, C in units of what it ends at, rate of mistaken answers."""
    size = np.log(np.clip(weight, 8, 1500) / 100)
    return np.array([1.0, size, np.log(c), 10 * rate, 10 * rate * size])


def ends(rate: float) -> float:
    """The least chance of either answer, for a rate of mistakes."""
    return FLOOR + rate * (1 - 2 * FLOOR)


def base(share: NDArray[np.floating] | float, rate: float) -> Floats:
    """Log odds of pi as they are without mistakes."""
    least = ends(rate)
    return logit(np.clip((np.asarray(share, np.float64) - least) / (1 - 2 * least), 0.02, 0.98))


@dataclass(frozen=True, eq=False)
class Evidence:
    """All that the estimate may use.

    Attributes
    ----------
    d
        ``(n,)`` log odds of being a cell minus those of pi of the candidate's recording (`learn.Fit.distance`), all candidates.
    shares, bounds
        ``(n_recordings,)`` pi of each, and ``(n_recordings + 1,)`` where each begins and the last ends.
    rows, y
        ``(n_labels,)`` labelled candidates and what was said: 1 cell, 0 not a cell.
    audits, audit_y
        ``(k,)`` those drawn at random, and what was said of them.
    left_out
        ``(k,)`` their `d` by a model that did not see them; NaN where there is none.
    weight, c
        Total weight of all labels, examples from elsewhere included, and C of the engine in units of what it ends at
        (`classifiers.strength`, `classifiers.least`).
    familiar
        False where the features are others than those the prior was learned on.
    repeats
        How many answers were asked a second time, and how many of these came out otherwise.
    """

    d: NDArray[np.floating]
    shares: Floats
    bounds: NDArray[np.int64]
    rows: NDArray[np.int64]
    y: NDArray[np.int8]
    audits: NDArray[np.int64]
    audit_y: NDArray[np.int8]
    left_out: Floats
    weight: float
    c: float
    familiar: bool = True
    repeats: tuple[int, int] = (0, 0)


@dataclass(frozen=True, eq=False)
class Calibration:
    """What is believed of P(cell | d), as draws from the posterior.

    Attributes
    ----------
    draws
        ``(KEPT, 3)`` offset, log slope below and above the line.
    rate
        ``(KEPT,)`` rate of mistaken answers.
    shares, bounds
        Of the evidence.
    """

    draws: Floats
    rate: Floats
    shares: Floats
    bounds: NDArray[np.int64]

    def chances(self, d: Floats, share: float) -> Floats:
        """``(KEPT, len(d))``: P(cell | d) by each draw, in a recording with this pi."""
        out = np.empty((len(self.draws), len(d)))
        below, above = np.minimum(d, 0), np.maximum(d, 0)
        for rate in np.unique(self.rate):
            some = self.rate == rate
            o, low, high = self.draws[some].T[:, :, None]
            least = ends(float(rate))
            z = base(share, float(rate)) + o + np.exp(low) * below + np.exp(high) * above
            out[some] = least + (1 - 2 * least) * sigmoid(z)
        return out

    @cached_property
    def _tables(self) -> Floats:
        """``(n_recordings, bins)`` mean chances at the edges of the bins."""
        edges = np.arange(-_BINS, _BINS + 1, dtype=np.float64) * STEP
        return np.stack([self.chances(edges, float(share)).mean(axis=0) for share in self.shares])

    def at(self, d: NDArray[np.floating], recording: int = 0) -> NDArray[np.float32]:
        """Calibrated probabilities of being a cell at any `d` of one recording; they never fall as d rises."""
        table = self._tables[recording].astype(np.float32)
        place = np.clip(np.nan_to_num(d, nan=-FAR), -FAR, FAR).astype(np.float32)
        place = (place + np.float32(FAR)) * np.float32(1 / STEP)
        low = np.minimum(place.astype(np.int32), len(table) - 2)
        place -= low
        return np.asarray(table[low] + place * np.diff(table)[low], np.float32)

    def probability(self, d: NDArray[np.floating]) -> NDArray[np.float32]:
        """``(n,)`` calibrated probabilities of all candidates."""
        pairs = zip(self.bounds[:-1], self.bounds[1:], strict=True)
        return np.concatenate([self.at(d[a:b], i) for i, (a, b) in enumerate(pairs)]) if len(d) else np.zeros(0, np.float32)

    def line(self, probability: float, recording: int = 0) -> float:
        """The d at which the calibrated probability is reached; beyond `FAR` where it never is."""
        table = self._tables[recording]
        if probability <= table[0]:
            return -FAR - STEP
        if probability >= table[-1]:
            return FAR + STEP
        return float(np.interp(probability, table, np.arange(-_BINS, _BINS + 1) * STEP))

    @property
    def suspicion(self) -> float:
        """The probability that at least one answer in twenty is mistaken."""
        return float((self.rate >= 0.05 - 1e-9).mean())


def calibrate(evidence: Evidence, prior: Prior | None = None) -> Calibration:
    """Update the prior by the audits.

    Parameters
    ----------
    evidence
        What there is.
    prior
        Default: the one that is shipped.
    """
    prior = prior or read_prior()
    known = np.isfinite(evidence.left_out)
    d = np.clip(evidence.left_out[known].astype(np.float64), -FAR, FAR)
    y = evidence.audit_y[known].astype(np.float64)
    group = np.searchsorted(evidence.bounds, evidence.audits[known], side="right") - 1
    below, above = prior.audit[1] * np.minimum(d, 0), prior.audit[2] * np.maximum(d, 0)
    rng = np.random.default_rng(0)
    found, weights, rates = [], [], []
    for rate, probable in zip(prior.rates, prior.weights, strict=True):
        offset = base(evidence.shares[group], float(rate)) + prior.audit[0]
        target = _Posterior(below, above, offset, y, ends(float(rate)), *_prior_at(prior, evidence, float(rate)))
        draws, weight = target.sample(rng, DRAWS)
        again = 2 * (rate + 0.03) * (1 - rate - 0.03)  # .03: people waver where it is hard to say
        asked, other = evidence.repeats
        found.append(draws)
        weights.append(weight + np.log(probable) + other * np.log(again) + (asked - other) * np.log(1 - again))
        rates.append(np.full(DRAWS, rate))
    log_weight = np.concatenate(weights)
    weight = np.exp(log_weight - log_weight.max())
    upto = np.cumsum(weight / weight.sum())
    pick = np.minimum(np.searchsorted(upto, (np.arange(KEPT) + rng.random()) / KEPT), len(upto) - 1)
    return Calibration(np.concatenate(found)[pick], np.concatenate(rates)[pick], evidence.shares, evidence.bounds)


def _prior_at(prior: Prior, evidence: Evidence, rate: float) -> tuple[Floats, Floats]:
    """Mean and covariance of (offset, log slopes)."""
    n = max(6, len(evidence.rows))
    spread = (prior.spread + np.diag(prior.between) + prior.early * 20 / n) * (1 + 5 * rate)
    spread = spread + np.diag(prior.warm) * max(0.0, 1 - n / max(evidence.weight, 1.0))
    if not evidence.familiar:
        spread = spread * prior.unfamiliar
    return prior.mean @ design(evidence.weight, evidence.c, rate), spread


class _Posterior:
    """Of (offset, log slopes) for one rate of mistakes."""

    def __init__(self, below: Floats, above: Floats, offset: Floats, y: Floats, least: float, mean: Floats, spread: Floats) -> None:
        self.below, self.above, self.offset, self.y, self.least, self.mean = below, above, offset, y, least, mean
        self.precision = np.linalg.inv(spread)
        self.constant = -0.5 * float(np.linalg.slogdet(spread)[1])

    def _linear(self, t: Floats) -> Floats:
        return self.offset + t[:, :1] + np.exp(t[:, 1:2]) * self.below + np.exp(t[:, 2:3]) * self.above

    def log(self, t: Floats) -> Floats:
        """Log density of ``(m, 3)`` points, prior included."""
        p = self.least + (1 - 2 * self.least) * sigmoid(self._linear(t))
        off = t - self.mean
        likelihood = np.log(np.where(self.y > 0, p, 1 - p)).sum(axis=1)
        return np.asarray(likelihood + self.constant - 0.5 * ((off @ self.precision) * off).sum(axis=1))

    def _slope(self, t: Floats) -> tuple[Floats, Floats]:
        """Gradient, and the expected information with the prior's."""
        slopes = np.column_stack([np.ones(len(self.y)), np.exp(t[1]) * self.below, np.exp(t[2]) * self.above])
        s = sigmoid(self._linear(t[None])[0])
        p = self.least + (1 - 2 * self.least) * s
        change = (1 - 2 * self.least) * s * (1 - s)
        gradient = slopes.T @ (change * (self.y - p) / (p * (1 - p))) - self.precision @ (t - self.mean)
        return gradient, (slopes.T * (change**2 / (p * (1 - p)))) @ slopes + self.precision

    def sample(self, rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
        """`n` draws from a t distribution at the mode, and the logarithm of their importance weights."""
        t = self.mean.copy()
        height = float(self.log(t[None])[0])
        for _ in range(20):
            gradient, information = self._slope(t)
            step = np.linalg.solve(information, gradient)
            size = 1.0
            while (following := float(self.log((t + size * step)[None])[0])) < height and size > 1e-4:
                size /= 2
            gained = following - height
            if gained <= 0:
                break
            t, height = t + size * step, following
            if gained < 1e-7:
                break
        root = np.linalg.cholesky(np.linalg.inv(self._slope(t)[1]))
        u = rng.standard_normal((n, 3)) / np.sqrt(rng.chisquare(_DEGREES, n) / _DEGREES)[:, None]
        draws = t + u @ root.T
        proposal = -0.5 * (_DEGREES + 3) * np.log1p((u**2).sum(axis=1) / _DEGREES) - float(np.log(np.diag(root)).sum())
        return draws, self.log(draws) - proposal
