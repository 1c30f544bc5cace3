"""Reading one Suite2p plane folder: the files of 0.x and 1.x, checked against each other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from actsort_adapters._npy import NpyFile, open_plain, read_dict, read_dicts
from actsort_core.errors import ActsortError, FormatError, MissingFileError
from actsort_core.model import Prior, Recording, TraceArray, as_footprints

IMAGES = ("meanImg", "meanImgE", "max_proj", "Vcorr", "meanImg_chan2", "meanImg_chan2_corrected")
OURS = "actsort"  # what _suite2p_create notes in ops: images that Suite2p has no name for, and what was only made up for its GUI
DEFAULT_NEUCOEFF = 0.7  # suite2p.default_ops() and default_settings(), all versions
# Fields of stat that are no statistics: bookkeeping of merges, planes and drawn ROIs, and another classifier's verdict.
_NO_METRIC = frozenset({"imerge", "inmerge", "iplane", "manual", "chan2_prob", "med"})
_MAX_METRICS = 256  # Suite2p writes about 15; rows that differ in all their keys would need n_cells**2 numbers
_MAX_MERGED = 1000  # merged ROIs whose parts are looked for; a person makes a few
_MAX_PIXELS = 2**27  # a field of view of 11,000 x 11,000: images of it are made in memory


@dataclass(frozen=True)
class Corrected:
    """Neuropil-corrected traces, computed as they are read (`~actsort_core.model.TraceArray`).

    Attributes
    ----------
    fluorescence, neuropil
        F and Fneu, ``(n_cells, n_frames)``, on disk or, while Suite2p runs, in memory.
    coefficient
        How much of the neuropil is subtracted.
    """

    fluorescence: TraceArray
    neuropil: TraceArray
    coefficient: float

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.fluorescence.shape)

    def __getitem__(self, rows: slice) -> NDArray[np.float32]:
        with np.errstate(over="ignore", invalid="ignore"):  # a NaN or inf in the files stays one
            return np.asarray(self.fluorescence[rows] - np.float32(self.coefficient) * self.neuropil[rows], np.float32)


@dataclass(frozen=True)
class _Meta:
    """What Suite2p noted about a plane: `values` of ops, or of db, settings, reg_outputs and detect_outputs together."""

    values: Mapping[str, Any]
    source: str
    generation: str
    version: str

    def made_up(self, what: str) -> bool:
        """Whether `what` was not known and only written because Suite2p needs it."""
        ours = self.values.get(OURS)
        made = ours.get("made") if isinstance(ours, dict) else None
        return isinstance(made, list) and what in made


def read_plane(folder: Path) -> Recording:
    """Read one plane.

    Parameters
    ----------
    folder
        Any name; its own name becomes the recording's.

    Raises
    ------
    MissingFileError, FormatError
        See ``Suite2pFormat.read``.
    """
    missing = [name for name in ("stat.npy", "F.npy") if not (folder / name).is_file()]
    if missing:
        raise MissingFileError(f"{folder} has no {' and no '.join(missing)}.", "Run Suite2p's detection and extraction first.")
    meta = _read_meta(folder)
    fov = (_length(folder, meta, "Ly"), _length(folder, meta, "Lx"))
    if math.prod(fov) > _MAX_PIXELS:
        raise FormatError(f"{folder}: {meta.source} declares a field of view of {fov} pixels.", "The file is damaged.")
    notes: list[str] = []
    stat = read_dicts(folder / "stat.npy")
    footprints = _footprints(folder / "stat.npy", stat, fov, notes)
    traces, trace_kind, neucoeff = _traces(folder, meta, len(stat), notes)
    fps = math.nan if meta.made_up("fs") else as_number(meta.values.get("fs"))
    if not 0 < fps < math.inf and not meta.made_up("fs"):
        notes.append(f"The frame rate (fs) in {meta.source} is not a positive number: unknown.")
    movie = folder / "data.bin"  # never the path stored in ops: it is absolute, and wrong once the folder moved
    has_movie = _fits(movie, fov, traces.shape[1])
    if movie.is_file() and not has_movie:
        notes.append(f"data.bin does not have the size of {traces.shape[1]} frames of {fov[0]} x {fov[1]} int16 and is not used.")
    return Recording(
        name=folder.name,
        path=folder,
        format="suite2p",
        fov=fov,
        footprints=footprints,
        traces=traces,
        trace_kind=trace_kind,
        fps=fps if 0 < fps < math.inf else None,
        prior=read_prior(folder / "iscell.npy", len(stat), notes),
        metrics=_metrics(stat),
        images=_images(meta, fov, notes),
        spikes=None if meta.made_up("spks") else _spikes(folder / "spks.npy", traces.shape, notes),
        movie_path=movie if has_movie else None,
        info={
            **{"version": meta.version, "generation": meta.generation, "neucoeff": neucoeff, "plane": folder.name},
            **_by_hand(stat, footprints),
            **_second_channel(folder, traces.shape, notes),
        },
        notes=tuple(notes),
    )


def live_plane(
    folder: Path,
    stat: Sequence[Mapping[str, Any]],
    fov: tuple[int, int],
    traces: TraceArray,
    trace_kind: str,
    fps: float | None,
    movie: Path | None = None,
) -> Recording:
    """A plane that Suite2p has extracted and not classified yet: what `read_plane` will find, as far as features need it.

    Parameters
    ----------
    folder
        Where it will be saved.
    stat
        Suite2p's own, one dictionary per ROI.
    fov
        ``(Ly, Lx)``.
    traces
        ``(n_cells, n_frames)``, neuropil subtracted.
    trace_kind
        What they are.
    fps
        Frames per second, None where it is not known.
    movie
        The registered frames, as in ``data.bin``; not used where its size does not fit.

    Raises
    ------
    FormatError
        ROIs leave the field of view, or have no pixels.
    """
    notes: list[str] = []
    if movie is not None and not _fits(movie, fov, traces.shape[1]):
        movie = None
    return Recording(
        name=folder.name,
        path=folder,
        format="suite2p",
        fov=fov,
        footprints=_footprints(folder / "stat.npy", stat, fov, notes),
        traces=traces,
        trace_kind=trace_kind,
        fps=fps,
        prior=Prior.undecided(len(stat)),
        metrics=_metrics(stat),
        movie_path=movie,
        notes=tuple(notes),
    )


def _fits(movie: Path, fov: tuple[int, int], n_frames: int) -> bool:
    return movie.is_file() and movie.stat().st_size == 2 * math.prod(fov) * n_frames > 0


def _read_meta(folder: Path) -> _Meta:
    """Ops.npy, else the files of 1.x, as ``suite2p.gui.io.load_files`` does; ops of 1.x are the others merged."""
    if (folder / "ops.npy").is_file():
        values, source = read_dict(folder / "ops.npy"), "ops.npy"
    elif (folder / "db.npy").is_file() and (folder / "settings.npy").is_file():
        values, source = {}, "db.npy and settings.npy"
        # settings first: after a merge in the GUI it holds a copy of everything, which may be old
        for name in ("settings.npy", "db.npy", "reg_outputs.npy", "detect_outputs.npy"):
            if (folder / name).is_file():
                values |= read_dict(folder / name)
    else:
        raise MissingFileError(f"{folder} has no ops.npy, nor db.npy and settings.npy.", "They tell the size of the field of view.")
    nested = isinstance(values.get("extraction"), dict)
    version = values.get("version" if nested else "suite2p_version")
    return _Meta(values, source, "1.x" if nested else "0.x", version[:40] if isinstance(version, str) else "")


def as_number(value: Any) -> float:
    """A scalar of any kind as float; NaN for everything else."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if not isinstance(value, (bool, int, float, np.bool_, np.integer, np.floating)):
        return math.nan
    try:
        return float(value)
    except OverflowError:  # an integer beyond float
        return math.nan


