"""One-sided robust regression of frames on footprints: how much of a frame is pushed up by something else (published 47 to 50).

After EXTRACT (Inan et al., bioRxiv 2021.03.24.436279) and its public code, ``solve_single_source_temporal.m``, ``eps_func.m`` and
``kappa_of_epsilon.m``. Departures, and why: docs/features.md.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from actsort_core.features._shared import Floats

ROUNDS = (8, 4, 3)  # steps of the regression before each new estimate of the threshold; it has settled after five
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
    sigma = noise[:, None]
    x = np.maximum((frames @ a)[..., 0] / power[:, None], 0)
    kappa, share = np.ones_like(x), np.zeros_like(x)
    rest, low = np.empty_like(frames), np.empty(frames.shape, np.float32)
    for steps in ROUNDS:
        limit = (kappa * sigma).astype(np.float32)[..., None]
        for _ in range(steps):
            np.multiply(weights[:, None, :], x[..., None].astype(np.float32), out=rest)
            np.subtract(frames, rest, out=rest)
            np.less(rest, limit, out=low, casting="unsafe")
            curvature = (low @ a2)[..., 0]
            np.minimum(rest, limit, out=rest)
            step = (rest @ a)[..., 0] / curvature
            x = np.maximum(x + np.where(curvature > 0, step, 0), 0)
        np.multiply(weights[:, None, :], x[..., None].astype(np.float32), out=rest)
        np.greater(frames, rest, out=low, casting="unsafe")
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
