"""Writing recordings of other toolkits as Suite2p planes that the GUIs of 0.x and 1.x open.

The GUI of 0.x wants one flat ``ops.npy``; that of 1.x wants the settings nested in it, and ``db.npy`` and ``settings.npy`` beside it
to open the folder above ("Load folder"). Numbers that no recording has are Suite2p's defaults.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from actsort_core.errors import FormatError, UsageError
from actsort_core.model import Curation, Recording

_ROWS = 256  # traces are copied in blocks of so many candidates
_EXTRACTION: dict[str, Any] = {"batch_size": 500, "neuropil_extract": True, "inner_neuropil_radius": 2, "min_neuropil_pixels": 350}
_EXTRACTION |= {"lam_percentile": 50.0, "allow_overlap": False}
_BASELINE = {"baseline": "maximin", "win_baseline": 60.0, "sig_baseline": 10.0, "prctile_baseline": 8.0}
_CLASSIFICATION = {"classifier_path": "", "use_builtin_classifier": True, "preclassify": 0.0}
_DEFAULT_FS = 10.0


def create(recordings: Sequence[Recording], curations: Sequence[Curation | None], dst: Path) -> tuple[Path, ...]:
    """Write `recordings` as the new plane folder `dst`, or as plane0, plane1... in it; see ``Suite2pFormat.create``.

    Raises
    ------
    UsageError
        `dst` exists.
    FormatError
        A recording is not two-dimensional, or its traces and footprints are empty.
    """
    if dst.exists():
        raise UsageError(f"{dst} exists already.", "Choose a new folder: nothing is ever written over a result.")
    for recording in recordings:
        if len(recording.fov) != 2:
            raise FormatError(f"{recording.path} has a field of view of {recording.fov}; Suite2p knows only planes.")
    dst.parent.mkdir(parents=True, exist_ok=True)
    tmp = Path(tempfile.mkdtemp(dir=dst.parent, prefix=f".{dst.name}."))  # complete or not there: renamed at the end
    try:
        for number, (recording, curation) in enumerate(zip(recordings, curations, strict=True)):
            folder = tmp if len(recordings) == 1 else tmp / f"plane{number}"
            folder.mkdir(exist_ok=True)
            _write_plane(recording, curation, folder, nplanes=len(recordings))
        shutil.copymode(dst.parent, tmp)  # mkdtemp makes folders that only their owner can open
        os.replace(tmp, dst)
    finally:
        shutil.rmtree(tmp, ignore_errors=True)
    return tuple(sorted(path for path in dst.rglob("*.npy")))


def _write_plane(recording: Recording, curation: Curation | None, folder: Path, nplanes: int) -> None:
    n_cells, shape = recording.n_cells, (recording.n_cells, recording.n_frames)
    moments = np.zeros((n_cells, 2))
    for name, source in (("F.npy", recording.traces), ("Fneu.npy", None), ("spks.npy", recording.spikes)):
        if 0 in shape:
            np.save(folder / name, np.zeros(shape, np.float32))
            continue
        out = open_memmap(folder / name, "w+", np.float32, shape)  # a new file of zeros
        for start in range(0, n_cells if source is not None else 0, _ROWS):
            rows = slice(start, min(start + _ROWS, n_cells))
            out[rows] = source[rows]  # type: ignore[index]
            if name == "F.npy":
                moments[rows, 0], moments[rows, 1] = scipy.stats.skew(out[rows], axis=1), out[rows].std(axis=1)
    stat = np.empty(n_cells, object)
    stat[:] = _stat(recording, moments)
    np.save(folder / "stat.npy", stat)
    if curation is not None:
        iscell = np.column_stack([curation.accepted, curation.host_probability()])
    else:
        label = (recording.prior.verdict >= 0).astype(np.float64)  # Suite2p shows what nobody judged as cells, with probability 1
        iscell = np.column_stack([label, np.where(np.isfinite(recording.prior.probability), recording.prior.probability, label)])
    np.save(folder / "iscell.npy", iscell.astype(np.float64))
    settings, db = _metadata(recording, stat, nplanes)
    for name, content in (("ops.npy", settings | db), ("settings.npy", settings), ("db.npy", db)):
        np.save(folder / name, content)  # type: ignore[arg-type]


def _stat(recording: Recording, moments: NDArray[np.float64]) -> list[dict[str, Any]]:
    """One dictionary per candidate with the fields that Suite2p's GUI and its built-in classifier use."""
    matrix, width = recording.footprints, recording.fov[1]
    covering = np.bincount(matrix.indices, minlength=matrix.shape[0])
    sizes = np.diff(matrix.indptr)
    usual = max(float(np.median(sizes[:100])) if len(sizes) else 1.0, 1.0)
    out: list[dict[str, Any]] = []
    for first, last, (skew, std) in zip(matrix.indptr[:-1], matrix.indptr[1:], moments, strict=True):
        pixels, lam = matrix.indices[first:last].astype(np.int64), matrix.data[first:last].astype(np.float32)
        if not len(pixels):  # the GUI cannot draw an ROI without pixels: one without weight says the same
            pixels, lam = np.zeros(1, np.int64), np.zeros(1, np.float32)
        y, x = pixels // width, pixels % width
        weights = np.abs(lam) + np.finfo(np.float32).tiny  # not all zero
        spread = np.sqrt(np.linalg.eigvalsh(np.cov(np.stack([y, x]), bias=True, aweights=weights)).clip(0.01))[::-1]
        mrs, mrs0 = np.hypot(y - np.median(y), x - np.median(x)).mean(), 2 / 3 * np.sqrt(len(pixels) / np.pi)
        out.append(
            {
                **{"ypix": y, "xpix": x, "lam": lam, "med": [int(np.median(y)), int(np.median(x))], "footprint": 1.0},
                **{"npix": len(pixels), "npix_soma": len(pixels), "soma_crop": np.ones(len(pixels), bool)},
                **{"mrs": float(mrs), "mrs0": float(mrs0), "compact": max(1.0, float(mrs / mrs0))},
                **{"radius": float(2 * spread[0]), "aspect_ratio": float(2 * spread[0] / (0.01 + spread.sum()))},
                **{"npix_norm": len(pixels) / usual, "npix_norm_no_crop": len(pixels) / usual},
                **{"skew": float(skew), "std": float(std), "overlap": covering[pixels] > 1},
            }
        )
    return out


