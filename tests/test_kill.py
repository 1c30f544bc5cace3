"""kill -9 at any moment, with real processes: no acknowledged label is lost, no native file is ever half-written.

Run as a script this file is a nursery: a process that has imported everything and forks one worker for each line on its
standard input. Workers say what they did on standard output; the tests kill them, by their id, whenever they like.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))

import toy_format
from conftest import make_plugins, simulated

from actsort_core import plugins as plugin_module
from actsort_core.errors import MissingFileError
from actsort_core.journal import FILE
from actsort_core.opening import open as open_session

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no fork, no SIGKILL")
SUITE2P = Path(__file__).parent / "data/suite2p/s2p_110/mini/suite2p"


def all_plugins() -> Any:
    try:
        from actsort_adapters import suite2p
    except ImportError:
        return make_plugins()
    return make_plugins(suite2p)


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())  # one write, no buffer: said is said


def label_for_ever(path: str, registered: Any) -> None:
    with open_session(path, plugins=registered, annotator="worker", refit_wait=0) as session:
        say("ready", len(session.labels()))
        step = 0
        while True:
            step += 1
            candidate = session.ask() or session.candidates[step % len(session.candidates)]
            value = ("cell", "not_cell", "unsure")[(candidate.index + step) % 3]
            say("label", session.label(candidate, value) and session.journal.events[-1]["seq"], candidate.index, value)


def write_for_ever(path: str, registered: Any) -> None:
    with open_session(path, plugins=registered, annotator="worker") as session:
        session.wait()
        say("ready")
        while True:
            for threshold in (0.3, 0.7):
                session.threshold = threshold
                session.write()
                say("write", threshold)


def nursery() -> None:
    registered = all_plugins()
    say("up")
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            signal.alarm(120)  # never outlive a test that was stopped itself
            try:
                {"label": label_for_ever, "write": write_for_ever}[order["task"]](order["path"], registered)
            except BaseException as error:
                say("failed", repr(error))
            os._exit(1)
        say("pid", child)
        os.waitpid(child, 0)
        say("gone")


class Nursery:
    def __init__(self) -> None:
        one = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")  # no threads where one forks
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **one}
        )
        assert self.read() == ["up"]

    def read(self) -> list[str]:
        return self.process.stdout.readline().decode().split()

    def run(self, task: str, path: Path, acknowledged: int, pause: float) -> list[list[str]]:
        """Start a worker, kill it `pause` seconds after so many acknowledgements; returns all it said."""
        self.process.stdin.write(json.dumps({"task": task, "path": str(path)}).encode() + b"\n")
        self.process.stdin.flush()
        said: list[list[str]] = []
        pid = 0
        while True:
            words = self.read()
            assert words, "the nursery died"
            if words[0] == "pid":
                pid = int(words[1])
            elif words[0] == "gone":
                return said
            else:
                assert words[0] != "failed", words
                said.append(words)
            if pid and len(said) >= acknowledged:
                if pause:
                    time.sleep(pause)  # a moment that nobody chose
                os.kill(pid, signal.SIGKILL)
                pid, pause = -1, 0
                acknowledged = sys.maxsize


@pytest.fixture(scope="module")
def nursery_process() -> Iterator[Nursery]:
    out = Nursery()
    yield out
    out.process.stdin.close()
    out.process.wait(60)


def test_no_acknowledged_label_is_lost_and_at_most_one_more_is_there(nursery_process, tmp_path):
    rng = random.Random(1)
    path = toy_format.save_folder(tmp_path / "r", simulated()[0])
    registered = make_plugins()
    open_session(path, plugins=registered, classifier="centroid", annotator="x").close()
    expected: list[tuple[int, int, str]] = []  # seq, index, value of every label there must be
    for _ in range(40):
        # 0: killed while it opens (and maybe repairs) the session
        said = nursery_process.run("label", path, rng.choice([0, 1, 2, 3, 8]), rng.choice([0, rng.random() * 0.01]))
        expected += [(int(w[1]), int(w[2]), w[3]) for w in said if w[0] == "label"]
        with open_session(path, plugins=registered, annotator="x", refit_wait=0, prepare=False) as session:
            found = [(e["seq"], e["index"], e["class"]) for e in session.journal.events]
            assert found[: len(expected)] == expected
            assert len(found) <= len(expected) + 1
            assert {(la.candidate.index, la.value) for la in session.labels()} == set({i: v for _, i, v in found}.items())
            expected = found
    assert len(expected) > 60
    assert [p.name for p in tmp_path.joinpath("r").iterdir() if p.name.endswith(".tmp")] == []


def write_under_fire(
    nursery_process: Nursery, path: Path, watched: list[Path], registered: Any, kills: int, check: Callable[[], None]
) -> None:
    """Kill writers again and again; every watched file must always be whole: the original, or one of the two that are written."""
    rng = random.Random(2)
    original = [file.read_bytes() for file in watched]
    allowed = [{content} for content in original]
    with open_session(path, plugins=registered, classifier="centroid", annotator="x", refit_wait=None) as session:
        for i, candidate in enumerate(session.candidates[:12]):
            session.label(candidate, i % 2)
        for threshold in (0.3, 0.7):
            session.threshold = threshold
            session.write()
            for contents, file in zip(allowed, watched, strict=True):
                contents.add(file.read_bytes())
        folder = session.folder
        session.restore()
    assert [file.read_bytes() for file in watched] == original
    assert all(len(contents) == 3 for contents in allowed)
    for number in range(kills):
        said = nursery_process.run("write", path, rng.choice([1, 1, 2, 3]), rng.random() * 0.03)
        assert said[0] == ["ready"]
        for contents, file in zip(allowed, watched, strict=True):
            assert file.read_bytes() in contents, f"{file} is half-written"
        check()
        with open_session(path, plugins=registered, annotator="x") as session:
            assert len(session.labels()) == 12
            assert len(session.decisions()) == len(session.candidates)
            if number % 2:
                try:
                    session.restore()
                except MissingFileError:
                    assert not any(e["kind"] == "write_started" for e in session.journal.events[-1:])
                assert [file.read_bytes() for file in watched] == original
        document = folder / "curation.json"
        assert json.loads(document.read_text())["format_version"] == 1
    with open_session(path, plugins=registered, annotator="x") as session:
        session.write()
        session.restore()
    assert [file.read_bytes() for file in watched] == original
    assert (folder / FILE).is_file()


def test_native_files_are_old_or_new_and_never_half(nursery_process, tmp_path):
    path = toy_format.save_folder(tmp_path / "r", simulated(40, 0, "a")[0], "a")
    toy_format.save_folder(path, simulated(30, 5, "b")[0], "b")
    watched = [path / "a.verdict.json", path / "b.verdict.json"]
    write_under_fire(nursery_process, path, watched, make_plugins(), 25, lambda: None)


def test_a_suite2p_folder_survives_kills_and_its_scan_is_not_disturbed(nursery_process, tmp_path):
    pytest.importorskip("actsort_adapters.suite2p")
    if not SUITE2P.is_dir():
        pytest.skip("the Suite2p fixture is not there")
    path = tmp_path / "suite2p"
    shutil.copytree(SUITE2P, path)
    planes = sorted(p.name for p in path.iterdir() if p.name.startswith("plane"))
    n_cells = len(np.load(path / "plane0/iscell.npy"))
    other = {p.name: p.read_bytes() for p in (path / "plane0").iterdir() if p.is_file() and p.name != "iscell.npy"}

    def check() -> None:
        iscell = np.load(path / "plane0/iscell.npy")  # as Suite2p does: not pickled
        assert (iscell.shape, iscell.dtype) == ((n_cells, 2), np.float64)
        # Suite2p takes every folder whose name starts with "plane" for a plane, and every *.npy it knows by name only
        assert sorted(p.name for p in path.iterdir() if p.name.startswith("plane")) == planes
        here = {p.name: p.read_bytes() for p in (path / "plane0").iterdir() if p.is_file() and not p.name.startswith(".")}
        here.pop("iscell.npy")
        assert here == other

    write_under_fire(nursery_process, path, [path / "plane0/iscell.npy"], plugin_module.load([*_extra()], discover=False), 10, check)


def _extra() -> list[Any]:
    from actsort_adapters import suite2p

    return [suite2p, toy_format]


if __name__ == "__main__":
    nursery()
