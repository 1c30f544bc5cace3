"""The command line: the contract that scripts rely on, and what a person in a terminal meets."""

from __future__ import annotations

import json
import os
import pickle
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import toy_format
from conftest import make_plugins, simulated

from actsort_core import plugins as plugin_module
from actsort_core import terminal
from actsort_core.errors import FormatError, PluginWarning
from actsort_core.oracle import balanced_accuracy, read_truth

EXAMPLES = Path(__file__).parent.parent / "examples/data"
DRIVER = "from conftest import make_plugins; from actsort_core.cli import main; main(obj=make_plugins(), prog_name='actsort')"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "PYTHONIOENCODING": "utf-8", "TERM": "xterm"}


@pytest.fixture
def sort(cli: Any) -> Callable[..., SimpleNamespace]:
    """``actsort sort --json`` with the quick classifier; must succeed, and print one JSON object and nothing else."""

    def run(*arguments: object) -> SimpleNamespace:
        done = cli("sort", *arguments, "--json", "--classifier", "centroid")
        assert done.code == 0, done.err
        assert len(done.out.splitlines()) == 1
        return done

    return run


@pytest.fixture
def oracle(tmp_path: Path, truth: np.ndarray) -> Path:
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(truth.tolist()))
    return path


def fails(done: SimpleNamespace, code: int, *said: str) -> None:
    """A failure as promised: the status, nothing on stdout, and on stderr what happened, where, and what to do."""
    assert done.code == code, (done.code, done.out, done.err)
    assert done.out == ""
    for words in said:
        assert words in done.err, done.err
    assert "unexpected" not in done.err


# Contract


def test_info_of_one_recording(cli, result):
    done = cli("info", result, "--json")
    document = done.json()
    recording, _ = simulated()
    assert done.code == 0
    assert {k: document[k] for k in ("format", "n_cells", "n_frames", "fov", "fps", "has_movie", "fingerprint")} == {
        "format": "toy", "n_cells": 40, "n_frames": 120, "fov": [30, 41], "fps": 15.0, "has_movie": False,
        "fingerprint": recording.fingerprint,
    }  # fmt: skip
    assert document["prior"] == recording.prior.counts()
    text = cli("info", result)
    assert text.code == 0
    assert "30 x 41" in text.out
    assert recording.fingerprint in text.out


def test_info_of_several_recordings_sums_up(cli, toy):
    path = toy(a=7, b=5)
    (path / "b.verdict.json").unlink()
    document = cli("info", path, "--json").json()
    assert [(r["name"], r["n_cells"]) for r in document["recordings"]] == [("a", 7), ("b", 5)]
    assert document["n_cells"] == 12
    first = document["recordings"][0]["prior"]
    assert document["prior"] == {"accepted": first["accepted"], "rejected": first["rejected"], "undecided": 5}
    assert all(len(r["fingerprint"]) == 16 for r in document["recordings"])
    assert document["fov"] == [30, 41]


def test_sort_with_an_oracle(sort, result, oracle, tmp_path, truth):
    document = sort(result, "--oracle", oracle, "--labels", 20, "--seed", 3, "--session", tmp_path / "s", "--annotator", "me").json()
    assert document["labels"] == 20
    assert document["accepted"] + document["rejected"] == 40
    assert 0 < document["threshold"] < 1
    assert document["written"] == []
    assert document["seed"] == 3
    decided = json.loads(cli_export(tmp_path / "s"))["recordings"][0]["candidates"]
    accepted = np.array([c["decision"] == "cell" for c in decided])
    assert document["accepted"] == accepted.sum()
    assert document["balanced_accuracy"] == pytest.approx(balanced_accuracy(accepted, truth))
    assert document["balanced_accuracy"] > 0.7
    assert {c.get("annotator") for c in decided} == {"me", None}
    for c in decided:
        if c["origin"] == "label":
            assert (c["decision"] == "cell") == bool(truth[c["index"]])


def cli_export(session: Path) -> str:
    from actsort_core.opening import open as open_session

    with open_session(session, plugins=make_plugins(), read_only=True) as opened:
        destination = session / "export.json"
        opened.plugins.exporters["json"].export(list(opened.curations().values()), destination)
        return destination.read_text()


