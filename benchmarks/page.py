"""How fast the page is in a real browser: key to the next candidate painted, label to disk, a burst of keys.

A session of simulated candidates with a movie is opened by ``actsort label``; headless Chromium (software rendering) sorts in it by the
keyboard, with the truth for answers, while every label is fitted. The page itself takes the times: from ``keydown`` to the first frame
after the next candidate's canvases were drawn, and from then to the answer that the label is on disk. Beside them the same loop
without a page: the next candidate's bytes fetched over HTTP by Python, one after the other.

python benchmarks/page.py [--cells 10000 50000] [--keys 200] [--window 1280x720 1920x1080] [--no-movie] [--folder DIR]
(some ten minutes for all)

Needs the extras web and test, and Chromium (Debian: apt-get install chromium; elsewhere name it with ACTSORT_CHROMIUM).
"""

from __future__ import annotations

import argparse
import http.client
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

BARS = {10_000: 50, 50_000: 80}  # ms at the 95th percentile, key to painted
DURABLE = 60  # ms more until the label is on disk
PAUSE = 0.15  # s between two keys: faster than people are
BURST = 100
SWITCHES = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"
)


def make(folder: Path, cells: int, movie: bool) -> tuple[Path, np.ndarray]:
    """A result in a plain file and, with its movie, simulated once; and the truth."""
    from actsort_core.simulate import simulate, simulate_movie

    folder.mkdir(parents=True, exist_ok=True)
    result, truth = folder / f"{cells}{'-movie' if movie else ''}.npz", folder / f"{cells}{'-movie' if movie else ''}-truth.npy"
    if not truth.exists():
        side, frames = (512, 1_500) if cells <= 10_000 else (1024, 500)
        if movie:
            made = simulate_movie(cells, fov=(side, side), n_frames=frames, path=folder / f"{cells}.npy")
            recording, known = made.recording, made.truth
        else:
            recording, known = simulate(cells, fov=(side, side), n_frames=frames)
        a = recording.footprints
        named: dict[str, Any] = {"movie": str(folder / f"{cells}.npy")} if movie else {}
        np.savez(
            result, pixels=a.indices, weights=a.data, starts=a.indptr, fov=recording.fov, traces=recording.traces, fps=recording.fps,
            accepted=recording.prior.verdict > 0, image_mean=recording.images["mean"], **named,
        )  # fmt: skip
        np.save(truth, known)
    return result, np.load(truth)


def serve(result: Path, session: Path) -> tuple[subprocess.Popen[str], str]:
    """``actsort label`` in a process of its own, and its address."""
    command = [sys.executable, "-m", "actsort_core", "label", str(result), "--session", str(session), "--no-browser", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    if not address:
        raise SystemExit("actsort label did not start (see above).")
    return process, address


def plain_loop(address: str, n: int) -> np.ndarray:
    """Milliseconds to fetch each of the next `n` candidates, one after the other, without a page."""
    where, _, token = address.partition("/?token=")
    connection = http.client.HTTPConnection(where.removeprefix("http://"))
    out = []
    for pos in range(n):
        begin = time.perf_counter()
        connection.request("GET", f"/api/candidate/{pos}", headers={"X-ActSort-Token": token})
        connection.getresponse().read()
        out.append(1e3 * (time.perf_counter() - begin))
    return np.array(out)


def spread(name: str, ms: np.ndarray, bar: float | None = None) -> None:
    """One line: median, 95th percentile, highest; and the bar."""
    p50, p95 = np.percentile(ms, [50, 95])
    verdict = "" if bar is None else f"   bar: p95 {bar:.0f} ms: {'met' if p95 <= bar else 'MISSED'}"
    print(f"  {name:<44} n {len(ms):>4}   p50 {p50:6.1f}   p95 {p95:6.1f}   max {ms.max():6.1f} ms{verdict}", flush=True)


def measure(result: Path, truth: np.ndarray, keys: int, folder: Path, window: tuple[int, int]) -> None:
    """Sort in the browser, in a window of so many pixels, and print what it took."""
    from playwright.sync_api import sync_playwright

    browser_path = os.environ.get("ACTSORT_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if browser_path is None:
        raise SystemExit("There is no Chromium here: apt-get install chromium, or name one with ACTSORT_CHROMIUM.")
    session = folder / f"session-{result.stem}"
    for old in ("labels.jsonl", "page.json"):  # features and clips of an earlier run are kept
        (session / old).unlink(missing_ok=True)
    begin = time.perf_counter()
    process, address = serve(result, session)
    print(f"  features (and clips) ready after {time.perf_counter() - begin:.0f} s", flush=True)
    try:
        with sync_playwright() as play:
            browser = play.chromium.launch(executable_path=browser_path, args=SWITCHES.split())
            page = browser.new_page(viewport={"width": window[0], "height": window[1]})
            begin = time.perf_counter()
            page.goto(address)
            page.wait_for_function("document.body.dataset.pos !== undefined", timeout=120_000)
            print(f"  the first candidate is shown {time.perf_counter() - begin:.1f} s after the page was opened", flush=True)
            page.wait_for_timeout(3_000)

            def press() -> None:
                pos = int(page.evaluate("document.body.dataset.pos"))
                page.keyboard.press("y" if truth[pos] else "n")

            for _ in range(keys):
                press()
                page.wait_for_timeout(1e3 * PAUSE)
            page.wait_for_function(f"window.__actsort.acks.length >= {keys}", timeout=60_000)
            seen = page.evaluate("window.__actsort.latencies.map(l => l.painted - l.key)")
            spread(f"key to next candidate painted, {keys} keys", np.array(seen), BARS.get(len(truth)))
            acks = np.array(page.evaluate("window.__actsort.acks.map(a => [a.sent, a.acked])"))[:keys]
            painted = np.array(page.evaluate("window.__actsort.latencies.map(l => l.painted)"))[:keys]
            spread("until the label is on disk, after that", np.maximum(acks[:, 1] - painted, 0), DURABLE)
            spread("label sent to answer that it is on disk", acks[:, 1] - acks[:, 0])
            before = int(page.evaluate("document.body.dataset.labels"))
            for _ in range(BURST):
                page.keyboard.press("y")
            page.wait_for_function("window.__actsort.app.pending === 0", timeout=120_000)
            page.wait_for_timeout(500)
            labels = int(page.evaluate("document.body.dataset.labels")) - before
            print(f"  a burst of {BURST} keys: {labels} labels   bar: {BURST}: {'met' if labels == BURST else 'MISSED'}", flush=True)
            browser.close()
        spread("without a page: one candidate over HTTP", plain_loop(address, 200))
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, nargs="+", default=[10_000, 50_000])
    parser.add_argument("--keys", type=int, default=200)
    parser.add_argument("--window", nargs="+", default=["1280x720", "1920x1080"], help="sizes in pixels")
    parser.add_argument("--no-movie", action="store_true", help="without clips")
    parser.add_argument("--folder", type=Path, help="keep simulated results and features here for the next time")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        for cells in options.cells:
            result, truth = make(folder, cells, not options.no_movie)
            for window in options.window:
                print(f"{cells:,} candidates{'' if options.no_movie else ', with clips'}, window of {window}", flush=True)
                width, _, height = window.partition("x")
                measure(result, truth, options.keys, folder, (int(width), int(height)))


if __name__ == "__main__":
    main()
