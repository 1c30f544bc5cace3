"""What a curation of a live CaImAn object knows: every component it ever asked about, in files CaImAn could load.

``select_components`` and ``refit`` throw rejected components away, and with them half of what a person taught the model. So a folder keeps
them: ``fit1.hdf5`` holds the components of the first call; where later ones are others (a refit), ``fit2.hdf5`` holds those, and after
them what is left of ``fit1.hdf5``. Each file has its session beside it. No label is ever taken out of a journal: one that follows its
component to a later fit is recorded there again, with where it comes from.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from actsort_adapters.caiman import CaimanFormat
from actsort_core.errors import WriteError
from actsort_core.formats import read_with
from actsort_core.journal import Event, fold
from actsort_core.model import CandidateId, Prior, Recording, TraceArray
from actsort_core.session import Session

SAME = 0.9999  # cosine of two footprints that are the same but for rounding or scale, as in `importing`
SIMILAR = 0.7  # cosine from which each other's best match is the same component after a refit (measured: .83 to 1 in CaImAn 1.12)
_TIE = 1e-6  # two components as alike as this cannot be told apart
_NAME = re.compile(r"fit([1-9][0-9]*)\.hdf5")
_BLOCK = 1 << 22  # trace values compared at a time


def files(folder: Path) -> list[Path]:
    """The pools in `folder`, the latest first."""
    numbered = [(int(found[1]), path) for path in folder.glob("fit*.hdf5") if (found := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(numbered, reverse=True)]


def read(path: Path) -> Recording:
    """The components a pool holds."""
    return read_with(CaimanFormat(), path)[0]


def save(recording: Recording, path: Path) -> None:
    """Write a pool, or replace it, in one step; read again it gives the same components, evidence and verdicts.

    Raises
    ------
    WriteError
        The folder cannot be written to, or the disk is full. What was there before still is.
    """
    import h5py

    tmp = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tmp.unlink(missing_ok=True)
        CaimanFormat().create([recording], [None], tmp)
        verdict, person = recording.prior.verdict, recording.prior.person
        lists = {"idx_components": verdict > 0, "idx_components_bad": verdict < 0} if verdict.any() else {}
        if person is not None and person.any():
            lists |= {"accepted_list": person > 0, "rejected_list": person < 0}
        with h5py.File(tmp, "r+") as file:  # a new result has no undecided ones beside rejected ones; this one may
            for name, mask in lists.items():
                del file["estimates"][name]
                file["estimates"][name] = np.flatnonzero(mask).astype(np.int64)
        os.replace(tmp, path)
    except (OSError, RuntimeError) as error:
        if isinstance(error, WriteError):
            raise
        raise WriteError(f"{path} cannot be written ({error}).", "Choose another folder with session=, or make room.") from error
    finally:
        if tmp.exists():
            tmp.unlink()


# ---- which component is which


@dataclass(frozen=True, eq=False)
class Match:
    """Which of the components `old` are which of `new`.

    Attributes
    ----------
    place
        ``(n_old,)``: position in `new`, -1 where it is not there.
    how
        ``(n_old,)`` of ``"fingerprint"``, ``"footprint"`` (but for rounding), ``"overlap"`` (alike), ``""``.
    """

    place: NDArray[np.int64]
    how: NDArray[np.str_]

    def same(self) -> NDArray[np.bool_]:
        """``(n_old,)``: whether it is there unchanged."""
        return np.asarray((self.how == "fingerprint") | (self.how == "footprint"))


def locate(wanted: Sequence[str], known: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Where the components `wanted` are among `known`, by fingerprint.

    Returns
    -------
    place, clear
        ``(n_wanted,)`` each: position in `known`, -1 where it is not there; False where several have that fingerprint (empty footprints),
        and not as many are wanted as known: which of them is meant nobody can tell.
    """
    places: dict[str, list[int]] = defaultdict(list)
    for i, fingerprint in enumerate(known):
        places[fingerprint].append(i)
    counts = Counter(wanted)
    clear = np.array([len(places[p]) == counts[p] for p in wanted], bool)
    queues = {fingerprint: iter(found) for fingerprint, found in places.items()}
    return np.array([next(queues[p], -1) for p in wanted], np.int64).reshape(-1), clear


