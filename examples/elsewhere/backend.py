"""ActSort as a backend of another library: a plain function from footprints and traces to decisions.

SpikeInterface labels units like this (``auto_label_units(analyzer, model)``): arrays in, a verdict and a probability for each out, and no
files to look after. Copy this file and change it.

>>> from backend import decide
>>> found = decide(masks, traces, fps=15, answer=lambda i: ask_somebody(i), questions=40)    # doctest: +SKIP
>>> masks[found.accepted], found.probability                                                # doctest: +SKIP
>>> decide(masks_of_tuesday, traces_of_tuesday, fps=15, model="our-model")                  # doctest: +SKIP
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

import actsort_core as actsort


@dataclass(frozen=True, eq=False)
class Decisions:
    """One of each per candidate, in the order of the footprints.

    Attributes
    ----------
    accepted
        ``(n_cells,)`` bool.
    probability
        ``(n_cells,)`` float64 of being a cell; NaN where there is no model (too few labels).
    origin
        ``(n_cells,)``: ``"label"`` (somebody said so), ``"model"``, or ``"none"`` (nobody decided: not accepted).
    notes
        What the person should know.
    """

    accepted: NDArray[np.bool_]
    probability: NDArray[np.float64]
    origin: NDArray[np.str_]
    notes: tuple[str, ...]


def decide(
    footprints: Any,
    traces: ArrayLike,
    fps: float | None = None,
    *,
    fov: tuple[int, ...] | None = None,
    metrics: Mapping[str, ArrayLike] | None = None,
    labels: Mapping[int, Any] | None = None,
    answer: Callable[[int], Any] | None = None,
    questions: int | str = 0,
    model: Path | str | None = None,
    folder: Path | str | None = None,
    seed: int = 0,
) -> Decisions:
    """Decide which candidates are cells.

    Parameters
    ----------
    footprints
        ``(n_cells, rows, columns)`` weights or masks; or a sparse matrix ``(pixels, n_cells)``, pixels in C order of `fov`.
    traces
        ``(n_cells, n_frames)``: fluorescence, neuropil-corrected if you can.
    fps
        Frames per second.
    fov
        ``(rows, columns)``, needed for sparse footprints.
    metrics
        Numbers of your own for each candidate, by name, each ``(n_cells,)``: the model learns from them.
    labels
        What is known already: candidate -> True, False or None (unsure).
    answer
        Asked about one candidate after the other; returns the same.
    questions
        How many labels there shall be in all, or a share like ``"1%"``.
    model
        A model to start from (``actsort model SESSION --save DIR``), or a session.
    folder
        Where labels are kept, so that the next call goes on with them. By default nothing is kept.
    seed
        Same inputs and seed, same questions and same decisions.

    Returns
    -------
    Decisions
        Labels first; everything else by the model that learned from them.

    Raises
    ------
    actsort.ActsortError
        Arrays do not fit together, or the model cannot be read; says what and what to do.
    """
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="actsort-") as place:
            return _decide(Path(place), footprints, traces, fps, fov, metrics, labels, answer, questions, model, seed)
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    return _decide(place, footprints, traces, fps, fov, metrics, labels, answer, questions, model, seed)


def decide_extractor(segmentation: Any, **options: Any) -> Decisions:
    """The same for any object with the methods of a RoiExtractors ``SegmentationExtractor``; see `decide` for the options."""
    ids = list(segmentation.get_roi_ids())
    masks = np.moveaxis(np.asarray(segmentation.get_roi_image_masks(roi_ids=ids)), -1, 0)  # (rows, columns, n_cells)
    traces = np.asarray(segmentation.get_traces(roi_ids=ids, name="raw")).T  # (n_frames, n_cells)
    return decide(masks, traces, float(segmentation.get_sampling_frequency()), **options)


def _decide(
    place: Path,
    footprints: Any,
    traces: ArrayLike,
    fps: float | None,
    fov: tuple[int, ...] | None,
    metrics: Mapping[str, ArrayLike] | None,
    labels: Mapping[int, Any] | None,
    answer: Callable[[int], Any] | None,
    questions: int | str,
    model: Path | str | None,
    seed: int,
) -> Decisions:
    path = place / "candidates.npz"  # docs/formats/plain.md
    arrays: dict[str, Any] = {"traces": np.asarray(traces, np.float32)}
    if sp.issparse(footprints):
        matrix = sp.csc_matrix(footprints)
        matrix.sort_indices()
        arrays.update(pixels=matrix.indices, weights=matrix.data, starts=matrix.indptr)
    else:
        arrays.update(footprints=np.asarray(footprints))
    arrays.update({f"metric_{name}": np.asarray(values) for name, values in (metrics or {}).items()})
    arrays.update({} if fov is None else {"fov": fov})
    arrays.update({} if fps is None else {"fps": fps})
    np.savez(path, **arrays)
    with actsort.open(path, seed=seed, warm_start=model, refit_wait=0) as session:
        known = {label.candidate: label.value for label in session.labels()}
        given = {session.id(index): session.options.class_of(value) for index, value in (labels or {}).items()}
        session.record([(which, value, session.annotator, "import", {}) for which, value in given.items() if known.get(which) != value])
        if answer is not None:
            session.sort(lambda candidate: answer(candidate.index), labels=questions)
        decisions = session.decisions()
        probability = np.array([decision.probability for decision in decisions], float)
        return Decisions(
            np.array([decision.accepted for decision in decisions], bool),
            probability,
            np.array([decision.origin for decision in decisions], "<U5"),
            tuple(session.notes),
        )
