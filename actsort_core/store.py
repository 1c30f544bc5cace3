"""A session on disk: where its folder is, and ``session.json``: what it is about and how it was set up."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from actsort_core.atomic import atomic_write_json, digest
from actsort_core.conversions import CONVERSION, without_ours
from actsort_core.errors import ActsortError, FormatError, MissingFileError, UsageError, WriteError
from actsort_core.journal import FILE, Journal, decode, now
from actsort_core.model import CELL, LABEL_CLASSES, NOT_CELL, UNSURE, Prior, Recording

FORMAT_VERSION = 1
DOCUMENT = "session.json"
CLIPS = "clips.h5"
THRESHOLDS: Mapping[str, float | None] = {"pi": None, "app": 0.5, "paper": 0.65}  # by name: ours, ActSort's app, the NeurIPS 2024 paper
CONSENSUS = ("latest", "majority", "dawid_skene")  # whose label counts where several people labelled a candidate
RULES = ("favour-precision", "favour-recall", "match-labels")  # see `operating.RULES`
_VERDICTS = {1: "+", -1: "-", 0: "0"}
_ANSWERS: Mapping[Any, str] = {True: CELL, False: NOT_CELL, None: UNSURE}  # 1 and 0 are equal to True and False


@dataclass(frozen=True)
class Options:
    """How a session asks, learns and decides; kept in ``session.json``.

    Attributes
    ----------
    seed
        Of the random order.
    strategy, classifier
        Registered names.
    features
        Chosen feature groups (see `features.table.select`), None for the defaults.
    threshold
        Probability above which a candidate is a cell; a rule (`operating.RULES`); None for pi, the estimated share of cells.
    classes
        A lab's own classes: what each counts as for the model and the files, ``"cell"``, ``"not_cell"`` or ``"unsure"``.
    consensus
        Whose label counts where several people labelled a candidate: one of `CONSENSUS` (see `people.in_force`).
    audits
        Whether some questions are drawn at random, so that the quality of the sorting can be estimated honestly; None: in sessions
        of a thousand candidates or more.
    movies
        Movies a person named, by recording: ``path``, and ``relative`` to the session's folder; an empty path for none. Recordings that
        are not in it have the movie that is found (`movies.find_movie`).
    """

    seed: int = 0
    strategy: str = "balanced_pi"
    classifier: str = "l1_adaptive"
    features: tuple[str, ...] | None = None
    threshold: float | str | None = None
    classes: Mapping[str, str] = field(default_factory=dict)
    consensus: str = "latest"
    audits: bool | None = None
    movies: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.consensus not in CONSENSUS:
            raise UsageError(f"{self.consensus!r} is no consensus.", f"Known: {', '.join(CONSENSUS)}.")

    @property
    def known_classes(self) -> tuple[str, ...]:
        """What a label may be: ours and the lab's own."""
        return (*LABEL_CLASSES, *self.classes)

    def class_of(self, value: Any) -> str:
        """The class meant by an answer: a class, or True / 1, False / 0, None.

        Raises
        ------
        UsageError
            It is none of these.
        """
        if isinstance(value, np.generic):
            value = value.item()
        with contextlib.suppress(TypeError):  # what has no hash is no answer
            if not isinstance(value, str) and value in _ANSWERS:
                return _ANSWERS[value]
        if isinstance(value, str) and value in self.known_classes:
            return value
        raise UsageError(f"{value!r} is no class.", f"Known: {', '.join(self.known_classes)} (or True, False, None).")

    def kind(self, name: str) -> str:
        """What a class counts as: cell, not_cell or unsure."""
        return name if name in LABEL_CLASSES else self.classes[name]


@dataclass(frozen=True, eq=False)
class Gone:
    """Candidates of a recording that a session knew and that are no longer in the result.

    Attributes
    ----------
    candidates
        Their fingerprints.
    prior
        The host's verdicts on them, as they were first seen.
    """

    candidates: tuple[str, ...] = ()
    prior: Prior = field(default_factory=lambda: Prior.undecided(0))


@dataclass(frozen=True, eq=False)
class Source:
    """One path the user opened and what was found there.

    Attributes
    ----------
    path
        As given.
    format
        Name of its format.
    recordings
        By their keys in the session, in the order the format gave them.
    gone
        By recording, candidates that were there once (see `reattach`).
    """

    path: Path
    format: str
    recordings: Mapping[str, Recording]
    gone: Mapping[str, Gone] = field(default_factory=dict)


