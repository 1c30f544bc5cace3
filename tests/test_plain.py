"""The plain layouts: what a home-made pipeline may write, in all its variations, and what is refused."""

from __future__ import annotations

import io
import shutil
import struct
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from actsort_adapters import _plain_npz, plain
from actsort_core.errors import FormatError, UsageError
from actsort_core.formats import CreatingFormat, find_format, read_with
from actsort_core.model import Prior, Recording
from actsort_core.testing import check_format, make_curation, make_recording

NPZ, CSV = plain.PlainFormat(), plain.PlainCsvFormat()
FORMATS = {fmt.name: fmt for fmt in (NPZ, CSV)}


def read_one(path: Path, fmt: Any = NPZ) -> Recording:
    (recording,) = read_with(fmt, path)
    return recording


@pytest.fixture
def masks() -> np.ndarray:
    """Five candidates in a field of view that is not square."""
    rng = np.random.default_rng(0)
    masks = np.zeros((5, 7, 11), np.float64)
    for i in range(5):
        masks[i, i : i + 2, 2 * i : 2 * i + 3] = rng.random((2, 3)) + 0.1
    return masks


@pytest.fixture
def traces() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(5, 40))


@pytest.mark.parametrize("fmt", FORMATS.values(), ids=list(FORMATS))
def test_the_layouts_keep_the_contract(fmt: Any) -> None:
    check_format(fmt)


# ---- what people write


def test_three_arrays_are_enough(masks: np.ndarray, traces: np.ndarray, tmp_path: Path) -> None:
    np.savez(tmp_path / "tuesday.npz", footprints=masks, traces=traces, fps=15.0)
    assert find_format(tmp_path / "tuesday.npz", FORMATS) is NPZ
    recording = read_one(tmp_path / "tuesday.npz")
    assert (recording.name, recording.fov, recording.fps, recording.notes) == ("tuesday", (7, 11), 15.0, ())
    np.testing.assert_array_equal(recording.footprints.toarray(), masks.reshape(5, 77).T.astype(np.float32))
    np.testing.assert_array_equal(recording.traces[0:5], traces.astype(np.float32))
    assert recording.prior.counts()["undecided"] == 5
    check_format(NPZ, tmp_path / "tuesday.npz")


