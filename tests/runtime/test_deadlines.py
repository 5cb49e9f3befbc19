"""Until when a call may take: exact at the caller, carried to the guest, enforced there; and what cancels it."""

from __future__ import annotations

import threading
import time
from typing import Any, Callable

import pytest
from runtime_threads import Beside, eventually
from runtime_world import EXEC, PING, Gate, RawServer, RawServerSide, World

from vsrpc import Channel, ChannelOptions, Code, RpcError
from vsrpc.deadline import Deadline
from vsrpc.v1.file_pb2 import UploadRequest
from vsrpc.v1.file_vsrpc import FileStub
from vsrpc.v1.shell_pb2 import ExecRequest, ExecResponse
from vsrpc.v1.shell_vsrpc import ShellStub
from vsrpc.v1.system_vsrpc import SystemStub

SHORT = 0.1
SLACK = 1.0
"""Seconds that a busy machine may add."""


def silent(side: RawServerSide) -> None:
    side.hello()
    side.until_gone()


def timed(function: Callable[[], Any]) -> tuple[float, RpcError]:
    """How long it takes a function to fail, and with what."""
    begun = time.monotonic()
    with pytest.raises(RpcError) as caught:
        function()
    return time.monotonic() - begun, caught.value


# -- the caller


@pytest.mark.parametrize("make", ["call", "future", "default"])
def test_the_caller_waits_no_longer(make: str) -> None:
    options = ChannelOptions(read_timeout=SHORT if make == "default" else 30)
    with Channel("raw:", RawServer(silent).connect, options) as channel:
        shell = ShellStub(channel)
        call: dict[str, Callable[[], Any]] = {
            "call": lambda: shell.Exec(timeout=SHORT),
            "future": lambda: shell.Exec.future(timeout=SHORT).result(),
            "default": shell.Exec,
        }
        seconds, error = timed(call[make])
        assert (error.code(), error.reason) == (Code.DEADLINE_EXCEEDED, "READ_TIMEOUT")
        assert SHORT <= seconds < SHORT + SLACK


def test_a_future_that_nobody_waits_for_ends_too() -> None:
    with Channel("raw:", RawServer(silent).connect) as channel:
        ended = threading.Event()
        ShellStub(channel).Exec.future(timeout=SHORT).add_done_callback(lambda call: ended.set())
        assert ended.wait(10)


def test_futures_end_while_other_replies_keep_coming(world: World, gate: Gate) -> None:
    world.handlers.set("Exec", lambda request, context: gate.wait() or ExecResponse())

    def talk(side: RawServerSide) -> None:
        side.hello()
        for request in side.requests():
            if request.target == PING:
                side.reply(request, content_type="application/proto")

    with Channel("raw:", RawServer(talk).connect) as channel:
        call = ShellStub(channel).Exec.future(timeout=SHORT)
        ping = SystemStub(channel).Ping
        eventually(lambda: call.done() or not ping(), "the call ends")


@pytest.mark.parametrize("timeout", [0, -1])
def test_a_deadline_that_has_passed_sends_nothing(timeout: float) -> None:
    server = RawServer(silent)
    with Channel("raw:", server.connect) as channel:
        call = ShellStub(channel).Exec.future(timeout=timeout)
        assert call.done()
        assert call.code() is Code.DEADLINE_EXCEEDED
        assert server.connections == 0


@pytest.mark.parametrize("timeout", [None, float("inf"), 9_999_999.0])
def test_a_long_time_is_no_error(world: World, timeout: float | None) -> None:
    left: list[float | None] = []

    def handler(request: Any, context: Any) -> ExecResponse:
        left.append(context.time_remaining())
        return ExecResponse()

    world.handlers.set("Exec", handler)
    ShellStub(world.channel(read_timeout=None)).Exec(timeout=timeout)
    assert left[0] is not None
    assert (left[0] > 100_000) == (timeout == 9_999_999.0)  # without one, the server's own


def test_connecting_counts() -> None:
    with Channel("raw:", RawServer(lambda side: side.until_gone()).connect) as channel:
        seconds, error = timed(lambda: ShellStub(channel).Exec(timeout=SHORT))
        assert (error.code(), error.reason) == (Code.DEADLINE_EXCEEDED, "READ_TIMEOUT")
        assert "connected, but nobody answers" in error.details()
        assert SHORT / 2 <= seconds < SHORT + SLACK


def test_waiting_for_another_callers_connect_counts() -> None:
    with Channel("raw:", RawServer(lambda side: side.until_gone()).connect) as channel:
        first = Beside(lambda: timed(lambda: ShellStub(channel).Exec(timeout=3))).until_waiting()
        seconds, error = timed(lambda: ShellStub(channel).Exec(timeout=SHORT))
        assert error.code() is Code.DEADLINE_EXCEEDED
        assert seconds < SHORT + SLACK
        first.result()


