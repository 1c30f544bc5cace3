"""Candidates that people sorted, and how they are read: the published .mat layout, plain CSV and NPZ, sessions of ours."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from actsort_core import expand, learn
from actsort_core.errors import ActsortError, FormatError, MissingFileError
from actsort_core.plugins import Plugins, load

if TYPE_CHECKING:
    from actsort_core.warm import Examples

_SUFFIX = "_choices"
_PREFIX = "label:"
_LABEL_COLUMNS = ("label", "labels", "cell", "is_cell", "iscell")
_IGNORED = ("candidate", "index", "recording", "fingerprint")  # they say which candidate, not what it is like
_MISSING = ("", "nan", "na", "n/a", "none", "null")
_WORDS = {"true": 1, "cell": 1, "yes": 1, "false": 0, "not_cell": 0, "no": 0, "unsure": None, **dict.fromkeys(_MISSING)}
READABLE = (
    "Readable are: the published .mat layout (MATLAB v7.3: metrics, <name>_choices), CSV with a header and a column 'label' or "
    "'label:<annotator>', NPZ with features and labels, and sessions of ours."
)


@dataclass(frozen=True, eq=False)
class Annotated:
    """Candidates with features that one or several people sorted.

    Attributes
    ----------
    name
        Of the recording.
    features
        ``(n, n_features)`` float32; NaN = missing.
    choices
        ``(n,)`` int8 by annotator: 1 cell, -1 not a cell, 0 not said.
    names
        Of the features; ``feature_1``... where they have none.
    versions
        Of the features' definitions, by name; what is not there is not known.
    source
        Where it was read, if it was.
    """

    name: str
    features: NDArray[np.float32]
    choices: Mapping[str, NDArray[np.int8]]
    names: tuple[str, ...] = ()
    versions: Mapping[str, int | None] = field(default_factory=dict)
    source: Path | None = None

    def __post_init__(self) -> None:
        if not self.names:
            object.__setattr__(self, "names", tuple(f"feature_{i + 1}" for i in range(self.features.shape[1])))

    def truth(self, annotator: str) -> NDArray[np.int8]:
        """``(n,)``: majority of all annotators but one, 0 where they are undecided; of a lonely annotator the own labels."""
        others = [c for name, c in self.choices.items() if name != annotator]
        return _majority(others) if others else self.choices[annotator]

    def examples(self) -> Examples:
        """What another recording may learn from: every candidate's majority label (ties are dropped), features scaled here."""
        from actsort_core.warm import Examples

        said = _majority(list(self.choices.values()))
        known = said != 0
        names, x = learn.stack([(self.names, self.features)])
        return Examples(
            source=str(self.source or self.name),
            names=names,
            versions={name: self.versions.get(expand.feature_of(name)) for name in names},
            features=x[known],
            y=(said[known] > 0).astype(np.int8),
        )


def _majority(votes: Sequence[NDArray[np.int8]]) -> NDArray[np.int8]:
    return np.sign(np.sum(votes, axis=0, dtype=np.int64)).astype(np.int8)


def read(path: Path | str, plugins: Plugins | None = None) -> tuple[Annotated, ...]:
    """Read annotated recordings from whatever file or folder holds them; several only from a session of several recordings.

    Parameters
    ----------
    path
        MATLAB v7.3 file in the published layout, CSV, NPZ, session folder, or a result that has a session.
    plugins
        Plug-ins already loaded (sessions need the format of their result).

    Raises
    ------
    MissingFileError, FormatError
        It is not there, or not readable; the message names the line or column and what to do.
    """
    from actsort_core import store

    path = Path(path)
    if not path.exists():
        raise MissingFileError(f"{path} does not exist.", f"Pass an annotated recording. {READABLE}")
    if path.is_dir() or store.is_session(store.default_folder(path)):
        try:
            folder = store.find_folder(path)
        except MissingFileError as error:
            raise FormatError(f"{path} is a folder without a session.", READABLE) from error
        return _read_session(folder, plugins)
    try:
        with path.open("rb") as handle:
            start = handle.read(512)
    except OSError as error:
        raise FormatError(f"{path} could not be read ({error.strerror}).", "Check its permissions.") from error
    if start.startswith(b"PK"):
        return (_read_npz(path),)
    if start.startswith(b"\x89HDF") or path.suffix.lower() in (".mat", ".h5", ".hdf5"):
        return (_read_mat(path, plugins),)
    return (_read_csv(path, start),)


