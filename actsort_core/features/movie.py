"""Evidence from the movie: published ActSort features 47 to 76 under names of our own, and residual motion, which none of the 76 sees.

All of it comes from the eleven frames around each of a candidate's five best events (`actsort_core.events`: up to 55 frames), inside its
window (`actsort_core.windows`: the footprint's box and seven pixels more, widened over the neighbours as far as the surround reaches;
motion keeps to the near window, without the latter), in one pass over the movie. Definitions, for one candidate:

w : the footprint divided by its maximum, weights of a thousandth and less dropped; its **body** is where w > 0.
t : the trace minus its baseline (median of its running median over all frames). Frames in which it is not finite do not count.
b : the baseline image: for each pixel, the value at t = 0 of the straight line (least squares) of the pixel against t over the frames.
D : a frame minus b. So neither the offset of the movie nor that of the trace matters, nor their units.
A : the event image, the mean of D weighted with max(t, 0).

Pixels that are not finite in one of the frames do not count; nor do frames that are finite nowhere. What cannot be computed is NaN: all,
where a candidate has no event, no body, or a trace that is constant in these frames.

contamination_mean, _min, _p10, _p20 (47-50)
    Per frame the share e of the body's pixels that something else pushes up, by EXTRACT's one-sided robust regression of D on w; then
    the mean, minimum and quantiles (Hazen's, as in MATLAB) over frames. s = median over the body's pixels of sqrt(mean of c^2 / 6), c the
    second differences inside each event. x = max(0, sum w D / sum w^2), k = 1; then eight, four and three times
    x <- max(0, x + sum w min(r, k s) / sum of w^2 where r < k s) with r = D - w x. After each of the three: d = share of pixels with
    r > 0, weighted with 1 / (1 + w); k <- K(E(d, k)); e <- E(d, k). E and K are EXTRACT's ``eps_func`` and ``kappa_of_epsilon``
    (see `_movie_robust`).
image_correlation (51)
    Cosine between w and A, the latter only where w, blurred by a Gaussian of deviation 2.4 pixels cut at 6, is above .01 of its maximum.
roi_excess_p01, _p25, _p50, _p75, _p99 (52-56)
    Inside = max(0, sum w D / sum w^2). t' = t times the root of (sum inside^2 / sum t^2). An active period is a run of frames of one event
    with t above half its maximum. Per period sum max(0, inside - t') / sum t'; then quantiles (Hazen's) over periods.
marginal_trace_... (57-61)
    The surround z is max(A, 0) without the pixels with w > .01, where w blurred by a Gaussian of deviation 4.8 pixels cut at 12 is above
    .01 of its maximum, divided by its maximum. Outside = max(0, sum z D / sum z^2), 0 without a surround. Per period
    sum max(0, t' - outside) / sum t'.
marginal_fluorescence_... (62-66)
    Per period sum max(0, i - o) / sum i, with i = inside times the root of sum w^2, o = outside times the root of sum z^2.
frame_match_00, _10 ... _90 (67-76)
    Over the frames with t above that share of its maximum: mean, weighted with t, of the correlation of D with w over the pixels of the
    body; 0 for a frame that is the same in all of them. NaN where w is.

motion.*: each frame D is fitted (least squares) over the near window by 1, w and the gradient of b along each axis; minus the latter's
coefficients are how far the tissue moved in that frame, in pixels.

event_shift : length of the mean movement weighted with max(t, 0).
jitter : root of the mean squared distance of the movements from their mean.
trace_correlation : multiple correlation of t with the movements.
explained : share of the variance of A over the near window that 1 and the gradient of b explain.
negative : share of the sum of A^2 over the near window where A < 0: what moves darkens one side.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from actsort_core.events import LENGTH, Columns, EventChunk, EventFrames
from actsort_core.features import Feature, FeatureGroup
from actsort_core.features._movie_batch import Batch, batches
from actsort_core.features._movie_robust import contamination
from actsort_core.features._shared import Features, Floats
from actsort_core.model import Recording

QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)
ACTIVE = 0.5  # of the trace's maximum
SHARES = tuple(round(0.1 * k, 1) for k in range(10))

_PER_PERIOD = ("roi_excess", "marginal_trace", "marginal_fluorescence")
CONTAMINATION = ("contamination_mean", "contamination_min", "contamination_p10", "contamination_p20")
NEIGHBOURS = ("image_correlation", *(f"{name}_p{round(100 * q):02d}" for name in _PER_PERIOD for q in QUANTILES))
MATCH = tuple(f"frame_match_{round(100 * share):02d}" for share in SHARES)
# Enough of them by default: with all 30 the first labels teach less (benchmarks/movie_labels.py).
_USUAL = {
    *("contamination_p20", "image_correlation", "roi_excess_p50", "marginal_trace_p25", "marginal_trace_p75"),
    *("marginal_fluorescence_p75", "frame_match_00", "frame_match_50"),
}
MOTION = ("event_shift", "jitter", "trace_correlation", "explained", "negative")


@dataclass(frozen=True)
class MovieReader:
    """Computes the groups asked for, for some candidates at a time (an `events.EventReader`).

    Attributes
    ----------
    groups
        Of ``"contamination"``, ``"neighbours"``, ``"match"``, ``"motion"``.
    """

    groups: tuple[str, ...] = ("contamination", "neighbours", "match", "motion")
    name: str = "movie_features"

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns it computes."""
        names = {"contamination": CONTAMINATION, "neighbours": NEIGHBOURS, "match": MATCH, "motion": MOTION}
        return tuple(f"{'motion' if group == 'motion' else 'movie'}.{name}" for group in self.groups for name in names[group])

    def sink(self, recording: Recording) -> Columns:
        """One column of every feature."""
        return Columns(recording.n_cells, self.columns)

    def read(self, chunk: EventChunk) -> Features:
        """The features of the candidates of a chunk, ``(k,)`` each."""
        out = {name: np.full(len(chunk), np.nan, np.float32) for name in self.columns}
        for batch in batches(chunk, shifts="motion" in self.groups):
            found: dict[str, Floats] = {}
            if "contamination" in self.groups:
                found |= _contamination(batch)
            if "neighbours" in self.groups:
                found |= _neighbours(batch)
            if "match" in self.groups:
                found |= _match(batch)
            prefixed = {f"movie.{name}": values for name, values in found.items()}
            if "motion" in self.groups:
                prefixed |= {f"motion.{name}": values for name, values in _motion(batch).items()}
            for name, values in prefixed.items():
                out[name][batch.rows] = np.where(batch.usable & np.isfinite(values), values, np.nan)
        return out


