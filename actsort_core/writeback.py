"""Decisions into native files: plan, show the difference, back up, write, read again and compare, receipt; and back."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actsort_core.atomic import as_json, backup, clear_leftovers, commit, digest, folder_of, held, remove_empty, staged
from actsort_core.errors import ActsortError, ChangedError, MissingFileError, WriteError
from actsort_core.features.table import Progress
from actsort_core.formats import ExportingFormat, Format, WritePlan, read_with
from actsort_core.journal import Journal, now
from actsort_core.model import Curation, Recording
from actsort_core.store import Source, what_differs

CURATION = "curation.json"
CURATION_VERSION = 1
_LISTED = 8  # files of one folder that a report names one by one
_WRITES = ("write_started", "written", "write_undone", "restored", "reattached")


@dataclass(frozen=True, eq=False)
class Difference:
    """How the decisions differ from the verdicts the native files hold now.

    Attributes
    ----------
    recording
        Key of the recording.
    accepted, rejected
        How many candidates are accepted and rejected by the decisions (undecided ones count as rejected).
    to_accept, to_reject
        0-based candidates whose verdict in the file changes.
    undecided
        How many of `rejected` nobody decided about.
    """

    recording: str
    accepted: int
    rejected: int
    to_accept: NDArray[np.int64]
    to_reject: NDArray[np.int64]
    undecided: int = 0

    def __str__(self) -> str:
        line = f"{self.recording}: {self.accepted} accepted, {self.rejected - self.undecided} rejected"
        line += f", {self.undecided} undecided" if self.undecided else ""
        for verb, which in (("newly accepted", self.to_accept), ("newly rejected", self.to_reject)):
            if len(which):
                shown = ", ".join(map(str, which[:12])) + (", ..." if len(which) > 12 else "")
                line += f"\n  {len(which)} {verb}: {shown}"
        return line if len(self.to_accept) or len(self.to_reject) else line + " (no verdict changes)"


@dataclass(frozen=True, eq=False)
class WriteReport:
    """What a write-back did, or, dry, would do.

    Attributes
    ----------
    differences
        One per recording.
    written
        Native files replaced; empty for a dry run.
    planned
        Native files with what changes in each.
    backups
        Where each file's former content is, by file.
    stale
        Files that no longer agree with the decisions, with the remedy.
    notes
        What the person should know.
    """

    differences: tuple[Difference, ...]
    written: tuple[Path, ...]
    planned: tuple[tuple[Path, str], ...]
    backups: Mapping[Path, Path]
    stale: tuple[tuple[Path, str], ...]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        lines = [str(difference) for difference in self.differences]
        folders = Counter(path.parent for path, _ in self.planned)
        for path, what in self.planned:
            verb, several = "wrote" if path in self.written else "would write", folders[path.parent]
            if several > _LISTED:  # chunks of an array: hundreds of files that say one thing
                folders[path.parent] = 0
                lines.append(f"{verb} {several} files in {path.parent}, the first of them {path.name}: {what}")
            elif several:
                lines.append(f"{verb} {path}: {what}")
            if several and path in self.backups:
                lines.append(f"  what it held before is in {self.backups[path]}")
        lines += [f"now out of date: {path}: {remedy}" for path, remedy in self.stale]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def difference(recording: Recording, key: str, curation: Curation) -> Difference:
    """Compare `curation` with the verdicts in `recording` as it is on disk now."""
    before = recording.prior.verdict
    return Difference(
        key,
        int(curation.accepted.sum()),
        int((~curation.accepted).sum()),
        np.flatnonzero(curation.accepted & (before <= 0)),
        np.flatnonzero(~curation.accepted & (before >= 0) & ~((before == 0) & curation.undecided)),
        int(curation.undecided.sum()),
    )


def reread(source: Source, fmt: Format) -> dict[str, Recording]:
    """Read a source again and make sure that it still is what the labels were given to.

    Raises
    ------
    ChangedError
        Other count, order or footprints; says what differs.
    """
    fresh = read_with(fmt, source.path)
    if len(fresh) != len(source.recordings):
        raise ChangedError(
            f"{source.path} now holds {len(fresh)} recordings instead of {len(source.recordings)}.",
            "Nothing was written. Open it again.",
        )
    out = {}
    for key, old in source.recordings.items():
        # By name, since a plane added in between would shift positions.
        new = next((r for r in fresh if r.name == old.name), None)
        gone = f"the recording {old.name!r} is gone"
        changed = gone if new is None else what_differs(old.candidate_fingerprints, new.candidate_fingerprints)
        if new is None or changed or new.fov != old.fov:
            raise ChangedError(
                f"{old.path} changed since it was opened: {changed or f'its field of view is {new.fov if new else None}'}.",
                "Nothing was written. Open the result again; the labels stay in the session.",
            )
        out[key] = new
    return out


def plan_source(
    source: Source, fmt: Format, curations: Mapping[str, Curation], update_exports: bool = False
) -> tuple[WritePlan, tuple[Difference, ...]]:
    """Plan the write-back of one source against what is on disk now."""
    fresh = reread(source, fmt)
    differences = tuple(difference(fresh[key], key, curations[key]) for key in fresh)
    with _told_apart(f"The format {fmt.name!r} could not plan the change of {source.path}"):
        make = fmt.plan_exports if update_exports and isinstance(fmt, ExportingFormat) else fmt.plan
        plan = make(list(fresh.values()), [curations[key] for key in fresh])
    return plan, differences


@contextlib.contextmanager
def _told_apart(what: str) -> Iterator[None]:
    """Whatever a format raises on purpose passes; a mistake in it becomes an error that says that nothing was changed."""
    try:
        yield
    except (ActsortError, OSError):
        raise
    except Exception as error:
        raise WriteError(f"{what} ({type(error).__name__}: {error}).", "Nothing was changed. Please report this.") from error


@dataclass(frozen=True)
class _Receipt:
    """What the journal knows of one file: where its last foreign content is, and every content of ours."""

    relative: str
    backup: str
    before: str
    ours: frozenset[str]


def _receipts(journal: Journal, folder: Path) -> dict[Path, _Receipt]:
    """Files written by this session and not restored since, where they are now (a folder may have moved as a whole)."""
    out: dict[str, list[Mapping[str, Any]]] = {}
    for event in journal.events:
        if event["kind"] == "write_started":
            for file in event["files"]:
                out.setdefault(file["relative"], []).append(file)
        elif event["kind"] == "write_undone":
            for file in event["files"]:
                out[file].pop()
        elif event["kind"] in ("restored", "reattached"):  # a result that changed since is no longer owed its old content
            for file in event["files"]:
                out.pop(file, None)
    receipts = {}
    for relative, files in out.items():
        if files:
            near = Path(os.path.normpath(folder / relative))
            here = near if near.exists() or not Path(files[-1]["path"]).exists() else Path(files[-1]["path"])
            receipts[here] = _Receipt(relative, files[-1]["backup"], files[-1]["before"], frozenset(f["after"] for f in files))
    return receipts


def outdated(journal: Journal, folder: Path, results: Sequence[Path], others: Sequence[Path] = ()) -> list[str]:
    """Files written by this session that belong to results which hold other candidates by now.

    What was backed up of them is about the old candidates: a 40-row ``iscell.npy`` put back beside 42 footprints is no result any more.
    So `restore` no longer offers it; the backups stay where they are, and the next write-back makes its own.
    """
    receipts = _receipts(journal, folder.resolve())
    inside, apart = [result.resolve() for result in results], {other.resolve() for other in others}

    def belongs(path: Path, one: Path) -> bool:
        """Whether it is the result, in its folder, or beside it under its name (X_actsort.mat)."""
        beside = path.parent == one.parent and path.name.startswith(f"{one.stem}_") and path not in apart
        return path == one or one in path.parents or beside

    return [receipt.relative for path, receipt in receipts.items() if any(belongs(path, one) for one in inside)]


def write_back(
    sources: Sequence[Source],
    formats: Mapping[str, Format],
    curations: Mapping[str, Curation],
    folder: Path,
    journal: Journal,
    dry_run: bool = False,
    progress: Progress | None = None,
    update_exports: bool = False,
) -> WriteReport:
    """Write decisions into the native files of all sources.

    Every file is staged beside the original first; only when all are complete are they put in place, one atomic rename each.
    Then everything is read again: if decisions or footprints are not as meant, all files are put back.

    Parameters
    ----------
    sources
        What was opened.
    formats
        Registered formats.
    curations
        By recording key.
    folder
        The session's folder; backups go into ``backups`` there.
    journal
        Receives the intent before, and the receipt after.
    dry_run
        Only plan: touch nothing.
    progress
        Called with what is done, how many steps are and of how many.
    update_exports
        Rewrite the copies of the verdicts that a host exported, too, instead of reporting them as stale.

    Raises
    ------
    ChangedError
        A result is not what it was when it was opened. Nothing is written.
    WriteError
        Writing failed, or the files did not read back as meant. They are as they were before.
    """
    steps = _Steps(progress, 2 * len(sources) + 1)
    plans = []
    for source in sources:
        steps.next("reading again")
        plans.append(plan_source(source, formats[source.format], curations, update_exports))
    differences = tuple(d for _, ds in plans for d in ds)
    edits = [edit for plan, _ in plans for edit in plan.edits]
    planned = tuple((edit.path, edit.what) for edit in edits)
    stale = tuple(entry for plan, _ in plans for entry in plan.stale)
    notes = tuple(dict.fromkeys(note for plan, _ in plans for note in plan.notes))
    receipts = _receipts(journal, folder.resolve())
    for edit in {edit.path: edit for edit in edits}.values():
        known = receipts.get(edit.path.resolve())
        if known and (present := digest(edit.path)) and present not in known.ours and present != known.before:
            notes += (f"{edit.path} was changed after ActSort wrote it (clicks in the toolkit?); that is replaced, and kept in backups.",)
    if dry_run:
        steps.end()
        return WriteReport(differences, (), planned, {}, stale, notes)
    journal.check_writable()
    folder = folder.resolve()
    steps.next("writing")
    files: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        temporary: list[tuple[Path, Path]] = []
        for edit in edits:
            path = edit.path.resolve()  # a link stays a link: the file it points to is replaced
            if path.exists() and not os.access(path, os.W_OK):
                raise WriteError(f"{path} is write-protected.", "Nothing was changed. Make it writable if these decisions may replace its.")
            tmp = next((earlier for earlier, other in temporary if other == path), None)
            if tmp is None:
                clear_leftovers(path)
                stack.enter_context(folder_of(path))
                tmp = stack.enter_context(staged(path))
                temporary.append((tmp, path))
            with _told_apart(f"{path} could not be written"):
                edit.stage(tmp)
        for tmp, path in temporary:
            before, known = digest(path), receipts.get(path)
            # What ActSort wrote itself needs no further backup: the last content that came from elsewhere is what restore owes.
            if known and before in known.ours:
                kept = known.backup
            else:
                several = sum(other.name == path.name for _, other in temporary) > 1  # iscell.npy of each plane
                name = f"{path.parent.name}-{path.name}" if several else path.name
                kept = backup(path, folder / "backups", name).relative_to(folder).as_posix() if before else ""
            relative = os.path.relpath(path, folder)
            files.append({"path": str(path), "relative": relative, "before": before, "after": digest(tmp), "backup": kept})
        # curation.json is staged with the others: a disk that is full is met before anything is replaced.
        told = folder / CURATION
        tmp_told = stack.enter_context(staged(told))
        tmp_told.write_bytes(as_json(curation_document(sources, curations, files)))
        counts = {key: {"accepted": int(c.accepted.sum()), "rejected": int((~c.accepted).sum())} for key, c in curations.items()}
        undo = [stack.enter_context(held(path)) for path in (*(path for _, path in temporary), told)]
        journal.append("write_started", files=files)
        try:
            for tmp, path in temporary:
                commit(tmp, path)
            for source in sources:
                steps.next("comparing")
                _verify(source, formats[source.format], curations)
            commit(tmp_told, told)
            journal.append("written", files=files, counts=counts)
        except BaseException as error:
            _put_all_back(undo, [*files, {"path": CURATION, "backup": ""}])
            with contextlib.suppress(ActsortError):  # a full disk: the intent alone does no harm, contents tell what is there
                journal.append("write_undone", files=[file["relative"] for file in files])
            if isinstance(error, ActsortError) or not isinstance(error, Exception):
                raise
            raise WriteError(f"Writing failed ({type(error).__name__}: {error}).", "The files were put back as they were.") from error
    steps.end()
    backups = {Path(file["path"]): folder / file["backup"] for file in files if file["backup"]}
    resolved = {edit.path: edit.path.resolve() for edit in edits}
    return WriteReport(
        differences,
        tuple(dict.fromkeys(edit.path for edit in edits)),
        planned,
        {path: backups[real] for path, real in resolved.items() if real in backups},
        stale,
        notes,
    )


def _verify(source: Source, fmt: Format, curations: Mapping[str, Curation]) -> None:
    for key, recording in reread(source, fmt).items():
        wrong = np.flatnonzero((recording.prior.verdict > 0) != curations[key].accepted)
        if len(wrong):
            raise WriteError(
                f"{recording.path} did not read back as written: {len(wrong)} verdicts differ (first: candidate {wrong[0]}).",
                "The files were put back as they were. Please report this.",
            )


class _Steps:
    """Counts steps for a progress bar."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._tell, self._total, self._done = progress, total, 0

    def next(self, name: str) -> None:
        if self._tell:
            self._tell(name, self._done, self._total)
        self._done += 1

    def end(self) -> None:
        if self._tell:
            self._tell("done", self._total, self._total)


