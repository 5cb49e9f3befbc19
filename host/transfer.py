"""Moves files between this machine and the guest, whole or in chunks, with the MD5 checked end to end.

Knows the File service's calls and the local ends, nothing of wire formats or the terminal. Whatever goes wrong, also an
interrupt, leaves the target of either side as it was. Several chunks are under way at a time (host.window); one whose
reply was lost is sent again, because those calls are idempotent.
"""

from __future__ import annotations

import logging
import posixpath
import sys
from typing import Any, Mapping, Protocol

from host.backend import Reply, Started
from host.errors import RPCError, failure
from host.localfile import Destination, Source, destination_path
from host.transfer_options import (
    CRC32,
    DEFAULT_CHUNK_SIZE,
    MD5,
    SMALL_FILE,
    Progress,
    check_checksum,
    check_chunk_size,
)
from host.window import Piece, Window

log = logging.getLogger(__name__)

_ABORT_TIMEOUT = 5.0  # seconds; a guest that is gone removes the session by itself

# A guest that is older than the field knows only MD5.
_FIELDS: Mapping[str, Mapping[str, str]] = {MD5: {}, CRC32: {"checksum": "CHECKSUM_CRC32"}}

# Bytes asked for before the file's size is known, and the window can be filled.
_FIRST_CHUNK = 256 * 1024


class FileCalls(Protocol):
    """Calls the File service. Failures are RPCError."""

    def call(self, rpc: str, fields: Mapping[str, Any], timeout: float | None = None) -> Reply:
        """Call an rpc and wait; `timeout` in seconds, None for the default."""

    def start(self, rpc: str, fields: Mapping[str, Any]) -> Started:
        """Begin a call that may be repeated. `content` among the fields must not change until it has ended."""


def _md5() -> Any:
    import hashlib  # here, so that commands without files do not pay for loading OpenSSL

    # It finds damage and protects nothing, so that a FIPS-mode OpenSSL may allow it (the argument is of Python 3.9).
    return hashlib.md5(usedforsecurity=False) if sys.version_info >= (3, 9) else hashlib.md5()


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
        fields = {"path": remote, "mode": mode, "owner": owner, "group": group, "overwrite": overwrite}
        inside = posixpath.join(remote, posixpath.basename(local))
        if remote.endswith("/"):
            fields["path"] = inside
        if source.size <= small_file:
            content = source.read_at(0, source.size)
            _check_source(source, len(content))
            try:
                reply = _into_directory(files, "Upload", {**fields, "content": content}, inside)
            except RPCError as error:
                if error.reason != "TOO_LARGE":  # the guest may be configured to take less in one call than we send
                    raise
            else:
                _check_md5(reply.data, _md5_of(content), local)
                progress(source.size, source.size)
                return reply.data
        fields = {**fields, "size": source.size, **_FIELDS[checksum]}
        begun = _into_directory(files, "InitUpload", fields, inside)
        session: str = begun.data["session_id"]
        try:
            return _send_chunks(files, source, session, chunk_size, int(begun.data["chunk_size"]), checksum, progress)
        except BaseException as error:
            _abort(files, session, error)
            raise


def _into_directory(files: FileCalls, rpc: str, fields: dict[str, Any], inside: str) -> Reply:
    """Call; if the target turns out to be a directory, call again with the path in it."""
    try:
        return files.call(rpc, fields)
    except RPCError as error:
        if error.reason != "WRONG_FILE_TYPE" or fields["path"] == inside:
            raise
        if files.call("Stat", {"path": fields["path"]}).data["type"] != "directory":
            raise
    return files.call(rpc, {**fields, "path": inside})


