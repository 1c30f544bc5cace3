"""Saved models: plain numbers and words, the same after loading, refused when anything about them is not as it was saved."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from conftest import make_plugins, simulated

from actsort_core import expand, learn, models, unlike, warm
from actsort_core.classifiers import strength
from actsort_core.errors import FormatError, MissingFileError, PluginError, UsageError
from actsort_core.features.table import FeatureTable
from actsort_core.hookspecs import hookimpl
from actsort_core.models import from_session, load_model, save_model


@pytest.fixture
def fitted(opened, result, truth):
    """An open session with 20 labels and a linear model."""
    session = opened(result, classifier="l1_logistic")
    for i in range(20):
        session.label(i, int(truth[i]))
    session.wait()
    return session


@pytest.fixture
def saved(fitted, tmp_path):
    return save_model(tmp_path / "m", from_session(fitted))


class TestRoundTrip:
    def test_it_says_the_same_as_the_session(self, fitted, saved):
        model = load_model(saved)
        x, lacking = model.match(fitted.features())
        assert lacking == ()
        np.testing.assert_allclose(model.probability(x), fitted.predictions().probability, atol=1e-6)

    def test_everything_comes_back(self, fitted, saved):
        before, after = from_session(fitted), load_model(saved)
        for name in ("names", "versions", "units", "features", "intercept", "offsets", "threshold", "classifier", "classes", "n_labels"):
            assert getattr(after, name) == getattr(before, name), name
        for name in ("coef", "quantiles", "scores"):
            np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
        assert after.parameters["C"] == 1.0
        np.testing.assert_array_equal(after.examples.features, before.examples.features)
        np.testing.assert_array_equal(after.examples.y, before.examples.y)

    def test_provenance_says_who_labelled_what_and_where(self, fitted, saved, truth):
        about = load_model(saved).provenance
        assert about["annotators"] == {"ann": 20}
        (recording,) = about["recordings"]
        assert recording["fingerprint"] == fitted.recordings["a"].fingerprint
        assert recording["labels"] == {"cell": int(truth[:20].sum()), "not_cell": int(20 - truth[:20].sum())}
        assert about["actsort"]
        assert about["created"]

    def test_no_pickle_and_no_path_in_it(self, saved, tmp_path):
        with np.load(saved / "model.npz", allow_pickle=False) as arrays:
            assert all(arrays[name].dtype != object for name in arrays.files)
        assert str(tmp_path) not in (saved / "model.json").read_text()  # what is passed on does not tell where the data lie

    def test_it_serves_as_warm_start(self, fitted, saved, truth):
        found = warm.read_examples(saved)
        np.testing.assert_array_equal(found.features, learn.standardise(fitted.features().values)[:20])
        np.testing.assert_array_equal(found.y, truth[:20])

    def test_the_line_a_person_moved_goes_with_it(self, fitted, tmp_path):
        fitted.threshold = 0.7
        assert load_model(save_model(tmp_path / "m", from_session(fitted))).threshold == 0.7

    def test_writing_leaves_it_in_the_session(self, fitted):
        fitted.write()
        assert load_model(fitted.folder).n_labels == 20

    def test_a_dry_run_does_not(self, fitted):
        fitted.write(dry_run=True)
        assert models.find_model(fitted.folder) is None

    def test_saving_again_replaces_it(self, fitted, saved, truth):
        fitted.label(20, int(truth[20]))
        assert load_model(save_model(saved, from_session(fitted))).n_labels == 21

    def test_another_session_goes_on_with_the_same_folder(self, fitted, opened, result):
        fitted.write()
        fitted.close()
        again = opened(result)
        assert len(again.labels()) == 20


class TestWhatCannotBeSaved:
    def test_a_classifier_without_weights(self, opened, result, truth, tmp_path):
        session = opened(result, classifier="centroid")
        for i in range(20):
            session.label(i, int(truth[i]))
        with pytest.raises(PluginError, match="'centroid' cannot be saved: it has no coef_"):
            from_session(session)
        session.write()  # and a write-back does not mind
        assert models.find_model(session.folder) is None

    def test_a_classifier_whose_weights_are_not_what_it_says(self, opened, result, truth):
        class Odd:
            classes_ = np.array([0, 1])

            def fit(self, X, y):
                self.coef_, self.intercept_ = np.ones((1, X.shape[1])), np.zeros(1)

            def predict_proba(self, X):
                return np.tile([0.4, 0.6], (len(X), 1))

        class Plugin:
            @hookimpl
            def actsort_register_classifiers(self):
                return [learn.ClassifierSpec("odd", "says other things", Odd)]

        session = opened(result, classifier="odd", plugins=make_plugins(Plugin()))
        for i in range(20):
            session.label(i, int(truth[i]))
        with pytest.raises(PluginError, match="says other probabilities than its coef_"):
            from_session(session)

    def test_a_session_without_a_model(self, opened, result):
        with pytest.raises(UsageError, match="has no model yet"):
            from_session(opened(result, classifier="l1_logistic"))

    def test_a_folder_that_holds_something_else(self, fitted, tmp_path):
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "thesis.tex").write_text("")
        with pytest.raises(UsageError, match=r"thesis\.tex"):
            save_model(tmp_path / "mine", from_session(fitted))
        assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


class TestDamage:
    def rewrite(self, saved, **changes):
        document = json.loads((saved / "model.json").read_text()) | changes
        document["checksum"] = models._checksum(document)
        (saved / "model.json").write_text(json.dumps(document))

    def test_any_flipped_byte_is_noticed(self, saved):
        for name in ("model.npz", "model.json"):
            path = saved / name
            content = path.read_bytes()
            for i in range(3, len(content), 211):
                path.write_bytes(content[:i] + bytes([content[i] ^ 2]) + content[i + 1 :])
                with pytest.raises(FormatError) as caught:
                    load_model(saved)
                assert caught.value.hint
            path.write_bytes(content)
        load_model(saved)

    def test_a_truncated_or_missing_file(self, saved):
        content = (saved / "model.npz").read_bytes()
        (saved / "model.npz").write_bytes(content[: len(content) // 2])
        with pytest.raises(FormatError, match="checksum"):
            load_model(saved)
        (saved / "model.npz").unlink()
        with pytest.raises(MissingFileError, match=r"model\.npz is missing"):
            load_model(saved)
        with pytest.raises(MissingFileError, match="no saved model"):
            load_model(saved.parent)

    def test_a_newer_format_says_update(self, saved):
        self.rewrite(saved, format_version=2)
        with pytest.raises(FormatError, match="format version 2") as caught:
            load_model(saved)
        assert "Update actsort" in caught.value.hint

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"scaling": {"per": "session"}}, "another way of scaling"),
            ({"kind": "something"}, "checksum"),
            ({"features": []}, "damaged"),
            ({"intercept": "high"}, "damaged"),
            ({"features": [{"name": "a"}]}, "damaged"),
            ({"classes": None}, "damaged"),
        ],
    )
    def test_what_does_not_fit_is_refused_even_with_a_right_checksum(self, saved, change, said):
        self.rewrite(saved, **change)
        with pytest.raises(FormatError, match=said):
            load_model(saved)

    def test_arrays_of_another_model_are_noticed(self, fitted, saved, tmp_path, truth):
        fitted.label(20, int(truth[20]))
        other = save_model(tmp_path / "other", from_session(fitted))
        (saved / "model.npz").write_bytes((other / "model.npz").read_bytes())
        with pytest.raises(FormatError, match="checksum"):
            load_model(saved)


class TestMatching:
    def test_by_name_not_by_place(self, fitted):
        model, table = from_session(fitted), fitted.features()
        order = np.random.default_rng(0).permutation(len(table.names))
        mixed = FeatureTable(tuple(table.names[i] for i in order), tuple(table.versions[i] for i in order), table.values[:, order])
        np.testing.assert_array_equal(model.match(mixed)[0], model.match(table)[0])

    def test_another_version_lacks_and_counts_as_average(self, fitted):
        model, table = from_session(fitted), fitted.features()
        heaviest = table.names.index(model.used()[0])
        versions = tuple(v + (i == heaviest) for i, v in enumerate(table.versions))
        x, lacking = model.match(replace(table, versions=versions))
        assert lacking == (table.names[heaviest],)
        assert not x[:, heaviest].any()

    def test_nothing_it_goes_by_is_an_error(self, fitted):
        model, table = from_session(fitted), fitted.features()
        with pytest.raises(UsageError, match="none of the features"):
            model.match(replace(table, names=tuple(f"other.{name}" for name in table.names)))


class TestTermsOfFewFeatures:
    """Where a recording offers a handful of features, terms are added; a model of such terms makes them anew wherever it is applied."""

    @pytest.fixture
    def table(self):
        rng = np.random.default_rng(0)
        names = tuple(f"f{i:02d}" for i in range(20))
        return FeatureTable(names, (1,) * 20, rng.normal(size=(60, 20)).astype(np.float32))

    @pytest.fixture
    def model(self, fitted, table):
        names, _ = expand.expand(table.names[:2], table.values[:, :2])
        n = len(names)
        assert n > 2
        empty = np.full((1, n, 5), np.nan, np.float32)
        return replace(from_session(fitted), names=names, versions=(1,) * n, units=("",) * n, coef=np.ones(n), quantiles=empty)

    def test_they_are_made_however_many_features_the_recording_has(self, model, table):
        x, lacking = model.match(table)
        assert lacking == ()
        names, values = expand.expand(table.names[:2], table.values[:, :2])
        assert names == model.names
        np.testing.assert_array_equal(x, learn.standardise(values))

    def test_they_have_the_version_of_their_feature(self, model, table):
        _, lacking = model.match(replace(table, versions=(2, *(1,) * 19)))
        assert set(lacking) == {name for name in model.names if name.startswith("f00")}
        warnings = unlike.unlike(model, replace(table, versions=(2, *(1,) * 19)), lacking, np.zeros(60))
        assert any("f00 (version 1 in the model, 2 here)" in warning for warning in warnings)


def test_recordings_of_a_session_are_described_one_by_one(opened, toy, tmp_path):
    truth = {name: simulated(n, seed, name)[1] for seed, (name, n) in enumerate((("a", 40), ("b", 30)))}
    session = opened(toy(a=40, b=30), classifier="l1_logistic")
    for name in "ab":
        for i in range(12):
            session.label((name, i), int(truth[name][i]))
    model = load_model(save_model(tmp_path / "m", from_session(session)))
    assert model.quantiles.shape == (2, len(model.names), 5)
    values = session.features("b").values[:, 0]
    np.testing.assert_allclose(model.quantiles[1, 0], np.quantile(values[np.isfinite(values)], models.QUANTILES), rtol=1e-6)
    assert [row["name"] for row in model.provenance["recordings"]] == ["a", "b"]


def raw(session, key):
    """What the model says of one recording, before calibration."""
    place = list(session.recordings).index(key)
    return session.fit.probability[session.fit.bounds[place] : session.fit.bounds[place + 1]]


class TestTheDefaultEngine:
    """Offsets by recording, examples from elsewhere and terms of few features are in what is saved."""

    def check(self, session, tmp_path):
        model = load_model(save_model(tmp_path / "m", from_session(session)))
        for key, recording in session.recordings.items():
            x, lacking = model.match(session.features(key))
            assert lacking == ()
            np.testing.assert_allclose(model.probability(x, recording.fingerprint), raw(session, key), atol=1e-4)
        return model

    def test_several_recordings(self, opened, toy, tmp_path):
        session = opened(toy(a=40, b=30), classifier="l1_adaptive")
        truth = {"a": simulated(40, 0, "a")[1], "b": 1 - simulated(30, 1, "b")[1]}  # another person's idea of a cell
        for key in "ab":
            for i in range(20):
                session.label((key, i), int(truth[key][i]))
        model = self.check(session, tmp_path)
        assert set(model.offsets) == {recording.fingerprint for recording in session.recordings.values()}
        assert model.parameters["C"] == pytest.approx(strength(40, len(model.names)))  # as used, not as asked for

    def test_few_features(self, opened, result, truth, tmp_path):
        session = opened(result, classifier="l1_adaptive", features=["neighbour"])
        for i in range(30):
            session.label(i, int(truth[i]))
        assert "neighbour.max_overlap~1" in self.check(session, tmp_path).names

    def test_a_warm_start(self, opened, result, truth, fitted, saved, toy, tmp_path):
        other = simulated(50, 3, "other")[1]
        session = opened(toy("other", seed=3, other=50), classifier="l1_adaptive", warm_start=saved)
        for i in range(10):
            session.label(i, int(other[i]))
        model = self.check(session, tmp_path)
        assert (model.n_labels, len(model.examples)) == (10, 10)