def test_sort_write_says_what_was_written(sort, result, oracle):
    document = sort(result, "--oracle", oracle, "--labels", "12", "--write").json()
    assert document["written"] == [str(result / "a.verdict.json")]
    assert sum(json.loads((result / "a.verdict.json").read_text())) == document["accepted"]
    assert Path(document["backups"][0]).is_file()


@pytest.mark.parametrize(("labels", "expected"), [("10%", 4), ("1%", 1), ("0", 0), ("100%", 40), ("400", 40), ("7", 7)])
def test_a_number_of_labels_or_a_share(sort, result, oracle, labels, expected):
    assert sort(result, "--oracle", oracle, "--labels", labels).json()["labels"] == expected


def test_sort_resumes_and_counts_the_labels_there_are(sort, result, oracle, tmp_path):
    at_once = sort(result, "--oracle", oracle, "--labels", 16, "--session", tmp_path / "one").json()
    assert sort(result, "--oracle", oracle, "--labels", 7, "--session", tmp_path / "two").json()["labels"] == 7
    assert sort(tmp_path / "two", "--oracle", oracle, "--labels", 7).json()["labels"] == 7  # by the session, nothing to add
    resumed = sort(result, "--oracle", oracle, "--labels", 16, "--session", tmp_path / "two").json()
    for document in (at_once, resumed):
        document.pop("session")
    assert resumed == at_once


def test_strategy_threshold_and_seed_are_taken(sort, result, oracle, tmp_path):
    document = sort(result, "--oracle", oracle, "--labels", 14, "--strategy", "first_to_last", "--threshold", "0.25").json()
    assert (document["strategy"], document["threshold"]) == ("first_to_last", 0.25)
    rows = [json.loads(line) for line in (result / "actsort/labels.jsonl").read_text().splitlines()]
    assert [row["index"] for row in rows] == list(range(14))
    document = sort(result, "--oracle", oracle, "--labels", 14, "--threshold", "pi").json()
    assert document["threshold"] == document["share_of_cells"]


def test_several_results_at_once(sort, toy, tmp_path):
    paths = [toy("one", a=12), toy("two", seed=4, a=9)]
    answers = [*simulated(12)[1].tolist(), *simulated(9, 4)[1].tolist()]
    file = tmp_path / "truth.json"
    file.write_text(json.dumps({"truth": answers}))
    document = sort(*paths, "--oracle", file, "--labels", "100%", "--write").json()
    assert (document["labels"], document["accepted"], document["balanced_accuracy"]) == (21, sum(answers), 1.0)
    assert len(document["written"]) == 2


def test_the_whole_round_on_a_session(cli, sort, result, oracle, snapshot, tmp_path):
    before = (result / "a.verdict.json").read_bytes()
    sort(result, "--oracle", oracle, "--labels", 12, "--annotator", "me")
    session = result / "actsort"
    for path in (session, result):  # the session, or the result that has one
        status = cli("status", path, "--json").json()
        assert (status["labels"], status["n_cells"], status["annotators"]) == (12, 40, {"me": 12})
        assert status["by_class"].keys() <= {"cell", "not_cell"}
        assert status["written"] == []
    undone = cli("undo", session, "--annotator", "me", "--json").json()
    assert undone["labels"] == 11
    assert undone["label"] is None
    again = cli("redo", session, "--annotator", "me", "--json").json()
    assert (again["labels"], again["candidate"]) == (12, undone["candidate"])
    assert again["label"] in ("cell", "not_cell")
    nothing = cli("redo", session, "--annotator", "me", "--json").json()
    assert (nothing["candidate"], nothing["labels"]) == (None, 12)
    assert cli("redo", session, "--annotator", "me").code == 0
    assert "11 labels" in cli("undo", session, "--annotator", "me").out
    assert cli("redo", session, "--annotator", "me").code == 0

    here = snapshot(result)
    dry = cli("write", session, "--dry-run", "--json").json()
    assert snapshot(result) == here
    assert (dry["dry_run"], dry["written"], dry["planned"]) == (True, [], [str(result / "a.verdict.json")])
    shown = cli("write", session, "--dry-run")
    assert snapshot(result) == here
    assert "would write" in shown.out
    assert "newly" in shown.out
    wrote = cli("write", session, "--json").json()
    assert (wrote["dry_run"], wrote["written"]) == (False, dry["planned"])
    assert Path(wrote["curation"]).is_file()
    assert cli("status", session, "--json").json()["written"] == wrote["written"]
    restored = cli("restore", session, "--json").json()
    assert restored == {"restored": wrote["written"]}
    assert (result / "a.verdict.json").read_bytes() == before
    fails(cli("restore", session), 1, "written nothing")

    assert cli("write", result).code == 0
    (result / "a.verdict.json").write_text("[]")
    fails(cli("restore", session), 1, "a.verdict.json", "--force")
    assert cli("restore", session, "--force").code == 0  # even though the result cannot be read any more
    assert (result / "a.verdict.json").read_bytes() == before
    assert cli("export", session, tmp_path / "out.csv").code == 0
    rows = (tmp_path / "out.csv").read_text().splitlines()
    assert len(rows) == 41
    assert cli("export", session, tmp_path / "out.json").code == 0
    assert len(json.loads((tmp_path / "out.json").read_text())["recordings"][0]["candidates"]) == 40


