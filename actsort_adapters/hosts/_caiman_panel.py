"""One question as HTML, with buttons where ipywidgets is there: sorting in a notebook. Needs neither matplotlib nor a browser plug-in."""

from __future__ import annotations

import base64
import html
import importlib
import struct
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from actsort_core.errors import ActsortError

if TYPE_CHECKING:
    from actsort_adapters.hosts.caiman import Curator

_SIDE = 41  # pixels shown around a component
_ZOOM = 4  # screen pixels for each
_WIDTH, _HEIGHT = 720, 90  # of a trace
_OUTLINE = (255, 140, 0)


def question_html(curator: Curator) -> str:
    """The component that is asked about: footprint, pictures under it, whole trace, its highest event. The model's opinion is not shown."""
    if curator.closed:
        return f"<p>{html.escape(repr(curator))} Call curate again.</p>"
    component = curator.ask()
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in curator.notes)
    end = f"<details><summary>{len(curator.notes)} notes</summary><ul>{notes}</ul></details>" if notes else ""
    if component is None:
        return f"<p>Every component is labelled. {html.escape(repr(curator))}</p>{end}"
    recording, index = curator.session.recordings[curator.key], curator.place_of(component)
    trace = np.asarray(recording.traces[index : index + 1])[0]
    rate = recording.fps or 0.0
    peak = int(np.nanargmax(trace)) if np.isfinite(trace).any() else 0
    half = max(25, round(6 * (rate or 10)))
    start, stop = max(0, peak - half // 3), min(len(trace), peak + half)
    unit = "s" if rate else "frames"
    span = (start / rate, stop / rate) if rate else (start, stop)
    cells = "".join(
        f'<td style="text-align:center">{_picture(name, image)}</td>' for name, image in _pictures(curator, recording, index, peak)
    )
    title = f"component {component} of {len(curator.places)}, {len(curator.labels())} labelled"
    shape = f"{len(trace) / rate:.0f} s" if rate else f"{len(trace)} frames"
    return (
        f"<div><b>{title}: is it a cell?</b><table><tr>{cells}</tr></table>"
        f"<div>trace ({html.escape(recording.trace_kind)}), {shape}</div>{_plot(trace)}"
        f"<div>highest event, {span[0]:.4g} to {span[1]:.4g} {unit}</div>{_plot(trace[start:stop])}{end}</div>"
    )


def show(curator: Curator) -> None:
    """Display the question in a notebook: with buttons where ipywidgets is installed, else with what to type."""
    display: Any = importlib.import_module("IPython.display")
    try:
        widgets: Any = importlib.import_module("ipywidgets")
    except ImportError:
        names = ("cell", "not_cell", "unsure", "skip", "undo")
        hint = f"<p>Answer with {', '.join(f'<code>.{name}()</code>' for name in names)}.</p>"
        display.display(display.HTML(question_html(curator) + hint))
        return
    display.display(panel(curator, widgets))


def panel(curator: Curator, widgets: Any) -> Any:
    """Question, buttons and how far it is, as one ipywidget. Each press is on disk, and in ``cnm.estimates``, before the next question."""
    page = widgets.HTML(question_html(curator))
    told = widgets.HTML(html.escape(repr(curator)))

    def button(text: str, style: str, action: Any) -> Any:
        def press(_: Any) -> None:
            problem = ""
            try:
                action()
                page.value = question_html(curator)
            except ActsortError as error:  # a widget would swallow it
                problem = f"<p style='color:#b00'>{html.escape(str(error))}</p>"
            told.value = problem + html.escape("" if problem else repr(curator))

        made = widgets.Button(description=text, button_style=style)
        made.on_click(press)
        return made

    buttons = [
        button("cell", "success", curator.cell),
        button("not a cell", "danger", curator.not_cell),
        button("unsure", "", curator.unsure),
        *(button(name, "info", lambda name=name: curator.answer(name)) for name in curator.session.options.classes),
        button("later", "", curator.skip),
        button("undo", "warning", curator.undo),
    ]
    return widgets.VBox([page, widgets.HBox(buttons), told])


# ---- pictures


def _pictures(curator: Curator, recording: Any, index: int, peak: int) -> list[tuple[str, NDArray[np.uint8]]]:
    """Named RGB pictures ``(rows, columns, 3)`` around a component; depth is projected (maximum)."""
    fov = recording.fov
    footprint = recording.footprints[:, [index]].toarray().reshape(fov)
    where = np.argwhere(footprint > 0)
    centre = where.mean(axis=0) if len(where) else np.array(fov) / 2
    size = [min(max(_SIDE, int(np.ptp(where[:, i])) + 9 if len(where) else 0), fov[i]) for i in (0, 1)]
    start = [int(np.clip(round(centre[i] - size[i] / 2), 0, fov[i] - size[i])) for i in (0, 1)]
    window = tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))
    images = [("footprint", footprint[window])]
    order = [name for name in ("Cn", "mean", "background", *recording.images) if name in recording.images]
    images += [(name, recording.images[name][window]) for name in list(dict.fromkeys(order))[:2]]
    event = _event(curator.movie, recording, window, peak)
    images += [("movie at its highest event", event)] if event is not None else []
    flat = [(name, image.max(axis=2) if image.ndim == 3 else image) for name, image in images]
    mask = flat[0][1] > 0.2 * max(flat[0][1].max(initial=0), 1e-12)
    return [(name, _rgb(image, None if name == "footprint" else mask)) for name, image in flat]


