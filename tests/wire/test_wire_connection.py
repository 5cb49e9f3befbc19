"""What an owner of a connection relies on beside the messages: buffers, errors, the end of input, 100-continue."""

from __future__ import annotations

import re
import tracemalloc
from typing import Pattern

import pytest
from wire_driver import LIMITS, TE_LINE, G, drive, get, head, post, reply, single_bytes

from vsrpc.wire import (
    CONTINUE,
    ClientConnection,
    ExpectContinue,
    Limits,
    LocalProtocolError,
    Refused,
    RemoteProtocolError,
    Request,
    Response,
    ServerConnection,
    grammar,
)

SCRATCH = 65536


def server(data: bytes = b"", limits: Limits = LIMITS) -> ServerConnection:
    connection = ServerConnection(limits)
    connection.receive_data(data)
    return connection


# Buffers


def test_big_body_is_received_in_place() -> None:
    size = 3_000_000
    connection = server(post(b"Content-Length: %d" % size, body=b"ab"), Limits())
    assert len(connection.get_buffer()) == SCRATCH, "no body buffer before the head is accepted"
    assert connection.next_event() is None
    first = connection.get_buffer()
    assert len(first) == size - 2
    first[:1000] = b"c" * 1000
    connection.buffer_updated(1000)
    rest = connection.get_buffer()
    assert len(rest) == size - 1002
    assert rest.obj is first.obj
    rest[:] = b"d" * len(rest)
    connection.buffer_updated(len(rest))
    assert len(connection.get_buffer()) == SCRATCH, "a full body lends nothing, even before its event is taken"
    request = connection.next_event()
    assert isinstance(request, Request)
    assert request.body is first.obj
    assert request.body == b"ab" + b"c" * 1000 + b"d" * (size - 1002)
    assert not connection.mid_message


@pytest.mark.parametrize(
    "data", [post(b"Content-Length: 51"), post(b"Content-Length: " + b"9" * 18), post(TE_LINE, body=b"33\r\n")]
)
def test_no_buffer_is_allocated_for_a_refused_body(data: bytes) -> None:
    connection = server(data)
    refused = connection.next_event()
    assert isinstance(refused, Refused)
    assert refused.status == 413
    assert connection.next_event() is None
    assert connection.mid_message, "the body is still to be skipped"
    assert len(connection.get_buffer()) == SCRATCH


def test_a_skipped_body_is_not_kept() -> None:
    connection = server(post(TE_LINE))
    chunk = b"8000\r\n" + b"x" * 0x8000 + b"\r\n"
    tracemalloc.start()
    try:
        for _ in range(100):
            connection.receive_data(chunk)
            while connection.next_event():
                pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10 * len(chunk)


def test_events_need_not_be_taken_between_reads() -> None:
    connection = server()
    for byte in single_bytes(post(b"Content-Length: 5", body=b"hello") + G):
        connection.receive_data(byte)
    assert connection.next_event() == get(("content-length", "5"), method="POST", body=b"hello")
    assert connection.next_event() == get()
    assert connection.next_event() is None


def test_event_taken_while_a_buffer_is_lent() -> None:
    connection = server(post(b"Content-Length: 5"))
    lent = connection.get_buffer()
    assert connection.next_event() is None
    lent[:2] = b"he"
    connection.buffer_updated(2)
    connection.receive_data(b"llo")
    assert connection.next_event() == get(("content-length", "5"), method="POST", body=b"hello")


def test_buffer_misuse_is_our_error() -> None:
    connection = server()
    with pytest.raises(LocalProtocolError, match="without a get_buffer"):
        connection.buffer_updated(1)
    for wrong in (0, -1, SCRATCH + 1):
        connection.get_buffer()
        with pytest.raises(LocalProtocolError, match=re.escape(f"buffer_updated({wrong})")):
            connection.buffer_updated(wrong)


