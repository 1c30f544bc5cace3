"""Recordings with known truth, for demonstrations and tests: what extraction toolkits find, cells and not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from actsort_core.model import Prior, Recording, as_footprints

KINDS = ("cell", "dendrite", "patch", "speckle", "fragment")


def simulate(
    n_cells: int = 160,
    share: float = 0.5,
    fov: tuple[int, ...] = (120, 160),
    n_frames: int = 900,
    fps: float = 15.0,
    seed: int = 0,
    name: str = "simulated",
) -> tuple[Recording, NDArray[np.int8]]:
    """Candidates as an extraction toolkit would give them, with the truth about each.

    Cells are round, with fast rises and exponential decays. The rest are the usual mistakes: pieces of dendrite (long and
    thin), patches of neuropil (wide, slow), speckles (few pixels, noise) and fragments of a cell that is there already. The
    prior is a plain threshold on noise, right about three times in four.

    Parameters
    ----------
    n_cells
        Number of candidates.
    share
        Share of them that are cells.
    fov
        Field of view, pixels; two or three dimensions.
    n_frames, fps
        Length and rate of the traces.
    seed
        Same seed, same recording.
    name
        Name of the recording.

    Returns
    -------
    recording, truth
        `truth` is ``(n_cells,)`` int8: 1 cell, 0 not.
    """
    rng = np.random.default_rng(seed)
    n_true = round(share * n_cells)
    kinds = np.array(["cell"] * n_true + list(rng.choice(KINDS[1:], n_cells - n_true)), "<U8")
    edge = np.minimum(4, np.array(fov) / 2)
    columns, traces, centres = [], np.zeros((n_cells, n_frames), np.float32), np.zeros((n_cells, len(fov)))
    for i, kind in enumerate(kinds):
        parent = int(rng.integers(n_true)) if kind == "fragment" and n_true else None
        centres[i] = centres[parent] + rng.normal(0, 2, len(fov)) if parent is not None else rng.uniform(edge, np.array(fov) - edge)
        columns.append(_footprint(str(kind), centres[i], fov, rng))
        traces[i] = _trace(str(kind), n_frames, fps, rng)
        if parent is not None:
            traces[i] += rng.uniform(0.3, 0.8) * traces[parent]
    order = rng.permutation(n_cells)
    pixels = int(np.prod(fov))
    footprints = as_footprints(sp.hstack([columns[i] for i in order], "csc") if n_cells else sp.csc_matrix((pixels, 0)), pixels)
    traces, truth = traces[order], (kinds[order] == "cell").astype(np.int8)
    noise = np.median(np.abs(np.diff(traces, axis=1)), axis=1) if n_cells and n_frames > 1 else np.zeros(n_cells)
    peak = traces.max(axis=1, initial=0) / np.maximum(noise, 1e-6)
    accepted = peak > np.median(peak) if n_cells else np.zeros(0, bool)
    prior = Prior(np.where(accepted, 1, -1).astype(np.int8), np.full(n_cells, np.nan))
    image = np.asarray(footprints.max(axis=1).todense(), np.float32).reshape(fov) if n_cells else np.zeros(fov, np.float32)
    image += rng.normal(0, 0.02, fov).astype(np.float32)
    recording = Recording(
        name, Path(name), "simulated", tuple(fov), footprints, traces, "simulated", fps, prior, images={"mean": image}, info={"seed": seed}
    )
    return recording, truth


def _footprint(kind: str, centre: NDArray[np.float64], fov: tuple[int, ...], rng: np.random.Generator) -> sp.csc_matrix:
    """One column, ``(n_pixels, 1)``: a Gaussian of the shape the kind has, cut off below a tenth."""
    width = {"cell": (3.0, 3.0), "dendrite": (1.0, 9.0), "patch": (9.0, 7.0), "speckle": (0.8, 0.8), "fragment": (1.5, 3.0)}[kind]
    angle = rng.uniform(0, np.pi)
    grid = np.meshgrid(*[np.arange(size) - c for size, c in zip(fov, centre, strict=True)], indexing="ij")
    along = np.cos(angle) * grid[0] + np.sin(angle) * grid[1]
    across = -np.sin(angle) * grid[0] + np.cos(angle) * grid[1]
    scale = rng.lognormal(0, 0.15)
    squares = (across / (width[0] * scale)) ** 2 + (along / (width[1] * scale)) ** 2
    squares += sum((g / 2.0) ** 2 for g in grid[2:])
    weights = np.exp(-squares / 2) * rng.lognormal(0, 0.3 if kind == "speckle" else 0.1, fov)
    weights[weights < 0.1 * weights.max()] = 0
    return sp.csc_matrix(weights.reshape(-1, 1).astype(np.float32))


def _trace(kind: str, n_frames: int, fps: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Fluorescence over time, ``(n_frames,)``, noise of deviation 1."""
    noise = rng.normal(0, 1, n_frames)
    if kind == "speckle":
        return (noise + 0.5 * rng.standard_t(3, n_frames)).astype(np.float32)
    slow = np.convolve(rng.normal(0, 1, n_frames), np.ones(max(1, round(4 * fps))) / np.sqrt(4 * fps), "same")[:n_frames]
    spikes = (rng.random(n_frames) < {"cell": 0.1, "dendrite": 0.08, "patch": 0.0, "fragment": 0.05}[kind] / fps) * rng.lognormal(
        0, 0.4, n_frames
    )
    kernel = np.exp(-np.arange(max(2, round(3 * fps))) / (0.7 * fps))
    events = np.convolve(spikes, kernel)[:n_frames] * {"cell": 8.0, "dendrite": 5.0, "patch": 0.0, "fragment": 3.0}[kind]
    return (noise + events * rng.lognormal(0, 0.3) + slow * (3.0 if kind == "patch" else 0.5)).astype(np.float32)
