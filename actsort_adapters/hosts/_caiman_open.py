"""Finding, or starting, the session of a live CaImAn object: the same components, evaluated since, fewer of them, or another fit's."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from actsort_adapters.hosts import _caiman_pool as pool
from actsort_core import opening, plugins, store, warm
from actsort_core.errors import ChangedError, UsageError
from actsort_core.model import Prior, Recording
from actsort_core.session import Session

KNOWN = 0.5  # share of the components that must be those of an earlier call for them to be the same recording
_KEPT = ("seed", "strategy", "classifier", "features", "threshold", "classes", "consensus", "audits")  # options that go on after a refit


def opened(
    live: Recording, apart: frozenset[str], folder: Path, reattach: bool, start: Any, options: Mapping[str, Any]
) -> tuple[Session, list[str]]:
    """The session that knows these components and everything that was said about them in earlier fits.

    Parameters
    ----------
    live
        The components CaImAn has now.
    apart
        Fingerprints of those it set aside.
    folder, reattach, start, options
        See `caiman.curate`.

    Returns
    -------
    It, open and ready to ask; and what the person should know.

    Raises
    ------
    ChangedError, UsageError, LockedError, WriteError
        See `caiman.curate`. Nothing was changed.
    """
    registered = options.get("plugins", ())
    loaded = registered if isinstance(registered, plugins.Plugins) else plugins.load(registered)
    given = {"refit_wait": opening.REFIT_WAIT, **options, "plugins": loaded, "prepare": False, "format": "caiman"}
    files = pool.files(folder)
    notes: list[str] = []
    if not files:
        _check_free(folder)
        path = folder / "fit1.hdf5"
        pool.save(replace(live, name=path.stem), path)
        return _ready(opening.open(path, warm_start=start, **given)), notes
    with ExitStack() as stack:
        earlier = {path: stack.enter_context(known) for path in files if (known := _look(path, loaded)) is not None}
        known_as = {path: next(iter(earlier[path].recordings.values())) if path in earlier else pool.read(path) for path in files}
        first_seen = {path: next(iter(earlier[path].priors.values())) if path in earlier else known_as[path].prior for path in files}
        # A session keeps the verdicts it began with. One from before CaImAn evaluated has none: the evaluated components begin another.
        usable = [path for path in files if not _evaluated_since(first_seen[path], live)]
        path = next((path for path in usable if _holds(known_as[path], live)), folder / f"fit{int(files[0].stem[3:]) + 1}.hdf5")
        if path in known_as:
            _refresh(path, known_as[path], first_seen[path], live)
        else:
            latest = files[0]
            pool.save(_grown(known_as[latest], first_seen[latest], live, apart, reattach, folder, path.stem, notes), path)
            if latest in earlier:
                given = {**{name: getattr(earlier[latest].options, name) for name in _KEPT}, **given}
                start = warm.stored_examples(earlier[latest].folder) if start is None else start
        session = opening.open(path, warm_start=start, **given)
        try:
            taken = pool.carry(session, [one for other, one in earlier.items() if other != path])
        except BaseException:
            session.close()
            raise
    if taken:
        said = ", ".join(f"{n} by {how}" for how, n in sorted(taken.items()))
        notes.append(f"{sum(taken.values())} labels given to earlier fits followed their components ({said}).")
    return _ready(session), notes


def _check_free(folder: Path) -> None:
    """Refuse a folder of something else."""
    foreign = sorted(p.name for p in folder.iterdir() if not p.name.startswith((".", "fit"))) if folder.is_dir() else []
    if foreign or folder.is_file():
        raise UsageError(
            f"{folder} holds something else ({foreign[0] if foreign else 'it is a file'}).",
            "Give the curation a folder of its own: session='...'. It is made where it does not exist.",
        )


def _ready(session: Session) -> Session:
    session.prepare()
    if session.refit_wait != 0:
        session.catch_up(opening.FIRST_FIT)
    return session


def _look(path: Path, loaded: plugins.Plugins) -> Session | None:
    """The session of a pool, to read; None where a process was killed before it was made."""
    folder = store.default_folder(path)
    if not store.is_session(folder):
        return None
    return opening.open(path, session=folder, read_only=True, prepare=False, refit_wait=0, plugins=loaded, format="caiman")


def _holds(known: Recording, live: Recording) -> bool:
    place, _ = pool.locate(live.candidate_fingerprints, known.candidate_fingerprints)
    return known.fov == live.fov and bool((place >= 0).all())


def _evaluated_since(prior: Prior, live: Recording) -> bool:
    """Whether CaImAn has verdicts of its own now, and had none when `prior` was seen."""
    return bool(live.info.get("own_verdicts")) and not prior.verdict.any()


def _refresh(path: Path, old: Recording, prior: Prior, live: Recording) -> None:
    """Put the evidence the live components have now (evaluated since?) into the pool that holds them, if it is not there already."""
    place, clear = pool.locate(live.candidate_fingerprints, old.candidate_fingerprints)
    place = np.where(clear, place, -1)
    here = np.flatnonzero(place >= 0)
    part = pool.together([(live, here)], [live.prior], live.name)
    if not len(here) or live.n_frames != old.n_frames or not pool.differs(old, part, place[here]):
        return
    rest = np.setdiff1d(np.arange(old.n_cells), place)
    both = pool.together([(part, np.arange(len(here))), (old, rest)], [Prior.undecided(len(here)), old.prior], path.stem)
    order = np.argsort(np.concatenate([place[here], rest]))  # as it was: labels are told by position, too
    new = pool.together([(both, order)], [both.prior], path.stem)
    pool.save(replace(new, prior=prior, fps=live.fps or old.fps, images={**old.images, **live.images}), path)


def _grown(
    latest: Recording,
    prior: Prior,
    live: Recording,
    apart: frozenset[str],
    reattach: bool,
    folder: Path,
    name: str,
    notes: list[str],
) -> Recording:
    """The live components, and what of the latest pool is not among them; verdicts of CaImAn as they were when first seen."""
    matched = pool.match(latest, live, apart)
    there = matched.place >= 0
    share = len(np.unique(matched.place[there])) / live.n_cells if live.n_cells else 1.0
    certain = reattach or not apart.isdisjoint(latest.candidate_fingerprints)  # what it set aside is what was rejected here
    if latest.fov != live.fov or (share < KNOWN and not certain):
        raise ChangedError(
            f"The session {folder} is about other components: {int(there.sum())} of the {live.n_cells} that CaImAn has now are among the "
            f"{latest.n_cells} it knows" + (f", and its field of view is {latest.fov}." if latest.fov != live.fov else "."),
            "Nothing was changed. Give each recording a session of its own (session='...'); if it is the same recording: reattach=True.",
        )
    same = np.flatnonzero(matched.same())
    verdict, said = live.prior.verdict.copy(), np.zeros(live.n_cells, np.int8) if live.prior.person is None else live.prior.person.copy()
    if not _evaluated_since(prior, live):
        # What CaImAn holds for components that were curated before may be our own decisions: those are no evidence.
        verdict[matched.place[same]] = prior.verdict[same]
    said[matched.place[same]] = 0
    metrics = dict(live.metrics)
    if not live.info.get("evaluated") and (new := np.setdiff1d(np.arange(live.n_cells), matched.place[same])).size and metrics:
        for key, values in metrics.items():
            values = values.copy()
            values[new] = np.nan
            metrics[key] = values
        notes.append(
            f"{len(new)} components were not evaluated since the refit: the {' and '.join(metrics)} they carry are those of the earlier "
            "fit and are left out. Run evaluate_components and call curate again for better evidence."
        )
    live = replace(live, metrics=metrics)
    parts, priors = [(live, np.arange(live.n_cells))], [Prior(verdict, live.prior.probability, said)]
    rest = np.flatnonzero(~there)
    if len(rest) and latest.n_frames != live.n_frames:
        notes.append(f"{len(rest)} components of an earlier fit are left out: it had {latest.n_frames} frames, this one {live.n_frames}.")
    elif len(rest):
        parts, priors = [*parts, (latest, rest)], [*priors, prior]
        notes.append(f"{len(rest)} components of earlier fits are gone; the model goes on learning from them.")
    return pool.together(parts, priors, name)
