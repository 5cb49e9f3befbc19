"""Interceptors of a channel: their order, what they may change, and what they may answer themselves."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from runtime_world import EXEC, RawServer, RawServerSide, World

from vsrpc import Channel, ChannelOptions, Code, RpcError
from vsrpc.calls import CallFuture
from vsrpc.deadline import Deadline
from vsrpc.interceptor import CallDetails
from vsrpc.method import Idempotency
from vsrpc.v1.shell_pb2 import ExecRequest, ExecResponse
from vsrpc.v1.shell_vsrpc import ShellStub
from vsrpc.v1.system_vsrpc import SystemStub


@pytest.mark.parametrize("how", ["call", "with_call", "future"])
def test_interceptors_wrap_in_their_order(world: World, how: str) -> None:
    order: list[Any] = []

    def outer(proceed: Any, details: CallDetails, request: Any) -> Any:
        order.append(("outer", details.path, details.idempotency, request.command))
        call = proceed(dataclasses.replace(details, metadata=(*details.metadata, ("token", "t"))), request)
        order.append("outer again")
        return call

    def inner(proceed: Any, details: CallDetails, request: Any) -> Any:
        order.append(("inner", dict(details.metadata)))
        return proceed(dataclasses.replace(details, timeout=3), ExecRequest(command=request.command + "!"))

    seen: dict[str, Any] = {}

    def handler(request: ExecRequest, context: Any) -> ExecResponse:
        seen.update(dict(context.invocation_metadata()), left=context.time_remaining())
        return ExecResponse(stdout=request.command.encode())

    world.handlers.set("Exec", handler)
    execute = ShellStub(world.channel(interceptors=(outer, inner))).Exec
    request = ExecRequest(command="go")
    pairs = [("mine", "m")]
    response = {
        "call": lambda: execute(request, metadata=pairs),
        "with_call": lambda: execute.with_call(request, metadata=pairs)[0],
        "future": lambda: execute.future(request, metadata=pairs).result(),
    }[how]()
    assert response.stdout == b"go!"
    assert order == [
        ("outer", EXEC, Idempotency.UNKNOWN, "go"),
        ("inner", {"mine": "m", "token": "t"}),
        "outer again",
    ]
    assert (seen["mine"], seen["token"]) == ("m", "t")
    assert 2 < seen["left"] <= 3


def test_an_interceptor_may_answer_itself(world: World) -> None:
    ran: list[Any] = []
    world.handlers.set("Exec", lambda request, context: ran.append(request) or ExecResponse())

    def refuse(proceed: Any, details: CallDetails, request: Any) -> Any:
        call: CallFuture[Any] = CallFuture("", Deadline(details.timeout), lambda response: (response, (), ()))
        call.fail(RpcError(Code.PERMISSION_DENIED, "not here"))
        return call

    shell = ShellStub(world.channel(interceptors=(refuse,)))
    with pytest.raises(RpcError, match="not here"):
        shell.Exec()
    assert shell.Exec.future().code() is Code.PERMISSION_DENIED
    assert ran == []


def test_an_interceptors_exception_is_the_callers(world: World) -> None:
    def broken(proceed: Any, details: CallDetails, request: Any) -> Any:
        raise KeyError("in the interceptor")

    with pytest.raises(KeyError, match="in the interceptor"):
        ShellStub(world.channel(interceptors=(broken,))).Exec()


def test_interceptors_see_each_attempt() -> None:
    attempts: list[float | None] = []

    def count(proceed: Any, details: CallDetails, request: Any) -> Any:
        attempts.append(details.timeout)
        return proceed(details, request)

    def drop(side: RawServerSide) -> None:
        side.hello()
        side.request()

    options = ChannelOptions(retry_interval=0.001, max_retries=2, interceptors=(count,))
    with Channel("raw:", RawServer(drop).connect, options) as channel, pytest.raises(RpcError):
        SystemStub(channel).Ping(timeout=10)
    assert len(attempts) == 3
    assert all(seconds is not None and seconds <= 10 for seconds in attempts)
