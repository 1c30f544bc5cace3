"""What the commands share."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from actsort_core.errors import UsageError

if TYPE_CHECKING:
    from actsort_core.features.table import Progress
    from actsort_core.plugins import Plugins

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
