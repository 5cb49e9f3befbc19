"""Feeds a connection bytes in any pieces, and builds the bytes and events that the tables of cases are made of."""

from __future__ import annotations

from typing import Iterable, List, Optional, Tuple, Type, Union

from vsrpc.wire import (
    ClientConnection,
    Event,
    ExpectContinue,
    Headers,
    Limits,
    Refused,
    RemoteProtocolError,
    Request,
    ServerConnection,
)

# Small, so that each limit is reached by a short case.
LIMITS = Limits(max_line=100, max_head=400, max_headers=5, max_body=50)

Role = Union[Type[ServerConnection], Type[ClientConnection]]
Outcome = Tuple[List[Event], Optional[Tuple[int, str]]]


def drive(role: Role, pieces: Iterable[bytes], limits: Limits = LIMITS) -> Outcome:
    """Feed the pieces as an owner does; the events, and the status and text of the error that ended them.

    ExpectContinue is left out: whether it is due depends, rightly, on how much has arrived at once.
    """
    connection = role(limits)
    events: list[Event] = []
    try:
        for piece in pieces:
            connection.receive_data(piece)
            while True:
                event = connection.next_event()
                if event is None:
                    break
                if not isinstance(event, ExpectContinue):
                    events.append(event)
    except RemoteProtocolError as error:
        return events, (error.status, str(error))
    return events, None


def single_bytes(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


def cut(data: bytes, points: Iterable[int]) -> list[bytes]:
    """The data in pieces, cut at these points (taken modulo its length)."""
    at = sorted({0, len(data), *(point % (len(data) + 1) for point in points)})
    return [data[a:b] for a, b in zip(at, at[1:])]


def get(*fields: tuple[str, str], target: str = "/", method: str = "GET", body: bytes = b"") -> Request:
    return Request(method, target, Headers([("host", "g"), *fields]), body)


def post(*lines: bytes, body: bytes = b"") -> bytes:
    """A POST of these header lines (without CRLF) and this raw body."""
    return b"\r\n".join([b"POST / HTTP/1.1", b"Host: g", *lines, b"", body])


def reply(status_line: bytes, *lines: bytes, body: bytes = b"") -> bytes:
    return b"\r\n".join([status_line, *lines, b"", body])


def refused(status: int, message: str, *fields: tuple[str, str], method: str = "POST") -> Refused:
    return Refused(method, "/", Headers([("host", "g"), *fields]), status, message)


CL = ("content-length", "5")
TE = ("transfer-encoding", "chunked")
TOO_LONG = ("content-length", "51")
G = b"GET / HTTP/1.1\r\nHost: g\r\n\r\n"
OK = b"HTTP/1.1 200 OK"
TE_LINE = b"Transfer-Encoding: chunked"


def head(line: bytes, *lines: bytes) -> bytes:
    """A GET with this line among its fields."""
    return b"\r\n".join([b"GET / HTTP/1.1", b"Host: g", line, *lines, b"", b""])


def chunks(body: bytes) -> bytes:
    return post(TE_LINE, body=body)
