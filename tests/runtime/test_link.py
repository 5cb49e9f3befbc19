"""Sessions: the hello and who answers it, what is lost and what is made anew, retries."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from runtime_threads import Beside, eventually
from runtime_world import Gate, RawServer, RawServerSide, World

import vsrpc.deadline
import vsrpc.retry
from vsrpc import Channel, ChannelOptions, Code, RpcError
from vsrpc.client_session import NotAtBoundary
from vsrpc.deadline import Deadline
from vsrpc.retry import RetryPolicy
from vsrpc.transports import ConnectFailed, connector, listener
from vsrpc.transports.memory import MemoryListener
from vsrpc.v1.error_tables import ERROR_CODES
from vsrpc.v1.shell_pb2 import ExecRequest, ExecResponse
from vsrpc.v1.shell_vsrpc import ShellStub
from vsrpc.v1.system_pb2 import PingResponse
from vsrpc.v1.system_vsrpc import SystemStub
from vsrpc.wire import Request, response_sync

FAST = ChannelOptions(max_retries=0, connect_timeout=2)


def serve(side: RawServerSide) -> None:
    """A guest that answers everything with an empty message."""
    side.hello()
    for request in side.requests():
        side.reply(request, content_type="application/proto")


# -- who answers the hello


def says(data: bytes) -> Callable[[RawServerSide], None]:
    def talk(side: RawServerSide) -> None:
        side.send(data)
        side.until_gone()

    return talk


def hello_with(**changes: str) -> Callable[[RawServerSide], None]:
    def talk(side: RawServerSide) -> None:
        side.hello(**changes)
        side.until_gone()

    return talk


def web_server(side: RawServerSide) -> None:
    for request in side.requests():
        side.reply(request, 404, b"<html>", content_type="text/html")


def foreign_web_server(side: RawServerSide) -> None:
    side.request()
    side.reply(None, 404, b"<html>", content_type="text/html")
    side.until_gone()


STRANGERS: list[tuple[str, Callable[[RawServerSide], Any], Code, str, str]] = [
    (
        "silent",
        lambda side: side.until_gone(),
        Code.DEADLINE_EXCEEDED,
        "READ_TIMEOUT",
        "connected, but nobody answers: the",
    ),
    ("half", says(b"HTTP/1.1 200 OK\r\n"), Code.INTERNAL, "PROTOCOL_ERROR", "it said 'HTTP/1.1 200 OK"),
    ("leaves", lambda side: side.request(), Code.UNAVAILABLE, "CONNECTION_REFUSED", "was closed before the hello"),
    (
        "garbage",
        says(b"\x00\xff{'exe\n"),
        Code.INTERNAL,
        "PROTOCOL_ERROR",
        r"""not a vsrpc guest that this client can talk to: it said "\x00ÿ{'exe\n";""",
    ),
    ("ssh", says(b"SSH-2.0-OpenSSH_9.2\r\n"), Code.INTERNAL, "PROTOCOL_ERROR", "it said 'SSH-2.0-OpenSSH_9.2"),
    ("agent", says(b'{"QMP": {}}\r\n'), Code.INTERNAL, "PROTOCOL_ERROR", 'it said \'{"QMP": {}}'),
    ("http/1.0", says(b"HTTP/1.0 200 OK\r\n\r\n"), Code.INTERNAL, "PROTOCOL_ERROR", "it said 'HTTP/1.0 200 OK"),
    ("web", web_server, Code.INTERNAL, "PROTOCOL_ERROR", "it said 'HTTP/1.1 404 Not Found"),
    ("other web", foreign_web_server, Code.INTERNAL, "PROTOCOL_ERROR", "it said 'HTTP/1.1 404 Not Found"),
    (
        "newer",
        hello_with(vsrpc_version="7"),
        Code.INTERNAL,
        "PROTOCOL_ERROR",
        "it speaks protocol version 7 (raw), this client speaks 1: install a newer vsrpc here",
    ),
    (
        "older",
        hello_with(vsrpc_version="0"),
        Code.INTERNAL,
        "PROTOCOL_ERROR",
        "it speaks protocol version 0 (raw), this client speaks 1: install a newer vsrpc in the guest",
    ),
    ("no version", hello_with(vsrpc_version=""), Code.INTERNAL, "PROTOCOL_ERROR", "it speaks protocol version "),
    ("odd window", hello_with(vsrpc_window="-1"), Code.INTERNAL, "PROTOCOL_ERROR", "no valid window"),
    ("no size", hello_with(vsrpc_max_request_size=""), Code.INTERNAL, "PROTOCOL_ERROR", "no valid size limit: ''"),
    (
        "odd size",
        hello_with(vsrpc_max_request_size="\xb2"),
        Code.INTERNAL,
        "PROTOCOL_ERROR",
        "no valid size limit: '²'",
    ),
    (
        "vast size",
        hello_with(vsrpc_max_request_size="9" * 6000),
        Code.INTERNAL,
        "PROTOCOL_ERROR",
        "no valid size limit",
    ),
]


@pytest.mark.parametrize(("who", "talk", "code", "reason", "message"), STRANGERS, ids=[row[0] for row in STRANGERS])
def test_who_is_no_guest(who: str, talk: Any, code: Code, reason: str, message: str) -> None:
    server = RawServer(talk)
    options = ChannelOptions(max_retries=0, connect_timeout=0.4)
    with Channel("unix:/run/port.sock", server.connect, options) as channel, pytest.raises(RpcError) as caught:
        SystemStub(channel).Ping()
    assert (caught.value.code(), caught.value.reason) == (code, reason)
    assert caught.value.details().startswith("unix:/run/port.sock: ")
    assert message in caught.value.details()
    if who in ("newer", "older", "no version", "odd window", "no size", "odd size", "vast size"):
        assert server.connections == 1, "what has echoed our nonce is what it is"
    elif who == "leaves":  # how often silence is listened to depends on the time
        assert server.connections == 2, "one more attempt, and no more"


def test_reasons_go_with_their_codes() -> None:
    """What the rows above and below expect is what the schema says of each reason."""
    codes = {entry.reason: Code[entry.rpc_code] for entry in ERROR_CODES}
    assert {row[3]: row[2] for row in STRANGERS} == {row[3]: codes[row[3]] for row in STRANGERS}


def test_the_guest_refuses_another_version(world: World) -> None:
    peer = world.peer()
    peer.request("OPTIONS", "*", vsrpc_version="7", x_request_id="a")
    response = peer.response()
    assert (response.status, response.headers.get("vsrpc-version"), response.headers.get("x-request-id")) == (
        505,
        "1",
        "a",
    )
    assert response.body == b"this guest speaks vsrpc protocol version 1, the caller asked for '7'\n"


def test_the_guests_hello(make_world: Callable[..., World]) -> None:
    world = make_world(agent="tester/7", dispatcher={"max_request_size": 1234})
    peer = world.peer()
    peer.request("OPTIONS", "*", vsrpc_version="1", x_request_id="a")
    fields = dict(peer.response().headers)
    assert len(fields.pop("vsrpc-instance")) == 32
    assert fields.pop("content-length") == "0"
    assert fields == {
        "vsrpc-version": "1",
        "vsrpc-agent": "tester/7",
        "vsrpc-max-request-size": "1234",
        "x-request-id": "a",
    }


# -- what a former client left behind


@pytest.mark.parametrize(
    "stale",
    [
        b"the end of a body to somebody else",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf a body",
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
        b"\r\n",
    ],
)
def test_stale_bytes_before_the_hello_are_healed(stale: bytes) -> None:
    def talk(side: RawServerSide) -> None:
        side.send(stale)
        serve(side)

    server = RawServer(talk)
    with Channel("raw:", server.connect, FAST) as channel:
        assert SystemStub(channel).Ping() == PingResponse()
    assert server.connections == 1


def test_a_whole_reply_to_somebody_else_is_passed_over() -> None:
    def talk(side: RawServerSide) -> None:
        side.reply(None, 200, b"for another", x_request_id="of-another")
        serve(side)

    server = RawServer(talk)
    with Channel("raw:", server.connect, FAST) as channel:
        assert SystemStub(channel).Ping() == PingResponse()
    assert server.connections == 1


def test_a_server_that_sees_nobody_leave_is_given_the_time_for_it() -> None:
    """It asks to begin anew for as long as the next client comes too soon for it to see that the last one has left."""

    def talk(side: RawServerSide) -> None:
        side.send(response_sync())
        side.until_gone()

    server = RawServer(*[talk] * 5, serve)
    with Channel("raw:", server.connect, FAST) as channel:
        assert SystemStub(channel).Ping() == PingResponse()
        attempts = channel.beginning.attempts
        assert [attempt.failure for attempt in attempts] == [NotAtBoundary] * 5 + [None]
    server = RawServer(talk)
    with Channel("raw:", server.connect, FAST) as channel, pytest.raises(RpcError, match="nobody answers"):
        SystemStub(channel).Ping()
    assert server.connections <= 15, "not one each 5 ms"


# -- sessions that end


def test_a_new_session_after_the_servers_restart(tmp_path: Path, make_world: Callable[..., World]) -> None:
    address = f"unix:{tmp_path / 'port.sock'}"
    first = make_world(listener(address))
    channel = first.channel()
    shell = ShellStub(channel)
    assert shell.Exec(ExecRequest(command="one")).stdout == b"one"
    first.server.stop()
    session = channel._link._session
    eventually(lambda: session is not None and session.over, "the channel has seen it")
    with pytest.raises(RpcError, match="no such socket") as caught:
        shell.Exec(ExecRequest(command="two"))
    assert caught.value.reason == "CONNECTION_REFUSED"
    second = make_world(listener(address))
    assert shell.Exec(ExecRequest(command="three")).stdout == b"three"
    channel.close()
    second.close()


@pytest.mark.parametrize("replies", [0, 1])
def test_calls_under_way_learn_that_the_link_is_lost(replies: int) -> None:
    def talk(side: RawServerSide) -> None:
        side.hello()
        for _ in range(replies):
            side.reply(side.request(), content_type="application/proto")
        for _ in range(3 - replies):
            side.request()

    server = RawServer(talk, serve)
    with Channel("raw:", server.connect, FAST) as channel:
        shell = ShellStub(channel)
        calls = [shell.Exec.future() for _ in range(3)]
        codes = [call.code() for call in calls]
        assert codes == [Code.OK] * replies + [Code.UNAVAILABLE] * (3 - replies)
        assert "whether the call took effect is not known" in calls[2].details()
        assert getattr(calls[2].exception(), "reason", "") == "CONNECTION_LOST"
        assert shell.Exec() == ExecResponse()


def test_a_reply_that_breaks_the_protocol_ends_the_session() -> None:
    def talk(side: RawServerSide) -> None:
        side.hello()
        side.request()
        side.send(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n")
        side.until_gone()

    with Channel("raw:", RawServer(talk, serve).connect, FAST) as channel:
        with pytest.raises(RpcError, match="the reply breaks the protocol: Content-Length '-1'") as caught:
            SystemStub(channel).Ping()
        assert (caught.value.code(), caught.value.reason) == (Code.INTERNAL, "PROTOCOL_ERROR")
        assert SystemStub(channel).Ping() == PingResponse()


def test_a_server_that_says_close_gets_no_more_requests() -> None:
    def talk(side: RawServerSide) -> None:
        side.hello()
        side.reply(side.request(), content_type="application/proto", connection="close")
        side.until_gone()

    server = RawServer(talk)
    with Channel("raw:", server.connect, FAST) as channel:
        for _ in range(3):
            assert SystemStub(channel).Ping() == PingResponse()
    assert server.connections == 3


# -- plain Connect servers, which know no hello


def plain(side: RawServerSide) -> None:
    """Answers in order, and without ids."""
    for request in side.requests():
        body = ExecResponse(stdout=ExecRequest.FromString(bytes(request.body)).command.encode())
        side.reply(None, body=body.SerializeToString(), content_type="application/proto")


def test_without_a_hello_replies_come_in_order() -> None:
    with Channel("raw:", RawServer(plain).connect, FAST, hello=False) as channel:
        shell = ShellStub(channel)

        def work(number: int) -> bool:
            return all(
                shell.Exec(ExecRequest(command=f"{number}-{index}")).stdout == f"{number}-{index}".encode()
                for index in range(40)
            )

        assert all(thread.result() for thread in [Beside(work, number) for number in range(8)])


def test_without_a_hello_a_call_that_is_given_up_ends_the_session() -> None:
    def never(side: RawServerSide) -> None:
        side.request()
        side.until_gone()

    server = RawServer(never, plain)
    with Channel("raw:", server.connect, FAST, hello=False) as channel:
        shell = ShellStub(channel)
        assert shell.Exec.future(timeout=0.05).code() is Code.DEADLINE_EXCEEDED
        calls = [shell.Exec.future(ExecRequest(command=name)) for name in ("a", "b")]
        assert [call.result().stdout for call in calls] == [b"a", b"b"]
    assert server.connections == 2


# -- retries


class Clock:
    """Time that passes only when somebody sleeps; stands in for the time module."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    with monkeypatch.context() as patch:
        patch.setattr(vsrpc.retry, "time", clock)
        patch.setattr(vsrpc.deadline, "time", clock)
        yield clock


