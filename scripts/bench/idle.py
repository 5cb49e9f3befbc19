"""Section `idle`: CPU time while nothing is called, without a client and with one that is connected."""

from __future__ import annotations

import time
from functools import partial

import vsrpc
from scripts.bench.bench import Bench
from scripts.bench.report import Goal, Row, Table
from scripts.bench.rounds import Sample, column, interleave
from vsrpc.v1.system_vsrpc import SystemStub

SECONDS = 10.0
SETTLE = 2.0  # what came before has ended by then
ROUNDS = 3
DAEMON_PERCENT = 0.5
ALONE, CLIENT = "no client", "idle client"


def run(bench: Bench) -> list[Table]:
    """One table."""
    turns = [(ALONE, partial(_measure, bench)), (CLIENT, partial(_with_client, bench))]
    found = interleave("idle", turns, min(bench.rounds, ROUNDS))
    rows = []
    for name, samples in found.items():
        for whose in samples[0]:
            row = Row(name, whose, "% CPU", column(samples, whose))
            if whose == "daemon":
                row.judge(Goal("<=", DAEMON_PERCENT))
            rows.append(row)
    notes = [f"of one CPU, over {SECONDS:g} s"]
    if bench.peers is not None:
        notes.append("guest: all that it does; QEMU: all that the VM costs the host")
    return [Table("idle", rows, notes)]


def _measure(bench: Bench) -> Sample:
    time.sleep(SETTLE)
    before, started = bench.place.usage(), time.monotonic()
    time.sleep(SECONDS)
    used, seconds = bench.place.usage().since(before), time.monotonic() - started
    return {whose: 100 * each / seconds for whose, each in used.items()}


def _with_client(bench: Bench) -> Sample:
    with vsrpc.connect(bench.place.target) as channel:
        SystemStub(channel).Ping()
        return _measure(bench)
