"""Large files on their way from the guest: see host.copy.large."""

from __future__ import annotations

import os
from collections import deque
from typing import Any, Iterator, Mapping

from host.backend import Reply
from host.chunks import FIELDS, digest_of, receive
from host.copy.entry import Entry
from host.copy.guest import LONG, GuestTree
from host.copy.large import Counted, Range, holes, key, pieces, runs, strong
from host.copy.options import Options
from host.errors import RPCError, failure
from host.names import path_fields, shown
from host.transfer_options import CRC32, SHA256
from vsrpc.filesystem import punch_hole, write_all
from vsrpc.filetree import Directory
from vsrpc.newfile import Attributes, NewFile, put_file
from vsrpc.partial import PREFIX, KeptFile


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
            for offset, length in holes(ranges, self._size) if left else ():
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
        name = key(self._path, self._size, self._mtime_ns, self._leaf)
        return KeptFile(self._directory.fd, name, self._leaf)

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
        block, checksum = self._options.chunk_size, strong(self._options.checksum)
        wanted = list(pieces(ranges, block))
        old = [piece for piece in wanted if piece[0] + piece[1] <= left]
        for offset, run in runs(old, block):
            length = run[-1][0] + run[-1][1] - offset
            fields = {**path_fields(self._path), **FIELDS[checksum], "offset": offset, "length": length}
            fields["block_size"] = block
            theirs = self._guest.reply("Checksum", fields, LONG).data["files"][0]["digests"]
            for piece, digest in zip(run, [*theirs, *[""] * len(run)]):
                if digest_of(os.pread(fd, piece[1], piece[0]), checksum) == digest:
                    self._counted(piece[1], 0)
                else:
                    yield piece
        yield from wanted[len(old) :]

    def _receive(self, fd: int, todo: deque[Range]) -> None:
        fields = {**path_fields(self._path), **FIELDS[self._options.checksum]}
        begun: float | None = None

        def took(offset: int, reply: Reply) -> bool:
            nonlocal begun
            self._check(offset, reply)
            got = len(reply.content)
            start, size = todo.popleft()
            if start != offset or got > size:
                raise failure("PROTOCOL_ERROR", f"the guest sent {got} bytes of {size} that were asked for")
            write_all(fd, reply.content, offset)
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
