"""What Suite2p made from the verdicts of planes: the combined view, ``Fall.mat`` and ``ophys.nwb``, and bringing them up to date.

Each holds the verdicts of one plane or of several, one after the other, as ``iscell`` (suite2p: ``io/save.py``, functions ``combined``
and ``save_mat``; ``io/nwb.py``, function ``save_nwb``; 0.14.6 and 1.1.0). A copy is only touched where it holds the same candidates in
the same order, which is seen at their fluorescence, and only its ``iscell`` changes.
"""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actsort_adapters import _hdf5, _mat, _mat5, _mat5_edit
from actsort_adapters._npy import open_plain, read_dict, write_plain
from actsort_core.errors import ActsortError, FormatError, WriteError
from actsort_core.formats import FileEdit, WritePlan

Table = NDArray[np.float64]  # (n_cells, 2): cell or not, probability; NaN where a plane has no iscell.npy

COMBINED, MAT, NWB = "combined", "Fall.mat", "NWB"
_SEGMENTATION = "processing/ophys/ImageSegmentation/PlaneSegmentation"
_REMEDY = {
    COMBINED: "open the suite2p folder in Suite2p's GUI ('Load folder with planeX folders') to rebuild it",
    MAT: "write with --update-exports, or open the plane in Suite2p's GUI and choose 'Save to mat'",
    NWB: "write with --update-exports, or export it again, e.g. with suite2p.io.save_nwb(folder)",
}


@dataclass(frozen=True)
class Copy:
    """A file with a copy of verdicts.

    Attributes
    ----------
    path
        The file.
    kind
        ``"combined"`` (an ``iscell.npy``), ``"Fall.mat"`` or ``"NWB"``.
    planes
        The plane folders whose candidates it holds, in its order.
    """

    path: Path
    kind: str
    planes: tuple[Path, ...]


