"""``curate`` on a running CaImAn's estimates: recorded objects (tests/live_caiman.py), and odd ones built by hand.

The same on a real ``cnm`` is in test_hosts_caiman_notebook.py, where CaImAn can be imported.
"""

from __future__ import annotations

import copy
import gc
import importlib
import json
import shutil
import subprocess
import sys
import types
from types import SimpleNamespace

import live_caiman
import numpy as np
import pytest
import scipy.sparse as sp
from live_caiman import FOUR

import actsort_core as actsort
from actsort_adapters.caiman import CaimanFormat
from actsort_adapters.hosts import _caiman_panel, _caiman_pool
from actsort_adapters.hosts._caiman_live import fingerprints_of, live_recording
from actsort_adapters.hosts.caiman import curate
from actsort_core.errors import ActsortError, CandidateError, ChangedError, FormatError, LockedError, UsageError


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    gc.collect()  # sessions nobody holds let go of their files


def four(estimates):
    return {name: np.asarray(getattr(estimates, name)).tolist() for name in FOUR}


def snapshot(estimates):
    """Everything but the four fields, to compare byte by byte."""
    out = {}
    for name, value in vars(estimates).items():
        if name not in FOUR and value is not None:
            parts = (value.data, value.indices, value.indptr) if sp.issparse(value) else (np.asarray(value),)
            out[name] = [(part.dtype, part.shape, part.tobytes()) for part in parts]
    return out


def check(estimates, curator=None):
    """The four fields are as CaImAn needs them, and say the decisions."""
    n_cells = estimates.A.shape[1]
    for name in FOUR:
        value = getattr(estimates, name)
        assert isinstance(value, np.ndarray), name
        assert value.dtype == np.int64, name
        assert value.ndim == 1, name
        assert np.array_equal(value, np.unique(value)), name
    assert sorted([*estimates.idx_components, *estimates.idx_components_bad]) == list(range(n_cells))
    assert np.array_equal(estimates.idx_components, estimates.accepted_list)
    assert not set(estimates.rejected_list) & set(estimates.accepted_list)
    if curator is not None:
        accepted = np.flatnonzero(curator.curation().accepted)
        assert np.array_equal(estimates.idx_components, accepted)
        for component, value in curator.labels().items():
            if value != "unsure":
                assert (component in estimates.idx_components) == (value == "cell")


def small(n_cells=6, fov=(9, 12), n_frames=80, seed=0, **fields):
    """Estimates with little in them."""
    rng = np.random.default_rng(seed)
    dense = np.zeros((int(np.prod(fov)), n_cells))
    for i in range(n_cells):
        rows = rng.choice(len(dense), 9, replace=False)
        dense[rows, i] = rng.random(9) + 0.1
    values = {"A": sp.csc_matrix(dense), "C": rng.random((n_cells, n_frames)), "YrA": rng.normal(0, 0.1, (n_cells, n_frames)), "dims": fov}
    return SimpleNamespace(**{**values, **fields})


# ---- what it does


def test_it_sets_four_fields_and_nothing_else(here):
    estimates, truth = live_caiman.recorded(), live_caiman.truth()
    before, own = snapshot(estimates), set(estimates.idx_components)
    asked = []

    def answer(component):
        asked.append(component)
        return bool(truth[component])

    curator = curate(estimates, answer, labels=16, images=live_caiman.movie(), fps=10)
    check(estimates, curator)
    assert snapshot(estimates) == before
    assert set(vars(estimates)) - set(before) <= {*FOUR, "discarded_components", "b", "f", "cnn_preds"}  # nothing is attached
    assert len(asked) == len(set(asked)) == 16 == len(curator.labels())
    decided = np.isin(np.arange(36), estimates.idx_components)
    assert (decided == truth).mean() >= 0.95
    assert own == set(np.flatnonzero(live_caiman.recorded().idx_components >= 0)) or own  # CaImAn's own were something
    assert curator.session.recordings[curator.key].fps == 10
    assert "36 components accepted" in str(curator)
    assert "16 labelled" in repr(curator)


