"""The way back to a known boundary: bodies kept clear of its marks, marks found anywhere, and what a server makes of
them, on a stream whose client may be replaced by another unseen."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runtime_threads import PATIENCE, eventually
from runtime_world import EXEC, PING, Gate, PortEnd, PortListener, RawClient, World

import vsrpc.wire.sync
from vsrpc.hello import hello_request
from vsrpc.v1.shell_pb2 import ExecResponse
from vsrpc.v1.system_pb2 import PingResponse
from vsrpc.wire import (
    MAGIC,
    NO_NONCE,
    NONCE_SIZE,
    ClientConnection,
    Finder,
    Headers,
    RemoteProtocolError,
    Sync,
    response_sync,
)
from vsrpc.wire.sync import CHECKSUM_HEADER, LEAVE, MARK, MASK_HEADER, request_sync, seal, unseal

MakeWorld = Callable[..., World]

SOURCE = Path(vsrpc.wire.sync.__file__).read_bytes()


@pytest.fixture
def port(make_world: MakeWorld) -> World:
    """A server at something like a port; requests that stop in the middle are given up soon."""
    return make_world(PortListener(), stall_timeout=0.2)


# -- bodies


def one_key(marker: bytes, key: int) -> bytes:
    return bytes(byte ^ key for byte in marker)


SPECIAL: dict[str, bytes] = {
    "empty": b"",
    "magic": MAGIC,
    "mark": MARK,
    "both, twice": (MAGIC + MARK) * 2,
    "a whole sync": request_sync(b"n" * 16) + response_sync(b"n" * 16),
    "every masked magic": b"".join(one_key(MAGIC, key) for key in range(256)),
    "every masked mark": b"".join(one_key(MARK, key) for key in range(256)),
    "the source of it all": SOURCE,
    "cut inside the magic": b"x" + MAGIC[:-1],
    "cut inside the mark": b"x" + MARK[:-1],
    "the end of a magic": MAGIC[1:],
    "large": b"x" * 1_000_000 + MAGIC + MARK + b"y" * 3,
}

pieces = st.sampled_from([MAGIC, MARK, MAGIC[:9], MAGIC[9:], MARK[:20], MARK[20:], b"\x00", b"\x16", b"H"])
bodies = st.lists(pieces | st.binary(max_size=8), max_size=12).map(b"".join)


def view_of_more(body: bytes) -> memoryview:
    """What is around a body may be anything, markers too, and more than it."""
    return memoryview(bytearray(MARK + MAGIC + body + MAGIC + MARK))[len(MARK + MAGIC) :][: len(body)]


def view_of_little_more(body: bytes) -> memoryview:
    return memoryview(body + b"x")[: len(body)]


def check_seal(body: bytes, marker: bytes) -> None:
    for shape in (bytes, bytearray, memoryview, view_of_more, view_of_little_more):
        for cut in {0, 1, len(body) // 2, max(0, body.find(marker) + 3)}:
            parts, fields = seal([shape(body[:cut]), shape(body[cut:])], marker)
            sealed = b"".join(parts)
            assert marker not in sealed
            assert len(sealed) == len(body)
            assert (MASK_HEADER in dict(fields)) == (marker in body), "masked where it is needed, and only there"
            assert bytes(unseal(Headers(fields), bytearray(sealed))) == body


@pytest.mark.parametrize("marker", [MAGIC, MARK], ids=["request", "response"])
@pytest.mark.parametrize("what", SPECIAL)
def test_a_body_travels_clear_of_the_mark(what: str, marker: bytes) -> None:
    check_seal(SPECIAL[what], marker)


@given(bodies)
def test_any_body_travels_clear_of_the_mark(body: bytes) -> None:
    check_seal(body, MAGIC)
    check_seal(body, MARK)


@given(st.binary(min_size=1, max_size=60), st.data())
def test_a_body_that_was_damaged_is_none(body: bytes, data: Any) -> None:
    parts, fields = seal([body, MAGIC], MAGIC)
    damaged = bytearray(b"".join(parts))
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(RemoteProtocolError, match="damaged on the way"):
        unseal(Headers(fields), damaged)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ([], f"came without {CHECKSUM_HEADER}"),
        ([(CHECKSUM_HEADER, "0")], "damaged"),
        ([(CHECKSUM_HEADER, "3610A686")], "damaged"),  # upper case
        ([(CHECKSUM_HEADER, "3610a686"), (MASK_HEADER, "1234567")], "is not 8 hexadecimal digits"),
        ([(CHECKSUM_HEADER, "3610a686"), (MASK_HEADER, "1234567\xb2")], "is not 8 hexadecimal digits"),
    ],
)
def test_fields_that_seal_nothing(fields: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(RemoteProtocolError, match=message):
        unseal(Headers(fields), b"hello")
    assert unseal(Headers(fields[:0]), b"") == b"", "nothing cannot be damaged"


@pytest.mark.parametrize("marker", [MAGIC, MARK], ids=["magic", "mark"])
def test_a_marker_has_no_border(marker: bytes) -> None:
    assert not [size for size in range(1, len(marker)) if marker[:size] == marker[-size:]]


# -- finding


@pytest.mark.parametrize("marker", [MAGIC, MARK], ids=["magic", "mark"])
def test_a_marker_is_found_however_the_stream_is_cut(marker: bytes) -> None:
    before, after = b"x" + marker[:-1] + marker[:3], b"after" + marker[:5]
    stream = before + marker + after
    end = len(before) + len(marker)
    for one in range(len(stream) + 1):
        for two in range(one, len(stream) + 1):
            finder = Finder(marker)
            found = None
            for start, stop in ((0, one), (one, two), (two, len(stream))):
                found = finder.find(stream, start, stop)
                if found is not None:
                    break
            assert found == end
    finder = Finder(marker)
    places = [finder.find(stream[at : at + 1], 0, 1) for at in range(len(stream))]
    assert [at for at, place in enumerate(places) if place is not None] == [end - 1]


@given(bodies, st.lists(st.integers(1, 40), max_size=30))
def test_the_first_marker_is_found(body: bytes, cuts: list[int]) -> None:
    finder, start = Finder(MAGIC), 0
    for size in [*cuts, len(body)]:
        found = finder.find(body, start, min(start + size, len(body)))
        start = min(start + size, len(body))
        if found is not None:
            assert found == body.find(MAGIC) + len(MAGIC)
            return
    assert MAGIC not in body


# -- a sync in a session


class Begun:
    """A client that has synchronised, on a stream that may have been another's before."""

    def __init__(self, peer: RawClient) -> None:
        self.peer = peer
        self.nonce = secrets.token_bytes(16)
        peer._connection = ClientConnection()
        self.opening = peer._connection.sync(self.nonce)
        self.hello = b"".join(peer._connection.send(hello_request("hello", 0)))

    def until_greeted(self) -> None:
        """Nothing that was meant for whoever came before is taken for an answer."""
        assert self.peer.event() == Sync(self.nonce)
        response = self.peer.response()
        assert (response.status, response.headers.get("x-request-id")) == (200, "hello")

    def works(self) -> None:
        self.peer.rpc(EXEC, {"command": "x"}, x_request_id="works")
        response = self.peer.response()
        assert (response.status, response.headers.get("x-request-id")) == (200, "works")


