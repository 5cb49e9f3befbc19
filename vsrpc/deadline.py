"""A point in time until which something may take, so that no layer recomputes time-outs.

Times are of the monotonic clock: setting the wall clock does not change a deadline.
"""

from __future__ import annotations

import math
import time


class Deadline:
    """An absolute time limit; `None` seconds, or infinitely many, mean without limit."""

    __slots__ = ("_at",)

    def __init__(self, seconds: float | None) -> None:
        self._at = None if seconds is None or seconds == math.inf else time.monotonic() + seconds

    def remaining(self) -> float | None:
        """Seconds left, never negative; None without limit."""
        return None if self._at is None else max(0.0, self._at - time.monotonic())

    @property
    def expired(self) -> bool:
        """Whether no time is left."""
        return self._at is not None and time.monotonic() >= self._at

    def sooner(self, seconds: float | None) -> Deadline:
        """This deadline, or one in `seconds` from now if that comes first."""
        if seconds is None:
            return self
        other = Deadline(seconds)
        return self if self._at is not None and other._at is not None and self._at <= other._at else other

    def __repr__(self) -> str:
        left = self.remaining()
        return "Deadline(None)" if left is None else f"Deadline({left:.3f})"


NO_DEADLINE = Deadline(None)
"""Without limit."""
