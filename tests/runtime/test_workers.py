"""The pool of threads that run calls."""

from __future__ import annotations

import threading

import pytest
from runtime_threads import PATIENCE

from vsrpc import workers
from vsrpc.workers import WorkerPool


def test_it_is_told_once_that_there_is_nothing_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_IDLE_TIME", 0.02)
    told: list[str] = []
    idle = threading.Semaphore(0)

    def on_idle() -> None:
        told.append(threading.current_thread().name)
        idle.release()

    pool = WorkerPool(4, "worker", on_idle)
    together = threading.Barrier(4)
    for number in range(3):
        for _ in range(4):
            pool.submit(together.wait, PATIENCE)
        assert idle.acquire(timeout=PATIENCE)
        assert not idle.acquire(timeout=0.2)  # by one of the four threads, once
        assert len(told) == number + 1
    pool.shutdown()


def test_it_is_not_told_while_something_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_IDLE_TIME", 0.02)
    idle = threading.Semaphore(0)
    pool = WorkerPool(2, "worker", idle.release)
    both, go_on = threading.Barrier(2), threading.Event()

    def long() -> None:
        both.wait(PATIENCE)
        assert go_on.wait(PATIENCE)

    pool.submit(both.wait, PATIENCE)
    pool.submit(long)
    assert not idle.acquire(timeout=0.2)
    go_on.set()
    assert idle.acquire(timeout=PATIENCE)
    pool.shutdown()
