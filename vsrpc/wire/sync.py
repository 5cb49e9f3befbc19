"""The return to a known boundary on a stream that has none: what marks it, how to find it, how bodies stay clear of it.

    client → server   MAGIC, then a nonce of 16 bytes as 32 hex digits
    server → client   MARK, then the nonce as 32 hex digits, then CRLF CRLF

Both say: all before is void, a fresh message follows. The nonce is the client's, and comes back to it; a server that
says it unasked sends a nonce of zeros. MAGIC begins with a control character, which no head can carry. MARK is the
beginning of an interim response, so that a plain HTTP client, to which it means nothing, passes over it.

Neither has a border (a proper prefix that is also a suffix): a body that was cut inside one of them, and is followed
by a whole one, has it just where it is. Between peers that synchronised, a body that contains the marker of its
direction is sent XOR-ed with a key that makes it disappear, and carries a checksum: a body that was cut and filled up
with foreign bytes must not pass for whole.
"""

from __future__ import annotations

import os
import zlib
from typing import Sequence

from .errors import BodyDamaged, RemoteProtocolError, shown
from .headers import Headers
from .messages import Buffer

# 0x16 is SYN, "synchronous idle". All sixteen are equal modulo 64: CPython's bytes.find() keeps a table of 64 classes
# of bytes, and skips the whole length of a needle of one class almost everywhere.
MAGIC = bytes.fromhex("165696d6d69656d69696d65656d6d696")
MARK = b"HTTP/1.1 100 Continue\r\nvsrpc-sync: "
NONCE_SIZE = 16
NO_NONCE = bytes(NONCE_SIZE)

# Between two messages: the client has read another half of the window that it granted. ACK of ASCII; no HTTP message
# can begin with it.
ACK = b"\x06"

# Between two messages: the client has read all that it asked for, and leaves. EOT of ASCII.
LEAVE = b"\x04"

# The field at the end of MARK: no head may have it.
SYNC_HEADER = "vsrpc-sync"

# On each request after a sync: in which session it was sent. A request without is another client's.
SESSION_HEADER = "vsrpc-session"

MASK_HEADER = "vsrpc-mask"
CHECKSUM_HEADER = "vsrpc-crc32"

_HEX = b"0123456789abcdef"
_DIGITS = 2 * NONCE_SIZE
_MARK_END = b"\r\n\r\n"
_MARK_TAIL = _DIGITS + len(_MARK_END)


def session_name(nonce: bytes) -> str:
    """How requests name the session that began with this nonce."""
    return nonce[:8].hex()


def request_sync(nonce: bytes) -> bytes:
    """What a client sends before its hello."""
    return MAGIC + nonce.hex().encode()


def response_sync(nonce: bytes = NO_NONCE) -> bytes:
    """What a server sends before its answer to a hello; without a nonce, that it knows of no session."""
    return MARK + nonce.hex().encode() + _MARK_END


def take_magic_nonce(data: bytearray) -> bytes | None:
    """Remove the nonce that follows MAGIC; None until it is all there.

    Raises RemoteProtocolError as soon as it can be none: its client was cut off, and another one's may have begun.
    """
    digits = bytes(data[:_DIGITS])
    wrong = digits.lstrip(_HEX)
    if wrong:
        bad = digits[: len(digits) - len(wrong) + 1]
        raise RemoteProtocolError(f"what follows the magic of a sync is no nonce: {shown(bad)}")
    if len(digits) < _DIGITS:
        return None
    del data[:_DIGITS]
    return bytes.fromhex(digits.decode())


def take_mark_nonce(data: bytearray) -> bytes | None:
    """Remove the nonce that follows MARK; None until it is all there. Raises RemoteProtocolError."""
    if len(data) < _MARK_TAIL:
        return None
    text = bytes(data[:_MARK_TAIL])
    digits = text[:_DIGITS]
    if text[_DIGITS:] != _MARK_END or digits.strip(_HEX):
        raise RemoteProtocolError(f"what follows the mark of a sync is no nonce: {shown(text)}")
    del data[:_MARK_TAIL]
    return bytes.fromhex(digits.decode())


