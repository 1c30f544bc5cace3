"""CaImAn's own HDF5 results: what ``cnm.save`` writes for CNMF, CNMF-E, volumetric and online (OnACID) fits, and its GUI edits.

Reads them without CaImAn: the layout is the same since 1.3 (tried: 1.12.1, and the string encoding of 1.9.8). Easily got wrong:
footprints are flattened in Fortran order; ``idx_components`` is what CaImAn's own steps honour, while ``accepted_list`` and
``rejected_list`` are what a person said in the GUI; and ``select_components`` leaves those two behind in the old numbering.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import Any, TypeVar

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from actsort_adapters import _caiman_carried, _hdf5, _hdf5_host
from actsort_adapters._caiman_create import create, losses
from actsort_adapters._caiman_folder import results
from actsort_adapters._caiman_verdict import cannot_select, n_discarded, verdicts
from actsort_adapters._caiman_write import HOST_OVERWRITES, METRICS, decision_edit, plan_notes, stale
from actsort_core.errors import ChangedError, FormatError, MissingFileError, UsageError
from actsort_core.formats import Format, Sniff, WritePlan
from actsort_core.hookspecs import hookimpl
from actsort_core.model import Curation, Prior, Recording, as_footprints

_MAX_PIXELS = 2**31 - 1  # more would not fit the index type of a sparse footprint
_SCAN_BYTES = 1 << 29  # traces up to this size are checked for NaN while opening

T = TypeVar("T")


class CaimanFormat:
    """CaImAn results: one HDF5 file, one recording; or a folder of such files and nothing else."""

    name = "caiman"
    description = "CaImAn results saved by cnm.save (.hdf5): CNMF, CNMF-E, 3-D, OnACID; decisions go back into the same file"

    def sniff(self, path: Path) -> Sniff:
        """Whether `path` is an HDF5 file with a sparse ``/estimates/A``, or a folder of nothing but those; see `Format.sniff`."""
        return _hdf5_host.sniff(path, _sniff_open, self._sniff_folder)

    def _sniff_folder(self, path: Path) -> Sniff:
        files = results(path)
        if files is None:
            return Sniff(False, "a folder; CaImAn's results are single .hdf5 files, or a folder with nothing but those")
        for file in files:
            if not (answer := self.sniff(file)).yes:
                return Sniff(False, f"a folder with {file.name}, which is no CaImAn result ({answer.why})")
        return Sniff(True, f"a folder with {len(files)} CaImAn result(s)")

    def read(self, path: Path) -> tuple[Recording, ...]:
        """Read one result of ``cnm.save``, or all of a folder in natural order; see `Format.read`.

        Returns
        -------
        tuple of one Recording (one per file for a folder)
            ``fov``: /estimates/dims, ``(rows, columns[, depth])``. ``footprints``: /estimates/A, float32, re-ordered from
            CaImAn's Fortran to C order of pixels, CaImAn's scale (unit L2 norm; 7 to 13 in OnACID). ``traces``: C + YrA, or C
            where there is no YrA; ``denoised``: C, or None where YrA is 0 throughout; ``spikes``: S; all ``(n_cells, n_frames)``
            float32, read from disk on demand, in fluorescence per unit-norm footprint.
            ``metrics``: SNR_comp, r_values, cnn_preds, ecc where CaImAn computed them.
            ``images``: ``"Cn"`` (local correlations) and ``"background"`` (b0, or b times the mean of f). ``fps``:
            /params/data/fr, in Hz. In a converted file, also what ``/actsort`` keeps (see :mod:`._caiman_carried`).

        Raises
        ------
        FormatError
            The file is locked, truncated, inconsistent or not CaImAn's; says which part.
        """
        path = Path(path)
        if path.is_dir() and (files := results(path)):
            return tuple(recording for file in files for recording in self.read(file))
        if not path.is_file():
            raise MissingFileError(f"{path} is not a file.", "Pass the .hdf5 file that cnm.save wrote.")
        if (kind := _hdf5.kind_by_bytes(path)) != "hdf5":
            raise FormatError(f"{path} is {kind}.", "CaImAn's results are HDF5 files written by cnm.save.")
        with _hdf5.opened(path) as file:
            return (_recording(path, file),)

    def plan(self, recordings: Sequence[Recording], curations: Sequence[Curation]) -> WritePlan:
        """One file to replace per recording: the same file with the four decision fields of /estimates set; see `Format.plan`.

        All four are written (sorted unique int64): ``idx_components`` is what select_components, refit and the plots use, and
        needs its exact complement in ``idx_components_bad``; the two lists are what filter_components and the GUI keep.
        """
        if len(recordings) != len(curations):
            raise UsageError(f"There are {len(recordings)} recordings but {len(curations)} curations.", "Pass one for each.")
        edits, old, notes = [], dict[Path, str](), list[str]()
        for recording, curation in zip(recordings, curations, strict=True):
            if curation.n_cells != recording.n_cells:
                raise ChangedError(
                    f"{recording.path} holds {recording.n_cells} candidates, the decisions are about {curation.n_cells}.",
                    "Open the file again.",
                )
            edits.append(decision_edit(recording.path, curation))
            old.update(stale(recording.path))
            where = f"{recording.name}: " if len(recordings) > 1 else ""
            notes += [where + note for note in plan_notes(curation)]
        return WritePlan(tuple(edits), tuple(old.items()), (HOST_OVERWRITES, *notes))

    def losses(self, recordings: Sequence[Recording], curations: Sequence[Curation | None]) -> tuple[str, ...]:
        """What `create` could not carry over, a sentence each; see `CreatingFormat.losses`."""
        return losses(recordings, curations)

    def create(self, recordings: Sequence[Recording], curations: Sequence[Curation | None], dst: Path) -> tuple[Path, ...]:
        """Write results that CaImAn 1.12 loads: a file, or for several recordings a folder of files; see `CreatingFormat.create`.

        ``load_CNMF`` itself goes by the name: it wants files that end in ``.hdf5`` or ``.h5``.
        """
        return create(recordings, curations, Path(dst))


@hookimpl
def actsort_register_formats() -> Sequence[Format]:
    """Register CaImAn's format."""
    return [CaimanFormat()]


