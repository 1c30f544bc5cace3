"""The commands ``actsort quality``, how good the sorting is now, and ``actsort quality-prior``, what that rests on, learned anew."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from actsort_core.cli_common import PATH, json_option, plugins_of, progress_bar, say_json


@click.command()
@click.argument("path", type=PATH, metavar="SESSION")
@click.option(
    "--threshold", metavar="T", help="What if the line were there: a probability, pi, favour-precision, favour-recall, match-labels."
)
@click.option("--curve", is_flag=True, help="A table of what to expect wherever the line may be put.")
@json_option
@click.pass_context
def quality(ctx: click.Context, path: Path, threshold: str | None, curve: bool, as_json: bool) -> None:
    """Estimate how good the sorting is now, and what more labels would bring.

    Balanced accuracy, precision and recall of the present decisions against what you would say of every candidate, with 90 %
    intervals. Nothing is changed; to move the line: actsort write SESSION --threshold T.
    """
    from actsort_core.errors import UsageError
    from actsort_core.opening import open as open_session
    from actsort_core.report import quality_document, quality_text
    from actsort_core.store import find_folder

    folder = find_folder(path)
    with open_session(session=folder, plugins=plugins_of(ctx), read_only=True, progress=progress_bar("actsort")) as session:
        session.quality(threshold)  # says why where it cannot
        document = quality_document(session, threshold)
        if document is None:
            raise UsageError("The quality could not be estimated.")
        rows = []
        if curve:
            found = session.read_outs()
            for i, t in enumerate(found.probability):
                stated = {name: getattr(found, name)[i].tolist() for name in ("balanced_accuracy", "precision", "recall")}
                rows.append({"threshold": float(t), **stated})
    if as_json:
        say_json({**document, **({"curve": rows} if curve else {})})
        return
    click.echo(quality_text(document))
    if curve:
        click.echo(f"\n{'threshold':>9}{'balanced accuracy':>26}{'precision':>26}{'recall':>26}")
    for row in rows[::5]:
        cells = "".join(f"{f'{v:.3f} ({a:.3f} to {b:.3f})':>26}" for v, a, b in (row["balanced_accuracy"], row["precision"], row["recall"]))
        click.echo(f"{row['threshold']:>9.2f}{cells}")


@click.command("quality-prior")
@click.argument("files", nargs=-1, required=True, type=PATH)
@click.option("--out", type=PATH, required=True, metavar="FILE", help="Where to write it (JSON).")
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True, help="Runs per annotator and rate of mistakes.")
@click.pass_context
def quality_prior(ctx: click.Context, files: Sequence[Path], out: Path, seeds: int) -> None:
    """Relearn the prior of the quality estimate from annotated recordings.

    FILES are what `actsort benchmark` reads. Needed for another engine or other features than the shipped prior was learned with.
    Every annotator is replayed, also with 5, 10 and 20 % of mistaken answers; some minutes for eight annotators of 7,000 candidates.
    To use what was learned, name it in the environment variable ACTSORT_QUALITY_PRIOR.
    """
    from actsort_core.annotated import read
    from actsort_core.atomic import atomic_write_json
    from actsort_core.quality_prior import learn_from

    loaded = plugins_of(ctx)
    recordings = [recording for path in files for recording in read(path, loaded)]
    show = progress_bar("actsort")
    command = f"actsort quality-prior {' '.join(path.name for path in files)} --seeds {seeds}"
    prior = learn_from(recordings, seeds, loaded, lambda done, total: show("runs", done, total), command)
    atomic_write_json(out, prior.document())
    click.echo(f"wrote {out}: learned from {prior.provenance['annotators']} annotators of {len(recordings)} recordings")
    click.echo(f"To use it: export ACTSORT_QUALITY_PRIOR={out.resolve()}")
