"""Movies: every kind gives the same frames; the right one is found, a wrong one is refused; sessions remember where it is.

That real results agree with their real movies was checked on results of Suite2p 1.1.0 and CaImAn 1.12.1 (docs/movies.md); here movies
are made from footprints and traces, in the layouts those tools write.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.sparse as sp
from click.testing import CliRunner
from conftest import simulated

from actsort_core import movies
from actsort_core.cli import main
from actsort_core.errors import FormatError, MissingDependencyError, MissingFileError, UsageError
from actsort_core.model import Prior, Recording
from actsort_core.opening import read
from actsort_core.simulate import simulate

Make = Callable[[Path, np.ndarray], Path]


def frames_of(recording: Recording, seed: int = 0, dtype: str = "<i2", noise: float = 3.0) -> np.ndarray:
    """The movie the recording could have come from, ``(n_frames, *fov)``."""
    rng = np.random.default_rng(seed)
    clean = (recording.footprints @ np.asarray(recording.traces[0 : recording.n_cells])).T.reshape(recording.n_frames, *recording.fov)
    return np.round(10 * (clean + rng.normal(0, noise, clean.shape)) + 500).astype(dtype)


@pytest.fixture
def recording() -> Recording:
    return simulated()[0]


@pytest.fixture
def square() -> Recording:
    return simulate(n_cells=30, fov=(36, 36), n_frames=150, seed=3)[0]


def to_mmap(order: str, name: str = "memmap__d1_{0}_d2_{1}_d3_{2}_order_{3}_frames_{4}.mmap") -> Make:
    def make(folder: Path, frames: np.ndarray) -> Path:
        n, *fov = frames.shape
        pixels = np.stack([frame.ravel(order="F") for frame in frames], axis=1).astype(np.float32)  # (d, T), as caiman/mmapping.py
        path = folder / name.format(fov[0], fov[1], fov[2] if len(fov) == 3 else 1, order, n)
        path.write_bytes(pixels.tobytes(order=order))
        return path

    return make


def to_bin(folder: Path, frames: np.ndarray) -> Path:
    (folder / "data.bin").write_bytes(frames.astype("<i2").tobytes())
    return folder / "data.bin"


def to_hdf5(**options: Any) -> Make:
    def make(folder: Path, frames: np.ndarray) -> Path:
        with h5py.File(folder / "movie.h5", "w") as file:
            file["timestamps"] = np.arange(len(frames))
            file.create_dataset("Data/Images", data=frames, **options)
        return folder / "movie.h5"

    return make


def to_matlab(folder: Path, frames: np.ndarray) -> Path:
    with h5py.File(folder / "movie.mat", "w", userblock_size=512) as file:
        file["Y"] = frames.transpose([0, *range(frames.ndim - 1, 0, -1)])
    with (folder / "movie.mat").open("r+b") as handle:
        handle.write(b"MATLAB 7.3 MAT-file")
    return folder / "movie.mat"


def to_nwb(folder: Path, frames: np.ndarray) -> Path:
    with h5py.File(folder / "movie.nwb", "w") as file:
        file.attrs["nwb_version"] = "2.6.0"
        file["acquisition/TwoPhotonSeries/data"] = frames
    return folder / "movie.nwb"


def to_npy(order: str, dtype: str = "<f4") -> Make:
    def make(folder: Path, frames: np.ndarray) -> Path:
        np.save(folder / "movie.npy", np.asarray(frames, dtype, order=order))
        return folder / "movie.npy"

    return make


def to_raw(dtype: str) -> Make:
    def make(folder: Path, frames: np.ndarray) -> Path:
        frames.astype(dtype).tofile(folder / "movie.dat")
        return folder / "movie.dat"

    return make


def to_tiff(**options: Any) -> Make:
    def make(folder: Path, frames: np.ndarray) -> Path:
        tifffile = pytest.importorskip("tifffile")
        tifffile.imwrite(folder / "movie.tif", frames, photometric="minisblack", **options)
        return folder / "movie.tif"

    return make


def to_scattered_tiff(folder: Path, frames: np.ndarray) -> Path:
    """Page after page, each with a directory of its own: what libtiff and ScanImage write."""
    tifffile = pytest.importorskip("tifffile")
    with tifffile.TiffWriter(folder / "movie.tif") as writer:
        for frame in frames:
            writer.write(frame, photometric="minisblack", contiguous=False, metadata=None)
    return folder / "movie.tif"


def to_reg_tif(folder: Path, frames: np.ndarray) -> Path:
    """As Suite2p's reg_tif: 11 files, so that 10 comes after 9 and not after 1; the last has one frame."""
    tifffile = pytest.importorskip("tifffile")
    (folder / "reg_tif").mkdir()
    for k, start in enumerate([*range(0, 110, 11), len(frames) - 1]):
        part = frames[start : start + 11] if k < 9 else frames[start : len(frames) - 1] if k == 9 else frames[-1]
        tifffile.imwrite(folder / "reg_tif" / f"file{k}_chan0.tif", part)
    return folder / "reg_tif"


