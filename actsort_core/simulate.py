"""Recordings with known truth, for demonstrations and tests: what extraction toolkits find, cells and not."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from actsort_core.atomic import commit, staged
from actsort_core.errors import UsageError
from actsort_core.model import Prior, Recording, as_footprints

KINDS = ("cell", "dendrite", "patch", "speckle", "fragment")
MOVIE_KINDS = ("cell", "contaminated", "motion", "duplicate", "fragment", "dendrite", "patch", "speckle")
_LEVEL = 300.0  # counts of the empty background
_FRAMES_TOGETHER = 1 << 24  # pixels of movie made at once: 64 MB


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


@dataclass(frozen=True, eq=False)
class MadeMovie:
    """A movie made frame by frame from what is in it: any stretch can be read, always the same; a `Movie`.

    Attributes
    ----------
    path
        Where it was written, or a name.
    shape
        ``(n_frames, *fov)``.
    still
        Image of all that does not change, of shape `fov` float32, counts.
    sources
        Sparse ``(n_pixels, n_sources)`` CSC float32: what each source of light looks like.
    activity
        ``(n_sources, n_frames)`` float32: how bright it is, counts.
    shift
        ``(n_frames, ndim)`` float32: how far each frame is displaced, pixels (residual motion).
    seed
        Of the noise.
    """

    path: Path
    shape: tuple[int, ...]
    still: NDArray[np.float32]
    sources: sp.csc_matrix
    activity: NDArray[np.float32]
    shift: NDArray[np.float32]
    seed: int

    def read(self, start: int, stop: int) -> NDArray[np.int16]:
        """Frames ``start`` to ``stop`` as ``(stop - start, *fov)`` int16, counts with shot noise."""
        from scipy import ndimage

        light = (self.sources @ self.activity[:, start:stop]).T.reshape(-1, *self.shape[1:]) + self.still
        out = np.empty(light.shape, np.int16)
        for k, frame in enumerate(light):
            shift = self.shift[start + k]
            if shift.any():
                frame = ndimage.shift(frame, shift, order=1, mode="nearest")
            noise = np.random.default_rng([self.seed, start + k]).standard_normal(frame.shape, np.float32)
            np.rint(np.clip(frame + np.sqrt(frame) * noise, 0, 32_767), out=frame)
            out[k] = frame
        return out


@dataclass(frozen=True, eq=False)
class SimulatedMovie:
    """A recording with its movie, and what is known about every candidate.

    Attributes
    ----------
    recording
        Candidates with traces taken from the movie; ``movie_path`` where it was written.
    movie
        The movie itself.
    truth
        ``(n_cells,)`` int8: 1 cell, 0 not.
    kinds
        ``(n_cells,)`` of `MOVIE_KINDS`.
    parent
        ``(n_cells,)`` int64: for a duplicate or fragment, the candidate it is one of; for a contaminated one, the cell whose light
        it carries; else -1.
    contamination
        ``(n_cells,)`` float32: share of the light of all sources inside the footprint, while its trace is above half its maximum,
        that comes from another source than its own (1 for what has none); NaN where no light falls on it then.
    """

    recording: Recording
    movie: MadeMovie
    truth: NDArray[np.int8]
    kinds: NDArray[np.str_]
    parent: NDArray[np.int64]
    contamination: NDArray[np.float32]


def simulate_movie(
    n_cells: int = 160,
    share: float = 0.5,
    fov: tuple[int, ...] = (120, 160),
    n_frames: int = 900,
    fps: float = 15.0,
    seed: int = 0,
    name: str = "simulated",
    path: Path | None = None,
) -> SimulatedMovie:
    """A movie with known cells, contamination, residual motion and duplicates, and the candidates found in it.

    The movie is a still background with bright spots, slow neuropil, cells and dendrites with calcium transients, shot noise, and
    a few bouts in which whole frames are displaced by up to three pixels. Not cells are: contaminated footprints beside a cell
    (only its light falls on them), footprints on the flank of a still spot (they light up when it moves), duplicates (a cell's
    footprint again, moved by a pixel), fragments (half of it), pieces of dendrite, patches of neuropil and speckles.

    Parameters
    ----------
    n_cells
        Number of candidates.
    share
        Share of them that are cells.
    fov
        Field of view, pixels; two or three dimensions (motion is along the first two).
    n_frames, fps
        Length and rate of the movie.
    seed
        Same seed, same movie.
    name
        Name of the recording.
    path
        Where to write the movie: ``.npy``, or anything else as plain int16 (what Suite2p calls ``data.bin``); None: nowhere, it
        is made anew whenever it is read.

    Raises
    ------
    UsageError
        There is nothing to simulate: no frames, or no pixels.
    """
    if n_frames < 1 or min(fov) < 1:
        raise UsageError(f"A movie of {n_frames} frames in a field of view of {fov} has nothing in it.")
    rng = np.random.default_rng(seed)
    n_true = round(share * n_cells)
    kinds = np.array(["cell"] * n_true + list(rng.choice(MOVIE_KINDS[1:], n_cells - n_true)), "<U12")
    if not n_true:
        kinds[np.isin(kinds, ("contaminated", "duplicate", "fragment"))] = "speckle"  # there is no cell they could belong to
    parent = np.where(np.isin(kinds, ("contaminated", "duplicate", "fragment")), rng.integers(max(n_true, 1), size=n_cells), -1)
    size = np.array(fov, float)
    edge = np.minimum(6, size / 2)
    centre = rng.uniform(edge, size - edge, (n_cells, len(fov)))
    footprints: list[sp.csc_matrix] = []
    lights: list[tuple[sp.csc_matrix, str]] = []
    spots: list[sp.csc_matrix] = []
    for i, kind in enumerate(kinds):
        if kind == "contaminated":
            angle = rng.uniform(0, 2 * np.pi)
            centre[i] = centre[parent[i]]
            centre[i, :2] += rng.uniform(4.5, 7.5) * np.array([np.cos(angle), np.sin(angle)])
            centre[i] = np.clip(centre[i], 1, np.maximum(size - 2, 1))
        elif kind in ("duplicate", "fragment"):
            footprints.append(_copy(footprints[parent[i]], kind, fov, rng))
            continue
        width = {"dendrite": (1.0, 9.0), "patch": (7.0, 7.0), "speckle": (0.8, 0.8)}.get(kind, (3.0, 3.0))
        seen = _blob(centre[i], width, fov, rng)
        if kind in ("cell", "dendrite", "patch"):
            lights.append((seen, kind))
        if kind == "motion":  # the toolkit finds the flank of a spot that does not change
            beside = centre[i].copy()
            beside[:2] += rng.choice((-1, 1), 2) * rng.uniform(2.0, 3.5, 2)
            spots.append(_blob(beside, (2.0, 2.0), fov, rng))
        footprints.append(seen)
    movie = _made(lights, spots, tuple(fov), n_frames, fps, seed, rng, path or Path(name))
    own = np.full(n_cells, -1)
    own[np.isin(kinds, ("cell", "dendrite", "patch"))] = np.arange(len(lights))
    copies = np.isin(kinds, ("duplicate", "fragment"))
    own[copies] = own[parent[copies]]

    order = rng.permutation(n_cells)
    place = np.append(np.argsort(order), -1)  # of each candidate after the shuffle; -1 stays
    kinds, own, parent = kinds[order], own[order], place[parent[order]]
    pixels = math.prod(fov)
    matrix = as_footprints(sp.hstack([footprints[i] for i in order], "csc") if n_cells else sp.csc_matrix((pixels, 0)), pixels)
    traces, mean = _extracted(movie, matrix, path)
    noise = np.median(np.abs(np.diff(traces, axis=1)), axis=1) if n_cells and n_frames > 1 else np.zeros(n_cells)
    peak = traces.max(axis=1, initial=0) / np.maximum(noise, 1e-6)
    accepted = peak > np.median(peak) if n_cells else np.zeros(0, bool)
    prior = Prior(np.where(accepted, 1, -1).astype(np.int8), np.full(n_cells, np.nan))
    recording = Recording(
        name, Path(name), "simulated", tuple(fov), matrix, traces, "F - median", fps, prior, images={"mean": mean}, movie_path=path,
        info={"seed": seed},
    )  # fmt: skip
    truth = (kinds == "cell").astype(np.int8)
    return SimulatedMovie(recording, movie, truth, kinds, parent, _contamination(movie, matrix, traces, own))


def _blob(centre: NDArray[np.float64], width: tuple[float, float], fov: tuple[int, ...], rng: np.random.Generator) -> sp.csc_matrix:
    """One column, ``(n_pixels, 1)``, maximum 1: a rough Gaussian with these deviations, in any direction, cut off below a tenth."""
    angle, scale = rng.uniform(0, np.pi), rng.lognormal(0, 0.15)
    reach = math.ceil(2.2 * scale * max(width)) + 1
    at = [np.arange(max(0, round(c) - reach), min(k, round(c) + reach + 1)) for c, k in zip(centre, fov, strict=True)]
    grid = np.meshgrid(*[a - c for a, c in zip(at, centre, strict=True)], indexing="ij")
    along = np.cos(angle) * grid[0] + np.sin(angle) * grid[1]
    across = -np.sin(angle) * grid[0] + np.cos(angle) * grid[1]
    squares = (across / (width[0] * scale)) ** 2 + (along / (width[1] * scale)) ** 2 + sum((g / 2.0) ** 2 for g in grid[2:])
    weights = np.exp(-squares / 2) * rng.lognormal(0, 0.1, squares.shape)
    weights /= weights.max()
    weights[weights < 0.1] = 0
    pixel = np.ravel_multi_index(np.meshgrid(*at, indexing="ij"), fov)[weights > 0]
    return sp.csc_matrix((weights[weights > 0].astype(np.float32), (pixel, np.zeros(pixel.size, int))), shape=(math.prod(fov), 1))


def _copy(column: sp.csc_matrix, kind: str, fov: tuple[int, ...], rng: np.random.Generator) -> sp.csc_matrix:
    """A duplicate (moved by a pixel, rough) or fragment (one half) of a footprint."""
    at = np.stack(np.unravel_index(column.indices, fov), axis=1)
    weights = column.data * rng.lognormal(0, 0.1, column.nnz).astype(np.float32)
    if kind == "duplicate":
        at = np.clip(at + np.append(rng.integers(-1, 2, 2), np.zeros(len(fov) - 2, int)), 0, np.array(fov) - 1)
    else:
        direction = rng.normal(size=2)
        side = (at[:, :2] - at[:, :2].mean(axis=0)) @ direction
        kept = side >= np.quantile(side, 0.5)
        at, weights = at[kept], weights[kept]
    pixel = np.ravel_multi_index(tuple(at.T), fov)
    return sp.csc_matrix((weights, (pixel, np.zeros(pixel.size, int))), shape=column.shape)


def _made(
    lights: list[tuple[sp.csc_matrix, str]],
    spots: list[sp.csc_matrix],
    fov: tuple[int, ...],
    n_frames: int,
    fps: float,
    seed: int,
    rng: np.random.Generator,
    path: Path,
) -> MadeMovie:
    """The movie of these lights and still spots."""
    from scipy import ndimage

    pixels = math.prod(fov)
    smooth = ndimage.gaussian_filter(rng.normal(size=fov), 8, mode="wrap")
    still = _LEVEL * (1 + 0.15 * smooth / max(float(np.abs(smooth).max()), 1e-9))
    for spot in spots:
        still += 2.0 * _LEVEL * np.asarray(spot.todense()).reshape(fov)
    brightness = {"cell": 90.0, "dendrite": 70.0, "patch": 25.0}
    activity = np.zeros((len(lights), n_frames), np.float32)
    for k, (_, kind) in enumerate(lights):
        activity[k] = brightness[kind] * rng.lognormal(0, 0.4) * _calcium(kind, n_frames, fps, rng)
    shift = np.zeros((n_frames, len(fov)), np.float32)
    for start in rng.integers(n_frames, size=max(1, n_frames // 150)):
        length = int(rng.integers(3, 12))
        bump = np.hanning(length + 2)[1:-1, None] * rng.uniform(1, 3) * _direction(rng)
        shift[start : start + length, :2] = bump[: n_frames - start]
    sources = sp.csc_matrix(sp.hstack([light for light, _ in lights], "csc") if lights else sp.csc_matrix((pixels, 0), dtype=np.float32))
    return MadeMovie(path, (n_frames, *fov), still.astype(np.float32), sources, activity, shift, seed)


def _direction(rng: np.random.Generator) -> NDArray[np.float64]:
    angle = rng.uniform(0, 2 * np.pi)
    return np.array([np.cos(angle), np.sin(angle)])


def _calcium(kind: str, n_frames: int, fps: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Transients of height about 1 (at least two of them), or the slow waves of neuropil, ``(n_frames,)``."""
    if kind == "patch":
        width = max(1, round(4 * fps))
        slow = np.convolve(rng.normal(size=n_frames + 2 * width), np.ones(width) / math.sqrt(width), "same")[width:-width]
        return np.asarray(np.maximum(slow, 0))
    spikes = (rng.random(n_frames) < 0.08 / fps).astype(float)
    spikes[rng.integers(n_frames, size=2)] = 1
    spikes *= rng.lognormal(0, 0.4, n_frames)
    t = np.arange(max(2, round(3 * fps))) / fps
    kernel = np.exp(-t / 0.7) - np.exp(-t / 0.08)
    return np.convolve(spikes, kernel / kernel.max())[:n_frames]


