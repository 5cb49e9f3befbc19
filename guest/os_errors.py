"""What the operating system says of a file, as an error of the schema: one mapping for all services."""

from __future__ import annotations

import errno
import os
from types import TracebackType

from guest.errors import error
from vsrpc.errors import RpcError

_EXISTS = ("FILE_EXISTS", "File exists and is not to be overwritten: {path} (choose another name, or overwrite it)")
_REASONS = {
    errno.ENOENT: ("FILE_NOT_FOUND", "No such file or directory: {path}"),
    errno.ENOTDIR: ("FILE_NOT_FOUND", "No such file or directory: {path} (a part of the path is not a directory)"),
    errno.EISDIR: ("WRONG_FILE_TYPE", "Is a directory, where a file is needed: {path}"),
    errno.ELOOP: ("WRONG_FILE_TYPE", "Symbolic links lead in a circle: {path}"),
    errno.EEXIST: _EXISTS,
    errno.ENOTEMPTY: _EXISTS,
    errno.ENAMETOOLONG: ("INVALID_PARAMS", "A part of the path is longer than its file system allows: {path}"),
    errno.EINVAL: ("INVALID_PARAMS", "The file system does not take this name: {path}"),
    errno.EACCES: ("PERMISSION_DENIED", "The guest's operating system refuses access: {path}"),
    errno.EPERM: ("PERMISSION_DENIED", "The guest's operating system refuses this: {path}"),
    errno.EROFS: ("PERMISSION_DENIED", "The file system is mounted read-only: {path}"),
    errno.EFBIG: ("TOO_LARGE", "Larger than a file may be on its file system: {path}"),
    errno.EOPNOTSUPP: ("NOT_SUPPORTED", "Its file system cannot do that: {path} ({cause})"),
    errno.EMFILE: ("BUSY", "The daemon has too many files open; try again later: {path}"),
    errno.ENFILE: ("BUSY", "The guest has too many files open; try again later: {path}"),
}


class file_errors:  # used like a function; one that yields costs more than what it guards
    """Turn an OSError about `path` into the RpcError for it; `dirfd` is where free space is counted."""

    __slots__ = ("_dirfd", "_path")

    def __init__(self, path: str, dirfd: int | None = None) -> None:
        self._path = path
        self._dirfd = dirfd

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, tb: TracebackType | None
    ) -> None:
        if isinstance(failure, OSError):
            raise as_rpc_error(failure, self._path, self._dirfd) from failure


def as_rpc_error(failure: OSError, path: str, dirfd: int | None = None) -> RpcError:
    """The RpcError for an OSError about `path`."""
    shown = printable(path)
    if failure.errno in (errno.ENOSPC, errno.EDQUOT):
        return _no_space(failure, shown, dirfd)
    reason, message = _REASONS.get(failure.errno or 0, ("INTERNAL_ERROR", "{path}: {cause}"))
    return error(reason, message.format(path=shown, cause=failure.strerror), path=shown)


def free_bytes(fd: int) -> int:
    """Bytes that can still be written on the file system of an open file or directory."""
    stats = _file_system(fd)
    return stats.f_bavail * stats.f_frsize


def printable(path: str) -> str:
    """A path as messages show it: bytes that are no UTF-8 and control characters are escaped."""
    if path.isprintable():  # as almost all are, and whole lines of the log too
        return path
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def _no_space(failure: OSError, shown: str, dirfd: int | None) -> RpcError:
    if failure.errno == errno.EDQUOT:
        return error("NO_SPACE", f"The disk quota is used up: {shown}", path=shown)
    if dirfd is None:
        return error("NO_SPACE", f"No space left on the file system: {shown}", path=shown)
    stats = _file_system(dirfd)
    if stats.f_files and not stats.f_favail:
        return error("NO_SPACE", f"No inodes left on the file system (too many files): {shown}", path=shown)
    free = stats.f_bavail * stats.f_frsize
    return error(
        "NO_SPACE", f"No space left on the file system ({free} bytes are free): {shown}", path=shown, free=free
    )


def _file_system(fd: int) -> os.statvfs_result:
    return os.statvfs(f"/proc/self/fd/{fd}")  # fstatvfs takes O_PATH descriptors only since Linux 3.12
