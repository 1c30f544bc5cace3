"""One-sided robust regression of frames on footprints: how much of a frame is pushed up by something else (published 47 to 50).

After EXTRACT (Inan et al., bioRxiv 2021.03.24.436279) and its public code, ``solve_single_source_temporal.m``, ``eps_func.m`` and
``kappa_of_epsilon.m``. Departures, and why: docs/features.md.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from actsort_core.features._shared import Floats

ROUNDS = (8, 4, 3)  # most steps of the regression before each new estimate of the threshold; it has settled after five
SETTLED = 1e-6  # change, relative to noise and value, at which it has
LOWEST, HIGHEST = 0.001, 0.99


def contamination(frames: NDArray[np.float32], weights: NDArray[np.float32], body: NDArray[np.bool_], noise: Floats) -> Floats:
    """Share of the body's pixels that are pushed up, per frame.

    Parameters
    ----------
    frames : (n, n_frames, n_pixels) array
        Frames without baseline, 0 outside the body.
    weights : (n, n_pixels) array
        Footprints with maximum 1, 0 outside the body.
    body : (n, n_pixels) array of bool
    noise : (n,) array
        Standard deviation of the noise of a pixel, in the unit of the frames.

    Returns
    -------
    (n, n_frames) array
    """
    square = weights * weights
    lean = body / (1 + weights)
    lean /= lean.sum(axis=1, keepdims=True)
    mass, power = weights.sum(axis=1), square.sum(axis=1)
    alpha = (0.05 * mass / body.sum(axis=1) * mass / power)[:, None]
    a, a2, m = weights[:, :, None], square[:, :, None], lean[:, :, None].astype(np.float32)
    sigma, inverse = noise[:, None], np.where(weights > 0, 1 / np.where(weights > 0, weights, 1), np.inf)[:, None].astype(np.float32)
    along = frames * weights[:, None]
    x = np.maximum(along.sum(axis=2) / power[:, None], 0)
    settled = SETTLED * sigma / np.sqrt(power)[:, None]
    kappa, share = np.ones_like(x), np.zeros_like(x)
    ratio, low = np.empty_like(frames), np.empty(frames.shape, np.float32)
    for steps in ROUNDS:
        limit = kappa * sigma
        np.subtract(frames, limit[..., None].astype(np.float32), out=ratio)
        np.multiply(ratio, inverse, out=ratio)  # a pixel is pushed up where this is not below x
        for _ in range(steps):
            np.less(ratio, x[..., None].astype(np.float32), out=low, casting="unsafe")
            curvature = (low @ a2)[..., 0]
            total = np.einsum("ifp,ifp->if", low, along) + limit * (mass[:, None] - (low @ a)[..., 0])
            found = np.maximum(np.where(curvature > 0, total / np.where(curvature > 0, curvature, 1), x), 0)
            moved = np.abs(found - x) > settled + SETTLED * x
            x = np.where(moved, found, x)  # a frame that has settled stays, whatever the others do
            if not moved.any():
                break
        np.multiply(weights[:, None, :], x[..., None].astype(np.float32), out=ratio)
        np.greater(frames, ratio, out=low, casting="unsafe")
        above = (low @ m)[..., 0]
        kappa = _kappa(_epsilon(above, kappa, alpha))
        share = _epsilon(above, kappa, alpha)
    return np.asarray(share)


def _epsilon(above: Floats, kappa: Floats, alpha: Floats) -> Floats:
    """Contamination from the share of pixels above the fit (EXTRACT's ``eps_func`` at v = 0, not rounded to steps)."""
    density, below = np.exp(-(kappa**2) / 2) / np.sqrt(2 * np.pi), ndtr(kappa)
    first = 1 - 1 / (density / kappa + below)
    numerator = 1 - (1 - first) * 0.5 - above
    denominator = 0.5 - alpha / np.sqrt(2 * np.pi) * (density / below + kappa)
    return np.asarray(np.clip(first - numerator / denominator, LOWEST, HIGHEST))


def _kappa(share: Floats) -> Floats:
    """Where to cut for a contamination (EXTRACT's ``kappa_of_epsilon``, a fit to the minimax-optimal threshold)."""
    share = np.maximum(share, 0.001)
    return np.asarray(np.maximum(-0.3775 * np.log(share) - 0.0597 * share + 0.0544, 0.001))  # a hair below zero at .99
