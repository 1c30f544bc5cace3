"""Precomputed files of ActSort for MATLAB as a `Recording`, and the labels its app saved beside them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actsort_adapters import _mat, _mat_stack
from actsort_adapters._mat_curation import AnyFile, Stored, fits, known_by_sum, stored, verdicts
from actsort_core.errors import ActsortError, FormatError
from actsort_core.model import Prior, Recording

OUTPUT, LABELS, SUFFIX = "precomputedOutput", "labels", "_LABELS"
EXPERT, MODEL, OVERALL = "labels_ex", "labels_ml", "labels_overall"
_NEEDED = {"spatial_weights", "traces"}
_TELLING = {"snapshots", "cellBoundaries", "spikeIdxs", "features"}
_NOISE = ("power", "frames", "events")
N_FEATURES = 76
# Our names of the published features, in their order (docs/features.md).
FEATURES = (
    *("snr", "median_residual", "n_weak_peaks", "top_decile_std", "strong_peak_interval", "weak_peak_interval", "peak_interval"),
    *("total_width", "strong_total_width", "width_std", "strong_width_std"),
    *(f"{what}_above_{level}_noise" for level in (1, 3, 10, 30, 100, 300) for what in _NOISE),
    *("power_00_05", "power_05_95", "power_50_100", "power_00_50", "power_95_100", "n_similar_traces", "peak_mass"),
    *("area_px", "n_bodies", "weight_sum", "perimeter_px", "edge_distance_px", "circularity", "elongation", "mean_weight", "roughness"),
    "max_overlap_correlation",
)
_QUANTILES = ("p01", "p25", "p50", "p75", "p99")
FROM_MOVIE = (
    *("contamination_mean", "contamination_min", "contamination_p10", "contamination_p20", "image_correlation"),
    *(f"{what}_{q}" for what in ("roi_excess", "marginal_trace", "marginal_fluorescence") for q in _QUANTILES),
    *(f"frame_match_{share:02d}" for share in range(0, 100, 10)),
)
NAMES = (*(f"published.{name}" for name in FEATURES), *(f"movie.{name}" for name in FROM_MOVIE))
# get_features.m with "fast features" leaves some out without leaving their columns free: which feature each column then holds (0: none).
FAST = (1, 2, 0, 4, *range(30, 45), *range(67, 77))


def labels_path(path: Path) -> Path:
    """Where the app saves the labels of a precomputed file: ``<name>_LABELS.mat`` beside it (SaveMenuSelected in CellSorter.mlapp)."""
    return path.with_name(f"{path.stem}{SUFFIX}.mat")


def find(file: AnyFile) -> str | None:
    """The struct with the app's data; None where there is none."""
    names = sorted(file.names, key=lambda name: (name != OUTPUT, name))
    for name in names:
        head = file.head(name)
        fields = set(head.fields()) if head is not None and not head.opaque else set()
        if fields >= _NEEDED and fields & _TELLING:
            return name
    return None


def hint(file: AnyFile) -> str:
    """What another file looks like instead, as a clause."""
    head = file.head(LABELS)
    if head is not None and EXPERT in head.fields():
        return f"labels that ActSort's app saved: pass the precomputed file beside it ({file.path.stem.removesuffix(SUFFIX)}.mat)"
    if "dataset" in file.names and (found := file.head("dataset")) is not None and found.opaque:
        return "a classifier that ActSort's app saved: pass the precomputed file it was trained on"
    return f"a MATLAB file without {OUTPUT} (it holds {', '.join(file.names[:5]) or 'nothing'})"


def only(file: AnyFile) -> str:
    """The struct with the app's data.

    Raises
    ------
    FormatError
        There is none.
    """
    name = find(file)
    if name is None:
        raise FormatError(f"{file.path} is {hint(file)}.", "Make one with 'Create a sorting file' in ActSort's app.")
    return name


def recording(path: Path, file: AnyFile, format_name: str) -> Recording:
    """Read one precomputed file; see ``ActsortMatlabFormat.read``."""
    notes: list[str] = []
    whole: Any = file.variable(only(file))
    picture = whole.field("max_im")
    shape = picture.shape if picture is not None and len(picture.shape) == 2 else None
    footprints, fov, sums = _mat_stack.footprints(file, whole.field("spatial_weights"), shape, notes)
    n_cells = int(footprints.shape[1])
    images = {}
    try:
        images = _mat_stack.images({"max_im": picture}, fov)
    except FormatError as error:
        notes.append(f"Left out: {error.what}")
    info: Any = whole.field("INFO")
    fast = _mat.number(info.field("fast_features")) > 0 if info is not None else False
    rate = _mat.number(info.field("fps")) if info is not None else np.nan
    return Recording(
        name=path.stem or path.name,
        path=path,
        format=format_name,
        fov=fov,
        footprints=footprints,
        traces=_mat_stack.traces(whole.field("traces"), n_cells, 1, notes),
        trace_kind="traces",
        fps=float(rate) if np.isfinite(rate) and rate > 0 else None,
        prior=prior(path, file, n_cells, sums, notes),
        metrics=_metrics(whole, n_cells, fast, notes),
        images=images,
        movie_path=_movie(path, info),
        info={
            "tool": "ActSort for MATLAB",
            "variable": only(file),
            "matlab": file.version,
            "fast_features": bool(fast),
            "source": _text(info, "mat_file_name"),
            "created": _text(info, "date_created"),
        },
        notes=tuple(notes),
    )


