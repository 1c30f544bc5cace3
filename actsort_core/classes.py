"""A lab's own classes: how they are declared, and how likely each is for every candidate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from actsort_core.errors import UsageError
from actsort_core.model import CELL, LABEL_CLASSES, NOT_CELL, UNSURE

KINDS = (CELL, NOT_CELL, UNSURE)
ENOUGH = 3  # labels of a class before it is predicted, as for the model itself
_STRENGTH = 0.1  # inverse penalty: a class is learned from a few labels among dozens of features


@dataclass(frozen=True, eq=False)
class ClassPredictions:
    """How likely every class is.

    Attributes
    ----------
    names
        Classes that are predicted: ours, and those of the lab's own with three labels or more.
    kinds
        What each counts as, ``"cell"`` or ``"not_cell"``.
    probability
        ``(n, n_classes)`` float32; the classes that count as ``cell`` sum to the model's probability of ``cell``. NaN before
        the first fit.
    """

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    probability: NDArray[np.float32]

    def best(self, accepted: NDArray[np.bool_]) -> NDArray[np.str_]:
        """The likeliest class of each candidate among those that count as what was decided, ``(n,)``.

        Parameters
        ----------
        accepted
            ``(n,)``: decided to be a cell. The class never contradicts it, wherever the line is drawn.
        """
        p = np.nan_to_num(self.probability.astype(np.float64))
        cell = np.array([kind == CELL for kind in self.kinds])
        allowed = np.where(accepted[:, None] == cell[None, :], p, -1.0)
        return np.asarray(np.array(self.names)[allowed.argmax(axis=1)])


def check(classes: Mapping[str, str]) -> dict[str, str]:
    """A lab's own classes, checked.

    Raises
    ------
    UsageError
        A name is ours or empty, or what it counts as is none of ours.
    """
    for name, kind in classes.items():
        if kind not in KINDS or name in LABEL_CLASSES or not name:
            raise UsageError(
                f"The class {name!r} counts as {kind!r}.", "Give own classes other names than ours, counting as cell, not_cell or unsure."
            )
    return dict(classes)


class Further(dict[str, str]):
    """Own classes in addition to those that a session has already."""


def parse(texts: Iterable[str]) -> Further:
    """Own classes as typed: ``dendrite=not_cell``.

    Raises
    ------
    UsageError
        A text is no such pair, or one class was given twice and differently.
    """
    out = Further()
    for text in texts:
        name, equals, kind = (part.strip() for part in text.partition("="))
        if not equals:
            raise UsageError(f"{text!r} does not say what the class counts as.", "Write for example --class dendrite=not_cell.")
        if out.get(name, kind) != kind:
            raise UsageError(f"The class {name!r} was given twice, as {out[name]} and as {kind}.")
        out[name] = kind
    check(out)
    return out


def predict(
    x: NDArray[np.float32],
    probability: NDArray[np.float64],
    rows: Sequence[int],
    values: Sequence[str],
    classes: Mapping[str, str],
) -> ClassPredictions:
    """``P(class) = P(kind) P(class | kind)``: what the model says, shared out among the classes of each kind.

    The second factor is a multinomial logistic regression on the labels of that kind. In this way classes can never contradict the
    model's decision, and labels of own classes change nothing about which candidates are cells.

    Parameters
    ----------
    x
        ``(n, n_features)`` scaled features.
    probability
        ``(n,)``: the model's probability of ``cell``; NaN before the first fit.
    rows, values
        Labelled candidates and their classes; those that count as unsure are passed over.
    classes
        What own classes count as.
    """
    names: list[str] = []
    kinds: list[str] = []
    columns: list[NDArray[np.float64]] = []
    for kind, share in ((CELL, probability), (NOT_CELL, 1 - probability)):
        known = [(row, value) for row, value in zip(rows, values, strict=True) if value == kind or classes.get(value) == kind]
        counts = {name: sum(value == name for _, value in known) for name in (kind, *(c for c, k in classes.items() if k == kind))}
        # A kind that is only ever labelled by own classes has no rest: then the kind's own name is not predicted.
        found = [name for name, count in counts.items() if count >= ENOUGH] or [kind]
        used = [(row, value) for row, value in known if value in found]
        within = _within(x, used, found)
        names += found
        kinds += [kind] * len(found)
        columns += [share * within[:, j] for j in range(len(found))]
    return ClassPredictions(tuple(names), tuple(kinds), np.column_stack(columns).astype(np.float32))


def _within(x: NDArray[np.float32], used: Sequence[tuple[int, str]], names: Sequence[str]) -> NDArray[np.float64]:
    """``(n, n_classes)``: the share of each class within its kind."""
    if len(names) == 1:
        return np.ones((len(x), 1))
    from sklearn.linear_model import LogisticRegression

    used = sorted(used)  # the same labels give the same fit, in whatever order they came
    # Multinomial and L2 are what every version from 1.4 on does with lbfgs when told nothing; the arguments that say so come and go.
    model = LogisticRegression(C=_STRENGTH, solver="lbfgs", max_iter=1000)
    model.fit(x[[row for row, _ in used]].astype(np.float64), [value for _, value in used])
    found = model.predict_proba(x.astype(np.float64))
    place = {name: j for j, name in enumerate(model.classes_)}
    return np.asarray(found[:, [place[name] for name in names]])