def read_dff(path: Path) -> NDArray[np.float32] | None:
    """``F_dff`` of a CaImAn result: ``(n_cells, n_frames)`` float32, dimensionless; None before ``detrend_df_f``.

    `Recording` has no place for it; ``info["has_dff"]`` says whether it is there. In one-photon files it is often unusable
    (values in the thousands), because the baseline it divides by is near zero.
    """
    with _hdf5.opened(Path(path)) as file:
        found = _hdf5.array(file, "estimates/F_dff")
        if found is None or found.ndim != 2:
            return None
        with np.errstate(over="ignore"):
            return found.astype(np.float32)


# Reading


def _sniff_open(file: Any) -> Sniff:
    if "nwb_version" in file.attrs:
        return Sniff(False, "an NWB file")
    estimates = _hdf5.group(file, "estimates")
    if estimates is None:
        names = sorted(name.decode("utf-8", "replace") for name, _ in zip(file.id, range(5), strict=False))
        return Sniff(False, f"HDF5 without /estimates (it holds {', '.join(names) or 'nothing'})")
    if _hdf5.group(estimates, "A") is None:
        return Sniff(False, "HDF5 with /estimates but no footprints in it (/estimates/A); was it saved before the fit?")
    return Sniff(True, "HDF5 with CaImAn's /estimates/A")


