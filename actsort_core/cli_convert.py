"""The command ``actsort convert``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from actsort_core.cli_common import PATH, json_option, plugins_of, progress_bar, say_json


@click.command()
@click.argument("src", type=PATH)
@click.argument("dst", type=PATH)
@click.option(
    "--to", "to", metavar="FORMAT", required=True, help="Format to write: suite2p, caiman, plain, plain_csv... (see: actsort plugins)."
)
@click.option("--dry-run", is_flag=True, help="Only say what is carried over and what is not.")
@click.option(
    "--decisions",
    type=click.Choice(("session", "host")),
    help="Whose: those of the session of SRC, or the verdicts SRC itself holds. Default: the session's where there is one.",
)
@click.option(
    "--recording", "recordings", multiple=True, metavar="NAME", help="Only this recording of SRC (see: actsort info). Repeat for more."
)
@click.option("--format", "format_", metavar="NAME", help="Read SRC as this format instead of finding out.")
@json_option
@click.pass_context
def convert(
    ctx: click.Context,
    src: Path,
    dst: Path,
    to: str,
    dry_run: bool,
    decisions: str | None,
    recordings: Sequence[str],
    format_: str | None,
    as_json: bool,
) -> None:
    """Write the result SRC of one toolkit as a result DST of another.

    Footprints, traces, images, frame rate, decisions and probabilities go with it, as far as the other toolkit has a place for them; what
    it has none for is listed before anything is written. SRC is a result, or a session. It stays as it is.

    DST must not exist. It is used as given: where a toolkit wants an ending (.hdf5 for CaImAn, .mat for MATLAB), give it. Where each
    candidate came from and who decided about it is in conversion.json, in the session folder of DST.

    \b
      actsort convert results.hdf5 suite2p/plane0 --to suite2p     then open suite2p/plane0/stat.npy in Suite2p
      actsort convert suite2p/plane0 results.hdf5 --to caiman      then load_CNMF("results.hdf5")
      actsort convert suite2p tables --to plain_csv --dry-run      what would be in the tables
      actsort convert suite2p one.hdf5 --to caiman --recording plane1
    """  # noqa: D301 - click wants a real \b, which a raw string would not give it
    from actsort_core.converting import carry_out, prepare

    progress = progress_bar("actsort")
    planned = prepare(src, dst, to, decisions=decisions, recordings=recordings, format=format_, plugins=plugins_of(ctx), progress=progress)
    if not as_json:
        click.echo(str(planned))
    done = planned if dry_run else carry_out(planned, progress)
    if as_json:
        say_json({**done.as_document(), "dry_run": dry_run})
        return
    for note in done.notes[len(planned.notes) :]:
        click.echo(f"note: {note}")
    if dry_run:
        click.echo(f"Nothing was written. {dst} would be a result of {to}.")
    else:
        click.echo(f"wrote {dst} ({len(done.written)} file{'s' if len(done.written) > 1 else ''}), read again and compared")
        click.echo(f"where each candidate came from: {done.identity_map}")
