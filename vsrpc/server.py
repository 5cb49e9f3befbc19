"""The server: lets peers in, reads their requests, runs them on a pool of workers, and writes the responses.

One thread for each peer only reads: it never waits for a handler or for a write, so that both directions can be full
without a deadlock, a peer that leaves is noticed, and deadlines are enforced. Workers write what they have made.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor

from vsrpc.deadline import Deadline
from vsrpc.dispatcher import Call, Dispatcher
from vsrpc.errors import RpcError
from vsrpc.hello import Peer, hello_response, is_hello
from vsrpc.status import Code
from vsrpc.transports import Listener, Transport, TransportClosed, TransportError, TransportTimeout
from vsrpc.wire import (
    CONTINUE,
    Buffer,
    ExpectContinue,
    Headers,
    Limits,
    Refused,
    RemoteProtocolError,
    Request,
    Response,
    ServerConnection,
)

_log = logging.getLogger(__name__)

# Requests of one peer that wait for their turn, for a peer that said no hello and so gets its replies in order.
_MAX_PIPELINED = 64

# Room for the fields around a message's content, and for base64 in JSON, is the dispatcher's business; the wire
# takes bodies somewhat larger than the limit on content.
_BODY_ROOM = 1 << 16


class Server:
    """Serves a dispatcher's services to the peers of listeners."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        *,
        agent: str = "vsrpc",
        workers: int = 32,
        queue: int = 128,
        stall_timeout: float = 15.0,
        write_timeout: float = 30.0,
    ) -> None:
        """`workers` requests run at a time and `queue` more wait; what comes on top is refused at once.

        `stall_timeout`: seconds without a byte in the middle of a request after which its sender is given up.
        """
        self.dispatcher = dispatcher
        self.stall_timeout = stall_timeout
        self.write_timeout = write_timeout
        self.me = Peer(secrets.token_hex(16), agent, dispatcher.max_request_size)
        self._slots = threading.BoundedSemaphore(workers + queue)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="vsrpc-worker")
        self._lock = threading.Lock()
        self._sessions: set[_ServerSession] = set()
        self._listeners: set[Listener] = set()
        self._stopping = False

    def serve(self, listener: Listener) -> None:
        """Serve the listener's peers until stop(). Raises OSError when listening fails."""
        with self._lock:
            if self._stopping:
                return
            self._listeners.add(listener)
        try:
            while True:
                session = _ServerSession(self, listener.accept())
                with self._lock:
                    if self._stopping:
                        session.end()
                        return
                    self._sessions.add(session)
                session.thread.start()
        except TransportClosed:
            return
        finally:
            with self._lock:
                self._listeners.discard(listener)

    def stop(self) -> None:
        """End all sessions, cancel what runs, and make serve() return. Waits for the running handlers."""
        with self._lock:
            self._stopping = True
            listeners, sessions = list(self._listeners), list(self._sessions)
        for listener in listeners:
            listener.close()
        for session in sessions:
            session.end()
        self._pool.shutdown()
        for session in sessions:
            session.thread.join()

    def submit(self, session: _ServerSession, call: Call) -> bool:
        """Run a call on a worker; False when too much waits already."""
        if not self._slots.acquire(blocking=False):
            return False
        try:
            self._pool.submit(self._work, session, call)
        except RuntimeError:  # the pool is shut down
            self._slots.release()
            return False
        return True

    def _work(self, session: _ServerSession, call: Call) -> None:
        try:
            session.finish(call, call.run())
        except Exception:
            _log.exception("%s [%s]: the response could not be sent", call.path, call.request_id)
        finally:
            self._slots.release()

    def forget(self, session: _ServerSession) -> None:
        """A session has ended."""
        with self._lock:
            self._sessions.discard(session)


