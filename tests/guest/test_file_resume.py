"""Uploads that are interrupted and gone on with, holes, streams and digests of chunks, called on the servicer."""

from __future__ import annotations

import errno
import hashlib
import os
import time
from pathlib import Path
from typing import Any, Iterator

import pytest
from servicer_helpers import context, refused

from guest.config import LimitsConfig
from guest.files.partial import Partials
from guest.files.sessions import UploadSessions
from guest.policy.paths import PathPolicy
from guest.services.file import FileService
from vsrpc.errors import RpcError
from vsrpc.partial import KEPT_SECONDS, PREFIX
from vsrpc.v1 import file_pb2 as pb

CHUNK = 64 * 1024
KEY = "0123456789abcdef"
CONTENT = os.urandom(4 * CHUNK + 100)


class Uploads:
    """A servicer on a directory of its own, with the calls in short form."""

    def __init__(self, place: Path, state: Path, **limits: Any) -> None:
        self.place = place
        self.target = place / "f"
        self.now = 1000.0
        self.state = state
        self.sessions = UploadSessions(LimitsConfig(**limits), clock=lambda: self.now)
        self.partials = Partials(str(state))
        self.service = FileService(PathPolicy([f"{place}/"]), 1 << 20, self.sessions, partials=self.partials)

    def init(self, size: int = len(CONTENT), key: str = KEY, **fields: Any) -> pb.InitUploadResponse:
        request = pb.InitUploadRequest(path=str(self.target), size=size, resume_key=key, chunk_digests=True, **fields)
        return self.service.InitUpload(request, context())

    def chunk(self, session: str, offset: int, content: bytes = b"", **fields: Any) -> pb.UploadChunkResponse:
        call = context()
        call.content = content
        return self.service.UploadChunk(pb.UploadChunkRequest(session_id=session, offset=offset, **fields), call)

    def send(self, session: str, first: int, last: int) -> None:
        """Chunks by their numbers."""
        for offset in range(first * CHUNK, min(last * CHUNK, len(CONTENT)), CHUNK):
            self.chunk(session, offset, CONTENT[offset : offset + CHUNK])

    def present(self, session: str, content: bytes = CONTENT) -> list[bool]:
        blocks = [content[at : at + CHUNK] for at in range(0, len(content), CHUNK)]
        digests = [hashlib.md5(block).hexdigest() for block in blocks]
        request = pb.ResumeUploadRequest(session_id=session, block_size=CHUNK, digests=digests)
        return list(self.service.ResumeUpload(request, context()).present)

    def finish(self, session: str, **fields: Any) -> pb.FinishUploadResponse:
        return self.service.FinishUpload(pb.FinishUploadRequest(session_id=session, **fields), context())

    def abort(self, session: str, keep: bool) -> None:
        self.service.AbortUpload(pb.AbortUploadRequest(session_id=session, keep=keep), context())

    def left(self) -> list[str]:
        """Hidden files beside the target."""
        return [name for name in sorted(os.listdir(self.place)) if name.startswith(".")]


@pytest.fixture
def uploads(place: Path, tmp_path: Path) -> Iterator[Uploads]:
    made = Uploads(place, tmp_path / "state", upload_idle=900)
    yield made
    made.service.stop()


def interrupt(uploads: Uploads, how: str, session: str) -> Uploads:
    """The upload ends without its end; what serves the next one."""
    if how == "given up":
        uploads.abort(session, keep=True)
    elif how == "idle":
        uploads.now += 901
        uploads.sessions.drop_idle()
    elif how == "daemon stopped":
        uploads.service.stop()
        return Uploads(uploads.place, uploads.state)
    return uploads


@pytest.mark.parametrize("how", ["given up", "idle", "daemon stopped", "begun anew"])
def test_an_interrupted_upload_is_gone_on_with(uploads: Uploads, how: str) -> None:
    session = uploads.init().session_id
    uploads.send(session, 0, 3)
    again = interrupt(uploads, how, session)
    begun = again.init()
    assert begun.resumable == 3 * CHUNK
    assert again.present(begun.session_id) == [True, True, True, False, False]
    again.send(begun.session_id, 3, 5)
    assert again.finish(begun.session_id).size == len(CONTENT)
    assert again.target.read_bytes() == CONTENT
    assert os.listdir(again.place) == ["f"]
    refused("SESSION_NOT_FOUND", lambda: uploads.chunk(session, 0, b"x"))
    again.service.stop()


