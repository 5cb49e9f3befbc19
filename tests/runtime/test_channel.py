"""Calls by stubs: what gRPC's stubs offer, on a real server."""

from __future__ import annotations

import copy
import gc
import threading
from pathlib import Path
from typing import Any, Callable

import pytest
from runtime_threads import Beside, eventually
from runtime_world import EXEC, Gate, RawServer, RawServerSide, World

from vsrpc import Channel, ChannelOptions, Code, RpcError, connect
from vsrpc.calls import CallFuture
from vsrpc.transports import listener
from vsrpc.v1.error_pb2 import ErrorDetail
from vsrpc.v1.file_pb2 import UploadRequest, UploadResponse
from vsrpc.v1.file_vsrpc import FileStub
from vsrpc.v1.shell_pb2 import ExecRequest, ExecResponse
from vsrpc.v1.shell_vsrpc import ShellStub
from vsrpc.v1.system_pb2 import PingRequest
from vsrpc.v1.system_vsrpc import SystemStub


@pytest.fixture(params=["memory", "unix"])
def anywhere(request: pytest.FixtureRequest, make_world: Callable[..., World], tmp_path: Path) -> World:
    return make_world(listener(f"unix:{tmp_path / 'port.sock'}") if request.param == "unix" else None)


# -- the surface


@pytest.mark.parametrize("codec", ["proto", "json"])
@pytest.mark.parametrize("compression", ["", "gzip"])
def test_a_call(anywhere: World, codec: str, compression: str) -> None:
    shell = ShellStub(anywhere.channel(codec=codec, compression=compression))
    assert shell.Exec(ExecRequest(command="Grüße")).stdout == "Grüße".encode()


@pytest.mark.parametrize("codec", ["proto", "json"])
def test_the_request_may_be_left_out(world: World, codec: str) -> None:
    system = SystemStub(world.channel(codec=codec))
    assert system.Ping().message == "pong"
    assert system.Ping(timeout=5).message == "pong"
    assert system.Ping(metadata=[("a", "b")]).message == "pong"
    assert system.Ping.future().result().message == "pong"
    assert system.Ping.with_call()[0].message == "pong"


@pytest.mark.parametrize("codec", ["proto", "json"])
def test_a_request_of_another_type_is_refused(world: World, codec: str) -> None:
    with pytest.raises(TypeError, match=f"{EXEC} takes a ExecRequest, not a PingRequest"):
        ShellStub(world.channel(codec=codec)).Exec(PingRequest())  # type: ignore[arg-type]


def test_with_call_gives_the_call_too(world: World) -> None:
    def handler(request: ExecRequest, context: Any) -> ExecResponse:
        context.set_initial_metadata([("a", "1")])
        context.set_trailing_metadata([("b", "2"), ("c-bin", b"\0\xff")])
        return ExecResponse()

    world.handlers.set("Exec", handler)
    response, call = ShellStub(world.channel()).Exec.with_call()
    assert isinstance(response, ExecResponse)
    assert (call.code(), call.details(), call.done(), call.cancelled()) == (Code.OK, "", True, False)
    assert ("a", "1") in call.initial_metadata()
    assert call.trailing_metadata() == (("b", "2"), ("c-bin", b"\0\xff"))
    assert call.exception() is None


def test_a_future(world: World, gate: Gate) -> None:
    world.handlers.set("Exec", lambda request, context: gate.wait() or ExecResponse(exit_code=3))
    ended = []
    call = ShellStub(world.channel()).Exec.future()
    call.add_done_callback(ended.append)
    gate.until_reached()
    assert not call.done()
    with pytest.raises(TimeoutError):
        call.result(timeout=0.01)
    assert not call.done()
    gate.open()
    assert call.result(timeout=10).exit_code == 3
    eventually(lambda: ended == [call], "the callback was called")
    call.add_done_callback(ended.append)
    assert ended == [call, call]
    assert not call.cancel()


