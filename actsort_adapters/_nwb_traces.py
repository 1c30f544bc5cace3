"""Traces of an NWB file: which series is the fluorescence of a recording, and reading it in pieces."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actsort_adapters import _hdf5
from actsort_adapters._nwb_find import Part, Series, label
from actsort_core.errors import ActsortError, ChangedError

NEUCOEFF = 0.7  # Suite2p's default; no NWB file says which was used
_BLOCK = 1 << 25
_KEEP = 1 << 28  # traces up to this size are kept in memory once read: NWB stores frame by frame, so one trace touches the whole file


@dataclass(frozen=True)
class Source:
    """One dataset of traces and what it counts in the sum.

    Attributes
    ----------
    path
        Of the dataset.
    columns
        ``(n_cells,)`` int64: which of its traces.
    shape
        As it was when the file was read.
    frames_last
        Whether it lies as ``(n, n_frames)``.
    factor, offset
        ``factor * data + offset`` is added.
    """

    path: str
    columns: NDArray[np.int64]
    shape: tuple[int, ...]
    frames_last: bool
    factor: float
    offset: float


class Columns:
    """Traces ``(n_cells, n_frames)`` from datasets that are stored ``(n_frames, n)``, read when asked for (a `TraceArray`)."""

    def __init__(self, path: Path, sources: tuple[Source, ...], shape: tuple[int, int]) -> None:
        self.path = path
        self.sources = sources
        self.shape: tuple[int, ...] = shape
        self._kept: NDArray[np.float32] | None = None

    def __getitem__(self, rows: slice) -> NDArray[np.float32]:
        """Read candidates `rows`: ``(n_rows, n_frames)`` float32.

        Raises
        ------
        MissingFileError, ChangedError, FormatError
            The file was moved, holds other data now, or cannot be read (any more).
        """
        wanted = np.arange(self.shape[0])[rows]
        if self._kept is None and 4 * self.shape[0] * self.shape[1] <= _KEEP:
            self._kept = self._read(np.arange(self.shape[0]))
        return self._kept[wanted] if self._kept is not None else self._read(wanted)

    def _read(self, wanted: NDArray[np.int64]) -> NDArray[np.float32]:
        out = np.zeros((len(wanted), self.shape[1]), np.float32)
        if not out.size:
            return out
        with _hdf5.opened(self.path, check=False) as file:  # only numbers below
            found = [_hdf5.dataset(file, source.path) for source in self.sources]
            for source, data in zip(self.sources, found, strict=True):
                if data is None or tuple(data.shape) != source.shape:
                    raise ChangedError(f"{self.path}: {source.path} is no longer of shape {source.shape}.", "Open the file again.")
            spans = [np.ptp(source.columns[wanted]) + 1 for source in self.sources]
            step = max(1, _BLOCK // (8 * int(max(spans))))
            for first in range(0, self.shape[1], step):
                frames = slice(first, min(first + step, self.shape[1]))
                total = np.zeros((len(wanted), frames.stop - first))
                for source, data in zip(self.sources, found, strict=True):
                    with np.errstate(over="ignore", invalid="ignore"):
                        total += source.factor * _block(data, source, source.columns[wanted], frames) + source.offset
                with np.errstate(over="ignore"):
                    out[:, frames] = total
        return out


def _block(data: Any, source: Source, columns: NDArray[np.int64], frames: slice) -> NDArray[np.float64]:
    """``(len(columns), n_frames)`` of one dataset: one contiguous piece is read, and picked from."""
    if len(source.shape) == 1:
        return np.asarray(data[frames], np.float64)[None, :]
    low, high = int(columns.min()), int(columns.max()) + 1
    if source.frames_last:
        return np.asarray(data[low:high, frames], np.float64)[columns - low]
    return np.asarray(data[frames, low:high], np.float64).T[columns - low]


@dataclass(frozen=True)
class Traces:
    """The traces of one recording, see `actsort_core.model.Recording`."""

    traces: Columns
    kind: str
    denoised: Columns | None
    spikes: Columns | None
    fps: float | None


def read_traces(path: Path, file: Any, part: Part, notes: list[str]) -> Traces:
    """Choose and describe the traces of one recording.

    Fluorescence as it was measured comes first: corrected for neuropil by the writer, or less 0.7 times the neuropil where that is
    there, or denoised plus residuals (CaImAn); then dF/F, then denoised traces.
    """
    own = [s for s in part.table.series if np.array_equal(np.sort(s.region), part.rows)]
    by_kind: dict[str, Series] = {}
    for series in own:
        by_kind.setdefault(series.kind, series)
    others = [
        s.path for s in part.table.series if s not in own and s.kind not in ("background", "other") and np.isin(s.region, part.rows).any()
    ]
    if others:
        notes.append(f"{part.name}: {', '.join(others)} hold traces of other ROIs than {own[0].path}: left out.")
    main, kind = next((by_kind[k], k) for k in ("corrected", "raw", "dff", "denoised", "spikes") if k in by_kind)
    shape = (len(part.rows), main.n_frames)

    def columns(*terms: tuple[Any, str, float, Series]) -> Columns:
        return Columns(path, tuple(_source(file, part, *term) for term in terms), shape)

    def further(key: str) -> Columns | None:
        series = by_kind.get(key)
        if series is None or series.n_frames != main.n_frames:
            return None
        return columns((series.path, "data", 1.0, series))

    traces, name, denoised = columns((main.path, "data", 1.0, main)), _names(file, part, main, kind), further("denoised")
    neuropil = by_kind.get("neuropil")
    if kind == "raw" and part.table.writer == "caiman":  # RoiResponseSeries is C; the noise is in residuals
        denoised, name = traces, "C"
        residual = _residual(file, part, main)
        if residual is not None:
            traces, name = columns((main.path, "data", 1.0, main), (residual, "", 1.0, main)), "C+YrA"
        else:
            notes.append("There are no residuals: the traces are CaImAn's denoised ones (C), without their noise.")
    elif kind == "raw" and neuropil is not None and neuropil.n_frames == main.n_frames and part.table.writer != "actsort":
        traces = columns((main.path, "data", 1.0, main), (neuropil.path, "data", -NEUCOEFF, neuropil))
        name = f"F - {NEUCOEFF:g}*Fneu"
        notes.append(f"The neuropil coefficient is not in the file: Suite2p's default of {NEUCOEFF} is used.")
    elif kind in ("denoised", "spikes"):
        notes.append(f"{part.name}: the only traces are {main.path} ({kind}): they show no noise.")
    return Traces(traces, name, denoised, further("spikes") if kind != "spikes" else None, _fps(file, part, main, notes))


def _names(file: Any, part: Part, series: Series, kind: str) -> str:
    group = _hdf5.group(file, series.path)
    if part.table.writer == "actsort" and (stored := label(group, "description")):
        return stored
    return {"raw": "F", "corrected": "F, corrected", "dff": "dF/F"}.get(kind, kind)


def _source(file: Any, part: Part, path: str, name: str, factor: float, series: Series) -> Source:
    """`factor` times a dataset in the units it declares; `series` says which of its traces belongs to which row."""
    data = _hdf5.dataset(file, f"{path}/{name}" if name else path)
    order = np.argsort(series.region, kind="stable")  # the part's rows are sorted, too
    conversion, offset = (_number(_hdf5.attribute(data, key)) for key in ("conversion", "offset"))
    if conversion is None or conversion == 0:
        conversion = 1.0
    return Source(data.name, order, tuple(data.shape), series.frames_last, factor * conversion, factor * (offset or 0.0))


def _number(value: Any) -> float | None:
    if isinstance(value, (int, float, np.number)) and math.isfinite(value):
        return float(value)
    return None


def _residual(file: Any, part: Part, main: Series) -> str | None:
    """CaImAn's TimeSeries ``residuals`` beside the table's container, if it has the shape of the traces."""
    path = f"{part.table.module}/residuals/data"
    try:
        found = _hdf5.dataset(file, path)
    except ActsortError:
        return None
    same = (
        found is not None and found.dtype.kind in "iuf" and tuple(found.shape) == (main.n_frames, len(main.region)) and not main.frames_last
    )
    return path if same else None


def _fps(file: Any, part: Part, series: Series, notes: list[str]) -> float | None:
    """Frames per second: the rate of the series, else its time stamps, else the rate of the imaging plane."""
    group = _hdf5.group(file, series.path)
    try:
        start = _hdf5.dataset(group, "starting_time")
        rate = None if start is None else _number(_hdf5.attribute(start, "rate"))
        stamps = _hdf5.array(group, "timestamps") if rate is None else None
        if stamps is not None and stamps.ndim == 1 and len(stamps) > 1:
            steps = np.diff(stamps.astype(np.float64))
            middle = float(np.median(steps))
            if middle > 0 and math.isfinite(middle):
                regular = bool((np.abs(steps - middle) < 0.01 * middle).all())
                if not regular:
                    notes.append(f"{part.name}: the time stamps are not evenly spaced; fps is taken from their usual distance.")
                rate = round((len(stamps) - 1) / float(stamps[-1] - stamps[0]) if regular else 1 / middle, 6)
        if rate is None:
            plane = _hdf5.array(file, f"{part.table.path}/imaging_plane/imaging_rate")
            rate = None if plane is None or plane.size != 1 else _number(plane.ravel()[0])
    except ActsortError as error:
        notes.append(f"{part.name}: the frame rate is unknown. {error.what}")
        return None
    return rate if rate is not None and rate > 0 else None
