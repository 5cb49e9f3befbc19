"""Control groups of jobs: what a job has started can be found, limited and killed, also what left its session.

systemd hands the keeper's own group over to it (Delegate= in vsrpc-jobs.service; cgroups(7), version 2). Below it is a
group for each job, and one for the keeper: a group that hands controllers down has no processes of its own.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

from guest.errors import error
from vsrpc.deadline import Deadline
from vsrpc.errors import RpcError

_MOUNT = Path("/sys/fs/cgroup")
_KEEPER = "keeper"
_UNIT = "/vsrpc-jobs.service"
_KILL_TIME = 2.0  # seconds, for kernels without cgroup.kill (before Linux 5.14)
_KILL_PAUSE = 0.01
_START_TIME = 30.0  # seconds that the start of a process may take, from a file system that does not answer
_ROUNDS = 1000  # in which processes that go on starting others are moved

# What systemd writes on a group that it has handed over (org.freedesktop.systemd1, "Delegate").
_DELEGATED = "trusted.delegate"

_GONE = (errno.ENOENT, errno.ENODEV)  # of a group's file, where the group has been removed

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ResourceLimits:
    """What all processes of a job may use together; None for no limit."""

    memory: int | None = None
    """Bytes; none of it is swapped."""
    processes: int | None = None
    """Processes and threads."""

    def within(self, other: ResourceLimits) -> ResourceLimits:
        """The narrower ones of both."""
        return ResourceLimits(_least(self.memory, other.memory), _least(self.processes, other.processes))


NO_LIMITS = ResourceLimits()


class Cgroup:
    """One job's group; a `process_tree.Home`."""

    def __init__(self, groups: Cgroups, path: Path, limits: ResourceLimits) -> None:
        self._groups = groups
        self._path = path
        self._limits = limits

    @contextlib.contextmanager
    def starting(self) -> Iterator[None]:
        """Around the start of a process: it, and what it has started by then, is in the group afterwards.

        Raises OSError: EAGAIN where there are as many processes as may be; another where one that must be limited could
        not be, and was killed.
        """
        # A process begins in the group of the one that starts it. One start at a time: what is there is this one's.
        if not self._groups.starts.acquire(timeout=_START_TIME):
            raise OSError(errno.EAGAIN, f"the start of another process has not ended for {_START_TIME:g} s")
        try:
            most = self._limits.processes
            if most is not None and int((self._path / "pids.current").read_text()) >= most:
                raise OSError(errno.EAGAIN, f"the job has {most} processes already, which is its limit")
            yield
            self._take_in_all()
        finally:
            self._groups.starts.release()

    def kill(self) -> None:
        """Kill all of its processes."""
        try:
            _write(self._path / "cgroup.kill", 1)
        except OSError as failure:
            if failure.errno not in _GONE:
                raise
            self._kill_each()

    @property
    def out_of_memory(self) -> bool:
        """Whether the kernel killed it because it had used all memory that it may have."""
        if self._limits.memory is None:
            return False
        try:
            events = (self._path / "memory.events").read_text()
        except OSError:
            return False
        return any(line.startswith("oom_kill ") and not line.endswith(" 0") for line in events.splitlines())

    def remove(self) -> bool:
        """Remove it where no process is left in it."""
        try:
            self._path.rmdir()
        except FileNotFoundError:
            pass
        except OSError:
            return False
        return True

    def _take_in_all(self) -> None:
        try:
            self._take_in()
        except OSError as failure:
            if self._limits == NO_LIMITS:
                _log.warning("a process is not in its job's control group: %s", failure)
                return
            for pid in self._groups.strays():
                _kill(pid)
            raise

    def _take_in(self) -> None:
        for _ in range(_ROUNDS):
            strays = self._groups.strays()
            if not strays:
                return
            for pid in strays:
                with contextlib.suppress(ProcessLookupError):  # it has ended already
                    _write(self._path / "cgroup.procs", pid)
        raise OSError(errno.EAGAIN, "it starts processes faster than they can be moved")

    def _kill_each(self) -> None:
        """For kernels that cannot do it at once."""
        limit = Deadline(_KILL_TIME)
        while not limit.expired:
            try:
                pids = _processes(self._path)
            except OSError as failure:
                if failure.errno not in _GONE:
                    raise
                return
            if not pids:
                return
            for pid in pids:
                _kill(pid)
            time.sleep(_KILL_PAUSE)


