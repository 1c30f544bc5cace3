"""MATLAB v7.3 files: HDF5 in MATLAB's dress, read lazily, and the few variables ActSort adds to them.

MATLAB keeps arrays column by column, HDF5 row by row: every array appears transposed. Facts in docs/formats/cnmfe.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from actsort_adapters import _hdf5
from actsort_core.errors import ChangedError, FormatError

REFS, SUBSYSTEM = "#refs#", "#subsystem#"  # MATLAB's own groups: what cells and objects refer to
_DAMAGED = "The file is damaged, or not what it seems."
_NUMBERS = {
    **{"double": "f8", "single": "f4", "logical": "u1"},
    **{f"{sign}int{bits}": f"{'u' if sign else 'i'}{bits // 8}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
_SMALL = 1 << 24
_DEFLATE = 1032  # no stored data inflate to more than so many times their size
_SLAB = 1 << 22  # numbers held at a time while going through an array
_MOST_BYTES = 1 << 30  # that objects may inflate to, or 256 times their file: mat-io reads everything into memory
_MOST_REFERENCES = 1_000_000
_DEEPEST = 64


class Mat73Node:
    """One MATLAB value in an open file, decoded when asked for; see `actsort_adapters._mat.Node`."""

    def __init__(self, found: Any, where: str) -> None:
        import h5py

        self._found, self.where = found, where
        kind = _hdf5.attribute(found, "MATLAB_class")
        self.kind = kind.decode("ascii", "replace") if isinstance(kind, bytes) else str(kind or "unknown")
        self.opaque = int(_number(found, "MATLAB_object_decode", 0)) in (2, 3) and self.kind not in _NUMBERS
        self.logical = self.kind == "logical"
        self._empty = bool(_number(found, "MATLAB_empty", 0))
        self.shape: tuple[int, ...] = (0, 0)
        rows = _number(found, "MATLAB_sparse", -1)
        if rows >= 0:
            bounds = _hdf5.dataset(found, "jc")
            if bounds is None or len(bounds.shape) != 1:
                raise FormatError(f"{where} is a sparse matrix without columns.", _DAMAGED)
            self.kind, self.shape = "sparse", (int(rows), int(bounds.shape[0]) - 1)
        elif isinstance(found, h5py.Group):
            self.shape = self._group_shape()
        elif self._empty:
            dims = _hdf5.array(found.parent, found.name.rpartition("/")[2], "iu")
            self.shape = tuple(int(d) for d in (dims if dims is not None else np.zeros(2)).ravel()[:32])
            if math.prod(self.shape) and self.kind != "struct":  # a struct without fields counts as empty whatever its shape
                raise FormatError(f"{where} says that it is empty and of shape {self.shape}.", _DAMAGED)
        else:
            self.shape = tuple(int(d) for d in reversed(found.shape or ()))

    def _group_shape(self) -> tuple[int, ...]:
        """A single struct has values below it; an array of structs has, for each field, an array of references without class."""
        import h5py

        for name in self._found:
            child = _hdf5.locate(self._found, name)
            if isinstance(child, h5py.Dataset) and child.dtype.hasobject and "MATLAB_class" not in child.attrs:
                return tuple(int(d) for d in reversed(child.shape or ()))
            break
        return (1, 1)

    def fields(self) -> tuple[str, ...]:
        """Names of the fields of a single struct, else nothing."""
        import h5py

        single = isinstance(self._found, h5py.Group) and self.kind != "sparse" and math.prod(self.shape) == 1
        return tuple(self._found) if single else ()

    def field(self, name: str) -> Mat73Node | None:
        """The value of one field of a single struct, or None."""
        if name not in self.fields():
            return None
        found = _hdf5.locate(self._found, name)
        return None if found is None else Mat73Node(found, f"{self.where}.{name}")

    # Numbers and text

    def stored(self) -> NDArray[Any]:
        """What a plain dataset holds, whatever class MATLAB says it stands for: how an object is referred to."""
        return np.asarray(self._dataset(whole=True)[()])

    def _dataset(self, path: str = "", whole: bool = False) -> Any:
        """The dataset itself, refused if the file cannot hold what it declares or, for `whole`, if that is improbably much."""
        import h5py

        parent, name = self._found.parent, self._found.name.rpartition("/")[2]
        if whole or path:
            found = _hdf5.dataset(self._found if path else parent, path or name)
        else:
            found = self._found
            if not isinstance(found, h5py.Dataset) or found.shape is None:
                raise FormatError(f"{self.where} holds no numbers.", _DAMAGED)
            _held(found, self.where)
        if found is None or found.dtype.kind not in "iufb":
            raise FormatError(f"{self.where} is a {self.kind} of shape {self.shape}, not plain numbers.", _DAMAGED)
        return found

    def _type(self) -> np.dtype[Any]:
        if self.kind not in _NUMBERS:
            raise FormatError(f"{self.where} is a {self.kind} of shape {self.shape}, not plain numbers.")
        return np.dtype(bool if self.logical else _NUMBERS[self.kind])

    def array(self) -> NDArray[Any]:
        """The numbers (or truth values) in MATLAB's shape, in memory."""
        if self.kind == "sparse":
            if math.prod(self.shape) * 8 > _SMALL:
                raise FormatError(f"{self.where} is sparse and too large for a full matrix.", _DAMAGED)
            return np.asarray(self.sparse().toarray())
        dtype = self._type()
        if self._empty:
            return np.zeros(self.shape, dtype)
        with _hdf5.clear_errors(self.where):
            return np.asarray(self._dataset(whole=True)[()].T.astype(dtype))

    def sparse(self) -> sp.csc_matrix:
        """A sparse matrix, float64."""
        if self.kind != "sparse":
            raise FormatError(f"{self.where} is no sparse matrix.", _DAMAGED)
        parts = [_hdf5.array(self._found, name) for name in ("jc", "ir", "data")]
        bounds, rows, values = (np.zeros(0) if p is None else p.ravel() for p in parts)  # without entries there are no ir and data
        bounds = bounds.astype(np.int64)
        if bounds[0] != 0 or (np.diff(bounds) < 0).any() or bounds[-1] > min(len(rows), len(values)):
            raise FormatError(f"{self.where} has column bounds that do not rise.", _DAMAGED)
        rows, values = rows[: bounds[-1]], values[: bounds[-1]]
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < self.shape[0]:
            raise FormatError(f"{self.where} has entries outside its shape.", _DAMAGED)
        return sp.csc_matrix((values.astype(np.float64), rows.astype(np.int64), bounds), shape=self.shape)

    def slabs(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """The array along its last axis, some columns or images at a time, as ``(first index, part)``."""
        self._type()
        if self._empty:
            return
        with _hdf5.clear_errors(self.where):
            found = self._dataset()
            step = max(1, _SLAB // max(1, math.prod(self.shape[:-1])))
            for first in range(0, self.shape[-1], step):
                yield first, found[first : first + step].T

    def traces(self, cells: int) -> Columns | NDArray[np.float32]:
        """``(n_cells, n_frames)`` float32 that stay on disk, `cells` being the axis of the candidates in MATLAB."""
        self._type()
        if self._empty or len(self.shape) != 2:
            return np.array(np.moveaxis(self.array(), cells, 0), np.float32)
        found = self._dataset()
        return Columns(Path(found.file.filename), found.name, self.shape, cells)

    def text(self) -> str | None:
        """A line of text, None for anything else."""
        if self.kind != "char" or self._empty or len(self.shape) != 2 or self.shape[0] != 1 or self.shape[1] > 4096:
            return None
        return self._dataset(whole=True)[()].astype("<u2").tobytes().decode("utf-16-le", "replace")  # type: ignore[no-any-return]


def _number(found: Any, name: str, default: int) -> int:
    value = _hdf5.attribute(found, name)
    return default if value is None or np.asarray(value).dtype.kind not in "iub" or np.asarray(value).size != 1 else int(value)


class Columns:
    """Traces of one dataset, read when asked for (a `TraceArray`); the file is closed in between, so that MATLAB can save.

    Parameters
    ----------
    path, name
        File and dataset.
    shape
        The array's in MATLAB.
    cells
        The axis of the candidates in MATLAB: 0 for CNMF-E's C, 1 for MiniscopeAnalysis' RawTraces.
    """

    def __init__(self, path: Path, name: str, shape: tuple[int, ...], cells: int) -> None:
        self.path, self.name, self._stored, self._cells = path, name, tuple(reversed(shape)), cells
        self.shape: tuple[int, ...] = (shape[cells], shape[1 - cells])

    def __getitem__(self, rows: slice) -> NDArray[np.float32]:
        """Read candidates `rows`: ``(n_rows, n_frames)`` float32."""
        wanted = np.arange(self.shape[0])[rows]
        out = np.empty((len(wanted), self.shape[1]), np.float32)
        if not len(wanted):
            return out
        with _hdf5.opened(self.path, check=False) as file:
            found = _hdf5.locate(file, self.name)
            if found is None or getattr(found, "shape", None) != self._stored:
                raise ChangedError(f"{self.path}: {self.name} is no longer of shape {self.shape}.", "It was saved anew: open it again.")
            step = max(1, _SLAB // max(1, self.shape[1]))
            for first in range(int(wanted.min()), int(wanted.max()) + 1, step):
                inside = np.flatnonzero((wanted >= first) & (wanted < first + step))
                if len(inside):
                    last = int(wanted[inside].max()) + 1
                    block = found[first:last] if self._cells else found[:, first:last].T
                    with np.errstate(over="ignore", invalid="ignore"):
                        out[inside] = block[wanted[inside] - first]
        return out


class Mat73File:
    """An open v7.3 file; see `actsort_adapters._mat.MatFile`."""

    version = "v7.3"

    def __init__(self, path: Path, file: Any) -> None:
        self.path, self.file = path, file

    @property
    def names(self) -> tuple[str, ...]:
        """Variables, in alphabetical order."""
        return tuple(name for name in self.file if name not in (REFS, SUBSYSTEM))

    def variable(self, name: str) -> Mat73Node | None:
        """A variable, or None."""
        found = _hdf5.locate(self.file, name) if name in self.names else None
        return None if found is None else Mat73Node(found, f"{self.path}: {name}")

    head = variable

    def check_references(self) -> None:
        """Insist that a reader that follows every reference comes to an end, and meets no size the file cannot hold."""
        import h5py

        cost: dict[int, int] = {}
        busy: set[int] = set()
        room = max(_MOST_BYTES, 256 * self.file.id.get_filesize())

        def visit(found: Any, depth: int) -> int:
            nonlocal room
            address = h5py.h5o.get_info(found.id).addr
            if address in busy or depth > _DEEPEST:
                raise FormatError(f"{self.path}: {found.name} contains itself, or is nested more than {_DEEPEST} deep.", _DAMAGED)
            if address not in cost:
                busy.add(address)
                total = 1
                if isinstance(found, h5py.Group):
                    total += sum(visit(_present(found, name), depth + 1) for name in found)
                elif found.shape is not None:
                    room -= _held(found, self.path)
                    if room < 0:
                        raise FormatError(f"{self.path} claims more than a file of its size can hold.", _DAMAGED)
                    if found.dtype == h5py.ref_dtype:
                        total += sum(visit(found.file[r], depth + 1) for r in found[()].ravel() if r)
                    elif found.dtype.hasobject:
                        raise FormatError(f"{self.path}: {found.name} is of a type that MATLAB does not write.", _DAMAGED)
                cost[address] = total
                busy.discard(address)
            if cost[address] > _MOST_REFERENCES:
                raise FormatError(f"{self.path}: {found.name} stands for more than {_MOST_REFERENCES:,} values.", _DAMAGED)
            return int(cost[address])

        with _hdf5.clear_errors(str(self.path)):
            for name in self.file:
                if name != REFS:
                    visit(_present(self.file, name), 0)


def _held(found: Any, where: Any) -> int:
    """Bytes that a dataset declares; refused when they are elsewhere, or more than what is stored can inflate to."""
    if found.external or found.is_virtual:
        raise FormatError(f"{where}: {found.name} keeps its data in other files.", "Copy them into one file.")
    stored = min(found.id.get_storage_size(), found.file.id.get_filesize()) * (_DEFLATE if found.chunks else 1)
    declared = int(math.prod(found.shape) * found.dtype.itemsize)
    chunk = math.prod(found.chunks) * found.dtype.itemsize if found.chunks else 0
    if max(declared, chunk) > max(_SMALL, stored):
        raise FormatError(f"{where}: {found.name} claims {declared:,} bytes, more than the file can hold.", _DAMAGED)
    return declared


def _present(group: Any, name: str) -> Any:
    found = _hdf5.locate(group, name)
    if found is None:
        raise FormatError(f"{_hdf5.where(group, name)} is a link to nowhere.", _DAMAGED)
    return found


@contextmanager
def opened(path: Path) -> Iterator[Mat73File]:
    """Open a file whose header says v7.3 (see ``_mat.flavour``)."""
    with _hdf5.opened(path) as file:
        yield Mat73File(path, file)


# Writing


def put(parent: Any, name: str, value: Any) -> None:
    """Set a variable or field of a file open for changing: in place where class and shape stay, since HDF5 does not reuse space.

    Parameters
    ----------
    parent
        The open file, or the group of a struct.
    name
        Of the variable.
    value
        An array of at least two dimensions, in MATLAB's shape; text; or a mapping for a struct.
    """
    import h5py

    old: Any = parent.get(name) if name in parent else None
    if isinstance(value, Mapping):
        if not isinstance(old, h5py.Group) or set(old) - set(value) or old.attrs.get("MATLAB_class") != b"struct":
            _remove(parent, name)
            old = parent.create_group(name)
        tag(old, "struct", parent)
        set_fields(old, list(value))
        for field, item in value.items():
            put(old, field, item)
        return
    kind, stored = _stored(value)
    empty = stored.size == 0
    content = np.array(stored.shape, np.uint64) if empty else stored.T
    fits = isinstance(old, h5py.Dataset) and (old.dtype, old.shape) == (content.dtype, content.shape)
    if fits and old.attrs.get("MATLAB_class") == kind.encode() and ("MATLAB_empty" in old.attrs) == empty:
        old[...] = content
        return
    _remove(parent, name)
    made = parent.create_dataset(name, data=content)
    tag(made, kind, parent)
    if kind in ("logical", "char"):
        made.attrs.create("MATLAB_int_decode", 1 if kind == "logical" else 2, dtype=np.int32)
    if empty:
        made.attrs.create("MATLAB_empty", 1, dtype=np.uint8)


def _stored(value: Any) -> tuple[str, NDArray[Any]]:
    """MATLAB's class and the numbers as kept in the file, in MATLAB's shape."""
    if isinstance(value, str):
        codes = np.frombuffer(value.encode("utf-16-le"), np.uint16)
        return "char", codes.reshape(min(1, len(codes)), len(codes))
    if value.dtype == bool:
        return "logical", value.astype(np.uint8)
    return class_of(value), value


def class_of(value: NDArray[Any]) -> str:
    """MATLAB's class of an array of numbers."""
    return next(kind for kind, code in _NUMBERS.items() if np.dtype(code) == value.dtype and kind != "logical")


def set_fields(group: Any, names: list[str]) -> None:
    """Say which fields the struct `group` has, in their order."""
    import h5py

    fields = np.empty(len(names), object)
    fields[:] = [np.array(list(name), "S1") for name in names]
    if "MATLAB_fields" not in group.attrs or [f.tobytes() for f in group.attrs["MATLAB_fields"]] != [f.tobytes() for f in fields]:
        group.attrs.create("MATLAB_fields", fields, dtype=h5py.vlen_dtype(np.dtype("S1")))


def put_field(group: Any, name: str, value: Any) -> None:
    """Set one field of the struct `group`, behind its other fields where it is new; they stay as they are."""
    new = name not in group
    put(group, name, value)
    if new and "MATLAB_fields" in group.attrs:
        set_fields(group, [*(field.tobytes().decode("ascii", "replace") for field in group.attrs["MATLAB_fields"]), name])


def tag(made: Any, kind: str, parent: Any) -> None:
    """Say which class a dataset or group is, as MATLAB does."""
    if "MATLAB_class" not in made.attrs:
        _text_attribute(made, "MATLAB_class", kind)
        if parent.name != "/":
            _text_attribute(made, "H5PATH", parent.name)


def _text_attribute(made: Any, name: str, text: str) -> None:
    """A text as MATLAB writes it: terminated by zero, which h5py's own types are not."""
    import h5py

    content = text.encode()
    kind = h5py.h5t.C_S1.copy()
    kind.set_size(len(content))
    attribute = h5py.h5a.create(made.id, name.encode(), kind, h5py.h5s.create(h5py.h5s.SCALAR))
    attribute.write(np.array(content), kind)


def _remove(parent: Any, name: str) -> None:
    if name in parent:
        del parent[name]