def _contamination(batch: Batch) -> dict[str, Floats]:
    share = contamination(batch.body, batch.body_weights, batch.in_body, batch.noise())
    share = np.where(batch.valid, share, np.nan)
    low = np.sort(share, axis=1)  # NaN last
    return {
        "contamination_mean": batch.mean(share),
        "contamination_min": low[:, 0],
        "contamination_p10": _quantile(low, batch.n_frames, 0.1, 0.5),
        "contamination_p20": _quantile(low, batch.n_frames, 0.2, 0.5),
    }


def _quantile(ascending: Floats, n: NDArray[np.intp], q: float, shift: float = 0.5) -> Floats:
    """Quantile of the first `n` values of each row, Hazen's (`shift` .5): the i-th of n values is the (i - .5) / n quantile."""
    place = np.clip(q * n - shift, 0, np.maximum(n - 1, 0))
    below = np.floor(place).astype(np.intp)
    above = np.minimum(below + 1, np.maximum(n - 1, 0))
    every = np.arange(len(ascending))
    part = place - below
    return np.asarray(np.where(n > 0, ascending[every, below] * (1 - part) + ascending[every, above] * part, np.nan))


def _neighbours(batch: Batch) -> dict[str, Floats]:
    t, valid = batch.t, batch.valid
    norm_w = np.sqrt(batch.square_w)
    inside = np.maximum(batch.along_w / batch.square_w[:, None], 0) * valid
    surround = np.where(batch.square_z > 0, batch.square_z, 1)
    outside = np.maximum(batch.along_z / surround[:, None], 0) * valid
    scaled = t * np.sqrt((inside**2).sum(axis=1) / (t**2).sum(axis=1))[:, None]
    i, o = inside * norm_w[:, None], outside * np.sqrt(batch.square_z)[:, None]
    active = valid & (t > ACTIVE * t.max(axis=1, keepdims=True))
    period, n_periods = _periods(active)
    total, fluorescence = _sums(scaled, period), _sums(i, period)
    ratios = (
        _sums(np.maximum(inside - scaled, 0), period) / total,
        _sums(np.maximum(scaled - outside, 0), period) / total,
        _sums(np.maximum(i - o, 0), period) / fluorescence,
    )
    out = {"image_correlation": batch.image_correlation()}
    for name, ratio in zip(_PER_PERIOD, ratios, strict=True):
        ratio = np.sort(np.where(np.arange(ratio.shape[1]) < n_periods[:, None], ratio, np.nan), axis=1)
        counted = np.isfinite(ratio).sum(axis=1)
        for q in QUANTILES:
            out[f"{name}_p{round(100 * q):02d}"] = _quantile(ratio, counted, q)
    return out


