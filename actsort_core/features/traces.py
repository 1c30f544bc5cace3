"""Evidence from the traces: is there calcium in it? No value depends on the unit or offset of a trace."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from actsort_core.features import Feature, FeatureGroup
from actsort_core.features._shared import Features, Floats, finite_or_nan, missing, row_quantile, usable_blocks
from actsort_core.model import Recording, TraceArray

EVENT_LEVEL = 3.0  # noise units above the median, on the mean of three frames
SLOW_BAND, FAST_BAND = 0.05, 0.5  # of the Nyquist frequency
MAD_TO_SD = 1.4826  # median absolute deviation -> standard deviation of a normal distribution

TRACE_FEATURES = (
    "log_snr",
    "trace_skewness",
    "rise_asymmetry",
    "slow_power",
    "fast_power",
    "log_event_rate",
    "log_event_width",
)


def trace_features(traces: TraceArray, fps: float | None = None) -> Features:
    """Describe the activity of each candidate.

    Frames that are finite in no candidate (lost frames) are left out. A candidate with any other frame that is not
    finite, with a flat trace, or with fewer than `MIN_FRAMES` frames gets NaN.

    Parameters
    ----------
    traces : (n_cells, n_frames) array
        Raw, neuropil-corrected fluorescence, any unit and offset. Read in blocks of rows: a memory map will do.
    fps : float, optional
        Frames per second: durations are then in seconds instead of frames. Changes nothing after z-scoring.

    Returns
    -------
    dict of (n_cells,) float32 arrays, in order of `TRACE_FEATURES`
        log_snr : ln of (99.5 % quantile - median) / noise; noise = 1.4826 median |difference of frames| / sqrt 2 (FEATURES 1).
            Noise is at least a thousandth of the peak and of the standard deviation: a denoised trace has none.
        trace_skewness : third standardised moment; transients point up.
        rise_asymmetry : E[s^3] / E[s^2]^1.5, s = change over three frames of the mean of three frames; calcium rises
            faster than it falls, motion and flicker do not.
        slow_power, fast_power : shares of the spectrum (without zero frequency) up to 0.05 and above 0.5 of the
            Nyquist frequency (FEATURES 30, 32).
        log_event_rate : ln of (events + 1) per frame [or second]; an event is a run of frames in which the mean of three
            frames is above median + 3 noise / sqrt 3 (FEATURES 12-29, the events at 3 x noise).
        log_event_width : ln of (frames in events + 1) / (events + 1) [frames or seconds] (FEATURES 8, as a mean).
    """
    n_cells = traces.shape[0]
    out = missing(TRACE_FEATURES, n_cells)
    for rows, block in usable_blocks(traces):
        with np.errstate(divide="ignore", invalid="ignore"):
            described = _describe_traces(block, 1.0 if fps is None else float(fps))
        for name, values in described.items():
            out[name][rows] = values
    return finite_or_nan(out)


def _describe_traces(block: NDArray[np.float32], fps: float) -> dict[str, Floats]:
    """`trace_features` of rows that are finite and not flat."""
    n_frames = block.shape[1]
    noise = MAD_TO_SD / np.sqrt(2) * row_quantile(np.abs(np.diff(block, axis=1)), 0.5)
    median, high = row_quantile(block, 0.5), row_quantile(block, 0.995)
    peak = high - median
    noise = np.maximum(noise, 1e-3 * np.maximum(peak, block.std(axis=1)))  # a denoised trace has none

    smooth = (block[:, 2:] + block[:, 1:-1] + block[:, :-2]) / 3
    step = (smooth[:, 3:] - smooth[:, :-3]) / noise[:, None]
    active = smooth > (median + EVENT_LEVEL / np.sqrt(3) * noise)[:, None]
    events = active[:, 0] + (active[:, 1:] & ~active[:, :-1]).sum(axis=1)
    frames_active = active.sum(axis=1)

    centred = block - block.mean(axis=1, keepdims=True)
    z = centred / centred.std(axis=1, keepdims=True)
    spectrum = fft.rfft(z, axis=1)[:, 1:]
    power = spectrum.real**2 + spectrum.imag**2
    share = np.arange(1, power.shape[1] + 1) / power.shape[1]
    total = power.sum(axis=1)
    return {
        "log_snr": np.log(np.maximum(peak / noise, 1e-3)),
        "trace_skewness": np.einsum("it,it,it->i", z, z, z) / n_frames,
        "rise_asymmetry": (step * step * step).mean(axis=1) / (step * step).mean(axis=1) ** 1.5,
        "slow_power": power[:, share <= SLOW_BAND].sum(axis=1) / total,
        "fast_power": power[:, share > FAST_BAND].sum(axis=1) / total,
        "log_event_rate": np.log((events + 1) / n_frames * fps),
        "log_event_width": np.log((frames_active + 1) / (events + 1) / fps),
    }


def _compute(recording: Recording) -> Features:
    found = trace_features(recording.traces, recording.fps)
    return {f"trace.{name}": values for name, values in found.items()}


GROUP = FeatureGroup(
    "trace",
    (
        Feature("trace.log_snr", "log ratio", 1, None, "peak over noise (published 1 is the plain ratio)"),
        Feature("trace.trace_skewness", "1", 1, None, "skewness: transients point up"),
        Feature("trace.rise_asymmetry", "1", 1, None, "skewness of the change over three frames: calcium rises faster than it falls"),
        Feature("trace.slow_power", "share", 1, None, "spectral power up to .05 of Nyquist (published 30, without zero frequency)"),
        Feature("trace.fast_power", "share", 1, None, "spectral power above .5 of Nyquist (published 32, without zero frequency)"),
        Feature("trace.log_event_rate", "log 1/s", 1, None, "events above three noise units"),
        Feature("trace.log_event_width", "log s", 1, None, "mean duration of an event"),
    ),
    frozenset({"traces"}),
    _compute,
)
