"""Movies in files that hold many things: a dataset of an HDF5 file (also ``.mat`` v7.3 and NWB), an array of a Zarr store.

Which one is meant follows from its shape, so that no name need be known. Links that leave the file, values kept in other files, and codecs
that run code are never followed.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actsort_core._movie_axes import ArrayMovie, Axes, arrangements, check_frame, size_text
from actsort_core._movie_files import arranged, clear_errors
from actsort_core.errors import FormatError, MissingDependencyError

_MAX_OBJECTS = 10_000  # of an HDF5 file looked at before giving up
_MAX_CHUNK = 1 << 30  # bytes: a chunk is decoded as a whole
_MAX_JSON = 1 << 24
_MAX_ARRAYS = 1000
_DEPTH = 4
# Where registered frames are, in the words of those who write them: CaImAn's and EXTRACT's HDF5 movies, ciatah's, NWB's motion correction.
_REGISTERED = ("mov", "1", "corrected", "registered", "motioncorrect")
_RAW = ("acquisition", "raw")
_DAMAGED = "The file is damaged, or not what it seems."
# zarr 2 and 3 by name; never "pickle", whose chunks run code when they are read.
_CODECS = {"blosc", "zstd", "lz4", "lzma", "zlib", "gzip", "bz2", "delta", "shuffle", "quantize", "bitround", "fixedscaleoffset"}
_CODECS |= {"packbits", "crc32", "crc32c", "adler32", "fletcher32", "bytes", "transpose", "sharding_indexed", "astype"}

Given = tuple[Sequence[int] | None, int | None]  # field of view and number of frames that are looked for


@dataclass(frozen=True)
class Hdf5Array:
    """One dataset of an HDF5 file. The file is opened for each read: a handle that stays open would keep the host from saving."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[int, ...] | None

    def chunk(self, axis: int) -> int:
        """As the dataset is chunked."""
        return self.chunks[axis] if self.chunks else 1

    def load(self, axis: int, start: int, stop: int) -> NDArray[Any]:
        """See `Stored.load`."""
        with opened(self.path) as file:
            dataset = locate(file, self.name)
            if dataset is None or getattr(dataset, "shape", None) != self.shape or dataset.dtype != self.dtype:
                raise FormatError(f"{self.path}: /{self.name} is no longer of shape {self.shape}.", "It was written anew: open it again.")
            picked = [slice(None)] * len(self.shape)
            picked[axis] = slice(start, stop)
            return np.asarray(dataset[tuple(picked)])


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """An HDF5 file to read from; every error of h5py names it."""
    import h5py

    with clear_errors(path):
        try:
            file = h5py.File(path, "r")
        except (BlockingIOError, OSError) as error:
            text = str(error)
            if isinstance(error, FileNotFoundError | PermissionError):
                raise
            if isinstance(error, BlockingIOError) or "unable to lock" in text or "already open for write" in text:
                raise FormatError(
                    f"The movie {path} is open for writing in another program.",
                    "Close it there and try again (HDF5_USE_FILE_LOCKING=FALSE helps on network drives that cannot lock).",
                ) from error
            what = "is cut short" if "truncated file" in text else "cannot be opened as HDF5"
            raise FormatError(f"The movie {path} {what} ({text}).", "Copying or writing it was cut short: copy it again.") from error
        with file:
            try:
                yield file
            except OSError as error:
                if "not registered" in str(error) or "plugin" in str(error):  # e.g. Blosc, which h5py does not bring
                    raise MissingDependencyError(
                        f"The movie {path} is compressed in a way that h5py alone cannot read ({error}).",
                        "Install hdf5plugin and import it first, or save the movie with gzip.",
                    ) from error
                raise


def locate(group: Any, path: str) -> Any:
    """The object at `path`, through hard links and soft links inside the file; None where there is none."""
    import h5py

    here, pending, hops = group, list(PurePosixPath("/", path).parts[1:])[::-1], 0
    while pending:
        part = pending.pop()
        key = part.encode()
        if not isinstance(here, h5py.Group) or not here.id.links.exists(key):
            return None
        kind = here.id.links.get_info(key).type
        if kind == h5py.h5l.TYPE_HARD:
            here = here[part]
            continue
        hops += 1
        if kind != h5py.h5l.TYPE_SOFT or hops > 8:
            raise FormatError(f"{group.file.filename}: {path} is a link out of the file.", "Give the file that it points at.")
        target = here.id.links.get_val(key).decode("utf-8", "replace")
        here = here.file["/"] if target.startswith("/") else here
        pending += list(PurePosixPath(target).parts[target.startswith("/") :])[::-1]
    return here


