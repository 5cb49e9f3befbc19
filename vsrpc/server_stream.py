"""One stream of the server: its requests in, and where one peer's session ends and the next one begins.

Its thread reads and never waits for a handler or for the writing of a response, so that a peer that leaves is noticed,
deadlines are enforced, and both directions may be full.

At a port a peer may be replaced by another unseen. A sync then says so (vsrpc.wire.sync). Where nobody knows what the
next byte belongs to, nothing is parsed until a sync that counts, or until the peer has gone:

    state      begins with                        a sync                    anything else
    plain      a peer, at a boundary              in a head: session        requests, in order
    session    a sync                             a new session             a hello, then requests in any order
                                                                            (one that does not name it: plain;
                                                                            one that names another: answered like
                                                                            a sync in lost)
    broken     broken HTTP in a session           a new session             dropped
    lost       a peer that was there before us,   answered: connect anew    dropped, after one answer: 503
               or broken HTTP of a plain client
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from vsrpc.deadline import Deadline
from vsrpc.errors import busy
from vsrpc.hello import cancelled_by, hello_response, is_hello, is_link_request, link_response, window_of
from vsrpc.outbox import Outbox
from vsrpc.server_session import ServerSession
from vsrpc.transports import Transport, TransportClosed, TransportTimeout
from vsrpc.wire import (
    CONTINUE,
    MAGIC,
    SESSION_HEADER,
    Acks,
    Buffer,
    ExpectContinue,
    Finder,
    Headers,
    Leave,
    Limits,
    Refused,
    RemoteProtocolError,
    Request,
    Response,
    ServerConnection,
    ServerEvent,
    Sync,
    response_sync,
    session_name,
)

if TYPE_CHECKING:
    from vsrpc.server import Server

_log = logging.getLogger(__name__)

# For how long a server that stops tries to tell its peers, in seconds.
_FAREWELL_TIME = 1.0

# In a request of a client that believes to be in a session.
_NAMES_SESSION = f"{SESSION_HEADER}: ".encode()

_RESTARTED = "the guest's daemon has just started and cannot tell where your request begins; connect and send it again"


class ServerStream:
    """One transport's time with the server: start() or run() it, once."""

    def __init__(self, server: Server, transport: Transport) -> None:
        self._server = server
        self._transport = transport
        self._connection = ServerConnection(Limits(max_body=server.max_body), server.buffered.lease)
        self._outbox = Outbox(transport, server.write_timeout, lambda error: self.end())
        self._stall = Deadline(None)
        self._nonce: bytes | None = None  # of a sync whose hello is still to come
        self._greeted = False
        self._heard = 0  # of what was said (Outbox.said), what the peer has surely received
        self._heard_before: int | None = None  # ... unless what was received last is another peer's
        self._awaits_word = False  # of a peer that says nothing before it has received the answer to its hello
        self._name: str | None = None  # of the session that a sync began
        self._sent_away = False  # somebody who may have waited for an echo: it leaves at once, whatever comes then
        self._lost: Finder | None = None
        self._broken = False
        self._session = self._new_session(in_order=True)
        self._thread: threading.Thread | None = None
        self._over = threading.Event()

    def start(self) -> None:
        """Run in a thread of its own."""
        self._thread = threading.Thread(target=self.run, name="vsrpc-session", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # no further thread
            self._thread = None
            self._let_go()
            raise

    def join(self) -> None:
        """Wait until it has run."""
        self._over.wait()
        if self._thread is not None:
            self._thread.join()

    def end(self) -> None:
        """Close the stream, which ends its thread."""
        self._transport.close()

    def stop(self) -> None:
        """Tell the peer that nothing more will be done (a port has no end of file to say it), and end()."""
        self._session.stop()
        if self._greeted:
            self._session.say([response_sync()])
        self._outbox.flush(_FAREWELL_TIME)
        self.end()

    # -- the stream's thread

    def run(self) -> None:
        """Serve the peer until it has gone, or end()."""
        try:
            if not self._transport.at_boundary:
                self._session.say([response_sync()])
                self._lost = Finder(MAGIC)
                self._broken = False
            while self._receive():
                pass
        except TransportClosed:
            pass
        except Exception:
            _log.exception("%s: the session failed", self._transport.peer)
        finally:
            try:
                self._end_session()
            except Exception:
                _log.exception("%s: the session could not be ended", self._transport.peer)
            self._let_go()

    def _let_go(self) -> None:
        try:
            self._connection.reset()
            self._transport.close()
            self._outbox.close()
        finally:
            self._server.forget(self)
            self._over.set()

    def _end_session(self) -> None:
        """The peer has gone; unless it has said so, perhaps while output was on its way to it."""
        unheard = self._name is not None and self._outbox.said != self._heard
        if self._outbox.on_the_way or self._sent_away or unheard:
            self._transport.lose_output()
        self._sent_away = False
        self._session.end()

    def _new_session(self, *, in_order: bool) -> ServerSession:
        return ServerSession(self._server, self._transport, self._connection, self._outbox, in_order=in_order)

    def _receive(self) -> bool:
        """Receive, all acknowledgements that come first, and handle what is complete; False when the peer has gone."""
        deadline = self._session.next_deadline()
        if deadline.expired:
            self._session.expire()
            return True
        mid_message = self._connection.mid_message and not self._broken
        self._transport.may_be_arriving = not mid_message and self._lost is None
        if mid_message:
            deadline = deadline.sooner(self._stall.remaining())
        buffer = self._connection.get_buffer()
        try:
            count = self._transport.recv_into(buffer, deadline.remaining())
            # Of what a large response is written by, there are thousands: nothing else is looked at between them.
            while self._lost is None and self._connection.take_acks(count):
                self._on_word(buffer[0])
                self._outbox.acknowledge(count)
                remaining = deadline.remaining()
                if remaining == 0:
                    return True
                count = self._transport.recv_into(buffer, remaining)
        except TransportTimeout:
            if mid_message and self._stall.expired:
                stopped = f"the request stopped in the middle for {self._server.stall_timeout:g} s"
                self._give_up(RemoteProtocolError(stopped, 408))
            return True
        if not count:
            return False
        self._stall = Deadline(self._server.stall_timeout)
        self._on_word(buffer[0])
        if self._lost is not None:
            self._on_lost_bytes(bytes(buffer[:count]), self._lost)
            return True
        self._connection.buffer_updated(count)
        while True:
            try:
                event = self._connection.next_event()
                if self._connection.magic_in_content:
                    self._connection.magic_in_content = False
                    self._sent_away = True
                    self._session.say([response_sync()])
                if event is None:
                    return True
                self._on_event(event)
            except RemoteProtocolError as error:
                if self._broken:
                    return True
                self._give_up(error)
                if self._lost is not None:  # whoever came next may have asked already
                    self._on_lost_bytes(bytes(buffer[:count]), self._lost)
                    return True

    def _on_word(self, first: int) -> None:
        """Something came, beginning with that byte."""
        self._heard_before = None
        if self._awaits_word and first != MAGIC[0]:  # and not the next peer's sync
            self._awaits_word = False
            self._heard_before, self._heard = self._heard, self._outbox.said

    def _on_event(self, event: ServerEvent) -> None:
        if isinstance(event, Sync):
            self._begin(event.nonce)
        elif isinstance(event, Acks):
            self._outbox.acknowledge(event.count)
        elif isinstance(event, Leave):
            self._heard = self._outbox.said
        elif isinstance(event, ExpectContinue):
            self._session.say([CONTINUE])
        elif event.headers.get(SESSION_HEADER) != self._name:
            if SESSION_HEADER in event.headers:  # one that we know nothing of: its client must begin anew
                self._session.say([response_sync()])
            else:
                self._begin_plain()
                self._on_event(event)
        elif isinstance(event, Request) and is_link_request(event):
            self._on_link_request(event)
        elif self._nonce is not None:
            raise RemoteProtocolError("a session begins with a hello")
        elif isinstance(event, Refused):
            if event.status == 429:
                refusal = busy(event.message, "limits.buffered", self._server.buffered.size)
                event = event._replace(message=refusal.details())
            self._session.take(self._server.dispatcher.refuse(event, self._transport.peer))
        else:
            self._session.take(self._server.dispatcher.call(event, self._transport.peer))

    def _begin(self, nonce: bytes) -> None:
        """A sync: whoever spoke before has gone."""
        self._end_session()
        self._session = self._new_session(in_order=False)
        self._nonce = nonce
        self._heard = self._outbox.said
        self._name = session_name(nonce)
        self._greeted = self._awaits_word = self._broken = False

    def _begin_plain(self) -> None:
        """A request of a client that did not synchronise: whoever did has gone."""
        if self._heard_before is not None:
            self._heard = self._heard_before
        self._end_session()
        self._session = self._new_session(in_order=True)
        self._nonce = self._name = None
        self._greeted = False

    def _on_link_request(self, request: Request) -> None:
        if not is_hello(request):
            cancelled = cancelled_by(request)
            if cancelled is not None:
                self._session.cancel(cancelled)
            self._session.say(self._connection.send(link_response(request)))
            return
        me = self._server.me
        echo: list[Buffer] = []
        if self._nonce is not None:
            echo.append(response_sync(self._nonce))
            window = 0 if self._transport.peer_sees_end else window_of(request)
            self._outbox.grant(window)
            if window:
                me = me._replace(window=window, lost_output=self._transport.lost_output)
        if self._server.authenticator is not None:
            me = me._replace(challenge=self._server.authenticator.challenge(me.instance))
        response = hello_response(request, me)
        self._session.say(echo, self._connection.send(response))
        if response.status == 200 and self._nonce is not None:
            self._nonce = None
            self._greeted = self._awaits_word = True

    def _on_lost_bytes(self, data: bytes, finder: Finder) -> None:
        """Somebody speaks, and nobody knows in the middle of what."""
        asks = finder.find(data, 0, len(data)) is not None or _NAMES_SESSION in data
        if asks or not self._broken:
            self._session.say([response_sync()])
        if not asks and not self._broken:
            self._broken = True
            self._session.say(self._last_words(503, _RESTARTED))

    def _give_up(self, error: RemoteProtocolError) -> None:
        """The stream cannot be understood any more: say so, and parse nothing more of it until a sync that counts."""
        _log.warning("%s: %s", self._transport.peer, error)
        self._server.dispatcher.broken(self._transport.peer, str(error))
        self._connection.give_up(error)
        self._session.end()
        self._session = self._new_session(in_order=True)
        self._session.say(self._last_words(error.status, str(error)))
        self._broken = True
        self._greeted = False
        if self._transport.peer_sees_end:
            self._outbox.flush(self._server.write_timeout)
            self.end()
        elif self._name is None:
            self._lost = Finder(MAGIC)

    def _last_words(self, status: int, message: str) -> list[Buffer]:
        headers = [("content-type", "text/plain; charset=utf-8"), ("connection", "close")]
        return self._connection.send(Response(status, Headers(headers), f"{message}\n".encode()))
