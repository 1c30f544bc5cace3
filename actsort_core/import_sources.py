"""Decisions made elsewhere, read from whatever holds them: sessions, native results, tables, lists, labels of ActSort for MATLAB."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from actsort_core import store, warm_matlab
from actsort_core.errors import ActsortError, FormatError, MissingFileError, UnknownFormatError
from actsort_core.formats import find_format, read_with
from actsort_core.journal import Journal, Labels
from actsort_core.model import CELL, LABEL_CLASSES, NOT_CELL, UNSURE, Prior, Recording

if TYPE_CHECKING:
    from actsort_core.plugins import Plugins

_MAX = 1 << 28  # bytes of a table or list
_WORDS = {
    **dict.fromkeys(("1", "1.0", "true", "cell", "yes", "accepted", "good"), CELL),
    **dict.fromkeys(("0", "0.0", "-1", "-1.0", "false", "not_cell", "no", "rejected", "bad"), NOT_CELL),
    "unsure": UNSURE,
}
_NOTHING = ("", "nan", "na", "n/a", "none", "null", "undecided")
_INDEX = ("index", "candidate")
_LABEL = ("label", "labels", "class", "iscell", "is_cell", "cell", "keep", "accepted")
_PREFIX = "label:"  # a column for each of several people
READABLE = (
    "Readable are: sessions, native results, CSV with the columns index (or fingerprint) and label, files of actsort export, lists with "
    "one answer for every candidate (.npy, .json, .csv), iscell.npy, and _LABELS.mat of ActSort for MATLAB."
)


@dataclass(frozen=True)
class Said:
    """One decision made elsewhere.

    Attributes
    ----------
    index
        Which candidate there, counted from 0; -1 where only the fingerprint says.
    value
        A class.
    annotator
        Who; empty where the source does not say.
    time
        When, as far as the source says.
    fingerprint
        Which candidate by content; empty where the source does not say.
    automatic
        Whether it is the toolkit's own.
    """

    index: int
    value: str
    annotator: str = ""
    time: str = ""
    fingerprint: str = ""
    automatic: bool = False


@dataclass(frozen=True, eq=False)
class Given:
    """What a source says about one recording.

    Attributes
    ----------
    path, kind
        The source; what it is, for messages.
    recording
        What the recording is called there; empty where it has no name.
    said
        Decisions, where they are known without looking at the session.
    n_cells
        How many candidates it is about; None where it does not say.
    content
        The recording itself, where the source has footprints.
    prior
        Its verdicts, of which some may be a person's.
    classes
        What its own classes count as.
    """

    path: Path
    kind: str
    recording: str = ""
    said: tuple[Said, ...] = ()
    n_cells: int | None = None
    content: Recording | None = None
    prior: Prior | None = None
    classes: Mapping[str, str] = field(default_factory=dict)


def read(path: Path, plugins: Plugins, format: str | None = None, classes: Sequence[str] = (), everything: bool = False) -> list[Given]:
    """Read the decisions a source holds.

    Parameters
    ----------
    path
        A session's folder, a native result, a table or a list; see `READABLE`.
    plugins
        Formats that may read it.
    format
        Read it as a native result of this format.
    classes
        Own classes of the session that takes them: a table may name them.
    everything
        Whether decisions that are not a person's are wanted, too.

    Raises
    ------
    MissingFileError, FormatError
        It is not there; it is none of these, or damaged.
    """
    if not path.exists():
        raise MissingFileError(f"{path} does not exist.", f"Check the path. {READABLE}")
    if store.is_session(path):
        return _session(path, plugins)
    suffix = path.suffix.lower()
    if format is None and path.is_file():
        if suffix == ".mat" and path.stem.endswith(warm_matlab.SUFFIX):
            return _labels_mat(path, plugins)
        if suffix in (".csv", ".tsv", ".txt"):
            if (table := _table(path, classes, everything)) is not None:
                return table
        elif suffix == ".json" and (rows := _exported(path, classes, everything)) is not None:
            return rows
    try:
        fmt = find_format(path, plugins.formats, format)
    except UnknownFormatError as error:
        if path.is_file() and suffix in (".npy", ".json", ".csv"):
            return [_list(path)]
        raise FormatError(f"{path} holds no decisions that could be read. {error.what}", READABLE) from error
    try:
        recordings = read_with(fmt, path)
    except FormatError:
        if not path.is_file() or suffix != ".npy":
            raise
        return [_list(path)]  # Suite2p's combined/iscell.npy: the rows of all planes, with clicks that never reach the planes
    return [Given(path, fmt.name, found.name, n_cells=found.n_cells, content=found, prior=found.prior) for found in recordings]


def _session(folder: Path, plugins: Plugins) -> list[Given]:
    """Everybody's own labels in force, by fingerprint; the result itself need not be there."""
    document = store.read_document(folder)
    options = store.stored_options(document)
    labels = Labels()
    for event in Journal(folder, read_only=True).events:
        labels.apply(event)
    latest: dict[tuple[str, str, str], Mapping[str, Any]] = {}
    for who, given in labels.done.items():
        for event in sorted(given, key=lambda e: int(e["seq"])):
            latest[str(event["recording"]), who, str(event.get("fingerprint", ""))] = event
    contents = _contents(document, folder, plugins)
    out = []
    for row in document["sources"]:
        for entry in row["recordings"]:
            events = sorted((e for (key, _, _), e in latest.items() if key == entry["key"]), key=lambda e: int(e["seq"]))
            place = {name: i for i, name in enumerate(entry["candidates"].split())}
            said = tuple(
                Said(
                    place.get(str(e.get("fingerprint")), -1),
                    str(e["class"]),
                    str(e.get("annotator", "")),
                    str(e.get("time", "")),
                    str(e.get("fingerprint", "")),
                )
                for e in events
            )
            out.append(Given(folder, "session", entry["key"], said, len(place), contents.get(entry["key"]), classes=dict(options.classes)))
    return out


