"""``pytest -p tests_hosts.no_skips``: a skipped test fails. `make test-hosts` installs every host: nothing has a reason to skip there."""

from __future__ import annotations

from collections.abc import Generator

import pytest

NOTHING_SKIPS = "Skipped, but 'make test-hosts' installs every host that its tests need"


def _fail(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.outcome == "skipped" and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome, report.longrepr = "failed", f"{NOTHING_SKIPS}: {reason}"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that skips, in its body, a fixture or by a mark."""
    report = yield
    _fail(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A module that skips when it is imported."""
    report = yield
    _fail(report)
    return report
