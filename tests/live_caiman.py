"""A running CaImAn's ``cnm`` without CaImAn: recorded estimates, and the steps that change them.

tests/data/caiman/live_2p_refit.npz was recorded from CaImAn 1.12.1 (400 frames of the simulated two-photon movie, 60 x 70 pixels):
`evaluated` before, `refit` after ``cnm.refit`` with the 24 components of ``refit/from`` accepted, `refit_evaluated` after that. What the
steps do to the four fields and to the numbering is as in its estimates.py (select_components, filter_components).
"""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import scipy.sparse as sp

DATA = Path(__file__).parent / "data" / "caiman"
FOUR = ("idx_components", "idx_components_bad", "accepted_list", "rejected_list")
_CUT = ("C", "S", "YrA", "R", "F_dff", "cnn_preds", "SNR_comp", "r_values")


class Estimates(SimpleNamespace):
    """Attributes as of CaImAn's Estimates, and two of its methods."""

    def select_components(self, idx_components=None, use_object=False):
        bad = self.idx_components_bad if use_object else np.setdiff1d(np.arange(self.A.shape[1]), idx_components)
        kept = self.idx_components if use_object else idx_components
        if kept is None:
            return
        n_cells = self.A.shape[1]
        if self.discarded_components is None:
            self.discarded_components = Estimates(A=None)
        for name in _CUT:
            values = getattr(self, name, None)
            if values is not None and len(values) == n_cells:
                setattr(self, name, values[kept])
        cut = self.A.tocsc()[:, bad]
        before = self.discarded_components.A
        self.discarded_components.A = cut if before is None else sp.hstack([before, cut], "csc")
        self.A = self.A.tocsc()[:, kept]
        self.idx_components = self.idx_components_bad = None

    def filter_components(self, images, parameters, new_dict=None, select_mode="All"):
        good = (self.SNR_comp >= (new_dict or {}).get("min_SNR", 2.5)) | (self.r_values >= 0.8)
        self.idx_components, self.idx_components_bad = np.flatnonzero(good), np.flatnonzero(~good)


def from_file(name: str) -> Estimates:
    """What ``load_CNMF`` would make of a saved result's /estimates, as far as the tests need it."""
    out = Estimates()
    with h5py.File(DATA / name) as file:
        for key, value in file["estimates"].items():
            if isinstance(value, h5py.Group):
                parts = [value[name][:] for name in ("data", "indices", "indptr", "shape")] if key == "A" else None
                setattr(out, key, None if parts is None else sp.csc_matrix(tuple(parts[:3]), parts[3]))
            else:
                found = value[()]
                setattr(out, key, None if isinstance(found, bytes) else found)
    out.dims = tuple(int(n) for n in out.dims)
    return out


def recorded(state: str = "evaluated") -> Estimates:
    """The recorded object `evaluated`, or after its refit (`refit`, `refit_evaluated`)."""
    with np.load(DATA / "live_2p_refit.npz") as file:
        values = {key.split("/")[1]: file[key] for key in file if key.startswith(f"{'refit' if state != 'evaluated' else state}/")}
        if state == "refit_evaluated":
            values |= {key.split("/")[1]: file[key] for key in file if key.startswith("refit_evaluated/")}
        dims = tuple(int(n) for n in file["dims"])
    footprints = sp.csc_matrix((values["A_data"].astype(float), values["A_indices"].astype(int), values["A_indptr"]))
    footprints.resize(int(np.prod(dims)), len(values["C"]))
    fields = {name: values.get(name) for name in (*FOUR, "SNR_comp", "r_values", "cnn_preds")}
    out = Estimates(
        A=footprints,
        C=values["C"].astype(float),
        YrA=values["YrA"].astype(float),
        dims=dims,
        discarded_components=None,
        b=None,
        f=None,
        **fields,
    )
    for name in FOUR[2:]:  # absent, not None, until somebody sets them
        if getattr(out, name) is None:
            delattr(out, name)
    return out


def truth(state: str = "evaluated") -> np.ndarray:
    """``(n_cells,)`` bool: which components are simulated neurons."""
    with np.load(DATA / "live_2p_refit.npz") as file:
        return file["evaluated/truth" if state == "evaluated" else "refit/truth"]


def refit(estimates: Estimates, evaluated: bool = False) -> Estimates:
    """``cnm.refit(images).estimates`` of the recorded object, curated as it was when it was recorded."""
    with np.load(DATA / "live_2p_refit.npz") as file:
        assert np.array_equal(estimates.idx_components, file["refit/from"]), "the recorded refit is of other components"
    before = copy.deepcopy(estimates)
    before.select_components(use_object=True)
    after = recorded("refit_evaluated" if evaluated else "refit")
    after.discarded_components = before.discarded_components
    return after


def movie(seed: int = 0) -> np.ndarray:
    """A movie ``(400, 60, 70)`` float32 with the components' activity, in the layout CaImAn's steps take (a view of ``Yr.T``)."""
    estimates = recorded()
    noise = np.random.default_rng(seed).normal(0, 1, (np.prod(estimates.dims), estimates.C.shape[1]))
    stored = np.ascontiguousarray((estimates.A @ estimates.C + noise).astype(np.float32))
    return np.reshape(stored.T, (estimates.C.shape[1], *estimates.dims), order="F")
