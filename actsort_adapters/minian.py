"""Minian's results: a folder of zarr stores (format 2), one store, or a netCDF-4 file; decisions go into ``unit_labels``.

Read without Minian, xarray or zarr. Easily got wrong: units are known by ``unit_id``, which has gaps, and stores may hold different
units; YrA already holds C; merges are equal labels. Facts: docs/formats/minian.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from actsort_adapters import _hdf5, _minian_create
from actsort_adapters._minian_read import describe_v3, is_result, recording
from actsort_adapters._minian_write import make_plan
from actsort_core.errors import ActsortError, FormatError, MissingFileError, UsageError
from actsort_core.formats import Format, Sniff, WritePlan
from actsort_core.hookspecs import hookimpl
from actsort_core.model import Curation, Recording


@hookimpl
def actsort_register_formats() -> Sequence[Format]:
    """Register Minian's format."""
    return [MinianFormat()]


class MinianFormat:
    """Minian results: one folder or file, one recording.

    Attributes
    ----------
    name, description
        See :class:`actsort_core.formats.Format`.
    """

    name = "minian"
    description = "Minian results (folder of zarr stores, or netCDF); decisions go into unit_labels"

    def sniff(self, path: Path) -> Sniff:
        """Whether `path` holds A and C with unit_id; see `Format.sniff`."""
        path = Path(path)
        try:
            here = _resolve(path)
            if here is None:
                return Sniff(False, _why_not(path))
            return Sniff(True, f"it is {found}") if (found := is_result(here)) else Sniff(False, _why_not(here))
        except ActsortError as error:
            return Sniff(False, str(error))
        except OSError as error:
            return Sniff(False, f"it cannot be read ({error.strerror or error})")
        except Exception as error:  # a damaged file must not hide what other formats say
            return Sniff(False, f"its check failed ({type(error).__name__}: {error})")

    def read(self, path: Path) -> tuple[Recording, ...]:
        """Read a folder of zarr stores, the folder above it, one store with all variables, or a netCDF-4 file; see `Format.read`.

        Returns
        -------
        tuple of one Recording
            ``fov``: height and width of A, ``(rows, columns)``. ``footprints``: A, float32, Minian's scale; C order, as in the
            file. ``traces``: YrA where it is in the folder (or in the pipeline's intermediate folder beside it, if it is about
            the same units), else C; ``denoised``: C; ``spikes``: S; all ``(n_cells, n_frames)`` float32, from disk on demand.
            ``images``: all of the field of view: ``"max_proj"``, ``"background"`` (b)... ``fps``: None, Minian does not know it.
            ``prior``: unit_labels: -1 is rejected, any other label accepted. ``info["unit_id"]``: the candidates' units, in order.

        Raises
        ------
        FormatError
            A store is damaged, inconsistent or hostile; says which file.
        MissingDependencyError
            Stores compressed with Blosc, Minian's default, need numcodecs; says how to get it.
        """
        path = Path(path)
        if not path.exists():
            raise MissingFileError(f"{path} does not exist.", "Pass the folder that save_minian wrote.")
        try:
            here = _resolve(path)
        except OSError as error:
            raise FormatError(f"{path} cannot be read ({error.strerror or error}).", "Check its permissions.") from error
        if here is None:
            raise FormatError(f"{path} is no Minian result: {_why_not(path)}.", "Pass the folder that save_minian wrote.")
        return (recording(here, self.name),)

    def plan(self, recordings: Sequence[Recording], curations: Sequence[Curation]) -> WritePlan:
        """Set ``unit_labels`` in each store with unit_id (A, C, S, c0, b0, YrA), chunk by chunk, or in the netCDF file.

        Rejected candidates become -1. Accepted ones keep the label they have, so that merges stay; those that were -1, or had
        none, get their own unit_id. Units that are no candidates keep theirs. Where a store has no ``unit_labels`` it is added as
        xarray would write it, and seen only when its last file (``.zmetadata``) is in place.

        Raises
        ------
        ChangedError
            The result is not what the decisions are about.
        FormatError
            A store is damaged, or its ``unit_labels`` cannot hold -1.
        """
        if len(recordings) != 1 or len(curations) != 1:
            raise UsageError(f"A Minian result holds one recording, not {len(recordings)}.", "Write each by itself.")
        return make_plan(recordings[0], curations[0])

    def plan_exports(self, recordings: Sequence[Recording], curations: Sequence[Curation]) -> WritePlan:
        """As `plan`, and netCDF files in or beside the folder that hold the same footprints get the same ``unit_labels``."""
        if len(recordings) != 1 or len(curations) != 1:
            raise UsageError(f"A Minian result holds one recording, not {len(recordings)}.", "Write each by itself.")
        return make_plan(recordings[0], curations[0], exports=True)

    def losses(self, recordings: Sequence[Recording], curations: Sequence[Curation | None]) -> tuple[str, ...]:
        """What a Minian folder has no place for: probabilities and statistics; see `CreatingFormat.losses`."""
        return _minian_create.losses(recordings, curations)

    def create(self, recordings: Sequence[Recording], curations: Sequence[Curation | None], dst: Path) -> tuple[Path, ...]:
        """Write one recording as the new folder `dst` of zarr stores (format 2), as ``save_minian`` would; see `CreatingFormat.create`.

        A and S, C (the denoised trace, else the trace), YrA (the trace, where there is a denoised one), images as stores of their
        own, ``unit_labels`` where anything is decided, and ``fps`` as an attribute of C. Units are numbered from 0.
        """
        return _minian_create.create(recordings, curations, Path(dst))


def _resolve(path: Path) -> Path | None:
    """The folder or file that holds the variables: `path`, the ``minian`` folder in it, or None."""
    if path.is_file():
        return path if _hdf5.kind_by_bytes(path) == "hdf5" else None
    if not path.is_dir():
        return None
    if (path / ".zgroup").is_file() or any((child / ".zgroup").is_file() for child in path.iterdir() if not child.name.startswith(".")):
        return path
    return _resolve(path / "minian") if (path / "minian").is_dir() else None


def _why_not(path: Path) -> str:
    if path.is_file():
        kind = _hdf5.kind_by_bytes(path)
        if kind == "a netCDF-3 file":
            return "a netCDF-3 file (Minian's are netCDF-4: save it with engine='h5netcdf')"
        return "HDF5 without A, C and unit_id" if kind == "hdf5" else kind
    if (path / "zarr.json").is_file() or describe_v3(path):
        return "zarr stores of format 3 (Minian's are of format 2: save them with zarr_format=2)"
    if path.suffix == ".zarr" and (path / ".zgroup").is_file():
        return "one zarr store without both A and C (pass the folder above it)"
    return "no folder of zarr stores with A and C"
