"""Where decisions are cut: at pi, at a probability, for precision or for recall, or so that they match one's own labels.

No line serves everything: the higher it is, the more precise and the less complete is what is kept. Lines are given in d, log odds
minus those of pi; several recordings have one line for each. Pure functions; NumPy alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from actsort_core.calibration import Calibration, Evidence, Floats, Prior, calibrate
from actsort_core.errors import UsageError
from actsort_core.quality import Curve, Quality, curve, estimate
from actsort_core.solver import sigmoid

FAVOURED = 0.95  # the precision or recall that is aimed at
PI, PRECISION, RECALL, MATCH = "pi", "favour-precision", "favour-recall", "match-labels"
RULES = {
    PI: "where the score equals the estimated share of cells: the best balance of both kinds of error (default)",
    PRECISION: "higher: what is kept holds half as many others as at pi, and at most 5 %, by the estimate; some cells are lost",
    RECALL: "lower: half as many cells are lost as at pi, and at most 5 %, by the estimate; more others are kept",
    MATCH: "where decisions agree best with your own labels, audits weighed by how probable they were",
}


@dataclass(frozen=True, eq=False)
class Line:
    """A line that a rule found.

    Attributes
    ----------
    d
        ``(n_recordings,)`` above which a candidate is a cell.
    probability
        The calibrated probability there; NaN where it differs from recording to recording.
    quality
        What is expected of the decisions cut there.
    note
        Why it is not what was asked for, or "".
    """

    d: Floats
    probability: float
    quality: Quality
    note: str = ""


def parse_rule(text: float | str) -> float | str:
    """A rule by its name, or a number as a calibrated probability.

    Raises
    ------
    UsageError
        It is neither.
    """
    if isinstance(text, str) and (name := text.strip().lower().replace("_", "-").replace(" ", "-")) in RULES:
        return name
    try:
        value = float(text)
    except (TypeError, ValueError):
        value = -1.0
    if not 0 <= value <= 1:
        raise UsageError(f"{text!r} is no place for the line.", f"Give a probability from 0 to 1, or one of {', '.join(RULES)}.")
    return value


def line_for(
    rule: float | str,
    evidence: Evidence,
    calibration: Calibration | None = None,
    inclusion: Floats | None = None,
    prior: Prior | None = None,
) -> Line:
    """Where a rule cuts, and what is expected of it.

    Parameters
    ----------
    rule
        See `parse_rule`.
    evidence, calibration, prior
        As for `quality.estimate`.
    inclusion
        ``(k,)`` probabilities with which the evidence's audits were drawn, for `match-labels`.

    Raises
    ------
    UsageError
        There is no such rule.
    """
    rule = parse_rule(rule)
    calibration = calibration or calibrate(evidence, prior)
    n = len(evidence.shares)
    note = ""
    if rule == PI:
        d = np.zeros(n)
    elif isinstance(rule, float):
        d = _at(calibration, rule, n)
    elif rule == MATCH:
        d, note = _matching(evidence, calibration, inclusion)
    else:
        read = curve(evidence, calibration, prior, sigmoid(np.linspace(-8, 8, 321)))
        found, note = _favouring(rule, read, estimate(evidence, calibration, 0.0, prior))
        d = np.zeros(n) if found is None else _at(calibration, found, n)
    at = [float(calibration.at(d[i : i + 1], i)[0]) for i in range(n)]
    same = n == 1 or max(at) - min(at) < 1e-3
    return Line(d, at[0] if same else float("nan"), estimate(evidence, calibration, d, prior), note)


def _at(calibration: Calibration, probability: float, n: int) -> Floats:
    return np.array([calibration.line(probability, i) for i in range(n)])


def _favouring(rule: str, read: Curve, at_pi: Quality) -> tuple[float | None, str]:
    """The calibrated probability at which the favoured read-out is reached with the least loss of the other; None for pi."""
    high = rule == PRECISION
    wanted, other = (read.precision[:, 0], read.recall[:, 0]) if high else (read.recall[:, 0], read.precision[:, 0])
    now, pays = (at_pi.precision.value, at_pi.recall.value) if high else (at_pi.recall.value, at_pi.precision.value)
    # Who asks for more than pi gives shall get more, also where pi gives enough: the errors of the favoured kind are halved.
    goal = max(FAVOURED, (1 + now) / 2)
    better = np.flatnonzero((other >= pays / 2) & (wanted > now))
    if not len(better):
        return None, "There is nothing to gain by moving the line."
    enough = better[wanted[better] >= goal]
    if len(enough):
        return float(read.probability[enough[0] if high else enough[-1]]), ""
    best = better[wanted[better].argmax()]
    what = "precision" if high else "recall"
    return float(read.probability[best]), f"A {what} of {goal:.2f} is out of reach; this line comes nearest ({wanted[best]:.2f})."


def _matching(evidence: Evidence, calibration: Calibration, inclusion: Floats | None) -> tuple[Floats, str]:
    """The line with the best expected balanced accuracy against the person's own labels.

    What is known of the unlabelled candidates is the calibrated probability, which the audits have already taught what this person
    calls a cell. With inclusion probabilities, what the audits say beyond it is added: each stands for one over its probability
    of candidates, held back so that a single audit cannot move the line far.
    """
    free = np.ones(len(evidence.d), bool)
    free[evidence.rows] = False
    chance = calibration.probability(evidence.d).astype(np.float64)
    d, cell, size = evidence.d[free].astype(np.float64), chance[free], np.ones(int(free.sum()))
    known = np.isfinite(evidence.left_out)
    if inclusion is not None and known.any():
        stands = 1 / np.clip(np.asarray(inclusion, np.float64)[known], 1e-12, 1)
        stands = np.minimum(stands, 5 * float(np.median(stands)))
        stands *= len(d) / stands.sum()
        # Difference estimator: the model's expectation, plus what the audits say differently, weighed down as long as they are few.
        trust = known.sum() / (known.sum() + 50.0)
        group = np.searchsorted(evidence.bounds, evidence.audits[known], side="right") - 1
        left = evidence.left_out[known]
        expected = np.array([float(calibration.at(left[i : i + 1], int(g))[0]) for i, g in enumerate(group)])
        d = np.concatenate([d, left])
        cell = np.concatenate([cell, trust * stands * (evidence.audit_y[known] - expected)])
        size = np.concatenate([size, np.zeros(len(left))])
    order = np.argsort(-d, kind="stable")
    tp, kept = np.cumsum(cell[order]), np.cumsum(size[order])
    cells, others = float(tp[-1]) if len(tp) else 0.0, float(kept[-1] - tp[-1]) if len(tp) else 0.0
    n = len(evidence.shares)
    if cells <= 0 or others <= 0:
        return np.zeros(n), "By the estimate everything left is of one kind: the line stays at the estimated share of cells."
    gain = tp / cells - (kept - tp) / others
    place = int(gain.argmax())
    here = d[order]
    return np.full(n, (here[place] + here[min(place + 1, len(here) - 1)]) / 2), ""
