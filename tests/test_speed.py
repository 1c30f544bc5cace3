"""The speed script runs what a session runs, and says what it measured."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks/learning.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, timeout=120, check=False)


def test_it_prints_ratios_and_memory_for_each_size() -> None:
    done = run("--no-rivals", "--sizes", "1200", "3000", "--labels", "16")
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^([\d,]+) candidates", done.stdout, re.M) == ["1,200", "3,000"]
    ratios = [float(value) for value in re.findall(r"([\d.]+) products where the strategy asks, [\d.]+ where an audit", done.stdout)]
    memory = [float(value) for value in re.findall(r"([\d.]+) feature tables of memory", done.stdout)]
    assert len(ratios) == len(memory) == 2
    assert min(ratios) > 1  # a turn without the product would be no turn
    assert 1 < max(memory) < 3


def test_other_packages_need_a_place() -> None:
    done = run("--sizes", "1200")
    assert done.returncode == 2
    assert "--env" in done.stderr


@pytest.mark.slow
def test_the_script_for_features_says_what_was_asked_for_and_found() -> None:
    script = SCRIPT.with_name("features.py")
    command = [sys.executable, str(script), "--quick", "--cells", "20", "--frames", "100", "--only", "movie,clips"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    ratio = dict(re.findall(r"^(.*?), processor +([\d.]+) x", done.stdout, re.M))
    assert float(ratio["all movie features"]) > 0
    assert float(ratio["candidate by candidate takes"]) > 0
    (size,) = re.findall(r"clips of 1,000 candidates +([\d.]+) MB", done.stdout)
    assert 1 < float(size) < 35
    assert subprocess.run([*command[:2], "--only", "nothing"], capture_output=True, check=False).returncode == 2
