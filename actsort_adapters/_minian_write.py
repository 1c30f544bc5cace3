"""Decisions into ``unit_labels``: which files of a Minian result change, and to what."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actsort_adapters import _hdf5, _zarr2
from actsort_adapters._minian_layout import HEIGHT, LABELLED, LABELS, UNIT, WIDTH, NetcdfStore, Variable, ZarrStore, find
from actsort_adapters._minian_read import DISCARDED, Result, footprints_of, load, stored_labels
from actsort_core.errors import ActsortError, ChangedError, FormatError, WriteError
from actsort_core.formats import FileEdit, WritePlan
from actsort_core.model import Curation, Recording

_MAX_COPIES = 50
_BLOCK = 1 << 22  # values compared at a time
_OPEN_AGAIN = (
    "A notebook that has the result loaded keeps the old unit_labels, and saving it again writes them back: open it again with open_minian."
)
_HOW_TO_FIX = "Remove unit_labels from it (xarray: drop_vars), and write again."


def make_plan(recording: Recording, curation: Curation, exports: bool = False) -> WritePlan:
    """How the files of one result change, with `exports` also netCDF copies of it; see ``MinianFormat.plan``."""
    path = recording.path
    result = load(path)
    if curation.n_cells != len(result.units) or list(recording.info.get("unit_id", ())) != result.units.tolist():
        raise ChangedError(
            f"{path} holds {len(result.units)} units now, the decisions are about {curation.n_cells}"
            f"{' others' if curation.n_cells == len(result.units) else ''}.",
            "Open it again.",
        )
    labels = new_labels(result, curation)
    edits = _edits(result, labels)
    stale = {}
    for other in _copies(result):
        if _agrees(other, labels):
            continue
        if exports and other.path.is_file() and _same_footprints(recording, other):
            edits += _edits(other, labels)
        elif other.path.is_file():
            stale[other.path] = "it keeps other unit_labels: write with --update-exports, or export it again (xarray's to_netcdf)"
        else:
            stale[other.path] = "it holds the same units with other unit_labels: write into it by itself (actsort import-labels)"
    notes = [_OPEN_AGAIN]
    undecided = int((curation.undecided & ~curation.accepted).sum())
    if undecided:
        notes.append(f"{undecided} undecided units are written as discarded (-1): unit_labels knows nothing in between.")
    notes += _rejoined(result, labels)
    return WritePlan(tuple(edits), tuple(stale.items()), tuple(notes))


def _edits(result: Result, labels: Mapping[int, int]) -> list[FileEdit]:
    variables = _labelled(result)
    if isinstance(result.footprints.store, NetcdfStore):
        return _netcdf_edits(result.footprints.store, variables, labels)
    edits = []
    for store in dict.fromkeys(v.store for v in variables if isinstance(v.store, ZarrStore)):
        edits += _zarr_edits(store, [v for v in variables if v.store == store], labels)
    return edits


def _labelled(result: Result) -> list[Variable]:
    """The variables that carry unit_labels, or should: A, C, S, c0, b0, and YrA where it is with them."""
    found = [find(result.stores, name) for name in (*LABELLED, "YrA")]
    return [variable for variable in found if variable is not None and UNIT in variable.array.dims]


def new_labels(result: Result, curation: Curation) -> dict[int, int]:
    """unit_labels of the candidates after the decisions, by unit_id."""
    before, _ = stored_labels(result)
    out = {}
    for i, unit in enumerate(result.units.tolist()):
        known = before is not None and np.isfinite(before[i]) and before[i] >= 0
        kept = int(before[i]) if known and before is not None else unit  # what it was merged into stays
        out[unit] = kept if curation.accepted[i] else DISCARDED
    return out


def _rejoined(result: Result, labels: Mapping[int, int]) -> list[str]:
    """Units accepted again whose own number others were merged into meanwhile."""
    before, _ = stored_labels(result)
    if before is None:
        return []
    notes = []
    for unit, old in zip(result.units.tolist(), before.tolist(), strict=True):
        others = [other for other, label in labels.items() if label == unit and other != unit]
        if old < 0 and labels[unit] == unit and others:
            notes.append(f"Unit {unit} is accepted again and joins {', '.join(map(str, others))}, which are merged under its number.")
    return notes


def _labels_for(variable: Variable, labels: Mapping[int, int], before: NDArray[np.float64] | None) -> NDArray[np.int64]:
    """All of a store's unit_labels: units that are no candidates keep theirs, or get their own number."""
    out = []
    for i, unit in enumerate(variable.units.tolist()):
        stays = before is not None and np.isfinite(before[i])
        out.append(labels.get(unit, int(before[i]) if stays and before is not None else unit))
    return np.array(out, np.int64)


def _as_stored(values: NDArray[np.int64], dtype: np.dtype[Any], where: str) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        cast = values.astype(dtype)
    if dtype.kind not in "if" or (cast.astype(np.int64) != values).any():
        raise FormatError(f"{where}: unit_labels are {dtype} and cannot hold these labels (-1 means discarded).", _HOW_TO_FIX)
    return cast