def read_annotated(path: Path | str, plugins: Plugins | None = None) -> Annotated:
    """Read the one annotated recording a file holds; see `read`.

    Raises
    ------
    MissingFileError, FormatError
        It is not there, not readable, or holds several.
    """
    if Path(path).is_dir():
        found = read(path, plugins)
        if len(found) > 1:
            raise FormatError(f"{path} holds {len(found)} recordings.", "Use benchmark.read, which returns them all.")
        return found[0]
    return read(path, plugins)[0]


# ---- labels


def _coded(values: Mapping[str, NDArray[np.float64]], path: Path, alike: bool) -> dict[str, NDArray[np.int8]]:
    """Labels as -1, 0, 1 from either coding: -1 / +1 with 0 for not said, or 0 / 1. NaN is not said.

    Parameters
    ----------
    values
        ``(n,)`` numbers by annotator.
    alike
        True: all annotators are written in the same way, so that one who never said -1 is understood from the others.
    """
    for name, column in values.items():
        wrong = np.flatnonzero(~np.isnan(column) & ~np.isin(column, (-1, 0, 1)))
        if len(wrong):
            what = f"{path}: {name!r} says {column[wrong[0]]:g} about candidate {wrong[0]}."
            raise FormatError(what, "Labels are 1 / 0 or +1 / -1; leave out (or set to NaN) what was not said.")
    signed = {name: bool((column == -1).any()) for name, column in values.items()}
    if not alike and any(signed.values()):
        unclear = [name for name, column in values.items() if not signed[name] and (column == 0).any()]
        if unclear:
            raise FormatError(
                f"{path}: the labels of {unclear[0]!r} are written 1 / 0, those of {next(n for n in signed if signed[n])!r} +1 / -1.",
                "Does 0 mean not a cell, or not said? Write them alike, and leave empty what was not said.",
            )
    minus = any(signed.values())
    return {
        name: np.where(np.isnan(column), 0, column if minus else 2 * column - 1).astype(np.int8)  # 0 -> -1, 1 -> 1
        for name, column in values.items()
    }


def _annotated(path: Path, features: NDArray[Any], choices: Mapping[str, NDArray[np.int8]], names: tuple[str, ...]) -> Annotated:
    """Check what was read and put it together."""
    lengths = {name: len(said) for name, said in choices.items()}
    n = len(features)
    if not choices or not n or not features.shape[1]:
        raise FormatError(f"{path} has {n} candidates, {features.shape[1]} features and {len(choices)} annotators.", READABLE)
    if set(lengths.values()) != {n}:
        raise FormatError(f"{path} has features of {n} candidates, and labels of {lengths}.", "Give every candidate one row.")
    with np.errstate(over="ignore"):
        table = np.ascontiguousarray(features, np.float32)
    table[~np.isfinite(table)] = np.nan
    return Annotated(path.stem, table, choices, names, source=path)


# ---- the published .mat layout


def published_names(n: int, plugins: Plugins | None = None) -> tuple[str, ...]:
    """Names of the first `n` published columns: ours where we compute the same quantity, else ``published_<number>``."""
    groups = (plugins or load(discover=False)).features
    known = {feature.published: feature.name for group in groups.values() for feature in group.features if feature.published}
    return tuple(known.get(number, f"published_{number}") for number in range(1, n + 1))


def _read_mat(path: Path, plugins: Plugins | None) -> Annotated:
    import h5py

    hint = f"It must be MATLAB v7.3 with 'metrics' and at least one '<name>{_SUFFIX}' (in MATLAB: save(..., '-v7.3'))."
    try:
        with h5py.File(path, "r") as file:
            choices = {key[: -len(_SUFFIX)]: np.asarray(file[key], np.float64).ravel() for key in file if key.endswith(_SUFFIX)}
            metrics = np.asarray(file["metrics"], np.float32) if "metrics" in file else None
    except (OSError, TypeError, ValueError, KeyError, RuntimeError) as error:
        raise FormatError(f"{path} could not be read as an annotated recording ({error}).", hint) from error
    lengths = {len(values) for values in choices.values()}
    if metrics is None or metrics.ndim != 2 or len(lengths) != 1:
        raise FormatError(f"{path} is not an annotated recording ({len(choices)} annotators, lengths {sorted(lengths)}).", hint)
    n = lengths.pop()
    if metrics.shape[0] != n:
        metrics = metrics.T
    if metrics.shape[0] != n:
        raise FormatError(f"{path} has metrics of shape {metrics.shape} for {n} candidates.", hint)
    return _annotated(path, metrics, _coded(choices, path, alike=True), published_names(metrics.shape[1], plugins))


