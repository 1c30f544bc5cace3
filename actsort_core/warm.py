"""Warm starts: labelled candidates from elsewhere (an earlier session, a saved model, ActSort for MATLAB), ready to be learned from."""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from actsort_core import expand, store
from actsort_core.atomic import atomic_write, atomic_write_json, digest
from actsort_core.errors import ActsortError, FormatError, MissingFileError, UsageError
from actsort_core.model import CELL, NOT_CELL

if TYPE_CHECKING:
    from actsort_core.plugins import Plugins
    from actsort_core.session import Session

FORMAT_VERSION = 1
ARRAYS, DOCUMENT = "warm.npz", "warm.json"  # in the session's folder
FEW = 0.5  # with less than this share of a session's features in common, a warm start says so as a warning
_SHOWN = 8  # names in one message


@dataclass(frozen=True, eq=False)
class Examples:
    """Labelled candidates from elsewhere: scaled features and what a person said.

    Attributes
    ----------
    source
        Where they come from, for messages.
    names
        Feature names.
    versions
        Version of each feature's definition by name; None (or no entry) where it is not known.
    features
        ``(n, n_features)`` float32, scaled over ALL candidates of their own recording (`learn.standardise`); labelled rows only.
    y
        ``(n,)`` int8: 1 cell, 0 not a cell.
    """

    source: str
    names: tuple[str, ...]
    versions: Mapping[str, int | None]
    features: NDArray[np.float32]
    y: NDArray[np.int8]

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(str(name) for name in self.names))
        object.__setattr__(self, "features", np.ascontiguousarray(self.features, np.float32))
        y = np.asarray(self.y)
        self._check(y.ndim == 1 and bool(np.isin(y, (0, 1)).all()), "has labels that are not 0 or 1")
        object.__setattr__(self, "y", np.ascontiguousarray(y, np.int8))
        self._check(len(set(self.names)) == len(self.names), "names a feature twice")
        shape = (len(y), len(self.names))
        self._check(self.features.shape == shape, f"has features of shape {self.features.shape} for {shape[0]} labels and {shape[1]} names")
        self._check(bool(np.isfinite(self.features).all()), "has features that are not finite")
        object.__setattr__(self, "versions", {name: self.versions.get(name) for name in self.names})

    def _check(self, ok: bool, problem: str) -> None:
        if not ok:
            raise FormatError(f"The examples of {self.source} {problem}.", "The file is inconsistent; was it changed?")

    def __len__(self) -> int:
        return len(self.y)

    def _fits(self, name: str, versions: Mapping[str, int | None]) -> bool:
        mine, theirs = self.versions.get(name), versions.get(name)
        return mine is None or theirs is None or mine == theirs

    def matched(self, names: Sequence[str], versions: Mapping[str, int | None]) -> tuple[NDArray[np.float32], tuple[str, ...]]:
        """The examples in the columns of another table, features matched by name and version.

        Parameters
        ----------
        names, versions
            Of that table; a version of None fits any.

        Returns
        -------
        ``(n, len(names))`` float32 and the names that are missing here: those columns are 0, the average candidate.
        """
        place = {name: i for i, name in enumerate(self.names)}
        out = np.zeros((len(self.y), len(names)), np.float32)
        missing = []
        for column, name in enumerate(names):
            if name in place and self._fits(name, versions):
                out[:, column] = self.features[:, place[name]]
            else:
                missing.append(name)
        return out, tuple(missing)

    def check_match(self, names: Sequence[str], versions: Mapping[str, int | None]) -> tuple[str, ...]:
        """What the person should know about how these examples fit a table, as sentences; none where every feature is there.

        Raises
        ------
        UsageError
            No feature is in common.

        Warns
        -----
        UserWarning
            Less than half of the features are in common.
        """
        _, missing = self.matched(names, versions)
        if not missing:
            return ()
        common = len(names) - len(missing)
        other = [name for name in missing if name in self.names]
        absent = [name for name in missing if name not in self.names]
        parts = [f"not there: {listed(absent)}"] if absent else []
        if other:
            shown = [f"{name} ({self.versions[name]} there, {versions.get(name)} here)" for name in other]
            parts.append(f"of another version: {listed(shown)}")
        if not common:
            raise UsageError(
                f"The warm start {self.source} has no feature in common with this session ({'; '.join(parts)}).",
                f"It has {listed(self.names)}. Choose the same with --features, or go on without it: --warm-start none.",
            )
        note = f"The warm start {self.source} has {common} of {len(names)} features ({'; '.join(parts)}); the others count as average."
        if common < FEW * len(names):
            warnings.warn(f"{note} So little in common may not help.", stacklevel=2)
        return (note,)


