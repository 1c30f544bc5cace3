"""Reading ``.npy`` files that somebody else wrote: plain arrays from disk, pickled objects through an allow-list.

Nothing in a file is trusted: sizes are checked against the file before memory is allocated, and a pickle can only build arrays,
numbers, text, dates, paths and containers of them. No class of NumPy, no function and no path object of the running system is
ever handed to a pickle; it gets stand-ins that check what they are asked to make.
"""

from __future__ import annotations

import datetime
import io
import math
import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, BinaryIO, ClassVar

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from actsort_core.errors import FormatError, MissingFileError

_RESTORE = "Restore it from a backup, or run the extraction again."


@dataclass(frozen=True)
class NpyFile:
    """A plain array in an ``.npy`` file whose size was found to match its header; a trace source that stays on disk.

    The file is mapped anew for each access: no mapping stays open while the host rewrites the file (touching a mapping of a
    truncated file kills the process), and the object can be sent to another process.

    Attributes
    ----------
    path
        The file.
    shape
        As its header declares.
    dtype
        Its data type, in the file's byte order.
    fortran
        True when stored column by column.
    offset
        Byte at which the data begin.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    offset: int

    def array(self) -> NDArray[Any]:
        """The array, memory-mapped and read-only."""
        _check_size(self)
        if math.prod(self.shape) == 0:  # an empty file region cannot be mapped
            return np.zeros(self.shape, self.dtype)
        order: Any = "F" if self.fortran else "C"
        return np.memmap(self.path, self.dtype, "r", self.offset, self.shape, order)

    def __getitem__(self, rows: slice) -> NDArray[np.float32]:
        """Some rows, read from disk as float32."""
        with np.errstate(over="ignore", invalid="ignore"):  # float64 beyond float32 becomes inf, as everywhere in NumPy
            return np.array(self.array()[rows], np.float32, order="C")


def open_plain(path: Path) -> NpyFile:
    """Check a plain array of real numbers without reading it.

    Parameters
    ----------
    path
        An ``.npy`` file: bool, integer or float of any width, byte order and memory order.

    Raises
    ------
    MissingFileError
        It does not exist.
    FormatError
        It is no ``.npy`` file, holds something else, or its size is not the one its header declares.
    """
    npy = _open(path)
    if npy.dtype.kind not in "biuf":
        raise FormatError(f"{path} holds {_describe(npy)}, not plain numbers.", "Save it as a plain float array with numpy.save.")
    _check_size(npy)
    return npy


def read_dict(path: Path) -> dict[str, Any]:
    """The dictionary that a host saved with ``np.save(path, dict)`` (a pickled 0-d object array): ops, db, settings.

    Raises
    ------
    MissingFileError, FormatError
        It is missing, damaged, holds something else, or asks for a type that is not on the allow-list.
    """
    objects, npy = _read_objects(path)
    value = objects.item() if npy.shape == () else None
    if not isinstance(value, dict):
        raise FormatError(f"{path} holds {_describe(npy)}, not a dictionary.", _RESTORE)
    return {key: item for key, item in value.items() if isinstance(key, str)}


def read_dicts(path: Path) -> list[dict[str, Any]]:
    """The dictionaries that a host saved as a 1-d object array (stat.npy), in file order; same errors as :func:`read_dict`."""
    objects, npy = _read_objects(path)
    if len(npy.shape) != 1:
        raise FormatError(f"{path} holds {_describe(npy)}, not a list of ROIs.", _RESTORE)
    for number, value in enumerate(objects):
        if not isinstance(value, dict):
            raise FormatError(f"{path}: ROI {number} is a {type(value).__name__}, not a dictionary.", _RESTORE)
    return list(objects)


def _describe(npy: NpyFile) -> str:
    return f"an array of {npy.dtype} with shape {npy.shape}"


def _open(path: Path) -> NpyFile:
    try:
        with path.open("rb") as handle:
            version = npy_format.read_magic(handle)
            # numpy parses the header with ast.literal_eval and refuses long ones; 3.0 differs from 2.0 in field names only
            read = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
            shape, fortran, dtype = read(handle)
            offset = handle.tell()
    except FileNotFoundError as error:
        raise MissingFileError(f"{path} is missing.", "Run the extraction again, or restore the file.") from error
    except OSError as error:
        raise FormatError(f"{path} cannot be read ({error.strerror}).", "Check its permissions.") from error
    except Exception as error:  # a damaged header fails in many ways: tokenizer, literal_eval, dtype
        raise FormatError(f"{path} is not an .npy file, or its header is damaged ({error}).", _RESTORE) from error
    if min(shape, default=0) < 0 or max(shape, default=0) > 2**40 or len(shape) > 32:  # NumPy 1 has 32 dimensions at most
        raise FormatError(f"{path} declares the shape {shape}.", "The file is damaged.")
    return NpyFile(path, shape, dtype, fortran, offset)


def _check_size(npy: NpyFile) -> None:
    expected = npy.offset + math.prod(npy.shape) * npy.dtype.itemsize
    try:
        size = npy.path.stat().st_size
    except OSError as error:
        raise MissingFileError(f"{npy.path} is gone ({error.strerror}).", "It was there before: restore or mount it again.") from error
    if size < expected:
        problem = f"{npy.path} is truncated: {expected - size} of {expected} bytes are missing for {_describe(npy)}."
        raise FormatError(problem, "Copy it again, or restore it from a backup.")
    if size > expected:  # a wrong shape would shift every row: better refused than misread
        raise FormatError(f"{npy.path} holds {size - expected} bytes more than {_describe(npy)} needs.", "The file is damaged.")


# Pickled objects


def _read_objects(path: Path) -> tuple[NDArray[Any], NpyFile]:
    npy = _open(path)
    count = math.prod(npy.shape)
    if npy.dtype != np.dtype(object):
        if count == 0 and npy.dtype.kind in "biuf":
            return np.empty(npy.shape, object), npy  # np.save of an empty list writes an empty float array
        raise FormatError(f"{path} holds {_describe(npy)}, not pickled objects.", _RESTORE)
    content = path.read_bytes()[npy.offset :]
    try:
        value = _Unpickler(io.BytesIO(content)).load()
    except _ForbiddenError as error:
        problem = f"{path} asks for {error}, which is not on the list of harmless types. Nothing was executed."
        raise FormatError(problem, "The toolkit does not write such files; be careful with where it came from.") from error
    except Exception as error:  # a damaged pickle fails in every way there is
        reason = str(error) or type(error).__name__
        raise FormatError(f"{path} is damaged or truncated after {len(content)} bytes of pickle ({reason}).", _RESTORE) from error
    if not isinstance(value, np.ndarray) or value.dtype != np.dtype(object) or value.size != count:
        raise FormatError(f"{path} does not hold what its header declares ({_describe(npy)}).", _RESTORE)
    return np.asarray(value).reshape(npy.shape), npy


class _ForbiddenError(Exception):
    """A pickle asks for something outside the allow-list."""


def _short(value: Any) -> str:
    """For messages; never the text of a container, which a few bytes of pickle can make endless."""
    return repr(value[:40]) if isinstance(value, str) else type(value).__name__


class _Constructor:
    """Something a pickle may call. Not the callable itself: a pickle's BUILD could set attributes of a function or class."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __call__(self, *args: Any) -> Any:
        return self._make(*args)

    def __setstate__(self, state: Any) -> None:
        raise _ForbiddenError("changing a constructor")


