"""Features 47-76 computed as the public ActSort code does: candidate by candidate, each with its own cut from the movie.

A plain NumPy version of that access pattern, vectorised over the frames of one candidate where the MATLAB code is: what the project's one
pass is compared with. Windows reach over the neighbours, as there. Nothing here is used by the project.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy import ndimage, special

MARGIN, HALF, N_EVENTS = 7, 5, 5
QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)
Array = NDArray[Any]


class ByCandidate:
    """All that the public code prepares before its loop over candidates, and the loop's body.

    Parameters
    ----------
    dataset
        ``(n_frames, rows, columns)``, HDF5 as in the public code.
    footprints
        Sparse ``(n_pixels, n_cells)``.
    traces
        ``(n_cells, n_frames)``.
    """

    def __init__(self, dataset: Any, footprints: sp.csc_matrix, traces: Array) -> None:
        self.movie, self.traces = dataset, traces
        self.fov = dataset.shape[1:]
        peak = footprints.max(axis=0).toarray().ravel()
        self.footprints = sp.csc_matrix(footprints.multiply(1 / np.maximum(peak, 1e-9)))
        n = footprints.shape[1]
        self.box = np.zeros((n, 4), int)
        self.centre = np.zeros((n, 2))
        for i in range(n):
            rows, columns = np.unravel_index(self.footprints.indices[self.footprints.indptr[i] : self.footprints.indptr[i + 1]], self.fov)
            self.box[i] = rows.min(), rows.max(), columns.min(), columns.max()
            self.centre[i] = rows.mean(), columns.mean()

    def window(self, i: int) -> tuple[int, int, int, int]:
        """The box of the candidate and seven pixels more, grown over the boxes of the neighbours with their centre in it."""
        r0, r1, c0, c1 = self.box[i] + np.array([-MARGIN, MARGIN, -MARGIN, MARGIN])
        rows, columns = self.centre.T
        beside = (rows > r0) & (rows < r1) & (columns > c0) & (columns < c1)
        boxes = self.box[beside]
        r0, r1 = min(r0, boxes[:, 0].min(initial=r0)), max(r1, boxes[:, 1].max(initial=r1))
        c0, c1 = min(c0, boxes[:, 2].min(initial=c0)), max(c1, boxes[:, 3].max(initial=c1))
        return max(r0, 0), min(r1 + 1, self.fov[0]), max(c0, 0), min(c1 + 1, self.fov[1])

    def events(self, i: int) -> Array:
        """Frames of its best events."""
        from scipy.signal import find_peaks

        smooth = ndimage.median_filter(self.traces[i], 3)
        smooth[:HALF] = smooth[-HALF:] = smooth.min()
        peaks, _ = find_peaks(smooth, distance=11)
        return np.sort(peaks[np.argsort(smooth[peaks])[::-1][:N_EVENTS]])

    def features(self, i: int) -> Array:
        """Its 30 values, 47-76."""
        r0, r1, c0, c1 = self.window(i)
        at = self.events(i)
        if not at.size:
            return np.full(30, np.nan)
        snippets = [self.movie[t - HALF : t + HALF + 1, r0:r1, c0:c1] for t in at]
        movie = np.concatenate(snippets).astype(np.float32).reshape(11 * at.size, -1).T  # pixels x frames
        movie = movie - np.median(movie, axis=1, keepdims=True)
        trace = np.concatenate([self.traces[i, t - HALF : t + HALF + 1] for t in at])
        image = np.asarray(self.footprints[:, [i]].todense(), np.float32).reshape(self.fov)[r0:r1, c0:c1]
        epsilon = _epsilon(movie, image.ravel())
        match = [_match(movie, image.ravel(), trace, share) for share in np.arange(10) / 10]
        first = [np.nanmean(epsilon), epsilon.min(), np.quantile(epsilon, 0.1), np.quantile(epsilon, 0.2)]
        return np.concatenate([first, _neighbours(movie, image, trace), match])


def _epsilon(movie: Array, a: Array) -> Array:
    n = movie.shape[1]
    half = -(-n // 2)
    power = np.abs(np.fft.fft(movie, axis=1)[:, :half]) ** 2 / half / 2
    noise = np.median(np.sqrt(power[:, round(half / 2) - 1 :].mean(axis=1)))
    weight = np.where(a > 0, 1 / (1 + a), 0).astype(np.float32)
    weight /= weight.sum()
    alpha = 0.05 * a.sum() / (a > 0).sum() * a.mean() / (a**2).mean()
    kappa = np.ones(n, np.float32)
    epsilon = np.zeros(n)
    x = np.maximum(a @ movie / (a @ a), 0)
    for i in range(1, 31):
        residual = movie - a[:, None] * x
        if i in (15, 20, 23):
            above = weight @ (residual > 0).astype(np.float32)
            found = np.maximum(_eps(above, kappa, alpha), 0.001)
            kappa = (-0.3775 * np.log(found) - 0.0597 * found + 0.0544).astype(np.float32)
            epsilon = _eps(above, kappa, alpha)
        pushed = residual >= kappa * noise
        rest = ~pushed
        x = a @ (movie * rest) + kappa * noise * (a @ pushed.astype(np.float32))
        x = np.maximum(x / (a**2 @ rest.astype(np.float32)), 0)
    return epsilon


def _eps(above: Array, kappa: Array, alpha: float) -> Array:
    density, below = np.exp(-(kappa**2) / 2) / np.sqrt(2 * np.pi), special.ndtr(kappa)
    e0 = 1 - 1 / (density / kappa + below)
    eps = e0 - (1 - (1 - e0) * 0.5 - above) / (0.5 - alpha * 0.3989 * (density / below + kappa))
    eps = np.clip(eps, 0.001, 0.99)
    for low, high in ((0.3, 0.5), (0.5, 0.7), (0.7, 0.9)):
        eps[(eps > low) & (eps < high)] = high
    return np.asarray(eps)


def _smooth(image: Array, radius: int) -> Array:
    at = np.arange(-radius, radius + 1)
    kernel = np.exp(-(at[:, None] ** 2 + at[None] ** 2) / (2 * (radius / 2.5) ** 2))
    out = ndimage.correlate(image, (kernel / kernel.sum()).astype(np.float32), mode="constant")
    return np.asarray(out / max(out.max(), 1e-6))


def _neighbours(movie: Array, image: Array, trace: Array) -> Array:
    s = image.ravel()
    noise = np.sqrt((np.abs(np.fft.rfft(trace)) ** 2 / trace.size)[len(trace) // 4 :].mean())
    mean = movie @ np.maximum(0, trace - 3 * np.sqrt(2) * noise)
    seen = np.where(_smooth(image, 6).ravel() > 0.01, mean, 0)
    correlation = (seen * s).sum() / np.sqrt((seen**2).sum() * (s**2).sum())
    ring = np.where(_smooth(image, 12).ravel() > 0.01, np.maximum(mean, 0), 0)
    ring[s > 0.01] = 0
    ring /= max(ring.max(), 1e-6)
    norm_in, norm_out = np.sqrt((s**2).sum()), np.sqrt((ring**2).sum())
    inside, outside = np.maximum(s @ movie / norm_in, 0), np.maximum(ring @ movie / norm_out, 0)
    first = np.maximum(inside / norm_in - trace, 0)
    second = np.maximum(trace - outside / norm_out, 0)
    third = np.maximum(inside - outside, 0)
    body, n = ndimage.label(trace > trace.max() / 2)
    scores = [
        [r[body == k].sum() / by[body == k].sum() for k in range(1, n + 1)] for r, by in ((first, trace), (second, trace), (third, inside))
    ]
    return np.concatenate([[correlation], *[np.quantile(row, QUANTILES) if row else np.full(5, np.nan) for row in scores]])


def _match(movie: Array, a: Array, trace: Array, share: float) -> float:
    level = trace / trace.max()
    at = np.flatnonzero(level > share)
    if not at.size:
        return float("nan")
    inside = np.flatnonzero(a > 0)
    small = movie[np.ix_(inside, at)]
    s = (a[inside] - a[inside].mean()) / a[inside].std(ddof=1) / np.sqrt(inside.size)
    small = small / np.sqrt((small**2).sum(axis=0))
    return float((level[at] * (s @ small)).sum() / level[at].sum())
