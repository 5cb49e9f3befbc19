"""What a server writes to one peer: order, the window that the peer grants, peers that do not read, new sessions."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from typing import Any, Callable, Iterator

import pytest
from runtime_threads import Beside, eventually
from runtime_world import EXEC, PortEnd, PortListener, RawClient, World

import vsrpc.outbox
from vsrpc.hello import MESSAGE_COST
from vsrpc.outbox import Outbox
from vsrpc.transports import Transport, TransportClosed, TransportError, TransportTimeout
from vsrpc.transports.memory import MemoryTransport, memory_pair
from vsrpc.transports.sockets import SocketTransport
from vsrpc.v1.shell_pb2 import ExecRequest, ExecResponse
from vsrpc.v1.shell_vsrpc import ShellStub
from vsrpc.wire import ACK, Response

MakeWorld = Callable[..., World]

LARGE = 100_000  # bytes of a message that small ones overtake


class PortSocket(SocketTransport):
    """The server's end of something like a port."""

    peer_sees_end = False


class Reader:
    """The peer of an outbox: reads when it is told to."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.data = bytearray()

    def read(self, size: int) -> bytes:
        """The next bytes, just so many."""
        buffer = memoryview(bytearray(size))
        done = 0
        while done < size:
            done += self.transport.recv_into(buffer[done:], 20)
        self.data += buffer
        return bytes(buffer)

    def nothing_more(self) -> bool:
        try:
            self.transport.recv_into(memoryview(bytearray(1)), 0.15)  # longer than the writer's naps
        except TransportTimeout:
            return True
        return False


class Desk:
    """An outbox on a transport of some kind, its reader, and its failures."""

    def __init__(self, kind: str, write_timeout: float = 20.0) -> None:
        self.failures: list[TransportError] = []
        if kind == "socket":
            one, two = socket.socketpair()
            self.ours: Any = PortSocket(one, "socketpair")
            self.reader = Reader(SocketTransport(two, "socketpair"))
        else:
            client, server = memory_pair(16384)
            self.ours = PortEnd(server._incoming, server._outgoing)
            self.reader = Reader(client)
        self.outbox = Outbox(self.ours, write_timeout, self.failures.append)
        self.session = self.outbox.begin()

    def put(self, *messages: bytes, **options: Any) -> None:
        for message in messages:
            self.outbox.put(self.session, [message], **options)

    def begin(self) -> None:
        self.session = self.outbox.begin()

    def close(self) -> None:
        self.ours.close()
        self.reader.transport.close()
        self.outbox.close()


@pytest.fixture(params=["memory", "socket"])
def desk(request: pytest.FixtureRequest) -> Iterator[Desk]:
    desk = Desk(request.param)
    yield desk
    desk.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "vsrpc-outbox"]


@pytest.fixture
def make_desk() -> Iterator[Callable[..., Desk]]:
    desks: list[Desk] = []

    def make(*arguments: Any) -> Desk:
        desks.append(Desk(*arguments))
        return desks[-1]

    yield make
    for desk in desks:
        desk.close()


def message(name: str, size: int) -> bytes:
    return (name.encode() * (size // len(name) + 1))[:size]


# -- order


def test_small_messages_overtake_large_ones_between_messages(desk: Desk) -> None:
    large = {name: message(name, 1_000_000) for name in "ABC"}
    desk.put(*large.values())
    desk.put(*(message(name, 100) for name in "xyz"))
    assert desk.reader.read(1_000_000) == large["A"], "what has begun is not cut into"
    assert desk.reader.read(300) == message("x", 100) + message("y", 100) + message("z", 100)
    assert desk.reader.read(2_000_000) == large["B"] + large["C"]


def test_messages_of_many_threads_stay_whole(desk: Desk) -> None:
    sizes = [10, 3000, 40_000, 200_000]

    def work(name: str) -> None:
        for size in sizes * 3:
            desk.put(f"<{name}{size:07}".encode() + message(name, size), wait=True)

    threads = [Beside(work, name) for name in "abcdefgh"]
    seen: Counter[tuple[str, int]] = Counter()
    for _ in range(len(threads) * len(sizes) * 3):
        head = desk.reader.read(9).decode()
        name, size = head[1], int(head[2:])
        assert head[0] == "<"
        assert desk.reader.read(size) == message(name, size)
        seen[name, size] += 1
    assert [thread.result() for thread in threads] == [None] * 8
    assert set(seen.values()) == {3}
    assert desk.outbox.flush(20)


def test_what_follows_a_message_is_done_once_it_is_written(desk: Desk) -> None:
    done: list[str] = []
    desk.put(message("a", 1_000_000), then=lambda: done.append("a"))
    desk.put(b"b", then=lambda: done.append("b"))
    assert not done
    assert not desk.outbox.flush(0.05)
    desk.reader.read(1_000_001)
    assert desk.outbox.flush(20)
    assert done == ["a", "b"]


@pytest.mark.parametrize("window", [0, 8000], ids=["by who puts it", "by who brings an acknowledgement"])
def test_who_is_told_that_a_message_is_written_may_change_its_buffers(desk: Desk, window: int) -> None:
    """Nobody has a view of them any more, with which a bytearray could not be resized."""
    content = bytearray(message("a", 10_000))
    desk.outbox.grant(window)
    desk.outbox.put(desk.session, [content], then=content.clear)
    if window:
        assert desk.reader.read(window) == message("a", window)
        assert content
        desk.outbox.acknowledge(2)
    assert desk.reader.read(10_000 - window) == message("a", 10_000 - window)
    assert desk.outbox.flush(20)
    assert not content


# -- the window


@pytest.mark.parametrize("size", [100, 5000, LARGE])
def test_no_more_is_on_its_way_than_the_window(desk: Desk, size: int) -> None:
    window, count = 40_000, 500_000 // (size + MESSAGE_COST)
    desk.outbox.grant(window)
    desk.put(*[message("m", size)] * count)
    whole = size * count
    seen = acknowledged = 0

    def used() -> int:
        return seen + seen // size * MESSAGE_COST

    while seen < whole:
        granted = window + acknowledged * (window // 2)
        # All that the window lets through comes, though the peer says nothing.
        while used() < granted and seen < whole:
            seen += len(desk.reader.read(min(size - seen % size, granted - used())))
        if acknowledged % 5 == 0 or seen == whole:
            assert desk.reader.nothing_more(), "the window is full"
        due = used() // (window // 2)
        assert due > acknowledged or seen == whole, "what was let through must let more through"
        desk.outbox.acknowledge(due - acknowledged)
        acknowledged = due
    assert desk.outbox.flush(20)


def test_acknowledging_more_than_was_sent_gains_nothing(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk("socket", 20)
    desk.outbox.grant(16384)
    desk.outbox.acknowledge(100)
    desk.put(message("m", LARGE))
    assert desk.reader.read(16384 + MESSAGE_COST)  # what is just being sent may have been read
    assert desk.reader.nothing_more(), "the window is full"


def test_a_peer_that_never_acknowledges_is_given_up(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk("socket", 0.2)
    desk.outbox.grant(16384)
    desk.put(message("m", LARGE))
    assert len(desk.reader.read(16384)) == 16384
    eventually(lambda: desk.failures, "it is given up")
    assert [type(failure) for failure in desk.failures] == [TransportTimeout]
    assert "the host does not read in time" in str(desk.failures[0])
    desk.put(b"later")  # harms nobody
    assert desk.outbox.flush(20)


def test_a_peer_that_acknowledges_slowly_is_not_given_up(make_desk: Callable[..., Desk]) -> None:
    """The time is for one step, not for the message."""
    desk = make_desk("memory", 0.4)
    desk.outbox.grant(16384)
    desk.put(message("m", LARGE))
    for _ in range((LARGE - 16384) // 8192 + 1):
        desk.reader.read(8192)
        eventually(lambda: desk.outbox._used >= desk.outbox._granted, "it waits")
        desk.outbox._changed.acquire()
        desk.outbox._changed.wait(0.05)
        desk.outbox._changed.release()
        desk.outbox.acknowledge(1)
    assert not desk.failures


# -- peers that do not read


@pytest.mark.parametrize("kind", ["memory", "socket"])
def test_a_peer_that_does_not_read_is_given_up(make_desk: Callable[..., Desk], kind: str) -> None:
    desk = make_desk(kind, 0.2)
    desk.put(message("m", 5_000_000))
    waiting = Beside(desk.put, b"more")
    eventually(lambda: desk.failures, "it is given up")
    assert [type(failure) for failure in desk.failures] == [TransportTimeout]
    waiting.result()


@pytest.mark.parametrize("kind", ["memory", "socket"])
def test_a_peer_that_leaves_ends_the_writing(make_desk: Callable[..., Desk], kind: str) -> None:
    desk = make_desk(kind)
    desk.put(message("m", 5_000_000))
    stuck = Beside(lambda: desk.put(b"x", wait=True)).until_waiting()
    desk.reader.transport.close()
    eventually(lambda: desk.failures, "it is noticed")
    stuck.result()
    assert isinstance(desk.failures[0], TransportClosed)
    assert desk.outbox.flush(20)


def test_who_has_more_waits_for_room(desk: Desk) -> None:
    desk.put(*[message("m", 3_000_000)] * 2)
    waiting = Beside(lambda: desk.put(b"x", wait=True)).until_waiting()
    desk.put(b"y")  # who must not wait does not
    desk.reader.read(3_000_000)
    waiting.result()
    desk.reader.read(3_000_000)
    assert desk.outbox.flush(20)
    assert desk.outbox._queued == 0


@pytest.mark.parametrize("ends", ["begin", "close"])
def test_who_waits_for_room_is_let_go(desk: Desk, ends: str) -> None:
    desk.put(message("m", 4_500_000))
    session = desk.session
    waiting = Beside(lambda: desk.outbox.put(session, [b"x"], wait=True)).until_waiting()
    getattr(desk.outbox, ends)()
    waiting.result()


def test_closing_leaves_no_thread_and_writes_no_more(desk: Desk) -> None:
    desk.put(message("m", 5_000_000))
    desk.outbox.close()
    assert desk.outbox.flush(0)
    desk.put(b"x")
    assert not [thread for thread in threading.enumerate() if thread.name == "vsrpc-outbox"]
    assert not desk.failures


def test_the_thread_goes_when_there_is_nothing_to_write(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vsrpc.outbox, "_LINGER", 0.05)
    for _ in range(2):
        desk.put(message("m", 1_000_000))
        assert desk.outbox._thread is not None
        desk.reader.read(1_000_000)
        eventually(lambda: desk.outbox._thread is None, "it goes")


# -- new sessions


def test_a_new_session_makes_void_what_was_for_the_one_before(desk: Desk) -> None:
    old = desk.session
    desk.put(message("A", 1_000_000), message("B", 1_000_000), *[b"c"] * 10)
    desk.begin()
    desk.outbox.put(old, [b"too late"])
    desk.put(message("N", 1000), message("O", LARGE))
    came = b""
    while not came.endswith(b"N"):
        came += desk.reader.read(1)
        assert len(came) < 1_000_000
    assert came.strip(b"A") == b"N", "of what had begun a part, and nothing else"
    assert desk.reader.read(999 + LARGE) == message("N", 999) + message("O", LARGE)
    assert desk.reader.nothing_more()


def test_a_new_session_has_a_window_of_its_own(desk: Desk) -> None:
    desk.outbox.grant(16384)
    desk.put(message("A", LARGE))
    desk.reader.read(16384)
    desk.begin()
    desk.put(message("B", LARGE))  # no window was granted
    assert desk.reader.read(LARGE) == message("B", LARGE)
    desk.begin()
    desk.outbox.grant(20000)
    desk.put(message("C", LARGE))
    desk.reader.read(20000)
    assert desk.reader.nothing_more()


def test_a_new_session_has_time_of_its_own(make_desk: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer is not given up for what the one before it did not read."""

    class Clock:
        now = 0.0

        def monotonic(self) -> float:
            return self.now

    clock = Clock()
    monkeypatch.setattr(vsrpc.outbox, "time", clock)
    desk = make_desk("memory", 30.0)
    desk.put(message("A", 100_000))
    assert not desk.outbox.flush(0.3), "the thread waits"
    clock.now += 29
    with desk.outbox._changed:  # so that the thread sees neither of the two without the other
        desk.begin()
        desk.put(b"hello")
    clock.now += 2
    eventually(lambda: desk.outbox._current is not None, "it is being written")
    assert not desk.outbox.flush(0.3), "longer than the writer's naps"
    assert not desk.failures
    clock.now += 30
    eventually(lambda: desk.failures, "now it is")


