"""Reading zarr format-2 arrays that may be damaged or hostile, and encoding single chunks; no zarr library is needed.

A store is a folder: a group has ``.zgroup``, each array in it is a folder with ``.zarray`` (shape, chunks, type, compression),
``.zattrs`` and one file a chunk (zarr storage specification, version 2). zarr 2 and 3 read and write this format with interfaces of
their own; chunk by chunk it is little work, memory stays bounded, and one chunk can be replaced without touching the others. What
``.zmetadata`` says of an array is only a copy, which rechunking leaves behind. Blosc, zstd and lz4 need numcodecs, which comes
with every zarr.
"""

from __future__ import annotations

import bz2
import itertools
import json
import math
import stat
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actsort_core.errors import ActsortError, FormatError, MissingDependencyError, MissingFileError

_DAMAGED = "The store is damaged, or not what it seems."
_ERRORS = (OSError, EOFError, ValueError, TypeError, LookupError, RuntimeError, OverflowError, AttributeError, zlib.error)
_MAX_JSON = 1 << 24  # bytes
_MAX_CHUNK = (1 << 31) - 1  # bytes: Blosc's own limit
_SMALL = 1 << 26  # bytes: arrays and chunks up to this size are read whatever their size on disk
_RATIO = 4096  # larger ones must not claim to be more than so many times that
_NUMCODECS = ("blosc", "zstd", "lz4")  # zlib, gzip and bz2 are Python's own
_FILTERS = ("delta", "shuffle", "quantize", "bitround")  # those that keep the size; never "pickle"
_FILLS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


