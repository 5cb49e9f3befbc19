"""The daemon's own memory."""

from __future__ import annotations

import contextlib
import gc

from guest.files.buffers import BUFFERS


def settle() -> None:
    """What is there now stays: looking through it for cycles, each time, would stop all threads for long."""
    gc.collect()
    gc.freeze()


def give_back() -> None:
    """Give the kernel what is not used any more: what hangs in cycles, and what the C library keeps of what was freed,
    which after many large messages at a time is a multiple of what is used (malloc_trim(3), where it has that)."""
    import ctypes  # takes memory itself: only who has served calls needs it

    BUFFERS.clear()
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