def to_zarr(format_: int, name: str = "", **options: Any) -> Make:
    def make(folder: Path, frames: np.ndarray) -> Path:
        zarr = pytest.importorskip("zarr")
        if format_ == 3 and int(zarr.__version__.split(".")[0]) < 3:
            pytest.skip("zarr 2 writes no format 3")
        version = {"zarr_format": format_} if int(zarr.__version__.split(".")[0]) >= 3 else {}
        path = folder / "movie.zarr"
        if name:
            zarr.open_group(str(path), mode="w", **version)
        array = zarr.open_array(
            str(path / name), mode="w", shape=frames.shape, dtype=frames.dtype, chunks=(50, *(n // 2 + 1 for n in frames.shape[1:])),
            **version, **options
        )  # fmt: skip
        array[:] = frames
        return path

    return make


KINDS: dict[str, Make] = {
    "data.bin": to_bin,
    "mmap C": to_mmap("C"),
    "mmap F": to_mmap("F"),
    "mmap of 2019": to_mmap("C", "Yr_els__d1_{0}_d2_{1}_d3_{2}_order_{3}_frames_{4}_.mmap"),
    "mmap without d3": to_mmap("F", "a_d1_{0}_d2_{1}_order_{3}_frames_{4}.mmap"),
    "hdf5": to_hdf5(),
    "hdf5 gzip": to_hdf5(chunks=(16, 16, 16), compression="gzip"),
    "hdf5 of one chunk": to_hdf5(chunks=(120, 5, 5), compression="gzip", shuffle=True),
    "matlab": to_matlab,
    "nwb": to_nwb,
    "npy C": to_npy("C"),
    "npy F": to_npy("F", ">f8"),
    "raw uint16": to_raw("<u2"),
    "raw float32": to_raw("<f4"),
    "raw float64": to_raw("<f8"),
    "tiff": to_tiff(),
    "tiff big": to_tiff(bigtiff=True, byteorder=">"),
    "tiff deflate": to_tiff(compression="zlib", predictor=True),
    "tiff imagej": to_tiff(imagej=True),
    "tiff scattered": to_scattered_tiff,
    "reg_tif": to_reg_tif,
    "zarr 2": to_zarr(2),
    "zarr 2 in a group": to_zarr(2, "Y_fm_chk"),
    "zarr 3": to_zarr(3),
    "zarr 3 in a group": to_zarr(3, "0"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same_frames(kind: str, recording: Recording, tmp_path: Path) -> None:
    frames = frames_of(recording, dtype="<u2" if kind == "tiff imagej" else "<i2")
    movie = movies.open_movie(KINDS[kind](tmp_path, frames), recording)
    movies.check_movie(movie, recording)
    assert movie.shape == frames.shape == (120, 30, 41)
    assert not movie.notes
    for start, stop in ((0, 120), (0, 1), (7, 58), (119, 120), (30, 30)):
        block = movie.read(start, stop)
        assert block.dtype == movie.dtype == movie.dtype.newbyteorder("=")
        assert block.flags.c_contiguous
        assert np.array_equal(block, frames[start:stop])
    assert np.array_equal(pickle.loads(pickle.dumps(movie)).read(3, 5), frames[3:5])
    assert 1 <= movie.chunk_frames <= 120


@pytest.mark.parametrize(
    "kind", ["data.bin", "mmap C", "mmap F", "hdf5", "matlab", "nwb", "npy C", "npy F", "raw float32", "zarr 2", "zarr 3"]
)
def test_volumes(kind: str, tmp_path: Path) -> None:
    recording = simulate(n_cells=6, fov=(9, 12, 5), n_frames=60, seed=2)[0]
    frames = frames_of(recording)
    movie = movies.open_movie(KINDS[kind](tmp_path, frames), recording)
    assert movie.shape == (60, 9, 12, 5)
    assert np.array_equal(movie.read(11, 37), frames[11:37])


def test_planes_of_a_tiff_volume_become_the_last_axis(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    recording = simulate(n_cells=6, fov=(9, 12, 5), n_frames=60, seed=2)[0]
    frames = frames_of(recording, dtype="<u2")
    for options in ({"imagej": True, "metadata": {"axes": "TZYX"}}, {"compression": "zlib"}):
        tifffile.imwrite(tmp_path / "v.tif", frames.transpose(0, 3, 1, 2), photometric="minisblack", **options)
        assert np.array_equal(movies.open_movie(tmp_path / "v.tif", recording).read(11, 37), frames[11:37])


def test_frames_that_are_not_there_are_refused(recording: Recording, tmp_path: Path) -> None:
    movie = movies.open_movie(to_bin(tmp_path, frames_of(recording)), recording)
    for start, stop in ((-1, 3), (0, 121), (5, 4)):
        with pytest.raises(UsageError, match="frames 0 to 120"):
            movie.read(start, stop)


def test_a_movie_says_its_own_size_where_it_knows_it(tmp_path: Path, recording: Recording) -> None:
    frames = frames_of(recording)
    for kind in ("mmap C", "hdf5", "npy C", "nwb"):
        assert movies.open_movie(KINDS[kind](tmp_path, frames)).shape == frames.shape
    with pytest.raises(FormatError, match="how large"):
        movies.open_movie(to_bin(tmp_path, frames))
    assert movies.open_movie(tmp_path / "data.bin", fov=(30, 41)).shape == frames.shape


def test_uint16_above_32767_does_not_wrap(recording: Recording, tmp_path: Path) -> None:
    frames = (frames_of(recording).astype(np.int64) + 32_300).astype("<u2")
    assert frames.max() > 32_767 > frames.min()
    assert movies.open_movie(to_raw("<u2")(tmp_path, frames), recording).dtype == np.uint16
    signed = frames_of(recording) - 500
    assert signed.min() < 0
    assert movies.open_movie(to_raw("<i2")(tmp_path, signed), recording).dtype == np.int16


# Rows and columns


@pytest.mark.parametrize("axes", [(0, 1, 2), (0, 2, 1), (1, 2, 0), (2, 1, 0)])
@pytest.mark.parametrize("make", [to_hdf5(), to_npy("C", "<i2"), to_npy("F", "<i2"), to_zarr(2)], ids=["hdf5", "npy", "npy F", "zarr"])
def test_a_square_field_is_read_as_the_traces_say(axes: tuple[int, ...], make: Make, square: Recording, tmp_path: Path) -> None:
    frames = frames_of(square)
    movie = movies.open_movie(make(tmp_path, np.ascontiguousarray(frames.transpose(axes))), square)
    assert np.array_equal(movie.read(0, 150), frames)
    assert movies.agreement(movie, square) > 0.5


def test_rows_and_columns_the_other_way_round_are_noted(square: Recording, tmp_path: Path) -> None:
    movie = movies.open_movie(to_matlab(tmp_path, frames_of(square)), square)
    assert "other way round" in movie.notes[0]


def test_a_square_field_without_candidates_is_read_as_stored(square: Recording, tmp_path: Path) -> None:
    none = replace(
        square, footprints=sp.csc_matrix((36 * 36, 0), dtype=np.float32), traces=np.zeros((0, 150), np.float32), prior=Prior.undecided(0)
    )
    frames = frames_of(square)
    assert np.array_equal(movies.open_movie(to_hdf5()(tmp_path, frames), none).read(0, 4), frames[:4])


def test_names_of_axes_settle_it(square: Recording, tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    frames = frames_of(square)
    group = zarr.open_group(str(tmp_path / "varr.zarr"), mode="w", **({"zarr_format": 2} if zarr.__version__ >= "3" else {}))
    array = (
        group.create_array("Y", shape=frames.shape, dtype=frames.dtype) if zarr.__version__ >= "3" else group.zeros("Y", shape=frames.shape)
    )
    array[:] = frames.transpose(0, 2, 1)
    array.attrs["_ARRAY_DIMENSIONS"] = ["frame", "width", "height"]
    noise = replace(square, traces=np.random.default_rng(0).normal(size=(30, 150)).astype(np.float32))
    movie = movies.open_movie(tmp_path / "varr.zarr", noise)
    assert np.array_equal(movie.read(2, 9), frames[2:9])


def test_agreement_tells_the_movie_from_another(recording: Recording, tmp_path: Path) -> None:
    right = movies.open_movie(to_npy("C")(tmp_path, frames_of(recording)), recording)
    assert movies.agreement(right, recording) > 0.7
    other = simulate(n_cells=40, fov=(30, 41), n_frames=120, seed=77)[0]
    wrong = movies.open_movie(to_raw("<i2")(tmp_path, frames_of(other)), recording)
    assert abs(movies.agreement(wrong, recording)) < 0.4
    shade = 4_000 * np.sin(np.arange(120) / 5)[:, None, None]  # the whole field flickers, as in one-photon movies
    flickering = movies.open_movie(to_hdf5()(tmp_path, (frames_of(recording) + shade).astype("<i2")), recording)
    assert movies.agreement(flickering, recording) > 0.7


def test_agreement_of_odd_recordings(recording: Recording, tmp_path: Path) -> None:
    frames = frames_of(recording).astype("<f4")
    frames[3, 2, 1] = np.nan
    movie = movies.open_movie(to_npy("C")(tmp_path, frames), recording)
    assert movies.agreement(movie, recording) > 0.7
    flat = replace(recording, traces=np.zeros((40, 120), np.float32))
    missing = replace(recording, traces=np.full((40, 120), np.nan, np.float32))
    empty = replace(recording, footprints=sp.csc_matrix((30 * 41, 40), dtype=np.float32))
    assert [movies.agreement(movie, odd) for odd in (flat, missing, empty)] == [None] * 3


# Checking


def cut(recording: Recording, n_frames: int | None = None, fov: tuple[int, int] | None = None) -> Recording:
    traces = np.asarray(recording.traces)[:, :n_frames]
    if fov is None:
        return replace(recording, traces=traces)
    return replace(recording, traces=traces, fov=fov, footprints=sp.csc_matrix((fov[0] * fov[1], 40), dtype=np.float32), images={})


@pytest.mark.parametrize(
    ("kind", "n_frames", "fov", "said"),
    [
        ("mmap C", 100, None, "120 frames of 30 x 41 pixels; a has 100 frames of 30 x 41.*more than"),
        ("hdf5", 60, None, "averaged over 2 frames"),
        ("npy C", 100, None, "120 frames"),
        ("data.bin", 100, None, "120 frames"),
        ("mmap F", 120, (28, 41), "cropped or scaled"),
        ("hdf5", 120, (28, 41), r"no frames of 28 x 41 pixels; there is /Data/Images \(120, 30, 41\)"),
        ("npy C", 120, (28, 41), "no frames of 28 x 41 pixels"),
        ("data.bin", 120, (28, 41), "no whole number of frames of 28 x 41"),
        ("nwb", 120, (28, 41), "no frames of 28 x 41 pixels"),
        ("tiff", 120, (28, 41), "no frames of 28 x 41 pixels"),
        ("zarr 2", 120, (28, 41), "no frames of 28 x 41 pixels"),
    ],
)
def test_another_size_is_refused_with_both_sizes(
    kind: str, n_frames: int, fov: Any, said: str, recording: Recording, tmp_path: Path
) -> None:
    path = KINDS[kind](tmp_path, frames_of(recording))
    other = cut(recording, n_frames, fov)
    with pytest.raises(FormatError, match=said):
        movies.check_movie(movies.open_movie(path, other), other)


def test_a_shorter_movie(recording: Recording, tmp_path: Path) -> None:
    path = to_hdf5()(tmp_path, frames_of(recording)[:100])
    with pytest.raises(FormatError, match=r"100 frames of 30 x 41 pixels; a has 120.*only a part"):
        movies.check_movie(movies.open_movie(path, recording), recording)


def test_signature_is_of_the_content(recording: Recording, tmp_path: Path) -> None:
    frames = frames_of(recording)
    (tmp_path / "other").mkdir()
    first = movies.open_movie(to_bin(tmp_path, frames), recording)
    assert movies.signature(first) == movies.signature(movies.open_movie(to_mmap("C")(tmp_path / "other", frames), recording))
    frames[-1, 3, 4] += 1
    assert movies.signature(first) != movies.signature(movies.open_movie(to_bin(tmp_path / "other", frames), recording))


# Damaged and hostile


def everything(path: Path, recording: Recording) -> np.ndarray:
    movie = movies.open_movie(path, recording)
    movies.check_movie(movie, recording)
    return np.concatenate([movie.read(start, start + 20) for start in range(0, 120, 20)])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "reg_tif" and "zarr" not in kind])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_file_that_was_cut_short(kind: str, share: float, recording: Recording, tmp_path: Path) -> None:
    frames = frames_of(recording, dtype="<u2")
    path = KINDS[kind](tmp_path, frames)
    os.truncate(path, int(share * path.stat().st_size))
    found, said = None, ""
    try:
        found = everything(path, recording)
    except (FormatError, MissingDependencyError) as error:
        said = str(error)
    if found is None:
        assert path.name in said
    else:  # what is missing was behind the frames: the directory of a TIFF
        assert share > 0.9
        assert np.array_equal(found, frames)


@pytest.mark.parametrize("kind", ["data.bin", "mmap C", "hdf5", "tiff scattered", "npy C", "zarr 2"])
def test_a_file_that_goes_while_it_is_read(kind: str, recording: Recording, tmp_path: Path) -> None:
    path = KINDS[kind](tmp_path, frames_of(recording))
    movie = movies.open_movie(path, recording)
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    with pytest.raises((MissingFileError, FormatError), match="movie"):
        movie.read(0, 5)


def test_what_is_no_movie(recording: Recording, tmp_path: Path) -> None:
    files = {
        "a.avi": b"RIFF0000AVI ",
        "b.mat": b"MATLAB 5.0 MAT-file" + bytes(600),
        "c.txt": b"",
        "d.mmap": b"abc",
        "e.npy": b"\x93NUMPY\x01\0\x76\0{'descr': '|O', 'fortran_order': False, 'shape': (120, 30, 41)}" + b" " * 60,
        "f.npy": b"\x93NUMPY\x01\0\x76\0{'descr': '<f8', 'fortran_order': False, 'shape': (120, 99999999999, 41)}" + b" " * 60,
        "g.h5": b"\x89HDF\r\n\x1a\n" + bytes(2000),
        "h.tif": b"II*\0" + b"\xff" * 100,
        "i.tif": b"II*\0\x08\0\0\0\x01\0" + bytes(12) + b"\x08\0\0\0",  # a directory that is its own successor
    }
    pytest.importorskip("tifffile")
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FormatError, match=name):
            movies.check_movie(movies.open_movie(tmp_path / name, recording), recording)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FormatError, match="no movie in"):
        movies.open_movie(tmp_path / "empty", recording)
    with pytest.raises(MissingFileError, match="--movie"):
        movies.open_movie(tmp_path / "not there.bin", recording)


def test_names_that_lie(recording: Recording, tmp_path: Path) -> None:
    (tmp_path / "a_d1_30_d2_41_d3_1_order_C_frames_120.mmap").write_bytes(bytes(100))
    with pytest.raises(FormatError, match=r"100 bytes; the 120 frames of 30 x 41 in its name make 590,400"):
        movies.open_movie(tmp_path / "a_d1_30_d2_41_d3_1_order_C_frames_120.mmap", recording)
    huge = tmp_path / f"a_d1_{10**12}_d2_{10**12}_d3_1_order_C_frames_{10**12}.mmap"
    huge.write_bytes(b"")
    with pytest.raises(FormatError):
        movies.open_movie(huge, recording)


def test_links_out_of_an_hdf5_file_are_not_followed(recording: Recording, tmp_path: Path) -> None:
    frames = frames_of(recording)
    to_hdf5()(tmp_path, frames)
    with h5py.File(tmp_path / "links.h5", "w") as file:
        file["mov"] = h5py.ExternalLink("movie.h5", "/Data/Images")
        file["self"] = h5py.SoftLink("/self")
        file["loop"] = file["/"]
    with pytest.raises(FormatError, match="no frames"):
        movies.open_movie(tmp_path / "links.h5", recording)
    for name in ("mov", "self"):
        with pytest.raises(FormatError, match="link"):
            movies.open_movie(tmp_path / "links.h5" / name, recording)
    layout = h5py.VirtualLayout(frames.shape, frames.dtype)
    layout[:] = h5py.VirtualSource(tmp_path / "movie.h5", "Data/Images", frames.shape)
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        file.create_virtual_dataset("mov", layout)
    with pytest.raises(FormatError, match="other files"):
        movies.open_movie(tmp_path / "virtual.h5", recording)
    with h5py.File(tmp_path / "external.h5", "w") as file:
        file.create_dataset("mov", frames.shape, frames.dtype, external=[(tmp_path / "x.raw", 0, frames.nbytes)])
    with pytest.raises(FormatError, match="other files"):
        movies.open_movie(tmp_path / "external.h5", recording)


def test_claims_beyond_memory(recording: Recording, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "huge.h5", "w") as file:
        file.create_dataset("mov", (10**6, 10**6, 10**6), "<f8", chunks=(1, 1000, 1000))
        file.create_dataset("fits", (120, 30, 41), "<f8", chunks=(120, 30, 41))
        file.create_dataset("chunk", (120, 30, 41), "<f8", maxshape=(None, None, None), chunks=(10**6, 10, 41))
    with pytest.raises(FormatError, match=r"fits \(2\)|2 movies that fit"):
        movies.open_movie(tmp_path / "huge.h5", recording)
    with pytest.raises(FormatError, match="chunks of 3,280,000,000 bytes"):
        movies.open_movie(tmp_path / "huge.h5/chunk", recording)
    with pytest.raises(FormatError, match="frames of 8,000,000,000,000 bytes"):
        movies.open_movie(tmp_path / "huge.h5/mov")
    assert "0 of 1 chunks" in movies.open_movie(tmp_path / "huge.h5/fits", recording).notes[0]


def test_a_file_that_is_written_elsewhere(recording: Recording, tmp_path: Path) -> None:
    path = to_hdf5()(tmp_path, frames_of(recording))
    fcntl = pytest.importorskip("fcntl")
    if os.environ.get("HDF5_USE_FILE_LOCKING", "").upper() in ("FALSE", "0", "BEST_EFFORT"):
        pytest.skip("HDF5 was told not to lock")
    with path.open("rb") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)  # as HDF5 locks what it writes
        with pytest.raises(FormatError, match=r"movie\.h5 is open for writing in another program"):
            movies.open_movie(path, recording)


def test_a_filter_that_h5py_lacks_is_told_from_damage(recording: Recording, tmp_path: Path) -> None:
    frames = frames_of(recording)
    with h5py.File(tmp_path / "blosc.h5", "w") as file:
        dataset = file.create_dataset("mov", frames.shape, frames.dtype, chunks=frames.shape, compression=32001, allow_unknown_filter=True)
        dataset.id.write_direct_chunk((0, 0, 0), b"compressed by a plug-in")
    movie = movies.open_movie(tmp_path / "blosc.h5", recording)
    with pytest.raises(MissingDependencyError, match="hdf5plugin"):
        movie.read(0, 2)
    with h5py.File(tmp_path / "damaged.h5", "w") as file:
        dataset = file.create_dataset("mov", frames.shape, frames.dtype, chunks=frames.shape, compression="gzip")
        dataset.id.write_direct_chunk((0, 0, 0), b"not what gzip makes")
    with pytest.raises(FormatError, match="cannot be read"):
        movies.open_movie(tmp_path / "damaged.h5", recording).read(0, 2)


class _Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path("/tmp/actsort-movie-bomb").touch, ())


