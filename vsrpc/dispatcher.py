"""The dispatcher: from one HTTP request to a servicer and back to one HTTP response.

Two front doors to the same methods: rpc paths in the Connect form, and the schema's REST routes in JSON with an
envelope. It does no input or output and starts no thread; the server decides when and where it runs.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Any, Callable, Sequence

from vsrpc import codec, connect_unary
from vsrpc.bulk import BulkFields, bulk_fields, join, split
from vsrpc.compression import ACCEPTED, compress, decompress
from vsrpc.context import ServicerContext
from vsrpc.deadline import Deadline
from vsrpc.error_table import ErrorTable
from vsrpc.errors import RpcError
from vsrpc.incoming import IncomingCall
from vsrpc.interceptor import ServerInterceptor
from vsrpc.metadata import decode_base64
from vsrpc.method import Idempotency, MethodDescriptor, Route, ServiceDescriptor
from vsrpc.rest import RouteTable, query_fields, query_pairs
from vsrpc.status import Code
from vsrpc.wire import Buffer, Headers, Refused, Request, Response

# Bytes up to which a large field is not worth being kept beside its message.
_SMALL = 4096

# "/package.Service/Rpc": the shape of rpc paths.
_RPC_PATH = re.compile(r"/[A-Za-z_][\w.]*/[A-Za-z_]\w*\Z")


@dataclass(frozen=True)
class _Served:
    """A method with the servicer's function for it, wrapped in the interceptors."""

    method: MethodDescriptor[Any, Any]
    handler: Callable[[Any, ServicerContext], Any]
    text_fields: codec.TextFields
    bulk: BulkFields
    at_once: bool


@dataclass(frozen=True)
class Refusal:
    """A request that reached no servicer: its HTTP method, what is known of the call, and what it ended with."""

    http_method: str
    context: ServicerContext
    error: RpcError


