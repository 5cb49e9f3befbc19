"""What tests of the real VM do beside the calls that they test: run things in the guest, and command lines here."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scripts.vm import VM

CONFIG = "/etc/vsrpc/guest.yaml"
BOOT = 240.0  # seconds that a boot may take under emulation on a busy machine


def sh(vm: VM, script: str) -> str:
    """Run a script in the guest, by its agent: its output."""
    return vm.ga.check(["/bin/sh", "-c", script], timeout=BOOT).decode()


def start(vm: VM, *argv: str, **options: Any) -> subprocess.Popen[str]:
    """Start a command line on the VM's port."""
    command = [sys.executable, "-m", "host", "-s", str(vm.socket), *argv]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def cli(vm: VM, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run a command line on the VM's port to its end."""
    with start(vm, *argv) as process:
        out, err = process.communicate(timeout=BOOT)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)
