"""Clips: what is kept is what the movie shows, in few bytes; they outlive the movie, faults and other recordings."""

from __future__ import annotations

import shutil
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import toy_format
from conftest import make_plugins

import actsort_core as actsort
from actsort_core import _clip_rows, blocks, clips
from actsort_core.blocks import Execution
from actsort_core.clips import ClipReader, Clips, has_clips
from actsort_core.errors import FormatError, MissingFileError, WriteError
from actsort_core.events import HALF, LENGTH, EventFrames, find_events
from actsort_core.model import Recording, as_footprints
from actsort_core.simulate import SimulatedMovie, simulate_movie

SERIAL = Execution("serial")


@dataclass(frozen=True, eq=False)
class Frames:
    """A movie in memory."""

    values: np.ndarray
    path: Path = Path("memory")

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def read(self, start: int, stop: int) -> np.ndarray:
        return self.values[start:stop]


def frames_of(made: SimulatedMovie) -> np.ndarray:
    return made.movie.read(0, made.movie.shape[0])


def make(path: Path, recording: Recording, frames: np.ndarray, limit: int = clips.BYTES, execution: Execution = SERIAL) -> Path:
    result = blocks.run(recording, Frames(frames), [EventFrames((ClipReader(path, limit),))], execution)
    return result["events"]["clips"]


@pytest.fixture(scope="module")
def made() -> SimulatedMovie:
    return simulate_movie(40, fov=(61, 83), n_frames=300, seed=3)


@pytest.fixture(scope="module")
def kept(made: SimulatedMovie, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("clips") / "clips.h5", made.recording, frames_of(made))


def test_frames_are_those_of_the_movie_to_half_a_step(made: SimulatedMovie, kept: Path) -> None:
    frames, events = frames_of(made).astype(float), find_events(made.recording.traces)
    seen = fine = 0
    with Clips(kept) as found:
        for i in range(made.recording.n_cells):
            clip = found.read(made.recording, i)
            assert clip is not None
            assert clip.events.tolist() == [e for e in events.frames[i] if e >= 0]
            np.testing.assert_array_equal(clip.trace, events.values[i, : len(clip.events)])
            n, length, rows, columns = clip.frames.shape
            assert (n, length) == (len(clip.events), LENGTH)
            if clip.bin > 1:
                continue
            a, b = clip.low
            true = np.stack([frames[e - HALF : e + HALF + 1, a : a + rows, b : b + columns] for e in clip.events])
            inside = (clip.levels > 1) & (clip.levels < 255)
            assert inside.mean() > 0.999
            assert np.abs(clip.frames - true)[inside].max() <= 0.51 * clip.step
            assert clip.step < 1.3 * true.std(axis=1).mean(), "about the noise, for the largest windows"
            fine += clip.step < 0.5 * true.std(axis=1).mean()
            weight = np.maximum(clip.trace - events.baseline[i], 0)
            levels = np.ptp(clip.mean) / 255
            np.testing.assert_allclose(clip.mean, np.average(true.reshape(-1, rows, columns), axis=0, weights=weight.ravel()), atol=levels)
            np.testing.assert_allclose(clip.max, true.max(axis=(0, 1)), atol=np.ptp(clip.max) / 255)
            seen += 1
    assert seen > 25
    assert fine > 0.7 * seen


def test_the_window_holds_the_footprint_and_seven_pixels_more(made: SimulatedMovie, kept: Path) -> None:
    with Clips(kept) as found:
        for i in range(made.recording.n_cells):
            clip = found.read(made.recording, i)
            column = made.recording.footprints[:, [i]]
            at = np.array(np.unravel_index(column.indices[column.data > 1e-3 * column.data.max()], made.recording.fov))
            low, high = np.array(clip.low), np.array(clip.low) + clip.bin * np.array(clip.mean.shape)
            assert (low <= np.maximum(at.min(axis=1) - 7, 0)).all()
            assert (high > np.minimum(at.max(axis=1) + 7, np.array(made.recording.fov) - 1) - clip.bin).all()


def test_they_are_small(kept: Path, made: SimulatedMovie) -> None:
    assert kept.stat().st_size < 30_000 * made.recording.n_cells + 20_000