_TYPE_CODE = re.compile(r"[<>=|]?(\?|b1|[iu][1248]|f2|f4|f8|f16|c8|c16|[SU][0-9]{1,9}|O8?)")


class _DType:
    """Stand-in for numpy.dtype. A hostile state of the real one can declare raw bytes to be Python objects: a crash, or worse."""

    __slots__ = ("_code", "_order")

    def __init__(self, code: str, *_: Any) -> None:
        if not isinstance(code, str) or not _TYPE_CODE.fullmatch(code):
            raise _ForbiddenError(f"the array type {_short(code)}")
        self._code = "O" if code.endswith(("O", "O8")) else code
        self._order = "="

    def __setstate__(self, state: Any) -> None:
        self._order = state[1]  # the rest only says more about types with fields, which _TYPE_CODE keeps out
        if self._order not in ("<", ">", "|", "="):
            raise ValueError("an array type has no byte order")

    def real(self) -> np.dtype[Any]:
        dtype: np.dtype[Any] = np.dtype(self._code)
        return dtype.newbyteorder(self._order) if self._order in ("<", ">") else dtype  # type: ignore[arg-type]


class _Array(np.ndarray[Any, Any]):
    """An array while it is unpickled; afterwards only ever seen through np.asarray."""

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        dtype = dtype.real()
        if not isinstance(shape, tuple) or len(shape) > 32 or not all(type(size) is int and 0 <= size < 2**40 for size in shape):
            raise ValueError("an array has an impossible shape")
        # an object array's state is a list; numpy would allocate the declared shape before it looks at the list's length
        kind, unit = (list, 1) if dtype.hasobject else (bytes, dtype.itemsize)
        if not isinstance(data, kind) or unit == 0 or math.prod(shape) * unit != len(data):
            raise ValueError(f"an array of shape {shape} does not fit its data")
        super().__setstate__((1, shape, dtype, bool(fortran), data))  # type: ignore[arg-type]

    def __setitem__(self, key: Any, value: Any) -> None:
        raise _ForbiddenError("changing an array")  # never needed, and an index can ask for any amount of work


