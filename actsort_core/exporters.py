"""Decisions in a file of their own: for ``actsort export``. A plug-in like any other (entry point ``exporters``)."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from actsort_core.atomic import atomic_write, atomic_write_json
from actsort_core.hookspecs import hookimpl
from actsort_core.journal import now
from actsort_core.model import Curation
from actsort_core.writeback import CURATION_VERSION, candidate_rows

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
        if "votes" in row:
            row["votes"] = "; ".join(f"{who}: {value}" for who, value in row["votes"].items())
    more = [name for name in ("class", "votes") if any(name in row for row in rows)]  # own classes, several people
    table = csv.DictWriter(text, [*COLUMNS, *more], restval="")
    table.writeheader()
    table.writerows(rows)
    atomic_write(path, text.getvalue().encode())


@hookimpl
def actsort_register_exporters() -> Sequence[Exporter]:
    """JSON and CSV."""
    return [
        Exporter("json", "all decisions with origin, probability, label, who and when", export_json),
        Exporter("csv", "the same as a table, one line per candidate", export_csv),
    ]
