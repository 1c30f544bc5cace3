"""ndSparse objects in MATLAB files of every version: stacks of sparse images, as EXTRACT and ActSort for MATLAB keep footprints.

``ndSparse`` (M. Jacobson, shipped with both) is a value class with two properties: ``data``, a sparse matrix of ``rows * columns`` by
``images`` (MATLAB keeps every further dimension in the columns), and ``ndShape``. Decoded here rather than with mat-io, which reads
the whole variable into memory (a precomputed file is mostly pictures of the movie) and needs numpy 2. What is stored where was found
in files that MATLAB and mat-io wrote; layout of the hidden variable: docs/formats/extract.md.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from actsort_adapters import _hdf5
from actsort_adapters._mat5 import Mat5File, Mat5Node
from actsort_adapters._mat73 import SUBSYSTEM, Mat73File, Mat73Node
from actsort_core.errors import FormatError

CLASS = "ndSparse"
_DAMAGED = "The file is damaged, or was not saved by MATLAB: save spatial_weights as full(spatial_weights) with '-v7.3'."
_MARK = 0xDD000000  # what a reference to an object starts with
_NAMES_AT = 40  # bytes: version, number of names, eight offsets of regions
_MOST_CELLS = 10_000_000


def stack(file: Mat5File | Mat73File, node: Any) -> tuple[sp.csc_matrix, tuple[int, int]]:
    """The images an ndSparse object holds.

    Parameters
    ----------
    file
        The open file.
    node
        The value, `opaque`.

    Returns
    -------
    ``(rows * columns, images)`` CSC float64 in MATLAB's column-major order of pixels, and ``(rows, columns)``.

    Raises
    ------
    FormatError
        It is an object of another class, or damaged.
    """
    if node.kind.rpartition(".")[2] != CLASS:
        raise FormatError(f"{node.where} is an object of class {node.kind}, not numbers.", "Save it as full(...) in MATLAB.")
    try:
        cells, reference = _cells73(file, node) if isinstance(file, Mat73File) else _cells5(file, node)
        found = _properties(cells[0].array().tobytes(), reference)
        data, shape = cells[found["data"] + 2], cells[found["ndShape"] + 2].array().ravel()
    except FormatError:
        raise
    except (KeyError, IndexError, ValueError, TypeError, OverflowError) as error:
        raise FormatError(f"{node.where}: the object's contents cannot be found ({type(error).__name__}: {error}).", _DAMAGED) from error
    sizes = [int(n) for n in shape.tolist()] if np.isfinite(shape).all() and len(shape) <= 4 else []
    sizes += [1] * (3 - len(sizes)) if len(sizes) == 2 else []  # MATLAB drops the last dimension of one image
    matrix = data.sparse() if data.kind == "sparse" else sp.csc_matrix(data.array().astype(np.float64))
    if len(sizes) != 3 or min(sizes) < 0 or math.prod(sizes) != math.prod(matrix.shape):
        raise FormatError(f"{node.where} is of shape {tuple(sizes)} but holds {matrix.shape[0]} x {matrix.shape[1]} values.", _DAMAGED)
    if matrix.shape != (sizes[0] * sizes[1], sizes[2]):
        matrix = sp.csc_matrix(matrix.reshape((sizes[0] * sizes[1], sizes[2]), order="F"))
    return matrix, (sizes[0], sizes[1])


def _cells73(file: Mat73File, node: Mat73Node) -> tuple[_Cells73, NDArray[np.uint32]]:
    """The cells of the hidden variable, and the numbers by which a value refers to its object."""
    import h5py

    held = _hdf5.dataset(file.file, f"{SUBSYSTEM}/MCOS")
    if held is None or h5py.check_ref_dtype(held.dtype) is not h5py.Reference or math.prod(held.shape) > _MOST_CELLS:
        raise FormatError(f"{file.path} has no contents of objects.", _DAMAGED)
    return _Cells73(file, held[()].ravel()), node.stored().ravel().astype(np.uint32)


class _Cells73:
    """Cells by number, each looked up when asked for."""

    def __init__(self, file: Mat73File, references: NDArray[Any]) -> None:
        self._file, self._references = file, references

    def __getitem__(self, number: int) -> Mat73Node:
        with _hdf5.clear_errors(f"{self._file.path}: {SUBSYSTEM}"):
            return Mat73Node(self._file.file[self._references[number]], f"{self._file.path}: object part {number}")


def _cells5(file: Mat5File, node: Mat5Node) -> tuple[list[Mat5Node], NDArray[np.uint32]]:
    subsystem = next((e for e in file.elements if e.start == file.subsystem), None)
    if subsystem is None:
        raise FormatError(f"{file.path} has no contents of objects.", _DAMAGED)
    where = f"{file.path}: the contents of objects"
    inner = memoryview(file.whole(subsystem).array().astype("u1").tobytes(order="F"))[8:]  # a file in the file, with a header of 8 bytes
    wrapper = Mat5Node(inner, 0, file.order, where).field("MCOS")
    if wrapper is None:
        raise FormatError(f"{where} are not where MATLAB keeps them.", _DAMAGED)
    (held,), (reference,) = wrapper.children(), node.children()
    return list(held.children()), reference.array().ravel().astype(np.uint32)


def _properties(content: bytes, reference: NDArray[np.uint32]) -> dict[str, int]:
    """Which cell holds which property of the object referred to (properties whose value is no cell are left out).

    ``content``: version, number of names, eight offsets; names; then regions of classes, of properties of objects with a saveobj, of
    objects, of properties of all other objects. Regions count from 0, where nothing is.
    """
    words = np.frombuffer(content[: len(content) // 4 * 4], "<u4")
    if len(reference) < 6 or reference[0] != _MARK or len(words) < _NAMES_AT // 4:
        raise ValueError("not a reference to an object")
    number = int(reference[2 + int(reference[1])])
    starts = [int(offset) for offset in words[2:10]]
    names = [name.decode("utf-8", "replace") for name in content[_NAMES_AT : starts[0]].split(b"\0")]
    info = words[starts[2] // 4 + 6 * number :][:6]
    if len(info) < 6 or starts[2] + 24 * (number + 1) > starts[3]:
        raise IndexError(f"there is no object {number}")
    _, _, _, saved, normal, _ = (int(word) for word in info)
    at, stop, wanted = (starts[3], starts[4], normal) if normal else (starts[1], starts[2], saved)
    for _ in range(wanted):
        at = _next(at, int(words[at // 4]), stop)
    count = int(words[at // 4])
    _next(at, count, stop)
    triples = words[at // 4 + 1 :][: 3 * count].reshape(-1, 3).tolist()
    return {names[name - 1]: value for name, kind, value in triples if kind == 1 and name}


def _next(at: int, count: int, stop: int) -> int:
    after = at + (4 + 12 * count + 7) // 8 * 8
    if after > stop:
        raise IndexError("properties beyond their region")
    return after
