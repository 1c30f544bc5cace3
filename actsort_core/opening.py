"""Opening results and sessions: paths in, a `Session` out."""

from __future__ import annotations

import getpass
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from actsort_core import movies, store, strategies, warm, writeback
from actsort_core import plugins as plugin_module
from actsort_core import reattach as changed
from actsort_core.classes import Further, check
from actsort_core.errors import ChangedError, MissingFileError, UsageError, WriteError
from actsort_core.executors import Execution
from actsort_core.features.table import Progress
from actsort_core.formats import find_format, read_with
from actsort_core.journal import Journal
from actsort_core.model import Recording
from actsort_core.people import parse_consensus, parse_overlap
from actsort_core.plugins import Plugins
from actsort_core.session import Session
from actsort_core.store import Options, Source

FIRST_FIT = 5.0  # seconds that opening may wait for the first fit on labels given earlier
REFIT_WAIT = 0.04  # seconds: what a label may wait for the fit it causes, so that the next question is out within 50 ms


def read(
    path: Path | str, format: str | None = None, plugins: Plugins | None = None, movie: movies.Given | None = None
) -> tuple[Recording, ...]:
    """Read a native result without starting a session.

    Parameters
    ----------
    path
        File or folder.
    format
        Name of its format, if it shall not be found out.
    plugins
        Plug-ins already loaded.
    movie
        Where the registered movie is, if it is not where the toolkit left it (see `movies.relocated`).

    Raises
    ------
    MissingFileError, UnknownFormatError, FormatError
        Nothing is there, no format knows it, or it cannot be read.
    """
    found = find_format(Path(path), (plugins or plugin_module.load()).formats, format)
    recordings = {recording.name: recording for recording in read_with(found, Path(path))}
    named = movies.relocated(recordings, movie) if movie is not None else {}
    return tuple(named[name] if name in named else movies.with_movie(recording) for name, recording in recordings.items())


def as_remembered(recording: Recording, folder: Path) -> Recording:
    """The recording with the movie that the session in `folder` remembers for it, if there is such a session."""
    if not store.is_session(folder):
        return recording
    stored = store.stored_options(store.read_document(folder)).movies
    return movies.remembered({recording.name: recording}, stored, folder)[recording.name]


