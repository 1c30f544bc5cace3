"""A fitted model on disk, without pickle: ``model.npz`` (plain arrays) and ``model.json`` (what they mean), checked when loaded."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from actsort_core import expand, learn, warm
from actsort_core.atomic import atomic_write_json, digest
from actsort_core.errors import FormatError, MissingFileError, PluginError, UsageError, WriteError
from actsort_core.features.table import FeatureTable
from actsort_core.journal import now
from actsort_core.model import CELL, NOT_CELL, UNSURE
from actsort_core.warm import Examples, listed

if TYPE_CHECKING:
    from actsort_core.session import Session

FORMAT_VERSION = 1
FOLDER = "model"  # in a session
ARRAYS, DOCUMENT = "model.npz", "model.json"
# What `learn.standardise` does; a model made with another convention must not be applied to features scaled by this one.
SCALING = {"per": "recording", "centre": "mean", "scale": "standard deviation, N - 1", "clip": learn.CLIP, "missing": "median"}
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)  # of the unscaled features of each recording the model learned from
_AGREES = 1e-3  # how far the saved coefficients may be from what the classifier itself says


@dataclass(frozen=True, eq=False)
class Model:
    """A linear model as it is saved: what it needs to judge candidates of any recording, and where it comes from.

    Attributes
    ----------
    source
        Where it was loaded from, or the session it was made from.
    names, versions, units
        Of the features, in the order of `coef`.
    features
        The session's choice of feature groups (see `features.table.select`), None for the defaults.
    coef, intercept
        ``(n_features,)`` and a number: log odds of ``cell`` from scaled features.
    offsets
        What is added to the intercept in each recording it learned from, by the recording's fingerprint.
    threshold
        Where its session drew the line: a probability, or None for pi, the estimated share of cells.
    classifier
        Its registered name, and its parameters.
    parameters
        Of the classifier, as plain numbers and words.
    classes
        The lab's own classes, and what each counted as.
    n_labels
        How many labels it was fitted on.
    quantiles
        ``(n_recordings, n_features, 5)``: `QUANTILES` of the unscaled features of each recording it learned from; NaN where missing.
    scores
        ``(n_recordings, 5)``: `QUANTILES` of the log odds there.
    examples
        The labelled candidates, so that it serves as a warm start, too.
    provenance
        Recordings, annotators, counts of labels, version of actsort, when.
    """

    source: str
    names: tuple[str, ...]
    versions: tuple[int | None, ...]
    units: tuple[str, ...]
    features: tuple[str, ...] | None
    coef: NDArray[np.float64]
    intercept: float
    offsets: Mapping[str, float]
    threshold: float | None
    classifier: str
    parameters: Mapping[str, Any]
    classes: Mapping[str, str]
    n_labels: int
    quantiles: NDArray[np.float32]
    scores: NDArray[np.float32]
    examples: Examples
    provenance: Mapping[str, Any]

    def match(self, table: FeatureTable) -> tuple[NDArray[np.float32], tuple[str, ...]]:
        """The scaled features of a recording in the model's columns, and the names of those it lacks (0 there, the average).

        Parameters
        ----------
        table
            The recording's features, not scaled yet. A feature of another version counts as lacking.

        Raises
        ------
        UsageError
            It has none of the features that the model uses.
        """
        names, values = self._terms(table)
        place = {name: i for i, name in enumerate(names)}
        versions = dict(zip(table.names, table.versions, strict=True))
        scaled = learn.standardise(values)
        out = np.zeros((len(scaled), len(self.names)), np.float32)
        lacking, used = [], 0
        for column, (name, version) in enumerate(zip(self.names, self.versions, strict=True)):
            i = place.get(name)
            here = versions.get(expand.feature_of(name))
            if i is None or (version is not None and here != version) or not np.isfinite(values[:, i]).any():
                lacking.append(name)
            else:
                out[:, column] = scaled[:, i]
                used += self.coef[column] != 0
        if not used:
            raise UsageError(
                "The recording has none of the features that the model uses.",
                f"The model uses {listed(self.used())}; the recording has {listed(table.names)}.",
            )
        return out, tuple(lacking)

    def _terms(self, table: FeatureTable) -> tuple[tuple[str, ...], NDArray[np.float32]]:
        """The columns of a table, with the non-linear terms of those features of which the model has some."""
        with_terms = {feature for name in self.names if (feature := expand.feature_of(name)) != name}
        kept = [i for i, name in enumerate(table.names) if name in with_terms]
        if not kept:
            return table.names, table.values
        names, values = expand.expand([table.names[i] for i in kept], table.values[:, kept], limit=len(kept))
        return (*table.names, *names[len(kept) :]), np.column_stack([table.values, values[:, len(kept) :]])

    def used(self) -> tuple[str, ...]:
        """The features with a weight, the heaviest first."""
        order = np.argsort(-np.abs(self.coef), kind="stable")
        return tuple(self.names[i] for i in order if self.coef[i])

    def log_odds(self, x: NDArray[np.float32], fingerprint: str = "") -> NDArray[np.float64]:
        """``(n,)`` log odds of ``cell`` from ``(n, n_features)`` scaled features of a recording (its fingerprint, if it may be known)."""
        return np.asarray(x @ self.coef + self.intercept + self.offsets.get(fingerprint, 0.0), np.float64)

    def probability(self, x: NDArray[np.float32], fingerprint: str = "") -> NDArray[np.float64]:
        """``(n,)`` probability of ``cell``, from the same."""
        return np.asarray(0.5 * (1 + np.tanh(0.5 * self.log_odds(x, fingerprint))))

    def examples_or_error(self) -> Examples:
        """The examples; an error where there are none."""
        if not len(self.examples):
            raise UsageError(f"The model {self.source} holds no examples.", "Save it again from its session: actsort model SESSION.")
        return self.examples


# ---- from a session


def from_session(session: Session) -> Model:
    """The model of an open session (waits for the fit that knows all labels).

    Raises
    ------
    UsageError
        There is no model yet.
    PluginError
        The classifier is not linear, or its probabilities are not the logistic function of its scores.
    """
    session.wait()
    fit = session.fit
    if fit is None or fit.model is None:
        raise UsageError(
            f"The session {session.folder} has no model yet.", "Label at least three cells and three others first: actsort sort."
        )
    coef, intercept = _linear(fit.model, session.options.classifier)
    names, x, versions = warm.session_features(session)
    if len(coef) != len(names):
        raise PluginError(
            f"The classifier {session.options.classifier!r} has {len(coef)} weights for {len(names)} features.",
            "Only a model with one weight per feature can be saved.",
        )
    tables = [session.features(key) for key in session.recordings]
    sizes = np.cumsum([0, *(len(table.values) for table in tables)])
    offsets = np.ravel(np.asarray(getattr(fit.model, "offsets_", 0.0), np.float64))
    offsets = offsets if len(offsets) == len(tables) else np.zeros(len(tables))
    log_odds = x @ coef + intercept + np.repeat(offsets, np.diff(sizes))
    off = float(np.abs(0.5 * (1 + np.tanh(0.5 * log_odds)) - fit.probability).max(initial=0))
    if off > _AGREES:
        raise PluginError(
            f"The classifier {session.options.classifier!r} says other probabilities than its coef_ and intercept_ (by up to {off:.2g}).",
            "Only logistic models can be saved. Choose one with --classifier.",
        )
    units = {feature.name: feature.unit for group in session.plugins.features.values() for feature in group.features}
    model = fit.model
    strength = {"C": float(model.C_)} if hasattr(model, "C_") else {}  # as used, where it follows the number of labels
    parameters = {k: v for k, v in vars(model).items() if not k.startswith("_") and not k.endswith("_") and _plain(v)}
    return Model(
        source=str(session.folder),
        names=names,
        versions=tuple(versions[name] for name in names),
        units=tuple(units.get(name, "") for name in names),
        features=session.options.features,
        coef=coef,
        intercept=intercept + float(offsets.mean()),  # of a recording like these
        offsets={
            r.fingerprint: float(o - offsets.mean()) for r, o in zip(session.recordings.values(), offsets, strict=True) if len(tables) > 1
        },
        threshold=session.options.threshold if isinstance(session.options.threshold, float) else None,
        classifier=session.options.classifier,
        parameters=parameters | strength,
        classes=dict(session.options.classes),
        n_labels=int(fit.n_labels),
        quantiles=np.stack([quantiles_of(table, names) for table in tables]),
        scores=np.stack([np.quantile(log_odds[a:b], QUANTILES) for a, b in itertools.pairwise(sizes)]).astype(np.float32),
        examples=_examples(session, names, versions),
        provenance=_provenance(session, fit.probability, sizes),
    )


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def _examples(session: Session, names: tuple[str, ...], versions: Mapping[str, int | None]) -> Examples:
    try:
        return warm.session_examples(session)
    except UsageError:  # fitted on a warm start alone
        return Examples(str(session.folder), names, versions, np.zeros((0, len(names)), np.float32), np.zeros(0, np.int8))


def _linear(model: Any, name: str) -> tuple[NDArray[np.float64], float]:
    """Weights and intercept of a fitted classifier.

    Raises
    ------
    PluginError
        It has none, or several sets of them.
    """
    coef, intercept = getattr(model, "coef_", None), getattr(model, "intercept_", None)
    if coef is None or intercept is None:
        raise PluginError(
            f"A model of the classifier {name!r} cannot be saved: it has no coef_ and intercept_.",
            "Only linear models are saved, because they are plain numbers that are safe to load. The session itself keeps every "
            "label, and can be passed wherever a model can.",
        )
    weights, shift = np.atleast_2d(np.asarray(coef, np.float64)), np.ravel(np.asarray(intercept, np.float64))
    classes = [int(c) for c in getattr(model, "classes_", (0, 1))]
    if weights.shape[0] != 1 or shift.shape != (1,) or classes != [0, 1]:
        raise PluginError(f"A model of the classifier {name!r} cannot be saved: it tells {len(classes)} classes apart.", "Two can be.")
    return weights[0].copy(), float(shift[0])


def quantiles_of(table: FeatureTable, names: Sequence[str]) -> NDArray[np.float32]:
    """`QUANTILES` of unscaled features, ``(n_names, 5)`` float32; NaN for those that are not there."""
    place = {name: i for i, name in enumerate(table.names)}
    out = np.full((len(names), len(QUANTILES)), np.nan, np.float32)
    for row, name in enumerate(names):
        if name in place:
            values = table.values[:, place[name]]
            present = values[np.isfinite(values)]
            if len(present):
                out[row] = np.quantile(present, QUANTILES)
    return out


def _provenance(session: Session, probability: NDArray[np.floating], sizes: NDArray[np.int64]) -> dict[str, Any]:
    from actsort_core import __version__

    labels = session.labels()
    kinds = Counter((label.candidate.recording, session.options.kind(label.value)) for label in labels)
    return {
        "actsort": __version__,
        "created": now(),
        "labels": dict(Counter(session.options.kind(label.value) for label in labels)),
        "annotators": dict(Counter(label.annotator for label in labels)),
        "recordings": [
            {
                "name": key,
                "format": recording.format,
                "fingerprint": recording.fingerprint,
                "n_cells": recording.n_cells,
                "share_of_cells": round(float(probability[a:b].mean()), 6) if b > a else None,
                "labels": {kind: kinds[key, kind] for kind in (CELL, NOT_CELL, UNSURE) if kinds[key, kind]},
            }
            for (key, recording), a, b in zip(session.recordings.items(), sizes[:-1], sizes[1:], strict=True)
        ],
    }


# ---- on disk


def save_model(folder: Path | str, model: Model) -> Path:
    """Save a model in a folder of its own; returns the folder. An earlier model there is replaced.

    Raises
    ------
    UsageError, WriteError
        The folder holds something else, or cannot be written.
    """
    folder = Path(folder)
    try:
        others = sorted(path.name for path in folder.iterdir() if path.name not in (ARRAYS, DOCUMENT)) if folder.exists() else []
        if others:
            raise UsageError(f"{folder} holds other files ({listed(others)}).", "Give the model a folder of its own.")
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f"The folder {folder} cannot be used ({error.strerror}).", "Choose another.") from error
    arrays: dict[str, NDArray[Any]] = {
        "coef": model.coef,
        "quantiles": model.quantiles,
        "scores": model.scores,
        "example_features": model.examples.features,
        "example_y": model.examples.y,
    }
    (folder / DOCUMENT).unlink(missing_ok=True)  # never a document beside arrays of another model
    warm.write_arrays(folder / ARRAYS, arrays)
    document = {
        "format_version": FORMAT_VERSION,
        "kind": "actsort model",
        "features": [
            {"name": name, "version": version, "unit": unit}
            for name, version, unit in zip(model.names, model.versions, model.units, strict=True)
        ],
        "feature_groups": None if model.features is None else list(model.features),
        "scaling": SCALING,
        "intercept": model.intercept,
        "offsets": dict(model.offsets),
        "threshold": "pi" if model.threshold is None else model.threshold,
        "classifier": model.classifier,
        "parameters": dict(model.parameters),
        "classes": dict(model.classes),
        "n_labels": model.n_labels,
        "provenance": dict(model.provenance),
        "arrays": digest(folder / ARRAYS),
    }
    atomic_write_json(folder / DOCUMENT, {**document, "checksum": _checksum(document)})
    return folder


def keep(session: Session) -> Path | None:
    """Save a session's model in its folder, so that it can be applied where its result is not; None where it cannot be saved."""
    try:
        return save_model(session.folder / FOLDER, from_session(session))
    except (UsageError, PluginError, WriteError):  # no model yet, or none that is plain numbers: the labels are what counts
        with contextlib.suppress(OSError):  # what was saved earlier is not the session's model any more
            (session.folder / FOLDER / DOCUMENT).unlink(missing_ok=True)
        return None


