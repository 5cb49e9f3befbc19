"""Temporary files that have names: where they are is noted, so that those of a daemon that died can be removed.

A note is a symbolic link to the file, in a directory of the daemon that made it, which it keeps locked while it lives:

    STATE/uploads/DAEMON/TOKEN -> /home/.vsrpc-upload-…

The kernel lets go of the lock whatever the daemon dies of; the next one that gets it removes what the notes tell. So
nothing is removed that a living daemon uses, nor anything that no daemon of this guest has made, however it is named.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import secrets
import stat
import threading
from typing import Callable

from guest.os_errors import printable

TEMP_PREFIX = ".vsrpc-upload-"

_NAME = re.compile(re.escape(TEMP_PREFIX) + r"[0-9a-f]{32}\Z")
_SYSTEM_STATE = "/var/lib/vsrpc-guest"
_NOWHERE = (errno.ENOENT, errno.ENOTDIR)

_log = logging.getLogger(__name__)


def state_directory() -> str:
    """Where the daemon keeps what must outlive it: systemd's StateDirectory if the unit has one."""
    given = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if given:
        return given
    if os.geteuid() == 0:
        return _SYSTEM_STATE
    state = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    return os.path.join(state, "vsrpc-guest")


class TempFiles:
    """The notes of one daemon, below the directory `state`, which is made when it is needed. Thread-safe."""

    def __init__(self, state: str) -> None:
        self._uploads = os.path.join(state, "uploads")
        self._lock = threading.Lock()
        self._own = ""
        self._own_fd = -1
        self._warned = False

    def note(self, directory: str, name: str, *, durable: bool = False) -> str:
        """Note a file that is about to be made; returns what to `forget`. A note that cannot be made is logged, once,
        and keeps no upload from going on.

        `durable`: the note outlives a loss of power.
        """
        token = secrets.token_hex(8)
        try:
            with self._lock:
                if self._own_fd < 0:
                    self._own, self._own_fd = _locked_directory(self._uploads)
                os.symlink(os.path.join(directory, name), token, dir_fd=self._own_fd)
                if durable:
                    os.fsync(self._own_fd)
        except OSError as failure:
            if not self._warned:
                self._warned = True
                why = failure.strerror or failure
                _log.warning("%s: %s; a crash of the daemon may leave temporary files behind", self._uploads, why)
            return ""
        return token

    def forget(self, token: str) -> None:
        """The file is gone, or has its final name."""
        with self._lock:
            if token and self._own_fd >= 0:
                _unlink(token, self._own_fd)

    def close(self) -> None:
        """Leave nothing in the state directory, if nothing is noted."""
        with self._lock:
            if self._own_fd < 0:
                return
            try:
                os.rmdir(self._own)
            except OSError:  # what is noted is a leftover for the next daemon
                pass
            os.close(self._own_fd)
            self._own_fd = -1

    def remove_leftovers(self, on_removed: Callable[[str], None] = lambda path: None) -> None:
        """Remove what daemons that died have left, and tell of each file. A file system that hangs makes this hang."""
        try:
            names = os.listdir(self._uploads)
        except OSError as failure:
            if failure.errno not in _NOWHERE:
                _log.warning("%s: %s; temporary files may be left of a crash", self._uploads, failure.strerror)
            return
        for name in names:
            path = os.path.join(self._uploads, name)
            fd = -1
            try:
                fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for token in os.listdir(fd):
                    _remove_noted(fd, token, on_removed)
                os.rmdir(path)
            except OSError as failure:  # EAGAIN: its daemon lives; ENOTEMPTY: something could not be removed
                if failure.errno not in (errno.EAGAIN, errno.ENOTEMPTY, *_NOWHERE):
                    _log.warning("%s: %s; temporary files may be left of a crash", path, failure.strerror)
            finally:
                if fd >= 0:
                    os.close(fd)


class Noted:
    """Takes note of the temporary name of one file in an open directory (vsrpc.newfile.Note)."""

    __slots__ = ("_dirfd", "_temps", "_token")

    def __init__(self, temps: TempFiles | None, dirfd: int) -> None:
        self._temps = temps
        self._dirfd = dirfd
        self._token = ""

    def __call__(self, name: str, durable: bool) -> None:
        if self._temps is None:
            return
        if name:
            directory = os.readlink(f"/proc/self/fd/{self._dirfd}")
            self._token = self._temps.note(directory, name, durable=durable)
        else:
            self._temps.forget(self._token)


def _locked_directory(parent: str) -> tuple[str, int]:
    """A new directory, locked."""
    os.makedirs(parent, mode=0o700, exist_ok=True)
    while True:
        path = os.path.join(parent, secrets.token_hex(8))
        os.mkdir(path, 0o700)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(fd), os.stat(path)):
                return path, fd
            os.close(fd)
        except FileNotFoundError:  # another daemon that starts has taken it for a dead one's and removed it
            pass


def _remove_noted(notes: int, token: str, on_removed: Callable[[str], None]) -> None:
    """Remove the file of one note, and the note; a file that is not there any more is fine."""
    path = os.readlink(token, dir_fd=notes)
    directory, name = os.path.split(path)
    if _NAME.match(name):
        try:
            if _remove_file(directory, name):
                _log.warning("%s: removed, an upload that ended with its daemon", printable(path))
                on_removed(path)
        except OSError as failure:
            _log.warning("%s: cannot remove what a crash left: %s", printable(path), failure.strerror)
            return  # the next daemon tries again
    _unlink(token, notes)


def _remove_file(directory: str, name: str) -> bool:
    """Remove a regular file or a link if it is there, and its directory still where it was: links lead nowhere else."""
    try:
        fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as failure:
        if failure.errno in _NOWHERE:
            return False
        raise
    try:
        if os.readlink(f"/proc/self/fd/{fd}") != directory:
            return False
        mode = os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
            return False
        os.unlink(name, dir_fd=fd)
        return True
    except FileNotFoundError:
        return False
    finally:
        os.close(fd)


def _unlink(name: str, dirfd: int) -> None:
    try:
        os.unlink(name, dir_fd=dirfd)
    except OSError:  # the directory or its file system is gone or read-only: there is nobody to tell
        pass
