"""Large files of a copy: in chunks, without their holes, and from where an earlier transfer was interrupted.

What is there already is never trusted: its blocks count only if their digests are those of the source. Each chunk that
is moved has a digest, so none is needed of the whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections import deque
from itertools import count
from typing import Any, Callable, Iterable, Iterator, Mapping, Tuple

from host.backend import Buffer, Reply
from host.chunks import FIELDS, digest_of, receive, send
from host.copy.entry import Entry
from host.copy.guest import LONG, GuestTree
from host.copy.options import Options
from host.errors import RPCError, failure
from host.names import path_fields, shown
from host.transfer_options import CRC32, MD5, SHA256
from host.window import Piece, Window
from vsrpc.filetree import Directory
from vsrpc.newfile import Attributes, NewFile, data_ranges, punch_hole, put_file, write_all
from vsrpc.partial import PREFIX, KeptFile

_COMPARED = 64 * 1024 * 1024  # bytes whose digests go in one call
_ABORT_TIMEOUT = 5.0  # seconds; a guest that is gone drops the session by itself

_ATTEMPTS = 10  # for an upload that the guest knows nothing of any more: two that write the same file end each other's

Range = Tuple[int, int]
Counted = Callable[[int, int], None]
"""Told bytes that are done, and how many of them had to cross the port."""


def _pieces(ranges: Iterable[Range], size: int) -> Iterator[Range]:
    """Ranges in pieces of that size at most."""
    for offset, length in ranges:
        for start in range(offset, offset + length, size):
            yield start, min(size, offset + length - start)


def _holes(ranges: Iterable[Range], size: int) -> Iterator[Range]:
    """What lies between ranges of data in a file of that size."""
    at = 0
    for offset, length in ranges:
        if offset > at:
            yield at, offset - at
        at = offset + length
    if at < size:
        yield at, size - at


def _runs(pieces: Iterable[Range], block: int) -> Iterator[tuple[int, list[Range]]]:
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


def _key(*identity: object) -> str:
    """The name of a source: what makes another one of it gives another key."""
    return hashlib.sha256("\0".join(map(str, identity)).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _strong(checksum: str) -> str:
    """The digest by which blocks are compared."""
    return SHA256 if checksum == SHA256 else MD5


# -- to the guest


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
            request["resume_key"] = _key(self._path, size, self._status.st_mtime_ns, self._target)
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
            for offset, length in _holes(ranges, size):
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
        pieces = list(_pieces(ranges, block))
        old = [piece for piece in pieces if piece[0] + piece[1] <= left]
        for offset, run in _runs(old, block):
            digests = [digest_of(self._read(*piece), _strong(self._options.checksum)) for piece in run]
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
        yield from pieces[len(old) :]

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


# -- from the guest


class LargeDownload:
    """One file of the guest on its way to a place in an open directory."""

    def __init__(
        self,
        guest: GuestTree,
        entry: Entry,
        path: str,
        directory: Directory,
        leaf: str,
        options: Options,
        counted: Counted,
    ) -> None:
        self._guest = guest
        self._path = path
        self._size = entry.size
        self._sparse = entry.sparse
        self._mtime_ns = entry.mtime_ns
        self._directory = directory
        self._leaf = leaf
        self._options = options
        self._counted = counted
        self._first: Mapping[str, Any] = {}

    def run(self, attributes: Attributes) -> None:
        """Move it. Goes on where the link breaks. Raises RPCError, OSError."""
        file = self._new_file()
        done = False
        try:
            left = file.left if isinstance(file, KeptFile) else 0
            if left > self._size:
                os.ftruncate(file.fd, self._size)
            ranges = list(self._data_ranges()) if self._sparse else [(0, self._size)]
            for offset, length in _holes(ranges, self._size) if left else ():
                punch_hole(file.fd, offset, length)
            todo = deque(self._missing(file.fd, ranges, min(left, self._size)))
            self._receive(file.fd, todo)
            os.ftruncate(file.fd, self._size)
            if left:
                self._check_same()
            put_file(file, self._directory.fd, self._leaf, attributes, self._options.overwrite)
            done = True
        except RPCError as error:
            if error.reason == "CONTENT_MISMATCH":
                done = True  # there is nothing worth keeping
            raise
        finally:
            if isinstance(file, KeptFile):
                file.keep = not done
            file.discard()
            os.close(file.fd)

    def _new_file(self) -> NewFile:
        if not self._options.resumable(self._size):
            return NewFile(self._directory.fd, PREFIX)
        key = _key(self._path, self._size, self._mtime_ns, self._leaf)
        return KeptFile(self._directory.fd, key, self._leaf)

    def _data_ranges(self) -> Iterator[Range]:
        fields: dict[str, Any] = path_fields(self._path)
        while True:
            data = self._guest.reply("DataRanges", fields).data
            for each in data["ranges"]:
                offset = int(each["offset"])
                if offset < self._size:
                    yield offset, min(int(each["length"]), self._size - offset)
            if "next_offset" not in data or data["next_offset"] is None:
                return
            fields["offset"] = int(data["next_offset"])

    def _missing(self, fd: int, ranges: list[Range], left: int) -> Iterator[Range]:
        """The parts of the data that are not here yet."""
        block, checksum = self._options.chunk_size, _strong(self._options.checksum)
        pieces = list(_pieces(ranges, block))
        old = [piece for piece in pieces if piece[0] + piece[1] <= left]
        for offset, run in _runs(old, block):
            length = run[-1][0] + run[-1][1] - offset
            fields = {**path_fields(self._path), **FIELDS[checksum], "offset": offset, "length": length}
            fields["block_size"] = block
            theirs = self._guest.reply("Checksum", fields, LONG).data["files"][0]["digests"]
            for piece, digest in zip(run, [*theirs, *[""] * len(run)]):
                if digest_of(os.pread(fd, piece[1], piece[0]), checksum) == digest:
                    self._counted(piece[1], 0)
                else:
                    yield piece
        yield from pieces[len(old) :]

    def _receive(self, fd: int, todo: deque[Range]) -> None:
        fields = {**path_fields(self._path), **FIELDS[self._options.checksum]}
        begun: float | None = None

        def took(offset: int, reply: Reply) -> bool:
            nonlocal begun
            self._check(offset, reply)
            write_all(fd, reply.content, offset)
            got = len(reply.content)
            start, size = todo.popleft()
            if got < size:
                todo.appendleft((start + got, size - got))
            self._counted(got, got)
            begun = None
            return got < size

        while todo:
            try:
                receive(self._guest.files, fields, deque(todo), self._options.chunk_size, took)
            except RPCError as error:
                if "total_size" in error.data:
                    raise self._changed("was cut") from error
                begun = self._guest.bear(error, begun)

    def _check(self, offset: int, reply: Reply) -> None:
        data, checksum = reply.data, self._options.checksum
        self._first = self._first or data
        if data.get("file_id") != self._first.get("file_id"):
            raise self._changed("was replaced by another file")
        total = int(data["total_size"])
        if total < self._size or not len(reply.content):
            raise self._changed("was cut")
        if data.get("version") != self._first.get("version") and total == int(self._first["total_size"]):
            raise self._changed("was changed")
        if int(data["offset"]) != offset:
            raise failure(
                "PROTOCOL_ERROR", f"the guest sent bytes from {data['offset']} on, asked for those from {offset}"
            )
        field = "chunk_sha256" if checksum == SHA256 else "chunk_md5"
        if checksum != CRC32 and data.get(field) != digest_of(reply.content, checksum):
            message = f"{shown(self._path)} at offset {offset} was damaged on the way; copy it again"
            raise failure("CONTENT_MISMATCH", message, path=shown(self._path))

    def _check_same(self) -> None:
        """What was left is of the file as it was when its key was made."""
        now = self._guest.entry(self._path)
        if now is None or now.size < self._size or (now.size == self._size and now.mtime_ns != self._mtime_ns):
            raise self._changed("was changed")

    def _changed(self, what: str) -> RPCError:
        message = f"{shown(self._path)} {what} while it was copied; copy it again when nothing writes to it"
        return failure("CONTENT_MISMATCH", message, path=shown(self._path))
