"""Threads for tests: run a function beside the test, and know when it waits."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Callable

PATIENCE = 20.0
"""Seconds after which something that should happen at once is taken for never."""


class Beside(threading.Thread):
    """A function that runs in a thread of its own; `result()` is its result, or raises what it raised."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        super().__init__(daemon=True)
        self._future: Future[Any] = Future()
        self._call = lambda: function(*arguments)
        self.start()

    def run(self) -> None:
        try:
            self._future.set_result(self._call())
        except BaseException as error:
            self._future.set_exception(error)

    def result(self) -> Any:
        return self._future.result(PATIENCE)

    def error(self) -> BaseException | None:
        return self._future.exception(PATIENCE)

    @property
    def ended(self) -> bool:
        return self._future.done()

    def until_waiting(self) -> Beside:
        """Return once the thread sleeps in the kernel, and goes on doing so."""
        stat = Path(f"/proc/self/task/{self.native_id}/stat")
        asleep = 0
        deadline = time.monotonic() + PATIENCE
        while asleep < 20:
            assert not self.ended, f"it should wait, but it has ended: {self.error() or self.result()!r}"
            assert time.monotonic() < deadline, "it never waits"
            time.sleep(0.001)
            try:
                state = stat.read_text().rpartition(")")[2].split()[0]
            except OSError:  # the thread has ended meanwhile
                state = "-"
            asleep = asleep + 1 if state == "S" else 0
        return self


def eventually(condition: Callable[[], Any], what: str) -> Any:
    """Wait until a condition holds; its value."""
    deadline = time.monotonic() + PATIENCE
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"this never happened: {what}"
        time.sleep(0.002)


def descriptors() -> set[str]:
    """The open descriptors of this process, each with what it is."""
    found = set()
    for path in Path("/proc/self/fd").iterdir():
        try:
            found.add(f"{path.name}: {path.readlink()}")
        except OSError:  # the one of the listing itself
            continue
    return found