LOST = RpcError(Code.UNAVAILABLE, "lost", reason="CONNECTION_LOST")
AWAY = RpcError(Code.UNAVAILABLE, "the guest is stopping")
REFUSED = RpcError(Code.UNAVAILABLE, "no such socket", reason="CONNECTION_REFUSED", not_run=True)
TOO_LARGE = RpcError(Code.RESOURCE_EXHAUSTED, "too large", reason="TOO_LARGE", not_run=True)
BUSY = RpcError(Code.RESOURCE_EXHAUSTED, "too many requests", not_run=True)

RETRIES: list[tuple[RpcError, bool, int, float | None, list[float]]] = [
    # error, repeatable, retries allowed, seconds until the deadline → pauses made
    (LOST, True, 3, None, [0, 1, 2]),  # at once: the link is waited for anyway
    (AWAY, True, 3, None, [1, 2, 4]),
    (AWAY, True, 1, None, [1]),
    (LOST, False, 3, None, []),  # it may have run
    (AWAY, False, 3, None, []),
    (BUSY, False, 3, None, [1, 2, 4]),  # it has not run
    (TOO_LARGE, True, 3, None, []),  # as it will be
    (LOST, True, 0, None, []),
    (REFUSED, True, 3, None, []),  # nobody listens, and will not soon
    (AWAY, True, 3, 10, [1, 2, 4]),
    (AWAY, True, 3, 7, [1, 2]),  # the third pause would end at the deadline
    (AWAY, True, 3, 2.5, [1]),
    (AWAY, True, 3, 0.5, []),
    (LOST, True, 3, 0.5, [0]),
    *[(RpcError(code, "no"), True, 3, None, []) for code in Code if code not in (Code.OK, Code.UNAVAILABLE)],
]


