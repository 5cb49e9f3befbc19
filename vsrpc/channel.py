"""The channel: makes calls to one target. Stubs sit on it, and it sits on a link.

It knows paths, bytes, metadata and statuses; what turns messages into bytes comes with each method. So a program
that has no protobuf can use it too (`http`).
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any, Callable, Sequence, TypeVar

from vsrpc.auth import Key
from vsrpc.bulk import BulkMethod
from vsrpc.calls import CallFuture, PendingCalls
from vsrpc.client_session import Beginning
from vsrpc.connect_unary import says_not_run
from vsrpc.deadline import Deadline
from vsrpc.errors import RpcError, outcome_unknown
from vsrpc.hello import REQUEST_ID
from vsrpc.link import Link, Session, SessionOver, lost
from vsrpc.metadata import Metadata
from vsrpc.method import Idempotency
from vsrpc.outgoing import Outgoing
from vsrpc.port_lock import PortLock
from vsrpc.retry import Effect, RetryPolicy
from vsrpc.status import Code
from vsrpc.transports import Connector, connector, socket_path
from vsrpc.unary import CONTENT_TYPES, UnaryUnaryCallable
from vsrpc.wire import Buffer, Headers, Limits, Request, Response

if TYPE_CHECKING:
    from vsrpc.interceptor import ClientInterceptor

Res = TypeVar("Res")

# A session may have died unnoticed since the last call. When so many in a row end as soon as they begin, the peer is at
# fault, and connecting on and on would only wear out its port.
_MAX_SESSIONS = 3

# Bytes. The largest reply of a guest is 8 MiB of a command's output, which JSON may write in six bytes for one.
_MAX_RESPONSE = 64 * 1024 * 1024


class ChannelOptions:
    """How a channel behaves; it does not change. Times are in seconds.

    `read_timeout` is the deadline of a call that names none (None: no limit). `codec` is what rpc calls speak, "proto"
    or "json"; `compression` is "" or "gzip", for requests and for the replies that they ask for. `lock_dir` is where
    the clients of a port take turns (None: vsrpc.port_lock's default); `on_wait` is told who holds the port, once a
    connection has waited for that for a second (None: the log is told). `key` signs requests where the server wants
    that. After `idle_timeout` without a call the connection is closed, until the next call (None: it is kept).
    """

    # Written out, since the standard library's dataclasses take longer to load than a call does.
    __slots__ = (
        "backoff_factor",
        "codec",
        "compression",
        "connect_timeout",
        "idle_timeout",
        "interceptors",
        "key",
        "lock_dir",
        "max_response_size",
        "max_retries",
        "on_wait",
        "read_timeout",
        "retry_interval",
        "write_timeout",
    )

    def __init__(
        self,
        connect_timeout: float = 5.0,
        read_timeout: float | None = 30.0,
        write_timeout: float = 30.0,
        max_retries: int = 3,
        retry_interval: float = 1.0,
        backoff_factor: float = 2.0,
        codec: str = "proto",
        compression: str = "",
        max_response_size: int = _MAX_RESPONSE,
        interceptors: Sequence[ClientInterceptor] = (),
        lock_dir: str | None = None,
        on_wait: Callable[[str], None] | None = None,
        key: Key | None = None,
        idle_timeout: float | None = None,
    ) -> None:
        self.connect_timeout = connect_timeout
        self.read_timeout = read_timeout
        self.write_timeout = write_timeout
        self.max_retries = max_retries
        self.retry_interval = retry_interval
        self.backoff_factor = backoff_factor
        self.codec = codec
        self.compression = compression
        self.max_response_size = max_response_size
        self.interceptors = interceptors
        self.lock_dir = lock_dir
        self.on_wait = on_wait
        self.key = key
        self.idle_timeout = idle_timeout
        if self.codec not in CONTENT_TYPES:
            raise ValueError(f"codec {self.codec!r}: use one of {', '.join(CONTENT_TYPES)}")
        if self.compression not in ("", "gzip"):
            raise ValueError(f"compression {self.compression!r}: use gzip, or '' for none")

    def __setattr__(self, name: str, value: object) -> None:
        if hasattr(self, name):
            raise AttributeError(f"{name}: the options of a channel do not change")
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{name}: the options of a channel do not change")

    def __eq__(self, other: object) -> bool:
        return self._fields() == other._fields() if isinstance(other, ChannelOptions) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self._fields().values()))

    def __repr__(self) -> str:
        return f"ChannelOptions({', '.join(f'{name}={value!r}' for name, value in self._fields().items())})"

    def __replace__(self, **changes: Any) -> ChannelOptions:
        """For copy.replace() (Python 3.13)."""
        return ChannelOptions(**{**self._fields(), **changes})

    def _fields(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


class Channel:
    """Calls to one target, over one link. Thread-safe; connects when first used; close() ends it."""

    def __init__(
        self,
        name: str,
        connect: Connector,
        options: ChannelOptions | None = None,
        *,
        hello: bool = True,
        lock: PortLock | None = None,
    ) -> None:
        """`name` is the target, for messages; `lock` is what clients of a port take turns by.

        Without `hello` the peer may be any Connect server over HTTP/1.1; its replies come in the order of the requests.
        """
        self.name = name
        self.options = options or ChannelOptions()
        self.retry = RetryPolicy(self.options.max_retries, self.options.retry_interval, self.options.backoff_factor)
        self._pending = PendingCalls()
        self._idle_since = time.monotonic()
        self._in_order = not hello
        self._link = Link(
            name,
            connect,
            self,
            connect_timeout=self.options.connect_timeout,
            write_timeout=self.options.write_timeout,
            hello=hello,
            limits=Limits(max_body=self.options.max_response_size),
            lock=lock,
            on_wait=self.options.on_wait,
        )

    # -- for callers

    def unary_unary(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool | None = False,
    ) -> UnaryUnaryCallable[Any, Any]:
        """A callable for the rpc at path `method`; gRPC's signature, so that gRPC's stubs run on this channel too."""
        return UnaryUnaryCallable(self, method, request_serializer or bytes, response_deserializer or bytes)

    def bulk(self, method: BulkMethod) -> UnaryUnaryCallable[Any, Any]:
        """A callable for a method with large content: from (message, content) to (message, content). The request's
        content must not change until the call has ended."""
        return UnaryUnaryCallable(self, method.method.path, method.serialize, method.deserialize)  # type: ignore[arg-type]

    def http(
        self,
        method: str,
        target: str,
        *,
        headers: Sequence[tuple[str, str]] = (),
        body: bytes = b"",
        timeout: float | None = None,
        retry_safe: bool = False,
    ) -> Response:
        """One plain HTTP exchange, for REST routes. Any HTTP status is a result.

        Raises RpcError when no response came. `retry_safe`: the request may take effect twice, if it is not known
        whether it did.
        """
        idempotency = Idempotency.IDEMPOTENT if retry_safe else Idempotency.UNKNOWN
        deadline = self.deadline(timeout)
        effect = self.effect(idempotency)

        def decode(response: Response) -> tuple[Response, Metadata, Metadata]:
            if says_not_run(response.status, response.headers):
                raise _NotRun(response)
            return response, (), ()

        def attempt() -> Response:
            call = self.start(method, target, list(headers), body, deadline, decode, effect)
            try:
                return call.result()
            except BaseException:
                call.cancel()  # does nothing unless the wait was interrupted, by Ctrl-C say
                raise

        try:
            return self.retry.run(attempt, retry_safe or effect is not None, deadline)
        except _NotRun as last:
            return last.response

    def connect(self, timeout: float | None = None) -> None:
        """Connect now, rather than at the first call. Raises RpcError."""
        self._link.connect(self.deadline(timeout))

    def give_way(self) -> None:
        """Let others who wait for the port have it now, unless a call is under way; the next call waits for its turn.

        An idle channel does so by itself. This is for who makes one call after another for hours.
        """
        if not self._pending.all():
            self._link.give_way()

    @property
    def beginning(self) -> Beginning:
        """How the latest session came about, or why it did not."""
        return self._link.beginning

    def close(self) -> None:
        """End the link; calls that wait end with CANCELLED. May be called again."""
        for call in self._pending.all():
            call.cancel()
        self._link.close()

    def __enter__(self) -> Channel:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # -- for UnaryUnaryCallable

    def deadline(self, timeout: float | None) -> Deadline:
        """The deadline of a call that asks for `timeout`."""
        return Deadline(self.options.read_timeout if timeout is None else timeout)

    def effect(self, idempotency: Idempotency) -> Effect | None:
        """What makes a call of such a method take effect once; None where that is not needed, or the peer cannot."""
        return None if idempotency.retry_safe or self._in_order else Effect()

    def start(
        self,
        method: str,
        target: str,
        headers: list[tuple[str, str]],
        body: bytes,
        deadline: Deadline,
        decode: Callable[[Response], tuple[Res, Metadata, Metadata]],
        effect: Effect | None = None,
        tail: Buffer = b"",
    ) -> CallFuture[Res]:
        """Send one request; its future. Whatever fails, fails the future. `tail`: what follows `body` in it."""
        request_id = os.urandom(8).hex()
        call = CallFuture(request_id, deadline, decode, self._forget)
        if deadline.expired:
            call.expire()
            return call
        headers = [("host", "guest"), (REQUEST_ID, request_id), *headers]
        outgoing = Outgoing(call, Request(method, target, Headers(headers), body, tail), effect, self.options.key)
        if self.options.key is not None:
            call.send_anew = lambda response: self._send_anew(outgoing, response)
        self._send_in_session(outgoing)
        return call

    def _send_in_session(self, outgoing: Outgoing) -> None:
        """Send a call's request in the session that there is, or is made; whatever fails, fails the call."""
        call = outgoing.call
        try:
            for _ in range(_MAX_SESSIONS):
                session = self._session_for(outgoing)
                if self._send(session, outgoing):
                    return
            raise session.failure or RpcError(
                Code.UNAVAILABLE,
                f"{self.name}: the connection ends whenever it is made",
                reason="CONNECTION_LOST",
                not_run=True,
            )
        except RpcError as error:
            call.fail(error)
        except BaseException:
            call.cancel()
            raise

    def _send_anew(self, outgoing: Outgoing, response: Response) -> bool:
        if not outgoing.must_be_signed_anew(response):
            return False
        # Not in the thread that receives, since sending may have to wait.
        threading.Thread(target=self._send_in_session, args=(outgoing,), name="vsrpc-sign", daemon=True).start()
        return True

    def _session_for(self, outgoing: Outgoing) -> Session:
        """A session in which a request may be sent. Raises RpcError."""
        target, deadline, effect = outgoing.request.target, outgoing.call.deadline, outgoing.effect
        while True:
            try:
                session = self._link.connect(deadline)
            except RpcError as error:
                if effect is None or effect.instance is None:
                    raise
                raise outcome_unknown(
                    f"{target}: the link was lost after the call was sent ({error.details()})"
                ) from error
            if session.peer is None:
                return session
            outgoing.check(session)
            if effect is None:
                return session
            if effect.instance not in (None, session.peer.instance):
                raise outcome_unknown(f"{target}: the guest's daemon was restarted after the call was sent")
            if session.lives(deadline):
                return session
            session.end()

    def _send(self, session: Session, outgoing: Outgoing) -> bool:
        """Send a call's request; False where the session had ended before. Raises RpcError."""
        call, effect = outgoing.call, outgoing.effect
        request = outgoing.for_session(session)

        def expect() -> None:
            call.session, call.sending = session, True
            if effect is not None and session.peer is not None:
                effect.sent(session.peer.instance)
            self._pending.add(call)

        try:
            self._link.send(session, request, call.deadline, expect)
        except SessionOver:
            return False
        except RpcError as error:
            if effect is not None and not outgoing.first:  # an earlier attempt was sent
                raise lost(self.name, error.details()) from error
            if effect is not None:
                effect.not_sent()
            raise
        call.sending = False
        if session.over:  # on_lost may have left the call to us
            call.fail(session.failure or lost(self.name, "the session was ended"))
        return True

    # -- for the session (SessionOwner)

    def on_response(self, session: Session, response: Response) -> None:
        if self._in_order:
            call = self._pending.take_oldest(session)
        else:
            call = self._pending.take(response.headers.get(REQUEST_ID, ""), session)
        # A reply that nobody waits for belongs to a call that was given up.
        if call is not None and not call.send_anew(response):
            call.reply(response)
        if (response.headers.get("connection") or "").lower() == "close":
            session.end()

    def _forget(self, request_id: str) -> None:
        call = self._pending.take(request_id)
        if call is None or not isinstance(call.session, Session):
            return
        if self._in_order:
            # Its reply may still come, and would be taken for the next call's.
            call.session.end()
        elif not call.session.over:
            call.session.cancel(request_id)

    def on_tick(self, session: Session) -> bool:
        for call in self._pending.all():
            call.expire()
        busy = any(call.session is session for call in self._pending.all())
        if busy:
            self._idle_since = time.monotonic()
        else:
            self._link.yield_turn(session)
            self._rest(session)
        return busy

    def _rest(self, session: Session) -> None:
        limit = self.options.idle_timeout
        if limit is None or time.monotonic() - self._idle_since < limit:
            return
        if session.send_lock.acquire(blocking=False):  # a call that is being sent has it
            try:
                if not any(call.session is session for call in self._pending.all()):
                    session.end()
            finally:
                session.send_lock.release()

    def on_lost(self, session: Session, error: RpcError) -> None:
        for call in self._pending.all():
            if call.session is session and not call.sending:
                call.fail(error)


class _NotRun(RpcError):
    """A reply that says that the request did nothing, by way of the retry policy."""

    def __init__(self, response: Response) -> None:
        super().__init__(Code.UNAVAILABLE, f"HTTP status {response.status}", not_run=True)
        self.response = response


def connect(target: str, options: ChannelOptions | None = None) -> Channel:
    """A channel to `target`: "unix:PATH" or a PATH, or "vsock:CID:PORT".

    Connects at the first call. Raises ValueError for a target that is none.
    """
    name, connect_transport = connector(target)
    path = socket_path(target)
    lock = None if path is None else PortLock(path, options.lock_dir if options else None)
    return Channel(name, connect_transport, options, lock=lock)