def _no_array(*_: Any) -> None:
    raise _ForbiddenError("an array without its data")


def _reconstruct(*_: Any) -> _Array:
    """An array without data, whatever shape and class were asked for: its state brings the data."""
    return np.ndarray.__new__(_Array, (0,))


def _scalar(dtype: _DType, data: bytes) -> Any:
    real = dtype.real()
    if real.hasobject or not isinstance(data, bytes) or len(data) != real.itemsize:
        raise ValueError("a NumPy number does not fit its type")
    return np.ndarray((), real, data)[()] if data else real.type()


def _encode(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1"):  # how protocol 2 stores bytes; other codecs unpack archives
        raise _ForbiddenError(f"the codec {_short(encoding)}")
    return text.encode("latin-1")


_ALLOWED: dict[tuple[str, str], _Constructor] = {
    ("numpy", "ndarray"): _Constructor(_no_array),
    ("numpy", "dtype"): _Constructor(_DType),
    ("_codecs", "encode"): _Constructor(_encode),
    ("datetime", "datetime"): _Constructor(datetime.datetime),
    ("datetime", "timezone"): _Constructor(datetime.timezone),
    ("datetime", "timedelta"): _Constructor(datetime.timedelta),
}
for _core in ("numpy.core.multiarray", "numpy._core.multiarray"):  # numpy 1 and 2: either reads the other's files
    _ALLOWED[_core, "_reconstruct"] = _Constructor(_reconstruct)
    _ALLOWED[_core, "scalar"] = _Constructor(_scalar)
for _pathlib in ("pathlib", "pathlib._local"):  # the latter since Python 3.13; a path of the other system cannot be made here
    for _prefix in ("", "Pure"):
        _ALLOWED[_pathlib, f"{_prefix}PosixPath"] = _Constructor(PurePosixPath)
        _ALLOWED[_pathlib, f"{_prefix}WindowsPath"] = _Constructor(PureWindowsPath)


# What pickle protocols 2 to 5 write for such objects. Left out: the text opcodes of protocols 0 and 1, sets, bytearrays,
# persistent ids, the extension registry and every other way to make an object.
_OPCODES = """PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 LONG4 BINFLOAT SHORT_BINSTRING BINSTRING
    BINUNICODE SHORT_BINUNICODE BINUNICODE8 SHORT_BINBYTES BINBYTES BINBYTES8 EMPTY_LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1
    TUPLE2 TUPLE3 SETITEM SETITEMS BINGET LONG_BINGET BINPUT LONG_BINPUT MEMOIZE GLOBAL STACK_GLOBAL REDUCE BUILD"""


class _Dict(dict[Any, Any]):
    """A dictionary while it is unpickled: hashing a deeply nested tuple would overflow the stack."""

    __slots__ = ()

    def __setitem__(self, key: Any, value: Any) -> None:
        if not isinstance(key, (str, int)):
            raise ValueError(f"a dictionary with a {type(key).__name__} as key")
        super().__setitem__(key, value)


def _load_empty_dict(unpickler: Any) -> None:
    unpickler.append(_Dict())


class _Unpickler(pickle._Unpickler):
    """Unpickles what `_ALLOWED` and `_OPCODES` name and nothing else.

    The Python version on purpose: the C one allocates what a length or a memo number asks for before it looks at the file (five
    bytes make it fill 64 GB), and its opcodes cannot be restricted. It needs about 0.2 s per 1000 ROIs.
    """

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **{ord(getattr(pickle, name)): pickle._Unpickler.dispatch[ord(getattr(pickle, name))] for name in _OPCODES.split()},
        ord(pickle.EMPTY_DICT): _load_empty_dict,
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise _ForbiddenError(f"{module}.{name}"[:200]) from None


def write_plain(array: NDArray[Any], handle: BinaryIO) -> None:
    """Write a plain array as ``.npy`` version 1.0 in C order, without pickle.

    Parameters
    ----------
    array
        Real numbers.
    handle
        A file open for writing; its name may end in anything (numpy.save would append ``.npy`` to a path).
    """
    npy_format.write_array(handle, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
