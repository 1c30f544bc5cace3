"""Converting between all installed formats that can be written, with decisions, and what is left when it goes wrong."""

from __future__ import annotations

import functools
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import make_plugins

import actsort_core as actsort
from actsort_adapters import caiman, cnmfe, plain, suite2p
from actsort_core import conversions, converting, plugins, store
from actsort_core.cli import main
from actsort_core.errors import FormatError, MissingFileError, UnknownNameError, UsageError, WriteError
from actsort_core.formats import CreatingFormat, Format, find_format
from actsort_core.hookspecs import hookimpl
from actsort_core.model import Prior, Recording
from actsort_core.opening import open as open_session
from actsort_core.testing import make_recording

DATA = Path(__file__).parent / "data"
INSTALLED = plugins.load([suite2p, caiman, cnmfe, plain])  # in an environment where the project is not installed, too
TARGETS = sorted(name for name, fmt in INSTALLED.formats.items() if isinstance(fmt, CreatingFormat))
PAIRS = list(itertools.product(TARGETS, TARGETS))
NATIVE = {
    "caiman_2p": "caiman/cnmf_2p_4gui.hdf5",
    "caiman_selected": "caiman/cnmf_2p_3selected.hdf5",
    "caiman_3d": "caiman/cnmf_3d_evaluated.hdf5",
    "caiman_online": "caiman/onacid_2p.hdf5",
    "suite2p_110": "suite2p/s2p_110/mini",
    "suite2p_two_planes": "suite2p/s2p_0146/twoplane",
    "cnmfe": "cnmfe/cnmfe_results_struct_v7.mat",
    "cnmfe_v73": "cnmfe/cnmfe_neuron_struct_v73.mat",
}


def creating(name: str) -> CreatingFormat:
    fmt = INSTALLED.formats[name]
    assert isinstance(fmt, CreatingFormat)
    return fmt


def full(n_cells: int = 9, **fields: Any) -> Recording:
    made = make_recording(n_cells, **fields)
    traces = np.asarray(made.traces[0:n_cells])
    return replace(made, denoised=traces * np.float32(0.5), spikes=np.maximum(traces, 0))


SAMPLES: dict[str, Callable[[], list[Recording]]] = {
    "everything": lambda: [full()],
    "one": lambda: [full(1, fov=(9, 31))],
    "none": lambda: [make_recording(0)],
    "poor": lambda: [make_recording(3, fps=None, images={}, metrics={}, prior=Prior.undecided(3))],
    "nonfinite": lambda: [make_recording(5, nonfinite=True)],
    "volume": lambda: [full(4, fov=(9, 14, 5))],
    "several": lambda: [replace(full(5, seed=1), name="b"), replace(full(3, seed=2, fov=(31, 12)), name="a")],
}


def close(a: Any, b: Any) -> bool:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    scale = np.abs(a[np.isfinite(a)]).max(initial=0)
    return bool(np.allclose(a, b, rtol=1e-6, atol=1e-6 * scale, equal_nan=True))


def source(name: str, recordings: Sequence[Recording], path: Path) -> Path:
    """A result of the format `name`; skips where it cannot hold the recordings."""
    fmt = creating(name)
    nobody = [None] * len(recordings)
    try:
        fmt.losses(recordings, nobody)
    except FormatError as error:
        pytest.skip(str(error))
    path.parent.mkdir(exist_ok=True)
    fmt.create(recordings, nobody, path)
    return path


def same(old: Sequence[Recording], new: Sequence[Recording]) -> None:
    assert len(old) == len(new)
    for a, b in zip(old, new, strict=True):
        assert (a.fov, a.n_frames) == (b.fov, b.n_frames)
        assert a.candidate_fingerprints == b.candidate_fingerprints
        assert close(a.traces[0 : a.n_cells], b.traces[0 : b.n_cells])


# ---- every pair


