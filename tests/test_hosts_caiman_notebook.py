"""The example notebook, and a real ``cnm``: fit, curate, filter, select, refit, save, load.

Cells tagged ``caiman`` need CaImAn. Without it the others run on recorded estimates; with it (from conda-forge; PyPI's is another) all do.
"""

from __future__ import annotations

import copy
import gc
import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import h5py
import live_caiman
import numpy as np
import pytest
import scipy.sparse as sp
from live_caiman import FOUR

from actsort_adapters.hosts.caiman import curate

NOTEBOOK = Path(__file__).parents[1] / "examples" / "caiman_notebook" / "curate_caiman.ipynb"


def has_caiman():
    try:
        return importlib.util.find_spec("caiman.source_extraction") is not None
    except (ImportError, ValueError):
        return False


needs_caiman = pytest.mark.skipif(
    not has_caiman(), reason="CaImAn is not installed here (it is on conda-forge only): run this in an environment that has it"
)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CAIMAN_TEMP", str(tmp_path))
    yield tmp_path
    gc.collect()


def cells():
    """(source, tags) of the code cells."""
    found = json.loads(NOTEBOOK.read_text())["cells"]
    return [("".join(cell["source"]), cell["metadata"].get("tags", [])) for cell in found if cell["cell_type"] == "code"]


def run(names, answer, skip=()):
    """The code cells in order, in the namespace `names`; the questions that the cell tagged ``curate`` shows are answered by `answer`."""
    for number, (source, tags) in enumerate(cells()):
        if set(tags) & set(skip):
            continue
        exec(compile(source, f"cell {number}", "exec"), names)
        if "parameters" in tags:
            names.update(names.pop("given", {}))
        if "curate" in tags:
            curation = names["curation"]
            assert "is it a cell?" in curation._repr_html_()
            for _ in range(16):
                curation.answer(answer(curation.ask()))


