"""One model, many recordings: decisions without a person, reversible, with a warning where a recording looks unlike the others."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import toy_format
from click.testing import CliRunner
from conftest import make_plugins, simulated

import actsort_core as actsort
from actsort_core import batch, learn, models, unlike
from actsort_core.batch import apply
from actsort_core.cli import main
from actsort_core.errors import MissingFileError, UnknownNameError, UsageError
from actsort_core.features.table import FeatureTable
from actsort_core.hookspecs import hookimpl
from actsort_core.oracle import balanced_accuracy
from actsort_core.warm import stored_examples

EXAMPLES = Path(__file__).parent.parent / "examples/data"
needs_examples = pytest.mark.skipif(not (EXAMPLES / "demo.json").exists(), reason="examples are missing")


@pytest.fixture
def model(opened, toy, tmp_path):
    """A saved model of a well-labelled toy recording."""
    truth = simulated(60, 7, "trained")[1]
    with opened(toy("training", seed=7, trained=60), classifier="l1_logistic") as session:
        for i in range(60):
            session.label(i, int(truth[i]))
        return models.save_model(tmp_path / "model", models.from_session(session))


@pytest.fixture
def results(toy, tmp_path):
    """Three toy results nobody sorted, and the truth about each."""
    return {toy(f"r{seed}", seed=seed, a=50): simulated(50, seed, "a")[1] for seed in (1, 2, 3)}


def verdicts(folder: Path) -> list:
    return json.loads((folder / "a.verdict.json").read_text())


class TestApply:
    def test_every_file_holds_the_models_decisions(self, model, results, toy_plugins):
        done = apply(model, *results, plugins=toy_plugins)
        for result, (path, truth) in zip(done, results.items(), strict=True):
            assert not result.error
            accepted = np.array([v == 1 for v in verdicts(path)])
            assert balanced_accuracy(accepted, truth) > 0.8
            (one,) = result.recordings
            assert (one.n_cells, one.accepted) == (50, int(accepted.sum()))

    def test_the_line_is_at_the_share_of_cells_of_each_recording(self, model, results, toy_plugins):
        saved = models.load_model(model)
        for result, path in zip(apply(model, *results, plugins=toy_plugins), results, strict=True):
            with actsort.open(path, plugins=toy_plugins, read_only=True, prepare=False) as session:
                p = saved.probability(saved.match(session.features())[0])
            (one,) = result.recordings
            assert one.share == pytest.approx(p.mean())
            assert one.threshold == one.share
            np.testing.assert_array_equal([v == 1 for v in verdicts(path)], p > p.mean())

    def test_before_after_and_changed_are_counted(self, model, results, toy_plugins):
        path = next(iter(results))
        before = np.array([v == 1 for v in verdicts(path)])
        (one,) = apply(model, path, plugins=toy_plugins)[0].recordings
        after = np.array([v == 1 for v in verdicts(path)])
        assert (one.before, one.accepted, one.changed) == (before.sum(), after.sum(), (before != after).sum())
        assert one.changed > 0

    def test_decisions_say_that_the_model_made_them(self, model, results, toy_plugins):
        path = next(iter(results))
        (done,) = apply(model, path, plugins=toy_plugins)
        document = json.loads((done.session / "curation.json").read_text())
        assert {row["origin"] for row in document["recordings"][0]["candidates"]} == {"model"}
        events = [json.loads(line) for line in (done.session / "labels.jsonl").read_text().splitlines()]
        assert [event["kind"] for event in events] == ["write_started", "written", "applied"]
        assert events[-1]["thresholds"] == {"a": done.recordings[0].threshold}

    def test_restore_puts_every_file_back(self, model, results, toy_plugins):
        content = {path: (path / "a.verdict.json").read_bytes() for path in results}
        apply(model, *results, plugins=toy_plugins)
        for path in results:
            assert (path / "a.verdict.json").read_bytes() != content[path]
            with actsort.open(path, plugins=toy_plugins, prepare=False) as session:
                session.restore()
            assert (path / "a.verdict.json").read_bytes() == content[path]

    def test_a_dry_run_says_the_same_and_touches_nothing(self, model, results, toy_plugins, tmp_path, snapshot):
        before = snapshot(tmp_path)
        dry = apply(model, *results, dry_run=True, plugins=toy_plugins)
        assert snapshot(tmp_path) == before
        assert all(result.session is None and result.report.planned and not result.report.written for result in dry)
        assert [r.recordings for r in dry] == [r.recordings for r in apply(model, *results, plugins=toy_plugins)]

    def test_a_dry_run_leaves_an_existing_session_as_it_is(self, model, results, toy_plugins, opened, snapshot):
        path = next(iter(results))
        with opened(path) as session:
            session.label(0, "cell")
        kept = {name: state for name, state in snapshot(path).items() if "features" not in name}
        apply(model, path, dry_run=True, plugins=toy_plugins)
        assert {name: state for name, state in snapshot(path).items() if "features" not in name} == kept

    def test_applying_twice_changes_nothing_more(self, model, results, toy_plugins):
        path = next(iter(results))
        apply(model, path, plugins=toy_plugins)
        again = verdicts(path)
        (one,) = apply(model, path, plugins=toy_plugins)[0].recordings
        assert (one.changed, verdicts(path)) == (0, again)

    def test_all_recordings_of_a_result(self, model, toy, toy_plugins):
        path = toy("several", a=40, b=30)
        (done,) = apply(model, path, plugins=toy_plugins)
        assert [(one.recording, one.n_cells) for one in done.recordings] == [("a", 40), ("b", 30)]
        assert done.recordings[0].threshold != done.recordings[1].threshold

    def test_the_same_path_twice_is_done_once(self, model, results, toy_plugins):
        path = next(iter(results))
        assert len(apply(model, path, str(path), plugins=toy_plugins)) == 1

    def test_plugins_are_told(self, model, results, hooks):
        path = next(iter(results))
        apply(model, path, plugins=make_plugins(hooks.plugin))
        ((curations, paths),) = hooks.of("written")
        assert [c.recording for c in curations] == ["a"]
        assert len(paths) == 1

    def test_whoever_corrects_afterwards_starts_with_the_models_examples(self, model, results, toy_plugins):
        (done,) = apply(model, next(iter(results)), plugins=toy_plugins)
        np.testing.assert_array_equal(stored_examples(done.session).features, models.load_model(model).examples.features)


class TestLabelsOfAPerson:
    def test_they_are_kept_and_win(self, model, results, toy_plugins, opened):
        path, truth = next(iter(results.items()))
        with opened(path, annotator="eve") as session:
            for i in range(8):
                session.label(i, not truth[i])  # the model would decide otherwise on most
            session.label(8, "unsure")
        (done,) = apply(model, path, plugins=toy_plugins)
        assert done.recordings[0].labels == 8
        assert [v == 1 for v in verdicts(path)[:8]] == [not t for t in truth[:8]]
        rows = json.loads((done.session / "curation.json").read_text())["recordings"][0]["candidates"]
        assert [row["origin"] for row in rows[:10]] == ["label"] * 8 + ["model"] * 2
        assert (rows[0]["annotator"], rows[8]["label"]) == ("eve", "unsure")
        with opened(path) as session:
            assert len(session.labels()) == 9

    def test_a_session_with_other_features_keeps_its_choice(self, model, results, toy_plugins, opened):
        path = next(iter(results))
        with opened(path, features=["footprint"]) as session:
            session.label(0, "cell")
        (done,) = apply(model, path, plugins=toy_plugins)
        assert not done.error
        assert not [w for w in done.recordings[0].warnings if "lacks" in w]
        with opened(path) as session:
            assert session.options.features == ("footprint",)

    def test_a_session_made_earlier_keeps_its_own_start(self, model, results, toy_plugins, opened):
        path = next(iter(results))
        opened(path).close()
        (done,) = apply(model, path, plugins=toy_plugins)
        assert stored_examples(done.session) is None


class TestTheLine:
    def test_a_number(self, model, results, toy_plugins):
        low, high = (
            [r.recordings[0] for r in apply(model, *results, threshold=t, dry_run=True, plugins=toy_plugins)] for t in (0.1, "0.9")
        )
        assert {one.threshold for one in low} == {0.1}
        assert {one.threshold for one in high} == {0.9}
        assert all(a.accepted >= b.accepted for a, b in zip(low, high, strict=True))
        assert sum(a.accepted for a in low) > sum(b.accepted for b in high)

    @pytest.mark.parametrize(("name", "value"), [("app", 0.5), ("paper", 0.65)])
    def test_published_ones_by_name(self, model, results, toy_plugins, name, value):
        path = next(iter(results))
        assert apply(model, path, threshold=name, dry_run=True, plugins=toy_plugins)[0].recordings[0].threshold == value

    def test_the_one_of_the_models_session_unless_told_otherwise(self, opened, toy, results, toy_plugins):
        truth = simulated(60, 7, "trained")[1]
        path = next(iter(results))
        with opened(toy("training", seed=7, trained=60), classifier="l1_logistic", threshold=0.8) as session:
            for i in range(30):
                session.label(i, int(truth[i]))
            assert apply(session, path, dry_run=True, plugins=toy_plugins)[0].recordings[0].threshold == 0.8
            (one,) = apply(session, path, threshold="pi", dry_run=True, plugins=toy_plugins)[0].recordings
            assert one.threshold == one.share

    def test_favoured_sides(self, model, results, toy_plugins):
        plain, precise, complete = (
            [r.recordings[0] for r in apply(model, *results, favour=side, dry_run=True, plugins=toy_plugins)]
            for side in (None, "precision", "recall")
        )
        for at_pi, strict, lenient in zip(plain, precise, complete, strict=True):
            assert strict.accepted <= at_pi.accepted <= lenient.accepted
            assert strict.precision >= max(0.95, at_pi.precision)
            assert lenient.recall >= max(0.95, at_pi.recall)

    def test_favouring_moves_no_further_than_needed(self):
        p = np.array([0.99, 0.97, 0.95, 0.9, 0.6, 0.4, 0.2, 0.1])
        line = batch._Line(None, "precision").of(p)
        assert p[p > line].mean() >= 0.95
        assert p[p >= p[p <= line].max()].mean() < 0.95  # one more would be too many
        line = batch._Line(None, "recall").of(p)
        assert p[p > line].sum() / p.sum() >= 0.95
        assert p[p > p[p > line].min()].sum() / p.sum() < 0.95

    def test_what_cannot_be_meant(self, model, results, toy_plugins):
        for options, said in (
            ({"threshold": 2}, "no threshold"),
            ({"favour": "both"}, "cannot be favoured"),
            ({"favour": "recall", "threshold": 0.5}, "Give one of them|side to favour"),
        ):
            with pytest.raises(UsageError, match=said):
                apply(model, *results, plugins=toy_plugins, **options)
        with pytest.raises(UsageError, match="nothing to apply"):
            apply(model, plugins=toy_plugins)


class TestFailures:
    def test_one_does_not_stop_the_others(self, model, results, toy_plugins, tmp_path):
        paths = list(results)
        (paths[1] / "a.data.npz").write_bytes(b"damaged")
        done = apply(model, paths[0], paths[1], tmp_path / "nowhere", paths[2], plugins=toy_plugins)
        assert [bool(result.error) for result in done] == [False, True, True, False]
        assert "nowhere" in done[2].error
        assert not (paths[1] / "actsort").exists()  # nothing half-made is left

    def test_a_session_open_elsewhere_is_said_so(self, model, results, toy_plugins, opened):
        path = next(iter(results))
        opened(path)
        (done,) = apply(model, path, plugins=toy_plugins)
        assert "open" in done.error
        assert apply(model, path, dry_run=True, plugins=toy_plugins)[0].error == ""

    def test_an_unexpected_exception_is_one_results_problem(self, model, results, monkeypatch, toy_plugins):
        paths = list(results)
        plan = toy_format.ToyFolder.plan

        def fails(self, recordings, curations):
            if recordings[0].path == paths[0]:
                raise ZeroDivisionError("oops")
            return plan(self, recordings, curations)

        monkeypatch.setattr(toy_format.ToyFolder, "plan", fails)
        done = apply(model, *paths, plugins=toy_plugins)
        assert "oops" in done[0].error
        assert [bool(result.error) for result in done[1:]] == [False, False]

    def test_features_that_are_not_installed_here(self, opened, toy, results, toy_plugins, tmp_path):
        from actsort_core.features import Feature, FeatureGroup

        class Plugin:
            @hookimpl
            def actsort_register_features(self):
                feature = Feature("lab.size", "1", 1, None, "size")
                size = lambda recording: {"lab.size": np.diff(recording.footprints.indptr)}  # noqa: E731
                return [FeatureGroup("lab", (feature,), frozenset({"footprints"}), size)]

        truth = simulated(60, 7, "trained")[1]
        with opened(
            toy("training", seed=7, trained=60), classifier="l1_logistic", features=["lab", "trace"], plugins=make_plugins(Plugin())
        ) as session:
            for i in range(30):
                session.label(i, int(truth[i]))
            saved = models.from_session(session)
        (done,) = apply(saved, next(iter(results)), plugins=toy_plugins)
        assert "'lab'" in done.error

    def test_no_such_model(self, results, toy_plugins, tmp_path):
        with pytest.raises((UsageError, MissingFileError, UnknownNameError)):
            apply(tmp_path / "nowhere", *results, plugins=toy_plugins)
        with pytest.raises(MissingFileError, match="no saved model"):
            apply(tmp_path, *results, plugins=toy_plugins)


class TestUnlike:
    """Warnings name the features, and keep quiet about recordings of the same kind."""

    @pytest.fixture
    def trained(self, model):
        return models.load_model(model)

    def table(self, seed=1, n=50):
        from actsort_core.features.table import compute_table, select

        return compute_table(simulated(n, seed, "a")[0], select(make_plugins().features, None))

    def said(self, model, table):
        x, lacking = model.match(table)
        return unlike.unlike(model, table, lacking, model.log_odds(x))

    def test_the_same_kind_of_recording_is_not_warned_about(self, trained):
        for seed in (1, 2, 3):
            assert self.said(trained, self.table(seed)) == []

    def test_another_scale_is_named(self, trained):
        table = self.table()
        name = trained.used()[0]
        i = table.names.index(name)
        values = table.values.copy()
        values[:, i] = values[:, i] * 20 + 5
        (warning,) = self.said(trained, FeatureTable(table.names, table.versions, values))
        assert warning.startswith("measured on another scale")
        assert name in warning

    def test_a_feature_without_variation_is_named(self, trained):
        table = self.table()
        name = trained.used()[0]
        values = table.values.copy()
        values[:, table.names.index(name)] = 3
        assert any(
            f"hardly any variation in {name}" in warning
            for warning in self.said(trained, FeatureTable(table.names, table.versions, values))
        )

    def test_lacking_features_are_named_with_their_weight(self, trained):
        table = self.table()
        name = trained.used()[0]
        values = table.values.copy()
        values[:, table.names.index(name)] = np.nan
        warnings = self.said(trained, FeatureTable(table.names, table.versions, values))
        assert any(w.startswith("lacks features with") and name in w for w in warnings)
        versions = tuple(v + (n == name) for n, v in zip(table.names, table.versions, strict=True))
        warnings = self.said(trained, FeatureTable(table.names, versions, table.values))
        assert any(f"{name} (version 1 in the model, 2 here)" in w for w in warnings)

    def test_a_feature_the_model_does_not_go_by_does_not_matter(self, trained):
        table = self.table()
        unused = next(name for name in table.names if name not in trained.used())
        values = table.values.copy()
        values[:, table.names.index(unused)] *= 1000
        assert self.said(trained, FeatureTable(table.names, table.versions, values)) == []

    @pytest.fixture
    def agreeing(self, trained):
        """A model of two features that say the same wherever it learned."""
        a = np.random.default_rng(0).normal(size=200)
        table = FeatureTable(("a", "b"), (1, 1), np.column_stack([a, a]).astype(np.float32))
        log_odds = 6 * learn.standardise(table.values)[:, 0]
        about = {"recordings": [{"share_of_cells": float((1 / (1 + np.exp(-log_odds))).mean())}]}
        model = replace(
            trained,
            names=("a", "b"),
            versions=(1, 1),
            coef=np.array([3.0, 3.0]),
            intercept=0.0,
            quantiles=models.quantiles_of(table, ("a", "b"))[None],
            scores=np.quantile(log_odds, models.QUANTILES)[None].astype(np.float32),
            provenance=about,
        )
        assert self.said(model, table) == []
        return model, table

    def test_a_model_that_is_unsure_says_so(self, agreeing):
        model, table = agreeing
        against = FeatureTable(table.names, table.versions, table.values * np.float32([1, -1]))
        (warning,) = self.said(model, against)
        assert "less sure here" in warning

    def test_another_share_of_cells_is_said(self, agreeing):
        model, table = agreeing
        (warning,) = self.said(replace(model, intercept=-12.0), table)
        assert "where it learned they were 51 %" in warning

    def test_few_candidates(self, trained):
        assert any("only 12 candidates" in warning for warning in self.said(trained, self.table(n=12)))


@needs_examples
class TestOnRealFiles:
    """The shipped results of Suite2p, CaImAn and CNMF-E, by the command line."""

    @pytest.fixture
    def work(self, tmp_path):
        shutil.copytree(EXAMPLES, tmp_path / "data")
        return tmp_path / "data"

    def run(self, *arguments, code=0):
        done = CliRunner().invoke(main, [str(a) for a in arguments], prog_name="actsort")
        assert done.exit_code == code, done.output
        assert "Traceback" not in done.output
        return done.stdout

    def test_a_suite2p_session_sorts_results_of_other_toolkits(self, work, tmp_path, snapshot):
        self.run("sort", work / "suite2p", "--oracle", work / "suite2p.truth.json", "--labels", 40)
        shown = self.run("model", work / "suite2p", "--save", tmp_path / "m")
        assert "footprint.core_share" in shown
        assert "learned from plane0 (suite2p, 64 candidates)" in shown
        others = [work / "caiman_2p.hdf5", work / "cnmfe_results.mat"]
        before = {path: path.read_bytes() for path in others}
        state = snapshot(work)
        dry = json.loads(self.run("apply", tmp_path / "m", *others, "--dry-run", "--json"))
        assert snapshot(work) == state
        done = json.loads(self.run("apply", tmp_path / "m", *others, "--json"))
        assert [r["recordings"] for r in done["results"]] == [r["recordings"] for r in dry["results"]]
        assert (done["failed"], dry["dry_run"], done["dry_run"]) == (0, True, False)
        for path, result in zip(others, done["results"], strict=True):
            assert result["written"] == [str(path)]
            info = json.loads(self.run("info", path, "--json"))
            assert info["prior"]["accepted"] == result["recordings"][0]["accepted"]
            self.run("restore", path)
            assert path.read_bytes() == before[path]
        cnmfe = done["results"][1]["recordings"][0]
        assert any("footprint.core_share" in warning for warning in cnmfe["warnings"])  # its footprints are of another kind

    def test_a_session_serves_as_a_model_and_its_own_labels_stand(self, work):
        self.run("sort", work / "suite2p", "--oracle", work / "suite2p.truth.json", "--labels", 40)
        document = json.loads(self.run("apply", work / "suite2p", work / "suite2p" / "plane0", work / "caiman_2p.hdf5", "--json"))
        assert document["results"][0]["recordings"][0]["labels"] == 40
        assert document["results"][1]["recordings"][0]["labels"] == 0

    def test_a_failure_is_in_the_table_and_in_the_exit_status(self, work):
        self.run("sort", work / "suite2p", "--oracle", work / "suite2p.truth.json", "--labels", 30)
        (work / "broken.mat").write_bytes(b"nothing of the kind")
        shown = self.run("apply", work / "suite2p", work / "broken.mat", work / "caiman_2p.hdf5", "--dry-run", code=1)
        broken, caiman = (next(line for line in shown.splitlines() if line.startswith(str(work / name))) for name in ("broken", "caiman"))
        assert "failed" in broken
        assert " 38 " in caiman
        assert f"{work / 'broken.mat'}: failed. No format" in shown
        assert "Nothing was written." in shown

    def test_help_is_immediate_and_says_how_to_undo(self):
        assert "actsort restore" in self.run("apply", "--help")
        assert "--favour [precision|recall]" in self.run("apply", "--help")
        assert "--warm-start" in self.run("model", "--help")


def test_public_names():
    assert actsort.apply is apply
    assert actsort.load_model is models.load_model
    assert actsort.save_model is models.save_model
