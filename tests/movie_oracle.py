"""Slow versions of the movie features, one candidate and one frame at a time, in float64, from their definitions.

The definitions are those at the top of `actsort_core.features.movie`; nothing is imported from the project but what its data look like.
`published_epsilon` is the estimate as EXTRACT's public code iterates it, for comparison.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

EVENTS, HALF, MARGIN = 5, 5, 7
QUANTILES = {"p01": 0.01, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p99": 0.99}


def running_median(trace):
    """Over three frames; the first and the last stay."""
    inner = [sorted(trace[t - 1 : t + 2])[1] for t in range(1, len(trace) - 1)]
    return np.array([trace[0], *inner, trace[-1]], float)


def events(trace):
    """Frames of the best events, the highest first."""
    smooth = running_median(np.asarray(trace, float))
    peaks = []
    t = 1
    while t < len(smooth) - 1:
        end = t
        while end < len(smooth) - 1 and smooth[end + 1] == smooth[t]:
            end += 1
        if end < len(smooth) - 1 and smooth[t - 1] < smooth[t] > smooth[end + 1]:
            middle = (t + end) // 2
            if HALF <= middle < len(smooth) - HALF:
                peaks.append(middle)
        t = end + 1
    chosen = []
    for peak in sorted(peaks, key=lambda p: (-smooth[p], p)):
        if len(chosen) < EVENTS and all(abs(peak - other) > 2 * HALF for other in chosen):
            chosen.append(peak)
    return chosen


def near_window(footprint):
    """First and last pixels of the box around what is not zero, seven pixels wider; of one that is too wide, the part around the centre
    of mass; and whether that is so.
    """
    most, out, cut = {2: 95, 3: 41}[footprint.ndim], [], False
    for axis in range(footprint.ndim):
        at = np.nonzero(footprint)[axis]
        first, last = at.min() - MARGIN, at.max() + MARGIN
        if last - first + 1 > most:
            first, cut = round(centre(footprint)[axis]) - most // 2, True
            last = first + most - 1
        out.append((first, last))
    return out, cut


def centre(footprint):
    """Of mass."""
    at = np.nonzero(footprint)
    return [(axis * footprint[at]).sum() / footprint[at].sum() for axis in at]


def window(footprint, others):
    """Slices of the near window widened over the whole boxes of all neighbours whose centre lies in it, and of the near window."""
    near, cut = near_window(footprint)
    wide = list(near)
    for other in others:
        if not cut and all(a <= c <= b for c, (a, b) in zip(centre(other), near, strict=True)):
            boxes = [(at.min(), at.max()) for at in np.nonzero(other)]
            wide = [(min(a, low), max(b, high)) for (a, b), (low, high) in zip(wide, boxes, strict=True)]
    return tuple(
        tuple(slice(max(0, a), min(size, b + 1)) for size, (a, b) in zip(footprint.shape, box, strict=True)) for box in (wide, near)
    )


def normalised(footprint):
    """Maximum 1, weights of a thousandth and less dropped."""
    w = np.where(np.isfinite(footprint) & (footprint > 0), footprint, 0).astype(np.float32)
    w = w / w.max()
    return np.where(w > 1e-3, w, 0).astype(float)


def features(movie, footprint, trace, others=()):
    """All movie features of one candidate by the names after the dot.

    Parameters
    ----------
    movie
        ``(n_frames, *fov)``.
    footprint
        ``(*fov,)``.
    trace
        ``(n_frames,)``.
    others
        Footprints of the other candidates.
    """
    w = normalised(footprint)
    box, near = window(w, [normalised(other) for other in others if other.any()])
    near = tuple(slice(b.start - a.start, b.stop - a.start) for a, b in zip(box, near, strict=True))
    w = w[box]
    frames, t, event = [], [], []
    base = np.median(running_median(np.asarray(trace, float)))
    for k, peak in enumerate(events(trace)):
        for f in range(peak - HALF, peak + HALF + 1):
            frames.append(np.asarray(movie[f], float)[box])
            t.append(trace[f] - base)
            event.append(k)
    return evidence(np.array(frames), w, np.array(t), np.array(event), near)


def evidence(frames, w, t, event, near):
    """The features from frames ``(n, *window)``, footprint, trace without baseline, number of the event of each frame, near window."""
    b = np.zeros(w.shape)
    for pixel in np.ndindex(w.shape):
        _, b[pixel] = np.polyfit(t, frames[(slice(None), *pixel)], 1)
    d = frames - b
    a = sum(max(v, 0) * frame for v, frame in zip(t, d, strict=True)) / sum(max(v, 0) for v in t)
    noise = pixel_noise(frames, w > 0, event)
    return {
        **contamination(d, w, noise),
        "image_correlation": image_correlation(a, w),
        **neighbours(d, a, w, t, event),
        **match(d, w, t),
        **motion(d[(slice(None), *near)], a[near], b[near], w[near], t),
    }


def pixel_noise(frames, body, event):
    """Median over the body's pixels."""
    out = []
    for pixel in zip(*np.nonzero(body), strict=True):
        squares = []
        for k in np.unique(event):
            series = frames[(event == k, *pixel)]
            squares += [(series[i - 1] - 2 * series[i] + series[i + 1]) ** 2 / 6 for i in range(1, len(series) - 1)]
        out.append(math.sqrt(np.mean(squares)))
    return float(np.median(out))


