"""The Machine service: on a real server with a kernel of our own, and its parts by themselves."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from freeze_helpers import Kernel, wait_until
from servicer_helpers import context, refused

import vsrpc
from guest.config import AllowedPath, AuditConfig, GuestConfig, OperationsConfig, SecurityConfig, ServerConfig
from guest.daemon import Daemon
from guest.machine import clock, hostname, power, processes
from guest.machine.freeze import FIFREEZE, FITHAW, Freezer
from guest.services import machine as service
from guest.services.machine import MachineService, Operations
from vsrpc.dispatcher import Dispatcher
from vsrpc.errors import RpcError
from vsrpc.server import Server
from vsrpc.status import Code
from vsrpc.transports import listener
from vsrpc.v1 import file_pb2, job_pb2, service_pb2, shell_pb2, system_pb2
from vsrpc.v1 import machine_pb2 as pb
from vsrpc.v1.file_vsrpc import FileStub
from vsrpc.v1.job_vsrpc import JobStub
from vsrpc.v1.machine_vsrpc import MachineStub, add_MachineServicer_to_server
from vsrpc.v1.service_vsrpc import ServiceManagerStub
from vsrpc.v1.shell_vsrpc import ShellStub
from vsrpc.v1.system_vsrpc import SystemServicer, SystemStub, add_SystemServicer_to_server

ALL = Operations(power=True, freeze=True)


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    (tmp_path / "kernel").mkdir()
    return Kernel(tmp_path / "kernel", monkeypatch)


# -- what is allowed


@pytest.mark.parametrize(
    ("rpc", "key", "default"),
    [
        ("Power", "power", False),
        ("Freeze", "freeze", False),
        ("Trim", "trim", True),
        ("SetTime", "set_time", True),
        ("SetHostname", "set_hostname", True),
    ],
)
def test_each_operation_has_a_switch(rpc: str, key: str, default: bool) -> None:
    assert getattr(OperationsConfig(), key) is default
    off = dataclasses.replace(Operations(True, True, True, True, True), **{key: False})
    request = getattr(pb, f"{rpc}Request")()
    failure = refused("PERMISSION_DENIED", getattr(MachineService(off), rpc), request, context())
    assert (
        failure.details()
        == f"Operation not allowed: {key} (security.operations.{key} in the guest's configuration is false)"
    )
    assert failure.data["rule"] == f"security.operations.{key}"


def test_looking_and_thawing_need_no_switch() -> None:
    nothing = MachineService(Operations(False, False, False, False, False))
    assert nothing.GetTime(pb.GetTimeRequest(), context()).time_us > 0
    assert nothing.Processes(pb.ProcessesRequest(), context()).total > 0
    assert list(nothing.Thaw(pb.ThawRequest(), context()).mountpoints) == []


@pytest.mark.parametrize(
    ("rpc", "request_", "reason", "message"),
    [
        ("Power", pb.PowerRequest(), "MISSING_REQUIRED", "action is missing: POWEROFF, REBOOT or CANCEL"),
        ("Power", pb.PowerRequest(action=9), "MISSING_REQUIRED", "action is missing"),  # type: ignore[arg-type]
        ("Power", pb.PowerRequest(action=2, delay=-1), "INVALID_PARAMS", "delay: -1 is not between 0 and 86400"),  # type: ignore[arg-type]
        ("Power", pb.PowerRequest(action=2, delay=86401), "INVALID_PARAMS", "delay: 86401"),  # type: ignore[arg-type]
        ("Power", pb.PowerRequest(action=2, message="x" * 1001), "INVALID_PARAMS", "1001 characters; at most 1000"),  # type: ignore[arg-type]
        ("Power", pb.PowerRequest(action=3), "WRONG_STATE", "No shutdown is planned"),  # type: ignore[arg-type]
        ("SetTime", pb.SetTimeRequest(), "INVALID_PARAMS", "time_us: 0 is not between"),
        ("SetTime", pb.SetTimeRequest(time_us=2**62), "INVALID_PARAMS", "time_us: "),
        ("SetHostname", pb.SetHostnameRequest(), "INVALID_PARAMS", "'' is no host name"),
        ("SetHostname", pb.SetHostnameRequest(hostname="-x"), "INVALID_PARAMS", "'-x' is no host name"),
        ("SetHostname", pb.SetHostnameRequest(hostname="a\nb"), "INVALID_PARAMS", r"'a\\nb' is no host name"),
        ("SetHostname", pb.SetHostnameRequest(hostname="a" * 65), "INVALID_PARAMS", "at most 64 characters"),
        ("Freeze", pb.FreezeRequest(lease=-1), "INVALID_PARAMS", "lease: -1 is not between 0 and 600"),
        ("Freeze", pb.FreezeRequest(lease=601), "INVALID_PARAMS", "lease: 601 is not between 0 and 600"),
        (
            "Freeze",
            pb.FreezeRequest(mountpoints=["/proc"]),
            "FILE_NOT_FOUND",
            "No file system on a disk is mounted at /proc",
        ),
        ("Trim", pb.TrimRequest(minimum=-1), "INVALID_PARAMS", "minimum: -1 is negative"),
        ("Trim", pb.TrimRequest(mountpoints=["/no\nwhere"]), "FILE_NOT_FOUND", r"is mounted at /no\nwhere"),
        ("Processes", pb.ProcessesRequest(limit=1001), "INVALID_PARAMS", "limit: 1001 is not between 0 and 1000"),
    ],
)
def test_mistakes(rpc: str, request_: Any, reason: str, message: str) -> None:
    failure = refused(reason, getattr(MachineService(ALL), rpc), request_, context())
    assert message in failure.details()


# -- freezing


class Guest:
    """A daemon with one worker and a kernel of our own, and its audit log."""

    def __init__(self, place: Path, kernel: Kernel) -> None:
        self.log = place / "log"
        settings = GuestConfig(
            server=ServerConfig(workers=1),
            security=SecurityConfig(
                allowed_paths=(AllowedPath(f"{place}/"),),
                operations=OperationsConfig(freeze=True),
                allowed_commands=None,
            ),
            audit=AuditConfig(file=str(self.log)),
        )
        self.daemon = Daemon(settings, "/no/such/file")
        self.daemon._machine._freezer = Freezer(self.hold, kernel.ioctl, kernel.note)
        self.kernel = kernel
        self._thread = threading.Thread(target=self.daemon.serve, args=(listener(f"unix:{place}/sock"),))
        self._thread.start()
        self.channel = vsrpc.connect(f"unix:{place}/sock", vsrpc.ChannelOptions(max_retries=0))
        self.machine = MachineStub(self.channel)

    def hold(self, held: bool) -> None:
        self.kernel.hold(held)
        self.daemon._hold_logs(held)

    def logged(self) -> list[tuple[str, str]]:
        """The calls that have failed, and why."""
        events = [json.loads(line) for line in self.log.read_text().splitlines()]
        results = [(each["rpc"], each["result"]) for each in events if "result" in each]
        return [(rpc.rpartition("/")[2], result["reason"]) for rpc, result in results if "reason" in result]

    def close(self) -> None:
        self.channel.close()
        self.daemon.stop()
        self._thread.join()


@pytest.fixture
def guest(tmp_path: Path, kernel: Kernel) -> Iterator[Guest]:
    made = Guest(tmp_path, kernel)
    yield made
    made.close()


def outcome(call: Callable[..., Any], request: Any) -> str:
    try:
        call(request)
    except RpcError as failure:
        return failure.code().name
    return "OK"


def failure_of(call: Callable[..., Any], request: Any) -> RpcError:
    with pytest.raises(RpcError) as caught:
        call(request)
    return caught.value


def test_while_frozen_what_may_write_is_refused_and_nothing_is_logged(guest: Guest, tmp_path: Path) -> None:
    jobs, files = JobStub(guest.channel), FileStub(guest.channel)
    (tmp_path / "there").write_text("content")
    job = jobs.Start(job_pb2.JobStartRequest(command="cat", stdin=True)).job.job_id
    frozen = guest.machine.Freeze(pb.FreezeRequest())
    assert len(frozen.mountpoints) == 3
    assert 50 <= frozen.lease <= 60
    before = guest.log.read_bytes()
    path = str(tmp_path / "there")
    services = ServiceManagerStub(guest.channel)
    for call, request, expected in (
        (guest.machine.Freeze, pb.FreezeRequest(), "FAILED_PRECONDITION"),
        (guest.machine.Trim, pb.TrimRequest(), "FAILED_PRECONDITION"),
        (guest.machine.SetHostname, pb.SetHostnameRequest(hostname="x"), "FAILED_PRECONDITION"),
        (guest.machine.Power, pb.PowerRequest(), "FAILED_PRECONDITION"),
        (files.Upload, file_pb2.UploadRequest(path=path, content=b"new"), "FAILED_PRECONDITION"),
        (ShellStub(guest.channel).Exec, shell_pb2.ExecRequest(command="true"), "FAILED_PRECONDITION"),
        (jobs.Start, job_pb2.JobStartRequest(command="true"), "FAILED_PRECONDITION"),
        (services.Control, service_pb2.ControlRequest(name="x", action="start"), "FAILED_PRECONDITION"),
        (SystemStub(guest.channel).Ping, system_pb2.PingRequest(), "OK"),
        (SystemStub(guest.channel).Info, system_pb2.InfoRequest(), "OK"),
        (guest.machine.GetTime, pb.GetTimeRequest(), "OK"),
        (files.Download, file_pb2.DownloadRequest(path=path), "OK"),
        (jobs.Write, job_pb2.JobWriteRequest(job_id=job, content=b"x", eof=True), "OK"),
        (jobs.Wait, job_pb2.JobWaitRequest(job_id=job, wait=30), "OK"),
        (jobs.Forget, job_pb2.JobForgetRequest(job_id=job, kill=True), "OK"),
    ):
        assert outcome(call, request) == expected, request
    # Which systemd there is or not:
    assert outcome(services.Control, service_pb2.ControlRequest(name="x", action="status")) != "FAILED_PRECONDITION"
    assert guest.log.read_bytes() == before
    assert sorted(guest.machine.Thaw(pb.ThawRequest()).mountpoints) == sorted(frozen.mountpoints)
    wait_until(lambda: ("Upload", "WRONG_STATE") in guest.logged())
    assert guest.logged()[:3] == [("Freeze", "WRONG_STATE"), ("Trim", "WRONG_STATE"), ("SetHostname", "WRONG_STATE")]
    assert list(guest.machine.Thaw(pb.ThawRequest()).mountpoints) == []
    assert outcome(files.Upload, file_pb2.UploadRequest(path=path, content=b"new")) == "OK"


def test_what_cannot_be_done(guest: Guest, kernel: Kernel) -> None:
    kernel.fails[FIFREEZE, "root"] = errno.EOPNOTSUPP
    failure = failure_of(guest.machine.Freeze, pb.FreezeRequest(mountpoints=[kernel.place("root")]))
    assert (failure.code(), kernel.frozen) == (Code.UNIMPLEMENTED, set())
    assert f"Cannot freeze the file systems: {kernel.place('root')}: " in failure.details()
    guest.machine.Freeze(pb.FreezeRequest())
    kernel.fails[FITHAW, "data"] = errno.EIO
    failure = failure_of(guest.machine.Thaw, pb.ThawRequest())
    assert f"Cannot thaw {kernel.place('data')}" in failure.details()
    kernel.fails.clear()
    assert list(guest.machine.Thaw(pb.ThawRequest()).mountpoints) == [kernel.place("data")]


def test_thaw_needs_no_worker(tmp_path: Path, kernel: Kernel) -> None:
    """All may wait for what is frozen."""
    entered, go = threading.Event(), threading.Event()

    class Blocked(SystemServicer):
        def Info(self, request: system_pb2.InfoRequest, context: Any) -> system_pb2.InfoResponse:
            entered.set()
            assert go.wait(60)
            return system_pb2.InfoResponse()

    dispatcher = Dispatcher()
    add_SystemServicer_to_server(Blocked(), dispatcher)
    add_MachineServicer_to_server(MachineService(ALL, kernel.freezer), dispatcher)
    server = Server(dispatcher, workers=1)
    thread = threading.Thread(target=server.serve, args=(listener(f"unix:{tmp_path}/sock"),))
    thread.start()
    try:
        with vsrpc.connect(f"unix:{tmp_path}/sock") as channel:
            machine = MachineStub(channel)
            machine.Freeze(pb.FreezeRequest())
            blocked = SystemStub(channel).Info.future(system_pb2.InfoRequest(), timeout=60)
            assert entered.wait(60)
            assert len(machine.Thaw(pb.ThawRequest(), timeout=30).mountpoints) == 3
            go.set()
            blocked.result()
    finally:
        go.set()
        server.stop()
        thread.join()


def test_a_caller_who_leaves_meanwhile_leaves_nothing_frozen(kernel: Kernel) -> None:
    call = context()
    kernel.on_freeze = lambda name: call.cancel()
    MachineService(ALL, kernel.freezer).Freeze(pb.FreezeRequest(), call)
    assert kernel.frozen == set()


# -- power


class Init:
    """What shuts down, as far as PowerPlan knows."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.told: list[str] = []
        self.happened = threading.Event()
        self.plan = power.PowerPlan(self.do, self.told.append, reply_time=0.05, check=lambda action: None)

    def do(self, action: str) -> None:
        self.done.append(action)
        self.happened.set()


