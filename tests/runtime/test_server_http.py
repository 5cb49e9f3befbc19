"""The server as HTTP sees it: order, framing errors, and what each kind of wrong request is told."""

from __future__ import annotations

import gzip
import json
import logging
import sys
from typing import Any, Callable

import pytest
from runtime_threads import Beside, eventually
from runtime_world import EXEC, PING, Gate, RawClient, World

from vsrpc import Code, RpcError
from vsrpc.dispatcher import Dispatcher
from vsrpc.error_table import ErrorTable
from vsrpc.server import Server
from vsrpc.transports.memory import MemoryListener
from vsrpc.v1.error_tables import ERROR_CODES
from vsrpc.v1.shell_pb2 import ExecRequest, ExecResponse
from vsrpc.v1.system_pb2 import PingResponse
from vsrpc.v1.system_vsrpc import SYSTEM_SERVICE
from vsrpc.wire import Response


def json_of(response: Response) -> Any:
    return json.loads(bytes(response.body))


def post(target: str, body: bytes, *fields: str) -> bytes:
    head = [f"POST {target} HTTP/1.1", "Host: g", f"Content-Length: {len(body)}", *fields]
    return "\r\n".join([*head, "", ""]).encode() + body


# -- order


def test_a_plain_client_is_answered_in_order(world: World, gate: Gate) -> None:
    world.handlers.set("Ping", lambda request, context: gate.wait() or PingResponse(message="slow"))
    peer = world.peer()
    peer.rpc(PING, x_request_id="1")
    gate.until_reached()
    for number in range(2, 9):
        peer.rpc(EXEC, {"command": str(number)}, x_request_id=str(number))
    gate.open()
    assert [peer.response().headers.get("x-request-id") for _ in range(8)] == list("12345678")


def test_a_plain_clients_refused_request_is_answered_in_its_turn(make_world: Callable[..., World], gate: Gate) -> None:
    world = make_world(dispatcher={"max_request_size": 1000})
    world.handlers.set("Ping", lambda request, context: gate.wait() or PingResponse(message="slow"))
    peer = world.peer()
    peer.rpc(PING, x_request_id="1")
    gate.until_reached()
    peer.send(post(EXEC, b"x" * 100_000, "X-Request-ID: 2"))
    peer.send(b"TRACE / HTTP/1.1\r\nHost: g\r\nX-Request-ID: 3\r\n\r\n")
    peer.rpc(EXEC, x_request_id="4")
    sent = Beside(peer.response).until_waiting()  # nothing may come before the first
    gate.open()
    answers = [sent.result(), *(peer.response() for _ in range(3))]
    assert [(each.headers.get("x-request-id"), each.status) for each in answers] == [
        ("1", 200),
        ("2", 413),
        ("3", 501),
        ("4", 200),
    ]


def test_after_a_hello_replies_come_as_they_are_ready(world: World, gate: Gate) -> None:
    world.handlers.set("Ping", lambda request, context: gate.wait() or PingResponse())
    peer = world.peer()
    assert peer.begin_session().status == 200
    peer.rpc(PING, x_request_id="slow")
    peer.rpc(EXEC, x_request_id="fast")
    assert peer.response().headers.get("x-request-id") == "fast"
    gate.open()
    assert peer.response().headers.get("x-request-id") == "slow"


def test_a_plain_client_that_sends_far_ahead_is_given_up(world: World, gate: Gate) -> None:
    world.handlers.set("Ping", lambda request, context: gate.wait() or PingResponse())
    peer = world.peer()
    for _ in range(70):
        peer.rpc(PING)
    assert peer.response().status == 429
    assert peer.rest() == b""


def test_connection_close_is_honoured(world: World) -> None:
    peer = world.peer()
    peer.rpc(PING, connection="close")
    peer.rpc(PING)
    assert peer.response().headers.get("connection") == "close"
    assert peer.rest() == b""