def test_a_callback_that_fails_harms_nobody(world: World, caplog: Any) -> None:
    shell = ShellStub(world.channel())
    for moment in ("before", "after"):
        call = shell.Exec.future()
        if moment == "after":
            call.result()
        call.add_done_callback(lambda call: 1 / 0)
        call.result()
        eventually(lambda: "ZeroDivisionError" in caplog.text, "it was logged")
        caplog.clear()
    assert shell.Exec(ExecRequest(command="fine")).stdout == b"fine"


def test_cancelling(world: World, gate: Gate) -> None:
    world.handlers.set("Exec", lambda request, context: gate.wait() or ExecResponse())
    shell = ShellStub(world.channel())
    call = shell.Exec.future()
    gate.until_reached()
    assert call.cancel()
    assert call.cancelled()
    assert call.code() is Code.CANCELLED
    with pytest.raises(RpcError) as caught:
        call.result()
    assert (caught.value.code(), caught.value.reason) == (Code.CANCELLED, "CANCELLED")
    assert not call.cancel()
    gate.open()  # the reply that now comes is nobody's
    assert SystemStub(shell.Exec._channel).Ping().message == "pong"  # type: ignore[attr-defined]


def test_an_error(world: World) -> None:
    def handler(request: ExecRequest, context: Any) -> ExecResponse:
        raise RpcError(
            Code.NOT_FOUND,
            "no such file: /x\udcff",
            reason="FILE_NOT_FOUND",
            data={"path": "/x"},
            trailing_metadata=(("t", "1"),),
        )

    world.handlers.set("Exec", handler)
    with pytest.raises(RpcError) as caught:
        ShellStub(world.channel()).Exec()
    error = caught.value
    assert (error.code(), error.details()) == (Code.NOT_FOUND, "no such file: /x?")
    assert str(error) == "NOT_FOUND: no such file: /x?"
    assert error.trailing_metadata() == (("t", "1"),)
    (detail,) = error.error_details
    assert detail.type == "vsrpc.v1.ErrorDetail"
    assert ErrorDetail.FromString(detail.value) == ErrorDetail(code=3002, data={"path": "/x"})


@pytest.mark.parametrize("code", [code for code in Code if code is not Code.OK])
def test_every_status_arrives(world: World, code: Code) -> None:
    world.handlers.set("Exec", lambda request, context: context.abort(code, f"because {code.value}"))
    call = ShellStub(world.channel()).Exec.future()
    assert (call.code(), call.details()) == (code, f"because {code.value}")


def test_a_closed_channel_makes_no_calls(world: World, gate: Gate) -> None:
    world.handlers.set("Exec", lambda request, context: gate.wait() or ExecResponse())
    channel = world.channel()
    call = ShellStub(channel).Exec.future()
    gate.until_reached()
    channel.close()
    channel.close()
    assert call.code() is Code.CANCELLED
    with pytest.raises(RpcError, match="the channel is closed") as caught:
        SystemStub(channel).Ping()
    assert caught.value.code() is Code.CANCELLED


def test_a_channel_is_a_context(world: World) -> None:
    with world.channel() as channel:
        assert SystemStub(channel).Ping().message == "pong"
    links = [thread for thread in threading.enumerate() if thread.name == "vsrpc-link"]
    for thread in links:  # it may be on its way out
        thread.join(30)
    assert not any(thread.is_alive() for thread in links)


def test_closing_a_channel_from_a_callback(world: World) -> None:
    channel = world.channel()
    closed = threading.Event()
    call = SystemStub(channel).Ping.future()
    call.add_done_callback(lambda call: (channel.close(), closed.set()))
    assert call.result().message == "pong"
    assert closed.wait(20)


def test_options_that_are_none() -> None:
    with pytest.raises(ValueError, match="codec 'xml': use one of proto, json"):
        ChannelOptions(codec="xml")
    with pytest.raises(ValueError, match="compression 'br': use gzip"):
        ChannelOptions(compression="br")


