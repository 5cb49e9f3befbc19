"""The File service's calls for uploads in chunks, which may be interrupted and gone on with."""

from __future__ import annotations

import contextlib
import functools
import re

from guest.errors import error
from guest.files.content import SHA256, digest_of
from guest.files.entries import told_path
from guest.files.partial import PartialFile, Partials
from guest.files.sessions import UploadSessions
from guest.files.target import TargetFile, TargetSpec
from guest.files.temps import TempFiles
from guest.files.upload import UploadSession
from guest.os_errors import printable
from guest.policy.paths import PathPolicy
from guest.services.file_checks import known_checksum, not_negative
from guest.services.file_trees import go_on
from vsrpc.bulk import bulk
from vsrpc.context import ServicerContext
from vsrpc.errors import RpcError
from vsrpc.v1 import file_pb2 as pb
from vsrpc.v1.file_vsrpc import FileServicer
from vsrpc.wire import Buffer

MAX_COMPARED = 256 * 1024 * 1024
"""Bytes that one call compares with digests: a second or so of a slow guest."""

_HEXADECIMAL = re.compile(r"[0-9A-Fa-f]+\Z")


class FileUploads(FileServicer):
    """Serves a part of File; see FileService."""

    _policy: PathPolicy
    _sessions: UploadSessions
    _chunk_size: int
    _keep_free: int
    _temps: TempFiles | None
    _partials: Partials | None

    def InitUpload(self, request: pb.InitUploadRequest, context: ServicerContext) -> pb.InitUploadResponse:
        """Begin an upload in chunks."""
        not_negative("size", request.size)
        known_checksum(request.checksum)
        not_negative("data_size", request.data_size)
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
        not_negative("size", request.size)
        with self._use(request.session_id) as session:
            context.notes["rule"] = session.rule
            sha256 = session.checksum == SHA256
            if request.md5 if sha256 else request.sha256:
                message = "the upload was begun with another checksum: give the digest of that one"
                raise error("INVALID_PARAMS", message, field="md5" if sha256 else "sha256")
            size = request.size if session.stream else None
            digest = session.finish(request.md5 or request.sha256, functools.partial(go_on, context), size)
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
        going = functools.partial(go_on, context)
        present: list[bool] = []
        with self._use(request.session_id) as session:
            for number, digest in enumerate(request.digests):
                offset = request.offset + number * request.block_size
                length = min(request.block_size, session.size - offset)
                present.append(session.present(offset, length, digest, going))
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
    not_negative("hole", request.hole)
    if request.hole and len(content):
        raise error("INVALID_PARAMS", "a chunk is a hole or has content, not both", field="hole")
    if request.digest:
        actual = digest_of(content, lambda: None, checksum)
        if actual != request.digest.lower():
            message = f"Digest of the chunk is {actual}, not {request.digest[:64]}: it was damaged (send it again)"
            raise error("CONTENT_MISMATCH", message, field="digest")
