"""Where the port of the tests is: on a simulator, or the spare port of the real VM."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Iterator, cast

from port_driver import PATIENCE, Agent, PortUnderTest, until
from portsim import Simulator

if TYPE_CHECKING:
    from scripts.vm import VM

AGENT = Path(__file__).with_name("port_agent.py")
GUEST_AGENT = f"/root/{AGENT.name}"
UNIT = "port-agent"

# Of the spare port: the VM's other ports have lower ones as it starts, and the controller has no higher ones. One run
# uses less than half of them, and has a reset in it, after which all are as good as new.
FIRST_NUMBER, LAST_NUMBER = 5, 30


@contextmanager
def local_agent() -> Iterator[Agent]:
    """port_agent.py on this machine, for any number of simulators."""
    command = [sys.executable, str(AGENT)]
    environment = {**os.environ, "PYTHONPATH": str(AGENT.parents[1])}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        yield Agent(cast(BinaryIO, process.stdin), cast(BinaryIO, process.stdout))
        assert process.stdin
        process.stdin.close()


class SimulatedPort(PortUnderTest):
    def __init__(self, directory: Path, agent: Agent) -> None:
        super().__init__()
        self._agent = agent
        self._simulator = Simulator(directory)
        self.device, self.socket_path = self._simulator.guest_path, self._simulator.host_path

    @property
    def agent(self) -> Agent:
        return self._agent

    @property
    def served(self) -> bool:
        return self._simulator.state().host_client

    def unplug(self) -> None:
        self._simulator.unplug()

    def replug(self, new_number: bool = False) -> None:
        self._simulator.replug(new_number)

    def pause(self) -> None:
        self._simulator.pause()

    def resume(self) -> None:
        self._simulator.resume()

    def reset(self) -> None:
        self.agent.call("kill_all")
        self._simulator.reset()

    def end(self) -> None:
        super().end()
        self._simulator.close()


class GuestAgentProcess:
    """port_agent.py in the guest, and the connection to it over the control port, through all boots of the VM."""

    def __init__(self, vm: VM) -> None:
        self._vm = vm
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(2 * PATIENCE)
        self._socket.connect(str(vm.control_socket))
        self._streams = self._socket.makefile("wb"), self._socket.makefile("rb")
        self.start()

    def start(self) -> None:
        # An earlier one may be there: of a run that was broken off, if the VM outlived it.
        self._vm.ga.exec(["/bin/systemctl", "stop", UNIT])
        self._vm.ga.write_file(GUEST_AGENT, AGENT.read_bytes())  # anew: a reset may lose what was just written
        device = "/dev/virtio-ports/test.control.0"
        # In a boot the device may come later than the guest agent's.
        script = f"until test -e {device}; do sleep 0.05; done; exec python3 {GUEST_AGENT} {device}"
        self._vm.ga.check(["/usr/bin/systemd-run", f"--unit={UNIT}", "--collect", "/bin/sh", "-c", script])
        self.agent = Agent(*self._streams)

    def stop(self) -> None:
        self._vm.ga.exec(["/bin/systemctl", "stop", UNIT])
        for stream in self._streams:
            stream.close()
        self._socket.close()


class RealPort(PortUnderTest):
    device = "/dev/virtio-ports/test.spare.0"

    def __init__(self, vm: VM, guest: GuestAgentProcess) -> None:
        super().__init__()
        self._vm = vm
        self._guest = guest
        self.socket_path = str(vm.spare_socket)

    @property
    def agent(self) -> Agent:
        return self._guest.agent

    @property
    def served(self) -> bool:
        filename = next(each["filename"] for each in self._vm.qmp("query-chardev") if each["label"] == "spare")
        return not filename.startswith("disconnected:")

    def unplug(self) -> None:
        self._number = int(self._link().rpartition("p")[2])  # ../vport1p5
        self._vm.unplug_spare_port()
        until(lambda: not self._link(), f"{self.device} vanishes")

    def replug(self, new_number: bool = False) -> None:
        if new_number:
            following = self._number + 1
            self._number = following if FIRST_NUMBER <= following <= LAST_NUMBER else FIRST_NUMBER
        self._vm.replug_spare_port(self._number)
        until(self._link, f"{self.device} comes back")

    def pause(self) -> None:
        self._vm.pause()

    def resume(self) -> None:
        self._vm.resume()

    def reset(self) -> None:
        self._vm.reset()
        self._guest.start()

    def _link(self) -> str:
        target: str = self.agent.call("link", 0, self.device)
        return target
