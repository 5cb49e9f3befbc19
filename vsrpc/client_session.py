"""A client's session: one transport's lifetime, with the thread that receives from it.

It begins with a sync and a hello, acknowledges what it reads where the server asks for that, and notices when the
server knows of no session any more: when it says so, or when it falls silent while calls wait.
"""

from __future__ import annotations

import os
import threading
import time
from typing import NamedTuple, Protocol

from vsrpc.auth import Challenge
from vsrpc.deadline import Deadline
from vsrpc.errors import RpcError
from vsrpc.hello import (
    MESSAGE_COST,
    REQUEST_ID,
    Peer,
    cancel_request,
    hello_request,
    parse_hello,
    probe_request,
)
from vsrpc.status import Code
from vsrpc.transports import Transport, TransportClosed, TransportError, TransportTimeout, send_all
from vsrpc.wire import (
    ACK,
    LEAVE,
    NONCE_SIZE,
    BodyDamaged,
    BodyTooLarge,
    Buffer,
    ClientConnection,
    ClientEvent,
    RemoteProtocolError,
    Request,
    Response,
    Sync,
    response_sync,
)

# How often the owner may look at its calls' deadlines, in seconds. Whoever waits for a call sees its deadline
# exactly; this is for calls that nobody waits for.
_TICK = 0.5

# While calls wait, after so many seconds without a byte the server is asked whether the session lives, and after so
# many it is given up. A server answers that at once, whatever it does for the calls.
_PROBE_AFTER = 2.0
_SILENT_AFTER = 20.0

# A session that has been silent for so many seconds is asked first whether it lives, before a call that must not be
# made twice: were it sent to nobody, whether it took effect could not be known. How long to wait for the answer.
_DOUBTFUL_AFTER = 1.0
_PROBE_TIME = 2.0

# How long the end of a session waits for the server to hear of what was cancelled, in seconds.
_SETTLE_TIME = 0.5

# Short messages of our own are given so many seconds: a guest always reads.
_SOON_TIMEOUT = 5.0

# After a reply that breaks the protocol, for so many seconds a sync may follow that explains it.
_SYNC_TIME = 0.25

_RESTARTED = "the guest's daemon was restarted, or has given the session up"

_HEARD = 200  # bytes of a stranger's words that are kept for a message


class SessionOver(Exception):
    """The session ended before anything of the request was sent: connect() makes a new one."""


class NotAtBoundary(Exception):
    """The server is there, and says that it cannot tell where we begin: connect again."""


class Attempt(NamedTuple):
    """One connection on the way to a session, and what came of it."""

    seconds: float
    heard: bytes
    """The first bytes that came; of an attempt that was answered, those before the answer: meant for somebody else."""
    failure: type[Exception] | None
    """NotAtBoundary, WrongPeer, RemoteProtocolError, TransportTimeout or TransportClosed; None if it was answered."""
    message: str
    """The failure's text."""


class Beginning(NamedTuple):
    """How a link's session came about, or why there is none: for people who look for what is wrong."""

    attempts: tuple[Attempt, ...] = ()
    peer: Peer | None = None
    """What the server said of itself."""


class SessionOwner(Protocol):
    """Who uses a session; called from its receiving thread."""

    def on_response(self, session: Session, response: Response) -> None:
        """A complete response came."""

    def on_tick(self, session: Session) -> bool:
        """Some time has passed; whether calls wait in the session."""

    def on_lost(self, session: Session, error: RpcError) -> None:
        """The session is over; no response to what was sent in it will come."""