def _send_chunks(
    files: FileCalls, source: Source, session: str, chunk_size: int, suggested: int, checksum: str, progress: Progress
) -> dict[str, Any]:
    """Send what is in the source; in chunks of the size that the guest suggests if it does not take those asked for."""
    digest = _Digest(checksum)
    read = done = 0
    progress(0, source.size)
    with Window() as window:
        while done < source.size:
            while read < source.size and window.has_room(chunk_size):
                content = source.read_at(read, min(chunk_size, source.size - read))
                if not content:
                    break
                fields = {"session_id": session, "offset": read, "content": content}
                window.add(Piece(read, len(content), files.start("UploadChunk", fields)))
                digest.add(read, content)
                read += len(content)
            if not window:
                break
            try:
                piece, _ = window.take()
            except RPCError as error:
                if error.reason != "TOO_LARGE" or not 0 < suggested < chunk_size:
                    raise
                window.cancel()
                chunk_size, read = suggested, done
                continue
            done += piece.size
            progress(done, source.size)
    _check_source(source, done)
    finished = files.call("FinishUpload", {"session_id": session, "md5": digest.hexdigest()}).data
    if checksum == MD5:
        _check_md5(finished, digest.hexdigest(), source.path)
    return finished


class _Digest:
    """MD5 of a file whose parts come in order; "" where that is not wanted."""

    def __init__(self, checksum: str) -> None:
        self._md5 = _md5() if checksum == MD5 else None
        self._done = 0

    def add(self, offset: int, content: Any) -> None:
        """Take a part, unless it was taken already."""
        if self._md5 is not None and offset + len(content) > self._done:
            self._md5.update(memoryview(content)[self._done - offset :])
            self._done = offset + len(content)

    def hexdigest(self) -> str:
        return str(self._md5.hexdigest()) if self._md5 is not None else ""


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
    fields = {"path": remote, **_FIELDS[checksum]}

    def start(offset: int, size: int) -> Piece:
        return Piece(offset, size, files.start("DownloadChunk", {**fields, "offset": offset, "size": size}))

    with Destination(destination_path(local, remote), overwrite) as target, Window() as window:
        digest = _Digest(checksum)
        asked = min(chunk_size, _FIRST_CHUNK)
        window.add(start(0, asked))
        done, total = 0, -1
        while done != total:
            try:
                piece, reply = window.take()
            except RPCError as error:
                if total < 0 or "total_size" not in error.data:
                    raise
                raise _cut(remote, total, error.data["total_size"]) from error  # the piece began beyond its end
            if total < 0:
                first = reply.data
                total = int(first["total_size"])
                progress(0, total)
                asked = min(asked, total)
            _check_unchanged(remote, reply.data, first)
            _check_piece(remote, reply, done, total, checksum)
            got = len(reply.content)
            if got < piece.size and done + got < min(asked, total):  # the guest's replies take no more
                chunk_size = max(got, 1)
                window.add_first(start(done + got, min(piece.size, asked - done) - got))
            while asked < total and window.has_room(chunk_size):
                size = min(chunk_size, total - asked)
                window.add(start(asked, size))
                asked += size
            target.write(reply.content)
            digest.add(done, reply.content)
            done += got
            progress(done, total)
        target.commit()
    return {"path": remote, "local_path": target.path, "size": total, "md5": digest.hexdigest()}


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
    if checksum == MD5:
        ours = _md5_of(reply.content)
        _check_md5({"md5": reply.data.get("chunk_md5")}, ours, f"{remote} at offset {done}")


def _cut(remote: str, total: int, now: Any) -> RPCError:
    message = f"{remote} was cut during the download: it had {total} bytes and now has {now}"
    return failure("CONTENT_MISMATCH", f"{message}; download it again when nothing writes to it", path=remote)


def _md5_of(content: Any) -> str:
    digest = _md5()
    digest.update(content)
    return str(digest.hexdigest())


def _check_md5(data: Mapping[str, Any], ours: str, what: str) -> None:
    if data.get("md5") != ours:
        raise failure(
            "CONTENT_MISMATCH",
            f"{what} was damaged on the way: the guest has MD5 {data.get('md5')}, here it is {ours}; try again",
        )
