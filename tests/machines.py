"""The VMs of the tests."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Iterator

import pytest

if TYPE_CHECKING:
    from scripts.vm import VM


@contextlib.contextmanager
def running(name: str, ssh: bool = False) -> Iterator[VM]:
    """A VM with the present guest side installed and its daemon active, stopped at the end; with a network for SSH.

    Skips the test on a host that cannot run one, unless VSRPC_REQUIRE_VM=1.
    """
    from scripts.vm import VM, HostIncompleteError

    machine = VM(name)
    try:
        machine.start(ssh=ssh, wait_daemon=True)
    except HostIncompleteError as error:
        if os.environ.get("VSRPC_REQUIRE_VM") == "1":
            raise
        pytest.skip(f"no VM on this host: {error}")
    try:
        yield machine
    finally:
        machine.stop()
