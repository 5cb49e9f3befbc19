"""Large files of a copy: in chunks, without their holes, and from where an earlier transfer was interrupted.

What is there already is never trusted: its blocks count only if their digests are those of the source. Each chunk that
is moved has a digest, so none is needed of the whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from itertools import count
from typing import Any, Callable, Iterable, Iterator, Mapping, Tuple

from host.backend import Buffer
from host.chunks import FIELDS, digest_of, send
from host.copy.guest import LONG, GuestTree
from host.copy.options import Options
from host.errors import RPCError, failure
from host.names import path_fields, shown
from host.transfer_options import MD5, SHA256
from host.window import Piece, Window
from vsrpc.filesystem import data_ranges

_COMPARED = 64 * 1024 * 1024  # bytes whose digests go in one call
_ABORT_TIMEOUT = 5.0  # seconds; a guest that is gone drops the session by itself

_ATTEMPTS = 10  # for an upload that the guest knows nothing of any more: two that write the same file end each other's

Range = Tuple[int, int]
Counted = Callable[[int, int], None]
"""Told bytes that are done, and how many of them had to cross the port."""


def pieces(ranges: Iterable[Range], size: int) -> Iterator[Range]:
    """Ranges in pieces of that size at most."""
    for offset, length in ranges:
        for start in range(offset, offset + length, size):
            yield start, min(size, offset + length - start)


def holes(ranges: Iterable[Range], size: int) -> Iterator[Range]:
    """What lies between ranges of data in a file of that size."""
    at = 0
    for offset, length in ranges:
        if offset > at:
            yield at, offset - at
        at = offset + length
    if at < size:
        yield at, size - at


def runs(pieces: Iterable[Range], block: int) -> Iterator[tuple[int, list[Range]]]:
    """Pieces that follow each other, each but the last a whole block: what one call can compare."""
    run: list[Range] = []
    for piece in pieces:
        after = run and run[-1][0] + block == piece[0]
        if run and not (after and len(run) * block < _COMPARED):
            yield run[0][0], run
            run = []
        run.append(piece)
    if run:
        yield run[0][0], run


def key(*identity: object) -> str:
    """The name of a source: what makes another one of it gives another key."""
    return hashlib.sha256("\0".join(map(str, identity)).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def strong(checksum: str) -> str:
    """The digest by which blocks are compared."""
    return SHA256 if checksum == SHA256 else MD5


class LargeUpload:
    """One local file on its way to the guest. `fd` is open for reading and stays the caller's."""

    def __init__(self, guest: GuestTree, fd: int, path: str, target: str, options: Options, counted: Counted) -> None:
        self._guest = guest
        self._fd = fd
        self._path = path
        self._target = target
        self._options = options
        self._counted = counted
        self._status = os.fstat(fd)
        self._done = 0

    def run(self, fields: Mapping[str, Any]) -> None:
        """Move it; `fields` are those of the new file. Goes on where the link breaks. Raises RPCError, OSError."""
        begun: float | None = None
        for attempt in count(1):
            before = self._done
            try:
                self._once(fields)
                return
            except RPCError as error:
                lost = error.reason in ("SESSION_NOT_FOUND", "OUTCOME_UNKNOWN")
                if lost and attempt < _ATTEMPTS:  # the daemon has started anew
                    error = failure("SERVICE_UNAVAILABLE", error.message)
                begun = self._guest.bear(error, begun if self._done == before else None)
            self._counted(-self._done, 0)
            self._done = 0

    def _once(self, fields: Mapping[str, Any]) -> None:
        size, options = self._status.st_size, self._options
        ranges = list(data_ranges(self._fd, 0, size)) if self._status.st_blocks * 512 < size else [(0, size)]
        request = {**path_fields(self._target), **fields, "size": size, **FIELDS[options.checksum]}
        request["chunk_digests"] = True
        if ranges != [(0, size)]:
            request["data_size"] = max(1, sum(length for _, length in ranges))
        if options.resumable(size):
            request["resume_key"] = key(self._path, size, self._status.st_mtime_ns, self._target)
        files = self._guest.files
        begun = files.call("InitUpload", request).data
        session: str = begun["session_id"]
        try:
            self._send(session, ranges, int(begun.get("resumable", 0)), int(begun["chunk_size"]))
            self._check_unchanged()
            files.call("FinishUpload", {"session_id": session}, LONG)
        except BaseException as error:
            keep = options.resume and not (isinstance(error, RPCError) and error.reason == "CONTENT_MISMATCH")
            with contextlib.suppress(RPCError):
                if not (isinstance(error, RPCError) and error.reason.startswith("CONNECTION")):
                    files.call("AbortUpload", {"session_id": session, "keep": keep}, _ABORT_TIMEOUT)
            raise

    def _send(self, session: str, ranges: list[Range], left: int, suggested: int) -> None:
        files, size, chunk_size = self._guest.files, self._status.st_size, self._options.chunk_size
        with Window() as window:
            for offset, length in holes(ranges, size):
                if not window.has_room(0):
                    window.take()
                fields = {"session_id": session, "offset": offset, "hole": length}
                window.add(Piece(offset, 0, files.start("UploadChunk", fields)))
            while window:
                window.take()

        def sent(size: int) -> None:
            self._count(size, size)

        # Without a digest of the whole, each chunk has its own.
        checksum = self._options.checksum
        send(files, session, self._missing(session, ranges, left), self._read, chunk_size, suggested, sent, checksum)

    def _missing(self, session: str, ranges: list[Range], left: int) -> Iterator[Range]:
        """The parts of the data that are not there yet."""
        block = self._options.chunk_size
        wanted = list(pieces(ranges, block))
        old = [piece for piece in wanted if piece[0] + piece[1] <= left]
        for offset, run in runs(old, block):
            digests = [digest_of(self._read(*piece), strong(self._options.checksum)) for piece in run]
            fields = {"session_id": session, "offset": offset, "block_size": block, "digests": digests}
            if run[-1][1] < block and run[-1][0] + run[-1][1] < self._status.st_size:
                fields["digests"] = digests[:-1]  # the last one ends before a hole, and is no whole block
            present: list[bool] = []
            if fields["digests"]:
                present = list(self._guest.files.call("ResumeUpload", fields, LONG).data["present"])
            for piece, there in zip(run, present + [False] * len(run)):
                if there:
                    self._count(piece[1], 0)
                else:
                    yield piece
        yield from wanted[len(old) :]

    def _read(self, offset: int, size: int) -> Buffer:
        return os.pread(self._fd, size, offset)

    def _count(self, done: int, sent: int) -> None:
        self._done += done
        self._counted(done, sent)

    def _check_unchanged(self) -> None:
        now = os.fstat(self._fd)
        if (now.st_size, now.st_mtime_ns) != (self._status.st_size, self._status.st_mtime_ns):
            message = f"{shown(self._path)} changed while it was copied; copy it again when nothing writes to it"
            raise failure("CONTENT_MISMATCH", message, path=shown(self._path))
