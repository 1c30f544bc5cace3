"""How decisions go back to the app: ``<name>_LABELS.mat`` beside the precomputed file, as its Save writes it and Load labels reads it."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from actsort_adapters import _mat, _mat5, _mat5_edit, _mat_fields, _mat_stack
from actsort_adapters._actsort_read import EXPERT, LABELS, MODEL, OVERALL, labels_path, only, said
from actsort_adapters._extract_write import merged
from actsort_adapters._mat_curation import AnyFile, Stored, decided, signature
from actsort_core.errors import ChangedError, FormatError
from actsort_core.formats import FileEdit, WritePlan
from actsort_core.model import Curation, Recording


def struct(expert: NDArray[np.float64], model: NDArray[np.float64], overall: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """The struct ``labels`` as createLabelsFile in CellSorter.mlapp makes it: three columns, double."""
    return {EXPERT: expert.reshape(-1, 1), MODEL: model.reshape(-1, 1), OVERALL: overall.reshape(-1, 1)}


def make_plan(recording: Recording, curation: Curation) -> WritePlan:
    """See ``ActsortMatlabFormat.plan``."""
    path, target = recording.path, labels_path(recording.path)
    notes: list[str] = []
    with _mat.opened(path) as file:
        _, _, sums = _mat_stack.footprints(file, _stack(file), recording.fov, [])
        if not len(sums) == curation.n_cells == recording.n_cells:
            raise ChangedError(f"{path} holds {len(sums)} candidates, the decisions are about {curation.n_cells}.", "Open the file again.")
        found = said(path, file, notes)
    n_cells = curation.n_cells
    there = found if found is not None and len(found.expert) == n_cells else None
    before = there.ours if there is not None else None
    new = decided(curation, sums, before)
    none = np.zeros(n_cells)
    expert = merged(there.expert if there is not None else none, new.label, before)
    overall = np.where(curation.undecided, 0.0, np.where(curation.accepted, 1.0, -1.0))
    model = _model(curation, overall, there.model if there is not None else none)
    if target.is_file():
        with _mat.opened(target) as old:
            if isinstance(old, _mat5.Mat5File):
                _mat5_edit.check_editable(old)
    notes.append(f"In ActSort's app: Load labels, {target.name}. It takes {EXPERT}, the labels of persons, and learns the rest anew.")
    if kept := int(((expert != 0) & (new.label == 0)).sum()):
        notes.append(f"{kept} labels given in ActSort's app stay in {EXPERT}; {OVERALL} holds the decisions of this session.")
    if undecided := int(curation.undecided.sum()):
        notes.append(f"{undecided} undecided candidates are 0 in {OVERALL}.")
    fields = struct(expert, model, overall)
    marks = [(p, signature(p) if p.exists() else None) for p in (path, target)]
    what = f"{LABELS}: {int((expert != 0).sum())} of persons, {int((overall > 0).sum())} cells of {n_cells}; and the variable curation"
    return WritePlan((FileEdit(target, what, lambda tmp: _stage(target, tmp, fields, new, marks)),), (), tuple(notes))


def _stack(file: AnyFile) -> object:
    whole = file.variable(only(file))
    node = whole.field("spatial_weights") if whole is not None else None
    if node is None:
        raise FormatError(f"{file.path} holds no spatial_weights.", "The file is damaged.")
    return node


def _model(curation: Curation, overall: NDArray[np.float64], before: NDArray[np.float64]) -> NDArray[np.float64]:
    """What a classifier says about every candidate, as the app has it beside the person's labels: ours where there is one."""
    with np.errstate(invalid="ignore"):
        ours = np.where(curation.probability > curation.threshold, 1.0, -1.0)
    known = np.isfinite(curation.probability) & np.isfinite(curation.threshold)
    return np.where(curation.origin == "model", overall, np.where(known, ours, before))


def _stage(
    target: Path,
    tmp: Path,
    fields: dict[str, NDArray[np.float64]],
    curation: Stored,
    marks: list[tuple[Path, tuple[int, int, int] | None]],
) -> None:
    for path, mark in marks:
        if (signature(path) if path.exists() else None) != mark:
            raise ChangedError(f"{path} was changed since the decisions were planned.", "Nothing was written. Try again.")
    with contextlib.ExitStack() as stack:
        before = stack.enter_context(_mat.opened(target)) if target.is_file() else None
        _mat_fields.stage(before, tmp, LABELS, fields, curation)