def test_status_works_while_the_session_is_open_elsewhere(cli, opened, result):
    session = opened(result)
    session.label(0, "cell")
    assert cli("status", result, "--json").json()["labels"] == 1
    assert "40" in cli("status", result).out
    fails(cli("undo", result), 1, "is open in this program already", "session.close()")
    fails(cli("restore", result), 1, "is open in this program already")


def test_plugins_lists_everything_by_name(cli):
    document = cli("plugins", "--json").json()
    names = {kind: {row["name"] for row in rows} for kind, rows in document.items()}
    assert names["formats"] == {"toy", "toyfile"}
    assert {"random", "first_to_last", "cal", "nearest_pi"} <= names["strategies"]
    assert names["classifiers"] == {"l1_adaptive", "l1_logistic", "centroid"}
    assert {"json", "csv"} <= names["exporters"]
    assert len(names["features"]) > 10
    text = cli("plugins")
    assert text.code == 0
    assert all(name in text.out for name in ("toyfile", "nearest_pi", "centroid"))


@pytest.mark.parametrize(("name", "truth_name"), [("suite2p", "suite2p.truth.json"), ("caiman_2p.hdf5", "caiman_2p.truth.json")])
def test_real_results_through_the_installed_plug_ins(cli, tmp_path, name, truth_name):
    try:
        installed = plugin_module.load()
    except PluginWarning as warning:
        pytest.skip(str(warning))
    source = EXAMPLES / name
    if not source.exists() or not {"suite2p", "caiman"} <= set(installed.formats):
        pytest.skip("examples or adapters are missing")
    path = tmp_path / name
    (shutil.copytree if source.is_dir() else shutil.copyfile)(source, path)
    files = [p for p in ([path] if path.is_file() else path.rglob("*")) if p.is_file()]
    before = {p: p.read_bytes() for p in files}
    info = cli("info", path, "--json", plugins=installed).json()
    assert info["format"] in ("suite2p", "caiman")
    oracle = EXAMPLES / truth_name
    done = cli("sort", path, "--oracle", oracle, "--labels", "40", "--write", "--json", plugins=installed)
    assert done.code == 0, done.err
    document = done.json()
    assert document["labels"] == min(40, info["n_cells"])
    assert document["balanced_accuracy"] > 0.8
    changed = {str(p) for p in files if p.read_bytes() != before[p]}
    assert changed == set(document["written"])
    after = cli("info", path, "--json", plugins=installed).json()
    assert after["prior"]["accepted"] == document["accepted"]
    assert after["fingerprint"] == info["fingerprint"]
    assert set(cli("restore", path, "--json", plugins=installed).json()["restored"]) == changed
    assert {p: p.read_bytes() for p in files} == before


# Oracles


