"""What tests of formats in MATLAB files share: saving small files in every version, curating, staging."""

from __future__ import annotations

import h5py
import numpy as np
import scipy.io

from actsort_adapters import _mat_new
from actsort_core.model import CandidateId, Curation, Label


def save(path, values, version="v7"):
    """A MATLAB file; in v7.3 with MATLAB's header."""
    if version == "v7.3":
        _mat_new.write(path, values)
    else:
        scipy.io.savemat(path, values, do_compression=version == "v7", oned_as="row")
    return path


def mixed(recording, prob=0.8):
    """Labels, an unsure label, the model's decisions, undecided candidates, in turns."""
    n = recording.n_cells
    i = np.arange(n)
    origin = np.array(["label", "model", "none"])[i % 3]
    accepted = (i % 2 == 0) & (origin != "none")
    key = recording.name
    labels = {int(k): Label(CandidateId(key, int(k)), "cell" if accepted[k] else "not_cell", "Änne") for k in i[origin == "label"]}
    if n > 1:
        labels[1] = Label(CandidateId(key, 1), "unsure", "Bo")
    probability = np.where(origin == "model", np.where(accepted, prob, 1 - prob), np.nan)
    return Curation(key, recording.fingerprint, recording.candidate_fingerprints, accepted, origin, probability, 0.5, labels)


def write(fmt, recording, curation):
    """Plan, stage and put in place; gives the plan."""
    plan = fmt.plan([recording], [curation])
    for edit in plan.edits:
        tmp = edit.path.with_name(f".{edit.path.name}.tmp")
        edit.stage(tmp)
        tmp.replace(edit.path)
    return plan


def objects(path):
    """Every object of an HDF5 file with its raw content, but references."""
    found = {}

    def visit(name, item):
        if isinstance(item, h5py.Dataset) and not item.dtype.hasobject:
            found[name] = (item.shape, item.dtype.str, item[()].tobytes())

    with h5py.File(path) as file:
        file.visititems(visit)
    return found
