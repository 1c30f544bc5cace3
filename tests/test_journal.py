"""The journal: what is acknowledged is there, whatever happens to the process, the disk or the file."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from actsort_core import journal as module
from actsort_core.errors import JournalError, LockedError, UsageError, WriteError
from actsort_core.journal import FILE, Journal, decode, encode, fold, label_of, parse
from actsort_core.model import CandidateId


def say(journal: Journal, index: int, value: str = "cell", who: str = "ann", recording: str = "a") -> dict[str, Any]:
    return journal.append("label", annotator=who, recording=recording, index=index, fingerprint="00", **{"class": value})


def indices(journal: Journal) -> list[int]:
    return [event["index"] for event in journal.events]


@pytest.fixture
def five(tmp_path: Path) -> Path:
    """A closed journal of five labels; the last one names somebody with letters of several bytes."""
    with Journal(tmp_path) as journal:
        for i in range(5):
            say(journal, i, who="Zoë Ångström" if i == 4 else "ann")
    return tmp_path / FILE


# Lines


@given(
    st.integers(1, 10**9),
    st.text() | st.just("\udcff"),  # a lone surrogate: how Python shows a file name that is no UTF-8
    st.dictionaries(st.text(min_size=1).filter(lambda k: k not in ("seq", "kind", "crc")), st.none() | st.integers() | st.text()),
)
def test_encode_and_decode_are_inverse(seq, kind, fields):
    event = {"seq": seq, "kind": kind, **fields}
    line = encode(event)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert json.loads(line)["crc"]
    assert decode(line[:-1]) == event
    assert parse(line) == ([event], len(line))


def test_one_event_a_line_that_any_json_reader_reads(five):
    rows = [json.loads(line) for line in five.read_text("utf-8").splitlines()]
    assert [row["seq"] for row in rows] == [1, 2, 3, 4, 5]
    assert [(row["kind"], row["index"], row["class"]) for row in rows] == [("label", i, "cell") for i in range(5)]
    assert all(row["time"].endswith("Z") for row in rows)


def test_nan_is_refused_before_it_reaches_the_file(tmp_path):
    with Journal(tmp_path) as journal:
        say(journal, 0)
        before = (tmp_path / FILE).read_bytes()
        with pytest.raises(ValueError, match="JSON"):
            journal.append("label", p=float("nan"))
        assert (tmp_path / FILE).read_bytes() == before
        assert say(journal, 1)["seq"] == 2


# Damage


def test_cut_at_every_byte_of_the_last_line_loses_at_most_that_label(five):
    content = five.read_bytes()
    start = content[:-1].rindex(b"\n") + 1
    assert len(content) - start > 100
    for cut in range(start, len(content) + 1):
        five.write_bytes(content[:cut])
        torn = content[start:cut]
        with Journal(five.parent) as journal:
            whole = cut >= len(content) - 1  # only the line feed is missing: the label is there
            assert indices(journal) == list(range(5 if whole else 4)), cut
            expected = [] if whole or not torn else [torn]
            assert [p.read_bytes() for p in five.parent.glob(f"{FILE}.torn-*")] == expected, cut
            assert bool(journal.notes) == bool(expected), cut
            event = say(journal, 77)
            assert event["seq"] == (6 if whole else 5)
        with Journal(five.parent) as journal:
            assert indices(journal)[-2:] == [4 if whole else 3, 77], cut
            assert journal.notes == []
        for aside in five.parent.glob(f"{FILE}.torn-*"):
            aside.unlink()


def test_cut_file_is_read_without_repair_by_a_read_only_journal(five):
    content = five.read_bytes()[:-20]
    five.write_bytes(content)
    with Journal(five.parent, read_only=True) as journal:
        assert indices(journal) == [0, 1, 2, 3]
        assert "cut off" in journal.notes[0]
    assert five.read_bytes() == content
    assert [p.name for p in five.parent.iterdir() if p.name.startswith(FILE)] == [FILE]


@pytest.mark.parametrize("tail", [b"\0" * 64, b"\0" * 64 + b"\n", b'{"seq":6,"ki\0\0\0\0'])
def test_zeros_after_a_power_failure_are_a_torn_line(five, tail):
    five.write_bytes(five.read_bytes() + tail)
    with Journal(five.parent) as journal:
        assert indices(journal) == [0, 1, 2, 3, 4]
        say(journal, 5)
    with Journal(five.parent) as journal:
        assert indices(journal) == [0, 1, 2, 3, 4, 5]


def test_a_flipped_byte_before_the_last_line_names_the_line_and_changes_nothing(five):
    content = five.read_bytes()
    last = content[:-1].rindex(b"\n") + 1
    for position in range(last - 1):  # all but the line feed before the last line
        damaged = bytearray(content)
        damaged[position] ^= 0x01
        number = content[:position].count(b"\n") + 1
        five.write_bytes(damaged)
        if b'"crc":' not in damaged.splitlines()[number - 1]:  # the key itself: a line without a checksum, with all its content
            continue
        with pytest.raises(JournalError, match=rf"line {number}\b") as caught:
            Journal(five.parent)
        assert str(five) in caught.value.what
        assert caught.value.hint
        assert five.read_bytes() == damaged
    five.write_bytes(content)
    with Journal(five.parent) as journal:  # and the failed attempts left no lock behind
        assert indices(journal) == [0, 1, 2, 3, 4]


def test_two_lines_run_together_at_the_end_are_damage_and_not_a_torn_line(five):
    """A torn line is the beginning of one event. Two events in it: an acknowledged label would silently go with it."""
    content = five.read_bytes()
    feed = content[:-1].rindex(b"\n")
    for damaged in (content[:feed] + b"\x0b" + content[feed + 1 :], content[: feed - 30] + content[feed + 1 :]):
        five.write_bytes(damaged)
        with pytest.raises(JournalError, match="line 4"):
            Journal(five.parent)
        assert five.read_bytes() == damaged


def test_a_line_mended_by_hand_needs_no_checksum(five):
    lines = five.read_text("utf-8").splitlines()
    row = json.loads(lines[2])
    del row["crc"]
    row["class"] = "not_cell"
    lines[2] = json.dumps(row, indent=None)  # other spacing, as an editor or script leaves it
    five.write_text("\n".join(lines) + "\n\n", "utf-8")
    with Journal(five.parent) as journal:
        values = {c.index: la.value for c, la in fold(journal.events).current().items()}
        assert values == {0: "cell", 1: "cell", 2: "not_cell", 3: "cell", 4: "cell"}
        say(journal, 5)
    with Journal(five.parent) as journal:
        assert indices(journal) == [0, 1, 2, 3, 4, 5]


def test_a_checksum_that_no_longer_fits_is_damage(five):
    lines = five.read_text("utf-8").splitlines()
    lines[1] = lines[1].replace('"class":"cell"', '"class":"not_cell"')
    five.write_text("\n".join(lines) + "\n", "utf-8")
    with pytest.raises(JournalError, match=r"line 2 .*checksum"):
        Journal(five.parent)


@pytest.mark.parametrize(
    "line",
    ["[]", "7", "null", '{"seq":3}', '{"kind":"label"}', '{"seq":"3","kind":"label"}', "[" * 100_000, '{"seq":3,"kind":"label"}',
     '{"seq":3,"kind":"label","recording":"a","class":"cell"}', '{"seq":3,"kind":"label","recording":"a","index":"x","class":"cell"}'],
)  # fmt: skip
def test_a_line_that_is_no_event_is_an_error_with_its_number(five, line):
    lines = five.read_text("utf-8").splitlines()
    lines[2] = line
    five.write_text("\n".join(lines) + "\n", "utf-8")
    with pytest.raises(JournalError, match="line 3"):
        Journal(five.parent)


@pytest.mark.parametrize("order", [(0, 1, 1, 2), (0, 2, 1, 3)])
def test_events_out_of_order_are_an_error(five, order):
    lines = five.read_text("utf-8").splitlines()
    five.write_text("\n".join(lines[i] for i in order) + "\n", "utf-8")
    with pytest.raises(JournalError, match="line 3"):
        Journal(five.parent)


def test_unknown_kinds_are_kept_and_change_nothing(tmp_path):
    with Journal(tmp_path) as journal:
        say(journal, 0)
        journal.append("weather", temperature=3, nested={"a": [1]})
        say(journal, 1)
    with Journal(tmp_path) as journal:
        assert [e["kind"] for e in journal.events] == ["label", "weather", "label"]
        assert journal.events[1]["nested"] == {"a": [1]}
        assert {c.index for c in fold(journal.events).current()} == {0, 1}


# The fold


CANDIDATES = st.integers(0, 4)
STEPS = st.lists(
    st.tuples(st.sampled_from(["label", "label", "label", "undo", "redo", "other"]), st.sampled_from("xxxxyyz"), CANDIDATES),
    min_size=6,
    max_size=40,
)


@given(STEPS)
@example([("label", "x", 0), ("undo", "x", 0), ("label", "x", 1), ("redo", "x", 0)])
@example([("label", "x", 0), ("undo", "x", 0), ("label", "y", 1), ("redo", "x", 0), ("undo", "y", 0)])
@example([("label", "x", 0), ("label", "y", 0), ("undo", "x", 0), ("redo", "x", 0), ("label", "x", 0)])
@settings(max_examples=300, deadline=None)
def test_fold_is_what_each_annotator_means_by_undo_and_redo(steps):
    """Against the plainest model: all labels ever given, each in force or not; undo and redo switch the last one of their author."""
    events: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []  # every label given: who, what, in force; "redo" holds what its author may give again
    again: dict[str, list[dict[str, Any]]] = {who: [] for who in "xyz"}
    for seq, (kind, who, index) in enumerate(steps, 1):
        event = {"seq": seq, "kind": kind, "annotator": who, "time": "t"}
        if kind == "label":
            event |= {"recording": "a", "index": index, "class": f"class{seq}"}
            rows.append({"seq": seq, "who": who, "index": index, "in_force": True})
            again[who] = []
        elif kind == "undo":
            mine = [row for row in rows if row["who"] == who and row["in_force"]]
            if mine:
                mine[-1]["in_force"] = False
                again[who].append(mine[-1])
        elif kind == "redo" and again[who]:
            again[who].pop()["in_force"] = True
        events.append(event)
    expected: dict[CandidateId, str] = {}
    for row in rows:
        if row["in_force"]:
            expected[CandidateId("a", row["index"])] = f"class{row['seq']}"
    found = fold(events)
    assert {c: la.value for c, la in found.current().items()} == expected
    for index in range(5):
        label = found.of(CandidateId("a", index))
        assert (label.value if label else None) == expected.get(CandidateId("a", index))
    assert fold(parse(b"".join(map(encode, events)))[0]).current() == found.current()


def test_label_of_keeps_everything_that_was_said(tmp_path):
    with Journal(tmp_path) as journal:
        event = journal.append(
            "label", annotator="ann", recording="a", index=3, seconds=1.5, strategy="cal", reason="active", p=0.25, **{"class": "unsure"}
        )
    label = label_of(event)
    assert (label.candidate, label.value, label.annotator) == (CandidateId("a", 3), "unsure", "ann")
    assert (label.seconds, label.strategy, label.reason, label.probability) == (1.5, "cal", "active", 0.25)


# A full disk


def failing_write(after: int, error: BaseException | None = None):
    """os.write of a disk that takes `after` more bytes."""
    room, write = [after], os.write

    def limited(handle: int, data: bytes) -> int:
        if room[0] <= 0:
            raise error or OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = write(handle, bytes(data)[: room[0]])
        room[0] -= written
        return written

    return limited


@pytest.mark.parametrize("room", [0, 1, 40, 150])
@pytest.mark.parametrize("error", [None, KeyboardInterrupt()])
def test_a_label_that_does_not_fit_on_the_disk_is_not_acknowledged_and_leaves_no_trace(tmp_path, monkeypatch, room, error):
    with Journal(tmp_path) as journal:
        say(journal, 0)
        with monkeypatch.context() as patch:
            patch.setattr(module.os, "write", failing_write(room, error))
            with pytest.raises(KeyboardInterrupt if error else WriteError) as caught:
                say(journal, 1)
        if not error:
            assert str(tmp_path / FILE) in caught.value.what
            assert "not saved" in caught.value.what
            assert "space" in caught.value.hint
        assert indices(journal) == [0]
        with Journal(tmp_path, read_only=True) as other:
            assert indices(other) == [0]
            assert other.notes == []
        assert say(journal, 2)["seq"] == 2
    with Journal(tmp_path) as journal:
        assert indices(journal) == [0, 2]


def test_a_flush_that_fails_is_not_acknowledged(tmp_path, monkeypatch):
    def broken(handle: int) -> None:
        raise OSError(errno.EIO, "I/O error")

    with Journal(tmp_path) as journal:
        say(journal, 0)
        with monkeypatch.context() as patch:
            patch.setattr(module.os, "fsync", broken)
            with pytest.raises(WriteError, match="I/O error"):
                say(journal, 1)
        say(journal, 2)
    with Journal(tmp_path) as journal:
        assert indices(journal) == [0, 2]


def test_torn_bytes_that_cannot_be_taken_back_at_once_never_mix_with_the_next_label(tmp_path, monkeypatch):
    """The disk is full and the file cannot be shortened either (a share that is gone): the next label must not be glued to the rest."""

    def broken(handle: int, size: int) -> None:
        raise OSError(errno.EIO, "I/O error")

    with Journal(tmp_path) as journal:
        say(journal, 0)
        with monkeypatch.context() as patch:
            patch.setattr(module.os, "write", failing_write(50))
            patch.setattr(module.os, "ftruncate", broken)
            with pytest.raises(WriteError):
                say(journal, 1)
        with monkeypatch.context() as patch:
            patch.setattr(module.os, "ftruncate", broken)
            with pytest.raises(WriteError):  # still torn: refused rather than acknowledged and lost
                say(journal, 2)
        say(journal, 3)
    with Journal(tmp_path) as journal:
        assert indices(journal) == [0, 3]


def run(code: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options)


@pytest.mark.skipif(sys.platform == "win32", reason="no resource limits")
def test_a_file_that_may_really_not_grow(tmp_path):
    code = """
        import resource, sys
        from pathlib import Path
        from actsort_core.errors import WriteError
        from actsort_core.journal import FILE, Journal
        folder = Path(sys.argv[1])
        with Journal(folder) as journal:
            say = lambda i: journal.append("label", recording="a", index=i, annotator="ann", **{"class": "cell"})
            say(0)
            size = (folder / FILE).stat().st_size
            soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            refused = 0
            for extra in (0, 1, 30, 90):
                resource.setrlimit(resource.RLIMIT_FSIZE, (size + extra, hard))
                try:
                    say(1)
                except WriteError:
                    refused += 1
                assert (folder / FILE).stat().st_size == size, "torn bytes were left"
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            say(2)
            print(refused)
    """
    process = run(code, tmp_path)
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out.strip()) == (0, "4")
    with Journal(tmp_path) as journal:
        assert indices(journal) == [0, 2]
        assert [e["seq"] for e in journal.events] == [1, 2]


# The lock


HOLD = """
    import sys
    from pathlib import Path
    from actsort_core.journal import Journal
    journal = Journal(Path(sys.argv[1]))
    journal.append("label", recording="a", index=0, annotator="ann", **{"class": "cell"})
    print("held", flush=True)
    sys.stdin.readline()
    journal.close()
    print("closed", flush=True)
    sys.stdin.readline()
