"""A model of ActSort in the place of the classification step of ``run_s2p``, while it runs.

Three functions of Suite2p are wrapped and put back (0.14.6 and 1.1.0 alike): ``suite2p.classification.classify``, called by the pipeline
with nothing but ``stat`` once traces are there; ``suite2p.extraction.extraction_wrapper``, whose traces are kept until then; ``pipeline``,
for the folder and the frame rate. 0.14 classifies before it saves anything, so an error in this step would cost all of detection and
extraction: none is let through, Suite2p's own classifier decides instead, and it is said.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actsort_adapters._suite2p_plane import DEFAULT_NEUCOEFF, Corrected, as_number, live_plane
from actsort_core import batch, decide, import_sources, store
from actsort_core import plugins as plugin_module
from actsort_core.errors import ActsortError, MissingDependencyError, PluginError, UsageError
from actsort_core.features.table import compute_table, select
from actsort_core.model import CELL, NOT_CELL, UNSURE, CandidateId, Curation, Label, Predictions, Prior, Recording
from actsort_core.models import Model
from actsort_core.plugins import Plugins
from actsort_core.session import Session
from actsort_core.unlike import unlike

AFTER_THE_RUN = "Sort it after the run instead: actsort apply MODEL FOLDER"


@dataclass(frozen=True)
class Step:
    """What happened to one plane.

    Attributes
    ----------
    folder
        Where Suite2p saves it; None where it does not say.
    n_cells, accepted
        How many ROIs there are, and how many of them are cells now.
    labelled
        How many of these a person decided, in a session about the same ROIs.
    threshold
        Where the line was drawn; NaN where Suite2p decided.
    error
        Why Suite2p's own classifier decided; empty where the model did.
    warnings
        Where the plane looks unlike the recordings the model learned from.
    """

    folder: Path | None
    n_cells: int
    accepted: int
    labelled: int = 0
    threshold: float = math.nan
    error: str = ""
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        who = "Suite2p's own classifier decided" if self.error else f"cut at {self.threshold:.2f}"
        line = f"{self.folder or 'a plane'}: {self.accepted} of {self.n_cells} ROIs are cells ({who}"
        line += f", {self.labelled} as labelled)" if self.labelled else ")"
        return "\n".join([line, *([f"  {self.error}"] if self.error else []), *(f"  {warning}" for warning in self.warnings)])


@dataclass(eq=False)
class Steps:
    """What happened to each plane so far, in the order in which Suite2p came to them.

    Attributes
    ----------
    model
        Where the model comes from.
    planes
        One each.
    """

    model: str
    planes: list[Step] = field(default_factory=list)

    def __str__(self) -> str:
        return "\n".join([f"ActSort sorted with {self.model}:", *map(str, self.planes)]) if self.planes else "ActSort was not asked yet."


@dataclass
class _Plane:
    """What is known of the plane that Suite2p works on."""

    folder: Path | None = None
    fps: float | None = None
    rois: list[Any] = field(default_factory=list)
    fov: tuple[int, int] = (0, 0)
    traces: Corrected | None = None
    movie: Path | None = None

    def forget(self) -> None:
        """The next one is another plane, and traces are large."""
        self.folder, self.fps, self.rois, self.traces, self.movie = None, None, [], None, None


@contextlib.contextmanager
def classify_with(
    model: Model | Session | Path | str,
    *,
    threshold: float | str | None = None,
    favour: str | None = None,
    plugins: Plugins | None = None,
) -> Iterator[Steps]:
    """Let a model of ActSort decide, inside Suite2p's pipeline, which ROIs are cells.

    While it is entered, the classification step of ``suite2p.run_s2p`` (0.14 and 1.x) gives the model's decisions, and so ``iscell.npy``,
    ``Fall.mat`` and ``ophys.nwb`` of the run hold them. Labels that a session beside the plane has on the same ROIs stand. On the way out
    Suite2p is as it was. `preclassify` stays Suite2p's own: there are no traces yet.

    Parameters
    ----------
    model
        A saved model's folder, a session (open, its folder, or the result it belongs to), or a loaded model.
    threshold, favour
        Where the line is drawn; see :func:`actsort_core.batch.apply`.
    plugins
        Plug-ins already loaded.

    Yields
    ------
    Steps
        What happened, plane by plane; printing it tells.

    Raises
    ------
    UsageError, MissingFileError, FormatError
        There is no such model, the session has none yet, or the options cannot be meant: before anything runs.
    MissingDependencyError, PluginError
        Suite2p cannot be imported, or is not as this knows it.

    Warns
    -----
    UserWarning
        Suite2p's own classifier decided on a plane, because the model could not.
    """
    if favour is not None and (favour not in batch.FAVOUR or threshold is not None):
        raise UsageError("Favour precision or recall, and give no threshold then.")
    rule = None if threshold is None else store.parse_threshold(threshold)
    if isinstance(rule, str):
        raise UsageError(f"There are no labels here for {rule}.", "Give a probability or pi, or favour='precision'.")
    registered = plugins or plugin_module.load()
    found = batch.find(model, registered)
    cut = found.threshold if threshold is None else rule
    said = _labels_of(model, registered)
    steps = Steps(found.source)
    plane = _Plane()

    def judge(stat: Sequence[Mapping[str, Any]]) -> tuple[Step, NDArray[np.float64]]:
        recording = _recording(plane, stat)
        labels = {**(_labels_beside(plane.folder, registered) if plane.folder else {}), **said}
        return _judge(recording, found, registered, cut, favour, labels, plane.folder)

    with _replaced(plane, judge, steps):
        yield steps


# Putting it into Suite2p, and back


@contextlib.contextmanager
def _replaced(plane: _Plane, judge: Callable[[Any], tuple[Step, NDArray[np.float64]]], steps: Steps) -> Iterator[None]:
    package, classification, extraction, run = map(_module, ("", ".classification", ".extraction", ".run_s2p"))
    places = [(classification, "classify"), (extraction, "extraction_wrapper"), (run, "pipeline")]
    absent = [f"{module.__name__}.{name}" for module, name in places if not callable(getattr(module, name, None))]
    if absent:
        raise PluginError(f"This Suite2p has no {', '.join(absent)}, where ActSort would come in.", AFTER_THE_RUN)
    classify, extract, pipeline = (getattr(module, name) for module, name in places)

    def pipeline_known(*args: Any, **kwargs: Any) -> Any:
        given = _arguments(pipeline, args, kwargs)
        settings = given.get("settings") or given.get("ops") or {}
        folder, fs = given.get("save_path") or settings.get("save_path"), as_number(settings.get("fs"))
        plane.folder = Path(folder) if isinstance(folder, (str, Path)) and str(folder) else None
        plane.fps = fs if 0 < fs < math.inf else None
        try:
            return pipeline(*args, **kwargs)
        finally:
            plane.forget()

    def extraction_known(*args: Any, **kwargs: Any) -> Any:
        out = extract(*args, **kwargs)
        with contextlib.suppress(Exception):  # `classify` says what is missing
            given = _arguments(extract, args, kwargs)
            old = len(out) == 5  # 0.14 returns stat, too
            settings = given.get("ops" if old else "settings") or {}
            coefficient = settings.get("neucoeff" if old else "neuropil_coefficient", DEFAULT_NEUCOEFF)
            height, width = given["f_reg"].shape[-2:]
            plane.rois, plane.fov = list(out[0] if old else given["stat"]), (int(height), int(width))
            fluorescence, neuropil = out[1:3] if old else out[:2]
            plane.traces = Corrected(fluorescence, neuropil, float(coefficient))
            file = getattr(given["f_reg"], "filename", None)  # suite2p.io.BinaryFile; an array has none
            plane.movie = None if file is None else Path(file)
        return out

    def classify_by_model(stat: Any, classfile: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            step, table = judge(stat)
        except Exception as error:  # whatever it is, the run must not be lost to it
            ways = [lambda: classify(stat, classfile, *args, **kwargs), *_builtin(classification, classify, stat)]
            step, table = _by_suite2p(error, plane, stat, ways)
        plane.rois, plane.traces = [], None
        steps.planes.append(step)
        return table

    new = (classify_by_model, extraction_known, pipeline_known)
    everywhere = [*zip(places, new, strict=True), ((package, "pipeline"), pipeline_known)]
    before = [(module, name, getattr(module, name, None), wrapper) for (module, name), wrapper in everywhere]
    try:
        for module, name, old, wrapper in before:
            if old is not None:
                setattr(module, name, wrapper)
        yield
    finally:
        for module, name, old, wrapper in reversed(before):
            if getattr(module, name, None) is wrapper:  # else somebody else replaced it meanwhile: theirs stays
                setattr(module, name, old)


def _module(name: str) -> Any:
    try:
        return importlib.import_module(f"suite2p{name}")  # run_s2p is a module and a function of one name: this gives the module
    except ImportError as error:
        hint = "Run this in Suite2p's environment, with actsort installed there."
        raise MissingDependencyError(f"Suite2p cannot be imported ({error}).", hint) from error


def _arguments(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        bound = inspect.signature(function).bind(*args, **kwargs)
    except TypeError:  # the call itself will say so
        return {}
    bound.apply_defaults()
    return bound.arguments


def _by_suite2p(error: Exception, plane: _Plane, stat: Any, ways: Sequence[Callable[[], Any]]) -> tuple[Step, Any]:
    told = str(error) if isinstance(error, ActsortError) else f"{type(error).__name__}: {error}"
    told = f"ActSort could not decide ({told})"
    for number, way in enumerate(ways):
        try:
            table = way()
        except Exception as another:
            told += (
                f"; Suite2p's {'built-in classifier' if number else 'classifier'} could not, either ({type(another).__name__}: {another})"
            )
            continue
        break
    else:
        table = np.ones((len(stat), 2))  # as Suite2p's GUI shows what nobody judged; the traces are worth more than this step
        told += "; all ROIs count as cells"
    where = f"{plane.folder}: " if plane.folder else ""
    warnings.warn(f"{where}{told}. The run goes on. {AFTER_THE_RUN}", UserWarning, stacklevel=3)
    return Step(plane.folder, len(stat), int((np.asarray(table)[:, 0] != 0).sum()), error=f"{told}."), table


def _builtin(classification: Any, classify: Callable[..., Any], stat: Any) -> list[Callable[[], Any]]:
    file = getattr(classification, "builtin_classfile", None)
    return [] if file is None else [lambda: classify(stat, file)]


# Deciding


def _recording(plane: _Plane, stat: Sequence[Mapping[str, Any]]) -> Recording:
    traces = plane.traces
    if traces is None or len(plane.rois) != len(stat) or any(a is not b for a, b in zip(plane.rois, stat, strict=True)):
        raise PluginError("Suite2p's traces of these ROIs are not known.", "Only the pipeline's own classification is replaced.")
    if any(part.shape != (len(stat), traces.shape[1]) for part in (traces.fluorescence, traces.neuropil)):
        raise PluginError(f"Suite2p extracted {traces.shape} traces for {len(stat)} ROIs.")
    kind = f"F - {traces.coefficient:g}*Fneu"
    return live_plane(plane.folder or Path("plane"), stat, plane.fov, traces, kind, plane.fps, plane.movie)


def _judge(
    recording: Recording,
    model: Model,
    registered: Plugins,
    cut: float | None,
    favour: str | None,
    said: Mapping[str, str],
    folder: Path | None,
) -> tuple[Step, NDArray[np.float64]]:
    """As `actsort apply` decides about the same plane when it is on disk."""
    groups, warned = select(registered.features, model.features), []
    try:
        table = compute_table(recording, groups)
    except ActsortError as error:
        if recording.movie_path is None:
            raise
        table, warned = compute_table(replace(recording, movie_path=None), groups), [f"the movie cannot be used ({error})"]
    x, lacking = model.match(table)
    p = model.probability(x, recording.fingerprint)
    line = batch.line(p, cut, favour)
    key = recording.name
    ids = tuple(CandidateId(key, i) for i in range(recording.n_cells))
    labels = {c: Label(c, said[name], "") for c, name in zip(ids, recording.candidate_fingerprints, strict=True) if name in said}
    predictions = Predictions(ids, p, float(p.mean()), line, max(1, model.n_labels))
    curation: Curation = decide.curate({key: recording}, {key: Prior.undecided(len(ids))}, labels, predictions, lambda kind: kind)[key]
    warned += unlike(model, table, lacking, model.log_odds(x, recording.fingerprint))
    step = Step(folder, len(ids), int(curation.accepted.sum()), int((curation.origin == "label").sum()), line, "", tuple(warned))
    return step, np.column_stack([curation.accepted.astype(np.float64), curation.host_probability()])


def _labels_of(model: Model | Session | Path | str, registered: Plugins) -> dict[str, str]:
    """What people said in the session the model comes from: cell, not_cell or unsure by fingerprint. The run may be about the same ROIs."""
    if isinstance(model, Session):
        prints = {key: r.candidate_fingerprints for key, r in model.recordings.items()}
        return {prints[label.candidate.recording][label.candidate.index]: model.options.kind(label.value) for label in model.labels()}
    if isinstance(model, Model):
        return {}
    try:
        return _labels_in(store.find_folder(Path(model)), registered)
    except ActsortError:  # a saved model
        return {}


def _labels_beside(plane: Path, registered: Plugins) -> dict[str, str]:
    """The same of sessions of this very plane, from before the run: Suite2p leaves them alone when it runs again."""
    out: dict[str, str] = {}
    for place in (plane.parent, plane):
        folder = store.default_folder(place.absolute()) if place.is_dir() else None
        if folder is not None and store.is_session(folder):
            with contextlib.suppress(ActsortError, OSError):
                out |= _labels_in(folder, registered)
    return out


def _labels_in(folder: Path, registered: Plugins) -> dict[str, str]:
    out: dict[str, str] = {}
    for given in import_sources.read(folder, registered):
        kinds = {CELL: CELL, NOT_CELL: NOT_CELL, UNSURE: UNSURE, **given.classes}
        for said in sorted(given.said, key=lambda one: one.time):
            if said.fingerprint and said.value in kinds:
                out[said.fingerprint] = kinds[said.value]
    return out
