"""Saved MATLAB objects through mat-io, the only reader that recovers them (extra ``matlab``); guarded, since it trusts the file."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from actsort_adapters._mat5 import Mat5File, Mat5Node
from actsort_adapters._mat73 import Mat73File
from actsort_core.errors import FormatError, MissingDependencyError

_CLASSES = {"float64": "double", "float32": "single", "bool": "logical"}


class ObjectNode:
    """A value that mat-io decoded; see `actsort_adapters._mat.Node`."""

    opaque = False

    def __init__(self, value: Any, where: str) -> None:
        self.where, self._value = where, value
        properties = getattr(value, "properties", None)
        self._fields: Mapping[str, Any] | None = properties if isinstance(properties, Mapping) else None
        self.shape: tuple[int, ...] = (1, 1)
        self.kind = str(getattr(value, "classname", type(value).__name__))
        if isinstance(value, np.ndarray) and value.dtype.names:
            self.kind, self.shape = "struct", value.shape
            if value.size == 1:
                self._fields = {name: value.flat[0][name] for name in value.dtype.names}
        elif sp.issparse(value):
            self.kind, self.shape = "sparse", value.shape
        elif isinstance(value, np.ndarray):
            self.kind, self.shape = _CLASSES.get(value.dtype.name, value.dtype.name), value.shape
            self.kind = {"U": "char", "O": "cell"}.get(value.dtype.kind, self.kind)

    def fields(self) -> tuple[str, ...]:
        """Properties of an object, fields of a single struct."""
        return tuple(self._fields or ())

    def field(self, name: str) -> ObjectNode | None:
        """One of them, or None."""
        return ObjectNode(self._fields[name], f"{self.where}.{name}") if self._fields and name in self._fields else None

    def array(self) -> NDArray[Any]:
        """The numbers (or truth values) in MATLAB's shape."""
        value = self._value.toarray() if self.kind == "sparse" and np.prod(self.shape) <= 1 << 23 else self._value
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf":
            raise FormatError(f"{self.where} is a {self.kind} of shape {self.shape}, not plain numbers.")
        return value if value.ndim > 1 else value.reshape(1, -1)

    def sparse(self) -> sp.csc_matrix:
        """A sparse matrix, float64; its indices are checked by scipy."""
        if self.kind != "sparse":
            raise FormatError(f"{self.where} is no sparse matrix.")
        found = sp.csc_matrix(self._value, dtype=np.float64)
        found.check_format()
        return found

    def slabs(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """The array in one part."""
        yield 0, self.array()

    def traces(self, cells: int) -> NDArray[np.float32]:
        """``(n_cells, n_frames)`` float32, `cells` being the axis of the candidates."""
        with np.errstate(over="ignore", invalid="ignore"):
            return np.array(np.moveaxis(self.array(), cells, 0), np.float32, order="C")

    def text(self) -> str | None:
        """A line of text, None for anything else."""
        return str(self._value.flat[0]) if self.kind == "char" and self._value.size == 1 else None


def load(file: Mat5File | Mat73File, name: str, without: str) -> ObjectNode:
    """Decode the object that a variable holds.

    Parameters
    ----------
    file
        The open file.
    name
        Of the variable.
    without
        What to do in MATLAB to get along without mat-io, as a sentence.

    Raises
    ------
    MissingDependencyError
        mat-io is not installed; says how to install it, or what else to do.
    FormatError
        The file is damaged, or mat-io does not understand it.
    """
    where = f"{file.path}: {name}"
    _require(where, without)
    _check(file, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it cannot decode it leaves as it is: missing then, and said so
        try:
            matio = importlib.import_module("matio")
            value = matio.load_from_mat(str(Path(file.path)), variable_names=[name], spmatrix=False).get(name)
        except Exception as error:  # a damaged file makes it fail in every way there is
            raise FormatError(f"{where} could not be decoded ({type(error).__name__}: {error}).", without) from error
    node = ObjectNode(value, where)
    if not node.fields():
        raise FormatError(f"{where} could not be decoded as an object.", without)
    return node


def _require(where: str, without: str) -> None:
    if importlib.util.find_spec("matio") is not None:
        return
    install = "install what reads it: pip install 'actsort[matlab]' (mat-io)"
    if int(np.__version__.split(".")[0]) < 2:
        install = (
            f"mat-io, which reads it, needs numpy 2, and this environment has numpy {np.__version__} (CaImAn's?): run actsort in an "
            "environment of its own: python -m venv actsort-env; actsort-env/bin/pip install 'actsort[matlab]'"
        )
    raise MissingDependencyError(f"{where} is a saved MATLAB object.", f"Either {install}. Or {without}")


def _check(file: Mat5File | Mat73File, name: str) -> None:
    """Insist that no size in what mat-io will read is impossible: it allocates what is declared."""
    if isinstance(file, Mat73File):
        file.check_references()
        return
    found = file.variable(name)
    subsystem = next((e for e in file.elements if e.start == file.subsystem), None)
    if found is None or subsystem is None:
        raise FormatError(f"{file.path}: {name} is an object without contents.", "The file is damaged: save it again in MATLAB.")
    found.check()
    whole = file.whole(subsystem)
    whole.check()
    inner = memoryview(whole.array().astype("u1").tobytes())  # a file within the file, with a header of 8 bytes
    Mat5Node(inner[8:], 0, file.order, f"{file.path}: the contents of {name}").check()