def request_of(peer: RawClient, body: bytes = b"{}", **fields: str) -> bytes:
    """A request as that client would send it."""
    sent: list[bytes] = []
    say, peer.send = peer.send, sent.append  # type: ignore[method-assign]
    peer.request("POST", PING, body, content_type="application/json", **fields)
    peer.send = say  # type: ignore[method-assign]
    return sent[0]


LEFT_BEHIND: dict[str, Callable[[RawClient], bytes]] = {
    "nothing": lambda peer: b"",
    "half a head": lambda peer: request_of(peer)[:30],
    "a head": lambda peer: request_of(peer, b"x" * 5000).partition(b"x" * 100)[0],
    "half a body": lambda peer: request_of(peer, b"x" * 100_000)[:50_000],
    "nearly a body": lambda peer: request_of(peer, b"x" * 100_000)[:-1],
    "a body that ends in a part of the magic": lambda peer: request_of(
        peer, b"x" * 500 + MAGIC[:10] + b"y" * 50
    ).partition(b"y" * 50)[0],
    "half a masked body": lambda peer: request_of(peer, MAGIC * 500)[:-99],
    "a line end": lambda peer: b"\r\n",
    "half a magic": lambda peer: MAGIC[:7],
    "a magic": lambda peer: MAGIC,
    "half a sync": lambda peer: request_sync(b"z" * 16)[:-3],
    "a zombie's sync": lambda peer: request_sync(b"z" * 16),
    "a zombie's sync and half a hello": lambda peer: request_sync(b"z" * 16) + b"OPTIONS * HTTP/1.1\r\nHost",
    "a zombie's sync and hello": lambda peer: (lambda other: other.opening + other.hello)(Begun(peer)),
    "acknowledgements": lambda peer: b"\x06" * 7,
    "broken HTTP": lambda peer: b"POST \x00 HTTP/1.1\r\n\r\n",
    "something that runs": lambda peer: request_of(peer, x_request_id="old"),
    "a request of no session": lambda peer: b"GET /x HTTP/1.1\r\nHost: g\r\n\r\n",
}


