"""The memory that a keeper of jobs and the daemon share: rings against a model, and both ends over a real socket."""

from __future__ import annotations

import fcntl
import gc
import os
import signal
import socket
import threading
import tty
from pathlib import Path
from types import SimpleNamespace
from typing import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest.jobs import memory
from guest.jobs.changes import Changes
from guest.jobs.feed import InputFeed
from guest.jobs.live import LiveJob
from guest.jobs.log import OutputLog
from guest.jobs.memory import InputRing, Memory, OutputRing
from guest.jobs.rest import INPUT_PIPE_SIZE, PIPE_SIZE, Rest
from guest.jobs.sharing import MemoryServer
from guest.jobs.terminal import open_terminal
from guest.jobs.view import MemoryClient
from vsrpc import deadline
from vsrpc.deadline import Deadline

SIZE = 64
F_GETPIPE_SZ = 1032  # linux/fcntl.h
PATIENCE = 30.0


def other(one: Memory) -> Memory:
    """The same memory, as another process has it."""
    with one.file() as fd:
        assert fd is not None
        return Memory(os.dup(fd))


def put(one: Memory, ring: OutputRing, content: bytes) -> None:
    """As a job's thread writes."""
    with one.file() as fd:
        assert fd is not None
        while content:
            place, count = ring.place(len(content))
            ring.make_way(count)
            os.pwrite(fd, content[:count], place)
            ring.grow(count)
            content = content[count:]


@given(st.lists(st.tuples(st.binary(max_size=3 * SIZE), st.integers(0, 6 * SIZE), st.integers(0, 2 * SIZE))))
def test_output_is_what_was_written_last(steps: list[tuple[bytes, int, int]]) -> None:
    job = Memory.make(SIZE, takes_input=False)
    reader = other(job)
    written = b""
    for content, offset, limit in steps:
        put(job, job.stdout, content)
        put(job, job.stderr, content[::-1])
        written += content
        begin, found = reader.stdout.content(offset, limit)
        assert (reader.stdout.end, reader.stdout.start) == (len(written), max(0, len(written) - SIZE))
        assert begin == min(max(offset, reader.stdout.start), len(written))
        assert found == written[begin : begin + limit]
    job.close()
    assert (job.stdout.end, job.stdout.content(0, SIZE)[1]) == (len(written), b"")
    reader.close()


def test_what_was_written_to_a_terminal_is_there_at_once() -> None:
    """Else the last output of a command that ends is lost now and then."""
    job = Memory.make(SIZE, takes_input=False)
    leader, follower = open_terminal(24, 80)
    log = OutputLog(job, job.stdout, Changes(job))
    log.use_terminal(leader, follower)
    tty.setraw(follower)
    for _ in range(5000):
        os.write(follower, b"abc")
        assert log.waiting() == 3
        log.read()
    log.close_reader()
    for fd in (leader, follower):
        os.close(fd)
    job.close()


@given(st.lists(st.tuples(st.integers(0, 3 * SIZE), st.integers(0, 2 * SIZE), st.integers(0, SIZE))))
def test_input_is_taken_once_and_in_order(steps: list[tuple[int, int, int]]) -> None:
    """Whoever writes, again or not, and however much the job has read."""
    content = bytes(range(256)) * 3
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(memory, "MAX_AHEAD", SIZE)
        job = Memory.make(SIZE, takes_input=True)
    writers = [each for each in (job.input, other(job).input) if each]
    ring = writers[0]
    read = b""
    for number, (offset, count, taken) in enumerate(steps):
        before = ring.offset
        piece = memoryview(content)[offset : offset + count]
        room = ring.takes(offset, count)
        if offset > before:
            with pytest.raises(ValueError, match=f"offset {offset} is beyond the {before} bytes"):
                writers[number % 2].take(offset, piece, False)
            continue
        whole = writers[number % 2].take(offset, piece, False)
        assert whole == (ring.offset >= offset + count)
        assert whole or ring.behind == SIZE
        assert not room or whole
        read += take(ring, taken)
    read += take(ring, 2 * SIZE)
    assert read == content[: ring.offset]
    job.close()


def take(ring: InputRing, count: int) -> bytes:
    """As the job reads."""
    found = b""
    while count > len(found) and ring.behind:
        piece = bytes(ring.next()[: count - len(found)])
        ring.fed(len(piece))
        found += piece
    return found


