"""Reading HDF5 files that may be locked, truncated or hostile, and proving that an edit touched nothing else.

Shared by the adapters whose host writes HDF5. Every failure becomes a `FormatError` that names the file and the object. Nothing
outside the file is ever opened (external links, external storage and virtual datasets are refused), and nothing is read whose
declared size the file cannot hold. h5py is imported inside the functions: importing an adapter must not load it.
"""

from __future__ import annotations

import math
import mmap
import re
from collections import deque
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from actsort_core.errors import ActsortError, ChangedError, FormatError, MissingFileError

SIGNATURE = b"\x89HDF\r\n\x1a\n"
PLACEHOLDER = "NoneType"  # how CaImAn stores None
_DAMAGED = "The file is damaged, or not what it seems."
_BLOCK = 1 << 25  # bytes held at a time while streaming
_SMALL = 1 << 24  # datasets up to this size are read whatever the file's size: fill values and zeros compress without limit
_RATIO = 256  # larger ones must not claim to be more than so many times their size on disk
_MAX_TEXT = 1 << 16
_MAX_HEAP_SEARCH = 1 << 28
_HEAP = b"GCOL\x01\x00\x00\x00"  # signature, version, reserved
# The end of an attribute message: type "string of variable length", UTF-8 or not; scalar; then the length
_STRING_ATTRIBUTE = re.compile(
    rb"\x19\x01[\x00\x01]\x00\x10\x00\x00\x00\x10\x00\x00\x00\x01\x00\x00\x00\x00\x00\x08\x00\x00\x00\x00\x00\x01\x00{7}(.{4})", re.DOTALL
)
_MAX_SOFT_LINKS = 8
_H5_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError)  # what h5py raises on broken files
_OTHER_KINDS = (
    (b"MATLAB 7.3", "a MATLAB v7.3 file"),
    (b"MATLAB 5.0", "a MATLAB v5/v7 file"),
    (b"PK\x03\x04", "a zip archive (.npz?)"),
    (b"\x93NUMPY", "a NumPy .npy file"),
    (b"CDF", "a netCDF-3 file"),
    (b"II*\x00", "a TIFF file"),
    (b"MM\x00*", "a TIFF file"),
)


def kind_by_bytes(path: Path) -> str:
    """``"hdf5"``, or what `path` looks like instead, as a clause; reads a few bytes and does not load h5py.

    HDF5 allows a user block before its signature (at 0, 512, 1024, 2048...); MATLAB's v7.3 files have one.
    """
    size = path.stat().st_size
    if size == 0:
        return "an empty file"
    with path.open("rb") as handle:
        start = handle.read(16)
        for magic, kind in _OTHER_KINDS:
            if start.startswith(magic):
                return kind
        offset = 0
        while offset < size:
            handle.seek(offset)
            if handle.read(len(SIGNATURE)) == SIGNATURE:
                return "hdf5"
            offset = max(512, offset * 2)
    return "not an HDF5 file"


@contextmanager
def clear_errors(where: str) -> Iterator[None]:
    """Turn whatever h5py raises on a broken file into a `FormatError` that begins with `where`."""
    try:
        yield
    except ActsortError:
        raise
    except _H5_ERRORS as error:
        raise FormatError(f"{where} cannot be read ({type(error).__name__}: {error}).", _DAMAGED) from error


def damaged_strings(path: Path) -> bool:
    """Whether reading this file's strings would hang libhdf5 (2.0 loops for ever over a heap entry without length) or fill the memory
    (it allocates what an attribute claims before looking).

    Strings of variable length sit in "global heap collections" (HDF5 file format specification, III.E). They are found by their
    signature and walked as libhdf5 walks them. Files above 256 MB are trusted: there the search would take longer than reading.
    """
    if not 0 < path.stat().st_size <= _MAX_HEAP_SEARCH:
        return False
    with path.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as content:
        start = content.find(_HEAP)
        while start >= 0:
            end = start + int.from_bytes(content[start + 8 : start + 16], "little")
            here = start + 16
            while here + 16 <= end <= len(content):  # shorter rests, and heaps that overrun the file, libhdf5 handles itself
                index = int.from_bytes(content[here : here + 2], "little")
                size = int.from_bytes(content[here + 8 : here + 16], "little")
                step = 16 + (size + 7) // 8 * 8 if index else size  # entry 0 is the free space, its size includes the header
                if step < 16 or here + step > end:
                    return True
                here += step
            start = content.find(_HEAP, start + 1)
        return any(int.from_bytes(found[1], "little") > _MAX_TEXT for found in _STRING_ATTRIBUTE.finditer(content))


