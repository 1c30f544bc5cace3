"""Two annotators with half the labels each against one with all of them, on recordings that four people sorted.

    ACTSORT_BENCHMARK_DATA=DIR python benchmarks/people.py [--labels 1%] [--seeds 3] [FILES...]

Every pair of annotators in turn gives the labels, the truth is what the remaining ones agree on (where they are divided nothing is
scored), and everybody is scored against that same truth. A label counts whoever gives it, so that two people who answer the same
question spend two. The engine is what a session has by default, audits included; decisions are cut at pi.
"""

from __future__ import annotations

import argparse
import itertools
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from actsort_core import agreement, annotated, engine, learn, plugins, replays, strategies
from actsort_core.store import Options, parse_labels

Votes = dict[int, dict[int, int]]  # candidate -> annotator (0 or 1) -> 1 cell, -1 not a cell
Labels = tuple[NDArray[np.int64], NDArray[np.int8]]  # candidates in order, and 1 or 0


def latest(votes: Votes) -> Labels:
    """Every vote is a label; where both voted, the last one."""
    rows = np.array(sorted(votes), np.int64)
    return rows, np.array([list(votes[row].values())[-1] > 0 for row in rows], np.int8)


def settled(how: Callable[[agreement.Ratings], agreement.Consensus]) -> Callable[[Votes], Labels]:
    """What both say together; where they are tied, nothing."""

    def labels(votes: Votes) -> Labels:
        values = np.full((len(votes), 2), -1)
        rows = sorted(votes)
        for i, row in enumerate(rows):
            for who, said in votes[row].items():
                values[i, who] = int(said > 0)
        found = how(agreement.Ratings(tuple(rows), ("a", "b"), ("not_cell", "cell"), values)).value
        return np.array(rows, np.int64)[found >= 0], found[found >= 0].astype(np.int8)

    return labels


def by_model(ratings: agreement.Ratings) -> agreement.Consensus:
    """Ties of two people settled by Dawid and Skene's model: what `agreement.dawid_skene` does not do, for this reason."""
    heard = (ratings.values[:, :, None] == np.arange(2)).astype(np.int64)
    posterior = agreement.fit_dawid_skene(heard).posterior
    return agreement.Consensus(ratings.classes, posterior.argmax(axis=1), posterior, {})


# name, how often both are asked (0 never, 1 always), how labels are settled
DESIGNS = (
    ("one person, all labels", None, latest),
    ("two, half each, no overlap", 0.0, latest),
    ("two, 20 % overlap, latest", 0.2, latest),
    ("two, 20 % overlap, majority", 0.2, settled(agreement.majority)),
    ("two, same questions, latest", 1.0, latest),
    ("two, same questions, majority", 1.0, settled(agreement.majority)),
    ("two, same questions, ties by model", 1.0, settled(by_model)),
)


def run(
    x: NDArray[np.float32],
    choices: list[NDArray[np.int8]],
    overlap: float,
    labels_of: Callable[[Votes], Labels],
    seed: int,
    goal: int,
    loaded: plugins.Plugins,
) -> NDArray[np.bool_]:
    """The decisions after `goal` labels, the starters included."""
    options = Options()
    classifier, strategy = loaded.classifiers[options.classifier], strategies.find(loaded.strategies, options.strategy)
    rng = np.random.default_rng(seed)
    rank = np.argsort(rng.permutation(len(x)))
    setup = engine.Setup(x, np.array([0, len(x)]), rank, classifier, strategy, loaded.strategies, audits=strategy.audits, seed=seed)
    votes: Votes = {}
    spent = answered = audited = 0
    turn = None
    while True:
        rows, y = labels_of(votes)
        labelled = np.zeros(len(x), bool)
        labelled[list(votes)] = True
        short = [kind for kind in (1, -1) if (y == (kind > 0)).sum() < replays.START]
        people = len(choices)
        first = len(votes) % people
        both = people == 2 and int((len(votes) + 1) * overlap + 1e-9) > int(len(votes) * overlap + 1e-9)
        if answered == 0 and short and spent < goal:  # start from three of each; what people are divided on is no start
            kind = short[len(votes) % len(short)]
            candidate = int(rng.choice(np.flatnonzero((choices[first] == kind) & ~labelled)))
        else:
            known = engine.Known(rows, y, labelled, answered, audited)
            turn = engine.turn(setup, known, turn.fit if turn else None)
            if spent >= goal:
                return np.zeros(len(x), bool) if turn.fit is None else turn.fit.probability > turn.fit.line
            candidate = int(turn.best(1, labelled)[0]) if turn.audit is None else turn.audit[0]
            answered, audited = answered + 1, audited + (turn.audit is not None)
        who = (first, 1 - first) if both else (first,)
        votes[candidate] = {person: int(choices[person][candidate]) for person in who}
        spent += len(who)