def test_waiting_for_another_callers_request_counts() -> None:
    enough = threading.Event()

    def talk(side: RawServerSide) -> None:
        side.hello(vsrpc_max_request_size="100000000")
        enough.wait(20)

    with Channel("raw:", RawServer(talk).connect, ChannelOptions(max_retries=0)) as channel:
        channel.connect()
        first = Beside(FileStub(channel).Upload, UploadRequest(content=bytes(10_000_000))).until_waiting()
        seconds, error = timed(lambda: ShellStub(channel).Exec(timeout=SHORT))
        assert (error.code(), error.reason) == (Code.DEADLINE_EXCEEDED, "WRITE_TIMEOUT")
        assert seconds < SHORT + SLACK
        enough.set()
        assert "CONNECTION_LOST" in repr(vars(first.error()))


def test_a_guest_that_does_not_read(world: World) -> None:
    enough = threading.Event()

    def talk(side: RawServerSide) -> None:
        side.hello(vsrpc_max_request_size="100000000")
        enough.wait(20)

    with Channel("raw:", RawServer(talk).connect, ChannelOptions(write_timeout=SHORT)) as channel:
        seconds, error = timed(lambda: FileStub(channel).Upload(UploadRequest(content=bytes(10_000_000))))
        assert (error.code(), error.reason) == (Code.DEADLINE_EXCEEDED, "WRITE_TIMEOUT")
        assert seconds < SHORT + SLACK
        enough.set()


# -- the guest


def test_the_deadline_travels(world: World) -> None:
    left: list[float] = []
    world.handlers.set("Exec", lambda request, context: left.append(context.time_remaining()) or ExecResponse())
    ShellStub(world.channel()).Exec(timeout=17)
    assert 16 < left[0] <= 17


def test_the_guest_answers_at_the_deadline_while_the_handler_blocks(world: World, gate: Gate) -> None:
    world.handlers.set("Exec", lambda request, context: gate.wait() or ExecResponse())
    peer = world.peer()
    peer.rpc(EXEC, connect_timeout_ms="100")
    response = peer.response()
    assert (response.status, b'"deadline_exceeded"' in response.body) == (504, True)
    gate.open()
    peer.rpc(PING)
    assert b"pong" in peer.response().body  # and nothing of the late one before it


def test_the_servers_own_deadline(make_world: Callable[..., World], gate: Gate) -> None:
    world = make_world(dispatcher={"request_timeout": SHORT})
    world.handlers.set("Exec", lambda request, context: gate.wait() or ExecResponse())
    peer = world.peer()
    peer.rpc(EXEC)
    assert peer.response().status == 504


def test_deadlines_are_kept_while_bytes_keep_coming(world: World, gate: Gate) -> None:
    world.handlers.set("Exec", lambda request, context: gate.wait() or ExecResponse())
    peer = world.peer()
    peer.send(b"OPTIONS * HTTP/1.1\r\nhost: g\r\nvsrpc-version: 1\r\ncontent-length: 0\r\n\r\n")
    peer.response()
    peer.rpc(EXEC, connect_timeout_ms="100")
    gate.until_reached()
    peer.send(b"POST /x HTTP/1.1\r\nhost: g\r\ncontent-length: 10000000\r\n\r\n")
    answer = Beside(peer.response)
    sent = 0
    while not answer.ended and sent < 9_000_000:
        peer.send(b"x" * 100)
        sent += 100
    assert answer.result().status == 504


def test_a_call_in_the_queue_of_a_plain_client_has_its_deadline_too(world: World, gate: Gate) -> None:
    first = Gate()
    world.handlers.set("Ping", lambda request, context: first.wait())
    world.handlers.set("Exec", lambda request, context: gate.wait() or ExecResponse())
    peer = world.peer()
    peer.rpc(PING)
    first.until_reached()
    peer.rpc(EXEC, connect_timeout_ms="1000")
    first.open()
    gate.until_reached()
    peer.response()
    assert peer.response().status == 504


def test_a_call_that_waited_too_long_never_begins(make_world: Callable[..., World], gate: Gate) -> None:
    world = make_world(workers=1)
    ran: list[str] = []
    world.handlers.set("Ping", lambda request, context: gate.wait())
    world.handlers.set("Exec", lambda request, context: ran.append(request.command) or ExecResponse())
    SystemStub(world.channel()).Ping.future()
    gate.until_reached()
    peer = world.peer()
    peer.rpc(EXEC, {"command": "late"}, connect_timeout_ms="100")
    assert peer.response().status == 504
    gate.open()
    ShellStub(world.channel()).Exec(ExecRequest(command="next"))
    assert ran == ["next"]


