"""One candidate as bytes: all the page draws of it, in one pack (docs/page-api.md)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actsort_core.clips import Clip
from actsort_core.errors import FormatError
from actsort_core.events import find_events
from actsort_core.model import Prior
from actsort_core.remarks import Note
from actsort_core.web import pack
from actsort_core.web.scene import SPARK, Scene

FULL = 12_000  # frames up to which a trace travels as it is
BINS = 4_000  # of a longer one, each with its lowest and highest value
NEIGHBOUR_BINS = 1_000
_OFTEN = 50_000  # frames from which on correlations take every other frame, and so on


def envelope(trace: NDArray[np.float32], bins: int) -> NDArray[np.float32]:
    """Lowest and highest value in each of at most `bins` equal stretches, ``(bins, 2)``; NaN where a stretch has none."""
    if not trace.size:
        return np.zeros((0, 2), np.float32)
    edges = np.linspace(0, trace.size, min(bins, trace.size) + 1).astype(np.int64)[:-1]
    return np.stack([np.fmin.reduceat(trace, edges), np.fmax.reduceat(trace, edges)], axis=1)


def correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float | None:
    """Pearson's, over the frames that are finite in both; None where it is not defined."""
    step = max(1, a.size // _OFTEN)
    a, b = a[::step].astype(np.float64), b[::step].astype(np.float64)
    good = np.isfinite(a) & np.isfinite(b)
    if good.sum() < 3:
        return None
    a, b = a[good] - a[good].mean(), b[good] - b[good].mean()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return pack.finite(float(a @ b) / scale, 3) if scale > 0 else None


def candidate(scene: Scene, index: int, prior: Prior, clip: Callable[[], Clip | None], notes: tuple[Note, ...], number: int) -> bytes:
    """The pack of ``api/candidate``.

    Parameters
    ----------
    scene, index
        Whose.
    prior
        The toolkit's verdicts as they were first seen.
    clip
        Reads its clip. One that is damaged is left out: a person can decide without.
    notes
        What people wrote about it.
    number
        Of the recording.
    """
    recording, trace = scene.recording, scene.trace(index)
    low, size = scene.window(index)
    pixels, weights = scene.footprint(index)
    shown = None
    with contextlib.suppress(FormatError):
        shown = clip()
    found = find_events(trace[None]).frames[0] if shown is None else shown.events
    others, arrays_of_others = [], []
    for other, overlap in scene.neighbours(index):
        its_trace = scene.trace(other)
        others.append({"pos": scene.start + other, "overlap": round(overlap, 3), "correlation": correlation(trace, its_trace)})
        arrays_of_others.append(envelope(its_trace, NEIGHBOUR_BINS))
    whole = trace.size <= FULL
    header: dict[str, Any] = {
        "pos": scene.start + index,
        "recording": number,
        "index": index,
        "fingerprint": recording.candidate_fingerprints[index],
        "low": low,
        "size": size,
        "centre": [round(float(v), 2) for v in scene.centres[index]],
        "prior": {"verdict": int(prior.verdict[index]), "probability": pack.finite(float(prior.probability[index]), 4)},
        "metrics": scene.metrics(index),
        "neighbours": others,
        "events": [int(frame) for frame in found if frame >= 0],
        "trace": "full" if whole else "envelope",
        "notes": [{"annotator": note.annotator, "time": note.time, "text": note.text} for note in notes],
        "clip": None if shown is None else {"step": shown.step, "low": list(shown.low), "bin": shown.bin},
    }
    bins = arrays_of_others[0].shape[0] if arrays_of_others else 0
    arrays: dict[str, NDArray[Any]] = {
        "pixels": pixels.astype(np.uint32),
        "weights": np.rint(255 * weights).astype(np.uint8),
        "trace": trace if whole else envelope(trace, BINS),
        "neighbour_traces": np.stack(arrays_of_others) if others else np.zeros((0, bins, 2), np.float32),
    }
    if shown is not None:
        arrays |= {"clip": shown.levels, "clip_mean": shown.mean, "clip_max": shown.max, "clip_trace": shown.trace}
    return pack.encode(header, {name: _as_sent(array) for name, array in arrays.items()})


def _as_sent(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(np.float32, copy=False) if array.dtype.kind == "f" else array


def stretch(scene: Scene, index: int, start: int, stop: int, bins: int) -> bytes:
    """The pack of ``api/trace``: frames `start` to `stop`."""
    part = scene.trace(index)[start:stop]
    return pack.encode({"start": start, "stop": start + part.size}, {"trace": part if part.size <= 2 * bins else envelope(part, bins)})


def image(scene: Scene, name: str) -> bytes:
    """The pack of ``api/image``: 16 bits a pixel, so that the page can change the contrast."""
    values = scene.image(name)
    good = values[np.isfinite(values)]
    low, high = (float(good.min()), float(good.max())) if good.size else (0.0, 1.0)
    span = max(high - low, 1e-12)
    levels = np.rint(65_535 * (np.nan_to_num(values.astype(np.float64), nan=low) - low) / span).astype(np.uint16)
    dark, bright = (int(v) for v in np.quantile(levels, [0.01, 0.998])) if levels.size else (0, 65_535)
    return pack.encode({"min": low, "max": high, "dark": dark, "bright": max(bright, dark + 1)}, {"image": levels})


def empty_thumbs(n: int, size: int) -> dict[str, NDArray[np.uint8]]:
    """The arrays of ``api/thumbs``, in the order of `Scene.thumbs`."""
    shapes = {"footprints": (n, size, size), "images": (n, size, size), "traces": (n, SPARK)}
    return {name: np.zeros(shape, np.uint8) for name, shape in shapes.items()}