def _contents(document: Mapping[str, Any], folder: Path, plugins: Plugins) -> dict[str, Recording]:
    """The recordings of a session that are still where and what they were: only needed for candidates that are merely alike."""
    out: dict[str, Recording] = {}
    for row, (path, name) in zip(document["sources"], store.stored_paths(document, folder), strict=True):
        try:
            found = read_with(plugins.formats[name], path)
        except (ActsortError, OSError, KeyError):
            continue
        for entry in row["recordings"]:
            same = [recording for recording in found if list(recording.candidate_fingerprints) == entry["candidates"].split()]
            if same:
                out[entry["key"]] = same[0]
    return out


def _labels_mat(path: Path, plugins: Plugins) -> list[Given]:
    """What people said in ActSort for MATLAB; by footprint where the precomputed file is beside it and can be read."""
    found = warm_matlab.read_choices(path)
    said = tuple(Said(int(i), CELL if found[i] > 0 else NOT_CELL) for i in np.flatnonzero(found))
    precomputed, _ = warm_matlab.files_of(path)
    content = None
    if precomputed.is_file() and precomputed != path:
        try:
            recordings = read_with(find_format(precomputed, plugins.formats), precomputed)
        except ActsortError:
            recordings = ()
        content = recordings[0] if len(recordings) == 1 else None
        if content is not None and content.n_cells != len(found):
            raise FormatError(
                f"{path} has labels of {len(found)} candidates, {precomputed.name} holds {content.n_cells}.", "They do not belong together."
            )
    if content is not None and content.prior.person is not None:  # told from what ActSort for Python wrote there itself
        return [Given(path, "ActSort labels", content.name, n_cells=len(found), content=content, prior=content.prior)]
    return [Given(path, "ActSort labels", said=said, n_cells=len(found), content=content)]


def _text(path: Path) -> str:
    if path.stat().st_size > _MAX:
        raise FormatError(f"{path} has {path.stat().st_size >> 20} MiB, too much for a table of labels.", READABLE)
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise FormatError(f"{path} could not be read ({error}).", "Save it as plain text (UTF-8).") from error


