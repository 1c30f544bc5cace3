"""Loading plug-ins and calling their hooks. One failing plug-in never silences the others."""

from __future__ import annotations

import difflib
import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

import pluggy

from actsort_core import builtin, hookspecs
from actsort_core.errors import PluginError, PluginWarning
from actsort_core.hookspecs import NAME
from actsort_core.registry import Registry

if TYPE_CHECKING:
    import click

    from actsort_core.exporters import Exporter
    from actsort_core.features import FeatureGroup
    from actsort_core.formats import Format
    from actsort_core.learn import ClassifierSpec
    from actsort_core.strategies import Strategy

DISABLE = "ACTSORT_DISABLE_PLUGINS"  # environment variable: names of entry points not to load, separated by commas


def build_manager(plugins: Iterable[object] = (), discover: bool = True) -> pluggy.PluginManager:
    """A plug-in manager with the built-in plug-ins, the installed ones and `plugins`.

    Parameters
    ----------
    plugins
        Modules or objects with hook implementations, besides the installed ones.
    discover
        Whether to load what distributions install under the entry-point group ``actsort``.

    Raises
    ------
    PluginError
        A plug-in implements a hook that does not exist (misspelt), takes arguments the hook does not have, or is a wrapper.

    Warns
    -----
    PluginWarning
        An installed plug-in could not be imported; it is left out.
    """
    manager = pluggy.PluginManager(NAME)
    manager.add_hookspecs(hookspecs)
    _register(manager, builtin, "actsort")
    blocked = {name.strip() for name in os.environ.get(DISABLE, "").split(",")}
    found = sorted(entry_points(group=NAME), key=lambda e: (e.name, e.value)) if discover else []
    for entry in found:
        if entry.name in blocked:
            continue
        try:
            module = entry.load()
        except Exception as error:
            source = entry.dist.name if entry.dist else entry.value
            warnings.warn(
                f"Plug-in {entry.name!r} of {source} could not be loaded ({type(error).__name__}: {error}); going on without it.",
                PluginWarning,
                stacklevel=2,
            )
            continue
        _register(manager, module, entry.name)
    for plugin in plugins:
        _register(manager, plugin, getattr(plugin, "__name__", type(plugin).__name__))
    return manager


def _register(manager: pluggy.PluginManager, plugin: object, name: str) -> None:
    if manager.is_registered(plugin):
        return
    if manager.has_plugin(name):
        name = f"{name}-{len(manager.get_plugins())}"
    try:
        manager.register(plugin, name)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise PluginError(
            f"Plug-in {name!r} does not fit: {error}.", _misspelt(plugin) + f"To go without it set {DISABLE}={name}."
        ) from error
    callers = manager.get_hookcallers(plugin)
    if not callers:
        raise PluginError(
            f"Plug-in {name!r} implements no hook.", "Decorate its functions with actsort_core.hookimpl. " + _misspelt(plugin)
        )
    for caller in callers:
        for impl in caller.get_hookimpls():
            if impl.plugin is plugin and (impl.hookwrapper or getattr(impl, "wrapper", False)):
                raise PluginError(f"Plug-in {name!r} wraps {caller.name}, which is not supported.", "Implement the hook itself.")


def _misspelt(plugin: object) -> str:
    known = [name for name in vars(hookspecs) if name.startswith(NAME + "_")]
    for name in dir(plugin):
        if name.startswith(NAME + "_") and name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            if near:
                return f"Did you mean {near[0]}? "
    return ""


def call_each(manager: pluggy.PluginManager, hook: str, **arguments: Any) -> list[tuple[str, Any]]:
    """Call every implementation of `hook` by itself; one that fails becomes a `PluginWarning`.

    In the order they were registered, built-in ones first; those marked ``tryfirst`` before and ``trylast`` after all others.

    Returns
    -------
    (plug-in name, what it returned) for those that did not fail and did not return None.
    """
    results = []
    for impl in sorted(getattr(manager.hook, hook).get_hookimpls(), key=lambda impl: impl.trylast - impl.tryfirst):
        try:
            result = impl.function(*(arguments[name] for name in impl.argnames))
        except Exception as error:
            _warn(impl.plugin_name, hook, error)
            continue
        if result is not None:
            results.append((impl.plugin_name, result))
    return results


def _warn(plugin: str, hook: str, error: Exception) -> None:
    message = f"Plug-in {plugin!r} failed in {hook} ({type(error).__name__}: {error}); going on without it."
    warnings.warn(message, PluginWarning, stacklevel=3)


def _named(objects: Iterable[Any]) -> list[tuple[str, Any]]:
    """What a plug-in registers, with names; refuses it as a whole when it is no sequence of named objects."""
    out = [(obj.name, obj) for obj in objects]
    nameless = [obj for name, obj in out if not isinstance(name, str) or not name]
    if nameless:
        raise TypeError(f"{nameless[0]!r} has no name")
    return out


@dataclass(frozen=True, eq=False)
class Plugins:
    """Everything that is registered, by name."""

    manager: pluggy.PluginManager
    formats: Registry[Format] = field(default_factory=lambda: Registry("format"))
    features: Registry[FeatureGroup] = field(default_factory=lambda: Registry("feature group"))
    classifiers: Registry[ClassifierSpec] = field(default_factory=lambda: Registry("classifier"))
    strategies: Registry[Strategy] = field(default_factory=lambda: Registry("strategy"))
    exporters: Registry[Exporter] = field(default_factory=lambda: Registry("exporter"))
    commands: Registry[click.Command] = field(default_factory=lambda: Registry("command"))


def load(plugins: Iterable[object] = (), discover: bool = True) -> Plugins:
    """Load plug-ins (`build_manager`) and collect what they register.

    Raises
    ------
    DuplicateNameError
        Two plug-ins register the same name.
    """
    manager = build_manager(plugins, discover)
    out = Plugins(manager)
    for kind in ("formats", "features", "classifiers", "strategies", "exporters", "commands"):
        registry: Registry[Any] = getattr(out, kind)
        hook = f"actsort_register_{kind}"
        for owner, objects in call_each(manager, hook):
            try:
                named = _named(objects)
            except Exception as error:
                _warn(owner, hook, error)
                continue
            for name, obj in named:
                registry.add(name, obj, owner)
    return out


def describe(plugins: Plugins) -> dict[str, list[dict[str, Any]]]:
    """What is installed, as ``actsort plugins --json`` prints it."""
    from actsort_core.features import table

    def rows(registry: Registry[Any]) -> list[dict[str, Any]]:
        return [
            {"name": name, "description": getattr(obj, "description", "") or "", "plugin": registry.owner(name)}
            for name, obj in registry.items()
        ]

    return {
        "formats": rows(plugins.formats),
        "features": [
            {**table.describe(feature), "group": name, "default": group.default, "plugin": plugins.features.owner(name)}
            for name, group in plugins.features.items()
            for feature in group.features
        ],
        "strategies": rows(plugins.strategies),
        "classifiers": rows(plugins.classifiers),
        "exporters": rows(plugins.exporters),
        "commands": [
            {"name": n, "description": c.get_short_help_str(), "plugin": plugins.commands.owner(n)} for n, c in plugins.commands.items()
        ],
    }
