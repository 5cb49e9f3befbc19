"""Large content beside its message: one bytes field of a request or a response, as a buffer that nobody copies.

On the wire it is the same message. A servicer's method that is decorated with `@bulk` gets the field as
`context.content`, and gives it by `context.send_content()`; a caller uses a BulkMethod in a stub's place. In JSON the
field goes the ordinary way, and the servicer does not notice.

A field that is set, serialised, and joined with its head is copied three times, into pages that the kernel must first
provide; and as often again on the other side.
"""

from __future__ import annotations

from typing import Any, Callable, NamedTuple, Tuple, TypeVar

from vsrpc.method import MethodDescriptor
from vsrpc.wire import Buffer

F = TypeVar("F", bound=Callable[..., Any])

Parts = Tuple[bytes, Buffer]
"""A message's bytes: what is small, and the content at its end."""

_LENGTH_DELIMITED = 2
_FIXED = {1: 8, 5: 4}  # bytes of a field, by its wire type
_MAX_VARINT = 10

# Fields beside the content, from which on a message is left to the parser, which is made for that.
_MAX_FIELDS = 64


class BulkFields(NamedTuple):
    """Names of the bytes fields that stand beside their messages; "" for none."""

    request: str = ""
    response: str = ""


def bulk(*, request: str = "", response: str = "") -> Callable[[F], F]:
    """Decorates a servicer's method that takes a field of its request, or gives one of its response, as a buffer."""

    def decorate(function: F) -> F:
        function.__dict__["bulk_fields"] = BulkFields(request, response)
        return function

    return decorate


def bulk_fields(handler: Callable[..., Any]) -> BulkFields:
    """What a servicer's method was decorated with."""
    fields = getattr(handler, "bulk_fields", None)
    return fields if isinstance(fields, BulkFields) else BulkFields()


def split(body: Buffer, message_type: Any, field: str) -> tuple[bytes, Buffer]:
    """A message's bytes without the bytes field, and the field's value (protobuf.dev/programming-guides/encoding).

    Bytes that are no message, or one of very many fields, come back whole: their content is then the parser's matter.
    """
    wanted = _number(message_type, field) << 3 | _LENGTH_DELIMITED
    view = memoryview(body)
    rest: list[memoryview] = []
    content = view[:0]
    position = 0
    try:
        while position < len(view):
            start = position
            tag, position = _varint(view, position)
            kind = tag & 7
            if kind == 0:
                _, position = _varint(view, position)
            elif kind == _LENGTH_DELIMITED:
                length, position = _varint(view, position)
                position += length
                if tag == wanted and position <= len(view):
                    content = view[position - length : position]
                    continue
            else:
                position += _FIXED[kind]
            if position > len(view) or len(rest) == _MAX_FIELDS:
                raise IndexError
            rest.append(view[start:position])
    except (IndexError, KeyError):
        return bytes(view), b""
    return b"".join(rest), content


def join(message: Any, field: str, content: Buffer) -> Parts:
    """The bytes of a message with that content in a field that is empty in the message."""
    head: bytes = message.SerializeToString()
    if not len(content):
        return head, b""
    tag = _number(type(message), field) << 3 | _LENGTH_DELIMITED
    return head + _varint_bytes(tag) + _varint_bytes(len(content)), content


def _number(message_type: Any, field: str) -> int:
    number: int = message_type.DESCRIPTOR.fields_by_name[field].number
    return number


def _varint(view: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for index in range(_MAX_VARINT):
        byte = view[position + index]
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, position + index + 1
    raise IndexError


def _varint_bytes(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class BulkMethod:
    """A method whose callers give or get a field's content beside the message: (message, content) both ways."""

    def __init__(self, method: MethodDescriptor[Any, Any], *, request: str = "", response: str = "") -> None:
        self.method = method
        self._fields = BulkFields(request, response)

    def serialize(self, request: tuple[Any, Buffer]) -> Parts:
        """The request's bytes, content last."""
        message, content = request
        if not self._fields.request:
            return message.SerializeToString(), b""
        return join(message, self._fields.request, content)

    def deserialize(self, body: Buffer) -> tuple[Any, Buffer]:
        """The response without its content, and that. Raises protobuf's DecodeError."""
        content: Buffer = b""
        if self._fields.response:
            body, content = split(body, self.method.response_type, self._fields.response)
        message = self.method.response_type.FromString(bytes(body))
        if self._fields.response and not len(content):
            content = getattr(message, self._fields.response)
            message.ClearField(self._fields.response)
        return message, content