@pytest.mark.parametrize(
    ("error", "repeatable", "retries", "seconds", "pauses"),
    RETRIES,
    ids=lambda value: value.code().name if isinstance(value, RpcError) else None,
)
def test_what_is_tried_again(
    clock: Clock, error: RpcError, repeatable: bool, retries: int, seconds: float | None, pauses: list[float]
) -> None:
    attempts = itertools.count()

    def attempt() -> None:
        next(attempts)
        raise error

    with pytest.raises(RpcError) as caught:
        RetryPolicy(retries, interval=1.0, backoff=2.0).run(attempt, repeatable, Deadline(seconds))
    assert caught.value is error
    assert clock.slept == pauses
    assert next(attempts) == len(pauses) + 1


def test_a_retry_that_works(clock: Clock) -> None:
    outcomes = iter([LOST, LOST, "done"])

    def attempt() -> str:
        outcome = next(outcomes)
        if isinstance(outcome, RpcError):
            raise outcome
        return outcome

    assert RetryPolicy().run(attempt, True, Deadline(None)) == "done"
    assert clock.slept == [0, 1]


@pytest.mark.parametrize("how", ["stub", "http"])
def test_the_channel_retries_what_it_may(how: str) -> None:
    def drop(side: RawServerSide) -> None:
        side.hello()
        side.request()

    server = RawServer(drop, drop, serve)
    options = ChannelOptions(retry_interval=0.001)
    with Channel("raw:", server.connect, options) as channel:
        if how == "stub":
            assert SystemStub(channel).Ping() == PingResponse()
        else:
            assert channel.http("GET", "/api/v1/ping", retry_safe=True).status == 200
    assert server.connections == 3