@contextmanager
def opened(path: Path, check: bool = True) -> Iterator[Any]:
    """Open `path` for reading: yields the ``h5py.File``.

    Parameters
    ----------
    path
        The file.
    check
        Look for :func:`damaged_strings` first; not needed where only numbers will be read.

    Raises
    ------
    MissingFileError
        Nothing is there (any more).
    FormatError
        Locked by a writer, truncated, or not HDF5; also for errors of h5py while the file is in use.
    """
    import h5py

    try:
        damaged = check and damaged_strings(path)
        file = h5py.File(path, "r")
    except FileNotFoundError as error:
        raise MissingFileError(f"{path} does not exist.", "Was it moved or renamed since it was opened?") from error
    except OSError as error:
        raise _open_error(path, error) from error
    with file, clear_errors(str(path)):
        if damaged:
            raise FormatError(f"{path} is damaged where it keeps its strings.", "Use a backup or run the host's save again.")
        yield file


def _open_error(path: Path, error: OSError) -> FormatError:
    text = str(error)
    if isinstance(error, BlockingIOError) or "unable to lock" in text or "already open for write" in text:
        return FormatError(
            f"{path} is open for writing in another program.",
            "Close it there and try again (HDF5_USE_FILE_LOCKING=FALSE helps on network drives that cannot lock).",
        )
    if isinstance(error, PermissionError):
        return FormatError(f"{path} may not be read.", "Check its permissions.")
    if "truncated file" in text:
        return FormatError(f"{path} is truncated ({text}).", "Copying or saving it was cut short: copy it or run the host's save again.")
    return FormatError(f"{path} cannot be opened as HDF5 ({text}).", _DAMAGED)


def where(obj: Any, name: str = "") -> str:
    """``file: /path/of/object``, for messages."""
    base = (obj.name or "").rstrip("/")
    return f"{obj.file.filename}: {base}/{name}" if name else f"{obj.file.filename}: {base or '/'}"


def locate(group: Any, path: str) -> Any:
    """The object at `path` below `group`, or None; never leaves the file.

    Links are looked at one at a time, because h5py's own look-up (even ``name in group``) opens the target of an external link.
    Soft links inside the file are followed, at most 8 of them.
    """
    import h5py

    here, hops = group, 0
    pending = deque(path.split("/"))
    while pending:
        part = pending.popleft()
        if part in ("", "."):
            continue
        if not isinstance(here, h5py.Group):
            return None
        key = part.encode()
        if not here.id.links.exists(key):
            return None
        kind = here.id.links.get_info(key).type
        if kind == h5py.h5l.TYPE_HARD:
            here = here[part]
            continue
        hops += 1
        if kind != h5py.h5l.TYPE_SOFT or hops > _MAX_SOFT_LINKS:
            problem = "is a link out of the file" if kind != h5py.h5l.TYPE_SOFT else "is a chain of soft links that does not end"
            raise FormatError(f"{where(here, part)} {problem}.", "Such links are not followed. Copy the data into one file.")
        target = here.id.links.get_val(key).decode("utf-8", "replace")
        if target.startswith("/"):
            here = here.file["/"]
        pending.extendleft(reversed(target.split("/")))
    return here


def group(parent: Any, path: str) -> Any:
    """The group at `path` below `parent`; None when there is none or something else is there."""
    import h5py

    found = locate(parent, path)
    return found if isinstance(found, h5py.Group) else None


def dataset(parent: Any, path: str) -> Any:
    """The dataset at `path` below `parent`; None when it is missing, empty or CaImAn's ``"NoneType"`` placeholder.

    Raises
    ------
    FormatError
        A group is there, the data lie outside the file, or the declared size is beyond what the file can hold.
    """
    import h5py

    with clear_errors(where(parent, path)):
        found = locate(parent, path)
        if found is None:
            return None
        if not isinstance(found, h5py.Dataset):
            raise FormatError(f"{where(parent, path)} is not a dataset.", _DAMAGED)
        if found.shape is None:
            return None
        _check_storage(found)
        return None if _scalar_text(found) == PLACEHOLDER else found


def _scalar_text(found: Any) -> str | None:
    """The text of a scalar string dataset, None for any other."""
    import h5py

    if found.shape != () or h5py.check_string_dtype(found.dtype) is None:  # h5py crashes on some other types of variable length
        return None
    if found.dtype.hasobject:  # libhdf5 allocates the declared length before it looks for the text
        offset = found.id.get_offset()
        if offset is None:
            return None
        with Path(found.file.filename).open("rb") as handle:
            handle.seek(offset)
            if int.from_bytes(handle.read(4), "little") > _MAX_TEXT:
                raise FormatError(f"{where(found)} claims to be a text of more than {_MAX_TEXT:,} characters.", _DAMAGED)
    return _as_text(found[()])


