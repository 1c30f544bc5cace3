"""What the quality estimate needs to know of a turn of the loop: audits scored by models that did not see their answers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from actsort_core import learn, quality
from actsort_core.engine import Known, Setup

MOST = 200  # audits that are scored; with more, the latest
_SAMPLE = 20_000  # candidates on which it is measured how pi moves when a label is left out


def evidence(
    setup: Setup,
    known: Known,
    fit: learn.Fit,
    audits: NDArray[np.int64],
    familiar: bool = True,
    repeats: tuple[int, int] = (0, 0),
) -> quality.Evidence:
    """Gather the evidence after a turn; costs one small refit for each audit.

    Parameters
    ----------
    setup, known, fit
        The loop, the labels, and the model fitted on just these.
    audits
        Candidates drawn at random (`audits.draw`), in the order they were asked; those without a label in `known` are left out.
    familiar, repeats
        See `calibration.Evidence`.

    Raises
    ------
    PluginError
        The classifier failed.
    """
    from actsort_core.classifiers import least

    audits = np.asarray(audits, np.int64)
    audits = audits[np.isin(audits, known.rows)][-MOST:]
    place = np.searchsorted(known.rows, audits)
    warm = setup.warm if fit.warm else None
    end = least(setup.x.shape[1])
    weight = float(len(known.rows)) + (0.0 if warm is None else float(warm.weight.sum()))
    return quality.Evidence(
        d=fit.distance(),
        shares=fit.shares,
        bounds=fit.bounds,
        rows=known.rows,
        y=known.y,
        audits=audits,
        audit_y=known.y[place],
        left_out=_left_out(setup, known, fit, place),
        weight=weight,
        c=float(getattr(fit.model, "C_", end)) / end,
        familiar=familiar,
        repeats=repeats,
    )


def _left_out(setup: Setup, known: Known, fit: learn.Fit, places: NDArray[np.int64]) -> NDArray[np.float64]:
    """The distances of labelled candidates by models fitted without their label; NaN where only one class is left to learn from."""
    sample = np.arange(0, len(setup.x), max(1, len(setup.x) // _SAMPLE))
    kept = np.union1d(sample, known.rows)
    x = setup.x if len(kept) == len(setup.x) else setup.x[kept]
    bounds, rows = np.searchsorted(kept, fit.bounds), np.searchsorted(kept, known.rows)
    parts = np.split(np.searchsorted(kept, sample), np.searchsorted(sample, fit.bounds[1:-1]))
    before = [_share(fit.probability[kept[part]]) for part in parts]
    lines = learn.log_odds_of(fit.shares)
    warm = setup.warm if fit.warm else None
    out = np.full(len(places), np.nan)
    for i, place in enumerate(places):
        rest = np.arange(len(rows)) != place
        if warm is None and len(np.unique(known.y[rest])) < 2:
            continue
        without = learn.fit(setup.classifier, x, rows[rest], known.y[rest], bounds=bounds, warm=warm, previous=fit)
        recording = int(np.searchsorted(fit.bounds, known.rows[place], side="right")) - 1
        moved = _share(without.probability[parts[recording]]) - before[recording]
        out[i] = float(without.score[rows[place]]) - float(lines[recording]) - moved
    return out


def _share(probability: NDArray[np.floating]) -> float:
    """The log odds of a mean probability."""
    return float(learn.log_odds_of(float(probability.mean(dtype=np.float64)))) if len(probability) else 0.0
