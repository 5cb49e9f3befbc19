"""What is left of calls that have ended: nothing that waits in memory, with all content, until it is looked for."""

from __future__ import annotations

import gc
import threading
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

import vsrpc
from guest.config import AllowedPath, AuditConfig, GuestConfig, SecurityConfig
from guest.daemon import Daemon
from vsrpc.context import ServicerContext
from vsrpc.incoming import IncomingCall
from vsrpc.transports import listener
from vsrpc.v1 import file_pb2, job_pb2, shell_pb2
from vsrpc.v1.file_vsrpc import FileStub
from vsrpc.v1.job_vsrpc import JobStub
from vsrpc.v1.shell_vsrpc import ShellStub
from vsrpc.v1.system_vsrpc import SystemStub

SIZE = 100_000


@pytest.fixture
def channel(tmp_path: Path) -> Iterator[vsrpc.Channel]:
    security = SecurityConfig(allowed_commands=None, allowed_paths=(AllowedPath(f"{tmp_path}/"),))
    daemon = Daemon(GuestConfig(security=security, audit=AuditConfig(file=f"{tmp_path}/audit")), "/no/such/file")
    serving = threading.Thread(target=daemon.serve, args=(listener(f"unix:{tmp_path}/sock"),))
    serving.start()
    try:
        with vsrpc.connect(f"unix:{tmp_path}/sock", vsrpc.ChannelOptions(max_retries=0)) as channel:
            SystemStub(channel).Ping()
            yield channel
    finally:
        daemon.stop()
        serving.join()


def execute(**fields: Any) -> Callable[[vsrpc.Channel, Path], Any]:
    return lambda channel, place: ShellStub(channel).Exec(shell_pb2.ExecRequest(**fields))


def file_call(name: str, request: Any, **fields: Any) -> Callable[[vsrpc.Channel, Path], Any]:
    """A call of File; `path` is in the place."""
    return lambda channel, place: getattr(FileStub(channel), name)(
        request(**{**fields, "path": f"{place}/{fields['path']}"})
    )


def run_job(channel: vsrpc.Channel, place: Path) -> None:
    stub = JobStub(channel)
    job = stub.Start(job_pb2.JobStartRequest(argv=["cat"], stdin=True)).job.job_id
    reading = stub.Read.future(job_pb2.JobReadRequest(job_id=job, wait=30))
    stub.Write(job_pb2.JobWriteRequest(job_id=job, content=bytes(SIZE), eof=True))
    assert reading.result().stdout
    stub.Wait(job_pb2.JobWaitRequest(job_id=job, wait=30))
    stub.Forget(job_pb2.JobForgetRequest(job_id=job))


@pytest.mark.parametrize(
    "call",
    [
        lambda channel, place: SystemStub(channel).Info(),
        execute(command="echo hi"),
        execute(command="no-such-program"),
        execute(command="sleep 60", timeout=0.01),
        file_call("Upload", file_pb2.UploadRequest, path="new", content=bytes(SIZE)),
        file_call("Upload", file_pb2.UploadRequest, path="no/new", content=bytes(SIZE)),
        file_call("Download", file_pb2.DownloadRequest, path="file"),
        file_call("Download", file_pb2.DownloadRequest, path="../etc/shadow"),
        file_call("DownloadChunk", file_pb2.DownloadChunkRequest, path="file", size=SIZE),
        file_call("List", file_pb2.ListRequest, path=""),
        file_call("ReadFiles", file_pb2.ReadFilesRequest, path="", names=[b"file"]),
        file_call(
            "WriteFiles",
            file_pb2.WriteFilesRequest,
            path="",
            content=bytes(SIZE),
            files=[file_pb2.NewFile(name=b"tree", type="directory"), file_pb2.NewFile(name=b"tree/file", size=SIZE)],
        ),
        file_call("Tail", file_pb2.TailRequest, path="file"),
        run_job,
    ],
)
def test_nothing_of_a_call_refers_to_itself(
    channel: vsrpc.Channel, tmp_path: Path, call: Callable[[vsrpc.Channel, Path], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(bytes(SIZE))
    collect = gc.collect
    monkeypatch.setattr(gc, "collect", lambda: 0)  # which an idle daemon calls

    def calls() -> None:
        for _ in range(3):
            try:
                call(channel, tmp_path)
            except vsrpc.RpcError:
                pass
        SystemStub(channel).Ping()

    calls()
    collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        calls()
        collect()
        ours = [type(each) for each in gc.garbage if type(each).__module__.startswith(("vsrpc.", "guest."))]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    if call is run_job:  # its parts know each other; what it has is let go of when it is forgotten
        ours = [each for each in ours if each in (IncomingCall, ServicerContext)]
    assert not ours
