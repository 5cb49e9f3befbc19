"""Section `process`: a program from its start to its finish, as one types it."""

from __future__ import annotations

import statistics
import sys
from functools import partial
from pathlib import Path

from scripts.bench import child
from scripts.bench.bench import Bench
from scripts.bench.report import Row, Table
from scripts.bench.rounds import Sample, column, interleave

RUNS = 5  # a round
RATIO = 2.0  # of `vsrpc-host ping` to the import of protobuf
IMPORT, PING = "import google.protobuf.message", "vsrpc-host ping"


def run(bench: Bench) -> list[Table]:
    """One table."""
    installed = Path(sys.executable).with_name("vsrpc-host")
    program = [str(installed)] if installed.exists() else child.VSRPC_HOST
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        IMPORT: [sys.executable, "-c", IMPORT],
        PING: [*program, "ping", "-s", bench.place.target],
        "vsrpc-host exec true": [*program, "exec", "-s", bench.place.target, "true"],
    }
    if bench.peers is None:
        commands["vsrpc-host ping -s local:"] = [*program, "ping", "-s", "local:"]
    for command in commands.values():
        child.run(command)  # compiles what it imports
    turns = [(name, partial(_measure, command)) for name, command in commands.items()]
    if bench.peers is not None:
        turns.append(("ssh true", partial(_measure, bench.peers.ssh.command("true"))))
    found = interleave("processes", turns, bench.rounds)
    rows = {name: Row("process", name, "ms", column(samples, "ms")) for name, samples in found.items()}
    for name, row in rows.items():
        if name != IMPORT:
            row.compare(rows[IMPORT], bench.goal("<=", RATIO) if name == PING else None)
    return [Table("processes from start to finish", list(rows.values()), [f"each value is the median of {RUNS} runs"])]


def _measure(command: list[str]) -> Sample:
    return {"ms": statistics.median(1000 * child.run(command).seconds for _ in range(RUNS))}
