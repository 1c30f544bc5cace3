"""The nouns: checked at the door, identified by content, handed to hosts so that they decide the same."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from actsort_core.errors import FormatError
from actsort_core.model import CandidateId, Curation, Decision, Label, Prediction, Predictions, Prior, Recording, as_footprints
from actsort_core.testing import make_recording


def with_footprints(recording: Recording, matrix: Any) -> Recording:
    return replace(recording, footprints=as_footprints(matrix, math.prod(recording.fov)))


# ---- validation at the door


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"fov": (840,)}, "has a field of view of (840,)"),
        ({"fov": (24, 35, 1, 1)}, "has a field of view of (24, 35, 1, 1)"),
        ({"fov": (-24, -35)}, "has a field of view of (-24, -35)"),
        ({"fov": (0, 35)}, "has a field of view of (0, 35)"),
        ({"fov": (24, 36)}, "has footprints of 840 pixels in a field of view of (24, 36)"),
        ({"fov": (2**33, 2**33)}, "has footprints of 840 pixels in a field of view of"),
        ({"traces": np.zeros((11, 20), np.float32)}, "has 12 footprints but 11 traces"),
        ({"traces": np.zeros(12, np.float32)}, "has traces of shape (12,)"),
        ({"traces": np.zeros((12, 2, 2), np.float32)}, "has traces of shape (12, 2, 2)"),
        ({"prior": Prior.undecided(11)}, "has 12 candidates but (11,) values of prior"),
        ({"prior": Prior(np.zeros(12, np.int8), np.zeros(13))}, "has 12 candidates but (13,) values of prior probability"),
        ({"metrics": {"SNR_comp": np.zeros((12, 1))}}, "has 12 candidates but (12, 1) values of SNR_comp"),
        ({"images": {"mean": np.zeros((35, 24), np.float32)}}, "has an image 'mean' of (35, 24)"),
        ({"footprints": sp.csr_matrix((840, 12), dtype=np.float32)}, "not a sparse CSC matrix"),
        ({"footprints": np.zeros((840, 12), np.float32)}, "not a sparse CSC matrix"),
    ],
)
def test_an_inconsistent_recording_is_refused_with_its_path_and_name(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(FormatError) as caught:
        make_recording(**{"path": Path("/data/r.hdf5"), **fields}) if "fov" not in fields else replace(
            make_recording(path=Path("/data/r.hdf5")), **fields
        )
    assert str(caught.value).startswith("/data/r.hdf5: recording 'made' ")
    assert problem in str(caught.value)
    assert caught.value.hint


def test_recordings_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        make_recording().name = "other"  # type: ignore[misc]


@pytest.mark.parametrize("n_cells", [0, 1, 2])
@pytest.mark.parametrize("fov", [(5, 7), (4, 5, 6)])
def test_few_candidates_are_no_problem(n_cells: int, fov: tuple[int, ...]) -> None:
    recording = make_recording(n_cells, fov, traces=np.zeros((n_cells, 0), np.float32))
    assert (recording.n_cells, recording.n_frames, len(recording.candidate_fingerprints)) == (n_cells, 0, n_cells)
    assert len(recording.fingerprint) == 16


def test_prior_counts() -> None:
    assert Prior(np.array([1, 1, -1, 0], np.int8), np.zeros(4)).counts() == {"accepted": 2, "rejected": 1, "undecided": 1}
    undecided = Prior.undecided(3)
    assert undecided.counts() == {"accepted": 0, "rejected": 0, "undecided": 3}
    assert np.isnan(undecided.probability).all()


# ---- fingerprints


def test_fingerprints_are_equal_for_copies_whatever_else_differs() -> None:
    a = make_recording()
    b = replace(
        a,
        footprints=a.footprints.copy(),
        name="b",
        path=Path("/elsewhere"),
        format="other",
        fps=None,
        traces=np.zeros((12, 3), np.float32),
        prior=Prior.undecided(12),
        metrics={},
        images={},
        notes=("odd",),
    )
    assert a.candidate_fingerprints == b.candidate_fingerprints
    assert a.fingerprint == b.fingerprint
    assert all(len(f) == 16 and int(f, 16) >= 0 for f in a.candidate_fingerprints)
    assert len(set(a.candidate_fingerprints)) == 12


def test_the_fingerprint_of_a_known_footprint_never_changes() -> None:
    """Sessions on disk refer to it."""
    matrix = sp.csc_matrix(([0.5, 1.0], ([3, 7], [0, 0])), shape=(12, 1))
    recording = make_recording(1, (3, 4), n_frames=2)
    recording = with_footprints(recording, matrix)
    assert recording.candidate_fingerprints == (KNOWN_CANDIDATE,)
    assert recording.fingerprint == KNOWN_RECORDING


KNOWN_CANDIDATE, KNOWN_RECORDING = "cd32c74a9508b4b2", "113ecc633acdeecc"  # BLAKE2b of fov, pixels (int64) and weights (float32)


@given(st.integers(0, 11), st.data())
def test_a_changed_weight_or_pixel_changes_one_fingerprint(cell: int, data: st.DataObject) -> None:
    a = BASE
    start, stop = a.footprints.indptr[cell : cell + 2]
    entry = data.draw(st.integers(int(start), int(stop) - 1))
    if data.draw(st.booleans()):
        matrix = a.footprints.copy()
        matrix.data[entry] = np.nextafter(matrix.data[entry], np.float32(9))
    else:
        dense = a.footprints.toarray()
        free = data.draw(st.sampled_from(np.flatnonzero(dense[:, cell] == 0).tolist()))
        pixel = a.footprints.indices[entry]
        dense[free, cell], dense[pixel, cell] = dense[pixel, cell], 0
        matrix = dense
    b = with_footprints(a, matrix)
    differ = [x != y for x, y in zip(a.candidate_fingerprints, b.candidate_fingerprints, strict=True)]
    assert differ == [i == cell for i in range(12)]
    assert a.fingerprint != b.fingerprint


BASE = make_recording()


def test_another_field_of_view_changes_all_fingerprints() -> None:
    a = make_recording(images={})
    b = replace(a, fov=(35, 24))
    assert not set(a.candidate_fingerprints) & set(b.candidate_fingerprints)
    assert a.fingerprint != b.fingerprint


@given(st.permutations(range(12)))
def test_the_recordings_fingerprint_does_not_depend_on_order(order: list[int]) -> None:
    b = with_footprints(BASE, BASE.footprints[:, order])
    assert b.candidate_fingerprints == tuple(BASE.candidate_fingerprints[i] for i in order)
    assert b.fingerprint == BASE.fingerprint


def test_a_candidate_more_or_less_changes_the_recordings_fingerprint() -> None:
    a = make_recording(3)
    fewer = replace(a, footprints=a.footprints[:, :2], traces=a.traces[:2], prior=Prior.undecided(2), metrics={})
    assert fewer.fingerprint != a.fingerprint
    double = with_footprints(a, sp.hstack([a.footprints[:, :2], a.footprints[:, 1:2]]))
    assert double.fingerprint not in {a.fingerprint, fewer.fingerprint}


# ---- canonical footprints


@pytest.mark.parametrize("kind", ["csc", "csr", "coo", "lil", "array"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16])
def test_footprints_of_any_kind_become_canonical(kind: str, dtype: type) -> None:
    dense = np.zeros((12, 3), dtype)
    dense[[1, 5, 11], [0, 0, 2]] = 1, 2, 3
    matrix = as_footprints(dense if kind == "array" else getattr(sp, f"{kind}_matrix")(dense), 12)
    assert (matrix.format, matrix.dtype, matrix.has_canonical_format) == ("csc", np.float32, True)
    np.testing.assert_array_equal(matrix.toarray(), dense)


def test_duplicates_are_summed_zeros_dropped_pixels_sorted_and_nonfinite_weights_left_out() -> None:
    data = np.array([1, 2, 0, np.nan, np.inf, -np.inf, 4, 3], np.float32)
    matrix = sp.csc_matrix((data, np.array([9, 9, 1, 2, 3, 4, 8, 0]), np.array([0, 6, 8])), shape=(12, 2))
    out = as_footprints(matrix, 12)
    np.testing.assert_array_equal(out.indptr, [0, 1, 3])
    np.testing.assert_array_equal(out.indices, [9, 0, 8])
    np.testing.assert_array_equal(out.data, [3, 3, 4])


def test_what_was_passed_in_stays_as_it_is() -> None:
    matrix = sp.csc_matrix((np.array([np.nan, 1], np.float32), np.array([3, 3]), np.array([0, 2])), shape=(12, 1))
    as_footprints(matrix, 12)
    assert np.isnan(matrix.data[0])
    np.testing.assert_array_equal(matrix.indices, [3, 3])


def test_the_way_they_are_stored_does_not_change_fingerprints() -> None:
    a = BASE.footprints
    order = np.concatenate([np.arange(*b)[::-1] for b in zip(a.indptr[:-1], a.indptr[1:], strict=True)])
    backwards = sp.csc_matrix((a.data[order], a.indices[order], a.indptr), shape=a.shape)
    explicit = sp.hstack([a, sp.csc_matrix(([0.0], ([0], [0])), shape=(a.shape[0], 1))]).tocsc()[:, :12]
    for other in (backwards, explicit, a.tocoo(), a.astype(np.float64)):
        assert with_footprints(BASE, other).candidate_fingerprints == BASE.candidate_fingerprints


def test_a_wrong_number_of_pixels_is_refused() -> None:
    with pytest.raises(FormatError, match="The footprints have 12 pixels, the field of view has 13"):
        as_footprints(sp.csc_matrix((12, 2)), 13)


# ---- curations


def curation(accepted: Any, origin: Any, probability: Any, threshold: float, labels: dict[int, Label] | None = None) -> Curation:
    n = len(accepted)
    arrays = np.asarray(accepted, bool), np.asarray(origin, "<U5"), np.asarray(probability, float)
    return Curation("a", "f", tuple(map(str, range(n))), *arrays, threshold, labels or {})


probabilities = st.floats(0, 1)


@given(st.lists(probabilities, min_size=1, max_size=20), probabilities)
def test_a_host_that_cuts_at_one_half_finds_the_models_decisions(p: list[float], threshold: float) -> None:
    values = np.array(p)
    out = curation(values > threshold, ["model"] * len(p), values, threshold).host_probability()
    assert ((out >= 0) & (out <= 1)).all()
    np.testing.assert_array_equal(out > 0.5, values > threshold)
    np.testing.assert_array_equal(out.astype(np.float32) > 0.5, values > threshold)  # iscell.npy may be single precision
    assert (np.diff(out[np.argsort(values)]) >= 0).all()  # monotone


@given(st.lists(st.floats(0.01, 0.99), min_size=2, max_size=20, unique_by=lambda p: round(p, 4)), st.floats(0.05, 0.95))
def test_shifting_keeps_the_order_and_the_distances_in_logit(p: list[float], threshold: float) -> None:
    values = np.array([v for v in p if abs(v - threshold) > 1e-3] or [threshold / 2])
    out = curation(values > threshold, ["model"] * len(values), values, threshold).host_probability()

    def logit(x: Any) -> Any:
        return np.log(x) - np.log1p(-x)

    np.testing.assert_allclose(logit(out), logit(values) - logit(np.float64(threshold)), atol=1e-6)


def test_a_threshold_of_one_half_changes_nothing() -> None:
    p = np.array([0.1, 0.4, 0.6, 0.95])
    np.testing.assert_allclose(curation(p > 0.5, ["model"] * 4, p, 0.5).host_probability(), p)


@given(st.lists(st.sampled_from(["label", "prior"]), min_size=1, max_size=9), st.data())
def test_labels_and_priors_count_as_one_and_zero(origin: list[str], data: st.DataObject) -> None:
    accepted = [data.draw(st.booleans()) for _ in origin]
    p = [data.draw(probabilities | st.just(math.nan)) for _ in origin]
    np.testing.assert_array_equal(curation(accepted, origin, p, data.draw(probabilities)).host_probability(), np.array(accepted, float))


def test_without_a_model_there_is_no_threshold() -> None:
    out = curation([True, False, False], ["label", "prior", "none"], [math.nan] * 3, math.nan).host_probability()
    np.testing.assert_array_equal(out, [1, 0, 0])


def test_an_unsure_candidate_is_decided_by_the_model() -> None:
    unsure = Label(CandidateId("a", 1), "unsure", "ana")
    c = curation([True, True], ["label", "model"], [0.2, 0.8], 0.4, {1: unsure})
    assert c.host_probability()[0] == 1
    assert 0.5 < c.host_probability()[1] < 1
    assert c.decisions()[1] == Decision(CandidateId("a", 1), True, 0.8, "model", unsure)


def test_decisions_and_undecided() -> None:
    c = curation([True, False], ["prior", "none"], [math.nan, math.nan], math.nan)
    assert c.n_cells == 2
    assert c.undecided.tolist() == [False, True]
    assert [(d.candidate.index, d.accepted, d.origin, d.label) for d in c.decisions()] == [
        (0, True, "prior", None),
        (1, False, "none", None),
    ]


# ---- small things


def test_candidate_ids_unpack_sort_and_hash() -> None:
    key, index = CandidateId("a", 3)
    assert (key, index) == ("a", 3)
    assert sorted([CandidateId("b", 0), CandidateId("a", 2), CandidateId("a", 1)])[0] == CandidateId("a", 1)
    assert len({CandidateId("a", 1), CandidateId("a", 1)}) == 1


def test_predictions_are_a_sequence() -> None:
    ids = (CandidateId("a", 0), CandidateId("a", 1), CandidateId("b", 0))
    predictions = Predictions(ids, np.array([0.1, 0.2, 0.3]), 0.2, 0.2, 7)
    assert len(predictions) == 3
    assert predictions[1] == Prediction(ids[1], 0.2)
    assert predictions[-1].candidate == ids[2]
    assert [p.probability for p in predictions[1:]] == [0.2, 0.3]
    assert [p.candidate for p in predictions] == list(ids)
    assert predictions.of("a").tolist() == [0.1, 0.2]
    with pytest.raises(IndexError):
        predictions[3]
