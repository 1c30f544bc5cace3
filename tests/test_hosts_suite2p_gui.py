"""The menu entries of Suite2p's window: a window and a Qt of stand-ins, which behave as the real ones did (tests_hosts/ has these)."""

from __future__ import annotations

import hashlib
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import actsort_core as actsort
from actsort_adapters.hosts import _suite2p_window as window_module
from actsort_adapters.hosts.suite2p_plugin import ActSort, ActSortAsk
from actsort_core import plugins
from actsort_core.model import Prior

DATA = Path(__file__).parent / "data" / "suite2p"


class Signal:
    def __init__(self) -> None:
        self.slots: list[Any] = []

    def connect(self, slot: Any) -> None:
        self.slots.append(slot)

    def emit(self, *args: Any) -> None:
        for slot in self.slots:
            slot(*args)


class Widget:
    """Whatever Qt can do to the little window of questions, and to a progress bar."""

    canceled = False

    def __init__(self, *args: Any) -> None:
        self.text, self.visible = str(args[0]) if args and isinstance(args[0], str) else "", False
        self.clicked, self.finished = Signal(), Signal()

    def setText(self, text: str) -> None:
        self.text = text

    def show(self) -> None:
        self.visible = True

    def isVisible(self) -> bool:
        return self.visible

    def accept(self) -> None:
        self.visible = False
        self.finished.emit(1)

    def __getattr__(self, name: str) -> Any:
        if name == "wasCanceled":
            return lambda: Widget.canceled
        if name.startswith(("set", "add", "raise_", "close", "deleteLater")):
            return lambda *_: None
        raise AttributeError(name)


class Window:
    """Suite2p's main window with a plane, or with all planes side by side; it saves at each click (suite2p/gui/masks.py, flip_plot)."""

    def __init__(self) -> None:
        self.loaded, self.basename = False, None
        self.lcell0, self.lcell1, self.ROIedit = Widget(), Widget(), Widget()
        self.drawn = 0
        self.ichosen = 0

    def load(self, *planes: Path, combined: bool = False) -> Window:
        self.planes = planes
        self.basename = str(planes[0].parent / "combined" if combined else planes[0])
        table = np.concatenate([np.load(plane / "iscell.npy") for plane in planes])
        self.stat = np.concatenate([np.load(plane / "stat.npy", allow_pickle=True) for plane in planes])
        self.Fcell = np.concatenate([np.load(plane / "F.npy") for plane in planes])
        self.iscell, self.probcell, self.loaded = table[:, 0].astype(bool), table[:, 1].copy(), True
        if combined:
            Path(self.basename).mkdir(exist_ok=True)
            np.save(f"{self.basename}/iscell.npy", table)
        return self

    def flip(self, *rois: int) -> None:
        for roi in rois:
            self.iscell[roi] = ~self.iscell[roi]
            np.save(f"{self.basename}/iscell.npy", np.stack([self.iscell, self.probcell], 1))

    def number_chosen(self) -> None:
        self.ichosen = int(self.ROIedit.text)

    def update_plot(self) -> None:
        self.drawn += 1


