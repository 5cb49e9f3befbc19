"""What a path really names: opened without side effects, and where the kernel says that it is.

Nothing here judges; guest.policy.paths does.
"""

from __future__ import annotations

import errno
import os
import stat

from guest.errors import error
from guest.os_errors import as_rpc_error, file_errors, printable

_LONGEST_PATH = 4095  # bytes: PATH_MAX less its NUL (linux/limits.h)
_MOST_LINKS = 40  # symbolic links followed in one path: MAXSYMLINKS (linux/namei.h)
_NOWHERE = (errno.ENOENT, errno.ENOTDIR)


def look(path: str, follow: bool = True) -> tuple[int | None, str]:
    """Open what `path` names (O_PATH; None when nothing is there), and where that is or would be.

    `follow`: what a symbolic link leads to, else the link itself. Raises RpcError.
    """
    path = plain(path)
    flags = os.O_PATH | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    try:
        fd = os.open(path, flags)
    except OSError as failure:
        if failure.errno not in _NOWHERE:
            raise as_rpc_error(failure, path) from failure
        return None, _would_be(path)
    try:
        return fd, where(fd, path)
    except BaseException:
        os.close(fd)
        raise


def where(fd: int, path: str) -> str:
    """The real path of an open file; raises FILE_NOT_FOUND when it was removed meanwhile."""
    with file_errors(path):
        real = os.readlink(f"/proc/self/fd/{fd}")
        if real.endswith(" (deleted)"):  # added by the kernel (d_path), unless it is the file's name
            try:
                same = os.path.samestat(os.stat(real, follow_symlinks=False), os.fstat(fd))
            except OSError:
                same = False
            if not same:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    return real


def reopen(fd: int, path: str) -> int:
    """Open for reading the regular file that an O_PATH descriptor holds: that one, whatever its name means now."""
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise error("WRONG_FILE_TYPE", f"Not a regular file but a {kind(os.fstat(fd))}: {printable(path)}", path=path)
    with file_errors(path):
        return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)


_KINDS = (
    (stat.S_ISREG, "file"),
    (stat.S_ISDIR, "directory"),
    (stat.S_ISLNK, "symbolic link"),
    (stat.S_ISFIFO, "FIFO"),
    (stat.S_ISSOCK, "socket"),
)


def kind(status: os.stat_result) -> str:
    """The kind of a file, in words."""
    return next((word for test, word in _KINDS if test(status.st_mode)), "device")


def plain(path: str) -> str:
    """The path, if it is one that can be judged; raises MISSING_REQUIRED, INVALID_PARAMS."""
    if not path:
        raise error("MISSING_REQUIRED", "path is missing: give an absolute path", field="path")
    if "\0" in path:
        raise error("INVALID_PARAMS", f"path has a NUL character: {_shown(path)}", field="path")
    if not path.startswith("/"):
        raise error("INVALID_PARAMS", f"path is not absolute: {_shown(path)} (begin it with '/')", field="path")
    if len(path) > _LONGEST_PATH or len(os.fsencode(path)) > _LONGEST_PATH:
        raise error("INVALID_PARAMS", f"path is longer than {_LONGEST_PATH} bytes: {_shown(path)}", field="path")
    return path


def within(real: str, place: str) -> bool:
    """Whether a path is a place or below it."""
    return real == place or real.startswith(place if place.endswith("/") else place + "/")


def world_visible(path: str, real: str, fd: int | None) -> bool:
    """Whether every user of the guest could see this path and what was opened there, or that nothing is.

    Each directory on the way, links followed, must be searchable by all, and the file itself readable by all. Both the
    way that was asked for and the real one are walked, since somebody may have changed the first meanwhile.
    """
    if fd is not None and not os.fstat(fd).st_mode & stat.S_IROTH:
        return False
    return all(map(_is_walkable, {path, real}))


def _is_walkable(path: str) -> bool:
    try:
        return _walk_as_other(path)
    except OSError as failure:
        return failure.errno in _NOWHERE


def _walk_as_other(path: str) -> bool:
    pending = path.split("/")[::-1]
    at = "/"
    links = 0
    while pending:
        name = pending.pop()
        if name in ("", "."):
            continue
        if not os.stat(at).st_mode & stat.S_IXOTH:
            return False
        at = os.path.dirname(at) if name == ".." else os.path.join(at, name)
        if pending and os.path.islink(at):
            links += 1
            if links > _MOST_LINKS:
                return False
            target = os.readlink(at)
            pending.extend(target.split("/")[::-1])
            at = "/" if target.startswith("/") else os.path.dirname(at)
    return bool(os.lstat(at).st_mode & stat.S_IROTH)


def _would_be(path: str) -> str:
    """Where a path that leads nowhere would be: its deepest directory that exists, resolved, and the rest."""
    rest: list[str] = []
    while True:
        path, name = os.path.split(path.rstrip("/"))
        rest.insert(0, name)
        try:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC | os.O_DIRECTORY)
        except OSError as failure:
            if failure.errno not in _NOWHERE:
                raise as_rpc_error(failure, path) from failure
            continue
        try:
            return os.path.normpath(os.path.join(where(fd, path), *rest))
        finally:
            os.close(fd)


def _shown(path: str) -> str:
    return printable(path if len(path) <= 200 else path[:200] + "…")
