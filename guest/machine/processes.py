"""The guest's processes, read from /proc twice, with a moment between to see which of them use the CPU (proc(5))."""

from __future__ import annotations

import os
import pwd
import time
from dataclasses import dataclass
from pathlib import Path

INTERVAL = 0.2
"""Seconds between the two looks: the kernel counts in ticks of 10 ms."""

_STATES = {
    "R": "running",
    "S": "sleeping",
    "D": "waiting",
    "T": "stopped",
    "t": "traced",
    "Z": "zombie",
    "I": "idle",
    "X": "dead",
}

_LONGEST_COMMAND = 4096


@dataclass(frozen=True)
class Process:
    """One process; `cpu` in percent of one CPU, memory in bytes, `started` in seconds since 1970."""

    pid: int
    parent: int
    user: str
    state: str
    cpu: float
    memory: int
    started: int
    command: str


@dataclass(frozen=True)
class _Look:
    parent: int
    state: str
    ticks: int
    begun: int
    pages: int
    name: str


def processes(root: Path = Path("/proc"), interval: float = INTERVAL) -> list[Process]:
    """All processes that were there at both looks."""
    before = _looks(root)
    at = time.monotonic()
    time.sleep(interval)
    after = _looks(root)
    seconds = max(time.monotonic() - at, 1e-3) * os.sysconf("SC_CLK_TCK")
    boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    page = os.sysconf("SC_PAGE_SIZE")
    tick = os.sysconf("SC_CLK_TCK")
    found = []
    for pid, look in after.items():
        earlier = before.get(pid)
        if earlier is None or earlier.begun != look.begun:
            continue
        try:
            user = _user((root / str(pid)).stat().st_uid)
            command = (root / str(pid) / "cmdline").read_bytes()[:_LONGEST_COMMAND]
        except OSError:  # it has ended
            continue
        shown = command.rstrip(b"\0").replace(b"\0", b" ").decode("utf-8", "replace") or f"[{look.name}]"
        cpu = 100.0 * (look.ticks - earlier.ticks) / seconds
        started = int(boot + look.begun / tick)
        found.append(
            Process(pid, look.parent, user, _STATES.get(look.state, look.state), cpu, look.pages * page, started, shown)
        )
    return found


def _looks(root: Path) -> dict[int, _Look]:
    looks = {}
    for name in os.listdir(root):
        if name.isdigit():
            try:
                text = (root / name / "stat").read_text("utf-8", "replace")
            except OSError:
                continue
            # The name is in brackets, and may have any characters itself.
            head, _, rest = text.rpartition(")")
            fields = rest.split()
            looks[int(name)] = _Look(
                int(fields[1]),
                fields[0],
                int(fields[11]) + int(fields[12]),
                int(fields[19]),
                int(fields[21]),
                head.partition("(")[2],
            )
    return looks


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)
