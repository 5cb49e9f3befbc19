"""What all tests share: `--no-skips`, so that in CI no skipped test looks green, and the real VM."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Iterator

import file_systems
import machines
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for scripts, which is not installed

if TYPE_CHECKING:
    from scripts.vm import VM

_skipped: list[str] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--no-skips",
        action="store_true",
        help="fail when a test is skipped, except those marked 'host_feature' (they need what few hosts have)",
    )


def pytest_configure() -> None:
    # Clients of test sockets take turns among themselves, and leave nothing in the system's directories.
    os.environ["VSRPC_LOCK_DIR"] = tempfile.mkdtemp(prefix="vsrpc-test-locks-")
    os.environ["STATE_DIRECTORY"] = tempfile.mkdtemp(prefix="vsrpc-test-state-")
    # A shell's background jobs are begun with SIGINT ignored, and so would be the programs that tests interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist, which reads the groups there
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Share the tests of the VM out between two processes (pytest-xdist), each with a machine of its own.

    The tests in one process share one machine, whose port has one client. They come first, since they take longest.
    """
    for item in items:
        if item.get_closest_marker("vm"):
            of_the_machine = item.path.parent.name == "vm"  # tests/vm; the others call the machine, as users do
            item.add_marker(pytest.mark.xdist_group("vm-machine" if of_the_machine else "vm-calls"))
    items.sort(key=lambda item: item.get_closest_marker("vm") is None)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and "host_feature" not in report.keywords and not hasattr(report, "wasxfail"):
        _skipped.append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    for name in ("VSRPC_LOCK_DIR", "STATE_DIRECTORY"):
        shutil.rmtree(os.environ[name], ignore_errors=True)
    if session.config.getoption("--no-skips") and _skipped and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.getoption("--no-skips") and _skipped:
        terminalreporter.section("skipped, but --no-skips was given")
        for nodeid in _skipped:
            terminalreporter.line(nodeid)


@pytest.fixture(params=file_systems.KINDS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the file system offers."""
    file_systems.pretend(request.param, monkeypatch)
    return str(request.param)


@pytest.fixture(scope="session")
def vm() -> Iterator[VM]:
    """The VM of this run, with the present guest side installed and its daemon active; stopped at the run's end.

    Tests may reboot it and pull its port, and must leave it as they found it.
    """
    with machines.running(f"pytest-{os.getpid()}") as machine:
        yield machine
