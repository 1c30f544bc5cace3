"""What features and clips cost, each beside what it is compared with, all in one run.

python benchmarks/features.py                  everything, on two cores (some ten minutes, 5 GB of disk)
python benchmarks/features.py --quick          the same parts, small, in a minute: whether it works, not how fast it is
python benchmarks/features.py --only movie     one part: movie, clips, scaling, hosts or traces

movie    the movie features and the clips of simulated candidates against one plain sparse product of the footprints with the same frames,
         reading included, and against computing the features candidate by candidate as the published code does (on 100 candidates,
         scaled)
clips    bytes of a clip, and how long it takes to read one
scaling  features and clips together with fewer and more frames and candidates: time and peak memory
hosts    CaImAn's `evaluate_components` and Suite2p's `roi_stats` on the same candidates, with whatever interpreters can import them:
         this one, those in .venv-hosts (`make test-hosts`), those named with --hosts
traces   the features that need no movie against one float32 rfft of the same traces

Every measurement runs in a process of its own, in turn, several times: a busy machine slows all of them. The fastest run of each counts.
Beside the time that passed stands that of the processor, which says more when others use it, too. What the issue asks for stands at the
end, with what was found.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _movie_jobs import FOV, PUBLISHED_CELLS, measured

HERE = Path(__file__).parent
PARTS = ("movie", "clips", "scaling", "hosts", "traces")
SHOWN = {
    "read": "reading alone",
    "product": "one plain sparse product",
    "features": "all movie features",
    "clips": "clips alone",
    "features and clips": "both in one pass",
    "features, serial": "features, one thread",
    "features, processes": "features, processes",
    "published": "candidate by candidate",
}
HOST_CELLS = 300  # CaImAn takes minutes for 1,000
Found = dict[str, Any]


class Verdicts:
    """What was asked for and what was found."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, what: str, found: float, bar: float, unit: str, least: bool = False) -> None:
        """One figure and the most (or least) it may be."""
        good = found >= bar if least else found <= bar
        self.lines.append(f"{what:<64} {found:7.2f} {unit:<10} (at {'least' if least else 'most'} {bar:g})   {'yes' if good else 'NO'}")


def heading(what: str, began: float) -> None:
    print(f"\n{what}   [{time.perf_counter() - began:.0f} s since the start]", flush=True)


def best(folder: Path, name: str, cells: int, frames: int, runs: int) -> Found:
    """Fastest of several runs, the most memory of all."""
    results = [measured(folder, name, cells, frames) for _ in range(runs)]
    return {**results[-1], **{key: min(r[key] for r in results) for key in ("seconds", "cpu")}, "peak": max(r["peak"] for r in results)}


def movie(folder: Path, a: argparse.Namespace, verdicts: Verdicts) -> None:
    names = list(SHOWN) if a.executors else [name for name in SHOWN if "," not in name]
    runs: dict[str, list[Found]] = {name: [] for name in names}
    for k in range(a.runs):
        for name in names:
            if name != "published" or k == 0 or a.runs > 2:  # it takes as long as all others
                print(f"  run {k + 1} of {a.runs}: {SHOWN[name]}", file=sys.stderr, flush=True)
                runs[name].append(measured(folder, name, a.cells, a.frames))
    scale = {name: max(1, a.cells / PUBLISHED_CELLS) if name == "published" else 1 for name in names}
    clock = {name: scale[name] * min(r["seconds"] for r in found) for name, found in runs.items()}
    cpu = {name: scale[name] * min(r["cpu"] for r in found) for name, found in runs.items()}
    print(f"{'':<28}{'clock':>9}{'x product':>11}{'processor':>12}{'x product':>11}{'peak memory':>14}")
    for name, found in runs.items():
        times = f"{clock[name]:7.1f} s{clock[name] / clock['product']:11.1f}{cpu[name]:10.1f} s{cpu[name] / cpu['product']:11.1f}"
        print(f"{SHOWN[name]:<28}{times}{max(r['peak'] for r in found):10.0f} MiB", flush=True)
    print(f"(candidate by candidate: {min(a.cells, PUBLISHED_CELLS)} candidates, scaled)")
    by_clock, by_cpu = (times["features"] / times["product"] for times in (clock, cpu))
    verdicts.add("all movie features, by the clock", by_clock, 10, "x product")
    verdicts.add("all movie features, processor", by_cpu, 10, "x product")
    more = (clock["features and clips"] - clock["features"]) / clock["product"]
    verdicts.add("clips beside them, in the same pass, by the clock", more, 6, "x product")
    verdicts.add("clips in a pass of their own, by the clock", clock["clips"] / clock["product"], 6, "x product")
    verdicts.add("candidate by candidate takes, by the clock", clock["published"] / clock["features"], 20, "x longer", least=True)
    verdicts.add("candidate by candidate takes, processor", cpu["published"] / cpu["features"], 20, "x longer", least=True)


def clips(folder: Path, a: argparse.Namespace, verdicts: Verdicts) -> None:
    size = measured(folder, "clips", a.cells, a.frames)["clip_bytes"] / 1e3
    print(f"clips.h5: {size:.1f} MB for 1,000 candidates")
    found = measured(folder, "clip reads", a.cells, a.frames)
    print(f"{'one clip, milliseconds':<36}{'median':>9}{'95 %':>9}{'99 %':>9}{'longest':>9}")
    shown = {"cold": "from the disk", "warm": "read before", "processor": "read before, processor", "threads": "by four threads at once"}
    for name, what in shown.items():
        print(f"  {what:<34}" + "".join(f"{ms:9.2f}" for ms in found[name]))
    verdicts.add("clips of 1,000 candidates", size, 30, "MB")
    for name in ("processor", "cold", "warm"):
        verdicts.add(f"reading one clip, 99 % of them, {shown[name]}", found[name][2], 5, "ms")


