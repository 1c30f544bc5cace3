"""What `make test-hosts` runs, in an environment that has the real Suite2p: see pipeline.py for how it is called, gui.py for its window."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

# Before Suite2p is imported: it reads and writes ~/.suite2p, and opens windows.
_HOME = tempfile.mkdtemp(prefix="actsort-hosts-")
os.environ.update(
    HOME=_HOME, MPLCONFIGDIR=_HOME, XDG_RUNTIME_DIR=_HOME, XDG_CONFIG_HOME=_HOME, QT_QPA_PLATFORM="offscreen", OMP_NUM_THREADS="1"
)
os.environ.setdefault("NUMBA_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

DEBIAN = Path(__file__).with_name("debian.txt")  # a bare Debian 12 with these, and no others, opens Suite2p's window offscreen


def pytest_configure(config: pytest.Config) -> None:
    try:
        import suite2p  # noqa: F401
    except ImportError as error:
        pytest.exit(f"Suite2p cannot be imported ({error}). 'make test-hosts' makes the environments these tests need.", 2)
    try:
        from qtpy import QtWidgets  # noqa: F401
    except ImportError as error:
        pytest.exit(f"Qt cannot be loaded ({error}). On Debian: apt-get install {' '.join(DEBIAN.read_text().split())}", 2)


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(_HOME, ignore_errors=True)


def pytest_report_header(config: pytest.Config) -> str:
    from importlib.metadata import version

    return f"suite2p {version('suite2p')}, numpy {np.__version__}"


@pytest.fixture(scope="session")
def home() -> Path:
    """The home folder that Suite2p sees."""
    return Path(_HOME)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A movie, the folder it is in, and what the pipeline made of it with the classifier that it brings. Not to be changed."""
    import movie
    import pipeline

    folder = tmp_path_factory.mktemp("finished")
    made = movie.make(seed=0)
    data = pipeline.save_movie(folder / "data", made.frames)
    plane = pipeline.run(data, folder) / "plane0"
    truth = movie.truth(plane, made, pipeline.stat(plane))
    return SimpleNamespace(movie=made, data=data, plane=plane, truth=truth)


@pytest.fixture
def plane(finished: SimpleNamespace, tmp_path: Path) -> Path:
    """A copy of the plane, and ``truth.json`` beside the folder ``suite2p``."""
    shutil.copytree(finished.plane.parent, tmp_path / "suite2p")
    (tmp_path / "truth.json").write_text(json.dumps(finished.truth.tolist()))
    return tmp_path / "suite2p" / "plane0"


@pytest.fixture(scope="session")
def curated(finished: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A plane that somebody sorted (forty labels, all true) and wrote."""
    import actsort_core as actsort

    folder = tmp_path_factory.mktemp("sorted")
    shutil.copytree(finished.plane.parent, folder / "suite2p")
    plane = folder / "suite2p" / "plane0"
    with actsort.open(plane, seed=0, annotator="ann") as session:
        session.sort(lambda candidate: bool(finished.truth[candidate.index]), labels=40)
        session.write()
        decided = np.array([decision.accepted for decision in session.decisions()])
        labels = {label.candidate.index: label.value == "cell" for label in session.labels()}
    return SimpleNamespace(plane=plane, folder=session.folder, decided=decided, labels=labels)


@pytest.fixture(scope="session")
def model(curated: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What was learned there, saved."""
    import pipeline

    folder = tmp_path_factory.mktemp("saved") / "our-model"
    pipeline.actsort("model", curated.plane, "--save", folder)
    return folder


@pytest.fixture
def content() -> Callable[[Path], dict[str, bytes]]:
    """Every file below a folder, without what a session keeps there."""

    def take(folder: Path) -> dict[str, bytes]:
        files = sorted(p for p in folder.rglob("*") if p.is_file())
        return {str(p.relative_to(folder)): p.read_bytes() for p in files if "actsort" not in p.relative_to(folder).parts}

    return take
