"""Listings, and the content of many files, below a directory that the policy has judged."""

from __future__ import annotations

import os
import stat
from typing import Callable, Iterable, Iterator, NamedTuple

from guest.errors import error
from guest.files.content import BLOCK, new_digest, read_full
from guest.files.entries import Owners, as_failure, entry
from guest.os_errors import printable
from guest.policy.resolve import kind
from guest.policy.tree import JudgedDirectory
from vsrpc.filetree import Failure, Parents, walk
from vsrpc.v1 import file_pb2 as pb

_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

GoOn = Callable[[], None]
"""Called now and then; raises when nobody waits any more."""


def entries(directory: JudgedDirectory, recursive: bool, after: str, limit: int, go_on: GoOn) -> Iterator[pb.FileEntry]:
    """What is in a directory, sorted; `limit` at most."""
    owners = Owners()
    for seen in walk(directory, recursive, after):
        if limit <= 0:
            return
        go_on()
        path = os.path.join(directory.path, seen.name)
        made = pb.FileEntry(name=os.fsencode(seen.name))
        if seen.status is not None:
            try:
                made = entry(seen.name, seen.status, owners, seen.directory, seen.leaf)
            except FileNotFoundError:
                continue
            except OSError as problem:
                made.failure.CopyFrom(as_failure(seen.name, path, problem))
        if seen.failure is not None:
            made.failure.CopyFrom(as_failure(seen.name, path, seen.failure))
        limit -= 1
        yield made


def the_entry(directory: JudgedDirectory, leaf: str, name: str) -> pb.FileEntry | None:
    """One thing in a directory, told under a name; None when it is not there. Raises RpcError, OSError."""
    try:
        status = os.stat(leaf, dir_fd=directory.fd, follow_symlinks=False)
    except FileNotFoundError:
        directory.check(leaf, None)
        return None
    directory.check(leaf, status)
    return entry(name, status, Owners(), directory, leaf)


class OpenFile(NamedTuple):
    """A regular file that may be read, open; who gets it closes `fd`."""

    fd: int
    size: int


def open_file(directory: JudgedDirectory, leaf: str) -> OpenFile:
    """Open a regular file in a directory. Raises OSError, RpcError."""
    fd = os.open(leaf, _OPEN, dir_fd=directory.fd)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            shown = printable(directory.child(leaf))
            raise error("WRONG_FILE_TYPE", f"Not a regular file but a {kind(status)}: {shown}", path=shown)
        directory.check(leaf, status)
    except BaseException:
        os.close(fd)
        raise
    return OpenFile(fd, status.st_size)


def read_files(
    directory: JudgedDirectory, names: Iterable[bytes], max_size: int, room: int, go_on: GoOn
) -> tuple[list[pb.FileContent], bytearray]:
    """Content of the files of these names, until `room` bytes are full: one result for each file, and all content."""
    results: list[pb.FileContent] = []
    content = bytearray()
    with Parents(directory) as parents:
        for each in names:
            go_on()
            name = os.fsdecode(each)
            try:
                parent, leaf = parents.of(name)
                fd, size = open_file(parent, leaf)
                try:
                    if size > max_size:
                        raise _too_large(directory, name, size, max_size)
                    if results and len(content) + size > room:
                        break
                    # One byte more, to see whether it has grown beyond what may be read.
                    data = os.read(fd, size + 1)
                    if len(data) != size:
                        data = read_full(fd, max_size + 1, 0)
                        if len(data) > max_size:
                            raise _too_large(directory, name, len(data), max_size)
                finally:
                    os.close(fd)
            except Failure as failure:
                told = as_failure(name, os.path.join(directory.path, name), failure)
                results.append(pb.FileContent(failure=told))
                continue
            content += data
            results.append(pb.FileContent(size=len(data)))
    return results, content


def _too_large(directory: JudgedDirectory, name: str, size: int, limit: int) -> Exception:
    shown = printable(os.path.join(directory.path, name))
    message = f"{shown} has {size} bytes, more than the {limit} asked for (read it in chunks)"
    return error("TOO_LARGE", message, path=shown, limit=limit)


def digests(fd: int, checksum: int, offset: int, length: int, block_size: int, go_on: GoOn, most: int) -> list[str]:
    """Digests of a part of an open file, one for each block of `block_size` bytes, or for all of it if that is 0.

    Raises OSError, and INVALID_PARAMS for more than `most` blocks.
    """
    end = offset + length
    if block_size and -(-length // block_size) > most:
        message = (
            f"{-(-length // block_size)} blocks are more than the {most} of a reply: ask for fewer, or larger ones"
        )
        raise error("INVALID_PARAMS", message, field="block_size")
    results: list[str] = []
    step = block_size or max(length, 1)
    for start in range(offset, max(end, offset + 1), step):
        digest = new_digest(checksum)
        stop = min(start + step, end)
        for at in range(start, stop, BLOCK):
            go_on()
            digest.update(read_full(fd, min(BLOCK, stop - at), at))
        results.append(str(digest.hexdigest()))
    return results
