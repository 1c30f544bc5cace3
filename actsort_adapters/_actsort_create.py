"""A precomputed file of our own making: what `actsort convert` writes for ``actsort_matlab``, with all that the app needs to open it.

PrecomputeCellCheck.m takes outlines, events and pictures from footprints, traces and the movie. The movie is not read here: where the
app shows it, it sees the footprint times its trace, and `losses` says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actsort_adapters import _mat_new
from actsort_adapters._actsort_read import LABELS, N_FEATURES, NAMES, OUTPUT, labels_path
from actsort_adapters._actsort_write import struct
from actsort_adapters._extract_create import lost_traces
from actsort_adapters._mat_curation import CURATION, carried, check_pairs, some
from actsort_core.atomic import commit, staged
from actsort_core.errors import UsageError
from actsort_core.model import Curation, Recording

HOST = "ActSort for MATLAB"
_EVENTS, _AROUND = 5, 5  # PrecomputeCellCheck.m: five events, five frames before and after each
_MARGIN = 7  # pixels around the outline
_OUTLINE = 0.05  # of the maximum: find_cell_boundaries.m, where footprints have a maximum of 1
_IMAGES = ("max_im", "max_image", "max_proj", "max", "summary_image", "Cn", "meanImg", "mean")


def losses(recordings: Sequence[Recording], curations: Sequence[Curation | None]) -> tuple[str, ...]:
    """See ``ActsortMatlabFormat.losses``."""
    check_pairs(recordings, curations, HOST)
    (recording,) = recordings
    out = lost_traces(recording, HOST)
    if images := [name for name in recording.images if name != _image(recording)]:
        out.append(f"The images {some(images)}: {HOST} keeps one, max_im.")
    if metrics := [name for name in recording.metrics if name not in NAMES]:
        out.append(f"The host's statistics {some(metrics)}: {HOST} keeps only its own {N_FEATURES}.")
    out.append(f"Pictures of the movie: where {HOST} shows it around events, footprints times traces are seen instead.")
    missing = sum(name not in recording.metrics for name in NAMES)
    if missing:
        out.append(
            f"{missing} of the {N_FEATURES} features its classifier learns from: they are 0. To sort in the app, convert to extract and "
            "let it create a sorting file from that and the movie."
        )
    return tuple(out)


def _image(recording: Recording) -> str | None:
    return next((name for name in _IMAGES if name in recording.images), None)


@dataclass(frozen=True, eq=False)
class _Candidate:
    """What the app shows of one candidate; coordinates as in MATLAB, from 1."""

    outline: NDArray[np.float64]  # (2, n): x, y
    low: tuple[int, int]  # x, y of the picture's first pixel
    crop: NDArray[np.float32]
    events: NDArray[np.float32]  # (5,), NaN where there are fewer
    around: NDArray[np.float32]  # (5, 11): the trace around each


def create(recordings: Sequence[Recording], curations: Sequence[Curation | None], dst: Path) -> tuple[Path, ...]:
    """See ``ActsortMatlabFormat.create``."""
    check_pairs(recordings, curations, HOST)
    _mat_new.check_free(dst)
    if labels_path(dst).exists():
        raise UsageError(f"{labels_path(dst)} exists: labels of another file of that name.", "Choose another name.")
    (recording,), (curation,) = recordings, curations
    height, width = recording.fov
    n_cells = recording.n_cells
    footprints = recording.footprints
    verdict, ours = carried(recording, curation, np.asarray(footprints.sum(axis=0, dtype=np.float64)).ravel())
    centres = np.array([_centre(recording, i) for i in range(n_cells)], np.float32).reshape(n_cells, 2).T
    outlines = [_outline(recording, i) for i in range(n_cells)]
    name = _image(recording)
    picture = recording.images[name] if name else np.asarray(footprints.sum(axis=1), np.float32).reshape(height, width)
    seen = [_seen(recording, i, outlines[i]) for i in range(n_cells)]

    def cells(items: Iterator[Any], rows: int = 1) -> _mat_new.Cell:
        return _mat_new.Cell((rows, n_cells), items)

    output = {
        "spatial_weights": _mat_new.Images(footprints, (height, width)),
        "traces": _mat_new.Traces(recording.traces, 1),
        "cellCenters": centres,
        "spikeIdxs": np.array([c.events for c in seen], np.float32).reshape(n_cells, _EVENTS).T,
        "cellBoundaries": cells((row.reshape(1, -1) for outline in outlines for row in outline), 2),
        "snapshots": cells(_picture(c) for c in seen),
        "snapshot_filters": cells(c.crop for c in seen),
        "snapshot_traces": cells(c.around for c in seen),
        "snapshotCellBoundaries": cells(_inside(c.outline, c) for c in seen),
        "snapshotCLims": np.array([_limits(_picture(c)) for c in seen], np.float32).reshape(n_cells, 4).T,
        "neighborBoundaries": cells(_inside(_neighbours(i, c, centres, outlines), c) for i, c in enumerate(seen)),
        "max_im": np.asarray(picture, np.float32),
        "features": _features(recording),
        "INFO": _info(recording),
    }
    labels = struct(ours.label.astype(float), np.where(ours.label == 0, verdict, 0).astype(float), verdict.astype(float))
    with staged(dst) as tmp:
        _mat_new.write(tmp, {OUTPUT: output, LABELS: labels, CURATION: ours.document()})
        commit(tmp, dst)
    return (dst,)


def _pixels(recording: Recording, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    inside = slice(recording.footprints.indptr[number], recording.footprints.indptr[number + 1])
    rows, columns = np.divmod(recording.footprints.indices[inside].astype(np.int64), recording.fov[1])
    return rows, columns, recording.footprints.data[inside]


def _centre(recording: Recording, number: int) -> tuple[float, float]:
    """X and y of the middle of the pixels above 0 (find_center.m); the middle of the field of view for an empty footprint."""
    rows, columns, weights = _pixels(recording, number)
    inside = weights > 0
    if not inside.any():
        return (recording.fov[1] + 1) / 2, (recording.fov[0] + 1) / 2
    return float(columns[inside].mean()) + 1, float(rows[inside].mean()) + 1


def _outline(recording: Recording, number: int) -> NDArray[np.float64]:
    """The rim of a footprint, closed, with the NaN with which the app ends each part: pixels of the rim in order of their angle."""
    rows, columns, weights = _pixels(recording, number)
    bright = weights >= _OUTLINE * weights.max(initial=0) if len(weights) else weights > 0
    rows, columns = rows[bright], columns[bright]
    if not len(rows):
        middle = _centre(recording, number)
        return np.array([[round(middle[0]), np.nan], [round(middle[1]), np.nan]])
    mask = np.zeros((np.ptp(rows) + 3, np.ptp(columns) + 3), bool)
    mask[rows - rows.min() + 1, columns - columns.min() + 1] = True
    inner = mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:]
    y, x = np.nonzero(mask[1:-1, 1:-1] & ~inner)
    order = np.argsort(np.arctan2(y - y.mean(), x - x.mean()), kind="stable")
    closed = np.append(order, order[0])
    xy = np.array([x[closed] + columns.min() + 1, y[closed] + rows.min() + 1], np.float64)
    return np.concatenate([xy, np.full((2, 1), np.nan)], axis=1)


def _seen(recording: Recording, number: int, outline: NDArray[np.float64]) -> _Candidate:
    height, width = recording.fov
    low = np.maximum(np.nanmin(outline, axis=1) - _MARGIN, 1).astype(int)
    high = np.minimum(np.nanmax(outline, axis=1) + _MARGIN, (width, height)).astype(int)
    crop = np.zeros((high[1] - low[1] + 1, high[0] - low[0] + 1), np.float32)
    rows, columns, weights = _pixels(recording, number)
    inside = (rows + 1 >= low[1]) & (rows + 1 <= high[1]) & (columns + 1 >= low[0]) & (columns + 1 <= high[0])
    crop[rows[inside] + 1 - low[1], columns[inside] + 1 - low[0]] = weights[inside]
    trace = np.asarray(recording.traces[number : number + 1], np.float32)[0]
    events = _events(trace)
    around = np.zeros((_EVENTS, 2 * _AROUND + 1), np.float32)
    for k, event in enumerate(events[np.isfinite(events)].astype(int)):
        part = trace[max(event - 1 - _AROUND, 0) : event + _AROUND]
        around[k, : len(part)] = part
    return _Candidate(outline, (int(low[0]), int(low[1])), crop, events, around)


def _events(trace: NDArray[np.float32]) -> NDArray[np.float32]:
    """The highest prominent peaks, frames from 1; the highest frame where there is none (find_spikes.m)."""
    from scipy.signal import find_peaks  # heavy, and only needed here

    values = np.nan_to_num(trace.astype(np.float64), posinf=0, neginf=0)
    out = np.full(_EVENTS, np.nan, np.float32)
    if not len(values):
        return out
    peaks, _ = find_peaks(values, prominence=max(float(values.std()), 1e-12), distance=max(1.0, len(values) * 0.01))
    best = peaks[np.argsort(-values[peaks], kind="stable")][:_EVENTS] if len(peaks) else np.array([values.argmax()])
    out[: len(best)] = best + 1
    return out


def _picture(candidate: _Candidate) -> NDArray[np.float32]:
    """``rows x columns x frames x events``: the footprint times its trace."""
    return np.asarray(np.einsum("yx,kt->yxtk", candidate.crop, np.nan_to_num(candidate.around, posinf=0, neginf=0)), np.float32)


def _limits(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """Lowest and highest value, and the contrast to begin with: 10 % and 99.9 % (compute_clims.m)."""
    values = np.sort(picture, axis=None)
    last = len(values) - 1
    return values[[0, last, max(0, round(0.1 * len(values)) - 1), min(last, max(0, round(0.999 * len(values)) - 1))]]


def _neighbours(
    number: int, candidate: _Candidate, centres: NDArray[np.float32], outlines: list[NDArray[np.float64]]
) -> NDArray[np.float64]:
    """Outlines of the others whose centre is in the picture, one NaN where there are none (find_neighbor_boundaries.m)."""
    x, y = candidate.low
    height, width = candidate.crop.shape
    near = (centres[0] > x) & (centres[0] < x + width - 1) & (centres[1] > y) & (centres[1] < y + height - 1)
    near[number] = False
    found = [outlines[i] for i in np.flatnonzero(near)]
    return np.concatenate(found, axis=1) if found else np.full((2, 1), np.nan)


def _inside(outline: NDArray[np.float64], candidate: _Candidate) -> NDArray[np.float32]:
    """An outline in the picture's own coordinates."""
    return np.asarray(outline - np.array(candidate.low)[:, None] + 1, np.float32)


def _features(recording: Recording) -> NDArray[np.float64]:
    out = np.zeros((recording.n_cells, N_FEATURES))
    for column, name in enumerate(NAMES):
        if name in recording.metrics:
            out[:, column] = recording.metrics[name]
    return out


def _info(recording: Recording) -> dict[str, Any]:
    out: dict[str, Any] = {
        "mat_file_name": recording.path.name,
        "h5_file_name": recording.movie_path.name if recording.movie_path is not None else "",
        "dataset_name": "",
        "date_created": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S"),
        "parallel": np.zeros((1, 1), bool),
        "inMemory": np.ones((1, 1), bool),
        "dt": np.ones((1, 1)),
        "fast_features": np.zeros((1, 1), bool),
        "platform": "ActSort for Python",
    }
    if recording.fps is not None:
        out["fps"] = np.full((1, 1), float(recording.fps))
    return out