class Finder:
    """Finds a marker in a stream that comes in pieces."""

    def __init__(self, marker: bytes) -> None:
        self._marker = marker
        self._tail = b""  # the end of what came, as much as could be the beginning of a marker

    def forget(self) -> None:
        """Begin anew: what came since the last piece belongs to no marker."""
        self._tail = b""

    def find(self, source: bytes | bytearray, start: int, end: int) -> int | None:
        """Look into the stream's next piece, source[start:end]; where in `source` the byte after the marker is.

        After a find it begins anew, with what the caller gives it then.
        """
        size = len(self._marker)
        edge = self._tail + source[start : min(end, start + size - 1)]
        in_edge = edge.find(self._marker)
        # It may have begun in an earlier piece, before the beginning of this source.
        found = in_edge + start - len(self._tail) if in_edge >= 0 else source.find(self._marker, start, end)
        if in_edge >= 0 or found >= 0:
            self._tail = b""
            return found + size
        if end - start >= size - 1:
            self._tail = bytes(source[end - size + 1 : end])
        else:
            self._tail = bytes(edge[-(size - 1) :])
        return None


def seal(parts: Sequence[Buffer], marker: bytes) -> tuple[list[Buffer], list[tuple[str, str]]]:
    """The parts of a body as they travel where `marker` means a sync, and the header fields that say how."""
    sealed = [part for part in parts if memoryview(part).nbytes]
    if not sealed:
        return [], []
    fields: list[tuple[str, str]] = []
    if _contain(sealed, marker):
        # The key is random: whoever writes the body could not have put the masked marker there.
        original = b"".join(sealed)
        masked: bytes | bytearray = original
        while marker in masked:
            key = os.urandom(4)
            masked = _xor(original, key)
        sealed = [masked]
        fields.append((MASK_HEADER, key.hex()))
    checksum = 0
    for part in sealed:
        checksum = zlib.crc32(part, checksum)
    fields.append((CHECKSUM_HEADER, f"{checksum:08x}"))
    return sealed, fields


def _contain(parts: Sequence[Buffer], marker: bytes) -> bool:
    reach = len(marker) - 1
    tail = b""  # the end of what came before, as much as could be the beginning of a marker
    for part in parts:
        edge = tail + bytes(part[:reach])
        if marker in edge or _contains(part, marker):
            return True
        tail = (edge if len(part) < reach else bytes(part[-reach:]))[-reach:]
    return False


def _contains(part: Buffer, marker: bytes) -> bool:
    if not isinstance(part, memoryview):
        return marker in part
    # A view cannot be searched, and to copy it costs more than to search what it is of.
    whole = part.obj
    if isinstance(whole, (bytes, bytearray)) and len(whole) <= 2 * len(part) and marker not in whole:
        return False
    return marker in bytes(part)


def unseal(headers: Headers, body: Buffer) -> Buffer:
    """The body as it was before seal(). Raises RemoteProtocolError where it is another one, or was not sealed."""
    if not len(body):
        return body
    checksum, actual = headers.get(CHECKSUM_HEADER), f"{zlib.crc32(body):08x}"
    if checksum is None:
        raise RemoteProtocolError(f"a body of {len(body)} bytes came without {CHECKSUM_HEADER}")
    if checksum != actual:
        raise BodyDamaged(f"the body was damaged on the way: its CRC-32 is {actual}, its head says {shown(checksum)}")
    mask = headers.get(MASK_HEADER)
    if mask is None:
        return body
    if len(mask) != 8 or mask.strip("0123456789abcdef"):
        raise RemoteProtocolError(f"{MASK_HEADER} {shown(mask)} is not 8 hexadecimal digits")
    return _xor(body, bytes.fromhex(mask))


def _xor(body: Buffer, key: bytes) -> bytearray:
    size = memoryview(body).nbytes
    pad = (key * (size // len(key) + 1))[:size]
    return bytearray((int.from_bytes(body, "little") ^ int.from_bytes(pad, "little")).to_bytes(size, "little"))
