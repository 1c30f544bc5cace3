"""Where CNMF-E's results are in a MATLAB file: its own layouts, and those of tools that store them their own way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from actsort_adapters import _mat, _mat_objects
from actsort_adapters._mat import Node
from actsort_adapters._mat5 import Mat5File
from actsort_adapters._mat73 import Mat73File
from actsort_core.errors import FormatError

AnyFile = Mat5File | Mat73File


@dataclass(frozen=True)
class Layout:
    """How a tool names and orders what CNMF-E found.

    Attributes
    ----------
    tool
        Whose layout it is.
    footprints
        ``pixels x K`` (column-major pixels) or a stack of images ``rows x columns x K``.
    raw, denoised, spikes
        Traces; ``""`` where there are none.
    cells
        The axis of the candidates in traces.
    images
        Our names of images and theirs.
    """

    tool: str
    footprints: str
    raw: str
    denoised: str
    spikes: str
    cells: int
    images: Mapping[str, str]

    def fits(self, fields: set[str]) -> bool:
        """Whether a struct (or file) with these fields (or variables) has this layout."""
        if self.footprints not in fields or not {self.raw, self.denoised} & fields:
            return False
        return self is not CNMFE or self.raw in fields or bool(fields & _TELLING)  # A and C alone may be anybody's


CNMFE = Layout("CNMF-E", "A", "C_raw", "C", "S", 0, {"Cn": "Cn", "PNR": "PNR"})
MINISCOPE = Layout("MiniscopeAnalysis", "SFPs", "RawTraces", "FiltTraces", "", 1, {"Cn": "CorrProj", "PNR": "PeakToNoiseProj"})
CIATAH = Layout("ciatah", "extractedImages", "extractedSignalsEst", "extractedSignals", "", 0, {"Cn": "Cn", "PNR": "PNR"})
NOISECLEAR = Layout("CNMFE_NoiseClear", "NeuronA", "NeuronC_raw", "NeuronC", "NeuronS", 0, {"Cn": "Cn", "PNR": "PNR"})
LAYOUTS = (CNMFE, MINISCOPE, CIATAH, NOISECLEAR)
_TELLING = {"S", "Cn", "PNR", "options", "P", "ids", "tags", "Coor", "kernel"}
_FIRST = ("neuron", "results", "neuron_results", "data", "ms", "cnmfeAnalysisOutput")
_FOREIGN = {
    "output": "EXTRACT's output",
    "extractAnalysisOutput": "EXTRACT's output",
    "precomputedOutput": "ActSort's precomputed file",
    "labels": "ActSort's labels file",
    "dataset": "a classifier saved by ActSort",
    "validCNMFE": "ciatah's decisions: pass the cnmfeAnalysis file beside it",
    "curation": "decisions of ours: pass the file beside it, about which they are",
    "batches": "CNMF-E's batches: pass the file of one batch, or of the parent",
}


@dataclass(frozen=True)
class Place:
    """Where in a file the results are.

    Attributes
    ----------
    layout
        Names and axes.
    variable
        The struct or object, ``""`` where the fields are variables of their own.
    opaque
        True for a saved object.
    """

    layout: Layout
    variable: str
    opaque: bool = False

    def __str__(self) -> str:
        if not self.variable:
            return f"{self.layout.tool}'s fields as variables"
        return f"{'the object' if self.opaque else 'the struct'} {self.variable!r} ({self.layout.tool})"


def places(file: AnyFile) -> list[Place]:
    """Everywhere in `file` where results are, the most likely first; structs before objects, since everybody can read them."""
    found = []
    names = file.names
    flat = next((layout for layout in LAYOUTS if layout.fits(set(names)) and _agree(file, layout)), None)
    if flat:
        found.append(Place(flat, ""))
    for name in sorted(names, key=lambda n: (_FIRST.index(n) if n in _FIRST else len(_FIRST), n)):
        head = file.head(name)
        if head is None:
            continue
        if head.opaque:
            if head.kind.rpartition(".")[2] == "Sources2D":
                found.append(Place(CNMFE, name, True))
            continue
        fields = set(head.fields())
        layout = next((layout for layout in LAYOUTS if layout.fits(fields)), None)
        if layout:
            found.append(Place(layout, name))
    return sorted(found, key=lambda place: place.opaque)


def _agree(file: AnyFile, layout: Layout) -> bool:
    """Whether single variables named like CNMF-E's also have its shapes: names of one letter are anybody's."""
    footprints = file.head(layout.footprints)
    traces = file.head(layout.raw) or file.head(layout.denoised)
    return bool(footprints and traces and len(traces.shape) == 2 and footprints.shape[-1] in traces.shape)


def hint(file: AnyFile) -> str:
    """What a file without CNMF-E's results looks like instead, as a clause."""
    for name in file.names:
        if name in _FOREIGN:
            return f"a MATLAB file that looks like {_FOREIGN[name]}"
    many = next((name for name in _FIRST if name in file.names and (head := file.head(name)) and head.kind == "struct"), None)
    if many:
        return f"a MATLAB file whose struct {many!r} holds no footprints with traces (A with C or C_raw), or is an array of structs"
    shown = ", ".join(file.names[:5]) or "nothing"
    return f"a MATLAB file without CNMF-E's footprints and traces (it holds {shown})"


class Source:
    """The results in an open file: their fields by name, wherever they are."""

    def __init__(self, file: AnyFile, place: Place) -> None:
        self.file, self.place = file, place
        self._top: Node | None = None
        if place.opaque:
            self._top = _mat_objects.load(file, place.variable, without_matio(file, place))
        elif place.variable:
            self._top = file.variable(place.variable)

    def own(self, name: str) -> Node | None:
        """A field, or None."""
        if not name:
            return None
        if self._top is None:
            return self.file.variable(name)
        return self._top.field(name)

    def get(self, path: str) -> Node | None:
        """A field (``"options.d1"`` goes deeper), else the variable of that name in the file, else None."""
        first, _, rest = path.partition(".")
        for found in (self.own(first), self.file.variable(first)):
            for name in filter(None, rest.split(".")):
                found = found.field(name) if found is not None else None
            if found is not None:
                return found
        return None

    def number(self, path: str) -> float:
        """A scalar, NaN where there is none."""
        return _mat.number(self.get(path))


def only(file: AnyFile) -> Place:
    """The place of the results.

    Raises
    ------
    FormatError
        There is none.
    """
    found = places(file)
    if not found:
        raise FormatError(f"{file.path} is {hint(file)}.", "CNMF-E's results have A with C or C_raw, alone or in a struct or object.")
    return found[0]


def without_matio(file: AnyFile, place: Place) -> str:
    """How to get a file that needs no mat-io: the lines for MATLAB, as the end of a sentence."""
    name, variable = file.path.name.replace("'", "''"), place.variable
    new = f"{file.path.stem}_struct.mat".replace("'", "''")
    return (
        "in MATLAB, with CNMF-E on its path, run these two lines and open the new file:\n"
        f"  load('{name}'); results = {variable}.obj2struct(); results.PNR = {variable}.PNR;\n"
        f"  save('{new}', 'results', '-v7');   % '-v7.3' above 2 GB"
    )
