"""The daemon: which services there are, with which policy, on which server. All wiring is in this file.

To serve services of your own, make a Daemon, call their generated `add_XServicer_to_server(servicer,
daemon.dispatcher)`, and run it.
"""

from __future__ import annotations

import dataclasses
import logging
import secrets
import threading
import time
from typing import Any, Callable

from guest import logging_setup
from guest.audit.log import Audit
from guest.audit.sink import sink
from guest.authentication import authenticator, is_needed
from guest.config import ConfigError, GuestConfig
from guest.errors import ERRORS
from guest.files.partial import Partials
from guest.files.sessions import UploadSessions
from guest.files.temps import TempFiles, state_directory
from guest.files.upload import UploadSession
from guest.jobs.live import LiveJob, job_end
from guest.jobs.store import JobStore
from guest.machine.freeze import Freezer
from guest.memory import give_back
from guest.policies import policies
from guest.services.file import FileService
from guest.services.job import JobService
from guest.services.job_proxy import JobProxy
from guest.services.machine import MachineService, Operations
from guest.services.service_manager import ServiceManagerService
from guest.services.shell import ShellServicer
from guest.services.system import SystemService
from guest.services.updates import Updates
from vsrpc._version import __version__
from vsrpc.context import NotNow, ServicerContext
from vsrpc.dispatcher import Dispatcher
from vsrpc.errors import RpcError
from vsrpc.server import Server
from vsrpc.transports import Listener
from vsrpc.v1.file_vsrpc import add_FileServicer_to_server
from vsrpc.v1.job_vsrpc import add_JobServicer_to_server
from vsrpc.v1.machine_vsrpc import add_MachineServicer_to_server
from vsrpc.v1.service_vsrpc import add_ServiceManagerServicer_to_server
from vsrpc.v1.shell_vsrpc import add_ShellServicer_to_server
from vsrpc.v1.system_vsrpc import add_SystemServicer_to_server

_log = logging.getLogger(__name__)

# Calls that come by the thousand: only those that fail are logged, since a line costs a slow guest more than the call.
# Whoever follows the journal would also read of each call that does so, and so cause the next one.
_FREQUENT = frozenset(
    (
        "/vsrpc.v1.System/Ping",
        "/vsrpc.v1.File/UploadChunk",
        "/vsrpc.v1.File/DownloadChunk",
        "/vsrpc.v1.Job/Read",
        "/vsrpc.v1.Job/Write",
        "/vsrpc.v1.ServiceManager/Journal",
    )
)


_PARTIALS_INTERVAL = 3600.0  # seconds between looks for what interrupted uploads have left for too long


