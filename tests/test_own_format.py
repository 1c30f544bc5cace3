"""The example of a third party's package is installed in an environment of its own, and used there for real."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

EXAMPLE = Path(__file__).parents[1] / "examples" / "own_format"


class Environment:
    """A virtual environment that has what this one has, and the example."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder / "venv", with_pip=False)
        paths = {"base": str(folder / "venv"), "platbase": str(folder / "venv")}
        self.packages = Path(sysconfig.get_path("purelib", "venv", vars=paths))
        self.python = Path(sysconfig.get_path("scripts", "venv", vars=paths)) / Path("python.exe" if os.name == "nt" else "python")
        # Nothing is downloaded: dependencies are those that the tests run with, also the ones installed as editable
        here = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
        lines = [f"import site; site.addsitedir({place!r})" for place in sorted(here)]
        (self.packages / "of_the_tests.pth").write_text("\n".join(lines) + "\n")
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PIP_", "PYTEST_"))} | {"PYTHONNOUSERSITE": "1"}
        self.folder = folder

    def run(self, *words: str, ok: bool = True) -> str:
        done = subprocess.run([str(self.python), *words], capture_output=True, text=True, cwd=self.folder, env=self.env, timeout=300)
        assert (done.returncode == 0) == ok, f"{words}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def json(self, *words: str) -> Any:
        return json.loads(self.run("-m", "actsort_core", *words, "--json"))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    folder = tmp_path_factory.mktemp("lab")
    out = Environment(folder)
    shutil.copytree(EXAMPLE, folder / "own_format", ignore=shutil.ignore_patterns("__pycache__", ".*"))
    # With its dependencies, which must all be there already; built with what is installed here
    quiet = ("--quiet", "--disable-pip-version-check", "--no-index", "--no-build-isolation", "--no-cache-dir")
    out.run("-m", "pip", "install", *quiet, str(folder / "own_format"))
    return out


def test_it_is_installed_there_and_only_there(lab: Environment) -> None:
    where = lab.run("-c", "import own_format; print(own_format.__file__)").strip()
    assert Path(where).is_relative_to(lab.packages)
    here = subprocess.run([sys.executable, "-c", "import own_format"], capture_output=True, cwd=lab.packages.parent, check=False)
    assert here.returncode == 1
    found = lab.json("plugins")
    for kind, name in {"formats": "own_rois", "strategies": "surest_doubt", "classifiers": "ridge"}.items():
        assert [row["plugin"] for row in found[kind] if row["name"] == name] == ["own_format"]
    assert [row["name"] for row in found["features"] if row["group"] == "drift"] == ["drift.change"]


def test_its_own_tests_pass_there(lab: Environment) -> None:
    (lab.folder / "theirs").mkdir()
    for file in (EXAMPLE / "tests").glob("*.py"):
        shutil.copyfile(file, lab.folder / "theirs" / file.name)
    said = lab.run("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "theirs")
    assert " passed" in said
    assert "skipped" not in said


def test_a_result_of_the_lab_is_sorted_and_written_back(lab: Environment) -> None:
    """From the files of the lab to the decisions in them: everything of the example at once."""
    from actsort_core.simulate import simulate

    recording, truth = simulate(60, fov=(40, 50), n_frames=200, seed=2)
    matrix = recording.footprints
    rois = [
        {"pixels": matrix.indices[a:b].tolist(), "weights": matrix.data[a:b].tolist(), "keep": None}
        for a, b in zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True)
    ]
    result = lab.folder / "tuesday"
    result.mkdir()
    (result / "rois.json").write_text(json.dumps({"lab": "own format 1", "fov": [40, 50], "fps": 15, "rois": rois, "mouse": 7}))
    np.save(result / "traces.npy", np.asarray(recording.traces[0:60]))
    traces = (result / "traces.npy").read_bytes()
    (lab.folder / "truth.json").write_text(json.dumps(truth.tolist()))
    assert lab.json("info", "tuesday")["format"] == "own_rois"
    options = ["--oracle", "truth.json", "--labels", "20", "--strategy", "surest_doubt", "--classifier", "ridge", "--features=+drift"]
    lab.run("-m", "actsort_core", "sort", "tuesday", *options)
    lab.run("-m", "actsort_core", "write", "tuesday")
    document = json.loads((result / "rois.json").read_text())
    assert document["mouse"] == 7
    keep = np.array([roi["keep"] for roi in document["rois"]], bool)
    assert (keep == truth).mean() > 0.7
    assert (result / "traces.npy").read_bytes() == traces
    lab.run("-m", "actsort_core", "restore", "tuesday")
    assert all(roi["keep"] is None for roi in json.loads((result / "rois.json").read_text())["rois"])
