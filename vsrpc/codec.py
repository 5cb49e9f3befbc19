"""Codecs: message ↔ body, by content type. Protobuf's json_format reads JSON, after what it would let through.

Our JSON is the protobuf JSON mapping with three differences that readers of that mapping accept: names are the
schema's (snake_case), fields at their default are printed, and 64-bit integers are numbers as long as a double holds
them exactly (beyond 2^53 they stay strings, since a number would be rounded). On REST routes, bytes fields with the
`text` option are shown as text as well.
"""

from __future__ import annotations

import base64
import functools
import json
import math
import re
import struct
from typing import Any, Callable, Mapping

from vsrpc.errors import RpcError
from vsrpc.fields import (
    has_presence,
    is_bytes,
    is_enum,
    is_float,
    is_int64,
    is_map,
    is_repeated,
    json_kind,
    map_value,
)
from vsrpc.status import Code
from vsrpc.wire import Buffer

PROTO_TYPES = ("application/proto", "application/x-protobuf")
JSON_TYPE = "application/json"

TextFields = Mapping[str, "tuple[str, ...]"]

# RFC 4648 section 4 or 5, with or without padding: both are read, as in protobuf's JSON mapping.
_BASE64 = re.compile(r"(?:[A-Za-z0-9+/]*|[A-Za-z0-9_-]*)={0,2}\Z")

_SHOWN = 60  # characters of a wrong value that its error shows

_MAX_EXACT = 2**53 - 1  # RFC 8259 section 6: integers that every reader gets exactly


def parse_proto(message_type: Any, body: Buffer) -> Any:
    """The message of protobuf bytes. Raises RpcError INVALID_ARGUMENT, also for a field that the schema lacks."""
    if not len(body):
        return message_type()
    decode_error, _ = _protobuf()
    try:
        message = message_type.FromString(bytes(body))
    except decode_error as error:
        name = message_type.DESCRIPTOR.full_name
        raise RpcError(Code.INVALID_ARGUMENT, f"the body is not a {name}: {error}", reason="INVALID_PARAMS") from None
    number = unknown_field(message)
    if number:
        raise RpcError(
            Code.INVALID_ARGUMENT,
            f"{message_type.DESCRIPTOR.full_name} has no field {number}: the caller's schema is newer than this "
            "server's; upgrade the server, or leave the field unset",
            reason="INVALID_PARAMS",
            data={"field": str(number)},
        )
    return message


@functools.lru_cache(maxsize=1)
def _protobuf() -> tuple[Any, Callable[[Any], Any]]:
    """What is needed of protobuf, which is not loaded where only JSON is spoken: DecodeError, and unknown fields."""
    from google.protobuf.message import DecodeError

    try:
        from google.protobuf.unknown_fields import UnknownFieldSet  # 4.21 and newer
    except ImportError:
        return DecodeError, lambda message: message.UnknownFields()
    return DecodeError, UnknownFieldSet


@functools.lru_cache(maxsize=256)
def _is_flat(descriptor: Any) -> bool:
    return all(field.message_type is None for field in descriptor.fields)


def unknown_field(message: Any) -> int:
    """Number of one field that the schema lacks, at any depth; 0 when there is none."""
    _, unknown_fields = _protobuf()
    for field in unknown_fields(message):
        return int(field.field_number)
    if _is_flat(message.DESCRIPTOR):
        return 0  # nothing below; ListFields would copy large fields
    for descriptor, value in message.ListFields():
        if descriptor.message_type is None:
            continue
        for child in _children(descriptor, value):
            number = unknown_field(child)
            if number:
                return number
    return 0


def _children(descriptor: Any, value: Any) -> list[Any]:
    if is_map(descriptor):
        return [] if map_value(descriptor).message_type is None else list(value.values())
    return list(value) if is_repeated(descriptor) else [value]


# -- JSON


