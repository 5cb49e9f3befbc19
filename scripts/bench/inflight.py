"""Section `inflight`: calls a second, with one, few and many of them on their way at a time."""

from __future__ import annotations

import time
from functools import partial

import vsrpc
from scripts.bench.bench import Bench
from scripts.bench.movers import STUBS
from scripts.bench.report import Row, Table
from scripts.bench.rounds import Sample, column, in_flight, interleave
from vsrpc.v1.system_vsrpc import SystemStub

# Calls on their way at a time, and calls in all.
LOADS = {1: 200, 8: 400, 64: 800}


def run(bench: Bench) -> list[Table]:
    """One table."""
    turns = [(_name(at_a_time), partial(_stub, bench, at_a_time, count)) for at_a_time, count in LOADS.items()]
    if bench.peers is not None:
        turns.append(("qemu-ga, 1 at a time", partial(_agent, bench, LOADS[1])))
    bench.place.reset_peak()
    found = interleave("pings", turns, bench.rounds, warm_up=True)
    rows = [Row("ping", name, "calls/s", column(samples, "rate")) for name, samples in found.items()]
    for row in rows[1:]:
        row.compare(rows[0])
    return [Table("calls in flight", [*rows, bench.daemon_peak("ping")])]


def _name(at_a_time: int) -> str:
    return f"{STUBS}, {at_a_time} at a time"


def _stub(bench: Bench, at_a_time: int, count: int) -> Sample:
    with vsrpc.connect(bench.place.target) as channel:
        ping = SystemStub(channel).Ping
        ping()  # connects
        started = time.perf_counter()
        in_flight(ping.future, count, at_a_time)
        return {"rate": count / (time.perf_counter() - started)}


def _agent(bench: Bench, count: int) -> Sample:
    assert bench.peers is not None
    with bench.peers.agent.session() as session:
        started = time.perf_counter()
        for _ in range(count):
            session.call("guest-ping")
        return {"rate": count / (time.perf_counter() - started)}
