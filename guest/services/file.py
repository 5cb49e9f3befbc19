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
from guest.files.content import SHA256, digest_of, md5_of_file, read_into
from guest.files.entries import asked_path, told_path
from guest.files.partial import PartialFile, Partials
from guest.files.sessions import UploadSessions
from guest.files.target import TargetFile, TargetSpec
from guest.files.temps import TempFiles
from guest.files.upload import UploadSession
from guest.os_errors import file_errors, printable
from guest.policy.paths import Found, PathPolicy
from guest.policy.resolve import reopen
from guest.services.file_changes import FileChanges
from guest.services.file_trees import FileTrees
from vsrpc.bulk import bulk
from vsrpc.context import ServicerContext
from vsrpc.errors import RpcError
from vsrpc.v1 import file_pb2 as pb
from vsrpc.wire import Buffer

CHUNK_SIZE = 2 * 1024 * 1024
"""Bytes of a chunk where the caller does not say."""

MAX_CHUNK_SIZE = 5 * 1024 * 1024
"""Most bytes that a caller may ask for in one chunk."""

MD5_LIMIT = 16 * 1024 * 1024
"""Largest file, in bytes, whose MD5 Stat computes: a fraction of a second of work."""

_REPLY_OVERHEAD = 16 * 1024  # bytes of a reply beside its content: a path, numbers, framing

_HEXADECIMAL = re.compile(r"[0-9A-Fa-f]+\Z")

MAX_COMPARED = 256 * 1024 * 1024
"""Bytes that one call compares with digests: a second or so of a slow guest."""


