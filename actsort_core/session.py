"""A session: one or many recordings, a person's labels, a model's predictions. State is a fold over the journal."""

from __future__ import annotations

import contextlib
import math
import operator
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actsort_core import decide, learn, plugins, store, strategies, writeback
from actsort_core.errors import ActsortError, CandidateError, PluginError, PluginWarning, UsageError
from actsort_core.features.table import FeatureTable, Progress, cached_table, select
from actsort_core.journal import Journal, fold, label_of
from actsort_core.model import (
    CELL,
    NOT_CELL,
    CandidateId,
    Curation,
    Decision,
    Label,
    Predictions,
    Prior,
)
from actsort_core.refit import FitJob, Outcome, Question, Refitter, weakly
from actsort_core.store import Options, Source


class Session:
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
    is_new
        Whether it was started, not resumed.
    """

    is_new = False

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
        self._labels = fold(journal.events)
        store.check_labels(journal, self.recordings, options)
        self._current = self._labels.current()
        self._tables: dict[str, FeatureTable] = {}
        self._x: NDArray[np.float32] | None = None
        self.feature_names: tuple[str, ...] = ()
        self._fit_error: Exception | None = None
        self._question: Question | None = None
        self._skipped: set[CandidateId] = set()
        self._groups = select(registered.features, options.features)
        self._strategy = strategies.find(registered.strategies, options.strategy)
        self._classifier = registered.classifiers[options.classifier]
        self._rank = np.argsort(np.random.default_rng(options.seed).permutation(len(self.candidates)))
        self._labelled = np.zeros(len(self.candidates), bool)
        self._labelled[[self._position[c] for c in self._current]] = True
        self._outcome = Outcome(None, np.argsort(self._rank), "random", "start")  # until the first run is done
        self._change = threading.RLock()
        # Weak, so that a session nobody holds any more (a notebook cell run again) can go, and its lock with it.
        self._refitter: Refitter[FitJob, Outcome] = Refitter(weakly(self._run), weakly(self._ran), weakly(self._failed))
        self._prepared = self._closed = False

    # ---- opening and closing

    def prepare(self, progress: Progress | None = None) -> None:
        """Compute (or load) the features and start the first fit, so that labelling never has to wait for them.

        Parameters
        ----------
        progress
            Called with what is computed, how much is done and of how much.
        """
        self._matrix(progress)
        self._classifier.make()  # imports what it needs now, not between two labels
        self._prepared = True
        nothing = np.zeros(0, np.int64)
        try:  # an order to ask in until the first fit is done
            self._outcome = self._run(FitJob(nothing, nothing.astype(np.int8), self._labelled.copy(), 0))
        except PluginError as error:
            self._failed(error)
        self._request()

    def close(self) -> None:
        """Stop fitting and release the lock. Labels are on disk already."""
        self._closed = True
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

    # ---- features and fits

    def _matrix(self, progress: Progress | None = None) -> NDArray[np.float32]:
        if self._x is None:
            for key, recording in self.recordings.items():
                stem = self.folder / "features" / key.replace("/", "_")
                # The verdict as it was first opened: re-read after a write of ours it would be our own decision.
                first = replace(recording, prior=self.priors[key])
                self._tables[key] = cached_table(first, self._groups, stem, progress)
            self.feature_names, self._x = learn.stack([(t.names, t.values) for t in self._tables.values()])
        return self._x

    def features(self, recording: str | None = None) -> FeatureTable:
        """The feature table of one recording (its key may be left out where there is only one)."""
        self._matrix()
        return self._tables[self._key(recording)]

    def _targets(self) -> tuple[NDArray[np.int64], NDArray[np.int8]]:
        counts = {CELL: 1, NOT_CELL: 0}
        kind = self.options.kind
        pairs = [(self._position[c], counts[k]) for c, label in self._current.items() if (k := kind(label.value)) in counts]
        pairs.sort()  # the same labels give the same fit, in whatever order they came
        array = np.array(pairs, np.int64).reshape(-1, 2)
        return array[:, 0], array[:, 1].astype(np.int8)

    def _request(self) -> None:
        if not self._prepared:  # somebody only wants to undo, or to look: the first `wait` catches up
            return
        rows, y = self._targets()
        self._refitter.submit(FitJob(rows, y, self._labelled.copy(), self.journal.events[-1]["seq"] if self.journal.events else 0))

    def _run(self, job: FitJob) -> Outcome:
        """Fit on the labels of `job` and put the other candidates in the order in which they should be asked."""
        x = self._matrix()
        fit = learn.fit(self._classifier, x, job.rows, job.y, job.seq) if learn.enough(job.y) else None
        probability = np.full(len(x), np.nan) if fit is None else fit.probability
        share = math.nan if fit is None else fit.share
        cut = self.options.threshold if self.options.threshold is not None else share
        state = strategies.QueryState(probability, share, cut, job.labelled, self._rank, x)
        warm = fit is not None and min(int((job.y == 1).sum()), int((job.y == 0).sum())) >= 3
        strategy, reason = strategies.in_force(self._strategy, self.plugins.strategies, state, warm)
        return Outcome(fit, strategies.best(strategy, state, len(x)), strategy.name, reason)

    def _ran(self, outcome: Outcome) -> None:
        self._outcome, self._fit_error = outcome, None
        if outcome.fit is not None and not self._closed:
            plugins.call_each(self.plugins.manager, "actsort_model_fitted", session=self, predictions=self.predictions())

    def _failed(self, error: Exception) -> None:
        self._fit_error = error
        warnings.warn(f"Fitting failed ({type(error).__name__}: {error}); the last fit stays in use.", PluginWarning, stacklevel=2)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the model knows every label; False when `timeout` seconds were not enough.

        Raises
        ------
        PluginError
            The last fit failed.
        """
        if not self._prepared:
            self.prepare()
        done = self._refitter.wait(timeout)
        error = self._fit_error
        if done and isinstance(error, ActsortError):
            raise PluginError(error.what, f"Your labels are safe. {error.hint}") from error
        if done and error is not None:
            raise PluginError(
                f"Classifier {self._classifier.name!r} failed ({type(error).__name__}: {error}).",
                "Your labels are safe. Choose another with --classifier.",
            ) from error
        return done

    def catch_up(self, timeout: float) -> None:
        """Give the fit on the labels there are `timeout` seconds; what it raises is heard by the next `wait`."""
        if self._prepared and self._current:
            self._refitter.wait(timeout)

    # ---- asking and labelling

    def ask(self) -> CandidateId | None:
        """The candidate to label next; None when all are labelled. Never waits for a fit; asks the same until it is labelled."""
        with self._change:
            if self._question is None or self._question.candidate in self._current:
                self._skipped -= self._current.keys()
                found = self.queue(len(self._skipped) + 1)
                if not found:
                    return None
                self._question = self._as_question(next((c for c in found if c not in self._skipped), found[0]))
            return self._question.candidate

    def skip(self) -> CandidateId | None:
        """Put the present question off until all others are labelled; returns the next one."""
        with self._change:
            if self._question is not None:
                self._skipped.add(self._question.candidate)
                if self._skipped | self._current.keys() >= self._position.keys():  # once round: the others' turn again
                    self._skipped = {self._question.candidate}
                self._question = None
            return self.ask()

    def queue(self, n: int) -> tuple[CandidateId, ...]:
        """The `n` candidates that would be asked next, by the latest fit."""
        order = self._outcome.order
        found = order[~self._labelled[order]][:n]
        if len(found) < n:  # undone since then, so not in that order
            rest = np.flatnonzero(~self._labelled)
            rest = np.setdiff1d(rest, found)
            found = np.concatenate([found, rest[np.argsort(self._rank[rest])]])[:n]
        return tuple(self.candidates[i] for i in found)

    def _as_question(self, candidate: CandidateId) -> Question:
        outcome = self._outcome
        return Question(candidate, outcome.strategy, outcome.reason, self._probability_of(candidate), time.monotonic())

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
            if where in self._current:  # a second thought, not an answer to the question
                question = None
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
                inclusion=None,
                p=question.probability if question else self._probability_of(where),
            )
            self._apply(event)
        self._changed(where)
        return label_of(event)

    def _probability_of(self, candidate: CandidateId) -> float | None:
        fit = self._outcome.fit
        return None if fit is None else float(fit.probability[self._position[candidate]])

    def undo(self) -> CandidateId | None:
        """Take back this annotator's latest label; it is asked again next. None when there is nothing to undo."""
        return self._step("undo", self._labels.done)

    def redo(self) -> CandidateId | None:
        """Give the label that was last undone again. None when there is nothing to redo."""
        return self._step("redo", self._labels.undone)

    def latest_annotator(self, kind: str) -> str | None:
        """Who gave the latest label that could be undone (`kind` ``"undo"``) or redone (``"redo"``)."""
        histories = self._labels.done if kind == "undo" else self._labels.undone
        last = {who: history[-1]["seq"] for who, history in histories.items() if history}
        return max(last, key=last.__getitem__) if last else None

    def _step(self, kind: str, histories: Mapping[str, Sequence[Mapping[str, Any]]]) -> CandidateId | None:
        with self._change:
            history = histories.get(self.annotator)
            if not history:
                return None
            target = history[-1]
            candidate = label_of(target).candidate
            self._apply(self.journal.append(kind, annotator=self.annotator, target=target["seq"]))
            self._question = self._as_question(candidate) if kind == "undo" and candidate not in self._current else None
        self._changed(candidate)
        return candidate

    def _apply(self, event: dict[str, Any]) -> None:
        """Take an event that is on disk into account, and ask for a fit that knows it. Under the lock."""
        candidate = self._labels.apply(event)
        if candidate is not None:
            label = self._labels.of(candidate)
            if label is None:
                self._current.pop(candidate, None)
            else:
                self._current[candidate] = label
            self._labelled[self._position[candidate]] = label is not None
        self._request()

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
            if candidate not in self._current:
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

    def labels(self) -> tuple[Label, ...]:
        """The labels in force, in the order of the candidates."""
        return tuple(self._current[c] for c in sorted(self._current, key=self._position.__getitem__))

    def predictions(self) -> Predictions:
        """What the model says of every candidate; ``n_labels`` tells how many labels it knew. Does not wait for a fit."""
        fit = self._outcome.fit
        if fit is None:
            return Predictions(self.candidates, np.full(len(self.candidates), np.nan), math.nan, math.nan, 0)
        cut = fit.share if self.options.threshold is None else self.options.threshold
        return Predictions(self.candidates, fit.probability, fit.share, cut, fit.n_labels)

    @property
    def threshold(self) -> float | None:
        """Where decisions are cut: a probability, or None for pi, the estimated share of cells."""
        return self.options.threshold

    @threshold.setter
    def threshold(self, value: float | str | None) -> None:
        self._save_options(threshold=None if value is None else store.parse_threshold(value))

    def curations(self) -> dict[str, Curation]:
        """The decisions by recording, on all labels given so far (waits for the fit that knows them)."""
        self.wait()
        return decide.curate(self.recordings, self.priors, dict(self._current), self.predictions(), self.options.kind)

    def decisions(self) -> tuple[Decision, ...]:
        """The final verdict on every candidate of the session: labels first, else the model, else the host."""
        return tuple(decision for curation in self.curations().values() for decision in curation.decisions())

    def write(self, dry_run: bool = False, progress: Progress | None = None) -> writeback.WriteReport:
        """Write the decisions into the native files (see `writeback.write_back`); a dry run only says what would change."""
        curations = self.curations()
        report = writeback.write_back(self.sources, self.plugins.formats, curations, self.folder, self.journal, dry_run, progress)
        if not dry_run:
            arguments = {"curations": list(curations.values()), "paths": list(report.written)}
            plugins.call_each(self.plugins.manager, "actsort_decisions_written", session=self, **arguments)
        return report

    def discard(self) -> None:
        """Close a session that was only just started, and leave nothing of it; one that holds any event is only closed."""
        self.close()
        if self.is_new and not self.journal.events:
            store.remove(self.folder)

    def restore(self, force: bool = False) -> tuple[Path, ...]:
        """Undo what `write` wrote (see `writeback.restore`). Labels stay."""
        return writeback.restore(self.folder, self.journal, force)
