"""Write-back: planned, backed up, atomic, verified, undone; and nothing changed where any of it fails."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_format
from conftest import make_plugins, simulated

from actsort_core import writeback
from actsort_core.errors import ChangedError, FormatError, MissingFileError, WriteError
from actsort_core.formats import FileEdit, WritePlan
from actsort_core.journal import FILE
from actsort_core.session import Session


def sorted_session(opened: Callable[..., Session], *paths: Path, labels: int = 12, **options: Any) -> Session:
    """A session with enough labels for a model; the answers are the truth about ``simulated``."""
    session = opened(*paths, **options)
    truth = np.concatenate([simulated(r.n_cells, i, key)[1] for i, (key, r) in enumerate(session.recordings.items())])
    session.sort(lambda c: bool(truth[session.candidates.index(c)]), labels)
    return session


def native(result: Path) -> dict[str, bytes]:
    """The content of everything outside the session's folder, hidden files included."""
    files = [p for p in result.rglob("*") if p.is_file() and "actsort" not in p.relative_to(result).parts]
    return {str(p.relative_to(result)): p.read_bytes() for p in files}


def verdicts(path: Path) -> list[int]:
    return json.loads(path.read_text())


def kinds(session: Session) -> list[str]:
    rows = [json.loads(line) for line in (session.folder / FILE).read_text().splitlines()]
    return [row["kind"] for row in rows if row["kind"] not in ("label", "undo", "redo")]


def accepted(session: Session, key: str = "a") -> list[int]:
    return [int(d.accepted) for d in session.decisions() if d.candidate.recording == key]


def flip(session: Session, index: int = 0) -> None:
    """Decide one candidate the other way, so that the next write differs."""
    session.label((next(iter(session.recordings)), index), not session.decisions()[index].accepted)


# Saying what would happen


def test_a_dry_run_touches_nothing_and_says_what_would_change(opened, result, snapshot):
    session = sorted_session(opened, result)
    (result / "old.export").write_text("x")
    before = snapshot(result)
    was, will = verdicts(result / "a.verdict.json"), accepted(session)
    report = session.write(dry_run=True)
    assert snapshot(result) == before
    assert report.written == ()
    assert report.backups == {}
    ((path, what),) = report.planned
    assert (path, what) == (result / "a.verdict.json", "all verdicts")
    (difference,) = report.differences
    assert difference.to_accept.tolist() == [i for i in range(40) if will[i] and not was[i]]
    assert difference.to_reject.tolist() == [i for i in range(40) if was[i] and not will[i]]
    assert (difference.accepted, difference.rejected) == (sum(will), 40 - sum(will))
    text = str(report)
    assert f"a: {sum(will)} accepted, {40 - sum(will)} rejected" in text
    assert f"{len(difference.to_accept)} newly accepted: {difference.to_accept[0]}" in text
    assert f"would write {path}" in text
    assert "old.export: export it again" in text
    session.write()
    assert "no verdict changes" in str(session.write(dry_run=True))


def test_undecided_candidates_are_no_change(opened, toy):
    session = opened(toy(verdicts=False, a=4))
    session.label(1, "cell")
    report = session.write(dry_run=True)
    assert "a: 1 accepted, 0 rejected, 3 undecided" in str(report)
    (difference,) = report.differences
    assert difference.to_accept.tolist() == [1]
    assert difference.to_reject.tolist() == []
    session.write()
    assert verdicts(session.folder.parent / "a.verdict.json") == [0, 1, 0, 0]
    rows = json.loads((session.folder / "curation.json").read_text())["recordings"][0]["candidates"]
    assert [(row["decision"], row["origin"]) for row in rows] == [
        ("undecided", "none"), ("cell", "label"), ("undecided", "none"), ("undecided", "none")
    ]  # fmt: skip


# Writing


def test_write_replaces_the_verdicts_and_nothing_else(opened, toy):
    path = toy(a=40, b=12)
    before = native(path)
    session = sorted_session(opened, path)
    report = session.write()
    assert report.written == (path / "a.verdict.json", path / "b.verdict.json")
    assert verdicts(path / "a.verdict.json") == accepted(session, "a")
    assert verdicts(path / "b.verdict.json") == accepted(session, "b")
    after = native(path)
    assert {name for name in before if after[name] != before[name]} <= {"a.verdict.json", "b.verdict.json"}
    assert after.keys() == before.keys()  # no temporary files
    for file, kept in report.backups.items():
        assert kept.read_bytes() == before[file.name]
        assert kept.parent == session.folder / "backups"
        assert f"what it held before is in {kept}" in str(report)
    assert set(report.backups) == set(report.written)


