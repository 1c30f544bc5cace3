"""The append-only journal of a session: one event a line, with a checksum. State is what replaying it gives.

A line is a JSON object whose last key is ``crc``, the CRC-32 of the object without that key. Only the last line can be torn by
a crash (every append is flushed to disk before it returns); it is moved aside and the session goes on. A damaged line anywhere
else stops the replay with its number. Lines without ``crc`` are accepted, so that a person can mend the file in an editor.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import filelock

from actsort_core.atomic import atomic_write, fsync_folder
from actsort_core.errors import JournalError, LockedError, UsageError, WriteError
from actsort_core.model import CandidateId, Label

FILE = "labels.jsonl"
Event = Mapping[str, Any]


def now() -> str:
    """The time as the journal writes it: ISO 8601, UTC, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def encode(event: Event) -> bytes:
    """One line of the journal, checksum and line feed included."""
    body = json.dumps(event, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # A lone surrogate (a name that is no UTF-8, from a file or the command line) becomes its JSON escape, which reads back as it was.
    line = body.encode("utf-8", "backslashreplace")
    return line[:-1] + f',"crc":"{zlib.crc32(line):08x}"}}\n'.encode()


def decode(line: bytes) -> dict[str, Any]:
    """Inverse of `encode`; `line` without its line feed.

    Raises
    ------
    ValueError
        Not JSON, no event, or the checksum does not match.
    """
    event = json.loads(line)
    if not isinstance(event, dict) or not isinstance(event.get("seq"), int) or not isinstance(event.get("kind"), str):
        raise ValueError("not an event with seq and kind")
    if event["kind"] == "label" and [type(event.get(key)) for key in ("recording", "index", "class")] != [str, int, str]:
        raise ValueError("not a label with recording, index and class")
    crc = event.pop("crc", None)
    if crc is not None:
        body = line.rstrip()[: line.rstrip().rfind(b',"crc":')] + b"}"
        if f"{zlib.crc32(body):08x}" != crc:
            raise ValueError("the checksum does not match")
    return event


def parse(content: bytes, where: str = FILE) -> tuple[list[dict[str, Any]], int]:
    """All events of a journal file, and how many bytes of it are whole.

    Raises
    ------
    JournalError
        A line other than the last is damaged, or events are out of order.
    """
    events: list[dict[str, Any]] = []
    good = 0
    lines = content.split(b"\n")
    for number, line in enumerate(lines, 1):
        last = number == len(lines) or not any(rest.strip(b"\0 \r\t") for rest in lines[number:])
        if not line.strip():
            good += len(line) + (number < len(lines))
            continue
        try:
            event = decode(line)
        except (ValueError, RecursionError) as error:
            if last and line.count(b'{"seq":') < 2:  # torn by a crash: never more than the one event being written
                break
            raise JournalError(
                f"{where}, line {number} is damaged ({error}).",
                "No label was lost by reading it. Mend the line in an editor (drop its crc), or delete it, and open the session again.",
            ) from None
        if events and event["seq"] <= events[-1]["seq"]:
            raise JournalError(
                f"{where}, line {number}: event {event['seq']} comes after {events[-1]['seq']}.",
                "Were two journals joined? Keep one, or renumber the events.",
            )
        events.append(event)
        good += len(line) + (number < len(lines))
    return events, min(good, len(content))


def label_of(event: Event) -> Label:
    """The label a ``label`` event gives."""
    return Label(
        candidate=CandidateId(str(event["recording"]), int(event["index"])),
        value=str(event["class"]),
        annotator=str(event.get("annotator", "")),
        time=str(event.get("time", "")),
        seconds=event.get("seconds"),
        reason=str(event.get("reason", "review")),
        strategy=str(event.get("strategy", "")),
        probability=event.get("p"),
        inclusion=event.get("inclusion"),
    )


@dataclass
class Labels:
    """The labels in force: a fold over label, undo and redo events; other kinds change nothing.

    Each annotator has a history of their own: undo takes back that annotator's latest label, and a new label ends what could
    be redone. Where several annotators labelled a candidate, the latest label in force counts.

    An undo or redo means the label that its ``target`` names (by ``seq``); in a journal of one machine that is the latest one, in a
    merged one it may be older. Without a target the latest is meant.
    """

    given: dict[CandidateId, list[dict[str, Any]]] = field(default_factory=dict)
    done: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    undone: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    dropped: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # undone, then followed by another label

    def meant(self, event: Event) -> dict[str, Any] | None:
        """The label event that an undo or redo is about, if it can be undone or redone now."""
        who, target = str(event.get("annotator", "")), event.get("target")
        kept = {"undo": self.done, "redo": self.undone}.get(event["kind"], {}).get(who, [])
        if target is None:
            return kept[-1] if kept else None
        dropped = self.dropped.get(who, []) if event["kind"] == "redo" else []
        return next((e for e in (*reversed(kept), *reversed(dropped)) if e["seq"] == target), None)

    def apply(self, event: dict[str, Any]) -> CandidateId | None:
        """Take one event into account; returns the candidate it concerns."""
        kind, who = event["kind"], str(event.get("annotator", ""))
        done, undone = self.done.setdefault(who, []), self.undone.setdefault(who, [])
        label = event if kind == "label" else self.meant(event)
        if label is None:
            return None
        candidate = label_of(label).candidate
        history = self.given.setdefault(candidate, [])
        if kind == "undo":
            _remove(done, label)
            _remove(history, label)
            undone.append(label)
            return candidate
        if kind == "label":
            self.dropped.setdefault(who, []).extend(undone)
            undone.clear()
        else:
            _remove(undone, label)
            _remove(self.dropped.get(who, []), label)
        done.append(label)
        history.append(label)
        history.sort(key=lambda e: int(e["seq"]))
        return candidate

    def current(self) -> dict[CandidateId, Label]:
        """The label in force of every labelled candidate."""
        return {candidate: label_of(history[-1]) for candidate, history in self.given.items() if history}

    def of(self, candidate: CandidateId) -> Label | None:
        """The label in force of one candidate."""
        history = self.given.get(candidate)
        return label_of(history[-1]) if history else None

    def votes(self, candidate: CandidateId) -> dict[str, Label]:
        """What each annotator says about one candidate: their own latest label in force, in the order they were given."""
        latest = {str(event.get("annotator", "")): event for event in self.given.get(candidate, ())}
        return {who: label_of(event) for who, event in sorted(latest.items(), key=lambda item: int(item[1]["seq"]))}

    def by_annotator(self) -> dict[str, dict[CandidateId, Label]]:
        """Each annotator's own label of every candidate they labelled, whatever others say; annotators by name."""
        out: dict[str, dict[CandidateId, Label]] = {}
        for candidate in self.given:
            for who, label in self.votes(candidate).items():
                out.setdefault(who, {})[candidate] = label
        return dict(sorted(out.items()))

    def times(self, candidate: CandidateId, annotator: str) -> int:
        """How many labels in force an annotator gave to one candidate: more than one where they were asked again."""
        return sum(str(event.get("annotator", "")) == annotator for event in self.given.get(candidate, ()))


def _remove(events: list[dict[str, Any]], event: dict[str, Any]) -> None:
    """Take an event out of a list, from its end: that is where it nearly always is."""
    for i in range(len(events) - 1, -1, -1):
        if events[i]["seq"] == event["seq"]:
            del events[i]
            return


def fold(events: Iterable[dict[str, Any]]) -> Labels:
    """The labels after all `events`."""
    labels = Labels()
    for event in events:
        labels.apply(event)
    return labels


class Journal:
    """An open journal: holds the session's lock and appends events durably.

    Parameters
    ----------
    folder
        The session's folder.
    read_only
        True: neither lock nor repair; a torn last line is passed over.

    Attributes
    ----------
    events
        All events so far, in order.
    notes
        What the person should know about how it was found.

    Raises
    ------
    LockedError
        Another process has it open.
    JournalError
        The journal is damaged before its last line.
    """

    def __init__(self, folder: Path, read_only: bool = False) -> None:
        self.path = folder / FILE
        self.read_only = read_only
        self.notes: list[str] = []
        self._writing = threading.Lock()  # plug-ins may label from the fitting thread
        self._lock: filelock.BaseFileLock | None = None
        self._torn: int | None = None  # where the file should end, if a failed append could not be taken back
        if not read_only:
            self._acquire(folder)
        try:
            self.events = self._load()
            self._handle = None if read_only else self._open()
        except BaseException:
            self.close()
            raise

    def _acquire(self, folder: Path) -> None:
        owner = folder / "lock-owner.txt"
        try:
            try:
                self._lock = filelock.FileLock(folder / ".lock", timeout=0)
                self._lock.acquire()
            except NotImplementedError:  # a file system without flock
                self._lock = filelock.SoftFileLock(folder / ".softlock", timeout=0)
                self._lock.acquire()
        except filelock.Timeout:
            self._lock = None
            who = "another process"
            with contextlib.suppress(OSError):
                who = owner.read_text().strip()
            if who.startswith(f"process {os.getpid()} on {socket.gethostname()} "):
                what = f"The session {folder} is open in this program already."
                raise LockedError(
                    what, "Close it first with session.close(), or open it with: with actsort.open(...) as session."
                ) from None
            raise LockedError(f"The session {folder} is open elsewhere: {who}.", "Close it there, or wait until it is done.") from None
        except OSError as error:
            self._lock = None
            raise WriteError(
                f"The session {folder} cannot be locked ({error}).", "Is the folder writable? Choose another with --session."
            ) from error
        with contextlib.suppress(OSError):
            owner.write_text(f"process {os.getpid()} on {socket.gethostname()} since {now()}\n")

    def _load(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        content = self.path.read_bytes()
        events, good = parse(content, str(self.path))
        torn = content[good:]
        if torn and not self.read_only:
            aside = self.path.with_name(f"{FILE}.torn-{now().replace(':', '')}")
            atomic_write(aside, torn)
            with self.path.open("rb+") as handle:
                handle.truncate(good)
                os.fsync(handle.fileno())
            self.notes.append(
                f"The last line was cut off (a crash?): {len(torn)} bytes were moved to {aside.name}; {len(events)} events are whole."
            )
        elif torn:
            self.notes.append("The last line is cut off and was passed over.")
        return events

    def _open(self) -> int:
        new = not self.path.exists()
        try:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666)
            try:
                size = os.fstat(handle).st_size
                if size:
                    os.lseek(handle, size - 1, os.SEEK_SET)
                    if os.read(handle, 1) != b"\n":  # the line feed alone was lost
                        os.write(handle, b"\n")
                if new:
                    os.fsync(handle)
            except BaseException:
                os.close(handle)
                raise
        except OSError as error:
            raise WriteError(
                f"The journal {self.path} cannot be written to ({error.strerror}).", "Check its permissions, and free some space."
            ) from error
        if new:
            fsync_folder(self.path.parent)
        return handle

    def check_writable(self) -> None:
        """Make sure that events can be appended, before anything is done that must be recorded.

        Raises
        ------
        UsageError
            The journal is closed or read-only.
        """
        if self._handle is None:
            raise UsageError(f"The session of {self.path} is closed or read-only.", "Open it again to change it.")

    def append(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Add an event and return once it is on disk.

        Raises
        ------
        WriteError
            It could not be written (disk full); the journal is as it was before.
        """
        return self.append_all(kind, [fields])[0]

    def append_all(self, kind: str, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Add several events of one kind and return once all are on disk; a process killed meanwhile leaves the first few, whole.

        Raises
        ------
        WriteError
            They could not be written (disk full); the journal is as it was before.
        """
        with self._writing:
            self.check_writable()
            assert self._handle is not None
            first, time = self.events[-1]["seq"] + 1 if self.events else 1, now()
            events = [{"seq": first + i, "kind": kind, "time": time, **fields} for i, fields in enumerate(rows)]
            lines = b"".join(map(encode, events))
            before = len(self.events)
            size = os.fstat(self._handle).st_size if self._torn is None else self._torn
            try:
                if self._torn is not None:
                    os.ftruncate(self._handle, size)
                    self._torn = None
                written = 0
                while written < len(lines):
                    written += os.write(self._handle, lines[written:])
                os.fsync(self._handle)
                self.events += events
            except BaseException as error:
                # Whatever happened, an event that is not acknowledged must not be found at the next replay, nor run into the next one.
                del self.events[before:]
                self._torn = size
                with contextlib.suppress(OSError):
                    os.ftruncate(self._handle, size)
                    self._torn = None
                if isinstance(error, OSError):
                    raise WriteError(
                        f"The journal {self.path} could not be written ({error.strerror}); this {kind} was not saved.",
                        "Everything before it is. Free some space, then try again.",
                    ) from error
                raise
            return events

    def rewrite(self, events: Sequence[Event]) -> None:
        """Replace all events in one step (merging): afterwards the file holds these, or what it held before.

        Raises
        ------
        UsageError, WriteError
            The journal is closed or read-only; the file could not be replaced.
        """
        with self._writing:
            self.check_writable()
            assert self._handle is not None
            os.close(self._handle)  # Windows replaces no file that is open
            self._handle = None
            try:
                atomic_write(self.path, b"".join(map(encode, events)))
                self.events, self._torn = [dict(event) for event in events], None
            finally:
                self._handle = self._open()

    def close(self) -> None:
        """Release the lock. Nothing is pending: every append was on disk when it returned."""
        handle, self._handle = getattr(self, "_handle", None), None
        if handle is not None:
            os.close(handle)
        if self._lock is not None:
            with contextlib.suppress(OSError):
                (self.path.parent / "lock-owner.txt").unlink(missing_ok=True)
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
