"""A CNMF-E result of our own making, from recordings that came from elsewhere: what `actsort convert` writes for ``cnmfe``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from actsort_adapters import _mat_new
from actsort_adapters._cnmfe_prior import IND_DEL
from actsort_adapters._mat_curation import CURATION, carried, check_pairs, some
from actsort_core.atomic import commit, staged
from actsort_core.model import Curation, Recording

HOST = "CNMF-E"
_CN = ("Cn", "summary_image", "meanImg", "mean", "max_proj", "max_image", "max_im")


def losses(recordings: Sequence[Recording], curations: Sequence[Curation | None]) -> tuple[str, ...]:
    """See ``CnmfeFormat.losses``."""
    check_pairs(recordings, curations, HOST)
    (recording,) = recordings
    out = []
    kept = {_image(recording), "PNR"}
    if images := [name for name in recording.images if name not in kept]:
        out.append(f"The images {some(images)}: {HOST} keeps a correlation image (Cn) and PNR.")
    if metrics := [name for name in recording.metrics if name not in _kernel(recording)]:
        out.append(f"The host's statistics {some(metrics)}: {HOST} has no place for them.")
    return tuple(out)


def _image(recording: Recording) -> str | None:
    return next((name for name in _CN if name in recording.images), None)


def _kernel(recording: Recording) -> list[str]:
    """Names of the columns of P.kernel_pars, as we read them."""
    names = [name for name in ("kernel_par_1", "kernel_par_2") if name in recording.metrics]
    return names if names != ["kernel_par_2"] else []


def create(recordings: Sequence[Recording], curations: Sequence[Curation | None], dst: Path) -> tuple[Path, ...]:
    """See ``CnmfeFormat.create``."""
    check_pairs(recordings, curations, HOST)
    _mat_new.check_free(dst)
    (recording,), (curation,) = recordings, curations
    height, width = recording.fov
    n_cells = recording.n_cells
    pixels = recording.footprints.indices.astype(np.int64)
    rows = pixels % width * height + pixels // width  # column-major
    stored = sp.csc_matrix((recording.footprints.data.astype(np.float64), rows, recording.footprints.indptr), recording.footprints.shape)
    stored.sort_indices()
    verdict, ours = carried(recording, curation, np.asarray(stored.sum(axis=0), np.float64).ravel())
    results: dict[str, Any] = {"A": stored}
    if recording.denoised is not None:
        results["C"] = _mat_new.Traces(recording.denoised, 0)
    results["C_raw"] = _mat_new.Traces(recording.traces, 0)
    if recording.spikes is not None:
        results["S"] = _mat_new.Traces(recording.spikes, 0)
    results["options"] = {"d1": np.full((1, 1), float(height)), "d2": np.full((1, 1), float(width))}
    results["Fs"] = np.full((1, 1), np.nan if recording.fps is None else float(recording.fps))
    if (name := _image(recording)) is not None:
        results["Cn"] = np.asarray(recording.images[name], np.float64)
    if "PNR" in recording.images:
        results["PNR"] = np.asarray(recording.images["PNR"], np.float64)
    results["ids"] = np.arange(1, n_cells + 1, dtype=np.float64).reshape(1, -1)
    results["tags"] = np.zeros((n_cells, 1), np.uint16)
    if names := _kernel(recording):
        results["P"] = {"kernel_pars": np.stack([np.asarray(recording.metrics[name], np.float64) for name in names], axis=1)}
    if recording.movie_path is not None:
        results["file"] = str(recording.movie_path)
    variables: dict[str, Any] = {"results": results}
    if curation is not None or verdict.any():  # an ind_del of zeros would say that all are kept
        variables[IND_DEL] = (verdict < 0).reshape(1, -1)
        variables[CURATION] = ours.document()
    with staged(dst) as tmp:
        _mat_new.write(tmp, variables)
        commit(tmp, dst)
    return (dst,)
