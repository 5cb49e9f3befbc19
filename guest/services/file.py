"""The File service: whole files in one call, larger ones in chunks.

What a caller may touch is the path policy's matter; how a file gets in place is guest.files.target's. Here
requests are checked and replies are made.
"""

from __future__ import annotations

import functools
import grp
import os
import pwd
import stat
from typing import Callable

from guest.errors import error
from guest.files.buffers import BUFFERS
from guest.files.content import SHA256, digest_of, md5_of_file, read_into
from guest.files.entries import asked_path, told_path
from guest.files.open_files import OpenFiles
from guest.files.partial import Partials
from guest.files.sessions import UploadSessions
from guest.files.target import TargetFile, TargetSpec
from guest.files.temps import TempFiles
from guest.os_errors import file_errors, printable
from guest.policy.paths import Found, PathPolicy
from guest.policy.resolve import reopen
from guest.services.file_changes import FileChanges
from guest.services.file_checks import known_checksum, not_negative
from guest.services.file_trees import FileTrees, go_on
from guest.services.file_uploads import FileUploads
from vsrpc.bulk import bulk
from vsrpc.context import ServicerContext
from vsrpc.errors import RpcError
from vsrpc.v1 import file_pb2 as pb

CHUNK_SIZE = 2 * 1024 * 1024
"""Bytes of a chunk where the caller does not say."""

MAX_CHUNK_SIZE = 5 * 1024 * 1024
"""Most bytes that a caller may ask for in one chunk."""

MD5_LIMIT = 16 * 1024 * 1024
"""Largest file, in bytes, whose MD5 Stat computes: a fraction of a second of work."""

_REPLY_OVERHEAD = 16 * 1024  # bytes of a reply beside its content: a path, numbers, framing


class FileService(FileUploads, FileTrees, FileChanges):
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
        self._open_files = OpenFiles(policy.open_read)

    def stop(self) -> None:
        """Drop all uploads and take no more."""
        self._sessions.stop()
        self._open_files.clear()

    def tidy(self) -> None:
        """Let go of what was kept for long enough."""
        self._open_files.sweep()

    def idle(self) -> None:
        """Let go of what was kept for the next call."""
        self._open_files.clear()

    def Upload(self, request: pb.UploadRequest, context: ServicerContext) -> pb.UploadResponse:
        """Write a small file in one call."""
        content = request.content
        md5 = digest_of(content, functools.partial(go_on, context))
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
        not_negative("length", request.length)
        length = request.length or self._max_content
        buffer, total, _ = self._read(asked_path(request), request.offset, length, context)
        content = bytes(buffer)
        BUFFERS.give(buffer)
        return pb.DownloadResponse(
            path=told_path(request),
            content=content,
            size=len(content),
            total_size=total,
            offset=request.offset,
            md5=digest_of(content, functools.partial(go_on, context)),
        )

    @bulk(response="content")
    def DownloadChunk(self, request: pb.DownloadChunkRequest, context: ServicerContext) -> pb.DownloadChunkResponse:
        """Read one chunk."""
        not_negative("size", request.size)
        known_checksum(request.checksum)
        if request.size > MAX_CHUNK_SIZE:
            message = f"size {request.size} is over the limit of a chunk: ask for at most {MAX_CHUNK_SIZE} bytes"
            raise error("INVALID_PARAMS", message, field="size", limit=MAX_CHUNK_SIZE)
        content, total, status = self._read(asked_path(request), request.offset, request.size or CHUNK_SIZE, context)
        end = request.offset + len(content)
        digest, sha256 = "", request.checksum == SHA256
        if request.checksum != pb.CHECKSUM_CRC32:
            digest = digest_of(content, functools.partial(go_on, context), request.checksum)
        context.send_content(content, functools.partial(BUFFERS.give, content))
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

    def _read(
        self, path: str, offset: int, length: int, context: ServicerContext
    ) -> tuple[bytearray, int, os.stat_result]:
        """Content of a file at an offset, no more than a reply takes, the file's size, and what it was before."""
        not_negative("offset", offset)
        file, status = self._open_files.take(path)
        context.notes["rule"] = file.rule
        total, more = status.st_size, False
        try:
            with file_errors(path):
                if offset > total:
                    shown = printable(path)
                    message = f"offset {offset} is beyond the end of {shown}, which has {total} bytes (was it cut?)"
                    raise error("INVALID_PARAMS", message, field="offset", total_size=total)
                wanted = min(length, self._max_content, total - offset)
                content = BUFFERS.take(wanted)
                read_into(file.fd, content, offset)
                if len(content) < wanted:  # cut since
                    total = min(total, offset + len(content))
                more = offset + len(content) < total
                return content, total, status
        finally:
            self._open_files.give(path, file, again=more)


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
            return md5_of_file(fd, status.st_size, functools.partial(go_on, context))
    finally:
        os.close(fd)


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
