"""Writing recordings of other toolkits as Suite2p planes that the GUIs of 0.x and 1.x open.

The GUI of 0.x wants one flat ``ops.npy``; that of 1.x wants the settings nested in it, and ``db.npy`` and ``settings.npy`` beside it
to open the folder above ("Load folder"). Numbers that no recording has are Suite2p's defaults; what had to be made up is noted, so
that reading does not take it for data.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from actsort_adapters._suite2p_plane import DEFAULT_NEUCOEFF, IMAGES, OURS, Corrected
from actsort_core.errors import ActsortError, ChangedError, FormatError, UsageError, WriteError
from actsort_core.model import Curation, Recording, TraceArray

_ROWS = 256  # traces are copied in blocks of so many candidates
_EXTRACTION: dict[str, Any] = {"batch_size": 500, "neuropil_extract": True, "inner_neuropil_radius": 2, "min_neuropil_pixels": 350}
_EXTRACTION |= {"lam_percentile": 50.0, "allow_overlap": False}
_BASELINE = {"baseline": "maximin", "win_baseline": 60.0, "sig_baseline": 10.0, "prctile_baseline": 8.0}
_CLASSIFICATION = {"classifier_path": "", "use_builtin_classifier": True, "preclassify": 0.0}
_DEFAULT_FS = 10.0
_LONGEST_NAME = 31  # "Save to mat" in the GUI fails over longer ones (scipy.io.savemat)
# Fields of stat that follow from the pixels, or that Suite2p's classifier and GUI take for its own: never another host's numbers.
_STRUCTURE = frozenset({"ypix", "xpix", "lam", "med", "npix", "soma_crop", "overlap", "neuropil_mask"})
_BOOKKEEPING = frozenset({"imerge", "inmerge", "iplane", "manual", "chan2_prob", "xext", "yext", "xcirc", "ycirc"})
_STATISTICS = frozenset(
    {
        "npix_soma",
        "footprint",
        "mrs",
        "mrs0",
        "compact",
        "radius",
        "aspect_ratio",
        "npix_norm",
        "npix_norm_no_crop",
        "skew",
        "std",
        "snr",
        "solidity",
    }
)


def losses(recordings: Sequence[Recording], curations: Sequence[Curation | None]) -> tuple[str, ...]:
    """What Suite2p's files cannot hold of `recordings`; see ``Suite2pFormat.losses``."""
    out: list[str] = []
    for recording, curation in zip(recordings, curations, strict=True):
        _check(recording, curation)
        name = f"{recording.name}: "
        if recording.denoised is not None:
            out.append(f"{name}the denoised traces; Suite2p has no place for them (F becomes {recording.trace_kind}).")
        if recording.fps is None:
            out.append(f"{name}the frame rate is unknown; Suite2p cannot do without, and sees {_DEFAULT_FS:g} Hz.")
        if dropped := [key for key in recording.metrics if not _is_carried(key, recording) and key not in _STRUCTURE]:
            out.append(f"{name}the statistics {', '.join(sorted(dropped))}; Suite2p has its own of these names, or none as long.")
        if curation is None and (n := int((recording.prior.verdict == 0).sum())):
            out.append(f"{name}that {n} candidates are undecided; they become cells, which is how Suite2p shows what nobody judged.")
        if curation is not None and (n := int((curation.undecided & ~curation.accepted).sum())):
            out.append(f"{name}that {n} candidates are undecided; they become not cells.")
        if curation is not None and curation.labels:
            out.append(f"{name}who labelled what; iscell.npy holds decisions and probabilities. The labels stay in their session.")
        if "red_cells" in recording.info:
            out.append(f"{name}the second channel (F_chan2, Fneu_chan2, redcell); only its mean image is carried over.")
        if recording.movie_path is not None:
            out.append(f"{name}the movie, which stays where it is ({recording.movie_path}).")
        if not recording.n_cells:
            out.append(f"{name}it has no candidates; Suite2p's GUI does not open such a plane.")
    return tuple(out)


