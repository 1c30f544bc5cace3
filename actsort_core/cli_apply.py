"""Commands for models: ``actsort model`` shows and saves one, ``actsort apply`` classifies many results with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from actsort_core.cli_common import PATH, exports_option, json_option, plugins_of, progress_bar, say_json


@click.command()
@click.argument("model", type=PATH, metavar="MODEL_OR_SESSION")
@click.argument("paths", type=PATH, nargs=-1, required=True, metavar="PATH...")
@click.option(
    "--threshold",
    metavar="T",
    help="Probability above which a candidate is a cell; pi: the estimated share of cells of each recording; app: .5; paper: .65. "
    "Default: as in the model's session, which is pi unless somebody moved it.",
)
@click.option("--favour", type=click.Choice(("precision", "recall")), help="Move the line until the expected one reaches .95.")
@click.option("--dry-run", is_flag=True, help="Only show what would change: nothing is written anywhere.")
@click.option("--format", "format_", metavar="NAME", help="Read all results as this format instead of finding out.")
@exports_option
@json_option
@click.pass_context
def apply(
    ctx: click.Context,
    model: Path,
    paths: Sequence[Path],
    threshold: str | None,
    favour: str | None,
    dry_run: bool,
    format_: str | None,
    update_exports: bool,
    as_json: bool,
) -> None:
    """Classify finished results with a model, without asking anybody, and write the decisions into their files.

    MODEL_OR_SESSION is a folder that `actsort model --save` made, or a session (or the result it was started on).

    Every file is backed up: `actsort restore PATH` undoes it, `actsort sort PATH` corrects it. What a person said in an earlier session
    of a result stands. A result that fails does not stop the others; the exit status is 1 then.
    """
    from actsort_core.batch import apply as run
    from actsort_core.batch import as_document, as_text, find

    registered = plugins_of(ctx)
    found = find(model, registered)
    results = run(
        found,
        *paths,
        threshold=threshold,
        favour=favour,
        dry_run=dry_run,
        format=format_,
        update_exports=update_exports,
        plugins=registered,
        progress=progress_bar("actsort"),
    )
    if as_json:
        say_json(as_document(found, results, dry_run))
    else:
        click.echo(as_text(results, dry_run))
        click.echo("Nothing was written." if dry_run else "Undo with: actsort restore PATH. Correct with: actsort sort PATH.")
    if any(result.error for result in results):
        ctx.exit(1)


@click.command("model")
@click.argument("path", type=PATH, metavar="MODEL_OR_SESSION")
@click.option("--save", "out", type=PATH, metavar="DIR", help="Save it in this folder: plain numbers and words, safe to pass on.")
@json_option
@click.pass_context
def show_model(ctx: click.Context, path: Path, out: Path | None, as_json: bool) -> None:
    """Show what a model goes by, and save it for other recordings.

    A saved model also holds the labelled candidates' features (not their footprints or traces), so that it serves as --warm-start, too.
    """
    from actsort_core.batch import find
    from actsort_core.models import as_document, as_text, save_model

    found = find(path, plugins_of(ctx))
    saved = None if out is None else save_model(out, found)
    if as_json:
        say_json({**as_document(found), "saved": None if saved is None else str(saved)})
        return
    click.echo(as_text(found))
    if saved is not None:
        click.echo(f"saved in {saved}; use it with: actsort apply {saved} PATH...")