@pytest.mark.parametrize(
    ("value", "status"),
    [
        ("0", 504),
        ("1", 504),
        ("9999999999", 200),
        ("10000000000", 400),
        ("-1", 400),
        ("1.5", 400),
        ("", 400),
        ("1s", 400),
    ],
)
def test_what_the_header_may_say(world: World, value: str, status: int) -> None:
    def until_expired(request: Any, context: Any) -> ExecResponse:
        while value == "1" and not context.deadline.expired:
            time.sleep(0.001)
        return ExecResponse()

    world.handlers.set("Exec", until_expired)
    peer = world.peer()
    peer.rpc(EXEC, connect_timeout_ms=value)
    response = peer.response()
    assert response.status == status
    assert status != 400 or b"is not a number of milliseconds with at most ten digits" in response.body
    peer.rpc(PING)
    assert peer.response().status == 200


@pytest.mark.parametrize(
    ("asked", "default", "extended", "left"),
    [
        (None, 10, 50, (49, 50)),  # longer than the server's own deadline
        (None, 10, 5, (9, 10)),  # it never gets less
        (20, 10, 50, (19, 20)),  # the caller will not wait longer
    ],
)
def test_extending(
    make_world: Callable[..., World], asked: float | None, default: float, extended: float, left: tuple[float, float]
) -> None:
    world = make_world(dispatcher={"request_timeout": default})
    seen: list[float] = []

    def handler(request: Any, context: Any) -> ExecResponse:
        context.extend_deadline(extended)
        seen.append(context.time_remaining())
        return ExecResponse()

    world.handlers.set("Exec", handler)
    ShellStub(world.channel(read_timeout=None)).Exec(timeout=asked)
    assert left[0] < seen[0] <= left[1]


def test_an_extended_deadline_is_kept(make_world: Callable[..., World], gate: Gate) -> None:
    world = make_world(dispatcher={"request_timeout": SHORT})

    def handler(request: Any, context: Any) -> ExecResponse:
        context.extend_deadline(5 * SHORT)
        gate.wait()
        return ExecResponse()

    world.handlers.set("Exec", handler)
    begun = time.monotonic()
    call = ShellStub(world.channel(read_timeout=None)).Exec.future()
    assert call.code() is Code.DEADLINE_EXCEEDED
    assert time.monotonic() - begun >= 5 * SHORT


# -- cancelling in the guest


def watched(world: World, gate: Gate) -> threading.Event:
    """Exec then waits at the gate; the event says that it was told to give up."""
    told = threading.Event()

    def handler(request: Any, context: Any) -> ExecResponse:
        assert context.is_active()
        assert context.add_callback(lambda: 1 / 0)  # must not keep the next from being told
        assert context.add_callback(told.set)
        gate.wait()
        assert not context.is_active()
        assert not context.add_callback(told.clear)
        return ExecResponse()

    world.handlers.set("Exec", handler)
    return told


def test_a_caller_that_leaves_cancels(world: World, gate: Gate) -> None:
    told = watched(world, gate)
    channel = world.channel()
    ShellStub(channel).Exec.future()
    gate.until_reached()
    channel.close()
    assert told.wait(20)


def test_the_deadline_cancels(world: World, gate: Gate) -> None:
    told = watched(world, gate)
    assert ShellStub(world.channel()).Exec.future(timeout=SHORT).code() is Code.DEADLINE_EXCEEDED
    assert told.wait(20)


def test_what_a_caller_that_left_had_queued_never_begins(make_world: Callable[..., World], gate: Gate) -> None:
    world = make_world(workers=1)
    ran: list[str] = []
    told = threading.Event()

    def first(request: Any, context: Any) -> None:
        context.add_callback(told.set)
        gate.wait()

    world.handlers.set("Ping", first)
    world.handlers.set("Exec", lambda request, context: ran.append(request.command) or ExecResponse())
    gone, stays = world.channel(), world.channel()
    SystemStub(gone).Ping.future()
    gate.until_reached()
    ShellStub(gone).Exec.future(ExecRequest(command="of one who left"))
    gone.close()
    assert told.wait(20)
    gate.open()
    ShellStub(stays).Exec(ExecRequest(command="next"))
    assert ran == ["next"]


# -- Deadline itself


def test_sooner() -> None:
    hour = Deadline(3600)
    assert hour.sooner(None) is hour
    assert hour.sooner(7200) is hour
    assert (hour.sooner(60).remaining() or 0) <= 60
    assert Deadline(None).sooner(None).remaining() is None
    assert (Deadline(None).sooner(60).remaining() or 0) > 59
    assert not Deadline(None).expired
    assert Deadline(0).expired
    assert Deadline(-5).remaining() == 0
