"""A feature, a strategy and a classifier."""

from __future__ import annotations

from typing import Any

import numpy as np

from actsort_core.model import Recording
from actsort_core.strategies import QueryState


def drift(recording: Recording) -> dict[str, Any]:
    """Bleaching: how much brighter the second half of each trace is than the first, in its deviations; NaN where unknown."""
    traces = np.asarray(recording.traces[0 : recording.n_cells], np.float64)
    traces = np.where(np.isfinite(traces), traces, np.nan)
    half = recording.n_frames // 2
    change = np.full(recording.n_cells, np.nan)
    if half and recording.n_cells:
        known = np.isfinite(traces[:, :half]).any(axis=1) & np.isfinite(traces[:, half:]).any(axis=1)
        rows = traces[known]
        with np.errstate(all="ignore"):
            change[known] = (np.nanmedian(rows[:, half:], axis=1) - np.nanmedian(rows[:, :half], axis=1)) / np.nanstd(rows, axis=1)
    return {"drift.change": change}


def just_above(state: QueryState) -> Any:
    """Utilities ``(n,)``: the nearer above the line between cells and others, the sooner a candidate is asked about."""
    line = state.share if state.line is None else state.line
    above = state.probability - line
    return np.where(above >= 0, -above, above - 1)


def make_ridge() -> Any:
    """An unfitted classifier; the import waits until one is needed."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=0.1, max_iter=1000)
