"""Other parsers, asked about what the wire core accepted: llhttp (that of Node.js, strict) and h11.

What we accept they must read as the same message with the same bounds, but for the rows of ``EXCEPTIONS``. What we
refuse and they accept is of no interest: we are stricter.
"""

from __future__ import annotations

import re
from typing import Callable, NamedTuple, Sequence, Type, Union

import h11
import httptools
from wire_driver import TE_LINE, Role, post

from vsrpc.wire import Refused, Request, Response, ServerConnection

Message = Union[Request, Refused, Response]


class Seen(NamedTuple):
    """A message as a parser sees it, in bytes of the wire."""

    start: tuple[bytes, bytes]  # method and target, or status and reason
    headers: list[tuple[bytes, bytes]]
    body: bytes


class Disagreement(Exception):
    """An oracle refuses what we accept."""


class Llhttp:
    """Reads one message with llhttp, by httptools; ``seen`` is None until it is complete."""

    # Methods are a closed table in llhttp, and none has a say in a request's framing. Of the registered ones
    # only those are here that it takes for HTTP.
    METHODS = frozenset(
        b"GET HEAD POST PUT DELETE OPTIONS TRACE PATCH COPY LOCK MKCOL MOVE PROPFIND PROPPATCH SEARCH UNLOCK BIND "
        b"REBIND UNBIND ACL REPORT MKACTIVITY CHECKOUT MERGE NOTIFY SUBSCRIBE UNSUBSCRIBE PURGE MKCALENDAR LINK "
        b"UNLINK QUERY".split()
    )

    def __init__(self, role: Role) -> None:
        self.seen: Seen | None = None
        self._is_request = role is ServerConnection
        self._parser = (httptools.HttpRequestParser if self._is_request else httptools.HttpResponseParser)(self)
        self._text = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._in_head = True
        self._body = b""

    def feed(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # it says so at the end of the message, which is then complete
        except httptools.HttpParserError as error:
            raise Disagreement(f"llhttp: {error}") from error

    def on_url(self, text: bytes) -> None:
        self._text += text

    on_status = on_url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:
            # It strips white space before a value and leaves that after it to its owner.
            self._headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        self._in_head = False

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        assert self.seen is None, "llhttp: a second message"
        code = self._parser.get_method() if self._is_request else b"%d" % self._parser.get_status_code()
        self.seen = Seen((code, self._text), self._headers, self._body)


class H11:
    """Reads one message with h11; ``seen`` is None until it is complete."""

    def __init__(self, role: Role) -> None:
        self.seen: Seen | None = None
        is_request = role is ServerConnection
        self._connection = h11.Connection(h11.SERVER if is_request else h11.CLIENT, max_incomplete_event_size=1 << 20)
        if not is_request:
            self._connection.send(h11.Request(method="GET", target="/", headers=[("Host", "g")]))
            self._connection.send(h11.EndOfMessage())
        self._start = (b"", b"")
        self._headers: list[tuple[bytes, bytes]] = []
        self._body = b""

    def feed(self, data: bytes) -> None:
        if not data:
            return  # to h11 that would be the end of input
        self._connection.receive_data(data)
        while self.seen is None:
            try:
                event = self._connection.next_event()
            except h11.RemoteProtocolError as error:
                raise Disagreement(f"h11: {error}") from error
            if event in (h11.NEED_DATA, h11.PAUSED):
                return
            if isinstance(event, h11.Request):
                self._start = event.method, event.target
                self._headers = list(event.headers)
            elif isinstance(event, (h11.Response, h11.InformationalResponse)):
                self._start = b"%d" % event.status_code, bytes(event.reason)
                self._headers = list(event.headers)
            elif isinstance(event, h11.Data):
                self._body += event.data
            if isinstance(event, (h11.EndOfMessage, h11.InformationalResponse)):
                self.seen = Seen(self._start, self._headers, self._body)
        assert not self._connection.trailing_data[0], "h11: the message ends earlier"


Oracle = Union[Type[Llhttp], Type[H11]]
ORACLES: tuple[Oracle, ...] = (Llhttp, H11)


class Exempt(NamedTuple):
    """What some oracles are not asked about, since they would refuse it or read it otherwise, and why we are right."""

    name: str
    oracles: tuple[Oracle, ...]
    applies: Callable[[bytes], object]
    why: str
    example: bytes  # a request


def _lines(pattern: bytes) -> Callable[[bytes], object]:
    """Whether the data has lines of this pattern."""
    return re.compile(rb"\r\n(?:%s)\r\n" % pattern, re.IGNORECASE).search


EXCEPTIONS = [
    Exempt(
        "framing field in a trailer",
        ORACLES,
        _lines(rb"0+\r\n(?:[^\r\n]+\r\n)*(?:content-length|transfer-encoding):[^\r\n]*"),
        "Both parse trailers as they do a head. We drop them: by then the body has ended, and RFC 9110 6.5.1 lets a "
        "recipient ignore a trailer field that has no business there",
        post(TE_LINE, body=b"0\r\nContent-Length: x\r\n\r\n"),
    ),
    Exempt(
        "tab after the coding",
        (Llhttp,),
        _lines(rb"transfer-encoding:[ \t]*chunked *\t[ \t]*"),
        "llhttp takes no HTAB there. It is white space around the value, which RFC 9112 5.1 has excluded from it",
        post(TE_LINE + b"\t", body=b"0\r\n\r\n"),
    ),
    Exempt(
        "upgrade",
        (Llhttp,),
        lambda data: _lines(rb"upgrade:[^\r\n]*")(data) and _lines(rb"connection:[^\r\n]*upgrade[^\r\n]*")(data),
        "httptools takes what follows the head for another protocol. A server may ignore Upgrade (RFC 9110 7.8), and "
        "the message is then framed as any other",
        post(b"Connection: Upgrade", b"Upgrade: x", b"Content-Length: 5", body=b"hello"),
    ),
]


def check_message(role: Role, data: bytes, messages: Sequence[Message]) -> None:
    """Raise unless each oracle reads exactly this one message in the data, ending with its last byte.

    No message: an interim response, or an empty line before a request; nothing else is skipped in silence.
    """
    if not messages:
        if role is ServerConnection:
            assert data == b"\r\n", f"{data!r} brought no event"
            return
        assert data.startswith(b"HTTP/1.1 1"), f"{data!r} brought no event"
    assert len(messages) <= 1, f"{data!r} brought {messages}"
    for oracle in _oracles_for(data):
        wire = _for_oracle(oracle, role, data)
        reader = oracle(role)
        try:
            reader.feed(wire[:-1])
            assert reader.seen is None, f"{oracle.__name__} reads a message before the end of {data!r}: {reader.seen}"
            reader.feed(wire[-1:])
        except Disagreement as error:
            raise AssertionError(f"{error}, where we accept {data!r}") from error
        assert reader.seen is not None, f"{oracle.__name__} waits for more after {data!r}"
        for message in messages:
            _check_same(oracle, message, reader.seen)


def check_unfinished(role: Role, data: bytes) -> None:
    """Raise if an oracle finds a complete message where we still wait for the end of one. It may refuse it."""
    for oracle in _oracles_for(data):
        reader = oracle(role)
        try:
            reader.feed(_for_oracle(oracle, role, data))
        except Disagreement:
            pass
        assert reader.seen is None, f"{oracle.__name__} reads {reader.seen} where we wait for more after {data!r}"


def _oracles_for(data: bytes) -> list[Oracle]:
    exempt = {oracle for row in EXCEPTIONS if row.applies(data) for oracle in row.oracles}
    return [oracle for oracle in ORACLES if oracle not in exempt]


def _for_oracle(oracle: Oracle, role: Role, data: bytes) -> bytes:
    """The data; to llhttp, a method that it does not know is another one."""
    if oracle is Llhttp and role is ServerConnection:
        method, space, rest = data.partition(b" ")
        if space and method not in Llhttp.METHODS:
            return b"POST " + rest
    return data


def _check_same(oracle: Oracle, ours: Message, theirs: Seen) -> None:
    if isinstance(ours, Response):
        start = b"%d" % ours.status, ours.reason.encode("latin-1")
    else:
        known = oracle is not Llhttp or ours.method.encode() in Llhttp.METHODS
        start = ours.method.encode() if known else b"POST", ours.target.encode()
        theirs = theirs._replace(start=(theirs.start[0], _origin_form(theirs)))
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in ours.headers]
    if isinstance(ours, Refused):
        theirs = theirs._replace(body=b"")  # ours is dropped
        body = b""
    elif "vsrpc-mask" in ours.headers:
        body = bytes(ours.body)
        assert len(body) == len(theirs.body), f"{oracle.__name__} reads {theirs}, we read {ours}"
        theirs = theirs._replace(body=body)  # what it read is masked
    else:
        body = bytes(ours.body)
    assert theirs == Seen(start, headers, body), f"{oracle.__name__} reads {theirs}, we read {ours}"


def _origin_form(theirs: Seen) -> bytes:
    """The target, whose host, if it names one, must be that of the Host field (RFC 9112 3.2.2)."""
    target = theirs.start[1]
    if not target.startswith(b"http://"):
        return target
    authority, _, path = target[len(b"http://") :].partition(b"/")
    assert authority.lower() == dict(theirs.headers)[b"host"].lower(), f"the target {target!r} is of another host"
    return b"/" + path
