"""When to stop labelling: a plug-in for ``actsort_should_stop``, used where it is asked for (``--stop auto``).

Nothing tells reliably when a sorting is good enough for a purpose (LEARNING.md; the table of benchmarks/stopping.py). What can be told is
when labels no longer change much: the share of the decisions that the last fifty labels changed, and what fifty more are expected
to bring.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from actsort_core.hookspecs import hookimpl

if TYPE_CHECKING:
    from actsort_core.session import Session

LABELS = 50  # looked back on
CHANGED = 0.04  # share of the decisions, at most, that they changed
TWICE = 10  # labels later it must still hold: one look may be luck


def reason(n_labels: int, changed: tuple[float, ...], gain: float | None = None) -> str | None:
    """Why enough was asked; None to go on.

    Parameters
    ----------
    n_labels
        Labels so far.
    changed
        Shares of the decisions that the last `LABELS` labels changed, now and at the looks before.
    gain
        Expected gain of fifty more labels in balanced accuracy, if it is known: said, not weighed, for it follows from the number of
        labels alone but for a factor.
    """
    if n_labels < 2 * LABELS or len(changed) < 2 or max(changed[-2:]) > CHANGED:
        return None
    more = "" if gain is None else f"; fifty more would bring about {100 * gain:.1f} points of balanced accuracy"
    return f"the last {LABELS} labels changed {100 * changed[-1]:.1f} % of the decisions{more}."


@dataclass(eq=False)
class AutoStop:
    """Stops a loop when the last labels changed next to nothing; one for each session.

    Attributes
    ----------
    looks
        Decisions of the model by number of labels.
    """

    looks: dict[int, NDArray[np.bool_]] = field(default_factory=dict)
    _changed: list[float] = field(default_factory=list)

    def look(self, n_labels: int, accepted: NDArray[np.bool_]) -> str | None:
        """Take note of the decisions after so many labels.

        Parameters
        ----------
        n_labels
            How many.
        accepted
            ``(n,)`` bool.

        Returns
        -------
        Why enough was asked, or None.
        """
        if self.looks and n_labels - max(self.looks) < TWICE:
            return None
        self.looks[n_labels] = accepted
        before = [n for n in self.looks if n_labels - n >= LABELS]
        if not before:
            return None
        since = max(before)
        self._changed.append(float((accepted != self.looks[since]).mean()) * LABELS / (n_labels - since))
        for old in [n for n in self.looks if n < since]:
            del self.looks[old]
        return reason(n_labels, tuple(self._changed))

    @hookimpl
    def actsort_should_stop(self, session: Session) -> str | None:
        """The hook."""
        predictions = session.predictions()
        if not predictions.n_labels:
            return None
        return self.look(predictions.n_labels, predictions.decided())
