"""Where the variables of a Minian result are: zarr stores in a folder, one store, or a netCDF file; and how to read parts of them.

Minian's ``save_minian`` (minian/utilities.py) writes each variable into a store of its own, ``<name>.zarr``, with its coordinates.
Units are known by ``unit_id``, which has gaps; different stores may hold different units.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from actsort_adapters import _hdf5, _zarr2
from actsort_core.errors import ChangedError, FormatError

UNIT, FRAME, HEIGHT, WIDTH, LABELS = "unit_id", "frame", "height", "width", "unit_labels"
LABELLED = ("A", "C", "S", "c0", "b0")  # to which the pipeline's "assign" cell gives unit_labels
_MAX_STORES = 1000
_SMALL = 1 << 26  # bytes
_RATIO = 2048  # deflate shrinks the zeros of A about a thousandfold
_DAMAGED = "The file is damaged, or not what it seems."


class Array(Protocol):
    """One array on disk."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""

    @property
    def chunks(self) -> tuple[int, ...]:
        """Shape of what is read at a time."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type as stored."""

    @property
    def dims(self) -> tuple[str, ...]:
        """Names of its dimensions."""

    @property
    def attrs(self) -> Mapping[str, Any]:
        """Its attributes."""

    def read(self, *selection: slice) -> NDArray[Any]:
        """Some of it, as stored."""


class Store(Protocol):
    """Arrays that share their coordinates."""

    @property
    def path(self) -> Path:
        """The folder of the store, or the file."""

    @property
    def names(self) -> tuple[str, ...]:
        """What arrays it holds, sorted."""

    def get(self, name: str, check: bool = True) -> Array | None:
        """One array of numbers; without `check` its size is not compared with that of its files."""

    def text(self, name: str) -> str | None:
        """A scalar coordinate that is text."""


# zarr


@dataclass(frozen=True)
class ZarrStore:
    """A zarr group on disk.

    Attributes
    ----------
    path
        Its folder.
    """

    path: Path

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Its arrays, sorted."""
        with _zarr2.clear_errors(str(self.path)):
            return tuple(sorted(child.name for child in self.path.iterdir() if _zarr2.is_array(child)))

    def get(self, name: str, check: bool = True) -> _zarr2.ZarrArray | None:
        """See `Store.get`."""
        return _zarr2.array(self.path / name, check=check)

    def text(self, name: str) -> str | None:
        """See `Store.text`."""
        found = _zarr2.array(self.path / name, "iufbUSO") if name in self.names else None
        if found is None or found.shape or found.dtype.kind not in "US":
            return None
        value = found.read()[()]
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def zarr_stores(path: Path) -> list[ZarrStore]:
    """The zarr groups at `path`, one or those in a folder, sorted by name."""
    if (path / ".zgroup").is_file():
        return [ZarrStore(path)]
    found = []
    for child in sorted(path.iterdir()):
        if not child.name.startswith(".") and (child / ".zgroup").is_file():
            found.append(ZarrStore(child))
            if len(found) > _MAX_STORES:
                raise FormatError(f"{path} holds more than {_MAX_STORES} zarr stores.", "Pass the folder that save_minian wrote.")
    return found


# netCDF


@dataclass(frozen=True)
class H5Array:
    """A variable of a netCDF-4 file (an HDF5 dataset with dimension scales)."""

    path: Path
    name: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype[Any]
    dims: tuple[str, ...]
    attrs: Mapping[str, Any]

    def read(self, *selection: slice) -> NDArray[Any]:
        """See `Array.read`."""
        with _hdf5.opened(self.path, check=False) as file:  # only numbers
            found = _dataset(file, self.name)
            if found is None or found.shape != self.shape:
                raise ChangedError(f"{self.path}: {self.name} is no longer of shape {self.shape}.", "It was saved anew: open it again.")
            with _hdf5.clear_errors(_hdf5.where(found)):
                return np.asarray(found[selection or ()])


@dataclass(frozen=True)
class NetcdfStore:
    """A netCDF-4 file.

    Attributes
    ----------
    path
        The file.
    """

    path: Path

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Its variables, sorted."""
        with _hdf5.opened(self.path) as file:
            names: list[str] = []
            for raw in file.id:
                names.append(raw.decode("utf-8", "replace"))
                if len(names) > _MAX_STORES:
                    raise FormatError(f"{self.path} holds more than {_MAX_STORES} variables.", _DAMAGED)
            return tuple(sorted(names))

    def get(self, name: str, check: bool = True) -> H5Array | None:
        """See `Store.get`."""
        with _hdf5.opened(self.path) as file:
            found = _dataset(file, name)
            if found is None:
                return None
            if found.dtype.kind not in "iufb":
                raise FormatError(f"{_hdf5.where(found)} holds {found.dtype} values, not numbers.", _DAMAGED)
            attrs = {key: _hdf5.attribute(found, key) for key in ("fps", "scale_factor", "add_offset", "_FillValue")}
            attrs = {key: np.asarray(value).ravel()[:1].tolist() for key, value in attrs.items() if value is not None}
            chunks = found.chunks or (1,) * len(found.shape)
            return H5Array(
                self.path, name, found.shape, chunks, found.dtype, _dims(file, found), {key: v[0] for key, v in attrs.items() if v}
            )

    def text(self, name: str) -> str | None:
        """See `Store.text`."""
        with _hdf5.opened(self.path) as file:
            return _hdf5.text(file, name)


