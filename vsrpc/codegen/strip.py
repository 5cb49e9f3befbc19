"""What of a file's descriptor a guest loads: no comments, no custom options, no import that is then unused.

So nothing that runs needs google.api or vsrpc.options.
"""

from __future__ import annotations

from typing import Iterable, Iterator, Mapping, Sequence

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.message import Message


def defining_files(files: Iterable[FileDescriptorProto]) -> dict[str, str]:
    """Every message's and enum's name, with its leading dot, to the name of the file that defines it."""
    found: dict[str, str] = {}
    for file in files:
        scope = f".{file.package}" if file.package else ""
        for enum in file.enum_type:
            found[f"{scope}.{enum.name}"] = file.name
        for message in file.message_type:
            for name in _type_names(message, scope):
                found[name] = file.name
    return found


def _type_names(message: DescriptorProto, scope: str) -> Iterator[str]:
    full_name = f"{scope}.{message.name}"
    yield full_name
    for enum in message.enum_type:
        yield f"{full_name}.{enum.name}"
    for nested in message.nested_type:
        yield from _type_names(nested, full_name)


def stripped(file: FileDescriptorProto, defined_in: Mapping[str, str]) -> FileDescriptorProto:
    """A copy for the guest. Its imports are those that define a type it uses, and its public ones."""
    result = FileDescriptorProto()
    result.CopyFrom(file)
    result.ClearField("source_code_info")
    result.DiscardUnknownFields()  # this process has no class for any custom option: all are unknown fields
    _drop_empty_options(result)
    for field in _fields(result):
        if field.json_name == _default_json_name(field.name):
            field.ClearField("json_name")  # every runtime computes it
    public = [file.dependency[index] for index in file.public_dependency]
    used = {defined_in[name] for name in _references(result)} - {file.name}
    kept = sorted(used | set(public))
    for name in ("dependency", "public_dependency", "weak_dependency"):
        result.ClearField(name)
    result.dependency.extend(kept)
    result.public_dependency.extend(sorted(kept.index(name) for name in public))
    return result


def _drop_empty_options(message: Message) -> None:
    for descriptor, value in message.ListFields():
        if descriptor.name == "options" and not value.ByteSize():
            message.ClearField("options")
        elif descriptor.message_type is not None:
            for child in value if isinstance(value, Sequence) else [value]:
                _drop_empty_options(child)


def _fields(file: FileDescriptorProto) -> Iterator[FieldDescriptorProto]:
    yield from file.extension
    todo = list(file.message_type)
    while todo:
        message = todo.pop()
        yield from message.field
        yield from message.extension
        todo.extend(message.nested_type)


def _references(file: FileDescriptorProto) -> Iterator[str]:
    for field in _fields(file):
        if field.type_name:
            yield field.type_name
        if field.extendee:
            yield field.extendee
    for service in file.service:
        for method in service.method:
            yield method.input_type
            yield method.output_type


def _default_json_name(name: str) -> str:
    """The JSON name that protoc gives a field (google/protobuf/descriptor.cc, ToJsonName)."""
    head, *rest = name.split("_")
    return head + "".join(part[:1].upper() + part[1:] for part in rest)