class FileService(FileTrees, FileChanges):
    """Serves File. `max_reply` is the largest reply in bytes; `stop` drops the uploads that are open.

    Uploads leave `keep_free` bytes free on their file system; `temps` knows their temporary files, `partials` what is
    kept of those that were interrupted (None: nothing is).
    """

    def __init__(
        self,
        policy: PathPolicy,
        max_reply: int,
        sessions: UploadSessions,
        keep_free: int = 0,
        temps: TempFiles | None = None,
        partials: Partials | None = None,
    ) -> None:
        self._partials = partials
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
        md5 = digest_of(content, functools.partial(_go_on, context))
        target = TargetFile(self._policy, TargetSpec.of(request), self._keep_free, self._temps)
        context.notes["rule"] = target.rule
        try:
            target.write(content, 0)
            target.commit()
        finally:
            target.discard()
        return pb.UploadResponse(path=told_path(request), size=len(content), md5=md5)

    def Download(self, request: pb.DownloadRequest, context: ServicerContext) -> pb.DownloadResponse:
        """Read a file, or a part of it."""
        _not_negative("length", request.length)
        length = request.length or self._max_content
        buffer, total, _ = self._read(asked_path(request), request.offset, length, context)
        content = bytes(buffer)
        self._buffers.give(buffer)
        return pb.DownloadResponse(
            path=told_path(request),
            content=content,
            size=len(content),
            total_size=total,
            offset=request.offset,
            md5=digest_of(content, functools.partial(_go_on, context)),
        )

    @bulk(response="content")
    def DownloadChunk(self, request: pb.DownloadChunkRequest, context: ServicerContext) -> pb.DownloadChunkResponse:
        """Read one chunk."""
        _not_negative("size", request.size)
        _known_checksum(request.checksum)
        if request.size > MAX_CHUNK_SIZE:
            message = f"size {request.size} is over the limit of a chunk: ask for at most {MAX_CHUNK_SIZE} bytes"
            raise error("INVALID_PARAMS", message, field="size", limit=MAX_CHUNK_SIZE)
        content, total, status = self._read(asked_path(request), request.offset, request.size or CHUNK_SIZE, context)
        end = request.offset + len(content)
        digest, sha256 = "", request.checksum == SHA256
        if request.checksum != pb.CHECKSUM_CRC32:
            digest = digest_of(content, functools.partial(_go_on, context), request.checksum)
        context.send_content(content, functools.partial(self._buffers.give, content))
        return pb.DownloadChunkResponse(
            path=told_path(request),
            offset=request.offset,
            size=len(content),
            total_size=total,
            chunk_md5="" if sha256 else digest,
            chunk_sha256=digest if sha256 else "",
            has_more=end < total,
            next_offset=end if end < total else None,
            file_id=f"{status.st_dev:x}:{status.st_ino:x}",
            version=f"{status.st_mtime_ns:x}",
        )

    def Stat(self, request: pb.StatRequest, context: ServicerContext) -> pb.StatResponse:
        """Describe a file; a symbolic link is described itself."""
        path = asked_path(request)
        found = self._policy.open_metadata(path)
        context.notes["rule"] = found.rule
        if found.fd is None:
            return pb.StatResponse(path=told_path(request), exists=False)
        try:
            status = os.fstat(found.fd)
            return pb.StatResponse(
                path=told_path(request),
                exists=True,
                type=_type(status.st_mode),
                size=status.st_size,
                mode=f"{stat.S_IMODE(status.st_mode):04o}",
                owner=_name(status.st_uid, lambda number: pwd.getpwuid(number).pw_name),
                group=_name(status.st_gid, lambda number: grp.getgrgid(number).gr_name),
                mtime=int(status.st_mtime),
                atime=int(status.st_atime),
                ctime=int(status.st_ctime),
                md5=_md5(found, status, path, context),
                link_target=_link_target(found.fd, status),
                uid=status.st_uid,
                gid=status.st_gid,
                device=status.st_dev,
                inode=status.st_ino,
                links=status.st_nlink,
                allocated=status.st_blocks * 512,
            )
        finally:
            os.close(found.fd)

    def InitUpload(self, request: pb.InitUploadRequest, context: ServicerContext) -> pb.InitUploadResponse:
        """Begin an upload in chunks."""
        _not_negative("size", request.size)
        _known_checksum(request.checksum)
        _not_negative("data_size", request.data_size)
        target, left = self._target(request)
        context.notes["rule"] = target.rule
        try:
            target.check_space(max(0, (request.data_size or request.size) - left))
        except RpcError:
            target.discard()
            raise
        size = self._sessions.largest if request.stream else request.size
        early = request.checksum != pb.CHECKSUM_CRC32 and not request.chunk_digests
        session_id = self._sessions.open(
            target,
            size,
            self._chunk_size,
            digest_early=early,
            checksum=request.checksum,
            stream=request.stream,
        )
        return pb.InitUploadResponse(
            session_id=session_id, chunk_size=self._chunk_size, path=told_path(request), resumable=left
        )

    @bulk(request="content")
    def UploadChunk(self, request: pb.UploadChunkRequest, context: ServicerContext) -> pb.UploadChunkResponse:
        """Write one chunk."""
        with self._use(request.session_id) as session:
            offset = _offset(request, session)
            _check_chunk(request, context.content, session.checksum)
            session.write(offset, context.content, request.hole)
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
        for field, digits in (("md5", 32), ("sha256", 64)):
            value = getattr(request, field)
            if value and not (len(value) == digits and _HEXADECIMAL.match(value)):
                raise error("INVALID_PARAMS", f"{field} {value[:64]!r} is not {digits} hexadecimal digits", field=field)
        _not_negative("size", request.size)
        with self._use(request.session_id) as session:
            context.notes["rule"] = session.rule
            sha256 = session.checksum == SHA256
            if request.md5 if sha256 else request.sha256:
                message = "the upload was begun with another checksum: give the digest of that one"
                raise error("INVALID_PARAMS", message, field="md5" if sha256 else "sha256")
            size = request.size if session.stream else None
            digest = session.finish(request.md5 or request.sha256, functools.partial(_go_on, context), size)
            return pb.FinishUploadResponse(
                path=printable(session.path),
                size=session.size,
                md5="" if sha256 else digest,
                chunks_received=session.chunks,
                sha256=digest if sha256 else "",
            )

    def ResumeUpload(self, request: pb.ResumeUploadRequest, context: ServicerContext) -> pb.ResumeUploadResponse:
        """Compare what is there with digests."""
        if request.block_size <= 0 or len(request.digests) * request.block_size > MAX_COMPARED:
            asked = f"{len(request.digests)} blocks of {request.block_size} bytes"
            message = f"{asked} are not 1 to {MAX_COMPARED} bytes together"
            raise error("INVALID_PARAMS", message, field="block_size")
        go_on = functools.partial(_go_on, context)
        present: list[bool] = []
        with self._use(request.session_id) as session:
            for number, digest in enumerate(request.digests):
                offset = request.offset + number * request.block_size
                length = min(request.block_size, session.size - offset)
                present.append(session.present(offset, length, digest, go_on))
        return pb.ResumeUploadResponse(present=present)

    def AbortUpload(self, request: pb.AbortUploadRequest, context: ServicerContext) -> pb.AbortUploadResponse:
        """Give an upload up; an unknown one is no error."""
        try:
            with self._use(request.session_id) as session:
                session.close(keep=request.keep)
            message = "aborted; what was written is " + ("kept for a day" if request.keep else "removed")
        except RpcError as failure:
            if failure.reason != "SESSION_NOT_FOUND":
                raise
            message = "no such upload; nothing to abort"
        return pb.AbortUploadResponse(session_id=request.session_id, message=message)

    def _target(self, request: pb.InitUploadRequest) -> tuple[TargetFile, int]:
        """The new file, and how much of it is there."""
        spec = TargetSpec.of(request)
        if not request.resume_key or self._partials is None:
            return TargetFile(self._policy, spec, self._keep_free, self._temps), 0
        self._sessions.end(spec.path)
        partial = PartialFile(self._policy, spec, request.resume_key, self._keep_free, self._partials)
        try:
            partial.cut(request.size)
        except BaseException:
            partial.discard()
            raise
        return partial, partial.left

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


def _check_chunk(request: pb.UploadChunkRequest, content: Buffer, checksum: int) -> None:
    _not_negative("hole", request.hole)
    if request.hole and len(content):
        raise error("INVALID_PARAMS", "a chunk is a hole or has content, not both", field="hole")
    if request.digest:
        actual = digest_of(content, lambda: None, checksum)
        if actual != request.digest.lower():
            message = f"Digest of the chunk is {actual}, not {request.digest[:64]}: it was damaged (send it again)"
            raise error("CONTENT_MISMATCH", message, field="digest")


def _link_target(fd: int, status: os.stat_result) -> bytes:
    """What an open symbolic link (O_PATH) holds; nothing for anything else."""
    return os.fsencode(os.readlink("", dir_fd=fd)) if stat.S_ISLNK(status.st_mode) else b""


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
