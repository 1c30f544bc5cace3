"""From one toolkit's files to another's: ``actsort convert``.

Decisions come from the session of the source, else from its host. What the target cannot hold is known before anything is written. The
new result is made in a temporary place beside its destination, read again and compared, given its identity map, and then renamed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actsort_core import __version__, conversions, opening, store
from actsort_core import plugins as plugin_module
from actsort_core.atomic import atomic_write_json, fsync_folder, making
from actsort_core.errors import ActsortError, FormatError, MissingFileError, UnknownFormatError, UsageError, WriteError
from actsort_core.features.table import Progress
from actsort_core.formats import CreatingFormat, find_format, read_with
from actsort_core.journal import now
from actsort_core.model import CELL, NOT_CELL, Curation, Prior, Recording, TraceArray
from actsort_core.plugins import Plugins
from actsort_core.session import Session
from actsort_core.writeback import candidate_rows

DECISIONS = ("session", "host")
_ROWS = 256  # traces are compared in blocks of so many candidates


@dataclass(frozen=True, eq=False)
class Part:
    """One recording to be converted.

    Attributes
    ----------
    recording
        What is carried over.
    curation
        The decisions of a session on it; None: those of the host.
    prior
        The host's own verdicts, as they were before any decision of ours.
    session
        The folder of the session `curation` is from.
    """

    recording: Recording
    curation: Curation | None
    prior: Prior
    session: Path | None = None

    @property
    def accepted(self) -> NDArray[np.bool_]:
        """``(n_cells,)``: who is accepted; undecided candidates are not."""
        return self.recording.prior.verdict > 0 if self.curation is None else self.curation.accepted


@dataclass(frozen=True, eq=False)
class Conversion:
    """What a conversion did, or, dry, would do.

    Attributes
    ----------
    dst, to
        The new result, and the name of its format.
    parts
        The recordings, in the order they are written.
    losses
        What is not carried over, a sentence each.
    notes
        What the person should know.
    written
        The files of the new result; empty where nothing was written.
    identity_map
        Where ``conversion.json`` is; None where nothing was written.
    """

    dst: Path
    to: str
    parts: tuple[Part, ...]
    losses: tuple[str, ...]
    notes: tuple[str, ...]
    written: tuple[Path, ...] = ()
    identity_map: Path | None = None
    _format: Any = field(default=None, repr=False)
    _plugins: Any = field(default=None, repr=False)

    def as_document(self) -> dict[str, Any]:
        """As ``actsort convert --json`` prints it."""
        rows = [
            {
                "recording": part.recording.name,
                "path": str(part.recording.path),
                "format": part.recording.format,
                "n_cells": part.recording.n_cells,
                "accepted": int(part.accepted.sum()),
                "decisions": "host" if part.curation is None else "session",
                "session": None if part.session is None else str(part.session),
            }
            for part in self.parts
        ]
        told: dict[str, Any] = {
            "not_carried": list(self.losses),
            "notes": list(self.notes),
            "written": [str(path) for path in self.written],
        }
        told["identity_map"] = None if self.identity_map is None else str(self.identity_map)
        return {"dst": str(self.dst), "to": self.to, "recordings": rows, **told}

    def __str__(self) -> str:
        lines = []
        for row in self.as_document()["recordings"]:
            who = f"the session {row['session']}" if row["session"] else f"{row['format']} itself"
            lines.append(f"{row['recording']} ({row['format']}): {row['n_cells']} candidates, {row['accepted']} accepted by {who}")
        lines += ["not carried over:", *(f"  - {sentence}" for sentence in self.losses)] if self.losses else ["everything is carried over"]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def convert(
    src: Path | str | Session,
    dst: Path | str,
    to: str,
    *,
    decisions: str | None = None,
    recordings: Sequence[str] = (),
    format: str | None = None,
    dry_run: bool = False,
    plugins: Iterable[object] | Plugins = (),
    progress: Progress | None = None,
) -> Conversion:
    """Write a result of one toolkit as a result of another.

    Parameters
    ----------
    src
        A result; or a session (open, or its folder), whose recordings are all converted, together.
    dst
        File or folder to make, used as given: nothing is appended to its name. It must not exist.
    to
        Name of a format that can be written anew.
    decisions
        ``"session"``: those of the session of `src`, which must be there; ``"host"``: the verdicts `src` itself holds; None: those of
        the session where there is one, else the host's.
    recordings
        Names of those to convert; all by default.
    format
        Name of the format of `src`, if it shall not be found out.
    dry_run
        Only say what would be carried over.
    plugins
        Further plug-ins, or plug-ins already loaded.
    progress
        Called with what is done, how many candidates are and of how many.

    Raises
    ------
    UsageError
        `dst` exists; `to` cannot be written anew; there is no such recording.
    FormatError
        `src` cannot be read, or the target cannot hold it at all.
    MissingFileError
        There is no `src`, or no session of it where one is asked for.
    WriteError
        Writing failed, or the result did not read back the same. Nothing is at `dst`.
    """
    planned = prepare(src, dst, to, decisions=decisions, recordings=recordings, format=format, plugins=plugins, progress=progress)
    return planned if dry_run else carry_out(planned, progress)


def prepare(
    src: Path | str | Session,
    dst: Path | str,
    to: str,
    *,
    decisions: str | None = None,
    recordings: Sequence[str] = (),
    format: str | None = None,
    plugins: Iterable[object] | Plugins = (),
    progress: Progress | None = None,
) -> Conversion:
    """What `convert` would do, with everything that can be found out before anything is written."""
    registered = plugins if isinstance(plugins, Plugins) else plugin_module.load(plugins)
    if decisions is not None and decisions not in DECISIONS:
        raise UsageError(f"{decisions!r} is no source of decisions.", f"Choose {' or '.join(DECISIONS)}.")
    fmt = registered.formats[to]
    if not isinstance(fmt, CreatingFormat):
        able = [name for name, other in registered.formats.items() if isinstance(other, CreatingFormat)]
        raise UsageError(f"A result of {to} cannot be written anew.", f"Formats that can: {', '.join(able)}.")
    target = Path(dst)
    _check_free(target)
    notes: list[str] = []
    parts = _parts(src, decisions, format, registered, progress, notes)
    if recordings:
        known = [part.recording.name for part in parts]
        missing = [name for name in recordings if name not in known]
        if missing:
            raise UsageError(f"There is no recording {missing[0]!r} in {src}.", f"It holds: {', '.join(known)}.")
        parts = [part for part in parts if part.recording.name in recordings]
    conversions.check_outside(None if isinstance(src, Session) else Path(src), target, to, [part.recording for part in parts])
    curations = [part.curation for part in parts]
    losses = _losses(fmt, parts)
    notes += _note_on_labels(curations)
    return Conversion(target, to, tuple(parts), losses, tuple(dict.fromkeys(notes)), _format=fmt, _plugins=registered)


def _check_free(dst: Path) -> None:
    if os.path.lexists(dst):
        raise UsageError(f"{dst} exists already.", "Choose a new name: nothing is ever written over a result.")
    folder = dst.with_name(dst.name + ".actsort")
    if folder.is_dir() and any(entry.name != conversions.CONVERSION for entry in folder.iterdir()):
        raise UsageError(f"{folder} holds the session of an earlier {dst.name}.", "Move it away, or choose another name.")


def _losses(fmt: CreatingFormat, parts: Sequence[Part]) -> tuple[str, ...]:
    """What the format loses; where it cannot hold several recordings but could hold one, the error says how to choose it."""
    try:
        return fmt.losses([part.recording for part in parts], [part.curation for part in parts])
    except FormatError as error:
        if len(parts) > 1:
            with contextlib.suppress(FormatError):
                fmt.losses([parts[0].recording], [parts[0].curation])
                names = ", ".join(part.recording.name for part in parts)
                hint = f"{error.hint} Choose one with --recording {parts[0].recording.name} (there are: {names})."
                error = FormatError(error.what, hint)
        raise error from None


def _note_on_labels(curations: Sequence[Curation | None]) -> list[str]:
    labels = [label for curation in curations if curation is not None for label in curation.labels.values()]
    if not labels:
        return []
    other = sum(label.value not in (CELL, NOT_CELL) for label in labels)
    text = f"Who gave the {len(labels)} labels, and when, is kept in {conversions.CONVERSION}; the labels themselves stay in their session."
    return [text + (f" {other} of them are neither cell nor not_cell: the model decided." if other else "")]


# Reading


def _parts(
    src: Path | str | Session, decisions: str | None, format: str | None, registered: Plugins, progress: Progress | None, notes: list[str]
) -> list[Part]:
    if isinstance(src, Session):
        return _of_session(src, decisions, notes)
    path = Path(src)
    if store.is_session(path):
        return _opened(path, decisions, registered, progress, notes)[0]
    if not path.exists():
        raise MissingFileError(f"{path} does not exist.", "Check the path; on another machine results may be mounted elsewhere.")
    found: list[Part] = []
    for folder in _sessions_of(path) if decisions != "host" else []:
        parts, sources = _opened(folder, decisions, registered, progress, notes)
        if format is None and sources == [path.resolve()]:
            return parts
        found += parts
    fmt = find_format(path, registered.formats, format)
    out: list[Part] = []
    for recording in read_with(fmt, path):
        mine = [part for part in found if part.recording.candidate_fingerprints == recording.candidate_fingerprints]
        mine = [part for part in mine if part.recording.name == recording.name] or mine
        if mine:
            out.append(replace(mine[0], recording=recording))
            continue
        if found:
            notes.append(f"{recording.name} is in no session; its decisions are those of {recording.format} itself.")
        out.append(_of_host(recording, path))
    if decisions == "session" and not any(part.session for part in out):
        raise MissingFileError(f"There is no session of {path}.", f"Start one with: actsort sort {path}; or leave --decisions out.")
    return out


def _of_host(recording: Recording, path: Path) -> Part:
    folders = [store.default_folder(p.absolute()) for p in (path, recording.path, recording.path.parent)]
    return Part(recording, None, conversions.without_ours(recording, folders).prior)


def _sessions_of(path: Path) -> list[Path]:
    """The session of a result; where it has none, those beside and inside it that are about some of its recordings."""
    with contextlib.suppress(MissingFileError):
        return [store.find_folder(path)]
    inside = sorted(found.parent for found in path.glob(f"*/actsort/{store.DOCUMENT}")) if path.is_dir() else []
    near = [path.parent / "actsort", *inside]
    wanted = path.resolve()
    out = []
    for folder in near:
        if store.is_session(folder):
            stored = [p.resolve() for p, _ in store.stored_paths(store.read_document(folder), folder)]
            if any(p == wanted or p in wanted.parents or wanted in p.parents for p in stored):
                out.append(folder)
    return out


def _opened(
    folder: Path, decisions: str | None, registered: Plugins, progress: Progress | None, notes: list[str]
) -> tuple[list[Part], list[Path]]:
    with opening.open(session=folder, read_only=True, plugins=registered, progress=progress, prepare=False) as session:
        notes += getattr(session, "reattached", ())
        return _of_session(session, decisions, notes), [source.path.resolve() for source in session.sources]


def _of_session(session: Session, decisions: str | None, notes: list[str]) -> list[Part]:
    curations = session.curations() if decisions != "host" else {}
    # A session that says nothing yet would only repeat what the host said when it was started; the host may have been asked since.
    speaks = any(np.isin(curation.origin, ("label", "model")).any() for curation in curations.values())
    if curations and not speaks:
        notes.append(f"The session {session.folder} has decided nothing yet; the verdicts are the toolkit's own.")
    return [
        Part(recording, curations[key], session.priors[key], session.folder)
        if speaks
        else Part(recording, None, session.priors[key], session.folder if curations else None)
        for key, recording in session.recordings.items()
    ]


# Writing


def carry_out(planned: Conversion, progress: Progress | None = None) -> Conversion:
    """Write what `prepare` planned; see `convert`."""
    dst, fmt = planned.dst, planned._format
    _check_free(dst)
    with making(dst) as folder:
        made = folder / dst.name
        told = _told(planned.parts, progress)
        try:
            files = fmt.create(told, [part.curation for part in planned.parts], made)
        except ActsortError:
            raise
        except OSError as error:
            raise WriteError(f"Writing {dst} failed ({error}).", "Nothing was written. Is the disk full?") from error
        except Exception as error:
            raise WriteError(
                f"The format {planned.to!r} could not write {dst} ({type(error).__name__}: {error}).",
                "Nothing was written. Please report this.",
            ) from error
        back = _read_back(planned, made, progress)
        own = store.default_folder(made)
        try:
            own.mkdir(exist_ok=True)
            atomic_write_json(own / conversions.CONVERSION, _document(planned, back))
        except OSError as error:
            raise WriteError(f"Writing {dst} failed ({error}).", "Nothing was written. Is the disk full?") from error
        beside = dst.with_name(own.name) if own.parent == folder else None
        _publish(made, dst, own if beside else None, beside)
    notes = list(planned.notes)
    try:
        find_format(dst, planned._plugins.formats)
    except UnknownFormatError as error:
        notes.append(f"{error.what.strip()} Open it with --format {planned.to}.")
    written = tuple(dst / path.relative_to(made) if path != made else dst for path in files)
    return replace(planned, written=written, notes=tuple(notes), identity_map=store.default_folder(dst) / conversions.CONVERSION)


def _publish(made: Path, dst: Path, own: Path | None, beside: Path | None) -> None:
    """Put the new result, and the folder with its map, in their places; the result last, so that it is complete when it is there."""
    try:
        if own is not None and beside is not None:
            if beside.is_dir():  # left by a conversion that was killed just here; it holds a map and nothing else (`_check_free`)
                shutil.rmtree(beside)
            os.replace(own, beside)
        _check_free(dst)
        os.replace(made, dst)
    except OSError as error:
        if beside is not None:
            shutil.rmtree(beside, ignore_errors=True)
        raise WriteError(f"{dst} could not be put in its place ({error}).", "Nothing was written.") from error
    fsync_folder(dst.absolute().parent)


class _Rows:
    """Traces that tell how many candidates were read."""

    def __init__(self, source: TraceArray, tell: Any) -> None:
        self._source, self._tell, self.shape = source, tell, source.shape

    def __getitem__(self, rows: slice) -> NDArray[np.float32]:
        out = self._source[rows]
        self._tell(len(out))
        return out


def _told(parts: Sequence[Part], progress: Progress | None) -> list[Recording]:
    """The recordings to write, with traces that tell `progress`."""
    if progress is None:
        return [part.recording for part in parts]
    total, done = sum(part.recording.n_cells for part in parts), 0

    def tell(rows: int) -> None:
        nonlocal done
        done = min(done + rows, total)
        progress("writing", done, total)

    return [replace(part.recording, traces=_Rows(part.recording.traces, tell)) for part in parts]


def _read_back(planned: Conversion, made: Path, progress: Progress | None) -> tuple[Recording, ...]:
    """Read the new result and compare it with what it was made from.

    Raises
    ------
    WriteError
        Something differs; says what.
    """
    answer = planned._format.sniff(made)
    if not answer.yes:
        raise _unlike(planned, f"{planned.to} does not recognise it: {answer.why}")
    try:
        back = read_with(planned._format, made)
    except ActsortError as error:
        raise _unlike(planned, error.what.replace(str(made), str(planned.dst)).rstrip(".")) from error
    if len(back) != len(planned.parts):
        raise _unlike(planned, f"it has {len(back)} recordings instead of {len(planned.parts)}")
    total, done = sum(part.recording.n_cells for part in planned.parts), 0
    for part, new in zip(planned.parts, back, strict=True):
        old = part.recording
        differs = store.what_differs(old.candidate_fingerprints, new.candidate_fingerprints)
        if differs or (old.fov, old.n_frames) != (new.fov, new.n_frames):
            raise _unlike(planned, differs or f"{old.name} has a size of {new.fov}, {new.n_frames} frames")
        decided = np.ones(old.n_cells, bool) if part.curation is not None else old.prior.verdict != 0
        wrong = np.flatnonzero(((new.prior.verdict > 0) != part.accepted) & decided)
        if len(wrong):
            raise _unlike(planned, f"{len(wrong)} decisions of {old.name} differ (first: candidate {wrong[0]})")
        for start in range(0, old.n_cells, _ROWS):
            rows = slice(start, min(start + _ROWS, old.n_cells))
            if not _close(old.traces[rows], new.traces[rows]):
                raise _unlike(planned, f"traces of {old.name} differ (candidates {rows.start} to {rows.stop - 1})")
            done += rows.stop - rows.start
            if progress:
                progress("comparing", done, total)
    return back


def _unlike(planned: Conversion, why: str) -> WriteError:
    return WriteError(f"{planned.dst} did not read back as written: {why}.", "Nothing was written. Please report this.")


def _close(a: NDArray[np.float32], b: NDArray[np.float32]) -> bool:
    """Equal but for what is lost when a trace is kept as a difference of others, as CaImAn does."""
    scale = np.abs(a, where=np.isfinite(a), out=np.zeros_like(a)).max(axis=1, keepdims=True, initial=0)
    with np.errstate(invalid="ignore"):
        near = np.abs(a - b) <= 1e-6 * scale
    return a.shape == b.shape and bool((near | (a == b) | (np.isnan(a) & np.isnan(b))).all())


def _document(planned: Conversion, back: Sequence[Recording]) -> dict[str, Any]:
    """The identity map."""
    rows = []
    for part, new in zip(planned.parts, back, strict=True):
        old = part.recording
        path = old.path.absolute()
        rows.append(
            {
                "recording": new.name,
                "fingerprint": new.fingerprint,
                "source": {
                    "path": str(path),
                    "relative": os.path.relpath(path, planned.dst.absolute().parent),
                    "format": old.format,
                    "recording": old.name,
                    "fingerprint": old.fingerprint,
                },
                "decisions": "host" if part.curation is None else "session",
                "session": None if part.session is None else str(part.session.absolute()),
                "prior": conversions.prior_entry(part.prior),
                "written": conversions.prior_entry(new.prior),
                "candidates": _candidates(part, new),
            }
        )
    told = {"format_version": conversions.CONVERSION_VERSION, "actsort": __version__, "time": now(), "to": planned.to}
    return {**told, "not_carried": list(planned.losses), "recordings": rows}


def _candidates(part: Part, new: Recording) -> list[dict[str, Any]]:
    """One row per candidate: where it is, where it came from, what was decided about it and by whom."""
    curation = part.curation or _as_curation(part.recording)
    old = part.recording.candidate_fingerprints
    return [
        {"index": i, "fingerprint": here, "source_index": i, "source_fingerprint": old[i]}
        | {key: value for key, value in row.items() if key not in ("index", "fingerprint")}
        for i, (here, row) in enumerate(zip(new.candidate_fingerprints, candidate_rows(curation), strict=True))
    ]


def _as_curation(recording: Recording) -> Curation:
    """The host's verdicts as decisions."""
    prior = recording.prior
    origin = np.where(prior.verdict != 0, "prior", "none").astype("<U5")
    nobody = np.full(recording.n_cells, np.nan)
    names = (recording.name, recording.fingerprint, recording.candidate_fingerprints)
    return Curation(*names, prior.verdict > 0, origin, nobody, np.nan, {}, prior_probability=prior.probability)
