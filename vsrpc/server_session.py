"""One peer's time with the server: its calls, which run, wait for their turn, are answered, or are given up.

It reads nothing and waits for nothing: what comes is handed to it by the stream (server_stream.py), and what it answers
goes to the outbox. Workers end calls; the stream's thread ends those whose deadline has passed.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import TYPE_CHECKING

from vsrpc.deadline import Deadline
from vsrpc.errors import RpcError
from vsrpc.incoming import IncomingCall
from vsrpc.outbox import Outbox
from vsrpc.status import Code
from vsrpc.transports import Transport
from vsrpc.wire import Buffer, Headers, LocalProtocolError, RemoteProtocolError, Response, ServerConnection

if TYPE_CHECKING:
    from vsrpc.server import Server

_log = logging.getLogger(__name__)

# Requests of one peer that wait for their turn, for a peer that said no hello and so gets its replies in order.
_MAX_PIPELINED = 64


class ServerSession:
    """One peer's calls. `in_order`: one at a time, answered in the order in which they came."""

    def __init__(
        self, server: Server, transport: Transport, connection: ServerConnection, outbox: Outbox, *, in_order: bool
    ) -> None:
        self._server = server
        self._transport = transport
        self._connection = connection
        self._outbox = outbox
        self._number = outbox.begin()
        self.in_order = in_order
        self._lock = threading.Lock()  # all below
        self._running: set[IncomingCall] = set()
        self._waiting: deque[IncomingCall] = deque()
        self._turn_taken = False  # in order: from a call's beginning until its response is on its way
        self._over = False

    # -- for the stream

    def take(self, call: IncomingCall) -> None:
        """Start a call, or let it wait for its turn. Raises RemoteProtocolError for one that breaks the session."""
        with self._lock:
            if self.in_order and self._turn_taken:
                if len(self._waiting) == _MAX_PIPELINED:
                    raise RemoteProtocolError(f"more than {_MAX_PIPELINED} requests wait for their turn", 429)
                self._waiting.append(call)
                return
            if not self.in_order and any(call.request_id == other.request_id for other in self._running):
                raise RemoteProtocolError(f"a call with the request id {call.request_id!r} is under way already")
            self._turn_taken = True
        self._start(call)

    def say(self, *messages: list[Buffer]) -> None:
        """Send what is no call's response, as one message."""
        self._outbox.put(self._number, [buffer for message in messages for buffer in message])

    def cancel(self, request_id: str) -> None:
        """Give up the call with that id, if it runs."""
        with self._lock:
            calls = [call for call in self._running if call.request_id == request_id]
        for call in calls:
            call.context.cancel()
            self.finish(call, call.fail(RpcError(Code.CANCELLED, "cancelled by the caller", reason="CANCELLED")))

    def next_deadline(self) -> Deadline:
        """When to call expire(): the earliest deadline of what runs, or will when its turn comes, or when something is
        to be looked at again; without limit when nothing is there."""
        deadline = Deadline(None)
        if not self._running and not self._waiting:
            return deadline
        with self._lock:
            # One that expires before its turn is answered in its turn.
            waiting = [call for call in self._waiting if not call.context.deadline.expired]
            for call in (*self._running, *waiting):
                deadline = deadline.sooner(call.context.deadline.remaining())
                if call.parking is not None:
                    deadline = deadline.sooner(call.parking.until.remaining())
        return deadline

    def expire(self) -> None:
        """Answer for the calls whose deadline has passed, and look at those again that asked for it."""
        with self._lock:
            expired = [call for call in self._running if call.context.deadline.expired]
            parked = [call.parking for call in self._running if call.parking is not None]
        for parking in parked:
            parking.look()
        for call in expired:
            call.context.cancel()
            self.finish(call, call.fail(call.deadline_exceeded()))

    def end(self) -> None:
        """The peer has gone. What it may come back for runs on for a while; all else is cancelled."""
        with self._lock:
            self._over = True
            abandoned, self._waiting = list(self._running), deque()
            self._running.clear()
        for call in abandoned:
            if call.idempotency_key:
                self._server.replies.leave(call)
            else:
                call.context.cancel()

    def stop(self) -> None:
        """Tell the peer that nothing more will be done, and cancel what runs."""
        with self._lock:
            running, waiting = list(self._running), list(self._waiting)
            self._running.update(waiting)
            self._waiting.clear()
        for call in running:
            message = "the guest's daemon is stopping; the call was cancelled, and may have taken effect"
            self.finish(call, call.fail(RpcError(Code.UNAVAILABLE, message, reason="SERVICE_UNAVAILABLE")))
            call.context.cancel()
        for call in waiting:
            message = "the guest's daemon is stopping; try again in a moment"
            self.finish(call, call.not_run(RpcError(Code.UNAVAILABLE, message, reason="SERVICE_UNAVAILABLE")))

    # -- for workers

    @property
    def backlog(self) -> int:
        """Bytes that wait to be written to the peer."""
        return self._outbox.backlog

    def waits_for(self, call: IncomingCall) -> bool:
        """Whether the call is still unanswered, and somebody there to answer."""
        with self._lock:
            return call in self._running

    def finish(self, call: IncomingCall, response: Response, *, wait: bool = False) -> None:
        """Send a call's response, unless it was answered already; then run what waited for it.

        `wait`: until there is room for it; not in the stream's thread.
        """
        with self._lock:
            if call not in self._running:
                return
            self._running.discard(call)
        close = (call.request.headers.get("connection") or "").lower() == "close"
        if close:
            response = response._replace(headers=Headers([*response.headers, ("connection", "close")]))
        ends = close and self._transport.peer_sees_end
        # An error may be sent while the servicer's content is still being used.
        released = call.context.on_sent if len(response.tail) else None
        then = self._transport.close if ends else released
        self._outbox.put(self._number, self._bytes_of(call, response), wait=wait, then=then)
        with self._lock:
            following = self._waiting.popleft() if self._waiting and not ends else None
            self._turn_taken = following is not None
        if following is not None:
            self._start(following)

    def _start(self, call: IncomingCall) -> None:
        with self._lock:
            if self._over:
                return
            self._running.add(call)
        self._server.submit(self, call)

    def _bytes_of(self, call: IncomingCall, response: Response) -> list[Buffer]:
        try:
            return self._connection.send(response, call.request.method)
        except LocalProtocolError as error:  # too much metadata, say
            _log.error("%s [%s]: the response cannot be sent: %s", call.path, call.request_id, error)
            call.context.set_initial_metadata(())
            call.context.set_trailing_metadata(())
            failure = RpcError(Code.INTERNAL, f"the response cannot be sent: {error}", reason="INTERNAL_ERROR")
            return self._connection.send(call.fail(failure), call.request.method)
