"""What may be sent, and as which bytes; headers as a value."""

from __future__ import annotations

import re

import pytest
from wire_driver import LIMITS

import vsrpc.wire
from vsrpc.wire import ClientConnection, Headers, LocalProtocolError, Request, Response, ServerConnection

HOST = Headers([("Host", "g")])


def test_request_bytes() -> None:
    sent = ClientConnection().send(Request("POST", "/x?y", Headers([("Host", "g"), ("A", "b")]), b"hello"))
    assert sent == [b"POST /x?y HTTP/1.1\r\nhost: g\r\na: b\r\ncontent-length: 5\r\n\r\nhello"]


@pytest.mark.parametrize(
    ("response", "method", "expected"),
    [
        (Response(200, Headers(), b"hello"), "GET", b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"),
        (Response(200, Headers(), b"hello"), "HEAD", b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"),
        (Response(200, Headers(), b"", "Fine"), "", b"HTTP/1.1 200 Fine\r\ncontent-length: 0\r\n\r\n"),
        (Response(299, Headers()), "", b"HTTP/1.1 299 \r\ncontent-length: 0\r\n\r\n"),
        (Response(204, Headers()), "", b"HTTP/1.1 204 No Content\r\n\r\n"),
        (Response(304, Headers()), "HEAD", b"HTTP/1.1 304 Not Modified\r\n\r\n"),
    ],
)
def test_response_bytes(response: Response, method: str, expected: bytes) -> None:
    assert ServerConnection().send(response, method) == [expected]


def test_big_body_is_sent_as_it_is() -> None:
    body = bytearray(1_000_000)
    sent = ServerConnection().send(Response(200, Headers(), body))
    assert len(sent) == 2
    assert sent[1] is body
    wide = memoryview(bytearray(1_000_000)).cast("I")
    assert b"content-length: 1000000\r\n" in bytes(ServerConnection().send(Response(200, Headers(), wide))[0])


FRAMING: list[Headers] = [Headers([("Host", "g"), (name, "0")]) for name in ("Content-Length", "Transfer-Encoding")]


@pytest.mark.parametrize(
    ("request_", "fragment"),
    [
        (Request("get", "/", HOST), "method 'get'"),
        (Request("HEAD", "/", HOST), "HEAD"),
        (Request("TRACE", "/", HOST), "TRACE"),
        (Request("CONNECT", "g:80", HOST), "CONNECT"),
        (Request("GET", "*", HOST), "target '*'"),
        (Request("GET", "/a b", HOST), "target '/a b'"),
        (Request("GET", "/\r\nA: b", HOST), "target"),
        (Request("GET", "http://g/", HOST), "target 'http://g/'"),
        (Request("GET", "/", Headers()), "exactly one valid Host"),
        (Request("GET", "/", Headers([("Host", "g"), ("Host", "g")])), "exactly one valid Host"),
        (Request("GET", "/", Headers([("Host", "a b")])), "exactly one valid Host"),
        (Request("GET", "/", FRAMING[0]), "content-length is set here"),
        (Request("GET", "/", FRAMING[1]), "transfer-encoding is set here"),
        (Request("GET", "/" + "a" * 100, HOST), "longer than 100 bytes"),
        (Request("GET", "/", Headers([("Host", "g"), ("A", "x" * 400)])), "over the limit of 400"),
        (Request("GET", "/", Headers([("Host", "g"), *[("A", "b")] * 4])), "6 header fields"),
    ],
)
def test_request_that_may_not_be_sent(request_: Request, fragment: str) -> None:
    with pytest.raises(LocalProtocolError, match=re.escape(fragment)):
        ClientConnection(LIMITS).send(request_)


@pytest.mark.parametrize(
    ("response", "fragment"),
    [
        (Response(100, Headers()), "status 100"),
        (Response(600, Headers()), "status 600"),
        (Response(204, Headers(), b"x"), "status 204 has no body"),
        (Response(304, Headers(), b"x"), "status 304 has no body"),
        (Response(200, FRAMING[0]), "content-length is set here"),
        (Response(200, FRAMING[1]), "transfer-encoding is set here"),
        (Response(200, Headers(), b"", "O\nK"), r"reason 'O\nK'"),
        (Response(200, Headers(), b"", "\u20ac"), "reason"),
    ],
)
def test_response_that_may_not_be_sent(response: Response, fragment: str) -> None:
    with pytest.raises(LocalProtocolError, match=re.escape(fragment)):
        ServerConnection().send(response)


# Headers


def test_headers_are_ordered_and_case_insensitive() -> None:
    headers = Headers([("A", "1"), ("B", "2"), ("a", "3")])
    assert list(headers) == [("a", "1"), ("b", "2"), ("a", "3")]
    assert (headers.get("A"), headers.get("x"), headers.get("x", "y")) == ("1", None, "y")
    assert (headers.get_all("a"), headers.get_all("x")) == (["1", "3"], [])
    assert ("B" in headers, "x" in headers, len(headers)) == (True, False, 3)
    assert headers == Headers([("a", "1"), ("b", "2"), ("a", "3")]) != Headers([("a", "1")])
    assert repr(headers) == "Headers([('a', '1'), ('b', '2'), ('a', '3')])"


@pytest.mark.parametrize(
    ("name", "value"),
    [("", "x"), ("a b", "x"), ("a:", "x"), ("\xe4", "x"), ("a\n", "x"), ("A", "b\r\nC: d"), ("A", "\0"), ("A", " b"),
     ("A", "b\t"), ("A", "\u20ac"), ("A", "b\n"), ("\u212a", "x")],
)  # fmt: skip
def test_headers_that_may_not_be_sent(name: str, value: str) -> None:
    with pytest.raises(LocalProtocolError):
        Headers([(name, value)])


def test_public_names() -> None:
    assert vsrpc.wire.__all__ == [
        "ACK", "CONTINUE", "LEAVE", "MAGIC", "NONCE_SIZE", "NO_NONCE", "REASONS", "SESSION_HEADER", "Acks",
        "BodyDamaged", "BodyTooLarge", "Buffer", "ClientConnection", "ClientEvent", "Event", "ExpectContinue",
        "Finder", "Headers", "Leave", "Limits", "LocalProtocolError", "ProtocolError", "Refused",
        "RemoteProtocolError", "Request", "Response", "ServerConnection", "ServerEvent", "Sync", "response_sync",
        "session_name",
    ]  # fmt: skip
