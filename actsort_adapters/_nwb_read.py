"""Recordings from an NWB file: tables, traces, images and verdicts put together."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actsort_adapters import _hdf5
from actsort_adapters._nwb_find import Part, find_parts, find_tables, walk
from actsort_adapters._nwb_flags import read_metrics, read_prior
from actsort_adapters._nwb_masks import read_footprints
from actsort_adapters._nwb_traces import read_traces
from actsort_core.errors import ActsortError, FormatError
from actsort_core.model import Recording

_MAX_IMAGES = 50


def recordings(path: Path, file: Any, format_name: str) -> tuple[Recording, ...]:
    """Every recording of the open file; see `NwbFormat.read`."""
    notes: list[str] = []
    tables = find_tables(file, notes)
    if not tables:
        raise FormatError(f"{path} holds no ROIs (no PlaneSegmentation under /processing).", "Was it written before the segmentation?")
    parts = find_parts(tables, path.stem, notes)
    if not parts:
        raise FormatError(f"{path} holds ROIs but no traces of them. {' '.join(notes)}", "Write the fluorescence into the file, too.")
    images = list(_images(file))
    version = _hdf5.attribute(file, "nwb_version")
    shown = version.decode("utf-8", "replace") if isinstance(version, bytes) else str(version)
    found = []
    for part in parts:
        own = list(notes) if part.number == 0 else []
        found.append(_recording(path, file, part, images, len(parts), format_name, shown, own))
    return tuple(found)


def _recording(
    path: Path, file: Any, part: Part, images: list[_Image], n_parts: int, format_name: str, version: str, notes: list[str]
) -> Recording:
    table = _hdf5.group(file, part.table.path)
    mine = [image for image in images if image.module == part.table.module and _belongs(image, part, n_parts)]
    shown = {image.name: _turned(image.values, part.table.writer) for image in mine}
    linked = list(_linked_sizes(file, part))
    sizes = linked if part.table.writer == "actsort" else [*(image.shape for image in shown.values()), *linked]
    fov, footprints = read_footprints(part, table, sizes, notes)
    found = read_traces(path, file, part, notes)
    prior, columns = read_prior(table, part, notes)
    return Recording(
        name=part.name,
        path=path,
        format=format_name,
        fov=fov,
        footprints=footprints,
        traces=found.traces,
        trace_kind=found.kind,
        fps=found.fps,
        prior=prior,
        metrics=read_metrics(table, part),
        images={name: image for name, image in shown.items() if image.shape == fov},
        denoised=found.denoised,
        spikes=found.spikes,
        movie_path=_movie(path, file, part),
        info={"nwb_version": version, "table": part.table.path, "writer": part.table.writer or "unknown", "verdict_columns": columns},
        notes=tuple(notes),
    )


class _Image:
    """One picture of an ``Images`` container."""

    def __init__(self, module: str, container: str, name: str, values: NDArray[np.float32]) -> None:
        self.module, self.container, self.name, self.values = module, container, name, values


def _images(file: Any) -> Iterator[_Image]:
    """Two-dimensional pictures in containers of type ``Images`` under /processing; one that is broken is left out."""
    import h5py

    count = 0
    for path, group in walk(file):
        if str(_hdf5.attribute(group, "neurodata_type")) not in ("Images", "b'Images'"):
            continue
        for key in group.id:
            name = key.decode("utf-8", "replace")
            if count >= _MAX_IMAGES:
                return
            with contextlib.suppress(ActsortError):
                if not isinstance(_hdf5.locate(group, name), h5py.Dataset):
                    continue
                values = _hdf5.array(group, name)
                if values is not None and values.ndim == 2 and values.size:
                    count += 1
                    with np.errstate(over="ignore"):
                        yield _Image("/".join(path.split("/")[:3]), path.rpartition("/")[2], name, values.astype(np.float32))


def _belongs(image: _Image, part: Part, n_parts: int) -> bool:
    """Suite2p numbers its containers like its planes (``Backgrounds_1``); ours end in the name of the table."""
    if part.table.writer == "actsort":
        return image.container == f"Images_{part.table.name}"
    numbered = re.fullmatch(r"Backgrounds_([0-9]{1,6})", image.container)
    return n_parts == 1 or numbered is None or int(numbered[1]) == part.number


def _turned(values: NDArray[np.float32], writer: str) -> NDArray[np.float32]:
    """An image as ``(rows, columns)``: Suite2p and CaImAn store it so, the schema (and neuroconv) has x first."""
    return values if writer in ("suite2p", "caiman") else np.ascontiguousarray(values.T)


def _linked_sizes(file: Any, part: Part) -> Iterator[tuple[int, ...]]:
    """Fields of view of the image series that a table's masks are about, from their declared size or the shape of their data."""
    rows_first = part.table.writer == "suite2p"
    for series in _reference_images(file, part):
        with contextlib.suppress(ActsortError):
            stated = _hdf5.array(series, "dimension", "iu")
            data = _hdf5.locate(series, "data")
            shape = tuple(int(v) for v in stated) if stated is not None and stated.shape in ((2,), (3,)) else None
            if shape is None and len(getattr(data, "shape", None) or ()) in (3, 4):
                shape = tuple(int(v) for v in data.shape[1:])
            if shape is not None and min(shape) > 0:
                yield shape if rows_first else (shape[1], shape[0], *shape[2:])


def _reference_images(file: Any, part: Part) -> Iterator[Any]:
    """The groups below a table's ``reference_images``, through soft links within the file."""
    with contextlib.suppress(ActsortError):
        below = _hdf5.group(file, f"{part.table.path}/reference_images")
        for key in list(below.id)[:20] if below is not None else ():
            with contextlib.suppress(ActsortError):
                series = _hdf5.group(below, key.decode("utf-8", "replace"))
                if series is not None:
                    yield series


def _movie(path: Path, file: Any, part: Part) -> Path | None:
    """The movie that the image series names, where it was or beside the NWB file.

    Only CaImAn's memory maps and what we wrote ourselves: Suite2p and most others name the raw files, which are not registered.
    """
    for series in _reference_images(file, part):
        with contextlib.suppress(ActsortError, OSError, ValueError):
            files = _hdf5.dataset(series, "external_file")
            if files is None or files.shape != (1,) or files.dtype.kind not in "OS":
                continue
            stored = files[0]
            text = stored.decode("utf-8", "replace") if isinstance(stored, bytes) else str(stored)
            if not text or (part.table.writer != "actsort" and not text.endswith(".mmap")):
                continue
            beside = path.parent / PureWindowsPath(text).name  # knows both kinds of slashes
            for candidate in (Path(text), beside) if Path(text).is_absolute() else (beside,):
                if candidate.is_file() and candidate != path:
                    return candidate
    return None
