"""Events of many traces at once (published features 14, 17, 20, 23, 26 and 29)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from actsort_core.features._shared import Floats, Positions

KERNEL = (0.2, 0.05)  # weights of the frames one and two away; the middle has .5
MIN_DISTANCE = 3  # frames between events
MARGIN = 3  # silent frames kept around activity: more than the kernel and the distance reach
DENSE = 0.5  # share of kept frames below which silence is cut out
TINY = np.finfo(np.float32).tiny  # what is not positive is below every level


def count_events(median: NDArray[np.float32], levels: Floats) -> Floats:
    """Number of events above each level.

    Per level, frames of the running median below it are set to zero and the rest is smoothed with (.05, .2, .5, .2, .05);
    events are its local maxima above the level, taken as a share of the trace's maximum and applied to the maximum of what
    was smoothed. Of events closer than `MIN_DISTANCE` the lower goes. The first and the last two frames hold no event.

    Parameters
    ----------
    median : (n_traces, n_frames) array
        Running median over three frames of traces with maximum 1.
    levels : (n_levels, n_traces) array
        Ascending along the first axis, not negative.

    Returns
    -------
    (n_levels, n_traces) array
    """
    n_traces, n_frames = median.shape
    counts = np.zeros(levels.shape)
    alive = np.arange(n_traces)
    flat, start = np.zeros(0, np.float32), np.zeros(0, np.intp)
    peak = median.max(axis=1, initial=0)
    for k, level in enumerate(levels):
        still = peak[alive] >= level[alive]
        if k == 0:
            alive = alive[still]
            padded = np.zeros((alive.size, n_frames + 2 * MARGIN), np.float32)
            padded[:, MARGIN:-MARGIN] = median[alive]
            flat, start = padded.ravel(), np.arange(alive.size) * padded.shape[1]
        elif not still.all():
            parts = [part for part, stays in zip(np.split(flat, start[1:]), still, strict=True) if stays]
            alive = alive[still]
            length = np.array([part.size for part in parts], np.intp)
            flat, start = np.concatenate([flat[:0], *parts]), np.cumsum(length) - length
        if not alive.size:
            break
        least = np.maximum(level[alive].astype(np.float32), TINY)
        flat = flat * (flat >= np.repeat(least, np.diff(start, append=flat.size)))
        flat, start = _without_silence(flat, start)
        counts[k, alive] = _count(flat, start, level[alive])
    return counts


def _without_silence(flat: NDArray[np.float32], start: Positions) -> tuple[NDArray[np.float32], Positions]:
    """The same traces without frames that are further than `MARGIN` from activity, where that is worth it."""
    active = flat > 0
    keep = active.copy()
    for shift in range(1, MARGIN + 1):
        keep[shift:] |= active[:-shift]
        keep[:-shift] |= active[shift:]
    end = np.append(start[1:], flat.size)
    for offset in range(MARGIN + 1):  # the first frame and the last two stay, for they are special
        keep[start + offset] = True
        keep[end - 1 - offset] = True
    keep[end - 2 - MARGIN] = True
    if np.count_nonzero(keep) > DENSE * flat.size:
        return flat, start
    at = np.flatnonzero(keep)
    return flat[at], np.searchsorted(at, start)


def _count(flat: NDArray[np.float32], start: Positions, share: Floats) -> Floats:
    """Events per trace in traces end to end, each with a margin of zeros at both ends."""
    smooth = np.zeros_like(flat)
    inner = smooth[2:-2]
    np.multiply(flat[2:-2], 0.5, out=inner)
    part = flat[1:-3] + flat[3:-1]
    part *= np.float32(KERNEL[0])
    inner += part
    np.add(flat[:-4], flat[4:], out=part)
    part *= np.float32(KERNEL[1])
    inner += part
    last = np.append(start[1:], flat.size) - 1 - MARGIN
    smooth[last] = 0
    level = (share * np.maximum.reduceat(smooth, start)).astype(np.float64)

    falls = smooth[1:] <= smooth[:-1]
    rises = smooth[1:] >= smooth[:-1]
    top = rises[:-1] & falls[1:] & (smooth[1:-1] > 0)  # of frames from the second
    for offset in range(MARGIN + 1):
        top[np.maximum(start + offset - 1, 0)] = False
        top[last + offset - 2] = False
    at = np.flatnonzero(top) + 1
    height = smooth[at]
    high = np.flatnonzero(height > np.repeat(level, np.diff(np.searchsorted(at, start), append=at.size)))
    at, height = at[high], height[high]
    while at.size > 1:
        close = np.diff(at) < MIN_DISTANCE
        if not close.any():
            break
        lower = height[:-1] <= height[1:]
        drop = np.zeros(at.size, bool)
        drop[:-1] = close & lower
        drop[1:] |= close & ~lower
        left = np.flatnonzero(~drop)
        at, height = at[left], height[left]
    return np.diff(np.searchsorted(at, start), append=at.size).astype(float)
