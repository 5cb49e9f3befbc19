"""What can go wrong on the wire, and whose fault it is.

    ProtocolError
    ├── LocalProtocolError    we broke the rules: a bug in the caller of this package; nothing was sent
    └── RemoteProtocolError   the peer broke the rules (RFC 9112 or our stricter reading of it); its
                              ``status`` is what a server should answer before it stops
        ├── BodyRefused       the framing is sound, and only the body is not taken: a server refuses the
        │   │                 one request and goes on; for a client it is an error like the rest
        │   ├── BodyTooLarge  it is over the limit
        │   └── NoRoom        there is no memory for it just now
        └── BodyDamaged       the body is not the one that was sent: the stream was cut, and somebody
                              else's bytes followed

A connection that raised RemoteProtocolError never parses on: where the next message begins is no
longer known. Messages quote the offending value, shortened, and never more of the input than the byte
that proved the error, so that they do not depend on how the input was cut into reads.
"""

from __future__ import annotations

_SHOWN = 60


class ProtocolError(Exception):
    """Base of both; see the module's docstring for the tree."""


class LocalProtocolError(ProtocolError):
    """The caller asked for something that may not be sent, or used the connection wrongly."""


class RemoteProtocolError(ProtocolError):
    """The peer sent what may not be accepted. ``status``: the HTTP status that says so (server role)."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class BodyRefused(RemoteProtocolError):
    """A well framed body that is not taken."""


class BodyTooLarge(BodyRefused):
    """A body over ``Limits.max_body``; always status 413."""

    def __init__(self, message: str) -> None:
        super().__init__(message, 413)


class NoRoom(BodyRefused):
    """A body for which the owner has no room just now; always status 429."""

    def __init__(self, size: int) -> None:
        super().__init__(f"no room for {size} more bytes of requests", 429)


class BodyDamaged(RemoteProtocolError):
    """A body whose checksum is wrong."""


def shown(value: str | bytes | bytearray) -> str:
    """The repr of a value for an error message: text form, escaped, at most some 60 characters."""
    text = value if isinstance(value, str) else value[: _SHOWN + 1].decode("latin-1")
    return repr(text) if len(text) <= _SHOWN else repr(text[:_SHOWN]) + "..."
