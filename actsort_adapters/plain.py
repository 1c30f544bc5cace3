"""The plain layouts: footprints and traces of any home-made pipeline, in one ``.npz`` file or in a folder of CSV tables.

What they hold, and how to write one in five lines, is in docs/formats/plain.md.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from actsort_adapters import _plain_csv, _plain_npz
from actsort_adapters._plain_fields import build, decisions, describe, group_names
from actsort_core.atomic import commit, fsync_folder, staged
from actsort_core.errors import ChangedError, FormatError, UsageError, WriteError
from actsort_core.formats import FileEdit, Format, Sniff, WritePlan
from actsort_core.hookspecs import hookimpl
from actsort_core.model import Curation, Recording


@hookimpl
def actsort_register_formats() -> Sequence[Format]:
    """The plain layouts."""
    return [PlainFormat(), PlainCsvFormat()]


class PlainFormat:
    """One ``.npz`` file with ``traces`` and ``footprints`` (or ``pixels``, ``weights``, ``starts``).

    Attributes
    ----------
    name, description
        See :class:`actsort_core.formats.Format`.
    """

    name = "plain"
    description = "footprints and traces in one .npz file, for anything else; decisions go to its array accepted"

    def sniff(self, path: Path) -> Sniff:
        """A zip archive with the arrays ``traces`` and ``footprints`` or ``pixels``."""
        if not path.is_file():
            return Sniff(False, "it is no .npz file")
        try:
            with path.open("rb") as handle:
                if handle.read(2) != b"PK":
                    return Sniff(False, "it is no .npz file")
            found = _plain_npz.groups(path)
        except Exception as error:  # whatever a foreign or damaged archive makes zipfile raise
            return Sniff(False, f"it is no .npz file ({type(error).__name__})")
        return Sniff(
            bool(found), "it holds traces and footprints" if found else "it is an archive without the arrays traces and footprints"
        )

    def read(self, path: Path) -> tuple[Recording, ...]:
        """One recording, or several with a name before each array (``plane0/traces``), in the order of the file.

        Raises
        ------
        FormatError
            The file is damaged or hostile, an array has another shape than it should, or holds a pickle; names the array.
        """
        found = _plain_npz.read(path)
        if not found:
            raise FormatError(f"{path} holds no traces with footprints.", "See docs/formats/plain.md for the layout.")
        return tuple(build(path, group or fields.texts.get("name", "") or path.stem, self.name, fields) for group, fields in found.items())

    def plan(self, recordings: Sequence[Recording], curations: Sequence[Curation]) -> WritePlan:
        """One edit: the arrays ``accepted`` (bool), ``probability`` and, where somebody is undecided, ``decided`` of each recording."""
        path, groups = recordings[0].path, list(_plain_npz.groups(recordings[0].path))
        if len(groups) != len(recordings):
            raise ChangedError(f"{path} holds {len(groups)} recordings, the decisions are for {len(recordings)}.")
        changes = {}
        for group, recording, curation in zip(groups, recordings, curations, strict=True):
            _check(recording, curation)
            changes[group] = _plain_npz.verdicts(*decisions(recording, curation))
        n_cells, n_accepted = sum(r.n_cells for r in recordings), sum(int(c.accepted.sum()) for c in curations)
        what = f"accepted and probability of {n_cells} candidates: {n_accepted} accepted"
        return WritePlan(
            (FileEdit(path, what, lambda tmp: _plain_npz.rewrite(path, tmp, changes)),), notes=_undecided(recordings, curations)
        )

    def losses(self, recordings: Sequence[Recording], curations: Sequence[Curation | None]) -> tuple[str, ...]:
        """Nothing is lost."""
        return ()

    def create(self, recordings: Sequence[Recording], curations: Sequence[Curation | None], dst: Path) -> tuple[Path, ...]:
        """Write one ``.npz`` file; see ``CreatingFormat.create``. Arrays are not compressed, so that they are read from disk."""
        _check_new(recordings, curations, dst)
        groups = [""] if len(recordings) == 1 else group_names(recordings)
        told = [describe(recording, curation) for recording, curation in zip(recordings, curations, strict=True)]
        with staged(dst) as tmp:
            _plain_npz.write(tmp, dict(zip(groups, told, strict=True)))
            commit(tmp, dst)
        return (dst,)


class PlainCsvFormat:
    """A folder with ``footprints.csv`` and ``traces.csv``, or with such folders.

    Attributes
    ----------
    name, description
        See :class:`actsort_core.formats.Format`.
    """

    name = "plain_csv"
    description = "the same as a folder of CSV tables, for spreadsheets, R and MATLAB; decisions go to cells.csv"

    def sniff(self, path: Path) -> Sniff:
        """A folder with both tables, or with such folders."""
        try:
            found = _plain_csv.folders(path)
        except OSError as error:
            return Sniff(False, f"it cannot be listed ({error.strerror})")
        return Sniff(bool(found), "it holds footprints.csv and traces.csv" if found else "no folder with footprints.csv and traces.csv")

    def read(self, path: Path) -> tuple[Recording, ...]:
        """One recording, or one for each folder of tables, in natural order (``2_a`` before ``10_b``).

        Raises
        ------
        FormatError
            A table is damaged or disagrees with another; names file and line.
        """
        found = _plain_csv.folders(path)
        if not found:
            raise FormatError(f"{path} holds no footprints.csv with traces.csv.", "See docs/formats/plain.md for the layout.")
        out: list[Recording] = []
        for folder in found:
            fields = _plain_csv.read(folder)
            name = fields.texts.get("name", "") or folder.name
            taken = [recording.name for recording in out]
            out.append(build(folder, name if name not in taken else folder.name, self.name, fields))
        return tuple(out)

    def plan(self, recordings: Sequence[Recording], curations: Sequence[Curation]) -> WritePlan:
        """One ``cells.csv`` per recording: the columns ``accepted`` (1, 0 or nothing) and ``probability``."""
        edits = []
        for recording, curation in zip(recordings, curations, strict=True):
            _check(recording, curation)
            columns = _plain_csv.verdict_columns(*decisions(recording, curation))
            content = _plain_csv.changed_cells(recording.path, recording.n_cells, columns)
            what = f"the columns accepted and probability of {recording.n_cells} lines: {int(curation.accepted.sum())} accepted"
            edits.append(_edit(recording.path / _plain_csv.CELLS, what, content))
        return WritePlan(tuple(edits), notes=_undecided(recordings, curations))

    def losses(self, recordings: Sequence[Recording], curations: Sequence[Curation | None]) -> tuple[str, ...]:
        """Nothing is lost."""
        return ()

    def create(self, recordings: Sequence[Recording], curations: Sequence[Curation | None], dst: Path) -> tuple[Path, ...]:
        """Write a folder of tables, one folder in it for each of several recordings; see ``CreatingFormat.create``.

        Numbers are written with as many digits as make them read back the same. All traces of a recording are in memory at a time.
        """
        _check_new(recordings, curations, dst)
        try:
            tmp = Path(tempfile.mkdtemp(dir=dst.parent, prefix=f".{dst.name}.", suffix=".tmp"))
        except OSError as error:
            raise WriteError(
                f"Cannot write into {dst.parent} ({error.strerror}).", "Nothing was changed. Check its permissions."
            ) from error
        try:
            names = group_names(recordings)
            for number, (recording, curation) in enumerate(zip(recordings, curations, strict=True)):
                folder = tmp if len(recordings) == 1 else tmp / f"{number}_{names[number]}"
                folder.mkdir(exist_ok=True)
                _plain_csv.write(folder, describe(recording, curation))
            files = sorted(path.relative_to(tmp) for path in tmp.rglob("*.csv"))
            umask = os.umask(0)
            os.umask(umask)
            tmp.chmod(0o777 & ~umask)  # mkdtemp makes folders that only their owner can open
            os.replace(tmp, dst)
            fsync_folder(dst.parent)
        except OSError as error:
            raise WriteError(f"Writing {dst} failed ({error}).", "Nothing was changed. Is the disk full?") from error
        finally:
            shutil.rmtree(tmp, ignore_errors=True)
        return tuple(dst / file for file in files)


def _edit(path: Path, what: str, content: bytes) -> FileEdit:
    def stage(tmp: Path) -> None:
        tmp.write_bytes(content)

    return FileEdit(path, what, stage)


def _check(recording: Recording, curation: Curation) -> None:
    if curation.n_cells != recording.n_cells:
        raise ChangedError(f"{recording.path} has {recording.n_cells} candidates, the decisions are for {curation.n_cells}.")


def _check_new(recordings: Sequence[Recording], curations: Sequence[Curation | None], dst: Path) -> None:
    if dst.exists():
        raise UsageError(f"{dst} exists already.", "Choose a new name: nothing is ever written over a result.")
    for recording, curation in zip(recordings, curations, strict=True):
        if curation is not None:
            _check(recording, curation)
    try:
        dst.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f"The folder {dst.parent} cannot be made ({error.strerror}).", "Choose another place.") from error


def _undecided(recordings: Sequence[Recording], curations: Sequence[Curation]) -> tuple[str, ...]:
    counts = [(r.name, int(np.sum(c.undecided & ~c.accepted))) for r, c in zip(recordings, curations, strict=True)]
    return tuple(f"{name}: {count} undecided candidates are left undecided." for name, count in counts if count)
