"""MATLAB files of every version as trees of named values: shared by the adapters whose host writes ``.mat`` files.

v5, v6 and v7 are decoded here (`_mat5`), v7.3 with h5py (`_mat73`), saved objects with mat-io (`_mat_objects`). Arrays keep
MATLAB's shape, always at least two dimensions: nothing is squeezed, so K = 1 and K = 0 look like any other K.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from actsort_adapters import _hdf5, _mat5, _mat73
from actsort_core.errors import ActsortError, FormatError, MissingFileError
from actsort_core.formats import Sniff
from actsort_core.model import TraceArray


class Node(Protocol):
    """One MATLAB value.

    Attributes
    ----------
    where
        ``file: variable.field``, for messages.
    kind
        MATLAB's class (``"double"``, ``"struct"``, ``"Sources2D"``...), ``"sparse"`` for sparse matrices.
    shape
        As in MATLAB.
    opaque
        True for an object that only mat-io decodes.
    """

    where: str
    kind: str
    shape: tuple[int, ...]

    @property
    def opaque(self) -> bool: ...
    def fields(self) -> tuple[str, ...]: ...
    def field(self, name: str) -> Node | None: ...
    def array(self) -> NDArray[Any]: ...
    def sparse(self) -> sp.csc_matrix: ...
    def slabs(self) -> Iterator[tuple[int, NDArray[Any]]]: ...
    def traces(self, cells: int) -> TraceArray: ...
    def text(self) -> str | None: ...


@dataclass(frozen=True)
class Flavour:
    """What the first bytes of a file say: ``version`` is ``"v5"`` (also v6, v7), ``"v7.3"`` or, for no MATLAB file, ``""``."""

    version: str
    why: str


def flavour(path: Path) -> Flavour:
    """Look at the header, not at the name: reads a few bytes, never raises for foreign files.

    The text at the start is not what counts: some writers of v7.3 begin it with "MATLAB 5.0".
    """
    if path.is_dir():
        return Flavour("", "a folder; MATLAB's results are single .mat files")
    try:
        with path.open("rb") as handle:
            head = handle.read(_mat5.HEADER)
            handle.seek(512)
            body = handle.read(8)
    except OSError as error:
        return Flavour("", f"it cannot be read ({error.strerror or error})")
    if len(head) == _mat5.HEADER and head[126:128] in (b"IM", b"MI"):
        number = int.from_bytes(head[124:126], "little" if head[126:128] == b"IM" else "big")
        if number == 0x0100:
            return Flavour("v5", "a MATLAB v5, v6 or v7 file")
        if number == 0x0200:
            return Flavour("v7.3", "a MATLAB v7.3 file") if body == _hdf5.SIGNATURE else Flavour("", "a MATLAB v7.3 file that is cut off")
    if _is_v4(head):
        return Flavour("", "a MATLAB v4 file, which holds no structs: save it again with '-v7'")
    return Flavour("", "an empty file" if not head else "not a MATLAB file")


def _is_v4(head: bytes) -> bool:
    """Five numbers: type (its digits say byte order, 0, precision, kind), rows, columns, imaginary?, length of the name."""
    if len(head) < 20:
        return False
    for order in ("<u4", ">u4"):
        kind, rows, columns, imaginary, length = np.frombuffer(head[:20], order).tolist()
        digits = divmod(kind, 1000)
        if kind < 5000 and digits[1] < 60 and kind % 10 < 3 and imaginary < 2 and 1 < length <= 64 and rows and columns:
            return True
    return False


class MatFile(Protocol):
    """An open file.

    Attributes
    ----------
    path
        Where it is.
    version
        ``"v5"`` or ``"v7.3"``.
    """

    path: Path
    version: str

    @property
    def names(self) -> tuple[str, ...]: ...
    def head(self, name: str) -> Node | None: ...
    def variable(self, name: str) -> Node | None: ...


@contextmanager
def opened(path: Path) -> Iterator[_mat5.Mat5File | _mat73.Mat73File]:
    """Open a MATLAB file for reading.

    Raises
    ------
    MissingFileError
        Nothing is there.
    FormatError
        It is not a MATLAB file of a version that is read, or it is damaged; also for what goes wrong while it is in use.
    """
    if not path.is_file():
        raise MissingFileError(f"{path} is not a file.", "Pass the .mat file with the results.")
    found = flavour(path)
    if not found.version:
        raise FormatError(f"{path} is {found.why}.", "Pass a .mat file that MATLAB saved.")
    with _mat73.opened(path) if found.version == "v7.3" else _mat5.opened(path) as file:
        try:
            yield file
        except ActsortError:
            raise
        except (ValueError, IndexError, KeyError, TypeError, OverflowError, RecursionError, OSError) as error:
            raise FormatError(f"{path} cannot be read ({type(error).__name__}: {error}).", "The file is damaged.") from error


def number(node: Node | None) -> float:
    """A scalar as float, NaN where there is none."""
    if node is None or node.shape != (1, 1) or node.kind in ("struct", "cell", "char", "sparse") or node.opaque:
        return float("nan")
    try:
        return float(node.array().ravel()[0])
    except FormatError:
        return float("nan")


def vector(node: Node | None) -> NDArray[Any] | None:
    """A row or column of numbers, flat; None where there is none."""
    if node is None or node.kind in ("struct", "cell", "char") or node.opaque or len(node.shape) != 2 or min(node.shape) > 1:
        return None
    return node.array().ravel()


def sniff(path: Path, find: Callable[[Any], object], hint: Callable[[Any], str]) -> Sniff:
    """What a format whose host writes MATLAB files says about `path`; raises nothing.

    Parameters
    ----------
    path
        Any file or folder.
    find
        From the open file to what makes it one of the format's, or something false.
    hint
        From the open file to why it is none.
    """
    found = flavour(path)
    if not found.version:
        return Sniff(False, found.why)
    try:
        with opened(path) as file:
            there = find(file)
            return Sniff(True, f"{found.why} with {there}") if there else Sniff(False, hint(file))
    except ActsortError as error:
        return Sniff(False, str(error))
    except Exception as error:  # a damaged file must not hide what other formats say
        return Sniff(False, f"its check failed ({type(error).__name__}: {error})")
