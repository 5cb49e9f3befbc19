"""Section `transfers`: files up and down, with the CPU time a GB that they cost and the memory that they take."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from scripts.bench.bench import DAEMON_PEAK, MB, Bench, megabytes
from scripts.bench.movers import (
    AGENT,
    AGENT_DOWNLOAD,
    AGENT_UPLOAD,
    CLI,
    CLI_CRC,
    STUBS,
    Move,
    Mover,
    knows_checksum,
    movers,
)
from scripts.bench.report import Goal, Row, Table
from scripts.bench.rounds import Sample, column, interleave

UPLOAD, DOWNLOAD = "upload", "download"
SHARE = 0.8  # of what the raw reference moves
TIMES = {UPLOAD: 10, DOWNLOAD: 5}  # what qemu-ga moves
CRC_TIMES = 10
# Below this, half of what the command line takes is the start of its process, which section `process` is about.
JUDGED_CLI = 100 * MB
CLI_PEAK = Goal("<=", 64)  # MB
CPU_OF = ("client", "daemon", "guest", "QEMU")
BLOCK = MB

Found = dict[str, list[Sample]]


def run(bench: Bench) -> list[Table]:
    """Three tables: MB/s, CPU, memory."""
    contenders = movers(bench)
    rates = Table("transfers", [], _notes(bench))
    cpu = Table(
        "CPU time of transfers",
        [],
        ["client is the process on the host; for scp it is without the ssh that encrypts"],
    )
    memory = Table("peak memory of transfers", [], ["daemon: VmHWM, reset before each; CLI: ru_maxrss of the process"])
    for size in bench.sizes:
        local = bench.source(size)
        for direction in (UPLOAD, DOWNLOAD):
            work = f"{direction} {megabytes(size)}"
            if direction == DOWNLOAD:
                bench.place.settle(bench.path("target"))
                contenders[0].upload(local, bench.path("source"))
            turns = [(each.name, partial(_measure, bench, each, direction, local)) for each in contenders]
            # An emulator translates what is run for the first time.
            found = interleave(work, turns, bench.rounds_for(size), warm_up=size == bench.sizes[0])
            rates.rows += _rates(bench, work, direction, size, found)
            if size == bench.sizes[-1]:
                cpu.rows += _cpu(work, found)
            memory.rows += _memory(work, found)
        bench.place.settle(bench.path("source"), bench.path("target"))
        local.unlink()
    return [rates, cpu, memory]


def _notes(bench: Bench) -> list[str]:
    notes = ["MB are 10^6 bytes; the CLI's time is that of its whole process, and has no goal below 100 MB"]
    if bench.peers is not None:
        agent = bench.peers.agent
        notes += [
            f"qemu-ga moves the first {megabytes(AGENT_UPLOAD)} up, {megabytes(AGENT_DOWNLOAD)} down, at most",
            f"qemu-ga's best of what was tried: {agent.write_chunk} bytes a write, {agent.read_chunk} a read",
            "vsrpc syncs a file to its disk before it says that it is there; nobody else here does",
        ]
    if not knows_checksum():
        notes.append("the CLI has no --checksum yet: no row for crc32")
    return notes


def _measure(bench: Bench, mover: Mover, direction: str, local: Path) -> Sample:
    place, target = bench.place, bench.work / "target"
    target.unlink(missing_ok=True)
    place.settle(bench.path("target"))
    place.reset_peak()
    before = place.usage()
    if direction == UPLOAD:
        move = mover.upload(local, bench.path("target"))
    else:
        move = mover.download(bench.path("source"), target)
    used = place.usage().since(before)
    if direction == UPLOAD:
        _check_size(mover, bench.place.size(bench.path("target")), move)
    else:
        _check_content(mover, local, target, move)
        target.unlink()
    gigabytes = move.size / (1000 * MB)
    sample = {"rate": move.size / MB / move.seconds, "client": move.cpu / gigabytes}
    sample.update({name: seconds / gigabytes for name, seconds in used.items()})
    return {**sample, "daemon peak": place.peak() / MB, "client peak": move.peak / MB}


def _check_size(mover: Mover, size: int, move: Move) -> None:
    if size != move.size:
        raise RuntimeError(f"{mover.name} says that it moved {move.size} bytes, and {size} are there")


def _check_content(mover: Mover, source: Path, target: Path, move: Move) -> None:
    _check_size(mover, target.stat().st_size, move)
    with source.open("rb") as ours, target.open("rb") as theirs:
        for _ in range(0, move.size, BLOCK):
            piece = theirs.read(BLOCK)
            if ours.read(len(piece)) != piece:
                raise RuntimeError(f"{mover.name} damaged the file that it moved")


def _rates(bench: Bench, work: str, direction: str, size: int, found: Found) -> list[Row]:
    rows = {name: Row(work, name, "MB/s", column(samples, "rate")) for name, samples in found.items()}
    reference, agent = next(iter(rows.values())), rows.get(AGENT)
    for name, row in rows.items():
        judged = name == STUBS or (name in (CLI, CLI_CRC) and size >= JUDGED_CLI)
        if row is not reference:
            row.compare(reference, bench.goal(">=", SHARE) if judged and name != CLI_CRC else None)
        if agent is not None and name in (STUBS, CLI, CLI_CRC):
            times = CRC_TIMES if name == CLI_CRC else TIMES[direction]
            row.compare(agent, bench.goal(">=", times) if judged else None)
    return list(rows.values())


def _cpu(work: str, found: Found) -> list[Row]:
    """Of the largest files alone: a tick of the guest's clock is 10 ms."""
    rows = []
    for name, samples in found.items():
        ours = name in (STUBS, CLI, CLI_CRC)
        for whose in CPU_OF:
            if whose in samples[0] and (ours or whose != "daemon"):
                rows.append(Row(f"{work}, {whose}", name, "s/GB", column(samples, whose)))
    return sorted(rows, key=lambda row: CPU_OF.index(row.work.rpartition(", ")[2]))


def _memory(work: str, found: Found) -> list[Row]:
    rows = []
    for name, samples in found.items():
        if name in (STUBS, CLI, CLI_CRC):
            rows.append(_peak_row(f"{work}, daemon", name, column(samples, "daemon peak"), DAEMON_PEAK))
        if name in (CLI, CLI_CRC):
            rows.append(_peak_row(f"{work}, CLI", name, column(samples, "client peak"), CLI_PEAK))
    return sorted(rows, key=lambda row: row.work, reverse=True)


def _peak_row(work: str, name: str, values: list[float], goal: Goal) -> Row:
    row = Row(work, name, "MB", values)
    row.judge(goal)
    return row
