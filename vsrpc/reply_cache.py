"""At most once: what became of the calls that carry an idempotency key, so that a repeated one does not run again.

A key names one intended effect. The first call with it runs; those that repeat it get the first one's reply, wait for
it where it still runs, or learn that the reply was not kept. The memory is the daemon's, not a session's: a caller
whose link was lost asks again in the next session. It is bounded in bytes, calls and age, and it knows how far back it
reaches: a repeated call that may be older than that is refused, never run.
"""

from __future__ import annotations

import threading
import time
import zlib
from collections import OrderedDict
from typing import TYPE_CHECKING, Callable, Sequence, Tuple

from vsrpc.errors import RpcError, outcome_unknown
from vsrpc.incoming import IncomingCall
from vsrpc.status import Code
from vsrpc.wire import Headers, Response

if TYPE_CHECKING:
    from vsrpc.server_session import ServerSession

MAX_BYTES = 4 << 20
"""Bytes of replies that are kept. One that alone is larger than half of it is not."""

MAX_CALLS = 4096
"""Calls that are remembered, with their replies or without."""

MAX_AGE = 600.0
"""Seconds for which a call is remembered after it has ended."""

ORPHAN_TIME = 60.0
"""Seconds for which a call runs on whose caller has gone, for the caller to come back and ask for it."""


# A call that is repeated may be longer on its way than it was at first, and then looks younger than it is. For that,
# so much of the time for which it was remembered is taken off.
_MARGIN = 0.1

_Fingerprint = Tuple[str, int, int]
"""Whose request it is (a reply goes to nobody else), and what tells it from others: a checksum, and its size."""

Waiter = Tuple["ServerSession", IncomingCall]
"""Where a reply is to go, and to which call it is then the reply."""


class KeptReply:
    """A response in half of the memory: there are thousands."""

    __slots__ = ("_body", "_head", "_tail")

    def __init__(self, response: Response) -> None:
        lines = [f"{response.status} {response.reason}", *(f"{name}:{value}" for name, value in response.headers)]
        self._head = "\n".join(lines).encode("latin-1")
        self._body, self._tail = response.body, response.tail

    @property
    def size(self) -> int:
        """Bytes of content."""
        return len(self._body)

    def response(self) -> Response:
        """The response."""
        first, *lines = self._head.decode("latin-1").split("\n")
        status, _, reason = first.partition(" ")
        pairs = (line.partition(":") for line in lines)
        headers = Headers.parsed((name, value) for name, _, value in pairs)
        return Response(int(status), headers, self._body, reason, self._tail)


class _Entry:
    __slots__ = ("ended", "fingerprint", "reply", "running", "seen", "timer", "waiters")

    def __init__(self, call: IncomingCall, waiter: Waiter, fingerprint: _Fingerprint, now: float):
        self.running: IncomingCall | None = call  # until it has ended: what it holds is not kept
        self.waiters: tuple[Waiter, ...] = (waiter,)
        self.fingerprint = fingerprint
        self.seen = now
        self.ended = 0.0
        self.reply: KeptReply | None = None
        self.timer: threading.Timer | None = None


