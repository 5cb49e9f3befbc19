"""Every case of the tables, in every way that its bytes may arrive."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_driver import G, cut, drive, get, reply, single_bytes
from wire_invalid import INVALID, INVALID_RESPONSES, Invalid
from wire_valid import VALID, VALID_RESPONSES, Valid

from vsrpc.wire import Event, Headers, Response, ServerConnection

valid = pytest.mark.parametrize("case", VALID + VALID_RESPONSES, ids=lambda c: f"{c.role.__name__}-{c.name}")
invalid = pytest.mark.parametrize("case", INVALID + INVALID_RESPONSES, ids=lambda c: f"{c.role.__name__}-{c.name}")

points = st.lists(st.integers(0, 10000), max_size=12)

# Each case is split anew in every run; few examples a case are many over the table.
few = settings(max_examples=20)


def neighbour(case: Valid | Invalid) -> tuple[bytes, list[Event]]:
    """A valid message that may stand beside the case's, and its event."""
    if case.role is ServerConnection:
        return G, [get()]
    empty = Headers([("content-length", "0")])
    return reply(b"HTTP/1.1 404 x", b"Content-Length: 0"), [Response(404, empty, b"", "x")]


@valid
def test_valid_whole(case: Valid) -> None:
    assert drive(case.role, [case.data]) == (list(case.events), None)


@valid
def test_valid_byte_by_byte_with_trailing_data(case: Valid) -> None:
    data, events = neighbour(case)
    assert drive(case.role, single_bytes(case.data + data)) == ([*case.events, *events], None)


@valid
@few
@given(points=points)
def test_valid_in_pieces_with_trailing_data(case: Valid, points: list[int]) -> None:
    data, events = neighbour(case)
    assert drive(case.role, cut(case.data + data, points)) == ([*case.events, *events], None)


@invalid
def test_invalid_whole(case: Invalid) -> None:
    events, error = drive(case.role, [case.data])
    assert events == []
    assert error is not None, "was accepted"
    status, message = error
    assert (status, case.fragment in message) == (case.status, True), message


@invalid
def test_invalid_byte_by_byte(case: Invalid) -> None:
    assert drive(case.role, single_bytes(case.data)) == drive(case.role, [case.data])


@invalid
@few
@given(points=points)
def test_invalid_in_pieces_with_trailing_data(case: Invalid, points: list[int]) -> None:
    data, events = neighbour(case)
    _, error = drive(case.role, [case.data])
    assert drive(case.role, cut(data + case.data + data, points)) == (events, error)
