"""What a pickle of a host may hold (actsort_adapters._npy): everything Suite2p writes, and nothing that could do harm."""

from __future__ import annotations

import datetime
import os
import pickle
import tracemalloc
from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import pytest

from actsort_adapters import _npy
from actsort_core.errors import FormatError

DATA = Path(__file__).parent / "data" / "suite2p"


def save_object(path: Path, value: Any, protocol: int = 4, raw: bytes | None = None) -> None:
    """As np.save, but with a choice of the pickle protocol, or of the pickle itself."""
    array = value if isinstance(value, np.ndarray) else np.array(value, dtype=object)
    with path.open("wb") as handle:
        np.lib.format.write_array_header_1_0(handle, {"descr": "|O", "fortran_order": False, "shape": array.shape})
        handle.write(pickle.dumps(array, protocol) if raw is None else raw)


def test_pickles_of_both_numpys_and_old_protocols(tmp_path):
    old, new = DATA / "s2p_0146/single/suite2p/plane0/stat.npy", DATA / "s2p_110/mini/suite2p/plane0/stat.npy"
    assert b"numpy.core.multiarray" in old.read_bytes()
    assert b"numpy._core.multiarray" in new.read_bytes()
    for path in (old, new):
        expected = np.load(path, allow_pickle=True)
        for protocol in (2, 3, 4, 5):
            if protocol < 5:  # numpy.save never writes 5; its arrays then need another constructor
                save_object(tmp_path / "stat.npy", expected, protocol)
            rows = _npy.read_dicts(tmp_path / "stat.npy")
            assert len(rows) == len(expected)
            for row, wanted in zip(rows, expected, strict=True):
                assert row.keys() == wanted.keys()
                for key, value in wanted.items():
                    np.testing.assert_array_equal(row[key], value)
                    assert np.asarray(row[key]).dtype == np.asarray(value).dtype


def test_dates_and_paths(tmp_path):
    now = datetime.datetime(2026, 11, 22, 13, 29, tzinfo=datetime.timezone(datetime.timedelta(hours=1)))
    ops = {"date": now, "text": np.str_("é"), "empty": np.str_(""), "big": np.arange(3, dtype=">i4"), "path": Path("/data/x")}
    np.save(tmp_path / "ops.npy", ops)
    read = _npy.read_dict(tmp_path / "ops.npy")
    assert read["path"] == PurePosixPath("/data/x")
    assert {key: read[key] for key in ("date", "text", "empty")} == {key: ops[key] for key in ("date", "text", "empty")}
    np.testing.assert_array_equal(read["big"], [0, 1, 2])
    # a path of Windows, and one of Python 3.13, where the class lives in pathlib._local
    raw = pickle.dumps(np.array({"path": Path("a")}, dtype=object), 2)
    for module in (b"pathlib", b"pathlib._local"):
        save_object(tmp_path / "ops.npy", None, raw=raw.replace(b"cpathlib\nPosixPath\n", b"c" + module + b"\nWindowsPath\n"))
        assert _npy.read_dict(tmp_path / "ops.npy")["path"] == PureWindowsPath("a")


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function: Any, *args: Any, state: Any = None) -> None:
        self.reduced = (function, args) if state is None else (function, args, state)

    def __reduce__(self) -> Any:
        return self.reduced


def reconstruct() -> Callable[..., Any]:
    return np.empty(0).__reduce__()[0]


def scalar() -> Callable[..., Any]:
    return np.float64(0).__reduce__()[0]


def bomb() -> list[Any]:
    """A list of 10**13 numbers in 200 bytes of pickle: whoever prints it or makes an array of it needs more memory than there is."""
    out: list[Any] = [0] * 10
    for _ in range(12):
        out = [out] * 10
    return out