def _text(info: Any, name: str) -> str:
    node = info.field(name) if info is not None else None
    return (node.text() if node is not None and not node.opaque else None) or ""


def _metrics(whole: Any, n_cells: int, fast: bool, notes: list[str]) -> dict[str, NDArray[np.float64]]:
    """The app's features under our names; its code leaves zeros where it computed nothing, and such a column is none."""
    node = whole.field("features")
    if node is None or not n_cells:
        return {}
    if node.opaque or node.kind not in ("double", "single") or node.shape != (n_cells, N_FEATURES):
        notes.append(f"features has the shape {node.shape} for {n_cells} candidates: it is left out.")
        return {}
    values = np.asarray(node.array(), np.float64)
    number = (*FAST, *([0] * (N_FEATURES - len(FAST)))) if fast else range(1, N_FEATURES + 1)
    return {
        NAMES[which - 1]: values[:, column].copy()
        for column, which in enumerate(number)
        if which and np.isfinite(values[:, column]).any() and (values[:, column] != 0).any()
    }


def _movie(path: Path, info: Any) -> Path | None:
    """The movie the pictures were taken from, if it is beside the file: the app keeps only its name."""
    name = PureWindowsPath(_text(info, "h5_file_name")).name
    if name:
        with contextlib.suppress(OSError, ValueError):
            found = path.parent / name
            if found.is_file() and found != path:
                return found
    return None


# Labels


@dataclass(frozen=True, eq=False)
class Said:
    """What the app saved: each ``(n,)``, -1 not a cell, 0 nothing, 1 cell; and our variable ``curation``."""

    expert: NDArray[np.float64]
    model: NDArray[np.float64]
    overall: NDArray[np.float64]
    ours: Stored | None
    where: Path

    @property
    def stale(self) -> bool:
        """Whether these are still the decisions we wrote: then they are about the candidates that ``curation`` names."""
        return (
            self.ours is not None
            and len(self.ours.accepted) == len(self.overall)
            and bool(((self.overall > 0) == self.ours.accepted).all())
        )


def said(path: Path, file: AnyFile, notes: list[str]) -> Said | None:
    """The labels of a precomputed file: those saved beside it, else those inside it (files that we made); None where there are none."""
    beside = labels_path(path)
    for opened in _sources(beside, file, notes):
        struct: Any = opened.variable(LABELS)
        rows = {name: _column(struct, name) for name in (EXPERT, MODEL, OVERALL)} if struct is not None and not struct.opaque else {}
        expert, overall = rows.get(EXPERT), rows.get(OVERALL)
        if expert is None:
            if opened is not file:
                notes.append(f"{beside.name} holds no {LABELS}.{EXPERT}: it is ignored.")
            continue
        model = rows.get(MODEL)
        model = model if model is not None and len(model) == len(expert) else np.zeros(len(expert))
        fallback = np.where(expert != 0, expert, model)  # combine_exml_labels.m
        overall = overall if overall is not None and len(overall) == len(expert) else fallback
        return Said(expert, model, overall, stored(opened), opened.path)
    return None


def _sources(beside: Path, file: AnyFile, notes: list[str]) -> Iterator[AnyFile]:
    if beside.is_file():
        try:
            with _mat.opened(beside) as opened:
                yield opened
        except ActsortError as error:
            notes.append(f"Left out: {error.what}")
    if LABELS in file.names:
        yield file


def _column(struct: Any, name: str) -> NDArray[np.float64] | None:
    found = _mat.vector(struct.field(name))
    return np.nan_to_num(found.astype(np.float64)) if found is not None and found.dtype.kind in "biuf" else None


def prior(path: Path, file: AnyFile, n_cells: int, sums: NDArray[np.float64], notes: list[str]) -> Prior:
    """Verdicts: labels_overall (the person's, else the app's classifier's)."""
    found = said(path, file, notes)
    if found is None:
        return Prior.undecided(n_cells)
    if found.ours is not None and found.stale and not fits(found.ours, sums):
        again = known_by_sum(found.ours, sums)
        notes.append(
            f"The decisions in {found.where.name} were made for {len(found.ours.sums)} candidates in another order or number: "
            f"{int((again.verdict != 0).sum())} of the {n_cells} here were recognised by their footprints."
        )
        return again
    if len(found.overall) != n_cells:
        notes.append(f"{found.where.name} has labels of {len(found.overall)} candidates, there are {n_cells}: it is ignored.")
        return Prior.undecided(n_cells)
    new = found.expert != 0 if found.ours is None else (found.expert != 0) & (found.ours.label != np.sign(found.expert))
    if new.any():
        notes.append(
            f"{int(new.sum())} labels of a person are in {found.where.name}: they count as the host's verdict; to have them as labels: "
            f"actsort import-labels SESSION {found.where.name}"
        )
    verdict = np.sign(found.overall).astype(np.int8)
    known = found.ours is not None and len(found.ours.prob) == n_cells
    probability = np.where(found.ours.accepted == (verdict > 0), found.ours.prob, np.nan) if found.ours is not None and known else None
    return verdicts(verdict, probability, np.sign(found.expert))
