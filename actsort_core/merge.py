"""Copies of one session, labelled on two machines, become one session again.

A journal is a list of events; merging is the union of the lists, in which each keeps its own order. Two events are the same when
author, time and content are; where a journal holds the same one twice, so does the union. So merging twice changes nothing, it does
not matter which copy comes first, and no event is ever lost.
"""

from __future__ import annotations

import contextlib
import heapq
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from actsort_core import remarks, store
from actsort_core.atomic import atomic_write, atomic_write_json, backup, clear_leftovers
from actsort_core.classes import KINDS
from actsort_core.errors import ChangedError, JournalError, UsageError, WriteError
from actsort_core.journal import FILE, Event, Journal, Labels, fold, now
from actsort_core.model import Prior
from actsort_core.reattach import resolve
from actsort_core.store import DOCUMENT, Options

ELSEWHERE = "elsewhere"  # a write-back or restore on another machine: kept as history, without effect on the files here
_KEPT = ("warm.npz", "warm.json")  # what the model of the first session started from goes with it into a new folder
_LOCAL = ("write_started", "written", "write_undone", "restored", "reattached")
_NO_TARGET = 0  # an undo that had nothing to take back; events count from 1

Identity = tuple[str, int]  # content, and which of several events with the same content


@dataclass(frozen=True)
class MergeReport:
    """What came together.

    Attributes
    ----------
    folder
        Where the merged session is.
    events
        By session (as given), how many events it held.
    shared
        How many of the merged events were in every one of them.
    total
        Events afterwards.
    labels
        Candidates with a label in force afterwards.
    annotators
        By name, how many candidates each labelled.
    changed
        Whether anything was written.
    notes
        What the person should know: options that differ, lines that were cut off.
    """

    folder: Path
    events: Mapping[str, int]
    shared: int
    total: int
    labels: int
    annotators: Mapping[str, int]
    changed: bool
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class _Copy:
    """A session as it is on disk: its document, its events, and the identity of each."""

    folder: Path
    document: Mapping[str, Any]
    options: Options
    events: Sequence[dict[str, Any]]
    keys: Mapping[str, str]  # its recordings by their keys -> the keys in the merged session


def merge_events(chains: Sequence[Sequence[Event]]) -> list[dict[str, Any]]:
    """The union of several journals of the same recordings, each in its own order, numbered anew.

    Events that were written on different machines are ordered by time, then by annotator and content: the order of the journals
    given does not matter. A clock that was set back does not move an event before its predecessors.

    Parameters
    ----------
    chains
        Events of each journal, in order. Write-backs of all but the first are kept as ``elsewhere``: they are about files of
        another machine.
    """
    first: dict[Identity, Event] = {}
    order: dict[Identity, tuple[Any, ...]] = {}
    after: dict[Identity, list[Identity]] = {}
    waits: Counter[Identity] = Counter()
    meant: dict[Identity, Identity | None] = {}
    for number, chain in enumerate(chains):
        known = identify(chain)
        by_seq = {int(event["seq"]): identity for event, (identity, _) in zip(chain, known, strict=True)}
        reached: tuple[Any, ...] = ("",)
        for i, (event, (identity, target)) in enumerate(zip(chain, known, strict=True)):
            key = (str(event.get("time", "")), str(event.get("annotator", "")), identity)
            reached = max(reached, key)  # never earlier than what came before it in its own journal
            order[identity] = max(order.get(identity, (reached, key)), (reached, key))
            if identity not in first:
                first[identity] = _elsewhere(event) if number and event["kind"] in _LOCAL else event
            meant[identity] = by_seq.get(target) if target is not None else None
            if i:
                after.setdefault(known[i - 1][0], []).append(identity)
                waits[identity] += 1
    ready = [(order[identity], identity) for identity in first if not waits[identity]]
    heapq.heapify(ready)
    sequence: dict[Identity, int] = {}
    while len(sequence) < len(first):
        if not ready:  # journals that contradict each other's order (mended by hand?): the earliest goes first
            ready = [min((order[identity], identity) for identity in first if identity not in sequence)]
        identity = heapq.heappop(ready)[1]
        if identity in sequence:
            continue
        sequence[identity] = len(sequence) + 1
        for following in after.get(identity, ()):
            waits[following] -= 1
            if waits[following] == 0:
                heapq.heappush(ready, (order[following], following))
    out = []
    for identity, seq in sequence.items():
        event = {**first[identity], "seq": seq}
        if event["kind"] in ("undo", "redo"):
            label = meant[identity]
            event["target"] = _NO_TARGET if label is None else sequence[label]
        out.append(event)
    return out


