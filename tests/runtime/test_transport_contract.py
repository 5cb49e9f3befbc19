"""What every transport and its listener must do, whatever they are made of (vsrpc.transports.base).

The serial device keeps the same contract on the real port: tests/vm/test_serial_port.py.
"""

from __future__ import annotations

import contextlib
import functools
import os
import random
import signal
import socket
import threading
from dataclasses import dataclass
from typing import Any, Callable, Iterator

import pytest
from runtime_threads import Beside, descriptors, eventually

from vsrpc.transports import (
    ConnectFailed,
    Listener,
    Transport,
    TransportClosed,
    TransportTimeout,
    connector,
    listener,
    send_all,
    sockets,
)
from vsrpc.transports.memory import MemoryListener

SMALL_WAIT = 0.05

MORE_THAN_FITS = 16_000_000
"""Bytes: TCP lets some 10 MB be under way."""


@dataclass
class Kind:
    """How to listen, and how to connect to who listens."""

    listen: Callable[[], Any]
    connect: Callable[[Any, float | None], Transport]


@functools.lru_cache(maxsize=None)
def _no_vsock_loopback() -> str:
    """Why the kernel cannot connect a vsock to itself; "" where it can."""
    try:
        ear = sockets.listen_vsock(7999)
    except OSError as error:
        return f"no vsock on this machine: {error}"
    try:
        sockets.connect_vsock(1, 7999, timeout=1).close()
    except ConnectFailed as error:
        return f"no vsock loopback on this machine (module vsock_loopback): {error}"
    finally:
        ear.close()
    return ""


@pytest.fixture(params=["memory", "unix", "tcp", pytest.param("vsock", marks=pytest.mark.host_feature)])
def kind(request: pytest.FixtureRequest, tmp_path: Any) -> Kind:
    if request.param == "memory":
        return Kind(MemoryListener, lambda ear, timeout: ear.connect(timeout))
    if request.param == "unix":
        path = str(tmp_path / "port.sock")
        return Kind(lambda: listener(f"unix:{path}"), lambda ear, timeout: connector(ear.address)[1](timeout))
    if request.param == "tcp":
        return Kind(
            lambda: sockets.listen_tcp("127.0.0.1", 0),
            lambda ear, timeout: sockets.connect_tcp("127.0.0.1", int(ear.address.rpartition(":")[2]), timeout),
        )
    if _no_vsock_loopback():
        pytest.skip(_no_vsock_loopback())
    return Kind(lambda: listener("vsock:7999"), lambda ear, timeout: connector("vsock:1:7999")[1](timeout))


@pytest.fixture
def ear(kind: Kind) -> Iterator[Listener]:
    ear = kind.listen()
    yield ear
    ear.close()


@pytest.fixture
def pair(kind: Kind, ear: Listener) -> Iterator[tuple[Transport, Transport]]:
    client = kind.connect(ear, 5)
    server = ear.accept()
    yield client, server
    client.close()
    server.close()


def receive(transport: Transport, count: int, size: int = 65536) -> bytes:
    """That many bytes, or fewer if the peer goes."""
    data = bytearray()
    while len(data) < count:
        buffer = memoryview(bytearray(min(size, count - len(data))))
        got = transport.recv_into(buffer, 20)
        if not got:
            break
        data += buffer[:got]
    return bytes(data)


def noise(count: int, seed: int) -> bytes:
    return random.Random(seed).getrandbits(8 * count).to_bytes(count, "big")


def fill(transport: Transport) -> None:
    """Send until the peer, which reads nothing, lets nothing more in."""
    with contextlib.suppress(TransportTimeout):
        while True:
            send_all(transport, [bytes(1 << 16)], SMALL_WAIT)


# -- bytes


@pytest.mark.parametrize("size", [1, 7, 4096, 65536])
def test_bytes_arrive_whole_and_in_order(pair: tuple[Transport, Transport], size: int) -> None:
    client, server = pair
    data = noise(3000 if size == 1 else 300_000, size)
    sending = Beside(send_all, client, [data[:1], b"", data[1:500], bytearray(data[500:501]), memoryview(data)[501:]])
    assert receive(server, len(data), size) == data
    sending.result()


