"""Several people in one session: whose label counts, who is asked what again, and a lab's own classes.

`People` is the part of a session that deals with them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from actsort_core import agreement, classes
from actsort_core.errors import UsageError
from actsort_core.journal import Labels
from actsort_core.model import CELL, NOT_CELL, UNSURE, CandidateId, Curation, Label, Predictions
from actsort_core.store import CONSENSUS, Options

if TYPE_CHECKING:
    from actsort_core.journal import Journal

KINDS = (CELL, NOT_CELL)  # what is voted on; `unsure` is no vote


def parse_consensus(name: str) -> str:
    """A way to settle whose label counts, as typed (``dawid-skene`` will do).

    Raises
    ------
    UsageError
        There is none of that name.
    """
    found = name.strip().lower().replace("-", "_")
    if found not in CONSENSUS:
        raise UsageError(f"{name!r} is no consensus.", f"Known: {', '.join(CONSENSUS)}.")
    return found


def parse_overlap(share: float | str) -> float:
    """A share of the questions, as a number from 0 to 1 or like ``"20%"``.

    Raises
    ------
    UsageError
        It is neither.
    """
    text = str(share).strip()
    try:
        value = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise UsageError(f"{share!r} is no share of the questions.", "Give a percentage like 20%, or a number from 0 to 1.")
    return value


def table_of(labels: Labels, options: Options) -> agreement.Ratings:
    """What everybody votes, cell or not_cell, on every labelled candidate."""
    votes = {c: {who: options.kind(label.value) for who, label in by.items()} for c, by in _votes(labels).items()}
    return agreement.ratings(votes, KINDS)


def _votes(labels: Labels) -> dict[CandidateId, dict[str, Label]]:
    return {c: labels.votes(c) for c in sorted(labels.given) if labels.given[c]}


def in_force(labels: Labels, options: Options) -> dict[CandidateId, Label]:
    """The label that counts for each labelled candidate: it trains the model and is written.

    Parameters
    ----------
    labels
        Everybody's.
    options
        Their ``consensus`` says how: ``"latest"``, the latest label whoever gave it; ``"majority"``; or ``"dawid_skene"``, where the
        votes of people who err less count more. People vote on cell or not_cell; where they are tied the label that counts is
        ``unsure``, so that it trains nothing, the model decides, and it is asked again.
    """
    if options.consensus == "latest":
        return labels.current()
    votes = _votes(labels)
    if options.consensus == "majority":
        return {c: settle(by, options) for c, by in votes.items()}
    table = table_of(labels, options)
    if len(table.annotators) < 2:
        return {c: settle(by, options) for c, by in votes.items()}
    values = agreement.dawid_skene(table).value
    kinds = [KINDS[value] if value >= 0 else UNSURE for value in values]
    return {c: settle(by, options, kind) for (c, by), kind in zip(votes.items(), kinds, strict=True)}


def refresh(current: dict[CandidateId, Label], labels: Labels, candidate: CandidateId, options: Options) -> dict[CandidateId, Label]:
    """`current` (see `in_force`) after something about one candidate changed."""
    if options.consensus == "dawid_skene":  # each label tells about its author, and so about all candidates
        return in_force(labels, options)
    votes = labels.votes(candidate)
    if not votes:
        current.pop(candidate, None)
    else:
        current[candidate] = list(votes.values())[-1] if options.consensus == "latest" else settle(votes, options)
    return current


def settle(votes: Mapping[str, Label], options: Options, kind: str | None = None) -> Label:
    """One label from those of several people on a candidate.

    Parameters
    ----------
    votes
        By annotator, in the order they were given.
    options
        What own classes count as.
    kind
        What they say together, if it was found otherwise; by default the majority.

    Returns
    -------
    The latest of the labels that say what counts, of the class most of these name (the kind itself where classes are tied). Where
    people are tied, ``unsure`` in the name of all who voted; where nobody voted, the latest ``unsure``.
    """
    voters = [label for label in votes.values() if options.kind(label.value) != UNSURE]
    if not voters:
        return list(votes.values())[-1]
    if kind is None:
        counts = Counter(options.kind(label.value) for label in voters).most_common()
        kind = UNSURE if len(counts) > 1 and counts[0][1] == counts[1][1] else counts[0][0]
    agreeing = [label for label in voters if options.kind(label.value) == kind]
    if not agreeing:
        latest = voters[-1]
        return Label(latest.candidate, UNSURE, ", ".join(label.annotator for label in voters), latest.time)
    named = Counter(label.value for label in agreeing).most_common()
    value = kind if len(named) > 1 and named[0][1] == named[1][1] else named[0][0]
    same = [label for label in agreeing if label.value == value]
    return same[-1] if same else replace(agreeing[-1], value=value)


@dataclass(frozen=True, eq=False)
class Agreement:
    """How far the people of a session agree.

    Attributes
    ----------
    labels
        By annotator, how many candidates they labelled, by class.
    table
        Everybody's votes, cell or not_cell.
    pairs, fleiss
        Agreement and kappas.
    majority, dawid_skene
        What they say together; rows as in `table`.
    disagreements
        What they should settle, most open first.
    """

    labels: Mapping[str, Mapping[str, int]]
    table: agreement.Ratings
    pairs: tuple[agreement.Pair, ...]
    fleiss: agreement.Fleiss
    majority: agreement.Consensus
    dawid_skene: agreement.Consensus
    disagreements: tuple[agreement.Disagreement, ...]


def agree(labels: Labels, options: Options) -> Agreement:
    """How far the people of a session agree."""
    table = table_of(labels, options)
    model = agreement.dawid_skene(table)
    counts = {who: dict(Counter(label.value for label in own.values())) for who, own in labels.by_annotator().items()}
    return Agreement(
        counts,
        table,
        agreement.pairs(table),
        agreement.fleiss(table.counts()),
        agreement.majority(table),
        model,
        agreement.disagreements(table, model),
    )


class People:
    """What a session knows of the people who label it (mixed into `session.Session`).

    Attributes
    ----------
    overlap
        Share of the questions to the present annotator that are about candidates others labelled, so that agreement can be seen.
    """

    overlap: float = 0.0

    if TYPE_CHECKING:
        journal: Journal
        options: Options
        annotator: str
        candidates: tuple[CandidateId, ...]
        _labels: Labels
        _current: dict[CandidateId, Label]
        _labelled: NDArray[np.bool_]
        _position: dict[CandidateId, int]
        _rank: NDArray[np.int64]
        _change: Any

        def _matrix(self) -> NDArray[np.float32]: ...
        def _request(self) -> None: ...
        def _save_options(self, **changes: Any) -> None: ...
        def predictions(self) -> Predictions: ...  # noqa: D102 - documented where it is defined

    def annotators(self) -> tuple[str, ...]:
        """Everybody with a label in force, by name."""
        with self._change:
            return tuple(self._labels.by_annotator())

    def votes(self) -> dict[CandidateId, dict[str, Label]]:
        """Everybody's own label of every labelled candidate, whichever counts; in the order of the candidates."""
        with self._change:
            return {c: self._labels.votes(c) for c in sorted(self._current, key=self._position.__getitem__)}

    def votes_on(self, candidate: CandidateId) -> dict[str, Label]:
        """Everybody's own label of one candidate, in the order they were given."""
        with self._change:
            return self._labels.votes(candidate)

    def labels_by(self, annotator: str) -> tuple[Label, ...]:
        """One person's own labels, in the order of the candidates, also where another's counts."""
        return tuple(by[annotator] for by in self.votes().values() if annotator in by)

    def agreement(self) -> Agreement:
        """How far the people who labelled this session agree (see `agree`)."""
        with self._change:
            return agree(self._labels, self.options)

    def add_classes(self, own: Mapping[str, str]) -> None:
        """Let labels be of further classes of one's own: name -> what it counts as, cell, not_cell or unsure.

        Raises
        ------
        UsageError
            A name is taken, or counts as nothing we know.
        """
        merged = {**self.options.classes, **classes.check(own)}
        if merged != self.options.classes:
            with self._change:
                self._save_options(classes=merged)
                self._current = in_force(self._labels, self.options)
                self._request()

    def class_predictions(self) -> classes.ClassPredictions:
        """How likely every class is for every candidate, own classes included (see `classes.predict`); does not wait for a fit."""
        known = {self._position[c]: label.value for c, label in sorted(dict(self._current).items())}
        probability = self.predictions().probability
        return classes.predict(self._matrix(), probability, list(known), list(known.values()), self.options.classes)

    def _with_people(self, curations: dict[str, Curation]) -> dict[str, Curation]:
        """Add to decisions what only several people or own classes bring: all votes, and a class for each candidate."""
        votes = self.votes() if len(self.annotators()) > 1 else {}
        predicted = self.class_predictions() if self.options.classes else None
        out, start = {}, 0
        for key, curation in curations.items():
            own = {c.index: {who: label.value for who, label in by.items()} for c, by in votes.items() if c.recording == key}
            named = None
            if predicted is not None:
                rows = replace(predicted, probability=predicted.probability[start : start + curation.n_cells])
                named = rows.best(curation.accepted).astype(object)
                named[curation.undecided] = ""
                for index, label in curation.labels.items():
                    if self.options.kind(label.value) != UNSURE:
                        named[index] = label.value
                named = named.astype(np.str_)
            out[key] = replace(curation, votes=own, classes=named)
            start += curation.n_cells
        return out

    def _unsure_again(self, annotator: str | None = None) -> list[CandidateId]:
        """Candidates that count as unsure and that an annotator (the present one) was not asked about a second time; longest ago first.

        A tie of several people is one: each of them is asked once more.
        """
        kind, given, who = self.options.kind, self._labels.given, annotator or self.annotator
        with self._change:
            due = [c for c, label in self._current.items() if kind(label.value) == UNSURE and self._labels.times(c, who) < 2]
            return sorted(due, key=lambda c: int(given[c][-1]["seq"]))

    def _to_share(self, annotator: str | None = None, skip: Collection[CandidateId] = ()) -> CandidateId | None:
        """A candidate others labelled that it is an annotator's turn (the present one's) to see too; random, fixed by the seed."""
        if self.overlap <= 0:
            return None
        who = annotator or self.annotator
        mine = [c for c in self._current if self._labels.times(c, who)]
        if int((len(mine) + 1) * self.overlap + 1e-9) <= int(len(mine) * self.overlap + 1e-9):
            return None
        others = self._current.keys() - set(mine) - set(skip)
        return min(others, key=lambda c: int(self._rank[self._position[c]]), default=None)
