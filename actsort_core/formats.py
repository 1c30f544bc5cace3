"""The format contract, and finding the format of a path.

A format reads one kind of native result and says how its files would change. It never replaces a file itself: it stages the
new content, and `actsort_core.writeback` backs up, replaces, reads again and compares.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from actsort_core.errors import ActsortError, FormatError, MissingFileError, UnknownFormatError
from actsort_core.model import Curation, Recording


@dataclass(frozen=True)
class Sniff:
    """What a format says about a path: whether it can read it, and why (a short clause for the error that lists them)."""

    yes: bool
    why: str


@dataclass(frozen=True)
class FileEdit:
    """One native file that a write-back will replace.

    Attributes
    ----------
    path
        The file; it, and the folder it is in, may not exist yet.
    what
        What changes in it, for the person: ``"column 0 and 1 of 64 rows"``.
    stage
        Called with the path of a temporary file in the same folder; leaves the complete new content there. It never touches
        `path`. The file is empty, or holds what an earlier edit of the same `path` left (two planes of one combined file).
    """

    path: Path
    what: str
    stage: Callable[[Path], None]


@dataclass(frozen=True)
class WritePlan:
    """How native files would change, before anything is touched.

    Attributes
    ----------
    edits
        The files to replace.
    stale
        Files that will no longer agree with the decisions and are left alone, each with the reason or remedy.
    notes
        What the person should know: limits of the host, undecided candidates.
    """

    edits: tuple[FileEdit, ...]
    stale: tuple[tuple[Path, str], ...] = ()
    notes: tuple[str, ...] = ()


@runtime_checkable
class Format(Protocol):
    """The contract of a format adapter (register it with ``actsort_register_formats``).

    Attributes
    ----------
    name
        Short lower-case name: ``"suite2p"``.
    description
        One line for ``actsort plugins``.
    """

    name: str
    description: str

    def sniff(self, path: Path) -> Sniff:
        """Whether this format reads `path` (which exists): cheap, never raises for foreign files, imports nothing heavy."""

    def read(self, path: Path) -> tuple[Recording, ...]:
        """Read everything at `path`, in a stable order; big arrays stay on disk.

        Raises
        ------
        FormatError
            The file is truncated, inconsistent or hostile; says which part.
        """

    def plan(self, recordings: Sequence[Recording], curations: Sequence[Curation]) -> WritePlan:
        """How the files of one path change. The two sequences go together and hold everything `read` gave for that path."""


@runtime_checkable
class ExportingFormat(Format, Protocol):
    """A format whose host exports copies of its verdicts, which `plan` leaves alone and reports as stale (Suite2p's ``Fall.mat``)."""

    def plan_exports(self, recordings: Sequence[Recording], curations: Sequence[Curation]) -> WritePlan:
        """As `plan`, with those copies rewritten, too (``actsort write --update-exports``)."""


@runtime_checkable
class CreatingFormat(Format, Protocol):
    """A format that can also write a result of its own from recordings that came from elsewhere: a target of ``actsort convert``."""

    def losses(self, recordings: Sequence[Recording], curations: Sequence[Curation | None]) -> tuple[str, ...]:
        """What `create` could not carry over, a sentence each; shown before anything is written.

        Only what these recordings do hold counts: ``"The spikes: EXTRACT has no place for them."`` where there are spikes. Cheap: no
        trace is read.

        Parameters
        ----------
        recordings, curations
            As given to `create`.

        Raises
        ------
        FormatError
            The format cannot hold them at all (a volume in Suite2p); the hint says what could.
        """

    def create(self, recordings: Sequence[Recording], curations: Sequence[Curation | None], dst: Path) -> tuple[Path, ...]:
        """Write a new native result.

        Everything the layout can hold is carried: footprints and traces (exact to float32), denoised traces, spikes, images, fps,
        decisions with probabilities, the host's metrics where it has a place for them. `read` of `dst` gives the recordings back in
        the same order, and `sniff` recognises it by content, whatever its name.

        Parameters
        ----------
        recordings
            One or several, possibly of another format; traces are read in blocks of rows.
        curations
            One for each, with as many candidates: `Curation.accepted` and `Curation.host_probability` are what the host should see.
            None where nobody decided: the prior stands.
        dst
            File or folder to make, used as given (nothing is appended to its name). It must not exist. It is staged in a temporary
            place beside it and renamed, so that a kill leaves nothing half-written there.

        Returns
        -------
        The files written.

        Raises
        ------
        UsageError
            `dst` exists.
        FormatError
            The format cannot hold the recordings.
        WriteError
            The folder cannot be written to, or the disk is full; nothing is at `dst`.
        """


def find_format(path: Path, formats: Mapping[str, Format], name: str | None = None) -> Format:
    """The one format that reads `path`.

    Parameters
    ----------
    path
        File or folder.
    formats
        All registered formats by name.
    name
        Take this one, whatever the others say.

    Raises
    ------
    MissingFileError
        Nothing is there.
    UnknownFormatError
        None or several said yes; the message lists who said what and why.
    """
    if not path.exists():
        raise MissingFileError(f"{path} does not exist.", "Check the path; on another machine results may be mounted elsewhere.")
    if not path.is_file() and not path.is_dir():  # reading a named pipe would wait for ever
        raise UnknownFormatError(f"{path} is neither a file nor a folder.", "Pass the folder or file the toolkit wrote.")
    if name is not None:
        return formats[name]
    answers = {key: _ask(fmt, path) for key, fmt in formats.items()}
    takers = [key for key, answer in answers.items() if answer.yes]
    if len(takers) == 1:
        return formats[takers[0]]
    said = "".join(f"\n  {key}: {'yes' if a.yes else 'no'}, {a.why}" for key, a in answers.items()) or "\n  (none is installed)"
    if takers:
        raise UnknownFormatError(f"Several formats claim {path}:{said}\n", f"Choose one, e.g. --format {takers[0]}.")
    raise UnknownFormatError(
        f"No format recognises {path}:{said}\n",
        "Pass the folder or file the toolkit wrote (its name does not matter, its content does), or see docs/formats/plain.md for "
        "anything else.",
    )


def _ask(fmt: Format, path: Path) -> Sniff:
    try:
        answer = fmt.sniff(path)
    except Exception as error:  # one broken plug-in must not keep the others from reading the file
        return Sniff(False, f"its check failed ({type(error).__name__}: {error})")
    return answer if isinstance(answer, Sniff) else Sniff(False, f"its check answered {answer!r}, which means nothing")


def read_with(fmt: Format, path: Path) -> tuple[Recording, ...]:
    """`fmt.read(path)`, with whatever a broken file made it raise turned into a `FormatError` that names the file."""
    try:
        recordings = fmt.read(path)
    except ActsortError:
        raise
    except (MemoryError, RecursionError) as error:
        raise FormatError(f"{path} asks for more memory than there is ({error}).", "The file is damaged or hostile.") from error
    except Exception as error:
        raise FormatError(
            f"{path} could not be read as {fmt.name} ({type(error).__name__}: {error}).",
            "The file is damaged or not what it seems.",
        ) from error
    if not recordings:
        raise FormatError(f"{path} holds no recording.", "Run the extraction first, or pass the folder that holds its results.")
    return recordings
