"""Time and memory of the movie features and clips against one plain sparse product of the footprints with the same frames.

Every measurement runs in a process of its own (so that its peak memory is its own), in turn, several times: a busy machine slows all
of them. The fastest run of each counts. Reading the movie is part of all of them; it lies in the page cache, where the first run leaves
it. Beside the time that passed stands that of the processor, which says more when others use it, too.

python benchmarks/movie.py [--cells 10000] [--frames 3000] [--runs 3] [--scaling] [--folder DIR]   (some minutes, 2 GB of disk)

`--scaling` adds runs with more and fewer frames and candidates. `--folder` keeps the simulated movie (in plain files) for the next time
and for `benchmarks/movie_hosts.py`.
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

    def job() -> None:
        with tempfile.TemporaryDirectory(dir=folder) as where:
            also = (ClipReader(Path(where) / "clips.h5"),) if clips else ()
            execution = Execution(executor, workers)
            compute_table(recording, groups, movie=movie, execution=execution, folder=Path(where) / "pass", also=also)  # type: ignore[arg-type]
            if clips:
                print(f"clips: {(Path(where) / 'clips.h5').stat().st_size / cells / 1e3:.1f} MB per 1,000 candidates", file=sys.stderr)

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


def _held(folder: Path) -> int:
    return int((folder / "movie.bin").stat().st_size // (2 * int(np.prod(FOV))))


JOBS: dict[str, Callable[..., Callable[[], Any]]] = {
    "read": job_read,
    "product": job_product,
    "features": job_features,
    "clips": job_clips,
    "features and clips": job_both,
    "features, serial": job_serial,
    "features, processes": job_processes,
    "published": job_published,
}


def measured(folder: Path, name: str, cells: int, frames: int) -> dict[str, float]:
    """Run one measurement in a process of its own: seconds, and peak memory in MiB of it and (largest of) its children."""
    command = [sys.executable, __file__, "--job", name, "--folder", str(folder), "--cells", str(cells), "--frames", str(frames)]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return dict(json.loads(out.strip().splitlines()[-1]))


def run_job(folder: Path, name: str, cells: int, frames: int) -> None:
    job = JOBS[name](folder, cells, frames)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cpu, start = sum(os.times()[:4]), time.perf_counter()
    job()
    took, cpu = time.perf_counter() - start, sum(os.times()[:4]) - cpu
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(json.dumps({"seconds": took, "cpu": cpu, "peak": peak / 1024, "before": before / 1024}))


def compare(folder: Path, cells: int, frames: int, runs: int, names: list[str]) -> None:
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(runs):
        for name in names:
            found[name].append(measured(folder, name, cells, frames))
    print(f"{cells} candidates, {frames} frames of {FOV[0]} x {FOV[1]}, fastest of {runs} runs")
    part = {name: cells / min(cells, PUBLISHED_CELLS) if name == "published" else 1 for name in names}
    best = {name: part[name] * min(r["seconds"] for r in results) for name, results in found.items()}
    cpu = {name: part[name] * min(r["cpu"] for r in results) for name, results in found.items()}
    for name, results in found.items():
        passed = f"{best[name]:7.1f} s = {best[name] / best['product']:5.1f} x product"
        worked = f"processor {cpu[name]:7.1f} s = {cpu[name] / cpu['product']:5.1f} x"
        print(f"{name:<20} {passed}   {worked}   peak {max(r['peak'] for r in results):5.0f} MiB", flush=True)
    if {"published", "features"} <= found.keys():
        faster, less = (times["published"] / times["features"] for times in (best, cpu))
        print(f"published: from {PUBLISHED_CELLS} candidates; features take 1/{faster:.0f} of its time, 1/{less:.0f} of its processor time")


def scaling(folder: Path, cells: int, frames: int, runs: int) -> None:
    for what, sizes in (
        ("frames", [(cells, n) for n in (frames // 4, frames // 2, frames, 2 * frames, 4 * frames)]),
        ("candidates", [(n, frames) for n in (1_000, 3_000, 10_000, 30_000, 50_000)]),
    ):
        print(f"by {what}:")
        for c, f in sizes:
            results = [measured(folder, "features and clips", c, f) for _ in range(runs)]
            seconds, peak = min(r["seconds"] for r in results), max(r["peak"] for r in results)
            cpu = min(r["cpu"] for r in results)
            per = 1e3 * cpu / (f if what == "frames" else c)
            worked = f"processor {cpu:7.1f} s = {per:6.2f} ms per {what[:-1]}"
            print(f"  {c:6d} candidates, {f:6d} frames {seconds:7.1f} s   {worked}   peak {peak:5.0f} MiB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--frames", type=int, default=3_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--scaling", action="store_true")
    parser.add_argument("--only", help="comma-separated measurements")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.job:
        run_job(a.folder, a.job, a.cells, a.frames)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = a.folder or Path(temporary)
        make(folder, a.cells, a.frames)
        names = [name for name in JOBS if a.only is None or name in ("product", *a.only.split(","))]
        compare(folder, a.cells, a.frames, a.runs, names)
        if a.scaling:
            scaling(folder, a.cells, a.frames, a.runs)


if __name__ == "__main__":
    main()
