"""Section `during`: how long a ping takes while the same channel moves a file, and what that costs the file."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Callable, Iterator

from host.client import VirtioRPCClient
from scripts.bench.agent import Agent
from scripts.bench.bench import MB, Bench, megabytes
from scripts.bench.movers import AGENT
from scripts.bench.report import Check, Row, Table
from scripts.bench.rounds import Sample, column, interleave, percentile
from vsrpc.v1.system_vsrpc import SystemStub

SIZE = 100 * MB
TRANSFERS = 2  # a round, so that a round has enough pings
PING_EVERY = 0.05  # seconds; more of them would be a load of their own
IDLE_SECONDS = 5.0
IDLE_PINGS = 100
WAIT_RATIO = 10.0  # of the p99 during a transfer to the p50 without
LOSS = 5.0  # percent
UPLOAD, DOWNLOAD = "upload", "download"
IDLE, SPACED = "idle", "idle, spaced"


def run(bench: Bench) -> list[Table]:
    """One table."""
    local = bench.source(SIZE)
    pings: dict[str, list[float]] = {IDLE: [], SPACED: [], UPLOAD: [], DOWNLOAD: []}
    if bench.peers is not None:
        pings.update({_beside(direction): [] for direction in (UPLOAD, DOWNLOAD)})
    with VirtioRPCClient(bench.place.target) as client:
        client.chunked_upload_file(str(local), bench.path("source"))
    turns: list[tuple[str, Callable[[], Sample]]] = [
        (IDLE, partial(_one_after_another, bench, pings[IDLE])),
        (SPACED, partial(_spaced, bench, pings[SPACED])),
    ]
    for direction in (UPLOAD, DOWNLOAD):
        turns.append((f"{direction} alone", partial(_transfers, bench, direction, local, None)))
        turns.append((f"{direction} with pings", partial(_transfers, bench, direction, local, pings[direction])))
        if bench.peers is not None:
            times = pings[_beside(direction)]
            turns.append((_beside(direction), partial(_transfers, bench, direction, local, times, bench.peers.agent)))
    # A round that does not count, as an emulator translates what is run for the first time.
    _one_after_another(bench, [])
    for direction in (UPLOAD, DOWNLOAD):
        _transfers(bench, direction, local, [])
    bench.place.reset_peak()
    found = interleave("pings during transfers", turns, bench.rounds)
    rows = [*_rows(bench, pings, found), bench.daemon_peak("pings and transfers")]
    bench.place.settle(bench.path("source"), bench.path("target"))
    return [Table("pings during a transfer", rows, _notes(pings))]


def _beside(direction: str) -> str:
    """The pings of qemu-ga, on a port of its own: what an answer of this guest takes at best beside a transfer."""
    return f"{AGENT} beside the {direction}"


def _notes(pings: dict[str, list[float]]) -> list[str]:
    counts = "; ".join(f"{name} {len(times)}" for name, times in pings.items())
    return [
        f"a ping {1000 * PING_EVERY:.0f} ms after the one before, on the channel of a transfer of {megabytes(SIZE)}",
        "(qemu-ga's on a port of its own: what an answer from this guest takes at best there)",
        f"percentiles are those of the pings of all rounds: {counts}",
    ]


def _rows(bench: Bench, pings: dict[str, list[float]], found: dict[str, list[Sample]]) -> list[Row]:
    waits = {
        (name, percent): Row(f"ping, {name}", f"p{percent}", "ms", [percentile(times, percent)])
        for name, times in pings.items()
        for percent in (50, 99)
    }
    for direction in (UPLOAD, DOWNLOAD):
        row = waits[direction, 99]
        # A ping after a pause takes longer than one after another: the goal is for the stricter of the two.
        row.checks.append(Check(row.median / waits[IDLE, 50].median, "idle p50", bench.goal("<=", WAIT_RATIO)))
        row.checks.append(Check(row.median / waits[SPACED, 50].median, "idle, spaced p50"))
    rows = list(waits.values())
    for direction in (UPLOAD, DOWNLOAD):
        alone, both = (
            Row(direction, how, "MB/s", column(found[f"{direction} {how}"], "rate")) for how in ("alone", "with pings")
        )
        loss = Row(direction, "lost by pings", "%", [100 * (1 - both.median / alone.median)])
        loss.judge(bench.goal("<=", LOSS))
        rows += [alone, both, loss]
    return rows


def _one_after_another(bench: Bench, pings: list[float]) -> Sample:
    with VirtioRPCClient(bench.place.target) as client:
        ping = SystemStub(client.channel).Ping
        for _ in range(IDLE_PINGS):
            pings.append(_milliseconds(ping))
    return {}


def _spaced(bench: Bench, pings: list[float]) -> Sample:
    with VirtioRPCClient(bench.place.target) as client, _pinging(SystemStub(client.channel).Ping, pings):
        time.sleep(IDLE_SECONDS)
    return {}


def _transfers(
    bench: Bench, direction: str, local: Path, pings: list[float] | None, agent: Agent | None = None
) -> Sample:
    """MB/s of a few transfers; with pings, of the channel or of the agent, if there is where to put their times."""
    seconds, target = 0.0, bench.work / "target"
    with VirtioRPCClient(bench.place.target) as client:
        for _ in range(TRANSFERS):
            bench.place.settle(bench.path("target"))
            with ExitStack() as stack:
                if pings is not None:
                    ping: Callable[[], object] = SystemStub(client.channel).Ping
                    if agent is not None:
                        ping = partial(stack.enter_context(agent.session()).call, "guest-ping")
                    stack.enter_context(_pinging(ping, pings))
                started = time.perf_counter()
                if direction == UPLOAD:
                    client.chunked_upload_file(str(local), bench.path("target"))
                else:
                    client.chunked_download_file(bench.path("source"), str(target))
                seconds += time.perf_counter() - started
            target.unlink(missing_ok=True)
    return {"rate": TRANSFERS * SIZE / MB / seconds}


@contextmanager
def _pinging(ping: Callable[[], object], times: list[float]) -> Iterator[None]:
    """Ping in a thread of its own for the time of the block; a ping that fails makes the block fail."""
    over = threading.Event()

    def work() -> None:
        while not over.wait(PING_EVERY):
            times.append(_milliseconds(ping))

    with ThreadPoolExecutor(1) as pool:
        pings = pool.submit(work)
        try:
            yield
        finally:
            over.set()
        pings.result()


def _milliseconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - started)
