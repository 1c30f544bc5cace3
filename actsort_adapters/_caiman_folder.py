"""Several CaImAn results in one folder: what a conversion of several planes makes, since CaImAn keeps one field of view per file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

SUFFIXES = (".hdf5", ".h5")


def results(folder: Path) -> list[Path] | None:
    """The result files of a folder that holds nothing else, in natural order; None for any other folder.

    A folder with anything besides (a movie, a notebook) is somebody's working folder: which of its files are meant, and whether two of
    them are stages of one fit, nobody can tell. Sessions of actsort and hidden files do not count.
    """
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".") and not _is_session(entry)]
    if not entries or any(entry.suffix.lower() not in SUFFIXES or not entry.is_file() for entry in entries):
        return None
    return [folder / name for name in in_order([entry.name for entry in entries])]


def _is_session(entry: Path) -> bool:
    return (entry.name == "actsort" or entry.suffix == ".actsort") and entry.is_dir()


def file_names(names: Sequence[str]) -> list[str]:
    """One file name for each recording, such that :func:`in_order` gives them back in the same order."""
    files = [(re.sub(r"[^\w.-]+", "_", name).strip("._")[:100] or "recording") + ".hdf5" for name in names]
    if in_order(files) != files or len(set(map(str.lower, files))) < len(files):  # some file systems ignore case
        files = [f"{number}_{name}" for number, name in enumerate(files)]
    return files


def in_order(names: Sequence[str]) -> list[str]:
    """Names in natural order: plane2 before plane10."""
    return sorted(names, key=lambda name: ([int(p) if i % 2 else p for i, p in enumerate(re.split(r"([0-9]+)", name))], name))
