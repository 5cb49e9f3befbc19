"""However the same bytes are cut, a connection yields the same events, each within its limits, and then waits or raises
one RemoteProtocolError for good, never anything else; every message, written and read again, comes back equal; and no
other strict parser sees other messages, or other bounds of them, in the bytes.

``check(case)`` raises for a case that breaks this. It knows a connection by its public verbs only. An event of a type
that it does not know is opaque, as Sync is: it is compared by equality, may follow an error (parsing goes on from a
known boundary), and what it was read from is not shown to the other parsers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import cycle
from typing import Iterable, List, NamedTuple, Tuple, Union

import wire_oracles
from wire_driver import LIMITS, Role

from vsrpc.wire import (
    MAGIC,
    NONCE_SIZE,
    REASONS,
    Acks,
    ClientConnection,
    ExpectContinue,
    Headers,
    Limits,
    Refused,
    RemoteProtocolError,
    Request,
    Response,
    ServerConnection,
    response_sync,
)

MESSAGES = (Request, Refused, Response)
ROLES: tuple[Role, ...] = (ServerConnection, ClientConnection)
# Small ones, so that short inputs reach them, and those that are in use.
LIMIT_SETS = (LIMITS, Limits())
# Wider than those above: a message gains a field when it is written again.
WIDE = Limits(max_line=10000, max_head=100000, max_headers=200)
# The nonce of a client that asked for a sync.
NONCE = bytes(range(NONCE_SIZE))
# Fields that no caller sends: what goes with a body between peers that synchronised, and a part of a server's sync.
RESERVED = ("vsrpc-mask", "vsrpc-crc32", "vsrpc-session", "vsrpc-sync")
# The largest buffer that a connection lends when it receives no body.
SCRATCH = 65536


@dataclass(frozen=True)
class Case:
    """One fuzz input: who reads ``data``, within which limits, and in pieces of which sizes, over and over.

    ``synced``: a client has asked for a sync with ``NONCE`` before.
    As bytes: one of flags, one for each size less 1, then the data.
    """

    role: Role
    data: bytes
    limits: Limits = LIMITS
    sizes: tuple[int, int, int] = (1, 2, 3)
    synced: bool = False

    @classmethod
    def from_bytes(cls, raw: bytes) -> Case:
        flags, a, b, c = raw[:4].ljust(4, b"\0")
        return cls(ROLES[flags & 1], raw[4:], LIMIT_SETS[flags >> 1 & 1], (a + 1, b + 1, c + 1), bool(flags & 4))

    def __bytes__(self) -> bytes:
        flags = ROLES.index(self.role) | LIMIT_SETS.index(self.limits) << 1 | self.synced << 2
        return bytes([flags, *(size - 1 for size in self.sizes)]) + self.data


class Failure(NamedTuple):
    status: int
    text: str


Item = Union[object, Failure]
# What was read, in order, and whether more was due.
Outcome = Tuple[List[Item], bool]


class Span(NamedTuple):
    """The bytes between two boundaries, and the events that they brought."""

    data: bytes
    items: list[Item]


class Owner:
    """Receives into a connection's buffers and takes its events, and holds it to the contract meanwhile."""

    def __init__(self, connection: ServerConnection | ClientConnection, limits: Limits) -> None:
        self.connection = connection
        self.limits = limits
        self.items: list[Item] = []
        self.failure: Failure | None = None
        self._received = 0
        self._told_to_continue = False

    @classmethod
    def of(cls, case: Case) -> Owner:
        connection = case.role(case.limits)
        if case.synced and isinstance(connection, ClientConnection):
            connection.sync(NONCE)
        return cls(connection, case.limits)

    @property
    def outcome(self) -> Outcome:
        mid_message = self.connection.mid_message
        return _comparable(self.items, mid_message), mid_message

    def receive(self, data: bytes, sizes: Iterable[int], take_at_once: bool = True) -> None:
        """Receive the data in pieces of at most these sizes; take events after each, or only at the end."""
        view = memoryview(data)
        endless = cycle(sizes)
        while view:
            buffer = self.connection.get_buffer()
            assert 1 <= len(buffer) <= max(SCRATCH, self.limits.max_body), f"a buffer of {len(buffer)} bytes is lent"
            taken = min(len(view), len(buffer), next(endless))
            buffer[:taken] = view[:taken]
            self.connection.buffer_updated(taken)
            self._received += taken
            view = view[taken:]
            if take_at_once:
                self.take()
        if not take_at_once:
            self.take()

    def take(self) -> None:
        while True:
            try:
                event = self.connection.next_event()
            except RemoteProtocolError as error:
                self._failed(Failure(error.status, str(error)))
                return
            if event is None:
                # After an error it may wait for nothing but the rest of a sync.
                assert self.failure is None or self.connection.mid_message, f"waits for more after {self.failure}"
                return
            self._add(event)

    def _failed(self, failure: Failure) -> None:
        if self.failure is None:
            self.failure = failure
            self.items.append(failure)
        assert failure == self.failure, "another error follows an error"

    def _add(self, event: object) -> None:
        if isinstance(event, (ExpectContinue, *MESSAGES)):
            assert self.failure is None, f"{event} follows {self.failure}"
        else:
            self.failure = None
        if isinstance(event, ExpectContinue):
            # No item: whether it is due depends, rightly, on how much arrived at once.
            assert not self._told_to_continue, "a client is told twice to continue"
            self._told_to_continue = True
            return
        self._told_to_continue = False
        self.items.append(event)
        assert len(self.items) <= self._received, "more events than bytes"
        if isinstance(event, MESSAGES):
            _check_limits(event, self.limits)


