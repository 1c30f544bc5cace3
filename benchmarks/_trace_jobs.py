"""Time of the feature groups that need no movie against one float32 rfft of the same traces: a part of `benchmarks/features.py`.

Each is run several times in turn (a busy machine slows all of them) and the fastest run of each counts; so the rfft is warm, its
memory already fetched from the system. The rfft has one thread; the published trace features use up to two.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import replace

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import scipy.fft
import scipy.sparse

from actsort_core import plugins
from actsort_core.features.table import compute_table, select
from actsort_core.model import Prior, Recording
from actsort_core.simulate import simulate


def recording_of(cells: int, frames: int) -> Recording:
    """Five hundred simulated candidates, copied with shifted and scaled traces: simulating all would take longer than the rest."""
    some, _ = simulate(min(cells, 500), fov=(512, 512), n_frames=frames)
    rng = np.random.default_rng(0)
    copies = -(-cells // some.n_cells)
    traces = np.empty((copies * some.n_cells, frames), np.float32)
    for k in range(copies):
        traces[k * some.n_cells : (k + 1) * some.n_cells] = np.roll(some.traces[:], int(rng.integers(frames)), axis=1) * (1 + k / 100)
    footprints = scipy.sparse.csc_matrix(scipy.sparse.hstack([some.footprints] * copies, "csc")[:, :cells])
    return replace(some, traces=traces[:cells], footprints=footprints, prior=Prior.undecided(cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("cells", "frames", "runs"):
        parser.add_argument(f"--{name}", type=int, required=True)
    a = parser.parse_args()
    recording = recording_of(a.cells, a.frames)
    groups = plugins.load().features

    def features(names: list[str] | None) -> Callable[[], object]:
        return lambda: compute_table(recording, select(groups, names))

    runs = {
        "rfft": lambda: scipy.fft.rfft(recording.traces, axis=1),
        **{name: features([name]) for name in ("trace", "footprint", "neighbour", "published_trace", "published_footprint")},
        "default groups": features(None),
        "actsort46": features(["actsort46"]),
    }
    took: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(a.runs):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            took[name].append(time.perf_counter() - start)
    alternative = min(took["rfft"])
    pixels = recording.footprints.nnz / a.cells
    print(f"{a.cells:,} candidates x {a.frames:,} frames, {pixels:.0f} pixels each, fastest of {a.runs} runs")
    print(f"{'one float32 rfft of the traces':<32} {alternative:7.2f} s (first call, memory still to be fetched: {took['rfft'][0]:.2f} s)")
    for name, seconds in list(took.items())[1:]:
        print(f"{name:<32} {min(seconds):7.2f} s = {min(seconds) / alternative:5.1f} x rfft")


if __name__ == "__main__":
    main()