# Every pair with everything; the odd samples into and out of the plain layout, which holds all of them.
CASES = [(a, b, sample) for a, b in PAIRS for sample in SAMPLES if sample == "everything" or "plain" in (a, b)]


@pytest.mark.parametrize(("first", "to", "sample"), CASES, ids=["-".join(case) for case in CASES])
def test_any_result_becomes_any_other(first: str, to: str, sample: str, tmp_path: Path, snapshot: Any) -> None:
    src = source(first, SAMPLES[sample](), tmp_path / "in" / "source")
    before, dst = snapshot(tmp_path / "in"), tmp_path / "out" / "a result"
    old = actsort.read(src, plugins=INSTALLED)
    try:
        creating(to).losses(old, [None] * len(old))
    except FormatError:
        with pytest.raises(FormatError):
            actsort.convert(src, dst, to, plugins=INSTALLED)
        assert not dst.parent.exists() or not list(dst.parent.iterdir())
        return
    dry = actsort.convert(src, dst, to, plugins=INSTALLED, dry_run=True)
    assert not dst.parent.exists()
    done = actsort.convert(src, dst, to, plugins=INSTALLED)
    assert done.losses == dry.losses
    assert find_format(dst, INSTALLED.formats).name == to  # by content: the name says nothing
    new = actsort.read(dst, plugins=INSTALLED)
    same(old, new)
    for a, b in zip(old, new, strict=True):
        decided = a.prior.verdict != 0
        np.testing.assert_array_equal(a.prior.verdict[decided], b.prior.verdict[decided])
        assert a.fps is None or b.fps is None or np.isclose(a.fps, b.fps)
    assert snapshot(tmp_path / "in") == before  # the source stays as it is, to the byte
    assert {p.name for p in dst.parent.iterdir()} <= {dst.name, dst.name + ".actsort"}
    assert all(path.is_file() and (path == dst or dst in path.parents) for path in done.written)
    document = json.loads(done.identity_map.read_text())
    for row, a, b in zip(document["recordings"], old, new, strict=True):
        assert row["source"]["fingerprint"] == a.fingerprint == b.fingerprint
        assert Path(row["source"]["path"]) == a.path
        assert [c["source_index"] for c in row["candidates"]] == [c["index"] for c in row["candidates"]] == list(range(a.n_cells))


@pytest.mark.parametrize(("first", "to"), PAIRS, ids=["-".join(pair) for pair in PAIRS])
def test_there_and_back_again(first: str, to: str, tmp_path: Path) -> None:
    src = source(first, [full(6)], tmp_path / "source")
    old = actsort.read(src, plugins=INSTALLED)
    actsort.convert(src, tmp_path / "there", to, plugins=INSTALLED)
    actsort.convert(tmp_path / "there", tmp_path / "back", first, plugins=INSTALLED)
    new = actsort.read(tmp_path / "back", plugins=INSTALLED)
    same(old, new)
    decided = old[0].prior.verdict != 0
    np.testing.assert_array_equal(old[0].prior.verdict[decided], new[0].prior.verdict[decided])


def test_the_plain_layouts_lose_nothing(tmp_path: Path) -> None:
    """Bit by bit, through every layout and back."""
    old = full(7, nonfinite=True)
    source("plain", [old], tmp_path / "a")
    actsort.convert(tmp_path / "a", tmp_path / "b", "plain_csv", plugins=INSTALLED)
    actsort.convert(tmp_path / "b", tmp_path / "c", "plain", plugins=INSTALLED)
    (new,) = actsort.read(tmp_path / "c", plugins=INSTALLED)
    for key in ("traces", "denoised", "spikes"):
        np.testing.assert_array_equal(getattr(old, key)[0:7], getattr(new, key)[0:7])
    for key in ("metrics", "images"):
        assert list(getattr(old, key)) == list(getattr(new, key))
        for name, values in getattr(old, key).items():
            np.testing.assert_array_equal(values, getattr(new, key)[name])
    np.testing.assert_array_equal(old.prior.verdict, new.prior.verdict)
    np.testing.assert_array_equal(old.prior.probability, new.prior.probability)
    assert (old.name, old.fps, old.trace_kind) == (new.name, new.fps, new.trace_kind)


