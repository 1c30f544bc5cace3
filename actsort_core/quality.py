"""How good is the sorting now: balanced accuracy, precision and recall of the present decisions, with 90 % intervals.

What is estimated is the agreement of the decisions with what the annotator would say of every candidate: labelled ones are decided
by their label, and of the others so many are expected to be cells as the calibrated probabilities say (`calibration`). Cross-validation
on labels that were chosen for being hard says something else (LEARNING.md). Pure functions; NumPy alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from actsort_core.calibration import FAR, STEP, Calibration, Evidence, Floats, Prior, calibrate, logit, read_prior
from actsort_core.solver import sigmoid

__all__ = ["Calibration", "Curve", "Evidence", "Prior", "Quality", "Stated", "calibrate", "curve", "estimate", "read_prior"]

FEW_CANDIDATES = 1000
FEW_AUDITS = 8
SUSPECT = 0.3  # probability of a twentieth of mistaken answers from which it is said
MORE = 50  # labels of the expected gain
_FAR_BINS = round(3 * FAR / STEP)
_Z = 1.645  # 90 %


@dataclass(frozen=True)
class Stated:
    """A number with its 90 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Quality:
    """How well the present decisions agree with what the annotator would say of every candidate.

    Attributes
    ----------
    balanced_accuracy, precision, recall
        Labelled candidates are decided by their label, and counted.
    share
        Of cells among all candidates, as the annotator would sort.
    gain
        By how much `more` labels would raise the balanced accuracy.
    more
        `MORE`, or as many as are left.
    mistakes
        Share of the answers that are mistaken, as far as can be told (median 0 for most people).
    n_labels, n_audits
        What it rests on.
    notes
        Why it may not apply; empty where nothing speaks against it.
    """

    balanced_accuracy: Stated
    precision: Stated
    recall: Stated
    share: Stated
    gain: Stated
    mistakes: float
    n_labels: int
    n_audits: int
    notes: tuple[str, ...] = ()
    more: int = MORE


@dataclass(frozen=True, eq=False)
class Curve:
    """The read-outs for a slider: each row of the last three is value, low, high.

    Attributes
    ----------
    probability
        ``(m,)`` calibrated probabilities from which on a candidate counts as a cell.
    line
        ``(m, n_recordings)`` the same in d.
    balanced_accuracy, precision, recall
        ``(m, 3)``.
    """

    probability: Floats
    line: Floats
    balanced_accuracy: Floats
    precision: Floats
    recall: Floats


# ---- from the posterior to statements


@dataclass(frozen=True, eq=False)
class _Counts:
    """Unlabelled candidates in bins of d: how many cells each draw expects, by bin, in the order of the calibrated probability."""

    cells: Floats  # (KEPT, bins)
    size: Floats  # (bins,)
    accepted: NDArray[np.bool_]  # (bins,) beyond the line
    chance: Floats  # (bins,) calibrated


def _count(evidence: Evidence, calibration: Calibration, line: Floats | float) -> _Counts:
    lines = np.broadcast_to(np.asarray(line, np.float64), evidence.shares.shape)
    free = np.ones(len(evidence.d), bool)
    free[evidence.rows] = False
    middles: list[Floats] = []
    chances: list[Floats] = []
    sizes: list[Floats] = []
    for i, share in enumerate(evidence.shares):
        part = slice(int(evidence.bounds[i]), int(evidence.bounds[i + 1]))
        d = np.clip(np.nan_to_num(evidence.d[part][free[part]], nan=-FAR).astype(np.float64), -FAR, FAR)
        # A bin is (k - 1, k] steps from the line, so that none lies on both sides of it.
        place = np.ceil(np.clip((d - lines[i]) / STEP, -_FAR_BINS, _FAR_BINS)).astype(np.int64)
        kinds, count = np.unique(place, return_counts=True)
        middle = (kinds.astype(np.float64) - 0.5) * STEP
        middles.append(middle)
        sizes.append(count.astype(np.float64))
        chances.append(calibration.chances(np.clip(middle + lines[i], -FAR, FAR), float(share)))
    chance: Floats = np.concatenate(chances, axis=1)
    size: Floats = np.concatenate(sizes)
    rng = np.random.default_rng(1)
    noise = rng.standard_normal(chance.shape) * np.sqrt(size * chance * (1 - chance))
    return _Counts(np.clip(chance * size + noise, 0, size), size, np.concatenate(middles) > 0, chance.mean(axis=0))


def _rates(tp: Floats, fp: Floats, fn: Floats, tn: Floats) -> tuple[Floats, Floats, Floats]:
    """Balanced accuracy, precision, recall; as `replays.scores` where a class is empty."""
    recall = tp / np.maximum(tp + fn, 1)
    specificity = 1 - fp / np.maximum(tn + fp, 1)
    return (recall + specificity) / 2, tp / np.maximum(tp + fp, 1), recall


def _doubt(evidence: Evidence, prior: Prior) -> float:
    """What the formula itself may get wrong, on the logit scale: nothing about labelled candidates, more with other features."""
    free = 1 - len(evidence.rows) / max(1, len(evidence.d))
    return prior.discrepancy * free * (1.0 if evidence.familiar else float(np.sqrt(prior.unfamiliar)))


def _interval(draws: Floats, prior: Prior, doubt: float) -> Floats:
    """Median and 90 % interval of draws along the first axis, ``(3, ...)``."""
    z = logit(np.clip(np.quantile(draws, [0.5, 0.05, 0.95], axis=0), 1e-5, 1 - 1e-5))
    off = np.sqrt((prior.stretch * (z[1:] - z[0])) ** 2 + (_Z * doubt) ** 2)
    return np.stack([np.median(draws, axis=0), sigmoid(z[0] - off[0]), sigmoid(z[0] + off[1])])