@pytest.mark.parametrize("cut", ["whole", "in pieces"])
@pytest.mark.parametrize("what", LEFT_BEHIND)
def test_a_new_client_begins_whatever_the_one_before_left(port: World, what: str, cut: str) -> None:
    peer = port.peer()
    peer.begin_session()
    left = LEFT_BEHIND[what](peer)
    new = Begun(peer)
    data = left + new.opening + new.hello
    size = len(data) if cut == "whole" else 1 + len(data) // 1000
    for start in range(0, len(data), size):
        peer.send(data[start : start + size])
    new.until_greeted()
    new.works()


def test_replies_to_a_former_client_reach_no_other(port: World, gate: Gate) -> None:
    """Neither one that is half written, nor one whose handler still runs."""
    port.handlers.set("Ping", lambda request, context: gate.wait() or PingResponse(message="of the former"))
    port.handlers.set("Exec", lambda request, context: ExecResponse(stdout=b"x" * 1_000_000))
    peer = port.peer()
    peer.begin_session(window=65536)
    peer.rpc(PING, x_request_id="works")  # the next client's id, too
    gate.until_reached()
    for number in range(3):
        peer.rpc(EXEC, x_request_id=f"old {number}")
    eventually(lambda: len(peer.transport._incoming._data) > 60_000, "the window is full")  # type: ignore[attr-defined]
    new = Begun(peer)
    peer.send(new.opening + new.hello)
    new.until_greeted()
    gate.open()
    port.handlers.set("Exec", lambda request, context: ExecResponse(stdout=b"new"))
    new.works()
    peer.request("OPTIONS", "*", x_request_id="last")
    assert peer.response().headers.get("x-request-id") == "last"


# -- plain clients, before a session and in one


@pytest.mark.parametrize("before", ["nothing", "a session"])
@pytest.mark.parametrize("cut", [1, 7, 1000])
def test_a_sync_in_a_plain_clients_body_is_content(port: World, before: str, cut: int) -> None:
    peer = port.peer()
    if before == "a session":
        peer.begin_session()
        peer._connection = ClientConnection()
    body = b"x" + request_sync(b"n" * 16) + request_of(peer) + MAGIC
    head = f"POST /x HTTP/1.1\r\nHost: g\r\nContent-Length: {len(body)}\r\n"
    for name in ("one", "two"):
        data = f"{head}X-Request-ID: {name}\r\n\r\n".encode() + body
        for start in range(0, len(data), cut):
            peer.send(data[start : start + cut])
    for name in ("one", "two"):
        response = peer.response()
        assert (response.status, response.headers.get("x-request-id")) == (404, name), "answered as any other"
    new = Begun(peer)
    peer.send(new.opening + new.hello)
    new.until_greeted()
    new.works()


@pytest.mark.parametrize("cut", [0, 1, 50_000])
def test_who_follows_a_plain_client_unseen_is_told_to_connect_anew(port: World, cut: int) -> None:
    """Its sync is content of the body that the former one began: it would wait for an echo in vain."""
    peer = port.peer()
    peer.send(b"POST /x HTTP/1.1\r\nHost: g\r\nContent-Length: 100000\r\n\r\n" + bytes(cut))
    new = Begun(peer)
    peer.send(new.opening + new.hello)
    assert peer.event() == Sync(bytes(16))


