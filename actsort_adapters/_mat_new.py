"""New v7.3 files: what ``actsort convert`` writes for the hosts that keep ``.mat`` files.

v7.3 because it has no limit of 2 GB per variable, and traces and images go into it a part at a time. Arrays are given in MATLAB's
shape and stored transposed, in MATLAB's dress (see `_mat73`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from actsort_adapters import _mat73
from actsort_adapters._mat73 import REFS
from actsort_core.errors import UsageError
from actsort_core.model import TraceArray

_HEADER = b"MATLAB 7.3 MAT-file, written by ActSort for Python, HDF5 schema 1.00 .".ljust(116) + bytes(8) + b"\x00\x02IM"
_SMALL = 1 << 14  # bytes: larger pictures are compressed
_BLOCK = 1 << 22  # trace values held at a time


@dataclass(frozen=True, eq=False)
class Traces:
    """Traces to be stored as ``n_cells x n_frames`` (`cells` 0) or ``n_frames x n_cells`` (1), single."""

    source: TraceArray
    cells: int


@dataclass(frozen=True, eq=False)
class Images:
    """Footprints (C order of `fov`) to be stored as ``rows x columns x n_cells``, single."""

    footprints: sp.csc_matrix
    fov: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Cell:
    """A cell array of shape `shape`, its `items` column after column; they may be made one at a time."""

    shape: tuple[int, int]
    items: Iterable[Any]


def write(tmp: Path, variables: Mapping[str, Any]) -> None:
    """Make a new file.

    Parameters
    ----------
    tmp
        Where; what is there is replaced.
    variables
        By name: arrays of at least two dimensions, sparse matrices, text, mappings (structs), `Traces`, `Images`, `Cell`.
    """
    import h5py

    with h5py.File(tmp, "w", userblock_size=512) as file:
        for name, value in variables.items():
            _put(file, file["/"], name, value)
    with tmp.open("r+b") as handle:
        handle.write(_HEADER)


def check_free(dst: Path) -> None:
    """Insist that nothing is at `dst` and its folder exists.

    Raises
    ------
    UsageError
        Something is there, or there is no such folder.
    """
    if dst.exists() or dst.is_symlink():
        raise UsageError(f"{dst} exists already.", "Choose another name: nothing is overwritten.")
    if not dst.parent.is_dir():
        raise UsageError(f"The folder {dst.parent} does not exist.", "Make it first.")


def _put(file: Any, parent: Any, name: str, value: Any) -> None:
    if isinstance(value, Mapping):
        made = parent.create_group(name)
        _mat73.tag(made, "struct", parent)
        _mat73.set_fields(made, list(value))
        for field, item in value.items():
            _put(file, made, field, item)
    elif sp.issparse(value):
        _put_sparse(parent, name, value)
    elif isinstance(value, Traces):
        _put_traces(parent, name, value)
    elif isinstance(value, Images):
        _put_images(parent, name, value)
    elif isinstance(value, Cell):
        _put_cell(file, parent, name, value)
    elif isinstance(value, np.ndarray) and value.ndim > 2 and value.nbytes > _SMALL:
        made = parent.create_dataset(name, data=value.T, compression=3)
        _mat73.tag(made, _mat73.class_of(value), parent)
    else:
        _mat73.put(parent, name, value)


def _put_sparse(parent: Any, name: str, value: Any) -> None:
    """MATLAB keeps only double (and logical) sparse matrices; one without entries has neither ``data`` nor ``ir``."""
    matrix = sp.csc_matrix(value)
    made = parent.create_group(name)
    _mat73.tag(made, "double", parent)
    made.attrs.create("MATLAB_sparse", matrix.shape[0], dtype=np.uint64)
    if matrix.nnz:
        made["data"] = matrix.data.astype(np.float64)
        made["ir"] = matrix.indices.astype(np.uint64)
    made["jc"] = matrix.indptr.astype(np.uint64)


def _put_traces(parent: Any, name: str, value: Traces) -> None:
    n_cells, n_frames = (int(n) for n in value.source.shape)
    shape = (n_cells, n_frames) if value.cells == 0 else (n_frames, n_cells)
    if 0 in shape:
        _mat73.put(parent, name, np.zeros(shape, np.float32))
        return
    made = parent.create_dataset(name, shape[::-1], np.float32)
    _mat73.tag(made, "single", parent)
    step = max(1, _BLOCK // n_frames)
    for first in range(0, n_cells, step):
        rows = slice(first, min(first + step, n_cells))
        block = np.asarray(value.source[rows], np.float32)
        if value.cells:
            made[rows] = block
        else:
            made[:, rows] = block.T


def _put_images(parent: Any, name: str, value: Images) -> None:
    height, width = value.fov
    n_cells = int(value.footprints.shape[1])
    if not n_cells:
        _mat73.put(parent, name, np.zeros((height, width, 0), np.float32))
        return
    made = parent.create_dataset(name, (n_cells, width, height), np.float32, chunks=(1, width, height), compression=3)
    _mat73.tag(made, "single", parent)
    for number in range(n_cells):
        made[number] = image(value.footprints, value.fov, number).T


def image(footprints: sp.csc_matrix, fov: tuple[int, int], number: int) -> NDArray[np.float32]:
    """One footprint as an image ``(rows, columns)``."""
    out = np.zeros(fov[0] * fov[1], np.float32)
    inside = slice(footprints.indptr[number], footprints.indptr[number + 1])
    out[footprints.indices[inside]] = footprints.data[inside]
    return out.reshape(fov)


def _put_cell(file: Any, parent: Any, name: str, value: Cell) -> None:
    import h5py

    count = math.prod(value.shape)
    if not count:
        made = parent.create_dataset(name, data=np.array(value.shape, np.uint64))
        _mat73.tag(made, "cell", parent)
        made.attrs.create("MATLAB_empty", 1, dtype=np.uint8)
        return
    refs = file.require_group(REFS)
    references = np.empty(count, h5py.ref_dtype)
    for number, item in enumerate(value.items):
        key = f"{len(refs):x}"
        _put(file, refs, key, item)
        references[number] = refs[key].ref
    made = parent.create_dataset(name, data=references.reshape(value.shape, order="F").T, dtype=h5py.ref_dtype)
    _mat73.tag(made, "cell", parent)
