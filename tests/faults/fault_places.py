"""Where faults happen: a guest daemon behind a port, simulated or of the real VM, that can be broken in every way.

A Place has the host's socket and what a test does to the guest; it starts nothing on the host.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from portsim import Simulator
from portsim.options import DESCRIPTORS

if TYPE_CHECKING:
    from scripts.vm import VM

_PATIENCE = 60.0
_REBIND_IDLE = 10.0  # seconds without a client after which a daemon that may heals its port (transports/serial.py)
_CONFIG = "/etc/vsrpc/guest.yaml"

# In the guest: how many writes of 32 KiB fit while the host's client reads nothing.
_FILL = """
import os, select, time
fd = os.open("/dev/virtio-ports/test.vserial.0", os.O_RDWR | os.O_NONBLOCK)
poll = select.poll()
poll.register(fd, select.POLLOUT)
deadline = time.monotonic() + 30
while not dict(poll.poll(100)).get(fd, 0) & select.POLLOUT and time.monotonic() < deadline:
    pass
count, last = 0, time.monotonic()
while time.monotonic() < last + 1:
    try:
        os.write(fd, bytes(32768))
        count, last = count + 1, time.monotonic()
    except BlockingIOError:
        time.sleep(0.01)
print(count)
"""
_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Usage:
    """What the daemon uses: a leak of any of these shows after enough cycles."""

    threads: int
    descriptors: int
    memory: int  # resident bytes


class Place(Protocol):
    """A guest behind a port. `effects` is a directory of the guest that calls may write to."""

    name: str
    socket: str
    effects: str

    def kill_daemon(self) -> None:
        """SIGKILL; somebody starts it again."""

    def restart_daemon(self) -> None:
        """Stop it properly, and start it again."""

    def replug(self) -> None:
        """Unplug the port and plug it in again."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def jump_clock(self, seconds: int) -> None:
        """Set the guest's clock forward, or back; nothing where that would be the host's."""

    def distort(self, **changes: Any) -> None:
        """Make the port worse, where that can be: see portsim.Options."""

    def healed_output(self) -> int:
        """How much output the port takes before its client reads any, once the daemon has had the time to heal it: in
        descriptors, and what the client's socket takes as well."""

    def usage(self) -> Usage: ...

    def read_effects(self, name: str) -> list[str]:
        """The lines of a file among the effects."""

    def leftovers(self) -> list[str]:
        """Temporary files that a daemon should have removed."""


class SimulatedPlace:
    """The real daemon, in a process of its own, on a simulated port."""

    name = "simulated port"

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        (directory / "port").mkdir()
        (directory / "effects").mkdir()
        self._simulator = Simulator(directory / "port", process=True)
        self.socket = self._simulator.host_path
        self.effects = str(directory / "effects")
        self._config = directory / "guest.yaml"
        self._config.write_text(
            json.dumps(
                {
                    "device": {"allow_rebind": True},
                    "security": {"allowed_paths": [self.effects]},
                    "logging": {"level": "WARNING"},
                }
            )
        )
        self._log = (directory / "daemon.log").open("ab")
        self._daemon = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        path = os.pathsep.join([str(_ROOT), str(_ROOT / "tests")])
        command = [sys.executable, "-m", "portsim.daemon", self._simulator.guest_path, "--config", str(self._config)]
        daemon = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=self._log, env={**os.environ, "PYTHONPATH": path}
        )
        assert daemon.stdout is not None
        assert daemon.stdout.readline() == b"serving\n", self.log()
        return daemon

    def _end(self, number: int, code: int) -> None:
        assert self._daemon.poll() is None, f"the daemon has exited:\n{self.log()}"
        self._daemon.send_signal(number)
        assert self._daemon.wait(_PATIENCE) == code, self.log()
        assert self._daemon.stdout is not None
        self._daemon.stdout.close()

    def log(self) -> str:
        return (self._directory / "daemon.log").read_text()[-4000:]

    def kill_daemon(self) -> None:
        self._end(signal.SIGKILL, -signal.SIGKILL)
        self._daemon = self._start()

    def restart_daemon(self) -> None:
        self._end(signal.SIGTERM, 0)
        self._daemon = self._start()

    def replug(self) -> None:
        self._simulator.unplug()
        self._simulator.replug()

    def pause(self) -> None:
        self._simulator.pause()

    def resume(self) -> None:
        self._simulator.resume()

    def jump_clock(self, seconds: int) -> None:
        pass

    def distort(self, **changes: Any) -> None:
        self._simulator.configure(**changes)

    def healed_output(self) -> int:
        deadline = time.monotonic() + _PATIENCE
        while True:
            state = self._simulator.state()
            free = state.free_descriptors
            if (free == DESCRIPTORS and state.guest_open) or time.monotonic() > deadline:
                return free
            time.sleep(0.1)

    def usage(self) -> Usage:
        process = Path(f"/proc/{self._daemon.pid}")
        return _usage((process / "status").read_text(), len(list((process / "fd").iterdir())))

    def read_effects(self, name: str) -> list[str]:
        path = Path(self.effects) / name
        return path.read_text().splitlines() if path.exists() else []

    def leftovers(self) -> list[str]:
        return [path.name for path in Path(self.effects).iterdir() if path.name.startswith(".")]

    def close(self) -> None:
        try:
            self._end(signal.SIGTERM, 0)
        finally:
            self._simulator.close()
            self._log.close()

    def __enter__(self) -> SimulatedPlace:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