# zarr


def _zarr_edits(store: ZarrStore, variables: Sequence[Variable], labels: Mapping[int, int]) -> list[FileEdit]:
    """Files of one store, in an order in which it can be read at every moment, as it was or as it will be."""
    units = variables[0].units
    existing = store.get(LABELS) if LABELS in store.names else None
    if existing is not None and existing.shape != units.shape:
        raise FormatError(f"{store.path}: unit_labels has the shape {existing.shape} for {len(units)} units.", _HOW_TO_FIX)
    before = None if existing is None else existing.read()
    values = _labels_for(variables[0], labels, None if before is None else np.asarray(before, np.float64))
    if existing is not None and before is not None:
        edits = _changed_chunks(existing, before, _as_stored(values, existing.dtype, str(store.path)), units)
        described: dict[str, dict[str, Any]] = {f"{LABELS}/.zarray": dict(existing.meta), f"{LABELS}/.zattrs": dict(existing.attrs)}
    else:
        described = {
            f"{LABELS}/.zattrs": {"_ARRAY_DIMENSIONS": [UNIT]},
            f"{LABELS}/.zarray": {
                "chunks": [max(1, len(values))],
                "compressor": None,
                "dtype": "<i8",
                "fill_value": None,  # with a number here xarray would take that label for missing
                "filters": None,
                "order": "C",
                "shape": [len(values)],
                "zarr_format": 2,
            },
        }
        discarded = int((values == DISCARDED).sum())
        what = f"new coordinate unit_labels ({discarded} of {len(values)} units discarded)"
        edits = [_edit(store.path / LABELS / "0", what, values.astype("<i8").tobytes())] if len(values) else []
        edits += [_edit(store.path / name, "description of unit_labels", _zarr2.as_document(found)) for name, found in described.items()]
    for variable in variables:
        attrs = _with_coordinate(store, variable)
        if attrs is not None:
            described[f"{variable.name}/.zattrs"] = attrs
            edits.append(_edit(store.path / variable.name / ".zattrs", "unit_labels among its coordinates", _zarr2.as_document(attrs)))
    return edits + _consolidated(store, described)


def _changed_chunks(existing: _zarr2.ZarrArray, before: NDArray[Any], values: NDArray[Any], units: NDArray[np.int64]) -> list[FileEdit]:
    edits = []
    for index in existing.chunk_indices():
        here = slice(index[0] * existing.chunks[0], (index[0] + 1) * existing.chunks[0])
        changed = np.flatnonzero(~(before[here] == values[here]))
        if not len(changed):
            continue
        chunk = existing.chunk(index)
        new = np.full(existing.chunks, existing.fill, existing.dtype) if chunk is None else chunk.copy()
        new[: len(values[here])] = values[here]
        shown = ", ".join(f"{unit}: {label:g}" for unit, label in zip(units[here][changed][:6], values[here][changed][:6], strict=True))
        what = f"unit_labels of {len(changed)} unit{'s' * (len(changed) > 1)} ({shown}{', ...' * (len(changed) > 6)})"
        edits.append(_edit(existing.chunk_path(index), what, existing.encode(new)))
    return edits


def _with_coordinate(store: ZarrStore, variable: Variable) -> dict[str, Any] | None:
    """Attributes of a variable with unit_labels among its coordinates, as xarray finds them; None where they are already."""
    group = _zarr2.document(store.path / ".zattrs") or {}
    known = _words(variable.array.attrs.get("coordinates"))
    if LABELS in known or LABELS in _words(group.get("coordinates")):
        return None
    return {**variable.array.attrs, "coordinates": " ".join([*known, LABELS])}


def _words(value: Any) -> list[str]:
    return value.split() if isinstance(value, str) else []


def _consolidated(store: ZarrStore, described: Mapping[str, Mapping[str, Any]]) -> list[FileEdit]:
    """``.zmetadata`` with these descriptions, where the store has one: xarray believes it rather than the files."""
    path = store.path / ".zmetadata"
    found = _zarr2.document(path)
    if found is None:
        return []
    metadata = found.get("metadata")
    if not isinstance(metadata, dict):
        raise FormatError(f"{path} holds no metadata.", "Make it again with zarr.consolidate_metadata.")
    if all(metadata.get(name) == value for name, value in described.items()):
        return []
    merged = {**metadata, **described}
    if list(metadata) == sorted(metadata):
        merged = dict(sorted(merged.items()))
    return [_edit(path, "copy of the descriptions", _zarr2.as_document({**found, "metadata": merged}))]


def _edit(path: Path, what: str, content: bytes) -> FileEdit:
    def stage(tmp: Path) -> None:
        tmp.write_bytes(content)

    return FileEdit(path, what, stage)


# netCDF


