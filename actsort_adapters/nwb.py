"""NWB files (Neurodata Without Borders, HDF5) with ROIs: of Suite2p, CaImAn, neuroconv and others; read and written with h5py alone.

Easily got wrong: which axis of a mask is which depends on the writer; CaImAn's masks are scrambled, and its background components are
rows like any other; one file may hold several planes, in one table or in several. Facts: docs/formats/nwb.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from actsort_adapters import _hdf5, _hdf5_host
from actsort_adapters._nwb_create import create, losses
from actsort_adapters._nwb_find import is_table, walk
from actsort_adapters._nwb_read import recordings as read_recordings
from actsort_adapters._nwb_write import make_plan
from actsort_core.errors import FormatError, MissingFileError
from actsort_core.formats import Format, Sniff, WritePlan
from actsort_core.hookspecs import hookimpl
from actsort_core.model import Curation, Recording


class NwbFormat:
    """NWB 2 files: one recording per PlaneSegmentation, or per plane where one table holds several."""

    name = "nwb"
    description = "NWB files (.nwb) with ROIs, of Suite2p, CaImAn, neuroconv and others; decisions go into columns of the same file"

    def sniff(self, path: Path) -> Sniff:
        """Whether `path` is an NWB 2 file with a PlaneSegmentation; see `Format.sniff`."""
        return _hdf5_host.sniff(Path(path), _sniff_open, lambda _: Sniff(False, "a folder; NWB files are single HDF5 files"))

    def read(self, path: Path) -> tuple[Recording, ...]:
        """Read one file; see `Format.read`.

        Returns
        -------
        tuple of Recording
            One per PlaneSegmentation, in the order of the file; per plane where traces point at separate rows of one table (Suite2p).
            ``fov``: ``(rows, columns[, depth])``. ``footprints``: image_mask, pixel_mask or voxel_mask, float32, in C order, whatever
            axis order the writer uses. ``traces``: fluorescence less 0.7 times the neuropil, or C + residuals (CaImAn), or what
            there is (``trace_kind`` says it), ``(n_cells, n_frames)`` float32, in the unit the file declares, read from disk when
            asked for. ``fps``: of the series, in Hz. ``images``: those of the field of view, ``(rows, columns)`` float32.
            ``metrics``: columns of one number per ROI. ``prior``: iscell, accepted and rejected over keep, is_accepted, keep or
            valid, the first that is there.

        Raises
        ------
        FormatError
            The file is locked, truncated, inconsistent or has no ROIs with traces; says which part.
        """
        path = Path(path)
        if not path.is_file():
            raise MissingFileError(f"{path} is not a file.", "Pass the .nwb file itself.")
        if (kind := _hdf5.kind_by_bytes(path)) != "hdf5":
            raise FormatError(f"{path} is {kind}.", "NWB files are HDF5 files.")
        with _hdf5.opened(path) as file:
            return read_recordings(path, file, self.name)

    def plan(self, recordings: Sequence[Recording], curations: Sequence[Curation]) -> WritePlan:
        """The one file to replace: the same file with columns set; see `Format.plan`.

        The writer's own column is updated in place: ``iscell`` (flag and probability), ``accepted`` and ``rejected`` (CaImAn's
        ``keep`` stays), ``Accepted`` and ``Rejected``, ``is_accepted``. Where there is none, ``accepted`` and ``rejected`` are
        added. ``curation_label`` (int8: 1, -1, 0) holds what a person said, ``curation_prob`` (float64)
        `Curation.host_probability`, NaN for undecided candidates and rows that are none.
        """
        return make_plan(recordings, curations)

    def losses(self, recordings: Sequence[Recording], curations: Sequence[Curation | None]) -> tuple[str, ...]:
        """What a new NWB file could not hold; see `CreatingFormat.losses`."""
        return losses(recordings, curations)

    def create(self, recordings: Sequence[Recording], curations: Sequence[Curation | None], dst: Path) -> tuple[Path, ...]:
        """Write a new NWB file that pynwb reads and validates, one PlaneSegmentation per recording; see `CreatingFormat.create`."""
        return create(recordings, curations, Path(dst))


@hookimpl
def actsort_register_formats() -> Sequence[Format]:
    """Register NWB."""
    return [NwbFormat()]


def _sniff_open(file: Any) -> Sniff:
    version = _hdf5.attribute(file, "nwb_version")
    if version is None:
        old = b"nwb_version" in set(file.id)
        return Sniff(False, "an NWB 1 file; only NWB 2 is read" if old else "HDF5, but not NWB (no nwb_version)")
    if not any(is_table(group) for _, group in walk(file)):
        return Sniff(False, "an NWB file without ROIs (no PlaneSegmentation under /processing)")
    return Sniff(True, "an NWB file with ROIs")