def listed(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def concatenate(examples: Sequence[Examples]) -> Examples:
    """All examples in one: the union of the features; what one lacks is 0 there, the average candidate.

    Where the same feature comes in several versions the newest is kept, and those of another version count as lacking it.

    Raises
    ------
    UsageError
        There are none.
    """
    if not examples:
        raise UsageError("There are no examples to put together.", "Pass at least one.")
    if len(examples) == 1:
        return examples[0]
    versions: dict[str, int | None] = {}
    for one in examples:
        for name in one.names:
            known = [v for v in (versions.get(name), one.versions[name]) if v is not None]
            versions[name] = max(known, default=None)
    names = tuple(versions)
    features = np.concatenate([one.matched(names, versions)[0] for one in examples])
    return Examples(", ".join(one.source for one in examples), names, versions, features, np.concatenate([one.y for one in examples]))


# ---- kept in a session's folder


def store_examples(folder: Path, examples: Examples) -> None:
    """Keep `examples` in a session's folder (``warm.npz``, ``warm.json``), so that resuming needs no other file."""
    write_arrays(folder / ARRAYS, {"features": examples.features, "y": examples.y})
    document = {
        "format_version": FORMAT_VERSION,
        "source": examples.source,
        "names": list(examples.names),
        "versions": [examples.versions[name] for name in examples.names],
        "cells": int(examples.y.sum()),
        "not_cells": int((examples.y == 0).sum()),
        "arrays": digest(folder / ARRAYS),
    }
    atomic_write_json(folder / DOCUMENT, document)


def stored_examples(folder: Path) -> Examples | None:
    """The examples that `store_examples` kept in a session's folder; None where there are none.

    Raises
    ------
    FormatError
        They are damaged, or of a newer version.
    """
    hint = "Pass --warm-start again, or go on without it: --warm-start none. Labels are not affected."
    path = folder / DOCUMENT
    if not path.is_file():
        return None
    document = read_json(path, FORMAT_VERSION, hint)
    arrays = read_arrays(folder / ARRAYS, document.get("arrays"), hint)
    try:
        names = tuple(str(name) for name in document["names"])
        versions = dict(zip(names, document["versions"], strict=True))
        return Examples(str(document["source"]), names, versions, arrays["features"], arrays["y"])
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{path} is damaged ({type(error).__name__}: {error}).", hint) from error


Given = Examples | Path | str | Sequence[Path | str]


def gather(given: Given, plugins: Plugins | None = None) -> Examples:
    """The examples meant by what a person passes as a warm start.

    Parameters
    ----------
    given
        Examples, or one or several paths to read them from (see `read_examples`); ``"none"`` for none at all.
    plugins
        Plug-ins already loaded.
    """
    if isinstance(given, Examples):
        return given
    paths = [given] if isinstance(given, Path | str) else list(given)
    if [str(path).lower() for path in paths] in ([], ["none"]):
        return Examples("none", (), {}, np.zeros((0, 0), np.float32), np.zeros(0, np.int8))
    return read_many(paths, plugins)


def keep(folder: Path, examples: Examples) -> dict[Path, bytes | None]:
    """Start a session from these examples from now on; from none at all where there are none. Its lock is held.

    Returns
    -------
    What was kept until now, for `put_back`.
    """
    paths = (folder / DOCUMENT, folder / ARRAYS)
    before = {path: path.read_bytes() if path.is_file() else None for path in paths}
    if len(examples):
        store_examples(folder, examples)
    else:
        for path in paths:
            path.unlink(missing_ok=True)
    return before


def put_back(before: Mapping[Path, bytes | None]) -> None:
    """Undo `keep`: examples that do not fit must not be in the way of a session that has labels already."""
    for path, content in before.items():
        if content is None:
            path.unlink(missing_ok=True)
        else:
            atomic_write(path, content)


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write plain arrays as .npz, in one step and the same bytes for the same arrays; objects, which would be pickled, are refused."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, np.ascontiguousarray(array), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), content.getvalue(), zipfile.ZIP_DEFLATED)  # dated 1980, always
    atomic_write(path, buffer.getvalue())


def read_arrays(path: Path, checksum: Any, hint: str) -> dict[str, NDArray[Any]]:
    """Read the arrays of a .npz of ours; nothing in it is ever unpickled.

    Raises
    ------
    MissingFileError, FormatError
        It is not there; it is damaged, or not the file that `checksum` (see `atomic.digest`) was made of.
    """
    if not path.is_file():
        raise MissingFileError(f"{path} is missing.", hint)
    if digest(path) != checksum:
        raise FormatError(f"{path} is not as it was saved: its checksum differs.", hint)
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise FormatError(f"{path} is damaged ({type(error).__name__}: {error}).", hint) from error


def read_json(path: Path, version: int, hint: str) -> dict[str, Any]:
    """Read a JSON document of ours and check its format version.

    Raises
    ------
    FormatError
        It is damaged, or of another version than `version`.
    """
    try:
        document = json.loads(path.read_bytes())
        found = document["format_version"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise FormatError(f"{path} is damaged ({type(error).__name__}: {error}).", hint) from error
    if found != version:
        raise FormatError(f"{path} has format version {found}; this is actsort for version {version}.", f"Update actsort. {hint}")
    return dict(document)


# ---- read from elsewhere


def read_many(paths: Sequence[Path | str], plugins: Plugins | None = None) -> Examples:
    """Read several (see `read_examples`) and put them together; a file given twice, or with its labels file, counts once."""
    found: dict[str, Examples] = {}
    for path in paths:
        one = read_examples(path, plugins)
        found[one.source] = one
    return concatenate(list(found.values()))


def read_examples(path: Path | str, plugins: Plugins | None = None) -> Examples:
    """Read labelled candidates from another session, a saved model, ActSort for MATLAB or an annotated recording.

    Parameters
    ----------
    path
        A session's folder or the result it belongs to; a saved model's folder; ActSort's precomputed ``.mat`` (its ``_LABELS.mat``
        beside it) or the labels file; an annotated recording (``.mat``, ``.csv``, ``.npz``: the majority of the annotators, ties
        dropped).
    plugins
        Plug-ins already loaded.

    Raises
    ------
    MissingFileError, FormatError, UsageError
        Nothing is there, it is none of these, or nobody labelled anything in it.
    """
    path = Path(path)
    if not path.exists():
        raise MissingFileError(f"{path} does not exist.", "Pass an earlier session, a saved model, or an ActSort .mat file.")
    if path.suffix.lower() in (".csv", ".npz", ".mat") and path.name not in ("model.npz", ARRAYS) and not _has_session(path):
        return _from_file(path, plugins)
    from actsort_core import models

    if (folder := models.find_model(path)) is not None and not _has_session(path):
        return models.load_model(folder).examples_or_error()
    if not _has_session(path):
        inside = sorted({found.parent.parent.name for found in path.glob("*/actsort/session.json")}) if path.is_dir() else []
        raise UsageError(
            f"{path} holds nothing to start from.",
            f"Its recordings have sessions of their own: pass {', '.join(inside)} in it."
            if inside
            else "Pass an earlier session (or the result it was started on), a saved model, an ActSort precomputed .mat with its "
            "_LABELS.mat beside it, or an annotated recording (.mat, .csv, .npz).",
        )
    return _from_session(store.find_folder(path), plugins)


def _has_session(path: Path) -> bool:
    try:
        store.find_folder(path)
    except MissingFileError:
        return False
    return True


def _from_file(path: Path, plugins: Plugins | None) -> Examples:
    if path.suffix.lower() == ".mat":
        from actsort_core import warm_matlab

        if (found := warm_matlab.read_labelled(path, plugins)) is not None:
            return found
    from actsort_core import annotated

    examples = annotated.read_annotated(path, plugins).examples()
    if not len(examples):
        raise UsageError(f"Nobody labelled anything in {path}, or the annotators never agree.", "Leave it out.")
    return examples


def _from_session(folder: Path, plugins: Plugins | None) -> Examples:
    from actsort_core import models, opening

    try:
        opened = opening.open(session=folder, plugins=plugins or (), read_only=True, refit_wait=0, prepare=False)
    except ActsortError as error:
        if (saved := models.find_model(folder)) is not None:  # as it was at the last write: needs no other file
            return models.load_model(saved).examples_or_error()
        raise UsageError(
            f"The session {folder} cannot be opened for a warm start: {error.what}",
            "Put the result back where it was, or save a model from that session (actsort model SESSION), which needs no other file.",
        ) from error
    with opened:
        return session_examples(opened)


def session_examples(session: Session) -> Examples:
    """The labelled candidates of an open session as examples (unsure ones left out).

    Raises
    ------
    UsageError
        It has no label that says cell or not cell.
    """
    x_names, x, versions = session_features(session)
    counts = {CELL: 1, NOT_CELL: 0}
    row = {candidate: i for i, candidate in enumerate(session.candidates)}
    pairs = [(row[label.candidate], counts[k]) for label in session.labels() if (k := session.options.kind(label.value)) in counts]
    if not pairs:
        raise UsageError(f"Nobody labelled anything in {session.folder}.", "Label a few candidates there first: actsort sort.")
    rows, y = np.array(pairs, np.int64).T
    return Examples(str(session.folder), x_names, versions, x[rows], y.astype(np.int8))


def session_features(session: Session) -> tuple[tuple[str, ...], NDArray[np.float32], dict[str, int | None]]:
    """What an open session learns from: names, scaled features of all candidates, versions by name."""
    x = session._matrix()
    known: dict[str, int | None] = {}
    for key in session.recordings:
        table = session.features(key)
        known.update(zip(table.names, table.versions, strict=True))
    # A term that was added to few features is of its feature's version.
    return session.feature_names, x, {name: known.get(name, known.get(expand.feature_of(name))) for name in session.feature_names}