class VMPlace:
    """The real VM and its port."""

    name = "virtio-serial port of a VM"
    effects = "/tmp/faults"

    def __init__(self, vm: VM) -> None:
        self._vm = vm
        self._config = vm.ga.read_file(_CONFIG)
        vm.ga.write_file(_CONFIG, self._config.replace(b"allow_rebind: false", b"allow_rebind: true"), 0o600)
        self.restart_daemon()
        vm.wait_daemon()
        self.socket = str(vm.socket)
        vm.ga.check(["/bin/rm", "-rf", self.effects])
        vm.ga.check(["/bin/mkdir", self.effects])

    def kill_daemon(self) -> None:
        self._vm.ga.check(["/bin/systemctl", "kill", "-s", "KILL", "vsrpc-guest"])

    def restart_daemon(self) -> None:
        self._vm.ga.check(["/bin/systemctl", "restart", "vsrpc-guest"])

    def replug(self) -> None:
        self._vm.unplug_port()
        self._vm.replug_port()

    def pause(self) -> None:
        self._vm.pause()

    def resume(self) -> None:
        self._vm.resume()

    def jump_clock(self, seconds: int) -> None:
        self._vm.ga.check(["/bin/date", "-s", f"{seconds:+d} seconds"])

    def distort(self, **changes: Any) -> None:
        pass  # it is what it is

    def healed_output(self) -> int:
        time.sleep(2 * _REBIND_IDLE)  # without a client: nobody can see the port's queue
        self._vm.ga.check(["/bin/systemctl", "stop", "vsrpc-guest"])
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(self.socket)
            self._vm.ga.write_file("/root/fill.py", _FILL.encode())
            count = int(self._vm.ga.check(["/usr/bin/python3", "/root/fill.py"]))
            client.settimeout(1)
            try:
                while client.recv(1 << 20):
                    pass
            except TimeoutError:
                pass
        self._vm.ga.check(["/bin/systemctl", "start", "vsrpc-guest"])
        self._vm.wait_daemon()
        return count

    def usage(self) -> Usage:
        script = "pid=$(systemctl show --value -p MainPID vsrpc-guest); cat /proc/$pid/status; ls /proc/$pid/fd | wc -l"
        text = self._vm.ga.check(["/bin/sh", "-c", script]).decode()
        return _usage(text, int(text.split()[-1]))

    def read_effects(self, name: str) -> list[str]:
        done = self._vm.ga.exec(["/bin/cat", f"{self.effects}/{name}"])
        return done.stdout.decode().splitlines()

    def leftovers(self) -> list[str]:
        found = self._vm.ga.check(["/usr/bin/find", self.effects, "-name", ".*"]).decode()
        return found.split()

    def close(self) -> None:
        """Leave the VM as it was: a daemon that binds the driver anew takes the other ports of its controller away."""
        self._vm.ga.write_file(_CONFIG, self._config, 0o600)
        self.restart_daemon()
        self._vm.wait_daemon()

    def __enter__(self) -> VMPlace:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def _usage(status: str, descriptors: int) -> Usage:
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return Usage(int(fields["Threads"]), descriptors, int(fields["VmRSS"].split()[0]) * 1024)
