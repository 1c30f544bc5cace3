"""How decisions go into a CNMF-E file: ``ind_del`` and ``curation`` beside the results, and proof that nothing else differs."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actsort_adapters import _hdf5, _mat, _mat5, _mat5_edit, _mat73
from actsort_adapters._cnmfe_layout import CIATAH, CNMFE, MINISCOPE, AnyFile, Place, Source, only
from actsort_adapters._cnmfe_prior import IND_DEL
from actsort_adapters._cnmfe_read import footprints_of
from actsort_adapters._mat_ciatah import CNMFE_FILES, sorted_files
from actsort_adapters._mat_curation import CURATION, Stored, beside, decided, signature, stored, stored_beside
from actsort_core.errors import ActsortError, ChangedError, WriteError
from actsort_core.formats import FileEdit, WritePlan
from actsort_core.model import Curation, Recording

_EDITED = frozenset({IND_DEL, CURATION})


@dataclass(frozen=True, eq=False)
class Decisions:
    """What will be in the file.

    Attributes
    ----------
    ind_del
        ``(n_cells,)`` bool: the final decision is "not a cell". Undecided candidates are not in it.
    curation
        Everything else.
    """

    ind_del: NDArray[np.bool_]
    curation: Stored

    def variables(self) -> dict[str, Any]:
        """By name, in MATLAB's shapes."""
        return {IND_DEL: self.ind_del.reshape(1, -1), CURATION: self.curation.document()}


def decisions(curation: Curation, sums: NDArray[np.float64], before: Stored | None) -> Decisions:
    """Decisions as CNMF-E understands them; where nothing changes, the date does not either."""
    return Decisions(~np.asarray(curation.accepted, bool) & ~curation.undecided, decided(curation, sums, before))


def make_plan(recording: Recording, curation: Curation) -> WritePlan:
    """See ``CnmfeFormat.plan``."""
    path = recording.path
    with _mat.opened(path) as file:
        other = beside(file)
        if isinstance(file, _mat5.Mat5File) and other is None:
            _mat5_edit.check_editable(file)
        place = only(file)
        source = Source(file, place)
        _, _, sums = footprints_of(source, [])
        if not len(sums) == curation.n_cells == recording.n_cells:
            raise ChangedError(f"{path} holds {len(sums)} candidates, the decisions are about {curation.n_cells}.", "Open the file again.")
        before = stored_beside(other) if other else stored(file)
        new = decisions(curation, sums, before)
        notes = _notes(file, source, curation, before)
    mark = signature(path)
    what = f"the variables ind_del ({int(new.ind_del.sum())} of {curation.n_cells} to delete) and curation"
    edit = FileEdit(other or path, what, lambda tmp: stage(path, tmp, new, mark, alone=other is not None))
    return WritePlan((edit,), _stale(path, place), notes)


def stage(path: Path, tmp: Path, new: Decisions, mark: tuple[int, int, int], alone: bool = False) -> None:
    """Make the new file at `tmp` and check that it holds the decisions and, unless they are `alone` in it, what `path` holds."""
    with _mat.opened(path) as before:
        if signature(path) != mark:
            raise ChangedError(f"{path} was changed since the decisions were planned.", "Nothing was written. Try again.")
        try:
            if alone:
                wrong = _write_alone(tmp, new)
            else:
                wrong = _edit5(before, tmp, new) if isinstance(before, _mat5.Mat5File) else _edit73(before, tmp, new)
        except ActsortError:
            raise
        except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
            raise WriteError(f"Preparing the new {path} failed ({error}).", "Nothing was changed. Is the disk full?") from error
    if wrong:
        raise WriteError(f"The edited copy of {path} differs from it in {wrong}.", "Nothing was changed. Please report this.")


def _write_alone(tmp: Path, new: Decisions) -> str:
    tmp.write_bytes(_mat5_edit.new_file(new.variables()))
    with _mat.opened(tmp) as after:
        return _unread(after, new)


def _edit5(before: _mat5.Mat5File, tmp: Path, new: Decisions) -> str:
    added = _mat5_edit.encode(new.variables(), any(e.compressed for e in before.elements))
    _mat5_edit.rewrite(before, tmp, added, without=_EDITED)
    with _mat.opened(tmp) as after:
        assert isinstance(after, _mat5.Mat5File)
        return _mat5_edit.first_difference(before, after, _EDITED) or _unread(after, new)