# -- a whole server


def test_a_client_gets_no_more_than_its_window_until_it_has_read(make_world: MakeWorld) -> None:
    world = make_world(PortListener(capacity=1 << 20))
    world.handlers.set("Exec", lambda request, context: ExecResponse(stdout=b"x" * LARGE))
    peer = world.peer()
    peer.begin_session(window=65536)
    for number in range(5):
        peer.rpc(EXEC, x_request_id=str(number))
    waiting = eventually(lambda: len(peer.transport._incoming._data) > 60_000, "the window is used up")  # type: ignore[attr-defined]
    assert waiting
    replies: list[Response] = []

    def read() -> None:
        replies.extend(peer.response() for _ in range(5))

    reading = Beside(read).until_waiting()
    assert not replies
    eventually(lambda: peer.send(ACK) or reading.ended, "all has come")
    assert sorted(reply.headers.get("x-request-id") or "" for reply in replies) == list("01234")


def test_a_client_that_never_acknowledges_harms_only_itself(make_world: MakeWorld) -> None:
    world = make_world(PortListener(), write_timeout=0.3)
    world.handlers.set("Exec", lambda request, context: ExecResponse(stdout=b"x" * 1_000_000))
    deaf = world.peer()
    deaf.begin_session(window=65536)
    for number in range(8):
        deaf.rpc(EXEC, x_request_id=str(number))
    for _ in range(5):
        assert len(ShellStub(world.channel()).Exec(ExecRequest()).stdout) == 1_000_000
    assert len(deaf.rest()) <= 65536, "then it is given up"