def _netcdf_edits(store: NetcdfStore, variables: Sequence[Variable], labels: Mapping[int, int]) -> list[FileEdit]:
    path = store.path
    existing = store.get(LABELS) if LABELS in store.names else None
    units = variables[0].units
    if existing is not None and existing.shape != units.shape:
        raise FormatError(f"{path}: unit_labels has the shape {existing.shape} for {len(units)} units.", _HOW_TO_FIX)
    before = None if existing is None else np.asarray(existing.read(), np.float64)
    values: NDArray[Any] = _labels_for(variables[0], labels, before)
    if existing is not None:
        values = _as_stored(values, existing.dtype, str(path))
    names = [variable.name for variable in variables]
    discarded = int((values == DISCARDED).sum())
    what = f"{'unit_labels' if existing is not None else 'new coordinate unit_labels'} ({discarded} of {len(values)} units discarded)"
    return [FileEdit(path, what, lambda tmp: _stage_netcdf(path, tmp, values, names))]


def _stage_netcdf(path: Path, tmp: Path, values: NDArray[Any], names: Sequence[str]) -> None:
    import h5py

    shutil.copyfile(path, tmp)
    try:
        with h5py.File(tmp, "r+") as file:
            known = [_hdf5.text(file[name], "coordinates") or "" for name in names]
            added = [name for name, words in zip(names, known, strict=True) if LABELS not in words.split()]
            new = LABELS not in file
            if new:
                file.create_dataset(LABELS, data=values, track_times=False).dims[0].attach_scale(file[UNIT])
            else:
                file[LABELS][...] = values
            for name, words in zip(names, known, strict=True):
                if name in added:
                    _put_text(file[name], "coordinates", f"{words} {LABELS}".strip())
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise WriteError(f"{path} could not be edited ({type(error).__name__}: {error}).", "Nothing was changed.") from error
    edited = [LABELS, *added, *([UNIT] if new else [])]  # unit_id keeps a list of what refers to it
    with _hdf5.opened(path) as old, _hdf5.opened(tmp) as fresh:
        if wrong := _hdf5.first_difference(old, fresh, {f"/{name}" for name in edited}):
            raise WriteError(f"{wrong} of {path} would have changed.", "Nothing was changed. Please report this.")
        for name in {UNIT, *added}:
            if not _same_values(old[name], fresh[name]):
                raise WriteError(f"{name} of {path} would have changed.", "Nothing was changed. Please report this.")


def _put_text(found: Any, name: str, value: str) -> None:
    """Set a text attribute in the way it was written: netCDF's C library and h5netcdf differ."""
    import h5py

    fixed = name in found.attrs and h5py.check_string_dtype(found.attrs.get_id(name).dtype) is not None
    fixed = fixed and h5py.check_string_dtype(found.attrs.get_id(name).dtype).length is not None
    found.attrs.create(name, np.bytes_(value.encode()) if fixed else value)


def _same_values(a: Any, b: Any) -> bool:
    step = max(1, _BLOCK // max(1, int(np.prod(a.shape[1:], dtype=np.int64))))
    if a.chunks:
        step = -(-step // a.chunks[0]) * a.chunks[0]
    return (a.shape, a.dtype) == (b.shape, b.dtype) and all(
        a[i : i + step].tobytes() == b[i : i + step].tobytes() for i in range(0, a.shape[0], step)
    )


# Copies


def _copies(result: Result) -> list[Result]:
    """Other results in and beside this one that hold the same units in the same field of view."""
    here = result.path.absolute()
    above = here.parent
    try:
        near = [path for folder in (here, above) if folder.is_dir() for path in sorted(folder.glob("*.nc"))]
        near += [path.parent for path in sorted(above.glob("*/A.zarr"))]
    except OSError:
        return []
    out = []
    for path in near[:_MAX_COPIES]:
        try:
            if path == here or (path.is_file() and _hdf5.kind_by_bytes(path) != "hdf5"):
                continue
            other = load(path)
            if np.array_equal(np.sort(other.units), np.sort(result.units)) and _fov(other) == _fov(result):
                out.append(other)
        except (ActsortError, OSError):
            continue
    return out


def _agrees(other: Result, labels: Mapping[int, int]) -> bool:
    theirs, _ = stored_labels(other)
    return theirs is not None and all(labels[unit] == label for unit, label in zip(other.units.tolist(), theirs.tolist(), strict=True))


def _same_footprints(recording: Recording, other: Result) -> bool:
    """Whether an export holds what it was exported from; its units may be in another order."""
    units = np.array(recording.info["unit_id"], np.int64)
    try:
        theirs = footprints_of(other, _fov(other))[:, np.argsort(other.units)]
    except ActsortError:
        return False
    difference = theirs - recording.footprints[:, np.argsort(units)]
    return not difference.data.any()


def _fov(result: Result) -> tuple[int, int]:
    return result.footprints.length(HEIGHT), result.footprints.length(WIDTH)
