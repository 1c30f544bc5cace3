"""One model, many recordings: classify finished results in batch, without a person."""

from __future__ import annotations

import contextlib
import functools
import math
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actsort_core import decide, models, opening, plugins, store, warm, writeback
from actsort_core.errors import ActsortError, UsageError
from actsort_core.features.table import Progress, cached_table, select
from actsort_core.model import CandidateId, Predictions
from actsort_core.models import Model
from actsort_core.plugins import Plugins
from actsort_core.session import Session
from actsort_core.unlike import unlike

FAVOUR = ("precision", "recall")
FAVOURED = 0.95  # the expected precision (or recall) that a favoured line is moved to


@dataclass(frozen=True)
class Applied:
    """What the model decided about one recording.

    Attributes
    ----------
    recording
        Its key in its session.
    n_cells
        Number of candidates.
    before, accepted, changed
        How many the file accepts now, how many the decisions accept, and on how many candidates they differ.
    threshold, share
        Where the line was drawn, and the estimated share of cells.
    precision, recall
        What the model's own probabilities say about the decisions (a person's labels counted as they are).
    labels
        How many candidates a person decided in an earlier session; these stand.
    warnings
        Where the recording looks unlike the ones the model learned from.
    """

    recording: str
    n_cells: int
    before: int
    accepted: int
    changed: int
    threshold: float
    share: float
    precision: float
    recall: float
    labels: int
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    """What happened to one path.

    Attributes
    ----------
    path
        As given.
    recordings
        One per recording in it; empty where it failed.
    session
        The session that holds decisions and backups; None for a dry run on a result that has none.
    report
        What was, or would be, written.
    notes
        What the person should know.
    error
        Why it failed; empty where it did not. Nothing was changed then.
    """

    path: Path
    recordings: tuple[Applied, ...] = ()
    session: Path | None = None
    report: writeback.WriteReport | None = field(default=None, repr=False)
    notes: tuple[str, ...] = ()
    error: str = ""


def apply(
    model: Model | Session | Path | str,
    *paths: Path | str,
    threshold: float | str | None = None,
    favour: str | None = None,
    dry_run: bool = False,
    format: str | None = None,
    plugins: Iterable[object] | Plugins = (),
    progress: Progress | None = None,
    update_exports: bool = False,
) -> tuple[Result, ...]:
    """Classify finished results with a model and write the decisions into their files, without asking anybody.

    Each result gets (or has) a session of its own, so that `actsort restore` undoes it and `actsort sort` corrects it. What a
    person said there earlier stands.

    Parameters
    ----------
    model
        A saved model's folder, a session (open, its folder, or the result it belongs to), or a loaded model.
    *paths
        Results, or sessions.
    threshold
        Where the line is drawn: a probability, ``"pi"`` (the estimated share of cells in each recording), ``"app"`` or ``"paper"``;
        by default as in the model's session, which is pi unless somebody moved it.
    favour
        ``"precision"`` or ``"recall"``: move the line from there until the expected one reaches .95.
    dry_run
        Only say what would change: nothing is written anywhere.
    format
        Name of the format of all paths, if it shall not be found out.
    plugins
        Further plug-ins, or plug-ins already loaded.
    progress
        Called with what is done, how much of it and of how much.
    update_exports
        See `writeback.write_back`.

    Returns
    -------
    One :class:`Result` per path, in order. One that fails does not stop the others: its `error` says why.

    Raises
    ------
    UsageError, MissingFileError, FormatError
        The options cannot be meant, or there is no such model.
    """
    if favour is not None and favour not in FAVOUR:
        raise UsageError(f"{favour!r} cannot be favoured.", "Favour precision (few false cells) or recall (few missed cells).")
    if favour is not None and threshold is not None:
        raise UsageError("A threshold and a side to favour were given.", "Give one of them.")
    if not paths:
        raise UsageError("There is nothing to apply the model to.", "Pass results: folders or files of your toolkit.")
    registered = plugins if isinstance(plugins, Plugins) else _load(plugins)
    rule = None if threshold is None else _rule(threshold)
    found = find(model, registered)
    unique = {Path(path).resolve(): Path(path) for path in paths}
    out = []
    write = functools.partial(writeback.write_back, dry_run=dry_run, update_exports=update_exports)
    for path in unique.values():
        try:
            out.append(_apply_to(path, found, rule or _Line(found.threshold, favour), dry_run, format, registered, progress, write))
        except ActsortError as error:
            out.append(Result(path, error=str(error)))
        except Exception as error:  # the other recordings still count
            out.append(Result(path, error=f"Something unexpected happened ({type(error).__name__}: {error}). Please report this."))
    return tuple(out)


_load = plugins.load  # `plugins` is an argument above


