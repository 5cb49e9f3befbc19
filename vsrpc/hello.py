"""The first exchange of a session: who is there, which version, which limits.

    client  MAGIC nonce                   (vsrpc.wire.sync)
            OPTIONS * HTTP/1.1            Vsrpc-Version: 1, Vsrpc-Window
    server  MARK nonce
            HTTP/1.1 200 OK               Vsrpc-Version: 1, Vsrpc-Instance, Vsrpc-Agent, Vsrpc-Max-Request-Size,
                                          at a port Vsrpc-Window, Vsrpc-Lost-Output,
                                          where requests must be signed WWW-Authenticate (vsrpc.auth)

After it the server answers requests in any order, each reply with its request's X-Request-ID; without it (any plain
HTTP client) it answers in the order of the requests. A client of ours sends no request before the reply. Within the
session an `OPTIONS *` is for the link itself: it asks whether the session lives, and may cancel a call.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from vsrpc.auth import CHALLENGE, Challenge
from vsrpc.wire import Headers, Request, Response

VERSION = 1
"""The protocol version that this code speaks. Both ends must speak the same."""

REQUEST_ID = "x-request-id"
MESSAGE_COST = 2048
"""What a message uses of a window beside its bytes: to the kernel, small messages are large."""

_VERSION_HEADER = "vsrpc-version"
_WINDOW_HEADER = "vsrpc-window"
_LOST_HEADER = "vsrpc-lost-output"
_CANCEL_HEADER = "vsrpc-cancel"

_SIZE = re.compile(r"[0-9]{1,18}\Z")

# Smaller ones would make a message of many writes, and larger ones are no socket's.
_WINDOWS = range(16 * 1024, 1 << 30)


class Peer(NamedTuple):
    """What a server says of itself in its hello."""

    instance: str
    """Names one lifetime of the daemon: it changes when the daemon restarts."""
    agent: str
    """Program and version, for messages."""
    max_request_size: int
    """The largest request body that it takes, in bytes."""
    window: int = 0
    """How much it sends ahead of the client's acknowledgements, in bytes; 0 where it waits for none: at anything but a
    port, of which only one client can have the use."""
    lost_output: int = 0
    """How many of the port's output descriptors are lost, of 128."""
    challenge: Challenge | None = None
    """What requests must be signed for; None where they need not be."""


class WrongPeer(Exception):
    """The other end does not speak this protocol, or not this version; the text says which."""


def is_link_request(request: Request) -> bool:
    """Whether a request is for the server itself rather than for one of its services."""
    return request.method == "OPTIONS" and request.target == "*"


def is_hello(request: Request) -> bool:
    """Whether a request is a client's hello."""
    return is_link_request(request) and _VERSION_HEADER in request.headers


def hello_request(request_id: str, window: int) -> Request:
    """A client's hello. `window`: how many bytes its socket takes unread."""
    return _link_request(request_id, (_VERSION_HEADER, str(VERSION)), (_WINDOW_HEADER, str(window)))


def cancel_request(request_id: str, cancelled: str) -> Request:
    """Asks the server to give up the call with the request id `cancelled`."""
    return _link_request(request_id, (_CANCEL_HEADER, cancelled))


def probe_request(request_id: str) -> Request:
    """Asks whether the session lives."""
    return _link_request(request_id)


def cancelled_by(request: Request) -> str | None:
    """The request id of the call that a request of the link cancels; None where it cancels none."""
    return request.headers.get(_CANCEL_HEADER)


def window_of(request: Request) -> int:
    """The window that a hello grants, or 0 for one that grants none that could be used."""
    text = request.headers.get(_WINDOW_HEADER, "")
    window = int(text) if _SIZE.match(text) else 0
    return window if window in _WINDOWS else 0


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
    if me.window:
        headers += [(_WINDOW_HEADER, str(me.window)), (_LOST_HEADER, str(me.lost_output))]
    if me.challenge is not None:
        headers.append((CHALLENGE, str(me.challenge)))
    return Response(200 if same else 505, Headers([*headers, *_echo(request)]), message.encode())


def link_response(request: Request) -> Response:
    """The server's answer to any other request of the link."""
    return Response(204, Headers(_echo(request)))


def parse_hello(response: Response) -> Peer:
    """What the server said. Raises WrongPeer."""
    headers = response.headers
    version = headers.get(_VERSION_HEADER)
    if version is None:
        raise WrongPeer(f"it answered HTTP status {response.status} without a vsrpc version")
    agent = headers.get("vsrpc-agent") or "unknown"
    if version != str(VERSION) or response.status != 200:
        older = _SIZE.match(version) and int(version) < VERSION
        way_out = "install a newer vsrpc in the guest" if older else "install a newer vsrpc here"
        raise WrongPeer(f"it speaks protocol version {version} ({agent}), this client speaks {VERSION}: {way_out}")
    size = headers.get("vsrpc-max-request-size") or ""
    if not _SIZE.match(size):
        raise WrongPeer(f"its hello has no valid size limit: {size!r}")
    window, lost = (headers.get(name, "0") for name in (_WINDOW_HEADER, _LOST_HEADER))
    if not _SIZE.match(window) or not _SIZE.match(lost):
        raise WrongPeer(f"its hello has no valid window and count of lost output: {window!r}, {lost!r}")
    challenge = Challenge.parse(headers.get(CHALLENGE, ""))
    return Peer(headers.get("vsrpc-instance") or "", agent, int(size), int(window), int(lost), challenge)


def _link_request(request_id: str, *fields: tuple[str, str]) -> Request:
    return Request("OPTIONS", "*", Headers([("host", "guest"), (REQUEST_ID, request_id), *fields]))


def _echo(request: Request) -> list[tuple[str, str]]:
    request_id = request.headers.get(REQUEST_ID)
    return [] if request_id is None else [(REQUEST_ID, request_id)]