def natural(name: str) -> list[Any]:
    """Key for sorting as ``natsort`` does: plane2 before plane10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"([0-9]+)", name)]


def plane_folders(above: Path) -> list[Path]:
    """The folders that Suite2p takes for planes (all whose name begins so), in its order."""
    found = [child for child in above.iterdir() if child.name.startswith("plane") and child.is_dir()]
    return sorted(found, key=lambda plane: natural(plane.name))


def in_combined(above: Path) -> tuple[Path, ...]:
    """The planes of the combined view: those with ROIs, without the flyback planes that 1.x leaves out by their number."""
    folders = plane_folders(above)
    try:
        flyback = read_dict(above / "db.npy").get("ignore_flyback")
    except ActsortError:
        flyback = None
    numbers = flyback.ravel().tolist() if isinstance(flyback, np.ndarray) else flyback if isinstance(flyback, (list, tuple)) else ()
    left_out = {int(number) for number in numbers if isinstance(number, (int, np.integer))}
    return tuple(plane for i, plane in enumerate(folders) if i not in left_out and (plane / "stat.npy").is_file())


def combined_notes(above: Path, opened: Sequence[Path]) -> list[str]:
    """Whether ``combined/iscell.npy`` says something else than the planes `opened`: clicks there never reach the planes."""
    path = above / "combined" / "iscell.npy"
    copy = Copy(path, COMBINED, in_combined(above))
    if not path.is_file() or not any(plane in copy.planes for plane in opened):
        return []
    try:
        held = read_table(path)
        tables = [read_table(plane / "iscell.npy") for plane in copy.planes]
        if len(held) != sum(map(len, tables)):
            raise FormatError(f"It holds {len(held)} ROIs, the planes hold {sum(map(len, tables))}.")
    except ActsortError as error:
        return [f"{path} could not be compared with the planes and is not used. {error.what}"]
    differing, start = [], 0
    for plane, table in zip(copy.planes, tables, strict=True):
        count = int(((held[start : start + len(table), 0] != 0) != (table[:, 0] != 0)).sum())
        start += len(table)
        if count and plane in opened:
            differing.append(f"{count} of {plane.name}")
    if not differing:
        return []
    return [
        f"{path} differs from the planes in these verdicts and is not used: {', '.join(differing)}. Suite2p does not save clicks in its "
        f"combined view to the planes. To take them as labels: actsort import-labels {above} {path}. Writing replaces them and keeps a "
        "backup."
    ]


def plan_copies(above: Path, tables: Mapping[Path, Table], exports: bool) -> WritePlan:
    """How the copies of some planes' verdicts change.

    Parameters
    ----------
    above
        The folder of the planes.
    tables
        What will be in ``iscell.npy`` of each plane that is written.
    exports
        Whether ``Fall.mat`` and NWB files are rewritten, too; else they are reported.
    """
    edits: list[FileEdit] = []
    stale: dict[Path, str] = {}
    notes: list[str] = []
    for copy in _copies(above, tables):
        try:
            table = _all_rows(copy, tables)
            held = _read(copy.kind, copy.path)
            if held.shape != table.shape:
                raise FormatError(f"it holds the verdicts of {len(held)} ROIs, the planes hold {len(table)}.")
            _check_same_rois(copy)
        except ActsortError as error:
            stale[copy.path] = f"it was not changed: {error.what} To have it made anew: {_made_anew(copy)}"
            continue
        if np.array_equal(held, table, equal_nan=True):
            continue
        if copy.kind != COMBINED and not exports:
            stale[copy.path] = f"it keeps the old iscell: {_REMEDY[copy.kind]}"
            continue
        edits.append(_edit(copy, table, tables))
        if copy.kind == COMBINED and (clicks := _clicks(copy, held)):
            notes.append(
                f"{copy.path} held {clicks} verdicts that the planes did not have (clicks in Suite2p's combined view?); the planes' "
                "replace them. What it held is kept in backups."
            )
    return WritePlan(tuple(edits), tuple(stale.items()), tuple(notes))


def _copies(above: Path, planes: Mapping[Path, Table]) -> list[Copy]:
    found = [Copy(plane / "Fall.mat", MAT, (plane,)) for plane in planes]
    if all(plane.name.startswith("plane") for plane in planes):  # else Suite2p knows nothing of them here
        together = in_combined(above)
        # 0.x and 1.x put all planes into the NWB file, flyback planes or not; they stop where one has no ROIs
        every = tuple(plane for plane in plane_folders(above) if (plane / "stat.npy").is_file())
        found += [Copy(above / "combined" / "iscell.npy", COMBINED, together), Copy(above / "combined" / "Fall.mat", MAT, together)]
        found += [Copy(path, NWB, every) for path in sorted(above.glob("*.nwb"))]
    return [copy for copy in found if copy.path.is_file() and any(plane in planes for plane in copy.planes)]


def _made_anew(copy: Copy) -> str:
    if copy.kind == COMBINED:
        return _REMEDY[COMBINED]
    return "'Save to mat' in Suite2p's GUI." if copy.kind == MAT else "export it again, e.g. with suite2p.io.save_nwb(folder)."


def _all_rows(copy: Copy, tables: Mapping[Path, Table]) -> Table:
    """What the copy should hold: the verdicts being written, and those on disk of planes that are not."""
    return np.concatenate([tables[plane] if plane in tables else read_table(plane / "iscell.npy") for plane in copy.planes])


def _clicks(copy: Copy, held: Table) -> int:
    """How many verdicts a combined view holds that its planes do not."""
    try:
        planes = _all_rows(copy, {})
    except ActsortError:
        return 0
    return int(((held[:, 0] != 0) != (planes[:, 0] != 0)).sum()) if planes.shape == held.shape else 0


def _edit(copy: Copy, table: Table, tables: Mapping[Path, Table]) -> FileEdit:
    def stage(tmp: Path) -> None:
        wanted = table
        if tmp.stat().st_size:  # another plane of this copy, opened on its own, is being written together with this one
            wanted, start = _read(copy.kind, tmp), 0
            for plane in copy.planes:
                rows = tables.get(plane)
                length = len(read_table(plane / "iscell.npy")) if rows is None else len(rows)
                if rows is not None:
                    wanted[start : start + length] = rows
                start += length
        _write(copy.kind, copy.path, tmp, wanted)
        if not np.array_equal(_read(copy.kind, tmp), wanted, equal_nan=True):
            raise WriteError(f"The edited copy of {copy.path} does not read as written.", "Nothing was changed. Please report this.")

    place = "iscell" if copy.kind != COMBINED else "column 0 and 1"
    return FileEdit(copy.path, f"{place} of {len(table)} rows, as in {', '.join(plane.name for plane in copy.planes)}", stage)


# The three kinds of file


def read_table(path: Path) -> Table:
    """Both columns of an ``iscell.npy``, ``(n_cells, 2)`` float64, as they are.

    Raises
    ------
    MissingFileError, FormatError
        It is missing, or not a plain array of two columns.
    """
    npy = open_plain(path)
    if len(npy.shape) != 2 or npy.shape[1] < 2:
        raise FormatError(f"{path} has shape {npy.shape} instead of two columns.")
    return np.array(npy.array()[:, :2], np.float64)


def _read(kind: str, path: Path) -> Table:
    if kind == COMBINED:
        return read_table(path)
    if kind == MAT:
        with _mat.opened(path) as file:
            node = _editable(file, path).variable("iscell")
            return _two_columns(None if node is None or node.kind not in ("double", "single") else node.array(), path)
    with _hdf5.opened(path) as h5:
        return _two_columns(_hdf5.array(h5, f"{_SEGMENTATION}/iscell"), path)


def _two_columns(found: Any, path: Path) -> Table:
    if found is None or found.ndim != 2 or found.shape[1] != 2:
        raise FormatError(f"{path} has no iscell of Suite2p's.")
    return np.array(found, np.float64)


def _editable(file: Any, path: Path) -> _mat5.Mat5File:
    if not isinstance(file, _mat5.Mat5File):
        raise FormatError(f"{path} was saved again by MATLAB as v7.3, and is left alone.")
    _mat5_edit.check_editable(file)
    return file


def _write(kind: str, path: Path, tmp: Path, table: Table) -> None:
    """Write `path` anew at `tmp` with another ``iscell``, everything else as it was (and compared)."""
    if kind == COMBINED:
        with tmp.open("wb") as handle:
            write_plain(table, handle)
    elif kind == MAT:
        with _mat.opened(path) as opened:
            before = _editable(opened, path)
            old = before.element("iscell")
            new = _mat5_edit.encode({"iscell": table}, old is not None and old.compressed)
            _mat5_edit.rewrite(before, tmp, swap={"iscell": new})
            with _mat.opened(tmp) as after:
                _insist(path, _mat5_edit.first_difference(before, _editable(after, tmp), frozenset({"iscell"})))
    else:
        import h5py

        shutil.copyfile(path, tmp)
        with h5py.File(tmp, "r+") as file, _hdf5.clear_errors(str(path)):
            _hdf5.dataset(file, f"{_SEGMENTATION}/iscell")[...] = table
        with _hdf5.opened(path) as old_file, _hdf5.opened(tmp) as new_file:
            _insist(path, _hdf5.first_difference(old_file, new_file, {f"/{_SEGMENTATION}/iscell"}))


def _insist(path: Path, difference: str) -> None:
    if difference:
        raise WriteError(f"The edited copy of {path} differs from it in {difference}.", "Nothing was changed. Please report this.")


# Are they the same candidates?


def _check_same_rois(copy: Copy) -> None:
    """Compare the fluorescence in a copy with that of its planes, in three frames of all candidates."""
    planes = [open_plain(plane / "F.npy") for plane in copy.planes]
    if any(len(fluorescence.shape) != 2 for fluorescence in planes):
        raise FormatError("F.npy of a plane is no table.")
    n_frames = min(fluorescence.shape[1] for fluorescence in planes)  # shorter planes are padded with zeros in a copy
    frames = sorted({0, n_frames // 2, n_frames - 1}) if n_frames else []
    expected = np.concatenate([np.array(fluorescence.array()[:, frames], np.float32) for fluorescence in planes])
    found = _fluorescence(copy, frames)
    if found is not None and not np.array_equal(found, expected, equal_nan=True):
        raise FormatError("it holds other ROIs than the planes (they were detected, merged or drawn since).")


def _fluorescence(copy: Copy, frames: Sequence[int]) -> NDArray[np.float32] | None:
    """Some frames of F in a copy, ``(n_cells, n_frames)``; None where it holds none (a combined view that only the GUI made)."""
    if copy.kind == COMBINED:
        source = copy.path.with_name("F.npy")
        found: Any = open_plain(source).array() if source.is_file() else None
        return None if found is None else _frames(found, frames)
    if copy.kind == MAT:
        with _mat.opened(copy.path) as file:
            node = _editable(file, copy.path).variable("F")
            stored = node.values(node.body) if node is not None and node.body < node.stop else np.zeros(0)  # a view of the file
            if node is None or node.kind not in ("double", "single") or stored.size != math.prod(node.shape):
                raise FormatError("it has no F of Suite2p's.")
            return _frames(stored.reshape(node.shape, order="F"), frames)
    with _hdf5.opened(copy.path) as h5:
        parts = []
        for number in range(len(copy.planes)):  # by number, whatever the folders are called
            data = _hdf5.dataset(h5, f"processing/ophys/Fluorescence/plane{number}/data")
            if data is None or data.ndim != 2 or data.dtype.kind != "f":
                raise FormatError(f"{copy.path} has no traces of plane {number} as Suite2p stores them.")
            parts.append(_frames(data, frames, time_first=True))
        return np.concatenate(parts)


def _frames(found: Any, frames: Sequence[int], time_first: bool = False) -> NDArray[np.float32]:
    if found.ndim != 2 or max(frames, default=-1) >= found.shape[0 if time_first else 1]:
        raise FormatError("its traces have fewer frames than those of the planes.")
    return np.array(found[list(frames)].T if time_first else found[:, list(frames)], np.float32)
