"""ServiceManager.Journal's requests and entries, between the schema and guest.machine.journal."""

from __future__ import annotations

import time

from guest.errors import error
from guest.machine.journal import CURSOR, LONGEST_MESSAGE, Entry, Query
from guest.os_errors import printable
from vsrpc.v1 import service_pb2 as pb

DEFAULT_REPLY = 10 * 1024 * 1024
"""Bytes of a reply where nobody says what is the most."""

_ROOM, _MAX_ROOM = 256 * 1024, 1024 * 1024  # bytes of messages in a reply

# What a byte of a message may become in JSON: an escape, and the base64 beside it. Twice that, as one entry is given
# whether there is room for it or not.
_GROWTH = 16

_MAX_WAIT = 3600.0
_MAX_TIME = 4_102_444_800 * 10**6  # the year 2100


def query_of(request: pb.JournalRequest) -> Query:
    """What is asked for, but for the unit. Raises RpcError INVALID_PARAMS."""
    lines = request.lines if request.HasField("lines") else None
    priority = request.priority if request.HasField("priority") else None
    _check("lines", lines, 0, 2**31)
    _check("priority", priority, 0, 7)
    if request.after_cursor and not CURSOR.match(request.after_cursor):
        shown = printable(request.after_cursor[:64])
        message = f"after_cursor: {shown!r} is not a place in the journal: give what a reply told"
        raise error("INVALID_PARAMS", message, field="after_cursor")
    since, until = _time("since_us", request.since_us), _time("until_us", request.until_us)
    return Query(lines=lines, since=since, until=until, priority=priority, cursor=request.after_cursor)


def room_of(request: pb.JournalRequest, max_reply: int) -> int:
    """Bytes of messages that may be in the reply. Raises RpcError INVALID_PARAMS."""
    _check("max_bytes", request.max_bytes, 0, _MAX_ROOM)
    return min(request.max_bytes or _ROOM, max_reply // _GROWTH)


def longest_of(max_reply: int) -> int:
    """Bytes of one message that may be in a reply."""
    return min(LONGEST_MESSAGE, max_reply // _GROWTH)


def wait_of(request: pb.JournalRequest) -> float:
    """Seconds to wait. Raises RpcError INVALID_PARAMS."""
    if not 0 <= request.wait <= _MAX_WAIT:  # NaN is refused too
        message = f"wait: {request.wait:g} is not between 0 and {_MAX_WAIT:g} s"
        raise error("INVALID_PARAMS", message, field="wait")
    return request.wait


def entry(found: Entry) -> pb.JournalEntry:
    """An entry as the schema has it."""
    return pb.JournalEntry(
        cursor=found.cursor,
        time_us=found.time_us,
        unit=found.unit,
        identifier=found.identifier,
        pid=found.pid,
        priority=found.priority,
        message=found.message,
        message_size=found.size,
    )


def _time(field: str, microseconds: int) -> int:
    _check(field, abs(microseconds), 0, _MAX_TIME)
    return time.time_ns() // 1000 + microseconds if microseconds < 0 else microseconds


def _check(field: str, value: int | None, least: int, most: int) -> None:
    if value is not None and not least <= value <= most:
        raise error("INVALID_PARAMS", f"{field}: {value} is not between {least} and {most}", field=field)
