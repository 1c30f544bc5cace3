"""Suite2p's own classifier, taught by a session: the training file that its pipeline and its GUI load, and what it will decide with it.

A classifier file of Suite2p holds no weights but the training data: statistics of ROIs and what they are. Each load fits anew
(suite2p/classification/classifier.py, ``Classifier.load`` and ``_fit``; the same in 0.14.6 and 1.1.0). So the whole pool is written, as the
session decides it: the labelled ROIs alone are the hard ones, and a classifier taught by them is far worse (docs/hosts/suite2p.md).
"""

from __future__ import annotations

import contextlib
import math
import pickle
import warnings
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from actsort_core import opening, store
from actsort_core import plugins as plugin_module
from actsort_core.atomic import atomic_write, backup
from actsort_core.errors import FormatError, UsageError
from actsort_core.features.table import Progress
from actsort_core.model import Curation, Recording
from actsort_core.plugins import Plugins
from actsort_core.session import Session

# The three statistics that `suite2p.classification.classify` uses, whatever else a file holds; the GUI uses all that a file holds. With
# these three, and no more, both decide alike.
KEYS = ("skew", "compact", "npix_norm")
MIN_ROWS = 100  # `Classifier._fit` makes a hundred bins of the training data, and fails over an empty one
_NODES = 100
_SMOOTHING = 2.0  # bins
_FOLDS = 5
_GOOD = 0.95  # agreement below which it is said that three statistics are not enough


@dataclass(frozen=True, eq=False)
class Pool:
    """The ROIs of one recording, and what the session decided about them.

    Attributes
    ----------
    recording
        Its key in its session; where several have the same, its path.
    session
        The session's folder.
    stats
        ``(n, 3)`` float64, the columns `KEYS`.
    accepted, labelled
        ``(n,)`` bool: is it a cell; did a person say so.
    left_out
        How many ROIs lack one of the statistics (drawn or merged ones do) and are not among the n.
    generation
        ``"0.x"`` or ``"1.x"``: who computed the statistics.
    path
        The plane folder.
    """

    recording: str
    session: Path
    stats: NDArray[np.float64]
    accepted: NDArray[np.bool_]
    labelled: NDArray[np.bool_]
    left_out: int
    generation: str
    path: Path


