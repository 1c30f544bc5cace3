"""Results that changed since they were opened: what differs, and labels that follow their candidates by fingerprint.

The journal is never rewritten. A label event names its candidate by fingerprint; the index beside it is where that candidate was when
the label was given. Where it is now is found anew each time (`resolve`), so that a label whose candidate is gone waits, and counts again
as soon as the candidate is back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from actsort_core.errors import ChangedError, UsageError
from actsort_core.journal import Event, Journal, Labels, label_of
from actsort_core.model import Label, Prior, Recording
from actsort_core.store import Gone, Options, Source, gone_of, prior_of, what_differs

FOUND = 0.75  # share of the labelled candidates that must still be there for labels to be re-attached without being asked
KNOWN = 0.5  # share of the candidates now in the file that the session must know
_SHOWN = 8  # candidates named in one message


@dataclass(frozen=True, eq=False)
class Change:
    """How a recording differs from what the session knows.

    Attributes
    ----------
    key, path
        Its key in the session; the result it is in now.
    before, after
        Fingerprints of its candidates in file order, as the session knew them and as they are now.
    waiting
        Fingerprints of candidates that were gone before.
    """

    key: str
    path: Path
    before: tuple[str, ...]
    after: tuple[str, ...]
    waiting: tuple[str, ...] = ()

    @property
    def gone(self) -> list[int]:
        """Candidates (in the old order) that are no longer there."""
        return _beyond(self.before, self.after)

    @property
    def new(self) -> list[int]:
        """Candidates (in the present order) that were not there before."""
        return _beyond(self.after, self.before)

    @property
    def known(self) -> float:
        """Share of the present candidates that the session knows, from before or from earlier still."""
        left = len(_beyond(self.after, (*self.before, *self.waiting)))
        return 1 - left / len(self.after) if self.after else 1.0

    def __str__(self) -> str:
        text = what_differs(self.before, self.after)
        lists = (("gone", self.gone, "counted as before"), ("new", self.new, "counted as now"))
        named = [f"{what}: {shown(map(str, which))}, {how}" for what, which, how in lists if which]
        return text + (f" ({'; '.join(named)})" if named else "")


@dataclass(frozen=True, eq=False)
class Matched:
    """The recordings just read, with the keys and priors they have in a session.

    Attributes
    ----------
    sources
        With their keys in the session, and what they no longer hold.
    priors
        As they were when each candidate was first seen.
    changes
        Recordings that are not as the session knew them; empty where nothing changed.
    """

    sources: tuple[Source, ...]
    priors: dict[str, Prior]
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True, eq=False)
class Resolved:
    """A journal's events with every label where its candidate is now.

    Attributes
    ----------
    events
        In order; labels without a candidate are left out, and each undo and redo names its label.
    waiting
        Label events in force whose candidate is not there: the latest of each annotator about each candidate.
    moved
        How many label events are about a candidate that is now at another place.
    """

    events: list[dict[str, Any]]
    waiting: tuple[dict[str, Any], ...] = ()
    moved: int = 0


def shown(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    listed = list(names)
    return ", ".join(listed[:_SHOWN]) + (f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else "")


def _beyond(these: Sequence[str], others: Sequence[str]) -> list[int]:
    """Positions in `these` of what `others` do not hold (as often)."""
    left, out = Counter(others), []
    for i, fingerprint in enumerate(these):
        if left[fingerprint]:
            left[fingerprint] -= 1
        else:
            out.append(i)
    return out


def match(document: Mapping[str, Any], sources: Sequence[Source]) -> Matched:
    """Give the recordings just read the keys they have in the session, and the priors they were first opened with.

    A recording that changed is the one that has most candidates in common with what the session knows (by footprint); where none has
    any, the one of that name.

    Raises
    ------
    ChangedError
        There are more or fewer recordings than in the session.
    UsageError
        They are given in another order.
    """
    rows = [entry for row in document["sources"] for entry in row["recordings"]]
    free = [(i, recording) for i, source in enumerate(sources) for recording in source.recordings.values()]
    if len(rows) != len(free):
        raise ChangedError(
            f"The session holds {len(rows)} recording(s), {len(free)} were found.",
            f"It was started with {', '.join(str(row['path']) for row in document['sources'])}; open it with these, or start another "
            "with --session.",
        )
    taken: dict[str, tuple[int, Recording]] = {}
    for exact in (True, False):  # what did not change is settled first, so that it cannot be taken for something that did
        for entry in rows:
            if entry["key"] in taken:
                continue
            before = tuple(entry["candidates"].split())
            known = Counter((*before, *gone_of(entry).candidates))

            def worth(pair: tuple[int, Recording], before: Any = before, known: Any = known, entry: Any = entry) -> tuple[int, int, int]:
                now = pair[1].candidate_fingerprints
                return now == before, sum((known & Counter(now)).values()), pair[1].name == entry["name"]

            best = max(free, key=worth)
            if not exact or worth(best)[0]:
                free.remove(best)
                taken[entry["key"]] = best
    order = [taken[entry["key"]][0] for entry in rows]
    if order != sorted(order):  # an oracle, and the seed's random order, go by the order of the candidates
        raise UsageError(
            "The results are given in another order than the session has them.",
            f"Its order is: {', '.join(str(row['path']) for row in document['sources'])}.",
        )
    found: list[dict[str, Recording]] = [{} for _ in sources]
    gone: list[dict[str, Gone]] = [{} for _ in sources]
    priors: dict[str, Prior] = {}
    changes = []
    for entry in rows:
        key, before = entry["key"], tuple(entry["candidates"].split())
        i, recording = taken[key]
        found[i][key] = recording
        if recording.candidate_fingerprints == before:
            priors[key], gone[i][key] = prior_of(entry["prior"]), gone_of(entry)
        else:
            priors[key], gone[i][key] = _carried(entry, recording)
            changes.append(Change(key, recording.path, before, recording.candidate_fingerprints, gone_of(entry).candidates))
    placed = tuple(Source(s.path, s.format, r, g) for s, r, g in zip(sources, found, gone, strict=True))
    return Matched(placed, priors, tuple(changes))


def _carried(entry: Mapping[str, Any], recording: Recording) -> tuple[Prior, Gone]:
    """The priors of a changed recording: as first seen for candidates the session knows, as the file says for others; and who is gone."""
    earlier = gone_of(entry)
    pool: dict[str, list[tuple[int, float]]] = {}
    for prints, prior in ((entry["candidates"].split(), prior_of(entry["prior"])), (earlier.candidates, earlier.prior)):
        for fingerprint, verdict, p in zip(prints, prior.verdict, prior.probability, strict=True):
            pool.setdefault(fingerprint, []).append((int(verdict), float(p)))
    verdict, probability = recording.prior.verdict.copy(), recording.prior.probability.copy()
    for i, fingerprint in enumerate(recording.candidate_fingerprints):
        if pool.get(fingerprint):
            verdict[i], probability[i] = pool[fingerprint].pop(0)
    left = [(fingerprint, *said) for fingerprint, rest in pool.items() for said in rest]
    gone = Prior(np.array([v for _, v, _ in left], np.int8), np.array([p for _, _, p in left], np.float64))
    return Prior(verdict, probability), Gone(tuple(fingerprint for fingerprint, _, _ in left), gone)


def resolve(events: Sequence[dict[str, Any]], candidates: Mapping[str, Sequence[str]]) -> Resolved:
    """Find the candidate of every label in a journal.

    Parameters
    ----------
    events
        As they were written.
    candidates
        Fingerprints of the candidates that are there now, in file order, by recording.

    Notes
    -----
    A label stays where it was if the candidate there has its fingerprint. Otherwise it goes where that fingerprint is, if it is at one
    place only: of several candidates with the same footprint (empty ones, say) nobody can tell which was meant.
    """
    if all(_in_place(event, candidates) for event in events if event["kind"] == "label"):
        return Resolved(list(events))
    places: dict[str, dict[str, int]] = {}
    for key, prints in candidates.items():
        counts = Counter(prints)
        places[key] = {fingerprint: i for i, fingerprint in enumerate(prints) if counts[fingerprint] == 1}
    out: list[dict[str, Any]] = []
    without: set[int] = set()
    moved = 0
    written = Labels()  # what each undo and redo meant when it was given
    for event in events:
        if event["kind"] in ("undo", "redo"):
            meant = written.meant(event)
            out.append({**event, "target": meant["seq"] if meant else 0})
        elif event["kind"] != "label" or _in_place(event, candidates):
            out.append(event)
        else:
            place = places.get(event["recording"], {}).get(str(event.get("fingerprint")))
            if place is None:
                without.add(event["seq"])
            else:
                moved += 1
                out.append({**event, "index": place})
        written.apply(event)
    latest: dict[tuple[str, str, str], dict[str, Any]] = {}
    for who, given in written.done.items():
        for event in sorted(given, key=lambda e: int(e["seq"])):
            if event["seq"] in without:
                latest[who, event["recording"], str(event.get("fingerprint"))] = event
    return Resolved(out, tuple(sorted(latest.values(), key=lambda e: int(e["seq"]))), moved)


def _in_place(event: Event, candidates: Mapping[str, Sequence[str]]) -> bool:
    prints, index = candidates.get(event["recording"], ()), event["index"]
    return 0 <= index < len(prints) and prints[index] == event.get("fingerprint")


def present(sources: Sequence[Source]) -> dict[str, Sequence[str]]:
    """Fingerprints of the candidates of all recordings, by key."""
    return {key: recording.candidate_fingerprints for source in sources for key, recording in source.recordings.items()}


def check_labels(journal: Journal, sources: Sequence[Source], options: Options) -> None:
    """Make sure that every label of a journal is about a candidate the session knows, and of a class it has.

    Raises
    ------
    ChangedError
        A candidate was never one of this session's.
    UsageError
        A class is not known.
    """
    known = {key: {*prints} for key, prints in present(sources).items()}
    for source in sources:
        for key, gone in source.gone.items():
            known[key].update(gone.candidates)
    for event in journal.events:
        if event["kind"] != "label":
            continue
        label = label_of(event)
        if label.value not in options.known_classes:
            raise UsageError(
                f"{journal.path}: event {event['seq']} is of class {label.value!r}, which this session does not have.",
                f"Open it with classes that say what {label.value!r} counts as, or mend that line.",
            )
        if event.get("fingerprint") not in known.get(label.candidate.recording, ()):
            raise ChangedError(
                f"{journal.path}: event {event['seq']} labels candidate {label.candidate.index} of "
                f"{label.candidate.recording!r}, which is not the candidate there now.",
                "The result changed, or the journal belongs to another. Put the old result back, start another with --session, or open "
                "it with --reattach: labels without a candidate then wait until it is back.",
            )


def adopt(journal: Journal, sources: Sequence[Source]) -> tuple[Source, ...]:
    """Count every candidate the journal's labels name as one of the session's, even where it was never seen (its prior is not known)."""
    prints = present(sources)
    out = []
    for source in sources:
        gone = dict(source.gone)
        for key in source.recordings:
            earlier = gone.get(key) or Gone()
            known = {*prints[key], *earlier.candidates}
            named = [str(e.get("fingerprint")) for e in journal.events if e["kind"] == "label" and e["recording"] == key]
            unseen = tuple(dict.fromkeys(name for name in named if name not in known))
            if unseen:
                none = Prior.undecided(len(unseen))
                verdict = np.concatenate([earlier.prior.verdict, none.verdict])
                probability = np.concatenate([earlier.prior.probability, none.probability])
                gone[key] = Gone((*earlier.candidates, *unseen), Prior(verdict, probability))
        out.append(replace(source, gone=gone))
    return tuple(out)


@dataclass(frozen=True, eq=False)
class Verdict:
    """Whether the labels of a changed recording can follow their candidates.

    Attributes
    ----------
    change
        What differs.
    labelled
        How many labelled candidates there were.
    found, moved, back
        How many are there now, how many of these at another place, how many had been gone.
    lost
        Label events whose candidate was there before and is not now.
    """

    change: Change
    labelled: int
    found: int
    moved: int
    back: int
    lost: tuple[dict[str, Any], ...]

    @property
    def safe(self) -> bool:
        """Whether labels may follow without being asked: most labelled candidates are there, and most of what is there is known."""
        return self.found >= FOUND * self.labelled and self.change.known >= KNOWN

    @property
    def possible(self) -> bool:
        """Whether there is anything in common at all; a recording without labels, or emptied, has nothing to lose."""
        return self.change.known > 0 and bool(self.change.after or not self.labelled)

    def __str__(self) -> str:
        at = f" ({self.moved} at another place)" if self.moved else ""
        text = (
            f"{self.change.path} changed since it was last opened: {self.change}. Labels follow their candidates by footprint: "
            f"{self.found} labelled candidates were found{at}"
        )
        text += f", {self.back} of them had been gone" if self.back else ""
        if self.lost:
            named = (f"{e['index']} ({e['class']}, {e.get('annotator', '')})" for e in self.lost)
            text += (
                f"; {len(self.lost)} labels lost their candidate: {shown(named)}. They stay in the journal and count again when the "
                "candidates are back"
            )
        return text + "."

    def document(self) -> dict[str, Any]:
        """For the journal."""
        return {
            "recording": self.change.key,
            "candidates": [len(self.change.before), len(self.change.after)],
            "gone": [self.change.before[i] for i in self.change.gone],
            "new": [self.change.after[i] for i in self.change.new],
            "found": self.found,
            "moved": self.moved,
            "back": self.back,
            "lost": [event["seq"] for event in self.lost],
        }


def judge(changes: Sequence[Change], events: Sequence[dict[str, Any]], now: Mapping[str, Sequence[str]]) -> list[Verdict]:
    """What each change means for the labels.

    Parameters
    ----------
    changes
        Recordings that are not as the session knew them.
    events
        Its journal.
    now
        Fingerprints of the candidates that are there, by recording.
    """
    was = {**now, **{change.key: change.before for change in changes}}
    old, new = resolve(events, was), resolve(events, now)
    before, after = _places(old, was), _places(new, now)
    waited = {event["seq"] for event in old.waiting}
    out = []
    for change in changes:
        there, here = before.get(change.key, {}), after.get(change.key, {})
        lost = tuple(e for e in new.waiting if e["recording"] == change.key and e["seq"] not in waited)
        moved = sum(fingerprint in there and there[fingerprint] != place for fingerprint, place in here.items())
        out.append(Verdict(change, len(there), len(here), moved, len(here.keys() - there.keys()), lost))
    return out


def _places(resolved: Resolved, candidates: Mapping[str, Sequence[str]]) -> dict[str, dict[tuple[str, int], int]]:
    """Labelled candidates by recording: where each is, under its fingerprint (and which of several with the same one)."""
    labels = Labels()
    for event in resolved.events:
        labels.apply(event)
    out: dict[str, dict[tuple[str, int], int]] = {}
    seen = Counter[tuple[str, str]]()
    for candidate in sorted(labels.current()):
        fingerprint = candidates[candidate.recording][candidate.index]
        out.setdefault(candidate.recording, {})[fingerprint, seen[candidate.recording, fingerprint]] = candidate.index
        seen[candidate.recording, fingerprint] += 1
    return out


def refuse(verdicts: Sequence[Verdict]) -> ChangedError:
    """The error for changes that labels cannot follow without being asked."""
    worst = next((v for v in verdicts if not v.possible), None) or next((v for v in verdicts if not v.safe), verdicts[0])
    change = worst.change
    what = f"{change.path} is not what the labels of this session were given to: {change}."
    if worst.labelled:
        what += f" {worst.found} of {worst.labelled} labelled candidates are still there."
    if not worst.possible:
        hint = "Nothing was changed. Put the old result back, or start another session with --session."
    else:
        hint = (
            "Nothing was changed. Put the old result back; or go on with what is still there (actsort sort PATH --reattach, or "
            "reattach=True: labels without a candidate wait in the journal, none is deleted); or start another session with --session."
        )
    return ChangedError(what, hint)


def waiting_note(waiting: Sequence[Label]) -> str:
    """What the person should know of labels whose candidates are not there."""
    named = (f"{label.candidate.index} ({label.value}, {label.annotator})" for label in waiting)
    return (
        f"{len(waiting)} labels are about candidates that are no longer in the result: {shown(named)}, counted as they were then. They "
        "stay in the journal and count again when the candidates are back."
    )
