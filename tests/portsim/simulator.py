"""What a test holds: a simulator that runs in a thread or in a process of its own, and is told what to do."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from portsim.machine import GUEST, HOST, Machine
from portsim.options import Options
from portsim.protocol import CONTROL

_SECONDS = 30.0  # until a request is answered, or the process ended
_MAX_ANSWER = 4096


@dataclass(frozen=True)
class State:
    """How things stand. The counters begin with the simulator."""

    host_client: bool  # one is served
    guest_open: bool
    plugged: bool
    running: bool  # not paused
    up: bool  # the guest has booted
    throttled: bool  # QEMU waits for the client to read
    lost_descriptors: int  # of the 128 for output, those that the guest never gets back
    free_descriptors: int  # those that the guest can write into
    queued_output: int  # descriptors that QEMU has not taken
    unread_input: int  # descriptors of input that the guest has not read
    clients: int  # served, since the simulator began
    opens: int
    bytes_to_guest: int
    bytes_to_host: int


class Simulator:
    """A simulated port, from the beginning of the `with` block to its end.

    Attributes:
        host_path: QEMU's socket, for clients on the host.
        guest_path: what open_port() opens in the guest.
    """

    def __init__(
        self, directory: str | os.PathLike[str], options: Options | None = None, process: bool = False
    ) -> None:
        """`process`: run as a process of its own, which leaves this one's interpreter lock alone."""
        self._directory = Path(directory)
        self.host_path = str(self._directory / HOST)
        self.guest_path = str(self._directory / GUEST)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._process: subprocess.Popen[bytes] | None = None
        if process:
            self._process = _spawn(self._directory, options or Options())
        else:
            machine = Machine(self._directory, options or Options())
            self._thread = threading.Thread(target=machine.run, name="portsim", daemon=True)
            self._thread.start()
        self._control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.settimeout(_SECONDS)
        self._control.connect(str(self._directory / CONTROL))

    def pause(self) -> None:
        """Stop the guest's CPUs: its processes get no answer until resume(), and QEMU's port hears of no client."""
        self._request("pause")

    def resume(self) -> None:
        self._request("resume")

    def unplug(self) -> None:
        """Take the port away: the open file answers ENODEV for ever. The host's client stays connected."""
        self._request("unplug")

    def replug(self, new_number: bool = False) -> None:
        """Bring it back, as a new device. Descriptors that are lost stay so, unless it gets a new number ("nr")."""
        self._request("replug", new_number=new_number)

    def reset(self, boot: bool = True) -> None:
        """Reset the guest: the open file dies, and with it what QEMU had read; the host's client stays connected.

        `boot`: come up again at once; else boot() does it, and until then nobody can open the port.
        """
        self._request("reset", boot=boot)

    def boot(self) -> None:
        self._request("boot")

    def rebind(self) -> None:
        """Unbind the guest's driver and bind it again: for the port like a reset."""
        self._request("rebind")

    def configure(self, **changes: Any) -> None:
        """Change some Options from now on. Raises ValueError for wrong ones."""
        self._request("configure", **changes)

    def state(self) -> State:
        return State(**self._request("state"))

    def close(self) -> None:
        self._request("stop")
        self._control.close()
        if self._thread:
            self._thread.join(_SECONDS)
        if self._process:
            self._process.communicate(timeout=_SECONDS)

    def __enter__(self) -> Simulator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _request(self, name: str, **arguments: Any) -> Any:
        with self._lock:
            self._control.send(json.dumps([name, arguments]).encode())
            outcome, result = json.loads(self._control.recv(_MAX_ANSWER))
        if outcome == "error":
            raise ValueError(result)
        return result


def _spawn(directory: Path, options: Options) -> subprocess.Popen[bytes]:
    """Start `python -m portsim`, which ends when its standard input does; returns once its sockets are there."""
    path = os.pathsep.join([str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "portsim", str(directory), "--exit-with-stdin"]
    command += ["--options", json.dumps(dataclasses.asdict(options))]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}
    )
    assert process.stdout
    if not process.stdout.readline():
        raise RuntimeError(f"the simulator did not start (code {process.wait()})")
    return process
