"""model → OpenAPI 3.1 document of the REST routes."""

from __future__ import annotations

from vsrpc.codegen.model import Schema


def render(schema: Schema) -> str:
    return "{}\n"
