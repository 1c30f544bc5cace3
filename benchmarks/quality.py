"""How well the stated quality is met, on recordings and annotators that its prior does not know.

Every annotator is replayed with the default engine; what `quality.estimate` states after so many labels is compared with how the
decisions agree with all that annotator's answers (mistakes included, where some are turned round). Errors and widths are in points;
"covered" is how often the 90 % interval holds the truth, "warned" how often a note says that the answers contradict each other, "ECE"
the expected calibration error of the probabilities over all candidates.

python benchmarks/quality.py $ACTSORT_BENCHMARK_DATA/*.mat [--seeds 3] [--flipped 0.1] [--warm]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from actsort_core import calibration, learn, plugins, quality, transfer
from actsort_core.annotated import Annotated, read
from actsort_core.benchmark import goal_of
from actsort_core.calibration import Prior
from actsort_core.quality_prior import COUNTS, RATES, Seen, default_engine, learn_prior, look, replayed
from actsort_core.replays import calibration_error
from actsort_core.transfer import Warm
from actsort_core.warm import concatenate

SHARES = (0.0025, 0.005, 0.01, 0.02, 0.03, 0.05)
BARS = {0.01: 0.05, 0.03: 0.03, 0.05: 0.03}  # mean absolute error at a share of labels, at most
COVERED = 0.85
LOADED = plugins.load()
RATINGS = ("balanced_accuracy", "precision", "recall")
MEASURES = ("error", "bias", "covered", "width")
ROWS = (*(f"{name.replace('_', ' ')}: {what}" for name in RATINGS for what in MEASURES), "ECE", "warned")


@dataclass(frozen=True)
class Way:
    """One way to run."""

    rate: float = 0.0
    audits: bool = True
    warm: bool = False

    @property
    def title(self) -> str:
        """For people."""
        said = (
            f"{100 * self.rate:.0f} % flipped" if self.rate else "",
            "warm start" if self.warm else "",
            "" if self.audits else "no audits",
        )
        return "".join(f", {one}" for one in said if one)

    def is_shown(self, choose: Choose) -> bool:
        """Whether there is a table for a prior: the others differ little from those that are shown."""
        if self.warm:
            return choose is of_others
        return choose is not without_both or self == Way()


LEARNING = [Way(rate) for rate in RATES]  # what `actsort quality-prior` runs


@dataclass(frozen=True, eq=False)
class Run:
    """One run that was looked at."""

    recording: Annotated
    annotator: str
    way: Way
    seen: dict[int, Seen]  # by number of labels

    @property
    def learned_from(self) -> list[Seen]:
        """What a prior may be learned from; nothing where the run is another than those of `actsort quality-prior`."""
        return [one for n, one in self.seen.items() if n in COUNTS] if self.way in LEARNING else []


def warm_start(recording: Annotated, recordings: Sequence[Annotated]) -> Warm | None:
    """Everybody's majority on the other recordings."""
    others = [other.examples() for other in recordings if other is not recording]
    names, _ = learn.stack([(recording.names, recording.features)])
    return transfer.prepare(concatenate(others), names, {})[0] if others else None


def replay_all(recordings: Sequence[Annotated], seeds: int, ways: Sequence[Way]) -> list[Run]:
    """Replay all annotators in all ways."""
    starts = {r.name: warm_start(r, recordings) for r in recordings} if any(way.warm for way in ways) else {}
    tasks = [(*pair, seed, way) for pair in replayed(recordings) for way in ways for seed in range(seeds)]
    out = []
    for recording, who, seed, way in tqdm(tasks, desc="runs", unit="run"):
        engine = default_engine(LOADED, seed, way.audits, starts[recording.name] if way.warm else None)
        counts = {goal_of(share, len(recording.features)) for share in SHARES}
        if way in LEARNING:
            counts |= set(COUNTS)
        found = look(recording, who, seed, way.rate, sorted(counts), LOADED, engine)
        out.append(Run(recording, who, way, {one.n: one for one in found}))
    return out


def stated(one: Seen, prior: Prior, familiar: bool) -> list[float]:
    """What was said of one run and what is true, in the order of `ROWS`."""
    evidence = replace(one.evidence, familiar=familiar)
    found = calibration.calibrate(evidence, prior)
    said, true = quality.estimate(evidence, found, prior=prior), one.scores()
    out = []
    for name in RATINGS:
        value: quality.Stated = getattr(said, name)
        off = value.value - true[name]
        out += [abs(off), off, float(value.low <= true[name] <= value.high), value.high - value.low]
    ece = calibration_error(found.probability(evidence.d), np.where(one.truth, 1, -1).astype(np.int8))
    return [*out, ece, float(any("contradict" in note for note in said.notes))]


# ---- whose prior


def of_others(runs: Sequence[Run], run: Run) -> list[Seen]:
    """The other recordings'."""
    return [one for other in runs if other.recording is not run.recording for one in other.learned_from]


