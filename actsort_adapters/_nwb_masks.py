"""Footprints from the three kinds of masks of NWB, and which axis of them is which.

The schema says x (columns) first. Suite2p and neuroconv put rows into the field named x of pixel and voxel masks; CaImAn reshapes
columns in Fortran order as if they were in C order, which scrambles them. Facts: docs/formats/nwb.md.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from actsort_adapters import _hdf5
from actsort_adapters._nwb_find import Part
from actsort_core.errors import FormatError
from actsort_core.model import as_footprints

_MAX_PIXELS = 2**31 - 1  # more would not fit the index type of a sparse footprint
_MAX_RATIO = 4096  # deflate packs zeros 1:1032; image masks are nearly all zeros
_BLOCK = 1 << 27
_HINT = "The file is damaged, or was edited by hand."


def read_footprints(part: Part, table: Any, sizes: Sequence[tuple[int, ...]], notes: list[str]) -> tuple[tuple[int, ...], sp.csc_matrix]:
    """Field of view and footprints of one recording.

    Parameters
    ----------
    part
        Which rows.
    table
        The open group.
    sizes
        Fields of view, ``(rows, columns[, depth])``, that images and image series of the file suggest, best first.
    notes
        Receives what was odd.

    Returns
    -------
    tuple
        ``fov``, and ``(n_pixels, n_cells)`` CSC float32 in C order of it.
    """
    keys = set(table.id)
    if b"image_mask" in keys:
        fov, matrix = _image_masks(part, table, notes)
    elif b"pixel_mask" in keys:
        fov, matrix = _listed(part, table, "pixel_mask", sizes, notes)
    else:
        fov, matrix = _listed(part, table, "voxel_mask", sizes, notes)
    footprints = as_footprints(matrix, math.prod(fov))
    if empty := int((np.diff(footprints.indptr) == 0).sum()):
        notes.append(f"{part.name}: {empty} candidates have an empty footprint.")
    return fov, footprints


# image_mask: one picture per ROI


def _image_masks(part: Part, table: Any, notes: list[str]) -> tuple[tuple[int, ...], sp.csc_matrix]:
    masks = _mask_dataset(table, part.table.n_rows)
    stored = tuple(int(size) for size in masks.shape[1:])
    if math.prod(stored) > _MAX_PIXELS:
        raise FormatError(f"{_hdf5.where(masks)} has pictures of {stored} pixels.", _HINT)
    scrambled = part.table.writer == "caiman"
    pixels, weights, bounds = _nonzero(masks, part.rows)
    if scrambled and _rougher(pixels, bounds, stored):
        scrambled = False
        notes.append(f"{part.table.path}: the masks look whole as they are, so CaImAn's scrambling is not undone.")
        fov, order = stored, "C"
    elif scrambled:  # save_NWB: A.T[i].toarray().reshape(dims) of a column in Fortran order
        fov, order = stored, "F"
    else:  # (x, y[, z]) by the schema
        if not part.table.writer and stored[0] != stored[1]:
            notes.append(
                f"{part.table.path}: it is not known who wrote it; its masks are read as NWB's schema says, with x (columns) first."
            )
        fov, order = (stored[1], stored[0], *stored[2:]), "T"
    out = sp.csc_matrix((weights, _moved(pixels, stored, fov, order), bounds), shape=(math.prod(fov), len(part.rows)))
    return fov, out


def _mask_dataset(table: Any, n_rows: int) -> Any:
    """``image_mask``, checked here: pictures of zeros pack far better than `_hdf5.dataset` trusts."""
    masks = _hdf5.locate(table, "image_mask")
    shape = getattr(masks, "shape", None)
    if shape is None or masks.dtype.kind not in "biuf" or len(shape) not in (3, 4) or shape[0] != n_rows or 0 in shape[1:]:
        what = f"{getattr(masks, 'dtype', 'no data')} of shape {shape}"
        raise FormatError(f"{_hdf5.where(table, 'image_mask')} is {what} for {n_rows} ROIs.", _HINT)
    if masks.external or masks.is_virtual:
        raise FormatError(f"{_hdf5.where(masks)} keeps its data in other files.", "Such data are not followed. Copy them into one file.")
    on_disk = min(masks.id.get_storage_size(), masks.file.id.get_filesize())
    declared = math.prod(shape) * masks.dtype.itemsize
    chunk = math.prod(masks.chunks) * masks.dtype.itemsize if masks.chunks else 0
    most = max(1 << 24, on_disk if masks.chunks is None else on_disk * _MAX_RATIO)
    if declared > most or chunk > 1 << 31:
        raise FormatError(f"{_hdf5.where(masks)} claims {declared:,} bytes but holds {on_disk:,} on disk.", _HINT)
    return masks


def _nonzero(masks: Any, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """Positions in C order of the picture as stored, weights, and where each ROI's begin; a few pictures in memory at a time."""
    size = math.prod(masks.shape[1:]) * masks.dtype.itemsize
    step = max(1, _BLOCK // max(1, size))
    if masks.chunks and masks.chunks[0] <= step:
        step -= step % masks.chunks[0]
    pixels: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
    weights: list[NDArray[np.float32]] = [np.empty(0, np.float32)]
    counts = np.zeros(len(rows), np.int64)
    with _hdf5.clear_errors(_hdf5.where(masks)):
        for first in range(0, masks.shape[0], step):
            wanted = np.flatnonzero((rows >= first) & (rows < first + step))
            if not len(wanted):
                continue
            block = masks[first : first + step].reshape(-1, math.prod(masks.shape[1:]))[rows[wanted] - first]
            which, where = np.nonzero(block)
            counts[wanted] = np.bincount(which, minlength=len(wanted))
            pixels.append(where)
            with np.errstate(over="ignore"):
                weights.append(block[which, where].astype(np.float32))
    return np.concatenate(pixels), np.concatenate(weights), np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _moved(pixels: NDArray[np.int64], stored: tuple[int, ...], fov: tuple[int, ...], order: str) -> NDArray[np.int64]:
    """Positions in C order of `fov`, from those in C order of the picture as stored."""
    if order == "C":
        return pixels
    if order == "F":
        return np.ravel_multi_index(np.unravel_index(pixels, fov, order="F"), fov)
    x, y, *rest = np.unravel_index(pixels, stored)
    return np.ravel_multi_index((y, x, *rest), fov)


def _rougher(pixels: NDArray[np.int64], bounds: NDArray[np.int64], fov: tuple[int, ...]) -> bool:
    """Whether undoing CaImAn's scrambling tears the first masks apart instead of mending them: pixels lose their neighbours."""
    if len(fov) != 2 or fov[0] == fov[1]:  # there it is but a transposition
        return False
    kept = {"C": 0, "F": 0}
    for a, b in itertools.pairwise(bounds[:21]):
        if b - a > 5000:  # no cell, and slow to look at
            continue
        for order in kept:
            own = set(_moved(pixels[a:b], fov, fov, order).tolist())
            kept[order] += sum(p + fov[1] in own for p in own) + sum(p + 1 in own and (p + 1) % fov[1] != 0 for p in own)
    return kept["C"] > 1.2 * kept["F"]


# pixel_mask and voxel_mask: lists of pixels, one ROI after the other


def _listed(part: Part, table: Any, key: str, sizes: Sequence[tuple[int, ...]], notes: list[str]) -> tuple[tuple[int, ...], sp.csc_matrix]:
    first, second, depth, weights, bounds = _list(part, table, key)
    rows_first = part.table.writer in ("suite2p", "neuroconv")
    y, x = (first, second) if rows_first else (second, first)
    planar = key == "pixel_mask" or (part.table.writer == "suite2p" and len(np.unique(depth)) <= 1)
    fov, swapped = _fov(y, x, None if planar else depth, sizes, notes, part, sure=rows_first or part.table.writer == "actsort")
    if swapped:
        y, x = x, y
    if math.prod(fov) > _MAX_PIXELS:
        raise FormatError(f"{_hdf5.where(table, key)} has pixels up to row {fov[0] - 1} and column {fov[1] - 1}.", _HINT)
    place = (y, x) if planar else (y, x, depth)
    matrix = sp.csc_matrix((weights, np.ravel_multi_index(place, fov), bounds), shape=(math.prod(fov), len(part.rows)))
    return fov, matrix


def _list(part: Part, table: Any, key: str) -> tuple[NDArray[Any], ...]:
    """Coordinates by position in the record (x, y[, z]), weights, and where each ROI's pixels begin, of the part's rows in order."""
    found = _hdf5.array(table, key, "V")
    index = _hdf5.array(table, f"{key}_index", "iu")
    where, n_axes = _hdf5.where(table, key), 2 if key == "pixel_mask" else 3
    fields = found.dtype.names if found is not None else None
    if found is None or index is None or fields is None or found.ndim != 1 or len(fields) != n_axes + 1 or index.ndim != 1:
        raise FormatError(f"{where} with {key}_index is no list of pixels with weights per ROI.", _HINT)
    if any(found.dtype[name].kind not in "iuf" for name in fields):
        raise FormatError(f"{where} holds something else than numbers.", _HINT)
    ends = index.astype(np.int64)
    if len(ends) != part.table.n_rows or (len(ends) and (np.diff(ends, prepend=0) < 0).any()) or (ends[-1:] > len(found)).any():
        raise FormatError(f"{where}_index does not rise to {len(found)} pixels in {part.table.n_rows} steps.", _HINT)
    starts = np.concatenate([[0], ends[:-1]])[part.rows] if len(ends) else ends
    counts = (ends[part.rows] - starts) if len(ends) else ends
    bounds = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    picked = found[np.repeat(starts - bounds[:-1], counts) + np.arange(bounds[-1])]
    axes = []
    for name in fields[:n_axes]:
        values = picked[name]
        if len(values) and not ((values >= 0).all() and (values < _MAX_PIXELS).all() and (values == np.floor(values)).all()):
            raise FormatError(f"{where} has pixels at impossible places ({name}).", _HINT)
        axes.append(values.astype(np.int64))
    with np.errstate(over="ignore"):
        weights = picked[fields[-1]].astype(np.float32)
    return axes[0], axes[1], axes[2] if n_axes == 3 else np.zeros(len(weights), np.int64), weights, bounds


def _fov(
    y: NDArray[np.int64],
    x: NDArray[np.int64],
    z: NDArray[np.int64] | None,
    sizes: Sequence[tuple[int, ...]],
    notes: list[str],
    part: Part,
    sure: bool,
) -> tuple[tuple[int, ...], bool]:
    """The field of view that holds all pixels, and whether rows and columns must change places for it (if nobody is `sure`)."""
    needed = tuple(int(axis.max(initial=-1)) + 1 for axis in ((y, x) if z is None else (y, x, z)))
    fitting = [size for size in sizes if len(size) == len(needed)]
    for size in fitting:
        if all(n <= s for n, s in zip(needed, size, strict=True)):
            return size, False
    for size in fitting if not sure else ():
        if all(n <= s for n, s in zip((needed[1], needed[0], *needed[2:]), size, strict=True)):
            notes.append(
                f"{part.name}: the pixels fit the images of the file only with rows and columns exchanged; they are read that way."
            )
            return size, True
    fov = tuple(max(1, size) for size in needed)
    problem = "does not fit its images" if fitting else "is not in the file"
    notes.append(f"{part.name}: the size of the field of view {problem}; it is taken to be {fov}, what the ROIs need.")
    return fov, False