def test_expect_continue(world: World) -> None:
    peer = world.peer()
    body = b'{"command":"x"}'
    head = post(EXEC, body, "Content-Type: application/json", "Expect: 100-continue")[: -len(body)]
    peer.send(head)
    buffer = memoryview(bytearray(100))
    assert bytes(buffer[: peer.transport.recv_into(buffer, 20)]) == b"HTTP/1.1 100 Continue\r\n\r\n"
    peer.send(body)
    assert peer.response().status == 200


def test_every_response_has_its_id_and_its_time(world: World) -> None:
    peer = world.peer()
    for target in (PING, "/api/v1/ping", "/none", "/vsrpc.v1.None/None"):
        for given in ("abc", "x" * 128):
            peer.request("GET", target, x_request_id=given)
            response = peer.response()
            assert response.headers.get_all("x-request-id") == [given]
            assert float(response.headers.get("x-response-time", "-1")) >= 0
        peer.request("GET", target, x_request_id="x" * 129)
        made = peer.response().headers.get("x-request-id")
        assert made is not None
        assert len(made) == 16


# -- what cannot be understood


FRAMING = [
    (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400, b"control character"),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, b"HTTP/2.0"),
    (b"GET /api/v1/ping HTTP/1.1\r\n\r\n", 400, b"0 Host header fields"),
    (
        b"POST /x HTTP/1.1\r\nHost: g\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        400,
        b"both Content-Length",
    ),
    (b"POST /x HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", 400, b"chunk"),
    (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n", 414, b""),
    (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 200, 431, b""),
]


@pytest.mark.parametrize(
    ("data", "status", "message"), FRAMING, ids=lambda value: value[:24] if isinstance(value, bytes) else None
)
def test_nothing_is_parsed_after_a_framing_error(world: World, data: bytes, status: int, message: bytes) -> None:
    ran: list[int] = []
    world.handlers.set("Ping", lambda request, context: ran.append(1) or PingResponse())
    peer = world.peer()
    smuggled = post(PING, b"{}", "Content-Type: application/json")
    peer.send(data + smuggled)
    response = peer.response()
    assert (response.status, response.headers.get("connection")) == (status, "close")
    assert message in response.body
    assert peer.rest() == b""
    assert ran == []


def test_a_request_that_stops_in_the_middle(make_world: Callable[..., World]) -> None:
    world = make_world(stall_timeout=0.1)
    peer = world.peer()
    peer.send(post(EXEC, b"x" * 100)[:-1])
    response = peer.response()
    assert (response.status, response.headers.get("connection")) == (408, "close")
    assert b"stopped in the middle for 0.1 s" in response.body
    assert peer.rest() == b""


def test_a_silent_peer_is_let_be(make_world: Callable[..., World]) -> None:
    world = make_world(stall_timeout=0.05)
    peer = world.peer()
    for _ in range(3):
        with pytest.raises(Exception, match="nothing received in time"):
            peer.transport.recv_into(memoryview(bytearray(1)), 0.1)
        peer.rpc(PING)
        assert peer.response().status == 200


def test_a_short_deadline_is_no_stall(make_world: Callable[..., World]) -> None:
    """A call with a deadline has ended; its sender then takes longer than that deadline within the next request."""
    world = make_world(stall_timeout=5)
    peer = world.peer()
    request = post(EXEC, b'{"command":"x"}', "Content-Type: application/json")
    peer.send(post(PING, b"{}", "Content-Type: application/json", "Connect-Timeout-Ms: 100") + request[:-1])
    assert peer.response().status == 200
    with pytest.raises(Exception, match="nothing received in time"):
        peer.transport.recv_into(memoryview(bytearray(1)), 0.3)
    peer.send(request[-1:])
    assert peer.response().status == 200


def test_a_peer_that_leaves_in_the_middle_is_forgotten(world: World) -> None:
    peer = world.peer()
    peer.send(post(EXEC, b"x" * 100)[:-1])
    eventually(lambda: world.server._streams, "it is there")
    peer.close()
    eventually(lambda: not world.server._streams, "it is forgotten")


