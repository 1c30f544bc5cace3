"""What Suite2p copies from the planes: the combined view, Fall.mat, ophys.nwb; and planes edited by hand in its GUI."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io
from click.testing import CliRunner

from actsort_adapters import suite2p
from actsort_adapters.suite2p import Suite2pFormat
from actsort_core import cli, exporters, plugins
from actsort_core.batch import apply
from actsort_core.errors import WriteError
from actsort_core.formats import ExportingFormat, read_with
from actsort_core.model import Curation, Recording
from actsort_core.opening import open as open_session
from actsort_core.session import Session

DATA = Path(__file__).parent / "data" / "suite2p"
FORMAT = Suite2pFormat()
ISCELL = "processing/ophys/ImageSegmentation/PlaneSegmentation/iscell"


def copied(tmp_path: Path, name: str) -> Path:
    return Path(shutil.copytree(DATA / name / "suite2p", tmp_path / "suite2p"))


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """Two planes of 1.1.0 (41 and 43 ROIs) with combined/iscell.npy and ophys.nwb."""
    return copied(tmp_path, "s2p_110/twoplane")


def opened(*paths: Path, **options: Any) -> Session:
    session = open_session(
        *paths, plugins=plugins.load([suite2p], discover=False), classifier=None, refit_wait=0, annotator="ann", prepare=False, **options
    )
    for candidate in session.candidates[::4]:
        session.label(candidate, "not_cell" if session.recordings[candidate.recording].prior.verdict[candidate.index] > 0 else "cell")
    return session


def planes_of(folder: Path) -> np.ndarray:
    return np.concatenate([np.load(plane / "iscell.npy") for plane in sorted(folder.glob("plane*"))])


def flipped(recording: Recording) -> Curation:
    accepted = recording.prior.verdict < 0
    probability = np.where(accepted, 0.9, 0.2)
    return Curation(
        recording.name,
        recording.fingerprint,
        recording.candidate_fingerprints,
        accepted,
        np.full(len(accepted), "model"),
        probability,
        0.5,
        {},
    )


# The combined view


@pytest.mark.parametrize("name", ["s2p_0146/twoplane", "s2p_110/twoplane"])
def test_writing_planes_rewrites_combined(tmp_path, name):
    folder = copied(tmp_path, name)
    before = np.load(folder / "combined/iscell.npy")
    with opened(folder) as session:
        report = session.write()
        assert folder / "combined/iscell.npy" in report.written
        after = np.load(folder / "combined/iscell.npy")
        np.testing.assert_array_equal(after, planes_of(folder))
        assert (after[:, 0] != before[:, 0]).sum() >= 21
        assert not any("combined" in note for note in report.notes)
        assert read_with(FORMAT, folder)[0].notes == ()
        session.restore()
        np.testing.assert_array_equal(np.load(folder / "combined/iscell.npy"), before)
        assert session.write(dry_run=True).written == ()


def test_clicks_in_the_combined_view_are_told_and_kept(two):
    path = two / "combined/iscell.npy"
    table = np.load(path)
    table[[3, 50, 51], 0] = 1 - table[[3, 50, 51], 0]
    np.save(path, table)
    recordings = read_with(FORMAT, two)
    assert "1 of plane0, 2 of plane1" in recordings[0].notes[0]
    assert recordings[0].prior.counts()["accepted"] == 20  # what the planes say
    assert "2 of plane1" in read_with(FORMAT, two / "plane1")[0].notes[0]
    assert f"actsort import-labels {two} {path}" in recordings[0].notes[0]
    assert not FORMAT.sniff(path).yes  # a list of verdicts for import-labels, no result
    with opened(two) as session:
        report = session.write()
        assert any("held 3 verdicts that the planes did not have" in note for note in report.notes)
        np.testing.assert_array_equal(np.load(report.backups[path]), table)
    np.save(path, table[:-1])
    assert "holds 83 ROIs, the planes hold 84" in read_with(FORMAT, two)[0].notes[0]
    np.save(path, table[:, 0])
    assert "instead of two columns" in read_with(FORMAT, two)[0].notes[0]


def test_one_plane_of_several(two):
    """The rows of the other planes come from their own files."""
    (recording,) = read_with(FORMAT, two / "plane1")
    plan = FORMAT.plan_exports([recording], [flipped(recording)])
    assert [edit.path for edit in plan.edits] == [two / "plane1/iscell.npy", two / "combined/iscell.npy", two / "ophys.nwb"]
    with opened(two / "plane1") as session:
        session.write(update_exports=True)
    np.testing.assert_array_equal(np.load(two / "combined/iscell.npy"), planes_of(two))
    with h5py.File(two / "ophys.nwb") as file:
        np.testing.assert_array_equal(file[ISCELL][()], planes_of(two))


def test_planes_opened_one_by_one_share_their_copies(two):
    """Two sources of one session stage the same files: neither may lose the other's rows."""
    with opened(two / "plane0", two / "plane1", session=two.parent / "session") as session:
        report = session.write(update_exports=True)
        assert sorted(path.name for path in report.written) == ["iscell.npy", "iscell.npy", "iscell.npy", "ophys.nwb"]
        np.testing.assert_array_equal(np.load(two / "combined/iscell.npy"), planes_of(two))
        with h5py.File(two / "ophys.nwb") as file:
            np.testing.assert_array_equal(file[ISCELL][()], planes_of(two))
        session.restore()
    for file in ("combined/iscell.npy", "ophys.nwb"):
        assert (two / file).read_bytes() == (DATA / "s2p_110/twoplane/suite2p" / file).read_bytes()


