"""The nouns: recordings, candidates, labels, predictions, decisions. All frozen, all checked once, here.

Arrays follow one convention everywhere (docs/architecture.md, "Words"): footprints are sparse ``(n_pixels, n_cells)``, CSC,
float32, pixels in C order of the field of view; traces are ``(n_cells, n_frames)`` float32.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, overload

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from actsort_core.errors import FormatError

CELL, NOT_CELL, UNSURE = "cell", "not_cell", "unsure"
LABEL_CLASSES = (CELL, NOT_CELL, UNSURE)
ORIGINS = ("label", "model", "prior", "none")


@dataclass(frozen=True, order=True, slots=True)
class CandidateId:
    """One candidate of one recording.

    Attributes
    ----------
    recording
        The recording's key in the session: its name, made unique.
    index
        0-based position in the native file.
    """

    recording: str
    index: int

    def __iter__(self) -> Iterator[str | int]:  # ``key, index = candidate``
        return iter((self.recording, self.index))


class TraceArray(Protocol):
    """What a trace source must offer: a NumPy array does, and so does a reader that keeps the data on disk."""

    @property
    def shape(self) -> tuple[int, ...]:
        """``(n_cells, n_frames)``."""

    def __getitem__(self, rows: slice) -> NDArray[np.float32]:
        """Read some candidates: ``(n_rows, n_frames)`` float32."""


class Movie(Protocol):
    """A registered recording read in blocks, never whole."""

    @property
    def path(self) -> Path:
        """The file the frames are in."""

    @property
    def shape(self) -> tuple[int, ...]:
        """``(n_frames, *fov)``."""

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Frames ``start`` to ``stop`` as ``(stop - start, *fov)``."""


@dataclass(frozen=True, eq=False)
class Prior:
    """The host toolkit's own verdict: evidence, never truth.

    Attributes
    ----------
    verdict
        ``(n_cells,)`` int8: 1 accepted, -1 rejected, 0 undecided.
    probability
        ``(n_cells,)`` float64 in [0, 1], NaN where the host gives none.
    person
        ``(n_cells,)`` int8: 1 or -1 where the file says that a person, not the toolkit, accepted or rejected; else 0. None where it cannot
        tell the two apart. For ``actsort import-labels`` only.
    """

    verdict: NDArray[np.int8]
    probability: NDArray[np.float64]
    person: NDArray[np.int8] | None = None

    @classmethod
    def undecided(cls, n_cells: int) -> Prior:
        """A host that said nothing."""
        return cls(np.zeros(n_cells, np.int8), np.full(n_cells, np.nan))

    def counts(self) -> dict[str, int]:
        """How many candidates the host accepted, rejected and left undecided."""
        return {
            "accepted": int((self.verdict > 0).sum()),
            "rejected": int((self.verdict < 0).sum()),
            "undecided": int((self.verdict == 0).sum()),
        }


@dataclass(frozen=True, eq=False)
class Recording:
    """One field of view of a native result.

    Attributes
    ----------
    name
        Short name, unique within its file: ``"plane0"``, ``"session1"``.
    path
        The file or folder that holds it and that a write-back changes.
    format
        Name of the format that read it.
    fov
        Field of view in pixels, ``(rows, columns)`` or ``(rows, columns, depth)``.
    footprints
        Sparse ``(n_pixels, n_cells)`` CSC float32, C order of `fov`, in the host's own scale.
    traces
        ``(n_cells, n_frames)`` float32: fluorescence over time, raw but neuropil-corrected.
    trace_kind
        What `traces` is: ``"F - 0.7*Fneu"``, ``"C+YrA"``.
    fps
        Frames per second, None when unknown.
    prior
        The host's verdicts as the file holds them now.
    metrics
        The host's own statistics, each ``(n_cells,)`` float64, NaN where missing: evidence, but never its verdict.
    images
        Full-field images by name, each of shape `fov`, float32.
    denoised, spikes
        Optional further traces, ``(n_cells, n_frames)``.
    movie_path
        The registered movie where the toolkit left one, else None.
    info
        What else is worth showing (host version, layout): JSON values only.
    notes
        What was odd about the file, as sentences for the user.
    """

    name: str
    path: Path
    format: str
    fov: tuple[int, ...]
    footprints: sp.csc_matrix
    traces: TraceArray
    trace_kind: str
    fps: float | None
    prior: Prior
    metrics: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    images: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    denoised: TraceArray | None = None
    spikes: TraceArray | None = None
    movie_path: Path | None = None
    info: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        n_pixels = math.prod(self.fov)  # of Python's integers: no overflow
        shape = tuple(self.footprints.shape)
        self._check(len(self.fov) in (2, 3) and min(self.fov) > 0, f"has a field of view of {self.fov}")
        self._check(getattr(self.footprints, "format", "") == "csc", "has footprints that are not a sparse CSC matrix")
        self._check(shape[0] == n_pixels, f"has footprints of {shape[0]} pixels in a field of view of {self.fov}")
        self._check(len(self.traces.shape) == 2, f"has traces of shape {self.traces.shape}")
        self._check(shape[1] == self.traces.shape[0], f"has {shape[1]} footprints but {self.traces.shape[0]} traces")
        columns: dict[str, NDArray[Any]] = {"prior": self.prior.verdict, "prior probability": self.prior.probability, **self.metrics}
        if self.prior.person is not None:
            columns["what people said"] = self.prior.person
        for key, values in columns.items():
            self._check(values.shape == (shape[1],), f"has {shape[1]} candidates but {values.shape} values of {key}")
        for key, image in self.images.items():
            self._check(image.shape == self.fov, f"has an image {key!r} of {image.shape} in a field of view of {self.fov}")

    def _check(self, ok: bool, problem: str) -> None:
        if not ok:
            raise FormatError(f"{self.path}: recording {self.name!r} {problem}.", "The result is inconsistent; was it changed?")

    @property
    def n_cells(self) -> int:
        """Number of candidates."""
        return int(self.footprints.shape[1])

    @property
    def n_frames(self) -> int:
        """Number of frames of the traces."""
        return int(self.traces.shape[1])

    @cached_property
    def candidate_fingerprints(self) -> tuple[str, ...]:
        """Identity of each candidate by content: 16 hexadecimal digits from its pixels and float32 weights."""
        matrix = self.footprints
        fov = np.asarray(self.fov, "<i8").tobytes()
        bounds, pixels, weights = matrix.indptr, matrix.indices.astype("<i8"), matrix.data.astype("<f4")
        return tuple(
            hashlib.blake2b(fov + pixels[a:b].tobytes() + weights[a:b].tobytes(), digest_size=8).hexdigest()
            for a, b in itertools.pairwise(bounds)
        )

    @cached_property
    def fingerprint(self) -> str:
        """Identity of the recording: from the set of its footprints, whatever their order, place on disk or verdicts."""
        content = ",".join([str(tuple(self.fov)), *sorted(self.candidate_fingerprints)])
        return hashlib.blake2b(content.encode(), digest_size=8).hexdigest()


