"""Where it is measured: a daemon, how to reach it, and what it uses, on a VM or as the embedded guest of `local:`."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, Protocol

import psutil

from host.local import LocalGuest
from scripts.vm import VM, qemu

GUEST_DIRECTORY = "/tmp/vsrpc-bench"
CONFIG = "/etc/vsrpc/guest.yaml"
GUEST_TICKS = 100  # a second: what Linux shows to programs on all that is like a PC
RESET_PEAK = "5"  # proc(5), clear_refs: the peak of resident memory begins anew


@dataclass(frozen=True)
class Usage:
    """CPU seconds so far, by whose they are: "daemon", and on a VM "guest" (all of it) and "QEMU"."""

    seconds: dict[str, float]

    def since(self, before: Usage) -> dict[str, float]:
        """What was used between the two."""
        return {name: value - before.seconds[name] for name, value in self.seconds.items()}


class Place(Protocol):
    """`target` is for VirtioRPCClient and `vsrpc-host -s`; `directory` is where files of the guest may be."""

    target: str
    directory: str

    def usage(self) -> Usage: ...

    def reset_peak(self) -> None:
        """Let the daemon's peak memory begin anew."""

    def peak(self) -> float:
        """The daemon's, in bytes."""

    def size(self, path: str) -> int:
        """Of a file of the guest."""

    def settle(self, *unwanted: str) -> None:
        """Remove these files, and let nothing that was written before be on its way to a disk."""


class VMPlace:
    """A VM and its daemon."""

    def __init__(self, vm: VM) -> None:
        self.vm = vm
        self.target = str(vm.socket)
        self.directory = GUEST_DIRECTORY
        self._pid = int(vm.ga.check(["/bin/systemctl", "show", "--value", "-p", "MainPID", "vsrpc-guest"]))
        qemu_pid = qemu.pid(vm.run)
        assert qemu_pid, "the VM has just been started"
        self._qemu = psutil.Process(qemu_pid)
        self._shell(f"rm -rf {self.directory} && mkdir {self.directory}")

    def usage(self) -> Usage:
        # Read without starting a process: that would cost the guest more than it does while it is idle.
        daemon = self.vm.ga.read_file(f"/proc/{self._pid}/stat").decode().rpartition(")")[2].split()
        guest = [int(ticks) for ticks in self.vm.ga.read_file("/proc/stat").decode().splitlines()[0].split()[1:9]]
        times = self._qemu.cpu_times()
        return Usage(
            {
                "daemon": (int(daemon[11]) + int(daemon[12])) / GUEST_TICKS,
                "guest": (sum(guest) - guest[3] - guest[4]) / GUEST_TICKS,  # without idle and iowait
                "QEMU": times.user + times.system,
            }
        )

    def reset_peak(self) -> None:
        self._shell(f"echo {RESET_PEAK} > /proc/{self._pid}/clear_refs")

    def peak(self) -> float:
        return _peak(self.vm.ga.read_file(f"/proc/{self._pid}/status").decode())

    def size(self, path: str) -> int:
        return int(self._shell(f"stat -c %s {path}"))

    def settle(self, *unwanted: str) -> None:
        self._shell(f"rm -f {' '.join(unwanted)}; sync")
        os.sync()

    def describe(self) -> str:
        """The guest, for people."""
        return self._shell(
            f"echo \"$(nproc) CPUs, $(awk '/MemTotal/ {{print int($2/1000)}}' /proc/meminfo) MB,"
            f" Linux $(uname -r), $(python3 --version), $(qemu-ga --version),"
            f' files on $(stat -f -c %T {self.directory})"'
        )

    def _shell(self, script: str) -> str:
        return self.vm.ga.check(["/bin/sh", "-c", script], timeout=120).decode().strip()


class LocalPlace:
    """The embedded guest."""

    def __init__(self, guest: LocalGuest, directory: str) -> None:
        self.target = guest.target
        self.directory = directory
        # It runs under a shell that cleans up after it, whose command line has the daemon's in it.
        children = psutil.Process().children(recursive=True)
        self._daemon = next(each for each in children if each.cmdline()[1:3] == ["-m", "guest"])

    def usage(self) -> Usage:
        times = self._daemon.cpu_times()
        return Usage({"daemon": times.user + times.system})

    def reset_peak(self) -> None:
        Path(f"/proc/{self._daemon.pid}/clear_refs").write_text(RESET_PEAK)

    def peak(self) -> float:
        return _peak(Path(f"/proc/{self._daemon.pid}/status").read_text())

    def size(self, path: str) -> int:
        return Path(path).stat().st_size

    def settle(self, *unwanted: str) -> None:
        for path in unwanted:
            Path(path).unlink(missing_ok=True)
        os.sync()


@contextmanager
def vm_place(name: str) -> Iterator[VMPlace]:
    """The VM of this name, booted for the time of the block if it does not run already."""
    vm = VM(name)
    ours = not vm.running
    try:
        vm.start(ssh=True, wait_daemon=True)
        # For section jobs, of which one job must be any program.
        allow = (
            f"sed -i 's/^  login_shell: false/  login_shell: true/' {CONFIG} && grep '^  login_shell: true' {CONFIG}"
        )
        vm.ga.check(["/bin/sh", "-c", f"{allow} && systemctl restart vsrpc-guest"], timeout=120)
        vm.wait_daemon()
        yield VMPlace(vm)
    finally:
        if ours:
            vm.stop()


@contextmanager
def local_place() -> Iterator[LocalPlace]:
    """An embedded guest for the time of the block."""
    directory = tempfile.mkdtemp(prefix="vsrpc-bench-")
    try:
        with LocalGuest() as guest:
            yield LocalPlace(guest, directory)
    finally:
        shutil.rmtree(directory)


def _peak(status: str) -> float:
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return float(fields["VmHWM"].split()[0]) * 1024