class Daemon:
    """The guest's services on a server. `config_file` is where the configuration came from: callers cannot touch it.
    `address`: where it will serve, which may decide whether callers must sign (None: the configured port).

    Raises ConfigError where they must and there is no key, and where what the configuration names cannot be used.
    """

    def __init__(
        self, config: GuestConfig, config_file: str, address: str | None = None, *, job_keeper: bool = False
    ) -> None:
        """`job_keeper`: jobs are run by a process of their own, which outlives this one (guest.keeper)."""
        self._security = config.security
        judge = authenticator(config.security, config.device.path if address is None else address)
        policy = policies(config, config_file)
        instance = secrets.token_hex(16)
        self._audit: Audit | None = None
        if config.audit.enabled:
            self._audit = Audit(sink(config.audit), instance, lambda path: self.dispatcher.method(path))
            self._audit.event("start", version=__version__, config=config_file)
        allowed = Operations(**dataclasses.asdict(config.security.operations))
        self._machine = MachineService(allowed, Freezer(self._hold_logs))
        log_call = (_log_call,) if self._audit is None else (self._audit, _log_call)
        self.dispatcher = Dispatcher(
            errors=ERRORS,
            max_request_size=config.server.max_request_size,
            request_timeout=config.server.request_timeout,
            interceptors=(*log_call, self._tidy, policy.switches.intercept, self._machine.intercept),
            on_refused=None if self._audit is None else self._audit.refused,
        )
        self._stopped = threading.Event()
        limits = config.limits
        self._temps = TempFiles(state_directory())
        sessions = UploadSessions(limits, on_dropped=self._upload_dropped)
        max_reply = config.server.max_request_size
        self._partials = Partials(state_directory())
        self._files = FileService(policy.paths, max_reply, sessions, limits.free_space, self._temps, self._partials)
        add_SystemServicer_to_server(SystemService(Updates(config.security.allow_update)), self.dispatcher)
        add_ShellServicer_to_server(ShellServicer(policy.commands, limits=limits), self.dispatcher)
        self._jobs: JobService | JobProxy
        if job_keeper:
            self._jobs = JobProxy(policy.commands, limits, max_reply)
        else:
            self._jobs = JobService(policy.commands, JobStore(limits.jobs, on_end=self._job_ended), max_reply, limits)
        add_JobServicer_to_server(self._jobs, self.dispatcher)
        add_MachineServicer_to_server(self._machine, self.dispatcher)
        add_FileServicer_to_server(self._files, self.dispatcher)
        units = ServiceManagerService(policy.units, max_reply=max_reply)
        add_ServiceManagerServicer_to_server(units, self.dispatcher)
        self._server = Server(
            self.dispatcher,
            agent=f"vsrpc-guest/{__version__}",
            instance=instance,
            workers=config.server.workers,
            queue=config.server.queue,
            buffered=limits.buffered,
            requests_per_second=limits.requests_per_second,
            authenticator=judge,
            on_idle=self._idle,
        )

    def _tidy(self, proceed: Callable[[Any, ServicerContext], Any], request: Any, context: ServicerContext) -> Any:
        """Who is never idle does at each call what can wait no longer."""
        self._files.tidy()
        return proceed(request, context)

    def _idle(self) -> None:
        self._files.idle()
        give_back()

    def serve(self, listener: Listener) -> None:
        """Serve the listener's peers until stop(). Raises OSError when it cannot."""
        if self._server.authenticator is None and is_needed(self._security, listener.address):
            listener.close()
            raise ConfigError(f"callers at {listener.address} must sign: name that address when the Daemon is made")
        if self._server.authenticator is not None:
            _log.info("callers must sign their requests with a key of %s", self._security.key_file)
        _log.info("vsrpc-guest %s serves %s", __version__, listener.address)
        # Beside the calls, since a network's file system may hang.
        threading.Thread(target=self._remove_leftovers, name="vsrpc-leftovers", daemon=True).start()
        self._server.serve(listener)

    def stop(self) -> None:
        """End all calls and what they started, remove what was half uploaded, and make serve() return."""
        self._machine.stop()  # before calls are waited for that wait for a frozen file system
        self._stopped.set()
        self._server.stop()
        self._jobs.stop()
        self._files.stop()
        self._temps.close()
        if self._audit is not None:
            self._audit.close()

    def _hold_logs(self, held: bool) -> None:
        logging_setup.hold(held)
        if self._audit is not None:
            self._audit.hold(held)

    def _remove_leftovers(self) -> None:
        self._temps.remove_leftovers(lambda path: self._event("removed", path=path))
        while True:
            self._partials.remove_old()
            if self._stopped.wait(_PARTIALS_INTERVAL):
                return

    def _upload_dropped(self, session_id: str, upload: UploadSession, why: str) -> None:
        size = {"size": upload.size, "received": upload.received}
        self._event("dropped", session_id=session_id[:8], path=upload.path, why=why, **size)

    def _job_ended(self, job: LiveJob) -> None:
        self._event("ended", **job_end(job))

    def _event(self, event: str, **fields: Any) -> None:
        if self._audit is not None:
            self._audit.event(event, **fields)


def _log_call(proceed: Callable[[Any, ServicerContext], Any], request: Any, context: ServicerContext) -> Any:
    """One line for each call: what, for which request, how it ended, how long it took."""
    started = time.monotonic()
    status = "INTERNAL"
    try:
        response = proceed(request, context)
        status = "OK"
        return response
    except NotNow:
        status = ""
        raise
    except RpcError as failure:
        status = f"{failure.reason or failure.code().name}: {failure.details()}"
        raise
    finally:
        milliseconds = (time.monotonic() - started) * 1000
        level = logging.DEBUG if status in ("OK", "") and context.path in _FREQUENT else logging.INFO
        _log.log(level, "%s [%s] %.1f ms %s", context.path, context.request_id, milliseconds, status)
