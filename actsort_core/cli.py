"""The command line: ``actsort``. Imports wait until a command runs, so that help is immediate."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from actsort_core import __version__, cli_apply, cli_convert, cli_evidence, cli_import, cli_label, cli_people, cli_quality
from actsort_core.cli_common import (
    PATH,
    PathLists,
    exports_option,
    json_option,
    movie_option,
    plugins_of,
    progress_bar,
    result_or_session,
    say_json,
    say_session,
    session_options,
)
from actsort_core.errors import ActsortError, UnknownNameError, UsageError

if TYPE_CHECKING:
    from actsort_core.session import Session

DEBUG = "ACTSORT_DEBUG"
ORACLE_LABELS = 40  # what an oracle is asked when nobody says how many


class _Group(click.Group):
    """Adds the commands of plug-ins, and turns every error into one message and an exit status."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.commands, *_plugin_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return self.commands.get(cmd_name) or _own_commands().get(cmd_name) or dict(plugins_of(ctx).commands).get(cmd_name)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ActsortError as error:
            if os.environ.get(DEBUG):
                raise
            click.echo(f"actsort: {error.what}" + (f"\n{error.hint}" if error.hint else ""), err=True)
            ctx.exit(2 if isinstance(error, UsageError | UnknownNameError) else 1)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            click.echo("\nactsort: stopped. Every label given so far is saved; the same command goes on from there.", err=True)
            ctx.exit(1)
        except Exception as error:
            if os.environ.get(DEBUG):
                raise
            if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
                click.echo(f"actsort: the system does not allow so long a name: {error.filename}\nCheck the path.", err=True)
                ctx.exit(1)
            click.echo(
                f"actsort: something unexpected happened ({type(error).__name__}: {error}).\n"
                f"Labels given so far are saved. Please report it with what {DEBUG}=1 shows.",
                err=True,
            )
            ctx.exit(1)


def _plugin_commands(ctx: click.Context) -> dict[str, click.Command]:
    from importlib.metadata import entry_points

    # Plug-ins are loaded for their commands only where some other distribution brings any: help stays immediate.
    foreign = [entry for entry in entry_points(group="actsort") if not entry.dist or entry.dist.name != "actsort"]
    return dict(plugins_of(ctx).commands) if foreign else _own_commands()


def _own_commands() -> dict[str, click.Command]:
    """Commands that our own distribution registers as a plug-in does: in light modules, whose entry points are named so."""
    from importlib.metadata import entry_points

    own = [entry for entry in entry_points(group="actsort") if entry.dist and entry.dist.name == "actsort"]
    modules = [entry.load() for entry in own if entry.name.endswith("_commands")]
    return {str(command.name): command for module in modules for command in module.actsort_register_commands()}


def _warn(message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: str | None = None) -> None:
    click.echo(f"actsort: warning: {message}", err=True)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="actsort")
def main() -> None:
    """Sort the cell candidates of calcium-imaging toolkits by answering a few questions.

    ActSort asks about the candidates that teach it most, sorts the rest, and writes the decisions into the files of your toolkit.

    \b
      actsort info PATH             what is in a result
      actsort label PATH            answer questions in the browser, a key a candidate; stop and resume whenever you like
      actsort sort PATH             the same in the terminal
      actsort write PATH --dry-run  see what would change in the toolkit's files
      actsort write PATH            write it (a backup is kept)
      actsort restore PATH          put the files back as they were
      actsort apply SESSION PATH... sort other results the same way, without asking
      actsort convert SRC DST --to FORMAT    from one toolkit to another

    PATH is what Suite2p (suite2p or suite2p/plane0), CaImAn (.hdf5), CNMF-E, EXTRACT or ActSort (.mat), Minian, or any program
    that speaks NWB wrote, or, after the first sort, the session's folder. `actsort plugins` lists all formats.
    """  # noqa: D301 - click wants a real \b, which a raw string would not give it
    warnings.showwarning = _warn


