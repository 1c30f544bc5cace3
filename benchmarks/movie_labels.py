"""What the movie is worth in labels: balanced accuracy (%) after so many labels with and without the features from the movie.

python benchmarks/movie_labels.py [--recordings 6] [--first 0] [--seeds 5] [--cells 400]

Recordings are simulated with known truth (`actsort_core.simulate.simulate_movie`): contaminated candidates, flanks of still spots that
light up when the tissue moves, duplicates, fragments, dendrites, patches and speckles. What is asked, learned and decided is what a
session does when nothing is chosen, audits included; runs start from three cells and three not-cells, and decisions on all candidates
are compared with the truth. "as good without" is how many labels it takes without the movie to be as good as after so many with it.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse

import numpy as np
from numpy.typing import NDArray

from actsort_core import learn, plugins, replays, strategies
from actsort_core.blocks import Execution
from actsort_core.features.table import compute_table, select
from actsort_core.simulate import simulate_movie
from actsort_core.store import Options

COUNTS = (6, 10, 15, 20, 30, 40, 60, 80, 100, 120)
SHOWN = (10, 20, 30, 40, 60, 100)
MOVIE = ("movie_contamination", "movie_neighbours", "movie_match", "motion")


def tables(cells: int, seed: int, loaded: plugins.Plugins) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.int8], NDArray[np.str_]]:
    """Scaled tables by name, the truth as labels, and the kinds."""
    side = round((cells * 128) ** 0.5)
    made = simulate_movie(cells, fov=(side, side), n_frames=1500, seed=seed)
    every = compute_table(
        made.recording, select(loaded.features, ["+actsort76", "+motion", "+duplicates"]), movie=made.movie, execution=Execution("serial")
    )
    groups = {name: {feature.name for feature in group.features} for name, group in loaded.features.items()}
    default = {feature.name for group in select(loaded.features, None) for feature in group.features}
    movie = set().union(*(groups[name] for name in MOVIE))
    plain = groups["published_trace"] | groups["published_footprint"]
    out = {}
    for name, kept in {
        "with the movie": default,
        "with it and duplicates": default | groups["duplicates"],
        "with all from the movie": default | movie,
        "without": default - movie,
        "without, duplicates": default - movie | groups["duplicates"],
        "actsort76": plain | movie - groups["motion"],
        "actsort46": plain,
    }.items():
        columns = [i for i, column in enumerate(every.names) if column in kept]
        out[name] = learn.stack([(tuple(every.names[i] for i in columns), every.values[:, columns])])[1]
    return out, np.where(made.truth > 0, 1, -1).astype(np.int8), made.kinds


def replay(x: NDArray[np.float32], choices: NDArray[np.int8], seed: int, loaded: plugins.Plugins) -> tuple[list[float], NDArray[np.bool_]]:
    """Balanced accuracy at `COUNTS`, and the decisions after the last."""
    spec = loaded.classifiers[Options().classifier]
    engine = replays.Engine(strategies.find(loaded.strategies, Options().strategy), spec, loaded.strategies, None, True, seed)
    out = []
    for step in replays.steps(x, choices, engine, seed, range(6, max(COUNTS) + 1)):
        accepted = step.probability > step.share
        if step.n in COUNTS:
            out.append(100 * replays.scores(accepted, choices)["balanced_accuracy"])
    return out, accepted


def labels_to_reach(curve: NDArray[np.float64], target: float) -> str:
    """Labels after which a curve first reaches `target`, between its points by straight lines."""
    best = np.maximum.accumulate(curve)
    if best[-1] < target:
        return f"> {COUNTS[-1]}"
    i = int(np.argmax(best >= target))
    if i == 0:
        return str(COUNTS[0])
    part = (target - best[i - 1]) / (best[i] - best[i - 1])
    return f"{COUNTS[i - 1] + part * (COUNTS[i] - COUNTS[i - 1]):.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=int, default=6)
    parser.add_argument("--first", type=int, default=0, help="the first recording's number: default columns were chosen on 0 to 19")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--cells", type=int, default=400)
    a = parser.parse_args()
    loaded = plugins.load(discover=False)
    curves: dict[str, list[list[float]]] = {}
    right: dict[str, dict[str, list[float]]] = {}
    widths: dict[str, int] = {}
    for recording in range(a.first, a.first + a.recordings):
        found, choices, kinds = tables(a.cells, recording, loaded)
        for name, x in found.items():
            widths[name] = x.shape[1]
            for seed in range(a.seeds):
                curve, accepted = replay(x, choices, seed, loaded)
                curves.setdefault(name, []).append(curve)
                for kind in np.unique(kinds):
                    hit = (accepted == (choices > 0))[kinds == kind].mean()
                    right.setdefault(str(kind), {}).setdefault(name, []).append(100 * float(hit))
    print(f"{a.recordings} recordings of {a.cells} candidates, {a.seeds} runs each: balanced accuracy (%) after so many labels")
    print(f"{'':<26}{'columns':>8}" + "".join(f"{n:>8}" for n in SHOWN))
    means = {name: np.mean(rows, axis=0) for name, rows in curves.items()}
    for name, mean in means.items():
        print(f"{name:<26}{widths[name]:>8}" + "".join(f"{mean[COUNTS.index(n)]:8.1f}" for n in SHOWN))
    pairs = (("with the movie", "without"), ("with it and duplicates", "without, duplicates"), ("actsort76", "actsort46"))
    for one, other in pairs:
        reached = [labels_to_reach(means[other], means[one][COUNTS.index(n)]) for n in SHOWN]
        print(f"{'as good ' + other:<34}" + "".join(f"{n:>8}" for n in reached))
        gain = np.array(curves[one])[:, COUNTS.index(20)] - np.array(curves[other])[:, COUNTS.index(40)]
        error = gain.std(ddof=1) / len(gain) ** 0.5
        print(f"{one} after 20 labels minus {other} after 40: {gain.mean():+.1f} +- {error:.1f} points (standard error over runs)")
    print(f"\nright after {COUNTS[-1]} labels, % of each kind\n{'':<14}" + "".join(f"{name:>26}" for name in means))
    for kind, by_name in right.items():
        print(f"{kind:<14}" + "".join(f"{np.mean(by_name[name]):26.1f}" for name in means))


if __name__ == "__main__":
    main()
