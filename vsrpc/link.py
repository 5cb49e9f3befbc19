"""The link: a session with a server, over a transport that is made anew when it was lost.

It connects when first needed, says hello, sends requests, and hands what comes back to its owner. It knows HTTP
messages; nothing of calls, codecs or protobuf. Failures are RpcError: the one place where a transport's and the
wire's exceptions become statuses.
"""

from __future__ import annotations

import secrets
import threading
import time
from contextlib import contextmanager
from typing import Callable, Iterator, NoReturn, Protocol

from vsrpc.deadline import Deadline
from vsrpc.errors import RpcError
from vsrpc.hello import REQUEST_ID, Peer, WrongPeer, hello_request, parse_hello
from vsrpc.status import Code
from vsrpc.transports import (
    ConnectFailed,
    Connector,
    Transport,
    TransportClosed,
    TransportError,
    TransportTimeout,
)
from vsrpc.wire import (
    BodyTooLarge,
    ClientConnection,
    Limits,
    LocalProtocolError,
    RemoteProtocolError,
    Request,
    Response,
)

# A hello can be lost in what a killed client left half sent; connecting again ends that client's session for
# the server too. So a silent hello is given up after this many seconds at most, the next after twice as many, and so on
# within the time for connecting: a guest that is slow, or about to boot, is given its time as well.
_FIRST_WINDOW = 1.0

# What comes in place of the reply to a hello may be half a reply to somebody who left before us: once, but not again.
_WRONG_ANSWERS = 2

# Between two attempts, in seconds: a guest sees that its port's client has left only if the next one does not come at
# once (it takes some 2 ms), and until then it drops what we say as the rest of what it did not understand.
_LEAVE_TIME = 0.05

# How often the owner may look at its calls' deadlines, in seconds. Whoever waits for a call sees its deadline
# exactly; this is for calls that nobody waits for.
_TICK = 0.5


class SessionOver(Exception):
    """The session ended before anything of the request was sent: connect() makes a new one."""


class LinkOwner(Protocol):
    """Who uses a link; called from the session's receiving thread."""

    def on_response(self, session: Session, response: Response) -> None:
        """A complete response came."""

    def on_tick(self) -> None:
        """Some time has passed."""

    def on_lost(self, session: Session, error: RpcError) -> None:
        """The session is over; no response to what was sent in it will come."""


class Link:
    """A session kept alive to one target."""

    def __init__(
        self,
        name: str,
        connect: Connector,
        owner: LinkOwner,
        *,
        connect_timeout: float,
        write_timeout: float,
        hello: bool = True,
        limits: Limits | None = None,
    ) -> None:
        self._name = name
        self._connect = connect
        self._owner = owner
        self._connect_timeout = connect_timeout
        self._write_timeout = write_timeout
        self._hello = hello
        self._limits = limits or Limits()
        self._lock = threading.Lock()  # connecting, and what the session is
        self._session: Session | None = None
        self._closed = False

    def connect(self, deadline: Deadline) -> Session:
        """The session, connecting and saying hello if need be.

        Raises RpcError: UNAVAILABLE (CONNECTION_REFUSED, CONNECTION_LOST), DEADLINE_EXCEEDED (READ_TIMEOUT), INTERNAL
        (PROTOCOL_ERROR), CANCELLED after close().
        """
        with _held(self._lock, deadline, f"{self._name}: another call is still connecting", "READ_TIMEOUT"):
            if self._closed:
                raise RpcError(Code.CANCELLED, f"{self._name}: the channel is closed", reason="CANCELLED")
            if self._session is None or self._session.over:
                self._session = self._open(deadline.sooner(self._connect_timeout))
                self._session.start()
            return self._session

    def send(self, session: Session, request: Request, deadline: Deadline, expect: Callable[[], object]) -> None:
        """Send one request in a session that connect() gave; `expect` is called before, in the order of sending.

        Raises SessionOver; RpcError: UNAVAILABLE (CONNECTION_LOST), DEADLINE_EXCEEDED (WRITE_TIMEOUT),
        INVALID_ARGUMENT for a request that no HTTP message can carry.
        """
        try:
            buffers = session.connection.send(request)
        except LocalProtocolError as error:
            raise RpcError(
                Code.INVALID_ARGUMENT, f"the request cannot be sent: {error}", reason="INVALID_PARAMS"
            ) from error
        deadline = deadline.sooner(self._write_timeout)
        with _held(session.send_lock, deadline, f"{self._name}: another request is still being sent", "WRITE_TIMEOUT"):
            if session.over:
                raise SessionOver
            expect()
            try:
                session.transport.send(buffers, deadline.remaining())
            except TransportError as error:
                # Part of the request may be on its way: nothing else can follow it.
                session.end()
                if not isinstance(error, TransportTimeout):
                    raise _lost(self._name, str(error)) from error
                raise RpcError(
                    Code.DEADLINE_EXCEEDED, f"{error}: the request could not be sent", reason="WRITE_TIMEOUT"
                ) from error

    def close(self) -> None:
        """End the session; connecting again is refused."""
        with self._lock:
            self._closed = True
            session = self._session
        if session is not None:
            session.end()
            session.join()

    def _open(self, deadline: Deadline) -> Session:
        remaining = deadline.remaining()
        window = _FIRST_WINDOW if remaining is None else min(_FIRST_WINDOW, remaining / 2)
        wrong_answers = 0
        while True:
            try:
                transport = self._connect(deadline.remaining())
            except ConnectFailed as error:
                raise RpcError(Code.UNAVAILABLE, str(error), reason="CONNECTION_REFUSED") from error
            session = Session(transport, ClientConnection(self._limits), self._owner, self._name)
            try:
                if self._hello:
                    session.say_hello(deadline.sooner(window))
                return session
            except (TransportError, RemoteProtocolError, WrongPeer) as error:
                transport.close()
                wrong_answers += not isinstance(error, TransportTimeout)
                if deadline.expired or wrong_answers == _WRONG_ANSWERS:
                    self._raise_no_hello(error)
                window *= 2
                time.sleep(_LEAVE_TIME)
            except BaseException:
                transport.close()
                raise

    def _raise_no_hello(self, error: Exception) -> NoReturn:
        if isinstance(error, TransportTimeout):
            raise RpcError(
                Code.DEADLINE_EXCEEDED,
                f"{self._name}: connected, but nobody answers: the guest may still boot, its vsrpc-guest daemon may "
                "not run, or another client holds the port",
                reason="READ_TIMEOUT",
            ) from error
        if isinstance(error, TransportClosed):
            raise RpcError(
                Code.UNAVAILABLE, f"{self._name}: the connection was closed before the hello", reason="CONNECTION_LOST"
            ) from error
        raise RpcError(
            Code.INTERNAL,
            f"{self._name}: what answers there is not a vsrpc guest that this client can talk to: {error}; check the "
            "socket's path and the versions of both ends",
            reason="PROTOCOL_ERROR",
        ) from error


