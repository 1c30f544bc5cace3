"""The plain layout in one ``.npz`` file: arrays by name, checked before they are read, kept on disk where the file is not compressed.

Nothing in a file is trusted: no pickle is ever loaded, and declared sizes must be those of the archive.
"""

from __future__ import annotations

import contextlib
import functools
import math
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import scipy.sparse as sp
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from actsort_adapters._plain_fields import HELP, MATRICES, ORIGIN, Fields, check_fov, sparse
from actsort_core.errors import FormatError, MissingFileError
from actsort_core.model import TraceArray

_BLOCK = 1 << 22  # values held at a time
_LARGE, _RATIO = 1 << 28, 100  # a compressed array of more bytes than this, and smaller than that on disk, is refused as a bomb
_DATE = (1980, 1, 1, 0, 0, 0)  # as numpy.savez: same content, same bytes
_TEXTS = ("name", "trace_kind", "movie", *ORIGIN)
_DAMAGE = (zipfile.BadZipFile, OSError, ValueError, EOFError, RuntimeError, NotImplementedError, zlib.error, struct.error)


@dataclass(frozen=True)
class Member:
    """One array of an archive whose size was found to match its header; a trace source that stays on disk.

    Attributes
    ----------
    path, key
        The archive and the array's name in it.
    shape, dtype, fortran
        As its header declares.
    size
        Bytes the array has in the archive.
    stored
        Whether they are not compressed, and can be mapped.
    """

    path: Path
    key: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    size: int
    stored: bool

    def array(self) -> NDArray[Any]:
        """All values; mapped from disk where they are not compressed."""
        order: Any = "F" if self.fortran else "C"
        if math.prod(self.shape) == 0:
            return np.zeros(self.shape, self.dtype)
        if self.stored:
            return np.memmap(self.path, self.dtype, "r", _start(self), self.shape, order)
        n_bytes = math.prod(self.shape) * self.dtype.itemsize
        if n_bytes > _LARGE and n_bytes > _RATIO * self.size:
            raise FormatError(
                f"{self.path}: {self.key} claims {n_bytes} bytes in {self.size} compressed ones.",
                "If that is so, save it with numpy.savez, which does not compress.",
            )
        content = bytearray()
        for block in _blocks(self):
            content += block
        return np.frombuffer(bytes(content), self.dtype).reshape(self.shape, order=order)

    def __getitem__(self, rows: slice) -> NDArray[np.float32]:
        """Some rows as float32."""
        with np.errstate(over="ignore", invalid="ignore"):  # float64 beyond float32 becomes inf, as everywhere in NumPy
            return np.array(self.array()[rows], np.float32, order="C")


def groups(path: Path) -> dict[str, list[str]]:
    """The names of the arrays by recording (empty for a file of one); raises what `_DAMAGE` lists when it is no archive."""
    out: dict[str, list[str]] = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith(".npy"):
                group, _, key = name.removesuffix(".npy").rpartition("/")
                out.setdefault(group, []).append(key)
    return {group: keys for group, keys in out.items() if "traces" in keys and ("footprints" in keys or "pixels" in keys)}


def read(path: Path) -> dict[str, Fields]:
    """All recordings of an archive by group, in its order.

    Raises
    ------
    FormatError
        It is damaged, hostile, or something is missing; names the array.
    """
    with _damage(path):
        found = groups(path)
        with zipfile.ZipFile(path) as archive:
            twice = [name for name, count in Counter(archive.namelist()).items() if count > 1]
            if twice:
                raise FormatError(f"{path} holds {twice[0]!r} twice.", "Save it again.")
            return {group: _read_group(path, archive, group, keys) for group, keys in found.items()}


@contextlib.contextmanager
def _damage(path: Path) -> Iterator[None]:
    try:
        yield
    except (FormatError, MissingFileError):
        raise
    except _DAMAGE as error:
        raise FormatError(f"{path} is damaged ({type(error).__name__}: {error}).", "Save it again, or restore it from a backup.") from error


