"""model → text of `*_tables.py`: routes, text fields and error codes as plain data, without protobuf."""

from __future__ import annotations

from vsrpc.codegen import names, text
from vsrpc.codegen.model import File, Schema, Service


def text_fields(file: File, schema: Schema) -> dict[str, tuple[str, ...]]:
    """Message → its text fields, for the file's messages and all that its rpcs carry."""
    rpc_types = [
        name for service in file.services for method in service.methods for name in (method.request, method.response)
    ]
    wanted = {message.full_name for message in file.messages} | schema.reachable(*rpc_types)
    found = {}
    for name in sorted(wanted & schema.messages.keys()):
        fields = tuple(field.name for field in schema.messages[name].fields if field.text)
        if fields:
            found[name] = fields
    return found


def routes_constant(service: Service) -> str:
    """The constant that holds a service's routes."""
    return f"{names.constant(service.name)}_ROUTES"


def with_routes(file: File) -> list[Service]:
    """The services that have routes."""
    return [service for service in file.services if any(method.routes for method in service.methods)]


def render(file: File, schema: Schema) -> str | None:
    """The module, or None where the file has no such data."""
    fields = text_fields(file, schema)
    services = with_routes(file)
    needed = [
        *(["ErrorCodeEntry"] if file.error_codes else []),
        *(["Idempotency", "Route"] if services else []),
    ]
    if not needed and not fields:
        return None
    lines = [text.header(file.name), *text.docstring(f"Plain data of {file.name}, without protobuf."), ""]
    lines.append("from __future__ import annotations")
    if needed:
        lines += ["", f"from vsrpc.method import {', '.join(needed)}"]
    for service in services:
        lines += ["", f"{routes_constant(service)}: tuple[Route, ...] = ("]
        for method in service.methods:
            for route in method.routes:
                arguments = [route.http_method, route.template, route.rpc_path, route.body]
                quoted = ", ".join(_quoted(argument) for argument in arguments)
                lines.append(f"    Route({quoted}, Idempotency.{method.idempotency}),")
        lines.append(")")
    if services:
        parts = " + ".join(routes_constant(service) for service in services)
        lines += ["", f"ROUTES: tuple[Route, ...] = {parts}"]
    if fields:
        lines += ["", "TEXT_FIELDS: dict[str, tuple[str, ...]] = {"]
        for name, field_names in fields.items():
            quoted = ", ".join(map(_quoted, field_names)) + ("," if len(field_names) == 1 else "")
            lines.append(f"    {_quoted(name)}: ({quoted}),")
        lines.append("}")
    if file.error_codes:
        lines += ["", "ERROR_CODES: tuple[ErrorCodeEntry, ...] = ("]
        for code in file.error_codes:
            reason, rpc_code = _quoted(code.reason), _quoted(code.rpc_code)
            lines.append(f"    ErrorCodeEntry({reason}, {code.number}, {code.http_status}, {rpc_code}),")
        lines.append(")")
    return "\n".join(lines) + "\n"


def _quoted(value: str) -> str:
    return f'"{value}"'  # names and checked templates: nothing in them needs an escape