def test_zarr_codecs_that_run_code_are_refused(recording: Recording, tmp_path: Path) -> None:
    path = to_zarr(2)(tmp_path, frames_of(recording))
    document = json.loads((path / ".zarray").read_bytes())
    (path / ".zarray").write_text(json.dumps({**document, "filters": [{"id": "pickle", "protocol": 5}], "compressor": None}))
    for chunk in path.glob("[0-9]*"):
        if chunk.is_file():
            chunk.write_bytes(pickle.dumps(_Bomb()))
    with pytest.raises(FormatError, match="'pickle', which is not read"):
        movies.open_movie(path, recording)
    assert not Path("/tmp/actsort-movie-bomb").exists()


DAMAGE: list[dict[str, Any]] = [
    {"shape": "x"},
    {"shape": [120, -30, 41]},
    {"chunks": [0, 1, 1]},
    {"chunks": [1, 1]},
    {"chunks": [10**9, 30, 41]},
    {"dtype": "|O"},
    {"dtype": [["a", "<f4"]]},
    {"compressor": {"id": "bz2", "level": 1}},
]


@pytest.mark.parametrize("change", DAMAGE)
def test_damaged_zarr(change: dict[str, Any], recording: Recording, tmp_path: Path) -> None:
    path = to_zarr(2)(tmp_path, frames_of(recording))
    document = json.loads((path / ".zarray").read_bytes())
    (path / ".zarray").write_text(json.dumps({**document, **change}))
    with pytest.raises(FormatError):
        everything(path, recording)