# ---- NPZ


def _read_npz(path: Path) -> Annotated:
    hint = "An NPZ needs 'features' (n, k), and 'labels' (n,) or (n, annotators), or '<name>_choices' (n,); optional 'names' (k,)."
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: np.asarray(archive[key]) for key in archive.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        reason = "it holds Python objects, which are never loaded" if "pickle" in str(error) else error
        raise FormatError(f"{path} could not be read ({reason}).", hint) from error

    def numbers(key: str) -> NDArray[np.float64]:
        try:
            return arrays[key].astype(np.float64)
        except (TypeError, ValueError) as error:
            raise FormatError(f"{path}: {key!r} does not hold numbers ({arrays[key].dtype}).", hint) from error

    table = next((key for key in ("features", "X", "x") if key in arrays), None)
    if table is None:
        raise FormatError(f"{path} has no 'features', only {sorted(arrays)}.", hint)
    features = numbers(table)
    if features.ndim != 2:
        raise FormatError(f"{path}: {table!r} has shape {features.shape}.", hint)
    labels = {key[: -len(_SUFFIX)]: numbers(key).ravel() for key in arrays if key.endswith(_SUFFIX)}
    if key := next((key for key in ("labels", "y") if key in arrays), ""):
        block = numbers(key)
        if block.ndim == 1:
            labels[key] = block
        elif block.ndim == 2 and block.shape[0] == len(features):
            people = arrays.get("annotators", np.arange(1, block.shape[1] + 1))
            if people.shape != (block.shape[1],):
                raise FormatError(f"{path} names {len(people)} annotators for {block.shape[1]} columns of {key!r}.", hint)
            labels.update({str(who): block[:, i] for i, who in enumerate(people)})
        else:
            raise FormatError(f"{path}: {key!r} has shape {block.shape} for {len(features)} candidates.", hint)
    if not labels:
        raise FormatError(f"{path} has no labels, only {sorted(arrays)}.", hint)
    names = tuple(map(str, arrays["names"].ravel())) if "names" in arrays else ()
    if names and (len(names) != features.shape[1] or len(set(names)) < len(names)):
        raise FormatError(f"{path} has {len(set(names))} different names for {features.shape[1]} features.", hint)
    return _annotated(path, features, _coded(labels, path, alike=True), names)


# ---- CSV


def _annotator_of(column: str) -> str | None:
    """Whose labels a CSV column holds; None: it is a feature."""
    low = column.lower()
    if low.startswith(_PREFIX):
        return column[len(_PREFIX) :].strip()
    if low.endswith(_SUFFIX):
        return column[: -len(_SUFFIX)]
    return column if low in _LABEL_COLUMNS else None