def _length(folder: Path, meta: _Meta, key: str) -> int:
    value = as_number(meta.values.get(key))
    if not (value >= 1 and value == int(min(value, 2**40))):
        raise FormatError(f"{folder}: {meta.source} does not give {key}, the size of the field of view.", "Run Suite2p again.")
    return int(value)


def _flat(path: Path, number: int, roi: Mapping[str, Any], field: str) -> NDArray[Any]:
    """One 1-d numeric field of one ROI."""
    if field not in roi:
        raise FormatError(f"{path}: ROI {number} has no {field}.", "Was stat.npy changed by another program?")
    value = roi[field]
    if isinstance(value, (list, tuple)) and all(isinstance(item, (int, float, np.number)) for item in value):
        value = np.array(value) if len(value) else np.zeros(0, np.int64)
    value = np.asarray(value) if isinstance(value, np.ndarray) else np.zeros((0, 0))
    if value.ndim != 1 or value.dtype.kind not in "iuf":
        raise FormatError(f"{path}: {field} of ROI {number} is not a list of numbers.", "Was stat.npy changed by another program?")
    return value


def _footprints(path: Path, stat: Sequence[Mapping[str, Any]], fov: tuple[int, int], notes: list[str]) -> sp.csc_matrix:
    """Sparse ``(n_pixels, n_cells)`` from ypix, xpix (0-based, of the full field of view) and lam."""
    pixels: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
    weights: list[NDArray[np.float32]] = [np.zeros(0, np.float32)]
    broken = []
    for number, roi in enumerate(stat):
        y, x, lam = (_flat(path, number, roi, field) for field in ("ypix", "xpix", "lam"))
        if not len(y) == len(x) == len(lam):
            lengths = f"{len(y)} ypix, {len(x)} xpix and {len(lam)} lam"
            raise FormatError(f"{path}: ROI {number} has {lengths}.", "They must be equally many.")
        for field, values, size in (("ypix", y, fov[0]), ("xpix", x, fov[1])):
            # compared before any cast, so that NaN, huge unsigned and fractional values are caught too
            if len(values) and not ((values >= 0).all() and (values < size).all() and (values == np.floor(values)).all()):
                raise FormatError(
                    f"{path}: {field} of ROI {number} leaves the field of view of {fov[0]} x {fov[1]} pixels.",
                    "Is stat.npy from another plane?",
                )
        with np.errstate(over="ignore"):
            lam = lam.astype(np.float32)
        if not np.isfinite(lam).all():
            lam[~np.isfinite(lam)] = 0
            broken.append(number)
        pixels.append(y.astype(np.int64) * fov[1] + x.astype(np.int64))
        weights.append(lam)
    if broken:
        notes.append(f"{len(broken)} ROIs have weights (lam) that are not finite; these count as 0. The first is ROI {broken[0]}.")
    bounds = np.cumsum([len(part) for part in pixels])  # the empty first part makes this the column pointer
    matrix = sp.csc_matrix((np.concatenate(weights), np.concatenate(pixels), bounds), shape=(math.prod(fov), len(stat)))
    footprints = as_footprints(matrix, math.prod(fov))
    empty = int((np.diff(footprints.indptr) == 0).sum())
    if empty:
        notes.append(f"{empty} ROIs have no pixel with a weight.")
    return footprints


