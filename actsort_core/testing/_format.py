"""Checks of formats."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from actsort_core import writeback
from actsort_core.atomic import digest
from actsort_core.errors import ActsortError
from actsort_core.formats import FileEdit, Format, Sniff, WritePlan
from actsort_core.journal import Journal
from actsort_core.model import CELL, NOT_CELL, UNSURE, CandidateId, Curation, Label, Recording
from actsort_core.store import Source, keyed
from actsort_core.testing._common import check_name, doing, require


def check_format(fmt: Format, path: Path | str, foreign: Sequence[Path | str] = ()) -> None:
    """Check that a format reads, plans, writes and restores as its contract says.

    Everything is done on copies of `path`; it must be complete in itself (a file, or a folder with all its files).

    Parameters
    ----------
    fmt
        The format.
    path
        A result it reads.
    foreign
        Further files or folders that it must not claim, besides those this check makes up.

    Raises
    ------
    AssertionError
        Names what broke: a wrong or raising `sniff`, a `read` that is unstable or yields an invalid recording, fingerprints that
        depend on path or verdicts, a `plan` or `stage` that touches files, decisions that do not come back, other content that
        changes, or an original that `restore` does not bring back.
    """
    path = Path(path)
    check_name("format", fmt)
    require(isinstance(fmt, Format), f"{type(fmt).__name__} lacks a method of actsort_core.Format (sniff, read, plan).")
    with tempfile.TemporaryDirectory(prefix="actsort-check-") as folder:
        root = Path(folder).resolve()
        here, there = _copy(path, root / "here"), _copy(path, root / "there")
        before = _contents(root / "here")
        _check_sniff(fmt, here)
        recordings = _read(fmt, here)
        for recording in recordings:
            _check_recording(fmt, recording)
        _same(recordings, _read(fmt, here), "Reading the same path twice gives")
        _same(recordings, _read(fmt, there), "Reading a copy in another folder gives")
        require(_contents(root / "here") == before, "Sniffing or reading changed files.")
        _check_plan(fmt, here, recordings)
        _check_round_trip(fmt, there, root / "session")
        _check_foreign(fmt, path, root / "foreign", [Path(p) for p in foreign])


def _copy(path: Path, folder: Path) -> Path:
    folder.mkdir()
    if path.is_dir():
        return Path(shutil.copytree(path, folder / path.name))
    return Path(shutil.copyfile(path, folder / path.name))


def _contents(folder: Path) -> dict[str, str]:
    """Digest of every file below `folder`; folders count, too."""
    return {p.relative_to(folder).as_posix(): "/" if p.is_dir() else digest(p) for p in sorted(folder.rglob("*"))}


def _check_sniff(fmt: Format, path: Path, yes: bool = True) -> None:
    with doing(f"Sniffing {path.name}"):
        answer = fmt.sniff(path)
    require(isinstance(answer, Sniff), f"sniff returned {answer!r} instead of a Sniff.")
    require(isinstance(answer.why, str) and answer.why, f"sniff of {path.name} does not say why.")
    if yes:
        require(answer.yes is True, f"sniff refuses {path.name}, which it should read: {answer.why}.")
    else:
        require(answer.yes is False, f"sniff claims the foreign {'folder' if path.is_dir() else 'file'} {path.name}: {answer.why}.")


def _read(fmt: Format, path: Path) -> tuple[Recording, ...]:
    with doing(f"Reading {path.name}"):
        recordings = fmt.read(path)
    require(isinstance(recordings, tuple) and recordings, f"read returned {type(recordings).__name__} instead of a tuple of recordings.")
    require(all(isinstance(r, Recording) for r in recordings), "read returned something that is not a Recording.")
    names = [r.name for r in recordings]
    require(len(set(names)) == len(names), f"Two recordings of one path have the same name: {names}.")
    return recordings


def _check_recording(fmt: Format, recording: Recording) -> None:
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
        with doing(f"Reading {name} of {who}"):
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


def _same(old: Sequence[Recording], new: Sequence[Recording], what: str, verdicts: bool = True) -> None:
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


def _check_plan(fmt: Format, path: Path, recordings: Sequence[Recording]) -> None:
    folder = path.parent
    before = _contents(folder)
    curations = [make_curation(r, r.name, np.arange(r.n_cells) % 2 == 0) for r in recordings]
    with doing("plan"):
        plan = fmt.plan(recordings, curations)
    require(isinstance(plan, WritePlan), f"plan returned {type(plan).__name__} instead of a WritePlan.")
    require(_contents(folder) == before, "plan changed files; only write-back may.")
    require(all(isinstance(e, FileEdit) and e.what for e in plan.edits), "plan holds an edit that does not say what changes.")
    paths = [edit.path for edit in plan.edits]
    require(len({p.resolve() for p in paths}) == len(paths), "plan replaces one file twice.")
    for edit in plan.edits:
        require(edit.path.resolve().is_relative_to(path), f"plan replaces {edit.path}, which is not part of {path}.")
        tmp = edit.path.with_name(f".{edit.path.name}.check.tmp")
        tmp.touch()
        with doing(f"Staging {edit.path.name}"):
            edit.stage(tmp)
        require(tmp.is_file() and tmp.stat().st_size, f"Staging {edit.path.name} left no content in its temporary file.")
        tmp.unlink()
        require(_contents(folder) == before, f"Staging {edit.path.name} changed another file than its temporary one.")


def _check_round_trip(fmt: Format, path: Path, session: Path) -> None:
    session.mkdir()
    original = _contents(path.parent)
    (source,) = keyed([(path, fmt.name, _read(fmt, path))])
    first = tuple(source.recordings.values())
    written: set[Path] = set()
    with Journal(session) as journal:
        for round_, (title, decide) in enumerate(_ROUNDS.items()):
            accepted = {key: decide(np.arange(r.n_cells)) for key, r in source.recordings.items()}
            curations = {key: make_curation(r, key, accepted[key], round_) for key, r in source.recordings.items()}
            written |= _write(fmt, source, curations, session, journal, title)
            _same(first, _read(fmt, path), f"After writing ({title}), reading gives", verdicts=False)
            for key, recording in zip(source.recordings, _read(fmt, path), strict=True):
                verdict, curation = recording.prior.verdict, curations[key]
                require(((verdict > 0) == accepted[key]).all(), f"Decisions ({title}) of {key!r} do not come back as written.")
                unclear = (verdict == 0) & ~curation.undecided
                require(not unclear.any(), f"A candidate rejected ({title}) comes back as undecided in {key!r}.")
            ours = {p.resolve().relative_to(path.parent.resolve()).as_posix() for p in written}
            after = _contents(path.parent)
            wrong = sorted(p for p in original.keys() | after.keys() if p not in ours and original.get(p) != after.get(p))
            require(not wrong, f"Writing changed, made or removed files that the plan does not name: {', '.join(wrong)}.")
        if written:
            with doing("Restoring"):
                writeback.restore(session, journal)
    require(_contents(path.parent) == original, "Restoring did not bring back the original bytes.")


_ROUNDS: Mapping[str, Callable[[NDArray[np.int64]], NDArray[np.bool_]]] = {
    "every other one accepted": lambda i: i % 2 == 0,
    "the others accepted": lambda i: i % 2 == 1,
    "all accepted": lambda i: i >= 0,
    "all rejected": lambda i: i < 0,
}


def _write(fmt: Format, source: Source, curations: Mapping[str, Curation], session: Path, journal: Journal, title: str) -> set[Path]:
    try:
        return set(writeback.write_back([source], {fmt.name: fmt}, curations, session, journal).written)
    except ActsortError as error:
        raise AssertionError(f"Write-back ({title}) failed: {error}") from error
    except Exception as error:
        raise AssertionError(f"Write-back ({title}) raised {type(error).__name__}: {error}") from error


def _check_foreign(fmt: Format, path: Path, folder: Path, foreign: Sequence[Path]) -> None:
    import h5py

    folder.mkdir()
    (folder / "empty").mkdir()
    (folder / path.name).mkdir()  # a folder of the same name, with nothing in it
    (folder / "no-suffix").write_bytes(b"\x00\x01 no result of anybody's")
    for suffix in {".txt", ".mat", path.suffix}:
        (folder / f"foreign{suffix or '.bin'}").write_text("Dear diary, this is no result.\n")
        (folder / f"nothing{suffix or '.bin'}").touch()
    np.save(folder / "array.npy", np.zeros((3, 4)))
    with h5py.File(folder / "other.hdf5", "w") as file:
        file["somebody/elses"] = np.zeros(3)
    before = _contents(folder)
    for other in [*sorted(folder.iterdir()), *foreign]:
        _check_sniff(fmt, other, yes=False)
    require(_contents(folder) == before, "Sniffing changed a foreign file.")
