"""What requests do to a session: everything that changes it goes through here, and everything that is said twice is done once."""

from __future__ import annotations

import contextlib
import hashlib
import statistics
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actsort_core import __version__
from actsort_core.errors import ActsortError, CandidateError, ChangedError, UsageError
from actsort_core.features.duplicates import duplicate_groups
from actsort_core.journal import label_of
from actsort_core.model import CELL, NOT_CELL, CandidateId, Label
from actsort_core.report import stated_document, status_document
from actsort_core.session import Session
from actsort_core.web import keys, pack, writing
from actsort_core.web.checks import found_or_why, number, share
from actsort_core.web.checks import mark as checked_mark
from actsort_core.web.enough import Enough
from actsort_core.web.scene import Scene, column

AHEAD = 24  # questions a page holds, so that the next candidate is there before the key is pressed
PRESENT = 5.0  # seconds after its last sign of life that a tab still counts as there
_ORIGINS = {"none": 0, "prior": 1, "model": 2, "label": 3}
_FEW = 20  # latest labels whose median time is shown


class Desk:
    """A session as one or several pages work on it.

    Parameters
    ----------
    session
        Open; its features are computed.
    blind
        Whether pages hide at first what the model and the toolkit think.
    """

    def __init__(self, session: Session, blind: bool = False) -> None:
        self.session, self.blind = session, blind
        self.scenes: list[Scene] = []
        start = 0
        for recording in session.recordings.values():
            self.scenes.append(Scene(recording, start))
            start += recording.n_cells
        self.keys = list(session.recordings)
        self.n_cells = start
        self._starts = np.array([scene.start for scene in self.scenes], np.int64)
        self._enough = Enough()
        self._people: dict[str, dict[str, Any]] = {}
        # Revisions of a page that was open before the server was started again are smaller.
        self._started = int(time.time() * 1000)
        self._saying = threading.Lock()  # one thing is said after the other: marks are looked up and events written under it
        # What takes a while is worked out once, not by every waiting request; each by itself, so that none waits for another.
        self._looking = {what: threading.Lock() for what in ("state", "people", "quality", "duplicates")}
        self._state: tuple[int, bytes] | None = None
        self._groups: list[list[int]] | None = None
        self._done: dict[str, CandidateId | None] = {}  # by mark, the candidate it was about
        labels = {event["seq"]: event for event in session.events() if event["kind"] == "label"}
        for event in session.journal.events:
            if "mark" in event:
                about = labels.get(event["seq"] if event["kind"] == "label" else event.get("target", 0))
                self._done[str(event["mark"])] = label_of(about).candidate if about else None

    def warm_up(self) -> None:
        """Work out ahead what the first requests need."""
        for scene in self.scenes:
            scene.warm_up()

    @property
    def revision(self) -> int:
        """Grows with everything that changes what is shown, also over a restart of the server."""
        return self._started + self.session.revision

    # ---- where

    def place(self, pos: Any) -> tuple[int, int]:
        """Number of the recording and index of a candidate.

        Raises
        ------
        CandidateError
            There is none at that place.
        """
        if isinstance(pos, bool) or not isinstance(pos, int) or not 0 <= pos < self.n_cells:
            raise CandidateError(f"There is no candidate at place {pos!r}.", f"Places go from 0 to {self.n_cells - 1}.")
        number = int(np.searchsorted(self._starts, pos, "right")) - 1
        while pos >= self.scenes[number].start + self.scenes[number].recording.n_cells:  # recordings without candidates
            number -= 1
        return number, pos - self.scenes[number].start

    def id(self, pos: Any) -> CandidateId:
        """The candidate at a place."""
        number, index = self.place(pos)
        return CandidateId(self.keys[number], index)

    def pos(self, candidate: CandidateId) -> int:
        """The place of a candidate."""
        return self.scenes[self.keys.index(candidate.recording)].start + candidate.index

    @cached_property
    def identity(self) -> str:
        """Of all candidates in their order: places mean the same as long as it is the same."""
        names = (
            f"{key}:{name}" for key, scene in zip(self.keys, self.scenes, strict=True) for name in scene.recording.candidate_fingerprints
        )
        return hashlib.blake2b("\n".join(names).encode(), digest_size=8).hexdigest()

    def check(self, identity: Any) -> None:
        """Make sure that a page means the candidates that are here.

        Raises
        ------
        ChangedError
            It was opened on others: places would mean other candidates.
        """
        if identity is not None and identity != self.identity:
            raise ChangedError(
                "The result changed since this page was opened: its candidates are others, or in another order.",
                "Nothing was saved under a wrong candidate. Load the page again; labels that were saved follow their candidates.",
            )

    # ---- what is there

    def description(self, watch: bool, watch_token: str | None) -> dict[str, Any]:
        """``api/session``."""
        session = self.session
        own = session.options.classes
        groups = {f.name: f for group in session.plugins.features.values() for f in group.features}
        return {
            "version": __version__,
            "session": str(session.folder),
            "identity": self.identity,
            "annotator": session.annotator,
            "watch": watch,
            "watch_token": None if watch else watch_token,
            "blind": self.blind,
            "n_cells": self.n_cells,
            "recordings": [
                {
                    "key": key,
                    "start": scene.start,
                    "n_cells": scene.recording.n_cells,
                    "fov": [int(n) for n in scene.recording.fov],
                    "n_frames": scene.recording.n_frames,
                    "fps": None if scene.recording.fps is None else float(scene.recording.fps),
                    "trace_kind": scene.recording.trace_kind,
                    "format": scene.recording.format,
                    "images": list(scene.image_names),
                    "clips": session.has_clips(key),
                    "movie": scene.recording.movie_path is not None,
                }
                for key, scene in zip(self.keys, self.scenes, strict=True)
            ],
            "classes": [{"name": name, "kind": session.options.kind(name), "own": name in own} for name in session.options.known_classes],
            "keys": keys.as_rows(own),
            "features": [
                {"name": name, "unit": groups[name].unit, "description": groups[name].description}
                if name in groups
                else {"name": name, "unit": "", "description": "a statistic of the toolkit's own"}
                for name in dict.fromkeys(name for key in self.keys for name in session.features(key).names)
            ],
            "strategy": session.options.strategy,
            "notes": list(session.notes),
        }

    def feature(self, name: str) -> bytes:
        """``api/feature``."""
        values = column([self.session.features(key) for key in self.keys], name)
        if values is None:
            raise UsageError(f"This session has no feature {name!r}.", "api/session lists them.")
        return pack.encode({"name": name}, {"values": values})

    def state(self, since: int | None) -> bytes | None:
        """``api/state``; None where nothing changed since that revision."""
        if since is not None and since == self.revision:
            return None
        with self._looking["state"]:
            revision = self.revision
            if self._state is None or self._state[0] != revision:
                self._state = (revision, self._pack_state(revision))
            return self._state[1]

    def _pack_state(self, revision: int) -> bytes:
        session = self.session
        n, classes, people = self.n_cells, session.options.known_classes, session.annotators()
        predictions = session.predictions()
        found = session.decided(predictions)
        label, who, flagged = (np.zeros(n, np.uint8) for _ in range(3))
        for given in session.labels():
            at = self.pos(given.candidate)
            label[at] = 1 + classes.index(given.value)
            who[at] = 1 + people.index(given.annotator) if given.annotator in people else 0
        for candidate in session.flagged():
            flagged[self.pos(candidate)] = 1
        priors = [session.priors[key] for key in self.keys]

        def joined(parts: Sequence[NDArray[Any]], dtype: type) -> NDArray[Any]:
            return np.concatenate([np.zeros(0, dtype), *parts]).astype(dtype)

        origin = [sum(number * (c.origin == name) for name, number in _ORIGINS.items()) for c in found.values()]
        header = {
            "rev": revision,
            "labels": len(session.labels()),
            "fitted_on": predictions.n_labels,
            "share": pack.finite(predictions.share),
            "thresholds": [pack.finite(predictions.thresholds.get(key, predictions.threshold)) for key in self.keys],
            "rule": session.options.threshold,
            "annotators": list(people),
        }
        arrays = {
            "probability": joined([c.probability for c in found.values()], np.float32),
            "accepted": joined([c.accepted for c in found.values()], np.uint8),
            "origin": joined(origin, np.uint8),
            "label": label,
            "who": who,
            "prior": joined([prior.verdict for prior in priors], np.int8),
            "prior_probability": joined([prior.probability for prior in priors], np.float32),
            "flagged": flagged,
        }
        return pack.encode(header, arrays)

    def queue(self, annotator: str, n: int = AHEAD, skip: Collection[int] = ()) -> dict[str, Any]:
        """``api/queue``."""
        session = self.session
        found = session.upcoming(n, annotator, self._put_off(skip))
        questions = [
            {"pos": self.pos(q.candidate), "strategy": q.strategy, "reason": q.reason, "inclusion": q.inclusion, "p": q.probability}
            for q in found
        ]
        fit = session.fit
        return {
            "rev": self.revision,
            "labels": len(session.labels()),
            "fitted_on": 0 if fit is None else fit.n_labels,
            "questions": questions,
        }

    def pulse(self, annotator: str, client: str, watch: bool) -> dict[str, Any]:
        """``api/pulse``."""
        session, now = self.session, time.monotonic()
        with self._looking["people"]:
            if client:
                self._people[client] = {"annotator": annotator, "client": client, "watch": watch, "seen": now}
            self._people = {key: who for key, who in self._people.items() if now - who["seen"] <= PRESENT}
            people = [
                {"annotator": p["annotator"], "client": p["client"], "watch": p["watch"], "ago": round(now - p["seen"], 1)}
                for p in self._people.values()
            ]
        fit = session.fit
        return {
            "rev": self.revision,
            "labels": len(session.labels()),
            "fitted_on": 0 if fit is None else fit.n_labels,
            "fitting": session.fitting,
            "stop": self._enough.why or None,
            "people": people,
            "notes": list(session.notes),
        }

    def leave(self, client: Any) -> dict[str, Any]:
        """``api/leave``: a tab says that it goes."""
        with self._looking["people"]:
            self._people.pop(str(client), None)
        return {}

    def history(self, annotator: str, n: int) -> dict[str, Any]:
        """``api/history``."""
        # Labels that were sent together have one time: their order is that of the journal.
        given = [event for event in self.session.journal.events if event["kind"] == "label" and event["annotator"] == annotator]
        order = {(label_of(event).candidate, event["time"]): event["seq"] for event in given}
        mine = sorted(self.session.labels_by(annotator), key=lambda label: -order.get((label.candidate, label.time), 0))
        return {"labels": [self._as_row(label) for label in mine[: max(n, 0)]]}

    def _as_row(self, label: Label) -> dict[str, Any]:
        row = {"pos": self.pos(label.candidate), "value": label.value, "seconds": label.seconds, "time": label.time}
        return {**row, "reason": label.reason, "p": label.probability}

    def quality(self) -> dict[str, Any]:
        """``api/quality``."""
        session = self.session
        with self._looking["quality"]:
            stated, why = found_or_why(session.quality)
            self._enough.look(session)
            curations = session.decided().values()
        seconds = [label.seconds for label in session.labels() if label.seconds is not None][-_FEW:]
        origin = np.concatenate([np.zeros(0, "<U5"), *(c.origin for c in curations)])
        accepted = np.concatenate([np.zeros(0, bool), *(c.accepted for c in curations)])
        kinds = [session.options.kind(label.value) for label in session.labels()]
        return {
            "known": stated is not None,
            "why": why,
            "quality": None if stated is None else stated_document(stated),
            "seconds_per_label": round(statistics.median(seconds), 2) if seconds else None,
            "counts": {
                "accepted": int((accepted & (origin != "none")).sum()),
                "rejected": int((~accepted & (origin != "none")).sum()),
                "undecided": int((origin == "none").sum()),
                "label": int((origin == "label").sum()),
                "model": int((origin == "model").sum()),
                "prior": int((origin == "prior").sum()),
                "labels_cell": kinds.count(CELL),
                "labels_not_cell": kinds.count(NOT_CELL),
                "labels_unsure": len(kinds) - kinds.count(CELL) - kinds.count(NOT_CELL),
            },
        }

    def curve(self) -> dict[str, Any]:
        """``api/curve``."""
        with self._looking["quality"]:
            found, why = found_or_why(self.session.read_outs)
            thresholds = sorted(set(self.session.predictions().thresholds.values()))
        out: dict[str, Any] = {"known": found is not None, "why": why, "rule": self.session.options.threshold}
        out["threshold"] = float(np.mean(thresholds)) if thresholds else None
        if found is not None:
            out["probability"] = np.round(found.probability, 6).tolist()
            for name in ("balanced_accuracy", "precision", "recall"):
                out[name] = np.nan_to_num(np.round(getattr(found, name), 4)).tolist()
        return out

    def votes(self) -> dict[str, Any]:
        """``api/votes``."""
        found = self.session.agreement()
        rows = [{"pos": self.pos(d.item), "votes": dict(d.votes), "openness": round(d.openness, 4)} for d in found.disagreements]
        return {"people": list(found.labels), "disagreements": rows}

    def duplicates(self) -> dict[str, Any]:
        """``api/duplicates``."""
        with self._looking["duplicates"]:
            if self._groups is None:
                self._groups = [[scene.start + i for i in group] for scene in self.scenes for group in duplicate_groups(scene.recording)]
                self._groups.sort(key=lambda group: -len(group))
        return {"groups": self._groups}

    def status(self) -> dict[str, Any]:
        """``api/status``."""
        with self._looking["quality"]:
            return status_document(self.session)

    # ---- what is said

    def labels(self, annotator: str, events: Sequence[Mapping[str, Any]], skip: Collection[int]) -> dict[str, Any]:
        """``api/labels``: durable when this returns, whatever else was refused.

        Raises
        ------
        WriteError
            They could not be saved; none is.
        """
        self._put_off(skip)
        acked: list[str] = []
        refused: list[dict[str, str]] = []
        rows: list[tuple[CandidateId, str, str, str, Mapping[str, Any]]] = []
        with self._saying:
            for event in events:
                mark = checked_mark(event.get("id"))
                try:
                    if mark in self._done or any(mark == row[4]["mark"] for row in rows):
                        acked.append(mark)
                        continue
                    rows.append(self._row(annotator, event, mark))
                except ActsortError as error:
                    refused.append({"id": mark, "error": error.what, "hint": error.hint})
            with self._remembering():
                self.session.record(rows, wait=False)
            acked += [row[4]["mark"] for row in rows]
        return {"acked": acked, "refused": refused, **self._queue_or_nothing(annotator, skip)}

    @contextlib.contextmanager
    def _remembering(self) -> Iterator[None]:
        """Whatever is on disk afterwards is known by its mark, also where something failed after that: it must not be done twice."""
        events = self.session.journal.events
        before = len(events)
        try:
            yield
        finally:
            for event in events[before:]:
                if "mark" in event and event["kind"] == "label":
                    self._done[str(event["mark"])] = CandidateId(event["recording"], event["index"])
                elif "mark" in event:
                    self._done.setdefault(str(event["mark"]), None)

    def _put_off(self, skip: Collection[Any]) -> list[CandidateId]:
        return [self.id(pos) for pos in skip]

    def _queue_or_nothing(self, annotator: str, skip: Collection[int]) -> dict[str, Any]:
        """What to ask next; nothing where a strategy fails: what was said is saved, and that must be acknowledged."""
        try:
            return self.queue(annotator, skip=skip)
        except ActsortError as error:
            note = f"There is no next question: {error.what} {error.hint}".strip()
            if note not in self.session.notes:
                self.session.notes.append(note)
            return {"rev": self.revision, "labels": len(self.session.labels()), "fitted_on": 0, "questions": []}

    def _row(self, annotator: str, event: Mapping[str, Any], mark: str) -> tuple[CandidateId, str, str, str, Mapping[str, Any]]:
        candidate = self.id(event.get("pos"))
        value = event.get("value")
        if not isinstance(value, str):
            raise UsageError(f"{value!r} is no class.", f"Known: {', '.join(self.session.options.known_classes)}.")
        asked = event.get("question") or {}
        if not isinstance(asked, dict) or not isinstance(asked.get("reason") or "review", str):
            raise UsageError("The label is not as it should be.", "docs/page-api.md says what a label is.")
        reason, inclusion, p = asked.get("reason") or "review", share(asked.get("inclusion")), share(asked.get("p"))
        seconds = number(event.get("seconds"))
        if not asked:
            before = self.session.votes_on(candidate).get(annotator)
            if before is not None and before.reason == "audit":  # corrected: it is the answer to that question still
                reason, inclusion, p = before.reason, before.inclusion, before.probability
            elif (fit := self.session.fit) is not None:
                p = float(fit.probability[event["pos"]])
        more = {
            "seconds": None if seconds is None else round(seconds, 3),
            "strategy": str(asked.get("strategy") or ""),
            "inclusion": inclusion,
            "p": p,
            "mark": mark,
        }
        return candidate, self.session.options.class_of(value), annotator, reason, more

    def step(self, kind: str, annotator: str, marks: Sequence[Any], skip: Collection[int]) -> dict[str, Any]:
        """``api/undo`` and ``api/redo``: one step for each mark."""
        self._put_off(skip)
        found = []
        with self._saying, self._remembering():
            for mark in [checked_mark(mark) for mark in marks]:
                if mark not in self._done:
                    self._done[mark] = getattr(self.session, kind)(annotator, mark)
                found.append((mark, self._done[mark]))
        labels = {label.candidate: label.value for label in self.session.labels()}
        steps = [
            {
                "id": mark,
                "pos": None if candidate is None else self.pos(candidate),
                "value": labels.get(candidate) if candidate else None,
                "question": self._question_of(mark, candidate) if candidate else None,
            }
            for mark, candidate in found
        ]
        last = steps[-1] if steps else {"pos": None, "value": None}
        return {"steps": steps, "pos": last["pos"], "value": last["value"], **self._queue_or_nothing(annotator, skip)}

    def _question_of(self, mark: str, candidate: CandidateId) -> dict[str, Any] | None:
        """What was asked when the label was given that this step took back: answered anew, an audit is an audit still."""
        events = self.session.journal.events
        target = next((event.get("target") for event in reversed(events) if event.get("mark") == mark), None)
        label = next((event for event in reversed(events) if event["seq"] == target and event["kind"] == "label"), None)
        if label is None or label.get("reason", "review") == "review":
            return None
        return {"pos": self.pos(candidate), **{name: label.get(name) for name in ("strategy", "reason", "inclusion", "p")}}

    def note(self, annotator: str, mark: str, pos: Any, text: Any) -> dict[str, Any]:
        """``api/note``."""
        candidate, mark = self.id(pos), checked_mark(mark)
        if not isinstance(text, str):
            raise UsageError("A note is text.")
        with self._saying:
            if mark not in self._done:
                self.session.note(candidate, text, annotator=annotator, mark=mark)
                self._done[mark] = candidate
        return {"pos": pos, "notes": [asdict(note) for note in self.session.notes_on(candidate)]}

    def flag(self, annotator: str, mark: str, pos: Any, on: Any) -> dict[str, Any]:
        """``api/flag``."""
        candidate, mark = self.id(pos), checked_mark(mark)
        with self._saying:
            if mark not in self._done:
                self.session.flag(candidate, bool(on), annotator=annotator, mark=mark)
                self._done[mark] = candidate
        return {"pos": pos, "on": bool(on)}

    def threshold(self, value: Any) -> dict[str, Any]:
        """``api/threshold``."""
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise UsageError(f"{value!r} is no threshold.", "Give a probability, pi, favour-precision, favour-recall or match-labels.")
        with self._saying:
            self.session.threshold = value
        predictions = self.session.predictions()
        lines = [pack.finite(predictions.thresholds.get(key, predictions.threshold)) for key in self.keys]
        return {"thresholds": lines, "rule": self.session.options.threshold}

    def write(self, dry_run: bool, update_exports: bool = False, seen: Any = None) -> dict[str, Any]:
        """``api/write``."""
        with self._saying:
            return writing.write(self.session, dry_run, update_exports, seen)

    def restore(self, force: bool) -> dict[str, Any]:
        """``api/restore``."""
        with self._saying:
            return writing.restore(self.session, force)
