"""Published ActSort features 37 to 46: what a footprint says, alone and beside the others.

Definitions follow appendix B.1 of the ActSort paper (NeurIPS 2024) and its public code; where they depart from it,
docs/features.md says why. Each footprint is divided by its own maximum first, so none of these depends on its scale.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from actsort_core.features import Feature, FeatureGroup
from actsort_core.features import published_traces as traces
from actsort_core.features._published_outline import outline
from actsort_core.features._published_sheet import Sheet, sheets
from actsort_core.features._shared import Features, Flags, Floats, Positions, column_blocks, finite_or_nan, missing
from actsort_core.model import Recording

AREA, BODY, TEXTURE = 0.1, 0.3, 1e-3  # weights (footprint maximum = 1) above which a pixel counts
ADAPTIVE = 1.1  # a pixel of a body is brighter than this times its surroundings
LOWEST_MEAN = 0.01

PUBLISHED_FOOTPRINT_FEATURES = (
    "area_px",
    "n_bodies",
    "weight_sum",
    "perimeter_px",
    "edge_distance_px",
    "circularity",
    "elongation",
    "mean_weight",
    "roughness",
    "max_overlap_correlation",
)


def published_footprint_features(footprints: sparse.csc_array, fov: tuple[int, ...]) -> Features:
    """Compute the published features 37 to 46, in two or three dimensions.

    Below, w is a footprint divided by its maximum, its support the pixels with w > 0, and pixels that touch at an edge or
    corner belong to one body. A footprint without a positive weight gets NaN, as does whatever is undefined.

    Parameters
    ----------
    footprints : (n_pixels, n_cells) sparse array, CSC
        Spatial weights, pixels in C order of `fov`, any unit. Weights that are not positive and finite count as nothing.
    fov : tuple of two or three int
        Field of view [pixels].

    Returns
    -------
    dict of (n_cells,) float32 arrays, in order of `PUBLISHED_FOOTPRINT_FEATURES`
        area_px : (37) pixels with w > 0.1.
        n_bodies : (38) bodies beyond one, of the pixels with w > 1.1 times its mean over a box of 2 floor(size / 16) + 1 pixels
            (a field of view has `size` pixels along an axis); pixels outside the field of view do not count.
        weight_sum : (39) sum of w.
        perimeter_px : (40) length of the outer outlines of the support, through the centres of its border pixels; what lies
            in a hole does not count. In 3-D the surface, by Cauchy-Crofton.
        edge_distance_px : (41) pixels from the far corner of the brightest pixel to the nearest edge of the field of view. Of equally
            bright pixels, the middle one in Fortran order.
        circularity : (42) 4 pi A / P^2 of the largest body with w > 0.3, P by Vossepoel and Smeulders from the outline of 40;
            NaN for one pixel. In 3-D (36 pi V^2)^(1/3) / S.
        elongation : (43) major / minor axis of that body, from its second moments (a pixel is a unit square); in 3-D minor is
            the geometric mean of the two smaller axes.
        mean_weight : (44) sum of w / pixels of the field of view.
        roughness : (45) within w > 0.001, the mean of (w - local)^2 / max(local, 0.01) over that of (w - mean)^2 / max(mean, 0.01);
            local is the mean over 4 x 4 pixels (one before to two after; 4 x 4 x 4 in 3-D), mean that of those w.
        max_overlap_correlation : (46) highest Pearson correlation over the field of view with a footprint that shares a pixel;
            0 without any.
    """
    weights = _relative(footprints, fov)
    n_cells = weights.shape[1]
    out = missing(PUBLISHED_FOOTPRINT_FEATURES, n_cells)
    with ThreadPoolExecutor(traces.n_threads()) as pool:
        correlation = pool.submit(_max_correlation, weights)
        for who, described in pool.map(_described, *zip(*sheets(weights, fov), strict=True)) if weights.nnz else ():
            for name, values in described.items():
                out[name][who] = values
        out["max_overlap_correlation"] = correlation.result().astype(np.float32)
    return finite_or_nan(dict(out))


def _relative(footprints: sparse.csc_array, fov: tuple[int, ...]) -> sparse.csc_array:
    """A copy with maximum 1 per footprint, float32, pixels sorted, without what is not positive and finite."""
    if int(np.prod(fov)) != footprints.shape[0] or len(fov) not in (2, 3):
        raise ValueError(f"footprints have {footprints.shape[0]} pixels, which does not fit a field of view of {fov}")
    a = sparse.csc_array(footprints, copy=True)
    a.sum_duplicates()  # sorts, too
    a.data = np.where(np.isfinite(a.data) & (a.data > 0), a.data, 0)
    a.eliminate_zeros()
    some = np.flatnonzero(np.diff(a.indptr))
    peak = np.ones(a.shape[1], a.dtype)
    if some.size:
        peak[some] = np.maximum.reduceat(a.data, a.indptr[:-1][some])
    a.data = (a.data / np.repeat(peak, np.diff(a.indptr))).astype(np.float32)
    return a


def _described(who: Positions, sheet: Sheet) -> tuple[Positions, dict[str, Floats]]:
    with np.errstate(divide="ignore", invalid="ignore"):  # in this thread
        return who, _describe(sheet)


def _describe(sheet: Sheet) -> dict[str, Floats]:
    w, fov = sheet.weight, sheet.fov
    mass = sheet.sum(w)
    bright = w > ADAPTIVE * sheet.box_mean(tuple(size // 16 for size in fov))
    n_bodies = np.bincount(sheet.bodies(bright)[1], minlength=sheet.n_cells)
    everywhere = sheet.filled(np.ones(w.size, bool))
    body = _largest_body(sheet)
    volume = sheet.sum(body)
    axes = _axes(sheet, body)
    if len(fov) == 2:
        perimeter, _ = _lengths(sheet, everywhere)
        _, around = _lengths(sheet, sheet.filled(body))
        circularity = 4 * np.pi * volume / around**2
    else:
        perimeter = _surface(sheet, everywhere)
        circularity = np.cbrt(36 * np.pi * volume**2) / _surface(sheet, sheet.filled(body))
    return {
        "area_px": sheet.sum(w > AREA),
        "n_bodies": np.where(n_bodies > 0, n_bodies - 1.0, np.nan),
        "weight_sum": mass,
        "perimeter_px": perimeter,
        "edge_distance_px": _edge_distance(sheet),
        "circularity": circularity,
        "elongation": axes[:, -1] / np.exp(np.log(axes[:, :-1]).mean(axis=1)),
        "mean_weight": mass / np.prod(fov),
        "roughness": _roughness(sheet),
    }


def _lengths(sheet: Sheet, image: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Length of each candidate's outline through pixel centres, and corrected for being digital (Vossepoel and Smeulders 1982)."""
    straight, diagonal, corners = (sheet.per_cell(part) for part in outline(image))
    return straight + np.sqrt(2) * diagonal, 0.980 * straight + 1.406 * diagonal - 0.091 * corners


