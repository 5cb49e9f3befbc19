"""The errors that users of the Python client see, and the one place where other errors become them.

RPCError says that a call failed, by the numeric code of the schema. UsageError says that what the caller gave is
wrong and nothing was sent. Local files fail with the OSError of their kind. Protobuf is imported only for an error
that carries a protobuf detail.
"""

from __future__ import annotations

from typing import Any, Mapping

from vsrpc.error_table import ErrorTable
from vsrpc.errors import RpcError
from vsrpc.v1.error_tables import ERROR_CODES

NUMBERS: Mapping[str, int] = {entry.reason: entry.number for entry in ERROR_CODES}
"""Number of each error code by its short name, for example NUMBERS["FILE_NOT_FOUND"] == 3002."""

_REASONS = {entry.number: entry.reason for entry in ERROR_CODES}

_TABLE = ErrorTable(ERROR_CODES)


class UsageError(ValueError):
    """What the caller gave cannot be used; the message names the value, the cause and the way out."""


class RPCError(Exception):
    """A call that failed.

    `code` is a number of the schema's ErrorCode (3002 for a file that does not exist), `message` names the cause
    and the value, `data` holds facts about the error (path, limit …).
    """

    def __init__(self, code: int, message: str, data: Mapping[str, Any] | None = None) -> None:
        super().__init__(code, message, data)
        self.code = code
        self.message = message
        self.data: dict[str, Any] = dict(data or {})

    @property
    def reason(self) -> str:
        """The code's short name, for example "FILE_NOT_FOUND"; "" for a number that this version does not know."""
        return _REASONS.get(self.code, "")

    def __str__(self) -> str:
        return f"{self.message} [{self.code} {self.reason}]" if self.reason else f"{self.message} [{self.code}]"


def failure(reason: str, message: str, **data: object) -> RPCError:
    """An RPCError that this end found itself, by a code's short name."""
    return RPCError(NUMBERS[reason], message, data)


def from_rpc_error(error: RpcError) -> RPCError:
    """The RPCError of a call that the runtime says has failed."""
    message = error.details() or f"the call ended with status {error.code().name}"
    for detail in error.error_details:
        if detail.type == "vsrpc.v1.ErrorDetail":
            return RPCError(*_parse_detail(detail.value, message))
    return RPCError(_TABLE.entry(error).number, message, error.data)


def _parse_detail(value: bytes, message: str) -> tuple[int, str, dict[str, str]]:
    from google.protobuf.message import DecodeError

    from vsrpc.v1.error_pb2 import ErrorDetail

    try:
        detail = ErrorDetail.FromString(value)
    except DecodeError:
        return NUMBERS["PROTOCOL_ERROR"], f"{message} (with an error detail that cannot be read)", {}
    return int(detail.code), message, dict(detail.data)