def load_json(body: Buffer) -> dict[str, Any]:
    """The JSON object in a body; an empty body is an empty object. Raises RpcError INVALID_ARGUMENT."""
    if not len(body):
        return {}
    value = load_json_value(body)
    if not isinstance(value, dict):
        raise _json_error(f"the body is a JSON {_json_kind(value)}, not an object")
    return value


def load_json_value(body: Buffer) -> Any:
    """The JSON value in a body. Raises RpcError INVALID_ARGUMENT."""
    try:
        return json.loads(bytes(body).decode("utf-8"), object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise _json_error(f"the body is not UTF-8: {error.reason} at byte {error.start}") from None
    except RecursionError:
        raise _json_error("the body is nested too deeply") from None
    except ValueError as error:
        raise _json_error(f"the body is not valid JSON: {error}") from None


def _json_error(message: str) -> RpcError:
    return RpcError(Code.INVALID_ARGUMENT, message, reason="JSON_PARSE_ERROR")


def _json_kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, (int, float)):
        return "number"
    return "array" if isinstance(value, list) else "string"


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {twice!r} comes twice in one object")
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON; protobuf's JSON mapping writes it as a string")


def from_json(message_type: Any, value: dict[str, Any]) -> Any:
    """The message of a JSON object. Raises RpcError INVALID_ARGUMENT naming the field."""
    from google.protobuf import json_format

    message = message_type()
    try:
        _check_object(message_type.DESCRIPTOR, value, "")
        json_format.ParseDict(value, message)
    # TypeError and ValueError: what ParseDict lets through for some wrong types.
    except (json_format.ParseError, RecursionError, TypeError, ValueError) as error:
        raise _explained(message_type, value, error) from None
    return message


def _explained(message_type: Any, value: dict[str, Any], error: Exception) -> RpcError:
    """The error of the first field that is wrong by itself: protobuf's words leave out its name, or its value."""
    from google.protobuf import json_format

    names = _names(message_type.DESCRIPTOR)
    for name, item in value.items():
        field = names.get(name)
        if field is None:
            known = sorted(field.name for field in message_type.DESCRIPTOR.fields)
            return _bad_field(f"unknown field {name!r}; the fields are: {', '.join(known) or 'none'}", name)
        try:
            json_format.ParseDict({name: item}, message_type())
        except (json_format.ParseError, RecursionError, TypeError, ValueError) as cause:
            if field.message_type is not None or is_repeated(field):
                return _bad_field(f"bad value: {field.name}: {cause}", field.name)
            shown = json.dumps(item)
            shown = shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "…"
            return _bad_field(f"bad value: {field.name} is {shown}; {json_kind(field)} is expected", field.name)
    return RpcError(Code.INVALID_ARGUMENT, f"bad value: {error}", reason="INVALID_PARAMS")


def _names(descriptor: Any) -> dict[str, Any]:
    """Each name that a field may have in JSON, and the field."""
    return {name: field for field in descriptor.fields for name in (field.name, field.json_name)}


def _check_object(descriptor: Any, value: Any, path: str) -> None:
    """Refuse what json_format takes although it loses something by it."""
    if not isinstance(value, dict) or descriptor.full_name.startswith("google.protobuf."):
        return  # the well-known types have JSON of their own; the rest json_format refuses
    names = _names(descriptor)
    given: set[str] = set()
    for name, item in value.items():
        field = names.get(name)
        if field is None:
            continue
        if field.name in given:
            raise _bad_field(f"field {path}{field.name} is given twice, under both of its names", path + field.name)
        given.add(field.name)
        if is_map(field):
            for key, each in item.items() if isinstance(item, dict) else ():
                _check_value(map_value(field), each, f"{path}{field.name}[{key!r}]")
        elif is_repeated(field):
            for index, each in enumerate(item if isinstance(item, list) else ()):
                _check_value(field, each, f"{path}{field.name}[{index}]")
        else:
            _check_value(field, item, path + field.name)