def as_footprints(matrix: Any, n_pixels: int) -> sp.csc_matrix:
    """Footprints in canonical form: CSC float32, sorted, no duplicates, no stored zeros, non-finite weights dropped.

    Parameters
    ----------
    matrix
        Anything scipy.sparse can turn into a ``(n_pixels, n_cells)`` matrix, pixels in C order.
    n_pixels
        Number of pixels of the field of view.
    """
    out = sp.csc_matrix(matrix, dtype=np.float32, copy=True)  # what was passed in stays as it is
    out.sum_duplicates()
    out.data[~np.isfinite(out.data)] = 0
    out.eliminate_zeros()
    out.sort_indices()
    if out.shape[0] != n_pixels:
        raise FormatError(f"The footprints have {out.shape[0]} pixels, the field of view has {n_pixels}.")
    return out


@dataclass(frozen=True)
class Label:
    """What a person said about one candidate.

    Attributes
    ----------
    candidate
        Which one.
    value
        ``"cell"``, ``"not_cell"``, ``"unsure"`` or a lab's own class.
    annotator
        Who.
    time
        When, ISO 8601, UTC.
    seconds
        How long the person looked, None when unknown.
    reason
        Why it was asked: ``"start"``, ``"active"``, ``"audit"``, ``"review"``; ``"again"`` (unsure the first time), ``"overlap"``
        (others labelled it); ``"import"`` (said elsewhere).
    strategy
        Which strategy asked.
    probability
        The model's probability of ``cell`` when it was asked (before calibration), None before the first fit.
    inclusion
        For an audit, the probability with which it was drawn; else None.
    """

    candidate: CandidateId
    value: str
    annotator: str
    time: str = ""
    seconds: float | None = None
    reason: str = "review"
    strategy: str = ""
    probability: float | None = None
    inclusion: float | None = None


@dataclass(frozen=True)
class Prediction:
    """The model's probability that `candidate` is a cell, in [0, 1]; NaN before the first fit."""

    candidate: CandidateId
    probability: float


@dataclass(frozen=True)
class Decision:
    """The final verdict on one candidate and where it comes from.

    Attributes
    ----------
    accepted
        True for a cell. False where nobody decided, see `origin`.
    probability
        The model's, NaN where it did not speak.
    origin
        ``"label"`` (a person), ``"model"``, ``"prior"`` (the host, before a model exists) or ``"none"`` (undecided).
    label
        The person's label, also where it is ``"unsure"`` and the model decided; else None.
    """

    candidate: CandidateId
    accepted: bool
    probability: float
    origin: str
    label: Label | None = None


