"""A port as QEMU has it: the socket of chardev/char-socket.c behind hw/char/virtio-console.c and virtio-serial-bus.c.

What is unkind here is so in QEMU's code, and named after it:

- One client is served; the others wait in the listen queue, and are served even if they have left by then.
- A pass of the main loop reads at most 4096 bytes, and only then looks whether the client has left (tcp_chr_hup): what
  else it said is lost.
- virtio_serial_close() drops all output, and a descriptor that could not be sent whole is never given back: that of a
  client that had stopped reading, and that of a write which met the socket of one that had just gone.
- A write that meets such a socket while the guest has no room for input ends the client itself (tcp_chr_write), and
  only then calls the port throttled (flush_buf): the next client gets nothing.
- The descriptors stay lost when the port is unplugged and plugged in again under the same number, whose virtqueues it
  gets. Only another number, or a reset of the device, has them all.
- While the VM is paused, the port hears of no client that comes or leaves (enable_backend), but output that waits for
  the socket is tried once more when the client leaves, fails, and stays "throttled" with nobody to end that.
"""

from __future__ import annotations

import random
import select
import socket
import time
from pathlib import Path

from portsim.driver import DriverPort
from portsim.loop import Loop
from portsim.options import BACKLOG, Options

_IN, _OUT, _HUP = select.EPOLLIN, select.EPOLLOUT, select.EPOLLHUP


