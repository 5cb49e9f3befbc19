"""Moves files between this machine and the guest, whole or in chunks, with the MD5 checked end to end.

Knows the File service's calls and the local ends, nothing of wire formats or the terminal. Whatever goes wrong, also an
interrupt, leaves the target of either side as it was. A chunk whose reply was lost is sent again by the channel,
because those calls are idempotent.
"""

from __future__ import annotations

import logging
import posixpath
import sys
from typing import Any, Callable, Mapping, Optional

from host.backend import Reply
from host.errors import RPCError, UsageError, failure
from host.localfile import Destination, Source, destination_path

log = logging.getLogger(__name__)

SMALL_FILE = 2 * 1024 * 1024
"""Bytes up to which a file goes in one call."""

NEVER_SMALL = -1
"""As `small_file`: every file goes in chunks, also an empty one."""

DEFAULT_CHUNK_SIZE = 2 * 1024 * 1024
MAX_CHUNK_SIZE = 5 * 1024 * 1024  # what the guest reads at most; in base64 it still fits a 10 MiB request

_ABORT_TIMEOUT = 5.0  # seconds; a guest that is gone removes the session by itself

FileCall = Callable[[str, Mapping[str, Any], Optional[float]], Reply]
"""Calls an rpc of the File service: (rpc, fields, timeout in seconds or None for the default)."""

Progress = Callable[[int, int], None]
"""Told (bytes done, bytes in all): once before the first chunk, then after each."""


def check_chunk_size(size: int) -> int:
    """The size if chunks may have it; raises UsageError otherwise."""
    if not 0 < size <= MAX_CHUNK_SIZE:
        raise UsageError(f"chunk size {size} is out of range: use 1 to {MAX_CHUNK_SIZE} bytes (5MiB)")
    return size


def _md5() -> Any:
    import hashlib  # here, so that commands without files do not pay for loading OpenSSL

    # It finds damage and protects nothing, so that a FIPS-mode OpenSSL may allow it (the argument is of Python 3.9).
    return hashlib.md5(usedforsecurity=False) if sys.version_info >= (3, 9) else hashlib.md5()


def _ignore_progress(done: int, total: int) -> None:
    pass


