"""What tests/test_hostile.py does to every format, in processes of their own: mutants, hostile files, kills.

Run as a script, ``hostile.py TASK ADAPTER FORMAT COUNT SEED FOLDER``: one task for one format, with limits on memory and on the time
of each step. What is being tried is in the file ``trying`` before it is tried, so that a crash or a hang has a name.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import os
import pkgutil
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import CliRunner

import actsort_adapters
from actsort_core import plugins
from actsort_core.errors import ActsortError, MissingDependencyError
from actsort_core.formats import CreatingFormat, Format
from actsort_core.testing import make_recording
from actsort_core.testing._damage import DAMAGES, Damage, damaged, survive

DATA = Path(__file__).parent / "data"
OUTSIDE = 7177.28125  # what the files hold that a hostile file points to: it must never be read
MEMORY = 3 << 30  # bytes of address space a process may take beyond what it has when it begins
GROWTH = 700 << 20  # bytes that reading broken files may take in reality
SECONDS = 20  # that one broken file may take
LARGEST = 1_500_000  # bytes of a sample
SAMPLES = 6


def adapters() -> list[str]:
    """All modules of actsort_adapters, also those added since the project was installed."""
    found = pkgutil.iter_modules(actsort_adapters.__path__)
    return [module.name for module in found if not module.name.startswith("_") and not module.ispkg]


def formats_of(adapter: str) -> plugins.Plugins:
    """What one of them registers."""
    return plugins.load([importlib.import_module(f"actsort_adapters.{adapter}")], discover=False)


# ---- samples


def samples(fmt: Format, folder: Path) -> list[Path]:
    """Small results to break, each in a folder of its own: what the format creates, and files of the real tools."""
    folder.mkdir()
    out = []
    if isinstance(fmt, CreatingFormat):
        full = make_recording(4, fov=(11, 17), n_frames=30)
        traces = np.asarray(full.traces[0:4])
        for number, recording in enumerate([replace(full, denoised=traces, spikes=np.abs(traces)), make_recording(1, n_frames=5)]):
            dst = folder / f"created{number}" / "result"
            dst.parent.mkdir()
            try:
                fmt.create([recording], [None], dst)
            except MissingDependencyError:
                break
            out.append(dst)
    rows = sorted((size_of(path), str(path), path) for path in natives(fmt, DATA))
    first = {kind_of(path): path for _, _, path in reversed(rows)}.values()  # of each kind the smallest, then the smallest of all
    for path in list(dict.fromkeys([*first, *(path for _, _, path in rows)]))[: SAMPLES - len(out)]:
        copy = folder / f"native{len(out)}" / path.name
        copy.parent.mkdir()
        shutil.copytree(path, copy) if path.is_dir() else shutil.copyfile(path, copy)
        out.append(copy)
    return out


def natives(fmt: Format, folder: Path) -> Iterator[Path]:
    """Results of the real tools below `folder` that `fmt` reads and that are small."""
    for path in sorted(folder.iterdir()):
        if fmt.sniff(path).yes:
            try:
                readable = size_of(path) <= LARGEST and bool(fmt.read(path))
            except ActsortError:  # one that only documents an error, or needs an extra that is not installed
                readable = False
            if readable:
                yield path
        elif path.is_dir():
            yield from natives(fmt, path)


def files_of(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())


def size_of(path: Path) -> int:
    return sum(file.stat().st_size for file in files_of(path))


def kind_of(path: Path) -> tuple[str, bytes]:
    with files_of(path)[0].open("rb") as file:
        return path.suffix, file.read(8)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in files_of(folder)}


# ---- trying


class Trial:
    """Tries one broken result after the other, says what is being tried, and keeps the limits."""

    def __init__(self, fmt: Format, registered: plugins.Plugins, folder: Path) -> None:
        self.fmt, self.registered, self.folder = fmt, registered, folder
        self.count = self.refused = 0
        self.slowest = 0.0
        self.before, self.most, self.largest = 0, 0, ""
        self.runner = CliRunner()

    def __call__(self, path: Path, what: str, cli: bool = False) -> str:
        """The error's sentence; empty where everything could be read."""
        (self.folder / "trying").write_text(what)
        signal.alarm(SECONDS)
        began = time.monotonic()
        said = survive(self.fmt, path, what)
        if cli:
            self.command_line(path, what)
        signal.alarm(0)
        self.slowest = max(self.slowest, time.monotonic() - began)
        self.count += 1
        self.refused += bool(said)
        grown = resident() - self.before
        if grown > self.most:
            self.most, self.largest = grown, what
        return said

    def command_line(self, path: Path, what: str) -> None:
        from actsort_core.cli import main

        for words in (["info", str(path)], ["info", str(path), "--format", self.fmt.name, "--json"]):
            result = self.runner.invoke(main, words, obj=self.registered)
            fine = result.exit_code in (0, 1) and (result.exception is None or isinstance(result.exception, SystemExit))
            odd = [word for word in ("Traceback", "unexpected", "report") if word in result.output]
            said = f"actsort {words} with {what}: {result.exit_code} {result.exception!r} {result.output}"
            assert fine, said
            assert not odd, said
            assert result.exit_code == 0 or "actsort: " in result.output, said

    def report(self) -> dict[str, Any]:
        return {
            "count": self.count,
            "refused": self.refused,
            "slowest": round(self.slowest, 2),
            "grown": self.most,
            "largest": self.largest,
        }