def test_importing_it_loads_neither_caiman_nor_anything_heavy():
    heavy = ("caiman", "h5py", "sklearn", "ipywidgets", "IPython")
    code = f"import sys, actsort_adapters.hosts.caiman; print([n for n in {heavy} if n in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]", found.stdout


def test_the_live_object_reads_as_the_file_it_is_saved_to():
    """The same fingerprints, traces, metrics, verdicts and pictures as `CaimanFormat.read` of what cnm.save wrote."""
    for name in ("cnmf_2p_2evaluated.hdf5", "cnmf_2p_4gui.hdf5", "cnmf_3d_evaluated.hdf5", "cnmfe_1p_evaluated.hdf5", "onacid_2p.hdf5"):
        (saved,) = CaimanFormat().read(live_caiman.DATA / name)
        live = live_recording(live_caiman.from_file(name))
        assert live.candidate_fingerprints == saved.candidate_fingerprints, name
        assert live.fov == saved.fov
        np.testing.assert_allclose(live.traces[:], saved.traces[:], rtol=1e-6, atol=1e-6)
        assert np.array_equal(live.prior.verdict, saved.prior.verdict), name
        assert np.array_equal(live.prior.person, saved.prior.person), name
        assert live.metrics.keys() == saved.metrics.keys(), name
        assert live.images.keys() == saved.images.keys(), name
        for key, image in live.images.items():
            np.testing.assert_allclose(image, saved.images[key], rtol=1e-5)


def test_cnm_itself_tells_frame_rate_and_movie(here):
    movie = live_caiman.movie()
    path = here / "memmap__d1_60_d2_70_d3_1_order_C_frames_400.mmap"
    movie.reshape(400, -1, order="F").T.astype(np.float32).tofile(path)
    stored = np.memmap(path, np.float32, "r", shape=(4200, 400))
    cnm = SimpleNamespace(estimates=live_caiman.recorded(), params=SimpleNamespace(data={"fr": 12.5}), mmap_file=str(path))
    curator = curate(cnm, images=stored)  # Yr is understood, too
    recording = curator.session.recordings[curator.key]
    assert recording.fps == 12.5
    assert recording.movie_path == path
    assert not any("There is no movie" in note for note in curator.notes)  # its movie features are used
    assert any(name.startswith("m") and "movie" in name for name in curator.session.features().names)
    np.testing.assert_allclose(recording.images["mean"], movie.mean(axis=0), atol=1e-4)
    np.testing.assert_array_equal(curator.movie, movie)
    np.testing.assert_allclose(curator.estimates.A.sum(), cnm.estimates.A.sum())


def test_undecided_components_are_left_alone_until_somebody_can_tell(here):
    estimates = small(n_cells=12)
    curator = curate(estimates, lambda i: True, labels=2)  # neither a model nor CaImAn's verdicts
    assert not curator.set_fields
    assert not hasattr(estimates, "idx_components")
    assert "undecided" in repr(curator)
    curator.apply()
    check(estimates)
    assert estimates.idx_components_bad.size == 10
    assert estimates.rejected_list.size == 0  # nobody rejected them


def test_without_a_label_nothing_is_set(here):
    estimates = live_caiman.recorded()
    before = copy.deepcopy(estimates.idx_components)
    curator = curate(estimates)
    assert not curator.set_fields
    assert np.array_equal(estimates.idx_components, before)
    assert not hasattr(estimates, "accepted_list")


def test_labels_before_a_model_overrule_the_thresholds(here):
    estimates = live_caiman.recorded()
    first, last = int(estimates.idx_components[0]), int(estimates.idx_components_bad[0])
    curate(estimates).label(first, "not_cell").label(last, True)
    check(estimates)
    assert first in estimates.rejected_list
    assert last in estimates.accepted_list


def test_every_answer_is_on_disk_at_once_and_a_new_kernel_goes_on(here):
    estimates = live_caiman.recorded()
    curator = curate(estimates, session="mine")
    curator.label(5, True)
    text = (here / "mine" / "fit1.hdf5.actsort" / "labels.jsonl").read_text()
    assert json.loads(text.splitlines()[-1])["class"] == "cell"
    curator.close()
    again = curate(live_caiman.recorded(), session="mine")
    assert again.labels() == {5: "cell"}
    assert again.undo().labels() == {}