@pytest.fixture
def qt(monkeypatch):
    """A Qt that writes down what is said, and answers questions as `answer` says."""
    said: list[tuple[str, str]] = []
    record = types.SimpleNamespace(said=said, answer="Yes", busy=0)

    class Box:
        StandardButton = types.SimpleNamespace(Yes="Yes", No="No")
        Yes, No = "Yes", "No"

        @staticmethod
        def question(parent: Any, title: str, text: str, buttons: Any, default: Any) -> str:
            said.append(("question", text))
            record.default = default
            return record.answer

        @staticmethod
        def information(parent: Any, title: str, text: str) -> None:
            said.append(("information", text))

        @staticmethod
        def warning(parent: Any, title: str, text: str) -> None:
            said.append(("warning", text))

    class Application:
        @staticmethod
        def setOverrideCursor(shape: Any) -> None:
            record.busy += 1

        @staticmethod
        def restoreOverrideCursor() -> None:
            record.busy -= 1

    Box.StandardButton = type("Flag", (), {"Yes": Flag("Yes"), "No": Flag("No")})
    widgets = types.ModuleType("qtpy.QtWidgets")
    widgets.QMessageBox, widgets.QApplication = Box, Application
    for name in ("QDialog", "QLabel", "QVBoxLayout", "QHBoxLayout", "QPushButton", "QProgressDialog"):
        setattr(widgets, name, Widget)
    core = types.ModuleType("qtpy.QtCore")
    core.Qt = types.SimpleNamespace(
        CursorShape=types.SimpleNamespace(WaitCursor="wait"), WindowModality=types.SimpleNamespace(WindowModal=1)
    )
    for name, module in (("qtpy", types.ModuleType("qtpy")), ("qtpy.QtWidgets", widgets), ("qtpy.QtCore", core)):
        monkeypatch.setitem(sys.modules, name, module)
    gui = {name: types.ModuleType(name) for name in ("fakegui", "fakegui.gui2p", "fakegui.masks", "fakegui.classgui")}
    gui["fakegui.masks"].init_masks = lambda parent: None
    gui["fakegui.classgui"].class_masks = lambda parent: None
    for name, module in gui.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(Window, "__module__", "fakegui.gui2p")
    return record


class Flag(str):
    def __or__(self, other: str) -> str:
        return f"{self}|{other}"


@pytest.fixture(scope="module")
def registered() -> plugins.Plugins:
    return plugins.load()


@pytest.fixture
def folder(tmp_path):
    def copy(name: str = "s2p_110/mini") -> Path:
        return Path(shutil.copytree(DATA / name, tmp_path / "copy")) / "suite2p"

    return copy


def tree(folder: Path) -> dict[str, str]:
    files = (p for p in folder.rglob("*") if p.is_file() and "actsort" not in p.parts)
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def iscell(plane: Path) -> np.ndarray:
    return np.load(plane / "iscell.npy")


def six(window: Window) -> list[int]:
    """Three cells and three others."""
    return [*np.flatnonzero(window.iscell)[:3].tolist(), *np.flatnonzero(~window.iscell)[:3].tolist()]


def test_nothing_loaded_and_no_labels_yet(qt, folder):
    window = Window()
    ActSort(window).trigger(False)
    assert qt.said == [("warning", "Nothing is loaded. Load a folder first: File > Load processed data. Then choose this entry again.")]
    plane = folder() / "plane0"
    before = tree(plane)
    ActSort(window.load(plane)).trigger(False)
    kind, text = qt.said[-1]
    assert kind == "information"
    assert text.startswith("ActSort has no labels here yet.")
    assert "ask me about ROIs" in text
    assert tree(plane) == before
    assert not (plane / "actsort").exists()  # nothing is left of a session that was not needed
    assert qt.busy == 0


@pytest.mark.parametrize("name", ["s2p_110/mini", "s2p_0146/mini"])
def test_clicks_become_labels_and_are_written(qt, folder, name):
    plane = folder(name) / "plane0"
    window = Window().load(plane)
    clicked = six(window)
    window.flip(*clicked)
    shown, before, p = window.iscell.copy(), tree(plane), window.probcell.copy()
    ActSort(window).trigger(False)
    (kind, text), *more = qt.said
    assert (kind, more) == ("question", [])
    assert "6 labels, 6 of them clicked since (3 cells, 3 not)." in text
    assert "Careful: 6 of these labels are corrections" in text
    assert qt.default == "No"
    table, after = iscell(plane), tree(plane)
    assert {name for name in before if before[name] != after.get(name)} == {"iscell.npy"}
    assert set(after) == set(before)
    assert np.array_equal(table[clicked, 0] > 0, shown[clicked])  # people win
    assert np.array_equal(table[clicked, 0], table[clicked, 1])
    # the window shows what was written: its next click changes one row and nothing else
    assert np.array_equal(window.iscell, table[:, 0] > 0)
    assert np.array_equal(window.probcell, table[:, 1])
    assert not np.array_equal(window.probcell, p)
    assert window.drawn == 1
    assert (window.lcell0.text, window.lcell1.text) == (str(int(table[:, 0].sum())), str(int((table[:, 0] == 0).sum())))
    one = next(i for i in range(30) if i not in clicked)
    window.flip(one)
    assert np.flatnonzero((iscell(plane) != table).any(axis=1)).tolist() == [one]
    clicked_once_more = tree(plane)
    # that click is a label, too; nothing else is
    ActSort(window).trigger(False)
    assert f"7 labels, 1 of them clicked since ({int(window.iscell[one])} cells, {1 - int(window.iscell[one])} not)." in qt.said[-1][1]
    assert "changed after ActSort wrote it" not in qt.said[-1][1]
    assert iscell(plane)[one].tolist() == [float(window.iscell[one])] * 2
    with actsort.open(plane) as session:
        session.restore()
    assert tree(plane) == clicked_once_more  # what Suite2p wrote last