def resident() -> int:
    """The most memory this process ever had, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def mutants(trial: Trial, count: int, seed: int) -> None:
    """`count` randomly damaged files, each a few changes of bytes; Hypothesis looks for the smallest that fails."""
    import hypothesis
    from hypothesis import strategies as st

    paths = samples(trial.fmt, trial.folder / "samples")
    files = [(path, file, file.read_bytes()) for path in paths for file in files_of(path)]
    position = st.one_of(st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True).map(lambda x: x**4))  # headers come first
    lengths = st.integers(0, 11).map(lambda n: 2**n)
    one = st.builds(Damage, st.sampled_from(DAMAGES), position, lengths, st.integers(0, (1 << 31) - 1))

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
    )
    @hypothesis.given(st.integers(0, len(paths) - 1), st.integers(0, 1 << 16), st.lists(one, min_size=1, max_size=3))
    def try_it(sample: int, number: int, damages: list[Damage]) -> None:
        inside = [row for row in files if row[0] == paths[sample]]
        path, file, content = inside[number % len(inside)]
        file.write_bytes(damaged(content, damages))
        try:
            trial(path, f"{file.relative_to(trial.folder)} after {damages}", cli=trial.count % 5 == 0)
        finally:
            file.write_bytes(content)

    if paths:
        try_it()


# ---- kills


WRITING = ("os.rename", "os.remove", "os.link", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod", "os.utime", "os.symlink")


def armed(operation: int, counted: list[int]) -> None:
    """Let this process be killed just before its file operation number `operation`; -1: only count them."""
    real_fsync = os.fsync

    def tick() -> None:
        counted[0] += 1
        if counted[0] == operation:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(event: str, args: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes or event in WRITING:
            tick()

    def fsync(fd: int) -> None:
        tick()
        real_fsync(fd)

    os.fsync = fsync  # type: ignore[assignment]
    sys.addaudithook(watch)


def limited(size: int) -> None:
    """Let this process be killed as soon as a file it writes becomes larger than `size`: in the middle of what C code writes, too."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def forked(task: Callable[[], Any]) -> tuple[int, Any]:
    """Run `task` in a fork of this process, which itself never touches a format; returns the signal that ended it, and the answer."""
    here, there = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(here)
        signal.alarm(6 * SECONDS)
        try:
            answer = {"answer": task()}
        except BaseException as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        os.write(there, json.dumps(answer).encode())
        os._exit(0)
    os.close(there)
    with os.fdopen(here, "rb") as pipe:
        told = pipe.read()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return os.WTERMSIG(status), None
    answer = json.loads(told)
    assert "error" not in answer, answer["error"]
    return 0, answer["answer"]


