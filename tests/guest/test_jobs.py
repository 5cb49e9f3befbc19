"""Jobs, through the Job service on a real server: output by offset, input, terminals, signals, ends."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import threading
import time
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from job_guest import Guest

from guest.jobs import memory
from guest.services.job_proxy import JobProxy
from vsrpc.errors import RpcError
from vsrpc.v1 import job_pb2 as pb

MIB = 1024 * 1024
SMALL = 64 * 1024
PATIENCE = 30.0
F_GETPIPE_SZ = 1032  # linux/fcntl.h
MAX_REPLY = 10 * MIB


@pytest.fixture(params=["daemon", "keeper"])
def guest(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Guest]:
    """Any command may run, in the daemon's process or by a keeper."""
    made = Guest(tmp_path, kept=request.param == "keeper")
    yield made
    made.close()


@pytest.fixture
def strict(tmp_path: Path) -> Iterator[Guest]:
    """With the built-in list of commands."""
    made = Guest(tmp_path, ())
    yield made
    made.close()


def refused(call: Callable[[Any], Any], request: Any) -> RpcError:
    with pytest.raises(RpcError) as caught:
        call(request)
    return caught.value


def reason(error: RpcError) -> int:
    from vsrpc.v1.error_pb2 import ErrorDetail

    return int(ErrorDetail.FromString(error.error_details[0].value).code)


@pytest.mark.parametrize(
    ("command", "out", "err", "code", "signal"),
    [
        ("echo hi", b"hi\n", b"", 0, ""),
        ("echo out; echo err >&2; exit 3", b"out\n", b"err\n", 3, ""),
        ("kill -9 $$", b"", b"", 137, "SIGKILL"),
        ("printf 'a\\000b\\377'", b"a\0b\xff", b"", 0, ""),
        ("cat", b"", b"", 0, ""),  # no input is an end, not a wait
        ("true", b"", b"", 0, ""),
    ],
)
def test_output_and_end(guest: Guest, command: str, out: bytes, err: bytes, code: int, signal: str) -> None:
    info = guest.start(command)
    assert guest.output(info.job_id)[:2] == (out, err)
    ended = guest.end(info.job_id)
    assert (ended.exit_code, ended.signal, ended.state, ended.failure) == (code, signal, pb.JOB_STATE_ENDED, "")
    assert ended.ended_ms >= ended.started_ms > 0


def test_the_start_brings_first_output(guest: Guest) -> None:
    reply = guest.stub.Start(pb.JobStartRequest(command="echo now; sleep 60", wait=60), timeout=90)
    assert (reply.stdout, reply.job.state) == (b"now\n", pb.JOB_STATE_RUNNING)
    guest.stub.Forget(pb.JobForgetRequest(job_id=reply.job.job_id, kill=True))


def test_output_comes_while_it_is_written(guest: Guest) -> None:
    fifo = f"{guest.directory}/go"
    os.mkfifo(fifo)
    info = guest.start(f"echo first; read line < {fifo}; echo $line")
    guest.until_written(info.job_id, 6)
    with open(fifo, "w") as go:
        go.write("second\n")
    assert guest.output(info.job_id)[0] == b"first\nsecond\n"
    assert guest.output(info.job_id, 6)[0] == b"second\n"  # and again, from anywhere


def test_any_number_of_callers_wait_at_a_time(guest: Guest) -> None:
    fifo = f"{guest.directory}/go"
    os.mkfifo(fifo)
    info = guest.start(f"cat {fifo}")
    waits = [guest.stub.Wait.future(pb.JobWaitRequest(job_id=info.job_id, wait=60), timeout=90) for _ in range(40)]
    assert guest.stub.List(pb.JobListRequest(), timeout=30).jobs[0].job_id == info.job_id  # workers are left
    with open(fifo, "w"):
        pass
    assert {call.result().job.state for call in waits} == {pb.JOB_STATE_ENDED}


def test_input_reaches_the_job_in_pieces_and_ends(guest: Guest) -> None:
    content = os.urandom(5 * MIB + 7)
    info = guest.start("md5sum", stdin=True)
    offset = 0
    while offset < len(content):
        piece = content[offset : offset + 3 * MIB]
        request = pb.JobWriteRequest(
            job_id=info.job_id, offset=offset, content=piece, eof=offset + len(piece) == len(content), wait=60
        )
        reply = guest.stub.Write(request, timeout=90)
        again = guest.stub.Write(request, timeout=90)  # as after a link that was lost: not taken twice
        assert again.offset >= reply.offset > offset
        offset = again.offset
    assert guest.output(info.job_id)[0].split()[0].decode() == hashlib.md5(content).hexdigest()