def test_a_shutdown_comes_after_the_reply_and_can_be_put_off_and_called_off() -> None:
    init = Init()
    machine = MachineService(ALL, plan=init.plan)
    begun: list[str] = []
    call = context()
    call.on_begin = lambda: begun.append("begun")
    reply = machine.Power(pb.PowerRequest(action=pb.POWER_ACTION_POWEROFF, delay=3600, message="bye"), call)
    assert 3500 < reply.at - time.time() <= 3600
    assert (init.done, init.told, begun) == ([], ["bye"], ["begun"])
    machine.Power(pb.PowerRequest(action=pb.POWER_ACTION_CANCEL), context())
    refused("WRONG_STATE", machine.Power, pb.PowerRequest(action=pb.POWER_ACTION_CANCEL), context())
    machine.Power(pb.PowerRequest(action=pb.POWER_ACTION_POWEROFF, delay=3600), context())
    machine.Power(pb.PowerRequest(action=pb.POWER_ACTION_REBOOT), context())  # in its place
    assert init.happened.wait(30)
    assert init.done == ["reboot"]
    refused("WRONG_STATE", machine.Power, pb.PowerRequest(action=pb.POWER_ACTION_CANCEL), context())


def test_a_daemon_that_stops_calls_it_off() -> None:
    init = Init()
    machine = MachineService(ALL, plan=init.plan)
    machine.Power(pb.PowerRequest(action=pb.POWER_ACTION_POWEROFF, delay=3600), context())
    machine.stop()
    assert init.plan.cancel() is False


