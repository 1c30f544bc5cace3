"""Setting fields of one struct of a MATLAB file, and the variable ``curation`` beside it; proof that nothing else differs."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actsort_adapters import _hdf5, _mat, _mat5, _mat5_edit, _mat73
from actsort_adapters._mat_curation import CURATION, AnyFile, Stored, stored
from actsort_core.errors import ActsortError, WriteError

Fields = Mapping[str, NDArray[Any]]


def stage(before: AnyFile | None, tmp: Path, variable: str, fields: Fields, curation: Stored) -> None:
    """Make the new content of a file at `tmp`.

    Parameters
    ----------
    before
        The file as it is; None for a new one with nothing else in it.
    tmp
        Where to write.
    variable
        The struct, made where it is missing; ``""`` where the fields are variables of their own.
    fields
        Arrays in MATLAB's shape by name.
    curation
        Our variable.

    Raises
    ------
    WriteError
        Something else would differ, or the disk is full; nothing but `tmp` was touched.
    """
    ours: dict[str, Any] = {CURATION: curation.document()}
    try:
        if before is None:
            tmp.write_bytes(_mat5_edit.new_file({**({variable: fields} if variable else fields), **ours}))
            wrong = _unread(tmp, variable, fields, curation)
        elif isinstance(before, _mat5.Mat5File):
            wrong = _edit5(before, tmp, variable, fields, curation)
        else:
            wrong = _edit73(before, tmp, variable, fields, curation)
    except ActsortError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise WriteError(f"Preparing the new content failed ({error}).", "Nothing was changed. Is the disk full?") from error
    if wrong:
        name = before.path if before is not None else tmp
        raise WriteError(f"The edited copy of {name} differs from it in {wrong}.", "Nothing was changed. Please report this.")


def _edit5(before: _mat5.Mat5File, tmp: Path, variable: str, fields: Fields, curation: Stored) -> str:
    compressed = any(e.compressed for e in before.elements)
    ours: dict[str, Any] = {CURATION: curation.document()}
    whole, element = (before.variable(variable), before.element(variable)) if variable else (None, None)
    if whole is None or element is None or not whole.fields():  # variables of their own, or a struct that is not there yet
        new = {**({variable: fields} if variable else fields), **ours}
        edited = frozenset(new)
        _mat5_edit.rewrite(before, tmp, _mat5_edit.encode(new, compressed), without=edited)
    else:
        edited = frozenset({CURATION, variable})
        swap = {variable: _mat5_edit.as_variable(_mat5_edit.with_more_fields(whole, fields), element.compressed)}
        _mat5_edit.rewrite(before, tmp, _mat5_edit.encode(ours, compressed), without=frozenset({CURATION}), swap=swap)
    with _mat.opened(tmp) as after:
        assert isinstance(after, _mat5.Mat5File)
        wrong = _mat5_edit.first_difference(before, after, edited)
        made = after.variable(variable) if variable else None
        if not wrong and whole is not None and made is not None and whole.fields():
            wrong = _mat5_edit.first_field_difference(whole, made, frozenset(fields))
    return wrong or _unread(tmp, variable, fields, curation)


def _edit73(before: _mat73.Mat73File, tmp: Path, variable: str, fields: Fields, curation: Stored) -> str:
    import h5py

    top = f"/{variable}" if variable else ""
    there = not variable or bool(head.fields() if (head := before.head(variable)) is not None else ())
    shutil.copyfile(before.path, tmp)
    with h5py.File(tmp, "r+") as copy:
        if there:
            for name, value in fields.items():
                _mat73.put_field(copy[top or "/"], name, value)
        else:
            _mat73.put(copy["/"], variable, fields)
        _mat73.put(copy["/"], CURATION, curation.document())
    with before.path.open("rb") as old, tmp.open("rb") as edited:
        if old.read(512) != edited.read(512):
            return "MATLAB's header"
    ignored = {f"{top}/{name}" for name in fields} | {f"{top}@MATLAB_fields"} if there else {top}
    with _mat.opened(tmp) as after:
        assert isinstance(after, _mat73.Mat73File)
        wrong = _hdf5.first_difference(before.file, after.file, ignored | {f"/{CURATION}"})
    return wrong or _unread(tmp, variable, fields, curation)


def _unread(tmp: Path, variable: str, fields: Fields, curation: Stored) -> str:
    """What does not read as meant, ``""`` when everything does."""
    with _mat.opened(tmp) as after:
        whole: Any = after.variable(variable) if variable else None
        for name, value in fields.items():
            node: Any = after.variable(name) if not variable else whole.field(name) if whole is not None else None
            if node is None or node.kind != "double" or not np.array_equal(node.array(), value):
                return name
        return "" if curation.same(stored(after)) else CURATION
