"""EXTRACT's results as a `Recording`: where they are in a file, what they hold, and the verdicts in them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actsort_adapters import _mat, _mat_stack
from actsort_adapters._mat_ciatah import EXTRACT_FILES, valid
from actsort_adapters._mat_curation import AnyFile, Stored, beside, fits, known_by_sum, stored, verdicts
from actsort_core.errors import ActsortError, FormatError
from actsort_core.model import Prior, Recording

FOOTPRINTS = ("spatial_weights", "filters", "spatialWeights")  # as ActSort's parse_extract_output.m looks for them
TRACES = ("temporal_weights", "traces")
USER, FINAL, MACHINE = "user_labels", "labels", "extract_labels"  # what cell_check.m saves; only USER it reads again
_ACTSORT = {"snapshots", "cellBoundaries", "spikeIdxs"}  # a precomputed file has spatial_weights and traces, too
_FIRST = ("output", "extractAnalysisOutput")
_FOREIGN = {
    "precomputedOutput": "ActSort's precomputed file",
    "neuron": "CNMF-E's results",
    "results": "CNMF-E's results",
    "ms": "MiniscopeAnalysis' results",
    "cnmfeAnalysisOutput": "ciatah's CNMF-E results",
}
DENDRITE, CLEARED = 2, -2  # cell_check's further codes: "dendrite", and "unlabeled" pressed by hand
# get_quality_metric_map.m: the rows of info.cellcheck.metrics
METRICS = (
    *("T_maxval", "T_corruption", "T_max_corr", "S_area_1", "S_smooth_area_1", "S_area_2", "S_smooth_area_2", "S_max_corr"),
    *("S_corruption", "S_eccent", "S_circularity", *(f"ST{k}_index_{i}" for k in (1, 2, 3) for i in (1, 2, 3, 4, 5))),
    *("ST_corr_1", "ST_corr_2", "ST_corr_3", "T_dup_val"),
)
IMAGES = {"summary_image": "info.summary_image", "max_image": "info.max_image", "F_per_pixel": "info.F_per_pixel"}


@dataclass(frozen=True)
class Place:
    """Where in a file the results are: the struct (``""`` for variables of their own), and the names of the two arrays."""

    variable: str
    footprints: str
    traces: str

    def __str__(self) -> str:
        where = f"the struct {self.variable!r}" if self.variable else "variables"
        return f"{where} with {self.footprints} and {self.traces}"


def places(file: AnyFile) -> Iterator[Place]:
    """Everywhere in `file` where results are, the most likely first."""
    names = file.names
    for variable in ["", *sorted(names, key=lambda n: (_FIRST.index(n) if n in _FIRST else len(_FIRST), n))]:
        head = file.head(variable) if variable else None
        fields = set(head.fields() if head is not None and not head.opaque else ()) if variable else set(names)
        place = _place(variable, fields)
        if place is not None and (variable or _agree(file, place)):
            yield place


def _place(variable: str, fields: set[str]) -> Place | None:
    if fields & _ACTSORT:
        return None
    footprints = next((name for name in FOOTPRINTS if name in fields), None)
    traces = next((name for name in TRACES if name in fields), None)
    return Place(variable, footprints, traces) if footprints and traces else None


def _agree(file: AnyFile, place: Place) -> bool:
    """Whether variables of these names go together: "traces" may be anybody's."""
    traces, stack = file.head(place.traces), file.head(place.footprints)
    if traces is None or stack is None or len(traces.shape) != 2 or {traces.kind, stack.kind} & {"char", "struct", "cell"}:
        return False
    return stack.opaque or stack.shape[-1] in traces.shape or 1 in traces.shape


def hint(file: AnyFile) -> str:
    """What a file without EXTRACT's results looks like instead, as a clause."""
    for name in file.names:
        if name in _FOREIGN:
            return f"a MATLAB file that looks like {_FOREIGN[name]}"
    shown = ", ".join(file.names[:5]) or "nothing"
    return f"a MATLAB file without EXTRACT's spatial_weights and temporal_weights (it holds {shown})"


def only(file: AnyFile) -> Place:
    """The place of the results.

    Raises
    ------
    FormatError
        There is none.
    """
    found = next(places(file), None)
    if found is None:
        raise FormatError(f"{file.path} is {hint(file)}.", "EXTRACT's results have both, in a struct called output.")
    return found


class Source:
    """The results in an open file: their fields by name, wherever they are."""

    def __init__(self, file: AnyFile, place: Place) -> None:
        self.file, self.place = file, place
        self._top: Any = file.variable(place.variable) if place.variable else None

    def get(self, path: str) -> Any:
        """A field (``"info.version"`` goes deeper), or None."""
        first, _, rest = path.partition(".")
        found: Any = self._top.field(first) if self._top is not None else self.file.variable(first)
        for name in filter(None, rest.split(".")):
            found = found.field(name) if found is not None and not found.opaque else None
        return found

    def row(self, path: str, n_cells: int) -> NDArray[np.float64] | None:
        """A number per candidate, or None; a field that is there and something else is None, too."""
        try:
            return _mat_stack.row(self.get(path), n_cells)
        except FormatError:
            return None

    def image_shape(self) -> tuple[int, ...] | None:
        """Shape of the first image, None where there is none."""
        found = (self.get(path) for path in IMAGES.values())
        return next((node.shape for node in found if node is not None and len(node.shape) == 2 and min(node.shape) > 0), None)


