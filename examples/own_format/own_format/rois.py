"""A folder with ``rois.json`` and ``traces.npy``, read, written back to, and created.

``rois.json`` holds ``lab`` ("own format 1"), ``fov`` (rows, columns), ``fps`` (or null) and ``rois``: for each candidate its
``pixels`` (C order, from 0), their ``weights`` and ``keep`` (true, false or null). ``traces.npy`` is float32, ``(n_cells, n_frames)``.
Whatever else somebody put into ``rois.json`` stays there.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from actsort_core import Curation, FileEdit, Prior, Recording, Sniff, WritePlan
from actsort_core.errors import FormatError, UsageError
from actsort_core.model import as_footprints

LAB = "own format 1"
LARGEST = 1 << 30  # bytes of rois.json; JSON is read whole
KEEP = {True: 1, False: -1, None: 0}


class RoisFormat:
    """The format; ActSort needs its name, its description and the methods below."""

    name = "own_rois"
    description = "our lab's folders of rois.json and traces.npy"

    def sniff(self, path: Path) -> Sniff:
        """Cheap, by content, and never raising: it is asked about every file that anybody opens."""
        try:
            with (path / "rois.json").open("rb") as file:
                ours = f'"lab": "{LAB}"'.encode() in file.read(200)
        except OSError:
            return Sniff(False, "it is no folder with a rois.json")
        return Sniff(ours, "its rois.json is our lab's" if ours else "its rois.json is not our lab's")

    def read(self, path: Path) -> tuple[Recording, ...]:
        """One recording. Everything a broken file can do ends in a FormatError."""
        with _clear_errors(path / "rois.json"):
            document = _document(path)
            fov = tuple(_whole(size) for size in document["fov"])
            n_pixels = math.prod(fov)
            rois = document["rois"]
            footprints = _footprints(rois, n_pixels)
            keep = np.array([KEEP[roi.get("keep")] for roi in rois], np.int8)
            fps = None if document.get("fps") is None else float(document["fps"])
            if fps is not None and not 0 < fps < math.inf:
                raise ValueError(f"{fps} frames per second")
        with _clear_errors(path / "traces.npy"):
            traces = np.load(path / "traces.npy", mmap_mode="r", allow_pickle=False) if len(rois) else _empty(path / "traces.npy")
            if traces.dtype != np.float32 or traces.ndim != 2 or len(traces) != len(rois):
                raise ValueError(f"{traces.dtype} of shape {traces.shape} for {len(rois)} candidates")
        prior = Prior(keep, np.full(len(keep), np.nan))
        return (Recording(path.name, path, self.name, fov, footprints, np.array(traces), "raw", fps, prior),)

    def plan(self, recordings: Sequence[Recording], curations: Sequence[Curation]) -> WritePlan:
        """Says what changes; `stage` makes the new content in a temporary file, and ActSort backs up, replaces and compares."""
        (recording,), (curation,) = recordings, curations

        def stage(tmp: Path) -> None:
            with _clear_errors(recording.path / "rois.json"):
                document = _document(recording.path)
                rows = zip(document["rois"], curation.accepted, curation.undecided, strict=True)
                for roi, accepted, undecided in rows:
                    roi["keep"] = True if accepted else None if undecided else False
            tmp.write_text(json.dumps(document))

        return WritePlan((FileEdit(recording.path / "rois.json", f"keep of {curation.n_cells} candidates", stage),))

    def losses(self, recordings: Sequence[Recording], curations: Sequence[Curation | None]) -> tuple[str, ...]:
        """What `create` cannot carry over: a sentence for each thing that is there and has no place."""
        if len(recordings) != 1 or any(len(recording.fov) != 2 for recording in recordings):
            raise FormatError("A folder of rois.json holds one recording of two dimensions.", "Convert them one at a time.")
        (recording,) = recordings
        there = {
            "denoised traces": recording.denoised is not None,
            "spikes": recording.spikes is not None,
            f"images ({', '.join(recording.images)})": bool(recording.images),
            f"statistics ({', '.join(recording.metrics)})": bool(recording.metrics),
            "host's probabilities": bool(np.isfinite(recording.prior.probability).any()),
        }
        return tuple(f"The {what}: rois.json has no place for them." for what, is_there in there.items() if is_there)

    def create(self, recordings: Sequence[Recording], curations: Sequence[Curation | None], dst: Path) -> tuple[Path, ...]:
        """A new folder, made elsewhere and renamed: it is complete or not there."""
        self.losses(recordings, curations)
        if dst.exists():
            raise UsageError(f"{dst} exists already.", "Choose a new folder.")
        (recording,), (curation,) = recordings, curations
        verdict = recording.prior.verdict if curation is None else np.where(curation.accepted, 1, np.where(curation.undecided, 0, -1))
        back = {number: keep for keep, number in KEEP.items()}
        matrix = recording.footprints
        rois = [
            {"pixels": matrix.indices[a:b].tolist(), "weights": matrix.data[a:b].tolist(), "keep": back[int(number)]}
            for a, b, number in zip(matrix.indptr[:-1], matrix.indptr[1:], verdict, strict=True)
        ]
        document = {"lab": LAB, "fov": list(recording.fov), "fps": recording.fps, "rois": rois}
        tmp = Path(tempfile.mkdtemp(dir=dst.parent, prefix=f".{dst.name}."))
        try:
            (tmp / "rois.json").write_text(json.dumps(document))
            np.save(tmp / "traces.npy", np.asarray(recording.traces[0 : recording.n_cells], np.float32))
            shutil.copymode(dst.parent, tmp)
            os.replace(tmp, dst)
        finally:
            shutil.rmtree(tmp, ignore_errors=True)
        return (dst / "rois.json", dst / "traces.npy")


@contextlib.contextmanager
def _clear_errors(file: Path) -> Iterator[None]:
    """Whatever a broken file makes Python raise becomes a sentence that names the file."""
    try:
        yield
    except FormatError:
        raise
    except Exception as error:  # JSON and .npy that are damaged make Python raise almost anything
        raise FormatError(f"{file} cannot be read ({type(error).__name__}: {error}).", "Restore it from a backup.") from error


def _document(path: Path) -> dict[str, Any]:
    file = path / "rois.json"
    if not file.is_file() or file.stat().st_size > LARGEST:
        raise FormatError(f"{file} is no file, or larger than {LARGEST:,} bytes.", "Restore it from a backup.")
    document = json.loads(file.read_bytes())
    if document["lab"] != LAB:
        raise ValueError(f"its lab is {document['lab']!r}")
    return dict(document)


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 < value < 1 << 20:
        raise ValueError(f"a size of {value!r}")
    return value


def _footprints(rois: list[dict[str, Any]], n_pixels: int) -> sp.csc_matrix:
    """``(n_pixels, n_cells)``, from lists that may say anything."""
    counts = [len(roi["pixels"]) for roi in rois]
    if counts != [len(roi["weights"]) for roi in rois]:
        raise ValueError("an ROI has other numbers of pixels than of weights")
    pixels = np.array([_index(pixel, n_pixels) for roi in rois for pixel in roi["pixels"]], np.int64)
    with np.errstate(over="ignore"):
        weights = np.array([float(weight) for roi in rois for weight in roi["weights"]], np.float64).astype(np.float32)
    columns = np.repeat(np.arange(len(rois)), counts)
    return as_footprints(sp.coo_matrix((weights, (pixels, columns)), shape=(n_pixels, len(rois))), n_pixels)


def _index(value: Any, n_pixels: int) -> int:
    if type(value) is not int or not 0 <= value < n_pixels:
        raise ValueError(f"a pixel {value!r} of {n_pixels}")
    return value


def _empty(file: Path) -> np.ndarray:
    """Traces of no candidate: a file without data cannot be mapped."""
    return np.load(file, allow_pickle=False)