def identify(chain: Sequence[Event]) -> list[tuple[Identity, int | None]]:
    """What each event of a journal is, wherever it is written down; and the ``seq`` of the label an undo or redo is about."""
    labels, seen = Labels(), Counter[str]()
    content: dict[int, str] = {}
    out: list[tuple[Identity, int | None]] = []
    for event in chain:
        body = {key: value for key, value in event.items() if key not in ("seq", "target")}
        target = None
        if event["kind"] in ("undo", "redo"):
            # One without effect here may be about a label of another machine: what it names counts, not what it did.
            label = labels.meant(event)
            target = int(label["seq"]) if label else event.get("target")
            target = target if target in content else None
            body["target"] = content[target] if target is not None else None
        elif "target" in event:
            body["target"] = event["target"]
        if event["kind"] == ELSEWHERE:
            body["kind"] = body.pop("was", "")
        text = json.dumps(body, sort_keys=True, ensure_ascii=False, default=str)
        identity = (text, seen[text])
        seen[text] += 1
        content[int(event["seq"])] = text
        out.append((identity, target))
        labels.apply(dict(event))
    return out


def _elsewhere(event: Event) -> dict[str, Any]:
    return {**event, "kind": ELSEWHERE, "was": event["kind"]}


def merge(paths: Sequence[Path], into: Path | None = None) -> MergeReport:
    """Bring copies of one session together.

    The native results are not touched, and need not be there. What is replaced is replaced in one step: a merge that was killed is
    done again by the same call. The journal that was there is kept in ``backups``.

    Parameters
    ----------
    paths
        Two session folders or more (or the results they belong to). Their labels need not have anything in common, but they must be
        about the same candidates.
    into
        Folder of the merged session; by default the first of `paths`. May be new, or a session of the same candidates, whose events
        are then kept as well.

    Raises
    ------
    MissingFileError, LockedError
        There is no such session; the one that is to be changed is open elsewhere.
    ChangedError
        They are about different recordings; says what differs.
    UsageError
        A class counts as different things in them.
    WriteError
        The merged session could not be written; everything is as it was.
    """
    folders = [store.find_folder(path) for path in paths]
    if len({folder.resolve() for folder in folders}) < 2 and into is None:
        raise UsageError("Merging needs two sessions.", "Pass the folders of two copies, as in: actsort merge A B")
    target = folders[0] if into is None else into
    new, kept = not store.is_session(target), True
    if new:
        try:
            target.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WriteError(f"The folder {target} cannot be made ({error.strerror}).", "Choose another with --into.") from error
        for name in (FILE, DOCUMENT, *_KEPT):
            clear_leftovers(target / name, 0)  # of a merge that was killed
        store.check_free(target)
        kept = (target / FILE).exists()  # of a merge that was killed, or of a session whose document is lost: its events count
    others = [folder for folder in folders if folder.resolve() != target.resolve()]
    with contextlib.ExitStack() as stack:
        try:
            return _merge(stack, target, new, others, folders)
        except BaseException:
            stack.close()
            if new and not kept:
                store.remove(target)
            raise


