"""What SerialListener does where there is no port. What it does at one is tests/vm/test_serial_port.py's: nothing else
behaves like a virtio-serial port (a pty, say, has no HUP that ends, and no second opener that is refused)."""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
import time
from pathlib import Path
from typing import Any, Iterator

import pytest
from runtime_threads import Beside, descriptors, eventually

from vsrpc.transports import TransportClosed, TransportTimeout, listener, serial, serial_port
from vsrpc.transports.serial_port import DevicePort, KeptNumber, device_of
from vsrpc.transports.serial_transport import SerialTransport, _Pages


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "port"


@pytest.fixture
def ear(path: Path) -> Iterator[serial.SerialListener]:
    ear = listener(str(path))
    assert isinstance(ear, serial.SerialListener)
    yield ear
    ear.close()


def test_an_absent_port_is_waited_for(ear: serial.SerialListener, path: Path, caplog: Any) -> None:
    accepting = Beside(ear.accept).until_waiting()
    path.write_text("")
    assert "not a character device, so not a virtio-serial port" in str(accepting.error())
    assert [record.getMessage() for record in caplog.records] == [f"{path}: not there yet; waiting for it"]


def test_waiting_for_an_absent_port_uses_no_cpu(ear: serial.SerialListener) -> None:
    accepting = Beside(ear.accept).until_waiting()
    schedstat = Path(f"/proc/self/task/{accepting.native_id}/schedstat")

    def cpu() -> tuple[float, int]:
        nanoseconds, _, turns = map(int, schedstat.read_text().split())
        return nanoseconds / 1e9, turns

    before, turns = cpu()
    begun = time.monotonic()
    eventually(lambda: cpu()[1] >= turns + 4, "looked for the port a few times more")
    assert (cpu()[0] - before) / (time.monotonic() - begun) < 0.01
    ear.close()
    assert isinstance(accepting.error(), TransportClosed)


class Owner:
    """Of a port that is a socket, which is like one as long as a client is there."""

    lost_output = 0

    def __init__(self, fd: int) -> None:
        self.wake_fd, self._wake = os.pipe()
        self._epoll = select.epoll()
        self._epoll.register(fd, select.EPOLLIN | select.EPOLLET)
        self._epoll.register(self.wake_fd, select.EPOLLIN)

    def wait_edge(self, milliseconds: float | None) -> bool:
        return bool(self._epoll.poll(None if milliseconds is None else milliseconds / 1000))

    def wake(self) -> None:
        os.write(self._wake, b"x")

    def lose_output(self) -> None:
        raise AssertionError("nobody left")

    def finished(self, client_left: bool) -> None:
        self._epoll.close()
        os.close(self.wake_fd)
        os.close(self._wake)


@pytest.fixture
def at_socket() -> Iterator[tuple[socket.socket, SerialTransport]]:
    """A client's end, and the transport of a port that is the other."""
    client, other = socket.socketpair()
    other.setblocking(False)
    port = DevicePort(other.detach(), "socketpair")
    transport = SerialTransport(Owner(port.fileno()), port, "socketpair", b"", True, 262144)
    yield client, transport
    transport.close()
    port.close()
    client.close()


@pytest.mark.parametrize("times", [1, 3])
def test_what_follows_a_short_message_is_waited_for(
    at_socket: tuple[socket.socket, SerialTransport], times: int
) -> None:
    client, transport = at_socket
    buffer = memoryview(bytearray(100))
    months = 9_999_999.999  # the longest Connect-Timeout-Ms
    for number in range(times):
        client.send(b"%d" % number)
        assert transport.recv_into(buffer, months) == 1
        receiving = Beside(transport.recv_into, buffer, months).until_waiting()
        client.send(b"more")
        assert receiving.result() == 4
    with pytest.raises(TransportTimeout):
        transport.recv_into(buffer, 0.01)
    receiving = Beside(transport.recv_into, buffer, months).until_waiting()
    transport.close()
    assert isinstance(receiving.error(), TransportClosed)


