"""Whose turn it is at a port: an advisory lock among the clients of one host, with a queue.

A port's socket serves one client at a time, and keeps others waiting without a word. So ours take turns by a lock file
each of which names its holder. The lock is the kernel's (flock(2)): it ends with its holder, whatever that dies of. A
second file is held by the one who waits next, so that a holder can see that somebody waits.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import sys
import time

from vsrpc.deadline import Deadline

LOCK_DIR_VARIABLE = "VSRPC_LOCK_DIR"

# flock(2) knows no time-out: how often the lock is tried, in seconds.
_TRY = 0.01

_NAME_MAX = 255


class LockUnusable(Exception):
    """No lock can be had, whoever holds it; the text names the path, the cause and the way out."""


class PortBusy(Exception):
    """Another process has held the port for all the time that there was; the text names it."""


class PortLock:
    """The lock of one socket, for one owner; not for several threads at once."""

    def __init__(self, socket_path: str, directory: str | None = None) -> None:
        """`directory`: where the lock files of all clients are; by default the same for all processes of a user, and
        for root that of the system."""
        self._socket_path = socket_path
        self._directory = directory
        self._files: tuple[str, str] | None = None
        self._mode = 0o600
        self._held: int | None = None
        self._process = 0  # that has taken it

    @property
    def held(self) -> bool:
        """Whether we hold it."""
        return self._held is not None

    def acquire(self, deadline: Deadline) -> bool:
        """Hold the lock; False where it is not to be had at once and the deadline has passed already.

        Raises LockUnusable; PortBusy at the deadline.
        """
        lock, queue = self._paths()
        # Who has just let go does not take it from the one who has waited for that.
        held = None if self.wanted() else self._try(lock)
        if held is None:
            if deadline.expired:
                return False
            held = self._wait(lock, queue, deadline)
        os.ftruncate(held, 0)
        os.pwrite(held, f"{os.getpid()}\n{_command()}\n".encode("utf-8", "replace"), 0)
        self._held, self._process = held, os.getpid()
        return True

    def release(self) -> None:
        """Let the next one have it; nothing where we do not hold it."""
        held, self._held = self._held, None
        if held is not None and self._process == os.getpid():
            _let_go(held, self._paths()[0])
        elif held is not None:  # a fork of the one that holds it
            os.close(held)

    def wanted(self) -> bool:
        """Whether somebody waits for us."""
        queue = self._paths()[1]
        try:
            waiting = self._try(queue)
        except LockUnusable:  # nobody could wait there
            return False
        if waiting is None:
            return True
        _let_go(waiting, queue)
        return False

    def holder(self) -> str:
        """Who holds it, for messages: "process 17 (vsrpc-host download …)"; "" where nobody does."""
        lock, _ = self._paths()
        free = self._try(lock)
        if free is not None:
            _let_go(free, lock)
            return ""
        try:
            with open(lock, encoding="utf-8", errors="replace") as file:
                pid, _, command = file.read().partition("\n")
        except OSError:
            pid, command = "", ""
        if not pid:
            return f"a process that has just taken it (fuser {lock} names it)"
        if not os.path.exists(f"/proc/{pid}"):
            return f"a child that process {pid} left behind when it died (fuser {lock} names it)"
        return f"process {pid} ({command.strip()})"

    def _wait(self, lock: str, queue: str, deadline: Deadline) -> int:
        waiting: int | None = None
        try:
            while True:
                if waiting is None:
                    waiting = self._try(queue)
                if waiting is not None:
                    held = self._try(lock)
                    if held is not None:
                        return held
                if deadline.expired:
                    raise PortBusy(f"the port is held by {self.holder() or 'others in turn'}")
                time.sleep(_TRY)
        finally:
            if waiting is not None:
                _let_go(waiting, queue)

    def _paths(self) -> tuple[str, str]:
        if self._files is None:
            directory = _directory(self._directory)
            # One name for one socket, by whatever path it is reached.
            name = os.path.realpath(self._socket_path).strip("/").replace("%", "%25").replace("/", "%")
            name = os.fsdecode(os.fsencode(name)[-(_NAME_MAX - len(".queue")) :])
            self._files = os.path.join(directory, f"{name}.lock"), os.path.join(directory, f"{name}.queue")
            # Who may take turns here may use each other's lock files.
            self._mode = stat.S_IMODE(os.stat(directory).st_mode) & 0o666
        return self._files

    def _try(self, path: str) -> int | None:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise LockUnusable(_cannot(os.path.dirname(path), error)) from error
        try:
            _share(fd, self._mode)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            if error.errno == errno.EWOULDBLOCK:
                return None
            raise LockUnusable(_cannot(os.path.dirname(path), error)) from error
        if os.fstat(fd).st_nlink == 0:  # its last holder has removed it meanwhile
            os.close(fd)
            return None
        return fd


def _share(fd: int, mode: int) -> None:
    """Give a lock file of our own its mode, whatever the umask."""
    status = os.fstat(fd)
    if status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) != mode:
        os.fchmod(fd, mode)


def _let_go(fd: int, path: str) -> None:
    """Remove a lock file that we hold: whoever has it open already sees that it is no longer the one."""
    with contextlib.suppress(OSError):
        os.unlink(path)
    os.close(fd)


def _directory(wanted: str | None) -> str:
    """The directory of lock files, made if it is not there. Raises LockUnusable."""
    wanted = wanted or os.environ.get(LOCK_DIR_VARIABLE)
    private = not wanted
    if wanted:
        path = wanted
    elif os.geteuid() == 0:
        path = "/run/vsrpc"
    elif os.environ.get("XDG_RUNTIME_DIR"):
        path = os.path.join(os.environ["XDG_RUNTIME_DIR"], "vsrpc")
    else:
        path = f"/tmp/vsrpc-{os.geteuid()}"
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
        status = os.lstat(path) if private else os.stat(path)
    except OSError as error:
        raise LockUnusable(_cannot(path, error)) from error
    if not stat.S_ISDIR(status.st_mode):
        raise LockUnusable(f"the lock directory {path} is no directory; {_WAY_OUT}")
    if private and status.st_uid != os.geteuid():  # in /tmp, anybody may have made it
        raise LockUnusable(f"the lock directory {path} belongs to uid {status.st_uid}; remove it, or {_WAY_OUT}")
    return path


_WAY_OUT = f"name another one in connection.lock_dir of the configuration, or in {LOCK_DIR_VARIABLE}"


def _cannot(directory: str, error: OSError) -> str:
    return (
        f"the directory {directory} cannot be used to take turns at the port: {error.strerror}; "
        f"see to it that it exists and this user may write there, or {_WAY_OUT}"
    )


def _command() -> str:
    """This process, as somebody who waits for it would know it."""
    program, *arguments = sys.argv or [""]
    package, name = os.path.split(program or sys.executable)
    words = [f"python -m {os.path.basename(package)}" if name == "__main__.py" else name, *arguments]
    text = " ".join(words).replace("\n", " ")
    return text if len(text) <= 120 else text[:117] + "..."