def test_a_plain_client_hears_of_the_magic_once(port: World) -> None:
    peer = port.peer()
    body = MAGIC * 1000
    peer.send(b"POST /x HTTP/1.1\r\nHost: g\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    heard, buffer = b"", memoryview(bytearray(65536))
    while b" 404 " not in heard:
        heard += buffer[: peer.transport.recv_into(buffer, PATIENCE)]
    assert heard.startswith(response_sync())
    assert heard.count(MARK) == 1


def test_a_request_of_no_session_ends_the_session(port: World, gate: Gate) -> None:
    """It is served as a plain client's: in order, unsealed, and whoever had the session has gone."""
    ended: list[bool] = []
    port.handlers.set(
        "Ping",
        lambda request, context: (context.add_callback(lambda: ended.append(True)) and gate.wait()) or PingResponse(),
    )
    peer = port.peer()
    peer.begin_session()
    peer.rpc(PING, x_request_id="of the session")
    gate.until_reached()
    body = b'{"command": "a"}'
    head = f"POST {EXEC} HTTP/1.1\r\nHost: g\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    for name in ("one", "two"):
        peer.send(f"{head}X-Request-ID: {name}\r\n\r\n".encode() + body)
    peer._connection = ClientConnection()
    for name in ("one", "two"):
        response = peer.response()
        assert (response.headers.get("x-request-id"), response.status) == (name, 200)
        assert CHECKSUM_HEADER not in response.headers
    eventually(lambda: ended, "what ran in the session is cancelled")
    gate.open()


@pytest.mark.parametrize("begin", [False, True], ids=["plain", "session"])
def test_a_request_of_a_session_that_is_over_is_not_run(port: World, begin: bool) -> None:
    """Its client believes to be in a session, and is told to begin anew."""
    ran: list[str] = []
    port.handlers.set("Ping", lambda request, context: ran.append("stale") or PingResponse())
    former = port.peer()
    former.begin_session()
    old = request_of(former, x_request_id="stale")
    peer = port.peer()
    if begin:
        peer.begin_session()
    peer.send(old)
    peer._connection = ClientConnection()
    peer._connection.sync(bytes(range(NONCE_SIZE)))
    assert peer.event() == Sync(NO_NONCE)
    assert ran == []


@pytest.mark.parametrize("begin", [False, True], ids=["plain", "session"])
def test_a_probe_and_a_second_hello(port: World, begin: bool) -> None:
    peer = port.peer()
    if begin:
        peer.begin_session()
    for fields, status in (({}, 204), ({"vsrpc_version": "1"}, 200), ({"vsrpc_version": "2"}, 505), ({}, 204)):
        peer.request("OPTIONS", "*", x_request_id="p", **fields)
        response = peer.response()
        assert (response.status, response.headers.get("x-request-id")) == (status, "p")
    peer.rpc(EXEC, x_request_id="r")
    assert peer.response().status == 200


def test_another_version_is_refused_and_the_right_one_is_not(port: World) -> None:
    peer = port.peer()
    new = Begun(peer)
    peer.send(new.opening)
    for version, status in (("2", 505), ("0", 505), ("", 505), ("x", 505), ("1", 200)):
        peer.request("OPTIONS", "*", vsrpc_version=version, x_request_id=version)
        assert peer.event() == Sync(new.nonce)
        response = peer.response()
        assert (response.status, response.headers.get("vsrpc-version")) == (status, "1")
    new.works()


# -- after a mistake


def test_only_a_hello_may_follow_a_sync(port: World) -> None:
    ran: list[None] = []
    port.handlers.set("Ping", lambda request, context: ran.append(None) or PingResponse())  # type: ignore[func-returns-value]
    peer = port.peer()
    old = Begun(peer)
    peer.send(old.opening + request_of(peer) + request_of(peer))
    new = Begun(peer)
    peer.send(new.opening + new.hello)
    new.until_greeted()
    new.works()
    assert not ran


def test_after_a_mistake_nothing_runs_until_a_sync(port: World, gate: Gate) -> None:
    """Two calls under one id: the session is given up, and what else was on its way in it is void."""
    runs: list[str] = []
    port.handlers.set("Ping", lambda request, context: gate.wait() or PingResponse())
    port.handlers.set("Exec", lambda request, context: runs.append(request.command) or ExecResponse())  # type: ignore[func-returns-value]
    peer = port.peer()
    peer.begin_session()
    peer.rpc(PING, x_request_id="twice")
    gate.until_reached()
    peer.rpc(PING, x_request_id="twice")
    assert peer.response().headers.get("connection") == "close"
    for _ in range(2):
        peer.rpc(EXEC, {"command": "void"})
    peer.request("OPTIONS", "*")
    gate.open()
    new = Begun(peer)
    peer.send(new.opening + new.hello)
    new.until_greeted()
    new.works()
    assert runs == ["x"]


def test_a_mistake_and_a_sync_in_one_read(port: World, gate: Gate) -> None:
    """The new client's hello is answered at once, not when more comes."""
    port.handlers.set("Ping", lambda request, context: gate.wait() or PingResponse())
    peer = port.peer()
    peer.begin_session()
    twice = request_of(peer, x_request_id="twice")
    new = Begun(peer)
    peer.send(twice + twice + new.opening + new.hello)
    new.until_greeted()
    new.works()


@pytest.mark.parametrize("part", [-1, 30])
@pytest.mark.parametrize("what", ["request", "sync"])
@pytest.mark.parametrize("begin", [False, True], ids=["plain", "session"])
def test_what_stops_in_the_middle_is_given_up_once(
    port: World, begin: bool, what: str, part: int, caplog: pytest.LogCaptureFixture
) -> None:
    """What comes of it later is void; the one who stopped it may be gone, and a sync begins anew."""
    ran: list[None] = []
    port.handlers.set("Ping", lambda request, context: ran.append(None) or PingResponse())  # type: ignore[func-returns-value]
    peer = port.peer()
    if begin:
        peer.begin_session()
    whole = request_of(peer, b"{" + b" " * 5000 + b"}") if what == "request" else request_sync(b"z" * 16)
    peer.send(whole[:part])
    response = peer.response()
    assert (response.status, response.headers.get("connection")) == (408, "close")
    if what == "request":
        peer.send(whole[part:])
    new = Begun(peer)
    peer.send(new.opening + new.hello)
    if begin:
        new.until_greeted()
        new.works()
    else:  # it may be content of a plain client's body: whoever sent it is to connect anew
        assert peer.event() == Sync(bytes(16))
    assert not ran
    assert caplog.text.count("stopped in the middle") == 1


# -- what a client that dies may have cost the port


@pytest.mark.parametrize(
    ("said", "counted"),
    [
        ("nothing after its hello", 1),  # the answer to it may be stuck
        ("a part of a head", 0),  # which it says when it has that answer
        ("the next one's sync", 1),
        ("a plain client's request", 1),
        ("a call that was answered", 1),
        ("a call that was answered, and that it leaves", 0),
        ("that it leaves", 0),
        ("half a sync", 0),
    ],
)
def test_clients_that_die_count_where_output_may_be_stuck(
    port: World, monkeypatch: pytest.MonkeyPatch, said: str, counted: int
) -> None:
    lost: list[int] = []
    monkeypatch.setattr(PortEnd, "lose_output", lambda end: lost.append(1))
    peer = port.peer()
    if said == "half a sync":
        peer.send(MAGIC + b"0123")
    else:
        peer.begin_session(window=1 << 20)
    if "call" in said:
        peer.rpc(PING)
        assert peer.response().status == 200
    if "leaves" in said:
        peer.send(LEAVE)
    if said == "a part of a head":
        peer.send(b"POST /vsrpc")
    if said == "a plain client's request":
        peer.send(b"GET /api/v1/ping HTTP/1.1\r\nhost: g\r\n\r\n")
        eventually(lambda: lost, "the client before it is counted")
    if said == "the next one's sync":
        peer.begin_session(window=1 << 20)
        peer.send(LEAVE)
    peer.close()
    eventually(lambda: not port.server._streams, "the server sees that the client has gone")
    assert len(lost) == counted
