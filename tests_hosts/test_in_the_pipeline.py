"""`classify_with`: our model in the place of Suite2p's classifier, while `run_s2p` runs."""

from __future__ import annotations

import inspect
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import movie as movies
import numpy as np
import pytest
import suite2p
from pipeline import OLD, run, save_movie, stat

import actsort_core
from actsort_adapters.hosts.suite2p import classify_with


def everything() -> dict[str, Any]:
    """All attributes of all of Suite2p's modules."""
    modules = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "suite2p" and inspect.ismodule(module)}
    return {f"{name}.{key}": value for name, module in modules.items() for key, value in vars(module).items() if not key.startswith("__")}


def check_restored(before: dict[str, Any]) -> None:
    """Modules may be imported meanwhile; what was there is the same object."""
    after = everything()
    assert [key for key, value in before.items() if after.get(key) is not value] == []


def test_labels_of_the_same_movie_stand_and_the_model_decides_on_the_rest(
    curated: SimpleNamespace, finished: SimpleNamespace, tmp_path: Path
) -> None:
    before = everything()
    with classify_with(curated.plane) as steps:
        plane = run(finished.data, tmp_path) / "plane0"
    check_restored(before)
    assert [len(step.error) for step in steps.planes] == [0]
    table = np.load(plane / "iscell.npy")
    assert table.shape == (len(finished.truth), 2)
    for index, cell in curated.labels.items():
        assert table[index].tolist() == [cell, cell]
    assert movies.balanced(table[:, 0], finished.truth) > 0.9
    assert ((table[:, 1] > 0.5) == (table[:, 0] == 1)).all()


def two_planes(data: Path, out: Path, model: Path) -> Any:
    """Run Suite2p with our model on two planes; what happened to each."""
    with classify_with(model) as steps:
        if OLD:  # its own mistake, a print of what one channel does not have, after all planes are done
            with pytest.raises(UnboundLocalError):
                run(data, out, n_planes=2)
        else:
            run(data, out, n_planes=2)
    return steps


def test_several_planes_and_one_that_the_model_cannot_judge(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails in ours costs neither the run nor any file: Suite2p's own classifier decides there, and a warning says so."""
    from actsort_adapters.hosts import _suite2p_step

    made = [movies.make(seed=seed, n_frames=300) for seed in (5, 6)]
    data = save_movie(tmp_path / "data", *(one.frames for one in made))
    judge = _suite2p_step._judge

    def fails_on_plane1(recording: Any, *args: Any) -> Any:
        if recording.name == "plane1":
            raise MemoryError("the model is too large")
        return judge(recording, *args)

    monkeypatch.setattr(_suite2p_step, "_judge", fails_on_plane1)
    before = everything()
    with pytest.warns(UserWarning, match="the model is too large"):
        steps = two_planes(data, tmp_path, model)
    check_restored(before)
    assert [bool(step.error) for step in steps.planes] == [False, True]

    folder = tmp_path / "suite2p"
    names = {"F.npy", "Fneu.npy", "spks.npy", "stat.npy", "iscell.npy", "ops.npy", "data.bin"}
    for plane in ("plane0", "plane1"):
        assert names <= {file.name for file in (folder / plane).iterdir()}
    own = suite2p.classification.classify(stat(folder / "plane1"), suite2p.classification.builtin_classfile)
    assert np.load(folder / "plane1" / "iscell.npy").tolist() == own.tolist()

    # The same as `actsort apply` after the run, the movie's evidence included
    table = np.load(folder / "plane0" / "iscell.npy")
    copy = tmp_path / "copy" / "plane0"
    shutil.copytree(folder / "plane0", copy)
    (result,) = actsort_core.apply(model, copy)
    assert not result.error
    assert np.load(copy / "iscell.npy")[:, 0].tolist() == table[:, 0].tolist()
    assert np.load(copy / "iscell.npy")[:, 1] == pytest.approx(table[:, 1], abs=1e-4)
    assert movies.balanced(table[:, 0], movies.truth(folder / "plane0", made[0], stat(folder / "plane0"))) > 0.75
    if not OLD:
        combined = np.load(folder / "combined" / "iscell.npy")
        assert combined.tolist() == np.concatenate([table, own]).tolist()


def test_an_error_of_the_run_itself_gets_through_and_leaves_suite2p_as_it_was(model: Path, tmp_path: Path) -> None:
    before = everything()
    (tmp_path / "empty").mkdir()
    with pytest.raises(Exception, match=r"."), classify_with(model):
        run(tmp_path / "empty", tmp_path)
    check_restored(before)


def test_a_model_that_is_not_there_is_said_before_anything_runs(tmp_path: Path) -> None:
    before = everything()
    with pytest.raises(actsort_core.ActsortError), classify_with(tmp_path / "no-model"):
        pytest.fail("it was entered")
    check_restored(before)