def test_a_future_is_one_attempt() -> None:
    def drop(side: RawServerSide) -> None:
        side.hello()
        side.request()

    server = RawServer(drop)
    with Channel("raw:", server.connect) as channel, pytest.raises(RpcError, match="not known"):
        SystemStub(channel).Ping.future().result()
    assert server.connections == 1


CALLS: dict[str, Callable[..., Any]] = {
    "stub": lambda channel, timeout=5: ShellStub(channel).Exec(timeout=timeout),
    "http": lambda channel, timeout=5: channel.http("POST", "/api/v1/shell/exec", timeout=timeout),
}


@pytest.mark.parametrize("how", CALLS)
def test_what_must_not_run_twice_is_repeated_with_its_key(how: str) -> None:
    """To the same instance, which knows whether it has run."""
    seen: list[tuple[str | None, ...]] = []

    def note(side: RawServerSide) -> Request:
        side.hello()
        request = side.request()
        assert request is not None
        seen.append(tuple(request.headers.get(name) for name in ("idempotency-key", "vsrpc-instance")))
        return request

    def answer(side: RawServerSide) -> None:
        side.reply(note(side), content_type="application/proto")
        side.until_gone()

    server = RawServer(note, note, answer)
    with Channel("raw:", server.connect, ChannelOptions(retry_interval=0.001)) as channel:
        CALLS[how](channel)
    assert server.connections == 3
    assert len({key for key, _ in seen}) == 1
    assert [instance for _, instance in seen] == [None, "i", "i"]


