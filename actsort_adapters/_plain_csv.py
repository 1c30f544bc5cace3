"""The plain layout as a folder of CSV tables, for people without NumPy: spreadsheets, R, MATLAB.

Every line is checked; a message names file and line.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
from numpy.typing import NDArray

from actsort_adapters._plain_fields import HELP, MATRICES, ORIGIN, Fields, check_fov, sparse
from actsort_core.errors import FormatError
from actsort_core.model import TraceArray

FOOTPRINTS, TRACES, CELLS, RECORDING = "footprints.csv", "traces.csv", "cells.csv", "recording.csv"
_CLOCK = ("", "frame", "frames", "time", "time_s", "t")  # names of a first column that is no candidate
_OWN = ("cell", "accepted", "probability", "index")
_YES, _NO, _OPEN = ("1", "1.0", "true", "yes", "accepted"), ("0", "0.0", "false", "no", "rejected"), ("", "-1", "-1.0", "nan", "undecided")
_SAFE = " _-.+()"  # what may stand in a file name as it is


def folders(path: Path) -> list[Path]:
    """The folders of tables that `path` stands for, in natural order; empty when there is none."""
    if not path.is_dir():
        return []
    if _is_one(path):
        return [path]
    inside = [child for child in path.iterdir() if child.is_dir() and _is_one(child)]
    return sorted(inside, key=lambda child: [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in re.split(r"([0-9]+)", child.name) if p])


def _is_one(folder: Path) -> bool:
    return (folder / TRACES).is_file() and (folder / FOOTPRINTS).is_file()


def read(folder: Path) -> Fields:
    """The tables of one folder.

    Raises
    ------
    FormatError
        A table is damaged, or tables disagree; names file and line.
    """
    told = _recording(folder / RECORDING)
    traces, seconds = _matrix(folder / TRACES)
    n_cells = traces.shape[0]
    images = {unquote(path.stem.removeprefix("image_")): _image(path) for path in sorted(folder.glob("image_*.csv"))}
    places, weights, cells = _entries(folder / FOOTPRINTS)
    fov, notes = _fov(folder, told, [image.shape for image in images.values()], places), []
    if not told:
        notes.append(f"There is no {RECORDING}; the field of view is taken to be {fov}.")
    for name, image in images.items():
        if image.size != math.prod(fov):
            raise FormatError(f"{folder / f'image_{name}.csv'} has shape {image.shape} in a field of view of {fov}.", HELP)
    for axis, size in enumerate(fov):
        worst = int(places[axis].max(initial=0))
        if worst >= size or int(places[axis].min(initial=0)) < 0:
            raise FormatError(f"{folder / FOOTPRINTS} has a pixel at {worst} of an axis of {size}.", "Rows and columns count from 0.")
    check_fov(folder, fov)
    pixels = np.ravel_multi_index(tuple(places), fov) if places.size else np.zeros(0, np.int64)
    fps = told.get("fps")
    if fps is None and seconds is not None:
        fps = str(seconds)
    own, metrics, ignored = _cells(folder / CELLS, n_cells) if (folder / CELLS).exists() else ({}, {}, [])
    if ignored:
        notes.append(f"Columns of {CELLS} that are no numbers were not used: {', '.join(ignored[:8])}.")
    others = {key: _matrix(folder / f"{key}.csv")[0] for key in MATRICES[1:] if (folder / f"{key}.csv").is_file()}
    return Fields(
        fov=fov,
        footprints=sparse(folder / FOOTPRINTS, fov, pixels, weights, cells, n_cells),
        traces=traces,
        fps=_float(fps, folder / RECORDING, 0) if fps else None,
        accepted=own.get("accepted"),
        probability=own.get("probability"),
        index=own["index"].astype(np.int64) if "index" in own and np.isfinite(own["index"]).all() else None,
        images={key: image.reshape(fov) for key, image in images.items()},
        metrics=metrics,
        texts={key: told[key] for key in ("name", "trace_kind", "movie", *ORIGIN) if key in told},
        notes=tuple(notes),
        **others,
    )


# Tables


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The lines of a table with their numbers, whatever separates the columns (comma, semicolon, tab); empty lines are left out."""
    if not path.is_file():  # a link to a device never ends
        raise FormatError(f"{path} is missing, or no file.", HELP)
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            first = handle.readline()
            handle.seek(0)
            mark = max(",;\t", key=first.count)
            reader = csv.reader(handle, delimiter=mark)
            for line in reader:
                if line:
                    yield reader.line_num, [value.replace(",", ".") for value in line] if mark == ";" else line
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        said = f"byte {error.start} of a line is no UTF-8" if isinstance(error, UnicodeDecodeError) else error
        raise FormatError(f"{path} could not be read as a table ({said}).", HELP) from error