def epsilon_of(above, kappa, alpha):
    """EXTRACT's ``eps_func`` for v = 0 without its steps."""
    density, below = math.exp(-kappa * kappa / 2) / math.sqrt(2 * math.pi), (1 + math.erf(kappa / math.sqrt(2))) / 2
    e0 = 1 - 1 / (density / kappa + below)
    eps = e0 - (1 - (1 - e0) * 0.5 - above) / (0.5 - alpha / math.sqrt(2 * math.pi) * (density / below + kappa))
    return min(0.99, max(0.001, eps))


def kappa_of(eps):
    """EXTRACT's ``kappa_of_epsilon``."""
    return -0.3775 * math.log(max(eps, 0.001)) - 0.0597 * eps + 0.0544


def alpha_of(w):
    """What EXTRACT's estimate needs to know of the footprint, over its body."""
    inside = w[w > 0]
    return 0.05 * inside.mean() * inside.sum() / (inside**2).sum()


def epsilon(frame, w, noise, rounds=(8, 4, 3)):
    """Of one frame without baseline."""
    y, v = frame[w > 0], w[w > 0]
    lean = (1 / (1 + v)) / (1 / (1 + v)).sum()
    alpha, kappa, eps = alpha_of(w), 1.0, math.nan
    x = max(0.0, (v * y).sum() / (v**2).sum())
    for steps in rounds:
        for _ in range(steps):
            r = y - v * x
            below = r < kappa * noise
            if below.any():
                x = max(0.0, x + (v * np.minimum(r, kappa * noise)).sum() / (v[below] ** 2).sum())
        above = lean[y - v * x > 0].sum()
        kappa = kappa_of(epsilon_of(above, kappa, alpha))
        eps = epsilon_of(above, kappa, alpha)
    return eps


def published_epsilon(frame, w, noise):
    """As the public code iterates: thirty steps, the threshold renewed in steps 15, 20 and 23, on all pixels of the window."""
    a, y = w.ravel(), frame.ravel()
    lean = np.where(a > 0, 1 / (1 + a), 0)
    lean /= lean.sum()
    alpha, kappa, eps = alpha_of(w), 1.0, math.nan
    x = max(0.0, a @ y / (a @ a))
    for i in range(1, 31):
        r = y - a * x
        if i in (15, 20, 23):
            above = lean[r > 0].sum()
            kappa = kappa_of(epsilon_of(above, kappa, alpha))
            eps = epsilon_of(above, kappa, alpha)
        pushed = r >= kappa * noise
        if (a[~pushed] ** 2).sum() > 0:
            x = max(0.0, (a[~pushed] @ y[~pushed] + kappa * noise * a[pushed].sum()) / (a[~pushed] ** 2).sum())
    return eps


def hazen(values, q):
    """Quantile as MATLAB has it: the i-th of n sorted values is the (i - .5) / n quantile."""
    values = sorted(values)
    if not values:
        return math.nan
    return float(np.interp(q, (np.arange(len(values)) + 0.5) / len(values), values))


