"""Stopping rules beside "3 %, then stop": what they save in labels, and what they lose in balanced accuracy.

python benchmarks/stopping.py FILES... [--seeds 3]; FILES as for actsort benchmark, sorted by several annotators.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from actsort_core import learn, plugins, strategies
from actsort_core.annotated import read_annotated
from actsort_core.replays import START, Engine, scores, steps
from actsort_core.stopping import LABELS, TWICE
from actsort_core.store import Options

LAST = 0.06  # share of the candidates after which a run ends, whatever the rule says


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    a = parser.parse_args()
    loaded, options = plugins.load(), Options()
    for path in a.files:
        recording = read_annotated(path, loaded)
        x, n = learn.standardise(recording.features), len(recording.features)
        runs = []
        for who, choices in recording.choices.items():
            truth = recording.truth(who)
            for seed in range(a.seeds):
                spec = loaded.classifiers[options.classifier]
                by = Engine(strategies.find(loaded.strategies, options.strategy), spec, loaded.strategies, audits=True, seed=seed)
                found = [
                    (step.n, step.fit.distance() > 0)
                    for step in steps(x, choices, by, seed, range(2 * START, int(LAST * n) + 1))
                    if step.n % TWICE == 0
                ]
                runs.append([(count, accepted, 100 * scores(accepted, truth)["balanced_accuracy"]) for count, accepted in found])
        report(recording.name, n, runs)


def report(name: str, n: int, runs: list[list[tuple[int, np.ndarray, float]]]) -> None:
    fixed = [stop_at(run, 0.03 * n) for run in runs]
    at_three = np.array([run[i][2] for run, i in zip(runs, fixed, strict=True)])
    print(f"{name}: {n} candidates, {len(runs)} runs; 3 %, then stop: balanced accuracy {at_three.mean():.1f}")
    print(f"{'rule':<44}{'labels %':>9}{'sd':>6}{'saved %':>9}{'loss':>7}{'worst':>7}{'never':>7}")
    rules = {f"{p} % of the candidates": [stop_at(run, p / 100 * n) for run in runs] for p in (1, 2, 3, 5)}
    for limit in (0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05):
        rules[f"last {LABELS} labels changed <= {100 * limit:.1f} %, twice"] = [by_change(run, limit) for run in runs]
    for rule, stops in rules.items():
        share = np.array([100 * run[i][0] / n for run, i in zip(runs, stops, strict=True)])
        loss = at_three - np.array([run[i][2] for run, i in zip(runs, stops, strict=True)])
        never = 100 * np.mean([i == len(run) - 1 for run, i in zip(runs, stops, strict=True)])
        saved = 100 - share.mean() / 0.03
        print(f"{rule:<44}{share.mean():9.2f}{share.std():6.2f}{saved:9.0f}{loss.mean():7.2f}{loss.max():7.2f}{never:6.0f}%", flush=True)


def stop_at(run: list[tuple[int, np.ndarray, float]], count: float) -> int:
    return min(range(len(run)), key=lambda i: abs(run[i][0] - count))


def by_change(run: list[tuple[int, np.ndarray, float]], limit: float) -> int:
    back = LABELS // TWICE
    below = [i >= back and float((run[i][1] != run[i - back][1]).mean()) <= limit for i in range(len(run))]
    return next((i for i in range(1, len(run)) if run[i][0] >= 2 * LABELS and below[i] and below[i - 1]), len(run) - 1)


if __name__ == "__main__":
    main()
