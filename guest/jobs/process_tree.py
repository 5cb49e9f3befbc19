"""Processes that belong together, and their end.

Each process leads a session and a process group of its own, with all that it starts (unless a child makes a new
session: such a daemon is on its own, as after a login). A process that has ended is reaped only when its whole tree
is given up, so the number of its group cannot meanwhile come to mean another one, and killing is always safe.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import Any, Container, ContextManager, Mapping, Protocol, Sequence

from guest.jobs.heritage import HUGE_PAGES, disinherit
from guest.jobs.wake import Wake
from vsrpc.deadline import Deadline


@dataclass(frozen=True)
class User:
    """Whose a process is to be."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]


class Home(Protocol):
    """Where processes belong (guest.jobs.cgroup)."""

    def starting(self) -> ContextManager[None]:
        """Around the start of one. Raises OSError."""

    @property
    def out_of_memory(self) -> bool:
        """Whether all were killed because they had used the memory that they may have."""


class NoHome:
    """They have none."""

    out_of_memory = False

    def starting(self) -> ContextManager[None]:
        """Nothing to do."""
        return contextlib.nullcontext()


class ProcessTree:
    """Some processes started one after the other, waited for and killed together.

    `spawn` any number of times, then `watch`. The last one's end is seen by polling `filenos`, or sets `wake`. `close`
    in any case.
    """

    def __init__(self, wake: Wake, home: Home) -> None:
        self._wake = wake
        self._home = home
        self._processes: list[subprocess.Popen[bytes]] = []
        self._lock = threading.Lock()
        self._pidfds: dict[int, int] = {}  # of those that have not ended, by process
        self._watcher: threading.Thread | None = None
        self._ended = threading.Event()
        self._given_up = False
        self._reaped = False

    def spawn(
        self,
        argv: Sequence[str],
        program: str,
        environment: Mapping[str, str],
        directory: str,
        descriptors: tuple[int, int, int],
        user: User | None = None,
        *,
        session: bool = True,
    ) -> subprocess.Popen[bytes]:
        """Start a program with these standard descriptors; raises OSError when it cannot be executed.

        `session`: make it the leader of one; else it must do so itself.
        """
        stdin, stdout, stderr = descriptors
        with HUGE_PAGES, self._home.starting():
            process = subprocess.Popen(
                argv,
                executable=program,
                env=environment,
                cwd=directory,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                start_new_session=session,
                close_fds=False,  # there are none to close: Python opens all with O_CLOEXEC
                **_as_user(user),
            )
        disinherit(process.pid)
        self._processes.append(process)
        return process

    @property
    def pid(self) -> int:
        """The first process; 0 before there is one."""
        return self._processes[0].pid if self._processes else 0

    def watch(self) -> None:
        """Begin to wait for the ends."""
        if not self._processes:
            self._ended.set()
            return
        try:
            for process in self._processes:
                self._pidfds[process.pid] = os.pidfd_open(process.pid)
        except (AttributeError, OSError):  # before Python 3.9, or Linux 5.3
            self._close_pidfds()
            self._watch_in_thread()

    def filenos(self) -> list[int]:
        """Descriptors that become readable when a process ends."""
        return list(self._pidfds.values())

    def _watch_in_thread(self) -> None:
        watcher = threading.Thread(target=self._watch, name="process-watcher", daemon=True)
        watcher.start()
        self._watcher = watcher

    def may_have_ended(self, ready: Container[int]) -> bool:
        """Whether `ended` is worth a look, which costs a system call for each process: `ready` are those descriptors
        that are readable."""
        return not self._pidfds or any(fd in ready for fd in self._pidfds.values())

    @property
    def ended(self) -> bool:
        """Whether all processes have ended."""
        if self._pidfds:
            for pid in list(self._pidfds):
                if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None:
                    os.close(self._pidfds.pop(pid))
            if not self._pidfds:
                self._ended.set()
        return self._ended.is_set()

    def send(self, number: int) -> bool:
        """Send a signal to every process of the tree that is still there; False where all those that were started have
        ended."""
        with self._lock:
            if self._reaped:
                return False
            options = os.WEXITED | os.WNOWAIT | os.WNOHANG
            alive = any(os.waitid(os.P_PID, each.pid, options) is None for each in self._processes)
            self._send(number)
            return alive

    def close(self, wait: float) -> None:
        """Reap the processes; those that still run are killed first.

        What cannot even be killed within `wait` seconds (it hangs in the kernel) is left to the watcher.
        """
        if not self.ended:
            self.send(signal.SIGKILL)
        if self._pidfds:
            limit = Deadline(wait)
            while not self.ended and not limit.expired:
                poll = select.poll()
                for fd in self.filenos():
                    poll.register(fd, select.POLLIN)
                poll.poll(1000 * (limit.remaining() or 0))
            if not self.ended:
                self._close_pidfds()
                self._given_up = True
                self._watch_in_thread()
                return
        if self._watcher is None:
            with self._lock:
                self._reap()
            return
        self._watcher.join(wait)
        with self._lock:
            if self.ended:
                self._reap()
            else:
                self._given_up = True

    def _close_pidfds(self) -> None:
        while self._pidfds:
            os.close(self._pidfds.popitem()[1])

    def _watch(self) -> None:
        for process in self._processes:
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with self._lock:
            self._ended.set()
            if self._given_up:
                self._reap()
        self._wake.set()

    def _send(self, number: int) -> None:
        for process in self._processes:
            try:
                os.killpg(process.pid, number)
            except ProcessLookupError:  # it has not made its session yet
                os.kill(process.pid, number)

    def _reap(self) -> None:
        if not self._reaped:
            for process in self._processes:
                process.wait()  # returns at once: it has ended
            self._reaped = True


def _as_user(user: User | None) -> dict[str, Any]:
    """What Popen takes for a process of another user."""
    if user is None:
        return {}
    if sys.version_info >= (3, 9):
        return {"user": user.uid, "group": user.gid, "extra_groups": list(user.groups)}

    def become() -> None:
        os.setgroups(user.groups)
        os.setgid(user.gid)
        os.setuid(user.uid)

    return {"preexec_fn": become}