class Session:
    """`peer` is what the server said of itself; None where no hello is spoken."""

    def __init__(self, transport: Transport, connection: ClientConnection, owner: SessionOwner, name: str) -> None:
        self.transport = transport
        self.connection = connection
        self.peer: Peer | None = None
        self.challenge: Challenge | None = None
        """What requests must be signed for, as the server said last; None where it does not want that."""
        self.over = False
        self.failure: RpcError | None = None  # why it is over, unless this end ended it
        self.send_lock = threading.Lock()
        self.heard = b""
        """What came before the server's echo: where none comes, who else is there."""
        self._echo = b""
        self._owner = owner
        self._name = name
        self._thread = threading.Thread(target=self._receive, name="vsrpc-link", daemon=True)
        self._soon: list[Buffer] = []  # sent by whoever has the send lock next
        self._soon_lock = threading.Lock()
        self._messages = 0
        self._acknowledged = 0
        self._last_heard = time.monotonic()
        self._probes: dict[str, threading.Event] = {}
        self._cancels: threading.Event | None = None  # the last one's answer

    # -- the beginning

    def greet(self, window: int, deadline: Deadline) -> None:
        """Sync and say hello. Raises TransportError, RemoteProtocolError, WrongPeer, NotAtBoundary."""
        nonce = os.urandom(NONCE_SIZE)
        self._echo = response_sync(nonce)
        request_id = os.urandom(8).hex()
        first = [self.connection.sync(nonce), *self.connection.send(hello_request(request_id, window))]
        send_all(self.transport, first, deadline.remaining())
        while True:
            event = self._next_event(deadline)
            if isinstance(event, Response):
                self._messages = 1
                self.peer = parse_hello(event)
                self.challenge = self.peer.challenge
                return
            if event.nonce != nonce:
                raise NotAtBoundary

    def attempt(self, seconds: float, error: Exception | None) -> Attempt:
        """What came of greet()."""
        heard = self.heard.partition(self._echo)[0] if error is None and self._echo else self.heard
        return Attempt(seconds, heard, type(error) if error else None, str(error or ""))

    def start(self) -> None:
        self._thread.start()

    # -- the end

    def end(self) -> None:
        self.over = True
        self.transport.close()

    def join(self) -> None:
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join()

    # -- sending

    def send(self, buffers: list[Buffer], deadline: Deadline) -> None:
        """Send a message, holding `send_lock`. Raises TransportError: the session is then over."""
        try:
            send_all(self.transport, buffers, deadline.remaining())
        except BaseException:
            self.end()  # part of the message may be on its way: nothing else can follow it
            raise

    def flush(self) -> None:
        """Send what waited for the send lock; called whenever that was let go."""
        while self._soon and self.send_lock.acquire(blocking=False):
            try:
                with self._soon_lock:
                    soon, self._soon = self._soon, []
                self.send(soon, Deadline(_SOON_TIMEOUT))
            except TransportError:
                return  # the receiving thread sees it too
            finally:
                self.send_lock.release()

    def cancel(self, request_id: str) -> None:
        """Ask the server to give up a call; does not wait."""
        own_id = os.urandom(8).hex()
        self._cancels = self._probes[own_id] = threading.Event()
        self._send_soon(cancel_request(own_id, request_id))

    def leave(self) -> None:
        """Say that we leave, when no call waits.

        First the server must have heard of what was cancelled: what is sent just before the end may be lost.
        """
        if self.over or self.peer is None:
            return
        if self._cancels is None or self._cancels.wait(_SETTLE_TIME):
            with self._soon_lock:
                self._soon.append(LEAVE)
            self.flush()

    def lives(self, deadline: Deadline) -> bool:
        """Whether the server still knows the session; asks it if it has been silent for a while."""
        if time.monotonic() - self._last_heard < _DOUBTFUL_AFTER:
            return True
        request_id = os.urandom(8).hex()
        answered = self._probes[request_id] = threading.Event()
        self._send_soon(probe_request(request_id))
        lives = answered.wait(deadline.sooner(_PROBE_TIME).remaining())
        self._probes.pop(request_id, None)
        return lives and not self.over

    def _send_soon(self, request: Request) -> None:
        with self._soon_lock:
            self._soon += self.connection.send(request)
        self.flush()

    # -- receiving

    def _next_event(self, deadline: Deadline) -> ClientEvent:
        while True:
            event = self.connection.next_event()
            if event is not None:
                return event
            buffer = self.connection.get_buffer()
            count = self.transport.recv_into(buffer, deadline.remaining())
            if not count:
                raise TransportClosed(f"{self._name}: closed by the other end")
            if self.peer is None and len(self.heard) < _HEARD:
                self.heard += bytes(buffer[: min(count, _HEARD)])
            self._last_heard = time.monotonic()
            self.connection.buffer_updated(count)
            self._acknowledge()

    def _acknowledge(self) -> None:
        """Tell the server what we have read, in halves of the window."""
        if self.peer is None or not self.peer.window:
            return
        due = (self.connection.received + self._messages * MESSAGE_COST) // (self.peer.window // 2)
        if due > self._acknowledged:
            with self._soon_lock:
                self._soon.append(ACK * (due - self._acknowledged))
            self._acknowledged = due
            self.flush()

    def _receive(self) -> None:
        tick = Deadline(_TICK)
        try:
            while True:
                try:
                    event: ClientEvent | None = self._next_event(tick)
                except TransportTimeout:
                    event = None
                if tick.expired:
                    self._look_after(self._owner.on_tick(self))
                    tick = Deadline(_TICK)
                if isinstance(event, Sync):
                    raise TransportClosed(f"{self._name}: {_RESTARTED}")
                if event is not None:
                    self._messages += 1
                    self._on_response(event)
        except (TransportError, BodyDamaged) as error:
            failure = lost(self._name, str(error))
        except BodyTooLarge as error:
            failure = RpcError(
                Code.RESOURCE_EXHAUSTED, f"{self._name}: the reply is too large: {error}", reason="TOO_LARGE"
            )
        except RemoteProtocolError as error:
            if self._sync_follows():
                failure = lost(self._name, _RESTARTED)
            else:
                failure = RpcError(
                    Code.INTERNAL, f"{self._name}: the reply breaks the protocol: {error}", reason="PROTOCOL_ERROR"
                )
        except BaseException as error:
            failure = RpcError(Code.INTERNAL, f"{self._name}: {error!r}", reason="INTERNAL_ERROR")
            raise
        finally:
            self.failure = failure
            self.end()
            for probe in list(self._probes.values()):
                probe.set()
            self._owner.on_lost(self, failure)

    def _sync_follows(self) -> bool:
        """Whether what broke the protocol is only a reply that was cut off by the death of its daemon."""
        deadline = Deadline(_SYNC_TIME)
        while True:
            try:
                if isinstance(self._next_event(deadline), Sync):
                    return True
            except RemoteProtocolError:
                try:
                    count = self.transport.recv_into(self.connection.get_buffer(), deadline.remaining())
                except TransportError:
                    return False
                if not count:
                    return False
                self.connection.buffer_updated(count)
            except TransportError:
                return False

    def _on_response(self, response: Response) -> None:
        probe = self._probes.pop(response.headers.get(REQUEST_ID, ""), None)
        if probe is not None:
            probe.set()
        else:
            self._owner.on_response(self, response)

    def _look_after(self, busy: bool) -> None:
        """See to it that calls do not wait for a server that is no longer there."""
        silent = time.monotonic() - self._last_heard
        if self.peer is None or not busy or silent < _PROBE_AFTER or self.send_lock.locked():
            return
        if silent >= _SILENT_AFTER:
            raise TransportClosed(f"{self._name}: the guest has not answered for {silent:.0f} s")
        self._send_soon(probe_request(os.urandom(8).hex()))


def lost(name: str, cause: str) -> RpcError:
    """What calls end with that were under way when their session ended."""
    return RpcError(
        Code.UNAVAILABLE,
        f"{name}: the link was lost ({cause}); whether the call took effect is not known",
        reason="CONNECTION_LOST",
    )
