"""What the schema says of a method, as frozen data.

Generated code makes these; the channel, the dispatcher and the JSON client read them. Nothing here does any
input or output, or imports protobuf.
"""

from __future__ import annotations

import enum
from typing import Any, Callable, Generic, Mapping, NamedTuple, TypeVar

Req = TypeVar("Req")
Res = TypeVar("Res")


class Idempotency(enum.Enum):
    """What a method's `idempotency_level` promises (google/protobuf/descriptor.proto)."""

    UNKNOWN = 0  # running it twice may have two effects
    NO_SIDE_EFFECTS = 1  # it only reads
    IDEMPOTENT = 2  # running it twice has the effect of running it once

    @property
    def retry_safe(self) -> bool:
        """Whether a call may be sent again when it is not known whether it ran."""
        return self is not Idempotency.UNKNOWN


class Route(NamedTuple):
    """One REST route of a method (google.api.http).

    `body` is "*" (the JSON body is the request), a field's name (the body is that field), or "" (no body: fields
    come from the query). `template` may have variables, "/things/{id}", that fill fields of the request.
    """

    http_method: str
    template: str
    rpc_path: str
    body: str = ""
    idempotency: Idempotency = Idempotency.UNKNOWN


class MethodDescriptor(Generic[Req, Res]):
    """A unary method: its full service name, its name, its message classes, what may be retried."""

    # Not a dataclass, nor a named tuple: the one takes too long to load, and the other cannot be generic.
    __slots__ = ("idempotency", "name", "request_type", "response_type", "service")

    def __init__(
        self,
        service: str,
        name: str,
        request_type: type[Req],
        response_type: type[Res],
        idempotency: Idempotency = Idempotency.UNKNOWN,
    ) -> None:
        self.service = service
        self.name = name
        self.request_type = request_type
        self.response_type = response_type
        self.idempotency = idempotency

    def __eq__(self, other: object) -> bool:
        return self._values() == other._values() if isinstance(other, MethodDescriptor) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._values())

    def __repr__(self) -> str:
        return f"MethodDescriptor{self._values()!r}"

    def _values(self) -> tuple[object, ...]:
        return self.service, self.name, self.request_type, self.response_type, self.idempotency

    @property
    def path(self) -> str:
        """The rpc path, for example "/vsrpc.v1.System/Info"."""
        return f"/{self.service}/{self.name}"

    def request(self, request: Req | None) -> Req:
        """The request; None stands for an empty one. Raises TypeError for a message of another type."""
        if request is None:
            return self.request_type()
        if not isinstance(request, self.request_type):
            raise TypeError(f"{self.path} takes a {self.request_type.__name__}, not a {type(request).__name__}")
        return request

    def serialize(self, request: Req | None) -> bytes:
        """The request as protobuf bytes. Raises TypeError as `request` does.

        Stubs hand this bound method to `channel.unary_unary`, so that they also run on a grpc.Channel; ours
        finds the descriptor through `of`.
        """
        return self.request(request).SerializeToString()  # type: ignore[attr-defined, no-any-return]

    def deserialize(self, data: bytes) -> Res:
        """The response of protobuf bytes; raises protobuf's DecodeError."""
        return self.response_type.FromString(data)  # type: ignore[attr-defined, no-any-return]

    @staticmethod
    def of(serializer: Callable[..., Any]) -> MethodDescriptor[Any, Any] | None:
        """The descriptor whose bound `serialize` this is; None for any other callable."""
        owner = getattr(serializer, "__self__", None)
        return owner if isinstance(owner, MethodDescriptor) else None


class ServiceDescriptor(NamedTuple):
    """A service: its methods, its REST routes, and which bytes fields JSON shows as text.

    `text_fields` maps a message's full name to the names of its fields with the `text` option.
    """

    name: str
    methods: tuple[MethodDescriptor[Any, Any], ...]
    routes: tuple[Route, ...] = ()
    text_fields: Mapping[str, tuple[str, ...]] = {}


class ErrorCodeEntry(NamedTuple):
    """One numeric error code of the schema: short name, number, HTTP status on REST routes, rpc status name."""

    reason: str
    number: int
    http_status: int
    rpc_code: str