def test_what_is_there_counts_only_if_it_is_right(uploads: Uploads) -> None:
    session = uploads.init().session_id
    uploads.send(session, 0, 5)
    uploads.abort(session, keep=True)
    (name,) = uploads.left()
    with open(uploads.place / name, "r+b") as file:
        file.seek(2 * CHUNK + 7)
        file.write(b"damage")
    session = uploads.init().session_id
    assert uploads.present(session) == [True, True, False, True, True]
    refused("CONTENT_MISMATCH", lambda: uploads.finish(session))
    uploads.send(session, 2, 3)
    uploads.finish(session)
    assert uploads.target.read_bytes() == CONTENT


def test_what_is_not_compared_does_not_count(uploads: Uploads) -> None:
    session = uploads.init().session_id
    uploads.send(session, 0, 5)
    uploads.abort(session, keep=True)
    session = uploads.init().session_id
    refused("CONTENT_MISMATCH", lambda: uploads.finish(session))
    assert not uploads.target.exists()


def test_another_source_begins_anew(uploads: Uploads) -> None:
    session = uploads.init().session_id
    uploads.send(session, 0, 3)
    uploads.abort(session, keep=True)
    begun = uploads.init(key="another0source")
    assert begun.resumable == 0
    assert uploads.left() == [f"{PREFIX}another0source-f"]


def test_more_than_the_source_has_is_forgotten(uploads: Uploads) -> None:
    session = uploads.init().session_id
    uploads.send(session, 0, 5)
    uploads.abort(session, keep=True)
    begun = uploads.init(size=CHUNK)
    assert begun.resumable == CHUNK
    assert uploads.present(begun.session_id, CONTENT[:CHUNK]) == [True]
    uploads.finish(begun.session_id)
    assert uploads.target.read_bytes() == CONTENT[:CHUNK]


@pytest.mark.parametrize("how", ["aborted", "digest of a file", "full disk", "target became a directory"])
def test_what_is_of_no_use_is_not_kept(uploads: Uploads, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    session = uploads.init().session_id
    uploads.send(session, 0, 4)
    if how == "aborted":
        uploads.abort(session, keep=False)
    elif how == "full disk":

        def full(*args: Any) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "pwrite", full)
        refused("NO_SPACE", lambda: uploads.send(session, 4, 5))
    else:
        uploads.send(session, 4, 5)
        if how == "target became a directory":
            uploads.target.mkdir()
        with pytest.raises(RpcError):
            uploads.finish(session, md5="0" * 32 if how == "digest of a file" else "")
    assert uploads.left() == []


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"key": "a-b-c-d-e"}, "INVALID_PARAMS"),
        ({"key": "short"}, "INVALID_PARAMS"),
        ({"mtime_nanos": -1}, "INVALID_PARAMS"),
    ],
)
def test_wrong_requests(uploads: Uploads, fields: dict[str, Any], reason: str) -> None:
    refused(reason, lambda: uploads.init(**fields))
    session = uploads.init().session_id
    for wrong in ({"block_size": 0}, {"block_size": 1 << 40, "digests": ["x"]}):
        request = pb.ResumeUploadRequest(session_id=session, **wrong)
        refused("INVALID_PARAMS", lambda request=request: uploads.service.ResumeUpload(request, context()))
    refused("INVALID_PARAMS", lambda: uploads.present(session, CONTENT + bytes(CHUNK)))  # beyond the file
    refused("INVALID_PARAMS", lambda: uploads.chunk(session, 0, b"x", hole=1))
    refused("INVALID_PARAMS", lambda: uploads.chunk(session, 0, hole=len(CONTENT) + 1))
    refused("CONTENT_MISMATCH", lambda: uploads.chunk(session, 0, b"x", digest="0" * 32))
    refused("INVALID_PARAMS", lambda: uploads.finish(session, sha256="0" * 64))