def _metadata(recording: Recording, stat: NDArray[Any], nplanes: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings (flat as in 0.x and nested as in 1.x) and the description of the movie with its images."""
    fs = recording.fps
    if fs is None:
        warnings.warn(f"The frame rate of {recording.path} is unknown; {_DEFAULT_FS} Hz is written for Suite2p.", stacklevel=4)
        fs = _DEFAULT_FS
    ly, lx = recording.fov
    diameter = 2 * float(np.median([roi["radius"] for roi in stat])) if len(stat) else 12.0
    summed = np.asarray(recording.footprints.sum(axis=1), np.float32).reshape(recording.fov)
    images = {"meanImg": next(iter(recording.images.values()), summed), "max_proj": summed, "Vcorr": summed}
    images |= {"meanImgE": images["meanImg"]} | dict(recording.images)
    settings: dict[str, Any] = {"version": "actsort", "suite2p_version": "actsort", "torch_device": "cpu", "fs": float(fs), "tau": 1.0}
    settings |= {"diameter": [diameter, diameter], "neucoeff": 0.7} | _EXTRACTION | _BASELINE | _CLASSIFICATION
    settings |= {"extraction": {**_EXTRACTION, "neuropil_coefficient": 0.7, "snr_threshold": 0.0, "circular_neuropil": False}}
    settings |= {"dcnv_preprocess": dict(_BASELINE), "classification": dict(_CLASSIFICATION), "run": {}, "io": {}, "registration": {}}
    settings |= {"detection": {"soma_crop": True, "max_overlap": 0.75}}
    db: dict[str, Any] = {"Ly": ly, "Lx": lx, "nframes": recording.n_frames, "nplanes": nplanes, "nchannels": 1, "functional_chan": 1}
    db |= {"yrange": [0, ly], "xrange": [0, lx], "data_path": [], "save_path": "", "reg_file": ""} | images
    return settings, db