def default_folder(path: Path) -> Path:
    """Where the session of `path` lives: ``<folder>/actsort`` in a result folder, ``<file>.actsort`` beside a result file.

    Never beside a plane folder: Suite2p takes every folder whose name starts with ``plane`` for a plane. But beside a folder of zarr
    stores: Minian's ``open_minian`` takes every folder in it for a store.
    """
    inside = path.is_dir() and not (path / ".zgroup").exists() and next(path.glob("*/.zgroup"), None) is None
    return path / "actsort" if inside else path.with_name(path.name + ".actsort")


def _fallback_folder(path: Path) -> Path:
    """Where the session of a result in a read-only place lives: in the working folder, told apart by the result's full path."""
    full = path.resolve()
    return Path.cwd() / f"{full.name}-{hashlib.blake2b(str(full).encode('utf-8', 'replace'), digest_size=4).hexdigest()}.actsort"


def choose_folder(path: Path) -> tuple[Path, str]:
    """The default folder of `path`, or, where that is read-only, one in the working folder; and a note saying so."""
    folder = default_folder(path.absolute())
    if folder.is_dir() or os.access(folder.parent, os.W_OK):
        return folder, ""
    elsewhere = _fallback_folder(path)
    return elsewhere, f"{folder.parent} is read-only; the session is kept in {elsewhere}."


def is_session(path: Path) -> bool:
    """Whether `path` is a session's folder."""
    try:
        return (path / DOCUMENT).is_file()
    except OSError:  # a folder that may not be looked into
        return False


def find_folder(path: Path) -> Path:
    """The session a person means by `path`: the session's folder itself, or a result that was opened with it.

    A session nearby that is about something else is never taken: what it says would be written into files nobody named.

    Raises
    ------
    MissingFileError
        There is no such path, or no session of it.
    """
    if is_session(path):
        return path
    if not path.exists():
        raise MissingFileError(f"{path} does not exist.", "Pass a session's folder, or the result it was started with.")
    if is_session(own := default_folder(path)):
        return own
    inside = (
        sorted({found.parent for pattern in ("*", "*/*") for found in path.glob(f"{pattern}/actsort/{DOCUMENT}")}) if path.is_dir() else []
    )
    for folder in (path.parent / "actsort", _fallback_folder(path), *inside):
        if is_session(folder) and any(stored.resolve() == path.resolve() for stored, _ in stored_paths(read_document(folder), folder)):
            return folder
    near = f"There are sessions inside: {', '.join(map(str, inside))}." if inside else f"Start one with: actsort sort {path}"
    raise MissingFileError(f"There is no session of {path}.", near)


def keyed(found: Sequence[tuple[Path, str, Sequence[Recording]]]) -> tuple[Source, ...]:
    """Give every recording a key of its own: its name, or, where names repeat, its path below the common folder.

    Raises
    ------
    UsageError
        The same recording was given twice.
    """
    paths = [recording.path.resolve() for _, _, recordings in found for recording in recordings]
    names = [recording.name for _, _, recordings in found for recording in recordings]
    seen: set[tuple[Path, str]] = set()
    for path, name in zip(paths, names, strict=True):
        if (path, name) in seen:
            raise UsageError(f"{path} was given twice.", "Pass each result once.")
        seen.add((path, name))
    if len(set(names)) < len(names):
        root = Path(os.path.commonpath([path.parent for path in paths]))
        names = [path.relative_to(root).as_posix() for path in paths]
        names = [name if names.count(name) == 1 else f"{name}#{names[:i].count(name) + 1}" for i, name in enumerate(names)]
    keys = iter(names)
    return tuple(Source(path, fmt, {next(keys): recording for recording in recordings}) for path, fmt, recordings in found)


def _prior_entry(prior: Prior) -> dict[str, Any]:
    return {
        "verdict": "".join(_VERDICTS[int(v)] for v in prior.verdict),
        "probability": [None if np.isnan(p) else float(p) for p in prior.probability],
    }


def prior_of(entry: Mapping[str, Any]) -> Prior:
    """Verdicts as a session document has them."""
    signs = {sign: value for value, sign in _VERDICTS.items()}
    return Prior(
        np.array([signs[sign] for sign in entry["verdict"]], np.int8),
        np.array([np.nan if p is None else p for p in entry["probability"]], np.float64),
    )


def gone_of(entry: Mapping[str, Any]) -> Gone:
    """The candidates a recording of a session document no longer holds."""
    stored = entry.get("gone")
    return Gone() if stored is None else Gone(tuple(stored["candidates"].split()), prior_of(stored["prior"]))