def test_missing_chunks_are_noted(recording: Recording, tmp_path: Path) -> None:
    path = to_zarr(2)(tmp_path, frames_of(recording))
    next(path.rglob("1.0.0")).unlink()
    assert "11 of 12 chunks" in movies.open_movie(path, recording).notes[0]


# Which dataset


def test_the_dataset_that_fits_is_taken(recording: Recording, tmp_path: Path) -> None:
    frames = frames_of(recording)
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["small"] = frames[:, ::2, ::2]
        file["deep/down/here"] = frames
        file["labels"] = np.array([b"a", b"b"])
    assert np.array_equal(movies.open_movie(tmp_path / "m.h5", recording).read(0, 9), frames[:9])
    with h5py.File(tmp_path / "m.h5", "r+") as file:
        file["second"] = frames + 1
    with pytest.raises(FormatError, match=r"2 movies that fit\. Say which: .*m.h5/deep/down/here, .*m.h5/second"):
        movies.open_movie(tmp_path / "m.h5", recording)
    assert np.array_equal(movies.open_movie(tmp_path / "m.h5/second", recording).read(0, 9), frames[:9] + 1)
    assert np.array_equal(movies.open_movie(tmp_path / "m.h5/deep", recording).read(0, 9), frames[:9])
    with pytest.raises(FormatError, match="has no third"):
        movies.open_movie(tmp_path / "m.h5/third", recording)
    with h5py.File(tmp_path / "m.h5", "r+") as file:
        file["mov"] = frames + 2
    assert np.array_equal(movies.open_movie(tmp_path / "m.h5", recording).read(0, 9), frames[:9] + 2)


