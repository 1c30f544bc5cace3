"""Copies of CNMF-E files without the rejected candidates, as ``neuron.delete(ind_del)`` would leave them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from actsort_adapters import _hdf5, _mat, _mat5, _mat5_edit, _mat73
from actsort_adapters._cnmfe_layout import CNMFE, AnyFile, Source, only
from actsort_adapters._cnmfe_prior import IND_DEL
from actsort_adapters._cnmfe_read import footprints_of, recording
from actsort_adapters._cnmfe_write import next_line
from actsort_adapters._mat import Node
from actsort_adapters._mat_curation import CURATION
from actsort_core.atomic import commit, staged
from actsort_core.errors import ChangedError, FormatError, UsageError, WriteError
from actsort_core.model import Curation, Recording

# What Sources2D.delete filters, and the axis of the candidates. Coor, C_df, S_df and the rest it leaves alone, and so do we.
_FIELDS = {"A": 1, "C": 0, "C_raw": 0, "S": 0, "ids": 1, "tags": 0, "P.kernel_pars": 0}
_OURS = frozenset({IND_DEL, CURATION})


def write_filtered(source: Recording | Path | str, curation: Curation | None, dst: Path | str) -> Path:
    """Write a copy of a CNMF-E struct file (or one with single variables) that holds only the accepted candidates.

    Only A, C, C_raw, S, ids, tags and P.kernel_pars change, as in ``neuron.delete(ind_del)``; every other byte of a v5, v6 or v7
    struct, and every other object of a v7.3 file, is kept. ``ind_del`` and ``curation`` are left out: they are about all candidates.

    Parameters
    ----------
    source
        The recording, or the path of its file.
    curation
        The decisions; undecided candidates are kept. None for those that were written into the file before.
    dst
        The new file, which must not exist.

    Returns
    -------
    `dst` as a path.

    Raises
    ------
    FormatError
        The file holds a saved object (the message has the lines for MATLAB), or another tool's layout, or no decisions.
    ChangedError
        The decisions are about another number of candidates.
    UsageError
        `dst` exists.
    """
    path = Path(source.path if isinstance(source, Recording) else source)
    target = Path(dst)
    if target.exists():
        raise UsageError(f"{target} exists.", "Choose another name.")
    with _mat.opened(path) as file:
        place = only(file)
        reviewed = not place.variable and "keep" in file.names  # its keep and K are about all candidates
        if place.opaque or reviewed or place.layout is not CNMFE:
            kind = "a saved MATLAB object" if place.opaque else f"the layout of {'cnmfe-reviewer' if reviewed else place.layout.tool}"
            line = f"load('{path.name}'); {place.variable}.delete(ind_del);" if place.opaque else next_line(Source(file, place))
            after = f"{line} save('{target.name}'{f', {place.variable!r}' if place.variable else ''});"
            raise FormatError(f"{path} holds {kind}, which only MATLAB can filter.", f"There, after actsort write: {after}")
        if isinstance(file, _mat5.Mat5File):
            _mat5_edit.check_editable(file)
        found = Source(file, place)
        keep = _keep(path, found, curation)
        if not target.parent.is_dir():
            raise UsageError(f"The folder {target.parent} does not exist.", "Make it first.")
        with staged(target) as tmp:
            if isinstance(file, _mat5.Mat5File):
                _filter5(file, place.variable, keep, tmp)
            else:
                _filter73(file, place.variable, keep, tmp)
            _verify(found, keep, tmp)
            commit(tmp, target)
    return target


def _keep(path: Path, source: Source, curation: Curation | None) -> NDArray[np.bool_]:
    read = recording(path, source, "cnmfe")
    if curation is None:
        if not {IND_DEL, CURATION} & set(source.file.names) or (read.n_cells and not read.prior.verdict.any()):
            raise FormatError(f"{path} holds no decisions (ind_del).", "Write them first: actsort write SESSION")
        return np.asarray(read.prior.verdict >= 0)
    if curation.candidate_fingerprints != read.candidate_fingerprints:
        raise ChangedError(f"The decisions are not about the {read.n_cells} candidates of {path}.", "Open the file again.")
    return np.asarray(curation.accepted | curation.undecided)


def _axis(node: Node | None, n_cells: int, axis: int) -> int | None:
    """The axis to filter; None for a field that is missing, empty or of another number of candidates: ``delete`` skips it too."""
    if node is None or node.opaque or len(node.shape) != 2 or 0 in node.shape or node.kind in ("struct", "cell", "char"):
        return None
    if node.shape[axis] == n_cells and (axis == 1 or node.shape[0] == n_cells):
        return axis
    return 1 - axis if 1 in node.shape and node.shape[1 - axis] == n_cells else None


def _todo(source: Source, n_cells: int) -> Iterator[tuple[str, Any, int]]:
    for path, axis in _FIELDS.items():
        first, _, rest = path.partition(".")
        node: Any = source.own(first)
        node = node.field(rest) if rest and node is not None else node
        found = _axis(node, n_cells, axis)
        if found is not None:
            yield path, node, found


def _filter5(file: _mat5.Mat5File, variable: str, keep: NDArray[np.bool_], tmp: Path) -> None:
    source = Source(file, only(file))
    new = {path: _mat5_edit.taken(node, keep, axis) for path, node, axis in _todo(source, len(keep))}
    parameters: Any = source.own("P")
    if "P.kernel_pars" in new:
        new["P"] = _mat5_edit.with_fields(parameters, {"kernel_pars": new.pop("P.kernel_pars")})
    if variable:
        whole = file.variable(variable)
        assert whole is not None
        new = {variable: _mat5_edit.with_fields(whole, new)}
    swap = {}
    for name, content in new.items():
        element = file.element(name)
        assert element is not None
        swap[name] = _mat5_edit.as_variable(content, element.compressed)
    _mat5_edit.rewrite(file, tmp, without=_OURS, swap=swap)
    with _mat.opened(tmp) as after:
        assert isinstance(after, _mat5.Mat5File)
        wrong = _mat5_edit.first_difference(file, after, _OURS | frozenset(swap))
    if wrong:
        raise WriteError(f"The filtered copy of {file.path} differs from it in {wrong}.", "Nothing was written. Please report this.")


def _filter73(file: _mat73.Mat73File, variable: str, keep: NDArray[np.bool_], tmp: Path) -> None:
    import h5py

    source = Source(file, only(file))
    top = f"/{variable}" if variable else ""
    edited = {f"/{name}" for name in _OURS}
    shutil.copyfile(file.path, tmp)
    with h5py.File(tmp, "r+") as copy:
        for name in _OURS & set(copy):
            del copy[name]
        for path, _, axis in _todo(source, len(keep)):
            name = f"{top}/{path.replace('.', '/')}"
            _filter_one(_hdf5.locate(copy, name), keep, axis)
            edited.add(name)
    with _mat.opened(tmp) as after:
        assert isinstance(after, _mat73.Mat73File)
        wrong = _hdf5.first_difference(file.file, after.file, edited)
    if wrong:
        raise WriteError(f"The filtered copy of {file.path} differs from it in {wrong}.", "Nothing was written. Please report this.")


def _filter_one(found: Any, keep: NDArray[np.bool_], axis: int) -> None:
    """Replace a dataset, or the parts of a sparse matrix, by its filtered self with the same attributes and storage."""
    import h5py

    if isinstance(found, h5py.Dataset):
        stored = found[()]
        _replace(found, stored[keep] if axis == 1 else stored[:, keep])  # transposed in the file
        return
    names = [name for name in ("data", "ir", "jc") if name in found]
    rows = int(found.attrs["MATLAB_sparse"])
    bounds = found["jc"][()].astype(np.int64)
    where = found["ir"][()].astype(np.int64) if "ir" in found else np.zeros(0, np.int64)
    matrix = sp.csc_matrix((np.arange(1, len(where) + 1), where, bounds), shape=(rows, len(bounds) - 1))
    matrix = sp.csc_matrix(matrix[keep] if axis == 0 else matrix[:, keep])
    new = {"jc": matrix.indptr, "ir": matrix.indices, "data": found["data"][()][matrix.data - 1] if "data" in found else None}
    for name in names:
        if name != "jc" and not matrix.nnz:
            del found[name]  # as MATLAB: without entries there are none
        else:
            _replace(found[name], np.asarray(new[name]).astype(found[name].dtype))
    if axis == 0:
        found.attrs.modify("MATLAB_sparse", np.uint64(matrix.shape[0]))


def _replace(found: Any, values: NDArray[Any]) -> None:
    parent, name, attributes = found.parent, found.name.rpartition("/")[2], dict(found.attrs)
    chunks = found.chunks and tuple(min(a, b) for a, b in zip(found.chunks, values.shape, strict=True))
    packing = {"compression": found.compression, "compression_opts": found.compression_opts, "shuffle": found.shuffle} if chunks else {}
    del parent[name]
    if values.size == 0:  # MATLAB keeps the shape of empty arrays as numbers
        made = parent.create_dataset(name, data=np.array(values.T.shape, np.uint64))
        attributes["MATLAB_empty"] = np.uint8(1)
    else:
        made = parent.create_dataset(name, data=values, chunks=chunks or None, **packing)
    for key, value in attributes.items():
        made.attrs[key] = value


def _verify(before: Source, keep: NDArray[np.bool_], tmp: Path) -> None:
    """Read the copy: the same footprints in the same order, without the others."""
    with _mat.opened(tmp) as file:
        old, _, _ = footprints_of(before, [])
        new, _, _ = footprints_of(Source(file, _same_place(file, before)), [])
        if new.shape != (old.shape[0], int(keep.sum())) or (new.shape[1] and (old[:, keep] != new).nnz):
            raise WriteError(
                f"The filtered copy of {before.file.path} did not read back as meant.", "Nothing was written. Please report this."
            )


def _same_place(file: AnyFile, before: Source) -> Any:
    found = only(file)
    return found if found.variable == before.place.variable else before.place
