"""The File service: whole files in one call, larger ones in chunks.

What a caller may touch is the path policy's matter; how a file gets in place is guest.files.target's. Here
requests are checked and replies are made.
"""

from __future__ import annotations

import contextlib
import functools
import grp
import os
import pwd
import re
import stat
from typing import Callable

from guest.errors import error
from guest.files.buffers import BufferPool
from guest.files.content import md5_of, md5_of_file, read_into
from guest.files.sessions import UploadSessions
from guest.files.target import TargetFile, TargetSpec
from guest.files.temps import TempFiles
from guest.files.upload import UploadSession
from guest.os_errors import file_errors, printable
from guest.policy.paths import Found, PathPolicy
from guest.policy.resolve import reopen
from vsrpc.bulk import bulk
from vsrpc.context import ServicerContext
from vsrpc.errors import RpcError
from vsrpc.v1 import file_pb2 as pb
from vsrpc.v1.file_vsrpc import FileServicer

CHUNK_SIZE = 2 * 1024 * 1024
"""Bytes of a chunk where the caller does not say."""

MAX_CHUNK_SIZE = 5 * 1024 * 1024
"""Most bytes that a caller may ask for in one chunk."""

MD5_LIMIT = 16 * 1024 * 1024
"""Largest file, in bytes, whose MD5 Stat computes: a fraction of a second of work."""

_REPLY_OVERHEAD = 16 * 1024  # bytes of a reply beside its content: a path, numbers, framing

_MD5 = re.compile(r"[0-9A-Fa-f]{32}\Z")


