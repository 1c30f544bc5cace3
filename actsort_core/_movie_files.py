"""Movies in plain files: raw binaries (Suite2p's data.bin, CaImAn's memory maps, NumPy's), ``.npy``, TIFF and BigTIFF."""

from __future__ import annotations

import contextlib
import math
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actsort_core._movie_axes import ArrayMovie, Axes, JoinedMovie, arrangements, check_array, check_frame, size_text
from actsort_core.errors import ActsortError, FormatError, MissingDependencyError, MissingFileError

TIFF_ENDINGS = (".tif", ".tiff", ".btf", ".tf8")
RAW_ENDINGS = (".bin", ".dat", ".raw", ".mmap", ".memmap", ".int16", ".uint16")
_SPAN = 1 << 24  # bytes mapped at once: what is mapped counts as memory of the process
_TILE = 64  # pixels whose time courses are turned into frames together
_PAGE = 4096
_KEPT = 2  # TIFF files kept open per thread
# caiman/paths.py, memmap_frames_filename and decode_mmap_filename_dict; until 2022 a `_` came before the ending, and d3 may be missing.
_MMAP = re.compile(r"(?:^|_)d1_(\d+)_d2_(\d+)(?:_d3_(\d+))?_order_([CF])_frames_(\d+)_?\.(?:mmap|npy)$")
_DAMAGED = "Copying or writing it was cut short, or it is not what its name says."


@contextmanager
def clear_errors(path: Path) -> Iterator[None]:
    """Turn whatever reading a movie makes Python, NumPy or a library raise into an error that names the file."""
    try:
        yield
    except ActsortError:
        raise
    except FileNotFoundError as error:
        raise MissingFileError(f"The movie {path} does not exist.", "If it was moved, say where it is now: --movie PATH") from error
    except PermissionError as error:
        raise FormatError(f"The movie {path} may not be read.", "Check its permissions.") from error
    except MemoryError as error:
        raise FormatError(f"The movie {path} asks for more memory than there is.", _DAMAGED) from error
    except Exception as error:  # libraries raise what they like over damaged files
        raise FormatError(f"The movie {path} cannot be read ({type(error).__name__}: {error}).", _DAMAGED) from error


# Raw binaries