def _surface(sheet: Sheet, image: NDArray[np.bool_]) -> Floats:
    """Surface of each candidate's voxels: two thirds of their faces, which is right on average over orientations."""
    return np.asarray(2 / 3 * np.sum([sheet.per_cell(np.diff(image, axis=axis, prepend=False)) for axis in range(image.ndim)], axis=0))


def _largest_body(sheet: Sheet) -> Flags:
    """Pixels of each candidate's largest body above `BODY`; of equal ones, the first in Fortran order (as published)."""
    body, cell = sheet.bodies(sheet.weight > BODY)
    size = np.bincount(body, minlength=cell.size + 1)[1:]
    order = np.ravel_multi_index(tuple(sheet.at), sheet.fov, order="F")
    first = np.full(cell.size + 1, order.max(initial=0))
    np.minimum.at(first, body, order)
    best = np.lexsort((first[1:], -size, cell))
    cells, at = np.unique(cell[best], return_index=True)
    chosen = np.full(sheet.n_cells, -1)
    chosen[cells] = best[at] + 1
    return np.asarray(body == chosen[sheet.cell])


def _axes(sheet: Sheet, used: Flags) -> Floats:
    """Square roots of the second moments along the axes of the flagged pixels, ascending, (n_cells, ndim)."""
    n, ndim = sheet.sum(used), len(sheet.fov)
    cell, at = sheet.cell[used], sheet.at[:, used]

    def mean(values: Floats) -> Floats:
        return np.asarray(np.bincount(cell, values, sheet.n_cells) / n)

    offset = [x - mean(x)[cell] for x in at]
    spread = np.empty((sheet.n_cells, ndim, ndim))
    for i in range(ndim):
        for j in range(i + 1):
            spread[:, i, j] = spread[:, j, i] = mean(offset[i] * offset[j]) + (i == j) / 12
    return np.sqrt(np.linalg.eigvalsh(np.nan_to_num(spread)))


