"""Moves parts of a file in chunks, several under way at a time: what all transfers of large files share.

Knows the calls for chunks; what is moved, and what becomes of it, is the caller's.
"""

from __future__ import annotations

import sys
from collections import deque
from typing import Any, Callable, Iterable, Mapping, Protocol

from host.backend import Buffer, Reply, Started
from host.errors import RPCError
from host.transfer_options import CRC32, MD5, SHA256
from host.window import Piece, Window

FIELDS: Mapping[str, Mapping[str, str]] = {
    MD5: {},  # a guest that is older than the field knows only this one
    CRC32: {"checksum": "CHECKSUM_CRC32"},
    SHA256: {"checksum": "CHECKSUM_SHA256"},
}
"""How a request says which checksum is wanted."""


class FileCalls(Protocol):
    """Calls the File service. Failures are RPCError."""

    def call(self, rpc: str, fields: Mapping[str, Any], timeout: float | None = None) -> Reply:
        """Call an rpc and wait; `timeout` in seconds, None for the default."""

    def start(self, rpc: str, fields: Mapping[str, Any], timeout: float | None = None) -> Started:
        """Begin a call that may be repeated. `content` among the fields must not change until it has ended."""


def new_digest(checksum: str) -> Any:
    """A digest object: SHA-256, or MD5 for all else."""
    import hashlib  # here, so that commands without files do not pay for loading OpenSSL

    if checksum == SHA256:
        return hashlib.sha256()
    # It finds damage and protects nothing, so that a FIPS-mode OpenSSL may allow it (the argument is of Python 3.9).
    return hashlib.md5(usedforsecurity=False) if sys.version_info >= (3, 9) else hashlib.md5()


def digest_of(content: Buffer, checksum: str) -> str:
    """Digest of content in hexadecimal; "" for CRC32, which is of messages."""
    if checksum == CRC32:
        return ""
    digest = new_digest(checksum)
    digest.update(content)
    return str(digest.hexdigest())


def send(
    files: FileCalls,
    session: str,
    parts: Iterable[tuple[int, int]],
    read: Callable[[int, int], Buffer],
    chunk_size: int,
    suggested: int,
    sent: Callable[[int], None],
    checksum: str = "",
) -> None:
    """Send parts of a file, given as offset and size, to an upload that was begun. Ends early where `read` has no more.

    If the guest does not take chunks of that size, they have the one that it suggests. `sent` is told the bytes that
    have arrived. With a `checksum` each chunk has its digest. Raises RPCError, and what `read` raises.
    """
    more = iter(parts)
    waiting: deque[tuple[int, int]] = deque()
    under_way: deque[tuple[int, int]] = deque()
    ended = False
    with Window() as window:
        while True:
            while not ended and window.has_room(chunk_size):
                part = waiting.popleft() if waiting else next(more, None)
                if part is None:
                    break
                offset, size = part
                if size > chunk_size:
                    waiting.appendleft((offset + chunk_size, size - chunk_size))
                content = read(offset, min(size, chunk_size))
                if not len(content):
                    ended = True
                    break
                fields = {"session_id": session, "offset": offset, "content": content}
                if checksum and checksum != CRC32:
                    fields["digest"] = digest_of(content, checksum)
                window.add(Piece(offset, len(content), files.start("UploadChunk", fields)))
                under_way.append((offset, len(content)))
            if not window:
                return
            try:
                piece, _ = window.take()
            except RPCError as error:
                if error.reason != "TOO_LARGE" or not 0 < suggested < chunk_size:
                    raise
                window.cancel()
                waiting.extendleft(reversed(under_way))
                under_way.clear()
                chunk_size = suggested
                continue
            under_way.popleft()
            sent(piece.size)


def receive(
    files: FileCalls,
    fields: Mapping[str, Any],
    parts: deque[tuple[int, int]],
    chunk_size: int,
    took: Callable[[int, Reply], bool],
) -> None:
    """Have parts of a file sent, given as offset and size, to which `took` may add while they come.

    `took` is given each reply, in the order of the parts, and says whether bytes of the piece that was asked for are
    missing: they are then asked for again, as the guest's replies take no more. Raises RPCError, and what `took`
    raises.
    """

    def start(offset: int, size: int) -> Piece:
        return Piece(offset, size, files.start("DownloadChunk", {**fields, "offset": offset, "size": size}))

    with Window() as window:
        while parts or window:
            while parts and window.has_room(min(chunk_size, parts[0][1])):
                offset, size = parts.popleft()
                if size > chunk_size:
                    parts.appendleft((offset + chunk_size, size - chunk_size))
                    size = chunk_size
                window.add(start(offset, size))
            piece, reply = window.take()
            got = len(reply.content)
            if took(piece.offset, reply) and got < piece.size:
                chunk_size = max(got, 1)
                window.add_first(start(piece.offset + got, piece.size - got))