def test_one_is_read_with_two_pieces_of_the_file(made: SimulatedMovie, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What makes reading quick: after the first nothing is looked up or opened, the rest is in memory."""
    opened, chunks = [], []
    for name, calls in (("_dataset", opened), ("_chunk", chunks)):
        kind = getattr(_clip_rows, name)
        monkeypatch.setattr(_clip_rows, name, lambda *a, kind=kind, calls=calls: calls.append(a) or kind(*a))
    with Clips(kept) as found:
        for i in range(made.recording.n_cells):
            assert found.read(made.recording, i) is not None
    assert len(opened) == 9
    assert len(chunks) == 2 * made.recording.n_cells


def test_threads_read_from_one_file(made: SimulatedMovie, kept: Path) -> None:
    many = np.random.default_rng(0).integers(0, made.recording.n_cells, 400).tolist()
    with Clips(kept) as found, Clips(kept) as alone:
        with ThreadPoolExecutor(8) as pool:
            read = list(pool.map(lambda i: found.read(made.recording, i), many))
        for i, clip in zip(many, read, strict=True):
            expected = alone.read(made.recording, i)
            assert clip is not None
            assert expected is not None
            np.testing.assert_array_equal(clip.levels, expected.levels)
            np.testing.assert_array_equal(clip.mean, expected.mean)


def test_a_file_that_was_closed_says_so(made: SimulatedMovie, kept: Path) -> None:
    found = Clips(kept)
    found.close()
    with pytest.raises(FormatError, match="was closed"):
        found.read(made.recording, 0)
    with pytest.raises(FormatError, match="was closed"):
        found.recordings()


@pytest.mark.parametrize("limit", [9_000, clips.BYTES])
def test_the_limit_is_kept_whatever_the_movie_looks_like(limit: int, made: SimulatedMovie, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noisy = rng.integers(0, 60_000, frames_of(made).shape).astype(np.uint16)  # nothing that could be compressed
    path = make(tmp_path / "clips.h5", made.recording, noisy, limit)
    assert path.stat().st_size < (limit + 2_000) * made.recording.n_cells + 20_000
    with Clips(path) as found:
        assert found.read(made.recording, 0).frames.std() > 0


@pytest.mark.parametrize("dtype", ["u1", "i2", ">u2", "i4", "f4", ">f8", "f2"])
def test_every_kind_of_number(dtype: str, made: SimulatedMovie, tmp_path: Path) -> None:
    frames = (frames_of(made) // 8).astype(dtype)
    with Clips(make(tmp_path / "clips.h5", made.recording, frames)) as found:
        clip = found.read(made.recording, 5)
    a, b = clip.low
    rows, columns = (clip.bin * n for n in clip.mean.shape)
    true = frames[clip.events[0] - HALF : clip.events[0] + HALF + 1, a : a + rows, b : b + columns].astype(float)
    true = true.reshape(LENGTH, rows // clip.bin, clip.bin, columns // clip.bin, clip.bin).mean(axis=(2, 4))
    assert np.abs(clip.frames[0] - true).max() <= max(2 * clip.step, 1)


def test_values_that_are_none_and_hot_pixels(made: SimulatedMovie, tmp_path: Path) -> None:
    frames = frames_of(made).astype(np.float32)
    event = int(find_events(made.recording.traces).frames[4, 0])
    frames[event] = np.nan
    a, b = np.unravel_index(int(made.recording.footprints[:, [4]].indices[0]), made.recording.fov)
    frames[:, a, b] = np.inf
    frames[event + 1, a, b + 1] = 1e30
    with Clips(make(tmp_path / "clips.h5", made.recording, frames)) as found:
        clip = found.read(made.recording, 4)
    shown = clip.frames
    assert np.isnan(shown[0, HALF]).all(), "a lost frame"
    assert np.isfinite(np.delete(shown[0], HALF, axis=0)).mean() > 0.9
    assert np.isfinite(clip.mean).all()
    assert np.isfinite(clip.max).all()


@pytest.mark.parametrize("fov", [(200, 190), (8, 190), (190, 8)], ids=str)
def test_wide_footprints_are_averaged_over_squares(fov: tuple[int, int], tmp_path: Path) -> None:
    made = simulate_movie(4, 1, fov=fov, n_frames=120, seed=1)
    wide = np.zeros(fov)
    wide[2:-2, 3:-3] = 1
    footprints = as_footprints(np.tile(wide.ravel()[:, None], (1, 4)), wide.size)
    recording = replace(made.recording, footprints=footprints)
    frames = frames_of(made)
    with Clips(make(tmp_path / "clips.h5", recording, frames)) as found:
        clip = found.read(recording, 2)
    assert clip.mean.size <= clips.MOST_PIXELS
    side = clip.bin
    assert (side > 1) == (min(fov) > 8)
    rows, columns = (side * n for n in clip.mean.shape)
    true = frames[clip.events[0], clip.low[0] : clip.low[0] + rows, clip.low[1] : clip.low[1] + columns].astype(float)
    true = true.reshape(rows // side, side, columns // side, side).mean(axis=(1, 3))
    assert np.abs(clip.frames[0, HALF] - true).max() <= 2 * clip.step


def test_in_three_dimensions_the_heaviest_plane_is_shown(tmp_path: Path) -> None:
    made = simulate_movie(6, 1, fov=(20, 26, 7), n_frames=120, seed=2)
    frames = frames_of(made)
    with Clips(make(tmp_path / "clips.h5", made.recording, frames)) as found:
        for i in range(6):
            clip = found.read(made.recording, i)
            weights = made.recording.footprints[:, [i]].toarray().reshape(20, 26, 7)
            a, b, plane = clip.low
            assert plane == weights.sum(axis=(0, 1)).argmax()
            rows, columns = clip.mean.shape
            true = frames[clip.events[0], a : a + rows, b : b + columns, plane].astype(float)
            assert np.abs(clip.frames[0, HALF] - true).max() <= 2 * clip.step


def test_candidates_without_events_or_footprint_have_no_clip(tmp_path: Path) -> None:
    made = simulate_movie(6, 1, fov=(30, 41), n_frames=90, seed=2)
    traces = made.recording.traces.copy()
    traces[1] = 0
    matrix = made.recording.footprints.tolil()
    matrix[:, 2] = 0
    recording = replace(made.recording, traces=traces, footprints=as_footprints(matrix, 30 * 41))
    with Clips(make(tmp_path / "clips.h5", recording, frames_of(made))) as found:
        assert [found.read(recording, i) is None for i in range(6)] == [False, True, True, False, False, False]
    none = replace(simulate_movie(0, fov=(30, 41), n_frames=90).recording)
    path = make(tmp_path / "none.h5", none, frames_of(made))
    assert has_clips(path, none)


def test_constant_and_zero_movies(tmp_path: Path) -> None:
    made = simulate_movie(3, 1, fov=(30, 41), n_frames=90, seed=2)
    for value in (0, 77):
        with Clips(make(tmp_path / "clips.h5", made.recording, np.full((90, 30, 41), value, np.int16))) as found:
            clip = found.read(made.recording, 1)
        assert (clip.frames == value).all()
        assert (clip.mean == value).all()
        assert (clip.max == value).all()


def test_they_do_not_depend_on_blocks_or_who_runs_them(made: SimulatedMovie, kept: Path, tmp_path: Path) -> None:
    small = Execution("threads", 2, 4 << 20)
    other = make(tmp_path / "clips.h5", made.recording, frames_of(made), execution=small)
    with h5py.File(kept) as a, h5py.File(other) as b:
        ours, theirs = a[made.recording.fingerprint], b[made.recording.fingerprint]
        assert set(ours) == set(theirs)
        for name in ours:
            np.testing.assert_array_equal(ours[name][:], theirs[name][:], err_msg=name)


def test_any_program_can_read_them(made: SimulatedMovie, kept: Path) -> None:
    """The layout that docs/features.md describes, with nothing of ours."""
    with h5py.File(kept) as file, Clips(kept) as found:
        group = file[made.recording.fingerprint]
        for i in (0, 17):
            clip = found.read(made.recording, i)
            rows, columns = group["shape"][i]
            n = (group["events"][i] >= 0).sum()
            scale = group["scale"][i]
            mean = scale[0] + scale[1] * group["images"][i, 0, : rows * columns].reshape(rows, columns)
            levels = group["frames"][i][:n, :, : rows * columns].reshape(n, 11, rows, columns)
            np.testing.assert_allclose(mean + scale[4] * (levels.astype(float) - 128), clip.frames, rtol=1e-5)


# ---- several recordings, other orders, faults


def test_recordings_share_a_file_and_are_found_by_content(made: SimulatedMovie, tmp_path: Path) -> None:
    path = tmp_path / "clips.h5"
    other = simulate_movie(5, 1, fov=(30, 41), n_frames=90, seed=9)
    make(path, other.recording, frames_of(other))
    make(path, made.recording, frames_of(made))
    make(path, other.recording, frames_of(other))  # again: replaces its own only
    with Clips(path) as found:
        assert set(found.recordings()) == {made.recording.fingerprint, other.recording.fingerprint}
        wanted = [found.read(made.recording, i) for i in range(40)]
        order = np.random.default_rng(0).permutation(40)
        moved = replace(made.recording, footprints=made.recording.footprints[:, order], traces=made.recording.traces[order])
        for place, i in enumerate(order):
            clip = found.read(moved, place)
            np.testing.assert_array_equal(clip.levels, wanted[i].levels)
        stranger = simulate_movie(5, 1, fov=(30, 41), n_frames=90, seed=10).recording
        assert found.read(stranger, 0) is None
        assert not has_clips(path, stranger)


@pytest.mark.parametrize("content", [b"", b"no HDF5", b"\x89HDF\r\n\x1a\n" + bytes(50)])
def test_a_file_that_is_none_is_said_and_replaced(content: bytes, made: SimulatedMovie, tmp_path: Path) -> None:
    path = tmp_path / "clips.h5"
    path.write_bytes(content)
    with pytest.raises(FormatError, match="Delete it"):
        Clips(path)
    assert not has_clips(path, made.recording)
    make(path, made.recording, frames_of(made))
    assert has_clips(path, made.recording)
    assert [p.name for p in tmp_path.iterdir()] == ["clips.h5"]


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"clips\.h5"):
        Clips(tmp_path / "clips.h5")


def test_every_truncation_is_an_error_of_ours(made: SimulatedMovie, kept: Path, tmp_path: Path) -> None:
    whole = kept.read_bytes()
    path = tmp_path / "clips.h5"
    for size in np.linspace(0, len(whole) - 1, 23).astype(int):
        path.write_bytes(whole[:size])
        with pytest.raises(FormatError), Clips(path) as found:  # noqa: PT012 - opening may fail or reading
            for i in range(made.recording.n_cells):
                found.read(made.recording, i)
            raise FormatError("readable after all")


def broken(kind: str, group: Any, elsewhere: Path) -> None:
    def swap(name: str, **how: Any) -> None:
        del group[name]
        group.create_dataset(name, **how)

    if kind == "no frames":
        del group["frames"]
    elif kind == "huge frames":
        swap("frames", shape=(40, 5, 11, 1 << 40), dtype="u1", chunks=(1, 1, 1, 1 << 20))
    elif kind == "few events":
        swap("events", data=np.zeros((2, 5), np.int32))
    elif kind == "text":
        swap("scale", data=np.full((40, 5), b"x"))
    elif kind == "shape":
        swap("shape", data=np.full((40, 2), 1 << 30))
    elif kind == "external link":
        del group["images"]
        group["images"] = h5py.ExternalLink(str(elsewhere), "images")
    elif kind == "external data":
        swap("events", shape=(40, 5), dtype="i4", external=[(str(elsewhere), 0, 800)])
    elif kind == "virtual":
        layout = h5py.VirtualLayout((40, 5), "i4")
        layout[:] = h5py.VirtualSource(str(elsewhere), "events", (40, 5))
        del group["events"]
        group.create_virtual_dataset("events", layout)
    elif kind == "group":
        del group["trace"]
        group.create_group("trace")
    elif kind == "bomb":
        packed = zlib.compress(bytes(1 << 24), 9)
        group["frames"].id.write_direct_chunk((0, 0, 0, 0), packed)


@pytest.mark.parametrize(
    "kind",
    ["no frames", "huge frames", "few events", "text", "shape", "external link", "external data", "virtual", "group", "bomb"],
)
def test_hostile_files(kind: str, made: SimulatedMovie, kept: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(kept, tmp_path / "clips.h5"))
    elsewhere = Path(shutil.copy(kept, tmp_path / "elsewhere.h5"))
    with h5py.File(path, "r+") as file:
        broken(kind, file[made.recording.fingerprint], elsewhere)
    with Clips(path) as found:
        if kind == "bomb":  # HDF5 refuses it, or stops at the size of a chunk
            try:
                clip = found.read(made.recording, 0)
            except FormatError:
                return
            assert clip.levels.size <= 55 * clips.MOST_PIXELS
            return
        with pytest.raises(FormatError, match="damaged"):
            [found.read(made.recording, i) for i in (0, 39)]


def test_a_link_to_another_file_is_not_followed(made: SimulatedMovie, kept: Path, tmp_path: Path) -> None:
    path = tmp_path / "clips.h5"
    with h5py.File(path, "w") as file:
        file.attrs["actsort_clips"] = clips.VERSION
        file[made.recording.fingerprint] = h5py.ExternalLink(str(kept), made.recording.fingerprint)
    with Clips(path) as found, pytest.raises(FormatError, match="another file"):
        found.read(made.recording, 0)


def test_another_version_is_refused(made: SimulatedMovie, kept: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(kept, tmp_path / "clips.h5"))
    with h5py.File(path, "r+") as file:
        file.attrs["actsort_clips"] = 99
    with pytest.raises(FormatError, match="version"):
        Clips(path)


def test_what_fails_on_the_way_leaves_what_was_there(made: SimulatedMovie, kept: Path, tmp_path: Path, monkeypatch) -> None:
    path = Path(shutil.copy(kept, tmp_path / "clips.h5"))
    before = path.read_bytes()

    def fails(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    for target in ("add", "commit"):
        with monkeypatch.context() as patch:
            if target == "commit":
                patch.setattr(clips, "commit", fails)
            else:
                patch.setattr(clips, "_make", fails)
            with pytest.raises(OSError, match="No space"):
                make(path, made.recording, frames_of(made))
        assert path.read_bytes() == before
        assert [p.name for p in tmp_path.iterdir()] == ["clips.h5"]


def test_a_folder_that_cannot_be_written_to(made: SimulatedMovie, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(WriteError):
        make(tmp_path / "file" / "clips.h5", made.recording, frames_of(made))


# ---- sessions


@pytest.fixture
def result(tmp_path: Path) -> tuple[Path, Path, SimulatedMovie]:
    movie = tmp_path / "movies" / "raw.npy"
    movie.parent.mkdir()
    made = simulate_movie(30, fov=(50, 61), n_frames=200, seed=4, path=movie)
    toy_format.save_folder(tmp_path / "lab" / "results", made.recording, "a", True)
    return tmp_path / "lab" / "results", movie, made


def test_a_session_keeps_clips_and_sorts_elsewhere_without_the_movie(result, tmp_path: Path) -> None:
    folder, movie, made = result
    plugins = make_plugins()
    with actsort.open(folder, plugins=plugins, movie=movie) as session:
        session.prepare()
        here = [session.clip(i) for i in range(30)]
        wanted = session.features()
        assert (session.folder / "clips.h5").is_file()
    assert all(clip is not None for clip in here)
    elsewhere = tmp_path / "elsewhere"
    shutil.move(tmp_path / "lab", elsewhere)
    movie.unlink()
    with actsort.open(elsewhere / "results", plugins=plugins) as session:
        for i, clip in enumerate(here):
            there = session.clip(i)
            np.testing.assert_array_equal(there.levels, clip.levels)
            assert there.low == clip.low
        found = session.features()
        assert found.names == wanted.names
        np.testing.assert_array_equal(found.values, wanted.values)
        truth = made.truth
        session.sort(lambda c: "cell" if truth[c.index] else "not_cell", labels=10)
        assert len(session.labels()) == 10


def test_a_session_without_a_movie_has_no_clips(toy, opened) -> None:
    session = opened(toy("results", a=12))
    assert session.clip(0) is None
    assert not (session.folder / "clips.h5").exists()
    with pytest.raises(actsort.ActsortError, match="candidate"):
        session.clip(99)


def test_clips_that_were_deleted_are_made_again(result) -> None:
    folder, movie, _ = result
    plugins = make_plugins()
    with actsort.open(folder, plugins=plugins, movie=movie) as session:
        first = session.clip(3)
        path = session.folder / "clips.h5"
    path.unlink()
    with actsort.open(folder, plugins=plugins) as session:
        np.testing.assert_array_equal(session.clip(3).levels, first.levels)