def _edge_distance(sheet: Sheet) -> Floats:
    top = np.flatnonzero(sheet.weight == 1)
    key = np.ravel_multi_index(tuple(sheet.at[:, top]), sheet.fov, order="F")
    top = top[np.lexsort((key, sheet.cell[top]))]
    count = np.bincount(sheet.cell[top], minlength=sheet.n_cells)
    middle = top[np.cumsum(count) - count + (count + 1) // 2 - 1]
    corner = sheet.at[:, middle] + 1
    return np.asarray(np.minimum(corner, np.asarray(sheet.fov)[:, None] - corner).min(axis=0), float)


def _roughness(sheet: Sheet) -> Floats:
    local = sheet.extended()
    for axis in range(local.ndim):
        local = (np.roll(local, 1, axis) + local + np.roll(local, -1, axis) + np.roll(local, -2, axis)) / 4
    used = sheet.weight > TEXTURE
    cell, w, near = sheet.cell[used], sheet.weight[used], local.ravel()[sheet.where[used]]
    mean = np.bincount(cell, w, sheet.n_cells) / np.bincount(cell, minlength=sheet.n_cells)
    fine = np.bincount(cell, (w - near) ** 2 / np.maximum(near, LOWEST_MEAN), sheet.n_cells)
    coarse = np.bincount(cell, (w - mean[cell]) ** 2, sheet.n_cells) / np.maximum(mean, LOWEST_MEAN)
    return np.asarray(fine / np.where(coarse > 1e-12, coarse, np.nan))


def _max_correlation(weights: sparse.csc_array) -> Floats:
    """Highest correlation of each footprint with another that overlaps it, from the sparse A^T A, a block at a time."""
    n_pixels, n_cells = weights.shape
    ones = np.ones(n_pixels)
    mean = np.asarray(weights.T @ ones) / n_pixels
    variance = np.asarray(weights.multiply(weights).T @ ones) / n_pixels - mean**2
    std = np.sqrt(np.where(variance > 1e-12, variance, np.nan))  # a footprint that fills the field of view evenly has none
    by_pixel = weights.tocsr()
    best = np.full(n_cells, -np.inf)
    for block in column_blocks(weights):
        product = weights[:, block].T @ by_pixel  # a row per candidate of the block
        j = np.repeat(np.arange(n_cells)[block], np.diff(product.indptr))
        i = product.indices
        r = (product.data / n_pixels - mean[i] * mean[j]) / (std[i] * std[j])
        r[i == j] = -np.inf
        some = np.flatnonzero(np.diff(product.indptr))
        if some.size:
            best[block][some] = np.fmax.reduceat(r, product.indptr[some])
    return np.where(mean > 0, np.where(np.isfinite(best), np.clip(best, -1, 1), np.where(np.isnan(std), np.nan, 0)), np.nan)


def _compute(recording: Recording) -> Features:
    found = published_footprint_features(recording.footprints, recording.fov)
    return {f"published.{name}": values for name, values in found.items()}


GROUP = FeatureGroup(
    "published_footprint",
    (
        Feature("published.area_px", "px", 1, 37, "pixels above .1 of the maximum"),
        Feature("published.n_bodies", "bodies", 1, 38, "connected bodies beyond one, brighter than their surroundings"),
        Feature("published.weight_sum", "px", 1, 39, "sum of the weights, maximum 1"),
        Feature("published.perimeter_px", "px", 1, 40, "length of the outlines of the support"),
        Feature("published.edge_distance_px", "px", 1, 41, "from the brightest pixel to the nearest edge of the field of view"),
        Feature("published.circularity", "1", 1, 42, "4 pi area / perimeter^2 of the largest body"),
        Feature("published.elongation", "ratio", 1, 43, "major over minor axis of the largest body"),
        Feature("published.mean_weight", "1", 1, 44, "mean weight over the field of view, maximum 1"),
        Feature("published.roughness", "1", 1, 45, "variance around a local mean over variance around the mean"),
        Feature("published.max_overlap_correlation", "1", 1, 46, "highest correlation with a footprint that overlaps"),
    ),
    frozenset({"footprints"}),
    _compute,
    default=False,
)

GROUPS = (traces.GROUP, GROUP)
ACTSORT46 = tuple(feature.name for group in GROUPS for feature in group.features)  # in published order, 1 to 46