def test_input_may_come_in_any_order(guest: Guest) -> None:
    """Of calls under way at a time one may overtake another: it waits for the bytes before its own."""
    content = os.urandom(4 * MIB)
    info = guest.start("md5sum", stdin=True)
    requests = [
        pb.JobWriteRequest(job_id=info.job_id, offset=at, content=content[at : at + MIB], wait=60)
        for at in range(0, len(content), MIB)
    ]
    calls = [guest.stub.Write.future(request, timeout=90) for request in reversed(requests)]
    assert max(call.result().offset for call in calls) == len(content)
    guest.stub.Write(pb.JobWriteRequest(job_id=info.job_id, offset=len(content), eof=True))
    assert guest.output(info.job_id)[0].split()[0].decode() == hashlib.md5(content).hexdigest()


@pytest.mark.parametrize("read_before_waiting", [True, False])
def test_a_small_write_has_its_room_at_once(
    guest: Guest, monkeypatch: pytest.MonkeyPatch, read_before_waiting: bool
) -> None:
    """Also where that came just before it began to wait; it is not made to wait until there is much."""
    for where in ("guest.jobs.access.NAP", "guest.jobs.view.NAP"):  # which would mend lost news
        monkeypatch.setattr(where, 2 * PATIENCE)
    info = guest.start("sh -c 'echo; exec sleep 600'", stdin=True)
    guest.until_written(info.job_id, 1)
    pid = guest.stub.Wait(pb.JobWaitRequest(job_id=info.job_id)).job.pid
    started = time.monotonic()
    watched = threading.Event()
    with open(f"/proc/{pid}/fd/0", "rb", buffering=0) as its_input:
        full = memory.MAX_AHEAD + fcntl.fcntl(its_input, F_GETPIPE_SZ)
        filling = pb.JobWriteRequest(job_id=info.job_id, content=bytes(full), wait=PATIENCE)
        assert guest.stub.Write(filling, timeout=2 * PATIENCE).offset == full
        watch_input = memory.Memory.watch_input

        def watch(self: memory.Memory, room: int) -> None:
            watch_input(self, room)
            if read_before_waiting and not watched.is_set():
                its_input.read(4 * SMALL)
            watched.set()

        monkeypatch.setattr(memory.Memory, "watch_input", watch)
        request = pb.JobWriteRequest(job_id=info.job_id, offset=full, content=bytes(SMALL), wait=PATIENCE)
        call = guest.stub.Write.future(request, timeout=2 * PATIENCE)
        assert watched.wait(PATIENCE)
        if not read_before_waiting:
            its_input.read(4 * SMALL)
        assert call.result().offset == full + SMALL
        assert time.monotonic() - started < PATIENCE / 2
    guest.stub.Forget(pb.JobForgetRequest(job_id=info.job_id, kill=True))


def test_bytes_before_which_some_never_come(guest: Guest) -> None:
    info = guest.start("cat", stdin=True)
    late = pb.JobWriteRequest(job_id=info.job_id, offset=3, content=b"d")
    error = refused(guest.stub.Write, late)
    assert (reason(error), "offset 3 is beyond the 0 bytes" in error.details()) == (2001, True)
    late.wait = 0.2
    assert guest.stub.Write(late).offset == 0  # nothing was taken
    guest.stub.Write(pb.JobWriteRequest(job_id=info.job_id, content=b"abc"))
    guest.stub.Write(late)
    guest.stub.Write(pb.JobWriteRequest(job_id=info.job_id, offset=4, eof=True))
    assert guest.output(info.job_id)[0] == b"abcd"


def test_who_waits_for_bytes_in_front_of_its_own_does_not_wait_for_room(guest: Guest) -> None:
    info = guest.start("sleep 60", stdin=True)
    guest.stub.Write(pb.JobWriteRequest(job_id=info.job_id, content=bytes(2 * MIB)))  # more than a pipe holds
    late = pb.JobWriteRequest(job_id=info.job_id, offset=2 * MIB + 1, content=b"b", wait=60)
    call = guest.stub.Write.future(late, timeout=90)
    assert guest.stub.Write(pb.JobWriteRequest(job_id=info.job_id, offset=2 * MIB, content=b"a")).offset > 2 * MIB
    assert call.result(30).offset == 2 * MIB + 2
    guest.stub.Forget(pb.JobForgetRequest(job_id=info.job_id, kill=True))