class Session:
    """One transport's lifetime, with the thread that receives from it.

    `peer` is what the server said of itself; None where no hello is spoken.
    """

    def __init__(self, transport: Transport, connection: ClientConnection, owner: LinkOwner, name: str) -> None:
        self.transport = transport
        self.connection = connection
        self.peer: Peer | None = None
        self.over = False
        self.failure: RpcError | None = None  # why it is over, unless this end ended it
        self.send_lock = threading.Lock()
        self._owner = owner
        self._name = name
        self._thread = threading.Thread(target=self._receive, name="vsrpc-link", daemon=True)

    def say_hello(self, deadline: Deadline) -> None:
        """The first exchange. Raises TransportError, RemoteProtocolError, WrongPeer."""
        request_id = secrets.token_hex(8)
        self.transport.send(self.connection.send(hello_request(request_id)), deadline.remaining())
        while True:
            response = self._next_response(deadline)
            # A reply to somebody who left before us may come first. Only a server that knows no hello would
            # leave out the id, and parse_hello says so.
            if response.headers.get(REQUEST_ID) in (request_id, None):
                self.peer = parse_hello(response)
                return

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join()

    def end(self) -> None:
        self.over = True
        self.transport.close()

    def _next_response(self, deadline: Deadline) -> Response:
        while True:
            event = self.connection.next_event()
            if event is not None:
                return event
            count = self.transport.recv_into(self.connection.get_buffer(), deadline.remaining())
            if not count:
                raise TransportClosed(f"{self._name}: closed by the other end")
            self.connection.buffer_updated(count)

    def _receive(self) -> None:
        tick = Deadline(_TICK)
        try:
            while True:
                try:
                    response: Response | None = self._next_response(tick)
                except TransportTimeout:
                    response = None
                if tick.expired:
                    self._owner.on_tick()
                    tick = Deadline(_TICK)
                if response is not None:
                    self._owner.on_response(self, response)
        except TransportError as error:
            failure = _lost(self._name, str(error))
        except BodyTooLarge as error:
            failure = RpcError(
                Code.RESOURCE_EXHAUSTED, f"{self._name}: the reply is too large: {error}", reason="TOO_LARGE"
            )
        except RemoteProtocolError as error:
            failure = RpcError(
                Code.INTERNAL, f"{self._name}: the reply breaks the protocol: {error}", reason="PROTOCOL_ERROR"
            )
        except BaseException as error:
            failure = RpcError(Code.INTERNAL, f"{self._name}: {error!r}", reason="INTERNAL_ERROR")
            raise
        finally:
            self.failure = failure
            self.end()
            self._owner.on_lost(self, failure)


@contextmanager
def _held(lock: threading.Lock, deadline: Deadline, what: str, reason: str) -> Iterator[None]:
    """Hold a lock; RpcError DEADLINE_EXCEEDED when it cannot be had in time."""
    remaining = deadline.remaining()
    if not lock.acquire(timeout=-1 if remaining is None else remaining):
        raise RpcError(Code.DEADLINE_EXCEEDED, what, reason=reason)
    try:
        yield
    finally:
        lock.release()


def _lost(name: str, cause: str) -> RpcError:
    return RpcError(
        Code.UNAVAILABLE,
        f"{name}: the link was lost ({cause}); whether the call took effect is not known",
        reason="CONNECTION_LOST",
    )
