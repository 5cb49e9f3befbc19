"""What a job wrote to one of its outputs: the beginning is kept, all of it is counted."""

from __future__ import annotations

import os

_PIECE = 64 * 1024  # bytes: what a pipe holds by default (pipe(7))


class Capture:
    """One end of a pipe that is read without waiting; at most `cap` bytes are kept."""

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._kept = bytearray()
        self.size = 0
        """Bytes written, kept or not."""
        self.ended = False
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)
        self._writer_open = True

    @property
    def content(self) -> bytes:
        """The bytes that were kept."""
        return bytes(self._kept)

    @property
    def truncated(self) -> bool:
        """Whether more was written than kept."""
        return self.size > len(self._kept)

    @property
    def pause(self) -> float:
        """None: what is not kept is counted."""
        return 0.0

    def read(self, limit: int = _PIECE) -> None:
        """Take what is in the pipe, at most about `limit` bytes; sets `ended` when no writer is left."""
        taken = 0
        while taken < limit and not self.ended:
            try:
                piece = os.read(self.reader, _PIECE)
            except BlockingIOError:
                return
            if not piece:
                self.ended = True
            taken += len(piece)
            self.add(piece)

    def add(self, piece: bytes) -> None:
        """Count these bytes, and keep what fits."""
        self.size += len(piece)
        room = self._cap - len(self._kept)
        if room > 0:
            self._kept += piece[:room]

    def close_writer(self) -> None:
        """Close our own copy of the writing end, so that the pipe can end."""
        if self._writer_open:
            self._writer_open = False
            os.close(self.writer)

    def close(self) -> None:
        """Close both ends."""
        self.close_writer()
        os.close(self.reader)