def test_nobody_waits_to_write_to_a_job_that_reads_no_more(guest: Guest) -> None:
    info = guest.start("read line; exec 0<&-; echo closed; sleep 60", stdin=True)
    late = pb.JobWriteRequest(job_id=info.job_id, offset=100, content=b"b", wait=60)
    call = guest.stub.Write.future(late, timeout=90)
    guest.stub.Write(pb.JobWriteRequest(job_id=info.job_id, content=b"x\n"))
    guest.until_written(info.job_id, 7)
    guest.stub.Write(pb.JobWriteRequest(job_id=info.job_id, offset=2, content=b"x"))  # it shows
    assert call.result(30).closed
    guest.stub.Forget(pb.JobForgetRequest(job_id=info.job_id, kill=True))


def test_all_who_wait_for_output_are_told(guest: Guest) -> None:
    info = guest.start("cat", stdin=True)
    reads = [guest.stub.Read.future(pb.JobReadRequest(job_id=info.job_id, wait=60), timeout=90) for _ in range(20)]
    left = guest.stub.Read.future(pb.JobReadRequest(job_id=info.job_id, wait=60), timeout=90)
    left.cancel()
    guest.stub.Write(pb.JobWriteRequest(job_id=info.job_id, content=b"x"))
    assert {call.result().stdout for call in reads} == {b"x"}
    guest.stub.Write(pb.JobWriteRequest(job_id=info.job_id, offset=1, eof=True))
    assert guest.end(info.job_id).exit_code == 0


def test_nothing_is_left_open_of_jobs_that_are_forgotten(guest: Guest) -> None:
    def run() -> None:
        info = guest.start("cat; echo err >&2", stdin=True)
        guest.stub.Write(pb.JobWriteRequest(job_id=info.job_id, content=b"x", eof=True))
        assert guest.output(info.job_id)[:2] == (b"x", b"err\n")
        guest.stub.Forget(pb.JobForgetRequest(job_id=info.job_id))

    run()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        run()
    until = time.monotonic() + 30  # the news of an end may still be on its way to the daemon
    while len(os.listdir("/proc/self/fd")) > before and time.monotonic() < until:
        time.sleep(0.01)
    assert len(os.listdir("/proc/self/fd")) <= before


def test_input_that_nobody_reads(guest: Guest) -> None:
    info = guest.start("exec 0<&-; echo closed; sleep 60", stdin=True)
    guest.until_written(info.job_id, 7)
    reply = pb.JobWriteResponse()
    while not reply.closed:  # the first bytes may be taken before it shows
        request = pb.JobWriteRequest(job_id=info.job_id, offset=reply.offset, content=b"x" * 3 * MIB, wait=60)
        reply = guest.stub.Write(request, timeout=90)
    guest.stub.Forget(pb.JobForgetRequest(job_id=info.job_id, kill=True))


def test_a_daemon_that_is_left_behind_does_not_hold_the_job(guest: Guest) -> None:
    info = guest.start("setsid sleep 60 & echo $!")
    out, _, ended = guest.output(info.job_id)
    assert ended.exit_code == 0
    os.kill(int(out), 9)


def test_terminal(guest: Guest) -> None:
    terminal = pb.Terminal(rows=33, columns=77, type="vt100")
    command = (
        "stty size; echo $TERM; test -t 0 && test -t 1 && test -t 2 && tty; read x; stty size; echo last; exec sleep 60"
    )
    info = guest.start(command, terminal=terminal, stdin=True)
    guest.until_written(info.job_id, len("33 77\r\nvt100\r\n/dev/pts/0\r\n"))
    guest.stub.Resize(pb.JobResizeRequest(job_id=info.job_id, rows=50, columns=132))
    guest.stub.Write(pb.JobWriteRequest(job_id=info.job_id, content=b"x\r"))
    while b"50 132\r\nlast" not in guest.stub.Read(pb.JobReadRequest(job_id=info.job_id)).stdout:
        pass
    ended, keys = info, 2
    while not ended.output_ended:  # Ctrl-C, and again: a kernel under load was seen to sit on one for a minute
        guest.stub.Write(pb.JobWriteRequest(job_id=info.job_id, offset=keys, content=b"\x03"))
        ended = guest.stub.Wait(pb.JobWaitRequest(job_id=info.job_id, wait=2)).job
        keys += 1
    out, _, ended = guest.output(info.job_id)
    assert re.match(rb"33 77\r\nvt100\r\n/dev/pts/\d+\r\n", out)
    assert (ended.exit_code, ended.terminal) == (130, True)


