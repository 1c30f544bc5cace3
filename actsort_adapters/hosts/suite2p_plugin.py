"""Menu entries in Suite2p's GUI (Plugins), by the entry point ``suite2p.plugin``.

Suite2p makes one object of each class when its window opens, without catching errors (suite2p/gui/menus.py, ``plugins``): so nothing
is imported here before somebody chooses an entry, and nothing that fails then gets out of `trigger`, which would end the program.
"""

from __future__ import annotations

import contextlib
import importlib
import traceback
from typing import Any


def _actions(parent: Any) -> Any:
    """The module with what the entries do; None where it cannot be imported, which the status bar then says."""
    try:
        return importlib.import_module("actsort_adapters.hosts._suite2p_gui")
    except Exception as error:  # an environment that was changed since actsort was installed
        traceback.print_exc()
        with contextlib.suppress(Exception):
            parent.statusBar().showMessage(f"ActSort cannot be loaded: {error}")
        return None


class ActSort:
    """Sort the ROIs of the loaded folder again, with the labels of its session and the clicks made in the window.

    Parameters
    ----------
    parent
        Suite2p's main window.
    """

    name = "ActSort: sort again with my clicks"

    def __init__(self, parent: Any) -> None:
        self.parent = parent

    def trigger(self, *_: Any) -> None:
        """Called by the menu entry: shows the difference and writes it, if the person says yes."""
        if actions := _actions(self.parent):
            actions.sort_again(self.parent)


class ActSortAsk:
    """Ask about the ROIs that teach most, one after the other, in Suite2p's own window.

    Parameters
    ----------
    parent
        Suite2p's main window.
    """

    name = "ActSort: ask me about ROIs"

    def __init__(self, parent: Any) -> None:
        self.parent = parent
        self.dialog: Any = None

    def trigger(self, *_: Any) -> None:
        """Called by the menu entry: a small window with the answers opens, while Suite2p's shows the ROI and its trace."""
        if actions := _actions(self.parent):
            self.dialog = actions.ask(self.parent, self.dialog)  # kept: a window that nobody holds is closed