def _checksum(document: Mapping[str, Any]) -> str:
    content = json.dumps({key: value for key, value in document.items() if key != "checksum"}, sort_keys=True)
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()


def find_model(path: Path) -> Path | None:
    """The folder of the saved model a person means by `path`: itself, one of its two files, or a session with a ``model`` in it."""
    for folder in (path, path / FOLDER, path.parent if path.name in (ARRAYS, DOCUMENT) else path):
        if (folder / DOCUMENT).is_file():
            return folder
    return None


def load_model(path: Path | str) -> Model:
    """Load a saved model: plain numbers and words only, and each of them checked.

    Parameters
    ----------
    path
        Its folder (or one of its files, or a session that holds one).

    Raises
    ------
    MissingFileError, FormatError
        There is none; it is damaged, from a newer actsort, or made with another scaling.
    """
    path = Path(path)
    folder = find_model(path)
    if folder is None:
        raise MissingFileError(
            f"There is no saved model in {path} ({DOCUMENT} is missing).", "Save one with: actsort model SESSION --save DIR"
        )
    where, hint = folder / DOCUMENT, "Save it again from its session: actsort model SESSION --save DIR"
    document = warm.read_json(where, FORMAT_VERSION, hint)
    if document.get("kind") != "actsort model" or document.get("checksum") != _checksum(document):
        raise FormatError(f"{where} is not as it was saved: its checksum differs.", hint)
    if document.get("scaling") != SCALING:
        raise FormatError(f"{where} was made with another way of scaling features ({document.get('scaling')}).", hint)
    arrays = warm.read_arrays(folder / ARRAYS, document.get("arrays"), hint)
    try:
        return _model_of(document, arrays, str(folder))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(f"{where} is damaged ({type(error).__name__}: {error}).", hint) from error