STRUCTURED = np.zeros(2, dtype=[("a", "f4")])
NESTED = b"\x80\x04}" + b")" + b"\x85" * 200_000 + b"Ns."  # a dictionary whose key is a tuple in a tuple in a tuple...


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(lambda mark: Call(os.system, f"touch {mark}"), id="os.system"),
        pytest.param(lambda mark: Call(eval, f"open({str(mark)!r}, 'w')"), id="eval"),
        pytest.param(lambda mark: Call(Path.touch, mark), id="Path.touch"),
        pytest.param(lambda mark: Call(getattr, dict, "clear"), id="getattr"),
        pytest.param(lambda mark: Call(np.load, "x.npy"), id="numpy.load"),
        pytest.param(lambda mark: Call(bytearray, 10**12), id="bytearray"),
        pytest.param(lambda mark: Call(np.ndarray, (10**12,), "O"), id="huge ndarray"),
        pytest.param(
            lambda mark: Call(reconstruct(), np.ndarray, (0,), b"b", state=(1, (10**12,), np.dtype("O"), False, [])), id="no list"
        ),
        pytest.param(
            lambda mark: Call(reconstruct(), np.ndarray, (0,), b"b", state=(1, (10**12,), np.dtype("f8"), False, b"")), id="no bytes"
        ),
        pytest.param(lambda mark: Call(scalar(), np.dtype("O"), b"12345678"), id="scalar object"),
        pytest.param(lambda mark: Call(scalar(), np.dtype("U200000000")), id="scalar without data"),
        pytest.param(lambda mark: Call(np.dtype, "V100000000000"), id="huge void"),
        pytest.param(
            lambda mark: Call(reconstruct(), np.ndarray, (0,), b"b", state=(1, (10**9,), np.dtype("U0"), False, b"")), id="empty texts"
        ),
        pytest.param(lambda mark: Call(reconstruct(), np.ndarray, (0,), b"b", state=(1, bomb(), np.dtype("f8"), False, b"")), id="shape"),
        pytest.param(lambda mark: Call(np.dtype, bomb()), id="array type"),
        pytest.param(lambda mark: STRUCTURED, id="structured array"),
        pytest.param(lambda mark: {1, 2}, id="set"),
        pytest.param(lambda mark: {(1, 2): 3}, id="tuple as key"),
        pytest.param(b"cposix\nsystem\n(S'touch x'\ntR.", id="protocol 0"),
        pytest.param(b"\x80\x04Nr\xff\xff\xff\xff.", id="huge memo number"),
        pytest.param(b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x0fx.", id="huge bytes"),
        pytest.param(b"\x80\x05\x96\x00\x00\x00\x10\x00\x00\x00\x00x.", id="huge bytearray"),
        pytest.param(b"\x80\x04\x8a\xff\xff.", id="short integer"),
        pytest.param(NESTED, id="nested key"),
        pytest.param(b"\x80\x04cnumpy\ndtype\n}b.", id="state of a constructor"),
        pytest.param(b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00zip\x86R.", id="codec"),
        pytest.param(b"\x80\x04\x82\x01.", id="extension registry"),
        pytest.param(b"\x80\x04Nq\x00Q.", id="persistent id"),
        pytest.param(b"", id="nothing"),
    ],
)
@pytest.mark.parametrize("name", ["stat.npy", "ops.npy"])
def test_hostile_pickles(tmp_path, payload, name):
    """Refused with an error that names the file, without running anything and without memory beyond the file's own size."""
    path, mark = tmp_path / name, tmp_path / "mark"
    raw = payload if isinstance(payload, bytes) else None
    inner = {"ypix": payload(mark)} if raw is None else {}
    save_object(path, np.array([inner, inner, inner]) if name == "stat.npy" else inner, raw=raw)
    tracemalloc.start()
    with pytest.raises(FormatError, match=name):
        _npy.read_dicts(path) if name == "stat.npy" else _npy.read_dict(path)
    assert tracemalloc.get_traced_memory()[1] < 40e6
    tracemalloc.stop()
    assert not mark.exists()


def test_the_forbidden_name_is_told(tmp_path):
    save_object(tmp_path / "ops.npy", {"a": Call(os.system, "true")})
    with pytest.raises(FormatError, match=rf"ops\.npy asks for {os.name}\.system, which is not .* Nothing was executed"):
        _npy.read_dict(tmp_path / "ops.npy")


def test_an_array_starts_empty_whatever_is_asked(tmp_path):
    save_object(tmp_path / "ops.npy", {"a": Call(reconstruct(), np.ndarray, (10**12,), b"O")})
    assert _npy.read_dict(tmp_path / "ops.npy")["a"].size == 0


def test_constructors_cannot_be_changed():
    """One hostile file must not change how the next one is read."""
    for constructor in _npy._ALLOWED.values():
        with pytest.raises(_npy._ForbiddenError):
            constructor.__setstate__({"_make": print})