def points(most: int, wanted: int) -> list[int]:
    """All of 1..most, or as many of them as are wanted, evenly spread."""
    return sorted({round(x) for x in np.linspace(1, most, min(most, wanted))}) if most else []


KILLED = (signal.SIGKILL, signal.SIGXFSZ)


def arms(operations: int, contents: dict[str, bytes], wanted: int) -> list[Callable[[], None]]:
    """Ways to die: before file operations, all or so many of them, and at sizes of the files that are written, a quarter as many."""
    sizes = sorted({len(content) * part // 4 + 1 for content in contents.values() for part in range(4)})
    early: list[Callable[[], None]] = [functools.partial(armed, k, [0]) for k in points(operations, wanted)]
    return early + [functools.partial(limited, sizes[i - 1]) for i in points(len(sizes), wanted // 4)]


def kill_writes(fmt: Format, path: Path, folder: Path, wanted: int) -> int:
    """Kill a write-back before each of its file operations, and at several file sizes. Returns how often it was killed."""
    from actsort_core import writeback
    from actsort_core.formats import read_with
    from actsort_core.journal import Journal
    from actsort_core.store import keyed
    from actsort_core.testing import make_curation

    session = folder / "session"
    session.mkdir()
    root = path.parent
    original = bytes_of(root)

    def write(arm: Callable[[], None] = lambda: None) -> dict[str, Any]:
        (source,) = keyed([(path, fmt.name, read_with(fmt, path))])
        curations = {key: make_curation(r, key, decided[r.name]) for key, r in source.recordings.items()}
        with Journal(session) as journal:
            arm()
            report = writeback.write_back([source], {fmt.name: fmt}, curations, session, journal)
        return {"written": [str(p.resolve().relative_to(root.resolve())) for p in report.written], "read": check()}

    def check() -> list[list[Any]]:
        assert fmt.sniff(path).yes
        recordings = fmt.read(path)
        for recording in recordings:
            np.asarray(recording.traces[0 : recording.n_cells])
        return [[r.name, r.fingerprint, r.prior.verdict.tolist()] for r in recordings]

    def restore() -> None:
        with Journal(session) as journal:
            writeback.restore(session, journal)

    def count() -> int:
        counted = [0]
        write(lambda: armed(-1, counted))
        return counted[0]

    before = forked(check)[1]
    decided = {name: np.array(verdict) <= 0 for name, _, verdict in before}  # all verdicts change
    clean = forked(write)[1]
    new = bytes_of(root)
    assert set(new) - set(original) <= set(clean["written"])
    forked(restore)
    assert bytes_of(root) == original
    time.sleep(1.1)  # a second write at another second: files that hold the time of writing are told from the others
    operations = forked(count)[1]
    timed = {name for name, content in bytes_of(root).items() if content != new[name]}
    forked(restore)
    kills = 0
    for arm in arms(operations, {name: new[name] for name in clean["written"]}, wanted):
        number, _ = forked(lambda arm=arm: write(arm))
        assert number in (0, *KILLED), f"killed by signal {number}"
        kills += number in KILLED
        here = bytes_of(root)
        for name in {*here, *original}:
            if name in clean["written"]:  # whole: what it was, or what it becomes
                whole = here.get(name) in (original.get(name), new[name])
                assert whole or (name in timed and forked(check)[1] == clean["read"]), f"{name} is half-written"
            elif name in original:
                assert here.get(name) == original[name], f"{name} was changed"
            else:
                assert Path(name).match(".*.tmp"), f"{name} was left behind"
        if len(clean["written"]) == 1:
            assert forked(check)[1] in (before, clean["read"])
        again = forked(write)[1]  # the next run recovers, and what a killed one left behind does not disturb it
        assert again["read"] == clean["read"]
        forked(restore)
        here = bytes_of(root)
        left = [name for name in here if name not in original]
        assert all(name.endswith(".tmp") for name in left)
        assert {name: here[name] for name in here if name not in left} == original
        for name in left:
            (root / name).unlink()
    return kills


def kill_creates(fmt: CreatingFormat, folder: Path, wanted: int) -> int:
    """Kill the creation of a result before each of its file operations, and at several file sizes. Returns how often it was killed."""
    recording = make_recording(4, fov=(11, 17), n_frames=30)

    def create(dst: Path, arm: Callable[[], None] = lambda: None) -> list[str]:
        arm()
        fmt.create([recording], [None], dst)
        return check(dst)

    def check(dst: Path) -> list[str]:
        (back,) = fmt.read(dst)
        assert fmt.sniff(dst).yes
        np.asarray(back.traces[0 : back.n_cells])
        return list(back.candidate_fingerprints)

    def count() -> int:
        counted = [0]
        create(folder / "counted" / "result", lambda: armed(-1, counted))
        return counted[0]

    (folder / "counted").mkdir()
    operations = forked(count)[1]
    kills = 0
    for number, arm in enumerate(arms(operations, bytes_of(folder / "counted"), wanted)):
        dst = folder / f"killed{number}" / "result"
        dst.parent.mkdir()
        ended, _ = forked(lambda arm=arm, dst=dst: create(dst, arm))
        assert ended in (0, *KILLED), f"killed by signal {ended}"
        kills += ended in KILLED
        if dst.exists():
            assert forked(lambda dst=dst: check(dst))[1] == list(recording.candidate_fingerprints), "half of a result is at the destination"
        else:
            assert forked(lambda dst=dst: create(dst))[1] == list(recording.candidate_fingerprints)
        shutil.rmtree(dst.parent)
    return kills


def kills(fmt: Format, folder: Path, wanted: int) -> dict[str, int]:
    """Kill writes before `wanted` file operations of one sample (all, where there are fewer), a third of that of another."""

    def prepare() -> tuple[list[str], list[str]]:
        paths = samples(fmt, folder / "samples")
        return [str(path) for path in paths], sorted(sys.modules)

    found, modules = forked(prepare)[1]
    paths = [Path(path) for path in found]
    for module in modules:  # what every fork would import anew
        with contextlib.suppress(Exception):
            importlib.import_module(module)
    created = [path for path in paths if path.parent.name.startswith("created")]
    native = [path for path in paths if path not in created]
    out = {"writes": 0, "creates": 0}
    for number, path in enumerate([*created[:1], *native[:1]]):
        (folder / f"write{number}").mkdir()
        out["writes"] += kill_writes(fmt, path, folder / f"write{number}", wanted if number == 0 else wanted // 3)
    if created and isinstance(fmt, CreatingFormat):
        (folder / "create").mkdir()
        out["creates"] = kill_creates(fmt, folder / "create", wanted)
    return {**out, "samples": len(paths)}


def main(task: str, adapter: str, name: str, count: str, seed: str, folder: str) -> None:
    registered = formats_of(adapter)
    fmt = registered.formats[name]
    if task == "kills":
        print(json.dumps(kills(fmt, Path(folder), int(count))))
        return
    trial = Trial(fmt, registered, Path(folder))
    for path in samples(fmt, Path(folder) / "sound"):  # everything is imported, every library has its threads
        trial(path, "a sound file", cli=True)
    trial.count = trial.refused = 0
    trial.slowest = 0.0
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    trial.before, trial.most, trial.largest = resident(), 0, ""
    if task == "mutants":
        mutants(trial, int(count), int(seed))
    else:
        import hostile_files

        hostile_files.try_all(trial, int(count))
    print(json.dumps(trial.report()))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main(*sys.argv[1:])
