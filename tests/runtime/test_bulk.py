"""Large content beside its message: the same bytes on the wire, whichever end stands beside and in whichever form."""

from __future__ import annotations

import base64
import json
import os
import time
from typing import Any, Callable

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from runtime_threads import eventually
from runtime_world import Gate, World

from vsrpc.bulk import BulkMethod, bulk, join, split
from vsrpc.compression import compress
from vsrpc.context import ServicerContext
from vsrpc.v1.file_pb2 import (
    DownloadChunkRequest,
    DownloadChunkResponse,
    UploadChunkRequest,
    UploadChunkResponse,
)
from vsrpc.v1.file_vsrpc import FILE_SERVICE, FileServicer, FileStub
from vsrpc.v1.system_vsrpc import SYSTEM_SERVICE

METHODS = {method.name: method for method in FILE_SERVICE.methods}
UPLOAD = BulkMethod(METHODS["UploadChunk"], request="content")
DOWNLOAD = BulkMethod(METHODS["DownloadChunk"], response="content")

requests = st.builds(
    UploadChunkRequest,
    session_id=st.text(max_size=20),
    offset=st.none() | st.integers(-(2**63), 2**63 - 1),
    chunk_index=st.none() | st.integers(0, 300),
)
contents = st.binary(max_size=300)


@given(requests, contents)
def test_content_beside_a_message_is_the_message_with_its_content(message: UploadChunkRequest, content: bytes) -> None:
    whole = UploadChunkRequest.FromString(b"".join(join(message, "content", content)))
    assert whole == UploadChunkRequest(content=content, **{f.name: v for f, v in message.ListFields()})
    rest, found = split(bytearray(whole.SerializeToString()), UploadChunkRequest, "content")
    assert (UploadChunkRequest.FromString(rest), bytes(found)) == (message, content)


@given(st.lists(requests | contents, max_size=5))
def test_of_fields_that_come_twice_the_last_one_counts(parts: list[Any]) -> None:
    messages = [part if isinstance(part, UploadChunkRequest) else UploadChunkRequest(content=part) for part in parts]
    body = b"".join(message.SerializeToString() for message in messages)
    whole = UploadChunkRequest.FromString(body)
    rest, found = split(body, UploadChunkRequest, "content")
    assert bytes(found) == whole.content
    whole.ClearField("content")
    assert UploadChunkRequest.FromString(rest) == whole


@given(st.binary(max_size=40))
def test_what_is_no_message_stays_none(body: bytes) -> None:
    rest, found = split(body, UploadChunkRequest, "content")
    try:
        whole = UploadChunkRequest.FromString(body)
    except DecodeError:
        with pytest.raises(DecodeError):
            UploadChunkRequest.FromString(rest)
    else:
        assert bytes(found) in (whole.content, b"")


class Files(FileServicer):
    """One file, whose content stands beside the messages; `released` counts the buffers that came back."""

    def __init__(self) -> None:
        self.content = bytearray()
        self.released = 0

    @bulk(request="content")
    def UploadChunk(self, request: UploadChunkRequest, context: ServicerContext) -> UploadChunkResponse:
        assert not request.content
        self.content[request.offset :] = context.content
        return UploadChunkResponse(received_size=len(self.content))

    @bulk(response="content")
    def DownloadChunk(self, request: DownloadChunkRequest, context: ServicerContext) -> DownloadChunkResponse:
        content = self.content[request.offset : request.offset + request.size]
        context.send_content(content, self._release)
        return DownloadChunkResponse(path=request.path, size=len(content))

    def _release(self) -> None:
        self.released += 1


@pytest.fixture
def files() -> Files:
    return Files()


@pytest.fixture
def world(make_world: Callable[..., World], files: Files) -> World:
    world = make_world(services=[SYSTEM_SERVICE])
    world.dispatcher.add_service(FILE_SERVICE, files)
    return world


