"""Suite2p's real pipeline and its real GUI, in whichever generation is installed here."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import movie as movies
import numpy as np
import suite2p
from numpy.typing import NDArray

_HANGS = 900  # seconds; it takes ten, and minutes where ten others want the same two processors

OLD = not hasattr(suite2p, "default_settings")  # 0.14 has ops, 1.x has settings and db


def save_movie(folder: Path, *planes: NDArray[np.int16]) -> Path:
    """Planes as a microscope interleaves them, in one TIFF file; returns the folder to give to `run`."""
    import tifffile

    folder.mkdir(parents=True)
    frames = np.stack(planes, axis=1).reshape(-1, *planes[0].shape[1:])
    tifffile.imwrite(folder / "movie.tif", frames)
    return folder


def run(data: Path, out: Path, n_planes: int = 1, classifier: Path | None = None, **classification: Any) -> Path:
    """``suite2p.run_s2p`` from TIFF to ``iscell.npy``; returns the folder ``suite2p``.

    Parameters
    ----------
    data
        Folder with the movie.
    out
        Where to.
    n_planes
        Number of planes in the movie.
    classifier
        A classifier file, set as Suite2p's documentation says.
    **classification
        Further options of the classification step by their names in 1.x.
    """
    if OLD:
        ops = suite2p.default_ops()
        ops.update(fs=movies.FPS, tau=0.8, diameter=movies.DIAMETER, threshold_scaling=0.7, nplanes=n_planes, **classification)
        if classifier is not None:
            ops["classifier_path"] = str(classifier)
        suite2p.run_s2p(ops=ops, db={"data_path": [str(data)], "save_path0": str(out)})
    else:
        settings, db = suite2p.default_settings(), suite2p.default_db()
        db.update(data_path=[str(data)], save_path0=str(out), input_format="tif", nplanes=n_planes)
        settings.update(fs=movies.FPS, tau=0.8, diameter=[float(movies.DIAMETER)] * 2, torch_device="cpu")
        settings["detection"]["threshold_scaling"] = 0.7
        settings["registration"]["nonrigid"] = False  # its blocks are larger than this field of view
        settings["classification"].update(classification)
        if classifier is not None:
            settings["classification"]["classifier_path"] = str(classifier)
        suite2p.run_s2p(db=db, settings=settings)
    return out / "suite2p"


def stat(plane: Path) -> Any:
    """The regions of interest as Suite2p saved them."""
    return np.load(plane / "stat.npy", allow_pickle=True)


def gui(plane: Path, *steps: Sequence[Any], timeout: float = _HANGS) -> list[dict[str, Any]]:
    """Open a plane in Suite2p's real GUI, offscreen, in a process of its own, and do these steps (see gui.py).

    Returns
    -------
    What the GUI held after opening it and after each step.
    """
    script = Path(__file__).with_name("gui.py")
    done = subprocess.run(
        [sys.executable, str(script), str(plane), json.dumps(steps)], capture_output=True, text=True, timeout=timeout, check=False
    )
    states = [json.loads(line.removeprefix("STATE ")) for line in done.stdout.splitlines() if line.startswith("STATE ")]
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert len(states) == len(steps) + 1, f"{done.stdout}\n{done.stderr}"
    assert not any(state["errors"] for state in states), f"{[state['errors'] for state in states]}\n{done.stderr}"
    return states


def actsort(*words: Any, ok: bool = True) -> str:
    """The command line, in a process of its own; with ``--json`` parse what this returns."""
    command = [sys.executable, "-m", "actsort_core", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_HANGS, check=False)
    assert (done.returncode == 0) == ok, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout if ok else done.stderr
