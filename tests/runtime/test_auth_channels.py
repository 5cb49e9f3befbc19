"""Channels to a server that takes only signed requests: each kind signs, and follows the server's clock."""

from __future__ import annotations

from typing import Any, Callable

import pytest
from runtime_keys import KEY, OTHER, REST, Guarded
from runtime_world import PortListener, RawServer, RawServerSide, World

from vsrpc import Channel, ChannelOptions, Code, Key, RpcError
from vsrpc.auth import Challenge
from vsrpc.bulk import BulkMethod
from vsrpc.v1.file_pb2 import UploadRequest, UploadResponse
from vsrpc.v1.file_vsrpc import FILE_SERVICE
from vsrpc.v1.shell_pb2 import ExecRequest, ExecResponse
from vsrpc.v1.shell_vsrpc import ShellStub
from vsrpc.v1.system_vsrpc import SystemStub
from vsrpc.wire import Headers

MakeWorld = Callable[..., World]


def test_many_calls_of_a_channel_in_flight(make_world: MakeWorld) -> None:
    guarded = Guarded(make_world, PortListener(), workers=4)
    stub = ShellStub(guarded.world.channel(key=KEY))
    commands = [f"{number:010}" + "x" * (number % 4 * 20_000) for number in range(64)]
    calls = [stub.Exec.future(ExecRequest(command=command)) for command in commands]
    assert all(call.result().stdout for call in calls)
    assert sorted(guarded.ran) == [("host1", command[:10]) for command in commands]


@pytest.mark.parametrize("options", [{}, {"codec": "json"}, {"compression": "gzip"}])
@pytest.mark.parametrize("hello", [True, False])
def test_each_kind_of_channel_signs(make_world: MakeWorld, options: dict[str, Any], hello: bool) -> None:
    guarded = Guarded(make_world)
    channel = guarded.world.channel(key=OTHER, hello=hello, **options)
    for _ in range(3):
        assert ShellStub(channel).Exec(ExecRequest(command="make")).stdout.startswith(b"run")
        headers = [("content-type", "application/json")]
        assert channel.http("POST", REST, headers=headers, body=b'{"command": "make"}').status == 200
    assert guarded.ran == [("host2", "make")] * 6


def test_content_beside_its_message_is_signed(make_world: MakeWorld) -> None:
    guarded = Guarded(make_world)
    seen: list[bytes] = []

    def upload(request: UploadRequest, context: Any) -> UploadResponse:
        seen.append(request.content)
        return UploadResponse(size=len(request.content))

    guarded.world.handlers.set("Upload", upload)
    method = next(each for each in FILE_SERVICE.methods if each.name == "Upload")
    call = guarded.world.channel(key=KEY).bulk(BulkMethod(method, request="content"))
    content = bytes(range(256)) * 8192
    assert call((UploadRequest(path="/x"), memoryview(content)))[0].size == len(content)
    assert seen == [content]


def test_a_channel_without_a_key_says_what_is_missing(make_world: MakeWorld) -> None:
    guarded = Guarded(make_world)
    for call in (
        lambda channel: SystemStub(channel).Ping(),
        lambda channel: channel.http("GET", "/api/v1/ping"),
    ):
        with pytest.raises(RpcError, match="takes only signed requests, and there is no key") as caught:
            call(guarded.world.channel(max_retries=3))
        assert (caught.value.code(), caught.value.reason) == (Code.UNAUTHENTICATED, "UNAUTHENTICATED")


def test_a_wrong_key_is_tried_once(make_world: MakeWorld) -> None:
    guarded = Guarded(make_world)
    for key, says in (
        (Key("host1", bytes(16)), "the secrets of the two ends differ"),
        (Key("x", bytes(16)), "no key x"),
    ):
        channel = guarded.world.channel(key=key, max_retries=3, retry_interval=1000)
        with pytest.raises(RpcError, match=says) as caught:
            SystemStub(channel).Ping()
        assert caught.value.code() is Code.UNAUTHENTICATED


def test_a_key_where_none_is_wanted_stays_here(make_world: MakeWorld) -> None:
    world = make_world()
    seen: list[Any] = []

    def execute(request: ExecRequest, context: Any) -> ExecResponse:
        seen.append((context.key, dict(context.invocation_metadata())))
        return ExecResponse()

    world.handlers.set("Exec", execute)
    for hello in (True, False):
        ShellStub(world.channel(key=KEY, hello=hello)).Exec(ExecRequest())
    assert seen == [("", {})] * 2


@pytest.mark.parametrize("jump", [-100_000, 100_000])
def test_a_guest_whose_clock_jumps_is_followed(make_world: MakeWorld, jump: float) -> None:
    """It was paused, say. Calls under way are signed anew by themselves, whatever they do, and run once."""
    guarded = Guarded(make_world)
    channel = guarded.world.channel(key=KEY)
    stub = ShellStub(channel)
    stub.Exec(ExecRequest(command="before"))
    guarded.clock.now += jump
    commands = [f"{number:010}" + "x" * (number % 2 * 20_000) for number in range(20)]
    calls = [stub.Exec.future(ExecRequest(command=command)) for command in commands]
    assert all(call.result().stdout for call in calls)
    assert sorted(command for _, command in guarded.ran[1:]) == [command[:10] for command in commands]
    guarded.clock.now += jump
    assert channel.http("POST", REST, headers=[("content-type", "application/json")], body=b"{}").status == 200
    guarded.clock.now += jump
    assert SystemStub(channel).Ping().message == "pong"


def test_the_wall_clocks_of_both_ends_do_not_matter(make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vsrpc.authenticator.time.time", lambda: 12_345.0)  # 1970
    guarded = Guarded(make_world)
    monkeypatch.undo()
    assert SystemStub(guarded.world.channel(key=KEY)).Ping().message == "pong"


def test_a_server_that_finds_every_time_wrong_is_given_up() -> None:
    asked: list[Headers] = []

    def talk(server: RawServerSide) -> None:
        server.hello(www_authenticate=str(Challenge("ab" * 16, 1000)))
        for request in server.requests():
            asked.append(request.headers)
            stale = str(Challenge("ab" * 16, 1000 * len(asked), True))
            body = b'{"code": "unauthenticated", "message": "never"}'
            server.reply(request, 401, body, www_authenticate=stale, content_type="application/json")

    server = RawServer(talk)
    options = ChannelOptions(key=KEY, retry_interval=1000)
    with Channel("raw:", server.connect, options) as channel, pytest.raises(RpcError, match="never") as caught:
        ShellStub(channel).Exec(ExecRequest(command="x"))
    assert caught.value.code() is Code.UNAUTHENTICATED
    signatures = {(headers.get("authorization") or "").partition("nonce=")[2] for headers in asked}
    assert len(signatures) == len(asked) == 4, "each has its own"
    assert len({headers.get("idempotency-key") for headers in asked}) == 1
    assert not any("vsrpc-retry-age-ms" in headers for headers in asked), "no one was a repetition: none ran"


def test_a_call_that_is_to_be_signed_anew_may_be_cancelled(make_world: MakeWorld) -> None:
    guarded = Guarded(make_world)
    channel = guarded.world.channel(key=KEY)
    SystemStub(channel).Ping()
    guarded.clock.now += 100_000
    for call in [ShellStub(channel).Exec.future(ExecRequest(command="x")) for _ in range(20)]:
        call.cancel()
        assert call.done()
    assert SystemStub(channel).Ping().message == "pong"
