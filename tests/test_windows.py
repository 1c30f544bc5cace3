"""Where to look around each candidate: the near window, and the window that reaches over its neighbours."""

from __future__ import annotations

import movie_oracle as oracle
import numpy as np
import pytest
import scipy.sparse as sp

from actsort_core.features._shared import normalised
from actsort_core.simulate import simulate
from actsort_core.windows import REACH, find_windows

FOV = (60, 80)


def footprint(rows: slice, columns: slice, fov: tuple[int, ...] = FOV) -> np.ndarray:
    image = np.zeros(fov, np.float32)
    image[rows, columns] = 1
    return image


def windows_of(*images: np.ndarray):
    columns = sp.csc_array(np.stack([image.ravel() for image in images], axis=1))
    return find_windows(normalised(columns, images[0].shape), images[0].shape)


@pytest.mark.parametrize("fov", [FOV, (30, 25, 6)])
def test_windows_are_those_of_the_definition(fov: tuple[int, ...]) -> None:
    """The literal ones reach over whole neighbours: they are the same as far as a surround goes."""
    recording, _ = simulate(40 if len(fov) == 2 else 12, fov=fov, n_frames=50, seed=2)
    images = [oracle.normalised(recording.footprints[:, [i]].toarray().reshape(fov)) for i in range(recording.n_cells)]
    found = find_windows(normalised(recording.footprints, fov), fov)
    wider = 0
    for i, image in enumerate(images):
        whole, near = oracle.window(image, images[:i] + images[i + 1 :])
        assert [(s.start, s.stop - s.start) for s in near] == list(zip(found.near_low[i], found.near_size[i], strict=True))
        for axis, span in enumerate(whole):
            at = np.nonzero(image)[axis]
            first, last = max(span.start, at.min() - REACH, 0), min(span.stop - 1, at.max() + REACH)
            assert (found.low[i, axis], found.low[i, axis] + found.size[i, axis] - 1) == (first, last)
        wider += bool((found.size[i] > found.near_size[i]).any())
    assert wider > recording.n_cells / 4


def test_a_neighbour_is_taken_in_as_far_as_the_surround_reaches() -> None:
    me = footprint(slice(20, 30), slice(20, 30))
    beside = footprint(slice(22, 28), slice(33, 40))  # its centre is at column 36, the near window ends there
    found = windows_of(me, beside)
    assert found.near_low[0].tolist() == [13, 13]
    assert found.near_size[0].tolist() == [24, 24]
    assert (found.low[0].tolist(), found.size[0].tolist()) == ([13, 13], [24, 27])  # up to column 39, where the neighbour ends
    large = footprint(slice(5, 45), slice(20, 50))  # centre (24.5, 34.5)
    found = windows_of(me, large)
    assert (found.low[0].tolist(), found.size[0].tolist()) == ([8, 13], [34, 29])  # twelve pixels up and down, and to the right


def test_one_that_is_too_far_changes_nothing() -> None:
    me, away = footprint(slice(20, 30), slice(20, 30)), footprint(slice(20, 30), slice(34, 44))
    found = windows_of(me, away)
    assert (found.low[0].tolist(), found.size[0].tolist()) == (found.near_low[0].tolist(), found.near_size[0].tolist())


def test_very_wide_and_empty_footprints() -> None:
    fov = (40, 300)
    stripe, empty = footprint(slice(10, 20), slice(50, 250), fov), np.zeros(fov, np.float32)
    found = windows_of(stripe, empty, footprint(slice(0, 19), slice(140, 160), fov))
    assert found.size[0].tolist() == [24, 95]  # seen around its centre, not widened
    assert found.low[0].tolist() == [3, 103]
    assert (found.size[1] == 0).all()
    assert (found.near_size[1] == 0).all()
    assert (windows_of(empty).size == 0).all()
