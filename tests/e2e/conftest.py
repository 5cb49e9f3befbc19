"""What the end-to-end suite talks to: the target named by VSRPC_TARGET (a VM's socket), else an embedded guest.

Tests marked `vm` need systemd or a device and are left out where there is no VM. Nothing here may assume that guest
and host share a file system.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Iterator

import pytest
from e2e_cli import Cli, Remote

from host.client import VirtioRPCClient
from host.local import LocalGuest

TARGET = os.environ.get("VSRPC_TARGET", "")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if TARGET:
        return
    left_out = [item for item in items if item.get_closest_marker("vm") and Path(__file__).parent in item.path.parents]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def target() -> Iterator[str]:
    """The guest under test, as users name it after -s."""
    if TARGET:
        yield TARGET
        return
    with LocalGuest() as guest:
        yield guest.target


@pytest.fixture(params=["proto", "json"])
def cli(request: pytest.FixtureRequest, target: str, tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """The command line in each wire format."""
    return Cli(target, request.param, tmp_path_factory.mktemp("cli"))


@pytest.fixture(params=["proto", "json", "no-protobuf"])
def any_cli(request: pytest.FixtureRequest, target: str, tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """The command line in each wire format, and where protobuf cannot be imported."""
    return Cli(target, request.param, tmp_path_factory.mktemp("cli"))


@pytest.fixture(params=["proto", "json"])
def client(request: pytest.FixtureRequest, target: str) -> Iterator[VirtioRPCClient]:
    """The Python client in each wire format."""
    with VirtioRPCClient(target, json=request.param == "json") as made:
        yield made


@pytest.fixture
def observer(target: str) -> Iterator[VirtioRPCClient]:
    """A client that looks at the guest beside what is tested."""
    with VirtioRPCClient(target) as made:
        yield made


@pytest.fixture
def remote(target: str) -> Iterator[Remote]:
    """Makes paths in the guest that no other test uses. A VM's /tmp goes with it; the embedded guest's is ours."""
    prefix = f"/tmp/vsrpc-e2e-{uuid.uuid4().hex[:8]}-"
    yield lambda name: prefix + name
    if not TARGET:
        for path in Path("/tmp").glob(prefix[5:] + "*"):
            path.unlink()
