"""The link: a session with a server, over a transport that is made anew when it was lost.

It connects when first needed, says hello, sends requests, and hands what comes back to its owner. It knows HTTP
messages; nothing of calls, codecs or protobuf. Failures are RpcError: the one place where a transport's and the
wire's exceptions become statuses.
"""

from __future__ import annotations

import secrets
import threading
from typing import NoReturn, Protocol

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
from vsrpc.wire import ClientConnection, Limits, RemoteProtocolError, Request, Response

# A hello can be lost in what a killed client left half sent; connecting again ends that client's session for
# the server too. So the time for connecting is shared by this many attempts.
_HELLO_ATTEMPTS = 2

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

        Raises RpcError: UNAVAILABLE (CONNECTION_REFUSED, READ_TIMEOUT), INTERNAL (PROTOCOL_ERROR).
        """
        with self._lock:
            if self._closed:
                raise RpcError(Code.CANCELLED, f"{self._name}: the channel is closed", reason="CANCELLED")
            if self._session is None or self._session.over:
                self._session = self._open(deadline.sooner(self._connect_timeout))
                self._session.start()
            return self._session

    def send(self, session: Session, request: Request, deadline: Deadline) -> None:
        """Send one request in a session that connect() gave.

        Raises SessionOver; RpcError: UNAVAILABLE (CONNECTION_LOST), DEADLINE_EXCEEDED (WRITE_TIMEOUT).
        """
        if session.over:
            raise SessionOver
        buffers = session.connection.send(request)
        try:
            with session.send_lock:
                session.transport.send(buffers, deadline.sooner(self._write_timeout).remaining())
        except TransportTimeout as error:
            # Part of the request may be on its way: nothing else can follow it.
            session.end()
            raise RpcError(
                Code.DEADLINE_EXCEEDED, f"{error}: the request could not be sent", reason="WRITE_TIMEOUT"
            ) from error
        except TransportError as error:
            raise _lost(self._name, str(error)) from error

    def close(self) -> None:
        """End the session; connecting again is refused."""
        with self._lock:
            self._closed = True
            session = self._session
        if session is not None:
            session.end()
            session.join()

    def _open(self, deadline: Deadline) -> Session:
        for attempt in range(_HELLO_ATTEMPTS):
            share = deadline.remaining()
            if share is not None:
                share /= _HELLO_ATTEMPTS - attempt
            last = attempt == _HELLO_ATTEMPTS - 1
            try:
                transport = self._connect(share)
            except ConnectFailed as error:
                raise RpcError(Code.UNAVAILABLE, str(error), reason="CONNECTION_REFUSED") from error
            session = Session(transport, ClientConnection(self._limits), self._owner, self._name)
            try:
                if self._hello:
                    session.say_hello(Deadline(share))
                return session
            except (TransportError, RemoteProtocolError, WrongPeer) as error:
                transport.close()
                # Half a reply to somebody who left before us may precede ours: seen once, it may be that.
                if last:
                    self._raise_no_hello(error)
            except BaseException:
                transport.close()
                raise
        raise AssertionError("unreachable")

    def _raise_no_hello(self, error: Exception) -> NoReturn:
        if isinstance(error, TransportTimeout):
            raise RpcError(
                Code.UNAVAILABLE,
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
        try:
            while True:
                try:
                    response = self._next_response(Deadline(_TICK))
                except TransportTimeout:
                    self._owner.on_tick()
                    continue
                self._owner.on_response(self, response)
        except TransportError as error:
            failure = _lost(self._name, str(error))
        except RemoteProtocolError as error:
            failure = RpcError(
                Code.INTERNAL, f"{self._name}: the reply breaks the protocol: {error}", reason="PROTOCOL_ERROR"
            )
        except BaseException as error:
            failure = RpcError(Code.INTERNAL, f"{self._name}: {error!r}", reason="PROTOCOL_ERROR")
            raise
        finally:
            self.failure = failure
            self.end()
            self._owner.on_lost(self, failure)


def _lost(name: str, cause: str) -> RpcError:
    return RpcError(
        Code.UNAVAILABLE,
        f"{name}: the link was lost ({cause}); whether the call took effect is not known",
        reason="CONNECTION_LOST",
    )
