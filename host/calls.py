"""Calls of one client: a backend's, with every failure as an RPCError."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Callable, Mapping

from host.errors import UsageError, from_rpc_error
from vsrpc.errors import RpcError
from vsrpc.log import Log

if TYPE_CHECKING:
    from host.backend import Backend, Reply, Started

log = Log(__name__)


class Calls:
    """Makes calls through the backend that `backend` gives, connecting if need be. Raises RPCError and UsageError."""

    def __init__(self, backend: Callable[[], Backend], give_way: Callable[[], None] = lambda: None) -> None:
        """`give_way` lets others have the port between two calls (Channel.give_way)."""
        self._backend = backend
        self.give_way = give_way

    @property
    def starts_at_once(self) -> bool:
        """Whether what `start` begins is under way before its reply is asked for."""
        return self._backend().starts_at_once

    def reply(self, service: str, rpc: str, fields: Mapping[str, Any], timeout: float | None = None) -> Reply:
        """Call an rpc and wait; `timeout` in seconds, None for the default."""
        _check_text(fields)
        started = time.monotonic()
        try:
            reply = self._backend().call(service, rpc, fields, timeout)
        except RpcError as error:
            raise from_rpc_error(error) from error
        log.debug("%s.%s: %.1f ms", service, rpc, (time.monotonic() - started) * 1000)
        return reply

    def start(self, service: str, rpc: str, fields: Mapping[str, Any], timeout: float | None = None) -> _Pending:
        """Begin a call that may be repeated."""
        _check_text(fields)
        return _Pending(self._backend().start(service, rpc, fields, timeout))


class FileCalls:
    """The File service's part of them, as the transfer engine wants it (host.transfer.FileCalls)."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def call(self, rpc: str, fields: Mapping[str, Any], timeout: float | None = None) -> Reply:
        """Call an rpc and wait."""
        return self._calls.reply("File", rpc, fields, timeout)

    def start(self, rpc: str, fields: Mapping[str, Any], timeout: float | None = None) -> _Pending:
        """Begin a call that may be repeated."""
        return self._calls.start("File", rpc, fields, timeout)


class _Pending:
    """A call under way."""

    def __init__(self, started: Started) -> None:
        self._started = started

    def result(self) -> Reply:
        try:
            return self._started.result()
        except RpcError as error:
            raise from_rpc_error(error) from error

    def cancel(self) -> None:
        self._started.cancel()


def _check_text(value: object) -> None:
    """Refuse text that is no Unicode (a file name in another encoding): no wire format can carry it."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raw = value.encode("utf-8", "surrogateescape")
            shown = raw.decode("utf-8", "backslashreplace")
            message = (
                f"'{shown}' is not valid UTF-8, which all but names of files must be: write it so, in a UTF-8 locale"
            )
            raise UsageError(message) from None
    elif isinstance(value, dict):
        for key, each in value.items():
            _check_text(key)
            _check_text(each)
    elif isinstance(value, list):
        for each in value:
            _check_text(each)