@pytest.mark.parametrize("to", TARGETS)
@pytest.mark.parametrize("native", NATIVE)
def test_outputs_of_the_real_tools(native: str, to: str, tmp_path: Path) -> None:
    src = DATA / NATIVE[native]
    old = actsort.read(src, plugins=INSTALLED)
    try:
        creating(to).losses(old, [None] * len(old))
    except FormatError:
        assert len(old) > 1 or len(old[0].fov) == 3
        return
    done = actsort.convert(src, tmp_path / "new", to, plugins=INSTALLED)
    new = actsort.read(tmp_path / "new", plugins=INSTALLED)
    same(old, new)
    for a, b in zip(old, new, strict=True):
        decided = a.prior.verdict != 0
        np.testing.assert_array_equal(a.prior.verdict[decided], b.prior.verdict[decided])
    assert done.written


# ---- whose decisions


@pytest.fixture
def curated(tmp_path: Path) -> Path:
    """A plain result with a session of forty labels; the last is unsure."""
    src = source("plain", [full(60, seed=5)], tmp_path / "made.npz")
    with open_session(src, plugins=INSTALLED, annotator="ann", refit_wait=None) as session:
        for i in range(40):
            session.label(i, "unsure" if i == 39 else i % 3 == 0)
    return src


def test_the_session_of_the_source_decides(curated: Path, tmp_path: Path) -> None:
    with open_session(session=store.find_folder(curated), read_only=True, plugins=INSTALLED) as session:
        (wanted,) = session.curations().values()
    done = actsort.convert(curated, tmp_path / "new", "suite2p", plugins=INSTALLED)
    (new,) = actsort.read(tmp_path / "new", plugins=INSTALLED)
    np.testing.assert_array_equal(new.prior.verdict > 0, wanted.accepted)
    np.testing.assert_allclose(new.prior.probability, wanted.host_probability())
    assert not np.array_equal(wanted.accepted, actsort.read(curated, plugins=INSTALLED)[0].prior.verdict > 0)
    assert any("40 labels" in note and "1 of them are neither" in note for note in done.notes)
    (row,) = conversions.read(done.identity_map.parent)["recordings"]
    assert row["decisions"] == "session"
    assert Path(row["session"]) == store.find_folder(curated)
    assert row["candidates"][3]["label"] == "cell"
    assert row["candidates"][3]["annotator"] == "ann"
    assert (row["candidates"][39]["label"], row["candidates"][39]["origin"]) == ("unsure", "model")
    assert row["candidates"][50]["origin"] == "model"


def test_an_open_session_and_its_folder_are_sources_too(curated: Path, tmp_path: Path) -> None:
    folder = store.find_folder(curated)
    with open_session(session=folder, plugins=INSTALLED) as session:
        first = actsort.convert(session, tmp_path / "a", "plain", plugins=INSTALLED)
    second = actsort.convert(folder, tmp_path / "b", "plain", plugins=INSTALLED)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert first.parts[0].session == second.parts[0].session == folder


def test_a_session_may_be_open_elsewhere_and_is_left_alone(curated: Path, tmp_path: Path, snapshot: Any) -> None:
    with open_session(session=store.find_folder(curated), plugins=INSTALLED):
        before = snapshot(store.find_folder(curated))
        actsort.convert(curated, tmp_path / "new", "plain_csv", plugins=INSTALLED)
        assert snapshot(store.find_folder(curated)) == before


def test_the_hosts_own_verdicts_when_they_are_asked_for(curated: Path, tmp_path: Path) -> None:
    done = actsort.convert(curated, tmp_path / "new", "plain", decisions="host", plugins=INSTALLED)
    (old,), (new,) = actsort.read(curated, plugins=INSTALLED), actsort.read(tmp_path / "new", plugins=INSTALLED)
    np.testing.assert_array_equal(old.prior.verdict, new.prior.verdict)
    assert done.parts[0].curation is None
    assert json.loads(done.identity_map.read_text())["recordings"][0]["decisions"] == "host"