def test_the_same_cell_run_again_does_not_lock_itself_out(here):
    estimates = live_caiman.recorded()
    first = curate(estimates)
    first.label(0, True)
    second = curate(estimates)
    assert first.closed
    assert second.labels() == {0: "cell"}
    assert "Call curate again" in first._repr_html_()


def test_another_process_is_not_disturbed(here):
    estimates = live_caiman.recorded()
    curate(estimates).close()
    with actsort.open(here / "caiman_curation" / "fit1.hdf5"), pytest.raises(LockedError):
        curate(estimates)


def test_actsort_itself_can_be_used_on_what_it_keeps(here):
    """Labels given with `actsort sort` in between count, and the folder is a CaImAn result like any other."""
    estimates = live_caiman.recorded()
    curate(estimates).close()
    with actsort.open("caiman_curation/fit1.hdf5") as session:
        session.label(3, "cell")
    assert curate(estimates).labels() == {3: "cell"}


# ---- filter, select, refit


def test_filter_components_and_back(here):
    estimates, truth = live_caiman.recorded(), live_caiman.truth()
    curator = curate(estimates, lambda i: truth[i], labels=16)
    decided = four(estimates)
    estimates.filter_components(None, None, new_dict={"min_SNR": 30})
    assert four(estimates) != decided
    curator.apply()
    assert four(estimates) == decided
    estimates.filter_components(None, None)
    curate(estimates)  # or the same line once more
    assert four(estimates) == decided


def test_select_components_renumbers_and_decisions_follow(here):
    estimates, truth = live_caiman.recorded(), live_caiman.truth()
    curator = curate(estimates, lambda i: truth[i], labels=16)
    kept, labels = estimates.idx_components.copy(), curator.labels()
    probability = curator.curation().probability
    estimates.select_components(use_object=True)
    assert estimates.idx_components is None
    curator.apply()  # the same object, its numbering found anew
    check(estimates, curator)
    assert estimates.A.shape[1] == len(kept) == len(estimates.idx_components)
    expected = {int(np.flatnonzero(kept == i)[0]): value for i, value in labels.items() if i in kept}
    assert curator.labels() == expected
    np.testing.assert_array_equal(curator.curation().probability, probability[kept])  # the model knows the rejected ones, too
    again = curate(estimates)
    assert again.labels() == expected
    assert sorted(p.name for p in (here / "caiman_curation").iterdir()) == ["fit1.hdf5", "fit1.hdf5.actsort"]
    asked = again.ask()
    assert asked is not None
    assert 0 <= asked < len(kept)
    again.label(asked, "not_cell")
    check(estimates, again)
    assert asked in estimates.rejected_list
    with pytest.raises(CandidateError, match="no component"):
        again.label(len(kept), True)


def test_refit_changes_every_footprint_and_labels_follow(here):
    estimates, truth = live_caiman.recorded(), live_caiman.truth()
    curator = curate(estimates, lambda i: truth[i], labels=16)
    labels, kept = curator.labels(), estimates.idx_components
    after = live_caiman.refit(estimates)
    assert not set(fingerprints_of(after, after.dims)) & set(fingerprints_of(estimates, estimates.dims))
    before = snapshot(SimpleNamespace(**{k: v for k, v in vars(after).items() if k != "discarded_components"}))
    follower = curate(after)
    check(after, follower)
    assert snapshot(SimpleNamespace(**{k: v for k, v in vars(after).items() if k != "discarded_components"})) == before
    # cnm.refit keeps the order of what was accepted (see live_caiman): who follows whom can be checked
    assert follower.labels() == {int(np.flatnonzero(kept == i)[0]): value for i, value in labels.items() if i in kept}
    assert (np.isin(np.arange(after.A.shape[1]), after.idx_components) == live_caiman.truth("refit")).mean() >= 0.95
    assert any("not evaluated since the refit" in note for note in follower.notes)
    assert any("followed their components" in note for note in follower.notes)
    assert follower.session.fit is not None  # what was rejected before the refit still teaches the model
    journal = (here / "caiman_curation" / "fit1.hdf5.actsort" / "labels.jsonl").read_text()
    assert sum(json.loads(line)["kind"] == "label" for line in journal.splitlines()) == 16  # untouched
    source = next(e["source"] for e in follower.session.journal.events if e["kind"] == "label")
    assert (source["fit"], source["kind"]) == ("fit1", "caiman")


