"""The replay of recorded annotators: the protocol, the JSON contract, the command line."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from actsort_core import benchmark
from actsort_core.errors import FormatError, MissingFileError, UnknownNameError, UsageError
from actsort_core.plugins import load

N = 240
PLUGINS = load(discover=False)


def make(path: Path, n: int = N, seed: int = 0, people=("ant", "bee", "cat", "dog"), transposed: bool = False) -> Path:
    """An annotated recording: 6 features, four annotators who err at 5 to 20 %."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 6)).astype(np.float32)
    truth = x @ np.array([2, -1, 1, 0, 0, 0]) + rng.logistic(size=n) > 0.3
    with h5py.File(path, "w") as file:
        file["metrics"] = x.T if transposed else x
        for i, name in enumerate(people):
            said = truth ^ (rng.random(n) < 0.05 * (i + 1))
            file[f"{name}_choices"] = np.where(said, 1.0, -1.0).astype(np.float32)[:, None]
    return path


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> benchmark.Annotated:
    return benchmark.read_annotated(make(tmp_path_factory.mktemp("annotated") / "mouse.mat"))


def test_reading_the_published_layout(recording, tmp_path):
    assert (recording.name, recording.features.shape, list(recording.choices)) == ("mouse", (N, 6), ["ant", "bee", "cat", "dog"])
    assert {int(v) for c in recording.choices.values() for v in c} == {-1, 1}
    turned = benchmark.read_annotated(make(tmp_path / "turned.mat", transposed=True))
    np.testing.assert_array_equal(turned.features, recording.features)


def test_truth_is_the_majority_of_the_others(recording):
    votes = [c for name, c in recording.choices.items() if name != "bee"]
    literal = [1 if sum(int(v[i]) for v in votes) > 0 else -1 for i in range(N)]
    assert recording.truth("bee").tolist() == literal


def test_human_level_and_contract(recording):
    document = benchmark.run([recording], ["cal", "random@0.5", "default"], 2, ["0.05", "0.1001"], PLUGINS)
    (found,) = document["recordings"]
    assert (found["name"], found["n"]) == ("mouse", N)
    assert list(found["strategies"]) == ["cal@0.5", "cal@0.65", "random@0.5", "default"]
    said, truth = recording.choices["ant"] > 0, recording.truth("ant") > 0
    literal = (np.mean(said[truth]) + np.mean(~said[~truth])) / 2
    assert found["human"]["per_annotator"]["ant"]["balanced_accuracy"] == pytest.approx(literal)
    everyone = [v["balanced_accuracy"] for v in found["human"]["per_annotator"].values()]
    assert found["human"]["balanced_accuracy"] == pytest.approx(np.mean(everyone))
    for curve in found["strategies"].values():
        assert list(curve) == ["0.05", "0.1001"]
        assert [v["labels"] for v in curve.values()] == [math.ceil(0.05 * N), math.ceil(0.1001 * N)]
        for values in curve.values():
            assert set(values) == {"balanced_accuracy", "precision", "recall", "f1", "auc", "reached_human", "labels"}
            assert all(0 <= values[key] <= 1 for key in values if key != "labels")
        assert curve["0.05"]["reached_human"] <= curve["0.1001"]["reached_human"], "reached with that many labels or fewer"
    json.dumps(document, allow_nan=False)


def test_a_run_follows_the_protocol(recording):
    choices = recording.choices["ant"]
    x = benchmark.learn.standardise(recording.features)
    strategy = PLUGINS.strategies["first_to_last"]
    runs = list(benchmark.replay(x, choices, strategy, PLUGINS.classifiers["l1_logistic"], PLUGINS.strategies, 7, 12))
    assert [count for count, _, _ in runs] == list(range(6, 13)), "six starters, then one label a fit"
    starters = np.flatnonzero(runs[0][2])
    assert sorted(choices[starters]) == [-1, -1, -1, 1, 1, 1]
    asked = np.setdiff1d(np.flatnonzero(runs[-1][2]), starters)
    assert asked.tolist() == [i for i in range(N) if i not in starters][:6]


