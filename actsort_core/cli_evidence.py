"""Commands that look into the evidence: ``actsort features`` and ``actsort benchmark``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from actsort_core.cli_common import PATH, json_option, plugins_of, progress_bar, say_json
from actsort_core.errors import UsageError


@click.command()
@click.argument("path", type=PATH)
@click.option("--features", "chosen", metavar="LIST", help="Groups or sets, as for sort: 'actsort46' for the published ones without movie.")
@click.option(
    "--export", "out", type=PATH, metavar="FILE", help="Write a CSV: a header, the candidate first, numbers only, empty = missing."
)
@click.option("--format", "format_", metavar="NAME", help="Read it as this format instead of finding out.")
@json_option
@click.pass_context
def features(ctx: click.Context, path: Path, chosen: str | None, out: Path | None, format_: str | None, as_json: bool) -> None:
    """Compute the features of a result and show them; they are kept beside it and computed only once.

    Several recordings give one CSV each: FILE-NAME.csv.
    """
    from actsort_core.atomic import atomic_write
    from actsort_core.features.table import cached_table, select
    from actsort_core.opening import read
    from actsort_core.report import features_csv, features_text, ordered_columns
    from actsort_core.store import choose_folder

    loaded = plugins_of(ctx)
    groups = select(loaded.features, chosen.replace(" ", "").split(",") if chosen else None)
    recordings = read(path, format_, loaded)
    documents = []
    for recording in recordings:
        folder, note = choose_folder(recording.path if len(recordings) == 1 else path)
        if note:
            click.echo(f"note: {note}", err=True)
        stem = folder / "features" / (recording.name if chosen is None else f"{recording.name}.{'+'.join(g.name for g in groups)}")
        table = cached_table(recording, groups, stem, progress_bar("actsort"))
        target = out if out is None or len(recordings) == 1 else out.with_stem(f"{out.stem}-{recording.name}")
        if target is not None:
            atomic_write(target, features_csv(table, loaded.features))
        names = [table.names[i] for i in ordered_columns(table, loaded.features)]
        missing = table.missing()
        documents.append(
            {"name": recording.name, "n_cells": recording.n_cells, "features": names, "missing": missing, "export": str(target)}
        )
        if target is None:
            documents[-1]["export"] = None
        if not as_json:
            click.echo(features_text(recording.name, table, loaded.features))
            click.echo(f"wrote {target}" if target else "")
    if as_json:
        say_json({"recordings": documents})


class _Lists(click.Command):
    """Lets options marked `multiple` take several values at once: ``--strategies cal dal`` as well as ``cal,dal``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        lists = {name for param in self.params if isinstance(param, click.Option) and param.multiple for name in param.opts}
        out: list[str] = []
        current = ""
        for word in args:
            if word.startswith("-"):
                current = word if word in lists else ""
                out += [] if current else [word]
            elif current and not Path(word).is_file():
                out += [part for value in word.split(",") if value for part in (current, value)]
            else:
                current = ""
                out.append(word)
        return super().parse_args(ctx, out)


@click.command(cls=_Lists)
@click.argument("files", type=PATH, nargs=-1, required=True, metavar="FILES...")
@click.option(
    "--strategies",
    multiple=True,
    metavar="NAMES",
    help="Which to replay, e.g. cal dcal-0.3 random@0.5 default. Published ones are scored at .5 and .65 unless @T says otherwise. "
    "Default: all published ones and default, the engine as it is shipped.",
)
@click.option("--seeds", type=int, default=3, show_default=True, metavar="N", help="Runs per annotator and strategy.")
@click.option("--fractions", multiple=True, metavar="F", help="Shares of the candidates labelled. Default: 0.005 0.01 0.03 0.05.")
@click.option("--json", "out", type=PATH, metavar="OUT", help="Also write everything to this file.")
@click.option("--workers", type=int, metavar="N", help="Processes. Default: as many as there are cores.")
@click.pass_context
def benchmark(
    ctx: click.Context,
    files: Sequence[Path],
    strategies: Sequence[str],
    seeds: int,
    fractions: Sequence[str],
    out: Path | None,
    workers: int | None,
) -> None:
    """Replay recorded annotators: the decisions after so many labels, beside how well people agree.

    FILES are annotated recordings in the published layout (MATLAB v7.3: metrics, <name>_choices). Each annotator in turn answers; the
    truth is the majority of the others.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the processes share the cores already
    from tqdm import tqdm

    from actsort_core import benchmark as replay
    from actsort_core.atomic import atomic_write_json

    if out is not None and not out.absolute().parent.is_dir():
        raise UsageError(f"There is no folder {out.absolute().parent} to write {out.name} into.")
    recordings = [replay.read_annotated(path) for path in files]
    with tqdm(total=1, desc="runs", delay=2, leave=False, file=sys.stderr) as bar:

        def tell(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        document = replay.run(
            recordings,
            tuple(strategies) or replay.DEFAULT_NAMES,
            seeds,
            tuple(fractions) or replay.DEFAULT_FRACTIONS,
            workers=workers,
            progress=tell,
        )
    if out is not None:
        atomic_write_json(out, document)
    click.echo(replay.as_text(document))
