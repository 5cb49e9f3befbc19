"""Loads generated messages on every protobuf runtime from 3.12.4 on.

Each `*_pb2.py` that protoc-gen-vsrpc writes holds its serialised file descriptor and hands it to `load`. protoc's own
generated code is tied to the runtime's version; this uses only calls that all of them have.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.internal import enum_type_wrapper


def load(serialized_file: bytes, name: str, namespace: dict[str, Any]) -> None:
    """Register a file of the schema and put its messages and enums into a module's namespace.

    `name` is the file's name in the schema ("vsrpc/v1/system.proto"); its imports must have been loaded.
    """
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(serialized_file)
    file = pool.FindFileByName(name)
    namespace["DESCRIPTOR"] = file
    for enum in file.enum_types_by_name.values():
        namespace[enum.name] = enum_type_wrapper.EnumTypeWrapper(enum)
        for value in enum.values:
            namespace[value.name] = value.number
    for extension in file.extensions_by_name.values():
        namespace[extension.name] = extension
    for message in file.message_types_by_name.values():
        namespace[message.name] = _message_class(message, str(namespace["__name__"]))


def _message_class(descriptor: Any, module: str) -> Any:
    if hasattr(message_factory, "GetMessageClass"):  # 4.22 and newer
        cls = message_factory.GetMessageClass(descriptor)
    else:
        from google.protobuf import symbol_database

        cls = symbol_database.Default().GetPrototype(descriptor)  # type: ignore[attr-defined]
    cls.__module__ = module
    for nested in descriptor.nested_types:
        nested_class = _message_class(nested, module)
        if getattr(cls, nested.name, None) is None:  # the pure-Python runtime leaves them out
            setattr(cls, nested.name, nested_class)
    return cls
