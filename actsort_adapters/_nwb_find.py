"""What an NWB file holds about ROIs: tables of candidates, the traces that point into them, images. No data are read here.

Names and types: the NWB schema, nwb.ophys.yaml and hdmf-common's table.yaml. Only hard links under /processing are walked: raw data
are often links to other files, and nothing here needs them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actsort_adapters import _hdf5
from actsort_core.errors import ActsortError, FormatError

MASKS = ("image_mask", "pixel_mask", "voxel_mask")
OURS = "ROIs written by ActSort"  # the description of our own tables
_MAX_DEPTH, _MAX_GROUPS = 8, 20_000
_MAX_ROWS = 10_000_000


@dataclass(frozen=True)
class Series:
    """One RoiResponseSeries: traces of the table's rows `region`.

    Attributes
    ----------
    path
        Of the group.
    kind
        ``"raw"``, ``"corrected"``, ``"denoised"``, ``"neuropil"``, ``"spikes"``, ``"dff"``, ``"background"`` or ``"other"``.
    region
        ``(n,)`` int64, rows of the table, one per trace.
    n_frames
        Length of the traces.
    frames_last
        Whether the data lie as ``(n, n_frames)``, against the schema.
    """

    path: str
    kind: str
    region: NDArray[np.int64]
    n_frames: int
    frames_last: bool


@dataclass
class Table:
    """One PlaneSegmentation.

    Attributes
    ----------
    path, module
        Of the group, and of the processing module it is in.
    writer
        ``"suite2p"``, ``"caiman"``, ``"neuroconv"``, ``"actsort"`` or ``""``.
    n_rows
        ROIs, candidates or not.
    columns
        Names of the columns, as the file spells them.
    number
        In our own files, which recording it is; else 0.
    series
        Traces that point into it.
    """

    path: str
    module: str
    writer: str
    n_rows: int
    columns: tuple[str, ...]
    number: int = 0
    series: list[Series] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.rpartition("/")[2]


@dataclass(frozen=True)
class Part:
    """The rows of one table that make one recording.

    Attributes
    ----------
    name
        Of the recording.
    table
        Where they are.
    rows
        ``(n_cells,)`` int64, rising.
    number
        0-based position among the parts of the file: ``Backgrounds_1`` goes with part 1.
    """

    name: str
    table: Table
    rows: NDArray[np.int64]
    number: int


def label(obj: Any, name: str) -> str:
    """A text attribute, ``""`` when there is none."""
    value = _hdf5.attribute(obj, name)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else ""


def names(obj: Any, name: str) -> tuple[str, ...]:
    """A list-of-texts attribute."""
    value = _hdf5.attribute(obj, name)
    if not isinstance(value, np.ndarray) or value.ndim != 1:
        return ()
    return tuple(part.decode("utf-8", "replace") if isinstance(part, bytes) else str(part) for part in value.tolist())


def walk(file: Any) -> Iterator[tuple[str, Any]]:
    """All groups under /processing, each once, with their paths; never through soft or external links."""
    import h5py

    start = _hdf5.group(file, "processing")
    pending = [("/processing", start, 0)] if start is not None else []
    seen: set[int] = set()
    while pending:
        path, group, depth = pending.pop()
        with _hdf5.clear_errors(f"{file.filename}: {path}"):
            address = h5py.h5o.get_info(group.id).addr
            if address in seen:  # hard links may form cycles
                continue
            seen.add(address)
            if len(seen) > _MAX_GROUPS:
                raise FormatError(f"{file.filename} has more than {_MAX_GROUPS} groups under /processing.", "Is it damaged?")
            yield path, group
            below = []
            for key in group.id if depth < _MAX_DEPTH else ():
                if group.id.links.get_info(key).type == h5py.h5l.TYPE_HARD:
                    child = h5py.h5o.open(group.id, key)
                    if isinstance(child, h5py.h5g.GroupID):
                        below.append((f"{path}/{key.decode('utf-8', 'replace')}", h5py.Group(child), depth + 1))
            pending.extend(reversed(below))


def is_table(group: Any) -> bool:
    """Whether `group` is a PlaneSegmentation, or an extension's table of ROIs with masks."""
    keys = {key.encode() for key in MASKS}
    return bool(keys & set(group.id)) and b"id" in set(group.id)


