"""How far a copy is: a bar on a terminal, or JSON for programs, on standard error."""

from __future__ import annotations

import json
import sys
import time
from types import TracebackType
from typing import Callable

from host.copy.options import Done
from host.names import shown

_BAR_WIDTH = 24
_BAR_INTERVAL, _JSON_INTERVAL = 0.1, 0.5  # seconds


class CopyProgress:
    """Shows what it is told, now and then and at the end. A context manager.

    `how`: "bar", "json" or "none"; None for a bar if standard error is a terminal.
    """

    def __init__(self, how: str | None, clock: Callable[[], float] = time.monotonic) -> None:
        terminal = sys.stderr is not None and sys.stderr.isatty()
        self._how = how or ("bar" if terminal else "none")
        self._interval = _JSON_INTERVAL if self._how == "json" else _BAR_INTERVAL
        self._clock = clock
        self._begun = clock()
        self._told = float("-inf")
        self._last: Done | None = None
        self._width = 0

    def __call__(self, done: Done) -> None:
        """How far it is now."""
        self._last = done
        now = self._clock()
        if now - self._told >= self._interval:
            self._told = now
            self._show(done, now)

    def __enter__(self) -> CopyProgress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._last is not None:
            self._show(self._last, self._clock())
            if self._width:  # what follows is told on a line of its own
                print(file=sys.stderr, flush=True)

    def _show(self, done: Done, now: float) -> None:
        elapsed = max(now - self._begun, 1e-6)
        rate = done.bytes / elapsed
        left = (done.bytes_total - done.bytes) / rate if rate else None
        if self._how == "json":
            fields = {
                **done._asdict(),
                "name": shown(done.name),
                "rate": round(rate),
                "seconds_left": left and round(left),
            }
            print(json.dumps(fields), file=sys.stderr, flush=True)
        elif self._how == "bar":
            line = bar(done, rate, left)
            print("\r" + line.ljust(self._width), end="", file=sys.stderr, flush=True)
            self._width = len(line)


def bar(done: Done, rate: float, left: float | None) -> str:
    """One line: how much, how fast, how long yet."""
    part = done.bytes / done.bytes_total if done.bytes_total else done.files / max(done.files_total, 1)
    filled = int(_BAR_WIDTH * min(part, 1))
    time_left = "" if left is None or done.bytes >= done.bytes_total else f"  {_duration(left)} left"
    files = f"  {done.files}/{done.files_total} files" if done.files_total > 1 else ""
    return (
        f"[{'=' * filled}{' ' * (_BAR_WIDTH - filled)}] {int(100 * min(part, 1)):3}%"
        f"  {size(done.bytes)}/{size(done.bytes_total)}  {size(rate)}/s{time_left}{files}"
    )


def size(count: float) -> str:
    """Bytes for people: 1.5 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
