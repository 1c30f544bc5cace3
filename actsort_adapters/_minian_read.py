"""A Minian result as a `Recording`: everything aligned by unit_id, whatever the order and the number of units in each store."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from actsort_adapters._minian_layout import (
    FRAME,
    HEIGHT,
    LABELLED,
    LABELS,
    UNIT,
    WIDTH,
    Store,
    Variable,
    find,
    frames,
    opened,
)
from actsort_core.errors import ActsortError, ChangedError, FormatError
from actsort_core.model import Prior, Recording, TraceArray, as_footprints

DISCARDED = -1
BACKGROUND = "background"  # what the image `b` is called
_MAX_PIXELS = 2**31 - 1  # more would not fit the index type of a sparse footprint
_BLOCK = 1 << 25  # bytes of A held at a time
_IN_MEMORY = 1 << 29  # bytes: traces in chunks of many units are kept up to this size, since each row would cost a whole chunk
_NEIGHBOURS = ("minian_intermediate", "intermediate")  # where the pipeline's notebook keeps YrA
_SAMPLE = 16  # units that decide whether a YrA found elsewhere belongs to these traces
_BELONGS = 0.5  # their median correlation with C: YrA is C and what C leaves


@dataclass(frozen=True, eq=False)
class Result:
    """What a path holds.

    Attributes
    ----------
    path
        Folder or file.
    stores
        All of it.
    footprints, calcium
        A and C.
    units
        ``(n_cells,)``: the candidates' unit_id: those of A that C has, too, in A's order.
    """

    path: Path
    stores: tuple[Store, ...]
    footprints: Variable
    calcium: Variable
    units: NDArray[np.int64]


def load(path: Path) -> Result:
    """Find A and C at `path`.

    Raises
    ------
    FormatError
        They are not there, damaged, or have no unit in common.
    """
    stores = opened(path)
    a, c = find(stores, "A"), find(stores, "C")
    if a is None or c is None:
        raise FormatError(f"{path} holds no {'A' if a is None else 'C'}.", "Pass the folder that save_minian wrote (or one netCDF of it).")
    a.check(UNIT, HEIGHT, WIDTH)
    c.check(UNIT, FRAME)
    units = a.units[np.isin(a.units, c.units)]
    if len(a.units) and not len(units):
        raise FormatError(f"{path}: no unit of A is in C.", "Its stores are from different runs: save A and C again.")
    return Result(path, stores, a, c, units)


def recording(path: Path, format_name: str) -> Recording:
    """Read `path`; see ``MinianFormat.read``."""
    notes: list[str] = []
    result = load(path)
    units = result.units
    gone = len(result.footprints.units) - len(units)
    if gone:
        notes.append(f"{gone} units of A are not in C (dropped by an update of C) and are not shown.")
    fov = (result.footprints.length(HEIGHT), result.footprints.length(WIDTH))
    if not 0 < math.prod(fov) <= _MAX_PIXELS:
        raise FormatError(f"{result.footprints} has a field of view of {fov}.", "The store is damaged, or not what it seems.")
    footprints = footprints_of(result, fov)
    if empty := int((np.diff(footprints.indptr) == 0).sum()):
        notes.append(f"{empty} units have an empty footprint.")
    denoised = rows(result.calcium, units)
    shape = (len(units), int(denoised.shape[1]))
    found = _optional(lambda: _residual(result, shape, notes), notes)
    spikes = _optional(lambda: _rows_like(find(result.stores, "S"), result, notes), notes)
    labels, said = stored_labels(result)
    notes += said
    store = result.calcium.store
    info: dict[str, Any] = {"layout": "netCDF" if path.is_file() else "zarr", "unit_id": units.tolist()}
    for name in ("animal", "session"):
        if text := _optional(lambda name=name: store.text(name), notes):  # type: ignore[misc]
            info[name] = text
    shift = _optional(lambda: _largest_shift(result), notes)
    if shift is not None:
        info["largest_shift"] = shift
    if merged := _merged(units, labels):
        info["merged"] = merged
        notes.append(
            f"unit_labels merges units ({'; '.join(', '.join(map(str, group)) for group in merged[:6])}{'; ...' * (len(merged) > 6)}). "
            "Each is shown by itself; writing keeps the merges of those that are accepted."
        )
    return Recording(
        name=path.stem if path.is_file() else path.absolute().name,  # "." has none
        path=path,
        format=format_name,
        fov=fov,
        footprints=footprints,
        traces=denoised if found is None else found,
        trace_kind="C" if found is None else "YrA",
        fps=_fps(result.calcium.array.attrs.get("fps")),
        prior=Prior.undecided(len(units)) if labels is None else _prior(labels),
        images=_images(result, fov, notes),
        denoised=denoised,
        spikes=spikes,
        info=info,
        notes=tuple(notes),
    )


def _optional(read: Callable[[], Any], notes: list[str]) -> Any:
    """What `read` gives; a part nobody needs must not keep the rest from being read."""
    try:
        return read()
    except (FormatError, ChangedError) as error:
        notes.append(f"{error.what} It is left out.")
        return None


# Footprints


def footprints_of(result: Result, fov: tuple[int, int]) -> sp.csc_matrix:
    """A of the candidates: ``(n_pixels, n_cells)`` CSC float32, pixels in C order."""
    a = result.footprints
    wanted = np.isin(a.units, result.units)
    n_pixels = math.prod(fov)
    step = a.step(UNIT) * max(1, _BLOCK // (8 * n_pixels) // a.step(UNIT))
    data, pixels, counts = [], [], []
    for first in range(0, len(a.units), step):
        block = a.read((UNIT, HEIGHT, WIDTH), slice(first, first + step))[wanted[first : first + step]]
        flat = block.reshape(len(block), n_pixels)
        with np.errstate(over="ignore"):
            flat = flat.astype(np.float32, copy=False)
        keep = (flat != 0) & np.isfinite(flat)
        data.append(flat[keep])
        pixels.append(np.nonzero(keep)[1].astype(np.int32))
        counts.append(keep.sum(axis=1))
    bounds = np.concatenate([[0], *counts]).cumsum()
    values = np.concatenate([np.empty(0, np.float32), *data])
    indices = np.concatenate([np.empty(0, np.int32), *pixels])
    return as_footprints(sp.csc_matrix((values, indices, bounds), (n_pixels, len(bounds) - 1)), n_pixels)


# Traces


class UnitRows:
    """Rows of a variable ``(unit_id, frame)`` by unit, read when asked for (a `TraceArray`).

    Parameters
    ----------
    variable
        The variable.
    positions
        ``(n_cells,)``: where each candidate is along unit_id.
    """

    def __init__(self, variable: Variable, positions: NDArray[np.int64]) -> None:
        self._variable, self._positions = variable, positions
        self.shape: tuple[int, ...] = (len(positions), variable.length(FRAME))

    def __getitem__(self, wanted: slice) -> NDArray[np.float32]:
        """Some candidates, ``(n_rows, n_frames)`` float32; non-finite values stay as they are.

        Raises
        ------
        ActsortError
            The store was removed, saved anew, or is damaged.
        """
        positions = self._positions[wanted]
        out = np.empty((len(positions), self.shape[1]), np.float32)
        if not len(positions) or not self.shape[1]:
            return out
        variable = self._variable
        fresh = variable.store.get(variable.name, check=False)  # the description may have changed since, too
        if fresh is None or fresh.shape != variable.array.shape or fresh.dims != variable.array.dims:
            raise ChangedError(f"{variable} is not what it was.", "It was saved anew: open the result again.")
        variable = Variable(variable.name, variable.store, fresh)
        most = max(1, _BLOCK // (8 * self.shape[1]))
        begin = 0
        for end in range(1, len(positions) + 1):  # runs of neighbours are read at once
            if end < len(positions) and positions[end] == positions[end - 1] + 1 and end - begin < most:
                continue
            first = int(positions[begin])
            with np.errstate(over="ignore", invalid="ignore"):
                out[begin:end] = variable.read((UNIT, FRAME), slice(first, first + end - begin))
            begin = end
        return out


def rows(variable: Variable, units: NDArray[np.int64]) -> TraceArray:
    """The rows of `units` (which must all be there), in memory where a chunk holds many units."""
    variable.check(UNIT, FRAME)
    order = np.argsort(variable.units)
    positions = order[np.searchsorted(variable.units, units, sorter=order)] if len(units) else np.empty(0, np.int64)
    lazy = UnitRows(variable, positions)
    if variable.step(UNIT) > 8 and math.prod(lazy.shape) * 8 <= _IN_MEMORY:
        with np.errstate(over="ignore", invalid="ignore"):
            return np.asarray(variable.read((UNIT, FRAME))[positions].astype(np.float32))
    return lazy


def _rows_like(variable: Variable | None, result: Result, notes: list[str]) -> TraceArray | None:
    """The rows of the candidates, None (and a note) where the variable is of another run."""
    if variable is None:
        return None
    variable.check(UNIT, FRAME)
    if not np.isin(result.units, variable.units).all():
        notes.append(f"{variable} lacks {int((~np.isin(result.units, variable.units)).sum())} of the units and is left out.")
        return None
    ours, theirs = frames(result.calcium), frames(variable)
    same = variable.length(FRAME) == result.calcium.length(FRAME)
    if not same or (ours is not None and theirs is not None and not np.array_equal(ours, theirs)):
        notes.append(f"{variable} has other frames than C and is left out.")
        return None
    return rows(variable, result.units)


def _residual(result: Result, shape: tuple[int, int], notes: list[str]) -> TraceArray | None:
    """YrA, which in Minian holds C and what C leaves of the movie (``compute_trace`` in minian/cnmf.py): the raw trace."""
    own = find(result.stores, "YrA")
    if own is not None:
        return _rows_like(own, result, notes)
    here = result.path.absolute()
    for folder in (here.parent, here.parent.parent):
        for name in _NEIGHBOURS:
            place = folder / name / "YrA.zarr"
            if place == here or not place.is_dir():
                continue
            unsaid: list[str] = []
            try:
                found = _rows_like(find(opened(place), "YrA"), result, unsaid)
                belongs = found is not None and _belongs(found, rows(result.calcium, result.units))
            except (ActsortError, OSError):
                continue
            if belongs:
                notes.append(f"The traces are YrA of {place}.")
                return found
            notes.append(f"{place} is of another run and is not used: the traces are C.")
    return None


def _belongs(found: TraceArray, calcium: TraceArray) -> bool:
    """Whether traces found elsewhere are about the same units: the pipeline uses one intermediate folder for all recordings."""
    values = []
    for i in np.unique(np.linspace(0, max(found.shape[0] - 1, 0), _SAMPLE).astype(int)):
        x, y = (np.asarray(array[int(i) : int(i) + 1], np.float64).ravel() for array in (found, calcium))
        good = np.isfinite(x) & np.isfinite(y)
        if good.sum() > 1 and x[good].std() > 0 and y[good].std() > 0:
            values.append(np.corrcoef(x[good], y[good])[0, 1])
    return bool(values) and float(np.median(values)) > _BELONGS


# Verdicts


def labels_of(variable: Variable) -> NDArray[np.float64] | None:
    """unit_labels in the store of a variable, by its units, NaN where one is missing; None where there are none.

    Raises
    ------
    FormatError
        They do not belong to the units.
    """
    found = variable.store.get(LABELS) if LABELS in variable.store.names else None
    if found is None:
        return None
    if found.shape != variable.units.shape or found.dims not in ((UNIT,), ()):
        raise FormatError(f"{variable.store.path}: unit_labels has the shape {found.shape} for {len(variable.units)} units.", "Remove it.")
    return np.asarray(found.read(), np.float64)


def stored_labels(result: Result) -> tuple[NDArray[np.float64] | None, list[str]]:
    """unit_labels of the candidates, from the first store that has them, and what is odd about them.

    Returns
    -------
    ndarray or None
        ``(n_cells,)`` float64, NaN where there is none; None where no store has labels.
    list of str
        Notes.
    """
    chosen: NDArray[np.float64] | None = None
    notes: list[str] = []
    differing: list[str] = []
    for name in LABELLED:
        variable, found = None, None
        try:
            variable = find(result.stores, name)
            if variable is not None and UNIT in variable.array.dims:
                found = labels_of(variable)
        except FormatError as error:
            notes.append(f"{error.what} Its labels are not used.")
        if variable is None or found is None:
            continue
        by_unit = dict(zip(variable.units.tolist(), found.tolist(), strict=True))
        values = np.array([by_unit.get(unit, math.nan) for unit in result.units.tolist()], np.float64)
        shared = np.isin(result.units, variable.units)
        if chosen is None:
            chosen = values
        elif not np.array_equal(chosen[shared], values[shared], equal_nan=True):
            differing.append(variable.name)
    if differing:
        notes.append(
            f"unit_labels differ in {', '.join(differing)} (was saving or writing interrupted?): those of the first store are used, "
            "and writing makes them all the same."
        )
    if chosen is not None and (missing := int((~np.isfinite(chosen)).sum())):
        notes.append(f"unit_labels are missing for {missing} units, which count as undecided.")
    return chosen, notes


def _prior(labels: NDArray[np.float64]) -> Prior:
    """-1 is discarded; any other label, one's own or a merged one, is kept."""
    verdict = np.where(np.isfinite(labels), np.where(labels < 0, -1, 1), 0).astype(np.int8)
    # What is kept has the label it was given before anybody looked: only discarding says that a person did.
    return Prior(verdict, np.full(len(labels), np.nan), np.minimum(verdict, 0))


