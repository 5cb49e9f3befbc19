"""The server's judge of signed requests: whose they are, whether they are meant for now, and for the first time.

Two steps, so that what is wrong at a glance costs nothing: `read` judges by the head, `verify` hashes the body.

Time is a clock of the server's own, the wall clock of its start and counted on from there: setting the wall clock moves
nothing. Clients need none of their own, since a challenge tells it. Nonces of accepted requests are remembered; where
there are too many, or they are too old to matter, they are forgotten, and what is as old as they were is refused. What
was signed for an earlier lifetime of the server names another instance.
"""

from __future__ import annotations

import heapq
import hmac
import logging
import threading
import time
from typing import Callable, Mapping

from vsrpc.auth import AUTHORIZATION, SCHEME, SIGNED_FIELDS, Challenge, Credentials, Key, signed_text
from vsrpc.errors import RpcError
from vsrpc.status import Code
from vsrpc.wire import Request

_log = logging.getLogger(__name__)

MAX_NONCES = 16384
"""Accepted requests that are remembered: 4 MiB at most. More in the replay window only narrow it."""

# Refusals are logged at most once in so many seconds, with the number of those that were not.
_LOG_EVERY = 1.0


class NotAuthentic(RpcError):
    """A request that is not shown to come from a holder of a key. `stale`: it may do so once it is signed anew, for
    this instance and time."""

    def __init__(self, message: str, *, stale: bool = False) -> None:
        super().__init__(Code.UNAUTHENTICATED, message, reason="UNAUTHENTICATED")
        self.stale = stale


class Authenticator:
    """Judges requests to one server. Thread-safe."""

    def __init__(
        self,
        keys: Callable[[], Mapping[str, Key]],
        window: float = 300.0,
        *,
        max_nonces: int = MAX_NONCES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`keys` gives those that are valid now, by name, or raises RpcError. `window`, in seconds: how far from the
        server's clock the time of a signature may be."""
        self._keys = keys
        self._window = int(window * 1000)
        self._clock = clock
        self._origin = int(time.time() * 1000) - int(clock() * 1000)
        self._nonces = _Nonces(max_nonces)
        self._log = _RareLog(clock)

    def challenge(self, instance: str, *, stale: bool = False) -> Challenge:
        """What to sign for now."""
        return Challenge(instance, self._now(), stale)

    def read(self, request: Request, instance: str) -> Credentials:
        """What a request's head says of who sent it. Raises NotAuthentic, and what the keys raise."""
        try:
            return self._read(request, instance)
        except RpcError as error:
            self._log.refused(request, error)
            raise

    def verify(self, request: Request, credentials: Credentials) -> None:
        """See that the request was signed with the key that it names, and comes for the first time. Raises
        NotAuthentic, and what the keys raise."""
        try:
            self._verify(request, credentials)
        except RpcError as error:
            self._log.refused(request, error)
            raise

    def _now(self) -> int:
        return self._origin + int(self._clock() * 1000)

    def _read(self, request: Request, instance: str) -> Credentials:
        values = request.headers.get_all(AUTHORIZATION)
        if not values:
            raise NotAuthentic(
                "the request is not signed, and this guest takes only requests that are signed with its key"
            )
        credentials = Credentials.parse(values[0])
        if credentials is None or len(values) > 1:
            raise NotAuthentic(
                f"Authorization is not one '{SCHEME} key=NAME, instance=HEX, time=MILLISECONDS, nonce=HEX, "
                "signature=HEX': see Authentication in PROTOCOL.md"
            )
        for name in SIGNED_FIELDS:
            if len(request.headers.get_all(name)) > 1:
                raise NotAuthentic(
                    f"the header field {name} comes twice: send it once, so that it is clear what is signed"
                )
        self._key(credentials.key)
        if credentials.instance != instance:
            raise NotAuthentic(
                "the request is signed for another guest, or for this one before its restart", stale=True
            )
        ahead = credentials.time - self._now()
        if abs(ahead) > self._window:
            raise NotAuthentic(
                f"the time of the signature is {abs(ahead) / 1000:.1f} s {'ahead of' if ahead > 0 else 'behind'} the "
                f"guest's, {self._window / 1000:g} s are allowed: sign with the time that WWW-Authenticate tells",
                stale=True,
            )
        return credentials

    def _verify(self, request: Request, credentials: Credentials) -> None:
        key = self._key(credentials.key)
        if not hmac.compare_digest(key.sign(signed_text(request, credentials)), credentials.signature):
            raise NotAuthentic(
                f"the signature is not one with key {key.name} over this request: the secrets of the two ends differ, "
                "or something else was signed than was sent"
            )
        self._nonces.add(credentials, self._now() - self._window)

    def _key(self, name: str) -> Key:
        key = self._keys().get(name)
        if key is None:
            raise NotAuthentic(
                f"this guest knows no key {name}: add it to its key file, or sign with one that is there"
            )
        return key


class _Nonces:
    """What was accepted, back to a time up to which everything else is refused."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._seen: set[tuple[int, str, str]] = set()
        self._by_time: list[tuple[int, str, str]] = []
        self._floor = -1

    def add(self, credentials: Credentials, horizon: int) -> None:
        """Remember one. Raises NotAuthentic for one that was there before, or may have been. What is older than
        `horizon` need not be kept."""
        entry = (credentials.time, credentials.key, credentials.nonce)
        with self._lock:
            if entry in self._seen:
                raise NotAuthentic("the request was accepted before: sign each with a nonce of its own")
            if credentials.time <= self._floor:
                raise NotAuthentic(
                    "so many requests came since this one was signed that it may have come before", stale=True
                )
            self._seen.add(entry)
            heapq.heappush(self._by_time, entry)
            while len(self._by_time) > self._limit or self._by_time[0][0] < horizon:
                oldest = heapq.heappop(self._by_time)
                self._seen.discard(oldest)
                self._floor = max(self._floor, oldest[0])
                if not self._by_time:
                    break


class _RareLog:
    """Tells of refused requests, but not of each where somebody sends many."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._next = clock()
        self._untold = 0

    def refused(self, request: Request, error: RpcError) -> None:
        """Log a refusal, or count it."""
        with self._lock:
            now = self._clock()
            if now < self._next:
                self._untold += 1
                return
            self._next, untold, self._untold = now + _LOG_EVERY, self._untold, 0
        others = f" ({untold} more before it)" if untold else ""
        _log.warning("%s %s refused: %s%s", request.method, request.target, error.details(), others)
