"""The first exchange of every session: who is there, which version, which limits.

    client  OPTIONS * HTTP/1.1            Vsrpc-Version: 1
    server  HTTP/1.1 200 OK               Vsrpc-Version: 1, Vsrpc-Instance, Vsrpc-Agent, Vsrpc-Max-Request-Size

After it the server answers requests in any order, each reply with its request's X-Request-ID; without it (any plain
HTTP client) it answers in the order of the requests. A client of ours sends no other request before the reply.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from vsrpc.wire import Headers, Request, Response

VERSION = 1
"""The protocol version that this code speaks. Both ends must speak the same."""

REQUEST_ID = "x-request-id"
_VERSION_HEADER = "vsrpc-version"

_SIZE = re.compile(r"[0-9]{1,18}\Z")


@dataclass(frozen=True)
class Peer:
    """What a server says of itself in its hello."""

    instance: str
    """Names one lifetime of the daemon: it changes when the daemon restarts."""
    agent: str
    """Program and version, for messages."""
    max_request_size: int
    """The largest request body that it takes, in bytes."""


class WrongPeer(Exception):
    """The other end does not speak this protocol, or not this version; the text says which."""


def is_hello(request: Request) -> bool:
    """Whether a request is a client's hello."""
    return request.method == "OPTIONS" and request.target == "*" and _VERSION_HEADER in request.headers


def hello_request(request_id: str) -> Request:
    """A client's hello."""
    return Request(
        "OPTIONS",
        "*",
        Headers([("host", "guest"), (_VERSION_HEADER, str(VERSION)), (REQUEST_ID, request_id)]),
    )


def hello_response(request: Request, me: Peer) -> Response:
    """The server's answer: 200 when it speaks the version that was asked for, else 505; always its own version."""
    asked = request.headers.get(_VERSION_HEADER, "")
    same = asked == str(VERSION)
    message = "" if same else f"this guest speaks vsrpc protocol version {VERSION}, the caller asked for {asked!r}\n"
    headers = [
        (_VERSION_HEADER, str(VERSION)),
        ("vsrpc-instance", me.instance),
        ("vsrpc-agent", me.agent),
        ("vsrpc-max-request-size", str(me.max_request_size)),
    ]
    request_id = request.headers.get(REQUEST_ID)
    if request_id is not None:
        headers.append((REQUEST_ID, request_id))
    return Response(200 if same else 505, Headers(headers), message.encode())


def parse_hello(response: Response) -> Peer:
    """What the server said. Raises WrongPeer."""
    headers = response.headers
    version = headers.get(_VERSION_HEADER)
    if version is None:
        raise WrongPeer(f"it answered HTTP status {response.status} without a vsrpc version")
    agent = headers.get("vsrpc-agent") or "unknown"
    if version != str(VERSION) or response.status != 200:
        raise WrongPeer(f"it speaks protocol version {version} ({agent}), this client speaks {VERSION}")
    size = headers.get("vsrpc-max-request-size") or ""
    if not _SIZE.match(size):
        raise WrongPeer(f"its hello has no valid size limit: {size!r}")
    return Peer(headers.get("vsrpc-instance") or "", agent, int(size))