@dataclass(frozen=True)
class Agreement:
    """How Suite2p decides about one recording with the file, beside the session's own decisions.

    Attributes
    ----------
    recording, session
        Which one.
    n, same
        How many ROIs, and on how many both decide alike.
    labelled, labelled_same
        The same of those a person labelled.
    accepted, cells
        How many ROIs the session accepts, and how many Suite2p does with the file.
    """

    recording: str
    session: Path
    n: int
    same: int
    labelled: int
    labelled_same: int
    accepted: int
    cells: int


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes
    ----------
    path
        The classifier file.
    rows, cells, labelled
        How many ROIs teach it, how many of them are cells, and how many of them people labelled.
    copies
        How often each is in the file.
    agreement
        By recording, on the very ROIs that teach it.
    unseen
        On what share of ROIs both decide alike when these are left out of the teaching (five folds); NaN where that cannot be told.
    backup
        Where the file that was there before is now.
    notes
        What the person should know.
    """

    path: Path
    rows: int
    cells: int
    labelled: int
    copies: int
    agreement: tuple[Agreement, ...]
    unseen: float
    backup: Path | None
    notes: tuple[str, ...]

    @property
    def share(self) -> float:
        """On what share of the ROIs Suite2p decides as the session."""
        return sum(one.same for one in self.agreement) / self.rows

    def __str__(self) -> str:
        several = f", each {self.copies} times, because Suite2p refuses fewer than {MIN_ROWS}" if self.copies > 1 else ""
        told = f"{self.labelled} labelled by people, the others by the model"
        lines = [f"{self.path}: {self.rows} ROIs ({self.cells} cells, {self.rows - self.cells} not; {told}){several}"]
        if self.backup is not None:
            lines.append(f"  the file that was there before is {self.backup}")
        same = sum(one.same for one in self.agreement)
        lines.append(f"With it Suite2p decides as ActSort on {same} of these {self.rows} ROIs ({self.share:.1%}):")
        for one in self.agreement:
            line = (
                f"  {one.recording:<12} {one.same} of {one.n} ({one.same / one.n:.1%}), cells: ActSort {one.accepted}, Suite2p {one.cells}"
            )
            lines.append(line + (f"; of {one.labelled} labelled, {one.labelled_same} as labelled" if one.labelled else ""))
        if not math.isnan(self.unseen):
            lines.append(f"On ROIs that it was not taught by, it does on about {self.unseen:.1%} (each fifth judged by the other four).")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def document(self) -> dict[str, Any]:
        """``--json``."""
        rows = [{**vars(one), "session": str(one.session)} for one in self.agreement]
        counts = {"rows": self.rows, "cells": self.cells, "labelled": self.labelled, "copies": self.copies}
        kept = None if self.backup is None else str(self.backup)
        shares = {"agreement": self.share, "agreement_unseen": None if math.isnan(self.unseen) else self.unseen}
        return {"path": str(self.path), **counts, **shares, "recordings": rows, "backup": kept, "notes": list(self.notes)}


def export_classifier(
    *sessions: Session | Path | str, out: Path | str, plugins: Plugins | None = None, progress: Progress | None = None
) -> Exported:
    """Write a classifier file that Suite2p's pipeline (``classifier_path``) and GUI (Classifier > Load) load as their own.

    Parameters
    ----------
    *sessions
        Sessions on Suite2p results (open, their folders, or the results they belong to). Each needs a model.
    out
        The file. One that is there is replaced and kept beside it.
    plugins
        Plug-ins already loaded.
    progress
        Called while features are computed.

    Raises
    ------
    MissingFileError, UsageError
        There is no such session, it has no model yet, it is not about Suite2p, or it decides that everything is of one kind.
    WriteError
        The file cannot be written; what was there before still is.
    """
    if not sessions:
        raise UsageError("There is no session to make a classifier from.", "Pass one: actsort suite2p-classifier SESSION --out FILE.npy")
    path = Path(out)
    if path.is_dir() or path.suffix != ".npy":
        raise UsageError(f"{path} is not the name of a classifier file.", "Give a name that ends in .npy, as our-classifier.npy.")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"There is no folder {path.absolute().parent}.", "Make it first, or choose another.")
    registered = plugins or plugin_module.load()
    pools: dict[str, Pool] = {}
    notes: list[str] = []
    for given in sessions:
        for fingerprint, pool in _pools(given, registered, progress):
            if fingerprint in pools:
                notes.append(f"{pool.recording} of {pool.session} is the same as {pools[fingerprint].recording}: it counts once.")
                continue
            pools[fingerprint] = pool
    names = [pool.recording for pool in pools.values()]
    pools = {p: replace(pool, recording=str(pool.path)) if names.count(pool.recording) > 1 else pool for p, pool in pools.items()}
    found = [pool for pool in pools.values() if len(pool.stats)]
    notes += [
        f"{pool.recording}: {pool.left_out} ROIs lack {', '.join(KEYS)} (drawn or merged ones do) and teach nothing."
        for pool in pools.values()
        if pool.left_out
    ]
    rows, cells = sum(len(pool.stats) for pool in found), sum(int(pool.accepted.sum()) for pool in found)
    if not 0 < cells < rows:
        what = (
            "no ROI with the statistics of Suite2p's classifier"
            if not rows
            else f"{rows} ROIs that are all {'cells' if cells else 'not cells'}"
        )
        raise UsageError(
            f"The sessions hold {what}; Suite2p's classifier needs both kinds.",
            "Pass further sessions, with cells and others. Nothing was written.",
        )
    if len({pool.generation for pool in found}) > 1:
        notes.append(
            "The sessions are of Suite2p 0.x and 1.x, which scale npix_norm differently: better make one file for each of the two."
        )
    stats, accepted = np.concatenate([pool.stats for pool in found]), np.concatenate([pool.accepted for pool in found])
    unseen = _unseen(stats, accepted)
    learned = Suite2pClassifier(*_enough(stats, accepted))
    agreement = tuple(_agreement(pool, learned) for pool in found)
    stats, accepted = _enough(stats, accepted)
    copies = len(stats) // rows
    if copies > 1:
        notes.append(f"{rows} ROIs are few to teach Suite2p's classifier by. Pass further sessions, as many as you have.")
    elif unseen < _GOOD:
        notes.append(
            "Suite2p's classifier sees skew, compact and npix_norm only, which is too little for these decisions: "
            "'actsort apply SESSION PATH...' after the run decides by the model itself."
        )
    from actsort_core import __version__

    labelled = sum(int(pool.labelled.sum()) for pool in found)
    source = {"version": __version__, "recordings": len(found), "rois": rows, "labelled_by_people": labelled, "copies": copies}
    content = encode({"stats": stats, "iscell": accepted, "keys": list(KEYS), "actsort": source})
    kept = backup(path, path.absolute().parent, f"{path.stem}-before{path.suffix}") if path.exists() else None
    atomic_write(path, content)
    return Exported(path, rows, cells, labelled, copies, agreement, unseen, kept, tuple(notes))


def _pools(given: Session | Path | str, registered: Plugins, progress: Progress | None) -> list[tuple[str, Pool]]:
    with contextlib.ExitStack() as stack:
        if isinstance(given, Session):
            session = given
        else:
            folder = store.find_folder(Path(given))
            session = stack.enter_context(opening.open(session=folder, plugins=registered, read_only=True, refit_wait=0, progress=progress))
        others = sorted({r.format for r in session.recordings.values() if r.format != "suite2p"})
        if others:
            raise UsageError(
                f"The session {session.folder} is about a result of {', '.join(others)}: it lacks the statistics of Suite2p's classifier.",
                "Pass sessions on Suite2p results. Nothing was written.",
            )
        curations = session.curations()
        by_people = all((curation.origin == "label").all() for curation in curations.values())  # needs no model, whatever they said
        if not session.predictions().known and not by_people:
            raise UsageError(
                f"The session {session.folder} has no model yet, and so nothing to teach Suite2p.",
                "Label at least three cells and three others first (actsort sort), or start it with --warm-start. Nothing was written.",
            )
        return [
            (recording.fingerprint, _pool(key, recording, curations[key], session.folder)) for key, recording in session.recordings.items()
        ]


def _pool(key: str, recording: Recording, curation: Curation, folder: Path) -> Pool:
    missing = [name for name in KEYS if name not in recording.metrics]
    if missing and recording.n_cells:
        raise FormatError(
            f"{recording.path} has no {', '.join(missing)}, which Suite2p's classifier goes by.", "Was stat.npy made by another program?"
        )
    columns = [np.asarray(recording.metrics.get(name, np.zeros(0)), np.float64) for name in KEYS]
    stats = np.column_stack(columns)
    known = np.isfinite(stats).all(axis=1)
    labelled = curation.origin == "label"
    generation = str(recording.info.get("generation", ""))
    return Pool(key, folder, stats[known], curation.accepted[known], labelled[known], int((~known).sum()), generation, recording.path)


def _agreement(pool: Pool, learned: Suite2pClassifier) -> Agreement:
    says = learned.probability(pool.stats) > 0.5
    same = says == pool.accepted
    labelled = pool.labelled
    return Agreement(
        pool.recording,
        pool.session,
        len(same),
        int(same.sum()),
        int(labelled.sum()),
        int(same[labelled].sum()),
        int(pool.accepted.sum()),
        int(says.sum()),
    )


def _enough(stats: NDArray[np.float64], accepted: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """All rows as often as `MIN_ROWS` needs. Copies of all change no share in any bin, only how many rows a bin has."""
    copies = math.ceil(MIN_ROWS / len(stats))
    return _without_ties(np.repeat(stats, copies, axis=0)), np.repeat(accepted, copies)


def _unseen(stats: NDArray[np.float64], accepted: NDArray[np.bool_]) -> float:
    """Agreement on ROIs that are left out of the teaching, by five folds drawn with a fixed seed."""
    fold = np.random.default_rng(0).permutation(len(stats)) % _FOLDS
    same = np.zeros(len(stats), bool)
    for number in range(_FOLDS):
        rest = fold != number
        if not 0 < accepted[rest].sum() < rest.sum():
            return math.nan
        learned = Suite2pClassifier(*_enough(stats[rest], accepted[rest]))
        same[~rest] = (learned.probability(stats[~rest]) > 0.5) == accepted[~rest]
    return float(same.mean())


def _without_ties(stats: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same with equal values of a column one rounding step apart.

    Suite2p sorts them with NumPy's default sort, which orders equal values differently from version to version: without this the same
    file gives probabilities that differ by up to .17 between 0.14.6 (NumPy 1.26) and 1.1.0 (NumPy 2.3). Downwards, because a bin includes
    its upper end: so an ROI with the value itself falls where its own copies are.
    """
    out = stats.copy()
    for column in out.T:
        order = np.argsort(column, kind="stable")
        if (np.diff(column[order]) <= 0).any():
            last = np.inf
            for row in order[::-1]:
                last = column[row] = min(column[row], np.nextafter(last, -np.inf))
    return out


