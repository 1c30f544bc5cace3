"""Why the engine is as it is: its choices against others on annotated recordings, several recordings in one session, warm starts.

Balanced accuracy in % against the majority of the other annotators, mean over annotators and seeds (the protocol of `actsort benchmark`).

python benchmarks/engine.py $ACTSORT_BENCHMARK_DATA/*.mat [--seeds 4] [--part choices|pooling|warm]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from actsort_core import engine, learn, plugins, strategies, transfer
from actsort_core.annotated import Annotated, read
from actsort_core.benchmark import goal_of
from actsort_core.classifiers import L1AdaptiveClassifier
from actsort_core.replays import START, Engine, scores, steps
from actsort_core.store import Options
from actsort_core.warm import Examples

SHARES = (0.0025, 0.005, 0.01, 0.03)
LOADED = plugins.load()
DEFAULT = LOADED.classifiers[Options().classifier]
ASK = strategies.find(LOADED.strategies, Options().strategy)


def single() -> learn.ClassifierSpec:
    """The engine's classifier without the mean of several models at the start."""
    return learn.ClassifierSpec("single", "", partial(L1AdaptiveClassifier, spread=0.0), engine=True)


def with_c(c: float) -> learn.ClassifierSpec:
    """The engine's classifier with a strength that does not follow the labels."""
    return learn.ClassifierSpec(f"C={c}", "", partial(L1AdaptiveClassifier, C=c), engine=True)


def table_of(recording: Annotated) -> NDArray[np.float32]:
    """Its features as sessions scale them."""
    return learn.stack([(recording.names, recording.features)])[1]


def curve(recording: Annotated, by: Engine, seeds: int, shares: Sequence[float] = SHARES) -> str:
    """Mean balanced accuracy at each share of labels."""
    x, goals, rows = table_of(recording), [goal_of(s, len(recording.features)) for s in shares], []
    for annotator, choices in recording.choices.items():
        truth = recording.truth(annotator)
        for seed in range(seeds):
            found = {
                step.n: scores(step.probability > step.share, truth)["balanced_accuracy"]
                for step in steps(x, choices, by, seed, range(2 * START, max(goals) + 1))
            }
            rows.append([found[goal] for goal in goals])
    return "".join(f"{100 * value:8.1f}" for value in np.mean(rows, axis=0))


def heading(title: str, shares: Sequence[float] = SHARES) -> None:
    """The first line of a table."""
    print(f"\n{title:<44}" + "".join(f"{100 * share:6.2f} %" for share in shares), flush=True)


def choices(recordings: Sequence[Annotated], seeds: int) -> None:
    """One thing changed at a time."""
    by_name = LOADED.strategies
    rows = {
        "default": Engine(ASK, DEFAULT, by_name, audits=True),
        "without audits": Engine(ASK, DEFAULT, by_name),
        "asking at pi, however few of a kind": Engine(by_name["nearest_pi"], DEFAULT, by_name, audits=True),
        "a single model from the start": Engine(ASK, single(), by_name, audits=True),
        "C = 1 always": Engine(ASK, with_c(1.0), by_name, audits=True),
        "C = .3 always": Engine(ASK, with_c(0.3), by_name, audits=True),
        "asking at random": Engine(by_name["random"], DEFAULT, by_name),
    }
    for recording in recordings:
        heading(f"{recording.name}: one thing changed at a time")
        for name, by in rows.items():
            print(f"  {name:<42}{curve(recording, by, seeds)}", flush=True)


def pooled(parts: Sequence[tuple[Annotated, str]], seed: int, goals: Sequence[int]) -> Iterator[float]:
    """Several recordings in one session: mean balanced accuracy over them after so many labels in all."""
    x = np.concatenate([table_of(recording) for recording, _ in parts])
    said = np.concatenate([recording.choices[who] for recording, who in parts])
    bounds = np.cumsum([0, *(len(recording.features) for recording, _ in parts)])
    rng = np.random.default_rng(seed)
    asked = [int(i) for kind in (1, -1) for i in rng.choice(np.flatnonzero(said == kind), START, replace=False)]
    setup = engine.Setup(x, bounds, np.argsort(rng.permutation(len(x))), DEFAULT, ASK, LOADED.strategies, audits=True, seed=seed)
    audited, turn = 0, None
    while True:
        rows = np.sort(np.array(asked))
        labelled = np.zeros(len(x), bool)
        labelled[rows] = True
        known = engine.Known(rows, (said[rows] > 0).astype(np.int8), labelled, len(asked) - 2 * START, audited)
        turn = engine.turn(setup, known, None if turn is None else turn.fit)
        assert turn.fit is not None
        if len(asked) in goals:
            cells = turn.fit.distance() > 0
            each = [
                scores(cells[a:b], recording.truth(who))["balanced_accuracy"]
                for (recording, who), a, b in zip(parts, bounds[:-1], bounds[1:], strict=True)
            ]
            yield float(np.mean(each))
        if len(asked) >= max(goals):
            return
        audited += turn.audit is not None
        asked.append(turn.audit[0] if turn.audit is not None else int(turn.best(1, labelled)[0]))


