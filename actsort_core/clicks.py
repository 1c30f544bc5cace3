"""Which verdicts in a native file are a person's, and which the toolkit's own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from actsort_core import conversions, store
from actsort_core.errors import ActsortError
from actsort_core.journal import Journal
from actsort_core.model import Prior

WRITTEN = "curation.json"
_SAME = 1e-7  # of a probability that a toolkit saved again


@dataclass(frozen=True, eq=False)
class Baseline:
    """Verdicts as they were before a person could have changed them.

    Attributes
    ----------
    verdict
        ``(n_cells,)`` int8; 0 where it is not known.
    probability
        ``(n_cells,)`` float64 that stood beside them; NaN where there was none, or it is not known.
    ours
        Whether ActSort wrote them.
    """

    verdict: NDArray[np.int8]
    probability: NDArray[np.float64]
    ours: bool = False


@dataclass(frozen=True, eq=False)
class Clicks:
    """What people decided in a native file.

    Attributes
    ----------
    value
        ``(n_cells,)`` int8: 1 cell, -1 not a cell, 0 nobody said.
    how
        How they were told from the toolkit's verdicts, as a sentence.
    """

    value: NDArray[np.int8]
    how: str


def find(prior: Prior, baseline: Baseline | None) -> Clicks:
    """Tell a person's verdicts from the toolkit's.

    Parameters
    ----------
    prior
        What the file says now.
    baseline
        What it said before, if that is known.

    Notes
    -----
    A click in Suite2p flips column 0 of ``iscell.npy`` and leaves the probability in column 1 as the classifier wrote it
    (suite2p/gui/masks.py, `flip_plot`; observed in 0.14 and 1.1). So where the probability is still what it was, a verdict that is not what
    it was is a click. Where the probability is another one (another classifier was loaded, or ActSort wrote it), only a verdict that
    contradicts it is; and one of exactly 1 or 0, which no classifier gives but Suite2p for a drawn ROI and ActSort for a label do. Verdicts
    that all follow from one other threshold on the probability are no clicks: that is what Enter in Suite2p's box does.
    """
    verdict, p = prior.verdict, prior.probability
    nobody = np.zeros(len(verdict), np.int8)
    known = np.isfinite(p)
    against = known & (verdict != 0) & ((verdict > 0) != (p > 0.5))
    if prior.person is not None and (baseline is None or not baseline.ours):
        return Clicks(np.sign(prior.person).astype(np.int8), "the file says what people decided")
    note = ""
    firm = known & (((p == 1) & (verdict > 0)) | ((p == 0) & (verdict < 0)))
    if 2 * firm.sum() > known.sum():  # a script that repeats the verdict as probability says nothing by it
        firm[:] = False
    graded = known & (p > 0) & (p < 1) & (verdict != 0)
    low = max(p[graded & (verdict < 0)], default=0.0)
    high = min(p[graded & (verdict > 0)], default=1.0)
    count = int((against & graded).sum())
    if count > 1 and high >= low:
        note = f"; {count} verdicts follow from a threshold between {low:.3g} and {high:.3g}, which is no click"
        against &= ~graded
    if baseline is None:
        chosen = against | firm
        how = "verdicts that contradict their probability, or stand at exactly 1 or 0" if known.any() else ""
        return Clicks(np.where(chosen, verdict, nobody).astype(np.int8), how + note)
    differs = (baseline.verdict != 0) & (verdict != 0) & (verdict != baseline.verdict)
    if baseline.ours:
        person = nobody if prior.person is None else np.sign(prior.person)
        chosen = differs & ((person == verdict) | against | ~known)
        return Clicks(np.where(chosen, verdict, nobody).astype(np.int8), "verdicts changed since ActSort wrote the file" + note)
    kept = np.isclose(p, baseline.probability, rtol=0, atol=_SAME, equal_nan=True)
    chosen = (kept & differs) | (~kept & (against | firm))
    return Clicks(np.where(chosen, verdict, nobody).astype(np.int8), "verdicts changed since the result was first opened" + note)


def written_by(folder: Path) -> dict[str, int]:
    """What the session in `folder` last wrote into native files: 1 or -1 by candidate fingerprint; empty where nothing of that is left."""
    try:
        if not store.is_session(folder):
            return {}
        journal = Journal(folder, read_only=True)
        events = [event["kind"] for event in journal.events if event["kind"] in ("written", "restored", "write_undone")]
        if not events or events[-1] == "restored" or not (folder / WRITTEN).is_file():
            return {}
        document = json.loads((folder / WRITTEN).read_bytes())
        rows = [row for recording in document["recordings"] for row in recording["candidates"]]
        said = {"cell": 1, "not_cell": -1, "undecided": -1}  # a host that knows no third verdict was told "not a cell"
        return {str(row["fingerprint"]): said.get(str(row["decision"]), 0) for row in rows}
    except (ActsortError, OSError, ValueError, LookupError, TypeError, RecursionError):
        return {}


def _converted_into(folder: Path) -> dict[str, int]:
    """What a conversion wrote into the result that `folder` belongs to; empty where it was not converted."""
    try:
        rows = conversions.read(folder)["recordings"]
        return {c["fingerprint"]: int(v) for row in rows for c, v in zip(row["candidates"], row["written"]["verdict"], strict=True)}
    except (ActsortError, LookupError, TypeError, ValueError):
        return {}


def baseline_of(path: Path, prints: tuple[str, ...], own: Path | None, first: Baseline | None) -> Baseline | None:
    """What the verdicts of a result were before anybody clicked.

    Parameters
    ----------
    path
        The result.
    prints
        Fingerprints of its candidates.
    own
        Folder of the session that imports, if it is about this very result.
    first
        What that session knows from first opening it.
    """
    folders = [] if own is None else [own]
    folders += [store.default_folder(where.absolute()) for where in (path, path.parent)]
    for folder in dict.fromkeys(folders):
        wrote = written_by(folder) or _converted_into(folder)
        if wrote and any(name in wrote for name in prints):
            return Baseline(np.array([wrote.get(name, 0) for name in prints], np.int8), np.full(len(prints), np.nan), ours=True)
    return first
