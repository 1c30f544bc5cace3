"""How well a model does on a recording nobody labelled: python benchmarks/apply.py FILE FILE...

Fits the default classifier on so many candidates of one annotated recording, drawn at random, and decides on another as `actsort
apply` does. The truth is the majority of the annotators (ties dropped); "person" is the mean annotator against the majority of the others.
"""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path

import numpy as np

from actsort_core import annotated, batch, classifiers, learn, models
from actsort_core.benchmark import auc, scores
from actsort_core.features.table import FeatureTable
from actsort_core.unlike import unlike
from actsort_core.warm import Examples

LABELS, SEEDS = 300, 5


def table(recording: annotated.Annotated) -> FeatureTable:
    return FeatureTable(recording.names, (1,) * len(recording.names), recording.features)


def fitted(recording: annotated.Annotated, seed: int) -> models.Model:
    examples, names = recording.examples(), recording.names
    rows = np.random.default_rng(seed).choice(len(examples), LABELS, replace=False)
    found = classifiers.L1AdaptiveClassifier().fit(examples.features[rows], examples.y[rows])
    log_odds = learn.standardise(recording.features) @ found.coef_[0] + found.intercept_[0]
    share = float((0.5 * (1 + np.tanh(0.5 * log_odds))).mean())
    return models.Model(
        source=recording.name,
        names=names,
        versions=(1,) * len(names),
        units=("",) * len(names),
        features=None,
        coef=found.coef_[0],
        intercept=float(found.intercept_[0]),
        offsets={},
        threshold=None,
        classifier="l1_adaptive",
        parameters={},
        classes={},
        n_labels=LABELS,
        quantiles=models.quantiles_of(table(recording), names)[None],
        scores=np.quantile(log_odds, models.QUANTILES)[None].astype(np.float32),
        examples=Examples(recording.name, names, {}, examples.features[rows], examples.y[rows]),
        provenance={"recordings": [{"share_of_cells": share}]},
    )


def main(paths: list[Path]) -> None:
    recordings = [annotated.read_annotated(path) for path in paths]
    head = ("balanced accuracy", "precision", "recall", "AUC")
    print(
        f"{'learned from':<22}{'applied to':<22}{'line':<10}"
        + "".join(f"{name:>{max(8, len(name) + 2)}}" for name in head)
        + f"{'person':>8}"
    )
    for source, target in product(recordings, recordings):
        truth = np.sign(np.sum(list(target.choices.values()), axis=0)).astype(np.int8)
        person = np.mean([scores(said > 0, target.truth(who))["balanced_accuracy"] for who, said in target.choices.items()])
        fits = [fitted(source, seed) for seed in range(SEEDS)]
        x, lacking = fits[0].match(table(target))
        for favour in (None, "precision", "recall"):
            found = []
            for model in fits:
                p = model.probability(x)
                found.append(scores(p > batch.line(p, favour=favour), truth) | {"AUC": auc(p, truth)})
            means = "".join(f"{np.mean([one[name.replace(' ', '_')] for one in found]):>{max(8, len(name) + 2)}.3f}" for name in head)
            print(f"{source.name:<22}{target.name:<22}{favour or 'pi':<10}{means}{person:>8.3f}")
        for warning in unlike(fits[0], table(target), lacking, fits[0].log_odds(x)):
            print(f"    {warning}")


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
