"""Small NWB files made by hand with h5py, in the layout of any writer."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np

TEXT = h5py.string_dtype()
OPHYS = "processing/ophys"


def group(file, path, kind, namespace="core"):
    out = file.require_group(path)
    out.attrs["neurodata_type"], out.attrs["namespace"] = kind, namespace
    return out


def footprints(n_cells, fov, seed, blobs, inner):
    rng = np.random.default_rng(seed)
    out = np.zeros((n_cells, *fov), np.float32)
    for picture in out:
        if blobs:
            y, x = (rng.integers(4, size - 4) for size in fov)
            picture[y - 3 : y + 3, x - 3 : x + 3] = rng.uniform(0.5, 1, (6, 6))
        else:
            picture[...] = rng.random(fov) * (rng.random(fov) > 0.7)
    if inner:  # the last row and column stay empty, the ones before do not
        out[:, -1], out[:, :, -1] = 0, 0
        out[:1, fov[0] - 2, fov[1] - 2] = 1
    return out


def stored(pictures, writer, scramble):
    """Image masks as a writer stores them."""
    if writer == "suite2p":
        return pictures
    if writer == "caiman":  # a column in Fortran order, reshaped in C order
        order = "F" if scramble else "C"
        return np.stack([p.ravel(order=order).reshape(p.shape) for p in pictures]) if len(pictures) else pictures
    return np.swapaxes(pictures, 1, 2)  # x first


def build(
    path: Path,
    masks="image_mask",
    n_cells=4,
    n_frames=20,
    fov=(7, 9),
    writer="",
    table="PlaneSegmentation",
    flags=None,
    region=None,
    extra=None,
    main="Fluorescence/RoiResponseSeries",
    images=False,
    timestamps=None,
    dtype="f4",
    compression=None,
    rows_in_x=False,
    inner=False,
    blobs=False,
    scramble=True,
    seed=0,
    append=False,
):
    """A file with one table, or one more table in a file that is there (`append`); what it holds as ``(n_cells, *fov)`` and traces."""
    rng = np.random.default_rng(seed + 100)
    pictures = footprints(n_cells, fov, seed, blobs, inner)
    rows = np.arange(n_cells) if region is None else np.asarray(region)
    traces = rng.random((len(rows), n_frames)).astype(np.float32)
    with h5py.File(path, "r+" if append else "w") as file:
        file.attrs["nwb_version"], file.attrs["neurodata_type"] = "2.7.0", "NWBFile"
        file.require_group("acquisition")
        group(file, OPHYS, "ProcessingModule")
        group(file, f"{OPHYS}/ImageSegmentation", "ImageSegmentation")
        rois = group(file, f"{OPHYS}/ImageSegmentation/{table}", "PlaneSegmentation")
        rois.attrs["description"] = {"caiman": "CNMF_ROIs", "suite2p": "suite2p output"}.get(writer, "mine")
        rois["id"] = np.arange(n_cells)
        if masks == "image_mask":
            column(rois, masks, stored(pictures, writer, scramble).astype(dtype), compression)
        else:
            listed, ends = [], []
            for picture in pictures:
                y, x, *z = np.nonzero(picture)
                place = (y, x, *z) if rows_in_x else (x, y, *z)
                listed += list(zip(*place, picture[picture != 0], strict=True))
                ends.append(len(listed))
            fields = [*((axis, "<u4") for axis in "xyz"[: len(fov)]), ("weight", "<f4")]
            column(rois, masks, np.array(listed, fields))
            rois[f"{masks}_index"] = np.array(ends, np.uint16)
        for name, values in (flags or {}).items():
            column(rois, name, np.asarray(values, bool) if name in ("accepted", "rejected", "keep") and writer else np.asarray(values))
        rois.attrs.create("colnames", np.array([masks, *(flags or {})], object), dtype=TEXT)
        suffix = "" if table == "PlaneSegmentation" else table
        for place, factor in {main: 1.0, **(extra or {})}.items():
            container, _, name = place.partition("/")
            group(file, f"{OPHYS}/{container}", "DfOverF" if container == "DfOverF" else "Fluorescence")
            series = group(file, f"{OPHYS}/{container}/{name}{suffix}", "RoiResponseSeries")
            series["data"] = factor * traces.T
            series["rois"] = rows
            series["rois"].attrs["table"] = rois.ref
            if timestamps is None:
                series["starting_time"] = 0.0
                series["starting_time"].attrs["rate"] = 15.0
            else:
                series["timestamps"] = timestamps
        if images:
            group(file, f"{OPHYS}/Pictures", "Images")
            file[f"{OPHYS}/Pictures/mean"] = rng.random(fov).T
    return SimpleNamespace(path=path, footprints=pictures, traces=traces)


def column(table, name, values, compression=None):
    table.create_dataset(name, data=values, compression=compression)
    table[name].attrs["neurodata_type"], table[name].attrs["namespace"] = "VectorData", "hdmf-common"
    table[name].attrs["description"] = "no description"
