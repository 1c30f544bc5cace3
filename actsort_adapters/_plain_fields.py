"""What the plain layouts (NPZ, CSV) have in common: named values of one recording, in and out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from actsort_core.errors import FormatError
from actsort_core.model import Curation, Prior, Recording, TraceArray, as_footprints

MAX_PIXELS = 1 << 30  # of a field of view; a larger one is a damaged number, and full-field images of it would fill the memory
MATRICES = ("traces", "denoised", "spikes")
ORIGIN = ("original_path", "original_format", "original_name")  # where a part of another result comes from (actsort export --accepted)
HELP = "See docs/formats/plain.md for the layout."


@dataclass(frozen=True, eq=False)
class Fields:
    """The values of one recording as a plain layout names them; what is missing is None or empty.

    Attributes
    ----------
    fov, footprints, traces, denoised, spikes, images, metrics, fps
        As in :class:`actsort_core.model.Recording`.
    accepted
        ``(n_cells,)`` float64: 1 accepted, 0 rejected, NaN undecided.
    probability
        ``(n_cells,)`` float64, NaN where unknown.
    index
        ``(n_cells,)`` int64: where each candidate was in the result this is a part of.
    texts
        ``name``, ``trace_kind``, ``movie`` and those of `ORIGIN`.
    """

    fov: tuple[int, ...]
    footprints: sp.csc_matrix
    traces: TraceArray
    denoised: TraceArray | None = None
    spikes: TraceArray | None = None
    fps: float | None = None
    accepted: NDArray[np.float64] | None = None
    probability: NDArray[np.float64] | None = None
    index: NDArray[np.int64] | None = None
    images: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    metrics: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def sparse(path: Path, fov: Sequence[int], pixels: NDArray[Any], weights: NDArray[Any], cells: NDArray[Any], n_cells: int) -> sp.csc_matrix:
    """Footprints from a pixel (C order of `fov`), a weight and a candidate for each entry, each ``(n_entries,)``.

    Raises
    ------
    FormatError
        A pixel lies outside the field of view, or a candidate has no trace.
    """
    n_pixels = check_fov(path, fov)
    if len(pixels) and (int(pixels.min()) < 0 or int(pixels.max()) >= n_pixels):
        raise FormatError(
            f"{path} has footprints with pixel {int(pixels.max())} in a field of view of {n_pixels} pixels.", "Pixels count from 0."
        )
    if len(cells) and (int(cells.min()) < 0 or int(cells.max()) >= n_cells):
        raise FormatError(f"{path} has a footprint of cell {int(cells.max())} but {n_cells} traces.", "Cells count from 0. " + HELP)
    return as_footprints(sp.coo_matrix((weights, (pixels, cells)), shape=(n_pixels, n_cells)), n_pixels)


def check_fov(path: Path, fov: Sequence[int]) -> int:
    """Number of pixels of a field of view that was read from a file."""
    n_pixels = 1
    for size in fov:
        n_pixels *= int(size)  # of Python's integers: no overflow
    if len(fov) not in (2, 3) or min(fov) < 1 or n_pixels > MAX_PIXELS:
        raise FormatError(
            f"{path} has a field of view of {tuple(int(n) for n in fov)}.", "Give it as (rows, columns) or (rows, columns, depth)."
        )
    return n_pixels


def build(path: Path, name: str, format_name: str, fields: Fields) -> Recording:
    """The recording that `fields` of `path` describe.

    Raises
    ------
    FormatError
        Sizes disagree.
    """
    n_cells = int(fields.footprints.shape[1])
    shape = tuple(fields.traces.shape)
    if len(shape) == 2 and shape[0] != n_cells == shape[1]:
        raise FormatError(f"{path} has {n_cells} footprints and traces of shape {shape}.", "They seem to be transposed: save traces.T.")
    for key in ("denoised", "spikes"):
        other = getattr(fields, key)
        if other is not None and tuple(other.shape) != shape:
            raise FormatError(f"{path} has traces of shape {shape} but {key} of {tuple(other.shape)}.", HELP)
    notes = list(fields.notes)
    verdict, probability = np.zeros(n_cells, np.int8), np.full(n_cells, np.nan)
    if fields.accepted is not None:
        _check_length(path, "accepted", fields.accepted, n_cells)
        bad = ~np.isin(fields.accepted, (0, 1, -1)) & ~np.isnan(fields.accepted)
        if bad.any():
            raise FormatError(
                f"{path}: accepted is {fields.accepted[bad][0]:g} for candidate {int(np.flatnonzero(bad)[0])}.",
                "Use 1 for accepted, 0 for rejected, -1 or NaN for undecided. " + HELP,
            )
        verdict[fields.accepted == 1], verdict[fields.accepted == 0] = 1, -1
    if fields.probability is not None:
        _check_length(path, "probability", fields.probability, n_cells)
        probability = fields.probability.astype(np.float64)
        outside = (probability < 0) | (probability > 1)
        if outside.any():
            notes.append(f"{int(outside.sum())} probabilities are not between 0 and 1 and were not used.")
            probability[outside] = np.nan
    info: dict[str, Any] = {key: fields.texts[key] for key in ORIGIN if key in fields.texts}
    if fields.index is not None:
        _check_length(path, "index", fields.index, n_cells)
        info["original_index"] = fields.index.tolist()
    fps = fields.fps
    if fps is not None and not (np.isfinite(fps) and fps > 0):
        notes.append(f"The frame rate is given as {fps:g} and was not used.")
        fps = None
    movie = fields.texts.get("movie", "")
    return Recording(
        name=name,
        path=path,
        format=format_name,
        fov=tuple(int(n) for n in fields.fov),
        footprints=fields.footprints,
        traces=fields.traces,
        trace_kind=fields.texts.get("trace_kind", "as given"),
        fps=fps,
        prior=Prior(verdict, probability),
        metrics=fields.metrics,
        images=fields.images,
        denoised=fields.denoised,
        spikes=fields.spikes,
        movie_path=Path(movie) if movie else None,
        info=info,
        notes=tuple(notes),
    )


def _check_length(path: Path, key: str, values: NDArray[Any], n_cells: int) -> None:
    if values.shape != (n_cells,):
        raise FormatError(f"{path} has {n_cells} candidates but {key} of shape {values.shape}.", HELP)


def decisions(recording: Recording, curation: Curation | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`Fields.accepted` and `Fields.probability` of a recording by the decisions on it; None: by the prior."""
    if curation is not None:
        accepted = np.where(curation.undecided, np.nan, curation.accepted.astype(np.float64))
        return accepted, np.where(curation.undecided, np.nan, curation.host_probability())
    accepted = np.select([recording.prior.verdict > 0, recording.prior.verdict < 0], [1.0, 0.0], np.nan)
    return accepted, np.asarray(recording.prior.probability, np.float64)


