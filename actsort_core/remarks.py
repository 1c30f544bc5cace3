"""What people remark about candidates beside their class: notes and flags, events of the journal like labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from actsort_core.errors import UsageError
from actsort_core.model import CandidateId, Curation, Recording

if TYPE_CHECKING:
    from actsort_core.journal import Event, Journal

KINDS = ("note", "flag")
LONGEST = 10_000  # characters of a note


@dataclass(frozen=True)
class Note:
    """A sentence about a candidate.

    Attributes
    ----------
    annotator, time
        Who and when (ISO 8601, UTC).
    text
        What.
    """

    annotator: str
    time: str
    text: str


@dataclass
class Remarks:
    """The notes and flags in force: a fold over ``note`` and ``flag`` events, by recording and candidate fingerprint.

    A person has one note on a candidate, the latest; an empty one takes it back. A flag is the candidate's, whoever set it.
    """

    notes: dict[tuple[str, str], dict[str, Note]] = field(default_factory=dict)
    flags: set[tuple[str, str]] = field(default_factory=set)

    def apply(self, event: Event) -> None:
        """Take one event into account; other kinds change nothing."""
        where = (str(event.get("recording", "")), str(event.get("fingerprint", "")))
        if event["kind"] == "note":
            mine, who = self.notes.setdefault(where, {}), str(event.get("annotator", ""))
            mine.pop(who, None)
            if text := str(event.get("text", "")):
                mine[who] = Note(who, str(event.get("time", "")), text)
        elif event["kind"] == "flag":
            (self.flags.add if event.get("on") else self.flags.discard)(where)


def fold(events: Iterable[Event]) -> Remarks:
    """The notes and flags after all `events`."""
    remarks = Remarks()
    for event in events:
        remarks.apply(event)
    return remarks


class Remarking:
    """Notes and flags of a session (mixed into `session.Session`)."""

    _remarks: Remarks

    if TYPE_CHECKING:
        annotator: str
        journal: Journal
        recordings: dict[str, Recording]
        _change: Any

        def id(self, candidate: CandidateId | tuple[str, int] | int) -> CandidateId: ...  # noqa: D102 - session.Session's

    def note(
        self, candidate: CandidateId | tuple[str, int] | int, text: str, *, annotator: str | None = None, mark: str | None = None
    ) -> tuple[Note, ...]:
        """Write a note on a candidate, in place of this person's earlier one; an empty text takes that back.

        Parameters
        ----------
        candidate
            As for `label`.
        text
            At most 10,000 characters.
        annotator, mark
            As for `label`.

        Returns
        -------
        All notes on the candidate now.

        Raises
        ------
        CandidateError, UsageError, WriteError
            No such candidate; too long; not saved.
        """
        if len(text) > LONGEST:
            raise UsageError(f"The note has {len(text):,} characters, more than {LONGEST:,}.", "Keep the rest in a file of its own.")
        self._remark("note", candidate, annotator, mark, text=text.strip())
        return self.notes_on(candidate)

    def flag(
        self, candidate: CandidateId | tuple[str, int] | int, on: bool = True, *, annotator: str | None = None, mark: str | None = None
    ) -> None:
        """Flag a candidate, to find it again; or take the flag off. Raises as `note` does."""
        self._remark("flag", candidate, annotator, mark, on=bool(on))

    def notes_on(self, candidate: CandidateId | tuple[str, int] | int) -> tuple[Note, ...]:
        """Everybody's notes on a candidate, in the order they were written."""
        where = self._where(self.id(candidate))
        with self._change:
            return tuple(self._remarks.notes.get(where, {}).values())

    def flagged(self) -> tuple[CandidateId, ...]:
        """The candidates that are flagged, in their order."""
        flags = set(self._remarks.flags)  # another thread may be flagging
        return tuple(
            CandidateId(key, i)
            for key, recording in self.recordings.items()
            if any(key == flag[0] for flag in flags)
            for i, fingerprint in enumerate(recording.candidate_fingerprints)
            if (key, fingerprint) in flags
        )

    def _where(self, candidate: CandidateId) -> tuple[str, str]:
        return candidate.recording, self.recordings[candidate.recording].candidate_fingerprints[candidate.index]

    def _remark(
        self, kind: str, candidate: CandidateId | tuple[str, int] | int, annotator: str | None, mark: str | None, **said: Any
    ) -> None:
        found = self.id(candidate)
        key, fingerprint = self._where(found)
        marked = {} if mark is None else {"mark": mark}
        who = annotator or self.annotator
        with self._change:
            self._remarks.apply(
                self.journal.append(kind, annotator=who, recording=key, index=found.index, fingerprint=fingerprint, **said, **marked)
            )

    def _with_remarks(self, curations: Mapping[str, Curation]) -> dict[str, Curation]:
        """Add notes and flags to decisions."""
        out = {}
        with self._change:
            flags = set(self._remarks.flags)
            written = {where: {who: note.text for who, note in notes.items()} for where, notes in self._remarks.notes.items()}
        for key, curation in curations.items():
            remarks: dict[int, dict[str, Any]] = {}
            if any(key == where[0] for where in (*written, *flags)):
                for i, fingerprint in enumerate(curation.candidate_fingerprints):
                    notes = written.get((key, fingerprint))
                    found: dict[str, Any] = {"notes": notes} if notes else {}
                    if (key, fingerprint) in flags:
                        found["flagged"] = True
                    if found:
                        remarks[i] = found
            out[key] = replace(curation, remarks=remarks) if remarks else curation
        return out
