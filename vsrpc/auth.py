"""Signed requests: keys, what a signature is over, and the two header fields that carry it all. Both ends use this.

    server  WWW-Authenticate: VSRPC1-HMAC-SHA256 instance=HEX, time=MILLISECONDS[, stale=true]
    client  Authorization: VSRPC1-HMAC-SHA256 key=NAME, instance=HEX, time=MILLISECONDS, nonce=HEX, signature=HEX

Values only: who keeps keys, clocks and nonces is for others (authenticator.py on the server, channel.py on the client).
Nothing here shows a secret: not in a repr, not in an error.
"""

from __future__ import annotations

import os
import re
import time
from typing import NamedTuple

from vsrpc.wire import Buffer, Headers, Request

SCHEME = "VSRPC1-HMAC-SHA256"
AUTHORIZATION = "authorization"
CHALLENGE = "www-authenticate"

SIGNED_FIELDS = (
    "connect-timeout-ms",
    "content-encoding",
    "content-type",
    "idempotency-key",
    "vsrpc-instance",
    "vsrpc-retry-age-ms",
    "x-request-id",
)
"""The header fields that a signature covers, in the order in which it does."""

MIN_SECRET = 16
"""Bytes of the shortest secret: 128 bits, which nobody can try out."""

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
_SECRET = re.compile(r"(?:[0-9A-Fa-f]{2})+\Z")
_AUTHORIZATION = re.compile(
    SCHEME + r" key=([A-Za-z0-9._-]{1,64}), instance=([0-9a-f]{1,64}), time=([0-9]{1,15}), "
    r"nonce=([0-9a-f]{16,64}), signature=([0-9a-f]{64})\Z"
)
_CHALLENGE = re.compile(SCHEME + r" instance=([0-9a-f]{1,64}), time=([0-9]{1,15})(, stale=true)?\Z")

KEY_FORM = "NAME SECRET: a name of letters, digits, '.', '_' and '-', a blank, and at least 32 hexadecimal digits"


class Key:
    """A secret that two ends share, and the name by which a signature says which one it is."""

    __slots__ = ("_secret", "name")

    def __init__(self, name: str, secret: bytes) -> None:
        """Raises ValueError for a name or a secret that is none; it does not show the secret."""
        if not _NAME.match(name):
            raise ValueError("a key's name is 1 to 64 letters, digits, '.', '_' and '-'")
        if len(secret) < MIN_SECRET:
            raise ValueError(f"the secret of key {name} has {len(secret)} bytes: at least {MIN_SECRET} are needed")
        self.name = name
        self._secret = bytes(secret)

    @classmethod
    def parse(cls, text: str) -> Key:
        """The key that is written as "NAME SECRET", the secret in hexadecimal digits. Raises ValueError."""
        name, _, secret = text.strip().partition(" ")
        secret = secret.strip()
        if not _NAME.match(name) or not _SECRET.match(secret):
            raise ValueError(f"not of the form {KEY_FORM}")  # what it is instead may be a secret
        return cls(name, bytes.fromhex(secret))

    def sign(self, text: bytes) -> str:
        """The HMAC-SHA256 of a text, in hexadecimal digits."""
        import hmac  # here: it loads libcrypto, and most clients sign nothing

        return hmac.new(self._secret, text, "sha256").hexdigest()

    def __repr__(self) -> str:
        return f"Key({self.name!r})"


def parse_keys(text: str) -> dict[str, Key]:
    """The keys of a key file by their names, in its order: one a line, as Key.parse reads it; blank lines and those
    that begin with '#' are passed over. Raises ValueError that names the line, and shows nothing of it."""
    keys: dict[str, Key] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            key = Key.parse(line)
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
        if key.name in keys:
            raise ValueError(f"line {number}: a key named {key.name} stands above: give each its own name")
        keys[key.name] = key
    if not keys:
        raise ValueError(f"there is no key in it: write one a line, as {KEY_FORM}")
    return keys


class Credentials(NamedTuple):
    """What an Authorization field says. `time` is in milliseconds, of the server's clock."""

    key: str
    instance: str
    time: int
    nonce: str
    signature: str

    @classmethod
    def parse(cls, value: str) -> Credentials | None:
        """What the field's value says; None for one that is not of the form."""
        match = _AUTHORIZATION.match(value)
        if match is None:
            return None
        key, instance, milliseconds, nonce, signature = match.groups()
        return cls(key, instance, int(milliseconds), nonce, signature)

    def __str__(self) -> str:
        return (
            f"{SCHEME} key={self.key}, instance={self.instance}, time={self.time}, nonce={self.nonce}, "
            f"signature={self.signature}"
        )


class Challenge(NamedTuple):
    """What a WWW-Authenticate field says: what to sign for. `time` is the server's clock, in milliseconds, at `heard`
    of our own monotonic clock, in seconds; `stale`: what was sent was not for this instance or time: sign it anew."""

    instance: str
    time: int
    stale: bool = False
    heard: float = 0.0

    @classmethod
    def parse(cls, value: str) -> Challenge | None:
        """What the field's value says, heard now; None for another scheme's."""
        match = _CHALLENGE.match(value)
        if match is None:
            return None
        instance, milliseconds, stale = match.groups()
        return cls(instance, int(milliseconds), stale is not None, time.monotonic())

    def now(self) -> int:
        """The server's clock now, in milliseconds."""
        return self.time + int((time.monotonic() - self.heard) * 1000)

    def __str__(self) -> str:
        return f"{SCHEME} instance={self.instance}, time={self.time}" + (", stale=true" if self.stale else "")


def signed_text(request: Request, credentials: Credentials) -> bytes:
    """What the signature of a request is over (PROTOCOL.md, Authentication): lines, in which no line feed can be."""
    fields = [f"{name}: {value}" for name in SIGNED_FIELDS for value in request.headers.get_all(name)]
    lines = [
        SCHEME,
        credentials.key,
        credentials.instance,
        str(credentials.time),
        credentials.nonce,
        request.method,
        request.target,
        *fields,
        body_digest(request.body, request.tail),
        "",
    ]
    return "\n".join(lines).encode("latin-1")


def body_digest(body: Buffer, tail: Buffer = b"") -> str:
    """The SHA-256 of a body, in hexadecimal digits."""
    import hashlib  # here: it loads libcrypto

    digest = hashlib.sha256(body)
    digest.update(tail)
    return digest.hexdigest()


def sign(request: Request, key: Key, challenge: Challenge) -> Request:
    """The request with a signature of its own: each has another nonce, so that none is taken for a repeated one."""
    unsigned = Credentials(key.name, challenge.instance, challenge.now(), os.urandom(16).hex(), "")
    signed = unsigned._replace(signature=key.sign(signed_text(request, unsigned)))
    return request._replace(headers=Headers.parsed([*request.headers, (AUTHORIZATION, str(signed))]))