def test_the_corrected_series_of_an_nwb_file_is_taken_before_the_raw_one(recording: Recording, tmp_path: Path) -> None:
    frames = frames_of(recording)
    path = to_nwb(tmp_path, frames - 7)
    with h5py.File(path, "r+") as file:
        file["processing/ophys/MotionCorrection/CorrectedImageStack/corrected/data"] = frames
    assert np.array_equal(movies.open_movie(path, recording).read(4, 6), frames[4:6])
    found, _ = movies.find_movie(replace(recording, path=path, format="nwb"))
    assert found == path / "processing/ophys/MotionCorrection/CorrectedImageStack/corrected/data"
    assert np.array_equal(movies.open_movie(found, recording).read(4, 6), frames[4:6])


def test_an_nwb_file_whose_frames_are_elsewhere_says_where(recording: Recording, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "m.nwb", "w") as file:
        file.attrs["nwb_version"] = "2.8.0"
        file["acquisition/TwoPhotonSeries/data"] = np.zeros((0, 0, 0), np.uint8)  # as pynwb leaves it
        file["acquisition/TwoPhotonSeries/external_file"] = ["m.tif"]
    with pytest.raises(FormatError, match=r"says that they are in m\.tif\..*Give that file"):
        movies.open_movie(tmp_path / "m.nwb", recording)


