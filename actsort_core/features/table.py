"""The feature table of a recording: computed in blocks, cached by content."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from actsort_core import movies
from actsort_core.atomic import atomic_write_json, commit, staged
from actsort_core.blocks import Accumulator, Execution, run
from actsort_core.errors import ActsortError, PluginError, UnknownNameError, WriteError
from actsort_core.events import EventFrames, EventReader
from actsort_core.features import Feature, FeatureGroup
from actsort_core.features._shared import row_blocks
from actsort_core.features.movie import MovieReader
from actsort_core.model import Movie, Recording, TraceArray

Progress = Callable[[str, int, int], None]
# Measured on the project's simulated recordings: benchmarks/movie_labels.py, docs/features.md
WITHOUT_MOVIE = "On simulated recordings 20 labels with the movie are worth about 40 without."


@dataclass(frozen=True, eq=False)
class FeatureTable:
    """Features of one recording.

    Attributes
    ----------
    names
        Column names.
    versions
        Version of each column's definition.
    values
        ``(n_cells, n_features)`` float32; NaN = missing.
    """

    names: tuple[str, ...]
    versions: tuple[int, ...]
    values: NDArray[np.float32]

    def missing(self) -> dict[str, int]:
        """How many candidates lack a feature, for those that some lack."""
        counts = (~np.isfinite(self.values)).sum(axis=0)
        return {name: int(n) for name, n in zip(self.names, counts, strict=True) if n}


# Named sets of groups: the 46 published features that need no movie, 1 to 46; all 76.
SETS: Mapping[str, tuple[str, ...]] = {
    "actsort46": ("published_trace", "published_footprint"),
    "actsort76": ("published_trace", "published_footprint", "movie_contamination", "movie_neighbours", "movie_match"),
}


def select(groups: Mapping[str, FeatureGroup], names: Sequence[str] | None) -> tuple[FeatureGroup, ...]:
    """The groups the user asked for: None for the defaults, names to choose, ``+name`` / ``-name`` to change the defaults.

    A name is that of a group, of a set (`SETS`), or of a single feature (``trace.log_snr``), for which its group is narrowed. By default
    groups come with their features that are used by default, a group that is named with all.

    Raises
    ------
    UnknownNameError
        No such group or feature, or nothing is left.
    """
    chosen = {name: _by_default(group) for name, group in groups.items() if group.default}
    if names is None:
        return tuple(chosen.values())
    asked = [(sign, part) for sign, name in map(_signed, names) for part in SETS.get(name, (name,))]
    if any(not sign for sign, _ in asked):
        chosen = {}
    for sign, name in asked:
        group, single = _find(groups, name)
        present = chosen.get(group.name)
        if sign == "-":
            chosen.pop(group.name, None)
            if single and present:
                chosen[group.name] = _narrowed(present, lambda column, name=name: column != name)  # type: ignore[misc]
        elif not single:
            chosen[group.name] = group
        elif present is None or name not in {feature.name for feature in present.features}:
            kept = {name, *(feature.name for feature in present.features)} if present else {name}
            chosen[group.name] = _narrowed(group, kept.__contains__)
    out = tuple(group for group in chosen.values() if group.features)
    if not out:
        raise UnknownNameError("No feature is left to learn from.", f"Groups: {', '.join(groups)}.")
    return out


def _find(groups: Mapping[str, FeatureGroup], name: str) -> tuple[FeatureGroup, bool]:
    """The group of that name, or the one that has the feature of that name (then True)."""
    if "." in name:
        for group in groups.values():
            announced = any(feature.name == name for feature in group.features)
            if announced or (group.open_ended and name.startswith(f"{group.name}.")):
                return group, True
        near = difflib.get_close_matches(name, [feature.name for group in groups.values() for feature in group.features], 1)
        raise UnknownNameError(f"There is no feature {name!r}.", f"Did you mean {near[0]!r}?" if near else "See: actsort plugins.")
    return groups[name], False


def _by_default(group: FeatureGroup) -> FeatureGroup:
    """`group` with the columns that are used when nobody named it."""
    usual = {feature.name for feature in group.features if feature.default}
    return group if group.open_ended or len(usual) == len(group.features) else _narrowed(group, usual.__contains__)


def _narrowed(group: FeatureGroup, keep: Callable[[str], bool]) -> FeatureGroup:
    """`group` with only those columns."""

    def compute(recording: Recording) -> Mapping[str, NDArray[np.float32]]:
        return {name: values for name, values in group.compute(recording).items() if keep(name)}

    return replace(group, features=tuple(feature for feature in group.features if keep(feature.name)), compute=compute)


def _signed(name: str) -> tuple[str, str]:
    return (name[0], name[1:]) if name[:1] in ("+", "-") else ("", name)


class _Watched:
    """A trace source that tells how far it was read."""

    def __init__(self, traces: TraceArray, tell: Callable[[int, int], None]) -> None:
        self._traces, self._tell = traces, tell
        self.shape = traces.shape

    def __getitem__(self, rows: slice) -> NDArray[np.float32]:
        block = np.asarray(self._traces[rows], np.float32)
        self._tell(rows.indices(self.shape[0])[1], self.shape[0])
        return block


def compute_table(
    recording: Recording,
    groups: Sequence[FeatureGroup],
    progress: Progress | None = None,
    movie: Movie | None = None,
    execution: Execution | None = None,
    folder: Path | None = None,
    also: Sequence[EventReader] = (),
) -> FeatureTable:
    """Compute all `groups`.

    Parameters
    ----------
    recording
        What to describe.
    groups
        Which evidence. Groups that need a movie the recording lacks are left out.
    progress
        Called with the name of what is computed, how much is done and of how much.
    movie
        The recording's, if it is open already; by default the one at its ``movie_path`` is opened. Read once, for all groups together.
    execution
        Who works on the movie, and with how much memory.
    folder
        Where to keep what is done of the movie, so that it can be gone on with after an interruption.
    also
        What else shall see the frames of the events as they pass (`events.EventReader`): the clips.

    Raises
    ------
    PluginError
        A group failed, or returned columns of another length or names it did not announce.
    MissingFileError, FormatError
        The movie is not there any more, cannot be read, or does not fit.
    """
    tell = progress or (lambda name, done, total: None)
    columns: dict[str, NDArray[np.float32]] = {}
    announced = {feature.name: feature for group in groups for feature in group.features}
    if movie is None and (also or any(group.accumulate is not None for group in groups)):
        movie = movies.movie_of(recording)
    passing = [group for group in groups if group.accumulate is not None] if movie is not None else []
    found_passing = _in_one_pass(recording, movie, passing, tell, execution, folder, also) if movie is not None else {}
    for group in groups:
        if movie is None and (group.accumulate is not None or ("movie" in group.needs and recording.movie_path is None)):
            continue
        try:
            with np.errstate(all="ignore"):
                if group.accumulate is not None:
                    found = _checked(group, found_passing[group.name], recording.n_cells)
                else:
                    tell(f"{group.name} features", 0, recording.n_cells)
                    watched = replace(recording, traces=_Watched(recording.traces, partial(tell, f"{group.name} features")))
                    found = _checked(group, group.compute(watched), recording.n_cells)
        except ActsortError:
            raise
        except Exception as error:
            raise PluginError(
                f"Feature group {group.name!r} failed on {recording.path} ({type(error).__name__}: {error}).",
                f"Leave it out with --features=-{group.name}.",
            ) from error
        twice = sorted(columns.keys() & found.keys())
        if twice:
            raise PluginError(f"Feature group {group.name!r} computes {twice[0]!r}, as another group does.", "Rename one of them.")
        columns.update(found)
        tell(f"{group.name} features", recording.n_cells, recording.n_cells)
    names = tuple(sorted(columns))
    values = np.column_stack([columns[n] for n in names]) if names else np.zeros((recording.n_cells, 0), np.float32)
    versions = tuple(announced[n].version if n in announced else 1 for n in names)
    return FeatureTable(names, versions, values.astype(np.float32, copy=False))


def _in_one_pass(
    recording: Recording,
    movie: Movie,
    groups: Sequence[FeatureGroup],
    tell: Progress,
    execution: Execution | None,
    folder: Path | None,
    also: Sequence[EventReader],
) -> dict[str, Mapping[str, NDArray[np.float32]]]:
    """Columns of all groups that look at the movie, by group; those that look at events share the frames that are cut out."""
    readers: dict[str, EventReader] = {reader.name: reader for reader in also}
    others: list[Accumulator] = []
    wants: dict[str, str] = {}  # reader of each group that looks at events
    together = [reader for group in groups if isinstance(group.accumulate, EventFrames) for reader in group.accumulate.readers]
    mine = MovieReader(tuple(part for reader in together if isinstance(reader, MovieReader) for part in reader.groups))
    for group in groups:
        assert group.accumulate is not None
        if not isinstance(group.accumulate, EventFrames):
            others.append(group.accumulate)
            continue
        (reader,) = group.accumulate.readers
        reader = mine if isinstance(reader, MovieReader) else reader  # they have most of their work in common
        readers[reader.name], wants[group.name] = reader, reader.name
    accumulators = [*others, *([EventFrames(tuple(readers.values()))] if readers else [])]
    if not accumulators:
        return {}
    key = content_key(recording, groups) + movies.signature(movie) if folder is not None else ""
    try:
        found = run(recording, movie, accumulators, execution, folder, key, tell)
    except (ActsortError, OSError, MemoryError):
        raise
    except Exception as error:
        names = ", ".join(group.name for group in groups)
        raise PluginError(
            f"What is computed from the movie failed on {recording.path} ({type(error).__name__}: {error}).",
            f"These look at it: {names}. Leave them out with --features=-NAME, or work without it: --movie none.",
        ) from error
    out = {}
    for group in groups:
        assert group.accumulate is not None
        columns = found["events"][wants[group.name]] if group.name in wants else found[group.accumulate.name]
        kept = {feature.name for feature in group.features}
        out[group.name] = columns if group.open_ended else {name: values for name, values in columns.items() if name in kept}
    return out


def _checked(group: FeatureGroup, found: Mapping[str, NDArray[np.float32]], n: int) -> dict[str, NDArray[np.float32]]:
    known = {feature.name for feature in group.features}
    out = {}
    for name, values in found.items():
        array = np.asarray(values)
        if array.shape != (n,):
            raise PluginError(f"Feature {name!r} of group {group.name!r} has shape {array.shape} for {n} candidates.", "Mend the plug-in.")
        if name not in known and not group.open_ended:
            raise PluginError(f"Group {group.name!r} computed {name!r}, which it does not announce.", "Mend the plug-in.")
        with np.errstate(all="ignore"):
            array = array.astype(np.float32)
        out[name] = np.where(np.isfinite(array), array, np.float32(np.nan))
    return out


def content_key(recording: Recording, groups: Sequence[FeatureGroup]) -> str:
    """What a cached table depends on: footprints in order, traces, host statistics, prior, and the groups' versions."""
    hasher = hashlib.blake2b(digest_size=16)
    hasher.update("|".join(recording.candidate_fingerprints).encode())
    hasher.update(repr((recording.fov, recording.fps, tuple(recording.traces.shape))).encode())
    for rows in row_blocks(recording.n_cells, recording.n_frames):
        hasher.update(np.ascontiguousarray(recording.traces[rows], "<f4").tobytes())
    for name in sorted(recording.metrics):
        hasher.update(name.encode() + np.ascontiguousarray(recording.metrics[name], "<f8").tobytes())
    hasher.update(recording.prior.verdict.tobytes() + np.ascontiguousarray(recording.prior.probability, "<f8").tobytes())
    for group in groups:
        hasher.update(repr((group.name, [(f.name, f.version) for f in group.features])).encode())
    return hasher.hexdigest()


