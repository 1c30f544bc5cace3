"""A CaImAn result of our own making, from recordings that came from elsewhere: what `actsort convert` writes for ``caiman``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from actsort_adapters._caiman_write import METRICS, decision_fields
from actsort_core.atomic import commit, staged
from actsort_core.errors import UsageError
from actsort_core.model import Curation, Recording

_BLOCK = 1 << 22  # trace values held at a time
# What cnm.save writes for None. Other fields of Estimates get CaImAn's defaults when load_CNMF finds them missing.
_NONE = ("A_thr", "F_dff", "R", "S", "W", "b0", "center", "discarded_components", "sn", "bl", "c1", "lam", "neurons_sn")
_GROUPS = ("init", "merging", "motion", "online", "patch", "preprocess", "quality", "ring_CNN", "spatial", "temporal")


def create(recordings: Sequence[Recording], curations: Sequence[Curation | None], dst: Path) -> tuple[Path, ...]:
    """Write one file per recording in the layout of CaImAn 1.12's ``cnm.save``, loadable with ``load_CNMF``.

    Parameters
    ----------
    recordings, curations
        What to write, going together; None where nobody decided: then the prior's verdicts become ``idx_components``.
    dst
        The file for a single recording; for several, ``<stem>_<name><suffix>`` beside it. Must end in .hdf5 or .h5.

    Notes
    -----
    A: ``(n_pixels, n_cells)`` float64 CSC, Fortran order of `fov`, columns of unit L2 norm. C and YrA: ``(n_cells, n_frames)``
    float64, multiplied by that norm, so that A @ C is what footprints @ traces was. C is the recording's denoised trace and YrA
    the rest; without a denoised one C is the trace and YrA 0.
    """
    if len(recordings) != len(curations) or not recordings:
        raise UsageError(f"There are {len(recordings)} recordings but {len(curations)} curations.", "Pass one, or None, for each.")
    if dst.suffix.lower() not in (".hdf5", ".h5"):
        raise UsageError(f"{dst.name} is no name CaImAn would load.", "End it in .hdf5.")
    targets = [dst] if len(recordings) == 1 else [dst.with_name(f"{dst.stem}_{_safe(r.name)}{dst.suffix}") for r in recordings]
    if len(set(targets)) < len(targets):
        raise UsageError("Two recordings have the same name.", "Write them one at a time.")
    for target in targets:
        if target.exists():
            raise UsageError(f"{target} exists already.", "Choose another name: nothing is overwritten.")
    for recording, curation in zip(recordings, curations, strict=True):
        if curation is not None and curation.n_cells != recording.n_cells:
            raise UsageError(f"{recording.name} has {recording.n_cells} candidates, its curation {curation.n_cells}.")
    for recording, curation, target in zip(recordings, curations, targets, strict=True):
        with staged(target) as tmp:
            _write(recording, curation, tmp)
            commit(tmp, target)
    return tuple(targets)


def _safe(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name).strip("._") or "recording"


def _write(recording: Recording, curation: Curation | None, tmp: Path) -> None:
    import h5py

    footprints, norms = _fortran_unit_norm(recording)
    n_pixels, n_cells = footprints.shape
    dims = np.asarray(recording.fov, np.int64)
    with h5py.File(tmp, "w") as file:
        file["dims"] = dims
        file["dview"] = "NoneType"
        file["skip_refinement"] = False
        file["remove_very_bad_comps"] = False
        if recording.movie_path is not None and recording.movie_path.suffix == ".mmap":
            file.attrs["mmap_file"] = str(recording.movie_path)
        estimates = file.create_group("estimates")
        for key in _NONE:
            estimates[key] = "NoneType"
        for key in ("data", "indices", "indptr"):
            estimates[f"A/{key}"] = getattr(footprints, key)
        estimates["A/shape"] = np.asarray(footprints.shape, np.int64)
        estimates["dims"] = dims
        estimates["nr"] = n_cells
        # No background, as CNMF-E writes it: the plots multiply b by f and cannot do that with None.
        estimates["b"] = np.zeros((n_pixels, 0), np.float32)
        estimates["f"] = np.zeros((0, recording.n_frames), np.float32)
        _traces(recording, norms, estimates)
        metrics = dict(recording.metrics)
        if "SNR_comp" in metrics and "r_values" in metrics:
            # As evaluate_components with use_cnn=False leaves it; with None, filter_components would evaluate everything anew.
            metrics.setdefault("cnn_preds", np.empty(0))
            file["params/quality/use_cnn"] = "cnn_preds" in recording.metrics
        for key in METRICS:
            values = metrics.get(key)
            # CaImAn up to 1.11.3 refuses to save arrays that hold NaN.
            estimates[key] = "NoneType" if values is None or np.isnan(values).any() else np.asarray(values, np.float64)
        if "Cn" in recording.images:
            estimates["Cn"] = recording.images["Cn"]
        for key, found in _decisions(recording, curation).items():
            estimates[key] = "NoneType" if found is None else found
        for name in _GROUPS:
            file.require_group(f"params/{name}")
        data = file.create_group("params/data")
        data.attrs["caiman_version"] = "1.12.1"  # whose layout this is
        data["dims"] = dims
        if recording.fps is not None:
            data["fr"] = float(recording.fps)
        file["params/motion/is3D"] = len(dims) == 3


def _fortran_unit_norm(recording: Recording) -> tuple[sp.csc_matrix, NDArray[np.float64]]:
    matrix = recording.footprints.astype(np.float64)
    norms = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=0)).ravel())
    norms[norms == 0] = 1  # an empty footprint stays empty
    pixels = np.ravel_multi_index(np.unravel_index(matrix.indices, recording.fov), recording.fov, order="F")
    weights = matrix.data / np.repeat(norms, np.diff(matrix.indptr))
    # int32 is what CaImAn's own files hold, and all its compiled code takes
    out = sp.csc_matrix((weights, pixels.astype(np.int32), matrix.indptr.astype(np.int32)), shape=matrix.shape)
    out.sort_indices()
    return out, norms


def _traces(recording: Recording, norms: NDArray[np.float64], estimates: Any) -> None:
    shape = (recording.n_cells, recording.n_frames)
    denoised = estimates.create_dataset("C", shape, np.float64)
    residual = estimates.create_dataset("YrA", shape, np.float64)
    source = recording.traces if recording.denoised is None or recording.denoised.shape != shape else recording.denoised
    step = max(1, _BLOCK // max(1, recording.n_frames))
    for first in range(0, shape[0], step):
        rows = slice(first, first + step)
        scale = norms[rows, None]
        clean = np.asarray(source[rows], np.float64)
        denoised[rows] = scale * clean
        with np.errstate(invalid="ignore"):  # inf - inf
            residual[rows] = scale * (np.asarray(recording.traces[rows], np.float64) - clean)


def _decisions(recording: Recording, curation: Curation | None) -> dict[str, NDArray[np.int64] | None]:
    """The decision fields; without a curation only the host's verdicts, as thresholds: nobody said anything in a GUI."""
    if curation is not None:
        return dict(decision_fields(curation))
    verdict = recording.prior.verdict
    if not verdict.any():
        return {"idx_components": None, "idx_components_bad": None}
    good = verdict > 0
    return {"idx_components": np.flatnonzero(good).astype(np.int64), "idx_components_bad": np.flatnonzero(~good).astype(np.int64)}
