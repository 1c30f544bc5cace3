"""Warm starts: examples are matched by name and version, stored with a session, and read from wherever people sorted before."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import simulated

from actsort_core import learn, warm
from actsort_core.cli import main
from actsort_core.errors import FormatError, MissingFileError, UsageError
from actsort_core.warm import Examples, concatenate, read_examples, read_many, store_examples, stored_examples


def examples(names=("a", "b"), versions=None, n=4, source="elsewhere"):
    values = np.arange(n * len(names), dtype=np.float32).reshape(n, len(names)) + 1
    return Examples(source, names, versions if versions is not None else dict.fromkeys(names, 1), values, np.arange(n) % 2)


class TestMatching:
    def test_columns_come_in_the_order_of_the_table(self):
        x, missing = examples().matched(("b", "a"), {"a": 1, "b": 1})
        assert missing == ()
        np.testing.assert_array_equal(x, examples().features[:, ::-1])

    def test_a_feature_that_is_not_there_is_zero_and_named(self):
        x, missing = examples().matched(("c", "b"), {"b": 1, "c": 1})
        assert missing == ("c",)
        assert not x[:, 0].any()
        np.testing.assert_array_equal(x[:, 1], examples().features[:, 1])

    def test_another_version_counts_as_missing(self):
        x, missing = examples().matched(("a", "b"), {"a": 2, "b": 1})
        assert missing == ("a",)
        assert not x[:, 0].any()

    def test_an_unknown_version_fits_any(self):
        assert examples(versions={"a": None}).matched(("a", "b"), {"a": 7, "b": 3})[1] == ()
        assert examples().matched(("a", "b"), {"a": None})[1] == ()

    def test_versions_and_missing_features_are_said(self):
        (note,) = examples(("a", "b", "d")).check_match(("a", "b", "d", "c"), {"a": 2, "b": 1, "c": 1, "d": 1})
        assert "2 of 4 features" in note
        assert "not there: c" in note
        assert "a (1 there, 2 here)" in note

    def test_nothing_is_said_where_all_is_there(self):
        assert examples().check_match(("a",), {"a": 1}) == ()

    def test_nothing_in_common_is_an_error_that_names_both_sides(self):
        with pytest.raises(UsageError, match=r"no feature in common.*x, y") as caught:
            examples().check_match(("x", "y"), {})
        assert "a, b" in caught.value.hint

    def test_little_in_common_is_a_warning_that_names_what_lacks(self):
        with pytest.warns(UserWarning, match=r"1 of 3 features \(not there: x, y\)"):
            examples().check_match(("a", "x", "y"), {"a": 1})


class TestOneObject:
    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"y": np.array([0, 1, 2, 1])}, "not 0 or 1"),
            ({"names": ("a", "a")}, "twice"),
            ({"features": np.zeros((3, 2), np.float32)}, r"shape \(3, 2\)"),
            ({"features": np.full((4, 2), np.nan, np.float32)}, "not finite"),
        ],
    )
    def test_what_is_inconsistent_is_refused_at_the_door(self, change, said):
        good = {"source": "here", "names": ("a", "b"), "versions": {}, "features": np.zeros((4, 2)), "y": np.array([0, 1, 0, 1])}
        Examples(**good)
        with pytest.raises(FormatError, match=said):
            Examples(**{**good, **change})

    def test_together_they_have_all_features_and_what_one_lacks_is_average(self):
        both = concatenate([examples(("a", "b")), examples(("b", "c"), n=2)])
        assert both.names == ("a", "b", "c")
        assert both.features.shape == (6, 3)
        assert not both.features[:4, 2].any()
        assert not both.features[4:, 0].any()
        np.testing.assert_array_equal(both.features[4:, 1], [1, 3])
        np.testing.assert_array_equal(both.y, [0, 1, 0, 1, 0, 1])

    def test_together_the_newest_version_of_a_feature_is_kept(self):
        both = concatenate([examples(("a",), {"a": 1}), examples(("a",), {"a": 2})])
        assert both.versions == {"a": 2}
        assert not both.features[:4].any()
        assert both.features[4:].all()

    def test_nothing_cannot_be_put_together(self):
        with pytest.raises(UsageError):
            concatenate([])


class TestStored:
    def test_what_is_stored_comes_back(self, tmp_path):
        given = examples(versions={"a": 3, "b": None})
        store_examples(tmp_path, given)
        found = stored_examples(tmp_path)
        assert (found.source, found.names, found.versions) == ("elsewhere", ("a", "b"), {"a": 3, "b": None})
        np.testing.assert_array_equal(found.features, given.features)
        np.testing.assert_array_equal(found.y, given.y)

    def test_nothing_stored_is_none(self, tmp_path):
        assert stored_examples(tmp_path) is None

    def test_the_same_examples_are_the_same_bytes(self, tmp_path):
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            store_examples(tmp_path / name, examples())
        for file in (warm.ARRAYS, warm.DOCUMENT):
            assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()

    def test_every_flipped_byte_of_the_arrays_is_noticed(self, tmp_path):
        store_examples(tmp_path, examples())
        content = (tmp_path / warm.ARRAYS).read_bytes()
        for i in range(0, len(content), 37):
            (tmp_path / warm.ARRAYS).write_bytes(content[:i] + bytes([content[i] ^ 1]) + content[i + 1 :])
            with pytest.raises(FormatError, match="checksum"):
                stored_examples(tmp_path)

    @pytest.mark.parametrize("damage", ["{", "[]", "{}", '{"format_version": 1}', '{"format_version": 99}'])
    def test_a_damaged_or_newer_document_is_a_sentence(self, tmp_path, damage):
        store_examples(tmp_path, examples())
        (tmp_path / warm.DOCUMENT).write_text(damage)
        with pytest.raises(FormatError) as caught:
            stored_examples(tmp_path)
        assert "--warm-start" in caught.value.hint

    def test_arrays_that_are_gone_are_said_so(self, tmp_path):
        store_examples(tmp_path, examples())
        (tmp_path / warm.ARRAYS).unlink()
        with pytest.raises(MissingFileError, match="missing"):
            stored_examples(tmp_path)

    def test_a_pickle_is_never_loaded(self, tmp_path):
        store_examples(tmp_path, examples())
        document = json.loads((tmp_path / warm.DOCUMENT).read_text())
        np.savez(tmp_path / warm.ARRAYS, features=np.array([object()]), y=np.zeros(1, np.int8))
        document["arrays"] = warm.digest(tmp_path / warm.ARRAYS)
        (tmp_path / warm.DOCUMENT).write_text(json.dumps(document))
        with pytest.raises(FormatError, match="damaged"):
            stored_examples(tmp_path)


class TestGiven:
    @pytest.fixture
    def path(self, tmp_path):
        path = tmp_path / "sorted.csv"
        path.write_text("a,b,label\n1,2,1\n2,1,0\n3,3,1\n")
        return path

    def test_one_path_several_or_examples(self, path):
        assert len(warm.gather(str(path))) == 3
        assert len(warm.gather([path])) == 3
        assert len(warm.gather(examples(n=4))) == 4

    def test_the_latest_is_kept_and_none_drops_it(self, path, tmp_path):
        for given, n in ((path, 3), (examples(n=4), 4)):
            warm.keep(tmp_path, warm.gather(given))
            assert len(stored_examples(tmp_path)) == n
        warm.keep(tmp_path, warm.gather("none"))
        assert stored_examples(tmp_path) is None
        assert list(tmp_path.iterdir()) == [path]


class TestSessionsThatStartWarm:
    @pytest.fixture
    def earlier(self, opened, toy):
        truth = simulated(60, 7, "earlier")[1]
        with opened(toy("earlier", seed=7, earlier=60), classifier="l1_logistic") as session:
            for i in range(60):
                session.label(i, int(truth[i]))
            return session.folder

    def test_the_examples_are_kept_so_that_resuming_needs_no_other_file(self, opened, result, earlier, toy_plugins):
        with opened(result, warm_start=earlier) as session:
            expected = read_examples(earlier, toy_plugins)
            np.testing.assert_array_equal(stored_examples(session.folder).features, expected.features)
        shutil.rmtree(earlier)
        with opened(result) as session:
            assert len(stored_examples(session.folder)) == 60
        with opened(result, warm_start="none") as session:
            assert stored_examples(session.folder) is None

    def test_the_default_engine_learns_from_them(self, opened, result, truth, earlier, toy_plugins):
        from actsort_core.oracle import balanced_accuracy

        def sorted_with(**options):
            with opened(result, classifier="l1_adaptive", session=result.parent / f"s{len(options)}", **options) as session:
                session.sort(lambda candidate: int(truth[candidate.index]), 4)
                return balanced_accuracy(np.array([d.accepted for d in session.decisions()]), truth)

        assert sorted_with(warm_start=[earlier]) > max(0.8, sorted_with())

    def test_a_mistake_leaves_no_session_behind(self, opened, result, tmp_path):
        for given in (tmp_path / "nowhere", examples(("x", "y"), n=20)):
            with pytest.raises((MissingFileError, UsageError)):
                opened(result, warm_start=given, classifier="l1_adaptive")
            assert not (result / "actsort").exists()

    def test_a_read_only_session_cannot_be_given_one(self, opened, result):
        opened(result).close()
        with pytest.raises(UsageError, match="read-only"):
            opened(result, warm_start=examples(), read_only=True)

    def test_from_the_command_line(self, result, earlier, truth, tmp_path, toy_plugins):
        (tmp_path / "truth.json").write_text(json.dumps(truth.tolist()))
        arguments = ["sort", result, "--oracle", tmp_path / "truth.json", "--labels", 4, "--json", "--warm-start", earlier]
        done = CliRunner().invoke(main, [str(a) for a in arguments], obj=toy_plugins)
        assert done.exit_code == 0, done.output
        assert len(stored_examples(result / "actsort")) == 60
        done = CliRunner().invoke(main, ["sort", "--warm-start", str(earlier), str(result)], obj=toy_plugins)
        assert done.exit_code == 2
        assert "before --warm-start" in done.output


class TestFromSessions:
    def label(self, session, truth, n=12):
        for candidate in [c for c in session.candidates if c.index < n]:
            session.label(candidate, int(truth[candidate.index]))

    def test_labelled_rows_scaled_over_all_candidates(self, opened, result, truth, toy_plugins):
        with opened(result) as session:
            self.label(session, truth)
            session.label(20, "unsure")
            folder, table = session.folder, session.features()
        found = read_examples(folder, toy_plugins)
        assert found.names == table.names
        np.testing.assert_array_equal(found.features, learn.standardise(table.values)[:12])
        np.testing.assert_array_equal(found.y, truth[:12])
        assert found.versions == dict(zip(table.names, table.versions, strict=True))
        again = read_examples(result, toy_plugins)  # the result stands for its session
        np.testing.assert_array_equal(again.features, found.features)

    def test_recordings_are_scaled_each_by_itself(self, opened, toy, toy_plugins):
        with opened(toy(a=40, b=30)) as session:
            session.label(("a", 3), "cell")
            session.label(("b", 5), "not_cell")
            expected = [learn.standardise(session.features(key).values)[i] for key, i in (("a", 3), ("b", 5))]
            folder = session.folder
        found = read_examples(folder, toy_plugins)
        np.testing.assert_array_equal(found.features, expected)
        np.testing.assert_array_equal(found.y, [1, 0])

    def test_own_classes_count_as_they_do_in_their_session(self, opened, result, toy_plugins):
        with opened(result, classes={"dendrite": "not_cell", "soma": "cell", "odd": "unsure"}) as session:
            for i, name in enumerate(("dendrite", "soma", "odd")):
                session.label(i, name)
            folder = session.folder
        np.testing.assert_array_equal(read_examples(folder, toy_plugins).y, [0, 1])

    def test_it_may_be_open_elsewhere(self, opened, result, truth, toy_plugins):
        session = opened(result)
        self.label(session, truth)
        assert len(read_examples(session.folder, toy_plugins)) == 12

    def test_a_session_without_labels_says_so(self, opened, result, toy_plugins):
        with opened(result) as session:
            folder = session.folder
        with pytest.raises(UsageError, match="Nobody labelled anything"):
            read_examples(folder, toy_plugins)

    def test_a_session_whose_result_is_gone_says_what_to_do(self, opened, result, truth, toy_plugins, tmp_path):
        with opened(result, session=tmp_path / "s") as session:
            self.label(session, truth)
        shutil.rmtree(result)
        with pytest.raises(UsageError, match="cannot be opened for a warm start") as caught:
            read_examples(tmp_path / "s", toy_plugins)
        assert "actsort model" in caught.value.hint

    def test_after_a_write_it_serves_even_without_its_result(self, opened, result, truth, toy_plugins, tmp_path):
        with opened(result, session=tmp_path / "s", classifier="l1_logistic") as session:
            self.label(session, truth, 20)
            expected = warm.session_examples(session)
            session.write()
        shutil.rmtree(result)
        found = read_examples(tmp_path / "s", toy_plugins)
        np.testing.assert_array_equal(found.features, expected.features)
        np.testing.assert_array_equal(found.y, expected.y)


class TestFromFiles:
    def test_csv_by_name(self, tmp_path):
        path = tmp_path / "sorted.csv"
        path.write_text("candidate,a,b,label\n" + "".join(f"{i},{i},{i * i},{'' if i == 4 else int(i > 2)}\n" for i in range(6)))
        found = read_examples(path)
        assert found.names[:2] == ("a", "b")  # then the terms that are added to few features
        np.testing.assert_array_equal(found.y, [0, 0, 0, 1, 1])
        a, b = np.arange(6.0), np.arange(6.0) ** 2
        np.testing.assert_allclose(found.features[:, :2], learn.standardise(np.column_stack([a, b]))[[0, 1, 2, 3, 5]], atol=1e-6)

    def test_majority_and_ties_of_the_published_layout(self, tmp_path):
        import h5py

        with h5py.File(tmp_path / "x.mat", "w") as file:
            file["metrics"] = np.random.default_rng(0).normal(size=(5, 76))
            for who, said in (("ann", [1, 1, -1, -1, 1]), ("bob", [1, -1, -1, 1, 1])):
                file[f"{who}_choices"] = np.array([said], float)
        found = read_examples(tmp_path / "x.mat")
        np.testing.assert_array_equal(found.y, [1, 0, 1])
        assert found.names[0] == "published.snr"  # by the name of our feature that is the same quantity
        assert found.names[75] == "movie.frame_match_90"

    def test_the_same_file_twice_counts_once(self, tmp_path):
        path = tmp_path / "sorted.csv"
        path.write_text("a,b,label\n1,2,1\n2,1,0\n3,3,1\n")
        assert len(read_many([path, path])) == 3

    def test_paths_that_hold_nothing_of_the_kind(self, tmp_path, toy):
        with pytest.raises(MissingFileError, match="does not exist"):
            read_examples(tmp_path / "nowhere")
        with pytest.raises(UsageError, match="nothing to start from") as caught:
            read_examples(toy())
        assert "_LABELS.mat" in caught.value.hint


def test_importing_it_is_light():
    import subprocess
    import sys

    code = "import sys, actsort_core.warm; print([m for m in ('sklearn', 'h5py', 'matplotlib') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
