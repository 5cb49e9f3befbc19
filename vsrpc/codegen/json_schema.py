"""Messages as JSON Schema 2020-12, in the JSON of the REST routes. Knows nothing of OpenAPI but where schemas are."""

from __future__ import annotations

from typing import Any, Dict, Sequence

from vsrpc.codegen.model import Field, Message, Schema

Json = Dict[str, Any]

_INT32: Json = {"type": "integer", "format": "int32"}
_UINT32: Json = {"type": "integer", "minimum": 0, "maximum": 4294967295}
_INT64: Json = {"type": "integer", "format": "int64"}
_UINT64: Json = {"type": "integer", "minimum": 0, "maximum": 18446744073709551615}
_BYTES: Json = {"type": "string", "contentEncoding": "base64"}
_SCALARS: dict[str, Json] = {
    "double": {"type": "number", "format": "double"},
    "float": {"type": "number", "format": "float"},
    "int32": _INT32,
    "sint32": _INT32,
    "sfixed32": _INT32,
    "uint32": _UINT32,
    "fixed32": _UINT32,
    "int64": _INT64,
    "sint64": _INT64,
    "sfixed64": _INT64,
    "uint64": _UINT64,
    "fixed64": _UINT64,
    "bool": {"type": "boolean"},
    "string": {"type": "string"},
    "bytes": _BYTES,
}
# Types with a JSON form of their own (protobuf.dev/programming-guides/json).
_WELL_KNOWN: dict[str, Json] = {
    "google.protobuf.Any": {"type": "object"},
    "google.protobuf.BoolValue": {"type": ["boolean", "null"]},
    "google.protobuf.BytesValue": {"type": ["string", "null"], "contentEncoding": "base64"},
    "google.protobuf.DoubleValue": {"type": ["number", "null"]},
    "google.protobuf.Duration": {"type": "string", "examples": ["1.5s"]},
    "google.protobuf.Empty": {"type": "object"},
    "google.protobuf.FieldMask": {"type": "string"},
    "google.protobuf.FloatValue": {"type": ["number", "null"]},
    "google.protobuf.Int32Value": {"type": ["integer", "null"], "format": "int32"},
    "google.protobuf.Int64Value": {"type": ["integer", "null"], "format": "int64"},
    "google.protobuf.ListValue": {"type": "array"},
    "google.protobuf.NullValue": {"type": "null"},
    "google.protobuf.StringValue": {"type": ["string", "null"]},
    "google.protobuf.Struct": {"type": "object"},
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.UInt32Value": {"type": ["integer", "null"], "minimum": 0},
    "google.protobuf.UInt64Value": {"type": ["integer", "null"], "minimum": 0},
    "google.protobuf.Value": {},
}


def message_schema(message: Message, schema: Schema, *, only_in_replies: bool, without: Sequence[str] = ()) -> Json:
    """A message's schema, less the fields `without`.

    In replies every field without presence is printed, default or not: those are required there.
    """
    properties: Json = {}
    required = []
    for field in message.fields:
        if field.name not in without:
            properties.update(field_schemas(field, schema))
            if only_in_replies and not field.has_presence:
                required.append(field.name)
    result: Json = {"type": "object", "properties": properties}
    if required:
        result["required"] = required
    if message.comment:
        result["description"] = message.comment
    return result


def field_schemas(field: Field, schema: Schema) -> Json:
    """The properties that a field becomes: its own, and for a text field the two beside it."""
    entry = schema.messages.get(field.type_name)
    if entry is not None and entry.map_entry:
        value_field = entry.fields[1]
        own: Json = {"type": "object", "additionalProperties": _single(value_field, schema)}
    elif field.repeated:
        own = {"type": "array", "items": _single(field, schema)}
    else:
        own = _single(field, schema)
    if field.comment:
        own["description"] = field.comment
    properties = {field.name: own}
    if field.text:
        properties[f"{field.name}_base64"] = {
            **_BYTES,
            "description": f"The exact bytes of `{field.name}`, where they are not valid UTF-8.",
        }
        properties[f"{field.name}_invalid_utf8"] = {
            "const": True,
            "description": f"`{field.name}` is not valid UTF-8 and is shown with replacement characters.",
        }
    return properties


def _single(field: Field, schema: Schema) -> Json:
    if field.type_name in _WELL_KNOWN:
        return dict(_WELL_KNOWN[field.type_name])
    if field.type == "message":
        return {"$ref": f"#/components/schemas/{field.type_name}"}
    if field.type == "enum":
        return {"type": "string", "enum": [value.name for value in schema.enums[field.type_name].values]}
    return {"type": "string"} if field.text else dict(_SCALARS[field.type])