# -- requests that are wrong


def wrong(method: str, target: str, body: bytes = b"", **headers: str) -> tuple[str, str, bytes, dict[str, str]]:
    return method, target, body, headers


JSON = "application/json"

CONNECT_FORM: list[Any] = [
    # request → HTTP status, Connect code, a part of the message, headers
    (wrong("GET", EXEC), 405, "unknown", f"{EXEC} does not take GET; use POST", {"allow": "POST"}),
    (wrong("PUT", PING, content_type=JSON), 405, "unknown", "use GET, POST", {"allow": "GET, POST"}),
    (wrong("DELETE", PING), 405, "unknown", "does not take DELETE", {"allow": "GET, POST"}),
    (
        wrong("POST", "/vsrpc.v1.System/Pong", content_type=JSON),
        404,
        "unimplemented",
        "no such rpc: /vsrpc.v1.System/Pong",
        {},
    ),
    (wrong("POST", "/a/b"), 404, "unimplemented", "no such rpc: /a/b", {}),
    (wrong("POST", PING), 415, "unknown", "Content-Type is missing; send application/proto", {"accept-post": None}),
    (
        wrong("POST", PING, content_type="text/plain"),
        415,
        "unknown",
        "'text/plain' is not supported; send",
        {"accept-post": None},
    ),
    (wrong("POST", PING, content_type="application/grpc"), 415, "unknown", "is not supported", {}),
    (
        wrong("POST", PING, b"{}", content_type=JSON, content_encoding="br"),
        501,
        "unimplemented",
        "'br' is not supported",
        {},
    ),
    (wrong("POST", PING, b"{}", content_type=JSON, content_encoding="gzip"), 400, "invalid_argument", "gzip", {}),
    (wrong("POST", PING, b"{", content_type=JSON), 400, "invalid_argument", "the body is not valid JSON", {}),
    (
        wrong("POST", PING, b"\xff", content_type="application/proto"),
        400,
        "invalid_argument",
        "not a vsrpc.v1.PingRequest",
        {},
    ),
    (wrong("POST", PING, b"x" * 3_000_000, content_type=JSON), 413, "resource_exhausted", "over the limit", {}),
    (wrong("POST", PING, b"x" * 2_000_001, content_type=JSON), 429, "resource_exhausted", "the limit is 2000000", {}),
    (wrong("GET", PING), 400, "invalid_argument", "needs the query parameters 'message' and 'encoding'", {}),
    (wrong("GET", PING + "?message=%7B%7D&encoding=xml"), 415, "unknown", "'application/xml' is not supported", {}),
    (wrong("GET", PING + "?message=*&base64=1&encoding=proto"), 400, "invalid_argument", "'message' is not base64", {}),
    (wrong("GET", PING + "?x"), 400, "invalid_argument", "the query 'x' is not valid", {}),
]

ENVELOPE: list[Any] = [
    # request → HTTP status, numeric code, a part of the message, headers
    (wrong("GET", "/"), 404, 3001, "no such route: GET /", {}),
    (wrong("GET", "/api/v1/none"), 404, 3001, "no such route: GET /api/v1/none", {}),
    (wrong("POST", "/api/v1/ping"), 405, 3008, "/api/v1/ping does not take POST; use GET", {"allow": "GET"}),
    (wrong("GET", "/api/v1/shell/exec"), 405, 3008, "use POST", {"allow": "POST"}),
    (
        wrong("POST", "/api/v1/shell/exec", b"a=b", content_type="application/x-www-form-urlencoded"),
        415,
        2004,
        "send application/json",
        {},
    ),
    (wrong("POST", "/api/v1/shell/exec", b"{"), 400, 2002, "the body is not valid JSON", {}),
    (wrong("POST", "/api/v1/shell/exec", b"[]"), 400, 2002, "the body is a JSON array, not an object", {}),
    (wrong("POST", "/api/v1/shell/exec?command=x", b"{}"), 400, 2001, "takes no query", {}),
    (wrong("GET", "/api/v1/ping", b"{}"), 400, 2001, "takes no body", {}),
    (
        wrong("GET", "/api/v1/ping?verbose=1"),
        400,
        2001,
        "unknown query parameter 'verbose'; the parameters are: none",
        {},
    ),
    (wrong("GET", "/api/v1/file/info?path=%ff"), 400, 2001, "the query 'path=%ff' is not valid", {}),
    (wrong("POST", "/api/v1/shell/exec", b"x" * 3_000_000), 413, 5003, "over the limit", {}),
]


