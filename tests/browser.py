"""A real browser for the tests of the page: Debian's Chromium, driven by playwright, with an empty profile for each test.

Screenshots go to the folder named by ACTSORT_ARTEFACTS (default: test-artefacts/ in the working folder). ACTSORT_BROWSER=required turns
a missing browser from a skipped test into a failure.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from actsort_core.simulate import simulate_movie

EVERY = "ACTSORT_ARTEFACTS" in os.environ  # screenshots in every size and theme; without it two, which is quicker
ARTEFACTS = Path(os.environ.get("ACTSORT_ARTEFACTS") or "test-artefacts")
SIZES = ((1280, 720), (1920, 1080), (3840, 2160))
THEMES = ("dark", "light")
NAMES = ("chromium", "chromium-browser", "google-chrome")
SWITCHES = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--disable-dev-shm-usage"),
    "--host-resolver-rules=MAP evil.example 127.0.0.1",  # a foreign name that points here, as DNS rebinding makes one
)
PATIENCE = 60.0  # seconds until what is waited for counts as never; machines may be busy

_FAULTS = (Path(__file__).parent / "page_faults.js").read_text(encoding="utf-8")


def find_chromium() -> str | None:
    """The browser: what ACTSORT_CHROMIUM names, or the first that is installed."""
    named = os.environ.get("ACTSORT_CHROMIUM")
    return next((found for name in ((named,) if named else NAMES) if (found := shutil.which(name))), None)


def missing(what: str) -> None:
    """Skip, or fail where a browser is required."""
    if os.environ.get("ACTSORT_BROWSER") == "required":
        pytest.fail(f"ACTSORT_BROWSER=required, but {what}")
    pytest.skip(what)


@functools.cache
def launch() -> tuple[Any, Any, Any] | str:
    """Playwright, the browser, its event loop; or what is missing. One for all tests of this process."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return 'the tests of the page need playwright: pip install "actsort[test]"'
    path = find_chromium()
    if path is None:
        return "the tests of the page need Chromium: apt-get install chromium (or name one with ACTSORT_CHROMIUM)"
    driver = sync_playwright().start()
    browser = driver.chromium.launch(executable_path=path, args=list(SWITCHES))
    loop = asyncio._get_running_loop()
    asyncio._set_running_loop(None)
    return driver, browser, loop


@contextlib.contextmanager
def running(loop: Any) -> Iterator[None]:
    """Playwright leaves its event loop set as this thread's; other tests of the process may want to run their own."""
    asyncio._set_running_loop(loop)
    try:
        yield
    finally:
        asyncio._set_running_loop(None)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """The browser, and the loop it runs in."""
    found = launch()
    if isinstance(found, str):
        missing(found)
    driver, browser, loop = found
    yield browser, loop
    with running(loop):
        browser.close()
        driver.stop()
    launch.cache_clear()