def test_a_session_that_decided_nothing_is_said(tmp_path: Path) -> None:
    src = source("plain", [full()], tmp_path / "source")
    open_session(src, plugins=INSTALLED, prepare=False).close()
    done = actsort.convert(src, tmp_path / "new", "plain", plugins=INSTALLED)
    assert any("decided nothing yet" in note for note in done.notes)
    (old,), (new,) = actsort.read(src, plugins=INSTALLED), actsort.read(tmp_path / "new", plugins=INSTALLED)
    np.testing.assert_array_equal(old.prior.verdict, new.prior.verdict)  # undecided stays undecided


def test_a_session_that_is_wanted_must_be_there(tmp_path: Path) -> None:
    src = source("plain", [full()], tmp_path / "source")
    with pytest.raises(MissingFileError, match="no session of"):
        actsort.convert(src, tmp_path / "new", "plain", decisions="session", plugins=INSTALLED)
    with pytest.raises(UsageError, match="no source of decisions"):
        actsort.convert(src, tmp_path / "new", "plain", decisions="mine", plugins=INSTALLED)


@pytest.mark.parametrize("part", ["whole", "plane"])
def test_sessions_of_planes_and_of_the_folder_above_are_found(part: str, tmp_path: Path) -> None:
    """What was labelled in one plane counts when the whole is converted, and the other way round."""
    src = source("suite2p", SAMPLES["several"](), tmp_path / "suite2p")
    labelled, converted = (src / "plane1", src) if part == "whole" else (src, src / "plane1")
    with open_session(labelled, plugins=INSTALLED, annotator="ann") as session:
        before = actsort.read(src / "plane1", plugins=INSTALLED)[0].prior.verdict > 0
        key = list(session.recordings)[-1]
        for i, value in enumerate(before):
            session.label((key, i), not value)
    done = actsort.convert(converted, tmp_path / "new", "plain", plugins=INSTALLED)
    new = actsort.read(tmp_path / "new", plugins=INSTALLED)
    np.testing.assert_array_equal(new[-1].prior.verdict > 0, ~before)
    assert len(new) == (2 if part == "whole" else 1)
    if part == "whole":
        assert any("is in no session" in note for note in done.notes)


def test_several_results_of_one_session_become_one(tmp_path: Path) -> None:
    a, b = source("plain", [full(6, seed=1)], tmp_path / "a.npz"), source("plain", [full(4, seed=2)], tmp_path / "b.npz")
    with open_session(a, b, session=tmp_path / "both", plugins=INSTALLED) as session:
        session.label(next(iter(session.candidates)), True)
    done = actsort.convert(tmp_path / "both", tmp_path / "new", "suite2p", plugins=INSTALLED)
    assert [r.n_cells for r in actsort.read(tmp_path / "new", plugins=INSTALLED)] == [6, 4]
    rows = json.loads(done.identity_map.read_text())["recordings"]
    assert [Path(row["source"]["path"]) for row in rows] == [a, b]


# ---- what was decided elsewhere is no prior


def test_a_session_on_the_new_result_starts_from_the_old_hosts_verdicts(curated: Path, tmp_path: Path) -> None:
    (old,) = actsort.read(curated, plugins=INSTALLED)
    actsort.convert(curated, tmp_path / "new", "suite2p", plugins=INSTALLED)
    with open_session(tmp_path / "new", plugins=INSTALLED, prepare=False) as session:
        (prior,) = session.priors.values()
    np.testing.assert_array_equal(prior.verdict, old.prior.verdict)
    np.testing.assert_array_equal(prior.probability, old.prior.probability)