def _edit73(before: _mat73.Mat73File, tmp: Path, new: Decisions) -> str:
    import h5py

    shutil.copyfile(before.path, tmp)
    with h5py.File(tmp, "r+") as copy:
        for name, value in new.variables().items():
            _mat73.put(copy["/"], name, value)
    with before.path.open("rb") as old, tmp.open("rb") as edited:
        if old.read(512) != edited.read(512):
            return "MATLAB's header"
    with _mat.opened(tmp) as after:
        assert isinstance(after, _mat73.Mat73File)
        return _hdf5.first_difference(before.file, after.file, {f"/{name}" for name in _EDITED}) or _unread(after, new)


def _unread(after: AnyFile, new: Decisions) -> str:
    """Which variable of ours does not read as meant, ``""`` when both do."""
    found = after.variable(IND_DEL)
    if found is None or found.kind != "logical" or not np.array_equal(found.array(), new.ind_del.reshape(1, -1)):
        return IND_DEL
    return "" if new.curation.same(stored(after)) else CURATION


# What the person should know


def _notes(file: AnyFile, source: Source, curation: Curation, before: Stored | None) -> tuple[str, ...]:
    place = source.place
    notes = [f"In MATLAB, next: {next_line(source)}"]
    if (other := beside(file)) and isinstance(file, _mat5.Mat5File):
        notes.append(f"{_mat5_edit.closed(file)} The decisions go into {other.name} beside it.")
    elif place.layout is CNMFE:
        notes.append(
            "A session of MATLAB that has this file loaded does not see the change: load it again. save_workspace writes a new file "
            "without ind_del and curation."
        )
    if undecided := int(curation.undecided.sum()):
        notes.append(f"{undecided} undecided candidates are not in ind_del: they would be kept.")
    if before is None and not other:
        theirs = [name for name in (IND_DEL, CURATION) if name in file.names]
        if theirs:
            notes.append(f"The file has {' and '.join(theirs)} of its own, replaced by ours (the backup keeps it; actsort restore).")
    if not place.variable and "keep" in file.names:
        notes.append("The variable keep (counted from 0) stays as it is in the file, with the decisions from before.")
    return tuple(notes)


def next_line(source: Source) -> str:
    """What to type in MATLAB to act on ``ind_del``."""
    place, layout = source.place, source.place.layout
    name = source.file.path.name.replace("'", "''")
    also = f"load('{other.name.replace(chr(39), chr(39) * 2)}'); " if (other := beside(source.file)) else ""
    load = f"load('{name}'); {also}"
    if place.opaque:
        return f"{load}{place.variable}.delete(ind_del);"
    # Not struct2neuron: it stops at the first field that Sources2D lacks, struct2obj leaves that one out.
    if layout is CNMFE and place.variable:
        first = "results = neuron; " if place.variable == "neuron" else ""
        struct = "results" if first else place.variable
        return f"{load}{first}neuron = Sources2D(); neuron.struct2obj({struct}); neuron.delete(ind_del);"
    if layout is CNMFE and source.own("options") is not None:
        deleted = "ind_del" if also else "results.ind_del"
        return f"results = load('{name}'); {also}neuron = Sources2D(); neuron.struct2obj(results); neuron.delete({deleted});"
    if not place.variable and "keep" in source.file.names:
        return f"{load}keep = find(~ind_del) - 1;   % cnmfe-reviewer counts from 0"
    prefix = f"{place.variable}." if place.variable else ""
    stack = (node := source.own(layout.footprints)) is not None and (len(node.shape) == 3 or layout is not CNMFE)
    fields = [f"{prefix}{layout.footprints}({':,:' if stack else ':'},ind_del) = [];"]
    for field in (layout.raw, layout.denoised, layout.spikes):
        if field and source.own(field) is not None:
            fields.append(f"{prefix}{field}({':,ind_del' if layout.cells else 'ind_del,:'}) = [];")
    if layout is MINISCOPE:
        fields.append(f"{prefix}numNeurons = nnz(~ind_del);")
    if layout is CIATAH:
        fields.insert(0, "validCNMFE = ~ind_del;")
    return load + " ".join(fields)


def _stale(path: Path, place: Place) -> tuple[tuple[Path, str], ...]:
    """Files beside `path` that keep the decisions from before, each with the remedy."""
    if place.layout is CIATAH:
        return tuple((found, "it holds the decisions from before: validCNMFE = ~ind_del") for found in sorted_files(path, CNMFE_FILES))
    filtered = path.with_name(f"{path.stem}_automl.mat")
    return ((filtered, "it is a copy without the candidates rejected before: make it anew"),) if os.path.lexists(filtered) else ()
