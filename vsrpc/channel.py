"""The channel: makes calls to one target. Stubs sit on it, and it sits on a link.

It knows paths, bytes, metadata and statuses; what turns messages into bytes comes with each method. So a program
that has no protobuf can use it too (`http`).
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Any, Callable, Sequence, TypeVar

from vsrpc.calls import CallFuture, PendingCalls
from vsrpc.deadline import Deadline
from vsrpc.errors import RpcError
from vsrpc.hello import REQUEST_ID
from vsrpc.interceptor import ClientInterceptor
from vsrpc.link import Link, Session, SessionOver
from vsrpc.metadata import Metadata
from vsrpc.method import Idempotency
from vsrpc.retry import RetryPolicy
from vsrpc.status import Code
from vsrpc.transports import Connector, connector
from vsrpc.unary import CONTENT_TYPES, UnaryUnaryCallable
from vsrpc.wire import Headers, Limits, Request, Response

Res = TypeVar("Res")

# A session may have died unnoticed since the last call. When so many in a row end as soon as they begin, the peer is at
# fault, and connecting on and on would only wear out its port.
_MAX_SESSIONS = 3

# Bytes. The largest reply of a guest is 8 MiB of a command's output, which JSON may write in six bytes for one.
_MAX_RESPONSE = 64 * 1024 * 1024


@dataclass(frozen=True)
class ChannelOptions:
    """How a channel behaves. Times are in seconds.

    `read_timeout` is the deadline of a call that names none (None: no limit). `codec` is what rpc calls speak, "proto"
    or "json"; `compression` is "" or "gzip", for requests and for the replies that they ask for.
    """

    connect_timeout: float = 5.0
    read_timeout: float | None = 30.0
    write_timeout: float = 30.0
    max_retries: int = 3
    retry_interval: float = 1.0
    backoff_factor: float = 2.0
    codec: str = "proto"
    compression: str = ""
    max_response_size: int = _MAX_RESPONSE
    interceptors: Sequence[ClientInterceptor] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        if self.codec not in CONTENT_TYPES:
            raise ValueError(f"codec {self.codec!r}: use one of {', '.join(CONTENT_TYPES)}")
        if self.compression not in ("", "gzip"):
            raise ValueError(f"compression {self.compression!r}: use gzip, or '' for none")


class Channel:
    """Calls to one target, over one link. Thread-safe; connects when first used; close() ends it."""

    def __init__(
        self, name: str, connect: Connector, options: ChannelOptions | None = None, *, hello: bool = True
    ) -> None:
        """`name` is the target, for messages.

        Without `hello` the peer may be any Connect server over HTTP/1.1; its replies come in the order of the requests.
        """
        self.name = name
        self.options = options or ChannelOptions()
        self.retry = RetryPolicy(self.options.max_retries, self.options.retry_interval, self.options.backoff_factor)
        self._pending = PendingCalls()
        self._in_order = not hello
        self._link = Link(
            name,
            connect,
            self,
            connect_timeout=self.options.connect_timeout,
            write_timeout=self.options.write_timeout,
            hello=hello,
            limits=Limits(max_body=self.options.max_response_size),
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

        Raises RpcError when no response came. `retry_safe`: the request may be sent again when it is not known whether
        it ran.
        """
        idempotency = Idempotency.IDEMPOTENT if retry_safe else Idempotency.UNKNOWN
        deadline = self.deadline(timeout)

        def attempt() -> Response:
            return self.start(
                method, target, list(headers), body, deadline, lambda response: (response, (), ())
            ).result()

        return self.retry.run(attempt, idempotency, deadline)

    def connect(self, timeout: float | None = None) -> None:
        """Connect now, rather than at the first call. Raises RpcError."""
        self._link.connect(self.deadline(timeout))

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

    def start(
        self,
        method: str,
        target: str,
        headers: list[tuple[str, str]],
        body: bytes,
        deadline: Deadline,
        decode: Callable[[Response], tuple[Res, Metadata, Metadata]],
    ) -> CallFuture[Res]:
        """Send one request; its future. Whatever fails, fails the future."""
        request_id = secrets.token_hex(8)
        call = CallFuture(request_id, deadline, decode, self._forget)
        if deadline.expired:
            call.expire()
            return call
        request = Request(method, target, Headers([("host", "guest"), (REQUEST_ID, request_id), *headers]), body)
        try:
            sessions = 0
            while True:
                session = self._link.connect(deadline)
                sessions += 1
                if session.peer is not None and len(body) > session.peer.max_request_size:
                    raise RpcError(
                        Code.RESOURCE_EXHAUSTED,
                        f"the request has {len(body)} bytes, the guest takes at most {session.peer.max_request_size}; "
                        "send it in chunks, or raise server.max_request_size in the guest's configuration",
                        reason="TOO_LARGE",
                    )
                call.session = session
                try:
                    self._link.send(session, request, deadline, lambda: self._pending.add(call))
                    return call
                except SessionOver:
                    if sessions == _MAX_SESSIONS:
                        raise session.failure or RpcError(
                            Code.UNAVAILABLE,
                            f"{self.name}: the connection ends whenever it is made",
                            reason="CONNECTION_LOST",
                        ) from None
        except RpcError as error:
            call.fail(error)
            return call
        except BaseException:
            call.cancel()
            raise

    # -- for the link (LinkOwner)

    def on_response(self, session: Session, response: Response) -> None:
        if self._in_order:
            call = self._pending.take_oldest(session)
        else:
            call = self._pending.take(response.headers.get(REQUEST_ID, ""), session)
        # A reply that nobody waits for belongs to a call that was given up.
        if call is not None:
            call.reply(response)
        if (response.headers.get("connection") or "").lower() == "close":
            session.end()

    def _forget(self, request_id: str) -> None:
        call = self._pending.take(request_id)
        if call is not None and self._in_order and isinstance(call.session, Session):
            # Its reply may still come, and would be taken for the next call's.
            call.session.end()

    def on_tick(self) -> None:
        for call in self._pending.all():
            call.expire()

    def on_lost(self, session: Session, error: RpcError) -> None:
        for call in self._pending.all():
            if call.session is session:
                call.fail(error)


def connect(target: str, options: ChannelOptions | None = None) -> Channel:
    """A channel to `target`: "unix:PATH" or a PATH, or "vsock:CID:PORT".

    Connects at the first call. Raises ValueError for a target that is none.
    """
    name, connect_transport = connector(target)
    return Channel(name, connect_transport, options)
