"""The System service: that the daemon is alive, what the guest is, how it does, and its own replacement."""

from __future__ import annotations

import functools
import os
import platform
import time

from guest.machine import facts, logins, network
from guest.machine.cpu import CpuMeter
from guest.machine.mounts import mounts
from guest.os_errors import printable
from guest.services.updates import Updates
from vsrpc._version import __version__
from vsrpc.bulk import bulk
from vsrpc.context import ServicerContext, at_once
from vsrpc.v1 import system_pb2 as pb
from vsrpc.v1.system_vsrpc import SystemServicer


class SystemService(SystemServicer):
    """Serves System."""

    def __init__(self, updates: Updates | None = None) -> None:
        self._updates = updates or Updates(allowed=False)
        self._started = time.monotonic()
        self._cpu = CpuMeter()

    @at_once
    def Ping(self, request: pb.PingRequest, context: ServicerContext) -> pb.PingResponse:
        """Say that the daemon is alive."""
        return pb.PingResponse(
            timestamp=int(time.time()), uptime=round(time.monotonic() - self._started, 3), message="pong"
        )

    def Info(self, request: pb.InfoRequest, context: ServicerContext) -> pb.InfoResponse:
        """Describe the guest."""
        kernel = os.uname()
        memory = facts.memory()
        return pb.InfoResponse(
            hostname=kernel.nodename,
            os=kernel.sysname,
            os_version=facts.os_version(),
            kernel=kernel.release,
            arch=kernel.machine,
            cpu_count=os.cpu_count() or 1,
            memory_total=memory.total,
            memory_available=memory.available,
            python_version=platform.python_version(),
            boot_time=facts.boot_time(),
            machine_id=facts.machine_id(),
            virtualization=_virtualization(),
            agent_version=__version__,
            interfaces=[
                pb.NetworkInterface(name=each.name, mac=each.mac, addresses=each.addresses)
                for each in network.interfaces()
            ],
            filesystems=[
                pb.Filesystem(
                    device=printable(each.device),
                    mountpoint=printable(each.mountpoint),
                    fstype=each.fstype,
                    total=each.total,
                    used=each.used,
                )
                for each in mounts()
            ],
            users=[
                pb.LoggedInUser(
                    name=printable(each.name),
                    terminal=printable(each.terminal),
                    host=printable(each.host),
                    started=each.started,
                )
                for each in logins.logins()
            ],
        )

    def Status(self, request: pb.StatusRequest, context: ServicerContext) -> pb.StatusResponse:
        """Measure the guest."""
        return pb.StatusResponse(
            cpu_usage=round(self._cpu.percent(), 1),
            memory_usage=round(facts.memory().percent, 1),
            disk_usage={printable(each.mountpoint): round(each.percent, 1) for each in mounts()},
            load_average=[round(load, 2) for load in os.getloadavg()],
            process_count=facts.process_count(),
        )

    @bulk(request="content")
    def Update(self, request: pb.UpdateRequest, context: ServicerContext) -> pb.UpdateResponse:
        """Replace the daemon."""
        return self._updates.begin(context.content, request.sha256, request.confirm_within)

    def ConfirmUpdate(self, request: pb.ConfirmUpdateRequest, context: ServicerContext) -> pb.ConfirmUpdateResponse:
        """Tell how that goes, and keep the new one."""
        return self._updates.confirm(request.update_id)


@functools.lru_cache(maxsize=None)
def _virtualization() -> str:
    """It cannot change while the daemon runs, and asking for it starts a program."""
    return facts.virtualization()
