"""Evidence from the footprints: does it look like a soma? No value depends on the scale of a footprint."""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from actsort_core.features import Feature, FeatureGroup
from actsort_core.features._shared import Features, Flags, Floats, Positions, column_blocks, finite_or_nan, missing, normalised
from actsort_core.model import Recording

SUPPORT = 0.1  # weight (footprint maximum = 1) above which a pixel belongs to the footprint
BODY = 0.3  # ... to the body, on which shape is measured
CORE = 0.5  # ... to the core

FOOTPRINT_FEATURES = (
    "log_area",
    "weight_spread",
    "core_share",
    "body_share",
    "log_elongation",
    "circularity",
    "log_sprawl",
    "radial_slope",
)


def footprint_features(footprints: sparse.csc_array, fov: tuple[int, ...]) -> Features:
    """Describe the shape of each candidate, in two or three dimensions.

    Below, w is a footprint divided by its maximum, its pixels are those with w > 0.001, and its body is the heaviest
    connected part (pixels that share an edge, in 3-D a face) of those with w > 0.3. An empty footprint gets NaN.

    Parameters
    ----------
    footprints : (n_pixels, n_cells) sparse array, CSC
        Spatial weights, pixels in C order of `fov`, any unit. Weights that are not positive and finite count as nothing.
    fov : tuple of two or three int
        Field of view [pixels].

    Returns
    -------
    dict of (n_cells,) float32 arrays, in order of `FOOTPRINT_FEATURES`
        log_area : ln of the number of pixels with w > 0.1 (FEATURES 37).
        weight_spread : standard deviation / mean of w over its pixels.
        core_share : pixels with w > 0.5 / pixels with w > 0.1; flat, sharp-edged footprints are near 1.
        body_share : sum of w in the body / sum of w; scattered footprints are low (FEATURES 38, made continuous).
        log_elongation : ln of major / minor axis of the body, from its second moments; in 3-D minor is the geometric mean
            of the two smaller axes (FEATURES 43; a pixel counts as a unit square or cube, so it is never infinite).
        circularity : 4 pi A / P^2 of the body, in 3-D (36 pi V^2)^(1/3) / S (FEATURES 42; P and S by Cauchy-Crofton).
        log_sprawl : ln of the volume of the ellipse (ellipsoid) that has the weighted second moments of w / effective area
            (sum w)^2 / sum w^2; 0 for an evenly filled ellipse of any elongation, high for tails and scattered weight.
        radial_slope : correlation of w with distance from the weighted centroid, over its pixels; NaN for a binary mask.
    """
    weights = normalised(footprints, fov)
    n_cells = weights.shape[1]
    out = missing(FOOTPRINT_FEATURES, n_cells)
    for columns in column_blocks(weights):
        with np.errstate(divide="ignore", invalid="ignore"):
            described = _describe_footprints(_Pixels(weights[:, columns], fov))
        for name, values in described.items():
            out[name][columns] = values
    return finite_or_nan(out)


def _describe_footprints(pixels: _Pixels) -> dict[str, Floats]:
    w, ndim = pixels.weight, len(pixels.fov)
    n, area = pixels.count(), pixels.count(w > SUPPORT)
    mass, energy = pixels.sum(w), pixels.sum(w * w)
    variance = np.maximum(energy / n - (mass / n) ** 2, 0)

    body = pixels.largest_body()
    volume = pixels.count(body)
    _, spread = pixels.moments(body)
    axes = np.sqrt(np.linalg.eigvalsh(spread))  # ascending; at least that of one pixel

    centre, spread = pixels.moments(w)
    distance = np.sqrt(((pixels.at - centre[pixels.cell]) ** 2).sum(axis=1))
    distance -= (pixels.sum(distance) / n)[pixels.cell]
    slope = pixels.sum(distance * w) / np.sqrt(pixels.sum(distance**2) * n * variance)
    binary = variance < 1e-9

    return {
        "log_area": np.log(area),
        "weight_spread": np.sqrt(variance) * n / mass,
        "core_share": pixels.count(w > CORE) / area,
        "body_share": pixels.sum(w * body) / mass,
        "log_elongation": np.where(volume > 0, np.log(axes[:, -1]) - np.log(axes[:, :-1]).mean(axis=1), np.nan),
        "circularity": _roundness(volume, pixels.surface(body), ndim),
        "log_sprawl": np.log(_ellipsoid_volume(spread) / (mass**2 / energy)),
        "radial_slope": np.where(binary, np.nan, slope),
    }


def _roundness(volume: Floats, surface: Floats, ndim: int) -> Floats:
    """1 for a disc or ball, less for anything else (small digital ones may exceed 1)."""
    if ndim == 2:
        return 4 * np.pi * volume / surface**2
    return np.asarray(np.cbrt(36 * np.pi * volume**2) / surface)


def _ellipsoid_volume(spread: Floats) -> Floats:
    """Area (volume) of evenly filled ellipses (ellipsoids) with these second moments (n, ndim, ndim)."""
    root = np.sqrt(np.linalg.det(spread))
    return np.asarray(4 * np.pi * root if spread.shape[1] == 2 else 4 / 3 * np.pi * 5**1.5 * root)


