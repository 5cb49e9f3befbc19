"""REST routes: from an HTTP method, a path and a query to a method of the schema and its request as JSON.

Routes come from the schema (vsrpc.method.Route); nothing here knows a route by name.
"""

from __future__ import annotations

import re
from typing import Any, Iterable
from urllib.parse import parse_qsl, unquote

from vsrpc.errors import RpcError
from vsrpc.fields import is_bool, is_repeated
from vsrpc.method import Route
from vsrpc.status import Code

_VARIABLE = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


class RouteTable:
    """Finds the route of a request."""

    def __init__(self) -> None:
        self._routes: list[tuple[re.Pattern[str], Route]] = []

    def add(self, routes: Iterable[Route]) -> None:
        """Add routes. Raises ValueError when two of them could match the same request."""
        for route in routes:
            for _, other in self._routes:
                if (other.http_method, _shape(other.template)) == (route.http_method, _shape(route.template)):
                    raise ValueError(
                        f"{route.http_method} {route.template}: the route of both {other.rpc_path} and {route.rpc_path}"
                    )
            self._routes.append((_pattern(route.template), route))

    def has(self, path: str) -> bool:
        """Whether there is a route for the path, whatever its HTTP method."""
        return any(pattern.match(path) for pattern, _ in self._routes)

    def find(self, http_method: str, path: str) -> tuple[Route, dict[str, str]]:
        """The route, and the values of its template's variables.

        Raises RpcError: ENDPOINT_NOT_FOUND, or METHOD_NOT_ALLOWED with the methods that are allowed.
        """
        allowed: list[str] = []
        found: tuple[Route, dict[str, str]] | None = None
        for pattern, route in self._routes:
            match = pattern.match(path)
            if match is None:
                continue
            if route.http_method == http_method:
                values = {name: _unquote(value, "path") for name, value in match.groupdict().items()}
                # A route without variables wins over one whose variable would take the same segment.
                if found is None or len(values) < len(found[1]):
                    found = (route, values)
            allowed.append(route.http_method)
        if found is not None:
            return found
        if allowed:
            methods = ", ".join(sorted(set(allowed)))
            raise RpcError(
                Code.UNKNOWN,
                f"{path} does not take {http_method}; use {methods}",
                reason="METHOD_NOT_ALLOWED",
                data={"allowed": methods},
            )
        raise RpcError(
            Code.UNIMPLEMENTED,
            f"no such route: {http_method} {path}",
            reason="ENDPOINT_NOT_FOUND",
            data={"path": path},
        )


def _pattern(template: str) -> re.Pattern[str]:
    parts: list[str] = []
    position = 0
    for match in _VARIABLE.finditer(template):
        parts.append(re.escape(template[position : match.start()]) + f"(?P<{match.group(1)}>[^/]+)")
        position = match.end()
    return re.compile("".join(parts) + re.escape(template[position:]) + r"\Z")


def _shape(template: str) -> str:
    return _VARIABLE.sub("{}", template)


def query_pairs(query: str) -> list[tuple[str, str]]:
    """The pairs of a query string, decoded. Raises RpcError INVALID_ARGUMENT."""
    try:
        return parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query), errors="strict")
    except (ValueError, UnicodeDecodeError) as error:
        raise _bad_params(f"the query {query!r} is not valid: {error}") from None


def query_fields(message_type: Any, pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """A JSON object for query pairs: repeated fields gather their values, booleans and numbers are converted.

    Raises RpcError INVALID_ARGUMENT for an unknown field, and for one that is given twice but not repeated.
    """
    fields = {name: field for field in message_type.DESCRIPTOR.fields for name in (field.name, field.json_name)}
    value: dict[str, Any] = {}
    for name, text in pairs:
        field = fields.get(name)
        if field is None or field.message_type is not None:
            known = ", ".join(sorted(field.name for field in message_type.DESCRIPTOR.fields)) or "none"
            raise _bad_params(f"unknown query parameter {name!r}; the parameters are: {known}", field=name)
        item: Any = text
        if is_bool(field):
            if text not in ("true", "false"):
                raise _bad_params(f"query parameter {name}={text!r} is not true or false", field=name)
            item = text == "true"
        if is_repeated(field):
            value.setdefault(field.name, []).append(item)
        elif field.name in value:
            raise _bad_params(f"query parameter {name!r} is given twice", field=name)
        else:
            value[field.name] = item
    return value


def _unquote(text: str, what: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise _bad_params(f"the {what} {text!r} is not UTF-8 once decoded") from None


def _bad_params(message: str, **data: str) -> RpcError:
    return RpcError(Code.INVALID_ARGUMENT, message, reason="INVALID_PARAMS", data=data)
