"""Calls through the typed stubs, in protobuf. Importing this fails with ImportError where protobuf is not there.

A service's generated module is imported when it is first called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Iterator, Mapping

import google.protobuf  # noqa: F401  # here, so that its absence shows before the first call

from host.backend import LARGE, Buffer, Reply
from host.errors import UsageError
from vsrpc.bulk import BulkMethod
from vsrpc.codec import to_json
from vsrpc.errors import RpcError
from vsrpc.fields import is_map, is_repeated
from vsrpc.method import MethodDescriptor, ServiceDescriptor
from vsrpc.retry import may_help

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


def _job() -> tuple[ServiceDescriptor, StubFactory]:
    from vsrpc.v1.job_vsrpc import JOB_SERVICE, JobStub

    return JOB_SERVICE, JobStub


def _machine() -> tuple[ServiceDescriptor, StubFactory]:
    from vsrpc.v1.machine_vsrpc import MACHINE_SERVICE, MachineStub

    return MACHINE_SERVICE, MachineStub


def _service_manager() -> tuple[ServiceDescriptor, StubFactory]:
    from vsrpc.v1.service_vsrpc import SERVICE_MANAGER_SERVICE, ServiceManagerStub

    return SERVICE_MANAGER_SERVICE, ServiceManagerStub


_SERVICES: Mapping[str, Callable[[], tuple[ServiceDescriptor, StubFactory]]] = {
    "System": _system,
    "Shell": _shell,
    "File": _file,
    "Job": _job,
    "Machine": _machine,
    "ServiceManager": _service_manager,
}


class ProtoBackend:
    """The backend that uses the typed stubs."""

    starts_at_once = True

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._stubs: dict[str, tuple[ServiceDescriptor, Any]] = {}
        self._bulk: dict[str, tuple[MethodDescriptor[Any, Any], Any]] = {}

    def call(self, service: str, rpc: str, fields: Mapping[str, Any], timeout: float | None = None) -> Reply:
        """Call an rpc; see Backend.call. Raises RpcError, and UsageError for a field of the wrong type."""
        descriptor, stub, method = self._method(service, rpc)
        request = _request(method, fields)
        response = getattr(stub, rpc)(request, timeout=timeout)
        content: Buffer = b""
        if "content" in response.DESCRIPTOR.fields_by_name:
            content = response.content
            response.ClearField("content")
        data = to_json(response, descriptor.text_fields)
        data.pop("content", None)
        return Reply(data, content)

    def start(self, service: str, rpc: str, fields: Mapping[str, Any], timeout: float | None = None) -> _Bulk:
        """See Backend.start. Content stands beside its message, and is not copied."""
        if rpc not in self._bulk:
            _, _, method = self._method(service, rpc)
            names = [_large(each) for each in _types(method)]
            self._bulk[rpc] = method, self._channel.bulk(BulkMethod(method, request=names[0], response=names[1]))
        method, callable_ = self._bulk[rpc]
        others = {name: value for name, value in fields.items() if name != "content"}
        return _Bulk(callable_, (_request(method, others), fields.get("content", b"")), timeout)

    def _method(self, service: str, rpc: str) -> tuple[ServiceDescriptor, Any, MethodDescriptor[Any, Any]]:
        if service not in self._stubs:
            descriptor, factory = _SERVICES[service]()
            self._stubs[service] = descriptor, factory(self._channel)
        descriptor, stub = self._stubs[service]
        return descriptor, stub, next(each for each in descriptor.methods if each.name == rpc)


class _Bulk:
    """A call under way; where its reply was lost, it is made again."""

    def __init__(self, callable_: Any, request: tuple[Any, Buffer], timeout: float | None) -> None:
        self._callable = callable_
        self._request = request
        self._timeout = timeout
        self._call = callable_.future(request, timeout=timeout)

    def result(self) -> Reply:
        try:
            response, content = self._call.result()
        except RpcError as error:
            if not may_help(error, repeatable=True):
                raise
            response, content = self._callable(self._request, timeout=self._timeout)
        return Reply(dict(_fields(response)), content)

    def cancel(self) -> None:
        self._call.cancel()


def _types(method: MethodDescriptor[Any, Any]) -> tuple[Any, Any]:
    return method.request_type, method.response_type


def _request(method: MethodDescriptor[Any, Any], fields: Mapping[str, Any]) -> Any:
    try:
        return method.request_type(**fields)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{method.name} cannot be called like this: {error}") from None


def _large(message_type: Any) -> str:
    return next((name for name in LARGE if name in message_type.DESCRIPTOR.fields_by_name), "")


def _fields(message: Any) -> Iterator[tuple[str, Any]]:
    """The fields of a message; messages, and optional ones, each in a oneof of its own, only where they are set."""
    for field in message.DESCRIPTOR.fields:
        if field.message_type is None:
            if field.containing_oneof is None or message.HasField(field.name):
                yield field.name, getattr(message, field.name)
        elif is_map(field):
            yield field.name, dict(getattr(message, field.name))
        elif is_repeated(field):
            yield field.name, [dict(_fields(each)) for each in getattr(message, field.name)]
        elif message.HasField(field.name):
            yield field.name, dict(_fields(getattr(message, field.name)))
