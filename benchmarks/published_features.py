"""Time of the 46 published features that need no movie against one float32 rfft of the same traces, in one run.

Both get the same cores. The rfft is measured a few rows at a time, which is faster than in one call, for its result need not be
fetched from the operating system; factors are relative to that. Each is run several times in turn, for a busy machine slows all of
them; the least and the median are shown.

python benchmarks/published_features.py [--cells 10000] [--frames 10000] [--runs 5] [--cores 2]
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from statistics import median


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=4000)
    parser.add_argument("--frames", type=int, default=4000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--cores", type=int, default=1)
    a = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: a.cores])
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(a.cores)

    import numpy as np
    import scipy.fft
    import scipy.sparse

    from actsort_core.features.published_footprints import published_footprint_features
    from actsort_core.features.published_traces import published_trace_features
    from actsort_core.simulate import simulate

    # 500 candidates are simulated, then moved and scaled: simulating all would take longer than describing them.
    some, _ = simulate(min(a.cells, 500), fov=(512, 512), n_frames=a.frames)
    rng = np.random.default_rng(0)
    copies = -(-a.cells // some.n_cells)
    traces = np.empty((copies * some.n_cells, a.frames), np.float32)
    for k in range(copies):
        traces[k * some.n_cells : (k + 1) * some.n_cells] = np.roll(some.traces, int(rng.integers(a.frames)), axis=1) * (1 + k / 100)
    traces = traces[: a.cells]
    footprints = scipy.sparse.hstack([some.footprints] * copies, "csc")[:, : a.cells]

    def blocks() -> None:
        for row in range(0, a.cells, 64):
            scipy.fft.rfft(traces[row : row + 64], axis=1, workers=a.cores)

    def seconds(run: Callable[[], object]) -> float:
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    took = np.array(
        [
            [
                seconds(blocks),
                seconds(lambda: scipy.fft.rfft(traces, axis=1, workers=a.cores)),
                seconds(lambda: published_trace_features(traces)),
                seconds(lambda: published_footprint_features(footprints, some.fov)),
            ]
            for _ in range(a.runs)
        ]
    )
    took = np.column_stack([took, took[:, 2] + took[:, 3]])
    print(f"{a.cells} candidates x {a.frames} frames, {footprints.nnz / a.cells:.0f} pixels each, {a.cores} core(s), {a.runs} runs")
    for name, column in zip(("rfft, 64 rows", "rfft, one call", "1-36 traces", "37-46 footprints", "1-46"), took.T, strict=True):
        least, middle = min(column), median(column)
        print(f"{name:<18} min {least:7.2f} s  median {middle:7.2f} s", end="")
        print(f"   {least / min(took[:, 0]):5.1f} x and {middle / median(took[:, 0]):5.1f} x rfft by 64 rows")


if __name__ == "__main__":
    main()
