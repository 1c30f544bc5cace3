"""What the commands share."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from actsort_core.errors import UsageError

if TYPE_CHECKING:
    from actsort_core.features.table import Progress
    from actsort_core.plugins import Plugins
    from actsort_core.session import Session

PATH = click.Path(path_type=Path)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
movie_option = click.option(
    "--movie",
    "movie",
    multiple=True,
    metavar="[NAME=]PATH",
    help="The registered movie, if it is not where the toolkit left it: a file, FILE.h5/DATASET or a folder. Repeat for several "
    "recordings, with their names if need be. Remembered; none: work without.",
)
exports_option = click.option(
    "--update-exports",
    is_flag=True,
    help="With the toolkit's files, rewrite copies that it exported (Suite2p: Fall.mat, ophys.nwb), which are else only reported.",
)


def execution_options(command: Callable[..., None]) -> Callable[..., None]:
    """Options that say who works on a movie; the command receives ``execution``."""

    @functools.wraps(command)
    def run(*args: Any, executor: str, workers: int | None, memory: float, dask: str | None, **options: Any) -> None:
        from actsort_core.executors import Execution

        kind = executor if dask is None else "dask"
        command(*args, execution=Execution(kind, workers, int(memory * (1 << 30)), dask), **options)

    for option in (
        click.option("--dask", metavar="ADDRESS", help="Work on a dask cluster that is running: the address of its scheduler."),
        click.option("--memory", type=float, default=1.0, show_default=True, metavar="GIB", help="Memory a pass over a movie may take."),
        click.option("--workers", type=int, metavar="N", help="Threads or processes. Default: as many as there are cores."),
        click.option(
            "--executor",
            type=click.Choice(["serial", "threads", "processes", "dask"]),
            default="threads",
            show_default=True,
            help="Who works on a movie. The results do not depend on it.",
        ),
    ):
        run = option(run)
    return run


def session_options(command: Callable[..., None]) -> Callable[..., None]:
    """Options that say where a session is, who labels in it and how it asks; the command receives ``how``, keywords of `opening.open`."""

    @functools.wraps(command)
    def run(
        *args: Any,
        features: str | None,
        own_classes: Sequence[str],
        warm_start: Sequence[Path],
        movie: Sequence[str],
        reattach: bool,
        **options: Any,
    ) -> None:
        from actsort_core.classes import parse

        how = {name: options.pop(name) for name in _AS_GIVEN}
        how |= {
            "features": None if features is None else [name.strip() for name in features.split(",") if name.strip()],
            "classes": parse(own_classes) if own_classes else None,
            "warm_start": warm_start or None,
            "movie": movie or None,
            "reattach": reattach or None,
        }
        command(*args, how=how, **options)

    for option in reversed(_SESSION_OPTIONS):
        run = option(run)
    return run


_AS_GIVEN = ("session", "annotator", "strategy", "classifier", "threshold", "audits", "consensus", "overlap", "seed", "format")
_SESSION_OPTIONS = (
    click.option("--session", type=PATH, metavar="DIR", help="Where labels are kept. Default: beside the (first) result."),
    click.option("--annotator", metavar="WHO", help="Who answers. Default: your login name."),
    click.option("--strategy", metavar="NAME", help="Which candidates to ask about (see: actsort plugins). Default: balanced_pi."),
    click.option("--classifier", metavar="NAME", help="Which classifier learns. Default: l1_adaptive."),
    click.option(
        "--features",
        metavar="LIST",
        help="Groups, sets or features: 'trace,host.skew,actsort46', or changes to the defaults: '-host', '+host_verdict'.",
    ),
    click.option(
        "--threshold",
        metavar="T",
        help="Where the line is drawn: pi (default), the estimated share of cells; a probability; favour-precision, favour-recall; "
        "match-labels, as your own labels say; app (.5), paper (.65).",
    ),
    click.option(
        "--audits/--no-audits",
        default=None,
        help="Draw every tenth, later every second question at random, to estimate the quality honestly. "
        "Default: from 1,000 candidates on.",
    ),
    click.option(
        "--class",
        "own_classes",
        multiple=True,
        metavar="NAME=KIND",
        help="A class of your own: --class dendrite=not_cell. Repeat for more.",
    ),
    click.option("--consensus", metavar="HOW", help="Whose label counts where people differ: latest (default), majority, dawid-skene."),
    click.option(
        "--overlap", metavar="SHARE", default="0", help="Share of the questions about what others labelled, like 20%. Default: 0."
    ),
    click.option(
        "--warm-start",
        type=PATH,
        multiple=True,
        metavar="FILES...",
        help="Learn from labels given elsewhere, too: sessions, saved models, ActSort's .mat, annotated files. Put PATH... before it. "
        "Kept in the session; none: no longer.",
    ),
    click.option("--seed", type=int, metavar="S", help="Seed of the random order. Default: 0."),
    click.option("--format", metavar="NAME", help="Read the results as this format instead of finding out."),
    movie_option,
    click.option("--reattach", is_flag=True, help="Go on although few labelled candidates are left in a changed result; no label is lost."),
)


def say_session(session: Session) -> None:
    """Where the session is and what there is to know about it, on stderr."""
    click.echo(f"session: {session.folder}", err=True)
    for note in session.notes:
        click.echo(f"note: {note}", err=True)


def plugins_of(ctx: click.Context) -> Plugins:
    """The plug-ins, loaded once per command line."""
    root = ctx.find_root()
    if root.obj is None:
        from actsort_core.plugins import load

        root.obj = load()
    loaded: Plugins = root.obj
    return loaded


def result_or_session(path: Path) -> Path:
    """A path as given; the folder of a session in full, so that it means the same wherever it is opened from."""
    from actsort_core.store import is_session

    return path.resolve() if is_session(path) else path


def say_json(document: Any) -> None:
    """Print one JSON object."""
    click.echo(json.dumps(document, allow_nan=False))


def progress_bar(title: str) -> Progress:
    """A progress bar on stderr, shown once it has taken two seconds."""
    from tqdm import tqdm

    state: dict[str, Any] = {}

    def tell(name: str, done: int, total: int) -> None:
        if state.get("name") != name:
            if "bar" in state:
                state["bar"].close()
            unit = "frames" if name.endswith("frames") else "cells"
            state.update(name=name, bar=tqdm(total=total, desc=f"{title}: {name}", unit=unit, delay=2, leave=False, file=sys.stderr))
        bar = state["bar"]
        bar.update(max(0, done - bar.n))
        if done >= total:
            bar.close()

    return tell


class PathLists(click.Command):
    """Lets options that take several paths take all words up to the next option: ``--warm-start a b``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Name the option before each of its words, which is what click understands."""
        options = [param for param in self.params if isinstance(param, click.Option)]
        lists = {name for param in options if param.multiple and isinstance(param.type, click.Path) for name in param.opts}
        alone = {name for param in options if param.is_flag for name in param.opts}
        out: list[str] = []
        current, last, found = "", "", False
        for word in args:
            if word.startswith("-"):
                current, last = (word if word in lists else ""), word
                out += [] if current else [word]
            elif current:
                out += [current, word]
            else:
                found |= not last or last in alone or "=" in last or out[-1] != last
                out.append(word)
        if not found and any(word in lists for word in args) and not {"-h", "--help"} & set(args):
            taken = next(word for word in args if word in lists)
            raise UsageError("No path is left to work on.", f"Put PATH before {taken}, which takes all that follow it.")
        return super().parse_args(ctx, out)