def write_oracle(path: Path, content: Any) -> Path:
    if path.suffix == ".npy" and isinstance(content, np.ndarray):
        np.save(path, content)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content)
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.json", "[1, 0, null, 1]"),
        ("t.json", '{"truth": [1, 0, null, 1], "more": 3}'),
        ("t.json", "\ufeff[1, 0, null, 1]"),
        ("t.json", '[true, false, NaN, "cell"]'),
        ("t", "[1.0, 0.0, null, 1]"),
        ("t.npy", np.array([1.0, 0.0, np.nan, 1.0])),
        ("t.npy", np.array([1, 0, -0.0, 1]) * np.array([1, 1, np.nan, 1], np.float32)),
        ("t.npy", np.array(["1", "0", "", "1"])),
        ("t.csv", "1\n0\n\n1\n"),
        ("t.csv", "iscell\n1\n0\nnull\n1"),
        ("t.csv", '"is cell"\r\n"1"\r\n"0"\r\n""\r\n"1"\r\n'),
        ("t.csv", "1.000000000000000000e+00\n0.000000000000000000e+00\nnan\n1.000000000000000000e+00\n"),
        ("t.CSV", "cell\nnot_cell\nunsure\ncell\n"),
    ],
)
def test_oracles_in_every_spelling(tmp_path, name, content):
    assert read_truth(write_oracle(tmp_path / name, content), 4).tolist() == [1, 0, -1, 1]


BAD_ORACLES = [
    ("short.json", "[1, 0]", "has 2 answers for 40 candidates"),
    ("long.csv", "1\n" * 41, "has 41 answers for 40 candidates"),
    ("header.csv", "-1\n" + "1\n" * 40, "holds '-1' for candidate 0"),
    ("two.json", json.dumps([1] * 39 + [2]), "holds 2 for candidate 39"),
    ("words.json", json.dumps(["maybe"] * 40), "holds 'maybe' for candidate 0"),
    ("nested.json", json.dumps([[1, 0]] * 40), "holds [1, 0] for candidate 0"),
    ("huge.json", json.dumps([["x" * 1000]] * 40), "..."),
    ("deep.json", "[" * 100_000, "could not be read"),
    ("dict.json", '{"answers": [1]}', "truth"),
    ("inner.json", '{"truth": {"0": 1}}', "no list"),
    ("number.json", "7", "no list"),
    ("empty.json", "", "could not be read"),
    ("broken.json", "[1, 0", "could not be read"),
    ("binary.json", b"\xff\xfe\x00", "could not be read"),
    ("empty.npy", b"", "could not be read"),
    ("text.npy", "1\n0\n", "could not be read"),
    ("wide.npy", np.ones((20, 2)), "shape (20, 2)"),
    ("strange.npy", np.arange(40), "holds 2 for candidate 2"),
    ("pickled.npy", np.array([1] * 39 + [None], dtype=object), "could not be read"),
    ("pickle.npy", pickle.dumps([1] * 40), "could not be read"),
    ("zip.npy", b"PK\x03\x04" + b"\0" * 40, "could not be read"),
    ("empty.csv", "", "has 0 answers for 40 candidates"),
    ("wide.csv", "index,cell\n" + "1,1\n" * 40, "line 1 has several columns"),
    ("excel.csv", "1\n0\n".encode("utf-16"), "could not be read"),
]


@pytest.mark.parametrize(("name", "content", "says"), BAD_ORACLES, ids=[name for name, *_ in BAD_ORACLES])
def test_bad_oracles_are_refused_by_name_and_label_nothing(cli, result, tmp_path, name, content, says):
    path = write_oracle(tmp_path / name, content)
    done = cli("sort", result, "--oracle", path, "--labels", 10, "--json", "--classifier", "centroid")
    fails(done, 1, str(path), says)
    assert len(done.err) < 700
    assert not (result / "actsort").exists(), "a session that a typing error started is not left behind"