def test_options_are_a_value_that_does_not_change() -> None:
    options = ChannelOptions(max_retries=1, codec="json")
    assert options == ChannelOptions(codec="json", max_retries=1)
    assert options != ChannelOptions(codec="json")
    assert options != "json"
    assert hash(options) == hash(ChannelOptions(codec="json", max_retries=1))
    assert repr(options).startswith("ChannelOptions(backoff_factor=2.0, codec='json', ")
    with pytest.raises(AttributeError, match="max_retries: the options of a channel do not change"):
        options.max_retries = 2
    with pytest.raises(AttributeError, match="codec: the options of a channel do not change"):
        del options.codec
    with pytest.raises(AttributeError, match="tiemout"):
        options.tiemout = 3  # type: ignore[attr-defined]
    assert options.__replace__(max_retries=2) == ChannelOptions(max_retries=2, codec="json")
    assert copy.deepcopy(options) == options


def test_a_failed_call_keeps_nothing_alive(world: World) -> None:
    """Content of megabytes would stay until the interpreter looks for cycles."""

    def refuse(request: Any, context: Any) -> Any:
        raise RpcError(Code.RESOURCE_EXHAUSTED, "no")

    world.handlers.set("Exec", refuse)
    execute = ShellStub(world.channel()).Exec
    gc.collect()
    gc.disable()
    try:
        for call in (execute, lambda request: execute.future(request).result()):
            with pytest.raises(RpcError):
                call(ExecRequest(command="x"))
        assert not [each for each in gc.get_objects() if isinstance(each, CallFuture)]
    finally:
        gc.enable()


def test_json_needs_our_stubs(world: World) -> None:
    with pytest.raises(ValueError, match=f"{EXEC}: JSON needs a stub"):
        world.channel(codec="json").unary_unary(EXEC, ExecRequest.SerializeToString, ExecResponse.FromString)


def test_connecting_at_once_or_at_the_first_call(world: World, tmp_path: Path) -> None:
    world.channel().connect()
    missing = connect(str(tmp_path / "missing.sock"))
    with pytest.raises(RpcError, match="no such socket") as caught:
        missing.connect()
    assert (caught.value.code(), caught.value.reason) == (Code.UNAVAILABLE, "CONNECTION_REFUSED")
    missing.close()


# -- many at once


def test_many_threads_and_calls_on_one_channel(make_world: Callable[..., World]) -> None:
    world = make_world(workers=8, queue=1000)
    shell = ShellStub(world.channel())

    def work(number: int) -> bool:
        commands = [f"{number}-{index}-" + "x" * (index % 7 * 1000) for index in range(50)]
        calls = [shell.Exec.future(ExecRequest(command=command)) for command in commands]
        return [call.result().stdout.decode() for call in calls] == commands

    assert all(thread.result() for thread in [Beside(work, number) for number in range(12)])


def test_a_slow_call_does_not_hold_up_the_next(world: World, gate: Gate) -> None:
    world.handlers.set("Exec", lambda request, context: gate.wait() or ExecResponse())
    channel = world.channel()
    slow = ShellStub(channel).Exec.future()
    gate.until_reached()
    assert SystemStub(channel).Ping(timeout=10).message == "pong"
    assert not slow.done()
    gate.open()
    slow.result()


def test_what_is_too_much_at_a_time_is_refused_at_once(make_world: Callable[..., World], gate: Gate) -> None:
    world = make_world(workers=2, queue=3)
    world.handlers.set("Exec", lambda request, context: gate.wait() or ExecResponse())
    shell = ShellStub(world.channel())
    taken = [shell.Exec.future() for _ in range(5)]
    gate.until_reached(2)
    with pytest.raises(RpcError, match="the guest is busy") as caught:
        shell.Exec(timeout=10)
    assert caught.value.code() is Code.RESOURCE_EXHAUSTED
    assert ErrorDetail.FromString(caught.value.error_details[0].value).code == 5004
    gate.open()
    assert [call.code() for call in taken] == [Code.OK] * 5
    assert shell.Exec.with_call()[1].code() is Code.OK


def test_both_directions_full(make_world: Callable[..., World]) -> None:
    world = make_world(workers=4)
    world.handlers.set("Upload", lambda request, context: UploadResponse(path="y" * 3_000_000))
    upload = FileStub(world.channel()).Upload
    calls = [Beside(upload, UploadRequest(content=bytes(3_000_000)), 60) for _ in range(6)]
    assert {len(call.result().path) for call in calls} == {3_000_000}