def measure(path: Path, share: str, seeds: int, loaded: plugins.Plugins) -> None:
    """Print the table of one recording."""
    (recording,) = annotated.read(path, loaded)
    x = learn.standardise(recording.features)
    goal = parse_labels(share, len(x))
    names = list(recording.choices)
    ratings = agreement.Ratings(
        tuple(range(len(x))), tuple(names), ("not_cell", "cell"), np.column_stack([np.sign(c) for c in recording.choices.values()])
    )
    votes = np.where(ratings.values == 0, -1, (ratings.values > 0).astype(int))
    ratings = agreement.Ratings(ratings.items, ratings.annotators, ratings.classes, votes)
    kappas = [pair.kappa for pair in agreement.pairs(ratings)]
    print(
        f"{recording.name}: {len(x)} candidates, {len(names)} annotators, {goal} labels in all; Fleiss' kappa "
        f"{agreement.fleiss(ratings.counts()).kappa:.2f}, Cohen's {min(kappas):.2f} to {max(kappas):.2f}"
    )
    found: dict[str, list[dict[str, float]]] = {}
    by_run: dict[str, list[float]] = {}
    for a, b in itertools.combinations(names, 2):
        others = [recording.choices[name] for name in names if name not in (a, b)]
        truth = np.sign(np.sum(others, axis=0, dtype=np.int64)).astype(np.int8)
        for name in (a, b):
            found.setdefault("a person, everything by hand", []).append(replays.scores(recording.choices[name] > 0, truth))
        for (name, overlap, labels_of), seed in itertools.product(DESIGNS, range(seeds)):
            teams = [(a,), (b,)] if overlap is None else [(a, b) if seed % 2 == 0 else (b, a)]
            scores = []
            for team in teams:
                accepted = run(x, [recording.choices[who] for who in team], overlap or 0.0, labels_of, seed, goal, loaded)
                scores.append(replays.scores(accepted, truth))
            found.setdefault(name, []).extend(scores)
            by_run.setdefault(name, []).append(float(np.mean([s["balanced_accuracy"] for s in scores])))
    base = np.array(by_run[DESIGNS[0][0]])
    print(f"  {'labels by':<36}{'bal. acc.':>10}{'precision':>11}{'recall':>8}   against one person (pairs x seeds)")
    for name, rows in found.items():
        mean = {key: 100 * np.mean([row[key] for row in rows]) for key in ("balanced_accuracy", "precision", "recall")}
        line = f"  {name:<36}{mean['balanced_accuracy']:>10.1f}{mean['precision']:>11.1f}{mean['recall']:>8.1f}"
        if name in by_run and name != DESIGNS[0][0]:
            gain = 100 * (np.array(by_run[name]) - base)
            line += f"   {gain.mean():+.1f} (better in {int((gain > 0).sum())} of {len(gain)})"
        print(line)
    print(flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="annotated recordings; default: the .mat files in ACTSORT_BENCHMARK_DATA")
    parser.add_argument("--labels", default="1%", help="in all, by everybody together")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    folder = os.environ.get("ACTSORT_BENCHMARK_DATA")
    files = arguments.files or (sorted(Path(folder).glob("*.mat")) if folder else [])
    if not files:
        parser.error("pass annotated recordings, or set ACTSORT_BENCHMARK_DATA to a folder with some")
    loaded = plugins.load()
    print(f"engine: {Options().classifier}, {Options().strategy}; {arguments.seeds} seeds")
    for path in files:
        measure(path, arguments.labels, arguments.seeds, loaded)


if __name__ == "__main__":
    main()
