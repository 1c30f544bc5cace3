"""Plug-ins: loaded, called, named when they break, and never in each other's way. docs/plugins.md is run here."""

from __future__ import annotations

import inspect
import itertools
import json
import os
import re
import subprocess
import sys
import threading
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

import actsort_core as actsort
from actsort_core import builtin, hookspecs, plugins
from actsort_core.errors import DuplicateNameError, PluginError, PluginWarning
from actsort_core.hookspecs import hookimpl
from actsort_core.session import Session
from actsort_core.strategies import Strategy, cal
from actsort_core.testing import make_recording

ROOT = Path(__file__).parents[1]
MANUAL = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
HOOKS = [name for name, obj in vars(hookspecs).items() if name.startswith("actsort_") and inspect.isfunction(obj)]
REGISTER = [name for name in HOOKS if name.startswith("actsort_register_")]
CALLED = [name for name in HOOKS if name not in REGISTER]


def module(name: str, **functions: Callable[..., Any]) -> types.ModuleType:
    """A plug-in module; its functions become hook implementations."""
    out = types.ModuleType(name)
    for key, function in functions.items():
        setattr(out, key, hookimpl(function))
    return out


def load(*more: object) -> plugins.Plugins:
    return plugins.load(more, discover=False)


# ---- the manual


def test_every_hook_has_a_heading_in_the_manual_in_the_same_order() -> None:
    assert re.findall(r"^## (actsort_\w+)$", MANUAL, re.MULTILINE) == HOOKS


def test_every_hook_has_a_test() -> None:
    tests = [name for name in globals() if name.startswith("test_")]
    for hook in HOOKS:
        assert any(name.startswith(f"test_{hook}") for name in tests), f"{hook} has no test"


def test_every_hook_is_documented_in_its_specification() -> None:
    for hook in HOOKS:
        assert len(inspect.getdoc(getattr(hookspecs, hook)) or "") > 20


@pytest.fixture(scope="module")
def lab() -> types.ModuleType:
    """All Python blocks of docs/plugins.md as one module."""
    source = "\n\n".join(re.findall(r"^```python\n(.*?)^```$", MANUAL, re.MULTILINE | re.DOTALL))
    out = types.ModuleType("lab_plugin")
    exec(compile(source, "docs/plugins.md", "exec"), out.__dict__)
    return out


@pytest.fixture
def result(tmp_path: Path) -> Path:
    """A result in the format of the manual, half of it cells."""
    recording = make_recording(30, n_frames=150, seed=3)
    path = tmp_path / "tuesday.npz"
    masks = recording.footprints.T.toarray().reshape(-1, *recording.fov)
    np.savez(path, masks=masks, dff=recording.traces, keep=recording.prior.verdict, fps=15.0)
    return path


@pytest.fixture
def session(lab: types.ModuleType, result: Path, watcher: Watcher) -> Iterator[Session]:
    lab.log.clear()
    with actsort.open(result, plugins=load(lab, watcher.module), refit_wait=None, annotator="ana") as opened:
        yield opened