class CountingPattern:
    """Counts the bytes that a scan looks at."""

    def __init__(self, pattern: Pattern[bytes]) -> None:
        self._pattern = pattern
        self.scanned = 0

    def search(self, data: bytearray, start: int, end: int) -> object:
        self.scanned += end - start
        return self._pattern.search(data, start, end)


def test_byte_by_byte_scan_is_linear(monkeypatch: pytest.MonkeyPatch) -> None:
    counting = CountingPattern(grammar.SECTION_STOP)
    monkeypatch.setattr(grammar, "SECTION_STOP", counting)
    data = head(b"A: " + b"x" * 60000)
    events, error = drive(ServerConnection, single_bytes(data), Limits())
    assert (len(events), error) == (1, None)
    assert len(data) * 3 < counting.scanned < len(data) * 5


# Errors, end of input, reset


def test_after_an_error_never_an_event() -> None:
    connection = server(head(b"A : b"))
    for _ in range(3):
        with pytest.raises(RemoteProtocolError, match="white space before the colon") as caught:
            connection.next_event()
        assert caught.value.status == 400
        connection.receive_data(G)
        assert not connection.mid_message, "input after an error is not kept"
    connection.reset()
    connection.receive_data(G)
    assert connection.next_event() == get()


@pytest.mark.parametrize(
    "data",
    [b"\r", b"G", b"GET / HTTP/1.1\r\n", G[:-1], post(b"Content-Length: 5"), post(b"Content-Length: 5", body=b"hell"),
     post(TE_LINE), post(TE_LINE, body=b"1\r\nx"),
     post(TE_LINE, body=b"0\r\n"), post(b"Content-Length: 51", body=b"x")],
)  # fmt: skip
def test_end_of_input_inside_a_message(data: bytes) -> None:
    connection = server(data)
    while connection.next_event():
        pass
    assert connection.mid_message
    connection.receive_eof()
    with pytest.raises(RemoteProtocolError, match="inside a message"):
        connection.next_event()


@pytest.mark.parametrize("data", [b"", b"\r\n", G, G + b"\r\n", post(TE_LINE, body=b"0\r\n\r\n")])
def test_end_of_input_between_messages(data: bytes) -> None:
    connection = server(data)
    connection.receive_eof()
    while connection.next_event():
        pass
    assert not connection.mid_message
    with pytest.raises(LocalProtocolError, match="after receive_eof"):
        connection.receive_data(G)
    connection.reset()
    connection.receive_data(G)
    assert connection.next_event() == get()


@pytest.mark.parametrize("data", [b"GET / HT", b"GET / HTTP/1.1\r\nHo", post(b"Content-Length: 5", body=b"a"), b"\r\n"])
def test_reset_forgets_what_was_half_read(data: bytes) -> None:
    connection = server(data)
    assert connection.next_event() is None
    connection.reset()
    assert not connection.mid_message
    connection.receive_data(b"\r\n" + G)
    assert connection.next_event() == get()


# Expect: 100-continue


def expecting(length: int) -> bytes:
    return post(b"Expect: 100-continue", b"Content-Length: %d" % length)


def test_expect_continue_comes_once_before_the_body() -> None:
    connection = server(expecting(5))
    assert connection.next_event() == ExpectContinue()
    assert connection.next_event() is None
    connection.receive_data(b"he")
    assert connection.next_event() is None
    connection.receive_data(b"llo")
    request = connection.next_event()
    assert isinstance(request, Request)
    assert request.body == b"hello"


@pytest.mark.parametrize(
    ("data", "first"), [(expecting(5) + b"h", type(None)), (expecting(0), Request), (expecting(51), Refused)]
)
def test_no_continue_where_none_is_due(data: bytes, first: type) -> None:
    connection = server(data)
    assert type(connection.next_event()) is first
    assert connection.next_event() is None


def test_client_skips_continue() -> None:
    connection = ClientConnection()
    connection.receive_data(CONTINUE + reply(b"HTTP/1.1 200 OK", b"Content-Length: 0"))
    response = connection.next_event()
    assert isinstance(response, Response)
    assert response.status == 200
