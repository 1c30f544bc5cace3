"""What `actsort benchmark` prints: a table per recording, then the means over all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def as_text(document: Mapping[str, Any]) -> str:
    """Balanced accuracy (share of runs that reached the human level) by strategy and share of labels, and what else was asked for."""
    blocks = [_recording(recording) for recording in document["recordings"]]
    if len(document["recordings"]) > 1:
        blocks.append(_overall(document["recordings"]))
    return "\n\n".join(blocks)


def _percent(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{100 * value:.{digits}f}"


def _recording(recording: Mapping[str, Any]) -> str:
    human, curves = recording["human"], recording["strategies"]
    fractions = list(dict.fromkeys(fraction for curve in curves.values() for fraction in curve))
    wide = _width(curves)
    alone = human["balanced_accuracy"] is None
    compared = "against the annotator's own labels" if alone else "(share of runs that reached the human level)"
    lines = [f"{recording['name']}: {recording['n']} candidates, balanced accuracy {compared}"]
    lines.append(f"  {'labels':<{wide}}" + "".join(f"{fraction:>16}" for fraction in fractions))
    for name, curve in curves.items():
        lines.append(f"  {name:<{wide}}" + "".join(_cell(curve.get(fraction)) for fraction in fractions))
    if alone:
        lines.append(f"  {'human':<{wide}}  no level: only one annotator")
    else:
        lines.append(
            f"  {'human':<{wide}}{_percent(human['balanced_accuracy']):>9}   "
            f"precision {human['precision']:.3f}, recall {human['recall']:.3f}"
        )
    lines += _calibration(curves, fractions, wide) + _stated(curves, fractions, wide) + _effort(recording.get("to_human"), wide)
    return "\n".join([*lines, *(f"  note: {note}" for note in recording["notes"])])


def _width(names: Mapping[str, Any]) -> int:
    return max([20, *(len(name) + 1 for name in names)])


def _cell(values: Mapping[str, Any] | None) -> str:
    if not values:
        return f"{'-':>16}"
    reached = f" ({_percent(values['reached_human'], 0):>3} %)" if "reached_human" in values else ""
    return f"{_percent(values['balanced_accuracy']) + reached:>16}"


def _calibration(curves: Mapping[str, Any], fractions: Sequence[str], wide: int) -> list[str]:
    ours = {name: curve for name, curve in curves.items() if name.startswith("default")}
    if not ours:
        return []
    lines = ["  expected calibration error of the probabilities, against the annotator's own labels"]
    for name, curve in ours.items():
        cells = (f"{curve[fraction]['ece']:.3f}" if fraction in curve else "-" for fraction in fractions)
        lines.append(f"  {name:<{wide}}" + "".join(f"{cell:>16}" for cell in cells))
    return lines


def _stated(curves: Mapping[str, Any], fractions: Sequence[str], wide: int) -> list[str]:
    """How far the stated balanced accuracy is off, and how often its 90 % interval holds the true one."""
    lines = []
    for name, curve in curves.items():
        if not any("quality" in values for values in curve.values()):
            continue
        found = [curve.get(fraction, {}).get("quality") for fraction in fractions]
        cells = (f"{_percent(q['mean_absolute_error'])} ({_percent(q['coverage'], 0):>3} %)" if q else "-" for q in found)
        lines.append(f"  {name:<{wide}}" + "".join(f"{cell:>16}" for cell in cells))
    head = ["  error of the stated balanced accuracy, in points (how often the 90 % interval held the true one)"]
    return head + lines if lines else []


def _effort(effort: Mapping[str, Any] | None, wide: int) -> list[str]:
    """% of the labels until the human was reached."""
    shown = {name: values for name, values in (effort or {}).items() if values}
    if not shown:
        return []
    lines = [
        "  % of labels needed to reach the human: share of runs, mean (median) where reached; of which within 5 %, mean of these",
        f"  {'':<{wide}}{'balanced accuracy':^44}{'precision and recall':^44}",
    ]
    for name, values in shown.items():
        lines.append(f"  {name:<{wide}}" + "".join(_criterion(values[key]) for key in ("balanced_accuracy", "precision_and_recall")))
    return lines


def _criterion(values: Mapping[str, Any]) -> str:
    mean, median, soon = (values[key] for key in ("mean_percent", "median_percent", "mean_percent_within_5_percent"))
    whole = "-" if mean is None else f"{mean:6.2f} ({median:.2f})"
    within = "-" if soon is None else f"{soon:5.2f}"
    return f"{_percent(values['reached'], 0):>5} % {whole:>16}   {_percent(values['reached_within_5_percent'], 0):>4} % {within:>6}   "


def _overall(recordings: Sequence[Mapping[str, Any]]) -> str:
    """Means over the recordings that have a strategy and fraction in common."""
    names = [name for name in recordings[0]["strategies"] if all(name in recording["strategies"] for recording in recordings)]
    curves = {}
    for name in names:
        every = [recording["strategies"][name] for recording in recordings]
        curves[name] = {
            fraction: {"balanced_accuracy": float(np.mean([curve[fraction]["balanced_accuracy"] for curve in every]))}
            for fraction in every[0]
            if all(fraction in curve for curve in every)
        }
    fractions = list(dict.fromkeys(fraction for curve in curves.values() for fraction in curve))
    wide = _width(curves)
    lines = [f"mean of {len(recordings)} recordings, balanced accuracy", f"  {'labels':<{wide}}" + "".join(f"{f:>16}" for f in fractions)]
    lines += [f"  {name:<{wide}}" + "".join(_cell(curve.get(f)) for f in fractions) for name, curve in curves.items()]
    levels = [recording["human"]["balanced_accuracy"] for recording in recordings]
    if None not in levels:
        lines.append(f"  {'human':<{wide}}{_percent(float(np.mean(levels))):>9}")
    return "\n".join(lines)