def _traces(folder: Path, meta: _Meta, n_cells: int, notes: list[str]) -> tuple[TraceArray, str, float | None]:
    fluorescence = open_plain(folder / "F.npy")
    if len(fluorescence.shape) != 2 or fluorescence.shape[0] != n_cells:
        problem = f"{folder}: stat.npy has {n_cells} ROIs but F.npy has shape {fluorescence.shape}."
        raise FormatError(problem, "They are not from the same run; restore both from one backup.")
    if not (folder / "Fneu.npy").is_file():
        notes.append("Fneu.npy is missing: the traces are F, without neuropil correction.")
        return fluorescence, "F", None
    neuropil = open_plain(folder / "Fneu.npy")
    if neuropil.shape != fluorescence.shape:
        problem = f"{folder}: F.npy has shape {fluorescence.shape} ({n_cells} ROIs) but Fneu.npy has shape {neuropil.shape}."
        raise FormatError(problem, "They are not from the same run; restore both from one backup.")
    nested = meta.values.get("extraction")
    neucoeff = as_number(nested.get("neuropil_coefficient") if isinstance(nested, dict) else meta.values.get("neucoeff"))
    if not 0 <= neucoeff <= 10:
        neucoeff = DEFAULT_NEUCOEFF
        notes.append(f"{meta.source} does not give a possible neuropil coefficient: Suite2p's default of {neucoeff} is used.")
    return Corrected(fluorescence, neuropil, neucoeff), f"F - {neucoeff:g}*Fneu", neucoeff