def test_what_is_left_goes_after_a_day_by_itself(uploads: Uploads) -> None:
    session = uploads.init().session_id
    uploads.send(session, 0, 1)
    uploads.service.stop()
    later = Partials(str(uploads.state))
    later.remove_old()
    assert len(uploads.left()) == 1
    then = time.time() - KEPT_SECONDS - 60
    os.utime(uploads.place / uploads.left()[0], (then, then))
    (uploads.place / "f").write_bytes(b"kept")
    later.remove_old()
    assert os.listdir(uploads.place) == ["f"]
    assert os.listdir(uploads.state / "partial") == []


# -- holes, streams, digests


def test_holes_are_said_and_not_sent(uploads: Uploads) -> None:
    size = 64 * CHUNK
    session = uploads.init(size=size, data_size=CHUNK, mtime=1234, mtime_nanos=5).session_id
    uploads.chunk(session, 0, hole=10 * CHUNK)
    uploads.chunk(session, 10 * CHUNK, CONTENT[:CHUNK])
    uploads.chunk(session, 11 * CHUNK, hole=size - 11 * CHUNK)
    assert uploads.finish(session).size == size
    status = uploads.target.stat()
    assert uploads.target.read_bytes() == bytes(10 * CHUNK) + CONTENT[:CHUNK] + bytes(size - 11 * CHUNK)
    assert (status.st_size, status.st_mtime_ns) == (size, 1234 * 10**9 + 5)
    assert status.st_blocks * 512 < size or os.statvfs(uploads.place).f_bsize >= size


def test_a_hole_over_what_was_left_is_one(uploads: Uploads) -> None:
    session = uploads.init().session_id
    uploads.send(session, 0, 5)
    uploads.abort(session, keep=True)
    session = uploads.init().session_id
    uploads.chunk(session, 0, hole=len(CONTENT))
    uploads.finish(session)
    assert uploads.target.read_bytes() == bytes(len(CONTENT))


def test_a_stream_says_its_size_at_its_end(uploads: Uploads) -> None:
    session = uploads.init(size=0, key="", stream=True).session_id
    uploads.send(session, 0, 5)
    refused("CONTENT_MISMATCH", lambda: uploads.finish(session, size=len(CONTENT) + 1))
    session = uploads.init(size=0, key="", stream=True).session_id
    uploads.send(session, 0, 5)
    refused("CONTENT_MISMATCH", lambda: uploads.finish(session, size=CHUNK))
    session = uploads.init(size=0, key="", stream=True).session_id
    uploads.send(session, 0, 5)
    assert uploads.finish(session, size=len(CONTENT)).size == len(CONTENT)
    assert uploads.target.read_bytes() == CONTENT


def test_sha256_of_chunks_and_files(uploads: Uploads) -> None:
    request = pb.InitUploadRequest(path=str(uploads.target), size=5, checksum=pb.CHECKSUM_SHA256)
    session = uploads.service.InitUpload(request, context()).session_id
    digest = hashlib.sha256(b"bytes").hexdigest()
    uploads.chunk(session, 0, b"bytes", digest=digest)
    refused("INVALID_PARAMS", lambda: uploads.finish(session, md5="0" * 32))
    done = uploads.finish(session, sha256=digest.upper())
    assert (done.sha256, done.md5) == (digest, "")
    chunk = pb.DownloadChunkRequest(path=str(uploads.target), checksum=pb.CHECKSUM_SHA256)
    reply = uploads.service.DownloadChunk(chunk, context())
    assert (reply.chunk_sha256, reply.chunk_md5) == (digest, "")


def test_paths_that_are_no_text(uploads: Uploads) -> None:
    path = os.fsencode(uploads.place) + b"/\xff\n"
    uploads.service.Upload(pb.UploadRequest(path_bytes=path, content=b"x"), context())
    assert os.listdir(os.fsencode(uploads.place)) == [b"\xff\n"]
    told = uploads.service.Stat(pb.StatRequest(path_bytes=path), context())
    assert (told.exists, told.path) == (True, f"{uploads.place}/\\xff\\n")
    assert uploads.service.Download(pb.DownloadRequest(path_bytes=path), context()).content == b"x"
