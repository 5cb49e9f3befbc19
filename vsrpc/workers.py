"""The threads that run calls: so many at a time, not counting those that only wait for something."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from typing import Any, Callable, Iterator, Tuple

_log = logging.getLogger(__name__)

_IDLE_TIME = 2.0  # seconds

Task = Tuple[Callable[..., None], Tuple[Any, ...]]


class WorkerPool:
    """At most `workers` tasks run at a time, in the order in which they came. Threads are made when they are needed.

    Tasks raise nothing. `on_idle` is called seconds after the last one, by a thread that is then late for the next.
    """

    def __init__(self, workers: int, name: str, on_idle: Callable[[], None] = lambda: None) -> None:
        self._wanted = workers
        self._name = name
        self._on_idle = on_idle
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._lock = threading.Lock()  # all below, and _wanted
        self._threads: set[threading.Thread] = set()
        self._number = 0
        self._unclaimed = 0  # tasks in the queue, less the threads that wait for one
        self._idle = True  # on_idle was called since the last task
        self._over = False

    def submit(self, function: Callable[..., None], *arguments: Any) -> None:
        """Run a task when its turn comes. Raises RuntimeError after shutdown()."""
        with self._lock:
            if self._over:
                raise RuntimeError("the pool is shut down")
            self._unclaimed += 1
            self._idle = False
            if self._unclaimed > 0:
                self._add_thread()
        self._tasks.put((function, arguments))

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """For a task, around what waits for others: meanwhile another task may run in its place."""
        with self._lock:
            self._wanted += 1
            if self._unclaimed > 0:
                self._add_thread()
        try:
            yield
        finally:
            with self._lock:
                self._wanted -= 1

    def shutdown(self) -> None:
        """Take no more tasks, and wait until those that were taken have run."""
        with self._lock:
            self._over = True
            threads = list(self._threads)
        for _ in threads:
            self._tasks.put(None)
        for thread in threads:
            thread.join()

    def _add_thread(self) -> None:
        if len(self._threads) < self._wanted and not self._over:
            self._number += 1
            thread = threading.Thread(target=self._work, name=f"{self._name}_{self._number}", daemon=True)
            thread.start()
            self._threads.add(thread)

    def _work(self) -> None:
        while True:
            with self._lock:
                if len(self._threads) > self._wanted:  # what this one stood in for is back
                    self._threads.discard(threading.current_thread())
                    return
                self._unclaimed -= 1
            task = self._next()
            if task is None:
                return
            function, arguments = task
            function(*arguments)
            del task, function, arguments  # what a call held must not wait for the next one

    def _next(self) -> Task | None:
        try:
            return self._tasks.get(timeout=_IDLE_TIME)
        except queue.Empty:
            with self._lock:
                tells = not self._idle and self._unclaimed == -len(self._threads)  # nobody has a task
                self._idle = self._idle or tells
            if tells:
                try:
                    self._on_idle()
                except Exception:  # the thread is counted on
                    _log.exception("what is to be done when idle failed")
            return self._tasks.get()