def test_evaluated_after_the_refit_the_new_evidence_counts(here):
    estimates, truth = live_caiman.recorded(), live_caiman.truth()
    curate(estimates, lambda i: truth[i], labels=16)
    after = live_caiman.refit(estimates)
    stale = curate(after)
    kept = stale.labels()
    assert np.isnan(stale.session.recordings["fit2"].metrics["SNR_comp"][:24]).all()
    evaluated = live_caiman.refit(copy.deepcopy(estimates), evaluated=True)
    after.SNR_comp, after.r_values = evaluated.SNR_comp, evaluated.r_values
    after.idx_components, after.idx_components_bad = evaluated.idx_components, evaluated.idx_components_bad
    fresh = curate(after)
    np.testing.assert_allclose(fresh.session.recordings["fit2"].metrics["SNR_comp"][:24], evaluated.SNR_comp)
    assert fresh.labels() == kept
    check(after, fresh)
    assert sorted(p.name for p in (here / "caiman_curation").glob("*.hdf5")) == ["fit1.hdf5", "fit2.hdf5"]


def test_evaluated_after_the_first_call_its_verdicts_count(here):
    """The note of the first call says to evaluate and call again: that must not be in vain."""
    estimates, evaluated = live_caiman.recorded(), live_caiman.recorded()
    for name in (*FOUR[:2], "SNR_comp", "r_values"):
        setattr(estimates, name, None)
    first = curate(estimates)
    assert first.curation().undecided.all()
    first.label(0, False).label(1, True)
    assert estimates.idx_components is None
    for name in (*FOUR[:2], "SNR_comp", "r_values"):
        setattr(estimates, name, getattr(evaluated, name))
    own = np.isin(np.arange(36), evaluated.idx_components)
    curator = curate(estimates)
    assert not any("has not evaluated" in note for note in curator.notes)
    assert curator.labels() == {0: "not_cell", 1: "cell"}
    accepted = curator.curation().accepted
    assert np.array_equal(accepted[2:], own[2:])
    assert accepted[:2].tolist() == [False, True]
    check(estimates, curator)
    # What is set now is ours: the third call goes on with the second's, and so does one after the thresholds moved.
    folder = curator.session.folder
    assert curate(estimates).session.folder == folder
    estimates.filter_components(None, None, new_dict={"min_SNR": 9})
    again = curate(estimates)
    assert again.session.folder == folder
    assert np.array_equal(again.curation().accepted, accepted)


def test_a_decision_of_ours_is_never_taken_for_one_of_caiman(here):
    estimates, truth = live_caiman.recorded(), live_caiman.truth()
    for name in (*FOUR[:2], "SNR_comp", "r_values"):
        setattr(estimates, name, None)
    curator = curate(estimates, lambda i: bool(truth[i]), labels=16)
    check(estimates, curator)
    folder = curator.session.folder
    again = curate(estimates)
    assert again.session.folder == folder
    assert not again.session.priors[again.key].verdict.any()


def test_back_and_forth_between_two_fits(here):
    """Cells of a notebook run in any order: what was said last counts everywhere, undo included, and no file is made twice."""
    estimates, truth = live_caiman.recorded(), live_caiman.truth()
    curate(estimates, lambda i: truth[i], labels=16)
    original = copy.deepcopy(estimates)
    after = live_caiman.refit(estimates)
    second = curate(after)
    free = next(i for i in range(24) if i not in second.labels())
    old = int(original.idx_components[free])
    second.label(free, "not_cell")
    first = curate(original)
    assert first.labels()[old] == "not_cell"
    first.label(old, "cell")
    assert curate(after).labels()[free] == "cell"
    first = curate(original)
    first.undo()
    assert curate(original).labels()[old] == "not_cell"  # an undo is not undone by what the other fit remembers
    assert len(list((here / "caiman_curation").glob("*.hdf5"))) == 2