class QemuPort:
    """The host's end of the port: a listening socket, at most one client, and the queues of the guest's driver."""

    def __init__(self, loop: Loop, path: Path, options: Options, chance: random.Random) -> None:
        self.options = options
        self.plugged = True
        self.running = True
        self._loop = loop
        self._chance = chance
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(BACKLOG)
        self._listener.setblocking(False)
        self._loop.watch(self._listener.fileno(), _IN, self._accept)
        self._client: socket.socket | None = None
        self._client_events = 0  # that we wait for
        self._client_flags = 0  # that came in this round
        self._driver: DriverPort | None = None
        self._connected = False  # host_connected of VirtIOSerialPort
        self._rest: memoryview | None = None  # elem of VirtIOSerialPort, from iov_offset on
        self._watch = False  # of VirtConsole: for the socket to take output again
        self._next_read = self._next_output = 0.0
        self._number = 0  # of the port; its virtqueues are those of the number, and outlive the port
        self._lost: dict[int, int] = {}  # descriptors, by number
        self.throttled = False
        self.clients = 0
        self.bytes_to_guest = 0
        self.bytes_to_host = 0

    @property
    def has_client(self) -> bool:
        return self._client is not None

    @property
    def lost_descriptors(self) -> int:
        return self._lost.get(self._number, 0)

    # -- what is done to the machine

    def pause(self) -> None:
        self.running = False

    def resume(self) -> None:
        self.running = True
        if self._client:
            self._on_opened()

    def unplug(self) -> None:
        """What the client has sent goes too where the guest had the port open: it gives its buffers back at once, and
        QEMU's port reads into them until it is finalized."""
        if self._driver:
            self._driver.discard_input()
        while self._client and self._can_read() and self._read():
            pass
        self._lose_rest()
        if self._driver:
            self._driver.unplug()
        self._driver = None
        self.plugged = self._connected = self.throttled = self._watch = False

    def plug(self, new_number: bool) -> None:
        self.plugged = True
        if new_number:
            self._number += 1
        if self._client:
            self._on_opened()

    def attach(self, driver: DriverPort) -> None:
        """The guest's driver is ready for the port."""
        self._driver = driver
        driver.begin(self.lost_descriptors)
        if self._connected:
            self._announce(True)

    def detach(self) -> None:
        """The guest's driver stopped, or the guest did: the device is reset, with all its virtqueues."""
        if self._driver:
            self._driver.unplug()
        self._driver = self._rest = None
        self._lost.clear()

    def close(self) -> None:
        for sock in (self._client, self._listener):
            if sock:
                sock.close()

    # -- each round of the loop

    def settle(self, now: float) -> None:
        """At the end of a round: serve first the guest and then the client, as QEMU's main loop has them in that order;
        so the guest's output may meet a client that has gone before its going is noticed."""
        if self._driver and self._driver.kicked:
            self._handle_output(self._driver, now)
        if self._client and self._client_flags:
            self._serve_client(self._client_flags)
        self._client_flags = 0
        if self._client:
            events = (_IN if self._can_read() and now >= self._next_read else 0) | (_OUT if self._watch else 0)
            if events != self._client_events:
                self._loop.change(self._client.fileno(), events)
                self._client_events = events

    def deadlines(self, now: float) -> list[float]:
        """When there is something to do although no descriptor is ready."""
        times = []
        if self._next_read > now and self._client and self._can_read():
            times.append(self._next_read)
        if self._driver and self._driver.kicked:
            times.append(self._next_output)
        return times

    # -- chardev/char-socket.c

    def _accept(self, _: int) -> None:
        try:
            client, _address = self._listener.accept()
        except BlockingIOError:
            return
        client.setblocking(False)
        self.clients += 1
        self._loop.forget(self._listener.fileno())
        self._loop.watch(client.fileno(), 0, self._on_client)
        self._client, self._client_events = client, 0
        self._on_opened()

    def _on_client(self, flags: int) -> None:
        self._client_flags = flags

    def _serve_client(self, flags: int) -> None:
        client = self._client
        if (
            flags & _IN or (flags & _HUP and self._next_read)
        ) and self._can_read():  # what it says last is not lost to a delay
            self._read()
        if self._client is client and flags & _HUP:
            self._disconnect()
            if self._watch:  # the watch ends with a HUP too; nobody removed it, so the VM is paused
                self._on_unblocked()
        elif self._client is client and flags & _OUT and self._watch:
            self._on_unblocked()

    def _can_read(self) -> bool:
        """tcp_chr_read_poll: whether anybody wants to hear of the client, and the guest has room."""
        return self.plugged and self.running and self._driver is not None and self._driver.takes_input

    def _read(self) -> bool:
        """tcp_chr_read: one piece for the guest; False where there is none now, or no more."""
        assert self._client
        assert self._driver
        try:
            data = self._client.recv(self.options.host_read_max)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:  # also where the client has only shut down its writing side
            self._disconnect()
            return False
        self.bytes_to_guest += len(data)
        if self.options.host_read_delay:
            self._next_read = time.monotonic() + self.options.host_read_delay
        self._driver.deliver(data)
        return True

    def _disconnect(self) -> None:
        assert self._client
        self._loop.forget(self._client.fileno())
        self._client.close()
        self._client = None
        self._loop.watch(self._listener.fileno(), _IN, self._accept)
        self._on_closed()

    def _send(self, data: memoryview) -> int:
        """tcp_chr_write: bytes that the socket took now, -1 where it is broken or there is none."""
        if not self._client:
            return -1
        sent = 0
        try:
            while sent < len(data):
                sent += self._client.send(data[sent:])
        except BlockingIOError:
            pass
        except OSError:
            if not self._can_read():  # else the read handler finds out
                self._disconnect()
            return -1
        finally:
            self.bytes_to_host += sent
        return sent

    # -- hw/char/virtio-console.c

    def _on_opened(self) -> None:
        if self.plugged and self.running and not self._connected:
            self._connected = True
            self._announce(True)

    def _on_closed(self) -> None:
        if not (self.plugged and self.running):
            return
        self._watch = self._connected = self.throttled = False
        self._lose_rest()
        if self._driver:
            self._driver.discard_output()
        self._announce(False)

    def _lose_rest(self) -> None:
        if self._rest is not None:  # discard_throttle_data detaches the element; the guest never gets it back
            self._rest = None
            self._lost[self._number] = self.lost_descriptors + 1

    def _on_unblocked(self) -> None:
        self._watch = self.throttled = False
        if self._driver:
            self._flush(self._driver, time.monotonic())

    def _flush_buf(self, data: memoryview) -> int:
        sent = self._send(data)
        if sent < len(data):
            self.throttled = True
            self._watch = self._client is not None
        return max(sent, 0)

    # -- hw/char/virtio-serial-bus.c

    def _handle_output(self, driver: DriverPort, now: float) -> None:
        if not self._connected:
            driver.kicked = False
            driver.discard_output()
        elif self.throttled:
            driver.kicked = False
        else:
            self._flush(driver, now)

    def _flush(self, driver: DriverPort, now: float) -> None:
        """do_flush_queued_data: send until the queue is empty or the socket full."""
        if now < self._next_output:
            driver.kicked = True
            return
        driver.kicked = False
        used = 0
        while not self.throttled:
            if self._rest is None:
                data = driver.pop()
                if data is None:
                    break
                self._rest = memoryview(data)
            sent = self._flush_buf(self._rest)
            if self._rest is None:  # the client turned out to have left
                break
            if self.throttled:
                self._rest = self._rest[sent:]
                break
            self._rest = None
            used += 1
            if self.options.output_delay:
                self._next_output = now + self.options.output_delay
                driver.kicked = True
                break
        if used:
            driver.push(used)

    def _announce(self, client: bool) -> None:
        if self._driver:
            delay = self.options.news_delay + self.options.news_jitter * self._chance.random()
            self._driver.announce(client, time.monotonic() + delay)