def open(
    *paths: Path | str,
    session: Path | str | None = None,
    annotator: str | None = None,
    seed: int | None = None,
    strategy: str | None = None,
    classifier: str | None = None,
    features: Sequence[str] | None = None,
    threshold: float | str | None = None,
    classes: Mapping[str, str] | None = None,
    consensus: str | None = None,
    overlap: float | str = 0.0,
    audits: bool | None = None,
    warm_start: warm.Given | None = None,
    format: str | None = None,
    movie: movies.Given | None = None,
    reattach: bool | None = None,
    plugins: Iterable[object] | Plugins = (),
    read_only: bool = False,
    refit_wait: float | None = REFIT_WAIT,
    prepare: bool = True,
    progress: Progress | None = None,
    execution: Execution | None = None,
) -> Session:
    """Open results, or resume the session that was started on them.

    Parameters
    ----------
    *paths
        Native results (files or folders), or one session folder to resume.
    session
        Folder of the session; by default beside the (first) result.
    annotator
        Who labels; by default the login name.
    seed, strategy, classifier, features, threshold, classes, consensus, audits
        See `store.Options`; what is not given stays as it was, or takes its default. A threshold of ``"pi"`` is the default.
    overlap
        Share of the questions (0 to 1, or ``"20%"``) that are about candidates others labelled, so that agreement can be seen.
    warm_start
        Labelled candidates from elsewhere to learn from beside the labels given here: examples, or one or several paths (see
        `warm.read_examples`). They are kept with the session; ``"none"`` drops those it has.
    format
        Name of the format of all paths, if it shall not be found out.
    movie
        Where the registered movie is, if it is not where the toolkit left it: a file, a folder, several, or by recording; ``"none"``: work
        without (see `movies.relocated`). Kept with the session.
    reattach
        What to do where a result changed since the session knew it (candidates merged, re-ordered, added, dropped). None: labels follow
        their candidates by footprint where most of them are still there, and the session's ``reattached`` says what was found;
        otherwise it is refused. True: also where few are. False: never. No label is deleted: those without a candidate wait.
    plugins
        Further plug-ins (modules or objects with hooks), besides the installed ones; or plug-ins already loaded.
    read_only
        Take no lock and write no event (another process may be labelling).
    refit_wait
        Seconds a label may wait for the fit it causes: 0 never, None until it is done.
    prepare
        Compute the features now; otherwise with the first fit.
    progress
        Called while features are computed, with a name, how much is done and of how much.
    execution
        Who works on movies (threads, processes, a dask cluster), and with how much memory.

    Raises
    ------
    MissingFileError, FormatError
        A path does not exist or cannot be read; the message says who tried and why not.
    LockedError
        The session is open in another process.
    ChangedError
        A result is not the one the session's labels were given to, and they cannot follow safely; says what differs.
    """
    given = [Path(path) for path in paths]
    if len(given) == 1 and store.is_session(given[0]) and session is None:
        given, session = [], given[0]
    if not given and session is None:
        raise UsageError("Nothing to open.", "Pass the path of a result, or of a session.")
    registered = plugins if isinstance(plugins, Plugins) else plugin_module.load(plugins)
    if given:
        located = [(path, format) for path in given]
    else:
        assert session is not None
        folder = Path(session)
        if not store.is_session(folder):
            raise MissingFileError(f"There is no session in {folder}.", "Start one with: actsort sort PATH --session FOLDER")
        located = list(store.stored_paths(store.read_document(folder), folder))
    found = []
    for number, (path, name) in enumerate(located):
        if progress:
            progress("reading", number, len(located))
        fmt = find_format(path, registered.formats, name)
        found.append((path, fmt.name, read_with(fmt, path)))
    if progress:
        progress("reading", len(located), len(located))
    notes: list[str] = []
    if session is not None:
        folder = Path(session)
    else:  # beside the first result; a file or folder that stands for one recording shares the session of that recording
        path, _, recordings = found[0]
        folder, note = store.choose_folder(recordings[0].path if len(recordings) == 1 else path)
        notes += [note] if note else []
    document = store.read_document(folder) if store.is_session(folder) else None
    sources: Sequence[Source] = store.keyed(found)
    changes = _changes(registered, seed, strategy, classifier, features, threshold, classes, consensus)
    if audits is not None:
        changes["audits"] = audits
    shared = parse_overlap(overlap)
    if read_only and warm_start is not None:
        raise UsageError("A read-only session cannot be given a warm start.", "Open it without read_only.")
    start = None if warm_start is None else warm.gather(warm_start, registered)  # before anything is made: paths may be mistyped
    matched = changed.match(document, sources) if document is not None else None
    sources = matched.sources if matched is not None else sources
    named = movies.relocated(store.recordings_of(sources), movie) if movie is not None else {}
    if document is not None and matched is not None:
        priors, changes_in = matched.priors, matched.changes
        old = store.stored_options(document)
        if isinstance(classes, Further):
            changes["classes"] = {**old.classes, **classes}
        options, created = replace(old, **changes), str(document.get("created", ""))
    else:
        if read_only:
            raise MissingFileError(f"There is no session in {folder}.", "Start one with: actsort sort PATH")
        store.check_free(folder)
        old, options, created, changes_in = None, Options(**changes), "", ()
        priors = {key: store.first_prior(source, recording, folder) for source in sources for key, recording in source.recordings.items()}
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WriteError(f"The session folder {folder} cannot be made ({error.strerror}).", "Choose another with --session.") from error
    options = replace(options, movies={**options.movies, **movies.to_remember(named, folder)})
    sources = _with_movies(sources, named, options, folder)
    journal = Journal(folder, read_only)
    warm_before: Mapping[Path, bytes | None] = {}
    try:
        if broken := writeback.interrupted(journal):
            notes.append(f"A write-back was interrupted ({', '.join(broken)}): run 'actsort write' again, or 'actsort restore'.")
        if reattach:
            sources = changed.adopt(journal, sources)
        told = _follow(changes_in, sources, journal, options, annotator or _login(), document, reattach)
        out = Session(
            folder, sources, priors, options, journal, registered, annotator or _login(), refit_wait, created=created, notes=notes
        )
        # Without changes the document is left alone, but for paths that moved; a read-only session writes nothing.
        moved = document is not None and [p.absolute() for p, _ in located] != [Path(row["path"]) for row in document["sources"]]
        if not read_only and (options != old or moved or told or reattach):
            store.write_document(folder, sources, priors, options, created)
        if start is not None:
            warm_before = warm.keep(folder, start)
        out.is_new, out.reattached = document is None, told
        out.notes += told or ([changed.waiting_note(out.waiting)] if out.waiting else [])
        out.overlap, out.execution = shared, execution
        plugin_module.call_each(registered.manager, "actsort_session_opened", session=out)
        if prepare:
            out.prepare(progress)
            if refit_wait != 0:  # resumed: the first question should come from the model, not from chance
                out.catch_up(FIRST_FIT)
    except BaseException:
        warm.put_back(warm_before)
        journal.close()
        if start is not None and document is None and not journal.events:
            store.remove(folder)  # a warm start that does not fit would be in the way of the right one
        raise
    return out


