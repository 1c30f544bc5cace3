"""A small simulated two-photon movie with known truth: what the real pipelines are run on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FPS = 10.0
DIAMETER = 9


@dataclass(frozen=True)
class Movie:
    """Frames and what is in them.

    Attributes
    ----------
    frames
        ``(n_frames, Ly, Lx)`` int16.
    neurons
        ``(n_neurons, Ly, Lx)`` bool: where the neurons are.
    activity
        ``(n_neurons, n_frames)`` float32.
    """

    frames: NDArray[np.int16]
    neurons: NDArray[np.bool_]
    activity: NDArray[np.float32]


def make(seed: int = 0, fov: tuple[int, int] = (112, 144), n_frames: int = 500, n_neurons: int = 60, n_others: int = 70) -> Movie:
    """Neurons (rings with fast rises and slow decays), and what detection takes for neurons: pieces of dendrite, boutons, neuropil.

    The field of view is not square, and the picture moves by a pixel or two, as registration expects.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: fov[0], : fov[1]].astype(float)
    centres = _apart(rng, fov, n_neurons)
    radius = DIAMETER / 2
    shapes, activity = [], np.zeros((n_neurons + n_others, n_frames))
    for i, (cy, cx) in enumerate(centres):
        distance = np.hypot(y - cy, x - cx)
        shapes.append((distance < radius) * np.where(distance < 0.45 * radius, 0.6, 1.0))
        activity[i] = _calcium(rng, n_frames, rate=0.25, decay=0.8)
    for i in range(n_neurons, n_neurons + n_others):
        cy, cx = rng.uniform(4, fov[0] - 4), rng.uniform(4, fov[1] - 4)
        angle, kind = rng.uniform(0, np.pi), i % 3
        along, across = (y - cy) * np.sin(angle) + (x - cx) * np.cos(angle), (y - cy) * np.cos(angle) - (x - cx) * np.sin(angle)
        if kind == 0:  # a piece of dendrite
            shapes.append((np.abs(along) < 11) * (np.abs(across) < 1.1) * 0.9)
            activity[i] = _calcium(rng, n_frames, rate=0.2, decay=0.8)
        elif kind == 1:  # a bouton
            shapes.append((np.hypot(along, across) < 1.9) * 1.0)
            activity[i] = _calcium(rng, n_frames, rate=0.4, decay=0.4)
        else:  # a patch of neuropil: wide and slow
            shapes.append(0.35 * np.exp(-(along**2 + 2 * across**2) / 50))
            activity[i] = _slow(rng, n_frames)
    sources = np.array(shapes)
    baseline = (
        400 + 120 * np.exp(-((y - fov[0] / 2) ** 2 + (x - fov[1] / 2) ** 2) / (0.3 * fov[0] * fov[1])) + 150 * sources[:n_neurons].sum(0)
    )
    frames = baseline + 260 * np.tensordot(activity.T, sources, 1) + 40 * _slow(rng, n_frames)[:, None, None]
    frames += rng.normal(0, 28, frames.shape)
    for t, (dy, dx) in enumerate(rng.integers(-1, 2, (n_frames, 2))):
        frames[t] = np.roll(frames[t], (dy, dx), (0, 1))
    return Movie(np.clip(frames, 0, 30000).astype(np.int16), sources[:n_neurons] > 0.3, activity[:n_neurons].astype(np.float32))


def truth(plane: Path, movie: Movie, stat: Any) -> NDArray[np.int8]:
    """``(n_rois,)``: 1 where a region of interest is a neuron (the best of those that cover a third of it and move with it), else 0.

    Parameters
    ----------
    plane
        The plane folder (for its ``F.npy``).
    movie
        What the pipeline was run on.
    stat
        The plane's regions of interest, as Suite2p saved them.
    """
    traces = np.load(plane / "F.npy")
    best: dict[int, tuple[float, int]] = {}
    for i, roi in enumerate(stat):
        mask = np.zeros(movie.neurons.shape[1:], bool)
        core = roi["lam"] > 0.2 * roi["lam"].max()
        mask[roi["ypix"][core], roi["xpix"][core]] = True
        shared, union = (movie.neurons & mask).sum((1, 2)), (movie.neurons | mask).sum((1, 2))
        neuron = int(np.argmax(shared / union))
        overlap = float(shared[neuron] / union[neuron])
        alike = np.corrcoef(traces[i], movie.activity[neuron])[0, 1]
        if overlap >= 0.33 and alike > 0.3 and overlap > best.get(neuron, (0.0, -1))[0]:
            best[neuron] = (overlap, i)
    out = np.zeros(len(stat), np.int8)
    out[[i for _, i in best.values()]] = 1
    return out


def balanced(decided: NDArray[Any], truth: NDArray[np.int8]) -> float:
    """Balanced accuracy of decisions."""
    return float((np.mean(decided[truth == 1] == 1) + np.mean(decided[truth == 0] == 0)) / 2)


def _apart(rng: np.random.Generator, fov: tuple[int, int], n: int) -> list[tuple[float, float]]:
    """Places that do not overlap much; fewer than `n` never, closer together then."""
    places: list[tuple[float, float]] = []
    least = DIAMETER * 1.05
    while len(places) < n:
        for _ in range(200):
            place = (rng.uniform(7, fov[0] - 7), rng.uniform(7, fov[1] - 7))
            if all(np.hypot(place[0] - a, place[1] - b) > least for a, b in places):
                places.append(place)
                break
        else:
            least *= 0.9
    return places


def _calcium(rng: np.random.Generator, n_frames: int, rate: float, decay: float) -> NDArray[np.float64]:
    """Spikes per second at `rate`, each with an exponential decay of `decay` seconds."""
    events = rng.poisson(rate / FPS, n_frames) * rng.uniform(0.6, 1.6, n_frames)
    kernel = np.exp(-np.arange(int(6 * decay * FPS)) / (decay * FPS))
    return np.convolve(events, kernel)[:n_frames]


def _slow(rng: np.random.Generator, n_frames: int) -> NDArray[np.float64]:
    """Smooth noise of mean 0 and spread 1, over some seconds."""
    kernel = np.hanning(41)
    out = np.convolve(rng.normal(size=n_frames + 40), kernel, "valid")
    return (out - out.mean()) / out.std()
