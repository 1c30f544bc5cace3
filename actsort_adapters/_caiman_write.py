"""How decisions go into a CaImAn result: the four fields, set in a byte-for-byte copy, and proof that nothing else differs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actsort_adapters import _hdf5, _hdf5_host
from actsort_core.errors import ChangedError
from actsort_core.formats import FileEdit
from actsort_core.model import Curation

METRICS = ("SNR_comp", "r_values", "cnn_preds", "ecc")  # CaImAn's statistics of components, under /estimates
HOST_OVERWRITES = (
    "If evaluate_components or filter_components runs after this, CaImAn overwrites idx_components; accepted_list and rejected_list "
    "stay. A CaImAn session that has this file loaded does not see the change: load it again."
)
FIELDS = ("idx_components", "idx_components_bad", "accepted_list", "rejected_list")


def decision_fields(curation: Curation) -> dict[str, NDArray[np.int64]]:
    """The four fields of ``cnm.estimates`` that hold decisions, each sorted unique int64, 0-based.

    Candidates nobody decided count as not accepted in ``idx_components_bad`` (CaImAn loses any that are in neither list), and are
    left out of ``rejected_list``.
    """
    accepted = np.asarray(curation.accepted, bool)
    return {
        "idx_components": np.flatnonzero(accepted).astype(np.int64),
        "idx_components_bad": np.flatnonzero(~accepted).astype(np.int64),
        "accepted_list": np.flatnonzero(accepted).astype(np.int64),
        "rejected_list": np.flatnonzero(~accepted & ~curation.undecided).astype(np.int64),
    }


def decision_edit(path: Path, curation: Curation) -> FileEdit:
    """The edit that sets the four fields of one file."""
    fields = decision_fields(curation)
    what = f"{', '.join(FIELDS)} under /estimates ({len(fields['idx_components'])} of {curation.n_cells} accepted)"
    return FileEdit(path, what, lambda tmp: stage(path, tmp, fields, curation.n_cells))


def stage(path: Path, tmp: Path, fields: dict[str, NDArray[np.int64]], n_cells: int) -> None:
    """Copy `path` to `tmp`, set the four fields in the copy, and check that nothing else differs."""
    _hdf5_host.stage_copy(path, tmp, lambda before: _edit(before, tmp, fields, n_cells))


def _edit(before: Any, tmp: Path, fields: dict[str, NDArray[np.int64]], n_cells: int) -> str:
    """Set `fields` in `tmp`; the path of the first object that is then not as it should be, else ``""``."""
    import h5py

    with h5py.File(tmp, "r+") as copy:
        estimates = _hdf5.group(copy, "estimates")
        shape = None if estimates is None else _hdf5.array(estimates, "A/shape", "iu")
        if shape is None or shape.shape != (2,) or int(shape[1]) != n_cells:
            raise ChangedError(f"{before.filename} no longer holds the {n_cells} components that were decided about.", "Open it again.")
        place = estimates.name
        for key, values in fields.items():
            if estimates.id.links.exists(key.encode()):  # assigning to an existing dataset works for equal length only
                del estimates[key]
            estimates.create_dataset(key, data=values)
    with h5py.File(tmp, "r") as after:
        for key, values in fields.items():
            found = _hdf5.array(after, f"{place}/{key}")
            if found is None or found.dtype != np.int64 or not np.array_equal(found, values):
                return f"{place}/{key}"
        return _hdf5.first_difference(before, after, {f"{place}/{key}" for key in fields})


def stale(path: Path) -> tuple[tuple[Path, str], ...]:
    """Files beside `path` that keep the decisions from before, each with the remedy."""
    beside = (path.with_suffix(suffix) for suffix in (".nwb", ".NWB"))
    reason = "it holds the decisions from before: save it anew with cnm.estimates.save_NWB"
    return tuple((found, reason) for found in beside if found.exists())[:1]


def plan_notes(curation: Curation) -> tuple[str, ...]:
    """What the person should know about one recording before writing: undecided candidates, none accepted."""
    notes = []
    if undecided := int(curation.undecided.sum()):
        notes.append(f"{undecided} undecided candidates go into idx_components_bad (CaImAn loses any in neither), not rejected_list.")
    if curation.n_cells and not curation.accepted.any():
        notes.append("No candidate is accepted: CaImAn's GUI discards both lists when accepted_list is empty; idx_components keeps it.")
    return tuple(notes)
