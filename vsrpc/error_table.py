"""Numeric error codes of a schema: from an RpcError to a number, an HTTP status and a typed detail.

The entries are generated from the schema's enum; this finds the one for an error.
"""

from __future__ import annotations

from typing import Callable, Mapping, Sequence

from vsrpc.errors import ErrorDetail, RpcError
from vsrpc.method import ErrorCodeEntry
from vsrpc.status import Code

DetailMaker = Callable[[int, Mapping[str, str]], ErrorDetail]
"""Makes the typed detail of a number and an error's data."""

# Errors that name no reason (a servicer's own abort, say) get the most general number of their status.
_GENERAL: dict[Code, str] = {
    Code.CANCELLED: "CANCELLED",
    Code.UNKNOWN: "INTERNAL_ERROR",
    Code.INVALID_ARGUMENT: "INVALID_PARAMS",
    Code.DEADLINE_EXCEEDED: "DEADLINE_EXCEEDED",
    Code.NOT_FOUND: "FILE_NOT_FOUND",
    Code.ALREADY_EXISTS: "FILE_EXISTS",
    Code.PERMISSION_DENIED: "PERMISSION_DENIED",
    Code.RESOURCE_EXHAUSTED: "BUSY",
    Code.FAILED_PRECONDITION: "INVALID_PARAMS",
    Code.ABORTED: "BUSY",
    Code.OUT_OF_RANGE: "INVALID_PARAMS",
    Code.UNIMPLEMENTED: "NOT_SUPPORTED",
    Code.INTERNAL: "INTERNAL_ERROR",
    Code.UNAVAILABLE: "SERVICE_UNAVAILABLE",
    Code.DATA_LOSS: "CONTENT_MISMATCH",
    Code.UNAUTHENTICATED: "UNAUTHENTICATED",
}


class ErrorTable:
    """The error codes of one schema; an empty table gives gRPC's numbers and Connect's HTTP statuses."""

    def __init__(self, entries: Sequence[ErrorCodeEntry] = (), make_detail: DetailMaker | None = None) -> None:
        self._entries = {entry.reason: entry for entry in entries}
        self._make_detail = make_detail

    def entry(self, error: RpcError) -> ErrorCodeEntry:
        """The entry for an error: by its reason, else the general one of its status."""
        code = error.code()
        entry = self._entries.get(error.reason) or self._entries.get(_GENERAL.get(code, ""))
        return entry or ErrorCodeEntry(code.name, code.value, code.http_status, code.name)

    def with_detail(self, error: RpcError) -> RpcError:
        """The error with its number as a typed detail, unless it has details of its own or the table makes none."""
        if self._make_detail is None or error.error_details:
            return error
        detail = self._make_detail(self.entry(error).number, error.data)
        return RpcError(
            error.code(),
            error.details(),
            reason=error.reason,
            data=error.data,
            error_details=[detail],
            initial_metadata=error.initial_metadata(),
            trailing_metadata=error.trailing_metadata(),
        )