def interrupted(journal: Journal) -> tuple[str, ...]:
    """Files of a write-back that a crash interrupted: each holds either its old or its new content, and is whole."""
    last = [event for event in journal.events if event["kind"] in _WRITES][-1:]
    return tuple(file["path"] for event in last if event["kind"] == "write_started" for file in event["files"])


def _put_all_back(undo: Sequence[Callable[[], None]], files: Sequence[Mapping[str, Any]]) -> None:
    """Undo a write that failed, every file of it, and say so where one cannot be put back."""
    lost = []
    for put_back, file in zip(undo, files, strict=True):
        try:
            put_back()
        except OSError as error:
            lost.append(f"{file['path']} ({error.strerror}; its former content: {file['backup'] or 'there was none'})")
    if lost:
        raise WriteError(f"Writing failed, and these files could not be put back: {', '.join(lost)}.", "See: actsort restore.")


def restore(folder: Path, journal: Journal, force: bool = False) -> tuple[Path, ...]:
    """Undo the write-backs of a session: every file gets back the last content that did not come from ActSort.

    Parameters
    ----------
    folder
        The session's folder.
    journal
        Its journal; the restore is recorded there.
    force
        Also replace files that somebody changed after we wrote them (their present content is backed up first).

    Returns
    -------
    The files restored.

    Raises
    ------
    MissingFileError
        Nothing was written, or a backup is gone.
    ChangedError
        A file changed after the write-back, and `force` is not given. Nothing is changed.
    """
    journal.check_writable()
    folder = folder.resolve()
    receipts = _receipts(journal, folder)
    if not receipts:
        raise MissingFileError(f"The session {folder} has written nothing that could be restored.", "See: actsort status.")
    todo = []
    for path, receipt in receipts.items():
        present = digest(path)
        kept = digest(folder / receipt.backup) if receipt.backup else ""
        if receipt.backup and not kept:
            raise MissingFileError(f"The backup {folder / receipt.backup} is gone.", "Nothing was restored.")
        if present == kept:
            continue
        ours = present in receipt.ours
        if not ours and not force:
            raise ChangedError(
                f"{path} was changed after ActSort wrote it.",
                "Nothing was restored. Look at it first; --force restores it all the same.",
            )
        todo.append((path, receipt, ours))
    with contextlib.ExitStack() as stack:
        ready = []
        for path, receipt, ours in todo:
            if path.exists() and not os.access(path, os.W_OK):
                raise WriteError(f"{path} is write-protected.", "Nothing was restored. Make it writable first.")
            if not ours and path.exists():
                backup(path, folder / "backups")
            tmp = None
            if receipt.backup:
                tmp = stack.enter_context(staged(path))
                shutil.copyfile(folder / receipt.backup, tmp)
            ready.append((path, tmp, stack.enter_context(held(path))))
        try:
            for path, tmp, _ in ready:
                if tmp is None:  # it did not exist before
                    path.unlink(missing_ok=True)
                else:
                    commit(tmp, path)
            journal.append("restored", files=[receipt.relative for receipt in receipts.values()])
        except BaseException:
            _put_all_back([put_back for _, _, put_back in ready], [{"path": str(path), "backup": ""} for path, _, _ in ready])
            raise
    for path in [path for path, receipt, _ in todo if not receipt.backup]:
        remove_empty(path.parent)  # it was made for it
    return tuple(path for path, _, _ in todo)