class Tab:
    """One tab that shows the page: what it said to the console, what it asked for, and how to find things on it."""

    def __init__(self, page: Any, address: str) -> None:
        self.page, self.address = page, address
        self.origin = address.partition("/?")[0]
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.anywhere = False  # it shows somebody else's page
        self.expected: tuple[str, ...] = ()  # what errors may hold: a server that was killed on purpose, say
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        page.on("response", self.answered)
        page.on("request", lambda request: self.requests.append(request.url))

    def answered(self, response: Any) -> None:
        if response.status >= 400:
            with contextlib.suppress(Exception):  # the page may be gone before its text is here
                self.errors.append(f"{response.status} {response.url.partition('?')[0]}")

    def open(self) -> Tab:
        self.page.goto(self.address)
        return self.ready()

    def ready(self) -> Tab:
        """Waits for the first candidate."""
        self.page.locator("body[data-pos]").wait_for(timeout=1e3 * PATIENCE)
        self.page.locator("#loading").wait_for(state="hidden")
        return self

    @property
    def pos(self) -> int:
        return int(self.data("pos"))

    @property
    def labels(self) -> int:
        return int(self.data("labels") or 0)

    def data(self, name: str) -> str:
        return self.page.evaluate(f"document.body.dataset.{name} ?? ''")

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def do(self, action: str) -> None:
        """Clicks the button of an action that is in sight."""
        self.page.locator(f'[data-action="{action}"]:visible').first.click()

    def text(self, where: str) -> str:
        return self.page.locator(where).first.inner_text()

    def see(self, where: str, text: str = "") -> Any:
        """Waits until it is in sight (with that text in it)."""
        found = self.page.locator(where)
        found = (found.filter(has_text=text) if text else found).first
        found.wait_for(timeout=1e3 * PATIENCE)
        return found

    def gone(self, where: str) -> None:
        self.page.locator(where).first.wait_for(state="hidden", timeout=1e3 * PATIENCE)

    def until(self, true: Callable[[], Any], why: str) -> Any:
        """Waits for something that the page or the server does."""
        return until(true, why, lambda: self.page.wait_for_timeout(15))

    def moved(self, old: int) -> int:
        """Waits for another candidate than `old`; returns it."""
        self.page.locator(f'body[data-pos]:not([data-pos="{old}"])').wait_for(timeout=1e3 * PATIENCE)
        return self.pos

    def picture(self, where: str) -> str:
        """What canvases in `where` show, to compare."""
        return self.page.evaluate("(s) => [...document.querySelectorAll(`${s} canvas`)].map((c) => c.toDataURL()).join()", where)

    def colours(self, where: str) -> int:
        """How many colours a canvas shows: 1 is an empty one."""
        return self.page.evaluate(
            """(s) => { const c = document.querySelector(`${s} canvas`);
            const d = new Uint32Array(c.getContext("2d").getImageData(0, 0, c.width, c.height).data.buffer); return new Set(d).size; }""",
            where,
        )

    def faults(self) -> list[str]:
        """What lies over something else, is cut off or outside the window."""
        return self.page.evaluate(_FAULTS)

    def frame(self) -> None:
        """Until two frames were painted."""
        self.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done))))")

    def shoot(self, name: str, check: bool = True, sizes: tuple[tuple[int, int], ...] = SIZES, themes: tuple[str, ...] = THEMES) -> None:
        """Screenshots in each size and theme; nothing may overlap in any of them.

        Without ACTSORT_ARTEFACTS a small dark and a larger light one: a window of 4K takes a second each time (test_page_access.py tries
        every view in one).
        """
        ARTEFACTS.mkdir(parents=True, exist_ok=True)
        before, found = self.page.viewport_size, {}
        for number, (width, height) in enumerate(sizes if EVERY else sizes[:2]):
            self.page.set_viewport_size({"width": width, "height": height})
            for theme in themes if EVERY else themes[number : number + 1]:
                self.page.emulate_media(color_scheme=theme)
                self.frame()
                self.page.screenshot(path=ARTEFACTS / f"{name}-{width}x{height}-{theme}.png")
            self.frame()
            if check and (faults := self.faults()):
                found[f"{width}x{height}"] = faults
        self.page.set_viewport_size(before)
        assert not found, f"{name}: {json.dumps(found, indent=1, ensure_ascii=False)}"

    def check(self) -> None:
        """It asked nobody else, and nothing went wrong in it."""
        elsewhere = [url for url in self.requests if not url.startswith((self.origin + "/", "data:", "blob:"))]
        assert self.anywhere or not elsewhere, elsewhere
        assert not [error for error in self.errors if not any(part in error for part in self.expected)], self.errors


def until(true: Callable[[], Any], why: str, wait: Callable[[], Any] = lambda: time.sleep(0.015)) -> Any:
    """Waits until something holds, and returns it."""
    end = time.monotonic() + PATIENCE
    while True:
        if found := true():
            return found
        assert time.monotonic() < end, f"never: {why}"
        wait()


