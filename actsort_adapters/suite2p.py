"""Suite2p results: plane folders of 0.x and 1.x, read without Suite2p and written back to ``iscell.npy``.

What is known about these files, and how, is in docs/formats/suite2p.md. The planes are the truth; ``combined/`` is a copy that
Suite2p's GUI makes from them each time it opens the folder above.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from actsort_adapters import _suite2p_copies, _suite2p_create
from actsort_adapters._npy import write_plain
from actsort_adapters._suite2p_copies import Table, plane_folders
from actsort_adapters._suite2p_plane import read_plane
from actsort_core.errors import ChangedError, FormatError, MissingFileError
from actsort_core.formats import FileEdit, Format, Sniff, WritePlan
from actsort_core.hookspecs import hookimpl
from actsort_core.model import Curation, Recording

_PLANE_FILES = (
    *("stat.npy", "iscell.npy", "F.npy", "Fneu.npy", "spks.npy", "redcell.npy", "data.bin"),
    *("ops.npy", "db.npy", "settings.npy", "reg_outputs.npy", "detect_outputs.npy"),
)
OPEN_GUI = (
    "Suite2p's GUI reads iscell.npy when it opens a plane: a window that is open already shows the old verdicts, and its next "
    "click writes them back."
)


@hookimpl
def actsort_register_formats() -> Sequence[Format]:
    """Suite2p."""
    return [Suite2pFormat()]


class Suite2pFormat:
    """Suite2p plane folders, of 0.x (``ops.npy``) and 1.x (``db.npy``, ``settings.npy``...).

    Attributes
    ----------
    name, description
        See :class:`actsort_core.formats.Format`.
    """

    name = "suite2p"
    description = "Suite2p plane folders (0.x and 1.x); decisions go to iscell.npy"

    def sniff(self, path: Path) -> Sniff:
        """A folder with ``stat.npy``, one with such folders named ``plane*`` or ``suite2p``, or a file in the former."""
        if path.name == "iscell.npy" and path.parent.name == "combined":  # a list of verdicts; `actsort import-labels` takes it as one
            return Sniff(False, f"it belongs to Suite2p's tiled copy of the planes: open {path.parent.parent} instead")
        try:
            found = _find_planes(path)
        except OSError as error:
            return Sniff(False, f"it cannot be listed ({error.strerror})")
        if found is None:
            return Sniff(False, "it is neither a plane folder (stat.npy, F.npy) nor a folder that holds plane folders")
        return Sniff(True, f"it holds {len(found)} Suite2p plane folder(s)")

    def read(self, path: Path) -> tuple[Recording, ...]:
        """Read one plane, or all planes of a ``suite2p`` folder in natural order (plane2 before plane10).

        Parameters
        ----------
        path
            A plane folder, a file in it, the folder that holds the planes, or the one that holds ``suite2p``.

        Raises
        ------
        MissingFileError
            ``stat.npy``, ``F.npy`` or the files that say how large the field of view is are missing.
        FormatError
            A file is damaged, hostile or disagrees with another; names the file and what it holds.
        """
        planes = _find_planes(Path(os.path.abspath(path)))  # noqa: PTH100 - "." has no name; a linked plane stays where it is
        if planes is None:
            raise FormatError(f"{path} is not a Suite2p result.", "Pass a plane folder or the suite2p folder.")
        if planes[0].name == "combined":
            raise FormatError(
                f"{planes[0]} is Suite2p's tiled copy of the planes, which Suite2p itself overwrites.",
                f"Open {planes[0].parent} instead: the planes are the truth.",
            )
        # What Suite2p did not get to (no ROI was found and the run ended, it was killed, detection is off) costs no other plane.
        missing = {plane: [name for name in ("stat.npy", "F.npy") if not (plane / name).is_file()] for plane in planes}
        skipped = [plane for plane in planes if len(planes) > 1 and missing[plane]]
        read = tuple(read_plane(plane) for plane in planes if plane not in skipped)
        if not read:
            told = f"No plane folder in {planes[0].parent} has a stat.npy and an F.npy."
            raise MissingFileError(told, "Run Suite2p's ROI detection and extraction first.")
        notes = [f"{plane.name} has no {' and no '.join(missing[plane])} and was skipped." for plane in skipped]
        if all(plane.name.startswith("plane") for plane in planes):  # else a plane on its own, of which Suite2p knows nothing here
            notes += _suite2p_copies.combined_notes(planes[0].parent, planes)
        return (_with_notes(read[0], notes), *read[1:])

    def plan(self, recordings: Sequence[Recording], curations: Sequence[Curation]) -> WritePlan:
        """One ``iscell.npy`` per plane and that of the combined view: float64, ``(n_cells, 2)``, C order, not pickled.

        Column 0 is 1 for accepted candidates, else 0; column 1 is :meth:`~actsort_core.model.Curation.host_probability`, so that
        Suite2p's own ``probability > 0.5`` finds the same cells. ``Fall.mat`` and NWB files that keep the old verdicts are reported.

        Raises
        ------
        ChangedError
            A curation has another number of candidates than its recording.
        """
        return _plan(recordings, curations, exports=False)

    def plan_exports(self, recordings: Sequence[Recording], curations: Sequence[Curation]) -> WritePlan:
        """As `plan`; ``iscell`` in ``Fall.mat`` and NWB files that Suite2p exported is rewritten, too, and nothing else in them."""
        return _plan(recordings, curations, exports=True)

    def losses(self, recordings: Sequence[Recording], curations: Sequence[Curation | None]) -> tuple[str, ...]:
        """What `create` could not carry over, a sentence each: denoised traces, an unknown frame rate, undecided candidates...

        Raises
        ------
        FormatError
            A recording is a volume.
        ChangedError
            A curation has another number of candidates than its recording.
        """
        return _suite2p_create.losses(recordings, curations)

    def create(self, recordings: Sequence[Recording], curations: Sequence[Curation | None], dst: Path) -> tuple[Path, ...]:
        """Write recordings that came from elsewhere as Suite2p planes that both generations of its GUI open.

        Parameters
        ----------
        recordings
            Two-dimensional fields of view. Their traces become ``F``; ``Fneu`` is zero, so that ``F - neucoeff * Fneu`` is the trace
            (Suite2p's own keep both).
        curations
            One each; None takes the prior (undecided candidates become cells, as Suite2p shows them).
        dst
            The new folder: the plane itself for one recording, the parent of ``plane0``, ``plane1``... for several.

        Returns
        -------
        tuple of Path
            The files written.

        Raises
        ------
        UsageError
            `dst` exists.
        FormatError, ChangedError
            As `losses`.
        WriteError
            Disk full, or no permission; nothing is at `dst`.
        """
        return _suite2p_create.create(recordings, curations, dst)


# Finding


def _resolve(path: Path) -> Path:
    """The folder that a path stands for: Suite2p's GUI opens a plane by its stat.npy."""
    return path.parent if path.name in _PLANE_FILES and path.is_file() else path


def _find_planes(path: Path) -> list[Path] | None:
    """The plane folders of a path in natural order, also unfinished ones; None where there is nothing of Suite2p."""
    folder = _resolve(path)
    if not folder.is_dir():
        return None
    # after "Load folder", combined/ may hold nothing but iscell.npy; `read` says to open the folder above
    if (folder / "stat.npy").is_file() or (folder.name == "combined" and (folder / "iscell.npy").is_file()):
        return [folder]
    planes = plane_folders(folder)
    if any(_is_plane(plane) for plane in planes):
        return planes
    if _is_plane(folder):
        return [folder]
    return _find_planes(folder / "suite2p") if (folder / "suite2p").is_dir() else None


def _is_plane(folder: Path) -> bool:
    return sum((folder / name).is_file() for name in _PLANE_FILES) >= 2


def _with_notes(recording: Recording, notes: Sequence[str]) -> Recording:
    return replace(recording, notes=(*recording.notes, *notes)) if notes else recording


# Writing


def _plan(recordings: Sequence[Recording], curations: Sequence[Curation], exports: bool) -> WritePlan:
    edits: list[FileEdit] = []
    notes = [OPEN_GUI]
    tables: dict[Path, Table] = {}
    for recording, curation in zip(recordings, curations, strict=True):
        if curation.n_cells != recording.n_cells:
            raise ChangedError(f"{recording.path} has {recording.n_cells} ROIs, the decisions are for {curation.n_cells}.")
        table = np.column_stack([curation.accepted.astype(np.float64), curation.host_probability()])
        tables[recording.path] = table
        edits.append(_iscell_edit(recording, curation, table))
        undecided = int((curation.undecided & ~curation.accepted).sum())
        if undecided:
            notes.append(f"{recording.name}: {undecided} undecided candidates are written as not cells.")
        for merged, parts in recording.info.get("merged", ()):
            twice = [part for part in parts if curation.accepted[part]]
            if twice and curation.accepted[merged]:
                names = ", ".join(map(str, twice))
                notes.append(f"{recording.name}: ROI {merged} was merged from others, of which {names} are accepted, too: counted twice.")
    copies = _suite2p_copies.plan_copies(recordings[0].path.parent, tables, exports)
    return WritePlan((*edits, *copies.edits), copies.stale, (*notes, *copies.notes))


def _iscell_edit(recording: Recording, curation: Curation, table: Table) -> FileEdit:
    path = recording.path / "iscell.npy"

    def stage(tmp: Path) -> None:
        with tmp.open("wb") as handle:
            write_plain(table, handle)

    n_cells, n_accepted = recording.n_cells, int(curation.accepted.sum())
    shown = recording.prior.verdict >= 0  # a missing file means cells to Suite2p
    added, removed = int((curation.accepted & ~shown).sum()), int((~curation.accepted & shown).sum())
    what = f"column 0 (cell or not) and 1 (probability) of {n_cells} rows: {n_accepted} cells, {n_cells - n_accepted} not cells"
    change = f"{added} become cells, {removed} become not cells" if path.exists() else "new file"
    return FileEdit(path, f"{what}; {change}", stage)
