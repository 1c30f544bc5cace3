"""Suite2p's real main window, offscreen: ``python gui.py PLANE STEPS`` opens a plane and does what STEPS (JSON) says.

It prints a line of JSON for the opening and for each step:

``["flip", roi]``             number into the ROI box, Enter, the Up key
``["enter", 0.5]``            Enter in the probability box
``["classifier", file]``      Classifier > Load > from file
``["plugin", words]``         the menu entry whose text holds these words; questions are answered Yes
``["answers", [n, truth]]``   press Cell or Not a cell in the window that asks, n times, as the list says for the ROI shown; then Done
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import numpy as np
from qtpy import QtCore, QtGui, QtWidgets
from qtpy.QtTest import QTest

errors: list[str] = []
shown: list[list[str]] = []
answer = ""


def failed(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """PyQt ends the program where a slot raises, unless there is a hook."""
    errors.append(f"{kind.__name__}: {error}")
    traceback.print_exception(kind, error, trace, file=sys.stderr)


def box(*words: Any, **_: Any) -> Any:
    """In place of every message box: note what it says, and say yes."""
    shown.append([word for word in words if isinstance(word, str)])
    return QtWidgets.QMessageBox.Yes


sys.excepthook = failed
QtWidgets.QFileDialog.getOpenFileName = staticmethod(lambda *_, **__: (answer, ""))
for name in ("question", "warning", "information", "critical"):
    setattr(QtWidgets.QMessageBox, name, staticmethod(box))
QtWidgets.QMessageBox.exec = QtWidgets.QMessageBox.exec_ = lambda self: box(self.text(), self.informativeText())

app = QtWidgets.QApplication(sys.argv[:1])
from suite2p.gui import gui2p  # noqa: E402

window = gui2p.MainWindow()
window.show()
plane = Path(sys.argv[1])


def act(text: str) -> None:
    """Choose the menu entry whose text holds these words."""
    entries = [a for a in window.findChildren(QtGui.QAction) if text.lower() in a.text().replace("&", "").lower()]
    assert entries, f"no menu entry {text!r}"
    entries[0].trigger()


def press(dialog: Any, text: str) -> None:
    """Click a button of a dialog."""
    (button,) = [b for b in dialog.findChildren(QtWidgets.QPushButton) if b.text().replace("&", "").startswith(text)]
    QTest.mouseClick(button, QtCore.Qt.LeftButton)
    app.processEvents()


def do(step: list[Any]) -> None:
    """One step."""
    global answer
    kind, value = step
    if kind == "open":
        answer = str(plane / "stat.npy")
        act("Load processed data")
    elif kind == "flip":
        window.ROIedit.setText(str(value))
        QTest.keyClick(window.ROIedit, QtCore.Qt.Key_Return)
        QTest.keyClick(window, QtCore.Qt.Key_Up)
    elif kind == "enter":
        window.probedit.setText(str(value))
        QTest.keyClick(window.probedit, QtCore.Qt.Key_Return)
    elif kind == "classifier":
        answer = value
        window.loadClass.trigger()
    elif kind == "plugin":
        act(value)
    elif kind == "answers":
        number, truth = value
        (asking,) = [w for w in app.topLevelWidgets() if isinstance(w, QtWidgets.QDialog) and w.isVisible()]
        for _ in range(number):
            press(asking, "Cell" if truth[window.ichosen] else "Not a cell")
        press(asking, "Done")
    else:
        raise ValueError(kind)


def state() -> dict[str, Any]:
    """What the window holds, and what the file does."""
    table = np.load(plane / "iscell.npy") if (plane / "iscell.npy").exists() else None
    loaded = bool(window.loaded)
    return {
        "loaded": loaded,
        "iscell": [int(x) for x in window.iscell] if loaded else [],
        "probability": [float(x) for x in window.probcell] if loaded else [],
        "file": None if table is None else table.tolist(),
        "plugins": sorted(str(plugin.name) for plugin in window.plugins.values()),
        "shown": list(shown),
        "errors": list(errors),
    }


for step in [["open", ""], *json.loads(sys.argv[2])]:
    errors.clear()
    shown.clear()
    try:
        do(step)
        app.processEvents()
    except Exception as error:
        failed(type(error), error, error.__traceback__)
    print("STATE " + json.dumps(state()), flush=True)
os._exit(0)  # Qt's own end crashes now and then