def test_what_follows_the_end_of_the_input_is_refused() -> None:
    job = Memory.make(SIZE, takes_input=True)
    ring = job.input
    assert ring is not None
    assert ring.take(0, memoryview(b"ab"), True)
    assert ring.take(1, memoryview(b"b"), True)  # again
    with pytest.raises(ValueError, match="the input has ended after 2 bytes"):
        ring.take(2, memoryview(b"c"), False)
    job.close()
    assert ring.take(0, memoryview(b"ab"), True)  # nobody reads it any more


def test_input_leaves_no_memory_behind() -> None:
    job = Memory.make(SIZE, takes_input=True)
    ring = job.input
    assert ring is not None
    assert ring.take(0, memoryview(bytes(memory.MAX_AHEAD)), False)
    with job.file() as fd:
        assert fd is not None
        used = os.fstat(fd).st_blocks * 512
        ring.close()
        assert used >= memory.MAX_AHEAD > 100 * 1024 >= os.fstat(fd).st_blocks * 512
    assert (ring.closed, ring.behind, bytes(ring.next())) == (True, 0, b"")
    job.close()


def test_nothing_is_left_open() -> None:
    before = len(os.listdir("/proc/self/fd"))
    gc.disable()
    try:
        for _ in range(5):
            Memory.make(SIZE, takes_input=True).close()
        assert len(os.listdir("/proc/self/fd")) == before
    finally:
        gc.enable()


def test_a_lock_dies_with_who_holds_it() -> None:
    """Also where another process has the descriptor that it was given by."""
    job = Memory.make(SIZE, takes_input=True)
    with job.file() as fd:
        assert fd is not None
        given = os.dup(fd)
        reader = Memory(given)
        child = os.fork()
        if not child:
            try:
                own = Memory(os.dup(fd))
                with own.file() as locked:
                    assert locked is not None
                    fcntl.flock(locked, fcntl.LOCK_EX)
                    os.kill(os.getpid(), signal.SIGKILL)
            finally:
                os._exit(1)
        os.waitpid(child, 0)
    assert reader.input is not None
    assert reader.input.take(0, memoryview(b"x"), False)
    reader.close()
    job.close()


def test_memory_of_another_version_is_refused() -> None:
    job = Memory.make(SIZE, takes_input=False)
    job.counters[0] += 1
    with job.file() as fd:
        assert fd is not None
        with pytest.raises(ValueError, match="the layout is 3, not 2"):
            Memory(fd)
    job.close()


def test_output_is_held_for_a_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    job = Memory.make(SIZE, takes_input=False, holds_output=True)
    reader = other(job)
    put(job, job.stdout, b"x" * SIZE)
    assert job.stdout.room == 0
    assert not reader.attend(0, 0)
    assert reader.attend(10, 0)
    assert not reader.attend(10, 0)  # once is enough
    assert (job.stdout.room, job.stdout.patience) == (10, 0)
    put(job, job.stdout, b"y" * 10)
    assert 0 < job.stdout.patience <= memory.NAP  # who was to tell of room may have died
    monkeypatch.setattr(memory, "ATTENTION", 0.0)  # the reader has been away for too long
    assert job.stdout.room == SIZE


def test_who_waits_for_room_is_told_when_there_is_enough() -> None:
    """Else each move of the job's wakes it, for little; and who wants less is not made to wait for more."""
    job = Memory.make(SIZE, takes_input=True)
    writer, ring = other(job), job.input
    assert ring is not None
    assert ring.take(0, memoryview(bytes(memory.MAX_AHEAD)), False)
    writer.watch_input(100)
    writer.watch_input(30)
    writer.watch_input(50)
    ring.fed(29)
    assert not job.take_input_watch()
    ring.fed(1)
    assert [job.take_input_watch(), job.take_input_watch()] == [True, False]
    writer.watch_input(100)
    assert not job.take_input_watch()
    assert [job.take_input_watch(over=True), job.take_input_watch(over=True)] == [True, False]
    writer.watch_input(100)
    ring.close()
    assert job.take_input_watch()
    job.close()
    writer.close()


def test_a_pipe_rests_for_longer_the_less_it_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadline, "time", SimpleNamespace(monotonic=lambda: 100.0))
    most = {3: INPUT_PIPE_SIZE, 4: PIPE_SIZE, 5: 65536}
    monkeypatch.setattr("guest.jobs.rest.enlarge", lambda pipe, size: size <= most[pipe])
    for none in (Rest(), Rest(5)):  # as where the user's pipes use too much already
        none.begin(100)
        assert none.left == 0
    for pipe in (3, 4):
        rest = Rest(pipe)
        assert rest.left == 0
        few, middling, all_of_it = most[pipe] // 3, 3 * most[pipe] // 5, most[pipe]
        lengths = []
        for moved in (few, few, few, few, few, few, few, middling, all_of_it, all_of_it):
            rest.begin(moved)
            lengths.append(round(1000 * rest.left))
        assert lengths == [1, 2, 4, 8, 16, 32, 32, 32, 16, 8]


