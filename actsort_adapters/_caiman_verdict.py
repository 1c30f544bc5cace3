"""What a CaImAn result says about its components: thresholds, a person's lists, and what was set aside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actsort_adapters import _hdf5
from actsort_adapters._caiman_write import FIELDS
from actsort_core.errors import FormatError

# What select_components cuts and, where it is set, takes the length of
_CUT = ("C", "S", "YrA", "R", "F_dff", "g", "bl", "c1", "neurons_sn", "lam", "cnn_preds", "SNR_comp", "r_values")
_Lists = tuple[NDArray[np.int64] | None, NDArray[np.int64] | None]


def verdicts(estimates: Any, n_cells: int, discarded: int, notes: list[str]) -> tuple[NDArray[np.int8], NDArray[np.int8], bool]:
    """CaImAn's thresholds (idx_components) overlaid by what a person said in its GUI (the lists).

    Parameters
    ----------
    estimates
        The group /estimates.
    n_cells, discarded
        How many components it has, and how many `select_components` set aside.
    notes
        What is odd is added here.

    Returns
    -------
    verdict, person, evaluated
        ``(n_cells,)`` int8 each, 1 accepted, -1 rejected, 0 neither: both together, and the lists alone; whether there are thresholds.
    """
    verdict = np.zeros(n_cells, np.int8)
    thresholds = _lists(estimates, FIELDS[:2], n_cells, notes)
    evaluated = any(found is not None for found in thresholds)
    _apply(verdict, thresholds, FIELDS[:2], notes)
    said = _lists(estimates, FIELDS[2:], n_cells, notes)
    person = np.zeros(n_cells, np.int8)
    if any(found is not None and len(found) for found in said):
        if discarded and not evaluated:
            # select_components resets idx_* but leaves the lists as they were, in the numbering before the cut.
            notes.append("accepted_list and rejected_list are older than select_components (which does not renumber them): ignored.")
        else:
            _apply(verdict, said, FIELDS[2:], notes)
            _apply(person, said, FIELDS[2:], [])
            if discarded:
                notes.append("accepted_list and rejected_list are right only if made after select_components: it does not renumber them.")
    return verdict, person, evaluated


def _apply(verdict: NDArray[np.int8], lists: _Lists, names: Sequence[str], notes: list[str]) -> None:
    good, bad = (np.empty(0, np.int64) if found is None else found for found in lists)
    verdict[good], verdict[bad] = 1, -1
    both = np.intersect1d(good, bad)
    if len(both):
        verdict[both] = 0
        notes.append(f"{len(both)} components are in both {names[0]} and {names[1]}: they count as undecided.")


def _lists(estimates: Any, names: Sequence[str], n_cells: int, notes: list[str]) -> _Lists:
    """The good and the bad list that belong together; both None when either holds impossible numbers."""
    good, bad = (_indices(estimates, name, n_cells, notes) for name in names)
    for name, found in zip(names, (good, bad), strict=True):
        if found is not None and len(found) and (found[0] < 0 or found[-1] >= n_cells):
            notes.append(
                f"/estimates/{name} holds numbers outside 0 to {n_cells - 1} (counted from 1, or from before the numbering "
                f"changed?): {names[0]} and {names[1]} are ignored."
            )
            return None, None
    return good, bad


def _indices(estimates: Any, key: str, n_cells: int, notes: list[str]) -> NDArray[np.int64] | None:
    """A list of component numbers however it was saved: sorted, unique, maybe out of range; None when there is none."""
    values = _hdf5.array(estimates, key, "biuf")
    if values is None and _hdf5.locate(estimates, key) is None:
        values = _hdf5.attribute(estimates, key)  # load_CNMF takes an attribute for an array too
        values = None if values is None else np.asarray(values)
    if values is None:
        return None
    name, unclear = f"/estimates/{key}", "Which components it means is unclear: correct it in CaImAn and save again."
    if values.dtype.kind not in "biuf":
        raise FormatError(f"{estimates.file.filename}: {name} holds {values.dtype} values, not component numbers.", unclear)
    if values.ndim != 1:
        notes.append(f"{name} has shape {values.shape}: read as a flat list.")
        values = values.ravel()
    if values.dtype.kind == "b" or (len(values) == n_cells > 2 and bool(np.isin(values, (0, 1)).all())):
        if len(values) != n_cells:
            raise FormatError(f"{estimates.file.filename}: {name} is a mask of {len(values)} values for {n_cells} components.", unclear)
        notes.append(f"{name} is a mask, not a list of numbers: read as a mask (CaImAn itself misreads it).")
        return np.flatnonzero(values).astype(np.int64)
    if values.dtype.kind == "f" and len(values):
        if not np.all(np.isfinite(values) & (values == np.floor(values)) & (np.abs(values) < 2**53)):
            raise FormatError(f"{estimates.file.filename}: {name} holds fractions, NaN or inf, not component numbers.", unclear)
        notes.append(f"{name} is stored as {values.dtype}: read as whole numbers.")
    unique = np.unique(values.astype(np.int64))
    if len(unique) < len(values):
        notes.append(f"{name} names {len(values) - len(unique)} components more than once.")
    return unique


def n_discarded(estimates: Any) -> int:
    """How many components `select_components` set aside in this file."""
    below = _hdf5.group(estimates, "discarded_components")
    shape = None if below is None else _hdf5.array(below, "A/shape", "iu")
    return int(shape[1]) if shape is not None and shape.shape == (2,) else 0


def cannot_select(estimates: Any, n_cells: int) -> str | None:
    """Why ``select_components`` of CaImAn 1.12 would fail on this file as it was saved, with the remedy; None where it would not.

    Found by running it (estimates.py, `select_components`): it takes ``len`` of a number (``g`` that was None is saved as 0), cuts the
    dictionary that a saved ``A_thr`` comes back as, or adds what it cuts to ``discarded_components`` of another shape (empty ones after a
    refit that discarded nothing; those of OnACID's initialisation).
    """
    remedies = []
    discarded = _hdf5.group(estimates, "discarded_components")
    clash = False
    for name in _CUT:
        found = _hdf5.dataset(estimates, name) if _hdf5.group(estimates, name) is None else None
        if found is None:
            continue
        if found.shape == ():
            remedies.append(f"set cnm.estimates.{name} = None")
        elif discarded is not None and found.shape[0] == n_cells and _hdf5.group(discarded, name) is None:
            other = _hdf5.dataset(discarded, name)
            clash = clash or (other is not None and other.shape[1:] != found.shape[1:])
    if _hdf5.group(estimates, "A_thr") is not None:
        remedies.append("set cnm.estimates.A_thr = None")
    if clash:
        remedies.append("call it with save_discarded_components=False")
    return f"CaImAn's own select_components fails on this file as it was saved: {', '.join(remedies)}." if remedies else None