def _check_value(field: Any, value: Any, path: str) -> None:
    if field.message_type is not None:
        if isinstance(value, list) and not field.message_type.full_name.startswith("google.protobuf."):
            raise _bad_field(f"bad value: {path} is an array, not an object", path)
        _check_object(field.message_type, value, path + ".")
    elif is_bytes(field):
        # json_format would decode what is left without the characters that are no base64.
        if isinstance(value, str) and not _BASE64.match(value):
            raise _bad_field(f"bad value: {path} is not base64, which JSON has for bytes", path)
    elif is_enum(field) and isinstance(value, float) and not value.is_integer():
        raise _bad_field(f"bad value: {path} is {value}, not a name or number of {field.enum_type.full_name}", path)


def _bad_field(message: str, field: str) -> RpcError:
    return RpcError(Code.INVALID_ARGUMENT, message, reason="INVALID_PARAMS", data={"field": field})


def to_json(message: Any, text_fields: TextFields | None = None) -> dict[str, Any]:
    """The message as a JSON object; bytes fields named in `text_fields` (by message) as text."""
    descriptor = message.DESCRIPTOR
    if descriptor.full_name.startswith("google.protobuf."):
        well_known: dict[str, Any] = _well_known_to_json(message)
        return well_known
    value = {
        field.name: _field_to_json(field, getattr(message, field.name), text_fields)
        for field in descriptor.fields
        if not has_presence(field) or message.HasField(field.name)
    }
    if descriptor.is_extendable:
        for field, extension in message.ListFields():
            if field.is_extension:
                value[f"[{field.full_name}]"] = _field_to_json(field, extension, text_fields)
    for name in (text_fields or {}).get(descriptor.full_name, ()):
        if name in value:
            _show_text(value, name)
    return value


def dump_json(value: Any) -> bytes:
    """JSON text of a value made by to_json, compact, as UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode("utf-8")


def _field_to_json(field: Any, value: Any, text_fields: TextFields | None) -> Any:
    if is_map(field):
        of_value = map_value(field)
        return {_key_to_json(key): _value_to_json(of_value, value[key], text_fields) for key in value}
    if is_repeated(field):
        return [_value_to_json(field, each, text_fields) for each in value]
    return _value_to_json(field, value, text_fields)


def _key_to_json(key: Any) -> str:
    return str(key).lower() if isinstance(key, bool) else str(key)


def _value_to_json(field: Any, value: Any, text_fields: TextFields | None) -> Any:
    if field.message_type is not None:
        return to_json(value, text_fields)
    if is_enum(field):
        if field.enum_type.full_name == "google.protobuf.NullValue":
            return None
        named = field.enum_type.values_by_number.get(value)
        return value if named is None else named.name
    if is_bytes(field):
        return base64.b64encode(value).decode("ascii")
    if is_int64(field):
        return value if abs(value) <= _MAX_EXACT else str(value)
    if isinstance(value, float):
        return _float_to_json(value, is_float(field))
    return value


def _float_to_json(value: float, single: bool) -> float | str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return _shortest(value) if single else value


def _shortest(value: float) -> float:
    """The number with the fewest digits that is this one in 32 bits."""
    for digits in range(6, 9):
        short = float(f"{value:.{digits}g}")
        if struct.unpack("f", struct.pack("f", short))[0] == value:
            return short
    return float(f"{value:.9g}")


def _well_known_to_json(message: Any) -> Any:
    """Those have JSON of their own."""
    import inspect

    from google.protobuf import json_format

    # 5.26 renamed the option that prints fields at their default.
    name = "always_print_fields_with_no_presence"
    if name not in inspect.signature(json_format.MessageToDict).parameters:
        name = "including_default_value_fields"
    options: Any = {name: True}
    return json_format.MessageToDict(message, preserving_proto_field_name=True, **options)


def _show_text(value: dict[str, Any], name: str) -> None:
    encoded = value[name]
    data = base64.b64decode(encoded)
    try:
        value[name] = data.decode("utf-8")
    except UnicodeDecodeError:
        value[name] = data.decode("utf-8", "replace")
        value[f"{name}_invalid_utf8"] = True
        value[f"{name}_base64"] = encoded
