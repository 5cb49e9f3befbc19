"""Cancelling: what the caller gives up is given up in the guest, at once, and nothing else is."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any, Callable, Iterator, Sequence

import pytest
from runtime_threads import Beside, eventually
from runtime_world import EXEC, PortListener, World

from vsrpc import Channel, Code, RpcError
from vsrpc.reply_cache import ReplyCache
from vsrpc.transports import Buffer, Transport, listener
from vsrpc.transports.memory import MemoryListener
from vsrpc.v1.shell_pb2 import ExecRequest, ExecResponse
from vsrpc.v1.shell_vsrpc import ShellStub
from vsrpc.v1.system_pb2 import PingResponse
from vsrpc.v1.system_vsrpc import SystemStub

MakeWorld = Callable[..., World]


class Jobs:
    """Exec and Ping: each runs until it is cancelled or let go; by the name of the command."""

    def __init__(self, world: World) -> None:
        self.begun: list[str] = []
        self.cancelled: list[str] = []
        self.ended: list[str] = []
        self._world = world
        self._let_go: dict[str, threading.Event] = {}
        world.handlers.set("Exec", lambda request, context: self._work(request.command, context, ExecResponse()))
        world.handlers.set("Ping", lambda request, context: self._work("ping", context, PingResponse()))

    def _work(self, name: str, context: Any, result: Any) -> Any:
        go_on = self._event(name)

        def cancel() -> None:
            self.cancelled.append(name)
            go_on.set()

        assert context.add_callback(cancel)
        self.begun.append(name)
        assert go_on.wait(20), "neither cancelled nor let go"
        self.ended.append(name)
        return result

    def _event(self, name: str) -> threading.Event:
        return self._let_go.setdefault(name, threading.Event())

    def let_go(self, *names: str) -> None:
        for name in names:
            self._event(name).set()

    def until_begun(self, *names: str) -> None:
        eventually(lambda: set(names) <= set(self.begun), f"{names} have begun")

    def until_cancelled(self, *names: str) -> None:
        eventually(lambda: sorted(names) == sorted(self.cancelled), f"{names} are cancelled, not {self.cancelled}")


@pytest.fixture(params=["memory", "port", "unix"])
def somewhere(request: pytest.FixtureRequest, tmp_path: Path, make_world: MakeWorld) -> World:
    make = {"memory": MemoryListener, "port": PortListener, "unix": lambda: listener(f"unix:{tmp_path / 's'}")}
    return make_world(make[request.param](), replies=ReplyCache(orphan_time=600))


def future(channel: Channel, name: str, **options: Any) -> Any:
    return ShellStub(channel).Exec.future(ExecRequest(command=name), **options)


def test_a_cancelled_call_is_cancelled_in_the_guest_and_others_are_not(somewhere: World) -> None:
    jobs = Jobs(somewhere)
    channel = somewhere.channel()
    calls = {name: future(channel, name) for name in "abcde"}
    calls["ping"] = SystemStub(channel).Ping.future()
    jobs.until_begun(*calls)
    assert calls["b"].cancel()
    assert calls["ping"].cancel()
    jobs.until_cancelled("b", "ping")
    assert [calls[name].code() for name in ("b", "ping")] == [Code.CANCELLED] * 2
    assert not calls["b"].cancel(), "it has ended"
    assert not any(calls[name].done() for name in "acde")
    jobs.let_go(*"acde")
    assert [calls[name].code() for name in "acde"] == [Code.OK] * 4
    assert sorted(jobs.cancelled) == ["b", "ping"]


def test_what_is_cancelled_has_no_reply(world: World) -> None:
    """But one that says so; what the servicer returns afterwards goes nowhere."""
    jobs = Jobs(world)
    peer = world.peer()
    peer.begin_session()
    peer.rpc(EXEC, {"command": "a"}, x_request_id="a")
    jobs.until_begun("a")
    peer.request("OPTIONS", "*", vsrpc_cancel="a", x_request_id="c")
    first = [peer.response() for _ in range(2)]
    assert [(each.headers.get("x-request-id"), each.status) for each in first] == [("a", 499), ("c", 204)]
    eventually(lambda: jobs.ended == ["a"], "the servicer has returned")
    for name in ("a", "nobody", ""):
        peer.request("OPTIONS", "*", vsrpc_cancel=name, x_request_id="again")
        response = peer.response()
        assert (response.headers.get("x-request-id"), response.status) == ("again", 204)


def test_one_cannot_cancel_anothers_call(world: World) -> None:
    jobs = Jobs(world)
    one, two = world.peer(), world.peer()
    for peer in (one, two):
        peer.begin_session()
    one.rpc(EXEC, {"command": "a"}, x_request_id="a")
    jobs.until_begun("a")
    two.request("OPTIONS", "*", vsrpc_cancel="a")
    assert two.response().status == 204
    assert not jobs.cancelled
    jobs.let_go("a")
    assert one.response().status == 200


def test_closing_a_channel_cancels_all_that_it_waits_for(somewhere: World) -> None:
    jobs = Jobs(somewhere)
    channel, other = somewhere.channel(), somewhere.channel()
    calls = [future(channel, name) for name in "abc"]
    waiting = Beside(SystemStub(channel).Ping)
    kept = future(other, "kept")
    jobs.until_begun(*"abc", "ping", "kept")
    channel.close()
    jobs.until_cancelled(*"abc", "ping")
    assert [call.code() for call in calls] == [Code.CANCELLED] * 3
    error = waiting.error()
    assert isinstance(error, RpcError)
    assert error.code() is Code.CANCELLED
    jobs.let_go("kept")
    assert kept.code() is Code.OK


def test_a_deadline_cancels_in_the_guest(somewhere: World) -> None:
    jobs = Jobs(somewhere)
    channel = somewhere.channel()
    kept = future(channel, "kept")
    with pytest.raises(RpcError) as caught:
        ShellStub(channel).Exec(ExecRequest(command="late"), timeout=0.2)
    assert caught.value.code() is Code.DEADLINE_EXCEEDED
    jobs.until_cancelled("late")
    jobs.let_go("kept")
    assert kept.code() is Code.OK


@pytest.mark.parametrize("method", ["Exec", "Ping"])
def test_a_cancelled_call_in_the_queue_never_runs(make_world: MakeWorld, method: str) -> None:
    world = make_world(workers=1)
    jobs = Jobs(world)
    channel = world.channel()
    running = future(channel, "running")
    jobs.until_begun("running")
    queued = future(channel, "queued") if method == "Exec" else SystemStub(channel).Ping.future()
    eventually(lambda: world.server._slots._value == 127, "it has come")
    assert queued.cancel()
    (stream,) = world.server._streams
    eventually(lambda: len(stream._session._running) == 1, "the guest knows that it is cancelled")
    jobs.let_go("running", "last")
    assert running.code() is Code.OK
    assert future(channel, "last").code() is Code.OK
    assert jobs.begun == ["running", "last"]


def test_a_call_that_came_back_in_a_new_session_can_be_cancelled(world: World) -> None:
    """The session that it began in is gone; what runs is still the first attempt."""
    jobs = Jobs(world)
    channel = world.channel(max_retries=3, retry_interval=0.001)
    call = Beside(lambda: ShellStub(channel).Exec(ExecRequest(command="a")))
    jobs.until_begun("a")
    first = channel._link._session
    assert first is not None
    first.transport.close()
    eventually(lambda: channel._pending.all() and channel._pending.all()[0].session is not first, "it came back")
    for pending in channel._pending.all():
        pending.cancel()
    assert isinstance(call.error(), RpcError)
    jobs.until_cancelled("a")
    assert jobs.begun == ["a"]


# -- interrupted, as by Ctrl-C


class Interrupted(BaseException):
    """Stands for KeyboardInterrupt, which would end the tests if it came late."""


@pytest.fixture
def interrupt() -> Iterator[Callable[[], None]]:
    """Interrupts the main thread, in which the test runs."""

    def raise_it(number: int, frame: Any) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGUSR1, raise_it)
    yield lambda: os.kill(os.getpid(), signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, before)


WAITING: dict[str, Callable[[Channel], object]] = {
    "a stub's call": lambda channel: ShellStub(channel).Exec(ExecRequest(command="a")),
    "with_call": lambda channel: ShellStub(channel).Exec.with_call(ExecRequest(command="a")),
    "http": lambda channel: channel.http(
        "POST",
        "/api/v1/shell/exec",
        headers=[("content-type", "application/json")],
        body=b'{"command": "a"}',
    ),
}


@pytest.mark.parametrize("how", WAITING)
def test_an_interrupted_wait_cancels(world: World, interrupt: Callable[[], None], how: str) -> None:
    jobs = Jobs(world)
    channel = world.channel(max_retries=3, read_timeout=None)
    kept = future(channel, "kept")

    def act() -> None:
        jobs.until_begun("a", "kept")
        interrupt()

    beside = Beside(act)
    with pytest.raises(Interrupted):
        WAITING[how](channel)
    beside.result()
    try:
        assert not [call for call in channel._pending.all() if call is not kept]
        jobs.until_cancelled("a")
    finally:
        jobs.let_go("a", "kept")
    assert kept.code() is Code.OK, "the channel is as good as before"


class Halting:
    """A connection whose writer is interrupted in the middle of the message that contains `word`."""

    def __init__(self, transport: Transport, word: bytes) -> None:
        self._transport = transport
        self._word = word

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def send_some(self, buffers: Sequence[Buffer], timeout: float | None = None) -> int:
        if self._word in bytes(buffers[0]):
            self._word = b"nothing more is halted"
            self._transport.send_some([memoryview(buffers[0])[:-1000]], timeout)
            raise Interrupted
        return self._transport.send_some(buffers, timeout)


def test_a_request_that_was_interrupted_on_its_way_harms_no_other(world: World) -> None:
    jobs = Jobs(world)
    jobs.let_go("next", "before")
    words = iter([b"halted"])
    channel = world.channel(
        connect=lambda timeout: Halting(world.connect(timeout), next(words, b"\0")), max_retries=3, read_timeout=1
    )
    assert future(channel, "before").code() is Code.OK
    with pytest.raises(Interrupted):
        ShellStub(channel).Exec(ExecRequest(command="halted" * 1000))
    assert ShellStub(channel).Exec(ExecRequest(command="next")) == ExecResponse()
    assert jobs.begun == ["before", "next"]


def test_cancelling_while_replies_come(world: World) -> None:
    """Whoever of the two comes first: the call ends once, and the channel is as good as before."""
    channel = world.channel()
    codes = set()
    for number in range(300):
        call = future(channel, str(number))
        if number % 3 == 0:
            call.cancel()
        elif number % 3 == 1:
            Beside(call.cancel)
        codes.add(call.code())
        if call.code() is Code.OK:
            assert call.result().stdout == str(number).encode()
    assert codes == {Code.OK, Code.CANCELLED}
    assert future(channel, "last").result().stdout == b"last"
    assert not channel._pending.all()
