"""The table of what the wire core accepts, or refuses and skips: bytes and their events."""

from __future__ import annotations

from typing import NamedTuple, Sequence

from wire_driver import CL, OK, TE, TE_LINE, TOO_LONG, G, Role, get, post, refused, reply

from vsrpc.wire import ClientConnection, Event, Headers, Request, Response, ServerConnection


class Valid(NamedTuple):
    name: str
    data: bytes
    events: Sequence[Event]
    role: Role = ServerConnection


VALID = [
    Valid("get", G, [get()]),
    Valid("two pipelined", G + G, [get(), get()]),
    Valid("one empty line first", b"\r\n" + G, [get()]),
    Valid(
        "empty line between",
        post(b"Content-Length: 5", body=b"hello") + b"\r\n" + G,
        [get(CL, method="POST", body=b"hello"), get()],
    ),
    Valid(
        "path and query",
        b"GET /a%2Fb/c.d?x=1&y=%20/? HTTP/1.1\r\nHost: g\r\n\r\n",
        [get(target="/a%2Fb/c.d?x=1&y=%20/?")],
    ),
    Valid("asterisk", b"OPTIONS * HTTP/1.1\r\nHost: g\r\n\r\n", [get(method="OPTIONS", target="*")]),
    Valid("options of a path", b"OPTIONS /x HTTP/1.1\r\nHost: g\r\n\r\n", [get(method="OPTIONS", target="/x")]),
    Valid("absolute-form", b"GET http://g/x?y HTTP/1.1\r\nHost: g\r\n\r\n", [get(target="/x?y")]),
    Valid("absolute-form, no path", b"GET http://G HTTP/1.1\r\nHost: g\r\n\r\n", [get()]),
    Valid("head method", b"HEAD / HTTP/1.1\r\nHost: g\r\n\r\n", [get(method="HEAD")]),
    Valid("no host but the field", b"GET / HTTP/1.1\r\nHost:\r\n\r\n", [Request("GET", "/", Headers([("host", "")]))]),
    Valid(
        "host with port",
        b"GET / HTTP/1.1\r\nHost: a-b.c_d:80\r\n\r\n",
        [Request("GET", "/", Headers([("host", "a-b.c_d:80")]))],
    ),
    Valid(
        "ipv6 host", b"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", [Request("GET", "/", Headers([("host", "[::1]:80")]))]
    ),
    Valid(
        "white space around a value",
        b"GET / HTTP/1.1\r\nHost:g\r\nA: \t b \tc\t \r\nB:\r\n\r\n",
        [get(("a", "b \tc"), ("b", ""))],
    ),
    Valid(
        "repeated field, obs-text",
        b"GET / HTTP/1.1\r\nHost: g\r\nA: 1\r\na: \xe4\xff\r\n\r\n",
        [get(("a", "1"), ("a", "\xe4\xff"))],
    ),
    Valid(
        "upgrade is ignored",
        b"GET / HTTP/1.1\r\nHost: g\r\nConnection: close, Upgrade\r\nUpgrade: h2c\r\n\r\n",
        [get(("connection", "close, Upgrade"), ("upgrade", "h2c"))],
    ),
    Valid("content-length", post(b"Content-Length: 5", body=b"a\r\n\0b"), [get(CL, method="POST", body=b"a\r\n\0b")]),
    Valid("content-length 0", post(b"Content-Length: 0"), [get(("content-length", "0"), method="POST")]),
    Valid(
        "content-length with leading zeros",
        post(b"Content-Length: 005", body=b"hello"),
        [get(("content-length", "005"), method="POST", body=b"hello")],
    ),
    Valid(
        "body at the limit",
        post(b"Content-Length: 50", body=b"x" * 50),
        [get(("content-length", "50"), method="POST", body=b"x" * 50)],
    ),
    Valid(
        "chunked",
        post(TE_LINE, body=b"5\r\nhello\r\n00A\r\n, the world\r\n0\r\n\r\n".replace(b" the", b"the")),
        [get(TE, method="POST", body=b"hello,the world")],
    ),
    Valid("chunked, empty", post(TE_LINE, body=b"0\r\n\r\n"), [get(TE, method="POST")]),
    Valid(
        "chunked, many zeros",
        post(TE_LINE, body=b"1\r\nx\r\n0000000000000000\r\n\r\n"),
        [get(TE, method="POST", body=b"x")],
    ),
    Valid(
        "chunk that looks like framing",
        post(TE_LINE, body=b"7\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n"),
        [get(TE, method="POST", body=b"\r\n0\r\n\r\n")],
    ),
    Valid(
        "trailers are dropped",
        post(TE_LINE, body=b"1\r\nx\r\n0\r\nContent-Length: 9\r\nA: b\r\n\r\n"),
        [get(TE, method="POST", body=b"x")],
    ),
    Valid(
        "chunked at the limit",
        post(TE_LINE, body=b"32\r\n" + b"x" * 50 + b"\r\n0\r\n\r\n"),
        [get(TE, method="POST", body=b"x" * 50)],
    ),
    Valid(
        "expect",
        post(b"Expect: 100-Continue", b"Content-Length: 5", body=b"hello"),
        [get(("expect", "100-Continue"), CL, method="POST", body=b"hello")],
    ),
    Valid(
        "too long by content-length",
        post(b"Content-Length: 51", body=b"x" * 51),
        [refused(413, "Content-Length 51 is over the limit of 50 bytes: send it in parts", TOO_LONG)],
    ),
    Valid(
        "too long in chunks",
        post(TE_LINE, body=(b"20\r\n" + b"x" * 32 + b"\r\n") * 4 + b"0\r\nA: b\r\n\r\n"),
        [refused(413, "chunked body is over the limit of 50 bytes: send it in parts", TE)],
    ),
    Valid(
        "unknown expectation",
        post(b"Expect: tea", b"Content-Length: 5", body=b"hello"),
        [refused(417, "Expect 'tea' cannot be met: only 100-continue is known", ("expect", "tea"), CL)],
    ),
    Valid(
        "two expectations",
        post(b"Expect: 100-continue", b"Expect: 100-continue", b"Content-Length: 0"),
        [
            refused(
                417,
                "Expect '100-continue, 100-continue' cannot be met: only 100-continue is known",
                ("expect", "100-continue"),
                ("expect", "100-continue"),
                ("content-length", "0"),
            )
        ],
    ),
    Valid(
        "trace",
        b"TRACE / HTTP/1.1\r\nHost: g\r\n\r\n",
        [refused(501, "method TRACE is not implemented", method="TRACE")],
    ),
    Valid("line at the limit", b"GET /" + b"a" * 86 + b" HTTP/1.1\r\nHost: g\r\n\r\n", [get(target="/" + "a" * 86)]),
    # The limit of 400 counts what comes before the empty line: "\r\nHost: g" is 9 bytes, "\r\nA: " 5.
    Valid("head at the limit", b"GET / HTTP/1.1\r\nHost: g\r\nA: " + b"x" * 372 + b"\r\n\r\n", [get(("a", "x" * 372))]),
    Valid("fields at the limit", G[:-2] + b"A: b\r\n" * 4 + b"\r\n", [get(*[("a", "b")] * 4)]),
]

