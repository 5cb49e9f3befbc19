"""Every way of putting vsrpc into a real guest, on a VM of its own: over SSH, by its guest agent, by its own port.

The tests follow one another: each finds the guest as the one before has left it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Iterator

import bundle_tools
import machines
import pytest
from vm_tools import BOOT, cli, sh

from vsrpc._version import __version__

if TYPE_CHECKING:
    from scripts.vm import VM

CONFIG = "/etc/vsrpc/guest.yaml"
DEPLOY = Path(__file__).resolve().parents[2] / "scripts" / "deploy.sh"
INSTALLED = (
    "readlink /opt/vsrpc/current; cat /etc/systemd/system/vsrpc-guest.service; readlink /usr/local/bin/vsrpc-guest"
)

UNIT_GONE = "while test -e /etc/systemd/system/vsrpc-update.service; do sleep 0.1; done"


@pytest.fixture(scope="module")
def machine() -> Iterator[VM]:
    """A VM with a network, for SSH."""
    with machines.running(f"pytest-ssh-{os.getpid()}", ssh=True) as vm:
        yield vm


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of this tree."""
    return bundle_tools.real(tmp_path_factory.mktemp("bundle"), __version__)


def deploy(vm: VM, bundle: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    options = ["--port", str(vm.ssh_port), "--identity", str(vm.ssh_key), "--bundle", str(bundle)]
    options += ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "IdentitiesOnly=yes"]
    return subprocess.run(
        ["sh", str(DEPLOY), *options, *argv], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


def test_deploy_over_ssh(machine: VM, bundle: Path) -> None:
    both = ["--guest-ip", "127.0.0.1", "--host-ip", "127.0.0.1"]
    deadline = time.monotonic() + BOOT
    while (done := deploy(machine, bundle, *both, "check")).returncode == 3:  # sshd starts beside everything else
        assert time.monotonic() < deadline, done.stderr
    assert done.returncode == 0, done.stderr
    sh(machine, "sh /opt/vsrpc/current/uninstall.sh && test ! -e /var/lib/vsrpc")
    done = deploy(machine, bundle, *both, "sync", "deps", "start", "test")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"deploy: the guest 127.0.0.1: vsrpc-guest {__version__}, active" in done.stdout
    assert f"deploy: the host 127.0.0.1: vsrpc-host {__version__}" in done.stdout
    assert cli(machine, "ping").returncode == 0
    # A host side that does not run gives its place back.
    sh(machine, "cd /var/lib/vsrpc/host && cp -r $(readlink current) 0-broken && rm -r 0-broken/vsrpc")
    release = sh(machine, "readlink /var/lib/vsrpc/host/current")
    sh(machine, f"cd /var/lib/vsrpc/host && mv {release.strip()} kept && mv 0-broken {release.strip()}")
    sh(machine, "ln -sfn kept /var/lib/vsrpc/host/current")
    done = deploy(machine, bundle, "--host-ip", "127.0.0.1", "start")
    assert (done.returncode, "does not run, and kept is back" in done.stderr) == (1, True), done.stderr
    assert sh(machine, "vsrpc-host --version") == f"vsrpc-host {__version__}\n"


def test_bootstrap_by_the_guest_agent(machine: VM, bundle: Path) -> None:
    sh(machine, "sh /opt/vsrpc/current/uninstall.sh; rm -r /etc/vsrpc; mkdir /var/tmp/vsrpc-bootstrap.killed")
    argv = ["bootstrap", "--agent", str(machine.ga._path), "--bundle", str(bundle), "-t", str(BOOT)]
    done = cli(machine, *argv)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"vsrpc-guest/{__version__} answers at {machine.socket}"
    assert sh(machine, "ls -A /var/tmp") == ""
    done = cli(machine, *argv)
    assert (done.returncode, "is installed already" in done.stdout) == (0, True), done


def allow_updates(vm: VM) -> None:
    vm.ga.write_file(CONFIG, vm.ga.read_file(CONFIG).replace(b"allow_update: false", b"allow_update: true"))
    sh(vm, "systemctl restart vsrpc-guest")
    vm.wait_daemon()


def test_update_by_the_port(machine: VM, tmp_path: Path) -> None:
    bundle = str(bundle_tools.real(tmp_path, "9.9.0"))
    allow_updates(machine)
    done = cli(machine, "update-guest", "--bundle", bundle)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"updated from {__version__} to 9.9.0, which answers"
    sh(machine, UNIT_GONE)
    assert sh(machine, "ls /opt/vsrpc/update").split() == ["state.json", "verdict"]
    done = cli(machine, "update-guest", "--bundle", bundle)
    assert (done.returncode, done.stdout) == (0, "the guest runs version 9.9.0 already (--force installs it anew)\n")


def test_a_release_that_cannot_be_reached_is_taken_back_also_by_a_power_cut(machine: VM, tmp_path: Path) -> None:
    """Its daemon starts and has the port, so that its installer is content. The host is killed, and the guest reset."""

    def deaf(files: dict[str, tuple[bytes, bool]]) -> None:
        content, _ = files["guest/services/system.py"]
        changed = content.replace(b"return self._updates.confirm(", b"raise RuntimeError(")
        assert changed != content
        files["guest/services/system.py"] = (changed, False)

    before = sh(machine, INSTALLED)
    command = [sys.executable, "-m", "host", "-s", str(machine.socket), "update-guest"]
    with subprocess.Popen([*command, "--bundle", str(bundle_tools.real(tmp_path, "9.9.1", deaf))]) as host:
        sh(machine, "until grep -q checking /opt/vsrpc/update/state.json; do sleep 0.2; done")
        host.kill()
    assert sh(machine, INSTALLED) != before
    machine.reset()
    sh(machine, "until grep -q 'rolled back' /opt/vsrpc/update/state.json; do sleep 0.2; done")
    machine.wait_daemon()
    assert sh(machine, INSTALLED) == before
    assert '"agent_version": "9.9.0"' in cli(machine, "info").stdout
    assert "interrupted" in sh(machine, "cat /opt/vsrpc/update/state.json")
    sh(machine, UNIT_GONE)