def test_flyback_planes_are_not_in_combined(two):
    """1.x leaves them out by their number among the folders, also where they have ROIs."""
    np.save(two / "db.npy", {"ignore_flyback": [0], "nplanes": 2})
    np.save(two / "combined/iscell.npy", np.load(two / "plane1/iscell.npy"))
    recordings = read_with(FORMAT, two)
    assert [recording.notes for recording in recordings] == [(), ()]
    with opened(two) as session:
        session.write()
    np.testing.assert_array_equal(np.load(two / "combined/iscell.npy"), np.load(two / "plane1/iscell.npy"))


def test_combined_of_another_run_is_left_alone(two):
    """Same number of ROIs, other fluorescence: the planes were detected anew since."""
    f = np.concatenate([np.load(two / f"plane{i}/F.npy") for i in (0, 1)])
    np.save(two / "combined/F.npy", f)
    recordings = read_with(FORMAT, two)
    curations = [flipped(recording) for recording in recordings]
    assert two / "combined/iscell.npy" in [edit.path for edit in FORMAT.plan(recordings, curations).edits]
    np.save(two / "combined/F.npy", f[::-1])
    plan = FORMAT.plan(recordings, curations)
    assert "other ROIs than the planes" in dict(plan.stale)[two / "combined/iscell.npy"]
    assert two / "combined/iscell.npy" not in [edit.path for edit in plan.edits]
    np.save(two / "combined/F.npy", np.hstack([f, np.zeros_like(f)]))  # a shorter plane is padded with zeros
    assert two / "combined/iscell.npy" in [edit.path for edit in FORMAT.plan(recordings, curations).edits]
    (two / "plane0/iscell.npy").unlink()
    (recording,) = read_with(FORMAT, two / "plane1")
    assert "plane0/iscell.npy is missing" in dict(FORMAT.plan([recording], curations[1:]).stale)[two / "combined/iscell.npy"]