def upload(
    call: FileCall,
    local: str,
    remote: str,
    *,
    mode: str,
    owner: str = "",
    group: str = "",
    overwrite: bool = True,
    chunk_size: int = DEFAULT_CHUNK_SIZE,
    small_file: int = SMALL_FILE,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write a local file to the guest; in chunks if it is larger than `small_file` bytes.

    A `remote` that is a directory stands for the file of the same name in it, as with scp. Returns the fields of
    UploadResponse or FinishUploadResponse. Raises OSError for the local file, RPCError for the rest.
    """
    check_chunk_size(chunk_size)
    progress = progress or _ignore_progress
    with Source(local) as source:
        fields = {"path": remote, "mode": mode, "owner": owner, "group": group, "overwrite": overwrite}
        inside = posixpath.join(remote, posixpath.basename(local))
        if remote.endswith("/"):
            fields["path"] = inside
        if source.size <= small_file:
            content = source.read(source.size)
            _check_size(source, len(content))
            try:
                reply = _into_directory(call, "Upload", {**fields, "content": content}, inside)
            except RPCError as error:
                if error.reason != "TOO_LARGE":  # the guest may be configured to take less in one call than we send
                    raise
                source.rewind()
            else:
                _check_md5(reply.data, _md5_of(content), local)
                progress(source.size, source.size)
                return reply.data
        begun = _into_directory(call, "InitUpload", {**fields, "size": source.size}, inside)
        session: str = begun.data["session_id"]
        try:
            return _send_chunks(call, source, session, chunk_size, int(begun.data["chunk_size"]), progress)
        except BaseException as error:
            _abort(call, session, error)
            raise


def _into_directory(call: FileCall, rpc: str, fields: dict[str, Any], inside: str) -> Reply:
    """Call; if the target turns out to be a directory, call again with the path in it."""
    try:
        return call(rpc, fields, None)
    except RPCError as error:
        if error.reason != "WRONG_FILE_TYPE" or fields["path"] == inside:
            raise
        if call("Stat", {"path": fields["path"]}, None).data["type"] != "directory":
            raise
    return call(rpc, {**fields, "path": inside}, None)


def _send_chunks(
    call: FileCall, source: Source, session: str, chunk_size: int, suggested: int, progress: Progress
) -> dict[str, Any]:
    """Send what is in the source; in chunks of the size that the guest suggests if it does not take those asked for."""
    digest = _md5()
    done = 0
    progress(0, source.size)
    while done < source.size:
        content = source.read(min(chunk_size, source.size - done))
        if not content:
            break
        try:
            call("UploadChunk", {"session_id": session, "offset": done, "content": content}, None)
        except RPCError as error:
            if error.reason != "TOO_LARGE" or not 0 < suggested < len(content):
                raise
            chunk_size = suggested
            source.rewind(done)
            continue
        digest.update(content)
        done += len(content)
        progress(done, source.size)
    _check_size(source, done)
    finished = call("FinishUpload", {"session_id": session, "md5": digest.hexdigest()}, None).data
    _check_md5(finished, digest.hexdigest(), source.path)
    return finished


def _check_size(source: Source, done: int) -> None:
    now = source.size_now()
    if done != source.size or now != source.size:
        raise failure(
            "CONTENT_MISMATCH",
            f"{source.path} changed during the upload: it had {source.size} bytes and now has {now}; "
            "upload it again when nothing writes to it",
            path=source.path,
        )


def _abort(call: FileCall, session: str, error: BaseException) -> None:
    """Tell the guest that an upload is given up. Never raises: the first error is the one to see."""
    if isinstance(error, RPCError) and error.reason in ("CONNECTION_LOST", "CONNECTION_REFUSED"):
        return  # nobody to tell: the guest drops the session by itself
    try:
        call("AbortUpload", {"session_id": session}, _ABORT_TIMEOUT)
    except RPCError as second:
        log.debug("upload session %s was not aborted: %s", session, second)


def download(
    call: FileCall,
    remote: str,
    local: str,
    *,
    overwrite: bool = True,
    chunk_size: int = DEFAULT_CHUNK_SIZE,
    small_file: int = SMALL_FILE,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Read a file of the guest into a local file; in chunks what is beyond `small_file` bytes.

    A `local` that is a directory stands for the file of the same name in it, as with scp. Returns {"path": the remote
    path, "local_path", "size", "md5"}. A file that grows meanwhile is read up to its first size. Raises OSError for the
    local file, RPCError for the rest.
    """
    check_chunk_size(chunk_size)
    progress = progress or _ignore_progress
    with Destination(destination_path(local, remote), overwrite) as target:
        digest = _md5()
        done, total = 0, -1
        while done != total:
            if total < 0 < small_file:
                reply = call("Download", {"path": remote, "length": small_file}, None)
            else:
                size = chunk_size if total < 0 else min(chunk_size, total - done)
                reply = call("DownloadChunk", {"path": remote, "offset": done, "size": size}, None)
            if total < 0:
                total = int(reply.data["total_size"])
                if total > small_file:
                    progress(0, total)
            _check_piece(remote, reply, done, total)
            target.write(reply.content)
            digest.update(reply.content)
            done += len(reply.content)
            progress(done, total)
        target.commit()
    return {"path": remote, "local_path": target.path, "size": total, "md5": digest.hexdigest()}


def _check_piece(remote: str, reply: Reply, done: int, total: int) -> None:
    got = len(reply.content)
    if int(reply.data["total_size"]) < total or (got == 0 and done < total):
        raise failure(
            "CONTENT_MISMATCH",
            f"{remote} was cut during the download: it had {total} bytes and now has {reply.data['total_size']}; "
            "download it again when nothing writes to it",
            path=remote,
        )
    if int(reply.data["offset"]) != done or done + got > total:
        raise failure(
            "PROTOCOL_ERROR",
            f"the guest sent bytes {reply.data['offset']}+{got} of {remote}, asked for those from {done}",
        )
    _check_md5(
        {"md5": reply.data.get("chunk_md5", reply.data.get("md5"))},
        _md5_of(reply.content),
        f"{remote} at offset {done}",
    )


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
