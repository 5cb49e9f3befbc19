"""What an interrupted transfer leaves for the next one: a hidden file beside its target, on either side.

Its name says of which source (a key) and for which target it is. It is kept for a day, and never trusted: whoever goes
on with it compares digests of what is there. One that somebody else may have put there is removed, not used.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from typing import Callable

from vsrpc.newfile import NewFile

PREFIX = ".vsrpc-part-"

KEPT_SECONDS = 24 * 3600.0

_LONGEST = 255  # bytes of a name: NAME_MAX (linux/limits.h)
_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def partial_name(key: str, target: str) -> str:
    """The hidden name of what is left of a source's transfer to a target; `key` has no "-"."""
    return os.fsdecode(os.fsencode(f"{PREFIX}{key}-{target}")[:_LONGEST])


def open_partial(dirfd: int, name: str) -> int:
    """Open what is left, or make it, and lock it. Raises OSError; BlockingIOError where somebody writes it now."""
    fd = -1
    try:
        fd = os.open(name, _FLAGS, dir_fd=dirfd)
    except FileNotFoundError:
        pass
    except OSError as failure:
        if failure.errno not in (errno.ELOOP, errno.ENXIO, errno.EACCES):
            raise
        os.unlink(name, dir_fd=dirfd)
    if fd >= 0 and not _is_ours(os.fstat(fd)):
        os.close(fd)
        fd = -1
        os.unlink(name, dir_fd=dirfd)
    if fd < 0:
        fd = os.open(name, _FLAGS | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=dirfd)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.utime(fd)  # it is kept from now on
    except BaseException:
        os.close(fd)
        raise
    return fd


def remove_old(dirfd: int, target: str = "", but: str = "") -> None:
    """Remove what is left in a directory for longer than a day, and what is for `target` from another source.

    `but` is a name to be spared. Never raises: what cannot be removed stays.
    """
    with contextlib.suppress(OSError):
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=dirfd)
        try:
            names = [name for name in os.listdir(fd) if name.startswith(PREFIX) and name != but]
        finally:
            os.close(fd)
        for name in names:
            key = name[len(PREFIX) :].partition("-")[0]
            with contextlib.suppress(OSError):
                _remove_if(dirfd, name, bool(target) and name == partial_name(key, target))


def _remove_if(dirfd: int, name: str, whatever_age: bool) -> None:
    fd = os.open(name, _FLAGS, dir_fd=dirfd)
    try:
        status = os.fstat(fd)
        if _is_ours(status) and (whatever_age or time.time() - status.st_mtime > KEPT_SECONDS):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody writes it
            os.unlink(name, dir_fd=dirfd)
    finally:
        os.close(fd)


def _is_ours(status: os.stat_result) -> bool:
    """Whether nobody but us can have made it, or can change it."""
    private = stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and not status.st_mode & 0o077
    return private and status.st_uid == os.geteuid()


class KeptFile(NewFile):
    """A new file that is kept when it is discarded, unless `keep` is unset, and goes on with what is there.

    `left` is how many bytes that is.
    """

    def __init__(self, dirfd: int, key: str, target: str, noted: Callable[[str], None] = lambda name: None) -> None:
        """`noted` is told its hidden name. Raises OSError; BlockingIOError where another transfer writes it."""
        name = partial_name(key, target)
        noted(name)
        remove_old(dirfd, target, name)
        super().__init__(dirfd, PREFIX, open_partial(dirfd, name), name)
        self.keep = True
        self.left = os.fstat(self.fd).st_size

    def discard(self) -> None:
        """Remove it, unless it is to be kept."""
        if not self.keep:
            super().discard()
