"""Time of the feature table against one float32 rfft of the same traces, in one run, one thread.

python benchmarks/features.py [--cells 2000] [--frames 5000]
"""

from __future__ import annotations

import argparse
import os
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import scipy.fft

from actsort_core import plugins
from actsort_core.features.table import compute_table, select
from actsort_core.simulate import simulate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=2000)
    parser.add_argument("--frames", type=int, default=5000)
    a = parser.parse_args()
    recording, _ = simulate(a.cells, fov=(256, 320), n_frames=a.frames)
    traces = np.asarray(recording.traces[:])
    start = time.perf_counter()
    for row in range(0, a.cells, 256):
        scipy.fft.rfft(traces[row : row + 256], axis=1)
    alternative = time.perf_counter() - start
    print(f"{a.cells} candidates x {a.frames} frames; float32 rfft of the traces: {alternative:.2f} s")
    groups = plugins.load().features
    for names in (["trace"], ["footprint"], ["neighbour"], None):
        start = time.perf_counter()
        table = compute_table(recording, select(groups, names))
        took = time.perf_counter() - start
        print(f"{'+'.join(names or ['all']):<12}{len(table.names):>4} features {took:7.2f} s = {took / alternative:5.1f} x rfft")


if __name__ == "__main__":
    main()