def _float(text: str, path: Path, line: int) -> float:
    try:
        return float(text) if text.strip() else math.nan
    except ValueError:
        raise FormatError(f"{path}, line {line}: {text[:40]!r} is no number.", HELP) from None


def _numbers(values: Sequence[str], path: Path, line: int) -> list[float]:
    try:
        return [float(value) for value in values]  # the usual case, fast
    except ValueError:
        return [_float(value, path, line) for value in values]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _matrix(path: Path) -> tuple[NDArray[np.float32], float | None]:
    """Traces as ``(n_cells, n_frames)`` from one line per frame, and the frame rate where the first column is a time."""
    rows: list[NDArray[np.float32]] = []
    skip, width, times = 0, -1, []
    clock = ""
    for number, line in _lines(path):
        if width < 0:
            width = len(line)
            clock = line[0].strip().lower()
            named = not all(map(_is_number, line))
            skip = int(named and (clock in _CLOCK or clock.startswith("time")))
            if named or line == [str(i) for i in range(width)]:
                continue
        if len(line) != width:
            raise FormatError(f"{path}, line {number} has {len(line)} columns, the first line {width}.", "It may be cut off. " + HELP)
        values = _numbers(line, path, number)
        times += values[:skip]
        with np.errstate(over="ignore"):
            rows.append(np.array(values[skip:], np.float32))
    if width < 0:
        raise FormatError(f"{path} is empty.", HELP)
    traces = np.ascontiguousarray(np.stack(rows).T) if rows else np.zeros((width - skip, 0), np.float32)
    steps = np.diff(times) if clock.startswith("t") else np.zeros(0)
    rate = 1 / float(np.median(steps)) if len(steps) and np.median(steps) > 0 else None
    return traces, rate


def _image(path: Path) -> NDArray[np.float32]:
    rows = [np.array(_numbers(line, path, number), np.float32) for number, line in _lines(path)]
    if not rows or len({len(row) for row in rows}) > 1:
        raise FormatError(f"{path} is no image: its lines differ in length, or there is none.", HELP)
    return np.stack(rows)


def _entries(path: Path) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """Places ``(2 or 3, n_entries)``, weights and cells of the footprints."""
    columns: list[int] = []
    weight, rows = -1, []
    for number, line in _lines(path):
        if not columns:
            names = [name.strip().lower() for name in line]
            missing = [name for name in ("cell", "row", "column") if name not in names]
            if missing:
                raise FormatError(f"{path} has no column {missing[0]!r} in its first line.", "Its columns are cell, row, column, weight.")
            axes = ["row", "column", "depth"] if "depth" in names else ["row", "column"]
            columns = [names.index(name) for name in ("cell", *axes)]
            weight = names.index("weight") if "weight" in names else -1
            continue
        try:
            rows.append([float(line[i]) for i in columns] + [float(line[weight]) if weight >= 0 else 1.0])
        except (IndexError, ValueError):
            raise FormatError(f"{path}, line {number} is no footprint entry: {','.join(line)[:60]!r}.", "It may be cut off.") from None
    if not columns:
        raise FormatError(f"{path} is empty.", "Its first line names the columns: cell,row,column,weight.")
    table = np.array(rows, np.float64).reshape(-1, len(columns) + 1)
    whole = table[:, :-1]
    if not (np.isfinite(whole).all() and (whole == np.floor(whole)).all() and (np.abs(whole) < 2**31).all()):
        raise FormatError(f"{path}: cells, rows and columns are whole numbers, and some are not.", "They count from 0.")
    places = whole.astype(np.int64)
    with np.errstate(over="ignore"):
        return places[:, 1:].T, table[:, -1].astype(np.float32), places[:, 0]