def test_an_oracle_that_would_need_more_memory_than_there_is(tmp_path):
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (10000000000000,), }".ljust(117) + b"\n"
    path = write_oracle(tmp_path / "t.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(FormatError, match="could not be read"):
        read_truth(path, 4)


def test_an_oracle_of_nothing_but_unsure(sort, result, tmp_path):
    path = write_oracle(tmp_path / "t.json", json.dumps([None] * 40))
    document = sort(result, "--oracle", path, "--labels", 5).json()
    assert (document["labels"], document["balanced_accuracy"], document["threshold"]) == (5, None, None)


# Failing


@pytest.mark.parametrize("command", ["info", "status", "undo", "redo", "write", "restore"])
def test_a_path_where_nothing_is(cli, tmp_path, command):
    fails(cli(command, tmp_path / "nowhere", "--json"), 1, "nowhere")
    assert list(tmp_path.iterdir()) == []


def test_failures_name_the_file_and_the_next_step(cli, result, oracle, tmp_path):
    foreign = tmp_path / "notes.txt"
    foreign.write_text("hello")
    fails(cli("status", result), 1, str(result), "actsort sort")
    fails(cli("export", result, tmp_path / "x.json"), 1, "actsort sort")
    fails(cli("info", foreign, "--json"), 1, str(foreign), "toy: no", "toyfile: no")
    fails(cli("sort", foreign, "--oracle", oracle, "--json"), 1, str(foreign))
    fails(cli("sort", result, "--oracle", tmp_path / "nofile.json", "--json"), 1, "nofile.json", "does not exist")
    fails(cli("sort", result, "--oracle", result, "--json"), 1, str(result), "could not be read")
    (result / "a.verdict.json").write_text("[1, 0")
    fails(cli("info", result, "--json"), 1, "a.verdict.json is damaged", "Restore it")
    (tmp_path / "a.toy.json").write_text("{}")
    fails(cli("info", tmp_path / "a.toy.json", "--json"), 1, "a.toy.json could not be read")
    fails(cli("info", result, "--format", "toyfile"), 1, str(result))


@pytest.mark.parametrize(
    "arguments",
    [
        ("nothing",), ("info",), ("info", "a", "b"), ("sort",), ("sort", "{r}", "--seed", "x"), ("sort", "{r}", "--seed", "-1"),
        ("sort", "{r}", "--oracle", "{o}", "--labels", "many"), ("sort", "{r}", "--oracle", "{o}", "--labels", "-3%"),
        ("sort", "{r}", "--oracle", "{o}", "--strategy", "nearest"), ("sort", "{r}", "--oracle", "{o}", "--classifier", "x"),
        ("sort", "{r}", "--oracle", "{o}", "--threshold", "2"), ("sort", "{r}", "--oracle", "{o}", "--features", "x"),
        ("sort", "{r}", "--json"), ("sort", "{r}", "{r}", "--oracle", "{o}"), ("info", "{r}", "--format", "x"),
        ("export", "{r}", "out.xyz"), ("plugins", "--yaml"),
    ],
)  # fmt: skip
def test_wrong_usage_is_status_2(cli, result, oracle, arguments):
    done = cli(*(a.format(r=result, o=oracle) for a in arguments))
    assert done.code == 2, done.err
    assert done.out == ""
    assert done.err.strip()


def test_a_name_almost_right_is_suggested(cli, result, oracle):
    fails(cli("sort", result, "--oracle", oracle, "--strategy", "rnadom", "--json"), 2, "Did you mean 'random'?")


def test_a_failing_classifier_on_the_command_line(cli, result, oracle):
    from actsort_core.hookspecs import hookimpl
    from actsort_core.learn import ClassifierSpec

    class Bad:
        @hookimpl
        def actsort_register_classifiers(self):
            class Broken(toy_format.Centroid):
                def fit(self, X, y):
                    raise RuntimeError("no luck")

            return [ClassifierSpec("bad", "fails", Broken)]

    plugins = make_plugins(Bad())
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fails(cli("sort", result, "--oracle", oracle, "--classifier", "bad", "--json", plugins=plugins), 1, "no luck", "--classifier")
    assert cli("status", result, "--json", plugins=make_plugins(Bad())).code == 1
    done = cli("sort", result, "--oracle", oracle, "--labels", 20, "--classifier", "centroid", "--json")
    assert done.json()["labels"] == 20


def test_a_changed_result_is_refused(cli, sort, result, oracle):
    sort(result, "--oracle", oracle, "--labels", 5)
    toy_format.save_folder(result, simulated(39)[0], "a")
    fails(cli("write", result), 1, str(result), "39 candidates instead of 40")


def test_an_unexpected_error_is_no_traceback(cli, result, monkeypatch):
    def broken(self: Any, path: Path) -> None:
        raise KeyboardInterrupt if path.name == "interrupt" else AssertionError("a bug")

    monkeypatch.setattr(toy_format.ToyFolder, "read", broken)
    done = cli("info", result)
    assert done.code == 1
    assert "a bug" in done.err
    assert str(result) in done.err
    interrupted = result.rename(result.with_name("interrupt"))
    done = cli("info", interrupted)
    assert done.code == 1
    assert "saved" in done.err


# Help, and what is imported


def run(*arguments: object, code: str | None = None, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "importtime", *(["-c", code] if code else ["-m", "actsort_core"]), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=60, check=False, **options)


def imported(done: subprocess.CompletedProcess[str]) -> set[str]:
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines() if line.startswith("import time:")}