def test_refused_leaves_everything_and_keeps_the_labels(qt, folder):
    plane = folder() / "plane0"
    window = Window().load(plane)
    clicked = six(window)
    window.flip(*clicked)
    before, shown = tree(plane), window.iscell.copy()
    qt.answer = "No"
    ActSort(window).trigger(False)
    assert qt.said[-1][1].startswith("Nothing was written.")
    assert tree(plane) == before
    assert np.array_equal(window.iscell, shown)
    assert window.drawn == 0
    # clicked back since: the label follows
    window.flip(clicked[0])
    ActSort(window).trigger(False)
    with actsort.open(plane, read_only=True) as session:
        labels = {label.candidate.index: label.value for label in session.labels()}
    assert set(labels) == set(clicked)
    assert all(labels[i] == ("cell" if window.iscell[i] else "not_cell") for i in clicked)


def test_labels_of_a_session_are_used(qt, folder, registered):
    """Sorted in the terminal first; the clicks come on top, and win where they are newer."""
    plane = folder() / "plane0"
    window = Window().load(plane)
    with actsort.open(plane, plugins=registered, refit_wait=None) as session:
        for i in range(20):
            session.label(i, int(i % 2))
        session.write()
    window.load(plane)
    window.flip(5)  # the person labelled it a cell, and thinks otherwise now
    ActSort(window).trigger(False)
    assert "20 labels, 1 of them clicked since (0 cells, 1 not)." in qt.said[-1][1]
    assert "Careful" not in qt.said[-1][1]
    assert qt.default == "Yes"
    assert iscell(plane)[5].tolist() == [0, 0]
    assert iscell(plane)[:5, 0].tolist() == [0, 1, 0, 1, 0]


def test_the_combined_view(qt, folder, registered):
    above = folder("s2p_110/twoplane")
    planes = [above / "plane0", above / "plane1"]
    with actsort.open(planes[0], plugins=registered) as session:  # somebody sorted one plane alone
        session.label(0, "cell")
    window = Window().load(*planes, combined=True)
    n_cells = len(iscell(planes[0]))
    clicked = [i for i in six(window) if i] + [n_cells + 3]
    window.flip(*clicked)
    shown = window.iscell.copy()
    assert not (iscell(above / "combined")[:, 0] == np.concatenate([iscell(p)[:, 0] for p in planes])).all()
    ActSort(window).trigger(False)
    assert qt.said[-1][0] == "question"
    assert f"{len(clicked) + 1} labels, {len(clicked)} of them clicked since" in qt.said[-1][1]
    assert "combined/iscell.npy held" not in qt.said[-1][1]  # those clicks are labels now
    table = np.concatenate([iscell(plane) for plane in planes])
    assert np.array_equal(table[clicked, 0] > 0, shown[clicked])
    assert table[0].tolist() == [1, 1]
    assert np.array_equal(iscell(above / "combined"), table)
    assert np.array_equal(window.iscell, table[:, 0] > 0)
    # a plane on its own takes up the session of all of them
    window = Window().load(planes[1])
    window.flip(9)
    ActSort(window).trigger(False)
    assert f"{len(clicked) + 2} labels, 1 of them clicked since" in qt.said[-1][1]
    assert not (planes[1] / "actsort").exists()
    assert np.array_equal(iscell(above / "combined"), np.concatenate([iscell(plane) for plane in planes]))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda w, plane: setattr(w, "iscell", np.append(w.iscell, True)), "The window shows 31 ROIs, the files hold 30."),
        (lambda w, plane: setattr(w, "Fcell", w.Fcell[::-1]), "other ROIs than the files hold"),
        (lambda w, plane: np.save(plane / "iscell.npy", np.ones((30, 2))), "holds other verdicts than the window shows"),
        (lambda w, plane: (plane / "stat.npy").unlink(), "is an NWB file loaded?"),
        (lambda w, plane: (plane / "F.npy").write_bytes(b"no"), "F.npy"),
        (lambda w, plane: setattr(w, "basename", str(plane.parent / "nowhere" / "combined")), ""),
        (lambda w, plane: delattr(w, "stat"), "AttributeError"),
    ],
)
def test_what_does_not_fit_is_said(qt, folder, spoil, said):
    plane = folder() / "plane0"
    window = Window().load(plane)
    window.flip(*six(window))
    spoil(window, plane)
    before = tree(plane)
    ActSort(window).trigger(False)
    ActSortAsk(window).trigger(False)
    assert [kind for kind, _ in qt.said] == ["warning", "warning"]
    assert said in qt.said[0][1]
    assert tree(plane) == before
    assert not (plane / "actsort").exists()
    assert qt.busy == 0


