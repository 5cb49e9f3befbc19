"""model → text of `*_vsrpc.py`: method and service descriptors, stubs, servicer bases, registration functions."""

from __future__ import annotations

from vsrpc.codegen import names, text
from vsrpc.codegen.model import File, Method, Schema, Service
from vsrpc.codegen.render_tables import routes_constant, text_fields, with_routes


def render(file: File, schema: Schema) -> str | None:
    """The module, or None where the file has no services."""
    if not file.services:
        return None
    return _Renderer(file, schema).module()


class _Renderer:
    def __init__(self, file: File, schema: Schema) -> None:
        self._file = file
        self._schema = schema
        self._methods = [method for service in file.services for method in service.methods]
        used = {schema.messages[name].file for method in self._methods for name in (method.request, method.response)}
        self._imports = text.Imports(sorted(used, key=lambda name: (name != file.name, name)))
        self._tables = names.module(file.name, "_tables")
        self._has_text = bool(text_fields(file, schema))

    def module(self) -> str:
        file = self._file
        comment = file.comment or f"Services of {file.name}."
        lines = [text.header(file.name), *text.docstring(comment), "", *self._import_block()]
        for service in file.services:
            for method in service.methods:
                lines += ["", *self._method_constant(service, method)]
            lines += ["", *self._service_constant(service)]
        for service in file.services:
            lines += ["", "", *self._stub(service), "", "", *self._servicer(service), "", "", *self._adder(service)]
        return "\n".join(lines) + "\n"

    def _import_block(self) -> list[str]:
        from_method = ["ServiceDescriptor"]
        if self._methods:
            from_method = ["Idempotency", "MethodDescriptor", *from_method]
        lines = ["from __future__ import annotations", "", "from typing import TYPE_CHECKING", ""]
        if self._methods:
            lines.append("from vsrpc.errors import RpcError")
        lines.append(f"from vsrpc.method import {', '.join(from_method)}")
        if self._methods:
            lines.append("from vsrpc.status import Code")
        lines += self._imports.lines
        if self._has_text or with_routes(self._file):
            lines.append(text.import_line(*self._tables))
        calls = "UnaryChannel, UnaryUnary" if self._methods else "UnaryChannel"
        context = "ServicerContext, ServiceRegistry" if self._methods else "ServiceRegistry"
        return [
            *lines,
            "",
            "if TYPE_CHECKING:",
            f"    from vsrpc.calls import {calls}",
            f"    from vsrpc.context import {context}",
        ]

    def _type(self, full_name: str) -> str:
        message = self._schema.messages[full_name]
        return f"{self._imports.name(message.file)}.{message.python_path}"

    def _method_constant(self, service: Service, method: Method) -> list[str]:
        return [
            f"{names.method_constant(service.name, method.name)} = MethodDescriptor(",
            f'    "{service.full_name}",',
            f'    "{method.name}",',
            f"    {self._type(method.request)},",
            f"    {self._type(method.response)},",
            f"    Idempotency.{method.idempotency},",
            ")",
        ]

    def _service_constant(self, service: Service) -> list[str]:
        constants = [names.method_constant(service.name, method.name) for method in service.methods]
        lines = [f"{names.service_constant(service.name)} = ServiceDescriptor(", f'    "{service.full_name}",']
        lines.append(f"    ({', '.join(constants)}{',' if len(constants) == 1 else ''}),")
        if service in with_routes(self._file):
            lines.append(f"    routes={self._tables[1]}.{routes_constant(service)},")
        if self._has_text:
            lines.append(f"    text_fields={self._tables[1]}.TEXT_FIELDS,")
        return [*lines, ")"]

    def _stub(self, service: Service) -> list[str]:
        lines = [
            f"class {service.name}Stub:",
            *text.docstring(service.comment or f"Calls {service.full_name}.", "    "),
        ]
        lines += ["", "    def __init__(self, channel: UnaryChannel) -> None:"]
        if not service.methods:
            lines.append("        pass")
        for method in service.methods:
            constant = names.method_constant(service.name, method.name)
            types = f"{self._type(method.request)}, {self._type(method.response)}"
            lines += [
                f"        self.{method.name}: UnaryUnary[{types}] = channel.unary_unary(",
                f'            "/{service.full_name}/{method.name}",',
                f"            request_serializer={constant}.serialize,",
                f"            response_deserializer={constant}.deserialize,",
                "        )",
                *(text.docstring(method.comment, "        ") if method.comment else []),
            ]
        return lines

    def _servicer(self, service: Service) -> list[str]:
        comment = service.comment or f"Serves {service.full_name}."
        lines = [f"class {service.name}Servicer:", *text.docstring(comment, "    ")]
        for method in service.methods:
            unimplemented = f"{service.full_name}.{method.name} is not implemented here"
            parameters = f"self, request: {self._type(method.request)}, context: ServicerContext"
            lines += [
                "",
                f"    def {method.name}({parameters}) -> {self._type(method.response)}:",
                *(text.docstring(method.comment, "        ") if method.comment else []),
                f'        raise RpcError(Code.UNIMPLEMENTED, "{unimplemented}")',
            ]
        return lines

    def _adder(self, service: Service) -> list[str]:
        name = service.name
        return [
            f"def add_{name}Servicer_to_server(servicer: {name}Servicer, server: ServiceRegistry) -> None:",
            *text.docstring(f"Serve {service.full_name} on a server by this servicer.", "    "),
            f"    server.add_service({names.service_constant(name)}, servicer)",
        ]