def match(old: Recording, new: Recording, apart: frozenset[str] = frozenset()) -> Match:
    """Match components by fingerprint; what is left by the cosine of their footprints, where each is the other's best.

    Components `apart` (fingerprints) were set aside before `new` was fitted: what looks like them there is something else.
    """
    place, clear = locate(old.candidate_fingerprints, new.candidate_fingerprints)
    place = np.where(clear, place, -1)
    how = np.where(place >= 0, "fingerprint", "").astype("<U11")
    if old.fov != new.fov:
        return Match(np.full(old.n_cells, -1), np.full(old.n_cells, "", "<U11"))
    prints = np.array(old.candidate_fingerprints, "<U16")
    left, free = np.flatnonzero((place < 0) & ~np.isin(prints, list(apart))), np.setdiff1d(np.arange(new.n_cells), place)
    if len(left) and len(free):
        cosine = (_unit(old.footprints[:, left]).T @ _unit(new.footprints[:, free])).tocsr()
        best, back = _best(cosine), _best(cosine.T.tocsr())
        for i, (j, value) in enumerate(best):
            if j >= 0 and value >= SIMILAR and back[j][0] == i:
                place[left[i]], how[left[i]] = free[j], "footprint" if value >= SAME else "overlap"
    return Match(place, how)


def _unit(footprints: sp.csc_matrix) -> sp.csc_matrix:
    squares = np.asarray(footprints.astype(np.float64).power(2).sum(axis=0)).ravel()
    return footprints.astype(np.float64) @ sp.diags(1 / np.sqrt(np.where(squares > 0, squares, 1)))


def _best(cosine: sp.csr_matrix) -> list[tuple[int, float]]:
    """The best column of each row; -1 where there is none, or where two are equally good."""
    out = []
    for a, b in zip(cosine.indptr[:-1], cosine.indptr[1:], strict=True):
        order = np.argsort(cosine.data[a:b])[::-1]
        values = cosine.data[a:b][order]
        unclear = not len(order) or (len(order) > 1 and values[0] - values[1] < _TIE)
        out.append((-1, 0.0) if unclear else (int(cosine.indices[a:b][order[0]]), float(values[0])))
    return out


# ---- the components of several calls together


class Rows:
    """Rows picked from several trace sources: a `TraceArray`."""

    def __init__(self, rows: Sequence[tuple[TraceArray, int]], n_frames: int) -> None:
        self._rows = rows
        self.shape: tuple[int, ...] = (len(rows), n_frames)

    def __getitem__(self, rows: slice) -> NDArray[np.float32]:
        """Some candidates: ``(n_rows, n_frames)`` float32."""
        runs: list[tuple[TraceArray, int, int]] = []  # what is side by side is read in one go: each read opens a file
        for source, i in self._rows[rows]:
            if runs and runs[-1][0] is source and runs[-1][2] == i:
                runs[-1] = (source, runs[-1][1], i + 1)
            else:
                runs.append((source, i, i + 1))
        picked = [source[start:stop] for source, start, stop in runs]
        return np.concatenate([np.zeros((0, self.shape[1]), np.float32), *picked]).astype(np.float32)


def together(parts: Sequence[tuple[Recording, NDArray[np.int64]]], priors: Sequence[Prior], name: str) -> Recording:
    """One recording of chosen components of several recordings of the same movie.

    Parameters
    ----------
    parts
        Recordings with the components to take from each; pictures, frame rate and kind of traces are those of the first.
    priors
        The verdicts on *all* components of each recording.
    name
        Of the new recording.
    """
    first = parts[0][0]
    names = dict.fromkeys(key for recording, _ in parts for key in recording.metrics)
    denoised = [(r.traces if r.denoised is None else r.denoised, int(i)) for r, chosen in parts for i in chosen]
    person = [np.zeros(r.n_cells, np.int8) if prior.person is None else prior.person for (r, _), prior in zip(parts, priors, strict=True)]
    return replace(
        first,
        name=name,
        footprints=sp.hstack([r.footprints[:, chosen] for r, chosen in parts], "csc"),
        traces=Rows([(r.traces, int(i)) for r, chosen in parts for i in chosen], first.n_frames),
        denoised=Rows(denoised, first.n_frames) if any(r.denoised is not None for r, _ in parts) else None,
        prior=Prior(
            np.concatenate([prior.verdict[chosen] for (_, chosen), prior in zip(parts, priors, strict=True)]),
            np.concatenate([prior.probability[chosen] for (_, chosen), prior in zip(parts, priors, strict=True)]),
            np.concatenate([said[chosen] for (_, chosen), said in zip(parts, person, strict=True)]),
        ),
        metrics={key: np.concatenate([_column(r, key)[chosen] for r, chosen in parts]) for key in names},
        notes=(),
    )