def _read_group(path: Path, archive: zipfile.ZipFile, group: str, keys: Sequence[str]) -> Fields:
    members = {key: _member(path, archive, f"{group}/{key}" if group else key) for key in keys if _known(key)}
    ignored = sorted(key for key in keys if not _known(key))
    notes = (f"Not used, since the layout has no such names: {', '.join(ignored[:8])}.",) if ignored else ()
    for key in MATRICES:
        if key in members and len(members[key].shape) != 2:
            raise FormatError(f"{path}: {key} has shape {members[key].shape}.", "Save it as (n_cells, n_frames).")
    n_cells = members["traces"].shape[0]
    fov = tuple(_integers(members["fov"]).ravel().tolist()) if "fov" in members else ()
    footprints = (
        _sparse_footprints(members, fov, n_cells) if "pixels" in members else _dense_footprints(members["footprints"], fov, n_cells)
    )
    fov = fov or members["footprints"].shape[1:]
    images = {}
    for key, member in members.items():
        if key.startswith("image_"):
            if member.shape != fov:
                raise FormatError(f"{path}: {key} has shape {member.shape} in a field of view of {fov}.", HELP)
            images[_plain_name(key.removeprefix("image_"))] = member[:]
    metrics = {_plain_name(key.removeprefix("metric_")): _column(m) for key, m in members.items() if key.startswith("metric_")}
    for key, values in metrics.items():
        if values.shape != (n_cells,):
            raise FormatError(f"{path} has {n_cells} candidates but metric_{key} of shape {values.shape}.", HELP)
    accepted = _column(members["accepted"]) if "accepted" in members else None
    if accepted is not None and "decided" in members and members["decided"].shape == accepted.shape:
        accepted = np.where(_column(members["decided"]) != 0, accepted, np.nan)
    return Fields(
        fov=fov,
        footprints=footprints,
        traces=_matrix(members["traces"]),
        denoised=_matrix(members["denoised"]) if "denoised" in members else None,
        spikes=_matrix(members["spikes"]) if "spikes" in members else None,
        fps=_number(members["fps"]) if "fps" in members else None,
        accepted=accepted,
        probability=_column(members["probability"]) if "probability" in members else None,
        index=_integers(members["index"]) if "index" in members else None,
        images=images,
        metrics=metrics,
        texts={key: _text(members[key]) for key in _TEXTS if key in members},
        notes=notes,
    )


def _known(key: str) -> bool:
    names = {*MATRICES, *_TEXTS, "footprints", "pixels", "weights", "starts", "fov", "fps", "accepted", "decided", "probability", "index"}
    return key in names or key.startswith(("image_", "metric_"))


def _member(path: Path, archive: zipfile.ZipFile, key: str) -> Member:
    info = archive.getinfo(f"{key}.npy")
    with archive.open(info) as handle:
        shape, fortran, dtype, offset = _header(handle)
    if dtype.hasobject or dtype.kind not in "biufU":
        raise FormatError(
            f"{path}: {key} holds {'Python objects (a pickle), which are never loaded' if dtype.hasobject else dtype}.",
            "Save plain arrays of numbers. " + HELP,
        )
    if dtype.kind == "U" and key.rpartition("/")[2] not in _TEXTS:
        raise FormatError(f"{path}: {key} holds text.", "Save numbers. " + HELP)
    declared = offset + math.prod(shape) * dtype.itemsize
    if declared != info.file_size:
        raise FormatError(f"{path}: {key} declares {declared} bytes and has {info.file_size}.", "The file is damaged.")
    return Member(path, key, shape, dtype, fortran, info.compress_size, info.compress_type == zipfile.ZIP_STORED)


def _start(member: Member) -> int:
    """Byte of the archive at which the values of a member begin; looked up anew where the file changed: a write-back shifts what follows
    the verdicts.
    """
    path = member.path
    if not path.is_file():
        raise MissingFileError(f"{path} is gone.", "It was there before: restore or mount it again.")
    with _damage(path):
        now = path.stat()
    return _start_in(member, (now.st_ino, now.st_size, now.st_mtime_ns))


@functools.lru_cache(maxsize=64)
def _start_in(member: Member, version: tuple[int, ...]) -> int:
    """The same, kept for each version of a file: traces are read a row at a time."""
    path = member.path
    with _damage(path):
        with zipfile.ZipFile(path) as archive:
            if replace(_member(path, archive, member.key), size=member.size) != member:
                raise FormatError(f"{path}: {member.key} is another array than when it was opened.", "Open it again.")
            info = archive.getinfo(f"{member.key}.npy")
        with path.open("rb") as handle:
            handle.seek(info.header_offset)
            local = handle.read(30)
        if len(local) != 30 or local[:4] != b"PK\x03\x04":
            raise FormatError(f"{path}: {member.key} is not where the archive says.", "The file is damaged.")
        name, extra = struct.unpack("<HH", local[26:])
        start = info.header_offset + 30 + int(name) + int(extra)
        if start + info.file_size > path.stat().st_size:
            raise FormatError(f"{path}: {member.key} reaches beyond the end of the file.", "The file is damaged.")
    return start + info.file_size - math.prod(member.shape) * member.dtype.itemsize


