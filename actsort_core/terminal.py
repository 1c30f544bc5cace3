"""A candidate drawn with text blocks, and the keys that answer: sorting where there is no browser."""

from __future__ import annotations

import contextlib
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import click
import numpy as np
from numpy.typing import NDArray

from actsort_core.errors import PluginError
from actsort_core.model import CELL, NOT_CELL, UNSURE, CandidateId, Recording
from actsort_core.plugins import call_each
from actsort_core.session import Session

_OWN = "class:"  # so that a lab's class may be called "skip"
_BARS = " ▁▂▃▄▅▆▇█"
_SHADES = " ░▒▓█"
_ASCII_BARS = "  ..::||#"
_ASCII_SHADES = " .+*#"
_FONTS = {"blocks": (_BARS, _SHADES), "ascii": (_ASCII_BARS, _ASCII_SHADES)}


@dataclass(frozen=True)
class Key:
    """One thing a key does: the keys (as a terminal sends them), how they are shown, and what happens."""

    action: str
    keys: tuple[str, ...]
    shown: str
    help: str


# One table drives handler and help. Up / down as in the ActSort app and CIAtah.
KEYS = (
    Key("cell", ("y", "\x1b[A", "\x1bOA", "\xe0H"), "up or y", "it is a cell"),
    Key("not_cell", ("n", "\x1b[B", "\x1bOB", "\xe0P"), "down or n", "it is not a cell"),
    Key("unsure", ("u", " "), "u or space", "unsure: counted as asked, the model decides"),
    Key("skip", ("s", "\x1b[C", "\x1bOC", "\xe0M"), "right or s", "ask about it later"),
    Key("undo", ("z", "\x7f", "\x08", "\x1b[D", "\x1bOD", "\xe0K"), "left, z or backspace", "take the last label back"),
    Key("redo", ("r",), "r", "give it again"),
    Key("help", ("?", "h"), "? or h", "show this list"),
    Key("quit", ("q", "\x1b", "\x03", "\x04"), "q or escape", "stop; the same command goes on from here"),
)


def own_keys(classes: Mapping[str, str]) -> tuple[Key, ...]:
    """Digits for the first nine of a lab's own classes; each is an action ``class:NAME``."""
    return tuple(
        Key(f"{_OWN}{name}", (str(digit),), str(digit), f"{name} (counts as {kind})")
        for digit, (name, kind) in enumerate(list(classes.items())[:9], 1)
    )


def action_of(key: str, own: Sequence[Key] = ()) -> str | None:
    """What a key press means; None for a key that means nothing."""
    for entry in (*KEYS, *own):
        if key in entry.keys or key.lower() in entry.keys:
            return entry.action
    return None


def keys_help(own: Sequence[Key] = ()) -> str:
    """The list of keys."""
    return "\n".join(f"  {entry.shown:<22}{entry.help}" for entry in (*KEYS[:3], *own, *KEYS[3:]))


def font_for(encoding: str | None) -> str:
    """``"blocks"`` where the terminal can show them, else ``"ascii"``."""
    try:
        (_BARS + _SHADES).encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return "ascii"
    return "blocks"


def plot_trace(trace: NDArray[np.float32], width: int, height: int, font: str = "blocks") -> list[str]:
    """A trace as `height` lines of `width` characters: the maximum in each column, so that no event is lost.

    Parameters
    ----------
    trace
        ``(n_frames,)``; gaps (NaN) are drawn as the lowest value.
    """
    bars = _FONTS[font][0]
    finite = np.isfinite(trace)
    if not finite.any():
        return ["(no finite values)".ljust(width)] + [" " * width] * (height - 1)
    low, high = np.quantile(trace[finite], 0.02), trace[finite].max()
    values = np.where(finite, trace, low)
    edges = np.linspace(0, len(values), min(width, len(values)) + 1).astype(int)
    peaks = np.maximum.reduceat(values, edges[:-1])
    level = np.clip((peaks - low) / max(high - low, 1e-12), 0, 1) * height * 8
    rows = []
    for row in range(height - 1, -1, -1):
        rows.append("".join(bars[int(np.clip(round(v) - row * 8, 0, 8))] for v in level).ljust(width))
    return rows