def test_a_port_in_use_is_waited_for(
    ear: serial.SerialListener, monkeypatch: pytest.MonkeyPatch, caplog: Any, path: Path
) -> None:
    # The second open of a port fails with EBUSY (virtio_console.c, port_fops_open); the answers are made up here.
    real = os.open
    answers = iter([errno.ENOENT, errno.ENOENT, errno.EBUSY, errno.EBUSY])

    def busy(name: Any, flags: int, *rest: int) -> int:
        if name != str(path):
            return real(name, flags, *rest)
        error = next(answers, errno.EACCES)
        raise OSError(error, os.strerror(error), name)

    path.symlink_to("/dev/null")
    monkeypatch.setattr(serial, "_REOPEN_INTERVAL", 0.01)
    monkeypatch.setattr(serial.os, "open", busy)
    accepting = Beside(ear.accept)
    assert isinstance(accepting.error(), PermissionError)
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.WARNING, f"{path}: not there yet; waiting for it"),
        (logging.WARNING, f"{path}: in use by another process; waiting for it"),
    ]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_text("x"), "not a character device"),
        (lambda path: path.mkdir(), "not a character device"),
        (lambda path: os.mkfifo(path), "not a character device"),
        (lambda path: path.symlink_to("/dev/null"), "cannot be waited for"),
    ],
    ids=["file", "directory", "fifo", "null"],
)
def test_what_is_no_port_is_refused(ear: serial.SerialListener, path: Path, make: Any, message: str) -> None:
    make(path)
    with pytest.raises(OSError, match=message) as caught:
        ear.accept()
    assert caught.value.filename == str(path)


def test_a_socket_is_refused_not_waited_for(ear: serial.SerialListener, path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        with pytest.raises(OSError, match="not a character device"):
            ear.accept()


@pytest.mark.parametrize("used", [False, True])
def test_closing_leaves_no_descriptor(path: Path, used: bool) -> None:
    before = descriptors()
    ear = listener(str(path))
    if used:
        accepting = Beside(ear.accept).until_waiting()
    ear.close()
    ear.close()
    if used:
        assert isinstance(accepting.error(), TransportClosed)
    with pytest.raises(TransportClosed):
        ear.accept()
    assert descriptors() <= before


def test_what_is_kept_of_a_port_is_whole_whenever_the_daemon_dies(tmp_path: Path) -> None:
    file = tmp_path / "run" / "number"
    kept = KeptNumber(str(file))
    assert kept.get() == 0
    kept.set(1)
    writing = Beside(lambda: [kept.set(10**number) for _ in range(200) for number in range(10)])
    seen = {file.read_text().strip() for _ in range(3000)}
    writing.result()
    assert seen <= {str(10**number) for number in range(10)}, "what a daemon finds that is started after a SIGKILL"
    kept.close()
    assert KeptNumber(str(file)).get() == 10**9
    file.write_text("")
    assert kept.get() == 0


def test_where_nothing_can_be_kept_nothing_fails(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    kept = KeptNumber(str(tmp_path / "file" / "number"))
    kept.set(1)
    assert kept.get() == 0
    kept.close()


def test_a_body_is_let_go_of_by_what_is_read_after_it() -> None:
    pages, body = _Pages(65536), bytearray(1 << 20)
    assert len(pages.of(memoryview(body), True)) == 16
    with pytest.raises(BufferError):
        body.append(0)
    pages.of(memoryview(bytearray(4096)), False)
    body.append(0)  # nobody has a view of it any more


def test_a_port_is_found_before_udev_has_made_its_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    links, ports = tmp_path / "links", tmp_path / "ports"
    for name, where in (("_LINKS", links), ("_PORTS", ports), ("_DEVICES", tmp_path)):
        monkeypatch.setattr(serial_port, name, str(where))
    wanted = str(links / "com.example.0")
    assert device_of(wanted) == wanted, "nothing is there at all"
    for device, name in (("vport1p1", "com.example.1\n"), ("vport2p1", "com.example.0\n")):
        (ports / device).mkdir(parents=True)
        (ports / device / "name").write_text(name)
    (ports / "vport3p0").mkdir()  # a console, which has no name
    links.mkdir()
    assert device_of(wanted) == f"{tmp_path}/vport2p1"
    (links / "com.example.0").symlink_to("../vport9p9")
    assert device_of(wanted) == f"{tmp_path}/vport2p1", "the link is an old one"
    assert device_of(str(links / "com.example.7")) == str(links / "com.example.7")
    assert device_of("/dev/vport7p7") == "/dev/vport7p7"
    (tmp_path / "vport9p9").touch()
    assert device_of(wanted) == wanted
