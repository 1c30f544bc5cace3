"""Checks of formats that can also create a result (`actsort_core.formats.CreatingFormat`)."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actsort_core import writeback
from actsort_core.atomic import digest
from actsort_core.errors import ActsortError, ChangedError, FormatError
from actsort_core.formats import CreatingFormat
from actsort_core.journal import Journal
from actsort_core.model import Curation, Prior, Recording
from actsort_core.store import keyed
from actsort_core.testing._common import doing, require
from actsort_core.testing._recording import make_recording
from actsort_core.testing._valid import check_sniff, make_curation, read

NAME = "a new result"  # no suffix: what was created is recognised by content


def samples() -> Iterator[tuple[str, Recording]]:
    """Recordings to create results from: with all there can be, with as little as there can be, of 0 and 1 candidates, odd ones."""
    full = make_recording(7)
    traces = np.asarray(full.traces[0:7])
    yield "7 candidates and everything", replace(full, denoised=traces * np.float32(0.5), spikes=np.maximum(traces, 0))
    yield "2 candidates and nothing else", make_recording(2, fps=None, images={}, metrics={}, prior=Prior.undecided(2))
    yield "1 candidate", make_recording(1, fov=(35, 24))
    yield "no candidate", make_recording(0)
    yield "NaN and infinity in the traces", make_recording(5, nonfinite=True)
    yield "one frame", make_recording(3, n_frames=1)
    yield "three dimensions", make_recording(4, fov=(9, 14, 5))


def check_creating(fmt: CreatingFormat, root: Path, check_result: Callable[[Path], None]) -> None:
    """Create results from recordings of all kinds, and check each as `check_format` does.

    Parameters
    ----------
    fmt
        The format.
    root
        An empty folder to work in.
    check_result
        The checks of a result that is there.
    """
    for number, (title, recording) in enumerate(samples()):
        with _titled(title):
            dst = check_created(fmt, [recording], [None], root / f"{number}")
            if dst is not None:
                check_result(dst)
            decided = make_curation(recording, recording.name, np.arange(recording.n_cells) % 3 != 1)
            check_created(fmt, [recording], [decided], root / f"{number} decided")
            _check_interrupted(fmt, recording, root / f"{number} interrupted")
    with _titled("two recordings"):
        several = [replace(make_recording(6, seed=1), name="first"), replace(make_recording(4, seed=2), name="second")]
        check_created(fmt, several, [make_curation(several[0], "first", np.arange(6) < 2), None], root / "several")
    _check_changed(fmt, root / "changed")


class _titled:
    """Says which recording a sentence is about."""

    def __init__(self, title: str) -> None:
        self.title = title

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, AssertionError):
            raise AssertionError(f"Created from a recording ({self.title}): {error}") from error


def check_created(fmt: CreatingFormat, recordings: Sequence[Recording], curations: Sequence[Curation | None], folder: Path) -> Path | None:
    """Create a result in the new folder `folder` and compare it with what it was made from.

    Returns
    -------
    Path or None
        The result; None where `losses` says that the format cannot hold it.
    """
    folder.mkdir()
    dst = folder / NAME
    said = _losses(fmt, recordings, curations)
    if said is None:
        try:
            fmt.create(recordings, curations, dst)
        except FormatError:
            pass
        else:
            raise AssertionError("losses says that the format cannot hold this, and create writes it.")
        require(not list(folder.iterdir()), "create refused, and left something behind.")
        return None
    with doing("create"):
        files = fmt.create(recordings, curations, dst)
    require(dst.exists(), f"create did not write {dst.name!r}: the destination is used as given.")
    require([p.name for p in folder.iterdir()] == [NAME], f"create left something beside its destination: {sorted(folder.iterdir())}.")
    inside = isinstance(files, tuple) and files and all(p.is_relative_to(dst) and p.is_file() for p in files)
    require(inside, f"create returned {files!r}, not the files it wrote.")
    check_sniff(fmt, dst)
    back = read(fmt, dst)
    require(len(back) == len(recordings), f"{len(recordings)} recordings were created, {len(back)} are read.")
    for old, curation, new in zip(recordings, curations, back, strict=True):
        _compare(fmt, old, curation, new)
    _check_refuses(fmt, recordings, curations, dst)
    return dst


def _losses(fmt: CreatingFormat, recordings: Sequence[Recording], curations: Sequence[Curation | None]) -> tuple[str, ...] | None:
    try:
        with doing("losses", FormatError):
            said = fmt.losses(recordings, curations)
    except FormatError:
        return None
    fine = isinstance(said, tuple) and all(isinstance(sentence, str) and sentence for sentence in said)
    require(fine, f"losses returned {said!r}, not a tuple of sentences.")
    return said


def _compare(fmt: CreatingFormat, old: Recording, curation: Curation | None, new: Recording) -> None:
    n = old.n_cells
    require(new.fov == old.fov, f"A field of view of {old.fov} reads back as {new.fov}.")
    require(new.n_cells == n, f"{n} candidates read back as {new.n_cells}.")
    kept = new.candidate_fingerprints == old.candidate_fingerprints
    require(kept, "Footprints do not read back as created, exact to float32 and in the same order.")
    require(new.n_frames == old.n_frames, f"{old.n_frames} frames read back as {new.n_frames}.")
    require(_close(old.traces[0:n], new.traces[0:n]), "Traces do not read back as created, exact to float32.")
    if curation is not None:
        require(((new.prior.verdict > 0) == curation.accepted).all(), "Decisions do not read back as created.")
    else:
        decided = old.prior.verdict != 0
        require((new.prior.verdict == old.prior.verdict)[decided].all(), "The host's verdicts do not read back as created.")
    for what, poorer in _lost(old, curation, new).items():
        said = set(fmt.losses([old], [curation])) - set(fmt.losses([poorer], [curation]))
        require(said, f"The {what} are not carried over, and losses does not say so.")


def _lost(old: Recording, curation: Curation | None, new: Recording) -> dict[str, Recording]:
    """What did not come through, and the recording as it would be without it."""
    n = old.n_cells
    lost: dict[str, Recording] = {}

    def without(**fields: Any) -> Recording:
        return replace(old, **fields)

    for name in ("denoised", "spikes"):
        before, after = getattr(old, name), getattr(new, name)
        if n and before is not None and (after is None or not _close(before[0:n], after[0:n])):
            lost[f"{name} traces"] = without(**{name: None})
    for name in ("images", "metrics"):
        had, has = getattr(old, name), list(getattr(new, name).values())
        gone = [key for key, value in had.items() if n and not any(_close(value, other) for other in has)]
        if gone:
            lost[f"{name} {', '.join(gone)}"] = without(**{name: {key: value for key, value in had.items() if key not in gone}})
    if old.fps is not None and (new.fps is None or not np.isclose(old.fps, new.fps, rtol=1e-5)):
        lost["frames per second"] = without(fps=None)
    p = old.prior.probability
    if curation is None and np.isfinite(p).any() and not _close(p[np.isfinite(p)], new.prior.probability[np.isfinite(p)]):
        lost["host's probabilities"] = without(prior=Prior(old.prior.verdict, np.full(n, np.nan)))
    return lost


def _close(a: Any, b: Any) -> bool:
    """Equal but for what float32 cannot hold."""
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    finite = np.isfinite(x)
    scale = float(np.abs(x[finite]).max()) if finite.any() else 0.0
    return x.shape == y.shape and np.allclose(x, y, rtol=1e-6, atol=1e-6 * scale, equal_nan=True)


def _tree(folder: Path) -> Mapping[str, str]:
    return {p.relative_to(folder).as_posix(): "/" if p.is_dir() else digest(p) for p in folder.rglob("*")}


def _check_refuses(fmt: CreatingFormat, recordings: Sequence[Recording], curations: Sequence[Curation | None], dst: Path) -> None:
    before = _tree(dst.parent)
    try:
        with doing("create over a result", ActsortError):
            fmt.create(recordings, curations, dst)
    except ActsortError:
        pass
    else:
        raise AssertionError("create writes over a result that is there.")
    require(_tree(dst.parent) == before, "create refused to write over a result, and changed it.")


class _Unreadable:
    """Traces whose second half cannot be read."""

    def __init__(self, traces: NDArray[np.float32]) -> None:
        self._traces, self.shape = traces, traces.shape

    def __getitem__(self, rows: slice) -> NDArray[np.float32]:
        raise OSError(5, "Input/output error")


def _check_interrupted(fmt: CreatingFormat, recording: Recording, folder: Path) -> None:
    folder.mkdir()
    if _losses(fmt, [recording], [None]) is None or not recording.n_cells:
        return
    try:
        fmt.create([replace(recording, traces=_Unreadable(np.asarray(recording.traces[0 : recording.n_cells])))], [None], folder / NAME)
    except Exception:
        require(not list(folder.iterdir()), "create failed half-way, and left something behind.")
    else:
        raise AssertionError("create goes on without traces that cannot be read.")


def _check_changed(fmt: CreatingFormat, folder: Path) -> None:
    """Replace a result by another while it is open: the decisions must not be written into it."""
    folder.mkdir()
    (folder / "session").mkdir()
    dst = folder / NAME
    fmt.create([make_recording(7)], [None], dst)
    (source,) = keyed([(dst, fmt.name, read(fmt, dst))])
    curations = {key: make_curation(r, key, np.arange(7) % 2 == 0) for key, r in source.recordings.items()}
    for title, other in (("a candidate less", make_recording(6)), ("other candidates", make_recording(7, seed=5))):
        shutil.rmtree(dst) if dst.is_dir() else dst.unlink()
        fmt.create([other], [None], dst)
        before = _tree(folder)
        try:
            with Journal(folder / "session") as journal, doing("Writing to a changed result", ChangedError):
                writeback.write_back([source], {fmt.name: fmt}, curations, folder / "session", journal)
        except ChangedError:
            pass
        else:
            raise AssertionError(f"Decisions were written into a result that was replaced by another ({title}).")
        after = {path: value for path, value in _tree(folder).items() if path in before and not path.startswith("session")}
        require(after == {k: v for k, v in before.items() if not k.startswith("session")}, "A changed result was refused, and written to.")
