"""The quality estimate: right where the truth is known, honest about what it does not know."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from actsort_core import calibration, quality
from actsort_core.calibration import Evidence, Prior, base, design, ends, logit, read_prior
from actsort_core.errors import FormatError
from actsort_core.solver import sigmoid


def simulated(
    seed: int, n: int = 4000, n_audits: int = 40, n_labels: int = 100, rate: float = 0.0, shape: np.ndarray | None = None
) -> tuple[Evidence, np.ndarray]:
    """A recording and an annotator whose shape is drawn from the prior (or given), and what the annotator says of everything."""
    rng = np.random.default_rng(seed)
    prior = read_prior()
    d = np.concatenate([rng.normal(-2.5, 1.5, n // 3), rng.normal(2.5, 1.5, n - n // 3)])
    share = np.array([0.7])
    if shape is None:
        spread = prior.spread + np.diag(prior.between) + prior.early * 20 / n_labels
        shape = rng.multivariate_normal(prior.mean @ design(n_labels, 1.0, rate), spread)
    z = base(share[0], rate) + shape[0] + np.exp(shape[1]) * np.minimum(d, 0) + np.exp(shape[2]) * np.maximum(d, 0)
    truth = rng.random(n) < ends(rate) + (1 - 2 * ends(rate)) * sigmoid(z)
    rows = np.sort(rng.choice(n, n_labels, replace=False))
    audits = rng.choice(rows, n_audits, replace=False)
    y = truth.astype(np.int8)
    return (
        Evidence(d, share, np.array([0, n]), rows, y[rows], audits, y[audits], d[audits], float(n_labels), 1.0),
        truth,
    )


def achieved(evidence: Evidence, truth: np.ndarray, line: float = 0.0) -> tuple[float, float, float]:
    decided = evidence.d > line
    decided[evidence.rows] = evidence.y == 1
    tp, fp, fn = (decided & truth).sum(), (decided & ~truth).sum(), (~decided & truth).sum()
    recall, specificity = tp / (tp + fn), 1 - fp / (~truth).sum()
    return (recall + specificity) / 2, tp / (tp + fp), recall


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    inside = []
    for seed in range(60):
        evidence, truth = simulated(seed)
        found = quality.estimate(evidence)
        for stated, true in zip((found.balanced_accuracy, found.precision, found.recall), achieved(evidence, truth), strict=True):
            inside.append(stated.low <= true <= stated.high)
            assert stated.low <= stated.value <= stated.high
    assert np.mean(inside) >= 0.88


def test_audits_teach() -> None:
    """An annotator far from the prior: with audits the estimate comes nearer."""
    shape = np.array([-1.5, -1.0, -1.2])
    off = {0: [], 150: []}
    for seed in range(5):
        for n_audits, errors in off.items():
            evidence, truth = simulated(seed, n_audits=n_audits, n_labels=300, shape=shape)
            errors.append(abs(quality.estimate(evidence).balanced_accuracy.value - achieved(evidence, truth)[0]))
    assert np.mean(off[150]) < 0.5 * np.mean(off[0])
    assert np.mean(off[150]) < 0.05


def test_more_audits_make_narrower_intervals() -> None:
    widths = []
    for n_audits in (0, 30, 200):
        stated = [quality.estimate(simulated(seed, n_audits=n_audits, n_labels=300)[0]).balanced_accuracy for seed in range(5)]
        widths.append(np.mean([one.high - one.low for one in stated]))
    assert widths[0] > widths[1] > widths[2]


def literal_posterior(evidence: Evidence, prior: Prior) -> tuple[np.ndarray, np.ndarray]:
    """Mean of (offset, slopes) and the probabilities of the rates, by summing over a grid."""
    axes = [np.linspace(-2.5, 2.5, 61), np.linspace(-2.5, 2.5, 61), np.linspace(-2.5, 3.5, 61)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    mass, means = [], []
    for rate, weight in zip(prior.rates, prior.weights, strict=True):
        mean = prior.mean @ design(evidence.weight, evidence.c, rate)
        spread = (prior.spread + np.diag(prior.between) + prior.early * 20 / len(evidence.rows)) * (1 + 5 * rate)
        off = grid - mean
        log = -0.5 * np.einsum("ij,jk,ik->i", off, np.linalg.inv(spread), off) - 0.5 * np.linalg.slogdet(spread)[1] + np.log(weight)
        for d, y in zip(evidence.left_out, evidence.audit_y, strict=True):
            z = base(evidence.shares[0], rate) + prior.audit[0] + grid[:, 0]
            z = z + np.exp(grid[:, 1]) * prior.audit[1] * min(d, 0) + np.exp(grid[:, 2]) * prior.audit[2] * max(d, 0)
            p = ends(rate) + (1 - 2 * ends(rate)) * sigmoid(z)
            log += np.log(p if y else 1 - p)
        part = np.exp(log)
        mass.append(part.sum())
        means.append((part[:, None] * grid).sum(axis=0))
    return np.sum(means, axis=0) / np.sum(mass), np.array(mass) / np.sum(mass)


def test_posterior_is_that_of_a_sum_over_a_grid() -> None:
    evidence, _ = simulated(3, n_audits=25)
    prior = read_prior()
    found = calibration.calibrate(evidence, prior)
    mean, rates = literal_posterior(evidence, prior)
    np.testing.assert_allclose(found.draws.mean(axis=0), mean, atol=0.07)
    np.testing.assert_allclose([(found.rate == rate).mean() for rate in prior.rates], rates, atol=0.04)


def test_same_evidence_same_statement() -> None:
    evidence, _ = simulated(5)
    assert quality.estimate(evidence) == quality.estimate(evidence)


def test_probabilities_never_fall_and_fit() -> None:
    evidence, truth = simulated(7, n=20_000, n_audits=80, n_labels=240)
    found = calibration.calibrate(evidence)
    p = found.probability(evidence.d)
    assert p.dtype == np.float32
    assert ((p > 0) & (p < 1)).all()
    assert (np.diff(p[np.argsort(evidence.d)]) >= 0).all()
    bins = np.minimum((p * 10).astype(int), 9)
    gap = np.abs(np.bincount(bins, p, 10) - np.bincount(bins, truth, 10)).sum() / len(p)
    assert gap < 0.05
    for probability in (0.2, 0.5, 0.9):
        assert found.at(np.array([found.line(probability)]))[0] == pytest.approx(probability, abs=0.005)
    assert found.line(0.0) < -calibration.FAR
    assert found.line(1.0) > calibration.FAR


def test_missing_and_infinite_distances() -> None:
    evidence, _ = simulated(8)
    d = evidence.d.copy()
    d[:3] = np.nan, np.inf, -np.inf
    found = calibration.calibrate(replace(evidence, d=d))
    p = found.probability(d)
    assert np.isfinite(p).all()
    assert p[2] == p[0] <= p.min() + 1e-6
    assert p[1] == p.max()
    assert np.isfinite(quality.estimate(replace(evidence, d=d)).balanced_accuracy.value)


def test_labelled_candidates_are_counted_not_estimated() -> None:
    evidence, truth = simulated(9, n=300, n_labels=100)
    rows = np.arange(300)
    everything = replace(evidence, rows=rows, y=truth.astype(np.int8), weight=300.0)
    found = quality.estimate(everything)
    for stated in (found.balanced_accuracy, found.precision, found.recall):
        assert (stated.value, stated.low, stated.high) == pytest.approx((1, 1, 1), abs=1e-4)
    assert found.share.value == pytest.approx(truth.mean(), abs=1e-4)
    assert found.gain.value == pytest.approx(0, abs=1e-4)


def test_another_line() -> None:
    evidence, truth = simulated(11, n_audits=90, n_labels=300)
    found = calibration.calibrate(evidence)
    for line in (-1.013, 0.0, 0.77):
        stated = quality.estimate(evidence, found, line)
        _, precision, recall = achieved(evidence, truth, line)
        assert stated.precision.low <= precision <= stated.precision.high
        assert stated.recall.low <= recall <= stated.recall.high
    low, high = (quality.estimate(evidence, found, line) for line in (-2.0, 2.0))
    assert low.recall.value > high.recall.value
    assert low.precision.value < high.precision.value


def test_curve_agrees_with_the_estimate() -> None:
    evidence, _ = simulated(12, n_audits=60, n_labels=200)
    found = calibration.calibrate(evidence)
    read = quality.curve(evidence, found)
    assert read.probability.shape == (101,)
    assert read.line.shape == (101, 1)
    assert (np.diff(read.recall[:, 0]) <= 1e-9).all()
    for i in (20, 50, 80):
        stated = quality.estimate(evidence, found, float(read.line[i, 0]))
        for column, value in ((read.balanced_accuracy, stated.balanced_accuracy), (read.precision, stated.precision)):
            assert column[i] == pytest.approx((value.value, value.low, value.high), abs=0.02)


def test_recordings_of_different_share_have_lines_of_their_own() -> None:
    first, truth = simulated(13)
    n = len(truth)
    bounds = np.array([0, n, 2 * n])
    both = replace(first, d=np.concatenate([first.d, first.d]), shares=np.array([0.7, 0.2]), bounds=bounds)
    found = calibration.calibrate(both)
    p = found.probability(both.d)
    assert (p[:n] > p[n:]).all()
    assert found.line(0.5, 0) < found.line(0.5, 1)
    assert quality.estimate(both, found, np.array([0.0, 0.5])).n_labels == first.y.size


def test_notes_say_when_it_does_not_apply() -> None:
    evidence, _ = simulated(14, n=4000)
    assert quality.estimate(evidence).notes == ()
    assert "features are others" in quality.estimate(replace(evidence, familiar=False)).notes[0]
    nothing = np.zeros(0, np.int64)
    bare = replace(evidence, audits=nothing, audit_y=nothing.astype(np.int8), left_out=np.zeros(0))
    assert "rests on how people sorted elsewhere" in quality.estimate(bare).notes[0]
    small, _ = simulated(14, n=500)
    small = replace(small, audits=nothing, audit_y=nothing.astype(np.int8), left_out=np.zeros(0))
    assert "less than 1,000 candidates" in quality.estimate(small).notes[0]


def test_other_features_make_wider_intervals() -> None:
    widths: dict[bool, list[float]] = {True: [], False: []}
    for seed in range(5):
        evidence, _ = simulated(seed)
        for flag, found in widths.items():
            stated = quality.estimate(replace(evidence, familiar=flag)).balanced_accuracy
            found.append(stated.high - stated.low)
    assert np.mean(widths[False]) > 1.1 * np.mean(widths[True])


def test_a_person_who_contradicts_himself_is_noticed() -> None:
    flags = {0.0: 0, 0.2: 0}
    for rate in flags:
        for seed in range(10):
            evidence, _ = simulated(seed, n_audits=120, n_labels=360, rate=rate)
            flags[rate] += any("contradict" in note for note in quality.estimate(evidence).notes)
    assert flags[0.0] <= 1
    assert flags[0.2] >= 7


def test_answers_that_come_out_otherwise_the_second_time_count_against_him() -> None:
    evidence, _ = simulated(16)
    before, after = (calibration.calibrate(replace(evidence, repeats=repeats)).suspicion for repeats in ((0, 0), (20, 7)))
    assert after > before + 0.2


@pytest.mark.parametrize("labels", [0, 1, 6])
def test_hardly_any_labels(labels: int) -> None:
    evidence, _ = simulated(17)
    rows = evidence.rows[:labels]
    nothing = np.zeros(0, np.int64)
    few = replace(
        evidence, rows=rows, y=evidence.y[:labels], audits=nothing, audit_y=nothing.astype(np.int8), left_out=np.zeros(0), weight=6.0
    )
    found = quality.estimate(few)
    assert 0.5 < found.balanced_accuracy.value < 1
    assert found.balanced_accuracy.high - found.balanced_accuracy.low > 0.1


@pytest.mark.parametrize("kind", [0, 1])
def test_one_class_only(kind: int) -> None:
    evidence, _ = simulated(18)
    same = replace(evidence, y=np.full_like(evidence.y, kind), audit_y=np.full_like(evidence.audit_y, kind))
    for d in (same.d, np.full_like(same.d, -3.0), np.full_like(same.d, 3.0)):
        found = quality.estimate(replace(same, d=d))
        assert all(np.isfinite([s.value, s.low, s.high]).all() for s in (found.balanced_accuracy, found.precision, found.recall))


def test_audits_without_a_distance_are_left_out() -> None:
    evidence, _ = simulated(19, n_audits=20)
    half = evidence.left_out.copy()
    half[::2] = np.nan
    assert quality.estimate(replace(evidence, left_out=half)).n_audits == 10


def test_gain_shrinks_with_the_labels() -> None:
    evidence, _ = simulated(20)
    early, late = (quality.estimate(replace(evidence, weight=weight)).gain for weight in (50.0, 500.0))
    assert early.value > late.value > 0
    assert late.low <= late.value <= late.high


def test_logit_and_sigmoid_are_inverse() -> None:
    z = np.linspace(-30, 30, 61)
    np.testing.assert_allclose(logit(sigmoid(z[20:41])), z[20:41], rtol=1e-9)
    assert np.isfinite(sigmoid(np.array([-1e9, 1e9]))).all()


def test_shipped_prior_is_learned_from_named_recordings(tmp_path: Path) -> None:
    prior = read_prior()
    assert prior.provenance["recordings"]
    assert prior.provenance["command"].startswith("actsort quality-prior")
    assert prior.weights.sum() == pytest.approx(1)
    assert (np.linalg.eigvalsh(prior.spread) > 0).all()
    copy = tmp_path / "prior.json"
    copy.write_text(json.dumps(prior.document()))
    again = read_prior(copy)
    np.testing.assert_allclose(again.mean, prior.mean, atol=1e-4)
    assert again.familiar(prior.features)
    assert not again.familiar(("host.npix", "host.skew"))


@pytest.mark.parametrize("damage", [{"format_version": 2}, {"mean": [[1]]}, {"mean": "x"}, {"spread": None}])
def test_damaged_priors_are_refused(tmp_path: Path, damage: dict[str, object]) -> None:
    path = tmp_path / "prior.json"
    path.write_text(json.dumps(read_prior().document() | damage))
    with pytest.raises(FormatError, match="no prior of the quality estimate"):
        read_prior(path)


def test_the_measuring_script_measures(tmp_path: Path) -> None:
    """On recordings made up here, whose annotators follow the features: every table is there, and errors are those of an estimate."""
    script = Path(__file__).parents[1] / "benchmarks" / "quality.py"
    for name, seed in (("first", 0), ("second", 1)):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(400, 40)).astype(np.float32)
        score = 2 * x[:, 0] + x[:, 1] + 0.5
        said = {f"label:{who}": np.where(score + rng.logistic(size=400) > 0, "cell", "not_cell") for who in ("ann", "ben", "cy")}
        lines = [",".join([*(f"f{i}" for i in range(40)), *said])]
        lines += [",".join([*map(str, row), *(kind[i] for kind in said.values())]) for i, row in enumerate(x)]
        (tmp_path / f"{name}.csv").write_text("\n".join(lines))
    command = [sys.executable, str(script), str(tmp_path / "first.csv"), str(tmp_path / "second.csv"), "--seeds", "1", "--warm"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    bars = done.stdout.split("at most; at least")[1].splitlines()[1:]
    assert len(bars) == 2 * (3 + 2 + 2 + 2 + 4)
    for line in bars:
        assert all(0 <= float(value) <= 50 for value in line.split()[-5:-2])
        assert 0 <= float(line.split()[-2]) <= 100
    assert "nan" not in done.stdout
    assert "second, prior without that person, 10 % flipped, no audits" in done.stdout


# ---- with recorded annotators

DATA = os.environ.get("ACTSORT_BENCHMARK_DATA")


@pytest.mark.slow
@pytest.mark.newest  # a claim about the engine, not about versions
@pytest.mark.skipif(not DATA, reason="ACTSORT_BENCHMARK_DATA is not set: recorded annotators are not part of the project")
def test_bars_on_a_recording_the_prior_does_not_know() -> None:
    from actsort_core import plugins, quality_prior
    from actsort_core.annotated import read_annotated

    loaded = plugins.load()
    recordings = [read_annotated(Path(DATA or "") / f"{name}.mat", loaded) for name in ("ebrahimi_reanalysis", "m1_hempishere")]
    counts = (24, 48, 68, 136, 204, 340)
    seen = {
        r.name: [
            one
            for who in r.choices
            for seed in range(4)  # a mean over fewer runs scatters by a point
            for rate in (0.0, 0.1)
            for one in quality_prior.look(r, who, seed, rate, counts=counts, plugins=loaded)
        ]
        for r in recordings
    }
    names = list(seen)
    for own, other in (names, names[::-1]):
        prior = quality_prior.learn_prior(seen[other])
        errors: dict[int, list[float]] = {}
        inside = []
        for one in seen[own]:
            if one.rate == 0:
                stated = quality.estimate(one.evidence, prior=prior).balanced_accuracy
                true = one.balanced_accuracy()
                errors.setdefault(one.n, []).append(abs(stated.value - true))
                inside.append(stated.low <= true <= stated.high)
        assert np.mean(errors[68]) <= 0.05
        assert np.mean(errors[204] + errors[340]) <= 0.03
        assert np.mean(inside) >= 0.85