def _comparable(items: list[Item], mid_message: bool) -> list[Item]:
    """The items without what depends, rightly, on how much arrived at once.

    That is how many acknowledgements one event reports, and whether an error is raised that a sync makes void.
    """
    kept: list[Item] = []
    for item in items:
        last = kept[-1] if kept else None
        if isinstance(last, Failure):
            kept.pop()  # a sync came after it
        elif isinstance(last, Acks) and isinstance(item, Acks):
            item = Acks(last.count + item.count)
            kept.pop()
        kept.append(item)
    if mid_message and kept and isinstance(kept[-1], Failure):
        kept.pop()  # a sync is under way
    return kept


def check(case: Case) -> None:
    """Raise unless the invariant holds for this case."""
    expected, spans, tail = _read_byte_by_byte(case)
    for sizes, at_once in (((len(case.data) or 1,), True), (case.sizes, True), (case.sizes, False)):
        owner = Owner.of(case)
        owner.receive(case.data, sizes, at_once)
        how = f"in pieces of {sizes}{'' if at_once else ', events taken at the end'}"
        assert owner.outcome == expected, f"{how}: {owner.outcome}\nbyte by byte: {expected}"
    _check_end(owner, case)
    _check_reset(owner, case, expected)
    for item in expected[0]:
        if isinstance(item, (Request, Response)):
            _check_round_trip(item)
            _check_sealed_round_trip(item)
    for span in spans:
        # What a client passes over until its sync comes brings no event.
        if all(isinstance(item, MESSAGES) for item in span.items) and (span.items or not case.synced):
            wire_oracles.check_message(case.role, span.data, span.items)
    void = case.synced or MAGIC in tail.data  # or it may be, before a sync that is under way
    if all(isinstance(item, MESSAGES) for item in tail.items) and not void:
        wire_oracles.check_unfinished(case.role, tail.data)


def _read_byte_by_byte(case: Case) -> tuple[Outcome, list[Span], Span]:
    """The outcome; the spans that end where no message is under way; and the span after them, open or failed."""
    owner = Owner.of(case)
    spans = []
    begin = seen = 0
    for end in range(1, len(case.data) + 1):
        owner.receive(case.data[end - 1 : end], (1,))
        if owner.failure is None and not owner.connection.mid_message:
            spans.append(Span(case.data[begin:end], owner.items[seen:]))
            begin, seen = end, len(owner.items)
    return owner.outcome, spans, Span(case.data[begin:], owner.items[seen:])


def _check_limits(message: Request | Refused | Response, limits: Limits) -> None:
    if isinstance(message, Response):
        line = f"HTTP/1.1 {message.status} {message.reason}"
    else:
        line = f"{message.method} {message.target} HTTP/1.1"
    # An absolute-form target may be one byte longer as it is told: "/" stands for no path.
    assert len(line) <= limits.max_line + 1, f"a first line of {len(line)} characters"
    assert len(message.headers) <= limits.max_headers, f"{len(message.headers)} fields"
    size = sum(len(name) + len(value) for name, value in message.headers)
    assert size <= limits.max_head, f"{size} characters in the fields"
    if not isinstance(message, Refused):
        assert len(message.body) <= limits.max_body, f"a body of {len(message.body)} bytes"