def test_a_guest_without_such_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(power, "DIRECTORIES", ("/nowhere",))
    machine = MachineService(ALL, plan=power.PowerPlan(lambda action: None))
    failure = refused("NOT_SUPPORTED", machine.Power, pb.PowerRequest(action=pb.POWER_ACTION_REBOOT), context())
    assert "is not installed (looked in /nowhere)" in failure.details()


# -- clock, host name, processes


def test_the_time(tmp_path: Path) -> None:
    reply = MachineService(ALL).GetTime(pb.GetTimeRequest(), context())
    assert abs(reply.time_us / 1e6 - time.time()) < 60
    assert reply.uptime > 0
    (tmp_path / "etc").mkdir()
    assert clock.timezone(tmp_path) == "UTC"
    (tmp_path / "etc/timezone").write_text("Asia/Tokyo\n")
    assert clock.timezone(tmp_path) == "Asia/Tokyo"
    (tmp_path / "etc/localtime").symlink_to("/usr/share/zoneinfo/Europe/Berlin")
    assert clock.timezone(tmp_path) == "Europe/Berlin"


def test_setting_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "clock_settime_ns", lambda which, ns: clocks.append(ns))
    clocks: list[int] = []
    asked = time.time_ns() // 1000 + 3_600_000_000
    reply = MachineService(ALL).SetTime(pb.SetTimeRequest(time_us=asked), context())
    assert 0 <= clocks[0] - asked * 1000 < 60 * 10**9  # what passed since it was asked for is added
    assert abs(reply.change_us - 3_600_000_000) < 60_000_000
    monkeypatch.setattr(clock, "_RTC", "/no/such/clock")
    failure = refused(
        "NOT_SUPPORTED", MachineService(ALL).SetTime, pb.SetTimeRequest(time_us=asked, hardware=True), context()
    )
    assert "Cannot set the clock: /no/such/clock" in failure.details()
    assert len(clocks) == 1