def test_both_directions_at_once(pair: tuple[Transport, Transport]) -> None:
    client, server = pair
    there, back = noise(5_000_000, 1), noise(5_000_000, 2)
    work = [
        Beside(send_all, client, [there], 20),
        Beside(send_all, server, [back], 20),
        Beside(receive, server, len(there)),
        Beside(receive, client, len(back)),
    ]
    assert work[2].result() == there
    assert work[3].result() == back
    assert [sending.error() for sending in work[:2]] == [None, None]


def test_both_directions_full_first(pair: tuple[Transport, Transport]) -> None:
    client, server = pair
    data = noise(MORE_THAN_FITS, 3)
    sending = [Beside(send_all, end, [data], 20).until_waiting() for end in pair]
    received = [Beside(receive, end, len(data)) for end in (server, client)]
    assert [each.result() == data for each in received] == [True, True]
    assert [each.error() for each in sending] == [None, None]


def test_many_buffers_in_one_send(pair: tuple[Transport, Transport]) -> None:
    client, server = pair
    pieces = [bytes([index % 251]) * (index % 5) for index in range(3000)]
    sending = Beside(send_all, client, pieces)
    assert receive(server, sum(map(len, pieces)), 100) == b"".join(pieces)
    sending.result()


def test_a_slow_reader_gets_everything(pair: tuple[Transport, Transport]) -> None:
    client, server = pair
    data = noise(MORE_THAN_FITS, 4)
    sending = Beside(send_all, client, [data], 20).until_waiting()
    assert receive(server, len(data), 10_000) == data
    sending.result()


# -- time


def test_receiving_times_out_and_goes_on(pair: tuple[Transport, Transport]) -> None:
    client, server = pair
    for timeout in (0, 0.01):
        with pytest.raises(TransportTimeout):
            server.recv_into(memoryview(bytearray(1)), timeout)
    send_all(client, [b"late"])
    assert receive(server, 4) == b"late"


def test_sending_times_out_when_the_peer_does_not_read(pair: tuple[Transport, Transport]) -> None:
    with pytest.raises(TransportTimeout, match="not read"):
        send_all(pair[0], [bytes(MORE_THAN_FITS)], SMALL_WAIT)


def test_a_time_out_of_months_is_no_error(pair: tuple[Transport, Transport]) -> None:
    client, server = pair
    months = 9_999_999.999  # the longest Connect-Timeout-Ms
    receiving = Beside(server.recv_into, memoryview(bytearray(10)), months).until_waiting()
    send_all(client, [b"x"], months)
    assert receiving.result() == 1
    fill(client)
    sending = Beside(send_all, client, [bytes(1 << 20)], months).until_waiting()
    server.close()
    assert isinstance(sending.error(), TransportClosed)


# -- the end


@pytest.mark.parametrize("way", ["receiving", "sending"])
def test_a_signal_handler_may_close_what_its_thread_waits_for(pair: tuple[Transport, Transport], way: str) -> None:
    _, server = pair
    wait: Callable[[], object] = functools.partial(server.recv_into, memoryview(bytearray(1)), 20)
    if way == "sending":
        wait = functools.partial(send_all, server, [bytes(MORE_THAN_FITS)], 20)
    before = signal.signal(signal.SIGUSR1, lambda number, frame: server.close())
    main = threading.get_ident()
    timer = threading.Timer(0.1, lambda: signal.pthread_kill(main, signal.SIGUSR1))
    timer.start()
    try:
        with pytest.raises(TransportClosed):
            wait()
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)


def test_what_was_sent_before_the_end_still_arrives(pair: tuple[Transport, Transport]) -> None:
    client, server = pair
    send_all(client, [b"last words"])
    client.close()
    assert receive(server, 100) == b"last words"
    for _ in range(2):
        assert server.recv_into(memoryview(bytearray(1))) == 0


def test_sending_to_a_peer_that_has_gone_fails(pair: tuple[Transport, Transport]) -> None:
    client, server = pair
    server.close()
    with pytest.raises(TransportClosed):
        send_all(client, [bytes(MORE_THAN_FITS)], 5)  # TCP learns of it only after its first bytes


def test_a_peer_that_goes_wakes_who_receives(pair: tuple[Transport, Transport]) -> None:
    client, server = pair
    receiving = Beside(server.recv_into, memoryview(bytearray(1))).until_waiting()
    client.close()
    assert receiving.result() == 0


