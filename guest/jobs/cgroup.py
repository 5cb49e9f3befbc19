"""Control groups of jobs: what a job has started can be found, bounded and killed, also what left its session.

systemd hands the keeper's own group over to it (Delegate= in vsrpc-jobs.service; cgroups(7), version 2). Below it is a
group for each job, and one for the keeper: a group that hands controllers down has no processes of its own.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import threading
from dataclasses import dataclass
from pathlib import Path

from guest.errors import error
from vsrpc.deadline import Deadline
from vsrpc.errors import RpcError

_MOUNT = Path("/sys/fs/cgroup")
_KEEPER = "keeper"
_KILL_TIME = 2.0  # seconds, for kernels without cgroup.kill (before Linux 5.14)

# What systemd writes on a group that it has handed over (org.freedesktop.systemd1, "Delegate").
_DELEGATED = "trusted.delegate"

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
    """One job's group."""

    def __init__(self, path: Path, keeper: Path) -> None:
        self._path = path
        self._keeper = keeper

    def adopt(self, pid: int) -> None:
        """Take in a process that was just started, and those that it has started meanwhile."""
        try:
            _write(self._path / "cgroup.procs", pid)
            for other in _processes(self._keeper):
                if other != os.getpid() and _session(other) == pid:
                    _write(self._path / "cgroup.procs", other)
        except OSError as failure:
            if failure.errno != errno.ESRCH:  # it has ended already
                _log.warning("a process is not in its job's control group: %s", failure)

    def kill(self) -> None:
        """Kill all of its processes."""
        try:
            _write(self._path / "cgroup.kill", 1)
        except FileNotFoundError:
            limit = Deadline(_KILL_TIME)
            while not limit.expired:
                pids = _processes(self._path)
                if not pids:
                    return
                for pid in pids:
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except ProcessLookupError:
                        pass

    @property
    def out_of_memory(self) -> bool:
        """Whether the kernel killed it because it had used all memory that it may have."""
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


class Cgroups:
    """The groups of all jobs. Thread-safe."""

    def __init__(self, path: Path) -> None:
        """`path`: a group that is ours to divide, and has no processes but this one. Raises OSError."""
        self._path = path
        self._lock = threading.Lock()
        self._left: list[Cgroup] = []
        keeper = path / _KEEPER
        keeper.mkdir(exist_ok=True)
        _write(keeper / "cgroup.procs", os.getpid())
        there = (path / "cgroup.controllers").read_text().split()
        self._controllers = {"memory", "pids"}.intersection(there)
        _write(path / "cgroup.subtree_control", " ".join(f"+{name}" for name in self._controllers))

    @classmethod
    def delegated(cls) -> Cgroups | None:
        """Those below this process's own group, if systemd has handed that over."""
        try:
            lines = Path("/proc/self/cgroup").read_text().splitlines()
            own = next((line[3:] for line in lines if line.startswith("0::/")), "/")
            path = _MOUNT / own.lstrip("/")
            if own == "/" or os.getxattr(path, _DELEGATED) != b"1":
                return None
            return cls(path)
        except OSError as failure:
            _log.info("jobs have no control groups of their own: %s", failure)
            return None

    def make(self, name: str, limits: ResourceLimits) -> Cgroup:
        """A group. Raises RpcError NOT_SUPPORTED where it cannot keep the limits, SERVICE_UNAVAILABLE."""
        self.sweep()
        path = self._path / f"job-{name}"
        group = Cgroup(path, self._path / _KEEPER)
        try:
            path.mkdir()
            try:
                self._limit(path, limits)
            except BaseException:
                group.remove()
                raise
        except OSError as failure:
            message = f"The job cannot have a control group of its own: {failure}"
            raise error("SERVICE_UNAVAILABLE", message) from failure
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
            for file, value in (("memory.swap.max", 0), ("memory.oom.group", 1)):
                if (path / file).exists():  # without swap, or before Linux 4.19, they are not
                    _write(path / file, value)


def no_limits(why: str) -> RpcError:
    """The error of a job whose limits cannot be kept."""
    message = (
        f"This guest cannot limit a job's memory and processes: {why}. Start it without memory_limit and process_limit"
    )
    return error("NOT_SUPPORTED", message)


def _processes(path: Path) -> list[int]:
    return [int(line) for line in (path / "cgroup.procs").read_text().split()]


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0


def _write(file: Path, value: object) -> None:
    """As one write(2), which is what these files take."""
    fd = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, str(value).encode())
    finally:
        os.close(fd)


def _least(one: int | None, other: int | None) -> int | None:
    return min((value for value in (one, other) if value is not None), default=None)
