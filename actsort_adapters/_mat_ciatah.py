"""Decisions of ciatah (bahanonu/ciatah), which keeps them in files beside its own results of other tools."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actsort_adapters import _mat
from actsort_adapters._mat5 import Mat5File
from actsort_adapters._mat73 import Mat73File
from actsort_core.errors import ActsortError, FormatError

CNMFE_FILES, EXTRACT_FILES = ("cnmfeAnalysis", "validCNMFE"), ("extractAnalysis", "validEXTRACT")  # in the file's name; the variable


def sorted_files(path: Path, kind: tuple[str, str]) -> list[Path]:
    """Files beside ``<name>cnmfeAnalysis.mat`` in which ciatah keeps decisions: ``<name>cnmfeAnalysisSorted_<scorer>.mat``."""
    start, marker, _ = path.name.partition(kind[0])
    return sorted(path.parent.glob(f"{glob.escape(start)}{marker}Sorted*.mat")) if marker else []


def stale(path: Path, kind: tuple[str, str]) -> tuple[tuple[Path, str], ...]:
    """Those files as what no longer agrees with new decisions."""
    return tuple((found, f"it holds the decisions from before: {kind[1]}") for found in sorted_files(path, kind))


def valid(file: Mat5File | Mat73File, n_cells: int, kind: tuple[str, str], notes: list[str]) -> NDArray[np.int8] | None:
    """Ciatah's decisions, from this file or from those beside it; scorers who disagree leave a candidate undecided."""
    votes = [_vector(file, kind[1])]
    for path in sorted_files(file.path, kind):
        try:
            with _mat.opened(path) as other:
                votes.append(_vector(other, kind[1]))
        except ActsortError as error:
            notes.append(f"Left out: {error.what}")
            continue
        if votes[-1] is None or votes[-1].shape != (n_cells,):
            notes.append(f"{path.name} holds no {kind[1]} of {n_cells} candidates: it is ignored.")
    given = [np.where(vote > 0, 1, -1) for vote in votes if vote is not None and vote.shape == (n_cells,) and vote.dtype.kind in "biuf"]
    if not given:
        return None
    total = np.sum(given, axis=0)
    return np.where(np.abs(total) == len(given), np.sign(total), 0).astype(np.int8)


def _vector(file: Mat5File | Mat73File, name: str) -> NDArray[Any] | None:
    try:
        return _mat.vector(file.variable(name))
    except FormatError:
        return None