def test_a_peer_that_goes_wakes_who_sends(pair: tuple[Transport, Transport]) -> None:
    client, server = pair
    fill(client)
    sending = Beside(send_all, client, [bytes(1 << 20)]).until_waiting()
    server.close()
    assert isinstance(sending.error(), TransportClosed)


def test_closing_wakes_who_receives(pair: tuple[Transport, Transport]) -> None:
    receiving = Beside(pair[0].recv_into, memoryview(bytearray(1))).until_waiting()
    pair[0].close()
    assert isinstance(receiving.error(), TransportClosed)


def test_closing_wakes_who_sends(pair: tuple[Transport, Transport]) -> None:
    fill(pair[0])
    sending = Beside(send_all, pair[0], [bytes(1 << 20)]).until_waiting()
    pair[0].close()
    assert isinstance(sending.error(), TransportClosed)


def test_a_closed_end_is_of_no_more_use(pair: tuple[Transport, Transport]) -> None:
    client, server = pair
    send_all(server, [b"unread"])
    client.close()
    client.close()
    with pytest.raises(TransportClosed):
        client.recv_into(memoryview(bytearray(1)))
    with pytest.raises(TransportClosed):
        send_all(client, [b"x"])


# -- listening


def test_peers_come_one_by_one(kind: Kind, ear: Listener) -> None:
    clients = [kind.connect(ear, 5) for _ in range(3)]
    for number, client in enumerate(clients):
        send_all(client, [str(number).encode()])
    servers = [ear.accept() for _ in range(3)]
    assert [receive(server, 1) for server in servers] == [b"0", b"1", b"2"]
    for end in (*clients, *servers):
        end.close()


def test_closing_the_listener_wakes_accept(ear: Listener) -> None:
    accepting = Beside(ear.accept).until_waiting()
    ear.close()
    ear.close()
    assert isinstance(accepting.error(), TransportClosed)
    with pytest.raises(TransportClosed):
        ear.accept()


def test_transports_outlive_their_listener(pair: tuple[Transport, Transport], ear: Listener) -> None:
    client, server = pair
    ear.close()
    send_all(client, [b"still here"])
    assert receive(server, 10) == b"still here"


def test_nobody_can_connect_to_a_closed_listener(kind: Kind, ear: Listener) -> None:
    ear.close()
    with pytest.raises(ConnectFailed):
        kind.connect(ear, 1)


def test_a_peer_that_nobody_let_in_learns_of_the_end(kind: Kind, ear: Listener) -> None:
    client = kind.connect(ear, 5)
    ear.close()
    assert client.recv_into(memoryview(bytearray(1)), 5) == 0
    client.close()


def test_no_descriptor_is_left(kind: Kind) -> None:
    before = descriptors()
    for used in (True, False):
        ear = kind.listen()
        if used:
            client = kind.connect(ear, 5)
            server = ear.accept()
            receiving = Beside(server.recv_into, memoryview(bytearray(1))).until_waiting()
            accepting = Beside(ear.accept).until_waiting()
            client.close()
            server.close()
            ear.close()
            assert isinstance(accepting.error(), TransportClosed)
            receiving.error()
        ear.close()
    eventually(lambda: descriptors() <= before, f"only {before} are open, not {descriptors()}")


# -- UNIX sockets: their files, and why there is no connection


def test_a_stale_socket_file_is_replaced(tmp_path: Any) -> None:
    path = tmp_path / "port.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    ear = listener(f"unix:{path}")
    client = connector(str(path))[1](1)
    ear.accept().close()
    client.close()
    ear.close()
    assert not path.exists()


@pytest.mark.parametrize("busy", [False, True])
def test_a_second_listener_is_refused(tmp_path: Any, busy: bool) -> None:
    path = tmp_path / "port.sock"
    first = socket.socket(socket.AF_UNIX)
    first.bind(str(path))
    first.listen(0)
    waiting = [connector(str(path))[1](0)] if busy else []  # fills a backlog of 0
    with pytest.raises(OSError, match=r"another process listens on this socket.*port\.sock"):
        listener(f"unix:{path}")
    for each in (first, *waiting):
        each.close()


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Any) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("mine")
    with pytest.raises(OSError, match="not a socket"):
        listener(f"unix:{path}")
    assert path.read_text() == "mine"


def test_a_datagram_socket_is_left_alone(tmp_path: Any) -> None:
    path = tmp_path / "log.sock"
    with _datagram(path):
        with pytest.raises(OSError, match="wrong type"):
            listener(f"unix:{path}")
        assert path.exists()