@dataclass(frozen=True, eq=False)
class ZarrArray:
    """One array on disk, as its ``.zarray`` and ``.zattrs`` describe it.

    Attributes
    ----------
    path
        Its folder.
    shape, chunks
        Of the array and of one chunk.
    dtype
        As stored.
    dims
        Names of the dimensions (``_ARRAY_DIMENSIONS``, xarray's convention); empty where there are none.
    attrs
        All of ``.zattrs``.
    meta
        All of ``.zarray``.
    """

    path: Path
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype[Any]
    dims: tuple[str, ...]
    attrs: Mapping[str, Any]
    meta: Mapping[str, Any]

    @property
    def fill(self) -> Any:
        """What a chunk without file holds."""
        value = self.meta.get("fill_value")
        if isinstance(value, str) and self.dtype.kind == "f":
            value = _FILLS.get(value, 0)
        if value is None or isinstance(value, str):
            return np.zeros((), self.dtype)[()]
        with clear_errors(f"{self.path}/.zarray"):
            if np.ndim(value):
                raise FormatError(f"{self.path}/.zarray has the fill value {str(value)[:40]}.", _DAMAGED)
            return np.asarray(value).astype(self.dtype)[()]

    def chunk_path(self, index: tuple[int, ...]) -> Path:
        """The file of one chunk, whether it is there or not."""
        separator = self.meta.get("dimension_separator", ".")
        return self.path / (separator.join(map(str, index)) or "0")

    def chunk_indices(self) -> Iterator[tuple[int, ...]]:
        """All chunks of the grid."""
        return itertools.product(*(range(-(-size // step)) for size, step in zip(self.shape, self.chunks, strict=True)))

    def read(self, *selection: slice) -> NDArray[Any]:
        """Some of the array as stored; axes that are not selected from are read whole.

        Parameters
        ----------
        selection
            For the first axes, without steps.

        Raises
        ------
        FormatError
            A chunk is damaged; names its file.
        """
        wanted = [slice(*piece.indices(size)) for piece, size in zip(selection, self.shape, strict=False)]
        wanted += [slice(0, size) for size in self.shape[len(wanted) :]]
        out = np.full([max(0, piece.stop - piece.start) for piece in wanted], self.fill, self.dtype)
        if not out.size:
            return out
        grid = [range(p.start // step, -(-p.stop // step)) for p, step in zip(wanted, self.chunks, strict=True)]
        for index in itertools.product(*grid):
            chunk = self.chunk(index)
            if chunk is None:
                continue
            source, target = [], []
            for piece, i, step in zip(wanted, index, self.chunks, strict=True):
                first, last = max(piece.start, i * step), min(piece.stop, (i + 1) * step)
                source.append(slice(first - i * step, last - i * step))
                target.append(slice(first - piece.start, last - piece.start))
            out[tuple(target)] = chunk[tuple(source)]
        return out

    def chunk(self, index: tuple[int, ...]) -> NDArray[Any] | None:
        """One chunk, of the full chunk shape also at the border; None where it has no file."""
        path = self.chunk_path(index)
        size = math.prod(self.chunks) * self.dtype.itemsize
        content = _content(path, 2 * size + (1 << 20))
        if content is None:
            return None
        if size > max(_SMALL, _RATIO * len(content)):
            raise FormatError(f"{path} claims {size:,} bytes but holds {len(content):,} on disk.", _DAMAGED)
        with clear_errors(str(path)):
            raw = _decompress(content, self.meta.get("compressor"), self.meta.get("filters"), size)
            if len(raw) != size:
                raise FormatError(f"{path} holds {len(raw):,} bytes instead of {size:,}.", _DAMAGED)
            return np.frombuffer(raw, self.dtype).reshape(self.chunks, order=self.meta.get("order", "C"))

    def encode(self, chunk: NDArray[Any]) -> bytes:
        """A chunk as its file holds it.

        Parameters
        ----------
        chunk
            Of the shape `chunks`.
        """
        with clear_errors(str(self.path)):
            raw = np.asarray(chunk, self.dtype).tobytes(order=self.meta.get("order", "C"))
            return _compress(raw, self.meta.get("compressor"), self.meta.get("filters"), self.dtype)


@contextmanager
def clear_errors(where: str) -> Iterator[None]:
    """Turn whatever a broken store makes Python, NumPy or a codec raise into a `FormatError` that begins with `where`."""
    try:
        yield
    except ActsortError:
        raise
    except PermissionError as error:
        raise FormatError(f"{where} may not be read.", "Check its permissions.") from error
    except _ERRORS as error:
        raise FormatError(f"{where} cannot be read ({type(error).__name__}: {error}).", _DAMAGED) from error


def is_array(path: Path) -> bool:
    """Whether a folder is a format-2 array."""
    return (path / ".zarray").is_file()


def array(path: Path, kinds: str = "iufb", check: bool = True) -> ZarrArray | None:
    """The array in the folder `path`; None where there is none.

    Parameters
    ----------
    path
        Folder of the array.
    kinds
        Acceptable NumPy kinds.
    check
        Compare what it claims with the size of its files; not needed where nothing, or only what was checked before, is read.

    Raises
    ------
    FormatError
        Its description is damaged, of another type, or claims more than its files can hold.
    """
    meta = document(path / ".zarray")
    if meta is None:
        return None
    with clear_errors(f"{path}/.zarray"):
        shape, chunks = (tuple(_size(n) for n in meta[key]) for key in ("shape", "chunks"))
        if meta.get("zarr_format") != 2 or len(shape) != len(chunks) or len(shape) > 32 or min(chunks, default=1) < 1:
            raise FormatError(f"{path}/.zarray describes no array of zarr format 2.", _DAMAGED)
        if not isinstance(meta["dtype"], str) or meta.get("order", "C") not in ("C", "F"):
            raise FormatError(f"{path} holds values of type {meta['dtype']!r}, not numbers.", _DAMAGED)
        if meta.get("dimension_separator", ".") not in (".", "/"):
            raise FormatError(f"{path}/.zarray separates chunk numbers by {meta['dimension_separator']!r}.", _DAMAGED)
        dtype = np.dtype(meta["dtype"])
        if dtype.kind not in kinds or not dtype.itemsize:
            raise FormatError(f"{path} holds {dtype} values, not numbers.", _DAMAGED)
    attrs = document(path / ".zattrs") or {}
    dims = attrs.get("_ARRAY_DIMENSIONS", ())
    if not isinstance(dims, list | tuple) or len(dims) not in (0, len(shape)) or not all(isinstance(name, str) for name in dims):
        raise FormatError(f"{path}/.zattrs names the dimensions {dims!r} for an array of shape {shape}.", _DAMAGED)
    found = ZarrArray(path, shape, chunks, dtype, tuple(dims), attrs, meta)
    if check:
        _check_size(found)
    return found


def document(path: Path) -> dict[str, Any] | None:
    """A JSON object (``.zarray``, ``.zattrs``, ``.zmetadata``); None where there is no such file."""
    content = _content(path, _MAX_JSON)
    if content is None:
        return None
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path} is no JSON ({type(error).__name__}: {error}).", _DAMAGED) from error
    if not isinstance(found, dict):
        raise FormatError(f"{path} holds no JSON object.", _DAMAGED)
    return found


def as_document(found: Mapping[str, Any]) -> bytes:
    """JSON as zarr 2 writes it (``zarr.util.json_dumps``), the keys in the order given."""
    return json.dumps(found, indent=4, ensure_ascii=True, separators=(",", ": ")).encode("ascii")


def _size(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 48:
        raise FormatError(f"{value!r} is no size of an array.", _DAMAGED)
    return value


def _content(path: Path, most: int) -> bytes | None:
    """All of a file, which must be a regular one of a plausible size; None where there is none."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise FormatError(f"{path} cannot be read ({error}).", _DAMAGED) from error
    if not stat.S_ISREG(found.st_mode) or found.st_size > most:
        raise FormatError(f"{path} is no file of a zarr store ({found.st_size:,} bytes).", _DAMAGED)
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise MissingFileError(f"{path} does not exist any more.", "Was the result moved or saved anew?") from None
    except OSError as error:
        raise FormatError(f"{path} cannot be read ({error.strerror}).", "Check its permissions.") from error


def _check_size(found: ZarrArray) -> None:
    """What is declared must be something the files can hold, so that nothing is allocated for a number in a text file."""
    declared = math.prod(found.shape) * found.dtype.itemsize
    chunk = math.prod(found.chunks) * found.dtype.itemsize
    if chunk > _MAX_CHUNK:
        raise FormatError(f"{found.path}/.zarray has chunks of {chunk:,} bytes.", _DAMAGED)
    if max(declared, chunk) <= _SMALL:
        return
    with clear_errors(str(found.path)):
        on_disk = sum(path.stat().st_size for path in found.path.rglob("*") if not path.name.startswith("."))
    if declared > max(_SMALL, _RATIO * on_disk):
        raise FormatError(f"{found.path} claims {declared:,} bytes but holds {on_disk:,} on disk.", _DAMAGED)


# Codecs


def _codec(config: Any, known: tuple[str, ...]) -> Any:
    name = config.get("id") if isinstance(config, dict) else config
    if name not in known:
        raise FormatError(f"Its data are encoded with {name!r}, which is not read.", "Save it again with another compressor.")
    try:
        import numcodecs
    except ImportError as error:
        raise MissingDependencyError(
            f"Its data are encoded with {name}, which needs numcodecs.", "Install it: pip install 'actsort[minian]'"
        ) from error
    return numcodecs.get_codec(dict(config))


def _decompress(content: bytes, compressor: Any, filters: Any, size: int) -> bytes:
    raw = _inflate(content, compressor, size)
    for config in reversed(filters or ()):
        raw = np.asarray(_codec(config, _FILTERS).decode(raw)).tobytes()
    return raw


def _inflate(content: bytes, compressor: Any, size: int) -> bytes:
    if compressor is None:
        return content
    name = compressor.get("id") if isinstance(compressor, dict) else None
    if name in ("zlib", "gzip"):
        return zlib.decompressobj(31 if name == "gzip" else 15).decompress(content, size + 1)
    if name == "bz2":
        return bz2.BZ2Decompressor().decompress(content, size + 1)
    codec = _codec(compressor, _NUMCODECS)
    declared = _declared(str(name), content, size)
    if declared != size:
        raise FormatError(f"A chunk claims {declared:,} bytes instead of {size:,}.", _DAMAGED)
    out = np.empty(size, np.uint8)  # given a place, the codecs allocate nothing for what a header says
    codec.decode(content, out=out)
    return out.tobytes()


def _declared(name: str, content: bytes, size: int) -> int:
    """How many bytes a chunk says it will be."""
    if name == "blosc":  # version, format, flags, item size, then uncompressed, block and compressed size (README_HEADER of c-blosc)
        if len(content) < 16 or int.from_bytes(content[12:16], "little") != len(content):
            raise FormatError("A chunk is truncated.", _DAMAGED)
        return int.from_bytes(content[4:8], "little")
    if name == "lz4":  # numcodecs puts the size before the block
        return int.from_bytes(content[:4], "little") if len(content) > 4 else -1
    return size  # zstd checks its frame against the place it is given


def _compress(raw: bytes, compressor: Any, filters: Any, dtype: np.dtype[Any]) -> bytes:
    values: Any = np.frombuffer(raw, dtype)  # Blosc shuffles by the size of an item
    for config in filters or ():
        values = _codec(config, _FILTERS).encode(values)
    if compressor is None:
        return bytes(np.ascontiguousarray(values).tobytes())
    name = compressor.get("id") if isinstance(compressor, dict) else None
    if name == "zlib":
        return zlib.compress(np.ascontiguousarray(values).tobytes(), int(compressor.get("level", 1)))
    if name == "gzip":
        packer = zlib.compressobj(int(compressor.get("level", 1)), zlib.DEFLATED, 31)  # no time stamp: the same bytes each time
        return packer.compress(np.ascontiguousarray(values).tobytes()) + packer.flush()
    if name == "bz2":
        return bz2.compress(np.ascontiguousarray(values).tobytes(), int(compressor.get("level", 1)))
    return bytes(_codec(compressor, _NUMCODECS).encode(np.ascontiguousarray(values)))
