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
import time
from typing import Any, Callable, Sequence

from vsrpc.deadline import Deadline
from vsrpc.log import Log
from vsrpc.transports.base import (
    Buffer,
    ConnectFailed,
    PeerStream,
    TransportClosed,
    TransportTimeout,
    Usage,
    poll_time,
)

_log = Log(__name__)

# Python leaves the name out where it was built without vsock; the kernel has the last word in any case.
_VSOCK = getattr(socket, "AF_VSOCK", 40)  # linux/socket.h

# sendmsg takes at most IOV_MAX (1024) buffers; ours come one or two at a time.
_MAX_BUFFERS = 64

# How often a connect to a listener whose backlog is full is tried again, in seconds.
_BACKLOG_RETRY = 0.02

# accept(2): for want of descriptors or memory a peer cannot be let in now, and after that many seconds perhaps.
_ACCEPT_LATER = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ECONNABORTED)
_ACCEPT_PAUSE = 0.2

_GONE = (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.EBADF, errno.ESHUTDOWN)


class SocketTransport(PeerStream):
    """A connected stream socket."""

    def __init__(self, sock: socket.socket, peer: str) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._peer = peer
        self._usage = Usage(peer, self._shut_down, sock.close)

    @property
    def peer(self) -> str:
        return self._peer

    def recv_into(self, buffer: memoryview, timeout: float | None = None) -> int:
        deadline = Deadline(timeout)
        with self._usage.receiving:
            while True:
                try:
                    count = self._socket.recv_into(buffer)
                    self._usage.check()  # what ended the stream may have been this end's close()
                    return count
                except BlockingIOError:
                    self._wait(select.POLLIN, deadline, "nothing received")
                except OSError as error:
                    self._usage.check()
                    if error.errno in _GONE:
                        return 0
                    raise TransportClosed(f"{self._peer}: {error.strerror}") from error

    def send_some(self, buffers: Sequence[Buffer], timeout: float | None = None) -> int:
        deadline = Deadline(timeout)
        with self._usage.sending:
            while True:
                try:
                    return self._socket.sendmsg(buffers[:_MAX_BUFFERS])
                except BlockingIOError:
                    self._wait(select.POLLOUT, deadline, "the peer does not read")
                except OSError as error:
                    raise TransportClosed(f"{self._peer}: {error.strerror}") from error

    def close(self) -> None:
        self._usage.close()

    def _shut_down(self) -> None:
        # Wakes a thread that polls.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _wait(self, event: int, deadline: Deadline, what: str) -> None:
        self._usage.check()
        poll = select.poll()
        poll.register(self._socket, event)
        if not poll.poll(poll_time(deadline)) and deadline.expired:
            raise TransportTimeout(f"{self._peer}: {what} in time")


class SocketListener:
    """A listening stream socket; closing it wakes accept()."""

    serves_one = False

    def __init__(self, sock: socket.socket, address: str, cleanup: Callable[[], None] = lambda: None) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._address = address
        self._cleanup = cleanup
        self._wake_read, self._wake_write = os.pipe()
        self._usage = Usage(address, self._stop, self._release)

    @property
    def address(self) -> str:
        return self._address

    def accept(self) -> SocketTransport:
        with self._usage.receiving:
            stopped = select.poll()
            stopped.register(self._wake_read, select.POLLIN)
            stopped_or_peer = select.poll()
            stopped_or_peer.register(self._wake_read, select.POLLIN)
            stopped_or_peer.register(self._socket, select.POLLIN)
            while True:
                self._usage.check()
                try:
                    connection, _ = self._socket.accept()
                    return SocketTransport(connection, self._address)
                except BlockingIOError:
                    stopped_or_peer.poll()
                except OSError as error:
                    self._usage.check()  # close() has shut the socket down
                    if error.errno not in _ACCEPT_LATER:
                        raise
                    _log.warning("%s: a peer cannot be let in now: %s", self._address, error.strerror)
                    stopped.poll(_ACCEPT_PAUSE * 1000)

    def close(self) -> None:
        self._usage.close()

    def _stop(self) -> None:
        self._cleanup()
        # No further peer is let in, and those that wait learn of it.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        os.write(self._wake_write, b"x")

    def _release(self) -> None:
        self._socket.close()
        os.close(self._wake_read)
        os.close(self._wake_write)


def connect_unix(path: str, timeout: float | None = None) -> SocketTransport:
    """Connect to the UNIX socket at `path`. Raises ConnectFailed, with the cause and the way out."""
    return _connect(socket.AF_UNIX, path, f"unix:{path}", timeout)