def _fov(folder: Path, told: dict[str, str], shapes: Sequence[tuple[int, ...]], places: NDArray[np.int64]) -> tuple[int, ...]:
    given = [told[key] for key in ("rows", "columns", "depth") if told.get(key)]
    if len(given) >= 2:
        sizes = [_float(text, folder / RECORDING, 0) for text in given]
        if any(not size.is_integer() for size in sizes):
            raise FormatError(f"{folder / RECORDING} gives a field of view of {', '.join(given)}.", HELP)
        fov = tuple(int(size) for size in sizes)
    elif shapes and len(places) == 2:
        fov = (int(shapes[0][0]), int(shapes[0][1]))
    else:
        fov = tuple(int(axis.max(initial=0)) + 1 for axis in places)
    if len(fov) != len(places):
        raise FormatError(f"{folder / FOOTPRINTS} has {len(places)} coordinates in a field of view of {fov}.", HELP)
    check_fov(folder, fov)
    return fov


def _recording(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    return {line[0].strip().lower(): line[1].strip() for _, line in _lines(path) if len(line) >= 2}


def _cells(path: Path, n_cells: int) -> tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.float64]], list[str]]:
    """The columns `_OWN`, those that are metrics, and the names of the rest; by candidate."""
    lines = list(_lines(path))
    if not lines:
        raise FormatError(f"{path} is empty.", HELP)
    names = [name.strip() for name in lines[0][1]]
    rows = lines[1:]
    for number, line in rows:
        if len(line) != len(names):
            raise FormatError(f"{path}, line {number} has {len(line)} columns, the first line {len(names)}.", "It may be cut off.")
    order = _order(path, names, rows, n_cells)
    own: dict[str, NDArray[np.float64]] = {}
    metrics: dict[str, NDArray[np.float64]] = {}
    ignored: list[str] = []
    for column, name in enumerate(names):
        if name.lower() == "cell" or not name:
            continue
        texts = [line[column].strip() for _, line in rows]
        if name.lower() == "accepted":
            values = [_verdict(text, path, number) for text, (number, _) in zip(texts, rows, strict=True)]
        elif all(not text or _is_number(text) for text in texts):
            values = [float(text) if text else math.nan for text in texts]
        else:
            ignored.append(name)
            continue
        spread = np.full(n_cells, np.nan)
        spread[order] = values
        target, key = (own, name.lower()) if name.lower() in _OWN else (metrics, name.removeprefix("metric_"))
        target[key] = spread
    return own, metrics, ignored


def _order(path: Path, names: Sequence[str], rows: Sequence[tuple[int, list[str]]], n_cells: int) -> NDArray[np.int64]:
    """Which candidate each line is about."""
    lowered = [name.lower() for name in names]
    if "cell" not in lowered:
        order = np.arange(len(rows))
    else:
        column = lowered.index("cell")
        found = [_float(line[column], path, number) for number, line in rows]
        if any(not value.is_integer() for value in found):
            raise FormatError(f"{path}: the column cell holds what is no whole number.", "Cells count from 0.")
        order = np.array([int(value) for value in found], np.int64)
    if len(order) != n_cells or set(order.tolist()) != set(range(n_cells)):
        raise FormatError(f"{path} has {len(order)} lines of candidates, and there are {n_cells} traces.", "One line each, from 0.")
    return order


def _verdict(text: str, path: Path, line: int) -> float:
    word = text.lower()
    if word in _YES:
        return 1.0
    if word in _NO:
        return 0.0
    if word in _OPEN:
        return math.nan
    raise FormatError(f"{path}, line {line}: accepted is {text[:40]!r}.", "Use 1 for accepted, 0 for rejected, nothing for undecided.")


# Writing


def text32(value: float) -> str:
    """A float32 as text that reads back as the same float32."""
    return f"{value:.9g}"


def text64(value: float) -> str:
    """A float64 as text that reads back as the same; nothing for NaN."""
    return "" if math.isnan(value) else repr(float(value))