def find(model: Model | Session | Path | str, registered: Plugins) -> Model:
    """The model meant by a loaded one, an open session, or a path; a session on disk is fitted on its labels."""
    if isinstance(model, Model):
        return model
    if isinstance(model, Session):
        return models.from_session(model)
    path = Path(model)
    if not path.exists():
        raise UsageError(f"There is no {path}.", "Pass a saved model (actsort model SESSION --save DIR), or a session.")
    try:
        folder = store.find_folder(path)
    except ActsortError:
        return models.load_model(path)
    try:
        session = opening.open(session=folder, plugins=registered, read_only=True, refit_wait=0)
    except ActsortError:
        if models.find_model(folder) is None:
            raise
        return models.load_model(folder)  # its result is gone; what was saved with the last write needs none
    with session:
        return models.from_session(session)


@dataclass(frozen=True)
class _Line:
    threshold: float | None
    favour: str | None = None

    def of(self, p: NDArray[np.float64]) -> float:
        return line(p, self.threshold, self.favour)


def _rule(threshold: float | str) -> _Line:
    """The line meant by a threshold as given."""
    found = store.parse_threshold(threshold)
    if not isinstance(found, str):
        return _Line(found)
    kind = found.removeprefix("favour-")
    if kind not in FAVOUR:
        raise UsageError(f"There are no labels here for {found}.", "Give a probability, pi, favour-precision or favour-recall.")
    return _Line(None, kind)


def line(p: NDArray[np.float64], threshold: float | None = None, favour: str | None = None) -> float:
    """Where to cut the probabilities of one recording.

    Parameters
    ----------
    p
        ``(n,)`` probability of ``cell``.
    threshold
        A probability, None for pi, the estimated share of cells.
    favour
        ``"precision"`` or ``"recall"``: the line goes from there just as far as the expected one, by the probabilities
        themselves, needs to reach `FAVOURED`, and never the other way.
    """
    cut = float(p.mean()) if threshold is None else threshold
    if favour is None or not len(p):
        return cut
    order = np.sort(p)[::-1]
    if favour == "precision":
        expected = np.cumsum(order) / np.arange(1, len(p) + 1)
        return max(cut, _between(order, int((expected >= FAVOURED).sum())))
    expected = np.cumsum(order) / max(order.sum(), 1e-300)
    return min(cut, _between(order, int(np.argmax(expected >= FAVOURED - 1e-12)) + 1))


def _between(order: NDArray[np.float64], count: int) -> float:
    """A line that accepts the first `count` of falling probabilities."""
    above = float(order[count - 1]) if count else 1.0
    below = float(order[count]) if count < len(order) else 0.0
    return (above + below) / 2


def _apply_to(
    path: Path,
    model: Model,
    rule: _Line,
    dry_run: bool,
    format: str | None,
    registered: Plugins,
    progress: Progress | None,
    write: Callable[..., writeback.WriteReport],
) -> Result:
    with contextlib.ExitStack() as stack:
        options: dict[str, Any] = {"plugins": registered, "refit_wait": 0, "prepare": False}
        tell: Progress | None = None if progress is None else _titled(path.name, progress)
        existing = _session_of(path)
        given = [] if existing else [path]
        if existing is not None:
            options |= {"session": existing, "read_only": dry_run}
        elif dry_run:
            options |= {"session": Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="actsort-"))) / "dry"}
        if existing is None:
            options |= {"features": model.features, "format": format}
        session = stack.enter_context(opening.open(*given, progress=tell, **options))
        try:
            applied, curations = _decide(session, model, rule, tell)
            report = write(session.sources, registered.formats, curations, session.folder, session.journal, progress=tell)
        except BaseException:
            session.discard()
            raise
        if not dry_run:
            # Whoever corrects a few decisions next should not start from nothing.
            if session.is_new and len(model.examples):
                warm.store_examples(session.folder, model.examples)
            cuts = {one.recording: one.threshold for one in applied}
            session.journal.append("applied", model=model.source, created=model.provenance.get("created"), thresholds=cuts)
            arguments = {"curations": list(curations.values()), "paths": list(report.written)}
            plugins.call_each(registered.manager, "actsort_decisions_written", session=session, **arguments)
        return Result(path, tuple(applied), None if dry_run and existing is None else session.folder, report, tuple(session.notes))


def _session_of(path: Path) -> Path | None:
    if store.is_session(path):
        return path
    try:
        return store.find_folder(path) if path.exists() else None
    except ActsortError:
        return None


def _titled(name: str, progress: Progress) -> Progress:
    def tell(what: str, done: int, total: int) -> None:
        progress(f"{name}: {what}", done, total)

    return tell


