"""What may be said of a copy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Callable, NamedTuple

from host.copy.entry import Preserve
from host.transfer_options import DEFAULT_CHUNK_SIZE, MD5

RESUME_FROM = 16 * 1024 * 1024
"""Bytes of a file from which on an interrupted transfer leaves something to go on with: below, sending it again takes
no longer than the trouble."""


class Done(NamedTuple):
    """How far a copy is; `name` is what it is at."""

    files: int
    files_total: int
    bytes: int
    bytes_total: int
    name: str


@dataclass(frozen=True)
class Options:
    """See `vsrpc-host cp --help`."""

    preserve: Preserve = field(default_factory=Preserve)
    overwrite: bool = True
    checksum: str = MD5
    chunk_size: int = DEFAULT_CHUNK_SIZE
    resume: bool = True

    def resumable(self, size: int) -> bool:
        """Whether a file of that size is worth going on with."""
        return self.resume and size >= RESUME_FROM


class Meter:
    """Counts what is done, and tells a listener."""

    def __init__(self, listener: Callable[[Done], None] | None) -> None:
        self._listener = listener
        self._files = self._files_total = self._bytes = self._bytes_total = 0
        self._name = ""

    def expect(self, files: int, size: int) -> None:
        """So much more is to be done."""
        self._files_total += files
        self._bytes_total += size
        self._tell()

    def at(self, name: str) -> None:
        """This is being copied now."""
        self._name = name

    def add(self, files: int, size: int) -> None:
        """So much more is done, or need not be."""
        self._files += files
        self._bytes += size
        self._tell()

    def _tell(self) -> None:
        if self._listener is not None:
            self._listener(Done(self._files, self._files_total, self._bytes, self._bytes_total, self._name))
