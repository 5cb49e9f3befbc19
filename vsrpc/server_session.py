"""One peer's time with the server: its requests in, its responses out, in order where it said no hello.

Its thread reads and never waits for a handler, so that a peer that leaves is noticed and deadlines are enforced.
Workers write what they have made. The reading thread itself writes only short messages (the hello, refusals, what a
deadline ends), for at most `write_timeout`: a peer must read while it writes.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import TYPE_CHECKING

from vsrpc.deadline import Deadline
from vsrpc.errors import RpcError
from vsrpc.hello import hello_response, is_hello
from vsrpc.incoming import IncomingCall
from vsrpc.status import Code
from vsrpc.transports import Transport, TransportClosed, TransportError, TransportTimeout
from vsrpc.wire import (
    CONTINUE,
    Buffer,
    ExpectContinue,
    Headers,
    Limits,
    LocalProtocolError,
    Refused,
    RemoteProtocolError,
    Request,
    Response,
    ServerConnection,
)

if TYPE_CHECKING:
    from vsrpc.server import Server

_log = logging.getLogger(__name__)

# Requests of one peer that wait for their turn, for a peer that said no hello and so gets its replies in order.
_MAX_PIPELINED = 64

# For how long a server that stops tries to tell its peers, in seconds.
_FAREWELL_TIME = 1.0

# Room for the fields around a message's content, and for base64 in JSON, is the dispatcher's business; the wire
# takes bodies somewhat larger than the limit on content.
_BODY_ROOM = 1 << 16


class ServerSession:
    """One peer's time with the server."""

    def __init__(self, server: Server, transport: Transport) -> None:
        self._server = server
        self._transport = transport
        self._connection = ServerConnection(Limits(max_body=server.dispatcher.max_request_size + _BODY_ROOM))
        self._send_lock = threading.Lock()
        self._stall = Deadline(None)
        self._lock = threading.Lock()  # the three below
        self._running: set[IncomingCall] = set()
        self._waiting: deque[IncomingCall] = deque()
        self._turn_taken = False  # in order: from a call's beginning until its response has been sent
        self._in_order = True
        self.thread = threading.Thread(target=self._run, name="vsrpc-session", daemon=True)

    def end(self) -> None:
        """Close the peer's stream, which ends the session's thread."""
        self._transport.close()

    def stop(self) -> None:
        """Tell the peer that nothing more will be done (a port has no end of file to say it), and end()."""
        farewell = Deadline(_FAREWELL_TIME)
        with self._lock:
            unanswered = [*self._running, *self._waiting]
            self._running.update(self._waiting)
            self._waiting.clear()
        for call in unanswered:
            stopping = RpcError(
                Code.UNAVAILABLE, "the guest's daemon is stopping; try again in a moment", reason="SERVICE_UNAVAILABLE"
            )
            self.finish(call, call.fail(stopping), farewell)
            call.context.cancel()
        self.end()

    def waits_for(self, call: IncomingCall) -> bool:
        """Whether the call is still unanswered, and somebody there to answer."""
        with self._lock:
            return call in self._running

    def finish(self, call: IncomingCall, response: Response, deadline: Deadline | None = None) -> None:
        """Send a call's response, unless it was answered already; then run what waited for it."""
        with self._lock:
            if call not in self._running:
                return
            self._running.discard(call)
        close = (call.request.headers.get("connection") or "").lower() == "close"
        if close:
            response = Response(response.status, Headers([*response.headers, ("connection", "close")]), response.body)
        self._send_bytes(self._bytes_of(call, response), deadline)
        if close and self._transport.peer_sees_end:
            self.end()
            return
        with self._lock:
            following = self._waiting.popleft() if self._waiting else None
            self._turn_taken = following is not None
        if following is not None:
            self._start(following)

    def _bytes_of(self, call: IncomingCall, response: Response) -> list[Buffer]:
        try:
            return self._connection.send(response, call.request.method)
        except LocalProtocolError as error:  # too much metadata, say
            _log.error("%s [%s]: the response cannot be sent: %s", call.path, call.request_id, error)
            call.context.set_initial_metadata(())
            call.context.set_trailing_metadata(())
            failure = RpcError(Code.INTERNAL, f"the response cannot be sent: {error}", reason="INTERNAL_ERROR")
            return self._connection.send(call.fail(failure), call.request.method)

    # -- the session's thread

    def _run(self) -> None:
        try:
            while self._receive():
                pass
        except TransportClosed:
            pass
        except Exception:
            _log.exception("%s: the session failed", self._transport.peer)
        finally:
            with self._lock:
                abandoned, self._waiting = list(self._running), deque()
                self._running.clear()
            for call in abandoned:
                call.context.cancel()
            self._transport.close()
            self._server.forget(self)

    def _receive(self) -> bool:
        """Receive once and handle what is complete; False when the peer has gone."""
        deadline = self._next_deadline()
        if deadline.expired:
            self._expire()
            return True
        mid_message = self._connection.mid_message
        if mid_message:
            deadline = deadline.sooner(self._stall.remaining())
        try:
            count = self._transport.recv_into(self._connection.get_buffer(), deadline.remaining())
        except TransportTimeout:
            if mid_message and self._stall.expired:
                self._give_up(408, f"the request stopped in the middle for {self._server.stall_timeout:g} s")
                return False
            return True
        if not count:
            return False
        self._stall = Deadline(self._server.stall_timeout)
        self._connection.buffer_updated(count)
        try:
            while True:
                event = self._connection.next_event()
                if event is None:
                    return True
                if isinstance(event, Request):
                    self._on_request(event)
                elif isinstance(event, Refused):
                    self._take(self._server.dispatcher.refuse(event, self._transport.peer))
                elif isinstance(event, ExpectContinue):
                    self._send_bytes([CONTINUE])
        except RemoteProtocolError as error:
            self._give_up(error.status, str(error))
            return False

    def _on_request(self, request: Request) -> None:
        if is_hello(request):
            self._send_bytes(self._connection.send(hello_response(request, self._server.me)))
            self._in_order = False
        else:
            self._take(self._server.dispatcher.call(request, self._transport.peer))

    def _take(self, call: IncomingCall) -> None:
        """Start a call, or let it wait for its turn where responses go in the order of their requests."""
        with self._lock:
            if self._in_order and self._turn_taken:
                overflow = len(self._waiting) == _MAX_PIPELINED
                if not overflow:
                    self._waiting.append(call)
                    return
            else:
                overflow = False
                self._turn_taken = True
        if overflow:
            self._give_up(429, f"more than {_MAX_PIPELINED} requests wait for their turn")
            raise TransportClosed("pipelined too much")
        self._start(call)

    def _start(self, call: IncomingCall) -> None:
        with self._lock:
            self._running.add(call)
        if not self._server.submit(self, call):
            busy = RpcError(
                Code.RESOURCE_EXHAUSTED, "the guest is busy: too many requests at a time; try again", reason="BUSY"
            )
            self.finish(call, call.fail(busy))

    def _next_deadline(self) -> Deadline:
        """The earliest deadline of what runs, or will when its turn comes; without limit when nothing does."""
        deadline = Deadline(None)
        with self._lock:
            # One that expires before its turn is answered in its turn.
            waiting = [call for call in self._waiting if not call.context.deadline.expired]
            for call in (*self._running, *waiting):
                deadline = deadline.sooner(call.context.deadline.remaining())
        return deadline

    def _expire(self) -> None:
        """Answer for the calls whose deadline has passed."""
        with self._lock:
            expired = [call for call in self._running if call.context.deadline.expired]
        for call in expired:
            call.context.cancel()
            self.finish(call, call.fail(call.deadline_exceeded()))

    def _give_up(self, status: int, message: str) -> None:
        """The stream cannot be understood any more: say so, and say nothing else on it."""
        _log.warning("%s: %s", self._transport.peer, message)
        body = f"{message}\n".encode()
        headers = [("content-type", "text/plain; charset=utf-8"), ("connection", "close")]
        self._send_bytes(self._connection.send(Response(status, Headers(headers), body)))

    def _send_bytes(self, buffers: list[Buffer], deadline: Deadline | None = None) -> None:
        # Whoever sends now does so for at most write_timeout; only a farewell cannot wait for that.
        if not self._send_lock.acquire(timeout=-1 if deadline is None else deadline.remaining() or 0):
            return
        try:
            self._transport.send(buffers, self._server.write_timeout if deadline is None else deadline.remaining())
        except TransportError as error:
            # Part of it may have gone: nothing can follow.
            level = logging.WARNING if isinstance(error, TransportTimeout) else logging.DEBUG
            _log.log(level, "%s; its session is ended", error)
            self.end()
        finally:
            self._send_lock.release()
