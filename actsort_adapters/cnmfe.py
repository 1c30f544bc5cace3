"""CNMF-E (zhoupc/CNMF_E) and what other tools make of its results: MATLAB files of every version.

Read: structs (``results``, ``neuron``, ``neuron_results``, ``data`` or any other name), single variables, saved Sources2D objects
(with mat-io), and the layouts of ciatah, MiniscopeAnalysis, cnmfe-reviewer and CNMFE_NoiseClear. Easily got wrong: pixels are
column-major; curating in CNMF-E means deleting, so no file says what is accepted; ``ids`` and ``tags`` are left behind when
CNMF-E re-orders its candidates. Facts: docs/formats/cnmfe.md.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actsort_adapters import _cnmfe_create, _mat
from actsort_adapters._cnmfe_filtered import write_filtered
from actsort_adapters._cnmfe_layout import Source, hint, only, places
from actsort_adapters._cnmfe_read import recording
from actsort_adapters._cnmfe_write import make_plan
from actsort_core.errors import FormatError, MissingFileError, UsageError
from actsort_core.formats import Format, Sniff, WritePlan
from actsort_core.hookspecs import hookimpl
from actsort_core.model import Curation, Recording

if TYPE_CHECKING:
    import click

__all__ = ["CnmfeFormat", "write_filtered"]


class CnmfeFormat:
    """CNMF-E results: one MATLAB file, one recording."""

    name = "cnmfe"
    description = "CNMF-E results (.mat, all versions; saved objects need mat-io); decisions go into ind_del and curation in the same file"

    def sniff(self, path: Path) -> Sniff:
        """Whether `path` is a MATLAB file with CNMF-E's footprints and traces; see `Format.sniff`."""
        return _mat.sniff(Path(path), lambda file: next(iter(places(file)), None), hint)

    def read(self, path: Path) -> tuple[Recording, ...]:
        """Read one file; see `Format.read`.

        Returns
        -------
        tuple of one Recording
            ``fov``: options.d1, options.d2, or the shape of Cn, ``(rows, columns)``. ``footprints``: A, float32, re-ordered from
            MATLAB's column-major to C order of pixels, CNMF-E's scale. ``traces``: C_raw, else C (``trace_kind`` says which);
            ``denoised``: C; ``spikes``: S; all ``(n_cells, n_frames)`` float32, from disk on demand in v7.3 files. ``fps``: Fs, in
            Hz, None where it is NaN. ``images``: ``"Cn"`` (local correlations) and ``"PNR"``. ``metrics``: P.kernel_pars and PNR
            or SNR per candidate. ``prior``: see docs/formats/cnmfe.md; undecided where nobody decided.

        Raises
        ------
        FormatError
            The file is truncated, inconsistent or holds none of these; says which part.
        MissingDependencyError
            It holds a saved object, and mat-io is not there; says how to get it, and what to do in MATLAB instead.
        """
        path = Path(path)
        with _mat.opened(path) as file:
            return (recording(path, Source(file, only(file)), self.name),)

    def plan(self, recordings: Sequence[Recording], curations: Sequence[Curation]) -> WritePlan:
        """The one file to replace: the same file with the variables ``ind_del`` and ``curation``; see `Format.plan`.

        ``ind_del`` (1 x K logical) is what ``neuron.delete`` takes: the final decision "not a cell", without undecided candidates.
        ``curation`` (struct) holds decisions, a person's labels (-1, 0, 1), probabilities, and by which footprints they go. The
        notes say what to type in MATLAB next. Where a file cannot hold more variables (big-endian, or one of more than 2 GB) the
        two are alone in ``<name>_actsort.mat`` beside it.

        Raises
        ------
        FormatError
            The file is damaged; says where the decisions are instead.
        """
        if len(recordings) != 1 or len(curations) != 1:
            raise UsageError(f"A CNMF-E file holds one recording, not {len(recordings)}.", "Write each file by itself.")
        return make_plan(recordings[0], curations[0])

    def losses(self, recordings: Sequence[Recording], curations: Sequence[Curation | None]) -> tuple[str, ...]:
        """What a CNMF-E file has no place for; see `CreatingFormat.losses`."""
        return _cnmfe_create.losses(recordings, curations)

    def create(self, recordings: Sequence[Recording], curations: Sequence[Curation | None], dst: Path) -> tuple[Path, ...]:
        """Write a v7.3 file with the struct ``results``, as obj2struct makes it, with ``ind_del`` and ``curation``; see
        `CreatingFormat.create`.

        A: sparse double, pixels column-major. C_raw (the traces), C (the denoised ones) and S: candidates x frames, single. options.d1
        and d2, Fs, Cn, PNR, ids, tags (0), P.kernel_pars where the source has them, file (the movie).
        """
        return _cnmfe_create.create(recordings, curations, Path(dst))


@hookimpl
def actsort_register_formats() -> Sequence[Format]:
    """Register CNMF-E's format."""
    return [CnmfeFormat()]


@hookimpl
def actsort_register_commands() -> Sequence[click.Command]:
    """Register ``actsort cnmfe-filtered``."""
    import click

    @click.command("cnmfe-filtered")
    @click.argument("session", type=click.Path(path_type=Path), metavar="SESSION")
    @click.argument("destination", type=click.Path(path_type=Path))
    def filtered(session: Path, destination: Path) -> None:
        """Copy a CNMF-E file without the candidates that were rejected.

        SESSION is a CNMF-E file into which `actsort write` wrote decisions, or its session. Saved objects are for MATLAB:
        neuron.delete(ind_del).
        """
        for path in _written(session):
            click.echo(f"wrote {write_filtered(path, None, destination)}")

    return [filtered]


def _written(session: Path) -> list[Path]:
    """The one CNMF-E file whose decisions a session wrote; a file stands for itself."""
    if session.is_file():
        return [session]
    folder = session if (session / "session.json").is_file() else session.with_name(session.name + ".actsort")
    try:
        document: Any = json.loads((folder / "curation.json").read_text(encoding="utf-8"))
        stored = [Path(row["path"]) for row in document["recordings"] if row["format"] == CnmfeFormat.name]
    except FileNotFoundError:
        raise MissingFileError(f"{session} has written no decisions yet.", "Write them first: actsort write SESSION") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{folder / 'curation.json'} could not be read ({error}).", "Pass the CNMF-E file itself.") from error
    near = [path if path.is_file() else folder.parent / path.name for path in stored]  # the folder may have moved as a whole
    if len(near) != 1:
        raise UsageError(f"{session} is about {len(near)} CNMF-E files.", "Pass the file itself instead of the session.")
    return near