def test_the_notebook_holds_no_output_and_is_valid():
    document = json.loads(NOTEBOOK.read_text())
    assert (document["nbformat"], document["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in document["cells"]}) == len(document["cells"])
    for cell in document["cells"]:
        assert cell["cell_type"] in ("markdown", "code")
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None


def test_the_notebook_on_recorded_estimates(here, capsys):
    truth, movie = live_caiman.truth(), live_caiman.movie()
    cnm = SimpleNamespace(estimates=live_caiman.recorded(), params=SimpleNamespace(data={"fr": 10.0}))
    names = {"cnmf_refit": cnm, "images": movie, "given": {}}
    run(names, lambda i: bool(truth[i]), skip=("caiman",))
    said = capsys.readouterr().out
    assert "accepted / rejected by thresholds: 24 / 12" in said
    assert "16 labelled" in said
    estimates = cnm.estimates
    assert estimates.A.shape[1] == len(estimates.idx_components) == int(truth.sum())  # select_components has run
    assert (here / "caiman_curation" / "fit1.hdf5.actsort" / "labels.jsonl").is_file()
    names["curation"].close()


# ---- with the real CaImAn


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """A two-photon movie of 25 neurons as a .tif, 60 x 70 pixels, 500 frames at 10 Hz; and the neurons' footprints in Fortran order."""
    import tifffile

    with h5py.File(live_caiman.DATA / "sim_2p_truth.h5") as file:
        neurons, traces = file["A"][:], file["C"][:, :500]
    rng = np.random.default_rng(0)
    slow = np.cumsum(rng.normal(0, 0.3, 500))
    movie = 200 + np.tensordot(traces.T * 60 / max(traces.max(), 1e-9), neurons / neurons.max(), 1)
    movie += (slow - slow.min())[:, None, None] * 0.5 + rng.normal(0, 2.5, movie.shape)
    path = tmp_path_factory.mktemp("movie") / "simulated.tif"
    tifffile.imwrite(path, np.clip(movie, 0, None).astype(np.float32))
    return path, sp.csc_matrix(np.stack([neuron.reshape(-1, order="F") for neuron in neurons], 1))


def truth_of(estimates, neurons):
    """``(n_cells,)``: which components are the best match of a neuron (cosine above .5)."""

    def unit(matrix):
        norm = np.sqrt(np.asarray(matrix.power(2).sum(axis=0)).ravel())
        return matrix @ sp.diags(1 / np.where(norm > 0, norm, 1))

    cosine = (unit(sp.csc_matrix(estimates.A)).T @ unit(neurons)).toarray()
    out = np.zeros(len(cosine), bool)
    for j, i in enumerate(cosine.argmax(axis=0)):
        out[i] |= cosine[i, j] > 0.5
    return out


SETTINGS = {"fr": 10, "decay_time": 0.4, "gSig": [3, 3], "K": 32, "rf": None, "stride": 10, "rval_thr": 0.8}


@needs_caiman
def test_the_whole_notebook_with_caiman(here, simulated):
    path, neurons = simulated
    names = {"given": {"movie_path": path, "settings": SETTINGS}}
    seen = []

    def answer(component):
        if not seen:
            seen.append(truth_of(names["estimates"], neurons))
        return bool(seen[0][component])

    run(names, answer)
    estimates = names["cnmf_refit"].estimates
    assert estimates.A.shape[1] == len(estimates.idx_components)
    assert truth_of(estimates, neurons).mean() > 0.8
    from caiman.source_extraction.cnmf.cnmf import load_CNMF

    loaded = load_CNMF(str(here / "curated_results.hdf5")).estimates
    for name in FOUR:
        assert np.array_equal(getattr(loaded, name), getattr(estimates, name))
    names["curation"].close()


def fitted(here, path):
    """A real ``cnm`` after its first fit, not evaluated; its images; their memory map."""
    import caiman as cm
    from caiman.source_extraction.cnmf import cnmf, params

    memmap = cm.save_memmap([str(path)], base_name=str(here / "memmap_"), order="C")
    stored, dims, n_frames = cm.load_memmap(memmap)
    images = np.reshape(stored.T, (n_frames, *dims), order="F")
    given = {**SETTINGS, "fnames": memmap, "dims": dims, "p": 1, "nb": 2, "min_SNR": 2.0, "use_cnn": False, "only_init": False}
    cnm = cnmf.CNMF(1, params=params.CNMFParams(params_dict=given), dview=None)
    cnm.fit(images)
    return cnm, images, memmap


@needs_caiman
def test_a_real_cnm_that_is_evaluated_only_after_the_first_call(here, simulated):
    cnm, images, _ = fitted(here, simulated[0])
    first = curate(cnm, images=images)
    assert first.curation().undecided.all()
    first.label(0, False)
    cnm.estimates.evaluate_components(images, cnm.params)
    own = np.isin(np.arange(cnm.estimates.A.shape[1]), cnm.estimates.idx_components)
    again = curate(cnm, images=images)
    assert again.labels() == {0: "not_cell"}
    assert np.array_equal(again.curation().accepted[1:], own[1:])
    assert cnm.estimates.rejected_list.tolist() == [0, *(1 + np.flatnonzero(~own[1:]))]


@needs_caiman
def test_the_life_of_a_real_cnm(here, simulated):
    from caiman.source_extraction.cnmf import cnmf

    path, neurons = simulated
    cnm, images, memmap = fitted(here, path)
    estimates = cnm.estimates
    estimates.evaluate_components(images, cnm.params)
    truth = truth_of(estimates, neurons)
    curator = curate(cnm, lambda i: bool(truth[i]), labels=16, images=images)

    def four():
        return {name: getattr(estimates, name).tolist() for name in FOUR}

    decided, labels = four(), curator.labels()
    recording = curator.session.recordings["fit1"]
    assert recording.fps == 10
    assert recording.movie_path == Path(memmap)
    accepted = np.isin(np.arange(len(truth)), estimates.idx_components)
    assert (accepted == truth).mean() >= 0.9
    for mode in ("All", "Accepted", "Rejected", "Unassigned"):
        estimates.filter_components(images, cnm.params, new_dict={"min_SNR": 4.0}, select_mode=mode)
        curator.apply()
        assert four() == decided, mode
    estimates.evaluate_components(images, cnm.params)
    assert curate(cnm, images=images).labels() == labels
    assert four() == decided
    # saved and loaded
    result = str(here / "result.hdf5")
    cnm.save(result)
    loaded = cnmf.load_CNMF(result)
    assert {name: getattr(loaded.estimates, name).tolist() for name in FOUR} == decided
    assert curate(loaded).labels() == labels
    # selected
    selected = copy.deepcopy(estimates)
    selected.select_components(use_object=True)
    kept = np.array(decided["idx_components"])
    follower = curate(selected)
    assert follower.labels() == {int(np.flatnonzero(kept == i)[0]): value for i, value in labels.items() if i in kept}
    assert len(selected.idx_components) == selected.A.shape[1] == len(kept)
    # refit
    refitted = cnm.refit(images)
    refitted.estimates.evaluate_components(images, refitted.params)
    follower = curate(refitted, images=images)
    now = truth_of(refitted.estimates, neurons)
    assert len(follower.labels()) >= 0.7 * sum(i in kept for i in labels)
    assert all((value == "cell") == now[i] for i, value in follower.labels().items())
    n_cells = refitted.estimates.A.shape[1]
    assert sorted([*refitted.estimates.idx_components, *refitted.estimates.idx_components_bad]) == list(range(n_cells))
    refitted.estimates.select_components(use_object=True)  # CaImAn takes what was set
    assert refitted.estimates.A.shape[1] == len(curate(refitted).curation().accepted)
    refitted.save(str(here / "refitted.hdf5"))
