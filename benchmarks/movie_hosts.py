"""CaImAn's `evaluate_components` and Suite2p's `roi_stats` on the candidates of `benchmarks/features.py`, timed in their own environments.

`benchmarks/features.py` (part `hosts`) calls it with every interpreter it knows of. By hand:

python benchmarks/features.py --only movie --folder DIR          (leaves the movie and the candidates there)
ENVIRONMENT/bin/python benchmarks/movie_hosts.py DIR [--cells 1000]

Runs what can be imported: one thread, no cluster, CaImAn without its neural network. CaImAn's movie is written as its own memory map
before the clock starts. What they compute is not what `actsort` computes: it is what people run today at the same place.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"  # before NumPy is loaded

import argparse
import time
from pathlib import Path

import numpy as np
import scipy.sparse as sp

FOV = (512, 512)


def caiman(folder: Path, footprints: sp.csc_matrix, traces: np.ndarray) -> float:
    from caiman.source_extraction.cnmf.estimates import Estimates
    from caiman.source_extraction.cnmf.params import CNMFParams

    n, pixels = traces.shape[1], FOV[0] * FOV[1]
    path = folder / f"caiman_d1_{FOV[0]}_d2_{FOV[1]}_d3_1_order_C_frames_{n}.mmap"
    if not path.exists():
        movie = np.memmap(folder / "movie.bin", np.int16, "r", shape=(n, *FOV))
        out = np.memmap(path, np.float32, "w+", shape=(pixels, n))
        for row in range(0, FOV[1], 32):  # CaImAn counts pixels along columns
            out[row * FOV[0] : (row + 32) * FOV[0]] = movie[:, :, row : row + 32].transpose(2, 1, 0).reshape(-1, n)
        out.flush()
    images = np.reshape(np.memmap(path, np.float32, "r", shape=(pixels, n)).T, (n, *FOV), order="F")
    order = np.arange(pixels).reshape(FOV).ravel(order="F")  # of our pixels, as CaImAn has them
    a = sp.csc_matrix(footprints.tocsr()[order])
    norm = np.sqrt(np.asarray(a.multiply(a).sum(axis=0)).ravel())
    a = sp.csc_matrix(a.multiply(1 / norm))
    c = np.maximum(traces * norm[:, None], 0).astype(np.float64)
    estimates = Estimates(A=a, b=np.zeros((pixels, 1)), C=c, f=np.zeros((1, n)), dims=FOV)
    estimates.YrA = traces * norm[:, None] - c
    settings = CNMFParams(params_dict={"fr": 15.0, "decay_time": 0.7, "gSig": [4, 4], "use_cnn": False})
    start = time.perf_counter()
    estimates.evaluate_components(images, settings)
    return time.perf_counter() - start


def suite2p(footprints: sp.csc_matrix) -> float:
    try:
        from suite2p.detection.stats import roi_stats
    except ImportError:  # 0.14
        from suite2p.detection import roi_stats
    stat = []
    for i in range(footprints.shape[1]):
        column = footprints[:, [i]]
        rows, columns = np.unravel_index(column.indices, FOV)
        stat.append({"ypix": rows, "xpix": columns, "lam": column.data})
    start = time.perf_counter()
    roi_stats(np.array(stat), *FOV)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cells", type=int, default=1_000, help="how many of the candidates")
    a = parser.parse_args()
    footprints = sp.load_npz(a.folder / "footprints.npz").tocsc()[:, : a.cells]
    traces = np.load(a.folder / "traces.npy", mmap_mode="r")[: a.cells]
    for name, job in (
        ("CaImAn evaluate_components", lambda: caiman(a.folder, footprints, np.array(traces))),
        ("Suite2p roi_stats", lambda: suite2p(footprints)),
    ):
        cpu = time.process_time()
        try:
            seconds = job()
        except ImportError as error:
            print(f"{name}: not here ({error})")
            continue
        cpu = time.process_time() - cpu
        print(f"{name}: {a.cells} candidates in {seconds:.1f} s (processor, with preparation: {cpu:.1f} s)", flush=True)


if __name__ == "__main__":
    main()
