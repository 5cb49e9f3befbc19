"""The File service's calls for many files: listings, digests, and small files in batches."""

from __future__ import annotations

import functools
import os
import threading
from typing import Iterable

from guest.errors import error
from guest.files.content import digest_of
from guest.files.entries import as_failure, asked_path
from guest.files.reading import digests, entries, open_file, read_files, the_entry
from guest.files.target import check_space
from guest.files.temps import TempFiles
from guest.files.writing import TreeWriter
from guest.os_errors import file_errors, printable
from guest.policy.paths import METADATA, READ, WRITE, PathPolicy
from guest.policy.resolve import look
from guest.policy.tree import open_parent, open_place, open_tree
from vsrpc.bulk import bulk
from vsrpc.context import ServicerContext
from vsrpc.errors import RpcError
from vsrpc.filesystem import data_ranges, sync_file_system
from vsrpc.filetree import Failure, Parents
from vsrpc.v1 import file_pb2 as pb
from vsrpc.v1.file_vsrpc import FileServicer

MAX_ENTRIES = 10_000
"""Entries of a listing's reply."""

MAX_RANGES = 10_000
"""Ranges, and digests of one file, in a reply."""

SMALL_FILE = 1024 * 1024
"""Largest file, in bytes, that ReadFiles reads where the request does not say."""