def test_a_later_listeners_file_is_left_alone(tmp_path: Any) -> None:
    path = tmp_path / "port.sock"
    first = listener(f"unix:{path}")
    path.unlink()
    second = listener(f"unix:{path}")
    first.close()
    assert path.exists()
    second.close()


def test_only_the_owner_may_open_the_socket(tmp_path: Any) -> None:
    old = os.umask(0)
    try:
        ear = listener(f"unix:{tmp_path / 'port.sock'}")
    finally:
        os.umask(old)
    assert (tmp_path / "port.sock").stat().st_mode & 0o777 == 0o600
    ear.close()


def test_a_path_that_is_too_long_to_listen_on(tmp_path: Any) -> None:
    with pytest.raises(OSError, match=r"too long for a socket.*shorter"):
        listener(f"unix:{tmp_path / ('x' * 108)}")


def _dead(path: Any) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))


def _datagram(path: Any) -> socket.socket:
    other = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    other.bind(str(path))
    return other


@pytest.mark.parametrize(
    ("name", "prepare", "message"),
    [
        ("missing", lambda path: None, "no such socket; is the VM running"),
        ("refused", _dead, "nobody listens on this socket"),
        ("file", lambda path: path.write_text(""), "this is a file, not a socket"),
        ("directory", lambda path: path.mkdir(), "this is a directory, not a socket"),
        ("datagram", _datagram, "not a stream socket"),
        ("below-a-file/port", lambda path: path.parent.write_text(""), "Not a directory"),
        ("x" * 200, lambda path: None, "too long for a socket.*a symbolic link to it"),
    ],
    ids=lambda value: value[:10] if isinstance(value, str) else "",
)
def test_why_there_is_no_connection(tmp_path: Any, name: str, prepare: Callable[[Any], Any], message: str) -> None:
    path = tmp_path / name
    keep = prepare(path)
    with pytest.raises(ConnectFailed, match=message) as caught:
        connector(f"unix:{path}")[1](1)
    if isinstance(keep, socket.socket):
        keep.close()
    assert f"unix:{path}: " in str(caught.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody who may not connect")
def test_a_socket_that_only_others_may_open(tmp_path: Any) -> None:
    path = tmp_path / "port.sock"
    ear = listener(f"unix:{path}")
    os.chmod(tmp_path, 0o755)
    child = os.fork()
    if not child:  # in the child: nothing that could run the parent's tests
        os.setuid(65534)
        try:
            sockets.connect_unix(str(path), 1)
        except ConnectFailed as error:
            os._exit(0 if "permission denied; run as root or as a user that may" in str(error) else 2)
        finally:
            os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    ear.close()


@pytest.mark.parametrize("timeout", [0, SMALL_WAIT])
def test_a_port_whose_queue_is_full(tmp_path: Any, timeout: float) -> None:
    path = str(tmp_path / "port.sock")
    with socket.socket(socket.AF_UNIX) as qemu:
        qemu.bind(path)
        qemu.listen(0)
        first = connector(path)[1](1)
        with pytest.raises(ConnectFailed, match="the port is busy: other clients wait"):
            connector(path)[1](timeout)
        waiting = Beside(connector(path)[1], 20).until_waiting()
        qemu.accept()[0].close()
        waiting.result().close()
        first.close()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("", "a path is missing"),
        ("unix:", "a path is missing"),
        ("vsock:3", "vsock:CID:PORT with two numbers"),
        ("vsock:3:x", "vsock:CID:PORT with two numbers"),
        ("vsock:-1:7000", "vsock:CID:PORT with two numbers"),
        ("vsock:3:4294967296", "vsock:CID:PORT with two numbers"),
        ("vsock:²:7000", "vsock:CID:PORT with two numbers"),
        ("libvirt:web1", "no such kind of target"),
    ],
)
def test_targets_that_are_none(target: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        connector(target)


@pytest.mark.parametrize("path", ["/run/a:b.sock", "./a:b.sock", "a.sock"])
def test_a_bare_path_is_a_unix_socket(path: str) -> None:
    assert connector(path)[0] == f"unix:{path}"


@pytest.mark.parametrize("address", ["vsock:", "vsock:x", "vsock:4294967296"])
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(ValueError, match="vsock:PORT with a number"):
        listener(address)
