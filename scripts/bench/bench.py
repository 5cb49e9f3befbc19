"""What all sections share: the place, how much to do, and the contenders, each made when it is first wanted."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from scripts.bench.agent import Agent
from scripts.bench.place import Place, VMPlace
from scripts.bench.raw import RawPort, raw_port
from scripts.bench.report import Goal, Row
from scripts.bench.ssh import SharedSSH

MB = 1_000_000
LARGE = 1000 * MB
DAEMON_PEAK = Goal("<=", 48)  # MB, whatever it serves
_BLOCK = MB


@dataclass(frozen=True)
class Peers:
    """What vsrpc is compared with on a VM."""

    raw: RawPort
    agent: Agent
    ssh: SharedSSH


class Bench:
    """One run. `stack` ends what is opened for it, `work` is a directory of the host for its files."""

    def __init__(self, place: Place, stack: ExitStack, work: Path, rounds: int, quick: bool) -> None:
        self.place = place
        self.work = work
        self.rounds = rounds
        self.quick = quick
        self._stack = stack

    @property
    def sizes(self) -> list[int]:
        """Of the files, in bytes."""
        return [5 * MB, 100 * MB] if self.quick else [5 * MB, 100 * MB, LARGE]

    def rounds_for(self, size: int) -> int:
        """How many for files of this size."""
        return max(1, (self.rounds + 1) // 2) if size >= LARGE else self.rounds

    @cached_property
    def peers(self) -> Peers | None:
        """None where there is only vsrpc."""
        if not isinstance(self.place, VMPlace):
            return None
        vm = self.place.vm
        agent = Agent(vm, self.place.directory, self.work)
        return Peers(self._stack.enter_context(raw_port(vm)), agent, self._stack.enter_context(SharedSSH(vm)))

    def goal(self, sign: str, bound: float) -> Goal | None:
        """A bound, where it is meant: all are for the port of a VM."""
        return Goal(sign, bound) if isinstance(self.place, VMPlace) else None

    def daemon_peak(self, work: str) -> Row:
        """The daemon's peak memory since Place.reset_peak."""
        row = Row(work, "daemon's peak memory", "MB", [self.place.peak() / MB])
        row.judge(DAEMON_PEAK)
        return row

    def path(self, name: str) -> str:
        """A file of the guest."""
        return f"{self.place.directory}/{name}"

    def source(self, size: int) -> Path:
        """A file of the host, of this size, that nothing can compress."""
        path = self.work / f"source-{size}"
        if not path.exists():
            with path.open("wb") as stream:
                for start in range(0, size, _BLOCK):
                    stream.write(os.urandom(min(_BLOCK, size - start)))
        return path


def megabytes(size: int) -> str:
    """A size, for people."""
    return f"{size // LARGE} GB" if size >= LARGE else f"{size // MB} MB"
