"""A demonstration on known truth: results are curated by a simulated annotator who errs now and then, and written back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from actsort_core.errors import FormatError, MissingFileError, UsageError, WriteError
from actsort_core.features.table import Progress
from actsort_core.formats import CreatingFormat
from actsort_core.opening import open as open_session
from actsort_core.oracle import answerer, balanced_accuracy, read_truth
from actsort_core.plugins import Plugins
from actsort_core.simulate import simulate

ERROR_RATE = 0.03


@dataclass(frozen=True)
class Case:
    """One result to curate: where it is, the truth about it, and how many labels to ask for."""

    title: str
    path: Path
    truth: Path
    labels: int


def shipped_cases(folder: Path, work: Path) -> list[Case]:
    """Copy the results that ``demo.json`` in `folder` lists into `work`.

    Raises
    ------
    MissingFileError, FormatError
        There is no such list, or it is damaged.
    """
    index = folder / "demo.json"
    try:
        rows = json.loads(index.read_text())
        cases = [Case(row["title"], work / row["path"], work / row["truth"], int(row["labels"])) for row in rows]
        originals = [(folder / row["path"], folder / row["truth"]) for row in rows]
    except FileNotFoundError:
        raise MissingFileError(
            f"{folder} has no demo.json.", "Pass the folder examples/data of the repository, or leave --data out."
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{index} is damaged ({error}).", "Get it from the repository again.") from error
    for case, (path, truth) in zip(cases, originals, strict=True):
        case.path.parent.mkdir(parents=True, exist_ok=True)
        case.truth.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, case.path)
        else:
            shutil.copyfile(path, case.path)
        shutil.copyfile(truth, case.truth)
    return cases


def simulated_cases(plugins: Plugins, work: Path, seed: int) -> list[Case]:
    """One simulated recording in the native files of every installed format that can create them."""
    cases = []
    targets = {"suite2p": "suite2p/plane0", "caiman": "results.hdf5"}
    for number, (name, fmt) in enumerate(plugins.formats.items()):
        if name not in targets or not isinstance(fmt, CreatingFormat):
            continue
        recording, truth = simulate(n_cells=300, seed=seed + number, name=name)
        path = work / targets[name]
        path.parent.mkdir(parents=True, exist_ok=True)
        fmt.create([recording], [None], path)
        known = work / f"{name}.truth.json"
        known.write_text(json.dumps({"truth": truth.tolist()}))
        # The result as the toolkit would leave it: with its own verdicts.
        cases.append(Case(f"simulated recording, {name} files", path, known, 30))
    return cases


def run(
    plugins: Plugins,
    work: Path,
    data: Path | None,
    seed: int,
    say: Callable[[str], None],
    progress: Callable[[str], Progress] | None = None,
) -> None:
    """Curate all cases in `work` (a new or empty folder) and say what happened.

    Raises
    ------
    UsageError
        `work` is not empty.
    """
    if work.exists() and (not work.is_dir() or any(work.iterdir())):
        raise UsageError(f"{work} is not empty.", "Give the demonstration a folder of its own with --out.")
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f"{work} cannot be made ({error.strerror}).", "Choose another folder with --out.") from error
    cases = shipped_cases(data, work) if data else simulated_cases(plugins, work, seed)
    say(f"An annotator who knows the truth but errs at {ERROR_RATE:.0%} sorts {len(cases)} results (copies, in {work}).")
    for case in cases:
        tell = progress(case.title) if progress else None
        with open_session(case.path, plugins=plugins, seed=seed, annotator="simulated", progress=tell) as session:
            truth = read_truth(case.truth, len(session.candidates))
            prior = np.concatenate([p.verdict > 0 for p in session.priors.values()])
            session.sort(answerer(session, truth, ERROR_RATE, seed), case.labels)
            accepted = np.array([d.accepted for d in session.decisions()])
            asked = len(session.labels())
            report = session.write()
            ours, host = balanced_accuracy(accepted, truth), balanced_accuracy(prior, truth)
            if not any(p.verdict.any() for p in session.priors.values()):
                host = None
        share = asked / max(1, len(truth))
        say(f"\n{case.title}: {len(truth)} candidates, {int((truth == 1).sum())} of them cells")
        say(f"  labels asked:                                      {asked} ({share:.0%})")
        say(f"  balanced accuracy of the decisions against truth:  {_figure(ours)}")
        say(f"  the same for the toolkit's own prior:              {_figure(host)}")
        for path in report.written:
            say(f"  written: {_near(path)}")
            if path in report.backups:
                say(f"  as it was before: {_near(report.backups[path])}")
        for path, remedy in report.stale:
            say(f"  now out of date: {_near(path)}: {remedy}")
        say(f"  all decisions, who made them and when: {_near(session.folder / 'curation.json')}")
        say(f"  to undo: actsort restore {_near(session.folder)}")
    say(
        "\nYour own file: a Suite2p folder (suite2p or suite2p/plane0), a CaImAn .hdf5 or a CNMF-E .mat:\n"
        "  actsort sort PATH              you are asked in the terminal; stop and go on whenever you like\n"
        "  actsort status PATH            how far it is\n"
        "  actsort write PATH --dry-run   what would change in the toolkit's files\n"
        "  actsort write PATH             write the decisions where the toolkit looks for them"
    )


def _figure(value: float | None) -> str:
    return "none, it says nothing about any candidate" if value is None else f"{value:.3f}"


def _near(path: Path) -> Path:
    """A path as a person here would type it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