@dataclass(frozen=True, eq=False)
class Predictions(Sequence[Prediction]):
    """What the model says about every candidate of a session, and how much it knew.

    Attributes
    ----------
    candidates
        All candidates, recording after recording.
    probability
        ``(n,)`` float64: probability of ``cell``; NaN before the first fit.
    share
        Mean of `probability`: the estimated share of cells. NaN before the first fit.
    threshold
        Candidates above it are decided to be cells; NaN where `thresholds` differ, and before the first fit.
    n_labels
        How many labels (cell or not cell) the model was fitted on; 0 before the first fit, and with a warm start alone.
    accepted
        ``(n,)`` bool: who is decided to be a cell; None: who is above `threshold`.
    thresholds
        By recording; empty: `threshold` is that of all.
    """

    candidates: tuple[CandidateId, ...]
    probability: NDArray[np.float64]
    share: float
    threshold: float
    n_labels: int
    accepted: NDArray[np.bool_] | None = None
    thresholds: Mapping[str, float] = field(default_factory=dict)

    @property
    def known(self) -> bool:
        """Whether there is a model."""
        return bool(self.thresholds) or not math.isnan(self.threshold)

    def decided(self) -> NDArray[np.bool_]:
        """``(n,)``: who is a cell by the model."""
        return self.probability > self.threshold if self.accepted is None else self.accepted

    def __len__(self) -> int:
        return len(self.candidates)

    @overload
    def __getitem__(self, index: int) -> Prediction: ...
    @overload
    def __getitem__(self, index: slice) -> list[Prediction]: ...
    def __getitem__(self, index: int | slice) -> Prediction | list[Prediction]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return Prediction(self.candidates[index], float(self.probability[index]))

    def of(self, recording: str) -> NDArray[np.float64]:
        """Probabilities of one recording, ``(n_cells,)``, in file order."""
        return self.probability[[c.recording == recording for c in self.candidates]]


@dataclass(frozen=True, eq=False)
class Curation:
    """All decisions of one recording with their provenance: what is written back.

    Attributes
    ----------
    recording, fingerprint
        Which recording: its key in the session, its identity by content.
    candidate_fingerprints
        One per candidate, in file order.
    accepted
        ``(n_cells,)`` bool.
    origin
        ``(n_cells,)`` of `ORIGINS`.
    probability
        ``(n_cells,)`` float64: the model's, NaN where it did not speak.
    threshold
        Where the model's line was drawn; NaN without a model.
    labels
        The person's labels by index.
    n_labels
        How many labels the model was fitted on.
    prior_probability
        ``(n_cells,)`` float64: the host's own, NaN or None where it gave none.
    votes
        By index what everybody said, by annotator; empty where one person labelled the session.
    classes
        ``(n_cells,)`` of classes: the label's, else the likeliest that counts as what was decided, empty where nobody decided. None
        where a session has no classes of its own.
    remarks
        By index what people remarked: ``notes`` (text by annotator), ``flagged`` (True).
    """

    recording: str
    fingerprint: str
    candidate_fingerprints: tuple[str, ...]
    accepted: NDArray[np.bool_]
    origin: NDArray[np.str_]
    probability: NDArray[np.float64]
    threshold: float
    labels: Mapping[int, Label]
    n_labels: int = 0
    prior_probability: NDArray[np.float64] | None = None
    votes: Mapping[int, Mapping[str, str]] = field(default_factory=dict)
    classes: NDArray[np.str_] | None = None
    remarks: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def n_cells(self) -> int:
        """Number of candidates."""
        return len(self.accepted)

    @property
    def undecided(self) -> NDArray[np.bool_]:
        """``(n_cells,)``: True where neither a person, nor a model, nor the host said anything."""
        return np.asarray(self.origin == "none")

    def decisions(self) -> tuple[Decision, ...]:
        """One :class:`Decision` per candidate, in file order."""
        return tuple(
            Decision(CandidateId(self.recording, i), bool(a), float(p), str(o), self.labels.get(i))
            for i, (a, p, o) in enumerate(zip(self.accepted, self.probability, self.origin, strict=True))
        )

    def host_probability(self) -> NDArray[np.float64]:
        """Probabilities as a host that decides at 0.5 should see them, ``(n_cells,)`` float64.

        A person's ``cell`` is 1, ``not_cell`` 0. The model's are shifted in logit so that `threshold` falls at 0.5; where the
        host's verdict stands its own probability does, too. Both are kept at least 1e-6 away from 0.5 on the side of the decision,
        so that a host that applies ``> 0.5`` again finds exactly these decisions.
        """
        out = np.where(self.accepted, 1.0, 0.0)
        if self.prior_probability is not None:
            prior = (self.origin == "prior") & np.isfinite(self.prior_probability)
            out[prior] = _on_side(self.prior_probability[prior], self.accepted[prior])
        model = self.origin == "model"
        if model.any():
            p = np.clip(self.probability[model], 1e-9, 1 - 1e-9)
            cut = min(max(self.threshold, 1e-9), 1 - 1e-9)
            logit = np.log(p / (1 - p)) - np.log(cut / (1 - cut))
            shifted = 1 / (1 + np.exp(-logit))
            out[model] = _on_side(shifted, self.accepted[model])
        return out


def _on_side(p: NDArray[np.float64], accepted: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Probabilities kept on the side of 0.5 that their decision has."""
    return np.where(accepted, np.clip(p, 0.5 + 1e-6, 1), np.clip(p, 0, 0.5 - 1e-6))
