"""What a process must not inherit from the daemon that starts it.

The daemon is protected from the kernel's shortage of memory by its unit, since it may be the only way into the guest
(/proc/PID/oom_score_adj, proc(5)); what it runs for callers must not be. And it may have many files open, where
programs that use select(2) can have 1024.
"""

from __future__ import annotations

import resource


def _read() -> int:
    try:
        with open("/proc/self/oom_score_adj", encoding="ascii") as stream:
            return int(stream.read())
    except (OSError, ValueError):
        return 0


_PROTECTED = _read() < 0
_FILES = resource.getrlimit(resource.RLIMIT_NOFILE)


def allow_many_files() -> None:
    """Let this process have as many files open as it may: a job takes some ten."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (_FILES[1], _FILES[1]))


def disinherit(pid: int) -> None:
    """Take from a process that was just started what only the daemon needs."""
    if _PROTECTED:
        try:
            with open(f"/proc/{pid}/oom_score_adj", "w", encoding="ascii") as stream:
                stream.write("0")
        except OSError:  # it has ended already
            pass
    if _FILES[0] != _FILES[1]:
        try:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, _FILES)
        except (OSError, ValueError):
            pass
