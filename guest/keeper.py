"""The keeper: a process that runs jobs, so that they outlive the daemon. Started by systemd.

It serves the Job service on a socket that only root may open, to the daemon alone (guest.services.job_proxy), which has
judged what comes. It judges again, by the configuration as it is then, and so is never laxer than the file.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import secrets
import socket
import threading
from typing import Any, Callable

from guest import config
from guest.audit.log import Audit
from guest.audit.sink import sink
from guest.errors import ERRORS, error
from guest.jobs.cgroup import Cgroups
from guest.jobs.live import LiveJob, job_end
from guest.jobs.sharing import MemoryServer, socket_beside
from guest.jobs.store import JobStore
from guest.policies import policies
from guest.services.job import JobService, job_info
from vsrpc._version import __version__
from vsrpc.context import ServicerContext
from vsrpc.dispatcher import Dispatcher
from vsrpc.server import Server
from vsrpc.transports import Listener
from vsrpc.v1.job_vsrpc import JOB_START, add_JobServicer_to_server

SOCKET = "/run/vsrpc-guest/jobs.sock"
UNIT = "vsrpc-jobs.service"

IDLE_SECONDS = 600.0
"""How long it stays when there are no jobs, not even ended ones, nor processes that these left behind. Starting it
costs a second of a slow guest."""

_log = logging.getLogger(__name__)


class Keeper:
    """Serves Job until stop(), or until there have been no jobs for a while."""

    def __init__(self, settings: config.GuestConfig, config_file: str, idle_seconds: float = IDLE_SECONDS) -> None:
        self._file = config_file
        self._version = _version(config_file)
        self._audit: Audit | None = None
        if settings.audit.enabled:  # to the journal: a file has one writer
            journal = sink(dataclasses.replace(settings.audit, file=None))
            self._audit = Audit(journal, secrets.token_hex(16), lambda path: None)
        cgroups, why = _cgroups()
        self._memory: MemoryServer | None = None
        self._store = JobStore(
            settings.limits.jobs,
            on_end=self._job_ended,
            cgroups=cgroups,
            no_cgroups=why,
            on_drop=self._job_forgotten,
            describe=_describe,
        )
        policy = policies(settings, config_file).commands
        self._service = JobService(policy, self._store, settings.server.max_request_size, settings.limits)
        dispatcher = Dispatcher(
            errors=ERRORS,
            max_request_size=settings.server.max_request_size,
            request_timeout=None,
            interceptors=(self._judge_anew,),
        )
        add_JobServicer_to_server(self._service, dispatcher)
        self._server = Server(dispatcher, agent=f"vsrpc-jobs/{__version__}", workers=settings.server.workers)
        self._idle_seconds = idle_seconds
        self._over = threading.Event()

    def serve(self, listener: Listener) -> None:
        """Serve the daemon. Raises OSError."""
        path = listener.address[len("unix:") :]
        self._memory = MemoryServer(socket_beside(path), self._store.find, _describe)
        watcher = threading.Thread(target=self._watch, name="vsrpc-idle", daemon=True)
        watcher.start()
        _tell_systemd(b"READY=1")
        self._server.serve(listener)
        self._memory.close()
        self._over.set()
        watcher.join()

    def stop(self) -> None:
        """End all jobs, and make serve() return."""
        self._over.set()
        self._server.stop()
        self._service.stop()
        if self._audit is not None:
            self._audit.close()

    def _judge_anew(
        self, proceed: Callable[[Any, ServicerContext], Any], request: Any, context: ServicerContext
    ) -> Any:
        """Serve a call by the configuration as it is now."""
        if context.path == JOB_START.path and _version(self._file) != self._version:
            version = _version(self._file)
            try:
                settings = config.load(self._file)
                self._service.policy = policies(settings, self._file).commands
            except config.ConfigError as failure:
                raise error("SERVICE_UNAVAILABLE", f"No job is started until this is mended: {failure}") from None
            self._service.limits = settings.limits
            self._store.max_jobs = settings.limits.jobs
            self._version = version
        return proceed(request, context)

    def _job_forgotten(self, job: LiveJob) -> None:
        if self._memory is not None:
            self._memory.forgotten(job)

    def _job_ended(self, job: LiveJob) -> None:
        if self._audit is not None:
            self._audit.event("ended", **job_end(job))

    def _watch(self) -> None:
        idle = 0.0
        step = self._idle_seconds / 10
        while not self._over.wait(step):
            idle = idle + step if self._store.idle() else 0.0  # systemd would end what is left behind
            if idle >= self._idle_seconds and self._store.idle(retire=True):
                _log.info("no jobs for %.0f s: leaving until there is one", idle)
                _tell_systemd(b"STOPPING=1")  # who starts us now waits until we have left
                self._server.stop()
                return


def _describe(job: LiveJob) -> bytes:
    return job_info(job).SerializeToString()


def _version(path: str) -> tuple[int, ...]:
    """What tells a file's content from an earlier one's."""
    try:
        status = os.stat(path)
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _cgroups() -> tuple[Cgroups | None, str]:
    """The jobs' control groups, or why there are none."""
    try:
        return Cgroups.delegated(), ""
    except OSError as failure:
        _log.info("jobs have no control groups of their own: %s", failure)
        return None, str(failure)


def _tell_systemd(news: bytes) -> None:
    """sd_notify(3)."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to_systemd:
        to_systemd.sendto(news, address.replace("@", "\0", 1) if address.startswith("@") else address)
