"""The test VM itself: what the end-to-end tests rely on, and the installation that `make vm` makes as a user would."""

from __future__ import annotations

import hashlib
import os
import select
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scripts.vm import VM

PORT = "/dev/virtio-ports/test.vserial.0"
INSTALLED = (
    "/opt/vsrpc/current/vsrpc/__init__.py",
    "/opt/vsrpc/current/guest/__main__.py",
    "/usr/local/bin/vsrpc-guest",
    "/etc/vsrpc/guest.yaml",
    "/etc/systemd/system/vsrpc-guest.service",
    "/etc/udev/rules.d/60-vsrpc.rules",
)


def show(vm: VM, prop: str) -> str:
    return vm.ga.check(["/bin/systemctl", "show", "--value", "-p", prop, "vsrpc-guest"]).decode().strip()


def wait_for(vm: VM, shell_condition: str) -> None:
    """Wait in the guest, where the event happens."""
    vm.ga.check(["/bin/sh", "-c", f"until {shell_condition}; do sleep 0.1; done"], timeout=120)


def test_guest_side_is_installed_and_runs(vm: VM) -> None:
    vm.ga.check(["/usr/bin/stat", *INSTALLED])
    assert show(vm, "ActiveState") == "active"
    assert vm.ga.exec(["/usr/bin/test", "-e", "/opt/vsrpc/current/vsrpc/codegen"]).rc == 1


def test_start_of_a_running_vm_changes_nothing(vm: VM) -> None:
    before = vm.boot_id(), show(vm, "MainPID")
    vm.start(wait_daemon=True)
    assert (vm.boot_id(), show(vm, "MainPID")) == before


def test_installer_names_missing_packages(vm: VM) -> None:
    """A Python that is there but lacks the modules, as a fresh guest has it."""
    vm.ga.write_file("/root/bare-python", b'#!/bin/sh\nexec /usr/bin/python3 -S "$@"\n', 0o755)
    script = "PYTHON=/root/bare-python exec sh /root/bare/install-guest.sh"
    vm.ga.check(["/bin/mkdir", "-p", "/root/bare"])
    vm.ga.check(["/bin/cp", "-r", "/opt/vsrpc/current/vsrpc", "/opt/vsrpc/current/guest", "/root/bare"])
    vm.ga.write_file("/root/bare/install-guest.sh", project_file("scripts/install-guest.sh"), 0o755)
    done = vm.ga.exec(["/bin/sh", "-c", script])
    assert done.rc == 1
    assert "python3-protobuf python3-yaml;" in done.stderr.decode()


def test_daemon_starts_with_the_port(vm: VM) -> None:
    vm.unplug_port()
    wait_for(vm, f"! test -e {PORT}")
    vm.ga.check(["/bin/systemctl", "stop", "vsrpc-guest"])
    vm.replug_port()
    wait_for(vm, f"test -e {PORT}")
    vm.wait_daemon()


def test_reset_boots_anew(vm: VM) -> None:
    before = vm.boot_id()
    vm.reset()
    assert vm.boot_id() != before
    vm.wait_daemon()
    vm.ga.check(["/usr/bin/stat", PORT])


def test_pause_stops_the_guest(vm: VM) -> None:
    vm.pause()
    try:
        assert vm.qmp("query-status")["running"] is False
    finally:
        vm.resume()
    vm.ga.ping()


def test_agent_carries_files_and_commands(vm: VM) -> None:
    data = os.urandom(600_000)
    vm.ga.write_file("/tmp/blob", data, 0o640)
    assert vm.ga.read_file("/tmp/blob") == data
    assert vm.ga.check(["/usr/bin/stat", "-c", "%a", "/tmp/blob"]) == b"640\n"
    assert vm.ga.exec(["/usr/bin/md5sum"], input=data).stdout.split()[0] == hashlib.md5(data).hexdigest().encode()
    assert vm.ga.exec(["/bin/sh", "-c", "echo out; echo err >&2; exit 3"]) == (3, b"out\n", b"err\n")
    assert vm.ga.exec(["/bin/sh", "-c", "kill -9 $$"]).rc == 137


def test_spare_port_is_free(vm: VM) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(vm.spare_socket))
        vm.ga.check(["/bin/sh", "-c", "echo hello >/dev/virtio-ports/test.spare.0"])
        assert select.select([client], [], [], 30)[0]
        assert client.recv(100) == b"hello\n"


def project_file(name: str) -> bytes:
    from scripts.vm.paths import PROJECT

    return (PROJECT / name).read_bytes()
