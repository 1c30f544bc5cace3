"""A session: one or many recordings, a person's labels, a model's predictions. State is a fold over the journal."""

from __future__ import annotations

import contextlib
import importlib
import math
import operator
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from actsort_core import asking, decide, engine, learning, models, people, plugins, reattach, remarks, store, strategies, writeback
from actsort_core.errors import CandidateError, UsageError
from actsort_core.features.table import FeatureTable, Progress, select
from actsort_core.journal import Journal, fold, label_of
from actsort_core.model import CandidateId, Curation, Decision, Label, Predictions, Prior
from actsort_core.refit import Question, Refitter, weakly
from actsort_core.store import Options, Source


class Session(asking.Asking, learning.Learning, people.People, remarks.Remarking):
    """Labels, model and decisions for the recordings of one or several results. Made by `opening.open`.

    Fits run in a thread of their own, and plug-ins may label from there: every change is made under one lock. It is a context
    manager: leaving it releases the session's files.

    Attributes
    ----------
    folder
        Where it lives on disk.
    recordings
        By key, in the order they were opened.
    priors
        The host's verdicts as they were when the result was first opened, by key.
    options
        How it asks, learns and decides.
    annotator
        Who is labelling now.
    notes
        What the person should know about files and session.
    waiting
        Labels whose candidates are not in the result any more; their indices are as they were then (see `reattach`).
    reattached
        What was found when it was opened on a result that had changed, a sentence for each recording.
    is_new
        Whether it was started, not resumed.
    """

    is_new = False
    reattached: tuple[str, ...] = ()
    _page: Any = None

    def __init__(
        self,
        folder: Path,
        sources: Sequence[Source],
        priors: Mapping[str, Prior],
        options: Options,
        journal: Journal,
        registered: plugins.Plugins,
        annotator: str,
        refit_wait: float | None,
        created: str = "",
        notes: Iterable[str] = (),
    ) -> None:
        self.folder, self.sources, self.priors, self.options = folder, tuple(sources), dict(priors), options
        self.journal, self.plugins, self.annotator = journal, registered, annotator
        self.recordings = {key: recording for source in sources for key, recording in source.recordings.items()}
        self.notes = [*notes, *journal.notes]
        many = len(self.recordings) > 1
        self.notes += [f"{key}: {note}" if many else note for key, r in self.recordings.items() for note in r.notes]
        self.refit_wait = refit_wait
        self._created = created
        self.candidates = tuple(CandidateId(key, i) for key, r in self.recordings.items() for i in range(r.n_cells))
        self._position = {candidate: i for i, candidate in enumerate(self.candidates)}
        reattach.check_labels(journal, self.sources, options)
        resolved = reattach.resolve(journal.events, reattach.present(self.sources))
        self._labels = fold(resolved.events)
        self._remarks = remarks.fold(journal.events)
        self.waiting = tuple(map(label_of, resolved.waiting))
        self._current = people.in_force(self._labels, options)
        self._tables: dict[str, FeatureTable] = {}
        self._question: Question | None = None
        self._skipped: set[CandidateId] = set()
        self._groups = select(registered.features, options.features)
        self._strategy = strategies.find(registered.strategies, options.strategy)
        self._classifier = registered.classifiers[options.classifier]
        self._rank = np.argsort(np.random.default_rng(options.seed).permutation(len(self.candidates)))
        self._labelled = np.zeros(len(self.candidates), bool)
        self._labelled[[self._position[c] for c in self._current]] = True
        self._change = threading.RLock()
        # Weak, so that a session nobody holds any more (a notebook cell run again) can go, and its lock with it.
        self._refitter: Refitter[engine.Known, engine.Turn] = Refitter(weakly(self._run), weakly(self._ran), weakly(self._failed))

    # ---- opening and closing

    def close(self) -> None:
        """Stop fitting and release the lock. Labels are on disk already."""
        if self._page is not None:
            self._page.close()
            self._page = None
        self._closed = True
        if self._clips is not None:
            self._clips.close()
            self._clips = None
        self._refitter.close()
        self.journal.close()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # also where opening failed half-way
            # When the interpreter goes down its daemon threads are gone already, maybe while holding a lock: waiting for one would
            # last for ever. The system takes the session's own lock back.
            if not sys.is_finalizing():
                self.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Session {str(self.folder)!r}: {len(self.candidates)} candidates, {len(self._current)} labelled>"

    def _save_options(self, **changes: Any) -> None:
        self.journal.check_writable()
        self.options = replace(self.options, **changes)
        store.write_document(self.folder, self.sources, self.priors, self.options, self._created)

    # ---- labelling (asking: `asking.Asking`)

    def label(
        self,
        candidate: CandidateId | tuple[str, int] | int,
        value: Any,
        *,
        seconds: float | None = None,
        annotator: str | None = None,
    ) -> Label:
        """Record what a person says about a candidate: on disk before this returns, then the model is fitted again.

        Parameters
        ----------
        candidate
            As `ask` gave it; an int will do where there is one recording.
        value
            ``"cell"``, ``"not_cell"``, ``"unsure"``, one of the session's own classes; or True / 1, False / 0, None.
        seconds
            How long the person looked; by default the time since `ask`.
        annotator
            Who, if not the session's annotator.

        Raises
        ------
        CandidateError, UsageError
            There is no such candidate, or no such class.
        WriteError
            The label could not be saved.
        """
        where = self.id(candidate)
        name = self.options.class_of(value)
        with self._change:
            question = self._question if self._question and self._question.candidate == where else None
            if question and seconds is None:
                seconds = round(time.monotonic() - question.asked, 3)
            if seconds is not None:
                seconds = float(seconds) if math.isfinite(seconds) else None  # what JSON can hold
            event = self.journal.append(
                "label",
                annotator=annotator or self.annotator,
                recording=where.recording,
                index=where.index,
                fingerprint=self.recordings[where.recording].candidate_fingerprints[where.index],
                **{"class": name},
                seconds=seconds,
                strategy=question.strategy if question else "",
                reason=question.reason if question else "review",
                inclusion=question.inclusion if question else None,
                p=question.probability if question else self._probability_of(where),
            )
            self._apply(event)
        self._changed(where)
        return label_of(event)

    def record(self, rows: Sequence[tuple[CandidateId, str, str, str, Mapping[str, Any]]], wait: bool = True) -> tuple[Label, ...]:
        """Record labels that were given elsewhere, in one go: on disk before this returns, then the model is fitted again.

        Parameters
        ----------
        rows
            Candidate, class, annotator, reason, and what else the journal shall keep of each.
        wait
            Whether to give the fit the moment that a single label gives it.

        Raises
        ------
        CandidateError, UsageError
            There is no such candidate, or no such class. Nothing is recorded.
        WriteError
            They could not be saved. None is.
        """
        events = []
        for candidate, value, annotator, reason, more in rows:
            where = self.id(candidate)
            fingerprint = self.recordings[where.recording].candidate_fingerprints[where.index]
            said = {"annotator": annotator, "recording": where.recording, "index": where.index, "fingerprint": fingerprint}
            events.append({**said, "class": self.options.class_of(value), "reason": reason, **more})
        if not events:
            return ()
        with self._change:
            for event in self.journal.append_all("label", events):
                self._take(event)
            self._request()
        candidates = dict.fromkeys(self.id(row[0]) for row in rows)
        labels = [label for candidate in candidates if (label := self._labels.of(candidate))]
        plugins.call_each(self.plugins.manager, "actsort_labels_changed", session=self, labels=labels)
        if wait:
            self._refitter.wait(self.refit_wait)
        return tuple(labels)

    def undo(self, annotator: str | None = None, mark: str | None = None) -> CandidateId | None:
        """Take back an annotator's latest label; it is asked again next. None when there is nothing to undo.

        Parameters
        ----------
        annotator
            Whose, if not the session's annotator.
        mark
            Kept with the event, by which who sends it twice (over a network that failed) recognises it.
        """
        return self._step("undo", self._labels.done, annotator, mark)

    def redo(self, annotator: str | None = None, mark: str | None = None) -> CandidateId | None:
        """Give the label that was last undone again. None when there is nothing to redo. Parameters as for `undo`."""
        return self._step("redo", self._labels.undone, annotator, mark)

    def latest_annotator(self, kind: str) -> str | None:
        """Who gave the latest label that could be undone (`kind` ``"undo"``) or redone (``"redo"``)."""
        histories = self._labels.done if kind == "undo" else self._labels.undone
        last = {who: history[-1]["seq"] for who, history in histories.items() if history}
        return max(last, key=last.__getitem__) if last else None

    def _step(
        self, kind: str, histories: Mapping[str, Sequence[Mapping[str, Any]]], annotator: str | None, mark: str | None
    ) -> CandidateId | None:
        who = annotator or self.annotator
        with self._change:
            history = histories.get(who)
            if not history:
                return None
            target = history[-1]
            candidate = label_of(target).candidate
            self._apply(self.journal.append(kind, annotator=who, target=target["seq"], **({} if mark is None else {"mark": mark})))
            if who == self.annotator:
                self._question = self._as_question(candidate) if kind == "undo" and candidate not in self._current else None
        self._changed(candidate)
        return candidate

    def _apply(self, event: dict[str, Any]) -> None:
        """Take an event that is on disk into account, and ask for a fit that knows it. Under the lock."""
        self._take(event)
        self._request()

    def _take(self, event: dict[str, Any]) -> None:
        candidate = self._labels.apply(event)
        if candidate is not None:
            self._current = people.refresh(self._current, self._labels, candidate, self.options)
            self._labelled[self._position[candidate]] = candidate in self._current
            self._skipped.discard(candidate)
            if self._question is not None and self._question.candidate == candidate:
                self._question = None  # answered

    def _changed(self, candidate: CandidateId) -> None:
        """Tell plug-ins, and give the fit a moment. Not under the lock: a plug-in told of that fit may want to label."""
        label = self._labels.of(candidate)
        plugins.call_each(self.plugins.manager, "actsort_labels_changed", session=self, labels=[label] if label else [])
        self._refitter.wait(self.refit_wait)

    def questions(self, labels: int | str) -> Iterator[CandidateId]:
        """Ask until the session holds `labels` labels: each question waits for the fit on all labels before it.

        Same inputs and seed give the same questions. It ends early when every candidate is labelled, a plug-in says that
        enough was asked (``actsort_should_stop``), or the candidate just asked was not labelled.

        Parameters
        ----------
        labels
            How many labels the session shall hold in all, those it has included; a number or a percentage like ``"1%"``.
        """
        goal = self.count(labels)
        while len(self._current) < goal:
            self.wait()
            answers = plugins.call_each(self.plugins.manager, "actsort_should_stop", session=self)
            if answers:
                self.notes.append(f"Stopped asking: {answers[0][1]} (plug-in {answers[0][0]})")
                return
            candidate = self.ask()
            if candidate is None:
                return
            yield candidate
            if self._question is not None and self._question.candidate == candidate:
                return

    def sort(self, answer: Callable[[CandidateId], Any], labels: int | str) -> Session:
        """Ask `answer` about candidates until the session holds `labels` labels (see `questions`)."""
        for candidate in self.questions(labels):
            self.label(candidate, answer(candidate))
        return self

    def count(self, labels: int | str) -> int:
        """A number of labels, from a number or a share of all candidates like ``"1%"`` (see `store.parse_labels`)."""
        return store.parse_labels(labels, len(self.candidates))

    # ---- what is known

    def id(self, candidate: CandidateId | tuple[str, int] | int) -> CandidateId:
        """The candidate meant by an id, a (recording, index) pair, or an index where there is one recording."""
        key: Any = None
        index: Any = candidate
        try:
            if isinstance(candidate, CandidateId | tuple):
                key, index = candidate
            out = CandidateId(self._key(key), operator.index(index))
        except (TypeError, ValueError):
            out = CandidateId("", -1)
        if out not in self._position:
            sizes = ", ".join(f"{k}: 0 to {r.n_cells - 1}" for k, r in self.recordings.items())
            raise CandidateError(f"There is no candidate {candidate!r} in this session.", f"Recordings and candidates: {sizes}.")
        return out

    def _key(self, recording: str | None) -> str:
        if recording is None and len(self.recordings) == 1:
            return next(iter(self.recordings))
        if recording is None or recording not in self.recordings:
            raise UsageError(f"Which recording is meant by {recording!r}?", f"This session has: {', '.join(self.recordings)}.")
        return recording

    def events(self) -> list[dict[str, Any]]:
        """The journal, with every label where its candidate is now (see `reattach.resolve`)."""
        with self._change:
            return reattach.resolve(self.journal.events, reattach.present(self.sources)).events

    def labels(self) -> tuple[Label, ...]:
        """The labels in force, in the order of the candidates."""
        current = dict(self._current)  # another thread may be labelling
        return tuple(current[c] for c in sorted(current, key=self._position.__getitem__))

    def curations(self) -> dict[str, Curation]:
        """The decisions by recording, on all labels given so far (waits for the fit that knows them)."""
        self.wait()
        return self._with_remarks(self._with_people(self.decided()))

    def decided(self, predictions: Predictions | None = None) -> dict[str, Curation]:
        """The decisions by recording as they stand, by the latest fit: for showing. Does not wait for one; people's votes are left out.

        Parameters
        ----------
        predictions
            What `predictions` just returned, where it is known already.
        """
        known = self.predictions() if predictions is None else predictions
        return decide.curate(self.recordings, self.priors, dict(self._current), known, self.options.kind)

    def decisions(self) -> tuple[Decision, ...]:
        """The final verdict on every candidate of the session: labels first, else the model, else the host."""
        return tuple(decision for curation in self.curations().values() for decision in curation.decisions())

    def write(self, dry_run: bool = False, progress: Progress | None = None, update_exports: bool = False) -> writeback.WriteReport:
        """Write the decisions into the native files (see `writeback.write_back`); a dry run only says what would change.

        With `update_exports` the copies that a host exported (Suite2p's ``Fall.mat``, ``ophys.nwb``) follow, too.
        """
        curations = self.curations()
        where = (self.sources, self.plugins.formats, curations, self.folder, self.journal)
        report = writeback.write_back(*where, dry_run, progress, update_exports)
        if not dry_run:
            models.keep(self)
            arguments = {"curations": list(curations.values()), "paths": list(report.written)}
            plugins.call_each(self.plugins.manager, "actsort_decisions_written", session=self, **arguments)
        return report

    def discard(self) -> None:
        """Close a session that was only just started, and leave nothing of it; one that holds any event is only closed."""
        self.close()
        if self.is_new and not self.journal.events:
            store.remove(self.folder)

    def show(self, port: int | None = None, blind: bool = False, height: int = 820) -> Any:
        """Label in the page: in a notebook it appears below the cell, in a script its ``address`` is to be opened in a browser.

        It works on this session: what is labelled there is here at once, and the other way round. It is closed with the session, or by its
        own ``close()``; shown again it is the same page.

        Parameters
        ----------
        port
            Where it listens on this machine; 0 takes a free one, None 8765 or the next that is free.
        blind
            Hide at first what the model and the toolkit think.
        height
            Of the frame in a notebook [pixels].

        Returns
        -------
        `web.serve.Page`.

        Raises
        ------
        MissingDependencyError, UsageError
            The extra ``web`` is not installed; the port is taken; the session is read-only.
        """
        if self._page is None or self._page.closed:
            serve = importlib.import_module("actsort_core.web.serve")  # by name: the page is built upon sessions, not sessions upon it
            self._page = serve.Page(self, port, blind=blind, height=height).start()
        return self._page

    def restore(self, force: bool = False) -> tuple[Path, ...]:
        """Undo what `write` wrote (see `writeback.restore`). Labels stay."""
        return writeback.restore(self.folder, self.journal, force)
