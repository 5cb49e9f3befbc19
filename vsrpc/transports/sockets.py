"""Stream sockets: the host's UNIX socket of a port, vsock, and TCP for peers that have no socket file (tests).

Sockets are non-blocking and waited for with poll(), since a socket's own time-out is shared by the thread that
receives and the one that sends.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import stat
import threading
import time
from typing import Any, Callable, Sequence

from vsrpc.deadline import Deadline
from vsrpc.transports.base import Buffer, ConnectFailed, TransportClosed, TransportTimeout, advance

# sendmsg takes at most IOV_MAX (1024) buffers; ours come one or two at a time.
_MAX_BUFFERS = 64

# How often a connect to a listener whose backlog is full is tried again, in seconds.
_BACKLOG_RETRY = 0.02

_GONE = (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.EBADF, errno.ESHUTDOWN)


class SocketTransport:
    """A connected stream socket."""

    def __init__(self, sock: socket.socket, peer: str) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._peer = peer
        self._closed = False
        self._users = 0
        self._lock = threading.Lock()

    @property
    def peer(self) -> str:
        return self._peer

    def recv_into(self, buffer: memoryview, timeout: float | None = None) -> int:
        with self._in_use():
            deadline = Deadline(timeout)
            while True:
                try:
                    return self._socket.recv_into(buffer)
                except BlockingIOError:
                    self._wait(select.POLLIN, deadline, "nothing received")
                except OSError as error:
                    if error.errno in _GONE:
                        return 0
                    raise TransportClosed(f"{self._peer}: {error.strerror}") from error

    def send(self, buffers: Sequence[Buffer], timeout: float | None = None) -> None:
        with self._in_use():
            deadline = Deadline(timeout)
            rest = [memoryview(buffer) for buffer in buffers]
            while rest:
                try:
                    rest = advance(rest, self._socket.sendmsg(rest[:_MAX_BUFFERS]))
                except BlockingIOError:
                    self._wait(select.POLLOUT, deadline, "the peer does not read")
                except OSError as error:
                    raise TransportClosed(f"{self._peer}: {error.strerror}") from error

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            # Wakes a thread that polls; the descriptor is closed when the last one has left, so that its
            # number cannot be another file's meanwhile.
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            if not self._users:
                self._socket.close()

    @contextlib.contextmanager
    def _in_use(self) -> Any:
        with self._lock:
            if self._closed:
                raise TransportClosed(f"{self._peer}: closed")
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._closed and not self._users:
                    self._socket.close()

    def _wait(self, event: int, deadline: Deadline, what: str) -> None:
        if self._closed:
            raise TransportClosed(f"{self._peer}: closed")
        poll = select.poll()
        poll.register(self._socket, event)
        remaining = deadline.remaining()
        if not poll.poll(None if remaining is None else remaining * 1000):
            raise TransportTimeout(f"{self._peer}: {what} in time")


class SocketListener:
    """A listening stream socket; closing it wakes accept()."""

    def __init__(self, sock: socket.socket, address: str, cleanup: Callable[[], None] = lambda: None) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._address = address
        self._cleanup = cleanup
        self._wake_read, self._wake_write = os.pipe()
        self._lock = threading.Lock()
        self._closed = False

    @property
    def address(self) -> str:
        return self._address

    def accept(self) -> SocketTransport:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        while True:
            with self._lock:
                if self._closed:
                    self._release()
                    raise TransportClosed(f"{self._address}: closed")
            try:
                connection, _ = self._socket.accept()
            except BlockingIOError:
                poll.poll()
                continue
            except ConnectionAbortedError:
                continue
            return SocketTransport(connection, self._address)

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._cleanup()
            # No further peer is let in; the descriptors are released by accept().
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            os.write(self._wake_write, b"x")

    def _release(self) -> None:
        if self._wake_read >= 0:
            self._socket.close()
            os.close(self._wake_read)
            os.close(self._wake_write)
            self._wake_read = -1


def connect_unix(path: str, timeout: float | None = None) -> SocketTransport:
    """Connect to the UNIX socket at `path`. Raises ConnectFailed, with the cause and the way out."""
    return _connect(socket.AF_UNIX, path, f"unix:{path}", timeout)


def connect_vsock(cid: int, port: int, timeout: float | None = None) -> SocketTransport:
    """Connect to a guest's vsock port. Raises ConnectFailed."""
    return _connect(_vsock_family(), (cid, port), f"vsock:{cid}:{port}", timeout)


