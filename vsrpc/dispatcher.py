"""The dispatcher: from one HTTP request to a servicer and back to one HTTP response.

Two front doors to the same methods: rpc paths in the Connect form, and the schema's REST routes in JSON with an
envelope. It does no input or output and starts no thread; the server decides when and where it runs.
"""

from __future__ import annotations

import functools
import logging
import re
import secrets
import time
from dataclasses import dataclass
from typing import Any, Callable, Sequence

from vsrpc import codec, connect_unary
from vsrpc.compression import ACCEPTED, compress, decompress
from vsrpc.context import ServicerContext
from vsrpc.deadline import Deadline
from vsrpc.error_table import ErrorTable
from vsrpc.errors import RpcError
from vsrpc.hello import REQUEST_ID
from vsrpc.interceptor import ServerInterceptor
from vsrpc.metadata import decode_base64, from_headers
from vsrpc.method import Idempotency, MethodDescriptor, Route, ServiceDescriptor
from vsrpc.rest import RouteTable, query_fields, query_pairs
from vsrpc.status import Code
from vsrpc.wire import Buffer, Headers, Refused, Request, Response

_log = logging.getLogger(__name__)

# "/package.Service/Rpc": the shape of rpc paths.
_RPC_PATH = re.compile(r"/[A-Za-z_][\w.]*/[A-Za-z_]\w*\Z")

# A request id is echoed in a header and written to logs; one that is not of this shape is replaced.
_REQUEST_ID = re.compile(r"[!-~]{1,128}\Z")


@dataclass(frozen=True)
class _Served:
    """A method with the servicer's function for it, wrapped in the interceptors."""

    method: MethodDescriptor[Any, Any]
    handler: Callable[[Any, ServicerContext], Any]
    text_fields: codec.TextFields


class Call:
    """One request on its way through the dispatcher. The server runs it, may cancel it, and asks for its response."""

    def __init__(self, dispatcher: Dispatcher, request: Request, peer: str, refused: Refused | None = None) -> None:
        self._dispatcher = dispatcher
        self._refused = refused
        self.request = request
        self.path, _, self.query = request.target.partition("?")
        given = request.headers.get(REQUEST_ID)
        self.request_id = given if given is not None and _REQUEST_ID.match(given) else secrets.token_hex(8)
        self.is_rpc = dispatcher.is_rpc(self.path)
        self.reached_servicer = False
        self._started = time.monotonic()
        self.context = ServicerContext(self.path, self.request_id, Deadline(None), from_headers(request.headers), peer)
        try:
            seconds = connect_unary.parse_timeout(request.headers)
            self._bad_timeout: RpcError | None = None
        except RpcError as error:
            seconds, self._bad_timeout = None, error
        self.context.set_deadline(seconds, dispatcher.request_timeout)

    def run(self) -> Response:
        """Serve the request; every failure becomes a response."""
        try:
            if self._refused is not None:
                raise _refusal(self._refused)
            if self._bad_timeout is not None:
                raise self._bad_timeout
            self.check_deadline()
            return self._dispatcher.serve(self)
        except RpcError as error:
            if not self.reached_servicer:  # what servicers say is for interceptors to log
                _log.info("%s %s [%s] refused: %s", self.request.method, self.path, self.request_id, error.details())
            return self.fail(error)
        except BaseException:  # a servicer that calls sys.exit() too: a request never ends the daemon
            _log.exception("%s [%s]: internal error", self.path, self.request_id)
            return self.fail(
                RpcError(
                    Code.INTERNAL,
                    f"internal error while serving {self.path}; the daemon's log has it under request id "
                    f"{self.request_id}",
                    reason="INTERNAL_ERROR",
                    data={"request_id": self.request_id},
                )
            )

    def check_deadline(self) -> None:
        """Raises RpcError DEADLINE_EXCEEDED once the deadline has passed."""
        if self.context.deadline.expired:
            raise self.deadline_exceeded()

    def deadline_exceeded(self) -> RpcError:
        """What a call ends with whose deadline has passed."""
        return RpcError(
            Code.DEADLINE_EXCEEDED, f"{self.path} did not end within its deadline", reason="DEADLINE_EXCEEDED"
        )

    def fail(self, error: RpcError) -> Response:
        """The response for an error, in the form of the door that the request came through."""
        errors = self._dispatcher.errors
        if self.is_rpc:
            response = self._rpc_error(errors.with_detail(error))
        else:
            entry = errors.entry(error)
            extra = [("allow", error.data["allowed"])] if _names_allowed(error) else []
            response = self.envelope(entry.number, error.details(), dict(error.data), entry.http_status, extra)
        if self._refused is not None:
            return Response(self._refused.status, response.headers, response.body)
        return response

    def envelope(
        self, code: int, message: str, data: Any, http_status: int = 200, extra: Sequence[tuple[str, str]] = ()
    ) -> Response:
        """A REST response."""
        body = codec.dump_json({"code": code, "message": message, "timestamp": int(time.time()), "data": data})
        headers = [("content-type", codec.JSON_TYPE), *extra]
        return self.respond(http_status, headers, body)

    def respond(self, status: int, headers: Sequence[tuple[str, str]], body: Buffer) -> Response:
        """A response with the headers that every one has."""
        milliseconds = (time.monotonic() - self._started) * 1000
        return Response(
            status,
            Headers([*headers, (REQUEST_ID, self.request_id), ("x-response-time", f"{milliseconds:.1f}")]),
            body,
        )

    def _rpc_error(self, error: RpcError) -> Response:
        try:
            metadata = connect_unary.join_metadata(
                error.initial_metadata() or self.context.initial_metadata(),
                error.trailing_metadata() or self.context.trailing_metadata(),
            )
        except (TypeError, ValueError):
            _log.exception("%s [%s]: an error's metadata cannot be sent", self.path, self.request_id)
            metadata = []
        status = error.code().http_status
        extra: list[tuple[str, str]] = []
        if _names_allowed(error):
            status, extra = 405, [("allow", error.data["allowed"])]
        elif error.reason == "ENDPOINT_NOT_FOUND":
            status = 404
        elif error.reason == "UNSUPPORTED_MEDIA_TYPE" and error.code() is Code.UNKNOWN:
            status, extra = 415, [("accept-post", ", ".join((*codec.PROTO_TYPES, codec.JSON_TYPE)))]
        return self.respond(
            status, [("content-type", codec.JSON_TYPE), *extra, *metadata], connect_unary.error_body(error)
        )