def _merged(units: NDArray[np.int64], labels: NDArray[np.float64] | None) -> list[list[int]]:
    """Groups of units with the same label."""
    groups: dict[float, list[int]] = {}
    for unit, label in zip(units.tolist(), [] if labels is None else labels.tolist(), strict=False):
        if label >= 0:
            groups.setdefault(label, []).append(unit)
    return [group for group in groups.values() if len(group) > 1]


# The rest


def _images(result: Result, fov: tuple[int, int], notes: list[str]) -> dict[str, NDArray[np.float32]]:
    """Everything that is an image of the same field of view."""
    images: dict[str, NDArray[np.float32]] = {}
    for name in sorted({name for store in result.stores for name in store.names} - {HEIGHT, WIDTH}):
        image = _optional(lambda name=name: _image(result, name, fov), notes)  # type: ignore[misc]
        if image is not None:
            images[BACKGROUND if name == "b" else name] = image
    return images


def _image(result: Result, name: str, fov: tuple[int, int]) -> NDArray[np.float32] | None:
    try:
        store = next(store for store in result.stores if name in store.names)
        known = store.get(name, check=False)  # it may be a movie of many files
    except FormatError:
        return None  # texts and the like
    found = find(result.stores, name) if known is not None and sorted(known.dims) == [HEIGHT, WIDTH] else None
    if found is None:
        return None
    if (found.length(HEIGHT), found.length(WIDTH)) != fov:
        raise FormatError(f"{found} has the shape {found.array.shape} in a field of view of {fov}.")
    with np.errstate(over="ignore"):
        return np.asarray(found.read((HEIGHT, WIDTH)).astype(np.float32))


