"""SerialListener on a real virtio-serial port: the contract of the transports, and what only a port does.

The guest's end is port_guest.py on the spare port; each of the host's clients tells it in its first line what to do.
"""

from __future__ import annotations

import hashlib
import json
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Iterator

import pytest

from scripts.vm.qmp import connect

if TYPE_CHECKING:
    from scripts.vm import VM

DEVICE = "/dev/virtio-ports/test.spare.0"
PATIENCE = 60.0  # seconds; software emulation on a busy machine
PIECE = bytes(range(256)) * 4096

# Seconds between two clients: the guest drops what the next one says until it has seen that the last one left, and it
# sees nothing of a client that is replaced at once (the link leaves such a pause between its attempts too).
LEAVE_TIME = 0.5


class Guest:
    """port_guest.py in the guest, as a unit of its systemd."""

    def __init__(self, vm: VM) -> None:
        self._vm = vm
        self._units = 0
        vm.ga.write_file("/root/port_guest.py", (Path(__file__).parent / "port_guest.py").read_bytes())
        self.start()

    def start(self, *arguments: str) -> str:
        """Start it (once more); the name of its unit."""
        self._units += 1
        unit = f"port-test-{self._units}"
        self._vm.ga.check(["/bin/rm", "-f", self._log(unit)])
        command = ["/usr/bin/python3", "/root/port_guest.py", DEVICE, self._log(unit), *arguments]
        self._vm.ga.check(["/usr/bin/systemd-run", f"--unit={unit}", "--collect", *command])
        self.until(unit, lambda events: events)
        self.unit = unit
        return unit

    def stop(self, unit: str) -> None:
        self._vm.ga.check(["/bin/systemctl", "stop", unit])

    def stop_all(self) -> None:
        self._vm.ga.exec(["/bin/systemctl", "stop", "port-test-*"])

    def kill(self) -> None:
        self._vm.ga.check(["/bin/systemctl", "kill", "-s", "KILL", self.unit])

    def events(self, unit: str = "") -> list[list[Any]]:
        text = self._vm.ga.exec(["/bin/cat", self._log(unit or self.unit)]).stdout.decode()
        return [json.loads(line) for line in text.splitlines()]

    def until(self, unit: str, condition: Callable[[list[list[Any]]], Any]) -> Any:
        deadline = time.monotonic() + PATIENCE
        while True:
            value = condition(self.events(unit))
            if value:
                return value
            assert time.monotonic() < deadline, f"the guest's log never showed it: {self.events(unit)}"
            time.sleep(0.1)

    def logged(self, kind: str) -> list[Any]:
        """The first event of that kind, once it has come."""
        event: list[Any] = self.until(
            self.unit, lambda events: next((each for each in events if each[0] == kind), None)
        )
        return event

    def cpu(self) -> float:
        """Seconds of CPU that it has used."""
        words = ["/bin/systemctl", "show", "--value", "-p", "CPUUsageNSec", self.unit]
        return int(self._vm.ga.check(words)) / 1e9

    @staticmethod
    def _log(unit: str) -> str:
        return f"/run/{unit}.log"


@pytest.fixture
def guest(vm: VM) -> Iterator[Guest]:
    guest = Guest(vm)
    yield guest
    guest.stop_all()


def client(vm: VM, line: str = "") -> socket.socket:
    """A new client of the port, some time after the last one left, that has said its line."""
    time.sleep(LEAVE_TIME)
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(PATIENCE)
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            sock.connect(str(vm.spare_socket))
            break
        except BlockingIOError:
            assert time.monotonic() < deadline, "the port's queue never had room"
    if line:
        sock.sendall(line.encode() + b"\n")
    return sock


