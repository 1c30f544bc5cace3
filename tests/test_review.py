"""What a person meets at the edges: the wrong path, two hands at once, a crash in between, a cell run again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import make_plugins

from actsort_core import store
from actsort_core.errors import LockedError, MissingFileError, UsageError, WriteError
from actsort_core.hookspecs import hookimpl
from actsort_core.journal import Journal
from actsort_core.oracle import answerer, read_truth
from actsort_core.writeback import restore


@pytest.fixture
def cli():
    from click.testing import CliRunner

    from actsort_core.cli import main

    def run(*words):
        done = CliRunner().invoke(main, list(map(str, words)), obj=make_plugins())
        done.code = done.exit_code
        return done

    return run


def label_some(session, truth, n=12):
    session.sort(answerer(session, truth), n)
    return session


def test_a_session_nearby_is_never_taken_for_another_result(opened, toy, truth, tmp_path, monkeypatch):
    result = toy("mouse1/results")
    label_some(opened(result), truth).close()
    other = toy("mouse1/results/inner", seed=1)
    beside = toy("mouse2/results", seed=2)
    (tmp_path / "mouse1" / "results" / "note.txt").write_text("x")
    with pytest.raises(MissingFileError, match="typo"):
        store.find_folder(result / "typo")
    for wrong in (other, beside, result / "note.txt"):
        with pytest.raises(MissingFileError, match="no session of"):
            store.find_folder(wrong)
    monkeypatch.chdir(tmp_path / "mouse1")
    with pytest.raises(MissingFileError):
        store.find_folder(beside)
    assert store.find_folder(result) == store.find_folder(result / "actsort") == result / "actsort"


def test_prepare_false_decides_by_the_labels_all_the_same(opened, result, truth):
    label_some(opened(result), truth).close()
    with opened(result) as session:
        expected = session.decisions()
    with opened(result, prepare=False) as session:
        assert session.decisions() == expected
        assert session.predictions().n_labels == 12


def test_a_plugin_that_labels_from_the_fitting_thread_harms_nothing(opened, result, truth):
    class Eager:
        @hookimpl
        def actsort_model_fitted(self, session, predictions):
            free = [i for i in range(40) if not any(la.candidate.index == i for la in session.labels())]
            if len(free) > 20:
                session.label(free[-1], int(truth[free[-1]]), annotator="robot")

    with opened(result, plugins=make_plugins(Eager()), refit_wait=0) as session:
        for candidate in range(15):
            session.label(candidate, int(truth[candidate]))
        session.wait()
    events = Journal(result / "actsort", read_only=True).events
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    with opened(result) as session:
        assert {la.annotator for la in session.labels()} >= {"robot"}


def test_labels_from_many_threads_are_all_kept(opened, result):
    with opened(result, refit_wait=0) as session:
        threads = [threading.Thread(target=lambda k=k: [session.label(i, "cell") for i in range(k, 40, 4)]) for k in range(4)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        assert len(session.labels()) == 40
    with opened(result) as session:
        assert len(session.labels()) == 40


def test_opening_twice_in_one_program_says_how_to_close(opened, result):
    opened(result)
    with pytest.raises(LockedError, match=r"session\.close\(\)"):
        opened(result)


def test_a_dropped_session_unlocks_without_close(toy, tmp_path):
    result = toy("results")
    code = (
        "import gc, sys; sys.path.insert(0, sys.argv[2])\n"
        "import conftest, actsort_core as a\n"
        "s = a.open(sys.argv[1], plugins=conftest.make_plugins()); s.wait(); del s; gc.collect()\n"
        "s = a.open(sys.argv[1], plugins=conftest.make_plugins()); print('again', len(s.candidates))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(result), str(Path(__file__).parent)], capture_output=True, encoding="utf-8", check=False
    )
    assert "again 40" in done.stdout, done.stderr


def test_clicks_in_the_toolkit_after_our_write_are_told_and_kept(opened, result, truth):
    with label_some(opened(result), truth) as session:
        session.write()
        assert not any("was changed after" in note for note in session.write(dry_run=True).notes)
        (verdict,) = result.glob("*.verdict.json")
        verdict.write_bytes(verdict.read_bytes().replace(b"1", b"0", 1))
        clicked = verdict.read_bytes()
        for dry in (True, False):
            assert any("was changed after ActSort wrote it" in note for note in session.write(dry_run=dry).notes)
        assert clicked in [path.read_bytes() for path in (session.folder / "backups").iterdir()]


def test_before_there_is_a_model_the_hosts_probabilities_stay(opened, result, truth):
    with opened(result) as session:
        key = next(iter(session.recordings))
        verdict = session.priors[key].verdict
        p = np.where(verdict > 0, 0.8, 0.3)
        p[0] = 1 - p[0]  # the host's verdict was flipped by hand: the side of .5 is the verdict's
        session.priors[key] = type(session.priors[key])(verdict, p)
        session.label(5, "not_cell" if verdict[5] > 0 else "cell")
        shown = session.curations()[key].host_probability()
    expected = p.copy()
    expected[0] = 0.5 + 1e-6 if verdict[0] > 0 else 0.5 - 1e-6
    expected[5] = 0.0 if verdict[5] > 0 else 1.0
    np.testing.assert_allclose(shown, expected)


def test_a_failed_first_command_leaves_no_session_behind(cli, result, tmp_path):
    for words in (("--oracle", tmp_path / "nothing.json"), ("--labels", "abc")):
        assert cli("sort", result, *words).code in (1, 2)
        assert not (result / "actsort").exists()


def test_a_new_session_refuses_a_folder_of_something_else(opened, result, tmp_path):
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("all of it")
    with pytest.raises(UsageError, match=r"thesis\.tex"):
        opened(result, session=foreign)
    (foreign / "thesis.tex").rename(foreign / "labels.jsonl")
    with pytest.raises(UsageError, match=r"labels\.jsonl"):
        opened(result, session=foreign)
    assert [path.name for path in foreign.iterdir()] == ["labels.jsonl"]


def test_results_in_another_order_are_refused(opened, toy, tmp_path):
    a, b = (toy(f"{name}/{name}", seed=i) for i, name in enumerate("ab"))
    opened(a, b, session=tmp_path / "both").close()
    with pytest.raises(UsageError, match="another order"):
        opened(b, a, session=tmp_path / "both")
    opened(a, b, session=tmp_path / "both").close()


def test_an_interrupted_write_is_told_until_it_is_dealt_with(cli, opened, result, truth):
    with label_some(opened(result), truth) as session:
        session.write()
        intent = next(e for e in session.journal.events if e["kind"] == "write_started")
        session.journal.append("write_started", files=intent["files"])  # what a kill in the middle leaves
    with opened(result) as session:
        assert any("was interrupted" in note for note in session.notes)
        session.write()
    with opened(result) as session:
        assert not any("was interrupted" in note for note in session.notes)


def test_restoring_several_files_is_all_or_nothing(opened, toy, truth, tmp_path, monkeypatch):
    a, b = (toy(f"{name}/{name}", seed=i) for i, name in enumerate("ab"))
    with opened(a, b, session=tmp_path / "both") as session:
        for candidate in session.candidates[::5]:
            session.label(candidate, "cell")
        session.write()
        written = {path: path.read_bytes() for folder in (a, b) for path in folder.glob("*.verdict.json")}
        real, calls = os.replace, []

        def failing(source, target):
            calls.append(target)
            if len(calls) == 2:
                raise OSError(28, "No space left on device")
            return real(source, target)

        monkeypatch.setattr(os, "replace", failing)
        with pytest.raises(WriteError):
            session.restore()
        monkeypatch.undo()
        assert {path: path.read_bytes() for path in written} == written
        assert len(restore(session.folder, session.journal)) == 2


def test_a_dry_run_with_a_threshold_keeps_nothing(cli, opened, result, truth):
    label_some(opened(result), truth).close()
    before = (result / "actsort" / "session.json").read_bytes()
    assert cli("write", result, "--dry-run", "--threshold", "0.9").code == 0
    assert (result / "actsort" / "session.json").read_bytes() == before
    assert json.loads(before)["options"]["threshold"] is None


def test_a_resumed_session_asks_by_the_model_at_once(opened, result, truth):
    label_some(opened(result), truth).close()
    with opened(result) as session:
        session.label(session.ask(), "unsure")
        last = session.journal.events[-1]
    assert last["reason"] == "active"


def test_a_csv_oracle_may_have_a_header_that_is_one_of_our_words(tmp_path):
    (tmp_path / "o.csv").write_text("cell\n1\n0\n\n")
    assert read_truth(tmp_path / "o.csv", 3).tolist() == [1, 0, -1]