def test_the_last_output_of_a_terminal_is_not_lost(guest: Guest) -> None:
    """What a command writes just before it ends, and the kernel has not moved yet."""
    for size in (3, 14_000, 100_000) * 5:
        info = guest.start(f"head -c {size} /dev/zero | tr '\\0' x", terminal=pb.Terminal())
        out, _, ended = guest.output(info.job_id)
        assert (len(out), out.strip(b"x"), ended.exit_code) == (size, b"", 0)


@pytest.mark.parametrize(("key", "code"), [(b"\x03", 130), (b"\x1c", 131)])
def test_keys_reach_a_pipeline_on_a_terminal(strict: Guest, key: bytes, code: int) -> None:
    """The allowed line `a | b` has no shell, whose session would have the terminal."""
    info = strict.start("echo ready; tail -f /dev/null | cat; echo not reached", terminal=pb.Terminal(), stdin=True)
    strict.until_written(info.job_id, len("ready\r\n"))
    strict.stub.Write(pb.JobWriteRequest(job_id=info.job_id, content=key))
    out, _, ended = strict.output(info.job_id)
    assert (ended.exit_code, b"not reached" in out) == (code, False)


def test_a_pipeline_on_a_terminal_reads_keys_in_raw_mode(tmp_path: Path) -> None:
    guest = Guest(tmp_path, ("stty", "cat", "head", "echo"))
    info = guest.start("stty raw -echo; echo ready; head -c 3 | cat", terminal=pb.Terminal(), stdin=True)
    guest.until_written(info.job_id, len("ready\n"))
    guest.stub.Write(pb.JobWriteRequest(job_id=info.job_id, content=b"a\x03b"))
    out, _, ended = guest.output(info.job_id)
    guest.close()
    assert (out[-3:], ended.exit_code) == (b"a\x03b", 0)


@pytest.mark.parametrize(
    ("signal", "command", "code", "name"),
    [
        ("TERM", "sleep 60", 143, "SIGTERM"),
        ("SIGINT", "echo ready; while :; do :; done; echo not reached", 130, "SIGINT"),
        ("9", "trap '' TERM; echo ready; sleep 60 & wait", 137, "SIGKILL"),
        ("USR1", "trap 'exit 7' USR1; echo ready; while :; do sleep 0.01; done", 7, ""),
    ],
)
def test_signals(guest: Guest, signal: str, command: str, code: int, name: str) -> None:
    info = guest.start(command)
    if "ready" in command:
        guest.until_written(info.job_id, 6)
    guest.stub.Signal(pb.JobSignalRequest(job_id=info.job_id, signal=signal))
    ended = guest.end(info.job_id)
    assert (ended.exit_code, ended.signal) == (code, name)


def test_a_signal_ends_a_list_of_commands(strict: Guest) -> None:
    """It may come when one has ended and the next has not begun."""
    for _ in range(20):
        info = strict.start("true; true; true; sleep 60; echo not reached")
        strict.stub.Signal(pb.JobSignalRequest(job_id=info.job_id, signal="INT"))
        assert strict.end(info.job_id).exit_code == 130
    assert strict.output(info.job_id)[0] == b""


def test_a_job_that_is_stopped_runs_nothing_until_it_is_continued(strict: Guest) -> None:
    """Also where the signal comes when one command has ended and the next has not begun."""
    for _ in range(10):
        info = strict.start("true; true; sleep 0.01; echo ran")
        strict.stub.Signal(pb.JobSignalRequest(job_id=info.job_id, signal="STOP"))
        written = strict.stub.Read(pb.JobReadRequest(job_id=info.job_id, wait=0.1)).stdout
        strict.stub.Signal(pb.JobSignalRequest(job_id=info.job_id, signal="CONT"))
        assert (written, strict.output(info.job_id)[0]) == (b"", b"ran\n")


def test_a_signal_that_ends_is_not_forgotten_for_one_that_does_not(guest: Guest) -> None:
    info = guest.start("echo ready; sleep 60; echo not reached", terminal=pb.Terminal())
    guest.until_written(info.job_id, len("ready\r\n"))
    for name in ("STOP", "TERM"):
        guest.stub.Signal(pb.JobSignalRequest(job_id=info.job_id, signal=name))
    with contextlib.suppress(RpcError):  # between two commands TERM has ended it already
        guest.stub.Signal(pb.JobSignalRequest(job_id=info.job_id, signal="CONT"))
    out, _, ended = guest.output(info.job_id)
    assert (ended.exit_code, b"not reached" in out) == (143, False)


