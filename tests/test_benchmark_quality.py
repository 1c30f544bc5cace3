"""What the benchmark says of the stated quality: errors and coverage, scored against the annotator's own labels."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from test_benchmark import PLUGINS, make

from actsort_core import benchmark
from actsort_core.quality import Stated


@pytest.fixture
def recording(tmp_path: Path) -> benchmark.Annotated:
    return benchmark.read_annotated(make(tmp_path / "one.mat"))


def test_stated_quality_is_scored_against_the_annotators_own_labels(recording, monkeypatch):
    """What is stated here: .1 above the truth with an interval that holds it in half of the annotators."""
    stated, of = [], []

    def appraised(step, recording, choices, by, x):
        of.append((step, choices))
        stated.append(step.n)
        return SimpleNamespace(d=step.fit.distance()), SimpleNamespace(probability=lambda d: np.full(len(d), 0.5))

    def estimate(evidence, calibration):
        step, choices = of[-1]
        accepted = np.where(step.labelled, choices > 0, step.probability > step.share)
        true = benchmark.scores(accepted, choices)["balanced_accuracy"]
        holds = choices is recording.choices["ant"] or choices is recording.choices["bee"]
        return SimpleNamespace(balanced_accuracy=Stated(true + 0.1, true - 0.1 if holds else true + 0.05, true + 0.2))

    monkeypatch.setattr(benchmark, "_appraised", appraised)
    monkeypatch.setattr(benchmark.quality, "estimate", estimate)
    found = benchmark.run([recording], ["default", "default-noaudit", "cal@0.5"], 2, ["0.05", "0.1"], PLUGINS)["recordings"][0][
        "strategies"
    ]
    for fraction in ("0.05", "0.1"):
        quality = found["default"][fraction]["quality"]
        assert quality["mean_absolute_error"] == pytest.approx(0.1)
        assert quality["coverage"] == 0.5
        assert quality["width"] == pytest.approx((0.3 + 0.15) / 2)
        assert quality["runs"] == 8
        assert "quality" not in found["cal@0.5"][fraction]
    assert set(stated) == {12, 24}
