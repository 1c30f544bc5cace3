"""Decisions in a file of their own: for ``actsort export``. A plug-in like any other (entry point ``exporters``)."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from actsort_core.atomic import atomic_write, atomic_write_json
from actsort_core.errors import UsageError
from actsort_core.formats import CreatingFormat
from actsort_core.hookspecs import hookimpl
from actsort_core.journal import now
from actsort_core.model import Curation, Prior, Recording, TraceArray
from actsort_core.writeback import CURATION_VERSION, candidate_rows

if TYPE_CHECKING:
    from actsort_core.session import Session

ACCEPTED = {"npz": "plain", "csv": "plain_csv"}  # what the accepted candidates alone are written as: formats by ending
_TOGETHER = 64  # rows of traces read at a time
COLUMNS = ("recording", "index", "fingerprint", "decision", "origin", "probability", "label", "annotator", "time")


@dataclass(frozen=True)
class Exporter:
    """Another way to save decisions (register it with ``actsort_register_exporters``).

    Attributes
    ----------
    name, description
        As shown by ``actsort plugins``; the name is also the file ending it is chosen by.
    export
        Called with the curations of a session and the path to write.
    """

    name: str
    description: str
    export: Callable[[Sequence[Curation], Path], None]


def export_json(curations: Sequence[Curation], path: Path) -> None:
    """All decisions as JSON, one object per candidate."""
    rows = [{"recording": c.recording, "fingerprint": c.fingerprint, "candidates": candidate_rows(c)} for c in curations]
    atomic_write_json(path, {"format_version": CURATION_VERSION, "time": now(), "recordings": rows})


def export_csv(curations: Sequence[Curation], path: Path) -> None:
    """All decisions as a table, one line per candidate; empty where there is nothing to say."""
    text = io.StringIO()
    rows = [{"recording": curation.recording, **row} for curation in curations for row in candidate_rows(curation)]
    for row in rows:
        for name in ("votes", "notes"):
            if name in row:
                row[name] = "; ".join(f"{who}: {value}" for who, value in row[name].items())
    more = [name for name in ("class", "votes", "flagged", "notes") if any(name in row for row in rows)]
    table = csv.DictWriter(text, [*COLUMNS, *more], restval="")
    table.writeheader()
    table.writerows(rows)
    atomic_write(path, text.getvalue().encode())


def check_replaceable(path: Path) -> None:
    """Refuse to save decisions over anything but an earlier export of them (or an empty file).

    Raises
    ------
    UsageError
        Something else is there: a result, a table of somebody's own.
    """
    if not os.path.lexists(path):
        return
    if path.is_file():
        with path.open("rb") as handle:
            head = handle.read(512)
        if not head or head.startswith((b'{\n "format_version": ', ",".join(COLUMNS).encode())):
            return
    raise UsageError(f"{path} exists already, and is no earlier export.", "Choose a new name: nothing is ever written over a result.")


def export_accepted(session: Session, path: Path, to: str | None = None) -> tuple[Path, ...]:
    """The accepted candidates alone, with footprints, traces, images, frame rate and their places in the original file.

    Parameters
    ----------
    session
        Whose decisions.
    path
        File (``npz``) or folder of tables (``csv``) to make; must not exist.
    to
        ``"npz"`` or ``"csv"``, as docs/formats/plain.md describes them; None: by the ending of `path`.

    Returns
    -------
    The files written.

    Raises
    ------
    UsageError
        `path` exists, or has no such ending and `to` is not given.
    """
    name = to or path.suffix.lstrip(".").lower()
    if name not in ACCEPTED and name not in ACCEPTED.values():
        raise UsageError(
            f"The accepted candidates cannot be saved as {name or path.name!r}.",
            "Choose --to npz (one file) or --to csv (a folder of tables).",
        )
    fmt = session.plugins.formats[ACCEPTED.get(name, name)]
    if not isinstance(fmt, CreatingFormat):
        raise UsageError(f"The format {fmt.name!r} cannot be written anew.", "Is another plug-in of this name installed?")
    curations = session.curations()
    chosen = [accepted_only(recording, curations[key]) for key, recording in session.recordings.items()]
    return fmt.create(chosen, [None] * len(chosen), path)


def accepted_only(recording: Recording, curation: Curation) -> Recording:
    """A recording of the accepted candidates alone; ``info["original_index"]`` says where each was."""
    index = np.flatnonzero(curation.accepted)
    origin = {"original_path": str(recording.path), "original_format": recording.format, "original_name": recording.name}
    return replace(
        recording,
        footprints=recording.footprints[:, index],
        traces=_Chosen(recording.traces, index),
        denoised=None if recording.denoised is None else _Chosen(recording.denoised, index),
        spikes=None if recording.spikes is None else _Chosen(recording.spikes, index),
        prior=Prior(np.ones(len(index), np.int8), curation.probability[index]),
        metrics={key: values[index] for key, values in recording.metrics.items()},
        info={**recording.info, **origin, "original_index": index.tolist()},
    )


class _Chosen:
    """Some rows of traces; they stay on disk."""

    def __init__(self, source: TraceArray, index: NDArray[np.int64]) -> None:
        self._source, self._index, self.shape = source, index, (len(index), int(source.shape[1]))

    def __getitem__(self, rows: slice) -> NDArray[np.float32]:
        index = self._index[rows]
        out = np.zeros((len(index), self.shape[1]), np.float32)
        for start in range(0, len(index), _TOGETHER):
            some = index[start : start + _TOGETHER]
            out[start : start + _TOGETHER] = self._source[int(some[0]) : int(some[-1]) + 1][some - some[0]]
        return out


@hookimpl
def actsort_register_exporters() -> Sequence[Exporter]:
    """JSON and CSV."""
    return [
        Exporter("json", "all decisions with origin, probability, label, who and when", export_json),
        Exporter("csv", "the same as a table, one line per candidate", export_csv),
    ]