def test_help_lists_the_commands_and_imports_next_to_nothing():
    done = run("--help")
    assert done.returncode == 0
    commands = set(re.findall(r"^  (\w+) ", done.stdout.partition("Commands:")[2], re.M))
    assert {"info", "sort", "status", "undo", "write", "restore", "plugins", "demo"} <= commands
    assert not imported(done) & {"sklearn", "scipy", "numpy", "h5py", "pandas", "tqdm"}
    assert "click" in imported(done)


def test_info_never_imports_scikit_learn(result):
    done = run("info", result, "--json", code=DRIVER)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout)["n_cells"] == 40
    assert "sklearn" not in imported(done)
    assert "scipy" in imported(done)  # so the list of imports was really read
    if (EXAMPLES / "suite2p").is_dir():
        done = run("info", EXAMPLES / "suite2p", "--json")
        assert done.returncode == 0, done.stderr[-2000:]
        assert "sklearn" not in imported(done)


@pytest.mark.parametrize("command", ["info", "sort", "status", "undo", "redo", "write", "restore", "plugins", "demo", "export"])
def test_every_command_has_help(cli, command):
    done = cli(command, "--help")
    assert done.code == 0
    assert "Usage: actsort" in done.out
    assert cli("--version").out.startswith("actsort")


def test_nothing_but_json_on_stdout_also_in_a_process_of_its_own(result, oracle):
    command = ["sort", result, "--oracle", oracle, "--labels", "12", "--json", "--classifier", "centroid", "--write"]
    done = run(*command, code=DRIVER)
    assert done.returncode == 0
    assert json.loads(done.stdout)["labels"] == 12


# Demo


def test_demo_curates_shipped_results_on_copies(cli, tmp_path, snapshot):
    data = tmp_path / "data"
    toy_format.save_folder(data / "r", simulated(60, 2)[0])
    (data / "truth.json").write_text(json.dumps({"truth": simulated(60, 2)[1].tolist()}))
    (data / "demo.json").write_text(json.dumps([{"title": "toy result", "path": "r", "truth": "truth.json", "labels": 24}]))
    before = snapshot(data)
    done = cli("demo", "--data", data, "--out", tmp_path / "work")
    assert done.code == 0, done.err
    assert snapshot(data) == before
    assert re.search(r"labels asked:? +24 \(40%\)", done.out)
    ours, host = (float(n) for n in re.findall(r"(?:truth|prior):? +([01]\.\d+)", done.out))
    assert ours > host
    assert "work/r/a.verdict.json" in done.out
    assert (tmp_path / "work/r/a.verdict.json").read_bytes() != (data / "r/a.verdict.json").read_bytes()
    fails(cli("demo", "--data", data, "--out", tmp_path / "work"), 2, "not empty")
    fails(cli("demo", "--data", data, "--out", data / "demo.json"), 2, "demo.json")
    fails(cli("demo", "--data", tmp_path, "--out", tmp_path / "new"), 1, "demo.json")


