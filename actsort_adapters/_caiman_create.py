"""A CaImAn result of our own making, from recordings that came from elsewhere: what `actsort convert` writes for ``caiman``."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from actsort_adapters import _caiman_carried
from actsort_adapters._caiman_folder import file_names
from actsort_adapters._caiman_write import FIELDS, METRICS, decision_fields
from actsort_core.atomic import commit, staged
from actsort_core.errors import UsageError, WriteError
from actsort_core.model import Curation, Prior, Recording

_BLOCK = 1 << 22  # trace values held at a time
# What cnm.save writes for None. Other fields of Estimates get CaImAn's defaults when load_CNMF finds them missing.
_NONE = ("A_thr", "F_dff", "R", "W", "b0", "center", "discarded_components", "sn", "bl", "c1", "lam", "neurons_sn")
_GROUPS = ("init", "merging", "motion", "online", "patch", "preprocess", "quality", "ring_CNN", "spatial", "temporal")


def losses(recordings: Sequence[Recording], curations: Sequence[Curation | None]) -> tuple[str, ...]:
    """What :func:`create` cannot carry over, a sentence each; see `CreatingFormat.losses`."""
    check(recordings, curations)
    out: list[str] = []
    if len(recordings) > 1:
        out.append(f"One file for all: CaImAn keeps one field of view per file, so there will be a folder with {len(recordings)} of them.")
    for recording, curation in zip(recordings, curations, strict=True):
        where = f"{recording.name}: " if len(recordings) > 1 else ""
        out += [where + sentence for sentence in _lost(recording, curation)]
    return tuple(out)


def _lost(recording: Recording, curation: Curation | None) -> list[str]:
    out = []
    if recording.fps is None:
        out.append("The frame rate is not known: CaImAn will assume 30 frames per second.")
    undecided = recording.prior.verdict == 0 if curation is None else curation.undecided & ~curation.accepted
    if undecided.any() and not undecided.all():
        out.append(
            f"That {int(undecided.sum())} candidates are undecided: CaImAn loses any that are in neither list, so they are rejected."
        )
    elif undecided.any() and curation is not None:
        out.append(f"That all {int(undecided.sum())} candidates are undecided: CaImAn will take them for rejected.")
    shape = (recording.n_cells, recording.n_frames)
    for name, source in (("denoised traces", recording.denoised), ("spikes", recording.spikes)):
        if source is not None and tuple(source.shape) != shape:
            out.append(f"The {name}: they are of shape {tuple(source.shape)}, CaImAn's must be of {shape}.")
    if recording.movie_path is not None and not _is_mmap(recording.movie_path):
        out.append(f"Where the movie is ({recording.movie_path.name}): CaImAn finds only memory-mapped files of its own.")
    if recording.info.get("n_discarded"):
        out.append(f"The {recording.info['n_discarded']} components that select_components had set aside.")
    if recording.info.get("has_dff"):
        out.append("F_dff: run detrend_df_f again.")
    if recording.info.get("n_background") or recording.info.get("mode") == "CNMF-E":
        out.append("The model of the background over time: only its mean is kept, as an image.")
    return out


def check(recordings: Sequence[Recording], curations: Sequence[Curation | None]) -> None:
    """Refuse what does not go together."""
    if len(recordings) != len(curations) or not recordings:
        raise UsageError(f"There are {len(recordings)} recordings but {len(curations)} curations.", "Pass one, or None, for each.")
    for recording, curation in zip(recordings, curations, strict=True):
        if curation is not None and curation.n_cells != recording.n_cells:
            raise UsageError(f"{recording.name} has {recording.n_cells} candidates, its curation {curation.n_cells}.")


def create(recordings: Sequence[Recording], curations: Sequence[Curation | None], dst: Path) -> tuple[Path, ...]:
    """Write the layout of CaImAn 1.12's ``cnm.save``, loadable with ``load_CNMF`` where the name ends in .hdf5 or .h5.

    Parameters
    ----------
    recordings, curations
        What to write, going together; None where nobody decided: then the prior's verdicts become ``idx_components``.
    dst
        The file for a single recording; for several a folder with one ``.hdf5`` file each. Must not exist.

    Notes
    -----
    A: ``(n_pixels, n_cells)`` float64 CSC, Fortran order of `fov`, in the scale the recording has: unit norm would round the float32
    weights, and what CaImAn does with a result (select, plot, evaluate, detrend) does not need it. C and YrA: ``(n_cells, n_frames)``
    float64. C is the recording's denoised trace and YrA the rest; without a denoised one C is the trace and YrA 0. The background's
    image becomes one component ``b`` that does not change over time.
    """
    check(recordings, curations)
    if dst.exists() or dst.is_symlink():
        raise UsageError(f"{dst} exists already.", "Choose another name: nothing is overwritten.")
    try:
        dst.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f"The folder {dst.parent} cannot be made ({error.strerror}).", "Choose another.") from error
    if len(recordings) == 1:
        _write_file(recordings[0], curations[0], dst)
        return (dst,)
    return _write_folder(recordings, curations, dst)


def _write_folder(recordings: Sequence[Recording], curations: Sequence[Curation | None], dst: Path) -> tuple[Path, ...]:
    names = file_names([r.name for r in recordings])
    tmp = None
    try:
        tmp = Path(tempfile.mkdtemp(dir=dst.parent, prefix=f".{dst.name}.", suffix=".tmp"))  # complete or not there: renamed at the end
        for recording, curation, name in zip(recordings, curations, names, strict=True):
            _write_file(recording, curation, tmp / name)
        shutil.copymode(dst.parent, tmp)  # mkdtemp makes folders that only their owner can open
        tmp.rename(dst)
    except OSError as error:
        if isinstance(error, WriteError):
            raise
        raise WriteError(f"Writing {dst} failed ({error}).", "Nothing is there. Is the disk full?") from error
    finally:
        if tmp is not None:
            shutil.rmtree(tmp, ignore_errors=True)
    return tuple(dst / name for name in names)


def _write_file(recording: Recording, curation: Curation | None, dst: Path) -> None:
    with staged(dst) as tmp:
        try:
            _write(recording, curation, tmp)
        except RuntimeError as error:  # what h5py raises when a disk fills up while it closes a file
            raise WriteError(f"Writing {dst} failed ({error}).", "Nothing is there. Is the disk full?") from error
        commit(tmp, dst)


def _write(recording: Recording, curation: Curation | None, tmp: Path) -> None:
    import h5py

    footprints = _fortran(recording)
    n_cells = footprints.shape[1]
    dims = np.asarray(recording.fov, np.int64)
    metrics, images = dict(recording.metrics), dict(recording.images)
    background = _background(recording, images)
    with h5py.File(tmp, "w") as file:
        file["dims"] = dims
        file["dview"] = "NoneType"
        file["skip_refinement"] = False
        file["remove_very_bad_comps"] = False
        movie = recording.movie_path
        # Without one refit has nothing to pass on; with "" the GUI asks for the movie, where it cannot bear None.
        file.attrs["mmap_file"] = str(movie) if movie is not None and _is_mmap(movie) else ""
        estimates = file.create_group("estimates")
        for key in _NONE:
            estimates[key] = "NoneType"
        for key in ("data", "indices", "indptr"):
            estimates[f"A/{key}"] = getattr(footprints, key)
        estimates["A/shape"] = np.asarray(footprints.shape, np.int64)
        estimates["dims"] = dims
        estimates["nr"] = n_cells
        # Autoregression unknown. As None it would be saved again as the number 0, which select_components cannot cut.
        estimates["g"] = np.zeros((n_cells, 1))
        # Without a background (d, 0), as CNMF-E writes it: the plots multiply b by f and cannot do that with None.
        estimates["b"] = background
        estimates["f"] = np.ones((background.shape[1], recording.n_frames), np.float32)
        _traces(recording, estimates)
        if "SNR_comp" in metrics and "r_values" in metrics:
            # As evaluate_components with use_cnn=False leaves it; with None, filter_components would evaluate everything anew.
            metrics.setdefault("cnn_preds", np.empty(0))
            file["params/quality/use_cnn"] = "cnn_preds" in recording.metrics
        for key in METRICS:
            values = metrics.pop(key, None)
            estimates[key] = "NoneType" if values is None else np.asarray(values, np.float64)
        if "Cn" in images:
            estimates["Cn"] = images.pop("Cn")
        decisions = _decisions(recording, curation)
        for key, found in decisions.items():
            estimates[key] = "NoneType" if found is None else found
        for name in _GROUPS:
            file.require_group(f"params/{name}")
        file["params/init/nb"] = background.shape[1]
        data = file.create_group("params/data")
        data.attrs["caiman_version"] = "1.12.1"  # whose layout this is
        data["dims"] = dims
        if recording.fps is not None:
            data["fr"] = float(recording.fps)
        file["params/motion/is3D"] = len(dims) == 3
        probability = recording.prior.probability if curation is None else curation.host_probability()
        verdict, lists = (_as_verdict(decisions, names, n_cells) for names in (FIELDS[:2], FIELDS[2:]))
        # a model's decisions in the lists must not be taken for a person's
        prior = Prior(verdict, probability, None if curation is None else lists)
        _caiman_carried.write(file, recording, metrics, images, prior)


def _is_mmap(movie: Path) -> bool:
    return re.search(r"_d1_\d+_d2_\d+_d3_\d+_order_[CF]_frames_\d+.*\.mmap$", movie.name) is not None


def _fortran(recording: Recording) -> sp.csc_matrix:
    matrix = recording.footprints
    pixels = np.ravel_multi_index(np.unravel_index(matrix.indices, recording.fov), recording.fov, order="F")
    # int32 is what CaImAn's own files hold, and all its compiled code takes
    index = np.int32 if matrix.nnz < 2**31 else np.int64
    parts = (matrix.data.astype(np.float64), pixels.astype(index), matrix.indptr.astype(index))
    out = sp.csc_matrix(parts, shape=matrix.shape)
    out.sort_indices()
    return out


def _background(recording: Recording, images: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """``(n_pixels, 1)`` in Fortran order, or ``(n_pixels, 0)``; takes it out of `images` where it can be told from b and f again."""
    image = images.get("background")
    if image is None or not recording.n_frames or not np.isfinite(image).all():
        return np.zeros((recording.footprints.shape[0], 0), np.float32)
    return np.asarray(images.pop("background"), np.float32).reshape(-1, 1, order="F")


def _traces(recording: Recording, estimates: Any) -> None:
    shape = (recording.n_cells, recording.n_frames)
    denoised = estimates.create_dataset("C", shape, np.float64)
    residual = estimates.create_dataset("YrA", shape, np.float64)
    spikes = recording.spikes if recording.spikes is not None and tuple(recording.spikes.shape) == shape else None
    if spikes is None:
        estimates["S"] = "NoneType"
    else:
        estimates.create_dataset("S", shape, np.float64)
    clean = recording.denoised if recording.denoised is not None and tuple(recording.denoised.shape) == shape else None
    step = max(1, _BLOCK // max(1, recording.n_frames))
    for first in range(0, shape[0], step):
        rows = slice(first, first + step)
        raw = np.asarray(recording.traces[rows], np.float64)
        fitted = raw if clean is None else np.asarray(clean[rows], np.float64)
        if clean is not None:  # C + YrA must be the trace, also where the denoised one is not a number
            fitted = np.where(np.isfinite(fitted), fitted, raw)
        rest = np.zeros_like(raw)
        np.subtract(raw, fitted, out=rest, where=np.isfinite(fitted))
        denoised[rows], residual[rows] = fitted, rest
        if spikes is not None:
            estimates["S"][rows] = np.asarray(spikes[rows], np.float64)


def _as_verdict(decisions: dict[str, NDArray[np.int64] | None], names: Sequence[str], n_cells: int) -> NDArray[np.int8]:
    verdict = np.zeros(n_cells, np.int8)
    for name, value in zip(names, (1, -1), strict=True):
        if (found := decisions.get(name)) is not None:
            verdict[found] = value
    return verdict


def _decisions(recording: Recording, curation: Curation | None) -> dict[str, NDArray[np.int64] | None]:
    """The decision fields; without a curation the host's verdicts as thresholds, and in the lists what a person said to the host."""
    if curation is not None:
        return dict(decision_fields(curation))
    verdict, person = recording.prior.verdict, recording.prior.person
    out: dict[str, NDArray[np.int64] | None] = {"idx_components": None, "idx_components_bad": None}
    if verdict.any():
        out = {"idx_components": _where(verdict > 0), "idx_components_bad": _where(verdict <= 0)}
    if person is not None and person.any():
        out |= {"accepted_list": _where(person > 0), "rejected_list": _where(person < 0)}
    return out


def _where(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    return np.flatnonzero(mask).astype(np.int64)
