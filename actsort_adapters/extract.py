"""EXTRACT (schnitzer-lab/EXTRACT-public): MATLAB files of every version, dense or ndSparse, and those of its older releases.

Read: a struct ``output`` (or any other name) with ``spatial_weights`` and ``temporal_weights``, or ``extractAnalysisOutput`` with
``filters`` and ``traces``. Written: ``labels`` and ``user_labels`` in the same struct, where EXTRACT's own cell_check keeps them.
Facts: docs/formats/extract.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from actsort_adapters import _extract_create, _mat
from actsort_adapters._extract_read import Source, classes, hint, only, places, recording, said
from actsort_adapters._extract_write import make_plan
from actsort_core.errors import UsageError
from actsort_core.formats import Format, Sniff, WritePlan
from actsort_core.hookspecs import hookimpl
from actsort_core.model import Curation, Recording

__all__ = ["ExtractFormat"]


class ExtractFormat:
    """EXTRACT's results: one MATLAB file, one recording."""

    name = "extract"
    description = "EXTRACT results (.mat, all versions, dense or ndSparse); decisions go into labels and user_labels of the same struct"

    def sniff(self, path: Path) -> Sniff:
        """Whether `path` is a MATLAB file with EXTRACT's footprints and traces; see `Format.sniff`."""
        return _mat.sniff(Path(path), lambda file: next(places(file), None), hint)

    def read(self, path: Path) -> tuple[Recording, ...]:
        """Read one file; see `Format.read`.

        Returns
        -------
        tuple of one Recording
            ``fov``: rows, columns of spatial_weights. ``footprints``: spatial_weights, float32, re-ordered from MATLAB's column-major
            to C order of pixels, EXTRACT's scale. ``traces``: temporal_weights, ``(n_cells, n_frames)`` float32, from disk on demand
            in v7.3 files (``trace_kind`` is the name of the field). ``images``: ``"summary_image"``, ``"max_image"``,
            ``"F_per_pixel"``. ``metrics``: the 30 of info.cellcheck.metrics under the names of get_quality_metric_map.m. ``fps``:
            None, except in files that we made: EXTRACT does not keep it. ``prior``: labels (1, -1, 0), else user_labels, else
            extract_labels, else ciatah's, else info.cellcheck.is_bad (bad is -1, the rest undecided); ``person``: user_labels.

        Raises
        ------
        FormatError
            The file is truncated, inconsistent or holds none of these; says which part.
        """
        path = Path(path)
        with _mat.opened(path) as file:
            return (recording(path, Source(file, only(file)), self.name),)

    def labels(self, path: Path) -> tuple[Mapping[int, str], ...]:
        """What people said in cell_check (``user_labels``), by 0-based index, for each recording of `read`.

        ``"cell"`` (1), ``"not_cell"`` (-1), ``"dendrite"`` (2); also what we wrote there from a session's labels.
        """
        path = Path(path)
        with _mat.opened(path) as file:
            source = Source(file, only(file))
            (read,) = self.read(path)
            return (classes(said(source, read.n_cells)),)

    def plan(self, recordings: Sequence[Recording], curations: Sequence[Curation]) -> WritePlan:
        """The one file to replace: the same, with ``labels`` and ``user_labels`` in the struct and ``curation``; see `Format.plan`.

        ``labels`` (1 x N double): the final decision, 1 cell, -1 not, 0 undecided. ``user_labels``: what a person said; labels given
        in cell_check that the session does not have stay. ``curation`` (a variable beside the struct): decisions, labels,
        probabilities, and by which footprints they go. Where a file cannot be added to (big-endian, or more than 2 GB in v7) the
        three are alone in ``<name>_actsort.mat`` beside it.

        Raises
        ------
        FormatError
            The file is damaged; says where the decisions are instead.
        """
        if len(recordings) != 1 or len(curations) != 1:
            raise UsageError(f"An EXTRACT file holds one recording, not {len(recordings)}.", "Write each file by itself.")
        return make_plan(recordings[0], curations[0])

    def losses(self, recordings: Sequence[Recording], curations: Sequence[Curation | None]) -> tuple[str, ...]:
        """What an EXTRACT file has no place for; see `CreatingFormat.losses`."""
        return _extract_create.losses(recordings, curations)

    def create(self, recordings: Sequence[Recording], curations: Sequence[Curation | None], dst: Path) -> tuple[Path, ...]:
        """Write a v7.3 file with the struct ``output`` that EXTRACT's cell_check opens; see `CreatingFormat.create`.

        spatial_weights: rows x columns x N single; temporal_weights: frames x N single; info (images, cellcheck; fps, which EXTRACT
        does not know), config.avg_cell_radius, user_labels, labels; ``curation`` with the probabilities beside it.
        """
        return _extract_create.create(recordings, curations, Path(dst))


@hookimpl
def actsort_register_formats() -> Sequence[Format]:
    """Register EXTRACT's format."""
    return [ExtractFormat()]
