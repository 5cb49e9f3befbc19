"""Status codes: gRPC's seventeen, their Connect names and HTTP statuses.

Pure tables. Everything that says how a call ended uses these.
"""

from __future__ import annotations

import enum


class Code(enum.Enum):
    """How a call ended. Names and numbers are gRPC's (grpc/grpc doc/statuscodes.md)."""

    OK = 0  # it worked
    CANCELLED = 1  # the caller gave up
    UNKNOWN = 2  # it failed and nothing more is known
    INVALID_ARGUMENT = 3  # the request is wrong, whatever the state of the guest
    DEADLINE_EXCEEDED = 4  # no result before the deadline; it may have taken effect
    NOT_FOUND = 5  # what the request names does not exist
    ALREADY_EXISTS = 6  # what the request would create exists
    PERMISSION_DENIED = 7  # the caller is known and may not
    RESOURCE_EXHAUSTED = 8  # a limit, a quota or the disk is full
    FAILED_PRECONDITION = 9  # the guest is not in the state that the request needs
    ABORTED = 10  # a conflict with something that runs at the same time
    OUT_OF_RANGE = 11  # past the end
    UNIMPLEMENTED = 12  # no such rpc, or not on this guest
    INTERNAL = 13  # a defect, or a peer that breaks the protocol
    UNAVAILABLE = 14  # nobody serves now; a retry may help
    DATA_LOSS = 15  # content was damaged
    UNAUTHENTICATED = 16  # the caller did not prove who it is

    @property
    def connect_name(self) -> str:
        """The code's name in Connect's JSON errors, for example "not_found"."""
        return _CONNECT_NAMES[self]

    @property
    def http_status(self) -> int:
        """HTTP status of a Connect unary error with this code; 200 for OK."""
        return _HTTP_STATUS[self]


# Connect spells it with one l (connectrpc.com/docs/protocol#error-codes).
_CONNECT_NAMES: dict[Code, str] = {code: "canceled" if code is Code.CANCELLED else code.name.lower() for code in Code}

_BY_CONNECT_NAME: dict[str, Code] = {name: code for code, name in _CONNECT_NAMES.items() if code is not Code.OK}

# connectrpc.com/docs/protocol#error-codes
_HTTP_STATUS: dict[Code, int] = {
    Code.OK: 200,
    Code.CANCELLED: 499,
    Code.UNKNOWN: 500,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
    Code.DATA_LOSS: 500,
    Code.UNAUTHENTICATED: 401,
}

# connectrpc.com/docs/protocol#http-to-error-code: for replies whose body is no Connect error.
_CODE_OF_HTTP_STATUS: dict[int, Code] = {
    400: Code.INTERNAL,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.UNIMPLEMENTED,
    429: Code.UNAVAILABLE,
    502: Code.UNAVAILABLE,
    503: Code.UNAVAILABLE,
    504: Code.UNAVAILABLE,
}


def code_from_connect_name(name: str) -> Code | None:
    """The code with that Connect name, or None."""
    return _BY_CONNECT_NAME.get(name)


def code_from_http_status(status: int) -> Code:
    """The code that an HTTP error without a Connect body stands for."""
    return _CODE_OF_HTTP_STATUS.get(status, Code.UNKNOWN)