# Sorting by hand


def labelled(session: Path) -> list[tuple[str, str]]:
    rows = [json.loads(line) for line in (session / "labels.jsonl").read_text().splitlines()]
    return [(row["kind"], row.get("class", "")) for row in rows]


def test_keys_from_a_pipe(cli, result):
    done = cli("sort", result, "--classifier", "centroid", stdin="yn\nuz?xry q" + "y")
    assert done.code == 0
    assert labelled(result / "actsort") == [
        ("label", "cell"), ("label", "not_cell"), ("label", "unsure"), ("undo", ""), ("redo", ""), ("label", "cell"), ("label", "unsure")
    ]  # fmt: skip
    assert "'x' means nothing here" in done.out
    assert "up or y" in done.out
    assert "a, candidate " in done.out
    assert "trace (raw)" in done.out
    assert "-> undo: a, candidate" in done.out
    assert "5 labels" in done.out
    assert "actsort write" in done.out
    again = cli("sort", result, stdin="y")  # the end of the input is the end of the sitting
    assert again.code == 0
    assert "6 labels" in again.out


def test_the_models_opinion_is_not_shown_before_the_answer(cli, sort, result, oracle):
    sort(result, "--oracle", oracle, "--labels", 14)
    shown = cli("sort", result, stdin="q").out
    assert not re.search(r"model said|probab", shown)
    assert "the model said 0." in cli("sort", result, stdin="yq").out
    row = json.loads((result / "actsort/labels.jsonl").read_text().splitlines()[-1])
    assert row["reason"] == "active"  # the first question of a resumed session is the model's, not a random one


def test_sorting_by_hand_ends_when_all_is_labelled_or_the_goal_is_reached(cli, toy):
    path = toy(a=3)
    assert "2 labels" in cli("sort", path, "--labels", "2", "--classifier", "centroid", stdin="yyyyyy").out
    done = cli("sort", path, stdin="nnnn")
    assert "Every candidate is labelled" in done.out
    assert "3 labels" in done.out
    assert cli("sort", toy("none", a=0), "--classifier", "centroid", stdin="yyy").code == 0


def test_nothing_to_undo_is_said(cli, result):
    done = cli("sort", result, "--classifier", "centroid", stdin="zrssq")
    assert "nothing to undo" in done.out
    assert "nothing to redo" in done.out
    assert labelled(result / "actsort") == []


@pytest.mark.parametrize(
    ("arrived", "key", "action"),
    [
        ("y", "y", "cell"), ("Y", "Y", "cell"), ("yn", "y", "cell"), ("\x1b[A", "\x1b[A", "cell"), ("\x1bOB\x1bOB", "\x1bOB", "not_cell"),
        ("\x1b[Ayyy", "\x1b[A", "cell"), ("\x1b", "\x1b", "quit"), ("\x1b[15~", "\x1b[15~", None), ("\x1by", "\x1by", None),
        ("\x7f", "\x7f", "undo"), ("\x1b[D", "\x1b[D", "undo"), ("\xe0H", "\xe0H", "cell"), ("é", "é", None), (" ", " ", "unsure"),
    ],
)  # fmt: skip
def test_keys_as_terminals_send_them(arrived, key, action):
    assert terminal.first_key(arrived) == key
    assert terminal.action_of(key) == action


def test_every_key_does_one_thing_only():
    keys = [key for entry in terminal.KEYS for key in entry.keys]
    assert len(keys) == len(set(keys))
    assert all(entry.shown in terminal.keys_help() for entry in terminal.KEYS)


@pytest.mark.parametrize("n_frames", [0, 1, 7, 1000])
def test_drawing_copes_with_any_trace(n_frames):
    for trace in (np.zeros(n_frames), np.full(n_frames, np.nan), np.full(n_frames, 3e38), np.random.default_rng(0).normal(size=n_frames)):
        for font in ("blocks", "ascii"):
            lines = terminal.plot_trace(trace.astype(np.float32), 40, 3, font)
            assert [len(line) for line in lines] == [40, 40, 40]
    assert terminal.font_for("ascii") == terminal.font_for(None) == "ascii"
    assert terminal.font_for("utf-8") == "blocks"