def _extracted(movie: MadeMovie, footprints: sp.csc_matrix, path: Path | None) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Traces (footprint-weighted mean minus its median) and mean image of a movie, which is written on the way where `path` is given."""
    weights = footprints.multiply(1 / np.maximum(np.asarray(footprints.sum(axis=0)), 1e-9)).T.tocsr().astype(np.float32)
    traces = np.zeros((footprints.shape[1], movie.shape[0]), np.float32)
    mean = np.zeros(math.prod(movie.shape[1:]))
    step = max(1, _FRAMES_TOGETHER // mean.size)

    def pass_over(handle: Any = None) -> None:
        for start in range(0, movie.shape[0], step):
            frames = movie.read(start, min(start + step, movie.shape[0]))
            flat = frames.reshape(len(frames), -1)
            traces[:, start : start + step] = weights @ flat.T.astype(np.float32)
            mean[:] += flat.sum(axis=0, dtype=np.int64)
            if handle is not None:
                handle.write(frames.astype("<i2").tobytes())

    if path is None:
        pass_over()
    else:
        with staged(path) as tmp:
            with tmp.open("wb") as handle:
                if path.suffix == ".npy":
                    np.lib.format.write_array_header_1_0(handle, {"descr": "<i2", "fortran_order": False, "shape": movie.shape})
                pass_over(handle)
            commit(tmp, path)
    traces -= np.median(traces, axis=1, keepdims=True)
    return traces, (mean / movie.shape[0]).astype(np.float32).reshape(movie.shape[1:])


def _contamination(movie: MadeMovie, footprints: sp.csc_matrix, traces: NDArray[np.float32], own: NDArray[np.int64]) -> NDArray[np.float32]:
    """`SimulatedMovie.contamination`; `own` is the source of each candidate, -1 for none."""
    falls = (footprints.T @ movie.sources).tocsr()
    out = np.full(len(own), np.nan, np.float32)
    for i in range(len(own)):
        which, how = falls.indices[falls.indptr[i] : falls.indptr[i + 1]], falls.data[falls.indptr[i] : falls.indptr[i + 1]]
        light = how @ movie.activity[which][:, traces[i] > traces[i].max() / 2]
        mine = how[which == own[i]] @ movie.activity[which[which == own[i]]][:, traces[i] > traces[i].max() / 2]
        if light.sum() > 0:
            out[i] = 1 - mine.sum() / light.sum()
    return out
