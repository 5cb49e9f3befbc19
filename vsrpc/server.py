"""The server: lets peers in, and runs their requests on a pool of workers.

Each peer has a stream (server_stream.py), which reads its requests, and on it a session (server_session.py), or several
one after another. What becomes of calls that must not run twice is remembered across them (reply_cache.py).
"""

from __future__ import annotations

import contextlib
import functools
import logging
import secrets
import threading
from typing import Callable, Iterable, Iterator

from vsrpc.admission import Budget, TokenBucket
from vsrpc.auth import Credentials
from vsrpc.authenticator import Authenticator, NotAuthentic
from vsrpc.connect_unary import says_not_run
from vsrpc.context import NotNow
from vsrpc.dispatcher import Dispatcher
from vsrpc.errors import NotRun, RpcError, busy
from vsrpc.hello import Peer
from vsrpc.incoming import IDEMPOTENCY_KEY, IncomingCall
from vsrpc.parking import Parking
from vsrpc.reply_cache import ReplyCache, Waiter
from vsrpc.server_session import ServerSession
from vsrpc.server_stream import ServerStream
from vsrpc.transports import Listener, TransportClosed
from vsrpc.wire import Response
from vsrpc.workers import WorkerPool

_log = logging.getLogger(__name__)

# What is done at once must not keep the thread that reads: bytes of a request, and of responses not yet written.
_SMALL_REQUEST = 4096
_MAX_BACKLOG = 1 << 20

# Calls that wait for something outside, with a thread each, beside those that run and those that wait for their turn.
_MAX_WAITING = 1024

# Calls that wait for something outside without a thread.
_MAX_PARKED = 4096

