"""Some candidates' event frames side by side in one array, and what the movie features need of them (definitions: `movie`).

Candidates of about the same size go into a batch, padded to a common size that depends on each candidate alone: so what is computed of
one does not depend, not even by rounding, on which others it is computed with.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from actsort_core.events import LENGTH, N_EVENTS, EventChunk
from actsort_core.features._shared import Flags, Floats, Positions

N_FRAMES = N_EVENTS * LENGTH
BATCH_VALUES = 1_200_000  # pixels x frames of a batch: few enough for the processor's cache, enough that Python costs little
STEP = 64  # windows and bodies are padded to multiples of this many pixels
NARROW, WIDE = (2.4, 6), (4.8, 12)  # Gaussians: deviation, reach [pixels]; EXTRACT's for an average radius of 6 pixels
CORE = 0.01  # weight, and share of a blurred footprint's maximum


@lru_cache(maxsize=256)
def _blur(size: int, deviation: float, reach: int) -> NDArray[np.float32]:
    """Matrix that blurs along an axis of `size` pixels, with zeros beyond."""
    distance = np.arange(size)[:, None] - np.arange(size)
    kernel = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * deviation**2)).sum()
    return np.asarray(np.where(np.abs(distance) <= reach, np.exp(-(distance**2) / (2 * deviation**2)) / kernel, 0), np.float32)


def _blurred(image: NDArray[np.float32], deviation: float, reach: int) -> NDArray[np.float32]:
    for axis, size in enumerate(image.shape):  # the matrices are symmetric; no tensordot: its Python costs more than the product
        image = (image.swapaxes(axis, -1) @ _blur(size, deviation, reach)).swapaxes(axis, -1)
    return image


def _near(image: NDArray[np.float32], deviation: float, reach: int) -> Flags:
    """Where the blurred footprint is above `CORE` of its maximum."""
    blurred = _blurred(image, deviation, reach)
    return np.asarray(blurred > CORE * blurred.max())


def _padded(n: int) -> int:
    return -(-n // STEP) * STEP


def batches(chunk: EventChunk, shifts: bool = True) -> Iterator[Batch]:
    """The candidates of a chunk in batches; those without a weight in their window are left out.

    Parameters
    ----------
    chunk
        Candidates with at least one event each.
    shifts
        Whether movements will be asked for.
    """
    groups: dict[tuple[int, int], list[int]] = {}
    for i in range(len(chunk)):
        n_body = int(np.count_nonzero(chunk.footprint(i)))
        if n_body:
            groups.setdefault((_padded(int(chunk.size[i].prod())), _padded(n_body)), []).append(i)
    for (n_pixels, n_body), rows in groups.items():
        most = max(1, BATCH_VALUES // (n_pixels * N_FRAMES))
        for start in range(0, len(rows), most):
            yield Batch(chunk, np.array(rows[start : start + most]), n_pixels, n_body, shifts)


class Batch:
    """Some candidates.

    Attributes
    ----------
    rows
        ``(n,)`` their places in the chunk.
    valid
        ``(n, 55)`` bool: frames that count.
    t
        ``(n, 55)`` float64: trace without its baseline; 0 in frames that do not count.
    usable
        ``(n,)`` bool: False where nothing can be computed.
    n_frames
        ``(n,)``: how many frames count.
    event_weights
        ``(n, 55)``: positive part of `t`, its sum 1.
    w, body_weights
        ``(n, n_pixels)`` footprint in the window; ``(n, n_body)`` its pixels that are not 0.
    in_body
        ``(n, n_body)`` bool: which of the latter there are.
    event_image
        ``(n, n_pixels)`` float32: A.
    along_w, along_z
        ``(n, 55)`` float64: products of D with the footprint and the surround.
    square_w, square_z
        ``(n,)`` float64: sums of their squares.
    """

    def __init__(self, chunk: EventChunk, rows: Positions, n_pixels: int, n_body: int, shifts: bool) -> None:
        n = len(rows)
        self.rows, self.sizes = rows, [tuple(size) for size in chunk.size[rows].tolist()]
        self._movie = np.zeros((n, N_FRAMES, n_pixels), np.float32)
        self.w = np.zeros((n, n_pixels), np.float32)
        self._body = np.zeros((n, n_body), np.intp)
        self.in_body = np.zeros((n, n_body), bool)
        near, ring = np.zeros((n, n_pixels), bool), np.zeros((n, n_pixels), bool)
        self._inside, self._around = np.zeros((n, n_pixels), bool), np.zeros((n, n_pixels), bool)
        self._near_windows = [chunk.near(i) for i in rows.tolist()]
        trace = chunk.values[rows].reshape(n, N_FRAMES).astype(np.float64) - chunk.baseline[rows, None]
        self.valid = np.isfinite(trace)
        for k, i in enumerate(rows.tolist()):
            frames, footprint = chunk.frames(i), chunk.footprint(i)
            area = footprint.size
            self._movie[k, : LENGTH * len(frames), :area] = frames.reshape(-1, area)
            self.w[k, :area] = footprint.ravel()
            self._inside[k, :area] = True
            self._around[k, :area].reshape(self.sizes[k])[self._near_windows[k]] = True
            if frames.dtype.kind == "f":
                self._without_gaps(k)
            where = np.flatnonzero(self.w[k])
            self._body[k, : where.size] = where
            self.in_body[k, : where.size] = True
            near[k, :area] = _near(footprint, *NARROW).ravel()
            ring[k, :area] = (_near(footprint, *WIDE) & (footprint <= CORE)).ravel()
        self.t = np.where(self.valid, trace, 0)
        self.n_frames = self.valid.sum(axis=1)
        self._reference = self._movie[:, 0].copy()  # a large offset would cost precision
        self._movie -= self._reference[:, None]
        self._fit_baseline()
        self._near = near & self._inside
        self._around &= self._inside
        self._surround = np.where(ring & self._inside, np.maximum(self.event_image, 0), 0)
        peak = self._surround.max(axis=1, keepdims=True)
        self._surround /= np.where(peak > 0, peak, 1)
        self._project(shifts)
        self.body_weights = np.where(self.in_body, np.take_along_axis(self.w, self._body, axis=1), 0)
        self.square_w = np.square(self.body_weights, dtype=np.float64).sum(axis=1)
        self.square_z = np.square(self._surround, dtype=np.float64).sum(axis=1)

    def _without_gaps(self, k: int) -> None:
        """Frames that are nowhere finite, and then pixels that are not finite in one frame, do not count."""
        movie = self._movie[k]
        if np.isfinite(movie.sum()):
            return
        good = np.isfinite(movie)
        self.valid[k] &= good[:, self._inside[k]].any(axis=1)
        lost = ~good[self.valid[k]].all(axis=0)
        self._inside[k] &= ~lost
        self.w[k, lost] = 0
        movie[:, lost] = 0
        movie[~self.valid[k]] = 0

    def mean(self, values: Floats) -> Floats:
        """Mean over the frames that count."""
        return np.asarray(np.where(self.valid, values, 0).sum(axis=1) / self.n_frames)

    def _fit_baseline(self) -> None:
        n = self.n_frames[:, None]
        centred = np.where(self.valid, self.t - self.t.sum(axis=1, keepdims=True) / n, 0)
        variance = np.square(centred).sum(axis=1, keepdims=True)
        rise = np.maximum(self.t, 0)
        self.event_weights = rise / rise.sum(axis=1, keepdims=True)
        scale = np.square(self.t).sum(axis=1)
        self.usable = (variance[:, 0] > 1e-10 * scale) & (rise.sum(axis=1) > 0)
        at_zero = np.where(self.valid, 1 / n - self.t.sum(axis=1, keepdims=True) / n * centred / variance, 0)
        means = np.stack([at_zero, self.event_weights], axis=1).astype(np.float32)
        means = np.where(self.usable[:, None, None], means, 0)
        images = means @ self._movie
        self._baseline = images[:, 0]  # without the reference
        self.event_image = np.where(self._inside, images[:, 1] - images[:, 0], 0)

    def _project(self, shifts: bool) -> None:
        """Products of every frame with the images it is compared with."""
        images = [self.w, self._surround]
        if shifts:
            images += [self._around.astype(np.float32), *self._gradients()]
        self._images = np.stack(images, axis=2)
        products = self._movie @ self._images - self._baseline[:, None] @ self._images
        self._products = np.where(self.valid[..., None], products, 0)
        self.along_w, self.along_z = (self._products[..., k].astype(np.float64) for k in (0, 1))

    def _gradients(self) -> list[NDArray[np.float32]]:
        """Change of the baseline image per pixel along each axis in the near window; 0 where it is unknown."""
        image = np.where(self._inside, self._baseline + self._reference, 0)
        out = [np.zeros_like(image) for _ in self.sizes[0]]
        for k, size in enumerate(self.sizes):
            area = int(np.prod(size))
            near = self._near_windows[k]
            window, known = image[k, :area].reshape(size)[near], self._inside[k, :area].reshape(size)[near]
            for axis, gradient in enumerate(out):
                if window.shape[axis] > 1:
                    change = gradient[k, :area].reshape(size)[near]
                    _slope(window, known, change, axis)
        return out

    # ---- what the features ask

    @cached_property
    def body(self) -> NDArray[np.float32]:
        """D on the bodies, ``(n, 55, n_body)``; 0 elsewhere, and in frames that do not count."""
        out = np.stack([movie.take(where, axis=1) for movie, where in zip(self._movie, self._body, strict=True)])
        out -= np.take_along_axis(self._baseline, self._body, axis=1)[:, None]
        out *= self.in_body[:, None]
        out *= self.valid[..., None]
        return out

    def noise(self) -> Floats:
        """Noise of a pixel of the body: the median over its pixels, ``(n,)``."""
        n, _, n_body = self.body.shape
        events = self.body.reshape(n, N_EVENTS, LENGTH, n_body)
        second = events[:, :, 2:] - 2 * events[:, :, 1:-1] + events[:, :, :-2]
        used = self.valid.reshape(n, N_EVENTS, LENGTH)
        used = used[:, :, 2:] & used[:, :, 1:-1] & used[:, :, :-2]
        second *= used[..., None]
        power = np.einsum("ietp,ietp->ip", second, second) / (6 * used.sum(axis=(1, 2)))[:, None]
        power = np.sort(np.where(self.in_body, np.sqrt(power), np.inf), axis=1)
        count = self.in_body.sum(axis=1)
        every = np.arange(n)
        return np.asarray((power[every, np.maximum(count - 1, 0) // 2] + power[every, count // 2]) / 2, np.float64)

    @cached_property
    def near_image(self) -> NDArray[np.float32]:
        """The event image in the near window; 0 elsewhere."""
        return np.where(self._around, self.event_image, np.float32(0))

    def image_correlation(self) -> Floats:
        """Cosine of footprint and event image near the footprint."""
        image = np.where(self._near, self.event_image, 0)
        norm = np.sqrt(np.square(image, dtype=np.float64).sum(axis=1) * np.square(self.w, dtype=np.float64).sum(axis=1))
        return np.asarray((image * self.w).sum(axis=1) / norm)

    def frame_correlation(self) -> Floats:
        """Correlation of each frame with the footprint over the body, ``(n, 55)``."""
        count = self.in_body.sum(axis=1)
        centred = np.where(self.in_body, self.body_weights - (self.body_weights.sum(axis=1) / count)[:, None], 0)
        spread = np.square(centred).sum(axis=1)
        spread = np.where(spread > 1e-8 * self.square_w, spread, np.nan)  # all weights the same: no pattern to find again
        along = (self.body @ centred[:, :, None].astype(np.float32))[..., 0]
        total = self.body.sum(axis=2)
        square = np.einsum("ifp,ifp->if", self.body, self.body)
        power = np.maximum(square - total**2 / count[:, None], 0)
        out = along / np.sqrt(power * spread[:, None])
        return np.asarray(np.where((power <= 1e-8 * square) & np.isfinite(spread)[:, None], 0, out))

    def movements(self) -> Floats:
        """How far the tissue moved in each frame along each axis, ``(n, 55, ndim)`` [pixels]."""
        used = [0, *range(2, self._images.shape[2])]
        images = self._images[:, :, used]
        gram = (images.transpose(0, 2, 1) @ images).astype(np.float64)
        fitted = self._products[..., used].astype(np.float64) @ _inverse(gram)
        return -fitted[..., 2:]

    def explained_by_movement(self) -> Floats:
        """Share of the variance of the event image that a movement explains."""
        images = self._images[:, :, 2:]
        gram = (images.transpose(0, 2, 1) @ images).astype(np.float64)
        along = (self.near_image[:, None] @ images)[:, 0].astype(np.float64)
        mean = along[:, 0] ** 2 / gram[:, 0, 0]
        total = np.square(self.near_image, dtype=np.float64).sum(axis=1) - mean
        found = np.einsum("ia,iab,ib->i", along, _inverse(gram), along) - mean
        return np.asarray(np.clip(found / total, 0, 1))


def _slope(window: NDArray[np.float32], known: Flags, out: NDArray[np.float32], axis: int) -> None:
    """Half the difference of the two neighbours, that to the only one at the border; 0 where one is unknown."""
    w, k, o = window.swapaxes(axis, 0), known.swapaxes(axis, 0), out.swapaxes(axis, 0)
    o[1:-1] = (w[2:] - w[:-2]) / 2 * (k[2:] & k[:-2])
    o[0], o[-1] = (w[1] - w[0]) * (k[1] & k[0]), (w[-1] - w[-2]) * (k[-1] & k[-2])
    o *= k


def _inverse(gram: Floats) -> Floats:
    """Inverse of Gram matrices, each image scaled to norm 1 first; of images that say the same only one way of saying it."""
    norm = np.sqrt(np.einsum("iaa->ia", gram))
    scale = np.where(norm > 0, 1 / np.where(norm > 0, norm, 1), 0)
    unit = gram * scale[:, :, None] * scale[:, None, :]
    inverse = np.linalg.pinv(np.nan_to_num(unit), rcond=1e-6, hermitian=True)
    return np.asarray(inverse * scale[:, :, None] * scale[:, None, :])
