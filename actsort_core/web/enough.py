"""Whether enough was asked, as the page says it."""

from __future__ import annotations

from actsort_core.plugins import call_each
from actsort_core.session import Session
from actsort_core.stopping import AutoStop


class Enough:
    """Looks at a session from time to time.

    Attributes
    ----------
    why
        Why one may stop; empty: one should go on. Taken back when labels are, or when a later look says otherwise.
    """

    def __init__(self) -> None:
        self.why = ""
        self._stop, self._settled = AutoStop(), ""

    def look(self, session: Session) -> None:
        """Look at the decisions there are now, and ask the plug-ins."""
        predictions = session.predictions()
        before = max(self._stop.looks, default=0)
        why = self._stop.look(predictions.n_labels, predictions.decided()) if predictions.n_labels else None
        if why or max(self._stop.looks, default=0) != before or predictions.n_labels < before:  # between two looks it stays as it was
            self._settled = why or ""
        answers = call_each(session.plugins.manager, "actsort_should_stop", session=session)
        self.why = str(answers[0][1]) if answers else self._settled