# Bodies up to so many bytes are hashed where they are read: handing them to a worker takes longer.
_SMALL_BODY = 16384

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
        instance: str | None = None,
        workers: int = 32,
        queue: int = 128,
        buffered: int = 64 << 20,
        requests_per_second: float | None = None,
        stall_timeout: float = 15.0,
        write_timeout: float = 30.0,
        replies: ReplyCache | None = None,
        authenticator: Authenticator | None = None,
        on_idle: Callable[[], None] = lambda: None,
    ) -> None:
        """`workers` requests run at a time and `queue` more wait; the bodies of those that are not done have at most
        `buffered` bytes (or as many as one may have); what comes on top is refused at once. So is what exceeds
        `requests_per_second`.

        `instance` names this server's lifetime to its clients. `stall_timeout`: seconds without a byte in the middle
        of a request after which its sender is given up. `authenticator`: who judges whether requests are signed as they
        must be; without one they need not be. `on_idle` is called some seconds after the last call that took a worker.
        """
        self.dispatcher = dispatcher
        self.stall_timeout = stall_timeout
        self.write_timeout = write_timeout
        self.replies = replies or ReplyCache()
        self.authenticator = authenticator
        self.me = Peer(instance or secrets.token_hex(16), agent, dispatcher.max_request_size)
        self.max_body = dispatcher.max_request_size + _BODY_ROOM
        self.buffered = Budget(max(buffered, self.max_body))
        rate = requests_per_second
        self._rate = None if rate is None else (rate, TokenBucket(rate, max(1.0, rate)))
        self._queue = queue
        self._slots = threading.BoundedSemaphore(workers + queue)
        self._stand_ins = threading.BoundedSemaphore(_MAX_WAITING)
        self._parked = Budget(_MAX_PARKED)
        self._pool = WorkerPool(workers, "vsrpc-worker", on_idle)
        self._lock = threading.Lock()
        self._streams: set[ServerStream] = set()
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
                try:
                    stream = ServerStream(self, listener.accept())
                except TransportClosed:
                    return
                with self._lock:
                    if self._stopping:
                        stream.end()
                        return
                    self._streams.add(stream)
                if listener.serves_one:
                    stream.run()  # a thread of its own would cost the next peer two changes of threads
                else:
                    stream.start()
        finally:
            with self._lock:
                self._listeners.discard(listener)

    def stop(self) -> None:
        """Answer UNAVAILABLE to what is not done yet and cancel it, end all sessions, and make serve() return.

        Waits for the running handlers. Not to be called from one.
        """
        with self._lock:
            self._stopping = True
            listeners, streams = list(self._listeners), list(self._streams)
        for listener in listeners:
            listener.close()
        for stream in streams:
            stream.stop()
        self.replies.close()
        self._pool.shutdown()
        for stream in streams:
            stream.join()

    def submit(self, session: ServerSession, call: IncomingCall) -> None:
        """Run a call on a worker, or at once, unless it must not run; answers it where it does not."""
        if call.refused_by_wire:
            session.finish(call, self._run(call))
            return
        if self._rate is not None and not self._rate[1].take():
            limit = f"{self._rate[0]:g}"
            refusal = busy(f"{limit} calls in a second are taken", "limits.requests_per_second", limit)
            self._refuse(call, refusal, [(session, call)])
            return
        unverified: Credentials | None = None
        if self.authenticator is not None:
            try:
                unverified = self.authenticator.read(call.request, self.me.instance)
            except RpcError as error:
                session.finish(call, self._not_authentic(call, error))
                return
        if unverified is not None and len(call.request.body) <= _SMALL_BODY:
            if not self._verified(session, call, unverified):
                return
            unverified = None
        if unverified is None:
            if not self._claimed(session, call):
                return
            if (
                self.dispatcher.at_once(call)
                and not call.idempotency_key
                and len(call.request.body) <= _SMALL_REQUEST
                and session.backlog < _MAX_BACKLOG
                and self._done_here(session, call)
            ):
                return
        self._enqueue(session, call, unverified)

    def _done_here(self, session: ServerSession, call: IncomingCall) -> bool:
        """Run a call in this thread, as often as what it waits for changes; False where it needs one that may wait."""
        call.context.may_wait = False
        while True:
            try:
                session.finish(call, self._run(call))
                _leave(call)
                return True
            except NotNow as wait:
                # In order, the next call may be begun by another thread than the one that looks at the time.
                if wait.listen is None or session.in_order or not self._parked.take(1):
                    return False
                if call.parking is None:
                    call.parking = Parking(functools.partial(self._again, session, call))
                    call.context.add_callback(call.parking.wake)
                if call.parking.enter(wait):
                    if not self._is_awaited(session, call):
                        call.parking.wake()
                    return True
                self._parked.give(1)

    def _again(self, session: ServerSession, call: IncomingCall) -> None:
        """Look at a call that was parked."""
        self._parked.give(1)
        if not self._is_awaited(session, call):
            _leave(call)
            call.release()
        elif session.backlog >= _MAX_BACKLOG or not self._done_here(session, call):
            self._enqueue(session, call, None)

    def _is_awaited(self, session: ServerSession, call: IncomingCall) -> bool:
        """Whether it is to go on; where not, who gave it up answers it."""
        return call.context.is_active() and session.waits_for(call)

    def _enqueue(self, session: ServerSession, call: IncomingCall, unverified: Credentials | None) -> None:
        """Have a worker run a call, which may wait there; refuses it where there are too many."""
        _leave(call)
        call.context.may_wait = True
        if self._slots.acquire(blocking=False):
            try:
                self._pool.submit(self._work, session, call, unverified)
                return
            except RuntimeError:  # the pool is shut down
                self._slots.release()
        refusal = busy("too many requests wait", "server.queue", self._queue)
        claimed = call.idempotency_key and unverified is None
        self._refuse(call, refusal, self.replies.forget(call) if claimed else [(session, call)])

    def _refuse(self, call: IncomingCall, refusal: NotRun, waiters: Iterable[Waiter]) -> None:
        self.dispatcher.refused(call, refusal)
        for waiter, waiting in waiters:
            waiter.finish(waiting, waiting.not_run(refusal))

    def _verified(self, session: ServerSession, call: IncomingCall, credentials: Credentials) -> bool:
        """Whether a request comes from who it says; answers it where it does not."""
        assert self.authenticator is not None
        try:
            self.authenticator.verify(call.request, credentials)
        except RpcError as error:
            session.finish(call, self._not_authentic(call, error))
            return False
        call.context.key = credentials.key
        return True

    def _not_authentic(self, call: IncomingCall, error: RpcError) -> Response:
        """The response to a request of which it is not known whose it is. Nothing of it was looked at but its head."""
        self.dispatcher.refused(call, error)
        if self.authenticator is None or not isinstance(error, NotAuthentic):
            return call.not_run(error)
        return call.not_authentic(error, self.authenticator.challenge(self.me.instance, stale=error.stale))

    def _claimed(self, session: ServerSession, call: IncomingCall) -> bool:
        """Whether a call is to run; one that repeats another gets that one's response, now or when it is there."""
        if IDEMPOTENCY_KEY not in call.request.headers:
            return True
        try:
            call.check_key(self.me.instance)
            claim = self.replies.claim(call, session)
        except RpcError as error:
            self.dispatcher.refused(call, error)
            session.finish(call, call.fail(error))
            return False
        if not isinstance(claim, bool):
            session.finish(call, call.repeat(claim))
            return False
        return claim

    def _work(self, session: ServerSession, call: IncomingCall, unverified: Credentials | None) -> None:
        try:
            if unverified is not None and not (
                session.waits_for(call) and self._verified(session, call, unverified) and self._claimed(session, call)
            ):
                return
            if unverified is not None and call.idempotency_key and not session.waits_for(call):
                self.replies.leave(call)  # its caller went before the call was claimed
            if self._stopping or not self._wanted(session, call):
                return
            call.context.standing_in = self._stand_in
            response = self._run(call)
            if not call.idempotency_key:
                session.finish(call, response, wait=True)
                return
            did_nothing = says_not_run(response.status, response.headers)
            for waiter, waiting in self.replies.forget(call) if did_nothing else self.replies.ended(call, response):
                waiter.finish(waiting, waiting.repeat(response), wait=True)
        finally:
            self._slots.release()
            call.release()

    @contextlib.contextmanager
    def _stand_in(self) -> Iterator[None]:
        """Let another call have the place of one that waits, among those that run and those that are taken."""
        if not self._stand_ins.acquire(blocking=False):
            yield  # then this one keeps its place
            return
        self._slots.release()
        try:
            with self._pool.waiting():
                yield
        finally:
            self._stand_ins.release()
            self._slots.acquire()

    def _run(self, call: IncomingCall) -> Response:
        try:
            response = call.run()
        except NotNow:
            raise
        except Exception:
            _log.exception("%s [%s]: no response could be made", call.path, call.request_id)
            response = call.respond(500, [], b"")  # a caller on a port learns nothing from silence
        call.release()
        return response

    def _wanted(self, session: ServerSession, call: IncomingCall) -> bool:
        """Whether somebody waits for a call that is about to run."""
        if not call.idempotency_key:
            return session.waits_for(call)
        if self.replies.begins(call):
            return True
        for waiter, waiting in self.replies.forget(call):
            waiter.finish(waiting, waiting.fail(waiting.given_up()))
        return False

    def forget(self, stream: ServerStream) -> None:
        """A stream has ended."""
        with self._lock:
            self._streams.discard(stream)


def _leave(call: IncomingCall) -> None:
    """It waits for nothing without a thread any more."""
    if call.parking is not None:
        call.parking.close()