def describe(recording: Recording, curation: Curation | None) -> Fields:
    """What a plain layout says about a recording and the decisions on it."""
    accepted, probability = decisions(recording, curation)
    texts = {"name": recording.name, "trace_kind": recording.trace_kind}
    texts |= {"movie": str(recording.movie_path)} if recording.movie_path is not None else {}
    texts |= {key: str(recording.info[key]) for key in ORIGIN if key in recording.info}
    index = recording.info.get("original_index")
    return Fields(
        fov=recording.fov,
        footprints=recording.footprints,
        traces=recording.traces,
        denoised=recording.denoised,
        spikes=recording.spikes,
        fps=recording.fps,
        accepted=accepted,
        probability=probability,
        index=np.asarray(index, np.int64) if index is not None and len(index) == recording.n_cells else None,
        images=recording.images,
        metrics=recording.metrics,
        texts=texts,
    )


def group_names(recordings: Sequence[Recording]) -> list[str]:
    """A name for each of several recordings that can be part of a path, unique whatever the case."""
    names: list[str] = []
    for recording in recordings:
        name = re.sub(r"[^\w .+-]+", "_", recording.name).strip(" .") or "recording"
        tried, number = name, 2
        while tried.lower() in {taken.lower() for taken in names}:
            tried, number = f"{name}_{number}", number + 1
        names.append(tried)
    return names
