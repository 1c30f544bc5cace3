"""Verdicts and statistics in the columns of an NWB table, read; and what the columns become when decisions are written.

Every writer has a column of its own for "is a cell": it is recognised by its name, whatever the case, and updated in place.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actsort_adapters import _hdf5
from actsort_adapters._nwb_find import MASKS, Part
from actsort_core.errors import ActsortError
from actsort_core.model import CELL, NOT_CELL, Curation, Prior

LABEL, PROBABILITY = "curation_label", "curation_prob"
DESCRIPTIONS = {
    LABEL: "What a person said (ActSort): 1 cell, -1 not a cell, 0 nothing or unsure",
    PROBABILITY: "Probability of being a cell (ActSort): above 0.5 where accepted, NaN where undecided or no candidate",
    "accepted": "Decided to be a cell",
    "rejected": "Decided not to be a cell",
}
_SINGLE = ("is_accepted", "keep", "is_cell", "valid", "valid_roi")  # in this order
VERDICTS = {"iscell", "accepted", "rejected", *_SINGLE, LABEL, PROBABILITY, "probcell", "cell_probability", "cell_prob", "iscell_prob"}
_CAIMAN_METRICS = {"r": "r_values", "snr": "SNR_comp", "cnn": "cnn_preds"}  # what CaImAn's own files call them
_MAX_METRICS = 200


@dataclass(frozen=True)
class Flags:
    """The columns that hold the verdict.

    Attributes
    ----------
    kind
        ``"iscell"`` (two columns in one: flag, probability), ``"pair"`` (accepted and rejected), ``"single"`` or ``"none"``.
    names
        The columns, as the file spells them; of a pair, ``rejected`` may be missing.
    keep
        CaImAn's own thresholds beside a pair: what stands where a person said nothing.
    """

    kind: str
    names: tuple[str, ...] = ()
    keep: str = ""


def find_flags(table: Any, n_rows: int, columns: Iterable[str]) -> Flags:
    """Which columns of the open `table` hold the verdict."""
    there = {name.lower(): name for name in reversed(list(columns)) if _flag(table, name, n_rows)}
    wide = {name.lower(): name for name in columns if _shape(table, name)[:1] == (n_rows,) and len(_shape(table, name)) == 2}
    if "iscell" in wide and _shape(table, wide["iscell"])[1] >= 2 and _kind(table, wide["iscell"]) in "biuf":
        return Flags("iscell", (wide["iscell"],))
    if "iscell" in there:
        return Flags("single", (there["iscell"],))
    if "accepted" in there:
        rejected = (there["rejected"],) if "rejected" in there else ()
        return Flags("pair", (there["accepted"], *rejected), there.get("keep", ""))
    return next((Flags("single", (there[name],)) for name in _SINGLE if name in there), Flags("none"))


def _dataset(table: Any, name: str) -> Any:
    try:
        return _hdf5.dataset(table, name)
    except ActsortError:
        return None


def _shape(table: Any, name: str) -> tuple[int, ...]:
    found = None if name in MASKS else _dataset(table, name)
    return () if found is None else tuple(found.shape)


def _kind(table: Any, name: str) -> str:
    found = _dataset(table, name)
    return "" if found is None else str(found.dtype.kind)


def _flag(table: Any, name: str, n_rows: int) -> bool:
    ragged = f"{name}_index".encode() in set(table.id)
    return name.lower() in VERDICTS and not ragged and _shape(table, name) == (n_rows,) and _kind(table, name) in tuple("biuf")


def read_prior(table: Any, part: Part, notes: list[str]) -> tuple[Prior, str]:
    """The host's verdict on the candidates of `part`, and the names of the columns it is in."""
    flags = find_flags(table, part.table.n_rows, part.table.columns)
    prior = Prior.undecided(len(part.rows))
    if flags.kind == "none":
        return prior, ""
    values = [_hdf5.array(table, name, "biuf")[part.rows] for name in flags.names]  # type: ignore[index]
    verdict, probability = prior.verdict, prior.probability
    ours = _ours(table, part)
    if flags.kind == "pair":
        accepted, rejected = _true(values[0]), _true(values[1]) if len(values) > 1 else np.zeros(len(part.rows), bool)
        if flags.keep and ours is None:
            verdict[:] = np.where(_true(_hdf5.array(table, flags.keep, "biuf")[part.rows]), 1, -1)  # type: ignore[index]
        elif len(values) == 1 and accepted.any():
            verdict[:] = -1
        verdict[accepted], verdict[rejected] = 1, -1
        if both := int((accepted & rejected).sum()):
            verdict[accepted & rejected] = 0
            notes.append(f"{part.name}: {both} candidates are both accepted and rejected: they count as undecided.")
        if len(verdict) and not verdict.any():
            notes.append(f"{part.name}: no candidate is accepted or rejected in the file: nobody has decided yet.")
    else:
        flag = values[0][:, 0] if flags.kind == "iscell" else values[0]
        verdict[:] = np.where(_true(flag), 1, -1)
        verdict[~np.isfinite(flag.astype(np.float64))] = 0
    stored = values[0][:, 1] if flags.kind == "iscell" else ours
    if stored is not None:
        known = stored.astype(np.float64)
        probability[:] = np.where((known >= 0) & (known <= 1), known, np.nan)
    if flags.kind == "pair" and flags.keep and ours is None:  # CaImAn: what was clicked in its GUI, beside the thresholds' keep
        prior = replace(prior, person=accepted.astype(np.int8) - rejected.astype(np.int8))
    if ours is not None and _kind(table, LABEL) in ("b", "i", "u", "f"):
        said = np.sign(np.nan_to_num(_hdf5.array(table, LABEL, "biuf")[part.rows].astype(np.float64)))  # type: ignore[index]
        prior = replace(prior, person=said.astype(np.int8))
    return prior, ", ".join((*flags.names, *([flags.keep] if flags.keep else [])))


