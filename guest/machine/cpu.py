"""CPU time in use, measured between two looks at /proc/stat."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

SHORTEST = 0.2
"""Seconds between two samples at least: the kernel counts in ticks of 10 ms, so a shorter time says little."""

LONGEST = 60.0
"""A sample that is older than so many seconds says nothing of now."""


@dataclass(frozen=True)
class Sample:
    """CPU time of all CPUs since boot, in ticks, at a moment of the monotonic clock."""

    at: float
    busy: int
    total: int


def read_sample(path: Path = Path("/proc/stat")) -> Sample:
    """Read /proc/stat (proc(5)): user nice system idle iowait irq softirq steal; guest time is in user already.

    Steal is time that the host gave to others: not ours, but not idle either, so it counts as in use.
    """
    with path.open("rb") as stream:
        ticks = [int(field) for field in stream.readline().split()[1:9]]
    idle = sum(ticks[3:5])
    return Sample(time.monotonic(), sum(ticks) - idle, sum(ticks))


class CpuMeter:
    """Percent of all CPUs in use since the last call, or over SHORTEST when that call was just now or long ago."""

    def __init__(self, read: Callable[[], Sample] = read_sample, sleep: Callable[[float], None] = time.sleep) -> None:
        self._read = read
        self._sleep = sleep
        self._lock = threading.Lock()
        self._last = read()
        self._percent: float | None = None

    def percent(self) -> float:
        """From 0 to 100. Takes up to SHORTEST seconds when there is no fresh sample to compare with."""
        with self._lock:
            now = self._read()
            if now.at - self._last.at > LONGEST:
                self._last, self._percent = now, None
            age = now.at - self._last.at
            if age < SHORTEST:
                if self._percent is not None:
                    return self._percent
                self._sleep(SHORTEST - age)
                now = self._read()
            total = now.total - self._last.total
            if total > 0:  # else no tick was counted, as in a guest that was paused: what was known still holds
                self._percent = min(100.0, max(0.0, 100.0 * (now.busy - self._last.busy) / total))
                self._last = now
            return self._percent or 0.0
