"""What is left of calls that have ended: nothing that waits in memory, with all content, until it is looked for."""

from __future__ import annotations

import gc
import socket
import threading
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

import guest.daemon
import vsrpc
from guest import config
from guest.daemon import Daemon
from guest.files.writing import TreeWriter
from guest.keeper import Keeper
from guest.services.job_proxy import JobProxy
from vsrpc.calls import CallFuture
from vsrpc.context import ServicerContext
from vsrpc.errors import RpcError
from vsrpc.incoming import IncomingCall
from vsrpc.transports import listener
from vsrpc.v1 import file_pb2, job_pb2, shell_pb2
from vsrpc.v1.file_vsrpc import FileStub
from vsrpc.v1.job_vsrpc import JobStub
from vsrpc.v1.shell_vsrpc import ShellStub
from vsrpc.v1.system_vsrpc import SystemStub

SIZE = 100_000
CALLS = (IncomingCall, ServicerContext, TreeWriter, CallFuture, RpcError)


@pytest.fixture
def channel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[vsrpc.Channel]:
    """To a daemon, whose jobs a keeper runs, in this process."""
    path, threads = f"{tmp_path}/guest.yaml", []
    Path(path).write_text(
        f"security: {{allowed_commands: null, allowed_paths: ['{tmp_path}/']}}\naudit: {{file: {tmp_path}/audit}}\n"
    )
    settings = config.load(path)
    keeper = Keeper(settings, path, 600.0)
    monkeypatch.setattr(
        guest.daemon,
        "JobProxy",
        lambda policy, limits, size: JobProxy(policy, limits, size, f"{tmp_path}/keeper.sock", lambda: None),
    )
    daemon = Daemon(settings, path, job_keeper=True)
    for each, name in ((keeper, "keeper.sock"), (daemon, "sock")):
        threads.append(threading.Thread(target=each.serve, args=(listener(f"unix:{tmp_path}/{name}"),)))
        threads[-1].start()
    try:
        with vsrpc.connect(f"unix:{tmp_path}/sock", vsrpc.ChannelOptions(max_retries=0)) as channel:
            SystemStub(channel).Ping()
            yield channel
    finally:
        daemon.stop()
        keeper.stop()
        for thread in threads:
            thread.join()


def execute(**fields: Any) -> Callable[[vsrpc.Channel, Path], Any]:
    return lambda channel, place: ShellStub(channel).Exec(shell_pb2.ExecRequest(**fields))


def file_call(name: str, request: Any, **fields: Any) -> Callable[[vsrpc.Channel, Path], Any]:
    """A call of File; `path` is in the place."""
    return lambda channel, place: getattr(FileStub(channel), name)(
        request(**{**fields, "path": f"{place}/{fields['path']}"})
    )


def write_tree(channel: vsrpc.Channel, place: Path) -> None:
    files = [file_pb2.NewFile(name=b"tree", type="directory"), file_pb2.NewFile(name=b"tree/file", size=SIZE)]
    request = file_pb2.WriteFilesRequest(path=str(place), content=bytes(SIZE), files=files)
    assert FileStub(channel).WriteFiles(request).written == 2


def no_timeout(channel: vsrpc.Channel, place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        client.connect(f"{place}/sock")
        head = "POST /vsrpc.v1.System/Ping HTTP/1.1\r\nHost: x\r\nConnect-Timeout-Ms: soon\r\nContent-Length: 100000"
        client.sendall(
            head.encode() + b"\r\nContent-Type: application/proto\r\nConnection: close\r\n\r\n" + bytes(SIZE)
        )
        with client.makefile("rb") as answer:
            assert answer.read().startswith(b"HTTP/1.1 400 ")


def run_job(channel: vsrpc.Channel, place: Path) -> None:
    stub = JobStub(channel)
    job = stub.Start(job_pb2.JobStartRequest(argv=["cat"], stdin=True)).job.job_id
    reading = stub.Read.future(job_pb2.JobReadRequest(job_id=job, wait=30))
    stub.Write(job_pb2.JobWriteRequest(job_id=job, content=bytes(SIZE), eof=True))
    assert reading.result().stdout
    stub.Wait(job_pb2.JobWaitRequest(job_id=job, wait=30))
    stub.Forget(job_pb2.JobForgetRequest(job_id=job))


@pytest.mark.parametrize(
    ("call", "ends"),
    [
        (lambda channel, place: SystemStub(channel).Info(), ""),
        (lambda channel, place: SystemStub(channel).Info(timeout=1e-9), "DEADLINE_EXCEEDED"),
        (no_timeout, ""),
        (execute(command="echo hi"), ""),
        (execute(command="no-such-program"), ""),
        (execute(command="sleep 60", timeout=0.01), "DEADLINE_EXCEEDED"),
        (file_call("Upload", file_pb2.UploadRequest, path="new", content=bytes(SIZE)), ""),
        (file_call("Upload", file_pb2.UploadRequest, path="no/new", content=bytes(SIZE)), "NOT_FOUND"),
        (file_call("Download", file_pb2.DownloadRequest, path="file"), ""),
        (file_call("Download", file_pb2.DownloadRequest, path="../etc/shadow"), "PERMISSION_DENIED"),
        (file_call("DownloadChunk", file_pb2.DownloadChunkRequest, path="file", size=SIZE), ""),
        (file_call("List", file_pb2.ListRequest, path=""), ""),
        (file_call("ReadFiles", file_pb2.ReadFilesRequest, path="", names=[b"file"]), ""),
        (write_tree, ""),
        (file_call("Tail", file_pb2.TailRequest, path="file"), ""),
        (run_job, ""),
        (
            lambda channel, place: JobStub(channel).Write(job_pb2.JobWriteRequest(job_id="x", content=bytes(SIZE))),
            "NOT_FOUND",
        ),
    ],
)
def test_nothing_of_a_call_refers_to_itself(
    channel: vsrpc.Channel,
    tmp_path: Path,
    call: Callable[[vsrpc.Channel, Path], Any],
    ends: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "file").write_bytes(bytes(SIZE))
    collect = gc.collect
    monkeypatch.setattr(gc, "collect", lambda: 0)  # which an idle daemon calls

    def calls() -> None:
        for _ in range(3):
            status = ""
            try:
                call(channel, tmp_path)
            except vsrpc.RpcError as error:
                status = error.code().name
            assert status == ends
        SystemStub(channel).Ping()

    def left() -> list[type]:
        collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            calls()
            collect()
            return [type(each) for each in gc.garbage if type(each) in CALLS]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()

    calls()
    assert not left()
