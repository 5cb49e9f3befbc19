"""The daemon: which services there are, with which policy, on which server. All wiring is in this file.

To serve services of your own, make a Daemon, call their generated `add_XServicer_to_server(servicer,
daemon.dispatcher)`, and run it.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from typing import Any, Callable

import guest
import vsrpc
from guest.config import GuestConfig
from guest.errors import ERRORS
from guest.files.sessions import UploadSessions
from guest.policy.commands import CommandPolicy
from guest.policy.paths import PathPolicy
from guest.services.file import FileService
from guest.services.service_manager import ServiceManagerService
from guest.services.shell import ShellServicer
from guest.services.system import SystemService
from vsrpc._version import __version__
from vsrpc.context import ServicerContext
from vsrpc.dispatcher import Dispatcher
from vsrpc.errors import RpcError
from vsrpc.server import Server
from vsrpc.transports import Listener
from vsrpc.v1.file_vsrpc import add_FileServicer_to_server
from vsrpc.v1.service_vsrpc import add_ServiceManagerServicer_to_server
from vsrpc.v1.shell_vsrpc import add_ShellServicer_to_server
from vsrpc.v1.system_vsrpc import add_SystemServicer_to_server

_log = logging.getLogger(__name__)

# Calls that come by the thousand: only those that fail are logged, since a line costs a slow guest more than the call.
_FREQUENT = frozenset(("/vsrpc.v1.System/Ping", "/vsrpc.v1.File/UploadChunk", "/vsrpc.v1.File/DownloadChunk"))


class Daemon:
    """The guest's services on a server. `config_file` is where the configuration came from: callers cannot touch it."""

    def __init__(self, config: GuestConfig, config_file: str) -> None:
        self.dispatcher = Dispatcher(
            errors=ERRORS,
            max_request_size=config.server.max_request_size,
            request_timeout=config.server.request_timeout,
            interceptors=(_log_call,),
        )
        paths = PathPolicy([each.path for each in config.security.allowed_paths], own=[config_file, *_program_places()])
        self._files = FileService(paths, config.server.max_request_size, UploadSessions())
        add_SystemServicer_to_server(SystemService(), self.dispatcher)
        commands = CommandPolicy(config.security.allowed_commands, paths)
        add_ShellServicer_to_server(ShellServicer(commands), self.dispatcher)
        add_FileServicer_to_server(self._files, self.dispatcher)
        add_ServiceManagerServicer_to_server(ServiceManagerService(), self.dispatcher)
        self._server = Server(self.dispatcher, agent=f"vsrpc-guest/{__version__}", workers=config.server.workers)

    def serve(self, listener: Listener) -> None:
        """Serve the listener's peers until stop(). Raises OSError when it cannot."""
        _log.info("vsrpc-guest %s serves %s", __version__, listener.address)
        self._server.serve(listener)

    def stop(self) -> None:
        """End all calls and what they started, remove what was half uploaded, and make serve() return."""
        self._server.stop()
        self._files.stop()


def _program_places() -> set[str]:
    """Where the daemon's own program is: a caller who may write there may do everything.

    That is all that Python would import from (a file beside our packages can pass for any module), and Python itself
    where it is not the system's. The directory that `python -m` was called in counts only where our packages are in it.
    """
    places = {place for place in sys.path if os.path.isabs(place)} - {os.getcwd()} | {sys.prefix, sys.base_prefix}
    places |= {os.path.dirname(os.path.abspath(package)) for package in (*guest.__path__, *vsrpc.__path__)}
    return places - {"/", "/usr", "/usr/local"}


def _log_call(proceed: Callable[[Any, ServicerContext], Any], request: Any, context: ServicerContext) -> Any:
    """One line for each call: what, for which request, how it ended, how long it took."""
    started = time.monotonic()
    status = "INTERNAL"
    try:
        response = proceed(request, context)
        status = "OK"
        return response
    except RpcError as failure:
        status = f"{failure.reason or failure.code().name}: {failure.details()}"
        raise
    finally:
        milliseconds = (time.monotonic() - started) * 1000
        level = logging.DEBUG if status == "OK" and context.path in _FREQUENT else logging.INFO
        _log.log(level, "%s [%s] %.1f ms %s", context.path, context.request_id, milliseconds, status)
