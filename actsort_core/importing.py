"""Decisions made elsewhere become labels of a session: matched by content, told who said it and where it is from, never overwriting."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from actsort_core import clicks, opening, store
from actsort_core import plugins as plugin_module
from actsort_core.errors import ChangedError, MissingFileError, UsageError
from actsort_core.import_sources import Given, Said, read
from actsort_core.model import CELL, NOT_CELL, CandidateId, Label, Recording
from actsort_core.plugins import Plugins
from actsort_core.reattach import shown
from actsort_core.session import Session

REASON = "import"  # what the journal gives as the reason of such a label
SAME = 0.9999  # cosine of two footprints that differ in scale or rounding only
_TIE = 1e-6  # two candidates as alike as this cannot be told apart


@dataclass(frozen=True)
class Taken:
    """One decision from elsewhere and the candidate it is about.

    Attributes
    ----------
    candidate
        In the session.
    value, annotator
        What it is to be, and in whose name.
    path, kind
        Where it is from.
    index
        The candidate there, counted from 0; -1 where only its fingerprint is known.
    matched
        How the candidate was found: ``"fingerprint"``, ``"footprint"`` (the same in another scale), ``"overlap"`` (alike), ``"position"``.
    time
        When it was said, as far as the source knows.
    automatic
        Whether the toolkit said it, not a person.
    existing
        The label (or, with an empty annotator, the decision of another source) it contradicts.
    """

    candidate: CandidateId
    value: str
    annotator: str
    path: Path
    kind: str
    index: int
    matched: str
    time: str = ""
    automatic: bool = False
    existing: Label | None = None

    def event(self) -> dict[str, Any]:
        """Where it comes from, for the journal."""
        return {
            "path": str(self.path.absolute()),
            "kind": self.kind,
            "index": self.index,
            "matched": self.matched,
            "time": self.time,
            "automatic": self.automatic,
        }


@dataclass(frozen=True, eq=False)
class ImportReport:
    """What an import took into a session, or, dry, would take.

    Attributes
    ----------
    folder
        The session's.
    taken
        New labels.
    known
        How many decisions were there already.
    conflicts
        Decisions that contradict a label; they are among `taken` only where replacing was asked for.
    unmatched
        By source, decisions on candidates that the session does not hold.
    left
        By source, how many verdicts of the toolkit were left out.
    notes
        How decisions were found and matched, and what the person should know.
    dry_run
        Whether nothing was written.
    classes
        Own classes that come with them.
    """

    folder: Path
    taken: tuple[Taken, ...]
    known: int
    conflicts: tuple[Taken, ...]
    unmatched: Mapping[Path, tuple[Said, ...]]
    left: Mapping[Path, int]
    notes: tuple[str, ...]
    dry_run: bool
    classes: Mapping[str, str]

    def __str__(self) -> str:
        lines = [f"note: {note}" for note in self.notes]
        by = Counter((t.annotator, t.value) for t in self.taken)
        detail = ", ".join(f"{who}: {n} {value}" for (who, value), n in sorted(by.items()))
        lines.append(f"{len(self.taken)} labels {'would be taken' if self.dry_run else 'taken'}" + (f" ({detail})" if detail else ""))
        if self.known:
            lines.append(f"{self.known} were there already")
        if self.conflicts:
            replaced = {*self.taken}
            verb = "replace" if self.conflicts[0] in replaced else "contradict"
            hint = "" if verb == "replace" else "; left as they are (--replace takes them, too)"
            lines.append(f"{len(self.conflicts)} {verb} what is there{hint}:")
            for c in self.conflicts[:20]:
                there = c.existing
                told = "" if there is None else f"{there.value} by {there.annotator or 'another source'}"
                lines.append(f"  {c.candidate.recording}, candidate {c.candidate.index}: {c.value} by {c.annotator}, there: {told}")
            lines += [f"  ... and {len(self.conflicts) - 20} more: --json"] if len(self.conflicts) > 20 else []
        for path, said in self.unmatched.items():
            names = (str(s.index) if s.index >= 0 else s.fingerprint for s in said)
            lines.append(f"{path}: {len(said)} are about candidates that the session does not hold: {shown(names)}")
        for path, count in self.left.items():
            lines.append(f"{path}: {count} verdicts of the toolkit itself were left out (--all takes them, too)")
        return "\n".join(lines)


def import_labels(
    target: Session | Path | str,
    *sources: Path | str,
    annotator: str | None = None,
    everything: bool = False,
    dry_run: bool = False,
    replace: bool = False,
    by_position: bool = False,
    similar: float | None = None,
    format: str | None = None,
    session: Path | str | None = None,
    plugins: Iterable[object] | Plugins = (),
) -> ImportReport:
    """Take decisions made elsewhere into a session as labels.

    Parameters
    ----------
    target
        An open session; or the path of one, or of a result (its session is resumed, or started).
    *sources
        Sessions, native results, tables, lists; see `import_sources.READABLE`.
    annotator
        In whose name, where a source does not say who decided; by default the session's annotator.
    everything
        Take every verdict of a native result, also those the toolkit gave itself (in the toolkit's name).
    dry_run
        Only find out; change nothing.
    replace
        Also take decisions that contradict a label there is. That one stays in the journal, and its author's vote with it.
    by_position
        Believe the positions of a table that has no footprints and does not name all candidates.
    similar
        Also match candidates that are merely alike: the least cosine of their footprints, as 0.8.
    format
        Read native results as this format.
    session, plugins
        As for `opening.open`, where `target` is a path.

    Raises
    ------
    MissingFileError, FormatError
        A source is not there, or cannot be read.
    ChangedError
        A source has no candidate in common with the session. Nothing is taken.
    UsageError
        A source has no footprints, and positions prove nothing.
    WriteError
        The labels could not be saved.
    """
    if not sources:
        raise UsageError("There is nothing to import from.", "Pass a source: actsort import-labels SESSION SOURCE...")
    if similar is not None and not 0 < similar <= 1:
        raise UsageError(f"{similar!r} is no cosine of footprints.", "Give a number from 0 to 1, as 0.8.")
    with ExitStack() as stack:
        given = isinstance(target, Session)
        opened = target if isinstance(target, Session) else _opened(Path(target), session, annotator, dry_run, plugins)
        if not given:
            stack.enter_context(opened)
        options = _Options(annotator or opened.annotator, everything, replace, by_position, similar, format)
        try:
            report = _find(opened, [Path(source) for source in sources], options, dry_run)
        except BaseException:
            if not given:
                opened.discard()  # a session that a mistyped source started would be in the way
            raise
        if dry_run or not report.taken:
            if not given:
                opened.discard()
            return report
        if report.classes:
            opened.add_classes(report.classes)
        opened.record([(t.candidate, t.value, t.annotator, REASON, {"source": t.event()}) for t in report.taken])
        return report


@dataclass(frozen=True)
class _Options:
    annotator: str
    everything: bool
    replace: bool
    by_position: bool
    similar: float | None
    format: str | None


def _opened(path: Path, session: Path | str | None, annotator: str | None, dry_run: bool, plugins: Iterable[object] | Plugins) -> Session:
    registered = plugins if isinstance(plugins, Plugins) else plugin_module.load(plugins)
    rest: dict[str, Any] = {"annotator": annotator, "plugins": registered, "prepare": False, "refit_wait": 0}
    if session is not None:
        started = store.is_session(Path(session))
        return opening.open(path, session=session, read_only=dry_run and started, **rest)
    try:
        folder = store.find_folder(path)
    except MissingFileError:
        if not path.exists():
            raise
        return opening.open(path, **rest)
    return opening.open(session=folder, read_only=dry_run, **rest)


def _find(session: Session, sources: Sequence[Path], options: _Options, dry_run: bool) -> ImportReport:
    taken: list[Taken] = []
    conflicts: list[Taken] = []
    unmatched: dict[Path, tuple[Said, ...]] = {}
    left: dict[Path, int] = {}
    notes: list[str] = []
    further: dict[str, str] = {}
    pending: dict[CandidateId, dict[str, Taken]] = {}
    votes, current = session.votes(), {label.candidate: label for label in session.labels()}
    known = 0
    own = session.folder.resolve()
    for path in dict.fromkeys(sources):
        if path.exists() and path.resolve() == own:
            raise UsageError(f"{path} is the session itself.", "Pass what its labels shall be taken from.")
        found = read(path, session.plugins, options.format, tuple(session.options.classes), options.everything)
        matched_any, asked_any = False, False
        for given in found:
            places, how = _places(given, session, options)
            matched_any, asked_any = matched_any or bool(places), True
            said, told = _said(given, places, session, options)
            notes += [f"{path}{f' ({given.recording})' if given.recording else ''}: {note}" for note in (*how, told) if note]
            further |= {name: kind for name, kind in given.classes.items() if any(s.value == name for s in said)}
            if given.prior is not None and not options.everything:
                count = int((given.prior.verdict != 0).sum()) - len(said)
                left |= {path: left.get(path, 0) + count} if count else {}
            for one in said:
                place = places.get(_key(one))
                if place is None:
                    unmatched[path] = (*unmatched.get(path, ()), one)
                    continue
                candidate, matched = place
                who = one.annotator or (given.kind if one.automatic else options.annotator)
                new = Taken(candidate, one.value, who, path, given.kind, one.index, matched, one.time, one.automatic)
                there = votes.get(candidate, {})
                label = current.get(candidate)
                before = pending.setdefault(candidate, {})
                other = next((t for t in before.values() if t.path != path), None)
                mine = there.get(who)
                if (mine is not None and mine.value == new.value) or (who in before and before[who].value == new.value):
                    known += 1
                    continue
                if new.automatic and (label is not None and label.value == new.value):
                    known += 1  # a person said so already
                    continue
                contradicted = label if label is not None and label.value != new.value else None
                if contradicted is None and other is not None and other.value != new.value:
                    contradicted = Label(candidate, other.value, "")
                if contradicted is not None:
                    new = _with(new, contradicted)
                    conflicts.append(new)
                    if not options.replace:
                        continue
                before[who] = new
                taken.append(new)
        if asked_any and not matched_any and any(g.n_cells or g.said for g in found):
            raise ChangedError(
                f"{path} has no candidate in common with the session {session.folder}.",
                "Nothing was taken. Is it about another recording? Candidates that are merely alike (another run of the extraction) are "
                "matched with --similar 0.8.",
            )
    for name, kind in further.items():
        if session.options.classes.get(name, kind) != kind:
            raise UsageError(
                f"The class {name!r} counts as {kind} there and as {session.options.classes[name]} here.",
                "Nothing was taken: settle that first.",
            )
    new_classes = {name: kind for name, kind in further.items() if name not in session.options.classes}
    return ImportReport(
        session.folder, tuple(taken), known, tuple(conflicts), unmatched, left, tuple(dict.fromkeys(notes)), dry_run, new_classes
    )


def _with(taken: Taken, existing: Label) -> Taken:
    return replace(taken, existing=existing)


Places = dict[tuple[int, str], tuple[CandidateId, str]]


def _key(said: Said) -> tuple[int, str]:
    """What names a candidate in a source: its fingerprint where there is one, else its index."""
    return (-1, said.fingerprint) if said.fingerprint else (said.index, "")


def _said(given: Given, places: Places, session: Session, options: _Options) -> tuple[tuple[Said, ...], str]:
    """The decisions of a source, those of people told from the toolkit's; and how that was found out."""
    if given.prior is None:
        return given.said, ""
    prior, content = given.prior, given.content
    first = None
    matched = [(i, place) for i in range(len(prior.verdict)) if (place := places.get((i, "")))]
    # What was said at first opening is a baseline for this result or a copy of it, not for one of another toolkit with other verdicts.
    keys = {place[0].recording for _, place in matched}
    if matched and all(content is None or session.recordings[key].format == content.format for key in keys):
        verdict, p = np.zeros(len(prior.verdict), np.int8), np.full(len(prior.verdict), np.nan)
        for i, (candidate, _) in matched:
            stored = session.priors[candidate.recording]
            verdict[i], p[i] = stored.verdict[candidate.index], stored.probability[candidate.index]
        first = clicks.Baseline(verdict, p)
    if content is not None:
        this = first is not None and any(session.recordings[key].path.resolve() == content.path.resolve() for key in keys)
        base = clicks.baseline_of(content.path, content.candidate_fingerprints, session.folder if this else None, first)
    else:
        base = first
    found = clicks.find(prior, base)
    words = {1: CELL, -1: NOT_CELL}
    out = [Said(int(i), words[int(found.value[i])]) for i in np.flatnonzero(found.value)]
    note = f"{len(out)} decisions of people ({found.how})" if found.how else "nothing tells people's verdicts from the toolkit's"
    if options.everything:
        rest = np.flatnonzero((prior.verdict != 0) & (found.value == 0))
        out += [Said(int(i), words[int(np.sign(prior.verdict[i]))], automatic=True) for i in rest]
        note += f", {len(rest)} of the toolkit"
    return tuple(sorted(out, key=lambda s: s.index)), note


def _places(given: Given, session: Session, options: _Options) -> tuple[Places, list[str]]:
    """Which candidate of the session is meant by each of a source; and how it was found."""
    prints: dict[tuple[int, str], str] = {_key(said): said.fingerprint for said in given.said if said.fingerprint}
    if given.content is not None:
        names = given.content.candidate_fingerprints
        prints |= {(i, ""): name for i, name in enumerate(names)}
    elif not prints:
        return _by_position(given, session, options)
    where = _by_fingerprint(prints, given.recording, session)
    out: Places = {key: (candidate, "fingerprint") for key, candidate in where.items()}
    notes = []
    if given.content is not None:
        place = {name: i for i, name in enumerate(given.content.candidate_fingerprints)}
        index = {key: place.get(key[1], -1) if key[1] else key[0] for key in prints}
        missing = {i for key, i in index.items() if key not in out and i >= 0}
        level = SAME if options.similar is None else min(options.similar, SAME)
        found = _alike(given.content, missing, set(where.values()), session, level)
        for key, i in index.items():
            if key not in out and i in found:
                candidate, cosine = found[i]
                out[key] = (candidate, "footprint" if cosine >= SAME else "overlap")
        count = Counter(how for _, how in out.values())
        if count["footprint"]:
            notes.append(f"{count['footprint']} candidates have the same footprint in another scale")
        if count["overlap"]:
            notes.append(f"{count['overlap']} candidates were matched because their footprints are alike (cosine {level} or more)")
    loose = [said for said in given.said if not said.fingerprint and given.content is None]
    if loose:
        more, told = _by_position(replace(given, said=tuple(loose)), session, options)
        out, notes = {**more, **out}, [*notes, *told]
    return out, notes


def _by_fingerprint(prints: Mapping[tuple[int, str], str], recording: str, session: Session) -> dict[tuple[int, str], CandidateId]:
    """Candidates with exactly these fingerprints, all of one recording where it is one: what is there twice is nobody."""
    places: dict[str, dict[str, list[CandidateId]]] = {}
    for key, own in session.recordings.items():
        table = places.setdefault(key, {})
        for i, name in enumerate(own.candidate_fingerprints):
            table.setdefault(name, []).append(CandidateId(key, i))
    twice = Counter(name for (_, known), name in prints.items() if not known)
    # The recording that has most of them; of several such the one of that name.
    best = max(places, key=lambda key: (sum(name in places[key] for name in prints.values()), key == recording), default="")
    out = {}
    for one, name in prints.items():
        found = places[best].get(name, []) if best else []
        if len(found) == 1 and twice[name] < 2:
            out[one] = found[0]
    return out


def _alike(
    content: Recording, missing: set[int], taken: set[CandidateId], session: Session, level: float
) -> dict[int, tuple[CandidateId, float]]:
    """Candidates whose footprints point the same way: each the other's best, and no second one as good."""
    best: dict[int, tuple[CandidateId, float]] = {}
    if not missing:
        return best
    keys = {candidate.recording for candidate in taken} or {*session.recordings}
    rows = np.array(sorted(missing))
    there = _directions(content.footprints[:, rows])
    for key in keys:
        own = session.recordings[key]
        if own.fov != content.fov:
            continue
        free = np.array([i for i in range(own.n_cells) if CandidateId(key, i) not in taken], np.int64)
        cosine = (there.T @ _directions(own.footprints[:, free])).tocoo()
        kept = cosine.data >= level - _TIE
        pairs = list(zip(cosine.row[kept].tolist(), cosine.col[kept].tolist(), cosine.data[kept].tolist(), strict=True))
        tops: list[dict[int, list[float]]] = [{}, {}]
        for row, column, value in pairs:
            tops[0].setdefault(row, []).append(value)
            tops[1].setdefault(column, []).append(value)
        found = {}
        for row, column, value in pairs:
            if all(value == max(all_) and sum(v >= value - _TIE for v in all_) == 1 for all_ in (tops[0][row], tops[1][column])):
                found[int(rows[row])] = (CandidateId(key, int(free[column])), float(value))
        if len(found) > len(best):
            best = found
    return best


def _directions(footprints: Any) -> Any:
    """Footprints of length 1, ``(n_pixels, n)``; empty ones stay empty."""
    matrix = sp.csc_matrix(footprints, dtype=np.float64)
    norms = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=0)).ravel())
    return sp.csc_matrix(matrix @ sp.diags(np.divide(1, norms, out=np.zeros_like(norms), where=norms > 0)))


