"""Replaying recorded annotators: the decisions after so many labels, beside how well people agree.

The protocol of the NeurIPS 2024 paper, kept exact so that figures compare. Each annotator in turn gives the labels; the truth is
the majority of the others; the human level is the annotator against that truth. A run starts from three cells and three not-cells
drawn at random, asks one candidate at a time, fits after each, and scores the classifier's decisions over all candidates.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actsort_core import calibration, expand, learn, quality, strategies, transfer
from actsort_core.annotated import Annotated, read, read_annotated
from actsort_core.errors import UsageError
from actsort_core.plugins import Plugins, load
from actsort_core.quality_prior import evidence_of
from actsort_core.replays import START, Engine, Step, auc, calibration_error, replay, scores, steps
from actsort_core.store import Options, parse_threshold
from actsort_core.transfer import Warm
from actsort_core.warm import Examples, concatenate, read_examples

__all__ = ["Annotated", "Entry", "auc", "entries", "goal_of", "learn", "read", "read_annotated", "replay", "run", "scores"]

PUBLISHED = ("cal", "dal", "dcal", "random", "first_to_last")
DEFAULT_NAMES = (*PUBLISHED, "default", "default-noaudit")
DEFAULT_FRACTIONS = ("0.005", "0.01", "0.03", "0.05")
PUBLISHED_THRESHOLDS = (0.5, 0.65)  # the app's slider, the paper
CRITERIA = ("balanced_accuracy", "precision_and_recall")  # what "reaching the human" may mean
WITHIN = 0.05  # the share of labels up to which "reaching the human" is refitted after each label, and reported beside the whole
_NO_AUDIT = "-noaudit"
_POINTS = 40  # of a learning curve; refits from 5 % of the labels to all of them


@dataclass(frozen=True)
class Entry:
    """What is replayed: a strategy, and the thresholds its decisions are scored at (None is pi), by the name they are shown under.

    Attributes
    ----------
    strategy
        Registered name.
    published
        True: as published, plain z-scores and `l1_logistic`, without warm start or audits. False: as sessions do it.
    audits
        Whether some questions are audits, where a session would have them.
    thresholds
        Shown name and threshold.
    """

    strategy: str
    published: bool
    audits: bool
    thresholds: tuple[tuple[str, float | None], ...]


def entries(names: Sequence[str], plugins: Plugins) -> tuple[Entry, ...]:
    """What is meant by names like ``cal`` (published: at .5 and .65), ``cal@0.5``, ``dcal-0.3``, ``nearest_pi`` or ``default``.

    Published strategies learn from plain z-scores, as published; all others as sessions do, with audits unless the name ends in
    ``-noaudit``.

    Raises
    ------
    UnknownNameError, UsageError
        There is no such strategy, or the threshold is none.
    """
    out: dict[tuple[str, bool, bool], list[tuple[str, float | None]]] = {}
    for name in names:
        plain, at, given = name.partition("@")
        base = plain.removesuffix(_NO_AUDIT)
        strategy = Options().strategy if base == "default" else strategies.find(plugins.strategies, base).name
        published = base in PUBLISHED or base.startswith("dcal-")
        if at:
            shown = [(name, _number(given))]
        elif published:
            shown = [(f"{plain}@{t}", t) for t in PUBLISHED_THRESHOLDS]
        else:
            shown = [(plain if base == "default" else f"{plain}@pi", None)]
        kept = out.setdefault((strategy, published, not published and plain == base), [])
        kept += [entry for entry in shown if entry not in kept]
    return tuple(Entry(strategy, published, audits, tuple(thresholds)) for (strategy, published, audits), thresholds in out.items())


def _number(given: str) -> float | None:
    found = parse_threshold(given)
    if isinstance(found, str):
        raise UsageError(f"{found} is no threshold that a replay can be scored at.", "Give a probability, or pi.")
    return found


# ---- one run


@dataclass(frozen=True)
class _Task:
    recording: int
    annotator: str
    entry: Entry
    seed: int


@dataclass
class _Run:
    """What came of one run at one threshold."""

    at: dict[int, dict[str, float]] = field(default_factory=dict)  # scores by number of the fraction
    curve: list[float] = field(default_factory=list)  # balanced accuracy at the curve's counts
    reached: dict[str, int] = field(default_factory=dict)  # labels after which the human was reached, by criterion
    quality: dict[int, dict[str, float]] = field(default_factory=dict)  # what was stated of it, by number of the fraction


_shared: dict[str, Any] = {}


def _prepare(
    recordings: Sequence[Annotated],
    shares: Sequence[float],
    warm: Sequence[Warm | None],
    to_human: bool,
    plugins: Plugins | None = None,
) -> None:
    """What every run of a process shares."""
    from threadpoolctl import threadpool_limits

    _shared.update(
        recordings=recordings,
        shares=shares,
        warm=warm,
        to_human=to_human,
        plugins=plugins or load(),
        scaled={(i, ours): _scaled(r, ours) for i, r in enumerate(recordings) for ours in (True, False)},
        # The processes share the cores already; and sums must not depend on how many threads add them up.
        limits=threadpool_limits(1),
    )


def _scaled(recording: Annotated, ours: bool) -> NDArray[np.float32]:
    """The table as sessions see it, or plain z-scores, as published."""
    return learn.stack([(recording.names, recording.features)])[1] if ours else learn.standardise(recording.features, clip=False)


def goal_of(fraction: float, n: int) -> int:
    """How many labels a fraction of `n` candidates is: rounded up, at least the six starters."""
    return max(2 * START, math.ceil(round(fraction * n, 9)))


def _points(first: int, last: int, n: int = _POINTS) -> list[int]:
    """About `n` whole numbers from `first` to `last`, evenly spaced in their logarithm."""
    return sorted({round(value) for value in np.geomspace(first, max(first, last), n)})


def _schedule(n_cells: int, goal: int, to_human: bool) -> list[int]:
    """After how many labels to fit: after each up to the goal (5 % at least, to reach the human), then at 40 counts."""
    if not to_human:
        return list(range(2 * START, goal + 1))
    each = min(max(goal, goal_of(WITHIN, n_cells)), max(n_cells, 2 * START))
    return [*range(2 * START, each + 1), *(count for count in _points(each, n_cells, _POINTS + 1) if count > each)]


def _run(task: _Task) -> tuple[_Task, dict[str, _Run]]:
    """One run, by shown name."""
    recording: Annotated = _shared["recordings"][task.recording]
    plugins: Plugins = _shared["plugins"]
    entry, n_cells = task.entry, len(recording.features)
    goals = [goal_of(share, n_cells) for share in _shared["shares"]]
    choices, truth = recording.choices[task.annotator], recording.truth(task.annotator)
    human = _human(recording, task.annotator)
    points = _points(2 * START, max(goals))
    to_human = _shared["to_human"] and human is not None
    engine = Engine(
        strategies.find(plugins.strategies, entry.strategy),
        plugins.classifiers["l1_logistic" if entry.published else Options().classifier],
        plugins.strategies,
        None if entry.published else _shared["warm"][task.recording],
        entry.audits,
        task.seed,
    )
    out = {name: _Run() for name, _ in entry.thresholds}
    x = _shared["scaled"][task.recording, not entry.published]
    for step in steps(
        x,
        choices,
        engine,
        task.seed,
        _schedule(n_cells, max(goals), to_human),
    ):
        due = [i for i, goal in enumerate(goals) if goal == step.n]
        area = auc(step.probability, truth) if due else math.nan
        p, appraised = step.probability, None
        if due and not entry.published:
            appraised = _appraised(step, recording, choices, engine, x)
            p = appraised[1].probability(appraised[0].d)
        error = calibration_error(p, choices) if due else math.nan
        for name, threshold in entry.thresholds:
            result = out[name]
            accepted = step.probability > (step.share if threshold is None else threshold)
            found = scores(accepted, truth)
            if human is not None:
                _note_reached(result.reached, found, human, step.n)
            if step.n in points:
                result.curve.append(found["balanced_accuracy"])
            for i in due:
                result.at[i] = {**found, "auc": area, "labels": float(step.n), "ece": error}
                if human is not None:
                    result.at[i]["reached_human"] = float("balanced_accuracy" in result.reached)
                if entry.audits and name == "default" and appraised:
                    decided = np.where(step.labelled, choices > 0, accepted)
                    stated = quality.estimate(*appraised).balanced_accuracy
                    result.quality[i] = _against(stated, scores(decided, choices)["balanced_accuracy"])
        if to_human and step.n >= max(goals) and all(len(result.reached) == len(CRITERIA) for result in out.values()):
            break
    return task, out


def _note_reached(reached: dict[str, int], found: Mapping[str, float], human: Mapping[str, float], n: int) -> None:
    if found["balanced_accuracy"] >= human["balanced_accuracy"]:
        reached.setdefault("balanced_accuracy", n)
    if found["precision"] >= human["precision"] and found["recall"] >= human["recall"]:
        reached.setdefault("precision_and_recall", n)


def _human(recording: Annotated, annotator: str) -> dict[str, float] | None:
    """The annotator against the truth, over what they said; None where nobody else says what is true."""
    if len(recording.choices) < 2:
        return None
    said = recording.choices[annotator]
    return scores(said > 0, np.where(said != 0, recording.truth(annotator), 0).astype(np.int8))


def _appraised(
    step: Step, recording: Annotated, choices: NDArray[np.int8], by: Engine, x: NDArray[np.float32]
) -> tuple[calibration.Evidence, calibration.Calibration]:
    """What a session would know of its own quality after a step."""
    familiar = calibration.read_prior().familiar(recording.names)
    evidence = replace(evidence_of(step, x, choices, by, np.arange(len(x))), familiar=familiar)
    return evidence, calibration.calibrate(evidence)


def _against(stated: quality.Stated, true: float) -> dict[str, float]:
    """How good one statement was."""
    covered = float(stated.low <= true <= stated.high)
    return {"mean_absolute_error": abs(stated.value - true), "coverage": covered, "width": stated.high - stated.low}


# ---- all runs


def run(
    recordings: Sequence[Annotated | Path | str],
    names: Sequence[str] = DEFAULT_NAMES,
    seeds: int = 3,
    fractions: Sequence[str] = DEFAULT_FRACTIONS,
    plugins: Plugins | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    *,
    warm_start: Sequence[Examples | Path | str] = (),
    to_human: bool = False,
) -> dict[str, Any]:
    """Replay strategies on annotated recordings: ``actsort benchmark`` as a call.

    Parameters
    ----------
    recordings
        Paths (see `annotated.read`), or what was read from them.
    names
        See `entries`.
    seeds
        Runs per annotator and strategy, with seeds 0, 1...
    fractions
        Shares of the candidates at which decisions are scored; without `to_human` a run stops at the largest.
    plugins
        Plug-ins already loaded (then everything runs in this process).
    workers
        Processes; by default as many as there are cores. The result does not depend on it.
    progress
        Called with how many runs are done and of how many.
    warm_start
        Paths (see `warm.read_examples`) or examples that strategies of ours start from; their names then end in ``+warm``.
        Published strategies stay as they are. Nothing is ever a warm start of itself.
    to_human
        Go on until the human level is reached, or everything is labelled.

    Returns
    -------
    The document of docs/benchmark.md: ``{"recordings": [{"name", "n", "human", "strategies": {shown name: {fraction as typed:
    mean scores}}, "curves", "to_human", "notes"}]}``.

    Raises
    ------
    UsageError
        Something cannot be meant, or no annotator has three labels of each class.
    """
    shares = [_share(fraction) for fraction in fractions]
    if seeds < 1:
        raise UsageError(f"{seeds} seeds are no runs.", "Give at least one.")
    loaded = plugins or load()
    wanted = entries(names, loaded)
    sources = [r for one in recordings for r in ([one] if isinstance(one, Annotated) else read(one, loaded))]
    examples = [one if isinstance(one, Examples) else read_examples(one, loaded) for one in warm_start]
    people, notes, warm, given = [], [], [], []
    for source in sources:
        usable, said = _usable(source, max(shares))
        matched, others, also = _matched(source, examples)
        given.append(others)
        people.append(usable)
        warm.append(matched)
        notes.append([*said, *also])
    if not any(people):
        raise UsageError("No annotator can be replayed.", " ".join(note for said in notes for note in said))
    tasks = [
        _Task(i, annotator, entry, seed)
        for i, usable in enumerate(people)
        for entry in wanted
        for annotator in usable
        for seed in range(seeds)
    ]
    results: dict[tuple[int, str], list[tuple[str, _Run]]] = {}
    n_workers = 1 if plugins is not None else min(workers or _cores(), len(tasks))
    for done, (task, found) in enumerate(_all(tasks, (sources, shares, warm, to_human), n_workers, plugins), 1):
        for name, result in found.items():
            results.setdefault((task.recording, name), []).append((task.annotator, result))
        if progress:
            progress(done, len(tasks))
    out = []
    for i, recording in enumerate(sources):
        row: dict[str, Any] = {"name": recording.name, "n": len(recording.features), "human": _human_level(recording, people[i])}
        row |= {"strategies": {}, "curves": {}, **({"to_human": {}} if to_human else {}), "notes": notes[i]}
        for entry in wanted:
            for name, _ in entry.thresholds:
                shown = f"{name}+warm" if given[i] and not entry.published else name
                runs = results.get((i, name), [])
                row["strategies"][shown] = {fraction: at for j, fraction in enumerate(fractions) if (at := _at(runs, j))}
                row["curves"][shown] = _curve(runs, _points(2 * START, max(goal_of(s, row["n"]) for s in shares)))
                if to_human:
                    row["to_human"][shown] = _effort(runs, row["n"]) if row["human"]["balanced_accuracy"] is not None else None
        out.append(row)
    return {"recordings": out}


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _usable(recording: Annotated, largest: float) -> tuple[list[str], list[str]]:
    """The annotators who can be replayed, and what is to be said of the others (who still take part in the truth)."""
    notes, usable = [], []
    for who, said in recording.choices.items():
        truth = recording.truth(who)
        cells, others = int((said > 0).sum()), int((said < 0).sum())
        if min(cells, others) < START:
            notes.append(f"{who} is not replayed: {cells} cells and {others} not-cells; a run starts from {START} of each.")
        elif not (truth > 0).any() or not (truth < 0).any():
            notes.append(f"{who} is not replayed: the others agree on no {'cell' if (truth < 0).any() else 'not-cell'}.")
        else:
            usable.append(who)
            if cells + others < goal_of(largest, len(said)):
                notes.append(f"{who} labelled {cells + others} of {len(said)} candidates: fractions beyond that are without {who}.")
    if len(recording.choices) == 1:
        notes.append("One annotator only: the truth is that annotator's own labels, and there is no human level to compare with.")
    return usable, notes


def _matched(recording: Annotated, examples: Sequence[Examples]) -> tuple[Warm | None, bool, list[str]]:
    """The examples ready for the recording's columns, without those that are this recording.

    Returns
    -------
    The warm start, or None where there is none or its labels are noise; whether there were others than this recording; notes.
    """
    notes, left = [], []
    names, x = learn.stack([(recording.names, recording.features)])
    versions = {name: recording.versions.get(expand.feature_of(name)) for name in names}
    for one in examples:
        block, missing = one.matched(names, versions)
        common = [i for i, name in enumerate(names) if name not in set(missing)]
        own = {row.tobytes() for row in x[:, common]}
        same = bool(common) and sum(row.tobytes() in own for row in block[:, common]) > 0.5 * len(block)
        if same or (recording.source and Path(one.source).resolve() == recording.source.resolve()):
            notes.append(f"The warm start {one.source} is this recording: left out here.")
            continue
        left.append(one)
    found = None
    if left:
        found, said = transfer.prepare(concatenate(left), names, versions)
        notes += [said] if said else []
    if examples and found is None:
        notes.append("No warm start is left: strategies of ours start from scratch here.")
    return found, bool(left), notes


def _all(tasks: Sequence[_Task], shared: tuple[Any, ...], workers: int, plugins: Plugins | None) -> Iterator[tuple[_Task, dict[str, _Run]]]:
    if workers <= 1:
        recordings, shares, warm, to_human = shared
        _prepare(recordings, shares, warm, to_human, plugins)
        try:
            yield from map(_run, tasks)
        finally:
            _shared.pop("limits").restore_original_limits()
            _shared.clear()
        return
    with ProcessPoolExecutor(workers, initializer=_prepare, initargs=shared) as pool:
        yield from pool.map(_run, tasks)  # in order, so that means do not depend on who was first


# ---- what came of them


def _human_level(recording: Annotated, people: Sequence[str]) -> dict[str, Any]:
    """Mean over the annotators replayed, and each one's own; null where there is nobody to compare with."""
    levels = {who: _human(recording, who) for who in people}
    keys = ("balanced_accuracy", "precision", "recall", "f1")
    known = [level for level in levels.values() if level is not None]
    mean: dict[str, Any] = _mean(known) if known else dict.fromkeys(keys)
    return {**mean, "per_annotator": {who: level or dict.fromkeys(keys) for who, level in levels.items()}}