def _check_end(owner: Owner, case: Case) -> None:
    """The end of input is an error inside a message, and nothing anywhere else."""
    before, mid_message, failed = list(owner.items), owner.connection.mid_message, owner.failure
    owner.failure = None
    owner.connection.receive_eof()
    owner.take()
    added = owner.items[len(before) :]
    if failed is not None:
        assert len(added) == 1, f"the end of input brought {added} after {failed}"
    elif not mid_message:
        assert not added, f"the end of input between messages brought {added}"
    elif not case.synced:  # to a client that has not got its sync no error counts
        assert [type(item) for item in added] == [Failure], f"the end of input inside a message brought {added}"


def _check_reset(owner: Owner, case: Case, expected: Outcome) -> None:
    """After ``reset()`` a connection is as good as new, which never asked for a sync."""
    owner.connection.reset()
    assert not owner.connection.mid_message, "reset() left part of a message"
    again = Owner(owner.connection, case.limits)
    again.receive(case.data, case.sizes)
    if case.synced:
        fresh = Owner.of(replace(case, synced=False))
        fresh.receive(case.data, case.sizes)
        expected = fresh.outcome
    assert again.outcome == expected, f"after reset(): {again.outcome}\na new one: {expected}"


def _check_round_trip(message: Request | Response) -> None:
    """Written by a connection that knows of no sync it comes back equal, but for its framing and an empty reason."""
    if not _can_be_sent(message):
        return
    client, server = ClientConnection(WIDE), ServerConnection(WIDE)
    bare = _bare(message)
    written = client.send(bare) if isinstance(bare, Request) else server.send(bare)
    reader = Owner(server if isinstance(bare, Request) else client, WIDE)
    reader.receive(b"".join(written), (SCRATCH,))
    assert reader.outcome == ([_with_length(bare)], False), f"{message} comes back as {reader.outcome}"


def _check_sealed_round_trip(message: Request | Response) -> None:
    """Between peers that synchronised it comes back equal too, and nothing in it looks like a sync."""
    if not _can_be_sent(message):
        return
    client, server = ClientConnection(WIDE), ServerConnection(WIDE)
    at_server, at_client = Owner(server, WIDE), Owner(client, WIDE)
    at_server.receive(client.sync(NONCE), (SCRATCH,))
    at_client.receive(response_sync(NONCE), (SCRATCH,))
    bare = _bare(message)
    written = b"".join(client.send(bare) if isinstance(bare, Request) else server.send(bare))
    reader = at_server if isinstance(bare, Request) else at_client
    marker = MAGIC if reader is at_server else response_sync()[: -2 * NONCE_SIZE - 4]
    assert marker not in written, f"a sync in {written!r}"
    reader.receive(written, (SCRATCH,))
    items, mid_message = reader.outcome
    received = items[-1]
    assert not mid_message, f"{message}, sealed, is not read to its end"
    assert isinstance(received, (Request, Response)), f"{message}, sealed, comes back as {received}"
    assert _with_length(_bare(received)) == _with_length(bare), f"{message}, sealed, comes back as {received}"


def _can_be_sent(message: Request | Response) -> bool:
    """HEAD has no end that can be told, and a status over 599 is read as an unknown error: neither is ever sent."""
    return message.method != "HEAD" if isinstance(message, Request) else message.status <= 599


def _bare(message: Request | Response) -> Request | Response:
    """Without the fields that are not the caller's."""
    added = ("content-length", "transfer-encoding", *RESERVED)
    return message._replace(headers=Headers((name, value) for name, value in message.headers if name not in added))


def _with_length(message: Request | Response) -> Request | Response:
    """As its receiver sees a bare message."""
    has_length = isinstance(message, Request) or message.status not in (204, 304)
    framing = [("content-length", str(len(message.body)))] if has_length else []
    headers = Headers([*message.headers, *framing])
    if isinstance(message, Request):
        return message._replace(headers=headers)
    return message._replace(headers=headers, reason=message.reason or REASONS.get(message.status, ""))