def _check_storage(found: Any) -> None:
    if found.external or found.is_virtual:
        raise FormatError(f"{where(found)} keeps its data in other files.", "Such data are not followed. Copy them into one file.")
    on_disk = min(found.id.get_storage_size(), found.file.id.get_filesize())
    most = max(_SMALL, on_disk if found.chunks is None else on_disk * _RATIO)
    declared = math.prod(found.shape) * found.dtype.itemsize
    chunk = math.prod(found.chunks) * found.dtype.itemsize if found.chunks else 0
    if max(declared, chunk) > most:
        raise FormatError(f"{where(found)} claims {declared:,} bytes but holds {on_disk:,} on disk.", _DAMAGED)


def array(parent: Any, path: str, kinds: str = "iuf") -> NDArray[Any] | None:
    """The values at `path` as stored; None where :func:`dataset` gives None.

    Parameters
    ----------
    parent, path
        Where to look.
    kinds
        Which NumPy kinds are acceptable (``"b"`` bool, ``"i"``, ``"u"``, ``"f"``, ``"S"``); anything else is a `FormatError`.
    """
    found = dataset(parent, path)
    if found is None:
        return None
    with clear_errors(where(found)):
        if found.dtype.kind not in kinds:
            raise FormatError(f"{where(found)} holds {found.dtype} values, not numbers.", _DAMAGED)
        return np.asarray(found[()])


def attribute(parent: Any, name: str) -> Any:
    """The attribute `name` of `parent`, None when it is missing, large, or neither numbers nor text."""
    import h5py

    with clear_errors(where(parent, f"@{name}")):
        if name not in parent.attrs:
            return None
        found = parent.attrs.get_id(name)
        if found.get_storage_size() > _MAX_TEXT or (found.dtype.hasobject and h5py.check_string_dtype(found.dtype) is None):
            return None
        return parent.attrs[name]


def text(parent: Any, name: str) -> str | None:
    """A string stored as attribute `name` of `parent` or (CaImAn up to 1.9.8) as scalar dataset; None when it is neither."""
    value = attribute(parent, name)
    if value is None:
        found = dataset(parent, name)
        if found is None:
            return None
        with clear_errors(where(found)):
            value = _scalar_text(found)
    decoded = _as_text(value)
    return None if decoded == PLACEHOLDER else decoded


def _as_text(value: Any) -> str | None:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value) if isinstance(value, str) else None


