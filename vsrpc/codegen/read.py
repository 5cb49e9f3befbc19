"""protoc's request → model. Here every check is made; a renderer never fails.

A SchemaError's message begins with file:line and the rpc, field or value that is wrong.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.compiler.plugin_pb2 import CodeGeneratorRequest
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    MethodDescriptorProto,
    MethodOptions,
    ServiceDescriptorProto,
)

from vsrpc.codegen import comments as c
from vsrpc.codegen import names, options
from vsrpc.codegen.model import Enum, EnumValue, ErrorCode, Field, File, Message, Method, Schema, SchemaError, Service
from vsrpc.codegen.routes import check_routes, routes_of
from vsrpc.codegen.strip import defining_files, stripped
from vsrpc.method import Idempotency
from vsrpc.status import Code


def read(request: CodeGeneratorRequest) -> Schema:
    """The model of a request; raises SchemaError."""
    option_reader = options.OptionReader(request.proto_file)
    defined_in = defining_files(request.proto_file)
    readers = [_FileReader(file, option_reader) for file in request.proto_file]
    to_generate = set(request.file_to_generate)
    schema = Schema(
        files=tuple(
            reader.file(stripped(reader.proto, defined_in)) for reader in readers if reader.proto.name in to_generate
        ),
        messages={message.full_name: message for reader in readers for message in reader.messages},
        enums={enum.full_name: enum for reader in readers for enum in reader.enums},
    )
    check_routes(schema)
    for file in schema.files:
        names.check(file, schema)
    return schema


class _FileReader:
    """Reads one file; its messages and enums at once, as other files may need them."""

    def __init__(self, proto: FileDescriptorProto, option_reader: options.OptionReader) -> None:
        self.proto = proto
        self._options = option_reader
        self._comments = c.Comments(proto)
        self.messages: list[Message] = []
        self.enums: list[Enum] = []
        self._error_codes: list[ErrorCode] = []
        for index, enum in enumerate(proto.enum_type):
            self._enum(enum, proto.package, c.FILE_ENUM, index)
        for index, message in enumerate(proto.message_type):
            self._message(message, "", c.FILE_MESSAGE, index)

    def file(self, descriptor: FileDescriptorProto) -> File:
        """The file, with the descriptor that a guest is to load."""
        proto = self.proto
        return File(
            name=proto.name,
            package=proto.package,
            comment=self._comments.of(c.FILE_PACKAGE) or self._comments.of(c.FILE_SYNTAX),
            services=tuple(self._service(service, index) for index, service in enumerate(proto.service)),
            messages=tuple(self.messages),
            error_codes=tuple(self._error_codes),
            imports=tuple(descriptor.dependency),
            public_imports=tuple(descriptor.dependency[index] for index in descriptor.public_dependency),
            descriptor=descriptor.SerializeToString(deterministic=True),
        )

    def _message(self, proto: DescriptorProto, outer: str, *path: int) -> None:
        python_path = _join(outer, proto.name)
        full_name = _join(self.proto.package, python_path)
        for index, enum in enumerate(proto.enum_type):
            self._enum(enum, full_name, *path, c.MESSAGE_ENUM, index)
        fields = tuple(
            self._field(field, proto, *path, c.MESSAGE_FIELD, index) for index, field in enumerate(proto.field)
        )
        comment = self._comments.of(*path)
        self.messages.append(Message(full_name, self.proto.name, python_path, fields, proto.options.map_entry, comment))
        for index, nested in enumerate(proto.nested_type):
            self._message(nested, python_path, *path, c.MESSAGE_NESTED, index)

    def _field(self, proto: FieldDescriptorProto, message: DescriptorProto, *path: int) -> Field:
        kind = FieldDescriptorProto.Type.Name(proto.type)[len("TYPE_") :].lower()
        repeated = proto.label == FieldDescriptorProto.LABEL_REPEATED
        in_oneof = proto.HasField("oneof_index")
        text = bool(self._options.get(proto.options, options.TEXT))
        if text:
            where = f"{self._comments.where(*path)}: field {message.name}.{proto.name}"
            if kind != "bytes" or repeated:
                kinds = f"repeated {kind}" if repeated else kind
                raise SchemaError(f"{where}: ({options.TEXT}) is for a single bytes field, not for {kinds}")
            for beside in (f"{proto.name}_base64", f"{proto.name}_invalid_utf8"):
                if any(field.name == beside for field in message.field):
                    raise SchemaError(
                        f"{where}: ({options.TEXT}) needs the JSON name {beside!r}, which another field has"
                    )
        return Field(
            name=proto.name,
            type="message" if kind == "group" else kind,
            type_name=proto.type_name.lstrip("."),
            repeated=repeated,
            has_presence=not repeated and (kind in ("message", "group") or in_oneof or self.proto.syntax != "proto3"),
            oneof=message.oneof_decl[proto.oneof_index].name if in_oneof and not proto.proto3_optional else "",
            text=text,
            comment=self._comments.of(*path),
        )

    def _enum(self, proto: EnumDescriptorProto, scope: str, *path: int) -> None:
        values = []
        codes: dict[int, ErrorCode] = {}
        for index, value in enumerate(proto.value):
            value_path = (*path, c.ENUM_VALUE, index)
            comment = self._comments.of(*value_path)
            values.append(EnumValue(value.name, value.number, comment))
            error = self._options.get(value.options, options.ERROR)
            if error is None:
                continue
            where = f"{self._comments.where(*value_path)}: {value.name}"
            if error.rpc_code not in Code.__members__ or error.rpc_code == "OK":
                known = ", ".join(code.name for code in Code if code is not Code.OK)
                raise SchemaError(f"{where}: rpc_code {error.rpc_code!r} is not one of {known}")
            if error.http_status and not 200 <= error.http_status <= 599:
                raise SchemaError(f"{where}: http_status {error.http_status} is not between 200 and 599")
            if value.number == 0:
                raise SchemaError(f"{where}: number 0 means success; it cannot be an error code")
            if value.number in codes:
                raise SchemaError(f"{where}: number {value.number} is taken by {codes[value.number].reason}")
            prefix = names.constant(proto.name) + "_"
            reason = value.name[len(prefix) :] if value.name.startswith(prefix) else value.name
            codes[value.number] = ErrorCode(reason, value.number, error.http_status, error.rpc_code, comment)
        self.enums.append(Enum(_join(scope, proto.name), tuple(values), self._comments.of(*path)))
        self._error_codes.extend(codes.values())

    def _service(self, proto: ServiceDescriptorProto, index: int) -> Service:
        path = (c.FILE_SERVICE, index)
        full_name = _join(self.proto.package, proto.name)
        methods = tuple(
            self._method(method, full_name, *path, c.SERVICE_METHOD, number)
            for number, method in enumerate(proto.method)
        )
        return Service(proto.name, full_name, methods, self._comments.of(*path))

    def _method(self, proto: MethodDescriptorProto, service: str, *path: int) -> Method:
        where = f"{self._comments.where(*path)}: rpc {service}.{proto.name}"
        if proto.client_streaming or proto.server_streaming:
            raise SchemaError(f"{where}: streaming rpcs are not supported; only unary ones are")
        idempotency = Idempotency[
            MethodOptions.IdempotencyLevel.Name(proto.options.idempotency_level).replace("IDEMPOTENCY_", "")
        ]
        rule: Any = self._options.get(proto.options, options.HTTP)
        return Method(
            name=proto.name,
            request=proto.input_type.lstrip("."),
            response=proto.output_type.lstrip("."),
            idempotency=idempotency.name,
            routes=() if rule is None else routes_of(rule, f"/{service}/{proto.name}", idempotency, where),
            comment=self._comments.of(*path),
            where=where,
        )


def _join(scope: str, name: str) -> str:
    return f"{scope}.{name}" if scope else name
