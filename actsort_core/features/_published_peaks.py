"""Peaks of many traces at once: where they are, how far they stand out, how wide they are.

The same peaks, prominences and widths as `scipy.signal` finds in each trace; the traces of a block lie end to end, with
infinitely high walls between them, so that no step runs once per trace, and prominences come from array operations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from actsort_core.features._shared import Floats, Positions

Float32s = NDArray[np.float32]

STEPS = 8  # frames from a peak to look for its half height at all peaks at once


@dataclass(frozen=True, eq=False)
class Peaks:
    """Peaks of a block of traces, trace after trace. Before the peaks of each trace stands its wall, which is no peak.

    Attributes
    ----------
    frame
        Frame of each peak; -1 for a wall.
    prominence
        In units of the traces; -1 for a wall.
    start
        ``(n_traces,)`` position of each trace's wall.
    count
        ``(n_traces,)`` number of peaks of each trace.
    """

    frame: Positions
    prominence: Float32s
    start: Positions
    count: Positions
    _walled: Float32s
    _at: Positions
    _height: Float32s

    def widths(self) -> NDArray[np.float64]:
        """Width of each peak at half its prominence [frames]; 0 for a wall."""
        left, right = self._half_way(-1), self._half_way(1)
        out = np.add(left, right, dtype=np.float64)
        out[self.start] = 0
        wide = np.flatnonzero(np.isnan(out))
        if wide.size:
            # Half-way down from a peak is always reached before its walls, so the bases need not be known.
            bases = np.zeros(wide.size, np.intp), np.full(wide.size, self._walled.size - 1, np.intp)
            prominence = self.prominence[wide].astype(np.float64)
            out[wide] = signal.peak_widths(self._walled.astype(np.float64), self._at[wide], 0.5, (prominence, *bases))[0]
        return out

    def _half_way(self, step: int) -> Float32s:
        """Frames from each peak to where its trace is lower by half its prominence; NaN if more than `STEPS`.

        Most peaks of a noisy trace need one or two steps, which array operations do several times faster than
        `scipy.signal.peak_widths`, whose every step is a branch that cannot be predicted.
        """
        at, half, height = self._at + step, self.prominence * np.float32(0.5), self._height
        with np.errstate(all="ignore"):  # a wall less a wall; where a flat top is left
            drop = height - self._walled[at]
            out: Float32s = np.asarray(half / drop)
            who = more = np.flatnonzero(drop < half)
            for n in range(1, STEPS):
                at, half, height, last = at[more] + step, half[more], height[more], drop[more]
                drop = height - self._walled[at]
                out[who] = (half - last) / (drop - last) + np.float32(n)
                more = np.flatnonzero(drop < half)
                who = who[more]
        out[who] = np.nan
        return out

    def stronger(self, threshold: Floats) -> Positions:
        """Positions of the peaks whose prominence is at least their trace's threshold, which must not be negative."""
        each = np.repeat(np.asarray(threshold, np.float32), self.count + 1)
        return np.flatnonzero(self.prominence >= each)

    def divide(self, at: Positions) -> tuple[Positions, Positions]:
        """Of ascending positions: where those of each trace begin, and how many there are."""
        first = np.searchsorted(at, self.start)
        return first, np.diff(np.append(first, at.size))


def find_peaks(traces: Float32s) -> Peaks:
    """Peaks (local maxima, of a flat top the middle frame) and their prominences, of finite ``(n_traces, n_frames)`` traces."""
    n_traces, n_frames = traces.shape
    stride = n_frames + 1
    walled = np.empty(n_traces * stride + 1, np.float32)
    body = walled[:-1].reshape(n_traces, stride)
    body[:, 0], body[:, 1:], walled[-1] = np.inf, traces, np.inf

    rising = walled[1:] > walled[:-1]
    level = walled[1:] == walled[:-1]
    flat = bool(level.any())
    if flat:  # a level step belongs to the slope before it
        last_step = np.maximum.accumulate(np.where(level, 0, np.arange(level.size)))  # the first step, off a wall, is down
        rising = rising[last_step]
    turn = np.flatnonzero(rising[1:] != rising[:-1])  # trough, peak, trough ... trough; walls between traces are peaks, too
    turn += 1
    troughs, tops = turn[::2], np.concatenate(([0], turn[1::2], [walled.size - 1]))
    height = walled[tops]
    prominence = _prominences(height, walled[troughs], n_traces + 1)[:-1]
    tops = tops[:-1]
    wall = np.arange(n_traces) * stride
    start = np.searchsorted(tops, wall)
    prominence[start] = -1
    if flat and tops.size > 1:
        tops[1:] = (tops[1:] + last_step[tops[1:] - 1] + 1) // 2  # of a flat top `turn` is the last frame
    count = np.diff(np.append(start, tops.size)) - 1
    frame = tops - np.repeat(wall + 1, count + 1)
    return Peaks(frame, prominence, start, count, walled, tops, height[:-1])


def _prominences(height: Float32s, trough: Float32s, n_walls: int) -> Float32s:
    """How far each peak stands out: its height over the higher of the two lowest points on the way to higher ground.

    `height` begins and ends with a wall (infinite) and may hold others, `n_walls` in all, which get 0; ``trough[i]`` is the
    lowest point between peaks i and i + 1. A peak is settled when the neighbour behind its higher trough is higher:
    whatever lies behind the lower trough is at least as low. Settled peaks are dropped and the troughs beside them merged;
    again, until only walls are left. Each round settles about half of the peaks of a noisy trace.
    """
    out = np.zeros(height.size, np.float32)
    who: Positions | None = None
    same: list[tuple[Positions, Positions]] = []
    while height.size > n_walls:
        to_left, to_right = np.zeros(height.size, bool), np.zeros(height.size, bool)
        left, right = trough[:-1], trough[1:]
        here, before, after = height[1:-1], height[:-2], height[2:]
        np.logical_and(left >= right, before > here, out=to_left[1:-1])
        np.logical_and(right >= left, after > here, out=to_right[1:-1])
        gone = to_left | to_right
        at = np.flatnonzero(gone)
        if who is None:  # the first time: those not settled are overwritten when they are
            np.subtract(here, np.maximum(left, right), out=out[1:-1])
        elif at.size:
            out[who[at]] = height[at] - np.maximum(trough[at - 1], trough[at])
        if not at.size:  # equal neighbours across the highest trough: what holds for the right one holds for the left one
            beyond = np.append(trough[2:], -np.inf)
            to_right[1:-1] = gone[1:-1] = (after == here) & (right >= left) & (right >= beyond) & np.isfinite(here)
            at = np.flatnonzero(gone)
            same.append((at, at + 1) if who is None else (who[at], who[at + 1]))
        # Towards the left troughs get higher before a peak settled to the left, towards the right after one settled to the
        # right: the lowest trough of a run of settled peaks, which is what is left of them, is the one between the two kinds.
        to_right &= ~to_left  # settled to both sides, between equal troughs: keep one of these
        trough = trough[np.flatnonzero(~(to_right[:-1] | to_left[1:]))]
        kept = np.flatnonzero(~gone)
        height, who = height[kept], kept if who is None else who[kept]
    for left_one, right_one in reversed(same):
        out[left_one] = 0
        for _ in range(left_one.size):  # a run of equal peaks is filled from its right end
            out[left_one] = out[right_one]
            if (out[left_one] > 0).all():
                break
    return out
