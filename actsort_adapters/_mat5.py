"""MATLAB v5, v6 and v7 files, element by element: decoding what is asked for, and the bytes of everything.

Our own decoder because scipy's loses the names of saved objects, believes the sizes a file declares, and cannot say which bytes
belong to which variable; a write-back must leave all others alone. Layout: "MAT-File Format", The MathWorks, chapter 1.
Every size is checked against what holds it before memory is allocated.
"""

from __future__ import annotations

import io
import math
import mmap
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from actsort_core.errors import FormatError, MissingFileError

HEADER = 128
MOST = 2**31 - 1  # bytes of one variable: MATLAB's own limit for these versions
_MATRIX, _COMPRESSED = 14, 15
STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8", 16: "u1", 17: "u2", 18: "u4"}
_NUMBERS = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_NAMES = {
    **{1: "cell", 2: "struct", 3: "object", 4: "char", 5: "sparse", 16: "function_handle", 17: "opaque"},
    **{6: "double", 7: "single", 8: "int8", 9: "uint8", 10: "int16", 11: "uint16", 12: "int32", 13: "uint32", 14: "int64", 15: "uint64"},
}
_SPARSE, _OPAQUE, _STRUCT, _CELL, _OBJECT, _FUNCTION, _CHAR = 5, 17, 2, 1, 3, 16, 4
_LOGICAL, _COMPLEX = 0x200, 0x800
_HEAD = 1 << 16  # bytes of a compressed variable that are looked at for its name, shape and fields
_CHUNK = 1 << 20
_IN_MEMORY = 1 << 26  # larger variables are inflated into a temporary file
_SLAB = 1 << 22  # numbers held at a time while going through an array
_DEEPEST = 64
_DAMAGED = "The file is damaged: copy it again, or save it again in MATLAB."


@dataclass(frozen=True)
class Element:
    """One top-level element: bytes ``start`` to ``stop`` of the file, its tag included."""

    start: int
    stop: int
    compressed: bool
    size: int  # of the variable, inflated, with its tag
    head: Mat5Node
    unpadded: bool = False  # the last of the file, which ends with its last number and not where it says