def create(recordings: Sequence[Recording], curations: Sequence[Curation | None], dst: Path) -> tuple[Path, ...]:
    """Write `recordings` as the new plane folder `dst`, or as plane0, plane1... in it; see ``Suite2pFormat.create``."""
    if os.path.lexists(dst):
        raise UsageError(f"{dst} exists already.", "Choose a new folder: nothing is ever written over a result.")
    for recording, curation in zip(recordings, curations, strict=True):
        _check(recording, curation)
    tmp = None
    try:
        dst.parent.mkdir(parents=True, exist_ok=True)
        tmp = Path(tempfile.mkdtemp(dir=dst.parent, prefix=f".{dst.name[:80]}."))  # complete or not there: renamed at the end
        for number, (recording, curation) in enumerate(zip(recordings, curations, strict=True)):
            folder = tmp if len(recordings) == 1 else tmp / f"plane{number}"
            folder.mkdir(exist_ok=True)
            _write_plane(recording, curation, folder, nplanes=len(recordings))
        shutil.copymode(dst.parent, tmp)  # mkdtemp makes folders that only their owner can open
        os.replace(tmp, dst)
    except ActsortError:
        raise
    except OSError as error:
        raise WriteError(f"{dst} could not be written ({error}).", "Nothing is there. Is the disk full, or write-protected?") from error
    finally:
        if tmp is not None:
            shutil.rmtree(tmp, ignore_errors=True)
    return tuple(sorted(dst.rglob("*.npy")))


def _check(recording: Recording, curation: Curation | None) -> None:
    if len(recording.fov) != 2:
        problem = f"{recording.path} has a field of view of {recording.fov}; Suite2p knows only planes."
        raise FormatError(problem, "Volumes can be held by CaImAn and NWB files.")
    if curation is not None and curation.n_cells != recording.n_cells:
        raise ChangedError(f"{recording.path} has {recording.n_cells} candidates, the decisions are for {curation.n_cells}.")


def _is_carried(key: str, recording: Recording) -> bool:
    """Whether a statistic goes into stat under its own name."""
    own = recording.format == "suite2p"
    return key not in _STRUCTURE | _BOOKKEEPING and (own or key not in _STATISTICS) and len(key.encode()) <= _LONGEST_NAME


def _write_plane(recording: Recording, curation: Curation | None, folder: Path, nplanes: int) -> None:
    traces, neuropil, neucoeff = recording.traces, None, DEFAULT_NEUCOEFF
    if isinstance(own := recording.traces, Corrected):  # Suite2p's own: F and Fneu stay apart
        traces, neuropil, neucoeff = own.fluorescence, own.neuropil, own.coefficient
    for name, source in (("F.npy", traces), ("Fneu.npy", neuropil), ("spks.npy", recording.spikes)):
        _write_traces(folder / name, source, (recording.n_cells, recording.n_frames))
    stat = np.empty(recording.n_cells, object)
    stat[:] = _stat(recording, _moments(recording))
    np.save(folder / "stat.npy", stat)
    if curation is not None:
        iscell = np.column_stack([curation.accepted, curation.host_probability()])
    else:
        label = (recording.prior.verdict >= 0).astype(np.float64)  # Suite2p shows what nobody judged as cells, with probability 1
        iscell = np.column_stack([label, np.where(np.isfinite(recording.prior.probability), recording.prior.probability, label)])
    np.save(folder / "iscell.npy", iscell.astype(np.float64))
    settings, db = _metadata(recording, stat, nplanes, neucoeff)
    for name, content in (("ops.npy", settings | db), ("settings.npy", settings), ("db.npy", db)):
        np.save(folder / name, content)  # type: ignore[arg-type]


def _write_traces(path: Path, source: TraceArray | None, shape: tuple[int, int]) -> None:
    if 0 in shape:
        np.save(path, np.zeros(shape, np.float32))
        return
    out = open_memmap(path, "w+", np.float32, shape)  # a new file of zeros
    for rows in _blocks(shape[0]) if source is not None else ():
        out[rows] = source[rows]  # type: ignore[index]
    out.flush()


def _blocks(n_cells: int) -> Iterable[slice]:
    return (slice(start, min(start + _ROWS, n_cells)) for start in range(0, n_cells, _ROWS))


def _moments(recording: Recording) -> NDArray[np.float64]:
    """Skewness and standard deviation of each trace, ``(n_cells, 2)``; 0 where there is none."""
    out = np.zeros((recording.n_cells, 2))
    for rows in _blocks(recording.n_cells) if recording.n_frames else ():
        block = np.asarray(recording.traces[rows], np.float64)
        with np.errstate(all="ignore"):
            block = block - block.mean(axis=1, keepdims=True)
            std = np.sqrt((block**2).mean(axis=1))
            out[rows] = np.stack([(block**3).mean(axis=1) / std**3, std], axis=1)
    out[~np.isfinite(out)] = 0
    return out


