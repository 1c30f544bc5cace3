"""The decoder of MATLAB files: v5, v6, v7, v7.3, and what happens with broken ones."""

from __future__ import annotations

import io
import random
import time
import tracemalloc
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actsort_adapters import _mat, _mat5, _mat5_edit, _mat73
from actsort_core.errors import ActsortError, FormatError, MissingFileError

DATA = Path(__file__).parent / "data" / "cnmfe"
V5 = sorted(path.name for path in DATA.glob("*.mat") if _mat.flavour(path).version == "v5")
SPARSE = sp.csc_matrix(np.array([[0, 1.5, 0], [2, 0, 0], [0, 0, 0], [3, 4, 0]]))
VALUES = {
    **{f"n{name}": np.array([[1, 2, 3], [4, 5, 6]], name) for name in ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8")},
    "logical": np.array([[True, False]]),
    "stack": np.arange(24.0).reshape(2, 3, 4),
    "column": np.arange(3.0).reshape(-1, 1),
    "scalar": np.array([[7.5]]),
    "empty": np.zeros((0, 5)),
}


def put73(path, values):
    """A v7.3 file as MATLAB writes it: a header of 512 bytes, then HDF5."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in values.items():
            if sp.issparse(value):
                group = file.create_group(name)
                _mat73.tag(group, "double", file)
                group.attrs.create("MATLAB_sparse", value.shape[0], dtype=np.uint64)
                group["jc"] = value.indptr.astype("u8")
                if value.nnz:
                    group["ir"], group["data"] = value.indices.astype("u8"), value.data
            else:
                _mat73.put(file["/"], name, value)
    with path.open("r+b") as handle:
        handle.write(b"MATLAB 7.3 MAT-file, Platform: TEST".ljust(116) + bytes(8) + b"\x00\x02IM")
    return path


def write(path, values, version):
    if version == "v7.3":
        return put73(path, values)
    scipy.io.savemat(path, values, do_compression=version == "v7", oned_as="row")
    return path


@pytest.mark.parametrize("version", ["v6", "v7", "v7.3"])
def test_values_keep_class_and_shape(tmp_path, version):
    struct = {"inner": {"x": VALUES["scalar"]}, "name": "déjà vu", "nothing": ""}
    path = write(tmp_path / "a.mat", {**VALUES, "sparse": SPARSE, "s": struct, "t": "text"}, version)
    assert _mat.flavour(path).version == ("v7.3" if version == "v7.3" else "v5")
    with _mat.opened(path) as file:
        assert set(file.names) == {*VALUES, "sparse", "s", "t"}
        for name, value in VALUES.items():
            node = file.variable(name)
            assert node.shape == value.shape
            found = node.array()
            assert found.dtype == value.dtype
            np.testing.assert_array_equal(found, value)
            assert not node.fields()
            if value.size:
                np.testing.assert_array_equal(np.concatenate([part for _, part in node.slabs()], axis=-1), value)
        np.testing.assert_array_equal(file.variable("sparse").sparse().toarray(), SPARSE.toarray())
        np.testing.assert_array_equal(file.variable("sparse").array(), SPARSE.toarray())
        assert file.variable("t").text() == "text"
        s = file.variable("s")
        assert (s.kind, set(s.fields())) == ("struct", {"inner", "name", "nothing"})
        assert s.field("name").text() == "déjà vu"
        assert not s.field("nothing").text()
        assert s.field("inner").field("x").array().tolist() == [[7.5]]
        assert s.field("missing") is None
        assert file.variable("missing") is None
        assert _mat.number(file.variable("scalar")) == 7.5
        assert np.isnan(_mat.number(file.variable("stack")))
        assert _mat.vector(file.variable("column")).tolist() == [0, 1, 2]
        assert _mat.vector(file.variable("ni1")) is None
        for name in ("t", "s"):
            with pytest.raises(FormatError, match="not plain numbers"):
                file.variable(name).array()
        with pytest.raises(FormatError):
            file.variable("scalar").sparse()


@pytest.mark.parametrize("version", ["v7", "v7.3"])
@pytest.mark.parametrize("cells", [0, 1])
@pytest.mark.parametrize("rows", [slice(None), slice(1, 3), slice(None, None, -2), slice(3, 1), slice(-2, None)])
def test_traces_have_candidates_first(tmp_path, monkeypatch, version, cells, rows):
    monkeypatch.setattr(_mat73, "_SLAB", 20)  # two candidates at a time
    x = np.random.default_rng(0).random((5, 9))
    path = write(tmp_path / "a.mat", {"x": x if cells == 0 else x.T}, version)
    with _mat.opened(path) as file:
        traces = file.variable("x").traces(cells)
    assert traces.shape == (5, 9)
    assert traces[rows].dtype == np.float32
    np.testing.assert_array_equal(traces[rows], x[rows].astype("f4"))


@pytest.mark.parametrize("name", V5)
def test_fixtures_as_scipy_reads_them(name):
    """Where scipy can: not objects."""
    theirs = scipy.io.loadmat(DATA / name, mat_dtype=True)
    compared = 0
    with _mat.opened(DATA / name) as file:
        for variable in file.names:
            node = file.variable(variable)
            pairs = [(node, theirs.get(variable))]
            if node.fields() and not node.opaque:
                pairs = [(child, theirs[variable][0, 0][child.where.rpartition(".")[2]]) for child in node.children()]
            for mine, other in pairs:
                if mine.kind == "sparse":
                    assert (mine.sparse() != other).nnz == 0
                elif isinstance(other, np.ndarray) and other.dtype.kind in "biuf" and mine.kind in ("double", "single", "logical"):
                    np.testing.assert_array_equal(mine.array(), other)
                else:
                    continue
                compared += 1
    assert compared >= 5 or "sources2d" in name or "Sorted" in name


def big_endian(name, values):
    """A file as MATLAB wrote it on SPARC or PowerPC: one double matrix."""

    def element(code, content):
        return np.array([code, len(content)], ">u4").tobytes() + content + bytes(-len(content) % 8)

    body = element(6, np.array([6, 0], ">u4").tobytes()) + element(5, np.array(values.shape, ">i4").tobytes())
    body += element(1, name.encode()) + element(9, values.astype(">f8").tobytes(order="F"))
    return b"MATLAB 5.0 MAT-file".ljust(124) + b"\x01\x00MI" + element(14, body)


def test_big_endian_files_are_read_but_not_edited(tmp_path):
    path = tmp_path / "a.mat"
    path.write_bytes(big_endian("x", np.arange(6.0).reshape(2, 3)))
    np.testing.assert_array_equal(scipy.io.loadmat(path)["x"], np.arange(6.0).reshape(2, 3))
    with _mat.opened(path) as file:
        np.testing.assert_array_equal(file.variable("x").array(), np.arange(6.0).reshape(2, 3))
        with pytest.raises(FormatError, match=r"big-endian.*actsort export"):
            _mat5_edit.check_editable(file)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "empty"),
        (b"Dear diary", "not a MATLAB"),
        (b"x" * 600, "not a MATLAB"),
        (b"MATLAB 7.3".ljust(124) + b"\x00\x02IM" + bytes(600), "cut off"),
        (np.array([0, 4, 3, 0, 2], "<u4").tobytes() + b"x\0" + bytes(96), "v4"),
    ],
)
def test_other_files_are_told(tmp_path, content, why):
    path = tmp_path / "a.mat"
    path.write_bytes(content)
    assert why in _mat.flavour(path).why
    with pytest.raises(FormatError, match=why), _mat.opened(path):
        pass
    assert "folder" in _mat.flavour(tmp_path).why
    with pytest.raises(MissingFileError), _mat.opened(tmp_path / "b.mat"):
        pass


def test_scipy_agrees_that_the_made_up_v4_file_is_one(tmp_path):
    scipy.io.savemat(tmp_path / "a.mat", {"x": np.ones((3, 2))}, format="4")
    assert "v4" in _mat.flavour(tmp_path / "a.mat").why


# Editing v5


def elements(path):
    with _mat.opened(path) as file:
        return [(e.head.name, bytes(file.content[e.start : e.stop])) for e in file.elements], file.subsystem


@pytest.mark.parametrize("name", V5)
def test_splicing_keeps_every_other_byte(tmp_path, name):
    tmp = tmp_path / "new.mat"
    with _mat.opened(DATA / name) as file:
        added = _mat5_edit.encode({"extra": np.array([[True, False]])}, compressed=True)
        _mat5_edit.rewrite(file, tmp, added)
    before, at_before = elements(DATA / name)
    after, at_after = elements(tmp)
    assert [e for e in after if e[0] != "extra"] == before
    if at_before is None:
        assert after[-1][0] == "extra"
        assert tmp.read_bytes()[:128] == (DATA / name).read_bytes()[:128]
    else:  # objects stay last, and the header follows them
        assert [e[0] for e in after[-2:]] == ["extra", ""]
        assert at_after == at_before + len(added)
    with _mat.opened(tmp) as new:
        again = tmp_path / "again.mat"
        _mat5_edit.rewrite(new, again, without=frozenset({"extra"}))
    assert again.read_bytes() == (DATA / name).read_bytes()


def octave_char(name, rows, unpadded=True):
    """What Octave 7 writes for a char array of several rows and three or four characters: four bytes less than it declares."""

    def element(code, content):
        return np.array([code, len(content)], "<u4").tobytes() + content + bytes(-len(content) % 8)

    text = "".join(map("".join, zip(*rows, strict=True))).encode()
    body = element(6, np.array([4, 0], "<u4").tobytes()) + element(5, np.array([len(rows), len(rows[0])], "<i4").tobytes())
    body += element(1, name.encode()) + np.array([16 | len(text) << 16], "<u4").tobytes() + text.ljust(4, b"\0")
    return np.array([14, len(body) + 4], "<u4").tobytes() + body + bytes(0 if unpadded else 4)


@pytest.mark.parametrize("rows", [["ab", "cd"], ["a", "b", "c"]])
def test_octave_may_leave_the_end_of_a_file_unpadded(tmp_path, rows):
    path, tmp = write(tmp_path / "a.mat", {"x": np.arange(6.0).reshape(2, 3)}, "v6"), tmp_path / "b.mat"
    content = path.read_bytes() + octave_char("m", rows)
    path.write_bytes(content)
    assert scipy.io.loadmat(path)["m"].tolist() == rows
    with _mat.opened(path) as file:
        assert file.names == ("x", "m")
        assert bytes(file.variable("m").values(file.variable("m").body)) == "".join(map("".join, zip(*rows, strict=True))).encode()
        _mat5_edit.rewrite(file, tmp, _mat5_edit.encode({"extra": np.array([[True, False]])}, False))
    with _mat.opened(path) as file, _mat.opened(tmp) as after:  # the short one stays the last: anywhere else no reader finds the next
        assert after.names == ("x", "extra", "m")
        assert not _mat5_edit.first_difference(file, after, frozenset({"extra"}))
    found = scipy.io.loadmat(tmp)
    assert (found["extra"].tolist(), found["m"].tolist(), found["x"].shape) == ([[1, 0]], rows, (2, 3))
    with _mat.opened(tmp) as after:
        _mat5_edit.rewrite(after, tmp_path / "c.mat", without=frozenset({"extra"}))
    assert (tmp_path / "c.mat").read_bytes() == content
    for lost in (1, 2, 3, 4, 5, 8):  # of what it says, not of what pads it
        path.write_bytes(content[:-lost])
        with pytest.raises(FormatError, match="cut off"), _mat.opened(path) as file:
            pass


def test_numbers_may_end_a_file_unpadded_but_not_lack_one(tmp_path):
    path = write(tmp_path / "a.mat", {"x": np.arange(13).astype("i1")[None]}, "v6")
    content = path.read_bytes()
    for lost in range(1, 9):
        path.write_bytes(content[:-lost])
        if lost <= 3:
            with _mat.opened(path) as file:
                assert file.variable("x").array().tolist() == [list(range(13))]
        else:
            with pytest.raises(FormatError, match="cut off"), _mat.opened(path) as file:
                pass
    for name, value in (("f", np.arange(3.0)[None]), ("s", SPARSE), ("t", {"a": np.ones((1, 1))})):
        content = write(path, {name: value}, "v6").read_bytes()
        for lost in (1, 4, 7):
            path.write_bytes(content[:-lost])
            with pytest.raises(FormatError, match="cut off"), _mat.opened(path) as file:
                pass


@pytest.mark.parametrize("what", ["header", "value", "order", "missing"])
def test_differences_are_found(tmp_path, what):
    values = {"a": np.ones((2, 2)), "b": np.ones((1, 3)), "c": 1.0}
    write(tmp_path / "a.mat", values, "v6")
    if what == "value":
        values["b"][0, 1] = 2
    if what == "order":
        values = dict(reversed(values.items()))
    if what == "missing":
        del values["c"]
    write(tmp_path / "b.mat", values, "v6")
    content = bytearray((tmp_path / "b.mat").read_bytes())
    content[:116] = (tmp_path / "a.mat").read_bytes()[:116]
    if what == "header":
        content[3] ^= 1
    (tmp_path / "b.mat").write_bytes(content)
    with _mat.opened(tmp_path / "a.mat") as a, _mat.opened(tmp_path / "b.mat") as b:
        assert _mat5_edit.first_difference(a, b, frozenset())
        assert not _mat5_edit.first_difference(a, a, frozenset())


@pytest.mark.parametrize(
    "value", [np.arange(12).reshape(3, 4).astype("f8"), np.arange(12).reshape(3, 4) % 2 == 0, sp.csc_matrix(np.eye(3, 4))]
)
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("keep", [[1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]])
def test_filtered_elements_are_what_scipy_reads(tmp_path, value, axis, keep):
    keep = np.array(keep[: value.shape[axis]], bool)
    path = write(tmp_path / "a.mat", {"x": value}, "v6")
    with _mat.opened(path) as file:
        content = _mat5_edit.taken(file.variable("x"), keep, axis)
        _mat5_edit.rewrite(file, tmp_path / "b.mat", swap={"x": content})
    found = scipy.io.loadmat(tmp_path / "b.mat", mat_dtype=True)["x"]
    wanted = value[keep] if axis == 0 else value[:, keep]
    assert sp.issparse(found) == sp.issparse(value)
    found, wanted = (m.toarray() if sp.issparse(m) else m for m in (found, wanted))
    np.testing.assert_array_equal(found, wanted)


# v7.3: what we write


def test_attributes_are_those_of_matlab(tmp_path):
    path = put73(tmp_path / "a.mat", {"flag": np.array([[True]]), "s": {"text": "ab", "x": np.ones((2, 1)), "e": np.zeros((0, 1))}})
    with h5py.File(path) as file:
        flag, group = file["flag"], file["s"]
        assert (flag.dtype, flag.attrs["MATLAB_class"], flag.attrs["MATLAB_int_decode"]) == (np.uint8, b"logical", 1)
        assert flag.attrs.get_id("MATLAB_int_decode").dtype == np.int32
        assert flag.attrs.get_id("MATLAB_class").get_type().get_strpad() == h5py.h5t.STR_NULLTERM
        assert group.attrs["MATLAB_class"] == b"struct"
        assert [b"".join(name) for name in group.attrs["MATLAB_fields"]] == [b"text", b"x", b"e"]
        assert group["text"][()].tolist() == [[97], [98]]
        assert (group["text"].dtype, group["text"].attrs["MATLAB_int_decode"]) == (np.uint16, 2)
        assert group["x"].shape == (1, 2)
        assert group["x"].attrs["H5PATH"] == b"/s"
        assert group["e"][()].tolist() == [0, 1]
        assert group["e"].attrs.get_id("MATLAB_empty").dtype == np.uint8


def test_values_of_the_same_shape_are_written_in_place(tmp_path):
    path = put73(tmp_path / "a.mat", {"s": {"text": "ab", "x": np.ones((2, 1))}, "flag": np.array([[True]])})
    size = path.stat().st_size
    for i in range(5):
        with h5py.File(path, "r+") as file:
            _mat73.put(file["/"], "s", {"text": f"{i}b", "x": np.full((2, 1), float(i))})
            _mat73.put(file["/"], "flag", np.array([[i % 2 == 0]]))
        assert path.stat().st_size == size
    with h5py.File(path, "r+") as file:
        _mat73.put(file["/"], "s", {"x": np.ones((3, 1))})  # other fields, other shape: anew
        _mat73.put(file["/"], "flag", {"x": np.ones((1, 1))})
        assert list(file["s"]) == ["x"]
        assert isinstance(file["flag"], h5py.Group)


# Broken and hostile files


def bomb(declared, packed):
    inner = np.array([14, declared - 8, 6, 8, 6, 0, 5, 8, 1, (declared - 56) // 8], "<u4").tobytes()
    inner += np.array([1, 1], "<u4").tobytes() + b"x".ljust(8, b"\0") + np.array([9, declared - 56], "<u4").tobytes()
    content = zlib.compress(inner + bytes(packed - len(inner)), 9)
    return b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + np.array([15, len(content)], "<u4").tobytes() + content


@pytest.mark.parametrize(("declared", "packed"), [(1 << 31, 1000), (1 << 24, 1000), (1000, 1 << 27), (1 << 31, 1 << 27)])
def test_compressed_sizes_are_bounded(tmp_path, declared, packed):
    path = tmp_path / "a.mat"
    path.write_bytes(bomb(declared, packed))
    tracemalloc.start()
    start = time.perf_counter()
    with _mat.opened(path) as file:
        assert file.names == ("x",)
        if declared > packed:
            with pytest.raises(FormatError, match=r"claims|missing"):
                file.variable("x")
        else:
            file.variable("x")
    assert tracemalloc.get_traced_memory()[1] < 1 << 25
    tracemalloc.stop()
    assert time.perf_counter() - start < 5


def test_large_variables_are_inflated_on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(_mat5, "_IN_MEMORY", 1000)
    x = np.random.default_rng(0).random((50, 60))
    path = write(tmp_path / "a.mat", {"x": x}, "v7")
    with _mat.opened(path) as file:
        np.testing.assert_array_equal(file.variable("x").array(), x)


def test_a_wrong_checksum_is_noticed(tmp_path):
    path = write(tmp_path / "a.mat", {"x": np.random.default_rng(0).random((50, 60))}, "v7")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(FormatError, match="damaged"), _mat.opened(path) as file:
        file.variable("x")


def test_structs_that_claim_too_much(tmp_path):
    out = io.BytesIO()
    scipy.io.savemat(out, {"c": np.array([[1, "a"]], object), "s": {"x": 1.0}})
    content = out.getvalue()
    path = tmp_path / "a.mat"
    path.write_bytes(content.replace(np.array([1, 2], "<i4").tobytes(), np.array([1 << 20, 1 << 20], "<i4").tobytes(), 1))
    with _mat.opened(path) as file, pytest.raises(FormatError, match="claims"):
        file.variable("c").check()


def test_nesting_is_bounded(tmp_path):
    deep = np.ones((1, 1))
    for _ in range(100):
        deep = {"x": deep}
    path = write(tmp_path / "a.mat", {"x": deep}, "v6")
    with _mat.opened(path) as file, pytest.raises(FormatError, match="nested"):
        file.variable("x").check()


def test_references_in_circles_and_without_end_are_refused(tmp_path):
    for kind in ("circle", "laughs", "null"):
        path = put73(tmp_path / f"{kind}.mat", {"x": np.ones((1, 1))})
        with h5py.File(path, "r+") as file:
            group = file.create_group("#refs#")
            previous = file["x"]
            for level in range(30):
                made = group.create_dataset(f"r{level}", (1, 10), h5py.ref_dtype)
                if kind != "null":
                    made[...] = np.full((1, 10), previous.ref, object)
                previous = made
            if kind == "circle":
                group["r0"][0, 0] = previous.ref
            file["cell"] = np.array([[previous.ref]], h5py.ref_dtype)
        start = time.perf_counter()
        with _mat.opened(path) as file:
            if kind == "null":
                file.check_references()
                continue
            with pytest.raises(FormatError, match="itself" if kind == "circle" else "stands for more"):
                file.check_references()
        assert time.perf_counter() - start < 2


@pytest.mark.parametrize("how", ["shape", "chunks", "external", "link", "type"])
def test_v73_data_that_cannot_be_there(tmp_path, how):
    path = put73(tmp_path / "a.mat", {"y": np.ones((1, 1))})
    with h5py.File(path, "r+") as file:
        if how == "link":
            file["x"] = h5py.ExternalLink("other.h5", "/x")
        elif how == "type":
            file["x"] = np.array([[1 + 2j]])
        else:
            more = {"chunks": {"chunks": (1, 1 << 20), "compression": "gzip"}, "external": {"external": str(tmp_path / "raw")}}
            file.create_dataset("x", (1 << 16, 1 << 20) if how != "external" else (2, 2), "f8", **more.get(how, {}))
        if how != "link":
            _mat73.tag(file["x"], "double", file)
    (tmp_path / "raw").write_bytes(bytes(32))
    with _mat.opened(path) as file:
        for read in (lambda n: n.array(), lambda n: list(n.slabs()), lambda n: n.traces(0)):
            with pytest.raises(FormatError):
                read(file.variable("x"))


def go_through(path):
    """Decode everything that can be decoded, or meet one of our errors, which name the file."""
    said = path.name
    try:
        with _mat.opened(path) as file:
            for name in file.names:
                stack = [file.variable(name)]
                while stack:
                    node = stack.pop()
                    if node is None:  # a name without an object
                        continue
                    stack += [node.field(field) for field in node.fields()[:50]]
                    try:
                        node.sparse() if node.kind == "sparse" else node.array()
                    except FormatError:
                        node.text()
    except ActsortError as error:
        said = str(error)
    assert path.name in said


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("broken")
    values = {**VALUES, "sparse": SPARSE, "s": {"a": np.ones((2, 2)), "t": "text", "deeper": {"x": np.ones((1, 2))}}}
    files = {version: write(folder / f"{version}.mat", values, version).read_bytes() for version in ("v6", "v7", "v7.3")}
    return lambda: (folder / "a.mat", files)  # a function: hypothesis prints the value of what fails


@pytest.mark.parametrize("version", ["v6", "v7", "v7.3"])
def test_truncated_files(broken, version):
    path, files = broken()
    content = files[version]
    for size in {*np.linspace(0, len(content) - 1, 120).astype(int).tolist(), *range(100, 200, 7)}:
        path.write_bytes(content[:size])
        start = time.perf_counter()
        go_through(path)
        assert time.perf_counter() - start < 2


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(["v6", "v7", "v7.3"]), st.integers(0, 2**32), st.lists(st.integers(0, 255), min_size=1, max_size=6))
def test_flipped_bytes(broken, version, seed, values):
    path, files = broken()
    content, where = bytearray(files[version]), random.Random(seed)
    for value in values:
        content[where.randrange(len(content))] = value
    path.write_bytes(content)
    go_through(path)
