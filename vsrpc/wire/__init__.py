"""Strict HTTP/1.1 framing, sans-IO: bytes to complete messages and back.

Knows HTTP syntax only. It must not know a socket, a thread, a clock, protobuf, or anything of RPC: no path,
content type or status means anything here beyond its framing.

    grammar ── head, start_line ──┐
    limits, errors, headers ──────┼── connection ── server_connection, client_connection
    messages ── body, writer ─────┤
    sync ─────────────────────────┘

One framing mistake on a byte stream that several clients share is a smuggled request, so whatever RFC 9112
lets a recipient refuse is refused, and nothing is parsed after a framing error.
"""

from .client_connection import ClientConnection
from .errors import BodyDamaged, BodyTooLarge, LocalProtocolError, ProtocolError, RemoteProtocolError
from .headers import Headers
from .limits import Limits
from .messages import (
    CONTINUE,
    REASONS,
    Acks,
    Buffer,
    ClientEvent,
    Event,
    ExpectContinue,
    Leave,
    Refused,
    Request,
    Response,
    ServerEvent,
    Sync,
)
from .server_connection import ServerConnection
from .sync import ACK, LEAVE, MAGIC, NO_NONCE, NONCE_SIZE, SESSION_HEADER, Finder, response_sync, session_name

__all__ = [
    "ACK",
    "CONTINUE",
    "LEAVE",
    "MAGIC",
    "NONCE_SIZE",
    "NO_NONCE",
    "REASONS",
    "SESSION_HEADER",
    "Acks",
    "BodyDamaged",
    "BodyTooLarge",
    "Buffer",
    "ClientConnection",
    "ClientEvent",
    "Event",
    "ExpectContinue",
    "Finder",
    "Headers",
    "Leave",
    "Limits",
    "LocalProtocolError",
    "ProtocolError",
    "Refused",
    "RemoteProtocolError",
    "Request",
    "Response",
    "ServerConnection",
    "ServerEvent",
    "Sync",
    "response_sync",
    "session_name",
]
