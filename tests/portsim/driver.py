"""A port as the guest's driver has it: Linux drivers/char/virtio_console.c.

The two virtqueues are here as well; qemu.py is at their other end. Nothing here waits, knows a clock or a socket.
"""

from __future__ import annotations

import errno
import os
import random
import select
from collections import deque
from typing import Callable, Sequence

from portsim.options import DESCRIPTORS, WRITE_MAX, Options

Piece = bytes | memoryview


def error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class DriverPort:
    """One port from its plugging in, or the driver's start, until it is unplugged or the driver stops."""

    def __init__(self, options: Options, chance: random.Random, on_wake: Callable[[DriverPort], None]) -> None:
        self.options = options
        self._chance = chance
        self._on_wake = on_wake
        self._received: deque[Piece] = deque()
        self._queued: deque[bytes] = deque()
        self._taken = 0
        self._client = False
        self._news: deque[tuple[float, bool]] = deque()
        self.opened = False
        self.unplugged = False
        self.kicked = False

    # -- what a process can do: port_fops_*

    def open(self) -> None:
        if self.opened:
            raise error(errno.EBUSY)
        self.opened = True

    def release(self) -> None:
        self.opened = False
        self.discard_input()  # what is queued for the host stays

    def read(self, sizes: Sequence[int]) -> list[Piece]:
        """What readv() puts into buffers of these sizes: one after another, until one is not filled."""
        self._check_plugged()
        got: list[Piece] = []
        for size in sizes:
            if not self._received:
                if self._client and not got:
                    raise error(errno.EAGAIN)
                break
            piece = self._received[0]
            limit = min(size, self.options.guest_read_max)
            if len(piece) > limit:
                self._received[0] = memoryview(piece)[limit:]
                piece = memoryview(piece)[:limit]
            else:
                self._received.popleft()
            got.append(piece)
            if len(piece) < size:
                break
        return got

    def write(self, buffers: Sequence[memoryview]) -> int:
        """What writev() takes of these buffers: one after another, until one is not taken whole."""
        self._check_plugged()
        count = 0
        for buffer in buffers:
            if not buffer:
                continue
            if not self._writable:
                if not count:
                    raise error(errno.EAGAIN)
                break
            if self.options.zero_write_rate and self._chance.random() < self.options.zero_write_rate:
                break
            piece = bytes(buffer[: min(WRITE_MAX, self.options.guest_write_max)])
            self._queued.append(piece)
            self.kicked = True
            count += len(piece)
            if len(piece) < len(buffer):
                break
        return count

    def poll(self) -> int:
        if self.unplugged:
            return select.POLLHUP
        flags = 0
        if self._received or not self._client:
            flags |= select.POLLIN
        if self._writable:
            flags |= select.POLLOUT
        if not self._client:
            flags |= select.POLLHUP
        return flags

    # -- the host's end of the queues

    @property
    def takes_input(self) -> bool:
        """Whether a buffer for the host's data is free; while nobody has the port open, QEMU asks for none."""
        return self.opened and len(self._received) < DESCRIPTORS

    def begin(self, lost: int) -> None:
        """The port's output queue has that many descriptors less, which the host kept of an earlier port's."""
        self._taken = lost

    def discard_input(self) -> None:
        """discard_port_data: all buffers are free for the host again."""
        self._received.clear()

    def deliver(self, data: bytes) -> None:
        self._received.append(data)
        self._on_wake(self)

    def pop(self) -> bytes | None:
        """Take the oldest descriptor of output; it is out of the guest's hands until push()."""
        if not self._queued:
            return None
        self._taken += 1
        return self._queued.popleft()

    def push(self, count: int) -> None:
        """Give descriptors back, used up."""
        self._taken -= count
        self._on_wake(self)

    def discard_output(self) -> None:
        self._queued.clear()
        self._on_wake(self)

    # -- what the host tells: control messages, which a work queue of the kernel handles later

    def announce(self, client: bool, when: float) -> None:
        """A client came or left; the driver knows of it at that time."""
        self._news.append((max(when, self._news[-1][0]) if self._news else when, client))

    def next_news(self) -> float | None:
        return self._news[0][0] if self._news else None

    def hear(self, now: float) -> None:
        """Take note of all that is due. Who waits is woken once, and sees only how it is now."""
        heard = False
        while self._news and self._news[0][0] <= now:
            self._client = self._news.popleft()[1]
            heard = True
        if heard:
            self._on_wake(self)

    def unplug(self) -> None:
        self.unplugged = True
        self.discard_input()
        self._queued.clear()
        self._news.clear()
        self._on_wake(self)

    # -- what a test wants to know

    @property
    def free(self) -> int:
        """Descriptors that the guest can write into."""
        return DESCRIPTORS - len(self._queued) - self._taken

    @property
    def queued(self) -> int:
        return len(self._queued)

    @property
    def unread(self) -> int:
        return len(self._received)

    @property
    def _writable(self) -> bool:
        return self._client and self.free > 0

    def _check_plugged(self) -> None:
        if self.unplugged:
            raise error(errno.ENODEV)
