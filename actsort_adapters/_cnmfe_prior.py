"""Verdicts that a CNMF-E file holds already: ours, a person's ``ind_del``, or those of the tools around it.

Candidates are known by their column and the sum of its weights, never by ``ids`` or ``tags``: CNMF-E permutes A, C, C_raw and S
without them. Tags are no verdict: CNMF-E computes them anew whenever it uses them.
"""

from __future__ import annotations

import glob
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actsort_adapters import _mat, _mat5, _mat5_edit
from actsort_adapters._cnmfe_layout import CIATAH, AnyFile, Source
from actsort_core.errors import ActsortError, FormatError
from actsort_core.model import Prior

IND_DEL, CURATION = "ind_del", "curation"
_SAME = 1e-6  # relative: A may have been saved again in single precision


@dataclass(frozen=True, eq=False)
class Stored:
    """Our variable ``curation``."""

    accepted: NDArray[np.bool_]
    label: NDArray[np.int8]
    prob: NDArray[np.float64]
    sums: NDArray[np.float64]
    tool: str
    date: str
    labeller: str

    def document(self) -> dict[str, Any]:
        """As it is written: MATLAB's shapes, names and order of section 1.7 of the format notes."""
        n_cells = len(self.accepted)
        return {
            "accepted": self.accepted.reshape(-1, 1),
            "label": self.label.reshape(-1, 1),
            "prob": self.prob.reshape(-1, 1),
            "K": np.full((1, 1), float(n_cells)),
            "A_colsum": self.sums.reshape(-1, 1),
            "tool": self.tool,
            "date": self.date,
            "labeller": self.labeller,
        }

    def same(self, other: Stored | None, but_date: bool = False) -> bool:
        """Whether another says the same."""
        if other is None:
            return False
        pairs = [(getattr(self, k), getattr(other, k)) for k in ("accepted", "label", "prob", "sums")]
        texts = (self.tool, self.labeller, self.date) == (other.tool, other.labeller, self.date if but_date else other.date)
        return texts and all(a.shape == b.shape and np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in pairs)


def beside(file: AnyFile) -> Path | None:
    """Where decisions about a file go that no variable can be added to; None where they go into it."""
    shut = isinstance(file, _mat5.Mat5File) and _mat5_edit.closed(file)
    return file.path.with_name(f"{file.path.stem}_actsort.mat") if shut else None


def stored(file: AnyFile) -> Stored | None:
    """Our variable ``curation``; None where it is missing or somebody else's."""
    node = file.variable(CURATION)
    if node is None:
        return None
    try:
        columns = [_mat.vector(node.field(name)) for name in ("accepted", "label", "prob", "A_colsum")]
        texts = [field.text() if (field := node.field(name)) is not None else None for name in ("tool", "date", "labeller")]
    except FormatError:
        return None
    accepted, label, prob, sums = columns
    if accepted is None or label is None or prob is None or sums is None or texts[0] is None:
        return None
    if not len(accepted) == len(label) == len(prob) == len(sums) or any(c.dtype.kind not in "biuf" for c in (accepted, label, prob, sums)):
        return None
    with np.errstate(invalid="ignore"):
        kept = (accepted != 0, np.sign(label).astype(np.int8), prob.astype(np.float64), sums.astype(np.float64))
    return Stored(*kept, texts[0] or "", texts[1] or "", texts[2] or "")


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
        if np.array_equal(ours.sums.shape, sums.shape) and np.allclose(ours.sums, sums, rtol=_SAME, atol=0, equal_nan=True):
            verdict = np.where(ours.accepted, 1, 0 if deleted is not None else -1)
            return _prior(np.where(deleted, -1, verdict) if deleted is not None else verdict, ours.prob)
        return _recognised(ours, sums, notes)
    if listed is not None and not len(listed) and n_cells:
        notes.append("The variable ind_del is empty: it may only have been set up, and counts as no decision.")
    elif IND_DEL in file.names:
        if deleted is not None:
            return _prior(np.where(deleted, -1, 1))
        notes.append(
            f"The variable ind_del is no list or mask of these {n_cells} candidates (from before some were deleted?): it is ignored."
        )
    if source.place.layout is CIATAH:
        found = _valid(source, n_cells, notes)
        if found is not None:
            return _prior(found)
    keep = _vector(file, "keep") if not source.place.variable else None
    if keep is not None:
        kept = mask(keep, n_cells, base=0)
        if kept is not None:
            return _prior(np.where(kept, 1, -1))
        notes.append("The variable keep is no list of candidates counted from 0: it is ignored.")
    return Prior.undecided(n_cells)


def _vector(file: AnyFile, name: str) -> NDArray[Any] | None:
    try:
        node = file.variable(name)
        if node is not None and 0 in node.shape:
            return np.zeros(0)
        return _mat.vector(node)
    except FormatError:
        return None


def _prior(verdict: NDArray[Any], probability: NDArray[np.float64] | None = None) -> Prior:
    known = np.full(len(verdict), np.nan) if probability is None else probability
    with np.errstate(invalid="ignore"):
        known = np.where((known >= 0) & (known <= 1), known, np.nan)
    return Prior(verdict.astype(np.int8), known)


def _recognised(ours: Stored, sums: NDArray[np.float64], notes: list[str]) -> Prior:
    """Verdicts by the sum of weights where the columns changed: what has exactly one counterpart keeps its own."""
    verdict, probability = np.zeros(len(sums), np.int8), np.full(len(sums), np.nan)
    for number, total in enumerate(sums):
        same = np.flatnonzero(np.isclose(ours.sums, total, rtol=_SAME, atol=0))
        if len(same) == 1 and np.isclose(sums, total, rtol=_SAME, atol=0).sum() == 1:
            k = int(same[0])
            decided = ours.accepted[k] or ours.label[k] != 0 or np.isfinite(ours.prob[k])
            verdict[number] = (1 if ours.accepted[k] else -1) if decided else 0
            probability[number] = ours.prob[k]
    notes.append(
        f"The decisions in the file (curation, ind_del) were made for {len(ours.sums)} candidates in another order or number: "
        f"{int((verdict != 0).sum())} of the {len(sums)} here were recognised by their footprints. Do not delete by that ind_del."
    )
    return _prior(verdict, probability)


def _valid(source: Source, n_cells: int, notes: list[str]) -> NDArray[np.int8] | None:
    """``validCNMFE`` of ciatah, from this file or from its decisions files; scorers who disagree leave a candidate undecided."""
    votes = [_vector(source.file, "validCNMFE")]
    for path in sorted_files(source.file.path):
        try:
            with _mat.opened(path) as file:
                votes.append(_vector(file, "validCNMFE"))
        except ActsortError as error:
            notes.append(f"Left out: {error.what}")
            continue
        if votes[-1] is None or votes[-1].shape != (n_cells,):
            notes.append(f"{path.name} holds no validCNMFE of {n_cells} candidates: it is ignored.")
    given = [np.where(vote > 0, 1, -1) for vote in votes if vote is not None and vote.shape == (n_cells,) and vote.dtype.kind in "biuf"]
    if not given:
        return None
    total = np.sum(given, axis=0)
    return np.where(np.abs(total) == len(given), np.sign(total), 0).astype(np.int8)


def sorted_files(path: Path) -> list[Path]:
    """Files beside ``<name>cnmfeAnalysis.mat`` in which ciatah keeps decisions: ``<name>cnmfeAnalysisSorted_<scorer>.mat``."""
    start, marker, _ = path.name.partition("cnmfeAnalysis")
    return sorted(path.parent.glob(f"{glob.escape(start)}{marker}Sorted*.mat")) if marker else []