def _largest_shift(result: Result) -> float | None:
    """The largest rigid shift of motion correction, in pixels."""
    found = find(result.stores, "motion")
    if found is None or found.array.dims != (FRAME, "shift_dim"):
        return None
    values = np.asarray(found.array.read(), np.float64)
    finite = np.abs(values[np.isfinite(values)])
    return float(finite.max()) if finite.size else None


def _fps(value: Any) -> float | None:
    """Minian knows no frame rate; results that `create` made say it as an attribute of C."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) and value > 0 else None


def is_result(path: Path) -> str:
    """Which layout a folder or file has, as a clause; empty where it is none of Minian's. Cheap."""
    stores = opened(path)
    names = {name for store in stores for name in store.names}
    if not {"A", "C", UNIT} <= names:
        return ""
    return "a netCDF file with A, C and unit_id" if path.is_file() else "zarr stores with A, C and unit_id"


def describe_v3(path: Path) -> bool:
    """Whether a folder holds stores of zarr format 3, which no Minian writes."""
    for child in sorted(path.glob("*/zarr.json"))[:3]:
        try:
            if json.loads(child.read_bytes()[: 1 << 20]).get("zarr_format") == 3:
                return True
        except (OSError, ValueError, AttributeError, RecursionError):
            continue
    return False
