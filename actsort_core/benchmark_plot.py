"""Learning curves beside the human level: ``actsort benchmark --plot``. Needs matplotlib (the extra ``plots``)."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from actsort_core.atomic import atomic_write
from actsort_core.errors import MissingDependencyError, UsageError

ENDINGS = (".png", ".svg", ".pdf")
# Okabe & Ito's colours, told apart by everybody; a strategy keeps its colour in every plot, thresholds differ by their dashes.
_OURS = "#D55E00"
_COLOURS = {"cal": "#0072B2", "dal": "#009E73", "dcal": "#CC79A7", "random": "#7F7F7F", "first_to_last": "#56B4E9"}
_OTHERS = ("#E69F00", "#882255", "#117733", "#332288", "#AA4499")
_DASHES = {"0.5": "-", "0.65": (0, (4, 1.6))}


def check(path: Path) -> None:
    """Complain about a plot that could not be written before hours of replays, not after.

    Raises
    ------
    UsageError
        The folder does not exist, or the ending is none of `ENDINGS`.
    MissingDependencyError
        There is no matplotlib.
    """
    if path.suffix.lower() not in ENDINGS:
        raise UsageError(f"A plot cannot be written as {path.name!r}.", f"Let it end in {', '.join(ENDINGS)}.")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"There is no folder {path.absolute().parent} to write {path.name} into.")
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError("Plots need matplotlib.", 'Install it with: pip install "actsort[plots]"') from error


def plot(document: Mapping[str, Any], path: Path) -> None:
    """Draw balanced accuracy over the share of labels, one panel per recording.

    Lines are means over annotators and seeds; the shade of a line of ours goes from the lowest to the highest annotator, the grey
    one from the lowest to the highest human.

    Parameters
    ----------
    document
        What `benchmark.run` returned.
    path
        Where to; its ending says in which format.

    Raises
    ------
    UsageError, MissingDependencyError
        See `check`.
    """
    check(path)
    # A figure without pyplot: no window, no state that outlives this call.
    import matplotlib
    from matplotlib.figure import Figure

    recordings = document["recordings"]
    columns = min(3, len(recordings))
    rows = math.ceil(len(recordings) / columns)
    names = list(dict.fromkeys(name for recording in recordings for name in recording["curves"]))
    legend_rows = math.ceil((len(names) + 1) / (3 * columns))
    with matplotlib.rc_context({"font.size": 10, "svg.hashsalt": "actsort", "svg.fonttype": "none", "pdf.fonttype": 42}):
        figure = Figure(figsize=(6.4 * columns, 4.4 * rows + 0.22 * legend_rows + 0.3), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
        styles = _styles(names)
        handles: dict[str, Any] = {}
        spans = [_panel(axis, recording, styles, handles) for axis, recording in zip(axes, recordings, strict=False)]
        axes[0].set_ylim(5 * math.floor((min(low for low, _ in spans) - 1) / 5), min(100, max(high for _, high in spans) + 1))
        for axis in axes[len(recordings) :]:
            axis.set_visible(False)
        for axis in axes[::columns]:
            axis.set_ylabel("balanced accuracy (%)")
        order = [name for name in [*names, "human"] if name in handles]
        figure.legend(
            [handles[name] for name in order],
            ["human (mean; lowest to highest annotator)" if name == "human" else name for name in order],
            loc="outside lower center",
            ncols=min(len(order), 3 * columns),
            frameon=False,
            fontsize=9,
            handlelength=2.6,
        )
        buffer = io.BytesIO()
        metadata = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(path.suffix.lower())  # the same bytes for the same data
        figure.savefig(buffer, format=path.suffix.lower()[1:], dpi=160, metadata=metadata)
    atomic_write(path, buffer.getvalue())


def _is_ours(name: str) -> bool:
    return name.split("@")[0].split("+")[0].split("-")[0] == "default"


def _styles(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """How each strategy is drawn: ours thick and on top."""
    out: dict[str, dict[str, Any]] = {}
    spare = iter(_OTHERS * len(names))
    given: dict[str, str] = {}
    for name in names:
        plain, _, rest = name.partition("@")
        threshold = rest.partition("+")[0]
        base = "dcal" if plain.startswith("dcal-") else plain.split("+")[0]
        if _is_ours(name):
            dash: Any = (0, (1, 1.2)) if "-noaudit" in name else "-"
            out[name] = {"color": _OURS, "linewidth": 2.4, "linestyle": dash, "zorder": 5}
            continue
        if base not in _COLOURS and base not in given:
            given[base] = next(spare)
        dash = (0, (1, 1)) if plain.startswith("dcal-") else _DASHES.get(threshold, "-")
        out[name] = {"color": _COLOURS.get(base) or given[base], "linewidth": 1.3, "linestyle": dash, "zorder": 3}
    return out


def _panel(
    axis: Any, recording: Mapping[str, Any], styles: Mapping[str, Mapping[str, Any]], handles: dict[str, Any]
) -> tuple[float, float]:
    """Draw one recording; returns which part of the axis must be seen."""
    n, human = recording["n"], recording["human"]
    seen = []
    if human["balanced_accuracy"] is not None:
        levels = [100 * person["balanced_accuracy"] for person in human["per_annotator"].values()]
        axis.axhspan(min(levels), max(levels), color="#E8E8E8", zorder=0, linewidth=0)
        seen += [100 * human["balanced_accuracy"], max(levels)]
        handles["human"] = axis.axhline(100 * human["balanced_accuracy"], color="#444444", linewidth=1.2, zorder=1)
    ends = []
    for name, curve in recording["curves"].items():
        if not curve["labels"]:
            continue
        x = [100 * count / n for count in curve["labels"]]
        mean = [100 * value for value in curve["mean"]]
        (handles[name],) = axis.plot(x, mean, label=name, **styles[name])
        if _is_ours(name) and "-noaudit" not in name:
            low, high = ([100 * value for value in curve[key]] for key in ("low", "high"))
            axis.fill_between(x, low, high, color=styles[name]["color"], alpha=0.15, linewidth=0, zorder=2)
        ends.append(x[-1])
        seen += mean[len(mean) // 4 :]  # the first few labels decide little and would squeeze the rest
    axis.set_xscale("log")
    axis.set_title(f"{recording['name']}  ({n:,} candidates)", fontsize=10.5, loc="left")
    axis.set_xlabel("labels (% of the candidates)")
    if ends:
        axis.set_xlim(600 / n, max(ends))
        ticks = [t for t in (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if 600 / n <= t <= max(ends) * 1.001]
        axis.set_xticks(ticks, [f"{t:g}" for t in ticks])
        axis.minorticks_off()
    axis.grid(axis="y", color="#DDDDDD", linewidth=0.6)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    return min(seen, default=50.0), max(seen, default=100.0)
