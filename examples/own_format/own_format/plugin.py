"""What ActSort calls (named in pyproject.toml, group ``actsort``). Nothing heavy is imported here: every ``actsort`` command loads it."""

from __future__ import annotations

from collections.abc import Sequence

from actsort_core import ClassifierSpec, Feature, FeatureGroup, Strategy, hookimpl
from own_format import learning
from own_format.rois import RoisFormat


@hookimpl
def actsort_register_formats() -> Sequence[RoisFormat]:
    return [RoisFormat()]


@hookimpl
def actsort_register_features() -> Sequence[FeatureGroup]:
    drift = Feature("drift.change", "sd", version=1, published=None, description="second half over first half of the trace")
    return [FeatureGroup("drift", (drift,), frozenset({"traces"}), learning.drift)]


@hookimpl
def actsort_register_strategies() -> Sequence[Strategy]:
    return [Strategy("surest_doubt", "candidates just above the line first", learning.just_above)]


@hookimpl
def actsort_register_classifiers() -> Sequence[ClassifierSpec]:
    return [ClassifierSpec("ridge", "logistic regression with an L2 penalty", learning.make_ridge)]
