"""What all tests share: `--no-skips`, so that in CI no skipped test looks green."""

from __future__ import annotations

import pytest

_skipped: list[str] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--no-skips",
        action="store_true",
        help="fail when a test is skipped, except those marked 'host_feature' (they need what few hosts have)",
    )


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and "host_feature" not in report.keywords and not hasattr(report, "wasxfail"):
        _skipped.append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.getoption("--no-skips") and _skipped and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.getoption("--no-skips") and _skipped:
        terminalreporter.section("skipped, but --no-skips was given")
        for nodeid in _skipped:
            terminalreporter.line(nodeid)