def test_a_plane_moved_elsewhere_is_on_its_own(two, tmp_path, monkeypatch):
    moved = (two / "plane1").rename(two / "mouse 7")
    (recording,) = read_with(FORMAT, moved)
    plan = FORMAT.plan_exports([recording], [flipped(recording)])
    assert ([edit.path for edit in plan.edits], plan.stale) == ([moved / "iscell.npy"], ())
    monkeypatch.chdir(two / "plane0")
    assert read_with(FORMAT, Path())[0].name == "plane0"
    assert read_with(FORMAT, Path("stat.npy"))[0].path == two / "plane0"


# Exports


@pytest.mark.parametrize("name", ["s2p_0146/mini", "s2p_110/twoplane"])
def test_exports_are_reported_and_rewritten_where_asked(tmp_path, name):
    folder = copied(tmp_path, name)
    exports = [folder / "ophys.nwb", *folder.glob("*/Fall.mat")]
    before = {path: path.read_bytes() for path in exports}
    assert isinstance(FORMAT, ExportingFormat)
    with opened(folder) as session:
        report = session.write()
        assert {path for path, _ in report.stale} == set(exports)
        assert all("--update-exports" in remedy for _, remedy in report.stale)
        assert {path: path.read_bytes() for path in exports} == before
        report = session.write(update_exports=True)
        assert report.stale == ()
        assert set(exports) <= set(report.written)
        assert session.write().stale == ()  # they agree now
        session.restore()
    assert {path: path.read_bytes() for path in exports} == before


def test_nothing_else_in_exports_changes(tmp_path):
    folder = copied(tmp_path, "s2p_0146/mini")
    mat, nwb = folder / "plane0/Fall.mat", folder / "ophys.nwb"
    old_mat, old_nwb = mat.read_bytes(), nwb.read_bytes()
    with opened(folder) as session:
        session.write(update_exports=True)
    table = np.load(folder / "plane0/iscell.npy")
    content = scipy.io.loadmat(mat)
    np.testing.assert_array_equal(content["iscell"], table)
    np.testing.assert_array_equal(content["F"], np.load(folder / "plane0/F.npy"))
    for old, new in ((old_mat, mat.read_bytes()), (old_nwb, nwb.read_bytes())):
        assert len(old) == len(new)
        differing = np.flatnonzero(np.frombuffer(old, np.uint8) != np.frombuffer(new, np.uint8))
        assert len(differing) > 0
        assert differing[-1] - differing[0] < table.nbytes  # one block of 30 x 2 numbers
    with h5py.File(nwb) as file:
        np.testing.assert_array_equal(file[ISCELL][()], table)


def test_compressed_fall_mat(tmp_path):
    """As MATLAB saves it: the new variable is compressed, too, and the others keep their bytes."""
    folder = copied(tmp_path, "s2p_0146/mini")
    mat = folder / "plane0/Fall.mat"
    content = {key: value for key, value in scipy.io.loadmat(mat).items() if not key.startswith("__")}
    scipy.io.savemat(mat, content, do_compression=True)
    with opened(folder / "plane0") as session:
        session.write(update_exports=True)
    after = scipy.io.loadmat(mat)
    np.testing.assert_array_equal(after["iscell"], np.load(folder / "plane0/iscell.npy"))
    np.testing.assert_array_equal(after["spks"], content["spks"])


def test_fall_mat_of_the_combined_view(two):
    f = np.concatenate([np.load(two / f"plane{i}/F.npy") for i in (0, 1)])
    scipy.io.savemat(two / "combined/Fall.mat", {"F": f, "iscell": np.load(two / "combined/iscell.npy"), "note": "keep"})
    with opened(two) as session:
        session.write(update_exports=True)
    content = scipy.io.loadmat(two / "combined/Fall.mat")
    np.testing.assert_array_equal(content["iscell"], planes_of(two))
    assert content["note"] == ["keep"]


