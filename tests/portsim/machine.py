"""QEMU and the guest in one thread, and what a test does to them: the control socket's requests.

A request is a JSON array [name, arguments], where the name is that of a method here; the answer is ["ok", result] or
["error", why].
"""

from __future__ import annotations

import dataclasses
import json
import random
import select
import socket
import time
from functools import partial
from pathlib import Path
from typing import Any, Callable

from portsim.driver import DriverPort
from portsim.guest import Guest
from portsim.loop import Loop
from portsim.options import Options
from portsim.protocol import CONTROL
from portsim.qemu import QemuPort

HOST, GUEST = "host.sock", "guest.sock"
MAX_REQUEST = 4096


class Machine:
    """Listens in `directory` from the start; run() serves until a request to stop."""

    def __init__(self, directory: Path, options: Options) -> None:
        self._options = options
        self._chance = random.Random(options.seed)
        self._loop = Loop()
        directory.mkdir(exist_ok=True)
        for name in (HOST, GUEST, CONTROL):
            (directory / name).unlink(missing_ok=True)
        self._qemu = QemuPort(self._loop, directory / HOST, options, self._chance)
        self._guest = Guest(self._loop, directory / GUEST)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(directory / CONTROL))
        self._listener.listen()
        self._loop.watch(self._listener.fileno(), select.EPOLLIN, self._on_controller)
        self._controllers: set[socket.socket] = set()
        self._stopping = False
        self._attach()

    def run(self) -> None:
        now = time.monotonic()
        while not self._stopping:
            self._loop.round(min([*self._qemu.deadlines(now), *self._guest.deadlines()], default=None))
            now = time.monotonic()
            self._qemu.settle(now)
            self._guest.settle(now)
        self._qemu.close()
        self._guest.close()
        for sock in (*self._controllers, self._listener):
            sock.close()
        self._loop.close()

    # -- what a test asks for

    def pause(self) -> None:
        if not self._qemu.running:
            raise ValueError("the VM is paused already")
        self._qemu.pause()
        self._guest.pause()

    def resume(self) -> None:
        if self._qemu.running:
            raise ValueError("the VM is not paused")
        self._qemu.resume()
        self._guest.resume()

    def unplug(self) -> None:
        if not self._qemu.plugged:
            raise ValueError("the port is unplugged already")
        self._qemu.unplug()
        self._guest.driver = None

    def replug(self, new_number: bool = False) -> None:
        if self._qemu.plugged:
            raise ValueError("the port is plugged in already")
        self._qemu.plug(new_number)
        self._attach()

    def reset(self, boot: bool = True) -> None:
        self._detach()
        self._guest.up = False
        if boot:
            self.boot()

    def boot(self) -> None:
        if self._guest.up:
            raise ValueError("the guest is up already")
        self._guest.up = True
        self._attach()

    def rebind(self) -> None:
        if not self._guest.up:
            raise ValueError("the guest is down")
        self._detach()
        self._attach()

    def configure(self, **changes: Any) -> None:
        self._options = dataclasses.replace(self._options, **changes)
        self._qemu.options = self._options
        if self._guest.driver:
            self._guest.driver.options = self._options

    def state(self) -> dict[str, Any]:
        qemu, driver = self._qemu, self._guest.driver
        return {
            "host_client": qemu.has_client,
            "guest_open": bool(driver and driver.opened),
            "plugged": qemu.plugged,
            "running": qemu.running,
            "up": self._guest.up,
            "throttled": qemu.throttled,
            "lost_descriptors": qemu.lost_descriptors,
            "free_descriptors": driver.free if driver else 0,
            "queued_output": driver.queued if driver else 0,
            "unread_input": driver.unread if driver else 0,
            "clients": qemu.clients,
            "opens": self._guest.opens,
            "bytes_to_guest": qemu.bytes_to_guest,
            "bytes_to_host": qemu.bytes_to_host,
        }

    def stop(self) -> None:
        self._stopping = True

    # -- how it asks

    def _on_controller(self, _: int) -> None:
        controller, _address = self._listener.accept()
        self._controllers.add(controller)
        self._loop.watch(controller.fileno(), select.EPOLLIN, partial(self._on_control, controller))

    def _on_control(self, controller: socket.socket, _: int) -> None:
        request = controller.recv(MAX_REQUEST)
        if not request:
            self._loop.forget(controller.fileno())
            self._controllers.remove(controller)
            controller.close()
            return
        name, arguments = json.loads(request)
        method: Callable[..., Any] = getattr(self, name)
        try:
            answer = ["ok", method(**arguments)]
        except ValueError as refusal:
            answer = ["error", str(refusal)]
        controller.send(json.dumps(answer).encode())

    def _attach(self) -> None:
        """The guest's driver finds the port, if both are there."""
        if self._guest.up and self._qemu.plugged:
            self._guest.driver = DriverPort(self._options, self._chance, self._guest.wake)
            self._qemu.attach(self._guest.driver)

    def _detach(self) -> None:
        self._qemu.detach()
        self._guest.driver = None
