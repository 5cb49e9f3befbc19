"""Takes turns: every contender once a round, so that what disturbs a round disturbs all of them."""

from __future__ import annotations

import sys
import time
from collections import deque
from typing import Any, Callable, Mapping, Sequence

Sample = Mapping[str, float]


def in_flight(start: Callable[[], Any], count: int, at_a_time: int) -> None:
    """Make so many calls, with so many on their way at a time; `start` begins one and gives its future."""
    calls: deque[Any] = deque()
    for _ in range(count):
        if len(calls) == at_a_time:
            calls.popleft().result()
        calls.append(start())
    for call in calls:
        call.result()


def interleave(
    work: str, contenders: Sequence[tuple[str, Callable[[], Sample]]], rounds: int, warm_up: bool = False
) -> dict[str, list[Sample]]:
    """What each contender measured in each round, by its name; `warm_up`: in a round before them, which does not count.

    The order turns with the rounds, so that nobody always comes after the same one.
    """
    if warm_up:
        for name, measure in contenders:
            _tell(f"{work}, warming up: {name}")
            measure()
    samples: dict[str, list[Sample]] = {name: [] for name, _ in contenders}
    for number in range(rounds):
        turn = number % len(contenders)
        for name, measure in [*contenders[turn:], *contenders[:turn]]:
            started = time.monotonic()
            samples[name].append(measure())
            _tell(f"{work}, round {number + 1} of {rounds}: {name} ({time.monotonic() - started:.1f} s)")
    _tell("")
    return samples


def column(samples: Sequence[Sample], key: str) -> list[float]:
    """One figure of all rounds."""
    return [sample[key] for sample in samples]


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest of the values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def timed(action: Callable[[], object], count: int) -> Sample:
    """p50 and p99 of that many calls, in milliseconds."""
    times = []
    for _ in range(count):
        started = time.perf_counter()
        action()
        times.append(1000 * (time.perf_counter() - started))
    return {"p50": percentile(times, 50), "p99": percentile(times, 99)}


def _tell(text: str) -> None:
    """Show what is under way, where somebody watches."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
