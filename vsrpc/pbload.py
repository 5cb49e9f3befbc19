"""Loads generated messages on every protobuf runtime from 3.12.4 on.

Each `*_pb2.py` that protoc-gen-vsrpc writes holds its serialised file descriptor and hands it to `load`. protoc's own
generated code is tied to the runtime's version; this uses only calls that all of them have.

Where the runtime is in C, files and classes are made as protoc's code did until 3.19. What does so in newer ones,
`descriptor_pool` and `message_factory`, imports the runtime in Python too, which takes longer than a call.
"""

from __future__ import annotations

import contextlib
from typing import Any

from google.protobuf import descriptor
from google.protobuf.internal import api_implementation, enum_type_wrapper
from google.protobuf.message import Message

_RUNTIME = api_implementation.Type()


def load(serialized_file: bytes, name: str, namespace: dict[str, Any]) -> None:
    """Register a file of the schema and put its messages and enums into a module's namespace.

    `name` is the file's name in the schema ("vsrpc/v1/system.proto"); its imports must have been loaded.
    """
    file = _file(serialized_file, name)
    namespace["DESCRIPTOR"] = file
    for enum in file.enum_types_by_name.values():
        namespace[enum.name] = enum_type_wrapper.EnumTypeWrapper(enum)
        for value in enum.values:
            namespace[value.name] = value.number
    for extension in file.extensions_by_name.values():
        namespace[extension.name] = extension
    for message in file.message_types_by_name.values():
        namespace[message.name] = _message_class(message, str(namespace["__name__"]))


def _file(serialized_file: bytes, name: str) -> Any:
    if _RUNTIME != "python":
        return descriptor.FileDescriptor(name, "", serialized_pb=serialized_file)
    from google.protobuf import descriptor_pool

    pool = descriptor_pool.Default()
    pool.AddSerializedFile(serialized_file)
    return pool.FindFileByName(name)


def _message_class(message: Any, module: str) -> Any:
    cls = _new_class(message)
    cls.__module__ = module
    for nested in message.nested_types:
        nested_class = _message_class(nested, module)
        if getattr(cls, nested.name, None) is None:  # the pure-Python runtime leaves them out
            setattr(cls, nested.name, nested_class)
    return cls


def _new_class(message: Any) -> Any:
    if _RUNTIME == "upb":  # which has one class for a message, whoever asks for it; the older one, in C++, has not
        with contextlib.suppress(ImportError):  # a runtime that has given it up
            from google.protobuf.pyext import cpp_message  # type: ignore[import-not-found]

            return cpp_message.GeneratedProtocolMessageType(message.name, (Message,), {"DESCRIPTOR": message})
    from google.protobuf import message_factory

    if hasattr(message_factory, "GetMessageClass"):  # 4.22 and newer
        return message_factory.GetMessageClass(message)
    from google.protobuf import symbol_database

    return symbol_database.Default().GetPrototype(message)  # type: ignore[attr-defined]