def test_open_elsewhere(qt, folder, registered):
    plane = folder() / "plane0"
    window = Window().load(plane)
    with actsort.open(plane, plugins=registered):
        ActSort(window).trigger(False)
    assert qt.said[-1][0] == "warning"
    assert "is open already" in qt.said[-1][1]


def test_stopped(qt, folder, monkeypatch):
    plane = folder() / "plane0"
    window = Window().load(plane)
    window.flip(*six(window))
    before = tree(plane)
    monkeypatch.setattr(Widget, "canceled", True)
    ActSort(window).trigger(False)
    assert qt.said == [("warning", "Stopped. Nothing was written. Choose the entry again to go on.")]
    assert tree(plane) == before
    assert qt.busy == 0
    monkeypatch.setattr(Widget, "canceled", False)
    ActSort(window).trigger(False)
    assert qt.said[-1][0] == "question"


def test_questions_in_the_window(qt, folder):
    plane = folder() / "plane0"
    window, truth = Window().load(plane), iscell(plane)[:, 0] > 0
    entry = ActSortAsk(window)
    entry.trigger(False)
    dialog = entry.dialog
    asked = []
    for _ in range(16):
        asked.append(window.ichosen)
        dialog.questions.buttons["C" if truth[window.ichosen] else "N"].clicked.emit(False)
    assert len(set(asked)) == 16
    dialog.questions.buttons["Backspace"].clicked.emit(False)
    assert window.ichosen == asked[-1]
    dialog.questions.buttons["U"].clicked.emit(False)
    entry.trigger(False)
    assert entry.dialog is dialog  # not a second one, over the same session
    ActSort(window).trigger(False)
    assert "Press Done in ActSort's questions" in qt.said[-1][1]
    dialog.questions.buttons["Return"].clicked.emit(False)
    assert qt.said[-1][0] == "question"
    assert qt.said[-1][1].startswith("16 labels.")
    table = iscell(plane)
    assert np.array_equal(table[asked[:-1], 0] > 0, truth[asked[:-1]])
    assert np.array_equal(window.iscell, table[:, 0] > 0)
    with actsort.open(plane) as session:  # it is closed
        assert len(session.labels()) == 16


def test_questions_about_what_the_window_shows_only(qt, folder, registered):
    above = folder("s2p_110/twoplane")
    with actsort.open(above, plugins=registered) as session:
        session.label(("plane0", 0), "cell")
    window = Window().load(above / "plane1")
    entry = ActSortAsk(window)
    entry.trigger(False)
    for _ in range(43):
        assert entry.dialog.questions.candidate.recording == "plane1"
        entry.dialog.questions.buttons["C" if window.ichosen % 2 else "N"].clicked.emit(False)
    assert not entry.dialog.isVisible()  # all are answered
    assert qt.said[-1][0] == "question"
    assert iscell(above / "plane1")[:4, 0].tolist() == [0, 1, 0, 1]


