"""The command ``actsort suite2p-classifier``. Imports wait until it runs: ``actsort --help`` loads this module."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from actsort_core.cli_common import PATH, json_option, plugins_of, progress_bar, say_json
from actsort_core.hookspecs import hookimpl

HOW_TO = """To use it:
  in the GUI        Classifier > Load > from file, then press Enter in the box beside 'cells' (.5)
  in the pipeline   1.x: settings["classification"]["classifier_path"] = "{path}"
                    0.x: ops["classifier_path"] = "{path}\""""


@click.command("suite2p-classifier")
@click.argument("sessions", type=PATH, nargs=-1, required=True, metavar="SESSION...")
@click.option("--out", type=PATH, required=True, metavar="FILE.npy", help="Where to write it. A file that is there is kept beside it.")
@json_option
@click.pass_context
def suite2p_classifier(ctx: click.Context, sessions: Sequence[Path], out: Path, as_json: bool) -> None:
    """Teach Suite2p's own classifier what was learned here: a file that its GUI and its pipeline load.

    All ROIs of the sessions are in it as they are decided now, labels first. Suite2p goes by three statistics only (skew, compact,
    npix_norm): how far it then decides as ActSort is printed. The toolkit's results are not touched.
    """
    from actsort_adapters.hosts.suite2p import export_classifier

    done = export_classifier(*sessions, out=out, plugins=plugins_of(ctx), progress=progress_bar("actsort"))
    if as_json:
        say_json(done.document())
        return
    click.echo(str(done))
    click.echo(HOW_TO.format(path=done.path.absolute()))


@hookimpl
def actsort_register_commands() -> Sequence[click.Command]:
    """`suite2p-classifier`."""
    return [suite2p_classifier]