def _merge(stack: contextlib.ExitStack, target: Path, new: bool, others: Sequence[Path], given: Sequence[Path]) -> MergeReport:
    journal = stack.enter_context(Journal(target))
    notes = list(journal.notes)
    base = others[0] if new else target
    reference = store.read_document(base)
    copies: list[_Copy] = []
    for folder in [*([] if new else [target]), *others]:
        document = store.read_document(folder)
        if folder == target:
            events: Sequence[dict[str, Any]] = journal.events
        else:
            with Journal(folder, read_only=True) as read:
                events = read.events
                notes += [f"{folder}: {note}" for note in read.notes]
        keys = _same_recordings(base, reference, folder, document)
        copies.append(_Copy(folder, document, store.stored_options(document), _checked(folder, document, events), keys))
    options, differing = _options(copies)
    notes += differing
    chains = [[_renamed(event, copy.keys) for event in copy.events] for copy in copies]
    # The session that stays where it is keeps its own write-backs; into a new folder, all were made elsewhere.
    own = _checked(target, {**reference, "options": {**reference["options"], "classes": dict(options.classes)}}, journal.events)
    merged = merge_events([own, *chains] if new else chains)
    document = _document(reference, target, base, options)
    _keep_gone(document, copies)
    told = dict(Counter(identity for chain in chains for identity in {i for i, _ in identify(chain)}))
    changed = new or merged != list(journal.events) or document != reference
    if changed:
        if merged != list(journal.events) and journal.path.stat().st_size:
            backup(journal.path, target / "backups")
        if not new and document != reference:  # more classes do no harm without their labels; labels without their classes would
            atomic_write_json(target / DOCUMENT, document)
        journal.rewrite(merged)
        for name in _KEPT if new else ():
            if (base / name).is_file():
                atomic_write(target / name, (base / name).read_bytes())
        if new:  # last: what has no document is no session yet
            atomic_write_json(target / DOCUMENT, document)
    labels = fold(resolve(merged, {entry["key"]: entry["candidates"].split() for entry in _recordings(document)}).events)
    return MergeReport(
        target,
        {str(copy.folder): len(copy.events) for copy in copies} if len(copies) > 1 else {str(folder): len(merged) for folder in given},
        sum(count == len(chains) for count in told.values()),
        len(merged),
        len(labels.current()),
        {who: len(own) for who, own in labels.by_annotator().items()},
        changed,
        tuple(notes),
    )