def _table(path: Path, classes: Sequence[str], everything: bool) -> list[Given] | None:
    """A table with a header that names candidates and says what they are; None where it is none."""
    text = _text(path)
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    try:
        rows = list(csv.reader(text.splitlines(), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise FormatError(f"{path} is no CSV ({error}).", READABLE) from error
    header = [name.strip() for name in rows[0]] if rows else []
    names = [name.lower() for name in header]
    if not {*_INDEX, "fingerprint"} & set(names) or not ({*_LABEL, "decision"} & set(names) or any(n.startswith(_PREFIX) for n in names)):
        return None
    found = []
    for number, row in enumerate(rows[1:], 2):
        if not any(cell.strip() for cell in row):
            continue
        if len(row) != len(header):
            raise FormatError(f"{path}, line {number} has {len(row)} columns, the header has {len(header)}.", "Mend that line.")
        found.append((f"line {number}", dict(zip(names, (cell.strip() for cell in row), strict=True))))
    people = {name: header[i][len(_PREFIX) :] for i, name in enumerate(names) if name.startswith(_PREFIX)}
    return _rows(path, found, people, classes, everything)


def _exported(path: Path, classes: Sequence[str], everything: bool) -> list[Given] | None:
    """A JSON of ours (``actsort export``, ``curation.json``); None where it is something else."""
    try:
        document = json.loads(_text(path))
        if not isinstance(document, dict) or "recordings" not in document:
            return None
        found = [
            (f"recording {number}, candidate {i}", {"recording": recording["recording"], **row})
            for number, recording in enumerate(document["recordings"])
            for i, row in enumerate(recording["candidates"])
        ]
        rows = [(where, {str(k): "" if v is None else str(v) for k, v in row.items()}) for where, row in found]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise FormatError(f"{path} could not be read ({type(error).__name__}: {error}).", READABLE) from error
    return _rows(path, rows, {}, classes, everything)


def _rows(
    path: Path, rows: Sequence[tuple[str, Mapping[str, str]]], people: Mapping[str, str], classes: Sequence[str], everything: bool
) -> list[Given]:
    said: dict[str, list[Said]] = {}
    seen: dict[tuple[str, str], dict[str, str]] = {}
    for where, row in rows:
        recording, fingerprint = row.get("recording", ""), row.get("fingerprint", "")
        index = next((row[name] for name in _INDEX if row.get(name)), "")
        try:
            number = int(float(index)) if index else -1
            if index and (number < 0 or number != float(index)):
                raise ValueError
        except (ValueError, OverflowError):
            raise FormatError(f"{path}, {where}: {index!r} is no candidate.", "Candidates are counted from 0.") from None
        if not index and not fingerprint:
            raise FormatError(f"{path}, {where} does not say which candidate it is about.", "Fill in index or fingerprint.")
        column = next((name for name in _LABEL if name in row), "")
        told = [(row[name], who) for name, who in people.items()] or [(row.get(column, ""), row.get("annotator", ""))]
        automatic = False
        if everything and "decision" in row and all(value.lower() in _NOTHING for value, _ in told):
            told, automatic = [(row["decision"], "")], True
        group = said.setdefault(recording, [])
        known = seen.setdefault((recording, fingerprint or str(number)), {})
        if not told or all(value.lower() in _NOTHING for value, _ in told):
            known.setdefault("", "")
            continue
        for text, who in told:
            if text.lower() in _NOTHING:
                continue
            value = text if text in (*LABEL_CLASSES, *classes) else _WORDS.get(text.lower())
            if value is None:
                raise FormatError(
                    f"{path}, {where}: {text!r} is no label.",
                    f"Allowed: 1, 0, {', '.join((*LABEL_CLASSES, *classes))}. Own classes are declared first: actsort sort PATH --class "
                    f"{text}=not_cell.",
                )
            if known.setdefault(who, value) != value:
                raise FormatError(f"{path}, {where}: candidate {index or fingerprint} is there twice, and differently.", "Keep one line.")
            group.append(Said(number, value, who, row.get("time", ""), fingerprint, automatic))
    counts: dict[str, int] = {}
    for recording, _ in seen:
        counts[recording] = counts.get(recording, 0) + 1
    return [Given(path, "table", recording, tuple(group), counts[recording]) for recording, group in said.items()]


def _list(path: Path) -> Given:
    """One answer for every candidate, in their order; or a loose ``iscell.npy``, whose verdicts may be a classifier's."""
    from actsort_core import oracle

    if path.suffix.lower() == ".npy":
        try:
            array = oracle.read_plain(path)
        except (OSError, ValueError, EOFError, MemoryError, RecursionError) as error:
            raise FormatError(f"{path} could not be read ({error}).", READABLE) from error
        if array.ndim == 2 and array.shape[1] >= 2 and array.dtype.kind in "biuf":
            table = array.astype(np.float64)
            p = table[:, 1]
            with np.errstate(invalid="ignore"):
                prior = Prior(np.where(table[:, 0] != 0, 1, -1).astype(np.int8), np.where((p >= 0) & (p <= 1), p, np.nan))
            return Given(path, "iscell.npy", n_cells=len(table), prior=prior)
    try:
        values = oracle.read_answers(path)
    except FormatError as error:
        raise FormatError(f"{path} holds no decisions that could be read: {error.what}", READABLE) from error
    words = {1: CELL, 0: NOT_CELL, -1: UNSURE}
    # What is left empty was not answered: unsure is what somebody says.
    said = tuple(Said(i, words[int(v)]) for i, v in enumerate(values) if v >= 0)
    return Given(path, "list", said=said, n_cells=len(values))
