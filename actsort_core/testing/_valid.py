"""What a format gives must be valid: its answer to `sniff`, its recordings, and two readings of the same thing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from actsort_core.formats import Format, Sniff
from actsort_core.model import CELL, NOT_CELL, UNSURE, CandidateId, Curation, Label, Recording
from actsort_core.testing._common import doing, require


def check_sniff(fmt: Format, path: Path, yes: bool | None = True) -> None:
    """Insist on a `Sniff` with a reason; None: whatever it says."""
    with doing(f"Sniffing {path.name}"):
        answer = fmt.sniff(path)
    require(isinstance(answer, Sniff), f"sniff returned {answer!r} instead of a Sniff.")
    require(isinstance(answer.why, str) and answer.why, f"sniff of {path.name} does not say why.")
    if yes is None:
        return
    if yes:
        require(answer.yes is True, f"sniff refuses {path.name}, which it should read: {answer.why}.")
    else:
        require(answer.yes is False, f"sniff claims the foreign {'folder' if path.is_dir() else 'file'} {path.name}: {answer.why}.")


def read(fmt: Format, path: Path, passing: type[Exception] = AssertionError) -> tuple[Recording, ...]:
    """What `fmt` reads: recordings of different names."""
    with doing(f"Reading {path.name}", passing):
        recordings = fmt.read(path)
    require(isinstance(recordings, tuple) and recordings, f"read returned {type(recordings).__name__} instead of a tuple of recordings.")
    require(all(isinstance(r, Recording) for r in recordings), "read returned something that is not a Recording.")
    names = [r.name for r in recordings]
    require(len(set(names)) == len(names), f"Two recordings of one path have the same name: {names}.")
    return recordings


def check_recording(fmt: Format, recording: Recording, passing: type[Exception] = AssertionError) -> None:
    """Insist on what `Recording` promises, and on traces that do not depend on how they are read."""
    who, n = f"Recording {recording.name!r}", recording.n_cells
    require(recording.format == fmt.name, f"{who} says it is of format {recording.format!r}, not {fmt.name!r}.")
    require(recording.path.exists(), f"{who} has a path that does not exist: {recording.path}.")
    require(all(isinstance(size, int) for size in recording.fov), f"{who} has a field of view of {recording.fov}, not of integers.")
    require(recording.fps is None or 0 < recording.fps < np.inf, f"{who} has {recording.fps} frames per second.")
    a = recording.footprints
    canonical = sp.issparse(a) and a.format == "csc" and a.dtype == np.float32 and a.has_canonical_format
    require(canonical, f"{who} has footprints that are not canonical CSC float32; make them with actsort_core.model.as_footprints.")
    require(np.isfinite(a.data).all() and (a.data != 0).all(), f"{who} stores zeros or non-finite weights in its footprints.")
    for name in ("traces", "denoised", "spikes"):
        traces = getattr(recording, name)
        if traces is None:
            continue
        require(tuple(traces.shape) == (n, recording.n_frames), f"{who} has {name} of shape {traces.shape}.")
        with doing(f"Reading {name} of {who}", passing):
            whole, part = np.asarray(traces[0:n]), np.asarray(traces[n // 2 : n])
        require(whole.dtype == np.float32, f"{who} has {name} of {whole.dtype}, not float32.")
        require(whole.shape == (n, recording.n_frames), f"{who} gives {name} of {whole.shape} when all rows are read.")
        require(np.array_equal(whole[n // 2 :], part, equal_nan=True), f"{who} gives other {name} when read in parts.")
    verdict, p = recording.prior.verdict, recording.prior.probability
    require(np.isin(verdict, (-1, 0, 1)).all(), f"{who} has prior verdicts other than 1, -1 and 0.")
    require((np.isnan(p) | ((p >= 0) & (p <= 1))).all(), f"{who} has prior probabilities outside 0..1.")
    for name, values in recording.metrics.items():
        require(np.asarray(values).dtype.kind == "f", f"{who} has metric {name!r} of {np.asarray(values).dtype}, not float.")
    with doing(f"Writing the info of {who} as JSON"):
        json.dumps(dict(recording.info), allow_nan=False)
    require(all(isinstance(note, str) and note for note in recording.notes), f"{who} has notes that are not sentences.")


def same(old: Sequence[Recording], new: Sequence[Recording], what: str, verdicts: bool = True) -> None:
    """Insist that nothing (or nothing but verdicts) differs."""
    require([r.name for r in old] == [r.name for r in new], f"{what} other recordings, or another order.")
    for a, b in zip(old, new, strict=True):
        where = f"of recording {a.name!r}"
        require(a.candidate_fingerprints == b.candidate_fingerprints, f"{what} other fingerprints of candidates {where}.")
        require(a.fingerprint == b.fingerprint, f"{what} another fingerprint {where}.")
        require((a.fov, a.fps, a.trace_kind) == (b.fov, b.fps, b.trace_kind), f"{what} another fov, fps or trace_kind {where}.")
        fields: dict[str, tuple[Any, Any]] = {name: (getattr(a, name), getattr(b, name)) for name in ("traces", "denoised", "spikes")}
        fields = {name: (x[0 : a.n_cells], y[0 : a.n_cells]) for name, (x, y) in fields.items() if x is not None and y is not None}
        for kind in ("metrics", "images"):
            x, y = getattr(a, kind), getattr(b, kind)
            require(list(x) == list(y), f"{what} other {kind} {where}.")
            fields |= {f"{kind} {name!r}": (x[name], y[name]) for name in x}
        if verdicts:
            fields |= {"verdicts": (a.prior.verdict, b.prior.verdict), "probabilities": (a.prior.probability, b.prior.probability)}
        for name, (x, y) in fields.items():
            require(np.array_equal(np.asarray(x), np.asarray(y), equal_nan=True), f"{what} other {name} {where}.")


def make_curation(recording: Recording, key: str, accepted: NDArray[np.bool_], seed: int = 0) -> Curation:
    """Decisions of every origin, for trying out write-back.

    Parameters
    ----------
    recording
        What they are about.
    key
        Its key in the session.
    accepted
        ``(n_cells,)`` bool: what is decided. Rejected candidates are in part undecided (origin ``"none"``).
    seed
        Of the model's probabilities.
    """
    rng, n, threshold = np.random.default_rng(seed), recording.n_cells, 0.3
    origin = np.array(["label", "model", "prior", "model", "none"], "<U5")[np.arange(n) % 5]
    origin[accepted & (origin == "none")] = "label"
    probability = np.where(accepted, rng.uniform(threshold + 0.01, 1, n), rng.uniform(0, threshold, n))
    probability[origin != "model"] = np.nan
    labels = {
        i: Label(CandidateId(key, i), (CELL if accepted[i] else NOT_CELL) if origin[i] == "label" else UNSURE, "check_format", "2024-01-01")
        for i in range(n)
        if origin[i] == "label" or i % 10 == 3
    }
    fingerprints = recording.candidate_fingerprints
    return Curation(key, recording.fingerprint, fingerprints, accepted, origin, probability, threshold, labels, len(labels))
