"""The plug-in manual: every hook, when it is called, what a return means.

Write a module with functions of these names, decorated with ``actsort_core.hookimpl``, and name it in your distribution's
entry points (group ``actsort``), or pass it to ``actsort_core.open(..., plugins=[module])``. Take only the arguments you need.
Hooks are called once per array, never per candidate. Hooks grow by new arguments; none is renamed or reordered.
Wrappers (``hookimpl(wrapper=True)``) are refused: each plug-in is called alone, so that one that fails cannot silence the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    import click

    from actsort_core.exporters import Exporter
    from actsort_core.features import FeatureGroup
    from actsort_core.formats import Format
    from actsort_core.learn import ClassifierSpec
    from actsort_core.model import Curation, Label, Predictions
    from actsort_core.session import Session
    from actsort_core.strategies import Strategy

NAME = "actsort"
hookspec = pluggy.HookspecMarker(NAME)
hookimpl = pluggy.HookimplMarker(NAME)


# Register: called once, when the plug-ins are loaded. Return a sequence; a name that is taken is an error naming both owners.


@hookspec
def actsort_register_formats() -> Sequence[Format]:
    """Formats to read native results with (contract: ``actsort_core.formats.Format``)."""


@hookspec
def actsort_register_features() -> Sequence[FeatureGroup]:
    """Groups of features (contract: ``actsort_core.features.FeatureGroup``)."""


@hookspec
def actsort_register_classifiers() -> Sequence[ClassifierSpec]:
    """Classifiers by name (contract: ``actsort_core.learn.ClassifierSpec``)."""


@hookspec
def actsort_register_strategies() -> Sequence[Strategy]:
    """Query strategies (contract: ``actsort_core.strategies.Strategy``)."""


@hookspec
def actsort_register_exporters() -> Sequence[Exporter]:
    """Other ways to save decisions, for ``actsort export`` (contract: ``actsort_core.exporters.Exporter``)."""


@hookspec
def actsort_register_commands() -> Sequence[click.Command]:
    """Commands to add to ``actsort``."""


# Decide: asked in turn, the first answer that is not None counts.


@hookspec(firstresult=True)
def actsort_should_stop(session: Session) -> str | None:
    """Before each question of a loop: a sentence saying why enough has been asked ends the loop; None goes on."""


# Notify: a return is ignored, an exception becomes a PluginWarning.


@hookspec
def actsort_session_opened(session: Session) -> None:
    """A session was opened or resumed; its journal has been replayed."""


@hookspec
def actsort_labels_changed(session: Session, labels: Sequence[Label]) -> None:
    """Labels were given, undone or redone. They are on disk already. `labels` are the ones now in force for the candidates touched."""


@hookspec
def actsort_model_fitted(session: Session, predictions: Predictions) -> None:
    """A fit finished and its predictions are in use. May be called from the fitting thread."""


@hookspec
def actsort_decisions_written(session: Session, curations: Sequence[Curation], paths: Sequence[Path]) -> None:
    """Decisions were written to native files, read again and found equal."""
