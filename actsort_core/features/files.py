"""Feature tables as files that other programs read: NPZ and Parquet, with names and units; for CSV see `report.features_csv`."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from actsort_core.errors import MissingDependencyError, UsageError
from actsort_core.features import Feature
from actsort_core.features.table import FeatureTable
from actsort_core.model import Recording

ENDINGS = ("csv", "npz", "parquet")
_PARQUET = "pip install 'actsort[parquet]', or choose .csv or .npz."


def ending_of(path: Path) -> str:
    """Which of `ENDINGS` a file is to be, before anything is computed for it; a name without an ending is CSV.

    Raises
    ------
    UsageError
        Another ending.
    MissingDependencyError
        Parquet, without pyarrow.
    """
    ending = path.suffix.lstrip(".").lower() or "csv"
    if ending not in ENDINGS:
        raise UsageError(f"Features cannot be saved as {path.name!r}.", "Choose a name that ends in .csv, .npz or .parquet.")
    if ending == "parquet":
        _pyarrow()
    return ending


def described(names: Sequence[str], versions: Sequence[int], known: Mapping[str, Feature]) -> list[dict[str, Any]]:
    """Name, unit, version, published number (None for none) and description of each column; what a host calls its own has no unit."""
    out = []
    for name, version in zip(names, versions, strict=True):
        feature = known.get(name)
        row = {"name": name, "unit": "", "version": int(version), "published": None, "description": ""}
        if feature is not None:
            row.update(unit=feature.unit, published=feature.published, description=feature.description)
        out.append(row)
    return out


def as_npz(table: FeatureTable, columns: Sequence[int], known: Mapping[str, Feature], recording: Recording) -> bytes:
    """A table as NPZ: plain arrays, nothing that would have to be unpickled.

    ``features`` (n_cells, k) float32, NaN = missing; ``names``, ``units``, ``descriptions`` (k,) text; ``versions`` and ``published`` (k,)
    int64, 0 = not one of the published; ``candidate`` (n_cells,) int64 and ``fingerprint`` (n_cells,) text; ``recording`` and
    ``recording_fingerprint`` text. With ``labels`` (n_cells,) beside them, ``actsort benchmark`` reads it.

    Parameters
    ----------
    table
        What to write.
    columns
        Which columns, in which order.
    known
        The registered features by name.
    recording
        Whose table it is.
    """
    rows = described([table.names[i] for i in columns], [table.versions[i] for i in columns], known)
    out = io.BytesIO()
    np.savez_compressed(
        out,
        features=table.values[:, list(columns)],
        names=np.array([row["name"] for row in rows], np.str_),
        units=np.array([row["unit"] for row in rows], np.str_),
        descriptions=np.array([row["description"] for row in rows], np.str_),
        versions=np.array([row["version"] for row in rows], np.int64),
        published=np.array([row["published"] or 0 for row in rows], np.int64),
        candidate=np.arange(len(table.values)),
        fingerprint=np.array(recording.candidate_fingerprints, np.str_),
        recording=np.array(recording.name),
        recording_fingerprint=np.array(recording.fingerprint),
    )
    return out.getvalue()


def as_parquet(table: FeatureTable, columns: Sequence[int], known: Mapping[str, Feature], recording: Recording) -> bytes:
    """A table as Parquet: ``candidate`` (int64), ``fingerprint`` (text), then a float32 column a feature, null = missing.

    Each column's metadata hold ``unit``, ``version``, ``published`` and ``description``; the file's, under ``actsort``, the same for all
    as JSON, and the recording's name and fingerprint. Parameters as for `as_npz`.

    Raises
    ------
    MissingDependencyError
        There is no pyarrow.
    """
    arrow, parquet = _pyarrow()
    rows = described([table.names[i] for i in columns], [table.versions[i] for i in columns], known)
    fields = [arrow.field("candidate", arrow.int64()), arrow.field("fingerprint", arrow.string())]
    arrays = [arrow.array(np.arange(len(table.values))), arrow.array(list(recording.candidate_fingerprints), arrow.string())]
    for i, row in zip(columns, rows, strict=True):
        values = np.ascontiguousarray(table.values[:, i])
        meta = {key: "" if value is None else str(value) for key, value in row.items() if key != "name"}
        fields.append(arrow.field(row["name"], arrow.float32(), metadata=meta))
        arrays.append(arrow.array(values, mask=~np.isfinite(values)))
    about = {"recording": recording.name, "recording_fingerprint": recording.fingerprint, "features": rows}
    schema = arrow.schema(fields, metadata={"actsort": json.dumps(about)})
    out = io.BytesIO()
    parquet.write_table(arrow.Table.from_arrays(arrays, schema=schema), out)
    return out.getvalue()


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingDependencyError("Writing Parquet needs the package pyarrow.", _PARQUET) from error
    return pyarrow, pyarrow.parquet