def test_files_are_replaced_and_never_rewritten_in_place(opened, result):
    """Whoever has the file open goes on reading all of what it was: there is no moment at which it is half of either."""
    file = result / "a.verdict.json"
    session = sorted_session(opened, result)
    before = file.read_bytes()
    with file.open("rb") as old, (session.folder / "session.json").open("rb") as document:
        was = (session.folder / "session.json").read_bytes()
        session.write()
        session.threshold = 0.9
        assert file.read_bytes() != before
        assert old.read() == before
        assert document.read() == was
    ours = file.read_bytes()
    with file.open("rb") as old:
        session.restore()
        assert old.read() == ours


def test_the_receipt_is_in_the_journal(opened, result):
    session = sorted_session(opened, result)
    session.write()
    started, written = session.journal.events[-2:]
    assert (started["kind"], written["kind"]) == ("write_started", "written")
    assert started["files"] == written["files"]
    (file,) = written["files"]
    assert file["path"] == str(result / "a.verdict.json")
    assert file["before"] != file["after"]
    assert (session.folder / file["backup"]).is_file()
    assert written["counts"] == {"a": {"accepted": sum(accepted(session)), "rejected": 40 - sum(accepted(session))}}


def test_curation_json_says_who_decided_what_and_when(opened, result, truth):
    session = sorted_session(opened, result)
    unsure = session.ask()
    session.label(unsure, "unsure", annotator="bob")
    decisions = session.decisions()
    session.write()
    document = json.loads((session.folder / "curation.json").read_text())
    assert document["format_version"] == 1
    assert document["files"][0]["path"] == str(result / "a.verdict.json")
    (row,) = document["recordings"]
    recording = session.recordings["a"]
    assert (row["recording"], row["format"], row["fingerprint"]) == ("a", "toy", recording.fingerprint)
    assert (row["n_cells"], row["accepted"], row["model_fitted_on"]) == (40, sum(accepted(session)), 12)
    assert row["threshold"] == pytest.approx(session.predictions().threshold)
    assert [c["fingerprint"] for c in row["candidates"]] == list(recording.candidate_fingerprints)
    assert [c["decision"] for c in row["candidates"]] == ["cell" if d.accepted else "not_cell" for d in decisions]
    assert [c["origin"] for c in row["candidates"]] == [d.origin for d in decisions]
    labels = {label.candidate.index: label for label in session.labels()}
    for c in row["candidates"]:
        label = labels.get(c["index"])
        assert (c.get("label"), c.get("annotator"), c.get("time")) == (
            (label.value, label.annotator, label.time) if label else (None, None, None)
        )
    mine = row["candidates"][unsure.index]
    assert (mine["label"], mine["annotator"], mine["origin"]) == ("unsure", "bob", "model")


def test_a_second_write_keeps_the_first_backup_and_restore_goes_all_the_way_back(opened, result):
    before = native(result)
    session = sorted_session(opened, result)
    first = session.write()
    flip(session)
    second = session.write()
    assert second.backups == first.backups
    assert len(list((session.folder / "backups").iterdir())) == 1
    session.close()
    session = opened(result)  # also in another process
    flip(session, 1)
    assert session.write().backups == first.backups
    assert session.restore() == (result / "a.verdict.json",)
    assert native(result) == before
    with pytest.raises(MissingFileError, match="written nothing"):
        session.restore()
    assert kinds(session) == ["write_started", "written"] * 3 + ["restored"]
    session.write()  # and on it goes
    assert verdicts(result / "a.verdict.json") == accepted(session)
    session.restore()
    assert native(result) == before


def test_a_foreign_change_in_between_gets_a_backup_of_its_own_and_is_what_restore_gives_back(opened, result):
    session = sorted_session(opened, result)
    session.write()
    hosts = json.dumps([1] * 40)
    (result / "a.verdict.json").write_text(hosts)  # the person clicked in the toolkit
    report = session.write()
    assert report.backups[result / "a.verdict.json"].read_text() == hosts
    assert len(list((session.folder / "backups").iterdir())) == 2
    session.restore()
    assert (result / "a.verdict.json").read_text() == hosts


def test_a_verdict_file_that_was_not_there_is_made_and_removed_by_restore(opened, toy):
    path = toy(verdicts=False)
    before = native(path)
    session = sorted_session(opened, path)
    report = session.write()
    assert verdicts(path / "a.verdict.json") == accepted(session)
    assert report.backups == {}
    flip(session)
    session.write()
    assert session.restore() == (path / "a.verdict.json",)
    assert native(path) == before


