"""The variable ``curation`` that ActSort adds to MATLAB files: decisions, probabilities, and by which footprints they go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actsort_adapters import _mat, _mat5, _mat5_edit
from actsort_adapters._mat5 import Mat5File
from actsort_adapters._mat73 import Mat73File
from actsort_core.errors import ActsortError, FormatError, UsageError
from actsort_core.model import Curation, Prior, Recording

AnyFile = Mat5File | Mat73File
TOOL = "ActSort for Python"
CURATION = "curation"
_SHOWN = 6
_SAME = 1e-6  # relative: A may have been saved again in single precision


@dataclass(frozen=True, eq=False)
class Stored:
    """Our variable ``curation``."""

    accepted: NDArray[np.bool_]
    label: NDArray[np.int8]
    prob: NDArray[np.float64]
    sums: NDArray[np.float64]
    tool: str
    date: str
    labeller: str

    def document(self) -> dict[str, Any]:
        """As it is written: MATLAB's shapes, names and order of section 1.7 of the format notes."""
        n_cells = len(self.accepted)
        return {
            "accepted": self.accepted.reshape(-1, 1),
            "label": self.label.reshape(-1, 1),
            "prob": self.prob.reshape(-1, 1),
            "K": np.full((1, 1), float(n_cells)),
            "A_colsum": self.sums.reshape(-1, 1),
            "tool": self.tool,
            "date": self.date,
            "labeller": self.labeller,
        }

    def same(self, other: Stored | None, but_date: bool = False) -> bool:
        """Whether another says the same."""
        if other is None:
            return False
        pairs = [(getattr(self, k), getattr(other, k)) for k in ("accepted", "label", "prob", "sums")]
        texts = (self.tool, self.labeller, self.date) == (other.tool, other.labeller, self.date if but_date else other.date)
        return texts and all(a.shape == b.shape and np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in pairs)


def beside(file: AnyFile) -> Path | None:
    """Where decisions about a file go that no variable can be added to; None where they go into it."""
    shut = isinstance(file, _mat5.Mat5File) and _mat5_edit.closed(file)
    return file.path.with_name(f"{file.path.stem}_actsort.mat") if shut else None


def stored(file: AnyFile) -> Stored | None:
    """Our variable ``curation``; None where it is missing or somebody else's."""
    node = file.variable(CURATION)
    if node is None:
        return None
    try:
        columns = [_mat.vector(node.field(name)) for name in ("accepted", "label", "prob", "A_colsum")]
        texts = [field.text() if (field := node.field(name)) is not None else None for name in ("tool", "date", "labeller")]
    except FormatError:
        return None
    accepted, label, prob, sums = columns
    if accepted is None or label is None or prob is None or sums is None or texts[0] is None:
        return None
    if not len(accepted) == len(label) == len(prob) == len(sums) or any(c.dtype.kind not in "biuf" for c in (accepted, label, prob, sums)):
        return None
    with np.errstate(invalid="ignore"):
        kept = (accepted != 0, np.sign(label).astype(np.int8), prob.astype(np.float64), sums.astype(np.float64))
    return Stored(*kept, texts[0] or "", texts[1] or "", texts[2] or "")


def decided(curation: Curation, sums: NDArray[np.float64], before: Stored | None) -> Stored:
    """The decisions as they will be in the file; where nothing changes, the date does not either."""
    accepted = np.asarray(curation.accepted, bool)
    said = curation.origin == "label"  # unsure ones are decided by the model and are no label here
    labeller = ", ".join(sorted({label.annotator for label in curation.labels.values()})).encode("utf-8", "replace").decode()
    label = np.where(said, np.where(accepted, 1, -1), 0).astype(np.int8)
    new = Stored(accepted, label, np.asarray(curation.probability, np.float64), sums, TOOL, _now(), labeller)
    return replace(new, date=before.date) if before is not None and new.same(before, but_date=True) else new


