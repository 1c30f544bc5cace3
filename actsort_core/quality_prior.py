"""Learning the prior of the quality estimate: annotators are replayed with the engine as it is, also with mistaken answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

import actsort_core
from actsort_core import appraise, calibration, learn, strategies
from actsort_core.annotated import Annotated
from actsort_core.calibration import FAR, Evidence, Floats, Prior, base, design, ends
from actsort_core.engine import Known
from actsort_core.errors import UsageError
from actsort_core.plugins import Plugins, load
from actsort_core.replays import START, Engine, Step, scores, steps
from actsort_core.solver import sigmoid
from actsort_core.store import Options
from actsort_core.transfer import Warm

COUNTS = (12, 17, 24, 34, 48, 68, 96, 136, 204, 340, 680)  # labels after which a run is looked at
LARGEST = 0.1  # share of the candidates up to which
RATES = (0.0, 0.05, 0.1, 0.2)  # of mistaken answers that are replayed
# What two recordings cannot show: chosen by hand, among a dozen settings, so that intervals hold on either recording with the prior of
# the other (tests/test_quality.py). The coverage measured there is therefore a little kinder than that on a recording nobody looked at.
BETWEEN = (0.015, 0.03, 0.1)
WARM = (0.1, 0.12, 0.12)
RECKONED = ((0.0, 0.02, 0.05, 0.1, 0.15, 0.2), (0.85, 0.06, 0.035, 0.028, 0.017, 0.01))  # rates of mistakes, and how probable each is
STRETCH, DISCREPANCY, UNFAMILIAR = 1.15, 0.3, 2.0
_FAINT = 2.0  # pseudo-candidates that keep log slopes finite where a side is empty


@dataclass(frozen=True, eq=False)
class Seen:
    """One run after so many labels.

    Attributes
    ----------
    recording, annotator, rate, seed
        Whose run.
    evidence
        What the estimate would be given.
    truth
        ``(n,)`` bool: what the annotator says of every candidate, mistakes included.
    shape
        ``(3,)`` offset and log slopes that fit the unlabelled candidates best.
    """

    recording: str
    annotator: str
    rate: float
    seed: int
    evidence: Evidence
    truth: NDArray[np.bool_]
    shape: Floats

    @property
    def n(self) -> int:
        """Labels."""
        return len(self.evidence.rows)

    def scores(self) -> dict[str, float]:
        """Of the decisions, labelled ones by their label, against `truth`."""
        decided = self.evidence.d > 0
        decided[self.evidence.rows] = self.evidence.y == 1
        return scores(decided, np.where(self.truth, 1, -1).astype(np.int8))

    def balanced_accuracy(self) -> float:
        """One of the `scores`."""
        return self.scores()["balanced_accuracy"]


def replayed(recordings: Sequence[Annotated]) -> list[tuple[Annotated, str]]:
    """Recordings and annotators that can be learned from: every candidate labelled, and thirty of each class."""
    return [
        (recording, who)
        for recording in recordings
        for who, said in recording.choices.items()
        if (said != 0).all() and min((said > 0).sum(), (said < 0).sum()) >= 10 * START
    ]


def default_engine(plugins: Plugins, seed: int, audits: bool = True, warm: Warm | None = None) -> Engine:
    """What a session has by default."""
    options = Options()
    strategy = strategies.find(plugins.strategies, options.strategy)
    return Engine(strategy, plugins.classifiers[options.classifier], plugins.strategies, warm, audits, seed)


def look(
    recording: Annotated,
    annotator: str,
    seed: int,
    rate: float = 0.0,
    counts: Sequence[int] = COUNTS,
    plugins: Plugins | None = None,
    engine: Engine | None = None,
) -> Iterator[Seen]:
    """Replay an annotator with the default engine, and look at the run after `counts` labels.

    Parameters
    ----------
    recording, annotator, seed
        Whose run.
    rate
        Share of the answers that are turned round, at random but always the same.
    counts
        Numbers of labels, ascending.
    plugins, engine
        Already loaded; another engine than the default one (its seed counts).
    """
    plugins = plugins or load()
    engine = engine or default_engine(plugins, seed)
    choices = recording.choices[annotator]
    wrong = np.random.default_rng([seed, 99]).random(len(choices)) < rate
    choices = np.where(wrong, -choices, choices).astype(np.int8)
    x = learn.stack([(recording.names, recording.features)])[1]
    rank = np.argsort(np.random.default_rng(seed).permutation(len(x)))
    wanted = [count for count in counts if count <= max(2 * START, LARGEST * len(x))]
    if not wanted:
        return
    for step in steps(x, choices, engine, seed, range(2 * START, wanted[-1] + 1)):
        if step.n in wanted:
            evidence = evidence_of(step, x, choices, engine, rank)
            truth = choices > 0
            yield Seen(recording.name, annotator, rate, seed, evidence, truth, _shape(evidence, truth, rate))


def evidence_of(step: Step, x: NDArray[np.float32], choices: NDArray[np.int8], engine: Engine, rank: NDArray[np.int64]) -> Evidence:
    """The evidence after a step of a replay."""
    rows = np.sort(step.asked)
    known = Known(rows, (choices[rows] > 0).astype(np.int8), step.labelled)
    return appraise.evidence(engine.setup(x, rank), known, step.fit, step.asked[np.isfinite(step.inclusion)])


def _shape(evidence: Evidence, truth: NDArray[np.bool_], rate: float) -> Floats:
    """The offset and log slopes under which what is said of the unlabelled candidates is most probable."""
    free = np.ones(len(truth), bool)
    free[evidence.rows] = False
    d = np.clip(evidence.d[free].astype(np.float64), -FAR, FAR)
    kinds, place, size = np.unique(np.round(d / calibration.STEP), return_inverse=True, return_counts=True)
    cells = np.bincount(place.ravel(), truth[free])
    below, above = np.minimum(kinds, 0) * calibration.STEP, np.maximum(kinds, 0) * calibration.STEP
    offset, least = base(evidence.shares[0], rate), ends(rate)

    def loss(t: Floats) -> tuple[float, Floats]:
        low, high = np.exp(np.clip(t[1:], -12, 6))
        s = sigmoid(offset + t[0] + low * below + high * above)
        p = least + (1 - 2 * least) * s
        value = -float(cells @ np.log(p) + (size - cells) @ np.log1p(-p)) + _FAINT / 2 * float(t[1:] @ t[1:])
        slope = -(cells / p - (size - cells) / (1 - p)) * (1 - 2 * least) * s * (1 - s)
        return value, np.array([slope.sum(), slope @ (low * below) + _FAINT * t[1], slope @ (high * above) + _FAINT * t[2]])

    found: Floats = minimize(loss, np.zeros(3), jac=True, method="BFGS").x
    return np.clip(found, -3, 3)


def learn_prior(seen: Sequence[Seen], features: tuple[str, ...] = (), provenance: dict[str, object] | None = None) -> Prior:
    """The prior that the runs suggest.

    Parameters
    ----------
    seen
        Of several annotators, with and without mistakes.
    features
        Names of the features.
    provenance
        What the JSON file says about its making.
    """
    n = np.array([one.n for one in seen], np.float64)
    rate = np.array([one.rate for one in seen])
    z = np.stack([design(one.evidence.weight, one.evidence.c, one.rate) for one in seen])
    shapes = np.stack([one.shape for one in seen])
    weight = n / (n + 30) / (1 + 10 * rate)  # early and mistaken runs scatter more
    root = np.sqrt(weight)[:, None]
    mean = np.linalg.lstsq(z * root, shapes * root, rcond=None)[0].T
    rest = (shapes - z @ mean.T) / np.sqrt(1 + 5 * rate)[:, None]
    products = (rest[:, :, None] * rest[:, None, :]).reshape(-1, 9)
    parts = np.linalg.lstsq(np.column_stack([np.ones(len(n)), 20 / n]) * weight[:, None], products * weight[:, None], rcond=None)[0]
    clean = [one for one in seen if one.rate == 0 and one.n >= 24]
    return Prior(
        mean=mean,
        spread=_positive(parts[0].reshape(3, 3)),
        early=_positive(parts[1].reshape(3, 3)),
        between=np.array(BETWEEN),
        warm=np.array(WARM),
        rates=np.array(RECKONED[0]),
        weights=np.array(RECKONED[1]),
        audit=_audit(clean),
        stretch=STRETCH,
        discrepancy=DISCREPANCY,
        unfamiliar=UNFAMILIAR,
        decay=_decay(clean),
        features=features,
        provenance=provenance or {},
    )


def _positive(matrix: Floats) -> Floats:
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return np.asarray((vectors * np.maximum(values, 3e-3)) @ vectors.T)


def _audit(seen: Sequence[Seen]) -> Floats:
    """How audits scored without their label lie beside the unlabelled candidates: shift, and factors of the slopes."""
    d, y, shape, offset = [], [], [], []
    for one in seen:
        known = np.isfinite(one.evidence.left_out)
        d.append(np.clip(one.evidence.left_out[known], -FAR, FAR))
        y.append(one.evidence.audit_y[known])
        shape.append(np.repeat(one.shape[None], int(known.sum()), axis=0))
        offset.append(np.full(int(known.sum()), float(base(one.evidence.shares[0], 0.0))))
    distance, said, t, b = np.concatenate(d), np.concatenate(y) > 0, np.concatenate(shape), np.concatenate(offset)
    low, high, least = np.exp(t[:, 1]) * np.minimum(distance, 0), np.exp(t[:, 2]) * np.maximum(distance, 0), ends(0.0)

    def loss(a: Floats) -> float:
        p = least + (1 - 2 * least) * sigmoid(b + t[:, 0] + a[0] + a[1] * low + a[2] * high)
        return -float(np.log(np.where(said, p, 1 - p)).sum()) + 25 * float(((a - [0, 1, 1]) ** 2).sum())

    return np.asarray(minimize(loss, np.array([0.0, 1.0, 1.0]), method="BFGS").x)


def _decay(seen: Sequence[Seen]) -> Floats:
    """5, 50 and 95 % quantiles over the runs of the power by which errors fall with the weight of the labels."""
    runs: dict[tuple[str, str, int], list[Seen]] = {}
    for one in seen:
        runs.setdefault((one.recording, one.annotator, one.seed), []).append(one)
    powers = []
    for run in runs.values():
        errors = np.log([max(1e-3, 1 - one.balanced_accuracy()) for one in run])
        sizes = np.log([one.evidence.weight for one in run])
        for i in range(len(run)):
            # A pair of counts apart by half at least: what fifty labels do to some hundred.
            powers += [(errors[i] - errors[j]) / (sizes[j] - sizes[i]) for j in range(i + 1, len(run)) if 0.4 < sizes[j] - sizes[i] < 1]
    return np.clip(np.quantile(powers, [0.05, 0.5, 0.95]), 0, 2) if powers else np.array([0.0, 0.2, 0.6])


def learn_from(
    recordings: Sequence[Annotated],
    seeds: int = 3,
    plugins: Plugins | None = None,
    progress: Callable[[int, int], None] | None = None,
    command: str = "",
) -> Prior:
    """Replay every annotator of the recordings and learn the prior: ``actsort quality-prior`` as a call.

    Parameters
    ----------
    recordings
        Sorted by people who labelled every candidate; several, or the prior is about one recording.
    seeds
        Runs per annotator and rate of mistakes.
    plugins, progress
        Already loaded; called with how many runs are done and of how many.
    command
        Kept in the provenance.

    Raises
    ------
    UsageError
        Nobody labelled enough.
    """
    plugins = plugins or load()
    runs = [(recording, who, seed, rate) for recording, who in replayed(recordings) for rate in RATES for seed in range(seeds)]
    if not runs:
        raise UsageError("No annotator labelled every candidate, and thirty of each class.", "The prior is learned from such files only.")
    seen: list[Seen] = []
    for done, (recording, who, seed, rate) in enumerate(runs, 1):
        seen += look(recording, who, seed, rate, plugins=plugins)
        if progress:
            progress(done, len(runs))
    names = tuple(dict.fromkeys(name for recording in recordings for name in recording.names))
    provenance = {
        "engine": f"{Options().classifier}, {Options().strategy}, audits among the questions (actsort {actsort_core.__version__})",
        "recordings": [recording.name for recording in recordings],
        "annotators": len({(recording.name, who) for recording, who, _, _ in runs}),
        "seeds": seeds,
        "command": command,
    }
    return learn_prior(seen, names, provenance)
