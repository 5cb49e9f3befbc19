"""The channel: makes calls to one target. Stubs sit on it, and it sits on a link.

It knows paths, bytes, metadata and statuses; what turns messages into bytes comes with each method. So a program
that has no protobuf can use it too (`http`).
"""

from __future__ import annotations

import functools
import secrets
from dataclasses import dataclass, field
from typing import Any, Callable, Generic, Sequence, TypeVar, cast

from vsrpc import connect_unary
from vsrpc.calls import Call, CallFuture, MetadataLike, PendingCalls
from vsrpc.compression import ACCEPTED, compress, decompress
from vsrpc.deadline import Deadline
from vsrpc.errors import RpcError
from vsrpc.hello import REQUEST_ID
from vsrpc.interceptor import CallDetails, ClientInterceptor
from vsrpc.link import Link, Session, SessionOver
from vsrpc.metadata import Metadata, to_headers
from vsrpc.method import Idempotency, MethodDescriptor
from vsrpc.retry import RetryPolicy
from vsrpc.status import Code
from vsrpc.transports import Connector, connector
from vsrpc.wire import Buffer, Headers, Limits, Request, Response

Req = TypeVar("Req")
Res = TypeVar("Res")

# A session may have died unnoticed since the last call. When so many in a row end as soon as they begin, the peer is at
# fault, and connecting on and on would only wear out its port.
_MAX_SESSIONS = 3

# Bytes. The largest reply of a guest is 8 MiB of a command's output, which JSON may write in six bytes for one.
_MAX_RESPONSE = 64 * 1024 * 1024

_PROTO = "application/proto"
_JSON = "application/json"
_CONTENT_TYPES = {"proto": _PROTO, "json": _JSON}


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
        if self.codec not in _CONTENT_TYPES:
            raise ValueError(f"codec {self.codec!r}: use one of {', '.join(_CONTENT_TYPES)}")
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
        self._retry = RetryPolicy(self.options.max_retries, self.options.retry_interval, self.options.backoff_factor)
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

        return self._retry.run(attempt, idempotency, deadline)

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


class UnaryUnaryCallable(Generic[Req, Res]):
    """Calls one method on one channel: what a stub's attributes are (vsrpc.calls.UnaryUnary)."""

    def __init__(
        self,
        channel: Channel,
        path: str,
        serialize: Callable[[Any], bytes],
        deserialize: Callable[[bytes], Any],
    ) -> None:
        self._channel = channel
        self._path = path
        self._serialize = serialize
        self._deserialize = deserialize
        self._method = MethodDescriptor.of(serialize)
        self._idempotency = self._method.idempotency if self._method else Idempotency.UNKNOWN
        proceed: Callable[[CallDetails, Any], Any] = self._start
        for interceptor in reversed(channel.options.interceptors):
            proceed = functools.partial(interceptor, proceed)
        self._proceed = proceed
        self._content_type = _CONTENT_TYPES[channel.options.codec]
        if self._content_type == _JSON and self._method is None:
            raise ValueError(f"{path}: JSON needs a stub that protoc-gen-vsrpc generated")

    def __call__(
        self, request: Req | None = None, timeout: float | None = None, metadata: MetadataLike | None = None
    ) -> Res:
        return self.with_call(request, timeout, metadata)[0]

    def with_call(
        self, request: Req | None = None, timeout: float | None = None, metadata: MetadataLike | None = None
    ) -> tuple[Res, Call[Res]]:
        pairs = tuple(metadata or ())
        deadline = self._channel.deadline(timeout)

        def attempt() -> tuple[Res, Call[Res]]:
            call = self._proceed(CallDetails(self._path, deadline.remaining(), pairs, self._idempotency), request)
            try:
                return call.result(), call
            except BaseException:
                call.cancel()  # does nothing unless the wait was interrupted, by Ctrl-C say
                raise

        return self._channel._retry.run(attempt, self._idempotency, deadline)

    def future(
        self, request: Req | None = None, timeout: float | None = None, metadata: MetadataLike | None = None
    ) -> Call[Res]:
        seconds = self._channel.deadline(timeout).remaining()
        details = CallDetails(self._path, seconds, tuple(metadata or ()), self._idempotency)
        return cast("Call[Res]", self._proceed(details, request))

    def _start(self, details: CallDetails, request: Any) -> CallFuture[Res]:
        deadline = Deadline(details.timeout)
        headers = [
            ("content-type", self._content_type),
            (connect_unary.PROTOCOL_VERSION, "1"),
            *connect_unary.timeout_header(deadline),
            *to_headers(details.metadata),
        ]
        body = self._encode(request)
        if self._channel.options.compression:
            body = compress(body)
            headers += [("content-encoding", "gzip"), ("accept-encoding", ACCEPTED)]
        return self._channel.start("POST", details.path, headers, body, deadline, self._decode)

    def _encode(self, request: Any) -> bytes:
        if self._content_type == _JSON and self._method is not None:
            from vsrpc.codec import dump_json, to_json

            return dump_json(to_json(self._method.request(request)))
        if request is None and self._method is None:
            return b""  # an empty message, whatever its type
        return self._serialize(request)

    def _decode(self, response: Response) -> tuple[Res, Metadata, Metadata]:
        headers = response.headers
        body = self._decompress(response)
        if response.status != 200:
            raise connect_unary.parse_error(response.status, headers, body)
        initial, trailing = connect_unary.split_metadata(headers)
        content_type = connect_unary.media_type(headers)
        if content_type != self._content_type:
            raise RpcError(
                # connectrpc.com/docs/protocol: another of its codecs is a server's defect, anything else no Connect.
                Code.INTERNAL if content_type in (_PROTO, _JSON) else Code.UNKNOWN,
                f"the reply's content type is {content_type!r}, not {self._content_type!r}",
                reason="PROTOCOL_ERROR",
                initial_metadata=initial,
                trailing_metadata=trailing,
            )
        return self._parse(bytes(body)), initial, trailing

    def _decompress(self, response: Response) -> Buffer:
        limit = self._channel.options.max_response_size
        try:
            return decompress(response.body, response.headers.get("content-encoding", ""), limit)
        except RpcError as error:
            if error.code() is Code.RESOURCE_EXHAUSTED:
                raise
            # What would be a caller's mistake in a request is a server's defect in a reply.
            raise RpcError(
                Code.INTERNAL, f"the reply to {self._path}: {error.details()}", reason="PROTOCOL_ERROR"
            ) from error

    def _parse(self, body: bytes) -> Res:
        try:
            if self._content_type == _JSON and self._method is not None:
                from vsrpc.codec import from_json, load_json

                return cast(Res, from_json(self._method.response_type, load_json(body)))
            return cast(Res, self._deserialize(body))
        except Exception as error:  # whatever the caller's deserializer raises
            raise RpcError(
                Code.INTERNAL, f"the reply to {self._path} cannot be decoded: {error}", reason="PROTOCOL_ERROR"
            ) from error


def connect(target: str, options: ChannelOptions | None = None) -> Channel:
    """A channel to `target`: "unix:PATH" or a PATH, or "vsock:CID:PORT".

    Connects at the first call. Raises ValueError for a target that is none.
    """
    name, connect_transport = connector(target)
    return Channel(name, connect_transport, options)