def _true(values: Any) -> NDArray[np.bool_]:
    return np.asarray(np.isfinite(values.astype(np.float64)) & (values != 0))


def _ours(table: Any, part: Part) -> NDArray[np.float64] | None:
    """The probabilities that a write of ours left, None where there was none: then accepted and rejected are complete."""
    if _shape(table, LABEL) != (part.table.n_rows,) or _shape(table, PROBABILITY) != (part.table.n_rows,):
        return None
    found = _hdf5.array(table, PROBABILITY, "f") if _kind(table, PROBABILITY) == "f" else None
    return None if found is None else found[part.rows].astype(np.float64)


def read_metrics(table: Any, part: Part) -> dict[str, NDArray[np.float64]]:
    """All columns of one number per ROI that are no verdict."""
    own = part.table.writer == "actsort"
    # Suite2p 1.x has a statistic "snr", too, which is something else
    from_caiman = part.table.writer == "neuroconv" and not {"is_accepted", "r_values"}.isdisjoint(part.table.columns)
    metrics: dict[str, NDArray[np.float64]] = {}
    for name in part.table.columns:
        if name.lower() in VERDICTS or name in MASKS or len(metrics) >= _MAX_METRICS or f"{name}_index".encode() in set(table.id):
            continue
        if _shape(table, name) != (part.table.n_rows,) or _kind(table, name) not in tuple("iuf"):
            continue
        values = _hdf5.array(table, name)
        if values is None:
            continue
        if not own and values.dtype.kind != "f" and np.isin(values, (-1, 0, 1)).all():
            continue  # somebody's verdict under a name we do not know: never evidence
        key = _CAIMAN_METRICS.get(name, name) if part.table.writer == "caiman" or (name == "snr" and from_caiman) else name
        metrics[key] = values[part.rows].astype(np.float64)
    return metrics


# Writing


def new_columns(table: Any, part: Part, curation: Curation, before: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The columns of `table` that hold the decisions, whole, with other rows as they were.

    Parameters
    ----------
    table
        The open group.
    part, curation
        Which rows, and what was decided.
    before
        Columns that an earlier part of the same table changed already.

    Returns
    -------
    dict
        By column: ``(n_rows,)`` or, for Suite2p's, ``(n_rows, 2)``, in the type the file has.
    """
    flags, n, rows = find_flags(table, part.table.n_rows, part.table.columns), part.table.n_rows, part.rows
    accepted = np.asarray(curation.accepted, bool)
    rejected = ~accepted & ~curation.undecided
    probability = np.where(curation.undecided & ~accepted, np.nan, curation.host_probability())
    out: dict[str, NDArray[Any]] = {}

    def column(name: str, default: Any, dtype: Any) -> NDArray[Any]:
        if name not in before:
            found = _dataset(table, name)
            usable = found is not None and tuple(found.shape[:1]) == (n,) and found.dtype.kind in "biuf"
            if name in (LABEL, PROBABILITY):  # somebody else's column of that name cannot hold these
                usable = usable and tuple(found.shape) == (n,) and found.dtype.kind == np.dtype(dtype).kind
            before[name] = np.asarray(found[()]) if usable else np.full(n, default, dtype)
        out[name] = before[name]
        return before[name]

    if flags.kind == "iscell":
        iscell = column(flags.names[0], 0, np.float64)
        iscell[rows, 0] = accepted
        if iscell.dtype.kind == "f":
            iscell[rows, 1] = curation.host_probability()
    elif flags.kind == "single":
        column(flags.names[0], 0, bool)[rows] = accepted
    else:
        names = flags.names or ("accepted",)
        dtype = before.get(names[0], _dataset(table, names[0])).dtype if flags.names else bool
        column(names[0], 0, bool)[rows] = accepted
        column(names[1] if len(names) > 1 else "Rejected" if names[0] == "Accepted" else "rejected", 0, dtype)[rows] = rejected
    said = {i: {CELL: 1, NOT_CELL: -1}.get(given.value, 0) for i, given in curation.labels.items()}
    labels = column(LABEL, 0, np.int8)
    labels[rows] = [said.get(i, 0) for i in range(len(rows))]
    column(PROBABILITY, np.nan, np.float64)[rows] = probability
    return out
