"""What the commands print: documents for ``--json`` and texts for people."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actsort_core.errors import UsageError
from actsort_core.features import FeatureGroup
from actsort_core.features.table import FeatureTable
from actsort_core.model import Recording
from actsort_core.oracle import balanced_accuracy
from actsort_core.quality import Quality
from actsort_core.session import Session
from actsort_core.writeback import WriteReport, interrupted


def _recording_document(recording: Recording) -> dict[str, Any]:
    return {
        "name": recording.name,
        "path": str(recording.path),
        "format": recording.format,
        "n_cells": recording.n_cells,
        "n_frames": recording.n_frames,
        "fov": list(recording.fov),
        "fps": recording.fps,
        "trace_kind": recording.trace_kind,
        "prior": recording.prior.counts(),
        "metrics": sorted(recording.metrics),
        "images": sorted(recording.images),
        "has_movie": recording.movie_path is not None,
        "movie": str(recording.movie_path) if recording.movie_path else None,
        "fingerprint": recording.fingerprint,
        "info": dict(recording.info),
        "notes": list(recording.notes),
    }


def info_document(path: Path, recordings: Sequence[Recording]) -> dict[str, Any]:
    """``actsort info --json``: one object; with several recordings a list of them, and sums at the top."""
    rows = [_recording_document(recording) for recording in recordings]
    if len(rows) == 1:
        return rows[0]
    first = rows[0]
    prior = Counter[str]()
    for row in rows:
        prior.update(row["prior"])
    together = "".join(sorted(row["fingerprint"] for row in rows))
    return {
        "name": path.name,
        "path": str(path),
        "format": first["format"],
        "n_cells": sum(row["n_cells"] for row in rows),
        "n_frames": max(row["n_frames"] for row in rows),
        "fov": first["fov"],
        "fps": first["fps"],
        "prior": dict(prior),
        "has_movie": all(row["has_movie"] for row in rows),
        "fingerprint": hashlib.blake2b(together.encode(), digest_size=8).hexdigest(),
        "recordings": rows,
    }


def info_text(document: Mapping[str, Any]) -> str:
    """``actsort info`` for people."""
    rows = document.get("recordings", [document])
    lines = [f"{document['path']}: {document['format']}, {document['n_cells']} candidates in {len(rows)} recording(s)"]
    for row in rows:
        rate = f" at {row['fps']:g} Hz" if row["fps"] else ", frame rate unknown"
        prior = row["prior"]
        lines += [
            f"{row['name']}",
            f"  candidates   {row['n_cells']}: the toolkit accepts {prior['accepted']}, rejects {prior['rejected']}, "
            f"leaves {prior['undecided']} undecided",
            f"  field        {' x '.join(map(str, row['fov']))} pixels",
            f"  traces       {row['trace_kind']}, {row['n_frames']} frames{rate}",
            f"  statistics   {', '.join(row['metrics']) or 'none'}",
            f"  movie        {row['movie'] or 'not found'}",
            f"  fingerprint  {row['fingerprint']}",
        ]
        lines += [f"  {key:<12} {value}" for key, value in row["info"].items() if value not in (None, "", [], {})]
    return "\n".join(lines)


def ordered_columns(table: FeatureTable, registered: Mapping[str, FeatureGroup]) -> list[int]:
    """Columns of a table in the order to show them: published ones by their number, then the others by name."""
    number = {feature.name: feature.published for group in registered.values() for feature in group.features}
    return sorted(range(len(table.names)), key=lambda i: (number.get(table.names[i]) or math.inf, table.names[i]))


def features_text(name: str, table: FeatureTable, registered: Mapping[str, FeatureGroup]) -> str:
    """``actsort features``: for every feature its unit, how many candidates lack it, and how its values are spread."""
    known = {feature.name: feature for group in registered.values() for feature in group.features}
    lines = [f"{name}: {len(table.values)} candidates, {len(table.names)} features", f"  {'feature':<34}{'unit':<12}{'missing':>8}"]
    lines[-1] += "".join(f"{head:>12}" for head in ("5 %", "median", "95 %"))
    for i in ordered_columns(table, registered):
        values = table.values[:, i].astype(np.float64)
        present = values[np.isfinite(values)]
        spread = np.quantile(present, [0.05, 0.5, 0.95]) if len(present) else [math.nan] * 3
        unit = known[table.names[i]].unit if table.names[i] in known else ""
        numbers = "".join(f"{v:>12.4g}" if not math.isnan(v) else f"{'':>12}" for v in spread)
        lines.append(f"  {table.names[i]:<34}{unit:<12}{len(values) - len(present):>8}{numbers}".rstrip())
    return "\n".join(lines)


def features_csv(table: FeatureTable, registered: Mapping[str, FeatureGroup]) -> bytes:
    """A table as CSV: one header line, the candidate first, numbers only (as precise as float32), empty where missing."""
    columns = ordered_columns(table, registered)
    lines = [",".join(["candidate", *(table.names[i] for i in columns)])]
    for index, row in enumerate(table.values[:, columns]):
        lines.append(",".join([str(index), *(f"{v:.9g}" if np.isfinite(v) else "" for v in row)]))
    return ("\n".join(lines) + "\n").encode()


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def quality_document(session: Session, threshold: float | str | None = None) -> dict[str, Any] | None:
    """How good the sorting is by the estimate, as shown by ``actsort quality``; None where nothing can be estimated."""
    try:
        found = session.quality(threshold)
    except UsageError:
        return None
    return stated_document(found)


def stated_document(found: Quality) -> dict[str, Any]:
    """The same of an estimate that was made already."""
    out: dict[str, Any] = {name: asdict(getattr(found, name)) for name in ("balanced_accuracy", "precision", "recall", "share", "gain")}
    out["more"] = found.more
    return {**out, "mistakes": found.mistakes, "n_labels": found.n_labels, "n_audits": found.n_audits, "notes": list(found.notes)}


def quality_text(document: Mapping[str, Any]) -> str:
    """The same for people."""
    stated = [
        f"{name.replace('_', ' ')} {document[name]['value']:.3f} ({document[name]['low']:.3f} to {document[name]['high']:.3f})"
        for name in ("balanced_accuracy", "precision", "recall")
    ]
    gain = document["gain"]
    lines = [
        f"Estimated against your own judgement, 90 % sure: {', '.join(stated)}.",
        f"{document['more']} more labels would bring about {100 * gain['value']:.1f} points of balanced accuracy "
        f"({100 * gain['low']:.1f} to {100 * gain['high']:.1f}).",
    ]
    return "\n".join([*lines, *(f"note: {note}" for note in document["notes"])])


def sort_document(session: Session, truth: NDArray[np.int8] | None, report: WriteReport | None) -> dict[str, Any]:
    """``actsort sort --json``."""
    curations = session.curations()
    accepted = np.concatenate([c.accepted for c in curations.values()])
    predictions = session.predictions()
    return {
        "labels": len(session.labels()),
        "n_cells": len(accepted),
        "accepted": int(accepted.sum()),
        "rejected": int((~accepted).sum()),
        "undecided": int(sum(c.undecided.sum() for c in curations.values())),
        "threshold": _number(predictions.threshold),
        "thresholds": dict(predictions.thresholds),
        "share_of_cells": _number(predictions.share),
        "quality": quality_document(session),
        "fitted_on": predictions.n_labels,
        "balanced_accuracy": balanced_accuracy(accepted, truth) if truth is not None else None,
        "strategy": session.options.strategy,
        "seed": session.options.seed,
        "session": str(session.folder),
        "written": [str(path) for path in report.written] if report else [],
        "backups": [str(path) for path in report.backups.values()] if report else [],
        "stale": [str(path) for path, _ in report.stale] if report else [],
        "notes": [*session.notes, *(report.notes if report else ())],
    }


def sort_text(document: Mapping[str, Any]) -> str:
    """The end of ``actsort sort`` for people."""
    undecided = f", {document['undecided']} undecided" if document["undecided"] else ""
    line = (
        f"{document['labels']} labels; {document['n_cells']} candidates: {document['accepted']} accepted, "
        f"{document['rejected'] - document['undecided']} rejected{undecided}."
    )
    if document["thresholds"]:
        line += f" Line drawn at {', '.join(f'{t:.3f}' for t in sorted(set(document['thresholds'].values())))}."
    else:
        line += " No model yet (it needs three of each class): where you said nothing the toolkit's own verdict stands."
    if document["balanced_accuracy"] is not None:
        line += f"\nBalanced accuracy against the oracle: {document['balanced_accuracy']:.3f}."
    if document["quality"]:
        line += "\n" + quality_text(document["quality"])
    return line


def status_document(session: Session) -> dict[str, Any]:
    """``actsort status --json``."""
    curations = session.curations()
    predictions = session.predictions()
    labels = session.labels()
    accepted = sum(int(c.accepted.sum()) for c in curations.values())
    written = [event for event in session.journal.events if event["kind"] in ("written", "restored")]
    last = written[-1] if written and written[-1]["kind"] == "written" else None
    since = [e for e in session.journal.events if last and e["seq"] > last["seq"] and e["kind"] in ("label", "undo", "redo", "reattached")]
    return {
        "session": str(session.folder),
        "paths": [str(source.path) for source in session.sources],
        "recordings": list(session.recordings),
        "n_cells": len(session.candidates),
        "labels": len(labels),
        "by_class": dict(Counter(label.value for label in labels)),
        "annotators": {who: len(session.labels_by(who)) for who in session.annotators()},
        "fitted_on": predictions.n_labels,
        "threshold": _number(predictions.threshold),
        "thresholds": dict(predictions.thresholds),
        "rule": session.options.threshold if isinstance(session.options.threshold, str) else None,
        "quality": quality_document(session),
        "accepted": accepted,
        "rejected": len(session.candidates) - accepted,
        "undecided": sum(int(c.undecided.sum()) for c in curations.values()),
        "strategy": session.options.strategy,
        "classifier": session.options.classifier,
        "seed": session.options.seed,
        "written": [file["path"] for file in last["files"]] if last else [],
        "written_at": last["time"] if last else None,
        "changed_since_written": bool(since),
        "interrupted_write": list(interrupted(session.journal)),
        "notes": session.notes,
    }


def write_document(session: Session, report: WriteReport, dry_run: bool) -> dict[str, Any]:
    """``actsort write --json``."""
    return {
        "dry_run": dry_run,
        "recordings": [
            {
                "recording": d.recording,
                "accepted": d.accepted,
                "rejected": d.rejected,
                "to_accept": d.to_accept.tolist(),
                "to_reject": d.to_reject.tolist(),
            }
            for d in report.differences
        ],
        "planned": [str(path) for path, _ in report.planned],
        "written": [str(path) for path in report.written],
        "backups": {str(path): str(kept) for path, kept in report.backups.items()},
        "stale": {str(path): remedy for path, remedy in report.stale},
        "quality": quality_document(session),
        "notes": list(report.notes),
        "curation": None if dry_run else str(session.folder / "curation.json"),
    }