class Mat5Node:
    """One MATLAB value, decoded when asked for; see `actsort_adapters._mat.Node`.

    Parameters
    ----------
    data
        Bytes of the variable that holds it.
    start
        Where its tag is.
    order
        ``"<"`` or ``">"``.
    where
        ``file: variable.field``, for messages.
    cut
        `data` may be only the beginning of the variable (for its name, shape and fields).
    """

    def __init__(self, data: memoryview, start: int, order: str, where: str, cut: bool = False) -> None:
        self.data, self.order, self.where, self._cut = data, order, where, cut
        self.start = start
        code, body, size = self._tag(start)
        if code != _MATRIX:
            raise self._broken(f"has an element of type {code} where a value should be")
        self.stop = body + size
        if not cut and self.stop > len(data):
            raise self._broken("is cut off")
        self.name, self.kind, self.logical, self.complex, self.code = "", "double", False, False, 6
        self.shape: tuple[int, ...] = (0, 0)
        self.body = self.stop
        if size:
            self._parse(body)

    def _broken(self, problem: str) -> FormatError:
        return FormatError(f"{self.where} {problem}.", _DAMAGED)

    def _tag(self, at: int) -> tuple[int, int, int]:
        """Type, first byte and size of the element whose tag is at `at`; up to 4 bytes may sit in the tag itself."""
        if at + 8 > len(self.data):
            raise self._broken("is cut off")
        first, size = np.frombuffer(self.data, f"{self.order}u4", 2, at).tolist()
        if first >> 16:
            if first >> 16 > 4:
                raise self._broken("has an impossible element")
            return first & 0xFFFF, at + 4, first >> 16
        return first, at + 8, size

    def _after(self, at: int) -> int:
        """Where the element after the one at `at` begins: all are padded to 8 bytes."""
        _, body, size = self._tag(at)
        return at + 8 if body == at + 4 else _padded(body + size)

    def values(self, at: int) -> NDArray[Any]:
        """The numbers of the element at `at`, in the type in which they are stored."""
        code, body, size = self._tag(at)
        if code not in STORED or body + size > min(self.stop, len(self.data)):
            raise self._broken("is cut off, or holds an unknown type of numbers")
        dtype = np.dtype(f"{self.order}{STORED[code]}")
        return np.frombuffer(self.data, dtype, size // dtype.itemsize, body)

    def _text(self, at: int) -> str:
        return self.values(at).astype(np.uint8).tobytes().decode("utf-8", "replace")

    def _parse(self, at: int) -> None:
        flags = self.values(at)
        if len(flags) != 2 or flags.dtype.kind != "u":
            raise self._broken("has no array flags")
        word = int(flags[0])
        self.code, self.logical, self.complex = word & 0xFF, bool(word & _LOGICAL), bool(word & _COMPLEX)
        self.kind = "logical" if self.logical and self.code != _SPARSE else _NAMES.get(self.code, f"class {self.code}")
        at = self._after(at)
        if self.code == _OPAQUE:  # no dimensions: name, type system, class name, reference
            self.name = self._text(at)
            at = self._after(self._after(at))
            self.kind, self.shape = self._text(at), (1, 1)
            self.body = self._after(at)
            return
        dims = self.values(at).tolist()
        if not 2 <= len(dims) <= 32 or min(dims) < 0:
            raise self._broken(f"has impossible dimensions {dims[:5]}")
        self.shape = tuple(dims)
        at = self._after(at)
        self.name = self._text(at)
        self.body = self._after(at)
        if self.code == _OBJECT:
            self.kind = self._text(self.body) or self.kind
            self.body = self._after(self.body)

    # Structs

    def _layout(self) -> tuple[list[str], int]:
        """Names of the fields and where the first value is."""
        width = int(self.values(self.body)[:1].sum())
        at = self._after(self.body)
        text = self.values(at).astype(np.uint8).tobytes()
        if text and (width < 1 or len(text) % width):
            raise self._broken("has field names of an impossible length")
        names = [text[i : i + width].split(b"\0")[0].decode("utf-8", "replace") for i in range(0, len(text), width)] if text else []
        return names, self._after(at)

    def fields(self) -> tuple[str, ...]:
        """Names of the fields of a single struct, else nothing."""
        return tuple(self._layout()[0]) if self.code in (_STRUCT, _OBJECT) and math.prod(self.shape) == 1 else ()

    def first_value(self) -> int:
        """Where the first value of a struct is."""
        return self._layout()[1]

    def children(self) -> Iterator[Mat5Node]:
        """The values inside a struct, cell, function handle or object, in the order of the file."""
        names: list[str] = [""]
        at, count = self.body, 1
        if self.code in (_STRUCT, _OBJECT):
            names, at = self._layout()
            count = math.prod(self.shape) * len(names)
        elif self.code == _CELL:
            count = math.prod(self.shape)
        elif self.code not in (_FUNCTION, _OPAQUE):
            return
        if count * 8 > self.stop - at:
            raise self._broken(f"claims {count:,} values")
        for number in range(count):
            name = names[number % len(names)]
            child = Mat5Node(self.data[: self.stop], at, self.order, f"{self.where}.{name}" if name else f"{self.where}{{{number}}}")
            child.name = child.name or name
            yield child
            at = _padded(child.stop)

    def field(self, name: str) -> Mat5Node | None:
        """The value of one field of a single struct, or None."""
        if name not in self.fields():
            return None
        return next((child for child in self.children() if child.where == f"{self.where}.{name}"), None)

    def check(self, depth: int = 0) -> None:
        """Go through everything inside, so that another decoder meets no impossible size."""
        if depth > _DEEPEST:
            raise self._broken(f"is nested more than {_DEEPEST} deep")
        if self.complex:
            return
        if self.code == _SPARSE:
            self.parts()
        elif self.code in _NUMBERS:
            self._view()
        for child in self.children():
            child.check(depth + 1)

    @property
    def opaque(self) -> bool:
        """Whether it is an object, which only mat-io decodes."""
        return self.code in (_OPAQUE, _OBJECT)

    # Numbers and text

    def array(self) -> NDArray[Any]:
        """The numbers (or truth values) in MATLAB's shape, in memory."""
        if self.code == _SPARSE:
            return np.asarray(self.sparse().toarray()) if math.prod(self.shape) <= _IN_MEMORY // 8 else self._refuse()
        return np.array(self._view(), order="F")

    def _view(self) -> NDArray[Any]:
        if self.code not in _NUMBERS or self.complex:
            return self._refuse()
        stored = self.values(self.body) if self.body < self.stop else np.zeros(0)
        if stored.size != math.prod(self.shape):
            raise self._broken(f"holds {stored.size:,} numbers for a shape of {self.shape}")
        wanted = np.dtype(bool if self.logical else _NUMBERS[self.code])
        return stored.astype(wanted, copy=False).reshape(self.shape, order="F")

    def last_byte(self) -> float:
        """Where the numbers or the text of a plain array end; infinity for anything else."""
        if (self.code not in _NUMBERS and self.code != _CHAR) or self.complex or self.body >= self.stop:
            return math.inf
        _, body, size = self._tag(self.body)
        return body + size if body == self.body + 8 else body + 4

    def _refuse(self) -> NDArray[Any]:
        raise FormatError(f"{self.where} is a {'complex ' if self.complex else ''}{self.kind} of shape {self.shape}, not plain numbers.")

    def parts(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Row indices, column bounds and values of a sparse matrix, in the types in which they are stored."""
        if self.code != _SPARSE or self.complex or len(self.shape) != 2:
            self._refuse()
        at_bounds = self._after(self.body)
        rows, bounds, values = self.values(self.body), self.values(at_bounds), self.values(self._after(at_bounds))
        if len(bounds) != self.shape[1] + 1 or bounds[0] != 0 or (np.diff(bounds.astype(np.int64)) < 0).any():
            raise self._broken("has column bounds that do not rise")
        used = int(bounds[-1])
        if used > min(len(rows), len(values)) or (used and not 0 <= int(rows[:used].min()) <= int(rows[:used].max()) < self.shape[0]):
            raise self._broken("has entries outside its shape")
        return rows[:used], bounds, values[:used]

    def sparse(self) -> sp.csc_matrix:
        """A sparse matrix, float64."""
        rows, bounds, values = self.parts()
        return sp.csc_matrix((values.astype(np.float64), rows.astype(np.int64), bounds.astype(np.int64)), shape=self.shape)

    def slabs(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """The array along its last axis, some columns or images at a time, as ``(first index, part)``."""
        view = self._view()
        step = max(1, _SLAB // max(1, math.prod(self.shape[:-1])))
        for first in range(0, self.shape[-1], step):
            yield first, view[..., first : first + step]

    def traces(self, cells: int) -> NDArray[np.float32]:
        """``(n_cells, n_frames)`` float32, `cells` being the axis of the candidates."""
        with np.errstate(over="ignore", invalid="ignore"):
            return np.array(np.moveaxis(self._view(), cells, 0), np.float32, order="C")

    def text(self) -> str | None:
        """A line of text, None for anything else."""
        if self.code != _CHAR or self.body >= self.stop or self.shape[0] > 1:
            return None
        stored = self.values(self.body)[:4096]
        if stored.dtype.itemsize == 1:
            return stored.astype(np.uint8).tobytes().decode("utf-8", "replace")
        return stored.astype("<u2").tobytes().decode("utf-16-le", "replace")


class Mat5File:
    """An open v5, v6 or v7 file; see `actsort_adapters._mat.MatFile`."""

    version = "v5"

    def __init__(self, path: Path, content: mmap.mmap) -> None:
        self.path, self.content = path, memoryview(content)
        self.order = "<" if bytes(self.content[126:128]) == b"IM" else ">"
        self.elements = tuple(self._scan())
        offset = self.content[116:124]
        number = 0 if bytes(offset) == b" " * 8 else int.from_bytes(offset, "little" if self.order == "<" else "big")
        self.subsystem = number or None
        self._inflated: dict[str, memoryview] = {}

    def _scan(self) -> Iterator[Element]:
        at = HEADER
        while at < len(self.content):
            if at + 8 > len(self.content):
                raise FormatError(f"{self.path} is cut off after {len(self.content):,} bytes.", _DAMAGED)
            code, size = np.frombuffer(self.content, f"{self.order}u4", 2, at).tolist()
            stop = at + 8 + size
            if code not in (_MATRIX, _COMPRESSED):
                raise FormatError(f"{self.path} has an element of type {code} at byte {at:,}.", _DAMAGED)
            where = f"{self.path}: the variable at byte {at:,}"
            lost = stop - len(self.content)
            if lost > 0:
                head = self._unpadded(at, stop, where) if lost < 8 and code == _MATRIX else None
                if head is None:
                    raise FormatError(f"{self.path} is cut off: {lost:,} bytes are missing at its end.", _DAMAGED)
                stop = len(self.content)
            elif code == _COMPRESSED:
                try:
                    start = zlib.decompressobj().decompress(self.content[at + 8 : stop], _HEAD)
                except zlib.error as error:
                    raise FormatError(f"{self.path} is damaged at byte {at:,} ({error}).", _DAMAGED) from error
                head = Mat5Node(memoryview(start), 0, self.order, where, cut=True)
            else:
                head = Mat5Node(self.content[at:stop], 0, self.order, where)
            head.where = f"{self.path}: {head.name or 'a variable without a name'}"
            yield Element(at, stop, code == _COMPRESSED, head.stop, head, lost > 0)
            at = stop

    def _unpadded(self, start: int, stop: int, where: str) -> Mat5Node | None:
        """The last variable, if nothing but padding is missing at its end (Octave writes such char arrays); else None."""
        data = memoryview(bytes(self.content[start:]) + bytes(stop - len(self.content)))
        try:
            node = Mat5Node(data, 0, self.order, where)
            return node if node.last_byte() <= len(self.content) - start else None
        except FormatError:
            return None

    @property
    def names(self) -> tuple[str, ...]:
        """Variables in the order of the file; MATLAB's hidden ones have no name and are left out."""
        return tuple(e.head.name for e in self.elements if e.head.name)

    def element(self, name: str) -> Element | None:
        """The last variable of that name: MATLAB lets it win."""
        return next((e for e in reversed(self.elements) if e.head.name == name), None)

    def head(self, name: str) -> Mat5Node | None:
        """Class, shape and fields of a variable without decoding it."""
        found = self.element(name)
        return found.head if found else None

    def variable(self, name: str) -> Mat5Node | None:
        """A variable, or None."""
        found = self.element(name)
        return self.whole(found) if found else None

    def whole(self, element: Element) -> Mat5Node:
        """All of an element, inflated."""
        where = element.head.where
        if element.unpadded:
            return element.head
        if not element.compressed:
            return Mat5Node(self.content[element.start : element.stop], 0, self.order, where)
        key = f"{element.start}"
        if key not in self._inflated:
            if element.size > MOST:
                raise FormatError(f"{where} claims {element.size:,} bytes, more than MATLAB can save this way.", _DAMAGED)
            self._inflated[key] = _inflate(self.content[element.start + 8 : element.stop], element.size, where)
        return Mat5Node(self._inflated[key], 0, self.order, where)


def _padded(at: int) -> int:
    return (at + 7) // 8 * 8


@contextmanager
def opened(path: Path) -> Iterator[Mat5File]:
    """Open a file whose header says v5 (see ``_mat.flavour``)."""
    try:
        with path.open("rb") as handle:  # the mapping is freed with its last view: closing it sooner is an error
            yield Mat5File(path, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ))
    except FileNotFoundError as error:
        raise MissingFileError(f"{path} does not exist.", "Was it moved or renamed since it was opened?") from error
    except RecursionError as error:
        raise FormatError(f"{path} is nested too deeply.", _DAMAGED) from error


def _inflate(source: memoryview, size: int, where: str) -> memoryview:
    """Exactly `size` bytes, never more: a small file can inflate to terabytes."""
    if size > 1032 * len(source) + 64:  # deflate cannot do better
        raise FormatError(f"{where} claims {size:,} bytes but holds {len(source):,} compressed.", _DAMAGED)
    engine, left = zlib.decompressobj(), size
    with tempfile.TemporaryFile() if size > _IN_MEMORY else io.BytesIO() as out:
        try:
            for start in range(0, len(source), _CHUNK):
                pending: bytes | memoryview = source[start : start + _CHUNK]
                while left and not engine.eof:
                    part = engine.decompress(pending, min(left, _CHUNK))
                    out.write(part)
                    left -= len(part)
                    pending = engine.unconsumed_tail
                    if not part and not pending:
                        break
                if not left:
                    engine.decompress(pending, 64)  # the checksum comes after the last byte
        except zlib.error as error:
            raise FormatError(f"{where} is damaged ({error}).", _DAMAGED) from error
        if left:
            raise FormatError(f"{where} is cut off: {left:,} of {size:,} bytes are missing.", _DAMAGED)
        if isinstance(out, io.BytesIO):
            return memoryview(out.getvalue())
        out.flush()
        return memoryview(mmap.mmap(out.fileno(), 0, access=mmap.ACCESS_READ))
