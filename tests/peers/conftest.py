"""What the peers talk to: an embedded guest, and the real VM (marker vm). They share no file system with it."""

from __future__ import annotations

import os
import subprocess
import uuid
from pathlib import Path
from typing import Iterator

import pytest
from json_client import JsonClient
from peer_target import RemoteFile, Target
from peer_tools import cache_dir, tool

from host.local import LocalGuest

# The first test of the VM builds and boots it.
VM = pytest.param("vm", marks=[pytest.mark.vm, pytest.mark.timeout(900)])


@pytest.fixture(scope="session", params=["local", VM])
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    if request.param == "vm":
        yield Target(str(request.getfixturevalue("vm").socket), has_systemd=True)
        return
    with LocalGuest() as guest:
        # sd_booted(3)
        yield Target(guest.target[len("unix:") :], has_systemd=os.path.isdir("/run/systemd/system"))


@pytest.fixture(scope="session")
def go_example() -> Path:
    """The client in examples/go, built."""
    built = cache_dir("go-example") / "example"
    source = Path(__file__).resolve().parents[2] / "examples" / "go"
    subprocess.run([tool("go"), "build", "-o", str(built), "."], cwd=source, check=True, timeout=240)
    return built


@pytest.fixture(scope="session")
def folder(target: Target) -> Iterator[str]:
    """The beginning of paths in the guest that nobody else uses."""
    prefix = f"/tmp/vsrpc-peers-{uuid.uuid4().hex[:8]}-"
    yield prefix
    # The default policy has no command that removes files; an embedded guest's /tmp is ours, a VM's goes with it.
    for path in Path("/tmp").glob(prefix[len("/tmp/") :] + "*"):
        path.unlink()


@pytest.fixture(scope="session")
def remote_file(target: Target, folder: str) -> RemoteFile:
    """A file that is there to be read: two chunks, the second one odd."""
    file = RemoteFile(f"{folder}there.bin", os.urandom(3 * 1024 * 1024 + 5))
    with JsonClient(target.socket) as client:
        client.upload(file.path, file.content)
    return file
