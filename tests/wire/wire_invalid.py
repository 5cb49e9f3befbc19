"""The table of what ends a connection: bytes, the status to answer with, and what the message must name."""

from __future__ import annotations

from typing import NamedTuple

from wire_driver import OK, TE_LINE, G, Role, chunks, head, post, reply

from vsrpc.wire import ClientConnection, ServerConnection


class Invalid(NamedTuple):
    name: str
    data: bytes
    status: int
    fragment: str
    role: Role = ServerConnection


INVALID = [
    # Start line
    Invalid("http/0.9", b"GET /\r\n", 505, "HTTP/0.9"),
    Invalid("http/1.0", b"GET / HTTP/1.0\r\n", 505, "HTTP/1.0"),
    Invalid("http/1.2", b"GET / HTTP/1.2\r\n", 505, "HTTP/1.2"),
    Invalid("http/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "HTTP/2.0"),
    Invalid("version in lower case", b"GET / http/1.1\r\n", 400, "'GET / http/1.1' is not"),
    Invalid("version of two digits", b"GET / HTTP/1.10\r\n", 400, "is not 'METHOD TARGET HTTP/1.1'"),
    Invalid("two spaces", b"GET  / HTTP/1.1\r\n", 400, "single spaces"),
    Invalid("space in the target", b"GET /a b HTTP/1.1\r\n", 400, "percent-encode"),
    Invalid("leading space", b" GET / HTTP/1.1\r\n", 400, "single spaces"),
    Invalid("trailing space", b"GET / HTTP/1.1 \r\n", 400, "single spaces"),
    Invalid("tab", b"GET\t/ HTTP/1.1\r\n", 400, r"'GET\t/ HTTP/1.1'"),
    Invalid("method in lower case", b"get / HTTP/1.1\r\n", 400, "method 'get'"),
    Invalid("method no token", b"G@T / HTTP/1.1\r\n", 400, "method 'G@T'"),
    Invalid("method too long", b"A" * 33 + b" / HTTP/1.1\r\n", 400, "method 'AAA"),
    Invalid("no method", b"/ HTTP/1.1\r\n", 400, "'/ HTTP/1.1' is not"),
    Invalid("connect", b"CONNECT g:80 HTTP/1.1\r\n", 501, "'g:80'"),
    Invalid("asterisk but not options", b"GET * HTTP/1.1\r\n", 400, "target '*'"),
    Invalid("authority but not connect", b"GET g:80 HTTP/1.1\r\n", 400, "target 'g:80'"),
    Invalid("https target", b"GET https://g/ HTTP/1.1\r\n", 400, "target 'https://g/'"),
    Invalid("absolute without host", b"GET http:///x HTTP/1.1\r\n", 400, "target 'http:///x'"),
    Invalid("userinfo", b"GET http://u@g/ HTTP/1.1\r\n", 400, "target 'http://u@g/'"),
    Invalid("relative target", b"GET x HTTP/1.1\r\n", 400, "target 'x'"),
    Invalid("fragment", b"GET /#x HTTP/1.1\r\n", 400, "target '/#x'"),
    Invalid("non-ascii target", b"GET /\xe4 HTTP/1.1\r\n", 400, "percent-encoded"),
    Invalid("broken percent-encoding", b"GET /%4 HTTP/1.1\r\n", 400, "target '/%4'"),
    Invalid("nul in the target", b"GET /\0 HTTP/1.1\r\n", 400, r"control character '\x00'"),
    Invalid("line too long", b"GET /" + b"a" * 87 + b" HTTP/1.1\r\n", 414, "longer than 100 bytes"),
    Invalid("line without end", b"a" * 102, 414, "longer than 100 bytes"),
    Invalid("two empty lines", b"\r\n\r\n" + G, 400, "more than 1 empty line"),
    Invalid("tls hello", b"\x16\x03\x01\x02\0", 400, r"control character '\x16'"),
    # Line ends
    Invalid("bare LF in the first line", b"GET / HTTP/1.1\nHost: g\r\n\r\n", 400, "bare LF"),
    Invalid("bare LF in a field", b"GET / HTTP/1.1\r\nHost: g\nA: b\r\n\r\n", 400, r"'Host: g\n' contains a bare LF"),
    Invalid("bare LF as the empty line", b"GET / HTTP/1.1\r\nHost: g\r\n\n", 400, "bare LF"),
    Invalid("bare LF first", b"\n" + G, 400, "bare LF"),
    Invalid("bare CR in the first line", b"GET / HTTP/1.1\rHost: g\r\n\r\n", 400, "bare CR"),
    Invalid("bare CR in a value", head(b"A: b\rc"), 400, r"'A: b\r' contains a bare CR"),
    Invalid("CR CR LF", b"GET / HTTP/1.1\r\nHost: g\r\r\n\r\n", 400, "bare CR"),
    Invalid("bare CR at the end", b"GET / HTTP/1.1\r\nHost: g\r\n\rX", 400, "bare CR"),
    # Fields
    Invalid("nul in a value", head(b"A: b\0"), 400, r"control character '\x00'"),
    Invalid("control character in a value", head(b"A: \x1b[1m"), 400, r"control character '\x1b'"),
    Invalid("del in a value", head(b"A: \x7f"), 400, r"control character '\x7f'"),
    Invalid("control character in a name", head(b"A\x01: b"), 400, r"control character '\x01'"),
    Invalid("space before the colon", head(b"A : b"), 400, "'A : b' has white space before the colon"),
    Invalid("tab before the colon", head(b"A\t: b"), 400, "white space before the colon"),
    Invalid("space in a name", head(b"A b: c"), 400, "'A b'"),
    Invalid("empty name", head(b": c"), 400, "': c' has an empty name"),
    Invalid("no colon", head(b"A"), 400, "'A' has no colon"),
    Invalid("non-ascii name", head(b"\xe4: b"), 400, "not a token"),
    Invalid("name with a slash", head(b"A/b: c"), 400, "'A/b'"),
    Invalid("obs-fold", head(b"A: b", b" c"), 400, "' c' begins with white space"),
    Invalid("obs-fold with tab", head(b"A: b", b"\tTransfer-Encoding: chunked"), 400, "begins with white space"),
    Invalid(
        "white space before the first field", b"GET / HTTP/1.1\r\n Host: g\r\n\r\n", 400, "begins with white space"
    ),
    Invalid("well formed after malformed", head(b"A B: c", b"C: d"), 400, "'A B: c'"),
    Invalid("too many fields", head(*[b"A: b"] * 5), 431, "6 header fields"),
    Invalid("fields too long", head(b"A: " + b"x" * 373), 431, "longer than 386 bytes"),
    Invalid("fields without end", b"GET / HTTP/1.1\r\nHost: g\r\n" + b"x" * 400, 431, "longer than 386 bytes"),
    # Host
    Invalid("no host", b"GET / HTTP/1.1\r\n\r\n", 400, "0 Host"),
    Invalid("two hosts", head(b"Host: g"), 400, "2 Host header fields 'g, g'"),
    Invalid("host with a space", b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400, "Host 'a b'"),
    Invalid("host list", b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400, "Host 'a/b'"),
    Invalid("host with userinfo", b"GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", 400, "Host 'a@b'"),
    Invalid("host with a bad port", b"GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", 400, "Host 'a:b'"),
    Invalid("non-ascii host", b"GET / HTTP/1.1\r\nHost: \xe4\r\n\r\n", 400, "Host 'ä'"),
    Invalid(
        "other host in the target", b"GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n", 400, "host 'a' but Host says 'b'"
    ),
    # Framing
    Invalid(
        "length and coding", post(b"Content-Length: 5", TE_LINE, body=b"0\r\n\r\n"), 400, "both Content-Length '5'"
    ),
    Invalid(
        "coding and length", post(TE_LINE, b"Content-Length: 5", body=b"0\r\n\r\n"), 400, "both Content-Length '5'"
    ),
    Invalid("two lengths", post(b"Content-Length: 5", b"Content-Length: 6"), 400, "2 Content-Length fields '5, 6'"),
    Invalid("the same length twice", post(b"Content-Length: 5", b"Content-Length: 5"), 400, "2 Content-Length"),
    Invalid("length list", post(b"Content-Length: 5, 5"), 400, "'5, 5'"),
    Invalid("length with plus", post(b"Content-Length: +5"), 400, "'+5'"),
    Invalid("length with minus", post(b"Content-Length: -5"), 400, "'-5'"),
    Invalid("length in hex", post(b"Content-Length: 0x5"), 400, "'0x5'"),
    Invalid("length with underscore", post(b"Content-Length: 1_0"), 400, "'1_0'"),
    Invalid("length with a fraction", post(b"Content-Length: 5.0"), 400, "'5.0'"),
    Invalid("other digits", post(b"Content-Length: \xb2"), 400, "'²'"),
    Invalid("empty length", post(b"Content-Length:"), 400, "Content-Length ''"),
    Invalid("length with a space inside", post(b"Content-Length: 5 0"), 400, "'5 0'"),
    Invalid("huge length", post(b"Content-Length: " + b"9" * 19), 400, "1 to 18 digits"),
    Invalid("gzip, chunked", post(b"Transfer-Encoding: gzip, chunked"), 501, "'gzip, chunked'"),
    Invalid("chunked, gzip", post(b"Transfer-Encoding: chunked, gzip"), 400, "'chunked, gzip'"),
    Invalid("identity", post(b"Transfer-Encoding: identity"), 400, "'identity'"),
    Invalid("chunked twice", post(TE_LINE, TE_LINE), 400, "'chunked, chunked'"),
    Invalid("chunked twice in a list", post(b"Transfer-Encoding: chunked, chunked"), 400, "'chunked, chunked'"),
    Invalid("chunked in capitals", post(b"Transfer-Encoding: Chunked"), 400, "'Chunked'"),
    Invalid("quoted chunked", post(b'Transfer-Encoding: "chunked"'), 400, "chunked"),
    Invalid("chunked with a parameter", post(b"Transfer-Encoding: chunked;a=b"), 400, "'chunked;a=b'"),
    Invalid("chunked hidden by a control character", post(b"Transfer-Encoding: \x0bchunked"), 400, r"'\x0b'"),
    Invalid("empty coding", post(b"Transfer-Encoding:"), 400, "Transfer-Encoding ''"),
    # Chunks
    Invalid("chunk size with minus", chunks(b"-1\r\n"), 400, "'-' is not hexadecimal"),
    Invalid("chunk size with plus", chunks(b"+1\r\n"), 400, "'+'"),
    Invalid("chunk size with 0x", chunks(b"0x1\r\n"), 400, "'0x'"),
    Invalid("space before the chunk size", chunks(b" 1\r\n"), 400, "' '"),
    Invalid("space after the chunk size", chunks(b"1 \r\n"), 400, "'1 '"),
    Invalid("chunk size with underscore", chunks(b"1_0\r\n"), 400, "'1_'"),
    Invalid("empty chunk size", chunks(b"\r\n"), 400, r"'\r'"),
    Invalid("chunk size without hex digits", chunks(b"g\r\n"), 400, "'g'"),
    Invalid("chunk size of 17 digits", chunks(b"0" * 16 + b"1\r\n"), 400, "longer than 16 digits"),
    Invalid("chunk size without end", chunks(b"1" * 100), 400, "longer than 16 digits"),
    Invalid("chunk extension", chunks(b"1;a=b\r\nx\r\n"), 400, "'1;' carries a chunk extension"),
    Invalid("extension of the last chunk", chunks(b"0;a\r\n\r\n"), 400, "chunk extension"),
    Invalid("chunk size ended by LF", chunks(b"1\nx\r\n"), 400, r"'1\n'"),
    Invalid("chunk size ended by CR", chunks(b"1\rx\r\n"), 400, "bare CR"),
    Invalid("chunk data too long", chunks(b"1\r\nxy\r\n"), 400, "followed by 'y'"),
    Invalid("chunk data ended by LF", chunks(b"1\r\nx\n0\r\n\r\n"), 400, r"followed by '\n'"),
    Invalid("chunk data ended by CR", chunks(b"1\r\nx\r0\r\n\r\n"), 400, r"followed by '\r0'"),
    Invalid("malformed trailer", chunks(b"0\r\nA b: c\r\n\r\n"), 400, "'A b'"),
    Invalid("bare LF in a trailer", chunks(b"0\r\nA: b\n\r\n"), 400, "bare LF"),
    Invalid("trailers too long", chunks(b"0\r\n" + b"A" * 500), 431, "longer than 400 bytes"),
    Invalid("too many trailers", chunks(b"0\r\n" + b"A: b\r\n" * 6 + b"\r\n"), 431, "6 header fields"),
]

INVALID_RESPONSES = [
    Invalid(name, data, status, fragment, ClientConnection)
    for name, data, status, fragment in [
        ("a request", G, 400, "'GET / HTTP/1.1' is not"),
        ("http/1.0", b"HTTP/1.0 200 OK\r\n", 505, "HTTP/1.0"),
        ("no space after the code", b"HTTP/1.1 200\r\n", 400, "'HTTP/1.1 200' is not"),
        ("code of two digits", b"HTTP/1.1 20 OK\r\n", 400, "is not"),
        ("code below 100", b"HTTP/1.1 099 OK\r\n", 400, "is not"),
        ("code of four digits", b"HTTP/1.1 1000 OK\r\n", 400, "is not"),
        ("empty line first", b"\r\n" + reply(OK, b"Content-Length: 0"), 400, "empty line"),
        ("no framing", reply(OK), 400, "neither Content-Length nor chunked"),
        ("both framings", reply(OK, b"Content-Length: 5", TE_LINE), 400, "both"),
        ("204 with length", reply(b"HTTP/1.1 204 x", b"Content-Length: 0"), 400, "204, which has no body"),
        ("304 with coding", reply(b"HTTP/1.1 304 x", TE_LINE), 400, "304, which has no body"),
        ("100 with length", reply(b"HTTP/1.1 100 x", b"Content-Length: 0"), 400, "100, which has no body"),
        ("101", reply(b"HTTP/1.1 101 x"), 400, "101"),
        ("too long", reply(OK, b"Content-Length: 51"), 413, "over the limit of 50"),
        ("too long in chunks", reply(OK, TE_LINE, body=b"33\r\n"), 413, "over the limit of 50"),
        ("obs-fold", reply(OK, b"A: b", b" c"), 400, "begins with white space"),
        ("bare LF", b"HTTP/1.1 200 OK\nA: b", 400, "bare LF"),
    ]
]
