"""``conversion.json``: the identity map that a conversion leaves in the session folder of its result.

It says where every candidate came from, what was decided about it and by whom, and what the host of the source itself had said: that,
not our own decisions, is the prior when a session is started on the result.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from actsort_core.errors import FormatError, MissingFileError, UsageError
from actsort_core.model import Prior, Recording

CONVERSION = "conversion.json"
CONVERSION_VERSION = 1


def prior_entry(prior: Prior) -> dict[str, Any]:
    """Verdicts (1, 0, -1) and probabilities (null where there is none) as JSON holds them."""
    return {"verdict": prior.verdict.tolist(), "probability": [None if math.isnan(p) else p for p in prior.probability.tolist()]}


def _prior(entry: Mapping[str, Any]) -> Prior:
    probability = [math.nan if p is None else float(p) for p in entry["probability"]]
    return Prior(np.array(entry["verdict"], np.int8), np.array(probability, np.float64))


def read(folder: Path) -> dict[str, Any]:
    """The identity map in the session folder `folder`.

    Raises
    ------
    MissingFileError, FormatError
        There is none; it is damaged or of a newer version.
    """
    path = folder / CONVERSION
    try:
        document = json.loads(path.read_bytes())
        if document["format_version"] != CONVERSION_VERSION:
            raise FormatError(f"{path} has format version {document['format_version']}.", "Update actsort.")
        for row in document["recordings"]:
            row["fingerprint"], [c["fingerprint"] for c in row["candidates"]], _prior(row["prior"]), _prior(row["written"])
    except FileNotFoundError:
        raise MissingFileError(f"{folder} holds no {CONVERSION}.", "The result was not made by actsort convert.") from None
    except FormatError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise FormatError(f"{path} is damaged ({type(error).__name__}: {error}).", "The result itself can be used without it.") from error
    return dict(document)


def without_ours(recording: Recording, folders: Sequence[Path]) -> Recording:
    """`recording` with the verdicts its host would have, where a conversion put our decisions in their place.

    Parameters
    ----------
    recording
        As just read.
    folders
        Session folders that may hold the conversion's map; the first that knows these very candidates counts.

    Returns
    -------
    The recording with the source's prior. A verdict that was changed after the conversion (a click in the toolkit) stays as it is. The
    recording itself where it was not converted.
    """
    for folder in folders:
        try:
            document = read(folder) if (folder / CONVERSION).is_file() else {"recordings": []}
        except (FormatError, MissingFileError, OSError):
            continue
        for row in document["recordings"]:
            if [c["fingerprint"] for c in row["candidates"]] != list(recording.candidate_fingerprints):
                continue
            first, written = _prior(row["prior"]), _prior(row["written"])
            if not len(first.verdict) == len(written.verdict) == recording.n_cells:
                continue
            same = recording.prior.verdict == written.verdict
            verdict = np.where(same, first.verdict, recording.prior.verdict).astype(np.int8)
            return replace(recording, prior=Prior(verdict, np.where(same, first.probability, recording.prior.probability)))
    return recording


def check_outside(src: Path | None, dst: Path, to: str, recordings: Sequence[Recording]) -> None:
    """Refuse a destination that would become a part of the source, which stays as it is.

    Minian opens every folder in its own as a store; another plane in a folder of planes is one more of them.

    Parameters
    ----------
    src
        What was given as the source; None where that is an open session.
    dst, to
        The destination, and its format.
    recordings
        What `src` holds.

    Raises
    ------
    UsageError
        It is inside the folder of a recording, or one more result of the same format in the folder that was given.
    """
    here = dst.absolute().parent.resolve()
    for recording in recordings:
        source = recording.path.resolve()
        inside = source.is_dir() and (here == source or source in here.parents)
        among = src is not None and to == recording.format and src.resolve() == here == source.parent
        if inside or among:
            raise UsageError(f"{dst} would become a part of the result that is to be converted.", "Choose a place outside it.")
