"""Methods that are served in the thread that reads the requests, unless they would have to wait there."""

from __future__ import annotations

import threading
import time
from typing import Any, Callable

import pytest
from runtime_world import PING, Gate, World

from vsrpc import Code, RpcError
from vsrpc.context import NotNow, at_once
from vsrpc.deadline import NO_DEADLINE, Deadline
from vsrpc.v1.shell_pb2 import ExecResponse
from vsrpc.v1.shell_vsrpc import SHELL_SERVICE, ShellStub
from vsrpc.v1.system_pb2 import PingResponse
from vsrpc.v1.system_vsrpc import SYSTEM_SERVICE, SystemStub


class Servicer:
    """`waits`: whether it has to wait for something."""

    def __init__(self, *, waits: bool) -> None:
        self.waits = waits
        self.seen: list[tuple[bool, bool]] = []

    def __getattr__(self, name: str) -> Any:
        return None

    @at_once
    def Ping(self, request: Any, context: Any) -> PingResponse:
        in_worker = threading.current_thread().name.startswith("vsrpc-worker")
        self.seen.append((context.may_wait, in_worker))
        if self.waits and not context.may_wait:
            raise NotNow
        return PingResponse(message="at last" if self.waits else "at once")


def make(make_world: Callable[..., World], servicer: Servicer, **server: Any) -> World:
    world = make_world(services=(SHELL_SERVICE,), **server)
    world.dispatcher.add_service(SYSTEM_SERVICE, servicer)
    return world


@pytest.mark.parametrize(
    ("waits", "message", "seen"),
    [(False, "at once", [(False, False)]), (True, "at last", [(False, False), (True, True)])],
)
def test_who_has_to_wait_does_so_in_a_worker(
    make_world: Callable[..., World], waits: bool, message: str, seen: list[tuple[bool, bool]]
) -> None:
    servicer = Servicer(waits=waits)
    ping = SystemStub(make(make_world, servicer).channel()).Ping
    for _ in range(3):
        servicer.seen.clear()
        assert ping().message == message
        assert servicer.seen == seen


def test_who_has_to_wait_is_refused_where_all_workers_have_work(make_world: Callable[..., World], gate: Gate) -> None:
    servicer = Servicer(waits=True)
    world = make(make_world, servicer, workers=1, queue=0)
    world.handlers.set("Exec", lambda request, context: gate.wait() or ExecResponse())
    channel = world.channel()
    running = ShellStub(channel).Exec.future()
    gate.until_reached()
    with pytest.raises(RpcError, match="the guest is busy"):
        SystemStub(channel).Ping(timeout=10)
    assert servicer.seen == [(False, False)]
    gate.open()
    assert running.code() is Code.OK
    assert SystemStub(channel).Ping().message == "at last"


class Waiting:
    """A servicer whose Ping waits, without a thread, until `come` is called; then, or at `until`, it says how often it
    looked, and in which threads."""

    def __init__(self, until: float | None = None) -> None:
        self.until = until
        self.there = False
        self.listeners: set[Callable[[], None]] = set()
        self.threads: list[str] = []
        self.comes_meanwhile = False
        self.changed = threading.Condition()
        self._until: Deadline | None = None

    def __getattr__(self, name: str) -> Any:
        return None

    @at_once
    def Ping(self, request: Any, context: Any) -> PingResponse:
        with self.changed:
            self.threads.append(threading.current_thread().name.rstrip("_0123456789"))
            self.changed.notify_all()
        if self._until is None:
            self._until = NO_DEADLINE if self.until is None else Deadline(self.until)
        if context.may_wait:
            with self.changed:
                assert self.changed.wait_for(lambda: self.there, 30)
        if not self.there and not self._until.expired:
            raise NotNow(self.listen, self._until)
        return PingResponse(message="here" if self.there else "not yet")

    def listen(self, listener: Callable[[], None]) -> Callable[[], None] | None:
        if self.comes_meanwhile:
            self.there = True
            return None
        with self.changed:
            self.listeners.add(listener)
            self.changed.notify_all()
        return lambda: self.listeners.discard(listener)

    def until_listened(self, count: int = 1) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.listeners) == count, 30)

    def until_in_worker(self) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: "vsrpc-worker" in self.threads, 30)

    def tell(self) -> None:
        """Something has changed, be it what the calls wait for or not."""
        for listener in list(self.listeners):
            listener()

    def come(self) -> None:
        with self.changed:
            self.there = True
            self.changed.notify_all()
        self.tell()

    def until_left(self) -> None:
        for _ in range(1000):
            if not self.listeners:
                return
            time.sleep(0.01)
        raise AssertionError(self.listeners)


def test_who_waits_without_a_thread_is_answered_by_who_brings_the_change(
    make_world: Callable[..., World],
) -> None:
    servicer = Waiting()
    ping = SystemStub(make(make_world, servicer, workers=1, queue=0).channel()).Ping
    calls = [ping.future() for _ in range(20)]  # more than there are workers
    servicer.until_listened(20)
    servicer.tell()
    servicer.until_listened(20)
    servicer.come()
    assert {call.result(30).message for call in calls} == {"here"}
    assert servicer.threads == ["vsrpc-session"] * 20 + ["MainThread"] * 40


def test_a_change_while_it_begins_to_wait_is_not_missed(make_world: Callable[..., World]) -> None:
    servicer = Waiting()
    servicer.comes_meanwhile = True
    assert SystemStub(make(make_world, servicer).channel()).Ping(timeout=30).message == "here"
    assert servicer.threads == ["vsrpc-session"] * 2


def test_it_is_looked_at_again_when_it_asked_for(make_world: Callable[..., World]) -> None:
    servicer = Waiting(until=0.05)
    assert SystemStub(make(make_world, servicer).channel()).Ping(timeout=30).message == "not yet"
    assert servicer.threads == ["vsrpc-session"] * 2
    assert not servicer.listeners


@pytest.mark.parametrize("how", ["cancelled", "late", "gone", "stopped"])
def test_who_is_given_up_waits_no_more(make_world: Callable[..., World], how: str) -> None:
    servicer = Waiting()
    world = make(make_world, servicer)
    channel = world.channel()
    call = SystemStub(channel).Ping.future(timeout=0.2 if how == "late" else 30)
    servicer.until_listened()
    if how == "cancelled":
        call.cancel()
    elif how == "gone":
        channel.close()
    elif how == "stopped":
        world.server.stop()
    servicer.until_left()
    if how in ("late", "stopped"):
        assert call.code() is (Code.DEADLINE_EXCEEDED if how == "late" else Code.UNAVAILABLE)
    servicer.come()
    assert servicer.threads == ["vsrpc-session"]  # it was not run again


def test_where_responses_go_in_order_a_worker_waits(make_world: Callable[..., World]) -> None:
    servicer = Waiting()
    peer = make(make_world, servicer).peer()
    peer.rpc(PING)
    peer.rpc(PING)
    servicer.come()
    assert [peer.response().status for _ in range(2)] == [200, 200]
    assert not servicer.listeners


def test_so_many_wait_without_a_thread(make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one has a worker to wait in."""
    monkeypatch.setattr("vsrpc.server._MAX_PARKED", 1)
    servicer = Waiting()
    ping = SystemStub(make(make_world, servicer, workers=1).channel()).Ping
    calls = [ping.future() for _ in range(2)]
    servicer.until_listened()
    servicer.until_in_worker()
    servicer.come()
    assert {call.result(30).message for call in calls} == {"here"}