def test_an_nwb_file_with_only_the_raw_movie_has_none(recording: Recording, tmp_path: Path) -> None:
    path = to_nwb(tmp_path, frames_of(recording))
    assert movies.find_movie(replace(recording, path=path, format="nwb")) == (None, [])


# Finding


def result_in(recording: Recording, folder: Path, format_: str, **changes: Any) -> Recording:
    folder.mkdir(exist_ok=True)
    (folder / "result.file").write_bytes(b"the result")
    return replace(recording, path=folder / "result.file", format=format_, **changes)


def test_caiman_memory_maps_beside_the_result(recording: Recording, tmp_path: Path) -> None:
    frames = frames_of(recording)
    result = result_in(recording, tmp_path, "caiman")
    assert movies.find_movie(result) == (None, [])
    slow = to_mmap("C")(tmp_path, frames)
    assert movies.find_movie(result) == (slow, [])
    quick = to_mmap("F")(tmp_path, frames)  # the same movie in the order that is read faster
    assert movies.find_movie(result) == (quick, [])
    other = to_mmap("C", "other_d1_{0}_d2_{1}_d3_{2}_order_{3}_frames_{4}.mmap")
    other(tmp_path, np.random.default_rng(0).permutation(frames))  # another session of that size
    quick.unlink()
    assert movies.find_movie(result)[0] == slow
    other(tmp_path, frames)
    assert "2 movies that fit" in movies.find_movie(result)[1][0]
    slow.unlink()
    to_mmap("F", "motion_corrected_d1_{0}_d2_{1}_d3_{2}_order_{3}_frames_{4}.mmap")(tmp_path, frames)
    assert movies.find_movie(result)[0].name.startswith("other_")  # in C order: what was fitted
    slow = to_mmap("C")(tmp_path, frames)
    to_mmap("C", "third_d1_{0}_d2_{1}_d3_{2}_order_{3}_frames_{4}.mmap")(tmp_path, frames[:50])
    known = replace(result, movie_path=Path("/gone/elsewhere") / slow.name)
    assert movies.find_movie(known) == (slow, [])


def test_what_the_result_says_goes_first_and_is_checked(recording: Recording, tmp_path: Path) -> None:
    frames = frames_of(recording)
    result = result_in(recording, tmp_path, "plain", movie_path=Path("movie.h5"))
    assert "is not there" in movies.find_movie(result)[1][0]
    path = to_hdf5()(tmp_path, frames)
    assert movies.find_movie(result) == (path, [])
    os.truncate(path, 900)
    found, notes = movies.find_movie(result)
    assert found is None
    assert notes[0].startswith("The movie is not used.")
    with_it = movies.with_movie(result)
    assert with_it.movie_path is None
    assert with_it.notes == tuple(notes)
    assert movies.movie_of(with_it) is None