def unlike(folder: Path, kind: str) -> str:
    mat, nwb = folder / "plane0/Fall.mat", folder / "ophys.nwb"
    if kind == "truncated":
        mat.write_bytes(mat.read_bytes()[:-40000])
        nwb.write_bytes(nwb.read_bytes()[:-1000])
        return ""
    if kind == "empty":
        mat.write_bytes(b"")
        nwb.write_bytes(b"")
        return ""
    if kind == "v7.3":
        shutil.copyfile(nwb, mat)
        nwb.unlink()
        return "not a MATLAB file"
    content = {key: value for key, value in scipy.io.loadmat(mat).items() if not key.startswith("__")}
    with h5py.File(nwb, "r+") as file:
        fluorescence = file["processing/ophys/Fluorescence/plane0/data"]
        if kind == "other order":
            content["F"], fluorescence[...] = content["F"][::-1], fluorescence[()][:, ::-1]
            message = "other ROIs than the planes"
        elif kind == "other count":
            content["iscell"] = content["iscell"][:-1]
            del file[ISCELL]
            file[ISCELL] = np.zeros((31, 2))
            message = "verdicts of"
        elif kind == "no traces":
            del content["F"], file["processing/ophys/Fluorescence/plane0/data"]
            message = "Suite2p"
        else:
            del content["iscell"], file[ISCELL]
            file[ISCELL] = h5py.ExternalLink("elsewhere.h5", "/iscell")
            message = "no iscell"
            if kind == "link":
                content["iscell"] = np.array(["a", "b"], object)
    scipy.io.savemat(mat, content)
    return message


@pytest.mark.parametrize("kind", ["truncated", "empty", "v7.3", "other order", "other count", "no traces", "no iscell", "link"])
def test_exports_that_do_not_fit_are_left_alone(tmp_path, kind):
    folder = copied(tmp_path, "s2p_0146/mini")
    message = unlike(folder, kind)
    exports = [path for path in (folder / "plane0/Fall.mat", folder / "ophys.nwb") if path.exists()]
    before = [path.read_bytes() for path in exports]
    with opened(folder) as session:
        report = session.write(update_exports=True)
        assert report.written == (folder / "plane0/iscell.npy",)
    assert [path for path, _ in report.stale] == exports
    assert all("it was not changed" in remedy for _, remedy in report.stale)
    assert message in report.stale[0][1]
    assert [path.read_bytes() for path in exports] == before


def test_an_export_that_fails_leaves_everything(tmp_path, monkeypatch):
    from actsort_adapters import _suite2p_copies

    folder = copied(tmp_path, "s2p_0146/mini")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def no_room(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_suite2p_copies.shutil, "copyfile", no_room)
    with opened(folder, session=tmp_path / "session") as session, pytest.raises(WriteError, match="No space left"):
        session.write(update_exports=True)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_commands(two):
    session = opened(two)
    session.close()
    runner, loaded = CliRunner(), plugins.load([suite2p, exporters], discover=False)
    out = runner.invoke(cli.main, ["write", str(two), "--dry-run", "--update-exports"], obj=loaded)
    assert out.exit_code == 0, out.output
    assert f"would write {two / 'ophys.nwb'}: iscell of 84 rows" in out.output
    out = runner.invoke(cli.main, ["write", str(two), "--update-exports"], obj=loaded)
    assert f"wrote {two / 'ophys.nwb'}" in out.output
    with h5py.File(two / "ophys.nwb") as file:
        np.testing.assert_array_equal(file[ISCELL][()], planes_of(two))
    out = runner.invoke(cli.main, ["sort", str(two), "--update-exports"], obj=loaded)
    assert out.exit_code != 0
    assert "Add --write" in out.output


# Edited by hand in the GUI: two ROIs drawn (put first), then two others merged (put last)


