"""Broken and hostile files of every format, and kills in the middle of every write (docs/testing.md).

Every adapter is taken as it appears in actsort_adapters. What is done is in tests/hostile.py and tests/hostile_files.py, and is done in
processes of their own: a crash, a hang or a full memory is a failure with a name, not the end of the tests.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

pytest.importorskip("resource", reason="limits on memory and SIGKILL need a POSIX system")

import hostile

HERE = Path(__file__).parent
MUTANTS = int(os.environ.get("ACTSORT_MUTANTS", "200"))  # 1,000 in .ci/run
HOSTILE = max(60, MUTANTS * 180 // 1000)  # variants of the first sample, a quarter of that of two others
KILLS = int(os.environ.get("ACTSORT_KILLS", max(12, MUTANTS // 25)))  # of the write of one sample; 100 are all file operations there are
SEED = int(os.environ.get("ACTSORT_SEED", "1"))
FORMATS = []
for _adapter in hostile.adapters():
    try:
        FORMATS += [(_adapter, name) for name in hostile.formats_of(_adapter).formats]
    except ImportError:  # its tests fail, those of the others run
        FORMATS.append((_adapter, ""))
ONE = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")  # no threads where one forks
CALM = {"PYTHONPATH": str(HERE.parent), **ONE}


def run(task: str, adapter: str, name: str, folder: Path, count: int = 0) -> dict[str, Any]:
    """One task of tests/hostile.py; what it was trying when it failed is in the message."""
    words = [sys.executable, str(HERE / "hostile.py"), task, adapter, name, str(count), str(SEED), str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=1200, env={**os.environ, **CALM}, check=False)
    trying = folder / "trying"
    said = f"while trying {trying.read_text()}" if trying.exists() else "before trying anything"
    if done.returncode == -signal.SIGSEGV:  # nothing of ours is compiled; what HDF5 does in its own process nobody can catch
        pytest.skip(f"the HDF5 library of h5py {h5py.__version__} itself crashed {said}")
    assert done.returncode == 0, f"{name}: ended with {done.returncode} {said}\n{done.stderr[-4000:]}"
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report


@pytest.mark.parametrize(("adapter", "name"), FORMATS)
def test_mutated_files_are_refused_or_read_as_something_valid(adapter: str, name: str, tmp_path: Path) -> None:
    report = run("mutants", adapter, name, tmp_path, MUTANTS)
    if not list((tmp_path / "samples").iterdir()):
        pytest.skip(f"there is no file of {name} to be broken here")
    assert report["count"] >= MUTANTS
    assert report["refused"] > MUTANTS // 10  # most mutants of most formats are noticed
    assert report["grown"] < hostile.GROWTH, report


@pytest.mark.parametrize(("adapter", "name"), FORMATS)
def test_hostile_files_do_no_harm(adapter: str, name: str, tmp_path: Path) -> None:
    report = run("nasty", adapter, name, tmp_path, HOSTILE)
    if not list((tmp_path / "samples").iterdir()):
        pytest.skip(f"there is no file of {name} to be made hostile here")
    assert report["count"] > 20
    assert report["refused"] > 5
    assert report["grown"] < hostile.GROWTH, report


@pytest.mark.parametrize(("adapter", "name"), FORMATS)
def test_kills_at_every_file_operation_leave_whole_files_and_the_next_run_recovers(adapter: str, name: str, tmp_path: Path) -> None:
    report = run("kills", adapter, name, tmp_path, KILLS)
    if not report["samples"]:
        pytest.skip(f"there is no file of {name} to be written to here")
    assert report["writes"] >= 10
    if isinstance(hostile.formats_of(adapter).formats[name], hostile.CreatingFormat):
        assert report["creates"] >= 5


@pytest.mark.parametrize("what", ["text", "zeros", "half"])
def test_the_command_line_names_the_problem_without_a_traceback(what: str, tmp_path: Path) -> None:
    """The real command, as a person meets it."""
    good = HERE / "data/caiman/cnmf_3d_evaluated.hdf5"
    content = {"text": b"Dear diary", "zeros": bytes(10_000), "half": good.read_bytes()[: good.stat().st_size // 2]}[what]
    path = tmp_path / "results.hdf5"
    path.write_bytes(content)
    for words in (["info"], ["sort", "--oracle", str(path)], ["write"], ["info", "--format", "caiman"]):
        call = [sys.executable, "-m", "actsort_core", words[0], str(path), *words[1:]]
        done = subprocess.run(call, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode in (1, 2), done
        assert done.stderr.startswith("actsort: ")
        assert "Traceback" not in done.stderr
        assert "unexpected" not in done.stderr
    assert path.read_bytes() == content
    assert [p.name for p in tmp_path.iterdir()] == ["results.hdf5"]


def test_a_mutant_is_the_same_each_time() -> None:
    content = np.random.default_rng(0).bytes(1000)
    damages = [hostile.Damage(kind, 0.3, 8, 12345) for kind in hostile.DAMAGES]
    for damage in damages:
        assert hostile.damaged(content, [damage]) == hostile.damaged(content, [damage]) != content
