"""Draws docs/features/*.png, a small picture of what each feature sees, and writes docs/feature-list.md. Needs matplotlib.

python docs/feature_pictures.py
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
from scipy import ndimage, signal

from actsort_core.plugins import load

mpl.use("Agg")
import itertools

import matplotlib.pyplot as plt

HERE = Path(__file__).parent
GREY, INK, HOT, COOL = "#b8bec6", "#3b4252", "#d9480f", "#1971c2"
QUANTILES = {"p01": 0.01, "p10": 0.1, "p20": 0.2, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p99": 0.99}
Picture = Callable[..., None]

rng = np.random.default_rng(4)
T = np.arange(240)
KERNEL = np.exp(-np.arange(60) / 12.0) - np.exp(-np.arange(60) / 1.5)
CLEAN = (
    np.convolve(np.isin(T, (25, 80, 95, 160)) * np.where(T == 80, 1.5, 1.0), KERNEL)[:240] * 40 + 14 * np.convolve(T == 200, KERNEL)[:240]
)
TRACE = CLEAN + rng.normal(0, 1.6, 240)
OTHER = 0.7 * CLEAN + 9 * np.convolve(T == 120, KERNEL)[:240] + rng.normal(0, 2, 240)
MEDIAN = signal.medfilt(TRACE, 3)
Y, X = np.mgrid[:20, :26]
CELL = np.exp(-((Y - 9) ** 2 / 14 + (X - 11) ** 2 / 30 - (Y - 9) * (X - 11) / 40))
CELL = np.where(CELL > 0.04, CELL, 0) * (0.9 + 0.1 * rng.random(CELL.shape))
NEXT = np.exp(-((Y - 12) ** 2 + (X - 16) ** 2) / 14)
SPLIT = np.where((CELL > 0.3) & ~((X > 11) & (X < 14)), CELL, 0)
NOISE = rng.normal(0, 0.08, CELL.shape)


def _line(ax: plt.Axes, y: np.ndarray, color: str = GREY, **more: object) -> None:
    ax.plot(np.arange(len(y)), y, color=color, lw=more.pop("lw", 0.9), **more)


def _peaks() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    peaks, _ = signal.find_peaks(TRACE)
    prominence = signal.peak_prominences(TRACE, peaks)[0]
    return peaks, prominence > 9, prominence > 4.2


def _snr(ax: plt.Axes) -> None:
    _line(ax, TRACE)
    ax.axhspan(-1.6, 1.6, color=COOL, alpha=0.35, lw=0)
    top = int(TRACE.argmax())
    ax.annotate("", (top, TRACE[top]), (top, 0), arrowprops={"arrowstyle": "<->", "color": HOT})


def _residual(ax: plt.Axes) -> None:
    part = slice(76, 120)
    ax.fill_between(T[part], MEDIAN[part] + 4 * (TRACE - MEDIAN)[part], MEDIAN[part], color=HOT, lw=0)
    ax.plot(T[part], MEDIAN[part], color=INK, lw=1)


def _skew(ax: plt.Axes) -> None:
    count, edge = np.histogram(TRACE, 30)
    ax.bar(edge[:-1], np.sqrt(count), np.diff(edge), align="edge", color=[HOT if e > 8 else GREY for e in edge[:-1]])


def _rise(ax: plt.Axes) -> None:
    _line(ax, TRACE[70:125])
    ax.plot(np.arange(10, 15), TRACE[80:85], color=HOT, lw=2)
    ax.plot(np.arange(15, 55), TRACE[85:125], color=COOL, lw=1.2)


def _spectrum(low: float, high: float) -> Picture:
    def draw(ax: plt.Axes) -> None:
        frequency, power = signal.periodogram(TRACE)
        share, height = frequency * 2, np.sqrt(power)
        ax.fill_between(share, height, color=GREY, lw=0)
        inside = (share >= low) & (share <= high)
        ax.fill_between(share[inside], height[inside], color=HOT, lw=0)
        ax.axvspan(low, high, color=HOT, alpha=0.12, lw=0)

    return draw


def _events(ax: plt.Axes, level: float = 6.0, widths: bool = False) -> None:
    _line(ax, TRACE)
    ax.axhline(level, color=COOL, lw=0.8)
    above = np.diff(np.concatenate([[0], level < MEDIAN, [0]]).astype(int))
    for a, b in zip(np.flatnonzero(above > 0), np.flatnonzero(above < 0), strict=True):
        if widths:
            ax.axvspan(a, b, color=HOT, alpha=0.35, lw=0)
        else:
            ax.plot(a, level, "v", color=HOT, ms=5)


def _above(kind: str, level: float) -> Picture:
    def draw(ax: plt.Axes) -> None:
        line = 1.6 * level
        _line(ax, TRACE)
        ax.axhline(line, color=COOL, lw=0.9)
        high = line < MEDIAN
        if kind == "power":
            ax.fill_between(T, np.where(line < TRACE, TRACE, np.nan), color=HOT, lw=0)
        elif kind == "frames":
            ax.plot(T[line < TRACE], np.full((line < TRACE).sum(), -4), "|", color=HOT, ms=6)
        else:
            tops, _ = signal.find_peaks(np.where(high, MEDIAN, 0), distance=3, height=line)
            ax.plot(tops, MEDIAN[tops] + 3, "v", color=HOT, ms=4)
        ax.set_ylim(-7, max(56, line * 1.1))

    return draw


def _marked_peaks(which: str, what: str) -> Picture:
    def draw(ax: plt.Axes) -> None:
        peaks, strong, some = _peaks()
        chosen = peaks[{"strong": strong, "weak": some & ~strong, "all": some}[which]]
        _line(ax, TRACE)
        if what == "dots":
            ax.plot(chosen, TRACE[chosen], "o", color=HOT, ms=3.5)
        elif what == "interval":
            ax.plot(chosen, TRACE[chosen], "o", color=HOT, ms=2.5)
            for a, b in itertools.pairwise(chosen):
                ax.annotate("", (b, -6), (a, -6), arrowprops={"arrowstyle": "<->", "color": HOT, "lw": 0.8, "shrinkA": 0, "shrinkB": 0})
            ax.set_ylim(-11, 56)
        else:
            _, height, left, right = signal.peak_widths(TRACE, chosen)
            ax.hlines(height, left, right, color=HOT, lw=2)
            if what == "spread":
                ax.vlines(np.concatenate([left, right]), -6, np.concatenate([height, height]), color=COOL, lw=0.5)

    return draw


def _decile(ax: plt.Axes) -> None:
    cut = np.quantile(TRACE, 0.9)
    _line(ax, TRACE)
    ax.plot(T[cut <= TRACE], TRACE[cut <= TRACE], ".", color=HOT, ms=4)
    ax.axhline(cut, color=COOL, lw=0.8)


def _mass(ax: plt.Axes) -> None:
    _line(ax, MEDIAN)
    top = np.quantile(MEDIAN, 0.985) <= MEDIAN
    ax.vlines(T[top], 0, MEDIAN[top], color=HOT, lw=1.5)


def _two_traces(ax: plt.Axes, third: bool = False) -> None:
    _line(ax, TRACE + 30, INK)
    _line(ax, OTHER, HOT)
    if third:
        _line(ax, 5 * np.sin(T / 9) + rng.normal(0, 2, 240) - 25)


def _image(ax: plt.Axes, image: np.ndarray = CELL, color: str = "Greys", **more: object) -> None:
    ax.imshow(image, cmap=color, interpolation="nearest", **more)


def _outline(ax: plt.Axes, image: np.ndarray, level: float, color: str = HOT) -> None:
    ax.contour(image, [level], colors=[color], linewidths=1.2)


def _area(ax: plt.Axes, level: float = 0.1) -> None:
    _image(ax)
    _outline(ax, CELL, level)


def _bodies(ax: plt.Axes) -> None:
    parts, _ = ndimage.label(SPLIT > 0.3)
    _image(ax, CELL)
    for k, color in ((1, HOT), (2, COOL)):
        ax.contourf(parts == k, [0.5, 2], colors=[color], alpha=0.8)


def _sum(ax: plt.Axes) -> None:
    _image(ax, CELL, "Oranges")


def _edge(ax: plt.Axes) -> None:
    _image(ax)
    y, x = np.unravel_index(CELL.argmax(), CELL.shape)
    ax.annotate("", (x, -0.5), (x, y), arrowprops={"arrowstyle": "<->", "color": HOT, "shrinkA": 0, "shrinkB": 0})
    ax.add_patch(plt.Rectangle((-0.5, -0.5), 26, 20, fill=False, color=COOL, lw=1.5))


def _circle(ax: plt.Axes) -> None:
    _image(ax, CELL > 0.3, alpha=0.35)
    _outline(ax, CELL, 0.3)
    y, x = ndimage.center_of_mass(CELL > 0.3)
    ax.add_patch(plt.Circle((x, y), np.sqrt((CELL > 0.3).sum() / np.pi), fill=False, color=COOL, lw=1.2))


def _axes(ax: plt.Axes, second: bool = False) -> None:
    _image(ax)
    y, x = np.nonzero(CELL > 0.3)
    centre, spread = np.array([x.mean(), y.mean()]), np.cov(x, y)
    value, vector = np.linalg.eigh(spread)
    for k, color in ((1, HOT), (0, COOL)):
        a = vector[:, k] * 2 * np.sqrt(value[k])
        ax.plot([centre[0] - a[0], centre[0] + a[0]], [centre[1] - a[1], centre[1] + a[1]], color=color, lw=1.8)
    if second:
        ax.add_patch(plt.Circle(tuple(centre), np.sqrt(CELL.sum() ** 2 / (CELL**2).sum() / np.pi), fill=False, color=INK, lw=1))


def _whole(ax: plt.Axes) -> None:
    field = np.zeros((40, 80))
    field[8:28, 10:36] = CELL
    _image(ax, field)
    ax.add_patch(plt.Rectangle((-0.5, -0.5), 80, 40, fill=False, color=HOT, lw=1.5))


def _rough(ax: plt.Axes) -> None:
    rough = CELL * (1 + 0.8 * rng.normal(0, 0.5, CELL.shape))
    _image(ax, np.hstack([rough, np.zeros((20, 3)), ndimage.uniform_filter(CELL, 4)]))


def _pair(ax: plt.Axes, small: bool = False, fill: bool = False) -> None:
    mine = np.where(X > 10, CELL, 0) if small else NEXT
    _image(ax, CELL, alpha=0.5)
    _outline(ax, CELL, 0.1, INK)
    _outline(ax, mine, 0.1)
    if fill:
        ax.contourf(np.minimum(mine, CELL), [0.1, 2], colors=[HOT], alpha=0.5)


def _weights(ax: plt.Axes) -> None:
    ax.hist(CELL[CELL > 0], 14, color=GREY)
    w = CELL[CELL > 0]
    ax.annotate("", (w.mean() + w.std(), 8), (w.mean() - w.std(), 8), arrowprops={"arrowstyle": "<->", "color": HOT})


def _core(ax: plt.Axes) -> None:
    ax.contourf(CELL, [0.1, 2], colors=[GREY])
    ax.contourf(CELL, [0.5, 2], colors=[HOT])
    ax.set_aspect("equal")
    ax.invert_yaxis()


def _body(ax: plt.Axes) -> None:
    scattered = CELL + (rng.random(CELL.shape) > 0.94) * 0.5
    _image(ax, scattered)
    _outline(ax, CELL, 0.3)


def _slope(ax: plt.Axes) -> None:
    inside = CELL > 0
    distance = np.hypot(Y - 9, X - 11)[inside]
    ax.plot(distance, CELL[inside], ".", color=GREY, ms=3)
    ax.plot(*np.array([[0, 9], np.polyval(np.polyfit(distance, CELL[inside], 1), [0, 9])]), color=HOT, lw=1.5)


def _sorted(ax: plt.Axes, quantile: float | str, values: np.ndarray) -> None:
    """A strip of values at the right, the chosen one marked."""
    values = np.sort(values)
    box = ax.inset_axes((0.84, 0.08, 0.15, 0.84))
    box.plot(np.zeros(values.size), values, "o", color=GREY, ms=3)
    level = {"mean": values.mean(), "min": values.min()}.get(quantile) if isinstance(quantile, str) else np.quantile(values, quantile)
    box.plot([-1, 1], [level, level], color=HOT, lw=2)
    box.set_xlim(-1.5, 1.5)
    box.axis("off")


def _contaminated(quantile: str) -> Picture:
    def draw(ax: plt.Axes) -> None:
        frame = CELL + 0.9 * NEXT + NOISE
        _image(ax, frame)
        _outline(ax, CELL, 0.1, INK)
        y, x = np.nonzero((CELL > 0.04) & (frame - CELL > 0.25))
        ax.plot(x, y, "s", color=HOT, ms=1.6)
        ax.set_xlim(-8, 40)
        _sorted(ax, QUANTILES.get(quantile, quantile), rng.beta(2, 3, 12))

    return draw


def _side_by_side(ax: plt.Axes) -> None:
    _image(ax, np.hstack([CELL, np.full((20, 3), np.nan), 0.8 * CELL + 0.7 * NEXT + NOISE]))


def _curves(a: np.ndarray, b: np.ndarray, quantile: str) -> Picture:
    def draw(ax: plt.Axes) -> None:
        part = slice(0, 44)
        ax.fill_between(T[part], a, b, where=a > b, color=HOT, alpha=0.5, lw=0)
        ax.plot(T[part], a, color=INK, lw=1.1)
        ax.plot(T[part], b, color=COOL, lw=1.1)
        ax.set_xlim(0, 56)
        _sorted(ax, QUANTILES[quantile], rng.normal(0.4, 0.2, 9))

    return draw


BUMP = CLEAN[18:62]
INSIDE, OUTSIDE = BUMP + 12 * np.exp(-(((np.arange(44) - 20) / 4) ** 2)), 0.45 * BUMP + 2


def _match(share: float) -> Picture:
    def draw(ax: plt.Axes) -> None:
        cut = share * MEDIAN.max()
        _line(ax, TRACE)
        ax.axhline(cut, color=COOL, lw=0.9)
        high = cut < TRACE
        ax.plot(T[high], TRACE[high], ".", color=HOT, ms=3)
        for k in range(3):
            box = ax.inset_axes((0.5 + 0.17 * k, 0.6, 0.16, 0.4))
            box.imshow(CELL * (1 - 0.25 * k) + 2 * NOISE, cmap="Greys", interpolation="nearest")
            box.axis("off")
        ax.set_ylim(-6, 100)

    return draw


SPOT = np.exp(-((Y - 9) ** 2 + (X - 13) ** 2) / 12)
MOVED = ndimage.shift(SPOT, (1.0, 3.0), order=1)


def _moved(ax: plt.Axes) -> None:
    _outline(ax, SPOT, 0.4, INK)
    _outline(ax, MOVED, 0.4)
    ax.annotate("", (17, 10.3), (13, 9), arrowprops={"arrowstyle": "->", "color": HOT, "lw": 2, "shrinkA": 0, "shrinkB": 0})
    ax.set_aspect("equal")
    ax.invert_yaxis()


def _jitter(ax: plt.Axes) -> None:
    at = rng.normal(0, 1, (30, 2)) @ np.array([[1, 0.4], [0, 0.5]])
    ax.plot(*at.T, ".", color=GREY, ms=5)
    ax.add_patch(plt.Circle((0, 0), 1.3, fill=False, color=HOT, lw=1.5))
    ax.set_aspect("equal")


def _moves_with(ax: plt.Axes) -> None:
    shift = np.abs(ndimage.gaussian_filter1d(rng.normal(0, 1, 240), 3)) + 0.03 * CLEAN
    _line(ax, TRACE + 20, INK)
    _line(ax, 12 * shift - 25, HOT)


def _dipole(ax: plt.Axes) -> None:
    gradient = -1.6 * np.gradient(SPOT, axis=1) - 0.6 * np.gradient(SPOT, axis=0)
    _image(ax, np.hstack([MOVED - SPOT, np.full((20, 3), np.nan), gradient]), "RdGy_r", vmin=-0.6, vmax=0.6)


def _dark(ax: plt.Axes) -> None:
    change = MOVED - SPOT
    _image(ax, change, "Greys", vmin=-0.5, vmax=0.5)
    _outline(ax, -change, 0.08)


def _sameness(ax: plt.Axes) -> None:
    _pair(ax, small=True, fill=True)
    ax.set_xlim(-1, 60)
    ax.plot(np.linspace(29, 58, 120), 8 - TRACE[:120] / 7, color=INK, lw=0.8)
    ax.plot(np.linspace(29, 58, 120), 17 - OTHER[:120] / 7, color=HOT, lw=0.8)


def _verdict(ax: plt.Axes) -> None:
    for x, mark, color in ((0.3, "\N{CHECK MARK}", COOL), (0.7, "\N{MULTIPLICATION SIGN}", HOT)):
        ax.text(x, 0.5, mark, fontsize=22, color=color, ha="center", va="center", fontfamily="DejaVu Sans")


def _score(ax: plt.Axes) -> None:
    _image(ax, CELL)
    ax.text(33, 12, "0.9", color=HOT, fontsize=11)
    ax.set_xlim(-1, 44)


PICTURES: dict[str, Picture] = {
    r"trace.log_snr|published.snr|host.SNR_comp|host.snr": _snr,
    r"trace.trace_skewness|host.skew": _skew,
    r"trace.rise_asymmetry": _rise,
    r"trace.slow_power|published.power_00_05": _spectrum(0, 0.05),
    r"trace.fast_power|published.power_50_100": _spectrum(0.5, 1),
    r"published.power_05_95": _spectrum(0.05, 0.95),
    r"published.power_00_50": _spectrum(0, 0.5),
    r"published.power_95_100": _spectrum(0.95, 1),
    r"trace.log_event_rate": _events,
    r"trace.log_event_width": lambda ax: _events(ax, widths=True),
    r"published.median_residual": _residual,
    r"published.n_weak_peaks": _marked_peaks("weak", "dots"),
    r"published.top_decile_std|host.std": _decile,
    r"published.strong_peak_interval": _marked_peaks("strong", "interval"),
    r"published.weak_peak_interval": _marked_peaks("weak", "interval"),
    r"published.peak_interval": _marked_peaks("all", "interval"),
    r"published.total_width": _marked_peaks("all", "width"),
    r"published.strong_total_width": _marked_peaks("strong", "width"),
    r"published.width_std": _marked_peaks("all", "spread"),
    r"published.strong_width_std": _marked_peaks("strong", "spread"),
    r"published.n_similar_traces": lambda ax: _two_traces(ax, third=True),
    r"published.peak_mass": _mass,
    r"footprint.log_area|published.area_px|host.npix(_norm.*)?": _area,
    r"host.npix_soma": lambda ax: _area(ax, 0.4),
    r"host.(mrs|mrs0|radius|compact|footprint)|footprint.circularity|published.circularity": _circle,
    r"footprint.weight_spread": _weights,
    r"footprint.core_share": _core,
    r"footprint.body_share|host.solidity": _body,
    r"(footprint.log|published)_?\.?elongation|host.aspect_ratio|host.ecc": _axes,
    r"footprint.log_sprawl": lambda ax: _axes(ax, second=True),
    r"footprint.radial_slope": _slope,
    r"published.n_bodies": _bodies,
    r"published.weight_sum": _sum,
    r"published.perimeter_px": lambda ax: _area(ax, 0.05),
    r"published.edge_distance_px": _edge,
    r"published.mean_weight": _whole,
    r"published.roughness": _rough,
    r"neighbour.max_overlap|published.max_overlap_correlation|duplicates.overlap": lambda ax: _pair(ax, fill=True),
    r"neighbour.max_trace_correlation|duplicates.correlation": _two_traces,
    r"duplicates.containment": lambda ax: _pair(ax, small=True, fill=True),
    r"duplicates.log_size_ratio": lambda ax: _pair(ax, small=True),
    r"duplicates.sameness": _sameness,
    r"movie.image_correlation|host.r_values": _side_by_side,
    r"motion.event_shift": _moved,
    r"motion.jitter": _jitter,
    r"motion.trace_correlation": _moves_with,
    r"motion.explained": _dipole,
    r"motion.negative": _dark,
    r"host_verdict.*": _verdict,
    r"host.cnn_preds": _score,
}
for _k in (1, 3, 10, 30, 100, 300):
    for _kind in ("power", "frames", "events"):
        PICTURES[rf"published.{_kind}_above_{_k}_noise"] = _above(_kind, _k)
for _q in ("mean", "min", "p10", "p20"):
    PICTURES[rf"movie.contamination_{_q}"] = _contaminated(_q)
for _q in ("p01", "p25", "p50", "p75", "p99"):
    PICTURES[rf"movie.roi_excess_{_q}"] = _curves(INSIDE, BUMP, _q)
    PICTURES[rf"movie.marginal_trace_{_q}"] = _curves(BUMP, OUTSIDE, _q)
    PICTURES[rf"movie.marginal_fluorescence_{_q}"] = _curves(INSIDE, OUTSIDE, _q)
for _k in range(10):
    PICTURES[rf"movie.frame_match_{_k}0"] = _match(_k / 10)


def picture_of(name: str) -> Picture:
    """The picture of a feature; every feature needs one."""
    return next(draw for pattern, draw in PICTURES.items() if re.fullmatch(pattern, name))


def main() -> None:
    """Draw all pictures and write the page."""
    groups = load(discover=False).features
    folder = HERE / "features"
    folder.mkdir(exist_ok=True)
    lines = [
        "# Every feature",
        "",
        "What each looks at, its unit, and its number among the 76 published with ActSort. Written, with its pictures, by",
        "`python docs/feature_pictures.py`. Orange is what is measured; blue is a threshold, a band or what it is compared with.",
        "How they are computed: [features.md](features.md), and the docstrings named there.",
    ]
    for group in groups.values():
        lines += ["", f"## `{group.name}`{'' if group.default else ' (off by default)'}", "", "| | name | unit | published | what |"]
        lines.append("|---|---|---|---|---|")
        for feature in group.features:
            figure = plt.figure(figsize=(1.5, 0.6), dpi=120)
            ax = figure.add_axes((0.02, 0.04, 0.96, 0.92))
            picture_of(feature.name)(ax)
            ax.axis("off")
            figure.savefig(folder / f"{feature.name}.png", metadata={"Software": None})
            plt.close(figure)
            number = "" if feature.published is None else str(feature.published)
            cells = (f"![](features/{feature.name}.png)", f"`{feature.name}`", feature.unit, number, feature.description)
            lines.append(f"| {' | '.join(cells)} |")
    (HERE / "feature-list.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
