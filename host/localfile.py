"""The local ends of a transfer: the file an upload reads, the file a download writes.

Nothing here knows the guest. Errors are OSErrors of their kind whose `strerror` says what to do and whose `filename`
is the path. A download becomes visible only when it is complete: it is written to a hidden name in the target's
directory, synced and renamed. A target that is no regular file (a pipe, /dev/null) is written to directly.
"""

from __future__ import annotations

import errno
import os
import stat
from types import TracebackType
from typing import Union

Buffer = Union[bytes, bytearray, memoryview]

_HINTS = {
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path",
    errno.EACCES: "check the permissions",
    errno.EPERM: "check the permissions",
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EROFS: "choose another place",
}


def _explained(error: OSError, doing: str, path: str) -> OSError:
    """The same error with a message that names what was tried and what to do."""
    number = error.errno or errno.EIO
    hint = _HINTS.get(number)
    text = f"cannot {doing}: {os.strerror(number)}" + (f"; {hint}" if hint else "")
    return OSError(number, text, path)


def read_up_to(fd: int, size: int) -> bytes:
    """`size` bytes of what is open, fewer only at its end. Raises OSError."""
    parts: list[bytes] = []
    while size:
        part = os.read(fd, size)
        if not part:
            break
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


class Source:
    """A regular file to upload. Raises OSError for anything else. A context manager."""

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            # O_NONBLOCK: opening a FIFO that nobody writes to must not hang before it is refused.
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise _explained(error, "read it", path) from None
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(self._fd)
            if stat.S_ISDIR(status.st_mode):
                raise OSError(errno.EISDIR, "is a directory; upload a file, for example a tar archive of it", path)
            raise OSError(errno.EINVAL, "is not a regular file; copy its content to a file and upload that", path)
        self.size = status.st_size
        """Bytes in the file when it was opened."""
        self._mtime = status.st_mtime_ns

    def read_at(self, offset: int, size: int) -> bytes:
        """`size` bytes from an offset on, fewer only at the file's end."""
        parts: list[bytes] = []
        while size > 0:
            try:
                part = os.pread(self._fd, size, offset)
            except OSError as error:
                raise _explained(error, "read it", self.path) from None
            if not part:
                break
            parts.append(part)
            offset += len(part)
            size -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    @property
    def changed(self) -> bool:
        """Whether its content was changed since it was opened."""
        return os.fstat(self._fd).st_mtime_ns != self._mtime

    def size_now(self) -> int:
        """Bytes in the file now."""
        return os.fstat(self._fd).st_size

    def __enter__(self) -> Source:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        os.close(self._fd)


def destination_path(local: str, remote: str) -> str:
    """Where a download goes: `local`, or below it under the remote name if it is a directory, as with scp."""
    if os.path.isdir(local):
        return os.path.join(local, os.path.basename(remote.rstrip("/")) or "download")
    if local.endswith("/"):
        raise OSError(errno.ENOENT, "no such directory; create it first", local)
    return local


class Destination:
    """A file that a download writes. As a context manager it leaves nothing behind unless `commit` was called."""

    def __init__(self, path: str, overwrite: bool) -> None:
        self.path = path
        self._overwrite = overwrite
        self._temporary: str | None = None
        # Through a symlink, as any writer would go; renaming would replace the link itself.
        self._target = os.path.realpath(path)
        try:
            existing: os.stat_result | None = os.stat(self._target)
        except FileNotFoundError:
            existing = None
        except OSError as error:
            raise _explained(error, "write it", path) from None
        if existing is not None and stat.S_ISDIR(existing.st_mode):
            raise OSError(errno.EISDIR, "is a directory; name the file to write", path)
        if existing is not None and not overwrite:
            raise self._exists()
        if existing is not None and not stat.S_ISREG(existing.st_mode):
            self._fd = self._open(path, os.O_WRONLY)
            return
        directory, name = os.path.split(self._target)
        if not os.path.isdir(directory):
            raise OSError(errno.ENOENT, f"directory {directory} does not exist; create it first", path)
        temporary = os.path.join(directory, f".{name[:200]}.{os.urandom(4).hex()}.part")
        self._fd = self._open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        self._temporary = temporary
        if existing is not None:
            self._resemble(existing)

    def _open(self, path: str, flags: int) -> int:
        try:
            return os.open(path, flags | os.O_CLOEXEC, 0o666)
        except OSError as error:
            doing = "write it" if path == self.path else f"write to directory {os.path.dirname(path)}"
            raise _explained(error, doing, self.path) from None

    def _resemble(self, existing: os.stat_result) -> None:
        try:
            os.fchown(self._fd, existing.st_uid, existing.st_gid)
        except PermissionError:
            pass  # only root may give files away; the content matters more
        os.fchmod(self._fd, stat.S_IMODE(existing.st_mode))

    def _exists(self) -> OSError:
        return OSError(errno.EEXIST, "already exists; choose another name, or let it be overwritten", self.path)

    def write(self, data: Buffer) -> None:
        """Append bytes."""
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except BrokenPipeError:
            raise
        except OSError as error:
            raise _explained(error, "write it", self.path) from None

    def commit(self) -> None:
        """Make the file visible under its name, complete and on disk."""
        if self._temporary is None:
            return
        try:
            os.fsync(self._fd)
            if self._overwrite:
                os.replace(self._temporary, self._target)
            else:
                os.link(self._temporary, self._target)  # unlike a rename, it never replaces what came meanwhile
                os.unlink(self._temporary)
        except FileExistsError:
            raise self._exists() from None
        except OSError as error:
            raise _explained(error, "put it in place", self.path) from None
        self._temporary = None

    def __enter__(self) -> Destination:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        os.close(self._fd)
        if self._temporary is not None:
            os.unlink(self._temporary)