def _spikes(path: Path, shape: tuple[int, ...], notes: list[str]) -> NpyFile | None:
    if not path.is_file():
        return None
    try:
        spikes = open_plain(path)
    except ActsortError as error:  # optional: nothing else depends on it
        notes.append(f"The deconvolved traces are not used. {error}")
        return None
    if spikes.shape != shape:
        notes.append(f"spks.npy has shape {spikes.shape}, F.npy {shape}: the deconvolved traces are not used.")
        return None
    return spikes


def _metrics(stat: Sequence[Mapping[str, Any]]) -> dict[str, NDArray[np.float64]]:
    """All scalar fields of stat, named as there; rows may differ in theirs (merged and drawn ROIs)."""
    columns: dict[str, NDArray[np.float64]] = {}
    for number, roi in enumerate(stat):
        for field, value in roi.items():
            known = field in columns
            if field in _NO_METRIC or not isinstance(field, str) or (not known and len(columns) >= _MAX_METRICS):
                continue
            scalar = as_number(value)
            if not math.isnan(scalar):
                if not known:
                    columns[field] = np.full(len(stat), np.nan)
                columns[field][number] = scalar
    return columns


def _by_hand(stat: Sequence[Mapping[str, Any]], footprints: sp.csc_matrix) -> dict[str, Any]:
    """What was drawn (put first) and merged (put last) in the GUI: a count, and ``[row, [rows of its parts]]`` each; else nothing.

    Parts are found by their pixels, all of which are in the merged ROI: the rows in ``imerge`` are those of the time of merging.
    """
    out: dict[str, Any] = {}
    if drawn := sum(as_number(roi.get("manual")) > 0 for roi in stat):
        out["drawn"] = drawn
    merged = [i for i, roi in enumerate(stat) if _length_of(roi.get("imerge"))][:_MAX_MERGED]
    if merged:
        pixels = sp.csc_matrix((np.ones(footprints.nnz, np.int32), footprints.indices, footprints.indptr), footprints.shape)
        sizes = np.diff(pixels.indptr)
        shared = sp.coo_matrix(pixels[:, merged].T @ pixels)
        inside = (shared.data == sizes[shared.col]) & (shared.data < sizes[merged][shared.row])
        parts = [np.sort(shared.col[inside & (shared.row == row)]).tolist() for row in range(len(merged))]
        out["merged"] = [list(found) for found in zip(merged, parts, strict=True)]
    return out


def _length_of(value: Any) -> int:
    return value.size if isinstance(value, np.ndarray) else len(value) if isinstance(value, (list, tuple)) else 0


def _second_channel(folder: Path, shape: tuple[int, ...], notes: list[str]) -> dict[str, int]:
    """How many ROIs are red (``redcell.npy``), where there is a second channel. It is no evidence for or against a cell."""
    for name in ("F_chan2.npy", "Fneu_chan2.npy"):  # drawing and merging left them shorter in some versions
        try:
            found = open_plain(folder / name).shape if (folder / name).is_file() else shape
        except ActsortError as error:
            notes.append(f"The second channel cannot be read. {error}")
            continue
        if found != shape:
            notes.append(f"{name} has shape {found}, F.npy {shape}: were ROIs merged or drawn since? It is not used here.")
    if not (folder / "redcell.npy").is_file():
        return {}
    try:
        red = open_plain(folder / "redcell.npy")
        if len(red.shape) != 2 or red.shape[1] < 2 or red.shape[0] != shape[0]:
            raise FormatError(f"It has shape {red.shape}, {shape[0]} ROIs need ({shape[0]}, 2).")
        return {"red_cells": int((red.array()[:, 0] != 0).sum())}
    except ActsortError as error:
        notes.append(f"redcell.npy cannot be used. {error}")
        return {}


