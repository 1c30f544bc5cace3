"""Recordings with few features: what the non-linear terms of `actsort_core.expand` buy, in balanced accuracy (%).

ACTSORT_BENCHMARK_DATA=FOLDER python benchmarks/few_features.py [--seeds 10]

On Suite2p's own training data (FOLDER/suite2p_classifier/classifier.npy: 14,058 ROIs labelled by people, 3 features) and on simulated
candidates with 5 features: a cell has a middle size ("range"), or the more the better ("line"). "active" asks nearest to pi, audits
included; "random" labels candidates drawn at random; "all" is the same classifier trained on every row.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from actsort_core import audits
from actsort_core.classifiers import L1AdaptiveClassifier
from actsort_core.expand import expand
from actsort_core.learn import standardise

COUNTS = (20, 40, 60, 80, 100, 150, 300)


def suite2p(folder: Path) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    from actsort_adapters._npy import read_dict  # the file is a pickle: read through a list of harmless types

    content = read_dict(folder / "suite2p_classifier" / "classifier.npy")
    return np.asarray(content["stats"], np.float32), np.asarray(content["iscell"]) > 0


def simulated(kind: str, n: int = 3000) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(n, 5))
    score = 3 - 4 * np.abs(z[:, 0]) + z[:, 1] if kind == "range" else 2 * z[:, 0] + z[:, 1] - 0.5
    return np.exp(z).astype(np.float32), score + rng.logistic(0, 0.5, n) > 0


def tables(x: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    names = [f"feature_{i}" for i in range(x.shape[1])]
    return {"raw": standardise(x), "expanded": standardise(expand(names, x)[1])}


def balanced_accuracy(score: NDArray[np.float32], y: NDArray[np.bool_]) -> float:
    p = 1 / (1 + np.exp(-score))
    accepted = p > p.mean()
    return 50 * float(accepted[y].mean() + (~accepted[~y]).mean())


def all_rows(x: NDArray[np.float32], y: NDArray[np.bool_]) -> float:
    return balanced_accuracy(L1AdaptiveClassifier().fit(x, y).log_odds(x), y)


def replay(x: NDArray[np.float32], y: NDArray[np.bool_], seed: int, counts: Sequence[int], ask: str) -> list[float]:
    rng = np.random.default_rng(seed)
    asked = [int(i) for kind in (True, False) for i in rng.choice(np.flatnonzero(y == kind), 3, replace=False)]
    free = np.ones(len(x), bool)
    model, out = None, []
    while True:
        free[asked] = False
        rows = np.sort(asked)
        model = L1AdaptiveClassifier().fit(x[rows], y[rows], start=model)
        score = model.log_odds(x)
        p = 1 / (1 + np.exp(-score))
        if len(asked) in counts:
            out.append(balanced_accuracy(score, y))
        if len(asked) >= max(counts):
            return out
        if ask == "random":
            asked.append(int(rng.choice(np.flatnonzero(free))))
        elif audits.due(len(asked) - 6 + 1) > audits.due(len(asked) - 6):
            share = float(p.mean())
            asked.append(audits.draw(score - np.log(share / (1 - share)), free, rng)[0])
        else:
            asked.append(int(np.argmin(np.where(free, np.abs(p - p.mean()), np.inf))))


def measure(x: NDArray[np.float32], y: NDArray[np.bool_], seeds: int, counts: Sequence[int], ask: str) -> tuple[list[float], list[float]]:
    runs = np.array([replay(x, y, seed, counts, ask) for seed in range(seeds)])
    return runs.mean(axis=0).tolist(), runs.std(axis=0).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    a = parser.parse_args()
    data = os.environ.get("ACTSORT_BENCHMARK_DATA")
    sources = {"simulated range": simulated("range"), "simulated line": simulated("line")}
    if data:
        sources = {"suite2p": suite2p(Path(data)), **sources}
    else:
        print("ACTSORT_BENCHMARK_DATA is not set: simulated candidates only.")
    print(f"{'':<34}{'columns':>8}{'all':>7}" + "".join(f"{n:>7}" for n in COUNTS) + f"   all - {100}   (mean of {a.seeds} seeds)")
    for name, (x, y) in sources.items():
        for kind, values in tables(x).items():
            everything = all_rows(values, y)
            for ask in ("active", "random"):
                mean, _ = measure(values, y, a.seeds, COUNTS, ask)
                row = "".join(f"{m:7.1f}" for m in mean)
                gap = everything - mean[COUNTS.index(100)]
                print(f"{name:<17}{kind:<10}{ask:<7}{values.shape[1]:>8}{everything:7.1f}{row}{gap:10.2f}", flush=True)


if __name__ == "__main__":
    main()