@main.command()
@click.argument("path", type=PATH)
@click.option("--format", "format_", metavar="NAME", help="Read it as this format instead of finding out.")
@movie_option
@json_option
@click.pass_context
def info(ctx: click.Context, path: Path, format_: str | None, movie: Sequence[str], as_json: bool) -> None:
    """Show what a result holds, and what the toolkit itself decided."""
    from actsort_core.opening import read
    from actsort_core.report import info_document, info_text

    recordings = read(path, format_, plugins_of(ctx), movie or None)
    document = info_document(path, recordings)
    if as_json:
        say_json(document)
    else:
        click.echo(info_text(document))
    if not as_json:
        for recording in recordings:
            for note in recording.notes:
                click.echo(f"note: {note}", err=True)


@main.command(cls=PathLists)
@click.argument("paths", type=PATH, nargs=-1, required=True, metavar="PATH...")
@click.option("--labels", metavar="N", help="Stop when the session holds N labels: a count, or a share of the candidates like 1%.")
@click.option("--oracle", type=PATH, help="Answer from a file instead of asking: JSON list, .npy or one-column .csv of 1, 0, null.")
@session_options
@click.option("--stop", type=click.Choice(["auto"]), help="auto: stop (or say so) when labels no longer change much.")
@click.option("--write", is_flag=True, help="Write the decisions into the toolkit's files at the end.")
@exports_option
@json_option
@click.pass_context
def sort(
    ctx: click.Context,
    paths: Sequence[Path],
    labels: str | None,
    oracle: Path | None,
    how: dict[str, Any],
    stop: str | None,
    write: bool,
    update_exports: bool,
    as_json: bool,
) -> None:
    """Ask about candidates, learn from the answers and decide on all the others.

    Every answer is saved at once. Stop with q (or pull the plug) and run the same command again to go on.
    """
    from actsort_core.opening import open as open_session
    from actsort_core.oracle import answerer, read_truth
    from actsort_core.report import sort_document, sort_text

    if update_exports and not write:
        raise UsageError("--update-exports is about writing.", "Add --write, or write later: actsort write SESSION --update-exports.")
    if as_json and oracle is None:
        raise UsageError("--json needs --oracle: it leaves no place to ask questions.", "Leave --json out, or pass an oracle.")
    if stop is not None:
        from actsort_core.stopping import AutoStop

        plugins_of(ctx).manager.register(AutoStop(), "stop")
    opened = open_session(
        *(result_or_session(path) for path in paths),
        **how,
        plugins=plugins_of(ctx),
        progress=progress_bar("actsort"),
        refit_wait=0 if oracle is None else None,
    )
    with opened:
        if not as_json:
            say_session(opened)
        said = len(opened.notes)
        try:
            truth = None if oracle is None else read_truth(oracle, len(opened.candidates))
            goal = None if oracle is None and labels is None else opened.count(ORACLE_LABELS if labels is None else labels)
        except ActsortError:
            opened.discard()  # a session that a typing error started would be in the way of the right one
            raise
        if truth is not None:
            assert goal is not None
            answer = answerer(opened, truth)
            from tqdm import tqdm

            with tqdm(total=goal, initial=min(goal, len(opened.labels())), desc="labels", delay=2, leave=False, file=sys.stderr) as bar:
                for candidate in opened.questions(goal):
                    opened.label(candidate, answer(candidate))
                    bar.update()
        else:
            from actsort_core.terminal import sort_by_hand

            sort_by_hand(opened, goal)
        report = opened.write(progress=progress_bar("actsort"), update_exports=update_exports) if write else None
        document = sort_document(opened, truth, report)
        if as_json:
            say_json(document)
            return
        click.echo(sort_text(document))
        for note in opened.notes[said:]:
            click.echo(f"note: {note}", err=True)
        if report is not None:
            click.echo(str(report))
        else:
            click.echo(f"Nothing was written yet. See what would change: actsort write {opened.folder} --dry-run")