def _recording(path: Path, file: Any) -> Recording:
    notes: list[str] = []
    estimates = _hdf5.group(file, "estimates")
    if estimates is None:
        raise FormatError(f"{path} has no group /estimates.", "It is not a CaImAn result saved by cnm.save.")
    fov = _fov(path, file)
    footprints = _footprints(path, estimates, fov, notes)
    n_cells = int(footprints.shape[1])
    traces, kind, denoised = _traces(path, estimates, n_cells, notes)
    shape = (n_cells, int(traces.shape[1]))
    spikes = _optional(lambda: _rows(path, estimates, "S", shape, notes), notes)
    discarded = _optional(lambda: n_discarded(estimates), notes) or 0
    metrics = _metrics(estimates, n_cells, notes)
    verdict, person, evaluated = verdicts(estimates, n_cells, discarded, notes)
    if discarded:
        notes.append(
            f"{discarded} candidates were set aside by select_components (refit calls it, too) before this file was saved; they are not "
            "shown. To sort them too, use a file saved before, or call estimates.restore_discarded_components() and save."
        )
    elif not evaluated:
        notes.append(
            "CaImAn has not evaluated these components (no idx_components): metrics that are here may be those of an earlier fit."
            if metrics
            else "CaImAn has not evaluated these components (no SNR_comp, r_values or idx_components); run evaluate_components "
            "for better evidence."
        )
    info: dict[str, Any] = {
        "caiman_version": _optional(lambda: _version(file), notes),
        "mode": _optional(lambda: _mode(file, fov), notes) or "CNMF",
        "n_discarded": discarded,
        "n_background": _optional(lambda: _n_background(estimates), notes) or 0,
        "has_dff": _optional(lambda: _rows(path, estimates, "F_dff", shape, notes), notes) is not None,
        "evaluated": evaluated,
    }
    if problem := _optional(lambda: cannot_select(estimates, n_cells), notes):
        notes.append(problem)
    recording = Recording(
        name=path.stem,
        path=path,
        format=CaimanFormat.name,
        fov=fov,
        footprints=footprints,
        traces=traces,
        trace_kind=kind,
        fps=_optional(lambda: _fps(file), notes),
        prior=Prior(verdict, np.full(n_cells, np.nan), person),
        metrics=metrics,
        images=_images(estimates, fov, notes),
        denoised=denoised,
        spikes=spikes,
        movie_path=_optional(lambda: _movie(path, file), notes),
        info=info,
        notes=tuple(notes),
    )
    return _caiman_carried.add(recording, file)


def _optional(read: Callable[[], T], notes: list[str]) -> T | None:
    """What `read` gives; where that part of the file is broken, None and a note: one bad extra must not keep a file shut."""
    try:
        return read()
    except FormatError as error:
        notes.append(f"Left out: {error.what}")
        return None


def _fov(path: Path, file: Any) -> tuple[int, ...]:
    for place in ("estimates/dims", "dims", "params/data/dims"):
        dims = _hdf5.array(file, place)
        if dims is None:
            continue
        whole = dims.shape in ((2,), (3,)) and np.all(np.isfinite(dims) & (dims >= 1) & (dims == np.floor(dims)))
        fov = tuple(int(size) for size in dims) if whole else ()
        if not fov or math.prod(fov) > _MAX_PIXELS:
            raise FormatError(f"{path}: /{place} is {dims.ravel()[:5].tolist()}, not a field of view.", "The file is damaged.")
        return fov
    raise FormatError(f"{path} does not say how large its field of view is (/dims).", "Set cnm.dims and save it again.")


