"""``actsort label``: the page."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from actsort_core.cli_common import PATH, PathLists, movie_option, plugins_of, progress_bar
from actsort_core.errors import LockedError

if TYPE_CHECKING:
    from actsort_core.session import Session


@click.command(cls=PathLists)
@click.argument("paths", type=PATH, nargs=-1, required=True, metavar="PATH...")
@click.option("--session", type=PATH, metavar="DIR", help="Where labels are kept. Default: beside the (first) result.")
@click.option("--annotator", metavar="WHO", help="Who labels. Default: your login name.")
@click.option("--port", type=int, metavar="N", help="Port of the page; 0 takes a free one. Default: 8765, or the next that is free.")
@click.option(
    "--host",
    metavar="ADDRESS",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen at; this one is reached from this machine alone.",
)
@click.option("--no-browser", is_flag=True, help="Print the address, open nothing.")
@click.option("--blind", is_flag=True, help="Hide at first what the model and the toolkit think.")
@click.option(
    "--class", "own_classes", multiple=True, metavar="NAME=KIND", help="A class of your own, key 1 to 9: --class dendrite=not_cell."
)
@click.option("--strategy", metavar="NAME", help="Which candidates to ask about (see: actsort plugins). Default: balanced_pi.")
@click.option("--features", metavar="LIST", help="As for: actsort sort.")
@click.option("--consensus", metavar="HOW", help="Whose label counts where people differ: latest (default), majority, dawid-skene.")
@click.option("--overlap", metavar="SHARE", default="0", help="Share of the questions about what others labelled, like 20%. Default: 0.")
@click.option(
    "--warm-start", type=PATH, multiple=True, metavar="FILES...", help="Learn from labels given elsewhere, too (see: actsort sort --help)."
)
@click.option("--seed", type=int, metavar="S", help="Seed of the random order. Default: 0.")
@click.option("--format", "format_", metavar="NAME", help="Read the results as this format instead of finding out.")
@movie_option
@click.option("--reattach", is_flag=True, help="Go on although few labelled candidates are left in a changed result; no label is lost.")
@click.pass_context
def label(
    ctx: click.Context,
    paths: Sequence[Path],
    session: Path | None,
    annotator: str | None,
    port: int | None,
    host: str,
    no_browser: bool,
    blind: bool,
    own_classes: Sequence[str],
    strategy: str | None,
    features: str | None,
    consensus: str | None,
    overlap: str,
    warm_start: Sequence[Path],
    seed: int | None,
    format_: str | None,
    movie: Sequence[str],
    reattach: bool,
) -> None:
    """Sort in the browser: one key a candidate, every answer saved at once.

    Prints the address of the page and serves it until you press control-C; the same command goes on where you stopped. y or up: cell;
    n or down: not a cell; u: unsure; z: undo; ? shows all keys. Writing into the toolkit's files is a button on the page
    (or, later: actsort write PATH).

    On a server, the line to type on your own machine is printed, too.
    """
    import webbrowser

    from threadpoolctl import threadpool_limits

    from actsort_core.classes import parse
    from actsort_core.cli_common import result_or_session
    from actsort_core.opening import open as open_session
    from actsort_core.store import find_folder
    from actsort_core.web.serve import Page, check_installed, forwarding, running_at

    check_installed()
    # A label waits for the interpreter while a fit or an estimate runs: let it have its turn sooner than every 5 ms.
    sys.setswitchinterval(0.0005)
    groups = [name.strip() for name in features.split(",") if name.strip()] if features is not None else None
    given = [result_or_session(path) for path in paths]
    try:
        opened = open_session(
            *given,
            session=session,
            annotator=annotator,
            seed=seed,
            strategy=strategy,
            features=groups,
            classes=parse(own_classes) if own_classes else None,
            consensus=consensus,
            overlap=overlap,
            warm_start=warm_start or None,
            format=format_,
            movie=movie or None,
            reattach=reattach or None,
            plugins=plugins_of(ctx),
            progress=progress_bar("actsort"),
            refit_wait=0,
        )
    except LockedError as error:
        address = running_at(session or find_folder(given[0]))
        if address is None:
            raise
        raise LockedError(error.what, f"Its page is here: {address}") from error
    # The browser needs a core, too: a second thread of the linear algebra gains nothing in fits of milliseconds, and waits busily.
    with opened, threadpool_limits(1):
        page = Page(opened, port, host, blind)
        _say(opened)
        click.echo(page.address)
        sys.stdout.flush()
        if page.for_others:
            click.echo(f"Others reach it, unencrypted, at {page.for_others}", err=True)
        if line := forwarding(page.port, os.environ):
            click.echo(f"On your own machine, type this and leave it running; then open the address there:\n  {line}", err=True)
        elif not no_browser:
            webbrowser.open(page.address)
        with contextlib.suppress(KeyboardInterrupt):  # the way to stop it
            page.run()
        n = len(opened.labels())
        saved = "1 label is" if n == 1 else f"{n} labels are"
        click.echo(f"\nactsort: {saved} saved in {opened.folder}; the same command goes on from there.", err=True)


def _say(session: Session) -> None:
    click.echo(f"session: {session.folder}", err=True)
    for note in session.notes:
        click.echo(f"note: {note}", err=True)
