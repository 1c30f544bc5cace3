"""What the formats whose host writes single HDF5 files have in common: recognising one, and editing a copy of one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from actsort_adapters import _hdf5
from actsort_core.errors import ActsortError, WriteError
from actsort_core.formats import Sniff


def sniff(path: Path, look: Callable[[Any], Sniff], folder: Callable[[Path], Sniff]) -> Sniff:
    """What a format of HDF5 files says about `path`; raises nothing.

    Parameters
    ----------
    path
        Any file or folder.
    look, folder
        What the format says about an open file, and about a folder.
    """
    try:
        if path.is_dir():
            return folder(path)
        kind = _hdf5.kind_by_bytes(path)
        if kind != "hdf5":
            return Sniff(False, kind)
        with _hdf5.opened(path) as file:
            return look(file)
    except ActsortError as error:
        return Sniff(False, str(error))
    except OSError as error:
        return Sniff(False, f"it cannot be read ({error.strerror or error})")
    except Exception as error:  # a damaged file must not hide what other formats say
        return Sniff(False, f"its check failed ({type(error).__name__}: {error})")


def stage_copy(path: Path, tmp: Path, edit: Callable[[Any], str]) -> None:
    """Copy `path` to `tmp`, edit the copy, and check that nothing else differs.

    Parameters
    ----------
    path, tmp
        The file, and where its new content goes.
    edit
        Given the original, open for reading: edits `tmp`; the path of the first object that is then not as it should be, else ``""``.

    Raises
    ------
    WriteError
        The disk is full, or something else differs.
    """
    # The original stays open (so locked against a program that wants to save) until the copy has been compared with it.
    with _hdf5.opened(path) as before:
        try:
            shutil.copyfile(path, tmp)
            wrong = edit(before)
        except ActsortError:
            raise
        except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
            raise WriteError(f"Preparing the new {path} failed ({error}).", "Nothing was changed. Is the disk full?") from error
    if wrong:
        raise WriteError(f"The edited copy of {path} differs from it in {wrong}.", "Nothing was changed. Please report this.")