def _model_of(document: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], source: str) -> Model:
    names = tuple(str(row["name"]) for row in document["features"])
    versions = tuple(None if row["version"] is None else int(row["version"]) for row in document["features"])
    coef = np.asarray(arrays["coef"], np.float64)
    quantiles, scores = np.asarray(arrays["quantiles"], np.float32), np.asarray(arrays["scores"], np.float32)
    intercept = float(document["intercept"])
    shapes = coef.shape == (len(names),) and quantiles.shape == (len(scores), len(names), len(QUANTILES))
    if not shapes or scores.shape[1:] != (len(QUANTILES),) or len(set(names)) != len(names):
        raise ValueError(f"{len(names)} features, {coef.shape} weights, {quantiles.shape} quantiles")
    if not np.isfinite(coef).all() or not np.isfinite(intercept):
        raise ValueError("weights that are not finite")
    groups = document["feature_groups"]
    return Model(
        source=source,
        names=names,
        versions=versions,
        units=tuple(str(row["unit"]) for row in document["features"]),
        features=None if groups is None else tuple(str(name) for name in groups),
        coef=coef,
        intercept=intercept,
        offsets={str(key): float(value) for key, value in document["offsets"].items()},
        threshold=None if document["threshold"] == "pi" else float(document["threshold"]),
        classifier=str(document["classifier"]),
        parameters=dict(document["parameters"]),
        classes={str(name): str(kind) for name, kind in document["classes"].items()},
        n_labels=int(document["n_labels"]),
        quantiles=quantiles,
        scores=scores,
        examples=Examples(source, names, dict(zip(names, versions, strict=True)), arrays["example_features"], arrays["example_y"]),
        provenance=dict(document["provenance"]),
    )