def test_a_click_after_the_conversion_is_the_hosts_verdict(curated: Path, tmp_path: Path) -> None:
    (old,) = actsort.read(curated, plugins=INSTALLED)
    actsort.convert(curated, tmp_path / "new", "suite2p", plugins=INSTALLED)
    iscell = np.load(tmp_path / "new/iscell.npy")
    iscell[7, 0] = 1 - iscell[7, 0]
    np.save(tmp_path / "new/iscell.npy", iscell)
    with open_session(tmp_path / "new", plugins=INSTALLED, prepare=False) as session:
        (prior,) = session.priors.values()
    expected = old.prior.verdict.copy()
    expected[7] = 1 if iscell[7, 0] else -1
    np.testing.assert_array_equal(prior.verdict, expected)


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"format_version": 1}', b'{"format_version": 99, "recordings": []}'])
def test_a_damaged_map_keeps_nobody_from_opening_the_result(damage: bytes, tmp_path: Path) -> None:
    src = source("plain", [full()], tmp_path / "source")
    done = actsort.convert(src, tmp_path / "new", "suite2p", plugins=INSTALLED)
    done.identity_map.write_bytes(damage)
    with pytest.raises(FormatError, match=r"damaged|format version"):
        conversions.read(done.identity_map.parent)
    open_session(tmp_path / "new", plugins=INSTALLED, prepare=False).close()


# ---- refused before anything is written


def test_nothing_is_written_over_anything(tmp_path: Path, snapshot: Any) -> None:
    src = source("plain", [full()], tmp_path / "source")
    for name in ("file", "folder", "link"):
        dst = tmp_path / name
        {"file": dst.touch, "folder": dst.mkdir, "link": functools.partial(dst.symlink_to, tmp_path / "gone")}[name]()
        before = snapshot(tmp_path)
        for to, dry in itertools.product(TARGETS, (True, False)):
            with pytest.raises(UsageError, match="exists already"):
                actsort.convert(src, dst, to, plugins=INSTALLED, dry_run=dry)
        assert snapshot(tmp_path) == before
    with pytest.raises(UsageError, match="exists already"):
        actsort.convert(src, src, "plain", plugins=INSTALLED)


def test_a_session_that_an_earlier_result_left_is_not_mixed_with_the_new_one(tmp_path: Path) -> None:
    src = source("plain", [full()], tmp_path / "source")
    actsort.convert(src, tmp_path / "new", "plain", plugins=INSTALLED)
    open_session(tmp_path / "new", plugins=INSTALLED, prepare=False).close()
    (tmp_path / "new").unlink()
    with pytest.raises(UsageError, match="session of an earlier new"):
        actsort.convert(src, tmp_path / "new", "plain", plugins=INSTALLED)


def test_formats_that_cannot_be_written_anew(tmp_path: Path, result: Path) -> None:
    registered = make_plugins(plain)
    with pytest.raises(UsageError, match="toy cannot be written anew") as caught:
        actsort.convert(result, tmp_path / "new", "toy", plugins=registered)
    assert "plain, plain_csv" in caught.value.hint
    with pytest.raises(UnknownNameError, match="Did you mean 'plain'"):
        actsort.convert(result, tmp_path / "new", "plian", plugins=registered)
    with pytest.raises(MissingFileError):
        actsort.convert(tmp_path / "gone", tmp_path / "new", "plain", plugins=registered)
    done = actsort.convert(result, tmp_path / "new", "plain", plugins=registered)  # a stranger's format is a source like any other
    same(actsort.read(result, plugins=registered), actsort.read(tmp_path / "new", plugins=registered))
    assert not done.losses