def _with_movies(sources: Sequence[Source], named: Mapping[str, Recording], options: Options, folder: Path) -> tuple[Source, ...]:
    """Give each recording its movie: the one named now, the one the session remembers, or else what is found."""
    recordings = {key: r if key in options.movies else movies.with_movie(r) for key, r in store.recordings_of(sources).items()}
    recordings = {**movies.remembered(recordings, options.movies, folder), **named}
    return tuple(replace(source, recordings={key: recordings[key] for key in source.recordings}) for source in sources)


def _follow(
    changes: Sequence[changed.Change],
    sources: Sequence[Source],
    journal: Journal,
    options: Options,
    who: str,
    document: Mapping[str, Any] | None,
    wanted: bool | None,
) -> tuple[str, ...]:
    """Let labels follow their candidates in results that changed, where that may be done; what was found, as sentences.

    The journal receives an event first, the document what is there now after it: a process killed in between does it again.

    Raises
    ------
    ChangedError
        It may not be done; says what differs.
    """
    if not changes:
        return ()
    verdicts = changed.judge(changes, journal.events, changed.present(sources))
    if wanted is False or not all(v.possible if wanted else v.safe for v in verdicts):
        raise changed.refuse(verdicts)
    changed.check_labels(journal, sources, options)
    if not journal.read_only:
        if store.read_document(journal.path.parent) != document:  # before the lock was had, another process may have been at it
            raise ChangedError(f"The session {journal.path.parent} was changed by another process just now.", "Open it again.")
        results = [recording.path for source in sources for recording in source.recordings.values()]
        files = writeback.outdated(journal, journal.path.parent, [change.path for change in changes], results)
        journal.append("reattached", annotator=who, forced=bool(wanted), recordings=[v.document() for v in verdicts], files=files)
    return tuple(map(str, verdicts))


def _login() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container without a password database
        return "unknown"


def _changes(
    registered: Plugins,
    seed: int | None,
    strategy: str | None,
    classifier: str | None,
    features: Sequence[str] | None,
    threshold: float | str | None,
    classes: Mapping[str, str] | None,
    consensus: str | None,
) -> dict[str, Any]:
    """The options that were given, checked."""
    changes: dict[str, Any] = {}
    if seed is not None:
        if seed < 0:
            raise UsageError(f"A seed is a whole number from 0, not {seed}.")
        changes["seed"] = seed
    if strategy is not None:
        changes["strategy"] = strategies.find(registered.strategies, strategy).name
    if classifier is not None:
        changes["classifier"] = registered.classifiers[classifier].name
    if features is not None:
        changes["features"] = tuple(features)
    if threshold is not None:
        changes["threshold"] = store.parse_threshold(threshold)
    if classes is not None:
        changes["classes"] = check(classes)
    if consensus is not None:
        changes["consensus"] = parse_consensus(consensus)
    return changes
