"""Which parts of a file have arrived."""

from __future__ import annotations

import bisect


class Ranges:
    """A set of byte positions, kept as ranges that neither touch nor overlap."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    @property
    def total(self) -> int:
        """Number of positions in the set."""
        return sum(self._ends) - sum(self._starts)

    def add(self, start: int, end: int) -> None:
        """Put the positions from `start` up to, and without, `end` into the set."""
        if start >= end:
            return
        first = bisect.bisect_left(self._ends, start)
        after = bisect.bisect_right(self._starts, end)
        if first < after:
            start = min(start, self._starts[first])
            end = max(end, self._ends[after - 1])
        self._starts[first:after] = [start]
        self._ends[first:after] = [end]

    def contains(self, start: int, end: int) -> bool:
        """Whether all positions from `start` up to `end` are in the set."""
        return start >= end or self.end_from(start) >= end

    def overlaps(self, start: int, end: int) -> bool:
        """Whether any position from `start` up to `end` is in the set."""
        index = bisect.bisect_right(self._ends, start)
        return start < end and index < len(self._starts) and self._starts[index] < end

    def end_from(self, start: int) -> int:
        """Where the unbroken range that holds `start` ends; `start` itself when it is not in the set."""
        index = bisect.bisect_right(self._starts, start) - 1
        return max(start, self._ends[index]) if index >= 0 else start

    def first_gap(self, size: int) -> tuple[int, int] | None:
        """The first part of 0 … size that is missing, as start and end; None when nothing is."""
        start = self.end_from(0)
        if start >= size:
            return None
        index = bisect.bisect_right(self._starts, start)
        return start, self._starts[index] if index < len(self._starts) else size
