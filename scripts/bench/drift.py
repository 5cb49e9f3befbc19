"""Section `drift`: whether what a call costs, or the daemon's memory, grows with the number of calls before it."""

from __future__ import annotations

import time
from typing import Callable

from host.client import VirtioRPCClient
from scripts.bench.bench import MB, Bench
from scripts.bench.report import Check, Goal, Row, Table
from scripts.bench.rounds import in_flight
from vsrpc.v1.system_vsrpc import SystemStub

CALLS, FILES = 100_000, 10_000
QUICK = 20  # times fewer
PARTS = 10
AT_A_TIME = 8
FILE_SIZE = 1000
SLOWER = 1.1  # times, the last tenth than the median one: what noise makes of nothing
LARGER = 1.05


def run(bench: Bench) -> list[Table]:
    """One table."""
    share = QUICK if bench.quick else 1
    rows = []
    with VirtioRPCClient(bench.place.target) as client:
        ping = SystemStub(client.channel).Ping
        ping()
        rows += _rows(
            bench, f"{CALLS // share} pings", CALLS // share, lambda count: in_flight(ping.future, count, AT_A_TIME)
        )
        small = bench.work / "small"
        small.write_bytes(bytes(FILE_SIZE))
        path = bench.path("small")
        work = f"{FILES // share} uploads of 1 KB"
        rows += _rows(bench, work, FILES // share, lambda count: _uploads(client, str(small), path, count))
    notes = [f"each tenth of the calls by itself; {AT_A_TIME} pings on their way at a time"]
    return [Table("drift", rows, notes)]


def _rows(bench: Bench, work: str, count: int, call: Callable[[int], None]) -> list[Row]:
    """`call` makes so many calls; `count` of them in all, in tenths, after a tenth that does not count."""
    rates, peaks = [], []
    for _ in range(1 + PARTS):
        bench.place.reset_peak()
        started = time.perf_counter()
        call(count // PARTS)
        rates.append(count / PARTS / (time.perf_counter() - started))
        peaks.append(bench.place.peak() / MB)
    rate = Row(work, "rate of a tenth", "calls/s", rates[1:])
    rate.checks.append(Check(rate.median / rates[-1], "the last tenth", bench.goal("<=", SLOWER)))
    memory = Row(work, "daemon's peak in a tenth", "MB", peaks[1:])
    memory.checks.append(Check(peaks[-1] / peaks[1], "the first tenth", Goal("<=", LARGER)))
    return [rate, memory]


def _uploads(client: VirtioRPCClient, local: str, path: str, count: int) -> None:
    for number in range(count):
        client.upload_file(local, f"{path}-{number % 100}")