# -- sizes


def test_a_request_beyond_the_guests_limit_is_not_sent(make_world: Callable[..., World]) -> None:
    world = make_world(dispatcher={"max_request_size": 1000})
    shell = ShellStub(world.channel())
    with pytest.raises(
        RpcError, match="the request has 1003 bytes, the guest takes at most 1000; send it in"
    ) as caught:
        shell.Exec(ExecRequest(command="x" * 1000))
    assert (caught.value.code(), caught.value.reason) == (Code.RESOURCE_EXHAUSTED, "TOO_LARGE")
    assert len(shell.Exec(ExecRequest(command="x" * 997)).stdout) == 997


def test_a_request_that_grows_beyond_the_limit_is_refused_by_the_guest(make_world: Callable[..., World]) -> None:
    world = make_world(dispatcher={"max_request_size": 1000})
    with pytest.raises(RpcError, match="larger than the limit of 1000 bytes once decompressed") as caught:
        ShellStub(world.channel(compression="gzip")).Exec(ExecRequest(command="x" * 5000))
    assert caught.value.code() is Code.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("compression", ["", "gzip"])
def test_a_reply_beyond_the_limit(world: World, compression: str) -> None:
    channel = world.channel(max_response_size=1000, compression=compression)
    with pytest.raises(RpcError, match="1000") as caught:
        ShellStub(channel).Exec(ExecRequest(command="x" * 5000))
    assert (caught.value.code(), caught.value.reason) == (Code.RESOURCE_EXHAUSTED, "TOO_LARGE")
    assert SystemStub(channel).Ping().message == "pong"


# -- metadata


def test_metadata_arrives(world: World) -> None:
    seen: list[Any] = []
    world.handlers.set("Ping", lambda request, context: seen.extend(context.invocation_metadata()))
    pairs = (
        ("one", "1"),
        ("one", "two"),
        ("empty", ""),
        ("blank", "a  b"),
        ("data-bin", bytes(range(256))),
        ("e-bin", b""),
    )
    SystemStub(world.channel()).Ping.future(metadata=pairs).exception()
    assert tuple(pair for pair in seen if pair in pairs) == pairs
    assert not {"content-type", "host", "x-request-id", "connect-timeout-ms"} & {key for key, _ in seen}


INVALID = [
    ((("UPPER", "x"),), ValueError, "'UPPER': only a-z"),
    ((("a b", "x"),), ValueError, "'a b': only a-z"),
    ((("", "x"),), ValueError, "'': only a-z"),
    ((("a", "x\r\nHost: y"),), ValueError, "not printable ASCII"),
    ((("a", " x"),), ValueError, "not printable ASCII without outer blanks"),
    ((("a", "ü"),), ValueError, "not printable ASCII"),
    ((("a", b"x"),), TypeError, "takes str, not bytes"),
    ((("a-bin", "x"),), TypeError, "takes bytes, not str"),
    ((("content-length", "1"),), ValueError, "reserved for the protocol"),
    ((("x-request-id", "1"),), ValueError, "reserved for the protocol"),
    ((("connect-timeout-ms", "1"),), ValueError, "reserved for the protocol"),
    ((("trailer-a", "1"),), ValueError, "reserved for the protocol"),
    ((("vsrpc-version", "1"),), ValueError, "reserved for the protocol"),
]