def hdf5(path: Path, inner: str, given: Given, wanted: Callable[[str], bool] = lambda name: True) -> ArrayMovie:
    """The movie in an HDF5 file.

    Parameters
    ----------
    path, inner
        The file, and the dataset or the group in it where the movie is; empty for anywhere.
    given
        Field of view and number of frames that are looked for.
    wanted
        Which names (with their groups) are considered.

    Raises
    ------
    FormatError
        No dataset fits, or several do; the message lists what there is.
    """
    with opened(path) as file:
        top = locate(file, inner)
        if top is None:
            raise FormatError(f"{path} has no {inner}.", "Name a dataset that is in it, or none.")
        found = [array for array in _datasets(path, top) if wanted(array.name)]
        if not any(math.prod(array.shape) for array in found) and (files := _nwb_files(file)):
            raise FormatError(
                f"{path} keeps no frames itself: it says that they are in {', '.join(files)}.", "Give that file: --movie FILE"
            )
        movie = _choose(path, [(array.name, array) for array in found], given, dict.fromkeys(_nwb_series(file), 0))
        assert isinstance(movie.array, Hdf5Array)
        return replace(movie, notes=(*_unwritten(file, movie.array), *_odd_chunks(movie)))


def _unwritten(file: Any, array: Hdf5Array) -> list[str]:
    """Chunks that were never written read as zeros."""
    if array.chunks is None:
        return []
    wanted = math.prod(-(-n // chunk) for n, chunk in zip(array.shape, array.chunks, strict=True))
    there = locate(file, array.name).id.get_num_chunks()
    if there < wanted:
        return [f"{array.path}: /{array.name} has {there:,} of {wanted:,} chunks; the others are empty frames. Was it written to the end?"]
    return []


def _datasets(path: Path, top: Any) -> list[Hdf5Array]:
    import h5py

    found: list[Hdf5Array] = []
    pending, seen = [top], set()
    for _ in range(_MAX_OBJECTS):
        if not pending:
            return found
        here = pending.pop()
        address = h5py.h5o.get_info(here.id).addr
        if address in seen:  # hard links may form cycles
            continue
        seen.add(address)
        if isinstance(here, h5py.Group):
            links = here.id.links
            keys = [key for key in here.id if links.get_info(key).type == h5py.h5l.TYPE_HARD][::-1]
            pending += [here[key] for key in keys]
        elif isinstance(here, h5py.Dataset):
            with contextlib.suppress(TypeError):  # a type that NumPy has no word for
                if here.shape is not None and 3 <= len(here.shape) <= 6 and here.dtype.kind in "iufb":
                    found.append(_checked(path, here))
    return found


def _checked(path: Path, dataset: Any) -> Hdf5Array:
    array = Hdf5Array(path, dataset.name.strip("/"), tuple(dataset.shape), dataset.dtype, dataset.chunks)
    if dataset.external or dataset.is_virtual:
        return replace(array, dtype=np.dtype("O"))  # named in messages, never read
    return array


def _nwb_series(file: Any) -> set[str]:
    """Names of the datasets of image series in an NWB file: their first axis is time (NWB schema, ``ImageSeries.data``)."""
    if "nwb_version" not in file.attrs:
        return set()
    import h5py

    found: set[str] = set()

    def look(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and name.endswith("/data") and len(found) < _MAX_ARRAYS:
            found.add(name)

    for group in ("acquisition", "processing", "stimulus"):
        top = locate(file, group)
        if isinstance(top, h5py.Group):
            top.visititems(lambda name, item, group=group: look(f"{group}/{name}", item))
    return found


def _nwb_files(file: Any) -> list[str]:
    """The files in which image series of an NWB file say that their frames are (NWB schema, ``ImageSeries.external_file``)."""
    if "nwb_version" not in file.attrs:
        return []
    import h5py

    found: list[str] = []

    def look(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and name.endswith("/external_file") and item.ndim == 1 and len(found) < 6:
            with contextlib.suppress(OSError, TypeError, ValueError):
                found.extend(str(value) for value in item.asstr(errors="replace")[:6] if value)

    for group in ("acquisition", "processing"):
        top = locate(file, group)
        if isinstance(top, h5py.Group):
            top.visititems(look)
    return list(dict.fromkeys(found))


def _odd_chunks(movie: ArrayMovie) -> list[str]:
    if movie.chunk_frames > 1000 and movie.chunk_frames * 2 > movie.shape[0]:
        return [
            f"{movie.path} keeps {movie.chunk_frames:,} frames together in each chunk, so that every block of frames needs most of "
            "the file: reading is slow. Store it in chunks of whole frames."
        ]
    return []


def _choose(path: Path, arrays: Sequence[tuple[str, Any]], given: Given, time: dict[str, int]) -> ArrayMovie:
    """The one array that fits; among several the one whose name says that it is registered."""
    fov, n_frames = given
    arrays = [(name, array) for name, array in arrays if math.prod(array.shape)]
    fits: list[tuple[str, Any, list[Axes]]] = []
    for frames in dict.fromkeys((n_frames, None)):  # without the right number: `check_movie` says how many there are
        fits = [(name, array, found) for name, array in arrays if (found := arrangements(array.shape, fov, frames, time=time.get(name)))]
        if fits:
            break
    if not fits:
        shapes = ", ".join(f"/{name} {tuple(array.shape)}" for name, array in arrays[:6]) or "no array of three or four axes"
        wanted = f" frames of {size_text(fov)} pixels" if fov is not None else " movie"
        raise FormatError(
            f"{path} holds no{wanted}; there is {shapes}.", "Give the movie the toolkit worked on, neither cropped nor scaled since."
        )
    if len(fits) > 1:
        fits = [fit for fit in fits if any(_says(fit[0], word) for word in _REGISTERED)] or fits
        fits = [fit for fit in fits if not any(_says(fit[0], word) for word in _RAW)] or fits
    if len(fits) > 1 and fov is None:  # nothing is looked for: the largest
        fits = [max(fits, key=lambda fit: math.prod(fit[1].shape))]
    if len(fits) > 1:
        names = ", ".join(f"{path}/{name}" for name, _, _ in fits[:6])
        raise FormatError(f"{path} holds {len(fits)} movies that fit.", f"Say which: {names}")
    name, array, axes = fits[0]
    if array.dtype.kind == "O":
        raise FormatError(f"{path}: /{name} keeps its data in other files.", "Such data are not followed: give that file.")
    chunk = math.prod(array.chunks or ()) * array.dtype.itemsize
    if chunk > _MAX_CHUNK:
        raise FormatError(f"{path}: /{name} is stored in chunks of {chunk:,} bytes.", "Save it in chunks of whole frames, some MB each.")
    movie = ArrayMovie(array, axes[0], tuple(axes[1:]))
    check_frame(movie)
    return movie


def _says(name: str, word: str) -> bool:
    parts = [part.lower() for part in PurePosixPath(name).parts]
    return word in parts or (len(word) > 3 and any(word in part for part in parts))


# Zarr


def _zarr() -> Any:
    try:
        import zarr
    except ImportError as error:
        raise MissingDependencyError("Reading Zarr movies needs zarr.", "Install it: pip install 'actsort[movie]'") from error
    return zarr


@dataclass(frozen=True)
class ZarrArray:
    """One array of a Zarr store, of format 2 or 3, in a folder."""

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[int, ...]

    def chunk(self, axis: int) -> int:
        """As the array is chunked."""
        return self.chunks[axis]

    def load(self, axis: int, start: int, stop: int) -> NDArray[Any]:
        """See `Stored.load`."""
        library = _zarr()
        with clear_errors(self.path):
            array = library.open_array(str(self.path), mode="r")
            if tuple(array.shape) != self.shape or np.dtype(array.dtype) != self.dtype:
                raise FormatError(f"{self.path} is no longer of shape {self.shape}.", "It was written anew: open it again.")
            picked = [slice(None)] * len(self.shape)
            picked[axis] = slice(start, stop)
            return np.asarray(array[tuple(picked)])


def is_zarr(path: Path) -> bool:
    """Whether a folder is an array or a group of Zarr."""
    return any((path / name).is_file() for name in (".zarray", ".zgroup", "zarr.json"))


def zarr(path: Path, given: Given) -> ArrayMovie:
    """The movie in a Zarr store; which axis is which also from the names that xarray, NGFF and Zarr 3 give them."""
    with clear_errors(path):
        found = list(_zarr_arrays(path))
    fov, n_frames = given
    if len(found) == 1:
        array, names = found[0]
        movie = arranged(array, fov, n_frames, _named_axes(names, len(array.shape)))
        chunk = math.prod(array.chunks) * array.dtype.itemsize
        if chunk > _MAX_CHUNK:
            raise FormatError(f"{array.path} is stored in chunks of {chunk:,} bytes.", "Save it in chunks of whole frames, some MB each.")
    else:
        movie = _choose(path, [(array.path.relative_to(path).as_posix(), array) for array, _ in found], given, {})
        names = next(names for array, names in found if array is movie.array)
    said = [axes for axes in _named_axes(names, len(movie.array.shape)) if axes in (movie.axes, *movie.others)]
    movie = ArrayMovie(movie.array, said[0]) if said else movie
    assert isinstance(movie.array, ZarrArray)
    return replace(movie, notes=(*_missing_chunks(movie.array), *_odd_chunks(movie)))


def _zarr_arrays(top: Path) -> Iterator[tuple[ZarrArray, tuple[str, ...]]]:
    """The numeric arrays below a folder with the names of their axes, read from their JSON, without opening any of them."""
    pending, count = [(top, 0)], 0
    while pending and count < _MAX_ARRAYS:
        folder, depth = pending.pop()
        count += 1
        document = _json(folder / ".zarray") or _json(folder / "zarr.json")
        if document is not None and "shape" in document:
            shape = tuple(int(n) for n in document["shape"])
            if 3 <= len(shape) <= 6:
                yield _zarr_array(folder, document, shape), _zarr_names(folder, document, len(shape))
        elif depth < _DEPTH and is_zarr(folder):
            inside = sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())
            pending += [(path, depth + 1) for path in inside[:_MAX_ARRAYS][::-1] if is_zarr(path)]


def _zarr_array(folder: Path, document: dict[str, Any], shape: tuple[int, ...]) -> ZarrArray:
    if document.get("zarr_format") == 2:
        chunks, dtype = document["chunks"], document["dtype"]
        codecs = [document.get("compressor"), *(document.get("filters") or ())]
        names = [codec.get("id") for codec in codecs if isinstance(codec, dict)]
    else:
        chunks, dtype = document["chunk_grid"]["configuration"]["chunk_shape"], document["data_type"]
        names = list(_codec_names(document.get("codecs") or ()))
    strange = [name for name in names if str(name).removeprefix("numcodecs.") not in _CODECS]
    if strange:
        raise FormatError(f"{folder} is encoded with {strange[0]!r}, which is not read.", "Save it again with Blosc, zstd or gzip.")
    if not isinstance(dtype, str) or len(chunks) != len(shape) or min(map(int, chunks)) < 1 or min(shape) < 0:
        raise FormatError(f"{folder} holds values of type {dtype!r}, not numbers.", _DAMAGED)
    return ZarrArray(folder, shape, np.dtype(dtype), tuple(map(int, chunks)))


def _codec_names(codecs: Sequence[Any], depth: int = 0) -> Iterator[Any]:
    for codec in codecs if depth < _DEPTH else ():
        yield codec["name"] if isinstance(codec, dict) else codec
        if isinstance(codec, dict) and isinstance(codec.get("configuration"), dict):
            for key in ("codecs", "index_codecs"):
                yield from _codec_names(codec["configuration"].get(key) or (), depth + 1)


def _zarr_names(folder: Path, document: dict[str, Any], n_axes: int) -> tuple[str, ...]:
    """Names of the axes: Zarr 3's own, xarray's, or those of the image (NGFF, in the group above); else none."""
    attributes = document.get("attributes") or _json(folder / ".zattrs") or {}
    above = (_json(folder.parent / "zarr.json") or {}).get("attributes") or _json(folder.parent / ".zattrs") or {}
    scales = (above.get("ome") or above).get("multiscales") if isinstance(above, dict) else None
    axes = scales[0].get("axes") if isinstance(scales, list) and scales and isinstance(scales[0], dict) else None
    for names in (
        document.get("dimension_names"),
        attributes.get("_ARRAY_DIMENSIONS"),
        [axis.get("name") for axis in axes if isinstance(axis, dict)] if isinstance(axes, list) else None,
    ):
        if isinstance(names, list) and len(names) == n_axes and all(isinstance(name, str) for name in names):
            return tuple(names)
    return ()


def _named_axes(names: tuple[str, ...], n_axes: int) -> list[Axes]:
    """What the names of the axes say: xarray's and Minian's (frame, height, width), NGFF's (t, z, y, x)."""
    words = (("t", "time", "frame", "frames"), ("y", "height", "row", "rows"), ("x", "width", "column", "columns"), ("z", "depth", "plane"))
    found = [next((i for i, name in enumerate(names) if name.lower() in known), None) for known in words]
    if found[3] is None or n_axes == 3:
        found = found[:3]
    return [tuple(axis for axis in found if axis is not None)] if names and None not in found else []


def _missing_chunks(array: ZarrArray) -> list[str]:
    """Chunks that are not there read as zeros: a copy that was cut short would look like a dark movie."""
    wanted = math.prod(-(-n // chunk) for n, chunk in zip(array.shape, array.chunks, strict=True))
    there = sum(1 for path in array.path.rglob("*") if not path.name.startswith(".") and path.name != "zarr.json" and path.is_file())
    if there < wanted:
        return [f"{array.path} has {there:,} of {wanted:,} chunks; the others read as empty frames. Was copying it cut short?"]
    return []


def _json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    if path.stat().st_size > _MAX_JSON:
        raise FormatError(f"{path} is no description of an array ({path.stat().st_size:,} bytes).", _DAMAGED)
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path} is no JSON ({type(error).__name__}: {error}).", _DAMAGED) from error
    return found if isinstance(found, dict) else None
