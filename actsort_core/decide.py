"""From labels and predictions to decisions: a person first, then the model, before there is one the host."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from actsort_core.model import CELL, UNSURE, CandidateId, Curation, Label, Predictions, Prior, Recording


def curate(
    recordings: Mapping[str, Recording],
    priors: Mapping[str, Prior],
    labels: Mapping[CandidateId, Label],
    predictions: Predictions,
    counts_as: Callable[[str], str],
) -> dict[str, Curation]:
    """The decisions on every candidate of every recording.

    Parameters
    ----------
    recordings, priors
        By key.
    labels
        Those in force.
    predictions
        Over all candidates, recording after recording.
    counts_as
        What a label's class counts as: cell, not_cell or unsure. The model decides on unsure ones.
    """
    out, start = {}, 0
    for key, recording in recordings.items():
        part = slice(start, start + recording.n_cells)
        p = predictions.probability[part].copy()
        start += recording.n_cells
        verdict = priors[key].verdict
        if predictions.known:  # there is a model, maybe of a warm start alone
            accepted, origin = predictions.decided()[part].copy(), np.full(len(p), "model", "<U5")
        else:
            accepted, origin = verdict > 0, np.where(verdict != 0, "prior", "none").astype("<U5")
        own = {candidate.index: label for candidate, label in labels.items() if candidate.recording == key}
        for index, label in own.items():
            kind = counts_as(label.value)
            if kind != UNSURE:
                accepted[index], origin[index] = kind == CELL, "label"
        out[key] = Curation(
            recording=key,
            fingerprint=recording.fingerprint,
            candidate_fingerprints=recording.candidate_fingerprints,
            accepted=accepted,
            origin=origin,
            probability=p,
            threshold=predictions.thresholds.get(key, predictions.threshold),
            labels=own,
            n_labels=predictions.n_labels,
            prior_probability=priors[key].probability,
        )
    return out