def gone_entry(gone: Gone) -> dict[str, Any]:
    """Inverse of `gone_of`: what to add to the document's entry of a recording."""
    return {"gone": {"candidates": " ".join(gone.candidates), "prior": _prior_entry(gone.prior)}} if gone.candidates else {}


def recordings_of(sources: Sequence[Source]) -> dict[str, Recording]:
    """All recordings by their keys."""
    return {key: recording for source in sources for key, recording in source.recordings.items()}


def write_document(folder: Path, sources: Sequence[Source], priors: Mapping[str, Prior], options: Options, created: str = "") -> None:
    """Write ``session.json``."""
    rows = []
    for source in sources:
        recordings = [
            {
                "key": key,
                "name": recording.name,
                "fingerprint": recording.fingerprint,
                "n_cells": recording.n_cells,
                "candidates": " ".join(recording.candidate_fingerprints),
                "prior": _prior_entry(priors[key]),
                **gone_entry(source.gone.get(key) or Gone()),
            }
            for key, recording in source.recordings.items()
        ]
        path = source.path.absolute()
        rows.append(
            {
                "path": str(path),
                "relative": os.path.relpath(path, folder.absolute()),
                "format": source.format,
                "recordings": recordings,
            }
        )
    document = {"format_version": FORMAT_VERSION, "created": created or now(), "options": asdict(options), "sources": rows}
    atomic_write_json(folder / DOCUMENT, document)


def read_document(folder: Path) -> dict[str, Any]:
    """Read and check ``session.json``.

    Raises
    ------
    MissingFileError, FormatError
        It is not there; it is damaged or of a newer version.
    """
    path = folder / DOCUMENT
    try:
        document = json.loads(path.read_bytes())
        version = document["format_version"]
        if version == FORMAT_VERSION:
            _check_document(document)
    except FileNotFoundError:
        raise MissingFileError(f"{folder} holds no session ({DOCUMENT} is missing).", "Start one with: actsort sort PATH") from None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise FormatError(
            f"{path} is damaged ({type(error).__name__}: {error}).",
            f"The labels are safe in {FILE}. Move {DOCUMENT} away and open the result again with --session {folder}.",
        ) from error
    if version != FORMAT_VERSION:
        raise FormatError(f"{path} has format version {version}; this is actsort for version {FORMAT_VERSION}.", "Update actsort.")
    return dict(document)


def _check_document(document: Mapping[str, Any]) -> None:
    """Meet whatever is missing in a document here, not half-way through its use."""
    for movie in stored_options(document).movies.values():
        Path(movie["path"]) / movie["relative"]
    for row in document["sources"]:
        for key in ("path", "relative", "format"):
            Path(row[key])
        for entry in row["recordings"]:
            {entry["key"], entry["name"], *entry["candidates"].split()}
            prior_of(entry["prior"])
            gone_of(entry)


def stored_options(document: Mapping[str, Any]) -> Options:
    """The options of a session document."""
    stored = dict(document["options"])
    features = stored.get("features")
    stored["features"] = None if features is None else tuple(features)
    known = set(Options.__dataclass_fields__)
    return Options(**{key: value for key, value in stored.items() if key in known})


def stored_paths(document: Mapping[str, Any], folder: Path) -> list[tuple[Path, str]]:
    """Where the sources are now: relative to the session first, so that a folder moved as a whole still works."""
    out = []
    for row in document["sources"]:
        relative = Path(os.path.normpath(folder.absolute() / row["relative"]))
        out.append((relative if relative.exists() else Path(row["path"]), str(row["format"])))
    return out


def what_differs(old: Sequence[str], new: Sequence[str]) -> str:
    """In words, how the candidates `new` differ from `old` (fingerprints in file order); empty when they do not."""
    if list(old) == list(new):
        return ""
    if len(old) != len(new):
        gone, come = len(set(old) - set(new)), len(set(new) - set(old))
        return f"it has {len(new)} candidates instead of {len(old)} ({gone} are gone, {come} are new)"
    if sorted(old) == sorted(new):
        moved = sum(a != b for a, b in zip(old, new, strict=True))
        return f"its candidates are in another order ({moved} of {len(new)} moved)"
    changed = [i for i, (a, b) in enumerate(zip(old, new, strict=True)) if a != b]
    shown = ", ".join(map(str, changed[:5])) + ("..." if len(changed) > 5 else "")
    return f"{len(changed)} of {len(new)} footprints changed (candidates {shown})"


