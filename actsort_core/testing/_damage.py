"""Damaged files: every broken result must end in an `ActsortError` or in recordings that are valid, and change nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from actsort_core.atomic import folder_of
from actsort_core.errors import ActsortError
from actsort_core.formats import Format
from actsort_core.model import Recording
from actsort_core.testing._common import doing, require
from actsort_core.testing._valid import check_recording, check_sniff, make_curation, read

DAMAGES = ("cut", "flip", "fill", "insert", "remove", "copy", "number")
# Where sizes, counts and addresses stand, these are what overflows, underflows and asks for all the memory there is.
_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)
_MOST_FILES = 12  # of one result; the rest of a folder of thousands (zarr) is sampled


@dataclass(frozen=True)
class Damage:
    """One change of a file's bytes, said in a way that fits a file of any length.

    Attributes
    ----------
    kind
        One of `DAMAGES`.
    where
        Position, 0..1 of the length.
    length
        How many bytes, from 1.
    value
        What is put there: a bit, a byte, another position or an integer, as `kind` has it.
    """

    kind: str
    where: float
    length: int
    value: int


def damaged(content: bytes, damages: Sequence[Damage]) -> bytes:
    """`content` after `damages`, one after the other; the same damages always make the same bytes."""
    out = bytearray(content)
    for damage in damages:
        here, n = int(damage.where * len(out)), damage.length
        if damage.kind == "cut":
            del out[here:]
        elif damage.kind == "flip" and here < len(out):
            out[here] ^= 1 << damage.value % 8
        elif damage.kind == "fill":
            out[here : here + n] = bytes([damage.value % 256]) * len(out[here : here + n])
        elif damage.kind == "insert":
            out[here:here] = bytes([damage.value % 256]) * n
        elif damage.kind == "remove":
            del out[here : here + n]
        elif damage.kind == "copy" and out:
            there = damage.value % len(out)
            out[here : here + n] = out[there : there + n]
        elif damage.kind == "number":
            width = (1, 2, 4, 8)[damage.value % 4]
            number = _NUMBERS[damage.value // 8 % len(_NUMBERS)] % (1 << 8 * width)
            out[here : here + width] = number.to_bytes(width, "big" if damage.value & 4 else "little")
    return bytes(out)


def random_damages(rng: np.random.Generator) -> tuple[Damage, ...]:
    """A few damages, half of the time near the beginning, where headers are."""
    early = rng.random() < 0.5

    def one() -> Damage:
        where = float(rng.random() ** (4 if early else 1))
        return Damage(str(rng.choice(DAMAGES)), where, int(2 ** rng.integers(0, 12)), int(rng.integers(1 << 31)))

    return tuple(one() for _ in range(rng.integers(1, 4)))


def check_damaged(fmt: Format, path: Path, count: int, seed: int) -> None:
    """Insist that damaged copies of a result are refused clearly, or read as valid recordings, and are left alone.

    Parameters
    ----------
    fmt
        The format.
    path
        A copy of a result; it is damaged and mended again and again.
    count
        How many random damages to try, besides truncated, emptied and missing files.
    seed
        Of these.
    """
    rng = np.random.default_rng(seed)
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file() and not p.is_symlink())
    if len(files) > _MOST_FILES:
        files = [files[i] for i in sorted(rng.choice(len(files), _MOST_FILES, replace=False))]
    for file in files:
        content = file.read_bytes()
        for size in sorted({0, 1, len(content) // 3, len(content) - 1}):
            if 0 <= size < len(content):
                with _replaced(file, content[:size]):
                    survive(fmt, path, f"{file.name} cut after {size} of {len(content)} bytes")
        if file != path:
            with _replaced(file, None):
                survive(fmt, path, f"{file.name} missing")
    for number in range(count):
        file = files[number % len(files)]
        with _replaced(file, damaged(file.read_bytes(), random_damages(rng))):
            survive(fmt, path, f"{file.name} damaged (number {number}, seed {seed})")


def survive(fmt: Format, path: Path, what: str) -> str:
    """Sniff, read and plan `path`, which may be broken in any way; insist on an `ActsortError` or on valid recordings.

    Returns
    -------
    str
        The error's sentence; empty where everything was read.
    """
    before = _state(path)
    try:
        return _survive(fmt, path, what)
    finally:
        require(_state(path) == before, f"With {what}, sniffing, reading or planning changed files.")


def _survive(fmt: Format, path: Path, what: str) -> str:
    try:
        check_sniff(fmt, path, None)
        recordings = read(fmt, path, ActsortError)
        for recording in recordings:
            check_recording(fmt, recording, ActsortError)
        with doing("Planning or staging", ActsortError):
            _stage_all(fmt, recordings)
    except ActsortError as error:
        require(error.what, f"With {what}, an ActsortError says nothing.")
        return error.what
    except AssertionError as error:
        raise AssertionError(f"With {what}: {error}") from error
    return ""


def _stage_all(fmt: Format, recordings: Sequence[Recording]) -> None:
    curations = [make_curation(r, r.name, np.arange(r.n_cells) % 2 == 0) for r in recordings]
    for edit in fmt.plan(recordings, curations).edits:
        tmp = edit.path.with_name(f".{edit.path.name}.check.tmp")
        with folder_of(edit.path):
            tmp.touch()
            try:
                edit.stage(tmp)
            finally:
                tmp.unlink()


def _state(path: Path) -> dict[str, Any]:
    """Sizes and times of everything in the folder: cheap, for hundreds of comparisons."""
    found = {p: p.lstat() for p in path.parent.rglob("*")}
    return {str(p): p.is_dir() or (stat.st_size, stat.st_mtime_ns) for p, stat in found.items()}


@contextlib.contextmanager
def _replaced(file: Path, content: bytes | None) -> Iterator[None]:
    """`file` with other content, or gone, for a while."""
    kept = file.read_bytes()
    try:
        if content is None:
            file.unlink()
        else:
            file.write_bytes(content)
        yield
    finally:
        file.write_bytes(kept)
