"""Decisions into an NWB file: columns of its tables, set in a byte-for-byte copy, and proof that nothing else differs."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actsort_adapters import _hdf5, _hdf5_host
from actsort_adapters._nwb_find import find_parts, find_tables, label, names
from actsort_adapters._nwb_flags import DESCRIPTIONS, new_columns
from actsort_core.errors import ChangedError, UsageError
from actsort_core.formats import FileEdit, WritePlan
from actsort_core.model import Curation, Recording

_NAMESPACE = uuid.UUID("6f5cf6cf-6f63-5f0c-9e0e-3c1f7d4f3a52")  # of the object_id of new columns: the same each time


def make_plan(recordings: Sequence[Recording], curations: Sequence[Curation]) -> WritePlan:
    """The one file to replace; see `NwbFormat.plan`."""
    if not recordings or len(recordings) != len(curations):
        raise UsageError(f"There are {len(recordings)} recordings but {len(curations)} curations.", "Pass one for each.")
    path = recordings[0].path
    for recording, curation in zip(recordings, curations, strict=True):
        if curation.n_cells != recording.n_cells:
            raise ChangedError(
                f"{path} holds {recording.n_cells} candidates, the decisions are about {curation.n_cells}.", "Open it again."
            )
    accepted = sum(int(curation.accepted.sum()) for curation in curations)
    columns = [str(recording.info.get("verdict_columns") or "accepted, rejected").split(", ") for recording in recordings]
    touched = sorted({", ".join(names[:2]) for names in columns})  # a third one is CaImAn's keep
    what = f"{'; '.join(touched)}, curation_label and curation_prob ({accepted} of {sum(r.n_cells for r in recordings)} accepted)"
    by_name = {recording.name: curation for recording, curation in zip(recordings, curations, strict=True)}
    edit = FileEdit(path, what, lambda tmp: stage(path, tmp, by_name))
    return WritePlan((edit,), _stale(recordings), _notes(recordings, curations))


def _notes(recordings: Sequence[Recording], curations: Sequence[Curation]) -> tuple[str, ...]:
    notes = []
    if any(len(str(r.info.get("verdict_columns")).split(", ")) > 2 for r in recordings):
        notes.append(
            "The column keep (CaImAn's thresholds, idx_components after load_CNMF) stays as it is. In CaImAn, use the decisions with "
            "cnm.estimates.select_components(idx_components=cnm.estimates.accepted_list)."
        )
    undecided = sum(int((c.undecided & ~c.accepted).sum()) for c in curations)
    if undecided:
        notes.append(
            f"{undecided} undecided candidates are not accepted; where the file has a column for rejected ones, not rejected either."
        )
    return tuple(notes)


def _stale(recordings: Sequence[Recording]) -> tuple[tuple[Path, str], ...]:
    """Files of the host beside an export, which the host itself goes by."""
    path, writers = recordings[0].path, {str(recording.info.get("writer")) for recording in recordings}
    if "suite2p" in writers:
        found = sorted(path.parent.glob("plane*/iscell.npy"))
        return tuple((p, "Suite2p's GUI goes by this file, not by the NWB export: sort the suite2p folder itself") for p in found)
    beside = path.with_suffix(".hdf5")
    if "caiman" in writers and beside != path and beside.is_file():
        return ((beside, "it holds the decisions from before: sort that file, or load the NWB file in CaImAn"),)
    return ()


def stage(path: Path, tmp: Path, curations: dict[str, Curation]) -> None:
    """Copy `path` to `tmp`, set the columns of every recording in the copy, and check that nothing else differs."""
    _hdf5_host.stage_copy(path, tmp, lambda before: _edit(before, path, tmp, curations))


def _edit(before: Any, path: Path, tmp: Path, curations: dict[str, Curation]) -> str:
    """Set the columns in `tmp`; the path of the first object that is then not as it should be, else ``""``."""
    import h5py

    columns: dict[str, dict[str, NDArray[Any]]] = {}
    with h5py.File(tmp, "r+") as copy:
        parts = {part.name: part for part in find_parts(find_tables(copy, []), path.stem, [])}
        for name, curation in curations.items():
            part = parts.get(name)
            if part is None or len(part.rows) != curation.n_cells:
                raise ChangedError(f"{path} no longer holds the {curation.n_cells} candidates of {name!r}.", "Open it again.")
            table = _hdf5.group(copy, part.table.path)
            kept = columns.setdefault(part.table.path, {})
            kept.update(new_columns(table, part, curation, kept))
        for place, new in columns.items():
            table = _hdf5.group(copy, place)
            for name, values in new.items():
                _set_column(table, name, values)
    edited = {f"{place}/{name}" for place, new in columns.items() for name in new} | {f"{place}@colnames" for place in columns}
    with h5py.File(tmp, "r") as after:
        for place, new in columns.items():
            listed = names(_hdf5.group(after, place), "colnames")
            for name, values in new.items():
                found = after[f"{place}/{name}"]
                if found.shape != values.shape or not np.array_equal(found[()], values, equal_nan=values.dtype.kind == "f"):
                    return f"{place}/{name}"
                if name not in listed:
                    return f"{place}@colnames"
            old = names(_hdf5.group(before, place), "colnames")
            if tuple(name for name in listed if name in old) != old:
                return f"{place}@colnames"
        return _hdf5.first_difference(before, after, edited)


def _set_column(table: Any, name: str, values: NDArray[Any]) -> None:
    """Set a column, in place where type and shape are the same; else make it anew, and list it in ``colnames``."""
    found = _hdf5.dataset(table, name)  # refuses what is no dataset, and links out of the file
    if found is not None and found.shape == values.shape and found.dtype == values.dtype:
        if not np.array_equal(found[()], values, equal_nan=values.dtype.kind == "f") and values.size:
            found[...] = values
    else:
        if found is not None:
            del table[name]
        add_column(table, name, values, DESCRIPTIONS.get(name.lower(), name))
    listed = names(table, "colnames")
    if name not in listed:
        set_texts(table, "colnames", (*listed, name))


def add_column(table: Any, name: str, values: NDArray[Any], description: str) -> Any:
    """A new VectorData dataset, typed as the table's other columns are (schemas before 2.2 had it in ``core``)."""
    here = (label(table[key], "namespace") for key in names(table, "colnames") if key in table)
    column = table.create_dataset(name, data=values)
    set_type(column, "VectorData", next((namespace for namespace in here if namespace), "hdmf-common"))
    set_text(column, "description", description)
    return column


def set_type(obj: Any, kind: str, namespace: str) -> None:
    """``neurodata_type``, ``namespace`` and an ``object_id`` that follows from the place, so that the same input gives the same file."""
    owner = label(obj.file, "object_id") or label(obj.parent, "object_id")
    set_text(obj, "namespace", namespace)
    set_text(obj, "neurodata_type", kind)
    set_text(obj, "object_id", str(uuid.uuid5(_NAMESPACE, f"{owner}{obj.name}")))


def set_text(obj: Any, name: str, value: str) -> None:
    """A text attribute as hdmf writes it."""
    import h5py

    obj.attrs.create(name, value, dtype=h5py.string_dtype())


def set_texts(obj: Any, name: str, values: Sequence[str]) -> None:
    """A list-of-texts attribute as hdmf writes it."""
    import h5py

    obj.attrs.create(name, np.array(values, object), dtype=h5py.string_dtype())
