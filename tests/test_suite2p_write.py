"""Writing with the Suite2p adapter: iscell.npy of existing results."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actsort_adapters.suite2p import Suite2pFormat
from actsort_core.errors import ChangedError
from actsort_core.formats import read_with
from actsort_core.model import Curation, Recording

DATA = Path(__file__).parent / "data" / "suite2p"
FORMAT = Suite2pFormat()


def read_one(path: Path) -> Recording:
    (recording,) = read_with(FORMAT, path)
    return recording


@pytest.fixture
def mini(tmp_path: Path) -> Path:
    """A writable copy of a 1.1.0 plane of 64 x 80 pixels, 30 ROIs and 220 frames; has ops.npy and the files of 1.x."""
    return Path(shutil.copytree(DATA / "s2p_110/mini", tmp_path / "mini")) / "suite2p" / "plane0"


def make_curation(
    recording: Recording, accepted: np.ndarray, probability: np.ndarray, origin: Any = "model", threshold: float = 0.3
) -> Curation:
    return Curation(
        recording=recording.name,
        fingerprint=recording.fingerprint,
        candidate_fingerprints=recording.candidate_fingerprints,
        accepted=accepted,
        origin=np.broadcast_to(np.array(origin), accepted.shape),
        probability=probability,
        threshold=threshold,
        labels={},
    )


def tree(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


def test_plan_and_stage(tmp_path):
    folder = Path(shutil.copytree(DATA / "s2p_0146/twoplane/suite2p", tmp_path / "suite2p"))
    for name in ("plane1/Fall.mat", "ophys.nwb"):
        (folder / name).write_bytes(b"")
    recordings = read_with(FORMAT, folder)
    rng = np.random.default_rng(1)
    curations = []
    for recording in recordings:
        probability = rng.random(recording.n_cells)
        curations.append(make_curation(recording, probability > 0.3, probability))
    curations[1].accepted[:4] = [True, False, False, False]
    curations[1] = make_curation(
        recordings[1], curations[1].accepted, curations[1].probability, ["label"] * 2 + ["none"] * 2 + ["model"] * 39
    )
    before = tree(folder)
    plan = FORMAT.plan(recordings, curations)
    assert tree(folder) == before  # a plan touches nothing
    assert [str(edit.path.relative_to(folder)) for edit in plan.edits] == [
        f"{name}/iscell.npy" for name in ("plane0", "plane1", "combined")
    ]
    assert "41 rows" in plan.edits[0].what
    assert [str(path.relative_to(folder)) for path, _ in plan.stale] == ["plane1/Fall.mat", "ophys.nwb"]
    remedies = dict(plan.stale)
    assert "Save to mat" in remedies[folder / "plane1/Fall.mat"]
    assert plan.notes[1:] == ("plane1: 2 undecided candidates are written as not cells.",)
    assert "already shows the old verdicts" in plan.notes[0]

    for edit, recording, curation in zip(plan.edits[:2], recordings, curations, strict=True):
        tmp = edit.path.with_name(".iscell.tmp")
        edit.stage(tmp)
        content = tmp.read_bytes()
        assert content[:8] == b"\x93NUMPY\x01\x00"
        assert b"'fortran_order': False" in content[:128]
        with tmp.open("rb") as handle:
            table = np.lib.format.read_array(handle, allow_pickle=False)
        assert (table.dtype, table.shape) == (np.dtype("<f8"), (recording.n_cells, 2))
        np.testing.assert_array_equal(table[:, 0], curation.accepted)
        np.testing.assert_array_equal(table[:, 1], curation.host_probability())
        np.testing.assert_array_equal(table[:, 1] > 0.5, curation.accepted)  # Enter in Suite2p's probability box changes nothing
        tmp.replace(edit.path)
    after = tree(folder)
    assert {name for name in before if before[name] != after[name]} == {"plane0/iscell.npy", "plane1/iscell.npy"}
    for again, recording, curation in zip(read_with(FORMAT, folder), recordings, curations, strict=True):
        np.testing.assert_array_equal(again.prior.verdict > 0, curation.accepted)
        assert again.fingerprint == recording.fingerprint


def test_plan_says_what_changes(mini):
    recording = read_one(mini)
    accepted = recording.prior.verdict > 0
    accepted[np.flatnonzero(accepted)[:3]] = False
    accepted[np.flatnonzero(recording.prior.verdict < 0)[:1]] = True
    (edit,) = FORMAT.plan([recording], [make_curation(recording, accepted, accepted * 0.9)]).edits
    assert "13 cells, 17 not cells; 1 become cells, 3 become not cells" in edit.what
    (mini / "iscell.npy").unlink()
    recording = read_one(mini)
    plan = FORMAT.plan([recording], [make_curation(recording, accepted, accepted * 0.9)])
    assert "new file" in plan.edits[0].what
    assert plan.stale == ()


def test_plan_for_another_result(mini):
    recording = read_one(mini)
    with pytest.raises(ChangedError, match="30 ROIs, the decisions are for 29"):
        FORMAT.plan([recording], [make_curation(recording, np.ones(29, bool), np.ones(29))])