def _periods(active: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Number of the active period of each frame (0 for none, then from 1), which no two events share; how many there are."""
    before = np.zeros_like(active)
    before[:, 1:] = active[:, :-1]
    before[:, ::LENGTH] = False
    number = np.cumsum(active & ~before, axis=1)
    return np.where(active, number, 0).astype(np.intp), number[:, -1].astype(np.intp)


def _sums(values: Floats, period: NDArray[np.intp]) -> Floats:
    """Sum over each period, ``(n, most periods)``."""
    n, most = len(values), int(period.max(initial=1)) + 1
    where = (period + most * np.arange(n)[:, None]).ravel()
    return np.asarray(np.bincount(where, values.ravel(), n * most).reshape(n, most)[:, 1:])


def _match(batch: Batch) -> dict[str, Floats]:
    match = batch.frame_correlation()
    share = np.where(batch.valid, batch.t / batch.t.max(axis=1, keepdims=True), -1.0)
    match = np.where(batch.valid, match, 0)
    out = {}
    for name, level in zip(MATCH, SHARES, strict=True):
        weight = np.where(share > level, share, 0)
        out[name] = (weight * match).sum(axis=1) / weight.sum(axis=1)
    return out


def _motion(batch: Batch) -> dict[str, Floats]:
    moved = batch.movements()  # (n, frames, axes)
    n = batch.n_frames[:, None]
    centred = np.where(batch.valid[..., None], moved - moved.sum(axis=1, keepdims=True) / n[..., None], 0)
    mean = np.einsum("if,ifa->ia", batch.event_weights, moved)
    t = np.where(batch.valid, batch.t - batch.mean(batch.t)[:, None], 0)
    spread = np.einsum("ifa,ifb->iab", centred, centred)
    along = np.einsum("ifa,if->ia", centred, t)
    common = np.einsum("ia,iab,ib->i", along, np.linalg.pinv(spread, rcond=1e-6, hermitian=True), along)
    image = batch.near_image
    return {
        "event_shift": np.sqrt((mean**2).sum(axis=1)),
        "jitter": np.sqrt((centred**2).sum(axis=(1, 2)) / batch.n_frames),
        "trace_correlation": np.sqrt(np.clip(common / (t**2).sum(axis=1), 0, 1)),
        "explained": batch.explained_by_movement(),
        "negative": np.square(np.minimum(image, 0)).sum(axis=1) / np.square(image).sum(axis=1),
    }


def _nothing(recording: Recording) -> Features:
    raise NotImplementedError("computed as the movie passes")


def _group(name: str, reader: str, features: tuple[Feature, ...]) -> FeatureGroup:
    return FeatureGroup(
        name, features, frozenset({"traces", "footprints", "movie"}), _nothing, accumulate=EventFrames((MovieReader((reader,), name),))
    )


def _feature(name: str, unit: str, published: int, description: str) -> Feature:
    version = 2 if name.startswith("marginal_") else 1  # 2: the surround reaches over whole neighbours
    return Feature(f"movie.{name}", unit, version, published, description, default=name in _USUAL)


_WORDS = {
    "roi_excess": "fluorescence inside the footprint that the trace does not explain, over the trace",
    "marginal_trace": "trace that the surround does not explain, over the trace",
    "marginal_fluorescence": "fluorescence inside the footprint minus that of the surround, over the former",
}
_STATISTICS = {"mean": "mean", "min": "lowest", "p10": "10 % quantile", "p20": "20 % quantile"}

CONTAMINATION_GROUP = _group(
    "movie_contamination",
    "contamination",
    tuple(
        _feature(name, "share", 47 + i, f"pixels of a frame pushed up by something else: {_STATISTICS[name.rsplit('_', 1)[1]]}")
        for i, name in enumerate(CONTAMINATION)
    ),
)
NEIGHBOURS_GROUP = _group(
    "movie_neighbours",
    "neighbours",
    (
        _feature("image_correlation", "1", 51, "cosine of the footprint with the image of the events"),
        *(
            _feature(name, "1", 52 + i, f"{_WORDS[name[:-4]]}: {int(name[-2:])} % quantile over active periods")
            for i, name in enumerate(NEIGHBOURS[1:])
        ),
    ),
)
MATCH_GROUP = _group(
    "movie_match",
    "match",
    tuple(
        _feature(name, "1", 67 + i, f"correlation of frames with the footprint, trace above .{i} of its maximum")
        for i, name in enumerate(MATCH)
    ),
)
MOTION_GROUP = _group(
    "motion",
    "motion",
    (
        Feature("motion.event_shift", "px", 1, None, "how far the surroundings move when the candidate is active"),
        Feature("motion.jitter", "px", 1, None, "how much the surroundings move in the frames of the events"),
        Feature("motion.trace_correlation", "1", 1, None, "correlation of the trace with the movements"),
        Feature("motion.explained", "share", 1, None, "of the event image, what a movement of the baseline image explains"),
        Feature("motion.negative", "share", 1, None, "of the event image, what is darker than the baseline"),
    ),
)
GROUPS = (CONTAMINATION_GROUP, NEIGHBOURS_GROUP, MATCH_GROUP, MOTION_GROUP)
MOVIE76 = tuple(feature.name for group in GROUPS[:3] for feature in group.features)  # in published order, 47 to 76
