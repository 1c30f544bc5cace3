"""Writing with the Suite2p adapter: iscell.npy of existing results, and new planes."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actsort_adapters.suite2p import Suite2pFormat
from actsort_core.errors import ChangedError, FormatError, UsageError
from actsort_core.formats import read_with
from actsort_core.model import Curation, Prior, Recording, as_footprints

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
    assert [edit.path for edit in plan.edits] == [folder / "plane0/iscell.npy", folder / "plane1/iscell.npy"]
    assert "41 rows" in plan.edits[0].what
    assert [str(path.relative_to(folder)) for path, _ in plan.stale] == ["combined/iscell.npy", "ophys.nwb", "plane1/Fall.mat"]
    remedies = dict(plan.stale)
    assert "Load folder" in remedies[folder / "combined/iscell.npy"]
    assert "Save to mat" in remedies[folder / "plane1/Fall.mat"]
    assert plan.notes[1:] == ("plane1: 2 undecided candidates are written as not cells.",)
    assert "already shows the old verdicts" in plan.notes[0]

    for edit, recording, curation in zip(plan.edits, recordings, curations, strict=True):
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


# Creating


def test_create_one_plane(tmp_path):
    source = read_one(DATA / "s2p_110/mini")
    files = FORMAT.create([source], [None], tmp_path / "new" / "plane0")
    assert {path.name for path in files} >= {"F.npy", "Fneu.npy", "spks.npy", "iscell.npy", "stat.npy", "ops.npy", "db.npy", "settings.npy"}
    created = read_one(tmp_path / "new" / "plane0")
    assert created.fingerprint == source.fingerprint
    assert created.candidate_fingerprints == source.candidate_fingerprints
    np.testing.assert_array_equal(created.traces[:], source.traces[:])
    np.testing.assert_array_equal(created.spikes[:], source.spikes[:])
    np.testing.assert_array_equal(created.prior.verdict, source.prior.verdict)
    np.testing.assert_array_equal(created.prior.probability, source.prior.probability)
    np.testing.assert_array_equal(created.images["max_proj"], source.images["max_proj"])
    assert (created.fov, created.fps, created.notes) == (source.fov, source.fps, ())
    assert not np.load(tmp_path / "new/plane0/Fneu.npy").any()
    for key in ("skew", "std", "npix"):
        np.testing.assert_allclose(created.metrics[key], source.metrics[key], rtol=1e-5)
    stat = np.load(DATA / "s2p_110/mini/suite2p/plane0/stat.npy", allow_pickle=True)
    new = np.load(tmp_path / "new/plane0/stat.npy", allow_pickle=True)
    assert np.abs([np.subtract(roi["med"], old["med"]) for roi, old in zip(new, stat, strict=True)]).mean() < 1
    assert np.mean([roi["overlap"].sum() for roi in new]) == pytest.approx(np.mean([roi["overlap"].sum() for roi in stat]), rel=0.05)
    ops = np.load(tmp_path / "new/plane0/ops.npy", allow_pickle=True).item()
    assert (ops["neucoeff"], ops["extraction"]["neuropil_coefficient"], ops["nframes"]) == (0.7, 0.7, 220)
    with pytest.raises(UsageError, match="exists already"):
        FORMAT.create([source], [None], tmp_path / "new" / "plane0")


def test_create_several_planes_with_decisions(tmp_path):
    sources = read_with(FORMAT, DATA / "s2p_0146/twoplane")
    curations = [make_curation(s, np.arange(s.n_cells) % 2 == 0, np.where(np.arange(s.n_cells) % 2, 0.1, 0.8)) for s in sources]
    FORMAT.create(sources, curations, tmp_path / "suite2p")
    created = read_with(FORMAT, tmp_path)
    assert [r.name for r in created] == ["plane0", "plane1"]
    assert [p.name for p in tmp_path.iterdir()] == ["suite2p"]  # nothing half-made stays behind
    for recording, source, curation in zip(created, sources, curations, strict=True):
        assert recording.fingerprint == source.fingerprint
        np.testing.assert_array_equal(recording.prior.verdict > 0, curation.accepted)
        np.testing.assert_array_equal(recording.prior.probability, curation.host_probability())


@pytest.mark.parametrize("n", [0, 1, 2])
def test_create_small_and_empty(tmp_path, n):
    """Undecided, no images, an ROI without pixels, an unknown frame rate."""
    weights = np.zeros((6 * 7, n), np.float32)
    weights[[9, 10], :1] = 1
    traces = np.random.default_rng(0).random((n, 30), dtype=np.float32)
    source = Recording("x", tmp_path, "made", (6, 7), as_footprints(weights, 42), traces, "C", None, Prior.undecided(n))
    with pytest.warns(UserWarning, match="frame rate"):
        FORMAT.create([source], [None], tmp_path / "plane0")
    created = read_one(tmp_path / "plane0")
    np.testing.assert_array_equal(created.footprints.toarray(), weights)
    np.testing.assert_array_equal(created.traces[:], traces)
    assert created.prior.counts()["accepted"] == n  # as Suite2p shows what nobody judged


def test_create_refuses_volumes_and_cleans_up(tmp_path):
    volume = Recording("x", tmp_path, "made", (2, 3, 4), as_footprints(np.ones((24, 1)), 24), np.ones((1, 5)), "C", 5.0, Prior.undecided(1))
    with pytest.raises(FormatError, match="only planes"):
        FORMAT.create([volume], [None], tmp_path / "plane0")

    class Broken:
        shape = (1, 5)

        def __getitem__(self, rows: slice) -> Any:
            raise OSError("the disk is gone")

    flat = Recording("x", tmp_path, "made", (6, 4), as_footprints(np.ones((24, 1)), 24), Broken(), "C", 5.0, Prior.undecided(1))
    with pytest.raises(OSError, match="gone"):
        FORMAT.create([flat], [None], tmp_path / "plane0")
    assert list(tmp_path.iterdir()) == []
