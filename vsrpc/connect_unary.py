"""The unary form of the Connect protocol (connectrpc.com/docs/protocol): its headers and its errors, both ways.

Used by the channel and by the dispatcher, so that the two cannot disagree.
"""

from __future__ import annotations

import base64
import json
import re
from typing import Any, Iterable, Mapping

from vsrpc.deadline import Deadline
from vsrpc.errors import ErrorDetail, RpcError
from vsrpc.metadata import Metadata, decode_base64, from_headers, to_headers
from vsrpc.status import Code, code_from_connect_name, code_from_http_status
from vsrpc.wire import Buffer, Headers

TIMEOUT = "connect-timeout-ms"
PROTOCOL_VERSION = "connect-protocol-version"
TRAILER_PREFIX = "trailer-"
RETRY_AFTER = "retry-after"

_TIMEOUT_DIGITS = re.compile(r"[0-9]{1,10}\Z")


def timeout_header(deadline: Deadline) -> list[tuple[str, str]]:
    """The header that carries what is left until a deadline; none without limit."""
    remaining = deadline.remaining()
    if remaining is None:
        return []
    # At most ten digits, some 115 days; 0 would read as "no time at all".
    return [(TIMEOUT, str(min(max(1, int(remaining * 1000)), 9_999_999_999)))]


def parse_timeout(headers: Headers) -> float | None:
    """Seconds that the caller gives the call; None when it does not say. Raises RpcError INVALID_ARGUMENT."""
    value = headers.get(TIMEOUT)
    if value is None:
        return None
    if not _TIMEOUT_DIGITS.match(value):
        raise RpcError(
            Code.INVALID_ARGUMENT,
            f"Connect-Timeout-Ms {value!r} is not a number of milliseconds with at most ten digits",
            reason="INVALID_PARAMS",
        )
    return int(value) / 1000


def split_metadata(headers: Iterable[tuple[str, str]]) -> tuple[Metadata, Metadata]:
    """The initial and the trailing metadata in a unary reply's headers."""
    initial: list[tuple[str, str]] = []
    trailing: list[tuple[str, str]] = []
    for name, value in headers:
        if name.startswith(TRAILER_PREFIX):
            trailing.append((name[len(TRAILER_PREFIX) :], value))
        else:
            initial.append((name, value))
    return from_headers(initial), from_headers(trailing)


def join_metadata(initial: Metadata, trailing: Metadata) -> list[tuple[str, str]]:
    """Headers of a unary reply for its metadata. Raises ValueError, TypeError for what cannot travel."""
    return [*to_headers(initial), *to_headers(trailing, TRAILER_PREFIX)]


def error_body(error: RpcError) -> bytes:
    """The JSON that says how a call failed."""
    body: dict[str, Any] = {"code": error.code().connect_name, "message": error.details()}
    if error.error_details:
        body["details"] = [
            {"type": detail.type, "value": base64.b64encode(detail.value).decode("ascii").rstrip("=")}
            for detail in error.error_details
        ]
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8")


def parse_error(status: int, headers: Headers, body: Buffer) -> RpcError:
    """The error in a reply whose HTTP status is not 200.

    What is not a Connect error (a proxy's page, say) gets its code from the HTTP status.
    """
    initial, trailing = split_metadata(headers)
    code = code_from_http_status(status)
    message = f"HTTP status {status}"
    details: list[ErrorDetail] = []
    value = _json_object(headers, body)
    if value is not None:
        named = value.get("code")
        if isinstance(named, str):
            code = code_from_connect_name(named) or code
        if isinstance(value.get("message"), str):
            message = value["message"]
        elif isinstance(named, str):
            message = ""
        details = list(_parse_details(value.get("details")))
    return RpcError(
        code,
        message,
        error_details=details,
        initial_metadata=initial,
        trailing_metadata=trailing,
        not_run=says_not_run(status, headers),
    )


def says_not_run(status: int, headers: Headers) -> bool:
    """Whether a reply says that the request did nothing and may be sent again (RFC 9110 10.2.3)."""
    return status in (429, 503) and RETRY_AFTER in headers


def _json_object(headers: Headers, body: Buffer) -> Mapping[str, Any] | None:
    if media_type(headers) != "application/json":
        return None
    try:
        value = json.loads(bytes(body))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _parse_details(value: Any) -> Iterable[ErrorDetail]:
    for item in value if isinstance(value, list) else ():
        if isinstance(item, dict) and isinstance(item.get("type"), str) and isinstance(item.get("value"), str):
            try:
                yield ErrorDetail(item["type"], decode_base64(item["value"]))
            except ValueError:
                continue


def media_type(headers: Headers) -> str:
    """The content type without parameters, in lower case; "" when absent."""
    return (headers.get("content-type") or "").partition(";")[0].strip().lower()
