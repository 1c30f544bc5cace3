"""Checks of formats."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from actsort_core import writeback
from actsort_core.atomic import digest, folder_of
from actsort_core.errors import ActsortError
from actsort_core.formats import CreatingFormat, FileEdit, Format, WritePlan
from actsort_core.journal import Journal
from actsort_core.model import Curation, Recording
from actsort_core.store import Source, keyed
from actsort_core.testing._common import check_name, doing, require
from actsort_core.testing._create import check_created, check_creating
from actsort_core.testing._damage import check_damaged
from actsort_core.testing._valid import check_recording, check_sniff, make_curation, read, same

DAMAGED = 24  # how many randomly damaged copies of each result are tried


def check_format(
    fmt: Format | type[Format],
    path: Path | str | None = None,
    foreign: Sequence[Path | str] = (),
    damaged: int = DAMAGED,
    seed: int = 0,
) -> None:
    """Check that a format reads, plans, writes, restores, refuses and creates as its contract says.

    Everything is done on copies of `path`; it must be complete in itself (a file, or a folder with all its files).

    Parameters
    ----------
    fmt
        The format, or its class where that takes no arguments.
    path
        A result it reads; None for a `CreatingFormat`: it is checked on what it creates itself, from recordings of 0, 1, 2 and
        more candidates, with everything and with nothing but footprints and traces, with NaN, of one frame, in two and three
        dimensions, one and several.
    foreign
        Further files or folders that it must not claim, besides those this check makes up.
    damaged
        How many randomly damaged copies to try, besides truncated, emptied and missing files.
    seed
        Of these.

    Raises
    ------
    AssertionError
        Names what broke: a wrong or raising `sniff`, a `read` that is unstable or yields an invalid recording, fingerprints that
        depend on path or verdicts, a `plan` or `stage` that touches files, decisions that do not come back, other content that
        changes, an original that `restore` does not bring back, anything but an `ActsortError` from a damaged file, a changed file
        that is written to, a `create` that changes or silently loses something, writes over a result or leaves half of one.
    """
    if isinstance(fmt, type):
        with doing(f"Making {fmt.__name__}"):
            fmt = fmt()
    check_name("format", fmt)
    require(isinstance(fmt, Format), f"{type(fmt).__name__} lacks a method of actsort_core.Format (sniff, read, plan).")
    creating = isinstance(fmt, CreatingFormat)
    require(creating or path is not None, f"Format {fmt.name!r} cannot create a result to be checked on; pass the path of one.")
    with tempfile.TemporaryDirectory(prefix="actsort-check-") as folder:
        root = Path(folder).resolve()
        if path is not None:
            _check_result(fmt, Path(path), root, [Path(p) for p in foreign], damaged, seed)
        elif isinstance(fmt, CreatingFormat):
            (root / "made").mkdir()
            check_creating(fmt, root / "made", lambda made: _check_result(fmt, made, root, [Path(p) for p in foreign], damaged, seed))


def _check_result(fmt: Format, path: Path, root: Path, foreign: Sequence[Path], damaged: int, seed: int) -> None:
    root = Path(tempfile.mkdtemp(dir=root))
    here, there = _copy(path, root / "here"), _copy(path, root / "there")
    before = _contents(root / "here")
    check_sniff(fmt, here)
    recordings = read(fmt, here)
    for recording in recordings:
        check_recording(fmt, recording)
    same(recordings, read(fmt, here), "Reading the same path twice gives")
    same(recordings, read(fmt, there), "Reading a copy in another folder gives")
    require(_contents(root / "here") == before, "Sniffing or reading changed files.")
    _check_plan(fmt, here, recordings)
    _check_round_trip(fmt, there, root / "session")
    _check_foreign(fmt, path, root / "foreign", foreign)
    if isinstance(fmt, CreatingFormat):
        check_created(fmt, recordings, [None] * len(recordings), root / "converted to itself")
    check_damaged(fmt, here, damaged, seed)
    require(_contents(root / "here") == before, "Reading or planning changed files.")


def _copy(path: Path, folder: Path) -> Path:
    folder.mkdir()
    if path.is_dir():
        return Path(shutil.copytree(path, folder / path.name))
    return Path(shutil.copyfile(path, folder / path.name))


def _contents(folder: Path) -> dict[str, str]:
    """Digest of every file below `folder`; folders count, too."""
    return {p.relative_to(folder).as_posix(): "/" if p.is_dir() else digest(p) for p in sorted(folder.rglob("*"))}


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
        # A host may keep labels beside its result, named after it (ActSort for MATLAB: name_LABELS.mat).
        named_after = edit.path.parent == folder and edit.path.name.startswith(path.stem)
        require(edit.path.resolve().is_relative_to(path) or named_after, f"plan replaces {edit.path}, which is not part of {path}.")
        tmp = edit.path.with_name(f".{edit.path.name}.check.tmp")
        with folder_of(edit.path):
            tmp.touch()
            with doing(f"Staging {edit.path.name}"):
                edit.stage(tmp)
            require(tmp.is_file() and tmp.stat().st_size, f"Staging {edit.path.name} left no content in its temporary file.")
            tmp.unlink()
        require(_contents(folder) == before, f"Staging {edit.path.name} changed another file than its temporary one.")


def _check_round_trip(fmt: Format, path: Path, session: Path) -> None:
    session.mkdir()
    original = _contents(path.parent)
    (source,) = keyed([(path, fmt.name, read(fmt, path))])
    first = tuple(source.recordings.values())
    written: set[Path] = set()
    with Journal(session) as journal:
        for round_, (title, decide) in enumerate(_ROUNDS.items()):
            accepted = {key: decide(np.arange(r.n_cells)) for key, r in source.recordings.items()}
            curations = {key: make_curation(r, key, accepted[key], round_) for key, r in source.recordings.items()}
            written |= _write(fmt, source, curations, session, journal, title)
            same(first, read(fmt, path), f"After writing ({title}), reading gives", verdicts=False)
            for key, recording in zip(source.recordings, read(fmt, path), strict=True):
                verdict, curation = recording.prior.verdict, curations[key]
                require(((verdict > 0) == accepted[key]).all(), f"Decisions ({title}) of {key!r} do not come back as written.")
                unclear = (verdict == 0) & ~curation.undecided
                require(not unclear.any(), f"A candidate rejected ({title}) comes back as undecided in {key!r}.")
            ours = {p.resolve().relative_to(path.parent.resolve()).as_posix() for p in written}
            ours |= {p.rpartition("/")[0] for p in ours} - set(original)  # folders of new files
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
        check_sniff(fmt, other, yes=False)
    require(_contents(folder) == before, "Sniffing changed a foreign file.")