@dataclass(frozen=True)
class RawArray:
    """Values one after another in a file, in C order of `shape`, beginning at byte `offset`."""

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int = 0

    def chunk(self, axis: int) -> int:
        """Frames are single where time is slowest; elsewhere a page of the file holds several of each pixel."""
        inner = math.prod(self.shape[axis + 1 :]) * self.dtype.itemsize
        return 1 if axis == 0 else max(1, _PAGE // max(1, inner))

    def load(self, axis: int, start: int, stop: int) -> NDArray[Any]:
        """See `Stored.load`. Where time is slowest the file is read, not mapped: a map of a long movie would count as memory."""
        with clear_errors(self.path):
            inner = self.shape[axis + 1 :]
            if axis == 0:
                step = math.prod(inner)
                out = np.fromfile(self.path, self.dtype, (stop - start) * step, offset=self.offset + start * step * self.dtype.itemsize)
                if out.size != (stop - start) * step:
                    raise FormatError(f"The movie {self.path} ends before frame {stop}.", _DAMAGED)
                return out.reshape(stop - start, *inner)
            outer, length, step = math.prod(self.shape[:axis]), self.shape[axis], math.prod(inner)
            out = np.empty((stop - start, outer, step), self.dtype)  # frame after frame: turned while it is in the processor's cache
            stride = length * step * self.dtype.itemsize
            rows = max(1, _SPAN // max(1, stride))
            for first in range(0, outer, rows):
                last = min(outer, first + rows)
                part = np.memmap(self.path, self.dtype, "r", self.offset + first * stride, (last - first, length, step))
                for tile in range(0, last - first, _TILE):
                    turned = part[tile : tile + _TILE, start:stop].swapaxes(0, 1)
                    out[:, first + tile : first + tile + turned.shape[1]] = turned
            return out.swapaxes(0, 1).reshape(*self.shape[:axis], stop - start, *inner)


def memory_map_dims(path: Path) -> tuple[tuple[int, ...], str, int] | None:
    """What the name of one of CaImAn's memory maps says: field of view, order, number of frames; None for any other name."""
    found = _MMAP.search(path.name)
    if found is None:
        return None
    d1, d2, d3, order, frames = found.groups()
    fov = (int(d1), int(d2)) if d3 in (None, "1") else (int(d1), int(d2), int(d3))
    return fov, order, int(frames)


def memory_map(path: Path) -> ArrayMovie | None:
    """One of CaImAn's memory maps: float32, ``(n_pixels, n_frames)`` in the order its name says, pixels in Fortran order; else None.

    Host: ``caiman/mmapping.py:load_memmap`` (there also as ``.npy``, of the same shape and name).
    """
    said = memory_map_dims(path)
    if said is None:
        return None
    fov, order, frames = said
    dtype, offset = np.dtype("<f4"), 0
    if path.suffix == ".npy":
        stored = _npy_array(path)
        if stored.shape not in ((math.prod(fov), frames), (frames, math.prod(fov))):
            return None
        dtype, offset = stored.dtype, stored.offset
    expected = math.prod(fov) * frames * dtype.itemsize + offset
    size = _size(path)
    if size != expected or not expected:
        raise FormatError(
            f"{path} has {size:,} bytes; the {frames} frames of {size_text(fov)} in its name make {expected:,}.",
            "Copying it was cut short, or CaImAn had not finished writing it: copy it again.",
        )
    pixels = tuple(range(len(fov)))[::-1]  # Fortran order: the last axis of the field of view is slowest
    shape = (*fov[::-1], frames) if order == "C" else (frames, *fov[::-1])
    axes = (len(fov), *pixels) if order == "C" else (0, *(1 + axis for axis in pixels))
    return ArrayMovie(RawArray(path, shape, dtype, offset), axes)


def raw(path: Path, fov: Sequence[int] | None, n_frames: int | None) -> ArrayMovie:
    """A binary without header, frame after frame in C order: Suite2p's ``data.bin`` (int16), or what ``numpy.memmap`` wrote.

    The size of the values follows from that of the file. Two bytes are int16 in ``*.bin``, as Suite2p writes it; elsewhere whichever of
    int16 and uint16 makes the first frames span less: read with the wrong sign they wrap around.
    """
    size = _size(path)
    if fov is None:
        raise FormatError(f"{path} does not say how large its frames are.", "Open it together with the result it belongs to.")
    pixels = math.prod(fov)
    if path.suffix == ".bin":
        width = 2
    elif n_frames is None:
        raise FormatError(f"{path} does not say what kind of numbers it holds.", "Open it together with the result it belongs to.")
    else:
        width = size // max(1, pixels * n_frames)
    types = {1: "<u1", 2: "<i2", 4: "<f4", 8: "<f8"}
    frames = size // max(1, pixels * width) if width else 0
    if not frames or width not in types or frames * pixels * width != size:
        kind = "int16" if path.suffix == ".bin" else "uint8, int16, float32 or float64"
        raise FormatError(
            f"{path} has {size:,} bytes, which is no whole number of frames of {size_text(fov)} {kind}"
            + (f"; {n_frames} frames were expected." if n_frames is not None else "."),
            "It is cut short, or of another field of view or type of numbers.",
        )
    dtype = np.dtype(types[width])
    if width == 2 and path.suffix != ".bin":
        with clear_errors(path):
            first = np.fromfile(path, "<i2", min(8, frames) * pixels)
        if np.ptp(first.view("<u2").astype(np.int64)) < np.ptp(first.astype(np.int64)):
            dtype = np.dtype("<u2")
    return ArrayMovie(RawArray(path, (frames, *fov), dtype), tuple(range(len(fov) + 1)))


def _npy_array(path: Path) -> RawArray:
    with clear_errors(path):
        found = np.load(path, mmap_mode="r", allow_pickle=False)  # a map: nothing is allocated for what the header claims
        if not isinstance(found, np.memmap):
            raise FormatError(f"{path} is no NumPy array on disk.", "Save the movie with numpy.save.")
        shape = found.shape if found.flags.c_contiguous else found.shape[::-1]
        return RawArray(path, tuple(shape), found.dtype, int(found.offset))


def npy(path: Path, fov: Sequence[int] | None, n_frames: int | None) -> ArrayMovie:
    """A ``.npy`` array of three or four axes, in C or Fortran order."""
    array = _npy_array(path)
    check_array(array, str(path))
    with clear_errors(path):
        fortran = bool(np.load(path, mmap_mode="r", allow_pickle=False).flags.f_contiguous) and len(array.shape) > 1
    usual = tuple(range(len(array.shape)))
    return arranged(array, fov, n_frames, [usual[::-1] if fortran else usual])


def arranged(array: Any, fov: Sequence[int] | None, n_frames: int | None, natural: Sequence[Axes] = (), what: str = "") -> ArrayMovie:
    """The likeliest movie in an array.

    Raises
    ------
    FormatError
        It has no such frames in it, however its axes are read.
    """
    name = what or str(array.path)
    check_array(array, name)
    fits = arrangements(array.shape, fov, n_frames, natural)
    if not fits and n_frames is not None:  # other frames of that field of view: `check_movie` says it better
        fits = arrangements(array.shape, fov, None, natural)
    if not fits:
        wanted = f" of {size_text(fov)} pixels" if fov is not None else ""
        raise FormatError(
            f"{name} is of shape {tuple(array.shape)}: no frames{wanted}.",
            "It is another movie, or it was cropped or scaled before the cells were extracted: give the movie the toolkit worked on.",
        )
    movie = ArrayMovie(array, fits[0], tuple(fits[1:]))
    check_frame(movie)
    return movie


# TIFF


def _tifffile() -> Any:
    try:
        import tifffile
    except ImportError as error:
        raise MissingDependencyError("Reading TIFF movies needs tifffile.", "Install it: pip install 'actsort[movie]'") from error
    return tifffile


_open_files = threading.local()


def _open_tiff(path: Path) -> Any:
    """The file, kept open in this thread: finding frame 90,000 of a stack means walking through all those before it, once."""
    cache: OrderedDict[tuple[int, str, int, int], Any] = _open_files.__dict__.setdefault("cache", OrderedDict())
    found = path.stat()
    key = (os.getpid(), str(path), found.st_size, found.st_mtime_ns)  # a forked process would share the place in the file with its parent
    if key in cache:
        cache.move_to_end(key)
        return cache[key]
    while len(cache) >= _KEPT:
        cache.popitem(last=False)[1].close()
    cache[key] = _tifffile().TiffFile(path)
    return cache[key]


@dataclass(frozen=True)
class TiffArray:
    """The first series of a TIFF file whose pages are compressed, or scattered over the file.

    Attributes
    ----------
    lead
        Axes of `shape` that count pages; the others are those of a page.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    lead: int

    def chunk(self, axis: int) -> int:
        """Pages are read one by one."""
        return 1

    def load(self, axis: int, start: int, stop: int) -> NDArray[Any]:
        """See `Stored.load`; `axis` is one of those that count pages."""
        with clear_errors(self.path):
            pages = np.arange(math.prod(self.shape[: self.lead])).reshape(self.shape[: self.lead]).take(range(start, stop), axis)
            out = _open_tiff(self.path).asarray(key=[int(page) for page in pages.ravel()])
            return np.asarray(out).reshape(*pages.shape, *self.shape[self.lead :])


def tiff(path: Path, fov: Sequence[int] | None, n_frames: int | None) -> ArrayMovie:
    """A TIFF or BigTIFF stack: pages as any writer leaves them, or one block behind a single page, as ImageJ does above 4 GB."""
    library = _tifffile()
    with clear_errors(path):
        with library.TiffFile(path) as file:
            if not file.series:
                raise FormatError(f"{path} holds no images.", _DAMAGED)
            series = file.series[0]
            shape, dtype = tuple(int(n) for n in series.shape), np.dtype(series.dtype)
            keyframe, offset = series.keyframe, series.dataoffset
            page, n_pages = tuple(int(n) for n in keyframe.shape), len(file.pages)
            byteorder = file.byteorder
            plain = offset is not None and int(keyframe.compression) == 1 and keyframe.is_final
        if len(shape) == 2:
            shape = (1, *shape)
        if plain and dtype.itemsize:
            if offset + math.prod(shape) * dtype.itemsize > _size(path):
                raise FormatError(f"{path} is cut short: it should hold {shape[0]} frames.", "Copy it again.")
            array: Any = RawArray(path, shape, dtype.newbyteorder(byteorder), int(offset))
        else:
            lead = len(shape) - len(page)
            if lead < 1 or shape[lead:] != page or math.prod(shape[:lead]) > n_pages:
                raise FormatError(f"{path} is a kind of TIFF that is not read in blocks.", "Save it as a plain stack, one page a frame.")
            array = TiffArray(path, shape, dtype, lead)
        last = len(shape) - 1
    movie = arranged(array, fov, n_frames, [(0, 1, 2)] if len(shape) == 3 else [(0, 2, 3, 1)] if len(shape) == 4 else [])
    if isinstance(array, TiffArray) and movie.axes[0] >= array.lead:
        raise FormatError(f"{path} does not hold one page a frame (shape {shape}).", "Save it as a plain stack, one page a frame.")
    rows, columns = movie.axes[1:3]
    # The pages of a TIFF are images, rows before columns: nothing else is meant where that fits.
    others = tuple(axes for axes in movie.others if axes[1] < axes[2]) if rows < columns <= last else movie.others
    return ArrayMovie(array, movie.axes, others, movie.notes)


def tiff_folder(folder: Path, files: Sequence[Path], fov: Sequence[int] | None) -> JoinedMovie:
    """TIFF files one after another, in the order of the numbers in their names (Suite2p's ``reg_tif``: ``file000_chan0.tif``...)."""
    ordered = sorted(files, key=lambda path: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)])
    parts = tuple(tiff(path, fov, None) for path in ordered)
    differing = next((part for part in parts if part.shape[1:] != parts[0].shape[1:]), None)
    if differing is not None:
        raise FormatError(
            f"{differing.path} has frames of {size_text(differing.shape[1:])} pixels, "
            f"{parts[0].path.name} of {size_text(parts[0].shape[1:])}.",
            "Keep the files of one movie in a folder of their own.",
        )
    return JoinedMovie(folder, parts)


def tiff_files(folder: Path) -> list[Path]:
    """The TIFF files in a folder; none where it may not be looked into."""
    with contextlib.suppress(OSError):
        return [path for path in folder.iterdir() if path.suffix.lower() in TIFF_ENDINGS and path.is_file()]
    return []


def _size(path: Path) -> int:
    with clear_errors(path):
        return path.stat().st_size
