"""ActSort for MATLAB (schnitzer-lab/ActSort-public): its precomputed files, and the labels its app saves beside them, both ways.

Facts: docs/formats/actsort_matlab.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from actsort_adapters import _actsort_create, _mat
from actsort_adapters._actsort_read import SUFFIX, find, hint, only, recording, said
from actsort_adapters._actsort_write import make_plan
from actsort_core.errors import FormatError, UsageError
from actsort_core.formats import Format, Sniff, WritePlan
from actsort_core.hookspecs import hookimpl
from actsort_core.model import Curation, Recording

__all__ = ["ActsortMatlabFormat"]


class ActsortMatlabFormat:
    """A precomputed file of ActSort for MATLAB ("sorting file"): one recording, labels in ``<name>_LABELS.mat`` beside it."""

    name = "actsort_matlab"
    description = "ActSort for MATLAB's precomputed files (.mat); labels and decisions go into <name>_LABELS.mat, which its app loads"

    def sniff(self, path: Path) -> Sniff:
        """Whether `path` is a precomputed file; see `Format.sniff`."""
        return _mat.sniff(Path(path), find, hint)

    def read(self, path: Path) -> tuple[Recording, ...]:
        """Read one precomputed file; see `Format.read`.

        Returns
        -------
        tuple of one Recording
            ``fov``: rows, columns. ``footprints``: spatial_weights (ndSparse or dense), float32, C order of pixels. ``traces``:
            ``(n_cells, n_frames)`` float32, from disk on demand. ``images``: ``"max_im"``. ``metrics``: the published features under
            our names (``"published.snr"``, ``"movie.image_correlation"``), without columns the app left empty. ``fps``: None,
            except in files that we made. ``prior``: labels_overall of the labels file (a person's label, else the app's classifier),
            undecided where there is none; ``person``: labels_ex.

        Raises
        ------
        FormatError
            The file is truncated, inconsistent or no precomputed file; says which part.
        """
        path = Path(path)
        with _mat.opened(path) as file:
            return (recording(path, file, self.name),)

    def labels(self, path: Path) -> tuple[Mapping[int, str], ...]:
        """What people said in the app (``labels_ex``), ``"cell"`` or ``"not_cell"`` by 0-based index, for each recording of `read`.

        Parameters
        ----------
        path
            The precomputed file, or the ``_LABELS.mat`` beside it.

        Raises
        ------
        FormatError
            The labels are of another number of candidates.
        """
        path = Path(path)
        if path.stem.endswith(SUFFIX):
            path = path.with_name(f"{path.stem.removesuffix(SUFFIX)}{path.suffix}")
        (read,) = self.read(path)
        with _mat.opened(path) as file:
            only(file)
            found = said(path, file, [])
        if found is None:
            return ({},)
        if len(found.expert) != read.n_cells:
            what = f"{found.where} has labels of {len(found.expert)} candidates, {path.name} has {read.n_cells}."
            raise FormatError(what, "They do not belong together.")
        return ({int(i): "cell" if found.expert[i] > 0 else "not_cell" for i in np.flatnonzero(found.expert)},)

    def plan(self, recordings: Sequence[Recording], curations: Sequence[Curation]) -> WritePlan:
        """The one file to make or replace: ``<name>_LABELS.mat`` beside the precomputed file, which stays as it is; see `Format.plan`.

        Its struct ``labels`` holds labels_ex (what persons said; labels given in the app that the session does not have stay),
        labels_ml (the model's verdict) and labels_overall (the decision), each N x 1 double: 1 cell, -1 not, 0 nothing. The variable
        ``curation`` holds probabilities and by which footprints the decisions go; the app does not mind it.
        """
        if len(recordings) != 1 or len(curations) != 1:
            raise UsageError(f"A precomputed file holds one recording, not {len(recordings)}.", "Write each file by itself.")
        return make_plan(recordings[0], curations[0])

    def losses(self, recordings: Sequence[Recording], curations: Sequence[Curation | None]) -> tuple[str, ...]:
        """What a precomputed file has no place for, or cannot have without the movie; see `CreatingFormat.losses`."""
        return _actsort_create.losses(recordings, curations)

    def create(self, recordings: Sequence[Recording], curations: Sequence[Curation | None], dst: Path) -> tuple[Path, ...]:
        """Write a v7.3 file that the app opens, with the labels inside it; see `CreatingFormat.create`.

        Its 14 fields are those of PrecomputeCellCheck.m; spatial_weights and snapshot_filters are dense. The labels are the variable
        ``labels`` of the same file: the app takes it in its Load labels dialog like any labels file.
        """
        return _actsort_create.create(recordings, curations, Path(dst))


@hookimpl
def actsort_register_formats() -> Sequence[Format]:
    """Register the format of ActSort for MATLAB."""
    return [ActsortMatlabFormat()]
