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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from actsort_core import learn, strategies
from actsort_core.errors import FormatError, MissingFileError, UsageError
from actsort_core.plugins import Plugins, load
from actsort_core.store import parse_threshold

PUBLISHED = ("cal", "dal", "dcal", "random", "first_to_last")
DEFAULT_NAMES = (*PUBLISHED, "default")
DEFAULT_FRACTIONS = ("0.005", "0.01", "0.03", "0.05")
PUBLISHED_THRESHOLDS = (0.5, 0.65)  # the app's slider, the paper
START = 3  # of each class
_SUFFIX = "_choices"


@dataclass(frozen=True, eq=False)
class Annotated:
    """Candidates with features that several people sorted.

    Attributes
    ----------
    name
        Of the recording.
    features
        ``(n, n_features)`` float32.
    choices
        ``(n,)`` int8 by annotator: 1 cell, -1 not a cell, 0 not said.
    """

    name: str
    features: NDArray[np.float32]
    choices: Mapping[str, NDArray[np.int8]]

    def truth(self, annotator: str) -> NDArray[np.int8]:
        """``(n,)``: majority of all annotators but one; 0 where they are undecided."""
        others = [c for name, c in self.choices.items() if name != annotator]
        return np.sign(np.sum(others, axis=0, dtype=np.int64)).astype(np.int8) if others else self.choices[annotator]


def read_annotated(path: Path) -> Annotated:
    """Read the published layout: MATLAB v7.3 with ``metrics`` (n, n_features) and one ``<name>_choices`` per annotator.

    Raises
    ------
    MissingFileError, FormatError
        It is not there, or not of that layout.
    """
    import h5py

    if not path.is_file():
        raise MissingFileError(f"{path} is not a file.", "Pass an annotated recording in the published .mat layout.")
    hint = f"It must be MATLAB v7.3 with 'metrics' and at least two '<name>{_SUFFIX}'."
    try:
        with h5py.File(path, "r") as file:
            choices = {key[: -len(_SUFFIX)]: np.asarray(file[key], np.float64).ravel() for key in file if key.endswith(_SUFFIX)}
            metrics = np.asarray(file["metrics"], np.float32) if "metrics" in file else None
    except (OSError, TypeError, ValueError) as error:
        raise FormatError(f"{path} could not be read as an annotated recording ({error}).", hint) from error
    lengths = {len(values) for values in choices.values()}
    if metrics is None or metrics.ndim != 2 or len(choices) < 2 or len(lengths) != 1:
        raise FormatError(f"{path} is not an annotated recording ({len(choices)} annotators, lengths {sorted(lengths)}).", hint)
    n = lengths.pop()
    if metrics.shape[0] != n:
        metrics = metrics.T
    if metrics.shape[0] != n:
        raise FormatError(f"{path} has metrics of shape {metrics.shape} for {n} candidates.", hint)
    signs = {name: np.sign(np.nan_to_num(values)).astype(np.int8) for name, values in choices.items()}
    return Annotated(path.stem, np.ascontiguousarray(metrics), signs)


@dataclass(frozen=True)
class Entry:
    """What is replayed: a strategy, and the thresholds its decisions are scored at (None is pi), by the name they are shown under."""

    strategy: str
    clip: bool
    thresholds: tuple[tuple[str, float | None], ...]


def entries(names: Sequence[str], plugins: Plugins) -> tuple[Entry, ...]:
    """What is meant by names like ``cal`` (published: at .5 and .65), ``cal@0.5``, ``dcal-0.3``, ``nearest_pi`` or ``default``.

    Published strategies learn from plain z-scores, as published; all others from clipped ones, as sessions do.

    Raises
    ------
    UnknownNameError, UsageError
        There is no such strategy, or the threshold is none.
    """
    out: dict[tuple[str, bool], list[tuple[str, float | None]]] = {}
    for name in names:
        plain, at, given = name.partition("@")
        strategy = strategies.BUILTIN[0].name if plain == "default" else strategies.find(plugins.strategies, plain).name
        published = plain in PUBLISHED or plain.startswith("dcal-")
        if at:
            shown = [(name, parse_threshold(given))]
        elif published:
            shown = [(f"{plain}@{t}", t) for t in PUBLISHED_THRESHOLDS]
        else:
            shown = [(plain if plain == "default" else f"{plain}@pi", None)]
        kept = out.setdefault((strategy, not published), [])
        kept += [entry for entry in shown if entry not in kept]
    return tuple(Entry(strategy, clip, tuple(thresholds)) for (strategy, clip), thresholds in out.items())