@pytest.mark.parametrize(("name", "trace_sum", "accepted"), [("s2p_0146/edited", None, 14), ("s2p_110/edited", None, 16)])
def test_drawn_and_merged(tmp_path, name, trace_sum, accepted):
    (recording,) = read_with(FORMAT, DATA / name)
    (before,) = read_with(FORMAT, DATA / name.replace("edited", "mini"))
    assert (recording.fov, recording.n_cells, recording.notes) == ((64, 80), 33, ())
    assert recording.candidate_fingerprints[2:-1] == before.candidate_fingerprints  # drawn first, merged last
    assert recording.prior.counts()["accepted"] == accepted
    assert (recording.info["drawn"], recording.info["merged"]) == (2, [[32, [0, 1]]])  # the two drawn ones were merged
    assert recording.prior.probability[:2].tolist() == [1, 1]
    assert set(recording.metrics) >= {"skew", "npix", "compact"}
    assert not {"manual", "imerge", "inmerge"} & set(recording.metrics)
    both = flipped(recording)
    accepted_all = Curation(**{**vars(both), "accepted": np.ones(33, bool)})
    assert "ROI 32 was merged from others, of which 0, 1 are accepted, too" in FORMAT.plan([recording], [accepted_all]).notes[-1]
    without = Curation(**{**vars(both), "accepted": np.arange(33) > 1})
    assert len(FORMAT.plan([recording], [without]).notes) == 1


def test_merged_parts_are_found_by_their_pixels(tmp_path):
    """The rows in imerge are those of the time of merging; drawing ROIs later shifts all of them."""
    from test_suite2p import write_plane

    plane = write_plane(tmp_path / "plane0", n=4, ypix=np.array([0, 0]), xpix=np.array([1, 3]), lam=np.ones(2, np.float32))
    stat = list(np.load(plane / "stat.npy", allow_pickle=True))
    stat[3] = stat[2] | {"imerge": np.array([0, 1])}
    for field in ("ypix", "xpix", "lam"):
        stat[3][field] = np.concatenate([stat[1][field], stat[2][field]])
    np.save(plane / "stat.npy", np.array(stat, object))
    (recording,) = read_with(FORMAT, plane)
    assert recording.info["merged"] == [[3, [1, 2]]]


# The second channel


def test_second_channel(tmp_path):
    plane = copied(tmp_path, "s2p_110/chan2") / "plane0"
    (recording,) = read_with(FORMAT, plane)
    assert (recording.n_cells, recording.info["red_cells"], recording.notes) == (41, 41, ())
    assert "meanImg_chan2" in recording.images
    assert not any("red" in name or "chan2" in name for name in recording.metrics)  # red is no evidence for a cell
    before = {path.name: path.read_bytes() for path in plane.iterdir()}
    with opened(plane, session=tmp_path / "session") as session:
        session.write()
    assert {name for name in before if (plane / name).read_bytes() != before[name]} == {"iscell.npy"}
    np.save(plane / "redcell.npy", np.zeros((40, 2)))
    np.save(plane / "F_chan2.npy", np.zeros((40, 400), np.float32))
    (plane / "Fneu_chan2.npy").write_bytes(b"\x93NUMPY")
    (recording,) = read_with(FORMAT, plane)
    assert "red_cells" not in recording.info
    assert [word in " ".join(recording.notes) for word in ("F_chan2.npy has shape (40, 400)", "Fneu_chan2.npy", "redcell.npy")] == [
        True
    ] * 3


def test_apply_updates_exports_too(tmp_path):
    """A model applied in batch takes the same option."""
    folder = copied(tmp_path, "s2p_0146/mini")
    session = open_session(folder, plugins=plugins.load([suite2p], discover=False), annotator="ann", refit_wait=0)
    with session:
        for candidate in session.candidates:
            session.label(candidate, "cell" if candidate.index % 2 else "not_cell")
        (result,) = apply(session, copied(tmp_path / "other", "s2p_0146/mini"), plugins=session.plugins, update_exports=True)
    assert result.error == ""
    assert result.report is not None
    assert sorted(path.name for path in result.report.written) == ["Fall.mat", "iscell.npy", "ophys.nwb"]
