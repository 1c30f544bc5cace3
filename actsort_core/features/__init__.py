"""Features: evidence about each candidate. One module per source of evidence; the contract is here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from actsort_core.model import Recording

if TYPE_CHECKING:
    from actsort_core.blocks import Accumulator


@dataclass(frozen=True)
class Feature:
    """One column of the feature table.

    Attributes
    ----------
    name
        Unique, ``group.feature``.
    unit
        ``"1"`` for a pure number, ``"px"``, ``"frames"``...
    version
        Raised whenever the definition changes, so that models and caches of another version are not mixed up.
    published
        Column number (1-based) in the published 76 where it is the same quantity, else None.
    description
        One line.
    default
        Whether it is used when its group is used by default and nobody named the group: of features that say nearly the same one is
        enough where labels are few.
    """

    name: str
    unit: str
    version: int
    published: int | None
    description: str
    default: bool = True


@dataclass(frozen=True)
class FeatureGroup:
    """Features computed together (register it with ``actsort_register_features``).

    Attributes
    ----------
    name
        Short lower-case name.
    features
        What it computes.
    needs
        Subset of ``{"traces", "footprints", "movie", "host"}``.
    compute
        From a recording to columns by feature name, each ``(n_cells,)``; NaN where a value cannot be had. Reordering the
        candidates must reorder the values and change nothing else.
    default
        Whether the group is used when the user names none.
    open_ended
        True: `compute` may return columns that `features` does not list (the host's own statistics differ by version).
    accumulate
        For a group that needs the movie: what computes its columns as the frames pass, one pass for all such groups
        (`actsort_core.blocks`); its result is what `compute` would return, and `compute` is not called. An `events.EventFrames` returns
        columns by reader.
    """

    name: str
    features: tuple[Feature, ...]
    needs: frozenset[str]
    compute: Callable[[Recording], Mapping[str, NDArray[Any]]]
    default: bool = True
    open_ended: bool = False
    accumulate: Accumulator | None = None