class ReplyCache:
    """Calls by their keys. Thread-safe."""

    def __init__(
        self,
        *,
        max_bytes: int = MAX_BYTES,
        max_calls: int = MAX_CALLS,
        max_age: float = MAX_AGE,
        orphan_time: float = ORPHAN_TIME,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_bytes = max_bytes
        self._max_calls = max_calls
        self._max_age = max_age
        self._orphan_time = orphan_time
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._bytes = 0
        self._reaches_back_to = -float("inf")  # calls first seen until then may be forgotten

    def claim(self, call: IncomingCall, session: ServerSession) -> Response | bool:
        """A call with a key has come: True when it is to run, its reply where that is known, else False: the reply will
        go to it once it is there.

        Raises RpcError: OUTCOME_UNKNOWN, INVALID_PARAMS for a key of another request.
        """
        key, age = call.idempotency_key, call.retry_age
        fingerprint = _fingerprint(call)
        now = self._clock()
        with self._lock:
            self._forget_old(now)
            entry = self._entries.get(key)
            if entry is None:
                if age is not None and now - age <= self._reaches_back_to:
                    raise outcome_unknown(f"{call.path}: whether the call ran is no longer known here")
                self._entries[key] = _Entry(call, (session, call), fingerprint, now)
                return True
            if entry.fingerprint != fingerprint:
                raise RpcError(
                    Code.INVALID_ARGUMENT,
                    f"idempotency key {key!r} belongs to another request; use a new key for each call",
                    reason="INVALID_PARAMS",
                )
            if entry.running is not None:
                call.context = entry.running.context  # its deadline and its end are now those of the one that runs
                entry.waiters += ((session, call),)
                self._stop_timer(entry)
                return False
            if entry.reply is None:
                raise outcome_unknown(f"{call.path}: the call ran to its end, but its reply was not kept")
            return entry.reply.response()

    def ended(self, call: IncomingCall, response: Response) -> Sequence[Waiter]:
        """A call has run: who waits for its reply."""
        size = len(response.body)
        with self._lock:
            entry = self._entries[call.idempotency_key]
            entry.ended, entry.running = self._clock(), None
            self._stop_timer(entry)
            waiters, entry.waiters = entry.waiters, ()
            self._entries.move_to_end(call.idempotency_key)  # in the order in which they ended
            if size <= self._max_bytes // 2:
                entry.reply = KeptReply(response)
                self._bytes += size
                self._shrink()
            return waiters

    def begins(self, call: IncomingCall) -> bool:
        """Whether a call is to run now; if not, because it was given up meanwhile, forget() it."""
        with self._lock:
            entry = self._entries[call.idempotency_key]
            if not entry.waiters:
                self._remove(entry, call)
            return bool(entry.waiters) and call.context.is_active()

    def forget(self, call: IncomingCall) -> Sequence[Waiter]:
        """A call that claimed to run will not: who waits for its reply."""
        with self._lock:
            entry = self._entries.get(call.idempotency_key)
            if entry is None or entry.running is not call:
                return ()
            self._remove(entry, call)
            return entry.waiters

    def leave(self, call: IncomingCall) -> None:
        """The caller has gone; it may come back for the reply."""
        with self._lock:
            entry = self._entries.get(call.idempotency_key)
            if entry is None or entry.running is None or not entry.waiters:
                return
            entry.waiters = tuple(waiter for waiter in entry.waiters if waiter[1] is not call)
            if entry.waiters:
                return
            context = entry.running.context
            left = context.deadline.remaining()
            seconds = self._orphan_time if left is None else min(left, self._orphan_time)
            entry.timer = threading.Timer(seconds, context.cancel)
            entry.timer.daemon = True
            entry.timer.start()

    def close(self) -> None:
        """Cancel the calls whose callers have gone."""
        with self._lock:
            orphans = []
            for entry in self._entries.values():
                if entry.running is not None and not entry.waiters:
                    self._stop_timer(entry)
                    orphans.append(entry.running.context)
        for context in orphans:
            context.cancel()

    def _remove(self, entry: _Entry, call: IncomingCall) -> None:
        self._stop_timer(entry)
        del self._entries[call.idempotency_key]

    def _stop_timer(self, entry: _Entry) -> None:
        if entry.timer is not None:
            entry.timer.cancel()
            entry.timer = None

    def _shrink(self) -> None:
        """Drop the oldest replies beyond the bound."""
        for entry in self._entries.values():
            if self._bytes <= self._max_bytes:
                return
            if entry.reply is not None:
                self._bytes -= entry.reply.size
                entry.reply = None

    def _forget_old(self, now: float) -> None:
        """Forget the calls that ended long ago, and the oldest of too many."""
        surplus = len(self._entries) - self._max_calls
        old: list[tuple[str, _Entry]] = []
        for key, entry in self._entries.items():
            if entry.running is None:  # among themselves, those stand in the order in which they ended
                if len(old) >= surplus and now - entry.ended <= self._max_age:
                    break
                old.append((key, entry))
        for key, entry in old:
            self._reaches_back_to = max(self._reaches_back_to, entry.seen + _MARGIN * (now - entry.seen))
            if entry.reply is not None:
                self._bytes -= entry.reply.size
            del self._entries[key]


def _fingerprint(call: IncomingCall) -> _Fingerprint:
    request = call.request
    head = f"{request.method} {request.target} {request.headers.get('content-type', '')}".encode()
    return call.context.key, zlib.crc32(request.body, zlib.crc32(head)), len(request.body)