def _by_position(given: Given, session: Session, options: _Options) -> tuple[Places, list[str]]:
    """Candidates by their position, where a source knows nothing else and the count agrees."""
    if given.recording in session.recordings:
        pool: Sequence[CandidateId] = [c for c in session.candidates if c.recording == given.recording]
        about = given.recording
    elif len(session.recordings) == 1 or given.n_cells == len(session.candidates):
        pool, about = session.candidates, "the session"
    else:
        raise UsageError(
            f"{given.path} does not say which recording it is about.", f"Add a column 'recording' with: {', '.join(session.recordings)}."
        )
    says = f"{given.path} has no footprints to go by and is about {given.n_cells} candidates; {about} has {len(pool)}"
    highest = max((said.index for said in given.said), default=-1)
    if given.n_cells == len(pool):
        note = "no footprints there: matched by position, the count agrees"
    elif given.kind != "table" or highest >= len(pool):
        raise UsageError(f"{says}.", "Pass what it was made from, or a table with the fingerprints of actsort export.")
    elif not options.by_position:
        raise UsageError(
            f"{says}: positions prove nothing.",
            "Pass a table with the fingerprints of actsort export; or, if you know that they are these candidates, --by-position.",
        )
    else:
        note = "no footprints there: matched by position, as you asked"
    indices = range(len(pool)) if given.prior is not None else sorted({said.index for said in given.said})
    return {(i, ""): (pool[i], "position") for i in indices if 0 <= i < len(pool)}, [note]