def _dataset(file: Any, name: str) -> Any:
    """A dataset that lies in the file; unlike `_hdf5.dataset` it allows for the zeros of A, which shrink a thousandfold."""
    import h5py

    with _hdf5.clear_errors(f"{file.filename}: {name}"):
        found = _hdf5.locate(file, name)
        if not isinstance(found, h5py.Dataset) or found.shape is None:
            return None
        if found.external or found.is_virtual:
            raise FormatError(f"{_hdf5.where(found)} keeps its data in other files.", "Such data are not followed. Copy them into it.")
        on_disk = min(found.id.get_storage_size(), found.file.id.get_filesize())
        declared = math.prod(found.shape) * found.dtype.itemsize
        chunk = math.prod(found.chunks) * found.dtype.itemsize if found.chunks else 0
        if max(declared, chunk) > max(_SMALL, on_disk * _RATIO if found.chunks else on_disk):
            raise FormatError(f"{_hdf5.where(found)} claims {declared:,} bytes but holds {on_disk:,} on disk.", _DAMAGED)
        return found


def _dims(file: Any, found: Any) -> tuple[str, ...]:
    """Names of dimensions: those of the scales attached, as netCDF-4 has it; a scale is its own."""
    import h5py

    own = found.name.lstrip("/")
    if found.is_scale:
        return (own,) if found.ndim == 1 else ()
    table = found.attrs.get("DIMENSION_LIST")
    if table is None or len(table) != found.ndim:
        return ()
    names = []
    for row in table:
        if not len(row) or not isinstance(row[0], h5py.Reference):
            return ()
        names.append((h5py.h5r.get_name(row[0], file.id) or b"").decode("utf-8", "replace").lstrip("/"))
    return tuple(names)


# Variables


@dataclass(frozen=True, eq=False)
class Variable:
    """One variable of a result, and the store it is in."""

    name: str
    store: Store
    array: Array

    def __str__(self) -> str:
        return f"{self.store.path}: {self.name}"

    @cached_property
    def units(self) -> NDArray[np.int64]:
        """Its unit_id, in the order of the store."""
        return coordinate(self.store, UNIT, self.length(UNIT))

    def length(self, dim: str) -> int:
        """Size of a dimension."""
        return self.array.shape[self.array.dims.index(dim)]

    def step(self, dim: str) -> int:
        """Size of a chunk along a dimension."""
        return self.array.chunks[self.array.dims.index(dim)]

    def check(self, *dims: str) -> None:
        """Insist on dimensions; others must have length 1."""
        others = [size for name, size in zip(self.array.dims, self.array.shape, strict=False) if name not in dims]
        if set(dims) - set(self.array.dims) or len(self.array.dims) != len(self.array.shape) or any(size != 1 for size in others):
            raise FormatError(
                f"{self} has the dimensions {self.array.dims or '(unnamed)'} of sizes {self.array.shape}, not {dims}.",
                "Several sessions in one dataset are not read: open each session's own folder.",
            )

    def read(self, dims: Sequence[str], first: slice = slice(None)) -> NDArray[Any]:
        """Values with the axes `dims`, of which the first may be cut; as floats where scaled."""
        self.check(*dims)
        selection = [first if name == dims[0] else slice(None) for name in self.array.dims]
        values = self.array.read(*selection)
        order = [self.array.dims.index(name) for name in dims]
        order += [axis for axis in range(values.ndim) if axis not in order]
        values = values.transpose(order)
        return _unscaled(values.reshape(values.shape[: len(dims)]), self.array.attrs)


def _unscaled(values: NDArray[Any], attrs: Mapping[str, Any]) -> NDArray[Any]:
    """Values by the CF conventions, as xarray decodes them."""
    scale, offset = (attrs.get(key) for key in ("scale_factor", "add_offset"))
    if scale is None and offset is None:
        return values
    with _zarr2.clear_errors("Its scale_factor or add_offset"), np.errstate(over="ignore", invalid="ignore"):
        scaled = values * float(1 if scale is None else scale) + float(offset or 0)
    if values.dtype.kind in "iu" and attrs.get("_FillValue") is not None:
        scaled[values == attrs["_FillValue"]] = np.nan
    return np.asarray(scaled)


def coordinate(store: Store, name: str, size: int) -> NDArray[np.int64]:
    """A coordinate of whole numbers, all different.

    Raises
    ------
    FormatError
        It is missing, of another length, or not whole numbers.
    """
    found = store.get(name) if name in store.names else None
    where = f"{store.path}: {name}"
    if found is None:
        raise FormatError(f"{store.path} has no coordinate {name}.", "Units are known by it: save the result again with save_minian.")
    if found.shape != (size,):
        raise FormatError(f"{where} has the shape {found.shape} for {size} units.", _DAMAGED)
    values = found.read()
    with np.errstate(invalid="ignore"):
        whole = values.astype(np.int64)
    if (whole != values).any() or len(np.unique(whole)) < len(whole):
        raise FormatError(f"{where} does not hold different whole numbers.", "Save the result again with save_minian.")
    return whole


def frames(variable: Variable) -> NDArray[Any] | None:
    """The frame coordinate of a variable, None where there is none."""
    found = variable.store.get(FRAME) if FRAME in variable.store.names else None
    return found.read() if found is not None and found.shape == (variable.length(FRAME),) else None


def find(stores: Sequence[Store], name: str) -> Variable | None:
    """The variable `name`: from the store named after it, else from the first that has it."""
    holding = [store for store in stores if name in store.names]
    if not holding:
        return None
    store = next((store for store in holding if store.path.name == f"{name}.zarr"), holding[0])
    found = store.get(name)
    return None if found is None else Variable(name, store, found)


def opened(path: Path) -> tuple[Store, ...]:
    """The stores at `path`: a folder of zarr stores, one store, or a netCDF-4 file."""
    if path.is_dir():
        with _zarr2.clear_errors(str(path)):
            return tuple(zarr_stores(path))
    return (NetcdfStore(path),)