class Cgroups:
    """The groups of all jobs. Thread-safe."""

    def __init__(self, path: Path) -> None:
        """`path`: a group that is ours to divide, and has no processes but this one. Raises OSError."""
        self._path = path
        self._lock = threading.Lock()
        self._left: list[Cgroup] = []
        self.starts = threading.Lock()
        """Held while a process is started."""
        self._keeper = path / _KEEPER
        self._keeper.mkdir(exist_ok=True)
        _write(self._keeper / "cgroup.procs", os.getpid())
        there = (path / "cgroup.controllers").read_text().split()
        self._controllers = {"memory", "pids"}.intersection(there)
        _write(path / "cgroup.subtree_control", " ".join(f"+{name}" for name in self._controllers))

    @classmethod
    def delegated(cls) -> Cgroups:
        """Those below this process's own group. Raises OSError where systemd has not handed that over."""
        own = _own_group("0::")
        path = _MOUNT / own.lstrip("/")
        if own in ("", "/") or os.getxattr(path, _DELEGATED) != b"1":
            raise OSError(errno.EPERM, "systemd has handed over no control group of version 2", str(path))
        return cls(path)

    def make(self, name: str, limits: ResourceLimits) -> Cgroup:
        """A group. Raises RpcError NOT_SUPPORTED where it cannot keep the limits; OSError."""
        self.sweep()
        path = self._path / f"job-{name}"
        group = Cgroup(self, path, limits)
        path.mkdir()
        try:
            self._limit(path, limits)
        except BaseException:
            group.remove()
            raise
        return group

    def give_back(self, group: Cgroup) -> None:
        """Its job has ended. It is removed when all that the job has left behind has ended too."""
        if not group.remove():
            with self._lock:
                self._left.append(group)

    def sweep(self) -> bool:
        """Remove what is empty by now; whether anything is left behind."""
        with self._lock:
            self._left = [group for group in self._left if not group.remove()]
            return bool(self._left)

    def strays(self) -> list[int]:
        """Processes that were just started, and are in no job's group yet."""
        own = os.getpid()
        return [pid for pid in _processes(self._keeper) if pid != own]

    def _limit(self, path: Path, limits: ResourceLimits) -> None:
        for controller, file, limit in (
            ("memory", "memory.max", limits.memory),
            ("pids", "pids.max", limits.processes),
        ):
            if limit is None:
                continue
            if controller not in self._controllers:
                raise no_limits(f"the kernel's controller {controller!r} is not there")
            _write(path / file, limit)
        if limits.memory is not None:
            self._keep_in_memory(path)

    @staticmethod
    def _keep_in_memory(path: Path) -> None:
        if (path / "memory.swap.max").exists():
            _write(path / "memory.swap.max", 0)
        elif len(Path("/proc/swaps").read_text().splitlines()) > 1:
            raise no_limits("the kernel does not count what is swapped (swapaccount=1 on its command line)")
        if (path / "memory.oom.group").exists():  # since Linux 4.19
            _write(path / "memory.oom.group", 1)


def others_in_unit() -> bool:
    """Whether the keeper's unit has processes beside it, where jobs have no groups of their own."""
    for prefix, mount in (("0::", _MOUNT), ("0::", _MOUNT / "unified"), ("1:name=systemd:", _MOUNT / "systemd")):
        own = _own_group(prefix)
        if own.endswith(_UNIT):
            with contextlib.suppress(OSError):
                return len(_processes(mount / own.lstrip("/"))) > 1
    return False


def no_limits(why: str) -> RpcError:
    """The error of a job whose limits cannot be kept."""
    return error(
        "NOT_SUPPORTED",
        f"This guest cannot limit a job's memory and processes: {why}. Start it without memory_limit and "
        "process_limit; where limits.job_memory or limits.job_processes ask for it, change the guest's configuration",
    )


def _own_group(prefix: str) -> str:
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    return next((line[len(prefix) :] for line in lines if line.startswith(prefix)), "")


def _processes(path: Path) -> list[int]:
    return [int(line) for line in (path / "cgroup.procs").read_text().split()]


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _write(file: Path, value: object) -> None:
    """As one write(2), which is what these files take."""
    fd = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, str(value).encode())
    finally:
        os.close(fd)


def _least(one: int | None, other: int | None) -> int | None:
    return min((value for value in (one, other) if value is not None), default=None)