def test_what_cannot_be_started_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No further thread, no further descriptor."""
    guest = Guest(tmp_path)
    assert guest.end(guest.start("true").job_id).exit_code == 0
    before = sorted(os.listdir("/proc/self/fd"))
    real, left = os.dup, [3]

    def dup(fd: int) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.EMFILE, "Too many open files")
        return real(fd)

    start = threading.Thread.start

    def no_thread(thread: threading.Thread) -> None:
        if thread.name.startswith("vsrpc-job-"):
            raise RuntimeError("can't start new thread")
        start(thread)

    with monkeypatch.context() as short:
        short.setattr(os, "dup", dup)
        error = refused(guest.stub.Start, pb.JobStartRequest(command="true", terminal=pb.Terminal(), stdin=True))
    assert (reason(error), "Too many open files; 0 run" in error.details()) == (5004, True), error.details()
    with monkeypatch.context() as short:
        short.setattr(threading.Thread, "start", no_thread)
        error = refused(guest.stub.Start, pb.JobStartRequest(command="true", stdin=True))
    assert (reason(error), "can't start new thread" in error.details()) == (5004, True), error.details()
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert len(guest.stub.List(pb.JobListRequest()).jobs) == 1
    guest.close()


def test_timeout_kills_the_tree(guest: Guest) -> None:
    info = guest.start("sh -c 'echo $$; sleep 60' & wait", timeout=0.5)
    out, _, ended = guest.output(info.job_id)
    assert (ended.exit_code, ended.timed_out) == (124, True)
    while os.path.exists(f"/proc/{int(out)}"):  # until it is reaped
        pass


def test_dropped_output_is_told(guest: Guest) -> None:
    info = guest.start(f"head -c {3 * MIB} /dev/zero; echo the end", log_size=64 * 1024)
    ended = guest.end(info.job_id)
    assert (ended.stdout_size, ended.stdout_start) == (3 * MIB + 8, 3 * MIB + 8 - 64 * 1024)
    reply = guest.stub.Read(pb.JobReadRequest(job_id=info.job_id))
    assert (reply.stdout_offset, reply.stdout[-8:]) == (ended.stdout_start, b"the end\n")


def test_a_job_waits_for_a_slow_reader(guest: Guest) -> None:
    content = bytes(range(256)) * 40_000
    path = Path(guest.directory, "content")
    path.write_bytes(content)
    info = guest.start(f"cat {path}", log_size=64 * 1024, hold_output=True)
    out, _, ended = guest.output(info.job_id)
    assert (out == content, ended.stdout_size) == (True, len(content))


def test_a_job_holds_what_another_call_asks_for(guest: Guest) -> None:
    size = 64 * 1024
    info = guest.start(f"head -c {2 * size} /dev/zero; sleep 600", log_size=size, hold_output=True)
    while info.stdout_size < size:  # not until_written, which takes what it has read
        info = guest.stub.Wait(pb.JobWaitRequest(job_id=info.job_id)).job
    ahead = pb.JobReadRequest(job_id=info.job_id, stdout_offset=size, stdout_behind=size, wait=0.2)
    assert guest.stub.Read(ahead).stdout == b""
    ahead.stdout_behind = 0
    ahead.wait = PATIENCE
    reply = guest.stub.Read(ahead, timeout=2 * PATIENCE)
    assert (reply.stdout_offset, len(reply.stdout) > 0) == (size, True)
    guest.stub.Forget(pb.JobForgetRequest(job_id=info.job_id, kill=True))


def test_a_terminal_waits_for_a_slow_reader(guest: Guest) -> None:
    command = "head -c 300000 /dev/zero | tr '\\0' x"
    info = guest.start(command, log_size=64 * 1024, hold_output=True, terminal=pb.Terminal())
    out, _, ended = guest.output(info.job_id)
    assert (out == b"x" * 300_000, ended.stdout_size) == (True, 300_000)


def test_a_job_that_nobody_reads_any_more_does_not_wait(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "ATTENTION", 0.2)
    guest = Guest(tmp_path)
    try:
        info = guest.start(f"head -c {3 * MIB} /dev/zero", log_size=64 * 1024, hold_output=True)
        assert guest.end(info.job_id).stdout_start == 3 * MIB - 64 * 1024
    finally:
        guest.close()


def test_forgetting_a_job_that_waits_for_a_reader(guest: Guest) -> None:
    """What its pipe still holds finds no room, and nobody will make any."""
    info = guest.start("yes", log_size=64 * 1024, hold_output=True)
    guest.until_written(info.job_id, 64 * 1024)
    begun = time.monotonic()
    guest.stub.Forget(pb.JobForgetRequest(job_id=info.job_id, kill=True), timeout=100)
    assert time.monotonic() - begun < memory.ATTENTION / 2
    assert not guest.stub.List(pb.JobListRequest()).jobs


@pytest.fixture
def passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Guest, list[str]]]:
    """With a keeper, and the names of the calls that went to it."""
    made, names = Guest(tmp_path, kept=True), []
    assert isinstance(made.service, JobProxy)
    pass_on = made.service._pass_on

    def noted(name: str, *rest: Any) -> Any:
        names.append(name)
        return pass_on(name, *rest)

    monkeypatch.setattr(made.service, "_pass_on", noted)
    yield made, names
    made.close()


def memories() -> int:
    """How many descriptors of jobs' memory this process has."""
    links = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            links.append(os.readlink(f"/proc/self/fd/{fd}"))
    return sum("memfd:vsrpc-job" in link for link in links)