@pytest.mark.parametrize("change", ["bool", "uint8", "fortran", "flat", "sparse", "sparse_float", "big_endian", "compressed", "4-D"])
def test_footprints_in_many_guises(change: str, masks: np.ndarray, traces: np.ndarray, tmp_path: Path) -> None:
    path, content = tmp_path / "x", {"traces": traces, "fps": np.array([15])}
    expected = masks
    A = sp.csc_matrix(masks.reshape(5, 77).T)
    if change in ("bool", "uint8"):
        expected = (masks > 0).astype(change)
        content |= {"footprints": expected}
    elif change == "fortran":
        content |= {"footprints": np.asfortranarray(masks), "traces": np.asfortranarray(traces)}
    elif change == "flat":
        content |= {"footprints": masks.reshape(5, 77), "fov": (7, 11)}
    elif change == "sparse":
        content |= {"pixels": A.indices, "weights": A.data, "starts": A.indptr, "fov": (7, 11)}
    elif change == "sparse_float":  # from MATLAB every number is a double
        content |= {"pixels": A.indices.astype(float), "weights": A.data, "starts": A.indptr.astype(float), "fov": np.array([[7.0, 11.0]])}
    elif change == "big_endian":
        content |= {"footprints": masks.astype(">f8"), "traces": traces.astype(">f4")}
    elif change == "4-D":
        expected = np.stack([masks, 2 * masks], axis=-1)
        content |= {"footprints": expected}
    else:
        content |= {"footprints": masks}
    with path.open("wb") as handle:
        (np.savez_compressed if change == "compressed" else np.savez)(handle, **content)
    recording = read_one(path)
    np.testing.assert_array_equal(recording.footprints.toarray(), expected.reshape(5, -1).T.astype(np.float32))
    np.testing.assert_array_equal(recording.traces[1:4], content["traces"][1:4].astype(np.float32))
    assert recording.fps == 15
    check_format(NPZ, path)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([True, False, True, True, False], [1, -1, 1, 1, -1]),
        ([1, 0, -1, 1, 0], [1, -1, 0, 1, -1]),
        ([1.0, 0.0, np.nan, 1.0, 0.0], [1, -1, 0, 1, -1]),
        ([[1], [0], [1], [0], [1]], [1, -1, 1, -1, 1]),
    ],
    ids=str,
)
def test_verdicts_as_people_write_them(given: Any, expected: Any, masks: np.ndarray, traces: np.ndarray, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", footprints=masks, traces=traces, accepted=given, probability=[0.1, 2, np.nan, 0.9, -1])
    recording = read_one(tmp_path / "x.npz")
    np.testing.assert_array_equal(recording.prior.verdict, expected)
    np.testing.assert_array_equal(recording.prior.probability, [0.1, np.nan, np.nan, 0.9, np.nan])
    assert any("2 probabilities" in note for note in recording.notes)


@pytest.mark.parametrize("n", [0, 1])
def test_few_candidates(n: int, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", footprints=np.ones((n, 4, 5)), traces=np.ones((n, 9)), accepted=np.ones(n, bool))
    recording = read_one(tmp_path / "x.npz")
    assert (recording.n_cells, recording.n_frames, recording.fps) == (n, 9, None)
    check_format(NPZ, tmp_path / "x.npz")


def test_other_arrays_are_named_and_kept(masks: np.ndarray, traces: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez_compressed(
        path, footprints=masks, traces=traces, motion=np.arange(40), objects=np.array([{}], object), accepted=[1, 1, 0, 0, 1]
    )
    recording = read_one(path)  # the pickle is not loaded, and in nobody's way
    assert any("motion, objects" in note for note in recording.notes)
    before = _members(path)
    (edit,) = NPZ.plan([recording], [make_curation(recording, recording.name, np.array([0, 1, 0, 1, 1], bool))]).edits
    edit.stage(tmp_path / "new")
    after = _members(tmp_path / "new")
    assert list(after)[: len(before)] == list(before)
    assert {name for name in before if before[name] != after[name]} == {"accepted.npy"}
    assert set(after) - set(before) == {"probability.npy"}
    accepted = np.load(tmp_path / "new")["accepted"]
    assert accepted.dtype == bool  # traces[accepted] selects; with 0 and 1 it would repeat candidates 0 and 1
    np.testing.assert_array_equal(accepted, [0, 1, 0, 1, 1])
    edit.stage(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "new").read_bytes()


def _members(path: Path) -> dict[str, tuple[bytes, int]]:
    with zipfile.ZipFile(path) as archive:
        return {info.filename: (archive.read(info), info.compress_type) for info in archive.infolist()}


def test_undecided_stay_undecided(masks: np.ndarray, traces: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, footprints=masks, traces=traces, accepted=[1, 0, -1, -1, 1])
    recording = read_one(path)
    NPZ.create([recording], [None], tmp_path / "new")
    content = np.load(tmp_path / "new")
    np.testing.assert_array_equal(content["accepted"], [1, 0, 0, 0, 1])
    np.testing.assert_array_equal(content["decided"], [1, 1, 0, 0, 1])
    np.testing.assert_array_equal(read_one(tmp_path / "new").prior.verdict, recording.prior.verdict)


def test_traces_stay_readable_when_verdicts_are_written_under_them(tmp_path: Path) -> None:
    """Dropping `decided` shifts everything behind it; a recording that is open still finds its traces."""
    NPZ.create([made := make_recording(6)], [None], tmp_path / "x")
    recording = read_one(tmp_path / "x")
    (edit,) = NPZ.plan([recording], [make_curation(recording, "made", np.ones(6, bool))]).edits
    edit.stage(tmp_path / "new")
    shutil.copy(tmp_path / "new", tmp_path / "x")
    np.testing.assert_array_equal(recording.traces[0:6], made.traces[0:6])
    shutil.copy(tmp_path / "new", tmp_path / "y")
    NPZ.create([make_recording(6, n_frames=30)], [None], tmp_path / "other")
    shutil.copy(tmp_path / "other", tmp_path / "x")
    with pytest.raises(FormatError, match="another array than when it was opened"):
        recording.traces[0:1]


def test_several_recordings(masks: np.ndarray, traces: np.ndarray, tmp_path: Path) -> None:
    both = {f"{name}/{key}": value for name in ("b", "a") for key, value in (("footprints", masks), ("traces", traces))}
    np.savez(tmp_path / "x.npz", **both)
    assert [r.name for r in NPZ.read(tmp_path / "x.npz")] == ["b", "a"]
    check_format(NPZ, tmp_path / "x.npz")


# ---- created


@pytest.mark.parametrize("fmt", [NPZ, CSV], ids=lambda fmt: fmt.name)
def test_what_is_created_holds_everything(fmt: Any, tmp_path: Path) -> None:
    assert isinstance(fmt, CreatingFormat)
    odd = {"a/b": np.arange(4.0), "probability": np.arange(4.0) / 3, "metric_x": -np.arange(4.0), "100%": np.full(4, 1e-300)}
    made = make_recording(4, fov=(9, 31), nonfinite=True)
    extra = replace(
        made,
        metrics={**made.metrics, **odd},
        images={"mean": made.images["mean"], "a/b c%": made.images["mean"] * 2},
        movie_path=Path("/data/ä/movie.tif"),
        denoised=made.traces,
        name="plane 0/ü",
    )
    fmt.create([extra], [None], tmp_path / "new")
    back = read_one(tmp_path / "new", fmt)
    assert back.candidate_fingerprints == extra.candidate_fingerprints
    np.testing.assert_array_equal(back.traces[0:4], extra.traces[0:4])
    for name, values in {**extra.metrics, **extra.images}.items():
        np.testing.assert_array_equal({**back.metrics, **back.images}[name], values)
    assert (back.name, back.fps, back.movie_path, back.trace_kind) == (extra.name, extra.fps, extra.movie_path, extra.trace_kind)
    assert back.notes == ()
    with pytest.raises(UsageError, match="exists already"):
        fmt.create([extra], [None], tmp_path / "new")


def test_tables_of_other_programs(masks: np.ndarray, traces: np.ndarray, tmp_path: Path) -> None:
    """Semicolons and decimal commas, a byte-order mark, no recording.csv, gaps for NaN, a time column."""
    masks, traces = masks.astype(np.float32), traces.astype(np.float32)
    folder = tmp_path / "tuesday"
    folder.mkdir()
    cells, rows, columns = np.nonzero(masks)
    lines = [f"{r};{c};{n};{masks[n, r, c]:.9g}".replace(".", ",") for n, r, c in zip(cells, rows, columns, strict=True)]
    (folder / "footprints.csv").write_text("\ufeffrow;column;cell;weight\r\n" + "\r\n".join(lines) + "\r\n", encoding="utf-8")
    times = [f"{t / 15:.6f}," + ",".join("" if n == 2 and t == 3 else f"{traces[n, t]:.9g}" for n in range(5)) for t in range(40)]
    (folder / "traces.csv").write_text("Time (s),C0,C1,C2,C3,C4\n" + "\n".join(times))
    recording = read_one(folder, CSV)
    assert find_format(folder, FORMATS) is CSV
    assert recording.fps == pytest.approx(15, rel=1e-4)
    assert recording.fov == (6, 11)
    assert any("field of view is taken to be (6, 11)" in note for note in recording.notes)
    expected = traces.astype(np.float32)
    expected[2, 3] = np.nan
    np.testing.assert_array_equal(recording.traces[0:5], expected)
    np.testing.assert_array_equal(recording.footprints.toarray(), masks[:, :6].reshape(5, 66).T.astype(np.float32))
    (folder / "cells.csv").write_text("size,cell,accepted,remark\n3.5,4,yes,nice\n,3,rejected,\n1,2,,\n1,1,0,\n1,0,1,\n")
    recording = read_one(folder, CSV)
    np.testing.assert_array_equal(recording.prior.verdict, [1, -1, 0, -1, 1])
    np.testing.assert_array_equal(recording.metrics["size"], [1, 1, 1, np.nan, 3.5])
    assert any("remark" in note for note in recording.notes)
    (edit,) = CSV.plan([recording], [make_curation(recording, "tuesday", np.array([1, 1, 0, 0, 0], bool))]).edits  # 4 is undecided
    edit.stage(tmp_path / "new")
    text = (tmp_path / "new").read_text().splitlines()
    assert text[0] == "size,cell,accepted,remark,probability"
    assert [line.split(",")[:4] for line in text[1:]] == [
        ["3.5", "4", "", "nice"],
        ["", "3", "0", ""],
        ["1", "2", "0", ""],
        ["1", "1", "1", ""],
        ["1", "0", "1", ""],
    ]
    check_format(CSV, folder)


def test_the_examples_of_the_page(masks: np.ndarray, traces: np.ndarray, tmp_path: Path) -> None:
    """As docs/formats/plain.md has them; the tables without pandas."""
    page = (Path(__file__).parents[1] / "docs/formats/plain.md").read_text()
    blocks = [block.split("```")[0] for block in page.split("```python\n")[1:]]
    names = {"np": np, "scipy": __import__("scipy.sparse"), "masks": masks, "traces": traces, "rows": 7, "columns": 11}
    names["A"] = masks.reshape(5, -1).T
    for block in blocks[:2]:
        path = tmp_path / "tuesday.npz"
        exec(block.replace('"tuesday.npz"', repr(str(path))), names)
        assert read_one(path).candidate_fingerprints == _recording(masks, traces).candidate_fingerprints
    (tmp_path / "tuesday").mkdir()
    exec(blocks[2].replace('"tuesday/', f'"{tmp_path}/tuesday/'), {**names, "pd": _Pandas})
    recording = read_one(tmp_path / "tuesday", CSV)
    np.testing.assert_allclose(recording.footprints.toarray(), masks.reshape(5, -1).T, rtol=1e-6)
    assert (recording.fov, recording.fps, recording.notes) == ((7, 11), 15, ())


class _Pandas:
    """As much of pandas as the page uses, and what it writes there."""

    class DataFrame:
        def __init__(self, data: Any) -> None:
            self.columns = list(data.values()) if isinstance(data, dict) else list(data.T)
            self.names = list(data) if isinstance(data, dict) else list(range(len(self.columns)))

        def to_csv(self, path: str, index: bool) -> None:
            assert not index
            rows = [self.names, *zip(*self.columns, strict=True)]
            Path(path).write_text("".join(",".join(map(str, row)) + "\n" for row in rows))

    class Series:
        def __init__(self, data: dict[str, Any]) -> None:
            self.data = data

        def to_csv(self, path: str, header: bool) -> None:
            assert not header
            Path(path).write_text("".join(f"{key},{value}\n" for key, value in self.data.items()))


def _recording(masks: np.ndarray, traces: np.ndarray) -> Recording:
    A = sp.csc_matrix(masks.reshape(5, -1).T.astype(np.float32))
    return Recording("x", Path("x"), "x", (7, 11), A, traces.astype(np.float32), "x", None, Prior.undecided(5))


# ---- refused


def npz(path: Path, **content: Any) -> Path:
    np.savez(path, **content)
    return path


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"traces": np.ones((40, 5))}, r"(transposed|there are 40 traces)"),
        ({"footprints": np.ones((7, 11, 5))}, "last axis seems to be the cells"),
        ({"traces": np.ones(5)}, r"traces has shape \(5,\)"),
        ({"traces": np.array([[{}]], object)}, "never loaded"),
        ({"footprints": np.array([{}] * 5, object)}, "never loaded"),
        ({"traces": np.array([["a"] * 40] * 5)}, "traces"),
        ({"accepted": np.ones(4)}, r"accepted of shape \(4,\)"),
        ({"accepted": np.full(5, 2)}, "accepted is 2 for candidate 0"),
        ({"accepted": np.array(list("abcde"))}, "text"),
        ({"fps": np.ones(3)}, "no single number"),
        ({"fps": "fast"}, "text"),
        ({"spikes": np.ones((5, 39))}, r"spikes of \(5, 39\)"),
        ({"image_mean": np.ones((11, 7))}, "image_mean has shape"),
        ({"metric_size": np.ones(6)}, "metric_size of shape"),
        ({"fov": (7, 12)}, "field of view of"),
        ({"name": np.array("x" * 100_000)}, "one value"),
        ({"pixels": np.array([0, 77]), "weights": np.ones(2), "starts": np.array([0, 2, 2, 2, 2, 2]), "fov": (7, 11)}, "pixel 77"),
        ({"pixels": np.array([0, -1]), "weights": np.ones(2), "starts": np.array([0, 2, 2, 2, 2, 2]), "fov": (7, 11)}, "pixel"),
        ({"pixels": np.array([0, 1]), "weights": np.ones(2), "starts": np.array([0, 3, 2, 2, 2, 2]), "fov": (7, 11)}, "does not divide"),
        ({"pixels": np.array([0, 1]), "weights": np.ones(3), "starts": np.array([0, 2, 2, 2, 2, 2]), "fov": (7, 11)}, "weights of"),
        ({"pixels": np.array([0, 0.5]), "weights": np.ones(2), "starts": np.array([0, 2, 2, 2, 2, 2]), "fov": (7, 11)}, "whole numbers"),
        (
            {"pixels": np.array([0]), "weights": np.ones(1), "starts": np.array([0, 1, 1, 1, 1, 1]), "fov": (1 << 20, 1 << 20)},
            "field of view",
        ),
        ({"pixels": np.array([0]), "weights": np.ones(1), "starts": np.array([0, 1, 1, 1, 1, 1]), "fov": (0, 5)}, "field of view"),
        ({"pixels": np.array([0])}, "no weights"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_what_does_not_fit_is_named(content: Any, words: str, masks: np.ndarray, traces: np.ndarray, tmp_path: Path) -> None:
    path = npz(tmp_path / "x.npz", **{"footprints": masks, "traces": traces, **content})
    with pytest.raises(FormatError, match=words) as caught:
        read_with(NPZ, path)
    assert str(path) in str(caught.value)


def header(shape: tuple[int, ...], descr: str = "<f4") -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": descr, "fortran_order": False, "shape": shape})
    return out.getvalue()


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("shape", [(5, 10**12), (10**9, 10**9), (5, 41), (5, 39), (-5, 40)], ids=str)
def test_declared_sizes_are_checked_before_memory_is_taken(shape: Any, compression: int, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("traces.npy", header(shape) + b"\0" * 800)
        archive.writestr("footprints.npy", header((5, 2, 2)) + b"\0" * 80)
    with pytest.raises(FormatError):
        read_with(NPZ, path)


def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_plain_npz, "_LARGE", 1 << 20)
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("traces.npy", header((5, 10**6)) + b"\0" * (2 * 10**7))
        archive.writestr("footprints.npy", header((5, 2, 2)) + b"\0" * 80)
    with pytest.raises(FormatError, match="claims 20000000 bytes"):
        read_with(NPZ, path)


def test_damage_to_an_archive(masks: np.ndarray, traces: np.ndarray, tmp_path: Path) -> None:
    """Cut off anywhere, or with any byte changed: read as before, or refused; never anything else."""
    whole = npz(tmp_path / "whole.npz", footprints=masks, traces=traces, fps=15.0, accepted=np.ones(5, bool)).read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / "x.npz"
    for length in rng.integers(0, len(whole), 60):
        path.write_bytes(whole[:length])
        assert not NPZ.sniff(path).yes
        with pytest.raises(FormatError):
            read_with(NPZ, path)
    for place in rng.integers(0, len(whole), 400):
        content = bytearray(whole)
        content[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(content)
        NPZ.sniff(path)
        try:
            for recording in read_with(NPZ, path):
                recording.traces[0:5]
        except FormatError:
            pass


def test_a_local_header_elsewhere(masks: np.ndarray, traces: np.ndarray, tmp_path: Path) -> None:
    path = npz(tmp_path / "x.npz", footprints=masks, traces=traces)
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\x01\x02")  # of the last array in the directory
    content[entry + 42 : entry + 46] = struct.pack("<I", len(content) - 10)
    path.write_bytes(content)
    with pytest.raises(FormatError):
        read_with(NPZ, path)


def test_an_array_twice(masks: np.ndarray, traces: np.ndarray, tmp_path: Path) -> None:
    path = npz(tmp_path / "x.npz", footprints=masks, traces=traces)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("traces.npy", b"")
    with pytest.raises(FormatError, match="twice"):
        read_with(NPZ, path)


@pytest.mark.parametrize(
    ("table", "text", "words"),
    [
        ("footprints.csv", "", "is empty"),
        ("footprints.csv", "0,1,2,1.0\n", "no column 'cell'"),
        ("footprints.csv", "cell,row,column\n0,1\n", "line 2 is no footprint entry"),
        ("footprints.csv", "cell,row,column\n0,1,x\n", "line 2 is no footprint entry"),
        ("footprints.csv", "cell,row,column\n0,1.5,1\n", "whole numbers"),
        ("footprints.csv", "cell,row,column\n0,1,1e300\n", "whole numbers"),
        ("footprints.csv", "cell,row,column\n0,-1,1\n", "count from 0"),
        ("footprints.csv", "cell,row,column\n0,1,24\n", "axis of 5"),
        ("footprints.csv", "cell,row,column\n9,1,1\n", "cell 9"),
        ("footprints.csv", "cell,row,column,depth\n0,1,1,1\n", "coordinates"),
        ("traces.csv", "", "is empty"),
        ("traces.csv", "a,b\n1,2\n3\n", "line 3 has 1 columns"),
        ("traces.csv", "a,b\n1,x\n", "line 2: 'x' is no number"),
        ("traces.csv", '"' + "x" * 200_000, "as a table"),
        ("cells.csv", "cell,accepted\n0,1\n", "1 lines of candidates"),
        ("cells.csv", "cell,accepted\n0,1\n0,1\n", "lines of candidates"),
        ("cells.csv", "cell,accepted\n0,maybe\n1,1\n", "accepted is 'maybe'"),
        ("cells.csv", "cell,accepted\n0\n1,1\n", "line 2 has 1 columns"),
        ("cells.csv", "", "is empty"),
        ("recording.csv", "rows,4\ncolumns,many\n", "no number"),
        ("recording.csv", "rows,4\ncolumns,1e12\n", "field of view"),
        ("recording.csv", "rows,4\ncolumns,-3\n", "field of view"),
        ("recording.csv", "rows,4\ncolumns,5\nfps,fast\n", "no number"),
        ("spikes.csv", "a,b\n1,2\n", "spikes of"),
        ("image_mean.csv", "1,2\n3,4\n", r"image_mean.csv has shape \(2, 2\)"),
        ("image_mean.csv", "1,2\n3\n", "no image"),
        ("traces.csv", b"\xff\xfe\x00", "as a table"),
    ],
)
def test_tables_that_do_not_fit_are_named(table: str, text: Any, words: str, tmp_path: Path) -> None:
    (tmp_path / "footprints.csv").write_text("cell,row,column\n0,1,1\n1,2,2\n")
    (tmp_path / "traces.csv").write_text("0,1\n1,2\n3,4\n5,6\n")
    (tmp_path / "recording.csv").write_text("rows,4\ncolumns,5\n")
    assert read_one(tmp_path, CSV).n_cells == 2
    (tmp_path / table).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(FormatError, match=words):
        read_with(CSV, tmp_path)


def test_foreign_paths_are_told_apart(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", masks=np.ones(3), dff=np.ones(3))
    (tmp_path / "text").write_text("PK but no archive")
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "traces.csv").touch()
    for path in tmp_path.iterdir():
        for fmt in FORMATS.values():
            assert not fmt.sniff(path).yes
            with pytest.raises(FormatError):
                read_with(fmt, path)


def test_a_disk_that_is_full_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(plain._plain_csv, "_write_matrix", full)
    monkeypatch.setattr(_plain_npz, "_write_member", full)
    for fmt in (NPZ, CSV):
        with pytest.raises(OSError, match="No space left"):
            fmt.create([make_recording()], [None], tmp_path / "new")
    assert list(tmp_path.iterdir()) == []
