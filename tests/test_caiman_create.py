"""Results of our own making in CaImAn's layout: exact, complete, and safe.

What the real CaImAn 1.12.1 does with them is in docs/formats/caiman.md.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.sparse as sp

from actsort_adapters import _caiman_create
from actsort_adapters._caiman_folder import file_names, in_order
from actsort_adapters.caiman import CaimanFormat
from actsort_core.errors import FormatError, UsageError, WriteError
from actsort_core.formats import CreatingFormat, find_format
from actsort_core.model import Prior
from actsort_core.testing import check_format, make_curation, make_recording

DATA = Path(__file__).parent / "data" / "caiman"
CAIMAN = CaimanFormat()
REAL = (
    "cnmf_2p_4gui",
    "cnmf_2p_3selected",
    "cnmf_3d_evaluated",
    "onacid_2p",
    "cnmfe_1p_evaluated",
    "cnmf_patches_one",
    "cnmf_patches_none",
)
MADE = {
    "made": {},
    "none": {"n_cells": 0},
    "one": {"n_cells": 1},
    "deep": {"fov": (7, 9, 4)},
    "nonfinite": {"nonfinite": True},
    "one_frame": {"n_frames": 2},
    "no_rate": {"fps": None},
}


def read(path):
    (recording,) = CAIMAN.read(Path(path))
    return recording


def convert(recording, dst, curation=None):
    assert CAIMAN.create([recording], [curation], dst) == (dst,)
    return read(dst)


def same_columns(a, b):
    assert a.keys() == b.keys()
    for key, values in a.items():
        np.testing.assert_array_equal(values, b[key])


def with_all_traces(recording):
    rng = np.random.default_rng(1)
    shape = (recording.n_cells, recording.n_frames)
    noise = rng.normal(0, 1e-3, shape).astype("f4")
    return replace(recording, denoised=recording.traces[:] * 0.3 + noise, spikes=rng.random(shape).astype("f4"))


@pytest.mark.parametrize("name", [*REAL, *MADE])
def test_everything_comes_back(tmp_path, name):
    assert isinstance(CAIMAN, CreatingFormat)
    recording = read(DATA / f"{name}.hdf5") if name in REAL else with_all_traces(make_recording(**MADE[name]))
    dst = tmp_path / "converted"  # a name without suffix is a name
    again = convert(recording, dst)
    assert [path.name for path in tmp_path.iterdir()] == ["converted"]
    assert find_format(dst, {"caiman": CAIMAN}) is CAIMAN
    assert again.candidate_fingerprints == recording.candidate_fingerprints
    assert (again.fov, again.fps, again.trace_kind) == (recording.fov, recording.fps, recording.trace_kind)
    for key in ("traces", "spikes", "denoised"):
        old, new = (getattr(r, key) for r in (recording, again))
        if key == "denoised" and name == "nonfinite":
            continue  # see test_traces_that_are_not_numbers
        np.testing.assert_array_equal(new[:], old[:])
    same_columns(dict(recording.images), dict(again.images))
    same_columns(dict(recording.metrics), {k: v for k, v in again.metrics.items() if k in recording.metrics})
    decided = recording.prior.verdict != 0
    np.testing.assert_array_equal(again.prior.verdict[decided], recording.prior.verdict[decided])
    assert (again.prior.verdict[~decided] == (-1 if decided.any() else 0)).all()  # the complement, or CaImAn would lose them
    np.testing.assert_array_equal(again.prior.probability, recording.prior.probability)
    if name in MADE:
        assert not again.prior.person.any()  # what a toolkit decided, nobody said in CaImAn's GUI
    else:
        np.testing.assert_array_equal(again.prior.person, recording.prior.person)


def test_the_layout_is_the_one_that_load_cnmf_wants(tmp_path):
    recording = with_all_traces(make_recording(fov=(6, 9)))
    accepted = np.arange(12) % 2 == 0
    convert(recording, tmp_path / "a.hdf5", make_curation(recording, "r", accepted))
    with h5py.File(tmp_path / "a.hdf5") as file:
        estimates = file["estimates"]
        assert estimates["A/data"].dtype == np.float64
        assert estimates["A/indices"].dtype == estimates["A/indptr"].dtype == np.int32
        first = sp.csc_matrix(tuple(estimates[f"A/{key}"][:] for key in ("data", "indices", "indptr")), shape=estimates["A/shape"][:])
        np.testing.assert_array_equal(first[:, 0].toarray().reshape((6, 9), order="F"), recording.footprints[:, 0].toarray().reshape(6, 9))
        assert estimates["b"].shape == (54, 0)
        assert estimates["f"].shape == (0, 200)
        assert estimates["g"].shape == (12, 1)  # None would be saved again as a number that select_components cannot cut
        assert estimates["cnn_preds"].shape == (0,)
        assert file["params/quality/use_cnn"][()] == np.False_
        assert file["params/init/nb"][()] == 0
        assert file.attrs["mmap_file"] == ""
        for key, chosen in (("idx_components", accepted), ("idx_components_bad", ~accepted), ("accepted_list", accepted)):
            assert estimates[key].dtype == np.int64
            np.testing.assert_array_equal(estimates[key][:], np.flatnonzero(chosen))
        # what makes load_CNMF or save of CaImAn fail (docs/formats/caiman.md)
        strange = []
        file.visititems(
            lambda name, obj: strange.append(name) if isinstance(obj, h5py.Dataset) and obj.dtype == bool and obj.shape else None
        )
        assert not strange


def test_a_background_becomes_a_component_that_does_not_change(tmp_path):
    image = np.arange(54, dtype="f4").reshape(6, 9)
    recording = make_recording(fov=(6, 9), images={"background": image, "Cn": image + 1, "a/b": image + 2, ".": image + 3, "_": image})
    again = convert(recording, tmp_path / "a.hdf5")
    with h5py.File(tmp_path / "a.hdf5") as file:
        np.testing.assert_array_equal(file["estimates/b"][:, 0].reshape((6, 9), order="F"), image)
        assert (file["estimates/f"][:] == 1).all()
        np.testing.assert_array_equal(file["estimates/Cn"][:], image + 1)
    np.testing.assert_array_equal(again.images["background"], image)
    np.testing.assert_array_equal(again.images["a_b"], image + 2)
    assert len(again.images) == 5
    odd = replace(recording, images={"background": np.where(image > 50, np.nan, image)})
    np.testing.assert_array_equal(convert(odd, tmp_path / "b.hdf5").images["background"], odd.images["background"])


def test_without_denoised_traces_there_are_none_afterwards(tmp_path, monkeypatch):
    monkeypatch.setattr(_caiman_create, "_BLOCK", 450)  # two rows at a time
    recording = make_recording(fov=(6, 9))
    again = convert(recording, tmp_path / "a.hdf5")
    assert (again.denoised, again.spikes) == (None, None)
    np.testing.assert_array_equal(again.traces[:], recording.traces[:])
    assert again.trace_kind == "simulated"


def test_traces_that_are_not_numbers(tmp_path):
    recording = make_recording(n_cells=2, n_frames=4)
    raw = np.array([[1, np.nan, np.inf, 3e38], [1, 2, 3, 4]], "f4")
    clean = np.array([[np.nan, 1, np.inf, -3e38], [np.inf, 2, 1e-30, -np.inf]], "f4")
    again = convert(replace(recording, traces=raw, denoised=clean), tmp_path / "a.hdf5")
    np.testing.assert_array_equal(again.traces[:], raw)
    np.testing.assert_array_equal(again.denoised[:], np.array([[1, 1, np.inf, -3e38], [1, 2, 1e-30, 4]], "f4"))


def test_probabilities_are_those_of_the_curation(tmp_path):
    recording = make_recording()
    curation = make_curation(recording, "r", np.arange(12) < 5)
    again = convert(recording, tmp_path / "a.hdf5", curation)
    np.testing.assert_array_equal(again.prior.probability, curation.host_probability())
    np.testing.assert_array_equal(again.prior.verdict > 0, curation.accepted)
    assert not again.prior.person.any()


def test_what_is_kept_follows_the_candidate_not_its_place(tmp_path):
    """CaImAn's select_components and restore_discarded_components reorder; /actsort stays as it was."""
    recording = make_recording(prior=Prior(np.array([1, -1] * 6, np.int8), np.linspace(0.05, 0.95, 12)))
    path = tmp_path / "a.hdf5"
    convert(recording, path)
    order = [7, 2, 3, 11]
    cut = replace(
        recording,
        footprints=recording.footprints[:, order].tocsc(),
        traces=recording.traces[:][order],
        metrics={},
        prior=Prior.undecided(4),
    )
    convert(cut, tmp_path / "b.hdf5")
    with h5py.File(path, "r+") as file, h5py.File(tmp_path / "b.hdf5") as other:
        del file["estimates"]
        other.copy("estimates", file)
    again = read(path)
    np.testing.assert_array_equal(again.prior.probability, recording.prior.probability[order])
    np.testing.assert_array_equal(again.metrics["lab_score"], recording.metrics["lab_score"][order])
    assert again.trace_kind == "simulated"
    with h5py.File(path, "r+") as file:
        file["estimates/A/data"][0] *= 2  # fitted again
        del file["estimates/idx_components"]
        file["estimates/idx_components"] = np.array([0])
        del file["estimates/idx_components_bad"]
        file["estimates/idx_components_bad"] = np.array([1, 2, 3])
    again = read(path)
    # of those that are still the same (2, 3, 11), 2 was accepted when it was converted, and is rejected now
    np.testing.assert_array_equal(
        again.prior.probability, [np.nan, np.nan, recording.prior.probability[3], recording.prior.probability[11]]
    )
    assert np.isnan(again.metrics["lab_score"][0])
    assert again.trace_kind == "C+YrA"
    assert any("1 candidates changed since the conversion" in note for note in again.notes)


