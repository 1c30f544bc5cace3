"""CNMF-E's results as a `Recording`: footprints from column-major pixels, traces, images, and whatever else is there."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from pathlib import Path, PureWindowsPath
from typing import Any, TypeVar

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from actsort_adapters import _mat
from actsort_adapters._cnmfe_layout import Source, places
from actsort_adapters._cnmfe_prior import prior
from actsort_adapters._mat import Node
from actsort_core.errors import FormatError
from actsort_core.model import Recording, TraceArray, as_footprints

_MAX_PIXELS = 2**31 - 1  # more would not fit the index type of a sparse footprint
_SCAN_NUMBERS = 1 << 26  # traces up to this size are checked for NaN while opening
_TAGS = {1: "few_pixels", 2: "no_spikes", 4: "poor_deconvolution", 8: "low_pnr"}  # Sources2D.tag_neurons_parallel
_DAMAGED = "The file is damaged, or was put together by hand."
T = TypeVar("T")


class SparseRows:
    """Traces that are mostly zero (spikes), expanded when asked for (a `TraceArray`)."""

    def __init__(self, matrix: sp.csr_matrix) -> None:
        self._matrix = matrix
        self.shape: tuple[int, ...] = matrix.shape

    def __getitem__(self, rows: slice) -> NDArray[np.float32]:
        """Some candidates, ``(n_rows, n_frames)`` float32."""
        return np.asarray(self._matrix[rows].toarray())


def recording(path: Path, source: Source, format_name: str) -> Recording:
    """Read what `source` points at; see ``CnmfeFormat.read``."""
    notes: list[str] = []
    place, file = source.place, source.file
    footprints, fov, sums = footprints_of(source, notes)
    n_cells = int(footprints.shape[1])
    traces, kind, denoised = _traces(source, n_cells, notes)
    spikes = _optional(lambda: _spikes(source, (n_cells, traces.shape[1]), notes), notes)
    others = [str(other) for other in places(file) if other != place]
    if others:
        notes.append(f"The file also holds {', '.join(others)}; {place} is used.")
    return Recording(
        name=path.stem,
        path=path,
        format=format_name,
        fov=fov,
        footprints=footprints,
        traces=traces,
        trace_kind=kind,
        fps=_fps(source),
        prior=prior(source, n_cells, sums, notes),
        metrics=_optional(lambda: _metrics(source, n_cells), notes) or {},
        images=_optional(lambda: _images(source, fov), notes) or {},
        denoised=denoised,
        spikes=spikes,
        movie_path=_optional(lambda: _movie(path, source), notes),
        info={
            "tool": place.layout.tool,
            "variable": place.variable,
            "matlab": file.version,
            "object": place.opaque,
            "tags": _optional(lambda: _tags(source, n_cells), notes) or {},
        },
        notes=tuple(notes),
    )


def _optional(read: Callable[[], T], notes: list[str]) -> T | None:
    """What `read` gives; where that part of the file is broken, None and a note: one bad extra must not keep a file shut."""
    try:
        return read()
    except FormatError as error:
        notes.append(f"Left out: {error.what}")
        return None


# Footprints


def footprints_of(source: Source, notes: list[str]) -> tuple[sp.csc_matrix, tuple[int, int], NDArray[np.float64]]:
    """Footprints in C order of pixels, the field of view, and the sum of each column of A as stored: its identity in the file."""
    layout = source.place.layout
    node = source.own(layout.footprints)
    if node is None:
        raise FormatError(f"{source.file.path}: {source.place} holds no {layout.footprints}.", "Was it saved before the extraction?")
    if node.kind == "sparse":
        matrix = node.sparse()
        fov = _fov(source, node, matrix.shape[0])
        pixels = matrix.indices.astype(np.int64)
        rows = pixels % fov[0] * fov[1] + pixels // fov[0]
        odd = int((~np.isfinite(matrix.data)).sum())
        with np.errstate(over="ignore", invalid="ignore"):
            sums = np.asarray(matrix.sum(axis=0), np.float64).ravel()
            matrix = sp.csc_matrix((matrix.data.astype(np.float32), rows, matrix.indptr), shape=(math.prod(fov), matrix.shape[1]))
    else:
        matrix, fov, sums, odd = _dense(source, node)
    out = as_footprints(matrix, math.prod(fov))
    if odd:
        notes.append(f"{odd} weights of the footprints are not finite; they count as 0.")
    if empty := int((np.diff(out.indptr) == 0).sum()):
        notes.append(f"{empty} candidates have an empty footprint.")
    return out, fov, sums


def _dense(source: Source, node: Node) -> tuple[sp.csc_matrix, tuple[int, int], NDArray[np.float64], int]:
    """A full matrix ``pixels x K`` or stack of images, a part at a time."""
    if node.opaque or node.kind in ("char", "struct", "cell", "function_handle"):
        raise FormatError(f"{node.where} is a {node.kind} of shape {node.shape}, not plain numbers.", _DAMAGED)
    shape, size = node.shape, math.prod(node.shape)
    flat = source.place.layout.footprints == "A" and len(shape) == 2
    if not flat and len(shape) == 2 and size:
        shape = (*shape, 1)  # MATLAB drops the last dimension of a stack of one image
    if len(shape) not in (2, 3):
        raise FormatError(f"{node.where} has the shape {node.shape}.", _DAMAGED)
    n_cells = shape[-1] if size else 0
    fov = (shape[0], shape[1]) if len(shape) == 3 and min(shape[:2]) else _fov(source, node, shape[0])
    sums, odd = np.zeros(n_cells), 0
    parts = [sp.csr_matrix((0, fov[0] * fov[1]), dtype=np.float32)]
    if n_cells:
        for first, part in node.slabs():
            count = part.shape[-1] if len(node.shape) == len(shape) else 1
            images = np.asarray(part).reshape((*fov, count), order="F")
            odd += int((~np.isfinite(images)).sum()) if images.dtype.kind == "f" else 0
            with np.errstate(over="ignore", invalid="ignore"):
                sums[first : first + count] = images.sum(axis=(0, 1), dtype=np.float64)
                parts.append(sp.csr_matrix(np.moveaxis(images, 2, 0).reshape(count, -1).astype(np.float32)))
    return sp.csc_matrix(sp.vstack(parts).T), fov, sums, odd


def _fov(source: Source, node: Node, n_pixels: int) -> tuple[int, int]:
    """The field of view: from the options, or from an image of as many pixels as the footprints have."""
    sizes = [(source.number("options.d1"), source.number("options.d2")), (source.number("d1"), source.number("d2"))]
    sizes.append((source.number("height"), source.number("width")))
    for name in dict.fromkeys((*source.place.layout.images.values(), "Cn", "PNR")):
        image = source.get(name)
        if image is not None and len(image.shape) == 2 and min(image.shape) > 1:
            sizes.append((float(image.shape[0]), float(image.shape[1])))
    told = [(int(h), int(w)) for h, w in sizes if 1 <= h <= _MAX_PIXELS and 1 <= w <= _MAX_PIXELS and h == int(h) and w == int(w)]
    for height, width in told:
        if height * width <= _MAX_PIXELS and (height * width == n_pixels or not math.prod(node.shape)):
            return height, width
    if not told:
        hint = "Add a variable options with fields d1 and d2 (rows, columns), or the correlation image Cn, to the file."
        raise FormatError(f"{source.file.path} does not say how large the field of view of {n_pixels} pixels is.", hint)
    listed = ", ".join(f"{h} x {w}" for h, w in dict.fromkeys(told))
    raise FormatError(f"{node.where} has {n_pixels} pixels, which is not {listed}.", "They are not from the same extraction.")


# Traces


def _node(source: Source, name: str, n_cells: int, notes: list[str]) -> tuple[Node, int] | None:
    """A field of traces and the axis of its candidates; None where it is missing or empty."""
    node = source.own(name)
    if node is None or node.kind == "cell" or (math.prod(node.shape) == 0 and (n_cells or len(node.shape) != 2)):
        return None
    axis = source.place.layout.cells
    if len(node.shape) == 2 and node.shape[axis] != n_cells and node.shape[1 - axis] == n_cells:
        axis = 1 - axis
        if n_cells:
            notes.append(f"{name} is stored the other way round ({node.shape[0]} x {node.shape[1]}).")
    if len(node.shape) != 2 or node.shape[axis] != n_cells or (n_cells and not node.shape[1 - axis]):
        raise FormatError(f"{node.where} has the shape {node.shape} for {n_cells} footprints.", _DAMAGED)
    return node, axis


def _array(node: Node, axis: int) -> TraceArray:
    if node.kind == "sparse":
        matrix = node.sparse() if axis == 0 else node.sparse().T
        with np.errstate(over="ignore", invalid="ignore"):
            return SparseRows(sp.csr_matrix(matrix, dtype=np.float32))
    return node.traces(axis)


def _traces(source: Source, n_cells: int, notes: list[str]) -> tuple[TraceArray, str, TraceArray | None]:
    layout = source.place.layout
    raw = _node(source, layout.raw, n_cells, notes)
    denoised_node = _optional(lambda: _node(source, layout.denoised, n_cells, notes), notes) if raw else None
    denoised_node = denoised_node if raw else _node(source, layout.denoised, n_cells, notes)
    denoised = _optional(lambda: _array(*denoised_node), notes) if raw and denoised_node else None
    if raw:
        traces = _array(*raw)
        if denoised is not None and denoised.shape != traces.shape:
            notes.append(f"{layout.denoised} has the shape {denoised.shape}, {layout.raw} {traces.shape}: the former is left out.")
            denoised = None
    elif denoised_node:
        traces = denoised = _array(*denoised_node)
        notes.append(f"There is no {layout.raw}: the traces are the denoised ones ({layout.denoised}), without their noise.")
    elif n_cells:
        raise FormatError(f"{source.file.path}: {source.place} holds no traces.", "Was it saved before the extraction?")
    else:
        traces = denoised = np.zeros((0, 0), np.float32)
    if math.prod(traces.shape) <= _SCAN_NUMBERS:
        step = max(1, (1 << 24) // max(1, traces.shape[1]))
        odd = sum(int((~np.isfinite(traces[i : i + step])).any(axis=1).sum()) for i in range(0, n_cells, step))
        if odd:
            notes.append(f"The traces of {odd} candidates hold values that are not finite.")
    return traces, "C_raw" if raw else "C", denoised


def _spikes(source: Source, shape: tuple[int, int], notes: list[str]) -> TraceArray | None:
    found = _node(source, source.place.layout.spikes, shape[0], notes)
    if found is None:
        return None
    spikes = _array(*found)
    if tuple(spikes.shape) != shape:
        notes.append(f"{source.place.layout.spikes} has the shape {spikes.shape}, the traces {shape}: it is left out.")
        return None
    return spikes


# The rest


def _fps(source: Source) -> float | None:
    rates = (source.number(name) for name in ("Fs", "framerate", "frameRate"))
    return next((rate for rate in rates if math.isfinite(rate) and rate > 0), None)


def _metrics(source: Source, n_cells: int) -> dict[str, NDArray[np.float64]]:
    """Numbers per candidate that CNMF-E keeps in the order of A. Not P.sn_neuron: neither delete nor orderROIs touches it."""
    found: dict[str, NDArray[np.float64]] = {}
    pars = source.get("P.kernel_pars")
    if (
        pars is not None
        and len(pars.shape) == 2
        and pars.shape[0] == n_cells
        and 1 <= pars.shape[1] <= 2
        and pars.kind in ("double", "single")
    ):
        found |= {f"kernel_par_{i + 1}": column.astype(np.float64) for i, column in enumerate(pars.array().T)}
    for name in ("PNR", "SNR", "pnr", "snr"):
        values = _mat.vector(source.own(name))
        if values is not None and values.shape == (n_cells,) and n_cells > 1:
            found[name] = values.astype(np.float64)
    return found


def _images(source: Source, fov: tuple[int, int]) -> dict[str, NDArray[np.float32]]:
    images = {}
    for ours, theirs in source.place.layout.images.items():
        node = source.get(theirs)
        if node is not None and node.shape == fov and node.kind in ("double", "single"):
            with np.errstate(over="ignore", invalid="ignore"):
                images[ours] = np.ascontiguousarray(node.array(), np.float32)
    return images


def _tags(source: Source, n_cells: int) -> dict[str, int]:
    """How often each bit of the tags is set: to show, never to decide (orderROIs leaves tags in the order of before)."""
    values = _mat.vector(source.own("tags"))
    if values is None or values.shape != (n_cells,) or values.dtype.kind not in "iuf" or not np.isfinite(values).all():
        return {}
    bits = values.astype(np.int64)
    return {name: count for bit, name in _TAGS.items() if (count := int((bits & bit != 0).sum()))}


def _movie(path: Path, source: Source) -> Path | None:
    """The movie CNMF-E worked on: where it was, or beside the result (results are often moved without it)."""
    node = source.own("file")
    stored: Any = node.text() if node is not None and not node.opaque else None
    if not stored:
        return None
    beside = path.parent / PureWindowsPath(stored).name
    for candidate in (Path(stored), beside) if Path(stored).is_absolute() else (beside,):
        with contextlib.suppress(OSError, ValueError):  # a name this system does not allow
            if candidate.is_file() and candidate != path:
                return candidate
    return None