def _stat(recording: Recording, moments: NDArray[np.float64]) -> list[dict[str, Any]]:
    """One dictionary per candidate with the fields that Suite2p's GUI and its built-in classifier use, and the host's statistics."""
    matrix, width = recording.footprints, recording.fov[1]
    covering = np.bincount(matrix.indices, minlength=matrix.shape[0])
    sizes = np.diff(matrix.indptr)
    usual = max(float(np.median(sizes[:100])) if len(sizes) else 1.0, 1.0)
    carried = {key: values for key, values in recording.metrics.items() if _is_carried(key, recording)}
    out: list[dict[str, Any]] = []
    for i, (first, last) in enumerate(zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True)):
        pixels, lam = matrix.indices[first:last].astype(np.int64), matrix.data[first:last].astype(np.float32)
        if not len(pixels):  # the GUI cannot draw an ROI without pixels: one without weight says the same
            pixels, lam = np.zeros(1, np.int64), np.zeros(1, np.float32)
        y, x = pixels // width, pixels % width
        weights = np.abs(lam) + np.finfo(np.float32).tiny  # not all zero
        spread = np.sqrt(np.linalg.eigvalsh(np.cov(np.stack([y, x]), bias=True, aweights=weights)).clip(0.01))[::-1]
        mrs, mrs0 = np.hypot(y - np.median(y), x - np.median(x)).mean(), 2 / 3 * np.sqrt(len(pixels) / np.pi)
        roi = {
            **{"ypix": y, "xpix": x, "lam": lam, "med": [int(np.median(y)), int(np.median(x))], "footprint": 1.0},
            **{"npix": len(pixels), "npix_soma": len(pixels), "soma_crop": np.ones(len(pixels), bool)},
            **{"mrs": float(mrs), "mrs0": float(mrs0), "compact": max(1.0, float(mrs / mrs0))},
            **{"radius": float(2 * spread[0]), "aspect_ratio": float(2 * spread[0] / (0.01 + spread.sum()))},
            **{"npix_norm": len(pixels) / usual, "npix_norm_no_crop": len(pixels) / usual},
            **{"skew": float(moments[i, 0]), "std": float(moments[i, 1]), "overlap": covering[pixels] > 1},
        }
        # a NaN is a field that the ROI does not have: Suite2p's statistics then stay as computed here
        roi |= {key: float(values[i]) for key, values in carried.items() if not np.isnan(values[i])}
        out.append(roi | {"npix_soma": int(roi["npix_soma"])})
    return out


def _metadata(recording: Recording, stat: NDArray[Any], nplanes: int, neucoeff: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings (flat as in 0.x and nested as in 1.x) and the description of the movie with its images."""
    ly, lx = recording.fov
    fs = _DEFAULT_FS if recording.fps is None else float(recording.fps)
    diameter = 2 * float(np.median([roi["radius"] for roi in stat])) if len(stat) else 12.0
    images = {name: recording.images[name] for name in IMAGES if name in recording.images}
    others = {name: image for name, image in recording.images.items() if name not in images}
    summed = np.asarray(recording.footprints.sum(axis=1), np.float32).reshape(recording.fov)
    # the GUI wants these four; where the host has none of the name, the one most like it, else what the footprints look like
    wanted = {"meanImg": ("mean", "avg"), "max_proj": ("max",), "Vcorr": ("corr", "cn", "pnr")}
    made = [name for name in (*wanted, "meanImgE") if name not in images]
    for name, like in wanted.items():
        alike = (image for other, image in others.items() if any(word in other.lower() for word in like))
        images.setdefault(name, np.nan_to_num(next(alike, summed)))
    images.setdefault("meanImgE", images["meanImg"])
    made += [name for name, known in (("fs", recording.fps), ("spks", recording.spikes)) if known is None]
    ours = {"made": made, "images": list(others), "stack": np.array(list(others.values()), np.float32).reshape(-1, ly, lx)}
    settings: dict[str, Any] = {"version": "actsort", "suite2p_version": "actsort", "torch_device": "cpu", "fs": fs, "tau": 1.0}
    settings |= {"diameter": [diameter, diameter], "neucoeff": neucoeff} | _EXTRACTION | _BASELINE | _CLASSIFICATION
    settings |= {"extraction": {**_EXTRACTION, "neuropil_coefficient": neucoeff, "snr_threshold": 0.0, "circular_neuropil": False}}
    settings |= {"dcnv_preprocess": dict(_BASELINE), "classification": dict(_CLASSIFICATION), "run": {}, "registration": {}}
    settings |= {"detection": {"soma_crop": True, "max_overlap": 0.75}, "io": {"save_mat": False}}
    db: dict[str, Any] = {"Ly": ly, "Lx": lx, "nframes": recording.n_frames, "nplanes": nplanes, "nchannels": 1, "functional_chan": 1}
    db |= {"yrange": [0, ly], "xrange": [0, lx], "data_path": [""], "save_path": "", "reg_file": "", OURS: ours} | images
    return settings, db