def carried(recording: Recording, curation: Curation | None, sums: NDArray[np.float64]) -> tuple[NDArray[np.int8], Stored]:
    """For a new file: final verdicts (1, -1, 0 undecided) and our variable; without a curation, what the host and its users said.

    Probabilities are as a host that decides at 0.5 should see them, NaN where nobody decided.
    """
    if curation is None:
        verdict = np.sign(recording.prior.verdict).astype(np.int8)
        person = recording.prior.person
        said = np.zeros(len(verdict), np.int8) if person is None else np.sign(person).astype(np.int8)
        return verdict, Stored(verdict > 0, said, np.asarray(recording.prior.probability, np.float64), sums, TOOL, _now(), "")
    verdict = np.where(curation.undecided, 0, np.where(curation.accepted, 1, -1)).astype(np.int8)
    probability = np.where(curation.undecided, np.nan, curation.host_probability())
    return verdict, replace(decided(curation, sums, None), prob=probability)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def check_pairs(recordings: Sequence[Recording], curations: Sequence[Curation | None], host: str) -> None:
    """Insist on one flat recording, and a curation of as many candidates or none: what one ``.mat`` file of these hosts holds.

    Raises
    ------
    FormatError
        There are several recordings, or the field of view has depth.
    UsageError
        Recordings and curations do not go together.
    """
    if len(recordings) != len(curations) or not recordings:
        raise UsageError(f"There are {len(recordings)} recordings but {len(curations)} curations.", "Pass one, or None, for each.")
    if len(recordings) > 1:
        raise FormatError(f"A file of {host} holds one recording, not {len(recordings)}.", "Convert them one at a time, each to a file.")
    (recording,), (curation,) = recordings, curations
    if len(recording.fov) != 2:
        raise FormatError(f"{host} knows no depth, and {recording.name} has a field of view of {recording.fov}.", "CaImAn's format has it.")
    if curation is not None and curation.n_cells != recording.n_cells:
        raise UsageError(f"{recording.name} has {recording.n_cells} candidates, its curation {curation.n_cells}.")


def signature(path: Path) -> tuple[int, int, int]:
    """Tells whether a file was changed in between."""
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def some(names: Sequence[str]) -> str:
    """The first of many names, for a sentence."""
    return ", ".join(names) if len(names) <= _SHOWN else f"{', '.join(names[:_SHOWN])} and {len(names) - _SHOWN} more"


def stored_beside(path: Path) -> Stored | None:
    """What a file of decisions says; None where there is none, or one that cannot be read."""
    try:
        with _mat.opened(path) as file:
            return stored(file)
    except ActsortError:
        return None


def verdicts(verdict: NDArray[Any], probability: NDArray[np.float64] | None = None, person: NDArray[Any] | None = None) -> Prior:
    """A prior from verdicts, probabilities (NaN where they are none) and what persons said (1, -1, 0), where that is known."""
    known = np.full(len(verdict), np.nan) if probability is None else probability
    with np.errstate(invalid="ignore"):
        known = np.where((known >= 0) & (known <= 1), known, np.nan)
    return Prior(verdict.astype(np.int8), known, None if person is None else person.astype(np.int8))


def fits(ours: Stored, sums: NDArray[np.float64]) -> bool:
    """Whether decisions are about these candidates, in this order."""
    return ours.sums.shape == sums.shape and np.allclose(ours.sums, sums, rtol=_SAME, atol=0, equal_nan=True)


def known_by_sum(ours: Stored, sums: NDArray[np.float64]) -> Prior:
    """Verdicts by the sum of weights where the columns changed: what has exactly one counterpart keeps its own."""
    verdict, probability = np.zeros(len(sums), np.int8), np.full(len(sums), np.nan)
    for number, total in enumerate(sums):
        same = np.flatnonzero(np.isclose(ours.sums, total, rtol=_SAME, atol=0))
        if len(same) == 1 and np.isclose(sums, total, rtol=_SAME, atol=0).sum() == 1:
            k = int(same[0])
            known = ours.accepted[k] or ours.label[k] != 0 or np.isfinite(ours.prob[k])
            verdict[number] = (1 if ours.accepted[k] else -1) if known else 0
            probability[number] = ours.prob[k]
    return verdicts(verdict, probability)
