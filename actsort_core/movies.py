"""The movie behind a result: finding it, opening it whatever wrote it, and checking that it is the right one.

A movie is read in blocks of frames and never held: `open_movie` gives an object with ``shape`` ``(n_frames, *fov)`` and
``read(start, stop)``. It is small and may be sent to other processes. What is read: docs/movies.md.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PureWindowsPath

from actsort_core import _movie_files as files
from actsort_core import _movie_stores as stores
from actsort_core._movie_axes import FileMovie
from actsort_core._movie_open import HDF5_ENDINGS, agreement, check_movie, open_movie, signature, split
from actsort_core.errors import ActsortError, MissingFileError, UsageError
from actsort_core.model import Recording

__all__ = [
    "NONE",
    "FileMovie",
    "Given",
    "agreement",
    "check_movie",
    "find_movie",
    "movie_of",
    "open_movie",
    "relocated",
    "remembered",
    "signature",
    "to_remember",
    "with_movie",
]

Given = Path | str | Sequence[Path | str] | Mapping[str, Path | str]  # a movie, several, or by recording
NONE = "none"  # said instead of a path: use no movie
_ENDINGS = (*files.TIFF_ENDINGS, *HDF5_ENDINGS, ".mmap", ".npy", ".zarr")
_MAX_BESIDE, _MAX_OPENED = 1000, 20  # files of a folder that are looked at, and opened, when a movie is looked for
_FROM_BESIDE = ("cnmfe", "extract", "actsort_matlab", "plain", "minian")  # formats that keep no path, or one that is lost when files move
_FITS, _WRONG = 0.5, 0.2  # correlation of traces with the frames under the footprints: surely this movie; surely another


# Finding


def movie_of(recording: Recording) -> FileMovie | None:
    """The movie of a recording, opened and checked; None where it has none.

    Raises
    ------
    MissingFileError, FormatError, MissingDependencyError
        It is not there any more, cannot be read, or does not fit.
    """
    if recording.movie_path is None:
        return None
    movie = open_movie(recording.movie_path, recording)
    check_movie(movie, recording)
    return movie


def find_movie(recording: Recording) -> tuple[Path | None, list[str]]:
    """Where the registered movie of a result is, and what is worth saying about it.

    First where the result says, as read by its format; then beside the result, where toolkits leave it: Suite2p's ``reg_tif``, CaImAn's
    memory maps of the same dimensions, the corrected series in an NWB file, Minian's ``varr_ref`` and ``Y_fm_chk``. For formats that do
    not say, any movie in the folder of the result that fits and whose frames go with the traces.

    Never raises for what is wrong with a movie: that is a note, and the result is worked on without it.
    """
    notes: list[str] = []
    if recording.movie_path is not None:
        said = _where_it_was(recording)
        if said is None:
            notes.append(f"The movie {recording.movie_path} is not there (any more): say where it is with --movie.")
        else:
            try:
                movie = open_movie(said, recording)
                check_movie(movie, recording)
                return said, [*notes, *movie.notes]
            except ActsortError as error:
                notes.append(f"The movie is not used. {error}")
    fitting: dict[Path, tuple[float | None, tuple[str, ...]]] = {}
    for path, sure in itertools.islice(_beside(recording), _MAX_OPENED):
        with contextlib.suppress(ActsortError):
            movie = open_movie(path, recording)
            check_movie(movie, recording)
            if sure:
                return path, [*notes, *movie.notes]
            fitting[path] = agreement(movie, recording), movie.notes
    found = [path for path, (value, _) in fitting.items() if value is not None and value >= _FITS]
    if recording.format == "caiman" and len(found) > 1:  # motion correction leaves one in F order; what was fitted is in C order
        found = [path for path in found if "_order_C_" in path.name] or found
    if len(found) == 1:
        return found[0], [*notes, f"The movie {found[0].name} beside the result fits and is used.", *fitting[found[0]][1]]
    if found:
        listed = ", ".join(path.name for path in found[:5])
        notes.append(f"Beside the result there are {len(found)} movies that fit ({listed}): say which with --movie.")
    return None, notes


def _where_it_was(recording: Recording) -> Path | None:
    """The movie's path as stored, or the file of that name beside the result; results are often moved without the movie's path."""
    stored = recording.movie_path
    assert stored is not None
    above = _above(recording)
    for path in (stored if stored.is_absolute() else above / stored, above / PureWindowsPath(str(stored)).name):
        with contextlib.suppress(ActsortError):
            if split(path)[0] != recording.path:
                return path
    return None


def _above(recording: Recording) -> Path:
    return recording.path if recording.path.is_dir() else recording.path.absolute().parent


def _beside(recording: Recording) -> Iterator[tuple[Path, bool]]:
    """Where the movie of a result may be; and whether it is one for sure if its size is right."""
    above = _above(recording)
    if recording.format == "suite2p":
        for place in ("data.bin", "reg_tif"):
            if (above / place).exists():
                yield above / place, True
    elif recording.format == "nwb":
        yield from ((recording.path / name, True) for name in _corrected_series(recording))
    elif recording.format == "caiman":
        fitting = [path for path in _listed(above) if _named_dims(path) == (recording.fov, recording.n_frames)]
        # Of the same dimensions may be two sessions: sure is only one file, or one file in both orders, of which F is read faster.
        sure = len({path.name.partition("_d1_")[0] for path in fitting}) == 1
        yield from ((path, sure) for path in sorted(fitting, key=lambda path: "_order_F_" not in path.name))
    elif recording.format == "minian":
        # save_minian's names in the pipeline of the notebook; varr_ref and Y_fm_chk are registered, varr is not.
        for folder in (above, above.parent, *(path for path in _folders(above.parent))):
            for name in ("Y_fm_chk.zarr", "Y_fm_chk", "varr_ref.zarr", "Y.zarr"):
                if (folder / name).is_dir():
                    yield folder / name, False
    if recording.format in _FROM_BESIDE:
        own = recording.path.resolve()
        for path in _listed(above):
            if path.suffix.lower() in _ENDINGS and path.resolve() != own:
                yield path, False


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())[:_MAX_BESIDE]
    except OSError:
        return []


def _folders(folder: Path) -> list[Path]:
    return [path for path in _listed(folder) if path.is_dir() and "intermediate" in path.name.lower()]


def _named_dims(path: Path) -> tuple[tuple[int, ...], int] | None:
    said = files.memory_map_dims(path)
    return None if said is None else (said[0], said[2])


def _corrected_series(recording: Recording) -> list[str]:
    """Names of the datasets of an NWB file that hold the registered movie: raw acquisitions are not taken unless somebody says so."""
    with contextlib.suppress(ActsortError):
        given = (recording.fov, recording.n_frames)
        movie = stores.hdf5(recording.path, "", given, lambda name: name.startswith("processing") and "corrected" in name.lower())
        array = movie.array
        return [array.name] if isinstance(array, stores.Hdf5Array) else []
    return []


# For recordings


def with_movie(recording: Recording) -> Recording:
    """The recording with the movie that was found for it (`find_movie`), and what is worth saying in its notes."""
    try:
        path, notes = find_movie(recording)
    except Exception as error:  # whatever is beside a result must not keep it shut
        path, notes = None, [f"Looking for the movie failed ({type(error).__name__}: {error})."]
    new = tuple(note for note in notes if note not in recording.notes)
    return recording if path == recording.movie_path and not new else _changed(recording, path, new)


def _changed(recording: Recording, path: Path | None, notes: Sequence[str] = ()) -> Recording:
    out = replace(recording, movie_path=path, notes=(*recording.notes, *notes))
    for name in ("candidate_fingerprints", "fingerprint"):  # do not depend on the movie, and take long to compute
        if name in recording.__dict__:
            out.__dict__[name] = recording.__dict__[name]
    return out


def relocated(recordings: Mapping[str, Recording], given: Given) -> dict[str, Recording]:
    """Those recordings for which a person named a movie, with it.

    Parameters
    ----------
    recordings
        By their keys in the session.
    given
        A path: of a file, or of a folder in which each recording's movie is (Suite2p's planes). Several paths: each goes to the
        recording it fits. A mapping, or words ``key=path``: by recording. ``"none"``: no movie.

    Raises
    ------
    MissingFileError, FormatError
        One does not exist, cannot be read, or does not fit; says why.
    UsageError
        A recording is named that there is not, or it cannot be told whose movie one is.
    """
    out: dict[str, Recording] = {}
    loose: list[Path] = []
    for key, value in _words(recordings, given):
        if value == NONE:
            out |= {name: _changed(recordings[name], None) for name in ([key] if key else recordings)}
        elif not key:
            loose.append(Path(value))
        elif key in recordings:
            out[key] = _given(recordings[key], Path(value))
        else:
            raise UsageError(f"There is no recording {key!r}.", f"There are: {', '.join(recordings)}.")
    for path in loose:
        fitting: dict[str, Recording] = {}
        problem: ActsortError | None = None
        for key, recording in recordings.items():
            try:
                fitting[key] = _given(recording, path)
            except ActsortError as error:
                problem = problem or error
        if not fitting:
            assert problem is not None
            raise problem
        if len(fitting) > 1 and not _is_folder_of_many(path, fitting):
            named = {key: found for key, found in fitting.items() if recordings[key].name in path.absolute().parts}
            if len(named) != 1:
                raise UsageError(
                    f"{path} fits {len(fitting)} recordings ({', '.join(fitting)}).",
                    f"Say whose it is: --movie {next(iter(fitting))}={path}",
                )
            fitting = named
        out |= fitting
    return out


def _words(recordings: Mapping[str, Recording], given: Given) -> Iterator[tuple[str, str]]:
    if isinstance(given, Mapping):
        yield from ((str(key), str(value)) for key, value in given.items())
        return
    for value in [given] if isinstance(given, str | Path) else given:
        key, sign, rest = str(value).partition("=")
        if sign and key not in recordings and not Path(value).exists() and (rest == NONE or Path(rest).exists()):
            raise UsageError(f"--movie {value}: there is no recording {key!r}.", f"There are: {', '.join(recordings)}.")
        yield (key, rest) if sign and key in recordings and not Path(value).exists() else ("", str(value))


def _is_folder_of_many(path: Path, fitting: Mapping[str, Recording]) -> bool:
    """Whether the recordings found different movies in the folder `path`."""
    return path.is_dir() and len({recording.movie_path for recording in fitting.values()}) == len(fitting)


def _given(recording: Recording, path: Path) -> Recording:
    movie = open_movie(path, recording)
    check_movie(movie, recording)
    notes = list(movie.notes)
    value = agreement(movie, recording)
    if value is not None and value < _WRONG:
        notes.append(
            f"The movie {path} has the right size, but its frames do not go with the traces (correlation {value:.2f}). "
            "Is it the registered movie of this result?"
        )
    inner = split(path)[1]
    found = movie.path if not inner else path
    return _changed(recording, found.absolute(), [note for note in notes if note not in recording.notes])


def remembered(recordings: Mapping[str, Recording], stored: Mapping[str, Mapping[str, str]], folder: Path) -> dict[str, Recording]:
    """Recordings with the movies a session remembers (see `to_remember`); where one is gone, with what was found anyway, and a note."""
    out = dict(recordings)
    for key, entry in stored.items():
        if key not in out:
            continue
        if not entry.get("path"):
            out[key] = _changed(out[key], None)
            continue
        note = ""
        for path in (Path(os.path.normpath(folder.absolute() / entry.get("relative", entry["path"]))), Path(entry["path"])):
            try:
                movie = open_movie(path, out[key])
                check_movie(movie, out[key])
                out[key], note = _changed(out[key], path, movie.notes), ""
                break
            except MissingFileError as error:
                note = note or str(error)
            except ActsortError as error:
                note = f"The movie is not used. {error}"
                break
        if note:
            found = with_movie(out[key])
            out[key] = _changed(found, found.movie_path, [note])
    return out


def to_remember(recordings: Mapping[str, Recording], folder: Path) -> dict[str, dict[str, str]]:
    """What a session keeps of the movies that were named: where they are, also as seen from its folder; an empty path for none."""
    out = {}
    for key, recording in recordings.items():
        path = recording.movie_path
        if path is None:
            out[key] = {"path": "", "relative": ""}
        else:
            out[key] = {"path": str(path), "relative": _relative(path, folder)}
    return out


def _relative(path: Path, folder: Path) -> str:
    try:
        return os.path.relpath(path, folder.absolute())
    except ValueError:  # another drive
        return str(path)
