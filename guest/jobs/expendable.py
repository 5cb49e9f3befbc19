"""What the kernel kills first when memory runs out (/proc/PID/oom_score_adj, proc(5)).

The daemon is protected by its unit, since it may be the only way into the guest; what it runs for callers must not be.
"""

from __future__ import annotations


def _read() -> int:
    try:
        with open("/proc/self/oom_score_adj", encoding="ascii") as stream:
            return int(stream.read())
    except (OSError, ValueError):
        return 0


_PROTECTED = _read() < 0


def make_expendable(pid: int) -> None:
    """Take the daemon's protection from a process that it has just started, if the daemon has any."""
    if _PROTECTED:
        try:
            with open(f"/proc/{pid}/oom_score_adj", "w", encoding="ascii") as stream:
                stream.write("0")
        except OSError:  # it has ended already
            pass
