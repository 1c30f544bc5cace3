"""Verdicts that a CNMF-E file holds already: ours, a person's ``ind_del``, or those of the tools around it.

Candidates are known by their column and the sum of its weights, never by ``ids`` or ``tags``: CNMF-E permutes A, C, C_raw and S
without them. Tags are no verdict: CNMF-E computes them anew whenever it uses them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actsort_adapters import _mat
from actsort_adapters._cnmfe_layout import CIATAH, AnyFile, Source
from actsort_adapters._mat_ciatah import CNMFE_FILES, valid
from actsort_adapters._mat_curation import beside, fits, known_by_sum, stored, verdicts
from actsort_core.errors import ActsortError, FormatError
from actsort_core.model import Prior

IND_DEL = "ind_del"


def mask(values: NDArray[Any] | None, n_cells: int, base: int = 1) -> NDArray[np.bool_] | None:
    """A mask from a mask, or from numbers of candidates counted from `base`; None where it fits neither."""
    if values is None or values.dtype.kind not in "biuf" or not np.isfinite(values).all():
        return None
    zeros_and_ones = bool(np.isin(values, (0, 1)).all())
    if len(values) == n_cells and zeros_and_ones and (base == 1 or values.dtype.kind == "b"):
        return np.asarray(values != 0)
    whole = values.dtype.kind != "b" and (values == np.floor(values)).all() and len(np.unique(values)) == len(values)
    if not whole or (len(values) and (values.min() < base or values.max() >= n_cells + base)):
        return None
    out = np.zeros(n_cells, bool)
    out[values.astype(np.int64) - base] = True
    return out


def prior(source: Source, n_cells: int, sums: NDArray[np.float64], notes: list[str]) -> Prior:
    """The verdicts of a file: ours where they still fit, else ``ind_del``, else those of the tool whose layout it has."""
    file = source.file
    ours, listed = stored(file), _vector(file, IND_DEL)
    if (other := beside(file)) is not None and other.is_file():
        try:
            with _mat.opened(other) as decisions:
                if (theirs := stored(decisions)) is not None:
                    ours, listed = theirs, _vector(decisions, IND_DEL)
        except ActsortError as error:
            notes.append(f"Left out: {error.what}")
    deleted = mask(listed, n_cells)
    if ours is not None:
        if fits(ours, sums):
            verdict = np.where(ours.accepted, 1, 0 if deleted is not None else -1)
            found = verdicts(np.where(deleted, -1, verdict) if deleted is not None else verdict, ours.prob)
            changed = (found.verdict != 0) & (found.verdict != np.where(ours.accepted, 1, -1))
            return replace(found, person=np.where(changed, found.verdict, ours.label).astype(np.int8))
        again = known_by_sum(ours, sums)
        notes.append(
            f"The decisions in the file (curation, ind_del) were made for {len(ours.sums)} candidates in another order or number: "
            f"{int((again.verdict != 0).sum())} of the {len(sums)} here were recognised by their footprints. Do not delete by that ind_del."
        )
        return replace(again, person=np.zeros(len(sums), np.int8))
    if listed is not None and not len(listed) and n_cells:
        notes.append("The variable ind_del is empty: it may only have been set up, and counts as no decision.")
    elif IND_DEL in file.names:
        if deleted is not None:
            return _by_people(np.where(deleted, -1, 1))
        notes.append(
            f"The variable ind_del is no list or mask of these {n_cells} candidates (from before some were deleted?): it is ignored."
        )
    if source.place.layout is CIATAH:
        sorted_ = valid(file, n_cells, CNMFE_FILES, notes)
        if sorted_ is not None:
            return _by_people(sorted_)
    keep = _vector(file, "keep") if not source.place.variable else None
    if keep is not None:
        kept = mask(keep, n_cells, base=0)
        if kept is not None:
            return _by_people(np.where(kept, 1, -1))
        notes.append("The variable keep is no list of candidates counted from 0: it is ignored.")
    return Prior.undecided(n_cells)


def _by_people(verdict: NDArray[Any]) -> Prior:
    """Verdicts in a file of CNMF-E, which has none of its own: whatever is there, people decided."""
    found = verdicts(verdict)
    return replace(found, person=found.verdict)


def _vector(file: AnyFile, name: str) -> NDArray[Any] | None:
    try:
        node = file.variable(name)
        if node is not None and 0 in node.shape:
            return np.zeros(0)
        return _mat.vector(node)
    except FormatError:
        return None