def test_a_daemon_that_may_not_set_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(which: int, nanoseconds: int) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(time, "clock_settime_ns", deny)
    monkeypatch.setattr(os.path, "isdir", lambda path: False)
    request = pb.SetTimeRequest(time_us=time.time_ns() // 1000)
    failure = refused("PERMISSION_DENIED", MachineService(ALL).SetTime, request, context())
    assert failure.details() == "Cannot set the clock: Operation not permitted"


def test_the_host_name_is_set_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["before"]
    monkeypatch.setattr(socket, "gethostname", lambda: names[-1])
    monkeypatch.setattr(socket, "sethostname", names.append)
    path = tmp_path / "hostname"
    monkeypatch.setattr(hostname.set_hostname, "__defaults__", (str(path),))
    machine = MachineService(ALL)
    for name in ("web-1", "web.example.org", "9", "a" * 64):
        reply = machine.SetHostname(pb.SetHostnameRequest(hostname=name), context())
        assert (reply.hostname, reply.previous, names[-1], path.read_text()) == (name, names[-2], name, f"{name}\n")
    assert path.stat().st_mode & 0o777 == 0o644
    path.unlink()
    path.mkdir()
    failure = refused("INTERNAL_ERROR", machine.SetHostname, pb.SetHostnameRequest(hostname="x"), context())
    assert "Cannot set the host name: " in failure.details()
    assert names[-1] == "a" * 64
    assert os.listdir(tmp_path) == ["hostname"]


def test_processes_of_this_machine() -> None:
    machine = MachineService(ALL)
    reply = machine.Processes(pb.ProcessesRequest(order=pb.PROCESS_ORDER_MEMORY, limit=1000), context())
    mine = next(each for each in reply.processes if each.pid == os.getpid())
    assert (mine.parent, mine.state) == (os.getppid(), "running")
    assert "python" in mine.command
    assert abs(mine.started - time.time()) < 86400
    memory = [each.memory for each in reply.processes]
    assert memory == sorted(memory, reverse=True)
    assert reply.total >= len(reply.processes)
    assert len(machine.Processes(pb.ProcessesRequest(limit=1), context()).processes) == 1


def test_those_that_use_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(pid: int, ticks: int, pages: int, begun: int = 5, name: str = "x (y) z") -> None:
        (tmp_path / str(pid)).mkdir(exist_ok=True)
        stat = f"{pid} ({name}) S 1 {'0 ' * 9}{ticks} 0 {'0 ' * 6}{begun} 0 {pages} 0"
        (tmp_path / str(pid) / "stat").write_text(stat)
        (tmp_path / str(pid) / "cmdline").write_bytes(b"" if pid == 2 else b"prog\0\xff\n\0")

    def later(seconds: float) -> None:
        write(1, 10, 100)
        write(2, 50, 10)
        write(3, 1000, 1, begun=6)  # another one, of the same number
        write(4, 0, 0)

    for pid in (1, 2, 3):
        write(pid, 0, 1)
    monkeypatch.setattr(time, "sleep", later)
    by_cpu, total = processes.top(10, False, tmp_path)
    assert ([each.pid for each in by_cpu], total) == ([2, 1], 2)
    assert (by_cpu[0].command, by_cpu[1].command, by_cpu[0].state) == ("[x (y) z]", "prog \ufffd\n", "sleeping")
    by_memory, _ = processes.top(1, True, tmp_path)
    assert [each.pid for each in by_memory] == [1]
    assert by_memory[0].memory == 100 * os.sysconf("SC_PAGE_SIZE")


# -- trimming


def test_trim_tells_of_each_file_system(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    def trim(mountpoint: str, minimum: int) -> int:
        name = os.path.basename(mountpoint)
        if name != "root":
            raise OSError({"data": errno.EIO, "longest": errno.EOPNOTSUPP}[name], "no")
        return 4096 + minimum

    monkeypatch.setattr(service, "trim", trim)
    machine = MachineService(ALL)
    reply = machine.Trim(pb.TrimRequest(minimum=1), context())
    assert [(each.mountpoint, each.bytes, each.error) for each in reply.filesystems] == [
        (kernel.place("data"), 0, "no"),
        (kernel.place("root"), 4097, ""),
    ]
    reply = machine.Trim(pb.TrimRequest(mountpoints=[kernel.place("longest")]), context())
    assert [each.error for each in reply.filesystems] == ["no"]
