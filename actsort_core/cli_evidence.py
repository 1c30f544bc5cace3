"""Commands that look into the evidence: ``actsort features`` and ``actsort benchmark``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from actsort_core.cli_common import PATH, execution_options, json_option, movie_option, plugins_of, progress_bar, say_json
from actsort_core.errors import UsageError

if TYPE_CHECKING:
    from actsort_core.executors import Execution


@click.command()
@click.argument("path", type=PATH)
@click.option("--features", "chosen", metavar="LIST", help="Groups or sets, as for sort: 'actsort46' for the published ones without movie.")
@click.option(
    "--export",
    "out",
    type=PATH,
    metavar="FILE",
    help="Also write them: .csv (a header, the candidate first), .npz or .parquet (with units).",
)
@click.option("--format", "format_", metavar="NAME", help="Read it as this format instead of finding out.")
@movie_option
@execution_options
@json_option
@click.pass_context
def features(
    ctx: click.Context,
    path: Path,
    chosen: str | None,
    out: Path | None,
    format_: str | None,
    movie: Sequence[str],
    as_json: bool,
    execution: Execution,
) -> None:
    """Compute the features of a result and show them; they are kept beside it and computed only once.

    Several recordings give one file each: FILE-NAME.csv.
    """
    from actsort_core.atomic import atomic_write
    from actsort_core.features import files
    from actsort_core.features.table import select
    from actsort_core.learning import table_of
    from actsort_core.opening import as_remembered, read
    from actsort_core.report import features_csv, features_text, ordered_columns
    from actsort_core.store import choose_folder

    ending = files.ending_of(out) if out is not None else ""
    loaded = plugins_of(ctx)
    known = {feature.name: feature for group in loaded.features.values() for feature in group.features}
    groups = select(loaded.features, chosen.replace(" ", "").split(",") if chosen else None)
    recordings = read(path, format_, loaded, movie or None)
    documents = []
    for recording in recordings:
        folder, note = choose_folder(recording.path if len(recordings) == 1 else path)
        if note:
            click.echo(f"note: {note}", err=True)
        if not movie:
            recording = as_remembered(recording, folder)
        stem = folder / "features" / (recording.name if chosen is None else f"{recording.name}.{'+'.join(g.name for g in groups)}")
        table, notes = table_of(recording, groups, folder, stem, progress_bar("actsort"), execution)
        for note in (*recording.notes, *notes):
            click.echo(f"note: {note}", err=True)
        target = out if out is None or len(recordings) == 1 else out.with_stem(f"{out.stem}-{recording.name}")
        if target is not None:
            columns = ordered_columns(table, loaded.features)
            if ending == "csv":
                content = features_csv(table, loaded.features)
            else:
                content = (files.as_npz if ending == "npz" else files.as_parquet)(table, columns, known, recording)
            atomic_write(target, content)
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
    """Lets options marked `multiple` take several values at once: ``--strategies cal dal`` as well as ``cal,dal``.

    A list of paths takes all words up to the next option; any other list ends where a path begins.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        lists = {
            name: isinstance(param.type, click.Path)
            for param in self.params
            if isinstance(param, click.Option) and param.multiple
            for name in param.opts
        }
        out: list[str] = []
        current = ""
        for word in args:
            if word.startswith("-"):
                current = word if word in lists else ""
                out += [] if current else [word]
            elif current and lists[current]:
                out += [current, word]
            elif current and not _is_recording(word):
                out += [part for value in word.split(",") if value for part in (current, value)]
            else:
                current = ""
                out.append(word)
        return super().parse_args(ctx, out)


def _is_recording(word: str) -> bool:
    """Whether a word among names is a file or a session's folder (a folder that happens to be called ``cal`` is not meant)."""
    return Path(word).is_file() or (Path(word).is_dir() and (os.sep in word or Path(word, "session.json").is_file()))


@click.command(cls=_Lists)
@click.argument("files", type=PATH, nargs=-1, metavar="FILES...")
@click.option(
    "--strategies",
    multiple=True,
    metavar="NAMES",
    help="Which to replay, e.g. cal dcal-0.3 random@0.5 default. Published ones are scored at .5 and .65 unless @T says otherwise. "
    "Default: all published ones, default (the engine as it is shipped), and default-noaudit (the same without audits).",
)
@click.option("--seeds", type=int, default=3, show_default=True, metavar="N", help="Runs per annotator and strategy.")
@click.option("--fractions", multiple=True, metavar="F", help="Shares of the candidates labelled. Default: 0.005 0.01 0.03 0.05.")
@click.option(
    "--warm-start",
    multiple=True,
    type=PATH,
    metavar="FILES",
    help="Let our strategies (not the published ones) start from these: annotated recordings, sessions, saved models. Their names then "
    "end in +warm. What is replayed is never a warm start of itself. Put FILES... before it.",
)
@click.option("--to-human", is_flag=True, help="Go on until as good as the human: % of labels needed. Past 5 % refit only at 40 counts.")
@click.option("--plot", type=PATH, metavar="OUT", help="Draw the learning curves with the human level: .png, .svg or .pdf.")
@click.option("--json", "out", type=PATH, metavar="OUT", help="Also write everything to this file.")
@click.option("--workers", type=int, metavar="N", help="Processes. Default: as many as there are cores. Results do not depend on it.")
@click.pass_context
def benchmark(
    ctx: click.Context,
    files: Sequence[Path],
    strategies: Sequence[str],
    seeds: int,
    fractions: Sequence[str],
    warm_start: Sequence[Path],
    to_human: bool,
    plot: Path | None,
    out: Path | None,
    workers: int | None,
) -> None:
    """Replay recorded annotators: the decisions after so many labels, beside how well people agree.

    FILES are annotated recordings: the published layout (MATLAB v7.3: metrics, <name>_choices), CSV (a header; label or
    label:<annotator> columns with 1 / 0; every other column is a feature; 'actsort features PATH --export' writes one to add labels
    to), NPZ (features, labels), or sessions. Each annotator in turn answers; the truth is the majority of the others.

    \b
    actsort benchmark lab.mat                              # the table
    actsort benchmark lab.mat --strategies cal default --seeds 10 --json out.json
    actsort benchmark new.mat --warm-start old.mat         # starting from another recording
    actsort benchmark lab.mat --to-human --plot curves.png # how much work until as good as a person

    See docs/benchmark.md for the protocol, the inputs and the JSON.
    """  # noqa: D301 - click wants a real \b, which a raw string would not give it
    if not files:
        raise UsageError("No recording to replay.", "Put FILES before --warm-start, which takes all that follow it.")
    from tqdm import tqdm

    from actsort_core import benchmark as replay
    from actsort_core import benchmark_plot, benchmark_text
    from actsort_core.atomic import atomic_write_json

    if out is not None and not out.absolute().parent.is_dir():
        raise UsageError(f"There is no folder {out.absolute().parent} to write {out.name} into.")
    if plot is not None:
        benchmark_plot.check(plot)
    with tqdm(total=1, desc="runs", delay=2, leave=False, file=sys.stderr) as bar:

        def tell(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        document = replay.run(
            files,
            tuple(strategies) or replay.DEFAULT_NAMES,
            seeds,
            tuple(fractions) or replay.DEFAULT_FRACTIONS,
            workers=workers,
            progress=tell,
            warm_start=warm_start,
            to_human=to_human,
        )
    if out is not None:
        atomic_write_json(out, document)
    if plot is not None:
        benchmark_plot.plot(document, plot)
    click.echo(benchmark_text.as_text(document))
