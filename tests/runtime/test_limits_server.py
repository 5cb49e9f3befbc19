"""What a server takes at a time, over a whole connection: the rate, the queue, and the bytes of requests."""

from __future__ import annotations

from typing import Any, Callable

import pytest
from runtime_threads import Beside, eventually
from runtime_world import EXEC, PING, Gate, World

from vsrpc.admission import Budget, TokenBucket
from vsrpc.dispatcher import Refusal
from vsrpc.errors import RpcError, busy
from vsrpc.hello import hello_request
from vsrpc.status import Code
from vsrpc.v1.shell_pb2 import ExecRequest, ExecResponse
from vsrpc.v1.shell_vsrpc import ShellStub
from vsrpc.v1.system_vsrpc import SystemStub
from vsrpc.wire import SESSION_HEADER, ClientConnection, session_name

SIZE = 1 << 20  # of the largest request
JSON = {"content_type": "application/json"}


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_of_tokens() -> None:
    clock = Clock()
    bucket = TokenBucket(2, 3, clock)
    assert [bucket.take() for _ in range(4)] == [True] * 3 + [False]
    clock.now += 1
    assert [bucket.take() for _ in range(3)] == [True, True, False]
    clock.now += 0.25
    assert not bucket.take()
    clock.now += 1000
    assert [bucket.take() for _ in range(4)] == [True] * 3 + [False]


def test_a_budget_and_its_leases() -> None:
    budget = Budget(10)
    one, two = budget.lease(), budget.lease()
    assert one.take(4)
    assert one.take(4)
    assert not two.take(3)
    assert two.take(2)
    one.release()
    one.release()
    assert two.take(8)
    assert not budget.take(1)
    del two
    assert budget.take(10)


def all_is_free(world: World) -> bool:
    """Whether no request holds any of the budget."""
    budget = world.server.buffered
    if not budget.take(budget.size):
        return False
    budget.give(budget.size)
    return True


def test_calls_beyond_the_rate_are_refused_and_hurt_nobody(make_world: Callable[..., World]) -> None:
    refusals: list[Refusal] = []
    world = make_world(requests_per_second=2, dispatcher={"on_refused": refusals.append})
    peer = world.peer()
    for _ in range(3):
        peer.rpc(PING)
    assert [peer.response().status for _ in range(2)] == [200, 200]
    refused = peer.response()
    assert (refused.status, refused.headers.get("retry-after")) == (429, "1")
    assert b"2 calls in a second are taken (limits.requests_per_second in its configuration is 2)" in refused.body
    assert [(each.context.path, each.error.reason) for each in refusals] == [(PING, "BUSY")]


def test_a_client_outwaits_the_rate(make_world: Callable[..., World]) -> None:
    world = make_world(requests_per_second=20)
    ping = SystemStub(world.channel(max_retries=3, retry_interval=0.1)).Ping
    assert [ping().message for _ in range(40)] == ["pong"] * 40


def test_a_full_queue_names_its_key(make_world: Callable[..., World], gate: Gate) -> None:
    refusals: list[Refusal] = []
    world = make_world(workers=1, queue=0, dispatcher={"on_refused": refusals.append})
    world.handlers.set("Exec", lambda request, context: gate.wait() or ExecResponse())
    shell = ShellStub(world.channel())
    first = shell.Exec.future()
    gate.until_reached()
    with pytest.raises(RpcError, match=r"server\.queue in its configuration is 0"):
        shell.Exec(timeout=10)
    assert [(each.context.path, each.error.data["rule"]) for each in refusals] == [(EXEC, "server.queue")]
    gate.open()
    first.result()


def test_a_servicer_that_is_busy_is_asked_again_with_the_same_key(make_world: Callable[..., World]) -> None:
    """The refusal is not remembered for the key, or the second attempt would only get it again."""
    tries: list[str] = []

    def serve(request: ExecRequest, context: Any) -> ExecResponse:
        tries.append(request.command)
        if len(tries) < 3:
            raise busy("too much runs", "limits.commands", 1)
        return ExecResponse(exit_code=7)

    world = make_world()
    world.handlers.set("Exec", serve)
    shell = ShellStub(world.channel(max_retries=3, retry_interval=0.01))
    assert shell.Exec(ExecRequest(command="x"), timeout=30).exit_code == 7
    assert tries == ["x"] * 3


# -- the bytes of requests


@pytest.fixture
def small(make_world: Callable[..., World]) -> World:
    """A world that buffers one request of the largest size, or a few smaller ones."""
    return make_world(workers=2, buffered=1, stall_timeout=3600, dispatcher={"max_request_size": SIZE})


def body(size: int) -> bytes:
    return b'{"command":"' + b"x" * (size - 14) + b'"}'