VALID_RESPONSES = [
    Valid(name, data, events, ClientConnection)
    for name, data, events in [
        (
            "content-length",
            reply(OK, b"Content-Length: 5", body=b"hello"),
            [Response(200, Headers([CL]), b"hello", "OK")],
        ),
        (
            "chunked",
            reply(OK, TE_LINE, body=b"5\r\nhello\r\n0\r\n\r\n"),
            [Response(200, Headers([TE]), b"hello", "OK")],
        ),
        (
            "empty reason",
            reply(b"HTTP/1.1 599 ", b"Content-Length: 0"),
            [Response(599, Headers([("content-length", "0")]))],
        ),
        ("204", reply(b"HTTP/1.1 204 No Content"), [Response(204, Headers(), b"", "No Content")]),
        (
            "304 with length",
            reply(b"HTTP/1.1 304 Not Modified", b"Content-Length: 5"),
            [Response(304, Headers([CL]), b"", "Not Modified")],
        ),
        (
            "interim",
            reply(b"HTTP/1.1 100 Continue")
            + reply(b"HTTP/1.1 103 Early Hints", b"Link: x")
            + reply(OK, b"Content-Length: 5", body=b"hello"),
            [Response(200, Headers([CL]), b"hello", "OK")],
        ),
    ]
]