def _read_csv(path: Path, start: bytes) -> Annotated:
    hint = "The first line names the columns: features, and 'label' or 'label:<annotator>' with 1 / 0 (empty = not said)."
    try:
        if b"\0" in start:
            raise FormatError(f"{path} is neither text nor a file that can be read.", READABLE)
        with path.open(newline="", encoding="utf-8-sig") as handle:
            first = handle.readline()
            delimiter = max(",;\t", key=first.count)
            handle.seek(0)
            rows = list(csv.reader(handle, delimiter=delimiter))
    except (UnicodeDecodeError, csv.Error) as error:
        raise FormatError(f"{path} is no CSV in UTF-8 ({error}).", READABLE) from error
    lines = [(number, row) for number, row in enumerate(rows, 1) if any(cell.strip() for cell in row)]
    if len(lines) < 2:
        raise FormatError(f"{path} has no candidates ({len(lines)} lines).", hint)
    header = [cell.strip() for cell in lines[0][1]]
    body = lines[1:]
    for number, row in body:
        if len(row) != len(header):
            raise FormatError(f"{path}, line {number}: {len(row)} columns, but the header has {len(header)}.", "Mend that line.")
    twice = next((name for name in header if header.count(name) > 1 or not name), None)
    if twice is not None:
        raise FormatError(f"{path}: the header has the column {twice!r} twice, or without a name.", "Give each column a name of its own.")
    labels: dict[str, NDArray[np.float64]] = {}
    words: set[str] = set()
    features: dict[str, NDArray[np.float64]] = {}
    for i, name in enumerate(header):
        if name.lower() in _IGNORED:
            continue
        who = _annotator_of(name)
        if who == "" or who in labels:
            raise FormatError(f"{path}: column {name!r} names no annotator, or one that another column names.", hint)
        cells = [(number, row[i].strip()) for number, row in body]
        if who is None:
            features[name] = _feature_column(cells, name, path)
        else:
            labels[who] = _label_column(cells, name, path)
            if all(text.lower() in _WORDS for _, text in cells):  # words are clear, whatever other columns hold
                words.add(who)
    if not labels:
        raise FormatError(f"{path} has no column with labels, only {', '.join(header[:8])}{'...' if len(header) > 8 else ''}.", hint)
    if not features:
        raise FormatError(f"{path} has no column with features, only {', '.join(header)}.", hint)
    coded = _coded({who: column for who, column in labels.items() if who not in words}, path, alike=False)
    for who in words:
        coded |= _coded({who: labels[who]}, path, alike=False)
    return _annotated(path, np.column_stack(list(features.values())), {who: coded[who] for who in labels}, tuple(features))


def _feature_column(cells: Sequence[tuple[int, str]], name: str, path: Path) -> NDArray[np.float64]:
    out = np.empty(len(cells))
    for k, (number, text) in enumerate(cells):
        try:
            out[k] = np.nan if text.lower() in _MISSING else float(text)
        except ValueError:
            raise FormatError(
                f"{path}, line {number}, column {name!r}: {text!r} is no number.", "Mend it, leave it empty, or take the column out."
            ) from None
    return out


def _label_column(cells: Sequence[tuple[int, str]], name: str, path: Path) -> NDArray[np.float64]:
    """Numbers as they stand; words as 1 and 0 (or -1, where the column also has -1)."""
    out = np.empty(len(cells))
    worded = np.zeros(len(cells), bool)
    for k, (number, text) in enumerate(cells):
        word = text.lower().replace(" ", "_").replace("-cell", "_cell")
        if word in _WORDS:
            said = _WORDS[word]
            out[k], worded[k] = np.nan if said is None else said, said is not None
            continue
        try:
            out[k] = float(text)
        except ValueError:
            out[k] = 2
        if out[k] not in (-1, 0, 1):
            raise FormatError(
                f"{path}, line {number}, column {name!r}: {text!r} is no label.",
                "Labels are 1 / 0, +1 / -1, true / false or cell / not_cell; empty = not said.",
            )
    if (out == -1).any():
        out[worded & (out == 0)] = -1
    return out


# ---- sessions


def _read_session(folder: Path, plugins: Plugins | None) -> tuple[Annotated, ...]:
    from actsort_core.journal import fold
    from actsort_core.model import CELL, NOT_CELL
    from actsort_core.opening import open as open_session

    sign = {CELL: 1, NOT_CELL: -1}
    try:
        session = open_session(folder, read_only=True, prepare=False, plugins=plugins if plugins is not None else ())
    except ActsortError as error:
        raise type(error)(f"The session {folder} could not be opened: {error.what}", error.hint) from error
    out = []
    with session:
        events = session.events()
        people = sorted({str(event.get("annotator", "")) for event in events if event["kind"] == "label"})
        given = {who: fold(e for e in events if str(e.get("annotator", "")) == who).current() for who in people}
        for key, recording in session.recordings.items():
            choices = {}
            for who, labels in given.items():
                said = np.zeros(recording.n_cells, np.int8)
                for candidate, label in labels.items():
                    if candidate.recording == key:
                        said[candidate.index] = sign.get(session.options.kind(label.value), 0)
                if said.any():
                    choices[who] = said
            if not choices:
                continue
            table = session.features(key)
            versions = dict(zip(table.names, table.versions, strict=True))
            out.append(Annotated(key, np.asarray(table.values, np.float32), choices, table.names, versions, folder))
    if not out:
        raise FormatError(f"Nobody labelled anything in the session {folder}.", f"Label some candidates first: actsort sort {folder}")
    return tuple(out)
