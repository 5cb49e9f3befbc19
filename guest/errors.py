"""Errors of the guest's services, by the short names of the schema's error codes."""

from __future__ import annotations

from typing import Mapping

from vsrpc.error_table import ErrorTable
from vsrpc.errors import ErrorDetail, RpcError
from vsrpc.status import Code
from vsrpc.v1 import error_pb2
from vsrpc.v1.error_tables import ERROR_CODES

_RPC_CODES = {entry.reason: Code[entry.rpc_code] for entry in ERROR_CODES}


def error(reason: str, message: str, **data: object) -> RpcError:
    """The RpcError for an error code of the schema: `error("FILE_NOT_FOUND", "No such file: /x", path="/x")`, say.

    `message` names the value, the cause and the way out; `data` holds facts that a program may want, as text.
    """
    return RpcError(_RPC_CODES[reason], message, reason=reason, data={key: str(value) for key, value in data.items()})


def too_large(what: str, size: int, rule: str, limit: int) -> RpcError:
    """What a request ends with of which something has more bytes than the key `rule` of the configuration lets it."""
    message = f"{what} has {size} bytes; at most {limit} are taken ({rule} in the guest's configuration)"
    return error("TOO_LARGE", message, size=size, limit=limit, rule=rule)


def _detail(number: int, data: Mapping[str, str]) -> ErrorDetail:
    message = error_pb2.ErrorDetail(data=data)
    message.code = number  # type: ignore[assignment] # enum fields take any number
    return ErrorDetail(message.DESCRIPTOR.full_name, message.SerializeToString())


ERRORS = ErrorTable(ERROR_CODES, _detail)
"""The schema's codes, for the dispatcher."""
