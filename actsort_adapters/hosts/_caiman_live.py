"""A running CaImAn's ``cnm.estimates`` as a `Recording`: by its attributes alone, CaImAn is never imported.

Nothing is copied that is large: traces are added up when rows are asked for, the movie stays the memory-mapped array it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from actsort_adapters._caiman_verdict import verdicts
from actsort_adapters._caiman_write import FIELDS, METRICS
from actsort_core.errors import UsageError
from actsort_core.model import Prior, Recording, TraceArray, as_footprints

WHERE = "cnm.estimates"
_CUT = ("C", "S", "YrA", "R", "F_dff", "g", "bl", "c1", "neurons_sn", "lam", "cnn_preds", "SNR_comp", "r_values")  # by select_components
_MEAN_BYTES = 1 << 28  # of the movie that is averaged for a picture
_AFTER = "Call it after cnm.fit, best after cnm.estimates.evaluate_components."


class Sum:
    """Rows of the sum of several arrays ``(n_cells, n_frames)``: a `TraceArray`."""

    def __init__(self, *parts: NDArray[Any]) -> None:
        self._parts = parts
        self.shape: tuple[int, ...] = parts[0].shape

    def __getitem__(self, rows: slice) -> NDArray[np.float32]:
        """Some candidates: ``(n_rows, n_frames)`` float32."""
        total = np.asarray(self._parts[0][rows], np.float64)
        for part in self._parts[1:]:
            total = total + part[rows]
        with np.errstate(over="ignore"):
            return total.astype(np.float32)


def estimates_of(given: Any) -> Any:
    """The estimates meant by a fit (``cnm``) or by the estimates themselves.

    Raises
    ------
    UsageError
        It is neither, or nothing was fitted yet.
    """
    found = getattr(given, "estimates", given)
    missing = [name for name in ("A", "C") if getattr(found, name, None) is None]
    if missing:
        known = hasattr(found, "A")
        what = f"{WHERE}.{missing[0]} is None: nothing was fitted yet." if known else f"{type(given).__name__!r} is no CaImAn fit."
        raise UsageError(what, _AFTER if known else "Pass cnm.estimates, or cnm.")
    return found


def matrix_of(estimates: Any) -> sp.csc_matrix:
    """``estimates.A`` as CSC, ``(n_pixels, n_cells)``, pixels in Fortran order as CaImAn has them; not copied where it is CSC already."""
    return sp.csc_matrix(_checked(estimates.A))


def _checked(found: Any) -> Any:
    if not sp.issparse(found) and (not isinstance(found, np.ndarray) or found.ndim != 2):
        raise UsageError(f"{WHERE}.A is {type(found).__name__}, not a matrix (n_pixels, n_components).", _AFTER)
    return found


def fov_of(estimates: Any, images: Any = None) -> tuple[int, ...]:
    """The field of view, ``(rows, columns[, depth])``: ``estimates.dims``, else the frames of `images`."""
    dims = getattr(estimates, "dims", None)
    if dims is None and images is not None:
        dims = np.shape(images)[1:]
    n_pixels = int(_checked(estimates.A).shape[0])
    fov = () if dims is None else tuple(int(size) for size in dims)
    if len(fov) not in (2, 3) or math.prod(fov) != n_pixels:
        raise UsageError(
            f"{WHERE}.dims is {dims}, but its components have {n_pixels} pixels.",
            f"Set {WHERE}.dims to the size of a frame, (rows, columns[, depth]).",
        )
    return fov


def fingerprints_of(estimates: Any, fov: tuple[int, ...]) -> tuple[str, ...]:
    """The identity of each component CaImAn has now, in its order."""
    footprints = footprints_of(estimates, fov)
    n_cells = int(footprints.shape[1])
    nothing = np.zeros((n_cells, 1), np.float32)
    return Recording("live", Path(WHERE), "caiman", fov, footprints, nothing, "", None, Prior.undecided(n_cells)).candidate_fingerprints


def set_aside(estimates: Any, fov: tuple[int, ...]) -> frozenset[str]:
    """Fingerprints of the components that `select_components` (`refit` calls it) put into ``discarded_components``."""
    apart: Any = getattr(estimates, "discarded_components", None)
    matrix: Any = getattr(apart, "A", None)
    if matrix is None or not sp.issparse(matrix) or matrix.shape[0] != math.prod(fov):
        return frozenset()
    return frozenset(fingerprints_of(apart, fov))


def footprints_of(estimates: Any, fov: tuple[int, ...]) -> sp.csc_matrix:
    """``estimates.A`` in C order of pixels, as the adapter reads it from a saved file: the same components have the same fingerprints."""
    matrix = matrix_of(estimates)
    pixels = np.ravel_multi_index(np.unravel_index(matrix.indices.astype(np.int64), fov, order="F"), fov)
    with np.errstate(over="ignore"):
        return as_footprints(sp.csc_matrix((matrix.data.astype(np.float32), pixels, matrix.indptr), shape=matrix.shape), matrix.shape[0])


def movie_of(images: Any, fov: tuple[int, ...], n_frames: int) -> tuple[Any, NDArray[np.float32] | None]:
    """The movie ``(n_frames, *fov)`` and an image of shape `fov`, from what was passed as ``images``; None for what is not there.

    Parameters
    ----------
    images
        The movie as CaImAn's steps take it, ``(n_frames, *fov)``; ``Yr``, ``(n_pixels, n_frames)``; or one picture (``Cn``) of shape `fov`.
    fov, n_frames
        Field of view, and length of the traces.

    Raises
    ------
    UsageError
        It has none of these shapes.
    """
    if images is None:
        return None, None
    shape = tuple(np.shape(images))
    if shape == fov:
        return None, np.asarray(images, np.float32)
    if shape == (math.prod(fov), n_frames):
        return np.reshape(images.T, (n_frames, *fov), order="F"), None  # a view: Yr.T is Fortran-ordered
    if len(shape) == len(fov) + 1 and shape[1:] == fov and shape[0] > 0:
        return images, None
    raise UsageError(
        f"images has shape {shape}; the components are of a field of view of {fov} and have {n_frames} frames.",
        "Pass the movie as evaluate_components takes it, (frames, rows, columns[, depth]), or one picture.",
    )


def mean_image(movie: Any) -> NDArray[np.float32]:
    """The mean of the movie's middle (256 MB of it at most: more takes minutes and looks the same), of the shape of a frame, float32."""
    size = max(1, math.prod(movie.shape[1:]) * np.dtype(movie.dtype).itemsize)
    n = max(1, min(int(movie.shape[0]), _MEAN_BYTES // size))
    start = (int(movie.shape[0]) - n) // 2
    # Consecutive frames: CaImAn's memory-mapped movies hold each pixel's frames side by side.
    mean: NDArray[np.float64] = np.asarray(movie[start : start + n]).mean(axis=0, dtype=np.float64)
    return np.nan_to_num(mean).astype(np.float32)


def live_recording(
    estimates: Any, images: Any = None, fps: float | None = None, movie_path: Path | None = None, lists: bool = True
) -> Recording:
    """The components as they are in memory now.

    Parameters
    ----------
    estimates
        ``cnm.estimates``.
    images
        See `movie_of`.
    fps
        Frames per second.
    movie_path
        CaImAn's memory-mapped movie.
    lists
        Whether accepted_list and rejected_list can be a person's. Those of an earlier call of ours are not; and after a refit they still
        have the numbering before it.

    Returns
    -------
    Recording
        As `CaimanFormat.read` gives it for the same object after ``cnm.save``, with the picture from `images` as ``"mean"``.

    Raises
    ------
    UsageError, FormatError
        A field cannot be meant; says which.
    """
    fov = fov_of(estimates, images)
    notes: list[str] = []
    footprints = footprints_of(estimates, fov)
    n_cells = int(footprints.shape[1])
    traces, kind, denoised = _traces(estimates, n_cells, notes)
    if problem := _cannot_select(estimates, n_cells):
        notes.append(problem)
    verdict, person, evaluated = _verdicts(estimates, n_cells, FIELDS if lists else FIELDS[:2], notes)
    pictures = _images(estimates, fov)
    movie, picture = movie_of(images, fov, int(traces.shape[1]))
    if movie is not None:
        pictures["mean"] = mean_image(movie)
    elif picture is not None:
        pictures["Cn"] = picture
    return Recording(
        name="live",
        path=Path(WHERE),
        format="caiman",
        fov=fov,
        footprints=footprints,
        traces=traces,
        trace_kind=kind,
        fps=fps,
        prior=Prior(verdict, np.full(n_cells, np.nan), person),
        metrics=_metrics(estimates, n_cells, notes),
        images=pictures,
        denoised=denoised,
        movie_path=movie_path,
        info={"evaluated": evaluated, "own_verdicts": bool(verdict.any()) and not _decided_here(estimates)},
        notes=tuple(notes),
    )


def _array(estimates: Any, name: str) -> NDArray[Any] | None:
    """An attribute that holds numbers, as an array; None where it holds nothing, or something else."""
    value = getattr(estimates, name, None)
    if value is None or isinstance(value, str | bytes | Mapping) or sp.issparse(value):
        return None
    try:
        found = np.asarray(value)
    except ValueError:  # lists of unequal length
        return None
    return found if found.dtype.kind in "biuf" else None


def _traces(estimates: Any, n_cells: int, notes: list[str]) -> tuple[TraceArray, str, TraceArray | None]:
    denoised, residual = _array(estimates, "C"), _array(estimates, "YrA")
    if denoised is None or denoised.ndim != 2 or len(denoised) != n_cells or (n_cells and not denoised.shape[1]):
        shape = None if denoised is None else denoised.shape
        raise UsageError(f"{WHERE}.C has shape {shape} for {n_cells} components.", "Was select_components interrupted? Fit again.")
    if residual is not None and residual.shape == denoised.shape:
        return Sum(denoised, residual), "C+YrA", Sum(denoised)
    notes.append(
        f"There are no residuals ({WHERE}.YrA): the traces are CaImAn's denoised ones (C), without their noise."
        if residual is None
        else f"{WHERE}.YrA has shape {residual.shape}, C {denoised.shape}: it is left out."
    )
    return Sum(denoised), "C", None


def _verdicts(estimates: Any, n_cells: int, fields: Sequence[str], notes: list[str]) -> tuple[NDArray[np.int8], NDArray[np.int8], bool]:
    """What thresholds and a person in the GUI said, by the rules for saved files (masks, floats, lists of an older numbering)."""
    import h5py

    set_aside = getattr(getattr(estimates, "discarded_components", None), "A", None)
    discarded = 0 if set_aside is None else int(np.shape(set_aside)[-1])
    with h5py.File(WHERE, "w", driver="core", backing_store=False) as file:  # in memory
        group = file.create_group("estimates")
        for name in fields:
            if (values := _array(estimates, name)) is not None:
                group[name] = values
        return verdicts(group, n_cells, discarded, notes)


def _decided_here(estimates: Any) -> bool:
    """Whether idx_components are decisions of ours: we set accepted_list to the same, and CaImAn's steps overwrite the former only."""
    decided, listed = _array(estimates, FIELDS[0]), _array(estimates, FIELDS[2])
    return decided is not None and listed is not None and np.array_equal(decided, listed)


def _cannot_select(estimates: Any, n_cells: int) -> str:
    """Why ``select_components`` of CaImAn 1.12 would fail on this object, with the remedy (see `_caiman_verdict.cannot_select`); or ""."""
    apart = getattr(estimates, "discarded_components", None)
    remedies, clash = [], False
    for name in _CUT:
        values, others = getattr(estimates, name, None), getattr(apart, name, None)
        if values is not None and np.ndim(values) == 0:
            remedies.append(f"set {WHERE}.{name} = None")
        elif values is not None and others is not None and len(values) == n_cells:
            clash = clash or np.shape(values)[1:] != np.shape(others)[1:]
    if isinstance(getattr(estimates, "A_thr", None), Mapping):
        remedies.append(f"set {WHERE}.A_thr = None")
    if clash:
        remedies.append("call it with save_discarded_components=False")
    return f"CaImAn's own select_components fails on this object: {', '.join(remedies)}." if remedies else ""


def _metrics(estimates: Any, n_cells: int, notes: list[str]) -> dict[str, NDArray[np.float64]]:
    out = {}
    for name in METRICS:
        values = _array(estimates, name)
        if values is None or (values.size == 0 and n_cells):  # cnn_preds is (0,) after evaluation with use_cnn=False
            continue
        if values.shape == (n_cells,):
            out[name] = values.astype(np.float64)
        else:
            notes.append(f"{WHERE}.{name} has shape {values.shape} for {n_cells} components (older than them?): left out.")
    return out


def _images(estimates: Any, fov: Sequence[int]) -> dict[str, NDArray[np.float32]]:
    """``"Cn"`` and ``"background"``, as the adapter reads them from a file."""
    fov, images = tuple(fov), {}
    correlations, constant = _array(estimates, "Cn"), _array(estimates, "b0")
    spatial, temporal = _array(estimates, "b"), _array(estimates, "f")
    with np.errstate(over="ignore", invalid="ignore"):
        if correlations is not None and correlations.shape == fov:
            images["Cn"] = correlations.astype(np.float32)
        background = constant if constant is not None and constant.shape == (math.prod(fov),) else None
        factors = background is None and spatial is not None and temporal is not None and temporal.ndim == 2 and temporal.size
        if factors and spatial is not None and temporal is not None and spatial.shape == (math.prod(fov), len(temporal)):
            background = spatial.astype(np.float64) @ temporal.mean(axis=1, dtype=np.float64)
        if background is not None and np.isfinite(background).all():
            images["background"] = np.asarray(background).reshape(fov, order="F").astype(np.float32)
    return images
