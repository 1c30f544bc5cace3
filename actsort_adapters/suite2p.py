"""Suite2p results: plane folders of 0.x and 1.x, read without Suite2p and written back to ``iscell.npy``.

What is known about these files, and how, is in docs/formats/suite2p.md. The planes are the truth; ``combined/`` is a copy that
Suite2p's GUI makes from them each time it opens the folder above.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from actsort_adapters import _suite2p_create
from actsort_adapters._npy import write_plain
from actsort_adapters._suite2p_plane import read_plane, read_prior
from actsort_core.errors import ActsortError, ChangedError, FormatError, MissingFileError
from actsort_core.formats import FileEdit, Format, Sniff, WritePlan
from actsort_core.hookspecs import hookimpl
from actsort_core.model import Curation, Recording

_PLANE_FILES = (
    *("stat.npy", "iscell.npy", "F.npy", "Fneu.npy", "spks.npy", "redcell.npy", "data.bin"),
    *("ops.npy", "db.npy", "settings.npy", "reg_outputs.npy", "detect_outputs.npy"),
)
_OPEN_GUI = (
    "Suite2p's GUI reads iscell.npy when it opens a plane: a window that is open already shows the old verdicts, and its next "
    "click writes them back."
)
_REBUILD = "open the suite2p folder in Suite2p's GUI ('Load folder with planeX folders') to rebuild it"


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
        planes = _find_planes(path)
        if planes is None:
            raise FormatError(f"{path} is not a Suite2p result.", "Pass a plane folder or the suite2p folder.")
        if planes[0].name == "combined":
            raise FormatError(
                f"{planes[0]} is Suite2p's tiled copy of the planes, which Suite2p itself overwrites.",
                f"Open {planes[0].parent} instead: the planes are the truth.",
            )
        skipped = [plane for plane in planes if len(planes) > 1 and not (plane / "stat.npy").is_file()]
        read = tuple(read_plane(plane) for plane in planes if plane not in skipped)
        if not read:
            raise MissingFileError(f"No plane folder in {planes[0].parent} has a stat.npy.", "Run Suite2p's ROI detection first.")
        notes = [f"{plane.name} has no stat.npy and was skipped." for plane in skipped]
        if _resolve(path) != planes[0]:  # the folder of the planes was opened, so all of them are known
            notes += _combined_notes(planes[0].parent / "combined", read)
        return (_with_notes(read[0], notes), *read[1:])

    def plan(self, recordings: Sequence[Recording], curations: Sequence[Curation]) -> WritePlan:
        """One ``iscell.npy`` per plane: float64, ``(n_cells, 2)``, C order, not pickled.

        Column 0 is 1 for accepted candidates, else 0; column 1 is :meth:`~actsort_core.model.Curation.host_probability`, so that
        Suite2p's own ``probability > 0.5`` finds the same cells.

        Raises
        ------
        ChangedError
            A curation has another number of candidates than its recording.
        """
        edits: list[FileEdit] = []
        notes = [_OPEN_GUI]
        stale: dict[Path, str] = {}
        for recording, curation in zip(recordings, curations, strict=True):
            if curation.n_cells != recording.n_cells:
                raise ChangedError(f"{recording.path} has {recording.n_cells} ROIs, the decisions are for {curation.n_cells}.")
            edits.append(_iscell_edit(recording, curation))
            undecided = int((curation.undecided & ~curation.accepted).sum())
            if undecided:
                notes.append(f"{recording.name}: {undecided} undecided candidates are written as not cells.")
            stale.update(_stale(recording.path))
        return WritePlan(tuple(edits), tuple(stale.items()), tuple(notes))

    def create(self, recordings: Sequence[Recording], curations: Sequence[Curation | None], dst: Path) -> tuple[Path, ...]:
        """Write recordings that came from elsewhere as Suite2p planes that both generations of its GUI open.

        Parameters
        ----------
        recordings
            Two-dimensional fields of view. Their traces become ``F``; ``Fneu`` is zero, so that ``F - neucoeff * Fneu`` is the trace.
        curations
            One each; None takes the prior (undecided candidates become cells, as Suite2p shows them).
        dst
            The new folder: the plane itself for one recording, the parent of ``plane0``, ``plane1``... for several.

        Returns
        -------
        tuple of Path
            The files written.
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
    planes = [child for child in folder.iterdir() if child.name.startswith("plane") and child.is_dir()]  # Suite2p's own rule
    if any(_is_plane(plane) for plane in planes):
        return sorted(planes, key=lambda plane: _natural(plane.name))
    if _is_plane(folder):
        return [folder]
    return _find_planes(folder / "suite2p") if (folder / "suite2p").is_dir() else None


def _is_plane(folder: Path) -> bool:
    return sum((folder / name).is_file() for name in _PLANE_FILES) >= 2


def _natural(name: str) -> list[Any]:
    return [int(part) if part.isdigit() else part for part in re.split(r"([0-9]+)", name)]


# The combined view


def _combined_notes(combined: Path, recordings: Sequence[Recording]) -> list[str]:
    """Whether combined/iscell.npy says something else than the planes: clicks there never reach the planes."""
    path = combined / "iscell.npy"
    if not path.is_file():
        return []
    notes: list[str] = []
    try:
        verdict = read_prior(path, sum(recording.n_cells for recording in recordings), notes).verdict
    except ActsortError as error:
        return [f"combined/iscell.npy could not be compared with the planes and is not used. {error.what}"]
    planes = np.concatenate([recording.prior.verdict for recording in recordings])
    differing = int((verdict != planes).sum())
    if not differing:
        return []
    return [
        f"combined/iscell.npy differs from the planes in {differing} verdicts and is not used; clicks in Suite2p's combined view "
        "are not saved to the planes."
    ]


def _with_notes(recording: Recording, notes: Sequence[str]) -> Recording:
    return replace(recording, notes=(*recording.notes, *notes)) if notes else recording


# Writing


def _iscell_edit(recording: Recording, curation: Curation) -> FileEdit:
    path = recording.path / "iscell.npy"
    table = np.column_stack([curation.accepted.astype(np.float64), curation.host_probability()])

    def stage(tmp: Path) -> None:
        with tmp.open("wb") as handle:
            write_plain(table, handle)

    n_cells, n_accepted = recording.n_cells, int(curation.accepted.sum())
    shown = recording.prior.verdict >= 0  # a missing file means cells to Suite2p
    added, removed = int((curation.accepted & ~shown).sum()), int((~curation.accepted & shown).sum())
    what = f"column 0 (cell or not) and 1 (probability) of {n_cells} rows: {n_accepted} cells, {n_cells - n_accepted} not cells"
    change = f"{added} become cells, {removed} become not cells" if path.exists() else "new file"
    return FileEdit(path, f"{what}; {change}", stage)


def _stale(plane: Path) -> dict[Path, str]:
    """Copies of the verdicts that Suite2p made from this plane and that keep the old ones."""
    above, out = plane.parent, {}
    if (plane / "Fall.mat").exists():
        out[plane / "Fall.mat"] = "it keeps the old iscell: open the plane in Suite2p's GUI and choose 'Save to mat' to refresh it"
    if (above / "combined" / "iscell.npy").exists():
        out[above / "combined" / "iscell.npy"] = f"it is Suite2p's copy of the planes: {_REBUILD}"
    for path in sorted(above.glob("*.nwb")):
        out[path] = "it keeps the old iscell: export it again, e.g. with suite2p.io.save_nwb(folder)"
    return out
