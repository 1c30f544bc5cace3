"""`actsort suite2p-classifier`: a file that Suite2p's pipeline and window take for one of their own."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from pipeline import actsort, gui, run, stat
from suite2p.classification import Classifier, classify

import actsort_core


@pytest.fixture(scope="module")
def exported(curated: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The file made from the sorted plane, and what was said about it."""
    path = tmp_path_factory.mktemp("exported") / "ours.npy"
    before = (curated.plane / "iscell.npy").read_bytes()
    said = json.loads(actsort("suite2p-classifier", curated.plane, "--out", path, "--json"))
    assert (curated.plane / "iscell.npy").read_bytes() == before
    return SimpleNamespace(path=path, said=said, table=classify(stat(curated.plane), path))


def test_suite2p_loads_it_and_decides_as_was_said(exported: SimpleNamespace, curated: SimpleNamespace) -> None:
    assert Classifier(exported.path).loaded
    accepted = exported.table[:, 0] == 1
    assert 0 < accepted.sum() < len(accepted)
    (one,) = exported.said["recordings"]
    assert (one["n"], one["cells"], one["accepted"]) == (len(accepted), accepted.sum(), curated.decided.sum())
    assert one["same"] == (accepted == curated.decided).sum()
    assert one["same"] > 0.85 * one["n"]
    labelled = np.array(sorted(curated.labels))
    assert one["labelled_same"] == sum(accepted[i] == curated.labels[i] for i in labelled)


def test_the_whole_pool_is_in_it_and_labels_win(exported: SimpleNamespace, curated: SimpleNamespace) -> None:
    held = np.load(exported.path, allow_pickle=True).item()
    rois = stat(curated.plane)
    assert len(held["stats"]) >= max(100, len(rois))
    keys = list(held["keys"])
    for i, roi in enumerate(rois):
        row = np.all([np.isclose(held["stats"][:, keys.index(key)], roi[key], rtol=1e-6) for key in keys], axis=0)
        assert set(held["iscell"][row]) == {curated.labels.get(i, curated.decided[i])}


def test_the_step_before_the_traces_takes_it_too(exported: SimpleNamespace, curated: SimpleNamespace) -> None:
    """`preclassify` asks for two of the three statistics."""
    table = classify(stat(curated.plane), exported.path, keys=["npix_norm", "compact"])
    assert np.isfinite(table).all()


def test_in_the_window_load_and_enter_give_the_same(exported: SimpleNamespace, plane: Path) -> None:
    opened, loaded, entered = gui(plane, ["classifier", str(exported.path)], ["enter", 0.5])
    assert loaded["iscell"] == opened["iscell"]
    assert loaded["probability"] == pytest.approx(exported.table[:, 1].tolist(), abs=1e-9)
    assert entered["iscell"] == exported.table[:, 0].tolist()
    assert [row[0] for row in entered["file"]] == entered["iscell"]


def test_the_pipeline_takes_it_by_its_path(exported: SimpleNamespace, finished: SimpleNamespace, tmp_path: Path) -> None:
    plane = run(finished.data, tmp_path, classifier=exported.path) / "plane0"
    table = np.load(plane / "iscell.npy")
    assert table.tolist() == classify(stat(plane), exported.path).tolist()
    assert table[:, 1].tolist() != np.load(finished.plane / "iscell.npy")[:, 1].tolist()


def test_it_stands_in_for_the_classifier_of_the_user(exported: SimpleNamespace, curated: SimpleNamespace, home: Path) -> None:
    place = home / ".suite2p" / "classifiers" / "classifier_user.npy"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(b"theirs")
    actsort("suite2p-classifier", curated.plane, "--out", place)
    assert Classifier(place).loaded
    assert [file.read_bytes() for file in place.parent.iterdir() if file != place] == [b"theirs"]
    for file in place.parent.iterdir():
        file.unlink()


def cut(plane: Path, n: int) -> None:
    """Leave the first ROIs only."""
    for file in ("F", "Fneu", "spks", "iscell"):
        np.save(plane / f"{file}.npy", np.load(plane / f"{file}.npy")[:n])
    np.save(plane / "stat.npy", stat(plane)[:n])


@pytest.mark.parametrize("n", [99, 40])
def test_fewer_than_a_hundred_rois_make_a_file_that_is_not_refused(n: int, plane: Path, finished: SimpleNamespace, tmp_path: Path) -> None:
    cut(plane, n)
    with actsort_core.open(plane, seed=0) as session:
        session.sort(lambda candidate: bool(finished.truth[candidate.index]), labels=25)
        decided = np.array([decision.accepted for decision in session.decisions()])
    said = json.loads(actsort("suite2p-classifier", plane, "--out", tmp_path / "few.npy", "--json"))
    loaded = Classifier(tmp_path / "few.npy")
    assert loaded.loaded
    accepted = loaded.run(stat(plane))[:, 0] == 1
    assert said["recordings"][0]["same"] == (accepted == decided).sum() > 0.8 * n


def test_one_kind_alone_is_refused_and_nothing_is_written(plane: Path, tmp_path: Path) -> None:
    with actsort_core.open(plane) as session:
        n_cells = len(session.candidates)
        session.record([(session.id(i), "cell", "ann", "review", {}) for i in range(n_cells)])
    assert "Nothing was written" in actsort("suite2p-classifier", plane, "--out", tmp_path / "one.npy", ok=False)
    assert not (tmp_path / "one.npy").exists()