def part_of(recording: Annotated, rows: NDArray[np.int64]) -> Annotated:
    """Some of its candidates."""
    return Annotated(recording.name, recording.features[rows], {who: c[rows] for who, c in recording.choices.items()}, recording.names)


def pooling(recordings: Sequence[Annotated], seeds: int) -> None:
    """The same number of labels in one session, or divided among sessions of one recording each."""
    shares = SHARES[1:]
    for recording in recordings:
        heading(f"{recording.name}: its halves", shares)
        together, apart = [], []
        for who in recording.choices:
            for seed in range(seeds):
                order = np.random.default_rng(seed).permutation(len(recording.features))
                halves = [(part_of(recording, np.sort(rows)), who) for rows in np.array_split(order, 2)]
                together.append(list(pooled(halves, seed, [goal_of(s, len(order)) for s in shares])))
                apart.append(
                    np.mean([list(pooled([half], seed, [goal_of(s, len(half[0].features)) for s in shares])) for half in halves], axis=0)
                )
        _two(together, apart)
    for first, second in [(a, b) for i, a in enumerate(recordings) for b in recordings[i + 1 :]]:
        heading(f"{first.name} and {second.name}", shares)
        together, apart = [], []
        for pair in zip(first.choices, second.choices, strict=False):
            for seed in range(seeds):
                both = list(zip((first, second), pair, strict=True))
                n = sum(len(r.features) for r, _ in both)
                together.append(list(pooled(both, seed, [goal_of(s, n) for s in shares])))
                apart.append(
                    np.mean([list(pooled([one], seed, [goal_of(s, len(one[0].features)) for s in shares])) for one in both], axis=0)
                )
        _two(together, apart)


def _two(together: Sequence[Sequence[float]], apart: Sequence[Sequence[float]]) -> None:
    for name, rows in (("in one session", together), ("one by one", apart)):
        print(f"  {name:<42}" + "".join(f"{100 * value:8.1f}" for value in np.mean(rows, axis=0)), flush=True)


def warm(recordings: Sequence[Annotated], seeds: int) -> None:
    """Starting from another recording, with its labels as they are and spoiled."""
    shares = (0.001, 0.002, 0.005, 0.01, 0.03)
    for recording in recordings:
        for other in recordings:
            if other is recording:
                continue
            heading(f"{recording.name} from {other.name}", shares)
            given = other.examples()
            rng = np.random.default_rng(0)
            spoiled = {
                "from scratch": None,
                "warm start": given.y,
                "its labels shuffled": rng.permutation(given.y),
                "its labels inverted": 1 - given.y,
                "30 % of its labels wrong": np.where(rng.random(len(given.y)) < 0.3, 1 - given.y, given.y),
            }
            for name, y in spoiled.items():
                start = None
                if y is not None:
                    examples = Examples(given.source, given.names, given.versions, given.features, y.astype(np.int8))
                    start, _ = transfer.prepare(examples, recording.names, {})
                said = "  (left out at once)" if y is not None and start is None else ""
                print(
                    f"  {name:<42}{curve(recording, Engine(ASK, DEFAULT, LOADED.strategies, start, True), seeds, shares)}{said}", flush=True
                )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--part", choices=("choices", "pooling", "warm"))
    given = parser.parse_args()
    recordings = [recording for path in given.files for recording in read(path)]
    for name, part in (("choices", choices), ("pooling", pooling), ("warm", warm)):
        if given.part in (None, name):
            part(recordings, given.seeds)


if __name__ == "__main__":
    main()
