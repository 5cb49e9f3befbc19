"""ssh and scp over one shared connection: what one would use in a guest that has a network."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from types import TracebackType

from scripts.bench import child
from scripts.vm import VM

PATIENCE = 60.0  # seconds until sshd listens: it starts beside everything else
RETRY = 1.0


class SharedSSH:
    """A connection to the guest's sshd that ssh and scp share. A context manager."""

    def __init__(self, vm: VM) -> None:
        self._options = ["-F", "/dev/null", "-i", str(vm.ssh_key), "-o", f"ControlPath={vm.run / 'ssh.ctl'}"]
        self._options += ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
        self._options += ["-o", "LogLevel=ERROR", "-o", "BatchMode=yes"]
        self._port = str(vm.ssh_port)
        master = self._ssh("-o", "ControlMaster=yes", "-o", "ControlPersist=yes", "-f", "-N")
        deadline = time.monotonic() + PATIENCE
        # Its output goes nowhere: a pipe would stay open as long as the connection.
        while subprocess.run(master, stderr=subprocess.DEVNULL, check=False).returncode:
            if time.monotonic() > deadline:
                raise RuntimeError(f"no connection to the guest's sshd within {PATIENCE:g} s: {' '.join(master)}")
            time.sleep(RETRY)

    def command(self, *remote: str) -> list[str]:
        """What runs a command in the guest."""
        return [*self._ssh(), *remote]

    def upload(self, local: Path, remote: str) -> child.Child:
        """Copy a file to the guest."""
        return child.run([*self._scp(), str(local), f"root@127.0.0.1:{remote}"])

    def download(self, remote: str, local: Path) -> child.Child:
        """Copy a file of the guest."""
        return child.run([*self._scp(), f"root@127.0.0.1:{remote}", str(local)])

    def __enter__(self) -> SharedSSH:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        subprocess.run(self._ssh("-O", "exit"), stderr=subprocess.DEVNULL, check=False)

    def _ssh(self, *options: str) -> list[str]:
        return ["ssh", *self._options, "-p", self._port, *options, "root@127.0.0.1"]

    def _scp(self) -> list[str]:
        return ["scp", "-q", *self._options, "-P", self._port]
