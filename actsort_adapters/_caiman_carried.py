"""What CaImAn has no place for and a converted result keeps all the same: the group ``/actsort`` beside ``/estimates``.

``load_CNMF`` makes a dictionary of it (``cnm.actsort``), ``cnm.save`` writes it back, and no step of CaImAn looks at it. Because CaImAn
may drop, reorder or refit components in between, values go with the fingerprint of their candidate, never with its position.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actsort_adapters import _hdf5
from actsort_core.errors import FormatError
from actsort_core.model import Prior, Recording

GROUP = "actsort"
_LONGEST = 200  # characters of a kind of traces
_MOST = 1000  # entries looked at
_UNSTORABLE = str.maketrans("/\0", "__")  # what the name of an HDF5 dataset cannot hold


def write(
    file: Any,
    recording: Recording,
    metrics: Mapping[str, NDArray[np.float64]],
    images: Mapping[str, NDArray[np.float32]],
    prior: Prior,
) -> None:
    """Add ``/actsort`` to an open file; the fields and their shapes are those of `Recording`, `prior` as it will be read again,
    with what a model put into the two lists as `person`.
    """
    group = file.create_group(GROUP)
    group.attrs["trace_kind"] = recording.trace_kind
    group["fingerprints"] = np.array(recording.candidate_fingerprints, "S16")
    if not np.isnan(prior.probability).all():
        group["probability"] = np.where(np.isnan(prior.probability), -1.0, prior.probability)  # CaImAn up to 1.11.3 refuses to save NaN
    group["verdict"] = prior.verdict.astype(np.int64)  # nor can it save int8
    if prior.person is not None:
        group["lists"] = prior.person.astype(np.int64)
    for kind, entries in (("metrics", metrics), ("images", images)):
        below = group.create_group(kind)
        for name, values in entries.items():
            stored = name.translate(_UNSTORABLE) if name.strip(".") else "_"
            while stored in below:
                stored += "_"
            below[stored] = values


def add(recording: Recording, file: Any) -> Recording:
    """`recording` with what ``/actsort`` of its open file keeps for these candidates."""
    try:
        group = _hdf5.group(file, GROUP)
        return recording if group is None else _with(recording, group)
    except FormatError as error:  # a bad extra must not keep a file shut
        return replace(recording, notes=(*recording.notes, f"What the conversion kept in /{GROUP} is left out: {error.what}"))


def _with(recording: Recording, group: Any) -> Recording:
    prints = _hdf5.array(group, "fingerprints", "S")
    if prints is None or prints.ndim != 1:
        return recording
    order, known = _positions([p.decode("ascii", "replace") for p in prints.tolist()], recording.candidate_fingerprints)

    def column(values: NDArray[Any] | None) -> NDArray[np.float64] | None:
        """Values of the candidates that are there now: ``(n_cells,)``, NaN where they are not known."""
        if values is None or values.shape != prints.shape:
            return None
        return np.where(known, values[order] if len(values) else np.nan, np.nan).astype(np.float64)

    prior = recording.prior
    chance, verdict, lists = (column(_hdf5.array(group, name)) for name in ("probability", "verdict", "lists"))
    if chance is not None and verdict is not None:
        # Where CaImAn, or a person in it, decided otherwise since, the probability is not that of this verdict.
        stands = (chance >= 0) & (chance <= 1) & ((prior.verdict == 0) | (prior.verdict == verdict))
        prior = replace(prior, probability=np.where(stands, chance, np.nan))
    if lists is not None and prior.person is not None:  # what the conversion wrote into the lists is not what a person said in the GUI
        prior = replace(prior, person=np.where(prior.person == lists, 0, prior.person).astype(np.int8))
    metrics, images = dict(recording.metrics), dict(recording.images)
    for name in _names(group, "metrics"):
        values = column(_hdf5.array(group, f"metrics/{name}"))
        if values is not None:
            metrics.setdefault(name, values)
    for name in _names(group, "images"):
        image = _hdf5.array(group, f"images/{name}")
        if image is not None and image.shape == recording.fov:
            with np.errstate(over="ignore"):
                images.setdefault(name, image.astype(np.float32))
    kind = _hdf5.text(group, "trace_kind")
    if kind is None or len(kind) > _LONGEST or not known.all() or recording.trace_kind != "C+YrA":
        kind = recording.trace_kind
    notes = recording.notes
    if missing := int((~known).sum()):
        notes += (f"{missing} candidates changed since the conversion: the probabilities and statistics kept for them are left out.",)
    return replace(recording, metrics=metrics, images=images, prior=prior, trace_kind=kind, notes=notes)


def _positions(kept: list[str], now: tuple[str, ...]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """For each candidate that is there now: where its values are, and whether they are known."""
    if tuple(kept) == now:
        return np.arange(len(now)), np.ones(len(now), bool)
    twice = {p for group in (kept, now) for p in _repeated(group)}  # which of two equal ones it is nobody can tell
    place = {p: i for i, p in enumerate(kept) if p not in twice}
    found = np.array([place.get(p, -1) for p in now], np.int64)
    return np.maximum(found, 0), found >= 0


def _repeated(prints: list[str] | tuple[str, ...]) -> set[str]:
    seen: set[str] = set()
    return {p for p in prints if p in seen or seen.add(p)}  # type: ignore[func-returns-value]


def _names(group: Any, kind: str) -> list[str]:
    below = _hdf5.group(group, kind)
    return [] if below is None else [name.decode("utf-8", "replace") for name, _ in zip(below.id, range(_MOST), strict=False)]
