"""Finding the format of a path, and reading so that every failure names the file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from actsort_core.errors import ActsortError, FormatError, MissingFileError, UnknownFormatError, UnknownNameError
from actsort_core.formats import CreatingFormat, Format, Sniff, WritePlan, find_format, read_with
from actsort_core.model import Curation, Recording
from actsort_core.registry import Registry
from actsort_core.testing import make_recording


class Fake:
    description = "for tests"

    def __init__(self, name: str, answer: Any = None, read: Callable[[Path], Any] | None = None) -> None:
        self.name, self.answer, self._read = name, answer, read

    def sniff(self, path: Path) -> Sniff:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer  # type: ignore[no-any-return]

    def read(self, path: Path) -> tuple[Recording, ...]:
        return self._read(path) if self._read else (make_recording(2, path=path),)

    def plan(self, recordings: Sequence[Recording], curations: Sequence[Curation]) -> WritePlan:
        return WritePlan(())


def registry(*formats: Fake) -> Registry[Format]:
    out: Registry[Format] = Registry("format")
    for fmt in formats:
        out.add(fmt.name, fmt)
    return out


YES = Fake("yes", Sniff(True, "it looks right"))
NO = Fake("no", Sniff(False, "it lacks a header"))
BROKEN = Fake("broken", ZeroDivisionError("oh"))


def test_the_protocols_can_be_checked_at_run_time() -> None:
    assert isinstance(YES, Format)
    assert not isinstance(YES, CreatingFormat)
    assert not isinstance(object(), Format)


@pytest.mark.parametrize("formats", [(YES,), (YES, NO), (NO, YES), (BROKEN, YES, NO)])
def test_the_only_one_that_says_yes_is_taken(formats: tuple[Fake, ...], tmp_path: Path) -> None:
    assert find_format(tmp_path, registry(*formats)) is YES


def test_when_nobody_says_yes_the_error_lists_who_said_what(tmp_path: Path) -> None:
    with pytest.raises(UnknownFormatError) as caught:
        find_format(tmp_path, registry(NO, BROKEN))
    text = str(caught.value)
    assert f"No format recognises {tmp_path}:" in text
    assert "\n  no: no, it lacks a header" in text
    assert "\n  broken: no, its check failed (ZeroDivisionError: oh)" in text
    assert caught.value.hint
    assert isinstance(caught.value, ValueError)


def test_when_several_say_yes_the_error_lists_them_and_says_how_to_choose(tmp_path: Path) -> None:
    other = Fake("other", Sniff(True, "it has the right suffix"))
    with pytest.raises(UnknownFormatError) as caught:
        find_format(tmp_path, registry(NO, YES, other))
    text = str(caught.value)
    assert f"Several formats claim {tmp_path}:" in text
    for line in ("no: no, it lacks a header", "yes: yes, it looks right", "other: yes, it has the right suffix", "--format yes"):
        assert line in text


def test_without_any_format_the_error_says_so(tmp_path: Path) -> None:
    with pytest.raises(UnknownFormatError, match=r"none is installed"):
        find_format(tmp_path, registry())


@pytest.mark.parametrize("answer", [None, True, "yes", (True, "why")])
def test_an_answer_that_is_no_sniff_keeps_nobody_from_reading(answer: Any, tmp_path: Path) -> None:
    odd = Fake("odd", answer)
    assert find_format(tmp_path, registry(odd, YES)) is YES
    with pytest.raises(UnknownFormatError, match="odd: no, its check answered"):
        find_format(tmp_path, registry(odd))


def test_a_path_that_does_not_exist_is_not_sniffed(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"gone\.hdf5 does not exist") as caught:
        find_format(tmp_path / "gone.hdf5", registry(BROKEN))
    assert isinstance(caught.value, FileNotFoundError)
    with pytest.raises(MissingFileError):
        find_format(tmp_path / "gone.hdf5", registry(YES), "yes")


def test_a_format_chosen_by_name_is_taken_whatever_is_said(tmp_path: Path) -> None:
    assert find_format(tmp_path, registry(NO, YES, BROKEN), "no") is NO
    with pytest.raises(UnknownNameError, match=r"There is no format 'yess'\. Did you mean 'yes'"):
        find_format(tmp_path, registry(NO, YES), "yess")


def test_reading_gives_what_the_format_gives(tmp_path: Path) -> None:
    (recording,) = read_with(YES, tmp_path)
    assert recording.path == tmp_path


@pytest.mark.parametrize("error", [KeyError("dims"), OSError("truncated"), EOFError(), UnicodeDecodeError("utf8", b"x", 0, 1, "bad")])
def test_whatever_a_broken_file_raises_becomes_an_error_that_names_it(error: Exception, tmp_path: Path) -> None:
    def fails(path: Path) -> Any:
        raise error

    with pytest.raises(FormatError) as caught:
        read_with(Fake("picky", read=fails), tmp_path)
    assert str(tmp_path) in caught.value.what
    assert f"as picky ({type(error).__name__}" in caught.value.what
    assert caught.value.hint
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [MemoryError("3 TB"), RecursionError("deep")])
def test_a_file_that_asks_for_too_much_is_called_damaged(error: Exception, tmp_path: Path) -> None:
    def fails(path: Path) -> Any:
        raise error

    with pytest.raises(FormatError, match="asks for more memory than there is"):
        read_with(Fake("picky", read=fails), tmp_path)


def test_errors_raised_on_purpose_pass_as_they_are(tmp_path: Path) -> None:
    meant = ActsortError("This is why.", "Do that.")

    def fails(path: Path) -> Any:
        raise meant

    with pytest.raises(ActsortError) as caught:
        read_with(Fake("picky", read=fails), tmp_path)
    assert caught.value is meant


def test_an_interrupt_is_no_damaged_file(tmp_path: Path) -> None:
    def fails(path: Path) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read_with(Fake("picky", read=fails), tmp_path)


@pytest.mark.parametrize("nothing", [(), [], None])
def test_a_result_without_recordings_is_an_error(nothing: Any, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="holds no recording"):
        read_with(Fake("empty", read=lambda path: nothing), tmp_path)