def test_restore_after_a_foreign_change_is_refused_and_force_backs_it_up(opened, result, snapshot):
    before = native(result)
    session = sorted_session(opened, result)
    session.write()
    hosts = json.dumps([0] * 40)
    (result / "a.verdict.json").write_text(hosts)
    present = snapshot(result)
    with pytest.raises(ChangedError, match=r"a\.verdict\.json was changed after ActSort wrote it") as caught:
        session.restore()
    assert "--force" in caught.value.hint
    assert snapshot(result) == present
    session.restore(force=True)
    assert native(result) == before
    assert hosts in [p.read_text() for p in (session.folder / "backups").iterdir()]


def test_restore_of_several_files_is_refused_as_a_whole(opened, toy):
    path = toy(a=40, b=12)
    session = sorted_session(opened, path)
    session.write()
    ours = native(path)
    (path / "b.verdict.json").write_text("[]")
    with pytest.raises(ChangedError, match=r"b\.verdict\.json"):
        session.restore()
    assert native(path)["a.verdict.json"] == ours["a.verdict.json"]


def test_restore_where_nothing_is_left_to_do(opened, result):
    session = sorted_session(opened, result)
    report = session.write()
    (kept,) = report.backups.values()
    (result / "a.verdict.json").write_bytes(kept.read_bytes())  # put back by hand
    assert session.restore() == ()
    with pytest.raises(MissingFileError):
        session.restore()


def test_a_backup_that_is_gone_is_said(opened, result):
    session = sorted_session(opened, result)
    (kept,) = session.write().backups.values()
    kept.unlink()
    ours = native(result)
    with pytest.raises(MissingFileError, match=kept.name):
        session.restore()
    assert native(result) == ours


def test_permissions_and_other_files_stay(opened, result):
    file = result / "a.verdict.json"
    file.chmod(0o640)
    session = sorted_session(opened, result)
    session.write()
    assert file.stat().st_mode & 0o777 == 0o640
    session.restore()
    assert file.stat().st_mode & 0o777 == 0o640


def test_a_linked_file_stays_a_link(opened, result, tmp_path):
    target = tmp_path / "store" / "verdicts.json"
    target.parent.mkdir()
    (result / "a.verdict.json").rename(target)
    (result / "a.verdict.json").symlink_to(target)
    before = target.read_bytes()
    session = sorted_session(opened, result)
    report = session.write()
    assert (result / "a.verdict.json").is_symlink()
    assert verdicts(target) == accepted(session)
    assert report.backups[result / "a.verdict.json"].read_bytes() == before
    assert [p.name for p in target.parent.iterdir()] == ["verdicts.json"]
    session.restore()
    assert (result / "a.verdict.json").is_symlink()
    assert target.read_bytes() == before


def test_a_write_protected_file_is_refused(opened, result, monkeypatch):
    """Simulated through os.access, since for root nothing is write-protected."""
    session = sorted_session(opened, result)
    before, access = native(result), os.access
    file = result / "a.verdict.json"
    monkeypatch.setattr(os, "access", lambda path, mode, **k: not (Path(path) == file and mode & os.W_OK) and access(path, mode, **k))
    with pytest.raises(WriteError, match=r"a\.verdict\.json is write-protected"):
        session.write()
    assert native(result) == before
    assert kinds(session) == []


# Failing


def replace_plan(monkeypatch: pytest.MonkeyPatch, session: Session, change: Callable[[int, FileEdit], FileEdit]) -> None:
    fmt = session.plugins.formats["toy"]
    plan = fmt.plan

    def changed(recordings: Sequence[Any], curations: Sequence[Any]) -> WritePlan:
        out = plan(recordings, curations)
        return replace(out, edits=tuple(change(i, edit) for i, edit in enumerate(out.edits)))

    monkeypatch.setattr(fmt, "plan", changed, raising=False)


def fails_in_stage(monkeypatch, session):
    def stage(tmp: Path) -> None:
        tmp.write_text("[1, 0")
        raise RuntimeError("stage broke")

    replace_plan(monkeypatch, session, lambda i, edit: replace(edit, stage=stage) if i == 1 else edit)


def fails_in_plan(monkeypatch, session):
    def plan(recordings: Any, curations: Any) -> WritePlan:
        raise RuntimeError("no plan")

    monkeypatch.setattr(session.plugins.formats["toy"], "plan", plan, raising=False)


