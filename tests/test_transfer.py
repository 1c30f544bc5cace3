"""Examples from elsewhere: what they weigh, and when they are not believed."""

from __future__ import annotations

import numpy as np
import pytest

from actsort_core import engine, learn, plugins, transfer
from actsort_core.errors import UsageError
from actsort_core.transfer import TOTAL, contradicted, fit_with, prepare
from actsort_core.warm import Examples

NAMES = tuple(f"f{i}" for i in range(15))
LOADED = plugins.load()


def made(n: int, share: float = 0.5, seed: int = 0, sign: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Candidates whose kind three of the features tell, with some doubt; a share of them are cells."""
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < share).astype(np.int8)
    x = rng.normal(0, 1, (n, len(NAMES))).astype(np.float32)
    x[:, :3] += sign * np.where(y == 1, 0.9, -0.9)[:, None]
    return learn.standardise(x), y


def examples(x: np.ndarray, y: np.ndarray) -> Examples:
    return Examples("elsewhere", NAMES, {}, x, y)


def labelled(y: np.ndarray, each: int) -> np.ndarray:
    return np.sort(np.concatenate([np.flatnonzero(y == kind)[:each] for kind in (0, 1)]))


@pytest.mark.parametrize(("n", "share"), [(40, 0.5), (400, 0.1), (5000, 0.05), (5000, 0.9)])
def test_both_kinds_weigh_the_same_and_all_no_more_than_their_number(n: int, share: float) -> None:
    x, y = made(n, share)
    warm, note = prepare(examples(x, y), NAMES, {})
    assert warm is not None
    assert not note
    assert len(warm.y) <= transfer.LIMIT
    cells = warm.weight[warm.y == 1].sum()
    assert cells == pytest.approx(warm.weight[warm.y == 0].sum())
    assert warm.weight.sum() == pytest.approx(min(TOTAL, len(warm.y)))
    if n > transfer.LIMIT:  # the rare kind is kept whole where it is small
        assert (warm.y == (share < 0.5)).sum() == min((y == (share < 0.5)).sum(), transfer.LIMIT // 2)


@pytest.mark.parametrize(("n", "least"), [(60, 12), (200, 18), (1000, 20), (5000, 20)])
def test_shuffled_labels_are_noticed_and_left_out(n: int, least: int) -> None:
    """All of them where there are many; few may pass by chance, and are left to the own labels."""
    dropped = []
    for seed in range(20):
        x, y = made(n, 0.3, seed)
        warm, note = prepare(examples(x, np.random.default_rng(seed).permutation(y)), NAMES, {})
        dropped.append(warm is None)
        assert (warm is not None) or ("elsewhere was left out" in note and "do not tell its labels apart" in note)
        kept, _ = prepare(examples(x, y), NAMES, {})
        assert kept is not None
    assert sum(dropped) >= least


def test_labels_of_one_kind_are_left_out_and_none_in_common_is_an_error() -> None:
    x, y = made(100)
    warm, note = prepare(examples(x, np.ones(100, np.int8)), NAMES, {})
    assert warm is None
    assert "100 cells and 0 not-cells" in note
    with pytest.raises(UsageError, match="no feature in common"):
        prepare(examples(x, y), ["other"], {})


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("each", [3, 10])
def test_own_labels_speak_against_inverted_examples_and_not_against_good_ones(share: float, each: int) -> None:
    x, y = made(2000, share, seed=1)
    rows = labelled(y, each)
    good, _ = prepare(examples(*made(600, 0.4, seed=2)), NAMES, {})
    inverted, _ = prepare(examples(*made(600, 0.4, seed=2, sign=-1)), NAMES, {})
    assert good is not None
    assert inverted is not None
    assert not contradicted(good, x, rows, y[rows])
    assert contradicted(inverted, x, rows, y[rows])
    one_kind = rows[y[rows] == 1][:9]
    assert not contradicted(inverted, x, one_kind, y[one_kind]), "a few labels of one kind prove nothing"


def test_labels_next_to_the_line_do_not_drop_good_examples() -> None:
    """They are what is asked for, and by themselves look like chance."""
    x, _ = made(3000, 0.5, seed=11)
    warm, _ = prepare(examples(*made(600, 0.5, seed=12)), NAMES, {})
    assert warm is not None
    score = warm.model.log_odds(x)
    near = np.argsort(np.abs(score - np.median(score)))
    for n in (4, 10, 30, 100):
        rows = np.sort(near[:n])
        for seed in range(5):
            guessed = np.random.default_rng(seed).integers(0, 2, n).astype(np.int8)
            assert not contradicted(warm, x, rows, guessed)


def test_a_source_with_another_share_of_cells_does_not_move_the_line() -> None:
    """Nine in ten are cells there, half of them here: the sources' intercept is their own."""
    x, y = made(3000, 0.5, seed=3)
    rows = labelled(y, 10)
    warm, _ = prepare(examples(*made(800, 0.9, seed=4)), NAMES, {})
    assert warm is not None
    model = fit_with(warm, x[rows], y[rows])
    share = float((1 / (1 + np.exp(-model.log_odds(x)))).mean())
    assert share == pytest.approx(0.5, abs=0.06)


def prepared(x: np.ndarray, warm: transfer.Warm | None) -> engine.Setup:
    n = len(x)
    return engine.Setup(
        x,
        np.array([0, n]),
        np.random.default_rng(0).permutation(n),
        LOADED.classifiers["l1_adaptive"],
        LOADED.strategies["balanced_pi"],
        LOADED.strategies,
        warm=warm,
    )


def test_with_a_warm_start_the_model_speaks_before_the_first_label() -> None:
    x, y = made(2000, 0.4, seed=5)
    warm, _ = prepare(examples(*made(600, 0.6, seed=6)), NAMES, {})
    nothing = np.zeros(0, np.int64)
    turn = engine.turn(prepared(x, warm), engine.Known(nothing, nothing.astype(np.int8), np.zeros(len(x), bool)))
    assert turn.fit is not None
    assert turn.fit.warm
    assert turn.reason == "active"
    assert np.mean((turn.fit.distance() > 0) == (y == 1)) > 0.9
    cold = engine.turn(prepared(x, None), engine.Known(nothing, nothing.astype(np.int8), np.zeros(len(x), bool)))
    assert cold.fit is None
    assert cold.reason == "start"


def test_contradicted_examples_change_nothing_and_are_spoken_of() -> None:
    x, y = made(2000, 0.4, seed=7)
    rows = labelled(y, 8)
    known = engine.Known(rows, y[rows], np.isin(np.arange(len(x)), rows))
    bad, _ = prepare(examples(*made(600, 0.5, seed=8, sign=-1)), NAMES, {})
    with_it, without = engine.turn(prepared(x, bad), known), engine.turn(prepared(x, None), known)
    assert with_it.fit is not None
    assert without.fit is not None
    np.testing.assert_array_equal(with_it.fit.probability, without.fit.probability)
    assert "contradict the warm start elsewhere" in with_it.note
    assert not without.note


def test_examples_weigh_less_as_own_labels_arrive() -> None:
    """Here feature 0 is all that matters, there three features are: the more own labels, the nearer to them."""
    rng = np.random.default_rng(9)
    x = learn.standardise(rng.normal(0, 1, (4000, len(NAMES))).astype(np.float32))
    y = (x[:, 0] + 0.3 * rng.normal(size=len(x)) > 0).astype(np.int8)
    warm, _ = prepare(examples(*made(600, 0.5, seed=10)), NAMES, {})
    assert warm is not None
    foreign = []
    for each in (5, 50, 500):
        coef = np.abs(fit_with(warm, x[labelled(y, each)], y[labelled(y, each)]).coef_[0])
        foreign.append(coef[1:3].sum() / coef.sum())
    assert foreign[0] > foreign[1] > foreign[2]
    assert foreign[2] < 0.2