def _event(movie: Any, recording: Any, window: tuple[slice, ...], peak: int) -> NDArray[np.float32] | None:
    """What changes in the movie when the component is most active: frames around the peak minus frames before it."""
    if movie is None or len(movie) != recording.n_frames:
        return None
    width = max(1, round((recording.fps or 10) / 5))
    now = np.asarray(movie[(slice(max(0, peak - width // 2), peak + width), *window)], np.float32)
    before = np.asarray(movie[(slice(max(0, peak - 8 * width), max(1, peak - 3 * width)), *window)], np.float32)
    change: NDArray[np.float32] = np.nan_to_num(now.mean(axis=0) - before.mean(axis=0))
    return change


def _rgb(image: NDArray[Any], mask: NDArray[np.bool_] | None) -> NDArray[np.uint8]:
    """Grey from the 2 % to the 99.8 % quantile, magnified; the outline of `mask` in colour."""
    values = np.nan_to_num(np.asarray(image, np.float64))
    low, high = np.quantile(values, [0.02, 0.998]) if values.size else (0, 1)
    grey = np.clip((values - low) / max(high - low, 1e-12), 0, 1) * 255
    big = np.kron(grey, np.ones((_ZOOM, _ZOOM))).astype(np.uint8)
    out = np.repeat(big[:, :, None], 3, axis=2)
    if mask is not None:
        inside = np.pad(np.kron(mask, np.ones((_ZOOM, _ZOOM), bool)), 1)
        core = inside[1:-1, 1:-1] & inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
        out[inside[1:-1, 1:-1] & ~core] = _OUTLINE
    return out


def png(image: NDArray[np.uint8]) -> bytes:
    """An RGB picture ``(rows, columns, 3)`` as PNG (W3C's specification: three chunks, each row led by a filter byte)."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows, columns, _ = image.shape
    lines = np.concatenate([np.zeros((rows, 1), np.uint8), image.reshape(rows, -1)], axis=1)
    header = struct.pack(">IIBBBBB", columns, rows, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines.tobytes())) + chunk(b"IEND", b"")


def _picture(name: str, image: NDArray[np.uint8]) -> str:
    data = base64.b64encode(png(image)).decode()
    return f'<img src="data:image/png;base64,{data}" alt="{html.escape(name)}"><br><small>{html.escape(name)}</small>'


def _plot(trace: NDArray[np.float32]) -> str:
    """A trace ``(n_frames,)`` as SVG: least and greatest value of each column, so that no event is lost."""
    values = np.asarray(trace, np.float64)
    finite = np.isfinite(values)
    if not finite.any():
        return "<p>(no finite values)</p>"
    values = np.where(finite, values, values[finite].min())
    low, span = values.min(), max(float(np.ptp(values)), 1e-12)
    edges = np.linspace(0, len(values), min(_WIDTH, len(values)) + 1).astype(int)[:-1]
    x = np.linspace(0, _WIDTH, len(edges))
    y: Sequence[NDArray[np.float64]] = [
        (1 - (f.reduceat(values, edges) - low) / span) * (_HEIGHT - 4) + 2 for f in (np.minimum, np.maximum)
    ]
    points = " ".join(f"{a:.1f},{b:.1f} {a:.1f},{c:.1f}" for a, b, c in zip(x, *y, strict=True))
    return (
        f'<svg width="{_WIDTH}" height="{_HEIGHT}" role="img"><polyline points="{points}" fill="none" '
        f'stroke="currentColor" stroke-width="1"/></svg>'
    )