def connect_tcp(host: str, port: int, timeout: float | None = None) -> SocketTransport:
    """Connect over TCP: for peers in tests, such as a Connect server; a guest never listens there."""
    transport = _connect(socket.AF_INET, (host, port), f"tcp:{host}:{port}", timeout)
    transport._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return transport


def listen_unix(path: str) -> SocketListener:
    """Listen on a UNIX socket that only its owner may open.

    A socket file that nobody listens on any more is replaced. Raises OSError (EADDRINUSE when somebody does).
    """
    address = f"unix:{path}"
    try:
        if stat.S_ISSOCK(os.stat(path).st_mode):
            connect_unix(path, timeout=1).close()
            raise OSError(errno.EADDRINUSE, "another process listens on this socket", path)
    except FileNotFoundError:
        pass
    except ConnectFailed:
        os.unlink(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Nobody can connect before listen(), so the mode is right in time.
        sock.bind(path)
        os.chmod(path, 0o600)
        sock.listen(16)
    except OSError as error:
        sock.close()
        raise OSError(error.errno, error.strerror, path) from None

    def remove() -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)

    return SocketListener(sock, address, remove)


def listen_vsock(port: int) -> SocketListener:
    """Listen on a vsock port for any context id. Raises OSError."""
    sock = socket.socket(_vsock_family(), socket.SOCK_STREAM)
    try:
        sock.bind((0xFFFFFFFF, port))  # VMADDR_CID_ANY, linux/vm_sockets.h
        sock.listen(16)
    except OSError:
        sock.close()
        raise
    return SocketListener(sock, f"vsock:{port}")


def listen_tcp(host: str, port: int) -> SocketListener:
    """Listen on TCP: for peers in tests, such as a Connect client that knows no socket files."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        sock.listen(128)
    except OSError:
        sock.close()
        raise
    return SocketListener(sock, f"tcp:{host}:{sock.getsockname()[1]}")


def _vsock_family() -> int:
    family = getattr(socket, "AF_VSOCK", None)
    if family is None:
        raise ConnectFailed("vsock: this Python was built without vsock support; use the port's UNIX socket instead")
    return int(family)


_ADVICE = {
    errno.ENOENT: "no such socket; is the VM running, and is this the path of its virtio-serial channel?",
    errno.ECONNREFUSED: "nobody listens on this socket; QEMU has ended or was restarted: find the channel's new path",
    errno.EACCES: "permission denied; run as root or as a user that may open QEMU's sockets",
    errno.ENOTSOCK: "this is not a socket",
    errno.EPROTOTYPE: "this socket is not a stream socket; it is no virtio-serial channel",
    errno.ENODEV: "no vsock device; does the VM have one, and is its driver loaded?",
    errno.ECONNRESET: "nothing listens on that vsock port; does the guest daemon run with --listen vsock:PORT?",
}


def _connect(family: int, address: Any, name: str, timeout: float | None) -> SocketTransport:
    deadline = Deadline(timeout)
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        while True:
            result = sock.connect_ex(address)
            if result in (errno.EAGAIN, errno.EINPROGRESS):
                if deadline.expired:
                    raise ConnectFailed(f"{name}: the port is busy: other clients wait in its queue already")
                if result == errno.EINPROGRESS:
                    poll = select.poll()
                    poll.register(sock, select.POLLOUT)
                    remaining = deadline.remaining()
                    if not poll.poll(None if remaining is None else remaining * 1000):
                        raise ConnectFailed(f"{name}: no connection within {timeout} s")
                    result = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                else:  # a UNIX socket whose backlog is full gives no event to wait for
                    time.sleep(_BACKLOG_RETRY)
                    continue
            if result in (0, errno.EISCONN):
                return SocketTransport(sock, name)
            raise ConnectFailed(f"{name}: {_ADVICE.get(result, os.strerror(result))}")
    except OSError as error:  # a path that is too long for a socket address
        sock.close()
        raise ConnectFailed(f"{name}: {error}") from error
    except BaseException:
        sock.close()
        raise
