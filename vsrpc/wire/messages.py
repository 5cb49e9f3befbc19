"""What travels: complete messages and the events a connection reports. Plain values, no behaviour."""

from __future__ import annotations

from typing import NamedTuple, Union

from .body import Room
from .headers import Headers

Buffer = Union[bytes, bytearray, memoryview]

# The interim response that a client with "Expect: 100-continue" waits for (RFC 9110 15.2.1).
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Request(NamedTuple):
    """A complete request. ``target`` is in origin-form (``/path?query``, still percent-encoded) or ``*``.

    A received body that is not empty is a bytearray of its own, decoded from its framing only. ``tail``, of a message
    that is sent, is the rest of its body: what is large stands there, so that nobody has to copy it. ``room`` is
    what the body of a received one holds, to be released by whoever is done with it.
    """

    method: str
    target: str
    headers: Headers
    body: Buffer = b""
    tail: Buffer = b""
    room: Room | None = None


class Response(NamedTuple):
    """A complete final response. An empty ``reason`` is filled from ``REASONS`` when sent; ``tail`` as in Request."""

    status: int
    headers: Headers
    body: Buffer = b""
    reason: str = ""
    tail: Buffer = b""


class _Signal:
    """An event that its kind says all of."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self)

    def __hash__(self) -> int:
        return hash(type(self))

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class ExpectContinue(_Signal):
    """A request head was accepted whose client waits before it sends the body: send ``CONTINUE``."""

    __slots__ = ()


class Refused(NamedTuple):
    """A well framed request that must not be served: answer it with ``status`` and ``message``.

    The connection skips its body by its framing and then goes on with the next request.
    """

    method: str
    target: str
    headers: Headers
    status: int
    message: str


class Sync(NamedTuple):
    """All before is void, and a fresh message follows. ``nonce``: the client's; zeros where a server was not asked."""

    nonce: bytes


class Acks:
    """The client has read so many more halves of its window."""

    __slots__ = ("count",)

    def __init__(self, count: int) -> None:
        self.count = count

    def __eq__(self, other: object) -> bool:
        return self.count == other.count if isinstance(other, Acks) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.count)

    def __repr__(self) -> str:
        return f"Acks(count={self.count})"


class Leave(_Signal):
    """The client has read all that it asked for, and leaves."""

    __slots__ = ()


ServerEvent = Union[Request, ExpectContinue, Refused, Sync, Acks, Leave]
ClientEvent = Union[Response, Sync]
Event = Union[ServerEvent, ClientEvent]

# RFC 9110 15: the phrases are for people; no program reads them.
REASONS = {
    200: "OK",
    201: "Created",
    202: "Accepted",
    204: "No Content",
    206: "Partial Content",
    304: "Not Modified",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    406: "Not Acceptable",
    408: "Request Timeout",
    409: "Conflict",
    411: "Length Required",
    412: "Precondition Failed",
    413: "Content Too Large",
    414: "URI Too Long",
    415: "Unsupported Media Type",
    417: "Expectation Failed",
    422: "Unprocessable Content",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    499: "Client Closed Request",
    500: "Internal Server Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
    505: "HTTP Version Not Supported",
    507: "Insufficient Storage",
}