def test_a_refit_without_selection_matches_what_is_alike(here):
    estimates, truth = live_caiman.recorded(), live_caiman.truth()
    curator = curate(estimates, lambda i: truth[i], labels=16)
    after = live_caiman.refit(estimates)
    after.discarded_components = None  # a fit of its own: nothing says what was set aside
    follower = curate(after)
    known = {int(np.flatnonzero(estimates.idx_components == i)[0]): v for i, v in curator.labels().items() if i in estimates.idx_components}
    assert follower.labels().items() >= known.items()


def test_a_component_that_was_set_aside_is_not_what_looks_like_it(here):
    """CNMF-E's refit merges; a fragment that was rejected may be the best match of the neuron it was a fragment of."""
    estimates = small(n_cells=6, idx_components=np.arange(5), idx_components_bad=np.array([5]), discarded_components=None)
    merged = estimates.A[:, [5]].toarray()
    merged[np.flatnonzero(merged)[:3]] *= 1.4
    curator = curate(estimates)
    curator.label(5, "not_cell")
    after = small(n_cells=5, A=sp.hstack([estimates.A[:, :4] * 1.0, sp.csc_matrix(merged)], "csc"))
    after.discarded_components = SimpleNamespace(A=estimates.A[:, [5]])
    assert curate(after).labels() == {}


def test_own_classes_options_and_warm_start_go_on_after_a_refit(here):
    estimates, truth = live_caiman.recorded(), live_caiman.truth()
    curator = curate(estimates, lambda i: truth[i], labels=16, classes={"dendrite": "not_cell"}, seed=3)
    rejected = int(estimates.idx_components_bad[0])
    curator.label(rejected, "dendrite")
    after = curate(live_caiman.refit(estimates))
    assert after.session.options.classes == {"dendrite": "not_cell"}
    assert after.session.options.seed == 3
    assert "dendrite" in {label.value for label in after.session.labels()}


def test_warm_start_decides_without_a_question(here):
    estimates, truth = live_caiman.recorded(), live_caiman.truth()
    curate(estimates, lambda i: truth[i], labels=20).close()
    other = live_caiman.from_file("cnmf_2p_2evaluated.hdf5")
    curator = curate(other, session="other", warm_start="caiman_curation/fit1.hdf5.actsort")
    check(other, curator)
    assert curator.labels() == {}
    assert curator.set_fields


# ---- what is refused


def test_another_recording_is_refused_and_nothing_is_touched(here):
    curate(live_caiman.recorded()).label(0, True)
    kept = {p: p.read_bytes() for p in here.rglob("*") if p.is_file() and p.suffix in (".hdf5", ".jsonl", ".json")}
    for other in (small(n_cells=9, fov=(60, 70), n_frames=400), live_caiman.from_file("cnmf_3d_evaluated.hdf5")):
        before = snapshot(other)
        with pytest.raises(ChangedError, match="session of its own"):
            curate(other)
        assert snapshot(other) == before
    assert {p: p.read_bytes() for p in kept} == kept
    assert curate(live_caiman.recorded()).labels() == {0: "cell"}


def test_reattach_goes_on_all_the_same(here):
    first = small(n_cells=6)
    curate(first, lambda i: i % 2 == 0, labels=6)
    second = small(n_cells=9, seed=1)
    with pytest.raises(ChangedError):
        curate(second)
    curator = curate(second, reattach=True)
    assert curator.labels() == {}
    assert len(curator.session.labels()) == 6


