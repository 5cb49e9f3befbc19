"""What a servicer method knows of the call that it serves.

Nothing of HTTP, JSON or the device is seen here.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from typing import Any, Callable, Iterable, NoReturn, Optional, Protocol, TypeVar

from vsrpc.deadline import NO_DEADLINE, Deadline
from vsrpc.errors import RpcError
from vsrpc.metadata import Metadata, to_headers
from vsrpc.method import ServiceDescriptor
from vsrpc.status import Code
from vsrpc.wire import Buffer

_log = logging.getLogger(__name__)


F = TypeVar("F", bound=Callable[..., Any])


Listen = Callable[[Callable[[], None]], Optional[Callable[[], None]]]
"""Registers a function that is called upon the next change, from any thread, and is then forgotten; returns what takes
it back. Where there was a change already: None, and nothing is registered."""


class NotNow(Exception):
    """Raised by a servicer's method where it would have to wait, and may not: it has done nothing, and is called again.

    That is in a thread that may wait; or, where it says what it waits for, once that has changed since it looked
    (`listen`), and at the latest then (`until`).
    """

    def __init__(self, listen: Listen | None = None, until: Deadline = NO_DEADLINE) -> None:
        super().__init__()
        self.listen = listen
        self.until = until


def at_once(function: F) -> F:
    """Decorates a servicer's method that waits for nothing and is done in a moment: it may run in the thread that reads
    the requests, which saves two changes of threads. Where it cannot be so each time, it asks `context.may_wait`."""
    function.__dict__["at_once"] = True
    return function


class ServiceRegistry(Protocol):
    """What generated `add_XServicer_to_server` functions need of a server."""

    def add_service(self, service: ServiceDescriptor, servicer: object) -> None:
        """Serve each of the service's methods by the servicer's method of the same name."""


class ServicerContext:
    """One call, seen from its servicer. Methods are gRPC's where gRPC has them."""

    def __init__(self, path: str, request_id: str, deadline: Deadline, metadata: Metadata = (), peer: str = "") -> None:
        self.path = path
        """The rpc path, for example "/vsrpc.v1.System/Info", also of a call that came by a REST route."""
        self.request_id = request_id
        """The caller's X-Request-ID, or one that the server made."""
        self.deadline = deadline
        """Until when the call may take."""
        self.key = ""
        """The name of the key that the request was signed with; "" where requests need not be signed."""
        self.began = time.monotonic()
        """When it came, by the monotonic clock."""
        self._own_deadline = True
        self._metadata = metadata
        self._peer = peer
        self._initial: Metadata = ()
        self._trailing: Metadata = ()
        self.content: Buffer = b""
        """The request's large field, for methods that take it beside the message (vsrpc.bulk)."""
        self.reply_content: Buffer = b""
        """What `send_content` gave."""
        self.on_sent: Callable[[], None] | None = None
        """... and its `release`."""
        self.notes: dict[str, Any] = {}
        """What the servicer says of the call for logs, such as the rule that allowed it."""
        self.may_wait = True
        """Whether the method may wait, or else must raise NotNow (set by the server)."""
        self.kept: Any = None
        """What the method keeps for when it is called again, after NotNow."""
        self.standing_in: Callable[[], contextlib.AbstractContextManager[None]] | None = None
        """What `waiting` gives (set by the server)."""
        self.on_begin: Callable[[], None] | None = None
        """What `begins` calls."""
        self._lock = threading.Lock()
        self._cancelled = False
        self._callbacks: list[Callable[[], None]] = []

    def invocation_metadata(self) -> Metadata:
        """Metadata that the caller sent."""
        return self._metadata

    def peer(self) -> str:
        """Who calls, for logs: the transport's name for the other end."""
        return self._peer

    def time_remaining(self) -> float | None:
        """Seconds until the deadline."""
        return self.deadline.remaining()

    def set_deadline(self, asked: float | None, default: float | None) -> None:
        """The seconds that the caller gives the call, or else the server's default (called by the dispatcher)."""
        self._own_deadline = asked is not None
        self.deadline = Deadline(default if asked is None else asked)

    def extend_deadline(self, seconds: float) -> None:
        """Give the call so many seconds from now if that is more than it has, for methods whose request says how long
        they may take.

        Without effect where the caller set a deadline itself: it will not wait longer.
        """
        remaining = self.deadline.remaining()
        if not self._own_deadline and remaining is not None and remaining < seconds:
            self.deadline = Deadline(seconds)

    def set_initial_metadata(self, metadata: Iterable[tuple[str, str | bytes]]) -> None:
        """Metadata for the head of the reply; replaces what was set before. Raises ValueError, TypeError."""
        self._initial = _checked(metadata)

    def set_trailing_metadata(self, metadata: Iterable[tuple[str, str | bytes]]) -> None:
        """Metadata for the status of the reply; replaces what was set before. Raises ValueError, TypeError."""
        self._trailing = _checked(metadata)

    def initial_metadata(self) -> Metadata:
        """What `set_initial_metadata` set."""
        return self._initial

    def trailing_metadata(self) -> Metadata:
        """What `set_trailing_metadata` set."""
        return self._trailing

    def send_content(self, content: Buffer, release: Callable[[], None] | None = None) -> None:
        """The response's large field, from methods that give it beside the message (vsrpc.bulk). It must not change
        until `release` is called, from any thread, which it never is where the response does not go out."""
        self.reply_content, self.on_sent = content, release

    def abort(self, code: Code, details: str) -> NoReturn:
        """End the call with a status; raises the RpcError that does so."""
        raise RpcError(code, details, trailing_metadata=self._trailing)

    def begins(self) -> None:
        """Say that the call is found good and takes effect now: logs then have it even if it is the last one (for
        methods that may end the daemon or the guest)."""
        if self.on_begin is not None:
            self.on_begin()

    def is_active(self) -> bool:
        """Whether somebody still waits: false once the caller cancelled, left, or the deadline passed."""
        return not self._cancelled and not self.deadline.expired

    def waiting(self) -> contextlib.AbstractContextManager[None]:
        """For a servicer, around what waits for something outside, `with context.waiting():`. Other calls run
        meanwhile, so that many calls may wait."""
        return self.standing_in() if self.standing_in else contextlib.nullcontext()

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Call this when the caller cancels or leaves, or the deadline passes: from any thread, and what it raises is
        only logged. False, and not called, if that was already."""
        with self._lock:
            if self._cancelled:
                return False
            self._callbacks.append(callback)
            return True

    def cancel(self) -> None:
        """Tell the servicer that nobody waits any more (called by the server; does nothing the second time)."""
        with self._lock:
            if self._cancelled:
                return
            self._cancelled = True
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            try:
                callback()
            except Exception:
                _log.exception("%s [%s]: a callback failed", self.path, self.request_id)


def _checked(metadata: Iterable[tuple[str, str | bytes]]) -> Metadata:
    pairs = tuple(metadata)
    to_headers(pairs)  # refuses here, where the servicer's own line is at fault, what could not be sent later
    return pairs
