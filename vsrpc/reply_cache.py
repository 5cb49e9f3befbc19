"""At most once: what became of the calls that carry an idempotency key, so that a repeated one does not run again.

A key names one intended effect. The first call with it runs; one that repeats it gets the first one's reply, waits for
it where it still runs, or learns that the reply was not kept. The memory is the daemon's, not a session's: a caller
whose link was lost asks again in the next session. It is bounded in bytes, calls and age, and it knows how far back it
reaches: a repeated call that may be older than that is refused, never run.
"""

from __future__ import annotations

import threading
import time
import zlib
from collections import OrderedDict
from typing import TYPE_CHECKING, Callable

from vsrpc.errors import RpcError, outcome_unknown
from vsrpc.incoming import IncomingCall
from vsrpc.status import Code
from vsrpc.wire import Request, Response

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


class _Entry:
    def __init__(self, call: IncomingCall, waiter: tuple[ServerSession, IncomingCall], fingerprint: int, now: float):
        self.call = call  # the one that runs
        self.waiter: tuple[ServerSession, IncomingCall] | None = waiter
        self.fingerprint = fingerprint
        self.seen = now
        self.ended: float | None = None
        self.response: Response | None = None
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
        fingerprint = _fingerprint(call.request)
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
            if entry.ended is None:
                call.context = entry.call.context  # its deadline and its end are now those of the one that runs
                entry.waiter = (session, call)
                self._stop_timer(entry)
                return False
            if entry.response is None:
                raise outcome_unknown(f"{call.path}: the call ran to its end, but its reply was not kept")
            return entry.response

    def ended(self, call: IncomingCall, response: Response) -> tuple[ServerSession, IncomingCall] | None:
        """A call has run: who waits for its reply."""
        size = len(response.body)
        with self._lock:
            entry = self._entries[call.idempotency_key]
            entry.ended = self._clock()
            self._stop_timer(entry)
            waiter, entry.waiter = entry.waiter, None
            self._entries.move_to_end(call.idempotency_key)  # in the order in which they ended
            if size <= self._max_bytes // 2:
                entry.response = response
                self._bytes += size
                self._shrink()
            return waiter

    def forget(self, call: IncomingCall) -> None:
        """A call that claimed to run did not."""
        with self._lock:
            self._entries.pop(call.idempotency_key, None)

    def awaited(self, call: IncomingCall) -> bool:
        """Whether somebody waits for the reply of a call that is about to run; if not, it is forgotten."""
        with self._lock:
            entry = self._entries[call.idempotency_key]
            if entry.waiter is not None and call.context.is_active():
                return True
            self._stop_timer(entry)
            del self._entries[call.idempotency_key]
            return False

    def leave(self, call: IncomingCall) -> None:
        """The caller has gone; it may come back for the reply."""
        with self._lock:
            entry = self._entries.get(call.idempotency_key)
            if entry is None or entry.waiter is None or entry.waiter[1] is not call or entry.ended is not None:
                return
            entry.waiter = None
            entry.timer = threading.Timer(self._orphan_time, entry.call.context.cancel)
            entry.timer.daemon = True
            entry.timer.start()

    def close(self) -> None:
        """Cancel the calls whose callers have gone."""
        with self._lock:
            orphans = [entry for entry in self._entries.values() if entry.ended is None and entry.waiter is None]
            for entry in orphans:
                self._stop_timer(entry)
        for entry in orphans:
            entry.call.context.cancel()

    def _stop_timer(self, entry: _Entry) -> None:
        if entry.timer is not None:
            entry.timer.cancel()
            entry.timer = None

    def _shrink(self) -> None:
        """Drop the oldest replies beyond the bound."""
        for entry in self._entries.values():
            if self._bytes <= self._max_bytes:
                return
            if entry.response is not None:
                self._bytes -= len(entry.response.body)
                entry.response = None

    def _forget_old(self, now: float) -> None:
        """Forget the calls that ended long ago, and the oldest of too many."""
        surplus = len(self._entries) - self._max_calls
        old: list[tuple[str, _Entry]] = []
        for key, entry in self._entries.items():
            if entry.ended is not None:  # among themselves, those stand in the order in which they ended
                if len(old) >= surplus and now - entry.ended <= self._max_age:
                    break
                old.append((key, entry))
        for key, entry in old:
            self._reaches_back_to = max(self._reaches_back_to, entry.seen)
            if entry.response is not None:
                self._bytes -= len(entry.response.body)
            del self._entries[key]


def _fingerprint(request: Request) -> int:
    head = f"{request.method} {request.target} {request.headers.get('content-type', '')}".encode()
    return zlib.crc32(request.body, zlib.crc32(head)) << 32 | len(request.body)