def test_a_full_input_is_left_to_its_reader_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=100.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(deadline, "time", clock)
    job = Memory.make(SIZE, takes_input=True)
    feed = InputFeed(job, Changes(job))
    assert feed.pending() == (-1, 0)
    held = fcntl.fcntl(feed.reader, F_GETPIPE_SZ)
    assert feed.ring.take(0, memoryview(bytes(held + SIZE)), False)
    into, seconds = feed.pending()
    assert (into >= 0, seconds) == (True, 0)
    feed.feed()
    assert feed.pending()[1] > 0
    clock.now += 1
    assert feed.pending() == (into, 0)
    os.read(feed.reader, held)
    feed.feed()
    assert (feed.ring.behind, feed.pending()) == (0, (-1, 0))
    feed.close()
    job.close()


def test_the_last_input_is_not_lost_that_comes_with_the_end_while_the_job_looks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = Memory.make(SIZE, takes_input=True)
    daemon = other(job)
    feed = InputFeed(job, Changes(job))
    look, given = InputRing.next, []

    def next_and_then_more_comes(ring: InputRing) -> memoryview:
        piece = look(ring)
        if not given:
            assert daemon.input is not None
            given.append(daemon.input.take(0, memoryview(b"tail"), True))
        return piece

    monkeypatch.setattr(InputRing, "next", next_and_then_more_comes)
    feed.feed()
    feed.feed()  # as it is woken after each
    assert given == [True]
    assert (os.read(feed.reader, SIZE), os.read(feed.reader, SIZE)) == (b"tail", b"")
    feed.close()
    daemon.close()
    job.close()


class Ends:
    """Both ends of a socket; the keeper's knows the jobs in `jobs`."""

    def __init__(self, path: Path) -> None:
        self.jobs: dict[str, LiveJob] = {}
        self.path = str(path)
        self.server = MemoryServer(self.path, lambda job_id: self.jobs.get(job_id), lambda job: job.id.encode())
        self.client = MemoryClient(self.path)

    def close(self) -> None:
        self.client.close()
        self.server.close()


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[Ends]:
    made = Ends(tmp_path / "s")
    yield made
    made.close()


def test_a_keeper_that_is_not_there(tmp_path: Path) -> None:
    client = MemoryClient(str(tmp_path / "none"))
    assert client.view("00000000") is None
    client.close()


def test_only_root_may_ask(ends: Ends) -> None:
    assert os.stat(ends.path).st_mode & 0o777 == 0o600


@pytest.mark.parametrize("job_id", ["00000000", "", "x" * 8, "x" * 200, "ä" * 8, "\0" * 8])
def test_jobs_that_are_none(ends: Ends, job_id: str) -> None:
    assert ends.client.view(job_id) is None


def test_who_waits_is_told_when_the_keeper_goes(ends: Ends, tmp_path: Path) -> None:
    from test_jobs import Guest, pb

    guest = Guest(tmp_path, kept=False)
    info = guest.start("sleep 60")
    ends.jobs[info.job_id] = guest.service._store.get(info.job_id)  # type: ignore[union-attr]
    view = ends.client.view(info.job_id)
    assert view is not None
    assert (view.info, view.over) == (info.job_id.encode(), False)
    waiting = [
        threading.Thread(target=view.wait, args=(Deadline(PATIENCE), lambda: view.over), daemon=True) for _ in range(3)
    ]
    for thread in waiting:
        thread.start()
    ends.server.close()
    for thread in waiting:
        thread.join(PATIENCE / 2)
        assert not thread.is_alive()
    assert ends.client.view(info.job_id) is None
    guest.stub.Forget(pb.JobForgetRequest(job_id=info.job_id, kill=True))
    guest.close()


def test_who_does_not_hear_that_a_job_is_forgotten_is_left(ends: Ends) -> None:
    """Else it would keep the job's memory."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as deaf:
        deaf.settimeout(PATIENCE)
        deaf.connect(ends.path)
        deaf.send(b"00000000")
        assert deaf.recv(100) == b"?00000000"
        for number in range(100_000):
            ends.server.forgotten(SimpleNamespace(id=f"{number:08}"))  # type: ignore[arg-type]
            if not ends.server._peers:
                break
        heard = 0
        while (news := deaf.recv(100)) == f"-{heard:08}".encode():
            heard += 1
        assert (news, heard > 0) == (b"", True)
