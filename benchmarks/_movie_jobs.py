"""What `benchmarks/features.py` measures of the movie, each in a process of its own (so that its peak memory is its own).

Reading the movie is part of every measurement; it lies in the page cache, where the first run leaves it. Beside the time that passed stands
that of the processor, summed over threads and processes, which says more when others use it, too.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

FOV = (512, 512)
RATE = 15.0
BLOCK = 100  # frames of a block of the plain product
PUBLISHED_CELLS = 100  # candidates that the candidate-by-candidate version is timed on
CLIP_CELLS = 1_000  # whose clips are read, three times each


@dataclass(frozen=True, eq=False)
class Looped:
    """A movie of any length from a file of plain int16: it begins again at its end. A `Movie`."""

    path: Path
    shape: tuple[int, ...]
    held: int

    def read(self, start: int, stop: int) -> NDArray[np.int16]:
        """Frames, read as `actsort_core.movies` reads plain files."""
        size = int(np.prod(self.shape[1:]))
        out = np.empty((stop - start, *self.shape[1:]), np.int16)
        with self.path.open("rb", buffering=0) as handle:
            for k in range(stop - start):
                at = (start + k) % self.held
                if k == 0 or at == 0:
                    handle.seek(2 * size * at)
                handle.readinto(out[k].reshape(-1).view(np.uint8).data)
        return out


def make(folder: Path, cells: int, frames: int) -> None:
    """Simulate the movie once: ``movie.bin``, ``footprints.npz``, ``traces.npy`` and, for the comparison, ``movie.h5``."""
    import h5py

    from actsort_core.simulate import simulate_movie

    if (folder / "movie.h5").exists() and np.load(folder / "traces.npy", mmap_mode="r").shape == (cells, frames):
        return
    folder.mkdir(parents=True, exist_ok=True)
    made = simulate_movie(cells, fov=FOV, n_frames=frames, fps=RATE, path=folder / "movie.bin")
    sp.save_npz(folder / "footprints.npz", made.recording.footprints)
    np.save(folder / "traces.npy", made.recording.traces)
    with h5py.File(folder / "movie.h5", "w") as handle:
        handle["mov"] = np.memmap(folder / "movie.bin", np.int16, "r", shape=(frames, *FOV))


def recording_of(folder: Path, cells: int, frames: int) -> Any:
    """The simulated candidates, or more of them (shifted copies), or with longer traces (repeated)."""
    from actsort_core.model import Prior, Recording, as_footprints

    footprints = sp.load_npz(folder / "footprints.npz").tocsc()
    traces = np.load(folder / "traces.npy", mmap_mode="r")
    rng = np.random.default_rng(0)
    copies = -(-cells // traces.shape[0])
    if copies > 1:
        moved = []
        for k in range(copies):
            at = np.stack(np.unravel_index(footprints.indices, FOV)) + np.array([[3 * k], [5 * k]])
            inside = (at < np.array(FOV)[:, None]).all(axis=0)
            data = np.where(inside, footprints.data, 0)
            pixel = np.ravel_multi_index(tuple(np.minimum(at, np.array(FOV)[:, None] - 1)), FOV)
            moved.append(sp.csc_matrix((data, pixel, footprints.indptr), shape=footprints.shape))
        footprints = sp.hstack(moved, "csc")
    footprints = as_footprints(footprints[:, :cells], footprints.shape[0])
    if copies > 1 or frames != traces.shape[1] or cells < traces.shape[0]:
        path = folder / f"traces_{cells}_{frames}.npy"
        if not path.exists():
            out = np.lib.format.open_memmap(path, "w+", np.float32, (cells, frames))
            repeats = -(-frames // traces.shape[1])
            for i in range(cells):
                rolled = np.roll(traces[i % len(traces)], 0 if copies == 1 else int(rng.integers(traces.shape[1])))
                out[i] = np.tile(rolled, repeats)[:frames]
            out.flush()
        traces = np.load(path, mmap_mode="r")
    return Recording("large", folder / "large", "simulated", FOV, footprints, traces, "F", RATE, Prior.undecided(cells))


# ---- what is measured: each takes the folder, the candidates and the frames, and returns a function to be timed


def job_make(folder: Path, cells: int, frames: int) -> Callable[[], Any]:
    """In a process of its own, too: what a process took most is counted as what those that it starts took."""
    return lambda: make(folder, cells, frames)


def job_read(folder: Path, cells: int, frames: int) -> Callable[[], Any]:
    movie = Looped(folder / "movie.bin", (frames, *FOV), _held(folder))

    def job() -> None:
        for start in range(0, frames, BLOCK):
            movie.read(start, min(start + BLOCK, frames))

    return job


def job_product(folder: Path, cells: int, frames: int) -> Callable[[], Any]:
    weights = recording_of(folder, cells, frames).footprints.T.tocsr()
    movie = Looped(folder / "movie.bin", (frames, *FOV), _held(folder))

    def job() -> None:
        out = np.empty((cells, frames), np.float32)
        for start in range(0, frames, BLOCK):
            block = movie.read(start, min(start + BLOCK, frames))
            out[:, start : start + BLOCK] = weights @ np.ascontiguousarray(block.reshape(len(block), -1).T, np.float32)

    return job


def job_features(
    folder: Path,
    cells: int,
    frames: int,
    names: tuple[str, ...] | None = None,
    executor: str = "threads",
    workers: int = 2,
    clips: bool = False,
) -> Callable[[], Any]:
    from actsort_core.blocks import Execution
    from actsort_core.clips import ClipReader
    from actsort_core.features.movie import GROUPS
    from actsort_core.features.table import compute_table

    recording = recording_of(folder, cells, frames)
    movie = Looped(folder / "movie.bin", (frames, *FOV), _held(folder))
    groups = [group for group in GROUPS if names is None or group.name in names]

    def job() -> dict[str, float] | None:
        with tempfile.TemporaryDirectory(dir=folder) as where:
            also = (ClipReader(_clips(folder, cells)),) if clips else ()
            execution = Execution(executor, workers)
            compute_table(recording, groups, movie=movie, execution=execution, folder=Path(where) / "pass", also=also)  # type: ignore[arg-type]
            if clips:
                return {"clip_bytes": _clips(folder, cells).stat().st_size / cells}
        return None

    return job


def job_clips(folder: Path, cells: int, frames: int) -> Callable[[], Any]:
    return job_features(folder, cells, frames, (), clips=True)


def job_both(folder: Path, cells: int, frames: int) -> Callable[[], Any]:
    return job_features(folder, cells, frames, clips=True)


def job_serial(folder: Path, cells: int, frames: int) -> Callable[[], Any]:
    return job_features(folder, cells, frames, executor="serial", workers=1)


def job_processes(folder: Path, cells: int, frames: int) -> Callable[[], Any]:
    return job_features(folder, cells, frames, executor="processes")


def job_published(folder: Path, cells: int, frames: int) -> Callable[[], Any]:
    import h5py
    from _candidate_by_candidate import ByCandidate

    recording = recording_of(folder, cells, frames)
    dataset = h5py.File(folder / "movie.h5")["mov"]
    who = np.random.default_rng(0).choice(cells, min(cells, PUBLISHED_CELLS), replace=False)
    by_candidate = ByCandidate(dataset, recording.footprints, recording.traces)

    def job() -> None:
        with np.errstate(all="ignore"):
            for i in who:
                by_candidate.features(int(i))

    return job


def job_clip_reads(folder: Path, cells: int, frames: int) -> Callable[[], Any]:
    """Every read is timed, from the bytes on disk to frames in the unit of the movie; the clips are those that `job_clips` left."""
    from actsort_core.clips import Clips

    recording, path = recording_of(folder, cells, frames), _clips(folder, cells)
    assert recording.candidate_fingerprints  # a session knows them, and the recording's, before anybody asks for a clip
    assert recording.fingerprint
    rng = np.random.default_rng(0)
    reads = [int(i) for _ in range(3) for i in rng.permutation(cells)[:CLIP_CELLS]]

    def read(clips: Clips, i: int, clock: Callable[[], float] = time.perf_counter) -> float:
        start = clock()
        clip = clips.read(recording, i)
        assert clip is None or clip.frames.size
        return 1e3 * (clock() - start)

    def job() -> dict[str, list[float]]:
        with path.open("rb") as handle:
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # the first reads come from the disk
        with Clips(path) as clips:
            cold = [read(clips, i) for i in reads[:CLIP_CELLS]]
            warm = [read(clips, i) for i in reads]
            processor = [read(clips, i, time.thread_time) for i in reads]
            with ThreadPoolExecutor(4) as pool:
                threads = list(pool.map(lambda i: read(clips, i), reads))
        shown = (50, 95, 99, 100)
        found = {"cold": cold, "warm": warm, "processor": processor, "threads": threads}
        return {name: np.percentile(ms, shown).tolist() for name, ms in found.items()}

    return job


def _clips(folder: Path, cells: int) -> Path:
    return folder / f"clips_{cells}.h5"


def _held(folder: Path) -> int:
    return int((folder / "movie.bin").stat().st_size // (2 * int(np.prod(FOV))))


JOBS: dict[str, Callable[..., Callable[[], Any]]] = {
    "make": job_make,
    "read": job_read,
    "product": job_product,
    "features": job_features,
    "clips": job_clips,
    "features and clips": job_both,
    "features, serial": job_serial,
    "features, processes": job_processes,
    "published": job_published,
    "clip reads": job_clip_reads,
}


def measured(folder: Path, name: str, cells: int, frames: int) -> dict[str, Any]:
    """Run one measurement in a process of its own: seconds, and peak memory in MiB of it and (largest of) its children."""
    command = [sys.executable, __file__, "--job", name, "--folder", str(folder), "--cells", str(cells), "--frames", str(frames)]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return dict(json.loads(out.strip().splitlines()[-1]))


def run_job(folder: Path, name: str, cells: int, frames: int) -> None:
    job = JOBS[name](folder, cells, frames)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cpu, start = sum(os.times()[:4]), time.perf_counter()
    more = job() or {}
    took, cpu = time.perf_counter() - start, sum(os.times()[:4]) - cpu
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(json.dumps({"seconds": took, "cpu": cpu, "peak": peak / 1024, "before": before / 1024, **more}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, kind in (("folder", Path), ("job", str), ("cells", int), ("frames", int)):
        parser.add_argument(f"--{name}", type=kind, required=True)
    a = parser.parse_args()
    run_job(a.folder, a.job, a.cells, a.frames)


if __name__ == "__main__":
    main()