def _decide(session: Session, model: Model, rule: _Line, progress: Progress | None) -> tuple[list[Applied], dict[str, Any]]:
    groups = select(session.plugins.features, model.features)
    same = groups == select(session.plugins.features, session.options.features)
    labels = {label.candidate: label for label in session.labels()}
    votes = session.votes() if len(session.annotators()) > 1 else {}
    applied, curations = [], {}
    for key, recording in session.recordings.items():
        stem = session.folder / "features" / (key.replace("/", "_") + ("" if same else ".model"))
        table = cached_table(replace(recording, prior=session.priors[key]), groups, stem, progress)
        x, lacking = model.match(table)
        log_odds = model.log_odds(x, recording.fingerprint)
        p = model.probability(x, recording.fingerprint)
        share = float(p.mean()) if len(p) else math.nan
        cut = rule.of(p) if len(p) else math.nan
        ids = tuple(CandidateId(key, i) for i in range(recording.n_cells))
        predictions = Predictions(ids, p, share, cut, max(1, model.n_labels))
        only = {key: recording}
        curation = decide.curate(only, session.priors, labels, predictions, session.options.kind)[key]
        said = {c.index: {who: label.value for who, label in by.items()} for c, by in votes.items() if c.recording == key}
        curations[key] = replace(curation, votes=said)
        known = np.where(curation.origin == "label", curation.accepted, p)
        before = recording.prior.verdict > 0
        applied.append(
            Applied(
                recording=key,
                n_cells=recording.n_cells,
                before=int(before.sum()),
                accepted=int(curation.accepted.sum()),
                changed=int((before != curation.accepted).sum()),
                threshold=cut,
                share=share,
                precision=float(known[curation.accepted].mean()) if curation.accepted.any() else math.nan,
                recall=float(known[curation.accepted].sum() / known.sum()) if known.sum() > 0 else math.nan,
                labels=int((curation.origin == "label").sum()),
                warnings=tuple(unlike(model, table, lacking, log_odds, recording.format)),
            )
        )
    return applied, curations


# ---- what is printed


def as_document(model: Model, results: Sequence[Result], dry_run: bool) -> dict[str, Any]:
    """``actsort apply --json``."""

    def number(value: float) -> float | None:
        return float(value) if math.isfinite(value) else None

    rows = []
    for result in results:
        report = result.report
        rows.append(
            {
                "path": str(result.path),
                "session": None if result.session is None else str(result.session),
                "error": result.error or None,
                "recordings": [
                    {
                        "recording": one.recording,
                        "n_cells": one.n_cells,
                        "accepted_before": one.before,
                        "accepted": one.accepted,
                        "changed": one.changed,
                        "threshold": number(one.threshold),
                        "share_of_cells": number(one.share),
                        "expected_precision": number(one.precision),
                        "expected_recall": number(one.recall),
                        "labels": one.labels,
                        "warnings": list(one.warnings),
                    }
                    for one in result.recordings
                ],
                "planned": [str(path) for path, _ in report.planned] if report else [],
                "written": [str(path) for path in report.written] if report else [],
                "backups": [str(path) for path in report.backups.values()] if report else [],
                "stale": {str(path): remedy for path, remedy in report.stale} if report else {},
                "notes": [*result.notes, *(report.notes if report else ())],
            }
        )
    return {
        "dry_run": dry_run,
        "model": {"source": model.source, "classifier": model.classifier, "n_labels": model.n_labels, "features": len(model.names)},
        "results": rows,
        "failed": sum(bool(result.error) for result in results),
    }


def as_text(results: Sequence[Result], dry_run: bool) -> str:
    """``actsort apply`` for people: a line per recording, then what is worth knowing about each."""
    several = {result.path: len(result.recordings) > 1 for result in results}
    names = [_shown(result, one, several[result.path]) for result in results for one in result.recordings]
    names += [str(result.path) for result in results if result.error]
    wide = max(map(len, names), default=9)
    told: list[str] = []
    lines = [
        f"{'recording':<{wide}}{'candidates':>12}{'accepted':>10}{'then' if dry_run else 'now':>8}{'changed':>9}{'line':>7}"
        f"{'precision':>11}{'recall':>8}"
    ]
    for result in results:
        if result.error:
            lines.append(f"{result.path!s:<{wide}}{'failed':>12}")
            told.append(f"{result.path}: failed. {result.error}")
        for one in result.recordings:
            name = _shown(result, one, several[result.path])
            lines.append(
                f"{name:<{wide}}{one.n_cells:>12}{one.before:>10}{one.accepted:>8}{one.changed:>9}{one.threshold:>7.3f}"
                f"{one.precision:>11.3f}{one.recall:>8.3f}"
            )
            told += [f"{name}: {warning}" for warning in one.warnings]
            told += [f"{name}: {one.labels} decided by a person stand" for _ in range(one.labels > 0)]
        if result.report is not None:
            told += [f"{result.path}: {note}" for note in result.report.notes]
            told += [f"now out of date: {path}: {remedy}" for path, remedy in result.report.stale]
    return "\n".join([*lines, *told])


def _shown(result: Result, one: Applied, several: bool) -> str:
    return f"{result.path}:{one.recording}" if several else str(result.path)