def test_done_too_early(qt, folder):
    plane = folder() / "plane0"
    entry = ActSortAsk(Window().load(plane))
    entry.trigger(False)
    entry.dialog.questions.buttons["C"].clicked.emit(False)
    entry.dialog.questions.buttons["Return"].clicked.emit(False)
    assert qt.said[-1][0] == "information"
    assert "cells 1, others 0" in qt.said[-1][1]
    with actsort.open(plane) as session:
        assert len(session.labels()) == 1


def test_an_environment_that_broke(qt, folder, monkeypatch):
    """PyQt ends the program over an exception in a slot."""
    monkeypatch.setitem(sys.modules, "actsort_adapters.hosts._suite2p_gui", None)
    window = Window().load(folder() / "plane0")
    shown = []
    window.statusBar = lambda: types.SimpleNamespace(showMessage=shown.append)
    ActSort(window).trigger(False)
    ActSortAsk(window).trigger(False)
    assert len(shown) == 2
    assert shown[0].startswith("ActSort cannot be loaded")


# Clicks


def test_enter_with_another_threshold_is_no_click():
    p = np.linspace(0.01, 0.99, 40)
    first = prior(np.where(p > 0.5, 1, -1).tolist(), p.tolist())
    for threshold in (0.1, 0.8):
        now = prior(np.where(p > threshold, 1, -1).tolist(), p.tolist())
        assert not window_module.find_clicks(now, first, None)[1].any()
        assert not window_module.find_clicks(now, first, first.verdict)[1].any()
        now.verdict[[0, 39]] *= -1  # and then clicks that no threshold explains
        assert window_module.find_clicks(now, first, None)[1][[0, 39]].all()


def prior(verdict: list[int], p: list[float]) -> Prior:
    return Prior(np.array(verdict, np.int8), np.array(p, np.float64))


@pytest.mark.parametrize(
    ("now", "first", "wrote", "said", "newer"),
    [
        # flipped since the session began; and since ActSort wrote
        (([1, -1, -1], [0.9, 0.2, 0.7]), ([1, -1, 1], [0.9, 0.2, 0.7]), None, [0, 0, -1], [0, 0, 1]),
        (([1, -1, -1], [0.9, 0.2, 1.0]), ([-1, -1, -1], [0.1, 0.2, 0.3]), [1, -1, 1], [0, 0, -1], [0, 0, 1]),
        # flipped before there was a session: it contradicts its probability
        (([1, -1, -1], [0.9, 0.2, 0.7]), ([1, -1, -1], [0.9, 0.2, 0.7]), None, [0, 0, -1], [0, 0, 0]),
        # flipped back since
        (([1, -1, 1], [0.9, 0.2, 0.7]), ([1, -1, -1], [0.9, 0.2, 0.7]), None, [0, 0, 1], [0, 0, 1]),
        # another classifier loaded, one click, no Enter
        (([1, -1, -1, 1], [0.1, 0.8, 0.2, 0.3]), ([1, -1, 1, 1], [0.9, 0.2, 0.7, 0.8]), None, [0, 0, -1, 0], [0, 0, 1, 0]),
        # another classifier loaded, Enter, one click
        (([-1, 1, 1, 1], [0.1, 0.8, 0.2, 0.9]), ([1, -1, -1, -1], [0.9, 0.2, 0.3, 0.3]), None, [0, 0, 1, 0], [0, 0, 1, 0]),
        # another threshold and Enter is no click
        (([1, -1, -1, -1], [0.9, 0.2, 0.6, 0.7]), ([1, -1, -1, -1], [0.9, 0.2, 0.6, 0.7]), None, [0, 0, 0, 0], [0, 0, 0, 0]),
    ],
)
def test_what_is_a_click(now, first, wrote, said, newer):
    found, new = window_module.find_clicks(prior(*now), prior(*first), None if wrote is None else np.array(wrote, np.int8))
    assert found.tolist() == said
    assert new.astype(int).tolist() == newer