class Suite2pClassifier:
    """What Suite2p makes of a classifier file, computed without Suite2p, so that agreement can be told before anybody loads it.

    For each statistic, the share of cells in 99 bins between 100 quantiles, smoothed over the bins; their log odds are the features of a
    logistic regression. Suite2p puts what is not above the lowest quantile into the last bin (its index is -1), which is kept.

    Parameters
    ----------
    stats
        ``(n, n_keys)``, n at least 100.
    iscell
        ``(n,)`` bool, of both kinds.
    """

    def __init__(self, stats: NDArray[np.float64], iscell: NDArray[np.bool_]) -> None:
        from scipy.ndimage import gaussian_filter1d
        from sklearn.linear_model import LogisticRegression

        places = np.linspace(0, len(stats) - 1, _NODES).astype(np.int32)
        order = np.argsort(stats, axis=0)
        self._grid = np.take_along_axis(stats, order, axis=0)[places]
        ranked = np.asarray(iscell, np.float64)[order]
        total = np.concatenate([np.zeros((1, stats.shape[1])), np.cumsum(ranked, axis=0)])
        shares = np.diff(total[places], axis=0) / np.diff(places)[:, None]
        self._shares = gaussian_filter1d(shares, _SMOOTHING, axis=0)
        self._model = LogisticRegression(C=100.0, solver="liblinear")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scikit-learn's plans for its solvers concern nobody here
            self._model.fit(self._evidence(stats), iscell)

    def _evidence(self, stats: NDArray[np.float64]) -> NDArray[np.float64]:
        out = np.zeros(stats.shape)
        for column, (grid, shares) in enumerate(zip(self._grid.T, self._shares.T, strict=True)):
            within = np.clip(np.nan_to_num(stats[:, column], nan=grid[0]), grid[0], grid[-1])
            p = shares[np.searchsorted(grid, within, side="left") - 1]
            out[:, column] = np.log(p + 1e-6) - np.log(1 - p + 1e-6)
        return out

    def probability(self, stats: NDArray[np.float64]) -> NDArray[np.float64]:
        """Suite2p's probability of being a cell, ``(n,)``, of ROIs with these statistics, ``(n, n_keys)``."""
        return np.asarray(self._model.predict_proba(self._evidence(stats))[:, 1]) if len(stats) else np.zeros(0)


class _Pickler(pickle.Pickler):
    """Pickles arrays by names that every NumPy has.

    NumPy 2 would write ``numpy._core``, which NumPy before 1.26 does not know (docs of the pickle traps: /docs/formats/suite2p.md).
    """

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is np.ndarray:
            return np.ndarray, ((0,), "b"), obj.__reduce__()[2]
        return NotImplemented


def encode(content: dict[str, Any]) -> bytes:
    """A dictionary as ``np.save`` writes it: a 0-d object array, pickled; loadable by any NumPy with ``allow_pickle``."""
    handle = BytesIO()
    npy_format.write_array_header_1_0(handle, {"descr": "|O", "fortran_order": False, "shape": ()})
    _Pickler(handle, protocol=3).dump(np.array(content, dtype=object))
    return handle.getvalue()
