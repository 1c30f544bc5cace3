"""A new NWB file from recordings that came from elsewhere: what `actsort convert` writes for ``nwb``.

Follows the schema 2.6 (axes x first; pixel lists, since they are exact and small), so that pynwb 2.8 and later read and validate it. What
the schema asks for and no recording knows (start time, indicator, location) is written as unknown.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actsort_adapters._nwb_find import MASKS, OURS
from actsort_adapters._nwb_flags import DESCRIPTIONS, LABEL, PROBABILITY, VERDICTS
from actsort_adapters._nwb_write import add_column, set_text, set_texts, set_type
from actsort_core.atomic import commit, staged
from actsort_core.errors import UsageError, WriteError
from actsort_core.model import CELL, NOT_CELL, Curation, Recording, TraceArray

_BLOCK = 1 << 22  # trace values held at a time
_CHUNK = (4096, 32)  # frames, candidates: one trace is then read without touching the whole file
_UNKNOWN_START = "1970-01-01T00:00:00+00:00"
_TABLE = "/processing/ophys/ImageSegmentation"
_SERIES = (("Fluorescence", "traces"), ("Denoised", "denoised"), ("Deconvolved", "spikes"))


def losses(recordings: Sequence[Recording], curations: Sequence[Curation | None]) -> tuple[str, ...]:
    """What `create` leaves behind; see `actsort_core.formats.CreatingFormat.losses`."""
    _check(recordings, curations)
    said = []
    volumes = [r.name for r in recordings if len(r.fov) == 3 and r.images]
    if volumes:
        said.append(f"The images of {', '.join(volumes)}: NWB's images are flat, these are volumes.")
    for recording in recordings:
        shape = (recording.n_cells, recording.n_frames)
        for name, kind in (("denoised", "denoised traces"), ("spikes", "spikes")):
            found = getattr(recording, name)
            if found is not None and tuple(found.shape) != shape:
                said.append(f"The {kind} of {recording.name}: they have another length than its traces.")
    return tuple(said)


def create(recordings: Sequence[Recording], curations: Sequence[Curation | None], dst: Path) -> tuple[Path, ...]:
    """Write the new file `dst`; see `NwbFormat.create`.

    Raises
    ------
    UsageError
        `dst` exists, or there is not one curation (or None) per recording.
    WriteError
        The folder cannot be written to, or the disk is full; nothing is at `dst`.
    """
    import h5py

    if dst.exists():
        raise UsageError(f"{dst} exists already.", "Choose another name: nothing is overwritten.")
    _check(recordings, curations)
    with staged(dst) as tmp:
        try:
            with h5py.File(tmp, "w") as file:
                _write(file, recordings, curations)
        except (RuntimeError, KeyError, ValueError, TypeError) as error:
            raise WriteError(f"Writing {dst} failed ({error}).", "Nothing was written. Is the disk full?") from error
        commit(tmp, dst)
    return (dst,)


def _check(recordings: Sequence[Recording], curations: Sequence[Curation | None]) -> None:
    if len(recordings) != len(curations) or not recordings:
        raise UsageError(f"There are {len(recordings)} recordings but {len(curations)} curations.", "Pass one, or None, for each.")
    for recording, curation in zip(recordings, curations, strict=True):
        if curation is not None and curation.n_cells != recording.n_cells:
            raise UsageError(f"{recording.name} has {recording.n_cells} candidates, its curation {curation.n_cells}.")


def _write(file: Any, recordings: Sequence[Recording], curations: Sequence[Curation | None]) -> None:
    import h5py

    text = h5py.string_dtype()
    set_text(file, "nwb_version", "2.6.0")
    set_type(file, "NWBFile", "core")
    now = datetime.datetime.now(datetime.UTC).isoformat()
    file.create_dataset("file_create_date", data=np.array([now], object), dtype=text, maxshape=(None,))
    for key, value in (
        ("identifier", "-".join(recording.fingerprint for recording in recordings)),
        ("session_description", "Candidates from " + ", ".join(sorted({r.format for r in recordings})) + ", written by ActSort"),
        ("session_start_time", _UNKNOWN_START),  # no recording knows it, and the schema insists
        ("timestamps_reference_time", _UNKNOWN_START),
    ):
        file.create_dataset(key, data=value, dtype=text)
    for name in ("acquisition", "analysis", "general", "general/devices", "general/optophysiology", "stimulus/presentation"):
        file.create_group(name)
    file.create_group("stimulus/templates")
    device = _group(file, "general/devices/Microscope", "Device")
    ophys = _group(file, "processing/ophys", "ProcessingModule")
    set_text(ophys, "description", "candidates, their traces, and decisions about them")
    _group(file, _TABLE, "ImageSegmentation")
    names = _names(recordings)
    for number, (name, recording, curation) in enumerate(zip(names, recordings, curations, strict=True), 1):
        series = _imaging(file, name, recording, device)
        table = _table(file, name, recording, curation, series)
        set_text(table, "description", f"{OURS} ({number} of {len(recordings)}, from {recording.format})")
        _all_traces(file, name, recording, table)
        _all_images(file, name, recording)


def _names(recordings: Sequence[Recording]) -> list[str]:
    """Names of the tables: those of the recordings, made fit and unique."""
    if len(recordings) == 1:
        return ["PlaneSegmentation"]
    out: list[str] = []
    for number, recording in enumerate(recordings):
        name = _safe(recording.name) or f"recording{number}"
        if "background" in name.lower() or name in out:  # read as a table of no candidates; taken
            name = f"recording{number}"
        out.append(name if name not in out else f"{name}_{number}")
    return out


def _safe(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name).strip("._")


def _group(file: Any, path: str, kind: str) -> Any:
    group = file.create_group(path)
    set_type(group, kind, "core")
    return group


def _imaging(file: Any, name: str, recording: Recording, device: Any) -> Any:
    """The imaging plane, and an image series that says how large its field of view is; without frames of its own."""
    import h5py

    text = h5py.string_dtype()
    plane = _group(file, f"general/optophysiology/{name}", "ImagingPlane")
    plane["device"] = h5py.SoftLink(device.name)
    for key, value in (("description", f"{recording.name} of {recording.path.name}"), ("indicator", "unknown"), ("location", "unknown")):
        plane.create_dataset(key, data=value, dtype=text)
    plane.create_dataset("excitation_lambda", data=np.nan)
    if recording.fps is not None:
        plane.create_dataset("imaging_rate", data=float(recording.fps))
    channel = _group(file, f"{plane.name}/OpticalChannel", "OpticalChannel")
    channel.create_dataset("description", data="unknown", dtype=text)
    channel.create_dataset("emission_lambda", data=np.nan)
    series = _group(file, f"acquisition/{name}", "ImageSeries")
    set_text(series, "description", "the movie, which is not in this file")
    set_text(series, "comments", "no comments")
    movie = series.create_dataset("external_file", data=np.array([str(recording.movie_path or "")], object), dtype=text)
    movie.attrs["starting_frame"] = np.zeros(1, np.int64)
    series.create_dataset("format", data="external", dtype=text)
    y, x, *z = recording.fov
    series.create_dataset("dimension", data=np.array([x, y, *z], np.int64))
    data = series.create_dataset("data", data=np.zeros((0,) * (len(recording.fov) + 1), np.uint8))
    _units(data, "unknown")
    _time(series, recording)
    return series


def _units(data: Any, unit: str) -> None:
    data.attrs["conversion"], data.attrs["offset"], data.attrs["resolution"] = 1.0, 0.0, -1.0
    set_text(data, "unit", unit)


def _time(series: Any, recording: Recording) -> None:
    """Start and rate; a rate that is not known is NaN, since the schema wants one or the time of each frame."""
    start = series.create_dataset("starting_time", data=0.0)
    start.attrs["rate"] = float(recording.fps) if recording.fps is not None else np.nan
    set_text(start, "unit", "seconds")


def _table(file: Any, name: str, recording: Recording, curation: Curation | None, series: Any) -> Any:
    import h5py

    table = _group(file, f"{_TABLE}/{name}", "PlaneSegmentation")
    table["imaging_plane"] = h5py.SoftLink(f"/general/optophysiology/{name}")
    table.create_group("reference_images")[name] = h5py.SoftLink(series.name)
    n = recording.n_cells
    ids = table.create_dataset("id", data=np.arange(n, dtype=np.int64))
    set_type(ids, "ElementIdentifiers", "hdmf-common")
    mask = _mask(table, recording)
    set_texts(table, "colnames", (mask,))
    columns = _decisions(recording, curation)
    for key, values in columns.items():
        add_column(table, key, values, DESCRIPTIONS[key])
    metrics = _metric_names(recording)
    for key, column in metrics.items():
        add_column(table, column, np.asarray(recording.metrics[key], np.float64), f"{key} ({recording.format})")
    set_texts(table, "colnames", (mask, *columns, *metrics.values()))
    return table


def _mask(table: Any, recording: Recording) -> str:
    """The footprints as lists of x, y[, z] and weight, one after the other, with the end of each."""
    import h5py

    matrix = recording.footprints
    y, x, *z = np.unravel_index(matrix.indices.astype(np.int64), recording.fov)
    key, axes = ("voxel_mask", (x, y, z[0])) if z else ("pixel_mask", (x, y))
    listed = np.empty(matrix.nnz, [*((axis, "<u4") for axis in "xyz"[: len(axes)]), ("weight", "<f4")])
    for axis, values in zip("xyz", axes, strict=False):
        listed[axis] = values
    listed["weight"] = matrix.data
    add_column(table, key, listed, "pixels of each candidate with their weights")
    index = table.create_dataset(f"{key}_index", data=matrix.indptr[1:].astype(np.uint64))
    set_type(index, "VectorIndex", "hdmf-common")
    set_text(index, "description", f"where the pixels of each candidate end in {key}")
    index.attrs.create("target", table[key].ref, dtype=h5py.ref_dtype)
    return key


def _decisions(recording: Recording, curation: Curation | None) -> dict[str, NDArray[Any]]:
    """The columns about verdicts; without a curation those of the host."""
    if curation is None:
        verdict, labels = recording.prior.verdict, np.zeros(recording.n_cells, np.int8)
        accepted, rejected, probability = verdict > 0, verdict < 0, recording.prior.probability
    else:
        accepted = np.asarray(curation.accepted, bool)
        rejected = ~accepted & ~curation.undecided
        probability = np.where(accepted | rejected, curation.host_probability(), np.nan)
        said = {i: {CELL: 1, NOT_CELL: -1}.get(given.value, 0) for i, given in curation.labels.items()}
        labels = np.array([said.get(i, 0) for i in range(recording.n_cells)], np.int8)
    return {"accepted": accepted, "rejected": rejected, LABEL: labels, PROBABILITY: np.asarray(probability, np.float64)}


def _metric_names(recording: Recording) -> dict[str, str]:
    """A column name for each metric: its own, where that is free and fit."""
    taken = {"id", *VERDICTS, *MASKS, *(f"{mask}_index" for mask in MASKS), "imaging_plane", "reference_images"}
    names: dict[str, str] = {}
    for key in recording.metrics:
        name = _safe(key)
        if name != key or name.lower() in taken or name.endswith("_index"):
            name = f"metric_{name}"
        while name.lower() in taken:
            name += "_"
        taken |= {name.lower(), f"{name}_index".lower()}
        names[key] = name
    return names


def _all_traces(file: Any, name: str, recording: Recording, table: Any) -> None:
    import h5py

    rois = None
    shape = (recording.n_cells, recording.n_frames)
    for container, field in _SERIES:
        source = getattr(recording, field)
        if source is None or tuple(source.shape) != shape:
            continue
        place = f"/processing/ophys/{container}"
        if place not in file:
            _group(file, place, "Fluorescence")
        series = _group(file, f"{place}/{name}", "RoiResponseSeries")
        set_text(series, "description", (recording.trace_kind or "no description") if field == "traces" else field)
        set_text(series, "comments", "no comments")
        _copy(source, series, shape)
        _time(series, recording)
        if rois is None:
            rois = series.create_dataset("rois", data=np.arange(recording.n_cells, dtype=np.int64))
            set_type(rois, "DynamicTableRegion", "hdmf-common")
            set_text(rois, "description", f"all candidates of {name}")
            rois.attrs.create("table", table.ref, dtype=h5py.ref_dtype)
        else:
            series["rois"] = h5py.SoftLink(rois.name)


def _copy(source: TraceArray, series: Any, shape: tuple[int, int]) -> None:
    n_cells, n_frames = shape
    chunks = (min(_CHUNK[0], n_frames), min(_CHUNK[1], n_cells)) if n_cells and n_frames else None
    data = series.create_dataset("data", (n_frames, n_cells), np.float32, chunks=chunks)
    _units(data, "n.a.")
    step = max(1, _BLOCK // max(1, n_frames))
    step = max(_CHUNK[1], step - step % _CHUNK[1])
    for first in range(0, n_cells, step):
        data[:, first : first + step] = np.asarray(source[slice(first, min(first + step, n_cells))], np.float32).T


def _all_images(file: Any, name: str, recording: Recording) -> None:
    if len(recording.fov) != 2 or not recording.images:
        return
    container = _group(file, f"/processing/ophys/Images_{name}", "Images")
    set_text(container, "description", f"images of {name}")
    for number, (key, image) in enumerate(recording.images.items()):
        fit = _safe(key)
        if not fit or fit in container:
            fit = f"image{number}"
        stored = container.create_dataset(fit, data=np.ascontiguousarray(np.asarray(image, np.float32).T))  # x first
        set_type(stored, "GrayscaleImage", "core")
        set_text(stored, "description", key)