def contamination(d, w, noise):
    """47-50."""
    eps = [epsilon(frame, w, noise) for frame in d]
    return {
        "contamination_mean": float(np.mean(eps)),
        "contamination_min": min(eps),
        "contamination_p10": hazen(eps, 0.1),
        "contamination_p20": hazen(eps, 0.2),
    }


def blurred(w, sigma, reach):
    """By a Gaussian cut off at `reach` pixels along each axis; nothing outside the window."""
    out = w
    kernel = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    for axis in range(w.ndim):
        out = ndimage.correlate1d(out, kernel / kernel.sum(), axis, mode="constant", cval=0.0)
    return out


def image_correlation(a, w):
    """51."""
    smooth = blurred(w, 2.4, 6)
    seen = np.where(smooth > 0.01 * smooth.max(), a, 0)
    return float((seen * w).sum() / math.sqrt((seen**2).sum() * (w**2).sum()))


def neighbours(d, a, w, t, event):
    """52-66."""
    smooth = blurred(w, 4.8, 12)
    z = np.where((smooth > 0.01 * smooth.max()) & (w <= 0.01), np.maximum(a, 0), 0)
    if z.max() > 0:
        z = z / z.max()
    inside = np.array([max(0, (w * frame).sum() / (w**2).sum()) for frame in d])
    outside = np.array([max(0, (z * frame).sum() / (z**2).sum()) if z.any() else 0 for frame in d])
    scaled = t * math.sqrt((inside**2).sum() / (t**2).sum())
    i, o = inside * math.sqrt((w**2).sum()), outside * math.sqrt((z**2).sum())
    runs, last = [], None
    for f in range(len(t)):
        if t[f] > t.max() / 2:
            if last != (event[f], f - 1):
                runs.append([])
            runs[-1].append(f)
            last = (event[f], f)
    out = {}
    for name, extra, total in (
        ("roi_excess", inside - scaled, scaled),
        ("marginal_trace", scaled - outside, scaled),
        ("marginal_fluorescence", i - o, i),
    ):
        ratio = [np.maximum(extra[run], 0).sum() / total[run].sum() for run in runs if total[run].sum() > 0]
        out.update({f"{name}_{key}": hazen(ratio, q) for key, q in QUANTILES.items()})
    return out


def match(d, w, t):
    """67-76."""
    inside = w > 0
    r = []
    for frame in d:
        x, y = w[inside] - w[inside].mean(), frame[inside] - frame[inside].mean()
        r.append((x * y).sum() / math.sqrt((x**2).sum() * (y**2).sum()))
    out = {}
    for k in range(10):
        used = [f for f in range(len(t)) if t[f] > k / 10 * t.max()]
        out[f"frame_match_{10 * k:02d}"] = sum(t[f] * r[f] for f in used) / sum(t[f] for f in used)
    return out


def motion(d, a, b, w, t):
    """Residual motion; no published number."""
    gradient = [g.ravel() for g in np.gradient(b)]
    design = np.column_stack([np.ones(w.size), w.ravel(), *gradient])
    moved = -np.array([np.linalg.lstsq(design, frame.ravel(), rcond=None)[0][2:] for frame in d])
    up = np.maximum(t, 0)
    mean = (moved * up[:, None]).sum(axis=0) / up.sum()
    both = np.column_stack([np.ones(len(t)), moved])
    fitted = both @ np.linalg.lstsq(both, t, rcond=None)[0]
    alone = np.column_stack([np.ones(w.size), *gradient])
    left = a.ravel() - alone @ np.linalg.lstsq(alone, a.ravel(), rcond=None)[0]
    return {
        "event_shift": float(np.linalg.norm(mean)),
        "jitter": math.sqrt(((moved - moved.mean(axis=0)) ** 2).sum(axis=1).mean()),
        "trace_correlation": math.sqrt(max(0.0, 1 - ((t - fitted) ** 2).sum() / ((t - t.mean()) ** 2).sum())),
        "explained": 1 - (left**2).sum() / ((a - a.mean()) ** 2).sum(),
        "negative": (np.minimum(a, 0) ** 2).sum() / (a**2).sum(),
    }