def test_one_recording_of_several(tmp_path: Path) -> None:
    src = source("plain", SAMPLES["several"](), tmp_path / "source")
    actsort.convert(src, tmp_path / "new", "plain", recordings=["a"], plugins=INSTALLED)
    (new,) = actsort.read(tmp_path / "new", plugins=INSTALLED)
    assert (new.name, new.n_cells) == ("a", 3)
    with pytest.raises(FormatError) as refused:  # one file of CNMF-E is one recording: the way out is named
        actsort.convert(src, tmp_path / "other", "cnmfe", plugins=INSTALLED)
    assert "--recording b" in refused.value.hint
    with pytest.raises(UsageError, match="no recording 'c'") as caught:
        actsort.convert(src, tmp_path / "other", "plain", recordings=["c"], plugins=INSTALLED)
    assert "b, a" in caught.value.hint


# ---- when it goes wrong on the way


class Faulty:
    """The plain format, with a fault in `create`."""

    def __init__(self, fault: str) -> None:
        self.name, self.description, self.fault = "faulty", "for tests", fault
        self.inner = plain.PlainFormat()
        self.sniff, self.plan, self.losses = self.inner.sniff, self.inner.plan, self.inner.losses

    def read(self, path: Path) -> tuple[Recording, ...]:
        return self.inner.read(path)

    def create(self, recordings: Any, curations: Any, dst: Path) -> Any:
        (old,) = recordings
        if self.fault == "raises":
            dst.write_bytes(b"half")
            raise ZeroDivisionError("oh")
        if self.fault == "disk full":
            raise OSError(28, "No space left on device")
        if self.fault == "interrupted":
            raise KeyboardInterrupt
        other = {
            "traces": replace(old, traces=np.asarray(old.traces[0 : old.n_cells]) * np.float32(1.001)),
            "order": replace(old, footprints=old.footprints[:, ::-1]),
            "verdicts": replace(old, prior=Prior(-old.prior.verdict, old.prior.probability)),
            "frames": replace(old, traces=np.asarray(old.traces[0 : old.n_cells])[:, :-1]),
        }[self.fault]
        return self.inner.create([other], curations, dst)


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        ("raises", WriteError, r"could not write .*ZeroDivisionError: oh"),
        ("disk full", WriteError, "No space left"),
        ("interrupted", KeyboardInterrupt, None),
        ("traces", WriteError, r"did not read back as written: traces of made differ"),
        ("order", WriteError, "another order"),
        ("verdicts", WriteError, "decisions of made differ"),
        ("frames", WriteError, "did not read back as written"),
    ],
)
def test_what_fails_leaves_nothing(fault: str, error: type[BaseException], words: str | None, tmp_path: Path, snapshot: Any) -> None:
    class Plugin:
        @hookimpl
        def actsort_register_formats(self) -> Sequence[Format]:
            return [Faulty(fault)]

    registered = make_plugins(plain, Plugin())
    src = source("plain", [full()], tmp_path / "source")
    before = snapshot(tmp_path)
    with pytest.raises(error, match=words):
        actsort.convert(src, tmp_path / "new", "faulty", format="plain", plugins=registered)
    assert snapshot(tmp_path) == before


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    src = source("plain", [full()], tmp_path / "source")
    (tmp_path / "in the way").touch()
    with pytest.raises(WriteError, match="Nothing was written"):
        actsort.convert(src, tmp_path / "in the way" / "new", "plain", plugins=INSTALLED)