def scores(accepted: NDArray[np.bool_], truth: NDArray[np.int8]) -> dict[str, float]:
    """Balanced accuracy, precision, recall and F1 of decisions against a truth (0 there: left out)."""
    cell, other = truth > 0, truth < 0
    tp, fp = int((accepted & cell).sum()), int((accepted & other).sum())
    recall = tp / max(1, int(cell.sum()))
    specificity = 1 - fp / max(1, int(other.sum()))
    precision = tp / max(1, tp + fp)
    f1 = 2 * precision * recall / max(precision + recall, 1e-12)
    return {"balanced_accuracy": (recall + specificity) / 2, "precision": precision, "recall": recall, "f1": f1}


def auc(p: NDArray[np.float64], truth: NDArray[np.int8]) -> float:
    """Area under the ROC curve: how often a cell gets a higher probability than a not-cell (ties count half)."""
    known = truth != 0
    ranks, cell = rankdata(p[known]), truth[known] > 0
    n_cells, n_others = int(cell.sum()), int((~cell).sum())
    if not n_cells or not n_others:
        return math.nan
    return float((ranks[cell].sum() - n_cells * (n_cells + 1) / 2) / (n_cells * n_others))


def replay(
    x: NDArray[np.float32],
    choices: NDArray[np.int8],
    strategy: strategies.Strategy,
    spec: learn.ClassifierSpec,
    by_name: Mapping[str, strategies.Strategy],
    seed: int,
    goal: int,
) -> Iterator[tuple[int, NDArray[np.float64], NDArray[np.bool_]]]:
    """One run: after each label from the sixth to `goal`, how many there are, the probabilities of all candidates, who is labelled.

    Parameters
    ----------
    x
        ``(n, n_features)`` scaled features.
    choices
        ``(n,)`` what the annotator says; candidates they said nothing about (0) are not asked.
    strategy, spec
        How to ask, how to learn.
    by_name
        All strategies (for cold starts).
    seed
        Of the starters and the random order.
    goal
        How many labels to give.
    """
    rng = np.random.default_rng(seed)
    rank = np.argsort(rng.permutation(len(x)))
    labelled = choices == 0
    asked = []
    for kind in (1, -1):
        of_kind = np.flatnonzero(choices == kind)
        if len(of_kind) < START:
            raise UsageError(f"An annotator has only {len(of_kind)} of a class; a run starts from {START} of each.")
        asked += list(rng.choice(of_kind, START, replace=False))
    labelled[asked] = True
    while True:
        rows = np.sort(np.array(asked))
        fit = learn.fit(spec, x, rows, (choices[rows] > 0).astype(np.int8))
        yield len(asked), fit.probability, labelled & (choices != 0)
        if len(asked) >= goal or labelled.all():
            return
        state = strategies.QueryState(fit.probability, fit.share, fit.share, labelled, rank, x)
        candidate = int(strategies.best(strategy, state, 1)[0])
        labelled[candidate] = True
        asked.append(candidate)


@dataclass(frozen=True)
class _Task:
    recording: int
    annotator: str
    entry: Entry
    seed: int


_shared: dict[str, Any] = {}


def _prepare(recordings: Sequence[Annotated], fractions: Sequence[float], plugins: Plugins | None = None) -> None:
    """What every run of a process shares."""
    _shared.update(
        recordings=recordings,
        fractions=fractions,
        plugins=plugins or load(),
        scaled={(i, clip): learn.standardise(r.features, clip) for i, r in enumerate(recordings) for clip in (True, False)},
    )


def _run(task: _Task) -> tuple[_Task, dict[str, dict[int, dict[str, float]]]]:
    """One run, scored at every fraction: ``{shown name: {number of fraction: scores}}``."""
    recording: Annotated = _shared["recordings"][task.recording]
    plugins: Plugins = _shared["plugins"]
    goals = [goal_of(fraction, len(recording.features)) for fraction in _shared["fractions"]]
    choices, truth = recording.choices[task.annotator], recording.truth(task.annotator)
    human = scores(choices > 0, truth)["balanced_accuracy"]
    strategy = strategies.find(plugins.strategies, task.entry.strategy)
    spec = plugins.classifiers["l1_logistic"]
    x = _shared["scaled"][task.recording, task.entry.clip]
    out: dict[str, dict[int, dict[str, float]]] = {name: {} for name, _ in task.entry.thresholds}
    reached = dict.fromkeys(out, False)
    for n, p, _ in replay(x, choices, strategy, spec, plugins.strategies, task.seed, max(goals)):
        due = [i for i, goal in enumerate(goals) if goal == n]
        area = auc(p, truth) if due else math.nan
        for name, threshold in task.entry.thresholds:
            found = scores(p > (p.mean() if threshold is None else threshold), truth)
            reached[name] |= found["balanced_accuracy"] >= human
            for i in due:
                out[name][i] = {**found, "auc": area, "reached_human": float(reached[name]), "labels": float(n)}
    return task, out


