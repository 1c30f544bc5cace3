"""Recordings to try things on, and checks of feature groups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actsort_core.errors import ActsortError
from actsort_core.features import Feature, FeatureGroup
from actsort_core.features.table import compute_table
from actsort_core.model import Prior, Recording
from actsort_core.simulate import simulate
from actsort_core.testing._common import require

_NEEDS = {"traces", "footprints", "movie", "host"}


def make_recording(
    n_cells: int = 12,
    fov: tuple[int, ...] = (24, 35),
    n_frames: int = 200,
    seed: int = 0,
    nonfinite: bool = False,
    **fields: Any,
) -> Recording:
    """A small simulated recording (see `actsort_core.simulate.simulate`, which also tells the truth).

    Parameters
    ----------
    n_cells
        Number of candidates; 0, 1 and 2 are worth trying.
    fov
        Field of view, two or three dimensions. Not square by default: a transposed one shows.
    n_frames
        Frames of the traces.
    seed
        Same seed, same recording.
    nonfinite
        True: one frame is NaN in every trace, the first candidate's trace holds a NaN, the second's an infinity, and so do the
        metrics of these two.
    **fields
        Fields of `Recording` to replace, such as ``fps=None`` or ``prior=Prior.undecided(12)``.

    Returns
    -------
    Recording
        With traces of its own in memory, a prior that holds all three verdicts, an image and the metrics ``SNR_comp``,
        ``r_values`` and ``lab_score``.
    """
    recording, _ = simulate(n_cells, fov=fov, n_frames=n_frames, seed=seed, name="made")
    rng = np.random.default_rng(seed)
    verdict = recording.prior.verdict.copy()
    verdict[2::5] = 0
    metrics = {"SNR_comp": rng.lognormal(1, 1, n_cells), "r_values": rng.uniform(-1, 1, n_cells), "lab_score": rng.normal(0, 1, n_cells)}
    probability = np.where(verdict == 0, np.nan, (1 + verdict * rng.uniform(0.1, 1, n_cells)) / 2)
    traces = np.array(recording.traces[:], np.float32)
    if nonfinite:
        _spoil(traces, metrics)
    made = replace(recording, traces=traces, metrics=metrics, prior=Prior(verdict, probability))
    return replace(made, **fields)


def _spoil(traces: NDArray[np.float32], metrics: Mapping[str, NDArray[np.float64]]) -> None:
    if traces.shape[1]:
        traces[:, traces.shape[1] // 2] = np.nan
        traces[:1, 0] = np.nan
        traces[1:2, -1] = np.inf
    for values in metrics.values():
        values[:1] = np.nan
        values[1:2] = np.inf


class _OnDisk:
    """Traces that offer what `TraceArray` promises and nothing more."""

    def __init__(self, traces: NDArray[np.float32]) -> None:
        self._traces, self.shape = traces, traces.shape

    def __getitem__(self, rows: slice) -> NDArray[np.float32]:
        if not isinstance(rows, slice):
            raise TypeError(f"traces are read by slices of rows, not by {rows!r}")
        return self._traces[rows].copy()


def check_feature(group: FeatureGroup, recording: Recording) -> None:
    """Check that a feature group keeps its contract on a recording and on variations of it.

    Parameters
    ----------
    group
        The group.
    recording
        Anything it should describe, best with a dozen candidates or more; see `make_recording`.

    Raises
    ------
    AssertionError
        Names what broke: shapes, names that are not announced, an exception on NaN, inf, empty footprints or few candidates,
        other candidates spoilt by a bad one, values that depend on the candidates' order or on others' verdicts, or a changed input.
    """
    _check_group(group)
    if "movie" in group.needs:
        require(recording.movie_path is not None, f"Group {group.name!r} needs a movie; check it on a recording that has one.")
    n, rng = recording.n_cells, np.random.default_rng(0)
    kept = _subset(recording, np.arange(n))
    values = _columns(group, kept)
    same = _equal(kept, _subset(recording, np.arange(n)))
    require(same, f"Group {group.name!r} changes the recording it is given.")
    _compare(group, values, _columns(group, kept), "is not the same when computed twice")
    order = rng.permutation(n)
    shuffled = _columns(group, _subset(recording, order))
    _compare(group, {k: v[order] for k, v in values.items()}, shuffled, "depends on the order of the candidates")
    for few in range(min(3, n)):
        _columns(group, _subset(recording, np.arange(few)))
    own = rng.random(n) < 0.5
    verdict = np.where(own, kept.prior.verdict, -kept.prior.verdict + (kept.prior.verdict == 0)).astype(np.int8)
    others = replace(kept, prior=Prior(verdict, np.where(own, kept.prior.probability, 1 - kept.prior.probability)))
    judged = _columns(group, others)
    _compare(group, {k: v[own] for k, v in values.items()}, {k: v[own] for k, v in judged.items()}, "depends on the verdicts on others")
    bad = np.arange(min(3, n))
    spoilt = _columns(group, _damaged(recording))
    for name, column in values.items():
        require(name in spoilt, f"{name} disappears when some candidates are damaged.")
        lost = np.isfinite(column) & ~np.isfinite(spoilt[name])
        lost[bad] = False
        require(not lost.any(), f"{name} of healthy candidates is lost when others hold NaN, infinity or nothing.")


def _check_group(group: FeatureGroup) -> None:
    require(isinstance(group, FeatureGroup), f"{type(group).__name__} is not a FeatureGroup.")
    require(group.name and group.name == group.name.strip().lower(), f"The group's name {group.name!r} is not short and lower-case.")
    require(group.needs <= _NEEDS, f"Group {group.name!r} needs {sorted(group.needs - _NEEDS)}; known: {sorted(_NEEDS)}.")
    require(group.features or group.open_ended, f"Group {group.name!r} announces no features.")
    names = [feature.name for feature in group.features]
    require(len(set(names)) == len(names), f"Group {group.name!r} announces a name twice.")
    for feature in group.features:
        require(isinstance(feature, Feature), f"Group {group.name!r} announces {feature!r}, which is not a Feature.")
        prefixes = (f"{group.name}.", f"{group.name.split('_')[0]}.")  # groups lab_traces and lab_movie may share "lab."
        require(feature.name.startswith(prefixes), f"{feature.name!r} does not start with {group.name + '.'!r}.")
        require(feature.unit and feature.description, f"{feature.name} lacks its unit or description.")
        require(isinstance(feature.version, int) and feature.version >= 1, f"{feature.name} has version {feature.version!r}.")


def _columns(group: FeatureGroup, recording: Recording) -> dict[str, NDArray[np.float32]]:
    n = recording.n_cells
    shown = replace(recording, traces=_OnDisk(np.asarray(recording.traces[0:n])))
    try:
        table = compute_table(shown, [group])
    except ActsortError as error:
        raise AssertionError(f"With {n} candidates: {error}") from error
    absent = sorted({feature.name for feature in group.features} - set(table.names))
    require(group.open_ended or not absent, f"Group {group.name!r} announces what it does not compute: {', '.join(absent)}.")
    return {name: table.values[:, i] for i, name in enumerate(table.names)}


def _compare(group: FeatureGroup, old: Mapping[str, Any], new: Mapping[str, Any], what: str) -> None:
    require(old.keys() == new.keys(), f"Group {group.name!r}: which columns there are {what}.")
    for name in old:
        require(np.allclose(old[name], new[name], rtol=1e-4, atol=1e-5, equal_nan=True), f"{name} {what}.")


def _subset(recording: Recording, which: NDArray[np.intp]) -> Recording:
    """The candidates `which`, in that order, with arrays of their own."""
    n = recording.n_cells
    return replace(
        recording,
        footprints=recording.footprints[:, which],
        traces=np.asarray(recording.traces[0:n])[which],
        prior=Prior(recording.prior.verdict[which], recording.prior.probability[which]),
        metrics={name: np.asarray(values)[which] for name, values in recording.metrics.items()},
        denoised=None if recording.denoised is None else np.asarray(recording.denoised[0:n])[which],
        spikes=None if recording.spikes is None else np.asarray(recording.spikes[0:n])[which],
    )


def _damaged(recording: Recording) -> Recording:
    """NaN in the first candidate, infinity in the second, nothing at all in the third."""
    out = _subset(recording, np.arange(recording.n_cells))
    traces, footprints = np.asarray(out.traces[0 : out.n_cells]), out.footprints.tolil()
    traces[:1, ::2], traces[1:2, :1] = np.nan, np.inf
    traces[2:3] *= 0  # frames that are lost in all candidates stay lost
    footprints[:, 2:3] = 0
    metrics = {name: np.array(values) for name, values in out.metrics.items()}
    for values in metrics.values():
        values[:1], values[1:2], values[2:3] = np.nan, np.inf, -np.inf
    verdict, probability = out.prior.verdict.copy(), out.prior.probability.copy()
    verdict[:3], probability[:3] = 0, np.nan
    return replace(out, footprints=footprints.tocsc(), traces=traces, metrics=metrics, prior=Prior(verdict, probability))


def _equal(a: Recording, b: Recording) -> bool:
    pairs: list[tuple[Any, Any]] = [(np.asarray(a.traces[0 : a.n_cells]), np.asarray(b.traces[0 : b.n_cells]))]
    pairs += [(a.prior.verdict, b.prior.verdict), (a.prior.probability, b.prior.probability)]
    pairs += [(a.metrics[k], b.metrics[k]) for k in a.metrics]
    pairs += [(getattr(a.footprints, k), getattr(b.footprints, k)) for k in ("data", "indices", "indptr")]
    return all(np.array_equal(x, y, equal_nan=x.dtype.kind == "f") for x, y in pairs)