def test_a_channel_acknowledges_what_it_reads(make_world: MakeWorld) -> None:
    """Replies of many times the window, large and small, to several threads at once."""
    world = make_world(PortListener())
    world.handlers.set("Exec", lambda request, context: ExecResponse(stdout=b"x" * int(request.command)))
    channel = world.channel()

    def work(size: int, times: int) -> None:
        for _ in range(times):
            assert len(ShellStub(channel).Exec(ExecRequest(command=str(size))).stdout) == size

    threads = [Beside(work, *each) for each in ((4_000_000, 3), (100_000, 30), (10, 200), (0, 200))]
    assert [thread.result() for thread in threads] == [None] * 4
    session = channel._link._session
    assert session is not None
    assert session.peer is not None
    assert session.peer.window > 65536


def test_a_raw_clients_odd_windows_are_none(make_world: MakeWorld) -> None:
    world = make_world(PortListener())
    for window in (0, 1, 16 * 1024 - 1, 1 << 30, 10**19):
        peer: RawClient = world.peer()
        assert peer.begin_session(window).headers.get("vsrpc-window") is None
        peer.rpc(EXEC, {"command": "x" * LARGE})
        assert peer.response().status == 200


class FloodedEnd(PortEnd):
    """Whose peer acknowledges without end, once `flooded` is set."""

    flooded = threading.Event()

    def recv_into(self, buffer: memoryview, timeout: float | None = None) -> int:
        try:
            return super().recv_into(buffer, 0.001 if self.flooded.is_set() else timeout)
        except TransportTimeout:
            if not self.flooded.is_set():
                raise
            buffer[: len(ACK)] = ACK
            return len(ACK)