class Watcher:
    """A plug-in that notes what it is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.module = module("watcher", **{hook: self.listener(hook) for hook in CALLED})

    def listener(self, hook: str) -> Callable[..., None]:
        arguments = list(inspect.signature(getattr(hookspecs, hook)).parameters)
        scope: dict[str, Any] = {"note": lambda **given: self.calls.append((hook, given))}
        exec(f"def {hook}({', '.join(arguments)}):\n    note({', '.join(f'{a}={a}' for a in arguments)})", scope)
        function: Callable[..., None] = scope[hook]
        return function

    def of(self, hook: str) -> list[dict[str, Any]]:
        return [given for name, given in self.calls if name == hook]


@pytest.fixture
def watcher() -> Watcher:
    return Watcher()


_turns = itertools.count()


def answer(candidate: actsort.CandidateId) -> bool:
    """Two cells in three, in the order of asking: three of each class after at most nine questions."""
    return next(_turns) % 3 > 0


def test_the_tests_of_the_manual_pass(lab: types.ModuleType, tmp_path: Path) -> None:
    tests = [obj for name, obj in vars(lab).items() if name.startswith("test_")]
    assert len(tests) == 3
    for test in tests:
        test(*[tmp_path] * len(inspect.signature(test).parameters))


# ---- one test per hook, with the plug-in of the manual


def test_actsort_register_formats(lab: types.ModuleType, result: Path) -> None:
    registered = load(lab)
    assert registered.formats["lab_npz"].read(result)[0].n_cells == 30
    assert registered.formats.owner("lab_npz") == "lab_plugin"
    assert actsort.read(result, plugins=registered)[0].format == "lab_npz"


def test_actsort_register_features(session: Session) -> None:
    table = session.features()
    assert "drift.change" in table.names
    assert np.isfinite(table.values[:, table.names.index("drift.change")]).all()
    assert "drift.change" in session.feature_names


def test_actsort_register_classifiers(lab: types.ModuleType, result: Path) -> None:
    with actsort.open(result, plugins=load(lab), classifier="ridge", refit_wait=None) as session:
        session.sort(answer, labels=10)
        session.wait()
        assert session.predictions().n_labels == 10


def test_actsort_register_strategies(lab: types.ModuleType, result: Path) -> None:
    with actsort.open(result, plugins=load(lab), strategy="confident_cells", refit_wait=None) as session:
        session.sort(answer, labels=12)
        session.wait()
        p = session.predictions().probability.copy()
        labelled = [label.candidate.index for label in session.labels()]
        p[labelled] = -1
        assert session.ask() == actsort.CandidateId("tuesday", int(np.argmax(p)))


def test_actsort_register_exporters(lab: types.ModuleType, session: Session, tmp_path: Path) -> None:
    session.sort(answer, labels=10)
    session.plugins.exporters["accepted_list"].export(list(session.curations().values()), tmp_path / "accepted.csv")
    rows = (tmp_path / "accepted.csv").read_text().split()
    assert rows == [f"tuesday,{d.candidate.index}" for d in session.decisions() if d.accepted]


def test_actsort_register_commands(lab: types.ModuleType, result: Path) -> None:
    from click.testing import CliRunner

    command = load(lab).commands["count-cells"]
    assert CliRunner().invoke(command, [str(result)]).output == "30\n"


def test_actsort_should_stop(session: Session, watcher: Watcher) -> None:
    session.sort(answer, labels=30)
    assert len(session.labels()) == 25
    assert session.notes[-1] == "Stopped asking: our lab never labels more than 25. (plug-in lab_plugin)"
    assert len(watcher.of("actsort_should_stop")) == 26  # before each question, also the one that was not asked


def test_actsort_should_stop_takes_the_first_answer(result: Path, lab: types.ModuleType) -> None:
    quiet = module("quiet", actsort_should_stop=lambda session: None)
    first = module("first", actsort_should_stop=lambda session: "first.")
    second = module("second", actsort_should_stop=lambda session: "second.")
    with actsort.open(result, plugins=load(quiet, first, second, lab)) as session:
        assert list(session.questions(5)) == []
        assert session.notes[-1] == "Stopped asking: first. (plug-in first)"


def test_actsort_session_opened(lab: types.ModuleType, session: Session, watcher: Watcher, result: Path) -> None:
    assert lab.log[0] == "opened 30 candidates, 0 labelled"
    assert watcher.of("actsort_session_opened") == [{"session": session}]
    session.label(0, "cell")
    session.close()
    with actsort.open(result, plugins=load(lab)):  # resumed: the journal has been replayed
        assert lab.log[-1] == "opened 30 candidates, 1 labelled"


def test_actsort_labels_changed(lab: types.ModuleType, session: Session, watcher: Watcher) -> None:
    session.label(4, "cell")
    session.undo()
    session.redo()
    session.label(4, "not_cell", annotator="ben")
    seen = [list(given["labels"]) for given in watcher.of("actsort_labels_changed")]
    assert [len(labels) for labels in seen] == [1, 0, 1, 1]
    assert [labels[0].value for labels in seen if labels] == ["cell", "cell", "not_cell"]
    assert "ben says not_cell" in lab.log


def test_actsort_labels_changed_comes_after_the_label_is_on_disk(lab: types.ModuleType, result: Path) -> None:
    kinds: list[str] = []

    def actsort_labels_changed(session: Session) -> None:
        last = session.journal.path.read_text().splitlines()[-1]
        kinds.append(json.loads(last)["kind"])

    with actsort.open(result, plugins=load(lab, module("reader", actsort_labels_changed=actsort_labels_changed))) as session:
        session.label(1, "cell")
        session.undo()
    assert kinds == ["label", "undo"]


def test_actsort_model_fitted(lab: types.ModuleType, session: Session, watcher: Watcher) -> None:
    for i in range(7):
        session.label(i, i % 2)
    session.wait()
    told = watcher.of("actsort_model_fitted")
    assert [given["predictions"].n_labels for given in told] == [6, 7]
    assert "fitted on 7 labels" in lab.log
    assert np.isfinite(told[-1]["predictions"].probability).all()


def test_actsort_decisions_written(lab: types.ModuleType, session: Session, watcher: Watcher, result: Path) -> None:
    session.sort(answer, labels=10)
    session.write(dry_run=True)
    assert watcher.of("actsort_decisions_written") == []
    session.write()
    (told,) = watcher.of("actsort_decisions_written")
    assert told["paths"] == [result]
    n = sum(d.accepted for d in session.decisions())
    assert [int(c.accepted.sum()) for c in told["curations"]] == [n]
    assert lab.log[-1] == f"wrote {n} cells to 1 file(s)"


# ---- plug-ins that raise


@pytest.mark.parametrize("hook", REGISTER)
@pytest.mark.parametrize("place", ["before", "after"])
def test_a_plugin_that_raises_while_registering_is_left_out(hook: str, place: str, lab: types.ModuleType) -> None:
    def fails() -> Any:
        raise ZeroDivisionError("oh")

    broken = module("broken", **{hook: fails})
    with pytest.warns(PluginWarning, match=rf"Plug-in 'broken' failed in {hook} \(ZeroDivisionError: oh\); going on without it"):
        registered = load(*((broken, lab) if place == "before" else (lab, broken)))
    sound = load(lab)
    for kind in ("formats", "features", "classifiers", "strategies", "exporters", "commands"):
        assert list(getattr(registered, kind)) == list(getattr(sound, kind))


@pytest.mark.parametrize(
    "returned", [Strategy("lone", "not in a list", cal), [cal], 3, [click.Command(None)]], ids=["lone", "function", "3", "nameless"]
)
def test_a_plugin_that_registers_nonsense_is_left_out(returned: Any) -> None:
    broken = module("broken", actsort_register_strategies=lambda: returned)
    with pytest.warns(PluginWarning, match="'broken' failed in actsort_register_strategies"):
        registered = load(broken)
    assert list(registered.strategies) == list(load().strategies)


def test_a_generator_that_raises_half_way_registers_nothing() -> None:
    def half() -> Iterator[Strategy]:
        yield Strategy("half", "x", cal)
        raise ValueError("no more")

    with pytest.warns(PluginWarning, match="no more"):
        registered = load(module("broken", actsort_register_strategies=half))
    assert "half" not in registered.strategies


def test_a_plugin_may_register_nothing() -> None:
    assert list(load(module("lazy", actsort_register_strategies=lambda: None)).strategies) == list(load().strategies)


@pytest.mark.parametrize("hook", CALLED)
@pytest.mark.parametrize("place", ["before", "after"])
def test_a_plugin_that_raises_when_told_is_passed_over(
    hook: str, place: str, lab: types.ModuleType, watcher: Watcher, result: Path
) -> None:
    def fails(session: Session) -> None:
        raise ZeroDivisionError("oh")

    broken = module("broken", **{hook: fails})
    others = (broken, watcher.module) if place == "before" else (watcher.module, broken)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with actsort.open(result, plugins=load(lab, *others), refit_wait=None) as session:
            session.sort(answer, labels=10)
            session.wait()
            report = session.write()
    messages = {str(w.message) for w in caught if issubclass(w.category, PluginWarning)}
    assert messages == {f"Plug-in 'broken' failed in {hook} (ZeroDivisionError: oh); going on without it."}
    assert report.written == (result,)
    assert watcher.of(hook)
    assert len(session.labels()) == 10


# ---- plug-ins that do not fit


@pytest.mark.parametrize("hook", HOOKS)
def test_a_misspelt_hook_is_an_error_with_the_nearest_name(hook: str) -> None:
    wrong = hook[:-2] + hook[-1] + hook[-2]
    with pytest.raises(PluginError) as caught:
        load(module("sloppy", **{wrong: lambda: None}))
    assert "'sloppy' does not fit" in str(caught.value)
    assert wrong in str(caught.value)
    assert f"Did you mean {hook}?" in str(caught.value)


def test_a_misspelt_hook_is_found_beside_good_ones() -> None:
    with pytest.raises(PluginError, match="Did you mean actsort_labels_changed"):
        load(module("sloppy", actsort_should_stop=lambda session: None, actsort_label_changed=lambda session: None))


@pytest.mark.parametrize("hook", HOOKS)
def test_an_argument_the_hook_does_not_have_is_an_error(hook: str) -> None:
    with pytest.raises(PluginError, match=r"'sloppy' does not fit(.|\n)*sesion"):
        load(module("sloppy", **{hook: lambda sesion: None}))


@pytest.mark.parametrize("marker", ["wrapper", "hookwrapper"])
def test_wrappers_are_refused(marker: str) -> None:
    def actsort_should_stop(session: Session) -> Iterator[None]:
        yield

    plugin = types.ModuleType("wrapping")
    plugin.actsort_should_stop = hookimpl(**{marker: True})(actsort_should_stop)  # type: ignore[attr-defined]
    with pytest.raises(PluginError, match="'wrapping' wraps actsort_should_stop, which is not supported"):
        load(plugin)


def test_a_plugin_without_hooks_is_an_error() -> None:
    plugin = types.ModuleType("bare")
    plugin.actsort_register_format = lambda: []  # type: ignore[attr-defined]
    with pytest.raises(PluginError, match=r"'bare' implements no hook.*hookimpl.*Did you mean actsort_register_formats"):
        load(plugin)


def test_two_plugins_with_one_name_are_an_error_naming_both() -> None:
    a = module("a", actsort_register_strategies=lambda: [Strategy("mine", "x", cal)])
    b = module("b", actsort_register_strategies=lambda: [Strategy("mine", "y", cal)])
    with pytest.raises(DuplicateNameError, match="the strategy 'mine': a and b"):
        load(a, b)


def test_the_names_of_the_core_are_taken() -> None:
    with pytest.raises(DuplicateNameError, match="the strategy 'cal': actsort and a"):
        load(module("a", actsort_register_strategies=lambda: [Strategy("cal", "x", cal)]))


def test_modules_of_the_same_name_are_both_loaded() -> None:
    a = module("same", actsort_register_strategies=lambda: [Strategy("a", "x", cal)])
    b = module("same", actsort_register_strategies=lambda: [Strategy("b", "x", cal)])
    registered = load(a, b, a)
    assert {"a", "b"} <= set(registered.strategies)
    assert registered.strategies.owner("a") != registered.strategies.owner("b")


def test_an_object_may_be_a_plugin() -> None:
    class Lab:
        @hookimpl
        def actsort_register_strategies(self) -> list[Strategy]:
            return [Strategy("lab", "x", cal)]

    assert load(Lab()).strategies.owner("lab") == "Lab"


def test_try_first_and_try_last_are_honoured() -> None:
    manager = plugins.build_manager(discover=False)
    marks: dict[str, dict[str, bool]] = {"last": {"trylast": True}, "plain": {}, "first": {"tryfirst": True}}
    for name, mark in marks.items():
        plugin = types.ModuleType(name)
        plugin.actsort_should_stop = hookimpl(**mark)(lambda: "stop")  # type: ignore[attr-defined]
        manager.register(plugin, name)
    assert [name for name, _ in plugins.call_each(manager, "actsort_should_stop", session=None)] == ["first", "plain", "last"]


def test_managers_are_independent() -> None:
    load(module("a", actsort_register_strategies=lambda: [Strategy("mine", "x", cal)]))
    assert "mine" not in load().strategies
    assert plugins.build_manager(discover=False).get_plugin("actsort") is builtin


def test_describe_lists_everything_and_whose_it_is(lab: types.ModuleType) -> None:
    document = plugins.describe(load(lab))
    assert json.loads(json.dumps(document)) == document
    owners = {kind: {row["name"]: row["plugin"] for row in rows} for kind, rows in document.items()}
    assert owners["formats"] == {"lab_npz": "lab_plugin"}
    assert owners["features"]["drift.change"] == "lab_plugin"
    assert owners["features"]["trace.log_snr"] == "actsort"
    assert owners["strategies"]["confident_cells"] == "lab_plugin"
    assert owners["classifiers"].items() >= {"l1_logistic": "actsort", "ridge": "lab_plugin"}.items()
    assert owners["exporters"]["accepted_list"] == "lab_plugin"
    assert owners["commands"] == {"count-cells": "lab_plugin"}
    assert all(row["description"] for rows in document.values() for row in rows)


# ---- installed distributions, in a process of their own


def install(folder: Path, name: str, source: str, entry: str | None = None) -> None:
    """As pip leaves a distribution: its module, and a .dist-info folder with its entry points."""
    (folder / f"{name}.py").write_text(source)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-dist\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[actsort]\n{entry or name} = {name}\n")


HELLO = """
import click
from actsort_core import hookimpl, Strategy

