"""Scaling a few columns at a time gives, to the last bit, what scaling all at once gives, in less memory."""

from __future__ import annotations

import tracemalloc
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from actsort_core import learn
from actsort_core.learn import CLIP, standardise


def all_at_once(table: np.ndarray, clip: bool = True) -> np.ndarray:
    """Literal: every step on the whole table in float64."""
    out = np.array(table, np.float64)
    out[~np.isfinite(out)] = np.nan
    present = ~np.isnan(out)
    some = present.any(axis=0)
    median = np.zeros(out.shape[1])
    if some.any():
        median[some] = np.nanmedian(out[:, some], axis=0)
    out = np.where(present, out, median)
    out /= np.maximum(np.abs(out).max(axis=0, initial=0), 1e-300)
    out -= out.mean(axis=0) if len(out) else 0
    std = out.std(axis=0, ddof=1) if len(out) > 1 else np.zeros(out.shape[1])
    constant = std < 1e-12
    z = np.where(constant, 0, out / np.where(constant, 1, std))
    return (np.clip(z, -CLIP, CLIP) if clip else z).astype(np.float32)


def same_bits(a: np.ndarray, b: np.ndarray) -> None:
    assert a.dtype == b.dtype == np.float32
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("block", [1, 2000, 1 << 20])
@pytest.mark.parametrize("k", [0, 1, 2, 3, 4, 5, 7, 76])
@pytest.mark.parametrize("n", [0, 1, 2, 599, 1001])
@pytest.mark.parametrize("order", ["C", "F"])
def test_blocks_of_columns_change_no_bit(block: int, k: int, n: int, order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learn, "_BLOCK", block)
    rng = np.random.default_rng(0)
    x = np.asarray(np.exp(3 * rng.normal(size=(n, k))), np.float32, order=order)
    x[rng.random((n, k)) < 0.1] = np.nan
    if k > 3:
        x[:, 0], x[:, 1], x[:, 2] = np.nan, 3.3, np.inf
    for clip in (True, False):
        same_bits(standardise(x, clip), all_at_once(x, clip))


@settings(max_examples=200, deadline=None)
@given(hnp.arrays(np.float32, st.tuples(st.integers(0, 12), st.integers(0, 9)), elements=st.floats(width=32)))
def test_blocks_of_columns_change_no_bit_of_any_table(x: np.ndarray) -> None:
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("error")
        patch.setattr(learn, "_BLOCK", 1)
        same_bits(standardise(x), all_at_once(x))


def test_the_table_given_is_not_changed() -> None:
    x = np.random.default_rng(0).normal(size=(50, 5)).astype(np.float32)
    x[0, 0] = np.nan
    before = x.copy()
    standardise(x)
    np.testing.assert_array_equal(x, before)


def test_scaling_takes_little_more_memory_than_its_result() -> None:
    x = np.random.default_rng(0).normal(size=(300_000, 76)).astype(np.float32)
    tracemalloc.start()
    try:
        standardise(x)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * x.nbytes  # all at once: 7.3 times