def test_candidates_that_are_alike_are_not_guessed(tmp_path):
    recording = make_recording(n_cells=3)
    twins = replace(recording, footprints=recording.footprints[:, [0, 0, 1]].tocsc())
    np.testing.assert_array_equal(convert(twins, tmp_path / "a.hdf5").metrics["lab_score"], twins.metrics["lab_score"])
    with h5py.File(tmp_path / "a.hdf5", "r+") as file:
        file["actsort/fingerprints"][...] = file["actsort/fingerprints"][:][[2, 1, 0]]
    found = read(tmp_path / "a.hdf5").metrics["lab_score"]
    np.testing.assert_array_equal(found, [np.nan, np.nan, twins.metrics["lab_score"][0]])


def test_a_click_in_the_gui_on_a_converted_result_is_a_persons(tmp_path):
    recording = make_recording()
    path = tmp_path / "a.hdf5"
    convert(recording, path, make_curation(recording, "r", np.arange(12) < 5))
    with h5py.File(path, "r+") as file:
        for key, values in (("accepted_list", [0, 1, 2, 3, 6]), ("rejected_list", [4, 5, 7, 8, 9, 10, 11])):
            del file[f"estimates/{key}"]
            file[f"estimates/{key}"] = np.array(values)
    prior = read(path).prior
    np.testing.assert_array_equal(np.flatnonzero(prior.person), [4, 6, 9])  # nobody had decided about 9
    np.testing.assert_array_equal(prior.person[[4, 6, 9]], [-1, 1, -1])
    assert np.isnan(prior.probability[[4, 6]]).all()