class Terminal:
    """A command in a pseudo-terminal."""

    def __init__(self, *arguments: object) -> None:
        import pty

        self.master, slave = pty.openpty()
        command = [sys.executable, "-c", DRIVER, *map(str, arguments)]
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env=ENVIRONMENT, preexec_fn=lambda: _own_terminal(slave)
        )
        os.close(slave)
        self.seen = ""

    def until(self, text: str) -> str:
        """Read until `text` appears; returns what came before and takes it away."""
        end = time.monotonic() + 60
        while text not in self.seen:
            assert time.monotonic() < end, self.seen
            if select.select([self.master], [], [], 1)[0]:
                try:
                    self.seen += os.read(self.master, 65536).decode(errors="replace")
                except OSError:  # Linux: the other end was closed
                    assert text in self.seen, self.seen
        before, _, self.seen = self.seen.partition(text)
        return before

    def listening(self) -> None:
        """Wait until it waits for a single key: what is typed before that is thrown away by the terminal."""
        import termios

        end = time.monotonic() + 60
        while termios.tcgetattr(self.master)[3] & termios.ICANON:
            assert time.monotonic() < end, self.seen
            time.sleep(0.001)

    def press(self, keys: bytes) -> None:
        self.listening()
        os.write(self.master, keys)

    def end(self) -> int:
        """The exit status; `seen` then holds the rest."""
        end = time.monotonic() + 60
        while time.monotonic() < end:
            if select.select([self.master], [], [], 1)[0]:
                try:
                    more = os.read(self.master, 65536)
                except OSError:  # Linux: the other end was closed
                    break
                if not more:
                    break
                self.seen += more.decode(errors="replace")
        return self.process.wait(60)


@pytest.fixture
def screens() -> Iterator[Callable[..., Terminal]]:
    """Opens terminals; what still runs in them at the end of the test is ended."""
    out: list[Terminal] = []

    def start(*arguments: object) -> Terminal:
        out.append(Terminal(*arguments))
        return out[-1]

    yield start
    for screen in out:
        screen.process.kill()
        screen.process.wait(60)
        os.close(screen.master)


def _own_terminal(slave: int) -> None:
    import fcntl
    import termios

    os.setsid()
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)  # so that control-C becomes a signal


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_arrow_keys_in_a_terminal(screens, result):
    screen = screens("sort", result, "--classifier", "centroid")
    for keys, reply in [
        (b"\x1b[A", "-> cell"), (b"\x1b[B", "-> not_cell"), (b"u", "-> unsure"), (b"\x1b[D", "-> undo"), (b"r", "-> redo"),
        (b"\x1bOA", "-> cell"), (b"\x1b[C", "a, candidate"), (b"n", "-> not_cell"),
    ]:  # fmt: skip
        screen.until("q / ?] ")
        screen.press(keys)
        screen.until(reply)
    screen.until("q / ?] ")
    screen.press(b"\x1b")
    assert screen.end() == 0
    assert "5 labels" in screen.seen
    assert labelled(result / "actsort") == [
        ("label", "cell"), ("label", "not_cell"), ("label", "unsure"), ("undo", ""), ("redo", ""), ("label", "cell"), ("label", "not_cell")
    ]  # fmt: skip


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
@pytest.mark.parametrize(("how", "code"), [(b"\x03", 1), (b"\x04", 0), (b"q", 0), (signal.SIGINT, 1)])
def test_leaving_a_terminal_keeps_every_label_and_says_how_to_go_on(screens, result, how, code):
    screen = screens("sort", result, "--classifier", "centroid")
    screen.until("q / ?] ")
    screen.press(b"y")
    screen.until("-> cell")
    screen.until("q / ?] ")
    if isinstance(how, bytes):
        screen.press(how)
    else:
        screen.listening()
        screen.process.send_signal(how)
    assert screen.end() == code
    assert "Traceback" not in screen.seen
    assert "unexpected" not in screen.seen
    assert ("saved" if code else "1 labels") in screen.seen
    assert labelled(result / "actsort") == [("label", "cell")]