class _Pixels:
    """The pixels of some normalised footprints as flat arrays, sorted by candidate, then by pixel.

    Attributes
    ----------
    cell : (n,) int
        Candidate each pixel belongs to.
    at : (n, ndim) int
        Its coordinates.
    weight : (n,) float64
        Its weight.
    """

    def __init__(self, weights: sparse.csc_array, fov: tuple[int, ...]) -> None:
        n_pixels, self.n_cells = weights.shape
        self.fov = tuple(int(k) for k in fov)
        self.cell = np.repeat(np.arange(self.n_cells), np.diff(weights.indptr))
        self.weight = weights.data.astype(np.float64)
        self.at = np.stack(np.unravel_index(weights.indices, self.fov), axis=1)
        self._key = self.cell * n_pixels + weights.indices  # ascending, so neighbours are found by bisection

    def sum(self, values: Floats | Flags) -> Floats:
        """Sum over the pixels of each candidate."""
        return np.bincount(self.cell, values, self.n_cells).astype(float)

    def count(self, which: Flags | None = None) -> Floats:
        """Number of pixels (for which the flag is set) of each candidate."""
        return np.bincount(self.cell if which is None else self.cell[which], minlength=self.n_cells).astype(float)

    def moments(self, weight: Floats | Flags) -> tuple[Floats, Floats]:
        """Centroids (n_cells, ndim) and covariances (n_cells, ndim, ndim) [pixels]; a pixel is a unit cube, not a point."""
        total = self.sum(weight)
        share = weight / np.where(total > 0, total, 1)[self.cell]
        ndim = self.at.shape[1]
        centre = np.stack([self.sum(share * self.at[:, k]) for k in range(ndim)], axis=1)
        offset = self.at - centre[self.cell]
        spread = np.empty((self.n_cells, ndim, ndim))
        for i in range(ndim):
            for j in range(ndim):
                spread[:, i, j] = self.sum(share * offset[:, i] * offset[:, j]) + (i == j) / 12
        return centre, spread

    def neighbour(self, direction: tuple[int, ...], of: Positions) -> Positions:
        """Position of the pixel next to each of the given ones in the same footprint, or -1."""
        if not of.size:
            return of
        target = self.at[of] + np.asarray(direction)
        inside = ((target >= 0) & (target < self.fov)).all(axis=1)
        strides = np.cumprod((1, *self.fov[:0:-1]))[::-1]
        key = self._key[of] + int(np.dot(direction, strides))
        found = np.minimum(np.searchsorted(self._key, key), self._key.size - 1)
        return np.where(inside & (self._key[found] == key), found, -1)

    def largest_body(self) -> Flags:
        """Pixels above `BODY` in each candidate's heaviest connected part; of equal parts, that of the first pixel."""
        high = np.flatnonzero(self.weight > BODY)
        n = self.weight.size
        if not n:
            return np.zeros(0, bool)
        pairs = [(high, self.neighbour(d, high)) for d in _FACES[len(self.fov)]]
        first = np.concatenate([a[b >= 0] for a, b in pairs])
        second = np.concatenate([b[b >= 0] for _, b in pairs])
        linked = self.weight[second] > BODY
        graph = sparse.coo_array((np.ones(linked.sum()), (first[linked], second[linked])), shape=(n, n))
        n_parts, part = csgraph.connected_components(graph, directed=False)
        heft = np.bincount(part, self.weight * (self.weight > BODY), n_parts)[part]  # of the part a pixel is in
        order = np.lexsort((np.arange(n), -heft, self.cell))  # heaviest part first within each candidate
        cells, start = np.unique(self.cell[order], return_index=True)
        best = np.full(self.n_cells, -1)
        best[cells] = part[order[start]]
        return np.asarray((self.weight > BODY) & (part == best[self.cell]))

    def surface(self, which: Flags) -> Floats:
        """Perimeter (2-D) or surface (3-D) [pixels] of each candidate's flagged pixels.

        Cauchy-Crofton: how often lines along the axes (in 2-D also the diagonals) leave the set, which is as often as
        they enter it. Right on average over orientations, where counting pixel edges is up to 4 / pi too long.
        """
        inside = np.flatnonzero(which)
        out = np.zeros(self.n_cells)
        for direction, weight in _CROFTON[len(self.fov)].items():
            other = self.neighbour(direction, inside)
            leaves = (other < 0) | ~which[other]
            out += 2 * weight * np.bincount(self.cell[inside], leaves, self.n_cells)
        return out


_FACES: dict[int, tuple[tuple[int, ...], ...]] = {2: ((0, 1), (1, 0)), 3: ((0, 0, 1), (0, 1, 0), (1, 0, 0))}
_DIAGONAL = np.pi / 8 / np.sqrt(2)
_CROFTON: dict[int, dict[tuple[int, ...], float]] = {
    2: {(0, 1): np.pi / 8, (1, 0): np.pi / 8, (1, 1): _DIAGONAL, (1, -1): _DIAGONAL},
    3: {(0, 0, 1): 2 / 3, (0, 1, 0): 2 / 3, (1, 0, 0): 2 / 3},
}


def _compute(recording: Recording) -> Features:
    found = footprint_features(recording.footprints, recording.fov)
    return {f"footprint.{name}": values for name, values in found.items()}


GROUP = FeatureGroup(
    "footprint",
    (
        Feature("footprint.log_area", "log px", 1, None, "pixels above .1 of the maximum (published 37 is the plain count)"),
        Feature("footprint.weight_spread", "1", 1, None, "standard deviation over mean of the weights"),
        Feature("footprint.core_share", "share", 1, None, "pixels above .5 among those above .1: flat and sharp-edged, or diffuse"),
        Feature("footprint.body_share", "share", 1, None, "weight in the heaviest connected body (published 38, made continuous)"),
        Feature("footprint.log_elongation", "log ratio", 1, None, "major over minor axis of the body (published 43 is the plain ratio)"),
        Feature("footprint.circularity", "1", 1, None, "4 pi area / perimeter^2 of the body (published 42: another perimeter)"),
        Feature("footprint.log_sprawl", "log ratio", 1, None, "area of the moments' ellipse over effective area: tails and scatter"),
        Feature("footprint.radial_slope", "1", 1, None, "correlation of weight with distance from the centre"),
    ),
    frozenset({"footprints"}),
    _compute,
)