@pytest.mark.parametrize("how", CALLS)
def test_what_must_not_run_twice_is_not_asked_of_another_instance(how: str) -> None:
    def drop(side: RawServerSide) -> None:
        side.hello()
        side.request()

    def other(side: RawServerSide) -> None:
        side.hello(vsrpc_instance="another")
        assert side.request() is None

    server = RawServer(drop, other)
    restarted = pytest.raises(RpcError, match="restarted after the call was sent; look at")
    with Channel("raw:", server.connect) as channel, restarted as caught:
        CALLS[how](channel)
    assert (caught.value.code(), caught.value.reason) == (Code.UNKNOWN, "OUTCOME_UNKNOWN")
    assert [thread.result() for thread in server.threads] == [None, None]


@pytest.mark.parametrize("how", CALLS)
def test_a_link_that_does_not_come_back_leaves_the_outcome_unknown(how: str) -> None:
    def drop(side: RawServerSide) -> None:
        side.hello()
        side.request()

    server = RawServer(drop, lambda side: side.until_gone())
    nobody = pytest.raises(RpcError, match=r"the link was lost after the call was sent \(raw:: connected, but nobody")
    with Channel("raw:", server.connect) as channel, nobody as caught:
        CALLS[how](channel, 0.5)
    assert caught.value.reason == "OUTCOME_UNKNOWN"


def test_an_attempt_gets_what_is_left_of_the_time() -> None:
    timeouts: list[int] = []

    def drop(side: RawServerSide) -> None:
        side.hello()
        request = side.request()
        assert request is not None
        timeouts.append(int(request.headers.get("connect-timeout-ms", "0")))

    with Channel("raw:", RawServer(drop).connect, ChannelOptions(retry_interval=0.05, max_retries=2)) as channel:
        assert SystemStub(channel).Ping.future(timeout=5).code() is Code.UNAVAILABLE
        timeouts.clear()
        with pytest.raises(RpcError):
            SystemStub(channel).Ping(timeout=5)
    assert len(timeouts) == 3
    assert timeouts[2] <= timeouts[0] - 50


# -- stopping a server


def test_a_server_that_stops_says_so(make_world: Callable[..., World], gate: Gate) -> None:
    world = make_world(workers=1)
    ran: list[str] = []
    world.handlers.set("Ping", lambda request, context: context.add_callback(gate.open) and gate.wait())
    world.handlers.set("Exec", lambda request, context: ran.append("queued") or ExecResponse())
    channel = world.channel()
    running = SystemStub(channel).Ping.future()
    gate.until_reached()
    queued = ShellStub(channel).Exec.future()
    eventually(lambda: world.server._slots._value == 127, "both have arrived")
    world.server.stop()  # cancels: the handler then opens its own gate
    assert [call.code() for call in (running, queued)] == [Code.UNAVAILABLE] * 2
    assert running.details() == "the guest's daemon is stopping; the call was cancelled, and may have taken effect"
    assert queued.exception().not_run == (queued.details() == "the guest's daemon is stopping; try again in a moment")
    assert ran == []
    world.serving.result()
    world.server.stop()


def test_a_server_that_stops_leaves_nothing(make_world: Callable[..., World]) -> None:
    world = make_world()
    channels = [world.channel() for _ in range(5)]
    for channel in channels:
        SystemStub(channel).Ping()
    world.peer()
    world.close()
    names = ("vsrpc-session", "vsrpc-worker", "vsrpc-link")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(names)]


def test_a_stopped_server_serves_no_more(make_world: Callable[..., World]) -> None:
    world = make_world()
    world.server.stop()
    other = MemoryListener()
    world.server.serve(other)  # returns at once
    with pytest.raises(ConnectFailed):
        world.listener.connect()


def test_a_listener_that_fails_ends_serving(tmp_path: Path, make_world: Callable[..., World]) -> None:
    world = make_world()
    (tmp_path / "port").write_text("")
    port = listener(str(tmp_path / "port"))
    with pytest.raises(OSError, match="not a character device"):
        world.server.serve(port)
    port.close()


def test_one_server_on_two_listeners(tmp_path: Path, make_world: Callable[..., World]) -> None:
    world = make_world()
    second = listener(f"unix:{tmp_path / 'port.sock'}")
    serving = Beside(world.server.serve, second)
    channel = world.channel(connect=connector(second.address)[1])
    assert SystemStub(channel).Ping().message == SystemStub(world.channel()).Ping().message == "pong"
    world.close()
    serving.result()