def _images(meta: _Meta, fov: tuple[int, int], notes: list[str]) -> dict[str, NDArray[np.float32]]:
    """Full-field images. Suite2p stores max_proj and Vcorr cut to yrange and xrange (the frame without registration borders)."""
    images: dict[str, NDArray[np.float32]] = {}
    ours = meta.values.get(OURS)
    names, stack = (ours.get("images"), ours.get("stack")) if isinstance(ours, dict) else (None, None)
    if isinstance(names, list) and isinstance(stack, np.ndarray) and stack.shape == (len(names), *fov) and stack.dtype == np.float32:
        images |= {name: image for name, image in zip(names, np.asarray(stack), strict=True) if isinstance(name, str)}
    for key in IMAGES:
        value = meta.values.get(key)
        if value is None or meta.made_up(key):
            continue
        image: NDArray[Any] = np.asarray(value) if isinstance(value, np.ndarray) else np.zeros(0)
        if image.ndim != 2 or image.dtype.kind not in "biuf":
            notes.append(f"The image {key} in {meta.source} is not a 2-d array of numbers and is left out.")
            continue
        with np.errstate(over="ignore", invalid="ignore"):
            image = image.astype(np.float32)
        if image.shape != fov:
            y, x = _range(meta, "yrange", fov[0]), _range(meta, "xrange", fov[1])
            if key.startswith("meanImg") or image.size == 0 or image.shape != (y.stop - y.start, x.stop - x.start):
                notes.append(f"The image {key} in {meta.source} has shape {image.shape}, which does not fit; it is left out.")
                continue
            finite = image[np.isfinite(image)]
            full = np.full(fov, finite.min() if finite.size else 0, np.float32)  # outside: as dark as it gets
            full[y, x] = image
            image = full
        images[key] = image
    return images


def _range(meta: _Meta, key: str, size: int) -> slice:
    value = meta.values.get(key)
    if isinstance(value, np.ndarray):
        value = value.ravel().tolist()
    ends = [as_number(end) for end in value[:3]] if isinstance(value, (list, tuple)) else []
    if len(ends) == 2 and 0 <= ends[0] < ends[1] <= size:
        return slice(int(ends[0]), int(ends[1]))
    return slice(0, size)


# The verdict


def _open_iscell(path: Path, n_cells: int) -> NpyFile:
    try:
        iscell = open_plain(path)
    except MissingFileError:
        raise
    except FormatError as error:
        hint = f"Suite2p needs a plain array of shape ({n_cells}, 2). Restore {path.name} from a backup, or remove it to start anew."
        raise FormatError(error.what, hint) from error
    if len(iscell.shape) != 2 or iscell.shape[1] < 2 or iscell.shape[0] != n_cells:
        raise FormatError(
            f"{path} holds an array of {iscell.dtype} with shape {iscell.shape}; {n_cells} ROIs need ({n_cells}, 2).",
            "Restore it from a backup, or remove it to start anew: Suite2p then shows all ROIs as cells.",
        )
    return iscell


def read_prior(path: Path, n_cells: int, notes: list[str]) -> Prior:
    """The verdicts as ``suite2p.gui.io.load_files`` takes them: column 0 as bool (so NaN, -1 and 2 are cells), column 1 as is."""
    if not path.exists():
        notes.append("iscell.npy is missing: no verdict of Suite2p is used (its GUI shows all ROIs as cells).")
        return Prior.undecided(n_cells)
    iscell = _open_iscell(path, n_cells)
    table = iscell.array().astype(np.float64)
    label, probability = table[:, 0], table[:, 1]
    odd = int(((label != 0) & (label != 1)).sum())
    if odd:
        notes.append(f"{odd} labels in iscell.npy are neither 0 nor 1; they count as cells, as in Suite2p's GUI.")
    if iscell.shape[1] > 2:
        notes.append(f"iscell.npy has {iscell.shape[1]} columns; only the first two mean something to Suite2p.")
    valid = (probability >= 0) & (probability <= 1)
    if not valid.all():
        notes.append(f"{int((~valid).sum())} probabilities in iscell.npy are not between 0 and 1 and count as unknown.")
    return Prior(np.where(label != 0, 1, -1).astype(np.int8), np.where(valid, probability, np.nan))