def test_components_that_changed_behind_its_back(here):
    estimates, truth = live_caiman.recorded(), live_caiman.truth()
    curator = curate(estimates, lambda i: truth[i], labels=16)
    estimates.A = estimates.A.copy()
    estimates.A.data[:5] *= 1.5  # manual_merge, a refit in place...
    before = four(estimates)
    with pytest.raises(ChangedError, match="Call curate again"):
        curator.apply()
    assert four(estimates) == before
    again = curate(estimates)  # the changed one is matched by what it looks like
    check(estimates, again)
    assert len(again.labels()) == 16


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        (SimpleNamespace(A=None, C=None), UsageError, "nothing was fitted"),
        (SimpleNamespace(estimates=SimpleNamespace(A=sp.csc_matrix((4, 1)), C=None)), UsageError, "C is None"),
        (3, UsageError, "no CaImAn fit"),
        ("results.hdf5", UsageError, "no CaImAn fit"),
        (small(dims=(3, 5)), UsageError, "dims"),
        (small(dims=None), UsageError, "dims"),
        (small(C=np.zeros((5, 80))), UsageError, "C has shape"),
        (small(C=np.zeros(6)), UsageError, "C has shape"),
        (small(A=[1, 2, 3]), UsageError, "not a matrix"),
        (small(accepted_list=np.array([0.5])), FormatError, "accepted_list"),
        (small(idx_components=np.array([True, False])), FormatError, "mask"),
    ],
)
def test_what_is_no_fit_is_refused_with_a_sentence(here, given, error, says):
    with pytest.raises(error, match=says) as caught:
        curate(given)
    assert caught.value.hint
    assert not (here / "caiman_curation").exists()  # nothing was started


def test_arguments_that_cannot_be_meant(here):
    estimates = small()
    with pytest.raises(UsageError, match="answer and labels"):
        curate(estimates, lambda i: True)
    with pytest.raises(UsageError, match="images has shape"):
        curate(estimates, images=np.zeros((7, 8)))
    with pytest.raises(UsageError, match="no number of labels"):
        curate(estimates, lambda i: True, labels="many")
    (here / "notes").mkdir()
    (here / "notes" / "paper.txt").write_text("mine")
    with pytest.raises(UsageError, match="something else"):
        curate(estimates, session="notes")
    assert [p.name for p in (here / "notes").iterdir()] == ["paper.txt"]
    with pytest.raises(UsageError, match="no class"):
        curate(estimates, lambda i: "maybe", labels=1)


# ---- odd objects


def test_evidence_that_is_missing_or_odd(here):
    estimates = small(
        n_cells=7,
        YrA=None,
        SNR_comp=np.full(7, np.inf),
        r_values=np.arange(5.0),
        cnn_preds=np.empty(0),
        ecc=[1, 2, 3, 4, 5, 6, 7],
        Cn=np.full((9, 12), np.nan),
        idx_components=[0, 1, 2],
        idx_components_bad=[3, 4, 5, 6],
    )
    estimates.C[2] = np.nan
    curator = curate(estimates, lambda i: i % 2 == 0, labels=7)
    check(estimates, curator)
    assert any("r_values has shape (5,)" in note for note in curator.notes)
    assert any("YrA" in note for note in curator.notes)
    assert any("movie='PATH'" in note for note in curator.notes)  # not the option of a command
    assert curator.session.recordings["fit1"].trace_kind == "C"
    assert estimates.idx_components.tolist() == [0, 2, 4, 6]
    assert "<svg" in _caiman_panel.question_html(curate(small(n_cells=3), session="other"))


@pytest.mark.parametrize("kind", ["coo", "csr", "dense", "float32", "array"])
def test_footprints_of_any_kind_are_the_same_components(here, kind):
    estimates = small()
    prints = fingerprints_of(estimates, (9, 12))
    convert = {"dense": lambda a: a.toarray(), "float32": lambda a: a.astype(np.float32), "array": sp.csc_array}
    estimates.A = convert[kind](estimates.A) if kind in convert else estimates.A.asformat(kind)
    assert fingerprints_of(estimates, (9, 12)) == prints
    kept = estimates.A
    curator = curate(estimates, lambda i: i < 3, labels=6)
    check(estimates, curator)
    assert estimates.A is kept


