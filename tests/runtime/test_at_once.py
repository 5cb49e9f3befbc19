"""Methods that are served in the thread that reads the requests, unless they would have to wait there."""

from __future__ import annotations

import threading
from typing import Any, Callable

import pytest
from runtime_world import Gate, World

from vsrpc import Code, RpcError
from vsrpc.context import NotNow, at_once
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
