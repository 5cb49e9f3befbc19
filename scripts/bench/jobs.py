"""Section `jobs`: how soon a byte of output or a key's echo is here, and how fast output, input and `cp` stream."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Callable

import vsrpc
from host.client import VirtioRPCClient
from host.jobs import HELD_SIZE, INPUT_SIZE, RemoteJob
from scripts.bench.bench import MB, Bench, megabytes
from scripts.bench.place import VMPlace
from scripts.bench.raw import CONTROL, GUEST_DIRECTORY, PROGRAM, RawPort
from scripts.bench.report import Row, Table
from scripts.bench.rounds import Sample, column, interleave, percentile, timed
from scripts.vm import VM
from vsrpc.v1.job_pb2 import JobForgetRequest, JobReadRequest, JobStartRequest, JobWriteRequest, Terminal
from vsrpc.v1.job_vsrpc import JobStub
from vsrpc.v1.system_vsrpc import SystemStub

BYTES = 100  # a round
OUTPUT_RATIO, KEY_RATIO = 2.0, 3.0  # to a ping's p50
SHARE = 0.9  # of what upload and download move
SIZE = 100 * MB
_TURNS = 2  # of streams in a round: they differ by a fifth from one to the next
PING, OUTPUT = "ping", "a byte of output"
TOLD = "half of that program's echo"
THROUGH, KEY = "a byte to `cat` and back", "a key, echoed by a terminal"
TTY = Terminal(rows=24, columns=80)
UPLOAD, DOWNLOAD, COPY, STREAM = "upload", "download", "cp", "exec"

Moves = list[tuple[str, Callable[[], object]]]


def run(bench: Bench) -> list[Table]:
    """Two tables: delays, and MB/s."""
    return [_delays(bench), _streams(bench)]


def _delays(bench: Bench) -> Table:
    turns = [(PING, partial(_ping, bench)), (THROUGH, partial(_echo, bench, None)), (KEY, partial(_echo, bench, TTY))]
    notes = ["a Job.Read waits for it already, as one does where output is followed"]
    if bench.peers is not None and isinstance(bench.place, VMPlace):
        turns.append((OUTPUT, partial(_output, bench, bench.place.vm)))
        notes.append(f"{OUTPUT}: which the raw port's program, as a job, writes when it is told to over another port,")
        notes.append("from when it is told until it is here, less half of that program's echo, which tells it")
    found = interleave("bytes of jobs", turns, bench.rounds, warm_up=True)
    table = Table("delays of jobs", [], notes)
    for which in ("p50", "p99"):
        rows = {name: Row(which, name, "ms", column(found[name], which)) for name, _ in turns}
        for name, ratio in ((OUTPUT, OUTPUT_RATIO), (KEY, KEY_RATIO), (THROUGH, None)):
            if name in rows:
                rows[name].compare(rows[PING], bench.goal("<=", ratio) if ratio and which == "p50" else None)
        table.rows += rows.values()
    if OUTPUT in found:
        table.rows.append(Row("p50", TOLD, "ms", column(found[OUTPUT], "told")))
    return table


def _ping(bench: Bench) -> Sample:
    with vsrpc.connect(bench.place.target) as channel:
        stub = SystemStub(channel)
        stub.Ping()
        return timed(stub.Ping, BYTES)


def _echo(bench: Bench, terminal: Terminal | None) -> Sample:
    """A byte to `cat`, and back from it or, before that, from its terminal."""
    request = JobStartRequest(argv=["cat"], stdin=True, terminal=terminal, timeout=600)

    def say(stub: JobStub, job: str, sent: int) -> Callable[[], object]:
        return stub.Write.future(JobWriteRequest(job_id=job, offset=sent, content=b"x")).result

    with vsrpc.connect(bench.place.target) as channel:
        return _bytes(channel, request, say)


def _output(bench: Bench, vm: VM) -> Sample:
    """A byte that a job writes because something else than a call tells it to."""

    def say(stub: JobStub, job: str, sent: int) -> Callable[[], object]:
        if not sent:
            command = f"cd {GUEST_DIRECTORY} && exec {' '.join(PROGRAM)} {CONTROL}\n"
            stub.Write(JobWriteRequest(job_id=job, offset=0, content=command.encode(), eof=True))
            port.ready()
        port.byte()
        return lambda: None

    request = JobStartRequest(login_shell=True, stdin=True, timeout=600)
    with vsrpc.connect(bench.place.target) as channel, RawPort(vm.control_socket) as port:
        return _bytes(channel, request, say, lambda: timed(port.echo, BYTES)["p50"] / 2)


def _bytes(
    channel: vsrpc.Channel,
    request: JobStartRequest,
    say: Callable[[JobStub, str, int], Callable[[], object]],
    telling: Callable[[], float] = lambda: 0.0,
) -> Sample:
    """How long it takes from `say`, which makes the job write a byte, until that is here; less the milliseconds of
    `telling` it to."""
    stub, ping = JobStub(channel), SystemStub(channel).Ping
    job = stub.Start(request).job.job_id
    times = []
    for sent in range(BYTES + 1):
        reading = stub.Read.future(JobReadRequest(job_id=job, stdout_offset=sent, wait=30))
        ping()  # comes after it, and so is answered when it waits
        started = time.perf_counter()
        said = say(stub, job, sent)
        if reading.result().stdout != b"x":
            raise RuntimeError("the job wrote something else")
        times.append(1000 * (time.perf_counter() - started))
        said()
    told = telling()
    stub.Forget(JobForgetRequest(job_id=job, kill=True))
    del times[0]
    return {"p50": percentile(times, 50) - told, "p99": percentile(times, 99) - told, "told": told}


def _streams(bench: Bench) -> Table:
    size = SIZE if SIZE in bench.sizes else bench.sizes[-1]
    local = bench.source(size)
    rows: list[Row] = []
    with VirtioRPCClient(bench.place.target) as client:
        client.chunked_upload_file(str(local), bench.path("stream"))
        for reference, turns in ((UPLOAD, _up(bench, client, local, size)), (DOWNLOAD, _down(bench, client, size))):
            contenders = [(name, partial(_rate, bench, size, move)) for name, move in turns]
            found = interleave(f"streams, {reference}", contenders, _TURNS * bench.rounds, warm_up=True)
            work = f"{reference} {megabytes(size)}"
            some = {name: Row(work, name, "MB/s", column(of, "rate")) for name, of in found.items()}
            for name in (COPY, STREAM):
                some[name].compare(some[reference], bench.goal(">=", SHARE))
            rows += some.values()
    bench.place.settle(bench.path("stream"), bench.path("streamed"))
    local.unlink()
    notes = [
        "exec: `cat > FILE` with the file as its input, and `cat FILE` with its output into a file; nothing digested"
    ]
    return Table("streams", rows, notes)


def _up(bench: Bench, client: VirtioRPCClient, local: Path, size: int) -> Moves:
    target = bench.path("streamed")

    def stream() -> None:
        job, _ = RemoteJob.start(client.calls, {"command": f"cat > {target}", "stdin": True, "timeout": 600})
        with local.open("rb") as source:
            job.feed(lambda: source.read(INPUT_SIZE))
        if job.follow(lambda output: None)["exit_code"]:
            raise RuntimeError("`cat` failed in the guest")
        job.forget()
        _check(bench.place.size(target), size)

    return [
        (UPLOAD, lambda: client.chunked_upload_file(str(local), target)),
        (COPY, lambda: client.copy(str(local), f"guest:{target}", resume=False)),
        (STREAM, stream),
    ]


def _down(bench: Bench, client: VirtioRPCClient, size: int) -> Moves:
    source, target = bench.path("stream"), bench.work / "target"

    def stream() -> None:
        fields = {"command": f"cat {source}", "hold_output": True, "log_size": HELD_SIZE, "timeout": 600}
        job, _ = RemoteJob.start(client.calls, fields)
        with target.open("wb", buffering=0) as stream:
            job.follow(lambda output: stream.write(output.content))
        job.forget()
        _check(target.stat().st_size, size)

    return [
        (DOWNLOAD, lambda: client.chunked_download_file(source, str(target))),
        (COPY, lambda: client.copy(f"guest:{source}", str(target), resume=False)),
        (STREAM, stream),
    ]


def _check(moved: int, size: int) -> None:
    if moved != size:
        raise RuntimeError(f"{moved} bytes came, and {size} were sent")


def _rate(bench: Bench, size: int, move: Callable[[], object]) -> Sample:
    (bench.work / "target").unlink(missing_ok=True)
    bench.place.settle(bench.path("streamed"))
    started = time.perf_counter()
    move()
    return {"rate": size / MB / (time.perf_counter() - started)}