def test_suite2p_without_data_bin_has_its_reg_tif(recording: Recording, tmp_path: Path) -> None:
    frames = frames_of(recording)
    result = replace(recording, path=tmp_path, format="suite2p")
    assert movies.find_movie(result) == (None, [])
    to_reg_tif(tmp_path, frames)
    assert movies.find_movie(result) == (tmp_path / "reg_tif", [])
    assert np.array_equal(movies.movie_of(movies.with_movie(result)).read(0, 120), frames)
    (tmp_path / "data_raw.bin").write_bytes(frames.astype("<i2").tobytes())  # not registered
    shutil.rmtree(tmp_path / "reg_tif")
    assert movies.find_movie(result) == (None, [])


@pytest.mark.parametrize("format_", ["cnmfe", "extract", "plain"])
def test_a_movie_in_the_folder_is_taken_if_it_goes_with_the_traces(format_: str, recording: Recording, tmp_path: Path) -> None:
    frames = frames_of(recording)
    result = result_in(recording, tmp_path, format_)
    to_npy("C")(tmp_path, np.random.default_rng(0).normal(size=frames.shape))
    assert movies.find_movie(result) == (None, [])
    path = to_matlab(tmp_path, frames)
    found, notes = movies.find_movie(result)
    assert found == path
    assert notes == ["The movie movie.mat beside the result fits and is used."]
    shutil.copy(path, tmp_path / "copy.mat")
    found, notes = movies.find_movie(result)
    assert found is None
    assert "2 movies that fit (copy.mat, movie.mat)" in notes[0]


def test_minian_leaves_it_in_the_intermediate_folder(recording: Recording, tmp_path: Path) -> None:
    frames = frames_of(recording)
    (tmp_path / "minian_intermediate").mkdir()
    path = to_zarr(2, "Y_fm_chk")(tmp_path, frames)
    path.rename(tmp_path / "minian_intermediate" / "Y_fm_chk.zarr")
    result = result_in(recording, tmp_path / "minian", "minian")
    assert movies.find_movie(replace(result, path=tmp_path / "minian"))[0] == tmp_path / "minian_intermediate" / "Y_fm_chk.zarr"


def test_whatever_is_wrong_with_a_movie_the_result_opens(
    result: Path, recording: Recording, monkeypatch: pytest.MonkeyPatch, toy_plugins: Any
) -> None:
    monkeypatch.setattr(movies, "find_movie", lambda recording: 1 / 0)
    (found,) = read(result, plugins=toy_plugins)
    assert "ZeroDivisionError" in found.notes[-1]


def test_a_movie_keeps_the_fingerprints(recording: Recording, tmp_path: Path) -> None:
    assert recording.fingerprint
    path = to_bin(tmp_path, frames_of(recording))
    named = movies.relocated({"a": recording}, path)["a"]
    assert named.__dict__["fingerprint"] == recording.fingerprint
    assert named.candidate_fingerprints is recording.candidate_fingerprints


def test_missing_libraries_are_named(recording: Recording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    paths = [to_tiff()(tmp_path, frames_of(recording)), to_zarr(2)(tmp_path, frames_of(recording))]
    for path, library in zip(paths, ("tifffile", "zarr"), strict=True):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, library, None)
            with pytest.raises(MissingDependencyError, match=rf"{library}\. Install it: pip install 'actsort\[movie\]'"):
                movies.open_movie(path, recording).read(0, 1)


# Relocating


def test_planes_find_their_movies_in_a_folder(tmp_path: Path) -> None:
    planes = {f"plane{k}": simulate(n_cells=20, fov=(30, 41), n_frames=120, seed=k, name=f"plane{k}")[0] for k in (0, 1)}
    for key, plane in planes.items():
        (tmp_path / "suite2p" / key).mkdir(parents=True)
        to_bin(tmp_path / "suite2p" / key, frames_of(plane))
    paths = {key: tmp_path / "suite2p" / key / "data.bin" for key in planes}
    for folder in (tmp_path, tmp_path / "suite2p"):
        found = movies.relocated(planes, folder)
        assert {key: recording.movie_path for key, recording in found.items()} == paths
        assert all(not recording.notes for recording in found.values())
    found = movies.relocated(planes, paths["plane1"])  # of the same size, but in the folder of one
    assert {key: recording.movie_path for key, recording in found.items()} == {"plane1": paths["plane1"]}
    shutil.copy(paths["plane0"], tmp_path / "moved.bin")
    with pytest.raises(UsageError, match=r"fits 2 recordings \(plane0, plane1\).*--movie plane0="):
        movies.relocated(planes, tmp_path / "moved.bin")
    assert list(movies.relocated(planes, [f"plane0={tmp_path / 'moved.bin'}"])) == ["plane0"]
    assert "do not go with the traces" in movies.relocated(planes, {"plane1": tmp_path / "moved.bin"})["plane1"].notes[0]
    with pytest.raises(UsageError, match="no recording 'plane2'"):
        movies.relocated(planes, {"plane2": tmp_path / "moved.bin"})
    for word in (f"plane2={tmp_path / 'moved.bin'}", "plane2=none"):  # on the command line
        with pytest.raises(UsageError, match=r"no recording 'plane2'.*There are: plane0, plane1"):
            movies.relocated(planes, [word])
    with pytest.raises(MissingFileError):  # a name may hold the sign
        movies.relocated(planes, ["plane2=gone.bin"])