class FileService(FileServicer):
    """Serves File. `max_reply` is the largest reply in bytes; `stop` drops the uploads that are open.

    Uploads leave `keep_free` bytes free on their file system; `temps` knows their temporary files.
    """

    def __init__(
        self,
        policy: PathPolicy,
        max_reply: int,
        sessions: UploadSessions,
        keep_free: int = 0,
        temps: TempFiles | None = None,
    ) -> None:
        self._keep_free = keep_free
        self._temps = temps
        self._policy = policy
        self._max_content = max_reply - _REPLY_OVERHEAD
        self._chunk_size = min(CHUNK_SIZE, self._max_content * 3 // 4)  # fits a request also in base64
        self._sessions = sessions
        self._buffers = BufferPool()

    def stop(self) -> None:
        """Drop all uploads and take no more."""
        self._sessions.stop()

    def Upload(self, request: pb.UploadRequest, context: ServicerContext) -> pb.UploadResponse:
        """Write a small file in one call."""
        content = request.content
        md5 = md5_of(content, functools.partial(_go_on, context))
        target = self._target(request)
        context.notes["rule"] = target.rule
        try:
            target.write(content, 0)
            target.commit()
        finally:
            target.discard()
        return pb.UploadResponse(path=request.path, size=len(content), md5=md5)

    def Download(self, request: pb.DownloadRequest, context: ServicerContext) -> pb.DownloadResponse:
        """Read a file, or a part of it."""
        _not_negative("length", request.length)
        buffer, total, _ = self._read(request.path, request.offset, request.length or self._max_content, context)
        content = bytes(buffer)
        self._buffers.give(buffer)
        return pb.DownloadResponse(
            path=request.path,
            content=content,
            size=len(content),
            total_size=total,
            offset=request.offset,
            md5=md5_of(content, functools.partial(_go_on, context)),
        )

    @bulk(response="content")
    def DownloadChunk(self, request: pb.DownloadChunkRequest, context: ServicerContext) -> pb.DownloadChunkResponse:
        """Read one chunk."""
        _not_negative("size", request.size)
        _known_checksum(request.checksum)
        if request.size > MAX_CHUNK_SIZE:
            message = f"size {request.size} is over the limit of a chunk: ask for at most {MAX_CHUNK_SIZE} bytes"
            raise error("INVALID_PARAMS", message, field="size", limit=MAX_CHUNK_SIZE)
        content, total, status = self._read(request.path, request.offset, request.size or CHUNK_SIZE, context)
        end = request.offset + len(content)
        md5 = "" if request.checksum == pb.CHECKSUM_CRC32 else md5_of(content, functools.partial(_go_on, context))
        context.send_content(content, functools.partial(self._buffers.give, content))
        return pb.DownloadChunkResponse(
            path=request.path,
            offset=request.offset,
            size=len(content),
            total_size=total,
            chunk_md5=md5,
            has_more=end < total,
            next_offset=end if end < total else None,
            file_id=f"{status.st_dev:x}:{status.st_ino:x}",
            version=f"{status.st_mtime_ns:x}",
        )

    def Stat(self, request: pb.StatRequest, context: ServicerContext) -> pb.StatResponse:
        """Describe a file; a symbolic link is described itself."""
        found = self._policy.open_metadata(request.path)
        context.notes["rule"] = found.rule
        if found.fd is None:
            return pb.StatResponse(path=request.path, exists=False)
        try:
            status = os.fstat(found.fd)
            return pb.StatResponse(
                path=request.path,
                exists=True,
                type=_type(status.st_mode),
                size=status.st_size,
                mode=f"{stat.S_IMODE(status.st_mode):04o}",
                owner=_name(status.st_uid, lambda number: pwd.getpwuid(number).pw_name),
                group=_name(status.st_gid, lambda number: grp.getgrgid(number).gr_name),
                mtime=int(status.st_mtime),
                atime=int(status.st_atime),
                ctime=int(status.st_ctime),
                md5=_md5(found, status, request.path, context),
            )
        finally:
            os.close(found.fd)

    def InitUpload(self, request: pb.InitUploadRequest, context: ServicerContext) -> pb.InitUploadResponse:
        """Begin an upload in chunks."""
        _not_negative("size", request.size)
        _known_checksum(request.checksum)
        target = self._target(request)
        context.notes["rule"] = target.rule
        try:
            target.check_space(request.size)
        except RpcError:
            target.discard()
            raise
        early = request.checksum != pb.CHECKSUM_CRC32
        session_id = self._sessions.open(target, request.size, self._chunk_size, digest_early=early)
        return pb.InitUploadResponse(session_id=session_id, chunk_size=self._chunk_size, path=request.path)

    @bulk(request="content")
    def UploadChunk(self, request: pb.UploadChunkRequest, context: ServicerContext) -> pb.UploadChunkResponse:
        """Write one chunk."""
        with self._use(request.session_id) as session:
            offset = _offset(request, session)
            session.write(offset, context.content)
            received = session.received
            return pb.UploadChunkResponse(
                session_id=request.session_id,
                chunk_index=offset // session.chunk_size,
                received_size=received,
                total_size=session.size,
                progress=100.0 * received / session.size if session.size else 100.0,
            )

    def FinishUpload(self, request: pb.FinishUploadRequest, context: ServicerContext) -> pb.FinishUploadResponse:
        """Check what was written and put it in place."""
        if request.md5 and not _MD5.match(request.md5):
            raise error("INVALID_PARAMS", f"md5 {request.md5[:64]!r} is not 32 hexadecimal digits", field="md5")
        with self._use(request.session_id) as session:
            context.notes["rule"] = session.rule
            md5 = session.finish(request.md5, functools.partial(_go_on, context))
            return pb.FinishUploadResponse(
                path=session.path, size=session.size, md5=md5, chunks_received=session.chunks
            )

    def AbortUpload(self, request: pb.AbortUploadRequest, context: ServicerContext) -> pb.AbortUploadResponse:
        """Give an upload up; an unknown one is no error."""
        try:
            with self._use(request.session_id) as session:
                session.close()
            message = "aborted; what was written is removed"
        except RpcError as failure:
            if failure.reason != "SESSION_NOT_FOUND":
                raise
            message = "no such upload; nothing to abort"
        return pb.AbortUploadResponse(session_id=request.session_id, message=message)

    def _target(self, request: pb.UploadRequest | pb.InitUploadRequest) -> TargetFile:
        return TargetFile(self._policy, TargetSpec.of(request), self._keep_free, self._temps)

    def _use(self, session_id: str) -> contextlib.AbstractContextManager[UploadSession]:
        if not session_id:
            raise error("MISSING_REQUIRED", "session_id is missing: give the one of InitUpload", field="session_id")
        return self._sessions.use(session_id)

    def _read(
        self, path: str, offset: int, length: int, context: ServicerContext
    ) -> tuple[bytearray, int, os.stat_result]:
        """Content of a file at an offset, no more than a reply takes, the file's size, and what it was before."""
        _not_negative("offset", offset)
        fd, context.notes["rule"] = self._policy.open_read(path)
        try:
            with file_errors(path):
                status = os.fstat(fd)
                total = status.st_size
                if offset > total:
                    shown = printable(path)
                    message = f"offset {offset} is beyond the end of {shown}, which has {total} bytes (was it cut?)"
                    raise error("INVALID_PARAMS", message, field="offset", total_size=total)
                wanted = min(length, self._max_content, total - offset)
                content = self._buffers.take(wanted)
                read_into(fd, content, offset)
                if len(content) < wanted:  # cut since
                    total = min(total, offset + len(content))
                return content, total, status
        finally:
            os.close(fd)


def _offset(request: pb.UploadChunkRequest, session: UploadSession) -> int:
    has_offset, has_index = request.HasField("offset"), request.HasField("chunk_index")
    by_index = request.chunk_index * session.chunk_size
    if not has_offset and not has_index:
        raise error("MISSING_REQUIRED", "offset is missing: say where the chunk belongs in the file", field="offset")
    if has_offset and has_index and request.offset != by_index:
        message = (
            f"offset {request.offset} is not where chunk {request.chunk_index} begins ({by_index}): give one of them"
        )
        raise error("INVALID_PARAMS", message, field="chunk_index")
    return request.offset if has_offset else by_index


def _md5(found: Found, status: os.stat_result, path: str, context: ServicerContext) -> str:
    if not (
        found.fd is not None and found.content_allowed and stat.S_ISREG(status.st_mode) and status.st_size <= MD5_LIMIT
    ):
        return ""
    try:
        fd = reopen(found.fd, path)
    except RpcError:  # the daemon's user may not read it
        return ""
    try:
        with file_errors(path):
            return md5_of_file(fd, status.st_size, functools.partial(_go_on, context))
    finally:
        os.close(fd)


def _go_on(context: ServicerContext) -> None:
    """Stop work for which nobody waits any more."""
    if context.deadline.expired:
        raise error("DEADLINE_EXCEEDED", "The call's time is up before its work was done: allow it more time")
    if not context.is_active():
        raise error("CANCELLED", "The caller cancelled the call")


def _type(mode: int) -> str:
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "directory"
    return "symlink" if stat.S_ISLNK(mode) else "other"


def _name(number: int, look_up: Callable[[int], str]) -> str:
    try:
        return look_up(number)
    except KeyError:
        return str(number)


def _known_checksum(value: int) -> None:
    if value not in pb.Checksum.values():
        known = ", ".join(f"{name} ({number})" for name, number in pb.Checksum.items())
        raise error("INVALID_PARAMS", f"checksum {value} is unknown: give one of {known}", field="checksum")


def _not_negative(field: str, value: int) -> None:
    if value < 0:
        raise error("INVALID_PARAMS", f"{field} is {value}: give 0 or more", field=field)
