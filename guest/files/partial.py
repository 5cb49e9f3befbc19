"""What an interrupted upload leaves for the next one: a hidden file beside its target.

Its name says of which source (`key`) and for which target it is. It is kept for a day, and never trusted: the next
upload has the digests of what is there compared. Files that somebody else may have put there are removed, not used.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
import time

from guest.errors import error
from guest.files.target import Resumable, TargetFile, TargetSpec
from guest.os_errors import printable
from guest.policy.paths import PathPolicy

PARTIAL_PREFIX = ".vsrpc-part-"

KEPT_SECONDS = 24 * 3600.0

_KEY = re.compile(r"[0-9A-Za-z]{8,64}\Z")
_LONGEST = 255  # bytes of a name: NAME_MAX (linux/limits.h)


class PartialFile(TargetFile):
    """A new file for the target that outlives its upload, and goes on with what an earlier one has left.

    `left` is how many bytes that is. Raises what TargetFile raises; BUSY if another daemon writes it.
    """

    def __init__(self, policy: PathPolicy, spec: TargetSpec, key: str) -> None:
        if not _KEY.match(key):
            message = f"resume_key {key[:64]!r} is not 8 to 64 letters and digits"
            raise error("INVALID_PARAMS", message, field="resume_key")
        self.left = 0
        self._key = key
        super().__init__(policy, spec)
        self.resume = Resumable(spec.path, key)

    def cut(self, size: int) -> None:
        """Forget what was left beyond a size; raises RpcError."""
        if self.left > size:
            self.set_size(size)
            self.left = size

    def discard(self) -> None:
        """Let go of it, and remove it unless it is to be kept; does nothing the second time."""
        if self.resume is not None:
            self._temp = ""
        super().discard()

    def _create(self) -> None:
        name = partial_name(self._key, self._name)
        remove_old(self._dirfd, self._name, name)
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        fd = -1
        with contextlib.suppress(FileNotFoundError):
            try:
                fd = os.open(name, flags, dir_fd=self._dirfd)
            except OSError as failure:
                if failure.errno not in (errno.ELOOP, errno.ENXIO, errno.EACCES, errno.EISDIR):
                    raise
                os.unlink(name, dir_fd=self._dirfd)
        if fd >= 0 and not _is_ours(os.fstat(fd)):
            os.close(fd)
            fd = -1
            os.unlink(name, dir_fd=self._dirfd)
        if fd < 0:
            fd = os.open(name, flags | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=self._dirfd)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            shown = printable(self.spec.path)
            raise error(
                "BUSY", f"Another upload of the same file is going on: {shown} (wait for it)", path=shown
            ) from None
        except BaseException:
            os.close(fd)
            raise
        self.fd = fd
        self._temp = name
        self.left = os.fstat(fd).st_size
        os.utime(fd)  # it is kept from now on


def partial_name(key: str, target: str) -> str:
    """The hidden name of what is left of a source's upload to a target."""
    whole = os.fsencode(f"{PARTIAL_PREFIX}{key}-{target}")
    return os.fsdecode(whole[:_LONGEST])


def remove_old(dirfd: int, target: str = "", but: str = "") -> None:
    """Remove what is left in a directory for longer than a day, and what is for `target` from another source.

    Never raises: what cannot be removed stays.
    """
    with contextlib.suppress(OSError):
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=dirfd)
        try:
            names = [name for name in os.listdir(fd) if name.startswith(PARTIAL_PREFIX) and name != but]
        finally:
            os.close(fd)
        for name in names:
            key = name[len(PARTIAL_PREFIX) :].partition("-")[0]
            with contextlib.suppress(OSError):
                _remove_if(dirfd, name, bool(target) and name == partial_name(key, target))


def _remove_if(dirfd: int, name: str, whatever_age: bool) -> None:
    fd = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=dirfd)
    try:
        status = os.fstat(fd)
        if _is_ours(status) and (whatever_age or time.time() - status.st_mtime > KEPT_SECONDS):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody writes it
            os.unlink(name, dir_fd=dirfd)
    finally:
        os.close(fd)


def _is_ours(status: os.stat_result) -> bool:
    """Whether nobody but the daemon can have made it, or can change it."""
    private = stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and not status.st_mode & 0o077
    return private and status.st_uid == os.geteuid()
