"""The examples of use outside the toolkits: a plain function for other libraries, and a batch on a cluster."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp

import actsort_core as actsort
from actsort_core.oracle import balanced_accuracy
from actsort_core.simulate import simulate

EXAMPLES = Path(__file__).parents[1] / "examples"
FOV = (36, 47)
pytestmark = pytest.mark.skipif(not (EXAMPLES / "elsewhere").is_dir(), reason="examples are missing")


def load(path: Path) -> ModuleType:
    """Import one of the example files."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def backend() -> ModuleType:
    return load(EXAMPLES / "elsewhere" / "backend.py")


def arrays(seed: int, n_cells: int = 70) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Masks ``(n_cells, rows, columns)``, traces, and the truth."""
    recording, truth = simulate(n_cells, fov=FOV, n_frames=300, seed=seed)
    masks = np.asarray(recording.footprints.todense()).T.reshape(n_cells, *FOV)
    return masks, np.asarray(recording.traces[0:n_cells]), truth


class TestBackend:
    def test_it_asks_a_few_and_decides_on_all(self, backend: ModuleType) -> None:
        masks, traces, truth = arrays(1)
        asked: list[int] = []

        def answer(index: int) -> bool:
            asked.append(index)
            return bool(truth[index])

        found = backend.decide(masks, traces, 15, answer=answer, questions=25)
        assert len(set(asked)) == len(asked) == 25
        assert (found.origin[asked] == "label").all()
        assert (np.delete(found.origin, asked) == "model").all()
        assert (found.accepted[asked] == truth[asked]).all()
        assert found.accepted.dtype == bool
        assert np.isfinite(found.probability).all()
        assert balanced_accuracy(found.accepted, truth) > 0.85
        assert "metrics" not in str(found.notes)

    def test_the_same_twice_and_nothing_is_left(self, backend: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        masks, traces, truth = arrays(2)
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        first, second = (backend.decide(masks, traces, 15, answer=lambda i: truth[i], questions=20, seed=3) for _ in range(2))
        assert (first.accepted == second.accepted).all()
        assert first.probability.tolist() == second.probability.tolist()
        assert list(tmp_path.iterdir()) == []

    def test_sparse_footprints_are_the_same_as_dense(self, backend: ModuleType) -> None:
        masks, traces, truth = arrays(3)
        labels = {i: bool(truth[i]) for i in range(30)}
        dense = backend.decide(masks, traces, 15, labels=labels)
        for make in (sp.csc_matrix, sp.csr_matrix, sp.coo_matrix):
            sparse = backend.decide(make(masks.reshape(len(masks), -1).T), traces, 15, fov=FOV, labels=labels)
            assert sparse.probability.tolist() == dense.probability.tolist()

    def test_labels_win_and_unsure_is_left_to_the_model(self, backend: ModuleType) -> None:
        masks, traces, truth = arrays(4)
        wrong = {i: not truth[i] for i in range(4)}
        found = backend.decide(masks, traces, 15, labels={**wrong, **{i: bool(truth[i]) for i in range(4, 30)}, 40: None})
        assert found.accepted[:4].tolist() == list(wrong.values())
        assert found.origin[40] == "model"

    def test_a_folder_keeps_the_labels_for_the_next_call(self, backend: ModuleType, tmp_path: Path) -> None:
        masks, traces, truth = arrays(5)
        asked: list[int] = []

        def answer(index: int) -> bool:
            asked.append(index)
            return bool(truth[index])

        backend.decide(masks, traces, 15, answer=answer, questions=12, folder=tmp_path / "kept")
        first = list(asked)
        backend.decide(masks, traces, 15, answer=answer, questions=20, labels={first[0]: bool(truth[first[0]])}, folder=tmp_path / "kept")
        assert len(set(asked)) == len(asked) == 20
        with actsort.open(tmp_path / "kept" / "candidates.npz", read_only=True) as session:
            assert [label.candidate.index for label in session.labels()] == sorted(asked)
            assert len(session.events()) == 20

    def test_a_model_of_another_recording_decides_without_questions(self, backend: ModuleType, tmp_path: Path) -> None:
        masks, traces, truth = arrays(6, 90)
        backend.decide(masks, traces, 15, labels=dict(enumerate(map(bool, truth))), folder=tmp_path / "first")
        masks, traces, truth = arrays(7)
        found = backend.decide(masks, traces, 15, model=tmp_path / "first" / "candidates.npz")
        assert (found.origin == "model").all()
        assert balanced_accuracy(found.accepted, truth) > 0.8

    def test_numbers_of_ones_own_are_learned_from(self, backend: ModuleType) -> None:
        masks, _, truth = arrays(8)
        rng = np.random.default_rng(0)
        noise = rng.normal(size=(70, 200))
        shuffled = masks[rng.permutation(70)]  # shapes tell nothing any more
        labels = {i: bool(truth[i]) for i in range(40)}
        without = backend.decide(shuffled, noise, 15, labels=labels)
        given = backend.decide(shuffled, noise, 15, labels=labels, metrics={"score": truth + rng.normal(0, 0.15, 70)})
        assert balanced_accuracy(given.accepted[40:], truth[40:]) > 0.9 > balanced_accuracy(without.accepted[40:], truth[40:])

    def test_nobody_decides_where_there_is_nothing_to_go_by(self, backend: ModuleType) -> None:
        masks, traces, _ = arrays(9)
        found = backend.decide(masks, traces)
        assert not found.accepted.any()
        assert set(found.origin) == {"none"}
        assert np.isnan(found.probability).all()

    @pytest.mark.parametrize("n_cells", [0, 1])
    def test_few_candidates(self, backend: ModuleType, n_cells: int) -> None:
        found = backend.decide(
            np.ones((n_cells, 5, 7), np.float32), np.zeros((n_cells, 30)), 15, labels=dict.fromkeys(range(n_cells), True)
        )
        assert found.accepted.tolist() == [True] * n_cells

    def test_arrays_that_do_not_fit_are_refused_with_a_sentence(self, backend: ModuleType) -> None:
        masks, traces, _ = arrays(10)
        with pytest.raises(actsort.ActsortError, match="70"):
            backend.decide(masks, traces[:-1], 15)
        with pytest.raises(actsort.ActsortError):
            backend.decide(masks, traces, 15, labels={70: True})

    def test_an_object_with_the_methods_of_a_segmentation_extractor(self, backend: ModuleType) -> None:
        masks, traces, truth = arrays(11)
        segmentation = SimpleNamespace(
            get_roi_ids=lambda: [f"roi{i}" for i in range(len(masks))],
            get_roi_image_masks=lambda roi_ids: np.moveaxis(masks[[int(name[3:]) for name in roi_ids]], 0, -1),
            get_traces=lambda roi_ids, name: {"raw": traces.T}[name],
            get_sampling_frequency=lambda: 15,
        )
        labels = {i: bool(truth[i]) for i in range(30)}
        through = backend.decide_extractor(segmentation, labels=labels)
        assert through.probability.tolist() == backend.decide(masks, traces, 15, labels=labels).probability.tolist()

    def test_a_real_extractor_of_roiextractors(self, backend: ModuleType) -> None:
        testing = pytest.importorskip("roiextractors.testing", reason="RoiExtractors is not installed; 'make test-hosts' runs this")
        segmentation = testing.generate_dummy_segmentation_extractor(num_rois=40, num_samples=120, num_rows=25, num_columns=31)
        labels = {i: bool(i % 2) for i in range(20)}
        found = backend.decide_extractor(segmentation, labels=labels)
        masks = np.moveaxis(segmentation.get_roi_image_masks(), -1, 0)
        assert masks.shape == (40, 25, 31)
        traces, fps = segmentation.get_traces(name="raw").T, segmentation.get_sampling_frequency()
        assert found.probability.tolist() == backend.decide(masks, traces, fps, labels=labels).probability.tolist()


Lab = SimpleNamespace


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """A lab's folder: day1 is sorted, days 2 to 4 are not, and the example of the cluster is beside them."""
    folder = tmp_path / "the lab"  # a space, as on many a share
    folder.mkdir()
    truths: dict[str, np.ndarray] = {}
    for day in (1, 2, 3, 4):
        masks, traces, truths[f"day{day}"] = arrays(20 + day, 80 if day == 1 else 60)
        np.savez(folder / f"day{day}.npz", footprints=masks, traces=traces, fps=15.0)
    with actsort.open(folder / "day1.npz") as session:
        session.sort(lambda candidate: bool(truths["day1"][candidate.index]), labels=60)
    for file in (EXAMPLES / "cluster").iterdir():
        if file.is_file():
            shutil.copy(file, folder)
    bin = folder.parent / "bin"
    bin.mkdir()
    (bin / "actsort").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m actsort_core "$@"\n')
    (bin / "actsort").chmod(0o755)
    path = os.pathsep.join([str(bin), str(Path(sys.executable).parent), os.environ["PATH"]])
    env = {**os.environ, "PATH": path, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}

    def start(*words: str, **more: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen(list(words), cwd=folder, env={**env, **more}, stdout=pipe, stderr=pipe, text=True)

    def run(*words: str, status: int = 0, **more: str) -> str:
        process = start(*words, **more)
        out, err = process.communicate(timeout=240)
        assert process.returncode == status, f"{words}\n{out}\n{err}"
        return out + err

    return SimpleNamespace(folder=folder, truths=truths, run=run, start=start)


def check_sorted(lab: Lab, days: Mapping[str, bool]) -> None:
    """The days that were sorted hold good decisions in their files, the others hold none."""
    for day, done in days.items():
        with np.load(lab.folder / f"{day}.npz") as file:
            assert ("accepted" in file) == done
            if done:
                assert balanced_accuracy(file["accepted"], lab.truths[day]) > 0.8


posix = pytest.mark.skipif(os.name == "nt", reason="a script for bash")


@posix
class TestArrayJob:
    """The script that a cluster starts many times, here at once by hand."""

    def jobs(self, lab: Lab, numbers: tuple[int, ...]) -> list[int]:
        words = ("bash", "array_job.sh", "our-model", "results.txt", "sorted")
        running = [lab.start(*words, SLURM_ARRAY_TASK_ID=str(number)) for number in numbers]
        for process in running:
            process.communicate(timeout=240)
        return [process.returncode for process in running]

    def test_every_line_of_the_list_is_sorted_and_the_table_says_so(self, lab: Lab) -> None:
        lab.run("actsort", "model", "day1.npz", "--save", "our-model")
        (lab.folder / "results.txt").write_text("day2.npz\nday3.npz\nday4.npz\n")
        assert self.jobs(lab, (1, 2, 3)) == [0, 0, 0]
        check_sorted(lab, {"day2": True, "day3": True, "day4": True})
        said = lab.run(sys.executable, "summary.py", *(f"sorted/{i}.json" for i in (1, 2, 3)))
        header, *lines = (line.split(",") for line in said.splitlines())
        assert [line[0] for line in lines] == ["day2.npz", "day3.npz", "day4.npz"]
        with np.load(lab.folder / "day3.npz") as file:
            assert int(lines[1][header.index("accepted")]) == file["accepted"].sum()
            accepted = file["accepted"]
        assert self.jobs(lab, (2,)) == [0]  # again
        with np.load(lab.folder / "day3.npz") as file:
            assert (file["accepted"] == accepted).all()
        lab.run("actsort", "restore", "day2.npz")
        check_sorted(lab, {"day2": False, "day3": True})

    def test_a_result_that_fails_stops_nothing_and_is_in_the_table(self, lab: Lab) -> None:
        lab.run("actsort", "model", "day1.npz", "--save", "our-model")
        damaged = (lab.folder / "day3.npz").read_bytes()[:5000]
        (lab.folder / "day3.npz").write_bytes(damaged)
        (lab.folder / "results.txt").write_text("day2.npz\nday3.npz\n")
        assert self.jobs(lab, (1, 2, 3)) == [0, 1, 2]
        check_sorted(lab, {"day2": True})
        assert (lab.folder / "day3.npz").read_bytes() == damaged
        assert sorted(file.name for file in (lab.folder / "sorted").iterdir()) == ["1.json", "2.json"]
        said = lab.run(sys.executable, "summary.py", "sorted/1.json", "sorted/2.json").splitlines()
        assert len(said) == 3
        assert "day3.npz" in said[2]


@posix
class TestSnakemake:
    """The real Snakemake, where it is installed: `make test-hosts` does so."""

    @pytest.fixture
    def snakemake(self, lab: Lab) -> Callable[..., str]:
        pytest.importorskip("snakemake", reason="Snakemake is not installed; 'make test-hosts' runs this")
        config = {"labelled": "day1.npz", "results": {day: f"{day}.npz" for day in ("day2", "day3", "day4")}}
        (lab.folder / "config.yaml").write_text(json.dumps(config))  # which is YAML, too

        def run(*more: str, status: int = 0) -> str:
            return lab.run(sys.executable, "-m", "snakemake", "--cores", "2", *more, status=status)

        return run

    def test_the_workflow_sorts_everything_once(self, lab: Lab, snakemake: Callable[..., str]) -> None:
        snakemake()
        check_sorted(lab, {"day2": True, "day3": True, "day4": True})
        table = (lab.folder / "sorted" / "summary.csv").read_text().splitlines()
        assert [line.split(",")[0] for line in table[1:]] == ["day2.npz", "day3.npz", "day4.npz"]
        assert "Nothing to be done" in snakemake()

    def test_a_result_that_is_extracted_again_is_sorted_again(self, lab: Lab, snakemake: Callable[..., str]) -> None:
        snakemake()
        written = {day: (lab.folder / f"{day}.npz").stat().st_mtime_ns for day in ("day2", "day4")}
        masks, traces, lab.truths["day3"] = arrays(99, 60)
        np.savez(lab.folder / "day3.npz", footprints=masks, traces=traces, fps=15.0)
        shutil.rmtree(lab.folder / "day3.npz.actsort")
        snakemake()
        check_sorted(lab, {"day3": True})
        assert {day: (lab.folder / f"{day}.npz").stat().st_mtime_ns for day in written} == written

    def test_a_result_that_fails_is_named_and_the_others_go_on(self, lab: Lab, snakemake: Callable[..., str]) -> None:
        (lab.folder / "day3.npz").write_bytes(b"PK\x03\x04 broken")
        said = snakemake("--keep-going", status=1)
        assert "day3.npz" in said
        check_sorted(lab, {"day2": True, "day4": True})
        assert not (lab.folder / "sorted" / "day3.json").exists()
        assert not (lab.folder / "sorted" / "summary.csv").exists()


def test_the_example_of_the_cluster_names_files_that_do_not_depend_on_the_machine() -> None:
    for file in (EXAMPLES / "cluster").iterdir():
        assert "/home/" not in file.read_text()