def test_a_body_without_room_is_refused_by_its_head_and_skipped(small: World, gate: Gate) -> None:
    small.handlers.set("Exec", lambda request, context: gate.wait() or ExecResponse())
    first, second = small.peer(), small.peer()
    first.request("POST", EXEC, body(SIZE), **JSON)
    gate.until_reached()
    content = body(SIZE)
    head = f"POST {EXEC} HTTP/1.1\r\nHost: g\r\nContent-Type: application/json\r\nContent-Length: {SIZE}\r\n\r\n"
    second.send(head.encode())
    refused = second.response()
    assert (refused.status, refused.headers.get("retry-after")) == (429, "1")
    message = f"no room for {SIZE} more bytes of requests (limits.buffered in its configuration is "
    assert message.encode() in refused.body
    second.send(content)
    second.rpc(PING)
    assert second.response().status == 200, "what comes after the body is a request again"
    gate.open()
    assert first.response().status == 200
    second.request("POST", EXEC, content, **JSON)
    assert second.response().status == 200, "there is room again"
    assert all_is_free(small)


def test_chunks_need_room_too(small: World, gate: Gate) -> None:
    small.handlers.set("Exec", lambda request, context: gate.wait() or ExecResponse())
    first, second = small.peer(), small.peer()
    first.request("POST", EXEC, body(SIZE), **JSON)
    gate.until_reached()
    content = body(200_000)
    chunks = b"".join(b"%x\r\n%b\r\n" % (50_000, content[at : at + 50_000]) for at in range(0, len(content), 50_000))
    head = f"POST {EXEC} HTTP/1.1\r\nHost: g\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    second.send(head.encode() + chunks + b"0\r\n\r\n")
    assert second.response().status == 429
    gate.open()
    assert first.response().status == 200
    second.send(head.encode() + chunks + b"0\r\n\r\n")
    assert second.response().status == 200
    assert all_is_free(small)


@pytest.mark.parametrize("framing", [f"Content-Length: {SIZE}", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("end", ["leaves", "breaks off", "syncs"])
def test_half_a_body_holds_nothing_once_its_client_is_gone(small: World, framing: str, end: str) -> None:
    peer = small.peer()
    session, client = "", ClientConnection()
    if end == "syncs":  # which counts in a body only in a session
        nonce = b"n" * 16
        peer.send(client.sync(nonce) + b"".join(client.send(hello_request("hello", 0))))
        session = f"{SESSION_HEADER}: {session_name(nonce)}\r\n"
    head = f"POST {EXEC} HTTP/1.1\r\nHost: g\r\n{session}{framing}\r\n\r\n"
    peer.send(head.encode() + (b"ffff0\r\n" if "chunked" in framing else b"") + b"x" * 1000)
    eventually(lambda: not all_is_free(small), "the body has room")
    if end == "leaves":
        peer.close()
    elif end == "breaks off":
        peer.send(b"x" * (0xFFFF0 - 1000) + b"no CRLF" if "chunked" in framing else b"")
        peer.close()
    else:
        peer.send(client.sync(b"m" * 16))
    eventually(lambda: all_is_free(small), "nothing is held any more")


def test_calls_that_are_given_up_hold_nothing(small: World, gate: Gate) -> None:
    """Cancelled while they wait for a worker, for their turn, or for the reply to the same call."""
    small.handlers.set("Exec", lambda request, context: gate.wait() or ExecResponse())
    peer = small.peer()
    for _ in range(5):
        peer.request("POST", EXEC, body(1000), idempotency_key="k", **JSON)
    other = small.peer()
    other.begin_session()
    gate.until_reached()
    peer.close()
    gate.open()
    eventually(lambda: all_is_free(small), "nothing is held any more")


def test_a_request_that_was_refused_by_its_head_may_be_repeated_with_its_key(small: World, gate: Gate) -> None:
    small.handlers.set("Exec", lambda request, context: gate.wait() or ExecResponse())
    first = small.peer()
    first.request("POST", EXEC, body(SIZE), **JSON)
    gate.until_reached()
    second = small.peer()
    for status in (429, 200):
        second.request("POST", EXEC, body(SIZE), idempotency_key="the-key", **JSON)
        assert second.response().status == status
        gate.open()
        if status == 429:
            assert first.response().status == 200


def test_an_ordinary_client_is_refused_and_tries_again(small: World, gate: Gate) -> None:
    small.handlers.set("Exec", lambda request, context: gate.wait() or ExecResponse())
    large = ExecRequest(command="x" * (SIZE - 100))
    channel = small.channel(max_retries=0)
    first = ShellStub(channel).Exec.future(large)
    gate.until_reached()
    with pytest.raises(RpcError, match=r"limits\.buffered") as caught:
        ShellStub(channel).Exec(large, timeout=30)
    assert (caught.value.code(), caught.value.not_run) == (Code.RESOURCE_EXHAUSTED, True)
    patient = Beside(ShellStub(small.channel(max_retries=3, retry_interval=0.01)).Exec, large, 30)
    gate.open()
    assert patient.result() == first.result() == ExecResponse()
