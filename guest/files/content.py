"""Content of open files: reading it whole, and its MD5.

MD5 is what the schema's `md5` fields hold: it finds accidents, it is no protection.
"""

from __future__ import annotations

import hashlib
import os
from typing import Any, Callable

from vsrpc.wire import Buffer

SHA256 = 3
"""CHECKSUM_SHA256 of the schema."""

BLOCK = 1024 * 1024
"""Bytes read at a time where a file is only digested."""

# Bytes digested before it is asked whether somebody still waits: tens of milliseconds of a slow guest. Each piece costs
# a turn among the threads.
_BETWEEN = 2 * 1024 * 1024


def read_full(fd: int, length: int, offset: int) -> bytes:
    """Read `length` bytes at an offset; fewer only at the file's end. Raises OSError."""
    content = os.pread(fd, length, offset)
    if len(content) == length or not content:
        return content  # one read, no copy: what regular files always do
    parts = [content]
    done = len(content)
    while done < length:
        part = os.pread(fd, length - done, offset + done)
        if not part:
            break
        parts.append(part)
        done += len(part)
    return b"".join(parts)


def read_into(fd: int, buffer: bytearray, offset: int) -> None:
    """Fill the buffer from an offset on; what is beyond the file's end is cut off the buffer. Raises OSError."""
    done = os.preadv(fd, [buffer], offset)
    while 0 < done < len(buffer):
        with memoryview(buffer)[done:] as rest:
            count = os.preadv(fd, [rest], offset + done)
        if not count:
            break
        done += count
    del buffer[done:]


def new_md5() -> Any:
    """An MD5 object, also where the system is in FIPS mode."""
    try:
        return hashlib.md5(usedforsecurity=False)
    except TypeError:  # Python 3.8 does not know the argument
        return hashlib.md5()


def new_digest(checksum: int) -> Any:
    """A digest object for a checksum of the schema: SHA-256, or MD5 for all else."""
    return hashlib.sha256() if checksum == SHA256 else new_md5()


def digest_of(content: Buffer, go_on: Callable[[], None], checksum: int = 0) -> str:
    """Digest of bytes, in hexadecimal; `go_on` is called before each block and may raise."""
    digest = new_digest(checksum)
    with memoryview(content) as view:
        for start in range(0, len(view), _BETWEEN):
            go_on()
            digest.update(view[start : start + _BETWEEN])
    return str(digest.hexdigest())


def md5_of_file(fd: int, size: int, go_on: Callable[[], None]) -> str:
    """MD5 of the first `size` bytes of a file, in hexadecimal; `go_on` is called before each block and may raise."""
    digest = new_md5()
    for offset in range(0, size, BLOCK):
        go_on()
        digest.update(read_full(fd, min(BLOCK, size - offset), offset))
    return str(digest.hexdigest())
