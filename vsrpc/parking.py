"""A call that waits for something without a thread of its own, and is looked at again once that has changed."""

from __future__ import annotations

import threading
from typing import Callable

from vsrpc.context import NotNow
from vsrpc.deadline import NO_DEADLINE, Deadline

_PAUSE = 0.02  # seconds


class Parking:
    """Where one call waits, as often as it must. `again` is called, with nothing held, each time it is to be looked at.

    Thread-safe: whatever is to wake it may do so at any time, and more than once.
    """

    def __init__(self, again: Callable[[], None]) -> None:
        self._again = again
        self._lock = threading.Lock()
        self._leave: Callable[[], None] | None = None  # while it waits
        self.until = NO_DEADLINE
        """When it is to be looked at at the latest."""

    def enter(self, wait: NotNow) -> bool:
        """Wait; False where what it waits for has changed already."""
        assert wait.listen is not None, "it says what it waits for"
        with self._lock:  # `wake` must see how to leave
            self.until = wait.until
            self._leave = wait.listen(self._on_change)
            return self._leave is not None

    def close(self) -> None:
        """It will not wait any more. What it needed for that is let go of: the two know each other."""
        self._again = _nothing
        self.until = NO_DEADLINE

    def look(self) -> None:
        """Wake it, if it is time."""
        if self.until.expired:
            self.until = Deadline(_PAUSE)  # whoever looks at it just now may set another
            self.wake()

    def wake(self) -> None:
        """Look at it again, in this thread; does nothing where it does not wait."""
        leave = self._stop()
        if leave is not None:
            leave()
            self._again()

    def _on_change(self) -> None:
        """What it waited for has changed, and will not tell of the next time."""
        if self._stop() is not None:
            self._again()

    def _stop(self) -> Callable[[], None] | None:
        """It waits no more: how to leave what it waited for; None where it did not wait."""
        with self._lock:
            leave, self._leave = self._leave, None
        return leave


def _nothing() -> None:
    pass
