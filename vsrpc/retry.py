"""Which calls are made again, how often, and after how long; and what keeps them from taking effect twice."""

from __future__ import annotations

import os
import time
from typing import Callable, NamedTuple, TypeVar

from vsrpc.deadline import Deadline
from vsrpc.errors import RpcError
from vsrpc.status import Code

T = TypeVar("T")


class Effect:
    """What a call that must not be repeated is meant to do: once, in however many attempts.

    Its key goes with each attempt; the server remembers it for as long as its daemon lives. So only the instance that
    the first attempt went to may be asked again.
    """

    def __init__(self) -> None:
        self.key = os.urandom(16).hex()
        self.instance: str | None = None
        self._sent_at = 0.0

    def sent(self, instance: str) -> None:
        """An attempt is about to be sent to that instance of the server."""
        if self.instance is None:
            self.instance = instance
            self._sent_at = time.monotonic()

    def not_sent(self) -> None:
        """The attempt did not get there."""
        self.instance = None

    def headers(self) -> list[tuple[str, str]]:
        """The header fields of the next attempt."""
        fields = [("idempotency-key", self.key)]
        if self.instance is not None:
            age = int((time.monotonic() - self._sent_at) * 1000) + 1
            fields += [("vsrpc-retry-age-ms", str(age)), ("vsrpc-instance", self.instance)]
        return fields


class RetryPolicy(NamedTuple):
    """At most `max_retries` further attempts, the first after `interval` seconds, each next after `backoff` times as
    many. Where the link was lost the first is made at once: it waits for the link anyway."""

    max_retries: int = 3
    interval: float = 1.0
    backoff: float = 2.0

    def run(self, attempt: Callable[[], T], repeatable: bool, deadline: Deadline) -> T:
        """The result of `attempt`, tried again where that is safe and may help, within the deadline.

        `repeatable`: whether it may be made again when it is not known whether it took effect, because it may take
        effect twice or because it has an Effect. Raises the last RpcError.
        """
        pause = self.interval
        for retries_left in range(self.max_retries, -1, -1):
            try:
                return attempt()
            except RpcError as error:
                at_once = error.reason == "CONNECTION_LOST" and retries_left == self.max_retries
                wait = 0.0 if at_once else pause
                remaining = deadline.remaining()
                in_time = remaining is None or wait < remaining
                if not (retries_left and in_time and may_help(error, repeatable)):
                    raise
            time.sleep(wait)
            pause *= 1 if at_once else self.backoff
        raise AssertionError("unreachable")


def may_help(error: RpcError, repeatable: bool) -> bool:
    """Whether a call that ended with this error may end better if it is made again, and whether that is safe."""
    if error.reason in ("CONNECTION_REFUSED", "READ_TIMEOUT", "WRITE_TIMEOUT", "PROTOCOL_ERROR", "CANCELLED"):
        # No session: trying again soon is no better than what connecting has tried already.
        return False
    if error.reason == "TOO_LARGE":  # and will be the next time
        return False
    return error.not_run or (error.code() is Code.UNAVAILABLE and repeatable)