KILLED = """
import os, pathlib, sys
from actsort_core import converting, plugins
from actsort_adapters import suite2p, caiman, cnmfe, plain
src, root, to = sys.argv[1:4]
registered = plugins.load([suite2p, caiman, cnmfe, plain])
def count(function):
    def wrapped(*arguments, **options):
        global steps
        steps -= 1
        if steps < 0:
            os._exit(9)
        return function(*arguments, **options)
    return wrapped
os.replace, os.fsync, os.rename = count(os.replace), count(os.fsync), count(os.rename)
for name in ("atomic_write_json", "_read_back"):
    setattr(converting, name, count(getattr(converting, name)))
for first in range(40):
    folder = pathlib.Path(root, str(first))
    folder.mkdir()
    steps = first
    child = os.fork()
    if not child:
        converting.convert(src, folder / "new", to, plugins=registered)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(code, flush=True)
    if code != 9:
        break
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("to", TARGETS)
def test_a_kill_at_any_step_leaves_a_whole_result_or_none(to: str, tmp_path: Path) -> None:
    src, root = source("plain", [full()], tmp_path / "source"), tmp_path / "root"
    expected = actsort.read(src, plugins=INSTALLED)
    root.mkdir()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", KILLED, str(src), str(root), to]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=200, check=True, text=True)
    codes = [int(code) for code in done.stdout.split()]
    assert codes.count(9) >= 3
    assert codes[-1] == 0
    for step in range(len(codes)):
        folder = root / f"{step}"
        there = (folder / "new").exists()
        if there:
            same(expected, actsort.read(folder / "new", plugins=INSTALLED))
            assert conversions.read(store.default_folder(folder / "new"))["recordings"]
        visible = {p.name for p in folder.iterdir() if not p.name.startswith(".")}
        assert visible <= {"new", "new.actsort"}
        if not there and step in (0, len(codes) - 3, len(codes) - 2):  # the same command goes through afterwards
            actsort.convert(src, folder / "new", to, plugins=INSTALLED)


def test_leftovers_of_killed_conversions_go(tmp_path: Path) -> None:
    src = source("plain", [full()], tmp_path / "source")
    old, fresh = tmp_path / ".new.abc.making", tmp_path / ".new.def.making"
    for folder in (old, fresh):
        folder.mkdir()
        (folder / "half").touch()
    for path in (old / "half", old):
        os.utime(path, (1e9, 1e9))
    actsort.convert(src, tmp_path / "new", "plain", plugins=INSTALLED)
    assert not old.exists()
    assert fresh.exists()  # another process may be at it


# ---- progress, and the command line


def test_progress_goes_from_none_to_all(tmp_path: Path) -> None:
    src = source("plain", [full(700, n_frames=20)], tmp_path / "source")
    told: list[tuple[str, int, int]] = []
    actsort.convert(src, tmp_path / "new", "suite2p", plugins=INSTALLED, progress=lambda *step: told.append(step))
    for name in ("writing", "comparing"):
        steps = [(done, total) for what, done, total in told if what == name]
        assert steps[-1] == (700, 700)
        assert len(steps) >= 2
        assert steps == sorted(steps)


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(main, [str(a) for a in arguments], obj=INSTALLED)


def test_the_command(tmp_path: Path) -> None:
    src = source("plain", [full()], tmp_path / "source.npz")
    dry = run("convert", src, tmp_path / "s2p", "--to", "suite2p", "--dry-run")
    assert dry.exit_code == 0, dry.output
    assert "made (plain): 9 candidates" in dry.output
    assert "not carried over:\n  - " in dry.output
    assert "Nothing was written." in dry.output
    assert not (tmp_path / "s2p").exists()
    done = run("convert", src, tmp_path / "s2p", "--to", "suite2p")
    assert done.exit_code == 0, done.output
    assert done.output.index("not carried over") < done.output.index("wrote")
    assert str(tmp_path / "s2p/actsort/conversion.json") in done.output
    again = run("convert", src, tmp_path / "s2p", "--to", "suite2p")
    assert again.exit_code == 2
    assert "exists already" in again.output
    document = run("convert", src, tmp_path / "json", "--to", "plain", "--json")
    told = json.loads(document.output)
    assert told["written"] == [str(tmp_path / "json")]
    assert told["recordings"][0]["decisions"] == "host"
    assert run("convert", tmp_path / "gone", tmp_path / "x", "--to", "plain").exit_code == 1
    assert run("convert", src, tmp_path / "x", "--to", "plian").exit_code == 2
    assert run("convert", src, tmp_path / "x").exit_code == 2


def test_help_teaches() -> None:
    text = run("convert", "--help").output
    for words in ("--to FORMAT", "--dry-run", "--decisions", "DST must not exist", "load_CNMF", "conversion.json"):
        assert words in text


def test_the_list_comes_before_the_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    src = source("plain", [full()], tmp_path / "source")
    monkeypatch.setattr(converting, "carry_out", lambda *_: sys.exit("stopped before writing"))
    told = run("convert", src, tmp_path / "new", "--to", "suite2p")
    assert "not carried over" in told.output
    assert not (tmp_path / "new").exists()


# ---- the accepted ones alone


@pytest.mark.parametrize("to", ["npz", "csv"])
def test_accepted_candidates_alone(to: str, curated: Path, tmp_path: Path) -> None:
    (old,) = actsort.read(curated, plugins=INSTALLED)
    dst = tmp_path / f"accepted.{to}"
    done = run("export", curated, dst, "--accepted")
    assert done.exit_code == 0, done.output
    with open_session(session=store.find_folder(curated), read_only=True, plugins=INSTALLED) as session:
        (curation,) = session.curations().values()
    index = np.flatnonzero(curation.accepted)
    (new,) = actsort.read(dst, plugins=INSTALLED)
    assert new.info["original_index"] == index.tolist()
    assert (new.info["original_path"], new.info["original_format"], new.fps) == (str(curated), "plain", old.fps)
    assert new.candidate_fingerprints == tuple(old.candidate_fingerprints[i] for i in index)
    np.testing.assert_array_equal(new.traces[0 : len(index)], old.traces[0 : old.n_cells][index])
    np.testing.assert_array_equal(new.spikes[0 : len(index)], old.spikes[0 : old.n_cells][index])
    np.testing.assert_array_equal(new.images["mean"], old.images["mean"])
    np.testing.assert_array_equal(new.metrics["SNR_comp"], old.metrics["SNR_comp"][index])
    assert (new.prior.verdict == 1).all()
    assert run("export", curated, dst, "--accepted").exit_code == 2  # nothing is overwritten
    assert 0 < len(index) < old.n_cells


def test_accepted_candidates_in_five_lines(curated: Path, tmp_path: Path) -> None:
    """As docs/convert.md shows it: without actsort."""
    run("export", curated, tmp_path / "accepted.npz", "--accepted")
    import scipy.sparse

    d = np.load(tmp_path / "accepted.npz")
    footprints = scipy.sparse.csc_matrix((d["weights"], d["pixels"], d["starts"]), shape=(d["fov"].prod(), len(d["traces"])))
    first = footprints[:, 0].toarray().reshape(d["fov"])
    (old,) = actsort.read(curated, plugins=INSTALLED)
    np.testing.assert_array_equal(first.ravel(), old.footprints[:, [int(d["index"][0])]].toarray().ravel())


def test_accepted_of_several_recordings_and_of_none(tmp_path: Path) -> None:
    rejected = replace(full(5, seed=3), name="c", prior=Prior(np.full(5, -1, np.int8), np.zeros(5)))
    src = source("plain", [*SAMPLES["several"](), rejected], tmp_path / "source.npz")
    open_session(src, plugins=INSTALLED, prepare=False).close()
    for to in ("npz", "csv"):
        done = run("export", src, tmp_path / f"out_{to}", "--accepted", "--to", to)
        assert done.exit_code == 0, done.output
        new = actsort.read(tmp_path / f"out_{to}", plugins=INSTALLED)
        assert [r.name for r in new] == ["b", "a", "c"]
        assert new[2].n_cells == 0
    assert run("export", src, tmp_path / "x.mat", "--accepted").exit_code == 2


def test_a_moved_pair_still_finds_its_map(tmp_path: Path) -> None:
    src = source("plain", [full()], tmp_path / "here/source")
    actsort.convert(src, tmp_path / "here/new", "plain_csv", plugins=INSTALLED)
    shutil.move(tmp_path / "here", tmp_path / "there")
    (row,) = conversions.read(tmp_path / "there/new/actsort")["recordings"]
    assert (tmp_path / "there" / row["source"]["relative"]).exists()