class FileTrees(FileServicer):
    """Serves a part of File; see FileService."""

    _policy: PathPolicy
    _max_content: int
    _keep_free: int
    _temps: TempFiles | None
    # One after the other: threads that each make files would pass Python's lock to and fro at every system call.
    _one_tree = threading.Lock()

    def List(self, request: pb.ListRequest, context: ServicerContext) -> pb.ListResponse:
        """List a directory, or what is at a path."""
        path = asked_path(request)
        if not 0 <= request.limit <= MAX_ENTRIES:
            message = f"limit is {request.limit}: give 1 to {MAX_ENTRIES}, or 0 for that"
            raise error("INVALID_PARAMS", message, field="limit")
        limit = request.limit or MAX_ENTRIES
        follow = request.follow or not request.itself
        fd, real = look(path, follow)
        if fd is None and follow:
            self._policy.judge(path, real, None, METADATA)
            raise _not_found(path)
        if fd is not None:
            is_directory = os.path.isdir(f"/proc/self/fd/{fd}")
            os.close(fd)
            if is_directory and not request.itself:
                with open_tree(self._policy, path, METADATA) as directory, file_errors(path):
                    context.notes["rule"] = directory.rule
                    found = list(
                        entries(directory, request.recursive, os.fsdecode(request.after), limit + 1, _go_on(context))
                    )
                more = found[limit - 1].name if len(found) > limit else b""
                return pb.ListResponse(entries=found[:limit], next=more)
        return pb.ListResponse(entries=[self._itself(path, real if follow else path)])

    def _itself(self, path: str, real: str) -> pb.FileEntry:
        if real == "/":
            with open_tree(self._policy, real, METADATA):
                return pb.FileEntry(type="directory", mode="0755")
        with file_errors(path):
            directory, leaf = open_parent(self._policy, real, METADATA)
            with directory:
                found = the_entry(directory, leaf, "")
        if found is None:
            raise _not_found(path)
        return found

    @bulk(response="content")
    def ReadFiles(self, request: pb.ReadFilesRequest, context: ServicerContext) -> pb.ReadFilesResponse:
        """Read many small files."""
        path = asked_path(request)
        limit = min(request.max_size or SMALL_FILE, self._max_content)
        go_on = _go_on(context)
        with open_place(self._policy, path, READ) as directory:
            context.notes["rule"] = directory.rule
            files, content = read_files(directory, request.names, limit, self._max_content, go_on)
        note_failures(context, (each.failure for each in files if each.HasField("failure")))
        context.send_content(content)
        return pb.ReadFilesResponse(files=files, digest=_digest_of(content, request.checksum))

    @bulk(request="content")
    def WriteFiles(self, request: pb.WriteFilesRequest, context: ServicerContext) -> pb.WriteFilesResponse:
        """Make many small files, directories and links."""
        path, content = asked_path(request), context.content
        sizes = [each.size for each in request.files]
        if sum(sizes) != len(content) or min(sizes, default=0) < 0:
            message = f"The sizes of the files are {sum(sizes)} bytes together, but content has {len(content)}"
            raise error("INVALID_PARAMS", message, field="content")
        if request.digest and request.digest.lower() != _digest_of(content, request.checksum):
            raise error("CONTENT_MISMATCH", "The content is not what its digest says: send it again")
        overwrite = request.overwrite if request.HasField("overwrite") else True
        with open_place(self._policy, path, WRITE) as directory:
            context.notes["rule"] = directory.rule
            if self._keep_free:
                check_space(directory.fd, len(content), self._keep_free, path)
            with self._one_tree, TreeWriter(directory, content, overwrite, self._temps) as writer:
                writer.make(request.files, _go_on(context))
            if request.sync:
                with file_errors(path), context.waiting():
                    fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory.fd)
                    try:
                        sync_file_system(fd)
                    finally:
                        os.close(fd)
        note_failures(context, writer.failures)
        return pb.WriteFilesResponse(written=writer.written, failures=writer.failures)

    def Checksum(self, request: pb.ChecksumRequest, context: ServicerContext) -> pb.ChecksumResponse:
        """Digests of content."""
        path = asked_path(request)
        for field in ("offset", "length", "block_size"):
            if getattr(request, field) < 0:
                raise error("INVALID_PARAMS", f"{field} is {getattr(request, field)}: give 0 or more", field=field)
        if request.checksum not in (pb.CHECKSUM_UNSPECIFIED, pb.CHECKSUM_MD5, pb.CHECKSUM_SHA256):
            raise error("INVALID_PARAMS", "checksum is none of CHECKSUM_MD5, CHECKSUM_SHA256", field="checksum")
        if not request.names:
            fd, context.notes["rule"] = self._policy.open_read(path)
            try:
                with file_errors(path):
                    return pb.ChecksumResponse(files=[self._digests(fd, request, context)])
            finally:
                os.close(fd)
        results: list[pb.FileDigest] = []
        with open_place(self._policy, path, READ) as directory, Parents(directory) as parents:
            for each in request.names:
                name = os.fsdecode(each)
                try:
                    parent, leaf = parents.of(name)
                    fd, _ = open_file(parent, leaf)
                    try:
                        results.append(self._digests(fd, request, context))
                    finally:
                        os.close(fd)
                except Failure as failure:
                    if _ended(failure):
                        raise
                    results.append(pb.FileDigest(failure=as_failure(name, os.path.join(path, name), failure)))
        return pb.ChecksumResponse(files=results)

    def _digests(self, fd: int, request: pb.ChecksumRequest, context: ServicerContext) -> pb.FileDigest:
        size = os.fstat(fd).st_size
        rest = max(0, size - request.offset)
        length = min(request.length or rest, rest)
        found = digests(fd, request.checksum, request.offset, length, request.block_size, _go_on(context), MAX_RANGES)
        return pb.FileDigest(size=size, digests=found)

    def DataRanges(self, request: pb.DataRangesRequest, context: ServicerContext) -> pb.DataRangesResponse:
        """Where there is data."""
        path = asked_path(request)
        if request.offset < 0:
            raise error("INVALID_PARAMS", f"offset is {request.offset}: give 0 or more", field="offset")
        fd, context.notes["rule"] = self._policy.open_read(path)
        ranges: list[pb.DataRange] = []
        after: int | None = None
        try:
            with file_errors(path):
                size = os.fstat(fd).st_size
                for offset, length in data_ranges(fd, request.offset, size):
                    ranges.append(pb.DataRange(offset=offset, length=length))
                    if len(ranges) == MAX_RANGES:
                        after = offset + length
                        break
        finally:
            os.close(fd)
        return pb.DataRangesResponse(ranges=ranges, total_size=size, next_offset=after)


def _not_found(path: str) -> RpcError:
    return error("FILE_NOT_FOUND", f"No such file or directory: {printable(path)}", path=printable(path))


def _digest_of(content: bytes | bytearray | memoryview, checksum: int) -> str:
    if checksum == pb.CHECKSUM_CRC32:
        return ""
    return digest_of(content, lambda: None, checksum)


def _go_on(context: ServicerContext) -> functools.partial[None]:
    return functools.partial(go_on, context)


def go_on(context: ServicerContext) -> None:
    """Stop work for which nobody waits any more."""
    if context.deadline.expired:
        raise error("DEADLINE_EXCEEDED", "The call's time is up before its work was done: allow it more time")
    if not context.is_active():
        raise error("CANCELLED", "The caller cancelled the call")


def note_failures(context: ServicerContext, failures: Iterable[pb.FileFailure]) -> None:
    """Note for the audit log with how many files of a call something was wrong."""
    reasons = [each.reason for each in failures]
    refused = reasons.count("PERMISSION_DENIED")
    context.notes.update(refused=refused, failed=len(reasons) - refused)


def _ended(failure: Exception) -> bool:
    """Whether it is the call that failed, not one file."""
    return getattr(failure, "reason", "") in ("DEADLINE_EXCEEDED", "CANCELLED")