def find_tables(file: Any, notes: list[str]) -> list[Table]:
    """All tables of candidates with the traces that point into them."""
    tables: list[Table] = []
    addresses: dict[int, Table] = {}
    groups = list(walk(file))
    by_neuroconv = "neuroconv" in (_optional_text(file, "general/source_script") + label(file, "generated_by")).lower()
    for path, group in groups:
        if is_table(group):
            if "background" in path.rpartition("/")[2].lower():
                continue  # neuroconv's BackgroundPlaneSegmentation: CaImAn's background components
            table = _table(path, group, by_neuroconv)
            tables.append(table)
            addresses[_address(group)] = table
    for path, group in groups:
        keys = set(group.id)
        if b"rois" in keys and b"data" in keys:
            found = _series_table(path, group, addresses, tables, notes)
            if found is not None and (series := _series(path, group, found, notes)) is not None:
                found.series.append(series)
    return sorted(tables, key=lambda table: (table.number, _natural(table.path)))


def _natural(path: str) -> list[list[tuple[int, str]]]:
    """Plane2 before Plane10, ophys before ophys1; HDF5 itself lists by name."""
    return [[(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]{1,9})", name)] for name in path.split("/")]


def _optional_text(file: Any, path: str) -> str:
    try:
        return _hdf5.text(file, path) or ""
    except ActsortError:
        return ""


def _address(group: Any) -> int:
    import h5py

    return int(h5py.h5o.get_info(group.id).addr)


def _table(path: str, group: Any, by_neuroconv: bool) -> Table:
    ids = _hdf5.dataset(group, "id")
    if ids is None or len(ids.shape) != 1 or ids.shape[0] > _MAX_ROWS:
        raise FormatError(f"{_hdf5.where(group, 'id')} is no list of ROIs.", "The file is damaged.")
    listed = names(group, "colnames")
    there = {key.decode("utf-8", "replace") for key in group.id}
    columns = tuple(name for name in listed if name in there) or tuple(sorted(there - {"id"}))
    module = "/".join(path.split("/")[:3])
    numbered = re.match(OURS + r" \(([0-9]{1,6}) of ", label(group, "description"))
    number = int(numbered[1]) if numbered else 0
    return Table(path, module, _writer(group, columns, by_neuroconv), int(ids.shape[0]), columns, number)


def _writer(group: Any, columns: tuple[str, ...], by_neuroconv: bool) -> str:
    """Who wrote a table: the axis order of masks depends on it (docs/formats/nwb.md)."""
    description, have = label(group, "description"), set(columns)
    if description.startswith(OURS):
        return "actsort"
    if have & {"roi_name", "ROICentroids"} or by_neuroconv:
        return "neuroconv"
    if description == "suite2p output" or ("iscell" in have and have & {"pixel_mask", "voxel_mask"}):
        return "suite2p"  # suite2p/io/nwb.py save_nwb
    if description == "CNMF_ROIs" or ({"r", "snr", "image_mask"} <= have and have & {"accepted", "keep"}):
        return "caiman"  # caiman/source_extraction/cnmf/estimates.py save_NWB
    return "neuroconv" if {"Accepted", "Rejected"} <= have or description == "Segmented ROIs" else ""


def _series_table(path: str, group: Any, addresses: dict[int, Table], tables: list[Table], notes: list[str]) -> Table | None:
    """The table that the ``rois`` of a series point into; None for a table that is not one of ours."""
    import h5py

    try:
        rois = _hdf5.dataset(group, "rois")
    except ActsortError as error:
        notes.append(f"The traces {path} are left out. {error.what}")
        return None
    if rois is None:
        return None
    with _hdf5.clear_errors(_hdf5.where(group, "rois")):
        if "table" in rois.attrs and h5py.check_ref_dtype(rois.attrs.get_id("table").dtype) is h5py.Reference:
            reference = rois.attrs["table"]
            target = h5py.h5r.dereference(reference, rois.id) if reference else None
            return addresses.get(int(h5py.h5o.get_info(target).addr)) if isinstance(target, h5py.h5g.GroupID) else None
    return tables[0] if len(tables) == 1 else None


def _series(path: str, group: Any, table: Table, notes: list[str]) -> Series | None:
    """The traces at `path`; None with a note where they do not fit their table."""
    try:
        region = _hdf5.array(group, "rois", "iu")
        data = _hdf5.dataset(group, "data")
    except ActsortError as error:
        notes.append(f"The traces {path} are left out. {error.what}")
        return None
    if region is None or data is None or region.ndim != 1 or data.dtype.kind not in "iuf" or len(data.shape) not in (1, 2):
        notes.append(f"The traces {path} are left out: they are not numbers of rows of {table.path}.")
        return None
    rows = region.astype(np.int64)
    if len(rows) and (rows.min() < 0 or rows.max() >= table.n_rows or len(np.unique(rows)) < len(rows)):
        notes.append(f"The traces {path} are left out: their ROIs are not rows of {table.path}, each once.")
        return None
    shape = tuple(data.shape) if len(data.shape) == 2 else (int(data.shape[0]), 1)
    if shape[1] == len(rows):
        n_frames, frames_last = shape[0], False
    elif shape[0] == len(rows):
        n_frames, frames_last = shape[1], True
        notes.append(f"The traces {path} lie with their frames in columns, against NWB's schema; they are read that way.")
    else:
        notes.append(f"The traces {path} are left out: they have shape {shape} for {len(rows)} ROIs.")
        return None
    container, _, own = path.rpartition("/")
    return Series(path, _kind(container.rpartition("/")[2], own, table.writer), rows, int(n_frames), frames_last)


_KINDS = (
    ("background", ("background",)),
    ("other", ("chan2", "channel2", "baseline", "residual")),
    ("neuropil", ("neuropil",)),
    ("spikes", ("deconv", "spike", "spks", "event")),
    ("denoised", ("denoised",)),
    ("dff", ("dfoverf", "df_over_f", "dff", "df/f", "deltaf")),
    ("corrected", ("corrected",)),
)


def _kind(container: str, own: str, writer: str) -> str:
    """What traces are, by the names that writers give them; in our own files the container alone says it."""
    for text in (container.lower(), own.lower() if writer != "actsort" else ""):
        for kind, words in _KINDS:
            if any(word in text for word in words) and not (kind == "neuropil" and "corrected" in text):
                return kind
    return "raw"


def find_parts(tables: list[Table], stem: str, notes: list[str]) -> list[Part]:
    """The recordings of a file: per table the largest sets of rows that traces point into, and that do not overlap.

    Background components are rows, too (CaImAn's last ones): no trace but their own points at them.
    """
    found: list[tuple[Table, NDArray[np.int64], str]] = []
    for table in tables:
        own = [s for s in table.series if s.kind not in ("background", "neuropil", "other")]
        sets: list[NDArray[np.int64]] = []
        for series in sorted(own, key=lambda s: -len(s.region)):
            rows = np.sort(series.region)
            if not any(np.array_equal(rows, kept) for kept in sets) and not any(np.isin(rows, kept).any() for kept in sets):
                if not len(rows) and sets:
                    continue
                sets.append(rows)
        if not sets:
            notes.append(f"{table.path} has {table.n_rows} ROIs but no traces: it is left out.")
        used = sum(len(rows) for rows in sets)
        if sets and used < table.n_rows:
            what = f"{table.n_rows - used} of the {table.n_rows} rows of {table.path}"
            notes.append(f"No candidates: {what} (no trace but a background's points there).")
        sets.sort(key=lambda rows: int(rows[0]) if len(rows) else 0)
        for rows in sets:
            first = next(s for s in own if np.array_equal(np.sort(s.region), rows))
            found.append((table, rows, first.path.rpartition("/")[2] if len(sets) > 1 else table.name))
    if len(found) == 1:
        return [Part(stem, found[0][0], found[0][1], 0)]
    taken: set[str] = set()
    parts = []
    for number, (table, rows, name) in enumerate(found):
        if sum(name == other for _, _, other in found) > 1:  # two modules with a PlaneSegmentation each
            name = f"{table.module.rpartition('/')[2]}-{name}"
        if name in taken:
            name = f"{name}-{number}"
        taken.add(name)
        parts.append(Part(name, table, rows, number))
    return parts
