"""Opening a movie whatever wrote it, and checking it against a result. Public through `movies`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from actsort_core import _movie_files as files
from actsort_core import _movie_stores as stores
from actsort_core._movie_axes import ArrayMovie, FileMovie, size_text
from actsort_core.errors import FormatError, MissingFileError
from actsort_core.model import Movie, Recording

HDF5_ENDINGS = (".h5", ".hdf5", ".hdf", ".he5", ".mat", ".nwb", ".nc")
_STRONGEST, _AROUND, _LOOKED_AT = 12, 8, 300  # candidates, frames around the peak of each, of how many candidates
_MARGIN = 4  # pixels around a footprint that count as its surround
_SAMPLED = 5  # frames that go into a signature

# Opening


def open_movie(
    path: Path | str, recording: Recording | None = None, *, fov: Sequence[int] | None = None, n_frames: int | None = None
) -> FileMovie:
    """Open a movie of any kind that is read.

    Suite2p's ``data.bin`` and ``reg_tif``, CaImAn's memory maps, HDF5 (also ``.mat`` v7.3 and NWB), TIFF and BigTIFF stacks and folders of
    them, ``.npy`` and raw NumPy memory maps, and Zarr. A dataset in an HDF5 file or a Zarr store is named as if the file were a folder:
    ``movie.h5/mov``; without a name the one that fits is taken.

    Parameters
    ----------
    path
        File or folder.
    recording
        The result it belongs to: then field of view, number of frames and, where shapes leave it open, rows and columns are taken from it.
        Frames are not compared: see `check_movie`.
    fov, n_frames
        The same, where there is no recording. Some kinds can be read without.

    Returns
    -------
    movie
        A `Movie` with, besides, ``dtype``, ``chunk_frames`` (read multiples of it) and ``notes``.

    Raises
    ------
    MissingFileError, FormatError
        It is not there; it is damaged, of a kind that is not read, or holds no such frames.
    MissingDependencyError
        TIFF and Zarr need the extra ``movie``.
    """
    if recording is not None:
        fov, n_frames = recording.fov, recording.n_frames
    movie = _open(Path(path), fov, n_frames, recording.name if recording is not None else "")
    if recording is not None and movie.others and isinstance(movie, ArrayMovie) and movie.shape[0] == n_frames:
        return _oriented(movie, recording)
    return movie


def _open(path: Path, fov: Sequence[int] | None, n_frames: int | None, name: str) -> FileMovie:
    given = (fov, n_frames)
    container, inner = split(path)
    if container.is_dir():
        return _open_folder(container, fov, n_frames, name)
    mapped = files.memory_map(container) if container.suffix in (".mmap", ".npy") else None
    if mapped is not None:
        return mapped
    with files.clear_errors(container), container.open("rb") as handle:
        head = handle.read(520)
    if inner or head.startswith(b"\x89HDF\r\n\x1a\n") or head[512:].startswith(b"\x89HDF\r\n") or _is_hdf5(container):
        return stores.hdf5(container, inner, given)
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return files.tiff(container, fov, n_frames)
    if head.startswith(b"\x93NUMPY"):
        return files.npy(container, fov, n_frames)
    if container.suffix.lower() in files.RAW_ENDINGS:
        return files.raw(container, fov, n_frames)
    if head.startswith(b"MATLAB 5.0"):
        raise FormatError(
            f"{container} is a MATLAB file that can only be read as a whole.", "Save the movie with '-v7.3', or as HDF5 or TIFF."
        )
    raise FormatError(
        f"{container} is no movie of a kind that is read.",
        "Read are data.bin of Suite2p, .mmap of CaImAn, HDF5 (.h5, .hdf5, .mat v7.3, .nwb), TIFF, .npy, .raw, .dat and Zarr.",
    )


def split(path: Path) -> tuple[Path, str]:
    """The file or folder on disk, and what is named in it (``movie.h5/mov``)."""
    try:
        if path.exists():
            return path, ""
        for above in path.parents:
            if above.is_file():
                return above, path.relative_to(above).as_posix()
    except OSError:  # a name this system does not allow
        pass
    raise MissingFileError(f"The movie {path} does not exist.", "If it was moved, say where it is now: --movie PATH")


def _is_hdf5(path: Path) -> bool:
    if path.suffix.lower() not in HDF5_ENDINGS:
        return False
    import h5py

    return bool(h5py.is_hdf5(path))


def _open_folder(folder: Path, fov: Sequence[int] | None, n_frames: int | None, name: str) -> FileMovie:
    if stores.is_zarr(folder):
        return stores.zarr(folder, (fov, n_frames))
    # A plane of Suite2p, or the folder of all planes; data_raw.bin is not registered.
    tried = [folder / part / "data.bin" for part in ("", name, f"suite2p/{name}") if part != "suite2p/"]
    for path in tried:
        if path.is_file():
            return files.raw(path, fov, n_frames)
    for place in (folder / "reg_tif", folder / name / "reg_tif", folder):
        if found := files.tiff_files(place):
            return files.tiff_folder(place, found, fov) if len(found) > 1 else files.tiff(found[0], fov, n_frames)
    raise FormatError(
        f"There is no movie in {folder.resolve()}: no data.bin, TIFF or Zarr store.",
        "Movies of other kinds are not guessed from a folder; give the file: --movie FILE",
    )


# Checking


def check_movie(movie: Movie, recording: Recording) -> None:
    """Make sure that a movie has the frames and the field of view of a result.

    Raises
    ------
    FormatError
        It has not; the message says both sizes and what is likely the matter.
    """
    if tuple(movie.shape) == (recording.n_frames, *recording.fov):
        return
    frames, fov = movie.shape[0], tuple(movie.shape[1:])
    what = (
        f"The movie {movie.path} has {frames:,} frames of {size_text(fov)} pixels; "
        f"{recording.name} has {recording.n_frames:,} frames of {size_text(recording.fov)}."
    )
    if fov != recording.fov:
        hint = "It was cropped or scaled before the cells were extracted: give the movie the toolkit worked on."
    elif recording.n_frames and frames and frames % recording.n_frames == 0:
        hint = f"The result may come from a movie averaged over {frames // recording.n_frames} frames: give that one."
    elif frames < recording.n_frames:
        hint = "It is only a part, or copying it was cut short."
    else:
        hint = "It holds more than the result was made from, or is another recording: give the movie the toolkit worked on."
    raise FormatError(what, hint)


def agreement(movie: Movie, recording: Recording) -> float | None:
    """How well a movie's frames go with the traces of a result, in [-1, 1]; None where there are too few candidates or frames to say.

    The median, over the strongest candidates, of the correlation of the trace with the frames under the footprint less those around it
    (which in one-photon movies would drown the cell), near their peaks.
    Near 1 for the movie a result came from (and still high if it was registered differently); near 0 for another one, or with rows and
    columns exchanged. A hundred frames are read.
    """
    chosen = _strongest(recording)
    width = min(_AROUND, recording.n_frames)
    starts = sorted({min(max(0, peak - width // 2), recording.n_frames - width) for _, peak, _ in chosen})
    frames = sorted({frame for start in starts for frame in range(start, start + width)})
    if not chosen or len(frames) < 5:
        return None
    place = {frame: i for i, frame in enumerate(frames)}
    seen = np.zeros((len(frames), len(chosen)))
    weights = np.stack([_against_surround(recording, index) for index, _, _ in chosen])
    for start in starts:
        block = np.asarray(movie.read(start, start + width), np.float64).reshape(width, -1)
        block[~np.isfinite(block)] = 0
        seen[[place[start + i] for i in range(width)]] = block @ weights.T
    found = [_correlation(seen[:, i], trace[frames]) for i, (_, _, trace) in enumerate(chosen)]
    found = [value for value in found if np.isfinite(value)]
    return float(np.median(found)) if found else None


def _against_surround(recording: Recording, index: int) -> NDArray[np.float64]:
    """``(n_pixels,)``: the footprint with sum 1, less the mean of the other pixels in a box a little wider than it."""
    bounds = recording.footprints.indptr[index : index + 2]
    pixels, values = recording.footprints.indices[slice(*bounds)], recording.footprints.data[slice(*bounds)].astype(np.float64)
    body = np.unravel_index(pixels[np.abs(values) >= 0.2 * np.abs(values).max()], recording.fov) if len(pixels) else ()
    around = np.zeros(recording.fov)
    around[tuple(slice(max(0, int(places.min()) - _MARGIN), int(places.max()) + _MARGIN + 1) for places in body)] = 1
    around = around.ravel()
    around[pixels] = 0
    out: NDArray[np.float64] = -around / max(1.0, float(around.sum()))
    out[pixels] = values / max(float(values.sum()), 1e-300)
    return out


def _strongest(recording: Recording) -> list[tuple[int, int, NDArray[np.float64]]]:
    """Of a few hundred candidates those whose peaks stand out most: index, frame of the peak, trace."""
    found = []
    sizes = np.diff(recording.footprints.indptr)
    for index in np.unique(np.linspace(0, recording.n_cells - 1, min(recording.n_cells, _LOOKED_AT)).astype(int)):
        trace = np.asarray(recording.traces[slice(int(index), int(index) + 1)], np.float64).reshape(-1)
        if len(trace) > 2 and np.isfinite(trace).all() and sizes[index]:
            noise = np.median(np.abs(np.diff(trace)))
            if noise > 0:
                found.append(((trace.max() - np.median(trace)) / noise, int(index), int(trace.argmax()), trace))
    found.sort(key=lambda item: (-item[0], item[1]))
    return [(index, peak, trace) for _, index, peak, trace in found[:_STRONGEST]]


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / norm if norm else float("nan")


def _oriented(movie: ArrayMovie, recording: Recording) -> ArrayMovie:
    """Of several readings of the axes (a square field of view) the one whose frames go with the traces."""
    readings = [replace(movie, axes=axes, others=()) for axes in (movie.axes, *movie.others)]
    found = [agreement(reading, recording) for reading in readings]
    if found[0] is None:
        return readings[0]
    best = max(range(len(readings)), key=lambda i: -2.0 if found[i] is None else float(found[i] or 0.0))
    if best == 0:
        return readings[0]
    note = f"Rows and columns of {movie.path} are read the other way round, as the traces say (the field of view is square)."
    return replace(readings[best], notes=(*movie.notes, note))


def signature(movie: Movie) -> str:
    """What a cache of something computed from a movie depends on: its shape and a few frames' content, not its place or name."""
    hasher = hashlib.blake2b(digest_size=16)
    hasher.update(repr(tuple(int(n) for n in movie.shape)).encode())
    for frame in np.unique(np.linspace(0, movie.shape[0] - 1, min(movie.shape[0], _SAMPLED)).astype(int)):
        hasher.update(np.ascontiguousarray(movie.read(int(frame), int(frame) + 1), "<f8").tobytes())
    return hasher.hexdigest()