@pytest.fixture
def visit(chromium: Any) -> Iterator[Callable[..., Tab]]:
    """Opens the page in a tab: ``visit(address)`` in a browser of its own, ``visit(address, beside=tab)`` beside another one."""
    browser, loop = chromium
    with running(loop):
        tabs: list[Tab] = []
        contexts: list[Any] = []

        def go(
            address: str, beside: Tab | None = None, theme: str = "dark", size: tuple[int, int] = SIZES[0], wait: bool = True, **how: Any
        ):
            if beside is None:
                contexts.append(browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=theme, **how))
                contexts[-1].set_default_timeout(1e3 * PATIENCE)
            context = beside.page.context if beside else contexts[-1]
            tab = Tab(context.new_page(), address)
            tabs.append(tab)
            if not wait:
                tab.page.goto(address)
                return tab
            return tab.open()

        try:
            yield go
            for tab in tabs:
                tab.check()
        finally:
            for context in contexts:
                with contextlib.suppress(Exception):
                    context.close()


def journal(folder: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """What a session has written down."""
    path = folder / "labels.jsonl"
    events = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [event for event in events if kind in (None, event["kind"])]


@functools.cache
def lab_plugins() -> Any:
    """The plain layouts on top of the core and the toy formats."""
    from conftest import make_plugins

    from actsort_adapters import plain

    return make_plugins(plain)


def save_plain(path: Path, made: Any, movie: Path | None = None, verdicts: bool = True) -> Path:
    """A simulated recording in the plain layout."""
    recording = getattr(made, "recording", made)
    a, named = recording.footprints, {"movie": str(movie)} if movie else {}
    if verdicts:
        named["accepted"] = recording.prior.verdict > 0
    images = {f"image_{name}": image for name, image in recording.images.items()}
    named |= {"traces": recording.traces, "fps": recording.fps} if recording.fps else {"traces": recording.traces}
    np.savez(path, pixels=a.indices, weights=a.data, starts=a.indptr, fov=recording.fov, **images, **named)
    return path


@pytest.fixture(scope="session")
def lab_folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """A result of 150 candidates with its movie, its session prepared (features, snippets); and the truth."""
    from actsort_core.opening import open as open_session

    folder = tmp_path_factory.mktemp("lab")
    made = simulate_movie(150, fov=(120, 160), n_frames=500, seed=1, path=folder / "movie.npy")
    (folder / "data").mkdir()
    save_plain(folder / "data" / "mouse.npz", made, folder / "movie.npy")
    with open_session(folder / "data" / "mouse.npz", plugins=lab_plugins(), annotator="ann") as session:
        session.prepare()
    return folder / "data", made.truth


@pytest.fixture
def lab(lab_folder: tuple[Path, np.ndarray], tmp_path: Path, opened: Callable[..., Any]) -> Callable[..., SimpleNamespace]:
    """Opens a copy of it and serves its page: ``lab(labels=30)`` is labelled with the truth to begin with; ``blind`` is the page's."""

    def make(labels: int = 0, blind: bool = False, **options: Any) -> SimpleNamespace:
        folder = tmp_path / "lab"
        shutil.copytree(lab_folder[0], folder)
        options = {"classifier": "l1_adaptive", "refit_wait": 0, "plugins": lab_plugins(), **options}
        session, truth = opened(folder / "mouse.npz", **options), lab_folder[1]
        value = lambda pos: "cell" if truth[pos] else "not_cell"  # noqa: E731
        for pos in np.random.default_rng(0).permutation(len(truth))[:labels]:
            session.label(int(pos), value(pos), seconds=2.0)
        if labels:
            session.wait()
        page = session.show(port=0, blind=blind)
        return SimpleNamespace(
            session=session, truth=truth, value=value, page=page, address=page.address, folder=session.folder, result=folder / "mouse.npz"
        )

    return make


def values(folder) -> dict[int, str]:
    """The label of each candidate, as the journal gives it: the last one that was not taken back."""
    given, out = journal(folder), {}
    undone = [e["target"] for e in given if e["kind"] == "undo"]
    for e in given:
        if e["kind"] == "redo":
            undone.remove(e["target"])
    for e in given:
        if e["kind"] == "label" and e["seq"] not in undone:
            out[e["index"]] = e["class"]
    return out


def answer(tab, keys, folder):
    """Presses keys, one for each candidate that appears; returns what was shown at each."""
    seen = []
    for key in keys:
        seen.append(tab.pos)
        tab.press(key)
        tab.moved(seen[-1])
    tab.until(lambda: tab.page.evaluate("window.__actsort.app.pending") == 0, "the server has all labels")
    return seen
