"""Changing v5, v6 and v7 files without touching a byte of what is not meant: variables are spliced in, replaced, or filtered.

Never a round trip through a MATLAB library: scipy refuses function handles, loses objects and changes classes of numbers.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from actsort_adapters import _mat5
from actsort_adapters._mat5 import HEADER, Element, Mat5File, Mat5Node
from actsort_core.errors import FormatError

_OFFSET = slice(116, 124)  # of the header: where the subsystem (contents of objects) is
_BLOCK = 1 << 22
_INSTEAD = (
    "Nothing was changed; the decisions are safe in the session (actsort export SESSION decisions.csv). "
    "To have them in the file, load it in MATLAB, save it with '-v7.3' and open that."
)
_TITLE = b"MATLAB 5.0 MAT-file, written by ActSort for Python"
_CLASSES = {"f8": 6, "f4": 7, "i1": 8, "u1": 9, "i2": 10, "u2": 11, "i4": 12, "u4": 13, "i8": 14, "u8": 15}
_LONGEST = 64  # bytes of a field's name, the zero at its end included: what MATLAB reads


def closed(file: Mat5File) -> str:
    """Why no variable can be added to `file`, as a sentence; ``""`` when one can."""
    if file.order != "<":
        return f"{file.path} was written on a big-endian machine; such files are read but not changed."
    if any(e.size > _mat5.MOST for e in file.elements):
        return f"{file.path} holds a variable of more than 2 GB, beyond what MATLAB keeps in such files."
    return ""


def check_editable(file: Mat5File) -> None:
    """Insist that variables can be added to `file`.

    Raises
    ------
    FormatError
        It is big-endian, has a variable beyond MATLAB's limit, or a header that points to nowhere; says where the decisions are.
    """
    if why := closed(file):
        raise FormatError(why, _INSTEAD)
    if file.subsystem is not None and all(e.start != file.subsystem for e in file.elements):
        raise FormatError(f"{file.path}: its header points to objects that are not there.", _INSTEAD)


def new_file(variables: Mapping[str, Any]) -> bytes:
    """A v7 file with nothing but `variables`."""
    return _TITLE.ljust(_OFFSET.start) + bytes(8) + b"\x00\x01IM" + encode(variables, True)


def encode(variables: Mapping[str, Any], compressed: bool) -> bytes:
    """Variables as elements of a file: NumPy arrays keep their class (bool is logical), a dict is a struct, text is char.

    Not by scipy: it stores text as UTF-8, of which Octave reads as many bytes as there are characters.
    """
    return b"".join(as_variable(_value(value, name), compressed) for name, value in variables.items())


def _value(value: Any, name: str = "") -> bytes:
    if isinstance(value, Mapping):
        fields = [field.encode() for field in value]
        width = max((len(field) + 1 for field in fields), default=1)
        if width > _LONGEST:
            raise ValueError(f"a name of {width - 1} bytes is longer than MATLAB's")
        parts = [_element(5, np.array(width, "<i4").tobytes()), _element(1, b"".join(field.ljust(width, b"\0") for field in fields))]
        return _array(2, (1, 1), name, [*parts, *(_value(inner) for inner in value.values())])
    if isinstance(value, str):  # UTF-16 where one byte does not do: what MATLAB, Octave and scipy all read whole
        content, code = (value.encode(), 16) if value.isascii() else (value.encode("utf-16-le"), 17)
        length = len(content) // np.dtype(_mat5.STORED[code]).itemsize
        return _array(4, (1, length) if length else (0, 0), name, [_element(code, content)])
    array = np.atleast_2d(np.asarray(value))
    logical = array.dtype == bool
    stored = array.astype(np.uint8) if logical else array.astype(array.dtype.newbyteorder("<"))
    kind = _CLASSES[f"{stored.dtype.kind}{stored.dtype.itemsize}"]
    return _array(kind | 0x200 * logical, array.shape, name, [_element(_code(stored.dtype), stored.tobytes(order="F"))])


def _array(flags: int, shape: tuple[int, ...], name: str, parts: list[bytes]) -> bytes:
    head = [_element(6, np.array([flags, 0], "<u4").tobytes()), _element(5, np.array(shape, "<i4").tobytes()), _element(1, name.encode())]
    return _element(14, b"".join([*head, *parts]))


def rewrite(
    file: Mat5File, tmp: Path, added: bytes = b"", without: frozenset[str] = frozenset(), swap: Mapping[str, bytes] | None = None
) -> None:
    """Write `file` anew at `tmp`, every other element byte for byte.

    Parameters
    ----------
    file
        What is there now.
    tmp
        Where to write.
    added
        Elements to add: before the subsystem, which MATLAB expects behind the variables, or before a last element without its
        padding, behind which no reader would find them; else at the end.
    without
        Variables to leave out.
    swap
        Elements to put in the place of variables.
    """
    swap = swap or {}
    subsystem = next((e for e in file.elements if e.start == file.subsystem), None)
    last = subsystem or next((e for e in file.elements if e.unpadded), None)
    with tmp.open("wb") as out:
        out.write(file.content[:HEADER])
        for element in file.elements:
            if element is last:
                out.write(added)
                place = out.tell()
            if element.head.name and element.head.name in swap:
                out.write(swap[element.head.name])
            elif not element.head.name or element.head.name not in without:
                _copy(file, element, out)
        if last is None:
            out.write(added)
        elif subsystem is not None:
            out.seek(_OFFSET.start)
            out.write(place.to_bytes(8, "little"))


def _copy(file: Mat5File, element: Element, out: BinaryIO) -> None:
    for start in range(element.start, element.stop, _BLOCK):
        out.write(file.content[start : min(start + _BLOCK, element.stop)])


def first_difference(before: Mat5File, after: Mat5File, edited: frozenset[str]) -> str:
    """What differs first between two files besides the variables `edited`, ``""`` when nothing does."""
    if before.content[: _OFFSET.start] != after.content[: _OFFSET.start] or before.content[124:HEADER] != after.content[124:HEADER]:
        return "the header"
    old, new = ([e for e in f.elements if e.head.name not in edited or not e.head.name] for f in (before, after))
    for a, b in zip(old, new, strict=False):
        if before.content[a.start : a.stop] != after.content[b.start : b.stop]:
            return a.head.name or "the hidden variable that holds objects"
        if (a.start == before.subsystem) != (b.start == after.subsystem):
            return "the place of objects in the header"
    return "" if len(old) == len(new) else "the number of variables"


# Filtering


def taken(node: Mat5Node, keep: NDArray[np.bool_], axis: int) -> bytes:
    """The element of `node` with only the rows or columns `keep` of its `axis`; numbers stay in the type they are stored in."""
    name = node.name.encode()
    if node.kind == "sparse":
        rows, bounds, values = node.parts()
        matrix = sp.csc_matrix((np.arange(1, len(values) + 1), rows.astype(np.int64), bounds.astype(np.int64)), shape=node.shape)
        matrix = sp.csc_matrix(matrix[keep] if axis == 0 else matrix[:, keep])
        parts = [matrix.indices.astype(rows.dtype), matrix.indptr.astype(bounds.dtype), values[matrix.data - 1]]
        return _matrix(node, matrix.shape, [*parts], max(1, matrix.nnz), name)
    stored = node.values(node.body).reshape(node.shape, order="F")
    chosen = stored[keep] if axis == 0 else stored[:, keep]
    return _matrix(node, chosen.shape, [chosen.ravel(order="F")], 0, name)


def _matrix(node: Mat5Node, shape: tuple[int, ...], parts: list[NDArray[Any]], room: int, name: bytes) -> bytes:
    flags = node.values(node.start + 8).copy()
    flags[1] = room if node.kind == "sparse" else flags[1]
    out = [_element(6, flags.tobytes()), _element(5, np.array(shape, "<i4").tobytes()), _element(1, name if node.start == 0 else b"")]
    out += [_element(_code(part.dtype), part.tobytes()) for part in parts]
    return _element(14, b"".join(out))


def _code(dtype: np.dtype[Any]) -> int:
    return next(code for code, stored in _mat5.STORED.items() if np.dtype(stored) == dtype)


def _element(code: int, content: bytes) -> bytes:
    size = len(content)
    if 1 <= size <= 4:  # in the tag itself; Octave insists on it for the length of names
        return np.array([code | size << 16], "<u4").tobytes() + content.ljust(4, b"\0")
    return np.array([code, size], "<u4").tobytes() + content + bytes(-size % 8)


def with_fields(node: Mat5Node, fields: Mapping[str, bytes]) -> bytes:
    """The element of a struct with the elements `fields` in the place of its own; all other bytes stay."""
    content = bytearray()
    at = node.start + 8
    for child in node.children():
        name = child.where.rpartition(".")[2]
        if name in fields:
            content += node.data[at : child.start]
            content += fields[name]
            at = (child.stop + 7) // 8 * 8
    content += node.data[at : node.stop]
    return np.array([14, len(content)], "<u4").tobytes() + bytes(content)


def with_more_fields(node: Mat5Node, fields: Mapping[str, Any]) -> bytes:
    """The element of a single struct with `fields` (values as for `encode`) set, new ones behind its own; the other values stay."""
    encoded = {name: _value(value) for name, value in fields.items()}
    own = node.fields()
    content = with_fields(node, {name: value for name, value in encoded.items() if name in own})
    added = [name for name in encoded if name not in own]
    if not added:
        return content
    made = Mat5Node(memoryview(content), 0, "<", node.where)
    names = [name.encode() for name in (*own, *added)]
    width = max(len(name) + 1 for name in names)
    width = max(width, int(made.values(made.body)[0]))
    if width > _LONGEST:
        raise ValueError(f"a name of {width - 1} bytes is longer than MATLAB's")
    head = _element(5, np.array(width, "<i4").tobytes()) + _element(1, b"".join(name.ljust(width, b"\0") for name in names))
    values = content[made.first_value() :]
    body = content[8 : made.body] + head + values + bytes(-len(values) % 8) + b"".join(encoded[name] for name in added)
    return np.array([14, len(body)], "<u4").tobytes() + body


def first_field_difference(before: Mat5Node, after: Mat5Node, edited: frozenset[str]) -> str:
    """Which field differs first between two structs besides `edited`, ``""`` when none does."""
    old, new = ([c for c in node.children() if c.name not in edited] for node in (before, after))
    if [c.name for c in old] != [c.name for c in new]:
        return f"the fields of {before.name}"
    pairs = zip(old, new, strict=True)
    return next((f"{before.name}.{a.name}" for a, b in pairs if a.data[a.start : a.stop] != b.data[b.start : b.stop]), "")


def as_variable(content: bytes, compressed: bool) -> bytes:
    """A top-level element, compressed where the one it replaces was."""
    if not compressed:
        return content
    packed = zlib.compress(content)
    return np.array([15, len(packed)], "<u4").tobytes() + packed
