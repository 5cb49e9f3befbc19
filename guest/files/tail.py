"""Where the last lines of a file begin."""

from __future__ import annotations

from guest.files.content import read_full

MAX_LINES = 1_000_000

_BLOCK = 64 * 1024


def start_of_lines(fd: int, size: int, lines: int, most: int) -> int:
    """The offset at which the last `lines` lines begin, no more than `most` bytes before the end. Raises OSError."""
    if not lines:
        return size
    least = max(0, size - most)
    end, found = size, 0
    while end > least:
        begin = max(least, end - _BLOCK)
        block = read_full(fd, end - begin, begin)
        at = len(block)
        if end == size and block.endswith(b"\n"):
            at -= 1  # it ends the last line, and begins none
        while True:
            at = block.rfind(b"\n", 0, at)
            if at < 0:
                break
            found += 1
            if found == lines:
                return begin + at + 1
        end = begin
    return least
