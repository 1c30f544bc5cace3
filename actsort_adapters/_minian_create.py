"""A Minian result of our own making, from a recording that came from elsewhere: what `actsort convert` writes for ``minian``."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actsort_adapters import _zarr2
from actsort_adapters._minian_layout import FRAME, HEIGHT, LABELS, UNIT, WIDTH
from actsort_adapters._minian_read import BACKGROUND, DISCARDED
from actsort_core.atomic import fsync_folder
from actsort_core.errors import FormatError, UsageError, WriteError
from actsort_core.model import Curation, Recording

_ZLIB = {"id": "zlib", "level": 1}  # every zarr has it, and so has Python
_BLOCK = 1 << 22  # trace values held at a time
_TAKEN = {"A", "C", "S", "YrA", "c0", "b0", "f", "motion", UNIT, FRAME, HEIGHT, WIDTH, LABELS}

_Row = tuple[str, NDArray[Any]]  # the key of a chunk and what is in it


def losses(recordings: Sequence[Recording], curations: Sequence[Curation | None]) -> tuple[str, ...]:
    """What `create` could not carry over; see ``MinianFormat.losses``.

    Raises
    ------
    FormatError
        There are several recordings, or one is three-dimensional.
    """
    _check(recordings, curations)
    recording, curation = recordings[0], curations[0]
    said = []
    if curation is None and np.isfinite(recording.prior.probability).any():
        said.append("The host's probabilities: Minian has no place for them; unit_labels holds the verdicts alone.")
    if curation is not None and recording.n_cells:
        said.append("The probabilities: Minian has no place for them; unit_labels holds the decisions alone.")
    if recording.metrics:
        said.append(f"The host's statistics ({', '.join(recording.metrics)}): Minian has no place for them.")
    verdict = recording.prior.verdict
    unclear = int(curation.undecided.sum()) if curation is not None else int((verdict == 0).sum()) if verdict.any() else 0
    if unclear:
        become = "accepted" if curation is None else "rejected"
        said.append(f"What is undecided ({unclear} of {recording.n_cells}): unit_labels knows nothing in between, it becomes {become}.")
    return tuple(said)


def create(recordings: Sequence[Recording], curations: Sequence[Curation | None], dst: Path) -> tuple[Path, ...]:
    """Write one recording as the new folder `dst`; see ``MinianFormat.create``.

    Raises
    ------
    UsageError
        `dst` exists, or the curation is about another number of candidates.
    FormatError
        Minian cannot hold it.
    WriteError
        The folder cannot be written to, or the disk is full.
    """
    _check(recordings, curations)
    recording, curation = recordings[0], curations[0]
    if dst.exists():
        raise UsageError(f"{dst} exists already.", "Choose a new folder: nothing is ever written over a result.")
    if curation is not None and curation.n_cells != recording.n_cells:
        raise UsageError(f"{recording.name} has {recording.n_cells} candidates, its curation {curation.n_cells}.")
    try:
        dst.parent.mkdir(parents=True, exist_ok=True)
        tmp = Path(tempfile.mkdtemp(dir=dst.parent, prefix=f".{dst.name}.", suffix=".tmp"))  # complete or not there
    except OSError as error:
        raise WriteError(f"Cannot write into {dst.parent} ({error.strerror}).", "Nothing was written. Check its permissions.") from error
    try:
        _write(recording, curation, tmp)
        shutil.copymode(dst.parent, tmp)  # mkdtemp makes folders that only their owner can open
        os.replace(tmp, dst)
        fsync_folder(dst.parent)
    except OSError as error:
        if isinstance(error, WriteError):
            raise
        raise WriteError(f"Writing {dst} failed ({error}).", "Nothing is there. Is the disk full?") from error
    finally:
        shutil.rmtree(tmp, ignore_errors=True)
    return tuple(sorted(path for path in dst.rglob("*") if path.is_file()))


def _check(recordings: Sequence[Recording], curations: Sequence[Curation | None]) -> None:
    if len(recordings) != len(curations) or not recordings:
        raise UsageError(f"There are {len(recordings)} recordings but {len(curations)} curations.", "Pass one, or None, for each.")
    if len(recordings) > 1:
        raise FormatError(f"A Minian folder holds one recording, not {len(recordings)}.", "Convert each by itself.")
    if len(recordings[0].fov) != 2:
        raise FormatError(
            f"{recordings[0].path} has a field of view of {recordings[0].fov}; Minian knows only planes.", "CaImAn has volumes."
        )


def _write(recording: Recording, curation: Curation | None, folder: Path) -> None:
    labels = _labels(recording, curation)
    units = np.arange(recording.n_cells, dtype=np.int64)
    along = {UNIT: units, FRAME: np.arange(recording.n_frames, dtype=np.int64)}
    along |= {name: np.arange(size, dtype=np.int64) for name, size in zip((HEIGHT, WIDTH), recording.fov, strict=True)}
    shape = (recording.n_cells, *recording.fov)
    _store(folder, "A", (UNIT, HEIGHT, WIDTH), shape, (1, *recording.fov), _masks(recording), along, labels)
    denoised = recording.denoised
    if denoised is not None and tuple(denoised.shape) != (recording.n_cells, recording.n_frames):
        denoised = None
    traces: dict[str, Any] = {"C": recording.traces if denoised is None else denoised, "S": recording.spikes}
    if denoised is not None:
        traces["YrA"] = recording.traces  # C and what C leaves: the raw trace
    for name, source in traces.items():
        if source is not None:
            attrs = {"fps": float(recording.fps)} if name == "C" and recording.fps is not None else {}
            shape_ = (recording.n_cells, recording.n_frames)
            _store(folder, name, (UNIT, FRAME), shape_, (1, max(1, shape_[1])), _rows(source), along, labels, attrs)
    for name, image in _images(recording).items():
        _store(folder, name, (HEIGHT, WIDTH), recording.fov, recording.fov, iter([("0.0", image)]), along)


def _labels(recording: Recording, curation: Curation | None) -> NDArray[np.int64] | None:
    """unit_labels, or None where nobody decided anything: then Minian shows all units."""
    units = np.arange(recording.n_cells, dtype=np.int64)
    if curation is not None:
        return np.where(curation.accepted, units, DISCARDED)
    verdict = recording.prior.verdict
    return np.where(verdict < 0, DISCARDED, units) if verdict.any() else None


def _masks(recording: Recording) -> Iterator[_Row]:
    matrix = recording.footprints
    for i in range(recording.n_cells):
        yield f"{i}.0.0", matrix[:, i].toarray().reshape(recording.fov)


def _rows(source: Any) -> Iterator[_Row]:
    n_cells, n_frames = source.shape
    step = max(1, _BLOCK // max(1, n_frames))
    for first in range(0, n_cells, step):
        block = np.asarray(source[slice(first, min(first + step, n_cells))], np.float32)
        for i, row in enumerate(block):
            if n_frames:
                yield f"{first + i}.0", row


def _images(recording: Recording) -> dict[str, NDArray[np.float32]]:
    """Images by names that are fit for folders, and not those of other variables."""
    out: dict[str, NDArray[np.float32]] = {}
    for name, image in recording.images.items():
        wanted = "b" if name == BACKGROUND else re.sub(r"[^\w-]+", "_", name, flags=re.ASCII).strip("_") or "image"
        if wanted in _TAKEN:
            wanted = f"image_{wanted}"
        while wanted.lower() in {taken.lower() for taken in out}:  # some file systems know no case
            wanted += "_"
        out[wanted] = image
    return out


def _store(
    folder: Path,
    name: str,
    dims: tuple[str, ...],
    shape: Sequence[int],
    chunks: Sequence[int],
    content: Iterator[_Row],
    along: Mapping[str, NDArray[np.int64]],
    labels: NDArray[np.int64] | None = None,
    attrs: Mapping[str, Any] | None = None,
) -> None:
    """One store as xarray's ``to_zarr`` writes it: the variable, its coordinates, consolidated descriptions."""
    store = folder / f"{name}.zarr"
    store.mkdir()
    described: dict[str, Any] = {".zattrs": {}, ".zgroup": {"zarr_format": 2}}
    for dim in dims:
        described |= _array(store, dim, (dim,), along[dim].shape, [max(1, len(along[dim]))], iter([("0", along[dim])]), "<i8")
    own = dict(attrs or {})
    if labels is not None:
        described |= _array(store, LABELS, (UNIT,), labels.shape, [max(1, len(labels))], iter([("0", labels)]), "<i8")
        own["coordinates"] = LABELS
    described |= _array(store, name, dims, shape, chunks, content, "<f4", own)
    described = dict(sorted(described.items()))
    for key in (".zattrs", ".zgroup"):
        _save(store / key, _zarr2.as_document(described[key]))
    _save(store / ".zmetadata", _zarr2.as_document({"metadata": described, "zarr_consolidated_format": 1}))


def _array(
    store: Path,
    name: str,
    dims: Sequence[str],
    shape: Sequence[int],
    chunks: Sequence[int],
    content: Iterator[_Row],
    dtype: str,
    attrs: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    meta = {
        "chunks": list(chunks),
        "compressor": _ZLIB,
        "dtype": dtype,
        "fill_value": "NaN" if dtype == "<f4" else None,
        "filters": None,
        "order": "C",
        "shape": list(shape),
        "zarr_format": 2,
    }
    all_attrs = {"_ARRAY_DIMENSIONS": list(dims), **(attrs or {})}
    place = store / name
    place.mkdir()
    _save(place / ".zarray", _zarr2.as_document(meta))
    _save(place / ".zattrs", _zarr2.as_document(all_attrs))
    for key, chunk in content:
        if chunk.size:
            _save(place / key, zlib.compress(np.ascontiguousarray(chunk, dtype).tobytes(), 1))
    return {f"{name}/.zarray": meta, f"{name}/.zattrs": all_attrs}


def _save(path: Path, content: bytes) -> None:
    path.write_bytes(content)