def _column(recording: Recording, key: str) -> NDArray[np.float64]:
    return recording.metrics.get(key, np.full(recording.n_cells, np.nan))


def differs(pool: Recording, live: Recording, place: NDArray[np.int64]) -> bool:
    """Whether the evidence in a pool is not what the live components `place` (their positions in it) have now."""
    if (live.fps or pool.fps) != pool.fps or live.n_frames != pool.n_frames or live.images.keys() - pool.images.keys():
        return True
    for key in live.metrics.keys() | (pool.metrics.keys() if len(place) == pool.n_cells else set()):
        if not np.array_equal(_column(pool, key)[place], _column(live, key), equal_nan=True):
            return True
    step = max(1, _BLOCK // max(1, pool.n_frames))
    for start in range(0, len(place), step):
        now = live.traces[start : start + step]
        stored = Rows([(pool.traces, int(i)) for i in place[start : start + step]], pool.n_frames)[:]
        if not np.array_equal(now, stored, equal_nan=True):
            return True
    return False


# ---- labels follow


def carry(target: Session, others: Sequence[Session]) -> dict[str, int]:
    """Record in `target` what people said about the same components in other fits, where it is later than what `target` knows.

    What was once taken over is not taken again: an undo here stands.

    Returns
    -------
    How many labels were taken, by how their components were matched.
    """
    ((key, recording),) = target.recordings.items()
    known = {_origin(key, event) for event in target.journal.events if event["kind"] == "label"}
    there = _in_force(target.events())
    found: dict[tuple[int, str], tuple[str, tuple[Any, ...]]] = {}
    for other in others:
        ((name, theirs),) = other.recordings.items()
        matched = match(theirs, recording)
        for (index, who), event in _in_force(other.events()).items():
            origin, said, place = _origin(name, event), _said(event), int(matched.place[index])
            if place < 0 or origin in known or origin[0] == key:
                continue
            mine, best = there.get((place, who)), found.get((place, who))
            if (mine is None or _said(mine) < said) and (best is None or best[0] < said):
                source = {"path": str(other.folder.absolute()), "kind": "caiman", "index": index, "matched": str(matched.how[index])}
                source |= {"time": said, "automatic": False, "fit": origin[0], "seq": origin[1]}
                found[place, who] = said, (CandidateId(key, place), str(event["class"]), who, "import", {"source": source})
    rows = [row for _, row in sorted(found.values(), key=lambda pair: pair[0])]
    target.record(rows)
    return dict(Counter(row[4]["source"]["matched"] for row in rows))


def _in_force(events: Sequence[dict[str, Any]]) -> dict[tuple[int, str], dict[str, Any]]:
    """By component and annotator, that annotator's latest label that was not undone."""
    out = {}
    for candidate, history in fold(events).given.items():
        for event in history:  # in order
            out[candidate.index, str(event.get("annotator", ""))] = event
    return out


def _source(event: Event) -> Mapping[str, Any]:
    found = event.get("source")
    return found if isinstance(found, Mapping) else {}


def _origin(name: str, event: Event) -> tuple[str, int]:
    """In which fit a label was given, and its number there."""
    source = _source(event)
    return (str(source["fit"]), int(source["seq"])) if "fit" in source and "seq" in source else (name, int(event["seq"]))


def _said(event: Event) -> str:
    """When a person said it: ISO 8601, UTC, so that text order is time order."""
    return str(_source(event).get("time") or event.get("time", ""))
