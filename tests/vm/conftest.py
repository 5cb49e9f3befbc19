"""The real VM for every test in this directory: one per pytest session, stopped at its end."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Iterator

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from scripts.vm import VM, HostIncompleteError  # noqa: E402  (the path above is what makes it importable)

# Building the image is part of the first test's time; a boot under emulation takes up to a minute on a busy machine.
SECONDS = 900


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies here, so that no test can forget it."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.vm)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(SECONDS))


@pytest.fixture(scope="session")
def vm() -> Iterator[VM]:
    """A running VM with the present guest side installed and its daemon active.

    Tests may reboot it and pull its port, and must leave it as they found it.
    """
    machine = VM(f"pytest-{os.getpid()}")
    try:
        machine.start(wait_daemon=True)
    except HostIncompleteError as error:
        if os.environ.get("VSRPC_REQUIRE_VM") == "1":
            raise
        pytest.skip(f"no VM on this host: {error}")
    try:
        yield machine
    finally:
        machine.stop()
