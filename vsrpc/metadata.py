"""Metadata: pairs beside the message, as gRPC has them.

Keys are lower-case HTTP header names. Values are `str`, or `bytes` for keys that end in "-bin" (base64 on
the wire, as in gRPC and Connect).
"""

from __future__ import annotations

import base64
import binascii
import functools
import re
from typing import Iterable, Tuple, Union

Metadata = Tuple[Tuple[str, Union[str, bytes]], ...]
"""Ordered pairs of key and value; a key may come more than once."""

_KEY = re.compile(r"[0-9a-z_.-]+\Z")

# Printable ASCII (gRPC's ASCII-Value). What begins or ends with a blank would lose it in HTTP.
_VALUE = re.compile(r"(?:[!-~](?:[ -~]*[!-~])?)?\Z")

# Headers that carry the protocol itself: metadata must not forge them.
_RESERVED = frozenset(
    (
        "accept-encoding",
        "authorization",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "host",
        "idempotency-key",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "x-request-id",
    )
)

_RESERVED_PREFIXES = ("connect-", "trailer-", "vsrpc-")


@functools.lru_cache(maxsize=256)
def _reserved(name: str) -> bool:
    return name in _RESERVED or name.startswith(_RESERVED_PREFIXES)


def to_headers(metadata: Iterable[tuple[str, str | bytes]], prefix: str = "") -> list[tuple[str, str]]:
    """Header pairs for metadata, each name with `prefix` before it.

    Raises ValueError for a key or value that cannot travel; TypeError for a value of the wrong type.
    """
    headers: list[tuple[str, str]] = []
    for key, value in metadata:
        if not _KEY.match(key):
            raise ValueError(f"metadata key {key!r}: only a-z, 0-9, '_', '-' and '.' are allowed")
        if _reserved(key):
            raise ValueError(f"metadata key {key!r} is reserved for the protocol")
        if key.endswith("-bin"):
            if not isinstance(value, (bytes, bytearray)):
                raise TypeError(f"metadata {key!r} takes bytes, not {type(value).__name__}")
            text = base64.b64encode(value).decode("ascii").rstrip("=")
        else:
            if not isinstance(value, str):
                raise TypeError(f"metadata {key!r} takes str, not {type(value).__name__}")
            if not _VALUE.match(value):
                raise ValueError(f"metadata {key!r}: {value!r} is not printable ASCII without outer blanks")
            text = value
        headers.append((prefix + key, text))
    return headers


def from_headers(headers: Iterable[tuple[str, str]]) -> Metadata:
    """Metadata of header pairs (names in lower case); the protocol's own headers are left out.

    A "-bin" value that is not base64 is left out too: it is no metadata.
    """
    pairs: list[tuple[str, str | bytes]] = []
    for name, value in headers:
        if _reserved(name):
            continue
        if not name.endswith("-bin"):
            pairs.append((name, value))
            continue
        # gRPC lets a sender join several values of one key with commas.
        for part in value.split(","):
            try:
                pairs.append((name, decode_base64(part.strip())))
            except ValueError:
                continue
    return tuple(pairs)


def decode_base64(text: str) -> bytes:
    """Bytes of base64 text with or without padding, in the standard or the URL alphabet; ValueError otherwise."""
    text = text.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None