class Dispatcher:
    """Knows the services and serves requests to them. Services are added before it serves."""

    def __init__(
        self,
        *,
        errors: ErrorTable | None = None,
        max_request_size: int = 10485760,
        request_timeout: float | None = 60.0,
        interceptors: Sequence[ServerInterceptor] = (),
    ) -> None:
        """`max_request_size` is in bytes and also bounds what a compressed body may become.

        `request_timeout`, in seconds, is the deadline of requests that bring none; None gives them none.
        """
        self.errors = errors or ErrorTable()
        self.max_request_size = max_request_size
        self.request_timeout = request_timeout
        self._interceptors = tuple(interceptors)
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
            for interceptor in reversed(self._interceptors):
                handler = functools.partial(interceptor, handler)
            self._methods[method.path] = _Served(method, handler, service.text_fields)
        self._routes.add(service.routes)

    def call(self, request: Request, peer: str = "") -> Call:
        """Begin a request; `run()` on what comes back serves it."""
        return Call(self, request, peer)

    def refuse(self, refused: Refused, peer: str = "") -> Call:
        """A request that the wire refused by its head; `run()` on what comes back says so."""
        return Call(self, Request(refused.method, refused.target, refused.headers), peer, refused)

    def is_rpc(self, path: str) -> bool:
        """Whether a path is answered in the Connect form: the rpcs', and those of their shape that are no route."""
        return path in self._methods or (bool(_RPC_PATH.match(path)) and not self._routes.has(path))

    def serve(self, call: Call) -> Response:
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

    def _serve_rpc(self, call: Call, served: _Served) -> Response:
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
            message = codec.parse_proto(served.method.request_type, body)
        elif content_type == codec.JSON_TYPE:
            message = codec.from_json(served.method.request_type, codec.load_json(body))
        else:
            raise _wrong_type(content_type, (*codec.PROTO_TYPES, codec.JSON_TYPE))
        result = self._invoke(call, served, message)
        if content_type == codec.JSON_TYPE:
            reply: bytes = codec.dump_json(codec.to_json(result))
        else:
            reply = result.SerializeToString()
        headers = [("content-type", content_type)]
        headers += connect_unary.join_metadata(call.context.initial_metadata(), call.context.trailing_metadata())
        # A caller that compresses wants compression; for one that only could read it, the port is faster
        # than the guest's CPU.
        if request.headers.get("content-encoding") == "gzip" and _accepts_gzip(request.headers):
            headers.append(("content-encoding", ACCEPTED))
            reply = compress(reply)
        return call.respond(200, headers, reply)

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

    def _serve_route(self, call: Call, served: _Served, route: Route, variables: dict[str, str]) -> Response:
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

    def _invoke(self, call: Call, served: _Served, message: Any) -> Any:
        call.reached_servicer = True
        result = served.handler(message, call.context)
        call.check_deadline()
        if not isinstance(result, served.method.response_type):
            wanted = served.method.response_type.__name__
            raise TypeError(f"the servicer of {call.path} returned a {type(result).__name__}, not a {wanted}")
        return result


def _refusal(refused: Refused) -> RpcError:
    if refused.status == 413:
        return RpcError(Code.RESOURCE_EXHAUSTED, refused.message, reason="TOO_LARGE")
    return RpcError(Code.UNIMPLEMENTED, refused.message)


def _names_allowed(error: RpcError) -> bool:
    return error.reason == "METHOD_NOT_ALLOWED" and "allowed" in error.data


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