def test_what_an_ended_job_has_left_is_not_asked_of_the_keeper(passed_on: tuple[Guest, list[str]]) -> None:
    guest, names = passed_on
    before = memories()
    info = guest.start("head -c 300000 /dev/zero; echo end >&2; read x; exit 7", stdin=True, hold_output=True)
    guest.until_written(info.job_id, 300_000)
    guest.stub.Write(pb.JobWriteRequest(job_id=info.job_id, content=b"\n", eof=True))
    out, err, ended = guest.output(info.job_id)
    assert (out, err, ended.exit_code) == (bytes(300_000), b"end\n", 7)
    assert guest.output(info.job_id) == (out, err, ended)
    assert set(names) == {"Start"}
    assert guest.end(info.job_id) == ended
    assert memories() > before
    guest.stub.Forget(pb.JobForgetRequest(job_id=info.job_id))
    assert reason(refused(guest.stub.Read, pb.JobReadRequest(job_id=info.job_id))) == 3011
    while memories() > before:  # the news is on its way
        pass


def test_an_end_that_cannot_be_described(passed_on: tuple[Guest, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked of the keeper then."""

    def describe(job: Any) -> bytes:
        raise MemoryError

    guest, names = passed_on
    guest.end(guest.start("true").job_id)  # a keeper has been started
    assert guest._keeper is not None
    monkeypatch.setattr(guest._keeper._store, "_describe", describe)
    info = guest.start("read x; echo hi; exit 7", stdin=True)
    guest.stub.Write(pb.JobWriteRequest(job_id=info.job_id, content=b"\n", eof=True))
    out, _, ended = guest.output(info.job_id)
    assert (out, ended.exit_code) == (b"hi\n", 7)
    assert "Read" in names


def test_an_end_that_does_not_fit_into_the_memory(passed_on: tuple[Guest, list[str]]) -> None:
    """As with a keeper of an earlier version."""
    guest, names = passed_on
    info = guest.start(f"read x; echo hi; exit 7 # {'x' * 62_000}", stdin=True)
    guest.stub.Write(pb.JobWriteRequest(job_id=info.job_id, content=b"\n", eof=True))
    out, _, ended = guest.output(info.job_id)
    assert (out, ended.exit_code, len(ended.command)) == (b"hi\n", 7, len(info.command))
    assert "Read" in names


def test_forgetting(guest: Guest) -> None:
    info = guest.start("sleep 60")
    assert reason(refused(guest.stub.Forget, pb.JobForgetRequest(job_id=info.job_id))) == 3012
    guest.stub.Forget(pb.JobForgetRequest(job_id=info.job_id, kill=True))
    assert not guest.stub.List(pb.JobListRequest()).jobs
    guest.stub.Forget(pb.JobForgetRequest(job_id=info.job_id))  # no error


@pytest.mark.parametrize(
    ("rpc", "fields", "number", "text"),
    [
        ("Start", {}, 2003, "command is missing"),
        ("Start", {"command": "a", "argv": ["b"]}, 2001, "give one of them"),
        ("Start", {"command": "a", "login_shell": True}, 2001, "give one of them"),
        ("Start", {"argv": ["/no/such"]}, 1003, "/no/such"),
        ("Start", {"command": "true", "user": "nobody-at-all"}, 2001, "no such user in the guest: nobody-at-all"),
        ("Start", {"command": "true", "working_dir": "/no/such"}, 3002, "/no/such"),
        ("Start", {"command": "true", "working_dir": "tmp"}, 2001, "tmp is not an absolute path"),
        ("Start", {"command": "true", "timeout": 0.0}, 2001, "timeout: 0 is not more than 0"),
        ("Start", {"command": "true", "log_size": 1}, 2001, "log_size: 1 is not between 65536"),
        ("Start", {"command": "true", "terminal": {"rows": -1}}, 2001, "rows: -1"),
        ("Start", {"command": "true", "memory_limit": 4096}, 2001, "memory_limit: 4096 is not between 1048576"),
        ("Start", {"command": "true", "process_limit": -1}, 2001, "process_limit: -1 is not between 1"),
        ("Start", {"command": "true", "process_limit": 9}, 5006, "Start it without memory_limit and process_limit"),
        ("Start", {"command": "true", "terminal": {"type": "../x"}}, 2001, "'../x' is not a terminal's name"),
        ("Start", {"command": "true", "wait": float("nan")}, 2001, "wait: nan"),
        ("Read", {"job_id": "none"}, 3011, "No such job: 'none'"),
        ("Write", {"job_id": "none"}, 3011, "No such job: 'none'"),
        ("Signal", {"job_id": "none", "signal": "TERM"}, 3011, "No such job: 'none'"),
        ("Resize", {"job_id": "none"}, 3011, "No such job: 'none'"),
        ("Wait", {"job_id": "none"}, 3011, "No such job: 'none'"),
        ("Read", {"stdout_offset": 4}, 2001, "stdout_offset 4 is not between 0 and 3"),
        ("Read", {"stderr_offset": -1}, 2001, "stderr_offset -1 is not between 0 and 0"),
        ("Read", {"stdout_offset": 2, "stdout_behind": 3}, 2001, "stdout_behind 3 is not between 0 and 2"),
        ("Read", {"stdout_behind": -1}, 2001, "stdout_behind -1 is not between 0 and 0"),
        ("Read", {"max_bytes": -1}, 2001, "max_bytes is -1"),
        ("Write", {"content": b"x"}, 3012, "was started without input"),
        ("Signal", {"signal": "FOO"}, 2001, "No such signal: 'FOO' (there are "),
        ("Signal", {"signal": "0"}, 2001, "No such signal: '0'"),
        ("Signal", {}, 2003, "signal is missing"),
        ("Signal", {"signal": "TERM"}, 3012, "has no process any more"),
        ("Resize", {"rows": 3}, 3012, "has no terminal"),
        ("Resize", {"rows": 70000}, 2001, "rows: 70000 is not between 0 and 65535"),
    ],
)
def test_bad_input(guest: Guest, rpc: str, fields: dict[str, Any], number: int, text: str) -> None:
    info = guest.start("echo hi")
    guest.end(info.job_id)
    if rpc != "Start":
        fields = {"job_id": info.job_id, **fields}
    request = {"Start": pb.JobStartRequest, "Read": pb.JobReadRequest, "Write": pb.JobWriteRequest}.get(rpc)
    request = request or {"Signal": pb.JobSignalRequest, "Resize": pb.JobResizeRequest, "Wait": pb.JobWaitRequest}[rpc]
    error = refused(getattr(guest.stub, rpc), request(**fields))
    assert text in error.details()
    assert reason(error) == number


@pytest.mark.parametrize(
    ("first", "then", "text"),
    [
        ({"offset": 1, "content": b"x"}, None, "offset 1 is beyond the 0 bytes"),
        ({"content": b"ab", "eof": True}, {"offset": 2, "content": b"c"}, "the input has ended after 2 bytes"),
        ({"offset": -1}, None, "offset is -1"),
    ],
)
def test_wrong_input(guest: Guest, first: dict[str, Any], then: dict[str, Any] | None, text: str) -> None:
    info = guest.start("sleep 60", stdin=True)
    if then:
        guest.stub.Write(pb.JobWriteRequest(job_id=info.job_id, **first))
    error = refused(guest.stub.Write, pb.JobWriteRequest(job_id=info.job_id, **(then or first)))
    assert text in error.details()
    guest.stub.Forget(pb.JobForgetRequest(job_id=info.job_id, kill=True))


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"command": "rm x"}, "Command not allowed: rm"),
        ({"argv": ["sh"]}, "Command not allowed: sh"),
        ({"command": "cat /etc/shadow"}, "Path not in allowed list: /etc/shadow"),
        ({"command": "echo $(id)"}, "command substitution"),
        ({"login_shell": True}, "security.login_shell"),
        ({"command": "top", "terminal": {}}, "top "),
        ({"command": "true", "env": {"LD_PRELOAD": "/x"}}, "LD_PRELOAD"),
        ({"command": "true", "working_dir": "/root"}, "/root"),
    ],
)
def test_policy(strict: Guest, fields: dict[str, Any], text: str) -> None:
    error = refused(strict.stub.Start, pb.JobStartRequest(**fields))
    assert (error.code().name, reason(error)) == ("PERMISSION_DENIED", 4001)
    assert text in error.details()
    assert not strict.stub.List(pb.JobListRequest()).jobs


def test_a_later_part_of_a_line_that_is_refused_when_its_turn_comes(strict: Guest) -> None:
    info = strict.start(f"echo a > {strict.directory}/x && cat {strict.directory}/*")
    assert strict.output(info.job_id)[0] == b"a\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts processes of others")
def test_another_user(guest: Guest) -> None:
    info = guest.start("id -un; id -gn; echo $HOME $USER", user="nobody")
    assert guest.output(info.job_id)[0] == b"nobody\nnogroup\n/nonexistent nobody\n"
    assert guest.end(info.job_id).user == "nobody"


def test_no_more_jobs_than_allowed(tmp_path: Path) -> None:
    guest = Guest(tmp_path, max_jobs=2)
    try:
        first = guest.start("sleep 60")
        guest.start("sleep 60")
        error = refused(guest.stub.Start, pb.JobStartRequest(command="true"))
        assert "2 jobs run already" in error.details()
        guest.stub.Forget(pb.JobForgetRequest(job_id=first.job_id, kill=True))
        guest.start("true")
    finally:
        guest.close()


def test_many_jobs_at_a_time(guest: Guest) -> None:
    started = [guest.start("cat", stdin=True).job_id for _ in range(200)]
    for number, job_id in enumerate(started):
        guest.stub.Write(pb.JobWriteRequest(job_id=job_id, content=str(number).encode(), eof=True))
    assert [guest.output(job_id)[0] for job_id in started] == [str(number).encode() for number in range(200)]


def test_stopping_ends_jobs_and_leaves_nothing(tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    guest = Guest(tmp_path)
    info = guest.start("echo $$; sleep 60", stdin=True, terminal=pb.Terminal())
    guest.until_written(info.job_id, 2)
    pid = guest.stub.Wait(pb.JobWaitRequest(job_id=info.job_id)).job.pid
    guest.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert set(os.listdir("/proc/self/fd")) == before


def test_jobs_outlive_the_daemon_and_the_keeper_is_started_when_needed(tmp_path: Path) -> None:
    first = Guest(tmp_path, kept=True)
    assert not first.stub.List(pb.JobListRequest()).jobs  # nobody runs yet
    info = first.start("read x; echo $x", stdin=True)
    first.close(keeper=False)
    second = Guest(tmp_path, kept=True)
    second.stub.Write(pb.JobWriteRequest(job_id=info.job_id, content=b"still here\n"))
    assert second.output(info.job_id)[0] == b"still here\n"
    second.close()
    first.close_keeper()


def test_a_keeper_judges_by_the_configuration_as_it_is_now(tmp_path: Path) -> None:
    guest = Guest(tmp_path, kept=True)
    assert guest.end(guest.start("exit 3").job_id).exit_code == 3
    file = tmp_path / "guest.yaml"
    file.write_text("security: {allowed_commands: [id]}\n")
    assert "Command not allowed: exit" in refused(guest.stub.Start, pb.JobStartRequest(command="exit 3")).details()
    file.write_text("security: {allowed_commands: ls}\n")
    assert "guest.yaml:1: " in refused(guest.stub.Start, pb.JobStartRequest(command="exit 3")).details()
    file.write_text("security: {allowed_commands: null} # again\n")
    assert guest.end(guest.start("exit 3").job_id).exit_code == 3
    guest.close()


def test_a_keeper_leaves_when_it_has_nothing_to_keep(tmp_path: Path) -> None:
    guest = Guest(tmp_path, kept=True)
    guest.keeper_idle_seconds = 0.2
    guest.start_keeper()
    info = guest.start("true")
    guest.end(info.job_id)
    guest.stub.Forget(pb.JobForgetRequest(job_id=info.job_id))
    keeper_thread = guest._threads[-1]
    keeper_thread.join(30)
    assert not keeper_thread.is_alive()
    assert guest.end(guest.start("exit 4").job_id).exit_code == 4  # by a new one
    guest.close()


def test_waiting_ends_with_the_call(guest: Guest) -> None:
    info = guest.start("sleep 60")
    began = time.monotonic()
    call = guest.stub.Wait.future(pb.JobWaitRequest(job_id=info.job_id, wait=600), timeout=700)
    call.cancel()
    assert guest.stub.List(pb.JobListRequest()).jobs
    guest.stub.Forget(pb.JobForgetRequest(job_id=info.job_id, kill=True))
    assert time.monotonic() - began < 60  # not for the 600 s