@pytest.fixture
def small_world(make_world: Callable[..., World]) -> World:
    return make_world(dispatcher={"max_request_size": 2_000_000})


def ask(world: World, request: tuple[str, str, bytes, dict[str, str]]) -> Response:
    method, target, body, headers = request
    peer = world.peer()
    sending = Beside(lambda: peer.request(method, target, body, **headers))
    response = peer.response()
    sending.result()
    peer.rpc(PING)
    assert peer.response().status == 200, "the connection goes on"
    return response


def check_headers(response: Response, headers: dict[str, str | None]) -> None:
    assert response.headers.get("content-type") == "application/json"
    for name, value in headers.items():
        assert name in response.headers
        assert value is None or response.headers.get(name) == value


@pytest.mark.parametrize(("request_", "status", "code", "message", "headers"), CONNECT_FORM)
def test_wrong_requests_to_rpc_paths(
    small_world: World, request_: Any, status: int, code: str, message: str, headers: dict[str, str | None]
) -> None:
    response = ask(small_world, request_)
    body = json_of(response)
    assert (response.status, body["code"]) == (status, code)
    assert message in body["message"]
    check_headers(response, headers)


@pytest.mark.parametrize(("request_", "status", "code", "message", "headers"), ENVELOPE)
def test_wrong_requests_to_routes(
    small_world: World, request_: Any, status: int, code: int, message: str, headers: dict[str, str | None]
) -> None:
    response = ask(small_world, request_)
    body = json_of(response)
    assert (response.status, body["code"]) == (status, code)
    assert message in body["message"]
    assert set(body) == {"code", "message", "timestamp", "data"}
    check_headers(response, headers)


@pytest.mark.parametrize(("target", "allow"), [(EXEC, "POST"), (PING, "GET, POST"), ("/api/v1/ping", "GET")])
def test_head_gets_405_and_no_body(world: World, target: str, allow: str) -> None:
    peer = world.peer()
    peer.send(f"HEAD {target} HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n".encode())
    head, separator, body = peer.rest().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 405 ")
    assert f"\r\nallow: {allow}\r\n".encode() in head
    assert (separator, body) == (b"\r\n\r\n", b"")


def test_a_connect_get(world: World) -> None:
    peer = world.peer()
    for query in ("message=%7B%7D&encoding=json", "message=&base64=1&encoding=proto&connect=v1"):
        peer.request("GET", f"{PING}?{query}")
        response = peer.response()
        assert response.status == 200
        assert b"pong" in response.body


@pytest.mark.parametrize("content_type", ["application/proto", "application/x-protobuf", "application/json"])
def test_the_reply_echoes_the_type_asked(world: World, content_type: str) -> None:
    peer = world.peer()
    peer.request("POST", PING, b"{}" if "json" in content_type else b"", content_type=content_type + "; charset=utf-8")
    response = peer.response()
    assert (response.status, response.headers.get("content-type")) == (200, content_type)


# -- gzip


