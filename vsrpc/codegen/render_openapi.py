"""model → OpenAPI 3.1 document of the REST routes.

JSON is as these routes speak it: names as in the schema, 64-bit integers as numbers, bytes as base64 (text fields as
text, with `<name>_base64` and `<name>_invalid_utf8` beside them where they are not UTF-8), every reply in the envelope
{code, message, timestamp, data}.
"""

from __future__ import annotations

import json
from typing import Any, Dict

from vsrpc.codegen import routes
from vsrpc.codegen.json_schema import field_schemas, message_schema
from vsrpc.codegen.model import Method, Schema, Service
from vsrpc.method import Route

Json = Dict[str, Any]

_JSON_TYPE = "application/json"
# Not a name that a message could have: schema names hold no "-".
_ERROR = "error-envelope"


def render(schema: Schema) -> str:
    """The document of all files of the run."""
    return json.dumps(_document(schema), indent=2, ensure_ascii=False) + "\n"


def _document(schema: Schema) -> Json:
    packages = sorted({file.package for file in schema.files if file.services})
    methods = [
        (service, method)
        for file in schema.files
        for service in file.services
        for method in service.methods
        if method.routes
    ]
    paths: Json = {}
    for service, method in methods:
        for number, route in enumerate(method.routes, 1):
            operation_id = f"{service.full_name}.{method.name}" + (f"-{number}" if number > 1 else "")
            operation = _operation(schema, service, method, route, operation_id)
            paths.setdefault(route.template, {})[route.http_method.lower()] = operation
    services = {service.full_name: service.comment for service, _ in methods}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": " ".join(package for package in packages if package) or "API",
            "version": packages[0].rpartition(".")[2] if packages and packages[0] else "1",
        },
        "tags": [_described({"name": name}, comment) for name, comment in services.items()],
        "paths": paths,
        "components": {
            "schemas": {**_message_schemas(schema, [method for _, method in methods]), _ERROR: _error_schema(schema)},
            "headers": {
                "X-Request-ID": {
                    "description": "The request's header of this name, or one that the server made.",
                    "schema": {"type": "string"},
                },
                "X-Response-Time": {
                    "description": "Time that the server took, in milliseconds.",
                    "schema": {"type": "string"},
                },
            },
        },
    }


def _message_schemas(schema: Schema, methods: list[Method]) -> Json:
    in_requests = schema.reachable(*(method.request for method in methods))
    in_replies = schema.reachable(*(method.response for method in methods))
    schemas = {}
    for name in sorted((in_requests | in_replies) & schema.messages.keys()):
        message = schema.messages[name]
        if not message.map_entry and not name.startswith("google.protobuf."):
            schemas[name] = message_schema(message, schema, only_in_replies=name not in in_requests)
    return schemas


def _operation(schema: Schema, service: Service, method: Method, route: Route, operation_id: str) -> Json:
    request = schema.messages[method.request]
    operation: Json = {"tags": [service.full_name], "operationId": operation_id}
    if method.comment:
        summary, _, description = method.comment.partition("\n\n")
        operation["summary"] = summary.replace("\n", " ")
        if description:
            operation["description"] = description
    parameters = []
    in_path = routes.variables(route.template)
    for where, fields in (
        ("path", [field for field in request.fields if field.name in in_path]),
        ("query", list(routes.query_fields(route, request))),
    ):
        for field in fields:
            field_schema = field_schemas(field, schema)[field.name]
            description = field_schema.pop("description", "")
            parameter = {"name": field.name, "in": where, "required": where == "path", "schema": field_schema}
            parameters.append(_described(parameter, description))
    if parameters:
        operation["parameters"] = parameters
    if route.body:
        operation["requestBody"] = {"required": True, "content": {_JSON_TYPE: {"schema": _body(schema, method, route)}}}
    success = {
        "type": "object",
        "properties": {
            "code": {"const": 0},
            "message": {"type": "string"},
            "timestamp": _TIMESTAMP,
            "data": {"$ref": f"#/components/schemas/{method.response}"},
        },
        "required": ["code", "message", "timestamp", "data"],
    }
    error = {"$ref": f"#/components/schemas/{_ERROR}"}
    operation["responses"] = {
        "200": _response("The reply; or an error, where `code` is not 0.", {"oneOf": [success, error]}),
        "default": _response("An error.", error),
    }
    return operation


def _body(schema: Schema, method: Method, route: Route) -> Json:
    request = schema.messages[method.request]
    if route.body != "*":
        return next(field_schemas(field, schema)[field.name] for field in request.fields if field.name == route.body)
    if not routes.variables(route.template):
        return {"$ref": f"#/components/schemas/{method.request}"}
    return message_schema(request, schema, only_in_replies=False, without=routes.variables(route.template))


_TIMESTAMP: Json = {"type": "integer", "format": "int64", "description": "Unix seconds on the server."}


def _response(description: str, schema: Json) -> Json:
    headers = {name: {"$ref": f"#/components/headers/{name}"} for name in ("X-Request-ID", "X-Response-Time")}
    return {"description": description, "headers": headers, "content": {_JSON_TYPE: {"schema": schema}}}


def _error_schema(schema: Schema) -> Json:
    codes = [code for file in schema.files for code in file.error_codes if code.http_status]
    code_schema: Json = {"type": "integer", "not": {"const": 0}}
    if codes:
        code_schema = {
            "type": "integer",
            "oneOf": [
                _described({"const": code.number, "title": f"{code.reason} (HTTP {code.http_status})"}, code.comment)
                for code in codes
            ],
        }
    return {
        "type": "object",
        "properties": {
            "code": code_schema,
            "message": {"type": "string", "description": "What went wrong, with which value, and what to do."},
            "timestamp": _TIMESTAMP,
            "data": {"type": ["object", "null"], "description": "Facts about the error."},
        },
        "required": ["code", "message", "timestamp", "data"],
    }


def _described(value: Json, description: str) -> Json:
    return {**value, "description": description} if description else value