def _at(runs: Sequence[tuple[str, _Run]], fraction: int) -> dict[str, Any]:
    """Means over the runs that got as far as a fraction; empty where none did."""
    rows = [result.at[fraction] for _, result in runs if fraction in result.at]
    if not rows:
        return {}
    out: dict[str, Any] = _mean(rows)
    stated = [result.quality[fraction] for _, result in runs if fraction in result.quality]
    if stated:
        out["quality"] = {**_mean(stated), "runs": len(stated)}
    return out


def _curve(runs: Sequence[tuple[str, _Run]], points: Sequence[int]) -> dict[str, list[float]]:
    """Balanced accuracy over the number of labels: mean, and the lowest and highest annotator; as far as all runs got."""
    length = min((len(result.curve) for _, result in runs), default=0)
    people = list(dict.fromkeys(who for who, _ in runs))
    by_person = [np.mean([result.curve[:length] for who, result in runs if who == person], axis=0) for person in people]
    table = np.array(by_person).reshape(len(people), length)
    if not length:
        return {"labels": [], "mean": [], "low": [], "high": []}
    low, mean, high = table.min(axis=0), table.mean(axis=0), table.max(axis=0)
    return {"labels": list(points[:length]), "mean": mean.tolist(), "low": low.tolist(), "high": high.tolist()}


def _effort(runs: Sequence[tuple[str, _Run]], n_cells: int) -> dict[str, Any]:
    """% of labels needed to reach the human, by criterion: share of runs, mean and median where reached; the same within 5 %."""
    out: dict[str, Any] = {}
    for criterion in CRITERIA:
        counts = np.array([result.reached[criterion] for _, result in runs if criterion in result.reached], float)
        soon = counts[counts <= goal_of(WITHIN, n_cells)]
        out[criterion] = {
            "reached": len(counts) / max(1, len(runs)),
            "mean_percent": 100 * float(counts.mean()) / n_cells if len(counts) else None,
            "median_percent": 100 * float(np.median(counts)) / n_cells if len(counts) else None,
            "reached_within_5_percent": len(soon) / max(1, len(runs)),
            "mean_percent_within_5_percent": 100 * float(soon.mean()) / n_cells if len(soon) else None,
        }
    return {**out, "runs": len(runs)}


def _mean(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}


def _share(fraction: str) -> float:
    try:
        value = float(fraction[:-1]) / 100 if fraction.endswith("%") else float(fraction)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1:
        raise UsageError(f"{fraction!r} is no share of the candidates.", "Give shares like 0.01 (or 1%).")
    return value
