"""Interceptors: what wraps every call of a channel, or of a server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Protocol

from vsrpc.metadata import Metadata
from vsrpc.method import Idempotency
from vsrpc.retry import Effect

if TYPE_CHECKING:
    from vsrpc.context import ServicerContext


@dataclass(frozen=True)
class CallDetails:
    """A call that is about to be made; an interceptor hands on a changed copy (dataclasses.replace)."""

    path: str
    timeout: float | None
    metadata: Metadata
    idempotency: Idempotency = Idempotency.UNKNOWN
    effect: Effect | None = None
    """The same for all attempts of one call that must not take effect twice; to be left as it is."""


class ClientInterceptor(Protocol):
    """Wraps each attempt of a channel's calls."""

    def __call__(self, proceed: Callable[[CallDetails, Any], Any], details: CallDetails, request: Any) -> Any:
        """Make the call by `proceed(details, request)`, which returns the call's future, and return a future."""


class ServerInterceptor(Protocol):
    """Wraps each call that reaches a servicer."""

    def __call__(self, proceed: Callable[[Any, ServicerContext], Any], request: Any, context: ServicerContext) -> Any:
        """Serve the call by `proceed(request, context)` and return the response; RpcErrors pass through."""
