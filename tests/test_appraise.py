"""Evidence from a turn of the loop, and a prior learned from replays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from actsort_core import appraise, calibration, engine, learn, plugins, quality, quality_prior, strategies, transfer
from actsort_core.annotated import Annotated
from actsort_core.errors import UsageError
from actsort_core.store import Options


def people(seed: int = 0, n: int = 700, k: int = 6) -> Annotated:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, k)).astype(np.float32)
    choices = {
        who: np.where(features @ np.r_[2.0, 1.0, np.zeros(k - 2)] + 0.5 + rng.logistic(size=n) > 0, 1, -1).astype(np.int8)
        for who in ("ann", "bob")
    }
    return Annotated("made", features, choices)


def turned(
    bounds: tuple[int, ...] = (0, 700), warm: transfer.Warm | None = None, seed: int = 1
) -> tuple[engine.Setup, engine.Known, learn.Fit]:
    recording = people()
    x = learn.standardise(recording.features)
    loaded = plugins.load()
    setup = engine.Setup(
        x,
        np.array(bounds, np.int64),
        np.arange(len(x)),
        loaded.classifiers[Options().classifier],
        strategies.find(loaded.strategies, Options().strategy),
        loaded.strategies,
        True,
        0,
        warm,
    )
    rows = np.sort(np.random.default_rng(seed).choice(len(x), 60, replace=False))
    known = engine.Known(rows, (recording.choices["ann"][rows] > 0).astype(np.int8), np.isin(np.arange(len(x)), rows))
    fit = learn.fit(setup.classifier, x, known.rows, known.y, bounds=setup.bounds, warm=warm)
    return setup, known, fit


@pytest.mark.parametrize("bounds", [(0, 700), (0, 300, 700)])
def test_audits_are_scored_by_a_model_fitted_from_scratch_without_them(bounds: tuple[int, ...]) -> None:
    setup, known, fit = turned(bounds)
    audits = known.rows[[5, 40, 17]]
    found = appraise.evidence(setup, known, fit, audits)
    assert found.audits.tolist() == audits.tolist()
    for row, value in zip(audits, found.left_out, strict=True):
        rest = known.rows != row
        without = learn.fit(setup.classifier, setup.x, known.rows[rest], known.y[rest], bounds=setup.bounds)
        assert value == pytest.approx(float(without.distance()[row]), abs=2e-3)
    assert found.weight == 60
    assert found.audit_y.tolist() == [int(known.y[known.rows == row][0]) for row in audits]


def test_a_sample_shows_where_pi_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    setup, known, fit = turned((0, 300, 700))
    exact = appraise.evidence(setup, known, fit, known.rows[::10])
    monkeypatch.setattr(appraise, "_SAMPLE", 150)
    np.testing.assert_allclose(appraise.evidence(setup, known, fit, known.rows[::10]).left_out, exact.left_out, atol=0.1)


def test_examples_from_elsewhere_weigh_in() -> None:
    recording = people()
    warm, _ = transfer.prepare(people(5).examples(), recording.names, dict(recording.versions))
    assert warm is not None
    setup, known, fit = turned(warm=warm)
    found = appraise.evidence(setup, known, fit, known.rows[:2])
    assert found.weight == pytest.approx(120)
    assert np.isfinite(found.left_out).all()


def test_an_audit_without_which_one_class_is_left() -> None:
    setup, known, _ = turned()
    few = known.rows[[int(np.flatnonzero(known.y == 1)[0]), *np.flatnonzero(known.y == 0)[:4]]]
    few.sort()
    y = known.y[np.isin(known.rows, few)]
    known = replace(known, rows=few, y=y)
    fit = learn.fit(setup.classifier, setup.x, few, y)
    found = appraise.evidence(setup, known, fit, few)
    assert np.isnan(found.left_out[y == 1]).all()
    assert np.isfinite(found.left_out[y == 0]).all()
    assert quality.estimate(found).n_audits == 4


def test_audits_that_were_undone_are_left_out() -> None:
    setup, known, fit = turned()
    gone = next(i for i in range(700) if i not in known.rows)
    assert appraise.evidence(setup, known, fit, np.array([gone, known.rows[3]])).audits.tolist() == [known.rows[3]]


def test_the_prior_is_learned_by_the_command(tmp_path: Path) -> None:
    from actsort_core.cli_quality import quality_prior as command

    recording = people(n=700)
    said = recording.choices["ann"]
    table = "\n".join(
        ["a,b,c,d,e,f,label:ann"]
        + [",".join(f"{v:.4f}" for v in row) + f",{int(c > 0)}" for row, c in zip(recording.features, said, strict=True)]
    )
    (tmp_path / "made.csv").write_text(table)
    out = tmp_path / "prior.json"
    result = CliRunner().invoke(command, [str(tmp_path / "made.csv"), "--out", str(out), "--seeds", "2"], obj=plugins.load())
    assert result.exit_code == 0, result.output
    prior = calibration.read_prior(out)
    assert prior.provenance["recordings"] == ["made"]
    assert prior.features == ("a", "b", "c", "d", "e", "f")
    assert (np.linalg.eigvalsh(prior.spread) > 0).all()
    truth, held = people().choices["ann"] > 0, []
    for seed in range(10):
        setup, known, fit = turned(seed=seed)
        stated = quality.estimate(appraise.evidence(setup, known, fit, known.rows[::3]), prior=prior).balanced_accuracy
        decided = fit.distance() > 0
        decided[known.rows] = known.y == 1
        held.append(stated.low <= (decided[truth].mean() + (~decided[~truth]).mean()) / 2 <= stated.high)
    assert np.mean(held) >= 0.8


def test_nobody_to_learn_the_prior_from() -> None:
    recording = people()
    partly = {who: np.where(np.arange(700) < 10, 0, said).astype(np.int8) for who, said in recording.choices.items()}
    with pytest.raises(UsageError, match="every candidate"):
        quality_prior.learn_from([replace(recording, choices=partly)])


def test_mistakes_are_the_same_every_time() -> None:
    recording = people()
    runs = [next(quality_prior.look(recording, "ann", 0, 0.2, counts=(24,))) for _ in range(2)]
    assert (runs[0].truth == runs[1].truth).all()
    assert 0.1 < (runs[0].truth != (recording.choices["ann"] > 0)).mean() < 0.3
    assert runs[0].shape == pytest.approx(runs[1].shape)