# ---- what is printed


def as_document(model: Model) -> dict[str, Any]:
    """``actsort model --json``."""
    return {
        "source": model.source,
        "classifier": model.classifier,
        "parameters": dict(model.parameters),
        "n_labels": model.n_labels,
        "threshold": "pi" if model.threshold is None else model.threshold,
        "intercept": model.intercept,
        "features": [
            {"name": name, "version": version, "unit": unit, "weight": float(weight)}
            for name, version, unit, weight in zip(model.names, model.versions, model.units, model.coef, strict=True)
        ],
        "examples": {"cell": int(model.examples.y.sum()), "not_cell": int((model.examples.y == 0).sum())},
        "provenance": dict(model.provenance),
    }


def as_text(model: Model) -> str:
    """``actsort model`` for people."""
    used, about = model.used(), model.provenance
    weights = dict(zip(model.names, model.coef, strict=True))
    lines = [
        f"{model.source}: {model.classifier}, fitted on {model.n_labels} labels, goes by {len(used)} of {len(model.names)} features",
        f"  made {about.get('created', '?')} with actsort {about.get('actsort', '?')}; "
        f"labels by {', '.join(f'{who} ({n})' for who, n in about.get('annotators', {}).items()) or 'nobody'}",
    ]
    for row in about.get("recordings", ()):
        counts = ", ".join(f"{n} {kind}" for kind, n in row["labels"].items()) or "no labels"
        lines.append(f"  learned from {row['name']} ({row['format']}, {row['n_cells']} candidates): {counts}")
    lines.append(f"  {'feature':<34}{'weight':>9}   per standard deviation, in log odds of being a cell")
    return "\n".join([*lines, *(f"  {name:<34}{weights[name]:>+9.3f}" for name in used)])