def cached_table(
    recording: Recording,
    groups: Sequence[FeatureGroup],
    stem: Path | None,
    progress: Progress | None = None,
    execution: Execution | None = None,
    also: Sequence[EventReader] = (),
    again: bool = True,
) -> FeatureTable:
    """`compute_table`, kept as ``<stem>.npy`` + ``<stem>.json``; any cache that does not fit exactly is computed anew.

    What was computed from a movie stays in use where the movie is not (on another machine); with another movie it is computed anew. A pass
    over the movie that was interrupted is gone on with (``<stem>.pass``).

    Parameters
    ----------
    recording, groups, progress, execution
        As for `compute_table`.
    stem
        Where to keep it; None to keep nothing. A cache that cannot be written is no error: it can be had again.
    also
        As for `compute_table`.
    again
        Whether the movie shall be read for `also` alone, if the table is there.
    """
    if stem is None:
        return compute_table(recording, groups, progress, execution=execution, also=also)
    movie, problem = None, None
    if also or any(group.accumulate is not None for group in groups):
        try:
            movie = movies.movie_of(recording)
        except ActsortError as error:
            problem = error
    seen = "" if movie is None else movies.signature(movie)
    key = content_key(recording, groups)
    array, index = stem.with_name(stem.name + ".npy"), stem.with_name(stem.name + ".json")
    folder = stem.with_name(stem.name + ".pass") if movie is not None and _can_be_made(stem.parent) else None
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError, EOFError):  # whatever a damaged cache raises
        stored = json.loads(index.read_text())
        if stored["key"] == key and (movie is None or stored.get("movie", "") == seen):
            values = np.load(array, allow_pickle=False)
            if values.shape == (recording.n_cells, len(stored["names"])) and values.dtype == np.float32:
                if also and again and movie is not None:
                    compute_table(recording, (), progress, movie, execution, folder, also)
                return FeatureTable(tuple(stored["names"]), tuple(stored["versions"]), values)
    if problem is not None:
        raise problem
    table = compute_table(recording, groups, progress, movie, execution, folder, also)
    with contextlib.suppress(OSError, WriteError):
        stem.parent.mkdir(parents=True, exist_ok=True)
        index.unlink(missing_ok=True)  # never an index beside an array of another content
        with staged(array) as tmp:
            with tmp.open("wb") as handle:
                np.save(handle, table.values)
            commit(tmp, array)
        atomic_write_json(index, {"key": key, "movie": seen, "names": table.names, "versions": table.versions})
    return table


def _can_be_made(folder: Path) -> bool:
    """Whether files can be put into `folder`, which is made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def without_movie(groups: Sequence[FeatureGroup], table: FeatureTable) -> str:
    """What a recording without a movie lacks of the evidence that was asked for, and what that costs; empty where it lacks nothing."""
    lacking = [group for group in groups if "movie" in group.needs and not {f.name for f in group.features} & set(table.names)]
    if not lacking:
        return ""
    n = sum(len(group.features) for group in lacking)
    return (
        f"There is no movie, so {n} features are missing ({', '.join(group.name for group in lacking)}). {WITHOUT_MOVIE} "
        "Say where the movie is with --movie PATH."
    )


def describe(feature: Feature) -> dict[str, str | int | None]:
    """A feature as ``actsort plugins --json`` shows it."""
    return {
        "name": feature.name,
        "unit": feature.unit,
        "version": feature.version,
        "published": feature.published,
        "description": feature.description,
    }
