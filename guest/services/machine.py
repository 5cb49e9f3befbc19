"""The Machine service: power, clock, host name, file systems, processes."""

from __future__ import annotations

import errno
import re
import time
from dataclasses import dataclass
from typing import Any, Callable

from guest.errors import error
from guest.machine import clock, hostname, power, processes
from guest.machine.freeze import CANNOT, Freezer, FrozenAlready, NotMounted, ThawedMeanwhile, on_disks, trim
from guest.os_errors import printable
from guest.policy.switches import METHODS, only_looks
from vsrpc.context import ServicerContext, at_once
from vsrpc.errors import RpcError
from vsrpc.v1 import job_vsrpc
from vsrpc.v1 import machine_pb2 as pb
from vsrpc.v1.machine_vsrpc import MACHINE_FREEZE, MACHINE_THAW, MachineServicer

DEFAULT_LEASE, MAX_LEASE = 60, 600
"""Seconds that file systems stay frozen."""

MAX_DELAY = 86400
"""Seconds until a shutdown."""

MAX_PROCESSES = 1000

_LONGEST_MESSAGE = 1000

# hostname(7), and what sethostname(2) takes.
_HOSTNAME = re.compile(
    r"(?=.{1,64}\Z)[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*\Z"
)

# What changes something, and is served while file systems are frozen: none of it writes to a disk.
_SERVED_FROZEN = frozenset(
    method.path
    for method in (
        MACHINE_FREEZE,  # which says itself that they are
        MACHINE_THAW,
        job_vsrpc.JOB_WRITE,
        job_vsrpc.JOB_SIGNAL,
        job_vsrpc.JOB_RESIZE,
        job_vsrpc.JOB_FORGET,
    )
)

_NOT_HERE = (*CANNOT, errno.ENOENT, errno.ENODEV, errno.ENXIO)
"""How the system says that it has no such device, or that it cannot do such a thing."""

_ACTIONS = {pb.POWER_ACTION_POWEROFF: power.POWEROFF, pb.POWER_ACTION_REBOOT: power.REBOOT}


@dataclass(frozen=True)
class Operations:
    """What callers may do (security.operations)."""

    power: bool = False
    freeze: bool = False
    trim: bool = True
    set_time: bool = True
    set_hostname: bool = True


