"""Calls as JSON on the REST routes, for hosts without protobuf: plain dictionaries in, plain dictionaries out.

Routes come from the generated tables; protobuf is never imported here or by what is imported here. File content
travels as base64.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import TYPE_CHECKING, Any, Callable, Dict, Mapping, NoReturn
from urllib.parse import urlencode

from host.backend import Reply
from host.errors import NUMBERS, RPCError
from vsrpc.connect_unary import timeout_header
from vsrpc.method import Route

if TYPE_CHECKING:
    from vsrpc.channel import Channel
    from vsrpc.wire import Response


def _system() -> tuple[Route, ...]:
    from vsrpc.v1.system_tables import SYSTEM_ROUTES

    return SYSTEM_ROUTES


def _shell() -> tuple[Route, ...]:
    from vsrpc.v1.shell_tables import SHELL_ROUTES

    return SHELL_ROUTES


def _file() -> tuple[Route, ...]:
    from vsrpc.v1.file_tables import FILE_ROUTES

    return FILE_ROUTES


def _job() -> tuple[Route, ...]:
    from vsrpc.v1.job_tables import JOB_ROUTES

    return JOB_ROUTES


def _machine() -> tuple[Route, ...]:
    from vsrpc.v1.machine_tables import MACHINE_ROUTES

    return MACHINE_ROUTES


def _service_manager() -> tuple[Route, ...]:
    from vsrpc.v1.service_tables import SERVICE_MANAGER_ROUTES

    return SERVICE_MANAGER_ROUTES


_ROUTES: Mapping[str, Callable[[], tuple[Route, ...]]] = {
    "System": _system,
    "Shell": _shell,
    "File": _file,
    "Job": _job,
    "Machine": _machine,
    "ServiceManager": _service_manager,
}


class JsonBackend:
    """The backend that needs no protobuf."""

    starts_at_once = False

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def call(self, service: str, rpc: str, fields: Mapping[str, Any], timeout: float | None = None) -> Reply:
        """Call an rpc; see Backend.call. Raises RPCError for what the guest says, RpcError for the way there."""
        route = next(each for each in _ROUTES[service]() if each.rpc_path.endswith(f"/{rpc}"))
        deadline = self._channel.deadline(timeout)
        target, headers, body = route.template, [("accept", "application/json"), *timeout_header(deadline)], b""
        if route.body:
            body = json.dumps(fields, default=_base64_text).encode()
            headers.append(("content-type", "application/json"))
        elif fields:
            query = {name: _base64_text(each) if isinstance(each, bytes) else each for name, each in fields.items()}
            target += "?" + urlencode(query, safe="/")
        response = self._channel.http(
            route.http_method,
            target,
            headers=headers,
            body=body,
            timeout=timeout,
            retry_safe=route.idempotency.retry_safe,
        )
        data = _data_of(response)
        content = data.pop("content", "")
        try:
            return Reply(data, base64.b64decode(content, validate=True) if content else b"")
        except (binascii.Error, TypeError, ValueError) as error:
            raise _not_ours(f"`content` is not base64: {error}") from None

    def start(self, service: str, rpc: str, fields: Mapping[str, Any], timeout: float | None = None) -> _Later:
        """See Backend.start: here a call is made when its reply is asked for."""
        return _Later(lambda: self.call(service, rpc, fields, timeout))


class _Later:
    """A call that is made when its reply is asked for."""

    def __init__(self, call: Callable[[], Reply]) -> None:
        self._call = call

    def result(self) -> Reply:
        return self._call()

    def cancel(self) -> None:
        """Nothing is under way."""


def _base64_text(value: object) -> str:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(value).decode("ascii")
    raise TypeError(f"{type(value).__name__} cannot be sent as JSON")


def _data_of(response: Response) -> dict[str, Any]:
    """`data` of the envelope; raises RPCError for an error in it or for what is no envelope."""
    try:
        envelope = json.loads(bytes(response.body))
    except (ValueError, RecursionError) as error:
        raise _not_ours(f"HTTP status {response.status}, and the body is no JSON: {error}") from None
    if not isinstance(envelope, dict) or not isinstance(envelope.get("code"), int):
        raise _not_ours(f"HTTP status {response.status}, and the JSON is no envelope with a numeric `code`")
    data = envelope.get("data") or {}
    if not isinstance(data, dict):
        raise _not_ours("`data` of the envelope is no JSON object")
    if envelope["code"] != 0:
        raise RPCError(envelope["code"], str(envelope.get("message", "")), data)
    return _Fields(data)


class _Fields(Dict[str, Any]):
    """The fields of a reply. One that is missing and must be there is the guest's fault."""

    def __missing__(self, name: str) -> NoReturn:
        raise _not_ours(f"the field {name!r} is missing")


def _not_ours(what: str) -> RPCError:
    return RPCError(
        NUMBERS["PROTOCOL_ERROR"],
        f"the reply is not one of a vsrpc guest: {what}; check the socket's path and the versions of both ends",
    )