def plot_image(image: NDArray[np.float32], rows: int, font: str = "blocks") -> list[str]:
    """A small image ``(rows, columns)`` in shades, two characters a pixel, from its 2 % to its 99.8 % quantile."""
    shades = _FONTS[font][1]
    step = max(1, -(-image.shape[0] // rows))
    small = image[::step, ::step]
    finite = small[np.isfinite(small)]
    low, high = np.quantile(finite, [0.02, 0.998]) if finite.size else (0, 1)
    level = np.clip((np.nan_to_num(small) - low) / max(high - low, 1e-12), 0, 1)
    return ["".join(shades[round(float(v) * (len(shades) - 1))] * 2 for v in line) for line in level]


def crop(recording: Recording, index: int, size: int) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """The footprint, and the mean image under it, ``(size, size)`` around its centre; depth is projected (maximum)."""
    dense = recording.footprints[:, [index]].toarray().reshape(recording.fov)
    images = list(recording.images.values())
    mean = np.asarray(images[0]) if images else None
    if dense.ndim == 3:
        dense = dense.max(axis=2)
        mean = mean.max(axis=2) if mean is not None else None
    where = np.argwhere(dense > 0)
    centre = where.mean(axis=0) if len(where) else np.array(dense.shape) / 2
    spread = np.ptp(where, axis=0).max() + 7 if len(where) else size
    size = int(min(max(size, spread), max(dense.shape)))
    start = [int(np.clip(round(c - size / 2), 0, max(0, n - size))) for c, n in zip(centre, dense.shape, strict=True)]
    window = tuple(slice(a, a + size) for a in start)
    return dense[window], mean[window] if mean is not None else None


def draw(session: Session, candidate: CandidateId, width: int = 100, font: str = "blocks") -> str:
    """Everything about one candidate as text: footprint, image under it, whole trace, its highest event.

    The model's opinion is not shown: it would bias the answer (USERS.md, "Reading across").
    """
    recording = session.recordings[candidate.recording]
    index = candidate.index
    trace = np.asarray(recording.traces[slice(index, index + 1)])[0]
    footprint, mean = crop(recording, index, 21)
    left = plot_image(footprint, 21, font)
    right = plot_image(mean, 21, font) if mean is not None else [""] * len(left)
    gap = 2 * footprint.shape[1]
    where = f"{candidate.recording}, candidate {index} of {recording.n_cells}"
    lines = [f"{where}   ({len(session.labels())} of {len(session.candidates)} labelled)", ""]
    if mean is not None:
        lines.append("footprint".ljust(len(left[0]) + 4) + next(iter(recording.images)))
    lines += [f"{a.ljust(min(gap, width))}    {b}".rstrip() for a, b in zip(left, right, strict=False)]
    length = f"{recording.n_frames / recording.fps:.0f} s" if recording.fps else f"{recording.n_frames} frames"
    lines += ["", f"trace ({recording.trace_kind}), {length}", *plot_trace(trace, width, 6, font)]
    if np.isfinite(trace).any() and len(trace) > 50:
        half = max(25, min(len(trace) // 2, round(6 * (recording.fps or 10))))
        peak = int(np.nanargmax(np.where(np.isfinite(trace), trace, -np.inf)))
        a, b = max(0, peak - half // 3), min(len(trace), peak + half)
        span = f"{a / recording.fps:.1f} to {b / recording.fps:.1f} s" if recording.fps else f"frames {a} to {b}"
        lines += ["", f"highest event, {span}", *plot_trace(trace[a:b], min(width, 60), 4, font)]
    return "\n".join(lines)


def summary(status: Mapping[str, object]) -> str:
    """``actsort status`` as text."""
    width = max(len(key) for key in status)
    return "\n".join(f"{key.replace('_', ' '):<{width}}  {value}" for key, value in status.items() if value not in (None, [], {}))


def sort_by_hand(session: Session, goal: int | None) -> None:
    """Show candidates and take answers from the keyboard (or, where there is none, from standard input) until told to stop.

    Parameters
    ----------
    session
        To ask and answer in.
    goal
        Stop when the session holds this many labels; None to go on until the person stops.
    """
    font = font_for(sys.stdout.encoding)
    own = own_keys(session.options.classes)
    digits = "".join(f" / {entry.shown} {entry.action.removeprefix(_OWN)}" for entry in own)
    click.echo(keys_help(own))
    with contextlib.suppress(PluginError):  # so that a resumed session asks what the model asks; later no key waits for a fit
        session.wait(5)
    told = False
    while goal is None or len(session.labels()) < goal:
        candidate = session.ask()
        if candidate is None:
            click.echo("Every candidate is labelled.")
            return
        width = max(40, min(shutil.get_terminal_size().columns - 2, 120))
        click.echo("\n" + draw(session, candidate, width, font))
        before = session.labels_by(session.annotator)
        if any(label.candidate == candidate for label in before):
            click.echo("You labelled this one before, and it is still open: all others are done.")
        action = None
        while action is None:
            click.echo(f"cell? [up y / down n / u{digits} / left z = undo / q / ?] ", nl=False)
            key = _read_key()
            action = action_of(key, own)
            click.echo("" if action else f"{key!r} means nothing here; ? shows the keys")
            if action == "help":
                click.echo(keys_help(own))
                action = None
        if action == "quit":
            return
        if action in (CELL, NOT_CELL, UNSURE) or action.startswith(_OWN):
            said = action.removeprefix(_OWN)
            opinion = session.label(candidate, said).probability  # not calibrated, which would take longer than a key press may
            click.echo(f"-> {said}" + ("" if opinion is None else f" (the model said {opinion:.2f})"))
            for who, why in call_each(session.plugins.manager, "actsort_should_stop", session=session):
                if not told:
                    click.echo(f"Enough may have been asked: {why} (plug-in {who}). Press q to stop.")
                told = True
        elif action == "skip":
            session.skip()
        else:
            touched = session.undo() if action == "undo" else session.redo()
            click.echo(f"nothing to {action}" if touched is None else f"-> {action}: {touched.recording}, candidate {touched.index}")


def first_key(keys: str) -> str:
    """The first of several keys that arrived at once: those after it were pressed before their candidate was shown."""
    if keys[:1] in ("\x1b", "\xe0"):  # a key that sends several characters
        sequence = re.match(r"\x1b[\[O][0-9;]*[A-Za-z~]|\xe0.", keys)
        return sequence.group() if sequence else keys
    return keys[:1]


def _read_key() -> str:
    """One key press; from a pipe one character a key, its end meaning quit."""
    if sys.stdin is None:
        return "q"
    if sys.stdin.isatty():
        try:
            return first_key(click.getchar())
        except EOFError:  # control-D
            return "q"
    while True:
        key = sys.stdin.read(1)
        if key != "\n":
            return key or "q"
