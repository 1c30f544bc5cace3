"""What the core itself registers, through the same hooks as a stranger's plug-in. Heavy imports wait for their use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from actsort_core.hookspecs import hookimpl

if TYPE_CHECKING:
    from actsort_core.features import FeatureGroup
    from actsort_core.learn import Classifier, ClassifierSpec
    from actsort_core.strategies import Strategy


@hookimpl
def actsort_register_features() -> Sequence[FeatureGroup]:
    """The core's feature groups."""
    from actsort_core.features import duplicates, footprints, host, movie, neighbours, published_footprints, traces

    ours = [traces.GROUP, footprints.GROUP, neighbours.GROUP, host.GROUP, host.VERDICT, duplicates.GROUP]
    return [*ours, *published_footprints.GROUPS, *movie.GROUPS]


@hookimpl
def actsort_register_classifiers() -> Sequence[ClassifierSpec]:
    """L1 logistic regression: the engine's, and as published."""
    from actsort_core.learn import ClassifierSpec

    return [
        ClassifierSpec(
            "l1_adaptive", "L1 logistic regression, its strength follows the number of labels (default)", _adaptive, engine=True
        ),
        ClassifierSpec("l1_logistic", "L1 logistic regression with a penalty of 1/n, as published", _l1_logistic),
    ]


def _adaptive() -> Classifier:
    from actsort_core.classifiers import L1AdaptiveClassifier

    return L1AdaptiveClassifier()


def _l1_logistic() -> Classifier:
    from actsort_core.classifiers import L1LogisticClassifier

    return L1LogisticClassifier()


@hookimpl
def actsort_register_strategies() -> Sequence[Strategy]:
    """The core's query strategies."""
    from actsort_core import strategies

    return strategies.BUILTIN
