"""What Linux offers for files and Python does not: holes, syncing a file system, renaming without replacing."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
from typing import Any, Iterator

from vsrpc.wire import Buffer

_RENAME_NOREPLACE = 1  # linux/fs.h
_PUNCH_HOLE = 0x03  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE (linux/falloc.h)
_ZEROS = bytes(1024 * 1024)


def write_all(fd: int, content: Buffer, offset: int) -> None:
    """Write all of it at an offset. Raises OSError."""
    written = os.pwrite(fd, content, offset)
    while written < len(content):
        with memoryview(content)[written:] as rest:
            written += os.pwrite(fd, rest, offset + written)


def rename_new(dirfd: int, source: str, target: str, target_dirfd: int | None = None) -> None:
    """Rename, and fail if the target exists: renameat2(2), for what cannot have hard links.

    Raises OSError; EOPNOTSUPP where the C library (glibc before 2.28) or the file system cannot do it.
    """
    function = getattr(_libc(), "renameat2", None)
    if function is None:
        raise OSError(errno.EOPNOTSUPP, "create without overwriting")
    into = dirfd if target_dirfd is None else target_dirfd
    if function(dirfd, os.fsencode(source), into, os.fsencode(target), _RENAME_NOREPLACE) != 0:
        number = ctypes.get_errno()
        if number in (errno.EINVAL, errno.ENOSYS):
            raise OSError(errno.EOPNOTSUPP, "create without overwriting")
        raise OSError(number, os.strerror(number))


def data_ranges(fd: int, start: int, size: int) -> Iterator[tuple[int, int]]:
    """Where a file of that size has data from `start` on, as offset and length; all of it where that is not known."""
    while start < size:
        try:
            begin = os.lseek(fd, start, os.SEEK_DATA)
            end = os.lseek(fd, begin, os.SEEK_HOLE)
        except OSError as failure:
            if failure.errno == errno.ENXIO:  # lseek(2): only a hole is left
                return
            begin, end = start, size
        end = min(end, size)
        if begin < end:
            yield begin, end - begin
        start = max(end, start + 1)


def punch_hole(fd: int, offset: int, length: int) -> None:
    """Make so many bytes a hole, up to the file's end at most, or zeros where there are no holes. Raises OSError."""
    length = min(length, os.fstat(fd).st_size - offset)
    if length <= 0:
        return
    function = getattr(_libc(), "fallocate64", None) or getattr(_libc(), "fallocate", None)
    if function is not None:
        arguments = (ctypes.c_int(fd), ctypes.c_int(_PUNCH_HOLE), ctypes.c_int64(offset), ctypes.c_int64(length))
        if function(*arguments) == 0:
            return
        number = ctypes.get_errno()
        if number not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
            raise OSError(number, os.strerror(number))
    for at in range(offset, offset + length, len(_ZEROS)):
        with memoryview(_ZEROS)[: offset + length - at] as zeros:
            write_all(fd, zeros, at)


def sync_file_system(fd: int) -> None:
    """Have all that was written on the file system of an open file written to its disk. Raises OSError."""
    function = getattr(_libc(), "syncfs", None)
    if function is None or function(ctypes.c_int(fd)) != 0:
        os.sync()


@functools.lru_cache(maxsize=1)
def default_umask() -> int:
    """This process's, which does not change."""
    return umask()


def umask() -> int:
    """This process's, without changing it for a moment, which other threads would see."""
    with open("/proc/self/status", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.startswith("Umask:"):  # proc(5): since Linux 4.7
                return int(line.split()[1], 8)
    return 0o077


def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)
