"""Two tiny native formats and a tiny classifier, as a plug-in: the core is tested without the real adapters.

``toy`` is a folder of recordings, each ``NAME.data.npz`` (footprints, traces, what never changes) and ``NAME.verdict.json``
(may be missing). ``toyfile`` is one ``.toy.json`` with everything in it, rewritten as a whole, as in an HDF5 file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from actsort_core.errors import FormatError
from actsort_core.formats import FileEdit, Sniff, WritePlan
from actsort_core.hookspecs import hookimpl
from actsort_core.learn import ClassifierSpec
from actsort_core.model import Curation, Prior, Recording, as_footprints

VERDICT = {1: 1, 0: -1, None: 0}


@hookimpl
def actsort_register_formats() -> Sequence[Any]:
    return [ToyFolder(), ToyFile()]


@hookimpl
def actsort_register_classifiers() -> Sequence[ClassifierSpec]:
    return [ClassifierSpec("centroid", "nearer to the mean cell or to the mean not-cell; needs no scikit-learn", Centroid)]


class Centroid:
    """A deterministic classifier that fits in microseconds."""

    def fit(self, X, y):
        self.means = [X[y == kind].mean(axis=0) for kind in (0, 1)]
        return self

    def predict_proba(self, X):
        away, near = (np.linalg.norm(X - mean, axis=1) for mean in self.means)
        p = 1 / (1 + np.exp(near - away))
        return np.column_stack([1 - p, p])


def _prior(accepted: list[Any] | None, n_cells: int) -> Prior:
    if accepted is None:
        return Prior.undecided(n_cells)
    if len(accepted) != n_cells:
        raise ValueError(f"{len(accepted)} verdicts for {n_cells} candidates")
    return Prior(np.array([VERDICT[a] for a in accepted], np.int8), np.full(n_cells, np.nan))


def _json_edit(path: Path, document: Callable[[], Any]) -> FileEdit:
    return FileEdit(path, "all verdicts", lambda tmp: tmp.write_text(json.dumps(document())) and None)


class ToyFolder:
    """A folder of recordings with two files each."""

    name = "toy"
    description = "a folder of NAME.data.npz and NAME.verdict.json"

    def sniff(self, path: Path) -> Sniff:
        yes = path.is_dir() and any(path.glob("*.data.npz"))
        return Sniff(yes, "it holds .data.npz" if yes else "no folder with .data.npz files")

    def read(self, path: Path) -> tuple[Recording, ...]:
        return tuple(self._read(path, data) for data in sorted(path.glob("*.data.npz")))

    def _read(self, folder: Path, data: Path) -> Recording:
        name = data.name.removesuffix(".data.npz")
        with np.load(data, allow_pickle=False) as arrays:
            fov = tuple(int(n) for n in arrays["fov"])
            footprints = as_footprints(arrays["footprints"], int(np.prod(fov)))
            traces, fps = arrays["traces"], float(arrays["fps"])
        verdict = folder / f"{name}.verdict.json"
        try:
            accepted = json.loads(verdict.read_text()) if verdict.exists() else None
            prior = _prior(accepted, footprints.shape[1])
        except (ValueError, KeyError) as error:
            raise FormatError(f"{verdict} is damaged ({error}).", "Restore it.") from error
        image = np.asarray(footprints.sum(axis=1), np.float32).reshape(fov)
        return Recording(name, folder, self.name, fov, footprints, traces, "raw", fps, prior, images={"mean": image})

    def plan(self, recordings: Sequence[Recording], curations: Sequence[Curation]) -> WritePlan:
        edits = []
        for recording, curation in zip(recordings, curations, strict=True):
            verdicts = curation.accepted.astype(int).tolist()
            edits.append(_json_edit(recording.path / f"{recording.name}.verdict.json", lambda verdicts=verdicts: verdicts))
        stale = [(p, "export it again") for p in recordings[0].path.glob("*.export")]
        return WritePlan(tuple(edits), tuple(stale))


class ToyFile:
    """One JSON file with everything."""

    name = "toyfile"
    description = "one .toy.json"

    def sniff(self, path: Path) -> Sniff:
        yes = path.is_file() and path.name.endswith(".toy.json")
        return Sniff(yes, "its name ends with .toy.json" if yes else "no .toy.json file")

    def read(self, path: Path) -> tuple[Recording, ...]:
        d = json.loads(path.read_text())
        fov = tuple(d["fov"])
        n_cells = len(d["accepted"])
        values, (rows, columns) = d["weights"], d["where"]
        footprints = as_footprints(sp.coo_matrix((values, (rows, columns)), shape=(int(np.prod(fov)), n_cells)), int(np.prod(fov)))
        traces = np.array(d["traces"], np.float32).reshape(n_cells, d["frames"])
        prior = _prior(d["accepted"], n_cells)
        return (Recording(path.name.removesuffix(".toy.json"), path, self.name, fov, footprints, traces, "raw", d["fps"], prior),)

    def plan(self, recordings: Sequence[Recording], curations: Sequence[Curation]) -> WritePlan:
        (recording,), (curation,) = recordings, curations

        def document() -> Any:
            return {**json.loads(recording.path.read_text()), "accepted": curation.accepted.astype(int).tolist()}

        return WritePlan((_json_edit(recording.path, document),))


def _accepted(prior: Prior) -> list[int | None]:
    back = {value: key for key, value in VERDICT.items()}
    return [back[int(v)] for v in prior.verdict]


def save_folder(folder: Path, recording: Recording, name: str = "", verdicts: bool = True) -> Path:
    """Write `recording` into a ``toy`` folder; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    name = name or recording.name
    arrays = {"fov": recording.fov, "footprints": recording.footprints.toarray(), "traces": recording.traces, "fps": recording.fps}
    np.savez(folder / f"{name}.data.npz", **arrays)
    if verdicts:
        (folder / f"{name}.verdict.json").write_text(json.dumps(_accepted(recording.prior)))
    return folder


def save_file(path: Path, recording: Recording) -> Path:
    """Write `recording` as a ``toyfile``; returns the path."""
    matrix = recording.footprints.tocoo()
    document = {
        "fov": recording.fov,
        "fps": recording.fps,
        "frames": recording.n_frames,
        "weights": matrix.data.tolist(),
        "where": [matrix.row.tolist(), matrix.col.tolist()],
        "traces": np.asarray(recording.traces).tolist(),
        "accepted": _accepted(recording.prior),
    }
    path.write_text(json.dumps(document))
    return path
