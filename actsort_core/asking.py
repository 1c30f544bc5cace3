"""The asking part of a session: which candidate a person is asked about next."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from actsort_core.model import CandidateId, Label
from actsort_core.refit import Question

if TYPE_CHECKING:
    from actsort_core import engine, learn
    from actsort_core.store import Options


class Asking:
    """What a session asks next (mixed into `session.Session`).

    A script asks one candidate at a time (`ask`, `skip`); a page that shows the next before a label is on disk takes several (`upcoming`).
    """

    _audit: Question | None = None  # drawn for a page and not answered yet

    if TYPE_CHECKING:
        options: Options
        annotator: str
        candidates: tuple[CandidateId, ...]
        _change: Any
        _current: dict[CandidateId, Label]
        _labelled: NDArray[np.bool_]
        _position: dict[CandidateId, int]
        _question: Question | None
        _rank: NDArray[np.int64]
        _skipped: set[CandidateId]
        _turn: engine.Turn | None

        @property
        def fit(self) -> learn.Fit | None: ...  # noqa: D102 - learning.Learning's
        def _to_share(self, annotator: str | None = None, skip: Collection[CandidateId] = ()) -> CandidateId | None: ...
        def _unsure_again(self, annotator: str | None = None) -> list[CandidateId]: ...

    def ask(self) -> CandidateId | None:
        """The candidate to label next; None when there is nothing left to ask. Never waits for a fit; asks the same until it is labelled.

        When all are labelled, those that were unsure are asked once more.
        """
        with self._change:
            if self._question is None and (audit := self._as_audit(self._skipped)) is not None:
                self._question = audit
            if self._question is None:
                shared = self._to_share(skip=self._skipped)
                found = self.queue(len(self._skipped) + 1) if shared is None else (shared,)
                if not found:
                    return None
                chosen = next((c for c in found if c not in self._skipped), found[0])
                self._question = self._as_question(chosen, shared is not None)
            return self._question.candidate

    def skip(self) -> CandidateId | None:
        """Put the present question off until all others are labelled; returns the next one."""
        with self._change:
            if self._question is not None:
                self._skipped.add(self._question.candidate)
                if self._skipped.issuperset(self.queue(len(self._skipped) + 1)):  # once round: the others' turn again
                    self._skipped = {self._question.candidate}
                self._question = None
            return self.ask()

    def queue(self, n: int, annotator: str | None = None) -> tuple[CandidateId, ...]:
        """The `n` candidates that would be asked next, by the latest fit; when all are labelled, unsure ones that are asked again."""
        if self._turn is None:
            rest = np.flatnonzero(~self._labelled)
            found = rest[np.argsort(self._rank[rest])][:n]
        else:
            found = self._turn.best(n, self._labelled)
        if not len(found):
            return tuple(self._unsure_again(annotator)[:n])
        return tuple(self.candidates[i] for i in found)

    def upcoming(self, n: int, annotator: str | None = None, skip: Collection[CandidateId] = ()) -> tuple[Question, ...]:
        """The next `n` questions to somebody who is shown candidates ahead of their answers, best first.

        Unlike `ask` it keeps nothing but an audit that is due: that stays the first question until it is answered or skipped, so that
        not one is drawn for every answer that is still on its way.

        Parameters
        ----------
        n
            How many at most.
        annotator
            Who is asked; by default the session's.
        skip
            Candidates this person put off: they come last.
        """
        with self._change:
            if self._audit is not None and self._audit.candidate in self._current:
                self._audit = None
            self._audit = self._audit or self._as_audit(skip)
            out = [] if self._audit is None or self._audit.candidate in skip else [self._audit]
            if (shared := self._to_share(annotator, skip)) is not None:
                out.append(self._as_question(shared, True))
            taken = {question.candidate for question in out}
            found = [c for c in self.queue(n + len(skip) + len(out), annotator) if c not in taken]
            found.sort(key=lambda c: c in skip)  # sorting is stable: the others stay in order
            return tuple([*out, *(self._as_question(c) for c in found)][:n])

    def _as_question(self, candidate: CandidateId, shared: bool = False) -> Question:
        turn = self._turn
        strategy, reason = ("random", "start") if turn is None else (turn.strategy, turn.reason)
        if candidate in self._current:
            strategy, reason = "", "overlap" if shared else "again"
        return Question(candidate, strategy, reason, self._probability_of(candidate), time.monotonic())

    def _as_audit(self, skip: Collection[CandidateId]) -> Question | None:
        """The question drawn at random by the last turn, if it is one's turn and was not answered meanwhile."""
        turn = self._turn
        if turn is None or turn.audit is None or self._labelled[turn.audit[0]] or self.candidates[turn.audit[0]] in skip:
            return None
        index, inclusion = turn.audit
        return replace(self._as_question(self.candidates[index]), reason="audit", inclusion=inclusion)

    def _probability_of(self, candidate: CandidateId) -> float | None:
        fit = self.fit
        return None if fit is None else float(fit.probability[self._position[candidate]])