def scaling(folder: Path, a: argparse.Namespace, verdicts: Verdicts) -> None:
    peak = 0.0
    for what, sizes in (
        ("frames", [(a.cells, round(a.frames * k)) for k in (0.25, 0.5, 1, 2, 4)]),
        ("candidates", [(round(n * a.cells / 10_000), a.frames) for n in (1_000, 3_000, 10_000, 30_000, 50_000)]),
    ):
        found = []
        for cells, frames in sizes:
            one = best(folder, "features and clips", cells, frames, 1)
            found.append(one)
            times = f"clock {one['seconds']:7.1f} s   processor {one['cpu']:7.1f} s"
            per = f"{1e3 * one['cpu'] / (frames if what == 'frames' else cells):7.2f} ms per {what.removesuffix('s')}"
            print(f"  {cells:7,d} candidates, {frames:7,d} frames: {times} = {per}   peak {one['peak']:5.0f} MiB", flush=True)
        n = [frames if what == "frames" else cells for cells, frames in sizes]
        power = math.log(found[-1]["cpu"] / found[0]["cpu"]) / math.log(n[-1] / n[0])
        verdicts.add(f"cost grows with the {what} to the power of, {n[0]:,} to {n[-1]:,}", power, 1.1, "")
        peak = max(peak, *(one["peak"] for one in found))
    cells, frames = max(10, a.cells // 10), 20 * a.frames
    long = measured(folder, "features and clips", cells, frames)
    print(f"  {cells:7,d} candidates, {frames:7,d} frames: clock {long['seconds']:7.1f} s   peak {long['peak']:5.0f} MiB", flush=True)
    verdicts.add("peak memory, whatever the length", max(peak, long["peak"]) / 1024, 4, "GiB")


def hosts(folder: Path, a: argparse.Namespace) -> None:
    cells = min(HOST_CELLS, a.cells)
    ours = measured(folder, "features", cells, a.frames)
    print(f"actsort, all movie features: {cells} candidates in {ours['seconds']:.1f} s (processor: {ours['cpu']:.1f} s)", flush=True)
    found = [sys.executable, *map(str, sorted((HERE.parent / ".venv-hosts").glob("*/bin/python"))), *a.hosts]
    for python in dict.fromkeys(found):
        print(f"{'this interpreter' if python == sys.executable else python}:", flush=True)
        subprocess.run([python, str(HERE / "movie_hosts.py"), str(folder), "--cells", str(cells)], check=False)


def traces(a: argparse.Namespace) -> None:
    size = ["--cells", str(a.cells), "--frames", str(a.trace_frames), "--runs", str(a.runs)]
    subprocess.run([sys.executable, str(HERE / "_trace_jobs.py"), *size], check=True)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="300 candidates, 300 frames, one run, unless said otherwise")
    parser.add_argument("--only", metavar="PARTS", help=f"comma-separated, of {', '.join(PARTS)}; default: all")
    parser.add_argument("--cells", type=int, help="candidates; default 10000")
    parser.add_argument("--frames", type=int, help="of the movie; default 3000")
    parser.add_argument("--trace-frames", type=int, help="of the traces in part `traces`; default 10000")
    parser.add_argument("--runs", type=int, help="default 2")
    parser.add_argument("--executors", action="store_true", help="part movie also with one thread and with processes")
    parser.add_argument("--hosts", nargs="*", default=[], metavar="PYTHON", help="more interpreters that may have CaImAn or Suite2p")
    parser.add_argument("--folder", type=Path, help="keep the simulated movie here for the next time (default: a temporary folder)")
    a = parser.parse_args()
    few = a.quick
    for name, small, full in (("cells", 300, 10_000), ("frames", 300, 3_000), ("trace_frames", 1_000, 10_000), ("runs", 1, 2)):
        if getattr(a, name) is None:
            setattr(a, name, small if few else full)
    a.parts = PARTS if a.only is None else tuple(a.only.split(","))
    wrong = [part for part in a.parts if part not in PARTS]
    if wrong:
        parser.error(f"there is no part {wrong[0]!r}: {', '.join(PARTS)}")
    if min(a.cells, a.trace_frames, a.runs) < 1 or a.frames < 100:
        parser.error("at least one candidate, one run, and 100 frames of the movie")
    return a


def main() -> None:
    a, began, verdicts = parsed(), time.perf_counter(), Verdicts()
    with tempfile.TemporaryDirectory() as temporary:
        folder = a.folder or Path(temporary)
        if set(a.parts) - {"traces"}:
            heading(f"{a.cells:,} candidates, {a.frames:,} frames of {FOV[0]} x {FOV[1]}: simulating the movie", began)
            measured(folder, "make", a.cells, a.frames)
        if "movie" in a.parts:
            heading(f"movie: {a.cells:,} candidates, {a.frames:,} frames, two threads, fastest of {a.runs} runs", began)
            movie(folder, a, verdicts)
        if "clips" in a.parts:
            heading("clips", began)
            clips(folder, a, verdicts)
        if "scaling" in a.parts:
            heading("scaling: features and clips in one pass", began)
            scaling(folder, a, verdicts)
        if "hosts" in a.parts:
            heading("hosts: what people run at the same place", began)
            hosts(folder, a)
    if "traces" in a.parts:
        heading("traces: features that need no movie", began)
        traces(a)
    heading("asked for, and found" + (" (these sizes are too small to judge)" if a.quick else ""), began)
    print("\n".join(verdicts.lines) or "(nothing in these parts)")


if __name__ == "__main__":
    main()
