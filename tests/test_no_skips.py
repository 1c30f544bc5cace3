"""`make test-hosts` must not pass because a host is missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SKIPPING = {
    "body": "def test_one():\n    pytest.importorskip('no_such_host', reason='no host here')\n",
    "mark": "@pytest.mark.skipif(True, reason='no host here')\ndef test_one():\n    pass\n",
    "fixture": "@pytest.fixture\ndef host():\n    pytest.skip('no host here')\n\ndef test_one(host):\n    pass\n",
    "module": "pytest.importorskip('no_such_host', reason='no host here')\n\ndef test_one():\n    pass\n",
}


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", str(folder / "pytest.ini"), *words, str(folder)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.skipif(not (ROOT / "tests_hosts").is_dir(), reason="tests_hosts is missing")
@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["alone", "xdist"])
def test_skipped_tests_fail_and_others_do_not(workers: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    for where, text in SKIPPING.items():
        (tmp_path / f"test_{where}.py").write_text(f"import pytest\n\n{text}")
    (tmp_path / "test_other.py").write_text("def test_that_passes():\n    pass\n")
    (tmp_path / "test_known.py").write_text("import pytest\n\n@pytest.mark.xfail\ndef test_one():\n    assert False\n")
    assert run(tmp_path, *workers).returncode == 0
    done = run(tmp_path, "-p", "tests_hosts.no_skips", "--continue-on-collection-errors", *workers)
    assert done.returncode != 0
    summary = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    assert sorted(where for where in SKIPPING for line in summary if f"test_{where}.py" in line) == sorted(SKIPPING), done.stdout
    assert done.stdout.count("no host here") >= len(SKIPPING)
    assert "skipped" not in done.stdout.splitlines()[-1]
    assert "1 passed" in done.stdout
    assert "1 xfailed" in done.stdout