@pytest.mark.parametrize(
    ("request_coding", "accepts", "reply_coding"),
    [
        ("gzip", "gzip", "gzip"),
        ("gzip", "br, gzip;q=0.5", "gzip"),
        ("gzip", "", None),
        ("gzip", "gzip;q=0, identity", None),
        ("", "gzip", None),  # the port is faster than the guest's CPU
        ("identity", "identity", None),
    ],
)
def test_codings(world: World, request_coding: str, accepts: str, reply_coding: str | None) -> None:
    message = ExecRequest(command="x" * 5000).SerializeToString()
    peer = world.peer()
    headers = {"content_type": "application/proto", "accept_encoding": accepts, "content_encoding": request_coding}
    body = gzip.compress(message) if request_coding == "gzip" else message
    peer.request("POST", EXEC, body, **{name: value for name, value in headers.items() if value})
    response = peer.response()
    assert response.headers.get("content-encoding") == reply_coding
    reply = gzip.decompress(response.body) if reply_coding else bytes(response.body)
    assert ExecResponse.FromString(reply).stdout == b"x" * 5000


@pytest.mark.parametrize("target", [EXEC, "/api/v1/shell/exec"])
def test_a_bomb_is_refused_before_it_goes_off(make_world: Callable[..., World], target: str) -> None:
    world = make_world(dispatcher={"max_request_size": 100_000})
    peer = world.peer()
    bomb = gzip.compress(b"{" + b" " * 50_000_000)
    assert len(bomb) < 60_000
    peer.request("POST", target, bomb, content_type=JSON, content_encoding="gzip")
    body = json_of(peer.response())
    assert "larger than the limit of 100000 bytes once decompressed" in body["message"]
    assert body["code"] in ("resource_exhausted", 5003)


@pytest.mark.parametrize("cut", [slice(0, 10), slice(0, -1), slice(0, -8)])
def test_gzip_that_ends_too_early(world: World, cut: slice) -> None:
    peer = world.peer()
    peer.request("POST", EXEC, gzip.compress(b"{}")[cut], content_type=JSON, content_encoding="gzip")
    assert "ends too early" in json_of(peer.response())["message"]


# -- what a servicer does wrong


def fails(request: Any, context: Any) -> Any:
    raise KeyError("secret detail")


def test_what_no_servicer_sees_is_logged(world: World, caplog: Any) -> None:
    caplog.set_level(logging.INFO, "vsrpc.incoming")
    response = ask(world, wrong("GET", "/api/v1/none"))
    (record,) = [record for record in caplog.records if record.name == "vsrpc.incoming"]
    request_id = response.headers.get("x-request-id")
    assert record.getMessage() == f"GET /api/v1/none [{request_id}] refused: no such route: GET /api/v1/none"


@pytest.mark.parametrize(
    ("handler", "logged"),
    [
        (fails, "secret detail"),
        (lambda request, context: sys.exit(3), "SystemExit"),
        (lambda request, context: None, "returned a NoneType, not a ExecResponse"),
        (lambda request, context: PingResponse(), "returned a PingResponse, not a ExecResponse"),
    ],
)
@pytest.mark.parametrize("target", [EXEC, "/api/v1/shell/exec"])
def test_a_servicer_that_fails(world: World, caplog: Any, target: str, handler: Any, logged: str) -> None:
    world.handlers.set("Exec", handler)
    peer = world.peer()
    peer.request("POST", target, b"{}", content_type=JSON, x_request_id="my-id")
    response = peer.response()
    body = json_of(response)
    assert (response.status, body["code"]) in ((500, "internal"), (500, 5001))
    assert body["message"] == (f"internal error while serving {target}; the daemon's log has it under request id my-id")
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.getMessage() == f"{target} [my-id]: internal error"
    assert logged in caplog.text
    assert logged.encode() not in response.body
    peer.rpc(PING)
    assert peer.response().status == 200


