"""``actsort label``: the page."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from actsort_core.cli_common import PATH, PathLists, plugins_of, progress_bar, say_session, session_options
from actsort_core.errors import LockedError


@click.command(cls=PathLists)
@click.argument("paths", type=PATH, nargs=-1, required=True, metavar="PATH...")
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
@session_options
@click.pass_context
def label(
    ctx: click.Context,
    paths: Sequence[Path],
    port: int | None,
    host: str,
    no_browser: bool,
    blind: bool,
    how: dict[str, Any],
) -> None:
    """Sort in the browser: one key a candidate, every answer saved at once.

    Prints the address of the page and serves it until you press control-C; the same command goes on where you stopped. y or up: cell;
    n or down: not a cell; u: unsure; z: undo; ? shows all keys. Writing into the toolkit's files is a button on the page
    (or, later: actsort write PATH).

    On a server, the line to type on your own machine is printed, too.
    """
    import webbrowser

    from threadpoolctl import threadpool_limits

    from actsort_core.cli_common import result_or_session
    from actsort_core.opening import open as open_session
    from actsort_core.store import find_folder
    from actsort_core.web.serve import Page, check_installed, forwarding, running_at

    check_installed()
    # A label waits for the interpreter while a fit or an estimate runs: let it have its turn sooner than every 5 ms.
    sys.setswitchinterval(0.0005)
    given = [result_or_session(path) for path in paths]
    try:
        opened = open_session(
            *given,
            **how,
            plugins=plugins_of(ctx),
            progress=progress_bar("actsort"),
            refit_wait=0,
        )
    except LockedError as error:
        address = running_at(how["session"] or find_folder(given[0]))
        if address is None:
            raise
        raise LockedError(error.what, f"Its page is here: {address}") from error
    # The browser needs a core, too: a second thread of the linear algebra gains nothing in fits of milliseconds, and waits busily.
    with opened, threadpool_limits(1):
        page = Page(opened, port, host, blind)
        say_session(opened)
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
