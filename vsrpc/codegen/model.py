"""The schema as the renderers see it: frozen values, checked, without protobuf.

Only `read` makes these. Full names have no leading dot ("vsrpc.v1.InfoRequest"); comments are as in the source, without
the comment marks and the space after them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Mapping

from vsrpc.method import Route


class SchemaError(Exception):
    """The schema cannot be generated; one line that says where, what, and what to do."""


@dataclass(frozen=True)
class Field:
    """A field of a message. `type` is the schema's word for it ("int64", "message" …).

    `type_name` is the full name of a message's or enum's type, else "". A map field is a repeated message whose type
    is a map entry. `text` is the option that shows bytes as a string in JSON.
    """

    name: str
    type: str
    type_name: str
    repeated: bool
    has_presence: bool
    oneof: str
    text: bool
    comment: str


@dataclass(frozen=True)
class Message:
    """A message. `python_path` is its class in its module, "Outer.Inner" when nested."""

    full_name: str
    file: str
    python_path: str
    fields: tuple[Field, ...]
    map_entry: bool
    comment: str

    def field(self, name: str) -> Field | None:
        """The field of that name, or None."""
        return next((field for field in self.fields if field.name == name), None)


@dataclass(frozen=True)
class EnumValue:
    """A value of an enum."""

    name: str
    number: int
    comment: str


@dataclass(frozen=True)
class Enum:
    """An enum."""

    full_name: str
    values: tuple[EnumValue, ...]
    comment: str


@dataclass(frozen=True)
class ErrorCode:
    """An enum value with the `(vsrpc.options.v1.error)` option; `reason` is its name without the enum's prefix."""

    reason: str
    number: int
    http_status: int
    rpc_code: str
    comment: str


@dataclass(frozen=True)
class Method:
    """A unary rpc. `idempotency` is a name of vsrpc.method.Idempotency; `where` is its place in the source."""

    name: str
    request: str
    response: str
    idempotency: str
    routes: tuple[Route, ...]
    comment: str
    where: str


@dataclass(frozen=True)
class Service:
    """A service; `full_name` with its package."""

    name: str
    full_name: str
    methods: tuple[Method, ...]
    comment: str


@dataclass(frozen=True)
class File:
    """A .proto file.

    `descriptor` is its serialised FileDescriptorProto, without comments and custom options; `imports` are the files
    that this descriptor still needs, `public_imports` those among them that it hands on.
    """

    name: str
    package: str
    comment: str
    services: tuple[Service, ...]
    messages: tuple[Message, ...]
    error_codes: tuple[ErrorCode, ...]
    imports: tuple[str, ...]
    public_imports: tuple[str, ...]
    descriptor: bytes


@dataclass(frozen=True)
class Schema:
    """The files to generate, and every message and enum that they can refer to, by full name."""

    files: tuple[File, ...]
    messages: Mapping[str, Message]
    enums: Mapping[str, Enum]

    def reachable(self, *roots: str) -> frozenset[str]:
        """Full names of the messages and enums that these messages hold, themselves included."""
        seen: set[str] = set()
        todo = list(roots)
        while todo:
            name = todo.pop()
            if name not in seen:
                seen.add(name)
                if name in self.messages:
                    todo.extend(field.type_name for field in self.messages[name].fields if field.type_name)
        return frozenset(seen)
