"""Messages to bytes. What is written here is what the reader of the other role accepts, or it is refused.

The result is a list of buffers for one gathering write; the body is not copied unless it is small.
"""

from __future__ import annotations

from typing import Iterable, Sequence

from . import grammar
from .errors import LocalProtocolError, shown
from .headers import Headers
from .limits import Limits
from .messages import REASONS, Buffer, Request, Response
from .sync import MAGIC, SESSION_HEADER, SYNC_HEADER, seal, session_name

# Up to this size, in bytes, head and body are joined: a virtio-serial port takes each buffer of a gathering
# write as one descriptor, of which it has few, and of at most 32 KiB (virtio_console.c, port_fops_write).
_JOINED = 32768


def request_bytes(request: Request, limits: Limits, nonce: bytes | None = None) -> list[Buffer]:
    """`nonce`: of the session that it is sent in, between peers that synchronised."""
    method, target = request.method, request.target
    if not grammar.METHOD.fullmatch(method) or method in ("CONNECT", "TRACE"):
        raise LocalProtocolError(f"method {shown(method)} cannot be sent: use an upper-case one, not CONNECT or TRACE")
    if method == "HEAD":
        # Its response looks like any other with a body to come; only the pairing of the two tells.
        raise LocalProtocolError(
            "method HEAD cannot be sent: where responses come in any order its end is unknown; use GET"
        )
    if not grammar.ORIGIN_FORM.fullmatch(target) and not (target == "*" and method == "OPTIONS"):
        raise LocalProtocolError(
            f"request target {shown(target)} is not a percent-encoded absolute path with an optional query"
        )
    hosts = request.headers.get_all("host")
    if len(hosts) != 1 or not grammar.HOST.fullmatch(hosts[0]):
        raise LocalProtocolError(f"Host {shown(', '.join(hosts))}: a request needs exactly one valid Host header")
    start = f"{method} {target} HTTP/1.1"
    body: Sequence[Buffer] = (request.body, request.tail)
    fields: list[tuple[str, str]] = []
    if nonce is not None:
        body, fields = seal(body, MAGIC)
        fields.append((SESSION_HEADER, session_name(nonce)))
    return _assemble(start, request.headers, [*fields, ("content-length", str(_length(body)))], body, limits)


def response_bytes(
    response: Response, request_method: str, limits: Limits, marker: bytes | None = None
) -> list[Buffer]:
    """`marker`: what the body must be clear of, between peers that synchronised."""
    status = response.status
    body: Sequence[Buffer] = (response.body, response.tail)
    if not 200 <= status <= 599:
        raise LocalProtocolError(f"status {status} is not a final status (200 to 599); for 100 send CONTINUE")
    reason = response.reason or REASONS.get(status, "")
    if not grammar.REASON.fullmatch(reason):
        raise LocalProtocolError(f"reason {shown(reason)} has control characters or characters beyond Latin-1")
    fields: list[tuple[str, str]] = []
    if marker is not None:
        body, fields = seal(body, marker)
    length = [*fields, ("content-length", str(_length(body)))]
    if status in (204, 304):
        # RFC 9110 8.6: no Content-Length in a 204; in a 304 it would have to be that of the 200 we do not know.
        if _length(body):
            raise LocalProtocolError(f"a response of status {status} has no body, but {_length(body)} bytes were given")
        length = []
    elif request_method == "HEAD":
        # RFC 9110 9.3.2: the fields are those of the GET, its Content-Length included; the body is not sent.
        body = ()
    return _assemble(f"HTTP/1.1 {status} {reason}", response.headers, length, body, limits)


def _length(body: Sequence[Buffer]) -> int:
    return sum(memoryview(part).nbytes for part in body)


def _assemble(
    start: str, headers: Headers, framing: Iterable[tuple[str, str]], body: Sequence[Buffer], limits: Limits
) -> list[Buffer]:
    for name in ("content-length", "transfer-encoding", SYNC_HEADER):
        if name in headers:
            raise LocalProtocolError(f"header {name} is set here: leave it out")
    lines = [start]
    lines += [f"{name}: {value}" for name, value in headers]
    lines += [f"{name}: {value}" for name, value in framing]
    if len(lines) - 1 > limits.max_headers:
        raise LocalProtocolError(f"{len(lines) - 1} header fields are more than the limit of {limits.max_headers}")
    if len(start) > limits.max_line:
        raise LocalProtocolError(f"the first line {shown(start)} is longer than {limits.max_line} bytes")
    head = "\r\n".join([*lines, "\r\n"]).encode("latin-1")
    if len(head) > limits.max_head:
        raise LocalProtocolError(f"the head of {len(head)} bytes is over the limit of {limits.max_head}")
    message: list[Buffer] = []
    for part in (head, *body):  # the small ones joined
        if not memoryview(part).nbytes:
            continue
        if message and len(message[-1]) + memoryview(part).nbytes <= _JOINED:
            message[-1] = b"".join((message[-1], part))
        else:
            message.append(part)
    return message