@pytest.mark.parametrize("fov", [(9, 12), (12, 9), (4, 5, 6)])
@pytest.mark.parametrize("n_cells", [0, 1, 2, 30])
def test_any_number_of_components_in_two_and_three_dimensions(here, fov, n_cells):
    estimates = small(n_cells=n_cells, fov=fov)
    movie = np.random.default_rng(0).random((80, *fov)).astype(np.float32)
    curator = curate(estimates, lambda i: i % 2 == 0, labels="100%", images=movie)
    assert len(curator.labels()) == n_cells
    curator.apply()
    check(estimates, curator)
    assert estimates.idx_components.tolist() == list(range(0, n_cells, 2))
    assert curator._repr_html_()
    if n_cells:
        estimates.A, estimates.C, estimates.YrA = estimates.A[:, :0], estimates.C[:0], estimates.YrA[:0]
        curate(estimates).apply()
        assert estimates.idx_components.size == 0


def test_components_with_the_very_same_footprint(here):
    estimates = small(n_cells=6)
    estimates.A = sp.csc_matrix(sp.hstack([estimates.A[:, :4], sp.csc_matrix((108, 2))]))  # two empty ones
    curator = curate(estimates, lambda i: i != 4, labels=6)
    check(estimates, curator)
    assert 4 in estimates.rejected_list
    keep = np.array([0, 1, 2, 3, 5])
    estimates.A, estimates.C, estimates.YrA = estimates.A[:, keep], estimates.C[keep], estimates.YrA[keep]
    curator.apply()  # which of the two is left?
    assert 4 in estimates.idx_components_bad
    assert 4 not in estimates.rejected_list
    with pytest.raises(CandidateError, match="very same footprint"):
        curator.label(4, True)
    check(estimates, curate(estimates))


def test_a_fit_of_other_length_goes_on_without_the_old_traces(here):
    first = small(n_cells=6)
    curate(first, lambda i: i % 2 == 0, labels=6)
    second = copy.deepcopy(first)
    second.A.data *= 1 + 0.01 * np.random.default_rng(1).random(len(second.A.data))
    second.A, second.C, second.YrA = second.A[:, :4], np.zeros((4, 50)), np.ones((4, 50))
    curator = curate(second)
    assert curator.labels() == {0: "cell", 1: "not_cell", 2: "cell", 3: "not_cell"}
    assert any("80 frames" in note for note in curator.notes)


def test_a_process_killed_at_any_step_leaves_something_to_go_on_with(here):
    estimates, truth = live_caiman.recorded(), live_caiman.truth()
    (here / "caiman_curation").mkdir()
    (here / "caiman_curation" / ".fit1.hdf5.new").write_bytes(b"half a file")
    curate(estimates, lambda i: truth[i], labels=16).close()
    shutil.rmtree(here / "caiman_curation" / "fit1.hdf5.actsort")  # killed between the components and their session
    curator = curate(estimates, lambda i: truth[i], labels=16)
    after = live_caiman.refit(estimates)
    curate(after).close()
    shutil.rmtree(here / "caiman_curation" / "fit2.hdf5.actsort")  # killed before the labels followed
    again = curate(after)
    assert len(again.labels()) == sum(i in estimates.idx_components for i in curate(estimates).labels())
    assert not [p for p in (here / "caiman_curation").iterdir() if p.name.startswith(".")]
    assert curator.closed


def test_a_folder_that_cannot_be_written_to(here, monkeypatch):
    estimates = live_caiman.recorded()
    before = four_or_none(estimates)

    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_caiman_pool.CaimanFormat, "create", full)
    with pytest.raises(ActsortError, match="No space left"):
        curate(estimates, lambda i: True, labels=3)
    assert four_or_none(estimates) == before


def four_or_none(estimates):
    return {name: None if getattr(estimates, name, None) is None else getattr(estimates, name).tolist() for name in FOUR}