@pytest.mark.parametrize(("metadata", "error", "message"), INVALID, ids=lambda value: str(value)[:24])
def test_metadata_that_cannot_travel(world: World, metadata: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        SystemStub(world.channel()).Ping(metadata=metadata)


@pytest.mark.parametrize(("metadata", "error", "message"), INVALID, ids=lambda value: str(value)[:24])
@pytest.mark.parametrize("where", ["initial", "trailing", "error"])
def test_a_servicers_metadata_that_cannot_travel(
    world: World, caplog: Any, where: str, metadata: Any, error: type[Exception], message: str
) -> None:
    def handler(request: ExecRequest, context: Any) -> ExecResponse:
        if where == "error":
            raise RpcError(Code.NOT_FOUND, "as the servicer says", trailing_metadata=metadata)
        getattr(context, f"set_{where}_metadata")(metadata)
        return ExecResponse()

    world.handlers.set("Exec", handler)
    call = ShellStub(world.channel()).Exec.future(timeout=20)
    assert call.code() is (Code.NOT_FOUND if where == "error" else Code.INTERNAL)
    assert message.replace("\\", "") in caplog.text


@pytest.mark.parametrize("metadata", [[("a", "x" * 70_000)], [(f"a{index}", "x") for index in range(200)]])
def test_too_much_metadata(world: World, metadata: Any, caplog: Any) -> None:
    shell = ShellStub(world.channel())
    with pytest.raises(RpcError, match=r"the request cannot be sent: .* limit") as caught:
        shell.Exec(metadata=metadata)
    assert caught.value.code() is Code.INVALID_ARGUMENT

    def handler(request: ExecRequest, context: Any) -> ExecResponse:
        context.set_trailing_metadata(metadata)
        return ExecResponse()

    world.handlers.set("Exec", handler)
    with pytest.raises(RpcError, match=r"the response cannot be sent: .* limit") as caught:
        shell.Exec(timeout=20)
    assert caught.value.code() is Code.INTERNAL
    assert "the response cannot be sent" in caplog.text


# -- replies that are none


@pytest.mark.parametrize(
    ("status", "headers", "body", "code", "message"),
    [
        (200, {"content_type": "application/proto"}, b"\xff", Code.INTERNAL, f"the reply to {EXEC} cannot be decoded"),
        (200, {"content_type": "application/json"}, b"{}", Code.INTERNAL, "content type is 'application/json', not"),
        (200, {"content_type": "text/html"}, b"<html>", Code.UNKNOWN, "content type is 'text/html', not"),
        (200, {}, b"", Code.UNKNOWN, "content type is '', not"),
        (200, {"content_encoding": "br"}, b"", Code.INTERNAL, "'br' is not supported"),
        (200, {"content_encoding": "gzip"}, b"no gzip", Code.INTERNAL, "not valid gzip"),
        (404, {"content_type": "text/html"}, b"<html>", Code.UNIMPLEMENTED, "HTTP status 404"),
        (502, {}, b"", Code.UNAVAILABLE, "HTTP status 502"),
        (500, {"content_type": "application/json"}, b"[" * 200_000, Code.UNKNOWN, "HTTP status 500"),
        (500, {"content_type": "application/json"}, b'{"code":"aborted"}', Code.ABORTED, ""),
        (500, {"content_type": "application/json"}, b'{"code":"?","details":7}', Code.UNKNOWN, ""),
        (500, {"content_type": "application/json"}, b'{"code":3,"message":["x"]}', Code.UNKNOWN, "HTTP status 500"),
    ],
)
def test_replies_that_are_none(status: int, headers: dict[str, str], body: bytes, code: Code, message: str) -> None:
    def talk(side: RawServerSide) -> None:
        side.hello()
        for request in side.requests():
            side.reply(request, status, body, **headers)

    with Channel("raw:", RawServer(talk).connect, ChannelOptions(max_retries=0)) as channel:
        for _ in range(2):  # the session goes on
            call = ShellStub(channel).Exec.future(timeout=20)
            assert (call.code(), message in call.details()) == (code, True), call.details()


def test_replies_that_nobody_waits_for_are_left_alone() -> None:
    def talk(side: RawServerSide) -> None:
        side.hello()
        for request in side.requests():
            side.reply(None, 500, b"stale", x_request_id="of-another")
            side.reply(None, 500, b"without an id")
            for _ in range(2):
                side.reply(
                    request, 200, ExecResponse(exit_code=7).SerializeToString(), content_type="application/proto"
                )

    with Channel("raw:", RawServer(talk).connect) as channel:
        for _ in range(3):
            assert ShellStub(channel).Exec().exit_code == 7
