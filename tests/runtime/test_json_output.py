"""What messages are in JSON: protobuf's own words for it, but for numbers of 64 bits."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, struct_pb2, timestamp_pb2

from vsrpc import pbload
from vsrpc.codec import to_json

_Field = descriptor_pb2.FieldDescriptorProto
_Type = Any

_WHOLE = (0, 1, 2**31 - 1)
_SIGNED = (*_WHOLE, -1, -(2**31))
_LONG = (0, 1, -1, 2**53 - 1, 2**53, -(2**53), 2**63 - 1, -(2**63))
_REAL = (0.0, -0.0, 0.1, 1.5, 3.0, 1e-45, 16777217.0, 3.4028234663852886e38, float("inf"), float("-inf"), float("nan"))

VALUES: dict[_Type, tuple[Any, ...]] = {
    _Field.TYPE_DOUBLE: (*_REAL, 1e300),
    _Field.TYPE_FLOAT: _REAL,
    _Field.TYPE_INT64: _LONG,
    _Field.TYPE_UINT64: (0, 2**53 - 1, 2**53, 2**64 - 1),
    _Field.TYPE_INT32: _SIGNED,
    _Field.TYPE_FIXED64: (0, 2**53, 2**64 - 1),
    _Field.TYPE_FIXED32: _WHOLE,
    _Field.TYPE_BOOL: (False, True),
    _Field.TYPE_STRING: ("", "x", "é\u2028"),
    _Field.TYPE_BYTES: (b"", b"abc", b"\xff\x00"),
    _Field.TYPE_UINT32: (*_WHOLE, 2**32 - 1),
    _Field.TYPE_ENUM: (0, 1, -3, 77),
    _Field.TYPE_SFIXED32: _SIGNED,
    _Field.TYPE_SFIXED64: _LONG,
    _Field.TYPE_SINT32: _SIGNED,
    _Field.TYPE_SINT64: _LONG,
}
KEYS: dict[_Type, tuple[Any, ...]] = {
    kind: VALUES[kind] for kind in (_Field.TYPE_STRING, _Field.TYPE_BOOL, _Field.TYPE_INT32, _Field.TYPE_UINT64)
}


def _add_field(message: Any, name: str, kind: _Type, label: Any = _Field.LABEL_OPTIONAL, type_name: str = "") -> Any:
    field = message.field.add(name=name, number=len(message.field) + 1, type=kind, label=label)
    if kind == _Field.TYPE_ENUM:
        field.type_name = type_name or ".jsonoutput.Kind"
    elif type_name:
        field.type_name = type_name
    return field


@pytest.fixture(scope="module")
def every() -> Any:
    """A message class with every type of field: "one_T", "many_T", "oneof_T", "map_K_T", and some messages."""
    file = descriptor_pb2.FileDescriptorProto(name="jsonoutput.proto", package="jsonoutput", syntax="proto3")
    file.dependency.extend([struct_pb2.DESCRIPTOR.name, timestamp_pb2.DESCRIPTOR.name])
    kinds = file.enum_type.add(name="Kind")
    for name, number in (("ZERO", 0), ("ONE", 1), ("BELOW", -3)):
        kinds.value.add(name=name, number=number)
    every = file.message_type.add(name="Every")
    every.oneof_decl.add(name="choice")
    for kind in VALUES:
        _add_field(every, f"oneof_{kind}", kind).oneof_index = 0
    for kind in VALUES:
        _add_field(every, f"one_{kind}", kind)
        _add_field(every, f"many_{kind}", kind, _Field.LABEL_REPEATED)
        for key in KEYS:
            entry = every.nested_type.add(name=f"Map{key}{kind}Entry")
            entry.options.map_entry = True
            _add_field(entry, "key", key)
            _add_field(entry, "value", kind)
            of_entries = f".jsonoutput.Every.{entry.name}"
            _add_field(every, f"map{key}{kind}", _Field.TYPE_MESSAGE, _Field.LABEL_REPEATED, of_entries)
    _add_field(every, "inner", _Field.TYPE_MESSAGE, type_name=".jsonoutput.Every")
    _add_field(every, "inners", _Field.TYPE_MESSAGE, _Field.LABEL_REPEATED, ".jsonoutput.Every")
    _add_field(every, "struct", _Field.TYPE_MESSAGE, type_name=".google.protobuf.Struct")
    _add_field(every, "at", _Field.TYPE_MESSAGE, type_name=".google.protobuf.Timestamp")
    _add_field(every, "null", _Field.TYPE_ENUM, type_name=".google.protobuf.NullValue")
    namespace: dict[str, Any] = {"__name__": __name__}
    pbload.load(file.SerializeToString(), file.name, namespace)
    return namespace["Every"]


def protobufs(message: Any) -> Any:
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def in_protobufs_words(field: Any, value: Any) -> Any:
    """Our JSON of a field, with numbers of 64 bits as protobuf writes them."""
    if isinstance(value, dict) and field.message_type.GetOptions().map_entry:
        return {key: in_protobufs_words(field.message_type.fields_by_name["value"], value[key]) for key in value}
    if isinstance(value, list):
        return [in_protobufs_words(field, each) for each in value]
    if isinstance(value, dict) and field.message_type.full_name == "jsonoutput.Every":
        return whole_in_protobufs_words(field.message_type, value)
    return str(value) if isinstance(value, int) and field.cpp_type in (2, 4) else value


def whole_in_protobufs_words(descriptor: Any, value: dict[str, Any]) -> dict[str, Any]:
    return {name: in_protobufs_words(descriptor.fields_by_name[name], each) for name, each in value.items()}


def check(message: Any) -> None:
    expected = protobufs(message)
    ours = whole_in_protobufs_words(message.DESCRIPTOR, to_json(message))
    assert json.dumps(ours, sort_keys=True) == json.dumps(expected, sort_keys=True)  # 0.0 is not -0.0, 1 not 1.0


def test_nothing_set(every: Any) -> None:
    check(every())


@pytest.mark.parametrize("kind", VALUES)
def test_values_of_every_type(every: Any, kind: _Type) -> None:
    for value in VALUES[kind]:
        check(every(**{f"one_{kind}": value}))
        check(every(**{f"oneof_{kind}": value}))
        check(every(**{f"many_{kind}": [value, value]}))
        for key in KEYS:
            check(every(**{f"map{key}{kind}": dict.fromkeys(KEYS[key], value)}))


def test_messages_within(every: Any) -> None:
    message = every(inner=every(one_3=2**60), inners=[every(), every(inner=every(one_9="deep"))])
    message.struct.update({"a": [1, None, {"b": "c"}]})
    message.at.seconds = 1_000_000_000
    check(message)
    assert to_json(message)["at"] == "2001-09-09T01:46:40Z"
    assert to_json(message.at) == "2001-09-09T01:46:40Z"


def test_integers_that_a_double_holds_are_numbers(every: Any) -> None:
    assert to_json(every(many_3=[2**53 - 1, 2**53, -(2**53)]))["many_3"] == [2**53 - 1, str(2**53), str(-(2**53))]


def test_extensions() -> None:
    file = descriptor_pb2.FileDescriptorProto(name="jsonextension.proto", package="jsonextension", syntax="proto2")
    extended = file.message_type.add(name="Extended")
    _add_field(extended, "own", _Field.TYPE_INT64)
    extended.extension_range.add(start=10, end=20)
    file.extension.add(name="more", number=10, type=_Field.TYPE_INT64, label=1, extendee=".jsonextension.Extended")
    namespace: dict[str, Any] = {"__name__": __name__}
    pbload.load(file.SerializeToString(), file.name, namespace)
    message = namespace["Extended"]()
    assert to_json(message) == {}
    message.own = 1
    message.Extensions[namespace["more"]] = 2
    assert to_json(message) == {"own": 1, "[jsonextension.more]": 2}


def test_what_is_loaded_is_in_protobufs_own_pool(every: Any) -> None:
    assert descriptor_pool.Default().FindMessageTypeByName("jsonoutput.Every") is every.DESCRIPTOR