@pytest.mark.parametrize("broken", ["fingerprints", "probability", "metrics", "images", "trace_kind", "outside"])
def test_a_damaged_group_of_ours_does_not_keep_the_file_shut(tmp_path, broken):
    path = tmp_path / "a.hdf5"
    convert(make_recording(), path)
    with h5py.File(path, "r+") as file:
        if broken == "outside":
            del file["actsort"]
            file["actsort"] = h5py.ExternalLink("b.hdf5", "/")
        elif broken == "trace_kind":
            file["actsort"].attrs["trace_kind"] = "x" * 5000
        else:
            name = {"metrics": "metrics/lab_score", "images": "images/mean"}.get(broken, broken)
            del file[f"actsort/{name}"]
            file["actsort"].create_dataset(name, (1 << 20, 1 << 20), "f8", chunks=(1, 1024))
    recording = read(path)
    assert recording.n_cells == 12
    assert recording.notes or recording.trace_kind == "C+YrA"


def test_several_recordings_become_a_folder(tmp_path):
    recordings = [replace(make_recording(seed=i, n_cells=3 + i), name=name) for i, name in enumerate(["plane2", "plane10", "a/b"])]
    dst = tmp_path / "deep" / "out.hdf5"
    files = CAIMAN.create(recordings, [None] * 3, dst)
    assert [path.relative_to(dst).as_posix() for path in files] == ["0_plane2.hdf5", "1_plane10.hdf5", "2_a_b.hdf5"]
    assert CAIMAN.sniff(dst).yes
    again = CAIMAN.read(dst)
    assert [r.candidate_fingerprints for r in again] == [r.candidate_fingerprints for r in recordings]
    assert [r.path for r in again] == list(files)
    check_format(CAIMAN, dst)
    curations = [make_curation(r, r.name, np.arange(r.n_cells) == 1) for r in again]
    plan = CAIMAN.plan(again, curations)
    assert [edit.path for edit in plan.edits] == list(files)
    with pytest.raises(UsageError, match="3 recordings but 1"):
        CAIMAN.plan(again, curations[:1])


