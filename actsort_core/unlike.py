"""Does a recording look like the ones a model learned from? In words, with the names of the features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actsort_core import expand, models, warm
from actsort_core.features.table import FeatureTable
from actsort_core.models import Model

SMALL = 30  # with fewer candidates, scaling a recording by itself is guesswork
_SPREAD = 5.0  # unlike: a range (5 to 95 %) so many times another
_MATTERS = 0.1  # of the heaviest weight: lighter features do not change decisions much
_UNSURE = 0.1  # loss of mean confidence that is worth a warning
_SHARE = 1.5  # logit difference between the estimated share of cells here and in every recording the model learned from


def unlike(model: Model, table: FeatureTable, lacking: Sequence[str], log_odds: NDArray[np.float64], format: str = "") -> list[str]:
    """In words, where a recording looks unlike the ones a model learned from.

    Features are compared as measured: scaled by recording, the mean and spread of each are the same everywhere by construction.
    What scaling cannot undo shows in the scores: a model that is less sure than it was, or that finds another share of cells.

    Parameters
    ----------
    model
        Which model.
    table
        The recording's features, unscaled.
    lacking
        The model's features that it lacks (see `Model.match`).
    log_odds
        ``(n_cells,)``: what the model says.
    format
        Name of the format of the recording; "" if it is not known.
    """
    out = []
    learned = sorted({str(r["format"]) for r in model.provenance.get("recordings", ()) if r.get("format")})
    if format and learned and format not in learned:
        # tests/test_review4.py: how compact a footprint is tells cells from others in Suite2p's results, and the reverse in CaImAn's.
        out.append(
            f"a {format} result, and the model learned from {', '.join(learned)}: toolkits draw footprints in their own ways, and the same "
            "feature may mean the opposite - do not trust it before you have looked"
        )
    if len(table.values) < SMALL:
        out.append(f"only {len(table.values)} candidates: features are compared within a recording, which needs more")
    weight = np.abs(model.coef)
    place = {name: i for i, name in enumerate(model.names)}
    missing = [name for name in model.used() if expand.feature_of(name) in lacking]
    gone = list(dict.fromkeys(map(expand.feature_of, missing)))
    if gone:
        share = float(weight[[place[name] for name in missing]].sum() / weight.sum())
        versions = dict(zip(table.names, table.versions, strict=True))
        text = [
            f"{name} (version {model.versions[place[name]]} in the model, {versions[name]} here)"
            if name in versions and versions[name] != model.versions[place[name]]
            else name
            for name in gone
        ]
        much = " - do not trust it" if share > 0.5 else ""
        out.append(f"lacks features with {100 * share:.0f} % of the model's weight: {warm.listed(text)}{much}")
    here = models.quantiles_of(table, model.names)
    moved, flat = [], []
    total = dict.fromkeys(map(expand.feature_of, model.names), 0.0)
    for name, heavy in zip(model.names, weight, strict=True):  # a feature counts with its terms
        total[expand.feature_of(name)] = max(total[expand.feature_of(name)], float(heavy))
    weight = np.array([total.get(name, 0.0) for name in model.names])
    for i in np.argsort(-weight, kind="stable"):
        name = model.names[i]
        if weight[i] < _MATTERS * weight.max() or name in lacking:
            continue
        trained = model.quantiles[:, i]
        trained = trained[np.isfinite(trained).all(axis=1)]
        if here[i, 0] == here[i, -1]:
            flat.append(name)
        elif len(trained) and _moved(trained, here[i]):
            near = trained[np.argmin(np.abs(trained[:, 2] - here[i, 2]))]
            moved.append(f"{name} ({near[0]:.3g} to {near[-1]:.3g} there, {here[i, 0]:.3g} to {here[i, -1]:.3g} here)")
    if flat:
        out.append(f"hardly any variation in {warm.listed(flat)}, which the model goes by")
    if moved:
        out.append(f"measured on another scale than where the model learned: {warm.listed(moved)}")
    return out + _scores(model, log_odds)


def _moved(trained: NDArray[np.float32], here: NDArray[np.float32]) -> bool:
    """Whether a feature's middle half lies outside that of every training recording, or its range is many times another."""
    apart = (here[3] < trained[:, 1]) | (here[1] > trained[:, 3])
    # From 5 to 95 %, not between the quartiles: many features are 0 for most candidates.
    ranges = np.maximum(trained[:, -1] - trained[:, 0], np.maximum(1e-6 * np.abs(trained[:, 2]), 1e-12))
    mine = max(float(here[-1] - here[0]), 1e-6 * abs(float(here[2])), 1e-12)
    return bool((apart | (np.maximum(ranges / mine, mine / ranges) > _SPREAD)).all())


def _scores(model: Model, log_odds: NDArray[np.float64]) -> list[str]:
    """What the model's own scores say about how much it is at home here."""
    out: list[str] = []
    trained = [r for r in model.provenance.get("recordings", ()) if r.get("share_of_cells") is not None]
    if not len(log_odds) or not len(model.scores):
        return out

    def sure(scores: NDArray[Any]) -> NDArray[np.float64]:
        return 0.5 * (1 + np.tanh(0.5 * np.abs(np.asarray(scores, np.float64))))

    mine = sure(np.quantile(log_odds, models.QUANTILES)).mean()
    theirs = sure(model.scores).mean(axis=1)
    if mine < theirs.min() - _UNSURE:
        out.append(f"the model is less sure here than where it learned (confidence {mine:.2f} against {theirs.min():.2f})")
    share = float((0.5 * (1 + np.tanh(0.5 * log_odds))).mean())
    shares = [float(r["share_of_cells"]) for r in trained]
    if shares and all(abs(_logit(share) - _logit(other)) > _SHARE for other in shares):
        nearest = min(shares, key=lambda other: abs(_logit(share) - _logit(other)))
        out.append(f"it takes {100 * share:.0f} % of the candidates for cells, where it learned they were {100 * nearest:.0f} %")
    return out


def _logit(p: float) -> float:
    p = min(max(p, 1e-6), 1 - 1e-6)
    return math.log(p / (1 - p))
