"""What is loaded in Suite2p's window, and what the person clicked there. No Qt: attributes of the window and files only.

The window keeps ``iscell`` and ``probcell`` of all rows in memory; each click writes both into ``<basename>/iscell.npy``
(suite2p/gui/io.py, ``save_iscell``; 0.14.6 and 1.1.0). In the combined view, basename is ``combined`` and the planes never get the clicks.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actsort_adapters._npy import open_plain
from actsort_adapters._suite2p_copies import in_combined, read_table
from actsort_core import clicks, importing, opening, store
from actsort_core.errors import ActsortError, ChangedError, MissingFileError, UsageError
from actsort_core.features.table import Progress
from actsort_core.model import CELL, NOT_CELL, CandidateId, Prior
from actsort_core.plugins import Plugins
from actsort_core.session import Session

CLICK = "Suite2p's window"  # what the journal names as the source of such a label
_ENOUGH_OTHERS = 15  # labels that are no corrections, below which somebody who only corrects is warned
_FEW = 5  # verdicts that may follow from one threshold by chance
_RELOAD = "Load the folder again (File > Load processed data), then choose this entry once more."


@dataclass(frozen=True)
class View:
    """What a window shows.

    Attributes
    ----------
    path
        What to open: a plane, or the folder of the planes of a combined view.
    planes
        The plane folders whose ROIs it shows, in its order.
    verdicts
        The ``iscell.npy`` that its clicks go to.
    """

    path: Path
    planes: tuple[Path, ...]
    verdicts: Path

    @property
    def combined(self) -> bool:
        """Whether it shows all planes side by side."""
        return self.verdicts.parent.name == "combined"


def view_of(window: Any) -> View:
    """What is loaded.

    Raises
    ------
    UsageError
        Nothing, or something that is no folder of a plane or of planes.
    """
    basename = getattr(window, "basename", None)
    if not getattr(window, "loaded", False) or not basename:
        raise UsageError("Nothing is loaded.", "Load a folder first: File > Load processed data. Then choose this entry again.")
    folder = Path(os.path.abspath(basename))  # noqa: PTH100 - a linked plane stays where it is
    if folder.name == "combined":
        planes = in_combined(folder.parent)
        if not planes:
            raise UsageError(
                f"{folder.parent} has no planes.", "The combined view is only a copy of them: without them it cannot be sorted."
            )
        return View(folder.parent, planes, folder / "iscell.npy")
    if not (folder / "stat.npy").is_file():
        raise UsageError(
            f"{folder} has no stat.npy (is an NWB file loaded?).", "Load the plane's stat.npy: File > Load processed data, plane0/stat.npy."
        )
    return View(folder, (folder,), folder / "iscell.npy")


def open_session(view: View, plugins: Plugins, progress: Progress | None = None) -> Session:
    """Resume the session of what is shown, or start one. Labels of sessions of single planes come into a new one of all planes.

    Parameters
    ----------
    view
        What is shown.
    plugins
        Plug-ins already loaded.
    progress
        Called while features are computed.

    Raises
    ------
    LockedError, ChangedError, FormatError, WriteError
        See :func:`actsort_core.opening.open`.
    """
    folder = _session_of(view)
    if folder is not None:
        return opening.open(session=folder, plugins=plugins, progress=progress)
    session = opening.open(view.path, plugins=plugins, progress=progress)
    try:
        own = [store.default_folder(plane) for plane in view.planes]
        others = [one for one in own if store.is_session(one) and one.resolve() != session.folder.resolve()]
        if others:
            importing.import_labels(session, *others)
    except BaseException:
        session.close()
        raise
    return session


def _session_of(view: View) -> Path | None:
    """The session of what is shown; for a plane without one of its own, that of all planes."""
    for path in (view.path, *([view.path.parent] if not view.combined else [])):
        try:
            folder = store.find_folder(path)
        except MissingFileError:
            continue
        document = store.read_document(folder)
        sources = zip(store.stored_paths(document, folder), document["sources"], strict=True)
        names = {entry["name"] for (stored, _), row in sources if stored.resolve() == path.resolve() for entry in row["recordings"]}
        if path == view.path or view.path.name in names:
            return folder
    return None


def keys_of(view: View, session: Session, window: Any) -> tuple[str, ...]:
    """The recordings of the session that the window shows, in its order; makes sure that its rows are theirs.

    Raises
    ------
    ChangedError
        The window shows other ROIs, or other verdicts, than the files hold.
    """
    place = {recording.path.resolve(): key for key, recording in session.recordings.items()}
    absent = [plane.name for plane in view.planes if plane.resolve() not in place]
    if absent:
        raise ChangedError(f"The session {session.folder} does not know {', '.join(absent)}.", _RELOAD)
    keys = tuple(place[plane.resolve()] for plane in view.planes)
    n_cells = sum(session.recordings[key].n_cells for key in keys)
    shown = np.asarray(window.iscell)
    if len(shown) != n_cells or len(window.stat) != n_cells:
        raise ChangedError(
            f"The window shows {len(shown)} ROIs, the files hold {n_cells}.",
            f"After a merge choose Merge ROIs > Append merges to npy files. {_RELOAD}",
        )
    first = np.concatenate([np.asarray(open_plain(plane / "F.npy").array()[:, :1], np.float32) for plane in view.planes])
    fluorescence = np.asarray(window.Fcell)[:, : first.shape[1]].astype(np.float32)
    if not np.array_equal(first, fluorescence, equal_nan=True):
        raise ChangedError("The window shows other ROIs than the files hold: Suite2p ran again, or ROIs were drawn or merged.", _RELOAD)
    if view.verdicts.is_file():
        table = read_table(view.verdicts)
        if len(table) != n_cells or not np.array_equal(table[:, 0] != 0, shown.astype(bool)):
            raise ChangedError(f"{view.verdicts} holds other verdicts than the window shows: something else wrote it.", _RELOAD)
    return keys


def take_clicks(view: View, session: Session, keys: Sequence[str]) -> tuple[int, int]:
    """Record what was clicked in the window since the session knows the result as labels; how many cells, how many others are new.

    Raises
    ------
    WriteError
        They could not be saved.
    """
    tables = read_table(view.verdicts) if view.verdicts.is_file() else None
    labels = {label.candidate: session.options.kind(label.value) for label in session.labels()}
    clicked = {
        CandidateId(str(event["recording"]), int(event["index"]))
        for event in session.events()
        if event["kind"] == "label" and (event.get("source") or {}).get("kind") == CLICK
    }
    wrote = clicks.written_by(session.folder)
    rows, start = [], 0
    for key, plane in zip(keys, view.planes, strict=True):
        recording = session.recordings[key]
        now = recording.prior if tables is None else _prior(tables[start : start + recording.n_cells])
        start += recording.n_cells
        earlier = np.array([wrote.get(name, 0) for name in recording.candidate_fingerprints], np.int8)
        said, newer = find_clicks(now, session.priors[key], earlier if wrote else None)
        for index in range(recording.n_cells):
            candidate = CandidateId(key, index)
            value = int(said[index])
            if not value and candidate in clicked and labels.get(candidate) in (CELL, NOT_CELL):
                value, newer[index] = int(now.verdict[index]), True  # clicked back since
            word = {1: CELL, -1: NOT_CELL}.get(value)
            if word is not None and labels.get(candidate) != word and (newer[index] or candidate not in labels):
                source = {"path": str(plane.absolute()), "kind": CLICK, "index": index, "matched": "position", "automatic": False}
                rows.append((candidate, word, session.annotator, importing.REASON, {"source": source}))
    session.record(rows)
    cells = sum(word == CELL for _, word, *_ in rows)
    return cells, len(rows) - cells


def _prior(table: NDArray[np.float64]) -> Prior:
    p = table[:, 1]
    with np.errstate(invalid="ignore"):
        valid = (p >= 0) & (p <= 1)
    return Prior(np.where(table[:, 0] != 0, 1, -1).astype(np.int8), np.where(valid, p, np.nan))


def find_clicks(now: Prior, first: Prior, wrote: NDArray[np.int8] | None) -> tuple[NDArray[np.int8], NDArray[np.bool_]]:
    """Which verdicts are clicks: 1 cell, -1 not a cell, 0 nobody's; and which of them are newer than anything the session wrote or saw.

    Parameters
    ----------
    now, first
        The verdicts and probabilities, and what they were when the session first saw them.
    wrote
        ``(n,)`` what the session last wrote, 0 where it wrote nothing; None: it never wrote.

    Notes
    -----
    A click flips the verdict and leaves the probability. Loading a classifier in the window replaces all probabilities and no verdict;
    Enter in the box then makes all verdicts follow them. So the clicks are either what differs from the verdicts before or, where
    the probabilities are others, what contradicts them now: whichever is less. More than a few verdicts that all follow from one
    threshold are Enter with another number in the box.
    """
    before = first.verdict if wrote is None else wrote
    known = np.isfinite(now.probability)
    differs = (before != 0) & (now.verdict != 0) & (now.verdict != before)
    against = known & (now.verdict != 0) & ((now.verdict > 0) != (now.probability > 0.5))
    same = wrote is None and np.allclose(now.probability, first.probability, rtol=0, atol=1e-7, equal_nan=True)
    newer = np.array(differs if same or not known.all() or differs.sum() <= against.sum() else against)
    low = max(now.probability[known & (now.verdict < 0)], default=-1.0)
    if newer.sum() > _FEW and low < min(now.probability[known & (now.verdict > 0)], default=2.0):
        newer[:] = False
    said = np.where(newer, now.verdict, 0).astype(np.int8)
    if wrote is None:  # clicked before there was a session
        old = clicks.find(first, None).value
        said = np.where(newer | (now.verdict != first.verdict), said, old).astype(np.int8)
    return said, newer


def written(view: View) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """The verdicts and probabilities that the planes hold now, as the window keeps them."""
    table = np.concatenate([read_table(plane / "iscell.npy") for plane in view.planes])
    return table[:, 0] != 0, table[:, 1].copy()


def missing(session: Session, cells: int, others: int) -> str:
    """Why there is no model yet, and what to do about it."""
    kinds = [session.options.kind(label.value) for label in session.labels()]
    n_cells, n_others = kinds.count(CELL), kinds.count(NOT_CELL)
    told = f"ActSort's labels here: cells {n_cells}, others {n_others}" if kinds else "ActSort has no labels here yet"
    told += f" ({cells + others} of them clicked since)." if cells + others else "."
    return f"{told} It learns from three of each kind on. Nothing was written into Suite2p's files."


def mostly_corrections(session: Session) -> str:
    """A warning where hardly any label is about an ROI that was not a mistake: from mistakes alone the model learns too much of them."""
    reasons = [label.reason for label in session.labels() if session.options.kind(label.value) in (CELL, NOT_CELL)]
    others = sum(reason != importing.REASON for reason in reasons)
    if others >= _ENOUGH_OTHERS or len(reasons) == len(session.candidates):
        return ""
    return (
        f"Careful: {len(reasons) - others} of these labels are corrections of mistakes, and a model that sees little else overshoots. "
        f"Choose 'ActSort: ask me about ROIs' and answer some {_ENOUGH_OTHERS} questions first."
    )


def sentence(error: BaseException) -> str:
    """What a person should read of an error."""
    if isinstance(error, ActsortError):
        return str(error)
    return f"Something unexpected happened ({type(error).__name__}: {error}). Please report this."