"""


def test_a_second_process_is_told_who_holds_the_session_and_may_read_meanwhile(tmp_path):
    process = run(HOLD, tmp_path)
    try:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(LockedError, match=rf"process {process.pid} on ") as caught:
            Journal(tmp_path)
        assert str(tmp_path) in caught.value.what
        with Journal(tmp_path, read_only=True) as reader:
            assert indices(reader) == [0]
            with pytest.raises(UsageError, match="read-only"):
                say(reader, 1)
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "closed\n"
        with Journal(tmp_path) as journal:
            say(journal, 1)
    finally:
        process.communicate("\n", timeout=60)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_the_lock_is_free_after_kill_9(tmp_path):
    process = run(HOLD, tmp_path)
    try:
        assert process.stdout.readline() == "held\n"
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
    with Journal(tmp_path) as journal:
        assert indices(journal) == [0]
        say(journal, 1)


def test_the_lock_holds_within_one_process_and_ends_with_close(tmp_path):
    with Journal(tmp_path) as journal:
        say(journal, 0)
        with pytest.raises(LockedError):
            Journal(tmp_path)
        say(journal, 1)  # the refused attempt took nothing away
    journal.close()  # twice is fine
    with pytest.raises(UsageError, match="closed"):
        say(journal, 2)
    with Journal(tmp_path) as journal:
        assert indices(journal) == [0, 1]


def test_a_folder_that_cannot_be_locked_is_an_error_that_names_it(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WriteError, match="nowhere"):
        Journal(tmp_path / "file" / "nowhere")


@pytest.mark.parametrize("broken", ["_open", "_load"])
def test_a_journal_that_cannot_be_opened_frees_the_lock(tmp_path, monkeypatch, broken):
    def fail(self: Journal) -> None:
        raise OSError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Journal, broken, fail)
        with pytest.raises(OSError, match="denied"):
            Journal(tmp_path)
    Journal(tmp_path).close()


def test_a_line_feed_that_does_not_fit_on_the_disk_is_an_error_that_names_the_journal(five, monkeypatch):
    content = five.read_bytes()[:-1]
    five.write_bytes(content)
    with monkeypatch.context() as patch:
        patch.setattr(module.os, "write", failing_write(0))
        with pytest.raises(WriteError, match=FILE):
            Journal(five.parent)
    assert five.read_bytes() == content
    with Journal(five.parent) as journal:
        assert indices(journal) == [0, 1, 2, 3, 4]
