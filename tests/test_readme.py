"""What the README shows works as shown, on the results that ship with the repository."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
DATA = ROOT / "examples" / "data"
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The code blocks of the README in `language` ("" for those that name none)."""
    found: list[tuple[str, list[str]]] = []
    inside = False
    for line in README.splitlines():
        if line.startswith("```"):
            inside = not inside
            if inside:
                found.append((line[3:], []))
        elif inside:
            found[-1][1].append(line)
    return ["\n".join(lines) for name, lines in found if name == language]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    shutil.copytree(DATA / "suite2p", tmp_path / "suite2p")
    shutil.copyfile(DATA / "caiman_2p.hdf5", tmp_path / "results.hdf5")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_three_lines_from_a_script_curate_a_suite2p_plane(folder):
    truth = json.loads((DATA / "suite2p.truth.json").read_text())["truth"]
    asked = []

    def ask_me(candidate):
        asked.append(candidate.index)
        return "cell" if truth[candidate.index] else "not_cell"

    (code,) = [block for block in blocks("python") if "session.sort" in block]
    assert len([line for line in code.splitlines() if line.startswith("session")]) == 3
    namespace = {"ask_me": ask_me}
    exec(code, namespace)
    namespace["session"].close()
    iscell = np.load(folder / "suite2p/plane0/iscell.npy")
    assert len(asked) == len(set(asked)) == 40
    assert [iscell[i, 0] for i in asked] == [truth[i] for i in asked]
    assert np.mean(iscell[:, 0] == truth) > 0.95


def test_the_loop_by_hand_works_on_a_caiman_file(folder):
    truth = json.loads((DATA / "caiman_2p.truth.json").read_text())["truth"]
    before = (folder / "results.hdf5").read_bytes()
    (code,) = [block for block in blocks("python") if "session.undo" in block]
    code = code.replace("< 40", "< 30")  # the example has 38 candidates
    namespace = {"ask_me": lambda candidate: bool(truth[candidate.index])}
    exec("import actsort_core as actsort\n" + code, namespace)
    assert (folder / "results.hdf5").read_bytes() == before, "a dry run must not touch the file"
    assert len(namespace["session"].labels()) == 29, "thirty given, one undone"


def test_the_commands_of_the_readme_run_one_after_the_other(folder):
    (commands,) = [block for block in blocks("sh") if "actsort sort" in block]
    before = (folder / "suite2p/plane0/iscell.npy").read_bytes()
    for line in commands.splitlines():
        words = line.split("#")[0].split()
        assert words[0] == "actsort"
        done = subprocess.run(
            [sys.executable, "-m", "actsort_core", *words[1:]], input="yyynnnyuzq", capture_output=True, encoding="utf-8", check=False
        )
        assert done.returncode == 0, (line, done.stderr)
        if words[1:] == ["write", "suite2p/plane0"]:
            assert (folder / "suite2p/plane0/iscell.npy").read_bytes() != before
    assert (folder / "suite2p/plane0/iscell.npy").read_bytes() == before, "restore is the last command"


def test_the_demo_output_in_the_readme_is_what_the_demo_prints(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "actsort_core", "demo", "--data", str(DATA), "--out", str(tmp_path / "demo-output")],
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    printed = done.stdout.replace(str(tmp_path) + "/", "")
    (shown,) = [block for block in blocks("") if "annotator" in block]
    figures = r"(labels asked|balanced accuracy|the same for).*"
    assert [m.group() for m in re.finditer(figures, shown)] == [m.group() for m in re.finditer(figures, printed)]
    assert len(re.findall("balanced accuracy", shown)) == 3


def test_files_the_readme_points_to_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
