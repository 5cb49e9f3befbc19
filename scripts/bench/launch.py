"""Runs a program and prints what it used, as JSON: a process of its own, because it is small.

    python launch.py PROGRAM ARGS…

A child's peak memory, as the kernel tells it, is at least its parent's at the fork: under the benchmark itself every
program would seem to need what the benchmark needs. This one needs less than any program that is measured.
"""

from __future__ import annotations

import json
import os
import sys
import time


def main() -> int:
    """The result is the program's exit code."""
    null = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1)]
    started = time.perf_counter()
    pid = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ, file_actions=null)
    _, status, usage = os.wait4(pid, 0)
    seconds = time.perf_counter() - started
    cpu, peak = usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "cpu": cpu, "peak": peak}))
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main())
