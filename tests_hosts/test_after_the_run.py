"""`actsort sort` and `write` on what the pipeline just left, and what Suite2p's window makes of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from movie import balanced
from pipeline import OLD, actsort, gui


def test_the_pipeline_found_enough_to_be_sorted(finished: SimpleNamespace) -> None:
    assert 30 < finished.truth.sum() < len(finished.truth) - 30
    assert (finished.plane / "settings.npy").exists() != OLD
    info = json.loads(actsort("info", finished.plane, "--json"))
    assert info["format"] == "suite2p"


def test_sorted_in_the_terminal_written_seen_by_the_window_and_restored(
    plane: Path, finished: SimpleNamespace, content: Callable[[Path], dict[str, bytes]]
) -> None:
    before = content(plane.parent)
    actsort("sort", plane, "--oracle", plane.parents[1] / "truth.json", "--labels", "40", "--seed", "0")
    assert content(plane.parent) == before
    actsort("write", plane)
    changed = {name for name, data in content(plane.parent).items() if before.get(name) != data}
    assert changed == {"plane0/iscell.npy"}

    table, old = np.load(plane / "iscell.npy"), np.load(finished.plane / "iscell.npy")
    assert (table.dtype, table.shape) == (old.dtype, old.shape)
    assert balanced(table[:, 0], finished.truth) > max(0.9, balanced(old[:, 0], finished.truth))

    flipped = int(np.flatnonzero(table[:, 0])[3])
    opened, entered, clicked = gui(plane, ["enter", 0.5], ["flip", flipped])
    assert opened["iscell"] == entered["iscell"] == table[:, 0].astype(int).tolist()
    assert opened["probability"] == table[:, 1].tolist()
    assert np.flatnonzero(np.array(clicked["iscell"]) != table[:, 0]).tolist() == [flipped]

    # The person's click is in the file now; a restore says so rather than throwing it away, and brings back the rest when told to.
    assert np.load(plane / "iscell.npy")[flipped, 0] == 0
    assert "iscell.npy" in actsort("restore", plane, ok=False)
    actsort("restore", plane, "--force")
    assert content(plane.parent) == before


def test_a_click_in_the_window_becomes_a_label(plane: Path, finished: SimpleNamespace) -> None:
    actsort("sort", plane, "--oracle", plane.parents[1] / "truth.json", "--labels", "30", "--seed", "0")
    actsort("write", plane)
    written = np.load(plane / "iscell.npy")
    flipped = int(np.flatnonzero(written[:, 0])[0])
    gui(plane, ["flip", flipped])
    actsort("import-labels", plane, plane)
    actsort("write", plane)
    assert np.load(plane / "iscell.npy")[flipped].tolist() == [0, 0]