def fails_in_stage_disk_full(monkeypatch, session):
    def stage(tmp: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    replace_plan(monkeypatch, session, lambda i, edit: replace(edit, stage=stage) if i == 1 else edit)


def fails_in_second_commit(monkeypatch, session):
    commit = writeback.commit

    def second(tmp: Path, path: Path) -> None:
        if path.name == "b.verdict.json":
            raise WriteError("Replacing failed.", "It is as it was before.")
        commit(tmp, path)

    monkeypatch.setattr(writeback, "commit", second)


def fails_after_second_commit(monkeypatch, session):
    """Interrupted by the person, between the last rename and the comparison."""
    commit = writeback.commit

    def second(tmp: Path, path: Path) -> None:
        commit(tmp, path)
        if path.name == "b.verdict.json":
            raise KeyboardInterrupt

    monkeypatch.setattr(writeback, "commit", second)


def fails_in_verdicts(monkeypatch, session):
    """A format that writes something else than it was told."""
    wrong = json.dumps([0, 1] * 6)
    replace_plan(monkeypatch, session, lambda i, e: replace(e, stage=lambda tmp: tmp.write_text(wrong) and None) if i == 1 else e)


def fails_to_read_back(monkeypatch, session):
    replace_plan(monkeypatch, session, lambda i, e: replace(e, stage=lambda tmp: tmp.write_text("[1,") and None) if i == 1 else e)


def fails_in_footprints(monkeypatch, session):
    """Something else changes while the files are being replaced."""
    commit = writeback.commit

    def and_more(tmp: Path, path: Path) -> None:
        commit(tmp, path)
        if path.name == "b.verdict.json":
            fmt = session.plugins.formats["toy"]
            read = type(fmt).read
            monkeypatch.setattr(fmt, "read", lambda p: (read(fmt, p)[0], simulated(12, 9, "b")[0]), raising=False)

    monkeypatch.setattr(writeback, "commit", and_more)


def fails_in_curation(monkeypatch, session):
    commit = writeback.commit

    def last(tmp: Path, path: Path) -> None:
        if path.name == "curation.json":
            raise WriteError("Replacing failed.", "It is as it was before.")
        commit(tmp, path)

    monkeypatch.setattr(writeback, "commit", last)


def fails_in_receipt(monkeypatch, session):
    """The disk is full by the time the receipt is written."""
    append = session.journal.append

    def full(kind: str, **fields: Any) -> Any:
        if kind in ("written", "write_undone"):
            raise WriteError("The journal could not be written.", "Free some space.")
        return append(kind, **fields)

    monkeypatch.setattr(session.journal, "append", full)


def fails_in_intent(monkeypatch, session):
    def full(kind: str, **fields: Any) -> Any:
        raise WriteError("The journal could not be written.", "Free some space.")

    monkeypatch.setattr(session.journal, "append", full)


FAILURES = {
    fails_in_stage: (WriteError, r"b\.verdict\.json could not be written \(RuntimeError: stage broke\)"),
    fails_in_plan: (WriteError, r"'toy' could not plan .*no plan"),
    fails_in_stage_disk_full: (WriteError, r"b\.verdict\.json.*No space left"),
    fails_in_second_commit: (WriteError, "Replacing failed"),
    fails_after_second_commit: (KeyboardInterrupt, None),
    fails_in_verdicts: (WriteError, r"did not read back as written: \d+ verdicts differ"),
    fails_to_read_back: (FormatError, r"b\.verdict\.json is damaged"),
    fails_in_footprints: (ChangedError, "changed since it was opened"),
    fails_in_curation: (WriteError, "Replacing failed"),
    fails_in_receipt: (WriteError, "journal could not be written"),
    fails_in_intent: (WriteError, "journal could not be written"),
}


@pytest.mark.parametrize("fail", FAILURES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("written_before", [False, True])
@pytest.mark.parametrize("verdicts_exist", [True, False])
def test_a_write_that_fails_leaves_every_file_as_it_was(opened, toy, monkeypatch, fail, written_before, verdicts_exist):
    path = toy(a=40, b=12, verdicts=verdicts_exist)
    original = native(path)
    session = sorted_session(opened, path)
    curation = session.folder / "curation.json"
    if written_before:
        session.write()
        flip(session)
    before, told = native(path), curation.read_bytes() if written_before else None
    error, message = FAILURES[fail]
    with monkeypatch.context() as patch:
        fail(patch, session)
        with pytest.raises(error, match=message):
            session.write()
    assert native(path) == before
    assert (curation.read_bytes() if curation.exists() else None) == told
    session.close()
    session = opened(path)  # the journal is whole
    assert len(session.labels()) == 12 + written_before
    if written_before:
        session.restore()
        assert native(path) == original
    session.write()
    assert verdicts(path / "a.verdict.json") == accepted(session, "a")
    assert verdicts(path / "b.verdict.json") == accepted(session, "b")
    session.restore()
    assert native(path) == original


def test_a_file_that_cannot_be_put_back_is_named_with_its_backup_and_the_others_are_put_back(opened, toy, monkeypatch):
    path = toy(a=40, b=12)
    session = sorted_session(opened, path)
    before = native(path)
    os_replace, armed = os.replace, []

    def broken(src: Any, dst: Any) -> None:
        if armed and Path(dst).name == "a.verdict.json":
            raise OSError(errno.EIO, "I/O error")
        os_replace(src, dst)

    def verify(*arguments: Any) -> None:
        armed.append(True)
        raise RuntimeError("not as meant")

    with monkeypatch.context() as patch:
        patch.setattr(writeback, "_verify", verify)
        patch.setattr(os, "replace", broken)
        with pytest.raises(
            WriteError, match=r"could not be put back: .*a\.verdict\.json \(I/O error; its former content: backups/"
        ) as caught:
            session.write()
    assert "restore" in caught.value.hint
    assert native(path)["b.verdict.json"] == before["b.verdict.json"]
    session.restore()
    assert native(path) == before


def test_files_of_several_formats_are_written_together_or_not_at_all(opened, toy, tmp_path, monkeypatch):
    folder, file = toy(a=40), toy_format.save_file(tmp_path / "r.toy.json", simulated(9, 3, "r")[0])
    session = opened(folder, file, session=tmp_path / "joint")
    for candidate in session.candidates[::2]:
        session.label(candidate, candidate.index % 4 == 0)
    before = native(folder), file.read_bytes()
    with monkeypatch.context() as patch:
        fmt = session.plugins.formats["toyfile"]
        wrong = replace(fmt.plan([session.recordings["r"]], [session.curations()["r"]]).edits[0], stage=lambda tmp: None)
        patch.setattr(fmt, "plan", lambda r, c: WritePlan((wrong,)), raising=False)
        with pytest.raises(FormatError):
            session.write()
    assert (native(folder), file.read_bytes()) == before
    report = session.write()
    assert len(report.written) == 2
    assert set(session.restore()) == {folder / "a.verdict.json", file}
    assert (native(folder), file.read_bytes()) == before


@pytest.mark.skipif(sys.platform == "win32", reason="no resource limits")
def test_a_disk_that_is_really_full(opened, tmp_path):
    """The file would outgrow what the process may write: refused at every size, and all is as before."""
    file = toy_format.save_file(tmp_path / "r.toy.json", simulated(12)[0])
    session = sorted_session(opened, file, labels=8)
    session.close()
    before = file.read_bytes()
    code = """
        import resource, sys
        from pathlib import Path
        from conftest import make_plugins
        from actsort_core.errors import WriteError
        from actsort_core.opening import open
        file = Path(sys.argv[1])
        with open(file, plugins=make_plugins(), classifier="centroid") as session:
            session.wait()
            limits = resource.getrlimit(resource.RLIMIT_FSIZE)
            refused = 0
            for size in (0, 100, 5000, len(file.read_bytes()) - 1):
                resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
                try:
                    session.write()
                except WriteError as error:
                    refused += 1
                    assert "r.toy.json" in str(error) or "labels.jsonl" in str(error), error
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            print(refused, flush=True)
    """
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", textwrap.dedent(code), str(file)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "4"), done.stderr
    assert file.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir() if p.name.endswith(".tmp")] == []
    session = opened(file)
    session.write()
    session.restore()
    assert file.read_bytes() == before


def test_leftovers_of_a_killed_process_are_cleared_when_they_are_old(opened, result, monkeypatch):
    session = sorted_session(opened, result)
    old, other = result / ".a.verdict.json.k1ll3d.tmp", result / ".another.tmp"
    old.write_text("half")
    other.write_text("not ours")
    session.write()
    assert old.exists()  # it may belong to a process that is writing now
    later = 3600 + os.stat(old).st_ctime  # noqa: PTH116
    monkeypatch.setattr("actsort_core.atomic.time.time", lambda: later)
    flip(session)
    session.write()
    assert not old.exists()
    assert other.read_text() == "not ours"


def test_a_plug_in_told_of_a_write_that_fails_undoes_nothing(opened, result):
    from actsort_core.errors import PluginWarning
    from actsort_core.hookspecs import hookimpl

    class Bad:
        @hookimpl
        def actsort_decisions_written(self, session):
            raise RuntimeError("bad plug-in")

    session = sorted_session(opened, result, plugins=make_plugins(Bad()))
    with pytest.warns(PluginWarning, match="actsort_decisions_written"):
        report = session.write()
    assert verdicts(report.written[0]) == accepted(session)