def test_what_select_components_would_stumble_over_is_said_before(here):
    loaded = small(g=np.float64(0), A_thr={"data": 1}, discarded_components=SimpleNamespace(A=None, C=np.zeros((0, 2)), YrA=None))
    note = next(note for note in curate(loaded).notes if "select_components" in note)
    assert "g = None" in note
    assert "A_thr = None" in note
    assert "save_discarded_components=False" in note
    assert not any("select_components" in note for note in curate(small(g=np.zeros((6, 1))), session="fine").notes)


# ---- in a notebook


def test_the_question_is_a_page_that_shows_no_opinion(here):
    estimates, truth = live_caiman.recorded(), live_caiman.truth()
    curator = curate(estimates, lambda i: truth[i], labels=16, images=live_caiman.movie(), fps=10)
    page = curator._repr_html_()
    component = curator.ask()
    assert f"component {component} of 36, 16 labelled" in page
    for name in ("footprint", "mean", "movie at its highest event"):
        assert f'alt="{name}"' in page
    assert page.count("<svg") == 2
    assert "accepted" not in page
    assert f"{curator.curation().probability[component]:.2f}" not in page.split("<svg")[0]


def test_pictures_are_png_that_others_read(here):
    pytest.importorskip("matplotlib")
    import io

    import matplotlib.image

    image = np.random.default_rng(0).integers(0, 255, (7, 11, 3)).astype(np.uint8)
    read = matplotlib.image.imread(io.BytesIO(_caiman_panel.png(image)), format="png")
    assert np.array_equal((read * 255).round().astype(np.uint8), image)


def test_answers_without_buttons(here):
    curator = curate(small(n_cells=6))
    first = curator.ask()
    second = curator.cell().ask()
    assert second != first
    assert curator.skip().ask() != second
    curator.not_cell().unsure()
    assert sorted(curator.labels().values()) == ["cell", "not_cell", "unsure"]
    assert curator.undo().ask() is not None
    assert len(curator.labels()) == 2
    while curator.ask() is not None:
        curator.cell()
    assert "Every component is labelled" in curator._repr_html_()


class Widget:
    """What the panel uses of ipywidgets."""

    def __init__(self, *parts, description="", button_style=""):
        self.value, self.parts, self.description = parts[0] if parts else "", parts, description
        self.pressed = []

    def on_click(self, press):
        self.pressed.append(press)

    def click(self):
        for press in self.pressed:
            press(self)


@pytest.fixture
def shown(monkeypatch):
    """IPython and ipywidgets as a notebook has them; what is displayed."""
    out = []
    display = types.ModuleType("IPython.display")
    display.display, display.HTML = out.append, lambda text: text
    widgets = types.ModuleType("ipywidgets")
    widgets.HTML = widgets.Button = Widget
    widgets.VBox = widgets.HBox = lambda parts: SimpleNamespace(children=parts)
    package = types.ModuleType("IPython")
    package.display = display
    for name, module in (("IPython", package), ("IPython.display", display), ("ipywidgets", widgets)):
        monkeypatch.setitem(sys.modules, name, module)
    return out


def test_buttons(here, shown):
    estimates = live_caiman.recorded()
    curator = curate(estimates, images=live_caiman.movie(), classes={"dendrite": "not_cell"})
    curator._ipython_display_()
    page, row, told = shown[0].children
    buttons = {button.description: button for button in row.children}
    assert list(buttons) == ["cell", "not a cell", "unsure", "dendrite", "later", "undo"]
    before, asked = page.value, curator.ask()
    buttons["cell"].click()
    assert page.value != before
    assert curator.labels() == {asked: "cell"}
    assert asked in estimates.accepted_list  # in the object at once
    assert "1 labelled" in told.value
    buttons["dendrite"].click()
    buttons["later"].click()
    buttons["unsure"].click()
    buttons["undo"].click()
    assert sorted(curator.labels().values()) == ["cell", "dendrite"]
    estimates.A = sp.csc_matrix(estimates.A * 1.5)
    buttons["cell"].click()
    assert "Call curate again" in told.value


def test_without_ipywidgets_it_says_what_to_type(here, shown, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    curate(small())._ipython_display_()
    assert ".not_cell()" in shown[0]
    importlib.invalidate_caches()