def _footprints(path: Path, estimates: Any, fov: tuple[int, ...], notes: list[str]) -> sp.csc_matrix:
    where, hint = f"{path}: /estimates/A", "The file is damaged, or was edited by hand."
    matrix = _hdf5.group(estimates, "A")
    if matrix is None:
        raise FormatError(f"{where} holds no sparse footprints.", "Was it saved before cnm.fit?")
    shape, indptr, indices = (_hdf5.array(matrix, name, "iu") for name in ("shape", "indptr", "indices"))
    data = _hdf5.array(matrix, "data")
    if shape is None or indptr is None or indices is None or data is None:
        raise FormatError(f"{where} lacks one of shape, indptr, indices, data.", hint)
    n_pixels = math.prod(fov)
    if shape.shape != (2,) or int(shape[0]) != n_pixels:
        raise FormatError(f"{where} has shape {shape.ravel()[:3].tolist()}, but {fov} has {n_pixels} pixels.", hint)
    n_cells = int(shape[1])
    if indptr.ndim != 1 or len(indptr) != n_cells + 1:
        raise FormatError(f"{where} should have {n_cells} columns, but its indptr has {indptr.size} entries.", hint)
    if indices.ndim != 1 or indices.shape != data.shape:
        raise FormatError(f"{where} has {indices.size} indices but {data.size} values.", hint)
    bounds = indptr.astype(np.int64)
    if bounds[0] != 0 or bounds[-1] != len(indices) or np.any(np.diff(bounds) < 0):
        raise FormatError(f"{where}/indptr does not rise from 0 to {len(indices)}.", hint)
    if len(indices) and (int(indices.min()) < 0 or int(indices.max()) >= n_pixels):
        raise FormatError(f"{where}/indices points outside the {n_pixels} pixels.", hint)
    pixels = np.ravel_multi_index(np.unravel_index(indices.astype(np.int64), fov, order="F"), fov)
    with np.errstate(over="ignore"):
        footprints = as_footprints(sp.csc_matrix((data.astype(np.float32), pixels, bounds), shape=(n_pixels, n_cells)), n_pixels)
    if odd := int((~np.isfinite(data)).sum()):
        notes.append(f"{odd} weights of the footprints are not finite; they count as 0.")
    if empty := int((np.diff(footprints.indptr) == 0).sum()):
        notes.append(f"{empty} candidates have an empty footprint.")
    return footprints


def _rows(path: Path, estimates: Any, key: str, shape: tuple[int, int], notes: list[str]) -> _hdf5.Rows | None:
    found = _hdf5.dataset(estimates, key)
    if found is None:
        return None
    if found.shape != shape or found.dtype.kind not in "iuf":
        notes.append(f"/estimates/{key} is {found.dtype} of shape {found.shape}, not numbers of shape {shape}: left out.")
        return None
    return _hdf5.Rows(path, (f"estimates/{key}",), shape)


def _traces(path: Path, estimates: Any, n_cells: int, notes: list[str]) -> tuple[_hdf5.Rows, str, _hdf5.Rows | None]:
    found = _hdf5.dataset(estimates, "C")
    if found is None:
        raise FormatError(f"{path} holds no traces (/estimates/C).", "Was it saved before cnm.fit?")
    if len(found.shape) != 2 or found.shape[0] != n_cells or found.dtype.kind not in "iuf" or (n_cells and not found.shape[1]):
        raise FormatError(f"{path}: /estimates/C is {found.dtype} of shape {found.shape} for {n_cells} footprints.", "The file is damaged.")
    shape = (n_cells, int(found.shape[1]))
    denoised = _hdf5.Rows(path, ("estimates/C",), shape)
    with_residual = _optional(lambda: _rows(path, estimates, "YrA", shape, notes), notes) is not None
    traces = _hdf5.Rows(path, ("estimates/C", "estimates/YrA"), shape) if with_residual else denoised
    if not with_residual:
        notes.append("There are no residuals (/estimates/YrA): the traces are CaImAn's denoised ones (C), without their noise.")
    # Reading everything would make a huge file slow to open; the features meet its NaN in their own pass.
    if 8 * shape[0] * shape[1] <= _SCAN_BYTES and (odd := _n_not_finite(traces)):
        notes.append(f"The traces of {odd} candidates hold values that are not finite.")
    # A converted result without denoised traces has none to tell from the others.
    plain = with_residual and 0 not in shape and not _any(_hdf5.Rows(path, ("estimates/YrA",), shape))
    return traces, "C+YrA" if with_residual else "C", None if plain else denoised