def _resume(ctx: click.Context, path: Path, **options: Any) -> Session:
    from actsort_core.opening import open as open_session
    from actsort_core.store import find_folder

    folder = find_folder(path)
    if folder != path:
        click.echo(f"session: {folder}", err=True)
    session = open_session(session=folder, plugins=plugins_of(ctx), **options)
    for note in session.reattached:
        click.echo(f"note: {note}", err=True)
    return session


@main.command()
@click.argument("path", type=PATH, metavar="SESSION")
@json_option
@click.pass_context
def status(ctx: click.Context, path: Path, as_json: bool) -> None:
    """Show how far a session is. It may be open elsewhere meanwhile."""
    from actsort_core.report import quality_text, status_document
    from actsort_core.terminal import summary

    with _resume(ctx, path, read_only=True, progress=progress_bar("actsort")) as session:
        document = status_document(session)
    if as_json:
        say_json(document)
    else:
        estimate = document.pop("quality")
        document.pop("thresholds")
        click.echo(summary(document))
        if estimate:
            click.echo(quality_text(estimate))


def _step(name: str) -> Callable[..., None]:
    def command(ctx: click.Context, path: Path, annotator: str | None, as_json: bool) -> None:
        with _resume(ctx, path, annotator=annotator, prepare=False, refit_wait=0) as session:
            if annotator is None:
                session.annotator = session.latest_annotator(name) or session.annotator
            candidate = getattr(session, name)()
            label = next((la for la in session.labels() if la.candidate == candidate), None)
            count, who = len(session.labels()), session.annotator
        if as_json:
            found = {"recording": candidate.recording, "index": candidate.index} if candidate else None
            say_json({"candidate": found, "label": label.value if label else None, "labels": count})
        elif candidate is None:
            click.echo(f"There is nothing of {who} to {name}.")
        else:
            now = f"it is {label.value} now" if label else "it has no label now"
            click.echo(f"{candidate.recording}, candidate {candidate.index}: {now} ({count} labels in all).")

    return command


for _name, _text in (("undo", "Take back an annotator's latest label."), ("redo", "Give the label again that was last undone.")):
    _command = click.pass_context(_step(_name))
    _command = click.option("--annotator", metavar="WHO", help="Whose label. Default: whoever was last.")(json_option(_command))
    main.command(_name, help=_text)(click.argument("path", type=PATH, metavar="SESSION")(_command))


@main.command()
@click.argument("path", type=PATH, metavar="SESSION")
@click.option("--dry-run", is_flag=True, help="Only show what would change.")
@click.option("--threshold", metavar="T", help="Move the line first: a probability, pi, favour-precision, favour-recall or match-labels.")
@exports_option
@json_option
@click.pass_context
def write(ctx: click.Context, path: Path, dry_run: bool, threshold: str | None, update_exports: bool, as_json: bool) -> None:
    """Write the decisions into the toolkit's files.

    The difference is shown, each file is backed up, replaced in one step, read again and compared. `actsort restore` undoes it.
    """
    from dataclasses import replace

    from actsort_core.report import quality_document, quality_text, write_document
    from actsort_core.store import parse_threshold

    with _resume(ctx, path, threshold=None if dry_run else threshold, progress=progress_bar("actsort"), read_only=dry_run) as session:
        if dry_run and threshold is not None:  # only looked at, not kept
            session.options = replace(session.options, threshold=parse_threshold(threshold))
        report = session.write(dry_run, progress_bar("actsort"), update_exports)
        if as_json:
            say_json(write_document(session, report, dry_run))
        else:
            click.echo(str(report))
            if threshold is not None and (estimate := quality_document(session)):
                click.echo(quality_text(estimate))
            if not dry_run:
                click.echo(f"all decisions: {session.folder / 'curation.json'}")


