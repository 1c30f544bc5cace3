"""Whole sessions in a real browser: 200 labels against a simulated person, and the page on what each toolkit writes."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from browser import SIZES, journal, lab_plugins, save_plain
from conftest import simulated
from web_client import Client

from actsort_adapters import actsort_matlab, caiman, cnmfe, extract, minian, nwb, plain, suite2p
from actsort_core import exporters, plugins
from actsort_core.model import CELL, NOT_CELL
from actsort_core.simulate import simulate_movie

DATA = Path(__file__).parent / "data"
RESULTS = {
    "suite2p": ("suite2p/s2p_110/mini/suite2p/plane0", None),
    "suite2p_two_planes": ("suite2p/s2p_110/twoplane/suite2p", None),
    "suite2p_0.14": ("suite2p/s2p_0146/single/suite2p/plane0", None),
    "caiman": ("caiman/cnmf_2p_4gui.hdf5", None),
    "caiman_3d": ("caiman/cnmf_3d_evaluated.hdf5", None),
    "caiman_one": ("caiman/cnmf_patches_one.hdf5", None),
    "caiman_none": ("caiman/cnmf_patches_none.hdf5", None),
    "cnmfe": ("cnmfe/cnmfe_results_struct_v7.mat", None),
    "extract": ("extract/extract_output_cellcheck_v73.mat", None),
    "actsort_matlab": ("actsort_matlab/precomputed_extract_output.mat", None),
    "nwb": ("nwb/suite2p_like.nwb", None),
    "minian": ("minian/results.zip", "minian"),
}


def balanced_accuracy(accepted: np.ndarray, truth: np.ndarray) -> float:
    return float((accepted[truth].mean() + (~accepted[~truth]).mean()) / 2)


@pytest.mark.slow
def test_two_hundred_labels_of_a_simulated_person_beat_the_toolkit(opened, tmp_path, visit):
    """She is wrong now and then, unsure now and then, takes labels back, and puts some off: as people do."""
    made = simulate_movie(400, fov=(160, 200), n_frames=400, seed=5)
    result = save_plain(tmp_path / "mouse.npz", made)
    truth, rng = made.truth.astype(bool), np.random.default_rng(0)
    session = opened(result, plugins=lab_plugins(), classifier="l1_adaptive", refit_wait=0, annotator="mia")
    toolkit = session.priors["mouse"].verdict > 0
    tab = visit(session.show(port=0).address)
    said: dict[int, str] = {}
    given = 0
    while given < 200:
        pos, chance = tab.pos, rng.random()
        if chance < 0.02:
            tab.press("k")
            tab.moved(pos)
            continue
        key = "u" if chance < 0.05 else "y" if truth[pos] ^ (chance > 0.98) else "n"
        tab.press(key)
        tab.moved(pos)
        given += 1
        said[pos] = {"u": "unsure", "y": CELL, "n": NOT_CELL}[key]
        if chance > 0.97:
            tab.press("z")
            tab.until(lambda pos=pos: tab.pos == pos, "taken back")
            tab.press("y" if truth[pos] else "n")
            tab.moved(pos)
            said[pos] = CELL if truth[pos] else NOT_CELL
    tab.until(lambda: len(session.labels()) == len(said) and tab.page.evaluate("window.__actsort.app.pending") == 0, "all labels")
    session.wait()
    assert {label.candidate.index: label.value for label in session.labels()} == said
    assert tab.page.evaluate("window.__actsort.refused") == 0
    events = journal(session.folder)
    labels = [e for e in events if e["kind"] == "label"]
    assert len({e["mark"] for e in labels}) == len(labels) == 200 + len([e for e in events if e["kind"] == "undo"])
    assert all(e["annotator"] == "mia" and e["seconds"] is not None and e["strategy"] for e in labels)
    assert [e["seq"] for e in events] == sorted(e["seq"] for e in events)
    ours, theirs = (balanced_accuracy(accepted, truth) for accepted in (session.curations()["mouse"].accepted, toolkit))
    assert ours > theirs + 0.05, (ours, theirs)
    assert ours > 0.85
    tab.see(".q-accuracy", "%")
    tab.see("#labels", f"{len(said)} labels")
    tab.shoot("session-200")
    tab.press("Control+s")
    tab.see("#write-dialog", "would change")
    tab.page.locator("#write-now").click()
    tab.see("#write-dialog", "Written and checked")
    (written,) = lab_plugins().formats["plain"].read(result) if "plain" in lab_plugins().formats else plain.PlainFormat().read(result)
    np.testing.assert_array_equal(written.prior.verdict > 0, session.curations()["mouse"].accepted)


@pytest.fixture(scope="session")
def all_plugins():
    return plugins.load([exporters, suite2p, caiman, cnmfe, extract, actsort_matlab, nwb, minian, plain], discover=False)


@pytest.mark.parametrize("name", RESULTS)
def test_the_page_on_what_each_toolkit_writes(name, opened, tmp_path, visit, all_plugins):
    where, inside = RESULTS[name]
    if inside:
        pytest.importorskip("numcodecs")
        zipfile.ZipFile(io.BytesIO((DATA / where).read_bytes())).extractall(tmp_path / "unpacked")
        result = next(path.parent for path in (tmp_path / "unpacked").rglob("A.zarr"))
    else:
        result = tmp_path / "copy" / Path(where).name
        (shutil.copytree if (DATA / where).is_dir() else shutil.copy)(DATA / where, (result.parent.mkdir(), result)[1])
    session = opened(result, plugins=all_plugins, classifier="l1_adaptive", refit_wait=0)
    check_page(f"format-{name}", session, visit)


def check_page(name: str, session, visit) -> None:
    """Every view shows what there is, and a few labels go where they belong."""
    page = session.show(port=0)
    n = sum(recording.n_cells for recording in session.recordings.values())
    tab = visit(page.address, wait=n > 0)
    if not n:
        tab.see("#veil", "Nothing is left to ask")
    else:
        assert tab.colours("#map-stage") > 1
        assert tab.colours("#crop-stage") > 1
        assert tab.colours("#trace-stage") > 1
        assert tab.colours("#player-stage") > 1
        assert "of" in tab.text("#fact-where")
    done = {}
    for key in "ynyn"[: min(4, n)]:
        pos = tab.pos
        tab.press(key)
        done[page.desk.id(pos)] = CELL if key == "y" else NOT_CELL
        if len(done) < n:
            tab.moved(pos)
    tab.until(lambda: {label.candidate: label.value for label in session.labels()} == done, "the labels")
    tab.shoot(name, sizes=SIZES[:1], themes=("dark",))
    tab.press("l")
    tab.see("#review-count", f"{n:,} candidates")
    tab.page.locator("#review-table").click()
    tab.shoot(f"{name}-table", sizes=SIZES[:1], themes=("light",))
    if n:
        tab.until(lambda: tab.page.locator("#review [role=row][data-pos]").count() >= min(n, 5), "rows")
    tab.press("Control+s")
    tab.see("#write-dialog", "toolkit")
    json.dumps(Client(page.address).get("write"))


def test_blind_the_toolkit_tells_neither_its_verdict_nor_its_metrics(opened, tmp_path, visit, all_plugins):
    result = tmp_path / "copy.hdf5"
    shutil.copy(DATA / "caiman/cnmf_2p_4gui.hdf5", result)
    session = opened(result, plugins=all_plugins, classifier="l1_adaptive", refit_wait=0)
    tab = visit(session.show(port=0, blind=True).address)
    tab.see(".facts", "Toolkit's metrics: hidden until you decide")
    assert not tab.page.locator("#metrics .metric").first.is_visible()
    shown = "(where) => [...document.querySelectorAll(`${where} option`)].filter((o) => !o.hidden).map((o) => o.value)"
    assert not [name for name in tab.page.evaluate(shown, "#colouring") if "host." in name]
    pos = tab.pos
    tab.press("y")
    tab.moved(pos)
    tab.press("j")
    tab.until(lambda: tab.pos == pos, "back")
    assert tab.page.locator("#metrics .metric").first.is_visible(), "shown once it is decided"
    tab.press("l")
    tab.see("#review-gallery")
    for where in ("#review-sort", "#review-add-range"):
        assert not [name for name in tab.page.evaluate(shown, where) if "host." in name]


def test_the_page_on_a_volume_without_images_or_frame_rate(opened, tmp_path, visit):
    rng = np.random.default_rng(0)
    flat = simulated()[0]
    dense = rng.random((12 * 10 * 4, 40)) * (rng.random((12 * 10 * 4, 40)) < 0.03)
    stack = replace(flat, fov=(12, 10, 4), footprints=sp.csc_matrix(dense.astype(np.float32)), images={}, metrics={}, fps=None)
    check_page("format-volume", opened(save_plain(tmp_path / "volume.npz", stack), plugins=lab_plugins(), refit_wait=0), visit)


@pytest.mark.parametrize("n_cells", [0, 1, 2])
def test_the_page_with_hardly_any_candidate(n_cells, opened, toy, visit):
    check_page(f"format-{n_cells}-candidates", opened(toy("few", a=n_cells), refit_wait=0), visit)


def test_recordings_without_candidates_among_others(opened, toy, visit):
    check_page("format-some-empty", opened(toy("mixed", a=5, b=0, c=6), refit_wait=0), visit)
