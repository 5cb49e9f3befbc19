"""Which calls are made again, how often, and after how long."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Callable, TypeVar

from vsrpc.deadline import Deadline
from vsrpc.errors import RpcError
from vsrpc.method import Idempotency
from vsrpc.status import Code

T = TypeVar("T")


@dataclass(frozen=True)
class RetryPolicy:
    """At most `max_retries` further attempts, the first after `interval` seconds, each next after `backoff` times as
    many."""

    max_retries: int = 3
    interval: float = 1.0
    backoff: float = 2.0

    def run(self, attempt: Callable[[], T], idempotency: Idempotency, deadline: Deadline) -> T:
        """The result of `attempt`, tried again where that is safe and may help, within the deadline.

        Raises the last RpcError.
        """
        pause = self.interval
        for retries_left in range(self.max_retries, -1, -1):
            try:
                return attempt()
            except RpcError as error:
                remaining = deadline.remaining()
                in_time = remaining is None or pause < remaining
                if not (retries_left and in_time and _may_help(error, idempotency)):
                    raise
            time.sleep(pause)
            pause *= self.backoff
        raise AssertionError("unreachable")


def _may_help(error: RpcError, idempotency: Idempotency) -> bool:
    if error.reason in ("CONNECTION_REFUSED", "READ_TIMEOUT"):
        # No session: trying again soon is no better than what connecting has tried already.
        return False
    return error.code() is Code.UNAVAILABLE and idempotency.retry_safe
