"""REST routes: from google.api.http rules to checked `Route` values.

Supported: get, put, post, delete, patch; templates of literal segments and whole-segment variables ("/things/{id}");
`body` "*" or a field; additional_bindings. Everything else of google/api/http.proto is refused, so that no route means
less than its author wrote.
"""

from __future__ import annotations

import re
from typing import Any, Iterator

from vsrpc.codegen.model import Field, Message, Schema, SchemaError
from vsrpc.method import Idempotency, Route

# A path segment (RFC 3986 section 3.3) without "%", and without ":" and "*", which are verbs and wildcards here.
_LITERAL = re.compile(r"[A-Za-z0-9._~!$&'()+,;=@-]+")
_VARIABLE = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


def routes_of(rule: Any, rpc_path: str, idempotency: Idempotency, where: str) -> tuple[Route, ...]:
    """The routes of one google.api.http rule; raises SchemaError for what is not supported."""
    found = []
    for binding in (rule, *rule.additional_bindings):
        if binding is not rule and binding.additional_bindings:
            raise SchemaError(
                f"{where}: additional_bindings inside additional_bindings; list them one beside the other"
            )
        pattern = binding.WhichOneof("pattern")
        if pattern is None or pattern == "custom":
            raise SchemaError(f"{where}: google.api.http needs one of get, put, post, delete, patch, not {pattern}")
        if binding.response_body:
            raise SchemaError(f"{where}: response_body {binding.response_body!r} is not supported; remove it")
        template = getattr(binding, pattern)
        if pattern in ("get", "delete") and binding.body:
            raise SchemaError(f"{where}: {pattern} {template!r} has a body; only put, post and patch may have one")
        _check_template(template, where)
        found.append(Route(pattern.upper(), template, rpc_path, binding.body, idempotency))
    return tuple(found)


def variables(template: str) -> tuple[str, ...]:
    """The names of a template's variables, in their order."""
    return tuple(_VARIABLE.findall(template))


def _check_template(template: str, where: str) -> None:
    if not template.startswith("/"):
        raise SchemaError(f'{where}: route {template!r} must begin with "/"')
    for segment in template[1:].split("/"):
        if not _LITERAL.fullmatch(segment) and not _VARIABLE.fullmatch(segment):
            raise SchemaError(
                f"{where}: route {template!r}: segment {segment!r} is not supported;"
                " a segment is a literal or one whole {field}, without wildcards, sub-patterns and verbs"
            )
    names = variables(template)
    if len(set(names)) != len(names):
        raise SchemaError(f"{where}: route {template!r} names a variable twice")


def check_fields(route: Route, request: Message, where: str) -> None:
    """Raise SchemaError unless template, body and query can carry every field that the route needs."""
    title = f"{where}: route {route.http_method} {route.template}"
    for name in variables(route.template):
        field = _need(request, name, "variable", title)
        if field.type == "message" or field.repeated:
            raise SchemaError(f"{title}: variable {name!r} is not a single scalar; a path segment cannot carry it")
    if route.body not in ("", "*"):
        _need(request, route.body, "body", title)
        if route.body in variables(route.template):
            raise SchemaError(f"{title}: {route.body!r} is both body and variable")
    for field in query_fields(route, request):
        if field.type == "message":
            raise SchemaError(
                f"{title}: field {field.name!r} of {request.full_name} is a message or map, which a query cannot carry;"
                ' use a method with body "*"'
            )


def query_fields(route: Route, request: Message) -> Iterator[Field]:
    """The fields that come from the query: all that neither template nor body fill."""
    if route.body != "*":
        taken = {*variables(route.template), route.body}
        yield from (field for field in request.fields if field.name not in taken)


def _need(request: Message, name: str, role: str, title: str) -> Field:
    field = request.field(name)
    if field is None:
        raise SchemaError(f"{title}: {role} {name!r} is not a field of {request.full_name}")
    return field


def check_routes(schema: Schema) -> None:
    """Raise SchemaError for a route whose fields do not fit, or that answers where another rpc already does."""
    taken: dict[tuple[str, str], str] = {}
    templates: dict[str, str] = {}
    methods = [(service, method) for file in schema.files for service in file.services for method in service.methods]
    for service, method in methods:
        taken["POST", f"/{service.full_name}/{method.name}"] = f"rpc {service.full_name}.{method.name} itself"
    for _, method in methods:
        for route in method.routes:
            check_fields(route, schema.messages[method.request], method.where)
            shape = _VARIABLE.sub("{}", route.template)
            key = (route.http_method, shape)
            if templates.setdefault(shape, route.template) != route.template:
                raise SchemaError(
                    f"{method.where}: routes {route.template} and {templates[shape]} differ only in names of variables;"
                    " OpenAPI has one path for both: use the same names"
                )
            if key in taken:
                raise SchemaError(
                    f"{method.where}: route {route.http_method} {route.template} collides with {taken[key]};"
                    " change one of the two"
                )
            taken[key] = f"{route.http_method} {route.template} of {method.where}"
