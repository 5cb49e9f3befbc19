"""What the simulator offers beyond the port: its own process, the guest daemon on it, and what makes it worse."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from portsim import Options, SimulatedPort, Simulator, open_port
from portsim.client import rebind_driver

from vsrpc.transports import serial, serial_transport
from vsrpc.transports.serial import SerialListener

TESTS = Path(__file__).resolve().parents[1]
PATIENCE = 30.0
DATA = bytes(index * 31 % 251 for index in range(20_000))


@pytest.fixture(params=[False, True], ids=["thread", "process"])
def simulator(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Simulator]:
    with Simulator(tmp_path, process=request.param) as simulator:
        yield simulator


@pytest.fixture
def client() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        yield client


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def until_client(port: SimulatedPort) -> None:
    """Wait until the guest knows of a client."""
    until(lambda: port.poll() == select.POLLOUT)


def read(port: SimulatedPort, count: int, size: int = 4096) -> tuple[bytes, set[int]]:
    """So many bytes, as a listener reads them; and how many each read gave."""
    data, counts = bytearray(), set()
    buffer = memoryview(bytearray(size))
    with select.epoll() as epoll:
        epoll.register(port.fileno(), select.EPOLLIN | select.EPOLLHUP | select.EPOLLET)
        while len(data) < count:
            try:
                got = port.read_into([buffer])
            except BlockingIOError:
                got = 0
            if got:
                data += buffer[:got]
                counts.add(got)
            else:
                assert epoll.poll(PATIENCE), f"no edge after {len(data)} bytes"
    return bytes(data), counts


def write(port: SimulatedPort, data: bytes, size: int = 32768) -> set[int]:
    """All of the data, as a transport writes it, in pieces of that size; how many bytes each write took."""
    rest, counts = memoryview(data), set()
    while rest:
        try:
            taken = port.write([rest[:size]])
        except BlockingIOError:
            assert port.wait_writable(PATIENCE * 1000) == select.POLLOUT
            continue
        counts.add(taken)
        rest = rest[taken:]
    return counts


def receive(client: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        data += client.recv(count - len(data))
    return bytes(data)


class Receiver(threading.Thread):
    """A client that reads all the time."""

    def __init__(self, client: socket.socket, count: int) -> None:
        super().__init__()
        self._client, self._count, self._data = client, count, b""
        self.start()

    def run(self) -> None:
        self._data = receive(self._client, self._count)

    def result(self) -> bytes:
        self.join(PATIENCE)
        return self._data


def test_both_directions_at_once(simulator: Simulator, client: socket.socket) -> None:
    port = open_port(simulator.guest_path)
    client.connect(simulator.host_path)
    data = DATA * 200
    until_client(port)
    sending = threading.Thread(target=client.sendall, args=(data,))
    writing = threading.Thread(target=write, args=(port, data))
    receiving = Receiver(client, len(data))
    sending.start()
    writing.start()
    assert read(port, len(data))[0] == data
    assert receiving.result() == data
    sending.join()
    writing.join()
    state = simulator.state()
    assert (state.bytes_to_guest, state.bytes_to_host, state.lost_descriptors) == (len(data), len(data), 0)
    port.close()


@pytest.mark.parametrize(
    ("options", "reads", "writes"),
    [
        ({"host_read_max": 1}, {1}, None),
        ({"host_read_max": 1000}, {1000}, None),
        ({"guest_read_max": 1}, {1}, None),
        ({"guest_write_max": 1}, None, {1}),
        ({"guest_write_max": 500}, None, {500}),
        ({"zero_write_rate": 0.5}, None, {0, 1000}),
        ({"host_read_delay": 0.002, "output_delay": 0.002, "news_delay": 0.02, "news_jitter": 0.01}, None, None),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_worse_ports_carry_the_same_bytes(
    tmp_path: Path, client: socket.socket, options: dict[str, Any], reads: set[int] | None, writes: set[int] | None
) -> None:
    with Simulator(tmp_path, Options(**options)) as simulator:
        port = open_port(simulator.guest_path)
        client.connect(simulator.host_path)
        client.sendall(DATA)
        data, counts = read(port, len(DATA))
        assert data == DATA
        assert reads is None or counts == reads
        until_client(port)
        receiving = Receiver(client, len(DATA))
        counts = write(port, DATA, 1000)
        assert writes is None or counts == writes
        assert receiving.result() == DATA
        port.close()


def test_chance_repeats_with_its_seed(tmp_path: Path, client: socket.socket) -> None:
    outcomes = []
    for seed in (1, 1, 2):
        with Simulator(tmp_path, Options(zero_write_rate=0.5, seed=seed)) as simulator, socket.socket(
            socket.AF_UNIX
        ) as other:
            port = open_port(simulator.guest_path)
            other.connect(simulator.host_path)
            until_client(port)
            outcomes.append([port.write([memoryview(b"x")]) for _ in range(50)])
            port.close()
    assert outcomes[0] == outcomes[1] != outcomes[2]


def test_options_can_change(simulator: Simulator, client: socket.socket) -> None:
    port = open_port(simulator.guest_path)
    client.connect(simulator.host_path)
    client.sendall(b"12345678")
    assert read(port, 8)[0] == b"12345678"
    simulator.configure(guest_read_max=3)
    client.sendall(b"12345678")
    assert read(port, 8)[1] == {3, 2}
    with pytest.raises(ValueError, match="guest_read_max is 0, not 1 to 4096"):
        simulator.configure(guest_read_max=0)
    port.close()


def test_the_port_is_free_when_its_process_was_killed(simulator: Simulator) -> None:
    program = "import sys, time, portsim; port = portsim.open_port(sys.argv[1]); print(flush=True); time.sleep(60)"
    for _ in range(3):
        command = [sys.executable, "-c", program, simulator.guest_path]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(TESTS)}) as holder:
            assert holder.stdout
            holder.stdout.readline()
            with pytest.raises(OSError, match="busy"):
                open_port(simulator.guest_path)
            holder.kill()
        open_port(simulator.guest_path).close()


def test_a_guest_that_is_down(simulator: Simulator, client: socket.socket) -> None:
    port = open_port(simulator.guest_path)
    simulator.reset(boot=False)
    with pytest.raises(OSError, match="No such device"):
        port.read_into([memoryview(bytearray(1))])
    with pytest.raises(OSError, match="No such device"):
        open_port(simulator.guest_path)
    client.connect(simulator.host_path)
    client.sendall(b"sent during boot")
    simulator.boot()
    new = open_port(simulator.guest_path)
    assert read(new, 16)[0] == b"sent during boot"
    port.close()
    new.close()


def test_rebinding_the_driver_heals_the_port(simulator: Simulator) -> None:
    port = open_port(simulator.guest_path)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(simulator.host_path)
        until_client(port)
        while not simulator.state().throttled:
            port.write([memoryview(bytes(32768))])
    until(lambda: not simulator.state().host_client)
    state = simulator.state()
    assert (state.lost_descriptors, state.free_descriptors) == (1, 127)
    simulator.rebind()
    state = simulator.state()
    assert (state.lost_descriptors, state.free_descriptors) == (0, 128)
    with pytest.raises(OSError, match="No such device"):
        port.write([memoryview(b"x")])
    port.close()


def test_nobody_of_a_paused_guest_is_answered(simulator: Simulator, client: socket.socket) -> None:
    port = open_port(simulator.guest_path)
    client.connect(simulator.host_path)
    until_client(port)
    simulator.pause()
    answers: list[int] = []
    asking = threading.Thread(target=lambda: answers.append(port.write([memoryview(b"hello")])))
    asking.start()
    client.settimeout(0.2)
    with pytest.raises(TimeoutError):
        client.recv(1)
    simulator.resume()
    asking.join()
    assert answers == [5]
    assert client.recv(10) == b"hello"
    port.close()


def test_the_daemon_serves_a_simulated_port(tmp_path: Path, client: socket.socket) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}
    config = tmp_path / "guest.yaml"
    config.write_text(f"logging:\n  file: {tmp_path / 'log'}\n")
    with Simulator(tmp_path / "port", process=True) as simulator:
        command = [sys.executable, "-m", "portsim.daemon", simulator.guest_path, "--config", str(config)]
        with subprocess.Popen(command, env=environment) as daemon:
            try:
                client.connect(simulator.host_path)
                client.sendall(b"GET /api/v1/ping HTTP/1.1\r\nHost: guest\r\n\r\n")
                assert receive(client, 9) == b"HTTP/1.1 "
                daemon.send_signal(signal.SIGTERM)
                assert daemon.wait(PATIENCE) == 0
            finally:
                daemon.kill()
        assert not simulator.state().guest_open


def test_a_port_is_healed_once(simulator: Simulator) -> None:
    """The port has the same name after its driver was bound anew: what was remembered of it must not count again."""
    port = open_port(simulator.guest_path)
    port.remember(120)  # so many that they are not waited with
    port.close()
    bound: list[str] = []

    def rebind(path: str) -> None:
        bound.append(path)
        rebind_driver(path)

    ear = SerialListener(simulator.guest_path, open_port=open_port, rebind=rebind)
    buffer = memoryview(bytearray(100))
    with ThreadPoolExecutor(1) as pool:
        for _ in range(3):
            accepting = pool.submit(ear.accept)
            until(lambda: bound and simulator.state().guest_open)
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(simulator.host_path)
                client.send(b"x")
                transport = accepting.result(PATIENCE)
            while transport.recv_into(buffer, PATIENCE):
                pass
            transport.close()
        ear.close()
    assert len(bound) == 1
    assert ear.lost_output == 0


def test_who_was_there_when_the_port_was_opened_is_seen_to_leave(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bytes are not ahead of the news that it is there: until it is seen to leave, nobody after it is served."""

    ports: list[SimulatedPort] = []

    def open_with_data(path: str) -> SimulatedPort:
        ports.append(open_port(path))
        until(lambda: ports[0].poll() & select.POLLIN)
        return ports[0]

    for module in (serial, serial_transport):
        monkeypatch.setattr(module, "ARRIVAL_GRACE", 2 * PATIENCE)
    ear = SerialListener(simulator.guest_path, open_port=open_with_data)
    buffer = memoryview(bytearray(100))
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(1))
        stack.callback(ear.close)
        with socket.socket(socket.AF_UNIX) as client:
            port = open_port(simulator.guest_path)
            client.connect(simulator.host_path)
            until_client(port)
            port.close()
            client.sendall(b"the end of something")
            transport = pool.submit(ear.accept).result(PATIENCE)
            stack.callback(transport.close)
            assert not transport.at_boundary
            assert transport.recv_into(buffer, PATIENCE) == 20
        until(lambda: ports[0].poll() & select.POLLHUP)
        transport.may_be_arriving = False  # as the server says where it does not know what is said
        assert pool.submit(transport.recv_into, buffer, PATIENCE).result(PATIENCE) == 0
