"""Footprints kept as a stack of images ``rows x columns x candidates`` (dense, or an ndSparse object), and traces beside them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from actsort_adapters import _mat_ndsparse
from actsort_adapters._mat5 import Mat5File
from actsort_adapters._mat73 import Mat73File
from actsort_core.errors import FormatError
from actsort_core.model import TraceArray, as_footprints

_DAMAGED = "The file is damaged, or was put together by hand."
_MAX_PIXELS = 2**31 - 1  # more would not fit the index type of a sparse footprint
_SCAN_NUMBERS = 1 << 26  # traces up to this size are checked for NaN while opening


def footprints(
    file: Mat5File | Mat73File, node: Any, image: tuple[int, ...] | None, notes: list[str]
) -> tuple[sp.csc_matrix, tuple[int, int], NDArray[np.float64]]:
    """Read a stack of images.

    Parameters
    ----------
    file, node
        The open file and the stack.
    image
        Shape of a summary image, for stacks that were flattened or have no candidate; None where there is none.
    notes
        What was odd is added here.

    Returns
    -------
    Footprints ``(n_pixels, n_cells)`` CSC float32 in C order; the field of view; the sum of each image as stored, its identity in
    the file.
    """
    if node is None:  # the name is there, and what it stands for is damaged
        raise FormatError(
            f"{file.path}: the footprints cannot be read.", "The file is damaged: copy it again, or restore it from a backup."
        )
    if node.opaque:
        matrix, fov = _mat_ndsparse.stack(file, node)
    elif node.kind == "sparse":
        matrix, fov = node.sparse(), _flat(node, node.shape[0], image)
    else:
        return _finish(*_dense(node, image), notes)
    if math.prod(fov) > _MAX_PIXELS:
        raise FormatError(f"{node.where} has images of {fov}, too large.", _DAMAGED)
    pixels = matrix.indices.astype(np.int64)
    rows = pixels % fov[0] * fov[1] + pixels // fov[0]
    odd = int((~np.isfinite(matrix.data)).sum())
    with np.errstate(over="ignore", invalid="ignore"):
        sums = np.asarray(matrix.sum(axis=0), np.float64).ravel()
        matrix = sp.csc_matrix((matrix.data.astype(np.float32), rows, matrix.indptr), shape=(math.prod(fov), matrix.shape[1]))
    return _finish(matrix, fov, sums, odd, notes)


def _finish(
    matrix: sp.csc_matrix, fov: tuple[int, int], sums: NDArray[np.float64], odd: int, notes: list[str]
) -> tuple[sp.csc_matrix, tuple[int, int], NDArray[np.float64]]:
    out = as_footprints(matrix, math.prod(fov))
    if odd:
        notes.append(f"{odd} weights of the footprints are not finite; they count as 0.")
    if empty := int((np.diff(out.indptr) == 0).sum()):
        notes.append(f"{empty} candidates have an empty footprint.")
    return out, fov, sums


def _dense(node: Any, image: tuple[int, ...] | None) -> tuple[sp.csc_matrix, tuple[int, int], NDArray[np.float64], int]:
    if node.kind in ("char", "struct", "cell", "function_handle"):
        raise FormatError(f"{node.where} is a {node.kind} of shape {node.shape}, not plain numbers.", _DAMAGED)
    shape = node.shape
    if len(shape) == 2 and math.prod(shape) and (image is None or shape == image or shape[0] != math.prod(image)):
        shape = (*shape, 1)  # MATLAB drops the last dimension of a stack of one image
    flat = len(shape) == 2  # ... pixels x candidates, or nothing at all
    if len(shape) not in (2, 3):
        raise FormatError(f"{node.where} has the shape {node.shape}, not rows x columns x candidates.", _DAMAGED)
    fov = _flat(node, shape[0], image) if flat or not min(shape[:2]) else (shape[0], shape[1])
    if math.prod(fov) > _MAX_PIXELS:
        raise FormatError(f"{node.where} has images of {fov}, too large.", _DAMAGED)
    n_cells = shape[-1] if math.prod(shape) else 0
    sums, odd = [np.zeros(0)], 0  # made as the parts come: the file may hold fewer than it declares
    parts = [sp.csr_matrix((0, math.prod(fov)), dtype=np.float32)]
    for _, part in node.slabs() if n_cells else ():
        if len(node.shape) < len(shape):  # the one image comes in parts of columns
            part = node.array()
        count = 1 if len(node.shape) < len(shape) else part.shape[-1]
        images = np.asarray(part).reshape((*fov, count), order="F")
        odd += int((~np.isfinite(images)).sum()) if images.dtype.kind == "f" else 0
        with np.errstate(over="ignore", invalid="ignore"):
            sums.append(images.sum(axis=(0, 1), dtype=np.float64))
            parts.append(sp.csr_matrix(np.moveaxis(images, 2, 0).reshape(count, -1).astype(np.float32)))
        if len(node.shape) < len(shape):
            break
    return sp.csc_matrix(sp.vstack(parts).T), fov, np.concatenate(sums), odd


def _flat(node: Any, n_pixels: int, image: tuple[int, ...] | None) -> tuple[int, int]:
    """The field of view of a stack without rows and columns of its own: that of the summary image."""
    if image is None or len(image) != 2 or not math.prod(image):
        raise FormatError(f"{node.where} has the shape {node.shape}, and no image says how large the field of view is.", _DAMAGED)
    if math.prod(node.shape) and math.prod(image) != n_pixels:
        raise FormatError(f"{node.where} has {n_pixels} pixels, the summary image {image[0]} x {image[1]}.", _DAMAGED)
    return image[0], image[1]


def traces(node: Any, n_cells: int, axis: int, notes: list[str]) -> TraceArray:
    """Read traces, ``(n_cells, n_frames)`` float32, on demand where the file allows it.

    Parameters
    ----------
    node
        The value.
    n_cells
        As many as there are footprints.
    axis
        Where the candidates are expected; the other is taken where only that fits, and said so.
    notes
        What was odd is added here.
    """
    if len(node.shape) == 2 and node.shape[axis] != n_cells and node.shape[1 - axis] == n_cells:
        axis = 1 - axis
        if n_cells:
            notes.append(f"The traces are stored the other way round ({node.shape[0]} x {node.shape[1]}).")
    if len(node.shape) != 2 or node.shape[axis] != n_cells or (n_cells and not node.shape[1 - axis]):
        raise FormatError(f"{node.where} has the shape {node.shape} for {n_cells} footprints.", _DAMAGED)
    if node.kind == "sparse":
        matrix = node.sparse()
        found: TraceArray = np.ascontiguousarray((matrix if axis == 0 else matrix.T).toarray(), np.float32)
    else:
        found = node.traces(axis)
    if math.prod(found.shape) <= _SCAN_NUMBERS:
        step = max(1, (1 << 24) // max(1, found.shape[1]))
        odd = sum(int((~np.isfinite(found[i : i + step])).any(axis=1).sum()) for i in range(0, n_cells, step))
        if odd:
            notes.append(f"The traces of {odd} candidates hold values that are not finite.")
    return found


def images(wanted: dict[str, Any], fov: tuple[int, int]) -> dict[str, NDArray[np.float32]]:
    """Those of some values that are images of the field of view, by name."""
    out = {}
    for name, node in wanted.items():
        if node is not None and not node.opaque and node.shape == fov and node.kind in ("double", "single"):
            with np.errstate(over="ignore", invalid="ignore"):
                out[name] = np.ascontiguousarray(node.array(), np.float32)
    return out


def row(node: Any, n_cells: int) -> NDArray[np.float64] | None:
    """A number for each candidate; None where it is something else."""
    if node is None or node.opaque or node.kind in ("struct", "cell", "char", "function_handle"):
        return None
    if len(node.shape) != 2 or sorted(node.shape) != sorted((1, n_cells)):
        return None
    return np.asarray(node.array(), np.float64).ravel()
