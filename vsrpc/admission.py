"""What a server takes at a time: so many requests in a second, so many bytes. Thread-safe."""

from __future__ import annotations

import threading
import time
from typing import Callable


class TokenBucket:
    """`rate` events in a second on average, and up to `burst` at once."""

    def __init__(self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._lock = threading.Lock()
        self._tokens = burst
        self._filled = clock()

    def take(self) -> bool:
        """Whether one more event is within the rate; it then counts."""
        with self._lock:
            now = self._clock()
            self._tokens = min(self._burst, self._tokens + (now - self._filled) * self._rate)
            self._filled = now
            if self._tokens < 1:
                return False
            self._tokens -= 1
            return True


class Budget:
    """What many may use together: bytes of memory, or places."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._lock = threading.Lock()
        self._left = size

    def take(self, count: int) -> bool:
        """Take so many, if they are there."""
        with self._lock:
            if count > self._left:
                return False
            self._left -= count
            return True

    def give(self, count: int) -> None:
        """Give them back."""
        with self._lock:
            self._left += count

    def lease(self) -> Lease:
        """Nothing at first; what is taken by it is given back together."""
        return Lease(self)


class Lease:
    """What one holder has of a budget. It is given back at the latest when nobody refers to it any more."""

    __slots__ = ("_budget", "_held")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._held = 0

    def take(self, count: int) -> bool:
        """Take so many bytes more, if they are there."""
        if not self._budget.take(count):
            return False
        self._held += count
        return True

    def release(self) -> None:
        """Give all back; does nothing the second time."""
        held, self._held = self._held, 0
        if held:
            self._budget.give(held)

    def __del__(self) -> None:
        self.release()
