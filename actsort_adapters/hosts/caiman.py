"""Sorting from inside a CaImAn script or notebook: ``curate(cnm.estimates)``, right after ``evaluate_components``.

Works on the live object by its attributes; CaImAn is never imported. What people say is on disk at once (``session``), so that it survives
``select_components``, ``refit``, ``filter_components``, and the end of the kernel: call ``curate`` again with what CaImAn has then.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from actsort_adapters._caiman_write import decision_fields
from actsort_adapters.hosts._caiman_live import estimates_of, fingerprints_of, fov_of, live_recording, matrix_of, movie_of, set_aside
from actsort_adapters.hosts._caiman_open import opened as open_session
from actsort_adapters.hosts._caiman_pool import files, locate
from actsort_core import plugins, store, warm
from actsort_core.errors import CandidateError, ChangedError, UsageError
from actsort_core.model import CandidateId, Curation
from actsort_core.session import Session

_HOW_MOVIE = "images=, memory-mapped by CaImAn, or with movie='PATH'"
_open: weakref.WeakValueDictionary[Path, Curator] = weakref.WeakValueDictionary()


def curate(
    estimates: Any,
    answer: Callable[[int], Any] | None = None,
    *,
    labels: int | str | None = None,
    images: Any = None,
    fps: float | None = None,
    session: Path | str = "caiman_curation",
    reattach: bool = False,
    warm_start: warm.Given | None = None,
    **options: Any,
) -> Curator:
    """Sort the components of a live CaImAn object; sets its ``idx_components``, ``idx_components_bad``, accepted and rejected list.

    In a notebook, end a cell with it (or with what it returned): the questions appear with buttons.

    Parameters
    ----------
    estimates
        ``cnm.estimates``, or ``cnm`` (which also tells the frame rate and where the movie is). Looked at: A, C, dims; YrA, SNR_comp,
        r_values, cnn_preds, ecc, Cn, b, f, b0, the four fields, where they are.
    answer
        Called with the number of a component (0-based, as in ``estimates.C[i]``); returns ``"cell"``, ``"not_cell"``, ``"unsure"``,
        one of the session's own classes, or True, False, None.
    labels
        How many labels these components shall have in the end: a number, or a share like ``"2%"``. Goes with `answer`.
    images
        The movie ``(n_frames, *dims)`` as `evaluate_components` takes it (memory-mapped is fine), ``Yr`` ``(n_pixels, n_frames)``, or one
        picture of shape ``dims``: shown with the questions.
    fps
        Frames per second, Hz.
    session
        Folder that keeps labels and components, one for each recording. Called again with the same one, it goes on.
    reattach
        Go on although fewer than half of the components are those of the earlier call.
    warm_start
        Labelled candidates of other recordings (see `actsort_core.open`), e.g. another curation's ``fit1.hdf5.actsort``.
    **options
        As for `actsort_core.open`: ``annotator``, ``seed``, ``strategy``, ``classifier``, ``features``, ``threshold``, ``classes``...

    Returns
    -------
    Curator
        To ask on, look, and apply the decisions again.

    Raises
    ------
    UsageError
        It is no CaImAn fit, nothing was fitted yet, or an argument cannot be meant.
    ChangedError
        The session is about another recording.
    LockedError
        Another process has the session open.
    """
    if (answer is None) != (labels is None):
        raise UsageError("answer and labels go together.", "Say who answers and how many labels there shall be: curate(e, ask, labels=40).")
    found, cnm = estimates_of(estimates), estimates if hasattr(estimates, "estimates") else None
    fov = fov_of(found, images)
    movie, _ = movie_of(images, fov, np.shape(found.C)[-1])
    rate = fps if fps is not None else _rate(cnm)
    folder = Path(session).absolute()
    live = live_recording(found, images, rate, _movie_path(cnm, images), lists=not files(folder))
    if folder in _open:  # the same notebook cell once more
        _open[folder].close()
    opened, notes = open_session(live, set_aside(found, fov), folder, reattach, warm_start, options)
    curator = Curator(found, opened, movie, (*live.notes, *notes))
    _open[folder] = curator
    if answer is not None and labels is not None:
        curator.sort(answer, labels)
    else:
        curator.follow()
    return curator


def _rate(cnm: Any) -> float | None:
    """Frames per second of ``cnm.params``, None where it does not say."""
    data = getattr(getattr(cnm, "params", None), "data", None)
    try:
        rate = float(data["fr"]) if isinstance(data, Mapping) else math.nan
    except (KeyError, TypeError, ValueError):
        return None
    return rate if math.isfinite(rate) and rate > 0 else None


def _movie_path(cnm: Any, images: Any) -> Path | None:
    name = getattr(cnm, "mmap_file", None) or getattr(images, "filename", None)
    return Path(name) if isinstance(name, str | Path) and Path(name).is_file() else None


class Curator:
    """A live CaImAn object and the session that sorts it. Made by `curate`.

    Component numbers are those CaImAn has now: 0-based columns of ``estimates.A``, also after ``select_components``.

    Attributes
    ----------
    estimates
        The live object.
    session
        What was said, the model, its quality (`actsort_core.Session`). Its candidates are those of `curate`'s folder: after a refit
        more than CaImAn has.
    notes
        What the person should know.
    set_fields
        Whether the four fields of `estimates` were set.
    closed
        Whether the session was closed.
    key
        Key of the session's only recording.
    movie
        What the questions' pictures of events are taken from; or None.
    """

    def __init__(self, estimates: Any, session: Session, movie: Any = None, notes: tuple[str, ...] = ()) -> None:
        self.estimates, self.session, self.movie = estimates, session, movie
        told = (note.replace("--movie PATH", _HOW_MOVIE) for note in session.notes)
        self.notes = list(dict.fromkeys((*notes, *told)))
        self.set_fields = self.closed = False
        (self.key,) = session.recordings
        self._seen: tuple[Any, NDArray[np.int64], dict[int, int]] | None = None
        self._total = 0.0

    # ---- which is which

    @property
    def places(self) -> NDArray[np.int64]:
        """Where the components CaImAn has now are in the session, ``(n_components,)``; -1 where nobody can tell."""
        return self._places()[0]

    def place_of(self, component: int) -> int:
        """Where one component is in the session.

        Raises
        ------
        CandidateError
            There is no such component, or it cannot be told from another.
        """
        return self._id(component).index

    def _places(self) -> tuple[NDArray[np.int64], dict[int, int]]:
        """Where the components CaImAn has now are in the session (-1: nobody can tell), and the other way round."""
        matrix = self.estimates.A
        weights = matrix.data if sp.issparse(matrix) else matrix
        total = float(np.sum(weights))
        # Every step of CaImAn makes a new A; the sum is for those who write into it. Fingerprints take half a second for 10,000 components.
        if self._seen is None or self._seen[0] is not matrix or self._total != total:
            recording = self.session.recordings[self.key]
            if matrix_of(self.estimates).shape[0] != recording.footprints.shape[0]:
                raise ChangedError("cnm.estimates is of another field of view now.", "Call curate with another session.")
            place, clear = locate(fingerprints_of(self.estimates, recording.fov), recording.candidate_fingerprints)
            if new := int((place < 0).sum()):
                raise ChangedError(
                    f"{new} of the {len(place)} components of cnm.estimates are not those that were curated (a refit, a merge?).",
                    "Call curate again with the same session: labels follow their components.",
                )
            place = np.where(clear, place, -1)
            self._seen, self._total = (matrix, place, {int(p): i for i, p in enumerate(place) if p >= 0}), total
        return self._seen[1], self._seen[2]

    def _id(self, component: int) -> CandidateId:
        place, _ = self._places()
        number = int(component)
        if not 0 <= number < len(place):
            raise CandidateError(f"There is no component {component}.", f"CaImAn has 0 to {len(place) - 1}.")
        if place[number] < 0:
            raise CandidateError(
                f"Component {number} cannot be told from another with the very same footprint.", "Such components stay undecided."
            )
        return CandidateId(self.key, int(place[number]))

    # ---- asking

    def ask(self) -> int | None:
        """The component to label next; None when all are labelled. Never waits for a fit."""
        _, number = self._places()
        candidate = self.session.ask()
        for _ in self.session.candidates:  # what CaImAn no longer has teaches the model, but is asked about no more
            if candidate is None or candidate.index in number:
                break
            candidate = self.session.skip()
        return None if candidate is None else number.get(candidate.index)

    def label(self, component: int, value: Any) -> Curator:
        """Say what a component is (see `Session.label`): on disk before this returns; then the decisions are applied (`follow`)."""
        self.session.label(self._id(component), value)
        self.follow()
        return self

    def sort(self, answer: Callable[[int], Any], labels: int | str) -> Curator:
        """Ask `answer` until these components have `labels` labels, each question knowing all answers; then apply the decisions."""
        place, _ = self._places()
        goal = store.parse_labels(labels, len(place))
        while len(self.labels()) < goal:
            self.session.wait()
            stop = plugins.call_each(self.session.plugins.manager, "actsort_should_stop", session=self.session)
            component = None if stop else self.ask()
            if component is None:
                break
            self.session.label(self._id(component), answer(component))
        self.session.wait()
        self.follow()
        return self

    def cell(self) -> Curator:
        """The component that is asked about is a cell."""
        return self.answer("cell")

    def not_cell(self) -> Curator:
        """The component that is asked about is none."""
        return self.answer("not_cell")

    def unsure(self) -> Curator:
        """Nobody can say: the model decides."""
        return self.answer("unsure")

    def answer(self, value: Any) -> Curator:
        """Label the component that is asked about."""
        component = self.ask()
        return self if component is None else self.label(component, value)

    def skip(self) -> Curator:
        """Ask about another one first."""
        self.session.skip()
        return self

    def undo(self) -> Curator:
        """Take the latest label back; the decisions follow."""
        self.session.undo()
        self.follow()
        return self

    # ---- what is decided

    def labels(self) -> dict[int, str]:
        """What people said about the components CaImAn has now."""
        _, number = self._places()
        found = {number[label.candidate.index]: label.value for label in self.session.labels() if label.candidate.index in number}
        return dict(sorted(found.items()))

    def curation(self) -> Curation:
        """The decisions on the components CaImAn has now, in its order; waits for the fit that knows all labels."""
        place, number = self._places()
        whole = self.session.curations()[self.key]
        known = place >= 0

        def column(values: NDArray[Any], other: Any) -> NDArray[Any]:
            return np.where(known, values[place] if len(values) else other, other)

        votes = {number[i]: said for i, said in whole.votes.items() if i in number}
        return replace(
            whole,
            candidate_fingerprints=tuple(whole.candidate_fingerprints[p] if p >= 0 else "" for p in place),
            accepted=column(whole.accepted, False).astype(bool),
            origin=column(whole.origin, "none"),
            probability=column(whole.probability, np.nan),
            labels={number[i]: label for i, label in whole.labels.items() if i in number},
            prior_probability=None if whole.prior_probability is None else column(whole.prior_probability, np.nan),
            votes=votes,
            classes=None if whole.classes is None else column(whole.classes, ""),
        )

    def apply(self) -> Curation:
        """Set the four fields of `estimates` to the decisions, whatever was there (after ``filter_components``, say).

        Undecided components go into ``idx_components_bad`` (CaImAn loses those that are in neither) and into neither list.

        Returns
        -------
        The decisions, in the order of the components.

        Raises
        ------
        ChangedError
            CaImAn has components now that were not curated: call `curate` again.
        """
        curation = self.curation()
        for name, values in decision_fields(curation).items():
            setattr(self.estimates, name, values)
        self.set_fields = True
        return curation

    def follow(self) -> bool:
        """`apply`, as soon as a person said anything or a model was given, and nobody is left undecided; whether it did."""
        undecided = self.curation().undecided.any()
        if undecided or not (self.set_fields or self.session.fit is not None or self.session.labels()):
            return False
        self.apply()
        return True

    # ---- looks

    def __repr__(self) -> str:
        if self.closed:
            return f"<Curator, closed: {self.session.folder}>"
        curation = self.curation()
        undecided = int(curation.undecided.sum())
        line = f"{int(curation.accepted.sum())} of {curation.n_cells} components accepted"
        line += f", {undecided} undecided" if undecided else ""
        state = "set in cnm.estimates" if self.set_fields else "cnm.estimates is as it was: label more, or .apply()"
        return f"<Curator: {line}; {len(self.labels())} labelled; {state}; kept in {self.session.folder}>"

    def __str__(self) -> str:
        return "\n".join([repr(self)[1:-1], *(f"note: {note}" for note in self.notes)])

    def _repr_html_(self) -> str:
        from actsort_adapters.hosts._caiman_panel import question_html

        return question_html(self)

    def _ipython_display_(self) -> None:
        from actsort_adapters.hosts._caiman_panel import show

        show(self)

    # ---- closing

    def close(self) -> None:
        """Release the session's lock. Labels are on disk, decisions in the object."""
        self.closed = True
        self.session.close()

    def __enter__(self) -> Curator:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