def read(sock: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        piece = sock.recv(min(1 << 18, count - len(data)))
        assert piece, f"the port closed after {len(data)} of {count} bytes"
        data += piece
    return bytes(data)


def echo(vm: VM, data: bytes = b"are you there?", size: int = 1 << 16) -> None:
    """One whole exchange by a client of its own."""
    with client(vm, f"echo {len(data)} {size}") as sock:
        sending = threading.Thread(target=sock.sendall, args=(data,))
        sending.start()
        assert read(sock, len(data)) == data
        sending.join()


# -- bytes


@pytest.mark.parametrize(("count", "size"), [(1, 1), (2000, 1), (4096, 4096), (4097, 4096), (300_000, 7000)])
def test_bytes_come_whole_and_in_order(vm: VM, guest: Guest, count: int, size: int) -> None:
    echo(vm, bytes(index * 31 % 251 for index in range(count)), size)


def test_both_directions_full(vm: VM, guest: Guest) -> None:
    """More each way than fits (700 KB and 4.4 MB), with nobody reading at first."""
    with client(vm, "both 8") as sock:
        sending = threading.Thread(target=lambda: [sock.sendall(PIECE) for _ in range(8)])
        sending.start()
        guest.logged("client")
        assert hashlib.md5(read(sock, 8 * len(PIECE))).digest() == hashlib.md5(PIECE * 8).digest()
        sending.join()
        assert read(sock, 32).decode() == hashlib.md5(PIECE * 8).hexdigest()


# -- time, and closing from another thread


@pytest.mark.parametrize(
    ("kind", "outcome", "least"),
    [
        ("recv-timeout", "TransportTimeout", 0.3),
        ("send-timeout", "TransportTimeout", 0.5),
        ("close-recv", "TransportClosed", 0.5),
        ("close-send", "TransportClosed", 1.0),
    ],
)
def test_what_ends_a_wait(vm: VM, guest: Guest, kind: str, outcome: str, least: float) -> None:
    with client(vm, kind):
        _, result, seconds = guest.logged(kind)
    assert result == outcome
    assert least - 0.05 <= seconds < least + 5
    echo(vm)


def test_closing_the_listener_wakes_accept_and_leaves_nothing(vm: VM, guest: Guest) -> None:
    guest.stop(guest.unit)
    guest.start("close-listener-after", "1")
    assert guest.logged("listener closed") == ["listener closed", 0]


# -- clients that come and go


def test_clients_one_after_another(vm: VM, guest: Guest) -> None:
    for number in range(20):
        echo(vm, str(number).encode() * 1000)


@pytest.mark.parametrize(
    ("kind", "outcome"), [("recv", 0), ("send", "TransportClosed"), ("send-when-gone", "TransportClosed")]
)
def test_a_client_that_leaves(vm: VM, guest: Guest, kind: str, outcome: Any) -> None:
    sock = client(vm, kind)
    guest.logged("client")
    sock.close()
    assert guest.logged(kind)[1] == outcome
    echo(vm)


def test_last_words_arrive(vm: VM, guest: Guest) -> None:
    """Data beside HUP: read first, judge later."""
    client(vm, "last-words").close()
    guest.logged("last-words")
    echo(vm)


def test_what_follows_a_closed_transport_is_dropped_until_the_client_leaves(vm: VM, guest: Guest) -> None:
    with client(vm, "nothing") as sock:
        guest.logged("nothing")
        for _ in range(20):  # none of these lines is a client's first
            sock.sendall(b"smuggled\n" * 1000)
    echo(vm)
    assert [event for event in guest.events() if event[0] in ("smuggled", "client")] == [
        ["client", "nothing"],
        ["client", "echo", "14", "65536"],
    ]


def test_a_queued_client_is_served_next(vm: VM, guest: Guest) -> None:
    with client(vm, "recv") as first:
        guest.logged("client")
        waiting = client(vm, "echo 5 5")
        waiting.sendall(b"hello")
        first.close()
        # The guest may not see the change of clients: then the second one's line is the first one's data.
        waiting.settimeout(5)
        try:
            assert read(waiting, 5) == b"hello"
        except socket.timeout:
            assert guest.logged("recv")[1] > 0
        waiting.close()
    echo(vm)


# -- the port


def test_waiting_for_a_client_uses_no_cpu(vm: VM, guest: Guest) -> None:
    echo(vm)
    before, begun = guest.cpu(), time.monotonic()
    time.sleep(5)  # what is measured is time
    assert (guest.cpu() - before) / (time.monotonic() - begun) < 0.01


def test_waiting_for_a_silent_client_uses_no_cpu(vm: VM, guest: Guest) -> None:
    with client(vm, "recv"):
        guest.logged("client")
        before, begun = guest.cpu(), time.monotonic()
        time.sleep(5)
        assert (guest.cpu() - before) / (time.monotonic() - begun) < 0.01


def test_a_second_listener_waits_for_the_first(vm: VM, guest: Guest) -> None:
    first = guest.unit
    second = guest.start()
    assert guest.logged("warning") == ["warning", f"{DEVICE}: in use by another process; waiting for it"]
    guest.stop(first)
    echo(vm)
    assert ["client", "echo", "14", "65536"] in guest.events(second)


def unplug(vm: VM) -> None:
    with connect(vm.run / "qmp.sock") as qmp:
        qmp.command("device_del", id="spare-port")
        qmp.wait_event("DEVICE_DELETED")
    vm.ga.check(["/bin/sh", "-c", f"while test -e {DEVICE}; do sleep 0.1; done"])


def replug(vm: VM) -> None:
    port = {"driver": "virtserialport", "chardev": "spare", "id": "spare-port", "bus": "serial0.0"}
    vm.qmp("device_add", **port, name=DEVICE.rpartition("/")[2])


@pytest.mark.parametrize(("kind", "outcome"), [("", None), ("recv", 0), ("send", "TransportClosed")])
def test_unplug_and_replug_while_it_waits(vm: VM, guest: Guest, kind: str, outcome: Any) -> None:
    sock = client(vm, kind)
    if kind:
        guest.logged("client")
    else:
        sock.close()
    try:
        unplug(vm)
        if kind:
            assert guest.logged(kind)[1] == outcome
        assert "waiting" in guest.logged("warning")[1]
    finally:
        replug(vm)
        sock.close()
    echo(vm)


def test_a_killed_process_leaves_the_port_to_the_next(vm: VM, guest: Guest) -> None:
    with client(vm, "recv") as sock:
        guest.logged("client")
        guest.kill()
        guest.start()
        sock.sendall(b"echo 5 5\nhello")  # the client never learnt of it
        assert read(sock, 5) == b"hello"
