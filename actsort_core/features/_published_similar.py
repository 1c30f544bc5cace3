"""How many other traces are alike (published feature 35), without all pairs at full length.

The correlation of two traces is the cosine of their z-scores, and is nearly that of a *sketch* of both: some hundred randomly
chosen Fourier coefficients after random changes of sign, which spread every trace evenly over all coefficients. Between
sketches of d numbers Fisher's z of the cosine deviates from the true one by 1 / sqrt d, so nearly all pairs are decided by
the first numbers; a few need more of them, and those still within six standard deviations are compared in full.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from actsort_core.features._shared import Floats, Positions

Float32s = NDArray[np.float32]
Reader = Callable[[Positions], Float32s]

LEVEL = 0.7
FIRST, SECOND, ALL = 128, 512, 1024  # numbers of a sketch: compared for all pairs, where many are left undecided, for the rest
SURE = 6.0  # standard deviations: one pair in 10^9
ROWS = 1024  # traces per side of a block of products: 4 MB
FULL_VALUES = 8_000_000  # values of full traces held at once, per side: 32 MB
SPARSE = 0.02  # share of undecided pairs of a block above which comparing all is faster


class Sketcher:
    """Makes sketches of z-scored traces; the same ones for the same number of frames. Short traces are their own sketch."""

    def __init__(self, n_frames: int) -> None:
        self.exact = n_frames // 2 - 1 <= ALL
        rng = np.random.default_rng(n_frames)
        self.size = n_frames if self.exact else ALL
        if not self.exact:
            self._signs = rng.choice(np.array([-1, 1], np.float32), n_frames)
            self._chosen = 1 + rng.permutation(n_frames // 2 - 1)[: ALL // 2]

    def __call__(self, z: Float32s) -> Float32s:
        """``(n_traces, size)`` sketches of ``(n_traces, n_frames)`` z-scores."""
        if self.exact:
            return z
        spectrum = fft.rfft(z * self._signs, axis=1)[:, self._chosen]
        return np.ascontiguousarray(spectrum).view(np.float32)


def share_alike(sketches: Float32s, exact: bool, read: Reader) -> Floats:
    """Share of the other traces that correlate above `LEVEL`.

    Parameters
    ----------
    sketches
        ``(n, size)``; a row of zeros for a trace that cannot be compared, which gets NaN and is no other either.
    exact
        Whether the sketches are the z-scores themselves.
    read
        From ascending positions to the z-scores, norm 1, of those traces.
    """
    usable = np.flatnonzero(sketches.any(axis=1))
    out = np.full(len(sketches), np.nan)
    n = usable.size
    if n < 2:
        return out
    vectors = _unit(sketches[usable] if n < len(sketches) else sketches)
    tiers = [(vectors, LEVEL, LEVEL)] if exact else [(_unit(vectors[:, :size]), *_doubtful(size)) for size in (FIRST, SECOND)]
    counts, doubtful = np.zeros(n), []
    for a in range(0, n, ROWS):
        for b in range(a, n, ROWS):
            for tier in tiers:
                sketch, low, high = tier
                products = sketch[a : a + ROWS] @ sketch[b : b + ROWS].T
                i, j = np.divmod(np.flatnonzero(products > low), products.shape[1])
                if i.size < SPARSE * products.size:
                    break
            value = products[i, j]
            ahead = i + a < j + b  # each pair once
            sure = ahead & (value > high)
            unsure = ahead & ~sure
            _add(counts, i[sure] + a, j[sure] + b)
            doubtful.append((i[unsure] + a, j[unsure] + b))
    i, j = (np.concatenate(side) for side in zip(*doubtful, strict=True))
    if i.size:
        low, high = _doubtful(ALL)
        cosine = _products(vectors, vectors, i, j)
        sure = cosine > high
        _add(counts, i[sure], j[sure])
        left = ~sure & (cosine > low)
        _compare_in_full(counts, i[left], j[left], lambda at: read(usable[at]), FULL_VALUES)
    out[usable] = counts / (n - 1)
    return out


def _doubtful(size: int) -> tuple[float, float]:
    """Cosines of sketches between which the true one may be on either side of `LEVEL`."""
    middle, margin = np.arctanh(LEVEL), SURE / np.sqrt(size)
    return float(np.tanh(middle - margin)), float(np.tanh(middle + margin))


def _unit(vectors: Float32s) -> Float32s:
    return np.asarray(vectors / np.sqrt(np.einsum("ij,ij->i", vectors, vectors))[:, None])


def _add(counts: Floats, i: Positions, j: Positions) -> None:
    counts += np.bincount(i, minlength=counts.size) + np.bincount(j, minlength=counts.size)


def _products(left: Float32s, right: Float32s, i: Positions, j: Positions) -> Floats:
    """``left[i] . right[j]`` for many pairs, some at a time."""
    out = np.empty(i.size, np.float32)
    step = max(1, FULL_VALUES // (4 * left.shape[1]))
    for k in range(0, i.size, step):
        out[k : k + step] = np.einsum("ij,ij->i", left[i[k : k + step]], right[j[k : k + step]])
    return out


def _compare_in_full(counts: Floats, i: Positions, j: Positions, read: Reader, values: int) -> None:
    """Count the pairs that correlate above `LEVEL`, reading the traces concerned a group at a time."""
    who = np.unique(np.concatenate((i, j)))
    if not who.size:
        return
    n_frames = read(who[:1]).shape[1]
    size = max(1, values // n_frames)
    i, j = np.searchsorted(who, i), np.searchsorted(who, j)
    for a in range(0, who.size, size):
        left = read(who[a : a + size])
        for b in range(a, who.size, size):
            mine = (i // size == a // size) & (j // size == b // size)
            if not mine.any():
                continue
            right = left if a == b else read(who[b : b + size])
            row, column = i[mine] - a, j[mine] - b
            if row.size > SPARSE * len(left) * len(right):
                alike = (left @ right.T)[row, column] > LEVEL
            else:
                alike = _products(left, right, row, column) > LEVEL
            _add(counts, who[row[alike] + a], who[column[alike] + b])