@pytest.mark.parametrize(
    "reason", ["METHOD_NOT_ALLOWED", "ENDPOINT_NOT_FOUND", "UNSUPPORTED_MEDIA_TYPE", "NO_SUCH_REASON", ""]
)
@pytest.mark.parametrize("target", [EXEC, "/api/v1/shell/exec"])
def test_whatever_reason_a_servicer_names(world: World, target: str, reason: str) -> None:
    def handler(request: Any, context: Any) -> Any:
        raise RpcError(Code.OUT_OF_RANGE, "because", reason=reason)

    world.handlers.set("Exec", handler)
    peer = world.peer()
    peer.request("POST", target, b"{}", content_type=JSON)
    assert json_of(peer.response())["message"] == "because"


def test_text_that_is_not_utf8_in_an_error(world: World) -> None:
    def handler(request: Any, context: Any) -> Any:
        raise RpcError(Code.NOT_FOUND, "no such file: /\udcff", reason="FILE_NOT_FOUND", data={"path": "/\udcff"})

    world.handlers.set("Exec", handler)
    peer = world.peer()
    for target in (EXEC, "/api/v1/shell/exec"):
        peer.request("POST", target, b"{}", content_type=JSON)
        assert json_of(peer.response())["message"] == "no such file: /?"


def test_an_error_that_cannot_be_told_is_no_silence(make_world: Callable[..., World], caplog: Any) -> None:
    def make_detail(number: int, data: Any) -> Any:
        raise KeyError("a defect of the table")

    world = make_world(dispatcher={"errors": ErrorTable(ERROR_CODES, make_detail)})
    peer = world.peer()
    peer.rpc("/vsrpc.v1.System/Pong")
    assert peer.response().status == 500
    assert "a defect of the table" in caplog.text


# -- interceptors


def test_interceptors_wrap_in_their_order(make_world: Callable[..., World]) -> None:
    order: list[str] = []

    def outer(proceed: Any, request: Any, context: Any) -> Any:
        order.append(f"outer {context.path}")
        response = proceed(request, context)
        order.append("outer again")
        return response

    def inner(proceed: Any, request: Any, context: Any) -> Any:
        order.append("inner")
        if request.command == "stop":
            raise RpcError(Code.PERMISSION_DENIED, "not that")
        return proceed(ExecRequest(command=request.command + "!"), context)

    world = make_world(dispatcher={"interceptors": (outer, inner)})
    peer = world.peer()
    peer.rpc(EXEC, {"command": "go"})
    assert json_of(peer.response())["stdout"] == "Z28h"
    assert order == [f"outer {EXEC}", "inner", "outer again"]
    peer.rpc(EXEC, {"command": "stop"})
    response = peer.response()
    assert (response.status, json_of(response)["message"]) == (403, "not that")
    assert order[3:] == [f"outer {EXEC}", "inner"]
    peer.request("POST", "/api/v1/shell/exec", b'{"command":"go"}')
    assert json_of(peer.response())["data"]["stdout"] == "go!"
    assert order[5:] == [f"outer {EXEC}", "inner", "outer again"]


# -- services


def test_a_path_is_served_once() -> None:
    dispatcher = Dispatcher()
    dispatcher.add_service(SYSTEM_SERVICE, object.__new__(type("S", (), {"__getattr__": lambda self, name: None})))
    with pytest.raises(ValueError, match=r"/vsrpc\.v1\.System/Ping is served already"):
        dispatcher.add_service(SYSTEM_SERVICE, object())


def test_a_servicer_without_a_method_is_refused_when_added() -> None:
    with pytest.raises(AttributeError, match="Ping"):
        Dispatcher().add_service(SYSTEM_SERVICE, object())


def test_a_server_without_services() -> None:
    server = Server(Dispatcher())
    ear = MemoryListener()
    serving = Beside(server.serve, ear)
    peer = RawClient(ear.connect())
    peer.request("GET", "/api/v1/ping")
    response = peer.response()
    assert (response.status, json_of(response)["message"]) == (501, "no such route: GET /api/v1/ping")
    peer.close()
    server.stop()
    serving.result()
