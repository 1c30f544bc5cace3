"""All that a plug-in's own tests need: the kit does the rest."""

from __future__ import annotations

import json

import numpy as np
import pytest
from own_format import plugin
from own_format.rois import RoisFormat

from actsort_core import plugins
from actsort_core.testing import check_classifier, check_feature, check_format, check_strategy, make_recording


def test_the_format_keeps_its_contract():
    check_format(RoisFormat)  # on what it creates: 0, 1, 2 and more candidates, NaN, broken files...


def test_a_file_of_ours_keeps_its_contract_and_what_others_wrote_into_it(tmp_path):
    """A result as our microscope writes it, not as `create` does."""
    rois = [{"pixels": [0, 1, 41], "weights": [1, 0.5, 2], "keep": None, "note": "odd"}, {"pixels": [], "weights": []}]
    document = {"microscope": 2, "lab": "own format 1", "fov": [30, 40], "fps": None, "rois": rois}
    folder = tmp_path / "tuesday"
    folder.mkdir()
    (folder / "rois.json").write_text(json.dumps(document))
    np.save(folder / "traces.npy", np.ones((2, 50), np.float32))
    check_format(RoisFormat(), folder)
    (recording,) = RoisFormat().read(folder)
    assert recording.footprints.shape == (1200, 2)
    assert recording.prior.verdict.tolist() == [0, 0]


@pytest.mark.parametrize("fields", [{}, {"nonfinite": True}, {"n_cells": 1}, {"n_frames": 1}, {"fov": (9, 14, 5)}], ids=str)
def test_the_feature_keeps_its_contract(fields):
    (group,) = plugin.actsort_register_features()
    check_feature(group, make_recording(**fields))


def test_the_strategy_and_the_classifier_keep_theirs():
    (strategy,) = plugin.actsort_register_strategies()
    (classifier,) = plugin.actsort_register_classifiers()
    check_strategy(strategy)
    check_classifier(classifier)


def test_actsort_finds_all_four_once_this_package_is_installed():
    found = plugins.load()
    names = {"own_rois": found.formats, "drift": found.features, "surest_doubt": found.strategies, "ridge": found.classifiers}
    for name, registry in names.items():
        assert registry.owner(name) == "own_format"
