"""The host toolkit's own statistics as features: strong evidence that is already there (LEARNING.md).

Its verdict is a group of its own, off by default: a model that sees it learns to repeat the host.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from actsort_core.features import Feature, FeatureGroup
from actsort_core.features._shared import Features
from actsort_core.model import Recording

# Positive, heavy-tailed statistics enter as logarithms: ratios are what matters, and z-scores are not ruled by a few giants.
_LOG = {
    "npix": ("log px", "pixels of the ROI (Suite2p)"),
    "npix_soma": ("log px", "pixels of its soma (Suite2p)"),
    "npix_norm": ("log ratio", "size relative to the plane's first 100 ROIs (Suite2p)"),
    "npix_norm_no_crop": ("log ratio", "the same without cropping to the soma (Suite2p)"),
    "mrs": ("log px", "mean radius of the pixels (Suite2p)"),
    "mrs0": ("log px", "mean radius of a disc of the same size (Suite2p)"),
    "radius": ("log px", "radius of a fitted Gaussian (Suite2p)"),
    "std": ("log a.u.", "standard deviation of the trace (Suite2p)"),
    "SNR_comp": ("log ratio", "peak signal-to-noise (CaImAn)"),
}
_RAW = {
    "skew": ("1", "skewness of the trace (Suite2p)"),
    "snr": ("share", "variance that is not noise (Suite2p 1.x)"),
    "compact": ("1", "compactness (Suite2p)"),
    "aspect_ratio": ("1", "aspect ratio of a fitted Gaussian (Suite2p)"),
    "footprint": ("1", "spatial extent of the correlation (Suite2p)"),
    "solidity": ("1", "solidity (Suite2p 0.x)"),
    "r_values": ("1", "correlation of footprint and mean event image (CaImAn)"),
    "cnn_preds": ("1", "score of the CNN (CaImAn)"),
    "ecc": ("1", "eccentricity (CaImAn)"),
}


def _compute(recording: Recording) -> Features:
    """Every statistic the host left, ``(n_cells,)`` each; one it does not have is not a column."""
    return {f"host.{name}": _scaled(name, np.asarray(values, np.float64)) for name, values in recording.metrics.items()}


def _scaled(name: str, values: NDArray[np.float64]) -> NDArray[np.float32]:
    if name in _LOG:
        values = np.log(np.where(values > 0, values, np.nan))
    finite = np.isfinite(values)
    if finite.any():  # CaImAn calls the SNR of very bright traces infinite: more than the others, not unknown
        values = np.where(np.isposinf(values), values[finite].max(), values)
    return np.where(np.isfinite(values), values, np.nan).astype(np.float32)


GROUP = FeatureGroup(
    "host",
    tuple(Feature(f"host.{name}", unit, 1, None, text) for name, (unit, text) in {**_LOG, **_RAW}.items()),
    frozenset({"host"}),
    _compute,
    open_ended=True,
)


def _verdict(recording: Recording) -> Features:
    prior = recording.prior
    verdict = np.where(prior.verdict == 0, np.nan, prior.verdict).astype(np.float32)
    return {"host_verdict.verdict": verdict, "host_verdict.probability": prior.probability.astype(np.float32)}


VERDICT = FeatureGroup(
    "host_verdict",
    (
        Feature("host_verdict.verdict", "1", 1, None, "accepted (1) or rejected (-1) by the host when first opened"),
        Feature("host_verdict.probability", "1", 1, None, "probability the host gave when first opened"),
    ),
    frozenset({"host"}),
    _verdict,
    default=False,
)