class FloodedListener(PortListener):
    def accept(self) -> MemoryTransport:
        end = super().accept()
        return FloodedEnd(end._incoming, end._outgoing)


def test_deadlines_are_kept_while_acknowledgements_come(make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FloodedEnd, "flooded", threading.Event())
    world = make_world(FloodedListener())
    ended = threading.Event()
    world.handlers.set("Exec", lambda request, context: ended.wait(20) and ExecResponse())
    peer = world.peer()
    peer.begin_session(window=65536)
    peer.rpc(EXEC, connect_timeout_ms="200")
    FloodedEnd.flooded.set()
    assert peer.response().status == 504
    ended.set()


def test_a_request_right_behind_acknowledgements(make_world: MakeWorld) -> None:
    world = make_world(PortListener(capacity=1 << 20))
    world.handlers.set("Exec", lambda request, context: ExecResponse(stdout=b"x" * int(request.command)))
    peer = world.peer()
    peer.begin_session(window=65536)
    peer.rpc(EXEC, {"command": "150000"}, x_request_id="first")
    replies: list[Response] = []
    reading = Beside(lambda: replies.append(peer.response()))
    eventually(lambda: peer.send(ACK) or reading.ended, "the first is here")
    peer.send(ACK * 3)
    peer.send(ACK)
    peer.rpc(EXEC, {"command": "10"}, x_request_id="second")
    replies.append(peer.response())
    assert [reply.headers.get("x-request-id") for reply in replies] == ["first", "second"]
