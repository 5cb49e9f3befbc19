"""Section `latency`: how long one small call takes, on a connection that is there."""

from __future__ import annotations

from typing import Callable, Tuple

import vsrpc
from scripts.bench import child
from scripts.bench.agent import Agent, Session
from scripts.bench.bench import Bench
from scripts.bench.movers import AGENT, STUBS
from scripts.bench.raw_guest import RECORD
from scripts.bench.report import Row, Table
from scripts.bench.rounds import Sample, column, interleave, percentile, timed
from scripts.bench.ssh import SharedSSH
from vsrpc.v1.shell_pb2 import ExecRequest
from vsrpc.v1.shell_vsrpc import ShellStub
from vsrpc.v1.system_vsrpc import SystemStub

PINGS, INFOS, EXECS = 200, 50, 30  # a round
PING, INFO, EXEC = "ping", "info", "exec true"
PING_RATIO, EXEC_RATIO = 1.0, 0.4  # to qemu-ga's p50

Turn = Tuple[str, Callable[[], Sample]]


def run(bench: Bench) -> list[Table]:
    """One table."""
    works = {PING: _pings(bench), INFO: [_ours(bench, _info, INFOS)], EXEC: _execs(bench)}
    bounds = {PING: PING_RATIO, EXEC: EXEC_RATIO}
    table = Table("latency", [], ["p50 and p99 of each round's calls, and the medians of those over the rounds"])
    if bench.peers is not None:
        pause = 1000 * bench.peers.agent.pause
        table.notes.append(f"qemu-ga asked every {pause:g} ms whether `true` has ended: the best of what was tried")
        table.notes.append("ssh: a process for each call, over a connection that is there")
    for work, turns in works.items():
        found = interleave(work, turns, bench.rounds, warm_up=True)
        for which in ("p50", "p99"):
            rows = {name: Row(f"{work} {which}", name, "ms", column(found[name], which)) for name, _ in turns}
            if AGENT in rows:
                goal = bench.goal("<=", bounds[work]) if which == "p50" else None
                rows[STUBS].compare(rows[AGENT], goal)
            table.rows += rows.values()
    return [table]


def _pings(bench: Bench) -> list[Turn]:
    turns, peers = [_ours(bench, _ping, PINGS)], bench.peers
    if peers is not None:
        turns.append((AGENT, lambda: _agent(peers.agent, lambda session: session.call("guest-ping"), PINGS)))
        turns.append((f"raw port, {RECORD} bytes", lambda: timed(peers.raw.echo, PINGS)))
    return turns


def _execs(bench: Bench) -> list[Turn]:
    turns, peers = [_ours(bench, _exec_true, EXECS)], bench.peers
    if peers is not None:
        pause = peers.agent.pause
        turns.append((AGENT, lambda: _agent(peers.agent, lambda session: session.exec_true(pause), EXECS)))
        turns.append(("ssh true", lambda: _ssh(peers.ssh)))
    return turns


def _ours(bench: Bench, call: Callable[[vsrpc.Channel], Callable[[], object]], count: int) -> Turn:
    def measure() -> Sample:
        with vsrpc.connect(bench.place.target) as channel:
            action = call(channel)
            action()  # connects
            return timed(action, count)

    return STUBS, measure


def _ping(channel: vsrpc.Channel) -> Callable[[], object]:
    return SystemStub(channel).Ping


def _info(channel: vsrpc.Channel) -> Callable[[], object]:
    return SystemStub(channel).Info


def _exec_true(channel: vsrpc.Channel) -> Callable[[], object]:
    execute, request = ShellStub(channel).Exec, ExecRequest(argv=["true"])

    def action() -> None:
        if execute(request).exit_code:
            raise RuntimeError("`true` failed in the guest")

    return action


def _agent(agent: Agent, call: Callable[[Session], object], count: int) -> Sample:
    with agent.session() as session:
        return timed(lambda: call(session), count)


def _ssh(ssh: SharedSSH) -> Sample:
    times = [1000 * child.run(ssh.command("true")).seconds for _ in range(EXECS)]
    return {"p50": percentile(times, 50), "p99": percentile(times, 99)}
