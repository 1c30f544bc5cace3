"""The entries of Suite2p's Plugins menu, chosen in its real window."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from movie import balanced
from pipeline import gui

import actsort_core

AGAIN, ASK = "ActSort: sort again", "ActSort: ask me"


@pytest.fixture
def moved(curated: SimpleNamespace, tmp_path: Path) -> Path:
    """A copy of the plane that somebody sorted, with its session."""
    shutil.copytree(curated.plane.parent, tmp_path / "moved" / "suite2p")
    return tmp_path / "moved" / "suite2p" / "plane0"


def labels_of(plane: Path) -> dict[int, str]:
    with actsort_core.open(plane, read_only=True) as session:
        return {label.candidate.index: label.value for label in session.labels()}


def test_the_entries_are_there_and_without_labels_say_what_to_do(plane: Path, content: Callable[[Path], dict[str, bytes]]) -> None:
    before = content(plane)
    opened, chosen = gui(plane, ["plugin", AGAIN])
    assert [name for name in opened["plugins"] if name.startswith("ActSort")] == sorted(opened["plugins"])
    assert len(opened["plugins"]) >= 2
    assert any("three" in " ".join(words) for words in chosen["shown"])
    assert chosen["iscell"] == opened["iscell"]
    assert content(plane) == before


def test_clicks_are_labels_the_rest_is_sorted_again_and_the_window_shows_it(
    moved: Path, curated: SimpleNamespace, finished: SimpleNamespace
) -> None:
    wrong = [int(i) for i in np.flatnonzero(curated.decided != finished.truth) if int(i) not in curated.labels][:3]
    others = [int(i) for i in np.flatnonzero(curated.decided == finished.truth) if int(i) not in curated.labels][: 4 - len(wrong)]
    flipped = wrong + others
    before = np.load(moved / "iscell.npy")
    *_, chosen, entered = gui(moved, *(["flip", i] for i in flipped), ["plugin", AGAIN], ["enter", 0.5])
    assert any("Write this?" in " ".join(words) for words in chosen["shown"])
    table = np.load(moved / "iscell.npy")
    for i in flipped:
        assert table[i].tolist() == [1 - before[i, 0]] * 2
    for i, cell in curated.labels.items():
        assert table[i].tolist() == [cell, cell]
    assert chosen["file"] == table.tolist()
    assert (chosen["iscell"], chosen["probability"]) == (table[:, 0].tolist(), table[:, 1].tolist())
    assert entered["iscell"] == chosen["iscell"]
    said = labels_of(moved)
    assert {i: said[i] for i in flipped} == {i: "not_cell" if before[i, 0] else "cell" for i in flipped}
    assert len(said) == len(curated.labels) + len(flipped)


def test_it_asks_in_the_window_and_writes(plane: Path, finished: SimpleNamespace) -> None:
    truth = finished.truth.tolist()
    old = np.load(plane / "iscell.npy")
    opened, _, done, clicked = gui(plane, ["plugin", ASK], ["answers", [30, truth]], ["flip", 0])
    table = np.array(done["file"])
    assert done["iscell"] == table[:, 0].tolist()
    assert opened["file"] == old.tolist()
    said = labels_of(plane)
    assert len(said) == 30
    assert all((value == "cell") == truth[i] for i, value in said.items())
    assert balanced(table[:, 0], finished.truth) > 0.85
    # the next click writes what was sorted, not what the window held before
    assert np.flatnonzero(np.load(plane / "iscell.npy")[:, 0] != table[:, 0]).tolist() == [0]
    assert clicked["probability"] == done["probability"]