def curation_document(sources: Sequence[Source], curations: Mapping[str, Curation], files: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """``curation.json``: all decisions with their provenance, also what a native file cannot hold (unsure, who, when)."""
    rows = []
    for source in sources:
        for key, recording in source.recordings.items():
            curation = curations[key]
            rows.append(
                {
                    "recording": key,
                    "path": str(recording.path),
                    "format": source.format,
                    "fingerprint": curation.fingerprint,
                    "n_cells": curation.n_cells,
                    "accepted": int(curation.accepted.sum()),
                    "threshold": None if np.isnan(curation.threshold) else curation.threshold,
                    "model_fitted_on": curation.n_labels,
                    "candidates": candidate_rows(curation),
                }
            )
    return {"format_version": CURATION_VERSION, "time": now(), "files": [dict(file) for file in files], "recordings": rows}


def candidate_rows(curation: Curation) -> list[dict[str, Any]]:
    """One JSON object per candidate: decision, origin, probability, and the person's label with who and when."""
    rows = []
    for decision, fingerprint in zip(curation.decisions(), curation.candidate_fingerprints, strict=True):
        row: dict[str, Any] = {
            "index": decision.candidate.index,
            "fingerprint": fingerprint,
            "decision": {True: "cell", False: "not_cell"}[decision.accepted] if decision.origin != "none" else "undecided",
            "origin": decision.origin,
            "probability": None if np.isnan(decision.probability) else round(decision.probability, 6),
        }
        if decision.label is not None:
            row |= {"label": decision.label.value, "annotator": decision.label.annotator, "time": decision.label.time}
        if curation.classes is not None:
            row["class"] = str(curation.classes[decision.candidate.index]) or None
        if decision.candidate.index in curation.votes:
            row["votes"] = dict(curation.votes[decision.candidate.index])
        rows.append(row | dict(curation.remarks.get(decision.candidate.index, {})))
    return rows
