"""ActSort for MATLAB: the features of its precomputed file and the labels its app saved beside it, as examples for a warm start."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from actsort_core import annotated, learn
from actsort_core.errors import FormatError, MissingFileError, UsageError
from actsort_core.warm import Examples

if TYPE_CHECKING:
    from actsort_core.plugins import Plugins

SUFFIX = "_LABELS"
OUTPUT, LABELS, CLASSIFIER = "precomputedOutput", "labels", "dataset"  # the variables of the three files the app writes
N_PUBLISHED = 76
# With "fast features" the app leaves some out without leaving their columns free, so the later ones move forward: which published
# feature each column then holds (columns 3 and from 30 stay zero). Read in get_features.m.
_FAST = (1, 2, 0, 4, *range(30, 45), *range(67, 77))


def files_of(path: Path) -> tuple[Path, Path]:
    """The precomputed file and the labels file of a pair, of which `path` is either."""
    if path.stem.endswith(SUFFIX):
        return path.with_name(path.stem[: -len(SUFFIX)] + path.suffix), path
    return path, path.with_name(path.stem + SUFFIX + path.suffix)


def read_labelled(path: Path, plugins: Plugins | None = None) -> Examples | None:
    """Read a precomputed file and its labels; None where `path` is neither (another kind of .mat file).

    Parameters
    ----------
    path
        ``precomputed_*.mat``, or the ``precomputed_*_LABELS.mat`` beside it. Only what people said counts (``labels_ex``).
    plugins
        Plug-ins already loaded.

    Raises
    ------
    MissingFileError
        The other file of the pair is not beside it.
    FormatError, UsageError
        They do not fit each other or cannot be read; nothing was labelled.
    """
    wanted = {OUTPUT: ("features", "INFO"), LABELS: ("labels_ex",), CLASSIFIER: ()}
    found = _read(path, wanted)
    if LABELS in found and "labels_ex" not in found[LABELS] and not path.stem.endswith(SUFFIX):
        del found[LABELS]  # somebody else's variable of that name
    if not found:
        return None
    precomputed, labels = files_of(path)
    if CLASSIFIER in found:
        raise UsageError(
            f"{path} is a classifier saved by ActSort for MATLAB, which only MATLAB can read.",
            "Pass the precomputed .mat file it was trained on, with its _LABELS.mat beside it.",
        )
    for other, what in ((labels, "the labels that ActSort saved"), (precomputed, "the features these labels belong to")):
        if not other.is_file():
            raise MissingFileError(f"{other} is missing: {what}.", f"Put it beside {path.name}.")
    features = found.get(OUTPUT, {}) if OUTPUT in found else _read(precomputed, wanted).get(OUTPUT, {})
    said = found.get(LABELS, {}) if LABELS in found else _read(labels, wanted).get(LABELS, {})
    return _examples(precomputed, labels, features, said, plugins)


def read_choices(path: Path) -> NDArray[np.float64]:
    """What people said in a labels file (``labels_ex``), ``(n_cells,)``: positive cell, negative not a cell, 0 not said.

    Raises
    ------
    FormatError
        It is damaged, or no labels file.
    """
    said = _read(path, {LABELS: ("labels_ex",)}).get(LABELS, {})
    if "labels_ex" not in said:
        raise FormatError(f"{path} has no {LABELS}.labels_ex.", "Save the labels again in ActSort.")
    return np.nan_to_num(np.asarray(said["labels_ex"], np.float64).ravel())


def _examples(precomputed: Path, labels: Path, output: Mapping[str, Any], said: Mapping[str, Any], plugins: Plugins | None) -> Examples:
    if "features" not in output:
        raise FormatError(f"{precomputed} has no {OUTPUT}.features.", "Make it again with ActSort's 'Create a sorting file'.")
    if "labels_ex" not in said:
        raise FormatError(f"{labels} has no {LABELS}.labels_ex.", "Save the labels again in ActSort.")
    values, choice = np.asarray(output["features"], np.float64), np.nan_to_num(np.asarray(said["labels_ex"], np.float64).ravel())
    if values.ndim != 2 or values.shape[1] != N_PUBLISHED:
        raise FormatError(f"{precomputed} has features of shape {values.shape} instead of (candidates, {N_PUBLISHED}).")
    if len(values) != len(choice):  # the app itself does not check
        raise FormatError(
            f"{labels} has labels of {len(choice)} candidates, {precomputed.name} has {len(values)}.",
            "They do not belong together: pass the labels that were saved for this file.",
        )
    rows = np.flatnonzero(choice)
    if not len(rows):
        raise UsageError(f"Nobody labelled anything in {labels}.", "Label some candidates in ActSort first.")
    names = ["", *annotated.published_names(N_PUBLISHED, plugins)]
    fast = bool(np.any(np.asarray(output.get("fast", 0))))
    number = np.zeros(N_PUBLISHED, np.int64)
    number[: len(_FAST) if fast else N_PUBLISHED] = _FAST if fast else range(1, N_PUBLISHED + 1)
    # The published code puts zeros where it computed nothing: a column without variation is no feature of this recording.
    finite = np.isfinite(values)
    varies = [number[i] > 0 and len(np.unique(values[finite[:, i], i])) > 1 for i in range(N_PUBLISHED)]
    kept = np.flatnonzero(varies)
    chosen = tuple(names[number[i]] for i in kept)
    x = learn.standardise(values[:, kept].astype(np.float32))
    return Examples(str(precomputed), chosen, dict.fromkeys(chosen), x[rows], (choice[rows] > 0).astype(np.int8))


def _read(path: Path, wanted: Mapping[str, tuple[str, ...]]) -> dict[str, dict[str, Any]]:
    """Those of the wanted variables that a file has, with those of their fields that are asked for."""
    import h5py

    hint = "Is it a MATLAB file, and whole?"
    try:
        if h5py.is_hdf5(path):
            with h5py.File(path, "r") as file:
                return {name: _fields73(file[name], fields) for name, fields in wanted.items() if name in file}
        return _read5(path, wanted)
    except (OSError, ValueError, TypeError, KeyError, NotImplementedError, IndexError) as error:
        raise FormatError(f"{path} could not be read ({type(error).__name__}: {error}).", hint) from error


def _fields73(node: Any, fields: tuple[str, ...]) -> dict[str, Any]:
    """Fields of a struct in a v7.3 file: HDF5 has every matrix transposed; an object is no group and has none."""
    out: dict[str, Any] = {}
    if not hasattr(node, "keys"):
        return out
    for name in fields:
        if name == "INFO":
            if name in node and hasattr(node[name], "keys") and "fast_features" in node[name]:
                out["fast"] = node[name]["fast_features"][()]
        elif name in node:
            out[name] = np.asarray(node[name][()]).T
    return out


def _read5(path: Path, wanted: Mapping[str, tuple[str, ...]]) -> dict[str, dict[str, Any]]:
    """The same from a v5 to v7 file."""
    import scipy.io

    present = [name for name, _, _ in scipy.io.whosmat(path)]
    content = scipy.io.loadmat(path, variable_names=[name for name in wanted if name in present])
    out: dict[str, dict[str, Any]] = {}
    for name, fields in wanted.items():
        if name not in content:
            continue
        struct: NDArray[Any] = content[name]
        known = (struct.dtype.names or ()) if struct.size == 1 else ()
        out[name] = {field: struct[field].flat[0] for field in fields if field in known}
        info = out[name].pop("INFO", None)
        if info is not None and getattr(info, "size", 0) == 1 and "fast_features" in (info.dtype.names or ()):
            out[name]["fast"] = info["fast_features"].flat[0]
    return out
