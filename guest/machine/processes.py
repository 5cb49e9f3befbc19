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


def top(
    limit: int, by_memory: bool, root: Path = Path("/proc"), interval: float = INTERVAL
) -> tuple[list[Process], int]:
    """Those that use most, CPU or memory, of all that were there at both looks; and how many these are."""
    before = _looks(root)
    at = time.monotonic()
    time.sleep(interval)
    after = _looks(root)
    seconds = max(time.monotonic() - at, 1e-3)
    both = [(pid, look, before[pid]) for pid, look in after.items() if pid in before]
    rows = [(pid, now, now.ticks - then.ticks) for pid, now, then in both if now.begun == then.begun]
    rows.sort(key=lambda row: (row[1].pages, row[2]) if by_memory else (row[2], row[1].pages), reverse=True)
    boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    page, tick = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")
    found: list[Process] = []
    for pid, look, ticks in rows:
        if len(found) == limit:
            break
        try:
            user = _user((root / str(pid)).stat().st_uid)
            command = (root / str(pid) / "cmdline").read_bytes()[:_LONGEST_COMMAND]
        except OSError:  # it has ended
            continue
        shown = command.rstrip(b"\0").replace(b"\0", b" ").decode("utf-8", "replace") or f"[{look.name}]"
        found.append(
            Process(
                pid=pid,
                parent=look.parent,
                user=user,
                state=_STATES.get(look.state, look.state),
                cpu=100.0 * ticks / tick / seconds,
                memory=look.pages * page,
                started=int(boot + look.begun / tick),
                command=shown,
            )
        )
    return found, len(rows)


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
