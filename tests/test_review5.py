"""What a person from another lab ran into: each of these once went wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from actsort_core.cli import main


def run(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def plain(path: Path, n_cells: int = 8) -> Path:
    """A small result in one file."""
    rng = np.random.default_rng(0)
    footprints = np.zeros((n_cells, 9, 11))
    for i in range(n_cells):
        footprints[i, i % 7 : i % 7 + 2, i : i + 2] = 1 + i
    np.savez(path, footprints=footprints, traces=rng.random((n_cells, 40)), fps=10.0, accepted=np.arange(n_cells) % 2)
    return path


@pytest.fixture
def curated(tmp_path: Path) -> Path:
    result = plain(tmp_path / "r.npz")
    answers = tmp_path / "answers.csv"
    answers.write_text("\n".join("10"[i % 2] for i in range(8)) + "\n")
    done = run("sort", result, "--oracle", answers, "--labels", 4)
    assert done.exit_code == 0, done.output
    return result


@pytest.mark.parametrize("to", ["json", "csv"])
def test_an_export_never_replaces_a_result_or_a_table_of_somebodys_own(curated: Path, tmp_path: Path, to: str) -> None:
    own = tmp_path / "mine.csv"
    own.write_text("index,label\n0,1\n")
    folder = tmp_path / "folder"
    folder.mkdir()
    link = tmp_path / "link"
    link.symlink_to("nowhere")
    for there in (curated, own, folder, link):
        before = there.read_bytes() if there.is_file() else b""
        done = run("export", curated, there, "--to", to)
        assert done.exit_code == 2, done.output
        assert "exists already" in done.output
        assert (there.read_bytes() if there.is_file() else b"") == before
    assert link.is_symlink()


@pytest.mark.parametrize("name", ["out.json", "out.csv"])
def test_an_earlier_export_and_an_empty_file_are_replaced(curated: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    for _ in range(2):
        assert run("export", curated, tmp_path / name).exit_code == 0
    assert (tmp_path / name).stat().st_size > 0


def minian_of(result: Path, folder: Path) -> Path:
    done = run("convert", result, folder, "--to", "minian")
    assert done.exit_code == 0, done.output
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_nothing_is_converted_into_the_source(tmp_path: Path) -> None:
    """Minian's open_minian takes every folder in its own for a store; Suite2p takes another plane for one of the recording."""
    result = plain(tmp_path / "r.npz")
    minian = minian_of(result, tmp_path / "minian")
    done = run("convert", result, tmp_path / "suite2p" / "plane0", "--to", "suite2p")
    assert done.exit_code == 0, done.output
    planes = tmp_path / "suite2p"
    for src, dst, to in (
        (minian, minian / "again", "minian"),
        (minian, minian / "deep" / "down.npz", "plain"),
        (planes, planes / "plane1", "suite2p"),
        (planes / "plane0", planes / "plane0" / "r.hdf5", "caiman"),
    ):
        before = tree(src)
        done = run("convert", src, dst, "--to", to)
        assert done.exit_code == 2, done.output
        assert "part of the result" in done.output
        assert tree(src) == before
    assert run("convert", planes / "plane0", planes / "plane1", "--to", "suite2p").exit_code == 0  # beside it: meant
    assert run("convert", planes, planes / "all.nwb", "--to", "nwb").exit_code == 0
    assert run("convert", result, tmp_path / "other.npz", "--to", "plain").exit_code == 0


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.parametrize("more", [(), ("--format", "cnmfe")])
def test_a_named_pipe_is_refused_and_not_waited_for(tmp_path: Path, more: tuple[str, ...]) -> None:
    os.mkfifo(tmp_path / "pipe")
    command = [sys.executable, "-m", "actsort_core", "info", str(tmp_path / "pipe"), *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "neither a file nor a folder" in done.stderr


@pytest.mark.parametrize("command", [lambda r, p: ("info", p), lambda r, p: ("convert", r, p, "--to", "plain")])
def test_a_name_that_is_too_long_is_the_persons_to_mend(tmp_path: Path, command: Callable[[Path, Path], tuple[object, ...]]) -> None:
    done = run(*command(plain(tmp_path / "r.npz"), tmp_path / ("x" * 300)))
    assert done.exit_code == 1
    assert "so long a name" in done.output
    assert "report" not in done.output


def test_the_help_of_import_labels_keeps_its_lines() -> None:
    shown = run("import-labels", "--help").output
    assert "\\b" not in shown
    assert "\n    iscell.npy, a list  " in shown
