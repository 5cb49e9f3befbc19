"""Strict HTTP/1.1 framing, sans-IO: bytes to complete messages and back.

Knows HTTP syntax only. It must not know a socket, a thread, a clock, protobuf, or anything of RPC: no path,
content type or status means anything here beyond its framing.

    grammar ── head, start_line ──┐
    limits, errors, headers ──────┼── connection (ServerConnection, ClientConnection)
    messages ── body, writer ─────┘

One framing mistake on a byte stream that several clients share is a smuggled request, so whatever RFC 9112
lets a recipient refuse is refused, and nothing is parsed after a framing error.
"""

from .connection import ClientConnection, ServerConnection
from .errors import BodyTooLarge, LocalProtocolError, ProtocolError, RemoteProtocolError
from .headers import Headers
from .limits import Limits
from .messages import CONTINUE, REASONS, Buffer, Event, ExpectContinue, Refused, Request, Response, ServerEvent

__all__ = [
    "CONTINUE",
    "REASONS",
    "BodyTooLarge",
    "Buffer",
    "ClientConnection",
    "Event",
    "ExpectContinue",
    "Headers",
    "Limits",
    "LocalProtocolError",
    "ProtocolError",
    "Refused",
    "RemoteProtocolError",
    "Request",
    "Response",
    "ServerConnection",
    "ServerEvent",
]
