"""The learning part of a session: features, fits in the background, what the model says."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from actsort_core import appraise, audits, calibration, engine, learn, operating, plugins, store, strategies, transfer, warm
from actsort_core import quality as estimates
from actsort_core.clips import Clip, ClipReader, Clips, has_clips
from actsort_core.errors import ActsortError, FormatError, MissingFileError, PluginError, PluginWarning, UsageError, WriteError
from actsort_core.executors import Execution
from actsort_core.features.table import FeatureTable, Progress, cached_table, without_movie
from actsort_core.model import CELL, NOT_CELL, CandidateId, Label, Predictions, Prior, Recording
from actsort_core.store import CLIPS, Options

if TYPE_CHECKING:
    import threading

    from actsort_core.features import FeatureGroup
    from actsort_core.journal import Journal
    from actsort_core.refit import Refitter


def table_of(
    recording: Recording,
    groups: Sequence[FeatureGroup],
    folder: Path,
    stem: Path,
    progress: Progress | None = None,
    execution: Execution | None = None,
    clips: bool = True,
) -> tuple[FeatureTable, list[str]]:
    """The features of a recording; the clips for the page are made in the same pass over its movie.

    Parameters
    ----------
    recording, groups, stem, progress, execution
        As for `features.table.cached_table`.
    folder
        The session's: where the clips are kept.
    clips
        Whether to make clips, if there is a movie.

    Returns
    -------
    table, notes
        The notes say what went wrong with the clips, and what a recording without a movie lacks.
    """
    path = folder / CLIPS
    readers = (ClipReader(path),) if clips and recording.movie_path is not None else ()
    notes = []
    try:
        table = cached_table(recording, groups, stem, progress, execution, readers, bool(readers) and not has_clips(path, recording))
    except (WriteError, OSError) as error:  # what was read of the movie is kept: it is not read again
        if not readers or isinstance(error, MissingFileError):
            raise
        notes.append(f"The clips could not be kept. {error}")
        table = cached_table(recording, groups, stem, progress, execution)
    lacking = without_movie(groups, table)
    return table, [*notes, lacking] if lacking else notes


class Learning:
    """What a session learns (mixed into `session.Session`).

    Attributes
    ----------
    feature_names
        Of the table that is learned from.
    execution
        Who works on movies, and with how much memory; None for the default (`executors.Execution`).
    """

    feature_names: tuple[str, ...] = ()
    _setup: engine.Setup | None = None
    _turn: engine.Turn | None = None  # until the first one is done
    _fit_error: Exception | None = None
    _prepared = _closed = False
    _moves = 0  # fits done and thresholds set
    execution: Execution | None = None
    _clips: Clips | None = None
    _appraised: tuple[engine.Turn, calibration.Evidence, calibration.Calibration] | None = None

    if TYPE_CHECKING:
        folder: Path
        _change: threading.RLock
        recordings: dict[str, Recording]
        priors: dict[str, Prior]
        options: Options
        journal: Journal
        plugins: plugins.Plugins
        notes: list[str]
        candidates: tuple[CandidateId, ...]
        _tables: dict[str, FeatureTable]
        _groups: tuple[FeatureGroup, ...]
        _strategy: strategies.Strategy
        _classifier: learn.ClassifierSpec
        _rank: NDArray[np.int64]
        _current: dict[CandidateId, Label]
        _labelled: NDArray[np.bool_]
        _position: dict[CandidateId, int]
        _refitter: Refitter[engine.Known, engine.Turn]

        def _key(self, recording: str | None) -> str: ...
        def id(self, candidate: CandidateId | tuple[str, int] | int) -> CandidateId: ...  # noqa: D102 - session.Session's
        def _save_options(self, **changes: Any) -> None: ...

    def prepare(self, progress: Progress | None = None) -> None:
        """Compute (or load) the features and start the first fit, so that labelling never has to wait for them.

        Parameters
        ----------
        progress
            Called with what is computed, how much is done and of how much.
        """
        self._matrix(progress)
        self._classifier.make()  # imports what it needs now, not between two labels
        self._prepared = True
        nothing = np.zeros(0, np.int64)
        try:  # an order to ask in until the first fit is done
            self._turn = self._run(engine.Known(nothing, nothing.astype(np.int8), self._labelled.copy()))
        except PluginError as error:
            self._failed(error)
        self._request()

    def _matrix(self, progress: Progress | None = None) -> NDArray[np.float32]:
        return self._set_up(progress).x

    def _set_up(self, progress: Progress | None = None) -> engine.Setup:
        """What the engine needs, computed once."""
        if self._setup is None:
            for key, recording in self.recordings.items():
                stem = self.folder / "features" / key.replace("/", "_")
                # The verdict as it was first opened: re-read after a write of ours it would be our own decision.
                first = replace(recording, prior=self.priors[key])
                read_only = self.journal.read_only
                self._tables[key], told = table_of(first, self._groups, self.folder, stem, progress, self.execution, not read_only)
                self.notes += [note if len(self.recordings) == 1 else f"{key}: {note}" for note in told]
            self.feature_names, x = learn.stack([(t.names, t.values) for t in self._tables.values()])
            bounds = np.cumsum([0, *(r.n_cells for r in self.recordings.values())])
            wanted = self.options.audits
            self._setup = engine.Setup(
                x,
                bounds,
                self._rank,
                self._classifier,
                self._strategy,
                self.plugins.strategies,
                audits=len(x) >= audits.ENOUGH and self._strategy.audits if wanted is None else wanted,
                seed=self.options.seed,
                warm=self._warm_start(),
            )
        return self._setup

    def _warm_start(self) -> transfer.Warm | None:
        """The examples kept with the session, in the columns of its table."""
        examples = warm.stored_examples(self.folder)
        if examples is None or not self._classifier.engine:
            return None
        versions = {name: version for table in self._tables.values() for name, version in zip(table.names, table.versions, strict=True)}
        found, note = transfer.prepare(examples, self.feature_names, versions)
        self.notes += [note] if note else []
        return found

    def features(self, recording: str | None = None) -> FeatureTable:
        """The feature table of one recording (its key may be left out where there is only one)."""
        self._matrix()
        return self._tables[self._key(recording)]

    def clip(self, candidate: CandidateId | tuple[str, int] | int) -> Clip | None:
        """What the movie shows of a candidate (see `clips.Clip`), also where the movie is not any more.

        Clips are made with the features; None where there are none: no movie, no event, no footprint. Several threads may ask.

        Raises
        ------
        CandidateError
            No such candidate.
        FormatError
            ``clips.h5`` is damaged.
        """
        found = self.id(candidate)
        clips = self._open_clips()
        return None if clips is None else clips.read(self.recordings[found.recording], found.index)

    def has_clips(self, recording: str | None = None) -> bool:
        """Whether there are clips of a recording (its key may be left out where there is only one); False where they are damaged."""
        try:
            clips = self._open_clips()
            return clips is not None and self.recordings[self._key(recording)].fingerprint in clips.recordings()
        except FormatError:
            return False

    def _open_clips(self) -> Clips | None:
        self._matrix()
        if self._clips is None:
            with self._change:
                if self._clips is None and not self._closed and (self.folder / CLIPS).is_file():
                    self._clips = Clips(self.folder / CLIPS)
        return self._clips

    def _targets(self) -> tuple[NDArray[np.int64], NDArray[np.int8]]:
        counts = {CELL: 1, NOT_CELL: 0}
        kind = self.options.kind
        pairs = [(self._position[c], counts[k]) for c, label in self._current.items() if (k := kind(label.value)) in counts]
        pairs.sort()  # the same labels give the same fit, in whatever order they came
        array = np.array(pairs, np.int64).reshape(-1, 2)
        return array[:, 0], array[:, 1].astype(np.int8)

    def _request(self) -> None:
        if not self._prepared:  # somebody only wants to undo, or to look: the first `wait` catches up
            return
        rows, y = self._targets()
        reasons = [label.reason for label in self._current.values()]
        audited = reasons.count("audit")
        seq = self.journal.events[-1]["seq"] if self.journal.events else 0
        known = engine.Known(rows, y, self._labelled.copy(), reasons.count("active") + audited, audited, seq=seq, threshold=self._cut())
        self._refitter.submit(known)

    def _cut(self) -> float | None:
        """The threshold, where it is a number."""
        return self.options.threshold if isinstance(self.options.threshold, float) else None

    def _run(self, known: engine.Known) -> engine.Turn:
        return engine.turn(self._set_up(), known, None if self._turn is None else self._turn.fit)

    @property
    def revision(self) -> int:
        """Grows with every event, every fit and every move of the threshold."""
        with self._change:  # not between an event and its effect
            return len(self.journal.events) + self._moves

    def _ran(self, turn: engine.Turn) -> None:
        self._turn, self._fit_error = turn, None
        self._moves += 1
        if turn.note and turn.note not in self.notes:
            self.notes.append(turn.note)
        if turn.fit is not None and not self._closed and self.plugins.manager.hook.actsort_model_fitted.get_hookimpls():
            plugins.call_each(self.plugins.manager, "actsort_model_fitted", session=self, predictions=self.predictions())

    def _failed(self, error: Exception) -> None:
        self._fit_error = error
        warnings.warn(f"Fitting failed ({type(error).__name__}: {error}); the last fit stays in use.", PluginWarning, stacklevel=2)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the model knows every label; False when `timeout` seconds were not enough.

        Raises
        ------
        PluginError
            The last fit failed.
        """
        if not self._prepared:
            self.prepare()
        done = self._refitter.wait(timeout)
        error = self._fit_error
        if done and isinstance(error, ActsortError):
            raise PluginError(error.what, f"Your labels are safe. {error.hint}") from error
        if done and error is not None:
            raise PluginError(
                f"Classifier {self._classifier.name!r} failed ({type(error).__name__}: {error}).",
                "Your labels are safe. Choose another with --classifier.",
            ) from error
        return done

    def catch_up(self, timeout: float) -> None:
        """Give the fit on the labels there are `timeout` seconds; what it raises is heard by the next `wait`."""
        if self._prepared and self._current:
            self._refitter.wait(timeout)

    @property
    def fitting(self) -> bool:
        """Whether a fit is running or asked for."""
        return self._prepared and not self._refitter.wait(0)

    @property
    def fit(self) -> learn.Fit | None:
        """The latest fit, None before there is one."""
        return None if self._turn is None else self._turn.fit

    def predictions(self) -> Predictions:
        """What the model says of every candidate; ``n_labels`` tells how many labels it knew. Does not wait for a fit.

        The default engine's probabilities are calibrated (`calibration`).
        """
        turn = self._turn
        fit = None if turn is None else turn.fit
        if turn is None or fit is None:
            return Predictions(self.candidates, np.full(len(self.candidates), np.nan), math.nan, math.nan, 0)
        if not self._classifier.engine:
            wanted = self._cut()
            if isinstance(self.options.threshold, str):
                note = f"The threshold {self.options.threshold} needs the classifier l1_adaptive: the line is drawn at pi."
                self.notes += [note] if note not in self.notes else []
            lines = fit.shares if wanted is None else np.full(len(fit.shares), wanted)
            p = fit.probability.astype(np.float64)
            accepted = p > np.repeat(lines, np.diff(fit.bounds))
        else:
            evidence, calibrated = self._appraise(turn)
            cut = self._line(turn)
            lines = np.array([float(calibrated.at(cut[i : i + 1], i)[0]) for i in range(len(cut))])
            accepted = np.asarray(evidence.d > np.repeat(cut, np.diff(fit.bounds)))
            each = np.repeat(lines, np.diff(fit.bounds))
            # Tables of float32 may put a candidate next to the line upon it: the probability follows the decision.
            p = calibrated.probability(evidence.d).astype(np.float64)
            p = np.where(accepted, np.maximum(p, np.nextafter(each, 1)), np.minimum(p, each))
        thresholds = dict(zip(self.recordings, lines.tolist(), strict=True))
        same = len(set(thresholds.values())) <= 1
        return Predictions(
            self.candidates, p, float(p.mean()) if len(p) else math.nan, lines[0] if same else math.nan, fit.n_labels, accepted, thresholds
        )

    # ---- how good it is

    def _appraise(self, turn: engine.Turn) -> tuple[calibration.Evidence, calibration.Calibration]:
        """What the quality estimate rests on after a turn; found once."""
        found = self._appraised  # another thread may look at another turn
        if found is None or found[0] is not turn:
            assert turn.fit is not None
            current = dict(self._current)
            drawn = [self._position[c] for c, label in current.items() if label.reason == "audit"]
            measured = {name for table in self._tables.values() for name in table.names}  # without the terms of few features
            familiar = calibration.read_prior().familiar(tuple(name for name in self.feature_names if name in measured))
            evidence = appraise.evidence(self._set_up(), turn.known, turn.fit, np.array(drawn, np.int64), familiar)
            found = self._appraised = (turn, evidence, calibration.calibrate(evidence))
        return found[1], found[2]

    def _line(self, turn: engine.Turn, rule: float | str | None = None) -> NDArray[np.float64]:
        """Where decisions are cut, ``(n_recordings,)`` in d: log odds minus those of pi."""
        evidence, calibrated = self._appraise(turn)
        rule = self.options.threshold if rule is None else rule
        if rule is None:
            return np.zeros(len(evidence.shares))
        labels = [self._current.get(self.candidates[i]) for i in evidence.audits]
        inclusion = [None if label is None else label.inclusion for label in labels]
        known = None if None in inclusion else np.array(inclusion, np.float64)
        found = operating.line_for(rule, evidence, calibrated, known)
        if found.note and found.note not in self.notes:
            self.notes.append(found.note)
        return found.d

    def quality(self, threshold: float | str | None = None) -> estimates.Quality:
        """How well the decisions agree with what the annotator would say, with 90 % intervals; waits for the fit on all labels.

        Parameters
        ----------
        threshold
            Another place for the line (see `store.parse_threshold`); default: the session's.

        Raises
        ------
        UsageError
            There is no model yet, or it is not the default engine's.
        """
        turn = self._appraisable()
        rule = store.parse_threshold(threshold) if threshold is not None else self.options.threshold
        evidence, calibrated = self._appraise(turn)
        line = self._line(turn, operating.PI if rule is None else rule)
        return estimates.estimate(evidence, calibrated, line)

    def read_outs(self) -> estimates.Curve:
        """Balanced accuracy, precision and recall wherever the threshold may be moved; raises as `quality` does."""
        return estimates.curve(*self._appraise(self._appraisable()))

    def _appraisable(self) -> engine.Turn:
        self.wait()
        turn = self._turn
        if turn is None or turn.fit is None:
            raise UsageError("There is no model yet, and so nothing to estimate.", "Label at least three cells and three others first.")
        if not self._classifier.engine:
            raise UsageError(
                f"The quality of the classifier {self._classifier.name!r} cannot be estimated.", "The estimate is about l1_adaptive."
            )
        return turn

    @property
    def threshold(self) -> float | str | None:
        """Where decisions are cut: a probability, a rule (`operating.RULES`), or None for pi, the estimated share of cells."""
        return self.options.threshold

    @threshold.setter
    def threshold(self, value: float | str | None) -> None:
        self._save_options(threshold=None if value is None else store.parse_threshold(value))
        self._moves += 1
