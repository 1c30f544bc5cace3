"""An EXTRACT result of our own making, from recordings that came from elsewhere: what `actsort convert` writes for ``extract``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from actsort_adapters import _mat_new
from actsort_adapters._extract_read import FINAL, IMAGES, METRICS, USER
from actsort_adapters._mat_curation import CURATION, carried, check_pairs, some
from actsort_core.atomic import commit, staged
from actsort_core.model import Curation, Recording

HOST = "EXTRACT"
# What other hosts call the same image; the first that is there is taken
_SAME_IMAGE = {
    "summary_image": ("summary_image", "Cn", "meanImg", "mean", "mean_image", "meanImgE"),
    "max_image": ("max_image", "max_im", "max_proj", "max"),
    "F_per_pixel": ("F_per_pixel",),
}


def losses(recordings: Sequence[Recording], curations: Sequence[Curation | None]) -> tuple[str, ...]:
    """See ``ExtractFormat.losses``."""
    check_pairs(recordings, curations, HOST)
    (recording,) = recordings
    out = lost_traces(recording, HOST)
    images = [name for name in recording.images if name not in _images(recording).values()]
    if images:
        out.append(f"The images {some(images)}: {HOST} keeps a summary image and a maximum projection.")
    metrics = [name for name in recording.metrics if name not in METRICS]
    if metrics:
        out.append(f"The host's statistics {some(metrics)}: {HOST} keeps only its own.")
    return tuple(out)


def lost_traces(recording: Recording, host: str) -> list[str]:
    """Sentences about what a file with one kind of traces does not keep."""
    out = []
    if recording.denoised is not None and recording.denoised is not recording.traces:
        out.append(f"The denoised traces: {host} has one kind of traces.")
    if recording.spikes is not None:
        out.append(f"The spikes: {host} has no place for them.")
    if recording.movie_path is not None:
        out.append(f"Where the movie is: {host} does not keep that.")
    return out


def create(recordings: Sequence[Recording], curations: Sequence[Curation | None], dst: Path) -> tuple[Path, ...]:
    """See ``ExtractFormat.create``."""
    check_pairs(recordings, curations, HOST)
    _mat_new.check_free(dst)
    (recording,), (curation,) = recordings, curations
    height, width = recording.fov
    footprints = recording.footprints
    verdict, ours = carried(recording, curation, np.asarray(footprints.sum(axis=0, dtype=np.float64)).ravel())
    images = {where: np.asarray(recording.images[name], np.float32) for where, name in _images(recording).items()}
    # cell_check.m draws its map over the summary image: without one, all footprints together
    images.setdefault("summary_image", np.asarray(footprints.sum(axis=1), np.float32).reshape(height, width))
    images.setdefault("max_image", images["summary_image"])
    info: dict[str, Any] = {"version": "1.3.0 (its layout, written by ActSort for Python)", **images, "cellcheck": _cellcheck(recording)}
    if recording.fps is not None:
        info["fps"] = np.full((1, 1), float(recording.fps))
    output = {
        "spatial_weights": _mat_new.Images(footprints, (height, width)),
        "temporal_weights": _mat_new.Traces(recording.traces, 1),
        "info": info,
        "config": {
            "avg_cell_radius": np.full((1, 1), radius(footprints)),
            "use_gpu": np.zeros((1, 1)),
            "use_sparse_arrays": np.zeros((1, 1)),
        },
        USER: ours.label.astype(np.float64).reshape(1, -1),
        FINAL: verdict.astype(np.float64).reshape(1, -1),
    }
    with staged(dst) as tmp:
        _mat_new.write(tmp, {"output": output, CURATION: ours.document()})
        commit(tmp, dst)
    return (dst,)


def _images(recording: Recording) -> dict[str, str]:
    """Which of the recording's images goes where; each goes to one place."""
    out = {}
    for where in IMAGES:
        found = next((name for name in _SAME_IMAGE[where] if name in recording.images), None)
        if found is not None:
            out[where] = found
    return out


def _cellcheck(recording: Recording) -> dict[str, NDArray[Any]]:
    """EXTRACT's check of the cells: its statistics where they are known, NaN else (which cell_check.m takes as 0), none of them bad."""
    n_cells = recording.n_cells
    metrics = np.full((len(METRICS), n_cells), np.nan)
    for number, name in enumerate(METRICS):
        if name in recording.metrics:
            metrics[number] = recording.metrics[name]
    return {"metrics": metrics, "is_attr_bad": np.zeros((9, n_cells)), "is_bad": np.zeros((1, n_cells))}


def radius(footprints: sp.csc_matrix) -> float:
    """Radius of a disc as large as the median footprint above a tenth of its maximum, in pixels, at least 1."""
    sizes = []
    for start, stop in zip(footprints.indptr[:-1], footprints.indptr[1:], strict=True):
        weights = footprints.data[start:stop]
        sizes.append(int((weights > 0.1 * weights.max()).sum()) if len(weights) else 0)
    return max(1.0, math.sqrt(float(np.median(sizes)) / math.pi)) if sizes else 1.0
