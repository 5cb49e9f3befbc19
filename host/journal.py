"""The guest's journal, seen from here: read part by part, and followed over links that break, by its cursor."""

from __future__ import annotations

import base64
import time
from typing import Any, Callable, Iterator, Mapping, Protocol

from host.backend import Reply
from host.errors import RPCError
from host.jobs import TRANSIENT

WAIT = 2.0
"""Seconds for which the guest waits for an entry before it says that there is none; others may then have the port."""

_ANSWER_TIME = 15.0  # seconds more until a reply is given up
_BREATH = 0.2  # seconds between attempts while nobody answers

Entry = Mapping[str, Any]
"""The fields of a JournalEntry; `message` is bytes."""


class Calls(Protocol):
    """What is needed of the client (host.calls.Calls)."""

    give_way: Callable[[], None]
    """Lets others have the port between two calls."""

    def reply(self, service: str, rpc: str, fields: Mapping[str, Any], timeout: float | None = None) -> Reply:
        """Call an rpc and wait."""


class RemoteJournal:
    """A guest's journal. `patience`: seconds without an answer after which a broken link is given up.

    `on_lost` hears, once for each time, why the link is broken; `sleep` is what waits meanwhile.
    """

    def __init__(
        self,
        calls: Calls,
        patience: float = 300.0,
        on_lost: Callable[[str], None] = lambda why: None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._calls = calls
        self._patience = patience
        self._on_lost = on_lost
        self._sleep = sleep

    def entries(
        self, fields: Mapping[str, Any], lines: int | None, follow: bool, timeout: float | None = None
    ) -> Iterator[Entry]:
        """What matches the fields of a JournalRequest, the last `lines` of it (None: all); with `follow` also what is
        logged from then on, for ever. Raises RPCError."""
        request = dict(fields)
        left = lines
        if left is not None:
            request["lines"] = left
        while True:
            data = self._reply(request, timeout, follow)
            for entry in data["entries"]:
                yield {**entry, "message": message_of(entry)}
            cursor = data["cursor"]
            if left is not None:
                left -= len(data["entries"])
            over = not data["more"] or (left is not None and left <= 0)
            if over and not follow:
                return
            if over:
                self._calls.give_way()
                left = None
                request.pop("lines", None)
                request["wait"] = WAIT
            elif left is not None:
                request["lines"] = left
            if cursor:
                request.pop("since_us", None)
                request["after_cursor"] = cursor

    def _reply(self, request: Mapping[str, Any], timeout: float | None, follow: bool) -> Mapping[str, Any]:
        begun: float | None = None
        while True:
            limit = request["wait"] + _ANSWER_TIME if "wait" in request else timeout
            try:
                return self._calls.reply("ServiceManager", "Journal", request, limit).data
            except RPCError as error:
                now = time.monotonic()
                if not follow or "wait" not in request or error.reason not in TRANSIENT:
                    raise
                if begun is None:
                    begun = now
                    self._on_lost(error.message)
                if now - begun > self._patience:
                    raise
            self._sleep(_BREATH)


def message_of(entry: Mapping[str, Any]) -> bytes:
    """The bytes of a message, which comes as text, exact only where it is text."""
    exact = entry.get("message_base64")
    if exact:
        return base64.b64decode(exact)
    value = entry.get("message", b"")
    return value.encode() if isinstance(value, str) else bytes(value)