def _any(traces: _hdf5.Rows) -> bool:
    """Whether any value is not 0; in files of CaImAn's own the first row tells."""
    step = max(1, (1 << 24) // max(1, traces.shape[1]))
    return bool(traces[:1].any()) or any(bool(traces[i : i + step].any()) for i in range(1, traces.shape[0], step))


def _n_not_finite(traces: _hdf5.Rows) -> int:
    step = max(1, (1 << 24) // max(1, traces.shape[1]))
    blocks = (traces[first : first + step] for first in range(0, traces.shape[0], step))
    return sum(int((~np.isfinite(block)).any(axis=1).sum()) for block in blocks)


def _metrics(estimates: Any, n_cells: int, notes: list[str]) -> dict[str, NDArray[np.float64]]:
    metrics: dict[str, NDArray[np.float64]] = {}
    for key in METRICS:
        values = _optional(partial(_hdf5.array, estimates, key), notes)
        if values is None or (values.size == 0 and n_cells):  # cnn_preds is (0,) after evaluation with use_cnn=False
            continue
        if values.shape == (n_cells,):
            metrics[key] = values.astype(np.float64)
        else:
            notes.append(f"/estimates/{key} has shape {values.shape} for {n_cells} components (older than them?): left out.")
    return metrics


def _n_background(estimates: Any) -> int:
    found = None if _hdf5.group(estimates, "b") is not None else _hdf5.dataset(estimates, "b")
    return int(found.shape[1]) if found is not None and len(found.shape) == 2 else 0


def _params(file: Any, name: str) -> Any:
    return _hdf5.group(file, f"params/{name}")


def _version(file: Any) -> str | None:
    data = _params(file, "data")
    return None if data is None else _hdf5.text(data, "caiman_version")


def _mode(file: Any, fov: tuple[int, ...]) -> str:
    if _hdf5.locate(file, "time_neuron_added") is not None or _hdf5.locate(file, "t_online") is not None:
        return "OnACID"
    init = _params(file, "init")
    if _hdf5.group(file, "estimates/W") is not None or (init is not None and _hdf5.text(init, "method_init") == "corr_pnr"):
        return "CNMF-E"
    return "CNMF 3-D" if len(fov) == 3 else "CNMF"


def _fps(file: Any) -> float | None:
    rate = _hdf5.array(file, "params/data/fr")
    if rate is None or rate.size != 1:
        return None
    value = float(rate.ravel()[0])
    return value if math.isfinite(value) and value > 0 else None


def _movie(path: Path, file: Any) -> Path | None:
    """The memory-mapped movie CaImAn worked on: where it was, or beside the result (results are often moved without it)."""
    stored = _hdf5.text(file, "mmap_file")
    if not stored:
        return None
    beside = path.parent / PureWindowsPath(stored).name  # knows both kinds of slashes
    for candidate in (Path(stored), beside) if Path(stored).is_absolute() else (beside,):
        with contextlib.suppress(OSError, ValueError):  # a name this system does not allow
            if candidate.is_file():
                return candidate
    return None


def _images(estimates: Any, fov: tuple[int, ...], notes: list[str]) -> dict[str, NDArray[np.float32]]:
    """``"Cn"`` as stored, ``"background"`` from Fortran-ordered pixels; each of shape `fov`, float32."""
    images: dict[str, NDArray[np.float32]] = {}
    correlations = _optional(lambda: _hdf5.array(estimates, "Cn"), notes)
    background = _optional(lambda: _background(estimates, math.prod(fov)), notes)
    with np.errstate(over="ignore"):
        if correlations is not None and correlations.shape == fov:
            images["Cn"] = correlations.astype(np.float32)
        if background is not None:
            images["background"] = background.reshape(fov, order="F").astype(np.float32)
    return images


def _background(estimates: Any, n_pixels: int) -> NDArray[np.float64] | None:
    constant = _hdf5.array(estimates, "b0")
    if constant is not None and constant.shape == (n_pixels,):
        return constant.astype(np.float64)
    if _hdf5.group(estimates, "b") is not None:  # a sparse b: rare, and only a picture
        return None
    spatial, temporal = _hdf5.array(estimates, "b"), _hdf5.array(estimates, "f")
    if spatial is None or temporal is None or spatial.ndim != 2 or temporal.ndim != 2 or not temporal.size:
        return None
    if spatial.shape != (n_pixels, temporal.shape[0]):
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        image = np.asarray(spatial.astype(np.float64) @ temporal.mean(axis=1, dtype=np.float64))
    return image if np.isfinite(image).all() else None
