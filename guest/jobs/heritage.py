"""What a process must not inherit from the daemon that starts it.

The daemon is protected from the kernel's shortage of memory by its unit, since it may be the only way into the guest
(/proc/PID/oom_score_adj, proc(5)); what it runs for callers must not be. It may have many files open, where programs
that use select(2) can have 1024. And it has no huge pages, of which it used only parts.
"""

from __future__ import annotations

import ctypes
import resource
import threading


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


_prctl = ctypes.CDLL(None).prctl
_PR_SET_THP_DISABLE, _PR_GET_THP_DISABLE = 41, 42  # linux/prctl.h


class HugePages:
    """Whether the kernel may give this process huge pages, which it does unasked, and also in the background where a
    few small ones are in use (transparent_hugepage, Linux admin-guide/mm/transhuge.rst). Thread-safe.

        with HUGE_PAGES: ...    starts a process, which may have them as if this one might
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # the next two
        self._refused = False
        self._starting = 0

    def refuse(self) -> None:
        """Have none from now on, where the system can do that, and nobody has said so before."""
        with self._lock:
            self._refused = not _prctl(_PR_GET_THP_DISABLE, 0, 0, 0, 0) and _set_no_huge_pages(True)

    def __enter__(self) -> None:
        with self._lock:
            if self._refused and not self._starting:
                _set_no_huge_pages(False)  # a process inherits it, also beyond execve(2), and only it could change it
            self._starting += 1

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._starting -= 1
            if self._refused and not self._starting:
                _set_no_huge_pages(True)


HUGE_PAGES = HugePages()


def _set_no_huge_pages(value: bool) -> bool:
    """Whether that could be done."""
    return bool(_prctl(_PR_SET_THP_DISABLE, int(value), 0, 0, 0) == 0)


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
