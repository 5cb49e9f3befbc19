"""One method on one channel: what a stub's attributes are.

It turns a message into a Connect request and a response back into a message or an RpcError; sending, matching and the
session are the channel's.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Callable, Generic, TypeVar, cast

from vsrpc import connect_unary
from vsrpc.bulk import BulkMethod, Parts
from vsrpc.calls import Call, CallFuture, MetadataLike
from vsrpc.compression import ACCEPTED, compress, decompress
from vsrpc.deadline import Deadline
from vsrpc.errors import RpcError
from vsrpc.metadata import Metadata, to_headers
from vsrpc.method import Idempotency, MethodDescriptor
from vsrpc.retry import Effect
from vsrpc.status import Code
from vsrpc.wire import Buffer, Response

if TYPE_CHECKING:
    from vsrpc.channel import Channel
    from vsrpc.interceptor import CallDetails

Req = TypeVar("Req")
Res = TypeVar("Res")

_PROTO = "application/proto"
_JSON = "application/json"

CONTENT_TYPES = {"proto": _PROTO, "json": _JSON}
"""Content type by the name of a channel's codec."""


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
        owner = getattr(serialize, "__self__", None)
        self._bulk = owner if isinstance(owner, BulkMethod) else None
        self._method = self._bulk.method if self._bulk else MethodDescriptor.of(serialize)
        self._idempotency = self._method.idempotency if self._method else Idempotency.UNKNOWN
        self._intercepted: Callable[[CallDetails, Any], Any] | None = None
        for interceptor in reversed(channel.options.interceptors):
            self._intercepted = functools.partial(interceptor, self._intercepted or self._start_by)
        self._content_type = CONTENT_TYPES[channel.options.codec]
        if self._content_type == _JSON and self._method is None:
            raise ValueError(f"{path}: JSON needs a stub that protoc-gen-vsrpc generated")
        if self._content_type == _JSON and self._bulk:
            raise ValueError(f"{path}: content beside its message needs protobuf")

    def __call__(
        self, request: Req | None = None, timeout: float | None = None, metadata: MetadataLike | None = None
    ) -> Res:
        return self.with_call(request, timeout, metadata)[0]

    def with_call(
        self, request: Req | None = None, timeout: float | None = None, metadata: MetadataLike | None = None
    ) -> tuple[Res, Call[Res]]:
        pairs = tuple(metadata or ())
        deadline = self._channel.deadline(timeout)

        effect = self._effect()

        def attempt() -> tuple[Res, Call[Res]]:
            call = self._proceed(request, deadline.remaining(), pairs, effect)
            try:
                return call.result(), call
            except BaseException:
                call.cancel()  # does nothing unless the wait was interrupted, by Ctrl-C say
                raise
            finally:
                del call  # from the traceback, as in CallFuture.result

        return self._channel.retry.run(attempt, self._idempotency.retry_safe or effect is not None, deadline)

    def future(
        self, request: Req | None = None, timeout: float | None = None, metadata: MetadataLike | None = None
    ) -> Call[Res]:
        seconds = self._channel.deadline(timeout).remaining()
        return cast("Call[Res]", self._proceed(request, seconds, tuple(metadata or ()), self._effect()))

    def _effect(self) -> Effect | None:
        return self._channel.effect(self._idempotency)

    def _proceed(self, request: Any, timeout: float | None, metadata: Metadata, effect: Effect | None) -> Any:
        if self._intercepted is None:
            return self._start(self._path, request, timeout, metadata, effect)
        from vsrpc.interceptor import CallDetails

        return self._intercepted(CallDetails(self._path, timeout, metadata, self._idempotency, effect), request)

    def _start_by(self, details: CallDetails, request: Any) -> CallFuture[Res]:
        return self._start(details.path, request, details.timeout, details.metadata, details.effect)

    def _start(
        self, path: str, request: Any, timeout: float | None, metadata: Metadata, effect: Effect | None
    ) -> CallFuture[Res]:
        deadline = Deadline(timeout)
        headers = [
            ("content-type", self._content_type),
            (connect_unary.PROTOCOL_VERSION, "1"),
            *connect_unary.timeout_header(deadline),
            *to_headers(metadata),
        ]
        body, tail = self._encode(request)
        if self._channel.options.compression:
            body, tail = compress(body + tail), b""
            headers += [("content-encoding", "gzip"), ("accept-encoding", ACCEPTED)]
        return self._channel.start("POST", path, headers, body, deadline, self._decode, effect, tail)

    def _encode(self, request: Any) -> Parts:
        if self._bulk:
            return self._bulk.serialize(request)
        if self._content_type == _JSON and self._method is not None:
            from vsrpc.codec import dump_json, to_json

            return dump_json(to_json(self._method.request(request))), b""
        if request is None and self._method is None:
            return b"", b""  # an empty message, whatever its type
        return self._serialize(request), b""

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
        return self._parse(body), initial, trailing

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

    def _parse(self, body: Buffer) -> Res:
        try:
            if self._content_type == _JSON and self._method is not None:
                from vsrpc.codec import from_json, load_json

                return cast(Res, from_json(self._method.response_type, load_json(body)))
            return cast(Res, self._bulk.deserialize(body) if self._bulk else self._deserialize(bytes(body)))
        except Exception as error:  # whatever the caller's deserializer raises
            raise RpcError(
                Code.INTERNAL, f"the reply to {self._path} cannot be decoded: {error}", reason="PROTOCOL_ERROR"
            ) from error
