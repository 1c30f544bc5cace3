"""Fixtures shared by all tests: small results with known truth in the toy formats (tests/toy_format.py)."""

from __future__ import annotations

import functools
import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

TESTS = Path(__file__).parent
if str(TESTS) not in sys.path:  # --import-mode=importlib leaves the helpers beside the tests unreachable
    sys.path.insert(0, str(TESTS))

if not hasattr(np, "_core"):  # NumPy 1.26.0: the tests' own np.load of files that NumPy 2 wrote (ours needs no such help)
    sys.modules.setdefault("numpy._core", np.core)
    sys.modules.setdefault("numpy._core.multiarray", np.core.multiarray)

import toy_format  # noqa: E402
from browser import chromium, lab, lab_folder, visit  # noqa: E402, F401

from actsort_core import exporters, plugins  # noqa: E402
from actsort_core.cli import main  # noqa: E402
from actsort_core.model import Recording  # noqa: E402
from actsort_core.opening import open as open_session  # noqa: E402
from actsort_core.plugins import Plugins  # noqa: E402
from actsort_core.session import Session  # noqa: E402
from actsort_core.simulate import simulate  # noqa: E402


@functools.cache
def simulated(n_cells: int = 40, seed: int = 0, name: str = "a") -> tuple[Recording, np.ndarray]:
    """A recording and the truth about it; a field of view that is not square."""
    return simulate(n_cells=n_cells, fov=(30, 41), n_frames=120, seed=seed, name=name)


def make_plugins(*more: Any) -> Plugins:
    """The core and the toy formats, nothing that happens to be installed."""
    return plugins.load([exporters, toy_format, *more], discover=False)


@pytest.fixture(scope="session")
def toy_plugins() -> Plugins:
    return make_plugins()


@pytest.fixture
def toy(tmp_path: Path) -> Callable[..., Path]:
    """Makes a ``toy`` folder: ``toy("results", a=40, b=12)`` has two recordings with that many candidates."""

    def make(folder: str = "results", verdicts: bool = True, seed: int = 0, **sizes: int) -> Path:
        for i, (name, n_cells) in enumerate((sizes or {"a": 40}).items()):
            toy_format.save_folder(tmp_path / folder, simulated(n_cells, seed + i, name)[0], name, verdicts)
        return tmp_path / folder

    return make


@pytest.fixture
def result(toy: Callable[..., Path]) -> Path:
    """A ``toy`` folder with one recording of 40 candidates."""
    return toy()


@pytest.fixture
def truth() -> np.ndarray:
    """The truth about `result`."""
    return simulated()[1]


@pytest.fixture
def opened(toy_plugins: Plugins) -> Iterator[Callable[..., Session]]:
    """Opens sessions that are closed at the end of the test, whatever happens. Fits with the toy classifier unless told otherwise."""
    sessions: list[Session] = []

    def opener(*paths: Any, **options: Any) -> Session:
        options.setdefault("plugins", toy_plugins)
        options.setdefault("classifier", "centroid")
        options.setdefault("refit_wait", None)
        options.setdefault("annotator", "ann")
        sessions.append(open_session(*paths, **options))
        return sessions[-1]

    yield opener
    for session in sessions:
        session.close()


@pytest.fixture
def snapshot() -> Callable[[Path], dict[str, Any]]:
    """Everything below a folder: content, mode and modification time of each file, so that any touch shows."""

    def take(folder: Path) -> dict[str, Any]:
        return {
            str(p.relative_to(folder)): (p.read_bytes(), p.stat().st_mode, p.stat().st_mtime_ns) if p.is_file() else "folder"
            for p in sorted(folder.rglob("*"))
            if p.name != ".lock"  # older filelocks truncate it anew each time it is taken
        }

    return take


@pytest.fixture
def hooks() -> SimpleNamespace:
    """A plug-in that writes down every notification: ``make_plugins(hooks.plugin)`` and then ``hooks.calls``."""
    from actsort_core.hookspecs import hookimpl

    calls: list[tuple[str, Any]] = []

    class Recorder:
        @hookimpl
        def actsort_session_opened(self, session):
            calls.append(("opened", session))

        @hookimpl
        def actsort_labels_changed(self, session, labels):
            calls.append(("labels", [(la.candidate.index, la.value) for la in labels]))

        @hookimpl
        def actsort_model_fitted(self, session, predictions):
            calls.append(("fitted", predictions.n_labels))

        @hookimpl
        def actsort_decisions_written(self, session, curations, paths):
            calls.append(("written", (list(curations), list(paths))))

    return SimpleNamespace(plugin=Recorder(), calls=calls, of=lambda kind: [value for name, value in calls if name == kind])


@pytest.fixture
def cli(capsys: Any, monkeypatch: Any, toy_plugins: Plugins) -> Callable[..., SimpleNamespace]:
    """Runs a command in this process: exit status, standard output, standard error."""

    def run(*arguments: object, stdin: str = "", plugins: Plugins | None = None) -> SimpleNamespace:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        capsys.readouterr()
        try:
            main.main([str(a) for a in arguments], prog_name="actsort", obj=plugins or toy_plugins)
            code = 0
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return SimpleNamespace(code=code, out=out, err=err, json=lambda: json.loads(out))

    return run
