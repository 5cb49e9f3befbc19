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
from vsrpc.deadline import Deadline
from vsrpc.method import Idempotency
from vsrpc.retry import RetryPolicy
from vsrpc.transports import ConnectFailed, connector, listener
from vsrpc.transports.memory import MemoryListener
from vsrpc.v1.error_tables import ERROR_CODES
from vsrpc.v1.shell_pb2 import ExecRequest, ExecResponse
from vsrpc.v1.shell_vsrpc import ShellStub
from vsrpc.v1.system_pb2 import PingResponse
from vsrpc.v1.system_vsrpc import SystemStub

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
    (
        "half",
        says(b"HTTP/1.1 200 OK\r\n"),
        Code.DEADLINE_EXCEEDED,
        "READ_TIMEOUT",
        "connected, but nobody answers: the",
    ),
    ("leaves", lambda side: side.request(), Code.UNAVAILABLE, "CONNECTION_LOST", "was closed before the hello"),
    (
        "garbage",
        says(b"\x00\xff{'exe\n"),
        Code.INTERNAL,
        "PROTOCOL_ERROR",
        "not a vsrpc guest that this client can talk",
    ),
    ("ssh", says(b"SSH-2.0-OpenSSH_9.2\r\n"), Code.INTERNAL, "PROTOCOL_ERROR", "is this an HTTP server"),
    ("agent", says(b'{"QMP": {}}\r\n'), Code.INTERNAL, "PROTOCOL_ERROR", "is this an HTTP server"),
    ("http/1.0", says(b"HTTP/1.0 200 OK\r\n\r\n"), Code.INTERNAL, "PROTOCOL_ERROR", "only HTTP/1.1 is understood"),
    ("web", web_server, Code.INTERNAL, "PROTOCOL_ERROR", "HTTP status 404 without a vsrpc version"),
    ("other web", foreign_web_server, Code.INTERNAL, "PROTOCOL_ERROR", "HTTP status 404 without a vsrpc version"),
    (
        "version",
        hello_with(vsrpc_version="7"),
        Code.INTERNAL,
        "PROTOCOL_ERROR",
        "it speaks protocol version 7 (raw), this",
    ),
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
    options = ChannelOptions(max_retries=0, connect_timeout=0.2 if reason == "READ_TIMEOUT" else 20)
    with Channel("unix:/run/port.sock", server.connect, options) as channel, pytest.raises(RpcError) as caught:
        SystemStub(channel).Ping()
    assert (caught.value.code(), caught.value.reason) == (code, reason)
    assert caught.value.details().startswith("unix:/run/port.sock: ")
    assert message in caught.value.details()
    if reason != "READ_TIMEOUT":  # how often silence is listened to depends on the time
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
    def first(side: RawServerSide) -> None:
        side.send(stale)
        side.hello()
        side.until_gone()

    server = RawServer(first, serve)
    with Channel("raw:", server.connect, FAST) as channel:
        assert SystemStub(channel).Ping() == PingResponse()
    assert server.connections == 2


def test_a_whole_reply_to_somebody_else_is_passed_over() -> None:
    def talk(side: RawServerSide) -> None:
        side.reply(None, 200, b"for another", x_request_id="of-another")
        serve(side)

    server = RawServer(talk)
    with Channel("raw:", server.connect, FAST) as channel:
        assert SystemStub(channel).Ping() == PingResponse()
    assert server.connections == 1


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
REFUSED = RpcError(Code.UNAVAILABLE, "no such socket", reason="CONNECTION_REFUSED")
READS = Idempotency.NO_SIDE_EFFECTS
AGAIN = Idempotency.IDEMPOTENT
ONCE = Idempotency.UNKNOWN

RETRIES: list[tuple[RpcError, Idempotency, int, float | None, list[float]]] = [
    # error, idempotency, retries allowed, seconds until the deadline → pauses made
    (LOST, READS, 3, None, [1, 2, 4]),
    (LOST, AGAIN, 3, None, [1, 2, 4]),
    (AWAY, AGAIN, 1, None, [1]),
    (LOST, ONCE, 3, None, []),  # it may have run
    (AWAY, ONCE, 3, None, []),
    (LOST, READS, 0, None, []),
    (REFUSED, READS, 3, None, []),  # nobody listens, and will not soon
    (LOST, READS, 3, 10, [1, 2, 4]),
    (LOST, READS, 3, 7, [1, 2]),  # the third pause would end at the deadline
    (LOST, READS, 3, 2.5, [1]),
    (LOST, READS, 3, 0.5, []),
    *[(RpcError(code, "no"), READS, 3, None, []) for code in Code if code not in (Code.OK, Code.UNAVAILABLE)],
]


@pytest.mark.parametrize(
    ("error", "idempotency", "retries", "seconds", "pauses"),
    RETRIES,
    ids=lambda value: value.code().name if isinstance(value, RpcError) else None,
)
def test_what_is_tried_again(
    clock: Clock, error: RpcError, idempotency: Idempotency, retries: int, seconds: float | None, pauses: list[float]
) -> None:
    attempts = itertools.count()

    def attempt() -> None:
        next(attempts)
        raise error

    with pytest.raises(RpcError) as caught:
        RetryPolicy(retries, interval=1.0, backoff=2.0).run(attempt, idempotency, Deadline(seconds))
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

    assert RetryPolicy().run(attempt, READS, Deadline(None)) == "done"
    assert clock.slept == [1, 2]


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


@pytest.mark.parametrize("how", ["stub", "http", "future"])
def test_the_channel_repeats_nothing_else(how: str) -> None:
    def drop(side: RawServerSide) -> None:
        side.hello()
        side.request()

    server = RawServer(drop)
    with Channel("raw:", server.connect, ChannelOptions(retry_interval=0.001)) as channel:
        calls: dict[str, Callable[[], Any]] = {
            "stub": ShellStub(channel).Exec,
            "http": lambda: channel.http("GET", "/api/v1/ping"),
            "future": lambda: SystemStub(channel).Ping.future().result(),
        }
        with pytest.raises(RpcError, match="not known"):
            calls[how]()
    assert server.connections == 1


def test_an_attempt_gets_what_is_left_of_the_time() -> None:
    timeouts: list[int] = []

    def drop(side: RawServerSide) -> None:
        side.hello()
        request = side.request()
        assert request is not None
        timeouts.append(int(request.headers.get("connect-timeout-ms", "0")))

    with Channel("raw:", RawServer(drop).connect, ChannelOptions(retry_interval=0.05, max_retries=1)) as channel:
        assert SystemStub(channel).Ping.future(timeout=5).code() is Code.UNAVAILABLE
        timeouts.clear()
        with pytest.raises(RpcError):
            SystemStub(channel).Ping(timeout=5)
    assert len(timeouts) == 2
    assert timeouts[1] <= timeouts[0] - 50


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
    assert running.details() == "the guest's daemon is stopping; try again in a moment"
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
