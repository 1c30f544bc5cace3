"""ActSort for MATLAB: its precomputed file and the labels saved beside it. Files are written here in the layout MATLAB gives them."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io

from actsort_core import learn
from actsort_core.errors import FormatError, MissingFileError, UsageError
from actsort_core.warm import read_examples, read_many

N = 25
DATA = Path(__file__).parent / "data"


@pytest.fixture
def values():
    return np.random.default_rng(1).normal(3, 2, (N, 76))


@pytest.fixture
def said():
    out = np.zeros(N)
    out[[1, 4, 9, 16]] = 1, -1, -1, 1
    return out


def precomputed(path: Path, values, fast: bool = False) -> Path:
    """MATLAB v7.3: every matrix transposed, objects as six numbers, cells as references."""
    with h5py.File(path, "w", userblock_size=512) as file:
        struct = file.create_group("precomputedOutput")
        struct.attrs["MATLAB_class"] = np.bytes_("struct")

        def add(group, name, array, kind):
            group.create_dataset(name, data=array).attrs["MATLAB_class"] = np.bytes_(kind)

        add(struct, "features", values.T, "double")
        add(struct, "traces", np.zeros((len(values), 50), np.float32), "single")
        add(struct, "spatial_weights", np.array([[0xDD000000, 2, 1, 1, 1, 1]], np.uint32), "ndSparse")
        struct["spatial_weights"].attrs["MATLAB_object_decode"] = np.int32(3)
        info = struct.create_group("INFO")
        info.attrs["MATLAB_class"] = np.bytes_("struct")
        add(info, "fast_features", np.array([[int(fast)]], np.uint8), "logical")
        file.create_group("#refs#")
    with path.open("r+b") as handle:
        handle.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")
    return path


def precomputed5(path: Path, values, fast: bool = False) -> Path:
    """The same as v7."""
    struct = {"features": values, "traces": np.zeros((50, len(values)), np.float32), "INFO": {"fast_features": np.array([[fast]])}}
    scipy.io.savemat(path, {"precomputedOutput": struct}, do_compression=True)
    return path


def labels(path: Path, said, **more) -> Path:
    column = np.asarray(said, float).reshape(-1, 1)
    struct = {"labels_ex": column, "labels_ml": np.ones_like(column), "labels_overall": np.where(column == 0, 1, column), **more}
    scipy.io.savemat(path, {"labels": struct})
    return path


@pytest.fixture(params=[precomputed, precomputed5], ids=["v7.3", "v7"])
def pair(request, tmp_path, values, said):
    labels(tmp_path / "precomputed_x_LABELS.mat", said)
    return request.param(tmp_path / "precomputed_x.mat", values)


def test_labelled_candidates_scaled_over_all(pair, values):
    found = read_examples(pair)
    np.testing.assert_array_equal(found.y, [1, 0, 0, 1])  # only what people said, in the order of the candidates
    np.testing.assert_allclose(found.features, learn.standardise(values.astype(np.float32))[[1, 4, 9, 16]], atol=1e-6)


def test_either_file_of_the_pair_will_do_and_both_count_once(pair):
    other = pair.with_name("precomputed_x_LABELS.mat")
    assert read_examples(other).features.tobytes() == read_examples(pair).features.tobytes()
    assert len(read_many([pair, other])) == 4


def test_features_have_our_names_where_ours_are_the_same(pair):
    names = read_examples(pair).names
    assert (names[0], names[36], names[45], names[46], names[75]) == (
        "published.snr",
        "published.area_px",
        "published.max_overlap_correlation",
        "movie.contamination_mean",
        "movie.frame_match_90",
    )


@pytest.mark.parametrize("write", [precomputed, precomputed5])
def test_fast_features_stand_in_other_columns(tmp_path, values, said, write):
    values[:, [2, *range(29, 76)]] = 0  # what the app leaves empty then
    labels(tmp_path / "p_LABELS.mat", said)
    found = read_examples(write(tmp_path / "p.mat", values, fast=True))
    scaled = learn.standardise(values.astype(np.float32))[[1, 4, 9, 16]]
    for name, column in (("published.snr", 0), ("published.top_decile_std", 3), ("published.power_00_05", 4), ("published.area_px", 11)):
        np.testing.assert_allclose(found.features[:, found.names.index(name)], scaled[:, column], atol=1e-6)
    np.testing.assert_allclose(found.features[:, found.names.index("movie.frame_match_00")], scaled[:, 19], atol=1e-6)
    assert "published.strong_peak_interval" not in found.names  # column 5 without the fast features
    assert len(found.names) == 28


def test_a_column_that_was_never_computed_is_no_feature(tmp_path, values, said):
    values[:, 46:] = 0
    labels(tmp_path / "p_LABELS.mat", said)
    assert len(read_examples(precomputed(tmp_path / "p.mat", values)).names) == 46


def test_labels_that_are_missing_empty_or_of_another_file(tmp_path, values, said):
    path = precomputed(tmp_path / "p.mat", values)
    with pytest.raises(MissingFileError, match=r"p_LABELS\.mat is missing"):
        read_examples(path)
    labels(tmp_path / "p_LABELS.mat", said[:-1])
    with pytest.raises(FormatError, match=r"labels of 24 candidates, p\.mat has 25"):
        read_examples(path)
    labels(tmp_path / "p_LABELS.mat", 0 * said)
    with pytest.raises(UsageError, match="Nobody labelled anything"):
        read_examples(path)
    path.unlink()
    with pytest.raises(MissingFileError, match=r"p\.mat is missing"):
        read_examples(tmp_path / "p_LABELS.mat")


def test_a_truncated_file_is_a_sentence(tmp_path, values, said):
    path = precomputed(tmp_path / "p.mat", values)
    labels(tmp_path / "p_LABELS.mat", said)
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(FormatError, match=r"p\.mat could not be read"):
        read_examples(path)


def test_features_of_another_number_are_refused(tmp_path, values, said):
    labels(tmp_path / "p_LABELS.mat", said)
    with pytest.raises(FormatError, match=r"\(25, 40\) instead of \(candidates, 76\)"):
        read_examples(precomputed(tmp_path / "p.mat", values[:, :40]))


def test_a_saved_classifier_says_what_to_pass_instead(tmp_path):
    with h5py.File(tmp_path / "classifier.mat", "w") as file:
        file.create_dataset("dataset", data=np.array([[0xDD000000, 2, 1, 1, 1, 1]], np.uint32))
    with pytest.raises(UsageError, match="only MATLAB can read") as caught:
        read_examples(tmp_path / "classifier.mat")
    assert "_LABELS.mat" in caught.value.hint


def test_labels_as_octave_writes_them(tmp_path):
    """MATLAB's own `save` of such a struct cannot be had here; Octave's is the nearest: tests/data/actsort_octave_LABELS.mat."""
    path = precomputed(tmp_path / "p.mat", np.random.default_rng(0).normal(size=(45, 76)))
    shutil.copy(DATA / "actsort_octave_LABELS.mat", tmp_path / "p_LABELS.mat")
    np.testing.assert_array_equal(read_examples(path).y, [1, 1, 1, 1, 1, 1, 0, 1, 1, 0, 0, 0, 0, 0])
