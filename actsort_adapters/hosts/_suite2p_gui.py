"""What the menu entries in Suite2p's window do. Qt and Suite2p's own modules are imported when an entry is chosen, never before."""

from __future__ import annotations

import contextlib
import importlib
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from actsort_adapters.hosts import _suite2p_window as window
from actsort_adapters.suite2p import OPEN_GUI
from actsort_core import plugins
from actsort_core.errors import ActsortError, LockedError, UsageError
from actsort_core.model import CELL, NOT_CELL, UNSURE
from actsort_core.session import Session

TITLE = "ActSort"
_BINDINGS = ("qtpy", "PyQt6", "PySide6", "PyQt5", "PySide2")  # Suite2p imports through qtpy since 0.12, before that PyQt itself
_LISTED = 30  # lines of a difference that a message box can hold


def _qt(module: str) -> Any:
    """A module of the Qt binding that is loaded already: two in one process crash."""
    name = next((name for name in _BINDINGS if name in sys.modules), _BINDINGS[0])
    return importlib.import_module(f"{name}.{module}")


def say(parent: Any, text: str, warning: bool = False) -> None:
    """A message with one button."""
    box = _qt("QtWidgets").QMessageBox
    (box.warning if warning else box.information)(parent, TITLE, text)


def agreed(parent: Any, text: str, likely: bool = True) -> bool:
    """Whether the person says yes; the button that Enter presses is Yes where that is likely."""
    box = _qt("QtWidgets").QMessageBox
    yes, no = box.StandardButton.Yes, box.StandardButton.No
    return bool(box.question(parent, TITLE, text, yes | no, yes if likely else no) == yes)


