"""Uploads in chunks: any order, repeats, gaps, digests, limits, and nothing left of what is given up."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import threading
from pathlib import Path
from typing import Any, Iterator

import pytest
from servicer_helpers import context, refused

from guest.config import LimitsConfig
from guest.files import target
from guest.files.sessions import UploadSessions
from guest.policy.paths import PathPolicy
from guest.services.file import FileService
from vsrpc.errors import RpcError
from vsrpc.v1 import file_pb2 as pb

MIB = 1024 * 1024
CHUNK = 2 * MIB


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Uploads:
    """A servicer on a directory of its own, with the calls in short form."""

    def __init__(self, place: Path, **limits: Any) -> None:
        self.place = place
        self.target = place / "f"
        self.sessions = UploadSessions(**limits)
        self.service = FileService(PathPolicy([f"{place}/"]), 10 * MIB, self.sessions)

    def init(self, size: int, **fields: Any) -> str:
        fields.setdefault("path", str(self.target))
        return self.service.InitUpload(pb.InitUploadRequest(size=size, **fields), context()).session_id

    def chunk(self, session: str, content: bytes = b"", **fields: Any) -> pb.UploadChunkResponse:
        call = context()
        call.content = content
        return self.service.UploadChunk(pb.UploadChunkRequest(session_id=session, **fields), call)

    def finish(self, session: str, md5: str = "") -> pb.FinishUploadResponse:
        return self.service.FinishUpload(pb.FinishUploadRequest(session_id=session, md5=md5), context())

    def abort(self, session: str) -> pb.AbortUploadResponse:
        return self.service.AbortUpload(pb.AbortUploadRequest(session_id=session), context())

    def names(self) -> list[str]:
        return sorted(os.listdir(self.place))


@pytest.fixture
def uploads(place: Path, way: str) -> Iterator[Uploads]:
    made = Uploads(place)
    yield made
    made.service.stop()


def test_an_upload_in_order(uploads: Uploads) -> None:
    content = os.urandom(2 * CHUNK + 5)
    reply = uploads.service.InitUpload(
        pb.InitUploadRequest(path=str(uploads.target), size=len(content), mode="0600"), context()
    )
    assert (reply.chunk_size, reply.path) == (CHUNK, str(uploads.target))
    assert not uploads.target.exists()
    for index in range(3):
        part = content[index * CHUNK : (index + 1) * CHUNK]
        told = uploads.chunk(reply.session_id, part, offset=index * CHUNK)
        received = min((index + 1) * CHUNK, len(content))
        assert (told.session_id, told.chunk_index) == (reply.session_id, index)
        assert (told.received_size, told.total_size) == (received, len(content))
        assert told.progress == pytest.approx(100 * received / len(content))
    md5 = hashlib.md5(content).hexdigest()
    done = uploads.finish(reply.session_id, md5.upper())
    assert (done.path, done.size, done.md5, done.chunks_received) == (str(uploads.target), len(content), md5, 3)
    assert uploads.target.read_bytes() == content
    assert uploads.target.stat().st_mode & 0o7777 == 0o600
    assert uploads.names() == ["f"]


@pytest.mark.parametrize("kept", [0, 300_000, 10_000_000])  # so much is digested as it arrives, the rest from the file
@pytest.mark.parametrize("seed", range(6))
def test_any_order_any_size_and_again(place: Path, seed: int, kept: int) -> None:
    uploads = Uploads(place, kept=kept)
    chance = random.Random(seed)
    content = chance.getrandbits(8_000_000).to_bytes(1_000_000, "little")
    edges = [0, *sorted(chance.sample(range(1, len(content)), 9)), len(content)]
    parts = list(zip(edges, edges[1:]))
    parts += chance.sample(parts, 4)  # sent again, after a lost reply
    parts += [(start, min(end + 1000, len(content))) for start, end in chance.sample(parts, 2)]  # in other pieces
    chance.shuffle(parts)
    session = uploads.init(len(content))
    for start, end in parts:
        uploads.chunk(session, content[start:end], offset=start)
    assert uploads.finish(session, hashlib.md5(content).hexdigest()).size == len(content)
    assert uploads.target.read_bytes() == content
    uploads.service.stop()


def test_chunks_of_many_threads(uploads: Uploads) -> None:
    content = os.urandom(4_000_000)
    session = uploads.init(len(content))
    offsets = iter(range(0, len(content), 100_000))
    lock = threading.Lock()

    def send() -> None:
        while True:
            with lock:
                offset = next(offsets, None)
            if offset is None:
                return
            uploads.chunk(session, content[offset : offset + 100_000], offset=offset)

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done = uploads.finish(session, hashlib.md5(content).hexdigest())
    assert done.chunks_received == 40
    assert uploads.target.read_bytes() == content


def test_a_chunk_that_is_sent_again_with_other_content_counts(uploads: Uploads) -> None:
    session = uploads.init(9)
    for offset, content in ((0, b"aaa"), (3, b"bbb"), (6, b"ccc"), (3, b"BBB"), (3, b"BBB")):
        uploads.chunk(session, content, offset=offset)
    done = uploads.finish(session, hashlib.md5(b"aaaBBBccc").hexdigest())
    assert done.chunks_received == 4  # the last one changed nothing
    assert uploads.target.read_bytes() == b"aaaBBBccc"


def test_chunks_by_index(uploads: Uploads) -> None:
    content = os.urandom(CHUNK + 3)
    session = uploads.init(len(content))
    assert uploads.chunk(session, content[CHUNK:], chunk_index=1).chunk_index == 1
    assert uploads.chunk(session, content[:CHUNK], chunk_index=0, offset=0).received_size == len(content)
    uploads.finish(session)
    assert uploads.target.read_bytes() == content


def test_an_empty_file(uploads: Uploads) -> None:
    session = uploads.init(0)
    assert uploads.chunk(session, b"", offset=0).progress == 100
    assert uploads.finish(session, hashlib.md5(b"").hexdigest()).size == 0
    assert uploads.target.read_bytes() == b""


def test_missing_pieces_are_named_and_can_still_come(uploads: Uploads) -> None:
    session = uploads.init(30)
    uploads.chunk(session, b"a" * 10, offset=0)
    uploads.chunk(session, b"c" * 10, offset=20)
    failure = refused("CONTENT_MISMATCH", uploads.finish, session)
    assert "Bytes 10 to 19 of 30 have not arrived" in failure.details()
    assert failure.data == {"offset": "10", "end": "20"}
    assert not uploads.target.exists()
    uploads.chunk(session, b"b" * 10, offset=10)
    uploads.finish(session)
    assert uploads.target.read_bytes() == b"a" * 10 + b"b" * 10 + b"c" * 10


def test_a_wrong_digest_leaves_the_target_as_it_was(uploads: Uploads) -> None:
    uploads.target.write_bytes(b"old")
    session = uploads.init(3)
    uploads.chunk(session, b"new", offset=0)
    refused("INVALID_PARAMS", uploads.finish, session, "xyz")  # no digest at all: the upload goes on
    failure = refused("CONTENT_MISMATCH", uploads.finish, session, "0" * 32)
    assert hashlib.md5(b"new").hexdigest() in failure.details()
    assert uploads.target.read_bytes() == b"old"
    assert uploads.names() == ["f"]
    refused("SESSION_NOT_FOUND", uploads.finish, session)


def test_without_overwriting_the_later_one_loses(uploads: Uploads) -> None:
    session = uploads.init(3, overwrite=False)
    uploads.chunk(session, b"new", offset=0)
    uploads.target.write_bytes(b"was faster")
    refused("FILE_EXISTS", uploads.finish, session)
    assert uploads.target.read_bytes() == b"was faster"
    assert uploads.names() == ["f"]
    refused("FILE_EXISTS", lambda: uploads.init(3, overwrite=False))


@pytest.mark.parametrize(
    ("fields", "reason", "message"),
    [
        ({}, "MISSING_REQUIRED", "offset is missing"),
        ({"offset": 98}, "INVALID_PARAMS", "Chunk of 3 bytes at offset 98 is outside the file of 100 bytes"),
        ({"offset": -1}, "INVALID_PARAMS", "outside the file"),
        ({"offset": 2**62}, "INVALID_PARAMS", "outside the file"),
        ({"chunk_index": 1}, "INVALID_PARAMS", "outside the file"),
        ({"chunk_index": -1}, "INVALID_PARAMS", "outside the file"),
        ({"chunk_index": 2**62}, "INVALID_PARAMS", "outside the file"),
        ({"offset": 5, "chunk_index": 0}, "INVALID_PARAMS", "offset 5 is not where chunk 0 begins"),
    ],
)
def test_chunks_that_fit_nowhere(uploads: Uploads, fields: dict[str, int], reason: str, message: str) -> None:
    session = uploads.init(100)
    failure = refused(reason, lambda: uploads.chunk(session, b"abc", **fields))
    assert message in failure.details()
    assert uploads.chunk(session, b"abc", offset=97).received_size == 3


@pytest.mark.parametrize(
    ("fields", "reason", "message"),
    [
        ({"size": -1}, "INVALID_PARAMS", "size is -1"),
        ({"size": 2**62}, "NO_SPACE", "bytes are free"),
        ({"size": 1, "path": "/etc/hosts"}, "PERMISSION_DENIED", "security.allowed_paths"),
        ({"size": 1, "mode": "x"}, "INVALID_PARAMS", "mode 'x'"),
        ({"size": 1, "checksum": 9}, "INVALID_PARAMS", "checksum 9 is unknown"),
        ({"size": 1, "path": ""}, "MISSING_REQUIRED", "path is missing"),
    ],
)
def test_uploads_that_cannot_begin(uploads: Uploads, fields: dict[str, Any], reason: str, message: str) -> None:
    before = os.listdir("/proc/self/fd")
    assert message in refused(reason, lambda: uploads.init(**fields)).details()
    assert uploads.names() == []
    assert os.listdir("/proc/self/fd") == before


def test_aborting(uploads: Uploads) -> None:
    session = uploads.init(10)
    uploads.chunk(session, b"abc", offset=0)
    assert "aborted" in uploads.abort(session).message
    assert uploads.names() == []
    refused("SESSION_NOT_FOUND", lambda: uploads.chunk(session, b"abc", offset=0))
    for unknown in (session, "made-up"):
        reply = uploads.abort(unknown)
        assert (reply.session_id, reply.message) == (unknown, "no such upload; nothing to abort")
    refused("MISSING_REQUIRED", uploads.abort, "")


def test_a_failing_write_gives_the_upload_up(uploads: Uploads, monkeypatch: pytest.MonkeyPatch) -> None:
    session = uploads.init(10)

    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    refused("NO_SPACE", lambda: uploads.chunk(session, b"abc", offset=0))
    assert uploads.names() == []
    refused("SESSION_NOT_FOUND", lambda: uploads.chunk(session, b"abc", offset=0))


def test_a_temporary_file_that_somebody_cuts(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "read_full", lambda fd, length, offset: b"")
    uploads = Uploads(place, kept=0)  # all is digested from the file
    session = uploads.init(3)
    uploads.chunk(session, b"abc", offset=0)
    failure = refused("CONTENT_MISMATCH", lambda: uploads.finish(session))
    assert "cut by somebody" in failure.details()
    assert uploads.names() == []
    uploads.service.stop()


def test_a_caller_who_left_can_come_back(uploads: Uploads) -> None:
    session = uploads.init(6, checksum=pb.CHECKSUM_CRC32)  # so that the digest is only begun when it is asked for
    uploads.chunk(session, b"abcdef", offset=0)
    request = pb.FinishUploadRequest(session_id=session, md5=hashlib.md5(b"abcdef").hexdigest())
    refused("DEADLINE_EXCEEDED", uploads.service.FinishUpload, request, context(0))
    uploads.finish(session, request.md5)


@pytest.mark.parametrize("md5", ["", hashlib.md5(b"abcdef").hexdigest()])
def test_an_md5_that_nobody_asks_for_is_not_computed(uploads: Uploads, md5: str) -> None:
    session = uploads.init(6, checksum=pb.CHECKSUM_CRC32)
    uploads.chunk(session, b"abcdef", offset=0)
    assert uploads.finish(session, md5).md5 == md5
    assert uploads.target.read_bytes() == b"abcdef"


def test_a_chunk_that_comes_again_with_other_content(uploads: Uploads) -> None:
    content = os.urandom(3_000_000)
    session = uploads.init(len(content))
    for start in range(0, len(content), 1_000_000):
        uploads.chunk(session, bytes(1_000_000), offset=start)
    for start in (1_500_000, 0):
        uploads.chunk(session, content[start : start + 1_500_000], offset=start)
    uploads.finish(session, hashlib.md5(content).hexdigest())
    assert uploads.target.read_bytes() == content


def test_no_more_than_so_many_at_a_time(place: Path) -> None:
    uploads = Uploads(place, limits=LimitsConfig(uploads=2))
    first = uploads.init(1)
    uploads.init(1)
    before = os.listdir("/proc/self/fd")
    failure = refused("BUSY", lambda: uploads.init(1))
    assert "2 uploads are open already" in failure.details()
    assert os.listdir("/proc/self/fd") == before
    uploads.abort(first)
    uploads.init(1)
    uploads.service.stop()


def test_idle_uploads_are_dropped(place: Path) -> None:
    clock = Clock()
    uploads = Uploads(place, limits=LimitsConfig(upload_idle=100), clock=clock)
    idle, used = uploads.init(10), uploads.init(10)
    clock.now += 60
    uploads.chunk(used, b"abc", offset=0)
    clock.now += 60
    uploads.sessions.drop_idle()
    refused("SESSION_NOT_FOUND", lambda: uploads.chunk(idle, b"abc", offset=0))
    assert uploads.chunk(used, b"def", offset=3).received_size == 6
    uploads.service.stop()


def test_idle_uploads_are_dropped_without_a_call(place: Path) -> None:
    before, threads = os.listdir("/proc/self/fd"), set(threading.enumerate())
    uploads = Uploads(place, limits=LimitsConfig(upload_idle=0.05))
    uploads.init(10)
    (timer,) = set(threading.enumerate()) - threads
    timer.join()
    assert os.listdir("/proc/self/fd") == before
    assert not set(threading.enumerate()) - threads


def test_stopping_removes_all(uploads: Uploads) -> None:
    session = uploads.init(10)
    uploads.chunk(session, b"abc", offset=0)
    uploads.service.stop()
    assert uploads.names() == []
    refused("SESSION_NOT_FOUND", lambda: uploads.chunk(session, b"abc", offset=0))
    refused("SERVICE_UNAVAILABLE", lambda: uploads.init(1))
    assert uploads.names() == []


def test_ids_cannot_be_guessed(uploads: Uploads) -> None:
    ids = {uploads.init(1) for _ in range(8)}
    assert len(ids) == 8
    assert all(len(each) == 32 and int(each, 16) >= 0 for each in ids)


def test_errors_of_a_made_up_id_are_short(uploads: Uploads) -> None:
    with pytest.raises(RpcError) as caught:
        uploads.finish("x" * 10_000)
    assert len(caught.value.details()) < 200