class Dispatcher:
    """Knows the services and serves requests to them. Services are added before it serves."""

    def __init__(
        self,
        *,
        errors: ErrorTable | None = None,
        max_request_size: int = 10485760,
        request_timeout: float | None = 60.0,
        interceptors: Sequence[ServerInterceptor] = (),
        on_refused: Callable[[Refusal], None] | None = None,
    ) -> None:
        """`max_request_size` is in bytes and also bounds what a compressed body may become.

        `request_timeout`, in seconds, is the deadline of requests that bring none; None gives them none. `on_refused`
        hears of the requests that reach no servicer, of which interceptors do not hear; from any thread.
        """
        self.errors = errors or ErrorTable()
        self.max_request_size = max_request_size
        self.request_timeout = request_timeout
        self._interceptors = tuple(interceptors)
        self._on_refused = on_refused
        self._methods: dict[str, _Served] = {}
        self._routes = RouteTable()

    def add_service(self, service: ServiceDescriptor, servicer: object) -> None:
        """Serve a service's methods by the servicer's methods of the same names.

        Called by generated `add_XServicer_to_server` functions. Raises ValueError when one of its paths or routes is
        taken.
        """
        for method in service.methods:
            if method.path in self._methods:
                raise ValueError(f"{method.path} is served already")
            handler: Callable[[Any, ServicerContext], Any] = getattr(servicer, method.name)
            bulk, at_once = bulk_fields(handler), getattr(handler, "at_once", False)
            for interceptor in reversed(self._interceptors):
                handler = functools.partial(interceptor, handler)
            self._methods[method.path] = _Served(method, handler, service.text_fields, bulk, at_once)
        self._routes.add(service.routes)

    def call(self, request: Request, peer: str = "") -> IncomingCall:
        """Begin a request; `run()` on what comes back serves it."""
        return IncomingCall(self, request, peer)

    def refuse(self, refused: Refused, peer: str = "") -> IncomingCall:
        """A request that the wire refused by its head; `run()` on what comes back says so."""
        return IncomingCall(self, Request(refused.method, refused.target, refused.headers), peer, refused)

    def refused(self, call: IncomingCall, error: RpcError) -> None:
        """A call ends with this error and reaches no servicer (called by whoever refuses it)."""
        self._tell(Refusal(call.request.method, call.context, error))

    def broken(self, peer: str, message: str) -> None:
        """A peer sent what is no request."""
        context = ServicerContext("", "", Deadline(None), peer=peer)
        self._tell(Refusal("", context, RpcError(Code.INVALID_ARGUMENT, message, reason="PROTOCOL_ERROR")))

    def _tell(self, refusal: Refusal) -> None:
        if self._on_refused is not None:
            self._on_refused(refusal)

    def method(self, path: str) -> MethodDescriptor[Any, Any] | None:
        """The method of an rpc path, if it is served."""
        served = self._methods.get(path)
        return None if served is None else served.method

    def is_rpc(self, path: str) -> bool:
        """Whether a path is answered in the Connect form: the rpcs', and those of their shape that are no route."""
        return path in self._methods or (bool(_RPC_PATH.match(path)) and not self._routes.has(path))

    def at_once(self, call: IncomingCall) -> bool:
        """Whether a call is done in a moment (vsrpc.context.at_once)."""
        served = self._methods.get(call.path)
        return served is not None and served.at_once

    def serve(self, call: IncomingCall) -> Response:
        """Serve by rpc path or by route. Raises RpcError."""
        if call.is_rpc:
            served = self._methods.get(call.path)
            if served is None:
                raise RpcError(
                    Code.UNIMPLEMENTED,
                    f"no such rpc: {call.path}",
                    reason="ENDPOINT_NOT_FOUND",
                    data={"path": call.path},
                )
            return self._serve_rpc(call, served)
        route, variables = self._routes.find(call.request.method, call.path)
        return self._serve_route(call, self._methods[route.rpc_path], route, variables)

    # -- the Connect form

    def _serve_rpc(self, call: IncomingCall, served: _Served) -> Response:
        request = call.request
        if call.parsed is None:
            call.parsed = self._parse(call, served)
        content_type, message = call.parsed
        # A caller that compresses wants compression; for one that only could read it, the port is faster
        # than the guest's CPU.
        compresses = request.headers.get("content-encoding") == "gzip" and _accepts_gzip(request.headers)
        beside = content_type in codec.PROTO_TYPES and not compresses and not call.idempotency_key  # nobody keeps it
        result = self._invoke(call, served, message, beside)
        tail: Buffer = b""
        if content_type == codec.JSON_TYPE:
            reply: bytes = codec.dump_json(codec.to_json(result))
        elif served.bulk.response and len(call.context.reply_content):
            reply, tail = join(result, served.bulk.response, call.context.reply_content)
        else:
            reply = result.SerializeToString()
        headers = [("content-type", content_type)]
        headers += connect_unary.join_metadata(call.context.initial_metadata(), call.context.trailing_metadata())
        if compresses:
            headers.append(("content-encoding", ACCEPTED))
            reply = compress(reply)
        return call.respond(200, headers, reply, tail)

    def _parse(self, call: IncomingCall, served: _Served) -> tuple[str, Any]:
        """The content type, and the message. Raises RpcError."""
        request = call.request
        if request.method == "POST":
            content_type = connect_unary.media_type(request.headers)
            body = self._body(request)
        elif request.method == "GET" and served.method.idempotency is Idempotency.NO_SIDE_EFFECTS:
            content_type, body = self._connect_get(call.query)
        else:
            reads = served.method.idempotency is Idempotency.NO_SIDE_EFFECTS
            allowed = "GET, POST" if reads else "POST"
            raise RpcError(
                Code.UNKNOWN,  # as Connect's clients read 405 (connectrpc.com/docs/protocol#http-to-error-code)
                f"{call.path} does not take {request.method}; use {allowed}",
                reason="METHOD_NOT_ALLOWED",
                data={"allowed": allowed},
            )
        if content_type in codec.PROTO_TYPES:
            if served.bulk.request and len(body) > _SMALL:
                body, call.context.content = split(body, served.method.request_type, served.bulk.request)
            return content_type, codec.parse_proto(served.method.request_type, body)
        if content_type == codec.JSON_TYPE:
            return content_type, codec.from_json(served.method.request_type, codec.load_json(body))
        raise _wrong_type(content_type, (*codec.PROTO_TYPES, codec.JSON_TYPE))

    def _connect_get(self, query: str) -> tuple[str, Buffer]:
        parameters = dict(query_pairs(query))
        if "message" not in parameters or "encoding" not in parameters:
            raise _bad_params("a Connect GET request needs the query parameters 'message' and 'encoding'")
        text = parameters["message"]
        body: Buffer
        if parameters.get("base64") == "1":
            try:
                body = decode_base64(text)
            except ValueError as error:
                raise _bad_params(f"the query parameter 'message' is not base64: {error}") from None
        else:
            body = text.encode("utf-8")
        body = decompress(body, parameters.get("compression", ""), self.max_request_size)
        return f"application/{parameters['encoding']}", body

    # -- REST

    def _serve_route(self, call: IncomingCall, served: _Served, route: Route, variables: dict[str, str]) -> Response:
        request_type = served.method.request_type
        fields: dict[str, Any] = {}
        if route.body:
            content_type = connect_unary.media_type(call.request.headers)
            if content_type not in (codec.JSON_TYPE, ""):
                raise _wrong_type(content_type, (codec.JSON_TYPE,))
            body = self._body(call.request)
            fields = codec.load_json(body) if route.body == "*" else {route.body: codec.load_json_value(body)}
        elif len(call.request.body):
            raise _bad_params(f"{route.http_method} {route.template} takes no body; send its fields in the query")
        pairs = [*query_pairs(call.query), *variables.items()]
        if pairs and route.body == "*" and call.query:
            raise _bad_params(f"{route.http_method} {route.template} takes no query; send its fields in the JSON body")
        others = query_fields(request_type, pairs)
        for name in others:
            if name in fields:
                raise _bad_params(f"field {name!r} is in the body; leave it out of the path or the query")
        fields.update(others)
        result = self._invoke(call, served, codec.from_json(request_type, fields))
        return call.envelope(0, "success", codec.to_json(result, served.text_fields))

    # -- both

    def _body(self, request: Request) -> Buffer:
        return decompress(request.body, request.headers.get("content-encoding", ""), self.max_request_size)

    def _invoke(self, call: IncomingCall, served: _Served, message: Any, beside: bool = False) -> Any:
        """`beside`: the response's large content, if the method gives it so, is sent so."""
        context, bulk = call.context, served.bulk
        context.path = served.method.path
        if bulk.request and not context.content:
            context.content = getattr(message, bulk.request)
            message.ClearField(bulk.request)
        call.reached_servicer = True
        result = served.handler(message, context)
        call.check_deadline()
        if not isinstance(result, served.method.response_type):
            wanted = served.method.response_type.__name__
            raise TypeError(f"the servicer of {call.path} returned a {type(result).__name__}, not a {wanted}")
        if bulk.response and not (beside and len(context.reply_content) > _SMALL):
            setattr(result, bulk.response, bytes(context.reply_content))
            context.reply_content = b""
            release, context.on_sent = context.on_sent, None
            if release is not None:
                release()
        return result


def _accepts_gzip(headers: Headers) -> bool:
    # RFC 9110 12.5.3: a weight of 0 means "not acceptable".
    for coding in (headers.get("accept-encoding") or "").split(","):
        name, _, weight = coding.replace(" ", "").lower().partition(";")
        if name == "gzip":
            return not re.match(r"q=0(?:\.0*)?\Z", weight)
    return False


def _wrong_type(content_type: str, accepted: Sequence[str]) -> RpcError:
    what = f"Content-Type {content_type!r} is not supported" if content_type else "Content-Type is missing"
    # UNKNOWN is how Connect's clients read 415 (connectrpc.com/docs/protocol#http-to-error-code).
    return RpcError(Code.UNKNOWN, f"{what}; send {' or '.join(accepted)}", reason="UNSUPPORTED_MEDIA_TYPE")


def _bad_params(message: str) -> RpcError:
    return RpcError(Code.INVALID_ARGUMENT, message, reason="INVALID_PARAMS")
