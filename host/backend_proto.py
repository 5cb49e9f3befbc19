"""Calls through the typed stubs, in protobuf. Importing this fails with ImportError where protobuf is not there.

A service's generated module is imported when it is first called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Mapping

import google.protobuf  # noqa: F401  # here, so that its absence shows before the first call

from host.backend import Buffer, Reply
from host.errors import UsageError
from vsrpc.codec import to_json
from vsrpc.method import ServiceDescriptor

if TYPE_CHECKING:
    from vsrpc.channel import Channel

StubFactory = Callable[["Channel"], Any]


def _system() -> tuple[ServiceDescriptor, StubFactory]:
    from vsrpc.v1.system_vsrpc import SYSTEM_SERVICE, SystemStub

    return SYSTEM_SERVICE, SystemStub


def _shell() -> tuple[ServiceDescriptor, StubFactory]:
    from vsrpc.v1.shell_vsrpc import SHELL_SERVICE, ShellStub

    return SHELL_SERVICE, ShellStub


def _file() -> tuple[ServiceDescriptor, StubFactory]:
    from vsrpc.v1.file_vsrpc import FILE_SERVICE, FileStub

    return FILE_SERVICE, FileStub


def _service_manager() -> tuple[ServiceDescriptor, StubFactory]:
    from vsrpc.v1.service_vsrpc import SERVICE_MANAGER_SERVICE, ServiceManagerStub

    return SERVICE_MANAGER_SERVICE, ServiceManagerStub


_SERVICES: Mapping[str, Callable[[], tuple[ServiceDescriptor, StubFactory]]] = {
    "System": _system,
    "Shell": _shell,
    "File": _file,
    "ServiceManager": _service_manager,
}


class ProtoBackend:
    """The backend that uses the typed stubs."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._stubs: dict[str, tuple[ServiceDescriptor, Any]] = {}

    def call(self, service: str, rpc: str, fields: Mapping[str, Any], timeout: float | None = None) -> Reply:
        """Call an rpc; see Backend.call. Raises RpcError, and UsageError for a field of the wrong type."""
        if service not in self._stubs:
            descriptor, factory = _SERVICES[service]()
            self._stubs[service] = descriptor, factory(self._channel)
        descriptor, stub = self._stubs[service]
        method = next(each for each in descriptor.methods if each.name == rpc)
        try:
            request = method.request_type(**fields)
        except (TypeError, ValueError) as error:
            raise UsageError(f"{rpc} cannot be called like this: {error}") from None
        response = getattr(stub, rpc)(request, timeout=timeout)
        content: Buffer = b""
        if "content" in response.DESCRIPTOR.fields_by_name:
            content = response.content
            response.ClearField("content")
        data = to_json(response, descriptor.text_fields)
        data.pop("content", None)
        return Reply(data, content)