def write(folder: Path, fields: Fields) -> None:
    """Write the tables of one recording into `folder`, which exists."""
    told: list[tuple[str, Any]] = list(zip(("rows", "columns", "depth"), fields.fov, strict=False))
    told += [("fps", repr(float(fields.fps)))] if fields.fps is not None else []
    told += list(fields.texts.items())
    _save(folder / RECORDING, lambda out: out.writerows(told))
    matrix = fields.footprints
    places = np.unravel_index(matrix.indices.astype(np.int64), fields.fov)
    cells = np.repeat(np.arange(matrix.shape[1]), np.diff(matrix.indptr))

    def footprints(out: Any) -> None:
        out.writerow(["cell", *("row", "column", "depth")[: len(fields.fov)], "weight"])
        out.writerows(
            [cell, *place, text32(w)] for cell, *place, w in zip(cells.tolist(), *(p.tolist() for p in places), matrix.data, strict=True)
        )

    _save(folder / FOOTPRINTS, footprints)
    for key in MATRICES:
        if (source := getattr(fields, key)) is not None:
            _save(folder / f"{key}.csv", partial(_write_matrix, source))
    _save(folder / CELLS, lambda out: out.writerows(_cell_rows(fields)))
    for name, image in fields.images.items():
        _save(folder / f"image_{quote(name, safe=_SAFE)}.csv", partial(_write_image, np.asarray(image, np.float32)))


def _save(path: Path, fill: Callable[[Any], object]) -> None:
    with path.open("w", encoding="utf-8", newline="") as handle:
        fill(csv.writer(handle, lineterminator="\n"))


def _write_image(image: NDArray[np.float32], out: Any) -> None:
    out.writerows(map(text32, row) for row in image.reshape(-1, image.shape[-1]))


def _write_matrix(source: TraceArray, out: Any) -> None:
    n_cells, n_frames = source.shape
    values = np.asarray(source[0:n_cells], np.float32)  # a table of frames needs all candidates at once
    out.writerow(["frame", *range(n_cells)])
    out.writerows([frame, *map(text32, values[:, frame])] for frame in range(n_frames))


def _cell_rows(fields: Fields) -> Iterator[list[Any]]:
    n_cells = fields.footprints.shape[1]
    columns: dict[str, list[str]] = {}
    if fields.accepted is not None and fields.probability is not None:
        columns = verdict_columns(fields.accepted, fields.probability)
    if fields.index is not None:
        columns["index"] = [str(i) for i in fields.index]
    for name, values in fields.metrics.items():
        plain = name.lower() not in _OWN and not name.startswith("metric_") and name == name.strip() != ""
        columns[name if plain else f"metric_{name}"] = [text64(v) for v in values]
    yield ["cell", *columns]
    for cell in range(n_cells):
        yield [cell, *(values[cell] for values in columns.values())]


def verdict_columns(accepted: NDArray[np.float64], probability: NDArray[np.float64]) -> dict[str, list[str]]:
    """The columns a decision is written to: 1, 0 or nothing, and the probability."""
    return {"accepted": ["" if math.isnan(a) else str(int(a)) for a in accepted], "probability": [text64(p) for p in probability]}


def changed_cells(folder: Path, n_cells: int, columns: dict[str, list[str]]) -> bytes:
    """The content of ``cells.csv`` with these columns set; every other one keeps its text."""
    path = folder / CELLS
    lines = [line for _, line in _lines(path)] if path.exists() else [["cell"], *([str(i)] for i in range(n_cells))]
    names = [name.strip() for name in lines[0]]
    rows = [(number, line) for number, line in enumerate(lines[1:], 2)]
    order = _order(path, names, rows, n_cells)
    lowered = [name.lower() for name in names]
    for key, texts in columns.items():
        here = lowered.index(key) if key in lowered else -1
        if here < 0:
            names.append(key)
            for line in lines[1:]:
                line.append("")
        for line, cell in zip(lines[1:], order, strict=True):
            line[here] = texts[cell]
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([names, *lines[1:]])
    return out.getvalue().encode()
