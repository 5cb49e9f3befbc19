"""The link: a session with a server that is made anew whenever it was lost.

It takes its turn at the port, connects when first needed, synchronises and says hello, sends requests, and hands what
comes back to its owner. It knows HTTP messages; nothing of calls, codecs or protobuf. Failures are RpcError: the one
place where a transport's and the wire's exceptions become statuses.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import Callable, Iterator, NoReturn

from vsrpc.client_session import Attempt, Beginning, NotAtBoundary, Session, SessionOver, SessionOwner, lost
from vsrpc.deadline import Deadline
from vsrpc.errors import RpcError
from vsrpc.hello import WrongPeer
from vsrpc.log import Log
from vsrpc.port_lock import LockUnusable, PortBusy, PortLock
from vsrpc.status import Code
from vsrpc.transports import ConnectFailed, Connector, TransportClosed, TransportError, TransportTimeout
from vsrpc.wire import ClientConnection, Limits, LocalProtocolError, RemoteProtocolError, Request

_log = Log(__name__)

# A hello that nobody answers is given up after this many seconds at most, the next after twice as many, and so on up to
# the longest, within the time for connecting: a guest that is slow, or about to boot, is given its time; and connecting
# again frees a port that a client has made deaf by leaving it while the VM was paused, or both directions were full.
_FIRST_WINDOW = 0.25
_LONGEST_WINDOW = 8.0

# Silence after words that are no guest's may be the end of a reply to somebody who left before us, and a guest that is
# slow to speak itself: twice, but not for as long as this, in seconds, and again.
_WRONG_ANSWERS = 2
_JUDGED_WINDOW = 1.0

# Between two attempts, in seconds: a guest sees that its port's client has left only if the next one does not come at
# once. It takes some 2 ms, and longer on a busy machine: each next time is twice as long, up to the longest.
_LEAVE_TIME = 0.005
_LONGEST_LEAVE_TIME = 0.5

# For how long close() waits for a call that is just connecting, in seconds; it hears of the close within a second.
_CLOSE_TIME = 5.0

# After so many seconds of waiting for the port, its holder is named.
_PATIENCE = 1.0

# What a UNIX socket takes unread: the sender's buffer (unix(7), SO_SNDBUF), of which the kernel's own data use some.
_SOCKET_BUFFER_FILE = "/proc/sys/net/core/wmem_default"
_SOCKET_BUFFER = 212992
_USABLE = 15 / 16
_WRITE = 32768  # of a guest, at a time: anything else leaves room unused


class Link:
    """A session kept alive to one target."""

    def __init__(
        self,
        name: str,
        connect: Connector,
        owner: SessionOwner,
        *,
        connect_timeout: float,
        write_timeout: float,
        hello: bool = True,
        limits: Limits | None = None,
        lock: PortLock | None = None,
        on_wait: Callable[[str], None] | None = None,
    ) -> None:
        """`lock`: our turn at a port, which the link holds while it has a session there. `on_wait` is told who holds it
        where that takes long; without one, the log is."""
        self._name = name
        self._connect = connect
        self._owner = owner
        self._connect_timeout = connect_timeout
        self._write_timeout = write_timeout
        self._hello = hello
        self._limits = limits or Limits()
        self._port_lock = lock
        self._on_wait = on_wait
        self._lock = threading.Lock()  # connecting, what the session is, and the port's lock
        self._session: Session | None = None
        self._attempt: Session | None = None  # what connects now
        self._attempts: tuple[Attempt, ...] = ()
        self._had_session = False
        self._closed = False

    @property
    def beginning(self) -> Beginning:
        """What came of the latest connecting."""
        return Beginning(self._attempts, self._session.peer if self._session else None)

    def connect(self, deadline: Deadline) -> Session:
        """The session, connecting and saying hello if need be.

        A link that never had one gives up after the time for connecting, one that lost it at the deadline. Raises
        RpcError: UNAVAILABLE (CONNECTION_REFUSED, CONNECTION_LOST), DEADLINE_EXCEEDED (READ_TIMEOUT), INTERNAL
        (PROTOCOL_ERROR), CANCELLED after close().
        """
        session = self._session
        if session is not None and not session.over and not self._closed:
            return session
        with _held(self._lock, deadline, f"{self._name}: another call is still connecting", "READ_TIMEOUT"):
            self._check_closed()
            if self._session is None or self._session.over:
                self._session, self._attempts = None, ()
                self._take_turn(deadline)
                try:
                    limit = None if self._had_session else self._connect_timeout
                    self._session = self._open(deadline.sooner(limit))
                finally:
                    self._attempt = None
                    self._give_up_unused_turn()
                self._had_session = True
                self._session.start()
                self._check_closed()
            return self._session

    def send(self, session: Session, request: Request, deadline: Deadline, expect: Callable[[], object]) -> None:
        """Send one request in a session that connect() gave; `expect` is called before, in the order of sending.

        Raises SessionOver; RpcError: UNAVAILABLE (CONNECTION_LOST), DEADLINE_EXCEEDED (WRITE_TIMEOUT), both of requests
        that are not all sent and so take no effect; INVALID_ARGUMENT for a request that no HTTP message can carry.
        """
        try:
            buffers = session.connection.send(request)
        except LocalProtocolError as error:
            raise RpcError(
                Code.INVALID_ARGUMENT, f"the request cannot be sent: {error}", reason="INVALID_PARAMS"
            ) from error
        deadline = deadline.sooner(self._write_timeout)
        try:
            what = f"{self._name}: another request is still being sent"
            with _held(session.send_lock, deadline, what, "WRITE_TIMEOUT"):
                if session.over:
                    raise SessionOver
                expect()
                session.send(buffers, deadline)
        except TransportTimeout as error:
            raise RpcError(
                Code.DEADLINE_EXCEEDED,
                f"{error}: the request could not be sent",
                reason="WRITE_TIMEOUT",
                not_run=True,
            ) from error
        except TransportError as error:
            message = f"{self._name}: the link was lost ({error}) before the request was sent"
            raise RpcError(Code.UNAVAILABLE, message, reason="CONNECTION_LOST", not_run=True) from error
        finally:
            session.flush()

    def yield_turn(self, session: Session) -> None:
        """Let others have the port, if they wait and the session has nothing to do; called when no call waits."""
        if self._port_lock is None or not self._lock.acquire(blocking=False):
            return
        try:
            if session is self._session and self._port_lock.held and self._port_lock.wanted():
                session.leave()
                session.end()
                self._port_lock.release()
        finally:
            self._lock.release()

    def give_way(self) -> None:
        """`yield_turn` with the session that there is, if any."""
        session = self._session
        if session is not None:
            self.yield_turn(session)

    def close(self) -> None:
        """End the session; connecting again is refused."""
        self._closed = True
        attempt = self._attempt
        if attempt is not None:
            attempt.end()
        # Not for ever: a signal may have ended a call just when it had the lock.
        held = self._lock.acquire(timeout=_CLOSE_TIME)
        try:
            session = self._session
            if session is not None:
                session.leave()
                session.end()
            if self._port_lock is not None:
                self._port_lock.release()
        finally:
            if held:
                self._lock.release()
        if session is not None:
            session.join()

    def _check_closed(self) -> None:
        if self._closed:
            if self._session is not None:
                self._session.end()
            raise RpcError(Code.CANCELLED, f"{self._name}: the channel is closed", reason="CANCELLED")

    # -- taking turns

    def _take_turn(self, deadline: Deadline) -> None:
        lock = self._port_lock
        if lock is None or lock.held:
            return
        patience = Deadline(_PATIENCE)
        try:
            while True:
                # In short waits, so that close() is noticed.
                try:
                    if lock.acquire(deadline.sooner(_PATIENCE)):
                        return
                except PortBusy:
                    if deadline.expired:
                        raise
                self._check_closed()
                if patience.expired:
                    self._tell_of_waiting(lock.holder() or "others in turn")
                    patience = Deadline(None)
                if deadline.expired:
                    raise PortBusy(f"the port is held by {lock.holder() or 'others in turn'}")
        except PortBusy as error:
            raise RpcError(
                Code.DEADLINE_EXCEEDED,
                f"{self._name}: {error}; wait until it ends, or give the call more time",
                reason="READ_TIMEOUT",
                not_run=True,
            ) from error
        except LockUnusable as error:
            raise RpcError(Code.UNAVAILABLE, f"{self._name}: {error}", reason="CONNECTION_REFUSED") from error

    def _tell_of_waiting(self, holder: str) -> None:
        if self._on_wait is not None:
            self._on_wait(holder)
        else:
            _log.warning("%s: waiting for the port, which is held by %s", self._name, holder)

    def _give_up_unused_turn(self) -> None:
        """Where no session came, or none that keeps others out, they need not wait for us."""
        session = self._session
        if self._port_lock is None or not self._port_lock.held:
            return
        if session is None or session.over or session.peer is None or not session.peer.window:
            self._port_lock.release()

    # -- connecting

    def _open(self, deadline: Deadline) -> Session:
        window = _FIRST_WINDOW
        leave = _LEAVE_TIME
        wrong_answers = 0
        heard = b""  # by the last attempt that heard anything
        while True:
            self._check_closed()
            try:
                transport = self._connect(deadline.remaining())
            except ConnectFailed as error:
                if self._attempt is not None and deadline.expired:  # the queue is full, of our own attempts too
                    self._raise_no_hello(heard, error)
                raise RpcError(Code.UNAVAILABLE, str(error), reason="CONNECTION_REFUSED", not_run=True) from error
            session = self._attempt = Session(transport, ClientConnection(self._limits), self._owner, self._name)
            begun = time.monotonic()
            failure: Exception | None = None
            try:
                if self._hello:
                    remaining = deadline.remaining()
                    # At least two attempts, since what one says may be lost.
                    half = window if remaining is None else min(window, max(remaining / 2, 0.05))
                    session.greet(socket_window(), deadline.sooner(half))
                return session
            except NotAtBoundary as error:
                failure = error
                transport.close()
                if deadline.expired:
                    self._raise_no_hello(heard, error)
            except (TransportError, RemoteProtocolError, WrongPeer) as error:
                failure = error
                transport.close()
                # What has echoed our own nonce is what it is.
                heard = session.heard or heard
                wrong_answers += isinstance(error, TransportClosed) or (bool(heard) and window >= _JUDGED_WINDOW)
                if deadline.expired or wrong_answers == _WRONG_ANSWERS or isinstance(error, WrongPeer):
                    self._raise_no_hello(heard, error)
                window = min(2 * window, _LONGEST_WINDOW)
            except BaseException:
                transport.close()
                raise
            finally:
                self._attempts += (session.attempt(time.monotonic() - begun, failure),)
            time.sleep(leave)
            leave = min(2 * leave, _LONGEST_LEAVE_TIME)

    def _raise_no_hello(self, heard: bytes, error: Exception) -> NoReturn:
        self._check_closed()
        what = str(error)
        if not isinstance(error, (WrongPeer, RemoteProtocolError)):
            if not heard or isinstance(error, NotAtBoundary):
                if isinstance(error, TransportClosed):
                    message = f"{self._name}: the connection was closed before the hello"
                    raise RpcError(Code.UNAVAILABLE, message, reason="CONNECTION_REFUSED", not_run=True) from error
                raise RpcError(
                    Code.DEADLINE_EXCEEDED,
                    f"{self._name}: connected, but nobody answers: the guest may still boot, its vsrpc-guest daemon "
                    "may not run, or a client that takes no turns holds the port",
                    reason="READ_TIMEOUT",
                    not_run=True,
                ) from error
            what = f"it said {heard[:60].decode('latin-1')!r}"
        raise RpcError(
            Code.INTERNAL,
            f"{self._name}: what answers there is not a vsrpc guest that this client can talk to: {what}; check the "
            "socket's path and the versions of both ends",
            reason="PROTOCOL_ERROR",
            not_run=True,
        ) from error


def socket_window() -> int:
    """How many bytes may be on their way to us unread, so that they all fit our socket."""
    try:
        with open(_SOCKET_BUFFER_FILE, "rb") as file:
            size = int(file.read())
    except (OSError, ValueError):
        size = _SOCKET_BUFFER
    return int(size * _USABLE) // _WRITE * _WRITE


@contextmanager
def _held(lock: threading.Lock, deadline: Deadline, what: str, reason: str) -> Iterator[None]:
    """Hold a lock; RpcError DEADLINE_EXCEEDED when it cannot be had in time."""
    remaining = deadline.remaining()
    if not lock.acquire(timeout=-1 if remaining is None else remaining):
        raise RpcError(Code.DEADLINE_EXCEEDED, what, reason=reason, not_run=True)
    try:
        yield
    finally:
        lock.release()


__all__ = ["Link", "Session", "SessionOver", "lost"]