def goal_of(fraction: float, n: int) -> int:
    """How many labels a fraction of `n` candidates is: rounded up, at least the six starters."""
    return max(2 * START, math.ceil(round(fraction * n, 9)))


def run(
    recordings: Sequence[Annotated],
    names: Sequence[str] = DEFAULT_NAMES,
    seeds: int = 3,
    fractions: Sequence[str] = DEFAULT_FRACTIONS,
    plugins: Plugins | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Replay strategies on annotated recordings.

    Parameters
    ----------
    recordings
        See `read_annotated`.
    names
        See `entries`.
    seeds
        Runs per annotator and strategy, with seeds 0, 1...
    fractions
        Shares of the candidates at which decisions are scored; a run stops at the largest.
    plugins
        Plug-ins already loaded (then everything runs in this process).
    workers
        Processes; by default as many as there are cores.
    progress
        Called with how many runs are done and of how many.

    Returns
    -------
    ``{"recordings": [{"name", "n", "human": {...}, "strategies": {shown name: {fraction as typed: mean scores}}}]}``.
    ``reached_human`` is the share of runs whose balanced accuracy reached the annotator's own with that many labels or fewer.
    """
    shares = [_share(fraction) for fraction in fractions]
    if seeds < 1:
        raise UsageError(f"{seeds} seeds are no runs.", "Give at least one.")
    wanted = entries(names, plugins or load())
    tasks = [
        _Task(i, annotator, entry, seed)
        for i, recording in enumerate(recordings)
        for entry in wanted
        for annotator in recording.choices
        for seed in range(seeds)
    ]
    results: dict[tuple[int, str, int], list[dict[str, float]]] = {}
    n_workers = 1 if plugins is not None else min(workers or os.cpu_count() or 1, len(tasks))
    for done, (task, found) in enumerate(_all(tasks, recordings, shares, n_workers, plugins), 1):
        for name, by_fraction in found.items():
            for i, values in by_fraction.items():
                results.setdefault((task.recording, name, i), []).append(values)
        if progress:
            progress(done, len(tasks))
    out = []
    for i, recording in enumerate(recordings):
        people = {name: scores(c > 0, recording.truth(name)) for name, c in recording.choices.items()}
        curves: dict[str, dict[str, dict[str, float]]] = {}
        for name in [shown for entry in wanted for shown, _ in entry.thresholds]:
            curves[name] = {fraction: _mean(results[i, name, j]) for j, fraction in enumerate(fractions) if (i, name, j) in results}
        human = {**_mean(list(people.values())), "per_annotator": people}
        out.append({"name": recording.name, "n": len(recording.features), "human": human, "strategies": curves})
    return {"recordings": out}


def _all(
    tasks: Sequence[_Task], recordings: Sequence[Annotated], fractions: Sequence[float], workers: int, plugins: Plugins | None
) -> Iterator[tuple[_Task, dict[str, dict[int, dict[str, float]]]]]:
    if workers <= 1:
        _prepare(recordings, fractions, plugins)
        yield from map(_run, tasks)
        return
    with ProcessPoolExecutor(workers, initializer=_prepare, initargs=(recordings, fractions)) as pool:
        yield from pool.map(_run, tasks)  # in order, so that means do not depend on who was first


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


def as_text(document: Mapping[str, Any]) -> str:
    """A table per recording: balanced accuracy (share of runs that reached the human level) by strategy and share of labels."""
    lines = []
    for recording in document["recordings"]:
        human = recording["human"]
        fractions = list(next(iter(recording["strategies"].values())))
        lines.append(f"{recording['name']}: {recording['n']} candidates, balanced accuracy (share of runs that reached the human level)")
        lines.append(f"  {'labels':<20}" + "".join(f"{fraction:>16}" for fraction in fractions))
        for name, curve in recording["strategies"].items():
            cells = "".join(f"{100 * v['balanced_accuracy']:>9.1f} ({100 * v['reached_human']:3.0f} %)" for v in curve.values())
            lines.append(f"  {name:<20}{cells}")
        lines.append(
            f"  {'human':<20}{100 * human['balanced_accuracy']:>9.1f}   precision {human['precision']:.3f}, recall {human['recall']:.3f}\n"
        )
    return "\n".join(lines).rstrip()