def test_a_session_remembers_the_movie(result: Path, recording: Recording, tmp_path: Path, opened: Any) -> None:
    frames = frames_of(recording)
    (tmp_path / "elsewhere").mkdir()
    path = to_hdf5()(tmp_path / "elsewhere", frames)
    with opened(result, movie=path) as session:
        assert session.recordings["a"].movie_path == path
        assert session.options.movies == {"a": {"path": str(path), "relative": os.path.relpath(path, session.folder)}}
        folder = session.folder
    with opened(folder) as session:  # resumed
        assert np.array_equal(movies.movie_of(session.recordings["a"]).read(0, 3), frames[:3])
    document = (folder / "session.json").read_bytes()
    with opened(result) as session:
        assert session.recordings["a"].movie_path == path
    assert (folder / "session.json").read_bytes() == document

    moved = tmp_path.with_name(tmp_path.name + "-moved")
    tmp_path.rename(moved)  # all of it, to another disk
    try:
        with opened(moved / folder.relative_to(tmp_path)) as session:
            assert session.recordings["a"].movie_path == moved / "elsewhere" / "movie.h5"
        (moved / "elsewhere" / "movie.h5").unlink()
        with opened(moved / folder.relative_to(tmp_path)) as session:
            assert session.recordings["a"].movie_path is None
            assert any("does not exist" in note and "--movie" in note for note in session.notes)
    finally:
        moved.rename(tmp_path)


def test_a_session_without_its_movie(result: Path, recording: Recording, opened: Any, tmp_path: Path) -> None:
    path = to_bin(tmp_path, frames_of(recording))
    with opened(result, movie=path) as session:
        folder = session.folder
    with opened(folder, movie="none") as session:
        assert session.recordings["a"].movie_path is None
        assert session.options.movies == {"a": {"path": "", "relative": ""}}
    with opened(folder) as session:
        assert session.recordings["a"].movie_path is None
    with opened(folder, movie=path) as session:
        assert session.recordings["a"].movie_path == path


def test_a_wrong_movie_leaves_nothing_behind(result: Path, recording: Recording, opened: Any, tmp_path: Path) -> None:
    path = to_bin(tmp_path, frames_of(recording)[:-1])
    with pytest.raises(FormatError, match="119 frames of 30 x 41 pixels; a has 120"):
        opened(result, movie=path)
    assert not (result / "actsort").exists()
    with opened(result, movie="none") as session:
        document = (session.folder / "session.json").read_bytes()
        folder = session.folder
    with pytest.raises(FormatError):
        opened(folder, movie=path)
    assert (folder / "session.json").read_bytes() == document


def test_a_session_of_before_has_no_movies(result: Path, opened: Any) -> None:
    with opened(result) as session:
        path = session.folder / "session.json"
    document = json.loads(path.read_text())
    del document["options"]["movies"]
    path.write_text(json.dumps(document))
    with opened(result) as session:
        assert session.options.movies == {}
    document["options"]["movies"] = {"a": "x"}
    path.write_text(json.dumps(document))
    with pytest.raises(FormatError, match="damaged"):
        opened(result)


def test_the_commands_take_a_movie(tmp_path: Path) -> None:
    source = Path(__file__).parent / "data" / "caiman"
    (result,) = sorted(source.glob("*2evaluated*"))[:1] or sorted(source.glob("*.hdf5"))[:1]
    shutil.copy(result, tmp_path / "result.hdf5")
    (recording,) = read(tmp_path / "result.hdf5")
    path = to_mmap("C", "a_d1_{0}_d2_{1}_d3_{2}_order_{3}_frames_{4}.mmap")(tmp_path, frames_of(recording))
    (tmp_path / "away").mkdir()
    path = path.rename(tmp_path / "away" / path.name)
    run = CliRunner().invoke
    said = json.loads(run(main, ["info", str(tmp_path / "result.hdf5"), "--movie", str(path), "--json"]).stdout)
    assert (said["has_movie"], said["movie"]) == (True, str(path))
    np.save(tmp_path / "truth.npy", np.ones(recording.n_cells))
    short = to_mmap("C", "b_d1_{0}_d2_{1}_d3_{2}_order_{3}_frames_{4}.mmap")(tmp_path / "away", frames_of(recording)[:50])
    sort = ["sort", str(tmp_path / "result.hdf5"), "--oracle", str(tmp_path / "truth.npy"), "--labels", "2", "--features", "host"]
    refused = run(main, [*sort, "--movie", str(short)])
    assert refused.exit_code == 1
    assert f"has 50 frames of {recording.fov[0]} x {recording.fov[1]} pixels" in refused.output
    done = run(main, [*sort, "--movie", str(path)])
    assert done.exit_code == 0, done.output
    stored = json.loads((tmp_path / "result.hdf5.actsort" / "session.json").read_text())["options"]["movies"]
    assert [entry["path"] for entry in stored.values()] == [str(path)]


def test_importing_movies_loads_no_library() -> None:
    import subprocess
    import sys

    code = "import sys, actsort_core.movies; print([m for m in ('h5py', 'tifffile', 'zarr') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
