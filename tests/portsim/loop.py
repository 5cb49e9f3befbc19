"""A minimal event loop: descriptors, what to call when they are ready, and a step after each round.

A round is what QEMU's documentation calls a pass of its main loop: everything that is ready is served once.
"""

from __future__ import annotations

import select
import time
from typing import Callable

Handler = Callable[[int], None]

# epoll waits in whole milliseconds, which is too coarse for what comes sooner.
_FINE = 0.02


class Loop:
    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}

    def watch(self, fd: int, events: int, handler: Handler) -> None:
        """Call `handler` with the flags of epoll whenever one of `events`, or a HUP, is there (level-triggered)."""
        self._handlers[fd] = handler
        self._epoll.register(fd, events)

    def change(self, fd: int, events: int) -> None:
        self._epoll.modify(fd, events)

    def forget(self, fd: int) -> None:
        """To be called before the descriptor is closed."""
        del self._handlers[fd]
        self._epoll.unregister(fd)

    def round(self, until: float | None) -> None:
        """Wait, at most until that time of the monotonic clock, and serve once each descriptor that is ready."""
        for fd, flags in self._wait(until):
            handler = self._handlers.get(fd)
            if handler is not None:  # else another handler of this round forgot it
                handler(flags)

    def close(self) -> None:
        self._epoll.close()

    def _wait(self, until: float | None) -> list[tuple[int, int]]:
        if until is None:
            return self._epoll.poll()
        left = until - time.monotonic()
        if left > _FINE:
            return self._epoll.poll(left - _FINE / 2)
        if left > 0 and not select.select([self._epoll], [], [], left)[0]:
            return []
        return self._epoll.poll(0)