class MachineService(MachineServicer):
    """Serves Machine. `stop` thaws, and calls a planned shutdown off."""

    def __init__(
        self, allowed: Operations, freezer: Freezer | None = None, plan: power.PowerPlan | None = None
    ) -> None:
        self._allowed = allowed
        self._freezer = freezer or Freezer()
        self._plan = plan or power.PowerPlan()

    def stop(self) -> None:
        """Leave nothing frozen, and nothing planned."""
        self._freezer.stop()
        self._plan.cancel()

    def intercept(self, proceed: Callable[[Any, ServicerContext], Any], request: Any, context: ServicerContext) -> Any:
        """Refuse, while file systems are frozen, what may write to them, as it would wait there and hold up others (a
        vsrpc.interceptor.ServerInterceptor)."""
        if self._freezer.frozen and context.path not in _SERVED_FROZEN:
            method = METHODS.get(context.path)
            if method is not None and not only_looks(method, request):
                message = "File systems are frozen (for a snapshot), and this may write to them: thaw first"
                raise error("WRONG_STATE", message)
        return proceed(request, context)

    def Power(self, request: pb.PowerRequest, context: ServicerContext) -> pb.PowerResponse:
        """Shut down, or call that off."""
        self._check("power", self._allowed.power, context)
        _check_range("delay", request.delay, 0, MAX_DELAY)
        if len(request.message) > _LONGEST_MESSAGE:
            message = f"message has {len(request.message)} characters; at most {_LONGEST_MESSAGE}"
            raise error("INVALID_PARAMS", message, field="message")
        if request.action == pb.POWER_ACTION_CANCEL:
            if not self._plan.cancel():
                raise error("WRONG_STATE", "No shutdown is planned (by this daemon): nothing to call off")
            return pb.PowerResponse(action=request.action)
        action = _ACTIONS.get(request.action)
        if action is None:
            raise error("MISSING_REQUIRED", "action is missing: POWEROFF, REBOOT or CANCEL", field="action")
        context.begins()
        with context.waiting(), _system_errors(action):
            at = self._plan.plan(action, request.delay, request.message)
        return pb.PowerResponse(action=request.action, at=int(at))

    def GetTime(self, request: pb.GetTimeRequest, context: ServicerContext) -> pb.GetTimeResponse:
        """Tell the clock."""
        time.tzset()  # the zone may have been changed since we looked last
        now = time.time_ns()
        return pb.GetTimeResponse(
            time_us=now // 1000,
            timezone=clock.timezone(),
            utc_offset=time.localtime(now // 10**9).tm_gmtoff,
            uptime=round(time.clock_gettime(time.CLOCK_BOOTTIME), 3),
        )

    def SetTime(self, request: pb.SetTimeRequest, context: ServicerContext) -> pb.SetTimeResponse:
        """Set the clock."""
        self._check("set_time", self._allowed.set_time, context)
        _check_range("time_us", request.time_us, clock.YEAR_2000 * 10**6, clock.YEAR_2100 * 10**6)
        with context.waiting(), _system_errors("set the clock"):
            change = clock.set_time(request.time_us * 1000, request.hardware)
        return pb.SetTimeResponse(time_us=time.time_ns() // 1000, change_us=change // 1000)

    def SetHostname(self, request: pb.SetHostnameRequest, context: ServicerContext) -> pb.SetHostnameResponse:
        """Set the host name."""
        self._check("set_hostname", self._allowed.set_hostname, context)
        if not _HOSTNAME.match(request.hostname):
            shown = printable(request.hostname[:80])
            message = f"hostname: {shown!r} is no host name: letters, digits, '-' and '.', at most 64 characters"
            raise error("INVALID_PARAMS", message, field="hostname")
        with _system_errors("set the host name"):
            previous = hostname.set_hostname(request.hostname)
        return pb.SetHostnameResponse(hostname=request.hostname, previous=previous)

    def Freeze(self, request: pb.FreezeRequest, context: ServicerContext) -> pb.FreezeResponse:
        """Hold writes."""
        self._check("freeze", self._allowed.freeze, context)
        _check_range("lease", request.lease, 0, MAX_LEASE)
        lease = request.lease or DEFAULT_LEASE
        try:
            with context.waiting(), _system_errors("freeze the file systems"):
                places, left = self._freezer.freeze(request.mountpoints, lease)
        except FrozenAlready as frozen:
            raise error("WRONG_STATE", f"Frozen already: {printable(str(frozen))}; thaw first") from None
        except ThawedMeanwhile:
            message = f"Thawed before all was frozen, by another caller or the end of the lease of {lease} s"
            raise error("WRONG_STATE", message) from None
        except NotMounted as wrong:
            raise _not_mounted(wrong) from None
        if not context.is_active():  # nobody would know
            self._freezer.thaw()
        return pb.FreezeResponse(mountpoints=map(printable, places), lease=round(left))

    @at_once  # as all workers may wait for what is frozen
    def Thaw(self, request: pb.ThawRequest, context: ServicerContext) -> pb.ThawResponse:
        """Let writes go on."""
        try:
            return pb.ThawResponse(mountpoints=map(printable, self._freezer.thaw()))
        except OSError as failure:
            place = printable(failure.filename)
            raise error("INTERNAL_ERROR", f"Cannot thaw {place}: {failure.strerror}", path=place) from failure

    def Trim(self, request: pb.TrimRequest, context: ServicerContext) -> pb.TrimResponse:
        """Tell disks what is free."""
        self._check("trim", self._allowed.trim, context)
        if request.minimum < 0:
            raise error("INVALID_PARAMS", f"minimum: {request.minimum} is negative: give 0 or more", field="minimum")
        try:
            chosen = on_disks(request.mountpoints)
        except NotMounted as wrong:
            raise _not_mounted(wrong) from None
        done = []
        for each in chosen:
            place = printable(each.mountpoint)
            try:
                with context.waiting():
                    done.append(pb.Trimmed(mountpoint=place, bytes=trim(each.mountpoint, request.minimum)))
            except OSError as failure:
                if request.mountpoints or failure.errno not in CANNOT:
                    done.append(pb.Trimmed(mountpoint=place, error=failure.strerror or str(failure)))
            if not context.is_active():
                break
        return pb.TrimResponse(filesystems=done)

    def Processes(self, request: pb.ProcessesRequest, context: ServicerContext) -> pb.ProcessesResponse:
        """List processes."""
        _check_range("limit", request.limit, 0, MAX_PROCESSES)
        with context.waiting():
            found, total = processes.top(request.limit or 10, by_memory=request.order == pb.PROCESS_ORDER_MEMORY)
        return pb.ProcessesResponse(
            processes=[
                pb.Process(
                    pid=each.pid,
                    parent=each.parent,
                    user=printable(each.user),
                    state=each.state,
                    cpu=round(each.cpu, 1),
                    memory=each.memory,
                    started=each.started,
                    command=printable(each.command),
                )
                for each in found
            ],
            total=total,
        )

    def _check(self, name: str, allowed: bool, context: ServicerContext) -> None:
        key = f"security.operations.{name}"
        if not allowed:
            message = f"Operation not allowed: {name} ({key} in the guest's configuration is false)"
            raise error("PERMISSION_DENIED", message, rule=key)
        context.notes["rule"] = key


class _system_errors:
    """Turns what the operating system says into an RpcError that says what could not be done."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, failure: BaseException | None, traceback: object) -> None:
        if isinstance(failure, OSError):
            where = f"{printable(failure.filename)}: " if failure.filename else ""
            reason = "NOT_SUPPORTED" if failure.errno in _NOT_HERE else "INTERNAL_ERROR"
            if isinstance(failure, PermissionError) or failure.errno == errno.EROFS:
                reason = "PERMISSION_DENIED"
            raise error(reason, f"Cannot {self._what}: {where}{failure.strerror or failure}") from failure


def _not_mounted(wrong: NotMounted) -> RpcError:
    place = printable(str(wrong))
    message = f"No file system on a disk is mounted at {place} (Info lists those that are)"
    return error("FILE_NOT_FOUND", message, path=place)


def _check_range(field: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise error("INVALID_PARAMS", f"{field}: {value} is not between {least} and {most}", field=field)