@contextlib.contextmanager
def _guarded(parent: Any) -> Iterator[None]:
    """Whatever fails is told; nothing may leave a slot, because PyQt then ends the program."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, ActsortError):
            traceback.print_exc()
        say(parent, window.sentence(error), warning=True)


@contextlib.contextmanager
def _busy() -> Iterator[None]:
    """An hourglass: features of thousands of ROIs take seconds."""
    application = _qt("QtWidgets").QApplication
    application.setOverrideCursor(_qt("QtCore").Qt.CursorShape.WaitCursor)
    try:
        yield
    finally:
        application.restoreOverrideCursor()


@contextlib.contextmanager
def _progress(parent: Any) -> Iterator[Callable[[str, int, int], None]]:
    """A bar with a button to stop, after two seconds: a movie takes minutes. What was read of it is kept for the next time."""
    dialog = _qt("QtWidgets").QProgressDialog(parent)
    dialog.setWindowTitle(TITLE)
    dialog.setWindowModality(_qt("QtCore").Qt.WindowModality.WindowModal)  # no click in Suite2p's window meanwhile
    dialog.setMinimumDuration(2000)
    dialog.setAutoReset(False)

    def tell(name: str, done: int, total: int) -> None:
        if dialog.wasCanceled():
            raise UsageError("Stopped.", "Nothing was written. Choose the entry again to go on.")
        dialog.setLabelText(f"{name}...")
        dialog.setRange(0, max(int(total), 1))
        dialog.setValue(int(done))

    try:
        yield tell
    finally:
        dialog.close()
        dialog.deleteLater()


def _opened(parent: Any) -> tuple[window.View, Session, tuple[str, ...], tuple[int, int]]:
    """The session of what is loaded, with the clicks of the window as labels."""
    with _busy(), _progress(parent) as tell:
        view = window.view_of(parent)
        try:
            session = window.open_session(view, plugins.load(), tell)
        except LockedError as error:
            hint = "Press Done in ActSort's questions, or close the other program; then choose this again."
            raise LockedError(f"The session of {view.path} is open already, in this window or elsewhere.", hint) from error
        try:
            keys = window.keys_of(view, session, parent)
            new = window.take_clicks(view, session, keys)
            session.wait()
        except BaseException:
            session.discard()
            raise
    return view, session, keys, new


# Sort again


def sort_again(parent: Any) -> None:
    """The entry "sort again with my clicks"."""
    with _guarded(parent):
        view, session, _, new = _opened(parent)
        with session:
            if session.predictions().known:
                _offer(parent, view, session, new)
                return
            text = window.missing(session, *new)
            session.discard()
        hint = "Flip ROIs that are wrong (right click) and choose this again, or choose 'ActSort: ask me about ROIs' in this menu."
        say(parent, f"{text}\n\n{hint}")


def _offer(parent: Any, view: window.View, session: Session, new: tuple[int, int]) -> None:
    """Show the difference; write it, and what the window shows, if the person agrees."""
    with _busy():
        report = session.write(dry_run=True)
    clicked = f", {sum(new)} of them clicked since ({new[0]} cells, {new[1]} not)" if sum(new) else ""
    told = [f"{len(session.labels())} labels{clicked}.", ""]
    corrections = window.mostly_corrections(session)
    if corrections:
        told += [corrections, ""]
    lines = "\n".join(str(difference) for difference in report.differences).splitlines()
    told += [*lines[:_LISTED], *([f"... and {len(lines) - _LISTED} lines more"] if len(lines) > _LISTED else []), ""]
    # What was clicked here is not lost by being replaced: it became labels.
    notes = [note for note in report.notes if note != OPEN_GUI and not note.startswith(str(view.verdicts))]
    told += [f"Note: {note}" for note in (*session.reattached, *notes)]
    told += [f"Out of date then: {path}: {remedy}" for path, remedy in report.stale]
    question = f"Write this? What the files hold now is kept; to put it back: actsort restore {session.folder}"
    if not agreed(parent, "\n".join([*told, "", question]), not corrections):
        say(parent, f"Nothing was written. Your labels are kept in {session.folder}.")
        return
    with _busy():
        session.write()
        redraw(parent, *window.written(view))


def redraw(parent: Any, iscell: Any, probability: Any) -> None:
    """Make Suite2p's window show other verdicts, as pressing Enter in its probability box does (suite2p/gui/merge.py, ``apply``).

    Otherwise its next click would write the old ones.

    Parameters
    ----------
    parent
        The window.
    iscell, probability
        ``(n,)`` bool and float64, in its order.
    """
    gui = type(parent).__module__.rpartition(".")[0]
    parent.iscell, parent.probcell = iscell, probability
    parent.lcell0.setText(str(int(iscell.sum())))
    parent.lcell1.setText(str(int((~iscell).sum())))
    importlib.import_module(f"{gui}.masks").init_masks(parent)
    with contextlib.suppress(Exception):  # the colours of one of its views
        importlib.import_module(f"{gui}.classgui").class_masks(parent)
    parent.update_plot()


# Ask


def ask(parent: Any, former: Any) -> Any:
    """The entry "ask me about ROIs"; returns its window, None where it could not be opened."""
    with contextlib.suppress(Exception):  # a window of Qt that is gone raises
        if former is not None and former.isVisible():
            former.raise_()
            return former
    with _guarded(parent):
        view, session, keys, _ = _opened(parent)
        try:
            return _Questions(parent, view, session, keys).dialog
        except BaseException:
            session.close()
            raise
    return None


class _Questions:
    """A small window beside Suite2p's: the ROI asked about is chosen there, the answers are buttons (and keys) here.

    Parameters
    ----------
    parent
        Suite2p's window.
    view, session, keys
        What it shows.
    """

    def __init__(self, parent: Any, view: window.View, session: Session, keys: tuple[str, ...]) -> None:
        widgets = _qt("QtWidgets")
        self.parent, self.view, self.session, self.keys = parent, view, session, keys
        self.start = dict(zip(keys, self._starts(), strict=True))
        self.candidate: Any = None
        self.dialog = widgets.QDialog(parent)
        self.dialog.setWindowTitle(f"{TITLE}: is this a cell?")
        self.text = widgets.QLabel()
        layout = widgets.QVBoxLayout(self.dialog)
        layout.addWidget(self.text)
        row = widgets.QHBoxLayout()
        answers: list[tuple[str, str, Callable[[], None]]] = [
            ("&Cell", "C", lambda: self._answer(CELL)),
            ("&Not a cell", "N", lambda: self._answer(NOT_CELL)),
            ("&Unsure", "U", lambda: self._answer(UNSURE)),
            ("&Back", "Backspace", self._back),
            ("&Done", "Return", self.dialog.accept),
        ]
        self.buttons = {}
        for label, key, action in answers:
            button = widgets.QPushButton(f"{label} ({key})")
            button.setShortcut(key)
            button.setAutoDefault(False)
            button.clicked.connect(lambda *_, act=action: self._do(act))
            self.buttons[key] = button
            row.addWidget(button)
        layout.addLayout(row)
        self.dialog.questions = self  # lives as long as its window
        self.dialog.finished.connect(self._finish)
        self._next()
        if self.candidate is not None:
            self.dialog.show()

    def _starts(self) -> list[int]:
        out, start = [], 0
        for key in self.keys:
            out.append(start)
            start += self.session.recordings[key].n_cells
        return out

    def _do(self, action: Callable[[], None]) -> None:
        with _guarded(self.parent):
            action()

    def _answer(self, value: str) -> None:
        self.session.label(self.candidate, value)
        self._next()

    def _back(self) -> None:
        self.session.undo()
        self._next()

    def _next(self) -> None:
        """Show the next ROI that the window has."""
        candidate = self.session.ask()
        for _ in self.session.candidates:
            if candidate is None or candidate.recording in self.keys:
                break
            candidate = self.session.skip()
        self.candidate = candidate if candidate is not None and candidate.recording in self.keys else None
        if self.candidate is None:
            self.dialog.accept()
            return
        row = self.start[self.candidate.recording] + self.candidate.index
        labels = self.session.labels()
        self.text.setText(f"ROI {row}: is it a cell? ({len(labels)} labels so far)")
        self.parent.ROIedit.setText(str(row))
        self.parent.number_chosen()

    def _finish(self, *_: Any) -> None:
        with _guarded(self.parent), self.session:
            self.session.wait()
            if self.session.predictions().known:
                _offer(self.parent, self.view, self.session, (0, 0))
            else:
                say(self.parent, f"{window.missing(self.session, 0, 0)} Labels that you gave are kept.")
                self.session.discard()
