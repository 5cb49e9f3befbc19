"""Request line, status line and Host: text in, values out, RemoteProtocolError for what is refused.

Only HTTP/1.1 is spoken. The version is judged before the rest of the line, so that the preface of
HTTP/2 and a client of HTTP/1.0 are told the real cause.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

from . import grammar
from .errors import RemoteProtocolError, shown
from .headers import Headers


class RequestLine(NamedTuple):
    """``target`` in origin-form or ``*``; ``authority`` of an absolute-form target, else None."""

    method: str
    target: str
    authority: str | None = None


class StatusLine(NamedTuple):
    status: int
    reason: str


@functools.lru_cache(maxsize=64)  # one client's lines are few, and all alike
def parse_request_line(line: str) -> RequestLine:
    found = grammar.REQUEST_LINE.fullmatch(line)
    if found is None:
        if grammar.SIMPLE_REQUEST.fullmatch(line):
            raise RemoteProtocolError(f"request line {shown(line)} has no version (HTTP/0.9): use HTTP/1.1", 505)
        raise RemoteProtocolError(
            f"request line {shown(line)} is not 'METHOD TARGET HTTP/1.1' with single spaces (percent-encode others)"
        )
    method, target, version = found.groups()
    if version != "1.1":
        raise RemoteProtocolError(f"request line {shown(line)} asks for HTTP/{version}: use HTTP/1.1", 505)
    if not grammar.METHOD.fullmatch(method):
        raise RemoteProtocolError(f"method {shown(method)} is not an upper-case HTTP method")
    if method == "CONNECT":
        # Refused for good: what follows the head of a CONNECT has no HTTP framing (RFC 9110 9.3.6).
        raise RemoteProtocolError(f"method CONNECT (target {shown(target)}) is not implemented: this is no proxy", 501)
    if grammar.ORIGIN_FORM.fullmatch(target) or (target == "*" and method == "OPTIONS"):
        return RequestLine(method, target)
    absolute = grammar.ABSOLUTE_FORM.fullmatch(target)
    if absolute is None:
        raise RemoteProtocolError(
            f"request target {shown(target)} is not an absolute path with an optional query, "
            "percent-encoded (or *, for OPTIONS only)"
        )
    return RequestLine(method, absolute.group(2) or "/", absolute.group(1))


def check_host(line: RequestLine, headers: Headers) -> None:
    """RFC 9112 3.2: exactly one valid Host; with an absolute-form target it must name the same host."""
    hosts = headers.get_all("host")
    if len(hosts) != 1:
        raise RemoteProtocolError(f"{len(hosts)} Host header fields {shown(', '.join(hosts))}: send exactly one")
    if not _is_host(hosts[0]):
        raise RemoteProtocolError(f"Host {shown(hosts[0])} is not a host name or address with an optional port")
    if line.authority is not None and line.authority.lower() != hosts[0].lower():
        raise RemoteProtocolError(f"request target names host {shown(line.authority)} but Host says {shown(hosts[0])}")


@functools.lru_cache(maxsize=64)
def _is_host(value: str) -> bool:
    return grammar.HOST.fullmatch(value) is not None


@functools.lru_cache(maxsize=64)
def parse_status_line(line: str) -> StatusLine:
    found = grammar.STATUS_LINE.fullmatch(line)
    if found is None:
        raise RemoteProtocolError(f"status line {shown(line)} is not 'HTTP/1.1 CODE REASON': is this an HTTP server?")
    version, status, reason = found.groups()
    if version != "1.1":
        raise RemoteProtocolError(f"status line {shown(line)} speaks HTTP/{version}: only HTTP/1.1 is understood", 505)
    return StatusLine(int(status), reason)
