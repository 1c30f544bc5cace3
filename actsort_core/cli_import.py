"""``actsort import-labels``: decisions made elsewhere become labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from actsort_core.cli_common import PATH, json_option, plugins_of, say_json

if TYPE_CHECKING:
    from actsort_core.importing import ImportReport, Taken


@click.command("import-labels")
@click.argument("target", type=PATH, metavar="SESSION")
@click.argument("sources", type=PATH, nargs=-1, required=True, metavar="SOURCE...")
@click.option("--annotator", metavar="WHO", help="In whose name, where a source does not say who decided. Default: your login name.")
@click.option("--all", "everything", is_flag=True, help="Take every verdict, also those the toolkit gave itself (in the toolkit's name).")
@click.option("--replace", is_flag=True, help="Also take decisions that contradict a label; that one stays in the journal.")
@click.option("--similar", type=float, metavar="COSINE", help="Also match footprints that are merely alike, as 0.8 (another run).")
@click.option("--by-position", is_flag=True, help="Believe the positions in a table that has no fingerprints and not all candidates.")
@click.option("--format", "format_", metavar="NAME", help="Read the sources as this format instead of finding out.")
@click.option("--session", type=PATH, metavar="DIR", help="Where the session is, or shall be. Default: beside the result.")
@click.option("--dry-run", is_flag=True, help="Only show what would be taken.")
@json_option
@click.pass_context
def import_labels(
    ctx: click.Context,
    target: Path,
    sources: Sequence[Path],
    annotator: str | None,
    everything: bool,
    replace: bool,
    similar: float | None,
    by_position: bool,
    format_: str | None,
    session: Path | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Take decisions made elsewhere into a session as labels.

    SESSION is a session, or a result (its session is resumed, or started). A SOURCE is one of

    \b
      another session's folder       everybody's labels, in their names
      a Suite2p, CaImAn, NWB...      what people clicked in the toolkit; with --all its own verdicts, too
      iscell.npy, a list             one answer for every candidate (.npy, .json, .csv)
      a CSV                          columns index (from 0) or fingerprint, and label
      X_LABELS.mat                   what was labelled in ActSort for MATLAB

    Candidates are matched by their footprints. Positions count only where the source has nothing else and the count agrees, which is said.
    What contradicts a label is listed, not taken. Nothing in the source is changed; importing again changes nothing.

    \b
      actsort import-labels suite2p/plane0 suite2p/plane0 --dry-run   clicks made in Suite2p's GUI since the first opening
      actsort import-labels results.hdf5 bens_copy.hdf5 --annotator ben
    """  # noqa: D301 - click wants a real \b, which a raw string would not give it
    from actsort_core.importing import import_labels as take

    report = take(
        target,
        *sources,
        annotator=annotator,
        everything=everything,
        dry_run=dry_run,
        replace=replace,
        by_position=by_position,
        similar=similar,
        format=format_,
        session=session,
        plugins=plugins_of(ctx),
    )
    if as_json:
        say_json(import_document(report))
        return
    click.echo(f"session: {report.folder}", err=True)
    click.echo(str(report))


def import_document(report: ImportReport) -> dict[str, Any]:
    """``actsort import-labels --json`` (docs/identity.md)."""
    return {
        "session": str(report.folder),
        "dry_run": report.dry_run,
        "taken": [_row(taken) for taken in report.taken],
        "known": report.known,
        "conflicts": [
            {**_row(c), "existing": {"value": c.existing.value, "annotator": c.existing.annotator} if c.existing else None}
            for c in report.conflicts
        ],
        "unmatched": {
            str(path): [{"index": s.index, "fingerprint": s.fingerprint, "value": s.value} for s in said]
            for path, said in report.unmatched.items()
        },
        "left": {str(path): count for path, count in report.left.items()},
        "classes": dict(report.classes),
        "notes": list(report.notes),
    }


def _row(taken: Taken) -> dict[str, Any]:
    return {
        "recording": taken.candidate.recording,
        "index": taken.candidate.index,
        "value": taken.value,
        "annotator": taken.annotator,
        "source": taken.event(),
    }