class Rows:
    """Rows of one dataset, or of the sum of several of equal shape, read when asked for (a `TraceArray`).

    The file is opened for each read and closed again: a handle that stays open would keep the host from saving.

    Parameters
    ----------
    path
        The HDF5 file.
    names
        Datasets ``(n_cells, n_frames)`` to add up, e.g. ``("estimates/C", "estimates/YrA")``.
    shape
        ``(n_cells, n_frames)``, as it was when the file was first read.
    """

    def __init__(self, path: Path, names: tuple[str, ...], shape: tuple[int, int]) -> None:
        self.path = path
        self.names = names
        self.shape: tuple[int, ...] = shape

    def __getitem__(self, rows: slice) -> NDArray[np.float32]:
        """Read candidates `rows`: ``(n_rows, n_frames)`` float32; non-finite values stay as they are.

        Raises
        ------
        MissingFileError, ChangedError, FormatError
            The file was moved, holds other data now, or cannot be read (any more).
        """
        wanted = np.arange(self.shape[0])[rows]
        out = np.empty((len(wanted), self.shape[1]), np.float32)
        if not len(wanted):
            return out
        with opened(self.path, check=False) as file:  # only numbers below
            sources = [dataset(file, name) for name in self.names]
            for name, source in zip(self.names, sources, strict=True):
                if source is None or source.shape != self.shape:
                    raise ChangedError(f"{self.path}: /{name} is no longer of shape {self.shape}.", "It was saved anew: open it again.")
            # h5py takes neither negative steps nor many rows cheaply: read contiguous blocks, pick from them.
            lowest = int(wanted.min())
            step = max(1, _BLOCK // max(1, 8 * self.shape[1]))
            for first in range(lowest, int(wanted.max()) + 1, step):
                inside = np.flatnonzero((wanted >= first) & (wanted < first + step))
                if not len(inside):
                    continue
                last = int(wanted[inside].max()) + 1
                block = sources[0][first:last].astype(np.float64)
                with np.errstate(over="ignore", invalid="ignore"):
                    for source in sources[1:]:
                        block += source[first:last]
                    out[inside] = block[wanted[inside] - first]
        return out


def first_difference(before: Any, after: Any, edited: Collection[str] = ()) -> str:
    """Path of the first object that is not the same in two open files, ``""`` when all are.

    Compares links, types, shapes, attributes and raw stored values, a block at a time, never through links that leave the file.

    Parameters
    ----------
    before, after
        Open ``h5py.File`` objects; nothing may be pending in them.
    edited
        Absolute paths to leave out: ``"/estimates/idx_components"``, and attributes: ``"/output@MATLAB_fields"``.
    """
    import h5py

    stack = [(before["/"], after["/"], "")]
    seen: set[int] = set()
    with Path(before.filename).open("rb") as old, Path(after.filename).open("rb") as new:
        while stack:
            a, b, path = stack.pop()
            address = h5py.h5o.get_info(a.id).addr
            if address in seen:  # hard links may form cycles
                continue
            seen.add(address)
            attributes = {e.rpartition("@")[2] for e in edited if e.startswith(f"{path}@")}
            if type(a) is not type(b) or not _same_attributes(a, b, attributes):
                return path or "/"
            if isinstance(a, h5py.Dataset) and not _same_dataset(a, b, old, new):
                return path
            if isinstance(a, h5py.Datatype) and a.dtype != b.dtype:
                return path
            if isinstance(a, h5py.Group):
                names = [n for n in a.id if f"{path}/{n.decode()}" not in edited]
                if names != [n for n in b.id if f"{path}/{n.decode()}" not in edited]:
                    return path or "/"
                for name in names:
                    below = f"{path}/{name.decode()}"
                    kind = a.id.links.get_info(name).type
                    if b.id.links.get_info(name).type != kind:
                        return below
                    if kind == h5py.h5l.TYPE_HARD:
                        stack.append((a[name], b[name], below))
                    elif a.id.links.get_val(name) != b.id.links.get_val(name):
                        return below
    return ""


def _same_attributes(a: Any, b: Any, edited: Collection[str] = ()) -> bool:
    names = sorted(set(a.attrs) - set(edited))
    return names == sorted(set(b.attrs) - set(edited)) and all(_plain(a.attrs[name], a) == _plain(b.attrs[name], b) for name in names)


def _same_dataset(a: Any, b: Any, old: BinaryIO, new: BinaryIO) -> bool:
    import h5py

    layout = a.id.get_create_plist().get_layout()
    if (a.dtype, a.shape, a.maxshape, a.external) != (b.dtype, b.shape, b.maxshape, b.external):
        return False
    if layout != b.id.get_create_plist().get_layout():
        return False
    if a.shape is None or a.external:
        return True
    if a.is_virtual:
        return bool(a.virtual_sources() == b.virtual_sources())
    if a.dtype.hasobject:  # variable length: the values are elsewhere in the file
        if a.shape == ():
            return bool(_plain(a[()], a) == _plain(b[()], b))
        step = max(1, _BLOCK // (64 * max(1, math.prod(a.shape[1:]))))
        return all(_plain(a[i : i + step], a) == _plain(b[i : i + step], b) for i in range(0, a.shape[0], step))
    if layout == h5py.h5d.CHUNKED:
        chunks: list[list[tuple[int, ...]]] = [[], []]
        for found, source in zip(chunks, (a, b), strict=True):
            source.id.chunk_iter(lambda info, found=found: found.append(tuple(info.chunk_offset)))
        return chunks[0] == chunks[1] and all(a.id.read_direct_chunk(c) == b.id.read_direct_chunk(c) for c in chunks[0])
    if layout == h5py.h5d.COMPACT:
        return bool(_plain(a[()], a) == _plain(b[()], b))
    places = (a.id.get_offset(), b.id.get_offset())
    size = a.id.get_storage_size()
    if None in places or size != b.id.get_storage_size():
        return places == (None, None)
    return _same_bytes(old, places[0], new, places[1], size)


def _same_bytes(old: BinaryIO, old_offset: int, new: BinaryIO, new_offset: int, size: int) -> bool:
    old.seek(old_offset)
    new.seek(new_offset)
    while size > 0:
        block = old.read(min(size, _BLOCK))
        if not block or block != new.read(len(block)):
            return False
        size -= len(block)
    return True


def _plain(value: Any, owner: Any) -> Any:
    """Anything h5py returns as something that compares by content: NaN equal to itself, references by what they point at."""
    import h5py

    if isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            return (value.shape, [_plain(item, owner) for item in value.ravel().tolist()])
        return (value.dtype.str, value.shape, value.tobytes())
    if isinstance(value, np.generic):
        return _plain(np.asarray(value), owner)
    if isinstance(value, tuple):
        return tuple(_plain(item, owner) for item in value)
    if isinstance(value, h5py.Empty):
        return ("empty", value.dtype)
    if isinstance(value, h5py.Reference):
        return ("reference", h5py.h5r.get_name(value, owner.file.id) if value else None)
    return value
