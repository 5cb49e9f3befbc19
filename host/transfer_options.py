"""What may be said of a transfer: chunk sizes, checksums, progress. Small, since every command loads it."""

from __future__ import annotations

from typing import Callable

from host.errors import UsageError

SMALL_FILE = 2 * 1024 * 1024
"""Bytes up to which a file goes in one call."""

NEVER_SMALL = -1
"""As `small_file`: every file goes in chunks, also an empty one."""

DEFAULT_CHUNK_SIZE = 2 * 1024 * 1024
MAX_CHUNK_SIZE = 5 * 1024 * 1024  # what the guest reads at most; in base64 it still fits a 10 MiB request

MD5 = "md5"
CRC32 = "crc32"
SHA256 = "sha256"
CHECKSUMS = (MD5, SHA256, CRC32)
"""How content is checked from end to end: by a digest, or only by the CRC-32 that each message has on the way."""

Progress = Callable[[int, int], None]
"""Told (bytes done, bytes in all): once before the first chunk, then after each."""


def check_chunk_size(size: int) -> int:
    """The size if chunks may have it; raises UsageError otherwise."""
    if not 0 < size <= MAX_CHUNK_SIZE:
        raise UsageError(f"chunk size {size} is out of range: use 1 to {MAX_CHUNK_SIZE} bytes (5MiB)")
    return size


def check_checksum(name: str) -> None:
    """Raises UsageError for a checksum that there is none of."""
    if name not in CHECKSUMS:
        raise UsageError(f"checksum {name!r} is unknown: use {' or '.join(CHECKSUMS)}")
