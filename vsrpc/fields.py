"""What a field descriptor is, asked in a way that every protobuf runtime from 3.12.4 to 7.x answers.

Some of them have the constants on the descriptor, some do not; `label` gives way to `is_repeated`.
"""

from __future__ import annotations

from typing import Any

# google/protobuf/descriptor.h: FieldDescriptor::CppType
_INT64, _UINT64, _FLOAT, _BOOL = 2, 4, 6, 7
_JSON_KINDS = {
    1: "a whole number of 32 bits",
    2: "a whole number of 64 bits",
    3: "a whole number of 32 bits from 0 on",
    4: "a whole number of 64 bits from 0 on",
    5: "a number",
    6: "a number",
    7: "true or false",
}
_TYPE_ENUM, _TYPE_BYTES = 14, 12  # google/protobuf/descriptor.proto: FieldDescriptorProto.Type
_LABEL_REPEATED = 3  # google/protobuf/descriptor.proto


def is_repeated(field: Any) -> bool:
    """Whether it is a list or a map."""
    repeated = getattr(field, "is_repeated", None)
    return bool(field.label == _LABEL_REPEATED if repeated is None else repeated)


def has_presence(field: Any) -> bool:
    """Whether it may be unset, which is then not the same as at its default: a message, or one of a oneof."""
    known = getattr(field, "has_presence", None)
    if known is not None:  # 3.20 and newer
        return bool(known)
    if is_repeated(field):
        return False
    proto2 = field.containing_type.file.syntax == "proto2"
    return proto2 or field.message_type is not None or field.containing_oneof is not None


def is_map(field: Any) -> bool:
    """Whether it is a map."""
    entry = field.message_type
    # The options are a message of descriptor_pb2, which protobuf loads for the first of them.
    return entry is not None and entry.has_options and bool(entry.GetOptions().map_entry)


def map_value(field: Any) -> Any:
    """The descriptor of a map's values."""
    return field.message_type.fields_by_name["value"]


def is_int64(field: Any) -> bool:
    """Whether its values are 64-bit integers, signed or not."""
    return field.cpp_type in (_INT64, _UINT64)


def is_float(field: Any) -> bool:
    """Whether its values are floating-point numbers of 32 bits."""
    return bool(field.cpp_type == _FLOAT)


def is_bool(field: Any) -> bool:
    """Whether its values are booleans."""
    return bool(field.cpp_type == _BOOL)


def json_kind(field: Any) -> str:
    """What a single value of it is in JSON, in words."""
    if is_bytes(field):
        return "base64 in a string"
    if is_enum(field):
        return f"a name or number of {field.enum_type.full_name}"
    return _JSON_KINDS.get(field.cpp_type, "a string of Unicode text")


def is_bytes(field: Any) -> bool:
    """Whether its values are bytes."""
    return bool(field.type == _TYPE_BYTES)


def is_enum(field: Any) -> bool:
    """Whether its values are an enum's."""
    return bool(field.type == _TYPE_ENUM)