CHANNELS = {"protobuf": {}, "gzip": {"compression": "gzip"}, "JSON": {"codec": "json"}}


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
@pytest.mark.parametrize("channel", CHANNELS)
def test_stubs_notice_nothing(world: World, files: Files, channel: str, size: int) -> None:
    stub = FileStub(world.channel(**CHANNELS[channel]))
    content = os.urandom(size)
    assert stub.UploadChunk(UploadChunkRequest(offset=0, content=content), timeout=30).received_size == size
    assert files.content == content
    reply = stub.DownloadChunk(DownloadChunkRequest(path="/x", size=size), timeout=30)
    assert (reply.content, reply.path) == (content, "/x")
    eventually(lambda: files.released == 1 or not size, "the buffer came back")


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
@pytest.mark.parametrize("channel", ["protobuf", "gzip"])
def test_callers_have_it_beside(world: World, files: Files, channel: str, size: int) -> None:
    connection = world.channel(**CHANNELS[channel])
    content = bytearray(os.urandom(size))
    message, nothing = connection.bulk(UPLOAD)((UploadChunkRequest(offset=0), content), timeout=30)
    assert (message.received_size, len(nothing), files.content) == (size, 0, content)
    request = DownloadChunkRequest(path="/x", size=size)
    message, got = connection.bulk(DOWNLOAD).future((request, b""), timeout=30).result()
    assert (message.path, message.content, got) == ("/x", b"", content)


def test_json_cannot_have_it_beside(world: World) -> None:
    with pytest.raises(ValueError, match="needs protobuf"):
        world.channel(codec="json").bulk(UPLOAD)


def test_on_rest_routes_it_is_base64(world: World, files: Files) -> None:
    peer = world.peer()
    peer.rpc("/api/v1/file/chunked/upload/chunk", {"offset": 0, "content": base64.b64encode(b"abc").decode()})
    assert json.loads(peer.response().body)["data"]["received_size"] == 3
    peer.rpc("/api/v1/file/chunked/download", {"path": "/x", "size": 3})
    assert json.loads(peer.response().body)["data"]["content"] == base64.b64encode(b"abc").decode()
    assert files.released == 1


def test_a_reply_that_is_kept_has_a_copy(world: World, files: Files) -> None:
    """Whoever repeats a call gets the first one's reply, whatever has become of the buffer."""
    files.content[:] = b"first"
    peer = world.peer()
    request = DownloadChunkRequest(path="/x", size=5).SerializeToString()
    for _ in range(2):
        headers = {"content_type": "application/proto", "idempotency_key": "key"}
        peer.request("POST", DOWNLOAD.method.path, request, **headers)
        assert DownloadChunkResponse.FromString(bytes(peer.response().body)).content == b"first"
        files.content[:] = b"other"
    assert files.released == 1


def test_a_message_of_very_many_fields_is_left_to_the_parser(world: World, files: Files) -> None:
    """Cutting it up would take a hundred times its size."""
    body = (
        UploadChunkRequest(chunk_index=1).SerializeToString() * 10_000
        + UploadChunkRequest(offset=0, content=b"abc").SerializeToString()
    )
    rest, content = split(body, UploadChunkRequest, "content")
    assert (rest, content) == (body, b"")
    peer = world.peer()
    peer.request("POST", UPLOAD.method.path, body, content_type="application/proto")
    assert UploadChunkResponse.FromString(bytes(peer.response().body)).received_size == 3
    assert files.content == b"abc"


def test_a_call_that_is_cancelled_gives_its_buffer_back_once(
    make_world: Callable[..., World], files: Files, gate: Gate
) -> None:
    """Else two later replies would share it, and one of them have the other's bytes."""

    def wait(proceed: Callable[[Any, ServicerContext], Any], request: Any, context: ServicerContext) -> Any:
        response = proceed(request, context)
        gate.wait()
        return response

    world = make_world(services=[SYSTEM_SERVICE], dispatcher={"interceptors": (wait,)})
    world.dispatcher.add_service(FILE_SERVICE, files)
    channel = world.channel(codec="json")
    call = FileStub(channel).DownloadChunk.future(DownloadChunkRequest(path="/x", size=3), timeout=30)
    gate.until_reached()
    call.cancel()
    probe = channel.http("GET", "/none", timeout=30)  # answered after the cancelled one was
    assert probe.status == 404
    gate.open()
    eventually(lambda: files.released, "the buffer came back")
    world.server.stop()
    assert files.released == 1


def test_a_body_compresses_to_the_same_bytes_at_any_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a repeated call would not look like itself, and be refused for its idempotency key."""
    first = compress(b"body")
    monkeypatch.setattr(time, "time", lambda: 1e9)
    assert compress(b"body") == first