def first_prior(source: Source, recording: Recording, own: Path) -> Prior:
    """The host's verdicts before any write of ours, for a recording opened in a new session.

    Where a session beside the result wrote the file as it is now, that session's stored prior is taken, and where a conversion wrote
    it, the prior of what it was made from: reading our own decisions back as the host's would make us learn from ourselves.
    """
    # The folder above counts: a plane may have been curated together with the others.
    paths = (source.path.absolute(), recording.path.absolute(), recording.path.absolute().parent)
    for folder in dict.fromkeys(map(default_folder, paths)):
        if folder == own.absolute() or not is_session(folder):
            continue
        try:
            document = read_document(folder)
            journal = Journal(folder, read_only=True)
        except (ActsortError, OSError):
            continue
        # The intent counts: a process killed between replacing a file and writing the receipt left our decisions there too.
        written = [file for event in journal.events if event["kind"] in ("write_started", "written") for file in event["files"]]
        ours = {file["after"] for file in written}
        # A result is a file, or a folder whose file was written: compare what is there now with what was left there.
        here = [recording.path] if recording.path.is_file() else [recording.path / Path(file["path"]).name for file in written]
        here += [folder / file["relative"] for file in written]  # deeper in it: chunks of a store
        if not any(digest(path) in ours for path in here):
            continue
        for row in document["sources"]:
            for entry in row["recordings"]:
                if entry["candidates"].split() == list(recording.candidate_fingerprints):
                    return prior_of(entry["prior"])
    return without_ours(recording, [default_folder(path) for path in paths]).prior


def remove(folder: Path) -> None:
    """Take a session without labels away again: `DOCUMENT`, journal, cache and lock; the folder itself if nothing else is in it."""
    for name in (DOCUMENT, CLIPS, FILE, "warm.npz", "warm.json", ".lock", ".softlock", "lock-owner.txt"):
        (folder / name).unlink(missing_ok=True)
    for name in ("features", "model"):
        shutil.rmtree(folder / name, ignore_errors=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


def check_free(folder: Path) -> None:
    """Make sure that a new session may be started in `folder`: it is new, empty, or holds only what is ours.

    Raises
    ------
    UsageError
        It holds something else, which must not be mixed with a session.
    """
    ours = {FILE, CONVERSION, CLIPS, "features", "backups", "model", "warm.npz", "warm.json", "curation.json"}
    ours |= {".lock", ".softlock", "lock-owner.txt"}
    try:
        found = sorted(path.name for path in folder.iterdir() if path.name not in ours and not path.name.startswith(f"{FILE}.torn-"))
        first = (folder / FILE).read_bytes().split(b"\n")[0] if (folder / FILE).is_file() else b""
    except FileNotFoundError:
        return
    except OSError as error:
        raise WriteError(f"The session folder {folder} cannot be used ({error.strerror}).", "Choose another with --session.") from error
    if first:
        try:
            decode(first)
        except ValueError:
            found.append(FILE)
    if found:
        raise UsageError(
            f"{folder} is no session and not empty (it holds {found[0]}).", "Give the session a folder of its own with --session."
        )


def parse_threshold(threshold: float | str) -> float | str | None:
    """A threshold as given.

    Parameters
    ----------
    threshold
        A probability; ``"pi"`` (None) for the estimated share of cells; a published one by its name (`THRESHOLDS`); or a rule of
        `operating.RULES`: ``"favour-precision"``, ``"favour-recall"``, ``"match-labels"``.

    Raises
    ------
    UsageError
        None of these.
    """
    if isinstance(threshold, str):
        name = threshold.strip().lower().replace("_", "-").replace(" ", "-")
        if name in THRESHOLDS:
            return THRESHOLDS[name]
        if name in RULES:
            return name
    try:
        value = float(threshold)
    except (TypeError, ValueError):
        value = -1.0
    if not 0 <= value <= 1:
        raise UsageError(
            f"{threshold!r} is no threshold.",
            "Give a probability from 0 to 1; pi for the estimated share of cells; favour-precision, favour-recall or match-labels; or a "
            "published one: app (.5), paper (.65).",
        )
    return value


def parse_labels(labels: int | str, n_cells: int) -> int:
    """A number of labels, from a number or a share of all candidates like ``"1%"`` (rounded up); at most `n_cells`.

    Raises
    ------
    UsageError
        It is neither.
    """
    try:
        if isinstance(labels, str) and labels.strip().endswith("%"):
            share = float(labels.strip()[:-1])
            number = math.ceil(round(share / 100 * n_cells, 9))
        else:
            share = number = int(labels)
    except (TypeError, ValueError, OverflowError):
        share = number = -1
    if share < 0 or not math.isfinite(share):
        raise UsageError(f"{labels!r} is no number of labels.", "Give a count like 40 or a share like 1%.")
    return min(number, n_cells)