def test_scores_against_literal_counts():
    rng = np.random.default_rng(0)
    accepted, truth, p = rng.random(50) < 0.6, rng.choice([-1, 0, 1], 50).astype(np.int8), rng.random(50).round(1)
    tp = sum(a and t == 1 for a, t in zip(accepted, truth, strict=True))
    fp = sum(a and t == -1 for a, t in zip(accepted, truth, strict=True))
    cells, others = sum(truth == 1), sum(truth == -1)
    found = benchmark.scores(accepted, truth)
    assert found["precision"] == pytest.approx(tp / (tp + fp))
    assert found["recall"] == pytest.approx(tp / cells)
    assert found["balanced_accuracy"] == pytest.approx((tp / cells + 1 - fp / others) / 2)
    assert found["f1"] == pytest.approx(2 * tp / (tp + fp + cells))
    pairs = [(a > b) + 0.5 * (a == b) for a in p[truth == 1] for b in p[truth == -1]]
    assert benchmark.auc(p, truth) == pytest.approx(np.mean(pairs))


def test_same_seeds_same_figures_with_one_process_or_two(recording):
    one, two = (benchmark.run([recording], ["dcal", "default"], 1, ["0.06"], workers=n) for n in (1, 2))
    assert one == two
    other = benchmark.run([recording], ["dcal", "default"], 2, ["0.06"], workers=1)
    assert other != one


def test_default_is_nearest_pi_decided_at_pi(recording):
    document = benchmark.run([recording], ["default", "nearest_pi", "nearest_pi@0.5"], 1, ["0.1"], PLUGINS)
    curves = document["recordings"][0]["strategies"]
    assert curves["default"] == curves["nearest_pi@pi"] != curves["nearest_pi@0.5"]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"names": ["foo"]}, UnknownNameError),
        ({"names": ["cal@2"]}, UsageError),
        ({"names": ["dcal-7"]}, UsageError),
        ({"seeds": 0}, UsageError),
        ({"fractions": ["2"]}, UsageError),
        ({"fractions": ["x"]}, UsageError),
        ({"fractions": ["0"]}, UsageError),
    ],
)
def test_wrong_usage_is_refused(recording, change, error):
    with pytest.raises(error):
        benchmark.run([recording], **{"names": ["cal"], "seeds": 1, "fractions": ["0.1"], "plugins": PLUGINS, **change})


def test_other_files_are_refused_with_what_is_missing(tmp_path):
    with pytest.raises(MissingFileError):
        benchmark.read_annotated(tmp_path / "nothing.mat")
    (tmp_path / "text.mat").write_text("no HDF5")
    make(tmp_path / "lonely.mat", people=["ant"])
    make(tmp_path / "cut.mat")
    (tmp_path / "cut.mat").write_bytes((tmp_path / "cut.mat").read_bytes()[:3000])
    with h5py.File(tmp_path / "other.mat", "w") as file:
        file["a_choices"], file["b_choices"], file["metrics"] = np.ones(5), np.ones(4), np.ones((5, 3))
    for name in ("text", "lonely", "cut", "other"):
        with pytest.raises(FormatError, match=f"{name}.mat"):
            benchmark.read_annotated(tmp_path / f"{name}.mat")


@pytest.mark.parametrize("form", ["spaces", "commas", "repeated"])
def test_command_line_takes_lists_in_every_form(tmp_path, form):
    make(tmp_path / "mouse.mat")
    lists = {
        "spaces": ["--strategies", "cal@0.5", "default", "--fractions", "0.04", "0.05"],
        "commas": ["--strategies", "cal@0.5,default", "--fractions", "0.04,0.05"],
        "repeated": ["--strategies", "cal@0.5", "--strategies", "default", "--fractions", "0.04", "--fractions", "0.05"],
    }[form]
    command = [sys.executable, "-m", "actsort_core", "benchmark", "mouse.mat", *lists, "--seeds", "1", "--json", "out.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    curves = json.loads((tmp_path / "out.json").read_text())["recordings"][0]["strategies"]
    assert {name: list(curve) for name, curve in curves.items()} == {"cal@0.5": ["0.04", "0.05"], "default": ["0.04", "0.05"]}
    assert "mouse: 240 candidates" in done.stdout
    assert "human" in done.stdout


def test_on_the_annotated_recordings_of_the_paper():
    folder = os.environ.get("ACTSORT_BENCHMARK_DATA")
    if not folder:
        pytest.skip("set ACTSORT_BENCHMARK_DATA to the folder of annotated recordings (they may not be redistributed)")
    recording = benchmark.read_annotated(Path(folder) / "ebrahimi_reanalysis.mat")
    document = benchmark.run([recording], ["cal", "default"], 2, ["0.005", "0.01"])
    (found,) = document["recordings"]
    assert found["n"] == 6691
    assert found["human"]["balanced_accuracy"] == pytest.approx(0.849, abs=0.001)
    default, cal = (found["strategies"][name]["0.01"]["balanced_accuracy"] for name in ("default", "cal@0.5"))
    assert default > 0.83
    assert default > cal - 0.01
