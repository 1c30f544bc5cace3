"""What a newcomer's day with the learning engine brought to light."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import actsort_core as actsort
from actsort_core import engine, learn, models, plugins, unlike, warm
from actsort_core.errors import UsageError
from actsort_core.features.table import FeatureTable
from actsort_core.transfer import ALIKE, prepare
from actsort_core.warm import Examples

NAMES = tuple(f"f{i}" for i in range(15))
LOADED = plugins.load()


def made(n: int, share: float, seed: int, sign: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Candidates whose kind three of the features tell, with some doubt; a share of them are cells."""
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < share).astype(np.int8)
    x = rng.normal(0, 1, (n, len(NAMES))).astype(np.float32)
    x[:, :3] += sign * np.where(y == 1, 0.9, -0.9)[:, None]
    return learn.standardise(x), y


def asked(sign: int, rows: np.ndarray, x: np.ndarray, y: np.ndarray) -> engine.Turn:
    """The turn after `rows`, with examples of the same mind (sign 1) or the opposite one."""
    examples, _ = prepare(Examples("elsewhere", NAMES, {}, *made(600, 0.5, seed=2, sign=sign)), NAMES, {})
    assert examples is not None
    set_up = engine.Setup(
        x,
        np.array([0, len(x)]),
        np.random.default_rng(0).permutation(len(x)),
        LOADED.classifiers["l1_adaptive"],
        LOADED.strategies["balanced_pi"],
        LOADED.strategies,
        warm=examples,
    )
    return engine.turn(set_up, engine.Known(rows, y[rows], np.isin(np.arange(len(x)), rows)))


@pytest.mark.parametrize("kind", [0, 1])
def test_examples_that_find_only_one_kind_are_dropped(kind: int) -> None:
    """A model of Suite2p's candidates asked about CaImAn's twelve times in a row for a cell, and there was none among them."""
    x, y = made(2000, 0.4, seed=1)
    rows = np.flatnonzero(y == kind)[:ALIKE]
    found = asked(-1, rows, x, y)
    assert "contradict the warm start elsewhere" in found.note
    assert found.fit is None
    assert found.strategy == "random"
    assert asked(-1, rows[:-1], x, y).fit is not None, "a few say nothing"
    assert asked(1, rows, x, y).fit is not None, "labels that the examples expect are no reason, however many: they may be imported"


@pytest.mark.parametrize("earlier", [False, True])
def test_a_warm_start_that_does_not_fit_leaves_a_session_as_it_was(earlier: bool, tmp_path: Path) -> None:
    """It was kept in spite of the error, and every later command on the session failed with it."""
    rng = np.random.default_rng(0)
    path = tmp_path / "result.npz"
    footprints = np.zeros((12, 20, 20), np.float32)
    for i in range(12):
        footprints[i, i : i + 4, i : i + 5] = 1
    np.savez(path, footprints=footprints, traces=rng.normal(size=(12, 200)).astype(np.float32))
    folder = tmp_path / "session"
    with actsort.open(path, session=folder) as session:
        names = session.feature_names
        session.label(0, True)
    said = rng.integers(0, 2, 40).astype(np.int8)
    values = said[:, None] + rng.normal(0, 0.2, (40, len(names)))
    fitting = Examples("fitting", names, dict.fromkeys(names), values.astype(np.float32), said)
    if earlier:
        with actsort.open(path, session=folder, warm_start=fitting):
            pass
    other = Examples("other", NAMES, dict.fromkeys(NAMES), *made(100, 0.5, seed=3))
    with pytest.raises(UsageError, match="no feature in common"):
        actsort.open(path, session=folder, warm_start=other)
    kept = warm.stored_examples(folder)
    assert (kept is not None and kept.source == "fitting") if earlier else kept is None
    with actsort.open(path, session=folder) as session:
        assert len(session.labels()) == 1


def test_a_model_of_another_toolkit_is_not_applied_in_silence() -> None:
    """On one movie a model of Suite2p's candidates put CaImAn's in an order no better than chance (AUC .54), and expected .80 and .86."""
    names = ("footprint.a", "footprint.b")
    model = models.Model(
        source="m",
        features=None,
        names=names,
        versions=(1, 1),
        units=("1", "1"),
        coef=np.array([1.0, -1.0]),
        intercept=0.0,
        offsets={},
        threshold=None,
        classifier="l1_adaptive",
        parameters={},
        classes={},
        n_labels=40,
        quantiles=np.zeros((0, 2, 5), np.float32),
        scores=np.zeros((0, 5), np.float32),
        examples=Examples("m", names, dict.fromkeys(names), np.zeros((0, 2), np.float32), np.zeros(0, np.int8)),
        provenance={"recordings": [{"format": "suite2p"}]},
    )
    values = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    table = FeatureTable(names, (1, 1), values)
    assert "a caiman result, and the model learned from suite2p" in unlike.unlike(model, table, (), values[:, 0], "caiman")[0]
    assert not unlike.unlike(model, table, (), values[:, 0], "suite2p")
