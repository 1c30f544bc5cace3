"""Terms for recordings with few features: what they are, when they are added, and what they buy."""

from __future__ import annotations

import importlib.util
import os
import warnings
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from actsort_core.expand import LIMIT, expand
from actsort_core.learn import standardise

DATA = os.environ.get("ACTSORT_BENCHMARK_DATA")


def script() -> ModuleType:
    path = Path(__file__).parents[1] / "benchmarks/few_features.py"
    spec = importlib.util.spec_from_file_location("few_features", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def random_table(n: int = 400, k: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).gamma(2, 1, (n, k)).astype(np.float32)


def test_raw_columns_stay_in_front() -> None:
    x = random_table()
    names, out = expand(["a", "b", "c"], x)
    assert names[:3] == ("a", "b", "c")
    np.testing.assert_array_equal(out[:, :3], x)
    assert out.dtype == np.float32
    assert out.shape == (400, len(names)) == (400, 3 * 12)
    assert names[3:5] == ("a~1", "a~2")
    assert len(set(names)) == len(names)


def test_terms_are_what_lies_above_or_below_a_quantile_within_the_outer_ones() -> None:
    x = random_table(k=1)
    names, out = expand(["a"], x)
    low, *inner, high = np.quantile(x[:, 0].astype(float), np.linspace(0.01, 0.99, 7))
    for i, value in enumerate(x[:, 0].astype(float)):
        cut = min(max(value, low), high)
        expected = [cut] + [max(cut - q, 0) for q in inner] + [max(q - cut, 0) for q in inner]
        np.testing.assert_allclose(out[i, 1:], expected, rtol=1e-6, atol=1e-7)
    assert names[1:] == tuple(f"a~{i}" for i in range(1, 12))


@pytest.mark.parametrize(("k", "expanded"), [(1, True), (LIMIT, True), (LIMIT + 1, False), (76, False)])
def test_only_tables_with_few_features_get_terms(k: int, expanded: bool) -> None:
    x = random_table(k=k)
    names, out = expand([f"f{i}" for i in range(k)], x)
    assert (len(names) > k) is expanded
    assert out.shape[1] == len(names)


def test_constant_and_missing_columns_do_not_count_and_get_no_terms() -> None:
    x = np.column_stack([random_table(k=LIMIT), np.full((400, 5), 3), np.full((400, 5), np.nan)]).astype(np.float32)
    names, out = expand([f"f{i}" for i in range(LIMIT + 10)], x)
    assert {name.partition("~")[0] for name in names if "~" in name} == {f"f{i}" for i in range(LIMIT)}
    np.testing.assert_array_equal(out[:, : LIMIT + 10], x)


def test_expanding_twice_is_expanding_once() -> None:
    once = expand(["a"], random_table(k=1))
    names, out = expand(*once)
    assert names == once[0]
    np.testing.assert_array_equal(out, once[1])


def test_a_tilde_in_a_feature_s_own_name_is_no_term() -> None:
    names, _ = expand(["snr~raw", "size"], random_table(k=2))
    assert "snr~raw~1" in names
    assert "size~1" in names


def test_a_limit_of_another_size() -> None:
    assert expand(["a", "b"], random_table(k=2), limit=1)[0] == ("a", "b")
    assert expand(["a", "b"], random_table(k=2), limit=0)[0] == ("a", "b")


def test_missing_values_are_missing_in_the_terms_and_leave_the_others_alone() -> None:
    x = random_table(k=1)
    gaps = np.concatenate([x, [[np.nan], [np.inf], [-np.inf]]]).astype(np.float32)
    names, out = expand(["a"], gaps)
    expected_names, expected = expand(["a"], x)
    assert names == expected_names
    np.testing.assert_array_equal(out[:-3], expected)
    assert np.isnan(out[-3:, 1:]).all()
    assert np.isfinite(standardise(out)).all()


def test_a_feature_of_two_values_needs_no_terms_and_one_of_three_gets_a_bend() -> None:
    two = np.repeat([[0.0], [1.0]], 20, axis=0).astype(np.float32)
    assert expand(["flag"], two)[0] == ("flag",)
    three = np.repeat([[0.0], [1.0], [2.0]], 20, axis=0).astype(np.float32)
    names, out = expand(["n"], three)
    assert len(names) > 1
    assert np.linalg.matrix_rank(np.column_stack([out, np.ones(60)])) == 3  # any function of three values


def test_an_outlier_stretches_no_term() -> None:
    x = random_table(k=1)
    wild = x.copy()
    wild[0] = 1e30
    names, out = expand(["a"], wild)
    assert names == expand(["a"], x)[0]
    assert np.abs(out[:, 1:]).max() < 20
    assert np.isfinite(out).all()


def test_nothing_in_nothing_out() -> None:
    names, out = expand([], np.zeros((5, 0), np.float32))
    assert names == ()
    assert out.shape == (5, 0)
    names, out = expand(["a"], np.zeros((0, 1), np.float32))
    assert names == ("a",)
    assert out.shape == (0, 1)


@settings(max_examples=150, deadline=None)
@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(0, 30), st.integers(0, 4)),
        elements=st.floats(width=32) | st.sampled_from([0.0, 1.0, np.nan]),
    )
)
def test_any_table(x: np.ndarray) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        names, out = expand([f"f{i}" for i in range(x.shape[1])], x)
        again = expand([f"f{i}" for i in range(x.shape[1])], x)
    assert out.shape == (len(x), len(names))
    assert names == again[0]
    np.testing.assert_array_equal(out, again[1])
    np.testing.assert_array_equal(out[:, : x.shape[1]], x)
    for j in range(x.shape[1], len(names)):
        stem = int(names[j].partition("~")[0][1:])
        np.testing.assert_array_equal(np.isnan(out[:, j]), ~np.isfinite(x[:, stem]))
        assert not np.isinf(out[:, j]).any()


def test_order_of_the_candidates_does_not_matter() -> None:
    x = random_table()
    order = np.random.default_rng(1).permutation(len(x))
    names, out = expand("abc", x)
    shuffled_names, shuffled = expand("abc", x[order])
    assert names == shuffled_names
    np.testing.assert_array_equal(out[order], shuffled)


def test_a_middle_range_is_learned_from_a_hundred_labels_and_a_line_stays_one() -> None:
    few = script()
    for x, y, gain in ((*few.simulated("range"), 5.0), (*few.simulated("line"), -1.5)):
        scores = {name: few.measure(values, y, seeds=3, counts=(100,), ask="active")[0][0] for name, values in few.tables(x).items()}
        assert scores["expanded"] > scores["raw"] + gain


@pytest.mark.skipif(not DATA or not (Path(DATA) / "suite2p_classifier/classifier.npy").exists(), reason="ACTSORT_BENCHMARK_DATA is not set")
def test_a_hundred_labels_come_within_a_point_of_all_rows_on_the_labels_of_suite2p() -> None:
    few = script()
    x, y = few.suite2p(Path(str(DATA)))
    values = few.tables(x)["expanded"]
    everything = few.all_rows(values, y)
    (at_100,) = few.measure(values, y, seeds=5, counts=(100,), ask="active")[0]
    assert everything > few.all_rows(few.tables(x)["raw"], y) + 3
    assert at_100 >= everything - 1
