"""Answers known beforehand: a file of truths stands in for a person, and decisions are scored against it."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actsort_core.errors import FormatError, MissingFileError
from actsort_core.model import CELL, NOT_CELL, UNSURE, CandidateId
from actsort_core.session import Session

_WORDS = {"1": 1, "0": 0, "true": 1, "false": 0, "cell": 1, "not_cell": 0, "": -1, "null": -1, "nan": -1, "none": -1, "unsure": -1}
_ANSWER = {1: CELL, 0: NOT_CELL, -1: UNSURE}


def read_truth(path: Path, n_cells: int) -> NDArray[np.int8]:
    """Read a truth file.

    Parameters
    ----------
    path
        A JSON list or ``{"truth": [...]}``, a ``.npy`` array, or a ``.csv`` of one column (a header line is allowed): 1 cell, 0 not
        a cell, null (empty, NaN) unsure, in candidate order.
    n_cells
        How many there must be: all candidates of all recordings, in the order they were opened.

    Returns
    -------
    ``(n_cells,)`` int8: 1, 0, or -1 for unsure.

    Raises
    ------
    MissingFileError, FormatError
        The file is not there; it is none of these, holds other values, or has another length.
    """
    out = read_answers(path, n_cells)
    if len(out) != n_cells:
        raise FormatError(
            f"The oracle {path} has {len(out)} answers for {n_cells} candidates.", "It must have one for each, in candidate order."
        )
    return out


def read_answers(path: Path, n_cells: int | None = None) -> NDArray[np.int8]:
    """Read a truth file (see `read_truth`) of however many candidates.

    Parameters
    ----------
    path
        The file.
    n_cells
        How many answers are expected: then a first line more that happens to be a word we know is a header.
    """
    try:
        values = _values(path)
        if path.suffix.lower() == ".csv" and n_cells is not None and len(values) == n_cells + 1 and _number(str(values[0])) is None:
            values = values[1:]  # a header that is a word we know: "cell"
    except FileNotFoundError:
        raise MissingFileError(f"{path} does not exist.", "Check the path.") from None
    except (OSError, ValueError, TypeError, EOFError, MemoryError, RecursionError, csv.Error) as error:
        raise FormatError(
            f"{path} could not be read ({error}).", "It must be a JSON list, {'truth': [...]}, a .npy or a one-column .csv."
        ) from error
    out = np.empty(len(values), np.int8)
    for i, value in enumerate(values):
        meaning = _meaning(value)
        if meaning is None:
            shown = repr(value) if len(repr(value)) < 60 else repr(value)[:57] + "..."
            raise FormatError(f"{path} holds {shown} for candidate {i}.", "Allowed: 1 (cell), 0 (not a cell), null (unsure).")
        out[i] = meaning
    return out


def read_plain(path: Path) -> NDArray[Any]:
    """The array in a ``.npy``: no zip archive, no pickle, and never larger than the file.

    Raises
    ------
    OSError, ValueError, EOFError
        It is none, or cut off.
    """
    return np.array(np.lib.format.open_memmap(path, mode="r"))


def _meaning(value: Any) -> int | None:
    """1, 0 or -1 for one answer in any spelling (``1``, ``1.0``, ``1.000e+00``, ``true``, ``cell``...); None for anything else."""
    word = str(value).strip().lower()
    if word in _WORDS:
        return _WORDS[word]
    number = _number(word)
    return None if number is None else {1.0: 1, 0.0: 0}.get(number)


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None


def _values(path: Path) -> list[Any]:
    if path.suffix.lower() == ".npy":
        array = read_plain(path)
        if array.ndim != 1:
            raise ValueError(f"an array of shape {array.shape}, not a list")
        return list(array.tolist())
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix.lower() == ".csv":
        rows = list(csv.reader(text.splitlines()))
        wide = next((i for i, row in enumerate(rows, 1) if len(row) > 1), None)
        if wide is not None:
            raise ValueError(f"line {wide} has several columns")
        words = [row[0] if row else "" for row in rows]
        header = bool(words) and _meaning(words[0]) is None and _number(words[0]) is None
        return words[1:] if header else words
    document = json.loads(text)
    if isinstance(document, dict) and "truth" not in document:
        raise ValueError('an object without "truth"')
    values = document["truth"] if isinstance(document, dict) else document
    if not isinstance(values, list):
        raise ValueError("no list")
    return values


def answerer(session: Session, truth: NDArray[np.int8], error_rate: float = 0.0, seed: int = 0) -> Callable[[CandidateId], str]:
    """An annotator who answers with the truth, except for a share `error_rate` of the candidates, where it is mistaken."""
    where = {candidate: i for i, candidate in enumerate(session.candidates)}
    wrong = np.random.default_rng(seed).random(len(truth)) < error_rate
    given = np.where(wrong & (truth >= 0), 1 - truth, truth)
    return lambda candidate: _ANSWER[int(given[where[candidate]])]


def balanced_accuracy(accepted: NDArray[np.bool_], truth: NDArray[np.int8]) -> float | None:
    """Mean of the shares of cells accepted and of not-cells rejected, unsure candidates left out.

    Returns
    -------
    None where the truth knows no candidate; where it knows one class only, that class's share.
    """
    shares = [np.mean(accepted[truth == kind] == bool(kind)) for kind in (0, 1) if (truth == kind).any()]
    return float(np.mean(shares)) if shares else None
