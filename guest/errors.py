"""Errors of the guest's services, by the short names of the schema's error codes."""

from __future__ import annotations

from vsrpc.errors import RpcError
from vsrpc.status import Code
from vsrpc.v1.error_tables import ERROR_CODES

_RPC_CODES = {entry.reason: Code[entry.rpc_code] for entry in ERROR_CODES}


def error(reason: str, message: str, **data: object) -> RpcError:
    """The RpcError for an error code of the schema, for example `error("FILE_NOT_FOUND", "No such file: /x", path="/x")`.

    `message` names the value, the cause and the way out; `data` holds facts that a program may want, as text.
    """
    return RpcError(_RPC_CODES[reason], message, reason=reason, data={key: str(value) for key, value in data.items()})