def _recordings(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [entry for row in document["sources"] for entry in row["recordings"]]


def _same_recordings(base: Path, reference: Mapping[str, Any], folder: Path, document: Mapping[str, Any]) -> dict[str, str]:
    """The recordings of a session by their keys, as the keys of the session `base`; by content, whatever they are called.

    Raises
    ------
    ChangedError
        A recording is not the same, or one is missing.
    """
    wanted, found = _recordings(reference), _recordings(document)
    if len(wanted) != len(found):
        raise ChangedError(
            f"{base} holds {len(wanted)} recording(s), {folder} holds {len(found)}.",
            "Only sessions about the same recordings can be merged. Nothing was changed.",
        )
    free, out = list(found), {}
    for entry in wanted:
        candidates = entry["candidates"].split()
        same = [other for other in free if other["candidates"].split() == candidates] or [o for o in free if _descends(entry, o)]
        same = [other for other in same if other["key"] == entry["key"]] or same
        if not same:
            near = ([other for other in free if other["key"] == entry["key"]] or free)[0]
            raise ChangedError(
                f"{entry['key']!r} is not the same recording in {base} and {folder}: "
                f"{store.what_differs(candidates, near['candidates'].split())}.",
                "Only sessions about the same recordings can be merged. Nothing was changed.",
            )
        free.remove(same[0])
        out[str(same[0]["key"])] = str(entry["key"])
    return out


def _known(entry: Mapping[str, Any]) -> set[str]:
    """Candidates a session knows of a recording, those included that are no longer in its result."""
    return {*entry["candidates"].split(), *store.gone_of(entry).candidates}


def _descends(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two copies are about one recording that changed under one of them, or both (see `reattach`)."""
    here, there = set(one["candidates"].split()), set(other["candidates"].split())
    return bool(here and there) and (there <= _known(one) or here <= _known(other))


def _keep_gone(document: dict[str, Any], copies: Sequence[_Copy]) -> None:
    """Let the merged document know every candidate that one of the copies knows: labels of those that are not here wait for them."""
    rows = []
    for row in document["sources"]:
        entries = []
        for entry in row["recordings"]:
            known, gone = _known(entry), store.gone_of(entry)
            further: dict[str, tuple[Any, Any]] = {}
            for copy in copies:
                for other in _recordings(copy.document):
                    if copy.keys[str(other["key"])] != entry["key"]:
                        continue
                    theirs = store.gone_of(other)
                    for prints, prior in ((other["candidates"].split(), store.prior_of(other["prior"])), (theirs.candidates, theirs.prior)):
                        said = zip(prints, prior.verdict, prior.probability, strict=True)
                        further |= {name: (v, p) for name, v, p in said if name not in known and name not in further}
            if further:
                names = tuple(sorted(further))  # whichever copy comes first
                verdict = np.array([further[name][0] for name in names], np.int8)
                probability = np.array([further[name][1] for name in names], np.float64)
                prior = Prior(np.concatenate([gone.prior.verdict, verdict]), np.concatenate([gone.prior.probability, probability]))
                entry = {**entry, **store.gone_entry(store.Gone((*gone.candidates, *names), prior))}
            entries.append(entry)
        rows.append({**row, "recordings": entries})
    document["sources"] = rows


def _checked(folder: Path, document: Mapping[str, Any], events: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """The events of a journal whose labels are about the session's candidates.

    Raises
    ------
    ChangedError, JournalError
        One is about another candidate, or of a class that the session does not have.
    """
    candidates = {str(entry["key"]): _known(entry) for entry in _recordings(document)}
    classes = store.stored_options(document).known_classes
    for event in events:
        if event["kind"] != "label":
            continue
        if event.get("fingerprint") not in candidates.get(event["recording"], ()):
            raise ChangedError(
                f"{folder / FILE}: event {event['seq']} labels candidate {event['index']} of {event['recording']!r}, which is not "
                "the candidate of that session.",
                "The journal belongs to another result. Nothing was changed.",
            )
        if event["class"] not in classes:
            raise JournalError(
                f"{folder / FILE}: event {event['seq']} is of class {event['class']!r}, which that session does not have.",
                "Mend that line, or open the session with this class. Nothing was changed.",
            )
    return events


def _renamed(event: dict[str, Any], keys: Mapping[str, str]) -> dict[str, Any]:
    renamed = keys.get(str(event.get("recording", "")))
    return event if renamed is None or event["kind"] not in ("label", *remarks.KINDS) else {**event, "recording": renamed}


def _options(copies: Sequence[_Copy]) -> tuple[Options, list[str]]:
    """The options of the first, with the classes of all; and what differs.

    Raises
    ------
    UsageError
        A class counts as different things.
    """
    first = copies[0]
    classes: dict[str, str] = {}
    notes = []
    for copy in copies:
        for name, kind in copy.options.classes.items():
            if classes.setdefault(name, kind) != kind:
                raise UsageError(
                    f"The class {name!r} counts as {classes[name]} in {first.folder} and as {kind} in {copy.folder}.",
                    f"Open one of them with another meaning first (of {', '.join(KINDS)}). Nothing was changed.",
                )
        differ = [
            f"{name} {getattr(copy.options, name)!r}"
            for name in Options.__dataclass_fields__
            if name not in ("classes", "movies") and getattr(copy.options, name) != getattr(first.options, name)
        ]
        if differ:
            notes.append(f"{copy.folder} had {', '.join(differ)}; the merged session has the options of {first.folder}.")
    same = classes == dict(first.options.classes)
    return (first.options if same else replace(first.options, classes=dict(sorted(classes.items())))), notes


def _document(reference: Mapping[str, Any], target: Path, base: Path, options: Options) -> dict[str, Any]:
    """``session.json`` of the merged session: the first's, with the options of the merged one, and paths as seen from its folder."""
    document = dict(reference)
    if options != store.stored_options(reference):
        document["options"] = {**reference["options"], "classes": dict(options.classes)}
    if base.resolve() != target.resolve():
        paths = [path for path, _ in store.stored_paths(reference, base)]
        document["sources"] = [
            {**row, "path": str(path.absolute()), "relative": os.path.relpath(path.absolute(), target.absolute())}
            for row, path in zip(reference["sources"], paths, strict=True)
        ]
        document["created"] = now()
    return document
