"""How decisions go into an EXTRACT file: ``labels`` and ``user_labels`` where cell_check keeps them, and ``curation`` beside."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from actsort_adapters import _mat, _mat5, _mat5_edit, _mat_fields, _mat_stack
from actsort_adapters._extract_read import FINAL, USER, Place, Source, only, said
from actsort_adapters._mat_ciatah import EXTRACT_FILES, stale
from actsort_adapters._mat_curation import AnyFile, Stored, beside, decided, signature, stored, stored_beside
from actsort_core.errors import ChangedError
from actsort_core.formats import FileEdit, WritePlan
from actsort_core.model import Curation, Recording


@dataclass(frozen=True, eq=False)
class Decisions:
    """What will be in the file: both ``(n_cells,)``, in cell_check's codes, and our variable."""

    final: NDArray[np.float64]
    user: NDArray[np.float64]
    curation: Stored

    def fields(self) -> dict[str, NDArray[np.float64]]:
        """As rows, double, as cell_check saves them."""
        return {USER: self.user.reshape(1, -1), FINAL: self.final.reshape(1, -1)}


def merged(theirs: NDArray[np.float64], ours: NDArray[np.int8], before: Stored | None) -> NDArray[np.float64]:
    """Labels of persons as they will be in the host's place: ours, and where we have none those given there.

    What we wrote there ourselves (`before`) and was not changed since is ours to take back.
    """
    earlier = before.label if before is not None and len(before.label) == len(ours) else np.zeros(len(ours))
    kept = np.where((theirs != 0) & (theirs == earlier), 0.0, theirs)
    return np.where(ours != 0, ours, kept)


def make_plan(recording: Recording, curation: Curation) -> WritePlan:
    """See ``ExtractFormat.plan``."""
    path = recording.path
    with _mat.opened(path) as file:
        other = beside(file)
        if isinstance(file, _mat5.Mat5File) and other is None:
            _mat5_edit.check_editable(file)
        place = only(file)
        source = Source(file, place)
        _, _, sums = _mat_stack.footprints(file, source.get(place.footprints), source.image_shape(), [])
        if not len(sums) == curation.n_cells == recording.n_cells:
            raise ChangedError(f"{path} holds {len(sums)} candidates, the decisions are about {curation.n_cells}.", "Open the file again.")
        before = stored_beside(other) if other else stored(file)
        new = decided(curation, sums, before)
        theirs = said(source, len(sums))
        if other is not None and other.is_file():
            with _mat.opened(other) as decisions:
                theirs = _row(decisions, len(sums))
        final = np.where(curation.undecided, 0.0, np.where(curation.accepted, 1.0, -1.0))
        decisions_ = Decisions(final, merged(theirs, new.label, before), new)
        notes = _notes(curation, decisions_, place, other)
    where = f"{place.variable}." if place.variable and not other else ""
    what = f"{where}labels ({int((final > 0).sum())} cells, {int((final < 0).sum())} not), {where}user_labels and the variable curation"
    mark = signature(path)
    edit = FileEdit(other or path, what, lambda tmp: stage(path, tmp, decisions_, mark, alone=other is not None))
    return WritePlan((edit,), stale(path, EXTRACT_FILES), notes)


def _row(file: AnyFile, n_cells: int) -> NDArray[np.float64]:
    found = _mat_stack.row(file.variable(USER), n_cells)
    return np.zeros(n_cells) if found is None else np.nan_to_num(found)


def _notes(curation: Curation, new: Decisions, place: Place, other: Path | None) -> tuple[str, ...]:
    prefix = f"{place.variable}." if place.variable else ""
    dimension = f"{prefix}{place.footprints}(:,:,keep), {prefix}{place.traces}(:,keep)"
    notes = [f"In MATLAB, the cells are: keep = {'' if other else prefix}labels == 1; {dimension}"]
    kept = int(((new.user != 0) & (new.curation.label == 0)).sum())
    if kept:
        notes.append(f"{kept} labels given in EXTRACT's cell_check stay in user_labels; labels holds the decisions of this session.")
    if undecided := int(curation.undecided.sum()):
        notes.append(f"{undecided} undecided candidates are 0 in labels.")
    if other:
        notes.append(f"The file cannot be added to: the decisions go into {other.name} beside it.")
    return tuple(notes)


def stage(path: Path, tmp: Path, new: Decisions, mark: tuple[int, int, int], alone: bool = False) -> None:
    """Make the new file at `tmp` and check that it holds the decisions and, unless they are `alone` in it, what `path` holds."""
    with _mat.opened(path) as before:
        if signature(path) != mark:
            raise ChangedError(f"{path} was changed since the decisions were planned.", "Nothing was written. Try again.")
        place = only(before)
        _mat_fields.stage(None if alone else before, tmp, "" if alone else place.variable, new.fields(), new.curation)
