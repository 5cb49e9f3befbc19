"""Moves files between this machine and the guest, whole or in chunks, with the MD5 checked end to end.

Knows the File service's calls and the local ends, nothing of wire formats or the terminal. Whatever goes wrong, also an
interrupt, leaves the target of either side as it was. Several chunks are under way at a time (host.window); one whose
reply was lost is sent again, because those calls are idempotent.
"""

from __future__ import annotations

import logging
import posixpath
from collections import deque
from typing import Any, Mapping

from host.backend import Buffer, Reply
from host.chunks import FIELDS, FileCalls, digest_of, new_digest, receive, send
from host.errors import RPCError, failure
from host.localfile import Destination, Source, destination_path
from host.names import path_fields
from host.transfer_options import (
    CRC32,
    DEFAULT_CHUNK_SIZE,
    MD5,
    SHA256,
    SMALL_FILE,
    Progress,
    check_checksum,
    check_chunk_size,
)

log = logging.getLogger(__name__)

_ABORT_TIMEOUT = 5.0  # seconds; a guest that is gone removes the session by itself

# Bytes asked for before the file's size is known, and the window can be filled.
_FIRST_CHUNK = 256 * 1024


def _ignore_progress(done: int, total: int) -> None:
    pass


def upload(
    files: FileCalls,
    local: str,
    remote: str,
    *,
    mode: str,
    owner: str = "",
    group: str = "",
    overwrite: bool = True,
    chunk_size: int = DEFAULT_CHUNK_SIZE,
    checksum: str = MD5,
    small_file: int = SMALL_FILE,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write a local file to the guest; in chunks if it is larger than `small_file` bytes.

    A `remote` that is a directory stands for the file of the same name in it, as with scp. Returns the fields of
    UploadResponse or FinishUploadResponse. Raises OSError for the local file, RPCError for the rest.
    """
    check_chunk_size(chunk_size)
    check_checksum(checksum)
    progress = progress or _ignore_progress
    with Source(local) as source:
        inside = posixpath.join(remote, posixpath.basename(local))
        target = inside if remote.endswith("/") else remote
        fields = {"mode": mode, "owner": owner, "group": group, "overwrite": overwrite}
        if source.size <= small_file and checksum != SHA256:
            content = source.read_at(0, source.size)
            _check_source(source, len(content))
            try:
                reply = _into_directory(files, "Upload", {**fields, "content": content}, target, inside)
            except RPCError as error:
                if error.reason != "TOO_LARGE":  # the guest may be configured to take less in one call than we send
                    raise
            else:
                _check_digest(reply.data, digest_of(content, MD5), local)
                progress(source.size, source.size)
                return reply.data
        fields = {**fields, "size": source.size, **FIELDS[checksum]}
        begun = _into_directory(files, "InitUpload", fields, target, inside)
        session: str = begun.data["session_id"]
        try:
            return _send_chunks(files, source, session, chunk_size, int(begun.data["chunk_size"]), checksum, progress)
        except BaseException as error:
            _abort(files, session, error)
            raise


def _into_directory(files: FileCalls, rpc: str, fields: dict[str, Any], target: str, inside: str) -> Reply:
    """Call; if the target turns out to be a directory, call again with the path in it."""
    try:
        return files.call(rpc, {**fields, **path_fields(target)})
    except RPCError as error:
        if error.reason != "WRONG_FILE_TYPE" or target == inside:
            raise
        if files.call("Stat", path_fields(target)).data["type"] != "directory":
            raise
    return files.call(rpc, {**fields, **path_fields(inside)})


def _send_chunks(
    files: FileCalls, source: Source, session: str, chunk_size: int, suggested: int, checksum: str, progress: Progress
) -> dict[str, Any]:
    """Send what is in the source; in chunks of the size that the guest suggests if it does not take those asked for."""
    digest = _Digest(checksum)
    done = 0

    def read(offset: int, size: int) -> Buffer:
        content = source.read_at(offset, size)
        digest.add(offset, content)
        return content

    def sent(size: int) -> None:
        nonlocal done
        done += size
        progress(done, source.size)

    progress(0, source.size)
    send(files, session, [(0, source.size)] if source.size else [], read, chunk_size, suggested, sent)
    _check_source(source, done)
    field = "sha256" if checksum == SHA256 else "md5"
    finished = files.call("FinishUpload", {"session_id": session, field: digest.hexdigest()}).data
    if checksum != CRC32:
        _check_digest(finished, digest.hexdigest(), source.path, field)
    return finished


class _Digest:
    """Digest of a file whose parts come in order; "" where that is not wanted."""

    def __init__(self, checksum: str) -> None:
        self._digest = new_digest(checksum) if checksum != CRC32 else None
        self._done = 0

    def add(self, offset: int, content: Any) -> None:
        """Take a part, unless it was taken already."""
        if self._digest is not None and offset + len(content) > self._done:
            self._digest.update(memoryview(content)[self._done - offset :])
            self._done = offset + len(content)

    def hexdigest(self) -> str:
        return str(self._digest.hexdigest()) if self._digest is not None else ""


def _check_source(source: Source, done: int) -> None:
    now = source.size_now()
    if done != source.size or now != source.size:
        what = f"it had {source.size} bytes and now has {now}"
    elif source.changed:
        what = "somebody wrote to it"
    else:
        return
    message = f"{source.path} changed during the upload: {what}; upload it again when nothing writes to it"
    raise failure("CONTENT_MISMATCH", message, path=source.path)


def _abort(files: FileCalls, session: str, error: BaseException) -> None:
    """Tell the guest that an upload is given up. Never raises: the first error is the one to see."""
    if isinstance(error, RPCError) and error.reason in ("CONNECTION_LOST", "CONNECTION_REFUSED"):
        return  # nobody to tell: the guest drops the session by itself
    try:
        files.call("AbortUpload", {"session_id": session}, _ABORT_TIMEOUT)
    except RPCError as second:
        log.debug("upload session %s was not aborted: %s", session, second)


def download(
    files: FileCalls,
    remote: str,
    local: str,
    *,
    overwrite: bool = True,
    chunk_size: int = DEFAULT_CHUNK_SIZE,
    checksum: str = MD5,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Read a file of the guest into a local file, in chunks.

    A `local` that is a directory stands for the file of the same name in it, as with scp. Returns {"path": the remote
    path, "local_path", "size", "md5"}. A file that grows meanwhile is read up to its first size. Raises OSError for the
    local file, RPCError for the rest.
    """
    check_chunk_size(chunk_size)
    check_checksum(checksum)
    progress = progress or _ignore_progress
    digest = _Digest(checksum)
    asked = min(chunk_size, _FIRST_CHUNK)
    parts = deque([(0, asked)])
    done, total = 0, -1
    first: Mapping[str, Any] = {}
    with Destination(destination_path(local, remote), overwrite) as target:

        def took(offset: int, reply: Reply) -> bool:
            nonlocal done, total, first
            if total < 0:
                first = reply.data
                total = int(first["total_size"])
                progress(0, total)
                if asked < total:
                    parts.append((asked, total - asked))
            _check_unchanged(remote, reply.data, first)
            _check_piece(remote, reply, done, total, checksum)
            target.write(reply.content)
            digest.add(done, reply.content)
            done += len(reply.content)
            progress(done, total)
            return done < total

        try:
            receive(files, {**path_fields(remote), **FIELDS[checksum]}, parts, chunk_size, took)
        except RPCError as error:
            if total < 0 or "total_size" not in error.data:
                raise
            raise _cut(remote, total, error.data["total_size"]) from error  # the piece began beyond its end
        target.commit()
    name = "sha256" if checksum == SHA256 else "md5"
    return {"path": remote, "local_path": target.path, "size": total, name: digest.hexdigest()}


def _check_unchanged(remote: str, data: Mapping[str, Any], first: Mapping[str, Any]) -> None:
    """A file that only grows, a log say, is read up to its first size."""
    if data.get("file_id") != first.get("file_id"):
        what = "was replaced by another file"
    elif data.get("version") != first.get("version") and int(data["total_size"]) == int(first["total_size"]):
        what = "was changed"
    else:
        return
    message = f"{remote} {what} during the download; download it again when nothing writes to it"
    raise failure("CONTENT_MISMATCH", message, path=remote)


def _check_piece(remote: str, reply: Reply, done: int, total: int, checksum: str) -> None:
    got = len(reply.content)
    if int(reply.data["total_size"]) < total or (got == 0 and done < total):
        raise _cut(remote, total, reply.data["total_size"])
    if int(reply.data["offset"]) != done or done + got > total:
        raise failure(
            "PROTOCOL_ERROR",
            f"the guest sent bytes {reply.data['offset']}+{got} of {remote}, asked for those from {done}",
        )
    if checksum != CRC32:
        ours = digest_of(reply.content, checksum)
        what = f"{remote} at offset {done}"
        _check_digest(reply.data, ours, what, "chunk_sha256" if checksum == SHA256 else "chunk_md5")


def _cut(remote: str, total: int, now: Any) -> RPCError:
    message = f"{remote} was cut during the download: it had {total} bytes and now has {now}"
    return failure("CONTENT_MISMATCH", f"{message}; download it again when nothing writes to it", path=remote)


def _check_digest(data: Mapping[str, Any], ours: str, what: str, field: str = "md5") -> None:
    if data.get(field) != ours:
        name = "SHA-256" if field.endswith("sha256") else "MD5"
        raise failure(
            "CONTENT_MISMATCH",
            f"{what} was damaged on the way: the guest has {name} {data.get(field)}, here it is {ours}; try again",
        )