def estimate(evidence: Evidence, calibration: Calibration | None = None, line: Floats | float = 0.0, prior: Prior | None = None) -> Quality:
    """State the quality of the present decisions.

    Parameters
    ----------
    evidence
        What there is.
    calibration
        Of the same evidence, if it is there already.
    line
        Where decisions are cut, in d; one for all recordings or ``(n_recordings,)``. 0 is pi, the default.
    prior
        Default: the one that is shipped.
    """
    prior = prior or read_prior()
    calibration = calibration or calibrate(evidence, prior)
    counts = _count(evidence, calibration, line)
    said_cell, n = int((evidence.y == 1).sum()), len(evidence.d)
    said_not = len(evidence.y) - said_cell
    up, size = counts.accepted, counts.size
    tp, fn = counts.cells[:, up].sum(axis=1) + said_cell, counts.cells[:, ~up].sum(axis=1)
    fp, tn = size[up].sum() - (tp - said_cell), size[~up].sum() - fn + said_not
    doubt = _doubt(evidence, prior)
    accuracy, precision, recall = _rates(tp, fp, fn, tn)
    return Quality(
        balanced_accuracy=_stated(accuracy, prior, doubt),
        precision=_stated(precision, prior, doubt),
        recall=_stated(recall, prior, doubt),
        share=_stated((tp + fn) / max(1, n), prior, doubt),
        gain=_gain(evidence, prior, accuracy, calibration.rate),
        mistakes=float(calibration.rate.mean()),
        n_labels=len(evidence.rows),
        n_audits=int(np.isfinite(evidence.left_out).sum()),
        notes=_notes(evidence, prior, calibration),
        more=min(MORE, n - len(evidence.rows)),
    )


def _stated(draws: Floats, prior: Prior, doubt: float) -> Stated:
    value, low, high = (float(v) for v in _interval(draws, prior, doubt))
    return Stated(value, min(low, value), max(high, value))


def _gain(evidence: Evidence, prior: Prior, accuracy: Floats, rate: Floats) -> Stated:
    """The share of errors falls by a power of the weight of the labels; mistaken answers stay."""
    left = len(evidence.d) - len(evidence.rows)
    weight = max(evidence.weight, 6.0)
    low, middle, high = 1 - (weight / (weight + min(MORE, left))) ** prior.decay
    errors = np.clip(1 - accuracy - rate, 0, 1)
    return Stated(*(float(np.quantile(errors, q) * share) for q, share in ((0.5, middle), (0.25, low), (0.75, high))))


def _notes(evidence: Evidence, prior: Prior, calibration: Calibration) -> tuple[str, ...]:
    out = []
    audits = int(np.isfinite(evidence.left_out).sum())
    where = ", ".join(prior.provenance.get("recordings", ())) or "recorded annotators"
    if audits < FEW_AUDITS:
        small = " (sessions of less than 1,000 candidates ask no audits unless told to)" if len(evidence.d) < FEW_CANDIDATES else ""
        has = "There are no audits" if not audits else f"There are only {audits} audits"
        out.append(f"{has}{small}: the estimate rests on how people sorted elsewhere ({where}).")
    if not evidence.familiar:
        out.append(f"The features are others than those the estimate was tried on ({where}): intervals are wider, and a guess.")
    if calibration.suspicion > SUSPECT:
        out.append(
            f"About {100 * float(calibration.rate.mean()):.0f} % of the answers seem to contradict the others (audits come out other than "
            "expected): the estimate may still be too optimistic. Look at the labels again."
        )
    return tuple(out)


def curve(
    evidence: Evidence, calibration: Calibration | None = None, prior: Prior | None = None, thresholds: Floats | None = None
) -> Curve:
    """Balanced accuracy, precision and recall wherever the threshold on the calibrated probability may be moved.

    Parameters
    ----------
    evidence, calibration, prior
        As for `estimate`.
    thresholds
        ``(m,)`` ascending; default: 0, .01... 1.
    """
    prior = prior or read_prior()
    calibration = calibration or calibrate(evidence, prior)
    thresholds = np.linspace(0, 1, 101) if thresholds is None else thresholds
    counts = _count(evidence, calibration, 0.0)
    said_cell = int((evidence.y == 1).sum())
    said_not = len(evidence.y) - said_cell
    order = np.argsort(counts.chance, kind="stable")
    cells, size, chance = counts.cells[:, order], counts.size[order], counts.chance[order]
    # Cells and candidates in the bins from the i-th on.
    zero = np.zeros((len(cells), 1))
    from_on = np.concatenate([np.cumsum(cells[:, ::-1], axis=1)[:, ::-1], zero], axis=1)
    all_on = np.append(np.cumsum(size[::-1])[::-1], 0.0)
    first = np.searchsorted(chance, thresholds, side="right")
    tp, fn = from_on[:, first] + said_cell, from_on[:, :1] - from_on[:, first]
    fp, tn = all_on[first] - (tp - said_cell), (all_on[0] - all_on[first]) - fn + said_not
    doubt = _doubt(evidence, prior)
    lines = np.array([[calibration.line(float(t), i) for i in range(len(evidence.shares))] for t in thresholds])
    read = [_interval(draws, prior, doubt).T for draws in _rates(tp, fp, fn, tn)]
    return Curve(thresholds, lines, *read)
