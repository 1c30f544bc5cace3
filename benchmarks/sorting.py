"""Balanced accuracy of the decisions after N labels, over seeds, beside the toolkit's own verdicts.

Without arguments, for the two examples that ship; with RESULT TRUTH [--labels 40 60] [--seeds 8], for that result.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

import actsort_core as actsort
from actsort_core import plugins
from actsort_core.oracle import answerer, balanced_accuracy, read_truth

DATA = Path(__file__).parents[1] / "examples" / "data"
SHIPPED = [(DATA / "suite2p/plane0", DATA / "suite2p.truth.json"), (DATA / "caiman_2p.hdf5", DATA / "caiman_2p.truth.json")]


def measure(path: Path, truth_file: Path, labels: list[int], seeds: int, error_rate: float, strategies: list[str]) -> None:
    loaded = plugins.load()
    for strategy in strategies:
        for goal in labels:
            scores = []
            for seed in range(seeds):
                with (
                    tempfile.TemporaryDirectory() as folder,
                    actsort.open(path, session=folder, seed=seed, strategy=strategy, plugins=loaded) as session,
                ):
                    truth = read_truth(truth_file, len(session.candidates))
                    session.sort(answerer(session, truth, error_rate, seed), goal)
                    scores.append(balanced_accuracy(np.array([d.accepted for d in session.decisions()]), truth) or np.nan)
                    prior = np.concatenate([p.verdict > 0 for p in session.priors.values()])
            host = balanced_accuracy(prior, truth) or np.nan
            print(
                f"{path.name:<22}{strategy:<14}{goal:>4} of {len(truth)} labels  mean {np.mean(scores):.3f}  "
                f"sd {np.std(scores):.3f}  worst {min(scores):.3f}  toolkit {host:.3f}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", nargs="?", type=Path)
    parser.add_argument("truth", nargs="?", type=Path)
    parser.add_argument("--labels", nargs="+", type=int, default=[10, 15, 20])
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--errors", type=float, default=0.0, help="share of mistaken answers")
    parser.add_argument("--strategies", nargs="+", default=["balanced_pi", "random"])
    a = parser.parse_args()
    for path, truth in [(a.result, a.truth)] if a.result else SHIPPED:
        measure(path, truth, a.labels, a.seeds, a.errors, a.strategies)


if __name__ == "__main__":
    main()
