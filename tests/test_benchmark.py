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

from actsort_core import benchmark, benchmark_plot, benchmark_text, learn, replays
from actsort_core.errors import FormatError, MissingDependencyError, MissingFileError, UnknownNameError, UsageError
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
            stated = values.pop("quality", None)
            assert set(values) == {"balanced_accuracy", "precision", "recall", "f1", "auc", "reached_human", "labels", "ece"}
            assert all(0 <= values[key] <= 1 for key in values if key != "labels")
            assert stated is None or set(stated) == {"mean_absolute_error", "coverage", "width", "runs"}
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


def test_same_seeds_same_figures_with_one_process_or_two(recording, tmp_path):
    more = {"warm_start": [make(tmp_path / "other.mat", seed=5)], "to_human": True}
    one, two = (benchmark.run([recording], ["dcal", "default"], 1, ["0.06"], workers=n, **more) for n in (1, 2))
    assert one == two
    other = benchmark.run([recording], ["dcal", "default"], 2, ["0.06"], workers=1, **more)
    assert other != one


# ---- warm starts


def narrow(recording, columns, name="other", seed=1):
    """Some columns of another recording, labelled by one person."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(80, len(columns))).astype(np.float32)
    return benchmark.Annotated(name, x, {"eve": np.where(x[:, 0] > 0, 1, -1).astype(np.int8)}, tuple(recording.names[i] for i in columns))


def test_a_warm_start_helps_ours_shows_in_the_name_and_leaves_the_published_alone(recording, tmp_path):
    names = ["cal@0.5", "default", "default-noaudit", "nearest_pi@0.5"]
    cold = benchmark.run([recording], names, 2, ["0.1"], PLUGINS)["recordings"][0]
    other = make(tmp_path / "other.mat", seed=5)
    warm = benchmark.run([recording], names, 2, ["0.1"], PLUGINS, warm_start=[other])["recordings"][0]
    assert set(cold["strategies"]) == set(names)
    assert set(warm["strategies"]) == {"cal@0.5", "default+warm", "default-noaudit+warm", "nearest_pi@0.5+warm"}
    assert list(warm["curves"]) == list(warm["strategies"])
    assert warm["strategies"]["cal@0.5"] == cold["strategies"]["cal@0.5"]
    better = warm["strategies"]["default+warm"]["0.1"]["balanced_accuracy"]
    assert better > cold["strategies"]["default"]["0.1"]["balanced_accuracy"] + 0.05, "labelled elsewhere by the same rule"


def test_nothing_is_a_warm_start_of_itself(recording, tmp_path):
    mine, other = make(tmp_path / "mine.mat", seed=7), make(tmp_path / "other.mat", seed=5)
    copy = tmp_path / "renamed.mat"
    copy.write_bytes(mine.read_bytes())
    alone = benchmark.run([mine], ["default"], 1, ["0.05"], PLUGINS, warm_start=[other])["recordings"][0]
    both, second = benchmark.run([mine, other], ["default"], 1, ["0.05"], PLUGINS, warm_start=[mine, copy, other])["recordings"]
    assert both["strategies"] == alone["strategies"]
    assert [note for note in both["notes"] if "left out" in note] == [
        f"The warm start {path} is this recording: left out here." for path in (mine, copy)
    ]
    assert list(second["strategies"]) == ["default+warm"]
    (only,) = benchmark.run([mine], ["default"], 1, ["0.05"], PLUGINS, warm_start=[copy])["recordings"]
    assert list(only["strategies"]) == ["default"], "nothing is left to start from"
    assert any("from scratch" in note for note in only["notes"])


def test_a_warm_start_of_noise_is_dropped_and_keeps_its_name(recording, tmp_path):
    noise = benchmark.read_annotated(make(tmp_path / "noise.mat", n=300, seed=5)).examples()
    shuffled = type(noise)(noise.source, noise.names, noise.versions, noise.features, np.random.default_rng(0).permutation(noise.y))
    (cold,) = benchmark.run([recording], ["default"], 1, ["0.05"], PLUGINS)["recordings"]
    (warm,) = benchmark.run([recording], ["default"], 1, ["0.05"], PLUGINS, warm_start=[shuffled])["recordings"]
    assert warm["strategies"]["default+warm"] == cold["strategies"]["default"]
    assert any("do not tell its labels apart" in note for note in warm["notes"])


@pytest.mark.filterwarnings("ignore:The warm start other has")
def test_warm_starts_are_matched_by_feature_name(recording):
    (found,) = benchmark.run([recording], ["default"], 1, ["0.05"], PLUGINS, warm_start=[narrow(recording, [2, 0]).examples()])[
        "recordings"
    ]
    assert any(note.startswith("The warm start other has ") and "count as average" in note for note in found["notes"])
    strange = benchmark.Annotated("strange", np.eye(8, dtype=np.float32), {"eve": np.array([1, -1] * 4, np.int8)})
    with pytest.raises(UsageError, match="no feature in common"):
        benchmark.run([recording], ["default"], 1, ["0.05"], PLUGINS, warm_start=[strange.examples()])


# ---- how much work until as good as the human


def literal_effort(recording, who, strategy_name, threshold, seed, looked_at):
    """Number of labels after which either criterion first held, among the counts `looked_at`; fitted after each label."""
    said, truth = recording.choices[who], recording.truth(who)

    def figures(accepted):
        tp = sum(1 for a, t in zip(accepted, truth, strict=True) if a and t == 1)
        cells, others = sum(1 for t in truth if t == 1), sum(1 for t in truth if t == -1)
        fp = sum(1 for a, t in zip(accepted, truth, strict=True) if a and t == -1)
        return (tp / cells + 1 - fp / others) / 2, tp / max(1, tp + fp), tp / cells

    human = figures(said == 1)
    x = learn.standardise(recording.features, clip=False)
    first = {}
    for count, p, _ in benchmark.replay(
        x, said, PLUGINS.strategies[strategy_name], PLUGINS.classifiers["l1_logistic"], PLUGINS.strategies, seed, N
    ):
        if count not in looked_at:
            continue
        balanced, precision, recall = figures(p > threshold)
        if balanced >= human[0]:
            first.setdefault("balanced_accuracy", count)
        if precision >= human[1] and recall >= human[2]:
            first.setdefault("precision_and_recall", count)
    return first


@pytest.mark.parametrize("strategy", ["random", "first_to_last"])  # for these, a batch asks what one by one would
def test_effort_is_what_a_literal_count_says(recording, strategy):
    seeds, rng = 3, np.random.default_rng(2)
    careless = {
        who: np.where(rng.random(N) < error, -c, c)
        for (who, c), error in zip(recording.choices.items(), (0.1, 0.3, 0.3, 0.35), strict=True)
    }
    recording = benchmark.Annotated("careless", recording.features, careless)
    document = benchmark.run([recording], [f"{strategy}@0.5"], seeds, ["0.03"], PLUGINS, to_human=True)
    found = document["recordings"][0]["to_human"][f"{strategy}@0.5"]
    looked_at = {*range(6, 13), *np.round(12 * (N / 12) ** (np.arange(1, 41) / 40)).astype(int).tolist()}
    runs = [literal_effort(recording, who, strategy, 0.5, seed, looked_at) for who in recording.choices for seed in range(seeds)]
    assert found["runs"] == len(runs)
    for criterion in ("balanced_accuracy", "precision_and_recall"):
        counts = [100 * run[criterion] / N for run in runs if criterion in run]
        soon = [count for count in counts if count <= 5]
        assert found[criterion] == {
            "reached": pytest.approx(len(counts) / len(runs)),
            "mean_percent": pytest.approx(np.mean(counts)) if counts else None,
            "median_percent": pytest.approx(np.median(counts)) if counts else None,
            "reached_within_5_percent": pytest.approx(len(soon) / len(runs)),
            "mean_percent_within_5_percent": pytest.approx(np.mean(soon)) if soon else None,
        }
        assert 0 < len(soon) < len(counts), "the case must tell something"


def test_the_schedule_refits_after_each_label_to_five_percent_and_forty_times_beyond():
    counts = benchmark._schedule(10_000, 100, True)
    assert counts[:495] == list(range(6, 501))
    assert 30 <= len(counts[495:]) <= 40
    assert counts[-1] == 10_000
    ratios = np.array(counts[496:]) / np.array(counts[495:-1])
    assert ratios.max() / ratios.min() < 1.02, "evenly in the logarithm"
    assert benchmark._schedule(10_000, 800, True)[:795] == list(range(6, 801)), "fractions are never coarser for it"
    assert benchmark._schedule(10_000, 100, False) == list(range(6, 101))
    assert benchmark._schedule(8, 6, True)[-1] == 8


def test_going_on_changes_no_fraction(recording):
    names = ["cal@0.5", "default"]
    short, long = (benchmark.run([recording], names, 1, ["0.04", "0.1"], PLUGINS, to_human=on)["recordings"][0] for on in (False, True))
    assert "to_human" not in short
    assert long["strategies"] == short["strategies"]
    assert long["curves"] == short["curves"]


def test_asking_in_batches_asks_what_one_by_one_would_where_order_is_fixed(recording):
    x, said = learn.standardise(recording.features, clip=False), recording.choices["ant"]
    spec = PLUGINS.classifiers["l1_logistic"]

    def run(counts):
        engine = replays.Engine(PLUGINS.strategies["random"], spec, PLUGINS.strategies)
        return list(replays.steps(x, said, engine, 3, counts))

    one, batch = run(range(6, 61)), run([6, 7, 30, 60])
    assert [step.n for step in batch] == [6, 7, 30, 60]
    np.testing.assert_array_equal(batch[-1].asked, one[-1].asked)
    np.testing.assert_array_equal(batch[1].probability, one[1].probability)
    np.testing.assert_allclose(batch[-1].probability, one[-1].probability, atol=5e-3)
    assert np.isnan(one[-1].inclusion).all()


# ---- curves, calibration, stated quality


def test_curves_are_means_over_runs_between_the_lowest_and_highest_annotator(recording):
    found = benchmark.run([recording], ["cal@0.5"], 2, ["0.1"], PLUGINS)["recordings"][0]
    curve, at = found["curves"]["cal@0.5"], found["strategies"]["cal@0.5"]["0.1"]
    assert (curve["labels"][0], curve["labels"][-1]) == (6, 24)
    assert len(curve["mean"]) == len(curve["low"]) == len(curve["high"]) == len(curve["labels"])
    assert curve["mean"][-1] == pytest.approx(at["balanced_accuracy"])
    assert all(a <= b <= c for a, b, c in zip(curve["low"], curve["mean"], curve["high"], strict=True))
    assert curve["low"][-1] < curve["high"][-1]


def test_calibration_error_against_literal_bins():
    rng = np.random.default_rng(0)
    p, said = np.append(rng.random(300), [0.0, 1.0, 0.1]), rng.choice([-1, 0, 1], 303).astype(np.int8)
    total, off = 0, 0.0
    for b in range(10):
        inside = [i for i in range(303) if said[i] and (b / 10 <= p[i] < (b + 1) / 10 or (b == 9 and p[i] == 1))]
        total += len(inside)
        off += abs(sum(p[i] for i in inside) - sum(said[i] == 1 for i in inside))
    assert replays.calibration_error(p, said) == pytest.approx(off / total)
    assert replays.calibration_error((said > 0).astype(float), said) == 0


# ---- people who said little, tables that are odd


def test_one_annotator_has_no_human_level(recording):
    lonely = benchmark.Annotated("lonely", recording.features, {"ant": recording.choices["ant"]})
    document = benchmark.run([lonely], ["cal@0.5", "default"], 1, ["0.05"], PLUGINS, to_human=True)
    (found,) = document["recordings"]
    nothing = dict.fromkeys(["balanced_accuracy", "precision", "recall", "f1"])
    assert found["human"] == {**nothing, "per_annotator": {"ant": nothing}}
    assert "reached_human" not in found["strategies"]["default"]["0.05"]
    assert found["to_human"] == {"cal@0.5": None, "default": None}
    json.dumps(document, allow_nan=False)
    shown = benchmark_text.as_text(document)
    assert "against the annotator's own labels" in shown
    assert "no human level" in shown


def test_an_annotator_with_too_few_of_a_class_is_left_out_but_votes(recording):
    cat = np.where(np.arange(N) < 200, 1, 0).astype(np.int8)
    cat[:2] = -1
    choices = {**recording.choices, "cat": cat}
    odd = benchmark.Annotated("odd", recording.features, choices)
    (found,) = benchmark.run([odd], ["default"], 1, ["0.05"], PLUGINS)["recordings"]
    assert list(found["human"]["per_annotator"]) == ["ant", "bee", "dog"]
    assert any(note.startswith("cat is not replayed: 198 cells and 2 not-cells") for note in found["notes"])
    truth = odd.truth("ant")
    said = choices["ant"]
    assert found["human"]["per_annotator"]["ant"] == benchmark.scores(said > 0, truth)
    nobody = benchmark.Annotated("nobody", recording.features, {"cat": cat})
    with pytest.raises(UsageError, match="No annotator can be replayed"):
        benchmark.run([nobody], ["default"], 1, ["0.05"], PLUGINS)
    both = benchmark.run([nobody, recording], ["default"], 1, ["0.05"], PLUGINS)
    assert both["recordings"][0]["strategies"] == {"default": {}}
    assert "nobody" in benchmark_text.as_text(both)


def test_labels_that_run_out_leave_out_the_fractions_beyond(recording):
    said = recording.choices["ant"].copy()
    said[20:] = 0
    few = benchmark.Annotated("few", recording.features, {"ant": said})
    (found,) = benchmark.run([few], ["cal@0.5"], 1, ["0.04", "0.5"], PLUGINS)["recordings"]
    assert list(found["strategies"]["cal@0.5"]) == ["0.04"]
    assert any("labelled 20 of 240" in note for note in found["notes"])
    json.dumps(found, allow_nan=False)


def test_missing_constant_and_empty_columns_do_no_harm(recording):
    x = np.column_stack([recording.features, np.full(N, 3), np.full(N, np.nan), recording.features[:, 0]]).astype(np.float32)
    x[::7, 1] = np.nan
    odd = benchmark.Annotated("odd", x, recording.choices)
    document = benchmark.run([odd], ["dcal", "default"], 1, ["0.05"], PLUGINS)
    json.dumps(document, allow_nan=False)
    small = benchmark.Annotated("small", recording.features[:14], {k: np.array([1, -1] * 7, np.int8) for k in ("a", "b", "c")})
    json.dumps(benchmark.run([small], ["cal", "default"], 1, ["0.01", "1"], PLUGINS, to_human=True), allow_nan=False)


def test_paths_will_do_and_several_recordings_get_a_mean(recording, tmp_path):
    a, b = make(tmp_path / "a.mat", seed=1), make(tmp_path / "b.mat", seed=2)
    document = benchmark.run([str(a), b], ["cal@0.5", "default"], 1, ["5%"], PLUGINS)
    assert [r["name"] for r in document["recordings"]] == ["a", "b"]
    shown = benchmark_text.as_text(document).splitlines()
    means = [np.mean([r["strategies"][name]["5%"]["balanced_accuracy"] for r in document["recordings"]]) for name in ("cal@0.5", "default")]
    at = shown.index("mean of 2 recordings, balanced accuracy")
    assert [line.split()[-1] for line in shown[at + 2 : at + 4]] == [f"{100 * mean:.1f}" for mean in means]


# ---- plots


@pytest.mark.parametrize(("name", "start"), [("p.png", b"\x89PNG"), ("p.svg", b"<?xml"), ("p.PDF", b"%PDF")])
def test_a_plot_in_each_format(recording, tmp_path, name, start):
    pytest.importorskip("matplotlib", reason="plots need matplotlib")
    document = benchmark.run([recording, recording], ["cal", "random@0.5", "default", "dcal-0.3"], 1, ["0.05"], PLUGINS)
    lonely = benchmark.Annotated("lonely", recording.features, {"ant": recording.choices["ant"]})
    document["recordings"] += benchmark.run([lonely], ["default"], 1, ["0.05"], PLUGINS)["recordings"]
    benchmark_plot.plot(document, tmp_path / name)
    content = (tmp_path / name).read_bytes()
    assert content.startswith(start)
    if name.endswith("svg"):
        for text in ("mouse  (240 candidates)", "lonely", "default", "cal@0.65", "dcal-0.3@0.5", "human (mean"):
            assert text.encode() in content
    benchmark_plot.plot(document, tmp_path / f"again-{name}")
    assert (tmp_path / f"again-{name}").read_bytes() == content


def test_a_plot_that_cannot_be_written_is_refused_before_the_replays(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=r"p\.doc"):
        benchmark_plot.check(tmp_path / "p.doc")
    with pytest.raises(UsageError, match="no folder"):
        benchmark_plot.check(tmp_path / "nowhere" / "p.png")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "actsort\[plots\]"'):
        benchmark_plot.check(tmp_path / "p.png")


def test_the_package_offers_it_lazily():
    code = "import sys, actsort_core as a; assert 'actsort_core.benchmark' not in sys.modules; print(a.benchmark.run.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=False)
    assert done.stdout.strip() == "run", done.stderr


def test_default_is_balanced_pi_decided_at_pi(recording):
    document = benchmark.run([recording], ["default-noaudit", "balanced_pi-noaudit", "balanced_pi@0.5"], 1, ["0.1"], PLUGINS)
    curves = document["recordings"][0]["strategies"]
    assert curves["default-noaudit"] == curves["balanced_pi-noaudit@pi"] != curves["balanced_pi@0.5"]


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
    make(tmp_path / "lonely.mat", people=[])
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


def test_command_line_with_everything(tmp_path):
    pytest.importorskip("matplotlib", reason="plots need matplotlib")
    for i, name in enumerate(("mouse", "rat", "vole")):
        make(tmp_path / f"{name}.mat", seed=i)
    words = ["mouse.mat", "--strategies", "random@0.5", "default", "--seeds", "1", "--fractions", "0.04", "--to-human"]
    words += ["--plot", "p.png", "--json", "o.json", "--warm-start", "rat.mat", "vole.mat"]
    command = [sys.executable, "-m", "actsort_core", "benchmark"]
    done = subprocess.run([*command, *words], cwd=tmp_path, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    (found,) = json.loads((tmp_path / "o.json").read_text())["recordings"]
    assert set(found) == {"name", "n", "human", "strategies", "curves", "to_human", "notes"}
    assert list(found["strategies"]) == list(found["to_human"]) == ["random@0.5", "default+warm"]
    assert (tmp_path / "p.png").stat().st_size > 10_000
    assert "% of labels needed to reach the human" in done.stdout
    assert "expected calibration error" in done.stdout
    swallowed = subprocess.run(
        [*command, "--warm-start", "rat.mat", "mouse.mat"], cwd=tmp_path, capture_output=True, encoding="utf-8", check=False
    )
    assert swallowed.returncode != 0
    assert "Put FILES before --warm-start" in swallowed.stderr


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
