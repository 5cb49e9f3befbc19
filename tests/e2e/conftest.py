"""What the end-to-end suite talks to: an embedded guest, and the real VM (marker vm).

The VM's port has one client at a time, and shares no file system with us: what a test wants to know or prepare beside
the calls that it tests goes through the observer.
"""

from __future__ import annotations

import subprocess
import uuid
from typing import Callable, Iterator

import pytest
from e2e_cli import Cli, Guest, Outcome, Remote

from host.cli.main import main
from host.client import VirtioRPCClient
from host.local import LocalGuest

# The first test of the VM builds and boots it.
VM = pytest.param("vm", marks=[pytest.mark.vm, pytest.mark.timeout(900)])


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "one_format_on_vm: says nothing new in JSON on the VM")
    config.addinivalue_line("markers", "systemd: needs a guest with systemd, so not the embedded one")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what says nothing: units on the embedded guest, and the host's missing protobuf once more on the VM."""
    left_out = []
    for item in items:
        parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        kind = parameters.get("guest")
        formats = {parameters.get(name) for name in ("cli", "any_cli", "client")}
        if (
            (kind == "local" and item.get_closest_marker("systemd"))
            or (kind == "vm" and "no-protobuf" in formats)
            or (kind == "vm" and "json" in formats and item.get_closest_marker("one_format_on_vm"))
        ):
            left_out.append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session", params=["local", VM])
def guest(request: pytest.FixtureRequest) -> Iterator[Guest]:
    if request.param == "vm":
        vm = request.getfixturevalue("vm")
        yield Guest(f"unix:{vm.socket}", lambda argv: vm.ga.check(["/usr/bin/env", *argv]).decode())
        return
    with LocalGuest() as local:
        yield Guest(local.target, lambda argv: subprocess.run(argv, check=True, text=True, stdout=-1).stdout)


@pytest.fixture
def target(guest: Guest) -> str:
    """The guest's target."""
    return guest.target


@pytest.fixture(params=["proto", "json"])
def cli(request: pytest.FixtureRequest, target: str, tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """The command line in each wire format."""
    return Cli(target, request.param, tmp_path_factory.mktemp("cli"))


@pytest.fixture(params=["proto", "json", "no-protobuf"])
def any_cli(request: pytest.FixtureRequest, target: str, tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """The command line in each wire format, and where protobuf cannot be imported."""
    return Cli(target, request.param, tmp_path_factory.mktemp("cli"))


@pytest.fixture
def in_process(
    target: str, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Outcome]:
    """The command line without a process of its own, which takes most of the time of a short command."""
    monkeypatch.setenv("XDG_CONFIG_HOME", "/nonexistent")

    def run(*argv: str) -> Outcome:
        code = main(["-s", target, *argv])
        out, err = capfdbinary.readouterr()
        return Outcome(code, out, err.decode())

    return run


@pytest.fixture(params=["proto", "json"])
def client(request: pytest.FixtureRequest, target: str) -> Iterator[VirtioRPCClient]:
    """The Python client in each wire format."""
    with VirtioRPCClient(target, json=request.param == "json") as made:
        yield made


@pytest.fixture
def remote(guest: Guest) -> Iterator[Remote]:
    """Makes paths in the guest that no other test uses."""
    prefix = f"/tmp/vsrpc-e2e-{uuid.uuid4().hex[:8]}-"
    yield lambda name: prefix + name
    guest.run(["sh", "-c", f"rm -rf {prefix}*"])