def recording(path: Path, source: Source, format_name: str) -> Recording:
    """Read what `source` points at; see ``ExtractFormat.read``."""
    notes: list[str] = []
    place = source.place
    footprints, fov, sums = _mat_stack.footprints(source.file, source.get(place.footprints), source.image_shape(), notes)
    n_cells = int(footprints.shape[1])
    traces = _mat_stack.traces(source.get(place.traces), n_cells, 1 if place.traces == TRACES[0] else 0, notes)
    others = [str(other) for other in places(source.file) if other != place]
    if others:
        notes.append(f"The file also holds {', '.join(others)}; {place} is used.")
    images: dict[str, NDArray[np.float32]] = {}
    for name, where in IMAGES.items():
        try:
            images |= _mat_stack.images({name: source.get(where)}, fov)
        except FormatError as error:
            notes.append(f"Left out: {error.what}")
    theirs = said(source, n_cells)
    if (ours := stored(source.file)) is not None and len(ours.label) == n_cells:
        theirs = np.where(theirs == ours.label, 0, theirs)
    if count := len(classes(theirs)):
        notes.append(
            f"{count} labels of a person (user_labels) are in the file: they count as its verdict; to have them as labels: "
            f"actsort import-labels SESSION {path.name}"
        )
    rate = _mat.number(source.get("info.fps"))
    version = source.get("info.version")
    return Recording(
        name=path.stem or path.name,
        path=path,
        format=format_name,
        fov=fov,
        footprints=footprints,
        traces=traces,
        trace_kind=place.traces,
        fps=rate if np.isfinite(rate) and rate > 0 else None,
        prior=prior(source, n_cells, sums, notes),
        metrics=_metrics(source, n_cells, notes),
        images=images,
        info={
            "tool": "EXTRACT",
            "version": (version.text() if version is not None and not version.opaque else None) or "",
            "variable": place.variable,
            "matlab": source.file.version,
            "sparse": bool(getattr(source.get(place.footprints), "opaque", False)),
        },
        notes=tuple(notes),
    )


def _metrics(source: Source, n_cells: int, notes: list[str]) -> dict[str, NDArray[np.float64]]:
    """EXTRACT's statistics of the last check, candidates in columns; not is_attr_bad, which is its verdict on each."""
    node = source.get("info.cellcheck.metrics")
    if node is None or node.opaque or not n_cells:
        return {}
    if node.kind not in ("double", "single") or node.shape != (len(METRICS), n_cells):
        notes.append(f"info.cellcheck.metrics has the shape {node.shape} for {n_cells} candidates: it is left out.")
        return {}
    values = np.asarray(node.array(), np.float64)
    return {name: row.copy() for name, row in zip(METRICS, values, strict=True) if np.isfinite(row).any()}


# Verdicts


def codes(labels: NDArray[np.float64]) -> NDArray[np.int8]:
    """Verdicts from cell_check's codes: a dendrite (2) is neither a cell nor not one, -2 was set back by hand."""
    return np.where(labels == 1, 1, np.where(labels == -1, -1, 0)).astype(np.int8)


def prior(source: Source, n_cells: int, sums: NDArray[np.float64], notes: list[str]) -> Prior:
    """The first that is there: labels (the final ones), user_labels, extract_labels, ciatah's; else what EXTRACT called bad."""
    ours = stored(source.file)
    rows = {name: source.row(name, n_cells) for name in (FINAL, USER, MACHINE)}
    if (other := beside(source.file)) is not None and other.is_file():
        try:
            with _mat.opened(other) as decisions:
                ours = stored(decisions) or ours
                if (theirs := _mat_stack.row(decisions.variable(FINAL), n_cells)) is not None:
                    rows = {FINAL: theirs, USER: _mat_stack.row(decisions.variable(USER), n_cells), MACHINE: None}
        except ActsortError as error:
            notes.append(f"Left out: {error.what}")
    if ours is not None and len(sums) and not fits(ours, sums):
        again = known_by_sum(ours, sums)
        notes.append(
            f"The decisions in the file (curation, labels) were made for {len(ours.sums)} candidates in another order or number: "
            f"{int((again.verdict != 0).sum())} of the {len(sums)} here were recognised by their footprints."
        )
        return again
    for name in (FINAL, USER, MACHINE):
        labels = rows[name]
        if labels is None:
            node = source.get(name)
            if node is not None and n_cells:
                notes.append(f"{name} has the shape {node.shape} for {n_cells} candidates: it is ignored.")
            continue
        verdict = codes(labels)
        if dendrites := int((labels == DENDRITE).sum()):
            notes.append(f"{dendrites} candidates are labelled as dendrites (2 in {name}): they count as undecided.")
        person = rows[USER]
        return verdicts(verdict, _probability(ours, verdict), None if person is None else codes(person))
    if (sorted_ := valid(source.file, n_cells, EXTRACT_FILES, notes)) is not None:
        return verdicts(sorted_, person=sorted_)
    bad = source.row("info.cellcheck.is_bad", n_cells)
    return verdicts(np.where(bad > 0, -1, 0)) if bad is not None else Prior.undecided(n_cells)


def _probability(ours: Stored | None, verdict: NDArray[np.int8]) -> NDArray[np.float64] | None:
    """Our probabilities, where the verdict is still ours."""
    if ours is None or len(ours.prob) != len(verdict):
        return None
    return np.where(ours.accepted == (verdict > 0), ours.prob, np.nan)


def said(source: Source, n_cells: int) -> NDArray[np.float64]:
    """``user_labels``, zeros where there are none."""
    found = source.row(USER, n_cells)
    return np.zeros(n_cells) if found is None else np.nan_to_num(found)


def classes(labels: NDArray[np.float64]) -> dict[int, str]:
    """What a person said, by index, from codes."""
    names = {1.0: "cell", -1.0: "not_cell", float(DENDRITE): "dendrite"}
    return {int(i): names[float(labels[i])] for i in np.flatnonzero(np.isin(labels, list(names)))}