@main.command()
@click.argument("path", type=PATH, metavar="SESSION")
@click.option("--force", is_flag=True, help="Also replace files that were changed after ActSort wrote them (they are backed up).")
@json_option
@click.pass_context
def restore(ctx: click.Context, path: Path, force: bool, as_json: bool) -> None:
    """Put the toolkit's files back as they were before ActSort wrote them. Labels stay in the session."""
    from actsort_core.journal import Journal
    from actsort_core.store import find_folder
    from actsort_core.writeback import restore as put_back

    folder = find_folder(path)
    # Without opening the results: restoring must work even where they cannot be read any more.
    with Journal(folder) as journal:
        restored = put_back(folder, journal, force)
    if as_json:
        say_json({"restored": [str(p) for p in restored]})
    else:
        for restored_path in restored:
            click.echo(f"restored {restored_path}")
        if force:
            click.echo(f"what was changed in between is kept in {folder / 'backups'}")
        if not restored:
            click.echo("The files already are as they were before ActSort wrote them.")


@main.command()
@click.argument("path", type=PATH, metavar="SESSION")
@click.argument("destination", type=PATH)
@click.option("--to", "exporter", metavar="NAME", help="Exporter (see: actsort plugins). Default: by the file's ending.")
@click.option("--accepted", is_flag=True, help="The accepted candidates alone, with footprints and traces: npz (a file) or csv (a folder).")
@click.pass_context
def export(ctx: click.Context, path: Path, destination: Path, exporter: str | None, accepted: bool) -> None:
    """Save all decisions in a file of their own (.json, .csv); the toolkit's files stay as they are.

    With --accepted: footprints, traces, images, frame rate and original indices of the accepted candidates, for analysis (docs/convert.md).
    """
    from actsort_core.exporters import check_replaceable, export_accepted

    name = exporter or destination.suffix.lstrip(".").lower()
    chosen = None if accepted else plugins_of(ctx).exporters[name]
    if chosen is not None:
        check_replaceable(destination)
    with _resume(ctx, path, read_only=True, progress=progress_bar("actsort")) as session:
        if chosen is None:
            export_accepted(session, destination, exporter)
        else:
            chosen.export(list(session.curations().values()), destination)
    click.echo(f"wrote {destination}")


@main.command()
@json_option
@click.pass_context
def plugins(ctx: click.Context, as_json: bool) -> None:
    """List formats, features, strategies, classifiers, exporters and commands, and the plug-ins they come from."""
    from actsort_core.plugins import describe

    document = describe(plugins_of(ctx))
    if as_json:
        say_json(document)
        return
    for kind, rows in document.items():
        if rows:
            click.echo(f"{kind}:")
        for row in rows:
            detail = f" [{row['unit']}]" if row.get("unit", "1") != "1" else ""
            click.echo(f"  {row['name']:<34}{row['description']}{detail}" + (f"  ({row['plugin']})" if row["plugin"] != "actsort" else ""))


main.add_command(cli_apply.apply)
main.add_command(cli_apply.show_model)
main.add_command(cli_convert.convert)
main.add_command(cli_people.merge)
main.add_command(cli_people.agreement)
main.add_command(cli_evidence.features)
main.add_command(cli_evidence.benchmark)
main.add_command(cli_import.import_labels)
main.add_command(cli_label.label)
main.add_command(cli_quality.quality)
main.add_command(cli_quality.quality_prior)


@main.command()
@click.option("--data", type=PATH, metavar="DIR", help="Folder with a demo.json (examples/data of the repository). Default: simulate.")
@click.option("--out", type=PATH, metavar="DIR", default=Path("actsort-demo"), show_default=True, help="New folder to work in.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.pass_context
def demo(ctx: click.Context, data: Path | None, out: Path, seed: int) -> None:
    """Curate example results with a simulated annotator and show what it brings."""
    from actsort_core.demo import run

    run(plugins_of(ctx), out, data, seed, click.echo, progress_bar)