def test_which_folders_are_results(tmp_path):
    shutil.copy(DATA / "cnmf_patches_one.hdf5", tmp_path / "a.hdf5")
    (tmp_path / "actsort").mkdir()
    (tmp_path / ".hidden").touch()
    assert CAIMAN.sniff(tmp_path).yes
    with h5py.File(tmp_path / "movie.hdf5", "w") as file:
        file["mov"] = 1
    assert "movie.hdf5, which is no CaImAn result" in CAIMAN.sniff(tmp_path).why
    (tmp_path / "movie.hdf5").rename(tmp_path / "movie.tif")
    assert "nothing but those" in CAIMAN.sniff(tmp_path).why
    with pytest.raises(FileNotFoundError):
        CAIMAN.read(tmp_path)


@pytest.mark.parametrize(
    ("names", "files"),
    [
        (["plane0", "plane1"], ["plane0", "plane1"]),
        (["plane9", "plane10"], ["plane9", "plane10"]),
        (["b", "a"], ["0_b", "1_a"]),
        (["x", "x"], ["0_x", "1_x"]),
        (["A", "a"], ["0_A", "1_a"]),
        (["..", "/"], ["0_recording", "1_recording"]),
        (["a²", "a1"], None),
    ],
)
def test_names_in_the_folder_keep_the_order(names, files):
    made = file_names(names)
    assert in_order(made) == made
    assert files is None or [name.removesuffix(".hdf5") for name in made] == files


# Losses


def test_losses_name_what_is_there_and_nothing_else():
    assert CAIMAN.losses([make_recording(prior=Prior(np.ones(12, np.int8), np.full(12, np.nan)))], [None]) == ()
    recording = make_recording(
        fps=None, movie_path=Path("data.bin"), denoised=np.zeros((12, 7), "f4"), info={"has_dff": True, "n_discarded": 4, "n_background": 2}
    )
    text = "\n".join(CAIMAN.losses([recording], [None]))
    for part in (
        "30 frames per second",
        "2 candidates are undecided",
        "data.bin",
        "denoised traces",
        "F_dff",
        "4 components",
        "background",
    ):
        assert part in text
    assert "spikes" not in text
    mmap = make_recording(movie_path=Path("m_d1_24_d2_35_d3_1_order_C_frames_200.mmap"))
    assert not any("movie" in sentence for sentence in CAIMAN.losses([mmap], [None]))
    two = CAIMAN.losses([recording, recording], [None, None])
    assert "a folder with 2" in two[0]
    assert two[1].startswith("made: ")
    curation = make_curation(recording, "r", np.ones(12, bool))
    assert not any("undecided" in sentence for sentence in CAIMAN.losses([recording], [curation]))


def test_the_movie_stays_known(tmp_path):
    movie = tmp_path / "m_d1_24_d2_35_d3_1_order_C_frames_200.mmap"
    movie.touch()
    assert convert(make_recording(movie_path=movie), tmp_path / "a.hdf5").movie_path == movie


# Faults


def test_refusals(tmp_path):
    recording = make_recording()
    taken = tmp_path / "a.hdf5"
    taken.write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        CAIMAN.create([recording], [None], taken)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="exists already"):
        CAIMAN.create([recording], [None], tmp_path / "dangling")
    for recordings, curations in (
        ([], []),
        ([recording], []),
        ([recording], [make_curation(make_recording(n_cells=2), "r", np.ones(2, bool))]),
    ):
        with pytest.raises(UsageError):
            CAIMAN.create(recordings, curations, tmp_path / "b.hdf5")
        with pytest.raises(UsageError):
            CAIMAN.losses(recordings, curations)
    with pytest.raises(WriteError, match="cannot be made"):
        CAIMAN.create([recording], [None], taken / "below" / "b.hdf5")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.hdf5", "dangling"]
    assert taken.read_text() == "mine"


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("unable to flush"), FormatError("was changed")])
def test_a_failure_on_the_way_leaves_nothing(tmp_path, monkeypatch, n, error):
    def fail(*args):
        raise error

    monkeypatch.setattr("actsort_adapters._caiman_carried.write", fail)
    with pytest.raises(FormatError if isinstance(error, FormatError) else WriteError):
        CAIMAN.create([make_recording()] * n, [None] * n, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_kit_accepts_what_is_created(tmp_path):
    convert(make_recording(), tmp_path / "a.hdf5")
    check_format(CAIMAN, tmp_path / "a.hdf5")