def connect_vsock(cid: int, port: int, timeout: float | None = None) -> SocketTransport:
    """Connect to a guest's vsock port. Raises ConnectFailed."""
    return _connect(_VSOCK, (cid, port), f"vsock:{cid}:{port}", timeout)


def connect_tcp(host: str, port: int, timeout: float | None = None) -> SocketTransport:
    """Connect over TCP: for peers in tests, such as a Connect server; a guest never listens there."""
    transport = _connect(socket.AF_INET, (host, port), f"tcp:{host}:{port}", timeout)
    transport._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return transport


def listen_unix(path: str) -> SocketListener:
    """Listen on a UNIX socket that only its owner may open.

    A socket file that nobody listens on any more is replaced. Raises OSError (EADDRINUSE when somebody does).
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        sock.bind(path)
        # Nobody can connect before listen(), so the mode is right in time.
        os.chmod(path, 0o600)
        sock.listen(16)
    except OSError as error:
        sock.close()
        if error.errno is None:
            raise OSError(errno.ENAMETOOLONG, _TOO_LONG, path) from None
        raise OSError(error.errno, error.strerror, path) from None
    inode = os.stat(path).st_ino

    def remove() -> None:
        with contextlib.suppress(FileNotFoundError):
            if os.stat(path).st_ino == inode:
                os.unlink(path)

    return SocketListener(sock, f"unix:{path}", remove)


def _remove_stale(path: str) -> None:
    """Make way for a socket file: remove one that nobody listens on. Raises OSError for anything else there."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, "there is a file that is not a socket; remove it or choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        result = probe.connect_ex(path)
    if result in (0, errno.EAGAIN):  # EAGAIN: somebody listens, and is busy
        raise OSError(errno.EADDRINUSE, "another process listens on this socket")
    if result != errno.ECONNREFUSED:
        raise OSError(result, os.strerror(result))
    os.unlink(path)


def listen_vsock(port: int) -> SocketListener:
    """Listen on a vsock port for any context id. Raises OSError."""
    sock = socket.socket(_VSOCK, socket.SOCK_STREAM)
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


_TOO_LONG = "the path is too long for a socket (107 bytes at most); use a shorter one, or a symbolic link to it"

_NO_ANSWER = "does the VM with this number run?"

_ADVICE = {
    errno.ENOENT: "no such socket; is the VM running, and is this the path of its virtio-serial channel?",
    errno.ECONNREFUSED: "nobody listens on this socket; QEMU has ended or was restarted: find the channel's new path",
    errno.EACCES: "permission denied; run as root or as a user that may open QEMU's sockets",
    errno.EPROTOTYPE: "this socket is not a stream socket; it is no virtio-serial channel",
    errno.ENODEV: "no vsock device; does the VM have one, and is its driver loaded?",
    errno.ETIMEDOUT: f"nobody answers; {_NO_ANSWER}",
    errno.ECONNRESET: "nothing listens on that vsock port; does the guest daemon run with --listen vsock:PORT?",
}


def _connect(family: int, address: Any, name: str, timeout: float | None) -> SocketTransport:
    deadline = Deadline(timeout)
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise ConnectFailed(f"{name}: {error.strerror}") from error
    try:
        sock.setblocking(False)
        result = sock.connect_ex(address)
        while result == errno.EAGAIN:  # a UNIX socket whose backlog is full gives no event to wait for
            if deadline.expired:
                raise ConnectFailed(f"{name}: the port is busy: other clients wait in its queue; try again later")
            time.sleep(_BACKLOG_RETRY)
            result = sock.connect_ex(address)
        if result == errno.EINPROGRESS:
            poll = select.poll()
            poll.register(sock, select.POLLOUT)
            while not poll.poll(poll_time(deadline)):
                if deadline.expired:
                    raise ConnectFailed(f"{name}: no connection within {timeout:.3g} s; {_NO_ANSWER}")
            result = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if result:
            raise ConnectFailed(f"{name}: {_cause(result, address)}")
        return SocketTransport(sock, name)
    except OSError as error:  # connect_ex raises only for an address that it cannot put into the kernel's form
        sock.close()
        raise ConnectFailed(f"{name}: {_TOO_LONG if family == socket.AF_UNIX else error}") from error
    except BaseException:
        sock.close()
        raise


def _cause(error: int, address: Any) -> str:
    # connect(2) says ECONNREFUSED for a file that is no socket, too.
    if error == errno.ECONNREFUSED and isinstance(address, str):
        with contextlib.suppress(OSError):
            mode = os.stat(address).st_mode
            if not stat.S_ISSOCK(mode):
                return f"this is a {'directory' if stat.S_ISDIR(mode) else 'file'}, not a socket"
    return _ADVICE.get(error, os.strerror(error))