class _ServerSession:
    """One peer's time with the server."""

    def __init__(self, server: Server, transport: Transport) -> None:
        self._server = server
        self._transport = transport
        self._connection = ServerConnection(Limits(max_body=server.dispatcher.max_request_size + _BODY_ROOM))
        self._send_lock = threading.Lock()
        self._lock = threading.Lock()  # the three below
        self._running: set[Call] = set()
        self._waiting: deque[Call] = deque()
        self._in_order = True
        self.thread = threading.Thread(target=self._run, name="vsrpc-session", daemon=True)

    def end(self) -> None:
        """Close the peer's stream, which ends the session's thread."""
        self._transport.close()

    def finish(self, call: Call, response: Response) -> None:
        """Send a call's response, unless it was answered already; then run what waited for it."""
        with self._lock:
            if call not in self._running:
                return
            self._running.discard(call)
        close = (call.request.headers.get("connection") or "").lower() == "close"
        if close:
            response = Response(response.status, Headers([*response.headers, ("connection", "close")]), response.body)
        self._send(response, call.request.method)
        if close:
            self.end()
            return
        with self._lock:
            following = self._waiting.popleft() if self._waiting else None
        if following is not None:
            self._start(following)

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
        stall = self._server.stall_timeout if self._connection.mid_message else None
        try:
            timeout = self._next_deadline().sooner(stall).remaining()
            count = self._transport.recv_into(self._connection.get_buffer(), timeout)
        except TransportTimeout:
            if not self._expire() and stall is not None:
                self._give_up(408, f"the request stopped in the middle for {stall:g} s")
                return False
            return True
        if not count:
            return False
        self._connection.buffer_updated(count)
        try:
            while True:
                event = self._connection.next_event()
                if event is None:
                    return True
                if isinstance(event, Request):
                    self._on_request(event)
                elif isinstance(event, Refused):
                    self._send(self._server.dispatcher.refuse(event), event.method)
                elif isinstance(event, ExpectContinue):
                    self._send_bytes([CONTINUE])
        except RemoteProtocolError as error:
            self._give_up(error.status, str(error))
            return False

    def _on_request(self, request: Request) -> None:
        if is_hello(request):
            self._send(hello_response(request, self._server.me), request.method)
            self._in_order = False
            return
        call = self._server.dispatcher.call(request, self._transport.peer)
        with self._lock:
            if self._in_order and (self._running or self._waiting):
                if len(self._waiting) < _MAX_PIPELINED:
                    self._waiting.append(call)
                    return
                overflow = True
            else:
                overflow = False
        if overflow:
            self._give_up(429, f"more than {_MAX_PIPELINED} requests wait for their turn")
            raise TransportClosed("pipelined too much")
        self._start(call)

    def _start(self, call: Call) -> None:
        with self._lock:
            self._running.add(call)
        if not self._server.submit(self, call):
            busy = RpcError(
                Code.RESOURCE_EXHAUSTED, "the guest is busy: too many requests at a time; try again", reason="BUSY"
            )
            self.finish(call, call.fail(busy))

    def _next_deadline(self) -> Deadline:
        """The earliest deadline of what runs; without limit when nothing does."""
        deadline = Deadline(None)
        with self._lock:
            for call in self._running:
                deadline = deadline.sooner(call.context.deadline.remaining())
        return deadline

    def _expire(self) -> bool:
        """Answer for the calls whose deadline has passed; whether there was one."""
        with self._lock:
            expired = [call for call in self._running if call.context.deadline.expired]
        for call in expired:
            call.context.cancel()
            try:
                call.check_deadline()
            except RpcError as error:
                self.finish(call, call.fail(error))
        return bool(expired)

    def _give_up(self, status: int, message: str) -> None:
        """The stream cannot be understood any more: say so, and say nothing else on it."""
        _log.warning("%s: %s", self._transport.peer, message)
        body = f"{message}\n".encode()
        headers = [("content-type", "text/plain; charset=utf-8"), ("connection", "close")]
        self._send(Response(status, Headers(headers), body), "")

    def _send(self, response: Response, request_method: str) -> None:
        self._send_bytes(self._connection.send(response, request_method))

    def _send_bytes(self, buffers: list[Buffer]) -> None:
        try:
            with self._send_lock:
                self._transport.send(buffers, self._server.write_timeout)
        except TransportTimeout as error:
            _log.warning("%s; its session is ended", error)
            self.end()
        except TransportError as error:
            _log.debug("%s: the response was dropped", error)
