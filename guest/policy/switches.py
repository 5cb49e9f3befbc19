"""Which services are served at all: `security.services`.

A switch counts for every call of its service, whichever way it comes: the dispatcher runs the interceptor for rpc
paths and for REST routes alike. Services of other packages have no switch.
"""

from __future__ import annotations

from typing import Any, Callable, Mapping

from guest.errors import error
from vsrpc.context import ServicerContext
from vsrpc.method import Idempotency, MethodDescriptor
from vsrpc.v1.file_vsrpc import FILE_SERVICE
from vsrpc.v1.job_vsrpc import JOB_SERVICE
from vsrpc.v1.machine_vsrpc import MACHINE_SERVICE
from vsrpc.v1.service_vsrpc import SERVICE_MANAGER_CONTROL, SERVICE_MANAGER_SERVICE
from vsrpc.v1.shell_vsrpc import SHELL_SERVICE
from vsrpc.v1.system_vsrpc import SYSTEM_PING, SYSTEM_SERVICE

KEYS = {
    "system": SYSTEM_SERVICE,
    "shell": SHELL_SERVICE,
    "file": FILE_SERVICE,
    "service_manager": SERVICE_MANAGER_SERVICE,
}
"""The services by their keys in the configuration."""

WITH = {"shell": JOB_SERVICE, "system": MACHINE_SERVICE}
"""Services that go with another one's switch."""

_KEYS = {method.path: key for key, service in (*KEYS.items(), *WITH.items()) for method in service.methods}

METHODS = {method.path: method for service in (*KEYS.values(), *WITH.values()) for method in service.methods}
"""All of their methods, by path."""


def only_looks(method: MethodDescriptor[Any, Any], request: Any) -> bool:
    """Whether a call changes nothing."""
    if method is SERVICE_MANAGER_CONTROL:  # one rpc both looks and changes: which one it does stands in its request
        return bool(request.action == "status")
    return method.idempotency is Idempotency.NO_SIDE_EFFECTS


class Switches:
    """How much is served, by the keys of KEYS: "on", "read-only" (the rpcs without side effects) or "off".

    Ping is always served: it tells nothing but that the daemon is alive, which the host must be able to ask.
    """

    def __init__(self, services: Mapping[str, str]) -> None:
        self._services = dict(services)

    def check(self, rpc: str, request: Any) -> None:
        """Raise PERMISSION_DENIED for a call that is switched off; `rpc` is its path, /package.Service/Rpc."""
        method = METHODS.get(rpc)
        if method is None or method is SYSTEM_PING:
            return
        key = _KEYS[rpc]
        switch = self._services[key]
        if switch == "on" or (switch == "read-only" and only_looks(method, request)):
            return
        name = method.service.rpartition(".")[2]
        rule = f"security.services.{key}"
        state = "switched to read-only" if switch == "read-only" else "switched off"
        message = f"Service {state}: {name} ({rule} in the guest's configuration)"
        raise error("PERMISSION_DENIED", message, rule=rule)

    def intercept(self, proceed: Callable[[Any, ServicerContext], Any], request: Any, context: ServicerContext) -> Any:
        """Serve the call if it is not switched off (a vsrpc.interceptor.ServerInterceptor)."""
        self.check(context.path, request)
        return proceed(request, context)