def without_person(runs: Sequence[Run], run: Run) -> list[Seen]:
    """All recordings', without the annotator (nor anybody of that name elsewhere)."""
    return [one for other in runs if other.annotator != run.annotator for one in other.learned_from]


def without_both(runs: Sequence[Run], run: Run) -> list[Seen]:
    """The other recordings', without anybody of that name there."""
    known = [other for other in runs if other.recording is not run.recording and other.annotator != run.annotator]
    return [one for other in known for one in other.learned_from]


Choose = Callable[[Sequence[Run], Run], list[Seen]]
PRIORS: dict[str, Choose] = {
    "prior of the other recordings": of_others,
    "prior without that person": without_person,
    "prior of the other recordings, without that person": without_both,
}


@dataclass
class Priors:
    """Priors by whom they were learned from, each learned once."""

    runs: Sequence[Run]

    def __post_init__(self) -> None:
        self._learned: dict[tuple[int, ...], tuple[Prior, bool]] = {}

    def of(self, choose: Choose, run: Run) -> tuple[Prior, bool] | None:
        """The prior for a run, and whether it knows its features; None where there is nobody to learn from."""
        seen = choose(self.runs, run)
        key = tuple(id(one) for one in seen)
        if key not in self._learned:
            if len({(one.recording, one.annotator) for one in seen}) < 2:
                return None
            origins = {one.recording for one in seen}
            names = tuple(dict.fromkeys(name for r in self.runs if r.recording.name in origins for name in r.recording.names))
            prior = learn_prior(seen, names)
            self._learned[key] = prior, prior.familiar(run.recording.names)
        return self._learned[key]


# ---- tables


def table(title: str, runs: Sequence[Run], choose: Choose, priors: Priors) -> np.ndarray | None:
    """Print one table; the cells of the balanced accuracy by run and share are handed back."""
    found = []
    for run in runs:
        known = priors.of(choose, run)
        if known is None:
            return None
        found.append([stated(run.seen[goal_of(share, len(run.recording.features))], *known) for share in SHARES])
    values = np.array(found)  # runs, shares, rows
    print(f"\n{title}\n{'':<44}" + "".join(f"{100 * share:6.2f} %" for share in SHARES))
    for i, name in enumerate(ROWS):
        if name.endswith("bias") and i > len(MEASURES):  # one is enough
            continue
        print(f"  {name:<42}" + "".join(f"{100 * value:8.1f}" for value in values[:, :, i].mean(axis=0)), flush=True)
    for who in dict.fromkeys(run.annotator for run in runs):
        own = values[[run.annotator == who for run in runs]]
        print(f"  {f'{who}: error':<42}" + "".join(f"{100 * value:8.1f}" for value in own[:, :, 0].mean(axis=0)), end="")
        print(f"   covered {100 * own[:, :, 2].mean():.0f}")
    return values


def verdict(title: str, values: np.ndarray) -> str:
    """One line against the bars."""
    errors = [(100 * values[:, SHARES.index(share), 0].mean(), 100 * most) for share, most in BARS.items()]
    covered = 100 * values[:, :, 2].mean()
    met = all(error <= most for error, most in errors) and covered >= 100 * COVERED
    return f"  {title:<84}" + "".join(f"{error:8.1f}" for error, _ in errors) + f"{covered:10.0f}   {'yes' if met else 'no'}"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", help="as for actsort benchmark, sorted by several annotators")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--flipped", type=float, default=0.1, help="share of the answers that are turned round")
    parser.add_argument("--warm", action="store_true", help="also start from the other recordings' labels")
    given = parser.parse_args()
    recordings = [recording for path in given.files for recording in read(path, LOADED)]
    starts = (False, True) if given.warm and len(recordings) > 1 else (False,)
    shown = list(dict.fromkeys(Way(rate, audits, warm) for warm in starts for rate in (0.0, given.flipped) for audits in (True, False)))
    runs = replay_all(recordings, given.seeds, list(dict.fromkeys([*LEARNING, *shown])))
    priors = Priors(runs)
    summary = []
    for recording in recordings:
        print(f"\n{recording.name}: {len(recording.features)} candidates, {given.seeds} seeds; errors, widths and shares in %")
        for way in shown:
            own = [run for run in runs if run.recording is recording and run.way == way]
            for name, choose in PRIORS.items():
                title = f"{recording.name}, {name}{way.title}"
                values = table(title, own, choose, priors) if own and way.is_shown(choose) else None
                if values is not None:
                    summary.append(verdict(title, values))
    if not summary:
        parser.error("there are too few annotators who labelled every candidate to learn a prior without any of them")
    print(
        f"\n{'mean absolute error of the balanced accuracy at':<86}"
        + "".join(f"{100 * share:6.0f} %" for share in BARS)
        + "   covered   met"
    )
    limits = "".join(f"{100 * most:8.1f}" for most in BARS.values())
    print(f"  {'at most; at least':<84}{limits}{100 * COVERED:10.0f}")
    print("\n".join(summary))


if __name__ == "__main__":
    main()