def _header(handle: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    version = npy_format.read_magic(handle)
    # numpy parses the header with ast.literal_eval and refuses long ones; 3.0 differs from 2.0 in field names only
    parse = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
    shape, fortran, dtype = parse(handle)
    if any(size < 0 for size in shape):
        raise ValueError("a negative size")
    return shape, fortran, dtype, handle.tell()


def _blocks(member: Member) -> Iterator[bytes]:
    """The values of a member as stored, in pieces of whole values."""
    with _damage(member.path), zipfile.ZipFile(member.path) as archive, archive.open(f"{member.key}.npy") as handle:
        _header(handle)
        left = math.prod(member.shape) * member.dtype.itemsize
        while left:
            block = handle.read(min(left, _BLOCK * member.dtype.itemsize))
            if not block or len(block) % member.dtype.itemsize:
                raise EOFError(f"{member.key} ends too early")
            left -= len(block)
            yield block


def _matrix(member: Member) -> TraceArray:
    """Traces: on disk where they can be mapped, else read now, once."""
    if not member.stored:
        return member[:]
    _start(member)  # damage is met now, not when somebody looks at a trace
    return member


def _small(member: Member) -> NDArray[Any]:
    if math.prod(member.shape) > 64 or member.dtype.itemsize > 1 << 16:
        raise FormatError(f"{member.path}: {member.key} has shape {member.shape} of {member.dtype}.", "It should be one value. " + HELP)
    return member.array().ravel()


def _number(member: Member) -> float:
    values = _small(member)
    if len(values) != 1:
        raise FormatError(f"{member.path}: {member.key} is no single number.", HELP)
    return float(values[0])


def _text(member: Member) -> str:
    values = _small(member)
    return str(values[0]) if len(values) else ""


def _column(member: Member) -> NDArray[np.float64]:
    """``(n_cells,)`` float64; ``(n_cells, 1)`` and ``(1, n_cells)`` are taken for it."""
    values = member.array()
    return np.asarray(values.ravel() if values.size == max(values.shape, default=1) else values, np.float64)


def _integers(member: Member) -> NDArray[np.int64]:
    values = member.array()
    whole = values.dtype.kind == "f" and np.array_equal(values, np.floor(values)) and np.abs(values).max(initial=0) <= 2**53
    if values.dtype.kind not in "iub" and not whole:
        raise FormatError(f"{member.path}: {member.key} holds {values.dtype}, not whole numbers.", HELP)
    return np.asarray(values, np.int64)


def _sparse_footprints(members: Mapping[str, Member], fov: tuple[int, ...], n_cells: int) -> sp.csc_matrix:
    path = members["pixels"].path
    missing = [key for key in ("weights", "starts", "fov") if key not in members]
    if missing:
        raise FormatError(f"{path} holds pixels but no {' and no '.join(missing)}.", HELP)
    pixels, starts, weights = _integers(members["pixels"]), _integers(members["starts"]), members["weights"].array()
    if pixels.ndim != 1 or weights.shape != pixels.shape:
        raise FormatError(f"{path} has pixels of shape {pixels.shape} but weights of {weights.shape}.", HELP)
    sizes = np.diff(starts) if starts.shape == (n_cells + 1,) else np.array([-1])
    if (sizes < 0).any() or starts[0] != 0 or starts[-1] != len(pixels):
        raise FormatError(
            f"{path}: starts does not divide {len(pixels)} pixels among {n_cells} candidates.",
            "It has one number more than there are candidates, from 0 to the number of pixels, as indptr of scipy.sparse.csc_matrix.",
        )
    return sparse(path, fov, pixels, np.asarray(weights, np.float32), np.repeat(np.arange(n_cells), sizes), n_cells)


def _dense_footprints(member: Member, fov: tuple[int, ...], n_cells: int) -> sp.csc_matrix:
    """From ``(n_cells, *fov)``, or ``(n_cells, n_pixels)`` beside a `fov`; only one piece of it is ever in memory."""
    path, shape = member.path, member.shape
    if len(shape) not in (2, 3, 4) or shape[0] != n_cells:
        hint = "Save footprints as (n_cells, rows, columns) and traces as (n_cells, n_frames)."
        if shape and shape[-1] == n_cells:
            hint += " The last axis seems to be the cells: save numpy.moveaxis(footprints, -1, 0)."
        raise FormatError(f"{path}: footprints have shape {shape}, and there are {n_cells} traces.", hint)
    if fov and shape[1:] not in (fov, (math.prod(fov),)):
        raise FormatError(f"{path}: footprints have shape {shape} in a field of view of {fov}.", HELP)
    fov = fov or shape[1:]
    n_pixels = check_fov(path, fov)
    pixels, cells, weights, first = [], [], [], 0
    for block in _blocks(member):
        values = np.frombuffer(block, member.dtype)
        where = np.flatnonzero(values)
        place = where + first
        first += len(values)
        weights.append(values[where].astype(np.float32))
        if member.fortran:
            cell, *rest = np.unravel_index(place, shape, order="F")
            pixels.append(np.ravel_multi_index(rest, shape[1:]))
            cells.append(cell)
        else:
            pixels.append(place % n_pixels)
            cells.append(place // n_pixels)
    empty = np.zeros(0, np.int64)
    return sparse(
        path,
        fov,
        np.concatenate([empty, *pixels]),
        np.concatenate([empty.astype(np.float32), *weights]),
        np.concatenate([empty, *cells]),
        n_cells,
    )


# Writing


def _plain_name(key: str) -> str:
    return key.replace("%2F", "/").replace("%25", "%")


def _safe_name(name: str) -> str:
    return name.replace("%", "%25").replace("/", "%2F")


def verdicts(accepted: NDArray[np.float64], probability: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
    """The arrays a decision is written to; `decided` only where somebody is undecided, so that `accepted` always selects."""
    out: dict[str, NDArray[Any]] = {"accepted": accepted == 1, "probability": np.asarray(probability, np.float64)}
    return out | ({"decided": ~np.isnan(accepted)} if np.isnan(accepted).any() else {})


def write(tmp: Path, fields: Mapping[str, Fields]) -> None:
    """Write recordings by group (one: an empty name) as an archive; arrays are not compressed, so that they can stay on disk."""
    with zipfile.ZipFile(tmp, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for group, own in fields.items():
            prefix = f"{group}/" if group else ""
            matrix = own.footprints
            arrays: dict[str, Any] = {"pixels": matrix.indices.astype(np.int64), "weights": matrix.data.astype(np.float32)}
            arrays |= {"starts": matrix.indptr.astype(np.int64), "fov": np.asarray(own.fov, np.int64)}
            arrays |= {key: getattr(own, key) for key in MATRICES if getattr(own, key) is not None}
            arrays |= {"fps": np.float64(own.fps)} if own.fps is not None else {}
            if own.accepted is not None and own.probability is not None:
                arrays |= verdicts(own.accepted, own.probability)
            arrays |= {"index": own.index} if own.index is not None else {}
            arrays |= {f"image_{_safe_name(key)}": np.asarray(image, np.float32) for key, image in own.images.items()}
            arrays |= {f"metric_{_safe_name(key)}": np.asarray(values, np.float64) for key, values in own.metrics.items()}
            arrays |= {key: np.array(text) for key, text in own.texts.items()}
            for key, array in arrays.items():
                _write_member(archive, f"{prefix}{key}.npy", array, float32=key in MATRICES)


def _write_member(archive: zipfile.ZipFile, name: str, array: Any, float32: bool = False) -> None:
    with archive.open(_info(name), "w", force_zip64=True) as handle:
        if not float32:
            npy_format.write_array(handle, np.asanyarray(array), version=(1, 0), allow_pickle=False)
            return
        rows, columns = array.shape
        npy_format.write_array_header_1_0(handle, {"descr": "<f4", "fortran_order": False, "shape": (int(rows), int(columns))})
        step = max(1, _BLOCK // max(1, columns))
        for first in range(0, rows, step):
            handle.write(np.ascontiguousarray(array[first : first + step], "<f4").tobytes())


def _info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _DATE)
    info.external_attr = 0o644 << 16
    return info


def rewrite(path: Path, tmp: Path, changes: Mapping[str, Mapping[str, NDArray[Any]]]) -> None:
    """Copy an archive with some arrays replaced, added, or, where they are not in `changes`, dropped (`decided`).

    Every other array keeps its bytes, its place and its compression.
    """
    new = {f"{group}/{key}.npy" if group else f"{key}.npy": value for group, own in changes.items() for key, value in own.items()}
    dropped = {f"{group}/decided.npy" if group else "decided.npy" for group in changes} - set(new)
    with _damage(path), zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp, "w", allowZip64=True) as out:
        for info in old.infolist():
            if info.filename in dropped:
                continue
            if info.filename in new:
                _write_member(out, info.filename, new.pop(info.filename))
                continue
            kept = zipfile.ZipInfo(info.filename, info.date_time)
            kept.compress_type, kept.external_attr, kept.comment = info.compress_type, info.external_attr, info.comment
            with old.open(info) as source, out.open(kept, "w", force_zip64=True) as target:
                while block := source.read(_BLOCK):
                    target.write(block)
        for name, array in new.items():
            _write_member(out, name, array)
        out.comment = old.comment
