"""The only way this project replaces a file: stage beside it, flush to disk, rename over it."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from actsort_core.errors import WriteError

_CHUNK = 1 << 22


def fsync_folder(folder: Path) -> None:
    """Make renames in `folder` durable, where the system can (Windows cannot open folders)."""
    with contextlib.suppress(OSError):
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _fsync_file(path: Path) -> None:
    with path.open("rb+") as handle:
        os.fsync(handle.fileno())


@contextlib.contextmanager
def staged(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`, removed on the way out; fill it, then call :func:`commit`.

    Parameters
    ----------
    path
        The file to be replaced; may not exist yet. Its folder must.

    Raises
    ------
    WriteError
        The folder cannot be written to, or the disk is full.
    """
    try:
        fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        os.close(fd)
    except OSError as error:
        raise WriteError(f"Cannot write into {path.parent} ({error.strerror}).", "Nothing was changed. Check its permissions.") from error
    tmp = Path(name)
    try:
        yield tmp
    except OSError as error:
        if isinstance(error, WriteError):
            raise
        raise WriteError(f"Writing {path} failed ({error}).", "Nothing was changed. Is the disk full?") from error
    finally:
        with contextlib.suppress(OSError):
            tmp.unlink()


def commit(tmp: Path, path: Path) -> None:
    """Put the staged `tmp` in the place of `path`: keep the mode, flush to disk, rename, flush the folder."""
    try:
        if path.exists():
            shutil.copymode(path, tmp)
        else:
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(tmp, 0o666 & ~umask)
        _fsync_file(tmp)
        os.replace(tmp, path)
    except OSError as error:
        raise WriteError(f"Replacing {path} failed ({error}).", "It is as it was before. Is it open in another program?") from error
    fsync_folder(path.parent)


def remove_empty(folder: Path) -> None:
    """Remove a folder, if there is nothing in it."""
    with contextlib.suppress(OSError):
        folder.rmdir()


@contextlib.contextmanager
def folder_of(path: Path) -> Iterator[None]:
    """Make the folder that the new file `path` will be in, where it is missing; it goes again if it is still empty on the way out.

    Raises
    ------
    WriteError
        It cannot be made.
    """
    made = not path.parent.exists()
    if made:
        try:
            path.parent.mkdir()
        except OSError as error:
            raise WriteError(f"Cannot make the folder {path.parent} ({error.strerror}).", "Nothing was changed.") from error
        fsync_folder(path.parent.parent)
    try:
        yield
    finally:
        if made:
            remove_empty(path.parent)


@contextlib.contextmanager
def held(path: Path) -> Iterator[Callable[[], None]]:
    """Hold on to what `path` is now; the function given puts exactly that back (or removes what was not there)."""
    if not path.exists():
        yield lambda: path.unlink(missing_ok=True)
        return
    with staged(path) as keep:
        try:  # a second name costs nothing; where the file system has none, a copy
            keep.unlink()
            os.link(path, keep)
        except OSError:
            shutil.copy2(path, keep)
        yield lambda: os.replace(keep, path)


def clear_leftovers(path: Path, older_than: float = 600) -> None:
    """Remove temporary files that a killed process left beside `path`, if nobody touched them for `older_than` seconds."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - leftover.stat().st_ctime > older_than:
                leftover.unlink()


@contextlib.contextmanager
def making(path: Path, older_than: float = 600) -> Iterator[Path]:
    """A temporary folder beside `path`, removed on the way out: make a new file or folder in it, then rename that to `path`.

    What killed processes left behind is removed, if nobody touched it for `older_than` seconds.

    Raises
    ------
    WriteError
        The folder of `path` cannot be made or written to.
    """
    parent, prefix, suffix = path.absolute().parent, f".{path.name}.", ".making"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=parent, prefix=prefix, suffix=suffix))
    except OSError as error:
        raise WriteError(f"Cannot write into {parent} ({error.strerror}).", "Nothing was written.") from error
    for leftover in parent.iterdir():
        if leftover.name.startswith(prefix) and leftover.name.endswith(suffix):
            with contextlib.suppress(OSError):
                if time.time() - max(inside.stat().st_mtime for inside in (leftover, *leftover.rglob("*"))) > older_than:
                    shutil.rmtree(leftover, ignore_errors=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def atomic_write(path: Path, content: bytes) -> None:
    """Replace `path` with `content`: afterwards it holds all of it, or what it held before."""
    with staged(path) as tmp:
        tmp.write_bytes(content)
        commit(tmp, path)


def as_json(document: Any) -> bytes:
    """`document` as JSON with one key a line; NaN is refused (not JSON). A file name that is no UTF-8 keeps its JSON escapes."""
    return (json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def atomic_write_json(path: Path, document: Any) -> None:
    """Replace `path` with `document` as JSON (see `as_json`)."""
    atomic_write(path, as_json(document))


def digest(path: Path) -> str:
    """Content hash of a file (BLAKE2b, 32 hexadecimal digits); empty when there is no file."""
    if not path.exists():
        return ""
    hasher = hashlib.blake2b(digest_size=16)
    with path.open("rb") as handle:
        while chunk := handle.read(_CHUNK):
            hasher.update(chunk)
    return hasher.hexdigest()


def backup(path: Path, folder: Path, name: str = "") -> Path:
    """Keep `path` as it is now in `folder` (as `name`, if given); returns the copy, which never replaces an earlier one.

    A copy rather than a hard link: a host that edits its file in place would change both.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kept = Path(name or path.name)
    for number in range(1, 1_000_000):
        target = folder / f"{kept.stem}.{number:03d}{kept.suffix}"
        if not target.exists():
            break
    with staged(target) as tmp:
        shutil.copyfile(path, tmp)
        commit(tmp, target)
    shutil.copystat(path, target)
    return target