@click.command("hello")
def hello():
    "Say hello."
    click.echo("hello from a plug-in")

@hookimpl
def actsort_register_commands():
    return [hello]

@hookimpl
def actsort_register_strategies():
    return [Strategy("zeros", "no preference", lambda state: state.probability * 0)]
"""
NAMES = "import json; from actsort_core.plugins import load; print(json.dumps(list(load().strategies)))"


def run(
    folder: Path, *arguments: str, code: str = "from actsort_core.cli import main; main()", **env: str
) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(folder), str(ROOT)])
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": path, **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_command_of_an_installed_plugin_is_listed_and_runs(tmp_path: Path) -> None:
    install(tmp_path, "friendly", HELLO)
    shown = run(tmp_path, "--help")
    assert shown.returncode == 0, shown.stderr
    assert re.search(r"^  hello +Say hello\.$", shown.stdout, re.MULTILINE)
    said = run(tmp_path, "hello")
    assert (said.returncode, said.stdout) == (0, "hello from a plug-in\n"), said.stderr
    listed = json.loads(run(tmp_path, "plugins", "--json").stdout)
    assert {"name": "zeros", "description": "no preference", "plugin": "friendly"} in listed["strategies"]
    assert {"name": "hello", "description": "Say hello.", "plugin": "friendly"} in listed["commands"]


def test_a_plugin_that_cannot_be_imported_is_left_out_with_a_warning(tmp_path: Path) -> None:
    install(tmp_path, "friendly", HELLO)
    install(tmp_path, "aa_broken", "import no_such_module_anywhere")
    said = run(tmp_path, code=NAMES)
    assert said.returncode == 0
    assert "zeros" in json.loads(said.stdout)
    warning = "Plug-in 'aa_broken' of aa_broken-dist could not be loaded (ModuleNotFoundError: No module named 'no_such_module_anywhere')"
    assert warning in said.stderr
    command = run(tmp_path, "hello")
    assert (command.returncode, command.stdout) == (0, "hello from a plug-in\n")
    assert "aa_broken" in command.stderr


def test_a_misspelt_hook_of_an_installed_plugin_says_how_to_go_without_it(tmp_path: Path) -> None:
    install(tmp_path, "sloppy", HELLO.replace("actsort_register_commands", "actsort_register_comands"), "sloppy-hello")
    said = run(tmp_path, "plugins")
    assert said.returncode == 1
    assert "Traceback" not in said.stderr
    assert "Did you mean actsort_register_commands?" in said.stderr
    assert "ACTSORT_DISABLE_PLUGINS=sloppy-hello" in said.stderr
    assert run(tmp_path, "plugins", ACTSORT_DISABLE_PLUGINS="sloppy-hello").returncode == 0


def test_plugins_can_be_disabled_by_name(tmp_path: Path) -> None:
    install(tmp_path, "friendly", HELLO)
    install(tmp_path, "broken", "import no_such_module_anywhere")
    assert "zeros" in json.loads(run(tmp_path, code=NAMES).stdout)
    without = run(tmp_path, code=NAMES, ACTSORT_DISABLE_PLUGINS="broken, friendly,unheard-of")
    assert json.loads(without.stdout) == list(load().strategies)
    assert without.stderr == ""


def test_nothing_is_discovered_when_not_asked_for(tmp_path: Path) -> None:
    install(tmp_path, "friendly", HELLO)
    said = run(tmp_path, code=NAMES.replace("load()", "load(discover=False)"))
    assert json.loads(said.stdout) == list(load().strategies)


def test_loading_plugins_does_not_load_scikit_learn(tmp_path: Path) -> None:
    code = "import sys; from actsort_core.plugins import load; load(); print('sklearn' in sys.modules)"
    assert run(tmp_path, code=code).stdout == "False\n"


def test_a_plugin_may_be_told_from_the_fitting_thread(lab: types.ModuleType, result: Path) -> None:
    threads: list[str] = []

    def actsort_model_fitted() -> None:
        threads.append(threading.current_thread().name)

    with actsort.open(result, plugins=load(lab, module("who", actsort_model_fitted=actsort_model_fitted)), refit_wait=None) as session:
        session.sort(answer, labels=10)
        session.wait()
    assert threads
